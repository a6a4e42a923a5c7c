"""formats.torch_names: state dicts bound to a Spec, stacks found by name and shape; formats.gates: its verbs."""

import numpy as np
import pytest
import torch
from oracle import run_oracle
from torch import nn

from rnncore.cells import GRU, LSTM, RNN
from rnncore.conventions.gates import split_gru_bias, squeeze_batch, sum_biases
from rnncore.errors import UnsupportedError, WeightError
from rnncore.formats.torch.names import bind, find_others, find_stacks, is_optimizer, only_stack
from rnncore.graph.nodes import Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec


def arrays(module: nn.Module, prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + key: value.numpy() for key, value in module.state_dict().items()}


def zeros(**shapes) -> dict[str, np.ndarray]:
    return {name.replace("__", "."): np.zeros(shape, np.float32) for name, shape in shapes.items()}


def spec_of(cell, *, name="lstm", linear=False, **options) -> Spec:
    node = Recurrent(name, cell, "x", **options)
    nodes = [node]
    if linear:
        nodes.append(Node("fc", "Linear", name, {"input_size": node.output_size, "output_size": 2}))
    return Spec([Input("x", "float", ("B", "T", cell.input_size))], nodes, [nodes[-1].name])


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 3)
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 2)


TAGGER = Spec(
    [Input("tokens", "int64", ("B", "T"))],
    [
        Node("embed", "Embedding", "tokens", {"input_size": 9, "output_size": 3}),
        Recurrent("lstm", LSTM(3, 4), "embed", layers=2, direction="bidirectional"),
        Node("fc", "Linear", "lstm", {"input_size": 8, "output_size": 2}),
    ],
    ["fc"],
)


# The verbs.


def test_sum_biases_adds_in_float64_and_keeps_the_dtype():
    a, b = np.array([1e8, 1.0], np.float32), np.array([1.0, 2.0], np.float32)
    summed = sum_biases(a, b, -a)
    assert summed.dtype == np.float32
    np.testing.assert_array_equal(summed, [1.0, 2.0])
    assert sum_biases(a, b.astype(np.float64)).dtype == np.float64
    assert sum_biases(b.astype(np.float16), b.astype(np.float16)).dtype == np.float16


def test_split_gru_bias_keeps_the_recurrent_n_apart():
    ih, hh = np.arange(6.0), 10 * np.arange(6.0)
    found = split_gru_bias(ih, hh)
    np.testing.assert_array_equal(found["bias"], [0, 11, 22, 33, 4, 5])
    np.testing.assert_array_equal(found["bias_hn"], [40, 50])
    np.testing.assert_array_equal(split_gru_bias(ih, hh, reset_after=False)["bias"], 11 * np.arange(6))
    np.testing.assert_array_equal(ih, np.arange(6.0))


def test_squeeze_batch():
    assert squeeze_batch(np.zeros((2, 1, 4))).shape == (2, 4)
    assert squeeze_batch(np.zeros((2, 3, 4))).shape == (2, 3, 4)


# bind.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_numbers_agree_with_torch(kind, layers, direction, bias):
    both = direction == "bidirectional"
    module = getattr(nn, kind)(3, 4, layers, bias=bias, bidirectional=both, batch_first=True, dtype=torch.float64)
    cell = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}[kind](3, 4, bias)
    spec = spec_of(cell, name="rnn", layers=layers, direction=direction)
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    bound = bind(spec, arrays(module, "rnn."))
    found = run_oracle(spec, bound.weights, {"x": x})["rnn"]
    np.testing.assert_allclose(found, module(torch.from_numpy(x))[0].detach().numpy(), rtol=0, atol=1e-12)
    assert bound.unused == () and bound.prefix == ""


def test_a_whole_model_with_other_modules():
    bound = bind(TAGGER, arrays(Tagger()))
    assert bound.unused == ("norm.weight", "norm.bias")
    assert list(bound.weights) == list(TAGGER.weight_shapes())


@pytest.mark.parametrize("prefix", ["module.", "model_state.", "state_dict.", "model.state_dict.", "net."])
def test_wrappings_are_recognised(prefix):
    tensors = arrays(Tagger(), prefix)
    tensors |= {f"optimizer_state.state.{i}.exp_avg": np.zeros(3, np.float32) for i in range(4)}
    tensors |= arrays(Tagger(), "optimizer.exp_avg.")
    bound = bind(TAGGER, tensors)
    assert bound.prefix == prefix
    assert f"{prefix}norm.weight" in bound.unused


def test_two_wrappings_are_ambiguous_until_one_is_chosen():
    tensors = arrays(Tagger(), "model.") | arrays(Tagger(), "ema.")
    with pytest.raises(
        WeightError, match=r"are under several prefixes, 'ema\.', 'model\.': choose one by names, such as"
    ):
        bind(TAGGER, tensors)
    assert bind(TAGGER, tensors, prefix="ema").prefix == "ema."
    bound = bind(TAGGER, tensors, prefix="ema.")
    np.testing.assert_array_equal(bound.weights["fc.bias"], tensors["ema.fc.bias"])


def test_exact_names_go_before_wrappings():
    tensors = arrays(Tagger()) | arrays(Tagger(), "ema.")
    assert bind(TAGGER, tensors).prefix == ""


def test_a_module_of_its_own_needs_no_prefix():
    bound = bind(spec_of(LSTM(3, 4)), arrays(nn.LSTM(3, 4)))
    assert set(bound.weights) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_l0"}


@pytest.mark.parametrize(("kind", "cell"), [("RNNCell", RNN(3, 4)), ("LSTMCell", LSTM(3, 4)), ("GRUCell", GRU(3, 4))])
def test_cells_without_suffix(kind, cell):
    module = getattr(nn, kind)(3, 4)
    bound = bind(spec_of(cell, name="cell"), arrays(module, "cell."))
    np.testing.assert_array_equal(bound.weights["cell.weight_ih_l0"], module.weight_ih.detach().numpy())


def test_projection():
    module = nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)
    bound = bind(spec_of(LSTM(3, 4, projection=2), layers=2, direction="bidirectional"), arrays(module, "lstm."))
    np.testing.assert_array_equal(
        bound.weights["lstm.weight_hr_l1_reverse"], module.weight_hr_l1_reverse.detach().numpy()
    )


def test_canonical_names_as_they_stand():
    spec = spec_of(LSTM(3, 4, peephole=True), trained_state=True)
    tensors = {name: np.full(shape, 2.0) for name, shape in spec.weight_shapes().items()}
    bound = bind(spec, tensors)
    np.testing.assert_array_equal(bound.weights["lstm.peephole_l0"], np.full(12, 2.0))
    spec = spec_of(GRU(3, 4), name="gru")
    tensors = {name: np.ones(shape) for name, shape in spec.weight_shapes().items()}
    assert bind(spec, tensors).weights["gru.bias_hn_l0"].shape == (4,)
    del tensors["gru.bias_hn_l0"]
    with pytest.raises(WeightError, match=r"gru.bias_hn_l0: missing, expected shape \(4,\)"):
        bind(spec, tensors)


def test_names_of_nodes_and_of_tensors():
    tensors = {
        **arrays(nn.LSTM(3, 4), "encoder.rnn."),
        "w_out": np.ones((2, 4), np.float32),
        "b_out": np.ones(2, np.float32),
        "h0": np.full((1, 1, 4), 3, np.float32),
        "c0": np.full((1, 4), 4, np.float32),
    }
    names = {
        "lstm": "encoder.rnn",
        "fc.weight": "w_out",
        "fc.bias": "b_out",
        "lstm.initial_h": "h0",
        "lstm.initial_c": "c0",
    }
    spec = spec_of(LSTM(3, 4), linear=True, trained_state=True)
    bound = bind(spec, tensors, names)
    np.testing.assert_array_equal(bound.weights["lstm.initial_h"], [[3, 3, 3, 3]])
    assert bound.unused == ()


def test_names_of_pytorchs_tensors():
    """As in g2p_en: enc_w_ih, enc_b_hh, ..."""
    module = nn.GRU(3, 4)
    short = {"weight_ih_l0": "enc_w_ih", "weight_hh_l0": "enc_w_hh", "bias_ih_l0": "enc_b_ih", "bias_hh_l0": "enc_b_hh"}
    tensors = {short[key]: value for key, value in arrays(module).items()}
    spec = spec_of(GRU(3, 4), name="enc")
    bound = bind(spec, tensors, {f"enc.{key}": name for key, name in short.items()})
    np.testing.assert_array_equal(bound.weights["enc.bias_hn_l0"], module.bias_hh_l0.detach().numpy()[8:])


def test_names_to_the_top_level():
    tensors = arrays(nn.LSTM(3, 4)) | arrays(nn.Linear(4, 2), "fc.")
    assert bind(spec_of(LSTM(3, 4), linear=True), tensors, {"lstm": ""}).unused == ()


def looped(names) -> Spec:
    """A GRU cell in the body of a Scan, and the same called before it."""
    cell = Recurrent("cell", GRU(3, 4), "x", lengths=None)
    state, item = Input("h", "float", ("B", 4)), Input("x", "float", ("B", "T", 3))
    body = Spec([state, item], [cell], ["cell.last"])
    loop = Control("loop", "Scan", ("cell_1.last", "steps"), (body,), sequences=1)
    steps = Input("steps", "float", ("N", "B", "T", 3))
    return Spec([item, steps], [Recurrent("cell_1", GRU(3, 4), "x", lengths=None), loop], ["loop"], names)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_specs_own_names(prefix):
    cells = nn.ModuleDict({"cell": nn.GRUCell(3, 4), "cell_2": nn.GRUCell(3, 4)})
    tensors, own = arrays(cells, prefix), {"cell_1": "cell", "loop.body.cell": "cell_2"}
    bound = bind(looped(own), tensors)
    assert (bound.prefix, bound.unused) == (prefix, ())
    np.testing.assert_array_equal(bound.weights["cell_1.weight_hh_l0"], tensors[f"{prefix}cell.weight_hh"])
    np.testing.assert_array_equal(bound.weights["loop.body.cell.weight_hh_l0"], tensors[f"{prefix}cell_2.weight_hh"])
    # what is called as the Spec has it comes first, and what the caller says before all
    again = bind(looped(own), dict(bound.weights))
    assert all(np.array_equal(again.weights[name], array) for name, array in bound.weights.items())
    given = bind(looped(own), tensors, {"loop.body.cell": f"{prefix}cell", "cell_1": f"{prefix}cell_2"})
    np.testing.assert_array_equal(given.weights["cell_1.weight_hh_l0"], tensors[f"{prefix}cell_2.weight_hh"])
    with pytest.raises(WeightError, match=r"names of the Spec: 'loop\.body\.fc' is no node"):
        bind(looped({"loop.body.fc": "fc"}), tensors)
    with pytest.raises(WeightError, match=r"cell\.weight_ih_l0: missing"):
        bind(looped({"cell_1": "cell"}), tensors)
    moved = {name.replace("loop", "a.b"): array for name, array in bound.weights.items()}
    assert bind(looped({}), moved, {"loop": "a.b"}).unused == ()


def test_attention_under_pytorchs_names():
    sizes = {"query_size": 6, "value_size": 6, "key_size": 6, "num_heads": 2, "key_dim": 3, "bias": True}
    entries = [Input(name, "float", ("B", "T", 6)) for name in "qv"]
    spec = Spec(entries, [Node("attention", "MultiHeadAttention", ("q", "v"), sizes)], ["attention"])
    tensors = arrays(nn.MultiheadAttention(6, 2), "net.attention.")
    found = bind(spec, tensors).weights
    for i, part in enumerate(("query", "key", "value")):
        for leaf in ("weight", "bias"):
            rows = tensors[f"net.attention.in_proj_{leaf}"][6 * i : 6 * i + 6]
            np.testing.assert_array_equal(found[f"attention.{part}.{leaf}"], rows)
    np.testing.assert_array_equal(found["attention.output.bias"], tensors["net.attention.out_proj.bias"])
    assert dict(bind(spec, dict(found)).weights).keys() == found.keys()
    with pytest.raises(WeightError, match=r"in_proj_weight: shape \(12, 6\), expected \(18, 6\)"):
        bind(spec, {**tensors, "net.attention.in_proj_weight": np.zeros((12, 6), np.float32)})
    with pytest.raises(WeightError, match=r"attention\.query\.weight: missing"):
        bind(spec, {name: array for name, array in tensors.items() if "in_proj" not in name})


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"lsmt": "rnn"}, r"'lsmt' is no node or weight that the Spec needs \(did you mean 'lstm'"),
        ({"lstm": "rn"}, r"leads to 'rn', which has no tensors \(did you mean 'rnn'"),
        ({"lstm": "rnn", "lstm.bias_ih_l0": "rnn.bias_l0"}, "'rnn.bias_l0', which is not among the tensors"),
        ({"lstm": "rnn", "lstm.bias_l1": "rnn.bias_ih_l0"}, "'lstm.bias_l1' is no node or weight"),
        ({"lstm": "rnn", "lstm.weight_ih": "rnn.weight_hh_l0"}, "'lstm.weight_ih' is not needed"),
    ],
)
def test_names_that_lead_nowhere(names, says):
    with pytest.raises(WeightError, match=says):
        bind(spec_of(LSTM(3, 4)), arrays(nn.LSTM(3, 4), "rnn."), names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lstm.weight_hh_l0": (16, 3)}, r"lstm.weight_hh_l0: shape \(16, 3\), expected \(16, 4\)"),
        ({"lstm.bias_hh_l0": None}, r"lstm.bias_hh_l0: missing, expected shape \(16,\)"),
        ({"lstm.bias_l0": (16,)}, r"lstm.bias_ih_l0: shape \(16,\), but node 'lstm' has no use for it"),
        (
            {"lstm.weight_hh_l1": (16, 4)},
            r"lstm.weight_hh_l1: .* no use for it \(LSTM, layers=1, direction='forward'\)",
        ),
        ({"lstm.weight_ih_l0_reverse": (16, 3)}, "weight_ih_l0_reverse: .* no use"),
        ({"lstm.weight_ih": (16, 3)}, r"lstm.weight_ih: .* no use"),
        ({"lstm.weight_hr_l0": (2, 4)}, "weight_hr_l0: .* no use"),
        ({"lstm.norm.weight": (4,)}, "lstm.norm.weight: .* no use"),
        ({"fc.lora_A": (4,)}, r"fc.lora_A: .* node 'fc' has no use for it \(Linear\)"),
    ],
)
def test_contradictions_are_errors(change, says):
    tensors = arrays(nn.LSTM(3, 4), "lstm.") | arrays(nn.Linear(4, 2), "fc.")
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(WeightError, match=says):
        bind(spec_of(LSTM(3, 4), linear=True), tensors)


def test_a_bias_where_the_spec_has_none_is_an_error():
    with pytest.raises(WeightError, match=r"lstm.bias_ih_l0: shape \(16,\), but .*bias=False"):
        bind(spec_of(LSTM(3, 4, bias=False)), arrays(nn.LSTM(3, 4), "lstm."))


def test_missing_names_come_with_candidates():
    with pytest.raises(WeightError, match=r"lstm.weight_ih_l0: missing.*did you mean 'encoder.weight_ih_l0' \(16, 3\)"):
        bind(spec_of(LSTM(3, 4)), arrays(nn.LSTM(3, 4), "encoder."))


# find_stacks, find_others, only_stack.


@pytest.mark.parametrize("prefix", ["", "encoder.rnn.", "module."])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_stacks_are_found(kind, layers, both, bias, prefix):
    module = getattr(nn, kind)(3, 5, layers, bias=bias, bidirectional=both, batch_first=True)
    tensors = arrays(module, prefix)
    (stack,) = find_stacks(tensors)
    assert stack.problem is None
    assert (stack.prefix, stack.kind, stack.input_size, stack.hidden_size) == (prefix.removesuffix("."), kind, 3, 5)
    assert (stack.layers, stack.directions, stack.bias, stack.cell) == (layers, 1 + both, bias, False)
    assert set(stack.tensors) == set(tensors)
    assert find_others(tensors, [stack]) == []
    spec = only_stack(tensors).spec()
    bound = bind(spec, tensors, stack.names)
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    found = run_oracle(spec, bound.weights, {"x": x})
    y, states = module(torch.from_numpy(x).float())
    states = states if isinstance(states, tuple) else (states,)
    for array, expected in zip(found.values(), (y, *states), strict=True):
        np.testing.assert_allclose(array, expected.detach().numpy(), atol=1e-5)


def test_projection_and_cells_are_found():
    tensors = arrays(nn.LSTM(3, 6, 2, proj_size=2, bidirectional=True), "a.") | arrays(nn.GRUCell(4, 5), "b.0.")
    a, b = find_stacks(tensors)
    assert (a.kind, a.hidden_size, a.projection, a.layers, a.directions) == ("LSTM", 6, 2, 2, 2)
    assert (b.kind, b.input_size, b.hidden_size, b.cell, b.node_name) == ("GRU", 4, 5, True, "gru")
    for stack in (a, b):
        assert bind(stack.spec(), tensors, stack.names).weights
    with pytest.raises(UnsupportedError, match=r"found a \(LSTM\), b.0 \(GRU\): .* give a spec"):
        only_stack(tensors)


def test_what_a_file_cannot_say_is_noted():
    (rnn,) = find_stacks(arrays(nn.RNN(3, 4)))
    assert any("tanh is assumed" in note for note in rnn.notes)
    (gru,) = find_stacks(arrays(nn.GRU(3, 4)))
    assert any("reset after" in note for note in gru.notes)
    assert all("batch first" in stack.notes[0] for stack in (rnn, gru))


def test_canonical_biases_are_understood():
    tensors = zeros(g__weight_ih_l0=(12, 3), g__weight_hh_l0=(12, 4), g__bias_l0=(12,))
    (stack,) = find_stacks(tensors)
    assert stack.bias and not stack.reset_after
    assert bind(stack.spec(), tensors, stack.names).unused == ()
    (stack,) = find_stacks(tensors | zeros(g__bias_hn_l0=(4,)))
    assert stack.reset_after and stack.problem is None


def test_optimiser_state_does_not_confuse():
    tensors = arrays(nn.LSTM(3, 4), "model_state.lstm.")
    for index, array in enumerate(list(tensors.values())):
        tensors[f"optimizer_state.state.{index}.exp_avg"] = array
    tensors |= arrays(nn.LSTM(3, 4), "optimizer_states.0.")
    tensors["optimizer.momentum_buffer"] = np.zeros(3, np.float32)
    assert [stack.prefix for stack in find_stacks(tensors)] == ["model_state.lstm"]
    stack = only_stack(tensors)
    assert stack.node_name == "lstm"
    assert {other.guess for other in find_others(tensors, [stack])} == {"optimiser state"}
    assert bind(stack.spec(), tensors, stack.names).weights.count == 16 * 3 + 16 * 4 + 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("optimizer_state.state.0.exp_avg", True),
        ("optimizer_states.0.state.3.exp_avg_sq", True),
        ("optim.lstm.weight_ih_l0", True),
        ("optimizer_state_dict.x", True),
        ("optimal.lstm.weight_ih_l0", False),
        ("lstm.weight_ih_l0", False),
    ],
)
def test_is_optimizer(name, expected):
    assert is_optimizer(name) is expected


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"weight_ih_l0": (16, 3)}, "weight_hh_l0 is missing"),
        ({"weight_hh_l0": (16, 4)}, "weight_ih_l0 is missing"),
        ({"weight_ih_l0": (8, 3), "weight_hh_l0": (8, 4)}, "expected 1, 3 or 4 times as many rows as the 4 units"),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": (15, 4)}, "expected 1, 3 or 4 times"),
        ({"weight_ih_l0": (12, 3), "weight_hh_l0": (16, 4)}, r"weight_ih_l0: shape \(12, 3\), expected \(16, 3\)"),
        ({"weight_ih_l0": (16,), "weight_hh_l0": (16, 4)}, "weight_ih: .* two dimensions"),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": ()}, "weight_hh: .* two dimensions"),
        ({"weight_ih_l0": (0, 3), "weight_hh_l0": (0, 0)}, "weight_hh: .* two dimensions"),
        (
            {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "weight_ih_l2": (16, 4), "weight_hh_l2": (16, 4)},
            "_l1 is",
        ),
        (
            {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "weight_ih_l1": (16, 5), "weight_hh_l1": (16, 4)},
            "_l1: shape",
        ),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,)}, "biases bias_ih, expected"),
        (
            {
                "weight_ih_l0": (16, 3),
                "weight_hh_l0": (16, 4),
                "weight_ih_l0_reverse": (16, 3),
                "weight_hh_l0_reverse": (16, 4),
                "bias_ih_l0_reverse": (16,),
            },
            "bias_ih_l0_reverse is unexpected",
        ),
        ({"weight_ih_l0_reverse": (16, 3), "weight_hh_l0_reverse": (16, 4)}, "weight_hh_l0 is missing"),
        ({"weight_ih_l0": (16, 3), "weight_hh": (16, 4)}, "mixed"),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "peephole_i": (4,)}, "'peephole_i' is no weight"),
        ({"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 2), "weight_hr_l0": (2, 4)}, "only an LSTM has a projection"),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 2), "weight_hr_l0": (3, 4)}, r"expected \(16, 3\)"),
    ],
)
def test_inconsistent_stacks_come_with_a_reason(shapes, says):
    tensors = {f"rnn.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    (stack,) = find_stacks(tensors)
    assert set(stack.tensors) == set(tensors)
    with pytest.raises(WeightError, match=f"rnn: .*{says}"):
        stack.spec()


def test_others_are_guessed():
    module = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 3),
            "fc": nn.Linear(3, 4),
            "proj": nn.Linear(3, 4, bias=False),
            "norm": nn.LayerNorm(3),
            "bn": nn.BatchNorm1d(3),
            "conv": nn.Conv1d(3, 4, 5),
            "lstm": nn.LSTM(3, 4),
        }
    )
    tensors = arrays(module) | {"scale": np.ones(3, np.float32)}
    stacks = find_stacks(tensors)
    found = {other.prefix: other.guess for other in find_others(tensors, stacks)}
    assert found == {
        "embed": "Embedding",
        "fc": "Linear",
        "proj": "Linear or Embedding",
        "norm": "LayerNorm",
        "bn": "BatchNorm",
        "conv": "Conv1d",
        "": "unknown",
    }
    with pytest.raises(UnsupportedError, match="found lstm"):
        only_stack(tensors)
    with pytest.raises(UnsupportedError, match="no tensors"):
        only_stack({})
