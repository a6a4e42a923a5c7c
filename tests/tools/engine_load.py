"""Engines under load: none lost, none answered twice, none crossed.

    python tests/tools/engine_load.py --requests 100000

Every request has an input of its own, and its answer must be, bit for bit, what the model gives for that input alone.
A tenth is cancelled, a tenth has a deadline that may pass; the queue is small, and its bound is watched. Requests come
from threads, then from coroutines, many and one alone, then as chunks of streams; then an engine is shut down
under load and must drain.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, wait

import _helpers  # noqa: F401
import numpy as np
from stream_models import equal

import rnncore
from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.engine.requests import InlineRequest
from rnncore.errors import DeadlineError, EngineClosedError, QueueFullError

MOST_STEPS, WIDTH = 24, 6
MAX_QUEUE = 200


def network() -> Model:
    nodes = [
        Recurrent("lstm", LSTM(WIDTH, 16), "x", layers=2),
        Node("out", "Linear", "lstm", {"input_size": 16, "output_size": 4}),
    ]
    spec = Spec([Input("x", "float", ("B", "T", WIDTH))], nodes, ["out"])
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    return Model(spec, weights)


def request_input(serial: int) -> np.ndarray:
    """An input that no other request has, of 1 to 3 rows."""
    rng = np.random.default_rng(serial)
    return rng.standard_normal((int(rng.integers(1, 4)), int(rng.integers(1, MOST_STEPS)), WIDTH)).astype(np.float32)


class Tally:
    """What became of each request, and how often it was answered."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.answers: collections.Counter[int] = collections.Counter()
        self.results: dict[int, np.ndarray] = {}

    def done(self, serial: int, future: Future) -> None:
        """A future's callback."""
        with self.lock:
            self.answers[serial] += 1
            if future.cancelled():
                self.outcomes["cancelled"] += 1
            elif future.exception() is None:
                self.outcomes["completed"] += 1
                self.results[serial] = future.result()
            else:
                self.outcomes[type(future.exception()).__name__] += 1

    def check(self, model: Model, count: int) -> None:
        assert sum(self.outcomes.values()) == count, (self.outcomes, count)
        assert len(self.answers) == count and set(self.answers.values()) == {1}
        assert set(self.outcomes) <= {"completed", "cancelled", "DeadlineError"}, self.outcomes
        for serial, y in self.results.items():
            assert equal(y, model(request_input(serial))), f"request {serial}"


class Watch(threading.Thread):
    """Looks at an engine's queue all the time."""

    def __init__(self, engine):
        super().__init__(daemon=True)
        self.engine, self.deepest, self.ended = engine, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.0005):
            self.deepest = max(self.deepest, self.engine.queue_depth)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.ended.set()
        self.join()
        assert self.deepest <= self.engine.max_queue, self.deepest


def check_sums(engine) -> dict[str, int]:
    found = engine.metrics.snapshot()
    sums = {name: found[name] for name in ("completed", "failed", "cancelled", "expired", "dropped")}
    assert sum(sums.values()) == found["accepted"] and engine.queue_depth == 0, (sums, found["accepted"])
    assert found["latency"]["count"] == found["completed"] and found["batch_rows"]["count"] == found["batches"]
    return {**sums, "rejected": found["rejected"], "batches": found["batches"], "rows": found["rows"]}


def from_threads(model: Model, count: int, threads: int) -> dict[str, int]:
    """Each thread submits its share, some at a time; full queues are tried again."""
    tally = Tally()
    engine = rnncore.Engine(model, max_queue=MAX_QUEUE, max_batch=64)
    failures = []

    def caller(first: int) -> None:
        try:
            rng, waiting = np.random.default_rng(first), []
            for serial in range(first, count, threads):
                kind = rng.random()
                timeout = float(rng.uniform(1e-4, 5e-3)) if kind < 0.1 else None
                while True:
                    try:
                        future = engine.submit(
                            request_input(serial), timeout=timeout, priority=int(rng.integers(3)), block=kind > 0.5
                        )
                        break
                    except QueueFullError:
                        time.sleep(1e-4)
                    except DeadlineError:  # while it waited for room: it was not accepted
                        timeout = None
                future.add_done_callback(lambda future, serial=serial: tally.done(serial, future))
                waiting.append(future)
                if kind > 0.9:
                    future.cancel()
                if len(waiting) == 8:
                    wait(waiting)
                    waiting.clear()
            wait(waiting)
        except BaseException as error:
            failures.append(error)
            raise

    with Watch(engine), engine:
        callers = [threading.Thread(target=caller, args=(first,)) for first in range(threads)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    assert not failures, failures
    tally.check(model, count)
    return check_sums(engine)


def from_coroutines(model: Model, count: int, together: int = 500) -> dict[str, int]:
    """Tasks that await their answers, cancelled from outside or timed out by asyncio."""
    outcomes: collections.Counter[str] = collections.Counter()
    engine = rnncore.Engine(model, max_queue=together, max_batch=64)

    async def one(serial: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            rng = np.random.default_rng(serial)
            kind, x = rng.random(), request_input(serial)
            try:
                if kind < 0.1:
                    y = await engine.infer(x, timeout=float(rng.uniform(1e-4, 5e-3)))
                elif kind < 0.15:
                    async with asyncio.timeout(float(rng.uniform(0, 3e-3))):
                        y = await engine.infer(x)
                elif kind < 0.2:
                    task = asyncio.create_task(engine.infer(x))
                    await asyncio.sleep(0)
                    task.cancel()
                    y = await task
                else:
                    y = await engine.infer(x, priority=int(rng.integers(3)))
            except DeadlineError:
                outcomes["expired"] += 1
            except (TimeoutError, asyncio.CancelledError):
                outcomes["cancelled"] += 1
            else:
                outcomes["completed"] += 1
                assert equal(y, model(x)), f"request {serial}"

    async def everything() -> None:
        gate = asyncio.Semaphore(together)
        await asyncio.gather(*(one(serial, gate) for serial in range(count)))

    with Watch(engine), engine:
        asyncio.run(everything())
    assert sum(outcomes.values()) == count, outcomes
    found = check_sums(engine)
    assert found["failed"] == found["dropped"] == 0
    assert found["completed"] >= outcomes["completed"]  # the rest was cancelled while it ran
    return {**found, "cancelled by callers": outcomes["cancelled"]}


def at_once(model: Model, count: int, threads: int = 4) -> dict[str, int]:
    """A coroutine asks alone, time and again, to be answered where it asks; threads come between, then a shutdown."""
    engine, tally, ended = rnncore.Engine(model, max_queue=MAX_QUEUE), Tally(), threading.Event()
    failures, here = [], 0

    def caller(number: int) -> None:
        try:
            for serial in itertools.count(count + number, threads):
                future = engine.submit(request_input(serial))
                future.add_done_callback(lambda future, serial=serial: tally.done(serial, future))
                wait([future])
                if ended.wait(1e-3 * (serial % 5)):
                    return
        except EngineClosedError:
            pass
        except BaseException as error:
            failures.append(error)
            raise

    async def everything() -> int:
        nonlocal here
        for serial in range(count):
            asked = engine.ask(request_input(serial), at_once=True)
            here += isinstance(asked, InlineRequest)
            tally.results[serial] = await asked
            if serial % 3 == 0:
                await asyncio.sleep(1e-4)
        ending = asyncio.get_running_loop().run_in_executor(None, engine.shutdown)
        late = 0
        try:
            while True:
                tally.results[late] = await engine.ask(request_input(late), at_once=True)
                late += 1
        except EngineClosedError:
            assert await ending
        return late

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(threads)]
    with Watch(engine), engine:
        for thread in callers:
            thread.start()
        late = asyncio.run(everything())
        ended.set()
        for thread in callers:
            thread.join()
    assert not failures, failures
    assert set(tally.outcomes) <= {"completed"} and set(tally.answers.values()) <= {1}
    for serial, y in tally.results.items():
        assert equal(y, model(request_input(serial))), f"request {serial}"
    found = check_sums(engine)
    assert found["completed"] == count + late + sum(tally.outcomes.values())
    return {**found, "here": here}


def of_streams(model: Model, count: int, threads: int, streams: int = 200) -> dict[str, int]:
    """Chunks of streams that come and go; what was fed in order must be what the model gives for it as a whole."""
    engine = rnncore.StreamEngine(model.pool(streams), max_queue=10 * MAX_QUEUE, max_batch=64, slice_steps=4)
    failures, done = [], []

    def caller(number: int) -> None:
        try:
            rng = np.random.default_rng(number)
            left = count // threads
            while left > 0:
                name = f"{number}-{left}"
                engine.open(name)
                chunks = []
                for _ in range(min(left, int(rng.integers(1, 30)))):
                    x = rng.standard_normal((int(rng.integers(0, 12)), WIDTH)).astype(np.float32)
                    options = {"timeout": float(rng.uniform(1e-4, 5e-3))} if rng.random() < 0.1 else {}
                    try:
                        future = engine.submit(x, stream=name, priority=int(rng.integers(3)), block=True, **options)
                    except DeadlineError:
                        continue
                    if rng.random() < 0.1:
                        future.cancel()
                    chunks.append((x, future))
                    left -= 1
                wait([future for _, future in chunks])
                fed = [(x, future) for x, future in chunks if not future.cancelled() and not future.exception()]
                if fed:
                    whole = np.concatenate([x for x, _ in fed])
                    found = np.concatenate([future.result() for _, future in fed])
                    assert equal(found, model(whole[None])[0])
                wrong = [f.exception() for _, f in chunks if not f.cancelled() and f.exception()]
                assert all(isinstance(error, DeadlineError) for error in wrong), wrong
                done.append(len(chunks))
                engine.close(name)
        except BaseException as error:
            failures.append(error)
            raise

    with Watch(engine), engine:
        callers = [threading.Thread(target=caller, args=(number,)) for number in range(threads)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    assert not failures, failures
    found = check_sums(engine)
    assert found["failed"] == found["dropped"] == 0 and sum(done) == sum(found[k] for k in list(found)[:5])
    return found


def shut_down_under_load(model: Model, drain: bool) -> dict[str, int]:
    """Everything that was accepted is answered; nothing is afterwards."""
    engine = rnncore.Engine(model, max_queue=2000, max_batch=8)
    tally, accepted = Tally(), [0] * 8

    def caller(number: int) -> None:
        for serial in range(number, 80_000, 8):
            try:
                future = engine.submit(request_input(serial), block=True)
            except EngineClosedError:
                return
            future.add_done_callback(lambda future, serial=serial: tally.done(serial, future))
            accepted[number] += 1

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in callers:
        thread.start()
    time.sleep(0.3)
    assert engine.shutdown(drain=drain, timeout=60)
    for thread in callers:
        thread.join()
    assert sum(tally.outcomes.values()) == sum(accepted)
    assert set(tally.outcomes) <= ({"completed"} if drain else {"completed", "EngineClosedError"}), tally.outcomes
    assert set(tally.answers.values()) == {1}
    for serial, y in tally.results.items():
        assert equal(y, model(request_input(serial)))
    return check_sums(engine)


def run(requests: int, threads: int = 64) -> dict[str, dict[str, int]]:
    """Everything, with so many requests in all; AssertionError where something is wrong."""
    model = network()
    return {
        f"{threads} threads": from_threads(model, requests // 2, threads),
        "asyncio": from_coroutines(model, requests - requests // 2),
        "at once": at_once(model, requests // 10),
        "streams": of_streams(model, max(requests // 10, threads), threads),
        "shutdown, drained": shut_down_under_load(model, True),
        "shutdown, dropped": shut_down_under_load(model, False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=64)
    arguments = parser.parse_args()
    start = time.monotonic()
    for what, found in run(arguments.requests, arguments.threads).items():
        print(f"{what:20s} " + ", ".join(f"{name} {value:,}" for name, value in found.items()))
    print(f"none lost, none twice, none crossed ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, CancelledError) as error:
        sys.exit(f"wrong: {error}")
