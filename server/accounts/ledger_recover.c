/* Recovery: requests that nobody will end any more. */
#include <stdlib.h>
#include <string.h>

#include "server/accounts/ledger_parts.h"

static int find_open(struct ledger *l, struct ledger_op *ops, size_t *n, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows,
                      "SELECT id FROM requests WHERE state = 'reserved' AND (deadline_ms < ?1 OR id < ?2 OR"
                      " id / 4294967296 IN (SELECT id FROM runs WHERE gateway = ?4 AND id < ?5)) ORDER BY id LIMIT ?3",
                      DB_ARGS(db_int(l->now_ms - LEDGER_GRACE_MS), db_int(l->o.alone ? l->run << 32 : 0), db_int(LEDGER_MAX_BATCH),
                              db_text(l->gateway), db_int(l->o.only ? l->run : 0)),
                      e);
    *n = 0;
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        ops[(*n)++] = (struct ledger_op){.type = LEDGER_VOID, .request = db_get_int(&rows, 0), .outcome = "never begun"};
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

int ledger_recover(struct ledger *l, size_t *n, struct err *e)
{
    *n = 0;
    struct ledger_op *ops = calloc(LEDGER_MAX_BATCH, sizeof *ops), **list = calloc(LEDGER_MAX_BATCH, sizeof *list);
    int rc = ops && list ? db_begin(l->db, e) : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) rc = db_end(l->db, ledger_refresh(l, e), e);
    if (!rc) rc = find_open(l, ops, n, e);
    for (size_t i = 0; i < *n && !rc; i++) {
        list[i] = &ops[i];
        rc = read_attempts(l, &ops[i], e);
    }
    if (!rc && *n) rc = ledger_apply(l, list, *n, e); /* one that was resolved meanwhile says so, and is left alone */
    free(ops);
    free(list);
    return rc;
}
