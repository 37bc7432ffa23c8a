/* Config file: reads one YAML file by a table of keys, and tells where each value stands. Knows nothing of options or limits; values are texts.
 *
 * The bytes are hostile: at most CONFIG_MAX_BYTES and CONFIG_MAX_VALUES, UTF-8, one document, no anchors, aliases or tags, nothing nested
 * deeper than the table. A scan (libyaml's events, config_file_scan.c) finds everything that is wrong with structure and keys, with its line and
 * column, in one pass; then libcyaml loads the values by a schema made from the same table. libcyaml alone would stop at the first fault, and forgets where
 * values stood. Start reading at config_file_read. */
#ifndef SPILLWAY_SERVER_CONFIG_FILE_H
#define SPILLWAY_SERVER_CONFIG_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

enum {
    CONFIG_MAX_BYTES = 1 << 20,
    CONFIG_MAX_VALUES = 2048, /* keys and list items */
    CONFIG_MAX_TEXT = 4096,   /* bytes of one value */
    CONFIG_MAX_FAULTS = 20,   /* that are told; more are counted */
    CONFIG_FAULT_BYTES = 256,
    CONFIG_PATH_BYTES = 192
};

enum config_kind {
    CONFIG_TEXT,  /* key: value */
    CONFIG_TEXTS, /* key: [value, ...] */
    CONFIG_GROUP, /* key: {keys} */
    CONFIG_GROUPS /* key: [{keys}, ...] */
};

struct config_key {
    const char *name;
    enum config_kind kind;
    const struct config_key *keys; /* of the last two kinds, which hold only texts */
    size_t n_keys;
};

/* What is wrong, in the order of the file. Zero-initialise; no memory is owned. */
struct config_faults {
    struct config_fault {
        unsigned line, column; /* from 1; 0: of the file as a whole */
        char text[CONFIG_FAULT_BYTES];
    } rows[CONFIG_MAX_FAULTS];
    size_t n, more; /* more: beyond those of rows */
};
void config_fault_add(struct config_faults *f, unsigned line, unsigned column, const char *fmt, ...) PRINTF_LIKE(4, 5);
void config_faults_sort(struct config_faults *f);
/* "FILE:LINE:COLUMN: text"; returns out. */
char *config_fault_print(const struct config_faults *f, size_t i, const char *file, char *out, size_t n);

struct config_file;

/* keys are borrowed until config_file_free. 0, -ERR_INPUT with at least one fault, or -ERR_MEMORY. */
MUST_USE int config_file_read(struct config_file **out, const char *text, size_t n, const struct config_key *keys, size_t n_keys,
                              struct config_faults *faults);
/* Only a regular file; what cannot be read is a fault of the whole file. */
MUST_USE int config_file_open(struct config_file **out, const char *path, const struct config_key *keys, size_t n_keys,
                              struct config_faults *faults);
void config_file_free(struct config_file *c); /* accepts NULL */

/* One value. Strings are borrowed until config_file_free. */
struct config_value {
    const struct config_key *group, *key; /* group: NULL on top */
    size_t i_group;                       /* of CONFIG_GROUPS */
    const char *text;
    unsigned line, column;
};
/* All of them, in the order of the table. */
void config_file_each(const struct config_file *c, void (*fn)(void *ctx, const struct config_value *v), void *ctx);
/* Items of a CONFIG_GROUPS or CONFIG_TEXTS of the top, and where item i begins. */
size_t config_file_count(const struct config_file *c, const struct config_key *key);
void config_file_place(const struct config_file *c, const struct config_key *key, size_t i, unsigned *line, unsigned *column);

#endif
