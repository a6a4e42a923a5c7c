"""Follows the time axis through a Spec: what of it each node needs to run over a sequence that arrives in pieces.

Shapes are inferred once more with marks in place of the time and the batch of the inputs, so that the place of both
is known in every value. Each value then is one of

    steps     has a time axis; new steps of it are known as the input arrives (ValuePlan.timing says how many)
    running   is of the sequence so far: the last output, the final states
    end       is known at the end of the sequence only, and is left out: the final states of layers that look ahead,
              and what is computed from nothing but those
    static    does not depend on the sequence: constants, and inputs without a time axis, which are given once
    sizes     an integer computed from a shape with the time in it; only what shapes are made of may read it
    lengths   the valid steps of each row of a chunk; only recurrent layers may read it
    none      cannot be known in a stream, for the reason that is kept with it, and may not be read
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, cast

from rnncore.errors import SpecError, UnsupportedError
from rnncore.graph.axes import alike_axes, describe, dimension_along, follow, freed, reach_along
from rnncore.graph.nodes import AttentionDecoder, Control, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, UNKNOWN, Value, sizes
from rnncore.ops.base import known
from rnncore.ops.dimensions import CAUSAL, Reach
from rnncore.ops.ends import First, Last
from rnncore.streaming.moved import along_others
from rnncore.streaming.timing import INPUT, Around, Blocks, Timing, Window, joined

__all__ = ["NodePlan", "StreamPlan", "ValuePlan", "plan"]

TIME, BATCH = "TIME__", "BATCH__"
COUNTING = "it counts the steps of the whole sequence"
JOINING = "it joins rows and steps into one axis, expected layers on (B, T, C) as it is"
MAX_SIMULATED = 1_000_000


@dataclass(frozen=True)
class ValuePlan:
    """One value of a stream: its kind, the axes of time and batch (None where it has none), and its timing."""

    kind: str
    value: Value
    time: Any = None  # an axis, where it has steps
    batch: Any = None  # an axis, where it has rows
    timing: Any = None  # a Timing, where it has steps
    reason: str = ""


@dataclass(frozen=True)
class NodePlan:
    """The way a stream runs one node.

    how      "static", "steps", "recurrent", "window", "around" (steps are added or left out at the ends), "first" (the
             first step), "sum" (of all steps so far), "blocks", "history", "last", "running" or "end" (is not run)
    timing   of what the node gives; None where that has no time
    waiting  inputs whose steps may have to wait, for those of others or for a block: name -> the most that ever do
    window   the Window of how="window", with ``node`` as it is run on steps that have their context
    values   of the inputs of how="around", and moving: the one of them that has the steps
    data     content of a static value that is known without running the node; names of sizes in it are the batch
    """

    node: Any
    place: int
    how: str
    timing: Any = None  # a Timing
    waiting: Mapping[str, int] = field(default_factory=dict)
    window: Any = None  # a Window, where it looks through one
    padding: float = 0.0
    data: tuple | None = None
    values: tuple[Value | None, ...] = ()
    moving: str = ""

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the values of which each row keeps steps, or, for a Scan, what its states are like."""
        inputs = {
            "window": self.node.slots[:1],
            "last": self.node.slots[:1],
            "history": self.node.slots,
            "scan": self.node.slots[: getattr(self.node, "carried", 0)],
            "around": (self.moving,) if self.how == "around" and self.timing.held else (),
            "sum": (self.node.name,),
        }
        return (*self.waiting, *dict.fromkeys(name for name in inputs.get(self.how, ()) if name))


@dataclass(frozen=True)
class StreamPlan:
    """The plan by which a Spec streams.

    flows    of every value that a stream knows, by name
    parts    one for each node, in order
    outputs  of the Spec, those that a stream gives: all but those of kind "end"
    time     the name of the inputs' time, as messages say it
    fixed    whether the batch is 1 by the Spec, and the graph does not prove that it may be another
    least    steps that a sequence must have, at its end
    single   whether it is 1 by the Spec: a stream then has one row, whatever the graph proves
    """

    spec: Spec
    flows: Mapping[str, ValuePlan]
    parts: tuple[NodePlan, ...]
    outputs: tuple[str, ...]
    time: str
    fixed: bool
    lookahead: int
    block: int
    history: int
    single: bool = False
    least: int = 0

    @cached_property
    def timings(self) -> list[Timing]:
        timings = [part.timing for part in self.parts if part.timing is not None]
        of = [part.window.of for part in self.parts if part.window]
        of += [part.timing.of for part in self.parts if part.how == "around"]
        return list(dict.fromkeys([INPUT, *timings, *of]))

    @cached_property
    def awaited(self) -> frozenset[str]:
        """Names of the values of which steps may have to wait."""
        return frozenset(name for part in self.parts for name in part.waiting)

    @cached_property
    def together(self) -> bool:
        """Whether rows with chunks of different lengths can run in one batch: no node keeps steps for later."""
        kept = ("window", "around", "first", "sum", "blocks", "history", "last")
        return not (self.fixed or self.least) and all(part.how not in kept and not part.waiting for part in self.parts)

    @cached_property
    def settled(self) -> int:
        """Steps of the input after which what waits anywhere repeats with ``period``."""
        histories = self.history if any(part.how == "history" for part in self.parts) else 0
        return max(timing.settled for timing in self.timings) + histories * self.slowest

    @cached_property
    def slowest(self) -> int:
        """The most steps of the input for one of any value."""
        return max(-(-timing.rate[1] // timing.rate[0]) for timing in self.timings)

    @cached_property
    def period(self) -> int:
        return joined(self.timings).period

    @cached_property
    def latency(self) -> int:
        """Steps of the input that the latest output lags, at most: 0 where each step is answered at once."""
        timings = [self.flows[name].timing for name in self.outputs if self.flows[name].kind == "steps"]
        return max((0, *map(_lag, timings)))


def _lag(timing: Timing) -> int:
    """The smallest n such that step j is known once the input has rate * j + 1 + n steps."""
    per, steps = timing.rate
    least = timing.settled + timing.period
    return max((n * per - timing.count(n) * steps) // per for n in range(least, least + timing.period))


def plan(
    spec: Spec,
    lookahead: int | None = None,
    block: int | None = None,
    history: int | None = None,
    time: str | None = None,
) -> StreamPlan:
    """The plan by which the Spec streams; UnsupportedError that names the node which prevents it.

    lookahead  steps that bidirectional layers may look ahead, and block: how many they then give at a time
    history    steps that causal attention looks back on, the present one included
    time       the name of the time in the inputs' shapes; None: the only one that it can be
    """
    block = block or max(1, lookahead or 1)
    follower = _Follower(spec, lookahead, block, history, time)
    if not follower.fixed:
        return follower.plan()
    ones = [entry.name for entry in spec.inputs if 1 in entry.shape[:2]]
    free_spec = freed(spec, ones) if ones else None
    if free_spec is not None:
        with contextlib.suppress(UnsupportedError):
            free = _Follower(free_spec, lookahead, block, history, time).plan()
            return dataclasses.replace(free, single=True)
    return dataclasses.replace(follower.plan(), single=True)


class _Follower:
    def __init__(self, spec: Spec, lookahead: Any, block: int, history: int | None, time: str | None):
        self.spec, self.lookahead, self.block, self.history = spec, lookahead, block, history
        self.flows: dict[str, ValuePlan] = {}
        self.time, batch = _time_and_batch(spec, time)
        self.fixed = batch == 1
        self.least = 0
        self.firsts: dict[str, int] = {}
        self.marked = _marked_inputs(spec, self.time, batch)

    def plan(self) -> StreamPlan:
        of_rows = {node.lengths for node in self.spec.stateful if node.lengths is not None}
        for entry in self.spec.inputs:
            if entry.name in of_rows:
                self.flows[entry.name] = ValuePlan("lengths", self.marked[entry.name], batch=0)
            else:
                self._add(entry.name, "static", None, f"input {entry.name!r}")
        parts = []
        for place, node in enumerate(self.spec.nodes):
            try:
                node = self._with_marks(node)
                self.marked.update(node.infer(self.marked))
            except SpecError as error:
                raise UnsupportedError(f"the model cannot be streamed: {error}") from None
            parts.append(self._part(place, node))
            self._check_kept(parts[-1])
        outputs = tuple(name for name in self.spec.outputs if self.flows[name].kind != "end")
        for name in outputs or self.spec.outputs:
            flow = self.flows[name]
            if flow.kind not in ("steps", "running", "static"):
                raise UnsupportedError(f"output {name!r} cannot be streamed: {flow.reason or flow.kind}")
        return StreamPlan(
            self.spec, self.flows, tuple(parts), outputs, self.time, self.fixed,
            self.lookahead or 0, self.block, self.history or 0, least=self.least,
        )  # fmt: skip

    def _check_kept(self, part: NodePlan) -> None:
        """Refuse a node that keeps values of which other sizes than the batch's and the time's are free."""
        for name in part.kept:
            flow = self.flows[name]
            rest = [size for axis, size in enumerate(flow.value.shape) if axis not in (flow.time, flow.batch)]
            if not all(isinstance(size, int) for size in rest):
                value = self.spec.values[name]
                self._refuse(part.node, f"it keeps steps of {name!r}, {value}: expected no other free sizes in it")

    def _with_marks(self, node: Any) -> Any:
        """A Scan with the marks in its body too, so that they come out of it; a Squeeze with the axes of its input.

        A Squeeze of all axes of size 1 would leave out the time's where a piece has one step.
        """
        explicit = OPS[node.op].explicit if isinstance(node, Node) else None
        if explicit is not None:
            attributes = explicit(node.attributes, [self.marked.get(name) for name in node.inputs])
            return dataclasses.replace(node, attributes=attributes)
        if not node.subgraphs or not node.scans:
            return node
        (body,) = node.branches
        given = [self.marked[name].shape for name in node.inputs]
        for place in range(node.sequences):
            shape: Any = list(given[node.carried + place])
            del shape[_scan_axis(node, place, len(shape))]
            given[node.carried + place] = tuple(shape)
        inner = [*(entry.name for entry in body.inputs[: node.own]), *node.captures]
        return dataclasses.replace(node, branches=(body.reshaped(dict(zip(inner, given, strict=True))),))

    def _add(self, name: str, kind: str, timing: Timing | None, what: str, reason: str = "") -> None:
        """Record a value of a kind; what is static but has a time axis is steps, and steps without one are none."""
        value = self.marked[name]
        time, batch = _axes(value, TIME), _axes(value, BATCH)
        if kind in ("static", "steps") and len(time) == 1:
            kind, timing = "steps", timing or INPUT
        elif kind in ("static", "steps") and time:
            kind, reason = "none", f"{what} compares all steps with all others"
        elif kind == "steps":
            kind, reason = "none", f"{what} loses the time axis"
        axis = batch[0] if len(batch) == 1 else None
        if self.fixed:  # one row at a time: any axis of size 1 serves
            axis = next((place for place, size in enumerate(value.shape[:2]) if size == 1), None)
        if kind == "steps" and axis is None and not self.fixed:
            kind, reason = "none", f"{what} mixes the rows of a batch"
        self.flows[name] = ValuePlan(kind, value, time[0] if kind == "steps" else None, axis, timing, reason)

    def _part(self, place: int, node: Any) -> NodePlan:
        given = {name: self.flows[name] for name in node.reads if name in self.flows}
        for flow in given.values():
            if flow.kind == "none" and not self._may_read(node):
                self._refuse(node, flow.reason)
        ends = [flow for flow in given.values() if flow.kind == "end"]
        if ends:
            return self._at_the_end(place, node, given, ends[0].reason)
        if node.stateful:
            if all(flow.kind == "static" for flow in given.values()):  # an encoder, next to what is streamed
                return self._give(node, NodePlan(node, place, "static"), "static", None)
            return self._recurrent(place, node) if isinstance(node, Recurrent) else self._decoder(place, node)
        kinds = {flow.kind for flow in given.values()}
        if "lengths" in kinds:
            self._refuse(node, "it reads the lengths of whole sequences, of which a stream knows pieces")
        known = self._known_data(node)
        if known is None:
            self._check_rows(node, given)
        if kinds <= {"static"} or known is not None:
            return self._give(node, NodePlan(node, place, "static", data=known), "static", None)
        if node.subgraphs:
            if node.scans:
                return self._scanned(place, node)
            self._refuse(node, "its branches see the whole sequence")
        if "running" in kinds:
            if kinds & {"steps", "sizes"}:
                self._refuse(node, "it joins steps of the sequence with what is known of all of them")
            return self._give(node, NodePlan(node, place, "running"), "running", None)
        if not any(flow.kind == "steps" for flow in self._content(node, given).values()):
            return self._sizes(place, node, given)
        return self._over_time(place, node, given)

    def _at_the_end(self, place: int, node: Any, given: Mapping[str, ValuePlan], reason: str) -> NodePlan:
        """A node that reads what is known at the end only, and makes what is known then."""
        if any(flow.kind not in ("end", "static", "running") for flow in given.values()):
            self._refuse(node, reason)
        for name in node.infer(self.marked):
            self._add(name, "end", None, describe(node), reason)
        return NodePlan(node, place, "end")

    def _check_rows(self, node: Any, given: Mapping[str, ValuePlan]) -> None:
        """Refuse what makes of a batch something else than each row alone would give."""
        counted = any(BATCH in (plan.value.data or ()) for plan in given.values())
        counted = counted and {plan.kind for plan in given.values()} == {"static"}
        if counted and any(not _axes(self.marked[name], BATCH) for name in node.names):
            self._refuse(node, "it counts the rows of a batch")
        flow = given.get(node.slots[0]) if node.slots else None
        if self.fixed or flow is None or flow.batch is None or node.subgraphs:
            return
        flows = {place: given[name] for place, name in enumerate(node.slots) if name in given}
        slots = {place: plan.batch for place, plan in flows.items() if plan.batch is not None}
        if 0 not in node.of_sizes and not reach_along(node, self.marked, slots).independent:
            joins = node.op == "Reshape" and flow.kind == "steps"
            self._refuse(node, JOINING if joins else "it mixes the rows of a batch")
        if flow.kind != "steps" and any(not _axes(self.marked[name], BATCH) for name in node.names):
            self._refuse(node, "it mixes the rows of a batch")

    def _content(self, node: Any, given: Mapping[str, ValuePlan]) -> dict[int, ValuePlan]:
        """The flows of the slots of which not the sizes alone count, by place."""
        slots = {place: name for place, name in enumerate(node.slots) if place not in node.of_sizes}
        return {place: given[name] for place, name in slots.items() if name in given}

    def _known_data(self, node: Any) -> tuple | None:
        """The content of the node's only value, where it is known of numbers and the batch alone."""
        names = node.names
        data = self.marked[names[0]].data if len(names) == 1 else None
        plain = data is not None and all(not isinstance(item, str) or item == BATCH for item in data)
        return data if plain else None

    def _give(self, node: Any, part: NodePlan, kind: str, timing: Timing | None) -> NodePlan:
        for name in node.infer(self.marked):
            self._add(name, kind, timing, describe(node))
        if isinstance(node, Node) and kind in ("steps", "running"):
            reasons = dict.fromkeys(self._without_positions(node, "time"), "the whole sequence")
            if not self.fixed:
                reasons |= dict.fromkeys(self._without_positions(node, "batch"), "all rows of a batch")
            for name, what in reasons.items():
                reason = f"{describe(node)} makes {name!r} of {what}"
                self.flows[name] = dataclasses.replace(self.flows[name], kind="none", reason=reason)
        return part

    def _scanned(self, place: int, node: Control) -> NodePlan:
        """A Scan along the time: its states are kept, its body runs once for each new step."""
        others = [*node.inputs[: node.carried], *node.inputs[node.own :]]
        steps = {name: self.flows[name] for name in node.inputs[node.carried : node.own]}
        for number, (name, flow) in enumerate(steps.items()):
            if flow.kind != "steps" or flow.time != _scan_axis(node, number, len(flow.value.shape)):
                self._refuse(node, f"it runs along another axis of {name!r} than the time")
        moving = [name for name in others if self.flows[name].kind != "static"]
        if moving:
            self._refuse(node, f"{moving[0]!r}, which all of its steps read, depends on the sequence")
        rowless = [name for name in node.inputs[: node.carried] if self.flows[name].batch is None]
        if rowless and not self.fixed:
            self._refuse(node, f"its state {rowless[0]!r} is one for all rows of a batch")
        if any((*node.backward, *node.output_backward)):
            self._refuse(node, "it reads the sequence from its end")
        mixed = "" if self.fixed else follow(cast(Spec, node.branches[0]), BATCH).meets
        if mixed:
            self._refuse(node, f"the rows of a batch may meet in its body, at {mixed}")
        timing = joined([flow.timing for flow in steps.values()])
        waiting = self._waiting(steps, timing)
        for name in node.names[: node.carried]:
            self._add(name, "running", None, describe(node))
        for name in node.names[node.carried :]:
            self._add(name, "steps", timing, describe(node))
        for start, after in zip(node.inputs, node.names[: node.carried], strict=False):
            if self.marked[start].shape != self.marked[after].shape:
                later, expected = self.marked[after], self.marked[start]
                self._refuse(node, f"its state {start!r} is {expected} at first and {later} after a step")
        return NodePlan(node, place, "scan", timing, waiting)

    def _sizes(self, place: int, node: Any, given: Mapping[str, ValuePlan]) -> NodePlan:
        """A node that reads sizes with the time in them: it gives sizes, or values of such sizes that are all alike."""
        timing = joined([flow.timing for flow in given.values() if flow.timing is not None])
        timed = [(name, axis) for name in node.names for axis in _axes(self.marked[name], TIME)]
        counted = self._counted(node, given)
        shaped = bool(counted) and counted <= set(node.shaped_by)
        if shaped and all(axis in alike_axes(node, self.marked, name) for name, axis in timed):
            return self._give(node, NodePlan(node, place, "steps", timing), "steps", timing)
        if timed or any(UNKNOWN in self.marked[name].shape for name in node.names):
            self._refuse(node, COUNTING)
        for name in node.names:
            self.flows[name] = ValuePlan("sizes", self.marked[name], timing=timing)
        return NodePlan(node, place, "steps", timing)

    def _counted(self, node: Any, given: Mapping[str, ValuePlan]) -> set[int]:
        """Places of the slots whose numbers have the time in them."""
        return {place for place, name in enumerate(node.slots) if name in given and given[name].kind == "sizes"}

    def _over_time(self, place: int, node: Node, given: Mapping[str, ValuePlan]) -> NodePlan:
        """A node with an input that has steps."""
        steps = {name: flow for name, flow in given.items() if flow.kind == "steps"}
        first = next(iter(steps.values()))
        rank, axis = len(first.value.shape), first.time
        rule = OPS[node.op].ends
        places = [number for number, name in enumerate(node.inputs) if name in steps]
        given_values = [self.marked.get(name) for name in node.inputs]
        ends = None if rule is None else rule.along(node.attributes, given_values, places, axis)
        if isinstance(ends, Last):
            return self._give(node, NodePlan(node, place, "last", timing=first.timing), "running", None)
        if isinstance(ends, First):
            return self._first(place, node, first, ends.steps)
        if isinstance(ends, str):
            self._refuse(node, ends)
        if ends is not None:
            return self._around(place, node, next(iter(steps)), first, Around(first.timing, *ends))
        counted = self._counted(node, given)
        unclear = any(UNKNOWN in self.marked[name].shape for name in node.names)
        if counted and (unclear or not counted <= set(node.shaped_by)):
            self._refuse(node, COUNTING)
        if OPS[node.op].neutral is not None and self._along(node, axis, rank):
            return self._summed(place, node, first)
        slots = {number: self.flows[name].time for number, name in enumerate(node.inputs) if name in steps}
        reach = reach_along(node, self.marked, slots)
        if reach == CAUSAL:
            return self._looking_back(place, node, steps)
        if reach.after is None or reach.before is None:
            weights = 0 not in slots or len(slots) > 1
            of_weights = weights and 0 in slots and reach_along(node, self.marked, {0: axis}).name == "window"
            self._refuse(node, "its weights depend on the sequence" if of_weights else "it needs the whole sequence")
        if not reach.independent:
            return self._windowed(place, node, first, reach)
        timing = joined([flow.timing for flow in steps.values()])
        if len(steps) > 1:
            self._mark_joined(place, node, first)
        return self._give(node, NodePlan(node, place, "steps", timing, self._waiting(steps, timing)), "steps", timing)

    def _without_positions(self, node: Any, axis: str) -> Iterator[str]:
        """Names of the node's values that are made of all positions along ``axis`` of its inputs, "time" or "batch"."""
        flows = {place: self.flows[name] for place, name in enumerate(node.inputs) if name in self.flows}
        slots = {place: getattr(flow, axis) for place, flow in flows.items() if getattr(flow, axis) is not None}
        dimension = dimension_along(node, self.marked, slots) if slots else None
        if dimension is not None:
            yield from (name for place, name in enumerate(node.names) if place not in dimension.outputs)

    def _first(self, place: int, node: Node, flow: ValuePlan, count: int) -> NodePlan:
        """The first steps, of which only the shape may be read, as of what zeros are made like.

        The first one, known as soon as any is, may also be put before others.
        """
        self.marked.update(node.infer(self.marked))
        value = self.marked[node.name]
        shape = (*value.shape[: flow.time], count, *value.shape[flow.time + 1 :])
        self.marked[node.name] = Value(value.dtype, shape)
        steps = f"{count} step{'s' * (count != 1)}"
        self._add(
            node.name, "none", None, describe(node), f"{describe(node)} is the first {steps} of the sequence alone"
        )
        at_once = count == 1 and flow.timing.count(1) >= 1
        if at_once:
            self.firsts[node.name] = flow.time
        needed = next(n for n in range(MAX_SIMULATED) if flow.timing.count(n, ended=True) >= count)
        self.least = max(self.least, needed)
        return NodePlan(node, place, "first" if at_once else "end", flow.timing)

    def _may_read(self, node: Any) -> bool:
        """Whether a node may read the first steps: their shape; or the first one, to put it before others."""
        if node.slots and set(range(len(node.slots))) <= set(node.of_sizes):
            return self._known_data(node) is not None
        rule = OPS[node.op].ends if isinstance(node, Node) else None
        if rule is None or not rule.joins:
            return False
        axis = node.attributes["axis"] % len(self.marked[node.inputs[0]].shape)
        before = list(itertools.takewhile(lambda name: self.flows[name].kind != "steps", node.inputs))
        firsts = [name for name in node.inputs if self.flows[name].kind == "none"]
        along = all(self.firsts.get(name) == axis for name in firsts)
        return along and set(firsts) <= set(before) and len(before) < len(node.inputs)

    def _around(self, place: int, node: Node, moving: str, flow: ValuePlan, timing: Around) -> NodePlan:
        """A node that adds steps to the sequence, or leaves some out, at its ends."""
        values = [self.marked.get(name) for name in node.inputs]
        rest = along_others(node, values, flow.time)
        if isinstance(rest, str):
            self._refuse(node, rest)
        self.marked.update(node.infer(self.marked))
        size = sizes.add(flow.value.shape[flow.time], timing.begin, timing.end)
        value = self.marked[node.name]
        shape = (*value.shape[: flow.time], size, *value.shape[flow.time + 1 :])
        self.marked[node.name] = Value(value.dtype, shape)
        self._add(node.name, "steps", timing, describe(node))
        return NodePlan(node, place, "around", timing, values=tuple(values), moving=moving)

    def _along(self, node: Node, time: int, rank: int) -> bool:
        """Whether a sum of all so far, whose axis may be an input, goes along the time."""
        axis = known(node.attributes, "axis", [self.marked.get(name) for name in node.inputs], 1)
        axis = axis[0] if isinstance(axis, tuple) else axis
        if axis is None or isinstance(axis, str):
            self._refuse(node, "its axis is only known when it runs")
        return axis % rank == time

    def _summed(self, place: int, node: Node, flow: ValuePlan) -> NodePlan:
        if node.attributes["reverse"]:
            self._refuse(node, "reverse=True begins with the end of the sequence")
        return self._give(node, NodePlan(node, place, "sum", flow.timing), "steps", flow.timing)

    def _mark_joined(self, place: int, node: Node, flow: ValuePlan) -> None:
        """Mark sizes of results as the time's, where sizes with the time in them met and nothing else is known."""
        for name in node.names:
            value = self.marked[name]
            axis = len(value.shape) - len(flow.value.shape) + flow.time
            if 0 <= axis < len(value.shape) and value.shape[axis] == UNKNOWN and not _axes(value, TIME):
                shape = (*value.shape[:axis], f"{TIME}{place}", *value.shape[axis + 1 :])
                self.marked[name] = Value(value.dtype, shape)

    def _windowed(self, place: int, node: Node, flow: ValuePlan, reach: Reach) -> NodePlan:
        """The node without padding in time, which a stream's context replaces."""
        rank, unpadded = len(flow.value.shape), OPS[node.op].unpadded
        if unpadded is None:
            self._refuse(node, "it needs steps around each step")
        result = unpadded(node.attributes, flow.time, flow.batch, rank, reach)
        if isinstance(result, str):
            self._refuse(node, result)
        attributes, end = result
        window = Window(flow.timing, cast(int, reach.before), cast(int, reach.after), reach.stride, end)
        run = Node(node.name, node.op, node.inputs, attributes)
        part = NodePlan(run, place, "window", window, window=window, padding=OPS[node.op].padding)
        return self._give(node, part, "steps", window)

    def _looking_back(self, place: int, node: Node, steps: Mapping[str, ValuePlan]) -> NodePlan:
        if self.history is None:
            self._refuse(node, "it looks back on the whole sequence; stream(history=n) bounds that to n steps")
        if any(flow.time != 1 or flow.batch != 0 for flow in steps.values()):
            self._refuse(node, "expected (B, T, ...) values")
        timing = joined([flow.timing for flow in steps.values()])
        if len({flow.timing for flow in steps.values()}) > 1:
            self._refuse(node, "its inputs come at different times")
        read = [name for name in node.inputs if name]
        if len(node.inputs) > 3 or len(read) != len([name for name in read if name in steps]):
            self._refuse(node, "masks with a history, expected none")
        return self._give(node, NodePlan(node, place, "history", timing), "steps", timing)

    def _recurrent(self, place: int, node: Recurrent) -> NodePlan:
        flow = self.flows[node.input]
        axes = (0, 1) if node.layout == "batch_first" else (1, 0)
        if flow.kind != "steps" or (flow.time != axes[1]) or flow.batch not in (axes[0], None):
            self._refuse(node, f"its input {node.input!r} has no time axis in the place of the layout's")
        steps = {node.input: flow}
        if node.mask is not None:
            steps[node.mask] = self.flows[node.mask]
        for name in node.initial:
            if self.flows[name].kind != "static":
                self._refuse(node, f"its initial state {name!r} depends on the sequence")
        if node.lengths is not None and self.flows[node.lengths].kind != "lengths":
            self._refuse(node, f"its lengths {node.lengths!r} are computed")
        timing = joined([step.timing for step in steps.values() if step.timing is not None])
        waiting = self._waiting(steps, timing)
        if node.direction == "forward":
            self._states(node, "running")
            for name in node.sequence_names:
                self._add(name, "steps", timing, describe(node))
            return NodePlan(node, place, "recurrent", timing, waiting)
        return self._both_ways(place, node, timing, {name: waiting.get(name, 0) for name in steps})

    def _both_ways(self, place: int, node: Recurrent, timing: Timing, waiting: Mapping[str, int]) -> NodePlan:
        if self.lookahead is None:
            self._refuse(node, f"direction={node.direction!r} reads the sequence from its end{self._with_lookahead()}")
        if node.output_order == "processing":
            self._refuse(node, "output_order='processing' begins with the end of the sequence")
        if node.mask is not None and self.flows[node.mask].kind != "steps":
            self._refuse(node, f"its mask {node.mask!r} has no time axis")
        timing = Blocks(timing, self.block, self.lookahead)
        self._states(node, "end")
        for name in node.sequence_names:
            axis = 0 if node.layout == "time_first" else 1
            self.flows[name] = ValuePlan("steps", self.marked[name], axis, 1 - axis, timing)
        waiting = {name: most + self.block + self.lookahead for name, most in waiting.items()}
        return NodePlan(node, place, "blocks", timing, waiting)

    def _with_lookahead(self) -> str:
        """Whether a look-ahead is the remedy, in words."""
        try:
            _Follower(self.spec, 1, 1, self.history, self.time).plan()
        except UnsupportedError as error:
            return f", and a look-ahead is not enough: {error}"
        return "; stream(lookahead=n) lets it look n steps ahead"

    def _states(self, node: Any, kind: str) -> None:
        reason = f"{describe(node)} has its final states only at the end of the sequence" if kind == "end" else ""
        for name in self.marked:
            if name.startswith(f"{node.name}.") and name.rpartition(".")[2] in ("last", "feed", *node.cell.states):
                self._add(name, kind, None, describe(node), reason)

    def _decoder(self, place: int, node: AttentionDecoder) -> NodePlan:
        flow = self.flows[node.input]
        if flow.kind != "steps":
            self._refuse(node, f"its input {node.input!r} has no time axis")
        for name in (node.memory, node.keys, node.memory_mask, *node.initial):
            if name is not None and self.flows[name].kind != "static":
                self._refuse(node, f"{name!r} depends on the sequence")
        self._states(node, "running")
        for ending in ("", ".context", ".weights"):
            self._add(node.name + ending, "steps", flow.timing, describe(node))
        return NodePlan(node, place, "recurrent", flow.timing)

    def _waiting(self, steps: Mapping[str, ValuePlan], timing: Timing) -> dict[str, int]:
        """The most steps that each input ever has more than the node has run, where that is not 0."""
        waiting = {}
        for name, flow in steps.items():
            if flow.timing is not None and flow.timing != timing:
                last = max(timing.settled, flow.timing.settled) + timing.period
                if last > MAX_SIMULATED:
                    raise UnsupportedError(f"value {name!r} waits for others over {last} steps, more than expected")
                waiting[name] = max(flow.timing.count(n) - timing.count(n) for n in range(last + 1))
        if waiting:
            self._check_lengths([flow.timing for flow in steps.values() if flow.timing is not None])
        return waiting

    def _check_lengths(self, timings: list[Timing]) -> None:
        """Note up to which length of a sequence values of these timings differ in theirs, as do slices of a short one.

        Where nothing meets a single step, nothing is left, as in a model.
        """
        last = max(timing.settled for timing in timings) + max(timing.period for timing in timings)
        for n in range(last, -1, -1):
            totals = {timing.count(n, ended=True) for timing in timings}
            if len(totals) > 1 and not (n == 0 and max(totals) == 1):
                self.least = max(self.least, n + 1)
                return

    def _refuse(self, node: Any, why: str) -> NoReturn:
        raise UnsupportedError(f"{describe(node)} cannot be streamed: {why}")


def _scan_axis(node: Control, sequence: int, rank: int) -> int:
    """The axis along which a Scan goes through one of its sequences."""
    return node.axes[sequence] % rank if node.axes else 0


def _axes(value: Value, mark: str) -> list[int]:
    """The axes whose size has the mark in it."""
    return [axis for axis, size in enumerate(value.shape) if isinstance(size, str) and mark in size]


def _along_time(spec: Spec) -> Iterator[tuple[Any, tuple[int | str, ...], int, int | None]]:
    """The nodes that go along the time: the shape of what they read, and the axes of time and batch in it."""
    node: Any
    for node in spec.nodes:
        if node.subgraphs and node.scans:
            shape = spec.values[node.inputs[node.carried]].shape
            axis = _scan_axis(node, 0, len(shape))
            free = [place for place, size in enumerate(shape) if isinstance(size, str) and place != axis]
            yield node, shape, axis, free[0] if free else None
        elif node in spec.stateful:
            batch_axis = 1 if getattr(node, "layout", "") == "time_first" else 0
            yield node, spec.values[node.input].shape, 1 - batch_axis, batch_axis


def _time_and_batch(spec: Spec, time: str | None) -> tuple[str, int | str]:
    """The name that the time has in the inputs' shapes, and the batch's name or size.

    time: the name, where it is known; what goes along another time then is no business of the stream.
    """
    named = {size for entry in spec.inputs for size in entry.shape if isinstance(size, str)}
    times: dict[str, None] = {}
    batch: int | str = UNKNOWN
    for node, shape, time_axis, batch_axis in _along_time(spec):
        steps = shape[time_axis]
        if time is not None and (isinstance(steps, int) or time not in re.findall(r"\w+", steps)):
            continue
        if isinstance(steps, int):
            raise UnsupportedError(
                f"{describe(node)} cannot be streamed: its input has {steps} steps, expected a free size; "
                "over_time makes a model of sequences from one whose states are inputs and outputs"
            )
        if batch == UNKNOWN:
            batch = 1 if batch_axis is None else shape[batch_axis]
        times.update(dict.fromkeys(name for name in re.findall(r"\w+", steps) if name in named))
    first = 1 if batch == UNKNOWN else 0  # the batch is the first axis, where no node says which it is
    if batch == UNKNOWN:
        batch = next((entry.shape[0] for entry in spec.inputs if entry.shape), 1)
    if not times:
        free = [size for entry in spec.inputs if not entry.optional for size in entry.shape[first:]]
        times = dict.fromkeys(size for size in free if isinstance(size, str))
        times.pop(str(batch), None)
    if time is not None:
        times = {time: None}
    if len(times) != 1:
        listed = ", ".join(times) or "none"
        more = "; load(..., sizes={...}) makes numbers of the others" if times else ""
        what = f"free sizes that may be the time: {listed}; expected one{more}"
        raise UnsupportedError(f"the model cannot be streamed: {what}")
    if isinstance(batch, int) and batch != 1:
        raise UnsupportedError(f"the model cannot be streamed: its batch is {batch}, expected 1 or a free size")
    if isinstance(batch, str) and batch not in named:
        raise UnsupportedError(f"the model cannot be streamed: its batch is {batch}, expected a size of an input")
    return next(iter(times)), batch


def _marked_inputs(spec: Spec, time: str, batch: int | str) -> dict[str, Value]:
    """The inputs with marks for the time and the batch."""
    marks: dict[Any, str] = {time: TIME, batch: BATCH} if isinstance(batch, str) else {time: TIME}
    return {
        entry.name: Value(entry.dtype, tuple(cast(Any, marks).get(size, size) for size in entry.shape))
        for entry in spec.inputs
    }
