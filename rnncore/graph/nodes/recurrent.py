"""Recurrent: a stack of recurrent layers of one cell, in one or both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from rnncore.cells import Cell
from rnncore.cells.base import check_choice, check_flag
from rnncore.errors import SpecError, shown
from rnncore.graph.nodes.fields import check_name, check_reads, check_value, name_tuple, naming
from rnncore.graph.nodes.stack import check_stack, layer_shapes, renamed_fields, stack_from_json, stack_to_json
from rnncore.ops import Value
from rnncore.ops.dimensions import CAUSAL, Dimension, Reach

__all__ = ["Recurrent"]

DIRECTIONS = ("forward", "reverse", "bidirectional")
MERGES = ("concat", "sum", "mul", "average", "separate")
LAYOUTS = ("batch_first", "time_first")
MASKED_OUTPUTS = ("repeat", "zero")
OUTPUT_ORDERS = ("time", "processing")


@dataclass(frozen=True)
class Recurrent:
    """A stack of recurrent layers of one cell.

    cell         the first layer's; deeper layers differ from it in input size only
    reverse_cell the reverse direction's, where its options differ
    input        name of the sequence value, (B, T, I), or (T, B, I) with layout="time_first"
    lengths      name of an int64 (B,) value: steps from the first that count. The optional input "lengths" is
                 declared by the Spec for every node that names it
    initial      names of the initial states' values in the order of the cell's states, each
                 (layers * directions, B, size); a State given by the caller replaces them; trained or
                 zero states without any
    trained_state  initial states are weights of the node: "NODE.initial_h", (layers * directions, size)
    merge        how two directions become one output, in every layer ("separate" only with one layer)
    mask         name of a bool (B, T) value, (T, B) with layout="time_first": True where a step counts, gaps and
                 left padding included. The optional input "mask" is declared like "lengths". A mask that is an
                 input must agree with lengths where both are given; one that the graph computes is cut by them
    masked_output  output at masked steps: "repeat" that of the valid step processed before (0 before the first one),
                 per direction, or "zero". Steps past a length are 0 without a mask
    output_order "time", or "processing" (one layer with direction="reverse"): time t is at T - 1 - t

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

    stateful = True
    subgraphs = ()
    of_sizes = shaped_by = ()
    kind = "Recurrent"

    def __post_init__(self):
        check_name(self.name, "node")
        with naming(self):
            check_stack(self)
            check_choice(self, "direction", DIRECTIONS)
            check_choice(self, "merge", MERGES)
            check_choice(self, "layout", LAYOUTS)
            check_choice(self, "masked_output", MASKED_OUTPUTS)
            check_choice(self, "output_order", OUTPUT_ORDERS)
            check_flag(self, "trained_state")
            object.__setattr__(self, "initial", name_tuple("initial", self.initial))
            check_reads(self, (self.input,), (self.lengths, self.mask))
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
            size, expected = getattr(self.reverse_cell, name), getattr(self.cell, name)
            if size != expected:
                raise SpecError(f"reverse_cell: {name}={size}, expected the forward cell's {expected}")

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
        other = self.reverse_cell if direction == "reverse" else None
        if layer:
            return self._deeper[other is not None]
        return self.cell if other is None else other

    @cached_property
    def _deeper(self) -> tuple[Cell, ...]:
        """The cells of all layers but the first: the forward one, and the reverse one where it is another."""
        cells = (self.cell,) if self.reverse_cell is None else (self.cell, self.reverse_cell)
        return tuple(cell.replace(input_size=self.output_size) for cell in cells)

    def suffix(self, layer: int, direction: str) -> str:
        """PyTorch's suffix of a layer's weights: "_l0", "_l0_reverse"."""
        return f"_l{layer}" + ("_reverse" if direction == "reverse" and self.direction == "bidirectional" else "")

    @overload
    def state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]: ...
    @overload
    def state_shapes(self, batch: int | str) -> dict[str, tuple[int | str, ...]]: ...
    def state_shapes(self, batch: int | str) -> dict[str, Any]:
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

    def with_reads(self, renamed: Mapping[str, str]) -> Recurrent:
        """The node with other values in place of those it reads; "" for an optional one that becomes absent."""
        if renamed.keys().isdisjoint(self.reads):
            return self
        return dataclasses.replace(self, **renamed_fields(self, ("input", "lengths", "mask"), renamed))

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight_ih_l0" -> shape."""
        shapes = layer_shapes(self)
        if self.trained_state:
            for key, (rows, _, size) in self.state_shapes(1).items():
                shapes[f"{self.name}.initial_{key}"] = (rows, size)
        return shapes

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with naming(self):
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
                check_value(f"initial {key}", name, values[name], shape)
            width = self.cell.output_size if self.merge == "separate" else self.output_size
            shapes: list[tuple[int | str, ...]] = [(*x.shape[:2], width)] * len(self.sequence_names)
            if self.merge != "separate":
                shapes.append((batch, self.output_size))
            shapes += self.state_shapes(batch).values()
            return {name: Value("float", shape) for name, shape in zip(self.names, shapes, strict=True)}

    @property
    def op(self) -> str:
        """The op, as JSON and messages have it."""
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
        """Rows; and steps, of which each comes after those before it, or before those after it."""
        rows, steps = (0, 1) if self.layout == "batch_first" else (1, 0)
        sequences = len(self.sequence_names)
        states = len(self.names) - len(self.cell.states)
        outputs = {place: rows if place < sequences else int(place >= states) for place in range(len(self.names))}
        initial = {3 + place: 1 for place in range(len(self.initial))}
        rows_dimension = [Dimension({0: rows, 1: 0, 2: rows, **initial}, outputs)]
        reach = {"forward": CAUSAL, "reverse": Reach(0, None)}.get(self.direction)
        if reach is None or self.output_order == "processing":
            reach = Reach(None, None)
        return [*rows_dimension, Dimension({0: steps, 2: steps}, dict.fromkeys(range(sequences), steps), reach)]

    def is_time(self, dimension: Dimension) -> bool:
        """Whether one of its Dimensions is that of the steps, in their own order."""
        return dimension.inputs[0] == (1 if self.layout == "batch_first" else 0) and self.output_order == "time"

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
    def from_json(cls, given: Mapping[str, Any], read_branch: Callable[[Any], Any] | None = None) -> Recurrent:
        """From its object in JSON; SpecError for keys that are missing or unknown."""
        return stack_from_json(cls, given)
