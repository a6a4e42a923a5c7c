"""Ops that pick out, put in, order and find elements, under their ONNX names.

Indices are int32 or int64 and may be negative, counted from the end; one beyond its axis is an InputError.
"""

from __future__ import annotations

from operator import itemgetter, methodcaller
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.ops import blocks, sizes
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, axis_of, given, has, known
from rnncore.ops.checks import NUMBERS, merge, need, need_scalar, single
from rnncore.ops.dimensions import Dimension, carried, kept
from rnncore.ops.ends import GATHER
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Axis, Choice, Flag, Integer, Integers, Number

__all__ = ["OPS"]

INDICES = ("int32", "int64")


# --- Gather and Scatter --------------------------------------------------------------------------------------------


def _gather_infer(attributes, values):
    """indices: a number, which takes its axis away, or any array of them, whose axes take its place."""
    x = values[0]
    axis = axis_of(attributes["axis"], len(x.shape))
    if not has(attributes, "indices", values, 1):
        raise SpecError("indices missing, expected them as an attribute or an input")
    as_input = attributes["indices"] is None
    known_indices = None if as_input and len(values[1].shape) > 1 else known(attributes, "indices", values, 1)
    if not as_input:
        indices = known_indices if isinstance(known_indices, tuple) else (known_indices,)
        _check_indices(indices, x.shape[axis])
        shape = (len(indices),) if isinstance(known_indices, tuple) else ()
    else:
        need(values[1], INDICES, "indices")
        shape = values[1].shape
    return [Value(x.dtype, (*x.shape[:axis], *shape, *x.shape[axis + 1 :]), _gather_data(x, known_indices))]


def _gather_dimensions(attributes, inputs, outputs):
    """The axes of the indices take the place of the one they index."""
    rank = len(inputs[0].shape)
    axis = attributes["axis"] % rank
    new = len(outputs[0].shape) - rank + 1
    dimensions = carried(None if i == axis else i + (new - 1) * (i > axis) for i in range(rank))
    if attributes["indices"] is None:
        dimensions += [Dimension({1: i}, {0: axis + i}) for i in range(new)]
    return dimensions


def _check_indices(indices, size):
    limit = size if isinstance(size, int) else 1 << 31
    wrong = [index for index in indices if not -limit <= index < limit]
    if wrong:
        raise SpecError(f"indices={wrong[0]}, expected integers from {-limit} to {limit - 1}")


def _gather_data(x, indices):
    """The data of what is taken from a list whose content is known at places that are known."""
    places = indices if isinstance(indices, tuple) else (indices,)
    if x.data is None or len(x.shape) != 1 or None in places or any(isinstance(place, str) for place in places):
        return None
    _check_indices(places, len(x.data))
    return tuple(x.data[place] for place in places)


def _gather(attributes, weights, *arrays):
    x, axis = arrays[0], attributes["axis"]
    indices = arrays[1] if attributes["indices"] is None else attributes["indices"]
    if isinstance(indices, int):
        place: list[Any] = [slice(None)] * x.ndim  # a view, where numpy.take copies
        place[axis] = indices
        return x[tuple(place)]
    return np.take(x, indices, axis=axis)


def _gather_bound(attributes, values, floating):
    indices, axis = attributes["indices"], attributes["axis"]
    if indices is None or len(values) > 1:
        return None
    if isinstance(indices, int):
        return itemgetter((slice(None),) * (axis % len(values[0].shape)) + (indices,))  # a view
    return methodcaller("take", np.array(indices, np.intp), axis)


def _same_rank(x, indices):
    need(indices, INDICES, "indices")
    if len(indices.shape) != len(x.shape) or not x.shape:
        raise SpecError(f"indices are {indices} for {x}, expected the same number of dimensions, at least 1")


def _elements_infer(attributes, values):
    x, indices = values
    _same_rank(x, indices)
    axis = axis_of(attributes["axis"], len(x.shape))
    _check_inside(x, indices, axis)
    return [Value(x.dtype, indices.shape)]


def _elements_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    axis = attributes["axis"] % rank
    both = [Dimension({0: i, 1: i}, {0: i}) for i in range(rank) if i != axis]
    return [*both, Dimension({1: axis}, {0: axis})]


def _check_inside(x, indices, axis):
    for i, (size, count) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if i != axis and isinstance(size, int) and isinstance(count, int) and count > size:
            raise SpecError(f"indices are {indices} for {x}, expected at most {size} at axis {i}")


def _along(x, indices, axis):
    """For each element of the indices its place in x: an index for every axis."""
    axis %= x.ndim
    if any(n > size for i, (n, size) in enumerate(zip(indices.shape, x.shape, strict=True)) if i != axis):
        raise InputError(f"indices of shape {indices.shape} reach beyond {x.shape} outside axis {axis}")
    place = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    place[axis] = indices
    return tuple(place)


def _gather_elements(attributes, weights, x, indices):
    return x[_along(x, indices, attributes["axis"])]


def _tuple_size(x, indices, batch):
    """Length of the index tuples along the last axis of the indices."""
    if not indices.shape or not isinstance(indices.shape[-1], int):
        raise SpecError(f"indices are {indices}, expected a last dimension of known size")
    size = indices.shape[-1]
    if not 1 <= size <= len(x.shape) - batch:
        raise SpecError(f"indices are {indices} for {x}, expected a last dimension from 1 to {len(x.shape) - batch}")
    return size


def _gather_nd_infer(attributes, values):
    x, indices = values
    need(indices, INDICES, "indices")
    batch = attributes["batch_dims"]
    limit = min(len(x.shape), len(indices.shape))
    if not 0 <= batch < limit:
        raise SpecError(f"batch_dims={batch!r} for {x} and indices {indices}, expected 0 to {limit - 1}")
    size = _tuple_size(x, indices, batch)
    rows = tuple(merge(x.shape[i], indices.shape[i], f"data and indices at axis {i}") for i in range(batch))
    return [Value(x.dtype, (*rows, *indices.shape[batch:-1], *x.shape[batch + size :]))]


def _gather_nd(attributes, weights, x, indices):
    batch = attributes["batch_dims"]
    if x.shape[:batch] != indices.shape[:batch]:
        raise InputError(f"data {x.shape} and indices {indices.shape}, expected the same first {batch} sizes")
    free = indices.ndim - 1 - batch
    rows = np.ogrid[tuple(slice(size) for size in x.shape[:batch])] if batch else ()
    place = [row.reshape(row.shape + (1,) * free) for row in rows]
    return x[(*place, *np.moveaxis(indices, -1, 0))]


def _gather_nd_dimensions(attributes, inputs, outputs):
    x, indices = inputs
    batch, size, free = attributes["batch_dims"], indices.shape[-1], len(indices.shape) - 1
    return [
        *(Dimension({0: i, 1: i}, {0: i}) for i in range(batch)),
        *(Dimension({1: i}, {0: i}) for i in range(batch, free)),
        *(Dimension({0: i}, {0: i - batch - size + free}) for i in range(batch + size, len(x.shape))),
    ]


REDUCTIONS = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def _scatter(attributes, x, place, updates):
    """A copy of x with the updates at their places, one after the other."""
    y = np.array(x)
    if attributes["reduction"] == "none":
        y[place] = updates
    else:
        REDUCTIONS[attributes["reduction"]].at(y, place, updates)
    return y


def _check_updates(attributes, x, updates):
    need(updates, (x.dtype,), "updates")
    if attributes["reduction"] != "none":
        need(x, NUMBERS, f"data with reduction={attributes['reduction']!r}")


def _need_shape(updates, shape):
    if len(updates.shape) != len(shape) or not all(map(sizes.fits, updates.shape, shape)):
        raise SpecError(f"updates are {updates}, expected ({', '.join(map(str, shape))})")


def _scatter_elements_infer(attributes, values):
    x, indices, updates = values
    _same_rank(x, indices)
    _check_updates(attributes, x, updates)
    _check_inside(x, indices, axis_of(attributes["axis"], len(x.shape)))
    _need_shape(updates, indices.shape)
    return [x.without_data]


def _scatter_elements_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    axis = attributes["axis"] % rank
    return [Dimension({0: i, 1: i, 2: i}, {0: i}) for i in range(rank) if i != axis]


def _scatter_elements(attributes, weights, x, indices, updates):
    if updates.shape != indices.shape:
        raise InputError(f"updates of shape {updates.shape}, expected that of the indices, {indices.shape}")
    return _scatter(attributes, x, _along(x, indices, attributes["axis"]), updates)


def _scatter_nd_infer(attributes, values):
    x, indices, updates = values
    need(indices, INDICES, "indices")
    _check_updates(attributes, x, updates)
    size = _tuple_size(x, indices, 0)
    _need_shape(updates, (*indices.shape[:-1], *x.shape[size:]))
    return [x.without_data]


def _scatter_nd_dimensions(attributes, inputs, outputs):
    x, indices, updates = inputs
    first = indices.shape[-1]
    added = len(updates.shape) - len(x.shape)
    return [Dimension({0: i, 2: added + i}, {0: i}) for i in range(first, len(x.shape))]


def _scatter_nd(attributes, weights, x, indices, updates):
    expected = indices.shape[:-1] + x.shape[indices.shape[-1] :]
    if updates.shape != expected:
        raise InputError(f"updates of shape {updates.shape}, expected {expected}")
    return _scatter(attributes, x, tuple(np.moveaxis(indices, -1, 0)), updates)


# --- OneHot, NonZero, Compress -------------------------------------------------------------------------------------


def _one_hot_infer(attributes, values):
    indices, depth, pair = values
    need(indices, NUMBERS, "indices")
    need(pair, DTYPES, "values", rank=1)
    if not sizes.fits(pair.shape[0], 2):
        raise SpecError(f"values are {pair}, expected 2: off and on")
    if not has(attributes, "depth", values, 1):
        raise SpecError("depth missing, expected it as an attribute or an input")
    known_depth = single(known(attributes, "depth", values, 1))
    if depth is not None:
        need_scalar(depth, NUMBERS, "depth")
    known_depth = int(known_depth) if isinstance(known_depth, float) and known_depth.is_integer() else known_depth
    size = UNKNOWN if known_depth is None else known_depth
    if not isinstance(size, str) and not (type(size) is int and 1 <= size <= MAX_SIZE):
        raise SpecError(f"depth={size!r}, expected a positive integer")
    shape = list(indices.shape)
    shape.insert(axis_of(attributes["axis"], len(shape) + 1), size)
    return [Value(pair.dtype, tuple(shape))]


def _one_hot(attributes, weights, indices, depth, pair):
    """Off everywhere where an index is not in [-depth, depth)."""
    depth = int(single(attributes["depth"]) if depth is None else depth.reshape(()))
    axis = attributes["axis"] % (indices.ndim + 1)
    indices = np.expand_dims(indices.astype(np.int64, copy=False), axis)
    places = np.arange(depth).reshape((-1,) + (1,) * (indices.ndim - 1 - axis))
    return np.where((indices == places) | (indices + depth == places), pair[1], pair[0])


def _one_hot_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    new = attributes["axis"] % (rank + 1)
    return carried(axis + (axis >= new) for axis in range(rank))


def _nonzero_infer(attributes, values):
    return [Value("int64", (len(values[0].shape), UNKNOWN))]


def _nonzero(attributes, weights, x):
    """The places of what is not 0, row by row: (rank, count)."""
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1) if x.ndim else np.zeros((0, int(bool(x))), np.int64)


def _compress_infer(attributes, values):
    x, condition = values
    need(condition, ("bool",), "condition", rank=1)
    if attributes["axis"] is None:
        return [Value(x.dtype, (UNKNOWN,))]
    axis = axis_of(attributes["axis"], len(x.shape))
    return [Value(x.dtype, (*x.shape[:axis], UNKNOWN, *x.shape[axis + 1 :]))]


def _compress(attributes, weights, x, condition):
    return np.compress(condition, x, axis=attributes["axis"])


def _compress_dimensions(attributes, inputs, outputs):
    return [] if attributes["axis"] is None else ALONG(attributes, inputs, outputs)


# --- order ---------------------------------------------------------------------------------------------------------


def _top_k_infer(attributes, values):
    x = values[0]
    need(x, NUMBERS)
    axis = axis_of(attributes["axis"], len(x.shape))
    if not has(attributes, "k", values, 1):
        raise SpecError("k missing, expected it as an attribute or an input")
    k = single(known(attributes, "k", values, 1))
    if attributes["k"] is None:
        need_scalar(values[1], ("int64",), "k")
    if k is not None and not isinstance(k, str) and (type(k) is not int or k < 0):
        raise SpecError(f"k={k!r}, expected an integer of at least 0")
    if isinstance(k, int) and isinstance(x.shape[axis], int) and k > x.shape[axis]:
        raise SpecError(f"k={k} for {x}, expected at most {x.shape[axis]}")
    shape = (*x.shape[:axis], UNKNOWN if k is None else k, *x.shape[axis + 1 :])
    return [Value(x.dtype, shape), Value("int64", shape)]


def _top_k(attributes, weights, *arrays):
    """In order whatever ``sorted`` says; of equal ones the first come first, NaN counts as the largest."""
    x, axis = arrays[0], attributes["axis"]
    k = single(given("k", attributes, arrays, 1))
    if not 0 <= k <= x.shape[axis]:
        raise InputError(f"k={k} for an input of shape {x.shape}, expected 0 to {x.shape[axis]}")
    last = axis in (-1, x.ndim - 1)
    rows = x if last else np.moveaxis(x, axis, -1)
    largest, order = blocks.along(lambda part: _first_k(part, k, attributes["largest"]), rows, (-1,), cost=16)
    return (largest, order) if last else (np.moveaxis(largest, -1, axis), np.moveaxis(order, -1, axis))


FEW = 8
"""Where no more than one in this number is asked for, the others need not be sorted."""


def _first_k(rows, k, largest):
    """The k largest or smallest of each row in order, and their places."""
    order = _places_of_k(rows, k, largest)
    return np.take_along_axis(rows, order, -1), order


def _places_of_k(rows, k, largest):
    if FEW * k < rows.shape[-1] and not (rows.dtype.kind == "f" and np.isnan(rows).any()):
        some = _best(rows, k, largest)
        return np.take_along_axis(some, _sorted(np.take_along_axis(rows, some, -1), largest), -1)
    return _sorted(rows, largest)[..., :k]


def _sorted(rows, largest):
    if not largest:
        return rows.argsort(axis=-1, kind="stable").astype(np.int64, copy=False)
    last = rows.shape[-1] - 1  # turned round twice, so that of equal ones the first still come first
    return (last - rows[..., ::-1].argsort(axis=-1, kind="stable")[..., ::-1]).astype(np.int64, copy=False)


def _best(rows, k, largest):
    """The places of the k best of each row, in the order of places: those beyond the k-th, and its equals in front."""
    if k == 0:
        return np.zeros((*rows.shape[:-1], 0), np.int64)
    place = rows.shape[-1] - k if largest else k - 1
    bound = np.partition(rows, place, axis=-1)[..., place, None]
    better = rows > bound if largest else rows < bound
    equal = rows == bound
    missing = k - better.sum(axis=-1, keepdims=True)
    equal &= equal.cumsum(axis=-1) <= missing
    return np.nonzero(better | equal)[-1].reshape(*rows.shape[:-1], k)


def _arg_infer(attributes, values):
    x = values[0]
    need(x, NUMBERS)
    axis = axis_of(attributes["axis"], len(x.shape))
    kept = (1,) if attributes["keepdims"] else ()
    if x.shape[axis] == 0:
        raise SpecError(f"input is {x}, expected something at axis {axis}")
    return [Value("int64", (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))]


def _arg_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    axis = attributes["axis"] % rank
    gone = not attributes["keepdims"]
    return carried(None if i == axis else i - (gone and i > axis) for i in range(rank))


def _arg(function):
    def run(attributes, weights, x):
        """The place of the first extreme element of an axis, or of the last."""
        axis, keepdims = attributes["axis"], bool(attributes["keepdims"])
        if not attributes["select_last_index"]:
            return np.asarray(function(x, axis=axis, keepdims=keepdims), np.int64)
        return np.asarray(x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=keepdims), np.int64)

    return run


def _unique_infer(attributes, values):
    x = values[0]
    one = Value("int64", (UNKNOWN,))
    if attributes["axis"] is None:
        return [Value(x.dtype, (UNKNOWN,)), one, Value("int64", (sizes.multiply(1, *x.shape),)), one]
    axis = axis_of(attributes["axis"], len(x.shape))
    shape = (*x.shape[:axis], UNKNOWN, *x.shape[axis + 1 :])
    return [Value(x.dtype, shape), one, Value("int64", (x.shape[axis],)), one]


def _unique(attributes, weights, x):
    """The values that occur, sorted or in order of first occurrence; where first, where each went, and how often."""
    axis = attributes["axis"]
    y, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not attributes["sorted"]:
        order = np.argsort(first)
        y, first, counts = np.take(y, order, axis=axis), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return (y, *(array.astype(np.int64, copy=False) for array in (first, inverse, counts)))


ALONG = kept(lambda attributes, rank: (attributes["axis"] % rank,))
ARG = {"axis": Axis(0), "keepdims": Flag(True), "select_last_index": Flag(False)}
REDUCTION = Choice("none", among=("none", *REDUCTIONS))

OPS = [
    Op(
        "Gather",
        _gather_infer,
        _gather,
        _gather_dimensions,
        arity=(1, 2),
        schema={"indices": Integers(None, position=1, single=True), "axis": Axis(0)},
        bound=_gather_bound,
        ends=GATHER,
    ),
    Op(
        "GatherElements",
        _elements_infer,
        _gather_elements,
        _elements_dimensions,
        arity=(2, 2),
        schema={"axis": Axis(0)},
    ),
    Op(
        "GatherND",
        _gather_nd_infer,
        _gather_nd,
        _gather_nd_dimensions,
        arity=(2, 2),
        schema={"batch_dims": Integer(0, least=0, most=MAX_RANK)},
    ),
    Op(
        "ScatterElements",
        _scatter_elements_infer,
        _scatter_elements,
        _scatter_elements_dimensions,
        arity=(3, 3),
        schema={"axis": Axis(0), "reduction": REDUCTION},
    ),
    Op(
        "ScatterND",
        _scatter_nd_infer,
        _scatter_nd,
        _scatter_nd_dimensions,
        arity=(3, 3),
        schema={"reduction": REDUCTION},
    ),
    Op(
        "OneHot",
        _one_hot_infer,
        _one_hot,
        _one_hot_dimensions,
        arity=(3, 3),
        schema={"depth": Number(None, position=1), "axis": Axis(-1)},
    ),
    Op(
        "NonZero",
        _nonzero_infer,
        _nonzero,
    ),
    Op(
        "Compress",
        _compress_infer,
        _compress,
        _compress_dimensions,
        arity=(2, 2),
        schema={"axis": Axis(None)},
    ),
    Op(
        "TopK",
        _top_k_infer,
        _top_k,
        ALONG,
        arity=(1, 2),
        schema={
            "k": Integer(None, position=1, least=0),
            "axis": Axis(-1),
            "largest": Flag(True),
            "sorted": Flag(True),
        },
        outputs=("", "indices"),
    ),
    Op("ArgMax", _arg_infer, _arg(np.argmax), _arg_dimensions, schema=ARG),
    Op("ArgMin", _arg_infer, _arg(np.argmin), _arg_dimensions, schema=ARG),
    Op(
        "Unique",
        _unique_infer,
        _unique,
        schema={"axis": Axis(None), "sorted": Flag(True)},
        outputs=("", "indices", "inverse_indices", "counts"),
    ),
]
