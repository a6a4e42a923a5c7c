/* The tables of this build: see isa/isas.h. */
#include "../isa/isas.h"
#include "pooling.h"

#define DECLARED(name) extern const rnncore_pooling_isa rnncore_pooling_##name;
RNNCORE_EACH_ISA(DECLARED)

#define ENTRY(name) &rnncore_pooling_##name,
const rnncore_pooling_isa *const rnncore_pooling_isas[] = {RNNCORE_EACH_ISA(ENTRY) NULL};
