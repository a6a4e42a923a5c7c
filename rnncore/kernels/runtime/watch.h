/* Looking, in the middle of long work, whether it was asked to end. */
#ifndef RNNCORE_WATCH_H
#define RNNCORE_WATCH_H

typedef struct {
    int (*look)(void); /* whether to stop; called now and then, by the thread that does the work */
    double between, left; /* work between two looks, in whatever unit; and until the next */
    int stopped;
} rnncore_watch;

/* Called after some work: whether to stop, and then every time. */
static inline int rnncore_worked(rnncore_watch *watch, double work) {
    watch->left -= work;
    if (watch->left < 0) {
        watch->left = watch->between;
        if (!watch->stopped) watch->stopped = watch->look();
    }
    return watch->stopped;
}

#endif
