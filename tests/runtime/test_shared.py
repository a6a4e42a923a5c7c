"""What threads share, used by many of them at once: with the GIL, and on an interpreter that has none.

The promise: a Model, a PrefixCache, an Engine and their metrics are for everyone; a Stream and a StreamPool have one
user at a time, and a second one gets an error and changes nothing. The first use of anything is where it is made, so
most tests begin with something fresh, and all threads at it together.
"""

import functools
import random
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from at_once import THREADS, at_once
from paths import environment
from stream_models import SPECS, draw, equal, make
from window_models import WINDOWS

from rnncore import Engine, Input, Node, Recurrent, Spec, StreamEngine
from rnncore.cells import GRU, LSTM
from rnncore.decode import PrefixCache
from rnncore.engine.metrics import Histogram, Metrics
from rnncore.errors import DeadlineError, EngineClosedError, QueueFullError, StreamError


def python(code):
    """The output of a fresh interpreter, for which any warning about the GIL is an error."""
    env = environment()
    env.pop("PYTHON_GIL", None)
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- first use ------------------------------------------------------------------------------------------------------

COMPILED = """
import pkgutil, sys
import rnncore, rnncore.kernels
for found in pkgutil.iter_modules(rnncore.kernels.__path__):
    __import__(f"rnncore.kernels.{found.name}")
for name in rnncore.__all__:
    getattr(rnncore, name)
print(getattr(sys, "_is_gil_enabled", lambda: True)())
"""


def test_compiled_modules_do_without_the_gil():
    """An interpreter without a GIL would switch one on for a module that does not say it needs none."""
    assert python(COMPILED).strip() == str(not sysconfig.get_config_var("Py_GIL_DISABLED"))


FIRST_USE = """
import threading, sys
import numpy as np
from at_once import THREADS, at_once

x = np.random.default_rng(0).standard_normal((3, 40, 5)).astype(np.float32)

def everything():
    import rnncore
    from rnncore.runtime.config import config
    from stream_models import SPECS, make
    found = []
    for name in ("lstm", "graph", "options"):
        for dtype in ("float32", "float64"):
            model = make(SPECS[name], dtype=dtype, num_threads=2)
            found.append(model(x.astype(dtype)).tobytes())
            found.append(model.stream(3).feed(x.astype(dtype)).tobytes())
    pool = model.pool(2)
    assert isinstance(pool, rnncore.StreamPool)
    with rnncore.Engine(model) as engine:
        found.append(engine.submit(x.astype("float64")).result().tobytes())
    found.append(config()["num_threads"])
    return found

found = at_once(*[everything] * THREADS)
assert all(one == everything() for one in found)
print("same")
"""


def test_first_use_of_the_package():
    """Imports, BLAS, the kernels' threads, what is asked of the machine: eight threads come first to all of it."""
    assert python(FIRST_USE) == "same\n"


@pytest.mark.parametrize("name", ["lstm", "graph", "causal", "spectrogram"])
def test_first_streams_of_a_model(name):
    """How a model streams is made when first asked: once, or threads would not share what it keeps."""
    spec = SPECS[name] if name in SPECS else WINDOWS[name][0]
    for seed in range(2):
        model = make(spec, seed)
        streams = at_once(*[model.stream] * THREADS)
        assert len({id(stream._program) for stream in streams}) == 1
        assert len(set(at_once(*[lambda model=model: model.fingerprint] * THREADS))) == 1
        x = draw(spec, np.random.default_rng(seed), 1, 24)
        expected = make(spec, seed).stream().feed(x)
        for y in at_once(*[lambda stream=stream, x=x: stream.feed(x) for stream in streams]):
            assert as_bytes(y) == as_bytes(expected)


# --- one model ------------------------------------------------------------------------------------------------------


def pictures():
    """Layers that keep something for each size of an image that they meet."""
    nodes = [
        Node("conv", "Conv", "x", {"input_size": 3, "output_size": 20, "kernel_shape": (3, 2), "pads": (1, 0, 1, 1)}),
        Node("pool", "MaxPool", "conv", {"kernel_shape": (2, 2)}),
        Node("mean", "AveragePool", "conv", {"kernel_shape": (2, 3), "pads": (1, 1, 1, 1)}),
        Node("pad", "Pad", "pool", {"pads": (0, 0, 2, 1, 0, 0, 1, 2), "mode": "reflect"}),
    ]
    return Spec([Input("x", "float", ("B", 3, "Y", "Z"))], nodes, ["pool", "mean", "pad"])


def weights_in_the_graph():
    """A convolution whose weight is an input: it is packed again for each new one."""
    inputs = [Input("x", "float", ("B", 3, "T")), Input("weight", "float", (4, 3, 2))]
    return Spec(inputs, [Node("conv", "Conv", ("x", "weight"), {})], ["conv"])


def folded():
    """An embedding that is folded into a table, two directions, a mask."""
    nodes = [
        Node("e", "Embedding", "x", {"input_size": 11, "output_size": 5}),
        Recurrent("r", LSTM(5, 16), "e", layers=2, direction="bidirectional", lengths="lengths"),
        Node("head", "Linear", "r", {"input_size": 32, "output_size": 3}),
        Node("p", "Softmax", "head"),
    ]
    return Spec([Input("x", "int64", ("B", "T"))], nodes, ["p", "r.last"])


def inputs_of(spec, rng):
    """Inputs of sizes that are drawn, too."""
    sizes = {name: int(rng.integers(4, 30)) for name in ("B", "T", "Y", "Z")} | {"B": int(rng.integers(1, 5))}
    found = {}
    for entry in spec.inputs:
        shape = [sizes.get(size, size) for size in entry.shape]
        if entry.name == "lengths":
            found[entry.name] = rng.integers(1, sizes["T"] + 1, shape)
        elif entry.dtype == "int64":
            found[entry.name] = rng.integers(0, 11, shape)
        else:
            found[entry.name] = rng.standard_normal(shape).astype(np.float32)
    return found


SHARED = {
    "pictures": pictures(),
    "weights in the graph": weights_in_the_graph(),
    "folded": folded(),
    **{name: SPECS[name] for name in ("large", "projection", "graph", "several")},
}


def same(found, expected):
    """Equal bits; close for float64, as BLAS shares its sums among threads as it likes."""
    if found.dtype == np.float64:
        return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    return equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHARED)
def test_one_model(name, dtype):
    """Each thread's answers are those of a model that it would have for itself, from the first call on."""
    spec = SHARED[name]
    rng = np.random.default_rng(1)
    inputs = [inputs_of(spec, rng) for _ in range(48)]
    alone = make(spec, dtype=dtype)
    expected = [alone.run(one) for one in inputs]
    for threads in (1, 2, 3):
        model = make(spec, dtype=dtype, num_threads=threads)

        def calls(first, model=model):
            for place in random.Random(first).choices(range(len(inputs)), k=12):
                found = model.run(inputs[place])
                assert found.keys() == expected[place].keys()
                for key, array in found.items():
                    assert same(array, expected[place][key]), f"input {place}, {key}"

        at_once(*[functools.partial(calls, first) for first in range(THREADS)])


def test_one_model_and_its_options():
    """How many threads a call asks for is its own business."""
    spec = SPECS["large"]
    model = make(spec)
    x = draw(spec, np.random.default_rng(0), 24, 30)
    expected = make(spec)(x)

    def calls(threads):
        for _ in range(15):
            assert equal(model(x, num_threads=threads), expected)
            assert equal(model.predict(list(x), num_threads=threads)[-1], expected[-1])
        weights = dict(model.weights)  # unpacks
        return {name: array.tobytes() for name, array in weights.items()}

    found = at_once(*[functools.partial(calls, threads) for threads in (1, 2, 3, 5, 1, 2, 3, 64)])
    assert all(one == found[0] for one in found)


# --- one engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_one_engine(workers):
    """Requests, cancelled and late ones among them, from threads that start an engine together and end it together."""
    spec = SPECS["lstm"]
    model, alone = make(spec), make(spec)
    rng = np.random.default_rng(3)
    inputs = [draw(spec, rng, int(rng.integers(1, 4)), int(rng.integers(1, 20))) for _ in range(64)]
    expected = [alone(x) for x in inputs]
    for max_queue in (8, 1000):
        engine = Engine(model, workers=workers, max_queue=max_queue, max_batch=16)
        outcomes = []

        def ask(seed, engine=engine, outcomes=outcomes):
            own, counts = random.Random(seed), dict.fromkeys(("accepted", "completed", "cancelled", "late", "full"), 0)
            for _ in range(40):
                place = own.randrange(len(inputs))
                timeout = own.choice([None, None, 1e-3, 10])
                try:
                    future = engine.submit(inputs[place], priority=own.randrange(3), timeout=timeout)
                except QueueFullError:
                    counts["full"] += 1
                    continue
                counts["accepted"] += 1
                if own.random() < 0.2:
                    future.cancel()
                try:
                    assert equal(future.result(60), expected[place])
                    counts["completed"] += 1
                except CancelledError:
                    counts["cancelled"] += 1
                except DeadlineError:
                    counts["late"] += 1
            outcomes.append(counts)

        at_once(*[functools.partial(ask, seed) for seed in range(THREADS)])
        assert all(at_once(*[engine.shutdown] * THREADS)) and engine.queue_depth == 0
        with pytest.raises(EngineClosedError):
            engine.submit(inputs[0])
        sums = {name: sum(counts[name] for counts in outcomes) for name in outcomes[0]}
        counted = engine.metrics.snapshot()
        for name, own in (("accepted", "accepted"), ("completed", "completed"), ("expired", "late"),
                          ("cancelled", "cancelled"), ("rejected", "full")):  # fmt: skip
            assert counted[name] == sums[own], name
        assert counted["latency"]["count"] == counted["completed"] and counted["failed"] == counted["dropped"] == 0


def test_an_engine_that_ends_under_load():
    """Whoever was accepted is answered, whether the end drains or drops; nobody waits for ever."""
    spec = SPECS["lstm"]
    model = make(spec)
    x = draw(spec, np.random.default_rng(0), 1, 5)
    for round in range(6):
        engine = Engine(model, workers=2)
        accepted = []

        def ask(engine=engine, accepted=accepted):
            try:
                while True:
                    accepted.append(engine.submit(x, block=True))
            except EngineClosedError:
                pass

        def end(engine=engine, drain=round % 2 == 0):
            time.sleep(0.005)
            assert engine.shutdown(drain=drain, timeout=60)

        at_once(*[ask] * 4, end, end)
        errors = [future.exception(0) for future in accepted]  # TimeoutError for one that was forgotten
        dropped = sum(isinstance(error, EngineClosedError) for error in errors)
        found = engine.metrics
        assert errors.count(None) + dropped == len(accepted) == found.accepted
        assert (found.completed, found.dropped) == (errors.count(None), dropped)
        assert round % 2 or not dropped


# --- streams and pools ----------------------------------------------------------------------------------------------


def persist(call, *given):
    """The result of a call that is made again as long as another thread is in its way."""
    while True:
        try:
            return call(*given)
        except StreamError as error:
            if "in use by another thread" not in str(error):
                raise
            time.sleep(0)  # with a GIL: let the other thread end


@pytest.mark.parametrize("name", ["lstm", "gru", "graph", "several", "embedding", "causal", "spectrogram"])
def test_one_stream(name):
    """Whatever threads do to one stream is refused, or happens as if it had been done alone, in some order."""
    spec = SPECS[name] if name in SPECS else WINDOWS[name][0]
    feeds, pieces = 5, 2 * THREADS
    x = draw(spec, np.random.default_rng(2), 1, 3)
    alone = make(spec).stream()
    expected, saved = [], {alone.save(): 0}
    for step in range(feeds * pieces):
        expected.append(alone.feed(x))
        saved.setdefault(alone.save(), step + 1)
    stream = make(spec).stream()

    def feed():
        return [persist(stream.feed, x) for _ in range(feeds)]

    def look():
        found = []
        for _ in range(feeds):
            found.append(persist(stream.save))
            other = persist(stream.copy)
            found.append(other.save())
            other.feed(x)
            repr(stream), stream.nbytes, stream.closed
        return found

    *given, first, second = at_once(*[feed] * pieces, look, look)
    assert all(bits in saved for bits in (*first, *second))  # never a state between two steps
    outputs = sorted(as_bytes(y) for each in given for y in each)
    assert outputs == sorted(as_bytes(y) for y in expected)
    assert stream.save() == alone.save()


def as_bytes(y):
    return b"".join(array.tobytes() for array in (y.values() if isinstance(y, dict) else [y]))


@pytest.mark.parametrize("name", ["lstm", "graph"])
def test_one_stream_that_is_closed(name):
    """Fed, reset and closed by different threads: an answer or a StreamError each time, and closed in the end."""
    spec = SPECS[name]
    x = draw(spec, np.random.default_rng(2), 1, 3)
    model, alone = make(spec), make(spec).stream()
    expected = {as_bytes(alone.feed(x)) for _ in range(1000)}
    for _ in range(10):
        stream = model.stream()

        def until_closed(call, stream=stream):
            for _ in range(900):
                try:
                    found = persist(call)
                except StreamError as error:
                    assert "closed" in str(error)
                    return
                assert found is None or as_bytes(found) in expected

        def close(stream=stream):
            time.sleep(1e-3)
            persist(stream.close)

        feed = functools.partial(until_closed, functools.partial(stream.feed, x))
        at_once(feed, feed, functools.partial(until_closed, stream.reset), close)
        assert stream.closed
        with pytest.raises(StreamError, match="closed"):
            stream.feed(x)


@pytest.mark.parametrize("name", ["lstm", "large", "graph", "causal"])
@pytest.mark.parametrize("arrays", [False, True])
def test_one_pool(name, arrays):
    """Threads with a stream each in one pool, while others open, save, fork and close theirs: nothing is mixed up."""
    spec = SPECS[name] if name in SPECS else WINDOWS[name][0]
    model, pool = make(spec), make(spec).pool(2 * THREADS)
    rng = np.random.default_rng(4)
    steps, piece = 240, 30
    own = [draw(spec, rng, 1, steps)[0] for _ in range(THREADS)]
    expected = [model.stream().feed(x) for x in own]
    rounds = 8

    def step(id, handle, piece):
        if arrays:
            return persist(pool.step, np.ascontiguousarray(piece[None]), np.array([handle]))[0]
        return persist(pool.step, {id: piece})[id]

    def feed(place):
        handles = []
        for round in range(rounds):
            id = (place, round)
            handles.append(persist(pool.open, id))
            found = [step(id, handles[-1], own[place][at : at + piece]) for at in range(0, steps, piece)]
            assert equal(np.concatenate(found), expected[place])
            again = persist(pool.load, persist(pool.save, id))
            assert persist(pool.save, again) == persist(pool.save, id)
            persist(pool.close, again)
            persist(pool.close, id)
            assert id not in pool
        return handles

    def others():
        for _ in range(30):
            handle = persist(pool.open)
            fork = persist(pool.fork, handle)
            assert persist(pool.save, fork) == persist(pool.save, handle)
            assert handle in pool and fork in pool and len(pool) <= pool.capacity
            persist(pool.close, fork)
            persist(pool.close, handle)
            assert handle not in pool

    *handles, _ = at_once(*[functools.partial(feed, place) for place in range(THREADS)], others)
    assert len(pool) == 0 and len({one for each in handles for one in each}) == rounds * THREADS


def test_one_stream_engine():
    """A thread for each stream, chunks of any length, streams that come and go."""
    spec = SPECS["graph"]
    model = make(spec)
    rng = np.random.default_rng(6)
    own = [draw(spec, rng, 1, 40)[0] for _ in range(THREADS)]
    expected = [model(x[None])[0] for x in own]

    def talk(place, engine):
        for round in range(4):
            engine.open((place, round))
            ends = np.sort(np.random.default_rng(round).integers(0, 41, 5))
            pieces = np.split(own[place], ends)
            futures = [engine.submit(piece, stream=(place, round)) for piece in pieces if len(piece)]
            if round == 3:
                engine.close((place, round))
                errors = [future.exception(60) for future in futures]
                assert all(error is None or isinstance(error, StreamError) for error in errors)
                continue
            assert equal(np.concatenate([future.result(60) for future in futures]), expected[place])
            engine.close((place, round))

    with StreamEngine(model.pool(2 * THREADS)) as engine:
        at_once(*[functools.partial(talk, place, engine) for place in range(THREADS)])
        assert len(engine) == 0
    found = engine.metrics
    assert found.accepted == found.completed + found.failed + found.cancelled


# --- caches and counters --------------------------------------------------------------------------------------------


def language():
    nodes = [
        Node("e", "Embedding", "tokens", {"input_size": 13, "output_size": 6}),
        Recurrent("r", GRU(6, 16), "e"),
        Node("out", "Linear", "r", {"input_size": 16, "output_size": 13}),
    ]
    return Spec([Input("tokens", "int64", ("B", "T"))], nodes, ["out"])


def same_texts(found, expected):
    return all(
        one.tokens.tobytes() == other.tokens.tobytes()
        and one.finish == other.finish
        and equal(one.log_probs, other.log_probs)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("max_bytes", [3_000, 1 << 20])
def test_one_prefix_cache(max_bytes):
    """The same texts as without it, whatever other threads put in or push out meanwhile; and its sums are right."""
    model = make(language())
    rng = np.random.default_rng(7)
    trunk = rng.integers(0, 13, 140)
    prompts = [trunk[: int(rng.integers(1, 140))].tolist() for _ in range(24)]
    drawing = {"temperature": 1.0, "seed": range(len(prompts))}
    greedy, drawn = model.generate(prompts, 6), model.generate(prompts, 6, **drawing)
    cache = PrefixCache(model, max_bytes)

    def write(place):
        for round in range(4):
            rows = random.Random(10 * place + round).sample(range(len(prompts)), 5)
            found = model.generate([prompts[row] for row in rows], 6, cache=cache)
            assert same_texts(found, [greedy[row] for row in rows])
            assert cache.nbytes <= max_bytes
        found = model.generate(prompts, 6, cache=cache, **drawing)
        assert same_texts(found, drawn)

    at_once(*[functools.partial(write, place) for place in range(THREADS)])
    assert cache.hits + cache.misses == THREADS * (4 * 5 + len(prompts))
    assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values()) <= max_bytes
    assert cache.hits > 0 and cache.tokens_reused > 0
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


def test_one_prefix_cache_of_many_entries():
    """Its sums and counts, where all that threads do is to put in, to find and to push out."""
    model = make(language())
    state = {"r.h": np.zeros((1, 1, 16), np.float32)}
    cache = PrefixCache(model, 40 * 464 + 10)
    keys = [bytes([number]) for number in range(64)]
    rounds = 2000

    def use(seed):
        own = random.Random(seed)
        for _ in range(rounds):
            place = own.randrange(1, len(keys))
            length, entry = cache.find([b"", keys[place], b"?"])
            assert (length, entry is None) in ((1, False), (0, True))
            if entry is None:
                cache.put(keys[place], state, None)

    at_once(*[functools.partial(use, seed) for seed in range(THREADS)])
    assert cache.hits + cache.misses == THREADS * rounds and cache.tokens_reused == cache.hits
    assert len(cache) == 40 and cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())


def test_metrics():
    """No count is lost, and what is read is of one moment."""
    metrics, histogram = Metrics(), Histogram((1, 2, 3))
    rounds = 3000
    done = threading.Event()

    def count():
        for value in range(rounds):
            metrics.add(accepted=1, completed=1, rows=3)
            histogram.observe(value % 5, 1)

    def read():
        before = 0
        while True:
            last = done.is_set()
            found = metrics.snapshot()
            assert found["accepted"] == found["completed"] and found["rows"] == 3 * found["accepted"]
            assert found["accepted"] >= before
            before = found["accepted"]
            seen = histogram.snapshot()
            assert seen["buckets"][float("inf")] == seen["count"] and seen["count"] % 2 == 0
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    at_once(*[count] * THREADS)
    done.set()
    reader.join()
    assert metrics.accepted == THREADS * rounds
    found = histogram.snapshot()
    assert found["count"] == 2 * THREADS * rounds and found["sum"] == THREADS * rounds * 3
    assert found["buckets"] == {1: 7 * found["count"] / 10, 2: 8 * found["count"] / 10, 3: 9 * found["count"] / 10,
                                float("inf"): found["count"]}  # fmt: skip
