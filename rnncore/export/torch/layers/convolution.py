"""Convolutions of torch, as modules and as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rnncore.export.torch.functions.registry import entry, refuse
from rnncore.export.torch.layers.registry import layer
from rnncore.export.torch.layers.windows import one_each, with_batch, without_batch
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import array_of

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


@layer(*CONVOLUTIONS)
def convolution(g, module, input):
    axes = len(module.kernel_size)
    name, added = with_batch(g, g.tensor(input), axes + 2)
    pads = _convolution_pads(module)
    if module.padding_mode != "zeros" and any(pads):
        modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        spread = (0, 0, *pads[:axes], 0, 0, *pads[axes:])
        name = g.emit("Pad", [name], {"pads": spread, "mode": modes[module.padding_mode]}, name=f"{g.wanted}_pad")
        pads = (0,) * (2 * axes)
    return without_batch(g, _convolution_node(g, "Conv", module, name, pads, {}), added)


def _convolution_pads(module: nn.Module) -> tuple[int, ...]:
    """Before and after each axis; "same" as torch has it, the odd one after."""
    if module.padding == "valid":
        return (0,) * (2 * len(module.kernel_size))
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (*(one // 2 for one in total), *(one - one // 2 for one in total))
    return (*module.padding, *module.padding)


def _convolution_node(
    g: TraceLowering, op: str, module: nn.Module, x: str, pads: Sequence[int], more: dict[str, Any]
) -> str:
    weights = {"weight": array_of(module.weight)}
    if module.bias is not None:
        weights["bias"] = array_of(module.bias)
    attributes = {
        "input_size": module.in_channels,
        "output_size": module.out_channels,
        "kernel_shape": tuple(module.kernel_size),
        "strides": tuple(module.stride),
        "pads": tuple(pads),
        "dilations": tuple(module.dilation),
        "group": module.groups,
        "bias": module.bias is not None,
        **more,
    }
    return g.emit(op, [x], attributes, weights)


@layer(*TRANSPOSED)
def transposed(g, module, input, output_size=None):
    if output_size is not None:
        raise refuse(g, "output_size", "output_padding")
    name, added = with_batch(g, g.tensor(input), len(module.kernel_size) + 2)
    more = {"output_padding": tuple(module.output_padding)}
    pads = (*module.padding, *module.padding)
    return without_batch(g, _convolution_node(g, "ConvTranspose", module, name, pads, more), added)


@entry("conv1d", "conv2d", "conv3d")
def _convolved(g, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    x, kernel = g.tensor(input), g.tensor(weight)
    axes = kernel.ndim - 2
    if not g.is_parameter(kernel) or not (bias is None or g.is_parameter(bias)):
        raise refuse(g, "a kernel that is computed", "a parameter")
    name, added = with_batch(g, x, kernel.ndim)
    sizes, dilations = kernel.a.shape[2:], one_each(dilation, axes)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, sizes, strict=True)]
        pads = (*(one // 2 for one in total), *(one - one // 2 for one in total))
    else:
        pads = one_each(padding, axes) * 2
    attributes = {
        "input_size": kernel.a.shape[1] * groups,
        "output_size": kernel.a.shape[0],
        "kernel_shape": tuple(sizes),
        "strides": one_each(stride, axes),
        "pads": pads,
        "dilations": dilations,
        "group": groups,
        "bias": bias is not None,
    }
    weights = {"weight": array_of(kernel.a)} | ({} if bias is None else {"bias": array_of(bias.a)})
    sources = {"weight": kernel.label} | ({} if bias is None else {"bias": bias.label})
    return without_batch(g, g.emit("Conv", [name], attributes, weights, sources=sources), added)
