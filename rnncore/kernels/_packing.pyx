# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Packing the weights of a cell, float32, into panels for the instruction set in use (recurrent/recurrent.h).

Cells with options that the fused steps do not cover (layer norm, other activations) get plain panels of one vector,
and their rows are finished with cell.h.
"""

import numpy as np

from libc.math cimport INFINITY
from libc.string cimport memset

cimport numpy as cnp

from rnncore.kernels._blas_loop cimport set_options
from rnncore.kernels._cell cimport COUPLED_NONE, ACT_relu, rnncore_cell, rnncore_cells
from rnncore.kernels._checks cimport refuse
from rnncore.kernels._costs cimport LARGEST_TOGETHER
from rnncore.kernels._runtime cimport isa_number

from rnncore.kernels._blas_loop import check_cell

cnp.import_array()


cdef extern from "recurrent/recurrent.h":
    const rnncore_isa** rnncore_isas


cdef const rnncore_isa* kernels_in_use() noexcept nogil:
    return rnncore_isas[isa_number()]


cdef class PackedCell:
    """One direction of one layer, packed for the instruction set in use. Float32.

    kind, options and weights as for rnncore.kernels._blas_loop.BlasCell; weights are copied into panels.
    """

    def __cinit__(self, str kind not None, dict options not None, dict weights not None):
        cdef CellPlan* plan = &self.plan
        cdef rnncore_cell* cell = &plan.cell
        memset(plan, 0, sizeof(CellPlan))
        check_cell(kind, options, weights, np.float32)
        self.owned = []
        plan.isa = kernels_in_use()
        set_options(cell, kind, options)
        self.has_c = rnncore_cells[cell.kind].states == 2
        self.pack(kind, options, weights)

    cdef pack(self, str kind, dict options, dict weights):
        cdef CellPlan* plan = &self.plan
        cdef rnncore_cell* cell = &plan.cell
        cdef const rnncore_isa* isa = plan.isa
        H, G, W = options["hidden_size"], options["gates"], isa.width
        P = options["output_size"]
        fused = is_fused(kind, options)
        bias = weights.get("bias")
        if bias is None or options.get("layer_norm") is not None:
            bias = np.zeros(G * H, np.float32)
        plan.c_stride = padded(H, W)
        plan.h_stride = padded(P, W)
        plan.V, plan.separate = G if fused else 1, 1
        if fused:
            if kind == "GRU" and not cell.reset_after:
                plan.step, plan.second = isa.reset_step, isa.candidate_step
                self.panels(&plan.w_hh, weights["weight_hh"][: 2 * H], 2)
                self.panels(&plan.w_n, weights["weight_hh"][2 * H :], 1)
            else:
                plain = cell.clip == INFINITY and cell.cell_clip == INFINITY and cell.forget_bias == 0
                plain = plain and "peephole" not in weights
                if kind == "RNN":
                    plan.step, plan.pipelined_step = isa.rnn_step, isa.rnn_pipelined
                elif kind == "GRU" and plain:
                    plan.step, plan.pipelined_step = isa.gru_plain_step, isa.gru_plain_pipelined
                elif kind == "GRU":
                    plan.step, plan.pipelined_step = isa.gru_step, isa.gru_pipelined
                elif cell.coupled != COUPLED_NONE:
                    plan.step, plan.pipelined_step = isa.coupled_step, isa.coupled_pipelined
                elif plain:
                    plan.step, plan.pipelined_step = isa.lstm_plain_step, isa.lstm_plain_pipelined
                else:
                    plan.step, plan.pipelined_step = isa.lstm_step, isa.lstm_pipelined
                if "weight_hr" in weights:
                    plan.pipelined_step = NULL
                self.panels(&plan.w_hh, weights["weight_hh"], G)
            if plan.pipelined_step != NULL and weights["weight_ih"].size * sizeof(float) > LARGEST_TOGETHER:
                plan.separate = G
            pack_panels(&plan.w_ih, weights["weight_ih"], G, self.owned, plan.separate > 1)
            plan.bias = self.vector(units(bias, G, W))
            plan.z_stride = G * padded(H, W)
        else:
            rows = 2 * H if kind == "GRU" else G * H
            self.panels(&plan.w_ih, weights["weight_ih"][:rows], 1)
            self.panels(&plan.w_hh, weights["weight_hh"][:rows], 1)
            plan.bias = self.vector(units(bias[:rows], 1, W))
            plan.z_stride = padded(rows, W)
            if kind == "GRU":
                self.panels(&plan.w_in, weights["weight_ih"][rows:], 1)
                self.panels(&plan.w_n, weights["weight_hh"][rows:], 1)
                plan.bias = self.vector(np.concatenate((units(bias[:rows], 1, W), units(bias[rows:], 1, W))))
                plan.z_n = plan.z_stride
                plan.z_stride += padded(H, W)
            cell.bias = self.optional(weights.get("bias"))
            cell.peephole = self.optional(weights.get("peephole"))
            cell.ln_weight = self.optional(weights.get("ln_weight"))
            cell.ln_cell_weight = self.optional(weights.get("ln_cell_weight"))
            cell.ln_cell_bias = self.optional(weights.get("ln_cell_bias"))
        plan.point.clip = cell.clip
        plan.point.cell_clip = cell.cell_clip
        plan.point.forget_bias = cell.forget_bias
        plan.point.relu = cell.act[0].id == ACT_relu
        plan.point.coupled = cell.coupled
        if kind == "GRU":
            hn = weights.get("bias_hn")
            plan.point.bias_hn = self.vector(units(np.zeros(H, np.float32) if hn is None else hn, 1, W))
        if fused and "peephole" in weights:
            plan.point.peephole = self.vector(units(weights["peephole"], G - 1, W))
        if "weight_hr" in weights:
            self.panels(&plan.w_hr, weights["weight_hr"], 1)
            bias_hr = weights.get("bias_hr")
            plan.bias_hr = self.vector(units(np.zeros(P, np.float32) if bias_hr is None else bias_hr, 1, W))

    cdef panels(self, rnncore_panels* target, matrix, int V):
        pack_panels(target, matrix, V, self.owned)

    cdef const float* vector(self, array) except NULL:
        return aligned_copy(array, self.owned)

    cdef const void* optional(self, array) except? NULL:
        if array is None:
            return NULL
        return self.vector(array)

    def unpack(self, str key not None):
        """A copy of the matrix "weight_ih", "weight_hh" or "weight_hr", to the bit what was packed."""
        cdef CellPlan* plan = &self.plan
        cdef Py_ssize_t rows = plan.cell.gates * plan.cell.hidden_size
        cdef bint separate = plan.w_n.data != NULL  # the candidate's rows of R have panels of their own
        if key not in self.packed:
            refuse(f"{key!r}, expected one of {', '.join(self.packed)}")
        if key == "weight_hr":
            return unpack_panels(&plan.w_hr, plan.cell.output_size, plan.isa.width)
        if key == "weight_ih":
            if plan.separate > 1:
                return unpack_panels(&plan.w_ih, rows, plan.isa.width, plan.separate)
            return self.joined(&plan.w_ih, &plan.w_in, rows, plan.w_in.data != NULL)
        return self.joined(&plan.w_hh, &plan.w_n, rows, separate)

    cdef joined(self, const rnncore_panels* gates, const rnncore_panels* candidate, Py_ssize_t rows, bint separate):
        cdef Py_ssize_t H = self.plan.cell.hidden_size, W = self.plan.isa.width
        if not separate:
            return unpack_panels(gates, rows, W)
        return np.concatenate((unpack_panels(gates, rows - H, W), unpack_panels(candidate, H, W)))

    @property
    def packed(self):
        """Names of the matrices that unpack gives back."""
        return ("weight_ih", "weight_hh") if self.plan.w_hr.data == NULL else ("weight_ih", "weight_hh", "weight_hr")

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return sum(array.nbytes for array in self.owned)


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t W):
    """n rounded up to whole panels."""
    return (n + W - 1) // W * W


cdef pack_panels(rnncore_panels* target, matrix, int V, list owned, bint separate=False):
    """Pack (V * N, K) into [ceil(N / W)][K][V][W], for the instruction set in use.

    separate: into [ceil(N / W)][V][K][W], V times as many panels of one vector.
    """
    W = kernels_in_use().width
    N, K = len(matrix) // V, matrix.shape[1]
    count = -(-N // W)
    wide = np.zeros((V, count * W, K), np.float32)
    wide[:, :N] = matrix.reshape(V, N, K)
    order = (1, 0, 3, 2) if separate else (1, 3, 0, 2)
    target.data = aligned_copy(wide.reshape(V, count, W, K).transpose(order), owned)
    target.panels = count * V if separate else count
    target.K = K
    target.V = 1 if separate else V


cdef unpack_panels(const rnncore_panels* panels, Py_ssize_t rows, Py_ssize_t W, int separate=1):
    """The (rows, K) matrix that pack_panels was given, a copy; separate: its V if vectors have panels of their own."""
    cdef cnp.npy_intp[5] shape
    cdef int V = panels.V * separate
    shape[0], shape[1], shape[2], shape[3], shape[4] = panels.panels // separate, separate, panels.K, panels.V, W
    packed = cnp.PyArray_SimpleNewFromData(5, shape, cnp.NPY_FLOAT32, <void*> panels.data)
    wide = packed.transpose(1, 3, 0, 4, 2).reshape(V, panels.panels // separate * W, panels.K)
    return np.array(wide[:, : rows // V].reshape(rows, panels.K))


cdef const float* aligned_copy(array, list owned) except NULL:
    """A copy aligned to 64 bytes, kept alive by the list."""
    cdef cnp.ndarray copy
    space = np.empty(array.size + 16, np.float32)
    skip = (-space.ctypes.data % 64) // 4
    copy = space[skip : skip + array.size]
    copy.reshape(array.shape)[...] = array
    owned.append(copy)
    return <const float*> cnp.PyArray_DATA(copy)


cdef units(vector, int V, int W):
    """A vector of V gates of N units in panel order: [ceil(N / W)][V][W], padded with zeros."""
    N = len(vector) // V
    count = -(-N // W)
    wide = np.zeros((V, count * W), np.float32)
    wide[:, :N] = vector.reshape(V, N)
    return wide.reshape(V, count, W).transpose(1, 0, 2)


def is_fused(str kind, dict options):
    """Whether the fused kernels cover these options; the others finish their rows with cell.h."""
    names = options["activation_names"]
    if kind == "RNN":
        return names[0] in ("tanh", "relu")
    if kind == "GRU":
        return names == ["sigmoid", "sigmoid", "tanh"]
    return names == ["sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"] and options["layer_norm"] is None
