"""Windows that slide over spatial axes: what convolutions and pooling share.

Sizes follow ONNX: (size + pads - extent) // stride + 1 outputs, extent = (kernel - 1) * dilation + 1; with ceil_mode
the division rounds up, but no window begins in the padding at the end. auto_pad SAME_UPPER and SAME_LOWER make
ceil(size / stride) outputs, VALID has no pads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast, overload

import numpy as np

from rnncore.errors import SpecError
from rnncore.kernels import check_memory
from rnncore.ops.base import UNKNOWN, Value
from rnncore.ops.dimensions import Dimension, Reach, Values
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Choice, Integers
from rnncore.ops.sizes import add, divide

__all__ = [
    "KERNEL",
    "WINDOW_SCHEMA",
    "Window",
    "check_sizes",
    "need_images",
    "unpadded",
    "window_dimensions",
]

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
KERNEL = Integers(None, least=1, most=MAX_SIZE, longest=MAX_RANK)
WINDOW_SCHEMA = {
    "strides": KERNEL,
    "pads": Integers(None, least=0, most=MAX_SIZE, longest=2 * MAX_RANK),
    "dilations": KERNEL,
    "auto_pad": Choice("NOTSET", among=AUTO_PADS),
}


def check_sizes(attributes: Mapping[str, Any], name: str, count: int, least: int, default: int) -> tuple[int, ...]:
    """An attribute of ``count`` integers from ``least`` on; None is that many times the default."""
    values = attributes[name]
    if values is None:
        return (default,) * count
    plain = isinstance(values, tuple) and all(type(number) is int and least <= number <= 1 << 31 for number in values)
    if not plain or len(values) != count:
        raise SpecError(f"{name}={values!r}, expected {count} integers of at least {least}")
    return values


MAX_RANK = 64
"""Dimensions that an array may have."""


def need_images(value, what="input") -> int:
    """The number of spatial axes of a value (N, C, *spatial)."""
    if len(value.shape) < 3:
        raise SpecError(f"{what} is {value}, expected (N, C, spatial sizes)")
    if len(value.shape) > MAX_RANK:
        raise SpecError(f"{what} has {len(value.shape)} dimensions, expected at most {MAX_RANK}")
    return len(value.shape) - 2


class Window(NamedTuple):
    """Kernel sizes and how they slide, one number for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: bool = False

    @classmethod
    def of(cls, attributes: Mapping[str, Any], kernel: Sequence[int], ceil_mode: bool = False) -> Window:
        """From strides, pads, dilations and auto_pad; SpecError where one of them does not fit the kernel."""
        axes = len(kernel)
        if any(size < 1 for size in kernel):
            raise SpecError(f"kernel of sizes {list(kernel)}, expected integers of at least 1")
        pads = check_sizes(attributes, "pads", 2 * axes, 0, 0)
        auto_pad = attributes["auto_pad"]
        if auto_pad != "NOTSET" and any(pads):
            raise SpecError(f"pads={list(pads)} with auto_pad={auto_pad!r}, expected one of them")
        strides = check_sizes(attributes, "strides", axes, 1, 1)
        dilations = check_sizes(attributes, "dilations", axes, 1, 1)
        return cls(tuple(kernel), strides, dilations, pads[:axes], pads[axes:], auto_pad, ceil_mode)

    def extent(self, axis: int) -> int:
        """Steps from the first number a window covers to the last, both included."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    @property
    def same(self) -> bool:
        return self.auto_pad.startswith("SAME")

    def output(self, axis: int, size: int | str) -> int | str:
        """Outputs along one axis; SpecError where the window is larger than the padded input."""
        stride = self.strides[axis]
        if self.same:
            return divide(add(size, stride - 1), stride)
        space = add(size, self.begins[axis] + self.ends[axis] - self.extent(axis))
        if isinstance(size, str) or isinstance(space, str):
            if self.ceil_mode and stride > 1 and self.auto_pad == "NOTSET":
                return UNKNOWN
            up = stride - 1 if self.ceil_mode else 0
            return divide(add(space, stride + up), stride)
        if space < 0:
            raise SpecError(f"size {size} at spatial axis {axis}, smaller than the window of {self.extent(axis)}")
        count = (-(-space // stride) if self.ceil_mode else space // stride) + 1
        if self.ceil_mode and (count - 1) * stride >= size + self.begins[axis]:
            count -= 1
        return count

    @overload
    def outputs(self, sizes: Sequence[int]) -> tuple[int, ...]: ...
    @overload
    def outputs(self, sizes: Sequence[int | str]) -> tuple[int | str, ...]: ...
    def outputs(self, sizes: Sequence[int | str]) -> tuple[Any, ...]:
        return tuple(self.output(axis, size) for axis, size in enumerate(sizes))

    def pads(self, sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pads at the beginning and at the end of each axis."""
        if not self.same:
            return self.begins, self.ends
        begins, ends = [], []
        for axis, size in enumerate(sizes):
            total = self._same_total(axis, size)
            small, large = total // 2, total - total // 2
            begins.append(small if self.auto_pad == "SAME_UPPER" else large)
            ends.append(large if self.auto_pad == "SAME_UPPER" else small)
        return tuple(begins), tuple(ends)

    def _same_total(self, axis: int, size: int) -> int:
        return max((-(-size // self.strides[axis]) - 1) * self.strides[axis] + self.extent(axis) - size, 0)

    def context(self, axis: int) -> tuple[int, int, int] | None:
        """(before, after, stride) along one axis, as a Reach has them; None where pads depend on the input's size."""
        stride = self.strides[axis]
        if self.same and stride > 1:
            return None
        begin = self.pads([self.extent(axis)] * len(self.kernel))[0][axis]
        return begin, self.extent(axis) - 1 - begin, stride

    def met(self, sizes: Sequence[int]) -> tuple[tuple[slice, ...], Window]:
        """The part of an input of these sizes that its outputs can meet, and the window without the places that meet
        nothing but padding: on that part it has the same outputs, and what is around it stays in proportion.

        Its ends may be negative: numbers after the last one that it meets.
        """
        parts, rest = [], []
        if 0 in self.outputs(sizes):
            return (slice(None),) * len(sizes), self
        for size, count, taps, stride, dilation, begin in zip(
            sizes, self.outputs(sizes), self.kernel, self.strides, self.dilations, self.pads(sizes)[0], strict=True
        ):
            stride = 1 if count == 1 else stride
            span = (count - 1) * stride
            first = min(max(-((span - begin) // dilation), 0), taps - 1)  # the last output has it inside
            last = min((begin + size - 1) // dilation, taps - 1)  # and the first one this
            begin -= first * dilation
            if last < first or begin > span:  # there is none
                first = last = 0
                begin = span + 1
            if last == first:
                dilation = 1
            skipped = max(-begin, 0)
            begin = max(begin, 0)
            end = span + (last - first) * dilation + 1 - begin - (size - skipped)
            parts.append(slice(skipped or None, None))
            rest.append((last - first + 1, stride, dilation, begin, end))
        kernel, strides, dilations, begins, ends = zip(*rest, strict=True)
        return tuple(parts), Window(kernel, strides, dilations, begins, ends)

    def padded(self, x: np.ndarray, value: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        """x with ``value`` around it wherever its windows reach over the ends, and the sizes of the outputs."""
        sizes = x.shape[2:]
        outputs, (begins, _) = self.outputs(sizes), self.pads(sizes)
        widths = [(0, 0), (0, 0)]
        cut = [slice(None), slice(None)]
        for axis, size in enumerate(sizes):
            needed = (outputs[axis] - 1) * self.strides[axis] + self.extent(axis)
            widths.append((begins[axis], max(0, needed - begins[axis] - size)))
            cut.append(slice(0, needed))
        if any(width != (0, 0) for width in widths):
            inside = x
            shape = [size + sum(width) for size, width in zip(x.shape, widths, strict=True)]
            needed, made = (math.prod(sizes) * x.itemsize for sizes in (shape, (*x.shape[:2], *outputs)))
            check_memory(f"an input of shape {x.shape} with its padding", needed, x.nbytes, made)
            x = np.full(shape, value, x.dtype)
            x[tuple(slice(b, b + size) for size, (b, _) in zip(inside.shape, widths, strict=True))] = inside
        return x[tuple(cut)], outputs

    def taps(self, axis: int, outputs: int) -> Iterator[slice]:
        """For each place of the kernel along one axis, which numbers of the padded input it meets."""
        for tap in range(self.kernel[axis]):
            start = tap * self.dilations[axis]
            yield slice(start, start + (outputs - 1) * self.strides[axis] + 1, self.strides[axis])

    def all_taps(self, outputs: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """The same for all axes together, the last one fastest."""
        return itertools.product(*(list(self.taps(axis, count)) for axis, count in enumerate(outputs)))


def window_dimensions(window: Window, inputs: Values, outputs: Sequence[Value]) -> list[Dimension]:
    """The Dimensions of a window over the axes from 2 on; the axes before them are the op's."""
    dimensions = []
    for axis in range(len(cast(Value, inputs[0]).shape) - 2):
        context = window.context(axis)
        if context is not None:
            dimensions.append(Dimension({0: axis + 2}, {0: axis + 2}, Reach(*context)))
    return dimensions


def unpadded(
    attributes: Mapping[str, Any], axis: int, batch: int | None, rank: int, reach: Reach
) -> tuple[Mapping[str, Any], int] | str:
    """Op.unpadded of windows over the axes from 2 on, for a sequence along ``axis`` that comes in pieces.

    Why not, in words, where the outputs depend on the length of the whole sequence.
    """
    auto, spatial = attributes["auto_pad"], rank - 2
    pads = attributes["pads"] or (0,) * (2 * spatial)
    if axis < 2 or batch not in (0, None):
        return "its time is in the place of the batch or the channels"
    if attributes.get("indices"):
        return "its indices count from the beginning of the sequence"
    if attributes.get("ceil_mode") and reach.stride > 1:
        return "ceil_mode lets the end of the sequence change its outputs"
    if auto.startswith("SAME") and reach.stride > 1:
        return f"auto_pad={auto!r} with a stride makes the padding depend on the length"
    end = cast(int, reach.after) if auto.startswith("SAME") else 0 if auto == "VALID" else pads[axis - 2 + spatial]
    if cast(int, reach.before) < 0 or cast(int, reach.after) < 0 or end < 0:
        return "negative padding cuts the sequence"
    if auto.startswith("SAME") and spatial > 1:
        return f"auto_pad={auto!r} over several axes, expected pads"
    rest = [0] * (2 * spatial) if auto != "NOTSET" else list(pads)
    rest[axis - 2] = rest[axis - 2 + spatial] = 0
    return {**attributes, "pads": tuple(rest), "auto_pad": "NOTSET"}, end
