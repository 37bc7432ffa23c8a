/* The program's own files: see data_path.h. */
#include "server/cli/data_path.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_MAX_BYTES = 4096 };

const struct data_place data_demo = {
    .what = "demo: the built-in model",
    .installed = "/../share/spillway/demo",
    .built = "/../weights/demo/model",
    .source = SPILLWAY_SOURCE_ROOT "/weights/demo/model",
    .holds = "/config.json",
};
const struct data_place data_prices = {
    .what = "prices.json: the price book",
    .installed = "/../share/spillway/prices.json",
    .built = "/../server/providers/prices.json",
    .source = SPILLWAY_SOURCE_ROOT "/server/providers/prices.json",
    .holds = "",
};

static bool is_there(const struct data_place *d, const char *path)
{
    char probe[PATH_MAX_BYTES + 128];
    struct stat st;
    snprintf(probe, sizeof probe, "%s%s", path, d->holds);
    return stat(probe, &st) == 0 && S_ISREG(st.st_mode);
}

static int path_set(char *out, size_t n, const char *path, struct err *e)
{
    char *real = realpath(path, NULL);
    const char *found = real ? real : path;
    size_t len = strlen(found);
    int rc = len >= n ? err_set(e, ERR_LIMIT, "%.200s...: path is too long", found) : 0;
    if (!rc) memcpy(out, found, len + 1);
    free(real);
    return rc;
}

int data_path_find(const struct data_place *d, char *out, size_t n, struct err *e)
{
    const char *const beside[] = {d->installed, d->built};
    char exe[PATH_MAX_BYTES];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash) *slash = '\0';
    for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++) {
        char path[PATH_MAX_BYTES + 64];
        snprintf(path, sizeof path, "%s%s", exe, beside[i]);
        if (is_there(d, path)) return path_set(out, n, path, e);
    }
    if (is_there(d, d->source)) return path_set(out, n, d->source, e);
    return err_set(e, ERR_NOT_FOUND, "%s is neither beside %s nor in %s", d->what, exe, d->source);
}
