"""Attention ops against PyTorch, written out or its own, and live Keras 3; masks, lengths, and what is refused."""

import json

import keras
import numpy as np
import pytest
import torch
from agreement import TOLERANCES, assert_agrees, assert_close
from oracle import run_oracle
from torch import nn

from rnncore.cells import LSTM
from rnncore.errors import InputError, SpecError, WeightError
from rnncore.formats.attention import merge_heads, merge_output_heads, split_in_proj, swap_columns
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import OPS
from rnncore.runtime.model import Model

DTYPES = sorted(TOLERANCES)
RNG = np.random.default_rng(12)
B, TQ, TK = 4, 3, 6
LENGTHS = np.array([6, 0, 1, 4])
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]], bool)


def draw(*shape):
    return RNG.standard_normal(shape)


def network(op, attributes, **inputs):
    """A Spec of one op on inputs given as arrays; masks named None are absent."""
    kinds = {"f": "float", "i": "int64", "b": "bool"}
    axes = {"query": ("B", "Tq"), "query_mask": ("B", "Tq"), "attention_mask": ("B", "Tq", "Tk")}
    entries = []
    for name, array in inputs.items():
        if array is not None:
            free = axes.get(name, ("B", "Tk"))[: array.ndim]
            shape = (*free, *array.shape[len(free) :])
            entries.append(Input(name, kinds[array.dtype.kind], shape))
    names = tuple("" if array is None else name for name, array in inputs.items())
    return Spec(entries, [Node("att", op, names, attributes)], ["att", "att.weights"])


def draw_weights(spec):
    return {name: RNG.standard_normal(shape) * 0.7 for name, shape in spec.weight_shapes().items()}


def run(spec, weights, inputs, dtype):
    given = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in inputs.items() if v is not None}
    return Model(spec, weights, dtype).run(given)


def soft(scores, valid):
    """softmax over the last axis where valid, in torch; 0 for rows without."""
    found = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=-1)
    return torch.nan_to_num(found, nan=0.0)


def as_valid(mask):
    if mask is None:
        return torch.ones(B, TK, dtype=torch.bool)
    return torch.from_numpy(mask if mask.dtype == bool else np.arange(TK) < mask[:, None])


MASKS = pytest.mark.parametrize("mask", [None, LENGTHS, MASK], ids=["no mask", "lengths", "mask"])


# --- word attention ------------------------------------------------------------------------------------------------


class WordAttention(nn.Module):
    """Yang et al. 2016, as people write it."""

    def __init__(self, size, attention, bias):
        super().__init__()
        self.proj = nn.Linear(size, attention, bias=bias)
        self.context = nn.Linear(attention, 1, bias=False)

    def forward(self, h, valid):
        a = soft(self.context(torch.tanh(self.proj(h))).squeeze(-1), valid)
        return torch.bmm(a.unsqueeze(1), h).squeeze(1), a


@MASKS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_word_attention(dtype, bias, mask):
    module = WordAttention(5, 7, bias).double()
    h = draw(B, TK, 5)
    inputs = {"h": h, "lengths": mask}
    spec = network("WordAttention", {"input_size": 5, "attention_size": 7, "bias": bias}, **inputs)
    tensors = {f"att.{key}": tensor.numpy() for key, tensor in module.state_dict().items()}
    renamed = {"att.weight": "att.proj.weight", "att.bias": "att.proj.bias", "att.context": "att.context.weight"}
    if not bias:
        del renamed["att.bias"]
    weights = bind(spec, tensors, renamed).weights
    v, a = module(torch.from_numpy(h), as_valid(mask))
    found = run(spec, weights, inputs, dtype)
    assert_agrees(found, {"att": v.detach().numpy(), "att.weights": a.detach().numpy()}, dtype)
    assert not found["att.weights"][~as_valid(mask).numpy()].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_word_attention_over_a_ragged_encoder(dtype):
    """The lengths of the recurrent node and of the attention are one optional input."""
    nodes = [
        Recurrent("enc", LSTM(3, 4), "x", direction="bidirectional"),
        Node("att", "WordAttention", ("enc", "lengths"), {"input_size": 8, "attention_size": 5}),
    ]
    spec = Spec([Input("x", "float", ("B", "T", 3))], nodes, ["att", "att.weights"])
    assert [entry.name for entry in spec.inputs] == ["x", "lengths"] and spec.inputs[1].optional
    weights, x = draw_weights(spec), draw(B, TK, 3).astype(dtype)
    model = Model(spec, weights, dtype)
    for inputs in ({"x": x}, {"x": x, "lengths": LENGTHS}):
        assert_agrees(model.run(inputs), run_oracle(spec, weights, inputs), dtype)
    ragged = model.run({"x": x, "lengths": LENGTHS})
    for row, length in enumerate(LENGTHS):
        alone = model.run({"x": x[row : row + 1, :length]})
        assert_close(alone["att"][0], ragged["att"][row], TOLERANCES[dtype])
    y, weights = model.predict([x[row, :length] for row, length in enumerate(LENGTHS)])[0].values()
    assert y.shape == (8,) and weights.shape == (6,)


# --- Bahdanau and Luong --------------------------------------------------------------------------------------------


def scores_by_hand(score, w, query, memory):
    """(B, Tq, Tk) in torch, pair by pair."""
    w = {key.removeprefix("att."): torch.from_numpy(array) for key, array in w.items()}
    q = query[:, :, None].expand(-1, -1, TK, -1)
    k = memory[:, None].expand(-1, query.shape[1], -1, -1)
    if score == "dot":
        return (q * k).sum(-1)
    if score == "general":
        return (q * (k @ w["weight"].T)).sum(-1)
    if score == "concat":
        z = torch.cat([q, k], dim=-1) @ w["weight"].T + w.get("bias", 0.0)
    else:
        z = q @ w["query.weight"].T + k @ w["key.weight"].T + w.get("key.bias", 0.0)
    return torch.tanh(z) @ w["score.weight"]


def scored(score, bias=False, query_size=5, memory_size=5):
    attributes = {"query_size": query_size, "memory_size": memory_size, "bias": bias}
    if score in ("bahdanau", "concat"):
        attributes["attention_size"] = 7
    return (
        ("BahdanauAttention", attributes) if score == "bahdanau" else ("LuongAttention", {**attributes, "score": score})
    )


@MASKS
@pytest.mark.parametrize(
    ("score", "bias", "sizes"),
    [
        ("bahdanau", False, (4, 5)),
        ("bahdanau", True, (4, 5)),
        ("dot", False, (5, 5)),
        ("general", False, (4, 5)),
        ("concat", False, (4, 5)),
        ("concat", True, (4, 5)),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bahdanau_and_luong(dtype, score, bias, sizes, mask):
    inputs = {"query": draw(B, TQ, sizes[0]), "memory": draw(B, TK, sizes[1]), "mask": mask}
    spec = network(*scored(score, bias, *sizes), **inputs)
    weights = draw_weights(spec)
    query, memory = torch.from_numpy(inputs["query"]), torch.from_numpy(inputs["memory"])
    a = soft(scores_by_hand(score, weights, query, memory), as_valid(mask)[:, None])
    expected = {"att": (a @ memory).numpy(), "att.weights": a.numpy()}
    assert_agrees(run(spec, weights, inputs, dtype), expected, dtype, score)


def test_concat_is_bahdanau_with_one_matrix():
    inputs = {"query": draw(B, TQ, 4), "memory": draw(B, TK, 5)}
    one, two = (network(*scored(score, False, 4, 5), **inputs) for score in ("concat", "bahdanau"))
    weights = draw_weights(one)
    w = weights["att.weight"]
    split = {"att.query.weight": w[:, :4], "att.key.weight": w[:, 4:], "att.score.weight": weights["att.score.weight"]}
    assert_agrees(run(two, split, inputs, "float64"), run(one, weights, inputs, "float64"), "float64")
    turned = {**weights, "att.weight": swap_columns(swap_columns(w, 4), 5)}
    np.testing.assert_array_equal(turned["att.weight"], w)


@pytest.mark.parametrize("score", ["word", "bahdanau", "dot", "general", "concat"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_does_not_matter(score, bad):
    op, attributes = scored(score) if score != "word" else ("WordAttention", {"input_size": 5, "attention_size": 7})
    inputs = {"query": draw(B, TQ, 5), "memory": draw(B, TK, 5), "mask": LENGTHS}
    if score == "word":
        del inputs["query"]
    spec = network(op, attributes, **inputs)
    weights = draw_weights(spec)
    expected = run(spec, weights, inputs, "float32")
    inputs["memory"] = np.where(np.arange(TK)[:, None] < LENGTHS[:, None, None], inputs["memory"], bad)
    found = run(spec, weights, inputs, "float32")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert not array[1].any()


# --- Keras ---------------------------------------------------------------------------------------------------------


QUERY_MASK = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)


@pytest.fixture
def exact_keras(monkeypatch):
    """Keras on torch makes products of float64 in float32; here it makes them as they are."""
    monkeypatch.setattr(keras.src.ops, "matmul", torch.matmul)
    monkeypatch.setattr(keras.src.ops, "einsum", torch.einsum)


def keras_weights(layer):
    for variable in layer.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    return {variable.name: keras.ops.convert_to_numpy(variable) for variable in layer.weights}


@pytest.mark.parametrize("masks", ["none", "value", "query", "both"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("separate_key", [False, True])
@pytest.mark.parametrize("kind", ["dot", "dot scale", "concat", "concat scale", "additive", "additive scale"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_keras_attention(exact_keras, dtype, kind, separate_key, causal, masks):
    mode, scale = kind.split(" ")[0], kind.endswith("scale")
    value_mask = MASK if masks in ("value", "both") else None
    query_mask = QUERY_MASK if masks in ("query", "both") else None
    inputs = {"query": draw(B, TQ, 5), "value": draw(B, TK, 5), "key": draw(B, TK, 5) if separate_key else None}
    inputs |= {"query_mask": query_mask, "value_mask": value_mask}
    if mode == "additive":
        layer = keras.layers.AdditiveAttention(use_scale=scale, dtype=dtype)
        op, attributes = "KerasAdditiveAttention", {"size": 5, "use_scale": scale, "causal": causal}
    else:
        layer = keras.layers.Attention(use_scale=scale, score_mode=mode, dtype=dtype)
        op, attributes = "KerasAttention", {"score_mode": mode, "use_scale": scale, "causal": causal}
    kept = [array for name, array in inputs.items() if array is not None and "mask" not in name]
    sequences = [torch.from_numpy(array.astype(dtype)) for array in kept]
    layer.build([array.shape for array in sequences])
    own = {f"att.{name}": array.reshape(-1) for name, array in keras_weights(layer).items()}
    spec = network(op, attributes, **inputs)
    given = None if masks == "none" else [query_mask, value_mask]
    expected = layer(sequences, mask=given, use_causal_mask=causal, return_attention_scores=True)
    found = run(spec, own, inputs, dtype)
    expected = dict(zip(found, map(keras.ops.convert_to_numpy, expected), strict=True))
    assert_agrees(found, expected, dtype, kind)
    if value_mask is not None and not causal and dtype == "float32":
        np.testing.assert_allclose(found["att.weights"][1], 1 / TK, rtol=1e-6)  # no valid step: uniform


def test_keras_masks_lower_by_less_in_half_precision():
    query, value = draw(B, TQ, 5).astype(np.float16), draw(B, TK, 5).astype(np.float16)
    layer = keras.layers.Attention(dtype="float16")
    mask = MASK | (np.arange(TK) == 3)  # a row without a valid step is NaN in Keras
    expected = layer([query, value], mask=[None, mask], return_attention_scores=True)
    op = OPS["KerasAttention"]
    found = op.run({"score_mode": "dot", "causal": False}, {}, query, value, None, None, mask)
    for array, reference in zip(found, expected, strict=True):
        assert array.dtype == np.float16
        assert_close(array, keras.ops.convert_to_numpy(reference), 2e-3)


def keras_multi_head(layer, kernels):
    """The weights of a Keras MultiHeadAttention under our names."""
    found = {}
    for part, dense in kernels.items():
        kernel, *bias = dense.get_weights()
        found[f"att.{part}.weight"] = merge_output_heads(kernel) if part == "output" else merge_heads(kernel)
        if bias:
            found[f"att.{part}.bias"] = bias[0].reshape(-1)
    return found


@pytest.mark.parametrize("masks", ["", "value", "query", "key", "attention", "value query key attention"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", ["plain", "all"])
@pytest.mark.parametrize("empty_rows", ["zero", "uniform"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_keras_multi_head_attention(exact_keras, dtype, empty_rows, sizes, causal, masks):
    options = {"num_heads": 2, "key_dim": 3}
    if sizes == "all":
        options |= {"value_dim": 4, "output_shape": 9, "use_bias": False}
    layer = keras.layers.MultiHeadAttention(**options, dtype=dtype)
    inputs = {"query": draw(B, TQ, 5), "value": draw(B, TK, 6), "key": draw(B, TK, 7) if sizes == "all" else None}
    given = {
        "query_mask": QUERY_MASK if "query" in masks else None,
        "value_mask": MASK if "value" in masks else None,
        "key_mask": MASK[::-1].copy() if "key" in masks else None,
        "attention_mask": RNG.random((B, TQ, TK)) < 0.6 if "attention" in masks else None,
    }
    shapes = [array.shape for array in inputs.values() if array is not None]
    layer.build(*shapes)
    keras_weights(layer)
    kernels = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
    own = keras_multi_head(layer, {**kernels, "output": layer.output_dense})
    attributes = {"query_size": 5, "value_size": 6, "num_heads": 2, "key_dim": 3, "causal": causal}
    attributes["empty_rows"] = empty_rows
    if sizes == "all":
        attributes |= {"key_size": 7, "value_dim": 4, "output_size": 9, "bias": False}
    spec = network("MultiHeadAttention", attributes, **inputs, **given)
    tensors = {k: None if v is None else torch.from_numpy(v.astype(dtype)) for k, v in inputs.items()}
    if given["query_mask"] is not None:
        keras.src.backend.set_keras_mask(tensors["query"], torch.from_numpy(given["query_mask"]))
    rest = {k: v for k, v in given.items() if k != "query_mask"}
    scores = {"return_attention_scores": True} if empty_rows == "zero" else {}
    expected = layer(**tensors, **rest, use_causal_mask=causal, **scores)
    found = run(spec, own, {**inputs, **given}, dtype)
    if empty_rows == "uniform":  # torch's own attention, to which Keras gives float32
        assert_close(found["att"], keras.ops.convert_to_numpy(expected), 1e-5)
        return
    expected = dict(zip(found, map(keras.ops.convert_to_numpy, expected), strict=True))
    assert_agrees(found, expected, dtype, masks)


# --- torch.nn.MultiheadAttention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_multi_head_attention(dtype, sizes, bias, causal, padding):
    module = nn.MultiheadAttention(6, 3, bias=bias, kdim=sizes[0], vdim=sizes[1], batch_first=True).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    query, key, value = draw(B, TK, 6), draw(B, TK, sizes[0]), draw(B, TK, sizes[1])
    ignore = np.arange(TK) >= np.array([6, 0, 1, 4])[:, None] if padding else None  # the second row sees nothing
    inputs = {"query": query, "value": value, "key": key, "query_mask": None}
    inputs["value_mask"] = None if ignore is None else ~ignore
    attributes = {"query_size": 6, "value_size": sizes[1], "key_size": sizes[0], "num_heads": 3, "key_dim": 2}
    options = {"bias": bias, "causal": causal, "empty_rows": "nan"}
    spec = network("MultiHeadAttention", {**attributes, **options}, **inputs)
    tensors = {f"m.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    own = {f"att.{name}": array for name, array in split_in_proj(tensors, "m.").items()}
    expected = module(
        *(torch.from_numpy(array) for array in (query, key, value)),
        key_padding_mask=None if ignore is None else torch.from_numpy(ignore),
        attn_mask=torch.ones(TK, TK, dtype=torch.bool).triu(1) if causal else None,
    )
    found = run(spec, own, inputs, dtype)
    found["att.weights"] = found["att.weights"].mean(axis=1)
    assert_agrees(found, dict(zip(found, (t.detach().numpy() for t in expected), strict=True)), dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"m.bias_k": np.zeros((1, 1, 6))}), "m.bias_k: unexpected"),
        (lambda t: t.update({"m.in_proj_weight": np.zeros((17, 6))}), "m.in_proj_weight: 17 rows, expected queries"),
        (lambda t: t.pop("m.out_proj.weight"), "m.out_proj.weight: missing"),
        (lambda t: t.pop("m.in_proj_weight"), "m.q_proj_weight: missing"),
    ],
)
def test_split_in_proj_refuses(change, message):
    tensors = {f"m.{name}": tensor.numpy() for name, tensor in nn.MultiheadAttention(6, 3).state_dict().items()}
    change(tensors)
    with pytest.raises(WeightError, match=message):
        split_in_proj(tensors, "m.")


def test_swap_columns_refuses():
    with pytest.raises(WeightError, match=r"shape \(2, 3\): 3 columns"):
        swap_columns(np.zeros((2, 3)), 3)


# --- the Spec ------------------------------------------------------------------------------------------------------


def test_absent_inputs_and_names_survive_json():
    inputs = {"query": draw(B, TQ, 5), "value": draw(B, TK, 5), "key": None, "query_mask": None, "value_mask": MASK}
    spec = network("KerasAttention", {}, **inputs)
    assert spec.nodes[0].reads == ("query", "value", "value_mask")
    assert Spec.from_json(json.dumps(spec.to_json())) == spec
    assert {str(spec.values[name]) for name in ("att", "att.weights")} == {"float (B, Tq, 5)", "float (B, Tq, Tk)"}


ROWS = {
    "x": ("float", ("B", "T", 5)),
    "q": ("float", ("B", "Tq", 4)),
    "lengths": ("int64", ("B",)),
    "f": ("float", ("B", 5)),
}
MULTI = {"query_size": 4, "value_size": 5, "num_heads": 2, "key_dim": 3}


@pytest.mark.parametrize(
    ("op", "names", "attributes", "message"),
    [
        (
            "WordAttention",
            "x",
            {"input_size": 6, "attention_size": 3},
            r"input is float \(B, T, 5\), expected float \(B, T, 6\)",
        ),
        ("WordAttention", "f", {"input_size": 5, "attention_size": 3}, r"input is float \(B, 5\), expected float"),
        ("WordAttention", ("x", "f"), {"input_size": 5, "attention_size": 3}, r"mask is float \(B, 5\), expected bool"),
        ("WordAttention", ("", "x"), {"input_size": 5, "attention_size": 3}, "reads '', which no input"),
        ("WordAttention", "x", {"input_size": 5, "attention_size": 0}, "attention_size=0, expected a positive"),
        ("WordAttention", "x", {"input_size": 5, "attention_size": 3, "bias": 2}, "bias=2, expected true or false"),
        ("WordAttention", "x", {"input_size": 5, "heads": 3}, "unknown attribute 'heads'"),
        ("BahdanauAttention", ("q", "x"), {"query_size": 4, "memory_size": 4, "attention_size": 3}, "memory is float"),
        ("BahdanauAttention", ("q", "x"), {"query_size": 5, "memory_size": 5, "attention_size": 3}, "query is float"),
        (
            "BahdanauAttention",
            ("q",),
            {"query_size": 5, "memory_size": 5, "attention_size": 3},
            "1 inputs, expected 2 to 3",
        ),
        (
            "LuongAttention",
            ("q", "x"),
            {"score": "cosine", "query_size": 4, "memory_size": 5},
            "score='cosine', expected 'bahdanau'",
        ),
        (
            "LuongAttention",
            ("q", "x"),
            {"score": "dot", "query_size": 4, "memory_size": 5},
            "query size 4 and memory size 5",
        ),
        ("LuongAttention", ("q", "x"), {"score": "concat", "query_size": 4, "memory_size": 5}, "attention_size=None"),
        (
            "LuongAttention",
            ("q", "x"),
            {"score": "general", "query_size": 4, "memory_size": 5, "attention_size": 3},
            "attention 'general' with attention_size=3",
        ),
        (
            "LuongAttention",
            ("q", "x"),
            {"score": "general", "query_size": 4, "memory_size": 5, "bias": True},
            "with a bias",
        ),
        ("KerasAttention", ("q", "x"), {}, "query and key: sizes of 4 and 5, expected one size"),
        ("KerasAttention", ("x", "x"), {"score_mode": "general"}, "score_mode='general', expected 'dot' or 'concat'"),
        ("KerasAttention", ("x", "x"), {"causal": "yes"}, "causal='yes', expected true or false"),
        ("KerasAdditiveAttention", ("x", "x"), {"size": 4}, r"query is float \(B, T, 5\), expected float \(B, T, 4\)"),
        ("MultiHeadAttention", ("q", "q"), MULTI, r"key is float \(B, Tq, 4\), expected float \(B, T, 5\)"),
        ("MultiHeadAttention", ("q", "x"), {**MULTI, "num_heads": 0}, "num_heads=0, expected a positive integer"),
        ("MultiHeadAttention", ("q", "x"), {**MULTI, "empty_rows": "mean"}, "empty_rows='mean', expected 'zero'"),
        ("MultiHeadAttention", ("q", "x"), {**MULTI, "value_dim": 1.5}, "value_dim=1.5, expected a positive integer"),
        ("MultiHeadAttention", ("q", "x", "", "", "", "", "lengths"), MULTI, "attention_mask is int64"),
    ],
)
def test_refused_specs(op, names, attributes, message):
    inputs = [Input(name, *of) for name, of in ROWS.items()]
    with pytest.raises(SpecError, match=message) as error:
        Spec(inputs, [Node("att", op, names, attributes)], ["att"])
    assert str(error.value).startswith("node 'att'")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([6, 0, 7, 4]), r"node 'att' \(WordAttention\): mask: length 7 at row 2, expected 0 to 6"),
        (np.array([6, 0, -1, 4]), "mask: length -1 at row 2, expected 0 to 6"),
    ],
)
def test_refused_lengths(mask, message):
    inputs = {"h": draw(B, TK, 5), "lengths": mask}
    spec = network("WordAttention", {"input_size": 5, "attention_size": 7}, **inputs)
    with pytest.raises(InputError, match=message):
        run(spec, draw_weights(spec), inputs, "float64")


def test_refused_masks_and_batches():
    inputs = [Input("q", "float", ("A", "S", 5)), Input("x", "float", ("B", "T", 5)), Input("m", "bool", ("M", "N"))]
    node = Node("att", "LuongAttention", ("q", "x", "m"), {"score": "dot", "query_size": 5, "memory_size": 5})
    model = Model(Spec(inputs, [node], "att"), {}, "float64")
    with pytest.raises(InputError, match=r"node 'att' \(LuongAttention\): batches of 1 and 4, expected one size"):
        model.run({"q": draw(1, TQ, 5), "x": draw(B, TK, 5), "m": MASK})
    with pytest.raises(InputError, match=r"node 'att' \(LuongAttention\): mask: shape \(4, 5\), expected \(4, 6\)"):
        model.run({"q": draw(B, TQ, 5), "x": draw(B, TK, 5), "m": MASK[:, 1:]})
    spec = network("MultiHeadAttention", MULTI, query=draw(B, TQ, 4), value=draw(B, TK, 5))
    entries = [*spec.inputs, Input("m", "bool", ("P", "Q"))]
    node = Node("att", "MultiHeadAttention", ("query", "value", "", "", "", "", "m"), MULTI)
    model = Model(Spec(entries, [node], "att"), draw_weights(spec), "float64")
    with pytest.raises(InputError, match=r"attention_mask: shape \(2, 6\), expected \(4, 3, 6\) or \(3, 6\)"):
        model.run({"query": draw(B, TQ, 4), "value": draw(B, TK, 5), "m": MASK[:2]})


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batch_and_no_steps(dtype):
    attributes = {"query_size": 5, "memory_size": 5, "attention_size": 7}
    for batch, queries, steps in ((0, 3, 6), (2, 0, 6), (2, 3, 0)):
        inputs = {"query": draw(batch, queries, 5), "memory": draw(batch, steps, 5)}
        spec = network("BahdanauAttention", attributes, **inputs)
        found = run(spec, draw_weights(spec), inputs, dtype)
        assert found["att"].shape == (batch, queries, 5) and not found["att"].any()
        assert found["att.weights"].shape == (batch, queries, steps)


# --- what moves axes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "expected"),
    [
        ("Unsqueeze", {"axes": [0]}, ("B", 5), "float (1, B, 5)"),
        ("Unsqueeze", {"axes": [-1]}, ("B", 5), "float (B, 5, 1)"),
        ("Unsqueeze", {"axes": [1]}, ("B", 5), "float (B, 1, 5)"),
        ("Transpose", {"perm": [1, 0, 2]}, (2, "B", 5), "float (B, 2, 5)"),
        ("Reshape", {"shape": [0, -1]}, ("B", 2, 5), "float (B, 10)"),
        ("Reshape", {"shape": [1, -1, 5]}, ("B", 5), "float (1, B, 5)"),
        ("Reshape", {"shape": [0, 5, 2]}, ("B", 10), "float (B, 5, 2)"),
        ("Reshape", {"shape": [-1]}, ("B", 2), "float (2*B)"),
    ],
)
def test_shape_ops(op, attributes, shape, expected):
    spec = Spec([Input("x", "float", shape)], [Node("y", op, "x", attributes)], "y")
    assert str(spec.values["y"]) == expected
    assert Spec.from_json(json.dumps(spec.to_json())) == spec and hash(spec.nodes[0])
    x = draw(*(3 if size == "B" else size for size in shape))
    found = Model(spec, {}, "float64").run({"x": x})["y"]
    reference = {
        "Unsqueeze": lambda: np.expand_dims(x, attributes["axes"]),
        "Transpose": lambda: x.transpose(attributes["perm"]),
        "Reshape": lambda: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(attributes["shape"])]),
    }[op]()
    np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("Unsqueeze", {"axes": [3]}, "axis=3, expected an integer from -3 to 2"),
        ("Unsqueeze", {"axes": 0}, "axes=0, expected a list of integers"),
        ("Unsqueeze", {"axes": [0, -4]}, r"axes=\[0, -4\], expected each axis once"),
        ("Transpose", {"perm": [0, 0]}, r"perm=\(0, 0\) for float \(B, 6\), expected the axes 0 to 1, each once"),
        ("Transpose", {"perm": [0]}, "expected the axes 0 to 1, each once"),
        ("Transpose", {"perm": "10"}, "perm='10'"),
        ("Reshape", {"shape": [0, 4]}, r"shape=\[0, 4\] does not fit float \(B, 6\)"),
        ("Reshape", {"shape": [0, 4, -1]}, r"shape=\[0, 4, -1\] does not fit"),
        ("Reshape", {"shape": [-1, -1]}, "at most one -1"),
        ("Reshape", {"shape": [1, 1, 0]}, "at most one -1"),
        ("Reshape", {"shape": [True, 6]}, "expected a list of integers"),
    ],
)
def test_refused_shape_ops(op, attributes, message):
    with pytest.raises(SpecError, match=message):
        Spec([Input("x", "float", ("B", 6))], [Node("y", op, "x", attributes)], "y")


def test_reshape_that_does_not_fit_what_it_is_given():
    model = Model(Spec([Input("x", "float", ("B", 6))], [Node("y", "Reshape", "x", {"shape": [4, -1]})], "y"), {})
    assert model(np.zeros((2, 6), np.float32)).shape == (4, 3)
    with pytest.raises(InputError, match=r"node 'y' \(Reshape\): input of shape \(3, 6\) does not fit shape=\[4, -1\]"):
        model(np.zeros((3, 6), np.float32))
