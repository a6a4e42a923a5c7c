/* The instruction sets of the tables, best first: RNNCORE_EACH_ISA(entry) is entry(name) for each. All that this
 * architecture has, where setup.py does not name some of them (RNNCORE_ISAS). */
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

#endif
