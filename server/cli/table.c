/* Table: see table.h. */
#include "server/cli/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/terminal.h"

static void cell_set(char cell[TABLE_CELL_BYTES], const char *text)
{
    struct buf clean;
    buf_init(&clean, 4 * strlen(text) + 16);
    terminal_clean(&clean, text, strlen(text));
    size_t n = clean.data && !clean.failed ? utf8_cut(clean.data, TABLE_CELL_BYTES - 1) : 0;
    for (size_t i = 0; i < n; i++) cell[i] = clean.data[i] == '\n' || clean.data[i] == '\t' ? ' ' : clean.data[i];
    cell[n] = '\0';
    buf_free(&clean);
}

void table_add(struct table *t, const char *const *cells)
{
    CHECK(t->n_columns > 0 && t->n_columns <= TABLE_MAX_COLUMNS);
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        void *more = reallocarray(t->cells, cap, sizeof *t->cells);
        if (!more) {
            t->failed = true;
            return;
        }
        t->cells = more;
        t->cap = cap;
    }
    for (size_t i = 0; i < t->n_columns; i++) cell_set(t->cells[t->n][i], cells[i]);
    t->n++;
}

static size_t n_characters(const char *s)
{
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void table_print(const struct table *t, FILE *f)
{
    size_t width[TABLE_MAX_COLUMNS] = {0};
    for (size_t i = 0; i < t->n; i++)
        for (size_t j = 0; j < t->n_columns; j++)
            if (n_characters(t->cells[i][j]) > width[j]) width[j] = n_characters(t->cells[i][j]);
    for (size_t i = 0; i < t->n; i++) {
        size_t last = t->n_columns - 1; /* nothing is put behind the last cell that has something in it */
        while (last > 0 && !t->cells[i][last][0]) last--;
        for (size_t j = 0; j < last; j++) fprintf(f, "%s%*s  ", t->cells[i][j], (int)(width[j] - n_characters(t->cells[i][j])), "");
        fprintf(f, "%s\n", t->cells[i][last]);
    }
}

void table_free(struct table *t)
{
    free(t->cells);
    *t = (struct table){0};
}
