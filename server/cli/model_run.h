/* Model run: opens the model a command names, by its options (--random-weights, --device, --compute, --threads). */
#ifndef SPILLWAY_SERVER_CLI_MODEL_RUN_H
#define SPILLWAY_SERVER_CLI_MODEL_RUN_H

#include "engine/model.h"
#include "server/cli/options.h"

/* dir: NULL with --random-weights. kv_tokens: what the KV cache must hold, 0: the model's own measure. */
MUST_USE int model_run_open(struct model **out, const char *dir, const struct options *o, enum compute auto_compute, uint64_t kv_tokens,
                            volatile uint64_t *progress, struct err *e);
/* The one MODEL of a command, or none with --random-weights (*dir is then NULL). -ERR_INPUT is a usage error. */
MUST_USE int model_run_dir(const struct options *o, char *path, size_t n, const char **dir, struct err *e);

#endif
