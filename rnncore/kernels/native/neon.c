/* NEON: 32 registers of 4 lanes, part of every 64-bit ARM. */
#if defined(__aarch64__)
#define W 4
#define VECTORS 32
#define ISA rnncore_neon
#define ISA_NAME "neon"
#include "body.h"
#endif
