"""What the batch examples share: a small tagger, ragged rows in Parquet files, and a check of what comes out.

    python examples/batch_data.py FOLDER

writes FOLDER/tagger.safetensors and FOLDER/texts/*.parquet. The other examples do so by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU

WORDS, FILES, ROWS = 100, 4, 250


def prepare(folder: Path) -> None:
    """The model and its data."""
    spec = Spec(
        [Input("tokens", "int64", ("B", "T"))],
        [
            Node("embed", "Embedding", "tokens", {"input_size": WORDS, "output_size": 16}),
            Recurrent("gru", GRU(16, 32), "embed", direction="bidirectional"),
            Node("tags", "Linear", "gru", {"input_size": 64, "output_size": 5}),
        ],
        ["tags"],
    )
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) * 0.3 for name, shape in spec.weight_shapes().items()}
    rnncore.save(folder / "tagger.safetensors", rnncore.Model(spec, weights))
    (folder / "texts").mkdir()
    for number in range(FILES):
        rows = [random.integers(0, WORDS, random.integers(1, 30)).tolist() for _ in range(ROWS)]
        names = [f"{number}-{row}" for row in range(ROWS)]
        pq.write_table(
            pa.table({"id": names, "tokens": pa.array(rows, pa.list_(pa.int64()))}), folder / f"texts/{number}.parquet"
        )


def check(folder: Path, results: Iterable[Mapping], same: Callable[..., bool] = np.array_equal) -> None:
    """Every row is there once, with the bits that the model gives it alone. results: "id" and "tags" of each.

    same: how two arrays are compared. (With RNNCORE_ISA=blas, bits depend on the batch.)
    """
    model = rnncore.load(folder / "tagger.safetensors")
    found = {}
    for row in results:
        assert row["id"] not in found, f"{row['id']} is there twice"
        found[row["id"]] = np.array([np.asarray(step) for step in row["tags"]], np.float32)
    given = pq.read_table(folder / "texts").to_pylist()
    assert set(found) == {row["id"] for row in given}
    for row in given:
        assert same(found[row["id"]], model(np.array([row["tokens"]]))[0]), row["id"]
    print(f"{len(found):,} rows, each with the model's own bits")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    prepare(place)
