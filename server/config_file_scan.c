/* Config file, scan: one pass over libyaml's events, without recursion: structure, keys and places. See config_file.h and config_file_parts.h.
 *
 * A stack of frames follows the nesting; a frame knows the keys that may stand in it, NULL where nothing is expected (below an unknown
 * key or a value of the wrong kind, which has been told already). Values are not looked at: that is the business of whoever wrote the table. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/str.h"
#include "server/config_file_parts.h"

enum { MAX_DEPTH = 8 };

struct frame {
    bool mapping;
    const struct config_key *keys; /* of a mapping */
    size_t n_keys;
    const struct config_key *of;      /* of a sequence: its key */
    const struct config_key *pending; /* mapping: the key whose value comes next */
    bool key_seen;                    /* a key was read, its value comes next */
    size_t n_items;
    size_t path_len; /* of the frame's own path */
};

struct scan {
    yaml_parser_t parser;
    struct arena *arena;
    struct config_marks *marks;
    struct config_faults *faults;
    const struct config_key *keys;
    size_t n_keys;
    struct frame frames[MAX_DEPTH];
    size_t depth;
    char path[CONFIG_PATH_BYTES];
    unsigned documents;
    bool wrong, hides, root, failed; /* failed: nothing more can be read */
};

static void fault(struct scan *s, const yaml_mark_t *at, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void fault(struct scan *s, const yaml_mark_t *at, const char *fmt, ...)
{
    char text[CONFIG_FAULT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    config_fault_add(s->faults, (unsigned)at->line + 1, (unsigned)at->column + 1, "%s", text);
    s->wrong = true;
}

/* Ends the scan: what follows cannot be understood, or must not be. */
static void refuse(struct scan *s, const yaml_mark_t *at, const char *text)
{
    fault(s, at, "%s", text);
    s->failed = true;
}

/* --- places --- */

static void mark_add(struct scan *s, const yaml_mark_t *at)
{
    if (s->marks->n == CONFIG_MAX_VALUES) {
        refuse(s, at, "too many keys and values");
        return;
    }
    char *path = arena_copy(s->arena, s->path, strlen(s->path));
    if (!path) {
        refuse(s, at, "out of memory");
        return;
    }
    s->marks->rows[s->marks->n++] = (struct config_mark){path, (unsigned)at->line + 1, (unsigned)at->column + 1};
}

static const struct config_mark *mark_find(const struct scan *s)
{
    for (size_t i = 0; i < s->marks->n; i++)
        if (strcmp(s->marks->rows[i].path, s->path) == 0) return &s->marks->rows[i];
    return NULL;
}

/* --- keys --- */

/* Letters that have to be changed, added or taken away to make b of a; 3 for "many". */
static size_t distance(const char *a, const char *b)
{
    enum { MAX = 48 };
    size_t n = strlen(a), m = strlen(b), row[MAX + 1];
    if (n > MAX || m > MAX || n > m + 2 || m > n + 2) return 3;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m] > 3 ? 3 : row[m];
}

static void unknown_key(struct scan *s, const struct frame *f, const char *name, const yaml_mark_t *at)
{
    const char *near = NULL, *inside = NULL;
    size_t best = 3;
    char dashed[64];
    snprintf(dashed, sizeof dashed, "%s", name);
    for (char *p = dashed; *p; p++)
        if (*p == '-') *p = '_';
    for (size_t i = 0; i < f->n_keys; i++) {
        size_t d = distance(dashed, f->keys[i].name);
        if (d >= best) continue;
        best = d;
        near = f->keys[i].name;
    }
    for (size_t i = 0; i < s->n_keys; i++)
        for (size_t j = 0; j < s->keys[i].n_keys; j++)
            if (s->depth == 1 && strcmp(s->keys[i].keys[j].name, dashed) == 0) inside = s->keys[i].name;
    const int cut = (int)utf8_cut(name, 60);
    if (inside)
        fault(s, at, "%.*s: belongs under %s:", cut, name, inside);
    else if (near)
        fault(s, at, "%.*s: unknown key; did you mean %s?", cut, name, near);
    else
        fault(s, at, "%.*s: unknown key", cut, name);
}

static void key_read(struct scan *s, struct frame *f, const char *name, const yaml_mark_t *at)
{
    f->key_seen = true;
    f->pending = NULL;
    if (!f->keys) return;
    for (size_t i = 0; i < f->n_keys; i++)
        if (strcmp(f->keys[i].name, name) == 0) f->pending = &f->keys[i];
    if (!f->pending) {
        unknown_key(s, f, name, at);
        return;
    }
    snprintf(s->path + f->path_len, sizeof s->path - f->path_len, "%s%s", f->path_len ? "." : "", name);
    const struct config_mark *first = mark_find(s);
    if (!first) return;
    fault(s, at, "%s: is there twice (first in line %u)", name, first->line);
    s->hides = true;
}

/* --- values --- */

static const char *kind_name(enum config_kind k)
{
    static const char *const names[] = {[CONFIG_TEXT] = "one value",
                                        [CONFIG_TEXTS] = "a list of values",
                                        [CONFIG_GROUP] = "keys with values",
                                        [CONFIG_GROUPS] = "a list of groups of keys"};
    return names[k];
}

static bool text_is_clean(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] < ' ' || p[i] == 0x7f) return false;
    return true;
}

static void text_check(struct scan *s, const char *name, const yaml_event_t *ev)
{
    const char *p = (const char *)ev->data.scalar.value;
    size_t n = ev->data.scalar.length;
    bool plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (n > CONFIG_MAX_TEXT)
        fault(s, &ev->start_mark, "%s: is longer than %d bytes", name, CONFIG_MAX_TEXT);
    else if (!text_is_clean(p, n))
        fault(s, &ev->start_mark, "%s: has line ends or control characters in it", name);
    else if (n == 0 || (plain && (strcmp(p, "~") == 0 || strcmp(p, "null") == 0)))
        fault(s, &ev->start_mark, "%s: has no value", name);
    else
        return;
    s->hides = true;
}

/* What comes next in the frame: its key, and the path of it. NULL: nothing that is known. `item`: one of a list. */
static const struct config_key *expect(struct scan *s, struct frame *f, bool *item)
{
    *item = !f->mapping;
    if (f->mapping) {
        f->key_seen = false;
        return f->keys ? f->pending : NULL;
    }
    snprintf(s->path + f->path_len, sizeof s->path - f->path_len, "[%zu]", f->n_items++);
    return f->of;
}

/* A list's item is a text, or a group of keys. */
static bool kind_fits(const struct config_key *k, bool item, yaml_event_type_t type)
{
    if (type == YAML_SCALAR_EVENT) return item ? k->kind == CONFIG_TEXTS : k->kind == CONFIG_TEXT;
    if (type == YAML_MAPPING_START_EVENT) return item ? k->kind == CONFIG_GROUPS : k->kind == CONFIG_GROUP;
    return !item && (k->kind == CONFIG_TEXTS || k->kind == CONFIG_GROUPS);
}

static void wrong_kind(struct scan *s, const struct config_key *k, bool item, const yaml_mark_t *at)
{
    s->hides = true;
    if (item)
        fault(s, at, "%s: each item must be %s", k->name, k->kind == CONFIG_TEXTS ? "one value" : "a group of keys");
    else
        fault(s, at, "%s: must be %s", k->name, kind_name(k->kind));
}

static void scalar(struct scan *s, const yaml_event_t *ev)
{
    const char *p = (const char *)ev->data.scalar.value;
    size_t n = ev->data.scalar.length;
    if (s->depth == 0) { /* a file of nothing but "~" or "" is an empty one to people, too */
        if (n) refuse(s, &ev->start_mark, "must be keys with values");
        return;
    }
    struct frame *f = &s->frames[s->depth - 1];
    if (f->mapping && !f->key_seen) {
        if (n == 0 || n > 60 || !text_is_clean(p, n))
            refuse(s, &ev->start_mark, "a key is empty, too long, or has control characters in it");
        else
            key_read(s, f, p, &ev->start_mark);
        return;
    }
    bool item;
    const struct config_key *k = expect(s, f, &item);
    if (!k) return;
    mark_add(s, &ev->start_mark);
    bool nothing = n == 0 && ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (nothing && !item && k->kind != CONFIG_TEXT) return; /* "limits:" with all lines below it commented out */
    if (!kind_fits(k, item, ev->type))
        wrong_kind(s, k, item, &ev->start_mark);
    else
        text_check(s, k->name, ev);
}

static void begin(struct scan *s, const yaml_event_t *ev)
{
    bool mapping = ev->type == YAML_MAPPING_START_EVENT, item = false;
    struct frame *f = s->depth ? &s->frames[s->depth - 1] : NULL;
    if (f && f->mapping && !f->key_seen) {
        refuse(s, &ev->start_mark, "a key must be one word");
        return;
    }
    if (s->depth == MAX_DEPTH || (!f && !mapping)) {
        refuse(s, &ev->start_mark, f ? "is nested too deeply" : "must be keys with values");
        return;
    }
    const struct config_key *k = f ? expect(s, f, &item) : NULL;
    struct frame *next = &s->frames[s->depth++];
    *next = (struct frame){.mapping = mapping};
    if (!f) {
        s->root = true;
        next->keys = s->keys;
        next->n_keys = s->n_keys;
    }
    if (!k) return;
    mark_add(s, &ev->start_mark);
    next->path_len = strlen(s->path);
    if (!kind_fits(k, item, ev->type))
        wrong_kind(s, k, item, &ev->start_mark);
    else if (mapping) {
        next->keys = k->keys;
        next->n_keys = k->n_keys;
    } else
        next->of = k;
}

/* --- events --- */

static bool has_marks(const yaml_event_t *ev)
{
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        return ev->data.scalar.anchor || ev->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return ev->data.sequence_start.anchor || ev->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return ev->data.mapping_start.anchor || ev->data.mapping_start.tag;
    default:
        return ev->type == YAML_ALIAS_EVENT;
    }
}

/* libyaml's description of what it could not read is told without its words: places are enough. */
static void syntax(struct scan *s)
{
    const yaml_parser_t *p = &s->parser;
    yaml_mark_t at = p->problem_mark;
    const char *what = p->error == YAML_MEMORY_ERROR   ? "out of memory"
                       : p->error == YAML_READER_ERROR ? "has characters that YAML does not allow"
                                                       : NULL;
    if (p->error == YAML_READER_ERROR) at = p->mark;
    refuse(s, &at,
           what ? what : "is not valid YAML from here on (indentation with blanks only, quotes and brackets closed, \"key: value\")");
}

static void event(struct scan *s, const yaml_event_t *ev)
{
    if (has_marks(ev)) {
        refuse(s, &ev->start_mark, "anchors, aliases and tags (& * !) are not taken here; quote the value if it is meant as text");
        return;
    }
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (s->documents++) refuse(s, &ev->start_mark, "a second document begins");
        break;
    case YAML_SCALAR_EVENT:
        scalar(s, ev);
        break;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        begin(s, ev);
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        s->depth--;
        break;
    default:
        break;
    }
}

int config_file_scan(const char *text, size_t n, const struct config_key *keys, size_t n_keys, struct arena *a, struct config_marks *marks,
                     bool *values_fit, bool *empty, struct config_faults *faults)
{
    struct scan s = {.arena = a, .marks = marks, .faults = faults, .keys = keys, .n_keys = n_keys};
    marks->rows = arena_array(a, CONFIG_MAX_VALUES, sizeof *marks->rows);
    if (!marks->rows || !yaml_parser_initialize(&s.parser)) return -ERR_MEMORY;
    yaml_parser_set_input_string(&s.parser, (const unsigned char *)text, n);
    for (bool end = false; !end && !s.failed;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&s.parser, &ev)) {
            syntax(&s);
            break;
        }
        end = ev.type == YAML_STREAM_END_EVENT;
        event(&s, &ev);
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&s.parser);
    *values_fit = !s.hides && !s.failed;
    *empty = !s.root;
    return s.wrong ? -ERR_INPUT : 0;
}
