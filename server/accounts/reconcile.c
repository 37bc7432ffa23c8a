/* Reconciliation: see reconcile.h. Two sorted lists of sums, walked side by side. */
#include "server/accounts/reconcile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/accounts/account_json.h"
#include "server/accounts/alert_store.h"
#include "server/accounts/money.h"

enum { DAY_MS = 86400000, DAY_BYTES = 32, MESSAGE_BYTES = 640 };

static int compare(const void *a, const void *b)
{
    const struct reconcile_row *x = a, *y = b;
    return x->day != y->day ? (x->day < y->day ? -1 : 1) : strcmp(x->model, y->model);
}

/* false: past int64. */
static bool add(struct reconcile_row *to, const struct reconcile_row *r)
{
    return !__builtin_add_overflow(to->requests, r->requests, &to->requests) &&
           !__builtin_add_overflow(to->tokens_in, r->tokens_in, &to->tokens_in) &&
           !__builtin_add_overflow(to->tokens_out, r->tokens_out, &to->tokens_out) &&
           !__builtin_add_overflow(to->amount_nusd, r->amount_nusd, &to->amount_nusd);
}

int reconcile_add(struct reconcile_file *f, const struct reconcile_row *row, struct err *e)
{
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        void *more = reallocarray(f->rows, cap, sizeof *f->rows);
        if (!more) return err_set(e, ERR_MEMORY, "out of memory");
        f->rows = more;
        f->cap = cap;
    }
    f->rows[f->n++] = *row;
    return 0;
}

int reconcile_sort(struct reconcile_file *f, struct err *e)
{
    size_t n = 0;
    if (f->n) qsort(f->rows, f->n, sizeof *f->rows, compare);
    for (size_t i = 0; i < f->n; i++) {
        if (n == 0 || compare(&f->rows[n - 1], &f->rows[i]) != 0)
            f->rows[n++] = f->rows[i];
        else if (!add(&f->rows[n - 1], &f->rows[i]))
            return err_set(e, ERR_LIMIT, "%s: the sum of a day is past what can be counted", f->rows[i].model);
    }
    f->n = n;
    return 0;
}

void reconcile_free(struct reconcile_file *f)
{
    free(f->rows);
    *f = (struct reconcile_file){0};
}

/* --- ours --- */

/* What was asked of the supplier and counted, or cost something. */
static const char ours_sql[] =
    "SELECT started_ms / 86400000, model, count(*),"
    " sum(coalesce(in_uncached, 0) + coalesce(in_cache_read, 0) + coalesce(in_cache_write_5m, 0) + coalesce(in_cache_write_1h, 0)"
    " + coalesce(in_audio, 0) + coalesce(in_image, 0)),"
    " sum(coalesce(out_text, 0) + coalesce(out_reasoning, 0) + coalesce(out_audio, 0)), sum(cost)"
    " FROM attempts WHERE supplier = ?1 AND started_ms >= ?2 AND started_ms < ?3 AND state <> 'open' AND (source IS NOT NULL OR cost > 0)"
    " GROUP BY 1, 2";

static int read_ours(struct db *db, int64_t supplier, int64_t from_day, int64_t to_day, struct reconcile_file *ours, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r, ours_sql, DB_ARGS(db_int(supplier), db_int(from_day * DAY_MS), db_int((to_day + 1) * DAY_MS)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        struct reconcile_row row = {.day = db_get_int(&r, 0),
                                    .requests = db_get_int(&r, 2),
                                    .tokens_in = db_get_int(&r, 3),
                                    .tokens_out = db_get_int(&r, 4),
                                    .amount_nusd = db_get_int(&r, 5)};
        snprintf(row.model, sizeof row.model, "%s", db_get_text(&r, 1));
        rc = reconcile_add(ours, &row, e);
    }
    db_done(&r);
    return rc ? rc : reconcile_sort(ours, e); /* a database's order of text may be another */
}

static int find_supplier(struct db *db, const char *name, int64_t from_day, int64_t *id, struct err *e)
{
    int64_t pruned_ms;
    int rc = db_number(db, "SELECT id FROM accounts WHERE kind = 'supplier' AND name = ?1", DB_ARGS(db_text(name)), 0, id, e);
    if (!rc && *id == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no supplier called '%s' (see spillway accounts list)", name);
    if (!rc) rc = db_number(db, "SELECT pruned_ms FROM ledger_state WHERE id = 1", DB_NO_ARGS, 0, &pruned_ms, e);
    if (!rc && from_day * DAY_MS < pruned_ms)
        rc = err_set(e, ERR_UNSUPPORTED, "the export begins with days whose attempts have been pruned: leave them out of the file");
    return rc;
}

/* --- comparing --- */

static bool differs(int64_t a, int64_t b, int64_t threshold)
{
    int64_t d;
    if (__builtin_sub_overflow(a, b, &d) || d == INT64_MIN) return true;
    return (d < 0 ? -d : d) > threshold;
}

static unsigned compare_rows(const struct reconcile_file *f, const struct reconcile_options *o, const struct reconcile_row *theirs,
                             const struct reconcile_row *ours)
{
    unsigned bits = 0;
    if (differs(theirs->amount_nusd, ours->amount_nusd, o->threshold_nusd)) bits |= RECONCILE_AMOUNT;
    if (f->has_requests && theirs->requests != ours->requests) bits |= RECONCILE_REQUESTS;
    if (f->has_tokens_in && differs(theirs->tokens_in, ours->tokens_in, o->threshold_tokens)) bits |= RECONCILE_TOKENS_IN;
    if (f->has_tokens_out && differs(theirs->tokens_out, ours->tokens_out, o->threshold_tokens)) bits |= RECONCILE_TOKENS_OUT;
    return bits;
}

static int close_entries(struct db *db, int64_t supplier, const struct reconcile_row *r, int64_t *n, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = db_run(db,
                "UPDATE reconciliation SET closed_ms = {now_ms} WHERE closed_ms IS NULL AND EXISTS (SELECT 1 FROM attempts a"
                " WHERE a.request = reconciliation.request AND a.n = reconciliation.attempt AND a.supplier = ?1 AND a.model = ?2"
                " AND a.started_ms >= ?3 AND a.started_ms < ?4)",
                DB_ARGS(db_int(supplier), db_text(r->model), db_int(r->day * DAY_MS), db_int((r->day + 1) * DAY_MS)), &n_changed, e);
    *n += n_changed;
    return db_end(db, rc, e);
}

/* Of a day and model: which of the two lists have it. */
static int compare_at(struct db *db, int64_t supplier, const struct reconcile_file *f, const struct reconcile_options *o,
                      const struct reconcile_row *theirs, const struct reconcile_row *ours, reconcile_fn *fn, void *ctx,
                      struct reconcile_sums *out, struct err *e)
{
    struct reconcile_row none = {.day = theirs ? theirs->day : ours->day};
    memcpy(none.model, theirs ? theirs->model : ours->model, sizeof none.model);
    const struct reconcile_row *t = theirs ? theirs : &none, *u = ours ? ours : &none;
    unsigned bits = compare_rows(f, o, t, u);
    out->n_compared++;
    if (__builtin_add_overflow(out->theirs_nusd, t->amount_nusd, &out->theirs_nusd) ||
        __builtin_add_overflow(out->ours_nusd, u->amount_nusd, &out->ours_nusd))
        return err_set(e, ERR_LIMIT, "the sum of all amounts is past what can be counted");
    if (!bits) return o->close && ours ? close_entries(db, supplier, ours, &out->n_closed, e) : 0;
    if (!theirs) bits |= RECONCILE_ONLY_OURS;
    if (!ours) bits |= RECONCILE_ONLY_THEIRS;
    out->n_different++;
    fn(ctx, bits, t, u);
    return 0;
}

/* For whoever does not read what a nightly run prints: gateways send it. Once for each supplier and last day of an export. */
static int tell_drift(struct db *db, const struct reconcile_options *o, int64_t to_day, const struct reconcile_sums *s, struct err *e)
{
    char message[MESSAGE_BYTES], theirs[MONEY_BYTES], ours[MONEY_BYTES], day[DAY_BYTES];
    struct tm tm;
    time_t at = (time_t)(to_day * DAY_MS / 1000);
    struct buf data;
    bool added;
    buf_init(&data, sizeof message * 3);
    strftime(day, sizeof day, "%Y-%m-%d", gmtime_r(&at, &tm));
    snprintf(message, sizeof message, "%s's figures up to %s differ from ours on %zu of %zu days and models: %s dollars there, %s here", o->supplier, day,
             s->n_different, s->n_compared, money_write(s->theirs_nusd, theirs), money_write(s->ours_nusd, ours));
    account_json_text(&data, "supplier", o->supplier);
    account_json_text(&data, "last_day", day);
    account_json_int(&data, "compared", (int64_t)s->n_compared);
    account_json_int(&data, "different", (int64_t)s->n_different);
    account_json_money(&data, "theirs_usd", s->theirs_nusd);
    account_json_money(&data, "ours_usd", s->ours_nusd);
    int rc = alert_add(db, &(struct alert){.kind = "supplier_drift", .subject = o->supplier, .occasion = to_day, .message = message, .data = &data}, &added, e);
    buf_free(&data);
    return rc;
}

int reconcile(struct db *db, const struct reconcile_file *f, const struct reconcile_options *o, reconcile_fn *fn, void *ctx,
              struct reconcile_sums *out, struct err *e)
{
    struct reconcile_file ours = {0};
    int64_t supplier = 0;
    *out = (struct reconcile_sums){0};
    if (f->n == 0) return err_set(e, ERR_INPUT, "there is nothing in the export");
    int64_t from_day = f->rows[0].day, to_day = f->rows[f->n - 1].day;
    int rc = find_supplier(db, o->supplier, from_day, &supplier, e);
    if (!rc) rc = read_ours(db, supplier, from_day, to_day, &ours, e);
    for (size_t i = 0, j = 0; !rc && (i < f->n || j < ours.n);) {
        const struct reconcile_row *t = i < f->n ? &f->rows[i] : NULL, *u = j < ours.n ? &ours.rows[j] : NULL;
        int order = !t ? 1 : !u ? -1 : compare(t, u);
        rc = compare_at(db, supplier, f, o, order <= 0 ? t : NULL, order >= 0 ? u : NULL, fn, ctx, out, e);
        i += order <= 0;
        j += order >= 0;
    }
    reconcile_free(&ours);
    return rc || !out->n_different ? rc : tell_drift(db, o, to_day, out, e);
}
