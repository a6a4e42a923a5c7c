/* NEON: 32 registers of 4 lanes, part of every 64-bit ARM. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define ISA(prefix) prefix##neon
#define ISA_NAME "neon"
#define W 4
#define VECTORS 32
/* bit selects rather than vmaxq, which does not return b for a NaN in b alone */
#define MAX(a, b) ((vf)vbslq_f32(vcgtq_f32((float32x4_t)(a), (float32x4_t)(b)), (float32x4_t)(a), (float32x4_t)(b)))
#define MIN(a, b) ((vf)vbslq_f32(vcltq_f32((float32x4_t)(a), (float32x4_t)(b)), (float32x4_t)(a), (float32x4_t)(b)))
#define FMA(a, b, c) ((vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define PAIR_SUMS(a, b)                                                                                               \
    ((vi)vpaddq_s32(vmull_s16(vget_low_s16((int16x8_t)(a)), vget_low_s16((int16x8_t)(b))),                            \
                    vmull_high_s16((int16x8_t)(a), (int16x8_t)(b))))
#define LARGER(a, b) ((vf)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#endif
