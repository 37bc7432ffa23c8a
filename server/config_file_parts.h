/* What config_file.c and config_file_scan.c share; nobody else includes it. */
#ifndef SPILLWAY_SERVER_CONFIG_FILE_PARTS_H
#define SPILLWAY_SERVER_CONFIG_FILE_PARTS_H

#include <stdbool.h>

#include "base/arena.h"
#include "server/config_file.h"

/* Where a value, a list's item or a group begins. The path is "limits.max_headers", "models[1].path", "trusted_proxy[0]". */
struct config_mark {
    const char *path;
    unsigned line, column;
};

struct config_marks {
    struct config_mark *rows;
    size_t n;
};

/* Adds to faults what is wrong. *values_fit: libcyaml can load what is there (false: a kind or a key is wrong in a way that hides values).
 * *empty: there is no document, or nothing in it. Marks live in the arena. */
MUST_USE int config_file_scan(const char *text, size_t n, const struct config_key *keys, size_t n_keys, struct arena *a,
                              struct config_marks *marks, bool *values_fit, bool *empty, struct config_faults *faults);

#endif
