/* One recurrent cell, packed for the time loop: sizes, options and pointers to its weights, which it does not own.
 *
 * Weights are in canonical order (rnncore/cells): gates in rows, C-contiguous, all of one dtype. Letters:
 * I input, H hidden, P output (the projection, or H), G gates. A pointer is NULL where the cell has no such weight. */
#ifndef RNNCORE_CELL_H
#define RNNCORE_CELL_H

#include "activations.h"

/* The cells with kernels: name, gates (one less where coupled), states, activations. The enum, the table that Python
 * reads and what the loops ask of a cell follow this list; cells that are not in it run on their own step. */
#define RNNCORE_CELLS(X) X(RNN, 1, 1, 1) X(LSTM, 4, 2, 5) X(GRU, 3, 1, 3)

#define RNNCORE_AS_ENUM(name, gates, states, activations) KIND_##name,
enum rnncore_kind { RNNCORE_CELLS(RNNCORE_AS_ENUM) KIND_COUNT };
#undef RNNCORE_AS_ENUM

typedef struct {
    const char *name;
    int gates, states, activations;
} rnncore_cell_facts;

#define RNNCORE_AS_FACTS(name, gates, states, activations) {#name, gates, states, activations},
static const rnncore_cell_facts rnncore_cells[] = {RNNCORE_CELLS(RNNCORE_AS_FACTS)};
#undef RNNCORE_AS_FACTS

enum rnncore_coupled { COUPLED_NONE, COUPLED_INPUT, COUPLED_FORGET };
enum rnncore_layer_norm { LN_NONE, LN_TF1, LN_TFLITE };

typedef struct {
    int kind, coupled, layer_norm, reset_after;
    ptrdiff_t input_size, hidden_size, output_size, gates;
    double clip, cell_clip, proj_clip; /* INFINITY without a limit */
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
