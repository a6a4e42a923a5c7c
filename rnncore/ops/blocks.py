"""Long calls of NumPy in parts, between which Python looks for signals: Ctrl-C is answered after a part.

A part is some ten milliseconds' work; what is no more is one call. Parts are whole rows along the axes an op looks
along, whole matrices, rows of one, or stretches of elements, so that every number is made by the same operations as in
one call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["ELEMENTS", "WORK", "along", "apply", "einsum", "matmul"]

ELEMENTS = 1 << 22
"""Elements of one part of a function of each."""

WORK = 1 << 28
"""Multiply-adds of one part of a product by BLAS; of one that NumPy makes itself, a 32nd."""

ROWS = 192
"""Rows of a part of one matrix are a multiple of this, and the last part has more: BLAS takes rows in groups, each by
the same operations, but for a few that are left over. (Where it has threads, it cuts the rows by their number itself.)
"""


def _parts(shape: Sequence[int], most: int, whole: Sequence[int] = ()) -> Iterator[tuple[slice, ...]]:
    """Indices that cut an array of this shape, but along the axes ``whole``, into parts of up to ``most`` elements.

    A part is larger only where those axes alone are.
    """
    sizes = [size if axis not in whole else 1 for axis, size in enumerate(shape)]
    step = max(1, most // math.prod(shape[axis] for axis in whole)) if all(shape) else 1
    inner, cut = 1, len(sizes)
    while cut > 0 and inner * sizes[cut - 1] <= step:
        cut -= 1
        inner *= sizes[cut]
    every = (slice(None),) * (len(sizes) - cut)
    if cut == 0:
        yield every
        return
    count = max(1, step // inner)
    for outer in itertools.product(*map(range, sizes[: cut - 1])):
        before = [slice(None) if axis in whole else slice(i, i + 1) for axis, i in enumerate(outer)]
        for first in range(0, sizes[cut - 1], count):
            yield (*before, slice(first, first + count), *every)


def _spread(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """np.broadcast_shapes for shapes of any rank, which that has not; of those that do not fit, one of the sizes."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def apply(function: Callable[..., Any], *arrays: Any, out: np.ndarray | None = None) -> Any:
    """function(*arrays) of what works element by element on arrays that spread over each other; into out where given.

    function may also give a tuple of arrays. With out it is one of NumPy's.
    """
    shape = _spread([np.shape(array) for array in arrays])
    if math.prod(shape) <= ELEMENTS:
        return function(*arrays) if out is None else function(*arrays, out=out)
    arrays = tuple(np.broadcast_to(array, shape) if np.ndim(array) else array for array in arrays)
    whole = None
    for part in _parts(shape, ELEMENTS):
        given = [array[part] if np.ndim(array) else array for array in arrays]
        if out is not None:
            function(*given, out=out[part])
        else:
            whole = _put(whole, function(*given), part, lambda made: shape)
    return out if whole is None else whole


def along(function: Callable[[np.ndarray], Any], x: np.ndarray, axes: Sequence[int], cost: int = 1) -> Any:
    """function(x), one array or a tuple, of what looks along these axes only, and keeps the rank and all others.

    cost: of an element, relative to that of a function of each.
    """
    most = ELEMENTS // cost
    if x.size <= most:
        return function(x)
    axes = [axis % x.ndim for axis in axes]

    def shape(made):
        return tuple(made.shape[axis] if axis in axes else size for axis, size in enumerate(x.shape))

    whole = None
    for part in _parts(x.shape, most, axes):
        whole = _put(whole, function(x[part]), part, shape)
    return whole


def _put(whole: Any, made: Any, part: tuple[slice, ...], shape: Callable[[np.ndarray], tuple[int, ...]]) -> Any:
    """The result so far, with one part more; shape: of the whole, from an array of the first part."""
    if isinstance(made, tuple):
        whole = (None,) * len(made) if whole is None else whole
        return tuple(_put(before, one, part, shape) for before, one in zip(whole, made, strict=True))
    whole = np.empty(shape(made), made.dtype) if whole is None else whole
    whole[part] = made
    return whole


def _at_once(dtype: np.dtype) -> int:
    return WORK if dtype.kind in "fc" and dtype.itemsize > 2 else WORK >> 5


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.matmul(a, b)."""
    most = _at_once(a.dtype)
    if a.ndim < 2 or b.ndim < 2 or max(a.size, b.size) * max(a.shape[-2], b.shape[-1]) <= most:
        return np.matmul(a, b)
    batch = _spread([a.shape[:-2], b.shape[:-2]])
    rows, inner, columns = *a.shape[-2:], b.shape[-1]
    each = rows * inner * columns
    if math.prod(batch) * each <= most or inner != b.shape[-2]:
        return np.matmul(a, b)
    y = np.empty((*batch, rows, columns), np.result_type(a, b))
    a, b = np.broadcast_to(a, (*batch, rows, inner)), np.broadcast_to(b, (*batch, inner, columns))
    group = ROWS if most == WORK else 1
    step = max(group, most // (inner * columns) // group * group)
    for part in _parts(batch, max(1, most // each)):
        if each <= most:
            np.matmul(a[part], b[part], out=y[part])
        else:  # one matrix
            count = max(1, rows // step)
            for place in range(count):
                cut = (*part, slice(place * step, (place + 1) * step if place + 1 < count else None))
                np.matmul(a[cut], b[part], out=y[cut])
    return y


def einsum(equation: str, *arrays: np.ndarray) -> np.ndarray:
    """np.einsum(equation, *arrays, optimize=...), cut along a letter of the output where it is long.

    Only where each letter of the output is one axis of each input that has it, and there is no "...".
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    plain = arrow and "." not in equation and right and all(len(set(term)) == len(term) for term in terms)
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True) if plain else ():
        for letter, size in zip(term, array.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    work, most = math.prod(sizes.values()), WORK >> 5
    letter = max(right, key=sizes.__getitem__) if plain else ""
    optimize = len(arrays) > 1
    if work <= most or sizes[letter] == 1:
        return np.asarray(np.einsum(equation, *arrays, optimize=optimize))
    whole: Any = None
    shape = tuple(sizes[name] for name in right)
    step = max(1, most // (work // sizes[letter]))
    for first in range(0, sizes[letter], step):
        cut = slice(first, first + step)
        given = []
        for term, array in zip(terms, arrays, strict=True):
            here = [name == letter and size > 1 for name, size in zip(term, array.shape, strict=True)]
            given.append(array[tuple(cut if yes else slice(None) for yes in here)])
        part = tuple(cut if name == letter else slice(None) for name in right)
        whole = _put(whole, np.einsum(equation, *given, optimize=optimize), part, lambda made: shape)
    return whole
