/* Table: rows that are kept until the widths of their columns are known. What is in a cell may be somebody else's text: it is cleaned
 * (terminal_clean), and cut at TABLE_CELL_BYTES. */
#ifndef SPILLWAY_SERVER_CLI_TABLE_H
#define SPILLWAY_SERVER_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

enum { TABLE_MAX_COLUMNS = 12, TABLE_CELL_BYTES = 256 };

struct table {
    size_t n_columns;
    char (*cells)[TABLE_MAX_COLUMNS][TABLE_CELL_BYTES];
    size_t n, cap;
    bool failed; /* no memory: a row is missing */
};

/* cells: n_columns of them. The first row is the header. */
void table_add(struct table *t, const char *const *cells);
void table_print(const struct table *t, FILE *f);
void table_free(struct table *t); /* accepts a zeroed struct */

#endif
