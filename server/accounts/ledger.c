/* Ledger: see ledger.h. A batch goes: read what the operations are about, lock and read the rows of balances and budgets, decide one after the
 * other, write, commit. */
#include "server/accounts/ledger_parts.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const ledger_units[UNITS] = {"nusd", "requests", "tokens"};
const char *const ledger_periods[PERIODS] = {"now", "minute", "hour", "day", "month", "total"};
const char *const ledger_scopes[3] = {"all", "hosted", "overflow"};

/* What an operation holds of a budget's window. */
struct held {
    int64_t budget, starts_s, amount;
};

/* An operation on its way through a batch. */
struct work {
    struct ledger_op *op;
    struct work *before; /* one of the same batch for the same request, before this */
    struct chain chain;
    bool known; /* its request is there and open */
    int64_t held, scope, created_day;
    bool has_tags;
    char model[LEDGER_MODEL_BYTES];
    struct held windows[LEDGER_MAX_WINDOWS];
    size_t n_windows, n_before; /* the first n_before it was in before */
};

static int refuse(struct ledger_op *op, int rc)
{
    return op->rc = rc;
}

/* --- what a reserve asks of --- */

/* The budgets above a key that count work of this scope; those it is in already are left out. */
static int want_windows(struct ledger *l, struct work *w, enum ledger_scope from, enum ledger_scope to, struct err *e)
{
    const int64_t accounts[] = {w->chain.key, w->chain.project, w->chain.organisation, l->house};
    for (size_t i = 0; i < 4; i++) {
        size_t n;
        const struct budget *b = ledger_budgets_of(l, accounts[i], &n);
        for (size_t j = 0; j < n; j++) {
            if (b[j].ended || b[j].scope > to || b[j].scope < from) continue;
            if (w->n_windows == LEDGER_MAX_WINDOWS)
                return err_set(e, ERR_LIMIT, "more than %d budgets count for key %lld", LEDGER_MAX_WINDOWS, (long long)w->chain.key);
            int64_t starts_s = ledger_window_start_s(b[j].period, l->now_ms / 1000);
            w->windows[w->n_windows++] = (struct held){.budget = b[j].id, .starts_s = starts_s};
            int rc = rows_want_window(&l->rows, &b[j], starts_s, e);
            if (rc) return rc;
        }
    }
    return 0;
}

/* KNOWN too: the same keys may ask. */
static int gather_reserve(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    int rc = ledger_chain(l, op->account, &w->chain, &op->err);
    if (rc == -ERR_NOT_FOUND || rc == -ERR_DENIED) return refuse(op, rc), 0;
    if (rc) return *e = op->err, rc;
    if (w->chain.closed || w->chain.frozen)
        return refuse(op, err_set(&op->err, ERR_DENIED, w->chain.closed ? "This API key is revoked." : "This account is frozen.")), 0;
    w->known = true;
    op->stores = w->chain.stores;
    if (op->type == LEDGER_KNOWN) return 0;
    CHECK(op->amount_nusd >= 0 && op->tokens >= 0 && op->model);
    w->scope = op->scope;
    rc = want_windows(l, w, LEDGER_LOCAL, op->scope, e);
    return rc ? rc : rows_want_balance(&l->rows, w->chain.project, e);
}

/* --- what the others are about --- */

static int read_held(struct ledger *l, struct work *w, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows, "SELECT budget, starts_s, held FROM request_windows WHERE request = ?1", DB_ARGS(db_int(w->op->request)), e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        struct held h = {.budget = db_get_int(&rows, 0), .starts_s = db_get_int(&rows, 1), .amount = db_get_int(&rows, 2)};
        const struct budget *b = ledger_budget_by_id(l, h.budget);
        if (!b || w->n_windows == LEDGER_MAX_WINDOWS)
            rc = err_set(e, ERR_INTERNAL, "request %lld holds of a budget that is not there", (long long)w->op->request);
        else
            rc = rows_want_window(&l->rows, b, h.starts_s, e);
        if (!rc) w->windows[w->n_windows++] = h;
    }
    db_done(&rows);
    w->n_before = w->n_windows;
    return rc;
}

static int read_request(struct ledger *l, struct work *w, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows,
                      "SELECT account, project, held, scope, created_ms, model,"
                      " CASE WHEN tags IS NULL THEN 0 ELSE 1 END FROM requests"
                      " WHERE id = ?1 AND state = 'reserved' {for update}",
                      DB_ARGS(db_int(w->op->request)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        w->known = true;
        w->chain.key = db_get_int(&rows, 0);
        w->chain.project = db_get_int(&rows, 1);
        w->held = db_get_int(&rows, 2);
        w->scope = db_get_int(&rows, 3);
        w->created_day = db_get_int(&rows, 4) / 86400000;
        snprintf(w->model, sizeof w->model, "%s", db_get_text(&rows, 5));
        w->has_tags = db_get_int(&rows, 6) != 0;
    }
    db_done(&rows);
    return rc < 0 ? rc : 0;
}

static int gather_open(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    int rc = read_request(l, w, e);
    if (rc) return rc;
    if (!w->known)
        return refuse(op, err_set(&op->err, ERR_NOT_FOUND, "request %lld is not open", (long long)op->request)), 0;
    rc = l->n_budgets ? read_held(l, w, e) : 0; /* all that ever were */
    if (!rc && op->type == LEDGER_ATTEMPT && (int64_t)op->scope > w->scope) {
        struct chain whole;
        rc = ledger_chain(l, w->chain.key, &whole, e);
        if (!rc) w->chain = whole;
        if (!rc) rc = want_windows(l, w, (enum ledger_scope)(w->scope + 1), op->scope, e);
    }
    if (!rc) rc = rows_want_balance(&l->rows, w->chain.project, e);
    bool ends = op->type == LEDGER_POST || op->type == LEDGER_VOID;
    if (!rc && ends) rc = rows_want_balance(&l->rows, l->house, e);
    if (!rc && ends) rc = rows_want_balance(&l->rows, l->overrun, e);
    for (int i = 0; i < op->n_used && ends && !rc; i++) rc = rows_want_balance(&l->rows, op->used[i].supplier, e);
    return rc;
}

/* --- deciding --- */

static int64_t sum(int64_t a, int64_t b)
{
    int64_t r;
    CHECK(!__builtin_add_overflow(a, b, &r)); /* amounts are bounded where they come in (price_book.h): 9.2e18 is $9.2e9 */
    return r;
}

/* What the request holds itself will not return. */
static int refuse_balance(struct ledger_op *op, const struct balance_row *b, int64_t own)
{
    int64_t posted = sum(b->posted, b->more_posted), pending = sum(b->pending, b->more_pending);
    if (!b->has_floor || op->amount_nusd == 0 || posted - pending - op->amount_nusd >= b->floor) return 0;
    if (posted - own - op->amount_nusd >= b->floor)
        return refuse(op, err_set(&op->err, ERR_HELD, "The project's balance is held by other requests: try again."));
    return refuse(op, err_set(&op->err, ERR_BUDGET, "The project's balance does not cover this request."));
}

static int refuse_window(struct ledger_op *op, const struct window_row *w, int64_t own, int64_t more)
{
    static const char *const of[UNITS] = {"budget", "limit of requests", "limit of tokens"};
    const struct budget *b = w->budget;
    int64_t posted = sum(w->posted, w->more_posted), pending = sum(w->pending, w->more_pending),
            ends_s = ledger_window_end_s(b->period, w->starts_s);
    if (!b->hard || b->ended || more == 0 || sum(sum(posted, pending), more) <= b->amount) return 0;
    op->budget = b->id;
    op->free_at_ms = ends_s * 1000;
    if (b->unit != UNIT_NUSD)
        return refuse(op, err_set(&op->err, ERR_RATE, "The %s per %s is reached (%lld).", of[b->unit], ledger_periods[b->period],
                                  (long long)b->amount));
    if (sum(sum(posted, own), more) <= b->amount)
        return refuse(op, err_set(&op->err, ERR_HELD, "A budget is held by other requests: try again."));
    return refuse(op, err_set(&op->err, ERR_BUDGET, "The %s budget (per %s) does not cover this request.", ledger_scopes[b->scope],
                              ledger_periods[b->period]));
}

/* Of a window: more of each that it holds; of one that is new to the request also what it holds already. */
static int64_t more_of(const struct work *w, size_t i, const struct budget *b)
{
    bool anew = i >= w->n_before;
    if (b->unit == UNIT_NUSD) return anew ? sum(w->op->amount_nusd, w->held) : w->op->amount_nusd;
    if (b->unit == UNIT_TOKENS) return anew && w->op->type == LEDGER_ATTEMPT ? w->op->all_tokens : w->op->tokens;
    return anew ? 1 : 0;
}

static unsigned limits_of(struct ledger *l, const struct work *w)
{
    unsigned limits = rows_balance(&l->rows, w->chain.project)->has_floor ? LEDGER_LIMITS_MONEY : 0;
    for (size_t i = 0; i < w->n_windows; i++) {
        const struct budget *b = rows_window(&l->rows, w->windows[i].budget, w->windows[i].starts_s)->budget;
        if (!b->hard || b->ended || b->unit == UNIT_REQUESTS) continue;
        limits |= b->unit == UNIT_NUSD ? LEDGER_LIMITS_MONEY : LEDGER_LIMITS_TOKENS;
    }
    return limits;
}

/* Whether what is asked for more fits; if it does it is held. */
static int hold(struct ledger *l, struct work *w)
{
    struct balance_row *balance = rows_balance(&l->rows, w->chain.project);
    w->op->limits = limits_of(l, w);
    int rc = refuse_balance(w->op, balance, w->held);
    for (size_t i = 0; i < w->n_windows && !rc; i++) {
        const struct window_row *r = rows_window(&l->rows, w->windows[i].budget, w->windows[i].starts_s);
        rc = refuse_window(w->op, r, w->windows[i].amount, more_of(w, i, r->budget));
    }
    if (rc) return rc;
    balance->more_pending = sum(balance->more_pending, w->op->amount_nusd);
    balance->granted = true;
    for (size_t i = 0; i < w->n_windows; i++) {
        struct window_row *r = rows_window(&l->rows, w->windows[i].budget, w->windows[i].starts_s);
        int64_t more = more_of(w, i, r->budget);
        r->more_pending = sum(r->more_pending, more);
        w->windows[i].amount = sum(w->windows[i].amount, more);
    }
    w->held = sum(w->held, w->op->amount_nusd);
    w->n_before = w->n_windows;
    return 0;
}

/* Not the house's, which would tell of others' use. */
static void note_rates(struct ledger *l, struct work *w)
{
    for (size_t i = 0; i < w->n_windows; i++) {
        const struct window_row *r = rows_window(&l->rows, w->windows[i].budget, w->windows[i].starts_s);
        const struct budget *b = r->budget;
        if (!b->hard || b->period != PERIOD_MINUTE || b->unit == UNIT_NUSD || b->account == l->house) continue;
        struct ledger_rate *rate = &w->op->rates[b->unit == UNIT_REQUESTS ? LEDGER_RATE_REQUESTS : LEDGER_RATE_TOKENS];
        int64_t left = b->amount - sum(sum(r->posted, r->more_posted), sum(r->pending, r->more_pending));
        if (left < 0) left = 0;
        if (rate->is && rate->remaining <= left) continue;
        *rate = (struct ledger_rate){true, b->amount, left, ledger_window_end_s(b->period, r->starts_s) * 1000 - l->now_ms};
    }
}

static int write_held(struct ledger *l, const struct work *w, int64_t request, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < w->n_windows && !rc; i++) {
        const struct held *h = &w->windows[i];
        rc = db_send(l->db,
                    "INSERT INTO request_windows (request, budget, starts_s, held) VALUES (?1, ?2, ?3, ?4)"
                    " ON CONFLICT (request, budget) DO UPDATE SET held = excluded.held",
                    DB_ARGS(db_int(request), db_int(h->budget), db_int(h->starts_s), db_int(h->amount)), 1, e);
    }
    return rc;
}

static int write_attempt(struct ledger *l, int64_t request, int n, const struct ledger_attempt *a, int64_t price, struct err *e)
{
    return db_send(l->db,
                   "INSERT INTO attempts (request, n, supplier, model, price, state, started_ms, sale_estimate, cost_estimate)"
                   " VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8)",
                   DB_ARGS(db_int(request), db_int(n), db_int(a->supplier), db_text(a->model), db_int_or_null(price != 0, price),
                           db_int(l->now_ms), db_int(a->sale_estimate_nusd), db_int(a->cost_estimate_nusd)),
                   1, e);
}

/* --- one function an operation; not 0 is the store's fault, an op's own is in its rc --- */

static int do_reserve(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    int rc = op->idempotency_key ? answer_find(l, op, w->chain.stores, e) : 0;
    if (rc || op->rc) return rc;
    rc = hold(l, w);
    note_rates(l, w);
    if (rc) return 0;
    rc = ledger_price_id(l, &op->price_of, &op->price_id, e);
    if (rc) return rc;
    const int64_t price = op->price ? op->price : op->price_id;
    op->request = l->run << 32 | ++l->seq;
    rc = db_send(
        l->db,
        "INSERT INTO requests (id, account, project, state, scope, model, price, created_ms, deadline_ms, reserved, held, reason, tags, markup)"
        " VALUES (?1, ?2, ?3, 'reserved', ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11, ?12)",
        DB_ARGS(db_int(op->request), db_int(w->chain.key), db_int(w->chain.project), db_int(op->scope), db_text(op->model),
                db_int_or_null(price != 0, price), db_int(l->now_ms), db_int(l->now_ms + op->lasts_ms), db_int(op->amount_nusd),
                db_text(op->reason), db_text(op->tags), db_int_or_null(op->markup != 0, op->markup)),
        1, e);
    if (!rc) rc = write_held(l, w, op->request, e);
    if (!rc && op->attempt.supplier) rc = write_attempt(l, op->request, 1, &op->attempt, op->attempt.price ? op->attempt.price : op->price_id, e);
    if (!rc && op->idempotency_key) rc = answer_note_key(l, op, e);
    return rc;
}

/* More of the same, or another attempt, perhaps one that costs more or counts in more budgets. */
static int do_more(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    if (hold(l, w)) return 0;
    if (op->type == LEDGER_ATTEMPT && (int64_t)op->scope > w->scope) w->scope = (int64_t)op->scope;
    int rc = ledger_price_id(l, &op->price_of, &op->price_id, e);
    if (!rc) rc = db_send(l->db, "UPDATE requests SET reserved = reserved + ?2, held = held + ?2, scope = ?3 WHERE id = ?1",
                    DB_ARGS(db_int(op->request), db_int(op->amount_nusd), db_int(w->scope)), 1, e);
    if (!rc) rc = write_held(l, w, op->request, e);
    if (rc) return rc;
    if (op->type == LEDGER_ATTEMPT)
        return write_attempt(l, op->request, op->n, &op->attempt, op->attempt.price ? op->attempt.price : op->price_id, e);
    return db_send(
        l->db, "UPDATE attempts SET sale_estimate = ?3, cost_estimate = ?4, extended = ?5 WHERE request = ?1 AND n = ?2",
        DB_ARGS(db_int(op->request), db_int(op->n), db_int(op->attempt.sale_estimate_nusd), db_int(op->attempt.cost_estimate_nusd),
                db_int(op->attempt.extended)),
        1, e);
}

static int transfer(struct ledger *l, int64_t request, int attempt, const char *kind, int64_t debit, int64_t credit, int64_t amount,
                    struct err *e)
{
    if (amount == 0) return 0;
    rows_balance(&l->rows, debit)->more_posted -= amount;
    rows_balance(&l->rows, credit)->more_posted += amount;
    return db_send(l->db,
                   "INSERT INTO transfers (request, attempt, kind, debit, credit, amount, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                   DB_ARGS(db_int(request), db_int_or_null(attempt != 0, attempt), db_text(kind), db_int(debit), db_int(credit),
                           db_int(amount), db_int(l->now_ms)),
                   1, e);
}

static struct db_arg meter(const struct usage *u, enum usage_meter m)
{
    return db_int_or_null(usage_has(u, m), u->count[m]);
}

static bool is_estimated(const struct ledger_used *u)
{
    return u->usage.source != USAGE_REPORTED;
}

static int end_attempt(struct ledger *l, const struct ledger_op *op, const struct ledger_used *u, struct err *e)
{
    static const char *const states[] = {
        [LEDGER_SERVED] = "served", [LEDGER_CUT] = "cut", [LEDGER_FAILED] = "failed", [LEDGER_NOT_KNOWN] = "unknown"};
    static const char *const sources[] = {[USAGE_REPORTED] = "reported", [USAGE_ESTIMATED] = "estimated", [USAGE_MIXED] = "mixed"};
    const struct usage *m = &u->usage;
    CHECK(u->cost_nusd >= 0);
    int rc = db_send(
        l->db,
        "UPDATE attempts SET state = ?3, ended_ms = ?4, in_uncached = ?5, in_cache_read = ?6, in_cache_write_5m = ?7,"
        " in_cache_write_1h = ?8, in_audio = ?9, in_image = ?10, out_text = ?11, out_reasoning = ?12, out_audio = ?13, searches = ?14,"
        " source = ?15, cost = ?16, raw = ?17, tier = ?19 WHERE request = ?1 AND n = ?2 AND supplier = ?18",
        DB_ARGS(db_int(op->request), db_int(u->n), db_text(states[u->end]), db_int(l->now_ms), meter(m, USAGE_IN_UNCACHED),
                meter(m, USAGE_IN_CACHE_READ), meter(m, USAGE_IN_CACHE_WRITE), meter(m, USAGE_IN_CACHE_LONG), meter(m, USAGE_IN_AUDIO),
                meter(m, USAGE_IN_IMAGE), meter(m, USAGE_OUT_TEXT), meter(m, USAGE_OUT_REASONING), meter(m, USAGE_OUT_AUDIO),
                meter(m, USAGE_SEARCHES), db_text(m->present || is_estimated(u) ? sources[m->source] : NULL), db_int(u->cost_nusd),
                db_text(u->raw), db_int(u->supplier), db_text(u->tier)),
        1, e);
    if (!rc) rc = transfer(l, op->request, u->n, "cost", l->house, u->supplier, u->cost_nusd, e);
    if (!rc && u->reconcile)
        rc = db_send(l->db, "INSERT INTO reconciliation (request, attempt, reason, created_ms) VALUES (?1, ?2, ?3, ?4)",
                     DB_ARGS(db_int(op->request), db_int(u->n), db_text(u->reconcile), db_int(l->now_ms)), 1, e);
    return rc;
}

/* --- sums by day --- */

struct usage_sums {
    int64_t tokens_in, tokens_cached, tokens_out, sale, cost;
};

static struct usage_sums sums_of(const struct ledger_op *op, const struct ledger_used *u)
{
    int64_t in = usage_sum(&u->usage, USAGE_IN), out = usage_sum(&u->usage, USAGE_OUT);
    return (struct usage_sums){.tokens_in = in > 0 ? in : 0,
                               .tokens_cached = u->usage.count[USAGE_IN_CACHE_READ],
                               .tokens_out = out > 0 ? out : 0,
                               .sale = u->n == op->served ? op->charged_nusd : 0,
                               .cost = u->cost_nusd};
}

static int read_tags(struct ledger *l, const struct work *w, json_t **tags, struct err *e)
{
    struct db_rows rows;
    *tags = NULL;
    int rc = db_query(l->db, &rows, "SELECT tags FROM requests WHERE id = ?1", DB_ARGS(db_int(w->op->request)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) *tags = json_loads(db_get_text(&rows, 0), 0, NULL); /* not JSON, by another program: none */
    db_done(&rows);
    return rc < 0 ? rc : 0;
}

static int add_tags(struct ledger *l, const struct work *w, const struct usage_sums *s, struct err *e)
{
    json_t *tags;
    int rc = read_tags(l, w, &tags, e);
    for (void *it = json_object_iter(tags); it && !rc; it = json_object_iter_next(tags, it)) {
        const char *value = json_string_value(json_object_iter_value(it));
        rc = db_send(
            l->db,
            "INSERT INTO usage_tags (day, project, tag, value, requests, tokens_in, tokens_cached, tokens_out, sale, cost)"
            " VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (day, project, tag, value) DO UPDATE SET"
            " requests = usage_tags.requests + 1, tokens_in = usage_tags.tokens_in + excluded.tokens_in,"
            " tokens_cached = usage_tags.tokens_cached + excluded.tokens_cached, tokens_out = usage_tags.tokens_out + excluded.tokens_out,"
            " sale = usage_tags.sale + excluded.sale, cost = usage_tags.cost + excluded.cost",
            DB_ARGS(db_int(w->created_day), db_int(w->chain.project), db_text(json_object_iter_key(it)), db_text(value ? value : ""),
                    db_int(s->tokens_in), db_int(s->tokens_cached), db_int(s->tokens_out), db_int(s->sale), db_int(s->cost)),
            1, e);
    }
    json_decref(tags);
    return rc;
}

static int add_usage(struct ledger *l, const struct work *w, const struct ledger_used *u, struct err *e)
{
    struct usage_sums s = sums_of(w->op, u);
    bool served = u->n == w->op->served;
    int rc = db_send(
        l->db,
        "INSERT INTO usage_days (day, project, account, model, supplier, requests, tokens_in, tokens_cached, tokens_out, sale, cost, "
        "estimated)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (day, project, account, model, supplier) DO UPDATE SET"
        " requests = usage_days.requests + excluded.requests, tokens_in = usage_days.tokens_in + excluded.tokens_in,"
        " tokens_cached = usage_days.tokens_cached + excluded.tokens_cached, tokens_out = usage_days.tokens_out + excluded.tokens_out,"
        " sale = usage_days.sale + excluded.sale, cost = usage_days.cost + excluded.cost, estimated = usage_days.estimated + "
        "excluded.estimated",
        DB_ARGS(db_int(w->created_day), db_int(w->chain.project), db_int(w->chain.key), db_text(w->model), db_int(u->supplier),
                db_int(served), db_int(s.tokens_in), db_int(s.tokens_cached), db_int(s.tokens_out), db_int(s.sale), db_int(s.cost),
                db_int(is_estimated(u))),
        1, e);
    return rc || !served || !w->has_tags ? rc : add_tags(l, w, &s, e);
}

/* --- the end of a request --- */

static int64_t used_of(const struct ledger_op *op, const struct budget *b)
{
    if (b->period == PERIOD_NOW || (op->served_scope && b->scope > op->scope)) return 0;
    if (b->unit == UNIT_NUSD) return op->charged_nusd;
    if (b->unit == UNIT_REQUESTS) return op->type == LEDGER_POST;
    int64_t tokens = 0;
    for (int i = 0; i < op->n_used; i++) {
        struct usage_sums s = sums_of(op, &op->used[i]);
        if (op->used[i].n == op->served) tokens = s.tokens_in + s.tokens_out;
    }
    return tokens;
}

static void release(struct ledger *l, const struct work *w)
{
    rows_balance(&l->rows, w->chain.project)->more_pending -= w->held;
    for (size_t i = 0; i < w->n_windows; i++) {
        struct window_row *r = rows_window(&l->rows, w->windows[i].budget, w->windows[i].starts_s);
        r->more_pending -= w->windows[i].amount;
        r->more_posted = sum(r->more_posted, used_of(w->op, r->budget));
    }
}

static int end_request(struct ledger *l, const struct work *w, bool estimated, struct err *e)
{
    const struct ledger_op *op = w->op;
    bool post = op->type == LEDGER_POST;
    return db_send(l->db,
                  "UPDATE requests SET state = ?2, resolved_ms = ?3, held = 0, charged = ?4, served = ?5, outcome = ?6, estimated = ?7,"
                  " reason = coalesce(?8, reason), markup = CASE WHEN ?9 IS NULL THEN markup ELSE ?10 END, price = coalesce(?9, price),"
                  " scope = coalesce(?11, scope)"
                  " WHERE id = ?1 AND state = 'reserved'",
                  DB_ARGS(db_int(op->request), db_text(post ? "posted" : "void"), db_int(l->now_ms), db_int(op->charged_nusd),
                          db_int_or_null(post, op->served), db_text(op->outcome), db_int(estimated), db_text(op->reason),
                          db_int_or_null(op->price != 0, op->price), db_int_or_null(op->markup != 0, op->markup),
                          db_int_or_null(post && op->served_scope, (int64_t)op->scope)),
                  1, e);
}

static int do_end(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    bool post = op->type == LEDGER_POST, estimated = false;
    CHECK(op->sale_nusd >= 0);
    op->charged_nusd = !post ? 0 : op->sale_nusd < w->held ? op->sale_nusd : w->held;
    op->overrun_nusd = post ? op->sale_nusd - op->charged_nusd : 0;
    for (int i = 0; i < op->n_used; i++) estimated |= is_estimated(&op->used[i]);
    release(l, w);
    w->known = false; /* to an operation after this one */
    int rc = end_request(l, w, estimated, e); /* its row is locked */
    if (!rc) rc = transfer(l, op->request, 0, "sale", w->chain.project, l->house, op->charged_nusd, e);
    if (!rc) rc = transfer(l, op->request, 0, "overrun", l->overrun, l->house, op->overrun_nusd, e);
    for (int i = 0; i < op->n_used && !rc; i++) {
        rc = end_attempt(l, op, &op->used[i], e);
        if (!rc) rc = add_usage(l, w, &op->used[i], e);
    }
    if (!rc && w->n_windows) rc = db_send(l->db, "DELETE FROM request_windows WHERE request = ?1", DB_ARGS(db_int(op->request)), -1, e);
    if (!rc && op->answer) rc = answer_keep(l, op, e);
    if (!rc && !post)
        rc = db_send(l->db, "DELETE FROM idempotency WHERE request = ?1", DB_ARGS(db_int(op->request)), -1, e); /* it may come again */
    return rc;
}

/* --- a batch --- */

/* It is about one that is there. */
static bool is_of_request(const struct ledger_op *op)
{
    return op->type != LEDGER_RESERVE && op->type != LEDGER_KNOWN;
}

static int gather(struct ledger *l, struct work *w, struct err *e)
{
    struct ledger_op *op = w->op;
    op->rc = 0;
    op->err = (struct err){0};
    op->now_ms = l->now_ms;
    op->budget = op->free_at_ms = op->charged_nusd = op->overrun_nusd = op->known = op->price_id = 0;
    op->limits = 0;
    op->stores = false;
    memset(op->rates, 0, sizeof op->rates);
    return is_of_request(op) ? gather_open(l, w, e) : gather_reserve(l, w, e);
}

/* An operation for the same request has gone before: what that one left. */
static void follow(struct work *w)
{
    const struct work *b = w->before;
    if (!b || w->op->rc) return;
    w->known = b->known;
    w->held = b->held;
    struct held own[LEDGER_MAX_WINDOWS]; /* that a wider scope brings */
    size_t n_own = w->n_windows - w->n_before;
    memcpy(own, w->windows + w->n_before, n_own * sizeof *own);
    if (b->scope > w->scope) n_own = 0; /* and has brought */
    w->scope = b->scope;
    w->n_before = b->n_before;
    memcpy(w->windows, b->windows, w->n_before * sizeof *w->windows);
    CHECK(w->n_before + n_own <= LEDGER_MAX_WINDOWS);
    memcpy(w->windows + w->n_before, own, n_own * sizeof *own);
    w->n_windows = w->n_before + n_own;
    if (!w->known) refuse(w->op, err_set(&w->op->err, ERR_NOT_FOUND, "request %lld is not open", (long long)w->op->request));
}

static int decide(struct ledger *l, struct work *w, struct err *e)
{
    follow(w);
    if (w->op->rc || !w->known) return 0;
    switch (w->op->type) {
    case LEDGER_KNOWN:
        return answer_find(l, w->op, w->chain.stores, e);
    case LEDGER_RESERVE:
        return do_reserve(l, w, e);
    case LEDGER_EXTEND:
    case LEDGER_ATTEMPT:
        return do_more(l, w, e);
    case LEDGER_POST:
    case LEDGER_VOID:
        return do_end(l, w, e);
    }
    return err_set(e, ERR_INTERNAL, "an operation of no kind");
}

static bool changes_something(const struct work *work, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (work[i].op->type != LEDGER_KNOWN) return true;
    return false;
}

static int apply_in(struct ledger *l, struct work *work, size_t n, struct err *e)
{
    rows_clear(&l->rows);
    int rc = ledger_refresh(l, e);
    if (!rc && db_kind(l->db) == DB_POSTGRES && changes_something(work, n)) rc = ledger_note_run(l, e); /* its row is locked until this is over: ledger_look */
    for (size_t i = 0; i < n && !rc; i++) rc = gather(l, &work[i], e);
    if (!rc) rc = rows_read(&l->rows, l->db, e);
    for (size_t i = 0; i < n && !rc; i++) rc = decide(l, &work[i], e);
    return rc ? rc : rows_write(&l->rows, l->db, e);
}

/* It has come to nothing: its numbers are used again, and the run was not seen at its time, which the store does not know either. */
static void forget_batch(struct ledger *l)
{
    l->seq = l->seq_before;
    l->seen_ms = l->seen_before_ms;
}

int ledger_apply(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e)
{
    CHECK(n > 0 && n <= LEDGER_MAX_BATCH && !l->o.desk);
    int rc = deadlines_reserve(l, n, e);
    if (rc) return rc;
    struct work *work = calloc(n, sizeof *work);
    if (!work) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        work[i].op = ops[i];
        for (size_t j = i; j-- > 0 && is_of_request(ops[i]) && !work[i].before;)
            if (is_of_request(ops[j]) && ops[j]->request == ops[i]->request) work[i].before = &work[j];
    }
    l->seq_before = l->seq;
    l->seen_before_ms = l->seen_ms;
    rc = db_begin(l->db, e);
    if (!rc) rc = db_end(l->db, apply_in(l, work, n, e), e);
    if (rc && rc != -ERR_UNKNOWN) forget_batch(l);
    if (rc)
        ledger_forget_prices(l);
    else {
        deadlines_note(l, ops, n);
        rows_tell(&l->rows);
    }
    free(work);
    return rc;
}

/* The old link's transaction may be under way still, with its COMMIT in the server's hands: the run's row is locked until it is over. */
int ledger_look(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e)
{
    int64_t seen_ms;
    int rc = db_revive(l->db, e);
    if (!rc) rc = db_begin(l->db, e);
    if (!rc)
        rc = db_end(l->db, db_number(l->db, "SELECT seen_ms FROM runs WHERE id = ?1 {for update}", DB_ARGS(db_int(l->run)), 0, &seen_ms, e), e);
    if (rc) return rc;
    if (seen_ms == l->seen_ms) {
        deadlines_note(l, ops, n);
        return 1;
    }
    forget_batch(l);
    return 0;
}
