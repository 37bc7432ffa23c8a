/* Worker: the process that owns one model. `spillway worker MODEL` is started by the gateway with two descriptors:
 * - 3: the frame protocol's socket (engine/frame.h);
 * - 4, optional: a memfd of WORKER_SIGNS uint64 or more, sealed against shrinking: signs that are seen even when the worker hangs.
 *   A counter grows with every operation computed and every turn of the loop: a watchdog sees a hang by its standing still while there is
 *   work. And the critical event of its GPU, if there was one (kernels/xid.h), is written by a thread of its own (engine/device_watch.h).
 *
 * Both sides say hello first. The worker dies with its parent (PR_SET_PDEATHSIG), ignores SIGINT (a terminal sends it
 * to the gateway as well, which drains), and never blocks on the socket: a full queue ends it. */
#ifndef SPILLWAY_ENGINE_WORKER_H
#define SPILLWAY_ENGINE_WORKER_H

#include <stdint.h>

struct engine_options;
struct model;

enum worker_exit {
    WORKER_EXIT_OK = 0,        /* drained, or the gateway closed the socket */
    WORKER_EXIT_FAILED = 1,    /* the model cannot be opened, or its device was lost */
    WORKER_EXIT_PROTOCOL = 76, /* malformed frames, or a gateway that does not read */
    WORKER_EXIT_NO_ROOM = 78   /* the memory plan does not fit; worth trying again when memory is released */
};

enum { WORKER_SOCKET_FD = 3, WORKER_PROGRESS_FD = 4 };
enum worker_sign { WORKER_PROGRESS, WORKER_XID, WORKER_SIGNS };

/* Before anything else in the process: signals, parent's death. */
void worker_prepare(void);
/* Descriptor 4's signs (WORKER_SIGNS), or some of our own; the counter is the first. Never NULL. */
uint64_t *worker_progress_map(void);
/* Serves until drained or the socket closes; model and o (engine/engine.h; NULL: what engine_new takes) are borrowed. Returns the exit
 * code. */
int worker_serve(int sock, struct model *model, const struct engine_options *o, uint64_t *progress);

#endif
