/* The tables of this build: see isa/isas.h. */
#include "../isa/isas.h"
#include "quantized.h"

#define DECLARED(name) extern const rnncore_quantized_isa rnncore_quantized_##name;
RNNCORE_EACH_ISA(DECLARED)

#define ENTRY(name) &rnncore_quantized_##name,
const rnncore_quantized_isa *const rnncore_quantized_isas[] = {RNNCORE_EACH_ISA(ENTRY) NULL};
