/* The tables of this build: see isa/isas.h. */
#include "../isa/isas.h"
#include "convolution.h"

#define DECLARED(name) extern const rnncore_convolution_isa rnncore_convolution_##name;
RNNCORE_EACH_ISA(DECLARED)

#define ENTRY(name) &rnncore_convolution_##name,
const rnncore_convolution_isa *const rnncore_convolution_isas[] = {RNNCORE_EACH_ISA(ENTRY) NULL};
