/* The floating-point mode inside a call.
 *
 * Subnormal results and operands count as zero from rnncore_flush_subnormals on, in this thread; it returns the mode
 * before, which rnncore_restore_subnormals takes. */
#ifndef RNNCORE_FLOATING_H
#define RNNCORE_FLOATING_H

#if defined(__x86_64__)
#include <xmmintrin.h>
static inline unsigned rnncore_flush_subnormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
}
static inline void rnncore_restore_subnormals(unsigned before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
static inline unsigned rnncore_flush_subnormals(void) {
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1ul << 24)));
    return (unsigned)before;
}
static inline void rnncore_restore_subnormals(unsigned before) {
    __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long)before));
}
#else
static inline unsigned rnncore_flush_subnormals(void) { return 0; }
static inline void rnncore_restore_subnormals(unsigned before) { (void)before; }
#endif

#endif
