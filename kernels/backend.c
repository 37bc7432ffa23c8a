/* Backends: see backend.h. */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libspillway_cuda.so"

bool backend_has_gpu(void)
{
    static const char *const files[] = {"/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (access(files[i], F_OK) == 0) return true;
    return false;
}

/* The library's place: beside the program, or in an installed tree's lib. */
static int library_path(char out[PATH_MAX], struct err *e)
{
    static const char *const places[] = {"/" LIBRARY, "/../lib/spillway/" LIBRARY};
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return err_set(e, ERR_UNSUPPORTED, "cuda: where this program lies cannot be told; name the library (--cuda-library)");
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (snprintf(out, PATH_MAX, "%s%s", program, places[i]) < PATH_MAX && access(out, F_OK) == 0) return 0;
    return err_set(e, ERR_UNSUPPORTED, "cuda: %s is not beside the program (%s): this build has the CPU backend only; build with `make cuda`, or give --device cpu",
                   LIBRARY, program);
}

static const struct ops *cuda_ops(const char *library, struct err *e)
{
    char path[PATH_MAX];
    if (library && *library) {
        if (!realpath(library, path)) { /* dlopen would look for a bare name in the system's folders */
            err_set(e, ERR_UNSUPPORTED, "cuda: the backend %s: %s", library, strerror(errno));
            return NULL;
        }
    } else if (library_path(path, e)) {
        return NULL;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        err_set(e, ERR_UNSUPPORTED, "cuda: the backend cannot be opened: %s", dlerror());
        return NULL;
    }
    const struct ops *(*get)(unsigned);
    void *symbol = dlsym(handle, "spillway_cuda_ops");
    memcpy(&get, &symbol, sizeof get);
    const struct ops *ops = symbol ? get(OPS_VERSION) : NULL;
    if (ops) return ops;
    err_set(e, ERR_UNSUPPORTED, "cuda: %s %s", path,
            symbol ? "is of another version than this program: build and install both together" : "is no backend of Spillway");
    dlclose(handle);
    return NULL;
}

const struct ops *backend_find(const char *device, const char *library, struct err *e)
{
    const bool cuda = strcmp(device, "cuda") == 0 || (strcmp(device, "auto") == 0 && backend_has_gpu());
    if (cuda) return cuda_ops(library, e);
    if (strcmp(device, "cpu") == 0 || strcmp(device, "auto") == 0) return &ops_cpu;
    err_set(e, ERR_UNSUPPORTED, "device '%.32s': there are cpu, cuda and auto", device);
    return NULL;
}
