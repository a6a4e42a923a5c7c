"""over_time: models of one step as models of sequences, beside calls that hand the states on by themselves."""

import numpy as np
import pytest
import torch
from real_models import real_file
from step_models import PAIRS, signal_model, step_model, weights_of
from stream_models import equal

import rnncore
from rnncore import Control, Input, InputError, Model, Node, Recurrent, Spec, StateError, UnsupportedError
from rnncore.cells import GRU, LSTM

RNG = np.random.default_rng(5)


def by_hand(model, x, gain, h=0.0, seen=0):
    """x (B, T, 3) -> y (B, T, 2), call by call."""
    state = {"h": np.full((len(x), 4), h, model.dtype), "seen": np.full((len(x), 1), seen, np.int64)}
    found = []
    for t in range(x.shape[1]):
        out = model.run({"x": x[:, t], "gain": gain, **state})
        state = {"h": out["h_next"], "seen": out["seen_next"]}
        found.append(out["y"])
    return np.stack(found, axis=1)


def in_pieces(feed, x, axis):
    """Outputs of x fed in random pieces, some of them empty."""
    found, at = [], 0
    while at < x.shape[axis]:
        size = int(RNG.integers(0, 4 + x.shape[axis] // 3))
        found.append(feed(np.take(x, range(at, min(at + size, x.shape[axis])), axis)))
        at += size
    return np.concatenate(found, axis=axis)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cell_of_ops_over_a_sequence(dtype):
    model = step_model(dtype=dtype)
    x, gain = RNG.standard_normal((3, 9, 3)).astype(dtype), np.array(0.25, dtype)
    expected = by_hand(model, x, gain)
    loop = model.over_time(PAIRS)
    assert [(entry.name, entry.shape) for entry in loop.inputs] == [("x", ("N", "T", 3)), ("gain", ())]
    assert [(entry.name, entry.shape) for entry in loop.outputs] == [("y", ("N", "T", 2))]
    assert equal(loop.run({"x": x, "gain": gain})["y"], expected)
    stream = loop.stream(3, inputs={"gain": gain})
    assert equal(in_pieces(stream.feed, x, 1), expected)
    fixed = model.over_time(PAIRS, given={"gain": 0.25})
    assert equal(fixed(x), expected)
    assert fixed.unstreamable is None


def test_states_that_start_from_given_arrays():
    model = step_model()
    x = RNG.standard_normal((2, 5, 3)).astype(np.float32)
    loop = model.over_time(PAIRS, given={"gain": 0.5, "h": np.full((1, 4), 0.75), "seen": [[40]]})
    expected = by_hand(model, x, np.float32(0.5), 0.75, 40)
    assert equal(loop(x), expected)
    stream = loop.stream(2)
    stream.feed(x[:, :3])
    stream.reset([1])
    assert equal(stream.feed(x)[1], expected[1])


@pytest.mark.parametrize("starts", [["h"], ["seen"], ["seen", "h"]])
@pytest.mark.parametrize("batch", [1, "N"])
def test_states_that_start_from_inputs(batch, starts):
    """Whole sequences, streams, their rows that begin again, pools and saved states of theirs."""
    model = step_model(batch)
    x = RNG.standard_normal((3, 7, 3)).astype(np.float32)
    state = {"h": RNG.standard_normal((3, 4)).astype(np.float32), "seen": RNG.integers(0, 9, (3, 1))}
    state = {name: array if name in starts else np.zeros_like(array) for name, array in state.items()}
    rows = [by_hand(model, x[row : row + 1], np.float32(0.1), state["h"][row], state["seen"][row]) for row in range(3)]
    expected = np.concatenate(rows)
    loop = model.over_time(PAIRS, given={"gain": 0.1}, starts=starts)
    given = {name: state[name] for name in starts}
    assert {entry.name for entry in loop.inputs} == {"x", *starts}
    assert equal(loop.run({"x": x, **given})["y"], expected)
    stream = loop.stream(3, inputs=given)
    assert equal(in_pieces(stream.feed, x, 1), expected)
    stream.reset([1])
    assert equal(stream.feed(x)[1], expected[1])
    pool, other = loop.pool(3), loop.pool(1)
    for row in range(3):
        pool.open(row, inputs={name: array[row : row + 1] for name, array in given.items()})
    first = pool.step({row: x[row, : row + 1] for row in range(3)})
    other.load(pool.save(2), 2)
    found = {**pool.step({row: x[row, row + 1 :] for row in range(2)}), **other.step({2: x[2, 3:]})}
    for row in range(3):
        assert equal(np.concatenate((first[row], found[row])), expected[row])


def test_streams_of_a_pool_save_load_and_fork():
    loop = step_model().over_time(PAIRS, given={"gain": 0.1})
    x = RNG.standard_normal((4, 12, 3)).astype(np.float32)
    expected = loop(x)
    pool = loop.pool(6)
    for row in range(3):
        pool.open(row)
    found = pool.step({0: x[0, :2], 1: x[1, :7], 2: x[2, :1]})
    assert equal(found[1], expected[1, :7])
    pool.fork(1, "fork")
    data = pool.save(0)
    pool.close(0)
    other = loop.pool(2)  # nothing was ever opened in it
    other.load(data, "moved")
    assert equal(other.step({"moved": x[0, 2:]})["moved"], expected[0, 2:])
    found = pool.step({"fork": x[1, 7:], 2: x[2, 1:]})
    assert equal(found["fork"], expected[1, 7:])
    assert equal(found[2], expected[2, 1:])
    assert equal(pool.step({1: x[1, 7:]})[1], expected[1, 7:])
    handles = pool.handles([1, 2])
    pool.reset(1), pool.reset(2)
    lengths = np.array([5, 12])
    y = pool.step(x[:2], handles, lengths=lengths)
    assert equal(y[0, :5], expected[0, :5])
    assert equal(y[1], expected[1])
    assert not y[0, 5:].any()


def test_the_state_of_another_model_is_refused():
    one, two = (step_model(seed=seed).over_time(PAIRS, given={"gain": 0.1}) for seed in (1, 2))
    with pytest.raises(StateError, match="of the model"):
        two.stream().load(one.stream().save())


def test_a_model_whose_batch_is_one():
    model = step_model(batch=1)
    x = RNG.standard_normal((3, 8, 3)).astype(np.float32)
    loop = model.over_time(PAIRS, given={"gain": 0.1})
    expected = np.concatenate([by_hand(model, row[None], np.float32(0.1)) for row in x])
    assert equal(np.concatenate([loop(row[None]) for row in x]), expected)
    pool = loop.pool(3)
    handles = np.array([pool.open() for _ in x])
    parts = [pool.step(x[:, :5], handles), pool.step(x[:, 5:], handles)]
    assert equal(np.concatenate(parts, axis=1), expected)


def test_a_batch_of_one_becomes_free_where_rows_are_apart():
    """The pool then runs them in one batch, and a stream may have many."""
    x = RNG.standard_normal((3, 8, 3)).astype(np.float32)
    model = step_model(batch=1)
    loop = model.over_time(PAIRS, given={"gain": 0.1})
    assert [(entry.name, entry.shape) for entry in loop.inputs] == [("x", ("B", "T", 3))]
    expected = np.concatenate([by_hand(model, row[None], np.float32(0.1)) for row in x])
    assert equal(loop(x), expected)
    assert equal(in_pieces(loop.stream(3).feed, x, 1), expected)
    layers = layers_model(batch=1)
    signal = RNG.standard_normal((3, 10, 5)).astype(np.float32)
    loop = layers.over_time({"h": "hn", "c": "lstm.c"})
    start = {name: np.zeros((2, 1, 4), np.float32) for name in ("h", "c")}
    rows = [layers.run({"x": row[None], **start})["y"] for row in signal]
    assert equal(loop(signal), np.concatenate(rows))


def test_a_batch_of_one_becomes_free_beside_lengths():
    """Which a Spec has wherever its recurrent layers may be ragged."""
    nodes = [Recurrent("gru", GRU(3, 4), "x", initial=("h",)), Node("next", "Identity", "gru.h")]
    spec = Spec([Input("x", "float", (1, 2, 3)), Input("h", "float", (1, 1, 4))], nodes, ["gru", "next"])
    model = Model(spec, weights_of(spec))
    loop = model.over_time({"h": "next"})
    assert isinstance(loop.inputs[0].shape[0], str)
    x = RNG.standard_normal((2, 3, 2, 3)).astype(np.float32)
    assert equal(loop.run({"x": x})["gru"], np.concatenate([loop.run({"x": row[None]})["gru"] for row in x]))
    whole = model.run({"x": x[0].reshape(1, 6, 3)[:, :2], "h": np.zeros((1, 1, 4), np.float32)})
    assert equal(loop.run({"x": x[:1, :1]})["gru"][:, 0], whole["gru"])


MIXED = {
    "mean over the batch": [
        Node("mean", "ReduceMean", "x", {"axes": (0,), "keepdims": True}),
        Node("y", "Add", ("mean", "h")),
    ],
    "softmax over the batch": [Node("soft", "Softmax", "x", {"axis": 0}), Node("y", "Add", ("soft", "h"))],
    "reshaped into a column": [
        Node("column", "Reshape", "x", {"shape": (-1, 1)}),
        Node("sum", "ReduceSum", "column", {"axes": (0,), "keepdims": True}),
        Node("y", "Add", ("sum", "h")),
    ],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_batch_of_one_that_would_mix_rows_stays(name):
    spec = Spec([Input("x", "float", (1, 3)), Input("h", "float", (1, 3))], MIXED[name], ["y"])
    model = Model(spec, {})
    loop = model.over_time({"h": "y"})
    assert loop.inputs[0].shape == (1, "T", 3)
    x = RNG.standard_normal((4, 5, 3)).astype(np.float32)
    expected = np.concatenate([loop(row[None]) for row in x])
    pool = loop.pool(4)
    handles = np.array([pool.open() for _ in x])
    assert equal(pool.step(x, handles), expected)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_states_that_change_places(order):
    """What a body hands on may be what it was given."""
    nodes = [
        Node("a_next", "Identity", "b"),
        Node("b_next", "Add", ("a", "x")),
        Node("y", "Sub", ("a", "b")),
    ]
    spec = Spec([Input(name, "float", ("N", 2)) for name in "xab"], nodes, ["a_next", "b_next", "y"])
    model = Model(spec, {})
    x = RNG.standard_normal((2, 7, 2)).astype(np.float32)
    a, b, expected = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32), []
    for t in range(7):
        out = model.run({"x": x[:, t], "a": a, "b": b})
        a, b = out["a_next"], out["b_next"]
        expected.append(out["y"])
    loop = model.over_time({name: f"{name}_next" for name in order})
    stream, pool = loop.stream(2), loop.pool(2)
    handles = np.array([pool.open(), pool.open()])
    for t in range(7):
        assert equal(stream.feed(x[:, t : t + 1])[:, 0], expected[t])
        assert equal(pool.step(x[:, t : t + 1], handles)[:, 0], expected[t])


def test_chunks_of_a_signal_with_what_stands_before_them():
    model = signal_model()
    x = RNG.standard_normal((2, 4 * 13 + 3)).astype(np.float32)
    padded = np.concatenate((np.zeros((2, 2), np.float32), x), axis=1)
    state, expected = np.zeros((2, 2, 3), np.float32), []
    for first in range(0, 4 * 13, 4):
        out = model.run({"x": padded[:, first : first + 6], "state": state})
        state = out["state_next"]
        expected.append(out["y"])
    expected = np.stack(expected, axis=1)
    loop = model.over_time({"state": "state_next"}, chunk=4, context=2)
    assert loop(x[:, :3]).shape == (2, 0)
    assert equal(loop(x), expected)
    stream = loop.stream(2)
    assert stream.latency == 3
    assert equal(in_pieces(stream.feed, x, 1), expected)
    pool = loop.pool(2)
    pool.open("a"), pool.open("b")
    one = pool.step({"a": x[0, :5], "b": x[1, :50]})
    two = pool.step({"a": x[0, 5:], "b": x[1, 50:]})
    assert equal(np.concatenate((one["a"], two["a"])), expected[0])
    assert equal(np.concatenate((one["b"], two["b"])), expected[1])


def layers_model(batch="N"):
    """States of a layer over a free time, as inputs and outputs."""
    nodes = [
        Recurrent("lstm", LSTM(5, 4), "x", layers=2, initial=("h", "c"), lengths=None),
        Node("hn", "Identity", "lstm.h"),
        Node("y", "Relu", "lstm"),
    ]
    states = [Input(name, "float", (2, batch, 4)) for name in ("h", "c")]
    spec = Spec([Input("x", "float", (batch, "time", 5)), *states], nodes, ["y", "hn", "lstm.c"])
    return Model(spec, weights_of(spec))


@pytest.mark.parametrize("given", [False, True])
def test_states_of_layers_become_their_own(given):
    model = layers_model()
    start = {name: RNG.standard_normal((2, 1, 4)).astype(np.float32) * given for name in ("h", "c")}
    x = RNG.standard_normal((3, 10, 5)).astype(np.float32)
    expected = model.run({"x": x, **{name: np.repeat(array, 3, axis=1) for name, array in start.items()}})["y"]
    loop = model.over_time({"h": "hn", "c": "lstm.c"}, given=start if given else None)
    assert not any(isinstance(node, Control) for node in loop.spec.nodes)
    assert [entry.name for entry in loop.inputs] == ["x"] and loop.spec.outputs == ("y",)
    assert equal(loop(x), expected)
    assert equal(in_pieces(loop.stream(3).feed, x, 1), expected)
    signal = model.over_time({"h": "hn", "c": "lstm.c"}, chunk=2, context=3, given=start if given else None)
    samples = RNG.standard_normal((1, 41)).astype(np.float32)
    padded = np.concatenate((np.zeros((1, 3), np.float32), samples), axis=1)
    frames = np.stack([padded[:, at : at + 5] for at in range(0, 40, 2)], axis=1)
    expected = model.run({"x": frames, **start})["y"]
    assert equal(signal(samples), expected)
    assert equal(in_pieces(signal.stream().feed, samples[0], 0), expected[0])


@pytest.mark.parametrize("starts", [["h"], ["c"], ["c", "h"]])
@pytest.mark.parametrize("given", [False, True])
def test_states_of_layers_that_start_from_inputs(given, starts):
    model = layers_model()
    fixed = {name: RNG.standard_normal((2, 1, 4)).astype(np.float32) for name in "hc" if given and name not in starts}
    inputs = {name: RNG.standard_normal((2, 3, 4)).astype(np.float32) for name in starts}
    x = RNG.standard_normal((3, 41, 5)).astype(np.float32)
    every = {name: np.zeros((2, 3, 4), np.float32) for name in "hc"} | inputs
    every |= {name: np.repeat(array, 3, axis=1) for name, array in fixed.items()}
    expected = model.run({"x": x, **every})["y"]
    loop = model.over_time({"h": "hn", "c": "lstm.c"}, given=fixed, starts=starts)
    assert not any(isinstance(node, Control) for node in loop.spec.nodes)
    assert {entry.name for entry in loop.inputs} == {"x", *starts}
    assert equal(loop.run({"x": x, **inputs})["y"], expected)
    assert equal(in_pieces(loop.stream(3, inputs=inputs).feed, x, 1), expected)
    signal = model.over_time({"h": "hn", "c": "lstm.c"}, chunk=5, given=fixed, starts=starts)
    assert equal(signal.run({"x": x.reshape(3, -1), **inputs})["y"], expected)


def test_states_handed_on_crosswise_are_no_layers_own():
    model = layers_model()
    x = RNG.standard_normal((2, 3, 1, 5)).astype(np.float32)
    loop = model.over_time({"h": "lstm.c", "c": "hn"})
    state = {name: np.zeros((2, 2, 4), np.float32) for name in ("h", "c")}
    expected = []
    for t in range(3):
        out = model.run({"x": x[:, t], **state})
        state = {"h": out["lstm.c"], "c": out["hn"]}
        expected.append(out["y"])
    assert equal(loop(x), np.stack(expected, axis=1))


class LeakyCell(torch.nn.Module):
    """A loop over steps that is no cell we know: what an exporter leaves as a Scan."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(7, 4)

    def forward(self, x):
        h, found = torch.zeros(x.size(0), 4), []
        for t in range(x.size(1)):
            h = 0.75 * h + torch.sin(self.linear(torch.cat([x[:, t], h], 1)))
            found.append(h)
        return torch.stack(found, 1)


def test_a_loop_of_torch_streams():
    torch.manual_seed(0)
    module = LeakyCell()
    exported = rnncore.export.from_torch(module, (torch.zeros(2, 5, 3),))
    model = Model(exported.spec, exported.weights)
    assert [node.op for node in model.spec.nodes if isinstance(node, Control)] == ["Scan"]
    x = RNG.standard_normal((2, 11, 3)).astype(np.float32)
    whole = model(x)
    np.testing.assert_allclose(whole, module(torch.tensor(x)).detach().numpy(), atol=1e-6)
    assert equal(in_pieces(model.stream(2).feed, x, 1), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backward": (True,)}, "reads the sequence from its end"),
        ({"output_backward": (True,)}, "reads the sequence from its end"),
        ({"inputs": ("x_last", "x")}, "'x_last', which all of its steps read, depends on the sequence"),
        ({"inputs": ("s", "turned")}, "its input has 3 steps, expected a free size"),
    ],
)
def test_a_scan_that_cannot_stream_says_why(change, message):
    body = Spec(
        [Input("s", "float", ("B", 3)), Input("e", "float", ("B", 3))], [Node("t", "Add", ("s", "e"))], ["t", "t"]
    )
    nodes = [
        Recurrent("gru", GRU(3, 3), "x"),
        Node("x_last", "Gather", "x", {"axis": 1, "indices": -1}),
        Node("turned", "Transpose", "x", {"perm": (0, 2, 1)}),
        Control("scan", "Scan", **{"inputs": ("s", "x"), "branches": (body,), "sequences": 1, "axes": (1,),
                                   "output_axes": (1,), **change}),
    ]  # fmt: skip
    inputs = [Input("x", "float", ("B", "T", 3)), Input("s", "float", ("B", 3))]
    spec = Spec(inputs, nodes, ["scan.1", "gru"])
    with pytest.raises(UnsupportedError, match=rf"'scan' \(Scan\) cannot be streamed: .*{message}"):
        Model(spec, weights_of(spec)).stream(inputs={"s": np.zeros((1, 3), np.float32)})


def test_rows_that_meet_are_refused_by_name():
    nodes = [
        Node("sum", "ReduceSum", "x", {"axes": (0,), "keepdims": True}),
        Node("h_next", "Add", ("h", "sum")),
        Node("y", "Neg", "h_next"),
    ]
    spec = Spec([Input("x", "float", ("N", 3)), Input("h", "float", ("N", 3))], nodes, ["y", "h_next"])
    loop = Model(spec, {}).over_time({"h": "h_next"})
    with pytest.raises(UnsupportedError, match=r"'over_time' \(Scan\).*rows of a batch may meet.*'sum' \(ReduceSum\)"):
        loop.stream()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"carry": {}}, "expected a dict"),
        ({"carry": {"g": "h_next"}}, "'g' is no required input, expected one of h, x, seen, gain"),
        ({"carry": {"h": "nothing"}}, "'nothing' is no output, expected one of seen_next, y, h_next"),
        ({"carry": {"h": "y"}}, r"output 'y' is float \(N, 2\), expected float \(N, 4\) as input 'h'"),
        ({"carry": {"h": "seen_next"}}, r"output 'seen_next' is int64 \(N, 1\), expected float"),
        ({"carry": PAIRS, "chunk": 0}, "chunk=0, expected an integer of at least 1"),
        ({"carry": PAIRS, "context": 2}, "context=2 without chunk"),
        ({"carry": PAIRS, "chunk": 2, "context": 2}, r"are 4 numbers, expected 3, which input 'x'.* axis 1"),
        ({"carry": {"h": "h_next"}, "chunk": 3}, "chunk=3 with the inputs x, seen in each step, expected one"),
        ({"carry": PAIRS, "steps": ["h"]}, "'h' is no input that is left, expected some of x, gain"),
        ({"carry": PAIRS, "steps": []}, "expected at least one"),
        ({"carry": PAIRS, "given": {"z": 1}}, "'z' is unknown"),
        ({"carry": PAIRS, "given": {"h": np.zeros((2, 4))}}, r"float64 \(2, 4\), expected float \(N, 4\) with free"),
        ({"carry": PAIRS, "given": {"seen": [[0.5]]}}, r"seen: float64 \(1, 1\), expected int64"),
        ({"carry": PAIRS, "starts": ["x"]}, "starts: 'x' is not carried, expected some of h, seen"),
        ({"carry": PAIRS, "starts": 3}, "starts: int, expected a list"),
        ({"carry": PAIRS, "starts": [["h"]]}, r"starts: \['h'\] is not carried"),
        ({"carry": PAIRS, "starts": "seen", "given": {"seen": [[3]]}}, "'seen' is among given, expected one of both"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        step_model().over_time(options.pop("carry"), **options)


def test_a_state_with_another_free_size_is_refused():
    nodes = [Node("h_next", "Add", ("h", "h")), Node("y", "Neg", "x")]
    spec = Spec([Input("x", "float", ("N", 3)), Input("h", "float", ("N", "M"))], nodes, ["y", "h_next"])
    with pytest.raises(InputError, match=r"'h' is float \(N, M\), expected no free sizes but the batch"):
        Model(spec, {}).over_time({"h": "h_next"})


def test_a_file_keeps_the_loop(tmp_path):
    loop = step_model().over_time(PAIRS, given={"gain": 0.1})
    path = rnncore.save(tmp_path / "loop.safetensors", loop)
    x = RNG.standard_normal((2, 6, 3)).astype(np.float32)
    assert equal(rnncore.load(path).stream(2).feed(x), loop(x))


SILERO = {
    "silero_vad_16k_op15.onnx": {"state": "stateN"},
    "silero_vad.onnx": {"state": "stateN"},
    "silero_vad_op18_ifless.onnx": {"state": "stateN"},
    "silero_vad_16k_sequence.onnx": {"h": "hn", "c": "cn"},
}


@pytest.mark.parametrize("file", SILERO)
def test_a_voice_detector_streams_as_onnxruntime_is_called(file):
    """Stream, pool and whole sequence are one another's bits, and near ONNX Runtime's call by call."""
    onnxruntime = pytest.importorskip("onnxruntime")
    reference = real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx")
    session = onnxruntime.InferenceSession(str(reference))
    times = np.arange(512 * 40 + 200) / 16000
    chirp = np.sin(2 * np.pi * (150 + 400 * times) * times) * np.sin(9 * times) ** 2
    x = np.stack([chirp, np.roll(chirp, 9000)]).astype(np.float32) * 0.5 + RNG.standard_normal((2, len(times))).astype(
        np.float32
    ) * np.float32(0.01)
    state, context, expected = np.zeros((2, 2, 128), np.float32), np.zeros((2, 64), np.float32), []
    for first in range(0, 512 * 40, 512):
        window = np.concatenate((context, x[:, first : first + 512]), axis=1)
        context = window[:, -64:]
        y, state = session.run(None, {"input": window, "state": state, "sr": np.array(16000)})
        expected.append(y)
    expected = np.concatenate(expected, axis=1)
    assert expected.max() - expected.min() > 0.2  # the detector has something to say

    model = rnncore.load(real_file("silero-vad==6.2.3", f"silero_vad/data/{file}"))
    given = {} if "sequence" in file else {"given": {"sr": 16000}}
    vad = model.over_time(SILERO[file], chunk=512, context=64, **given)
    rows = x if "sequence" in file else x[:, None]
    whole = np.stack([vad(row).reshape(-1) for row in rows])
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    pool = vad.pool(2)
    pool.open(0), pool.open(1)
    for row in range(2):
        found = in_pieces(vad.stream().feed, x[row], 0).reshape(-1)
        assert equal(found, whole[row])
    first = pool.step({0: x[0, :1000], 1: x[1, :3000]})
    saved = pool.save(1)
    pool.close(1)
    pool.load(saved, 1)
    then = pool.step({0: x[0, 1000:], 1: x[1, 3000:]})
    for row in range(2):
        assert equal(np.concatenate((first[row], then[row])).reshape(-1), whole[row])
