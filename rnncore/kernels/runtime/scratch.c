#include "scratch.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

/* What is larger than this goes back to the system when the next call needs less. */
enum { KEEP = 16 << 20 };

typedef struct {
    void *memory;
    size_t size;
} kept;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *given) {
    free(((kept *)given)->memory);
    free(given);
}

static void create_key(void) { pthread_key_create(&key, release); }

void *rnncore_scratch(size_t size) {
    if (size > PTRDIFF_MAX - 4096) return NULL; /* what sizes.h makes of a size that does not fit, too */
    pthread_once(&once, create_key);
    kept *mine = pthread_getspecific(key);
    if (mine == NULL) {
        mine = calloc(1, sizeof *mine);
        if (mine == NULL || pthread_setspecific(key, mine)) return free(mine), NULL;
    }
    if (mine->size < size || (mine->size > KEEP && size <= KEEP)) {
        free(mine->memory);
        const size_t rounded = (size + 4095) / 4096 * 4096;
        mine->memory = aligned_alloc(4096, rounded);
        mine->size = mine->memory ? rounded : 0;
    }
    return mine->memory;
}

void *rnncore_set_scratch_aside(void) {
    pthread_once(&once, create_key);
    void *mine = pthread_getspecific(key);
    pthread_setspecific(key, NULL);
    return mine;
}

void rnncore_take_scratch_back(void *aside) {
    void *meanwhile = pthread_getspecific(key);
    if (meanwhile != NULL) release(meanwhile);
    pthread_setspecific(key, aside);
}
