"""Normalizing modules and functions of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rnncore.export.torch.functions.registry import entry, refuse
from rnncore.export.torch.layers.registry import kind_of, layer
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor, array_of

__all__ = ["constant_or_filled"]


def constant_or_filled(
    g: TraceLowering, tensor: torch.Tensor | None, key: str, size: int = 1, filled: float = 0
) -> str:
    """A parameter as a value; a filled vector without one."""
    array = np.full(size, filled, np.float32) if tensor is None else array_of(tensor)
    return g.constant(array, "float", f"{g.wanted}.{key}", trained=tensor is not None)


@layer("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
def batch_norm(g, module, input):
    if module.running_mean is None:
        raise refuse(g, "track_running_stats=False, which uses the batch's own", "running statistics")
    size = module.num_features
    parts = [
        constant_or_filled(g, module.weight, "weight", size, 1),
        constant_or_filled(g, module.bias, "bias", size, 0),
        constant_or_filled(g, module.running_mean, "running_mean", size, 0),
        constant_or_filled(g, module.running_var, "running_var", size, 1),
    ]
    return g.out(g.emit("BatchNormalization", [g.tensor(input), *parts], {"epsilon": float(module.eps)}))


@layer("LayerNorm")
def layer_norm(g, module, input):
    return layer_normed(g, input, module.normalized_shape, module.weight, module.bias, module.eps)


def layer_normed(g, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    x = g.tensor(input)
    shape = tuple(normalized_shape)
    ones = g.constant(np.ones(shape, np.float32), "float", "ones") if weight is None else None
    names = [ones or _as_value(g, weight, "weight")]
    if bias is not None:
        names.append(_as_value(g, bias, "bias"))
    return g.out(g.emit("LayerNormalization", [x, *names], {"axis": -len(shape), "epsilon": float(eps)}))


def _as_value(g: TraceLowering, tensor: Any, key: str) -> str:
    """A tensor of the graph, or a parameter of the current module."""
    return g.name_of(tensor) if isinstance(tensor, TracedTensor) else constant_or_filled(g, tensor, key)


@layer("RMSNorm")
def rms_norm(g, module, input):
    """x / sqrt(mean(x^2) + eps), scaled."""
    x = g.tensor(input)
    axes = tuple(range(x.ndim - len(module.normalized_shape), x.ndim))
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    mean = g.emit("ReduceMean", [g.emit("Mul", [x, x])], {"axes": axes, "keepdims": True})
    y = g.emit("Div", [x, g.emit("Sqrt", [g.emit("Add", [mean, g.cast(float(eps), x.dtype)])])])
    if module.weight is not None:
        y = g.emit("Mul", [y, constant_or_filled(g, module.weight, "weight")])
    return g.out(y)


@layer("GroupNorm")
def group_norm(g, module, input):
    size = module.num_channels
    parts = [
        constant_or_filled(g, module.weight, "weight", size, 1),
        constant_or_filled(g, module.bias, "bias", size, 0),
    ]
    attributes = {"num_groups": module.num_groups, "epsilon": float(module.eps)}
    return g.out(g.emit("GroupNormalization", [g.tensor(input), *parts], attributes))


@layer("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
def instance_norm(g, module, input):
    if module.track_running_stats:
        raise refuse(g, "track_running_stats=True", "False")
    x = g.tensor(input)
    if x.ndim != int(kind_of(module)[-2]) + 2:
        raise refuse(g, f"{x.ndim} dimensions", "a batch")
    size = x.a.shape[1]
    parts = [
        constant_or_filled(g, module.weight, "weight", size, 1),
        constant_or_filled(g, module.bias, "bias", size, 0),
    ]
    return g.out(g.emit("InstanceNormalization", [x, *parts], {"epsilon": float(module.eps)}))


@entry("layer_norm")
def _layer_norm(g, input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    return layer_normed(g, input, normalized_shape, weight, bias, eps)


@entry("batch_norm")
def _batch_normed(
    g, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *args
):
    if training or running_mean is None:
        raise refuse(g, "statistics of the batch", "training=False and running statistics")
    x, size = g.tensor(input), running_mean.a.shape[0]
    ones, zeros = (
        g.constant(np.full(size, number, np.float32), "float", label) for number, label in ((1, "ones"), (0, "zeros"))
    )
    parts = [ones if weight is None else weight, zeros if bias is None else bias, running_mean, running_var]
    return g.out(g.emit("BatchNormalization", [x, *parts], {"epsilon": float(eps)}))


@entry("group_norm")
def _group_normed(g, input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    x = g.tensor(input)
    size = x.a.shape[1]
    ones, zeros = (
        g.constant(np.full(size, number, np.float32), "float", label) for number, label in ((1, "ones"), (0, "zeros"))
    )
    parts = [ones if weight is None else weight, zeros if bias is None else bias]
    return g.out(g.emit("GroupNormalization", [x, *parts], {"num_groups": num_groups, "epsilon": float(eps)}))
