/* AVX2: 8 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#define W 8
#define ISA rnncore_pooling_avx2
#define ISA_NAME "avx2"
#define LARGER(a, b)                                                                                                  \
    ((vf)_mm256_blendv_ps(_mm256_max_ps((__m256)(a), (__m256)(b)), (__m256)(a),                                       \
                          _mm256_cmp_ps((__m256)(a), (__m256)(a), _CMP_UNORD_Q)))
#include "body.h"
#endif
