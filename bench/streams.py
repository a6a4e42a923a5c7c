"""Streams beside onnxruntime, the fastest peer at single steps, on the same weights and inputs in one run.

    one stream     a step of one stream, state carried: Stream.feed; a session with the state as input and output
    256 streams    a step of all: StreamPool.step; 256 calls one by one; a session whose batch are the streams, with
                   the state kept as one array, as one would write it by hand
    1,000 streams  a step of all every 20 milliseconds: how long each takes from when it was due
    memory         bytes of a stream's state in a pool, and what the process grew by
    voices         silero-vad over sound that arrives in windows of 32 milliseconds, one stream and 256: Stream.feed,
                   StreamPool.step, and a session that is called with the window, what stands before it and the state

Engines are measured in turn, medians over samples; each side's outputs over the first steps must agree to 1e-5.

    python bench/streams.py [--threads 1] [--quick] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
from shapes import Shape  # noqa: E402

LARGEST_ERROR = 1e-5
CHECKED_STEPS = 8
STREAMS, MANY, TICK = 256, 1000, 0.020
SAMPLE_SECONDS = 0.02
RATE, WINDOW, CONTEXT = 16_000, 512, 64
PAUSE = 0.05


def model_of(shape: Shape, threads: int):
    import rnncore
    from rnncore.formats.torch.names import bind

    weights, _ = shape.arrays()
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", shape.I))],
        [rnncore.Recurrent("rnn", rnncore.cells.CELLS[shape.cell](shape.I, shape.H), "x")],
        ["rnn"],
    )
    tensors = {f"rnn.{name}": array for name, array in weights.items()}
    return rnncore.Model(spec, bind(spec, tensors).weights, num_threads=threads)


class Session:
    """An onnxruntime session of one layer with its state as input and output, for a batch that is free."""

    def __init__(self, shape: Shape, threads: int):
        import onnx
        import onnxruntime
        from engines.onnxruntime_engine import ORDER, session_options
        from onnx import TensorProto, helper, numpy_helper

        weights, _ = shape.arrays()

        def reorder(array):
            gates = np.split(array, len(ORDER[shape.cell]))
            return np.concatenate([gates[gate] for gate in ORDER[shape.cell]])

        constants = {
            "w": reorder(weights["weight_ih_l0"])[None],
            "r": reorder(weights["weight_hh_l0"])[None],
            "b": np.concatenate([reorder(weights["bias_ih_l0"]), reorder(weights["bias_hh_l0"])])[None],
        }
        self.states = ("h", "c") if shape.cell == "LSTM" else ("h",)
        options = {"linear_before_reset": 1} if shape.cell == "GRU" else {}
        node = helper.make_node(
            shape.cell, ["x", "w", "r", "b", "", *self.states], ["", *(f"{name}_next" for name in self.states)],
            hidden_size=shape.H, **options,
        )  # fmt: skip

        def info(name, *sizes):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

        graph = helper.make_graph(
            [node], "step",
            [info("x", 1, "B", shape.I), *(info(name, 1, "B", shape.H) for name in self.states)],
            [info(f"{name}_next", 1, "B", shape.H) for name in self.states],
            [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
        )
        self.H = shape.H

    def stream(self, batch: int):
        """step(x (1, B, I)) -> h (1, B, H), keeping the state between calls."""
        state = {name: np.zeros((1, batch, self.H), np.float32) for name in self.states}
        names, run = list(state), self.session.run

        def step(x):
            state["x"] = x
            found = run(None, state)
            for name, array in zip(names, found, strict=True):
                state[name] = array
            return found[0]

        return step

    def bound(self, batch: int, x: np.ndarray):
        """The same with inputs and outputs bound once, states in two buffers in turn."""
        from onnxruntime import OrtValue

        buffers = [
            {name: OrtValue.ortvalue_from_numpy(np.zeros((1, batch, self.H), np.float32)) for name in self.states}
            for _ in range(2)
        ]
        given = OrtValue.ortvalue_from_numpy(x)
        bindings = []
        for now, after in (buffers, buffers[::-1]):
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("x", given)
            for name in self.states:
                binding.bind_ortvalue_input(name, now[name])
                binding.bind_ortvalue_output(f"{name}_next", after[name])
            bindings.append(binding)
        turn = [0]

        def step():
            self.session.run_with_iobinding(bindings[turn[0]])
            turn[0] ^= 1

        return step


def compare(runs: dict, quick: bool) -> dict[str, float]:
    """Median microseconds of each call, measured in turn."""
    calls, seconds = {}, {name: [] for name in runs}
    for name, run in runs.items():
        for _ in range(20):
            run()
        start = time.perf_counter()
        for _ in range(10):
            run()
        calls[name] = max(1, round(SAMPLE_SECONDS / (time.perf_counter() - start) * 10))
    for _ in range(6 if quick else 30):
        for name, run in runs.items():
            time.sleep(PAUSE)
            run()
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return {name: round(float(np.median(found)) * 1e6, 3) for name, found in seconds.items()}


def one_stream(shape: Shape, threads: int, quick: bool) -> dict:
    model, session = model_of(shape, threads), Session(shape, threads)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 1, shape.I)).astype(np.float32)
    stream, theirs = model.stream(), session.stream(1)
    check(lambda x: stream.feed(x)[:, 0], lambda x: theirs(x.transpose(1, 0, 2))[0], (1, 1, shape.I))
    out = np.empty((1, 1, shape.H), np.float32)
    return compare(
        {
            "rnncore": lambda: stream.feed(x),
            "rnncore out": lambda: stream.feed(x, out=out),
            "onnxruntime": lambda: theirs(x),
            "onnxruntime bound": session.bound(1, x),
        },
        quick,
    )


def together(shape: Shape, threads: int, quick: bool) -> dict:
    model, session = model_of(shape, threads), Session(shape, threads)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STREAMS, 1, shape.I)).astype(np.float32)
    turned = np.ascontiguousarray(x.transpose(1, 0, 2))
    pool = model.pool(STREAMS)
    handles = pool.handles([pool.open() for _ in range(STREAMS)])
    theirs = session.stream(STREAMS)
    check(
        lambda x: pool.step(x, handles)[:, 0], lambda x: theirs(np.ascontiguousarray(x.transpose(1, 0, 2)))[0], x.shape
    )
    out = np.empty((STREAMS, 1, shape.H), np.float32)
    by_id = {handle: x[row] for row, handle in enumerate(handles.tolist())}
    alone = [(model.stream(), x[row : row + 1]) for row in range(STREAMS)]
    each = [(session.stream(1), turned[:, row : row + 1]) for row in range(STREAMS)]

    def one_by_one():
        for stream, piece in alone:
            stream.feed(piece)

    def sessions():
        for step, piece in each:
            step(piece)

    return compare(
        {
            "rnncore pool": lambda: pool.step(x, handles, out=out),
            "rnncore pool by id": lambda: pool.step(by_id),
            "rnncore streams": one_by_one,
            "onnxruntime calls": sessions,
            "onnxruntime batched": lambda: theirs(turned),
            "onnxruntime batched bound": session.bound(STREAMS, turned),
        },
        quick,
    )


def check(ours, theirs, shape) -> None:
    """SystemExit where the outputs of some steps differ."""
    rng = np.random.default_rng(1)
    for _ in range(CHECKED_STEPS):
        x = rng.standard_normal(shape).astype(np.float32)
        error = float(np.abs(ours(x) - theirs(x)).max())
        if not error <= LARGEST_ERROR:
            raise SystemExit(f"outputs differ by {error:g}")


def ticks(shape: Shape, threads: int, quick: bool) -> dict:
    """Milliseconds from when a tick was due to when its step was done."""
    model = model_of(shape, threads)
    pool = model.pool(MANY)
    handles = pool.handles([pool.open() for _ in range(MANY)])
    x = np.random.default_rng(0).standard_normal((MANY, 1, shape.I)).astype(np.float32)
    out = np.empty((MANY, 1, shape.H), np.float32)
    for _ in range(10):
        pool.step(x, handles, out=out)
    found = []
    due = time.perf_counter() + TICK
    for _ in range(100 if quick else 1500):
        time.sleep(max(0.0, due - time.perf_counter()))
        pool.step(x, handles, out=out)
        now = time.perf_counter()
        found.append(now - due)
        due += TICK
    return {
        name: round(float(np.percentile(found, q)) * 1e3, 3) for name, q in (("p50", 50), ("p99", 99), ("most", 100))
    }


def voices(threads: int, quick: bool) -> dict:
    """Microseconds for a window of one stream and of 256, and the real-time factor: seconds for a second of sound."""
    import onnxruntime
    from engines.onnxruntime_engine import session_options

    import rnncore

    sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))
    from real_models import real_file

    path = real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx")
    vad = rnncore.load(path).over_time({"state": "stateN"}, chunk=WINDOW, context=CONTEXT, given={"sr": RATE})
    vad = rnncore.Model(vad.spec, vad.weights, num_threads=threads)
    session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    sound = np.random.default_rng(0).standard_normal((STREAMS, WINDOW)).astype(np.float32) / 10

    def called(batch: int):
        window, rate = np.zeros((batch, CONTEXT + WINDOW), np.float32), np.array(RATE)
        state = [np.zeros((2, batch, 128), np.float32)]

        def step(x):
            window[:, :CONTEXT] = window[:, -CONTEXT:]
            window[:, CONTEXT:] = x
            found, state[0] = session.run(None, {"input": window, "state": state[0], "sr": rate})
            return found

        return step

    stream, one, pool, many = vad.stream(), called(1), vad.pool(STREAMS), called(STREAMS)
    handles = np.array([pool.open() for _ in range(STREAMS)])
    check(lambda x: stream.feed(x), lambda x: one(x), (1, WINDOW))
    check(lambda x: pool.step(x, handles)[:, 0], many, (STREAMS, WINDOW))
    found = compare(
        {
            "one, rnncore": lambda: stream.feed(sound[0]),
            "one, onnxruntime": lambda: one(sound[:1]),
            f"{STREAMS}, rnncore pool": lambda: pool.step(sound, handles),
            f"{STREAMS}, onnxruntime batched": lambda: many(sound),
        },
        quick,
    )
    return found | {f"{name}, real-time factor": round(value / 1e6 * RATE / WINDOW, 6) for name, value in found.items()}


def memory(shape: Shape) -> dict:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    model, before = model_of(shape, 1), resident()
    pool = model.pool(20_000)
    for _ in range(20_000):
        pool.open()
    numbers = sum(array[:, 0].size for array in model.initial_state(1).values())
    return {
        "state": 4 * numbers,
        "stream": round(pool.nbytes / 20_000, 1),
        "process": round((resident() - before) / 20_000, 1),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--write", type=Path)
    given = arguments.parse_args()
    report = {"threads": given.threads, "shapes": {}}
    for shape in (Shape("LSTM", 1, 1, 128, 128), Shape("GRU", 1, 1, 256, 256)):
        row = report["shapes"][shape.name] = {
            "one stream": one_stream(shape, given.threads, given.quick),
            f"{STREAMS} streams": together(shape, given.threads, given.quick),
            f"{MANY} streams every 20 ms": ticks(shape, given.threads, given.quick),
            "bytes of a stream": memory(shape),
        }
        print(f"{shape.cell} {shape.H}, threads {given.threads}")
        for what, found in row.items():
            print(f"  {what}")
            for name, value in found.items():
                print(f"    {name:28s}{value:>12,}")
        one, many = row["one stream"], row[f"{STREAMS} streams"]
        best_one = min(value for name, value in one.items() if name.startswith("onnxruntime"))
        best_batch = min(value for name, value in many.items() if "batched" in name)
        row["ratios"] = {
            "one stream: best onnxruntime / ours": round(best_one / one["rnncore"], 2),
            "together: our streams one by one / pool": round(many["rnncore streams"] / many["rnncore pool"], 2),
            "together: onnxruntime one by one / pool": round(many["onnxruntime calls"] / many["rnncore pool"], 2),
            "together: best onnxruntime batch / pool": round(best_batch / many["rnncore pool"], 2),
        }
        for name, value in row["ratios"].items():
            print(f"  {name:44s}{value:>8}")
    report["voices"] = voices(given.threads, given.quick)
    print("silero-vad, windows of 32 ms")
    for name, value in report["voices"].items():
        print(f"  {name:46s}{value:>12,}")
    if given.write:
        given.write.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
