# cython: language_level=3
"""The options of a cell, for the loop over BLAS and for packing."""

from rnncore.kernels._cell cimport rnncore_cell


# A cell of these options, which check_cell took, without weights.
cdef int set_options(rnncore_cell* cell, str kind, dict options) except -1
