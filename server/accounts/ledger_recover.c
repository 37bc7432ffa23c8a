/* Recovery: requests that nobody will end any more, and ends that come from the journal. */
#include <stdlib.h>
#include <string.h>

#include "server/accounts/ledger_parts.h"

/* --- deadlines of this run's own requests --- */

static size_t home_of(const struct ledger *l, int64_t request)
{
    return (uint64_t)request * 0x9e3779b97f4a7c15u >> 20 & (l->cap_deadlines - 1);
}

static struct deadline *deadline_place(const struct ledger *l, int64_t request)
{
    size_t at = home_of(l, request);
    while (l->deadlines[at].request && l->deadlines[at].request != request) at = (at + 1) & (l->cap_deadlines - 1);
    return &l->deadlines[at];
}

int deadlines_reserve(struct ledger *l, size_t n, struct err *e)
{
    size_t cap = l->cap_deadlines ? l->cap_deadlines : 1024;
    while (2 * (l->n_deadlines + n) > cap) cap *= 2;
    if (cap == l->cap_deadlines) return 0;
    struct deadline *old = l->deadlines, *more = calloc(cap, sizeof *more);
    size_t old_cap = l->cap_deadlines;
    if (!more) return err_set(e, ERR_MEMORY, "out of memory");
    l->deadlines = more;
    l->cap_deadlines = cap;
    for (size_t i = 0; i < old_cap; i++)
        if (old[i].request) *deadline_place(l, old[i].request) = old[i];
    free(old);
    return 0;
}

/* Those behind it that would no longer be found move up. */
static void deadline_drop(struct ledger *l, int64_t request)
{
    size_t mask = l->cap_deadlines - 1, gap = (size_t)(deadline_place(l, request) - l->deadlines);
    if (!l->deadlines[gap].request) return; /* another run's */
    for (size_t at = (gap + 1) & mask; l->deadlines[at].request; at = (at + 1) & mask) {
        if (((at - home_of(l, l->deadlines[at].request)) & mask) < ((at - gap) & mask)) continue;
        l->deadlines[gap] = l->deadlines[at];
        gap = at;
    }
    l->deadlines[gap] = (struct deadline){0};
    l->n_deadlines--;
}

void deadlines_note(struct ledger *l, struct ledger_op *const *ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct ledger_op *op = ops[i];
        if (op->type == LEDGER_RESERVE && !op->rc) {
            *deadline_place(l, op->request) = (struct deadline){.request = op->request, .boot_ms = l->now_boot_ms + op->lasts_ms};
            l->n_deadlines++;
        } else if ((op->type == LEDGER_POST || op->type == LEDGER_VOID) && (!op->rc || op->rc == -ERR_NOT_FOUND))
            deadline_drop(l, op->request);
    }
}

/* --- requests that are open too long --- */

static void add_void(struct ledger_op *ops, size_t *n, int64_t request)
{
    ops[(*n)++] = (struct ledger_op){.type = LEDGER_VOID, .request = request, .outcome = "never begun"};
}

static void find_own(const struct ledger *l, struct ledger_op *ops, size_t *n)
{
    for (size_t i = 0; i < l->cap_deadlines && *n < LEDGER_MAX_BATCH; i++)
        if (l->deadlines[i].request && l->deadlines[i].boot_ms + LEDGER_GRACE_MS < l->now_boot_ms)
            add_void(ops, n, l->deadlines[i].request);
}

/* After a jump of the clock every run seems to be silent until it has written once more. */
static int64_t judge_by_ms(const struct ledger *l)
{
    bool jumped = l->now_boot_ms - l->jumped_boot_ms < LEDGER_GRACE_MS;
    return jumped ? 0 : l->now_ms - LEDGER_GRACE_MS;
}

static int find_others(struct ledger *l, struct ledger_op *ops, size_t *n, struct err *e)
{
    struct db_rows rows;
    int rc =
        db_query(l->db, &rows,
                 "SELECT id FROM requests WHERE state = 'reserved' AND (id < ?1 OR id > ?1 + 4294967295) AND (id < ?2"
                 " OR id / 4294967296 IN (SELECT id FROM runs WHERE gateway = ?5 AND id < ?6) OR (deadline_ms < ?3"
                 " AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = requests.id / 4294967296 AND r.ended_ms IS NULL AND r.seen_ms >= ?3)))"
                 " ORDER BY id LIMIT ?4",
                 DB_ARGS(db_int(l->run << 32), db_int(l->o.alone ? l->run << 32 : 0), db_int(judge_by_ms(l)),
                         db_int(LEDGER_MAX_BATCH - (int64_t)*n), db_text(l->gateway), db_int(l->o.only ? l->run : 0)),
                 e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        add_void(ops, n, db_get_int(&rows, 0));
        rc = 0;
    }
    db_done(&rows);
    return rc;
}

/* An attempt that is open may have been answered, and will be on an invoice: what was last known of it is posted, and somebody is asked to
 * look. */
static int read_attempts(struct ledger *l, struct ledger_op *op, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows,
                      "SELECT n, sale_estimate, cost_estimate, supplier FROM attempts WHERE request = ?1 AND state = 'open' ORDER BY n",
                      DB_ARGS(db_int(op->request)), e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        rc = 0;
        if (op->n_used == LEDGER_MAX_ATTEMPTS) continue;
        struct ledger_used *u = &op->used[op->n_used++];
        *u = (struct ledger_used){.n = (int)db_get_int(&rows, 0),
                                  .supplier = db_get_int(&rows, 3),
                                  .end = LEDGER_NOT_KNOWN,
                                  .usage = {.source = USAGE_ESTIMATED},
                                  .cost_nusd = db_get_int(&rows, 2),
                                  .reconcile = "the gateway ended before the answer did"};
        op->type = LEDGER_POST;
        op->outcome = "recovered";
        op->served = u->n;
        op->sale_nusd = db_get_int(&rows, 1);
    }
    db_done(&rows);
    return rc;
}

static int refresh(struct ledger *l, struct err *e)
{
    int rc = db_begin(l->db, e);
    return rc ? rc : db_end(l->db, ledger_refresh(l, e), e);
}

int ledger_recover(struct ledger *l, size_t *n, struct err *e)
{
    *n = 0;
    struct ledger_op *ops = calloc(LEDGER_MAX_BATCH, sizeof *ops), **list = calloc(LEDGER_MAX_BATCH, sizeof *list);
    int rc = !ops || !list ? err_set(e, ERR_MEMORY, "out of memory") : l->o.alone ? refresh(l, e) : ledger_beat(l, e);
    if (!rc) find_own(l, ops, n);
    if (!rc && *n < LEDGER_MAX_BATCH) rc = find_others(l, ops, n, e);
    for (size_t i = 0; i < *n && !rc; i++) {
        list[i] = &ops[i];
        rc = read_attempts(l, &ops[i], e);
    }
    if (!rc && *n) rc = ledger_apply(l, list, *n, e); /* one that was resolved meanwhile says so, and is left alone */
    free(ops);
    free(list);
    return rc;
}

/* --- ends from the journal --- */

/* Attempts that whoever ended the request knew nothing of: the answer to their beginning never came. */
static int add_untold(struct ledger *l, struct ledger_op *op, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows, "SELECT n, supplier FROM attempts WHERE request = ?1 AND state = 'open' ORDER BY n",
                      DB_ARGS(db_int(op->request)), e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        bool told = false;
        for (int i = 0; i < op->n_used; i++) told |= op->used[i].n == db_get_int(&rows, 0);
        if (!told && op->n_used < LEDGER_MAX_ATTEMPTS)
            op->used[op->n_used++] =
                (struct ledger_used){.n = (int)db_get_int(&rows, 0), .supplier = db_get_int(&rows, 1), .end = LEDGER_FAILED};
        rc = 0;
    }
    db_done(&rows);
    return rc;
}

int ledger_replay(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) rc = add_untold(l, ops[i], e);
    return rc ? rc : ledger_apply(l, ops, n, e);
}
