/* AVX2 and FMA: 16 registers of 8 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#define ISA(prefix) prefix##avx2
#define ISA_NAME "avx2"
#define W 8
#define VECTORS 16
#define MAX(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define FMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGER(a, b)                                                                                                  \
    ((vf)_mm256_blendv_ps(_mm256_max_ps((__m256)(a), (__m256)(b)), (__m256)(a),                                       \
                          _mm256_cmp_ps((__m256)(a), (__m256)(a), _CMP_UNORD_Q)))
#endif
