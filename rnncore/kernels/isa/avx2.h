/* AVX2 and FMA: 16 registers of 8 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include <cpuid.h>
#include <immintrin.h>

/* AVX-VNNI: sums of four products of bytes, in int32; for assemblers that know it. */
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
static int quad_sums;
__attribute__((constructor)) static void find_quad_sums(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) quad_sums = a >> 4 & 1;
}
#define HAS_QUAD_SUMS quad_sums
#define QUAD_SUMS(sums, bytes, weights) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(bytes), "x"(weights))
#endif

#define ISA(prefix) prefix##avx2
#define ISA_NAME "avx2"
#define W 8
#define VECTORS 16
#define MAX(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define FMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define PAIR_SUMS(a, b) ((vi)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define BYTE_PAIR_SUMS(a, b) ((vh)_mm256_maddubs_epi16((__m256i)(a), (__m256i)(b)))
#define LARGER(a, b)                                                                                                  \
    ((vf)_mm256_blendv_ps(_mm256_max_ps((__m256)(a), (__m256)(b)), (__m256)(a),                                       \
                          _mm256_cmp_ps((__m256)(a), (__m256)(a), _CMP_UNORD_Q)))
#endif
