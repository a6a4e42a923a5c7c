"""Conv, ConvTranspose and pooling: random nodes against ONNX Runtime and PyTorch, on every instruction set, to the bit
whatever the batch and the threads; what streaming asks of them; what is refused."""

import signal
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from agreement import assert_close, assert_same_bits, assert_unchanged
from onnx_ops import OneNode, run_onnxruntime
from random_networks import seeds

from rnncore.errors import InputError, SpecError
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.kernels import _convolution, _runtime
from rnncore.ops import OPS, Value, convolution
from rnncore.ops.dimensions import INDEPENDENT, WHOLE, Reach
from rnncore.ops.windows import Window
from rnncore.runtime.model import Model


def integers(rng, low, high, count):
    return rng.integers(low, high, count).tolist()


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def random_window(rng, axes, padded=True):
    """kernel_shape, strides and dilations, and pads or auto_pad, of a window that fits."""
    kernel = integers(rng, 1, 5, axes)
    found = {"kernel_shape": kernel, "strides": integers(rng, 1, 4, axes), "dilations": integers(rng, 1, 3, axes)}
    kind = rng.integers(4)
    if kind == 0:
        found["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        if found["auto_pad"] != "VALID":
            # with dilations ONNX Runtime refuses or makes fewer outputs, with larger strides its pads are negative
            found["dilations"] = [1] * axes
            found["strides"] = [min(k, s) for k, s in zip(kernel, found["strides"], strict=True)]
    elif kind > 1 and padded:
        found["pads"] = [int(rng.integers(0, k)) for k in kernel + kernel]
    return found


def random_sizes(rng, window):
    axes = len(window["kernel_shape"])
    extents = [(k - 1) * d + 1 for k, d in zip(window["kernel_shape"], window["dilations"], strict=True)]
    return [int(rng.integers(extent, extent + (60, 25, 7)[axes - 1])) for extent in extents]


@pytest.fixture(params=_runtime.usable_isas())
def isa(request):
    before = _runtime.current_isa()
    _runtime.choose_isa(request.param)
    yield request.param
    _runtime.choose_isa(before)


def random_convolution(seed):
    """Attributes and arrays of a Conv."""
    rng = np.random.default_rng(seed)
    window = random_window(rng, int(rng.integers(1, 4)))
    group = int(rng.choice([1, 1, 1, 2, 3, 8]))
    channels, outputs = group * int(rng.integers(1, 10)), group * int(rng.choice([1, 2, 3, 5, 17, 40]))
    if rng.integers(5) == 0:
        channels, group = 90, 1  # several chains of a sum
    x = floats(rng, int(rng.integers(1, 4)), channels, *random_sizes(rng, window))
    weight = floats(rng, outputs, channels // group, *window["kernel_shape"])
    bias = floats(rng, outputs) if rng.integers(2) else None
    return {**window, "group": group}, x, weight, bias


def owning(op, attributes, x, weight, bias, dtype, **options):
    """A Model of one node that owns its weights."""
    group = attributes["group"]
    transposed = op == "ConvTranspose"
    sizes = {"input_size": x.shape[1], "output_size": weight.shape[1] * group if transposed else weight.shape[0]}
    node = Node("n", op, "x", {**attributes, **sizes, "bias": bias is not None})
    spec = Spec([Input("x", "float", x.shape)], [node], ["n"])
    weights = {"n.weight": weight, **({} if bias is None else {"n.bias": bias})}
    return Model(spec, weights, dtype, **options)


@pytest.mark.parametrize("seed", seeds(150))
def test_random_convolutions(seed, isa):
    attributes, x, weight, bias = random_convolution(seed)
    (expected,) = run_onnxruntime("Conv", attributes, [x, weight, bias])
    named = (0, *range(2, x.ndim))
    (given,) = OneNode("Conv", attributes, [x, weight, bias], named=named).run()
    owned = owning("Conv", attributes, x, weight, bias, "float32")(x)
    assert_close(given, expected, 1e-5, "weights as inputs")
    assert_same_bits(owned, given, "owned weights")
    wide = owning("Conv", attributes, x, weight, bias, "float64")(x.astype(np.float64))
    assert wide.dtype == np.float64
    assert_close(owned, wide, 1e-5, "float64")


@pytest.mark.parametrize("seed", seeds(20))
def test_float64_convolutions_are_torchs(seed):
    rng = np.random.default_rng(seed)
    axes, group = int(rng.integers(1, 4)), int(rng.choice([1, 2]))
    x = rng.standard_normal((2, 4, *integers(rng, 6, 9, axes)))
    weight = rng.standard_normal((6, 4 // group, *integers(rng, 1, 4, axes)))
    bias = rng.standard_normal(6)
    pads, strides = integers(rng, 0, 3, axes), integers(rng, 1, 3, axes)
    function = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[axes - 1]
    tensors = [torch.from_numpy(array) for array in (x, weight, bias)]
    expected = function(*tensors, stride=strides, padding=pads, groups=group).numpy()
    attributes = {"kernel_shape": list(weight.shape[2:]), "strides": strides, "pads": pads + pads, "group": group}
    found = owning("Conv", attributes, x, weight, bias, "float64")(x)
    assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("seed", seeds(40))
def test_bits_do_not_depend_on_the_batch_or_the_threads(seed, isa):
    attributes, x, weight, bias = random_convolution(seed + 1000)
    alone = owning("Conv", attributes, x, weight, bias, "float32", num_threads=1)
    shared = owning("Conv", attributes, x, weight, bias, "float32", num_threads=2)
    many = np.concatenate([x, floats(np.random.default_rng(seed), 30, *x.shape[1:])])
    for model in (alone, shared):
        found = many_images(model, many)
        for image in range(len(x)):
            assert_same_bits(found[image], many_images(alone, x[image : image + 1])[0], f"image {image}")


def many_images(model, x):
    """The one node of a model over another number of images than its Spec says."""
    node = model.spec.nodes[0]
    own = {name.removeprefix("n."): array for name, array in model.weights.items()}
    return OPS[node.op].compiled(node.attributes, own, model._num_threads or 1)(x)


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 31, 33, 49, 70, 97])
def test_bits_do_not_depend_on_the_kernel(length, isa):
    """Outputs in the lanes, positions in the lanes, one output at a time: the same sums."""
    rng = np.random.default_rng(length)
    x, weight = floats(rng, 1, 300, length + 2), floats(rng, 40, 300, 3)
    ones = (1,)

    def run(weight, x):
        length = x.shape[2] - 2
        return _convolution.Convolution(weight, None, 1, ones, ones, lambda shape: ((0,), (length,)), False, 1)(x)

    whole = run(weight, x)
    for output in (0, 17, 39):
        assert_same_bits(run(weight[output : output + 1], x)[0, 0], whole[0, output], "one output")
    for at in range(0, length, 5):
        assert_same_bits(
            run(weight, np.ascontiguousarray(x[:, :, at : at + 3]))[0, :, 0], whole[0, :, at], "a position"
        )


def test_relu_is_fused(isa):
    attributes, x, weight, bias = random_convolution(3)
    plain = owning("Conv", attributes, x, weight, bias, "float32")(x)
    fused = owning("Conv", {**attributes, "activation": "Relu"}, x, weight, bias, "float32")(x)
    assert (plain < 0).any()
    assert_same_bits(fused, np.maximum(plain, 0))
    x[0, 0, ..., -1] = np.nan
    for dtype in ("float32", "float64"):
        fused = owning("Conv", {**attributes, "activation": "Relu"}, x, weight, bias, dtype)(x.astype(dtype))
        assert np.isnan(fused).any()


def test_other_weights_each_time():
    """Weights that are values of the graph may change from call to call, also in place."""
    rng = np.random.default_rng(0)
    x, weight = floats(rng, 1, 3, 20), floats(rng, 4, 3, 5)
    model = Model(OneNode("Conv", {}, [x, weight]).spec, {})
    for _ in range(3):
        (expected,) = run_onnxruntime("Conv", {}, [x, weight])
        assert_close(model.run({"i0": x, "i1": weight})["n"], expected, 1e-5)
        weight *= 2


@pytest.mark.parametrize("shape", [(2, 3, 40), (1, 3, 9), (5, 3, 3), (0, 3, 8)])
def test_one_model_many_shapes(shape):
    rng = np.random.default_rng(0)
    weight, bias = floats(rng, 4, 3, 3), floats(rng, 4)
    node = Node("n", "Conv", "x", {"kernel_shape": [3], "pads": [2, 0], "input_size": 3, "output_size": 4})
    model = Model(Spec([Input("x", "float", ("B", 3, "T"))], [node], ["n"]), {"n.weight": weight, "n.bias": bias})
    assert model.outputs[0].shape == ("B", 4, "T")
    for _ in range(2):
        x = floats(rng, *shape)
        expected = torch.nn.functional.conv1d(
            torch.nn.functional.pad(torch.from_numpy(x), (2, 0)), torch.from_numpy(weight), torch.from_numpy(bias)
        )
        assert_close(many_images(model, x), expected.numpy(), 1e-5)
    with pytest.raises(InputError, match="expected"):
        model(floats(rng, 2, 4, 9))


def test_memory_layouts_and_subnormals():
    attributes, x, weight, bias = random_convolution(5)
    model = owning("Conv", attributes, x, weight, bias, "float32")
    expected = model(x)
    assert_same_bits(model(np.asfortranarray(x)), expected)
    assert_same_bits(many_images(model, x[::-1])[::-1], expected)
    unaligned = np.frombuffer(b"0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert_same_bits(many_images(model, unaligned), expected)
    assert (
        np.finfo(np.float32).smallest_subnormal / np.float32(2) * np.float32(4) == 0
    )  # the mode is the caller's again
    assert np.float32(1e-39) * np.float32(2) > 0


@pytest.mark.parametrize("seed", seeds(60))
def test_random_transposed_convolutions(seed):
    rng = np.random.default_rng(seed)
    axes, group = int(rng.integers(1, 3)), int(rng.choice([1, 2, 3]))
    window = random_window(rng, axes)
    channels = group * int(rng.integers(1, 5))
    x = floats(rng, 2, channels, *integers(rng, 3, 12, axes))
    weight = floats(rng, channels, int(rng.integers(1, 6)), *window["kernel_shape"])
    bias = floats(rng, weight.shape[1] * group) if rng.integers(2) else None
    attributes = {**window, "group": group}
    if attributes.get("auto_pad") == "VALID" or "auto_pad" not in attributes:
        kind = rng.integers(3)
        if kind == 0:
            attributes["output_padding"] = [int(rng.integers(0, stride)) for stride in window["strides"]]
        elif kind == 1 and "pads" not in attributes:
            extents = [(k - 1) * d + 1 for k, d in zip(window["kernel_shape"], window["dilations"], strict=True)]
            full = [(n - 1) * s + e for n, s, e in zip(x.shape[2:], window["strides"], extents, strict=True)]
            attributes["output_shape"] = [max(1, size - int(rng.integers(0, 3))) for size in full]
    try:
        (expected,) = run_onnxruntime("ConvTranspose", attributes, [x, weight, bias])
    except Exception:
        with pytest.raises(SpecError):  # pads that leave nothing
            OneNode("ConvTranspose", attributes, [x, weight, bias])
        return
    (given,) = OneNode("ConvTranspose", attributes, [x, weight, bias], named=(0,)).run()
    assert_close(given, expected, 1e-5)
    assert_same_bits(owning("ConvTranspose", attributes, x, weight, bias, "float32")(x), given)
    wide = owning("ConvTranspose", attributes, x, weight, bias, "float64")(x.astype(np.float64))
    assert_close(wide, expected, 1e-5)


# --- pooling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(120))
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_random_pools(op, seed):
    rng = np.random.default_rng(seed)
    attributes = random_window(rng, int(rng.integers(1, 4)))
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = int(rng.integers(2))
    if op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    if op == "LpPool":
        attributes["p"] = int(rng.integers(1, 4))
    x = floats(rng, 2, 3, *random_sizes(rng, attributes))
    several = op == "MaxPool" and bool(rng.integers(2))
    expected = run_onnxruntime(op, attributes, [x], outputs=1 + several)
    attributes.update({"indices": True} if several else {})
    for named in ((), range(x.ndim)):
        found = OneNode(op, attributes, [x], named=named).run()
        assert_close(found[0], expected[0], 1e-5)
        if several:
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pools_of_lines_of_any_length(op, stride):
    """Both paths, over the ends of vectors, with NaN and infinities; sums of windows are in one order in both."""
    rng = np.random.default_rng(stride)
    attributes = {"kernel_shape": [2, 3], "strides": [2, stride], "pads": [1, 1, 0, 2], "dilations": [1, 2]}
    for size in (5, 8, 15, 16, 17, 33, 70):
        x = floats(rng, 2, 3, 6, size)
        x[0, 1, 2, 3], x[1, 0, 4, 4], x[1, 2, 0, 0] = np.nan, np.inf, -np.inf
        (found,) = OneNode(op, attributes, [x]).run()
        (wide,) = OneNode(op, attributes, [x.astype(np.float64)]).run(dtype="float64")
        assert_close(found, wide, 1e-6)
        (turned,) = OneNode(op, attributes, [np.asfortranarray(x)]).run()
        assert_same_bits(turned, found)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_max_of_integers(dtype):
    x = np.random.default_rng(0).integers(-100 if dtype == "int8" else 0, 100, (2, 3, 9, 8)).astype(dtype)
    attributes = {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0]}
    (expected,) = run_onnxruntime("MaxPool", attributes, [x])
    np.testing.assert_array_equal(OneNode("MaxPool", attributes, [x]).run()[0], expected)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_global_pools(op, axes):
    x = floats(np.random.default_rng(axes), 2, 3, *[5, 4, 6][:axes])
    (expected,) = run_onnxruntime(op, {}, [x], opset=17)
    assert_close(OneNode(op, {}, [x], named=range(x.ndim)).run()[0], expected, 1e-5)


# --- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(60))
@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_context_is_what_a_step_needs(op, seed):
    """Steps outside of the context do not touch an output; with the context alone it comes out the same."""
    rng = np.random.default_rng(seed)
    window = random_window(rng, 1)
    window["pads"] = window.get("pads", [0, 0])
    window.pop("auto_pad", None)
    attributes = dict(window)
    weight = floats(rng, 2, 3, *window["kernel_shape"])
    arrays = [weight] if op == "Conv" else []
    x = floats(rng, 1, 3, 40)
    reach = reach_of(OneNode(op, attributes, [x, *arrays]).node.attributes, (1, 3, 40), op)
    left, right, stride = reach.before, reach.after, reach.stride
    (whole,) = OneNode(op, attributes, [x, *arrays]).run()
    for step in range(whole.shape[2]):
        changed = x.copy()
        first, last = step * stride - left, step * stride + right
        outside = [t for t in range(40) if not first <= t <= last]
        changed[:, :, outside] = 100 * floats(rng, 1, 3, len(outside))
        (other,) = OneNode(op, attributes, [changed, *arrays]).run()
        assert_same_bits(other[:, :, step], whole[:, :, step])
        if 0 <= first <= last < 40 and left >= 0:
            (part,) = OneNode(op, {**attributes, "pads": [0, 0]}, [x[:, :, first : last + 1], *arrays]).run()
            assert_unchanged({"y": part[:, :, 0]}, {"y": whole[:, :, step]}, "float32")


def test_context_of_other_axes_and_automatic_pads():
    attributes = OneNode("Conv", {"kernel_shape": [3], "auto_pad": "SAME_UPPER"}, [*conv_arrays()]).node.attributes
    assert reach_of(attributes) == Reach(1, 1)
    attributes = {**attributes, "strides": (2,)}
    assert reach_of(attributes) == WHOLE
    assert reach_of(attributes, axis=1) == WHOLE
    assert reach_of(attributes, axis=0) == INDEPENDENT


def reach_of(attributes, shape=("B", 3, "T"), op="Conv", axis=2):
    """How far the outputs of a convolution or a pool look along an axis."""
    inputs = [Value("float", shape), None, None][: OPS[op].arity[1]]
    dimensions = OPS[op].dimensions(attributes, inputs, [Value("float", shape)])
    return next((found.reach for found in dimensions if found.inputs == {0: axis}), WHOLE)


def conv_arrays():
    rng = np.random.default_rng(0)
    return floats(rng, 1, 3, 9), floats(rng, 2, 3, 3)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": [0]}, "strides"),
        ({"strides": [1, 1]}, "strides"),
        ({"pads": [1]}, "pads"),
        ({"pads": [-1, 0]}, "pads"),
        ({"dilations": [True]}, "dilations"),
        ({"auto_pad": "SAME"}, "auto_pad"),
        ({"auto_pad": "VALID", "pads": [1, 1]}, "expected one of them"),
        ({"group": 2}, "channels"),
        ({"group": 0}, "group"),
        ({"kernel_shape": [4]}, "kernel_shape"),
        ({"activation": "Tanh"}, "activation"),
        ({"dilations": [9]}, "window"),
        ({"input_size": 3, "output_size": 2, "kernel_shape": [3]}, "expected one of them"),
    ],
)
def test_refused_convolutions(attributes, message):
    with pytest.raises(SpecError, match=message):
        OneNode("Conv", attributes, conv_arrays())


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("MaxPool", {"kernel_shape": [2], "storage_order": 1}, "storage_order"),
        ("MaxPool", {"kernel_shape": [2], "pads": [2, 0]}, "smaller than the window"),
        ("MaxPool", {"kernel_shape": [10]}, "window"),
        ("AveragePool", {"kernel_shape": [2], "ceil_mode": 2}, "ceil_mode"),
        ("LpPool", {"kernel_shape": [2], "p": 0}, "p=0"),
        (
            "ConvTranspose",
            {"kernel_shape": [2], "input_size": 3, "output_size": 3, "output_shape": [0]},
            "output_shape",
        ),
        ("ConvTranspose", {"kernel_shape": [2]}, "input_size"),
    ],
)
def test_refused_windows(op, attributes, message):
    with pytest.raises(SpecError, match=message):
        OneNode(op, attributes, conv_arrays()[:1])


# --- long calls, many callers -------------------------------------------------------------------------------------


def test_patches_are_made_in_parts(monkeypatch):
    """Of a large image in float64 all patches together would be gigabytes; the parts give the same numbers."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        axes, group = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        sizes = [rng.integers(1, high, axes) for high in (4, 4, 3)]
        kernel, strides, dilations = (tuple(map(int, size)) for size in sizes)
        pads = tuple(map(int, rng.integers(0, 2, 2 * axes)))
        window = Window(kernel, strides, dilations, pads[:axes], pads[axes:])
        x = rng.standard_normal((2, 2 * group, *rng.integers(7, 11, axes)))
        weight = rng.standard_normal((3 * group, 2, *kernel))
        monkeypatch.setattr(convolution, "PATCHES", 1 << 24)
        whole = convolution.convolve(x, weight, None, window, group)
        monkeypatch.setattr(convolution, "PATCHES", int(rng.integers(1, 400)))
        np.testing.assert_allclose(convolution.convolve(x, weight, None, window, group), whole, 1e-12, 1e-12)
    monkeypatch.undo()
    tracemalloc.start()
    window = Window((30, 30), (1, 1), (1, 1), (0, 0), (0, 0))
    convolution.convolve(np.zeros((1, 1, 500, 500)), np.zeros((1, 1, 30, 30)), None, window, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 8 * convolution.PATCHES  # all together 1.6 GB


def test_a_long_call_can_be_interrupted():
    """In CPU time, of which other programs take none: half of what the whole call takes is far too late."""
    x = np.zeros((1, 256, 128, 128), np.float32)
    weight = np.zeros((512, 256, 5, 5), np.float32)  # 54e9 multiply-adds
    attributes = {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], "group": 1}
    model = owning("Conv", attributes, x, weight, None, "float32", num_threads=1)

    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    start = time.process_time()
    model(x)
    whole = time.process_time() - start
    before = signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, 0.05)
        start = time.process_time()
        with pytest.raises(Stopped):
            model(x)
        assert time.process_time() - start < 0.05 + whole / 2
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    small = np.zeros((1, 256, 4, 4), np.float32)
    assert many_images(model, small).shape == (1, 512, 4, 4)


def test_many_threads_and_sizes():
    """One model, called from several threads with images of several sizes, more than there are plans kept."""
    rng = np.random.default_rng(0)
    weight, bias = floats(rng, 8, 4, 3), floats(rng, 8)
    attributes = {"kernel_shape": [3], "pads": [1, 1], "group": 1}
    images = [floats(rng, 2, 4, length) for length in range(1, 41)]
    model = owning("Conv", attributes, images[0], weight, bias, "float32")
    expected = [many_images(model, x) for x in images]
    own = {"weight": weight, "bias": bias}
    run = OPS["Conv"].compiled(model.spec.nodes[0].attributes, own, 2)
    with ThreadPoolExecutor(4) as pool:
        for found, reference in zip(pool.map(run, images * 10), expected * 10, strict=True):
            assert_same_bits(found, reference)


# --- compiled pooling ---------------------------------------------------------------------------------------------


def random_pooling(rng):
    """Attributes and images: windows on both sides of every vector's width, in front of and behind the image."""
    axes = int(rng.integers(1, 4))
    kernel, dilations = rng.integers(1, 5, axes), rng.integers(1, 3, axes)
    extents = (kernel - 1) * dilations + 1
    pads = np.concatenate([rng.integers(0, extents), rng.integers(0, extents)])
    widest = (90, 40, 9)[axes - 1]
    sizes = extents + rng.integers(0, widest, axes)
    attributes = {
        "kernel_shape": tuple(kernel.tolist()),
        "strides": tuple(rng.integers(1, 7, axes).tolist()),
        "dilations": tuple(dilations.tolist()),
        "pads": tuple(pads.tolist()),
        "ceil_mode": int(rng.integers(2)),
    }
    images = rng.integers(1, 6, 2) if rng.integers(2) else np.array([1, 1])
    return attributes, rng.standard_normal((*images, *sizes)).astype(np.float32)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("seed", seeds(60))
def test_compiled_pooling_is_the_definition(isa, op, seed):
    """Against NumPy's windows, axis by axis; a NaN is the result of every window it stands in, and of no other."""
    attributes, x = random_pooling(np.random.default_rng(seed))
    node = OneNode(op, attributes, [x], named=(0, 2))
    expected = OPS[op].run(node.node.attributes, {}, x)
    np.testing.assert_array_equal(node.run()[0], expected)
    x = np.where(np.random.default_rng(seed).random(x.shape) < 0.02, np.float32(np.nan), x)
    node = OneNode(op, attributes, [x])
    np.testing.assert_array_equal(node.run()[0], OPS[op].run(node.node.attributes, {}, x))


def test_pooling_of_images_of_many_sizes_in_turn():
    model = Model(OneNode("MaxPool", {"kernel_shape": (3,)}, [np.zeros((1, 1, 9), np.float32)], named=(2,)).spec, {})
    for size in (*range(3, 40), 3, 4):
        x = np.arange(size, dtype=np.float32).reshape(1, 1, -1)
        np.testing.assert_array_equal(model(x), x[:, :, 2:])
        np.testing.assert_array_equal(model(-x[:, :, ::-1]), -x[:, :, ::-1][:, :, 2:])
