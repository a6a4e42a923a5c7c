"""What the graph proves: which rows may be run apart, and which steps may be padded."""

from __future__ import annotations

import numpy as np
import pytest
from stream_models import equal

from rnncore import Control, Input, Model, Node, Recurrent, Spec
from rnncore.batch.plan import RowPlan, rows_are_independent
from rnncore.batch.runner import Runner
from rnncore.cells import GRU

X = Input("x", "float", ("B", "T", 4))
GRU_ = Recurrent("gru", GRU(4, 4), "x")


def spec(*nodes, inputs=(X,), output=None, recurrent=(GRU_,)):
    return Spec([*inputs], [*recurrent, *nodes], [output or (nodes[-1].name if nodes else "gru")])


def choice(condition, other=Node("b", "Tanh", "a")):  # noqa: B008 (a frozen dataclass)
    branches = (Spec([Input("a", "float", ("B", "T", 4))], [node], ["b"]) for node in (Node("b", "Relu", "a"), other))
    return Control("y", "If", (condition, "gru"), tuple(branches), captures=("a",))


APART = {
    "stack": spec(),
    "linear": spec(Node("y", "Linear", "gru", {"input_size": 4, "output_size": 2})),
    "softmax over features": spec(Node("y", "Softmax", "gru", {"axis": -1})),
    "softmax over time": spec(Node("y", "Softmax", "gru", {"axis": 1})),
    "mean over time": spec(Node("y", "ReduceMean", "gru", {"axes": (1,), "keepdims": False})),
    "residual": spec(Node("y", "Add", ("gru", "x"))),
    "concat": spec(Node("y", "Concat", ("gru", "x"), {"axis": 2})),
    "attention": spec(Node("y", "WordAttention", "gru", {"input_size": 4, "attention_size": 3})),
    "scores": spec(
        Node("t", "Transpose", "gru", {"perm": (0, 2, 1)}),
        Node("y", "MatMul", ("gru", "t")),
    ),
    "constant": spec(
        Node("c", "Constant", (), {"dtype": "float", "value": [1.0, 2.0, 3.0, 4.0], "shape": (4,)}),
        Node("y", "Mul", ("gru", "c")),
    ),
    "reshape that keeps rows": spec(
        Node("y", "Reshape", "gru", {"shape": (0, 0, 2, 2)}),
    ),
}

MIXED = {
    "softmax over rows": spec(Node("y", "Softmax", "gru", {"axis": 0})),
    "sum over rows": spec(
        Node("m", "ReduceSum", "gru", {"axes": (0,), "keepdims": True}), Node("y", "Add", ("gru", "m"))
    ),
    "sum over all": spec(Node("m", "ReduceSum", "gru", {"keepdims": True}), Node("y", "Sub", ("gru", "m"))),
    "running sum": spec(Node("y", "CumSum", "gru", {"axis": 0})),
    "rows against rows": spec(
        Node("t", "Transpose", "gru.last", {"perm": (1, 0)}), Node("y", "MatMul", ("gru.last", "t"))
    ),
    "rows behind rows": spec(Node("y", "Concat", ("gru", "x"), {"axis": 0})),
    "rows along another axis": spec(
        Node("t", "Transpose", "gru.last", {"perm": (1, 0)}),
        Node("u", "Unsqueeze", "t", {"axes": (0,)}),
        Node("w", "Slice", "gru", {"starts": (0,), "ends": (1,), "axes": (2,)}),
        Node("y", "Mul", ("w", "u")),
    ),
    "rows and time together": spec(Node("y", "Reshape", "gru", {"shape": (-1, 4)})),
    "size of the batch": spec(
        Node("n", "Shape", "gru", {"start": 0, "end": 1}),
        Node("f", "Cast", "n", {"to": "float"}),
        Node("y", "Div", ("gru", "f")),
    ),
    "reversed rows": spec(Node("y", "Slice", "gru", {"starts": (-1,), "ends": (-100,), "axes": (0,), "steps": (-1,)})),
    "first row": spec(Node("y", "Gather", "gru", {"axis": 0, "indices": (0,)})),
    "batch norm of rows": spec(Node("y", "LpNormalization", "gru", {"axis": 0, "p": 2})),
    "choice by the rows": Spec(
        [X],
        [
            GRU_,
            Node("m", "ReduceMax", "gru", {"keepdims": False}),
            Node("zero", "Constant", (), {"dtype": "float", "value": 0.0}),
            Node("which", "Greater", ("m", "zero")),
            choice("which"),
        ],
        ["y"],
    ),
    "choice between sums": Spec(
        [X, Input("which", "bool", ())],
        [GRU_, choice("which", Node("b", "CumSum", "a", {"axis": 0}))],
        ["y"],
    ),
}


def model(found):
    random = np.random.default_rng(0)
    return Model(found, {name: random.standard_normal(shape) for name, shape in found.weight_shapes().items()})


@pytest.mark.parametrize("found", APART.values(), ids=APART)
def test_rows_that_are_apart(found):
    """Said so, and so it is: every row alone gives what it gives among others, whatever their lengths."""
    assert rows_are_independent(found)
    network = model(found)
    random = np.random.default_rng(1)
    rows = [random.standard_normal((steps, 4)).astype(np.float32) for steps in (3, 7, 1, 7, 5, 3)]
    outputs, bad = Runner(network, RowPlan.of(found, np.dtype("float32")), 4)({"x": rows}, {})
    assert not bad
    for row, result in zip(rows, outputs[found.outputs[0]], strict=True):
        assert equal(result, network(row[None])[0])


@pytest.mark.parametrize("found", MIXED.values(), ids=MIXED)
def test_rows_that_are_not_known_to_be_apart(found):
    assert not rows_are_independent(found)


def test_a_choice_for_all_rows_keeps_them_apart():
    assert rows_are_independent(Spec([X, Input("which", "bool", ())], [GRU_, choice("which")], ["y"]))


def test_the_mixed_ones_do_mix():
    """Most of the list above is not only unproven: rows do change each other."""
    x = np.random.default_rng(1).standard_normal((4, 5, 4)).astype(np.float32)
    for name in ("softmax over rows", "sum over rows", "sum over all", "running sum", "size of the batch"):
        network = model(MIXED[name])
        assert not np.allclose(network(x)[3], network(x[3:])[0]), name


@pytest.mark.parametrize(
    ("name", "padded"),
    [
        ("stack", True),
        ("linear", True),
        ("residual", True),
        ("concat", True),
        ("softmax over features", True),
        ("softmax over time", False),
        ("mean over time", False),
        ("attention", False),
        ("scores", False),
    ],
)
def test_steps_that_may_be_padded(name, padded):
    assert bool(RowPlan.of(APART[name], np.dtype("float32")).padded) == padded


def test_a_mask_is_no_padding():
    found = Spec([X], [Recurrent("gru", GRU(4, 4), "x", mask="mask")], ["gru"])
    assert not RowPlan.of(found, np.dtype("float32")).padded


def test_long_rows_run_in_smaller_batches(monkeypatch):
    """What a batch needs in memory is bounded, whatever its rows are."""
    found = APART["linear"]
    network, plan = model(found), RowPlan.of(found, np.dtype("float32"))
    seen, ran = [], Model.run
    monkeypatch.setattr("rnncore.batch.runner.WORKING_BYTES", 200_000)
    monkeypatch.setattr(Model, "run", lambda self, inputs, **_: (seen.append(inputs["x"].shape), ran(self, inputs))[1])
    rows = [np.zeros((steps, 4), np.float32) for steps in (1000, 10, 900, 20, 30, 10)]
    Runner(network, plan, 100)({"x": rows}, {})
    assert all(batch * plan.working_bytes({"T": steps}) <= 200_000 for batch, steps, _ in seen if batch > 1)
    assert sum(batch for batch, _, _ in seen) == 6 and len(seen) < 6
