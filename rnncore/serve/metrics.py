"""Counts and histograms in Prometheus's text format: of answers, and what the engines count themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from rnncore.engine.metrics import SECONDS, Histogram
from rnncore.serve.service import ServedModel, Service

__all__ = ["AnswerMetrics", "exposition"]

ENGINE_HISTOGRAMS = {
    "queued": ("queue_seconds", "Seconds a request waited for its batch"),
    "running": ("batch_seconds", "Seconds the model ran on a batch"),
    "latency": ("engine_seconds", "Seconds from acceptance to result"),
    "batch_rows": ("batch_rows", "Rows in a batch"),
}
OUTCOMES = ("completed", "failed", "cancelled", "expired", "dropped", "rejected")


class AnswerMetrics:
    """Answers by transport, route, model and status, and how long they took. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self.in_flight = 0
        self.counts: dict[tuple[str, str, str, str], int] = {}
        self.seconds: dict[tuple[str, str, str], Histogram] = {}

    def began(self) -> None:
        with self._lock:
            self.in_flight += 1

    def ended(self, transport: str, route: str, model: str, status: str, seconds: float) -> None:
        """Count an answer. route and model are the server's own names, so there are few."""
        labels = (transport, route, model)
        with self._lock:
            self.in_flight -= 1
            self.counts[(*labels, status)] = self.counts.get((*labels, status), 0) + 1
            histogram = self.seconds.get(labels)
            if histogram is None:
                histogram = self.seconds[labels] = Histogram(SECONDS)
        histogram.observe(seconds)


class _Collector:
    def __init__(self, service: Service, answers: AnswerMetrics):
        self._service, self._answers = service, answers

    def collect(self) -> Iterator[Any]:
        yield from self._of_answers()
        yield from self._of_engines()

    def _of_answers(self) -> Iterator[Any]:
        with self._answers._lock:
            counts, seconds = dict(self._answers.counts), dict(self._answers.seconds)
        names = ["transport", "route", "model"]
        family = CounterMetricFamily("rnncore_answers", "Requests answered", labels=[*names, "status"])
        for labels, count in counts.items():
            family.add_metric(list(labels), count)
        yield family
        family = HistogramMetricFamily("rnncore_answer_seconds", "Seconds from a request to its answer", labels=names)
        for kind, histogram in seconds.items():
            _add(family, list(kind), histogram.snapshot())
        yield family
        yield GaugeMetricFamily("rnncore_requests_in_flight", "Requests being answered", self._answers.in_flight)

    def _of_engines(self) -> Iterator[Any]:
        engines = [
            (served, kind, engine) for served in self._service.models.values() for kind, engine in _engines(served)
        ]
        snapshots = [([served.name, kind], engine.metrics.snapshot()) for served, kind, engine in engines]
        for key, (name, text) in ENGINE_HISTOGRAMS.items():
            family = HistogramMetricFamily(f"rnncore_{name}", text, labels=["model", "engine"])
            for labels, snapshot in snapshots:
                _add(family, labels, snapshot[key])
            yield family
        family = CounterMetricFamily(
            "rnncore_requests", "Requests by what became of them", labels=["model", "engine", "outcome"]
        )
        for labels, snapshot in snapshots:
            for outcome in OUTCOMES:
                family.add_metric([*labels, outcome], snapshot[outcome])
        yield family
        for key in ("batches", "rows", "steps"):
            family = CounterMetricFamily(f"rnncore_{key}", f"{key} run", labels=["model", "engine"])
            for labels, snapshot in snapshots:
                family.add_metric(labels, snapshot[key])
            yield family
        family = GaugeMetricFamily("rnncore_queue_depth", "Requests that wait", labels=["model", "engine"])
        for served, kind, engine in engines:
            family.add_metric([served.name, kind], engine.queue_depth)
        yield family
        family = GaugeMetricFamily("rnncore_sequences_open", "Sequences that are open", labels=["model"])
        for served in self._service.models.values():
            family.add_metric([served.name], len(served.sequences))
        yield family


def _engines(served: ServedModel) -> list[tuple[str, Any]]:
    streams = served.sequences.engine
    return [("batch", served.engine), *([("sequence", streams)] if streams is not None else [])]


def _add(family: HistogramMetricFamily, labels: list[str], snapshot: dict[str, Any]) -> None:
    buckets = [(floatToGoString(bound), count) for bound, count in snapshot["buckets"].items()]
    family.add_metric(labels, buckets, snapshot["sum"])


def exposition(service: Service, answers: AnswerMetrics) -> bytes:
    """Everything, as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(service, answers))
    return generate_latest(registry)
