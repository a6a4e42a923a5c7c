"""Normalization against ONNX Runtime, and against float64 where it has no kernel; layouts, statistics, refusals."""

import numpy as np
import pytest
from agreement import assert_close
from onnx_ops import OneNode, run_onnxruntime
from random_networks import seeds

from rnncore.errors import SpecError


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def check(op, attributes, arrays, outputs=1, opset=22, ours=None):
    """ONNX Runtime's numbers; the same in float64; every size of the first input a name."""
    expected = run_onnxruntime(op, attributes, arrays, outputs, opset=opset)
    found = OneNode(op, {**attributes, **(ours or {})}, arrays, named=range(arrays[0].ndim)).run()
    wide = [array.astype(np.float64) for array in arrays]
    wider = OneNode(op, {**attributes, **(ours or {})}, wide).run()
    for one, other, reference in zip(found, wider, expected, strict=True):
        assert_close(one, reference, 1e-5, op)
        assert_close(other, reference, 1e-5, f"{op} in float64")


def random_shape(rng, least=2):
    return [int(size) for size in rng.integers(1, 8, int(rng.integers(least, 5)))]


@pytest.mark.parametrize("seed", seeds(30))
def test_batch_normalization(seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, *random_shape(rng))
    channels = x.shape[1]
    variance = np.abs(floats(rng, channels))
    vectors = [floats(rng, channels), floats(rng, channels), floats(rng, channels), variance]
    check("BatchNormalization", {"epsilon": float(rng.choice([1e-5, 1e-2]))}, [x, *vectors])


@pytest.mark.parametrize("seed", seeds(30))
def test_instance_normalization(seed):
    rng = np.random.default_rng(seed)
    x = 3 * floats(rng, *random_shape(rng, least=3)) + 2
    check("InstanceNormalization", {"epsilon": 1e-3}, [x, floats(rng, x.shape[1]), floats(rng, x.shape[1])])


@pytest.mark.parametrize("seed", seeds(40))
def test_layer_normalization(seed):
    rng = np.random.default_rng(seed)
    x = 5 * floats(rng, *random_shape(rng, least=1)) - 3
    axis = int(rng.integers(-x.ndim, x.ndim))
    shape = x.shape[axis % x.ndim :]
    arrays = [x, floats(rng, *shape), *([floats(rng, *shape)] if rng.integers(2) else [])]
    outputs = 3 if rng.integers(2) else 1
    attributes = {"axis": axis, "epsilon": float(rng.choice([1e-5, 1e-2]))}
    check("LayerNormalization", attributes, arrays, outputs, opset=17, ours={"statistics": outputs == 3})


@pytest.mark.parametrize("seed", seeds(20))
def test_layer_normalization_of_float16_is_made_in_float32(seed):
    rng = np.random.default_rng(seed)
    x, scale = (100 * floats(rng, 3, 300)).astype(np.float16), floats(rng, 300).astype(np.float16)
    (found,) = OneNode("LayerNormalization", {}, [x, scale]).run()
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(wide.var(axis=-1, keepdims=True) + 1e-5) * scale.astype(np.float64)
    assert found.dtype == np.float16
    assert_close(found, expected, 1e-3)


@pytest.mark.parametrize("seed", seeds(20))
def test_rms_normalization(seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, *random_shape(rng, least=1))
    axis = int(rng.integers(-x.ndim, x.ndim))
    check("RMSNormalization", {"axis": axis}, [x, floats(rng, *x.shape[axis % x.ndim :])], opset=23)


@pytest.mark.parametrize("seed", seeds(20))
def test_group_normalization(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 5))
    x = 2 * floats(rng, 2, groups * int(rng.integers(1, 4)), *rng.integers(1, 6, int(rng.integers(1, 4)))) + 1
    scale, bias = floats(rng, x.shape[1]), floats(rng, x.shape[1])
    check("GroupNormalization", {"num_groups": groups, "epsilon": 1e-2}, [x, scale, bias], opset=21)


@pytest.mark.parametrize("seed", seeds(20))
def test_local_response_normalization(seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, 2, int(rng.integers(1, 9)), 3, 4)
    check("LRN", {"size": int(rng.choice([1, 3, 5])), "alpha": 0.3, "beta": 0.6, "bias": 1.5}, [x])


@pytest.mark.parametrize("axes", [None, [0, 2, 3], [1], [0, 1, 2, 3], [-1]])
def test_mean_variance_normalization(axes):
    x = 3 * floats(np.random.default_rng(0), 2, 3, 4, 5) - 1
    (found,) = OneNode("MeanVarianceNormalization", {} if axes is None else {"axes": axes}, [x]).run()
    wide, over = x.astype(np.float64), tuple(axes or (0, 2, 3))
    expected = (wide - wide.mean(axis=over, keepdims=True)) / (wide.std(axis=over, keepdims=True) + 1e-9)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "shapes", "message"),
    [
        ("BatchNormalization", {"training_mode": 1}, [(2, 3)] + [(3,)] * 4, "training_mode"),
        ("BatchNormalization", {}, [(2, 3)] + [(3,)] * 3 + [(2,)], "var"),
        ("BatchNormalization", {"epsilon": -1.0}, [(2, 3)] + [(3,)] * 4, "epsilon"),
        ("InstanceNormalization", {}, [(2, 3), (3,), (3,)], "spatial"),
        ("GroupNormalization", {"num_groups": 2}, [(2, 3), (3,), (3,)], "num_groups"),
        ("GroupNormalization", {"num_groups": 3, "stash_type": 10}, [(2, 3), (3,), (3,)], "stash_type"),
        ("LayerNormalization", {}, [(2, 3), (2,)], "broadcasts"),
        ("LayerNormalization", {"axis": 2}, [(2, 3), (3,)], "axis"),
        ("LayerNormalization", {"stash_type": 11}, [(2, 3), (3,)], "stash_type"),
        ("MeanVarianceNormalization", {"axes": [3]}, [(2, 3)], "axis"),
        ("LRN", {"size": 0}, [(2, 3)], "size"),
    ],
)
def test_refused(op, attributes, shapes, message):
    with pytest.raises(SpecError, match=message):
        OneNode(op, attributes, [np.ones(shape, np.float32) for shape in shapes])
