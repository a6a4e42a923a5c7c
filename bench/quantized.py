"""Networks of 8-bit integers against onnxruntime, one thread each, on the same inputs in one process.

    DynamicQuantizeLSTM   64 to 512 units and the same number of inputs, batch 1 and 8, 1 and 50 steps
    MatMulInteger         a row, 8 rows and 128 rows with a square matrix, and with a wide one

Once with int8 weights of 7 bits, where no kernel of onnxruntime saturates, so that outputs can be compared: integers
must be the same, and floats agree to 0.02 (the hidden state is quantized again at each step). And once with 8 bits,
where onnxruntime's sums are wrong on CPUs without VNNI, and ours are not. Samples are taken in turn, after warm-up
calls. The ratio is the median of onnxruntime's time over ours, sample by sample: above 1, rnncore is faster.

Times are the CPU time of the calling thread: on a shared machine, what it waits for a core is no part of them.

    python bench/quantized.py [--samples 60] [--only TEXT] [--write]      # --write: bench/results/quantized.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import models  # noqa: E402  (sets one thread before NumPy is imported)
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import rnncore  # noqa: E402

LARGEST_ERROR = 0.02
SAMPLE_SECONDS = 0.004
MICROSOFT = "com.microsoft"


def weights(rng: np.random.Generator, bits: int, *shape: int) -> np.ndarray:
    return rng.integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)


def calls(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], given: dict[str, np.ndarray], outputs: dict[str, int]
) -> tuple[models.Call, models.Call]:
    """Calls of one node, its weights constant; ``outputs``: their types."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    graph = helper.make_graph(
        [node],
        "g",
        inputs,
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        model, other = rnncore.load(path), models.session(path)
    return lambda: [model.run(given)[name] for name in outputs], lambda: other.run(list(outputs), given)


def lstm(bits: int, units: int, batch: int, steps: int) -> tuple[models.Call, models.Call]:
    rng = np.random.default_rng(units)
    scale = np.full((1, 4 * units), 0.02 / np.sqrt(units), np.float32)
    zero = np.zeros((1, 4 * units), np.int8)
    constants = {
        "w": weights(rng, bits, 1, units, 4 * units),
        "r": weights(rng, bits, 1, units, 4 * units),
        "b": rng.standard_normal((1, 8 * units)).astype(np.float32) / 8,
        "scale": scale,
        "zero": zero,
    }
    names = ["x", "w", "r", "b", "", "", "", "", "scale", "zero", "scale", "zero"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain=MICROSOFT, hidden_size=units)
    x = rng.standard_normal((steps, batch, units)).astype(np.float32)
    return calls(node, constants, {"x": x}, {"y": TensorProto.FLOAT})


def product(bits: int, rows: int, depth: int, columns: int) -> tuple[models.Call, models.Call]:
    """Activations are spread about their zero point, as those of networks are."""
    rng = np.random.default_rng(depth)
    a = np.clip(117 + 36 * rng.standard_normal((rows, depth)), 0, 255).astype(np.uint8)
    node = helper.make_node("MatMulInteger", ["a", "b", "zero"], ["y"])
    constants = {"b": weights(rng, bits, depth, columns), "zero": np.array(117, np.uint8)}
    return calls(node, constants, {"a": a}, {"y": TensorProto.INT32})


LSTMS = [(units, batch, steps) for units in (64, 128, 256, 512) for batch in (1, 8) for steps in (1, 50)]
PRODUCTS = [(rows, *shape) for shape in ((256, 256), (512, 512), (512, 4096)) for rows in (1, 8, 128)]


def workloads(bits: int) -> dict[str, Callable[[], tuple[models.Call, models.Call]]]:
    lstms = {f"LSTM {size[0]}, batch {size[1]}, {size[2]} steps": partial(lstm, bits, *size) for size in LSTMS}
    products = {f"MatMulInteger {' x '.join(map(str, size))}": partial(product, bits, *size) for size in PRODUCTS}
    return {**lstms, **products}


def seconds_of(run: models.Call, count: int) -> float:
    start = time.thread_time()
    for _ in range(count):
        run()
    return (time.thread_time() - start) / count


def race(run: models.Call, other: models.Call, samples: int) -> dict:
    error = models.error_of(
        [array.astype(np.float64) for array in run()], [array.astype(np.float64) for array in other()]
    )
    count = max(1, round(SAMPLE_SECONDS / min(seconds_of(each, 2) for each in (run, other))))
    for each in (run, other):
        seconds_of(each, 5 * count)
    times = np.array([[seconds_of(run, count), seconds_of(other, count)] for _ in range(samples)])
    medians = np.median(times, axis=0) * 1e6
    return {
        "error": error,
        "samples": samples,
        "microseconds": {"rnncore": round(medians[0], 1), "onnxruntime": round(medians[1], 1)},
        "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--only", default="", help="workloads whose name has this text")
    parser.add_argument("--write", action="store_true", help="write bench/results/quantized.json")
    options = parser.parse_args()
    report = {**models.setting(), "workloads": {}}
    for bits in (7, 8):
        print(f"{f'{bits} bits: us a call (median)':32}{'rnncore':>12}{'onnxruntime':>14}{'ratio':>8}{'error':>10}")
        rows = report["workloads"][f"{bits} bits"] = {}
        for name, make in workloads(bits).items():
            if options.only not in name:
                continue
            row = rows[name] = race(*make(), options.samples)
            if bits == 7 and row["error"] > (LARGEST_ERROR if "LSTM" in name else 0):
                raise SystemExit(f"{name}: outputs differ by {row['error']:.2g}")
            ours, theirs = row["microseconds"].values()
            print(f"{name:32}{ours:>12,}{theirs:>14,}{row['ratio']:>8}{row['error']:>10.0e}", flush=True)
        ratios = [row["ratio"] for name, row in rows.items() if "LSTM" in name]
        print(f"geometric mean of the LSTMs: {np.exp(np.mean(np.log(ratios or [1]))):.2f}")
    if options.write:
        models.write("quantized.json", report)


if __name__ == "__main__":
    main()
