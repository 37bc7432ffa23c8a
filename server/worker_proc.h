/* Worker process, seen from the gateway: starts it, speaks the frame protocol with it, starts it again when it dies.
 *
 * Its death, a malformed frame or a full queue end every sequence in it with -ERR_GONE (down is called once for each)
 * and it is restarted (so does standing still while it has work: server/watchdog.h): at once the first time, then after 0.1 s doubling to 10 s,
 * until it has lived for a while. A critical event of its GPU (kernels/xid.h) ends it, too; for good, if only a reset of the device helps. All
 * calls on the loop's thread. Frames are hostile input here: rows for sequences never submitted end the worker. */
#ifndef SPILLWAY_SERVER_WORKER_PROC_H
#define SPILLWAY_SERVER_WORKER_PROC_H

#include <sys/types.h>

#include "engine/frame.h"
#include "server/limits.h"
#include "server/loop.h"

struct worker_proc;

enum { WORKER_MAX_ARGS = 48 };

struct worker_config {
    const char *path, *name;
    const char *const *args; /* of its command line besides: "--threads", "2", ...; all borrowed for good */
    size_t n_args;
    const char *gpu; /* the one of --gpus that is its; NULL: none was named. Borrowed for good */
    const struct limits *limits; /* for the watchdog; borrowed for good. NULL: defaults */
};

/* Embedded in whatever waits for tokens. */
struct worker_sequence {
    uint64_t id;          /* set by worker_submit; 0: not in the worker */
    uint32_t tokens_left; /* of those it asked for */
    struct worker_sequence *next;
    /* A row of a step, borrowed. If row->finish is set the sequence is out of the worker already. */
    void (*row)(struct worker_sequence *s, const struct frame_step_row *row);
    void (*down)(struct worker_sequence *s, const struct err *why);
};

/* ready: hello has come, borrowed. down: it ended; before the first ready it is not restarted. */
struct worker_events {
    void (*ready)(void *ctx, const struct frame_hello *hello);
    void (*down)(void *ctx, const struct err *why);
    void *ctx;
};

MUST_USE int worker_proc_new(struct worker_proc **out, struct loop *l, const struct worker_config *c, const struct worker_events *events,
                             struct err *e);
/* Kills it; sequences are told nothing. Accepts NULL. */
void worker_proc_free(struct worker_proc *w);
bool worker_is_ready(const struct worker_proc *w);
bool worker_is_moving(const struct worker_proc *w);                            /* ready, and not half way to being called hung */
const char *worker_lost(const struct worker_proc *w);                          /* why it is never started again; NULL: it is */
uint64_t worker_deaths(const struct worker_proc *w);                           /* how many times it has ended */
const struct frame_hello *worker_hello(const struct worker_proc *w);           /* of the last one that was ready */
const struct frame_prediction *worker_prediction(const struct worker_proc *w); /* the last one; zeros: none has come */
struct worker_info {
    const char *state; /* "ready", "starting", "down", "lost" */
    unsigned restarts, sequences;
    int64_t state_ms; /* since its process was started */
    int64_t still_ms; /* age of its last progress while it has work */
    pid_t pid;        /* 0: none */
};
struct worker_info worker_info(const struct worker_proc *w);
/* f->sequence is chosen here. Errors: -ERR_GONE (not ready), -ERR_BUSY, -ERR_LIMIT (does not fit a frame). f->fds are
 * dup-ed. */
MUST_USE int worker_submit(struct worker_proc *w, struct worker_sequence *s, struct frame_submit *f, struct err *e);
/* Nothing more is heard of the sequence; the worker ends it within two steps. */
void worker_cancel(struct worker_proc *w, struct worker_sequence *s);

#endif
