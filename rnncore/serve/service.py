"""Models with their engines, by name: used by every transport, and independent of transports."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore._version import __version__
from rnncore.engine.engine import Engine, StreamEngine
from rnncore.errors import InputError
from rnncore.graph.nodes import Input
from rnncore.ops import numpy_dtype
from rnncore.runtime.model import Model
from rnncore.serve.protocol import Expected, InferRequest
from rnncore.serve.sequences import Sequences
from rnncore.serve.service_errors import ServiceError
from rnncore.serve.tensors import datatype

__all__ = ["VERSION", "Limits", "ServedModel", "Service", "Share"]

VERSION = "1"
EXTENSIONS = [
    "binary_tensor_data",
    "model_configuration",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "statistics",
]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    max_batch_size   rows in one call of a model        max_queue_size  requests that wait, of each model
    max_wait         seconds a batch waits for company  max_steps       rows times steps in one request
    max_body_size    bytes of a request's body          max_json_size   bytes of its JSON
    max_pending_size  bytes of all bodies being read or answered
    max_sequences    sequences open, of each model      sequence_idle   seconds after which an idle one is closed
    timeout          seconds until a request's work must have begun; clients may ask for less
    read_timeout     seconds until a request's body must have arrived; 5 and one for each 16 KiB, where that is less
    """

    max_batch_size: int = 256
    max_queue_size: int = 1024
    max_wait: float = 0.0
    max_steps: int = 1 << 18
    max_body_size: int = 64 << 20
    max_json_size: int = 8 << 20
    max_pending_size: int = 256 << 20
    max_sequences: int = 1024
    sequence_idle: float = 600.0
    timeout: float = 30.0
    read_timeout: float = 30.0

    def __post_init__(self):
        for name, value in vars(self).items():
            least = 0 if name == "max_wait" else 1e-3
            kind = float if isinstance(getattr(type(self), name), float) else int
            fits = isinstance(value, (int, kind)) and not isinstance(value, bool) and least <= value < float("inf")
            if not fits:
                raise InputError(f"{name}={value!r}, expected a positive {kind.__name__}")


@dataclass
class Budget:
    """Bytes of all requests that are here, and how many there may be."""

    most: int
    taken: int = 0


class Share:
    """One request's part of the budget, given back at the end."""

    def __init__(self, budget: Budget):
        self._budget, self._size = budget, 0

    def check(self, size: int) -> int:
        """Bytes that are missing to ``size`` in all. ServiceError where the budget does not have them."""
        more = max(0, size - self._size)
        if self._budget.taken + more > self._budget.most:
            raise ServiceError(503, "too many bytes are being worked on, try again later", retry_after=1)
        return more

    def reserve(self, size: int) -> None:
        """Set the bytes that it has in all."""
        more = self.check(size)
        self._budget.taken += more
        self._size += more

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.taken -= self._size


class ServedModel:
    """A model, the engine that batches its requests, and its sequences."""

    def __init__(self, name: str, model: Model, limits: Limits):
        self.name, self.model, self.limits = name, model, limits
        self.engine = Engine(
            model,
            max_batch=limits.max_batch_size,
            max_steps=limits.max_steps,
            max_wait=limits.max_wait,
            max_queue=limits.max_queue_size,
        )
        self.sequences = Sequences(name, model, limits)
        self._free = {  # input -> its number of dimensions, and those whose size the request decides
            entry.name: (len(entry.shape), [axis for axis, size in enumerate(entry.shape) if isinstance(size, str)])
            for entry in model.inputs
        }
        dtypes = {entry.name: numpy_dtype(entry.dtype, model.dtype) for entry in model.inputs}
        self.expected = Expected(dtypes, model.spec.outputs, limits.max_body_size, limits.max_json_size)

    async def infer(self, request: InferRequest, owner: str, at_once: bool = False) -> dict[str, np.ndarray]:
        """Every output by name. Raises what the engine raises, and ServiceError. at_once: as Engine.infer has it."""
        self._check_size(request)
        timeout = self.limits.timeout if request.timeout is None else min(request.timeout, self.limits.timeout)
        if request.sequence is not None:
            return await self.sequences.infer(request, owner, timeout, at_once)
        order: dict[str, Any] = {"priority": -request.priority, "timeout": timeout, "at_once": at_once}
        return await self.engine.infer(request.inputs, copy=False, **order)

    def _check_size(self, request: InferRequest) -> None:
        """Bounds what the network needs in addition to the request: rows times steps of each input."""
        for name, array in request.inputs.items():
            rank, free = self._free[name]
            if array.ndim != rank:
                continue  # the engine says what is wrong
            shape, product = array.shape, 1
            for axis in free:
                product *= shape[axis]
            if product > self.limits.max_steps:
                at_most = f"expected at most {self.limits.max_steps} rows times steps in one request"
                raise ServiceError(413, f"input {name!r}: shape {list(array.shape)}, {at_most}")

    def metadata(self) -> dict[str, Any]:
        """The protocol's description of the model; -1 is a size that the request decides."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "rnncore",
            "inputs": [self._tensor(entry, optional=True) for entry in self.model.inputs],
            "outputs": [self._tensor(entry) for entry in self.model.outputs],
        }

    def config(self) -> dict[str, Any]:
        """The model configuration of Triton's extension, as far as it has a meaning here."""
        config: dict[str, Any] = {"name": self.name, "platform": "rnncore", "backend": "rnncore", "max_batch_size": 0}
        for key, entries in (("input", self.model.inputs), ("output", self.model.outputs)):
            config[key] = [self._configured(entry, key == "input") for entry in entries]
        if self.sequences.available:
            idle = round(self.limits.sequence_idle * 1e6)
            config["sequence_batching"] = {"max_sequence_idle_microseconds": idle}
        return config

    def statistics(self) -> dict[str, Any]:
        """The counts of Triton's statistics extension, those of sequences among them; times in nanoseconds."""
        snapshots = [engine.metrics.snapshot() for engine in self._engines()]
        for one in snapshots:
            one["started"] = one["queued"]["count"]

        def total(count: str, histogram: str | None = None) -> dict[str, int]:
            seconds = sum(one[histogram]["sum"] for one in snapshots) if histogram else 0.0
            return {"count": sum(one[count] for one in snapshots), "ns": round(seconds * 1e9)}

        return {
            "name": self.name,
            "version": VERSION,
            "inference_count": sum(one["rows"] for one in snapshots),
            "execution_count": sum(one["batches"] for one in snapshots),
            "inference_stats": {
                "success": total("completed", "latency"),
                "fail": total("failed"),
                "queue": total("started", "queued"),
                "compute_infer": total("batches", "running"),
            },
        }

    def status(self) -> dict[str, Any]:
        """Counts for the status page; p50 and p99 are upper bounds in seconds, None where nothing was answered."""
        engines = self._engines()
        counts = ("completed", "rejected", "failed", "expired", "rows", "steps")
        counted: dict[str, Any] = {name: sum(getattr(one.metrics, name) for one in engines) for name in counts}
        busiest = max(engines, key=lambda engine: engine.metrics.completed).metrics.latency
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            bound = busiest.quantile(share)
            counted[name] = bound if math.isfinite(bound) else None
        counted["queue_depth"] = sum(engine.queue_depth for engine in engines)
        counted["sequences"] = len(self.sequences)
        return {**self.metadata(), **counted}

    def _engines(self) -> list[Engine | StreamEngine]:
        return [engine for engine in (self.engine, self.sequences.engine) if engine is not None]

    def _tensor(self, entry: Input, optional: bool = False) -> dict[str, Any]:
        dtype = numpy_dtype(entry.dtype, self.model.dtype)
        description: dict[str, Any] = {"name": entry.name, "datatype": datatype(dtype), "shape": _sizes(entry)}
        if optional and entry.optional:
            description["parameters"] = {"optional": True}
        return description

    def _configured(self, entry: Input, is_input: bool) -> dict[str, Any]:
        dtype = numpy_dtype(entry.dtype, self.model.dtype)
        description = {"name": entry.name, "data_type": f"TYPE_{datatype(dtype)}", "dims": _sizes(entry)}
        return {**description, "optional": entry.optional} if is_input else description


class Service:
    """Models by name.

    models   name -> Model; nothing is loaded later
    limits   Limits

    ``draining`` is set when the server is about to end: it is not ready, and answers what comes none the less.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits | None = None):
        self.limits = limits or Limits()
        for name, model in models.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise InputError(f"model name {name!r}, expected letters, digits, '_', '-' and '.', at most 128")
            if not isinstance(model, Model):
                raise InputError(f"model {name!r}: {type(model).__name__}, expected a Model: rnncore.load(...)")
        if not models:
            raise InputError("no models, expected a mapping of names to Models")
        self.models = {name: ServedModel(name, model, self.limits) for name, model in models.items()}
        self.budget = Budget(self.limits.max_pending_size)
        self.draining = False
        self.started = time.time()

    def model(self, name: str, version: str = "") -> ServedModel:
        """A model by name. ServiceError for an unknown name or version."""
        if name not in self.models:
            raise ServiceError(404, f"model {_short(name)} is unknown, expected {_listed(self.models)}")
        if version not in ("", VERSION):
            raise ServiceError(404, f"model {name!r} has no version {_short(version)}, expected {VERSION!r}")
        return self.models[name]

    @property
    def ready(self) -> bool:
        return not self.draining

    def metadata(self) -> dict[str, Any]:
        return {"name": "rnncore", "version": __version__, "extensions": EXTENSIONS}

    def index(self) -> list[dict[str, str]]:
        """Name, version and state of each model."""
        state = "READY" if self.ready else "UNAVAILABLE"
        return [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in self.models]

    def status(self) -> dict[str, Any]:
        """The status page's data: every model with its counts."""
        models = [served.status() for served in self.models.values()]
        return {"version": __version__, "ready": self.ready, "uptime": time.time() - self.started, "models": models}

    async def shutdown(self) -> None:
        """Answer what was accepted, and end the engines."""
        self.draining = True
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As shutdown, where no event loop runs."""
        self.draining = True
        for served in self.models.values():
            served.sequences.shutdown()
            served.engine.shutdown()


def _sizes(entry: Input) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in entry.shape]


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
