"""Modules of torch without weights: element by element, padding, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from rnncore.export.torch.functions.activations import clamp, prelu
from rnncore.export.torch.functions.registry import FUNCTIONS, entry, refuse
from rnncore.export.torch.functions.shapes import pad, unflatten
from rnncore.export.torch.layers.registry import LAYERS, kind_of, layer
from rnncore.export.torch.layers.windows import one_each
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor

POINTWISE = {
    "ReLU": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "SiLU": "silu", "Mish": "mish", "SELU": "selu",
    "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "Softsign": "softsign", "LogSigmoid": "logsigmoid",
    "Tanhshrink": "tanhshrink",
}  # fmt: skip
WITH_OPTIONS = {
    "LeakyReLU": ("leaky_relu", ("negative_slope",)),
    "ELU": ("elu", ("alpha",)),
    "CELU": ("celu", ("alpha",)),
    "GELU": ("gelu", ("approximate",)),
    "Softplus": ("softplus", ("beta", "threshold")),
    "GLU": ("glu", ("dim",)),
    "Softmax": ("softmax", ("dim",)),
    "LogSoftmax": ("log_softmax", ("dim",)),
    "Softmin": ("softmin", ("dim",)),
    "Flatten": ("flatten", ("start_dim", "end_dim")),
    "CosineSimilarity": ("cosine_similarity", ("dim", "eps")),
}


def _called(name: str, options: Sequence[str] = ()) -> Callable[..., Any]:
    def run(g: TraceLowering, module: nn.Module, *inputs: Any) -> Any:
        return FUNCTIONS[name](g, *inputs, **{option: getattr(module, option) for option in options})

    return run


LAYERS.update({kind: _called(name) for kind, name in POINTWISE.items()})

LAYERS.update({kind: _called(name, options) for kind, (name, options) in WITH_OPTIONS.items()})


@layer("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
def nothing(g, module, input, *args, **kwargs):
    g.notes.append(f"{g.wanted} ({kind_of(module)}): left out, it does nothing at inference")
    return input


@layer("Unflatten")
def unflatten_layer(g, module, input):
    return unflatten(g, input, module.dim, module.unflattened_size)


@layer("Hardtanh", "ReLU6")
def hardtanh(g, module, input):
    return clamp(g, g.tensor(input), float(module.min_val), float(module.max_val))


@layer("PReLU")
def prelu_layer(g, module, input):
    slope, label = module.weight.detach(), f"{g.wanted}.weight"
    return prelu(g, input, TracedTensor(None, slope, slope, label=label, constant=True, trained=True))


@layer("ZeroPad1d", "ZeroPad2d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ReflectionPad1d",
       "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "CircularPad1d", "CircularPad2d")  # fmt: skip
def padding(g, module, input):
    kind = kind_of(module)
    names = (("Reflection", "reflect"), ("Replication", "replicate"), ("Circular", "circular"))
    mode = next((mode for start, mode in names if kind.startswith(start)), "constant")
    return pad(g, input, module.padding, mode, getattr(module, "value", 0.0))


@layer("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")
def upsample(g, module, input):
    return interpolate(g, input, module.size, module.scale_factor, module.mode, module.align_corners)


@entry("interpolate", "upsample")
def interpolate(
    g,
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    x = g.tensor(input)
    modes = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}
    if antialias or mode not in modes:
        raise refuse(g, f"mode={mode!r}, antialias={antialias}", ", ".join(modes))
    attributes: dict[str, Any] = {"mode": modes[mode]}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        attributes["coordinate_transformation_mode"] = "align_corners" if align_corners else "pytorch_half_pixel"
        if mode == "bicubic":
            attributes["cubic_coeff_a"] = -0.75
    axes = x.ndim - 2
    if size is None:
        attributes["scales"] = (1.0, 1.0, *(float(one) for one in one_each(scale_factor, axes)))
        return g.out(g.emit("Resize", [x], attributes))
    inputs: list[Any] = [x]
    sizes = [g.dim(x, 0), g.dim(x, 1), *one_each(size, axes)]
    return g.out(g.emit("Resize", inputs, {**attributes, **g.parameter(inputs, "sizes", sizes, 3)}))
