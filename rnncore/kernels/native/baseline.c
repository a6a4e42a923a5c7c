/* What every CPU of the architecture has; on x86-64 that is SSE2, 16 registers of 4 lanes without FMA. */
#define W 4
#define VECTORS 16
#define ISA rnncore_baseline
#define ISA_NAME "baseline"
#include "body.h"
