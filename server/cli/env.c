/* Environment: see env.h. */
#include "server/cli/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/str.h"

static const char *env_get(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

int env_data_dir(char *out, size_t n, struct err *e)
{
    const char *xdg = env_get("XDG_DATA_HOME"), *home = env_get("HOME");
    if (!xdg && !home) return err_set(e, ERR_INPUT, "neither XDG_DATA_HOME nor HOME is set: give --data DIR");
    int len = xdg ? snprintf(out, n, "%s/spillway", xdg) : snprintf(out, n, "%s/.local/share/spillway", home);
    if (len < 0 || (size_t)len >= n) return err_set(e, ERR_INPUT, "the data directory's path is too long: give --data DIR");
    return 0;
}

static bool take(const char *name, char *out, size_t n)
{
    char *v = getenv(name);
    bool there = v && *v;
    if (there) {
        snprintf(out, n, "%s", v);
        explicit_bzero(v, strlen(v));
    }
    unsetenv(name);
    return there;
}

bool env_take_api_key(char *out, size_t n)
{
    return take("SPILLWAY_API_KEY", out, n);
}

bool env_take_provider_key(const char *name, char *out, size_t n)
{
    return take(name, out, n);
}

bool env_no_color(void)
{
    return env_get("NO_COLOR") != NULL;
}

bool env_terminal_moves(void)
{
    const char *term = env_get("TERM");
    return term && strcmp(term, "dumb") != 0;
}

const char *env_home(void)
{
    return env_get("HOME");
}

const char *env_runtime_dir(void)
{
    const char *xdg = env_get("XDG_RUNTIME_DIR"), *tmp = env_get("TMPDIR");
    return xdg ? xdg : tmp ? tmp : "/tmp";
}

int env_take_listen_fds(void)
{
    const char *pid = env_get("LISTEN_PID"), *fds = env_get("LISTEN_FDS");
    int64_t for_pid = 0, n = 0;
    bool ours = pid && fds && str_parse_int64(pid, 1, INT32_MAX, &for_pid) && for_pid == getpid() && str_parse_int64(fds, 0, 1024, &n);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return ours ? (int)n : 0;
}

/* --- the hub's --- */

static int path_too_long(const char *variable, struct err *e)
{
    return err_set(e, ERR_INPUT, "%s: the path is too long", variable);
}

/* v with "~/" made $HOME/. */
static int expand(const char *variable, const char *v, char out[ENV_PATH_BYTES], struct err *e)
{
    const char *home = env_get("HOME");
    bool at_home = str_starts_with(v, "~/") && home;
    int n = snprintf(out, ENV_PATH_BYTES, "%s%s", at_home ? home : "", at_home ? v + 1 : v);
    return n >= 0 && n < ENV_PATH_BYTES ? 0 : path_too_long(variable, e);
}

/* $HF_HOME or its default, and below it. */
static int in_hub_home(const char *below, char out[ENV_PATH_BYTES], struct err *e)
{
    char base[ENV_PATH_BYTES];
    const char *hf = env_get("HF_HOME"), *xdg = env_get("XDG_CACHE_HOME"), *home = env_get("HOME");
    if (!hf && !xdg && !home) return err_set(e, ERR_INPUT, "HOME is not set: set HF_HOME to the folder of the hub's cache");
    const char *rest = hf ? "" : xdg ? "/huggingface" : "/.cache/huggingface";
    int rc = expand("HF_HOME", hf ? hf : xdg ? xdg : home, base, e);
    if (rc) return rc;
    int n = snprintf(out, ENV_PATH_BYTES, "%s%s/%s", base, rest, below);
    return n >= 0 && n < ENV_PATH_BYTES ? 0 : path_too_long("HF_HOME", e);
}

int env_hub_cache(char out[ENV_PATH_BYTES], struct err *e)
{
    const char *cache = env_get("HF_HUB_CACHE");
    return cache ? expand("HF_HUB_CACHE", cache, out, e) : in_hub_home("hub", out, e);
}

const char *env_hub_endpoint(void)
{
    const char *endpoint = env_get("HF_ENDPOINT");
    return endpoint ? endpoint : "https://huggingface.co";
}

bool env_hub_offline(void)
{
    static const char *const yes[] = {"1", "on", "yes", "true"};
    const char *v = env_get("HF_HUB_OFFLINE");
    for (size_t i = 0; v && i < sizeof yes / sizeof *yes; i++)
        if (strcasecmp(v, yes[i]) == 0) return true;
    return false;
}

const char *env_ca_file(void)
{
    return env_get("SSL_CERT_FILE");
}

static int token_of_file(struct buf *b, struct err *e)
{
    char path[ENV_PATH_BYTES];
    const char *v = env_get("HF_TOKEN_PATH");
    if (!v && !env_get("HF_HOME") && !env_get("XDG_CACHE_HOME") && !env_get("HOME")) return 0;
    int rc = v ? expand("HF_TOKEN_PATH", v, path, e) : in_hub_home("token", path, e);
    if (!rc) rc = buf_read_file(b, path, e);
    return rc == -ERR_NOT_FOUND ? 0 : rc;
}

void env_drop_hub_token(void)
{
    char *v = getenv("HF_TOKEN");
    if (v) explicit_bzero(v, strlen(v));
    unsetenv("HF_TOKEN");
}

int env_take_hub_token(char out[ENV_TOKEN_BYTES], struct err *e)
{
    static const char blanks[] = " \t\r\n";
    struct buf b;
    buf_init(&b, 8192);
    char *v = getenv("HF_TOKEN");
    int rc = v && *v ? buf_puts(&b, v) ? err_set(e, ERR_INPUT, "HF_TOKEN: is too long") : 0 : token_of_file(&b, e);
    env_drop_hub_token();
    const char *from = b.data ? b.data : "";
    from += strspn(from, blanks);
    size_t n = strcspn(from, blanks);
    out[0] = '\0';
    if (!rc && (n >= ENV_TOKEN_BYTES || from[n + strspn(from + n, blanks)]))
        rc = err_set(e, ERR_INPUT, "the hub's token (HF_TOKEN, or its file) is too long, or has a blank in it");
    else if (!rc) {
        memcpy(out, from, n);
        out[n] = '\0';
    }
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}
