"""StreamProgram: a StreamPlan compiled for a model."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np

from rnncore.errors import InputError, UnsupportedError, shown
from rnncore.graph.nodes import Input, Node
from rnncore.ops import OPS, numpy_dtype
from rnncore.runtime.arguments import accept_array
from rnncore.runtime.budget import MeteredBlocks, MeteredStep, is_metered, metering
from rnncore.runtime.model import KNOWN_SIZES, Model, nothing, op_step
from rnncore.runtime.program import Program
from rnncore.runtime.threads import check_threads
from rnncore.streaming.batchless import BatchlessStep, is_batchless
from rnncore.streaming.flow import BATCH, NodePlan, StreamPlan, ValuePlan, plan
from rnncore.streaming.lookahead import LookaheadRecurrent
from rnncore.streaming.moved import along_others
from rnncore.streaming.route import Route

__all__ = ["StreamProgram", "stream_program", "unstreamable"]

Values = dict[str, Any]

# Ways of a NodePlan that no new step is any business of.
UNMOVED = ("static", "end")


def stream_program(
    model: Model,
    lookahead: int | None = None,
    block: int | None = None,
    history: int | None = None,
    time: str | None = None,
) -> StreamProgram:
    """The program of a model's streams with these options; made once. time: its name in the inputs' shapes."""
    options = {"lookahead": (lookahead, 0), "block": (block, 1), "history": (history, 1)}
    for name, (value, least) in options.items():
        plain = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is not None and not (plain and value >= least):
            raise InputError(f"{name}={shown(value)}, expected an integer of at least {least}")
    key = (lookahead, block, history, time)
    made = model._programs.get(key)
    if made is None:  # threads that come here together may each make one: the first is everyone's
        made = model._programs.setdefault(key, StreamProgram(model, plan(model.spec, *key)))
    return made


def unstreamable(model: Model) -> str | None:
    """Why a model cannot stream, naming the node that prevents it; None where it can."""
    try:
        stream_program(model)
    except UnsupportedError as error:
        return str(error)
    return None


class StreamProgram:
    """A plan compiled for a model. Immutable; any number of StreamStates use it."""

    def __init__(self, model: Model, plan: StreamPlan):
        self.model, self.plan = model, plan
        spec = plan.spec
        self.given = [entry for entry in spec.inputs if plan.flows[entry.name].kind == "steps"]
        self.static = [entry for entry in spec.inputs if plan.flows[entry.name].kind == "static"]
        ends = (*(entry.name for entry in self.given), *plan.outputs)
        self.bare = plan.fixed and any(plan.flows[name].batch is None for name in ends)
        self.one_output = len(set(spec.outputs)) == 1
        self.lengths = [entry.name for entry in spec.inputs if plan.flows[entry.name].kind == "lengths"]
        stateful = [part.node for part in plan.parts if part.how == "recurrent"]
        scans = any(part.how == "scan" for part in plan.parts)
        self.ragged = plan.together and not scans and all(node.lengths is not None for node in stateful)
        self.timings = plan.timings
        self.repeats = [
            part.node.name
            for part in plan.parts
            if part.how in ("recurrent", "blocks")
            and getattr(part.node, "mask", None)
            and part.node.masked_output == "repeat"
        ]
        self.filled = {entry.name for entry in self.given if entry.optional and entry.name in plan.awaited}
        threads = check_threads(model._num_threads)
        self.steps = [self._compile(part, threads) for part in plan.parts]
        self.moving = self._moving()
        self.batchless = is_batchless(self)
        self.uncounted = self.steps
        self.affordable: set[tuple[int, int]] | None = None  # (rows, steps), where they decide what a step costs
        if model._limited:
            self.steps = [self._metered(part, step) for part, step in zip(plan.parts, self.steps, strict=True)]
            self.moving = self._moving()
            self.affordable = set() if plan.together and model._settled and not self.static else None
        reads = (
            part.node.inputs[part.node.carried :] if part.how == "scan" else part.node.reads for part, _ in self.moving
        )
        self.read = frozenset(plan.outputs).union(*reads)
        self.constants = [array for name, array in model._constants.items() if name in self.read]
        plain = plan.together and not (self.repeats or scans)
        self.plain, self.plain_uncounted = (
            [
                step
                for part, step in zip(plan.parts, steps, strict=True)
                if plain and part.how != "static" and step is not nothing
            ]
            for steps in (self.steps, self.uncounted)
        )
        self.bindings = self._make_bindings() if plain and not self.static else None
        self.counted = [part.node.names[0] for part in plan.parts if part.data and part.node.names[0] in plan.outputs]
        self.absent = {entry.name: None for entry in spec.inputs if plan.flows[entry.name].kind == "lengths"}
        self.canonical = plan.settled + plan.period
        self.route = lru_cache(maxsize=256)(self._route)
        self.counts_of = lru_cache(maxsize=256)(self._counted)
        self.base = lru_cache(maxsize=256)(self._base)

    def _make_bindings(self) -> Program | None:
        """What runs pieces of sizes that come again, states in and out."""
        pairs = zip(self.plan.parts, self.uncounted, strict=True)
        nodes = [part.node for part, step in pairs if part.how != "static" and step is not nothing]
        unread: list[tuple[str, ...]] = [()] * len(nodes)
        return Program.of(self.plan.spec, nodes, self.plain_uncounted, unread, self.model.dtype, self.given)

    def returned(self, outputs: Values) -> Any:
        """Outputs as the model returns them: the array where it has one, else a dict."""
        return next(iter(outputs.values())) if self.one_output else outputs

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what a saved stream is bound to: the model, and the options of the plan."""
        plan = self.plan
        options = f"{self.model.fingerprint} {plan.lookahead} {plan.block} {plan.history}"
        return hashlib.sha256(options.encode()).hexdigest()

    def _compile(self, part: NodePlan, threads: int) -> Any:
        model, node = self.model, part.node
        if part.how == "window":
            return op_step(node, model.weights, model.dtype, threads)
        if part.how == "history":
            return op_step(_of_history(node), model.weights, model.dtype, threads)
        if part.how == "around":
            return self._around(part, threads)
        if part.how == "blocks":
            return LookaheadRecurrent(node, model, threads)
        if part.how == "end":
            return nothing
        if node.op == "Embedding":
            readers = [other for other in self.plan.parts if node.name in other.node.reads]
            if any(other.how == "blocks" for other in readers):
                return op_step(node, model.weights, model.dtype, threads)  # the model may have folded it away
        if isinstance(node, Node) and OPS[node.op].explicit is not None:
            return op_step(node, model.weights, model.dtype, threads)  # with the plan's attributes
        return model._steps[part.place]

    def _around(self, part: NodePlan, threads: int) -> dict[tuple[int, int], Any]:
        """For each number of steps that the node may have to add at the beginning and the end: its op with these.

        None where nothing is to be done.
        """
        model, timing, time = self.model, part.timing, self.plan.flows[part.node.name].time
        compiled = {}
        for begin in {0, max(0, timing.begin)}:
            for end in {0, max(0, timing.end)}:
                node = along_others(part.node, part.values, time, begin, end)
                compiled[begin, end] = (
                    None if node is None else op_step(cast(Node, node), model.weights, model.dtype, threads)
                )
        return compiled

    def _metered(self, part: NodePlan, step: Any) -> Any:
        """The step of a part, counted."""
        if step is nothing or part.how == "scan":  # whose branches count themselves
            return step
        if part.how == "around":
            return {key: one and MeteredStep(one, part.node, (), self.model.dtype) for key, one in step.items()}
        if part.how == "blocks":
            return MeteredBlocks(step, part.node, self.model.dtype)
        return MeteredStep(step, _of_history(part.node) if part.how == "history" else part.node, (), self.model.dtype)

    @contextlib.contextmanager
    def metering(self, rows: int, new: int) -> Iterator[None]:
        """Count ``new`` steps of ``rows`` rows, run inside, as one call within the budget, or as a part of one."""
        if is_metered():
            yield
            return
        known = self.affordable is not None and (rows, new) in self.affordable
        with metering(None if known else cast(Any, self.model.budget).meter()):
            yield
        if self.affordable is not None and len(self.affordable) < KNOWN_SIZES:
            self.affordable.add((rows, new))

    def phase_of(self, steps: int) -> int:
        """A number of steps after which the same steps are kept, and small."""
        if steps < self.canonical:
            return steps
        return self.plan.settled + (steps - self.plan.settled) % self.plan.period

    def phases_of(self, steps: np.ndarray) -> np.ndarray:
        """The same for many."""
        settled = self.plan.settled
        return np.where(steps < self.canonical, steps, settled + (steps - settled) % self.plan.period)

    def _route(self, before: int, new: int, ended: bool, batchless: bool = False) -> Route:
        """The Route of rows that have seen ``before`` steps, a phase, for ``new`` ones; batchless: BatchlessStep's."""
        counts = {timing: (timing.count(before), timing.count(before + new, ended)) for timing in self.timings}
        return (BatchlessStep if batchless else Route)(self, counts, ended)

    def _moving(self) -> list[tuple[NodePlan, Any]]:
        """The nodes that depend on the sequence, with their steps; sizes that none of them reads are left out."""
        moving: list[tuple[NodePlan, Any]] = []
        read = set(self.plan.outputs)
        for part, step in zip(reversed(self.plan.parts), reversed(self.steps), strict=True):
            sizes = part.how == "steps" and all(self.plan.flows[name].kind == "sizes" for name in part.node.names)
            if part.how in UNMOVED or (sizes and read.isdisjoint(part.node.names)):
                continue
            moving.insert(0, (part, step))
            read.update(part.node.reads)
        return moving

    def _base(self, batch: int) -> Values:
        """The values that ``batch`` rows read whatever they are given."""
        values = {**self.counts_of(batch), **self.model._constants}
        return {name: value for name, value in values.items() if name in self.read} | self.absent

    def _counted(self, batch: int) -> Values:
        """Static values that are known from the number of rows alone."""
        counted: Values = {}
        for part in self.plan.parts:
            if part.data is not None:
                (name,) = part.node.names
                value = self.plan.flows[name].value
                data = [batch if item == BATCH else item for item in part.data]
                counted[name] = np.array(data, numpy_dtype(value.dtype, self.model.dtype)).reshape(value.shape)
        return counted

    def axes(self, flow: ValuePlan, add_rows: bool) -> tuple[int | None, int | None]:
        """The axes of rows and time in a value. add_rows: a value without a batch has its rows in front."""
        if add_rows and self.plan.fixed and flow.batch is None:
            return 0, None if flow.time is None else flow.time + 1
        return flow.batch, flow.time

    def accept(
        self,
        given: Mapping[str, Any] | None,
        batch: int,
        entries: Sequence[Input],
        what: str,
        add_rows: bool = False,
    ) -> Values:
        """Those inputs by name, checked, with ``batch`` rows; None for an optional one that is not there.

        add_rows  what has steps but no batch comes with its rows in front
        """
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise InputError(f"{what}: inputs are {type(given).__name__}, expected a mapping of names to arrays")
        names = [entry.name for entry in entries]
        for name in given:
            if name not in names:
                raise InputError(f"{what}: input {shown(name)} is unknown, expected {', '.join(names) or 'none'}")
        sizes: dict[str, int] = {}
        accepted: Values = {}
        for entry in entries:
            flow, value = self.plan.flows[entry.name], given.get(entry.name)
            if value is None:
                if not entry.optional:
                    once = f", given once in inputs={{{entry.name!r}: ...}}" if entries is self.static else ""
                    raise InputError(f"{what}: input {entry.name!r} missing, expected {entry.value}{once}")
                accepted[entry.name] = None
                continue
            shape = entry.shape
            rows, _ = self.axes(flow, add_rows)
            if self.plan.fixed and rows is not None:  # several rows, each of which runs alone
                shape = (*shape[:rows], "B", *shape[rows + (flow.batch is not None) :])
            array = accept_array(entry.name, value, numpy_dtype(entry.dtype, self.model.dtype), shape, sizes)
            if rows is not None and array.shape[rows] != batch:
                raise InputError(f"{entry.name}: shape {array.shape}, expected a batch of {batch}")
            accepted[entry.name] = array
        return accepted


def _of_history(node: Node) -> Node:
    """The node that attends to each step of a sequence, from that step and those that it looks back on."""
    inputs = ("query", *(name and f"memory.{name}" for name in node.inputs[1:]))
    return Node(node.name, node.op, inputs, {**node.attributes, "causal": False})
