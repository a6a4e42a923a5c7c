"""Conv and ConvTranspose over any number of spatial axes, (N, C, *spatial), with weights of the node or as inputs.

With one input the node owns its weights, in ONNX's layout, and packs them once: input_size and output_size are the
channels, bias says whether there is one. With two or three inputs they are values of the graph, as in ONNX.

float32 runs on packed kernels (kernels/_convolution.pyx); other dtypes on products of patches, one image at a time.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.kernels import _convolution, check_memory, runs_native
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value
from rnncore.ops.checks import need
from rnncore.ops.dimensions import along_rows
from rnncore.ops.schema import Choice, Flag, Size
from rnncore.ops.sizes import add, fits, multiply
from rnncore.ops.windows import (
    KERNEL,
    WINDOW_SCHEMA,
    Window,
    check_sizes,
    need_images,
    unpadded,
    window_dimensions,
)

__all__ = ["OPS", "Kept", "check_given", "convolve"]


# ---- what both have in common ------------------------------------------------------------------------------------


def _owns(values):
    """Whether the weights are the node's; SpecError for a bias without weights."""
    if values[1] is None and values[2] is not None:
        raise SpecError("a bias as input 2 without weights as input 1, expected both or none")
    return values[1] is None


def _kernel(attributes, axes):
    if attributes["kernel_shape"] is None:
        raise SpecError("kernel_shape missing, expected it where the node owns its weights")
    return check_sizes(attributes, "kernel_shape", axes, 1, 1)


def _owned_sizes(attributes):
    """input_size and output_size of a node that owns its weights, None of one that does not."""
    sizes = attributes["input_size"], attributes["output_size"]
    if sizes == (None, None):
        return None
    for name, size in zip(("input_size", "output_size"), sizes, strict=True):
        if size is None:
            raise SpecError(f"{name} missing, expected input_size and output_size or neither")
        if size % attributes["group"]:
            raise SpecError(f"{name}={size} with group={attributes['group']}, expected a multiple of it")
    return sizes


def _owned_shapes(attributes, shape):
    if _owned_sizes(attributes) is None:
        return {}
    kernel = attributes["kernel_shape"]
    kernel = _kernel(attributes, len(kernel) if isinstance(kernel, tuple) else 1)
    shapes = {"weight": (*shape(attributes), *kernel)}
    if attributes["bias"]:
        shapes["bias"] = (attributes["output_size"],)
    return shapes


def _weight_value(attributes, values, transposed):
    """Channels in and out and the kernel, of weights that are owned or given, checked against the first input."""
    x, w, b = values
    axes = need_images(x)
    group = attributes["group"]
    if _owns(values):
        if _owned_sizes(attributes) is None:
            raise SpecError("input_size and output_size missing, expected them where the node owns its weights")
        if x.dtype != "float":
            raise SpecError(f"input is {x}, expected float where the node owns its weights")
        channels, outputs = _owned_sizes(attributes)
        kernel = _kernel(attributes, axes)
    else:
        if _owned_sizes(attributes) is not None:
            raise SpecError("input_size and weights as input 1, expected one of them")
        if len(w.shape) != axes + 2 or w.dtype != x.dtype:
            raise SpecError(f"weights are {w}, expected {x.dtype} of rank {axes + 2}")
        first, second = w.shape[:2]
        if 0 in w.shape:
            raise SpecError(f"weights are {w}, expected sizes of at least 1")
        if isinstance(first, int) and first % group:
            raise SpecError(f"weights are {w}, expected a multiple of group={group} at first")
        channels, outputs = (first, multiply(second, group)) if transposed else (multiply(second, group), first)
        kernel = w.shape[2:]
        if attributes["kernel_shape"] is not None:
            kernel = _kernel(attributes, axes)
            if any(isinstance(size, int) and size != k for size, k in zip(w.shape[2:], kernel, strict=True)):
                raise SpecError(f"kernel_shape={list(kernel)}, expected that of the weights, which are {w}")
        if any(isinstance(size, str) for size in kernel):
            raise SpecError(f"weights are {w}, expected known kernel sizes, or kernel_shape")
        if b is not None and (len(b.shape) != 1 or b.dtype != x.dtype or not fits(b.shape[0], outputs)):
            raise SpecError(f"bias is {b}, expected {Value(x.dtype, (outputs,))}")
    if not fits(x.shape[1], channels):
        raise SpecError(f"input is {x}, expected {channels} channels")
    return outputs, kernel


def check_given(attributes, x, weight, bias=None, transposed=False):
    """InputError where weights that are values of the graph contradict the images, the bias or the attributes.

    Their sizes may be known only now; what they say then counts for as much as what a file says of them.
    """
    group, kernel = attributes["group"], weight.shape[2:]
    if weight.ndim != x.ndim or 0 in weight.shape:
        raise InputError(f"weights of shape {weight.shape}, expected rank {x.ndim} and sizes of at least 1")
    if attributes["kernel_shape"] not in (None, kernel):
        raise InputError(f"weights of shape {weight.shape}, expected kernel_shape={list(attributes['kernel_shape'])}")
    first, second = weight.shape[:2]
    channels, outputs = (first, second * group) if transposed else (second * group, first)
    if (channels if transposed else outputs) % group:
        raise InputError(f"weights of shape {weight.shape}, expected a multiple of group={group} at first")
    if x.shape[1] != channels:
        raise InputError(f"images of shape {x.shape} and weights {weight.shape}, expected {channels} channels")
    if bias is not None and bias.shape != (outputs,):
        raise InputError(f"bias of shape {bias.shape}, expected {(outputs,)}")


def _check_channels(x, channels):
    if x.shape[1] != channels:
        raise ValueError(f"expected {channels} channels")


# ---- Conv --------------------------------------------------------------------------------------------------------

PATCHES = 1 << 24
"""Numbers of the patches that are multiplied at once: lines of the first spatial axis, one at least."""


def _conv_infer(attributes, values):
    x = values[0]
    need(x, ("float", "float64"))
    outputs, kernel = _weight_value(attributes, values, transposed=False)
    window = Window.of(attributes, kernel)
    return [Value(x.dtype, (x.shape[0], outputs, *window.outputs(x.shape[2:])))]


def convolve(x, weight, bias, window, group):
    """The convolution of x (N, C, *spatial) in its own dtype, by products of patches, up to PATCHES numbers at once."""
    _check_channels(x, weight.shape[1] * group)
    padded, outputs = window.padded(x, 0)
    terms = math.prod(weight.shape[1:])
    matrices = weight.reshape(group, -1, terms)
    y = np.empty((len(x), len(weight), *outputs), x.dtype)
    taps = math.prod(window.kernel)
    lines = max(1, PATCHES // max(1, x.shape[1] * taps * math.prod(outputs[1:])))
    for image, first in itertools.product(range(len(x)), range(0, outputs[0], lines)):
        part = y[image, :, first : first + lines]
        patches = np.empty((x.shape[1], taps, *part.shape[1:]), x.dtype)
        moved = padded[image, :, first * window.strides[0] :]
        for place, tap in enumerate(window.all_taps(part.shape[1:])):
            patches[:, place] = moved[(slice(None), *tap)]
        part[...] = blocks.matmul(matrices, patches.reshape(group, terms, -1)).reshape(part.shape)
    if bias is not None:
        y += bias.reshape(-1, *[1] * len(outputs))
    return y


def _conv_run(attributes, weights, x, weight=None, bias=None):
    if weight is None:
        weight, bias = weights["weight"], weights.get("bias")
    else:
        check_given(attributes, x, weight, bias)
    y = convolve(x, weight, bias, Window.of(attributes, weight.shape[2:]), attributes["group"])
    return np.maximum(y, 0, out=y) if attributes["activation"] == "Relu" else y


def pack_convolution(weight, bias, window, group, threads, relu=False):
    """The compiled convolution of float32 images with these weights, which it does not keep but packed."""

    def geometry(shape):
        return window.pads(shape[2:])[0], window.outputs(shape[2:])

    return _convolution.Convolution(weight, bias, group, window.strides, window.dilations, geometry, relu, threads)


class Kept:
    """Something made of arrays that are usually the same ones each time: made again only when they are others."""

    def __init__(self, make):
        self.make = make
        self.last = None  # (arrays, what was made of them): one reference, so threads see both or none

    def __call__(self, *arrays):
        last = self.last
        if last is None or any(a is not b or _writable(a) for a, b in zip(arrays, last[0], strict=True)):
            last = (arrays, self.make(*arrays))
            self.last = last
        return last[1]


def _writable(array):
    """Whether the content may change: constants of a model cannot."""
    return array is not None and array.flags.writeable


def _conv_packed(attributes, weights, threads):
    group, relu = attributes["group"], attributes["activation"] == "Relu"

    def pack(weight, bias):
        return pack_convolution(weight, bias, Window.of(attributes, weight.shape[2:]), group, threads, relu)

    if weights:
        return pack(weights["weight"], weights.get("bias")) if runs_native(weights["weight"].dtype) else None
    kept = Kept(pack)

    def run(x, weight, bias=None):
        if runs_native(x.dtype):
            check_given(attributes, x, weight, bias)
            return kept(weight, bias)(x)
        return _conv_run(attributes, {}, x, weight, bias)

    return run


ROWS = along_rows()


def _conv_dimensions(attributes, inputs, outputs):
    if attributes["kernel_shape"] is None:
        return ROWS(attributes, inputs, outputs)
    window = _window(attributes, len(inputs[0].shape))
    return [*ROWS(attributes, inputs, outputs), *window_dimensions(window, inputs, outputs)]


def _window(attributes, rank):
    return Window.of(attributes, _kernel(attributes, rank - 2))


# ---- ConvTranspose -----------------------------------------------------------------------------------------------


def _transposed_pads(attributes, window, sizes):
    """Pads at the beginning and sizes of the outputs; sizes may be names, then so are those."""
    axes = len(sizes)
    extra = check_sizes(attributes, "output_padding", axes, 0, 0)
    wanted = attributes["output_shape"]
    if wanted is not None:
        wanted = check_sizes(attributes, "output_shape", axes, 1, 1)
    begins, outputs = [], []
    for axis, size in enumerate(sizes):
        stride = window.strides[axis]
        full = add(multiply(add(size, -1), stride), extra[axis] + window.extent(axis))
        if wanted is None and not window.same:
            begins.append(window.begins[axis])
            outputs.append(add(full, -window.begins[axis] - window.ends[axis]))
            continue
        output = multiply(size, stride) if wanted is None else wanted[axis]
        outputs.append(output)
        if isinstance(size, int):
            total = max(cast(int, full) - cast(int, output), 0)
            begins.append(total - total // 2 if window.auto_pad != "SAME_UPPER" else total // 2)
    for output in outputs:
        if isinstance(output, int) and output < 1:
            raise SpecError(f"outputs of sizes {outputs}, expected at least 1")
    return begins, outputs


def _transpose_infer(attributes, values):
    x = values[0]
    need(x, ("float", "float64"))
    outputs, kernel = _weight_value(attributes, values, transposed=True)
    _, sizes = _transposed_pads(attributes, Window.of(attributes, kernel), x.shape[2:])
    return [Value(x.dtype, (x.shape[0], outputs, *sizes))]


def _overlap(attributes, columns, bias, window, sizes):
    """Outputs of the sums of columns (N, M, taps, numbers): the part each number of the input has in them."""
    begins, outputs = _transposed_pads(attributes, window, sizes)
    images, channels = columns.shape[:2]
    full = [(size - 1) * window.strides[axis] + window.extent(axis) for axis, size in enumerate(sizes)]
    padded = [max(f, b + o) for f, b, o in zip(full, begins, outputs, strict=True)]
    needed, made = (images * channels * math.prod(shape) * columns.itemsize for shape in (padded, outputs))
    check_memory(f"outputs of shape {(images, channels, *padded)} before pads", needed, columns.nbytes, made)
    y = np.zeros((images, channels, *padded), columns.dtype)
    for place, tap in enumerate(window.all_taps(sizes)):
        sums = y[(slice(None), slice(None), *tap)]
        blocks.apply(np.add, sums, columns[:, :, place].reshape(sums.shape), out=sums)
    y = y[(slice(None), slice(None), *(slice(b, b + o) for b, o in zip(begins, outputs, strict=True)))]
    return np.ascontiguousarray(y) if bias is None else y + bias.reshape(-1, *[1] * len(outputs))


def _columns_weight(weight, group):
    """Weights (C, M / groups, *kernel) as those of a convolution with kernel 1 that makes all columns."""
    channels = weight.shape[0]
    grouped = weight.reshape(group, channels // group, -1).swapaxes(1, 2)
    return np.ascontiguousarray(grouped).reshape(-1, channels // group, 1)


def _given_weight(columns, shape, group):
    """The weights of that shape of which _columns_weight made ``columns``."""
    return np.ascontiguousarray(columns.reshape(group, -1, shape[0] // group).swapaxes(1, 2)).reshape(shape)


def _transpose_columns(make, attributes, x, shape, bias):
    """shape: of the weights that ``make`` multiplies with."""
    window = Window.of(attributes, shape[2:])
    _check_channels(x, shape[0])
    images, channels, *sizes = x.shape
    columns = make(np.ascontiguousarray(x).reshape(images, channels, math.prod(sizes)))
    taps = math.prod(window.kernel)
    columns = columns.reshape(images, columns.shape[1] // taps, taps, math.prod(sizes))
    return _overlap(attributes, columns, bias, window, sizes)


POINT = Window((1,), (1,), (1,), (0,), (0,))


def _transpose_run(attributes, weights, x, weight=None, bias=None):
    if weight is None:
        weight, bias = weights["weight"], weights.get("bias")
    else:
        check_given(attributes, x, weight, bias, transposed=True)
    columns = _columns_weight(weight, attributes["group"])
    return _transpose_columns(
        lambda flat: convolve(flat, columns, None, POINT, attributes["group"]), attributes, x, weight.shape, bias
    )


def _transpose_packed(attributes, weights, threads):
    group = attributes["group"]

    def pack(weight):
        return pack_convolution(_columns_weight(weight, group), None, POINT, group, threads)

    if weights:
        if not runs_native(weights["weight"].dtype):
            return None
        shape, own_bias, product = weights["weight"].shape, weights.get("bias"), pack(weights["weight"])

        def run_own(x):
            return _transpose_columns(product, attributes, x, shape, own_bias)

        setattr(run_own, "packed", {"weight": lambda: _given_weight(product.unpack(), shape, group)})  # noqa: B010 - a function's own attribute
        return run_own
    kept = Kept(pack)

    def run(x, weight, bias=None):
        if runs_native(x.dtype):
            check_given(attributes, x, weight, bias, transposed=True)
            return _transpose_columns(kept(weight), attributes, x, weight.shape, bias)
        return _transpose_run(attributes, {}, x, weight, bias)

    return run


COMMON = {
    **WINDOW_SCHEMA,
    "group": Size(1),
    "kernel_shape": KERNEL,
    "input_size": Size(None),
    "output_size": Size(None),
    "bias": Flag(True),
}

OPS = [
    Op(
        "Conv",
        infer=_conv_infer,
        run=_conv_run,
        dimensions=_conv_dimensions,
        arity=(1, 3),
        schema={**COMMON, "activation": Choice(None, among=("Relu",))},
        weight_shapes=lambda a: _owned_shapes(a, lambda a: (a["output_size"], a["input_size"] // a["group"])),
        optional=(1, 2),
        packed=_conv_packed,
        unpadded=unpadded,
    ),
    Op(
        "ConvTranspose",
        infer=_transpose_infer,
        run=_transpose_run,
        dimensions=ROWS,
        arity=(1, 3),
        schema={**COMMON, "output_padding": KERNEL.replace(least=0), "output_shape": KERNEL},
        weight_shapes=lambda a: _owned_shapes(a, lambda a: (a["input_size"], a["output_size"] // a["group"])),
        optional=(1, 2),
        packed=_transpose_packed,
    ),
]
