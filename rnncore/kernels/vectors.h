/* Vectors of W float32 lanes, for the bodies of kernels, which define W. */
#ifndef RNNCORE_VECTORS_H
#define RNNCORE_VECTORS_H

#include <stdint.h>

typedef float vf __attribute__((vector_size(4 * W), may_alias));
typedef float vfu __attribute__((vector_size(4 * W), may_alias, aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * W), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

INLINE vf load(const float *p) { return (vf) * (const vfu *)p; }
INLINE void store(float *p, vf x) { *(vfu *)p = (vfu)x; }
INLINE vf splat(float x) { return x - (vf){}; }

/* Keeps the compiler from loading x again for each of its uses. */
#if defined(__x86_64__)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define IN_REGISTER(x) __asm__("" : "+w"(x))
#else
#define IN_REGISTER(x) ((void)0)
#endif

#endif
