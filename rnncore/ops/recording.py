"""Recording what a function of NumPy does to single elements, as steps that a bound program runs without Python.

An op whose outputs are made element by element is written once, as NumPy calls. Called with Recorders in place of
arrays it leaves the list of these calls; kernels/_program.pyx runs the same loops of NumPy's over blocks. So the bits
are those of the op, and a new op of this kind needs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from rnncore.kernels import _program

__all__ = ["NotRecordable", "Recording", "record"]


class NotRecordable(TypeError):
    """The function does something with its arrays that is no step of single elements."""


class Step(NamedTuple):
    """function  a ufunc, "where" or "cast"
    arguments    places of what it reads: ("input", i), ("step", i) or ("constant", an array of one element)
    dtypes       of the arguments and of the result
    """

    function: Any
    arguments: tuple[tuple[str, Any], ...]
    dtypes: tuple[np.dtype, ...]


class Recording(NamedTuple):
    """steps in order, and the place of each output among them, or of an input."""

    steps: list[Step]
    outputs: list[tuple[str, Any]]


class Recorder(NDArrayOperatorsMixin):
    """In place of an array: notes the functions that it is given to."""

    __array_priority__ = 1000

    def __init__(self, steps: list[Step], place: tuple[str, Any] | None, dtype: np.dtype, ndim: int):
        self._steps, self._place, self.dtype, self.ndim = steps, place, np.dtype(dtype), ndim

    size = 1  # an op may be written in two ways for few and for many elements, with the same bits

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        raise NotRecordable("an array itself")

    def __bool__(self) -> bool:
        raise NotRecordable("its truth")

    def __getattr__(self, name: str) -> Any:
        raise NotRecordable(f"its {name}")

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, out: Any = None, **named: Any) -> Any:
        if method != "__call__" or named or function.nout != 1 or function.signature is not None:
            raise NotRecordable(f"{function.__name__}.{method}")
        kinds = [type(x) if type(x) in (int, float) else _dtype_of(x) for x in inputs]
        *wanted, made = function.resolve_dtypes((*kinds, None))
        places = [self._argument(x, dtype) for x, dtype in zip(inputs, wanted, strict=True)]
        return self._step(function, places, (*wanted, made), max(map(_ndim, inputs)), out)

    def __array_function__(self, function: Callable[..., Any], types: Any, given: Any, named: Any) -> Any:
        if function is np.where and len(given) == 3 and not named:
            condition, a, b = given
            kinds = [x if type(x) in (int, float) else _dtype_of(x) for x in (a, b)]
            dtype = np.result_type(*kinds)
            places = [self._argument(condition, np.dtype(np.bool_)), *(self._argument(x, dtype) for x in (a, b))]
            return self._step("where", places, (np.dtype(np.bool_), dtype, dtype, dtype), max(map(_ndim, given)), None)
        if function in (np.empty_like, np.zeros_like) and len(given) == 1 and not named:
            zero = ("constant", np.zeros((), self.dtype)) if function is np.zeros_like else None
            return Recorder(self._steps, zero, self.dtype, self.ndim)
        raise NotRecordable(function.__name__)

    def __pow__(self, exponent: Any) -> Any:
        """As ndarray has it: some exponents are functions of their own."""
        short = {0.5: np.sqrt, 2: np.square, -1: np.reciprocal, 1: np.positive}
        if type(exponent) in (int, float) and exponent in short and self.dtype.kind == "f":
            return short[exponent](self)
        if type(exponent) in (int, float) and exponent == 0:
            raise NotRecordable("power 0")
        return np.power(self, exponent)

    def astype(self, dtype: Any, copy: bool = True) -> Recorder:
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        if not {dtype.num, self.dtype.num} <= _program.CASTABLE:
            raise NotRecordable(f"{self.dtype} to {dtype}")
        return self._step("cast", [self._read()], (self.dtype, dtype), self.ndim, None)

    def _read(self) -> tuple[str, Any]:
        if self._place is None:
            raise NotRecordable("what is not written")
        return self._place

    def _argument(self, x: Any, dtype: np.dtype) -> tuple[str, Any]:
        """Where a function reads x, which it takes as that dtype."""
        if isinstance(x, Recorder):
            return x.astype(dtype)._read()
        array = np.asarray(x)
        if array.size != 1:
            raise NotRecordable("an array of several elements")
        return "constant", array.astype(dtype).reshape(())

    def _step(self, function: Any, places: list[Any], dtypes: tuple[np.dtype, ...], ndim: int, out: Any) -> Recorder:
        if max(dtype.itemsize for dtype in dtypes) > 8 or any(dtype.kind not in "bfiu" for dtype in dtypes):
            raise NotRecordable(f"{dtypes}")
        self._steps.append(Step(function, tuple(places), dtypes))
        result = Recorder(self._steps, ("step", len(self._steps) - 1), dtypes[-1], ndim)
        if out is None:
            return result
        (target,) = out if isinstance(out, tuple) else (out,)
        if not isinstance(target, Recorder) or target.dtype != result.dtype or target.ndim < ndim:
            raise NotRecordable("a result written to an array")
        target._place = result._place
        return target


def _dtype_of(x: Any) -> np.dtype:
    return x.dtype if isinstance(x, Recorder) else np.asarray(x).dtype


def _ndim(x: Any) -> int:
    return x.ndim if isinstance(x, Recorder) else np.ndim(x)


def record(function: Callable[..., Any], inputs: Sequence[Any]) -> Recording | None:
    """The steps of function(*inputs), or None where there is something else in it.

    inputs  (dtype, number of dimensions) of an array that is not known yet, or an array of one element that is, or None
    """
    steps: list[Step] = []
    given = [
        Recorder(steps, ("input", i), *entry) if isinstance(entry, tuple) else entry for i, entry in enumerate(inputs)
    ]
    try:
        results = function(*given)
    except (NotRecordable, TypeError, ValueError, AttributeError):
        return None
    outputs = results if isinstance(results, (tuple, list)) else [results]
    if not all(isinstance(output, Recorder) and output._place is not None for output in outputs):
        return None
    return Recording(steps, [output._place for output in outputs])
