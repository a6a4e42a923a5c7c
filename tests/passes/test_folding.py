"""An Embedding folded into the recurrent layers that read it: the same bits, within the budget, the same errors."""

import numpy as np
import pytest

from rnncore import Input, InputError, Model, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM, RNN
from rnncore.kernels import runs_native

NATIVE = runs_native(np.dtype(np.float32))  # BLAS has no tables

CELLS = {
    "lstm": LSTM(7, 19),
    "peephole": LSTM(7, 33, peephole=True),
    "coupled": LSTM(7, 9, coupled="input"),
    "gru": GRU(7, 17),
    "gru before": GRU(7, 20, reset_after=False),
    "rnn": RNN(7, 5),
}


def network(cell, fold_bytes, direction="bidirectional", layers=2, layout="batch_first", num_threads=1):
    spec = Spec(
        [Input("ids", "int64", ("B", "T") if layout == "batch_first" else ("T", "B"))],
        [
            Node("embed", "Embedding", "ids", {"input_size": 23, "output_size": 7}),
            Recurrent("rnn", cell, "embed", layers=layers, direction=direction, layout=layout),
        ],
        ["rnn", "rnn.h"],
    )
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal(s).astype(np.float32) / 4 for name, s in spec.weight_shapes().items()}
    return Model(spec, weights, num_threads=num_threads, fold_bytes=fold_bytes)


@pytest.mark.parametrize("layout", ["batch_first", "time_first"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits(cell, threads, layout):
    folded = network(CELLS[cell], 1 << 20, layout=layout, num_threads=threads)
    plain = network(CELLS[cell], 0, layout=layout)
    assert (folded._steps[1].table is not None) == NATIVE
    assert plain._steps[1].table is None
    rng = np.random.default_rng(6)
    for batch in (1, 5, 120):
        ids = rng.integers(0, 23, (batch, 11) if layout == "batch_first" else (11, batch))
        lengths = rng.integers(0, 12, batch)
        for given in ({"ids": ids}, {"ids": ids, "lengths": lengths}, {"ids": ids[::-1, ::-1]}):
            found, expected = folded.run(given), plain.run(given)
            for name in expected:
                assert found[name].tobytes() == expected[name].tobytes()


def test_budget():
    size = network(CELLS["lstm"], 0)._steps[1].table_bytes(23)
    table = network(CELLS["lstm"], size)._steps[1].table
    assert (0 if table is None else table.nbytes) == size
    assert (size > 0) == NATIVE
    assert network(CELLS["lstm"], size - 1)._steps[1].table is None


def test_not_folded_where_somebody_else_reads_it():
    spec = Spec(
        [Input("ids", "int64", ("B", "T"))],
        [
            Node("embed", "Embedding", "ids", {"input_size": 4, "output_size": 3}),
            Recurrent("rnn", RNN(3, 3), "embed"),
            Node("sum", "Add", ("rnn", "embed")),
        ],
        ["sum"],
    )
    weights = {name: np.full(shape, 0.1, np.float32) for name, shape in spec.weight_shapes().items()}
    model = Model(spec, weights)
    assert model._steps[1].table is None
    assert model(np.zeros((1, 2), int)).shape == (1, 2, 3)


@pytest.mark.parametrize("wrong", [-1, 23])
def test_ids_are_still_checked(wrong):
    ids = np.zeros((2, 3), int)
    ids[1, 2] = wrong
    with pytest.raises(InputError, match=rf"node 'embed' \(Embedding\): id {wrong} at \[1, 2\], expected 0 to 22"):
        network(CELLS["lstm"], 1 << 20)(ids)


@pytest.mark.parametrize("layout", ["batch_first", "time_first"])
@pytest.mark.parametrize("fold_bytes", [0, 1 << 20])
def test_ids_behind_the_length_are_not_read(fold_bytes, layout):
    model = network(CELLS["gru"], fold_bytes, layout=layout)
    ids = np.random.default_rng(2).integers(0, 23, (3, 5))
    lengths = np.array([5, 2, 0])
    padded = np.where(np.arange(5) < lengths[:, None], ids, -1)
    turn = np.transpose if layout == "time_first" else np.asarray
    found, expected = (model.run({"ids": turn(given), "lengths": lengths}) for given in (padded, ids))
    assert found["rnn"].tobytes() == expected["rnn"].tobytes()
    assert found["rnn.h"].tobytes() == expected["rnn.h"].tobytes()
