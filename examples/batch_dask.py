"""A model over Parquet files on Dask, partition by partition.

pip install "rnncore[dask]"
python examples/batch_dask.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
from batch_data import check, prepare

from rnncore.batch import BatchPredictor


def predict(rows: pd.DataFrame, predictor: BatchPredictor) -> pd.DataFrame:
    found = predictor({"id": rows["id"].to_numpy(object), "tokens": rows["tokens"].to_numpy()})
    return pd.DataFrame({"id": found["id"], "tags": list(found["tags"])}, rows.index)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        texts = dd.read_parquet(folder / "texts")
        meta = {"id": object, "tags": object}
        predictor = BatchPredictor(folder / "tagger.safetensors")  # pickled as a path; each process loads it once
        tags = texts.map_partitions(predict, predictor, meta=meta).compute(scheduler="processes", num_workers=2)
        check(folder, tags.to_dict("records"))


if __name__ == "__main__":
    main()
