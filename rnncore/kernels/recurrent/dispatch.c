/* The tables of this build: see isa/isas.h. */
#include "../isa/isas.h"
#include "recurrent.h"

#define DECLARED(name) extern const rnncore_isa rnncore_##name;
RNNCORE_EACH_ISA(DECLARED)

#define ENTRY(name) &rnncore_##name,
const rnncore_isa *const rnncore_isas[] = {RNNCORE_EACH_ISA(ENTRY) NULL};
