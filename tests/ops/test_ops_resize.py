"""Pad, Resize and Upsample: random nodes against ONNX Runtime, NumPy for what it does not do, refusals."""

import itertools

import numpy as np
import pytest
from agreement import assert_close, assert_same_bits
from onnx_ops import OneNode, run_onnxruntime
from random_networks import seeds

from rnncore.errors import InputError, SpecError
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, Value
from rnncore.ops.dimensions import INDEPENDENT, Reach
from rnncore.runtime.model import Model


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


# --- Pad ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(80))
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_random_pads(mode, seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, *rng.integers(3, 6, int(rng.integers(1, 4))))
    dtype = rng.choice(["float32", "float64", "int64", "int32", "bool"]) if mode == "constant" else "float32"
    x = (x > 0) if dtype == "bool" else (10 * x).astype(dtype)
    axes = sorted(rng.choice(x.ndim, int(rng.integers(1, x.ndim + 1)), replace=False).tolist())
    pads = rng.integers(-1 if mode == "constant" else 0, 3, 2 * len(axes))
    fill = np.array(7, x.dtype) if mode == "constant" and rng.integers(2) else None
    if len(axes) == x.ndim and rng.integers(2):
        arrays = [x, pads, fill]
    else:
        arrays = [x, pads, fill, np.array([axis - x.ndim * int(rng.integers(2)) for axis in axes])]
    (expected,) = run_onnxruntime("Pad", {"mode": mode}, arrays)
    for constants, named in itertools.product(
        [(), ("pads", "constant_value", "axes"), ("pads", "axes")], [(), range(x.ndim)]
    ):
        (found,) = OneNode("Pad", {"mode": mode}, arrays, constants, named).run()
        assert_same_bits(found, expected, f"{constants} {named}")


def test_pads_larger_than_the_input():
    x = floats(np.random.default_rng(0), 2, 3)
    for mode in ("reflect", "edge", "wrap"):
        (found,) = OneNode("Pad", {"mode": mode, "pads": [0, 7, 0, 8]}, [x]).run()
        assert_same_bits(found, np.pad(x, [(0, 0), (7, 8)], mode=mode))


def test_a_pad_of_a_size_with_a_name():
    x = floats(np.random.default_rng(0), 2, 5)
    node = OneNode("Pad", {"pads": [0, 2, 0, -1]}, [x], named=(1,))
    assert node.spec.values["n"].shape == (2, "S1+1")
    node = OneNode("Pad", {"pads": [0, 2, 0, 0], "mode": "reflect"}, [x], named=(1,))
    assert node.spec.values["n"].shape == (2, "S1+2")


def test_pads_from_the_graph_have_unknown_sizes_on_their_axes_only():
    x = floats(np.random.default_rng(0), 2, 5)
    node = OneNode("Pad", {"axes": [1]}, [x, np.array([1, 1])])
    assert node.spec.values["n"].shape == (2, "?")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pads": [1, 1], "mode": "mirror"}, "mode"),
        ({"pads": [1, 1, 1]}, "pads"),
        ({"pads": [1, 1, 1, 1, 1]}, "pads"),
        ({}, "pads missing"),
        ({"pads": [1, 1], "axes": [5]}, "axis"),
        ({"pads": [1, 1, 1, 1], "axes": [0, 0]}, "each axis once"),
        ({"pads": [0, -9, 0, 0]}, "take more"),
    ],
)
def test_refused_pads(attributes, message):
    with pytest.raises(SpecError, match=message):
        OneNode("Pad", attributes, [np.ones((2, 3), np.float32)])


def test_nothing_to_reflect():
    spec = Spec([Input("x", "float", ("B", 3))], [Node("n", "Pad", "x", {"pads": [1, 0, 0, 0], "mode": "edge"})], ["n"])
    with pytest.raises(InputError, match="size 0"):
        Model(spec, {}).run({"x": np.ones((0, 3), np.float32)})


@pytest.mark.parametrize(
    ("attributes", "reach"),
    [
        ({"pads": (0, 2, 0, 0)}, Reach(2, 0)),
        ({"pads": (0, 2, 0, 1)}, None),
        ({"pads": (0, -2, 0, 0)}, None),
        ({"pads": (3, 0, 1, 0)}, INDEPENDENT),
        ({"pads": (0, 2, 0, 0), "mode": "reflect"}, None),
        ({"pads": (2, 2), "axes": (0,)}, INDEPENDENT),
    ],
)
def test_pads_over_time(attributes, reach):
    attributes = OneNode("Pad", attributes, [np.ones((4, 5), np.float32)]).node.attributes
    value = Value("float", (4, 5))
    dimensions = OPS["Pad"].dimensions(attributes, [value, None, None, None], [value])
    assert next((found.reach for found in dimensions if found.inputs == {0: 1}), None) == reach


# --- Resize -------------------------------------------------------------------------------------------------------

TRANSFORMS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("seed", seeds(60))
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_random_resizes(mode, transform, seed):
    """One or two axes, behind those of the batch and the channels."""
    rng = np.random.default_rng(seed)
    x = floats(rng, 1, 2, *rng.integers(2, 9, 2))
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    if mode == "cubic":
        attributes.update(cubic_coeff_a=float(rng.choice([-0.75, -0.5])), exclude_outside=int(rng.integers(2)))
    steps = [int(rng.choice([1, 2, 3, 4])) / 2 for _ in range(2)]
    if rng.integers(2):
        arrays = [x, None, np.array([1, 1, *steps], np.float32)]
    else:
        arrays = [x, None, None, np.array([1, 2, *rng.integers(1, 15, 2)])]
    (expected,) = run_onnxruntime("Resize", attributes, arrays)
    for constants in ((), ("scales", "sizes")):
        (found,) = OneNode("Resize", attributes, arrays, constants).run()
        assert_close(found, expected, 1e-5, f"{constants}")


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("sizes", [(7, 8), (3, 3), (12, 5)])
def test_resize_some_axes_and_keep_the_proportions(policy, sizes):
    x = floats(np.random.default_rng(0), 1, 1, 4, 6)
    attributes = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
    arrays = [x, None, None, np.array(sizes)]
    (expected,) = run_onnxruntime("Resize", attributes, arrays)
    (found,) = OneNode("Resize", attributes, arrays, ("sizes",)).run()
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("sizes", [(5, 4), (1, 1), (8, 3)])
def test_crop_and_resize(mode, sizes):
    x = floats(np.random.default_rng(0), 1, 1, 6, 7)
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 9.0,
    }
    roi = np.array([0, 0, 0.4, -0.2, 1, 1, 1.3, 0.7], np.float32)
    arrays = [x, roi, None, np.array([1, 1, *sizes])]
    (expected,) = run_onnxruntime("Resize", attributes, arrays)
    (found,) = OneNode("Resize", attributes, arrays, ("sizes", "roi")).run()
    assert_close(found, expected, 1e-5)


def test_resize_one_axis_of_a_sequence():
    x = floats(np.random.default_rng(0), 2, 3, 5)
    node = OneNode("Resize", {"scales": [1, 1, 2], "mode": "linear"}, [x], named=(0, 2))
    assert node.spec.values["n"].shape == ("S0", 3, "2*S2")
    (expected,) = run_onnxruntime("Resize", {"mode": "linear"}, [x, None, np.array([1, 1, 2], np.float32)])
    assert_close(node.run()[0], expected, 1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode):
    x = floats(np.random.default_rng(0), 1, 2, 3, 4)
    scales = np.array([1, 1, 2, 3], np.float32)
    (expected,) = run_onnxruntime("Upsample", {"mode": mode}, [x, scales], opset=9)
    for constants in ((), ("scales",)):
        assert_close(OneNode("Upsample", {"mode": mode}, [x, scales], constants).run()[0], expected, 1e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scales": [1.0, 2.0], "antialias": 1}, "antialias"),
        ({"scales": [1.0, 2.0], "mode": "area"}, "mode"),
        ({"scales": [1.0, 2.0], "nearest_mode": "simple"}, "nearest_mode"),
        ({"scales": [1.0, 2.0], "coordinate_transformation_mode": "center"}, "coordinate_transformation_mode"),
        ({"scales": [1.0, 2.0], "coordinate_transformation_mode": "tf_crop_and_resize"}, "roi"),
        ({"scales": [1.0]}, "scales"),
        ({"scales": [1.0, 0.0]}, "positive"),
        ({"scales": [1.0, 2.0], "sizes": [2, 6]}, "one of scales and sizes"),
        ({}, "one of scales and sizes"),
    ],
)
def test_refused_resizes(attributes, message):
    with pytest.raises(SpecError, match=message):
        OneNode("Resize", attributes, [np.ones((2, 3), np.float32)])


def test_only_nearest_resizes_integers():
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(OneNode("Resize", {"scales": [1, 2]}, [x]).run()[0], x.repeat(2, axis=1))
    with pytest.raises(SpecError, match="mode='linear'"):
        OneNode("Resize", {"scales": [1, 2], "mode": "linear"}, [x])


def test_resize_over_time():
    attributes = OneNode("Resize", {"scales": [1, 2, 1]}, [np.ones((1, 2, 3), np.float32)]).node.attributes
    value = Value("float", (1, 2, 3))
    dimensions = OPS["Resize"].dimensions(attributes, [value, None, None, None], [value])
    assert [(dict(found.inputs), found.reach) for found in dimensions] == [({0: 0}, INDEPENDENT), ({0: 2}, INDEPENDENT)]
