/* The instruction sets of this build, and those that this CPU and operating system can run. */
#include "../isa/isas.h"

#include <string.h>

#define NAME(name) #name,
const char *const rnncore_isa_names[] = {RNNCORE_EACH_ISA(NAME) 0};

int rnncore_isa_usable(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* asks the CPU and, for the wide registers, the operating system */
#endif
#define ANSWER(isa)                                                                                                   \
    if (!strcmp(name, #isa)) return USABLE_##isa;
    RNNCORE_EACH_ISA(ANSWER)
    return 0;
}
