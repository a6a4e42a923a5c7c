/* The instruction sets that kernels are built for, best first: RNNCORE_EACH_ISA(entry) is entry(name) for each. All that
 * this architecture has, where setup.py does not name some of them (RNNCORE_ISAS). Every table of kernels has one entry
 * for each, in this order, so that a number names an instruction set in all of them. */
#ifndef RNNCORE_ISAS_H
#define RNNCORE_ISAS_H

#if defined(RNNCORE_EACH_ISA)
#elif defined(__x86_64__)
#define RNNCORE_EACH_ISA(entry) entry(avx512) entry(avx2) entry(baseline)
#elif defined(__aarch64__)
#define RNNCORE_EACH_ISA(entry) entry(neon) entry(baseline)
#else
#define RNNCORE_EACH_ISA(entry) entry(baseline)
#endif

/* Their names, ended by NULL; and whether this CPU and operating system can run the one of that name. */
extern const char *const rnncore_isa_names[];
int rnncore_isa_usable(const char *name);

#endif
