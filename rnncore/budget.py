"""Budget: the most that one call of a model may do, and how it is kept.

A model with a budget runs each node behind a MeteredStep, which counts what the node is about to cost from the arrays
that it is given. One without a budget has none of this.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError, shown
from rnncore.ops import OPS, Value
from rnncore.ops.work import INTERPRETED, Cost, cost, value_of
from rnncore.passes.graph import value_names
from rnncore.spec import FILE_NODES, MAX_NODES, AttentionDecoder, Control, Node, Recurrent

__all__ = ["Budget", "MeteredStep", "check_budget", "file_nodes", "metered_branches", "metering"]

Values = dict[str, Any]

KEPT_COSTS = 32
ROUND = Cost(16 * INTERPRETED, 0)
"""What a run of a branch costs beside its nodes."""
BY_CONTENT = frozenset({"Range", "Reference"})
"""Ops whose outputs' sizes depend on the contents of inputs that are no parameters."""


@dataclass(frozen=True)
class Budget:
    """The most that one call of a model may do, where None is no limit, and that loading it may.

    work    multiply-adds, or operations on an element, counted from the arrays' sizes before each node runs. It is an
            estimate from above of what a plain loop would do: 1e9 takes about a second of one core where it is
            element by element, a twentieth of it in a matrix product
    memory  bytes of the arrays that nodes make and that later ones still read, views counted as arrays

    nodes   nodes and layers that a file may have from which a model is loaded, 1 to 100,000; None: as RNNCORE_MAX_NODES
            says in the environment, else 20,000. A Model from a Spec may have 100,000

    A call that would pass a limit raises InputError before the node runs that would, and names it. Rounds of loops
    count one by one.
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


def check_budget(given: Any) -> Budget | None:
    """InputError for what is neither a Budget nor None."""
    if given is not None and not isinstance(given, Budget):
        raise InputError(f"budget={shown(given)}, expected a Budget or None")
    return given


def file_nodes(budget: Budget | None) -> int:
    """How many nodes and layers a file may have. InputError where the environment says no number for it."""
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
    """What one call has done so far: ``work`` in all, ``alive`` bytes at the moment."""

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
                f"{where}: {wanted.memory:,} bytes beside {self.alive:,}, expected at most {self.memory:,.0f} at one "
                "time by the model's budget"
            )
        self.work += wanted.work


_HERE = threading.local()  # .meter: that of the call which this thread is in


@contextlib.contextmanager
def metering(budget: Budget) -> Iterator[None]:
    """What metered steps do inside, in this thread, is one call."""
    before = getattr(_HERE, "meter", None)
    _HERE.meter = Meter(budget)
    try:
        yield
    finally:
        _HERE.meter = before


class MeteredStep:
    """A step of a model that counts before it runs.

    dropped  names of the values that nobody reads behind it
    """

    def __init__(self, step: Callable[..., None], node: Any, dropped: Iterable[str], floating: np.dtype):
        self.step, self.node, self.floating = step, node, floating
        self.names, self.dropped = value_names(node), tuple(dropped)
        self.attributes: Mapping[str, Any] = getattr(node, "attributes", {})
        kind = node.op
        self.where = f"node {node.name!r} ({kind})"
        # The cost for shapes and dtypes, where contents (axes, sizes, a range's ends) say nothing.
        self._kept: dict[tuple, Cost] = {}
        op = OPS[kind] if isinstance(node, Node) else None
        given = [place for place, name in enumerate(node.inputs) if name] if op is not None else []
        self._by_shapes = op is not None and not (set(op.parameters.values()) & set(given) or kind in BY_CONTENT)
        stack = isinstance(node, (Recurrent, AttentionDecoder))
        self.parameters = sum(map(math.prod, node.weight_shapes().values())) if stack else 0

    def __call__(self, values: Values, before: Any, after: dict[str, np.ndarray]) -> None:
        meter: Meter | None = getattr(_HERE, "meter", None)
        if meter is None:  # a piece of a stream, which is not counted
            self.step(values, before, after)
            return
        meter.take(self.where, self._cost(values))
        alive = meter.alive
        self.step(values, before, after)
        meter.alive = max(0, alive + _bytes(values, self.names) - _bytes(values, self.dropped))

    def _cost(self, values: Values) -> Cost:
        if isinstance(self.node, Control):
            return Cost(INTERPRETED, 0)  # what it holds counts itself
        return self._of_op(values) if isinstance(self.node, Node) else self._of_layers(values)

    def _of_op(self, values: Values) -> Cost:
        arrays = [None if (array := values.get(name)) is None else np.asarray(array) for name in self.node.inputs]
        key = tuple(None if array is None else (array.shape, array.dtype) for array in arrays)
        found = self._kept.get(key)
        if found is None:
            try:
                found = cost(OPS[self.node.op], self.attributes, list(map(self._value, arrays)), self.floating)
            except SpecError as error:
                raise InputError(f"{self.where}: {error}") from None
            found = Cost(found.work + INTERPRETED, found.memory)
            if self._by_shapes:
                if len(self._kept) >= KEPT_COSTS:
                    self._kept = {}
                self._kept[key] = found
        return found

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
        width = node.output_size * 2 if getattr(node, "merge", "") == "separate" else node.output_size
        work, made = rows * (self.parameters + INTERPRETED), rows * width
        if isinstance(node, AttentionDecoder):
            seen = values[node.memory].shape[1]
            work += rows * seen * (node.memory_size + (node.attention_size or node.cell.output_size))
            made += rows * (seen + node.memory_size)
        batch = x.shape[1 if getattr(node, "layout", "") == "time_first" else 0]
        made += sum(map(math.prod, node.state_shapes(batch).values()))
        return Cost(work, made * self.floating.itemsize)


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
        found = self.branch(values)
        again = sum(np.asarray(array).nbytes for place, array in enumerate(found) if place in self.carried)
        meter.carried[id(self)] = again
        meter.alive = base + sum(np.asarray(array).nbytes for array in found)
        return found


def metered_branches(node: Control, branches: Sequence[Callable[[Values], list[np.ndarray]]]) -> list[MeteredBranch]:
    """The branches of a Control node, each counted."""
    first = 1 if node.op == "Loop" else 0
    again = range(first + node.carried) if node.op != "If" else ()
    return [MeteredBranch(f"node {node.name!r} ({node.op})", branch, again) for branch in branches]


def _bytes(values: Values, names: Iterable[str]) -> int:
    return sum(np.asarray(values[name]).nbytes for name in names if values.get(name) is not None)
