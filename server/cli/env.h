/* Environment: the only place that reads environment variables. Everything else is told by options. */
#ifndef SPILLWAY_SERVER_CLI_ENV_H
#define SPILLWAY_SERVER_CLI_ENV_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum { ENV_PATH_BYTES = 4096, ENV_TOKEN_BYTES = 512 };

/* $XDG_DATA_HOME/spillway, else $HOME/.local/share/spillway. -ERR_INPUT if neither is set or the path is too long. */
MUST_USE int env_data_dir(char *out, size_t n, struct err *e);
/* Copies $SPILLWAY_API_KEY (cut at n - 1 bytes) and takes it out of the environment, so that neither our children nor /proc have it.
 * false if it is unset or empty. */
bool env_take_api_key(char *out, size_t n);

/* The same of a provider's key: any variable, named by the provider's row or the configuration. */
bool env_take_provider_key(const char *name, char *out, size_t n);

/* NO_COLOR is set and not empty (no-color.org). */
bool env_no_color(void);
/* TERM names a terminal that can move its cursor: set, and not "dumb". */
bool env_terminal_moves(void);
/* HOME, NULL if unset. */
const char *env_home(void);
/* Where short-lived private files go: XDG_RUNTIME_DIR, else TMPDIR, else /tmp. */
const char *env_runtime_dir(void);
/* systemd's socket activation: how many listening sockets were handed to this very process, descriptors from 3 on ($LISTEN_FDS, if $LISTEN_PID
 * is us); 0: none. Takes both out of the environment, as our children have no such sockets. */
int env_take_listen_fds(void);

/* The hub's own variables, as huggingface_hub reads them. */
/* $HF_HUB_CACHE, else $HF_HOME/hub, else ($XDG_CACHE_HOME, else $HOME/.cache)/huggingface/hub; "~/" is $HOME/. */
MUST_USE int env_hub_cache(char out[ENV_PATH_BYTES], struct err *e);
/* $HF_ENDPOINT, else https://huggingface.co. */
const char *env_hub_endpoint(void);
/* HF_HUB_OFFLINE is 1, on, yes or true. */
bool env_hub_offline(void);
/* $HF_TOKEN, else what is in the file $HF_TOKEN_PATH, else in $HF_HOME/token; blanks around it are cut off. "": there is none. The
 * variable is taken out of the environment, so that neither our children nor /proc have it. */
MUST_USE int env_take_hub_token(char out[ENV_TOKEN_BYTES], struct err *e);
void env_drop_hub_token(void); /* only the latter */
/* $SSL_CERT_FILE: the authorities that are trusted in place of the system's; NULL: none. */
const char *env_ca_file(void);

#endif
