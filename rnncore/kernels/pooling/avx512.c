/* AVX-512: 16 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#include <immintrin.h>
#define W 16
#define ISA rnncore_pooling_avx512
#define ISA_NAME "avx512"
#define LARGER(a, b)                                                                                                  \
    ((vf)_mm512_mask_mov_ps(_mm512_max_ps((__m512)(a), (__m512)(b)),                                                  \
                            _mm512_cmp_ps_mask((__m512)(a), (__m512)(a), _CMP_UNORD_Q), (__m512)(a)))
#include "body.h"
#endif
