# cython: language_level=3
"""cell.h: one recurrent cell as the time loops know it, and what it does after the products."""

cdef extern from "cell.h":
    ctypedef struct rnncore_act:
        int id
        double alpha
        double beta

    ctypedef struct rnncore_cell:
        int kind, coupled, layer_norm, reset_after
        Py_ssize_t input_size, hidden_size, output_size, gates
        double clip, cell_clip, proj_clip, forget_bias, epsilon
        rnncore_act act[5]
        const void* weight_ih
        const void* weight_hh
        const void* bias
        const void* bias_hn
        const void* peephole
        const void* weight_hr
        const void* bias_hr
        const void* ln_weight
        const void* ln_cell_weight
        const void* ln_cell_bias

    ctypedef struct rnncore_cell_facts:
        const char* name
        int gates, states, activations

    const rnncore_cell_facts* rnncore_cells
    int KIND_COUNT, KIND_RNN, KIND_LSTM, KIND_GRU
    int COUPLED_NONE, COUPLED_INPUT, COUPLED_FORGET
    int LN_NONE, LN_TF1, LN_TFLITE
    int ACT_COUNT, ACT_relu
    const char** rnncore_activation_names

    void act_f32(const rnncore_act* f, Py_ssize_t n, float* x) noexcept nogil
    void act_f64(const rnncore_act* f, Py_ssize_t n, double* x) noexcept nogil
    void clip_f32(Py_ssize_t n, float* x, double limit) noexcept nogil
    void clip_f64(Py_ssize_t n, double* x, double limit) noexcept nogil
    void rnn_point_f32(const rnncore_cell* cell, float* z, float* h) noexcept nogil
    void rnn_point_f64(const rnncore_cell* cell, double* z, double* h) noexcept nogil
    void lstm_point_f32(const rnncore_cell* cell, float* z, float* c, float* out) noexcept nogil
    void lstm_point_f64(const rnncore_cell* cell, double* z, double* c, double* out) noexcept nogil
    void gru_gates_f32(const rnncore_cell* cell, float* z, const float* h, float* rh) noexcept nogil
    void gru_gates_f64(const rnncore_cell* cell, double* z, const double* h, double* rh) noexcept nogil
    void gru_point_f32(const rnncore_cell* cell, float* z, const float* hn, float* h) noexcept nogil
    void gru_point_f64(const rnncore_cell* cell, double* z, const double* hn, double* h) noexcept nogil
