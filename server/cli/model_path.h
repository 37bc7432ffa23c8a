/* Where a MODEL argument is. A folder is taken as it is; `demo` is the built-in model, looked for beside the program; what is no path
 * and has the form owner/name[@revision] is a model of the hub, looked for in its cache (hub_model.h downloads). */
#ifndef SPILLWAY_SERVER_CLI_MODEL_PATH_H
#define SPILLWAY_SERVER_CLI_MODEL_PATH_H

#include <stddef.h>

#include "base/err.h"

/* `demo`: where data_path.h finds it. A folder named demo is reached as ./demo. Errors: -ERR_NOT_FOUND (no such
 * folder, or no config.json in it), -ERR_LIMIT (the path is longer than out). */
MUST_USE int model_path_find(const char *model, char *out, size_t n, struct err *e);
/* The model's id: the last component of the path, `demo` for demo, owner/name[@revision] as it was given. Borrows from either text; the
 * path has no trailing slash. */
const char *model_path_id(const char *model, const char *path);

#endif
