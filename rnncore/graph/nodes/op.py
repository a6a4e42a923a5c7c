"""Node: one op of rnncore.ops."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rnncore.errors import SpecError, shown
from rnncore.graph.nodes.fields import as_tuple, check_keys, check_name, list_of, name_tuple, named
from rnncore.ops import OPS, Value, schema
from rnncore.ops.base import no_weights
from rnncore.ops.dimensions import Dimension

__all__ = ["Node"]

_set = object.__setattr__  # of frozen objects while they are made


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

    if TYPE_CHECKING:

        def __init__(
            self, name: str, op: str, inputs: str | Iterable[str], attributes: Mapping[str, Any] | None = None
        ): ...

    stateful = False
    subgraphs = ()
    layer_count = 1
    sequence_names = ()

    def __post_init__(self):
        check_name(self.name, "node")
        op = OPS.get(self.op) if isinstance(self.op, str) else None
        if op is None:
            expected = ", ".join(sorted(OPS))
            raise SpecError(f"node {self.name!r}: op {shown(self.op)} is unknown, expected one of {expected}")
        try:
            inputs = self.inputs
            if type(inputs) is not tuple:
                inputs = (inputs,) if isinstance(inputs, str) else as_tuple("inputs", inputs)
            name_tuple("inputs", inputs)
            if not op.arity[0] <= len(inputs) <= op.arity[1]:
                count = op.arity[0] if op.arity[0] == op.arity[1] else f"{op.arity[0]} to {op.arity[1]}"
                raise SpecError(f"{len(inputs)} inputs, expected {count}")
            attributes = schema.complete(op.schema, op.attributes, op.required, self.attributes)
            names = op.names(self.name, attributes)  # of which attributes may have something to say
        except (SpecError, OverflowError) as error:
            raise named(error, self) from None
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
        return tuple(name for name in self.inputs if name and name not in required)

    def with_reads(self, renamed: Mapping[str, str]) -> Node:
        """The node with other values in place of those it reads; "" for an optional one that becomes absent."""
        if renamed.keys().isdisjoint(self.reads):
            return self
        return dataclasses.replace(self, inputs=tuple(renamed.get(name, name) for name in self.inputs))

    @property
    def of_sizes(self) -> tuple[int, ...]:
        """Places of the inputs of which only the sizes count."""
        return OPS[self.op].of_sizes

    @property
    def shaped_by(self) -> tuple[int, ...]:
        """Places of the inputs whose numbers become sizes of the outputs, and decide about nothing else."""
        return OPS[self.op].shaped_by

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight" -> shape."""
        of_op = OPS[self.op].weight_shapes
        if of_op is no_weights:
            return {}
        try:
            return {f"{self.name}.{key}": shape for key, shape in of_op(self.attributes).items()}
        except (SpecError, OverflowError) as error:
            raise named(error, self) from None

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
        """The Values of ``names`` from those that it reads; the same objects again for the same objects."""
        given, inferred = tuple(map(values.get, self.inputs)), self._inferred
        if inferred is not None and all(map(operator.is_, inferred, given)):  # which begins with what was given
            return dict(zip(self.names, cast("tuple[Value, ...]", inferred[len(given) :]), strict=True))
        op = OPS[self.op]
        try:
            op.weight_shapes(self.attributes)  # checks the sizes
            op.check_present(given)
            values_by_name = dict(zip(self.names, op.infer(self.attributes, self._given(values)), strict=True))
        except (SpecError, OverflowError) as error:
            raise named(error, self) from None
        _set(self, "_inferred", (*given, *values_by_name.values()))  # one reference: threads see all of it or nothing
        return values_by_name

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """The Dimensions that its values take over from its slots."""
        outputs = [values[name] for name in self.names]
        return OPS[self.op].dimensions(self.attributes, self._given(values), outputs)

    def _given(self, values: Mapping[str, Value]) -> list[Value | None]:
        """The Value of each input; None for those that are absent."""
        given = [values.get(name) for name in self.inputs]
        op = OPS[self.op]
        return [*given, *[None] * (op.arity[1] - len(given))] if op.optional else given

    def to_json(self) -> dict[str, Any]:
        """Its object in JSON, without the attributes that are at their defaults."""
        defaults = OPS[self.op].attributes
        attributes = {key: value for key, value in self.attributes.items() if value != defaults[key]}
        fields = {"name": self.name, "op": self.op, "inputs": list(self.inputs)}
        return {**fields, "attributes": attributes} if attributes else fields

    @classmethod
    def from_json(cls, given: Any, read_branch: Callable[[Any], Any] | None = None) -> Node:
        """From its object in JSON; SpecError for keys that are missing or unknown."""
        check_keys(given, "node", {"name", "op", "inputs"}, {"attributes"})
        attributes = given.get("attributes", {})
        if not isinstance(attributes, Mapping):
            name = shown(given["name"])
            raise SpecError(f"node {name}: attributes are {type(attributes).__name__}, expected an object")
        return cls(given["name"], given["op"], tuple(list_of(given, "inputs", "node")), attributes)
