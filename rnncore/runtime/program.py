"""Programs: a compiled network as instructions of kernels, bound for the sizes of its inputs.

A model's steps (runtime/model.py) are called in Python, one after the other, with arrays by name: any size, any op, and
the errors that say what is wrong. For calls that come again with the same sizes there is a Binding: the same kernels as
a list of instructions over numbered slots of memory, run without Python (kernels/_program.pyx). A call takes it where
there is one; whatever a binding cannot do ends in a call of the steps, so that each error is theirs.

A binding is made in a call of the steps: the shape, the strides and the memory of each value are noted, so that nothing
is inferred twice.

- A value made of sizes and constants alone is settled: a constant of the binding.
- A value that looks at another one's memory (Reshape, Transpose, Slice ...) is an Operand of that slot, and no
  instruction.
- Ops that work element by element become loops over blocks: ops/recording.py. One that reads another's result joins
  its loop, where nothing else needs that result in memory.
- What a step runs becomes an instruction where it says how: ``bind`` of what Op.compiled gave, Op.bind, or
  RecurrentStep.bind.
- Any other step is an instruction that calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from rnncore.errors import InputError, RnncoreError
from rnncore.graph.nodes import GraphNode, Input, Node
from rnncore.graph.spec import Spec
from rnncore.kernels._graph import OpStep, unalias, walk
from rnncore.kernels._program import (
    MOST_EXTERNALS,
    MOST_TEMPORARIES,
    Binding,
    Call,
    Copy,
    Elements,
    Instruction,
    Mismatch,
    Operand,
    Signatures,
)
from rnncore.ops import OPS, blocks, numpy_dtype
from rnncore.ops.recording import Recording, record
from rnncore.runtime.state import State

__all__ = ["Program"]

Values = dict[str, Any]

BINDINGS = 16
"""The number of bindings that a model keeps."""

CALLS, CALLS_OF_ANOTHER = 2, 32
"""Calls of the same sizes that make a binding, where another one has place, and where it has to go for it."""

SEEN = 64
"""The number of signatures whose calls are counted."""

SETTLED_BYTES = 1 << 20
"""The most bytes of a value that a binding keeps because sizes and constants alone decide it: a larger one is made by
each call."""

MISMATCHES = 100
"""Calls whose contents gave other sizes than when they were bound, or ids of no row, after which nothing is bound."""

WORK_OF_A_CALL = 1e4
"""What a step in Python takes, at least, in multiply-adds."""


@dataclass
class Value:
    """A value as the steps made it: what a binding has to make again.

    alias   the value whose memory it looks at, and the bytes from that one's first element to its own
    data    the array itself, where it is settled
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype
    alias: tuple[str, int] | None = None
    data: np.ndarray | None = None


class Unbindable(Exception):
    """A call whose sizes its inputs' shapes do not decide."""


class Program:
    """The bindings of a network, by the shapes of what a call is given.

    nodes, steps, unread   the nodes that are run, what runs each, and the values that are not read after it
    inputs, states, outputs   names of what a call is given and gives; those of the inputs and states with dtype, rank,
                              and of an input whether it may be absent
    """

    def __init__(
        self,
        nodes: Sequence[GraphNode],
        steps: Sequence[Any],
        unread: Sequence[tuple[str, ...]],
        inputs: Sequence[tuple[str, np.dtype, int, bool]],
        states: Sequence[tuple[str, np.dtype, int]],
        outputs: Sequence[str],
    ):
        self.nodes, self.steps, self.unread = list(nodes), list(steps), list(unread)
        self.states, self.outputs = [name for name, *_ in states], tuple(outputs)
        self.signatures = Signatures(tuple(inputs), tuple(states), self.outputs, tuple(self.states), BINDINGS)
        self._seen: dict[bytes, int] = {}  # calls of sizes that have no binding
        self._refused, self._mismatches = False, 0
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        spec: Spec,
        nodes: Sequence[GraphNode],
        steps: Sequence[Any],
        unread: Sequence[tuple[str, ...]],
        dtype: np.dtype,
        given: Sequence[Input] | None = None,
    ) -> Program | None:
        """The program of a Spec; None where it has more inputs and states than a signature.

        given: the inputs that a call may have, where these are not all
        """
        inputs = [
            (entry.name, numpy_dtype(entry.dtype, dtype), len(entry.shape), entry.optional)
            for entry in (spec.inputs if given is None else given)
        ]
        states = [(f"{node.name}.{key}", dtype, 3) for node in spec.stateful for key in node.state_shapes(1)]
        try:
            return cls(nodes, steps, unread, inputs, states, spec.outputs)
        except InputError:
            return None

    def call(self, inputs: dict[str, Any], states: dict[str, Any] | None, states_after: bool) -> Any:
        """(outputs, states after) of a call that is plain and comes with sizes of a binding; None for others."""
        try:
            return self.signatures.call(inputs, states, states_after)
        except Mismatch:
            self._mismatches += 1
            if self._mismatches > MISMATCHES:
                self._refused = True
                self.signatures.clear()
            return None
        except (RnncoreError, MemoryError):
            return None  # the steps say what is wrong, if anything is

    def run(
        self, inputs: Values, constants: Values, states: Mapping[str, np.ndarray] | None, states_after: bool
    ) -> Any:
        """The same for checked inputs of any strides: makes a binding where these sizes have come before.

        constants: values that the nodes read, and that are the same in each call with these sizes
        """
        if self._refused or any(array is not None and array.size == 0 for array in inputs.values()):
            return None
        dense = {name: array if array is None else _dense(array) for name, array in inputs.items()}
        kept = {name: _dense(array) for name, array in states.items()} if states is not None else None
        arrays = [*dense.values(), *((kept or {}).get(name) for name in self.states)]
        key = self.signatures.key(arrays, states_after)
        if key in self.signatures:
            return self.call(dense, kept, states_after)
        return self._bind(key, dense, constants, kept, states_after) if self._comes_often(key) else None

    def _comes_often(self, key: bytes) -> bool:
        """Whether sizes come often enough for a binding of theirs, which may take the place of another's."""
        with self._lock:
            calls = self._seen.pop(key, 0) + 1
            if calls >= (CALLS if len(self.signatures) < BINDINGS else CALLS_OF_ANOTHER):
                return True
            while len(self._seen) >= SEEN:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = calls
        return False

    def _bind(self, key: bytes, given: Values, constants: Values, states: Any, states_after: bool) -> Any:
        """Run the steps, and make a binding of what they do. The binding is left out where that is not possible."""
        trace = Trace(self, given, constants, states)
        try:
            binding = Compiler(trace, states_after).binding()
        except (Unbindable, InputError):  # an InputError: of a kernel that takes no such operands
            self._refused = True
        else:
            with self._lock:
                self.signatures.add(key, binding)
        return trace.outputs, trace.after if states_after else None


class Trace:
    """One run of the steps, and the Value of everything in it."""

    def __init__(self, program: Program, given: Values, constants: Values, states: Mapping[str, np.ndarray] | None):
        self.program, self.given, self.states = program, given, states
        self.values: dict[str, Value | None] = {}
        self.after: dict[str, np.ndarray] = {}
        values: Values = {**given, **constants}
        for name, array in values.items():
            settled = array if name in constants else None
            self.values[name] = array if array is None else _value_of(array, settled=settled)
        before = None if states is None else State.of(dict(states))
        with np.errstate(all="ignore"):
            for node, step, dropped in zip(program.nodes, program.steps, program.unread, strict=True):
                walk([step], None, values, before, self.after)
                self._note(node, step, values)
                for name in dropped:
                    values.pop(name, None)
        kept = [*constants.values(), *given.values(), *self.after.values()]
        self.outputs = unalias(program.outputs, values, kept)

    def _note(self, node: GraphNode, step: Any, values: Values) -> None:
        """The Values that a step made."""
        reads = {name: values.get(name) for name in node.reads}
        settled = self._is_settled(node, step)
        for name in node.names:
            array = values.get(name)
            if array is None:
                self.values[name] = None
                continue
            array = np.asarray(array)
            kept = settled and array.nbytes <= SETTLED_BYTES
            if kept:  # a copy: the array itself may be an output, which is the caller's
                array = array.copy(order="K")
            alias = _alias_of(array, reads) if type(step) is OpStep and not kept else None
            self.values[name] = _value_of(array, alias, array if kept else None)

    def _is_settled(self, node: GraphNode, step: Any) -> bool:
        """Whether the node's outputs are made of sizes and constants alone."""
        if type(step) is not OpStep:
            return False
        op = OPS[node.op]
        places = enumerate(cast(Node, node).inputs)
        return all(not name or place in op.of_sizes or self.is_settled(name) for place, name in places)

    def is_settled(self, name: str) -> bool:
        """Whether a value is the same in every call with these sizes; an absent one is."""
        value = self.values[name]
        return value is None or value.data is not None


def _value_of(array: np.ndarray, alias: tuple[str, int] | None = None, settled: np.ndarray | None = None) -> Value:
    return Value(array.shape, array.strides, array.dtype, alias, settled)


def _alias_of(array: np.ndarray, reads: Mapping[str, Any]) -> tuple[str, int] | None:
    """The one of the arrays whose memory an array looks at, and where in it."""
    if array.size == 0:
        return None
    begin, end = np.lib.array_utils.byte_bounds(array)
    for name, source in reads.items():
        if isinstance(source, np.ndarray) and source.size:
            first, last = np.lib.array_utils.byte_bounds(source)
            if first < end and begin < last:
                return name, array.__array_interface__["data"][0] - source.__array_interface__["data"][0]
    return None


@dataclass
class Slot:
    """Memory of a binding. begin, end: the bytes that are used around its first element."""

    begin: int = 0
    end: int = 0
    content: Any = None  # an array: a constant; "given": set by each call; None: in the arena
    first: int | None = None  # the instructions that use it
    last: int = 0


@dataclass
class Chain:
    """Steps of single elements over one shape that will be one instruction."""

    shape: tuple[int, ...]
    operands: list[Operand] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    steps: list[tuple[Any, tuple[np.dtype, ...], list[tuple[str, int]]]] = field(default_factory=list)
    made: dict[str, tuple[int, Operand]] = field(default_factory=dict)  # value -> its step and its operand
    nodes: set[int] = field(default_factory=set)


class Compiler:
    """Makes the Binding of a Trace."""

    def __init__(self, trace: Trace, states_after: bool):
        self.trace, self.states_after = trace, states_after
        self.program = trace.program
        self.slots: list[Slot] = []
        self.operands: dict[str, Operand] = {}
        self.instructions: list[Instruction] = []
        self.chain: Chain | None = None
        self.outputs = set(self.program.outputs)
        if states_after:
            self.outputs.update(self.program.states)
        self.readers: dict[str, set[int]] = {}
        for place in range(len(self.program.nodes)):
            for name in self._reads_of(place):
                self.readers.setdefault(name, set()).add(place)

    def _reads_of(self, place: int) -> list[str]:
        """What a node's step reads: the ids of an Embedding that is a table of it, in place of that."""
        return list(getattr(self.program.steps[place], "reads", self.program.nodes[place].reads))

    def binding(self) -> Binding:
        given = [self._given(value) for value in map(self.trace.values.get, self.trace.given)]
        for name, operand in zip(self.trace.given, given, strict=True):
            if operand is not None:
                self.operands[name] = operand
        self.before: dict[str, Operand] = {}
        for name in self.program.states:
            state = None if self.trace.states is None else self.trace.states[name]
            operand = None if state is None else self._given(_value_of(state))
            given.append(operand)
            if operand is not None:
                self.before[name] = operand
        for place in range(len(self.program.nodes)):
            self._lower(place)
        results = [self._result(name) for name in self.program.outputs]
        if self.states_after:
            results += [self._result(name) for name in self.program.states]
        self.flush()
        offsets, arena_bytes = self._arena()
        return Binding(
            self.instructions,
            offsets,
            arena_bytes,
            [None if operand is None else operand.slot for operand in given],
            results,
        )

    # --- operands ----------------------------------------------------------------------------------------------------

    def _given(self, value: Value | None) -> Operand | None:
        if value is None:
            return None
        return self._operand(Slot(content="given"), value.shape, value.strides, value.dtype)

    def _operand(self, slot: Slot, shape: Any, strides: Any, dtype: Any) -> Operand:
        """The operand that is all of a new slot."""
        self.slots.append(slot)
        operand = Operand(len(self.slots) - 1, 0, tuple(shape), tuple(strides), dtype)
        slot.begin, slot.end = min(0, operand.begin), operand.end
        return operand

    def new(self, shape: tuple[int, ...], dtype: Any) -> Operand:
        """A C-contiguous operand of its own memory."""
        return self._operand(Slot(), shape, _dense_strides(shape, np.dtype(dtype)), dtype)

    def constant(self, array: np.ndarray) -> Operand:
        array = np.require(array, requirements="A")
        return self._operand(Slot(content=array), array.shape, array.strides, array.dtype)

    def operand(self, name: str) -> Operand | None:
        """The operand of a value; None for one that is absent."""
        value = self.trace.values[name]
        if value is None:
            return None
        made = self.operands.get(name)
        if made is None:
            if value.data is None:
                raise Unbindable(name)
            made = self.operands[name] = self.constant(value.data)
        return made

    def needs(self, *names: str) -> bool:
        """Whether one of these values is read, or is an output."""
        return any(name in self.outputs or name in self.readers for name in names)

    def name(self, name: str, operand: Operand, offset: int = 0, shape: Any = None, strides: Any = None) -> None:
        """Give a value its operand: all of one that is written, or what begins ``offset`` bytes after."""
        if offset or shape is not None:
            shape = operand.shape if shape is None else shape
            strides = operand.strides if strides is None else strides
            operand = Operand(operand.slot, operand.offset + offset, shape, strides, operand.dtype)
        self.operands[name] = operand

    def dense(self, operand: Operand) -> Operand:
        """The same numbers C-contiguous."""
        if operand.dense:
            return operand
        copied = self.new(operand.shape, operand.dtype)
        self.emit(Copy(operand, copied), [operand], [copied])
        return copied

    def emit(self, instruction: Instruction, reads: Sequence[Operand], writes: Sequence[Operand]) -> None:
        """Add an instruction; what it reads has been written."""
        for operand in reads:
            self._need(operand)
        self._append(instruction, [*reads, *writes])

    def _append(self, instruction: Instruction, uses: Sequence[Operand]) -> None:
        place = len(self.instructions)
        self.instructions.append(instruction)
        for operand in uses:
            slot = self.slots[operand.slot]
            if operand.begin < slot.begin or operand.end > slot.end:
                raise InputError(f"{operand} in bytes {slot.begin} to {slot.end}")
            slot.first = place if slot.first is None else slot.first
            slot.last = place

    def _arena(self) -> tuple[list[Any], int]:
        """What each slot is in a Binding, and the bytes of the arena: slots that are not used together share it."""
        placed: list[tuple[int, int, int, int]] = []  # first and last instruction, first and last byte
        contents: list[Any] = []
        total = 0
        for slot in self.slots:
            if slot.content is not None:
                contents.append(slot.content if isinstance(slot.content, np.ndarray) else None)
                continue
            if slot.first is None:
                contents.append(0)
                continue
            size = (slot.end - slot.begin + 63) // 64 * 64
            taken = sorted((a, b) for first, last, a, b in placed if first <= slot.last and slot.first <= last)
            offset = 0
            for a, b in taken:
                if offset + size <= a:
                    break
                offset = max(offset, b)
            placed.append((slot.first, slot.last, offset, offset + size))
            contents.append(offset - slot.begin)
            total = max(total, offset + size)
        return contents, total

    def _result(self, name: str) -> Operand:
        """The operand of an output, in memory that each call makes."""
        operand = self.operand(name)
        if operand is None:
            raise Unbindable(name)
        slot = self.slots[operand.slot]
        whole = operand.dense and operand.offset == 0 and operand.end == slot.end and slot.begin == 0
        if slot.content is None and whole and operand.size:
            slot.content = "given"
            return operand
        value = self.new(operand.shape, operand.dtype)
        self.slots[value.slot].content = "given"
        self.emit(Copy(operand, value), [operand], [value])
        return value

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _lower(self, place: int) -> None:
        node, step = self.program.nodes[place], self.program.steps[place]
        names = [name for name in node.names if self.trace.values.get(name) is not None]
        if type(step) is not OpStep:
            bind = getattr(step, "bind", None)
            if bind is None or not bind(self):
                self._call(place, names)
            return
        if not names or all(self.trace.is_settled(name) for name in names):
            return
        self._check_decided(cast(Node, node))
        own = [name for name in names if not self._view(cast(Node, node), name)]
        if not own:
            return
        op, inputs = OPS[node.op], [self.operand(name) if name else None for name in cast(Node, node).inputs]
        if len(own) == len(node.names) and (
            (op.spreads and self._elements(place, step, own)) or self._kernel(cast(Node, node), step, op, inputs, own)
        ):
            return
        self._call(place, own)

    def _check_decided(self, node: Node) -> None:
        """Unbindable where contents of arrays that are not settled decide about the sizes of the outputs."""
        op = OPS[node.op]
        deciding = {*op.parameters.values(), *op.shaped_by}
        for position, name in enumerate(node.inputs):
            if name and (op.by_content or position in deciding) and not self.trace.is_settled(name):
                raise Unbindable(name)

    def _view(self, node: Node, name: str) -> bool:
        """Whether a value looks at the memory of another, which the operand then does too."""
        value = cast(Value, self.trace.values[name])
        if value.alias is None:
            return False
        source, distance = value.alias
        if any(other and other != source and not self.trace.is_settled(other) for other in node.inputs):
            raise Unbindable(name)  # what it shows may be another part of it in the next call
        operand = cast(Operand, self.operand(source))
        self._need(operand)
        self.operands[name] = Operand(operand.slot, operand.offset + distance, value.shape, value.strides, value.dtype)
        return True

    def _need(self, operand: Operand) -> None:
        """Have the operand's memory written."""
        if self.chain is not None and any(operand.slot == made.slot for _, made in self.chain.made.values()):
            self.flush()

    def _made(self, name: str) -> Operand:
        """The operand of a value that is about to be written."""
        value = cast(Value, self.trace.values[name])
        self.operands[name] = self._operand(Slot(), value.shape, value.strides, value.dtype)
        return self.operands[name]

    def _kernel(self, node: Node, step: OpStep, op: Any, inputs: list[Operand | None], names: list[str]) -> bool:
        """The op as an instruction of its own."""
        bind = getattr(step.run, "bind", None)
        outputs = [cast(Value, self.trace.values[name]) for name in names]
        made = [self.new(value.shape, value.dtype) for value in outputs]
        if bind is not None:
            bound = bind(self, inputs, made)
        else:
            bound = op.bind is not None and op.bind(self, node.attributes, inputs, made)
        if not bound:
            return False
        self.operands.update(zip(names, made, strict=True))
        return True

    def _call(self, place: int, names: list[str]) -> None:
        """The step as it is, called in Python."""
        node, step = self.program.nodes[place], self.program.steps[place]
        reads = [(name, self._passed(name)) for name in dict.fromkeys(self._reads_of(place)) if name]
        if self.before and node.stateful:
            raise Unbindable(node.name)
        writes: list[tuple[str, Operand | None]] = [(name, self._made(name)) for name in names]
        absent = [
            (name, None) for name in node.names if self.trace.values.get(name) is None and name in self.trace.values
        ]
        given = [operand for _, operand in reads if isinstance(operand, Operand)]
        work = WORK_OF_A_CALL + sum(operand.size for operand in given) * 8
        made = [cast(Operand, operand) for _, operand in writes]
        self.emit(Call(step, reads, [*writes, *absent], work), given, made)

    def _passed(self, name: str) -> Operand | np.ndarray | None:
        """What a step in Python is given of a value: an array that is the same in each call is the same object."""
        value = self.trace.values[name]
        return self.operand(name) if value is None or value.data is None else value.data

    # --- chains of single elements -----------------------------------------------------------------------------------

    def _elements(self, place: int, step: OpStep, names: list[str]) -> bool:
        """The op as steps of a chain."""
        node = cast(Node, self.program.nodes[place])
        values = [self.trace.values[name] if name else None for name in node.inputs]
        outputs = [cast(Value, self.trace.values[name]) for name in names]
        shape = outputs[0].shape
        if any(value.shape != shape for value in outputs) or max(value.dtype.itemsize for value in outputs) > 8:
            return False
        if outputs[0].strides != _dense_strides(shape, outputs[0].dtype) or np.prod(shape) > blocks.ELEMENTS:
            return False
        recording = record(step.run, [self._recorded(value, shape) for value in values])
        if recording is None or not recording.steps or any(kind != "step" for kind, _ in recording.outputs):
            return False
        if self.chain is not None and not self._joins(self.chain, shape, recording, node):
            self.flush()
        if len(recording.steps) > MOST_TEMPORARIES or len(node.inputs) + len(names) > MOST_EXTERNALS:
            return False
        self._extend(place, recording, names)
        return True

    def _recorded(self, value: Value | None, shape: tuple[int, ...]) -> Any:
        if value is None:
            return None
        if value.data is not None and value.data.size == 1 and value.data.ndim <= len(shape):
            return value.data
        return value.dtype, len(value.shape)

    def _joins(self, chain: Chain, shape: tuple[int, ...], recording: Recording, node: Node) -> bool:
        if chain.shape != shape or not any(name in chain.made for name in node.inputs):
            return False
        few = len(chain.operands) + len(node.inputs) + len(chain.made) + 1 <= MOST_EXTERNALS
        return few and len(chain.steps) + len(recording.steps) <= MOST_TEMPORARIES

    def _extend(self, place: int, recording: Recording, names: list[str]) -> None:
        node = cast(Node, self.program.nodes[place])
        if self.chain is None:
            self.chain = Chain(cast(Value, self.trace.values[names[0]]).shape)
        chain, first = self.chain, len(self.chain.steps)

        def place_of(argument: tuple[str, Any]) -> tuple[str, int]:
            kind, what = argument
            if kind == "step":
                return "step", first + what
            if kind == "constant":
                chain.constants.append(what)
                return "constant", len(chain.constants) - 1
            name = node.inputs[what]
            if name in chain.made:
                return "step", chain.made[name][0]
            chain.operands.append(cast(Operand, self.operand(name)))
            return "operand", len(chain.operands) - 1

        for function, arguments, dtypes in recording.steps:
            chain.steps.append((function, dtypes, [place_of(argument) for argument in arguments]))
        for name, (_, step) in zip(names, recording.outputs, strict=True):
            chain.made[name] = first + step, self._made(name)
        chain.nodes.add(place)

    def flush(self) -> None:
        """Make the instruction of the chain, which ends here."""
        chain, self.chain = self.chain, None
        if chain is None:
            return
        stored: dict[int, Operand] = {}
        copies = []
        for name, (step, operand) in chain.made.items():
            if name in self.outputs or not self.readers.get(name, set()) <= chain.nodes:
                if step in stored:
                    copies.append((stored[step], operand))
                else:
                    stored[step] = operand
        if not stored:
            return
        operands = [*chain.operands, *stored.values()]
        where = {step: len(chain.operands) + i for i, step in enumerate(stored)}
        registers = [step for step in range(len(chain.steps)) if step not in where]
        where.update({step: len(operands) + i for i, step in enumerate(registers)})
        base = len(operands) + len(registers)

        def number(argument: tuple[str, int]) -> int:
            kind, what = argument
            return where[what] if kind == "step" else base + what if kind == "constant" else what

        steps = [
            (function, list(dtypes), [*map(number, arguments), where[i]])
            for i, (function, dtypes, arguments) in enumerate(chain.steps)
        ]
        self._append(Elements(operands, chain.constants, len(registers), steps), operands)
        for source, target in copies:
            self._append(Copy(source, target), [source, target])


def _dense(array: np.ndarray) -> np.ndarray:
    """The array C-contiguous and aligned, of the rank that it has."""
    plain = array.flags.c_contiguous and array.flags.aligned
    return array if plain else np.array(array, order="C")


def _dense_strides(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    strides, stride = [], dtype.itemsize
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    return tuple(reversed(strides))
