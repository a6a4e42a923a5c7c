/* The instruction sets that kernels are built for, best first: RNNCORE_EACH_ISA(entry) is entry(name) for each, and
 * isa/NAME.h has its vectors. All that this architecture has, unless setup.py names some of them (RNNCORE_ISAS). Every
 * table of kernels has one entry for each, in this order, so that a number names an instruction set in all of them. */
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

/* Whether this CPU and operating system can run it. */
#define HAS(feature) __builtin_cpu_supports(feature)
#define USABLE_avx512 (HAS("avx512f") && HAS("avx512dq") && HAS("avx512bw") && HAS("avx512vl") && HAS("fma"))
#define USABLE_avx2 (HAS("avx2") && HAS("fma"))
#define USABLE_neon 1
#define USABLE_baseline 1

/* Their names, ended by NULL; and whether that of this name is usable. */
extern const char *const rnncore_isa_names[];
int rnncore_isa_usable(const char *name);

#endif
