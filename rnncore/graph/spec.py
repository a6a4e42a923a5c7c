"""Spec: what a network is, without its weights. A graph of named nodes, as frozen dataclasses and as JSON.

    spec = Spec(
        inputs=[Input("mels", "float", ("B", "T", 40))],
        nodes=[
            Recurrent("lstm", LSTM(40, 256), "mels", layers=3),
            Node("linear", "Linear", "lstm.last", {"input_size": 256, "output_size": 256}),
        ],
        outputs=["linear"],
    )

A node's value carries its name. A Recurrent node has more than one: "lstm" (the sequence), "lstm.last" (the
output after the last valid step, directions merged), "lstm.h" and "lstm.c" (every layer's and direction's final
state, in PyTorch's h_n order), and with merge="separate" "lstm.forward" and "lstm.reverse" instead of "lstm".
Ops with several outputs and the AttentionDecoder name them the same way: "attention" and "attention.weights".
A Control node (If, Loop, Scan) holds Specs of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from rnncore.cells import CELLS, Cell, check_cell
from rnncore.cells.base import check_choice, check_flag, check_integer
from rnncore.errors import SpecError, close_names, shown
from rnncore.files.strict_json import read_json
from rnncore.ops import DTYPES, OPS, UNKNOWN, Value, schema
from rnncore.ops.attention import Scoring
from rnncore.ops.base import no_weights
from rnncore.ops.dimensions import CAUSAL, Dimension, Reach

__all__ = [
    "FILE_NODES",
    "MAX_NODES",
    "AttentionDecoder",
    "Control",
    "Input",
    "Node",
    "Recurrent",
    "Spec",
    "check_sizes",
    "limited_nodes",
    "more_nodes",
    "most_nodes",
    "paths_of",
]

FORMAT_VERSION = 1
DIRECTIONS = ("forward", "reverse", "bidirectional")
MERGES = ("concat", "sum", "mul", "average", "separate")
LAYOUTS = ("batch_first", "time_first")
MASKED_OUTPUTS = ("repeat", "zero")
OUTPUT_ORDERS = ("time", "processing")
MAX_NODES = 100_000  # those inside branches among them, and each layer of a stack
FILE_NODES = 20_000
"""As many, beside Constants, a file may have whose reader says nothing else: more take longer than they should."""

MAX_LAYERS = 1024
MAX_NESTING = 4
MAX_NAME = 1000
LARGEST = (1 << 63) - 1

_HERE = threading.local()  # .nodes: how many a Spec may have that this thread makes

_set = object.__setattr__  # of frozen objects while they are made


@dataclass(frozen=True)
class Input:
    """A named input: a dtype of DTYPES ("float" is the model's); shape with names for sizes known at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False

    kind = "Input"

    def __post_init__(self):
        _check_name(self.name, "input")
        with _naming(self, "input"):
            check_choice(self, "dtype", DTYPES)
            check_flag(self, "optional")
            object.__setattr__(self, "shape", _sequence("shape", self.shape))
            if len(self.shape) > schema.MAX_RANK:
                raise SpecError(f"{len(self.shape)} sizes, expected at most {schema.MAX_RANK}")
        for size in self.shape:
            if not (type(size) is int and 1 <= size <= LARGEST) and not (type(size) is str and _is_text(size)):
                raise SpecError(f"input {self.name!r}: size {shown(size)}, expected a positive integer or a name")

    @cached_property
    def value(self) -> Value:
        return Value(self.dtype, self.shape)

    def to_json(self) -> dict[str, Any]:
        found = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return {**found, "optional": True} if self.optional else found


@dataclass(frozen=True)
class Node:
    """An op of rnncore.ops on named values, with its attributes; its outputs are named after it.

    names  of the node's values
    reads  the names of every value that the node needs
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)
    reads: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)
    _inferred: tuple[Value | None, ...] | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        _check_name(self.name, "node")
        op = OPS.get(self.op) if isinstance(self.op, str) else None
        if op is None:
            expected = ", ".join(sorted(OPS))
            raise SpecError(f"node {self.name!r}: op {shown(self.op)} is unknown, expected one of {expected}")
        try:
            inputs = self.inputs
            if type(inputs) is not tuple:
                inputs = (inputs,) if isinstance(inputs, str) else _sequence("inputs", inputs)
            _names("inputs", inputs)
            if not op.arity[0] <= len(inputs) <= op.arity[1]:
                expected = op.arity[0] if op.arity[0] == op.arity[1] else f"{op.arity[0]} to {op.arity[1]}"
                raise SpecError(f"{len(inputs)} inputs, expected {expected}")
            attributes = schema.complete(op.schema, op.attributes, op.required, self.attributes)
            names = op.names(self.name, attributes)  # of which attributes may have something to say
        except (SpecError, OverflowError) as error:
            raise _named(error, self) from None
        reads = inputs
        if op.optional and "" in inputs:
            reads = tuple(name for place, name in enumerate(inputs) if name != "" or place not in op.optional)
        _set(self, "inputs", inputs)
        _set(self, "attributes", attributes)
        _set(self, "names", names)
        _set(self, "reads", reads)
        _set(self, "_inferred", None)

    def __reduce__(self):
        return Node, (self.name, self.op, self.inputs, dict(self.attributes))

    def __hash__(self):
        return hash((self.name, self.op, self.inputs, tuple(self.attributes.items())))

    @property
    def optional_reads(self) -> tuple[str, ...]:
        """Names of the values that may be optional inputs."""
        optional = OPS[self.op].optional
        if not optional:
            return ()
        required = {name for place, name in enumerate(self.inputs) if place not in optional}
        return tuple(name for name in self.inputs if name not in required)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight" -> shape."""
        of_op = OPS[self.op].weight_shapes
        if of_op is no_weights:
            return {}
        try:
            return {f"{self.name}.{key}": shape for key, shape in of_op(self.attributes).items()}
        except (SpecError, OverflowError) as error:
            raise _named(error, self) from None

    def weight_dtypes(self) -> dict[str, str]:
        """The dtypes of those weights that are not "float"."""
        of_op = OPS[self.op].weight_dtypes
        if of_op is no_weights:
            return {}
        return {f"{self.name}.{key}": dtype for key, dtype in of_op(self.attributes).items()}

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the inputs by their places; "" for one that is absent."""
        return self.inputs

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The Values of ``names`` from those that it reads; of the same objects as before the same ones again."""
        given, inferred = tuple(map(values.get, self.inputs)), self._inferred
        if inferred is not None and all(map(operator.is_, inferred, given)):  # which begins with what was given
            return dict(zip(self.names, inferred[len(given) :], strict=True))
        op = OPS[self.op]
        try:
            op.weight_shapes(self.attributes)  # checks the sizes
            op.check_present(given)
            found = dict(zip(self.names, op.infer(self.attributes, self._given(values)), strict=True))
        except (SpecError, OverflowError) as error:
            raise _named(error, self) from None
        _set(self, "_inferred", (*given, *found.values()))  # one reference: threads see all of it or nothing
        return found

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """How the dimensions of its values come from those of its slots."""
        outputs = [values[name] for name in self.names]
        return OPS[self.op].dimensions(self.attributes, self._given(values), outputs)

    def _given(self, values: Mapping[str, Value]) -> list[Value | None]:
        """What is known of each input; None for those that are absent."""
        given = [values.get(name) for name in self.inputs]
        op = OPS[self.op]
        return [*given, *[None] * (op.arity[1] - len(given))] if op.optional else given

    def to_json(self) -> dict[str, Any]:
        defaults = OPS[self.op].attributes
        attributes = {key: value for key, value in self.attributes.items() if value != defaults[key]}
        found = {"name": self.name, "op": self.op, "inputs": list(self.inputs)}
        return {**found, "attributes": attributes} if attributes else found


@dataclass(frozen=True)
class Recurrent:
    """A stack of recurrent layers of one cell.

    cell         the first layer's; deeper layers differ from it in input size only
    reverse_cell the reverse direction's, where its options differ
    input        name of the sequence value, (B, T, I), or (T, B, I) with layout="time_first"
    lengths      name of an int64 (B,) value: steps from the first that count. The optional input "lengths" is
                 declared by the Spec for every node that names it
    initial      names of the initial states' values in the order of the cell's states, each
                 (layers * directions, B, size); a State given by the caller stands above them, trained or
                 zero states below
    trained_state  initial states are weights of the node: "NODE.initial_h", (layers * directions, size)
    merge        how two directions become one output, in every layer ("separate" only with one layer)
    mask         name of a bool (B, T) value, (T, B) with layout="time_first": True where a step counts, gaps and
                 left padding included. The optional input "mask" is declared like "lengths". A mask that is an
                 input must agree with lengths where both are given; one that the graph computes is cut by them
    masked_output  output at masked steps: "repeat" that of the valid step processed before (0 before the first one),
                 per direction, or "zero". Steps past a length are 0 where there is no mask
    output_order "time", or "processing" (one layer with direction="reverse"): time t stands at T - 1 - t

    A masked step keeps the state and is never read. NAME.last is the output after the last valid step processed,
    which for a row without any is its initial h.
    """

    name: str
    cell: Cell
    input: str
    layers: int = 1
    direction: str = "forward"
    merge: str = "concat"
    layout: str = "batch_first"
    reverse_cell: Cell | None = None
    lengths: str | None = "lengths"
    initial: tuple[str, ...] = ()
    trained_state: bool = False
    mask: str | None = None
    masked_output: str = "repeat"
    output_order: str = "time"

    kind = "Recurrent"

    def __post_init__(self):
        _check_name(self.name, "node")
        with _naming(self):
            _check_stack(self)
            check_choice(self, "direction", DIRECTIONS)
            check_choice(self, "merge", MERGES)
            check_choice(self, "layout", LAYOUTS)
            check_choice(self, "masked_output", MASKED_OUTPUTS)
            check_choice(self, "output_order", OUTPUT_ORDERS)
            check_flag(self, "trained_state")
            object.__setattr__(self, "initial", _names("initial", self.initial))
            _check_reads(self, (self.input,), (self.lengths, self.mask))
            if self.reverse_cell is not None:
                self._check_reverse_cell()
            if self.merge != "concat" and self.direction != "bidirectional":
                raise SpecError(f"merge={self.merge!r} with direction={self.direction!r}, expected bidirectional")
            if self.merge == "separate" and self.layers > 1:
                raise SpecError(f"merge='separate' with {self.layers} layers, expected one layer a node")
            if self.output_order == "processing" and (self.direction != "reverse" or self.layers > 1):
                raise SpecError(
                    f"output_order='processing' with direction={self.direction!r} and {self.layers} layers, "
                    "expected direction='reverse' and one layer a node"
                )
            if self.initial and len(self.initial) != len(self.cell.states):
                raise SpecError(f"{len(self.initial)} initial states, expected {len(self.cell.states)}")
            if self.initial and self.trained_state:
                raise SpecError("initial and trained_state exclude each other")

    def _check_reverse_cell(self):
        if self.direction != "bidirectional":
            raise SpecError(f"reverse_cell with direction={self.direction!r}, expected bidirectional")
        if not isinstance(self.reverse_cell, Cell) or self.reverse_cell.kind != self.cell.kind:
            raise SpecError(f"reverse_cell={shown(self.reverse_cell)}, expected a {self.cell.kind} cell")
        for name in ("input_size", "hidden_size", "output_size"):
            found, expected = getattr(self.reverse_cell, name), getattr(self.cell, name)
            if found != expected:
                raise SpecError(f"reverse_cell: {name}={found}, expected the forward cell's {expected}")

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of each layer, forward first."""
        return ("forward", "reverse") if self.direction == "bidirectional" else (self.direction,)

    @property
    def output_size(self) -> int:
        """Width of the merged output."""
        return self.cell.output_size * (len(self.directions) if self.merge == "concat" else 1)

    def layer_cell(self, layer: int, direction: str) -> Cell:
        """The cell of one layer and direction, with that layer's input size."""
        backward = direction == "reverse" and self.reverse_cell is not None
        if layer:
            return self._deeper[backward]
        return self.reverse_cell if backward else self.cell

    @cached_property
    def _deeper(self) -> tuple[Cell, ...]:
        """The cells of all layers but the first: the forward one, and the reverse one where it is another."""
        cells = (self.cell,) if self.reverse_cell is None else (self.cell, self.reverse_cell)
        return tuple(cell.replace(input_size=self.output_size) for cell in cells)

    def suffix(self, layer: int, direction: str) -> str:
        """PyTorch's suffix of a layer's weights: "_l0", "_l0_reverse"."""
        return f"_l{layer}" + ("_reverse" if direction == "reverse" and self.direction == "bidirectional" else "")

    def state_shapes(self, batch: int | str) -> dict[str, tuple[int | str, ...]]:
        """State name -> (layers * directions, batch, size)."""
        rows = self.layers * len(self.directions)
        return {name: (rows, batch, size) for name, size in self.cell.state_sizes.items()}

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of every value the node needs."""
        return (self.input, *self.optional_reads, *self.initial)

    @property
    def optional_reads(self) -> tuple[str, ...]:
        """Names of the values that may be optional inputs: lengths and mask."""
        return tuple(name for name in (self.lengths, self.mask) if name is not None)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight_ih_l0" -> shape."""
        shapes = _layer_shapes(self)
        if self.trained_state:
            for key, (rows, _, size) in self.state_shapes("B").items():
                shapes[f"{self.name}.initial_{key}"] = (rows, size)
        return shapes

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with _naming(self):
            x = values[self.input]
            if x.dtype != "float" or len(x.shape) != 3:
                raise SpecError(f"input {self.input!r} is {x}, expected float with three dimensions")
            if isinstance(x.shape[2], int) and x.shape[2] != self.cell.input_size:
                raise SpecError(f"input {self.input!r} is {x}, expected a last dimension of {self.cell.input_size}")
            batch = x.shape[0 if self.layout == "batch_first" else 1]
            if self.lengths is not None and (values[self.lengths].dtype, len(values[self.lengths].shape)) != (
                "int64",
                1,
            ):
                raise SpecError(f"lengths {self.lengths!r} is {values[self.lengths]}, expected int64 (B,)")
            if self.mask is not None and (values[self.mask].dtype, len(values[self.mask].shape)) != ("bool", 2):
                axes = "(B, T)" if self.layout == "batch_first" else "(T, B)"
                raise SpecError(f"mask {self.mask!r} is {values[self.mask]}, expected bool {axes}")
            for name, (key, shape) in zip(self.initial, self.state_shapes(batch).items(), strict=False):
                _need(f"initial {key}", name, values[name], shape)
            width = self.cell.output_size if self.merge == "separate" else self.output_size
            shapes = [(*x.shape[:2], width)] * len(self.sequence_names)
            if self.merge != "separate":
                shapes.append((batch, self.output_size))
            shapes += self.state_shapes(batch).values()
            return {name: Value("float", shape) for name, shape in zip(self.names, shapes, strict=True)}

    @property
    def op(self) -> str:
        """As it stands for the node in JSON and in messages."""
        return self.kind

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """The names of the values that have steps."""
        return (f"{self.name}.forward", f"{self.name}.reverse") if self.merge == "separate" else (self.name,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the node's values."""
        last = () if self.merge == "separate" else (f"{self.name}.last",)
        return (*self.sequence_names, *last, *(f"{self.name}.{key}" for key in self.cell.states))

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the inputs by their places; "" for one that is absent."""
        return (self.input, self.lengths or "", self.mask or "", *self.initial)

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """Rows; and steps, of which each comes after those before it, or before those behind."""
        rows, steps = (0, 1) if self.layout == "batch_first" else (1, 0)
        sequences = len(self.sequence_names)
        states = len(self.names) - len(self.cell.states)
        outputs = {place: rows if place < sequences else int(place >= states) for place in range(len(self.names))}
        initial = {3 + place: 1 for place in range(len(self.initial))}
        found = [Dimension({0: rows, 1: 0, 2: rows, **initial}, outputs)]
        reach = {"forward": CAUSAL, "reverse": Reach(0, None)}.get(self.direction)
        if reach is None or self.output_order == "processing":
            reach = Reach(None, None)
        return [*found, Dimension({0: steps, 2: steps}, dict.fromkeys(range(sequences), steps), reach)]

    def is_time(self, dimension: Dimension) -> bool:
        """Whether one of its Dimensions is that of the steps, in their own order."""
        return dimension.inputs[0] == (1 if self.layout == "batch_first" else 0) and self.output_order == "time"

    def to_json(self) -> dict[str, Any]:
        return _stack_to_json(self)


@dataclass(frozen=True)
class AttentionDecoder:
    """A stack of recurrent layers that looks back at a memory in every step, which then enters its next product.

        order="before" (Bahdanau)   v_t = attend(s_{t-1}),  s_t = cell([x_t; v_t])
        order="after" (Luong)       s_t = cell([x_t; f_{t-1}]),  v_t = attend(s_t),  f_t = o_t, or v_t: see below
        o_t = tanh(W [v_t; s_t] + b), the attentional vector, with attentional_size; else o_t = s_t

    s is the last layer's output h; [a; b] stands side by side, in this order. After without attentional_size feeds
    v_t. What feeds nothing back needs no such node: Recurrent, LuongAttention, Concat, Linear and Tanh say the same.

    cell         the first layer's: its input_size is that of x_t and of what is fed, together
    input        name of the sequence x, (B, T, I): what was emitted before, embedded; T is 1 when driven step by step
    memory       name of what is attended to, (B, Tk, K), with K = memory_size
    attention    "bahdanau", "dot", "general" or "concat" (rnncore.ops.attention), attention_size and attention_bias
                 for bahdanau and concat
    keys         name of the projected keys, (B, Tk, A), where the graph has them (a Linear of the memory, made once
                 for many calls); then the node has no weights for them. bahdanau and general only
    memory_mask  name of a bool (B, Tk) value, or of int64 lengths (B,): the steps of the memory that count
    lengths      name of an int64 (B,) value: steps of x that count. What lies behind is not read, and gives 0
    initial      names of the initial states, each (layers, B, size), of the cell's states in order and, if wanted,
                 of f last, (1, B, size); a State given by the caller stands above them, zeros below

    Values: NAME (B, T, size) are the o, NAME.context the v, NAME.weights (B, T, Tk) the attention's weights; NAME.h
    and NAME.c (layers, B, H) and with order="after" NAME.feed (1, B, size) are the states after the last step.
    """

    name: str
    cell: Cell
    input: str
    memory: str
    memory_size: int
    attention: str
    attention_size: int | None = None
    attention_bias: bool = False
    order: str = "before"
    attentional_size: int | None = None
    attentional_bias: bool = False
    layers: int = 1
    keys: str | None = None
    memory_mask: str | None = None
    lengths: str | None = None
    initial: tuple[str, ...] = ()

    kind = "AttentionDecoder"
    directions = ("forward",)
    trained_state = False

    def __post_init__(self):
        _check_name(self.name, "node")
        with _naming(self):
            _check_stack(self)
            check_integer(self, "memory_size", at_least=1)
            check_choice(self, "order", ("before", "after"))
            check_flag(self, "attentional_bias")
            object.__setattr__(self, "initial", _names("initial", self.initial))
            _check_reads(self, (self.input, self.memory), (self.keys, self.memory_mask, self.lengths))
            if self.attentional_size is not None:
                check_integer(self, "attentional_size", at_least=1)
            elif self.attentional_bias:
                raise SpecError("attentional_bias without attentional_size")
            scoring = self.scoring  # checks what belongs to it
            if self.keys is not None and scoring.score not in ("bahdanau", "general"):
                raise SpecError(f"keys with attention={self.attention!r}, expected bahdanau or general")
            if self.keys is not None and self.attention_bias:
                raise SpecError("attention_bias with keys, expected it in what makes the keys")
            if self.input_size < 1:
                raise SpecError(
                    f"cell: input_size={self.cell.input_size}, expected more than the {self.fed_size} that are fed"
                )
            if self.initial and len(self.initial) not in (len(self.cell.states), len(self.state_shapes("B"))):
                raise SpecError(f"{len(self.initial)} initial states, expected {', '.join(self.state_shapes('B'))}")

    @property
    def scoring(self) -> Scoring:
        """How the queries are compared with the memory."""
        sizes = (self.cell.output_size, self.memory_size, self.attention_size)
        return Scoring(self.attention, *sizes, self.attention_bias)

    @property
    def output_size(self) -> int:
        return self.attentional_size or self.cell.output_size

    @property
    def fed_size(self) -> int:
        """Width of what stands beside x_t in the first layer's input."""
        return self.memory_size if self.order == "before" else self.attentional_size or self.memory_size

    @property
    def input_size(self) -> int:
        """Width of x_t."""
        return self.cell.input_size - self.fed_size

    def layer_cell(self, layer: int, direction: str = "forward") -> Cell:
        """The cell of one layer, with that layer's input size."""
        return self._deeper if layer else self.cell

    @cached_property
    def _deeper(self) -> Cell:
        """The cell of all layers but the first."""
        return self.cell.replace(input_size=self.cell.output_size)

    def suffix(self, layer: int, direction: str = "forward") -> str:
        """PyTorch's suffix of a layer's weights: "_l0"."""
        return f"_l{layer}"

    def state_shapes(self, batch: int | str) -> dict[str, tuple[int | str, ...]]:
        """State name -> (layers, batch, size); "feed" has one layer."""
        shapes = {name: (self.layers, batch, size) for name, size in self.cell.state_sizes.items()}
        return {**shapes, "feed": (1, batch, self.fed_size)} if self.order == "after" else shapes

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of every value the node needs."""
        keys = () if self.keys is None else (self.keys,)
        return (self.input, self.memory, *keys, *self.optional_reads, *self.initial)

    @property
    def optional_reads(self) -> tuple[str, ...]:
        """Names of the values that may be optional inputs: lengths and mask."""
        return tuple(name for name in (self.lengths, self.memory_mask) if name is not None)

    def own_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that are not the cells': "attention.NAME" as Scoring has them, "attentional.weight"."""
        shapes = self.scoring.weight_shapes(projected=self.keys is not None)
        shapes = {f"attention.{key}": shape for key, shape in shapes.items()}
        if self.attentional_size is not None:
            shapes["attentional.weight"] = (self.attentional_size, self.memory_size + self.cell.output_size)
            if self.attentional_bias:
                shapes["attentional.bias"] = (self.attentional_size,)
        return shapes

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight_ih_l0", ..., "NODE.attention.query.weight" -> shape."""
        return {**_layer_shapes(self), **{f"{self.name}.{key}": shape for key, shape in self.own_shapes().items()}}

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with _naming(self):
            x, memory = values[self.input], values[self.memory]
            batch, steps = x.shape[:1], memory.shape[1:2]
            _need("input", self.input, x, ("B", "T", self.input_size))
            _need("memory", self.memory, memory, (*batch, "Tk", self.memory_size))
            if self.keys is not None:
                _need("keys", self.keys, values[self.keys], (*batch, *steps, self.scoring.key_size))
            if self.lengths is not None:
                _need("lengths", self.lengths, values[self.lengths], batch, "int64")
            if self.memory_mask is not None:
                mask = values[self.memory_mask]
                expected = (*batch, *steps) if mask.dtype == "bool" else batch
                _need("memory_mask", self.memory_mask, mask, expected, "bool" if mask.dtype == "bool" else "int64")
            states = self.state_shapes(x.shape[0])
            for name, (key, shape) in zip(self.initial, states.items(), strict=False):
                _need(f"initial {key}", name, values[name], shape)
            sizes = {"": self.output_size, ".context": self.memory_size, ".weights": memory.shape[1]}
            found = {self.name + ending: Value("float", (*x.shape[:2], size)) for ending, size in sizes.items()}
            return {**found, **{f"{self.name}.{key}": Value("float", shape) for key, shape in states.items()}}

    @property
    def op(self) -> str:
        """As it stands for the node in JSON and in messages."""
        return self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the node's values."""
        states = (f"{self.name}.{key}" for key in self.state_shapes("B"))
        return (self.name, f"{self.name}.context", f"{self.name}.weights", *states)

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the inputs by their places; "" for one that is absent."""
        return (self.input, self.memory, self.keys or "", self.memory_mask or "", self.lengths or "", *self.initial)

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """Rows, and steps of the input, of which each comes after those before it. Those of the memory meet."""
        initial = {5 + place: 1 for place in range(len(self.initial))}
        outputs = {place: int(place > 2) for place in range(len(self.names))}
        rows = Dimension({**dict.fromkeys(range(5), 0), **initial}, outputs)
        return [rows, Dimension({0: 1}, {0: 1, 1: 1, 2: 1}, CAUSAL)]

    def is_time(self, dimension: Dimension) -> bool:
        """Whether one of its Dimensions is that of the steps."""
        return dimension.inputs == {0: 1}

    def to_json(self) -> dict[str, Any]:
        return _stack_to_json(self)


@dataclass(frozen=True)
class Control:
    """Specs that run when a value says so, or again and again: ONNX's If, Loop and Scan.

    op         "If", "Loop" or "Scan"
    inputs     the op's own inputs as ONNX has them, then the values that the branches capture:
               If    condition; captures
               Loop  trip count or "", condition or "", one for each carried value; captures
               Scan  states, then sequences; captures
    branches   If: then and else. Loop, Scan: the body, whose first inputs are ONNX's (iteration number, condition and
               carried values; states and elements) and whose first outputs are the condition and carried values, or
               the states; what follows is collected over the steps
    captures   the names under which branches have the captured values as further inputs, in the order of ``inputs``
    sequences  Scan: how many sequences
    axes, output_axes, backward, output_backward   Scan: one for each sequence, or each collected output; () for 0

    Values: NAME for the first output, NAME.1, NAME.2 ... for the others: If, the branches' outputs; Loop, the carried
    values and then what was collected; Scan, the states and then what was collected. Recurrent nodes inside start
    from their initial values each time; weights are named NAME.then., NAME.else. and NAME.body.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    branches: tuple[Spec, ...]
    captures: tuple[str, ...] = ()
    sequences: int = 0
    axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    backward: tuple[bool, ...] = ()
    output_backward: tuple[bool, ...] = ()

    kind = "Control"

    def __post_init__(self):
        _check_name(self.name, "node")
        with _naming(self):
            for field in dataclasses.fields(self)[2:]:
                if field.name != "sequences":
                    object.__setattr__(self, field.name, _sequence(field.name, getattr(self, field.name)))
            for field in ("inputs", "captures"):
                _names(field, getattr(self, field))
            check_choice(self, "op", tuple(BRANCHES))
            if len(self.branches) != len(BRANCHES[self.op]) or not all(isinstance(b, Spec) for b in self.branches):
                raise SpecError(f"{len(self.branches)} branches, expected Specs for {' and '.join(BRANCHES[self.op])}")
            if any(branch.names for branch in self.branches):
                raise SpecError("names in a branch, expected them in the Spec around it")
            if _nesting(self) > MAX_NESTING:
                raise SpecError(f"branches nested {_nesting(self)} deep, expected at most {MAX_NESTING}")
            check_integer(self, "sequences", at_least=1 if self.op == "Scan" else 0)
            if self.own < {"If": 1, "Loop": 2, "Scan": self.sequences}[self.op]:
                raise SpecError(f"{len(self.inputs)} inputs with {len(self.captures)} captures are not enough")
            if "" in self.inputs[2 if self.op == "Loop" else 0 :]:
                raise SpecError("an input '', expected it only for a Loop's trip count and condition")
            self._check_branches()

    @property
    def own(self) -> int:
        """The number of inputs that are no captures."""
        return len(self.inputs) - len(self.captures)

    @property
    def carried(self) -> int:
        """Loop, Scan: how many values go from step to step."""
        return {"If": 0, "Loop": self.own - 2, "Scan": self.own - self.sequences}[self.op]

    @property
    def _fixed(self) -> int:
        """The number of inputs that a branch has before its captures."""
        return {"If": 0, "Loop": self.own, "Scan": self.own}[self.op]

    def _check_branches(self) -> None:
        for label, branch in zip(BRANCHES[self.op], self.branches, strict=True):
            free = branch.inputs[self._fixed :]
            missing = [entry for entry in free if entry.name not in self.captures and not entry.optional]
            if missing or len(branch.inputs) < self._fixed:
                names = ", ".join(entry.name for entry in branch.inputs)
                raise SpecError(f"{label} has the inputs {names}, expected {self._fixed} and then captures")
        outputs = {len(branch.outputs) for branch in self.branches}
        least = {"If": 1, "Loop": 1 + self.carried, "Scan": self.carried}[self.op]
        if len(outputs) > 1 or min(outputs) < least:
            found = " and ".join(str(len(branch.outputs)) for branch in self.branches)
            raise SpecError(
                f"{found} outputs, expected {'the same number' if len(outputs) > 1 else f'at least {least}'}"
            )
        collected = len(self.branches[0].outputs) - least if self.op == "Scan" else 0
        for field, count in (("axes", self.sequences), ("backward", self.sequences)):
            self._check_count(field, count)
            self._check_count(f"output_{field}", collected)

    def _check_count(self, field: str, count: int) -> None:
        kind = bool if field.endswith("backward") else int
        found = getattr(self, field)
        plain = all(type(value) is kind and abs(value) <= schema.MAX_RANK for value in found)
        if found and (len(found) != count or not plain):
            raise SpecError(f"{field}={shown(list(found))}, expected {count} of {kind.__name__}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the node's values."""
        count = len(self.branches[0].outputs) - (1 if self.op == "Loop" else 0)
        return tuple(f"{self.name}.{place}" if place else self.name for place in range(count))

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the inputs by their places; "" for one that is absent."""
        return self.inputs

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of every value the node needs."""
        return tuple(name for name in self.inputs if name)

    @property
    def optional_reads(self) -> tuple[str, ...]:
        return ()

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        return self._of_branches(Spec.weight_shapes)

    def weight_dtypes(self) -> dict[str, str]:
        return self._of_branches(Spec.weight_dtypes)

    def _of_branches(self, of: Any) -> dict[str, Any]:
        branches = zip(BRANCHES[self.op], self.branches, strict=True)
        return {f"{self.name}.{label}.{key}": value for label, branch in branches for key, value in of(branch).items()}

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with _naming(self):
            given = [values.get(name) for name in self.inputs]
            captured = dict(zip(self.captures, given[self.own :], strict=True))
            for label, branch in zip(BRANCHES[self.op], self.branches, strict=True):
                for entry in branch.inputs[self._fixed :]:
                    if entry.name not in captured:
                        continue  # an optional one
                    _need(f"{label}'s input", entry.name, captured[entry.name], entry.shape, entry.dtype)
            found = {"If": self._infer_if, "Loop": self._infer_loop, "Scan": self._infer_scan}[self.op](given)
            return dict(zip(self.names, found, strict=True))

    def _infer_if(self, given: list[Value]) -> list[Value]:
        if given[0].dtype != "bool":
            raise SpecError(f"condition is {given[0]}, expected bool")
        sides = [[branch.values[name] for name in branch.outputs] for branch in self.branches]
        return [_either(then, other, "then", "else") for then, other in zip(*sides, strict=True)]

    def _infer_loop(self, given: list[Value | None]) -> list[Value]:
        body = self.branches[0]
        for what, value, dtype in (("trip count", given[0], "int64"), ("condition", given[1], "bool")):
            if value is not None and (value.dtype != dtype or value.shape not in ((), (1,))):
                raise SpecError(f"{what} is {value}, expected {dtype} ()")
        self._check_carried(body, 2, given[2 : self.own])
        outputs = [body.values[name] for name in body.outputs]
        pairs = zip(given[2 : self.own], outputs[1:], strict=False)
        carried = [_either(a, b, "before", "after") for a, b in pairs]
        return [*carried, *(Value(v.dtype, (UNKNOWN, *v.shape)) for v in outputs[1 + self.carried :])]

    def _infer_scan(self, given: list[Value]) -> list[Value]:
        body = self.branches[0]
        self._check_carried(body, 0, given[: self.carried])
        steps: int | str = UNKNOWN
        for place, value in enumerate(given[self.carried : self.own]):
            axis = self.axes[place] if self.axes else 0
            rank = len(value.shape)
            if not -rank <= axis < rank:
                raise SpecError(f"axis {axis} of a sequence {value}, expected {-rank} to {rank - 1}")
            shape = list(value.shape)
            steps = shape.pop(axis % rank)
            entry = body.inputs[self.carried + place]
            _need("body's input", entry.name, Value(value.dtype, tuple(shape)), entry.shape, entry.dtype)
        outputs = [body.values[name] for name in body.outputs]
        pairs = zip(given[: self.carried], outputs[: self.carried], strict=True)
        found = [_either(a, b, "before", "after") for a, b in pairs]
        for place, value in enumerate(outputs[self.carried :]):
            axis = self.output_axes[place] if self.output_axes else 0
            rank = len(value.shape) + 1
            if not -rank <= axis < rank:
                raise SpecError(f"output axis {axis} for {value} of each step, expected {-rank} to {rank - 1}")
            shape = list(value.shape)
            shape.insert(axis % rank, steps)
            found.append(Value(value.dtype, tuple(shape)))
        return found

    def _check_carried(self, body: Spec, first: int, given: Iterable[Value]) -> None:
        for entry, value in zip(body.inputs[first:], given, strict=False):
            _need("body's input", entry.name, value, entry.shape, entry.dtype)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "op": self.op}
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if field.name == "branches":
                found["branches"] = [branch.to_json() for branch in value]
            elif value != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found


BRANCHES = {"If": ("then", "else"), "Loop": ("body",), "Scan": ("body",)}
"""What the branches of each Control op are called."""


def _nesting(node: Control) -> int:
    inner = [other for branch in node.branches for other in branch.nodes if isinstance(other, Control)]
    return 1 + max((_nesting(other) for other in inner), default=0)


def _either(a: Value, b: Value, first: str, second: str) -> Value:
    """What is known of a value that is one of two."""
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        raise SpecError(f"a value is {a} {first} and {b} {second}, expected one dtype and rank")
    return Value(a.dtype, tuple(p if p == q else UNKNOWN for p, q in zip(a.shape, b.shape, strict=True)))


@dataclass(frozen=True)
class Spec:
    """A network: inputs, nodes in an order in which each reads only what stands before it, and outputs by name.

    names  what a checkpoint of the network calls weights, and the modules of nodes, where it has other names than the
           Spec: {"linear.weight": "w", "fc_1": "fc"}; nodes in branches by their path, "loop.body.cell"

    Raises SpecError where names clash, a value is unknown, or a size contradicts another.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node | Recurrent | AttentionDecoder | Control, ...]
    outputs: tuple[str, ...]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        for field, accepted in (("inputs", Input), ("nodes", (Node, Control, *STACKS.values()))):
            members = _sequence(field, getattr(self, field))
            for member in members:
                if not isinstance(member, accepted):
                    raise SpecError(f"{field}: {shown(member)}, expected {field[:-1].capitalize()} objects")
            object.__setattr__(self, field, members)
        outputs = (self.outputs,) if isinstance(self.outputs, str) else _sequence("outputs", self.outputs)
        object.__setattr__(self, "outputs", outputs)
        if self.size > MAX_NODES:
            raise SpecError(f"{self.size} nodes and layers, expected at most {MAX_NODES}")
        if self._working > most_nodes():
            found = f"{self._working} nodes and layers beside constants"
            raise SpecError(f"{found}, expected at most {most_nodes()}{more_nodes()}")
        names = {entry.name for entry in self.inputs}
        names.update(node.name for node in self.nodes)
        if "lengths" not in names and any("lengths" in node.reads for node in self.nodes):
            lengths = Input("lengths", "int64", ("B",), optional=True)
            object.__setattr__(self, "inputs", (*self.inputs, lengths))
        masked = [node for node in self.recurrent if node.mask == "mask"]
        if "mask" not in names and masked:
            mask = Input("mask", "bool", ("B", "T") if masked[0].layout == "batch_first" else ("T", "B"), optional=True)
            object.__setattr__(self, "inputs", (*self.inputs, mask))
        object.__setattr__(self, "_values", MappingProxyType(self._infer()))
        self._check_names()
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))

    def _check_names(self) -> None:
        if not isinstance(self.names, Mapping):
            raise SpecError(f"names: {type(self.names).__name__}, expected an object")
        paths = {name for name, _ in paths_of(self)} if self.names else set()
        for name, wanted in self.names.items():
            ends = [end for end, letter in enumerate(name) if letter == "."] if isinstance(name, str) else []
            if name not in paths and not any(name[:end] in paths for end in ends):
                raise SpecError(f"names: {shown(name)} is no node of the network, and no weight of one")
            if not isinstance(wanted, str) or not _is_text(wanted):
                raise SpecError(f"names: {name!r} leads to {shown(wanted)}, expected the name of a tensor or module")

    def __getstate__(self):
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**state, "names": dict(self.names)}

    def __setstate__(self, state):
        for name, value in state.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "names", MappingProxyType(state["names"]))
        object.__setattr__(self, "_values", MappingProxyType(self._infer()))

    def _infer(self) -> dict[str, Value]:
        values: dict[str, Value] = {}

        for entry in self.inputs:
            if entry.name in values:
                raise SpecError(f"the name {entry.name!r} stands for two values")
            values[entry.name] = entry.value
        optional = {entry.name for entry in self.inputs if entry.optional}
        node_names: set[str] = set()
        for node in self.nodes:
            if node.name in node_names:
                raise SpecError(f"two nodes are named {node.name!r}")
            node_names.add(node.name)
            for name in node.reads:
                if not isinstance(name, str) or name not in values:
                    near = _near(name, values)
                    raise SpecError(
                        f"node {node.name!r} reads {shown(name)}, which no input or earlier node gives{near}"
                    )
                if optional and name in optional and name not in getattr(node, "optional_reads", ()):
                    raise SpecError(
                        f"node {node.name!r} reads the optional input {name!r}, which only lengths and masks may be"
                    )
            for name, value in node.infer(values).items():
                if name in values:
                    raise SpecError(f"the name {name!r} stands for two values")
                _check_value(node, name, value)
                values[name] = value
        if not self.outputs:
            raise SpecError("no outputs, expected at least one")
        for name in self.outputs:
            if not isinstance(name, str) or name not in values:
                raise SpecError(f"output {shown(name)} is given by no input or node{_near(name, values)}")
            if name in optional:
                raise SpecError(f"output {name!r} is an optional input, expected one that is always there")
        return values

    @property
    def values(self) -> Mapping[str, Value]:
        """Every value by name, with dtype and shape."""
        return self._values

    @cached_property
    def size(self) -> int:
        """The number of nodes, those inside branches among them; a stack counts as its layers and directions."""
        count = 0
        for node in self.nodes:
            if isinstance(node, Control):
                count += 1 + sum(branch.size for branch in node.branches)
            else:
                count += 1 if isinstance(node, Node) else node.layers * len(node.directions)
        return count

    @cached_property
    def _working(self) -> int:
        """The same without Constants."""
        inside = sum(branch.size - branch._working for branch in self._branches)
        return self.size - inside - sum(isinstance(node, Node) and node.op == "Constant" for node in self.nodes)

    @property
    def _branches(self) -> Iterator[Spec]:
        return (branch for node in self.nodes if isinstance(node, Control) for branch in node.branches)

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """For each value that nodes read: their places in ``nodes``, in order, one for each time it is read."""
        found: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in node.reads:
                found.setdefault(name, []).append(place)
        return MappingProxyType({name: tuple(places) for name, places in found.items()})

    @property
    def recurrent(self) -> tuple[Recurrent, ...]:
        """The Recurrent nodes, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Recurrent))

    @property
    def stateful(self) -> tuple[Recurrent | AttentionDecoder, ...]:
        """The nodes that carry state, in order."""
        return tuple(node for node in self.nodes if isinstance(node, tuple(STACKS.values())))

    def weight_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape of every weight; exactly these must be given."""
        return self._weight_shapes

    @cached_property
    def _weight_shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for node in self.nodes:
            shapes.update(node.weight_shapes())
        return MappingProxyType(shapes)

    def weight_dtypes(self) -> Mapping[str, str]:
        """Canonical name -> dtype of the weights that are not "float"."""
        return self._weight_dtypes

    @cached_property
    def _weight_dtypes(self) -> Mapping[str, str]:
        dtypes: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, (Node, Control)):
                dtypes.update(node.weight_dtypes())
        return MappingProxyType(dtypes)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The ops of its nodes, "Recurrent" and "AttentionDecoder" among them; of those in branches not."""
        return frozenset(node.op for node in self.nodes)

    def reshaped(self, shapes: Mapping[str, tuple[int | str, ...]]) -> Spec:
        """The same network for inputs of other shapes, by name. SpecError where a size contradicts another."""
        inputs = (dataclasses.replace(entry, shape=shapes.get(entry.name, entry.shape)) for entry in self.inputs)
        return Spec(tuple(inputs), self.nodes, self.outputs, self.names)

    def sized(self, sizes: Mapping[str, int]) -> Spec:
        """The same network with a number for some of the names of its inputs' sizes: {"B": 1}.

        SpecError for a name that no input has, for what is no positive integer, and where the graph contradicts one.
        """
        check_sizes(sizes, [size for entry in self.inputs for size in entry.shape])
        shapes = {entry.name: tuple(sizes.get(size, size) for size in entry.shape) for entry in self.inputs}
        return self.reshaped(shapes)

    def to_json(self) -> dict[str, Any]:
        found = {
            "format": FORMAT_VERSION,
            "inputs": [entry.to_json() for entry in self.inputs],
            "nodes": [node.to_json() for node in self.nodes],
            "outputs": list(self.outputs),
        }
        return {**found, "names": dict(self.names)} if self.names else found

    @classmethod
    def from_json(cls, found: str | bytes | Mapping[str, Any], depth: int = 0) -> Spec:
        """From a JSON text or the object it holds. Unknown keys are an error, never ignored.

        depth: how many Control nodes it is inside of.
        """
        if isinstance(found, (str, bytes)):
            found = read_json(found, "Spec", SpecError, constants=True)  # a Clip's bound may be infinite
        _check_keys(found, "Spec", {"inputs", "nodes", "outputs"}, {"format", "names"})
        version = found.get("format", FORMAT_VERSION)
        if type(version) is not int or version != FORMAT_VERSION:
            raise SpecError(f"Spec: format {shown(version)}, this version of rnncore reads {FORMAT_VERSION}")
        for key in ("inputs", "nodes", "outputs"):
            if not isinstance(found[key], (list, tuple)):
                raise SpecError(f"Spec: {key} is {type(found[key]).__name__}, expected a list")
        if depth == 0 and _nodes_in_json(found) > most_nodes():
            count = f"{_nodes_in_json(found)} nodes beside constants"
            raise SpecError(f"{count}, expected at most {most_nodes()} nodes and layers{more_nodes()}")
        return cls(
            tuple(_input_from_json(entry) for entry in found["inputs"]),
            tuple(_node_from_json(entry, depth) for entry in found["nodes"]),
            tuple(found["outputs"]),
            found.get("names", {}),
        )


@contextlib.contextmanager
def limited_nodes(most: int) -> Iterator[None]:
    """A Spec that this thread makes inside has at most so many nodes and layers, or it is a SpecError."""
    before = most_nodes()
    _HERE.nodes = most
    try:
        yield
    finally:
        _HERE.nodes = before


def most_nodes() -> int:
    """How many nodes and layers a Spec may have, here and now."""
    return getattr(_HERE, "nodes", MAX_NODES)


def more_nodes() -> str:
    """What a message says of how more are allowed."""
    if most_nodes() == MAX_NODES:
        return ""
    return f" of a file; load(..., budget=Budget(nodes=...)), or RNNCORE_MAX_NODES, allows up to {MAX_NODES}"


def paths_of(spec: Spec, within: str = "") -> Iterator[tuple[str, Node | Recurrent | AttentionDecoder | Control]]:
    """Every node, those in branches among them, with the name before those of its weights: "loop.body.cell"."""
    for node in spec.nodes:
        path = f"{within}{node.name}"
        yield path, node
        if isinstance(node, Control):
            for label, branch in zip(BRANCHES[node.op], node.branches, strict=True):
                yield from paths_of(branch, f"{path}.{label}.")


def check_sizes(sizes: Mapping[str, int], shapes: Iterable[int | str]) -> None:
    """SpecError unless ``sizes`` gives positive integers for names that are among ``shapes``."""
    names = sorted({size for size in shapes if isinstance(size, str)})
    if not isinstance(sizes, Mapping):
        raise SpecError(f"sizes={sizes!r}, expected a mapping of names to sizes")
    for name, size in sizes.items():
        if name not in names:
            raise SpecError(f"sizes: {name!r}, expected one of {', '.join(names) or 'none'}{_near(name, names)}")
        if type(size) is not int or size < 1:
            raise SpecError(f"sizes: {name}={size!r}, expected a positive integer")


STACKS = {stack.kind: stack for stack in (Recurrent, AttentionDecoder)}
"""Nodes made of recurrent layers, by the op that stands for them in JSON."""


def _layer_shapes(node: Recurrent | AttentionDecoder) -> dict[str, tuple[int, ...]]:
    """The weights of every layer and direction: "NODE.weight_ih_l0" -> shape."""
    shapes = {}
    for layer in range(node.layers):
        for direction in node.directions:
            suffix = node.suffix(layer, direction)
            for key, shape in node.layer_cell(layer, direction).weight_shapes().items():
                shapes[f"{node.name}.{key}{suffix}"] = shape
    return shapes


def _stack_to_json(node: Recurrent | AttentionDecoder) -> dict[str, Any]:
    """Every field that has no default or differs from it."""
    found: dict[str, Any] = {"name": node.name, "op": node.kind}
    for field in dataclasses.fields(node)[1:]:
        value = getattr(node, field.name)
        if value != field.default:
            found[field.name] = value.to_json() if isinstance(value, Cell) else value
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _need(what: str, name: str, value: Value, shape: tuple[int | str, ...], dtype: str = "float") -> None:
    """SpecError where a value has not the dtype or rank, or a known size is another."""
    fits = value.dtype == dtype and len(value.shape) == len(shape)
    for found, expected in zip(value.shape, shape, strict=False):
        fits = fits and (isinstance(found, str) or isinstance(expected, str) or found == expected)
    if not fits:
        raise SpecError(f"{what} {name!r} is {value}, expected {Value(dtype, shape)}")


def _check_value(node: Any, name: str, value: Value) -> None:
    """SpecError where a value has more dimensions than NumPy's arrays, or a size that int64 does not hold."""
    fits = len(value.shape) <= schema.MAX_RANK
    for size in value.shape:
        if type(size) is int and size > LARGEST:
            fits = False
    if not fits:
        expected = f"at most {schema.MAX_RANK} dimensions, of sizes that int64 holds"
        raise SpecError(f"node {node.name!r}: {name!r} is {value.dtype} {shown(value.shape)}, expected {expected}")


def _nodes_in_json(found: Any, depth: int = 0) -> int:
    """The number of nodes but Constants of a Spec's JSON, those in branches among them, before any is made."""
    nodes = found.get("nodes") if isinstance(found, Mapping) else None
    if not isinstance(nodes, (list, tuple)) or depth > MAX_NESTING:
        return 0
    inside = [node["branches"] for node in nodes if isinstance(node, Mapping) and "branches" in node]
    branches = (branch for some in inside if isinstance(some, (list, tuple)) for branch in some)
    own = sum(not (isinstance(node, Mapping) and node.get("op") == "Constant") for node in nodes)
    return own + sum(_nodes_in_json(branch, depth + 1) for branch in branches)


def _input_from_json(found: Any) -> Input:
    _check_keys(found, "input", {"name", "dtype", "shape"}, {"optional"})
    return Input(found["name"], found["dtype"], tuple(_list(found, "shape", "input")), found.get("optional", False))


def _control_from_json(found: Mapping[str, Any], depth: int) -> Control:
    what = f"node {shown(found.get('name'))}"
    fields = {field.name: field.default for field in dataclasses.fields(Control)}
    required = {name for name, default in fields.items() if default is dataclasses.MISSING}
    _check_keys(found, what, required, set(fields))
    values = {key: _list(found, key, what) if isinstance(fields[key], tuple) else found[key] for key in found}
    values["inputs"] = _list(found, "inputs", what)
    if depth == MAX_NESTING:
        raise SpecError(f"{what}: branches nested more than {MAX_NESTING} deep")
    values["branches"] = [Spec.from_json(branch, depth + 1) for branch in _list(found, "branches", what)]
    return Control(**values)


def _node_from_json(found: Any, depth: int) -> Node | Recurrent | AttentionDecoder | Control:
    if isinstance(found, Mapping) and isinstance(found.get("op"), str) and found["op"] in BRANCHES:
        return _control_from_json(found, depth)
    if isinstance(found, Mapping) and isinstance(found.get("op"), str) and found["op"] in STACKS:
        stack = STACKS[found["op"]]
        fields = {field.name: field.default for field in dataclasses.fields(stack)}
        what = f"node {shown(found.get('name'))}"
        required = {name for name, default in fields.items() if default is dataclasses.MISSING}
        _check_keys(found, what, {"op", *required}, set(fields))
        values = {key: value for key, value in found.items() if key != "op"}
        for key in ("cell", "reverse_cell"):
            if values.get(key) is not None:
                values[key] = _cell_from_json(values[key], what)
        if "initial" in values:
            values["initial"] = tuple(_list(values, "initial", what))
        return stack(**values)
    _check_keys(found, "node", {"name", "op", "inputs"}, {"attributes"})
    attributes = found.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise SpecError(f"node {shown(found['name'])}: attributes are {type(attributes).__name__}, expected an object")
    return Node(found["name"], found["op"], tuple(_list(found, "inputs", "node")), attributes)


def _cell_from_json(found: Any, what: str) -> Cell:
    if not isinstance(found, Mapping) or not isinstance(found.get("kind"), str) or found["kind"] not in CELLS:
        kind = found.get("kind") if isinstance(found, Mapping) else found
        raise SpecError(f"{what}: cell kind {shown(kind)} is unknown, expected one of {', '.join(CELLS)}")
    try:
        return CELLS[found["kind"]].from_json(found)
    except SpecError as error:
        raise SpecError(f"{what}: {error}") from None


def _list(found: Mapping[str, Any], key: str, what: str) -> list:
    value = found[key]
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{what}: {key} is {type(value).__name__}, expected a list")
    return list(value)


def _check_keys(found: Any, what: str, required: set[str], optional: set[str]) -> None:
    if not isinstance(found, Mapping):
        raise SpecError(f"{what}: {type(found).__name__}, expected an object with {', '.join(sorted(required))}")
    unknown = [key for key in found if key not in required and key not in optional]
    if unknown:
        raise SpecError(f"{what}: unknown key {shown(unknown[0])}, expected {', '.join(sorted(required | optional))}")
    missing = sorted(required - set(found))
    if missing:
        raise SpecError(f"{what}: key {missing[0]!r} missing")


def _check_stack(node: Recurrent | AttentionDecoder) -> None:
    """SpecError unless the node has a cell and at least one layer."""
    check_cell(node.cell)
    check_integer(node, "layers", at_least=1)
    if node.layers > MAX_LAYERS:
        raise SpecError(f"layers={node.layers}, expected an integer from 1 to {MAX_LAYERS}")


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        raise SpecError(f"{what} name {shown(name)}, expected a printable string of at most 1000 characters")


def _names(what: str, given: Any) -> tuple[str, ...]:
    named = isinstance(given, (list, tuple))
    for name in given if named else ():
        named = named and isinstance(name, str)
    if not named:
        raise SpecError(f"{what}={shown(given)}, expected a list of names")
    return tuple(given)


def _sequence(what: str, given: Any) -> tuple[Any, ...]:
    if type(given) is tuple:
        return given
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise SpecError(f"{what}={shown(given)}, expected a list")
    return tuple(given)


def _check_reads(node: Recurrent | AttentionDecoder, names: Iterable[Any], optional: Iterable[Any]) -> None:
    """SpecError unless these are names of values; optional ones may be None."""
    for name in (*names, *(name for name in optional if name is not None)):
        if not isinstance(name, str):
            raise SpecError(f"node {node.name!r} reads {shown(name)}, expected the name of a value")


def _is_text(name: str) -> bool:
    """Whether a text, which may have been anything in the file it comes from, is one that can be written and shown."""
    return len(name) <= MAX_NAME and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _near(name: Any, known: Iterable[str]) -> str:
    """A hint for a misspelled name."""
    found = close_names(name, known, count=1) if isinstance(name, str) else []
    return f" (did you mean {found[0]!r}?)" if found else ""


class _naming:
    """Puts the node's (or input's) name before the message of a SpecError raised inside.

    A size that no number of the machine holds, made of sizes and options that are right one by one, is a SpecError too.
    """

    def __init__(self, node, what="node"):
        self.node, self.what = node, what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, (SpecError, OverflowError)):
            named = _named(error, self.node, self.what)
            if named is not error:
                raise named from None
        return False


def _named(error: Exception, node: Any, what: str = "node") -> Exception:
    """A SpecError, or an OverflowError, with the node's (or input's) name before its message."""
    prefix = f"{what} {node.name!r}"
    op = getattr(node, "op", None)
    where = f"{prefix} ({op})" if op and op not in STACKS else prefix
    if isinstance(error, OverflowError):
        return SpecError(f"{where}: a number is too large: {error}")
    return error if str(error).startswith(prefix) else SpecError(f"{where}: {error}")
