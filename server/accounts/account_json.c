/* Accounts as JSON: see account_json.h. */
#include "server/accounts/account_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "server/accounts/money.h"
#include "server/accounts/words.h"

static void json_name(struct buf *b, const char *name)
{
    char last = b->len ? b->data[b->len - 1] : '{';
    buf_printf(b, last == '{' || last == '[' ? "\"%s\":" : ",\"%s\":", name);
}

void account_json_open(struct buf *b)
{
    buf_puts(b, b->len && b->data[b->len - 1] == '}' ? ",\n {" : "{");
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

void account_json_bool(struct buf *b, const char *name, bool value)
{
    json_name(b, name);
    buf_puts(b, value ? "true" : "false");
}

void account_json_account(struct buf *b, const struct directory_account *a)
{
    account_json_open(b);
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
    account_json_open(b);
    account_json_int(b, "id", budget->id);
    account_json_int(b, "account", budget->account);
    account_json_text(b, "unit", money ? "usd" : budget->unit);
    account_json_text(b, "period", budget->period);
    account_json_text(b, "scope", budget->scope);
    put(b, "amount", budget->amount);
    put(b, "used", budget->posted);
    put(b, "held", budget->pending);
    account_json_bool(b, "hard", budget->hard);
    account_json_int(b, "window_starts_at", budget->starts_s);
    buf_putc(b, '}');
}

/* --- keys --- */

void account_json_key(struct buf *b, const struct accounts_key *k)
{
    static const char *const states[] = {
        [ACCOUNTS_KEY_VALID] = "valid", [ACCOUNTS_KEY_EXPIRED] = "expired", [ACCOUNTS_KEY_REVOKED] = "revoked"};
    account_json_open(b);
    account_json_int(b, "id", k->id);
    account_json_id(b, "project", k->admin ? 0 : k->project);
    account_json_text(b, "name", k->name);
    account_json_text(b, "hint", k->hint);
    account_json_text(b, "state", states[k->state]);
    account_json_bool(b, "admin", k->admin);
    account_json_bool(b, "configured", k->configured);
    account_json_int(b, "weight", k->share.weight);
    account_json_int(b, "priority", k->share.priority);
    account_json_int(b, "created_at", k->created_s);
    account_json_id(b, "expires_at", k->expires_s);
    account_json_id(b, "revoked_at", k->revoked_s);
    account_json_id(b, "former_secret_until", k->former_ends_s);
    buf_putc(b, '}');
}

void account_json_token(struct buf *b, int64_t id, const char *name, const char *token, int64_t expires_s)
{
    account_json_open(b);
    account_json_int(b, "id", id);
    if (name) account_json_text(b, "name", name);
    account_json_text(b, "key", token);
    account_json_id(b, "expires_at", expires_s);
    buf_putc(b, '}');
}

/* --- what the ledger has to tell --- */

void account_json_statement(struct buf *b, int64_t account, int64_t from_s, const struct report_statement *s)
{
    char day[WORDS_DAY_BYTES];
    account_json_int(b, "account", account);
    account_json_text(b, "from", words_show_day(from_s, day));
    account_json_money(b, "opening_usd", s->opening_nusd);
    account_json_money(b, "paid_in_usd", s->paid_in_nusd);
    account_json_money(b, "sales_usd", s->sales_nusd);
    account_json_money(b, "other_usd", s->other_nusd);
    account_json_money(b, "closing_usd", s->closing_nusd);
}

void account_json_line(struct buf *b, const struct report_line *l)
{
    char day[WORDS_DAY_BYTES];
    account_json_open(b);
    account_json_text(b, "day", words_show_day(l->at_ms / 1000, day));
    account_json_text(b, "kind", l->kind);
    account_json_id(b, "id", l->id);
    account_json_int(b, "count", l->n);
    account_json_money(b, "amount_usd", l->amount_nusd);
    account_json_money(b, "balance_usd", l->balance_nusd);
    account_json_id(b, "linked", l->linked);
    account_json_text(b, "note", l->note);
    buf_putc(b, '}');
}

void account_json_usage(struct buf *b, unsigned by, const struct report_usage *u)
{
    char day[WORDS_DAY_BYTES];
    account_json_open(b);
    if (by & REPORT_DAY) account_json_text(b, "day", words_show_day(u->day * WORDS_DAY_S, day));
    if (by & REPORT_PROJECT) {
        account_json_int(b, "project", u->project);
        account_json_text(b, "project_name", u->project_name);
    }
    if (by & REPORT_KEY) {
        account_json_int(b, "key", u->key);
        account_json_text(b, "key_name", u->key_name);
    }
    if (by & REPORT_MODEL) account_json_text(b, "model", u->model);
    if (by & REPORT_SUPPLIER) account_json_text(b, "supplier", u->supplier_name);
    if (by & REPORT_TAG) {
        account_json_text(b, "tag", u->tag);
        account_json_text(b, "value", u->value);
    }
    account_json_int(b, "requests", u->requests);
    account_json_int(b, "tokens_in", u->tokens_in);
    account_json_int(b, "tokens_cached", u->tokens_cached);
    account_json_int(b, "tokens_out", u->tokens_out);
    account_json_money(b, "sales_usd", u->sale_nusd);
    account_json_money(b, "cost_usd", u->cost_nusd);
    if (!(by & REPORT_TAG)) account_json_int(b, "estimated", u->estimated);
    buf_putc(b, '}');
}

void account_json_price(struct buf *b, const struct price_table_row *p)
{
    account_json_open(b);
    account_json_int(b, "id", p->id);
    account_json_text(b, "provider", p->provider);
    account_json_text(b, "model", p->model);
    account_json_text(b, "source", p->source);
    account_json_int(b, "created_at", p->created_s);
    account_json_id(b, "ended_at", p->ended_s);
    json_name(b, "price");
    buf_printf(b, "%s}", p->rows);
}

void account_json_break_even(struct buf *b, const struct break_even *even)
{
    account_json_open(b);
    account_json_text(b, "model", even->use->model);
    account_json_money(b, "gpu_hour_usd", even->use->hour_nusd);
    account_json_int(b, "tokens_in", even->use->tokens_in);
    account_json_int(b, "tokens_cached", even->use->tokens_cached);
    account_json_int(b, "tokens_out", even->use->tokens_out);
    account_json_int(b, "hours", even->use->hours);
    account_json_int(b, "tokens_an_hour", even->use->an_hour);
    account_json_int(b, "tokens_busiest_hour", even->use->busiest_hour);
    account_json_text(b, "provider", even->provider);
    account_json_text(b, "hosted_model", even->model);
    account_json_money(b, "hosted_usd", even->hosted_nusd);
    account_json_id(b, "break_even_tokens_an_hour", even->known ? even->needed_an_hour : 0);
    account_json_text(b, "cheaper", break_even_verdict(even));
    buf_putc(b, '}');
}

/* --- reconciliation --- */

void account_json_differs(struct buf *b, unsigned bits, const char *quote)
{
    static const struct {
        enum reconcile_bit bit;
        const char *word;
    } words[] = {{RECONCILE_ONLY_THEIRS, "only_theirs"}, {RECONCILE_ONLY_OURS, "only_ours"}, {RECONCILE_AMOUNT, "amount"},
                 {RECONCILE_REQUESTS, "requests"},       {RECONCILE_TOKENS_IN, "tokens_in"}, {RECONCILE_TOKENS_OUT, "tokens_out"}};
    for (size_t i = 0, n = 0; i < sizeof words / sizeof words[0]; i++)
        if (bits & words[i].bit) buf_printf(b, "%s%s%s%s", n++ ? "," : "", quote, words[i].word, quote);
}

static void put_side(struct buf *b, const char *name, const struct reconcile_row *r)
{
    json_name(b, name);
    buf_putc(b, '{');
    account_json_money(b, "amount_usd", r->amount_nusd);
    account_json_int(b, "requests", r->requests);
    account_json_int(b, "tokens_in", r->tokens_in);
    account_json_int(b, "tokens_out", r->tokens_out);
    buf_putc(b, '}');
}

void account_json_difference(struct buf *b, unsigned bits, const struct reconcile_row *theirs, const struct reconcile_row *ours)
{
    char day[WORDS_DAY_BYTES];
    account_json_open(b);
    account_json_text(b, "day", words_show_day(theirs->day * WORDS_DAY_S, day));
    account_json_text(b, "model", theirs->model);
    json_name(b, "differs");
    buf_putc(b, '[');
    account_json_differs(b, bits, "\"");
    buf_putc(b, ']');
    put_side(b, "theirs", theirs);
    put_side(b, "ours", ours);
    buf_putc(b, '}');
}

/* --- alerts, rules --- */

void account_json_alert(struct buf *b, const struct alert_row *r)
{
    account_json_open(b);
    account_json_int(b, "id", r->id);
    account_json_id(b, "created_at", r->created_ms / 1000);
    account_json_text(b, "kind", r->kind);
    account_json_text(b, "subject", r->subject);
    account_json_text(b, "message", r->message);
    account_json_int(b, "tries", r->tries);
    account_json_id(b, "sent_at", r->sent_ms / 1000);
    account_json_id(b, "next_try_at", r->next_ms / 1000);
    buf_putc(b, '}');
}

void account_json_rule(struct buf *b, const struct rules_row *r)
{
    account_json_open(b);
    account_json_int(b, "account", r->account);
    account_json_text(b, "kind", r->kind);
    account_json_text(b, "rule", r->name);
    account_json_text(b, "value", r->value);
    buf_putc(b, '}');
}
