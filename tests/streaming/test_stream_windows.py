"""Convolutions and pooling in streams: left context kept, strides in phase, outputs late where a window looks ahead."""

import numpy as np
import pytest
from stream_models import I, X, cuts, draw, equal, make
from window_models import TURNED, WINDOWS, conv

from rnncore import InputError, Node, Spec, StateError, StreamError
from rnncore.errors import UnsupportedError
from rnncore.runtime.state import arrays_from_bytes, arrays_to_bytes

STEPS = 33


def arrays(spec, found):
    return found if isinstance(found, dict) else {spec.outputs[0]: found}


def joined(spec, found):
    outputs = {}
    for name in spec.outputs:
        axis = next((a for a, size in enumerate(spec.values[name].shape) if "T" in str(size)), None)
        parts = [arrays(spec, part)[name] for part in found]
        outputs[name] = parts[-1] if axis is None else np.concatenate(parts, axis=axis)
    return outputs


def assert_same(found, expected, what=""):
    for name, array in expected.items():
        assert equal(found[name], array), f"{what}: {name}"


@pytest.mark.parametrize("steps", [STEPS, 8, 9])
@pytest.mark.parametrize("name", WINDOWS)
def test_any_cut_gives_the_whole(name, steps):
    spec, latency = WINDOWS[name]
    model = make(spec)
    rng = np.random.default_rng(0)
    x = draw(spec, rng, 3, steps)
    whole = arrays(spec, model(x))
    for longest in (2, 5, 40):
        stream = model.stream(3)
        found = [stream.feed(x[:, part]) for part in cuts(rng, steps, longest)]
        assert_same(joined(spec, [*found, stream.finish()]), whole, f"{name}, pieces up to {longest}")
    assert stream.latency == latency


@pytest.mark.parametrize("name", WINDOWS)
def test_outputs_come_as_early_as_they_can(name):
    """One step at a time: never later than latency says, and at least once as late."""
    spec, _ = WINDOWS[name]
    model = make(spec)
    stream = model.stream()
    x = draw(spec, np.random.default_rng(0), 1, 60)
    output = next(n for n in spec.outputs if "T" in str(spec.values[n].shape))
    axis = next(a for a, size in enumerate(spec.values[output].shape) if "T" in str(size))
    whole = arrays(spec, model(x))[output].shape[axis]
    rate = round(60 / whole) if whole < 50 else 1
    known, late = 0, []
    for t in range(60):
        known += arrays(spec, stream.feed(x[:, t : t + 1]))[output].shape[axis]
        if t >= 20:
            late.append(t - known * rate)  # t is the first step of the output that would be known now, at no delay
    assert -1 <= max(late) - stream.latency <= 0


@pytest.mark.parametrize("name", WINDOWS)
def test_pools_with_rows_in_any_phase(name):
    spec, _ = WINDOWS[name]
    model = make(spec)
    rng = np.random.default_rng(1)
    x = draw(spec, rng, 4, STEPS)
    pool = model.pool(6)
    given, at = {id: [] for id in range(4)}, dict.fromkeys(range(4), 0)
    for id in given:
        pool.open(id)
    rounds = 0
    while any(steps < STEPS for steps in at.values()):
        rounds += 1
        chunks = {}
        for id in rng.permutation(4)[: rng.integers(1, 5)].tolist():
            count = min(STEPS - at[id], int(rng.integers(0, 6)))
            chunks[id] = x[id, at[id] : at[id] + count]
            at[id] += count
        for id, found in pool.step(chunks).items():
            given[id].append(found)
        if rounds % 3 == 0:  # a stream goes through bytes
            data = pool.save(1)
            pool.close(1)
            pool.load(data, 1)
    for id in given:
        given[id].append(pool.finish(id))
        whole = arrays(spec, model(x[id : id + 1]))
        for key, array in whole.items():
            shape = spec.values[key].shape
            batch = shape.index("B")
            axis = next((a for a, size in enumerate(shape) if "T" in str(size)), None)
            parts = [arrays(spec, part)[key] for part in given[id]]
            found = parts[-1] if axis is None else np.concatenate(parts, axis=axis - (batch < axis))
            expected = np.take(array, 0, axis=batch)
            assert found.shape == expected.shape
            assert equal(found, expected), f"{name}: stream {id}"


def test_ragged_pieces():
    """A batch whose rows get different numbers of steps: outputs of each row, and 0 behind."""
    spec, _ = WINDOWS["causal"]
    model = make(spec)
    rng = np.random.default_rng(2)
    x = draw(spec, rng, 3, 12)
    stream = model.stream(3)
    at, given = np.zeros(3, int), [[] for _ in range(3)]
    for _ in range(5):
        lengths = rng.integers(0, 3, 3)
        piece = np.full((3, 2, I), np.nan, np.float32)
        for row, count in enumerate(lengths):
            piece[row, :count] = x[row, at[row] : at[row] + count]
        found = stream.feed(piece, lengths=lengths)
        for row, count in enumerate(lengths):
            given[row].append(found[row, :count])
            assert not found[row, count:].any()
        at += lengths
    for row in range(3):
        assert equal(np.concatenate(given[row]), model(x[row : row + 1, : at[row]])[0])


def test_reset_and_fork_in_any_phase():
    spec, _ = WINDOWS["two branches that halve the rate"]
    model = make(spec)
    rng = np.random.default_rng(3)
    x, y = draw(spec, rng, 2, 15), draw(spec, rng, 2, 11)
    stream = model.stream(2)
    first = stream.feed(x)
    other = stream.copy()
    both = np.concatenate((first, stream.feed(y), stream.finish()), axis=1)
    assert equal(both, model(np.concatenate((x, y), axis=1)))
    assert equal(np.concatenate((first, other.finish()), axis=1), model(x))
    with pytest.raises(StreamError, match="finished"):
        other.feed(y)
    other.reset()
    assert equal(np.concatenate((other.feed(y), other.finish()), axis=1), model(y))


def test_errors_change_nothing():
    spec, _ = WINDOWS["centred"]
    stream = make(spec).stream(2)
    x = draw(spec, np.random.default_rng(4), 2, 5)
    stream.feed(x)
    before = stream.save()
    with pytest.raises(InputError):
        stream.feed(x[:, :, :3])
    with pytest.raises(InputError, match="out"):
        stream.feed(x, out=np.zeros((2, 9, 6), np.float32))
    assert stream.save() == before


def test_forged_counts_are_refused():
    spec, _ = WINDOWS["strided"]
    stream = make(spec).stream(1)
    found = arrays_from_bytes(stream.save(), None)
    key = stream._program.fingerprint
    for steps in (-1, 1 << 62):
        with pytest.raises(StateError, match="steps"):
            stream.load(arrays_to_bytes({**found, "steps": np.array([steps])}, key))
    stream.load(arrays_to_bytes({**found, "steps": np.array([1 << 59])}, key))
    x = draw(spec, np.random.default_rng(5), 1, 4)
    assert stream.feed(x).shape[1] == 2


def test_long_streams_keep_their_phase():
    """A count of steps far beyond any piece gives what the same phase gives early."""
    spec, _ = WINDOWS["two in a row"]
    model = make(spec)
    x = draw(spec, np.random.default_rng(6), 1, 41)
    early = model.stream()
    early.feed(x[:, :37])
    late = model.stream()
    arrays_now = arrays_from_bytes(early.save(), None)
    later = {**arrays_now, "steps": arrays_now["steps"] + 4 * 10**12}
    late.load(arrays_to_bytes(later, early._program.fingerprint))
    assert equal(early.feed(x[:, 37:]), late.feed(x[:, 37:]))


REFUSED = {
    "padding that depends on the length": (
        [TURNED, conv("w", "turned", I, 4, 3, strides=2, auto_pad="SAME_UPPER")], "node 'w' (Conv)"
    ),
    "steps counted at the ends": (
        [TURNED, Node("w", "AveragePool", "turned", {"kernel_shape": (3,), "pads": (1, 1)})], "node 'w' (AveragePool)"
    ),
    "sizes rounded up": (
        [TURNED, Node("w", "MaxPool", "turned", {"kernel_shape": (3,), "strides": (2,), "ceil_mode": 1})],
        "node 'w' (MaxPool)",
    ),
    "pooling over everything": ([TURNED, Node("w", "GlobalMaxPool", "turned")], "node 'w' (GlobalMaxPool)"),
    "time as channels": (
        [Node("w", "Conv", "x", {"input_size": 7, "output_size": 4, "kernel_shape": (3,)})], "node 'w' (Conv)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what):
    nodes, words = REFUSED[what]
    model = make(Spec([X], nodes, ["w"]))
    with pytest.raises(UnsupportedError) as error:
        model.stream()
    assert words in str(error.value)
    assert words in model.unstreamable


def test_what_waits_comes_without_a_batch_where_the_pieces_had_none():
    spec, _ = WINDOWS["two branches that halve the rate"][:2]
    model, x = make(spec), draw(spec, np.random.default_rng(0), 1, 9)
    one, other = model.stream(), model.stream()
    apart = [one.feed(x[0]), one.finish()]
    whole = [other.feed(x), other.finish()]
    assert equal(np.concatenate(apart), np.concatenate(whole, axis=1)[0])
