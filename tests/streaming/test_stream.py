"""Streams: any cut of a sequence gives the outputs of the whole, bit for bit; states in and out; what is refused."""

import gc
import signal
import threading
import tracemalloc

import numpy as np
import pytest
from agreement import assert_close, assert_unchanged
from random_networks import random_network, seeds
from stream_models import SPECS, I, X, cuts, draw, equal, linear, make

import rnncore
from rnncore import AttentionDecoder, Input, InputError, Model, Node, Recurrent, Spec, StateError, StreamError
from rnncore.cells import GRU, LSTM
from rnncore.errors import UnsupportedError
from rnncore.kernels import runs_native


def axis_of(spec):
    return spec.values["x"].shape.index("T")


def pieces(x, axis, slices):
    return [x[(slice(None),) * axis + (part,)] for part in slices]


def joined(spec, found):
    """What a stream gave in pieces, as a whole run gives it."""
    if not isinstance(found[0], dict):
        found = [{spec.outputs[0]: array} for array in found]
    outputs = {}
    for name in spec.outputs:
        shape = spec.values[name].shape
        arrays = [part[name] for part in found]
        outputs[name] = np.concatenate(arrays, axis=shape.index("T")) if "T" in shape else arrays[-1]
    return outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPECS)
def test_any_cut_gives_the_whole(name, dtype):
    spec = SPECS[name]
    model = make(spec, dtype=dtype)
    rng = np.random.default_rng(1)
    x = draw(spec, rng, 3, 24)
    x = x if x.dtype.kind == "i" else x.astype(dtype)
    whole = model.run({"x": x})
    for trial in range(5):
        stream = model.stream(3)
        found = [stream.feed(piece) for piece in pieces(x, axis_of(spec), cuts(rng, 24))]
        assert_unchanged(joined(spec, found), whole, dtype, f"{name} cut {trial}")


@pytest.mark.parametrize("seed", seeds(60))
def test_random_networks_stream_or_say_why_not(seed):
    """Every option of every cell: forward graphs stream, others name the layer that looks ahead."""
    network = random_network(seed, batch=3, steps=9)
    model = Model(network.spec, network.weights, network.dtype)
    backwards = [node for node in network.spec.recurrent if node.direction != "forward"]
    if backwards:
        assert f"node {backwards[0].name!r}" in model.unstreamable
        return
    assert model.unstreamable is None
    rng = np.random.default_rng(seed)
    given = {name: array for name, array in network.given.items() if name != "lengths"}
    static = {name: array for name, array in given.items() if "T" not in network.spec.values[name].shape}
    moving = {name: array for name, array in given.items() if name not in static}
    whole = model.run(given)
    stream = model.stream(3, inputs=static)
    found = []
    for part in cuts(rng, 9):
        found.append(
            stream.feed(
                {name: array[(slice(None),) * network.spec.values[name].shape.index("T") + (part,)]
                 for name, array in moving.items()}
            )
        )  # fmt: skip
    found = [part if isinstance(part, dict) else {network.spec.outputs[0]: part} for part in found]
    assert_unchanged(joined(network.spec, found), whole, network.dtype, f"seed {seed}")


def test_random_networks_have_forward_ones():
    assert sum(all(n.direction == "forward" for n in random_network(seed).spec.recurrent) for seed in range(60)) >= 5


def test_one_row_may_leave_the_batch_out():
    model = make(SPECS["lstm"])
    x = draw(model.spec, np.random.default_rng(0), 1, 6)
    whole = model(x)
    stream = model.stream()
    assert equal(stream.feed(x[0, :2]), whole[0, :2])
    assert stream.feed(x[0, 2]).shape == (9,)
    assert equal(stream.feed(x[:, 3:]), whole[:, 3:])
    model = make(SPECS["embedding"])
    ids = draw(model.spec, np.random.default_rng(0), 1, 6)
    stream = model.stream()
    found = np.concatenate([stream.feed(ids[0, :4]), stream.feed(ids[0, 4:])])
    assert equal(found, model(ids)[0])


def test_ragged_pieces():
    """Rows of a piece that have different lengths go on where each of them stopped."""
    for name in ("lstm", "graph", "several"):
        model = make(SPECS[name])
        rng = np.random.default_rng(3)
        x = draw(model.spec, rng, 4, 20)
        stream = model.stream(4)
        at, given = np.zeros(4, int), [[] for _ in range(4)]
        for _ in range(6):
            lengths = rng.integers(0, 4, 4)
            piece = np.full((4, 4, I), np.nan, np.float32)
            for row, length in enumerate(lengths):
                piece[row, :length] = x[row, at[row] : at[row] + length]
            found = stream.feed(piece, lengths=lengths)
            y = found["r"] if isinstance(found, dict) else found
            for row, length in enumerate(lengths):
                given[row].append(y[row, :length])
                assert not y[row, length:].any(), "behind a length stand zeros"
            at += lengths
        for row in range(4):
            whole = model(x[row : row + 1, : at[row]])
            if isinstance(whole, dict):
                assert equal(found["t"][row], whole["t"][0])
                assert equal(found["r.c"][:, row], whole["r.c"][:, 0])
                whole = whole["r"]
            assert equal(np.concatenate(given[row]), whole[0]), name


def test_masks_with_gaps():
    """A masked step repeats the output before it, also where that was given in an earlier piece."""
    spec = Spec([X], [Recurrent("r", GRU(I, 6), "x", mask="mask")], ["r", "r.last"])
    model = make(spec)
    rng = np.random.default_rng(4)
    x, mask = draw(spec, rng, 3, 30), rng.random((3, 30)) < 0.5
    mask[0, :9] = False
    whole = model(x, mask=mask)
    stream = model.stream(3)
    found = [stream.feed(x[:, part], mask=mask[:, part]) for part in cuts(rng, 30)]
    assert_unchanged(joined(spec, found), whole, "float32")


def test_masks_between_plain_pieces():
    """A layer from raw arrays takes masks, and the short way where there is none."""
    rng = np.random.default_rng(4)
    model = rnncore.GRU(
        weight_ih=draw(SPECS["lstm"], rng, 1, 21)[0], weight_hh=rng.standard_normal((21, 7)).astype(np.float32),
        bias=rng.standard_normal(42).astype(np.float32), order="torch",
    )  # fmt: skip
    x, mask = draw(SPECS["lstm"], rng, 2, 12), rng.random((2, 12)) < 0.5
    mask[:, 4:6] = True
    mask[:, 6:8] = mask[0, :3] = False
    whole = model(x, mask=mask)
    stream = model.stream(2)
    found = [stream.feed(x[:, :4], mask=mask[:, :4]), stream.feed(x[:, 4:6]), stream.feed(x[:, 6:], mask=mask[:, 6:])]
    assert equal(np.concatenate(found, axis=1), whole)
    pool = model.pool(2)
    handles = pool.handles([pool.open(), pool.open()])
    found = []
    for part in (slice(4), slice(4, 6), slice(6, 12)):
        piece = {"x": x[:, part], "mask": mask[:, part]} if part.start != 4 else x[:, part]
        found.append(pool.step(piece, handles))
    assert equal(np.concatenate(found, axis=1), whole)


def test_reset_some_rows():
    model = make(SPECS["graph"])
    rng = np.random.default_rng(5)
    x, y = draw(model.spec, rng, 3, 5), draw(model.spec, rng, 3, 5)
    stream = model.stream(3)
    stream.feed(x)
    stream.reset([False, True, False])
    found = stream.feed(y)
    both = model(np.concatenate((x, y), axis=1))[:, 5:]
    assert equal(found[[0, 2]], both[[0, 2]])
    assert equal(found[1], model(y)[1])
    stream.reset()
    assert equal(stream.feed(x), model(x))
    with pytest.raises(InputError, match="rows"):
        stream.reset([7])


def test_copy_goes_its_own_way():
    for name in ("gru", "graph"):
        model = make(SPECS[name])
        rng = np.random.default_rng(6)
        x, y, z = (draw(model.spec, rng, 2, 4) for _ in range(3))
        stream = model.stream(2)
        stream.feed(x)
        other = stream.copy()
        first, second = stream.feed(y), other.feed(z)
        assert equal(first, model(np.concatenate((x, y), 1))[:, 4:])
        assert equal(second, model(np.concatenate((x, z), 1))[:, 4:])


def test_save_and_load():
    for name in SPECS:
        model = make(SPECS[name])
        rng = np.random.default_rng(7)
        axis = axis_of(model.spec)
        x = draw(model.spec, rng, 2, 8)
        first, second = pieces(x, axis, [slice(0, 3), slice(3, 8)])
        stream = model.stream(2)
        stream.feed(first)
        data = stream.save()
        expected = stream.feed(second)
        again = make(SPECS[name]).stream(2)  # as another process would
        again.load(data)
        assert again.save() == data
        found = again.feed(second)
        assert_unchanged(joined(model.spec, [found]), joined(model.spec, [expected]), "float32", name)


def test_load_refuses_other_models_and_sizes():
    model = make(SPECS["lstm"])
    stream = model.stream(2)
    x = draw(model.spec, np.random.default_rng(0), 2, 3)
    stream.feed(x)
    before = stream.save()
    for other in (make(SPECS["lstm"], seed=1).stream(2), make(SPECS["lstm"], dtype="float64").stream(2)):
        with pytest.raises(StateError, match="of the model"):
            stream.load(other.save())
    with pytest.raises(StateError, match=r"for 2 rows"):
        stream.load(model.stream(3).save())
    with pytest.raises(rnncore.FormatError, match="checksum"):
        stream.load(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    assert stream.save() == before


def test_state_in_and_out():
    """A stream's state is that of model(x, state), both ways."""
    model = make(SPECS["several"])
    rng = np.random.default_rng(8)
    x, y = draw(model.spec, rng, 2, 4), draw(model.spec, rng, 2, 4)
    _, state = model(x, None)
    stream = model.stream(2)
    stream.feed(x)
    assert stream.state == state
    other = model.stream(2)
    other.state = state
    assert equal(other.feed(y)["r"], stream.feed(y)["r"])
    state.h[...] = np.nan  # belongs to the caller
    assert np.isfinite(other.state.h).all()
    with pytest.raises(StateError):
        other.state = model(draw(model.spec, rng, 3, 1), None)[1]


def test_outputs_belong_to_the_caller():
    for name in ("lstm", "several"):
        model = make(SPECS[name])
        x = draw(model.spec, np.random.default_rng(9), 1, 4)
        stream, other = model.stream(), model.stream()
        for array in (lambda found: found.values() if isinstance(found, dict) else [found])(stream.feed(x)):
            array[...] = np.nan
        other.feed(x)
        assert_unchanged(joined(model.spec, [stream.feed(x)]), joined(model.spec, [other.feed(x)]), "float32")


def test_out():
    for name in ("lstm", "graph"):
        model = make(SPECS[name])
        x = draw(model.spec, np.random.default_rng(0), 1, 1)
        out = np.empty((1, 1, model(x).shape[2]), np.float32)
        stream = model.stream()
        assert stream.feed(x, out=out) is out
        assert equal(out, model(x))
        with pytest.raises(InputError, match="out"):
            stream.feed(x, out=np.empty((1, 2, 9), np.float32))


def test_out_may_be_the_input():
    """An overlap takes the long way, which computes before it writes."""
    spec = Spec([X], [Recurrent("r", GRU(I, I), "x")], ["r"])
    model = make(spec)
    x = draw(spec, np.random.default_rng(0), 1, 4)
    expected = model(x)
    stream = model.stream()
    assert equal(stream.feed(x, out=x), expected)


def test_other_layouts_dtypes_and_strides():
    model = make(SPECS["lstm"])
    x = draw(model.spec, np.random.default_rng(0), 2, 6)
    whole = model(x)
    for given in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
        assert equal(model.stream(2).feed(given), whole)
    with pytest.warns(UserWarning, match="float64"):
        assert equal(model.stream(2).feed(x.astype(np.float64)), whole)
    with pytest.raises(InputError, match="dtype"):
        model.stream(2).feed(x.astype(np.complex64))


def test_errors_change_nothing():
    model = make(SPECS["graph"])
    rng = np.random.default_rng(10)
    x = draw(model.spec, rng, 2, 3)
    stream = model.stream(2)
    stream.feed(x)
    before = stream.save()
    for bad, words in (
        (x[:, :, :4], "expected"),
        (x[:1], "batch of 2"),
        ({"y": x}, "unknown"),
        ({}, "missing"),
        ("chunk", "x"),
        (None, "x"),
    ):
        with pytest.raises(InputError, match=words):
            stream.feed(bad)
    for lengths in ([1], [1, 4], [-1, 1], [0.5, 1.0]):
        with pytest.raises(InputError, match="lengths"):
            stream.feed(x, lengths=lengths)
    with pytest.raises(InputError, match="unknown"):
        stream.feed(x, mask=np.ones((2, 3), bool))
    assert stream.save() == before


def test_a_failure_behind_a_layer_changes_nothing():
    """Also on the short way, where layers change their states in place."""
    model = make(SPECS["graph"])
    x = draw(model.spec, np.random.default_rng(0), 1, 3)
    stream = model.stream()
    stream.feed(x)
    before = stream.save()

    def fail(values, *_):
        raise MemoryError("no room")

    steps = stream._fast_call.steps if stream._fast_call is not None else stream._program.plain
    stream._fast_call.bindings = None
    steps.append(fail)
    with pytest.raises(MemoryError, match="no room"):
        stream.feed(x)
    assert stream.save() == before
    steps.pop()
    assert equal(stream.feed(x[0]), model(np.concatenate((x, x), axis=1))[0, 3:])


def test_bad_ids_change_nothing():
    model = make(SPECS["embedding"])
    stream = model.stream()
    stream.feed([1, 2])
    before = stream.save()
    with pytest.raises(InputError, match="id 99"):
        stream.feed([3, 99])
    assert stream.save() == before


def test_closed_and_finished():
    model = make(SPECS["lstm"])
    x = draw(model.spec, np.random.default_rng(0), 1, 3)
    with model.stream() as stream:
        y = stream.feed(x)
        assert stream.finish().shape == (1, 0, 9)
        with pytest.raises(StreamError, match="finished"):
            stream.feed(x)
        with pytest.raises(StreamError, match="finished"):
            stream.finish()
        data = stream.save()
        stream.reset()
        assert equal(stream.feed(x), y)
        stream.load(data)
        with pytest.raises(StreamError, match="finished"):
            stream.feed(x)
    assert stream.closed
    for use in (lambda: stream.feed(x), stream.reset, stream.copy, stream.save, stream.finish, lambda: stream.state):
        with pytest.raises(StreamError, match="closed"):
            use()


@pytest.mark.parametrize("batch", [0, -1, True, 1.5, "2"])
def test_bad_batch(batch):
    with pytest.raises(InputError, match="batch"):
        make(SPECS["lstm"]).stream(batch)


def test_two_threads_on_one_stream():
    """A second user gets an error, never a race: what got through is a run of those pieces in some order."""
    spec = Spec([Input("x", "float", ("B", "T", 64))], [Recurrent("r", LSTM(64, 256), "x")], ["r"])
    model = make(spec, num_threads=1)
    stream = model.stream(8)
    x = draw(spec, np.random.default_rng(0), 8, 40)
    done, refused = [0], [0]
    lock = threading.Lock()

    def feed():
        for _ in range(40):
            try:
                stream.feed(x)
                with lock:
                    done[0] += 1
            except StreamError as error:
                assert "another thread" in str(error)
                with lock:
                    refused[0] += 1

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done[0] and refused[0]
    alone = model.stream(8)
    for _ in range(done[0]):
        alone.feed(x)
    assert alone.state == stream.state


@pytest.mark.parametrize("pooled", [False, True])
def test_an_interrupt_leaves_the_state(pooled):
    """A signal handler that raises ends a long feed; the stream is where it was."""
    spec = Spec([Input("x", "float", ("B", "T", 64))], [Recurrent("r", LSTM(64, 256), "x", layers=2)], ["r"])
    model = make(spec, num_threads=1)
    x = draw(spec, np.random.default_rng(0), 32, 4000)
    target = model.pool(32) if pooled else model.stream(32)
    handles = target.handles([target.open() for _ in range(32)]) if pooled else None
    feed = (lambda x: target.step(x, handles)) if pooled else target.feed
    feed(np.ascontiguousarray(x[:, :3]))
    before = target.save_all() if pooled else target.save()

    def handler(number, frame):
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            feed(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert (target.save_all() if pooled else target.save()) == before
    feed(np.ascontiguousarray(x[:, :3]))


def test_nothing_is_allocated_with_out():
    model = make(SPECS["large"])
    stream = model.stream()
    x = draw(model.spec, np.random.default_rng(0), 1, 1)
    out = stream.feed(x)
    stream.feed(x, out=out)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()
        for _ in range(1000):
            stream.feed(x, out=out)
        after = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < (1000 if runs_native(model.dtype) else 20_000)
    assert runs_native(model.dtype) is False or after[1] - before[0] < 2000


# --- values that do not depend on the sequence ----------------------------------------------------------------------


def test_attention_decoder_in_a_stream():
    """The memory is given once; the words come one by one."""
    node = AttentionDecoder(
        "d", LSTM(4 + 6, 7), "x", memory="memory", memory_size=6, attention="bahdanau", attention_size=5,
        memory_mask="valid", order="before",
    )  # fmt: skip
    spec = Spec(
        [
            Input("x", "float", ("B", "T", 4)),
            Input("memory", "float", ("B", "S", 6)),
            Input("valid", "int64", ("B",), optional=True),
        ],
        [node, linear("head", "d", 7, 3)],
        ["head", "d.weights"],
    )
    model = make(spec)
    rng = np.random.default_rng(11)
    x = rng.standard_normal((2, 9, 4)).astype(np.float32)
    memory = rng.standard_normal((2, 5, 6)).astype(np.float32)
    valid = np.array([5, 3])
    whole = model.run({"x": x, "memory": memory, "valid": valid})
    stream = model.stream(2, inputs={"memory": memory, "valid": valid})
    found = [stream.feed(x[:, part]) for part in cuts(rng, 9)]
    for name, array in joined(spec, found).items():
        assert_close(array, whole[name], 1e-6, name)
    data = stream.save()
    again = model.stream(2, inputs={"memory": np.zeros_like(memory)})
    again.load(data)
    more = rng.standard_normal((2, 2, 4)).astype(np.float32)
    assert_close(again.feed(more)["head"], stream.feed(more)["head"], 1e-6)
    with pytest.raises(InputError, match="'memory' missing"):
        model.stream(2)
    with pytest.raises(InputError, match="batch of 2"):
        model.stream(2, inputs={"memory": memory[:1]})
    with pytest.raises(InputError, match="'x' is unknown"):
        model.stream(2, inputs={"memory": memory, "x": x})


# --- attention over a window ----------------------------------------------------------------------------------------


def windowed(history):
    """Multi-head attention of steps on the last ``history``, as a whole run with a banded mask says it."""
    attributes = {"query_size": I, "value_size": I, "num_heads": 2, "key_dim": 3}
    causal = Spec(
        [X],
        [Node("a", "MultiHeadAttention", ("x", "x"), {**attributes, "causal": True}), Recurrent("r", GRU(I, 6), "a")],
        ["r", "a"],
    )  # fmt: skip
    banded = Spec(
        [X, Input("band", "bool", ("T", "T"))],
        [
            Node("a", "MultiHeadAttention", ("x", "x", "", "", "", "", "band"), attributes),
            Recurrent("r", GRU(I, 6), "a"),
        ],
        ["r", "a"],
    )  # fmt: skip
    return causal, banded


@pytest.mark.parametrize("history", [1, 4, 50])
def test_attention_over_a_window(history):
    causal, banded = windowed(history)
    model, oracle = make(causal), make(banded)
    rng = np.random.default_rng(12)
    x = draw(causal, rng, 2, 20)
    t = np.arange(20)
    band = (t[:, None] >= t) & (t[:, None] - t < history)
    expected = oracle.run({"x": x, "band": band})
    runs = []
    for _ in range(3):
        stream = model.stream(2, history=history)
        runs.append(joined(causal, [stream.feed(x[:, part]) for part in cuts(rng, 20)]))
    for name, array in expected.items():
        assert_close(runs[0][name], array, 1e-6, name)
        assert equal(runs[0][name], runs[1][name])
        assert equal(runs[0][name], runs[2][name])


def test_attention_without_a_window_is_refused():
    model = make(windowed(3)[0])
    assert "node 'a' (MultiHeadAttention)" in model.unstreamable
    assert "history=n" in model.unstreamable
    with pytest.raises(UnsupportedError, match="history=n"):
        model.stream()


# --- looking ahead --------------------------------------------------------------------------------------------------


def both_ways(**options):
    spec = Spec(
        [X],
        [
            Recurrent("r", LSTM(I, H := 6), "x", direction="bidirectional", **options),
            linear("head", "r", 2 * H if options.get("merge", "concat") == "concat" else H, 3),
            linear("side", "x", I, 3),
            Node("sum", "Add", ("head", "side")),  # which waits for the other
        ],
        ["sum"],
    )
    return make(spec)


@pytest.mark.parametrize(
    "options", [{"layers": 2}, {"merge": "sum", "layers": 3}, {"merge": "mul", "trained_state": True}]
)
def test_lookahead_to_the_end_is_the_whole(options):
    model = both_ways(**options)
    rng = np.random.default_rng(13)
    x = draw(model.spec, rng, 2, 15)
    stream = model.stream(2, lookahead=15)
    found = [stream.feed(x[:, part]) for part in cuts(rng, 15)]
    assert sum(part.shape[1] for part in found) == 0
    assert equal(stream.finish(), model(x))


@pytest.mark.parametrize(("lookahead", "block"), [(0, 1), (4, 3), (2, None), (3, 8)])
def test_lookahead_by_its_definition(lookahead, block):
    """One layer: the forward direction of the whole; the reverse one of each block and what is ahead of it."""
    spec = Spec([X], [Recurrent("r", LSTM(I, 6), "x", direction="bidirectional", merge="separate")],
                ["r.forward", "r.reverse"])  # fmt: skip
    model = make(spec)
    rng = np.random.default_rng(14)
    x = draw(spec, rng, 2, 22)
    forward = model(x)["r.forward"]
    size, reverse = block or max(1, lookahead), []
    for first in range(0, 22, size):
        last = min(22, first + size)
        reverse.append(model(x[:, first : last + lookahead])["r.reverse"][:, : last - first])
    for _ in range(3):
        stream = model.stream(2, lookahead=lookahead, block=block)
        found = [stream.feed(x[:, part]) for part in cuts(rng, 22)]
        got = joined(spec, [*found, stream.finish()])
        assert equal(got["r.forward"], forward)
        assert equal(got["r.reverse"], np.concatenate(reverse, axis=1))
    known = 0
    stream = model.stream(2, lookahead=lookahead, block=block)
    for t in range(22):
        known += stream.feed(x[:, t : t + 1])["r.forward"].shape[1]
        assert known >= t + 1 - stream.latency
    assert stream.latency == lookahead + size - 1


def test_lookahead_in_a_saved_stream():
    model = both_ways(layers=2)
    rng = np.random.default_rng(15)
    x = draw(model.spec, rng, 2, 20)
    stream = model.stream(2, lookahead=3, block=4)
    whole = np.concatenate((stream.feed(x), stream.finish()), axis=1)
    stream = model.stream(2, lookahead=3, block=4)
    first = stream.feed(x[:, :10])
    other = model.stream(2, lookahead=3, block=4)
    other.load(stream.save())
    assert equal(np.concatenate((first, other.feed(x[:, 10:]), other.finish()), axis=1), whole)
    with pytest.raises(StateError, match="of the model"):
        model.stream(2, lookahead=4, block=4).load(stream.save())
    with pytest.raises(StateError, match="also carries"):
        other.state = stream.state


@pytest.mark.parametrize(("name", "value"), [("lookahead", -1), ("lookahead", 1.5), ("block", 0), ("history", 0)])
def test_bad_options(name, value):
    with pytest.raises(InputError, match=name):
        both_ways(layers=1).stream(**{name: value})


# --- what is refused, and by which name -----------------------------------------------------------------------------

REFUSED = {
    "a layer that reads backwards": (
        [Recurrent("back", LSTM(I, 3), "x", direction="reverse")], "back", "node 'back' (Recurrent)"
    ),
    "final states of both directions": (
        [Recurrent("both", LSTM(I, 3), "x", direction="bidirectional"), linear("head", "both.last", 6, 2)], "head",
        "node 'both' (Recurrent)",
    ),
    "softmax over time": ([Node("p", "Softmax", "x", {"axis": 1})], "p", "node 'p' (Softmax)"),
    "normalisation over time": ([Node("n", "LpNormalization", "x", {"axis": 1})], "n", "node 'n' (LpNormalization)"),
    "attention over all steps": (
        [Node("w", "WordAttention", "x", {"input_size": I, "attention_size": 2})], "w", "node 'w' (WordAttention)"
    ),
    "steps with what is known at the end": (
        [
            Recurrent("r", LSTM(I, I), "x"),
            Node("two", "Add", ("r", "r.last")),
        ],
        "two", "node 'two' (Add)",
    ),
    "a start that depends on the sequence": (
        [Recurrent("a", GRU(I, 3), "x"), Recurrent("b", GRU(I, 3), "x", initial=("a.h",))], "b", "node 'b' (Recurrent)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what):
    nodes, output, words = REFUSED[what]
    spec = Spec([Input("x", "float", ("B", "T", I))], nodes, [output])
    model = make(spec)
    assert words in model.unstreamable
    with pytest.raises(UnsupportedError) as error:
        model.stream()
    assert words in str(error.value)


def test_refused_with_lookahead():
    """Looking ahead does not give the end of the sequence."""
    nodes, output, _ = REFUSED["final states of both directions"]
    model = make(Spec([X], nodes, [output]))
    with pytest.raises(UnsupportedError, match=r"output 'head'.*node 'both' \(Recurrent\) has its final states only"):
        model.stream(lookahead=3)


def test_fixed_sizes():
    fixed = Spec([Input("x", "float", ("B", 8, I))], [Recurrent("r", LSTM(I, 3), "x")], ["r"])
    assert "8 steps" in make(fixed).unstreamable
    many = Spec([Input("x", "float", (4, "T", I))], [Recurrent("r", LSTM(I, 3), "x")], ["r"])
    assert "its batch is 4" in make(many).unstreamable


def test_a_known_shape_says_nothing_about_the_rest():
    """Pieces of a shape that came before, in another dtype, order or layout, or with a mask, are looked at again."""
    spec = Spec(
        [Input("x", "float", ("B", "T", I))],
        [
            Node("turned", "Transpose", "x", {"perm": (0, 2, 1)}),
            Node("c", "Conv", "turned", {"kernel_shape": (3,), "pads": (2, 0), "input_size": I, "output_size": 4}),
        ],
        ["c"],
    )
    model = make(spec)
    x = np.random.default_rng(3).standard_normal((1, 12, I)).astype(np.float32)
    whole, stream = model(x), model.stream()
    frozen = x[:, 4:8].copy()
    frozen.flags.writeable = False
    found = [
        stream.feed(x[:, :2]),
        stream.feed(x[:, 2:4].astype(np.float64).tolist()),
        stream.feed(frozen[:, :2]),
        stream.feed(np.asfortranarray(x[:, 6:8])),
        stream.feed(x[0, 8:10])[None],
    ]
    with pytest.raises(InputError, match="shape"):
        stream.feed(np.zeros((2, 2, I), np.float32))
    with pytest.raises(InputError, match="dtype"):
        stream.feed(np.zeros((1, 2, I), np.complex64))
    found.append(stream.feed(x[:, 10:]))
    assert equal(np.concatenate(found, axis=2), whole)


def test_a_batch_fixed_at_one():
    """As models traced with one row have it: such streams run one by one."""
    spec = Spec(
        [Input("x", "float", (1, "T", I))],
        [Recurrent("r", LSTM(I, 6), "x"), linear("head", "r", 6, 2)],
        ["head", "r.last"],
    )
    model = make(spec)
    rng = np.random.default_rng(16)
    x = draw(spec, rng, 1, 12)
    whole = model(x)
    stream = model.stream()
    found = [stream.feed(x[:, part]) for part in cuts(rng, 12)]
    assert_unchanged(joined(spec, found), whole, "float32")
    with pytest.raises(InputError, match="batch"):
        model.stream(2)


def test_reshape_that_keeps_steps_together():
    spec = Spec(
        [Input("x", "float", ("B", "T", 6))],
        [
            Node("apart", "Reshape", "x", {"shape": (0, 0, 2, 3)}),
            Node("turned", "Transpose", "apart", {"perm": (0, 1, 3, 2)}),
            Node("flat", "Reshape", "turned", {"shape": (0, 0, -1)}),
            Recurrent("r", GRU(6, 4), "flat"),
        ],
        ["r"],
    )
    model = make(spec)
    rng = np.random.default_rng(17)
    x = draw(spec, rng, 2, 9)
    stream = model.stream(2)
    found = np.concatenate([stream.feed(x[:, part]) for part in cuts(rng, 9)], axis=1)
    assert equal(found, model(x))


def test_reshape_that_mixes_steps_is_refused():
    nodes = [
        Node("turned", "Transpose", "x", {"perm": (0, 2, 1)}),
        Node("mixed", "Reshape", "turned", {"shape": (0, -1, 6)}),
        Recurrent("r", GRU(6, 4), "mixed"),
    ]
    spec = Spec([Input("x", "float", ("B", "T", 6))], nodes, ["r"])
    assert "node 'mixed' (Reshape)" in make(spec).unstreamable
