"""Random schedules of streams in pools, each stream's outputs against a run of its whole sequence alone.

A schedule opens, feeds, forks, saves, loads, resets, finishes, evicts and closes streams of one pool at random, with
pieces of random lengths for random subsets. When a stream ends, what it gave in all its pieces must be, bit for bit,
what the model gives for the whole of what it was fed, in a batch of one.

    python tests/tools/stream_schedules.py --count 10000 --threads 4

threads: the number of schedules at once on shared models, and of the kernels' threads.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import _helpers  # noqa: F401
import numpy as np
from step_models import PAIRS, signal_model, step_model
from stream_models import SPECS, draw, equal, make
from window_models import WINDOWS

LOOPS = {
    "a cell of ops": step_model("B").over_time(PAIRS, given={"gain": 0.1}).spec,
    "chunks of a signal": signal_model("B").over_time({"state": "state_next"}, chunk=4, context=2).spec,
}
MODELS = {
    **SPECS,
    **{name: WINDOWS[name][0] for name in ("causal", "two branches that halve the rate", "spectrogram")},
    **LOOPS,
}
STREAMS = 200
ACTIONS = 24


# Steps that a whole run needs at least for one output.
LEAST = {"two branches that halve the rate": 3}


def in_time(shape):
    return any("T" in str(size) for size in shape)


@cache
def model(name, threads):
    return make(MODELS[name], num_threads=threads)


@dataclass
class Track:
    """Input and output of a stream since its beginning."""

    fed: list = field(default_factory=list)
    given: list = field(default_factory=list)

    def copy(self):
        return Track(list(self.fed), list(self.given))


class Schedule:
    """One pool and what its streams should be."""

    def __init__(self, seed, threads):
        self.rng = np.random.default_rng(seed)
        self.name = list(MODELS)[seed % len(MODELS)]
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
        """Ids of up to ``most`` streams."""
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
        fed = np.full(len(ids), steps) if lengths is None else lengths
        counts = fed if self.model.stream().latency == 0 and self.name in SPECS else self.given_for(ids, fed)
        for row, id in enumerate(ids):
            count = fed[row]
            one = np.take(chunk, [row], axis=1 - self.axis)
            self.tracks[id].fed.append(one[:count] if self.axis == 0 else one[:, :count])
            given = {}
            for name, array in found.items():
                shape = values[name].shape
                part = np.take(array, row, axis=shape.index("B"))
                given[name] = part[: counts[row]] if in_time(shape) else part
            self.tracks[id].given.append(given if len(given) > 1 else next(iter(given.values())))

    def given_for(self, ids, fed):
        """Steps of the output that streams give for ``fed`` more of the input, each by a stream fed like it."""
        found = []
        for id, count in zip(ids, fed, strict=True):
            seen = sum(chunk.shape[1] for chunk in self.tracks[id].fed)
            stream = self.model.stream()
            parts = [stream.feed(self.piece(seen)), stream.feed(self.piece(int(count)))]
            last = parts[1] if not isinstance(parts[1], dict) else parts[1][self.model.outputs[0].name]
            found.append(last.shape[1])
        return found

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
            self.saved.append((kept[id], self.tracks.pop(id)))

    def end(self, id):
        self.check(id)
        self.pool.close(id)
        del self.tracks[id]

    def check(self, id):
        """Compare, and end the stream's sequence if anything waits: only what follows is a reset or its end."""
        track = self.tracks[id]
        if sum(chunk.shape[self.axis] for chunk in track.fed) < LEAST.get(self.name, 1):
            return
        if self.name not in SPECS:
            track.given.append(self.pool.finish(id))
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
            found = np.concatenate(parts) if in_time(values[name].shape) else parts[-1]
            self.compared += 1
            self.differences += not equal(found, expected)


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
