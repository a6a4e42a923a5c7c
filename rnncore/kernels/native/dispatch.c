/* Which tables there are, and which of them this CPU and operating system can run. */
#include "native.h"

extern const rnncore_isa rnncore_baseline;
#if defined(__x86_64__)
extern const rnncore_isa rnncore_avx512, rnncore_avx2;
#elif defined(__aarch64__)
extern const rnncore_isa rnncore_neon;
#endif

const rnncore_isa *const rnncore_isas[] = {
#if defined(__x86_64__)
    &rnncore_avx512,
    &rnncore_avx2,
#elif defined(__aarch64__)
    &rnncore_neon,
#endif
    &rnncore_baseline,
    NULL,
};

int rnncore_isa_usable(const rnncore_isa *isa) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* asks the CPU and, for the wide registers, the operating system */
    if (isa == &rnncore_avx512) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    }
    if (isa == &rnncore_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)isa;
    return 1;
}
