"""Ops that only move what is there, under their ONNX names; what ONNX passes as constant inputs is an attribute.

Squeeze is in ops/logic.py.
"""

from __future__ import annotations

import math

from rnncore.errors import InputError, SpecError
from rnncore.ops.base import Op, Value, axis_of

__all__ = ["OPS"]


def _unsqueeze_infer(attributes, values):
    shape = list(values[0].shape)
    shape.insert(axis_of(attributes["axis"], len(shape) + 1), 1)
    return [Value(values[0].dtype, tuple(shape))]


def _unsqueeze(attributes, weights, x):
    """A new axis of size 1; axis counts in the output."""
    axis = axis_of(attributes["axis"], x.ndim + 1)
    return x.reshape(*x.shape[:axis], 1, *x.shape[axis:])


def _transpose_infer(attributes, values):
    shape, perm = values[0].shape, attributes["perm"]
    plain = isinstance(perm, tuple) and all(type(axis) is int for axis in perm)
    if not plain or sorted(perm) != list(range(len(shape))):
        expected = f"the axes 0 to {len(shape) - 1}, each once"
        raise SpecError(f"perm={perm!r} for {values[0]}, expected {expected}")
    return [Value(values[0].dtype, tuple(shape[axis] for axis in perm))]


def _reshape_infer(attributes, values):
    """Sizes of ``shape``: a positive number; 0 for the input's size at that place; -1, once, for what is left."""
    found, wanted = values[0].shape, attributes["shape"]
    plain = isinstance(wanted, tuple) and all(type(size) is int and -1 <= size <= 1 << 31 for size in wanted)
    if not plain or wanted.count(-1) > 1 or 0 in wanted[len(found) :]:
        raise SpecError(f"shape={wanted!r} for {values[0]}, expected positive sizes, 0 (as it is) and at most one -1")
    sizes = [found[place] if size == 0 else size for place, size in enumerate(wanted)]
    left = [size for place, size in enumerate(found) if place >= len(wanted) or wanted[place] != 0]
    given = math.prod(size for size in wanted if size > 0)
    names = [size for size in left if isinstance(size, str)]
    total = math.prod(size for size in left if isinstance(size, int))
    if -1 in wanted:
        fits = bool(names) or total % given == 0
        rest = total // given if not names else "*".join(map(str, (*names, *((total,) if total > 1 else ()))))
        sizes[wanted.index(-1)] = rest if given == 1 or not names else f"{rest}/{given}"
    else:
        fits = bool(names) or total == given
    if not fits:
        raise SpecError(f"shape={list(wanted)} does not fit {values[0]}")
    return [Value(values[0].dtype, tuple(sizes))]


def _reshape(attributes, weights, x):
    wanted = attributes["shape"]
    sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    given = math.prod(size for size in sizes if size >= 0)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.size // given if given else 0
    if math.prod(sizes) != x.size:
        raise InputError(f"input of shape {x.shape} does not fit shape={list(wanted)}")
    return x.reshape(sizes)


OPS = [
    Op("Unsqueeze", _unsqueeze_infer, _unsqueeze, attributes={"axis": ...}),
    Op("Transpose", _transpose_infer, lambda a, w, x: x.transpose(a["perm"]), attributes={"perm": ...}),
    Op("Reshape", _reshape_infer, _reshape, time="whole", attributes={"shape": ...}),
]
