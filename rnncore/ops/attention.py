r"""Attention: a weighted mean of a memory's steps, the weights being the softmax of scores.

    a_tk = softmax_k(score(q_t, m_k)),  v_t = sum_k a_tk m_k          k over the memory's valid steps

    bahdanau  score = s . tanh(W_q q + W_k m + b)     Bahdanau et al. 2015
    dot       score = q . m                           Luong et al. 2015
    general   score = q . W m                         Luong et al. 2015
    concat    score = s . tanh(W [q; m] + b)          Luong et al. 2015: bahdanau with one matrix
    word      score = s . tanh(W m + b)               Yang et al. 2016: no query; a score for each word

A bias that adds the same number to all scores of a query (of W in general, of s anywhere) does not change a, and
has no place here. Every op has two outputs: NAME, the means, and NAME.weights, the weights a, for people to look at.

Masks say which steps are valid: bool (B, T), True where a step counts, or lengths, int64 (B,). The weight of any
other step is exactly 0 and the step is not read (NaN there does no harm); a row without a valid step has weights
and means of 0. The ops of Keras follow Keras instead: see KerasAttention.

Letters besides those of rnncore.cells: Q, K, V size of a query, a memory's step, a value; A size of the
attention; Tq, Tk number of queries, of the memory's steps; N heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np

from rnncore.errors import InputError, SpecError, shown
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value
from rnncore.ops.dimensions import CAUSAL, Dimension
from rnncore.ops.schema import Choice, Flag, Size

__all__ = ["OPS", "SCORES", "Scoring", "attend", "masked_softmax", "valid_steps"]

SCORES = ("bahdanau", "dot", "general", "concat")
SUMS_BYTES = 1 << 18


# --- scores with weights, and the mean -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """The comparison of a query with the steps of a memory: one of SCORES, its sizes, and its arithmetic.

    size and bias belong to bahdanau and concat. Weights, by name: bahdanau "query.weight" (A, Q), "key.weight"
    (A, K), "key.bias" (A), "score.weight" (A); general "weight" (Q, K); concat "weight" (A, Q + K), "bias" (A),
    "score.weight" (A). Raises SpecError.
    """

    score: str
    query_size: int
    memory_size: int
    size: int | None = None
    bias: bool = False

    def __post_init__(self):
        if not isinstance(self.score, str) or self.score not in SCORES:
            raise SpecError(f"attention {shown(self.score)} is unknown, expected one of {', '.join(SCORES)}")
        Size().check("query_size", self.query_size)
        Size().check("memory_size", self.memory_size)
        Flag().check("attention bias", self.bias)
        if self.additive:
            Size().check("attention_size", self.size)
        elif self.size is not None or self.bias:
            described = "a bias" if self.size is None else f"attention_size={self.size!r}"
            raise SpecError(f"attention {self.score!r} with {described}, expected that of bahdanau and concat only")
        if self.score == "dot" and self.query_size != self.memory_size:
            raise SpecError(f"attention 'dot': query size {self.query_size} and memory size {self.memory_size} differ")

    @property
    def additive(self) -> bool:
        """Whether scores are s . tanh(query + key), and else query . key."""
        return self.score in ("bahdanau", "concat")

    @property
    def key_size(self) -> int:
        """Size of a projected key."""
        return cast(int, self.size) if self.additive else self.query_size

    def weight_shapes(self, projected: bool = False) -> dict[str, tuple[int, ...]]:
        """The weights by name; without those of the keys where they come projected (not for concat)."""
        shapes: dict[str, tuple[Any, ...]] = {}  # of integers: size is one where it is used
        if self.score == "bahdanau":
            shapes["query.weight"] = (self.size, self.query_size)
            if not projected:
                shapes["key.weight"] = (self.size, self.memory_size)
                if self.bias:
                    shapes["key.bias"] = (self.size,)
        elif self.score == "general" and not projected:
            shapes["weight"] = (self.query_size, self.memory_size)
        elif self.score == "concat":
            shapes["weight"] = (self.size, self.query_size + self.memory_size)
            if self.bias:
                shapes["bias"] = (self.size,)
        if self.additive:
            shapes["score.weight"] = (self.size,)
        return shapes

    def query_weight(self, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The matrix (A, Q) that projects queries; None where they stay as they are."""
        if self.score == "concat":
            return weights["weight"][:, : self.query_size]
        return weights.get("query.weight")

    def key_weight(self, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The matrix (A, K), for general (Q, K), and the bias (A) that project a memory, or None."""
        if self.score == "concat":
            return weights["weight"][:, self.query_size :], weights.get("bias")
        if self.score == "general":
            return weights.get("weight"), None
        return weights.get("key.weight"), weights.get("key.bias")

    def keys(self, weights: Mapping[str, np.ndarray], memory: np.ndarray) -> np.ndarray:
        """The part of the scores that depends on the memory alone: (B, Tk, K) -> (B, Tk, A), for general (B, Tk, Q)."""
        matrix, bias = self.key_weight(weights)
        return memory if matrix is None else _linear(memory, matrix, bias)

    def scores(self, weights: Mapping[str, np.ndarray], query: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Queries (B, Tq, Q) against projected keys: (B, Tq, Tk)."""
        matrix = self.query_weight(weights)
        return self.compare(weights, query if matrix is None else _linear(query, matrix), keys)

    def compare(self, weights: Mapping[str, np.ndarray], query: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Projected queries (B, Tq, A), for general and dot (B, Tq, Q), against projected keys: (B, Tq, Tk)."""
        return (
            additive_scores(query, keys, weights["score.weight"])
            if self.additive
            else (blocks.matmul(query, keys.swapaxes(1, 2)))
        )


def additive_scores(query: np.ndarray, keys: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """vector . tanh(query + key): (B, Tq, A), (B, Tk, A), (A) -> (B, Tq, Tk).

    One query and a block of rows at a time, so that the sums stay in cache.
    """
    batch, steps, size = keys.shape
    scores = np.empty((batch, query.shape[1], steps), keys.dtype)
    rows = max(1, SUMS_BYTES // max(1, steps * size * keys.itemsize))
    scratch = np.empty((min(rows, batch), steps, size), keys.dtype)
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        sums = scratch[: len(keys[part])]
        for t in range(query.shape[1]):
            np.add(query[part, t, None], keys[part], out=sums)
            np.tanh(sums, out=sums)
            np.matmul(sums, vector, out=scores[part, t])
    return scores


def masked_softmax(scores: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """softmax over the last axis among what is valid; exactly 0 elsewhere, and all 0 where nothing is."""
    if valid is not None:
        scores = np.where(valid, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = blocks.apply(np.exp, scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total != 0)


def attend(scores: np.ndarray, memory: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Means (B, Tq, V) and weights (B, Tq, Tk) of a memory (B, Tk, V) by scores; valid is (B, Tk) or None.

    Steps of the memory that are not valid must be finite: see without_padding.
    """
    weights = masked_softmax(scores, None if valid is None else valid[:, None])
    return blocks.matmul(weights, memory), weights


def without_padding(memory: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The memory with 0 at steps that are not valid, so that nothing there can spread."""
    return memory if valid is None or valid.all() else np.where(valid[:, :, None], memory, memory.dtype.type(0))


@overload
def valid_steps(what: str, given: np.ndarray, batch: int, steps: int) -> np.ndarray: ...
@overload
def valid_steps(what: str, given: np.ndarray | None, batch: int, steps: int) -> np.ndarray | None: ...
def valid_steps(what: str, given: np.ndarray | None, batch: int, steps: int) -> np.ndarray | None:
    """A mask (B, T), or lengths (B,), as a mask; None for None. InputError, beginning with ``what``."""
    if given is None:
        return None
    expected = (batch, steps) if given.dtype == np.bool_ else (batch,)
    if given.shape != expected:
        raise InputError(f"{what}: shape {given.shape}, expected {expected}")
    if given.dtype == np.bool_:
        return given
    wrong = np.flatnonzero((given < 0) | (given > steps))
    if len(wrong):
        raise InputError(f"{what}: length {given[wrong[0]]} at row {wrong[0]}, expected 0 to {steps}")
    return np.arange(steps) < given[:, None]


# --- what the ops share --------------------------------------------------------------------------------------------


def _linear(x, weight, bias=None):
    y = blocks.matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def _need_sequence(what, value, size=None):
    """A float value (B, T, size)."""
    wrong = len(value.shape) == 3 and size is not None and isinstance(value.shape[2], int) and value.shape[2] != size
    if value.dtype != "float" or len(value.shape) != 3 or wrong:
        raise SpecError(f"{what} is {value}, expected float ({', '.join(map(str, ('B', 'T', size or 'size')))})")


def _join(what, *sizes):
    """The one size that all sizes known so far are; a number rather than a name."""
    numbers = {size for size in sizes if isinstance(size, int)}
    if len(numbers) > 1:
        raise SpecError(f"{what} of {' and '.join(map(str, sorted(numbers)))}, expected one size")
    return numbers.pop() if numbers else sizes[0]


def _need_mask(what, mask, sequence):
    """Nothing, a mask (B, T) or lengths (B,) of a sequence."""
    if mask is None:
        return
    ranks = {"bool": 2, "int64": 1}
    if ranks.get(mask.dtype) != len(mask.shape):
        raise SpecError(f"{what} is {mask}, expected bool (B, T) or int64 (B,)")
    for axis, size in enumerate(mask.shape):
        _join(f"{what} is {mask} for {sequence}: sizes", size, sequence.shape[axis])


def _same_batch(*arrays):
    """Arrays of one batch, or None; NumPy would spread a batch of one."""
    sizes = {len(array) for array in arrays if array is not None}
    if len(sizes) > 1:
        raise InputError(f"batches of {' and '.join(map(str, sorted(sizes)))}, expected one size")


# --- word, Bahdanau and Luong attention ----------------------------------------------------------------------------


def _word_shapes(attributes):
    size = attributes["attention_size"]
    shapes: dict[str, tuple[int, ...]] = {"weight": (size, attributes["input_size"])}
    if attributes["bias"]:
        shapes["bias"] = (size,)
    return {**shapes, "context": (size,)}


def _word_infer(attributes, values):
    x, mask = values
    _need_sequence("input", x, attributes["input_size"])
    _need_mask("mask", mask, x)
    return [Value("float", (x.shape[0], attributes["input_size"])), Value("float", x.shape[:2])]


def _word_run(attributes, weights, x, mask=None):
    """u_t = tanh(W h_t + b),  a = softmax(u_t . u_w),  v = sum a_t h_t."""
    valid = valid_steps("mask", mask, *x.shape[:2])
    x = without_padding(x, valid)
    u = np.tanh(_linear(x, weights["weight"], weights.get("bias")))  # (B, T, A)
    v, a = attend((u @ weights["context"])[:, None], x, valid)
    return v[:, 0], a[:, 0]


def _batch(inputs, outputs):
    """The rows, which every input has first; but for an attention_mask (Tq, Tk), which is one for all."""
    rows = {place: 0 for place, value in enumerate(inputs) if value is not None}
    if len(inputs) == 7 and inputs[6] is not None and len(inputs[6].shape) == 2:
        del rows[6]
    return Dimension(rows, dict.fromkeys(range(len(outputs)), 0))


def _word_dimensions(attributes, inputs, outputs):
    return [_batch(inputs, outputs)]


def _scored_dimensions(attributes, inputs, outputs):
    """Queries are independent: each looks at the whole memory."""
    return [_batch(inputs, outputs), Dimension({0: 1}, {0: 1, 1: 1})]


def _scoring(attributes):
    score = attributes.get("score", "bahdanau")
    sizes = (attributes["query_size"], attributes["memory_size"], attributes["attention_size"])
    return Scoring(score, *sizes, attributes["bias"])


def _scored_infer(attributes, values):
    query, memory, mask = values
    scoring = _scoring(attributes)
    _need_sequence("query", query, scoring.query_size)
    _need_sequence("memory", memory, scoring.memory_size)
    _need_mask("mask", mask, memory)
    axes = (_join("batches", query.shape[0], memory.shape[0]), query.shape[1])
    return [Value("float", (*axes, scoring.memory_size)), Value("float", (*axes, memory.shape[1]))]


def _scored_run(attributes, weights, query, memory, mask=None):
    _same_batch(query, memory)
    scoring = _scoring(attributes)
    valid = valid_steps("mask", mask, *memory.shape[:2])
    memory = without_padding(memory, valid)
    return attend(scoring.scores(weights, query, scoring.keys(weights, memory)), memory, valid)


# --- Keras ---------------------------------------------------------------------------------------------------------


def _self_dimensions(attributes, inputs, outputs):
    """Queries are independent, or causal where query, value and key come step by step together.

    Lengths count steps from the beginning, and so do masks of the queries by the steps of the memory.
    """
    _, value, key, *masks = inputs
    dimensions = [_batch(inputs, outputs)]
    queries = {0: 1}
    if masks[0] is not None:
        if len(masks[0].shape) != 2:
            return dimensions
        queries[3] = 1
    if len(masks) == 4 and masks[3] is not None:
        if attributes["causal"]:
            return dimensions
        queries[6] = len(masks[3].shape) - 2
    if not attributes["causal"]:
        return [*dimensions, Dimension(queries, {0: 1, 1: len(outputs[1].shape) - 2})]
    for place, mask in ((1, value), (2, key), (4, masks[1]), (5, masks[2] if len(masks) == 4 else None)):
        if mask is not None and len(mask.shape) >= 2:
            queries[place] = 1
    return [*dimensions, Dimension(queries, {0: 1}, CAUSAL)]


def _causal(steps_q, steps_k):
    """(Tq, Tk): query i sees keys 0 to i."""
    return np.arange(steps_q)[:, None] >= np.arange(steps_k)


def _keras_infer(attributes, values):
    query, value, key, query_mask, value_mask = values
    key = value if key is None else key
    for what, sequence in (("query", query), ("value", value), ("key", key)):
        _need_sequence(what, sequence, attributes.get("size") if what != "value" else None)
    _join("query and key: sizes", query.shape[2], key.shape[2])
    _need_mask("query_mask", query_mask, query)
    _need_mask("value_mask", value_mask, value)
    axes = (_join("batches", query.shape[0], value.shape[0], key.shape[0]), query.shape[1])
    steps = _join("value and key: steps", value.shape[1], key.shape[1])
    return [Value("float", (*axes, value.shape[2])), Value("float", (*axes, steps))]


def _keras_attention_shapes(attributes):
    names = (("use_scale", "scale"), ("score_mode", "concat_score_weight"))
    return {name: (1,) for key, name in names if attributes[key] in (True, "concat")}


def _keras_additive_shapes(attributes):
    return {"scale": (attributes["size"],)} if attributes["use_scale"] else {}


def _keras_attention_run(attributes, weights, query, value, key=None, query_mask=None, value_mask=None):
    """dot: scale q . k;  concat: w sum(tanh(scale (q + k))); scale and w are numbers."""
    _same_batch(query, value, key)
    key = value if key is None else key
    scale = weights.get("scale", query.dtype.type(1))
    if attributes["score_mode"] == "dot":
        scores = blocks.matmul(query, key.swapaxes(1, 2)) * scale
    else:
        vector = np.full(key.shape[2], weights["concat_score_weight"][0])
        scores = additive_scores(query * scale, key * scale, vector)
    return _keras_masked(attributes, scores, query, value, query_mask, value_mask)


def _keras_additive_run(attributes, weights, query, value, key=None, query_mask=None, value_mask=None):
    """sum(scale * tanh(q + k)), scale a vector."""
    _same_batch(query, value, key)
    key = value if key is None else key
    vector = weights.get("scale", np.ones(key.shape[2], key.dtype))
    scores = additive_scores(query, key, vector)
    return _keras_masked(attributes, scores, query, value, query_mask, value_mask)


def _keras_masked(attributes, scores, query, value, query_mask, value_mask):
    """Keras's rule: masked scores are 1e9 lower (65504 in float16), so that a row without a valid step is, but for
    rounding, as if it had no mask; queries that are masked give 0, and keep their weights. Source: keras 3.15.
    """
    allowed = valid_steps("value_mask", value_mask, *value.shape[:2])
    allowed = None if allowed is None else allowed[:, None]
    if attributes["causal"]:
        causal = _causal(*scores.shape[1:])
        allowed = causal if allowed is None else allowed & causal
    if allowed is not None:
        lower = 65504.0 if scores.dtype == np.float16 else 1e9
        scores = np.where(allowed, scores, scores - scores.dtype.type(lower))
    weights = masked_softmax(scores, None)
    context = blocks.matmul(weights, value)
    kept = valid_steps("query_mask", query_mask, *query.shape[:2])
    return (context if kept is None else np.where(kept[:, :, None], context, context.dtype.type(0))), weights


# --- several heads -------------------------------------------------------------------------------------------------


def _multi_sizes(attributes):
    """(N, D, Dv, O), and the sizes of queries, keys and values."""
    query, value, heads, dim = (attributes[name] for name in ("query_size", "value_size", "num_heads", "key_dim"))
    inner = (heads, dim, attributes["value_dim"] or dim, attributes["output_size"] or query)
    return inner, (query, attributes["key_size"] or value, value)


def _multi_shapes(attributes):
    (heads, dim, value_dim, output), (query, key, value) = _multi_sizes(attributes)
    rows = {"query": (heads * dim, query), "key": (heads * dim, key), "value": (heads * value_dim, value)}
    rows["output"] = (output, heads * value_dim)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in rows.items():
        shapes[f"{name}.weight"] = shape
        if attributes["bias"]:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def _multi_infer(attributes, values):
    query, value, key, query_mask, value_mask, key_mask, attention_mask = values
    (heads, _, _, output), sizes = _multi_sizes(attributes)
    key = value if key is None else key
    for what, sequence, size in zip(("query", "key", "value"), (query, key, value), sizes, strict=True):
        _need_sequence(what, sequence, size)
    masks = (("query_mask", query_mask, query), ("value_mask", value_mask, value), ("key_mask", key_mask, key))
    for what, mask, sequence in masks:
        _need_mask(what, mask, sequence)
    if attention_mask is not None and (attention_mask.dtype != "bool" or len(attention_mask.shape) not in (2, 3)):
        raise SpecError(f"attention_mask is {attention_mask}, expected bool (Tq, Tk) or (B, Tq, Tk)")
    batch = _join("batches", query.shape[0], value.shape[0], key.shape[0])
    steps = _join("value and key: steps", value.shape[1], key.shape[1])
    return [Value("float", (batch, query.shape[1], output)), Value("float", (batch, heads, query.shape[1], steps))]


def _multi_run(attributes, weights, query, value, key=None, *masks):
    """softmax((W_q q) . (W_k k) / sqrt(D)) (W_v v) in each of N heads, their results concatenated, through W_o.

    Masked weights are exactly 0, of all heads alike. A query that sees nothing has weights of 0 and gets the
    output's bias, as in Keras with dropout or with return_attention_scores, and where torch has no use for the weights;
    with empty_rows="uniform" it sees all steps alike, as in Keras without either; with "nan" its weights and its row
    are NaN, as in torch.nn.MultiheadAttention otherwise. Sources: torch 2.13, keras 3.15.
    """
    _same_batch(query, value, key)
    key = value if key is None else key
    heads, dim = attributes["num_heads"], attributes["key_dim"]
    q, k, v = (
        _heads(_linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias")), heads)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    allowed = _allowed(attributes["causal"], query, value, *masks, *(None,) * (4 - len(masks)))
    scores = blocks.matmul(q, k.swapaxes(2, 3)) * q.dtype.type(1 / math.sqrt(dim))
    attention = masked_softmax(scores, None if allowed is None else allowed[:, None])
    if allowed is not None and attributes["empty_rows"] != "zero":
        empty = ~allowed.any(axis=-1, keepdims=True)
        each = 1 / max(value.shape[1], 1) if attributes["empty_rows"] == "uniform" else math.nan
        attention = np.where(empty[:, None], attention.dtype.type(each), attention)
    context = blocks.matmul(attention, v).swapaxes(1, 2)  # (B, Tq, N, Dv)
    context = context.reshape(*context.shape[:2], -1)
    return _linear(context, weights["output.weight"], weights.get("output.bias")), attention


def _heads(x, heads):
    """(B, T, N*D) -> (B, N, T, D)."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2)


def _allowed(causal, query, value, query_mask, value_mask, key_mask, attention_mask):
    """The mask of what every query may see, (B or 1, Tq or 1, Tk); None for everything."""
    batch, steps = value.shape[:2]
    masks = []
    if query_mask is not None:
        masks.append(valid_steps("query_mask", query_mask, *query.shape[:2])[:, :, None])
    for what, mask in (("value_mask", value_mask), ("key_mask", key_mask)):
        if mask is not None:
            masks.append(valid_steps(what, mask, batch, steps)[:, None])
    if attention_mask is not None:
        expected = (batch, query.shape[1], steps)
        if attention_mask.shape not in (expected, expected[1:]):
            raise InputError(f"attention_mask: shape {attention_mask.shape}, expected {expected} or {expected[1:]}")
        masks.append(attention_mask.reshape(-1, *expected[1:]))
    if causal:
        masks.append(_causal(query.shape[1], steps)[None])
    allowed = None
    for mask in masks:
        allowed = mask if allowed is None else allowed & mask
    return allowed


ENDINGS = ("", "weights")

OPS = [
    Op(
        "WordAttention",
        _word_infer,
        _word_run,
        _word_dimensions,
        arity=(1, 2),
        optional=(1,),
        outputs=ENDINGS,
        schema={"input_size": Size(), "attention_size": Size(), "bias": Flag(True)},
        weight_shapes=_word_shapes,
    ),
    Op(
        "BahdanauAttention",
        _scored_infer,
        _scored_run,
        _scored_dimensions,
        arity=(2, 3),
        optional=(2,),
        outputs=ENDINGS,
        schema={"query_size": Size(), "memory_size": Size(), "attention_size": Size(), "bias": Flag(False)},
        weight_shapes=lambda a: _scoring(a).weight_shapes(),
    ),
    Op(
        "LuongAttention",
        _scored_infer,
        _scored_run,
        _scored_dimensions,
        arity=(2, 3),
        optional=(2,),
        outputs=ENDINGS,
        schema={
            "score": Choice(among=SCORES),
            "query_size": Size(),
            "memory_size": Size(),
            "attention_size": Size(None),
            "bias": Flag(False),
        },
        weight_shapes=lambda a: _scoring(a).weight_shapes(),
    ),
    Op(
        "KerasAttention",
        _keras_infer,
        _keras_attention_run,
        _self_dimensions,
        arity=(2, 5),
        optional=(2, 3, 4),
        outputs=ENDINGS,
        schema={
            "use_scale": Flag(False),
            "score_mode": Choice("dot", among=("dot", "concat")),
            "causal": Flag(False),
        },
        weight_shapes=_keras_attention_shapes,
    ),
    Op(
        "KerasAdditiveAttention",
        _keras_infer,
        _keras_additive_run,
        _self_dimensions,
        arity=(2, 5),
        optional=(2, 3, 4),
        outputs=ENDINGS,
        schema={"size": Size(), "use_scale": Flag(True), "causal": Flag(False)},
        weight_shapes=_keras_additive_shapes,
    ),
    Op(
        "MultiHeadAttention",
        _multi_infer,
        _multi_run,
        _self_dimensions,
        arity=(2, 7),
        optional=(2, 3, 4, 5, 6),
        outputs=ENDINGS,
        schema={
            "query_size": Size(),
            "value_size": Size(),
            "key_size": Size(None),
            "num_heads": Size(),
            "key_dim": Size(),
            "value_dim": Size(None),
            "output_size": Size(None),
            "bias": Flag(True),
            "causal": Flag(False),
            "empty_rows": Choice("zero", among=("zero", "uniform", "nan")),
        },
        weight_shapes=_multi_shapes,
    ),
]
