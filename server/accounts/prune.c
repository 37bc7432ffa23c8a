/* Prune: see prune.h. */
#include "server/accounts/prune.h"

enum { AT_ONCE = 2000, DAY_MS = 86400000 };

/* Requests with ids above ?1 and up to ?2 that ended before ?3 and that nobody has to look at. */
#define OLD                                                                                                                                \
    "SELECT r.id FROM requests r WHERE r.id > ?1 AND r.id <= ?2 AND r.state <> 'reserved' AND r.resolved_ms < ?3"                          \
    " AND NOT EXISTS (SELECT 1 FROM reconciliation o WHERE o.request = r.id AND o.closed_ms IS NULL)"

/* Where the next AT_ONCE of them end; 0: there are no more. */
static int find_end(struct db *db, int64_t after, int64_t before_ms, int64_t *last, struct err *e)
{
    return db_number(db, "SELECT coalesce(max(id), 0) FROM (" OLD " ORDER BY r.id LIMIT ?4) x",
                     DB_ARGS(db_int(after), db_int(INT64_MAX), db_int(before_ms), db_int(AT_ONCE)), 0, last, e);
}

static int note(struct db *db, int64_t after, int64_t last, int64_t before_ms, struct err *e)
{
    int rc = db_run(db, "UPDATE ledger_state SET pruned_ms = ?1 WHERE id = 1 AND pruned_ms < ?1", DB_ARGS(db_int(before_ms)), NULL, e);
    if (rc) return rc;
    return db_run(db,
                  "UPDATE runs SET pruned = pruned + (SELECT count(*) FROM (" OLD ") x WHERE x.id / 4294967296 = runs.id),"
                  " pruned_to = (SELECT max(y.n) FROM (SELECT runs.pruned_to AS n UNION ALL SELECT x.id % 4294967296 FROM (" OLD ") x"
                  " WHERE x.id / 4294967296 = runs.id) y) WHERE id >= ?1 / 4294967296 AND id <= ?2 / 4294967296",
                  DB_ARGS(db_int(after), db_int(last), db_int(before_ms)), NULL, e);
}

static int take_away(struct db *db, int64_t after, int64_t last, int64_t before_ms, int64_t *n, struct err *e)
{
    static const char *const sql[] = {"DELETE FROM attempts WHERE request IN (" OLD ")",
                                      "DELETE FROM idempotency WHERE request IN (" OLD ")", "DELETE FROM requests WHERE id IN (" OLD ")"};
    int rc = db_begin(db, e);
    if (rc) return rc;
    int64_t n_changed = 0;
    rc = note(db, after, last, before_ms, e);
    for (int i = 0; i < 3 && !rc; i++) rc = db_run(db, sql[i], DB_ARGS(db_int(after), db_int(last), db_int(before_ms)), &n_changed, e);
    rc = db_end(db, rc, e);
    if (!rc) *n += n_changed;
    return rc;
}

/* A time further away than it can be was noted by a clock that has been put right since. */
int prune_claim(struct db *db, int64_t every_ms, bool *mine, struct err *e)
{
    static const char due[] = "SELECT count(*) FROM ledger_state WHERE id = 1 AND (prune_ms <= {now_ms} OR prune_ms > {now_ms} + 2 * ?1)";
    int64_t n = 0;
    int rc = db_number(db, due, DB_ARGS(db_int(every_ms)), 0, &n, e); /* most who ask write nothing */
    if (!rc && n)
        rc = db_run(db,
                    "UPDATE ledger_state SET prune_ms = {now_ms} + ?1 WHERE id = 1 AND (prune_ms <= {now_ms} OR prune_ms > {now_ms} + 2 * ?1)",
                    DB_ARGS(db_int(every_ms)), &n, e);
    *mine = !rc && n == 1;
    return rc;
}

int prune_begin(struct prune *p, struct db *db, int64_t days, struct err *e)
{
    CHECK(days >= PRUNE_MIN_DAYS);
    *p = (struct prune){.db = db};
    int rc = db_number(db, "SELECT CASE WHEN clock_ms > {now_ms} THEN clock_ms ELSE {now_ms} END FROM ledger_state WHERE id = 1",
                       DB_NO_ARGS, 0, &p->before_ms, e);
    p->before_ms -= days * DAY_MS;
    return rc;
}

/* At the end. Of budgets they stay: one without a window's end would be told anew. */
static int prune_alerts(const struct prune *p, struct err *e)
{
    if (p->before_ms <= 0) return 0;
    return db_run(p->db, "DELETE FROM alerts WHERE created_ms < ?1 AND next_ms IS NULL AND kind <> 'budget_reached'", DB_ARGS(db_int(p->before_ms)),
                  NULL, e);
}

int prune_step(struct prune *p, struct err *e)
{
    int64_t last = 0;
    int rc = p->before_ms > 0 ? find_end(p->db, p->after, p->before_ms, &last, e) : 0;
    if (rc) return rc;
    if (last == 0) return prune_alerts(p, e);
    rc = take_away(p->db, p->after, last, p->before_ms, &p->n, e);
    p->after = last;
    return rc ? rc : 1;
}

int prune_requests(struct db *db, int64_t days, int64_t *n, struct err *e)
{
    struct prune p;
    int rc = prune_begin(&p, db, days, e), more = 1;
    while (!rc && more) {
        more = prune_step(&p, e);
        if (more < 0) rc = more;
    }
    *n = p.n;
    return rc;
}
