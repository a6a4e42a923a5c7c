"""Engine and StreamEngine: the model's own results, queues, deadlines, priorities, cancellation, shutdown, forks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait

import engine_load
import numpy as np
import pytest
from stream_models import equal

import rnncore
from rnncore import Engine, Input, Model, Node, Recurrent, Spec, StreamEngine
from rnncore.cells import GRU, LSTM
from rnncore.engine.batching import Batcher
from rnncore.engine.metrics import SECONDS, Histogram
from rnncore.errors import (
    DeadlineError,
    EngineClosedError,
    InputError,
    QueueFullError,
    StateError,
    StreamError,
)

WIDTH, H = 6, 9


def linear(name, source, read, written):
    return Node(name, "Linear", source, {"input_size": read, "output_size": written})


def make(spec, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return Model(spec, {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}, dtype)


X = Input("x", "float", ("B", "T", WIDTH))


def tagger(lengths="lengths"):
    nodes = [
        Recurrent("rnn", LSTM(WIDTH, H), "x", direction="bidirectional", lengths=lengths),
        linear("out", "rnn", 2 * H, 4),
        Node("p", "Softmax", "out", {"axis": 2}),
    ]
    return make(Spec([X], nodes, ["p"]))


def classifier():
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x", layers=2), linear("out", "rnn.last", H, 3)]
    return make(Spec([X], nodes, ["out", "rnn", "rnn.h"]))


def words():
    nodes = [
        Node("embed", "Embedding", "ids", {"input_size": 20, "output_size": WIDTH}),
        Recurrent("rnn", LSTM(WIDTH, H), "embed"),
        linear("out", "rnn", H, 20),
    ]
    return make(Spec([Input("ids", "int64", ("B", "T"))], nodes, ["out"]))


def time_first():
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x", layout="time_first", lengths=None), linear("out", "rnn", H, 2)]
    return make(Spec([Input("x", "float", ("T", "B", WIDTH))], nodes, ["out"]))


def looks_across_time():
    """A softmax over time: padding would change it, so only equal lengths go together."""
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x"), Node("soft", "Softmax", "rnn", {"axis": 1})]
    return make(Spec([X], nodes, ["soft"]))


def no_batch():
    """An output without a batch: every request alone."""
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x"), Node("t", "Reshape", "rnn", {"shape": [-1]})]
    return make(Spec([X], nodes, ["t"]))


def mixes_rows():
    """A softmax over the batch: a request alone is something else than in company."""
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x"), Node("soft", "Softmax", "rnn", {"axis": 0})]
    return make(Spec([X], nodes, ["soft"]))


def attends():
    nodes = [
        Recurrent("rnn", GRU(WIDTH, H), "x", direction="bidirectional"),
        Node("words", "WordAttention", ("rnn", "lengths"), {"input_size": 2 * H, "attention_size": 5}),
        linear("out", "words", 2 * H, 3),
    ]
    return make(Spec([X], nodes, ["out"]))


def heads(causal=False):
    """Attention of a sequence to itself, as one node."""
    sizes = {"query_size": WIDTH, "value_size": WIDTH, "num_heads": 2, "key_dim": 4, "causal": causal}
    nodes = [Node("attention", "MultiHeadAttention", ("x", "x"), sizes), linear("out", "attention", WIDTH, 3)]
    return make(Spec([X], nodes, ["out"]))


def keras_heads(op, **attributes):
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x", lengths=None), Node("a", op, ("rnn", "rnn"), attributes)]
    return make(Spec([X], nodes, ["a"]))


ATTENDING = {
    "heads": heads,
    "causal heads": lambda: heads(True),
    "Keras attention": lambda: keras_heads("KerasAttention"),
    "additive attention": lambda: keras_heads("KerasAdditiveAttention", size=H),
    "products": lambda: make(
        Spec(
            [X],
            [
                Node("t", "Transpose", "x", {"perm": (0, 2, 1)}),
                Node("scores", "MatMul", ("x", "t")),
                Node("weights", "Softmax", "scores", {"axis": -1}),
                Node("y", "MatMul", ("weights", "x")),
            ],
            ["y"],
        )
    ),
}


@pytest.mark.parametrize("build", ATTENDING.values(), ids=ATTENDING)
def test_waiting_requests_of_a_model_with_attention_are_one_call(build, monkeypatch):
    """Each row attends to itself alone, however the graph says so: 64 requests of one length share a batch."""
    model, rng, rows = build(), np.random.default_rng(3), []
    xs = [draw(model, rng, rows=1, steps=7) for _ in range(64)]
    expected = [model(x) for x in xs]
    run = Model.run
    monkeypatch.setattr(
        Model, "run", lambda self, given, *rest: (rows.append(len(given["x"])), run(self, given, *rest))[1]
    )
    jobs = [Batcher(model).call(x, None, None, None, False, True) for x in xs]
    assert len({job.key for job in jobs}) == 1
    for found, alone in zip(Batcher(model).run(jobs), expected, strict=True):
        assert equal(found, alone)
    assert rows == [64]


@pytest.mark.parametrize("build", ATTENDING.values(), ids=ATTENDING)
def test_an_engine_makes_one_batch_of_them(build):
    model, rng = build(), np.random.default_rng(4)
    xs = [draw(model, rng, rows=1, steps=7) for _ in range(64)]
    with Engine(model, max_wait=60, max_batch=64) as engine:
        found = [future.result(60) for future in [engine.submit(x) for x in xs]]
    assert engine.metrics.batches == 1
    for y, x in zip(found, xs, strict=True):
        assert equal(y, model(x))


MODELS = {
    **ATTENDING,
    "softmax over rows": mixes_rows,
    "word attention": attends,
    "tagger": tagger,
    "tagger without lengths": lambda: tagger(None),
    "classifier": classifier,
    "words": words,
    "time first": time_first,
    "softmax over time": looks_across_time,
    "flat": no_batch,
}


def draw(model, rng, rows=None, steps=None):
    rows = int(rng.integers(1, 4)) if rows is None else rows
    steps = int(rng.integers(0, 20)) if steps is None else steps
    entry = model.inputs[0]
    if entry.dtype == "int64":
        return rng.integers(0, 20, (rows, steps))
    shape = (steps, rows, WIDTH) if entry.shape[0] == "T" else (rows, steps, WIDTH)
    return rng.standard_normal(shape).astype(np.float32)


def same(found, expected):
    if isinstance(expected, tuple):
        same(found[0], expected[0])
        same(dict(found[1]), dict(expected[1]))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert equal(found[name], array)
    else:
        assert found.dtype == expected.dtype
        assert equal(found, expected)


class Held:
    """An engine whose model waits until it is let go: what is submitted meanwhile stays in the queue."""

    def __init__(self, model, **options):
        self.gate, self.order = threading.Event(), []
        self.engine = Engine(model, **options)
        run = self.engine._runner.batcher.run

        def held(jobs):
            self.order.append([job.values for job in jobs])
            assert self.gate.wait(30)
            return run(jobs)

        self.engine._runner.batcher.run = held

    def __enter__(self):
        self.first = self.engine.submit(np.zeros((1, 1, WIDTH), np.float32))
        while not self.order:
            time.sleep(0.001)
        return self

    def __exit__(self, *error):
        self.gate.set()
        self.engine.shutdown()


def x_of(value, steps=1, rows=1):
    return np.full((rows, steps, WIDTH), value, np.float32)


# --- results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_results_are_the_model_s_bit_for_bit(name):
    model, rng = MODELS[name](), np.random.default_rng(1)
    given = [draw(model, rng) for _ in range(60)]
    with Held(tagger()) as warm:
        warm.gate.set()
    engine = Engine(model, max_batch=16)
    release = threading.Event()
    run = engine._runner.batcher.run
    engine._runner.batcher.run = lambda jobs: (release.wait(30), run(jobs))[1]
    with engine:
        futures = [engine.submit(x) for x in given]
        named = [engine.submit({model.inputs[0].name: x}) for x in given]
        release.set()
        for x, future, other in zip(given, futures, named, strict=True):
            same(future.result(30), model(x))
            same(other.result(30), model.run({model.inputs[0].name: x}))
    batched = engine.metrics.batches < len(given)
    assert batched == (name not in ("flat", "softmax over rows"))
    assert engine.metrics.batch_rows.quantile(1) <= 16


def test_lengths_states_and_masks():
    model, rng = classifier(), np.random.default_rng(2)
    with Engine(model) as engine:
        wanted = []
        for _ in range(40):
            x = draw(model, rng)
            rows, steps = x.shape[:2]
            lengths = rng.integers(0, steps + 1, rows)
            _, state = model(draw(model, rng, rows, 3), None)
            starts = ({}, {"state": None}, {"state": state})
            for options in (*starts, *({**start, "lengths": lengths} for start in starts)):
                wanted.append((engine.submit(x, **options), x, options))
        for future, x, options in wanted:
            given = dict(options)
            expected = model(x, given.pop("state"), **given) if "state" in given else model(x, **given)
            same(future.result(30), expected)
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x", mask="mask"), linear("out", "rnn", H, 4)]
    masked = make(Spec([X], nodes, ["out"]))
    with Engine(masked) as engine:
        wanted = []
        for _ in range(40):
            x = draw(masked, rng)
            mask = rng.random(x.shape[:2]) < 0.7
            wanted.append((engine.submit(x, mask=mask), masked(x, mask=mask)))
            wanted.append((engine.submit(x), masked(x)))
        for future, expected in wanted:
            same(future.result(30), expected)


def test_answers_are_the_caller_s_own_and_requests_are_copied():
    model = tagger()
    with Held(model) as held:
        x = x_of(1.0, 4)
        futures = [held.engine.submit(x) for _ in range(3)]
        x[:] = 7
        held.gate.set()
        first = futures[0].result(30)
        first[:] = -1
        for future in futures[1:]:
            same(future.result(30), model(x_of(1.0, 4)))


def test_a_request_that_fails_fails_alone():
    model = words()
    release = threading.Event()
    engine = Engine(model)
    run = engine._runner.batcher.run
    engine._runner.batcher.run = lambda jobs: (release.wait(30), run(jobs))[1]
    with engine:
        good = [engine.submit([[1, 2, 3]]) for _ in range(3)]
        bad = engine.submit([[1, 20, 3]])
        more = [engine.submit([[3, 2, 1]]) for _ in range(3)]
        release.set()
        with pytest.raises(InputError, match="id 20"):
            bad.result(30)
        for future in good:
            same(future.result(30), model([[1, 2, 3]]))
        for future in more:
            same(future.result(30), model([[3, 2, 1]]))
    assert (engine.metrics.completed, engine.metrics.failed) == (6, 1)


# --- who goes when -------------------------------------------------------------------------------------------------


def test_priorities_and_order():
    with Held(tagger(), max_batch=1) as held:
        for value, priority in ((1, 0), (2, 5), (3, 0), (4, 5), (5, -1)):
            held.engine.submit(x_of(value), priority=priority)
        held.gate.set()
        held.engine.shutdown()
    assert [values["x"][0, 0, 0] for (values,) in held.order[1:]] == [2, 4, 1, 3, 5]


def test_batches_have_limits_and_similar_lengths():
    with Held(tagger(), max_batch=4, max_steps=40) as held:
        lengths = [16] * 3 + [9] * 2 + [40] + [2] * 5 + [100]
        for steps in lengths:
            held.engine.submit(x_of(1, steps))
        held.gate.set()
        held.engine.shutdown()
    sizes = [sorted(values["x"].shape[1] for values in batch) for batch in held.order[1:]]
    assert sorted(steps for batch in sizes for steps in batch) == sorted(lengths)
    for batch in sizes:
        assert len(batch) == 1 or (len(batch) <= 4 and len(batch) * batch[-1] <= 40 and batch[-1] <= 2 * batch[0])
    assert [2, 2, 2, 2] in sizes and [16, 16] in sizes


def test_max_wait_gathers_company():
    model = tagger()
    with Engine(model, max_wait=60, max_batch=5) as engine:
        futures = []
        for _ in range(5):
            futures.append(engine.submit(x_of(1.0)))
            time.sleep(0.01)
        assert not wait(futures, 30).not_done
    assert engine.metrics.batches == 1
    with Engine(model, max_wait=0.02) as engine:  # nobody comes
        engine.submit(x_of(1.0)).result(30)
    with Engine(model, max_wait=30, max_batch=3) as engine:  # a full batch does not wait, nor does a shutdown
        futures = [engine.submit(x_of(1.0)) for _ in range(4)]
        wait(futures[:3], 10)
        assert all(future.done() for future in futures[:3]) and not futures[3].done()


# --- what does not run ---------------------------------------------------------------------------------------------


def test_a_full_queue():
    with Held(tagger(), max_queue=3) as held:
        futures = [held.engine.submit(x_of(1)) for _ in range(3)]
        assert held.engine.queue_depth == 3
        with pytest.raises(QueueFullError, match="3 requests wait, expected fewer than max_queue=3"):
            held.engine.submit(x_of(1))
        with pytest.raises(DeadlineError, match="before there was a place"):
            held.engine.submit(x_of(1), block=True, timeout=0.02)
        assert held.engine.metrics.rejected == 2
        assert futures[1].cancel() and held.engine.queue_depth == 2
        held.engine.submit(x_of(1))  # the room of what was cancelled
        later = []
        thread = threading.Thread(target=lambda: later.append(held.engine.submit(x_of(2), block=True)))
        thread.start()
        time.sleep(0.05)
        assert not later
        held.gate.set()
        thread.join(30)
        same(later[0].result(30), held.engine.model(x_of(2)))


def test_deadlines():
    with Held(tagger()) as held:
        late = held.engine.submit(x_of(1), timeout=0.02)
        also = held.engine.submit(x_of(1), deadline=time.monotonic() + 0.02)
        soon = held.engine.submit(x_of(1), timeout=60)
        time.sleep(0.05)
        held.gate.set()
        for future in (late, also):
            with pytest.raises(DeadlineError, match=r"the deadline passed after 0\.\d+ s in the queue"):
                future.result(30)
            with pytest.raises(TimeoutError):
                future.result()
        soon.result(30)
    assert held.engine.metrics.expired == 2 and held.engine.metrics.completed == 2


def test_cancelled_requests_never_run():
    with Held(tagger()) as held:
        futures = [held.engine.submit(x_of(i)) for i in range(200)]
        for i, future in enumerate(futures):
            if i % 10:
                assert future.cancel() and future.cancel()
        assert not held.first.cancel()  # it runs
        assert held.engine.queue_depth == 20
        assert (
            sum(len(queue) for queue in held.engine._queue._backlog._heaps.values()) < 120
        )  # what was cancelled takes no room
        held.gate.set()
        assert not wait(futures, 30).not_done
        with pytest.raises(CancelledError):
            futures[1].result()
    ran = sorted(values["x"][0, 0, 0] for batch in held.order[1:] for values in batch)
    assert ran == list(range(0, 200, 10))
    assert held.engine.metrics.cancelled == 180


def test_after_a_shutdown():
    model = tagger()
    engine = Engine(model)
    future = engine.submit(x_of(1))
    assert engine.shutdown() and engine.shutdown()
    same(future.result(0), model(x_of(1)))
    with pytest.raises(EngineClosedError, match="was shut down"):
        engine.submit(x_of(1))
    with pytest.raises(EngineClosedError):
        asyncio.run(engine.infer(x_of(1)))
    with Held(model) as held:
        waiting = [held.engine.submit(x_of(1)) for _ in range(3)]
        assert not held.engine.shutdown(drain=False, timeout=0.01)  # one still runs
        held.gate.set()
        for future in waiting:
            with pytest.raises(EngineClosedError, match="before the request ran"):
                future.result(30)
        assert held.engine.shutdown()
        same(held.first.result(0), model(np.zeros((1, 1, WIDTH), np.float32)))
        assert held.engine.metrics.dropped == 3


def test_shutdown_wakes_who_waits_for_room():
    with Held(tagger(), max_queue=1) as held:
        held.engine.submit(x_of(1))
        errors = []

        def blocked():
            try:
                held.engine.submit(x_of(1), block=True)
            except EngineClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=blocked)
        thread.start()
        time.sleep(0.05)
        held.engine.shutdown(timeout=0)
        thread.join(30)
        assert errors


def test_a_callback_may_use_the_engine():
    model = tagger()
    with Engine(model) as engine:
        again, done = [], threading.Event()

        def callback(future):
            again.append(engine.submit(x_of(2)))
            done.set()

        engine.submit(x_of(1)).add_done_callback(callback)
        assert done.wait(30)
        same(again[0].result(30), model(x_of(2)))
        engine.submit(x_of(3)).add_done_callback(lambda future: engine.shutdown())


def test_asyncio():
    model = tagger()

    async def everything():
        with Held(model) as held:
            task = asyncio.create_task(held.engine.infer(x_of(1)))
            other = asyncio.create_task(held.engine.infer(x_of(2)))
            await asyncio.sleep(0.02)
            assert held.engine.queue_depth == 2
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held.engine.queue_depth == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await held.engine.infer(x_of(1))
            assert held.engine.queue_depth == 1
            held.gate.set()
            same(await other, model(x_of(2)))
            assert held.engine.metrics.cancelled == 2

    asyncio.run(everything())


def test_a_batch_wakes_an_event_loop_once():
    model = tagger()

    async def everything():
        loop, calls = asyncio.get_running_loop(), []
        with Held(model) as held:
            asked = [held.engine.ask(x_of(i)) for i in range(1, 6)]
            wake = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *given: calls.append(given) or wake(*given)
            held.gate.set()
            for i, one in enumerate(asked, 1):
                same(await one, model(x_of(i)))
            assert held.engine.metrics.batch_rows.sum == 6 and len(calls) == held.engine.metrics.batches - 1 == 1

    asyncio.run(everything())


def test_an_event_loop_that_ended_holds_up_nobody():
    model = tagger()

    async def leave(engine):
        engine.ask(x_of(1))

    with Held(model) as held:
        asyncio.run(leave(held.engine))
        other = held.engine.submit(x_of(2))
        held.gate.set()
        same(other.result(30), model(x_of(2)))
        assert held.engine.metrics.completed == 3  # with the first of all


def test_arrays_that_nobody_writes_to_are_not_copied():
    model = tagger()
    with Held(model) as held:
        taken, copied = x_of(1).copy(), x_of(2).copy()
        first, second = held.engine.submit(taken, copy=False), held.engine.submit(copied)
        taken[:], copied[:] = x_of(3)[:, : taken.shape[1]], 0
        held.gate.set()
        same(first.result(30), model(taken))
        same(second.result(30), model(x_of(2)))


class Watched:
    """An engine that notes which threads its model runs in. Calls are as short as ``short`` says."""

    def __init__(self, model, monkeypatch, short=True, **options):
        monkeypatch.setattr(rnncore.engine.runners, "AT_ONCE", 60.0 if short else 0.0)
        self.engine, self.threads = Engine(model, **options), []
        self.during = lambda: None
        run = self.engine._runner.batcher.run

        def watched(jobs):
            self.threads.append(threading.current_thread())
            self.during()
            return run(jobs)

        self.engine._runner.batcher.run = watched

    async def idle(self):
        """Return when nothing runs any more."""
        while not self.engine._queue.is_idle:
            await asyncio.sleep(0.001)

    async def infer(self, x, **options):
        """The answer, and whether this thread ran the model."""
        await self.idle()
        found = await self.engine.infer(x, at_once=True, **options)
        return found, self.threads[-1] is threading.current_thread()


@pytest.mark.parametrize("model", [tagger(), classifier(), words(), time_first()])
def test_what_is_short_and_alone_runs_where_it_is_asked_for(model, monkeypatch):
    rng, ragged = np.random.default_rng(5), Engine(model)._runner.batcher.lengths is not None
    asked = [draw(model, rng, rows, steps) for rows, steps in ((1, 5), (1, 5), (1, 6), (2, 6), (2, 5), (1, 17))]

    async def everything(watched):
        here = []
        for x in asked:
            found, mine = await watched.infer(x)
            same(found, model(x))
            here.append(mine)
        # unknown are other rows and much longer ones, and without lengths any other length
        assert here == [False, True, ragged, False, ragged, False]
        x, state = asked[0], model.initial_state(1)
        for mine in (False, True):  # nor is it known how long a state takes
            (found, after), ran_here = await watched.infer(x, state=state)
            expected, expected_after = model(x, state)
            same(found, expected)
            same(dict(after), dict(expected_after))
            assert ran_here is mine

    watched = Watched(model, monkeypatch)
    with watched.engine:
        asyncio.run(everything(watched))
    counts = watched.engine.metrics.snapshot()
    assert counts["accepted"] == counts["completed"] == counts["batches"] == counts["queued"]["count"] == 8
    assert counts["rows"] == 10 and counts["latency"]["count"] == counts["running"]["count"] == 8


@pytest.mark.parametrize(("model", "short"), [(tagger(), False), (mixes_rows(), True), (no_batch(), True)])
def test_what_may_take_long_never_runs_where_it_is_asked_for(model, short, monkeypatch):
    async def everything(watched):
        x = draw(model, np.random.default_rng(0), 1, 3)
        assert not any([(await watched.infer(x))[1] for _ in range(4)])

    watched = Watched(model, monkeypatch, short)
    with watched.engine:
        asyncio.run(everything(watched))


def test_what_is_asked_for_in_company_is_queued(monkeypatch):
    watched, x = Watched(tagger(), monkeypatch), x_of(1)
    release = threading.Event()

    async def everything():
        await watched.infer(x)
        assert (await watched.infer(x))[1]
        await watched.idle()
        watched.during = lambda: release.wait(30)
        before = watched.engine.submit(x)
        while len(watched.threads) < 3:
            await asyncio.sleep(0.001)
        running = asyncio.ensure_future(watched.engine.infer(x, at_once=True))  # while another one runs
        await asyncio.sleep(0)
        assert watched.engine.queue_depth == 1
        release.set()
        same(await running, before.result(30))
        assert threading.current_thread() not in watched.threads[2:]

    with watched.engine:
        asyncio.run(everything())


@pytest.mark.parametrize("then", ["submit", "shutdown"])
def test_no_thread_begins_or_ends_while_a_request_runs_where_it_was_asked_for(then, monkeypatch):
    watched, x, seen = Watched(tagger(), monkeypatch), x_of(1), []

    def other():
        seen.append(watched.engine.shutdown() if then == "shutdown" else watched.engine.submit(x).result(30))

    async def everything():
        await watched.infer(x)
        await watched.idle()
        thread = threading.Thread(target=other)

        def during():
            watched.during = lambda: None
            thread.start()
            thread.join(0.1)
            assert not seen and len(watched.threads) == 2

        watched.during = during
        found = await watched.engine.infer(x, at_once=True)
        thread.join(30)
        same(found, tagger()(x))
        assert len(seen) == 1
        if then == "shutdown":
            assert seen == [True]
            with pytest.raises(EngineClosedError):
                await watched.engine.infer(x, at_once=True)
        else:
            same(seen[0], found)

    with watched.engine:
        asyncio.run(everything())


def test_errors_where_it_was_asked_for(monkeypatch):
    watched = Watched(words(), monkeypatch)

    async def everything():
        good, bad = np.array([[1, 2]]), np.array([[1, 20]])
        await watched.infer(good)
        await watched.idle()
        asked = watched.engine.ask(bad, at_once=True)
        with pytest.raises(InputError, match="20"):
            await asked
        assert watched.threads[-1] is threading.current_thread()
        same((await watched.infer(good))[0], words()(good))
        with pytest.raises(DeadlineError):
            await watched.engine.infer(good, at_once=True, timeout=0)
        counts = watched.engine.metrics
        assert (counts.accepted, counts.completed, counts.failed) == (3, 2, 1)

    with watched.engine:
        asyncio.run(everything())


def test_asyncio_waits_for_room_without_holding_up_others():
    model = tagger()

    async def everything():
        with Held(model, max_queue=1) as held:
            tasks = [asyncio.create_task(held.engine.infer(x_of(i), block=True)) for i in range(4)]
            await asyncio.sleep(0.05)  # the loop runs while they wait
            assert held.engine.queue_depth == 1
            with pytest.raises(QueueFullError):
                await held.engine.infer(x_of(1))
            with pytest.raises(DeadlineError, match="before there was a place"):
                await held.engine.infer(x_of(1), block=True, timeout=0.02)
            tasks[3].cancel()
            held.gate.set()
            for i, task in enumerate(tasks[:3]):
                same(await task, model(x_of(i)))
            with pytest.raises(asyncio.CancelledError):
                await tasks[3]
        sums = held.engine.metrics.snapshot()
        assert sums["accepted"] == sums["completed"] + sums["cancelled"]

    asyncio.run(everything())


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"x": np.zeros((1, 2, WIDTH + 1), np.float32)}, InputError, "dimension 2 is 7, not 6"),
        ({"x": {"y": 1}}, InputError, "input 'y' is unknown"),
        ({"x": {}}, InputError, "input 'x' missing"),
        ({"lengths": [3]}, InputError, "lengths: 3 at row 0, expected 0 to 2"),
        ({"state": np.zeros(3)}, StateError, "state"),
        ({"priority": 1.5}, InputError, "priority=1.5, expected an integer"),
        ({"timeout": 0}, DeadlineError, "timeout=0 has passed already"),
        ({"timeout": -1}, DeadlineError, "timeout=-1 has passed already"),
        ({"deadline": 0.0}, DeadlineError, "deadline=0.0 has passed already"),
        ({"timeout": float("nan")}, InputError, "timeout=nan, expected seconds"),
        ({"timeout": 1, "deadline": 1}, InputError, "exclude each other"),
    ],
)
def test_bad_requests(options, error, message):
    with Engine(tagger()) as engine:
        with pytest.raises(error, match=message):
            engine.submit(**{"x": x_of(1, 2), **options})
        assert engine.metrics.accepted == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_batch": 0}, "max_batch=0, expected a positive integer"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_queue": True}, "max_queue=True"),
        ({"workers": 0}, "workers=0"),
        ({"max_wait": -1}, "max_wait=-1, expected seconds"),
        ({"model": 3}, "Engine of int, expected a Model"),
    ],
)
def test_bad_engines(options, message):
    with pytest.raises(InputError, match=message):
        Engine(**{"model": tagger(), **options})


# --- a fork, metrics -----------------------------------------------------------------------------------------------


def in_child(check):
    """The exit code of a forked child that runs check."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_after_a_fork_the_child_s_engine_is_fresh():
    model = tagger()
    with Held(model, max_queue=2) as held:
        waiting = [held.engine.submit(x_of(3)) for _ in range(2)]
        held.engine._runner.batcher = rnncore.engine.batching.Batcher(model)
        held.engine._queue._lock.acquire()  # as if the fork came at the worst moment

        def child():
            assert held.engine.queue_depth == 0 and held.engine.metrics.accepted == 0
            same(held.engine.submit(x_of(2)).result(20), model(x_of(2)))
            assert held.engine.shutdown(timeout=20)

        code = in_child(child)
        held.engine._queue._lock.release()
        assert code == 0
        held.gate.set()
        for future in waiting:
            same(future.result(30), model(x_of(3)))


def test_an_exit_drains():
    """A program that ends without a shutdown still gets its answers."""
    code = (
        "import numpy, rnncore\n"
        "model = rnncore.load('zoo:sunspots')\n"
        "engine = rnncore.Engine(model, max_batch=4)\n"
        "for i in range(200):\n"
        "    x = numpy.full((1, 9, 1), i, numpy.float32)\n"
        "    engine.submit(x).add_done_callback(lambda future: print(future.result().shape, flush=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout.splitlines() == ["(1, 9, 1)"] * 200 and not done.stderr


def test_histograms():
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 7):
        histogram.observe(value)
    assert histogram.snapshot() == {"buckets": {1: 2, 2: 3, 5: 4, float("inf"): 5}, "count": 5, "sum": 15}
    assert (histogram.quantile(0.4), histogram.quantile(0.5), histogram.quantile(1)) == (1, 2, float("inf"))
    assert np.isnan(Histogram((1,)).quantile(0.5))
    assert SECONDS[0] == 5e-5 and list(SECONDS) == sorted(SECONDS) and SECONDS[-1] == 50


def test_metrics():
    with Engine(tagger()) as engine:
        for _ in range(10):
            engine.submit(x_of(1, 5, 2)).result(30)
        found = engine.metrics.snapshot()
    assert (found["accepted"], found["completed"], found["rows"], found["steps"]) == (10, 10, 20, 100)
    assert found["batches"] == found["running"]["count"] == found["batch_rows"]["count"] <= 10
    assert found["latency"]["count"] == found["queued"]["count"] == 10
    assert found["latency"]["sum"] >= found["queued"]["sum"] > 0


# --- streams -------------------------------------------------------------------------------------------------------


def streaming():
    nodes = [Recurrent("rnn", LSTM(WIDTH, H), "x", layers=2), linear("out", "rnn", H, 4)]
    return make(Spec([X], nodes, ["out"]))


def test_streams_of_different_chunks():
    model, rng = streaming(), np.random.default_rng(3)
    whole = rng.standard_normal((12, 90, WIDTH)).astype(np.float32)
    with StreamEngine(model.pool(12), slice_steps=5) as engine:
        futures = [[] for _ in range(12)]
        for stream in range(12):
            engine.open(stream)
        at = np.zeros(12, int)
        while (at < 90).any():
            for stream in np.flatnonzero(at < 90):
                steps = int(rng.integers(0, 40))
                chunk = whole[stream, at[stream] : at[stream] + steps]
                futures[stream].append(engine.submit(chunk, stream=int(stream), priority=int(rng.integers(3))))
                at[stream] += len(chunk)
        for stream in range(12):
            found = np.concatenate([future.result(30) for future in futures[stream]])
            assert equal(found, model(whole[stream : stream + 1])[0])
        assert len(engine) == 12
    steps, batches = engine.metrics.steps, engine.metrics.batches
    assert steps == 12 * 90 and batches < steps / 5  # many streams in each step


def test_a_short_chunk_does_not_wait_for_a_long_one():
    model = streaming()
    with StreamEngine(model.pool(2), slice_steps=2) as engine:
        order, lock = [], threading.Lock()
        engine.open("long"), engine.open("short")
        step, started = engine._runner.pool.step, threading.Event()

        class Slow:
            def __getattr__(self, name):
                return getattr(pool, name)

            def step(self, slices):
                started.set()
                time.sleep(0.005)
                return step(slices)

        pool, engine._runner.pool = engine._runner.pool, Slow()
        futures = {"long": engine.submit(x_of(1, 60)[0], stream="long")}
        assert started.wait(30)
        futures["short"] = engine.submit(x_of(2, 1)[0], stream="short")
        for name, future in futures.items():
            future.add_done_callback(lambda _, name=name: (lock.acquire(), order.append(name), lock.release()))
        wait(futures.values(), 30)
    assert order == ["short", "long"]


class Stepped:
    """A pool that notes which threads step it."""

    def __init__(self, pool):
        self._pool, self.threads = pool, []

    def __getattr__(self, name):
        return getattr(self._pool, name)

    def step(self, slices):
        self.threads.append(threading.current_thread())
        return self._pool.step(slices)


def test_short_chunks_that_are_alone_are_fed_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(rnncore.engine.runners, "AT_ONCE", 60.0)
    model, x = streaming(), np.random.default_rng(6).standard_normal((45, WIDTH)).astype(np.float32)
    sizes = [3, 3, 4, 20, 3, 5, 3, 3, 1]
    ends = np.cumsum(sizes)

    async def everything(engine):
        found, here = [], []
        for start, end in zip(ends - sizes, ends, strict=True):
            while not engine._queue.is_idle:
                await asyncio.sleep(0.001)
            chunk = {"stream": "a", "finish": end == 45}
            if len(here) == 7:  # behind one that is fed already
                with engine._runner.pool_lock:
                    first = engine.submit(x[start : start + 1], stream="a")
                    while not first.running():
                        await asyncio.sleep(0.001)
                    second = engine.ask(x[start + 1 : end], at_once=True, **chunk)
                found += [first.result(30), await second]
            else:
                found.append(await engine.infer(x[start:end], at_once=True, **chunk))
            here.append(engine._runner.pool.threads[-1] is threading.current_thread())
        # unknown; as before; unknown; long; as before; a slice of the long one; as before; in company; the end
        assert here == [False, True, False, False, True, True, True, False, False]
        assert equal(np.concatenate(found), model(x[None])[0])
        assert not engine._queue._backlog.lines and engine.metrics.accepted == engine.metrics.completed == 10
        with pytest.raises(StreamError, match="not open"):
            engine.ask(x[:3], stream="b", at_once=True)

    with StreamEngine(model.pool(2), slice_steps=5) as engine:
        engine.open("a")
        engine._runner.pool = Stepped(engine._runner.pool)
        asyncio.run(everything(engine))


def test_the_longest_of_equal_chunks_counts_for_a_while():
    with StreamEngine(streaming().pool(1)) as engine:
        times = []
        for seconds in [1e-5, 1e-3, *[1e-5] * 20]:
            engine._runner._learn(2, seconds)
            times.append(engine._runner._seconds[2])
        assert times[:2] == [1e-5, 1e-3] and times[8] > rnncore.engine.runners.AT_ONCE > times[-1]


def test_streams_that_are_not_there():
    model = streaming()
    with StreamEngine(model.pool(2)) as engine:
        engine.open("a")
        with pytest.raises(StreamError, match="'a' is open already"):
            engine.open("a")
        engine.open("b")
        with pytest.raises(StreamError):
            engine.open("c")  # the pool is full
        with pytest.raises(StreamError, match="'c' is not open"):
            engine.submit(x_of(1)[0], stream="c")
        with pytest.raises(StreamError, match="'c' is not open"):
            engine.close("c")
        engine.close("a")
        assert "a" not in engine and "b" in engine
        engine.open("c")
        for x, message in (
            (np.zeros((2, WIDTH + 1), np.float32), r"x: shape \(2, 7\), expected \(T, 6\)"),
            ({"y": 1}, "input 'y' is unknown"),
            ({}, "input 'x' missing"),
        ):
            with pytest.raises(InputError, match=message):
                engine.submit(x, stream="c")
    with pytest.raises(EngineClosedError):
        engine.open("d")
    with pytest.raises(InputError, match="StreamEngine of Model, expected an empty StreamPool"):
        StreamEngine(model)


def test_a_closed_stream_s_chunks_reach_nobody():
    """The next stream of that name starts at its beginning, whatever was on its way."""
    model, rng = streaming(), np.random.default_rng(4)
    with StreamEngine(model.pool(1), slice_steps=1) as engine:
        for _ in range(60):
            engine.open("a")
            x = rng.standard_normal((int(rng.integers(1, 8)), WIDTH)).astype(np.float32)
            futures = [engine.submit(x, stream="a") for _ in range(4)]
            time.sleep(float(rng.uniform(0, 1e-3)))
            engine.close("a")
            wait(futures, 30)
            whole = model(np.tile(x, (4, 1))[None])[0]
            failed = False
            for i, future in enumerate(futures):
                assert not (failed and not future.exception())  # none after one that was not fed
                if future.exception():
                    failed = True
                    assert isinstance(future.exception(), StreamError)
                else:
                    assert equal(future.result(), whole[i * len(x) : (i + 1) * len(x)])
    sums = engine.metrics.snapshot()
    assert sums["accepted"] == 240 == sums["completed"] + sums["failed"]


def test_cancelled_chunks_are_not_fed():
    model = streaming()
    with StreamEngine(model.pool(2)) as engine:
        engine.open("a")
        with engine._runner.pool_lock:  # the first chunk begins, and waits
            first = engine.submit(x_of(1)[0], stream="a")
            while not first.running():
                time.sleep(0.001)
            others = [engine.submit(x_of(i)[0], stream="a") for i in range(2, 6)]
            assert others[0].cancel() and others[2].cancel()
        wait([first, *others], 30)
        found = np.concatenate([future.result() for future in (first, others[1], others[3])])
        expected = model(np.concatenate([x_of(1), x_of(3), x_of(5)], axis=1))[0]
        assert equal(found, expected)
        assert engine.metrics.cancelled == 2 and engine.queue_depth == 0 and not engine._queue._backlog.lines


def test_streams_that_look_ahead_finish():
    nodes = [Recurrent("rnn", GRU(WIDTH, H), "x", direction="bidirectional"), linear("out", "rnn", 2 * H, 3)]
    model, rng = make(Spec([X], nodes, ["out"])), np.random.default_rng(5)
    x = rng.standard_normal((30, WIDTH)).astype(np.float32)
    alone = model.stream(lookahead=4, block=3)
    expected = np.concatenate([alone.feed(x[:13]), alone.feed(x[13:]), alone.finish()])
    with StreamEngine(model.pool(3, lookahead=4, block=3), slice_steps=2) as engine:
        engine.open("a")
        futures = [engine.submit(x[:13], stream="a"), engine.submit(x[13:], stream="a", finish=True)]
        found = np.concatenate([future.result(30) for future in futures])
    assert len(found) == 30
    assert equal(found, expected)


def test_a_child_s_stream_engine_is_closed():
    with StreamEngine(streaming().pool(2)) as engine:
        engine.open("a")
        engine.submit(x_of(1)[0], stream="a").result(30)

        def child():
            with pytest.raises(EngineClosedError, match="made before a fork"):
                engine.submit(x_of(1)[0], stream="a")

        assert in_child(child) == 0
        engine.submit(x_of(1)[0], stream="a").result(30)


# --- load ----------------------------------------------------------------------------------------------------------


def test_load():
    """The same as `python tests/tools/engine_load.py`, smaller."""
    found = engine_load.run(3000, threads=32)
    assert found["32 threads"]["cancelled"] > 0 and found["asyncio"]["cancelled by callers"] > 0
    assert found["at once"]["here"] > 0
    for name in ("32 threads", "asyncio", "streams"):
        assert found[name]["completed"] > 0 and found[name]["rows"] > found[name]["batches"] > 0
