"""Common parts of the nodes that are stacks of recurrent layers: their layers' weights, checks and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rnncore.cells import CELLS, Cell, check_cell
from rnncore.cells.base import check_integer
from rnncore.errors import SpecError, shown
from rnncore.graph.limits import MAX_LAYERS
from rnncore.graph.nodes.fields import check_keys, list_of

if TYPE_CHECKING:
    from rnncore.graph.nodes.attention_decoder import AttentionDecoder
    from rnncore.graph.nodes.recurrent import Recurrent

__all__ = ["check_stack", "layer_shapes", "renamed_fields", "stack_from_json", "stack_to_json"]


def layer_shapes(node: Recurrent | AttentionDecoder) -> dict[str, tuple[int, ...]]:
    """The weights of every layer and direction: "NODE.weight_ih_l0" -> shape."""
    shapes = {}
    for layer in range(node.layers):
        for direction in node.directions:
            suffix = node.suffix(layer, direction)
            for key, shape in node.layer_cell(layer, direction).weight_shapes().items():
                shapes[f"{node.name}.{key}{suffix}"] = shape
    return shapes


def renamed_fields(
    node: Recurrent | AttentionDecoder, single: Sequence[str], renamed: Mapping[str, str]
) -> dict[str, Any]:
    """The fields that hold names of values, with others in place of those: for dataclasses.replace.

    single  the fields with one name; None where it becomes ""
    """
    given = {field: getattr(node, field) for field in single}
    fields: dict[str, Any] = {field: renamed[name] or None for field, name in given.items() if name in renamed}
    return {**fields, "initial": tuple(renamed.get(name, name) for name in node.initial)}


def stack_to_json(node: Recurrent | AttentionDecoder) -> dict[str, Any]:
    """Every field that has no default or differs from it."""
    fields: dict[str, Any] = {"name": node.name, "op": node.op}
    for field in dataclasses.fields(node)[1:]:
        value = getattr(node, field.name)
        if value != field.default:
            fields[field.name] = value.to_json() if isinstance(value, Cell) else value
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def stack_from_json(kind: type, given: Mapping[str, Any]) -> Any:
    """A node of this kind from its object in JSON; SpecError for keys that are missing or unknown."""
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    what = f"node {shown(given.get('name'))}"
    required = {name for name, default in fields.items() if default is dataclasses.MISSING}
    check_keys(given, what, {"op", *required}, set(fields))
    values = {key: value for key, value in given.items() if key != "op"}
    for key in ("cell", "reverse_cell"):
        if values.get(key) is not None:
            values[key] = _cell_from_json(values[key], what)
    if "initial" in values:
        values["initial"] = tuple(list_of(values, "initial", what))
    return kind(**values)


def _cell_from_json(given: Any, what: str) -> Cell:
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str) or given["kind"] not in CELLS:
        kind = given.get("kind") if isinstance(given, Mapping) else given
        raise SpecError(f"{what}: cell kind {shown(kind)} is unknown, expected one of {', '.join(CELLS)}")
    try:
        return CELLS[given["kind"]].from_json(given)
    except SpecError as error:
        raise SpecError(f"{what}: {error}") from None


def check_stack(node: Recurrent | AttentionDecoder) -> None:
    """SpecError unless the node has a cell and at least one layer."""
    check_cell(node.cell)
    check_integer(node, "layers", at_least=1)
    if node.layers > MAX_LAYERS:
        raise SpecError(f"layers={node.layers}, expected an integer from 1 to {MAX_LAYERS}")
