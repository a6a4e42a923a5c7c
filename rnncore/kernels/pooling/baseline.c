/* What every CPU of the architecture has; on x86-64 that is SSE2, 4 lanes. */
#define W 4
#define ISA rnncore_pooling_baseline
#define ISA_NAME "baseline"
#define PICK(mask, a, b) ((vf)(((vi)(a) & (mask)) | ((vi)(b) & ~(mask))))
#define LARGER(a, b) PICK(((a) > (b)) | ((a) != (a)), a, b)
#include "body.h"
