/* Admin: prices, statements, usage, a provider's invoice, pruning. */
#include "base/clock.h"
#include "server/accounts/account_json.h"
#include "server/accounts/prune.h"
#include "server/accounts/words.h"
#include "server/api/admin.h"

enum { PRUNE_STEPS = 25 /* of one request: the client asks again while there are more */, MAX_DAYS = 36500 };
#define MAX_TOKENS 1000000000000

static void open_list(struct admin_call *c)
{
    buf_puts(&c->out, "{\"object\":\"list\",\"data\":[");
}

/* --- prices --- */

static void put_price(void *ctx, const struct price_table_row *p)
{
    account_json_price(ctx, p);
}

int admin_price_list(struct admin_call *c, struct err *e)
{
    const char *provider = NULL, *model = NULL;
    bool history = false;
    int rc = admin_text(c, "provider", &provider, e);
    if (!rc) rc = admin_text(c, "model", &model, e);
    if (!rc) rc = admin_bool(c, "history", &history, e);
    open_list(c);
    if (!rc) rc = price_table_list(c->db, provider, model, history, put_price, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

/* id < 0: why there is none. */
static int put_made(struct admin_call *c, int64_t id)
{
    if (id < 0) return (int)id;
    account_json_open(&c->out);
    account_json_int(&c->out, "id", id);
    buf_putc(&c->out, '}');
    c->status = 201;
    return 0;
}

/* The body is one model's object, as in docs/prices.md. */
int admin_price_set(struct admin_call *c, struct err *e)
{
    return put_made(c, price_table_set(c->db, c->body.data ? c->body.data : "", c->body.len, "operator", e));
}

int admin_price_markup(struct admin_call *c, struct err *e)
{
    const char *provider = "", *percent = "";
    int64_t hundredths;
    int rc = admin_need_text(c, "provider", &provider, e);
    if (!rc) rc = admin_need_text(c, "percent", &percent, e);
    if (!rc) rc = words_percent("percent", percent, PRICE_MAX_MARKUP, &hundredths, e);
    return rc ? rc : put_made(c, price_table_set_markup(c->db, provider, hundredths, "operator", e));
}

int admin_price_gpu_hour(struct admin_call *c, struct err *e)
{
    const char *model = "";
    int64_t nusd;
    int rc = admin_need_text(c, "model", &model, e);
    if (!rc) rc = admin_need_money(c, "usd", &nusd, e);
    if (!rc && nusd <= 0) rc = err_set_param(e, ERR_INPUT, "usd", "An hour must cost more than 0.");
    return rc ? rc : put_made(c, price_table_set_gpu_hour(c->db, model, nusd, "operator", e));
}

static void put_even(void *ctx, const struct break_even *b)
{
    account_json_break_even(ctx, b);
}

/* Against the hosted prices that are in the store. */
int admin_break_even(struct admin_call *c, struct err *e)
{
    const char *from = NULL, *to = NULL;
    int64_t from_day, to_day;
    int rc = admin_text(c, "from", &from, e);
    if (!rc) rc = admin_text(c, "to", &to, e);
    if (!rc) rc = words_days("from", from, "to", to, 1 - BREAK_EVEN_DAYS, &from_day, &to_day, e);
    open_list(c);
    if (!rc) rc = break_even(c->db, from_day, to_day, clock_wall_s(), NULL, 0, put_even, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

int admin_price_end(struct admin_call *c, struct err *e)
{
    const char *provider = "", *model = "";
    int rc = admin_need_text(c, "provider", &provider, e);
    if (!rc) rc = admin_need_text(c, "model", &model, e);
    if (!rc) rc = price_table_end(c->db, provider, model, e);
    account_json_open(&c->out);
    account_json_text(&c->out, "provider", provider);
    account_json_text(&c->out, "model", model);
    buf_putc(&c->out, '}');
    return rc;
}

/* --- statements, usage --- */

static void put_line(void *ctx, const struct report_line *l)
{
    account_json_line(ctx, l);
}

/* The opening balance comes first, and is known last: lines are kept until then. */
int admin_statement(struct admin_call *c, struct err *e)
{
    const char *month = NULL;
    struct report_statement s;
    struct buf lines;
    int64_t from_s, to_s;
    int rc = admin_text(c, "month", &month, e);
    if (!rc) rc = words_month("month", month, &from_s, &to_s, e);
    if (rc) return rc;
    buf_init(&lines, c->out.max);
    rc = report_statement(c->db, c->id, from_s * 1000, to_s * 1000, put_line, &lines, &s, e);
    if (!rc && lines.failed) rc = err_set(e, ERR_MEMORY, "the statement does not fit");
    if (!rc) {
        account_json_open(&c->out);
        account_json_statement(&c->out, c->id, from_s, &s);
        buf_puts(&c->out, ",\"lines\":[");
        buf_append(&c->out, lines.data, lines.len);
        buf_puts(&c->out, "]}");
    }
    buf_free(&lines);
    return rc;
}

struct usage_list {
    struct buf *out;
    unsigned by;
};

static void put_usage(void *ctx, const struct report_usage *u)
{
    struct usage_list *l = ctx;
    account_json_usage(l->out, l->by, u);
}

int admin_usage(struct admin_call *c, struct err *e)
{
    const char *by = "project,day", *from = NULL, *to = NULL;
    struct report_query q = {0};
    int64_t month_s, unused;
    int rc = admin_text(c, "by", &by, e);
    if (!rc) rc = words_groups("by", by, &q.by, e);
    if (!rc) rc = admin_text(c, "from", &from, e);
    if (!rc) rc = admin_text(c, "to", &to, e);
    if (!rc) rc = words_month("month", NULL, &month_s, &unused, e);
    if (!rc) rc = words_days("from", from, "to", to, month_s / WORDS_DAY_S, &q.from_day, &q.to_day, e);
    if (!rc) rc = admin_int(c, "project", 1, INT64_MAX, &q.project, e);
    open_list(c);
    if (!rc) rc = report_usage(c->db, &q, put_usage, &(struct usage_list){.out = &c->out, .by = q.by}, e);
    buf_puts(&c->out, "]}");
    return rc;
}

/* --- a provider's invoice --- */

static void put_difference(void *ctx, unsigned bits, const struct reconcile_row *theirs, const struct reconcile_row *ours)
{
    account_json_difference(ctx, bits, theirs, ours);
}

static int read_reconcile(struct admin_call *c, struct reconcile_options *o, struct err *e)
{
    const char *threshold = "0.01";
    int rc = admin_need_text(c, "supplier", &o->supplier, e);
    if (!rc) rc = admin_text(c, "threshold_usd", &threshold, e);
    if (!rc) rc = words_money("threshold_usd", threshold, &o->threshold_nusd, e);
    if (!rc && o->threshold_nusd < 0) rc = err_set_param(e, ERR_INPUT, "threshold_usd", "'threshold_usd' must not be below 0.");
    if (!rc) rc = admin_int(c, "token_threshold", 0, MAX_TOKENS, &o->threshold_tokens, e);
    if (!rc) rc = admin_bool(c, "close", &o->close, e);
    return rc;
}

int admin_reconcile(struct admin_call *c, struct err *e)
{
    struct reconcile_options o = {0};
    struct reconcile_file file = {0};
    struct reconcile_sums sums;
    struct buf differences;
    int rc = read_reconcile(c, &o, e);
    if (!rc && c->body.len == 0) rc = err_set(e, ERR_INPUT, "The body must be the provider's usage export, CSV or JSON.");
    if (!rc) rc = reconcile_read_text(&file, c->body.data, c->body.len, "body", e);
    if (rc) return rc;
    buf_init(&differences, c->out.max);
    rc = reconcile(c->db, &file, &o, put_difference, &differences, &sums, e);
    reconcile_free(&file);
    if (!rc && differences.failed) rc = err_set(e, ERR_MEMORY, "the differences do not fit");
    if (!rc) {
        account_json_open(&c->out);
        account_json_int(&c->out, "compared", (int64_t)sums.n_compared);
        account_json_int(&c->out, "different", (int64_t)sums.n_different);
        account_json_money(&c->out, "theirs_usd", sums.theirs_nusd);
        account_json_money(&c->out, "ours_usd", sums.ours_nusd);
        account_json_int(&c->out, "closed", sums.n_closed);
        buf_puts(&c->out, ",\"data\":[");
        buf_append(&c->out, differences.data, differences.len);
        buf_puts(&c->out, "]}");
    }
    buf_free(&differences);
    return rc;
}

/* --- alerts --- */

static void put_alert(void *ctx, const struct alert_row *r)
{
    account_json_alert(ctx, r);
}

int admin_alert_list(struct admin_call *c, struct err *e)
{
    open_list(c);
    int rc = alert_list(c->db, ALERT_LIST_MOST, put_alert, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

int admin_alert_test(struct admin_call *c, struct err *e)
{
    int rc = alert_add_test(c->db, e);
    return rc ? rc : admin_alert_list(c, e);
}

/* --- pruning --- */

int admin_prune(struct admin_call *c, struct err *e)
{
    int64_t days = 0;
    struct prune p;
    int rc = admin_need(c, "older_than_days", e), more = 1;
    if (!rc) rc = admin_int(c, "older_than_days", PRUNE_MIN_DAYS, MAX_DAYS, &days, e);
    if (!rc) rc = prune_begin(&p, c->db, days, e);
    for (int i = 0; i < PRUNE_STEPS && !rc && more; i++) {
        more = prune_step(&p, e);
        if (more < 0) rc = more;
    }
    if (rc) return rc;
    account_json_open(&c->out);
    account_json_int(&c->out, "requests", p.n);
    account_json_bool(&c->out, "more", more);
    buf_putc(&c->out, '}');
    return 0;
}
