/* Config file: faults, libcyaml's schema and the values. See config_file.h.
 *
 * A mapping is loaded as an array of slots, one for each key of its table, so the schema is made from the table without anybody writing a
 * struct: key i is at i * sizeof(struct slot). */
#include "server/config_file.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/str.h"
#include "server/config_file_parts.h"

enum { ARENA_BYTES = 4 << 20 };

/* TEXT: a char *; TEXTS: n char *; GROUP: its slots; GROUPS: n times its slots. NULL: not there. */
struct slot {
    void *data;
    uint32_t n;
};

struct config_file {
    struct arena arena;
    const struct config_key *keys;
    size_t n_keys;
    struct config_marks marks;
    cyaml_schema_value_t schema;
    struct slot *slots; /* libcyaml's; NULL: the file is empty */
};

/* --- faults --- */

void config_fault_add(struct config_faults *f, unsigned line, unsigned column, const char *fmt, ...)
{
    if (f->n == CONFIG_MAX_FAULTS) {
        f->more++;
        return;
    }
    struct config_fault *row = &f->rows[f->n++];
    row->line = line;
    row->column = column;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(row->text, sizeof row->text, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof row->text) row->text[utf8_cut(row->text, sizeof row->text - 1)] = '\0';
}

void config_faults_sort(struct config_faults *f)
{
    for (size_t i = 1; i < f->n; i++) { /* few: and those of one place stay in their order */
        struct config_fault row = f->rows[i];
        size_t j = i;
        for (; j > 0 && (f->rows[j - 1].line > row.line || (f->rows[j - 1].line == row.line && f->rows[j - 1].column > row.column)); j--)
            f->rows[j] = f->rows[j - 1];
        f->rows[j] = row;
    }
}

char *config_fault_print(const struct config_faults *f, size_t i, const char *file, char *out, size_t n)
{
    const struct config_fault *row = &f->rows[i];
    if (row->line)
        snprintf(out, n, "%s:%u:%u: %s", file, row->line, row->column, row->text);
    else
        snprintf(out, n, "%s: %s", file, row->text);
    return out;
}

/* --- schema --- */

static cyaml_schema_value_t schema_text(enum cyaml_flag flags)
{
    return (cyaml_schema_value_t){.type = CYAML_STRING, .flags = flags, .data_size = 1, .string = {.min = 0, .max = CONFIG_MAX_TEXT}};
}

static const cyaml_schema_field_t *schema_fields(struct arena *a, const struct config_key *keys, size_t n_keys);

static bool schema_group(struct arena *a, const struct config_key *k, enum cyaml_flag flags, cyaml_schema_value_t *out)
{
    *out = (cyaml_schema_value_t){.type = CYAML_MAPPING, .flags = flags, .data_size = (uint32_t)(k->n_keys * sizeof(struct slot))};
    out->mapping.fields = schema_fields(a, k->keys, k->n_keys);
    return out->mapping.fields != NULL;
}

static bool schema_list(struct arena *a, const struct config_key *k, cyaml_schema_value_t *out)
{
    cyaml_schema_value_t *entry = arena_alloc(a, sizeof *entry);
    if (!entry) return false;
    bool texts = k->kind == CONFIG_TEXTS;
    *entry = schema_text(CYAML_FLAG_POINTER);
    if (!texts && !schema_group(a, k, CYAML_FLAG_DEFAULT, entry)) return false;
    *out = (cyaml_schema_value_t){.type = CYAML_SEQUENCE, .flags = CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL};
    out->data_size = texts ? sizeof(char *) : entry->data_size;
    out->sequence.entry = entry;
    out->sequence.max = CYAML_UNLIMITED; /* the scan has counted */
    return true;
}

static const cyaml_schema_field_t *schema_fields(struct arena *a, const struct config_key *keys, size_t n_keys)
{
    cyaml_schema_field_t *fields = arena_array(a, n_keys + 1, sizeof *fields); /* the last stays zero: the end */
    bool ok = fields != NULL;
    for (size_t i = 0; ok && i < n_keys; i++) {
        cyaml_schema_field_t *f = &fields[i];
        f->key = keys[i].name;
        f->data_offset = (uint32_t)(i * sizeof(struct slot) + offsetof(struct slot, data));
        f->count_offset = (uint32_t)(i * sizeof(struct slot) + offsetof(struct slot, n));
        f->count_size = sizeof(uint32_t);
        if (keys[i].kind == CONFIG_TEXT)
            f->value = schema_text(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL);
        else if (keys[i].kind == CONFIG_GROUP)
            ok = schema_group(a, &keys[i], CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL, &f->value);
        else
            ok = schema_list(a, &keys[i], &f->value);
    }
    return ok ? fields : NULL;
}

/* --- reading --- */

static void ignore_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    (void)level, (void)ctx, (void)fmt, (void)args; /* the scan has told it in our words */
}

static const cyaml_config_t loading = {
    .log_fn = ignore_log, .log_level = CYAML_LOG_ERROR, .mem_fn = cyaml_mem, .flags = CYAML_CFG_IGNORE_UNKNOWN_KEYS | CYAML_CFG_NO_ALIAS};

static int load(struct config_file *c, const char *text, size_t n, struct config_faults *faults)
{
    c->schema = (cyaml_schema_value_t){
        .type = CYAML_MAPPING, .flags = CYAML_FLAG_POINTER, .data_size = (uint32_t)(c->n_keys * sizeof(struct slot))};
    c->schema.mapping.fields = schema_fields(&c->arena, c->keys, c->n_keys);
    if (!c->schema.mapping.fields) return -ERR_MEMORY;
    cyaml_err_t rc = cyaml_load_data((const uint8_t *)text, n, &loading, &c->schema, (cyaml_data_t **)&c->slots, NULL);
    if (rc == CYAML_OK) return 0;
    if (rc == CYAML_ERR_OOM) return -ERR_MEMORY;
    config_fault_add(faults, 0, 0, "cannot be loaded"); /* the scan should have seen why */
    return -ERR_INPUT;
}

static int read_text(struct config_file *c, const char *text, size_t n, struct config_faults *faults)
{
    if (n > CONFIG_MAX_BYTES || !utf8_valid(text, n) || memchr(text, '\0', n)) {
        config_fault_add(faults, 0, 0, "%s", n > CONFIG_MAX_BYTES ? "is larger than 1 MiB" : "is not UTF-8 text");
        return -ERR_INPUT;
    }
    bool fits = false, empty = true;
    int rc = config_file_scan(text, n, c->keys, c->n_keys, &c->arena, &c->marks, &fits, &empty, faults);
    if (rc == -ERR_MEMORY || empty || !fits) return rc;
    int load_rc = load(c, text, n, faults); /* also of a file with unknown keys: its other values can be checked */
    return load_rc ? load_rc : rc;
}

int config_file_read(struct config_file **out, const char *text, size_t n, const struct config_key *keys, size_t n_keys,
                     struct config_faults *faults)
{
    struct config_file *c = *out = calloc(1, sizeof *c);
    if (!c) return -ERR_MEMORY;
    arena_init(&c->arena, ARENA_BYTES);
    c->keys = keys;
    c->n_keys = n_keys;
    return read_text(c, text, n, faults);
}

/* A pipe or a device could hold us up for ever. */
static int read_bytes(const char *path, struct buf *b, struct config_faults *faults)
{
    struct stat st;
    struct err e = {0};
    if (stat(path, &st)) {
        config_fault_add(faults, 0, 0, "%s", strerror(errno));
        return -ERR_INPUT;
    }
    if (!S_ISREG(st.st_mode)) {
        config_fault_add(faults, 0, 0, "is not a regular file");
        return -ERR_INPUT;
    }
    int rc = buf_read_file(b, path, &e);
    if (rc == -ERR_LIMIT)
        config_fault_add(faults, 0, 0, "is larger than 1 MiB");
    else if (rc)
        config_fault_add(faults, 0, 0, "%s", str_starts_with(e.msg, path) ? e.msg + strlen(path) + 2 : e.msg);
    return rc == -ERR_MEMORY ? rc : rc ? -ERR_INPUT : 0;
}

int config_file_open(struct config_file **out, const char *path, const struct config_key *keys, size_t n_keys, struct config_faults *faults)
{
    struct buf b;
    *out = NULL;
    buf_init(&b, CONFIG_MAX_BYTES);
    int rc = read_bytes(path, &b, faults);
    if (!rc) rc = config_file_read(out, b.data, b.len, keys, n_keys, faults);
    buf_free(&b);
    return rc;
}

void config_file_free(struct config_file *c)
{
    if (!c) return;
    if (c->slots) cyaml_free(&loading, &c->schema, c->slots, 0);
    arena_free(&c->arena);
    free(c);
}

/* --- values --- */

static void place_of(const struct config_file *c, const char *path, unsigned *line, unsigned *column)
{
    *line = *column = 0;
    for (size_t i = 0; i < c->marks.n; i++) {
        if (strcmp(c->marks.rows[i].path, path) != 0) continue;
        *line = c->marks.rows[i].line;
        *column = c->marks.rows[i].column;
        return;
    }
}

struct walk {
    const struct config_file *c;
    void (*fn)(void *ctx, const struct config_value *v);
    void *ctx;
};

static void tell(const struct walk *w, struct config_value *v, const char *text, const char *path)
{
    if (!text) return;
    v->text = text;
    place_of(w->c, path, &v->line, &v->column);
    w->fn(w->ctx, v);
}

static void each_of_group(const struct walk *w, const struct config_key *g, size_t i_group, const struct slot *slots, const char *prefix)
{
    char path[CONFIG_PATH_BYTES];
    for (size_t i = 0; i < g->n_keys; i++) {
        struct config_value v = {.group = g, .key = &g->keys[i], .i_group = i_group};
        CHECK(g->keys[i].kind == CONFIG_TEXT);
        snprintf(path, sizeof path, "%s.%s", prefix, g->keys[i].name);
        tell(w, &v, slots[i].data, path);
    }
}

void config_file_each(const struct config_file *c, void (*fn)(void *ctx, const struct config_value *v), void *ctx)
{
    const struct walk w = {c, fn, ctx};
    char path[CONFIG_PATH_BYTES];
    for (size_t i = 0; c->slots && i < c->n_keys; i++) {
        const struct config_key *k = &c->keys[i];
        const struct slot *s = &c->slots[i];
        struct config_value v = {.key = k};
        if (!s->data) continue;
        if (k->kind == CONFIG_TEXT) tell(&w, &v, s->data, k->name);
        if (k->kind == CONFIG_GROUP) each_of_group(&w, k, 0, s->data, k->name);
        for (size_t j = 0; j < s->n; j++) {
            snprintf(path, sizeof path, "%s[%zu]", k->name, j);
            if (k->kind == CONFIG_TEXTS) tell(&w, &v, ((char **)s->data)[j], path);
            if (k->kind == CONFIG_GROUPS) each_of_group(&w, k, j, (const struct slot *)s->data + j * k->n_keys, path);
        }
    }
}

size_t config_file_count(const struct config_file *c, const struct config_key *key)
{
    size_t i = (size_t)(key - c->keys);
    CHECK(i < c->n_keys);
    return c->slots && c->slots[i].data ? c->slots[i].n : 0;
}

void config_file_place(const struct config_file *c, const struct config_key *key, size_t i, unsigned *line, unsigned *column)
{
    char path[CONFIG_PATH_BYTES];
    snprintf(path, sizeof path, "%s[%zu]", key->name, i);
    place_of(c, path, line, column);
}
