"""A Model keeps its weights once: packed. What was given comes back to the bit, and memory holds no second copy."""

import pickle
import tracemalloc

import numpy as np
import pytest
from agreement import assert_same_bits
from random_networks import draw_weights, random_network, seeds, stack

import rnncore
from rnncore.cells import GRU, LSTM, RNN
from rnncore.graph.nodes import Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.kernels import runs_native
from rnncore.runtime.model import Model


def given_bits(network, dtype):
    """The network's weights as float16, float32, float64; or float64 that float32 does not hold."""
    if dtype == "float64 in full":
        return {name: array + 1e-9 for name, array in network.weights.items()}
    return {name: array.astype(dtype) for name, array in network.weights.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "float64 in full"])
@pytest.mark.parametrize("seed", seeds(60))
def test_weights_come_back_to_the_bit(isa, seed, dtype):
    network = random_network(seed)
    given = given_bits(network, dtype)
    model = Model(network.spec, given)
    assert list(model.weights) == list(network.spec.weight_shapes())
    for again in (model.weights, pickle.loads(pickle.dumps(model)).weights, Model(model.spec, model.weights).weights):
        for name, array in given.items():
            assert_same_bits(again[name], array, f"{isa}, {name}")
            assert not again[name].flags.writeable
    assert model.weights.nbytes == sum(array.nbytes for array in given.values())
    assert model.weights.count == sum(array.size for array in given.values())


@pytest.mark.parametrize("hidden", [5, 64, 310])
@pytest.mark.parametrize(
    "cell",
    [
        lambda n: RNN(n + 1, n),
        lambda n: LSTM(n + 1, n),
        lambda n: LSTM(n + 1, n, projection=3),
        lambda n: LSTM(n + 1, n, coupled="input"),
        lambda n: LSTM(n + 1, n, layer_norm="tf1"),
        lambda n: GRU(n + 1, n),
        lambda n: GRU(n + 1, n, reset_after=False),
        lambda n: GRU(n + 1, n, reset_after=False, activations=("sigmoid", "sigmoid", "relu")),
    ],
    ids=["rnn", "lstm", "projected", "coupled", "layer norm", "gru", "reset before", "reset before, generic"],
)
def test_every_matrix_is_packed_only(isa, cell, hidden):
    spec = stack(cell(hidden), layers=2, direction="bidirectional")
    given = {name: array.astype(np.float32) for name, array in draw_weights(spec, np.random.default_rng(0)).items()}
    model = Model(spec, given)
    assert set(model.weights.packed) == {name for name in given if ".weight_" in name}
    for name, array in given.items():
        assert_same_bits(model.weights[name], array, f"{isa}, {name}")


def tagger(size):
    return Spec(
        [Input("x", "float", ("B", "T", size))],
        [
            Recurrent("lstm", LSTM(size, size), "x", layers=2),
            Recurrent("gru", GRU(size, size, reset_after=False), "lstm"),
            Node("linear", "Linear", "gru", {"input_size": size, "output_size": size}),
        ],
        ["linear"],
    )


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_loaded_model_takes_little_more_than_its_weights(tmp_path, size):
    spec = tagger(size)
    weights = {name: array.astype(np.float32) for name, array in draw_weights(spec, np.random.default_rng(0)).items()}
    raw = sum(array.nbytes for array in weights.values())
    path = rnncore.save(tmp_path / "model.safetensors", Model(spec, weights))
    rnncore.load(path)  # what the first load imports is not the model's
    tracemalloc.start()
    try:
        model = rnncore.load(path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= 1.25 * raw + 100_000  # the Spec and Python's own objects
    assert model.weights.nbytes == raw


def convolution(op, channels, outputs, kernel, group=1):
    sizes = {"input_size": channels, "output_size": outputs, "kernel_shape": kernel, "group": group}
    x = Input("x", "float", ("B", channels, *(f"S{axis}" for axis in range(len(kernel)))))
    return Spec([x], [Node("y", op, "x", sizes)], ["y"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64 in full"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "group"),
    [
        (3, 5, (3,), 1),
        (4, 33, (2, 3), 1),
        (2, 1, (3, 3), 1),
        (5, 3, (4,), 1),
        (6, 6, (3,), 6),
        (6, 12, (3, 1), 2),
        (4, 48, (2, 1, 2), 2),
    ],
)
def test_convolutions_come_back_to_the_bit(isa, op, channels, outputs, kernel, group, dtype):
    spec = convolution(op, channels, outputs, kernel, group)
    rng = np.random.default_rng(outputs)
    arrays = {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    arrays["y.weight"].flat[:3] = (-0.0, np.inf, np.nan)
    full = dtype == "float64 in full"
    given = {name: array + 1e-9 if full else array.astype(dtype) for name, array in arrays.items()}
    model = Model(spec, given)
    assert model.weights.packed == (() if full else ("y.weight",))
    for again in (model, pickle.loads(pickle.dumps(model)), Model(model.spec, model.weights)):
        for name, array in given.items():
            assert_same_bits(again.weights[name], array, f"{isa}, {name}")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [1, 4])
def test_a_loaded_convolution_takes_little_more_than_its_weights(tmp_path, op, group):
    spec = convolution(op, 256, 256, (3, 3), group)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in spec.weight_shapes().items()}
    raw = sum(array.nbytes for array in weights.values())
    path = rnncore.save(tmp_path / "model.safetensors", Model(spec, weights))
    rnncore.load(path)(np.zeros((1, 256, 4, 4), np.float32))
    tracemalloc.start()
    try:
        model = rnncore.load(path)
        model(np.zeros((1, 256, 4, 4), np.float32))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= 1.25 * raw + 100_000


def test_views_do_not_keep_what_they_are_views_of():
    """Tensors of one storage, as some frameworks save them."""
    spec = stack(LSTM(3, 4))
    flat = np.zeros(1 << 20, np.float32)
    flat.flags.writeable = False
    weights = {name: flat[: int(np.prod(shape))].reshape(shape) for name, shape in spec.weight_shapes().items()}
    model = Model(spec, weights)
    for name in set(weights) - set(model.weights.packed):
        assert not np.may_share_memory(model.weights[name], flat)


def test_weights_inside_branches_are_packed_too():
    inner = Spec(
        [Input("x", "float", ("B", 3))],
        [Node("linear", "Linear", "x", {"input_size": 3, "output_size": 2})],
        ["linear"],
    )
    spec = Spec(
        [Input("x", "float", ("B", 3)), Input("yes", "bool", ())],
        [Control("if", "If", ("yes", "x"), (inner, inner), captures=("x",))],
        ["if"],
    )
    given = {
        name: np.random.default_rng(i).random(shape, np.float32)
        for i, (name, shape) in enumerate(spec.weight_shapes().items())
    }
    model = Model(spec, given)
    packed = {name for name in given if name.endswith("linear.weight")} if runs_native(np.dtype(np.float32)) else set()
    assert set(model.weights.packed) == packed
    for name, array in given.items():
        assert_same_bits(model.weights[name], array, name)


def test_nodes_of_one_array_share_what_is_packed_of_it():
    """Tied weights, in branches too: the bits of weights of their own, and one pack for all."""
    rng = np.random.default_rng(0)
    kernel = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    recurrent = [rng.uniform(-1, 1, (256, 64)).astype(np.float32) for _ in range(2)]
    sizes = {"input_size": 64, "output_size": 64, "bias": False}
    sequence = Input("x", "float", ("B", "T", 64))
    branch = Spec([sequence], [Node("inner", "Linear", "x", sizes)], ["inner"])
    other = Spec([sequence], [Node("a", "Linear", "x", sizes), Node("inner", "Neg", "a")], ["inner"])
    nodes = [
        Node("first", "Linear", "x", sizes),
        Node("second", "Linear", "first", sizes),
        *(Recurrent(f"l{i}", LSTM(64, 64, False), f"l{i - 1}" if i else "second") for i in range(3)),
        Control("chosen", "If", ("yes", "l2"), (branch, other), ("x",)),
        Control("again", "If", ("yes", "chosen"), (other, branch), ("x",)),
    ]
    spec = Spec([sequence, Input("yes", "bool", ())], nodes, ["again", "l2"])
    shared, apart = {}, {}
    for name, shape in spec.weight_shapes().items():
        shared[name] = kernel if shape == kernel.shape else recurrent["_hh_" in name]
        apart[name] = shared[name].copy()
    given = {"x": rng.uniform(-1, 1, (2, 5, 64)).astype(np.float32), "yes": np.array(True)}
    tied, own = Model(spec, shared), Model(spec, apart)
    for key, array in own.run(given).items():
        np.testing.assert_array_equal(tied.run(given)[key], array)
    for name, array in shared.items():
        np.testing.assert_array_equal(tied.weights[name], array)
        assert not tied.weights[name].flags.writeable
    turned = {**apart, "second.weight": apart["first.weight"].T}  # the same memory, another layout
    assert not np.array_equal(Model(spec, turned).run(given)["again"], own.run(given)["again"])
