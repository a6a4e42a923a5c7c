/* Which instruction sets this CPU and operating system can run. */
#include "isas.h"

#include <string.h>

#define NAME(name) #name,
const char *const rnncore_isa_names[] = {RNNCORE_EACH_ISA(NAME) 0};

int rnncore_isa_usable(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* asks the CPU and, for the wide registers, the operating system */
    if (!strcmp(name, "avx512")) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    }
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)name;
    return 1;
}
