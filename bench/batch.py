"""rnncore run over a ragged Parquet file, beside the bare engine and beside scripts over other engines.

    python bench/batch.py [--rows 20000] [--rounds 5] [--engines run engine torch onnxruntime]

    run          rnncore run, file to file: reading, sorting by length, running, writing and flushing to disk
    engine       Model.predict on the same rows, already in memory: what there is to lose
    torch        a DataLoader that pads, pack_padded_sequence, rows sorted by length; file to file
    onnxruntime  a loop over padded batches with sequence_lens, rows sorted by length; file to file

All in one process, measured in turn, with the threads that each takes by itself; the median of the rounds, and how
many cores were busy. The two scripts read the whole file with pyarrow, sort it at once and save one array at the end,
so they need memory for all of it, and nothing of theirs survives a crash. Their results are checked against rnncore's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rnncore
from rnncore import Input, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.cli.application import application

INPUT, HIDDEN, BATCH, LONGEST = 40, 128, 64, 200
TOLERANCE = 1e-4


def prepare(folder: Path, rows: int) -> tuple[rnncore.Model, list[np.ndarray]]:
    spec = Spec([Input("x", "float", ("B", "T", INPUT))], [Recurrent("lstm", LSTM(INPUT, HIDDEN), "x")], ["lstm.last"])
    random = np.random.default_rng(0)
    scale = HIDDEN**-0.5
    weights = {name: random.uniform(-scale, scale, shape) for name, shape in spec.weight_shapes().items()}
    model = rnncore.Model(spec, weights)
    rnncore.save(folder / "m.safetensors", model)
    data = [random.standard_normal((steps, INPUT), np.float32) for steps in random.integers(1, LONGEST + 1, rows)]
    flat = pa.array(np.concatenate(data).reshape(-1))
    steps = pa.ListArray.from_arrays(pa.array(np.arange(sum(map(len, data)) + 1) * INPUT, pa.int32()), flat)
    offsets = pa.array(np.cumsum([0, *map(len, data)]), pa.int32())
    pq.write_table(
        pa.table([pa.ListArray.from_arrays(offsets, steps)], ["x"]), folder / "in.parquet", row_group_size=4096
    )
    return model, data


def read(folder: Path) -> list[np.ndarray]:
    """The rows of the file as a script has them: views of the one array that Arrow holds them in."""
    column = pq.read_table(folder / "in.parquet")["x"].combine_chunks()
    steps = column.flatten()
    numbers = steps.flatten().to_numpy().reshape(-1, INPUT)
    return np.split(numbers, column.offsets.to_numpy()[1:-1])


def save(folder: Path, found: np.ndarray) -> np.ndarray:
    np.save(folder / "y.npy", found)
    return found


def batches(data: list[np.ndarray]) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """(rows, padded (B, T, I), lengths) by falling length."""
    order = sorted(range(len(data)), key=lambda i: -len(data[i]))
    found = []
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        lengths = np.array([len(data[i]) for i in rows])
        padded = np.zeros((len(rows), lengths[0], INPUT), np.float32)
        for place, i in enumerate(rows):
            padded[place, : lengths[place]] = data[i]
        found.append((rows, padded, lengths))
    return found


def with_run(folder: Path, model: rnncore.Model, data: list[np.ndarray]) -> Callable[[], np.ndarray]:
    words = ["run", "m.safetensors", "-i", "in.parquet", "-o", "y.npy", "--overwrite", "--batch-size", str(BATCH)]
    paths = [str(folder / word) if "." in word else word for word in words]

    def work() -> np.ndarray:
        application.main(paths, prog_name="rnncore", standalone_mode=False)
        return np.load(folder / "y.npy")

    return work


def with_engine(folder: Path, model: rnncore.Model, data: list[np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: np.stack(model.predict(data, batch_size=BATCH))


def with_torch(folder: Path, model: rnncore.Model, data: list[np.ndarray]) -> Callable[[], np.ndarray]:
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
    from torch.utils.data import DataLoader

    lstm = torch.nn.LSTM(INPUT, HIDDEN, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor(model.weights["lstm.weight_ih_l0"]))
        lstm.weight_hh_l0.copy_(torch.tensor(model.weights["lstm.weight_hh_l0"]))
        lstm.bias_ih_l0.copy_(torch.tensor(model.weights["lstm.bias_l0"]))
        lstm.bias_hh_l0.zero_()

    @torch.inference_mode()
    def work() -> np.ndarray:
        data = [torch.from_numpy(row) for row in read(folder)]
        order = sorted(range(len(data)), key=lambda i: -len(data[i]))

        def collate(rows: list[int]):
            some = [data[i] for i in rows]
            return rows, pad_sequence(some, batch_first=True), torch.tensor([len(row) for row in some])

        found = np.empty((len(data), HIDDEN), np.float32)
        for rows, padded, lengths in DataLoader(order, BATCH, collate_fn=collate):
            _, (h, _) = lstm(pack_padded_sequence(padded, lengths, batch_first=True))
            found[rows] = h[0].numpy()
        return save(folder, found)

    return work


def with_onnxruntime(folder: Path, model: rnncore.Model, data: list[np.ndarray]) -> Callable[[], np.ndarray]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def iofc(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(np.asarray(array, np.float32), 4)
        return np.concatenate([i, o, f, g])

    arrays = {
        "w": iofc(model.weights["lstm.weight_ih_l0"])[None],
        "r": iofc(model.weights["lstm.weight_hh_l0"])[None],
        "b": np.concatenate([iofc(model.weights["lstm.bias_l0"]), np.zeros(4 * HIDDEN, np.float32)])[None],
    }
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r", "b", "n"], ["", "h"], hidden_size=HIDDEN)],
        "lstm",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", INPUT]),
            helper.make_tensor_value_info("n", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, "B", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def work() -> np.ndarray:
        data = read(folder)
        found = np.empty((len(data), HIDDEN), np.float32)
        for rows, padded, lengths in batches(data):
            feed = {"x": np.ascontiguousarray(padded.swapaxes(0, 1)), "n": lengths.astype(np.int32)}
            found[rows] = session.run(["h"], feed)[0][0]
        return save(folder, found)

    return work


ENGINES = {"run": with_run, "engine": with_engine, "torch": with_torch, "onnxruntime": with_onnxruntime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = prepare(folder, asked.rows)
        works = {engine: ENGINES[engine](folder, model, data) for engine in asked.engines}
        expected = with_engine(folder, model, data)()
        for engine, work in works.items():
            error = float(np.abs(work() - expected).max())
            if error > TOLERANCE:
                raise SystemExit(f"{engine}: differs by {error:.1e}")
        seconds: dict[str, list[float]] = {engine: [] for engine in works}
        busy: dict[str, list[float]] = {engine: [] for engine in works}
        for _ in range(asked.rounds):
            for engine, work in works.items():
                begin, before = time.perf_counter(), time.process_time()
                work()
                seconds[engine].append(time.perf_counter() - begin)
                busy[engine].append(time.process_time() - before)
    steps = sum(map(len, data))
    for engine, found in seconds.items():
        middle, cpu = statistics.median(found), statistics.median(busy[engine])
        print(
            f"{engine:12} {middle:8.2f} s  {asked.rows / middle:10,.0f} rows/s  {steps / middle:12,.0f} steps/s  "
            f"{cpu:8.2f} s of CPU, {cpu / middle:.2f} cores"
        )


if __name__ == "__main__":
    main()
