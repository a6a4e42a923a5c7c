"""Random calls of the ops that onnx.reference runs, for each version that is claimed: see test_onnx_rare.

Each function draws (inputs, attributes) of one op at one opset; None stands for an absent input.
"""

import numpy as np

__all__ = ["CALLS", "CONSTANT", "FORMULAS"]

CONSTANT = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
}
"""op -> the inputs that are constants, as exporters write them, since they decide shapes."""


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def some(rng, **attributes):
    """A random part of the attributes."""
    return {name: value for name, value in attributes.items() if rng.integers(3)}


def affine_grid(rng, opset):
    axes = pick(rng, 2, 3)
    size = [int(rng.integers(1, 4)), 2, *rng.integers(2, 5, axes)]
    return [floats(rng, size[0], axes, axes + 1), np.array(size, np.int64)], some(rng, align_corners=pick(rng, 0, 1))


def window(rng, opset):
    return [np.array(rng.integers(1, 20), np.int64)], some(rng, periodic=pick(rng, 0, 1))


def attention(rng, opset):
    """(B, heads, T, size), or (B, T, heads * size) with the heads counted in attributes; groups of heads share keys."""
    batch, heads, groups, width, value_width = 2, 4, pick(rng, 4, 2, 1), 8, pick(rng, 8, 6)
    steps, keys = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    four = rng.integers(2)
    attributes = some(rng, is_causal=pick(rng, 0, 1), scale=0.3, softcap=float(pick(rng, 0, 2)))

    def heads_of(count, length, size):
        return floats(rng, batch, count, length, size) if four else floats(rng, batch, length, count * size)

    q, k, v = heads_of(heads, steps, width), heads_of(groups, keys, width), heads_of(groups, keys, value_width)
    if not four:
        attributes |= {"q_num_heads": heads, "kv_num_heads": groups}
    mask = None
    if rng.integers(2):
        shape = pick(rng, (steps, keys), (batch, 1, steps, keys), (batch, heads, steps, keys))
        mask = floats(rng, *shape) if rng.integers(2) else rng.integers(0, 4, shape) > 0
        if mask.dtype == bool:
            mask[..., 0] = True
    return [q, k, v, mask], attributes


def center_crop_pad(rng, opset):
    x = floats(rng, *rng.integers(1, 6, 3))
    axes = list(pick(rng, (0, 1, 2), (1,), (-1, 0), (2, 1)))
    return [x, rng.integers(1, 8, len(axes))], {"axes": axes}


def col2im(rng, opset):
    axes = pick(rng, 1, 2)
    image, block = rng.integers(4, 8, axes), rng.integers(1, 4, axes)
    strides, dilations = rng.integers(1, 3, axes), rng.integers(1, 3, axes)
    dilations = np.minimum(dilations, (image - 1) // np.maximum(1, block - 1))
    pads = rng.integers(0, 2, 2 * axes)
    places = [
        (image[a] + pads[a] + pads[axes + a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1 for a in range(axes)
    ]
    x = floats(rng, 2, 3 * int(np.prod(block)), int(np.prod(places)))
    attributes = {"strides": strides.tolist(), "dilations": dilations.tolist(), "pads": pads.tolist()}
    return [x, image, block], attributes


def deform_conv(rng, opset):
    group, offset_group = pick(rng, 1, 2), pick(rng, 1, 2)
    kernel = rng.integers(1, 4, 2)
    strides, dilations, pads = rng.integers(1, 3, 2), rng.integers(1, 3, 2), rng.integers(0, 2, 4)
    size = rng.integers(6, 9, 2)
    out = [(size[a] + pads[a] + pads[2 + a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1 for a in range(2)]
    x, w = floats(rng, 2, 4, *size), floats(rng, 2 * group, 4 // group, *kernel)
    taps = int(np.prod(kernel))
    offset = floats(rng, 2, 2 * offset_group * taps, *out)
    bias = floats(rng, 2 * group) if rng.integers(2) else None
    mask = floats(rng, 2, offset_group * taps, *out) if rng.integers(2) else None
    attributes = {"strides": strides.tolist(), "dilations": dilations.tolist(), "pads": pads.tolist()}
    attributes |= {"group": group, "offset_group": offset_group, "kernel_shape": kernel.tolist()}
    return [x, w, offset, bias, mask], attributes


def det(rng, opset):
    size = int(rng.integers(1, 5))
    return [floats(rng, *pick(rng, (), (2,), (2, 3)), size, size)], {}


def grid_sample(rng, opset):
    axes = 2 if opset < 20 else pick(rng, 2, 3)
    old = {"linear": "bilinear", "cubic": "bicubic"} if opset < 20 else {}
    mode = pick(rng, "linear", "nearest", *(["cubic"] if axes == 2 else []))
    x = floats(rng, 2, 3, *rng.integers(3, 6, axes))
    grid = rng.uniform(-1.4, 1.4, (2, *rng.integers(2, 5, axes), axes)).astype(np.float32)
    attributes = {"mode": old.get(mode, mode), "padding_mode": pick(rng, "zeros", "border", "reflection")}
    return [x, grid], {**attributes, "align_corners": pick(rng, 0, 1)}


def max_unpool(rng, opset):
    x = floats(rng, 1, 1, 2, 2)
    places = np.sort(rng.permutation(16)[:4]).reshape(1, 1, 2, 2)
    return [x, places.astype(np.int64)], {"kernel_shape": [2, 2], "strides": [2, 2]}


def mel_weight_matrix(rng, opset):
    bins, length = int(rng.integers(2, 9)), int(pick(rng, 16, 32, 64))
    low, high = float(rng.uniform(0, 200)), float(rng.uniform(2000, 4000))
    kinds = (bins, np.int64), (length, np.int64), (8000, np.int64), (low, np.float32), (high, np.float32)
    return [np.array(value, dtype) for value, dtype in kinds], {}


def loss(rng, opset):
    classes, extra = 4, pick(rng, (), (3,), (2, 3))
    x = floats(rng, 5, classes, *extra)
    target = rng.integers(0, classes, (5, *extra))
    weight = np.abs(floats(rng, classes)) + np.float32(0.1) if rng.integers(2) else None
    attributes = {"reduction": pick(rng, "mean", "sum", "none")}
    if rng.integers(2):
        attributes["ignore_index"] = int(rng.integers(0, classes))
    return [x, target, weight], attributes


def non_max_suppression(rng, opset):
    boxes = rng.uniform(0, 1, (2, 12, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 3, 12)).astype(np.float32)
    limits = [np.array([rng.integers(0, 6)], np.int64), np.array([rng.uniform(0.1, 0.8)], np.float32)]
    limits.append(np.array([rng.uniform(0, 0.6)], np.float32) if rng.integers(2) else None)
    return [boxes, scores, *limits], some(rng, center_point_box=pick(rng, 0, 1))


def roi_align(rng, opset):
    x = floats(rng, 2, 3, 8, 9)
    count = int(rng.integers(1, 4))
    begin = rng.uniform(-1, 10, (count, 2))
    rois = np.concatenate([begin, begin + rng.uniform(-0.5, 12, (count, 2))], 1).astype(np.float32)
    attributes = some(
        rng,
        mode=pick(rng, "avg", "max"),
        output_height=int(rng.integers(1, 4)),
        output_width=int(rng.integers(1, 4)),
        sampling_ratio=int(rng.integers(0, 4)),
        spatial_scale=float(pick(rng, 0.5, 1.0, 0.3)),
    )
    if opset >= 16:
        attributes |= some(rng, coordinate_transformation_mode=pick(rng, "half_pixel", "output_half_pixel"))
    return [x, rois, rng.integers(0, 2, count)], attributes


def rotary_embedding(rng, opset):
    heads, width, length = 2, 8, 5
    part = pick(rng, 0, 4)
    four = rng.integers(2)
    x = floats(rng, 2, heads, length, width) if four else floats(rng, 2, length, heads * width)
    half = (part or width) // 2
    by_place = rng.integers(2)
    shape = (10, half) if by_place else (2, length, half)
    angles = floats(rng, *shape)
    attributes = {"interleaved": pick(rng, 0, 1), "rotary_embedding_dim": part}
    if not four:
        attributes["num_heads"] = heads
    places = rng.integers(0, 10, (2, length)) if by_place else None
    return [x, np.cos(angles), np.sin(angles), places], attributes


def tensor_scatter(rng, opset):
    cache, update = floats(rng, 2, 3, 6, 2), floats(rng, 2, 3, int(rng.integers(1, 4)), 2)
    mode = pick(rng, "linear", "circular")
    last = 6 if mode == "circular" else 6 - update.shape[2] + 1
    return [cache, update, rng.integers(0, last, 2)], {"axis": pick(rng, 2, -2), "mode": mode}


# --- formulas for what ONNX Runtime has not, or has otherwise than the specification --------------------------------


def col2im_formula(x, image, block, strides, dilations, pads):
    """Each column added where its window lies; ONNX Runtime confuses the pads of one axis with a dilation."""
    axes = range(len(image))
    padded = [image[a] + pads[a] + pads[len(image) + a] for a in axes]
    places = [(padded[a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1 for a in axes]
    columns = x.reshape(len(x), -1, *block, *places)
    y = np.zeros((*columns.shape[:2], *padded))
    for tap in np.ndindex(*block):
        for place in np.ndindex(*places):
            at = tuple(tap[a] * dilations[a] + place[a] * strides[a] for a in axes)
            y[(..., *at)] += columns[(..., *tap, *place)]
    return y[(..., *(slice(pads[a], pads[a] + image[a]) for a in axes))].astype(np.float32)


def tensor_scatter_formula(cache, update, begins, axis, mode):
    y = cache.copy()
    for row, begin in enumerate(begins):
        for step in range(update.shape[axis]):
            y[row, :, (begin + step) % cache.shape[axis]] = update[row, :, step]
    return y


FORMULAS = {"Col2Im": col2im_formula, "TensorScatter": tensor_scatter_formula}
"""op -> (arrays, attributes) -> its output, in place of ONNX Runtime."""


CALLS = {
    "AffineGrid": affine_grid,
    "Attention": attention,
    "BlackmanWindow": window,
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "DeformConv": deform_conv,
    "Det": det,
    "GridSample": grid_sample,
    "HammingWindow": window,
    "HannWindow": window,
    "MaxUnpool": max_unpool,
    "MelWeightMatrix": mel_weight_matrix,
    "NegativeLogLikelihoodLoss": loss,
    "NonMaxSuppression": non_max_suppression,
    "RoiAlign": roi_align,
    "RotaryEmbedding": rotary_embedding,
    "SoftmaxCrossEntropyLoss": loss,
    "TensorScatter": tensor_scatter,
}
"""op -> (generator, opset) -> (inputs, attributes)"""
