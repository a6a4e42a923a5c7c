"""rnncore.export.from_torch on modules with code of their own: each runs like torch over several sizes and lengths."""

import functools
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_modules
from export_agreement import check_other_weights
from torch import nn
from torch_modules import MODULES, REFUSED, floats, ids, lengths

import rnncore
from rnncore.errors import InputError, UnsupportedError, VerificationError
from rnncore.export import from_torch
from rnncore.export.torch.export import _leaves as leaves
from rnncore.formats import native
from rnncore.graph.nodes import Control, Recurrent


def resized(spec, arrays, sizes):
    """Inputs of a Spec with other sizes: rows and steps repeated where they stand, lengths within the new steps."""
    found = {}
    for entry in spec.inputs:
        if entry.name not in arrays:
            continue
        array = arrays[entry.name]
        for axis, size in enumerate(entry.shape):
            if isinstance(size, str):
                wanted = sizes(size, array.shape[axis])
                array = np.take(array, np.arange(wanted) * array.shape[axis] // wanted, axis)
        if entry.name == "lengths":
            before = max(n for key, other in arrays.items() if key != "lengths" for n in other.shape[:2])
            array = np.maximum(np.minimum(array, sizes("T", before)), 1)
        found[entry.name] = array
    return found


def in_torch(module, example, arrays):
    """torch's outputs for arrays in the place of the example's tensors, in order."""
    given = iter(arrays.values())

    def replaced(item):
        return torch.from_numpy(next(given)) if isinstance(item, torch.Tensor) else type(item)(map(replaced, item))

    with torch.no_grad():
        return [tensor.numpy() for tensor in leaves(module(*map(replaced, example)))]


@functools.cache
def exported_of(name):
    """A module with weights of its own, its example, and what it is exported to."""
    make, example = MODULES[name]
    torch.manual_seed(5)
    module = make().eval()
    return module, example, from_torch(module, example)


@pytest.mark.parametrize("name", MODULES)
def test_modules_run_like_torch(name):
    module, example, exported = exported_of(name)
    model = rnncore.Model(*exported)
    changes = (
        lambda _, n: n,
        lambda size, n: n + 1,
        lambda size, n: 2 * n,
        lambda size, n: n - 1 if size == "B" else n + 3,
    )
    for sizes in changes:
        inputs = resized(exported.spec, exported.test_pair.inputs, sizes)
        found = model.run(inputs)
        for (output, array), expected in zip(found.items(), in_torch(module, example, inputs), strict=True):
            assert array.shape == expected.shape, (output, inputs)
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5, err_msg=output)


LOOPS = ["cell loop", "gru cell loop", "two cells", "backward loop", "stored outputs", "layers of cells", "both ways"]


@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_cells_become_recurrent_nodes(name):
    make, example = MODULES[name]
    exported = from_torch(make(), example)
    assert exported.spec.recurrent
    assert not any(isinstance(node, Control) for node in exported.spec.nodes)
    assert any("a loop over its steps" in note for note in exported.notes)


@pytest.mark.parametrize("name", ["gated loop", "own cell", "fed attention"])
def test_other_loops_become_scans(name):
    make, example = MODULES[name]
    assert [node.op for node in from_torch(make(), example).spec.nodes if isinstance(node, Control)] == ["Scan"]


def test_initial_states():
    def node(name):
        make, example = MODULES[name]
        return next(node for node in from_torch(make(), example).spec.nodes if isinstance(node, Recurrent))

    zeros, given = node("optional state, absent"), node("optional state, given")
    assert (zeros.initial, zeros.trained_state) == ((), False)
    assert given.initial == ("h",)
    assert node("learned state").trained_state
    assert node("computed state").initial


def test_last_states_are_values_of_the_node():
    make, example = MODULES["packed encoder"]
    spec = from_torch(make(), example).spec
    assert [node.name for node in spec.nodes][:3] == ["embed", "rnn", "fc"]
    assert spec.nodes[2].inputs == ("rnn.last",)
    assert spec.nodes[1].lengths == "lengths"


def test_lengths_by_keyword_and_rows_of_other_lengths():
    make, (tokens, _) = MODULES["packed encoder"]
    module = make().eval()
    exported = from_torch(module, tokens, lengths=[6, 4, 2])
    model = rnncore.Model(*exported)
    for sizes in ([1, 1, 1], [3, 6, 2], [6, 6, 6]):
        expected = module(tokens, torch.tensor(sizes)).detach().numpy()
        np.testing.assert_allclose(
            model.run({"tokens": tokens.numpy(), "lengths": np.array(sizes)})[exported.spec.outputs[0]],
            expected,
            atol=1e-6,
        )


def test_rows_may_have_lengths_where_steps_stand_alone():
    make, example = MODULES["tagger"]
    module = make().eval()
    model = rnncore.Model(*from_torch(module, example))
    rows = [ids(4), ids(7), ids(1)]
    for found, row in zip(model.predict([row.numpy() for row in rows]), rows, strict=True):
        np.testing.assert_allclose(found, module(row[None])[0].detach().numpy(), atol=1e-5)
    assert "lengths" not in {entry.name for entry in from_torch(*MODULE_WITH_MEAN).spec.inputs}


class _Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0].mean(1)


MODULE_WITH_MEAN = (_Mean(), (floats(2, 5, 3),))


def test_outputs_of_a_dict_have_its_keys():
    make, example = MODULES["self-attention"]
    exported = from_torch(make(), example)
    assert exported.spec.outputs == ("logits", "attention")


def test_sizes_by_name():
    make, example = MODULES["attention step"]
    exported = from_torch(make(), example, sizes={"encoder_outputs": ("steps", "B", None)})
    assert exported.spec.inputs[2].shape == ("steps", "B", 8)
    with pytest.raises(InputError, match="sizes: 'x' with 1 dimensions"):
        from_torch(make(), example, sizes={"x": ("B",)})


def test_weight_norm_is_named_in_the_notes():
    make, example = MODULES["weight norm"]
    notes = from_torch(make(), example).notes
    assert "conv.weight (Conv1d): WeightNorm folded" in notes
    assert "old (Linear): WeightNorm folded into its weights" in notes
    assert "spectral.weight (Linear): SpectralNorm folded" in notes


def test_an_example_is_left_as_it_was():
    make, (x,) = MODULES["by forward"]
    before = x.clone()
    pair = from_torch(make(), x).test_pair
    assert torch.equal(x, before)
    np.testing.assert_array_equal(pair.inputs["x"], before.numpy())


def test_a_module_in_double():
    make, example = MODULES["self-attention"]
    exported = from_torch(make().double(), (example[0].double(), example[1]))
    assert exported.test_pair.outputs["logits"].dtype == np.float64
    found = rnncore.Model(*exported, dtype="float64").run(exported.test_pair.inputs)
    np.testing.assert_allclose(found["logits"], exported.test_pair.outputs["logits"], rtol=0, atol=1e-12)


def test_the_module_and_torch_are_left_as_they_were():
    make, example = MODULES["packed sequence out"]
    module = make()
    before = {name: dict(part.__dict__) for name, part in module.named_modules()}
    functions = nn.utils.rnn.pack_padded_sequence, torch.zeros
    from_torch(module, example)
    assert {name: dict(part.__dict__) for name, part in module.named_modules()} == before
    assert (nn.utils.rnn.pack_padded_sequence, torch.zeros) == functions
    assert module.training


def _refused_line(kind):
    source, first = inspect.getsourcelines(kind)
    return first + next(i for i, line in enumerate(source) if "# refused" in line)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_the_line(kind):
    example, says = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=says) as caught:
        from_torch(kind(), example)
    assert str(caught.value).startswith(f"{torch_modules.__file__}:{_refused_line(kind)}: ")


class _KeepsState(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.hidden = None

    def forward(self, x):
        y, self.hidden = self.gru(x)
        return y


def test_state_kept_in_the_module_is_refused():
    module = _KeepsState()
    with pytest.raises(UnsupportedError, match="keeps a value from call to call in 'hidden'"):
        from_torch(module, floats(2, 5, 3))


class _Remembers(nn.Module):
    """Gives something else for the sizes that it has not been exported with."""

    def forward(self, x):
        return x * len(range(0, x.size(1), 12))


def test_what_depends_on_sizes_in_another_way_is_found():
    with pytest.raises((UnsupportedError, VerificationError)):
        from_torch(_Remembers(), floats(2, 11, 3))


@pytest.mark.parametrize(
    ("example", "given", "says"),
    [
        (None, None, "example: none, expected what _Mean.forward"),
        ((floats(2, 5, 3), floats(2, 5, 3)), None, "too many positional arguments"),
        (floats(2, 5, 3), lengths(5, 3), "lengths: forward has the arguments x"),
        (floats(2, 5), None, "torch itself fails"),
        ({"y": floats(2, 5, 3)}, None, "unexpected keyword|missing a required argument"),
    ],
)
def test_wrong_examples(example, given, says):
    with pytest.raises(InputError, match=says):
        from_torch(_Mean(), example, lengths=given)


@pytest.mark.parametrize("name", MODULES)
def test_other_weights_under_an_exported_spec(name):
    _, example, exported = exported_of(name)
    check_other_weights(exported, MODULES[name][0]().eval(), example)


class _Constants(nn.Module):
    """Parameters that look as if they did nothing, and one that another is computed from."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.gain, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(()))
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        y = self.fc(x) * 2 * self.gain + self.shift
        y = self.other(self.norm(y.transpose(1, 2))).transpose(1, 2) + self.table
        return self.gru(y)[0] * self.gain


def test_parameters_that_did_nothing_are_kept():
    exported = from_torch(_Constants(), floats(2, 5, 4))
    check_other_weights(exported, _Constants().eval(), (floats(2, 5, 4),))


class _Uses(nn.Module):
    """Parameters and modules, to be used in a way of a subclass."""

    def __init__(self):
        super().__init__()
        self.linear, self.cell = nn.Linear(4, 4), nn.GRUCell(4, 4)
        self.weight, self.bias = nn.Parameter(floats(4, 4)), nn.Parameter(floats(4))
        self.gru, self.lstm = nn.GRU(4, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)
        self.start = nn.Parameter(floats(1, 1, 4))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))
        self.register_buffer("causal", torch.triu(torch.full((5, 5), -float("inf")), 1))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(4, 2, bias=False, kdim=3, vdim=2)


class _Functions(_Uses):
    """F.linear under the name of a module, which is called behind it, and both again."""

    def forward(self, x):
        y = F.linear(F.linear(x, self.weight, self.bias), self.weight)
        y = self.linear(torch.tanh(self.linear(y)))
        y = F.layer_norm(y, (4,), self.start[0, 0], self.bias) @ self.weight
        return y + F.embedding(x[:, :, 0].long() % 4, self.weight)


class _Masked(_Uses):
    def forward(self, x):
        y = F.linear(x, self.weight * self.mask, torch.exp(self.bias))
        y = torch.einsum("bti,io->bto", y, self.weight.softmax(0))
        return y + torch.cat([self.weight, self.mask], 1).sum(0)[:4]


class _Started(_Uses):
    """States from a parameter, one of them computed, in layers of their own."""

    def forward(self, x):
        h = torch.tanh(self.start).expand(-1, x.size(0), -1).contiguous()
        y = self.gru(x, self.start.repeat(1, x.size(0), 1))[0]
        y = self.lstm(y, (h, self.start.transpose(0, 1).expand(1, x.size(0), 4).contiguous()))[0]
        return self.gru(y, h)[0]


class _Attended(_Uses):
    """Attention twice, one with keys of another size and without a bias."""

    def forward(self, x):
        y = self.attention(x, x, x, attn_mask=self.causal)[0]
        y = self.attention(y, x, x)[0].transpose(0, 1)
        return self.cross(y, y[:, :, :3], y[:, :, 1:3])[0]


class _Looped(_Uses):
    """What is used in a loop is used before it too, and with weights that are computed."""

    def forward(self, x):
        h, found = self.cell(x[:, 0]), []
        for t in range(x.size(1)):
            h = self.linear(self.cell(x[:, t] @ (self.weight * self.mask), h)) * 2 + self.bias
            found.append(h @ self.weight)
        return self.linear(torch.stack(found, 1))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", [_Functions, _Masked, _Started, _Attended, _Looped])
def test_weights_however_they_are_used(kind, prefix):
    example = floats(2, 5, 4)
    exported = from_torch(kind(), example)
    check_other_weights(exported, kind().eval(), (example,), prefix)
    model = rnncore.Model(*exported)
    assert rnncore.Model(model.spec, model.weights).spec == model.spec
    again = rnncore.Model(model.spec, dict(model.weights)).run(exported.test_pair.inputs)
    for name, array in exported.test_pair.outputs.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-5)


def test_what_parameters_decide_is_computed_when_a_model_is_made(tmp_path):
    exported = from_torch(_Started(), floats(2, 5, 4))
    gru, lstm, again = exported.spec.recurrent
    assert (gru.trained_state, lstm.trained_state, again.trained_state) == (True, False, False)
    assert exported.spec.names == {"gru.initial_h": "start", again.name: "gru"}
    model = rnncore.Model(*exported)
    assert [type(node) for node in model.spec.nodes] == [Recurrent] * 3
    assert all(node.trained_state and not node.initial for node in model.spec.nodes)
    steps = model.stream(2)
    (x,) = exported.test_pair.inputs.values()
    (y,) = exported.test_pair.outputs.values()
    parts = np.concatenate([steps.feed(x[:, :2]), steps.feed(x[:, 2:])], axis=1)
    np.testing.assert_allclose(parts, y, rtol=1e-5, atol=1e-5)
    masked = rnncore.Model(*from_torch(_Masked(), floats(2, 5, 4)))
    assert masked.spec.nodes[0].op == "Linear"
    rnncore.save(tmp_path / "model.safetensors", exported)
    assert native.read(tmp_path / "model.safetensors").spec == exported.spec


def test_scales_go_into_weights_when_a_model_is_made():
    make, example = MODULES["crnn"]
    exported = from_torch(make(), example)
    assert "BatchNormalization" in [getattr(node, "op", "") for node in exported.spec.nodes]
    model = rnncore.Model(*exported)
    assert "BatchNormalization" not in [getattr(node, "op", "") for node in model.spec.nodes]
    again = rnncore.Model(model.spec, model.weights)
    assert again.spec == model.spec
    assert again.run(exported.test_pair.inputs).keys() == exported.test_pair.outputs.keys()


class _Doubled(nn.LSTM):
    def forward(self, x, state=None):
        y, (h, _) = super().forward(x, state)
        return y * 2, h


class _Last(nn.GRU):
    def forward(self, x):
        return super().forward(x + 1.0)[0][:, -1]


class _Step(nn.LSTMCell):
    def forward(self, x):
        h, c = super().forward(x)
        return super().forward(x, (c, h))[0]


class _Self(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


SUBCLASSES = {
    "LSTM": lambda: _Doubled(4, 5, batch_first=True, bidirectional=True),
    "GRU": lambda: _Last(4, 5, 2, batch_first=True),
    "LSTMCell": lambda: _Step(4, 4),
    "MultiheadAttention": lambda: _Self(4, 2, batch_first=True),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_that_call_the_forward_of_their_class(kind, inside):
    torch.manual_seed(0)
    module = SUBCLASSES[kind]().eval()
    module = nn.Sequential(nn.Linear(4, 4), module).eval() if inside else module
    forwards = [one.forward for one in (nn.LSTM, nn.GRU, nn.LSTMCell, nn.MultiheadAttention)]

    def drawn(rows, steps):
        return torch.randn((rows, 4) if kind == "LSTMCell" else (rows, steps, 4))

    model = rnncore.Model(*from_torch(module, drawn(2, 5)))
    assert forwards == [one.forward for one in (nn.LSTM, nn.GRU, nn.LSTMCell, nn.MultiheadAttention)]
    for size in ((1, 1), (3, 7), (2, 2)):
        x = drawn(*size)
        with torch.no_grad():
            expected = module(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = model.run({model.inputs[0].name: x.numpy()}).values()
        for found, reference in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(found, reference.numpy(), atol=1e-6)
