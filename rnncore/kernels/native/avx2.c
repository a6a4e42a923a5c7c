/* AVX2 and FMA: 16 registers of 8 lanes. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define W 8
#define VECTORS 16
#define ISA rnncore_avx2
#define ISA_NAME "avx2"
#include "body.h"
#endif
