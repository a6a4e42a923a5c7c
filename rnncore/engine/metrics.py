"""Counters and histograms of an Engine: plain numbers that any exporter can read."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["SECONDS", "Histogram", "Metrics"]

SECONDS = tuple(
    round(digit * 10.0**power, 6) for power in range(-5, 2) for digit in (1, 2.5, 5) if digit * 10.0**power >= 5e-5
)
"""Upper bounds of a histogram of times: 50 microseconds to 50 seconds."""

ROWS = tuple(1 << power for power in range(13))


class Histogram:
    """Counts of values by upper bound, as Prometheus has them: ``buckets`` are cumulative, the last one is all.

    bounds are inclusive upper bounds; what is larger counts in the last bucket, infinity.
    """

    def __init__(self, bounds: Sequence[float]):
        self.bounds = tuple(bounds)
        self.count, self.sum = 0, 0.0
        self._counts = [0] * (len(self.bounds) + 1)
        self._lock = threading.Lock()

    def observe(self, *values: float) -> None:
        """Count values."""
        with self._lock:
            for value in values:
                self._counts[bisect.bisect_left(self.bounds, value)] += 1
                self.sum += value
            self.count += len(values)

    def snapshot(self) -> dict[str, Any]:
        """{"buckets": {upper bound: values up to it}, "count", "sum"}, of one moment."""
        with self._lock:
            counts, count, total = list(self._counts), self.count, self.sum
        buckets, so_far = {}, 0
        for bound, number in zip((*self.bounds, float("inf")), counts, strict=True):
            so_far += number
            buckets[bound] = so_far
        return {"buckets": buckets, "count": count, "sum": total}

    def quantile(self, q: float) -> float:
        """The upper bound below which a share q of the values is; NaN without values."""
        counted = self.snapshot()
        wanted = q * counted["count"]
        return next(
            (bound for bound, so_far in counted["buckets"].items() if so_far and so_far >= wanted), float("nan")
        )


class Metrics:
    """Counters and histograms of an Engine.

    accepted = completed + failed + cancelled + expired + dropped + those queued or running.

    accepted   requests taken into the queue        rejected   refused with QueueFullError
    completed  answered with a result               failed     answered with an error of the model
    cancelled  by the caller, before they ran       expired    answered with DeadlineError
    dropped    by a shutdown without drain          batches    calls of the model; rows and steps: all they held

    batch_rows, and in seconds queued, running (a batch) and latency (submit to result) are histograms.
    """

    COUNTERS = ("accepted", "rejected", "completed", "failed", "cancelled", "expired", "dropped")
    SUMS = ("batches", "rows", "steps")
    HISTOGRAMS = ("batch_rows", "queued", "running", "latency")

    accepted: int
    rejected: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    dropped: int
    batches: int
    rows: int
    steps: int

    def __init__(self):
        self._lock = threading.Lock()
        for name in (*self.COUNTERS, *self.SUMS):
            setattr(self, name, 0)
        self.batch_rows = Histogram(ROWS)
        self.queued, self.running, self.latency = Histogram(SECONDS), Histogram(SECONDS), Histogram(SECONDS)

    def add(self, **counts: int) -> None:
        """Raise counters by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def snapshot(self) -> dict[str, Any]:
        """Every counter by name, and every histogram's snapshot."""
        with self._lock:
            counters: dict[str, Any] = {name: getattr(self, name) for name in (*self.COUNTERS, *self.SUMS)}
        return {**counters, **{name: getattr(self, name).snapshot() for name in self.HISTOGRAMS}}
