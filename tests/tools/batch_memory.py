"""Run a large ragged file, report the most memory that the process held: python tests/tools/batch_memory.py --mb 2000

The file is made first, in Parquet with large row groups, Arrow, JSON lines, CSV, or one .npz or .npy (which is not
ragged: every row has 400 steps); the run is a process of its own.
Fails above --limit MiB beyond what the process holds with the model loaded and one row run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU

WIDTH = 40
ROW_GROUP = 20_000
ARROW_BATCH = 1_000
STEPS = 400
TEXT = {"jsonl": 21, "csv": 10}  # bytes of a number
RUN = """
import sys
from rnncore.cli.application import application
try:
    application.main(sys.argv[1:], prog_name="rnncore")
finally:
    with open("/proc/self/status") as file:  # what getrusage says begins with the parent's
        print(next(line.split()[1] for line in file if line.startswith("VmHWM")), file=sys.stderr)
"""


def model(path: Path) -> None:
    spec = Spec(
        [Input("mels", "float", ("B", "T", WIDTH))],
        [Recurrent("gru", GRU(WIDTH, 64), "mels"), Node("fc", "Linear", "gru", {"input_size": 64, "output_size": 8})],
        ["fc"],
    )
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    rnncore.save(path, rnncore.Model(spec, weights))


def data(path: Path, kind: str, megabytes: float) -> int:
    """Rows of 1 to 400 steps, as many as make a file of about this size; how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(1)
    mean = STEPS if kind == "npy" else (STEPS + 1) / 2
    rows = max(1, int(megabytes * 1e6 / (mean * WIDTH * TEXT.get(kind, 4))))
    lengths = random.integers(1, STEPS + 1, rows)
    if kind == "npz":
        np.savez(path, mels=random.random((int(lengths.sum()), WIDTH), np.float32), lengths=lengths)
        return rows
    if kind == "jsonl":
        with open(path, "w") as file:
            for count in lengths:
                file.write(f'{{"mels":{random.random((count, WIDTH)).tolist()}}}\n'.replace(" ", ""))
        return rows
    if kind == "csv":
        with open(path, "w") as file:
            file.write(",".join(["s", *map(str, range(WIDTH))]) + "\n")
            for row, count in enumerate(lengths):
                numbers = random.integers(0, 10**7, (count, WIDTH))
                file.writelines(f"s{row}," + ",".join(f".{n:07}" for n in step) + "\n" for step in numbers.tolist())
        return rows
    if kind == "npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, STEPS, WIDTH)}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(rows):
                file.write(random.random((STEPS, WIDTH), np.float32).tobytes())
        return rows
    kind_ = pa.list_(pa.list_(pa.float32()))
    schema, is_arrow = pa.schema([("mels", kind_)]), kind == "arrow"
    options = {"compression": "none", "use_dictionary": False}
    with pa.ipc.new_file(path, schema) if is_arrow else pq.ParquetWriter(path, schema, **options) as file:
        for first in range(0, rows, ROW_GROUP):
            some = lengths[first : first + ROW_GROUP]
            flat = pa.array(random.random(int(some.sum()) * WIDTH, np.float32))
            steps = pa.ListArray.from_arrays(pa.array(np.arange(some.sum() + 1) * WIDTH, pa.int32()), flat)
            offsets = pa.array(np.concatenate([[0], np.cumsum(some)]), pa.int32())
            table = pa.table([pa.ListArray.from_arrays(offsets, steps)], ["mels"])
            file.write_table(table, ARROW_BATCH if is_arrow else ROW_GROUP)
    return rows


def peak(folder: Path, source: Path, target: str) -> float:
    """The most MiB that a run held."""
    words = ["run", folder / "m.safetensors", "-i", source, "-o", folder / target]
    words += ["--sequence-column", "s"] if source.suffix == ".csv" else []
    found = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], capture_output=True, text=True, env=os.environ, check=False
    )
    if found.returncode:
        sys.exit(found.stderr)
    return int(found.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=float, default=300)
    parser.add_argument("--kind", choices=["parquet", "arrow", "jsonl", "csv", "npz", "npy"], default="parquet")
    parser.add_argument("--to", choices=["folder", "y.parquet", "y.npz", "y.jsonl"], default="folder")
    parser.add_argument("--limit", type=float, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder / "m.safetensors")
        data(folder / f"one.{asked.kind}", asked.kind, 0.001)
        source = folder / f"in.{asked.kind}"
        rows = data(source, asked.kind, asked.mb)
        least = peak(folder, folder / f"one.{asked.kind}", f"one.{asked.to}" if asked.to != "folder" else "one")
        most = peak(folder, source, asked.to)
        size = source.stat().st_size / 1e6
    print(
        f"{asked.kind} {size:.0f} MB, {rows:,} rows: {most:.0f} MiB resident, {most - least:.0f} beyond one row's run"
    )
    sys.exit(most - least > asked.limit)


if __name__ == "__main__":
    main()
