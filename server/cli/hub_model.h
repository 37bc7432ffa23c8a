/* Models of the hub on the command line: owner/name[@revision], found in the cache or downloaded into it, with progress on standard
 * error, by what the environment says (env.h). What is a folder here is never looked for there. */
#ifndef SPILLWAY_SERVER_CLI_HUB_MODEL_H
#define SPILLWAY_SERVER_CLI_HUB_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "server/cli/options.h"
#include "weights/hub.h"

/* Has the form of a repository's name, and there is no such path. */
bool hub_model_is(const char *arg);
/* Whether path is a snapshot of that repository: arg names it, and not a folder below somewhere that is called like one. */
bool hub_model_is_at(const char *arg, const char *path);
/* The snapshot in the cache, without the network. -ERR_NOT_FOUND says how to get it. */
MUST_USE int hub_model_cached(const char *arg, char *out, size_t n, struct err *e);
/* Downloads it as far as it is not there, whatever the cache has; with HF_HUB_OFFLINE, the snapshot in the cache. -ERR_CLOSING: by a
 * signal; what has come is kept. retries: of one request, in a row that bring nothing. */
MUST_USE int hub_model_pull(const char *arg, unsigned retries, char path[HUB_PATH_BYTES], struct err *e);
/* For a server's start: downloads those of its models that are of the hub and not in the cache; takes HF_TOKEN out of the environment in
 * any case. */
MUST_USE int hub_models_prepare(const struct options *o, struct err *e);

#endif
