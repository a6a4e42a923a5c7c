"""Budget: the most that one call of a model may do, and how it is kept.

A model with limits runs each node through a MeteredStep, which counts what the node is about to cost from the arrays
that it is given. A call of sizes that were within them before is not counted again, where the cost follows from the
sizes alone (see is_settled); what is one stack has a number of steps that always is (most_steps). A model without
limits has none of this.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError, shown
from rnncore.graph.limits import FILE_NODES, MAX_NODES
from rnncore.graph.nodes import AttentionDecoder, Control, Recurrent
from rnncore.ops import OPS, UNKNOWN, Value
from rnncore.ops.work import INTERPRETED, Cost, cost, value_of

__all__ = [
    "Budget",
    "Meter",
    "MeteredBlocks",
    "MeteredStep",
    "afford",
    "available_memory",
    "check_budget",
    "check_memory",
    "file_nodes",
    "is_metered",
    "is_settled",
    "metered_branches",
    "metering",
    "most_steps",
]

Values = dict[str, Any]

KEPT_COSTS = 32
SMALL = 64 << 20
"""Bytes that are taken without asking the system whether they are there."""
ROUND = Cost(16 * INTERPRETED, 0)
"""The cost of a run of a branch without its nodes."""


@dataclass(frozen=True)
class Budget:
    """The most that one call of a model may do, where None is no limit, and that loading it may.

    work    multiply-adds, or operations on an element, counted from the arrays' sizes before each node runs. It is an
            estimate from above of what a plain loop would do: 1e9 takes about a second of one core where it is
            element by element, a twentieth of it in a matrix product
    memory  bytes of the arrays that nodes make and that later ones still read, views counted as arrays

    nodes   nodes and layers, constants not counted, that a file may have from which a model is loaded, 1 to 100,000;
            None: as RNNCORE_MAX_NODES says in the environment, else 20,000. A Model from a Spec may have 100,000

    A call that would pass a limit raises InputError before the node runs that would, and names it. Rounds of loops
    count one by one. A call is a run of the model, a piece that a stream or pool is fed, or all steps of one generate
    or score. The states of streams and pools count as memory when these are made.
    """

    work: float | None = None
    memory: float | None = None
    nodes: int | None = None

    def __post_init__(self):
        if self.nodes is not None and not (type(self.nodes) is int and 1 <= self.nodes <= MAX_NODES):
            raise InputError(f"budget: nodes={shown(self.nodes)}, expected an integer from 1 to {MAX_NODES} or None")
        for name in ("work", "memory"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise InputError(f"budget: {name}={value!r}, expected a positive number or None")

    @property
    def limits(self) -> bool:
        """Whether calls are limited at all."""
        return self.work is not None or self.memory is not None

    def meter(self) -> Meter:
        """A meter for one call."""
        return Meter(self)


def check_budget(given: Any) -> Budget | None:
    """InputError for what is neither a Budget nor None."""
    if given is not None and not isinstance(given, Budget):
        raise InputError(f"budget={shown(given)}, expected a Budget or None")
    return given


def file_nodes(budget: Budget | None) -> int:
    """The number of nodes and layers that a file may have. InputError where the environment says no number for it."""
    budget = check_budget(budget)
    if budget is not None and budget.nodes is not None:
        return budget.nodes
    text = os.environ.get("RNNCORE_MAX_NODES", "").strip()
    if not text:
        return FILE_NODES
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_NODES and len(text) < 9):
        raise InputError(f"environment RNNCORE_MAX_NODES={shown(text)}, expected an integer from 1 to {MAX_NODES}")
    return int(text)


class Meter:
    """The costs of one call so far: ``work`` in all, ``alive`` bytes at the moment."""

    __slots__ = ("alive", "carried", "memory", "work", "work_limit")

    def __init__(self, budget: Budget):
        self.work = self.alive = 0
        self.work_limit = math.inf if budget.work is None else budget.work
        self.memory = math.inf if budget.memory is None else budget.memory
        self.carried: dict[int, int] = {}  # a loop's body -> the bytes that go from step to step

    def take(self, where: str, wanted: Cost) -> None:
        """Count a node that is about to run. InputError where that is too much."""
        if self.work + wanted.work > self.work_limit:
            raise InputError(
                f"{where}: {wanted.work:.3g} operations after {self.work:.3g}, expected at most {self.work_limit:.3g} "
                "in one call by the model's budget"
            )
        if self.alive + wanted.memory > self.memory:
            raise InputError(
                f"{where}: {wanted.memory:,} bytes besides {self.alive:,}, expected at most {self.memory:,.0f} at one "
                "time by the model's budget"
            )
        self.work += wanted.work


_HERE = threading.local()  # .meter: that of the call which this thread is in


@contextlib.contextmanager
def metering(meter: Meter | None) -> Iterator[None]:
    """A meter counts the metered steps of this thread inside: for one call, or for more, one after the other.

    What the steps made before is gone when it begins, but for what the caller carries on, which is not counted.
    """
    before = getattr(_HERE, "meter", None)
    _HERE.meter = meter
    if meter is not None:
        meter.alive = 0
    try:
        yield
    finally:
        _HERE.meter = before


def is_metered() -> bool:
    """Whether this thread is in a call that is counted."""
    return getattr(_HERE, "meter", None) is not None


def most_steps(budget: Budget | None, node: Recurrent, floating: np.dtype) -> int:
    """Rows times steps that a call of one stack may have: with these it is certain to be within the budget."""
    most = sys.maxsize
    if budget is not None and budget.work is not None:
        most = min(most, int(budget.work // (_parameters(node) + INTERPRETED)))
    if budget is not None and budget.memory is not None:
        each = _width(node) + sum(map(math.prod, node.state_shapes(1).values()))
        most = min(most, int(budget.memory // (each * floating.itemsize)))
    return most


def is_settled(steps: Iterable[Any], values: Iterable[Value]) -> bool:
    """Whether the cost of metered steps follows from the sizes of a model's inputs; values: all of the Spec's."""
    plain = all(step.by_shapes for step in steps if isinstance(step, MeteredStep))
    return plain and not any(UNKNOWN in value.shape for value in values)


def available_memory() -> int:
    """Bytes that this process may still take, as far as the system says; else a size that nothing has."""
    limits = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        limits.append(int(most) - int(used))
    return max(0, min(limits))


def check_memory(what: str, need: int, budget: Budget | None) -> None:
    """InputError where ``need`` bytes, which are about to be made and stay, are beyond a budget or what there is."""
    if budget is not None and budget.memory is not None and need > budget.memory:
        raise InputError(f"{what}: {need:,} bytes, expected at most {budget.memory:,.0f} by the model's budget")
    there = available_memory() if need > SMALL else need
    if need > there:
        raise InputError(f"{what}: {need:,} bytes, expected at most the {there:,} that there is memory for")


def afford(budget: Budget | None, where: str, wanted: Cost) -> None:
    """InputError where one piece of work alone is beyond a budget."""
    if budget is not None:
        budget.meter().take(where, wanted)


class MeteredStep:
    """A step of a model that counts before it runs.

    dropped  names of the values that are not read after it
    """

    def __init__(self, step: Callable[..., None], node: Any, dropped: Iterable[str], floating: np.dtype):
        self.step, self.node, self.floating = step, node, floating
        self.names, self.dropped = node.names, tuple(dropped)
        self.attributes: Mapping[str, Any] = getattr(node, "attributes", {})
        self.label = f"node {node.name!r} ({node.op})"
        # The cost for shapes and dtypes, where contents (axes, sizes, a range's ends) say nothing.
        self._kept: dict[tuple, Cost] = {}
        op = OPS.get(node.op)
        given = [place for place, name in enumerate(node.inputs) if name] if op is not None else []
        content = op is not None and (set(op.parameters.values()) & set(given) or op.by_content)
        self.by_shapes = node.stateful or (op is not None and not content)
        self.parameters = _parameters(node) if node.stateful else 0

    def __call__(self, values: Values, before: Any, after: dict[str, np.ndarray]) -> None:
        meter: Meter | None = getattr(_HERE, "meter", None)
        if meter is None:  # a call of sizes that are known to be affordable
            self.step(values, before, after)
            return
        meter.take(self.label, self._cost(values))
        alive = meter.alive
        self.step(values, before, after)
        meter.alive = max(0, alive + _bytes(values, self.names) - _bytes(values, self.dropped))

    def _cost(self, values: Values) -> Cost:
        if self.node.subgraphs:
            return Cost(INTERPRETED, 0)  # what it holds counts itself
        return self._of_layers(values) if self.node.stateful else self._of_op(values)

    def _of_op(self, values: Values) -> Cost:
        arrays = [None if (array := values.get(name)) is None else np.asarray(array) for name in self.node.inputs]
        key = tuple(None if array is None else (array.shape, array.dtype) for array in arrays)
        own = self._kept.get(key)
        if own is None:
            try:
                own = cost(OPS[self.node.op], self.attributes, list(map(self._value, arrays)), self.floating)
            except SpecError as error:
                raise InputError(f"{self.label}: {error}") from None
            own = Cost(own.work + INTERPRETED, own.memory)
            if self.by_shapes:
                if len(self._kept) >= KEPT_COSTS:
                    self._kept = {}
                self._kept[key] = own
        return own

    def _value(self, array: np.ndarray | None) -> Value | None:
        if array is None:
            return None
        return value_of(array, "float" if array.dtype == self.floating else array.dtype.name)

    def _of_layers(self, values: Values) -> Cost:
        """Each step of each row takes all weights once; a decoder's also looks at every step of its memory."""
        node = self.node
        embedding = getattr(self.step, "embedding", None)
        x = values[node.input] if embedding is None else values[embedding.inputs[0]]
        rows = math.prod(x.shape[:2])
        work, made = rows * (self.parameters + INTERPRETED), rows * _width(node)
        if isinstance(node, AttentionDecoder):
            seen = values[node.memory].shape[1]
            work += rows * seen * (node.memory_size + (node.attention_size or node.cell.output_size))
            made += rows * (seen + node.memory_size)
        batch = x.shape[1 if getattr(node, "layout", "") == "time_first" else 0]
        made += sum(map(math.prod, node.state_shapes(batch).values()))
        return Cost(work, made * self.floating.itemsize)


class MeteredBlocks:
    """Runs the layers of a node that reads later steps, block by block; counted."""

    def __init__(self, blocks: Any, node: Recurrent, floating: np.dtype):
        self.blocks, self.node, self.item = blocks, node, floating.itemsize
        self.parameters = _parameters(node)

    def block(self, x: np.ndarray, size: int, states: Values, initial: Values, mask: np.ndarray | None) -> np.ndarray:
        meter: Meter | None = getattr(_HERE, "meter", None)
        if meter is not None:
            rows = math.prod(x.shape[:2])
            wanted = Cost(rows * (self.parameters + INTERPRETED), rows * _width(self.node) * self.item)
            meter.take(f"node {self.node.name!r} (Recurrent)", wanted)
            meter.alive += wanted.memory
        return self.blocks.block(x, size, states, initial, mask)


class MeteredBranch:
    """A branch of a Control node: what one run of it leaves is what it collects, and one set of what it carries.

    where    the node, for messages
    carried  the places of those among its outputs that go to its next run
    """

    def __init__(self, where: str, branch: Callable[[Values], list[np.ndarray]], carried: Sequence[int]):
        self.where, self.branch, self.carried = where, branch, frozenset(carried)

    def __call__(self, values: Values) -> list[np.ndarray]:
        meter: Meter | None = getattr(_HERE, "meter", None)
        if meter is None:
            return self.branch(values)
        meter.take(self.where, ROUND)
        base = meter.alive - meter.carried.pop(id(self), 0)
        outputs = self.branch(values)
        again = sum(np.asarray(array).nbytes for place, array in enumerate(outputs) if place in self.carried)
        meter.carried[id(self)] = again
        meter.alive = base + sum(np.asarray(array).nbytes for array in outputs)
        return outputs


def metered_branches(node: Control, branches: Sequence[Callable[[Values], list[np.ndarray]]]) -> list[MeteredBranch]:
    """The branches of a Control node, each counted."""
    first = 1 if node.op == "Loop" else 0
    again = range(first + node.carried) if node.op != "If" else ()
    return [MeteredBranch(f"node {node.name!r} ({node.op})", branch, again) for branch in branches]


def _bytes(values: Values, names: Iterable[str]) -> int:
    return sum(np.asarray(values[name]).nbytes for name in names if values.get(name) is not None)


def _parameters(node: Recurrent | AttentionDecoder) -> int:
    return sum(map(math.prod, node.weight_shapes().values()))


def _width(node: Recurrent | AttentionDecoder) -> int:
    """Numbers of one step's output."""
    return node.output_size * 2 if getattr(node, "merge", "") == "separate" else node.output_size
