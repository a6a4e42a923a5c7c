/* Which tables there are; native/dispatch.c knows which of them can be run. */
#include "convolution.h"

extern const rnncore_convolution_isa rnncore_convolution_baseline;
#if defined(__x86_64__)
extern const rnncore_convolution_isa rnncore_convolution_avx512, rnncore_convolution_avx2;
#elif defined(__aarch64__)
extern const rnncore_convolution_isa rnncore_convolution_neon;
#endif

const rnncore_convolution_isa *const rnncore_convolution_isas[] = {
#if defined(__x86_64__)
    &rnncore_convolution_avx512,
    &rnncore_convolution_avx2,
#elif defined(__aarch64__)
    &rnncore_convolution_neon,
#endif
    &rnncore_convolution_baseline,
    NULL,
};
