/* Npy: writes arrays in NumPy's file format, version 1.0 (numpy.lib.format), little-endian, C order. Rows may come
 * piece by piece. */
#ifndef SPILLWAY_SERVER_CLI_NPY_H
#define SPILLWAY_SERVER_CLI_NPY_H

#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

enum { NPY_MAX_DIMS = 4, NPY_MAX_PATH = 4096 };

enum npy_type { NPY_F32, NPY_I32, NPY_U8 };

struct npy {
    FILE *file;
    size_t left_bytes; /* of the array's data */
    char path[NPY_MAX_PATH];
};

MUST_USE int npy_open(struct npy *w, const char *dir, const char *name, enum npy_type type, const size_t *shape, size_t n_dims,
                      struct err *e);
MUST_USE int npy_write(struct npy *w, const void *data, size_t n_bytes, struct err *e);
/* -ERR_INTERNAL if fewer bytes were written than the shape says. */
MUST_USE int npy_close(struct npy *w, struct err *e);
/* Closes after a failure elsewhere; accepts a zeroed or failed struct. */
void npy_abandon(struct npy *w);

#endif
