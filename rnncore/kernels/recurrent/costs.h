/* What the work of recurrent layers costs, and from which sizes on something pays. Work is counted in multiply-adds. */
#ifndef RNNCORE_COSTS_H
#define RNNCORE_COSTS_H

#include <stddef.h>

/* Weights of up to this many bytes stay in a near cache; larger ones come from far away. */
#define LARGEST_NEAR ((ptrdiff_t)(6 << 20))

/* Rows of input that one product takes at least, where the sequences have them: enough to reuse the weights from
 * cache, few enough that the chunk's pre-activations stay there too. More where the weights come from far away; of a
 * single row not quite that many. */
#define CHUNK_ROWS ((ptrdiff_t)48)
#define FAR_CHUNK_ROWS ((ptrdiff_t)192)
#define FAR_CHUNK_OF_ONE ((ptrdiff_t)96)

/* Multiply-adds between two looks at pending signals: a few milliseconds' work. What a step of a row, and where no
 * fused kernel finishes it each of its pre-activations, costs besides its own, as a number of them. */
#define WORK_BETWEEN_SIGNALS 2e8
#define WORK_OF_A_STEP 1e3
#define WORK_OF_AN_ACTIVATION 500.0

/* A step is shared by panels where every thread gets at least this many multiply-adds out of it: meeting costs about
 * 0.2 microseconds, in which one thread makes some 15,000. */
#define STEP_WORTH_SHARING 12e3

/* The next rows' input product is made during the steps of a single row where a thread's recurrent weights are more
 * than the first cache keeps of them from one step to the next, and all threads' together are near: what comes in
 * from far away is held up by another stream of weights. */
#define LEAST_PIPELINED ((ptrdiff_t)(56 << 10))

/* A pipelined product takes one vector of a panel at a visit. Input weights of more bytes than this come out of the
 * last cache, which is quick only where those of a vector are contiguous. A call of one step takes all
 * vectors, and is a little quicker where they are one stream. */
#define LARGEST_TOGETHER ((ptrdiff_t)(1 << 20))

/* Layers run in a wavefront where a layer's recurrent weights fit the cache of one core; a layer then waits for this many
 * steps of the one before, which are enough to make one product of. */
#define LARGEST_WAVEFRONT ((ptrdiff_t)(1 << 20))
#define WAVEFRONT_STEPS ((ptrdiff_t)8)

/* Bytes of the outputs of all their layers, which are kept where two layers' would do otherwise. */
#define LARGEST_BETWEEN ((size_t)(64 << 20))

/* What a meeting costs, in multiply-adds. */
#define WORK_OF_A_MEETING 15e3

/* Nanoseconds of a multiply-add at most: where its weight comes out of main memory. */
#define SLOWEST_MULTIPLY_ADD 0.1

/* Rows are shared where every thread gets at least this many: what a register tile holds. */
#define ROWS_WORTH_SHARING ((ptrdiff_t)6)

/* Rows that run together at most: their pre-activations stay in cache, and memory does not grow with the batch. */
#define BLOCK_ROWS ((ptrdiff_t)96)

/* Below this many multiply-adds, a few microseconds, a call keeps the GIL: giving it away and getting it back costs
 * more. */
#define WORK_WITH_GIL 200e3

/* A call is shared where it has at least this many multiply-adds: waking a thread costs some microseconds. */
#define CALL_WORTH_SHARING 400e3

#endif
