"""What is cut off behind a convolution: the same bits with smaller pads, and a causal convolution that streams."""

import numpy as np
import pytest
import torch
from agreement import assert_unchanged
from random_networks import seeds
from torch import nn

import rnncore
from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.passes import simplify


def network(conv, cut, rank=3, extra=()):
    """Conv, Slice, GRU over the last axis, with random weights."""
    spatial = ("H", "T")[4 - rank :]
    nodes = [
        Node("conv", "Conv", "x", {"input_size": 3, "output_size": 4, "bias": True, **conv}),
        Node("cut", "Slice", "conv", cut),
        Node("y", "Relu", "cut"),
        *extra,
    ]
    spec = Spec([Input("x", "float", ("B", 3, *spatial))], nodes, ["y", *(node.name for node in extra)])
    rng = np.random.default_rng(0)
    return spec, {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}


@pytest.mark.parametrize("seed", seeds(40))
def test_the_bits_stay_at_every_length(seed):
    """Any kernel, dilation, pads, and cut at both ends; lengths from 1 on: the same arrays, fewer nodes or not."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(3, 5))
    axes = rank - 2
    kernel, dilations = rng.integers(1, 5, axes), rng.integers(1, 3, axes)
    extent = (kernel - 1) * dilations + 1
    pads = [int(rng.integers(0, extent[axis] + 1)) for axis in (*range(axes), *range(axes))]
    conv = {"kernel_shape": tuple(map(int, kernel)), "dilations": tuple(map(int, dilations)), "pads": tuple(pads)}
    strides = (1,) * (axes - 1) + (int(rng.choice([1, 1, 1, 2])),)
    first, last = int(rng.integers(0, 3)) * int(rng.integers(2)), int(rng.integers(0, extent[-1] + 1))
    ends = -last if last else (1 << 63) - 1
    axis = int(rng.choice([rank - 1, -1]))
    spec, weights = network({**conv, "strides": strides}, {"starts": (first,), "ends": (ends,), "axes": (axis,)}, rank)
    simple, left, _ = simplify(spec, weights)
    before, after = Model(spec, weights), Model(simple, left)
    for length in range(1, 9):
        x = rng.standard_normal((2, 3, *[6] * (axes - 1), length)).astype(np.float32)
        try:
            expected = before.run({"x": x})["y"]
        except rnncore.InputError:
            continue
        found = after.run({"x": x})["y"]
        assert found.shape == expected.shape and found.tobytes() == expected.tobytes(), (conv, first, last, length)


CAUSAL = {"kernel_shape": (3,), "pads": (4, 4), "dilations": (2,)}
CUT = {"starts": (0,), "ends": (-4,), "axes": (2,)}


def test_the_slice_goes():
    spec, weights = network(CAUSAL, CUT)
    simple, _, notes = simplify(spec, weights)
    conv = simple.nodes[0]
    assert [node.op for node in simple.nodes] == ["Conv", "Relu"] and conv.attributes["pads"] == (4, 0)
    assert "cut padding (1)" in notes


@pytest.mark.parametrize(
    ("conv", "cut", "extra"),
    [
        ({**CAUSAL, "strides": (2,)}, CUT, ()),
        (CAUSAL, {**CUT, "ends": (-5,)}, ()),  # more than the padding: outputs of the input are left out
        (CAUSAL, {**CUT, "starts": (1,)}, ()),  # what is left would be an error where it was empty
        (CAUSAL, {**CUT, "steps": (2,)}, ()),
        (CAUSAL, {"starts": (0,), "ends": (2,), "axes": (1,)}, ()),  # channels
        (CAUSAL, {**CUT, "ends": (7,)}, ()),  # a place that is not counted from the end
        ({**CAUSAL, "pads": None, "auto_pad": "SAME_UPPER"}, CUT, ()),
        (CAUSAL, CUT, (Node("whole", "Relu", "conv"),)),  # read elsewhere too
    ],
)
def test_what_is_something_else_stays(conv, cut, extra):
    spec, weights = network(conv, cut, extra=extra)
    simple, _, _ = simplify(spec, weights)
    assert "Slice" in [node.op for node in simple.nodes]


# --- streams ------------------------------------------------------------------------------------------------------


class Chomp(nn.Module):
    """A block of a temporal convolutional network, as it is mostly written."""

    def __init__(self, kernel=3, dilation=2):
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, kernel, padding=self.pad, dilation=dilation))

    def forward(self, x):
        return torch.relu(self.conv(x)[:, :, : -self.pad].contiguous()) + x


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Chomp(), Chomp(2, 4))
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x):
        y = self.blocks(x.transpose(1, 2)).transpose(1, 2)
        return y if self.gru is None else self.gru(y)[0]


def pieces_of(model, x, cuts):
    stream = model.stream(len(x))
    parts = [stream.feed(part) for part in np.split(x, cuts, axis=1)]
    return np.concatenate([*parts, stream.finish()], axis=1)


def models(tmp_path):
    """The same modules through the exporter and through both of PyTorch's ONNX exporters."""
    whole, convolutions, x = Causal().eval(), Causal().eval(), torch.randn(2, 20, 6)
    convolutions.gru = None  # whose steps the newer exporter fixes
    for module in (whole, convolutions):
        yield Model(*rnncore.export.from_torch(module, x)), module
    old = {"dynamo": False, "dynamic_axes": {"x": {0: "B", 1: "T"}}}
    new = {"dynamo": True, "dynamic_shapes": ({0: "B", 1: "T"},)}
    for module, options in ((whole, old), (convolutions, old), (convolutions, new)):
        torch.onnx.export(module, (x,), str(tmp_path / "a.onnx"), input_names=["x"], output_names=["y"], **options)
        yield rnncore.load(tmp_path / "a.onnx"), module


@pytest.mark.filterwarnings("ignore")
def test_causal_convolutions_stream(tmp_path):
    x = np.random.default_rng(1).standard_normal((2, 23, 6)).astype(np.float32)
    for model, module in models(tmp_path):
        assert model.unstreamable is None
        whole = model.run({"x": x})[model.outputs[0].name]
        with torch.no_grad():
            np.testing.assert_allclose(whole, module(torch.from_numpy(x)), 1e-5, 1e-5)
        for cuts in ([1, 2, 3], [10], [4, 5, 17], list(range(1, 23))):
            assert_unchanged({"y": pieces_of(model, x, cuts)}, {"y": whole}, "float32")


def test_a_slice_that_is_an_output_stays():
    spec, weights = network(CAUSAL, CUT)
    end = Spec(spec.inputs, spec.nodes[:2], ["cut"])
    simple, _, _ = simplify(end, weights)
    assert [node.op for node in simple.nodes] == ["Conv", "Slice"]


def test_recurrent_layers_behind_it():
    """A stack that reads the cut sequence sees the same."""
    nodes = [
        Node("conv", "Conv", "x", {"input_size": 3, "output_size": 4, "bias": True, **CAUSAL}),
        Node("cut", "Slice", "conv", CUT),
        Node("turned", "Transpose", "cut", {"perm": (0, 2, 1)}),
        Recurrent("gru", GRU(4, 5), "turned"),
    ]
    spec = Spec([Input("x", "float", ("B", 3, "T"))], nodes, ["gru"])
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    simple, left, _ = simplify(spec, weights)
    x = rng.standard_normal((2, 3, 7)).astype(np.float32)
    assert Model(simple, left)(x).tobytes() == Model(spec, weights)(x).tobytes()
