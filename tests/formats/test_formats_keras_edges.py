"""The edges of Keras's models against Keras 3, over random configurations: how layers are called, and with what.

Each model goes through a .keras file, a legacy .h5 and from_keras; all have to give Keras's numbers.
"""

import inspect
import json

import keras
import keras_zoo
import numpy as np
import pytest
from agreement import assert_close
from keras import layers
from random_networks import seeds

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.errors import FormatError, InputError, SpecError, UnsupportedError, WeightError
from rnncore.export import from_keras
from rnncore.formats import read_listing
from rnncore.formats.keras.config import Version, network_of
from rnncore.formats.keras.layers import (
    ACCEPTED,
    ONLY_INPUTS,
    SIGNATURES,
    KerasLayer,
    lower,
    lower_network,
    settle_classes,
)
from rnncore.formats.loading import open_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning:keras"),
    pytest.mark.filterwarnings("ignore:Layer 'inner':UserWarning:keras"),
]


def batch(rng, tensor):
    """Three rows for an input: bools, ids below 6 with zeros among them, or floats."""
    shape = [3, *(7 if size is None else size for size in tensor.shape[1:])]
    if tensor.dtype == "bool":
        return rng.random(shape) < 0.6
    if tensor.dtype.startswith("int"):
        return rng.integers(0, 6, shape).astype(np.int32)
    return rng.standard_normal(shape).astype(np.float32)


def outputs_of(model, inputs):
    found = model(keras.tree.pack_sequence_as(model._inputs_struct, inputs), training=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(found)]


def run(ours, inputs):
    """The outputs, of arrays one for each input in the order of the model's."""
    entries = [entry for entry in ours.inputs if not entry.optional]
    dtypes = {"float": np.float32, "bool": np.bool_, "int64": np.int64}
    named = {entry.name: x.astype(dtypes[entry.dtype]) for entry, x in zip(entries, inputs, strict=True)}
    found = ours.run(named)
    return [found[name] for name in ours.spec.outputs]


def randomised(rng, model):
    model.set_weights([rng.uniform(-0.7, 0.7, weight.shape) for weight in model.get_weights()])
    return model


def agrees(model, rng, folder, inputs=None):
    """The model on every route gives what Keras gives."""
    randomised(rng, model)
    inputs = [batch(rng, tensor) for tensor in model.inputs] if inputs is None else inputs
    expected = outputs_of(model, inputs)
    exported = from_keras(model)
    ours = rnncore.Model(exported.spec, exported.weights)
    for name, reference in exported.test_pair.outputs.items():
        assert_close(ours.run(exported.test_pair.inputs)[name], reference, 1e-5, f"test pair: {name}")
    routes = {"from_keras": ours}
    for suffix in ("keras", "h5"):
        path = folder / f"model.{suffix}"
        model.save(path)
        routes[suffix] = rnncore.load(path)
    for route, ours in routes.items():
        for found, reference in zip(run(ours, inputs), expected, strict=True):
            assert_close(found, reference, 1e-5, route)


# --- how layers are called -----------------------------------------------------------------------------------------


def test_signatures_are_those_of_keras():
    """In name and order: what is called by place means what Keras takes it for."""
    compared = set(ACCEPTED) - {"InputLayer", "TimeDistributedDense", "ThresholdedReLU", "CuDNNLSTM", "CuDNNGRU"}
    expected = {
        kind: tuple(name for name in inspect.signature(getattr(keras.layers, kind).call).parameters if name != "self")
        for kind in compared
    }
    assert {kind: SIGNATURES.get(kind, ONLY_INPUTS) for kind in compared} == expected


def called(rng, layer, names, arguments):
    """A call with a random number of arguments by place, the others by name in a random order.

    Keras wants the leading ones without a hole, so those that are missing end what goes by place.
    """
    given = 0
    while given < len(names) and names[given] in arguments:
        given += 1
    places = int(rng.integers(0, given + 1))
    rest = [name for name in arguments if name not in names[:places]]
    rng.shuffle(rest)
    return layer(*(arguments[name] for name in names[:places]), **{name: arguments[name] for name in rest})


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional"])
def test_recurrent_layers_called_by_name_and_by_place(kind, seed, tmp_path):
    rng = np.random.default_rng([seed, len(kind)])
    sequences, return_state = bool(rng.integers(2)), bool(rng.integers(2))
    options = {"return_sequences": sequences, "return_state": return_state}
    layer = {
        "RNN": lambda: layers.RNN(layers.GRUCell(3), **options),
        "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(3, **options)),
    }.get(kind, lambda: getattr(layers, kind)(3, **options))()
    inputs = [x] = [keras.Input((5, 4))]
    arguments = {"sequences": x}
    if rng.integers(2):
        count = {"LSTM": 2, "Bidirectional": 4}.get(kind, 1)
        states = [keras.Input((3,)) for _ in range(count)]
        arguments["initial_state"] = states if count > 1 or kind == "RNN" or rng.integers(2) else states[0]
        inputs += states
    if rng.integers(2):
        arguments["mask"] = keras.Input((5,), dtype="bool")
        inputs.append(arguments["mask"])
    found = called(rng, layer, SIGNATURES[kind], arguments)
    agrees(keras.Model(inputs, found), rng, tmp_path)


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional"])
def test_rows_without_a_valid_step_under_an_initial_state(kind, backwards, sequences, tmp_path):
    """Their output is zeros, their state is the initial one."""
    options = {"return_sequences": sequences, "return_state": True}
    layer = {
        "RNN": lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(3)], go_backwards=backwards, **options),
        "Bidirectional": lambda: layers.Bidirectional(
            layers.GRU(3, **options), merge_mode="sum" if backwards else "concat"
        ),
    }.get(kind, lambda: getattr(layers, kind)(3, go_backwards=backwards, **options))()
    x, mask = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
    states = [keras.Input((3,)) for _ in range({"RNN": 3, "LSTM": 2, "Bidirectional": 2}.get(kind, 1))]
    initial = [states[0], states[1:]] if kind == "RNN" else states
    rng = np.random.default_rng(2)
    model = keras.Model([x, mask, *states], keras.tree.flatten(layer(x, initial_state=initial, mask=mask)))
    inputs = [batch(rng, tensor) for tensor in model.inputs]
    inputs[1][0] = False
    agrees(model, rng, tmp_path, inputs)


@pytest.mark.parametrize("seed", seeds(4))
def test_multi_head_attention_called_by_name_and_by_place(seed, tmp_path):
    rng = np.random.default_rng(seed)
    query, value, key = keras.Input((5, 4)), keras.Input((6, 3)), keras.Input((6, 2))
    arguments = {"query": query, "value": value}
    if rng.integers(2):
        arguments["key"] = key
    if rng.integers(2):
        arguments["attention_mask"] = keras.Input((5, 6), dtype="bool")
    # Keras itself takes its masks by name alone.
    found = called(rng, layers.MultiHeadAttention(2, 3), SIGNATURES["MultiHeadAttention"][:3], arguments)
    agrees(keras.Model(list(arguments.values()), found), rng, tmp_path)


def test_an_argument_given_twice_is_refused():
    config = {
        "layers": [
            {"class_name": "InputLayer", "name": "x", "config": {"batch_shape": [None, 4], "name": "x"}},
            {
                "class_name": "Flatten",
                "module": "keras.layers",
                "name": "flat",
                "config": {"name": "flat"},
                "inbound_nodes": [{"args": [tensor("x")], "kwargs": {"inputs": tensor("x")}}],
            },
        ],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["flat", 0, 0]],
    }
    with pytest.raises(FormatError, match="argument 'inputs' twice"):
        lower_network(network_of({"class_name": "Functional", "config": config}, ""), Version(3, 0))


def tensor(name):
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}


# --- models inside models, and structures of inputs ----------------------------------------------------------------


def drawn_inputs(rng, kinds, names):
    """Inputs of a model: sequences of floats, of ids, facts."""
    shapes = {"floats": ((None, 4), "float32"), "ids": ((None,), "int32"), "facts": ((4,), "float32")}
    return [
        keras.Input(shapes[kind][0], dtype=shapes[kind][1], name=name) for kind, name in zip(kinds, names, strict=True)
    ]


def read(kind, x):
    """What a branch makes of an input: always (B, 3)."""
    if kind == "ids":
        x = layers.Embedding(6, 4)(x)
    return layers.Dense(3)(x) if kind == "facts" else layers.GRU(3)(x)


@pytest.mark.parametrize("seed", seeds(8))
def test_nested_models_of_several_inputs(seed, tmp_path):
    """Given as a list or by name in any order, under masks or not, twice or once."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 4))
    kinds = [str(kind) for kind in rng.choice(["floats", "ids", "facts"], count)]
    names = [str(name) for name in rng.permutation(["zed", "abc", "mid"])[:count]]
    inner_inputs = drawn_inputs(rng, kinds, names)
    branches = [read(kind, x) for kind, x in zip(kinds, inner_inputs, strict=True)]
    merged = layers.Subtract()(branches) if count == 2 else layers.Concatenate()(branches)
    form = str(rng.choice(["list", "dict", "named list"]))
    by_name = dict(zip(names, inner_inputs, strict=True))
    outputs = {"z": merged, "a": branches[0]} if rng.integers(2) else [merged, branches[0]]
    inner = keras.Model(by_name if form == "dict" else inner_inputs, outputs, name="inner")
    outer = drawn_inputs(rng, ["ids" if kind == "floats" else kind for kind in kinds], ["o1", "o2", "o3"][:count])
    found, crossed = [], False
    for _ in range(int(rng.integers(1, 3))):
        given = []
        for kind, x in zip(kinds, outer, strict=True):
            given.append(layers.Embedding(6, 4, mask_zero=bool(rng.integers(2)))(x) if kind == "floats" else x)
        order = rng.permutation(count)
        structure = given if form == "list" else {names[place]: given[place] for place in order}
        masks = [keras.src.backend.get_keras_mask(x) for x in given]
        crossed |= form == "named list" and names != sorted(names) and any(mask is not None for mask in masks)
        found += keras.tree.flatten(inner(structure))
    model = keras.Model(outer, found)
    if crossed:  # Keras gives one input the mask of another
        with pytest.raises(UnsupportedError, match=r"layer 'inner' .*called by name under a mask, expected a list"):
            from_keras(model)
        return
    agrees(model, rng, tmp_path)


@pytest.mark.parametrize("names", [("abc", "zed"), ("zed", "abc")])
def test_inputs_by_name_under_a_mask(names, tmp_path):
    """Keras sorts the masks by name, and takes the inputs of a list in its order: refused where the two differ."""
    tensors = [keras.Input((None, 4), name=name) for name in names]
    inner = keras.Model(tensors, layers.Concatenate()([layers.GRU(3)(x) for x in tensors]), name="inner")
    ids, x = keras.Input((None,), dtype="int32"), keras.Input((None, 4))
    y = inner(dict(zip(names, (layers.Embedding(6, 4, mask_zero=True)(ids), x), strict=True)))
    model = keras.Model([ids, x], y)
    if list(names) != sorted(names):
        with pytest.raises(UnsupportedError, match=r"layer 'inner' .*called by name under a mask, expected a list"):
            from_keras(model)
        return
    agrees(model, np.random.default_rng(4), tmp_path)


@pytest.mark.parametrize("seed", seeds(5))
def test_calls_of_nested_models_are_told_apart(seed, tmp_path):
    """Some are outputs, some are read by other layers: Keras counts the two differently."""
    rng = np.random.default_rng(seed)
    x = keras.Input((4,))
    if rng.integers(2):
        shared = keras.Sequential([x, layers.Dense(4, activation="tanh")])
    else:
        shared = keras.Model(x, layers.Dense(4, activation="tanh")(x))
    y = keras.Input((4,))
    values = [y]
    for _ in range(int(rng.integers(2, 5))):
        value = values[int(rng.integers(len(values)))]
        values.append(shared(layers.Dense(4)(value) if rng.integers(2) else value))
    outputs = [values[place] for place in sorted(rng.choice(np.arange(1, len(values)), 2, replace=False))]
    model = keras.Model(y, [*outputs, layers.Dense(2)(values[1])])
    agrees(model, rng, tmp_path)


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4,), (4,))])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_nested_models_take_inputs_as_keras_does(shapes, dtype, tmp_path):
    """A last axis of 1 comes and goes; numbers become whole ones where the model inside declares those."""
    inside, outside = shapes
    x = keras.Input(inside, dtype=dtype)
    inner = keras.Model(x, layers.Dense(2)(x))
    y = keras.Input(outside)
    agrees(keras.Model(y, inner(y)), np.random.default_rng(1), tmp_path, [np.float32(5 * np.ones((3, *outside)) - 0.3)])


def test_names_that_a_nested_model_does_not_have_are_refused():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model({"a": a, "b": b}, layers.Subtract()([a, b]), name="inner")
    c, d = keras.Input((4,)), keras.Input((4,))
    config = keras.Model([c, d], inner({"a": c, "b": d})).get_config()
    (node,) = config["layers"][2]["inbound_nodes"]
    for call in ({"a": 1, "q": 2}, {"a": 1}, {"a": 1, "b": 2, "q": 3}):
        given = list(node["args"][0].values())
        changed = {**node, "args": [{key: given[place % 2] for key, place in call.items()}], "kwargs": {}}
        config["layers"][2]["inbound_nodes"] = [changed]
        network = network_of({"class_name": "Functional", "config": plain(config)}, "")
        with pytest.raises(UnsupportedError, match=rf"layer 'inner' .*called with {', '.join(call)}, expected a, b"):
            lower_network(network, Version(3, 0))


def plain(config):
    """As a file has it."""
    return json.loads(json.dumps(config))


@pytest.mark.parametrize("seed", seeds(4))
def test_inputs_as_an_object_in_any_order(seed, tmp_path):
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.permutation(["zed", "abc", "mid"])]
    tensors = {
        name: keras.Input((size,), name=name) for name, size in zip(names, rng.permutation([2, 3, 4]), strict=True)
    }
    outputs = {f"out_{name}": layers.Dense(2)(x) for name, x in tensors.items()}
    others = [str(name) for name in rng.permutation(names)]
    keys = dict(zip(others, tensors.values(), strict=True)) if seed % 2 else tensors
    model = keras.Model(keys, outputs if rng.integers(2) else layers.Concatenate()(list(outputs.values())))
    agrees(model, rng, tmp_path)
    given = {name: batch(rng, keys[name]) for name in rng.permutation(list(keys))}
    exported = from_keras(model, given)
    expected = outputs_of(model, [given[name] for name in sorted(keys)])
    for found, reference in zip(exported.test_pair.outputs.values(), expected, strict=True):
        assert_close(found, reference, 1e-6, "test pair")
    with pytest.raises(InputError, match="example: arrays for other, expected"):
        from_keras(model, {"other": next(iter(given.values()))})


BOOLS = {
    "mask": lambda x, m: layers.LSTM(3)(x, mask=m),
    "numbers": lambda x, m: layers.Concatenate()([layers.GRU(3)(x), m]),
    "Dense": lambda x, m: [layers.Dense(3)(m), layers.Dense(2)(x)],
    "ids": lambda x, m: [layers.Embedding(2, 3)(m), layers.Dense(2)(x)],
    "nested": lambda x, m: keras.Model([m, x], layers.GRU(2)(x, mask=m))([m, x]),
    "where": lambda x, m: keras.ops.where(keras.ops.expand_dims(m, -1), x, 0.5),
}


@pytest.mark.parametrize("use", BOOLS)
def test_bool_inputs(use, tmp_path):
    x, m = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
    agrees(keras.Model([x, m], BOOLS[use](x, m)), np.random.default_rng(3), tmp_path)


FLIPS = {
    "time": lambda x: keras.ops.flip(x, 1),
    "features": lambda x: layers.LSTM(3, return_sequences=True)(keras.ops.flip(x, -1)),
    "both": lambda x: keras.ops.flip(layers.GRU(2, return_sequences=True)(x), (1, 2)),
    "processing order": lambda x: keras.ops.flip(layers.LSTM(3, return_sequences=True, go_backwards=True)(x), 1),
}


@pytest.mark.parametrize("way", FLIPS)
@pytest.mark.parametrize("steps", [None, 5])
def test_flip(way, steps, tmp_path):
    x = keras.Input((steps, 4))
    agrees(keras.Model(x, FLIPS[way](x)), np.random.default_rng(4), tmp_path)


@pytest.mark.parametrize("axis", [None, 0, (1, 0), (1, -2)])
def test_flips_of_the_batch_are_refused(axis, tmp_path):
    x = keras.Input((5, 4))
    model = keras.Model(x, keras.ops.flip(x, axis))
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedError, match=r"\(Flip\): axis=.*expected axes other than the batch"):
        rnncore.load(tmp_path / "model.keras")


# --- classes of functional models -----------------------------------------------------------------------------------


class Trained(keras.Model):
    """As training loops of one's own are written."""

    def train_step(self, data):
        raise AssertionError("not for inference")


class Changed(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * 2.0


class ChangedSequential(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) + 1.0


def of_class(kind):
    if issubclass(kind, keras.Sequential):
        return kind([keras.Input((4,)), layers.Dense(3)])
    x = keras.Input((4,))
    return kind(x, layers.Dense(3)(x))


@pytest.mark.parametrize("nested", [False, True])
def test_subclasses_of_functional_models(nested):
    model = of_class(Trained)
    if nested:
        x = keras.Input((4,))
        model = keras.Model(x, layers.Concatenate()([model(x), of_class(Trained)(x)]))
    exported = from_keras(model, np.ones((2, 4), np.float32))
    ours = rnncore.Model(exported.spec, exported.weights)
    (reference,) = exported.test_pair.outputs.values()
    assert_close(ours(exported.test_pair.inputs["x"]), reference, 1e-5)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", [Changed, ChangedSequential])
def test_subclasses_with_a_call_of_their_own_are_refused(kind, nested):
    model = of_class(kind)
    if nested:
        x = keras.Input((4,))
        model = keras.Model(x, model(x))
    with pytest.raises(UnsupportedError, match=rf"\({kind.__name__}\): not accepted, it has a call of its own"):
        from_keras(model, np.ones((2, 4), np.float32))


# --- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(6))
def test_relu_at_its_threshold(seed, tmp_path):
    """At, just below and just above the threshold and the maximum, at zeros of both signs, at infinities and NaN."""
    rng = np.random.default_rng(seed)
    threshold = float(rng.choice([0.0, 0.5, 1.0, 0.1, 3.0]))
    most = None if rng.integers(2) else float(rng.choice([0.5, 1.0, 6.0, 2.3]))
    slope = float(rng.choice([0.0, 0.1, 0.3]))
    x = keras.Input((40,))
    model = keras.Model(x, layers.ReLU(max_value=most, negative_slope=slope, threshold=threshold)(x))
    marks = np.float32([threshold, most or 1.0, 0.0, -0.0, -threshold])
    values = [marks, np.nextafter(marks, np.float32(-9)), np.nextafter(marks, np.float32(9))]
    values = np.concatenate([*values, np.float32([np.inf, -np.inf]), rng.normal(0, 2, 23).astype(np.float32)])
    agrees(model, rng, tmp_path, [values.reshape(1, 40)])


@pytest.mark.parametrize("option", ["negative_slope", "threshold", "max_value"])
def test_relu_refuses_what_keras_refuses(option):
    with pytest.raises(UnsupportedError, match=rf"layer 'r' \(ReLU\): {option}=-1\S*, expected at least 0"):
        lower([KerasLayer("r", "ReLU", {option: -1})], (None, 4))


def drawn_edges(rng, dims, most):
    """0 to ``most`` on each side in one of the ways in which Keras takes them."""
    form = int(rng.integers(3))
    if form == 0:
        return int(rng.integers(0, most + 1))
    pairs = [tuple(int(size) for size in rng.integers(0, most + 1, 2)) for _ in range(dims)]
    if dims == 1:
        return pairs[0]
    return tuple(pairs) if form == 1 else tuple(pair[0] for pair in pairs)


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["ZeroPadding", "Cropping"])
def test_padding_and_cropping(kind, dims, seed, tmp_path):
    rng = np.random.default_rng([seed, dims, len(kind)])
    options = {}
    if (kind, dims) != ("Cropping", 1) and rng.integers(2):
        options["data_format"] = "channels_first"
    x = keras.Input([int(size) for size in rng.integers(5, 8, dims + 1)])
    layer = getattr(layers, f"{kind}{dims}D")(drawn_edges(rng, dims, 2), **options)
    agrees(keras.Model(x, layer(x)), rng, tmp_path)


# --- mixed precision -----------------------------------------------------------------------------------------------


def built(name, policy):
    """A model of the zoo, whose weights depend on its name alone."""
    keras.config.set_dtype_policy(policy)
    try:
        return keras_zoo.build(keras, name)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["text_classifier", "convolutions", "bidirectional_stacked_cells", "attentions"])
def test_mixed_policies_are_computed_in_float32(name, policy, tmp_path):
    """What Keras computes from the same weights in float32; and about what it computes in 16 bits."""
    reference, inputs = built(name, "float32")
    expected = [keras.ops.convert_to_numpy(y) for y in flat_call(reference, inputs)]
    model, _ = built(name, policy)
    exported = from_keras(model)
    ours = rnncore.Model(exported.spec, exported.weights)
    for output, found in ours.run(exported.test_pair.inputs).items():
        if output in exported.test_pair.outputs:
            assert_close(found, exported.test_pair.outputs[output], 1e-5, "test pair")
    assert {part.dtype_policy.name for part in model.layers if part.weights} == {policy}
    coarse = [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in flat_call(model, inputs)]
    for route in ("keras", "h5", "from_keras"):
        notes = exported.notes
        if route != "from_keras":
            path = tmp_path / f"model.{route}"
            model.save(path)
            ours, notes = rnncore.load(path), open_file(path).notes
        assert any(f"{policy}, computed in float32" in note for note in notes), route
        for found, exact, rough in zip(run(ours, inputs), expected, coarse, strict=True):
            assert_close(found, exact, 1e-5, route)
            assert_close(found, rough, 0.05, f"{route}, in 16 bits")


def flat_call(model, inputs):
    return keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))


# --- classes that are not known ------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("edges")
class Registered(layers.Layer):
    def build(self, shape):
        self.scale, self.offset = (self.add_weight(shape=shape[-1:], name=name) for name in ("scale", "offset"))

    def call(self, x):
        return x * self.scale + self.offset

    def compute_output_shape(self, shape):
        return shape


class Unregistered(Registered):
    pass


def around(kind, place):
    """A model with a layer of a class, itself or inside of others."""
    x = keras.Input((5, 4))
    layer = kind(name="odd")
    if place == "TimeDistributed":
        return keras.Model(x, layers.TimeDistributed(layer)(x))
    if place == "nested":
        y = keras.Input((5, 4))
        return keras.Model(x, layers.GRU(2)(keras.Model(y, layer(layers.Dense(4)(y)))(x)))
    if place == "Sequential":
        return keras.Sequential([x, layers.Dense(4), layer])
    return keras.Model(x, layer(layers.LSTM(4, return_sequences=True)(x)))


@pytest.mark.parametrize("place", ["plain", "Sequential", "nested", "TimeDistributed"])
@pytest.mark.parametrize("kind", [Registered, Unregistered, layers.EinsumDense], ids=lambda kind: kind.__name__)
def test_unknown_classes_are_not_accepted_on_any_route(kind, place, tmp_path):
    """By name, before their arrays are counted; and inspect lists them."""
    if kind is layers.EinsumDense:
        model = around(lambda name: layers.EinsumDense("...a,ab->...b", 4, name=name), place)
    else:
        model = around(kind, place)
    says = rf"{kind.__name__}.*not accepted"
    with pytest.raises(UnsupportedError, match=says):
        from_keras(model)
    architecture = model.to_json()
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(UnsupportedError, match=says):
        rnncore.load(tmp_path / "model.weights.h5", architecture=architecture)
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"model.{suffix}")
        with pytest.raises(UnsupportedError, match=says):
            rnncore.load(tmp_path / f"model.{suffix}")
        listing = read_listing(tmp_path / f"model.{suffix}")
        assert kind.__name__ in listing.problem and listing.nodes
        if place in ("plain", "Sequential"):
            assert [node.name for node in listing.nodes if node.problem] == ["odd"]


# --- classes of one's own ------------------------------------------------------------------------------------------


class SqueezeLayer(layers.Layer):
    """Published models have one: an axis of 1 goes."""

    def __init__(self, axis=-1, **options):
        super().__init__(**options)
        self.axis = axis

    def call(self, x):
        return keras.ops.squeeze(x, self.axis)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


class OwnDense(layers.Dense):
    pass


@keras.saving.register_keras_serializable("edges")
class Gate(layers.Layer):
    """sigmoid(x w) * y, with a weight and an array that is not trained."""

    def build(self, shapes):
        size = shapes[0][-1]
        self.moment = self.add_weight(shape=(size,), name="moment", trainable=False)
        self.w = self.add_weight(shape=(size, size), name="w")

    def call(self, inputs):
        x, y = inputs
        return keras.ops.sigmoid(keras.ops.matmul(x, keras.ops.transpose(self.w))) * y + self.moment


def gate(config):
    """Gate's Spec, whose weights are in the order of get_weights: w, moment."""
    nodes = [
        Node("linear", "Linear", ("x",), {"input_size": 4, "output_size": 4, "bias": False}),
        Node("open", "Sigmoid", ("linear",)),
        Node("gated", "Mul", ("open", "y")),
        Node("moment", "Constant", (), {"dtype": "float", "shape": (4,)}),
        Node("out", "Add", ("gated", "moment")),
    ]
    entries = [Input("x", "float", ("B", "T", 4)), Input("y", "float", ("B", "T", 4))]
    return Spec(entries, nodes, ("out",))


def recurrent_spec(config):
    """The Spec that rnncore has of another layer, its optional lengths among its inputs."""
    cell = GRU(4, 3, False)
    return Spec(
        [Input("x", "float", ("B", "T", 4)), Input("lengths", "int64", ("B",), optional=True)],
        [Recurrent("rnn", cell, "x"), Node("gone", "Neg", ("rnn.last",))],
        ("gone",),
    )


class NegatedGRU(layers.GRU):
    """Keeps its arrays in a cell of its own, as all subclasses of GRU do."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return -super().call(sequences, initial_state, mask, training)


def of_own_classes(place):
    """A model, and what is said of its classes."""
    x = keras.Input((5, 4), name="x")
    if place == "op":
        y = layers.GRU(1, return_sequences=True)(x)
        return keras.Model(x, layers.Dense(2)(SqueezeLayer(-1)(y))), {
            "SqueezeLayer": lambda config: ("Squeeze", {"axes": (config["axis"],)})
        }
    if place == "Keras's layer":
        y = layers.Dense(4)(layers.TimeDistributed(OwnDense(4, activation="relu"))(OwnDense(4)(x)))
        return keras.Model(x, layers.GRU(2)(OwnDense(3, use_bias=False)(y))), {
            "OwnDense": lambda config: {"class_name": "Dense", "config": config}
        }
    if place == "Spec":
        y = Gate()([layers.Dense(4)(x), layers.LSTM(4, return_sequences=True)(x)])
        return keras.Model(x, layers.GRU(2)(Gate(name="again")([y, x]))), {"edges>Gate": gate}
    if place == "nested Spec":
        a, b = keras.Input((5, 4)), keras.Input((5, 4))
        inner = keras.Model([a, b], layers.Dense(4)(Gate()([a, b])), name="inner")
        return keras.Model(x, inner([x, layers.Dense(4)(inner([x, x]))])), {"Gate": gate}
    functional = {"Trained": lambda config: {"class_name": "Functional", "config": config}}
    model = Trained(x, layers.GRU(2)(x))
    return (model, functional) if place == "model" else (keras.Model(x, [model(x), layers.GRU(2)(x)]), functional)


@pytest.mark.parametrize("place", ["op", "Keras's layer", "Spec", "nested Spec", "model", "nested model"])
@pytest.mark.filterwarnings("ignore:Layer 'gate:UserWarning:keras")
def test_layers_of_ones_own(place, tmp_path):
    rng = np.random.default_rng(7)
    model, meanings = of_own_classes(place)
    randomised(rng, model)
    inputs = [batch(rng, model.inputs[0])]
    expected = outputs_of(model, inputs)
    model.save_weights(tmp_path / "model.weights.h5")
    for suffix in ("keras", "h5", "weights.h5"):
        path, options = tmp_path / f"model.{suffix}", {}
        if suffix == "weights.h5":
            options["architecture"] = model.to_json()
        else:
            model.save(path)
        with pytest.raises(UnsupportedError):
            rnncore.load(path, **options)
        if (place, suffix) == ("nested Spec", "h5"):
            with pytest.raises(UnsupportedError, match=r"\(Gate\): its arrays are among those of layer 'inner'"):
                rnncore.load(path, layers=meanings)
            continue
        ours = rnncore.load(path, layers=meanings, **options)
        for found, reference in zip(run(ours, inputs), expected, strict=True):
            assert_close(found, reference, 1e-5, f"{place}: {suffix}")


WRONG = {
    "nothing": (lambda config: None, SpecError, "gives None, expected"),
    "an op that is not there": (lambda config: ("Sqeeze", {}), SpecError, "gives .*expected"),
    "an attribute that is not there": (lambda config: ("Squeeze", {"axis": 1}), SpecError, "unknown attribute"),
    "an error": (lambda config: config["axes"], SpecError, "KeyError"),
    "a class without a config": (lambda config: {"class_name": "Dense"}, SpecError, "expected"),
    "another unknown class": (
        lambda config: {"class_name": "Odd", "config": {}}, UnsupportedError, r"\(Odd\): not accepted",
    ),
    "weights": (
        lambda config: ("Linear", {"input_size": 4, "output_size": 4, "bias": False}), WeightError,
        r"layer 'squeeze' \(SqueezeLayer\): (no group|0 arrays)",
    ),
    "two inputs": (gate, WeightError, "layer 'squeeze'"),
    "another shape": (
        lambda config: Spec(
            [Input("x", "float", ("B", "T", 7))], [Node("n", "Neg", ("x",))], ("n",)
        ), SpecError, r"layer 'squeeze' .*expected float \(B, T, 7\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused(case, tmp_path):
    meaning, error, says = WRONG[case]
    x = keras.Input((5, 1))
    keras.Model(x, layers.Dense(2)(SqueezeLayer(-1, name="squeeze")(x))).save(tmp_path / "model.keras")
    with pytest.raises(error, match=says):
        rnncore.load(tmp_path / "model.keras", layers={"SqueezeLayer": meaning})


def test_arrays_of_layers_inside_a_layer_of_ones_own_are_not_guessed(tmp_path):
    """A GRU's are in its cell: which of two arrays is whose would be a guess."""
    x = keras.Input((5, 4))
    keras.Model(x, NegatedGRU(3, use_bias=False, name="odd")(x)).save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedError, match=r"layer 'odd' \(NegatedGRU\): holds cell besides its arrays"):
        rnncore.load(tmp_path / "model.keras", layers={"NegatedGRU": recurrent_spec})


class ReversedLSTM(layers.LSTM):
    """From the last step to the first, in the input's order: a layer of several projects' own."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return keras.ops.flip(super().call(sequences, initial_state, mask, training), 1)


def reversed_lstm(config):
    def entry(kind, name, source, module="keras.layers", **more):
        calls = [{"args": [tensor(source)], "kwargs": {}}] if source else []
        return {"class_name": kind, "module": module, "config": {"name": name, **more}, "inbound_nodes": calls}

    inner = {key: value for key, value in config.items() if key != "name"}
    parts = [
        entry("InputLayer", "x", None, batch_shape=[None, None, None]),
        entry("LSTM", "lstm", "x", **inner),
        entry("Flip", "flip", "lstm", "keras.src.ops.numpy", axis=1),
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["flip", 0, 0]]}
    return {"class_name": "Functional", "config": {"name": config["name"], "layers": parts, **ends}}


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_the_place_of_a_recurrent_layer(tmp_path):
    """Of a size of input that its arrays say."""
    x = keras.Input((None, 4))
    y = ReversedLSTM(3, return_sequences=True, go_backwards=True)(layers.Dense(5)(x))
    model = keras.Model(x, layers.Dense(2)(y))
    model.save(tmp_path / "model.h5")
    ours = rnncore.load(tmp_path / "model.h5", layers={"ReversedLSTM": reversed_lstm})
    for rows, steps in ((1, 1), (2, 5), (3, 9)):
        given = np.random.default_rng(steps).standard_normal((rows, steps, 4)).astype(np.float32)
        assert_close(ours(given), keras.ops.convert_to_numpy(model(given)), 1e-5, str((rows, steps)))


def test_a_spec_with_recurrent_layers_in_the_place_of_a_layer():
    """Its optional lengths are the model's own, as for any layer."""
    meanings = {"Odd": recurrent_spec}
    config = {
        "layers": [
            {"class_name": "InputLayer", "config": {"batch_shape": [None, 5, 4], "name": "x"}},
            {"class_name": "Odd", "module": "somewhere", "config": {"name": "odd"}},
        ]
    }
    network = network_of({"class_name": "Sequential", "config": config}, "", layers=meanings)
    rng = np.random.default_rng(0)
    spec = recurrent_spec({})
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    network.layers["odd"].own = list(arrays.values())
    lowered = lower_network(network, Version(3, 0))
    x = rng.standard_normal((2, 5, 4)).astype(np.float32)
    expected = rnncore.Model(spec, arrays)(x)
    np.testing.assert_array_equal(rnncore.Model(lowered.spec, lowered.arrays)(x), expected)


def test_layers_are_for_files_of_keras(tmp_path):
    np.savez(tmp_path / "weights.npz", x=np.ones(3, np.float32))
    with pytest.raises(SpecError, match="expected no layers: they are for Keras's files"):
        rnncore.load(tmp_path / "weights.npz", layers={"SqueezeLayer": lambda config: ("Squeeze", {})})


def test_arrays_of_another_shape_than_the_spec_has_are_refused(tmp_path):
    x = keras.Input((5, 4))
    keras.Model(x, Gate(name="gate")([x, x])).save(tmp_path / "model.keras")

    def smaller(config):
        spec = gate(config)
        moment = Node("moment", "Constant", (), {"dtype": "float", "shape": (1,)})
        return Spec(spec.inputs, [moment if node.name == "moment" else node for node in spec.nodes], spec.outputs)

    with pytest.raises(WeightError, match=r"layer 'gate' \(Gate\): moment.value: shape \(4,\), expected \(1,\)"):
        rnncore.load(tmp_path / "model.keras", layers={"Gate": smaller})


@pytest.mark.parametrize("order", [("x1", "x2"), ("x2", "x1")])
def test_operands_by_name_in_any_order(order):
    """Of an operation in a config: x1 - x2, whichever stands first."""
    kwargs = {name: tensor({"x1": "a", "x2": "b"}[name]) for name in order}
    entry = {"batch_shape": [None, 4]}
    config = {
        "layers": [
            {"class_name": "InputLayer", "name": "a", "config": {**entry, "name": "a"}},
            {"class_name": "InputLayer", "name": "b", "config": {**entry, "name": "b"}},
            {
                "class_name": "Subtract",
                "module": "keras.src.ops.numpy",
                "name": "minus",
                "config": {"name": "minus"},
                "inbound_nodes": [{"args": [], "kwargs": kwargs}],
            },
        ],
        "input_layers": [["a", 0, 0], ["b", 0, 0]],
        "output_layers": [["minus", 0, 0]],
    }
    lowered = lower_network(network_of({"class_name": "Functional", "config": config}, ""), Version(3, 0))
    a, b = np.float32([[1, 2, 3, 4]]), np.float32([[4, 4, 4, 4]])
    found = rnncore.Model(lowered.spec, lowered.arrays).run({"a": a, "b": b})
    np.testing.assert_array_equal(found["minus"], a - b)


@pytest.mark.parametrize("written", ["by hand", "by Keras"])
@pytest.mark.parametrize("kind", ["Softmax", "Concatenate"])
def test_a_class_that_is_a_layer_and_an_operation_is_the_layer_under_a_mask(kind, written):
    """Without a module both have one config: the layer looks at the mask, the operation does not."""
    made = {"trainable": True} if written == "by Keras" else {}
    read = [tensor("m"), tensor("m")] if kind == "Concatenate" else tensor("m")
    config = {
        "layers": [
            {"class_name": "InputLayer", "name": "a", "config": {"batch_shape": [None, 3, 4], "name": "a"}},
            {
                "class_name": "Masking",
                "name": "m",
                "config": {"name": "m", "mask_value": 0.0, **made},
                "inbound_nodes": [{"args": [tensor("a")], "kwargs": {}}],
            },
            {
                "class_name": kind,
                "name": "both",
                "config": {"name": "both", "axis": -1},
                "inbound_nodes": [{"args": [read], "kwargs": {}}],
            },
        ],
        "input_layers": [["a", 0, 0]],
        "output_layers": [["both", 0, 0]],
    }
    network = network_of({"class_name": "Functional", "config": config}, "")
    settle_classes(network)
    if (kind, written) == ("Softmax", "by hand"):
        with pytest.raises(UnsupportedError, match=r"'both' \(Softmax\): under a mask"):  # as the layer is
            lower_network(network, Version(3, 0))
        return
    spec = lower_network(network, Version(3, 0)).spec
    made = {"Softmax": "Where", "Concatenate": "Concat"}[kind]
    assert spec.outputs == ("both",) and any(node.op == made for node in spec.nodes)


@pytest.mark.parametrize("names", [("lengths", "scores"), ("rnn", "lengths")])
def test_a_layer_may_have_the_name_of_the_input_of_lengths(tmp_path, names):
    """Its node is called otherwise: the Spec's lengths are an input of that name."""
    x = keras.Input((None, 3))
    sequence = layers.LSTM(4, return_sequences=True, name=names[0])(x)
    model = keras.Model(x, layers.Dense(2, name=names[1])(sequence))
    agrees(model, np.random.default_rng(0), tmp_path)
