/* Models of `serve`: those of the command line at the start, those that POST /admin/models asks for while it serves. Here is decided
 * what may be loaded: demo, a folder or a model of the hub that was named at the start, or one at or below a --model-root. Names are
 * resolved (symbolic links, "..") before they are compared, and what was compared is what is opened. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/api/endpoint.h"
#include "server/cli/hub_model.h"
#include "server/cli/model_path.h"
#include "server/cli/options_table.h"
#include "server/cli/serve_parts.h"

/* The worker's command line: every option of the engine that a worker takes, as o has it. */
struct worker_args {
    const char *words[WORKER_MAX_ARGS];
    char numbers[WORKER_MAX_ARGS / 2][24];
    size_t n, n_numbers;
};

static void args_make(struct worker_args *a, const struct options *o)
{
    a->n = a->n_numbers = 0;
    for (size_t i = 0; i < n_option_rows; i++) {
        const struct option_row *r = &option_rows[i];
        const void *field = (const char *)o + r->field;
        if (!option_is_of_model(r)) continue;
        const char *value = NULL;
        CHECK(a->n + 2 <= WORKER_MAX_ARGS);
        if (r->kind == OPTION_INT) {
            char *number = a->numbers[a->n_numbers++];
            snprintf(number, sizeof *a->numbers, "%" PRId64, *(const int64_t *)field);
            value = number;
        } else if (r->kind == OPTION_TEXT || r->kind == OPTION_CHOICE || r->kind == OPTION_GPUS)
            value = *(const char *const *)field;
        else
            CHECK(r->kind == OPTION_FLAG);
        if (r->kind == OPTION_FLAG ? !*(const bool *)field : !value) continue;
        a->words[a->n++] = r->flag;
        if (value) a->words[a->n++] = value;
    }
}

static int model_begin(struct serve *s, const char *path, const char *id, const struct options *o, struct gateway_model **out,
                       struct err *e)
{
    struct worker_args args;
    struct gateway_gpus gpus = {.n = 0};
    _Static_assert((int)OPTIONS_MAX_GPUS == (int)GATEWAY_MAX_REPLICAS, "a worker on each GPU");
    int rc = options_check_device(o, e);
    if (!rc) rc = options_gpus(o->gpus, gpus.number, &gpus.n, e);
    if (rc) return rc;
    args_make(&args, o);
    return gateway_model_add(&s->g, path, id, args.words, args.n, &gpus, out, e);
}

/* i: its place in the options; -1: none. */
static int start_one(struct serve *s, const char *arg, const char *name, int i, struct err *e)
{
    char path[PATH_MAX];
    struct gateway_model *m;
    int rc = model_path_find(arg, path, sizeof path, e);
    if (rc) return rc;
    rc = model_begin(s, path, name ? name : model_path_id(arg, path), s->o, &m, e);
    if (!rc) m->option = i;
    if (!rc && i >= 0 && !(s->model_ids[i] = strdup(m->id))) return err_set(e, ERR_MEMORY, "out of memory");
    return rc == -ERR_INPUT ? err_prefix(e, "%s", arg) : rc;
}

int serve_models_start(struct serve *s, struct err *e)
{
    const struct options *o = s->o;
    s->g.order = serve_model_order;
    int rc = o->n_args || o->no_model ? 0 : start_one(s, "demo", o->name, -1, e);
    for (int i = 0; i < o->n_args && !rc; i++) rc = start_one(s, o->args[i], o->name ? o->name : o->arg_names[i], i, e);
    return rc ? rc : serve_hosted_take(s, o, s->g.hosted, false, e);
}

/* --- what is asked for while it serves --- */

static bool is_below(const char *path, const char *root)
{
    size_t n = strlen(root);
    if (n == 1 && root[0] == '/') return true;
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* The folder of a model that was named at the start, resolved. */
static bool named_folder(const char *arg, char out[PATH_MAX])
{
    char path[PATH_MAX];
    return strcmp(arg, "demo") != 0 && model_path_find(arg, path, sizeof path, NULL) == 0 && realpath(path, out);
}

static bool is_allowed(const struct serve *s, const char *path)
{
    char root[PATH_MAX];
    const struct option_list *roots = &s->config->o.model_roots;
    for (size_t i = 0; i < roots->n; i++)
        if (realpath(roots->items[i], root) && is_below(path, root)) return true;
    for (int i = 0; i < s->o->n_args; i++)
        if (named_folder(s->o->args[i], root) && strcmp(path, root) == 0) return true;
    return false;
}

/* One answer for what is not there and what is not allowed: nobody is to look through the file system here. */
static int find_folder(const struct serve *s, const char *asked, char path[PATH_MAX], struct err *e)
{
    struct err ignored;
    char from[2 * PATH_MAX], real[PATH_MAX];
    if (strcmp(asked, "demo") == 0) return model_path_find(asked, path, PATH_MAX, e);
    const struct option_list *roots = &s->config->o.model_roots;
    bool absolute = asked[0] == '/';
    for (int i = 0; i < s->o->n_args; i++) /* of the hub: from its cache, never from the network */
        if (strcmp(asked, s->o->args[i]) == 0 && hub_model_is(asked) &&
            model_path_find(asked, path, PATH_MAX, &ignored) == 0) return 0;
    for (size_t i = 0; i < (absolute ? 1 : roots->n); i++) {
        int n = absolute ? snprintf(from, sizeof from, "%s", asked) : snprintf(from, sizeof from, "%s/%s", roots->items[i], asked);
        if (n < 0 || (size_t)n >= sizeof from || !realpath(from, real) || !is_allowed(s, real)) continue;
        if (model_path_find(real, path, PATH_MAX, &ignored) == 0) return 0;
    }
    return err_set_param(e, ERR_INPUT, "model",
                         "There is no such model folder at or below a --model-root, and none was named at the start.");
}

static const struct option_row *row_of_key(const char *key)
{
    char name[OPTIONS_KEY_BYTES];
    for (size_t i = 0; i < n_option_rows; i++)
        if (option_is_of_model(&option_rows[i]) && strcmp(option_key(option_rows[i].flag, name), key) == 0) return &option_rows[i];
    return NULL;
}

static int take_option(struct options *o, const char *key, const json_t *v, struct err *e)
{
    char number[24];
    const struct option_row *row = row_of_key(key);
    if (!row) return err_set_param(e, ERR_UNSUPPORTED, key, "'%.80s' is not an option of a model.", key);
    if (row->kind == OPTION_FLAG) {
        if (!json_is_boolean(v)) return err_set_param(e, ERR_INPUT, key, "'%.80s' is neither true nor false.", key);
        *(bool *)((char *)o + row->field) = json_is_true(v);
        return 0;
    }
    const char *text = json_string_value(v);
    if (json_is_integer(v)) {
        snprintf(number, sizeof number, "%" PRId64, (int64_t)json_integer_value(v));
        text = number;
    }
    if (!text || (json_is_integer(v) && row->kind != OPTION_INT) || (json_is_string(v) && strlen(text) != json_string_length(v)))
        return err_set_param(e, ERR_INPUT, key, "'%.80s' is neither a whole number nor a text that fits.", key);
    struct err why;
    if (!option_set(row, o, text, &why)) return 0;
    size_t n = strlen(row->flag); /* the message begins with it */
    return err_set_param(e, ERR_INPUT, key, "'%s'%s", key, strncmp(why.msg, row->flag, n) == 0 ? why.msg + n : why.msg);
}

static bool is_orders_own(const char *key)
{
    static const char *const own[] = {"model", "path", "name", "wait"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(own[i], key) == 0) return true;
    return false;
}

int serve_model_order(struct gateway *g, const struct model_order *order, struct gateway_model **out, struct err *e)
{
    struct serve *s = (struct serve *)g; /* its first member */
    struct options o = *s->o;
    char path[PATH_MAX];
    if (!s->ready) return err_set(e, ERR_GONE, "The server is still starting: try again.");
    void *at;
    const char *key;
    json_t *v, *members = (json_t *)(uintptr_t)order->options; /* Jansson's loops take no const */
    for (at = json_object_iter(members); at; at = json_object_iter_next(members, at)) {
        key = json_object_iter_key(at);
        v = json_object_iter_value(at);
        int rc = is_orders_own(key) ? 0 : take_option(&o, key, v, e);
        if (rc) return rc;
    }
    if (strcmp(o.device, "cpu") == 0 && !json_object_get(order->options, "gpus")) o.gpus = NULL; /* the server's own are not meant */
    int rc = find_folder(s, order->model, path, e);
    if (rc) return rc;
    rc = model_begin(s, path, order->name ? order->name : model_path_id(order->model, path), &o, out, e);
    if (!rc) log_info("model %s: is being loaded from %s", (*out)->id, path);
    return rc;
}
