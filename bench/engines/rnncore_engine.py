"""rnncore, called as a user calls it: a NumPy array in, a NumPy array out."""

import rnncore
from rnncore.formats.torch.names import bind


def version() -> str:
    return rnncore.__version__


def prepare(shape, threads):
    cell = rnncore.cells.CELLS[shape.cell](shape.I, shape.H)
    direction = "bidirectional" if shape.bidirectional else "forward"
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", shape.I))],
        [rnncore.Recurrent("rnn", cell, "x", layers=shape.layers, direction=direction)],
        ["rnn"],
    )
    weights, x = shape.arrays()
    shape_lengths = shape.lengths
    model = rnncore.Model(
        spec, bind(spec, {f"rnn.{name}": array for name, array in weights.items()}).weights, num_threads=threads
    )
    if shape.ragged:
        return lambda: model(x, lengths=shape_lengths)
    return lambda: model(x)
