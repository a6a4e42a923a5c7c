"""torch.ao's quantize_dynamic: state dicts, modules and scripts become the float modules with torch's own numbers."""

import functools
import json
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hostile_files import FLOATS, call, group, integer, mapping, name, numbers, storage, tensor, torch_zip
from refusals import SECONDS
from torch import nn
from torch.ao.quantization import (
    convert,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    get_default_qconfig,
    per_channel_dynamic_qconfig,
    prepare,
    quantize_dynamic,
)
from yardstick import within

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM
from rnncore.cli.application import application
from rnncore.errors import FormatError, RnncoreError, UnsupportedError, WeightError
from rnncore.formats import read_checkpoint
from rnncore.formats.loading import open_file
from rnncore.formats.plain_weights import plain_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # torch says that torch.ao will go

CONFIGS = {
    "qint8": (default_dynamic_qconfig, torch.qint8),
    "qint8 per channel": (per_channel_dynamic_qconfig, torch.qint8),
    "float16": (float16_dynamic_qconfig, torch.float16),
}
KINDS = (nn.LSTM, nn.GRU, nn.Linear, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 4, 3, batch_first=True)
        self.fc = nn.Linear(4, 5)
        self.no_bias = nn.Linear(5, 2, bias=False)
        self.cells = nn.ModuleList([nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)])

    def forward(self, x):
        return self.no_bias(torch.relu(self.fc(self.gru(self.lstm(x)[0])[0])))


NODES = [
    Recurrent("lstm", LSTM(3, 4), "x", 2, "bidirectional"),
    Recurrent("gru", GRU(8, 4), "lstm", 3),
    Node("fc", "Linear", "gru", {"input_size": 4, "output_size": 5}),
    Node("relu", "Relu", "fc"),
    Node("no_bias", "Linear", "relu", {"input_size": 5, "output_size": 2, "bias": False}),
]
SPEC = Spec([Input("x", "float", ("B", "T", 3))], NODES, ["no_bias"])


def quantized(module, config="qint8"):
    qconfig, dtype = CONFIGS[config]
    return quantize_dynamic(module.eval(), dict.fromkeys(KINDS, qconfig), dtype=dtype)


@functools.cache
def network(config, scripted=False):
    net = Net()
    if scripted:
        net.cells = nn.ModuleList()  # torch cannot script them
    return quantized(net, config)


def weights_of(module):
    """The float weights of a quantized module, by torch."""
    found = {}
    for prefix, part in module.named_modules():
        if hasattr(part, "get_weight"):
            found |= {f"{prefix}.{key}": value for key, value in {**part.get_weight(), **part.get_bias()}.items()}
        elif isinstance(part, torch.ao.nn.quantized.Linear):
            found[f"{prefix}.weight"] = part.weight()
            found |= {} if part.bias() is None else {f"{prefix}.bias": part.bias()}
    return {key: (value.dequantize() if value.is_quantized else value).detach() for key, value in found.items()}


def saved(module, form, path):
    if form == "script":
        torch.jit.save(torch.jit.script(module), path)
    elif form == "module":
        torch.save(module, path)
    else:
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("form", ["zip", "stream", "module", "script"])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_weights_are_those_that_torch_dequantizes(config, form, tmp_path):
    module = network(config, scripted=form == "script")
    path = saved(module, form, tmp_path / "a.pt")
    found, expected = plain_weights(read_checkpoint(path)).tensors, weights_of(module)
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, key)

    float_module = Net()
    float_module.load_state_dict(expected, strict=form != "script")
    x = torch.randn(2, 5, 3)
    with warnings.catch_warnings(record=True) as log, torch.no_grad():
        warnings.simplefilter("always")
        model = rnncore.load(path, spec=SPEC)
        np.testing.assert_allclose(model(x.numpy()), float_module(x).numpy(), 1e-5, 1e-6)
    said = [str(entry.message) for entry in log if "computed in float32 from quantized weights" in str(entry.message)]
    assert len(said) == (config != "float16")
    assert all("lstm.weight_ih_l0, " in text and "no_bias.weight" in text for text in said)
    notes = [note for note in open_file(path, spec=SPEC).notes if "no input is quantized" in note]
    assert len(notes) == len(said)


def test_a_stack_alone_needs_no_spec(tmp_path):
    module = quantized(nn.Sequential(nn.LSTM(3, 4, 2, bidirectional=True)))[0]
    path = saved(module, "zip", tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="computed in float32 from quantized weights"):
        model = rnncore.load(path)
    for key, value in weights_of(nn.ModuleDict({"lstm": module})).items():
        if key.startswith("lstm.weight"):
            np.testing.assert_array_equal(model.weights[key], value)


@pytest.mark.parametrize("hidden", [3, 4, 6])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("inputs", [3, 4])
def test_layers_and_directions_by_the_sizes(inputs, layers, bidirectional, hidden, tmp_path):
    module = quantized(nn.ModuleDict({"gru": nn.GRU(inputs, hidden, layers, bidirectional=bidirectional)}))
    checkpoint = read_checkpoint(saved(module, "zip", tmp_path / "a.pt"))
    expected = {key: value.numpy() for key, value in weights_of(module).items()}
    spec = None
    if inputs == hidden and layers * (1 + bidirectional) == 2:  # two layers and two directions look the same
        with pytest.raises(WeightError, match=r"two layers or two directions of . units.*give a spec"):
            plain_weights(checkpoint)
        direction = "bidirectional" if bidirectional else "forward"
        node = Recurrent("gru", GRU(inputs, hidden), "x", layers, direction)
        spec = Spec([Input("x", "float", ("B", "T", inputs))], [node], ["gru"])
    found = plain_weights(checkpoint, spec).tensors
    assert set(found) == set(expected)
    assert all((found[key] == expected[key]).all() for key in expected)


@pytest.mark.parametrize("config", ["embedding", "embedding bag"])
def test_embeddings(config, tmp_path):
    module = nn.Sequential(nn.Embedding(10, 4) if config == "embedding" else nn.EmbeddingBag(10, 4))
    module.qconfig = float_qparams_weight_only_qconfig
    convert(prepare(module.eval() if config == "embedding" else module, inplace=True), inplace=True)
    found = plain_weights(read_checkpoint(saved(module, "zip", tmp_path / "a.pt")))
    expected = module[0].weight().dequantize()
    np.testing.assert_allclose(found.tensors["0.weight"], expected, 1e-6)
    assert set(found.tensors) == {"0.weight"} and "no input is quantized: 0.weight" in found.notes[0]


def test_static_quantization_is_refused_by_name(tmp_path):
    module = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Linear(3, 2)).eval()
    module.qconfig = get_default_qconfig("x86")
    prepare(module, inplace=True)(torch.randn(4, 3))
    path = saved(convert(module, inplace=True), "zip", tmp_path / "a.pt")
    linear = Node("1", "Linear", "x", {"input_size": 3, "output_size": 2})
    spec = Spec([Input("x", "float", ("B", 3))], [linear], ["1"])
    with pytest.raises(UnsupportedError, match=r"a\.pt: 1\.(scale|zero_point): .*static quantization.*the float"):
        rnncore.load(path, spec=spec)


def test_a_cell_computes_with_the_packed_bias(tmp_path):
    """A whole module of a cell has bias_ih beside it, which the kernels do not read."""
    module = quantized(nn.ModuleDict({"c": nn.GRUCell(3, 4)}))
    module["c"].bias_ih = torch.full((12,), 7.0)
    found = plain_weights(read_checkpoint(saved(module, "module", tmp_path / "a.pt"))).tensors
    np.testing.assert_array_equal(found["c.bias_ih"], module["c"].get_bias()["bias_ih"].detach())
    assert set(found) == {f"c.{part}_{product}" for part in ("weight", "bias") for product in ("ih", "hh")}


def test_inspect_shows_what_a_weight_is_made_of(tmp_path):
    path = saved(network("qint8"), "zip", tmp_path / "a.pt")
    shown = CliRunner().invoke(application, ["inspect", str(path)])
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    assert (
        "lstm LSTM 2 2 3 4 yes" in text and "fc.weight (5, 4) fc._packed_params._packed_params.0 (5, 4) qint8" in text
    )
    assert "note: computed in float32 from quantized weights" in text and "not read" not in text
    found = json.loads(CliRunner().invoke(application, ["inspect", "--json", str(path)]).output)
    assert found["made_of"]["gru.bias_ih_l2"] == {"shape": [12], "tensors": ["gru._all_weight_values.2.param.bias_ih"]}
    assert found["tensors"]["cells.0._packed_weight_ih.weight"] == {"shape": [16, 3], "dtype": "qint8"}


# --- files that lie -------------------------------------------------------------------------------------------------

TENSOR = name("torch", "per_tensor_affine")
CHANNEL = name("torch", "per_channel_affine")


def quantized_tensor(quantizer, kind="QInt8Storage", shape=(2, 2), numel=4):
    arguments = storage("q", kind, numel), integer(0), numbers(shape), numbers((shape[-1], 1)), quantizer, b"\x89", b"}"
    return call(name("torch._utils", "_rebuild_qtensor"), *arguments)


def number(value):
    return f"F{value}\n".encode()


def of_two(quantizer, **options):
    return torch_zip(mapping(w=quantized_tensor(quantizer, **options), b=tensor()), {"q": b"\1\2\3\xff", "0": FLOATS})


LIES = {
    "three numbers": (of_two(group(TENSOR, number(0.5), integer(0), integer(1))), "its scale and zero point"),
    "a text for a scale": (of_two(group(TENSOR, b"X\1\0\0\0a", integer(0))), "its scale and zero point"),
    "scales of another size": (of_two(group(CHANNEL, tensor(), tensor(), integer(0))), r"\(4\) scales"),
    "an axis that is not there": (of_two(group(CHANNEL, tensor(), tensor(), integer(2))), "along axis 2"),
    "a negative axis": (of_two(group(CHANNEL, tensor(), tensor(), integer(-1))), "along axis -1"),
    "no axis": (of_two(group(CHANNEL, tensor(), tensor())), "and their axis"),
    "past the end": (of_two(group(TENSOR, number(0.5), integer(0)), shape=(3, 2)), "6 elements"),
    "no quantizer": (of_two(integer(3)), "other arguments"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_quantized_tensor_that_lies(lie, tmp_path):
    data, says = LIES[lie]
    with pytest.raises(FormatError, match=says):
        rnncore.load(data)


@pytest.mark.parametrize(
    ("quantizer", "kind"),
    [(group(name("torch", "per_row"), number(0.5), integer(0)), "QInt8Storage"),
     (group(TENSOR, number(0.5), integer(0)), "QUInt4x2Storage"), (b")", "QInt8Storage")],
)  # fmt: skip
def test_other_quantized_tensors_are_named(quantizer, kind):
    data = of_two(quantizer, kind=kind)
    node = Node("w", "Linear", "x", {"input_size": 2, "output_size": 2})
    with pytest.raises(RnncoreError, match=r"w\.weight: missing.*1 quantised tensors are not read \(w\)"):
        rnncore.load(data, spec=Spec([Input("x", "float", ("B", 2))], [node], ["w"]))


def test_the_numbers_of_a_tensor_by_hand():
    from rnncore.formats.loading import resolve

    found = read_checkpoint(resolve(of_two(group(TENSOR, number(0.5), integer(1)))))
    np.testing.assert_array_equal(found.tensors["w"], [[0, 0.5], [1, -1]])
    assert found.source_dtypes["w"] == "qint8" and not found.tensors["w"].flags.writeable


def test_one_storage_in_many_tensors_does_not_fill_the_memory():
    """Each would be an array of its own: a few megabytes become as many as there are names."""
    from rnncore.formats.loading import resolve

    numel = 1 << 20
    body = b"}(" + b"".join(
        b"X\4\0\0\0" + f"{at:04}".encode() + quantized_tensor(group(TENSOR, number(0.5), integer(at)), "QInt8Storage",
                                                              (1, numel), numel) for at in range(200)
    ) + b"u"  # fmt: skip
    data = torch_zip(body, {"q": bytes(numel)})

    def read():
        with pytest.raises(FormatError, match="times as many"):
            read_checkpoint(resolve(data))

    within(SECONDS, read)
