/* AVX-512: 32 registers of 16 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#include <cpuid.h>
#include <immintrin.h>

/* Zen 4 (AMD's family 19h) does half a vector at a time: one multiply-add of 16 lanes a cycle, after four cycles. */
static int halves;
__attribute__((constructor)) static void find_halves(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx) return;
    if (__get_cpuid(1, &a, &b, &c, &d)) halves = (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}

/* AVX512-VNNI: sums of four products of bytes, in int32. */
static int quad_sums;
__attribute__((constructor)) static void find_quad_sums(void) { quad_sums = __builtin_cpu_supports("avx512vnni") != 0; }
#define HAS_QUAD_SUMS quad_sums
#define QUAD_SUMS(sums, bytes, weights) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(weights))
#define ISA(prefix) prefix##avx512
#define ISA_NAME "avx512"
#define W 16
#define VECTORS 32
#define FEW_CHAINS halves
#define MAX(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define FMA(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define PAIR_SUMS(a, b) ((vi)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#define BYTE_PAIR_SUMS(a, b) ((vh)_mm512_maddubs_epi16((__m512i)(a), (__m512i)(b)))
#define LARGER(a, b)                                                                                                  \
    ((vf)_mm512_mask_mov_ps(_mm512_max_ps((__m512)(a), (__m512)(b)),                                                  \
                            _mm512_cmp_ps_mask((__m512)(a), (__m512)(a), _CMP_UNORD_Q), (__m512)(a)))
#endif
