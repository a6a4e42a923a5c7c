/* One recurrent cell, packed for the time loop: sizes, options and pointers to its weights, which it does not own.
 *
 * Weights are in canonical order (rnncore/cells): gates in rows, C-contiguous, all of one dtype. Letters:
 * I input, H hidden, P output (the projection, or H), G gates. A pointer is NULL where the cell has no such weight. */
#ifndef RNNCORE_CELL_H
#define RNNCORE_CELL_H

#include "activations.h"

enum rnncore_kind { KIND_RNN, KIND_LSTM, KIND_GRU };
enum rnncore_coupled { COUPLED_NONE, COUPLED_INPUT, COUPLED_FORGET };
enum rnncore_layer_norm { LN_NONE, LN_TF1, LN_TFLITE };

typedef struct {
    int kind, coupled, layer_norm, reset_after;
    ptrdiff_t input_size, hidden_size, output_size, gates;
    double clip, cell_clip, proj_clip; /* INFINITY where there is none */
    double forget_bias, epsilon;
    rnncore_act act[5]; /* in the order of the cell's activation_places */
    const void *weight_ih;       /* (G*H, I) */
    const void *weight_hh;       /* (G*H, P) */
    const void *bias;            /* (G*H) */
    const void *bias_hn;         /* (H), GRU with reset_after */
    const void *peephole;        /* (H) per gate but g, in the order of the gates */
    const void *weight_hr;       /* (P, H) */
    const void *bias_hr;         /* (P) */
    const void *ln_weight;       /* (G*H) */
    const void *ln_cell_weight;  /* (H) */
    const void *ln_cell_bias;    /* (H) */
} rnncore_cell;

#define REAL float
#define NAME(name) name##_f32
#include "cell_body.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_f64
#include "cell_body.h"
#undef REAL
#undef NAME

#endif
