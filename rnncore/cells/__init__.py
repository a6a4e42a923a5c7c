"""The recurrent cells, one file each: equations, shapes, canonical gate order, float64 step, options.

    cells/base.py         what every cell is
    cells/activations.py  activation functions by name
    cells/rnn.py          Elman RNN
    cells/lstm.py         LSTM: peepholes, coupled gates, projection, clipping, layer normalisation
    cells/gru.py          GRU, reset before or after

A new cell is one file and one line in CELLS.
"""

from rnncore.cells.activations import ACTIVATIONS, Activation
from rnncore.cells.base import Cell
from rnncore.cells.gru import GRU
from rnncore.cells.lstm import LSTM
from rnncore.cells.rnn import RNN

__all__ = ["ACTIVATIONS", "CELLS", "GRU", "LSTM", "RNN", "Activation", "Cell"]

CELLS: dict[str, type[Cell]] = {cell.kind: cell for cell in (RNN, LSTM, GRU)}
