/* models list | load MODEL | unload NAME: /admin/models of a running server. The table, or with --json what the server has answered, goes to
 * standard output. An option of the engine that is not given is left to the server, whose own are the defaults. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/chat_parts.h"
#include "server/cli/command.h"
#include "server/cli/options_table.h"
#include "server/cli/table.h"

#define ADMIN_MODELS "/admin/models"

enum { COLUMNS = 7, WORD_BYTES = 32 };

static const char *text_of(const json_t *v, const char *name)
{
    const char *text = json_string_value(json_object_get(v, name));
    return text ? text : "-";
}

static const char *number_of(const json_t *v, char out[WORD_BYTES])
{
    if (json_is_integer(v))
        snprintf(out, WORD_BYTES, "%" PRId64, (int64_t)json_integer_value(v));
    else
        strcpy(out, "-");
    return out;
}

/* Weights and cache: what was taken at the start. */
static const char *memory_of(const json_t *model, char out[WORD_BYTES])
{
    const json_t *memory = json_object_get(model, "memory");
    const json_t *weights = json_object_get(memory, "weight_bytes"), *kv = json_object_get(memory, "kv_bytes");
    if (json_is_integer(weights) && json_is_integer(kv))
        snprintf(out, WORD_BYTES, "%.1f MB", ((double)json_integer_value(weights) + (double)json_integer_value(kv)) / 1e6);
    else
        strcpy(out, "-");
    return out;
}

static void add_model(struct table *t, const json_t *m)
{
    char context[WORD_BYTES], memory[WORD_BYTES], requests[WORD_BYTES];
    const char *reason = json_string_value(json_object_get(m, "reason"));
    const json_t *tokens = json_object_get(m, "context_length");
    if (json_integer_value(tokens) == 0) tokens = NULL; /* not known before it is ready */
    table_add(t, (const char *const[COLUMNS]){text_of(m, "id"), text_of(m, "state"), number_of(tokens, context),
                                              text_of(json_object_get(m, "options"), "quant"), memory_of(m, memory),
                                              number_of(json_object_get(m, "requests"), requests), reason ? reason : ""});
}

/* v: one model, or a list of them. */
static int show(const struct options *o, const json_t *v, struct err *e)
{
    int rc = 0;
    if (o->json) {
        struct buf b;
        buf_init(&b, 64 << 20);
        rc = json_write(&b, v) ? err_set(e, ERR_MEMORY, "out of memory") : 0;
        if (!rc) printf("%.*s\n", (int)b.len, b.data);
        buf_free(&b);
        return rc;
    }
    struct table t = {.n_columns = COLUMNS};
    const json_t *data = json_object_get(v, "data");
    table_add(&t, (const char *const[COLUMNS]){"NAME", "STATE", "CONTEXT", "QUANT", "MEMORY", "REQUESTS", "REASON"});
    for (size_t i = 0; i < json_array_size(data); i++) add_model(&t, json_array_get(data, i));
    if (!data) add_model(&t, v);
    if (t.failed)
        rc = err_set(e, ERR_MEMORY, "out of memory");
    else
        table_print(&t, stdout);
    table_free(&t);
    return rc;
}

static int models_list(struct chat_api *a, const struct options *o, struct err *e)
{
    json_t *v = NULL;
    int rc = chat_api_call(a, "GET", ADMIN_MODELS, NULL, &v, e);
    if (!rc && !json_is_array(json_object_get(v, "data"))) rc = err_set(e, ERR_INPUT, "the server's answer is no list of models");
    if (!rc) rc = show(o, v, e);
    json_decref(v);
    return rc;
}

/* Of the rows that a worker takes, those that were given. */
static bool is_given(const struct options *o, size_t i)
{
    return o->given[i] && option_is_of_model(&option_rows[i]);
}

static json_t *value_of(const struct options *o, const struct option_row *r)
{
    const void *field = (const char *)o + r->field;
    if (r->kind == OPTION_FLAG) return json_true();
    if (r->kind == OPTION_INT) return json_integer(*(const int64_t *)field);
    CHECK(r->kind == OPTION_CHOICE || r->kind == OPTION_TEXT || r->kind == OPTION_GPUS);
    return json_string(*(const char *const *)field);
}

static int models_load(struct chat_api *a, const struct options *o, struct err *e)
{
    char key[OPTIONS_KEY_BYTES];
    json_t *order = json_object(), *v = NULL;
    int failed = json_object_set_new(order, "model", json_string(o->args[1])) | json_object_set_new(order, "wait", json_true());
    if (o->name) failed |= json_object_set_new(order, "name", json_string(o->name));
    for (size_t i = 0; i < n_option_rows; i++)
        if (is_given(o, i)) failed |= json_object_set_new(order, option_key(option_rows[i].flag, key), value_of(o, &option_rows[i]));
    int rc = failed ? err_set(e, ERR_INPUT, "a name that is not UTF-8 cannot be sent") : 0;
    if (!rc) rc = chat_api_call(a, "POST", ADMIN_MODELS, order, &v, e);
    if (!rc) rc = show(o, v, e);
    json_decref(order);
    json_decref(v);
    return rc;
}

/* In a path: all but what never has another meaning there. */
static int put_escaped(struct buf *b, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.", c);
        int rc = plain ? buf_putc(b, *s) : buf_printf(b, "%%%02X", c);
        if (rc) return rc;
    }
    return 0;
}

static int models_unload(struct chat_api *a, const struct options *o, struct err *e)
{
    struct buf path;
    json_t *v = NULL;
    buf_init(&path, 4096);
    buf_puts(&path, ADMIN_MODELS "/");
    int rc = put_escaped(&path, o->args[1]) ? err_set(e, ERR_INPUT, "the name is too long") : 0;
    if (!rc) rc = chat_api_call(a, "DELETE", path.data, NULL, &v, e);
    bool deleted = json_is_true(json_object_get(v, "deleted"));
    if (!rc && o->json)
        rc = show(o, v, e);
    else if (!rc) {
        terminal_print(stderr, o->args[1], strlen(o->args[1]));
        if (deleted)
            fprintf(stderr, " is unloaded.\n");
        else
            fprintf(stderr, " takes no more requests, and is unloaded when the %lld that it has are answered.\n",
                    (long long)json_integer_value(json_object_get(v, "requests")));
    }
    json_decref(v);
    buf_free(&path);
    return rc;
}

static const struct verb {
    const char *name;
    int n_args;
    bool load; /* takes --name and the options of a model */
    int (*run)(struct chat_api *a, const struct options *o, struct err *e);
} verbs[] = {{"list", 1, false, models_list}, {"load", 2, true, models_load}, {"unload", 2, false, models_unload}};

static const struct verb *find_verb(const struct options *o, struct err *e)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        const struct verb *v = &verbs[i];
        if (o->n_args != v->n_args || strcmp(v->name, o->args[0]) != 0) continue;
        const char *wrong = o->name && !v->load ? "--name" : NULL;
        for (size_t j = 0; j < n_option_rows && !v->load && !wrong; j++) wrong = is_given(o, j) ? option_rows[j].flag : NULL;
        if (!wrong) return v;
        err_set(e, ERR_INPUT, "%s is not for 'models %s'", wrong, v->name);
        return NULL;
    }
    err_set(e, ERR_INPUT, "usage: spillway models list | load MODEL | unload NAME (see spillway models --help)");
    return NULL;
}

int command_models(const struct options *o)
{
    struct err e = {0};
    char key[CHAT_KEY_BYTES];
    const struct verb *v = find_verb(o, &e);
    if (!v) return command_usage_error(&e);
    struct chat_api a = {0};
    int rc = chat_api_key(o->api_key_file, key, &e);
    if (!rc) rc = chat_api_open(&a, o->url, key, &e);
    explicit_bzero(key, sizeof key);
    if (!rc && a.key[0] && !a.local && str_starts_with(a.base, "http://"))
        fprintf(stderr, "spillway: the key goes over the network unencrypted: this is http, not https\n");
    if (!rc) rc = v->run(&a, o, &e);
    chat_api_close(&a);
    if (!rc) return COMMAND_OK;
    fprintf(stderr, "spillway: ");
    terminal_print(stderr, e.msg, strlen(e.msg)); /* some of it may be the server's */
    fprintf(stderr, "\n");
    return COMMAND_FAILED;
}
