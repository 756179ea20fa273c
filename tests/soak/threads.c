/* What the kernels ask of OpenMP, on plain POSIX threads: ThreadSanitizer knows how those wait for each other, of
   libgomp (which is not compiled for it) it would report every hand-over as a race. Loaded by sanitized.py. */

#include <pthread.h>

#define MOST 64

typedef struct {
    void (*work)(void *);
    void *task;
    int thread, threads;
} Part;

static __thread int this_thread = 0, this_team = 1;

static void *run(void *argument) {
    const Part *part = argument;
    this_thread = part->thread, this_team = part->threads;
    part->work(part->task);
    this_thread = 0, this_team = 1;
    return 0;
}

int team_thread(void) { return this_thread; }
int team_threads(void) { return this_team; }

void team_parallel(void (*work)(void *), void *task, unsigned threads, unsigned flags) {
    (void)flags;
    pthread_t ids[MOST];
    Part parts[MOST];
    const int count = threads > MOST ? MOST : (int)threads;
    for (int i = 0; i < count; i++) parts[i] = (Part){work, task, i, count};
    for (int i = 1; i < count; i++)
        if (pthread_create(&ids[i], 0, run, &parts[i])) __builtin_trap();
    run(&parts[0]);
    for (int i = 1; i < count; i++) pthread_join(ids[i], 0);
}
