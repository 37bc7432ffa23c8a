/* Model path: see model_path.h. */
#include "server/cli/model_path.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "server/cli/data_path.h"
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

int model_path_find(const char *model, char *out, size_t n, struct err *e)
{
    if (!strcmp(model, "demo")) return data_path_find(&data_demo, out, n, e);
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
