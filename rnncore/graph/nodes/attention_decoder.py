"""AttentionDecoder: a stack of recurrent layers with attention inside its loop over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from rnncore.cells import Cell
from rnncore.cells.base import check_choice, check_flag, check_integer
from rnncore.errors import SpecError
from rnncore.graph.nodes.fields import check_name, check_reads, check_value, name_tuple, naming
from rnncore.graph.nodes.stack import check_stack, layer_shapes, renamed_fields, stack_from_json, stack_to_json
from rnncore.ops import Value
from rnncore.ops.attention import Scoring
from rnncore.ops.dimensions import CAUSAL, Dimension

__all__ = ["AttentionDecoder"]


@dataclass(frozen=True)
class AttentionDecoder:
    """A stack of recurrent layers that looks back at a memory in every step, which then enters its next product.

        order="before" (Bahdanau)   v_t = attend(s_{t-1}),  s_t = cell([x_t; v_t])
        order="after" (Luong)       s_t = cell([x_t; f_{t-1}]),  v_t = attend(s_t),  f_t = o_t, or v_t: see below
        o_t = tanh(W [v_t; s_t] + b), the attentional vector, with attentional_size; else o_t = s_t

    s is the last layer's output h; [a; b] is a concatenation. After without attentional_size feeds
    v_t. What feeds nothing back needs no such node: Recurrent, LuongAttention, Concat, Linear and Tanh say the same.

    cell         the first layer's: its input_size is that of x_t and of what is fed, together
    input        name of the sequence x, (B, T, I): what was emitted before, embedded; T is 1 when driven step by step
    memory       name of what is attended to, (B, Tk, K), with K = memory_size
    attention    "bahdanau", "dot", "general" or "concat" (rnncore.ops.attention), attention_size and attention_bias
                 for bahdanau and concat
    keys         name of the projected keys, (B, Tk, A), where the graph has them (a Linear of the memory, made once
                 for many calls); then the node has no weights for them. bahdanau and general only
    memory_mask  name of a bool (B, Tk) value, or of int64 lengths (B,): the steps of the memory that count
    lengths      name of an int64 (B,) value: steps of x that count. Later ones are not read, and give 0
    initial      names of the initial states, each (layers, B, size), of the cell's states in order and, if wanted,
                 of f last, (1, B, size); a State given by the caller replaces them; zeros without any

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

    stateful = True
    subgraphs = ()
    of_sizes = shaped_by = ()
    kind = "AttentionDecoder"
    directions = ("forward",)
    trained_state = False

    def __post_init__(self):
        check_name(self.name, "node")
        with naming(self):
            check_stack(self)
            check_integer(self, "memory_size", at_least=1)
            check_choice(self, "order", ("before", "after"))
            check_flag(self, "attentional_bias")
            object.__setattr__(self, "initial", name_tuple("initial", self.initial))
            check_reads(self, (self.input, self.memory), (self.keys, self.memory_mask, self.lengths))
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
        """The comparison of queries with the memory."""
        sizes = (self.cell.output_size, self.memory_size, self.attention_size)
        return Scoring(self.attention, *sizes, self.attention_bias)

    @property
    def output_size(self) -> int:
        return self.attentional_size or self.cell.output_size

    @property
    def fed_size(self) -> int:
        """Width of what is concatenated with x_t in the first layer's input."""
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

    @overload
    def state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]: ...
    @overload
    def state_shapes(self, batch: int | str) -> dict[str, tuple[int | str, ...]]: ...
    def state_shapes(self, batch: int | str) -> dict[str, Any]:
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

    def with_reads(self, renamed: Mapping[str, str]) -> AttentionDecoder:
        """The node with other values in place of those it reads; "" for an optional one that becomes absent."""
        if renamed.keys().isdisjoint(self.reads):
            return self
        return dataclasses.replace(
            self, **renamed_fields(self, ("input", "memory", "keys", "memory_mask", "lengths"), renamed)
        )

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight_ih_l0", ..., "NODE.attention.query.weight" -> shape."""
        return {**layer_shapes(self), **{f"{self.name}.{key}": shape for key, shape in self.own_shapes().items()}}

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with naming(self):
            x, memory = values[self.input], values[self.memory]
            batch, steps = x.shape[:1], memory.shape[1:2]
            check_value("input", self.input, x, ("B", "T", self.input_size))
            check_value("memory", self.memory, memory, (*batch, "Tk", self.memory_size))
            if self.keys is not None:
                check_value("keys", self.keys, values[self.keys], (*batch, *steps, self.scoring.key_size))
            if self.lengths is not None:
                check_value("lengths", self.lengths, values[self.lengths], batch, "int64")
            if self.memory_mask is not None:
                mask = values[self.memory_mask]
                expected = (*batch, *steps) if mask.dtype == "bool" else batch
                check_value(
                    "memory_mask", self.memory_mask, mask, expected, "bool" if mask.dtype == "bool" else "int64"
                )
            states = self.state_shapes(x.shape[0])
            for name, (key, shape) in zip(self.initial, states.items(), strict=False):
                check_value(f"initial {key}", name, values[name], shape)
            sizes = {"": self.output_size, ".context": self.memory_size, ".weights": memory.shape[1]}
            outputs = {self.name + ending: Value("float", (*x.shape[:2], size)) for ending, size in sizes.items()}
            return {**outputs, **{f"{self.name}.{key}": Value("float", shape) for key, shape in states.items()}}

    @property
    def op(self) -> str:
        """The op, as JSON and messages have it."""
        return self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the node's values."""
        states = (f"{self.name}.{key}" for key in self.state_shapes("B"))
        return (self.name, f"{self.name}.context", f"{self.name}.weights", *states)

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """The names of the values that have steps."""
        return self.names[:3]

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
        """Its object in JSON, without the fields that are at their defaults."""
        return stack_to_json(self)

    @property
    def layer_count(self) -> int:
        """The number of layers, each direction on its own."""
        return self.layers * len(self.directions)

    def weight_dtypes(self) -> dict[str, str]:
        """The dtypes of the weights that are not "float": none."""
        return {}

    @classmethod
    def from_json(cls, given: Mapping[str, Any], read_branch: Callable[[Any], Any] | None = None) -> AttentionDecoder:
        """From its object in JSON; SpecError for keys that are missing or unknown."""
        return stack_from_json(cls, given)
