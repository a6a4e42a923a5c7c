"""Random schedules of streams in pools, each stream's outputs against a run of its whole sequence alone.

A schedule opens, feeds, forks, saves, loads, resets, finishes, evicts and closes streams of one pool at random, with
pieces of random lengths for random subsets. When a stream ends, what it gave in all its pieces must be, bit for bit,
what the model gives for the whole of what it was fed, in a batch of one.

    python tests/stream_schedules.py --count 10000 --threads 4

threads: so many schedules at once on shared models, and kernels with as many threads.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from stream_models import SPECS, draw, make

STREAMS = 200
ACTIONS = 24


@cache
def model(name, threads):
    return make(SPECS[name], num_threads=threads)


@dataclass
class Track:
    """What a stream was fed and what it gave since its beginning."""

    fed: list = field(default_factory=list)
    given: list = field(default_factory=list)

    def copy(self):
        return Track(list(self.fed), list(self.given))


class Schedule:
    """One pool and what its streams should be."""

    def __init__(self, seed, threads):
        self.rng = np.random.default_rng(seed)
        self.name = list(SPECS)[seed % len(SPECS)]
        self.model = model(self.name, threads)
        self.axis = 0 if self.name == "time_first" else 1
        self.now = 0.0
        self.pool = self.model.pool(STREAMS, clock=lambda: self.now)
        self.tracks = {}
        self.saved = []
        self.next = 0
        self.differences = 0
        self.compared = 0

    def run(self):
        actions = [self.open, self.feed, self.feed, self.feed, self.feed_arrays, self.fork, self.save, self.load,
                   self.reset, self.close, self.evict]  # fmt: skip
        self.open()
        for _ in range(ACTIONS):
            self.now += 1.0
            actions[self.rng.integers(len(actions))]()
        for id in list(self.tracks):
            self.end(id)
        assert len(self.pool) == 0
        return self.compared, self.differences

    def some(self, most):
        """Ids of at most so many streams."""
        ids = list(self.tracks)
        if not ids:
            return []
        count = int(self.rng.integers(1, min(most, len(ids)) + 1))
        return [ids[i] for i in self.rng.permutation(len(ids))[:count]]

    def new_id(self):
        self.next += 1
        return f"stream {self.next}"

    def open(self):
        for _ in range(int(self.rng.integers(1, 60))):
            if len(self.tracks) < STREAMS:
                id = self.new_id()
                self.pool.open(id)
                self.tracks[id] = Track()

    def piece(self, steps):
        return draw(self.model.spec, self.rng, 1, steps)

    def feed(self):
        longest = int(self.rng.choice([1, 4]))
        chunks = {id: self.piece(int(self.rng.integers(0, longest + 1))) for id in self.some(STREAMS)}
        found = self.pool.step({id: chunk.squeeze(1 - self.axis) for id, chunk in chunks.items()})
        for id, chunk in chunks.items():
            self.tracks[id].fed.append(chunk)
            self.tracks[id].given.append(found[id])

    def feed_arrays(self):
        """By handles: one array for all, the same number of steps for each or lengths."""
        ids = self.some(STREAMS)
        if not ids:
            return
        steps = int(self.rng.integers(1, 4))
        lengths = self.rng.integers(0, steps + 1, len(ids)) if self.rng.random() < 0.5 else None
        chunk = draw(self.model.spec, self.rng, len(ids), steps)
        found = self.pool.step(chunk, self.pool.handles(ids), lengths=lengths)
        found = found if isinstance(found, dict) else {self.model.outputs[0].name: found}
        values = self.model.spec.values
        for row, id in enumerate(ids):
            count = steps if lengths is None else lengths[row]
            one = np.take(chunk, [row], axis=1 - self.axis)
            self.tracks[id].fed.append(one[:count] if self.axis == 0 else one[:, :count])
            given = {}
            for name, array in found.items():
                shape = values[name].shape
                part = np.take(array, row, axis=shape.index("B"))
                given[name] = part[:count] if "T" in shape else part
            self.tracks[id].given.append(given if len(given) > 1 else next(iter(given.values())))

    def fork(self):
        for id in self.some(5):
            if len(self.tracks) < STREAMS:
                other = self.new_id()
                self.pool.fork(id, other)
                self.tracks[other] = self.tracks[id].copy()

    def save(self):
        for id in self.some(5):
            self.saved.append((self.pool.save(id), self.tracks[id].copy()))

    def load(self):
        for _ in range(3):
            if self.saved and len(self.tracks) < STREAMS:
                data, track = self.saved[self.rng.integers(len(self.saved))]
                id = self.new_id()
                self.pool.load(data, id)
                self.tracks[id] = track.copy()

    def reset(self):
        for id in self.some(3):
            self.check(id)
            self.pool.reset(id)
            self.tracks[id] = Track()

    def close(self):
        for id in self.some(40):
            self.end(id)

    def evict(self):
        kept = {}
        for id in self.pool.evict(8.0, keep=kept.__setitem__):
            self.saved.append((kept[id], self.tracks[id].copy()))
            self.check(id)
            del self.tracks[id]

    def end(self, id):
        self.check(id)
        self.pool.close(id)
        del self.tracks[id]

    def check(self, id):
        track = self.tracks[id]
        if not sum(chunk.shape[self.axis] for chunk in track.fed):
            return
        whole = self.model(np.concatenate(track.fed, axis=self.axis))
        values = self.model.spec.values
        if not isinstance(whole, dict):
            name = self.model.outputs[0].name
            whole, given = {name: whole}, [{name: array} for array in track.given]
        else:
            given = track.given
        for name, array in whole.items():
            expected = np.take(array, 0, axis=values[name].shape.index("B"))
            parts = [found[name] for found in given]
            found = np.concatenate(parts) if "T" in values[name].shape else parts[-1]
            self.compared += 1
            same = found.shape == expected.shape and found.tobytes() == np.ascontiguousarray(expected).tobytes()
            self.differences += not same


def run(seed, threads=1):
    """(outputs compared, differences) of one schedule."""
    return Schedule(seed, threads).run()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with ThreadPoolExecutor(given.threads) as executor:
        seeds = range(given.seed, given.seed + given.count)
        results = list(executor.map(lambda seed: run(seed, given.threads), seeds))
    compared, differences = map(sum, zip(*results, strict=True))
    print(f"{given.count} schedules, {given.threads} threads: {compared} outputs compared, {differences} differences")
    raise SystemExit(1 if differences else 0)


if __name__ == "__main__":
    main()
