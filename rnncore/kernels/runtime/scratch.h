/* Memory that a thread keeps from call to call. */
#ifndef RNNCORE_SCRATCH_H
#define RNNCORE_SCRATCH_H

#include <stddef.h>

/* At least ``size`` bytes, aligned to a cache line, valid until the thread asks again; NULL where there is no memory.
 * Contents are undefined. Freed when the thread ends. */
void *rnncore_scratch(size_t size);

/* What the thread has stays valid until it is taken back, and calls in between get memory of their own. */
void *rnncore_set_scratch_aside(void);
void rnncore_take_scratch_back(void *aside);

#endif
