/* GET /admin/accounts and /admin/accounts/ID: everybody with balances, and the budgets with what is used of them; POST
 * /admin/accounts/ID/freeze and /unfreeze. For admin keys. What moves money is `spillway accounts`' alone: a request that is sent twice
 * would move it twice.
 *
 * The database is asked by a pool thread, on a connection of its own. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/accounts/account_json.h"
#include "server/accounts/db.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

enum { REPLY_MAX_BYTES = 64 << 20, ID_BYTES = 24 };
static const char prefix[] = "/admin/accounts/";

enum what { SHOW, FREEZE, UNFREEZE };

struct order {
    struct gateway *g;
    struct http_request *r; /* NULL: the client has left */
    enum what what;
    int64_t id; /* 0: all */
    struct pool_job job;
    struct buf out;
    bool done, any;
    int rc;
    struct err e;
};

/* --- on a pool thread --- */

static void put_account(void *ctx, const struct directory_account *a)
{
    struct order *o = ctx;
    if (o->any) buf_putc(&o->out, ',');
    o->any = true;
    account_json_account(&o->out, a);
}

static void put_budget(void *ctx, const struct ledger_budget *b)
{
    struct order *o = ctx;
    if (o->any) buf_putc(&o->out, ',');
    o->any = true;
    account_json_budget(&o->out, b);
}

static void put_rule(void *ctx, const struct rules_row *r)
{
    struct order *o = ctx;
    if (o->any) buf_putc(&o->out, ',');
    o->any = true;
    account_json_rule(&o->out, r);
}

static int show(struct order *o, struct db *db, struct err *e)
{
    struct ledger *l;
    buf_puts(&o->out, "{\"object\":\"list\",\"accounts\":[");
    int rc = directory_list(db, o->id, o->id != 0, put_account, o, e);
    if (!rc) rc = ledger_open(&l, db, &(struct ledger_options){.gateway = "admin"}, e);
    if (rc) return rc;
    buf_puts(&o->out, "],\"budgets\":[");
    o->any = false;
    rc = ledger_budget_list(l, o->id, put_budget, o, e);
    ledger_close(l);
    buf_puts(&o->out, "],\"rules\":[");
    o->any = false;
    if (!rc) rc = rules_list(db, o->id, put_rule, o, e);
    buf_puts(&o->out, "]}");
    return rc || !o->out.failed ? rc : err_set(e, ERR_MEMORY, "the list does not fit");
}

static void work(struct pool_job *j)
{
    struct order *o = (struct order *)((char *)j - offsetof(struct order, job));
    struct db *db;
    o->done = true;
    o->rc = db_open(&db, o->g->store, &o->e);
    if (!o->rc && o->what != SHOW) o->rc = directory_freeze(db, o->id, o->what == FREEZE, &o->e);
    if (!o->rc) o->rc = show(o, db, &o->e);
    db_close(db);
}

/* --- on the loop --- */

static enum api_error error_of(int rc)
{
    switch (-rc) {
    case ERR_NOT_FOUND:
        return API_NOT_FOUND;
    case ERR_INPUT:  /* it is frozen already */
    case ERR_DENIED: /* it is closed */
        return API_INVALID_VALUE;
    case ERR_CLOSING:
        return API_DRAINING;
    default:
        return API_ACCOUNTS_DOWN;
    }
}

static void done(struct pool_job *j)
{
    struct order *o = (struct order *)((char *)j - offsetof(struct order, job));
    if (!o->done) o->rc = err_set(&o->e, ERR_CLOSING, "The server is shutting down.");
    if (o->r && o->rc)
        api_error_reply(o->r, error_of(o->rc), &o->e);
    else if (o->r)
        http_reply(o->r, 200, "application/json", o->out.data, o->out.len);
    buf_free(&o->out);
    free(o);
}

static void gone(void *ctx)
{
    ((struct order *)ctx)->r = NULL;
}

static void refuse(struct http_request *r, enum api_error kind, enum err_code code, const char *text)
{
    struct err e = {0};
    err_set(&e, code, "%s", text);
    api_error_reply(r, kind, &e);
}

static void answer(struct gateway *g, struct http_request *r, enum what what, int64_t id)
{
    struct order *o = g->accounts ? calloc(1, sizeof *o) : NULL;
    if (!g->accounts) {
        refuse(r, API_NOT_FOUND, ERR_NOT_FOUND, "This server has no accounts (--no-auth).");
        return;
    }
    if (!o) {
        refuse(r, API_INTERNAL_ERROR, ERR_MEMORY, "out of memory");
        return;
    }
    *o = (struct order){.g = g, .r = r, .what = what, .id = id, .job = {.work = work, .done = done}};
    buf_init(&o->out, REPLY_MAX_BYTES);
    http_on_gone(r, gone, o);
    pool_submit(g->pool, &o->job);
}

/* The id after the prefix; *rest: what follows it, "" or "/freeze". 0: it is none. */
static int64_t id_of(const struct http_request *r, const char **rest)
{
    const char *p = http_path(r) + strlen(prefix), *slash = strchr(p, '/');
    char digits[ID_BYTES];
    int64_t id;
    size_t n = slash ? (size_t)(slash - p) : strlen(p);
    *rest = p + n;
    if (n >= sizeof digits) return 0;
    memcpy(digits, p, n);
    digits[n] = '\0';
    return str_parse_int64(digits, 1, INT64_MAX, &id) ? id : 0;
}

static void list_get(struct gateway *g, struct http_request *r)
{
    answer(g, r, SHOW, 0);
}

static void show_get(struct gateway *g, struct http_request *r)
{
    const char *rest;
    int64_t id = id_of(r, &rest);
    if (id && !*rest)
        answer(g, r, SHOW, id);
    else
        refuse(r, API_NOT_FOUND, ERR_NOT_FOUND, "There is no such account.");
}

static void change_post(struct gateway *g, struct http_request *r)
{
    const char *rest;
    int64_t id = id_of(r, &rest);
    bool freeze = strcmp(rest, "/freeze") == 0;
    if (id && (freeze || strcmp(rest, "/unfreeze") == 0))
        answer(g, r, freeze ? FREEZE : UNFREEZE, id);
    else
        refuse(r, API_NOT_FOUND, ERR_NOT_FOUND, "An account can be frozen and unfrozen here: /admin/accounts/ID/freeze.");
}

const struct endpoint endpoint_accounts_list = {.method = "GET", .path = "/admin/accounts", .access = ACCESS_ADMIN, .handle = list_get};
const struct endpoint endpoint_accounts_show = {.method = "GET", .path = prefix, .access = ACCESS_ADMIN, .handle = show_get};
const struct endpoint endpoint_accounts_change = {.method = "POST", .path = prefix, .access = ACCESS_ADMIN, .handle = change_post};
