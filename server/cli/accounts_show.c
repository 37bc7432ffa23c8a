/* accounts list | show | budget list: how everybody stands. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/accounts/account_json.h"
#include "server/accounts/directory.h"
#include "server/accounts/money.h"
#include "server/cli/accounts_parts.h"

enum { COLUMNS = 7, BUDGET_COLUMNS = 9, ID_BYTES = 24, NAME_BYTES = 256, STATE_BYTES = 64 };

struct list {
    struct accounts_listing out;
    int64_t only; /* the account that is shown; 0: the whole tree */
};

static void show_id(int64_t id, char out[ID_BYTES])
{
    snprintf(out, ID_BYTES, "%" PRId64, id);
}

static const char *state_of(const struct directory_account *a, char out[STATE_BYTES])
{
    char day[ACCOUNTS_DAY_BYTES];
    bool closed = a->closed_s != 0, frozen = a->frozen_s != 0;
    snprintf(out, STATE_BYTES, "%s%s%s",
             closed   ? "closed "
             : frozen ? "frozen "
                      : "open",
             closed || frozen ? accounts_show_day(closed ? a->closed_s : a->frozen_s, day) : "", a->stores_answers ? ", keeps answers" : "");
    return out;
}

static int depth_of(const char *kind)
{
    return strcmp(kind, "project") == 0 ? 1 : strcmp(kind, "key") == 0 ? 2 : 0;
}

static void list_row(void *ctx, const struct directory_account *a)
{
    struct list *l = ctx;
    char id[ID_BYTES], name[NAME_BYTES], state[STATE_BYTES], has[MONEY_BYTES] = "", held[MONEY_BYTES] = "", floor[MONEY_BYTES] = "";
    show_id(a->id, id);
    snprintf(name, sizeof name, "%*s%.200s", l->only ? 0 : 2 * depth_of(a->kind), "", a->name);
    if (a->has_balance) {
        money_write(a->balance.posted_nusd, has);
        money_write(a->balance.pending_nusd, held);
    }
    if (a->balance.prepaid) money_write(a->balance.floor_nusd, floor);
    table_add(&l->out.table, (const char *const[COLUMNS]){id, a->kind, name, has, held, floor, state_of(a, state)});
}

static void list_json(void *ctx, const struct directory_account *a)
{
    account_json_account(&((struct list *)ctx)->out.json, a);
}

static const char *const header[COLUMNS] = {"ID", "KIND", "NAME", "BALANCE", "HELD", "FLOOR", "STATE"};

int accounts_list(struct accounts_run *r, struct err *e)
{
    struct list l = {0};
    accounts_listing_begin(&l.out, COLUMNS, header);
    int rc = directory_list(r->db, 0, r->o->keys, r->o->json ? list_json : list_row, &l, e);
    return accounts_listing_end(&l.out, rc, r->o->json, "[", "]", e);
}

/* --- budgets --- */

static void write_amount(bool money, int64_t amount, char out[MONEY_BYTES])
{
    if (money)
        money_write(amount, out);
    else
        snprintf(out, MONEY_BYTES, "%" PRId64, amount);
}

static void budget_row(void *ctx, const struct ledger_budget *b)
{
    struct list *l = ctx;
    bool money = strcmp(b->unit, "nusd") == 0;
    char id[ID_BYTES], account[ID_BYTES], amount[MONEY_BYTES], used[MONEY_BYTES], held[MONEY_BYTES], left[MONEY_BYTES];
    show_id(b->id, id);
    show_id(b->account, account);
    write_amount(money, b->amount, amount);
    write_amount(money, b->posted, used);
    write_amount(money, b->pending, held);
    write_amount(money, b->amount - b->posted - b->pending, left);
    table_add(&l->out.table, (const char *const[BUDGET_COLUMNS]){id, account, money ? "usd" : b->unit, b->period, b->scope, amount, used, held,
                                                             b->hard ? left : "(only tells)"});
}

static void budget_json(void *ctx, const struct ledger_budget *b)
{
    account_json_budget(&((struct list *)ctx)->out.json, b);
}

static const char *const budget_header[BUDGET_COLUMNS] = {"BUDGET", "OF", "UNIT", "PERIOD", "SCOPE", "AMOUNT", "USED", "HELD", "LEFT"};

int accounts_budget_list(struct accounts_run *r, struct err *e)
{
    struct list l = {0};
    int64_t id = 0;
    int rc = r->n_args ? accounts_id(r->args[0], &id, e) : 0;
    if (rc) return rc;
    accounts_listing_begin(&l.out, BUDGET_COLUMNS, budget_header);
    rc = ledger_budget_list(r->ledger, id, r->o->json ? budget_json : budget_row, &l, e);
    return accounts_listing_end(&l.out, rc, r->o->json, "[", "]", e);
}

/* The account and what is right below it, then its budgets, then its rules. */
int accounts_show(struct accounts_run *r, struct err *e)
{
    struct list l = {0}, budgets = {0};
    bool json = r->o->json;
    int rc = accounts_id(r->args[0], &l.only, e);
    if (rc) return rc;
    accounts_listing_begin(&l.out, COLUMNS, header);
    accounts_listing_begin(&budgets.out, BUDGET_COLUMNS, budget_header);
    rc = directory_list(r->db, l.only, true, json ? list_json : list_row, &l, e);
    if (!rc) rc = ledger_budget_list(r->ledger, l.only, json ? budget_json : budget_row, &budgets, e);
    rc = accounts_listing_end(&l.out, rc, json, "{\"accounts\":[", "],", e);
    if (!rc && !json) putchar('\n');
    rc = accounts_listing_end(&budgets.out, rc, json, " \"budgets\":[", "],", e);
    return rc ? rc : accounts_rules_print(r, l.only, " \"rules\":[", "]}", e);
}
