/* Which tables there are, and which of them this CPU and operating system can run. */
#include "isas.h"
#include "native.h"

#include <string.h>

#define DECLARED(name) extern const rnncore_isa rnncore_##name;
RNNCORE_EACH_ISA(DECLARED)

#define ENTRY(name) &rnncore_##name,
const rnncore_isa *const rnncore_isas[] = {RNNCORE_EACH_ISA(ENTRY) NULL};

int rnncore_isa_usable(const rnncore_isa *isa) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* asks the CPU and, for the wide registers, the operating system */
    if (!strcmp(isa->name, "avx512")) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    }
    if (!strcmp(isa->name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)isa;
    return 1;
}
