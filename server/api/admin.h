/* Admin: what `spillway accounts` and `spillway keys` do, under /admin for admin keys. admin.c has the table of operations, reads what is given,
 * and runs each on a thread of the desk (gateway.desk) with a connection of its own; the functions below are the operations. Nothing of them touches the loop.
 *
 * What is given are members of a JSON object, or parameters of a GET's query; one that an operation does not know is refused. What comes back
 * is what --json prints (account_json.h). Money is moved only with an Idempotency-Key, once for each. */
#ifndef SPILLWAY_SERVER_API_ADMIN_H
#define SPILLWAY_SERVER_API_ADMIN_H

#include "server/accounts/ledger.h"
#include "server/gateway.h"

enum admin_needs {
    ADMIN_LEDGER = 1 << 0,
    ADMIN_KEYS = 1 << 1,  /* call->accounts; after a change the gateway's keys and rules are those of the store at once */
    ADMIN_QUERY = 1 << 2, /* its members are in the query also of a POST, whose body is its own matter */
    ADMIN_TEXT = 1 << 3,  /* the body is its own matter, and there is no query */
    ADMIN_ONCE = 1 << 4   /* asks for an Idempotency-Key */
};

struct admin_call;

struct admin_op {
    const char *method, *path; /* '*' in it is an id */
    const char *fields;        /* what may be given, with blanks between; NULL: the operation looks itself */
    unsigned needs;
    int (*run)(struct admin_call *c, struct err *e); /* writes to c->out */
    int arg;                                         /* its own */
};

struct admin_call {
    struct gateway *g;
    struct http_request *r; /* NULL: the client has left. The loop's thread only */
    const struct admin_op *op;
    int64_t id;     /* of the path; 0: it has none */
    json_t *in;     /* an object: what is given */
    struct buf body; /* as it came */
    char key[LEDGER_MAX_KEY + 2];
    /* on its thread */
    struct db *db;
    struct accounts *accounts; /* ADMIN_KEYS */
    struct ledger *ledger;     /* ADMIN_LEDGER */
    struct buf out;            /* JSON */
    unsigned status;           /* 200 unless the operation says otherwise */
    struct pool_job job;
    bool ran, fresh; /* fresh: accounts has read all keys and rules */
    int rc;
    struct err e;
};

/* Members of what is given. 0 and *out as it was if it is not there; -ERR_INPUT names it in e->param. Texts are borrowed from c->in. */
MUST_USE int admin_text(const struct admin_call *c, const char *name, const char **out, struct err *e);
MUST_USE int admin_int(const struct admin_call *c, const char *name, int64_t min, int64_t max, int64_t *out, struct err *e);
MUST_USE int admin_bool(const struct admin_call *c, const char *name, bool *out, struct err *e);
bool admin_given(const struct admin_call *c, const char *name);
/* The same, and it must be there. */
MUST_USE int admin_need(const struct admin_call *c, const char *name, struct err *e);
MUST_USE int admin_need_text(const struct admin_call *c, const char *name, const char **out, struct err *e);
MUST_USE int admin_need_money(const struct admin_call *c, const char *name, int64_t *nusd, struct err *e);
/* A query as an object of texts; NULL: *e says why not. */
json_t *admin_read_query(const struct http_request *r, struct err *e);
/* Whether all members are among these. */
MUST_USE int admin_check_fields(const json_t *in, const char *fields, struct err *e);
enum api_error admin_error_of(int rc);
/* false: it has replied that this server has no accounts. */
bool admin_has_accounts(struct gateway *g, struct http_request *r);

int admin_list(struct admin_call *c, struct err *e); /* admin_accounts.c */
int admin_show(struct admin_call *c, struct err *e);
int admin_create(struct admin_call *c, struct err *e);
int admin_rename(struct admin_call *c, struct err *e);
int admin_close(struct admin_call *c, struct err *e);
int admin_storage(struct admin_call *c, struct err *e);
int admin_freeze(struct admin_call *c, struct err *e); /* arg: whether */
int admin_rules(struct admin_call *c, struct err *e);
int admin_transfer(struct admin_call *c, struct err *e); /* arg: enum ledger_transfer_kind */
int admin_prepaid(struct admin_call *c, struct err *e);
int admin_limit(struct admin_call *c, struct err *e);
int admin_budget_add(struct admin_call *c, struct err *e);
int admin_budget_list(struct admin_call *c, struct err *e);
int admin_budget_end(struct admin_call *c, struct err *e);
int admin_key_list(struct admin_call *c, struct err *e); /* admin_keys.c */
int admin_key_make(struct admin_call *c, struct err *e);
int admin_key_set(struct admin_call *c, struct err *e);
int admin_key_rotate(struct admin_call *c, struct err *e);
int admin_key_revoke(struct admin_call *c, struct err *e);
int admin_price_list(struct admin_call *c, struct err *e); /* admin_reports.c */
int admin_price_set(struct admin_call *c, struct err *e);
int admin_price_markup(struct admin_call *c, struct err *e);
int admin_price_gpu_hour(struct admin_call *c, struct err *e);
int admin_break_even(struct admin_call *c, struct err *e);
int admin_price_end(struct admin_call *c, struct err *e);
int admin_statement(struct admin_call *c, struct err *e);
int admin_usage(struct admin_call *c, struct err *e);
int admin_reconcile(struct admin_call *c, struct err *e);
int admin_alert_list(struct admin_call *c, struct err *e);
int admin_alert_test(struct admin_call *c, struct err *e);
int admin_prune(struct admin_call *c, struct err *e);

#endif
