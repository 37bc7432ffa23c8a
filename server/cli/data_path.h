/* Where the program's own files are: beside it, else in the source tree it was built from. */
#ifndef SPILLWAY_SERVER_CLI_DATA_PATH_H
#define SPILLWAY_SERVER_CLI_DATA_PATH_H

#include <stddef.h>

#include "base/err.h"

struct data_place {
    const char *what;              /* for the error: "demo: the built-in model" */
    const char *installed, *built; /* from the folder of the running program: as installed, and in the project's build/ */
    const char *source;            /* the source tree's */
    const char *holds;             /* a regular file in it, "" if it is one itself */
};

extern const struct data_place data_demo;   /* the built-in model */
extern const struct data_place data_prices; /* the price book (server/accounts/price_book.h) */

/* The first of the three places where it is, as an absolute path. -ERR_NOT_FOUND; -ERR_LIMIT: the path is longer than out. */
MUST_USE int data_path_find(const struct data_place *d, char *out, size_t n, struct err *e);

#endif
