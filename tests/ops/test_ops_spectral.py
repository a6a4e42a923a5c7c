"""DFT and STFT against ONNX Runtime and NumPy."""

import numpy as np
import pytest
from agreement import assert_close
from onnx_ops import OneNode, run_onnxruntime
from random_networks import seeds

from rnncore import Input, Model, Node, Spec
from rnncore.errors import SpecError


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("seed", seeds(40))
def test_random_dfts(seed):
    rng = np.random.default_rng(seed)
    kind = int(rng.integers(3))
    attributes = [{}, {"onesided": 1}, {"inverse": 1}][kind]
    x = floats(rng, *rng.integers(2, 9, int(rng.integers(2, 4))), 1 if kind == 1 else int(rng.integers(1, 3)))
    axis = int(rng.integers(0, x.ndim - 1))
    length = np.array(int(rng.integers(1, 12))) if rng.integers(2) else None
    arrays = [x, length, np.array(axis)]
    (expected,) = run_onnxruntime("DFT", attributes, arrays, opset=20)
    for constants in ((), ("dft_length", "axis")):
        named = range(x.ndim - 1)
        assert_close(OneNode("DFT", attributes, arrays, constants, named).run()[0], expected, 1e-5)
    (wide,) = OneNode("DFT", attributes, [x.astype(np.float64), *arrays[1:]]).run()
    assert wide.dtype == np.float64
    assert_close(wide, expected, 1e-5)


@pytest.mark.parametrize("length", [None, 7, 8])
def test_back_to_real(length):
    x = floats(np.random.default_rng(0), 2, 5, 2)
    attributes = {"onesided": 1, "inverse": 1, **({"dft_length": length} if length else {})}
    (found,) = OneNode("DFT", attributes, [x], named=(0,)).run()
    assert_close(found[..., 0], np.fft.irfft(x[..., 0] + 1j * x[..., 1], length), 1e-6)


@pytest.mark.parametrize("seed", seeds(30))
def test_random_stfts(seed):
    rng = np.random.default_rng(seed)
    onesided = int(rng.integers(2))
    x = floats(rng, 2, int(rng.integers(20, 60)), 1 if onesided else int(rng.integers(1, 3)))
    length = int(rng.integers(2, 20))
    window = floats(rng, length) if rng.integers(2) else None
    size = np.array(length) if window is None or rng.integers(2) else None
    arrays = [x, np.array(int(rng.integers(1, 9))), window, size]
    (expected,) = run_onnxruntime("STFT", {"onesided": onesided}, arrays, opset=17)
    for constants, named in (((), ()), (("frame_step", "frame_length"), ()), (("frame_step", "frame_length"), (0, 1))):
        (found,) = OneNode("STFT", {"onesided": onesided}, arrays, constants, named).run()
        assert_close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "message"),
    [
        ("DFT", {}, (2, 5), "last dimension"),
        ("DFT", {"axis": -1}, (2, 5, 1), "axis"),
        ("DFT", {"onesided": 1}, (2, 5, 2), "real"),
        ("DFT", {"dft_length": 0}, (2, 5, 2), "dft_length"),
        ("DFT", {"inverse": 2}, (2, 5, 2), "inverse"),
        ("STFT", {}, (2, 50, 1), "frame_step missing"),
        ("STFT", {"frame_step": 2, "frame_length": 60}, (2, 50, 1), "at least frame_length"),
        ("STFT", {"frame_step": 2, "frame_length": 6}, (2, 50, 2), "real"),
    ],
)
def test_refused(op, attributes, shape, message):
    with pytest.raises(SpecError, match=message):
        OneNode(op, attributes, [np.ones(shape, np.float32)])


@pytest.mark.parametrize(("size", "step", "begin"), [(4, 4, 0), (6, 4, 2), (5, 2, 0), (3, 7, 1), (9, 1, 8)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_frames(size, step, begin, axis):
    x = floats(np.random.default_rng(0), 8, 7, 23)
    for length in (1, size - begin, x.shape[axis]):
        signal = np.moveaxis(x, axis, 0)[:length]
        padded = np.concatenate((np.zeros((begin, *signal.shape[1:]), np.float32), signal))
        pieces = [padded[at : at + size] for at in range(0, len(padded) - size + 1, step)]
        expected = np.stack(pieces) if pieces else np.zeros((0, size, *signal.shape[1:]), np.float32)
        expected = np.moveaxis(expected, (0, 1), (axis % 3, axis % 3 + 1))
        attributes = {"axis": axis, "size": size, "step": step, "begin": begin}
        given = np.moveaxis(signal, 0, axis)
        spec = Spec([Input("x", "float", given.shape)], [Node("y", "Frames", "x", attributes)], ["y"])
        assert spec.values["y"].shape == expected.shape
        np.testing.assert_array_equal(Model(spec, {})(given), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"size": 0}, "size=0"), ({"step": 0}, "step=0"), ({"begin": 4}, "begin=4, expected an integer from 0 to 3")],
)
def test_frames_that_cannot_be_are_refused(wrong, message):
    attributes = {"axis": 1, "size": 4, "step": 2, "begin": 0, **wrong}
    with pytest.raises(SpecError, match=message):
        Spec([Input("x", "float", ("B", "T"))], [Node("y", "Frames", "x", attributes)], ["y"])
