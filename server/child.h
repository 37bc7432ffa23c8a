/* Child: one process of our own binary with sockets at fixed descriptors; its end is told on the loop (pidfd).
 *
 * The child inherits nothing but standard streams and the descriptors given (3, 4, ...), has no signals blocked and
 * dies with us (it asks for that itself: PR_SET_PDEATHSIG). */
#ifndef SPILLWAY_SERVER_CHILD_H
#define SPILLWAY_SERVER_CHILD_H

#include <sys/types.h>

#include "base/err.h"
#include "server/loop.h"

enum { CHILD_MAX_FDS = 4 };

struct child {
    struct loop *loop;
    pid_t pid; /* 0: none */
    int pidfd;
    struct loop_watch *watch;
    void (*exited)(void *ctx, int status); /* status as waitpid gives it; the struct may be started again inside */
    void *ctx;
};

/* argv[0] is only a name: the program is /proc/self/exe; argv[1] is its command, which must take --log-level and --log-format. fds stay the caller's. */
MUST_USE int child_start(struct child *c, struct loop *l, char *const argv[], const int *fds, int n_fds,
                         void (*exited)(void *ctx, int status), void *ctx, struct err *e);
void child_kill(struct child *c); /* exited will be called; nothing if there is none */
/* Kills and waits for the end, without calling exited. Accepts a zeroed struct. */
void child_close(struct child *c);

#endif
