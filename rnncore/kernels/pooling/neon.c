/* NEON: 4 lanes, part of every 64-bit ARM. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define W 4
#define ISA rnncore_pooling_neon
#define ISA_NAME "neon"
#define LARGER(a, b) ((vf)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#include "body.h"
#endif
