"""Pools of torch, as modules and as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnncore.export.torch.functions.registry import FUNCTIONS, refuse
from rnncore.export.torch.layers.registry import kind_of, layer
from rnncore.export.torch.layers.windows import one_each, with_batch, without_batch
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Size, TracedTensor


def _pool(
    g: TraceLowering,
    op: str,
    x: TracedTensor,
    axes: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    more: dict[str, Any],
) -> TracedTensor:
    kernel = one_each(kernel, axes)
    whole = tuple(x.ndim - axes + i for i in range(axes))
    if any(isinstance(one, Size) for one in kernel):
        return _pooled_whole(g, op, x, whole, kernel, padding)
    name, added = with_batch(g, x, axes + 2)
    pads = one_each(padding, axes) * 2
    attributes = {
        "kernel_shape": kernel,
        "strides": one_each(stride if stride not in (None, ()) else kernel, axes),
        "pads": pads,
        "ceil_mode": bool(ceil),
        **more,
    }
    return without_batch(g, g.emit(op, [name], attributes), added)


def _pooled_whole(
    g: TraceLowering, op: str, x: TracedTensor, axes: tuple[int, ...], kernel: Sequence[Any], padding: Any
) -> TracedTensor:
    """A pool whose windows are as large as the input, whatever its size."""
    same = all(
        one.shape[axis] == getattr(size, trace, size)
        for axis, size in zip(axes, kernel, strict=True)
        for one, trace in ((x.a, "a"), (x.b, "b"))
    )
    if not same or any(one_each(padding, len(axes))):
        raise refuse(g, "windows of a computed size", "a number, or the input's own size")
    reduce = "ReduceMax" if op == "MaxPool" else "ReduceMean"
    return g.out(g.emit(reduce, [x], {"axes": axes, "keepdims": True}))


@layer("MaxPool1d", "MaxPool2d", "MaxPool3d")
def max_pool(g, module, input):
    axes = int(kind_of(module)[-2])
    return max_pooled(g, axes, input, module.kernel_size, module.stride, module.padding, module.dilation,
                      module.ceil_mode, module.return_indices)  # fmt: skip


def max_pooled(g, axes, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if return_indices:
        raise refuse(g, "return_indices", "the pooled values alone")
    more = {"dilations": one_each(dilation, axes)}
    return _pool(g, "MaxPool", g.tensor(input), axes, kernel_size, stride, padding, ceil_mode, more)


@layer("AvgPool1d", "AvgPool2d", "AvgPool3d")
def average_pool(g, module, input):
    axes = int(kind_of(module)[-2])
    divisor = getattr(module, "divisor_override", None)
    return average_pooled(g, axes, input, module.kernel_size, module.stride, module.padding, module.ceil_mode,
                          module.count_include_pad, divisor)  # fmt: skip


def average_pooled(
    g, axes, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    if divisor_override is not None:
        raise refuse(g, f"divisor_override={divisor_override}", "none")
    more = {"count_include_pad": bool(count_include_pad)}
    return _pool(g, "AveragePool", g.tensor(input), axes, kernel_size, stride, padding, ceil_mode, more)


@layer("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d")
def adaptive_pool(g, module, input):
    kind = kind_of(module)
    indices = getattr(module, "return_indices", False)
    return adaptive_pooled(g, "Avg" in kind, int(kind[-2]), input, module.output_size, indices)


def adaptive_pooled(g, average, axes, input, output_size, return_indices=False):
    """To one: the mean or maximum; to the size that it has: nothing; else equal windows of a known size."""
    if return_indices:
        raise refuse(g, "return_indices", "the pooled values alone")
    x = g.tensor(input)
    wanted = one_each(output_size, axes)
    gone = tuple(x.ndim - axes + i for i, size in enumerate(wanted) if size == 1)
    windows = {}
    for i, size in enumerate(wanted):
        axis = x.ndim - axes + i
        length = g.dim(x, axis)
        if size in (None, length) or size == 1:
            continue
        if isinstance(length, Size) or length % size:
            shown = "an unknown size" if isinstance(length, Size) else length
            raise refuse(g, f"{shown} made {size} by an adaptive pool", "1, or a size that divides a known one")
        windows[i] = length // size
    name = g.name_of(x)
    if gone:
        name = g.emit("ReduceMean" if average else "ReduceMax", [name], {"axes": gone, "keepdims": True})
    if not windows:
        return g.out(name) if gone else x
    kernel = tuple(windows.get(i, 1) for i in range(axes))
    if x.ndim == axes + 1:
        raise refuse(g, "an adaptive pool without a batch", "(B, C, ...)")
    attributes = {"kernel_shape": kernel, "strides": kernel}
    return g.out(g.emit("AveragePool" if average else "MaxPool", [name], attributes))


for _axes in (1, 2, 3):
    FUNCTIONS[f"avg_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: average_pooled(g, axes, *args, **kwargs)
    FUNCTIONS[f"max_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: max_pooled(g, axes, *args, **kwargs)
    FUNCTIONS[f"adaptive_avg_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: adaptive_pooled(
        g, True, axes, *args, **kwargs
    )
    FUNCTIONS[f"adaptive_max_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: adaptive_pooled(
        g, False, axes, *args, **kwargs
    )
