"""Pools: a stream gives what it would alone, whoever else is there; slots, handles, ages, bytes; what is refused."""

import contextlib
import gc
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from agreement import assert_close, assert_unchanged
from stream_models import SPECS, I, X, cuts, draw, equal, linear, make
from stream_schedules import run
from window_models import WINDOWS

import rnncore
from rnncore import Input, InputError, Node, Recurrent, Spec, StateError, StreamError
from rnncore.cells import LSTM
from rnncore.kernels import runs_native


@pytest.fixture
def pool():
    return make(SPECS["lstm"]).pool(3)


def chunk(steps=2, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, I)).astype(np.float32)


@pytest.mark.parametrize("seed", range(60))
def test_schedules(seed):
    """Random schedules against each stream alone; tests/tools/stream_schedules.py runs as many as one likes."""
    compared, differences = run(seed)
    assert compared
    assert differences == 0


def test_schedules_in_threads():
    """Pools of one model in several threads, and kernels with threads of their own."""
    results = []
    threads = [threading.Thread(target=lambda seed=seed: results.append(run(seed, 3))) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert sum(differences for _, differences in results) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPECS)
def test_companions_change_nothing(name, dtype):
    spec = SPECS[name]
    model = make(spec, dtype=dtype)
    rng = np.random.default_rng(2)
    axis = 0 if name == "time_first" else 1
    x = draw(spec, rng, 4, 12)
    x = x if x.dtype.kind == "i" else x.astype(dtype)
    pool, alone = model.pool(9), [model.stream() for _ in range(4)]
    for id in range(4):
        pool.open(id)
    rows = [np.take(x, [id], axis=1 - axis) for id in range(4)]
    for part in cuts(rng, 12):
        who = [id for id in range(4) if rng.random() < 0.7]
        pieces = {id: rows[id][part] if axis == 0 else rows[id][:, part] for id in who}
        found = pool.step({id: piece.squeeze(1 - axis) for id, piece in pieces.items()})
        assert list(found) == who
        for id in who:
            expected = alone[id].feed(pieces[id])
            expected = expected if isinstance(expected, dict) else {spec.outputs[0]: expected}
            got = found[id] if isinstance(found[id], dict) else {spec.outputs[0]: found[id]}
            for key, array in expected.items():
                one = np.take(array, 0, axis=spec.values[key].shape.index("B"))
                assert_unchanged({key: got[key]}, {key: one}, dtype, f"{name} {id}")


def test_arrays_with_lengths_and_out():
    model = make(SPECS["lstm"])
    pool = model.pool(6)
    ids = ["a", "b", "c", "d"]
    for id in ids:
        pool.open(id)
    x = np.random.default_rng(1).standard_normal((4, 5, I)).astype(np.float32)
    lengths = [3, 0, 5, 3]
    out = np.full((4, 5, 9), np.nan, np.float32)
    handles = pool.handles(ids)
    y = pool.step(x, handles, lengths=lengths, out=out)
    assert y is out
    for row, length in enumerate(lengths):
        assert equal(y[row, :length], model(x[row : row + 1, :length])[0])
        assert not y[row, length:].any()
    again = pool.step(x, handles[::-1].copy())
    for row, length in enumerate(lengths[::-1]):
        both = np.concatenate((x[3 - row, :length], x[row]))[None]
        assert equal(again[row], model(both)[0, length:])


@pytest.mark.parametrize("name", ["lstm", "graph", "several", "time_first"])
def test_one_step_without_its_axis(name):
    """(I,) gives (O,), on every way through; a model that answers late takes (T, I) only."""
    model = make(SPECS[name])
    x = chunk(1)
    pool, stream = model.pool(2), model.stream()
    pool.open("a"), pool.open("b")
    found = pool.step({"a": x[0], "b": x})
    expected = stream.feed(x[0])
    for output in SPECS[name].outputs:
        one, both, alone = (
            value[output] if isinstance(value, dict) else value for value in (found["a"], found["b"], expected)
        )
        in_time = "T" in SPECS[name].values[output].shape
        assert equal(one, both[0] if in_time else both)
        assert equal(one, alone)
    late = make(WINDOWS["centred"][0])
    pool = late.pool(1)
    pool.open("a")
    for use in (lambda: pool.step({"a": x[0]}), lambda: late.stream().feed(x[0])):
        with pytest.raises(InputError, match="expected"):
            use()


def test_handles_do_not_come_back(pool):
    first = pool.open("a")
    pool.close("a")
    second = pool.open("b")
    assert first != second
    assert first not in pool
    for use in (
        lambda: pool.step({first: chunk()}),
        lambda: pool.step(chunk()[None], np.array([first])),
        lambda: pool.close(first),
        lambda: pool.save(first),
        lambda: pool.reset(first),
        lambda: pool.fork(first),
        lambda: pool.state(first),
        lambda: pool.finish(first),
    ):
        with pytest.raises(StreamError, match="not open"):
            use()
    assert pool.ids == ("b",)


@pytest.mark.parametrize("handle", [-1, 0, 1, 1 << 40, (1 << 63) - 1, 1 << 70, "nobody", None, 1.5, ["a"]])
def test_unknown_ids(pool, handle):
    pool.open("a")
    assert handle not in pool
    with pytest.raises(StreamError, match="not open"):
        pool.reset(handle)


def test_a_new_stream_begins_at_its_beginning(pool):
    """The slot that a closed stream leaves is clean."""
    for id in "abc":
        pool.open(id)
    pool.step({id: chunk(5) for id in "abc"})
    pool.close("b")
    pool.open("d")
    alone = make(SPECS["lstm"]).stream().feed(chunk())
    assert equal(pool.step({"d": chunk()})["d"], alone)
    pool.step({"a": chunk(), "d": chunk()})


def test_capacity(pool):
    for id in "abc":
        pool.open(id)
    for use in (lambda: pool.open("d"), lambda: pool.fork("a"), lambda: pool.load(pool.save("a"))):
        with pytest.raises(StreamError, match="3 streams are all open"):
            use()
    assert len(pool) == 3
    with pytest.raises(StreamError, match="4 streams in one step"):
        pool.step(np.zeros((4, 1, I), np.float32), pool.handles("aabc"))


@pytest.mark.parametrize("capacity", [0, -1, True, 2.0, "3", 1 << 40])
def test_bad_capacity(capacity):
    with pytest.raises(InputError, match="capacity"):
        make(SPECS["lstm"]).pool(capacity)


@pytest.mark.parametrize("name", ["lstm", "graph"])
def test_errors_leave_everyone_as_they_were(name):
    pool = make(SPECS[name]).pool(3)
    for id in "abc":
        pool.open(id)
    pool.step({id: chunk() for id in "abc"})
    before = pool.save_all()
    handles = pool.handles("ab")
    x = np.zeros((2, 1, I), np.float32)
    for error, words, use in (
        (InputError, "'b'.*shape", lambda: pool.step({"a": chunk(), "b": chunk()[:, :3]})),
        (InputError, "'b'.*dtype", lambda: pool.step({"a": chunk(), "b": chunk().astype(complex)})),
        (InputError, "'b'", lambda: pool.step({"a": chunk(), "b": "no"})),
        (StreamError, "'z'", lambda: pool.step({"a": chunk(), "z": chunk()})),
        (StreamError, "twice", lambda: pool.step(x, handles[[0, 0]])),
        (StreamError, "not open", lambda: pool.step(x, handles + 1000)),
        (InputError, "batch of 2", lambda: pool.step(x[:1], handles)),
        (InputError, "dimension 2", lambda: pool.step(x[:, :, :2], handles)),
        (InputError, "lengths", lambda: pool.step(x, handles, lengths=[1, 2])),
        (InputError, "lengths", lambda: pool.step(x, handles, lengths=[1])),
        (InputError, "handles", lambda: pool.step(x, handles.astype(float))),
        (InputError, "handles", lambda: pool.step(x, handles[None])),
        (InputError, "handles", lambda: pool.step({"a": chunk()}, lengths=[1])),
        (InputError, "dict", lambda: pool.step(x)),
        (InputError, "out", lambda: pool.step(x, handles, out=np.zeros((1, 1, 1), np.float32))),
        (StreamError, "open already", lambda: pool.open("a")),
        (InputError, "unknown", lambda: pool.open("d", inputs={"x": chunk()})),
        (rnncore.FormatError, "state", lambda: pool.load(b"nothing")),
        (StateError, "a pool", lambda: pool.load_all(pool.save("a"))),
        (StateError, "unknown array", lambda: pool.load(pool.save_all())),
        (StreamError, "open already", lambda: pool.load_all(before)),
    ):
        with pytest.raises(error, match=words):
            use()
        assert pool.save_all() == before, words


def test_two_users_get_an_error(pool):
    pool.open("a")
    assert pool._owned.owner.take()
    for use in (
        lambda: pool.step({"a": chunk()}),
        lambda: pool.open("b"),
        lambda: pool.close("a"),
        lambda: pool.save("a"),
        lambda: pool.evict(0),
        lambda: pool.reset("a"),
        lambda: pool.handles(["a"]),
        lambda: pool.ids,
        lambda: pool.idle(0),
    ):
        with pytest.raises(StreamError, match="another thread"):
            use()
    pool._owned.owner.release()
    pool.step({"a": chunk()})


def test_threads_that_share_a_stream_or_a_pool_get_errors_and_nothing_else():
    """Each call works or is a StreamError, whatever the others do meanwhile."""
    model = make(SPECS["lstm"])
    x = chunk(3)
    other = model.stream().save()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(8):
            stream, pool = model.stream(), model.pool(4)
            pool.open(0)
            calls = [
                lambda stream=stream: stream.feed(x),
                lambda stream=stream: stream.state,
                lambda stream=stream: stream.load(other),
                lambda stream=stream: repr(stream),
                lambda stream=stream: stream.copy().feed(x),
                lambda stream=stream: stream.close(),
                lambda pool=pool: pool.step({0: x}),
                lambda pool=pool: pool.close(pool.open()),
                lambda pool=pool: (pool.ids, pool.idle(0), 0 in pool, len(pool)),
                lambda pool=pool: pool.save_all(),
            ]
            failed = []
            threads = [threading.Thread(target=repeated, args=(call, failed)) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failed, failed[0]
            assert 0 in pool
    finally:
        sys.setswitchinterval(interval)


def repeated(call, failed):
    for _ in range(20):
        try:
            call()
        except StreamError:
            pass
        except BaseException as error:
            failed.append(error)


def test_forks_go_their_own_way(pool):
    pool.open("a")
    pool.step({"a": chunk(4, 1)})
    pool.fork("a", "b")
    found = pool.step({"a": chunk(2, 2), "b": chunk(2, 3)})
    model = make(SPECS["lstm"])
    for id, seed in (("a", 2), ("b", 3)):
        whole = np.concatenate((chunk(4, 1), chunk(2, seed)))[None]
        assert equal(found[id], model(whole)[0, 4:])


@pytest.mark.parametrize("name", SPECS)
def test_bytes_go_between_pools_and_streams(name):
    model = make(SPECS[name])
    rng = np.random.default_rng(3)
    first, second = (draw(model.spec, rng, 1, 4) for _ in range(2))
    axis = 0 if name == "time_first" else 1
    stream, pool = model.stream(), model.pool(4)
    pool.open("other")
    handle = pool.open()
    stream.feed(first)
    pool.step({handle: first.squeeze(1 - axis)})
    assert pool.save(handle) == stream.save()
    loaded = pool.load(stream.save(), "loaded")
    again = model.stream()
    again.load(pool.save("loaded"))
    expected, found = stream.feed(second), pool.step({loaded: second.squeeze(1 - axis)})[loaded]
    for key, array in (expected if isinstance(expected, dict) else {SPECS[name].outputs[0]: expected}).items():
        one = np.take(array, 0, axis=SPECS[name].values[key].shape.index("B"))
        assert equal(one, (found[key] if isinstance(found, dict) else found))
    assert again.state == pool.state(handle)


def test_whole_pools_as_bytes():
    model = make(SPECS["graph"])
    pool = model.pool(5)
    for id in ("a", 7, "c"):
        pool.open(id)
        pool.step({id: chunk(3, len(pool))})
    handle = pool.open()
    data = pool.save_all()
    other = model.pool(6)
    other.open("here")
    other.load_all(data)
    assert other.ids == ("here", "a", 7, "c", handle)
    for id in pool.ids:
        assert equal(pool.step({id: chunk()})[id], other.step({id: chunk()})[id])
    with pytest.raises(StreamError, match="4 more streams"):
        model.pool(3).load_all(data)
    with pytest.raises(StateError, match="of the model"):
        make(SPECS["graph"], seed=1).pool(9).load_all(data)
    empty = model.pool(2)
    empty.load_all(model.pool(1).save_all())
    assert len(empty) == 0
    pool.open(("not", "text"))
    with pytest.raises(StateError, match="tuple"):
        pool.save_all()


def test_ages():
    now = [100.0]
    pool = make(SPECS["lstm"]).pool(4, clock=lambda: now[0])
    for id in "abcd":
        pool.open(id)
    now[0] = 110.0
    pool.step({"b": chunk()})
    now[0] = 115.0
    pool.step(chunk()[None], pool.handles("d"))
    now[0] = 120.0
    assert pool.idle(5.0) == ["a", "c", "b", "d"]
    assert pool.idle(10.0) == ["a", "c", "b"]
    kept = {}
    state = pool.state("b")
    assert pool.evict(10.0, keep=kept.__setitem__) == ["a", "c", "b"]
    assert pool.ids == ("d",)
    assert list(kept) == ["a", "c", "b"]
    pool.load(kept["b"], "b")
    assert pool.state("b") == state
    assert pool.idle(0.5) == ["d"], "a loaded stream is young"


def test_an_evicted_stream_that_could_not_be_kept_stays():
    pool = make(SPECS["lstm"]).pool(2, clock=lambda: 0.0)
    pool.open("a")

    def fail(id, data):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        pool.evict(0.0, keep=fail)
    assert pool.ids == ("a",)


def test_finish():
    spec = Spec([X], [Recurrent("r", LSTM(I, 6), "x", direction="bidirectional"), linear("head", "r", 12, 3)], ["head"])
    model = make(spec)
    pool, alone = model.pool(3, lookahead=3, block=2), model.stream(lookahead=3, block=2)
    pool.open("a"), pool.open("b")
    first = pool.step({"a": chunk(7), "b": chunk(3)})["a"]
    last = pool.finish("a")
    assert equal(np.concatenate((first, last)), np.concatenate((alone.feed(chunk(7)), alone.finish())))
    with pytest.raises(StreamError, match="finished"):
        pool.step({"a": chunk()})
    pool.step({"b": chunk()})
    pool.fork("a", "c")
    with pytest.raises(StreamError, match="finished"):
        pool.step({"c": chunk()})
    pool.reset("a")
    assert equal(pool.step({"a": chunk(7)})["a"], first)


def test_finished_streams_of_a_bare_stack(pool):
    """The short way knows them too."""
    pool.open("a"), pool.open("b")
    pool.step({"a": chunk()})
    assert pool.finish("a").shape == (0, 9)
    for use in (lambda: pool.step({"a": chunk()}), lambda: pool.step(chunk()[None], pool.handles("a"))):
        with pytest.raises(StreamError, match="finished"):
            use()
    pool.load(pool.save("a"), "c")
    with pytest.raises(StreamError, match="finished"):
        pool.step({"c": chunk()})
    pool.reset("a")
    pool.step({"a": chunk(), "b": chunk()})


def test_inputs_without_time():
    """Each stream has its own; their sizes are the pool's."""
    spec = Spec(
        [X, Input("speaker", "float", ("B", 4))],
        [
            linear("start", "speaker", 4, 2 * 6),
            Node("rows", "Reshape", "start", {"shape": (-1, 2, 6)}),
            Node("layers", "Transpose", "rows", {"perm": (1, 0, 2)}),
            Node("other", "Tanh", "layers"),
            Recurrent("r", LSTM(I, 6), "x", layers=2, initial=("layers", "other")),
        ],
        ["r"],
    )
    model = make(spec)
    rng = np.random.default_rng(5)
    x, speakers = draw(spec, rng, 3, 6), rng.standard_normal((3, 4)).astype(np.float32)
    whole = model.run({"x": x, "speaker": speakers})["r"]
    pool = model.pool(4)
    for row in range(3):
        pool.open(row, inputs={"speaker": speakers[row : row + 1]})
    first = pool.step({row: x[row, :2] for row in range(3)})
    pool.load(pool.save(1), "again")
    second = pool.step({**{row: x[row, 2:] for row in range(3)}, "again": x[1, 2:]})
    for row in range(3):
        assert_close(np.concatenate((first[row], second[row])), whole[row], 1e-6)
    assert equal(second["again"], second[1])
    pool.reset(1)
    assert equal(pool.step({1: x[1, :2]})[1], first[1])
    with pytest.raises(InputError, match="'speaker' missing"):
        pool.open()


def test_several_inputs_with_time():
    spec = Spec(
        [X, Input("ids", "int64", ("B", "T"))],
        [
            Node("e", "Embedding", "ids", {"input_size": 11, "output_size": I}),
            Node("sum", "Add", ("x", "e")),
            Recurrent("r", LSTM(I, 6), "sum"),
        ],
        ["r"],
    )
    model = make(spec)
    rng = np.random.default_rng(6)
    x, ids = draw(spec, rng, 2, 6), draw(spec, rng, 2, 6, "ids")
    whole = model.run({"x": x, "ids": ids})["r"]
    pool = model.pool(2)
    handles = [pool.open(), pool.open()]
    found = pool.step({handles[0]: {"x": x[0], "ids": ids[0]}, handles[1]: {"x": x[1, :2], "ids": ids[1, :2]}})
    assert equal(found[handles[0]], whole[0])
    assert equal(pool.step({"x": x[1:, 2:], "ids": ids[1:, 2:]}, handles[1:]), whole[1:, 2:])
    for bad, words in (
        ({"x": x[0]}, "'ids' missing"),
        ({"x": x[0], "ids": ids[0, :3]}, "3 steps, expected 6"),
        ({"x": x[0], "id": ids[0]}, "'id' is unknown"),
        (x[0], "2 inputs"),
    ):
        with pytest.raises(InputError, match=words):
            pool.step({handles[0]: bad})


def test_a_batch_fixed_at_one():
    spec = Spec([Input("x", "float", (1, "T", I))], [Recurrent("r", LSTM(I, 6), "x"), linear("h", "r", 6, 2)], ["h"])
    model = make(spec)
    pool = model.pool(3)
    pool.open("a"), pool.open("b")
    x = draw(spec, np.random.default_rng(0), 1, 6)
    whole = model(x)[0]
    found = [pool.step({"a": x[0, :2], "b": x[0, :5]}), pool.step({"a": x[0, 2:], "b": x[0, 5:]})]
    for id in "ab":
        assert equal(np.concatenate([part[id] for part in found]), whole)


def test_a_batch_fixed_at_one_runs_as_one():
    """Where the graph keeps rows apart they need not run one by one; a stream still has one row."""
    nodes = [Recurrent("r", LSTM(I, 6), "x", initial=("h", "c")), linear("head", "r", 6, 2)]
    states = [Input(name, "float", (1, 1, 6)) for name in "hc"]
    model = make(Spec([Input("x", "float", (1, "T", I)), *states], nodes, ["head", "r.h"]))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, I)).astype(np.float32)
    starts = [{name: rng.standard_normal((1, 1, 6)).astype(np.float32) for name in "hc"} for _ in x]
    pool = model.pool(4)
    assert not pool._program.plan.fixed
    handles = np.array([pool.open(inputs=start) for start in starts])
    parts = [pool.step(x[:, part], handles) for part in (slice(2), slice(2, 6))]
    for row, start in enumerate(starts):
        whole = model.run({"x": x[[row]], **start})
        assert equal(np.concatenate([part["head"][row] for part in parts]), whole["head"][0])
        assert equal(parts[1]["r.h"][:, [row]], whole["r.h"])
    with pytest.raises(InputError, match="batch"):
        model.stream(2, inputs=starts[0])


def signal_spec(layout, state):
    """Steps without a batch: windows, a layer between them whose batch is made of nothing, and sizes of the graph."""
    first = layout == "time_first"
    nodes = [
        Node("turned", "Transpose", "x", {"perm": (1, 0)}),
        Node("image", "Unsqueeze", "turned", {"axes": (0,)}),
        Node("conv", "Conv", "image", {
            "kernel_shape": (4,), "strides": (2,), "pads": (3, 0), "input_size": I, "output_size": 5,
        }),
        Node("steps", "Transpose", "conv", {"perm": (2, 0, 1) if first else (0, 2, 1)}),
        Node("start", "Constant", (), {"dtype": "float", "shape": (1, 1, 6), "value": None}),
        Recurrent("r", LSTM(5, 6), "steps", layout=layout, initial=("start", "start") if state else ()),
        Node("relu", "Relu", "r"),
        linear("head", "relu", 6, 3),
        Node("y", "Reshape", "head", {"shape": (-1, 3)}),
        Node("frames", "Frames", "y", {"axis": 0, "size": 3, "step": 2, "begin": 1}),
    ]  # fmt: skip
    nodes = [node for node in nodes if state or node.name != "start"]
    return Spec([Input("x", "float", ("T", I))], nodes, ["frames", "y", "r"])


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("layout", ["time_first", "batch_first"])
def test_rows_without_a_batch_run_in_one_sequence(layout, state):
    model = make(signal_spec(layout, state))
    rng = np.random.default_rng(4)
    x = rng.standard_normal((5, 40, I)).astype(np.float32)
    pool, alone = model.pool(6), [model.stream() for _ in x]
    assert pool._program.plan.fixed and pool._program.batchless
    for id in range(5):
        pool.open(id)
    places = [0] * 5
    for step in range(12):
        lengths = rng.integers(0, 5, 5) if step % 3 else [4] * 5
        pieces = {id: x[id, places[id] : places[id] + length] for id, length in enumerate(lengths)}
        found = pool.step({id: pieces[id] for id in rng.permutation(5).tolist()})
        places = [place + length for place, length in zip(places, lengths, strict=True)]
        for id, piece in pieces.items():
            expected = alone[id].feed(piece)
            expected["r"] = expected["r"].reshape(-1, 6)  # a pool gives a row's outputs without a batch
            assert all(equal(found[id][name], expected[name]) for name in expected), (step, id)
    for id in range(5):
        expected = alone[id].finish()
        found = pool.finish(id)
        expected["r"] = expected["r"].reshape(-1, 6)
        assert all(equal(found[name], expected[name]) for name in expected)


def test_every_row_of_a_pool_without_a_batch():
    model = make(signal_spec("time_first", True))
    x = np.random.default_rng(5).standard_normal((3, 12, I)).astype(np.float32)
    pool = model.pool(3)
    found = pool.step(x, np.array([pool.open() for _ in x]))
    for row in range(3):
        expected = model.stream().feed(x[row])
        assert all(equal(found[name][row], expected[name]) for name in ("frames", "y"))


def test_a_batch_fixed_at_one_that_would_mix_rows():
    nodes = [
        Recurrent("r", LSTM(I, 6), "x"),
        Node("mean", "ReduceMean", "r", {"axes": (0,), "keepdims": True}),
        linear("h", "mean", 6, 2),
    ]
    model = make(Spec([Input("x", "float", (1, "T", I))], nodes, ["h"]))
    x = np.random.default_rng(0).standard_normal((3, 6, I)).astype(np.float32)
    pool = model.pool(3)
    assert pool._program.plan.fixed and pool._program.batchless  # along the time they do not meet
    found = pool.step(x, np.array([pool.open() for _ in x]))
    assert equal(found, np.concatenate([model(row[None]) for row in x]))


@pytest.mark.parametrize("name", SPECS)
def test_by_id_what_arrays_give(name):
    """Pieces of one length and of several, plain arrays and others, among them none of a step; each output its own."""
    spec = SPECS[name]
    model = make(spec)
    axis = 0 if name == "time_first" else 1
    rng = np.random.default_rng(7)
    x = draw(spec, rng, 3, 5)
    rows = [np.take(x, row, axis=1 - axis) for row in range(3)]
    for lengths in ([5, 5, 5], [2, 0, 5]):
        pool, other = model.pool(3), model.pool(3)
        handles = np.array([pool.open(id) for id in "abc"])
        for id in "abc":
            other.open(id)
        pieces = {id: row[:count] for id, row, count in zip("abc", rows, lengths, strict=True)}
        given = {"x": x} if len(model.inputs) > 1 else x
        expected = pool.step(given, handles, lengths=np.array(lengths))
        found = other.step({id: piece if id != "b" else piece.tolist() or piece for id, piece in pieces.items()})
        plain = model.pool(3)
        for id in "abc":
            plain.open(id)
        again = plain.step(pieces)
        expected = expected if isinstance(expected, dict) else {spec.outputs[0]: expected}
        seen = []
        for row, id in enumerate("abc"):
            for results in (found, again):
                one = results[id] if isinstance(results[id], dict) else {spec.outputs[0]: results[id]}
                assert list(one) == list(expected)
                for key, array in expected.items():
                    shape = spec.values[key].shape
                    whole = np.take(array, row, axis=shape.index("B"))
                    if "T" in shape:
                        place = shape.index("T") - (shape.index("B") < shape.index("T"))
                        whole = np.take(whole, range(lengths[row]), axis=place)
                    assert equal(one[key], whole), (name, key, id)
                    assert not any(np.shares_memory(one[key], earlier) for earlier in seen)
                    seen.append(one[key])


def test_memory_is_that_of_the_states():
    """float32: four bytes for each number of the state, and one."""
    pool = make(SPECS["large"]).pool(1000)
    assert pool.nbytes == 1000 * (4 * 2 * 2 * 64 + 1)


def test_nothing_is_allocated_with_out():
    model = make(SPECS["large"])
    pool = model.pool(40)
    handles = pool.handles([pool.open() for _ in range(33)])
    x = np.random.default_rng(0).standard_normal((33, 2, I)).astype(np.float32)
    lengths = np.random.default_rng(0).integers(0, 3, 33)
    out = np.empty((33, 2, 64), np.float32)
    pool.step(x, handles, lengths=lengths, out=out)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()
        for _ in range(200):
            pool.step(x, handles, out=out)
        after = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < (1000 if runs_native(model.dtype) else 20_000)
    assert runs_native(model.dtype) is False or after[1] - before[0] < 3000


def test_the_gil_is_free_while_a_large_step_runs():
    """Another thread goes on meanwhile, and finds the pool taken."""
    spec = Spec([Input("x", "float", ("B", "T", 256))], [Recurrent("r", LSTM(256, 256), "x")], ["r"])
    pool = make(spec, num_threads=1).pool(64)
    handles = pool.handles([pool.open() for _ in range(64)])
    x = np.zeros((64, 60, 256), np.float32)
    refused, stop = [], threading.Event()

    def meanwhile():
        while not stop.wait(0.002):
            try:
                pool.state(int(handles[0]))
            except StreamError:
                refused.append(True)

    thread = threading.Thread(target=meanwhile)
    thread.start()
    for _ in range(30):
        with contextlib.suppress(StreamError):  # the other may have it
            pool.step(x, handles)
    stop.set()
    thread.join()
    assert refused, "nobody else ran while a step did"
