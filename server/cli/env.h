/* Environment: the only place that reads environment variables. Everything else is told by options. */
#ifndef SPILLWAY_SERVER_CLI_ENV_H
#define SPILLWAY_SERVER_CLI_ENV_H

#include <stddef.h>

#include "base/err.h"

/* $XDG_DATA_HOME/spillway, else $HOME/.local/share/spillway. -ERR_INPUT if neither is set or the path is too long. */
MUST_USE int env_data_dir(char *out, size_t n, struct err *e);
/* $SPILLWAY_API_KEY, NULL if unset or empty. */
const char *env_api_key(void);

#endif
