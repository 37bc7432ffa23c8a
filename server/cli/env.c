/* Environment: see env.h. */
#include "server/cli/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

bool env_take_api_key(char *out, size_t n)
{
    char *v = getenv("SPILLWAY_API_KEY");
    bool there = v && *v;
    if (there) {
        snprintf(out, n, "%s", v);
        explicit_bzero(v, strlen(v));
    }
    unsetenv("SPILLWAY_API_KEY");
    return there;
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
