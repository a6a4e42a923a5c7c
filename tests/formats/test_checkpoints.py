"""Checkpoints as people hold them: parametrized weights, several files, bytes, and files of other programs."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from yardstick import within

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.cli.application import application
from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.formats import read_checkpoint
from rnncore.formats.torch.parametrizations import fold

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*weight_norm.*")

# --- parametrizations ---------------------------------------------------------------------------------------------

MODULES = {
    "Linear": lambda: nn.Linear(3, 2),
    "Linear of one": lambda: nn.Linear(1, 1),
    "Linear to one": lambda: nn.Linear(3, 1),
    "Conv1d": lambda: nn.Conv1d(3, 2, 3),
    "Conv1d, square": lambda: nn.Conv1d(4, 4, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(3, 2, 3),
    "ConvTranspose1d, square": lambda: nn.ConvTranspose1d(4, 4, 3),
}
NORMS = {
    "weight_norm": weight_norm,
    "weight_norm over all": lambda module: weight_norm(module, dim=None),
    "weight_norm, axis 1": lambda module: weight_norm(module, dim=1),
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.weight_norm over all": lambda module: parametrizations.weight_norm(module, dim=None),
    "parametrizations.weight_norm, axis 1": lambda module: parametrizations.weight_norm(module, dim=1),
    "spectral_norm": spectral_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
}


def trained(module, x=None):
    """As after some steps of training: parts that are not those of the beginning."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    if x is not None:
        module.train()(x)  # power iteration
    return module.eval()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", MODULES)
def test_the_weight_is_the_one_that_the_module_computes_with(kind, norm):
    made = MODULES[kind]()
    channels = made.weight.shape[0 if "Transpose" in kind else 1]
    x = torch.randn(2, channels, 5) if made.weight.ndim == 3 else torch.randn(2, channels)
    module = trained(NORMS[norm](made), x)
    module(x)
    found, notes = fold({name: tensor.numpy() for name, tensor in module.state_dict().items()})
    assert set(found) == {"weight", "bias"} and found["weight"].dtype == np.float32 and len(notes) == 1
    np.testing.assert_allclose(found["weight"], module.weight.detach(), 2e-6, 1e-7)


class Net(nn.Module):
    """Old and new, a recurrent weight, and one without."""

    def __init__(self):
        super().__init__()
        self.rnn = weight_norm(weight_norm(nn.GRU(3, 4, batch_first=True), "weight_hh_l0"), "weight_ih_l0")
        self.first = parametrizations.weight_norm(nn.Linear(4, 5))
        self.second = nn.Linear(5, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(self.rnn(x)[0])))


NODES = [
    Recurrent("rnn", GRU(3, 4), "x"),
    Node("first", "Linear", "rnn", {"input_size": 4, "output_size": 5}),
    Node("relu", "Relu", "first"),
    Node("second", "Linear", "relu", {"input_size": 5, "output_size": 2}),
]
SPEC = Spec([Input("x", "float", ("B", "T", 3))], NODES, ["second"])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_checkpoint_of_parametrized_modules(prefix, tmp_path):
    module, x = trained(Net()), torch.randn(2, 5, 3)
    torch.save({f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}, tmp_path / "net.pt")
    model = rnncore.load(tmp_path / "net.pt", spec=SPEC)
    np.testing.assert_allclose(model(x.numpy()), module(x).detach(), 1e-5, 1e-6)
    notes = rnncore.formats.loading.open_file(tmp_path / "net.pt", spec=SPEC).notes
    assert sum("its normalization was computed once" in note for note in notes) == 3
    alone = {name.removeprefix("rnn."): part for name, part in module.state_dict().items() if name.startswith("rnn.")}
    torch.save(alone, tmp_path / "rnn.pt")
    with torch.no_grad():
        expected = module.rnn(x)[0].numpy()
    np.testing.assert_allclose(rnncore.load(tmp_path / "rnn.pt")(x.numpy())["gru"], expected, 1e-5, 1e-6)


def test_other_parametrizations_are_refused_by_name(tmp_path):
    module = nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    linear = Node("0", "Linear", "x", {"input_size": 3, "output_size": 3})
    with pytest.raises(UnsupportedError, match=r"a\.pt: 0\.weight: a parametrization with 0\.base, original, expected"):
        rnncore.load(tmp_path / "a.pt", spec=Spec([Input("x", "float", ("B", 3))], [linear], ["0"]))


def test_inspect_shows_the_parts_and_the_weight(tmp_path):
    torch.save(trained(Net()).state_dict(), tmp_path / "net.pt")
    shown = CliRunner().invoke(application, ["inspect", str(tmp_path / "net.pt")])
    text = " ".join(shown.output.split())
    assert shown.exit_code == 0 and "rnn GRU 1 1 3 4 yes" in text and "first Linear bias (5,), weight (5, 4)" in text
    assert "rnn.weight_hh_l0 (12, 4) rnn.weight_hh_l0_g (12, 1) float32 rnn.weight_hh_l0_v (12, 4) float32" in text
    assert "first.parametrizations.weight.original0 (5, 1) float32" in text
    module = nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    shown = CliRunner().invoke(application, ["inspect", str(tmp_path / "a.pt")])
    assert shown.exit_code == 0 and "problem: 0.weight: a parametrization with 0.base" in shown.output


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"weight_g": (2, 2), "weight_v": (2, 2)}, "expected g to have one axis of v"),
        ({"weight_g": (3, 1), "weight_v": (2, 2)}, "expected g to have one axis of v"),
        ({"weight_g": (1, 1), "weight_v": (2, 2)}, "expected g to have one axis of v"),
        ({"weight_g": (2,), "weight_v": (2, 2)}, "expected g to have one axis of v"),
        ({"weight_orig": (2, 3), "weight_u": (4,), "weight_v": (3,)}, "expected u and v to be its singular vectors"),
        ({"weight_orig": (2, 3), "weight_u": (2,), "weight_v": (2,)}, "expected u and v to be its singular vectors"),
        ({"weight_orig": (0, 3), "weight_u": (0,), "weight_v": (3,)}, "expected u and v to be its singular vectors"),
    ],
)
def test_parts_that_contradict_each_other(parts, says):
    with pytest.raises(WeightError, match=says):
        fold({name: np.ones(shape, np.float32) for name, shape in parts.items()})


def test_many_parts_take_time_in_proportion():
    """Tens of thousands of them are a small file; looking for each among all would take a minute."""
    tensors = {
        f"l{i}.weight_{part}": np.ones((1, 2 - (part == "g")), np.float32) for i in range(20_000) for part in "gv"
    }
    found, _ = within(2.0, lambda: fold(tensors))
    assert len(found) == 20_000


def test_what_only_looks_like_a_part_stays():
    names = ["a_v", "b_g", "c_u", "c_orig", "weight_g", "weight_v", "weight"]
    tensors = {name: np.ones(2, np.float32) for name in names}
    found, notes = fold(tensors)
    assert list(found) == names and notes == ()


# --- several files ------------------------------------------------------------------------------------------------


def shards(folder, count=3, ending="safetensors", **lies):
    """A stack's tensors in several files, and their index."""
    module = nn.LSTM(3, 4, 2)
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    names, mapped = list(tensors), {}
    for place in range(count):
        file = f"model-{place + 1:05}-of-{count:05}.{ending}"
        part = {name: tensors[name] for name in names[place::count]}
        if ending == "bin":
            torch.save({name: torch.from_numpy(array) for name, array in part.items()}, folder / file)
        else:
            save_file(part, folder / file)
        mapped.update(dict.fromkeys(part, file))
    index = folder / ("model.safetensors.index.json" if ending == "safetensors" else "pytorch_model.bin.index.json")
    mapped.update(lies)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapped}, indent=2))
    return index, tensors


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_several_files_by_their_index(ending, tmp_path):
    index, tensors = shards(tmp_path, ending=ending)
    found = read_checkpoint(index)
    assert found.format == "sharded" and list(found.tensors) and set(found.tensors) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)
    x = np.ones((2, 5, 3), np.float32)
    whole = tmp_path / "whole.safetensors"
    save_file(tensors, whole)
    expected = rnncore.load(whole)(x)
    for place in (index, tmp_path):  # the file, and its directory
        found = rnncore.load(place)(x)
        assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    ("lies", "says"),
    [
        ({"weight_ih_l0": "../outside.safetensors"}, "expected a file in the same directory"),
        ({"weight_ih_l0": "/etc/passwd"}, "expected a file in the same directory"),
        ({"weight_ih_l0": ".."}, "expected a name beneath"),
        ({"weight_ih_l0": 3}, "expected a file in the same directory"),
        ({"weight_ih_l0": "none.safetensors"}, "No such file"),
        ({"weight_ih_l0": "link.safetensors"}, "without symbolic links"),
        ({"weight_ih_l0": "model-00002-of-00003.safetensors"}, "'weight_ih_l0' is not in"),
        ({"absent": "model-00002-of-00003.safetensors"}, "'absent' is not in"),
        ({"weight_ih_l0": "model.safetensors.index.json"}, "model.safetensors.index.json: seems to be JSON text"),
    ],
)
def test_an_index_that_lies(lies, says, tmp_path):
    outside = tmp_path / "outside.safetensors"
    save_file({"weight_ih_l0": np.ones((16, 3), np.float32)}, outside)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(outside)
    index, _ = shards(folder, **lies)
    with pytest.raises((FormatError, UnsupportedError), match=says) as caught:
        rnncore.load(index)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": 1}', '{"total_size": 1}', '{"weight_map"']
)
def test_an_index_that_is_none(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FormatError, match=r"weight_map|not JSON"):
        rnncore.load(tmp_path)


# --- bytes and open files -----------------------------------------------------------------------------------------

STACK = {name: tensor.detach().numpy() for name, tensor in nn.LSTM(3, 4).state_dict().items()}


def contents(tmp_path):
    """Files of each kind, with what loads them."""
    save_file(STACK, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **STACK)
    torch.save({name: torch.from_numpy(array) for name, array in STACK.items()}, tmp_path / "a.pt")
    rnncore.save(tmp_path / "own.safetensors", rnncore.load(tmp_path / "a.pt"))
    return [tmp_path / name for name in ("a.safetensors", "a.npz", "a.pt", "own.safetensors")]


def test_bytes_and_open_files(tmp_path):
    x = np.ones((2, 5, 3), np.float32)
    for path in contents(tmp_path):
        data, expected = path.read_bytes(), rnncore.load(path)(x)
        for given in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
            found = rnncore.load(given)(x)
            assert all((found[name] == expected[name]).all() for name in expected)
        with open(path, "rb") as file:
            assert rnncore.load(file)(x).keys() == expected.keys()
        assert rnncore.formats.loading.open_file(data).sha256 == rnncore.formats.loading.open_file(path).sha256


def test_messages_never_show_the_bytes(tmp_path):
    data = contents(tmp_path)[0].read_bytes()
    large = data[:100] + bytes(1_000_000)
    for given, name in ((large, "<1,000,100 bytes>"), (io.BytesIO(large), "<BytesIO>"), (memoryview(large), "bytes>")):
        with pytest.raises(FormatError) as caught:
            rnncore.load(given)
        assert len(str(caught.value)) < 500 and name in str(caught.value)
    for given in (None, 3, ["a.pt"], object(), {"path": large}):
        with pytest.raises(FormatError, match="expected a path, bytes or a binary file") as caught:
            rnncore.load(given)
        assert len(str(caught.value)) < 500
    with open(tmp_path / "a.pt", encoding="latin-1") as file, pytest.raises(FormatError, match="binary mode"):
        rnncore.load(file)


def test_external_data_needs_a_directory(tmp_path):
    """A model in memory names no file of the directory that happens to be the current one."""
    import onnx
    from onnx import helper, numpy_helper

    w = numpy_helper.from_array(np.ones((3, 400), np.float32), "w")
    inputs = [helper.make_tensor_value_info("x", 1, ("B", 3))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, [helper.make_empty_tensor_value_info("y")], [w]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="w.data")
    x = np.ones((2, 3), np.float32)
    expected = rnncore.load(tmp_path / "model.onnx")(x)
    np.testing.assert_array_equal(rnncore.load((tmp_path / "whole.onnx").read_bytes())(x), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(FormatError, match="of a model in memory, expected a file, which has a directory"):
            rnncore.load((tmp_path / "model.onnx").read_bytes())


# --- other programs' files ----------------------------------------------------------------------------------------

FOREIGN = {
    "a pickle": (pickle.dumps({"w": [1.0]}), r"torch\.save did not write, .*numpy\.savez"),
    "Flax": (b"\x81\xa6params\x82\xa5Dense\x81", "msgpack of Flax"),
    "Core ML": (b"\x08\x05\x12\x04\x0a\x02\x0a\x00\xa2\x1f\x02\x0a\x00", "Core ML"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3\x14\0\x20\0", "TensorFlow Lite"),
    "ONNX Runtime": (b"\x08\0\0\0ORTM\0\0", r"ONNX Runtime's \.ort: load the \.onnx"),
    "a SavedModel's graph": (b"\x08\x01\x12\xa2\x99", "TensorFlow SavedModel"),
    "a frozen graph": (
        b"\x0a\x2d\x0a\x05input\x12\x0bPlaceholder*\x0b",
        "frozen TensorFlow graph: convert it by tf2onnx",
    ),
    "Paddle": (b"\x0a\xd4\x1f\x08\0\x10\xff\xff", "PaddlePaddle program"),
    "MXNet": (b"\x12\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "MXNet's parameters"),
    "Kaldi": (b"\0B<Nnet3> ", "Kaldi model"),
    "GGUF": (b"GGUF\x03\0\0\0", "GGUF"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused_by_name(name):
    data, says = FOREIGN[name]
    for given in (data, data + bytes(2000)):
        with pytest.raises(UnsupportedError, match=f"seems to be .*{says}"):
            rnncore.load(given)


@pytest.mark.parametrize(
    ("file", "says"), [("saved_model.pb", "TensorFlow SavedModel"), ("Manifest.json", "Core ML package")]
)
def test_other_directories_are_refused_by_name(file, says, tmp_path):
    (tmp_path / file).write_bytes(b"\x08\x01")
    with pytest.raises(UnsupportedError, match=f"a directory of a {says}"):
        rnncore.load(tmp_path)


def test_arrays_of_objects_say_how_to_go_on(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, 1], object))
    with pytest.raises(UnsupportedError, match=r"numpy\.savez"):
        rnncore.load(tmp_path / "a.npy")


def test_a_torch_export_archive_is_refused_by_name(tmp_path):
    program = torch.export.export(nn.Sequential(nn.Linear(3, 2)), (torch.ones(1, 3),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(UnsupportedError, match=r"torch\.export archive"):
        rnncore.load(tmp_path / "a.pt2")
