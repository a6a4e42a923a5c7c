"""rnncore.export.from_torch against the float64 oracle, which runs what it exported."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import run_oracle
from torch import nn

from rnncore import Model
from rnncore.cells import Activation
from rnncore.errors import InputError, UnsupportedError
from rnncore.export import Exported, from_torch
from rnncore.graph.nodes import Recurrent

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def agrees(exported: Exported, dtype=torch.float64) -> None:
    pair = exported.test_pair
    found = run_oracle(exported.spec, exported.weights, pair.inputs)
    assert set(found) == set(pair.outputs)
    for name, expected in pair.outputs.items():
        assert expected.dtype == str(dtype).removeprefix("torch.")
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE[dtype], err_msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_stacks(kind, layers, bidirectional, batch_first, bias, dtype):
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "dtype": dtype}
    exported = from_torch(getattr(nn, kind)(5, 4, layers, **options))
    (node,) = exported.spec.nodes
    assert node.name == kind.lower()
    assert node.layout == ("batch_first" if batch_first else "time_first")
    x = exported.test_pair.inputs["x"]
    assert x.shape == ((2, 7, 5) if batch_first else (7, 2, 5))
    agrees(exported, dtype)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_projection(layers, bidirectional):
    module = nn.LSTM(5, 6, layers, proj_size=3, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    exported = from_torch(module)
    assert exported.test_pair.outputs["lstm.h"].shape[-1] == 3
    assert exported.test_pair.outputs["lstm.c"].shape[-1] == 6
    agrees(exported)


def test_relu():
    exported = from_torch(nn.RNN(3, 4, nonlinearity="relu", batch_first=True, dtype=torch.float64))
    assert exported.spec.nodes[0].cell.activations == (Activation("relu"),)
    agrees(exported)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_run_over_a_sequence(kind, bias):
    exported = from_torch(getattr(nn, kind)(3, 4, bias=bias, dtype=torch.float64))
    assert exported.test_pair.outputs[exported.spec.outputs[0]].shape == (2, 7, 4)
    assert any("one step" in note for note in exported.notes)
    agrees(exported)


def test_linear_and_embedding_alone():
    agrees(from_torch(nn.Linear(3, 4, dtype=torch.float64)))
    agrees(from_torch(nn.Linear(3, 4, bias=False, dtype=torch.float64), np.ones((2, 5, 3))))
    exported = from_torch(nn.Embedding(9, 4, padding_idx=0))
    assert exported.spec.inputs[0].dtype == "int64"
    agrees(exported, torch.float32)


def test_sequential_keeps_torch_names():
    module = nn.Sequential(
        nn.Embedding(11, 5), nn.Dropout(0.5), nn.Sequential(nn.Linear(5, 6), nn.Tanh()), nn.LSTM(6, 4, batch_first=True)
    ).double()
    exported = from_torch(module)
    assert set(exported.weights) == {
        "0.weight", "2.0.weight", "2.0.bias", "3.weight_ih_l0", "3.weight_hh_l0", "3.bias_l0",
    }  # fmt: skip
    assert exported.spec.outputs == ("3", "3.h", "3.c")
    assert exported.notes == ("1 (Dropout): left out, it does nothing at inference",)
    agrees(exported)


def test_activations():
    module = nn.Sequential(
        nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 4), nn.Softmax(dim=-1), nn.LogSoftmax(1)
    )
    agrees(from_torch(module.double()))


@pytest.mark.parametrize("take", ["sequence", "last", None])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_chain(take, bidirectional):
    width = 8 if bidirectional else 4
    chain = [
        ("embed", nn.Embedding(11, 5)),
        ("rnn", nn.GRU(5, 4, bidirectional=bidirectional, batch_first=True)),
        ("lstm", nn.LSTM(width, 4, 2, bidirectional=bidirectional, batch_first=True)),
        ("fc", nn.Sequential(nn.Linear(width, 3), nn.LogSoftmax(dim=-1))),
    ]
    for _, module in chain:
        module.double()
    exported = from_torch(chain, take=take)
    assert exported.spec.outputs == ("fc.1",)
    shape = (2, 3) if take == "last" else (2, 7, 3)
    assert exported.test_pair.outputs["fc.1"].shape == shape
    assert {"embed.weight", "lstm.weight_ih_l1", "fc.0.bias"} <= set(exported.weights)
    agrees(exported)


def test_last_is_torchs_last_step_for_one_direction():
    lstm, fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)
    x = torch.randn(5, 6, 3)
    exported = from_torch([("lstm", lstm), ("fc", fc)], x, take="last")
    expected = fc(lstm(x)[0][:, -1]).detach().numpy()
    np.testing.assert_allclose(exported.test_pair.outputs["fc"], expected, atol=1e-6)


def test_chain_of_a_cell_and_time_first():
    agrees(from_torch([("cell", nn.LSTMCell(3, 4)), ("fc", nn.Linear(4, 2))]), torch.float32)
    exported = from_torch([("lstm", nn.LSTM(3, 4)), ("drop", nn.Dropout())], take="last")
    assert exported.spec.outputs == ("lstm.last", "lstm.h", "lstm.c")
    assert exported.spec.inputs[0].shape == ("T", "B", 3)
    agrees(exported, torch.float32)


def test_example_is_used_and_unpacking_gives_spec_and_weights():
    x = torch.randn(3, 5, 2)
    module = nn.LSTM(2, 4, batch_first=True)
    exported = from_torch(module, x)
    np.testing.assert_array_equal(exported.test_pair.inputs["x"], x.numpy())
    np.testing.assert_allclose(exported.test_pair.outputs["lstm"], module(x)[0].detach().numpy(), atol=1e-6)
    spec, weights = exported
    assert spec is exported.spec and weights is exported.weights
    assert exported.source == f"torch {torch.__version__.partition('+')[0]}"


def test_seed_decides_the_example():
    module = nn.GRU(2, 3, batch_first=True)
    a, b, c = (from_torch(module, seed=seed).test_pair.inputs["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_module_is_left_as_it_was():
    lstm, drop = nn.LSTM(2, 3, 2, dropout=0.5, batch_first=True), nn.Dropout()
    chain = [("lstm", lstm), ("drop", drop)]
    drop.eval()
    before = {key: value.clone() for key, value in lstm.state_dict().items()}
    exported = from_torch(chain)
    assert lstm.training and not drop.training
    agrees(exported, torch.float32)
    with torch.no_grad():
        lstm.weight_ih_l0.zero_()
    assert exported.weights["lstm.weight_ih_l0"].any()
    np.testing.assert_array_equal(exported.weights["lstm.weight_ih_l0"], before["weight_ih_l0"].numpy())


def test_tied_parameters_are_both_exported():
    module = nn.RNN(4, 4, batch_first=True)
    module.weight_hh_l0 = module.weight_ih_l0
    exported = from_torch(module)
    np.testing.assert_array_equal(exported.weights["rnn.weight_hh_l0"], exported.weights["rnn.weight_ih_l0"])


def test_exported_pickles():
    exported = from_torch(nn.LSTM(2, 3, batch_first=True))
    again = pickle.loads(pickle.dumps(exported))
    assert again.spec == exported.spec
    assert not again.test_pair.outputs["lstm"].flags.writeable


class OwnLSTM(nn.LSTM):
    pass


def test_subclasses_that_leave_forward_alone():
    agrees(from_torch(OwnLSTM(2, 3, dtype=torch.float64)))


def test_16_bit_weights_are_kept_in_float32():
    exported = from_torch(nn.LSTM(2, 3).half())
    assert exported.weights["lstm.weight_ih_l0"].dtype == np.float32
    assert exported.notes[0].startswith("weights were torch.float16")
    agrees(exported, torch.float32)


def test_states_may_be_given():
    state = (torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    exported = from_torch(nn.LSTM(2, 4, 2, batch_first=True), (torch.randn(3, 5, 2), state))
    assert exported.spec.nodes[0].initial == ("state_0_0", "state_0_1")
    agrees(exported, torch.float32)


def hooked():
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.LSTM(2, 3), nn.Linear(3, 1)), r"'1' \(Linear\): comes after '0' \(LSTM\)"),
        (nn.Sequential(nn.Linear(2, 2), nn.GRUCell(2, 3)), r"'1' \(GRUCell\): in an nn.Sequential a cell"),
        ([("a", nn.Linear(2, 2)), ("b", nn.Threshold(0.1, 2.0))], r"module 'b' \(Threshold\) is not supported"),
        (hooked(), "forward hooks"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax()), "dim=None"),
        (nn.Embedding(3, 2, max_norm=1.0), "max_norm=1.0"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "torch.float32 and torch.float64"),
        (nn.Sequential(), "is empty"),
        ([("a", nn.LSTM(2, 3)), ("b", nn.LSTM(3, 3, batch_first=True))], "layouts differ"),
    ],
)
def test_refused_by_name(module, says):
    with pytest.raises(UnsupportedError, match=says):
        from_torch(module)


@pytest.mark.parametrize(
    ("module", "example", "take", "says"),
    [
        (nn.LSTM(2, 3, batch_first=True), np.zeros((1, 7, 3)), None, r"x \(1, 7, 3\)\): torch itself fails"),
        (nn.Conv1d(2, 2, 1), None, None, r"no module of 'conv1d' \(Conv1d\) says how wide"),
        (nn.Sequential(nn.ReLU()), None, None, "how wide the input is"),
        (nn.LSTM(2, 3), (np.zeros((7, 1, 2)),) * 3, None, "torch itself fails"),
        (nn.LSTM(2, 3, batch_first=True), np.zeros((1, 0, 2)), None, "no empty dimension"),
        (nn.Embedding(2, 3), np.zeros((1, 7)), None, "Long, Int"),
        (nn.LSTM(2, 3), None, "last", "take='last'"),
        ([("lstm", nn.LSTM(2, 3))], None, "first", "take='first'"),
        ([("a", nn.Linear(2, 2)), ("a", nn.Linear(2, 2))], None, None, "each once"),
        ([nn.Linear(2, 2)], None, None, "list of"),
        ("lstm", None, None, "expected an nn.Module"),
    ],
)
def test_wrong_arguments(module, example, take, says):
    with pytest.raises(InputError, match=says):
        from_torch(module, example, take=take)


def test_names_of_inputs_give_way_to_modules():
    exported = from_torch([("x", nn.LSTM(2, 3, batch_first=True))])
    assert exported.spec.inputs[0].name == "x_in"
    assert isinstance(exported.spec.nodes[0], Recurrent)


def test_frameworks_are_not_imported_with_rnncore():
    code = "import sys, rnncore, rnncore.export; assert not {'torch', 'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mask_that_the_module_does_not_hold():
    """A tensor from outside, which the recording keeps under a name of its own and lets go of."""
    mask = torch.triu(torch.full((6, 6), -torch.inf), 1)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, src_mask=mask)

    x = torch.randn(2, 6, 8)
    found = Model(*from_torch(Masked(), x))(x.numpy())
    assert np.abs(found - layer(x, src_mask=mask).detach().numpy()).max() < 1e-5
