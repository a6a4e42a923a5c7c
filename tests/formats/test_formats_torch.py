"""torch_file against torch itself: what torch.save writes, read without torch, gives torch's numbers."""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile_files as files
import numpy as np
import pytest
import torch
from paths import environment
from real_models import real_file

import rnncore
from rnncore.cells import LSTM
from rnncore.errors import FormatError, UnsupportedError
from rnncore.formats import read_checkpoint
from rnncore.formats.torch import file as torch_file
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec

nn = torch.nn

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
UNTYPED = ["uint16", "uint32", "uint64"]


@pytest.fixture(params=["zip", "stream"])
def saved(request, tmp_path):
    """A function that saves an object in the container of the test and gives the Checkpoint."""

    def save(found, **options):
        path = tmp_path / "file.pt"
        torch.save(found, path, _use_new_zipfile_serialization=request.param == "zip", **options)
        checkpoint = read_checkpoint(path)
        assert checkpoint.format == f"torch {request.param}" and checkpoint.path == str(path)
        return checkpoint

    return save


class Tagger(nn.Module):
    """An embedding, a tied LSTM and a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(10, 3), nn.ReLU())
        self.register_buffer("scale", torch.tensor(0.5))


class Settings:
    """A class that only this test knows."""

    def __init__(self, **values):
        self.__dict__.update(values)


class Dictionary(dict):
    """A dict of a class that only this test knows, as Lightning's AttributeDict is."""


def as_numpy(tensor):
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def assert_same(checkpoint, state):
    assert list(checkpoint.tensors) == list(state)
    for name, tensor in state.items():
        array, expected = checkpoint.tensors[name], as_numpy(tensor)
        assert array.dtype == expected.dtype and array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()
        assert checkpoint.source_dtypes[name] == str(tensor.dtype).removeprefix("torch.")
        assert not array.flags.writeable


def test_state_dict(saved):
    state = Tagger().state_dict()
    checkpoint = saved(state)
    assert_same(checkpoint, state)
    assert checkpoint.skipped == []


@pytest.mark.parametrize("dtype", DTYPES + UNTYPED)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7,), (3, 5), (2, 1, 4)])
def test_dtypes_and_shapes(saved, dtype, shape):
    tensor = (torch.randn(shape) * 50).abs().to(torch.int32).to(getattr(torch, dtype))
    assert_same(saved({"x": tensor}), {"x": tensor})


def test_bfloat16_is_widened_exactly(saved):
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)
    tensor = bits.view(torch.bfloat16)
    array = saved({"x": tensor}).tensors["x"]
    assert array.dtype == np.float32
    assert np.array_equal(array.view(np.uint32) >> 16, bits.numpy().view(np.uint16))
    assert not (array.view(np.uint32) & 0xFFFF).any()


def test_views(saved):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": whole,
        "transposed": whole.t(),
        "rows": whole[1:3],
        "steps": whole[::2, 1::2],
        "column": whole[:, 5],
    }
    state["folded"] = whole.reshape(-1).unfold(0, 2, 2)
    checkpoint = saved(state)
    assert list(checkpoint.tensors) == list(state)
    for name, tensor in state.items():
        assert np.array_equal(checkpoint.tensors[name], tensor.numpy())
        assert np.shares_memory(checkpoint.tensors["whole"], checkpoint.tensors[name])


def test_tied_weights_share_memory(saved):
    model = Tagger()
    model.output = nn.Linear(4, 11)
    model.output.weight = model.embedding.weight
    tensors = saved(model.state_dict()).tensors
    assert np.shares_memory(tensors["output.weight"], tensors["embedding.weight"])


def test_parameters(saved):
    parameter = nn.Parameter(torch.randn(3, 2))
    parameter.note = "an attribute is dropped"
    assert_same(saved({"p": parameter}), {"p": parameter})


def test_tensor_subclass(saved):
    class Named(torch.Tensor):
        pass

    globals()["Named"] = Named
    Named.__qualname__ = "Named"
    tensor = torch.randn(3).as_subclass(Named)
    tensor.note = "state"
    array = saved({"x": tensor}).tensors["x"]
    assert np.array_equal(array, tensor.as_subclass(torch.Tensor).numpy())


def test_nested_containers(saved):
    state = {"a": [torch.zeros(1), (torch.ones(2), {"b": torch.ones(3)})], 5: collections.OrderedDict(c=torch.ones(4))}
    tensors = saved(state).tensors
    assert [(name, array.size) for name, array in tensors.items()] == [
        ("a.0", 1),
        ("a.1.0", 2),
        ("a.1.1.b", 3),
        ("5.c", 4),
    ]


def test_bare_tensor_and_bare_list(saved):
    assert list(saved(torch.ones(2)).tensors) == ["tensor"]
    assert list(saved([torch.ones(2), torch.ones(2)]).tensors) == ["0", "1"]


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: nn.DataParallel(model)])
def test_whole_module_gives_the_names_of_its_state_dict(saved, wrap):
    model = wrap(Tagger())
    checkpoint = saved(model)
    state = model.state_dict()
    assert set(checkpoint.tensors) == set(state)
    for name, tensor in state.items():
        assert np.array_equal(checkpoint.tensors[name], tensor.numpy())
    prefix = "module." if "module.scale" in state else ""
    assert checkpoint.metadata[f"{prefix}lstm.__class__"] == "torch.nn.modules.rnn.LSTM"
    assert checkpoint.metadata[f"{prefix}lstm.num_layers"] == "2"
    assert checkpoint.metadata[f"{prefix}lstm.bidirectional"] == "True"
    assert type(model).__name__ in checkpoint.skipped[0].reason and len(checkpoint.skipped) == 1


def test_module_inside_a_checkpoint(saved):
    model = nn.GRU(2, 3)
    checkpoint = saved({"model": model, "epoch": 3})
    assert list(checkpoint.tensors) == [f"model.{name}" for name in model.state_dict()]


def test_checkpoint_with_foreign_objects(saved):
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    settings = Settings(hidden=5, nested=Settings(deep="yes"))
    settings.itself = settings
    state = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "hyper_parameters": Dictionary(hidden_size=5, dropout=0.25, name="tagger", bias=True, nothing=None),
        "args": argparse.Namespace(layers=2, path=Path("data")),
        "settings": settings,
        "class": Settings,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([3, 4]),
        "words": {f"word{i}": i for i in range(2000)},
        "tags": {"a", "b"},
        "mean": np.arange(3.0),
        "raw": b"bytes",
        "default": collections.defaultdict(list, {"k": [torch.ones(1)]}),
        "counter": collections.Counter("abca"),
        "big": 1 << 100,
    }
    checkpoint = saved(state)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(checkpoint.tensors[f"state_dict.{name}"], tensor.numpy())
    moment = optimizer.state_dict()["state"][0]["exp_avg"]
    assert np.array_equal(checkpoint.tensors["optimizer.state.0.exp_avg"], moment.numpy())
    assert "default.k.0" in checkpoint.tensors
    reasons = dict(checkpoint.skipped)
    assert "argparse.Namespace" in reasons["args"]
    assert "Settings" in reasons["settings"] and "Settings" in reasons["class"]
    assert "Dictionary" in reasons["hyper_parameters"]
    assert "numpy" in reasons["mean"]
    assert not {"device", "dtype", "tags", "raw", "words", "size"} & set(reasons)
    expected = {
        "hyper_parameters.hidden_size": "5",
        "hyper_parameters.dropout": "0.25",
        "hyper_parameters.name": "tagger",
        "hyper_parameters.bias": "True",
        "args.layers": "2",
        "settings.nested.deep": "yes",
        "dtype": "torch.float16",
    }
    assert expected.items() <= checkpoint.metadata.items()
    assert "words.word1" not in checkpoint.metadata and "big" not in checkpoint.metadata


QUINT4 = torch.full((2,), 0.1), torch.zeros(2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kinds_of_tensors_that_are_skipped(saved):
    state = {
        "w": torch.ones(2),
        "complex": torch.ones(2, dtype=torch.complex64),
        "sparse": torch.eye(2).to_sparse(),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "quantised": torch.quantize_per_channel(torch.ones(2, 2), QUINT4[0], QUINT4[1], 0, torch.quint4x2),
        "meta": torch.ones(2, device="meta"),
    }
    checkpoint = saved(state)
    assert list(checkpoint.tensors) == ["w"]
    reasons = dict(checkpoint.skipped)
    assert list(reasons) == list(state)[1:]
    for name, word in zip(reasons, ["complex64", "sparse", "float8_e4m3fn", "quantised", "meta"], strict=True):
        assert word in reasons[name]


def test_a_quantized_tensor_is_read_as_numbers(saved):
    checkpoint = saved({"w": torch.quantize_per_tensor(torch.tensor([1.0, -0.26]), 0.1, 0, torch.qint8)})
    np.testing.assert_array_equal(checkpoint.tensors["w"], np.float32([10, -3]) * np.float32(0.1))
    assert checkpoint.source_dtypes == {"w": "qint8"} and checkpoint.skipped == []


def test_nothing_but_skipped_tensors(saved):
    with pytest.raises(UnsupportedError, match="no tensor that can be read: a: a sparse tensor"):
        saved({"a": torch.eye(2).to_sparse()})


def test_no_tensors(saved):
    with pytest.raises(FormatError, match="a pickle without tensors"):
        saved({"a": 1})


def test_expanded_tensor_is_refused(saved):
    with pytest.raises(FormatError, match=r"1000 elements \(1000\) on a storage of 1"):
        saved({"a": torch.ones(1).expand(1000)})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(saved, protocol):
    state = Tagger().state_dict()
    assert_same(saved(state, pickle_protocol=protocol), state)


def test_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(4.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "a.pt").tensors["w"].tolist() == [0, 1, 2, 3]


def test_flipped_bit_in_the_weights_is_found(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.full((100,), 1.5)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(1.5).tobytes() * 100) + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="data/0: checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int16"])
def test_big_endian_archive(tmp_path, dtype):
    tensor = torch.arange(-3, 5).to(getattr(torch, dtype))
    torch.save({"w": tensor}, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as source, zipfile.ZipFile(tmp_path / "big.pt", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                data = np.frombuffer(data, f"u{tensor.element_size()}").byteswap().tobytes()
            target.writestr(name, data)
    assert_same(read_checkpoint(tmp_path / "big.pt"), {"w": tensor})


def test_archive_packed_again_with_compression(tmp_path):
    state = Tagger().state_dict()
    torch.save(state, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert_same(read_checkpoint(tmp_path / "b.pt"), state)


def test_zip64_archive(tmp_path):
    """Sizes and offsets in zip64 fields, as for archives above 4 GiB."""
    torch.save({"w": torch.arange(4.0)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as member:
                member.write(source.read(name))
    assert read_checkpoint(tmp_path / "b.pt").tensors["w"].tolist() == [0, 1, 2, 3]


def test_file_may_be_overwritten_afterwards(saved, tmp_path):
    array = saved({"w": torch.full((1000,), 2.0)}).tensors["w"]
    (tmp_path / "file.pt").write_bytes(bytes(10_000))
    assert (array == 2).all()


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 2)
        self.register_buffer("steps", torch.ones(2))

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.fc(y)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_tensors_of_a_torchscript_archive(how, tmp_path):
    """As the module's state_dict; the program is not read, so that weights alone never tell the network."""
    module = Scripted().eval()
    x = torch.randn(2, 5, 3)
    torch.jit.save(torch.jit.script(module) if how == "script" else torch.jit.trace(module, x), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.format == "TorchScript"
    assert {name: array.tolist() for name, array in found.tensors.items()} == {
        name: tensor.tolist() for name, tensor in module.state_dict().items()
    }
    lstm = LSTM(3, 4)
    nodes = [
        Recurrent("lstm", lstm, "x", layers=2, direction="bidirectional"),
        Node("fc", "Linear", "lstm", {"input_size": 8, "output_size": 2}),
    ]
    spec = Spec([Input("x", "float", ("B", "T", 3))], nodes, ["fc"])
    with pytest.warns(UserWarning, match="steps"):
        model = rnncore.load(tmp_path / "a.pt", spec=spec)
    np.testing.assert_allclose(model(x.numpy()), module(x).detach(), 1e-5, 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_needs_a_spec(tmp_path):
    torch.jit.save(torch.jit.script(nn.LSTM(2, 2)), tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match=r"a\.pt: a TorchScript archive, whose program is not read: give a spec"):
        rnncore.load(tmp_path / "a.pt")


def test_plain_pickle_is_refused(tmp_path):
    import pickle

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": torch.ones(2)}))
    with pytest.raises(UnsupportedError, match=r"a pickle that torch\.save did not write"):
        read_checkpoint(tmp_path / "a.pkl")


def test_extension_does_not_matter(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors").format == "torch zip"
    assert list(torch_file.read(tmp_path / "a.safetensors").tensors) == ["w"]


def test_neither_torch_nor_the_files_modules_are_imported(tmp_path):
    torch.save({"model": Tagger(), "settings": Settings(a=1)}, tmp_path / "a.pt")
    script = (
        "import sys, json; from rnncore.formats import read_checkpoint; found = read_checkpoint('a.pt'); "
        "print(json.dumps([len(found.tensors), sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=280, check=True
    )
    count, modules = json.loads(done.stdout)
    assert count == len(Tagger().state_dict())
    assert not {"torch", __name__} & set(modules)
    assert "numpy" in modules


def test_large_file_is_not_copied(tmp_path):
    """The arrays of 64 MB are the bytes that were read: peak memory stays close to the size of the file."""
    import tracemalloc

    state = {f"w{i}": torch.zeros(1 << 20) for i in range(16)}
    for zipped in (True, False):
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        tracemalloc.start()
        found = read_checkpoint(tmp_path / "a.pt")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found.tensors) == 16
        assert peak < 1.2 * (64 << 20)


FLOAT = files.name("torch", "FloatStorage")
VIEW = files.group(files.text("v"), files.integer(-1), files.integer(2))
MALFORMED = {
    "an object with both kinds of entries": (b"ca\nB\n)\x81NaNNs", "both with and without keys"),
    "items added to a list": (b"](N\x90", "adds to list, expected a set"),
    "a pair set in a list": (b"]NNs", "adds to list, expected a dict"),
    "a class without a name": (b"NN\x93", "a class without a name"),
    "keywords that are no dict": (b"ca\nB\n)N\x92", "keywords are NoneType, expected a dict"),
    "state for a number": (b"K\x01}b", "gives state to int"),
    "a persistent id that is no tuple": (b"NQ", "persistent id NoneType, expected a tuple"),
    "a persistent id of another kind": (
        files.group(files.text("file"), files.text("/etc/passwd")) + b"Q",
        "persistent id of kind 'file'",
    ),
    "a storage key that is a number": (
        files.group(files.text("storage"), FLOAT, b"K\x00NK\x04") + b"Q",
        "storage key 0, expected",
    ),
    "a storage view that is negative": (
        files.group(files.text("storage"), FLOAT, files.text("0"), files.text("cpu"), files.integer(4), VIEW) + b"Q",
        "view ('v', -1, 2), expected",
    ),
    "a tensor of three arguments": (
        files.call(
            files.name("torch._utils", "_rebuild_tensor_v2"), files.storage(), files.integer(0), files.numbers((4,))
        ),
        "a tensor of 3 arguments, expected 4 to 7",
    ),
    "an untyped tensor without dtype": (
        files.call(
            files.name("torch._utils", "_rebuild_tensor_v3"),
            files.storage(),
            files.integer(0),
            files.numbers((4,)),
            files.numbers((1,)),
        ),
        "a tensor of 4 arguments, expected 7 or 8",
    ),
    "a parameter of nothing": (
        files.call(files.name("torch._utils", "_rebuild_parameter"), b"N"),
        "a parameter without a tensor",
    ),
    "a subclass without its function": (
        files.call(files.name("torch._tensor", "_rebuild_from_type_v2"), b"N", b"N", b")", b"N"),
        "a tensor subclass of other arguments",
    ),
    "an OrderedDict of numbers": (files.call(files.name("collections", "OrderedDict"), b"](K\x01K\x02e"), "not a pair"),
    "a Size of a number": (files.call(files.name("torch", "Size"), b"K\x01"), "a torch.Size of something"),
    "an object without a class": (
        files.call(files.name("copyreg", "_reconstructor"), b"K\x01"),
        "an object without a class",
    ),
}


@pytest.mark.parametrize(("body", "says"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_pickle(tmp_path, body, says):
    """Each beside a good tensor: without its check the file would load."""
    (tmp_path / "a.pt").write_bytes(files.torch_zip(b"](" + files.tensor() + body + b"e"))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert says in str(caught.value) and "a/data.pkl: pickle, offset" in str(caught.value)


def test_tensor_on_a_foreign_storage_is_skipped(tmp_path):
    foreign = files.tensor(files.call(files.name("torch.storage", "_load_from_bytes"), b"N"))
    (tmp_path / "a.pt").write_bytes(files.torch_zip(files.mapping(w=files.tensor(), x=foreign)))
    found = read_checkpoint(tmp_path / "a.pt")
    assert list(found.tensors) == ["w"]
    assert found.skipped == [("x", "a tensor whose storage is an object of torch.storage._load_from_bytes")]


def test_stream_whose_storage_keys_are_numbers(tmp_path):
    data = files.stream().replace(b"](" + files.text("0") + b"e", b"](K\x00e")
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(FormatError, match="no list of strings"):
        read_checkpoint(tmp_path / "a.pt")


def test_at_most_a_thousand_skipped_are_listed(tmp_path):
    words = b"](" + files.name("a", "b") * 1500 + files.tensor() + b"e"
    (tmp_path / "a.pt").write_bytes(files.torch_zip(words))
    skipped = read_checkpoint(tmp_path / "a.pt").skipped
    assert len(skipped) == 1001 and skipped[-1] == ("", "and 500 more")


def test_archive_of_too_many_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for i in range(65_537):
            archive.writestr(str(i), b"")
    with pytest.raises(FormatError, match="65537 members, expected at most 65536"):
        read_checkpoint(tmp_path / "a.pt")


def test_member_on_another_disk(tmp_path):
    data = files.zip_of(files.zip_member("a/data.pkl", b""))
    at = data.index(b"PK\x01\x02") + 34
    (tmp_path / "a.pt").write_bytes(data[:at] + b"\x02\0" + data[at + 2 :])
    with pytest.raises(UnsupportedError, match=r"a/data\.pkl: in part 2"):
        read_checkpoint(tmp_path / "a.pt")


def test_published_speaker_encoder():
    """Resemblyzer's LSTM, a stream of 2019 with optimiser state: every tensor equals torch's own reading."""
    path = real_file("Resemblyzer==0.1.4", "resemblyzer/pretrained.pt")
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "torch stream"
    expected = torch.load(path, map_location="cpu", weights_only=True)
    state = expected["model_state"]
    assert state["lstm.weight_ih_l0"].shape == (1024, 40)
    for name, tensor in state.items():
        assert np.array_equal(checkpoint.tensors[f"model_state.{name}"], tensor.numpy())
