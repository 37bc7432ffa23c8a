/* Admin: organisations, projects, their money and budgets. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "server/accounts/account_json.h"
#include "server/accounts/words.h"
#include "server/api/admin.h"

enum { NUMBER_BYTES = 24 };
#define MAX_COUNT 1000000000000

static void put_account(void *ctx, const struct directory_account *a)
{
    account_json_account(ctx, a);
}

static void put_budget(void *ctx, const struct ledger_budget *b)
{
    account_json_budget(ctx, b);
}

static void put_rule(void *ctx, const struct rules_row *r)
{
    account_json_rule(ctx, r);
}

static int put_accounts(struct admin_call *c, int64_t id, bool keys, struct err *e)
{
    buf_puts(&c->out, "{\"object\":\"list\",\"accounts\":[");
    int rc = directory_list(c->db, id, keys, put_account, &c->out, e);
    buf_puts(&c->out, "],\"budgets\":[");
    if (!rc) rc = ledger_budget_list(c->ledger, id, put_budget, &c->out, e);
    buf_puts(&c->out, "],\"rules\":[");
    if (!rc) rc = rules_list(c->db, id, put_rule, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

static void put_id(struct admin_call *c, int64_t id)
{
    account_json_open(&c->out);
    account_json_int(&c->out, "id", id);
    buf_putc(&c->out, '}');
}

int admin_list(struct admin_call *c, struct err *e)
{
    bool keys = false;
    int rc = admin_bool(c, "keys", &keys, e);
    return rc ? rc : put_accounts(c, 0, keys, e);
}

int admin_show(struct admin_call *c, struct err *e)
{
    return put_accounts(c, c->id, true, e);
}

int admin_create(struct admin_call *c, struct err *e)
{
    const char *kind = "", *name = "";
    int64_t organisation = DIRECTORY_ORGANISATION, id;
    int rc = admin_need_text(c, "kind", &kind, e);
    if (!rc) rc = admin_need_text(c, "name", &name, e);
    if (!rc) rc = admin_int(c, "organisation", 1, INT64_MAX, &organisation, e);
    if (rc) return rc;
    if (strcmp(kind, "project") == 0)
        id = directory_project_add(c->db, organisation, name, e);
    else if (strcmp(kind, "organisation") == 0 && !admin_given(c, "organisation"))
        id = directory_organisation_add(c->db, name, e);
    else
        id = strcmp(kind, "organisation") == 0 ? err_set_param(e, ERR_INPUT, "organisation", "An organisation is in no other one.")
                                               : err_set_param(e, ERR_INPUT, "kind", "'kind' must be organisation or project.");
    if (id < 0) return (int)id;
    put_id(c, id);
    c->status = 201;
    return 0;
}

int admin_rename(struct admin_call *c, struct err *e)
{
    const char *name = "";
    int rc = admin_need_text(c, "name", &name, e);
    if (!rc) rc = directory_rename(c->db, c->id, name, e);
    return rc ? rc : admin_show(c, e);
}

int admin_close(struct admin_call *c, struct err *e)
{
    int rc = directory_close(c->db, c->id, e);
    return rc ? rc : admin_show(c, e);
}

int admin_storage(struct admin_call *c, struct err *e)
{
    bool on = false;
    int rc = admin_need(c, "on", e);
    if (!rc) rc = admin_bool(c, "on", &on, e);
    if (!rc) rc = directory_store_answers(c->db, c->id, on, e);
    return rc ? rc : admin_show(c, e);
}

int admin_freeze(struct admin_call *c, struct err *e)
{
    int rc = directory_freeze(c->db, c->id, c->op->arg, e);
    return rc ? rc : admin_show(c, e);
}

static int rule_of(const char *name)
{
    for (int i = 0; i < RULES; i++)
        if (strcmp(rule_names[i], name) == 0) return i;
    return -1;
}

/* null: no rule. */
int admin_rules(struct admin_call *c, struct err *e)
{
    const char *values[RULES] = {0}, *name;
    json_t *value;
    int rc = 0;
    json_object_foreach(c->in, name, value)
    {
        int i = rule_of(name);
        if (rc) break;
        if (i < 0)
            rc = err_set_param(e, ERR_UNSUPPORTED, name, "There is no rule '%.60s'.", name);
        else if (json_is_null(value))
            values[i] = "any";
        else
            rc = admin_text(c, name, &values[i], e);
    }
    if (!rc) rc = rules_change(c->db, c->id, values, e);
    return rc ? rc : admin_show(c, e);
}

/* --- money --- */

int admin_transfer(struct admin_call *c, struct err *e)
{
    struct ledger_order o = {.kind = (enum ledger_transfer_kind)c->op->arg, .account = c->id, .key = c->key};
    struct ledger_balance balance;
    bool repeated;
    int rc = admin_need_money(c, "amount_usd", &o.amount_nusd, e);
    if (!rc) rc = admin_text(c, "note", &o.note, e);
    if (!rc) rc = admin_int(c, "linked", 1, INT64_MAX, &o.linked, e);
    if (rc) return rc;
    int64_t id = ledger_transfer_order(c->ledger, &o, &repeated, e);
    if (id < 0) return (int)id;
    rc = ledger_balance(c->ledger, c->id, &balance, e);
    if (rc) return rc;
    account_json_open(&c->out);
    account_json_int(&c->out, "id", id);
    account_json_text(&c->out, "kind", ledger_transfer_names[o.kind]);
    account_json_int(&c->out, "account", c->id);
    account_json_money(&c->out, "amount_usd", o.amount_nusd);
    account_json_money(&c->out, "balance_usd", balance.posted_nusd);
    account_json_bool(&c->out, "repeated", repeated);
    buf_putc(&c->out, '}');
    c->status = repeated ? 200 : 201;
    return 0;
}

int admin_prepaid(struct admin_call *c, struct err *e)
{
    int64_t floor_nusd;
    bool off = json_is_null(json_object_get(c->in, "floor_usd"));
    int rc = off ? 0 : admin_need_money(c, "floor_usd", &floor_nusd, e);
    if (!rc) rc = ledger_floor_set(c->ledger, c->id, off ? NULL : &floor_nusd, e);
    return rc ? rc : admin_show(c, e);
}

/* --- budgets --- */

int admin_limit(struct admin_call *c, struct err *e)
{
    int rc = 0, n = 0;
    for (int i = 0; i < LEDGER_LIMITS && !rc; i++) {
        const struct ledger_limit *l = &ledger_limits[i];
        int64_t amount;
        if (!admin_given(c, l->name)) continue;
        rc = admin_int(c, l->name, 0, MAX_COUNT, &amount, e);
        if (!rc) rc = ledger_limit_set(c->ledger, c->id, l->unit, l->period, amount, e);
        n++;
    }
    if (!rc && n == 0) rc = err_set_param(e, ERR_INPUT, "rpm", "Give 'rpm', 'tpm' or 'concurrency'.");
    return rc ? rc : admin_show(c, e);
}

/* A number of requests or tokens may be a number. */
static int read_amount(const struct admin_call *c, const char *unit, int64_t *amount, struct err *e)
{
    const char *text = "";
    if (strcmp(unit, "usd") == 0) return admin_need_money(c, "amount", amount, e);
    if (json_is_integer(json_object_get(c->in, "amount"))) return admin_int(c, "amount", 0, INT64_MAX, amount, e);
    int rc = admin_need_text(c, "amount", &text, e);
    return rc ? rc : words_amount("amount", unit, text, amount, e);
}

int admin_budget_add(struct admin_call *c, struct err *e)
{
    const char *unit = "usd";
    struct ledger_budget b = {.account = c->id, .scope = "all", .period = "month", .hard = true};
    int rc = admin_text(c, "unit", &unit, e);
    if (!rc) rc = read_amount(c, unit, &b.amount, e);
    if (!rc) rc = admin_text(c, "period", &b.period, e);
    if (!rc) rc = admin_text(c, "scope", &b.scope, e);
    if (!rc) rc = admin_bool(c, "hard", &b.hard, e);
    if (rc) return rc;
    if (strcmp(unit, "nusd") == 0) return err_set_param(e, ERR_INPUT, "unit", "'unit' must be usd, requests or tokens.");
    b.unit = strcmp(unit, "usd") == 0 ? "nusd" : unit;
    int64_t id = ledger_budget_add(c->ledger, &b, e);
    if (id < 0) return (int)id;
    put_id(c, id);
    c->status = 201;
    return 0;
}

int admin_budget_list(struct admin_call *c, struct err *e)
{
    int64_t account = 0;
    int rc = admin_int(c, "account", 1, INT64_MAX, &account, e);
    buf_puts(&c->out, "{\"object\":\"list\",\"data\":[");
    if (!rc) rc = ledger_budget_list(c->ledger, account, put_budget, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

int admin_budget_end(struct admin_call *c, struct err *e)
{
    int rc = ledger_budget_end(c->ledger, c->id, e);
    if (!rc) put_id(c, c->id);
    return rc;
}
