"""The recurrent cells, one file each: equations, shapes, canonical gate order, float64 step, options.

    cells/base.py         what every cell is
    cells/activations.py  activation functions by name
    cells/registry.py     the cells that Specs and files may name
    cells/rnn.py          Elman RNN
    cells/lstm.py         LSTM: peepholes, coupled gates, projection, clipping, layer normalisation
    cells/gru.py          GRU, reset before or after

A new cell is a class with @register in one file, and one import here (or in a program of one's own). Kernels that know
it (kernels/cell.h) run it; elsewhere its own ``step`` does, wherever a recurrent layer may be.
"""

from rnncore.cells.activations import ACTIVATIONS, Activation
from rnncore.cells.base import Cell
from rnncore.cells.gru import GRU
from rnncore.cells.lstm import LSTM
from rnncore.cells.registry import CELLS, check_cell, register
from rnncore.cells.rnn import RNN

__all__ = ["ACTIVATIONS", "CELLS", "GRU", "LSTM", "RNN", "Activation", "Cell", "check_cell", "register"]
