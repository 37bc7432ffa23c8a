/* Accounts as JSON: see account_json.h. */
#include "server/accounts/account_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "server/accounts/money.h"

static void json_name(struct buf *b, const char *name)
{
    char last = b->len ? b->data[b->len - 1] : '{';
    buf_printf(b, last == '{' || last == '[' ? "\"%s\":" : ",\"%s\":", name);
}

void account_json_text(struct buf *b, const char *name, const char *value)
{
    json_name(b, name);
    json_write_string(b, value, strlen(value));
}

void account_json_int(struct buf *b, const char *name, int64_t value)
{
    json_name(b, name);
    buf_printf(b, "%" PRId64, value);
}

void account_json_id(struct buf *b, const char *name, int64_t value)
{
    if (value) {
        account_json_int(b, name, value);
        return;
    }
    json_name(b, name);
    buf_puts(b, "null");
}

void account_json_money(struct buf *b, const char *name, int64_t nusd)
{
    char text[MONEY_BYTES];
    account_json_text(b, name, money_write(nusd, text));
}

void account_json_account(struct buf *b, const struct directory_account *a)
{
    buf_putc(b, '{');
    account_json_int(b, "id", a->id);
    account_json_id(b, "parent", a->parent);
    account_json_text(b, "kind", a->kind);
    account_json_text(b, "name", a->name);
    account_json_int(b, "keys", a->n_keys);
    account_json_id(b, "created_at", a->created_s);
    account_json_id(b, "closed_at", a->closed_s);
    account_json_id(b, "frozen_at", a->frozen_s);
    if (a->has_balance) {
        account_json_money(b, "balance_usd", a->balance.posted_nusd);
        account_json_money(b, "held_usd", a->balance.pending_nusd);
    }
    if (strcmp(a->kind, "project") == 0) buf_printf(b, ",\"stores_answers\":%s", a->stores_answers ? "true" : "false");
    if (a->balance.prepaid) account_json_money(b, "floor_usd", a->balance.floor_nusd);
    buf_putc(b, '}');
}

void account_json_budget(struct buf *b, const struct ledger_budget *budget)
{
    bool money = strcmp(budget->unit, "nusd") == 0;
    void (*put)(struct buf *, const char *, int64_t) = money ? account_json_money : account_json_int;
    buf_putc(b, '{');
    account_json_int(b, "id", budget->id);
    account_json_int(b, "account", budget->account);
    account_json_text(b, "unit", money ? "usd" : budget->unit);
    account_json_text(b, "period", budget->period);
    account_json_text(b, "scope", budget->scope);
    put(b, "amount", budget->amount);
    put(b, "used", budget->posted);
    put(b, "held", budget->pending);
    buf_printf(b, ",\"hard\":%s", budget->hard ? "true" : "false");
    account_json_int(b, "window_starts_at", budget->starts_s);
    buf_putc(b, '}');
}

void account_json_rule(struct buf *b, const struct rules_row *r)
{
    buf_putc(b, '{');
    account_json_int(b, "account", r->account);
    account_json_text(b, "kind", r->kind);
    account_json_text(b, "rule", r->name);
    account_json_text(b, "value", r->value);
    buf_putc(b, '}');
}
