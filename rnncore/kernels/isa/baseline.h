/* The instructions of every CPU of the architecture; on x86-64 that is SSE2, 16 registers of 4 lanes without FMA. */
#if defined(__x86_64__)
#include <emmintrin.h>
#define PAIR_SUMS(a, b) ((vi)_mm_madd_epi16((__m128i)(a), (__m128i)(b)))
#endif
#define ISA(prefix) prefix##baseline
#define ISA_NAME "baseline"
#define W 4
#define VECTORS 16
#define PICK(mask, a, b) ((vf)(((vi)(a) & (mask)) | ((vi)(b) & ~(mask))))
#define MAX(a, b) PICK((a) > (b), a, b)
#define MIN(a, b) PICK((a) < (b), a, b)
#define FMA(a, b, c) fused(a, b, c)
#define LARGER(a, b) PICK(((a) > (b)) | ((a) != (a)), a, b)
