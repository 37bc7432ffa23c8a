/* Alerts, what they are of: each finder reads figures and adds what is out of the ordinary to a list, which then goes into the store. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/accounts/account_json.h"
#include "server/accounts/money.h"
#include "server/alerts.h"

enum { SUBJECT_BYTES = 192, MESSAGE_BYTES = 768, DATA_BYTES = 12 << 10, MOST_NAMES = 5, LONG_NAME = 80 };

struct found {
    const char *kind;
    char subject[SUBJECT_BYTES], message[MESSAGE_BYTES];
    int64_t occasion;
    struct buf data;
};

struct list {
    struct found *items;
    size_t n, cap;
    bool failed;
    size_t n_prices; /* of the last item, which is a price_change */
};

/* NULL: no memory, which the list remembers. */
static struct found *add(struct list *l, const char *kind, int64_t occasion)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct found *more = reallocarray(l->items, cap, sizeof *more);
        if (!more) {
            l->failed = true;
            return NULL;
        }
        l->items = more;
        l->cap = cap;
    }
    struct found *f = &l->items[l->n++];
    *f = (struct found){.kind = kind, .occasion = occasion};
    buf_init(&f->data, DATA_BYTES);
    return f;
}

/* --- spend --- */

static void add_spend(struct list *l, const struct alert_hour *h, const struct alert_spend *s, const struct alert_past *p)
{
    struct found *f = add(l, "spend_rate", h->starts_s);
    char now[MONEY_BYTES], usual[MONEY_BYTES], who[SUBJECT_BYTES];
    int64_t mean_nusd = p->past_nusd / p->past_hours;
    if (!f) return;
    money_write(s->spent_nusd, now);
    money_write(mean_nusd, usual);
    if (s->project) {
        snprintf(f->subject, sizeof f->subject, "project %" PRId64, s->project);
        snprintf(who, sizeof who, "project %" PRId64 " '%.100s' has spent", s->project, p->name);
    } else {
        strcpy(f->subject, "all");
        strcpy(who, "all suppliers together cost");
    }
    snprintf(f->message, sizeof f->message, "%s %s dollars in this hour; in the week before it was %s an hour", who, now, usual);
    account_json_id(&f->data, "account", s->project);
    account_json_text(&f->data, "name", p->name);
    account_json_int(&f->data, "hour_starts_at", h->starts_s);
    account_json_money(&f->data, "hour_usd", s->spent_nusd);
    account_json_money(&f->data, "usual_hour_usd", mean_nusd);
}

/* A hold is the most that a request can cost: who came to more was bounded too low, and we pay. */
static void add_overrun(struct list *l, const struct alert_hour *h, const struct alert_spend *s)
{
    struct found *f = add(l, "overrun", h->starts_s);
    char now[MONEY_BYTES];
    if (!f) return;
    strcpy(f->subject, "all");
    snprintf(f->message, sizeof f->message, "requests of this hour came to %s dollars beyond their holds, which no customer pays", money_write(s->spent_nusd, now));
    account_json_int(&f->data, "hour_starts_at", h->starts_s);
    account_json_money(&f->data, "hour_usd", s->spent_nusd);
}

static int find_spend(struct list *l, struct db *db, const struct alerts_bounds *b, struct alert_hour *h, struct err *e)
{
    int rc = alert_hour_read(h, db, e);
    for (size_t i = 0; i < h->n && !rc; i++) {
        const struct alert_spend *s = &h->spends[i];
        struct alert_past past;
        if (s->project == ALERT_OVERRUN) add_overrun(l, h, s);
        if (s->project == ALERT_OVERRUN || s->spent_nusd < b->spend_floor_nusd) continue;
        rc = alert_past_read(db, s->project, &past, e);
        if (!rc && alert_spend_is_high(s->spent_nusd, past.past_nusd, past.past_hours, b->spend_factor, b->spend_floor_nusd))
            add_spend(l, h, s, &past);
    }
    return rc;
}

/* --- rates --- */

static int per_cent(const struct alert_count *c)
{
    return c->n ? (int)(c->hit * 100 / c->n) : 0;
}

static void find_rate(struct list *l, const char *kind, const char *words, struct alert_rate *r, struct alert_count total, int limit,
                      int64_t hour_s)
{
    struct alert_count recent, past;
    alert_rate_note(r, total);
    alert_rate_windows(r, &recent, &past);
    struct found *f = hour_s && alert_rate_is_high(&recent, &past, limit) ? add(l, kind, hour_s) : NULL;
    if (!f) return;
    strcpy(f->subject, "gateway");
    snprintf(f->message, sizeof f->message, "%" PRIu64 " of the last %" PRIu64 " requests %s (%d %%); before that it was %d %%", recent.hit, recent.n,
             words, per_cent(&recent), per_cent(&past));
    account_json_int(&f->data, "requests", (int64_t)recent.n);
    account_json_int(&f->data, "hit", (int64_t)recent.hit);
    account_json_int(&f->data, "percent", per_cent(&recent));
    account_json_int(&f->data, "requests_before", (int64_t)past.n);
    account_json_int(&f->data, "percent_before", per_cent(&past));
}

/* --- budgets --- */

static void budget_found(void *ctx, const struct alert_budget *b)
{
    struct found *f = add(ctx, "budget_reached", b->starts_s);
    bool money = strcmp(b->unit, "nusd") == 0;
    const char *unit = money ? "usd" : b->unit;
    char amount[MONEY_BYTES];
    if (!f) return;
    if (money)
        money_write(b->amount, amount);
    else
        snprintf(amount, sizeof amount, "%" PRId64, b->amount);
    snprintf(f->subject, sizeof f->subject, "budget %" PRId64, b->id);
    snprintf(f->message, sizeof f->message, "budget %" PRId64 " of account %" PRId64 " '%.100s' is used up: %s %s per %s (%s requests)", b->id,
             b->account, b->name, amount, unit, b->period, b->scope);
    account_json_int(&f->data, "budget", b->id);
    account_json_int(&f->data, "account", b->account);
    account_json_text(&f->data, "name", b->name);
    account_json_text(&f->data, "unit", unit);
    account_json_text(&f->data, "period", b->period);
    account_json_text(&f->data, "scope", b->scope);
    (money ? account_json_money : account_json_int)(&f->data, "amount", b->amount);
    (money ? account_json_money : account_json_int)(&f->data, "used", b->used);
    account_json_int(&f->data, "window_starts_at", b->starts_s);
}

/* --- prices: one alert a provider and look, with as many of its models as there is room for --- */

static struct found *price_alert_of(struct list *l, const struct alert_price *p)
{
    struct found *f = l->n ? &l->items[l->n - 1] : NULL;
    if (f && strcmp(f->kind, "price_change") == 0 && strcmp(f->subject, p->provider) == 0) return f;
    l->n_prices = 0;
    if (!(f = add(l, "price_change", p->id))) return NULL;
    snprintf(f->subject, sizeof f->subject, "%.150s", p->provider);
    snprintf(f->message, sizeof f->message, "prices of %.100s have changed:", p->provider);
    account_json_text(&f->data, "provider", p->provider);
    buf_puts(&f->data, ",\"prices\":[");
    return f;
}

static void price_found(void *ctx, const struct alert_price *p)
{
    struct list *l = ctx;
    struct found *f = price_alert_of(l, p);
    struct buf one;
    if (!f) return;
    f->occasion = p->id; /* of the newest: another change has another one */
    size_t n = strlen(f->message);
    if (l->n_prices < MOST_NAMES)
        snprintf(f->message + n, sizeof f->message - n, "%s %s", l->n_prices ? "," : "", strlen(p->model) > LONG_NAME ? "..." : p->model);
    if (l->n_prices++ == MOST_NAMES) snprintf(f->message + n, sizeof f->message - n, " and more");
    buf_init(&one, DATA_BYTES);
    buf_puts(&one, f->data.data[f->data.len - 1] == '[' ? "{" : ",{");
    account_json_text(&one, "model", p->model);
    account_json_text(&one, "source", p->source);
    buf_printf(&one, ",\"before\":%s,\"now\":%s}", p->before, p->now); /* JSON as price_write made it */
    if (!one.failed && f->data.len + one.len + 2 < DATA_BYTES) buf_append(&f->data, one.data, one.len);
    buf_free(&one);
}

static int find_prices(struct list *l, struct db *db, int64_t *last_price, struct err *e)
{
    size_t first = l->n;
    int rc = alert_prices(db, last_price, price_found, l, e);
    for (size_t i = first; i < l->n; i++) buf_putc(&l->items[i].data, ']');
    return rc;
}

/* --- all of them --- */

static int keep(struct list *l, struct db *db, struct err *e)
{
    int rc = l->failed ? err_set(e, ERR_MEMORY, "out of memory") : 0;
    for (size_t i = 0; i < l->n && !rc; i++) {
        const struct found *f = &l->items[i];
        bool added;
        rc = alert_add(db,
                       &(struct alert){.kind = f->kind, .subject = f->subject, .occasion = f->occasion, .message = f->message, .data = &f->data},
                       &added, e);
    }
    for (size_t i = 0; i < l->n; i++) buf_free(&l->items[i].data);
    free(l->items);
    return rc;
}

int alerts_find(struct db *db, const struct alerts_bounds *b, struct alerts_seen *s, struct alert_count failed,
                struct alert_count overflowed, struct err *e)
{
    struct list l = {.n = 0};
    struct err kept;
    int64_t last_price = s->last_price;
    int rc = find_spend(&l, db, b, &s->hour, e);
    find_rate(&l, "error_rate", "have failed", &s->failed, failed, b->error_per_cent, s->hour.starts_s);
    find_rate(&l, "overflow_rate", "went to a provider in place of a local model", &s->overflowed, overflowed, b->overflow_per_cent,
              s->hour.starts_s);
    if (!rc) rc = alert_budgets(db, budget_found, &l, e);
    if (!rc) rc = find_prices(&l, db, &last_price, e);
    int kept_rc = keep(&l, db, &kept);
    if (!rc && kept_rc) {
        *e = kept;
        rc = kept_rc;
    }
    if (!rc) s->last_price = last_price; /* not before they are kept */
    return rc;
}
