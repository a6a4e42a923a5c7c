"""Control: If, Loop and Scan, whose branches are networks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rnncore.cells.base import check_choice, check_integer
from rnncore.errors import SpecError, shown
from rnncore.graph.limits import MAX_NESTING
from rnncore.graph.nodes.fields import as_tuple, check_keys, check_name, check_value, list_of, name_tuple, naming
from rnncore.graph.nodes.network import Network
from rnncore.ops import UNKNOWN, Value, schema
from rnncore.ops.dimensions import Dimension

__all__ = ["BRANCHES", "Control"]

BRANCHES = {"If": ("then", "else"), "Loop": ("body",), "Scan": ("body",)}
"""The labels of the branches of each Control op."""


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
    branches: tuple[Network, ...]
    captures: tuple[str, ...] = ()
    sequences: int = 0
    axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    backward: tuple[bool, ...] = ()
    output_backward: tuple[bool, ...] = ()

    kind = "Control"
    stateful = False
    layer_count = 1
    sequence_names = ()
    optional_reads = ()
    of_sizes = shaped_by = ()

    def __post_init__(self):
        check_name(self.name, "node")
        with naming(self):
            for field in dataclasses.fields(self)[2:]:
                if field.name != "sequences":
                    object.__setattr__(self, field.name, as_tuple(field.name, getattr(self, field.name)))
            for name in ("inputs", "captures"):
                name_tuple(name, getattr(self, name))
            check_choice(self, "op", tuple(BRANCHES))
            if len(self.branches) != len(BRANCHES[self.op]) or not all(isinstance(b, Network) for b in self.branches):
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
    def subgraphs(self) -> tuple[tuple[str, Network], ...]:
        """The branches with their labels."""
        return tuple(zip(BRANCHES[self.op], self.branches, strict=True))

    @property
    def scans(self) -> bool:
        """Whether the body runs once for each step of sequences."""
        return self.op == "Scan"

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
        for label, branch in self.subgraphs:
            free = branch.inputs[self._fixed :]
            missing = [entry for entry in free if entry.name not in self.captures and not entry.optional]
            if missing or len(branch.inputs) < self._fixed:
                names = ", ".join(entry.name for entry in branch.inputs)
                raise SpecError(f"{label} has the inputs {names}, expected {self._fixed} and then captures")
        outputs = {len(branch.outputs) for branch in self.branches}
        least = {"If": 1, "Loop": 1 + self.carried, "Scan": self.carried}[self.op]
        if len(outputs) > 1 or min(outputs) < least:
            counts = " and ".join(str(len(branch.outputs)) for branch in self.branches)
            raise SpecError(
                f"{counts} outputs, expected {'the same number' if len(outputs) > 1 else f'at least {least}'}"
            )
        collected = len(self.branches[0].outputs) - least if self.op == "Scan" else 0
        for field, count in (("axes", self.sequences), ("backward", self.sequences)):
            self._check_count(field, count)
            self._check_count(f"output_{field}", collected)

    def _check_count(self, field: str, count: int) -> None:
        kind = bool if field.endswith("backward") else int
        values = getattr(self, field)
        plain = all(type(value) is kind and abs(value) <= schema.MAX_RANK for value in values)
        if values and (len(values) != count or not plain):
            raise SpecError(f"{field}={shown(list(values))}, expected {count} of {kind.__name__}")

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

    def with_reads(self, renamed: Mapping[str, str]) -> Control:
        """The node with other values in place of those it reads."""
        if renamed.keys().isdisjoint(self.reads):
            return self
        return dataclasses.replace(self, inputs=tuple(renamed.get(name, name) for name in self.inputs))

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """None: where positions meet is decided by its branches."""
        return []

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights of the nodes inside: "NODE.body.linear.weight" -> shape."""
        return self._of_branches("weight_shapes")

    def weight_dtypes(self) -> dict[str, str]:
        """The dtypes of those weights that are not "float"."""
        return self._of_branches("weight_dtypes")

    def _of_branches(self, weights: str) -> dict[str, Any]:
        """The result of one of a Spec's methods for every branch, under the names that the weights have here."""
        results = ((label, getattr(branch, weights)()) for label, branch in self.subgraphs)
        return {f"{self.name}.{label}.{key}": value for label, of in results for key, value in of.items()}

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        with naming(self):
            given: list[Any] = [values.get(name) for name in self.inputs]
            captured = dict(zip(self.captures, given[self.own :], strict=True))
            for label, branch in self.subgraphs:
                for entry in branch.inputs[self._fixed :]:
                    if entry.name not in captured:
                        continue  # an optional one
                    check_value(f"{label}'s input", entry.name, captured[entry.name], entry.shape, entry.dtype)
            infer: dict[str, Callable[[list[Any]], list[Value]]]
            infer = {"If": self._infer_if, "Loop": self._infer_loop, "Scan": self._infer_scan}
            outputs = infer[self.op](given)
            return dict(zip(self.names, outputs, strict=True))

    def _infer_if(self, given: list[Value]) -> list[Value]:
        if given[0].dtype != "bool":
            raise SpecError(f"condition is {given[0]}, expected bool")
        sides = [_outputs(branch, _outer_sizes(branch.inputs, given[1:])) for branch in self.branches]
        return [_either(then, other, "then", "else") for then, other in zip(*sides, strict=True)]

    def _infer_loop(self, given: list[Any]) -> list[Value]:
        body = self.branches[0]
        for what, value, dtype in (("trip count", given[0], "int64"), ("condition", given[1], "bool")):
            if value is not None and (value.dtype != dtype or value.shape not in ((), (1,))):
                raise SpecError(f"{what} is {value}, expected {dtype} ()")
        self._check_carried(body, 2, given[2 : self.own])
        names = _outer_sizes(body.inputs[2:], given[2:])
        outputs = _outputs(body, _kept(names, body, 2, body.outputs[1 : 1 + self.carried]))
        pairs = zip(given[2 : self.own], outputs[1:], strict=False)
        carried = [_either(a, b, "before", "after") for a, b in pairs]
        return [*carried, *(Value(v.dtype, (UNKNOWN, *v.shape)) for v in outputs[1 + self.carried :])]

    def _infer_scan(self, given: list[Value]) -> list[Value]:
        body = self.branches[0]
        self._check_carried(body, 0, given[: self.carried])
        steps: int | str = UNKNOWN
        read = list(given[: self.carried])
        for place, value in enumerate(given[self.carried : self.own]):
            axis = self.axes[place] if self.axes else 0
            rank = len(value.shape)
            if not -rank <= axis < rank:
                raise SpecError(f"axis {axis} of a sequence {value}, expected {-rank} to {rank - 1}")
            shape = list(value.shape)
            steps = shape.pop(axis % rank)
            entry = body.inputs[self.carried + place]
            read.append(Value(value.dtype, tuple(shape)))
            check_value("body's input", entry.name, read[-1], entry.shape, entry.dtype)
        names = _outer_sizes(body.inputs, [*read, *given[self.own :]])
        outputs = _outputs(body, _kept(names, body, 0, body.outputs[: self.carried]))
        pairs = zip(given[: self.carried], outputs[: self.carried], strict=True)
        values = [_either(a, b, "before", "after") for a, b in pairs]
        for place, value in enumerate(outputs[self.carried :]):
            axis = self.output_axes[place] if self.output_axes else 0
            rank = len(value.shape) + 1
            if not -rank <= axis < rank:
                raise SpecError(f"output axis {axis} for {value} of each step, expected {-rank} to {rank - 1}")
            shape = list(value.shape)
            shape.insert(axis % rank, steps)
            values.append(Value(value.dtype, tuple(shape)))
        return values

    def _check_carried(self, body: Network, first: int, given: Iterable[Value]) -> None:
        for entry, value in zip(body.inputs[first:], given, strict=False):
            check_value("body's input", entry.name, value, entry.shape, entry.dtype)

    def to_json(self) -> dict[str, Any]:
        """Its object in JSON, without the fields that are at their defaults."""
        fields: dict[str, Any] = {"name": self.name, "op": self.op}
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if field.name == "branches":
                fields["branches"] = [branch.to_json() for branch in value]
            elif value != field.default:
                fields[field.name] = list(value) if isinstance(value, tuple) else value
        return fields

    @classmethod
    def from_json(cls, given: Mapping[str, Any], read_branch: Callable[[Any], Any] | None = None) -> Control:
        """From its object in JSON, whose branches ``read_branch`` reads; SpecError for missing or unknown keys."""
        what = f"node {shown(given.get('name'))}"
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        required = {name for name, default in fields.items() if default is dataclasses.MISSING}
        check_keys(given, what, required, set(fields))
        values: dict[str, Any] = {
            key: list_of(given, key, what) if isinstance(fields[key], tuple) else given[key] for key in given
        }
        values["inputs"] = list_of(given, "inputs", what)
        values["branches"] = [cast(Any, read_branch)(branch) for branch in list_of(given, "branches", what)]
        return cls(**values)


def _nesting(node: Any) -> int:
    inner = [other for branch in node.branches for other in branch.nodes if other.subgraphs]
    return 1 + max((_nesting(other) for other in inner), default=0)


def _outer_sizes(inputs: Iterable[Any], given: Iterable[Value | None]) -> dict[str, int | str]:
    """For each name of a size in a branch's inputs, the size of the value that is given; UNKNOWN where two differ."""
    sizes: dict[str, int | str] = {}
    for entry, value in zip(inputs, given, strict=False):
        for name, size in zip(entry.shape, value.shape if value is not None else (), strict=False):
            if isinstance(name, str):
                sizes[name] = size if sizes.get(name, size) == size else UNKNOWN
    return sizes


def _kept(names: dict[str, int | str], body: Network, first: int, outputs: Iterable[str]) -> dict[str, int | str]:
    """The sizes that are the same in every turn: those of a carried value that has others afterwards are UNKNOWN."""
    for entry, output in zip(body.inputs[first:], outputs, strict=False):
        pairs = zip(entry.shape, body.values[output].shape, strict=False)
        names = {**names, **{before: UNKNOWN for before, after in pairs if isinstance(before, str) and before != after}}
    return names


def _outputs(branch: Network, names: Mapping[str, int | str]) -> list[Value]:
    """The Values of a branch's outputs, in the names of sizes of the graph around it."""

    def outer(size: int | str) -> int | str:
        if not isinstance(size, str) or size in names:
            return cast(Any, names).get(size, size)
        return size if all(names.get(name, UNKNOWN) == name for name in re.findall(r"[^\W\d]\w*", size)) else UNKNOWN

    values = [branch.values[name] for name in branch.outputs]
    return [Value(value.dtype, tuple(map(outer, value.shape))) for value in values]


def _either(a: Value, b: Value, first: str, second: str) -> Value:
    """The Value of one of two: sizes that both have."""
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        raise SpecError(f"a value is {a} {first} and {b} {second}, expected one dtype and rank")
    return Value(a.dtype, tuple(p if p == q else UNKNOWN for p, q in zip(a.shape, b.shape, strict=True)))
