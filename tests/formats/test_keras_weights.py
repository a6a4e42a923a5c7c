"""Files of Keras's weights alone: loaded by a Spec, with and without names, and listed by inspect."""

import json

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import rnncore
from rnncore.cells import GRU, LSTM
from rnncore.cli.application import application
from rnncore.errors import FormatError, RnncoreError, UnsupportedError, WeightError
from rnncore.formats import read_checkpoint
from rnncore.formats.loading import open_file


def network(named=True, **options):
    """Every layer whose weights become a node's."""
    names = iter(["tokens", "inner", "enc", "gru", "plain", "head"]) if named else iter(())
    call = {"name": next(names)} if named else {}
    tokens = keras.Input((None,), dtype="int32")
    y = layers.Embedding(11, 3, **call)(tokens)
    inner = keras.Sequential(
        [layers.Dense(3, use_bias=False, name="first")], **({"name": next(names)} if named else {})
    )
    y = inner(y)
    wrap = {"name": next(names)} if named else {}
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True), **wrap)(y)
    y = layers.GRU(5, return_sequences=True, **options, **({"name": next(names)} if named else {}))(y)
    y = layers.SimpleRNN(2, use_bias=False, return_sequences=True, **({"name": next(names)} if named else {}))(y)
    model = keras.Model(tokens, layers.Dense(2, **({"name": next(names)} if named else {}))(y))
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape))
    return model


def legacy(model, path):
    """As Keras 2 writes the weights alone: attributes and groups of a whole model's model_weights."""
    model.save(path.with_suffix(".whole.h5"))
    with h5py.File(path.with_suffix(".whole.h5")) as whole, h5py.File(path, "w") as alone:
        for key, value in whole["model_weights"].attrs.items():
            alone.attrs[key] = value
        for key in whole["model_weights"]:
            whole["model_weights"].copy(key, alone)
    return path


def saved(model, form, folder):
    path = folder / ("a.weights.h5" if form == "new" else "a.h5")
    if form == "old":
        return legacy(model, path)
    model.save_weights(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("form", ["new", "old"])
def test_weights_under_the_spec_of_the_model(form, reset_after, tmp_path):
    """What retraining writes, under the Spec that was exported once."""
    model = network(reset_after=reset_after)
    spec = rnncore.export.from_keras(model).spec
    model.layers[-1].set_weights([array + 1 for array in model.layers[-1].get_weights()])
    tokens = np.random.default_rng(0).integers(0, 11, (2, 6))
    path = saved(model, form, tmp_path)
    found = rnncore.load(path, spec=spec)(tokens)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(tokens)), 1e-5, 1e-6)
    assert open_file(path, spec=spec).notes == ()


def test_names_lead_to_layers_and_to_arrays(tmp_path):
    model = network(named=False)
    spec = rnncore.export.from_keras(network()).spec
    path = saved(model, "new", tmp_path)
    plain = {layer.name for layer in model.layers}
    assert not plain & {"enc", "gru", "plain", "head"} - {"gru"}
    names = {
        "tokens": model.layers[1].name,
        "inner/first": f"{model.layers[2].name}/first",
        "enc": model.layers[3].name,
        "gru": model.layers[4].name,
        "plain": model.layers[5].name,
        "head": model.layers[6].name,
    }
    tokens = np.random.default_rng(0).integers(0, 11, (2, 6))
    found = rnncore.load(path, spec=spec, names=names)(tokens)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(tokens)), 1e-5, 1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["new", "old"])
def test_arrays_of_other_layers_are_there_as_they_are(form, tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(4, 2, name="conv"), layers.Dense(2, name="d")])
    path = saved(model, form, tmp_path)
    found = read_checkpoint(path)
    name = "layers/conv1d/vars/0" if form == "new" else next(name for name in found.tensors if "conv/kernel" in name)
    np.testing.assert_array_equal(found.tensors[name], model.layers[0].get_weights()[0])
    assert found.format == "Keras weights" and len(found.tensors) == 4
    node = rnncore.Node("w", "Constant", (), {"shape": (2, 3, 4), "dtype": "float"})
    linear = rnncore.Node("d", "Linear", "x", {"input_size": 4, "output_size": 2})
    spec = rnncore.Spec([rnncore.Input("x", "float", ("B", 4))], [node, linear], ["d", "w"])
    with pytest.warns(UserWarning, match="does not use: .*conv"):
        model = rnncore.load(path, spec=spec, names={"w.value": name})
    np.testing.assert_array_equal(model.weights["w.value"], found.tensors[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["new", "old"])
def test_inspect_lists_the_tensors(form, tmp_path):
    path = saved(network(), form, tmp_path)
    shown = CliRunner().invoke(application, ["inspect", str(path)])
    text = " ".join(shown.output.split())
    assert shown.exit_code == 0 and "Keras weights, 15 tensors" in text
    assert "enc LSTM 1 2 3 4 yes" in text and "gru GRU 1 1 8 5 yes" in text and "plain RNN 1 1 5 2 no" in text
    assert "--architecture FILE.json" in text and "head Linear weight (2, 2), bias (2,)" in text
    found = json.loads(CliRunner().invoke(application, ["inspect", "--json", str(path)]).output)
    kernel = "layers/gru/cell/vars/0" if form == "new" else "gru/gru/gru_cell/kernel"
    assert found["tensors"][kernel] == {"shape": [8, 15], "dtype": "float32"}
    assert found["made_of"]["gru.weight_ih_l0"] == {"shape": [15, 8], "tensors": [kernel]}
    first = json.loads(CliRunner().invoke(application, ["inspect", "--spec", str(path)]).stdout)
    assert first["nodes"][0]["name"] == "enc"


class Attributes(keras.Model):
    """Layers under the names of attributes, and a cell in an RNN and alone."""

    def __init__(self, square):
        super().__init__()
        self.tok, self.out = layers.Embedding(7, 3), layers.Dense(2)
        self.embedding = layers.Dense(3 if square else 4, use_bias=False)  # named for what it is not
        self.over, self.cell = layers.RNN(layers.LSTMCell(5), return_sequences=True), layers.GRUCell(6)

    def call(self, tokens):
        y = self.over(self.embedding(self.tok(tokens)))
        return self.out(self.cell(y[:, -1], [keras.ops.zeros((tokens.shape[0], 6))])[0])


@pytest.mark.parametrize("square", [False, True])
def test_layers_that_are_attributes(square, tmp_path):
    """Under a Spec and names, equal; a square matrix that may be one layer's or another's keeps the file's name."""
    model, tokens = Attributes(square), np.random.default_rng(0).integers(0, 7, (2, 6))
    expected = keras.ops.convert_to_numpy(model(tokens))
    path = saved(model, "new", tmp_path)
    width = 3 if square else 4
    take = {"starts": (-1,), "ends": (1 << 62,), "axes": (1,)}
    spec = rnncore.Spec(
        [rnncore.Input("tokens", "int64", ("B", "T"))],
        [
            rnncore.Node("tok", "Embedding", "tokens", {"input_size": 7, "output_size": 3}),
            rnncore.Node("project", "Linear", "tok", {"input_size": 3, "output_size": width, "bias": False}),
            rnncore.Recurrent("over", LSTM(width, 5), "project", lengths=None),
            rnncore.Node("last", "Slice", "over", take),
            rnncore.Recurrent("cell", GRU(5, 6), "last", lengths=None),
            rnncore.Node("out", "Linear", "cell", {"input_size": 6, "output_size": 2}),
        ],
        ["out"],
    )
    names = {"tok": model.tok.name, "project": model.embedding.name, "over": model.over.name,
             "cell": model.cell.name, "out": model.out.name}  # fmt: skip
    if square:
        with pytest.raises(WeightError, match="project"):
            rnncore.load(path, spec=spec, names=names)
        del names["project"]
        names["project.weight"] = "embedding/vars/0"
        model.embedding.set_weights([model.embedding.get_weights()[0].T])  # as a file under its own name has it
        path = saved(model, "new", tmp_path)
    found = rnncore.load(path, spec=spec, names=names)(tokens)
    np.testing.assert_allclose(found[:, 0], expected, 1e-5, 1e-6)


def test_without_a_network_or_with_another(tmp_path):
    path = saved(network(), "new", tmp_path)
    with pytest.raises(UnsupportedError, match=r"weights without a network, expected architecture=.* or a spec"):
        rnncore.load(path)
    other = rnncore.export.from_keras(keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, name="gru")])).spec
    with pytest.raises(WeightError, match=r"gru\.weight_ih_l0: shape \(15, 8\), expected \(16, 3\)"):
        rnncore.load(path, spec=other)


@pytest.mark.parametrize("fault", ["a bias", "groups", "nothing"])
def test_files_that_lie(fault, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("layers/lstm/cell/vars" if fault == "a bias" else "a/" * 20 + "vars")
        if fault != "nothing":
            for place, shape in enumerate([(3, 16), (4, 16), (15,)]):
                group[str(place)] = np.ones(shape, np.float32)
    spec = rnncore.export.from_keras(keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, name="lstm")])).spec
    says = {"a bias": "bias: shape", "groups": "groups within groups", "nothing": "groups within groups|no arrays"}
    with pytest.raises((FormatError, WeightError), match=says[fault]):
        rnncore.load(tmp_path / "a.h5", spec=spec)
    shown = CliRunner().invoke(application, ["inspect", str(tmp_path / "a.h5")])
    assert isinstance(shown.exception, (type(None), SystemExit, RnncoreError))
