/* Report: see report.h. */
#include "server/accounts/report.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* --- statements --- */

/* What a transfer is to the account ?1: money to it or from it. */
#define SIGNED "CASE WHEN credit = ?1 THEN amount ELSE -amount END"

static int balance_before(struct db *db, int64_t project, int64_t to_ms, int64_t *nusd, struct err *e)
{
    return db_number(db, "SELECT coalesce(sum(" SIGNED "), 0) FROM transfers WHERE ?1 IN (debit, credit) AND created_ms < ?2",
                     DB_ARGS(db_int(project), db_int(to_ms)), 0, nusd, e);
}

static const char lines_sql[] =
    "SELECT created_ms / 86400000 * 86400000 AS at, kind, count(*), 0 AS id, sum(" SIGNED "), 0, '' FROM transfers"
    " WHERE kind IN ('sale', 'cost', 'overrun') AND ?1 IN (debit, credit) AND created_ms >= ?2 AND created_ms < ?3 GROUP BY 1, 2"
    " UNION ALL"
    " SELECT created_ms, kind, 1, id, " SIGNED ", coalesce(linked, 0), coalesce(note, '') FROM transfers"
    " WHERE kind NOT IN ('sale', 'cost', 'overrun') AND ?1 IN (debit, credit) AND created_ms >= ?2 AND created_ms < ?3"
    " ORDER BY 1, 4";

static void sum_up(struct report_statement *s, const struct report_line *l)
{
    if (strcmp(l->kind, "sale") == 0)
        s->sales_nusd -= l->amount_nusd;
    else if (strcmp(l->kind, "deposit") == 0 || strcmp(l->kind, "chargeback") == 0 || strcmp(l->kind, "payment") == 0)
        s->paid_in_nusd += l->amount_nusd;
    else
        s->other_nusd += l->amount_nusd;
}

static int read_lines(struct db *db, int64_t project, int64_t from_ms, int64_t to_ms, report_line_fn *fn, void *ctx,
                      struct report_statement *s, int64_t *balance, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r, lines_sql, DB_ARGS(db_int(project), db_int(from_ms), db_int(to_ms)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        struct report_line l = {.at_ms = db_get_int(&r, 0),
                                .kind = db_get_text(&r, 1),
                                .n = db_get_int(&r, 2),
                                .id = db_get_int(&r, 3),
                                .amount_nusd = db_get_int(&r, 4),
                                .linked = db_get_int(&r, 5),
                                .note = db_get_text(&r, 6)};
        l.balance_nusd = *balance += l.amount_nusd;
        sum_up(s, &l);
        fn(ctx, &l);
        rc = 0;
    }
    db_done(&r);
    return rc;
}

int report_statement(struct db *db, int64_t account, int64_t from_ms, int64_t to_ms, report_line_fn *fn, void *ctx,
                     struct report_statement *out, struct err *e)
{
    int64_t n = 0, balance;
    *out = (struct report_statement){0};
    int rc = db_begin_read(db, e);
    if (rc) return rc;
    rc = db_number(db, "SELECT count(*) FROM balances WHERE account = ?1", DB_ARGS(db_int(account)), 0, &n, e);
    if (!rc && n == 0) rc = err_set(e, ERR_NOT_FOUND, "account %lld is not there, or has no balance", (long long)account);
    if (!rc) rc = balance_before(db, account, from_ms, &out->opening_nusd, e);
    balance = out->opening_nusd;
    if (!rc) rc = read_lines(db, account, from_ms, to_ms, fn, ctx, out, &balance, e);
    if (!rc) rc = balance_before(db, account, to_ms, &out->closing_nusd, e);
    if (!rc &&
        (balance != out->closing_nusd || out->opening_nusd + out->paid_in_nusd - out->sales_nusd + out->other_nusd != out->closing_nusd))
        rc = err_set(e, ERR_INTERNAL, "account %lld: the lines of its statement do not add up to its balance", (long long)account);
    return db_end(db, rc, e);
}

/* --- usage --- */

/* A text for each set of groups, made once: grouped by plain columns the table is summed in the order of its key, in 40 % of the time
 * (bench_usage) that expressions that leave some out take. Sums first, names after: there are far fewer rows then. */
enum { DAY_GROUPS = 5, DAY_TEXTS = 1 << DAY_GROUPS, TEXT_BYTES = 2048 };
static char day_texts[DAY_TEXTS][TEXT_BYTES];
static pthread_once_t day_texts_made = PTHREAD_ONCE_INIT;

static void make_day_text(unsigned by, char out[TEXT_BYTES])
{
    static const struct {
        const char *column, *none; /* none: in place of what it is not grouped by */
    } groups[DAY_GROUPS] = {{"day", "0"}, {"project", "0"}, {"account", "0"}, {"model", "''"}, {"supplier", "0"}};
    char columns[256] = "", group[256] = "";
    size_t n = 0, m = 0;
    for (unsigned i = 0; i < DAY_GROUPS; i++) {
        bool is = by >> i & 1;
        n += (size_t)snprintf(columns + n, sizeof columns - n, "%s AS g%u, ", is ? groups[i].column : groups[i].none, i);
        if (is) m += (size_t)snprintf(group + m, sizeof group - m, "%s%s", m ? ", " : " GROUP BY ", groups[i].column);
    }
    int length = snprintf(
        out, TEXT_BYTES,
        "SELECT u.g0, u.g1, u.g2, u.g3, u.g4, '', '', u.requests, u.tokens_in, u.tokens_cached, u.tokens_out, u.sale, u.cost, u.estimated,"
        " p.name, k.name, s.name FROM (SELECT %ssum(requests) AS requests, sum(tokens_in) AS tokens_in,"
        " sum(tokens_cached) AS tokens_cached, sum(tokens_out) AS tokens_out, sum(sale) AS sale, sum(cost) AS cost,"
        " sum(estimated) AS estimated FROM usage_days WHERE day >= ?1 AND day <= ?2 AND (?3 = 0 OR project = ?3)%s HAVING count(*) > 0) u"
        " LEFT JOIN accounts p ON p.id = u.g1 LEFT JOIN accounts k ON k.id = u.g2 LEFT JOIN accounts s ON s.id = u.g4"
        " ORDER BY u.g0, u.g1, u.g2, u.g3, u.g4",
        columns, group);
    CHECK(length > 0 && length < TEXT_BYTES && m < sizeof group && n < sizeof columns);
}

static void make_day_texts(void)
{
    for (unsigned by = 0; by < DAY_TEXTS; by++) make_day_text(by, day_texts[by]);
}

static const char tags_sql[] =
    "SELECT u.d, u.p, 0, '', 0, u.tag, u.value, u.requests, u.tokens_in, u.tokens_cached, u.tokens_out, u.sale, u.cost, 0, p.name, '', ''"
    " FROM (SELECT CASE WHEN ?3 = 1 THEN day ELSE 0 END AS d, CASE WHEN ?4 = 1 THEN project ELSE 0 END AS p, tag, value,"
    " sum(requests) AS requests, sum(tokens_in) AS tokens_in, sum(tokens_cached) AS tokens_cached, sum(tokens_out) AS tokens_out,"
    " sum(sale) AS sale, sum(cost) AS cost"
    " FROM usage_tags WHERE day >= ?1 AND day <= ?2 AND (?5 = 0 OR project = ?5) AND (?6 = '' OR tag = ?6) GROUP BY 1, 2, 3, 4) u"
    " LEFT JOIN accounts p ON p.id = u.p ORDER BY u.d, u.p, u.tag, u.value";

static struct db_arg by(const struct report_query *q, enum report_by bit)
{
    return db_int((q->by & bit) != 0);
}

int report_usage(struct db *db, const struct report_query *q, report_usage_fn *fn, void *ctx, struct err *e)
{
    struct db_rows r;
    CHECK(q->by < 2 * DAY_TEXTS);
    if ((q->by & REPORT_TAG) && (q->by & (REPORT_KEY | REPORT_MODEL | REPORT_SUPPLIER)))
        return err_set(e, ERR_INPUT, "tags are summed by day and project, not by key, model or supplier");
    (void)pthread_once(&day_texts_made, make_day_texts);
    int rc =
        q->by & REPORT_TAG
            ? db_query(db, &r, tags_sql,
                       DB_ARGS(db_int(q->from_day), db_int(q->to_day), by(q, REPORT_DAY), by(q, REPORT_PROJECT), db_int(q->project), db_text(q->tag ? q->tag : "")), e)
            : db_query(db, &r, day_texts[q->by], DB_ARGS(db_int(q->from_day), db_int(q->to_day), db_int(q->project)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct report_usage){.day = db_get_int(&r, 0),
                                       .project = db_get_int(&r, 1),
                                       .key = db_get_int(&r, 2),
                                       .model = db_get_text(&r, 3),
                                       .supplier = db_get_int(&r, 4),
                                       .tag = db_get_text(&r, 5),
                                       .value = db_get_text(&r, 6),
                                       .requests = db_get_int(&r, 7),
                                       .tokens_in = db_get_int(&r, 8),
                                       .tokens_cached = db_get_int(&r, 9),
                                       .tokens_out = db_get_int(&r, 10),
                                       .sale_nusd = db_get_int(&r, 11),
                                       .cost_nusd = db_get_int(&r, 12),
                                       .estimated = db_get_int(&r, 13),
                                       .project_name = db_get_text(&r, 14),
                                       .key_name = db_get_text(&r, 15),
                                       .supplier_name = db_get_text(&r, 16)});
        rc = 0;
    }
    db_done(&r);
    return rc;
}

/* --- overflow --- */

int report_overflow(struct db *db, int64_t hour_ms, void (*fn)(void *ctx, int64_t key, int64_t project, int64_t nusd), void *ctx, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(db, &rows,
                      "SELECT account, project, sum(CASE state WHEN 'reserved' THEN held ELSE charged END) FROM requests"
                      " WHERE scope = 2 AND created_ms >= ?1 AND created_ms < ?2 GROUP BY account, project",
                      DB_ARGS(db_int(hour_ms), db_int(hour_ms + 3600000)), e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        fn(ctx, db_get_int(&rows, 0), db_get_int(&rows, 1), db_get_int(&rows, 2));
        rc = 0;
    }
    db_done(&rows);
    return rc;
}
