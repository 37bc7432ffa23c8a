/* Admin: the table of operations; see admin.h. Exports are admin_export.c's, models admin_models.c's. */
#include "server/api/admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/accounts/db.h"
#include "server/accounts/words.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/http_parse.h"

enum { REPLY_MAX_BYTES = 64 << 20, JSON_MAX_BYTES = 64 << 10, QUERY_BYTES = 4096 };

#define MONEY "amount_usd note linked"
static const struct admin_op ops[] = {
    {"GET", "/admin/accounts", "keys", ADMIN_LEDGER, admin_list, 0},
    {"POST", "/admin/accounts", "kind name organisation", 0, admin_create, 0},
    {"GET", "/admin/accounts/*", "", ADMIN_LEDGER, admin_show, 0},
    {"POST", "/admin/accounts/*/rename", "name", ADMIN_LEDGER, admin_rename, 0},
    {"POST", "/admin/accounts/*/close", "", ADMIN_KEYS | ADMIN_LEDGER, admin_close, 0},
    {"POST", "/admin/accounts/*/storage", "on", ADMIN_LEDGER, admin_storage, 0},
    {"POST", "/admin/accounts/*/freeze", "", ADMIN_LEDGER, admin_freeze, true},
    {"POST", "/admin/accounts/*/unfreeze", "", ADMIN_LEDGER, admin_freeze, false},
    {"POST", "/admin/accounts/*/deposit", MONEY, ADMIN_LEDGER | ADMIN_ONCE, admin_transfer, LEDGER_DEPOSIT},
    {"POST", "/admin/accounts/*/refund", MONEY, ADMIN_LEDGER | ADMIN_ONCE, admin_transfer, LEDGER_REFUND},
    {"POST", "/admin/accounts/*/adjust", MONEY, ADMIN_LEDGER | ADMIN_ONCE, admin_transfer, LEDGER_ADJUSTMENT},
    {"POST", "/admin/accounts/*/chargeback", MONEY, ADMIN_LEDGER | ADMIN_ONCE, admin_transfer, LEDGER_CHARGEBACK},
    {"POST", "/admin/accounts/*/pay", MONEY, ADMIN_LEDGER | ADMIN_ONCE, admin_transfer, LEDGER_PAYMENT},
    {"POST", "/admin/accounts/*/prepaid", "floor_usd", ADMIN_LEDGER, admin_prepaid, 0},
    {"POST", "/admin/accounts/*/limit", "rpm tpm concurrency", ADMIN_LEDGER, admin_limit, 0},
    {"POST", "/admin/accounts/*/budgets", "amount unit period scope hard", ADMIN_LEDGER, admin_budget_add, 0},
    {"POST", "/admin/accounts/*/rules", NULL, ADMIN_KEYS | ADMIN_LEDGER, admin_rules, 0},
    {"GET", "/admin/accounts/*/statement", "month", 0, admin_statement, 0},
    {"GET", "/admin/budgets", "account", ADMIN_LEDGER, admin_budget_list, 0},
    {"POST", "/admin/budgets/*/end", "", ADMIN_LEDGER, admin_budget_end, 0},
    {"GET", "/admin/keys", "", ADMIN_KEYS, admin_key_list, 0},
    {"POST", "/admin/keys", "name project expires weight priority", ADMIN_KEYS, admin_key_make, 0},
    {"POST", "/admin/keys/*/set", "weight priority", ADMIN_KEYS, admin_key_set, 0},
    {"POST", "/admin/keys/*/rotate", "grace expires", ADMIN_KEYS, admin_key_rotate, 0},
    {"POST", "/admin/keys/*/revoke", "", ADMIN_KEYS, admin_key_revoke, 0},
    {"GET", "/admin/prices", "provider model history", 0, admin_price_list, 0},
    {"POST", "/admin/prices", "", ADMIN_TEXT, admin_price_set, 0},
    {"POST", "/admin/prices/end", "provider model", 0, admin_price_end, 0},
    {"POST", "/admin/prices/markup", "provider percent", 0, admin_price_markup, 0},
    {"POST", "/admin/prices/gpu-hour", "model usd", 0, admin_price_gpu_hour, 0},
    {"GET", "/admin/break-even", "from to", 0, admin_break_even, 0},
    {"GET", "/admin/usage", "by from to project", 0, admin_usage, 0},
    {"POST", "/admin/reconcile", "supplier threshold_usd token_threshold close", ADMIN_QUERY, admin_reconcile, 0},
    {"GET", "/admin/alerts", "", 0, admin_alert_list, 0},
    {"POST", "/admin/alerts/test", "", 0, admin_alert_test, 0},
    {"POST", "/admin/prune", "older_than_days", 0, admin_prune, 0},
};
enum { N_OPS = sizeof ops / sizeof ops[0] };

/* --- what is given --- */

bool admin_given(const struct admin_call *c, const char *name)
{
    return json_object_get(c->in, name) != NULL;
}

int admin_need(const struct admin_call *c, const char *name, struct err *e)
{
    return admin_given(c, name) ? 0 : err_set_param(e, ERR_INPUT, name, "'%s' must be given.", name);
}

int admin_text(const struct admin_call *c, const char *name, const char **out, struct err *e)
{
    const json_t *v = json_object_get(c->in, name);
    if (!v) return 0;
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_set_param(e, ERR_INPUT, name, "'%s' must be a string.", name);
    *out = json_string_value(v);
    return 0;
}

/* In a query all is text. */
int admin_int(const struct admin_call *c, const char *name, int64_t min, int64_t max, int64_t *out, struct err *e)
{
    const json_t *v = json_object_get(c->in, name);
    int64_t n = 0;
    if (!v) return 0;
    bool ok = json_is_string(v) ? str_parse_int64(json_string_value(v), min, max, &n) : json_is_integer(v);
    if (ok && json_is_integer(v)) ok = (n = json_integer_value(v)) >= min && n <= max;
    if (!ok)
        return err_set_param(e, ERR_INPUT, name, "'%s' must be a whole number from %lld to %lld.", name, (long long)min, (long long)max);
    *out = n;
    return 0;
}

int admin_bool(const struct admin_call *c, const char *name, bool *out, struct err *e)
{
    const json_t *v = json_object_get(c->in, name);
    const char *text = json_is_string(v) ? json_string_value(v) : "";
    if (!v) return 0;
    bool yes = json_is_true(v) || strcmp(text, "true") == 0;
    if (!yes && !json_is_false(v) && strcmp(text, "false") != 0)
        return err_set_param(e, ERR_INPUT, name, "'%s' must be true or false.", name);
    *out = yes;
    return 0;
}

int admin_need_text(const struct admin_call *c, const char *name, const char **out, struct err *e)
{
    int rc = admin_need(c, name, e);
    return rc ? rc : admin_text(c, name, out, e);
}

int admin_need_money(const struct admin_call *c, const char *name, int64_t *nusd, struct err *e)
{
    const char *text = "";
    if (json_is_number(json_object_get(c->in, name))) /* what a number with a fraction was, its reader cannot know */
        return err_set_param(e, ERR_INPUT, name, "'%s' must be text, such as \"12.50\": a number is not exact.", name);
    int rc = admin_need_text(c, name, &text, e);
    return rc ? rc : words_money(name, text, nusd, e);
}

static int take_parameter(json_t *in, char *pair, struct err *e)
{
    char *equals = strchr(pair, '='), *value = equals ? equals + 1 : pair + strlen(pair);
    if (equals) *equals = '\0';
    int n_name = http_unescape(pair, strlen(pair)), n_value = http_unescape(value, strlen(value));
    if (n_name < 0 || n_value < 0) return err_set(e, ERR_INPUT, "An escape in the URL's query is broken.");
    pair[n_name] = value[n_value] = '\0';
    if (json_object_get(in, pair)) return err_set_param(e, ERR_INPUT, pair, "'%.60s' is given twice.", pair);
    return json_object_set_new(in, pair, json_string(value)) ? err_set(e, ERR_MEMORY, "out of memory") : 0;
}

json_t *admin_read_query(const struct http_request *r, struct err *e)
{
    char text[QUERY_BYTES];
    size_t n;
    const char *query = http_query(r, &n);
    json_t *in = json_object();
    int rc = in ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && n >= sizeof text) rc = err_set(e, ERR_INPUT, "The URL's query is too long.");
    snprintf(text, sizeof text, "%.*s", rc ? 0 : (int)n, query);
    for (char *p = text, *next; p && *p && !rc; p = next) {
        next = strchr(p, '&');
        if (next) *next++ = '\0';
        if (*p) rc = take_parameter(in, p, e);
    }
    if (!rc) return in;
    json_decref(in);
    return NULL;
}

static bool has_word(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = words; (p = strstr(p, word)); p += n)
        if ((p == words || p[-1] == ' ') && (p[n] == ' ' || !p[n]) && n) return true;
    return false;
}

int admin_check_fields(const json_t *in, const char *fields, struct err *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)in, name, value)
        if (!has_word(fields, name)) return err_set_param(e, ERR_UNSUPPORTED, name, "'%.60s' is not known here.", name);
    return 0;
}

/* A body that is not there is an empty object. */
static int read_body(struct admin_call *c, struct err *e)
{
    struct json_limits limits = json_limits_request;
    limits.max_bytes = JSON_MAX_BYTES;
    if (c->body.len == 0) {
        c->in = json_object();
        return c->in ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    }
    int rc = json_read(c->body.data, c->body.len, &limits, "request body", &c->in, e);
    if (!rc && !json_is_object(c->in)) rc = err_set(e, ERR_INPUT, "The request body must be a JSON object.");
    return rc;
}

static int read_key(struct admin_call *c, struct err *e)
{
    const char *key = http_header(c->r, "idempotency-key");
    if (!key)
        return err_set_param(e, ERR_INPUT, "Idempotency-Key",
                             "Money is moved once for each Idempotency-Key: send this header with a text of your own, and the same one when you "
                             "try again.");
    snprintf(c->key, sizeof c->key, "%s", key); /* one that is too long stays too long */
    return 0;
}

static int read_call(struct admin_call *c, struct err *e)
{
    bool get = strcmp(c->op->method, "GET") == 0, query = get || (c->op->needs & ADMIN_QUERY);
    json_t *in = admin_read_query(c->r, e);
    if (!in) return -(int)e->code;
    int rc = 0;
    if (!get) http_take_body(c->r, &c->body);
    if (query || (c->op->needs & ADMIN_TEXT))
        c->in = in;
    else {
        rc = admin_check_fields(in, "", e);
        json_decref(in);
        if (!rc) rc = read_body(c, e);
    }
    if (!rc && c->op->fields) rc = admin_check_fields(c->in, c->op->fields, e);
    return rc || !(c->op->needs & ADMIN_ONCE) ? rc : read_key(c, e);
}

/* --- on a thread of the desk --- */

static int open_store(struct admin_call *c, struct err *e)
{
    int rc;
    if (c->op->needs & ADMIN_KEYS) {
        rc = accounts_open_beside(&c->accounts, c->g->accounts, c->g->store, e);
        if (!rc) c->db = accounts_db(c->accounts);
    } else
        rc = db_open(&c->db, c->g->store, e);
    if (!rc && (c->op->needs & ADMIN_LEDGER)) rc = ledger_open(&c->ledger, c->db, &(struct ledger_options){.gateway = "admin", .desk = true}, e);
    return rc;
}

static bool is_change(const struct admin_call *c)
{
    return strcmp(c->op->method, "GET") != 0;
}

/* All that is valid now, for the gateway to adopt. If that fails its own timer takes it over. */
static void read_keys(struct admin_call *c)
{
    struct err ignored;
    int rc;
    do rc = accounts_refresh(c->accounts, &ignored);
    while (rc == 1);
    c->fresh = rc == 0;
}

static void work(struct pool_job *j)
{
    struct admin_call *c = (struct admin_call *)((char *)j - offsetof(struct admin_call, job));
    c->ran = true;
    c->rc = open_store(c, &c->e);
    if (!c->rc) c->rc = c->op->run(c, &c->e);
    if (!c->rc && c->out.failed) c->rc = err_set(&c->e, ERR_MEMORY, "the answer does not fit");
    ledger_close(c->ledger);
    if (!c->accounts) db_close(c->db);
    if (!c->rc && c->accounts && is_change(c)) read_keys(c);
}

/* --- on the loop --- */

static void call_free(struct admin_call *c)
{
    if (c->out.data) explicit_bzero(c->out.data, c->out.len); /* a new key may be in it */
    buf_free(&c->out);
    buf_free(&c->body);
    accounts_close(c->accounts);
    json_decref(c->in);
    free(c);
}

enum api_error admin_error_of(int rc)
{
    switch (-rc) {
    case ERR_NOT_FOUND:
        return API_NOT_FOUND;
    case ERR_INPUT:
    case ERR_LIMIT:
    case ERR_DENIED: /* it is closed, or always open: the key is not at fault */
        return API_INVALID_VALUE;
    case ERR_UNSUPPORTED:
        return API_UNSUPPORTED_PARAMETER;
    case ERR_EXISTS:
        return API_EXISTS;
    case ERR_MISMATCH:
        return API_IDEMPOTENCY_MISMATCH;
    case ERR_MEMORY:
        return API_QUEUE_FULL;
    case ERR_CLOSING:
        return API_DRAINING;
    default:
        return API_ACCOUNTS_DOWN;
    }
}

static void done(struct pool_job *j)
{
    struct admin_call *c = (struct admin_call *)((char *)j - offsetof(struct admin_call, job));
    if (!c->ran) c->rc = err_set(&c->e, ERR_CLOSING, "The server is shutting down.");
    if (c->fresh) accounts_adopt(c->g->accounts, c->accounts); /* so that it holds for the next request */
    if (c->r && c->rc)
        api_error_reply(c->r, admin_error_of(c->rc), &c->e);
    else if (c->r)
        http_reply(c->r, c->status, "application/json", c->out.data, c->out.len);
    call_free(c);
}

static void gone(void *ctx)
{
    ((struct admin_call *)ctx)->r = NULL;
}

bool admin_has_accounts(struct gateway *g, struct http_request *r)
{
    struct err e = {0};
    if (g->accounts) return true;
    err_set(&e, ERR_NOT_FOUND, "This server has no accounts (--no-auth).");
    api_error_reply(r, API_NOT_FOUND, &e);
    return false;
}

/* Whether the path is the operation's; *id: what stands for '*'. */
static bool path_is(const char *pattern, const char *path, int64_t *id)
{
    char digits[24];
    const char *star = strchr(pattern, '*');
    *id = 0;
    if (!star) return strcmp(pattern, path) == 0;
    size_t head = (size_t)(star - pattern), n;
    if (strncmp(pattern, path, head) != 0 || (n = strcspn(path + head, "/")) >= sizeof digits) return false;
    snprintf(digits, sizeof digits, "%.*s", (int)n, path + head);
    return strcmp(star + 1, path + head + n) == 0 && str_parse_int64(digits, 1, INT64_MAX, id);
}

/* NULL: it has replied. */
static const struct admin_op *find_op(struct http_request *r, int64_t *id)
{
    const char *method = strcmp(http_method(r), "HEAD") == 0 ? "GET" : http_method(r), *other = NULL;
    struct err e = {0};
    for (int i = 0; i < N_OPS; i++) {
        if (!path_is(ops[i].path, http_path(r), id)) continue;
        if (strcmp(ops[i].method, method) == 0) return &ops[i];
        other = ops[i].method; /* no path with an id has two */
    }
    if (other) {
        http_add_header(r, "allow", strcmp(other, "GET") == 0 ? "GET, HEAD" : other);
        err_set(&e, ERR_INPUT, "This is for %s requests.", other);
    } else
        err_set(&e, ERR_NOT_FOUND, "There is nothing at '%.*s'.", (int)utf8_cut(http_path(r), 200), http_path(r));
    api_error_reply(r, other ? API_METHOD_NOT_ALLOWED : API_NOT_FOUND, &e);
    return NULL;
}

static void handle(struct gateway *g, struct http_request *r)
{
    int64_t id;
    struct err e = {0};
    if (!admin_has_accounts(g, r)) return;
    const struct admin_op *op = find_op(r, &id);
    if (!op) return;
    struct admin_call *c = calloc(1, sizeof *c);
    if (!c) {
        err_set(&e, ERR_MEMORY, "out of memory");
        api_error_reply(r, API_QUEUE_FULL, &e);
        return;
    }
    *c = (struct admin_call){.g = g, .r = r, .op = op, .id = id, .status = 200, .job = {.work = work, .done = done}};
    buf_init(&c->out, REPLY_MAX_BYTES);
    int rc = read_call(c, &e);
    if (rc) {
        api_error_reply(r, admin_error_of(rc), &e);
        call_free(c);
        return;
    }
    http_on_gone(r, gone, c);
    pool_submit(g->desk, &c->job);
}

#define ENDPOINT(name, m, p) const struct endpoint endpoint_##name = {.method = m, .path = p, .access = ACCESS_ADMIN, .handle = handle}
ENDPOINT(accounts_list, "GET", "/admin/accounts");
ENDPOINT(accounts_add, "POST", "/admin/accounts");
ENDPOINT(accounts_show, "GET", "/admin/accounts/");
ENDPOINT(accounts_change, "POST", "/admin/accounts/");
ENDPOINT(budgets_list, "GET", "/admin/budgets");
ENDPOINT(budgets_change, "POST", "/admin/budgets/");
ENDPOINT(keys_list, "GET", "/admin/keys");
ENDPOINT(keys_add, "POST", "/admin/keys");
ENDPOINT(keys_change, "POST", "/admin/keys/");
ENDPOINT(prices_list, "GET", "/admin/prices");
ENDPOINT(prices_add, "POST", "/admin/prices");
ENDPOINT(prices_change, "POST", "/admin/prices/");
ENDPOINT(break_even, "GET", "/admin/break-even");
ENDPOINT(usage, "GET", "/admin/usage");
ENDPOINT(reconcile, "POST", "/admin/reconcile");
ENDPOINT(alerts_list, "GET", "/admin/alerts");
ENDPOINT(alerts_test, "POST", "/admin/alerts/test");
ENDPOINT(prune, "POST", "/admin/prune");
