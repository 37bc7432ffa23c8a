/* Model path: see model_path.h. */
#include "server/cli/model_path.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/cli/hub_model.h"

enum { PATH_MAX_BYTES = 4096 };

static bool holds_config(const char *dir)
{
    char path[PATH_MAX_BYTES + 128];
    struct stat st;
    snprintf(path, sizeof path, "%s/config.json", dir);
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int path_set(char *out, size_t n, const char *path, struct err *e)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    if (len >= n || len >= PATH_MAX_BYTES) return err_set(e, ERR_LIMIT, "%.200s...: path is too long", path);
    memcpy(out, path, len);
    out[len] = '\0';
    return 0;
}

static int find_demo(char *out, size_t n, struct err *e)
{
    static const char *const beside[] = {"/../share/spillway/demo", "/../weights/demo/model"};
    char exe[PATH_MAX_BYTES];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash) *slash = '\0';
    for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++) {
        char dir[PATH_MAX_BYTES + 64];
        snprintf(dir, sizeof dir, "%s%s", exe, beside[i]);
        if (!holds_config(dir)) continue;
        char *real = realpath(dir, NULL);
        int rc = path_set(out, n, real ? real : dir, e);
        free(real);
        return rc;
    }
    if (holds_config(SPILLWAY_DEMO_DIR)) return path_set(out, n, SPILLWAY_DEMO_DIR, e);
    return err_set(e, ERR_NOT_FOUND, "demo: the built-in model is neither beside %s nor in %s", exe, SPILLWAY_DEMO_DIR);
}

int model_path_find(const char *model, char *out, size_t n, struct err *e)
{
    if (!strcmp(model, "demo")) return find_demo(out, n, e);
    struct stat st;
    if (hub_model_is(model)) return hub_model_cached(model, out, n, e);
    if (stat(model, &st)) return err_set(e, ERR_NOT_FOUND, "%s: %s", model, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_NOT_FOUND, "%s: is not a folder", model);
    if (!holds_config(model))
        return err_set(e, ERR_NOT_FOUND, "%s/config.json: is not there; a model is a folder in Hugging Face form", model);
    return path_set(out, n, model, e);
}

const char *model_path_id(const char *model, const char *path)
{
    if (!strcmp(model, "demo")) return "demo";
    if (hub_model_is_at(model, path)) return model; /* its folder is called by the commit */
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}
