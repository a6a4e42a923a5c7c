/* Which tables there are; native/dispatch.c knows which of them can be run. */
#include "pooling.h"

extern const rnncore_pooling_isa rnncore_pooling_baseline;
#if defined(__x86_64__)
extern const rnncore_pooling_isa rnncore_pooling_avx512, rnncore_pooling_avx2;
#elif defined(__aarch64__)
extern const rnncore_pooling_isa rnncore_pooling_neon;
#endif

const rnncore_pooling_isa *const rnncore_pooling_isas[] = {
#if defined(__x86_64__)
    &rnncore_pooling_avx512,
    &rnncore_pooling_avx2,
#elif defined(__aarch64__)
    &rnncore_pooling_neon,
#endif
    &rnncore_pooling_baseline,
    NULL,
};
