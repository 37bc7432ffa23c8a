/* worker MODEL: the engine's process; see engine/worker.h for its descriptors and exit codes. */
#include "engine/worker.h"

#include <string.h>

#include "base/log.h"
#include "engine/device_watch.h"
#include "engine/engine.h"
#include "engine/frame.h"
#include "server/cli/command.h"
#include "server/cli/model_path.h"
#include "server/cli/model_run.h"

enum { LAST_LINES_MS = 500 };

/* The gateway tells it to whoever asked for the model. */
static void tell_failure(const struct err *why)
{
    struct err ignored;
    struct frame_failed f = {.err = *why};
    struct frame_conn *c;
    for (char *p = f.err.msg; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7F) *p = ' ';
    if (frame_conn_new(&c, WORKER_SOCKET_FD, FRAME_MAX_BYTES, &ignored)) return;
    if (frame_put_failed(frame_conn_out(c), &f) == 0) (void)!frame_conn_flush(c, &ignored);
    frame_conn_free(c);
}

int command_worker(const struct options *o)
{
    static char part[80];
    char path[4096];
    const char *dir;
    struct err e = {0};
    struct model *model = NULL;
    worker_prepare();
    int rc = model_run_dir(o, path, sizeof path, &dir, &e);
    const char *id = o->name ? o->name : dir ? model_path_id(o->args[0], path) : o->random_weights;
    snprintf(part, sizeof part, "worker %s", id ? id : "");
    command_log(o, part);
    log_start(); /* a reader of standard error that stands still must not look like a hang */
    uint64_t *signs = worker_progress_map(), *progress = &signs[WORKER_PROGRESS];
    if (!rc) rc = model_run_open(&model, dir, o, COMPUTE_BF16, (uint64_t)o->kv_tokens, progress, &e);
    if (rc) {
        log_error("%s", e.msg);
        tell_failure(&e);
        log_stop(LAST_LINES_MS);
        return rc == -ERR_MEMORY ? WORKER_EXIT_NO_ROOM : WORKER_EXIT_FAILED;
    }
    const struct model_limits *l = model_limits(model);
    log_info("%s: weights %.1f MB (%s), KV cache %.1f MB (%u blocks of %u tokens: %u sequences of 1,024), context %u", l->device,
             (double)l->weight_bytes / 1e6, l->weights, (double)l->kv_bytes / 1e6, l->n_blocks, l->block_tokens,
             l->n_blocks / (1024 / l->block_tokens), l->max_context);
    struct engine_options eo = {.shared_cache = strcmp(o->cache_scope, "shared") == 0,
                                .no_guesses = strcmp(o->speculation, "off") == 0,
                                .picture_cache_bytes = ENGINE_PICTURE_CACHE_BYTES};
    struct device_watch *watch = device_watch_start(l->bus_id, &signs[WORKER_XID]);
    int code = worker_serve(WORKER_SOCKET_FD, model, &eo, progress);
    device_watch_stop(watch);
    model_close(model);
    log_stop(LAST_LINES_MS);
    return code;
}
