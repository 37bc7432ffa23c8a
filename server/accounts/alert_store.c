/* Alert store: see alert_store.h. The outbox first, then the figures. All times are the database's. */
#include "server/accounts/alert_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "server/accounts/account_json.h"
#include "server/accounts/directory.h"

enum { HOUR_S = 3600, DAY_S = 86400, PAST_DAYS = 7, STAMP_BYTES = 48 };

static int now(struct db *db, int64_t *now_ms, struct err *e)
{
    return db_number(db, "SELECT {now_ms}", DB_NO_ARGS, 0, now_ms, e);
}

/* --- the outbox --- */

static void write_body(struct buf *b, const struct alert *a, int64_t now_ms)
{
    struct tm tm;
    time_t now_s = (time_t)(now_ms / 1000);
    char stamp[STAMP_BYTES];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now_s, &tm));
    buf_putc(b, '{');
    account_json_text(b, "type", a->kind);
    account_json_text(b, "timestamp", stamp);
    buf_puts(b, ",\"data\":{");
    account_json_text(b, "message", a->message);
    if (a->data && a->data->len) buf_printf(b, ",%s", a->data->data);
    buf_puts(b, "}}");
}

int alert_add(struct db *db, const struct alert *a, bool *added, struct err *e)
{
    struct buf body;
    int64_t now_ms, n = 0;
    *added = false;
    int rc = db_number(db, "SELECT count(*) FROM alerts WHERE kind = ?1 AND subject = ?2 AND occasion = ?3",
                       DB_ARGS(db_text(a->kind), db_text(a->subject), db_int(a->occasion)), 0, &n, e);
    if (rc || n) return rc; /* mostly: nothing is written */
    rc = now(db, &now_ms, e);
    if (rc) return rc;
    buf_init(&body, ALERT_MAX_BYTES);
    write_body(&body, a, now_ms);
    if (body.failed || (a->data && a->data->failed)) rc = err_set(e, ERR_LIMIT, "an alert '%s' does not fit", a->kind);
    if (!rc)
        rc = db_run(db,
                    "INSERT INTO alerts (kind, subject, occasion, created_ms, message, body, next_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?4)"
                    " ON CONFLICT (kind, subject, occasion) DO NOTHING",
                    DB_ARGS(db_text(a->kind), db_text(a->subject), db_int(a->occasion), db_int(now_ms), db_text(a->message),
                            db_text(body.data)),
                    &n, e);
    buf_free(&body);
    *added = !rc && n == 1;
    return rc;
}

int alert_add_test(struct db *db, struct err *e)
{
    int64_t now_ms;
    bool added;
    const char *message = "somebody asked whether alerts arrive";
    int rc = now(db, &now_ms, e);
    return rc ? rc : alert_add(db, &(struct alert){.kind = "test", .subject = "test", .occasion = now_ms, .message = message}, &added, e);
}

static int take_one(struct db *db, bool keep, const struct alert_taken *a, int64_t now_ms, bool *got, struct err *e)
{
    int64_t n = 0;
    int rc = db_run(db,
                    "UPDATE alerts SET tries = ?2, next_ms = ?3, sent_ms = ?4 WHERE id = ?1 AND tries = ?2 - 1 AND next_ms <= ?5",
                    DB_ARGS(db_int(a->id), db_int(a->tries), db_int_or_null(keep, now_ms + ALERT_CLAIM_MS), db_int_or_null(!keep, now_ms),
                            db_int(now_ms)),
                    &n, e);
    *got = n == 1;
    return rc;
}

/* Of those that are due, without taking them. */
static int list_due(struct db *db, int64_t now_ms, struct alert_taken *out, size_t max, size_t *n, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r, "SELECT id, tries, created_ms, message, body FROM alerts WHERE next_ms <= ?1 ORDER BY next_ms, id LIMIT ?2",
                      DB_ARGS(db_int(now_ms), db_int((int64_t)max)), e);
    while (!rc && *n < max && (rc = db_next(&r, e)) == 1) {
        struct alert_taken *a = &out[(*n)++];
        *a = (struct alert_taken){.id = db_get_int(&r, 0),
                                  .tries = (int)db_get_int(&r, 1) + 1,
                                  .last = now_ms - db_get_int(&r, 2) > ALERT_GIVE_UP_MS,
                                  .message = strdup(db_get_text(&r, 3)),
                                  .body = strdup(db_get_text(&r, 4))};
        rc = a->message && a->body ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    }
    db_done(&r);
    return rc;
}

int alert_take(struct db *db, bool keep, struct alert_taken *out, size_t max, size_t *n, int64_t *next_ms, struct err *e)
{
    int64_t now_ms, due_ms;
    size_t n_due = 0;
    *n = 0;
    *next_ms = -1;
    int rc = now(db, &now_ms, e);
    if (!rc) rc = list_due(db, now_ms, out, max, &n_due, e);
    for (size_t i = 0; i < n_due; i++) {
        bool got = false;
        if (!rc) rc = take_one(db, keep, &out[i], now_ms, &got, e);
        if (got)
            out[(*n)++] = out[i];
        else
            alert_taken_free(&out[i], 1);
    }
    if (!rc) rc = db_number(db, "SELECT coalesce(min(next_ms), -1) FROM alerts WHERE next_ms IS NOT NULL", DB_NO_ARGS, -1, &due_ms, e);
    if (!rc && due_ms >= 0) *next_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    return rc;
}

int alert_end(struct db *db, int64_t id, bool sent, int64_t retry_ms, struct err *e)
{
    return db_run(db, "UPDATE alerts SET sent_ms = CASE WHEN ?2 = 1 THEN {now_ms} END, next_ms = CASE WHEN ?3 >= 0 THEN {now_ms} + ?3 END WHERE id = ?1",
                  DB_ARGS(db_int(id), db_int(sent), db_int(sent ? -1 : retry_ms)), NULL, e);
}

int alert_list(struct db *db, size_t max, void (*fn)(void *ctx, const struct alert_row *r), void *ctx, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r, "SELECT id, created_ms, sent_ms, next_ms, tries, kind, subject, message FROM alerts ORDER BY id DESC LIMIT ?1",
                      DB_ARGS(db_int((int64_t)max)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct alert_row){.id = db_get_int(&r, 0),
                                    .created_ms = db_get_int(&r, 1),
                                    .sent_ms = db_get_int(&r, 2),
                                    .next_ms = db_get_int(&r, 3),
                                    .tries = (int)db_get_int(&r, 4),
                                    .kind = db_get_text(&r, 5),
                                    .subject = db_get_text(&r, 6),
                                    .message = db_get_text(&r, 7)});
        rc = 0;
    }
    db_done(&r);
    return rc;
}

void alert_taken_free(struct alert_taken *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(a[i].message);
        free(a[i].body);
        a[i] = (struct alert_taken){0};
    }
}

/* --- this hour's spend --- */

/* Ids of transfers go with time, so where the hour begins is found by halves; of several gateways some may be out of order by the
 * moments of a batch, which matters to nobody here. *before: the last one before at_ms. */
static int find_before(struct db *db, int64_t at_ms, int64_t *before, struct err *e)
{
    int64_t low = 0, high, created_ms;
    int rc = db_number(db, "SELECT coalesce(max(id), 0) FROM transfers", DB_NO_ARGS, 0, &high, e);
    while (!rc && low < high) {
        int64_t middle = low + (high - low) / 2;
        rc = db_number(db, "SELECT created_ms FROM transfers WHERE id > ?1 ORDER BY id LIMIT 1", DB_ARGS(db_int(middle)), INT64_MAX,
                       &created_ms, e);
        if (created_ms < at_ms)
            low = middle + 1;
        else
            high = middle;
    }
    *before = low;
    return rc;
}

static int add_spend(struct alert_hour *h, int64_t project, int64_t nusd, struct err *e)
{
    for (size_t i = 0; i < h->n; i++) {
        if (h->spends[i].project != project) continue;
        h->spends[i].spent_nusd += nusd;
        return 0;
    }
    if (h->n == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 16;
        struct alert_spend *more = reallocarray(h->spends, cap, sizeof *more);
        if (!more) return err_set(e, ERR_MEMORY, "out of memory");
        h->spends = more;
        h->cap = cap;
    }
    h->spends[h->n++] = (struct alert_spend){.project = project, .spent_nusd = nusd};
    return 0;
}

int alert_hour_read(struct alert_hour *h, struct db *db, struct err *e)
{
    struct db_rows r;
    int64_t now_ms, newest;
    int rc = now(db, &now_ms, e);
    int64_t starts_s = rc ? 0 : now_ms / 1000 / HOUR_S * HOUR_S;
    if (!rc && starts_s != h->starts_s) {
        h->n = 0;
        rc = find_before(db, starts_s * 1000, &h->last_transfer, e);
        if (!rc) h->starts_s = starts_s;
    }
    if (!rc) rc = db_number(db, "SELECT coalesce(max(id), 0) FROM transfers", DB_NO_ARGS, 0, &newest, e);
    if (rc) return rc;
    rc = db_query(db, &r,
                  "SELECT CASE kind WHEN 'sale' THEN debit WHEN 'overrun' THEN -1 ELSE 0 END AS project, sum(amount) FROM transfers"
                  " WHERE id > ?1 AND id <= ?2 AND created_ms >= ?3 AND kind IN ('sale', 'cost', 'overrun') GROUP BY project",
                  DB_ARGS(db_int(h->last_transfer), db_int(newest), db_int(starts_s * 1000)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) rc = add_spend(h, db_get_int(&r, 0), db_get_int(&r, 1), e);
    db_done(&r);
    if (rc)
        h->starts_s = 0; /* some may be counted: all of it anew */
    else if (newest > h->last_transfer)
        h->last_transfer = newest;
    return rc;
}

void alert_hour_free(struct alert_hour *h)
{
    free(h->spends);
    *h = (struct alert_hour){0};
}

int alert_past_read(struct db *db, int64_t project, struct alert_past *out, struct err *e)
{
    struct db_rows r;
    int64_t now_ms, born_s;
    *out = (struct alert_past){.name = "all"};
    int rc = now(db, &now_ms, e);
    if (rc) return rc;
    int64_t today = now_ms / 1000 / DAY_S;
    rc = db_query(db, &r,
                  "SELECT a.name, a.created_s, (SELECT coalesce(sum(CASE ?1 WHEN 0 THEN u.cost ELSE u.sale END), 0) FROM usage_days u"
                  " WHERE u.day >= ?2 AND u.day < ?3 AND (?1 = 0 OR u.project = ?1)) FROM accounts a WHERE a.kind = 'project' AND a.id = ?4",
                  DB_ARGS(db_int(project), db_int(today - PAST_DAYS), db_int(today), db_int(project ? project : DIRECTORY_PROJECT)), e);
    if (!rc) rc = db_next(&r, e);
    if (rc == 1) {
        if (project) snprintf(out->name, sizeof out->name, "%s", db_get_text(&r, 0));
        born_s = db_get_int(&r, 1);
        out->past_nusd = db_get_int(&r, 2);
        if (born_s < (today - PAST_DAYS) * DAY_S) born_s = (today - PAST_DAYS) * DAY_S;
        out->past_hours = born_s < today * DAY_S ? (today * DAY_S - born_s) / HOUR_S : 0;
    } else if (!rc)
        rc = err_set(e, ERR_NOT_FOUND, "there is no project %lld", (long long)project);
    db_done(&r);
    return rc < 0 ? rc : 0;
}

/* --- budgets, prices --- */

int alert_budgets(struct db *db, void (*fn)(void *ctx, const struct alert_budget *b), void *ctx, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r,
                      "SELECT b.id, b.account, b.amount, w.posted, w.starts_s, a.name, b.unit, b.period, b.scope FROM budgets b"
                      " JOIN budget_windows w ON w.budget = b.id AND w.starts_s = (SELECT max(x.starts_s) FROM budget_windows x WHERE x.budget = b.id)"
                      " JOIN accounts a ON a.id = b.account"
                      " WHERE b.hard = 0 AND b.ended_s IS NULL AND w.posted >= b.amount ORDER BY b.id",
                      DB_NO_ARGS, e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct alert_budget){.id = db_get_int(&r, 0),
                                       .account = db_get_int(&r, 1),
                                       .amount = db_get_int(&r, 2),
                                       .used = db_get_int(&r, 3),
                                       .starts_s = db_get_int(&r, 4),
                                       .name = db_get_text(&r, 5),
                                       .unit = db_get_text(&r, 6),
                                       .period = db_get_text(&r, 7),
                                       .scope = db_get_text(&r, 8)});
        rc = 0;
    }
    db_done(&r);
    return rc;
}

/* A row of the book that an operator's price has kept from being in force. */
#define NEVER(p) "(" p ".source = 'book' AND " p ".ended_s IS NOT NULL AND " p ".ended_s <= " p ".created_s)"

int alert_prices(struct db *db, int64_t *last_price, void (*fn)(void *ctx, const struct alert_price *p), void *ctx, struct err *e)
{
    struct db_rows r;
    int64_t newest;
    int rc = 0;
    if (!*last_price)
        rc = db_number(db, "SELECT coalesce(max(id), 0) FROM prices WHERE created_s < {now_s} - 86400", DB_NO_ARGS, 0, last_price, e);
    if (!rc) rc = db_number(db, "SELECT coalesce(max(id), 0) FROM prices", DB_NO_ARGS, 0, &newest, e);
    if (rc || newest == *last_price) return rc;
    rc = db_query(db, &r,
                  "SELECT n.id, n.provider, n.model, o.rows, n.rows, n.source FROM prices n JOIN prices o ON o.id ="
                  " (SELECT max(p.id) FROM prices p WHERE p.provider = n.provider AND p.model = n.model AND p.id < n.id AND NOT " NEVER("p") ")"
                  " WHERE n.id > ?1 AND n.id <= ?2 AND n.rows <> o.rows AND NOT " NEVER("n") " ORDER BY n.provider, n.id",
                  DB_ARGS(db_int(*last_price), db_int(newest)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct alert_price){.id = db_get_int(&r, 0),
                                      .provider = db_get_text(&r, 1),
                                      .model = db_get_text(&r, 2),
                                      .before = db_get_text(&r, 3),
                                      .now = db_get_text(&r, 4),
                                      .source = db_get_text(&r, 5)});
        rc = 0;
    }
    db_done(&r);
    if (!rc) *last_price = newest;
    return rc;
}
