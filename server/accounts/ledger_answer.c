/* Ledger: idempotency keys. A key stands for one request of its account: a second one is refused, and told what became of the first. Where the
 * project lets them be kept, finished answers are, sealed by whoever posts them (answer_box.h): here they are bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/accounts/ledger_parts.h"

void ledger_receipt_clear(struct ledger_receipt *r)
{
    free(r->answer);
    *r = (struct ledger_receipt){0};
}

static int copy_answer(struct ledger_receipt *out, struct db_rows *rows, int column, struct err *e)
{
    size_t n = db_get_blob(rows, column, NULL, 0);
    if (n == 0 || n > LEDGER_ANSWER_BYTES) return 0; /* more: another program's */
    out->answer = malloc(n);
    if (!out->answer) return err_set(e, ERR_MEMORY, "out of memory");
    out->n_answer = db_get_blob(rows, column, out->answer, n);
    return 0;
}

/* The first columns are what find_sql has them to be, then the meters, in their order. */
static int read_receipt(struct ledger_receipt *out, struct db_rows *rows, struct err *e)
{
    ledger_receipt_clear(out);
    out->charged_nusd = db_get_int(rows, 3);
    snprintf(out->outcome, sizeof out->outcome, "%s", db_get_text(rows, 4));
    out->estimated = db_get_int(rows, 5) != 0;
    for (int m = 0; m < USAGE_METERS; m++)
        if (!db_null(rows, 7 + m)) usage_set(&out->usage, (enum usage_meter)m, db_get_int(rows, 7 + m));
    return copy_answer(out, rows, 6, e);
}

static const char find_sql[] =
    "SELECT i.body_hash, i.request, r.state, r.charged, r.outcome, r.estimated, CASE WHEN ?4 = 1 THEN i.answer END, a.in_uncached,"
    " a.in_cache_read, a.in_cache_write_5m, a.in_cache_write_1h, a.in_audio, a.in_image, a.out_text, a.out_reasoning, a.out_audio, a.searches"
    " FROM idempotency i JOIN requests r ON r.id = i.request LEFT JOIN attempts a ON a.request = r.id AND a.n = r.served"
    " WHERE i.account = ?1 AND i.key_hash = ?2 AND i.expires_ms > ?3";

int answer_find(struct ledger *l, struct ledger_op *op, bool stores, struct err *e)
{
    struct db_rows rows;
    unsigned char body[LEDGER_HASH_BYTES];
    int rc = db_query(l->db, &rows, find_sql,
                      DB_ARGS(db_int(op->account), db_blob(op->idempotency_key, LEDGER_HASH_BYTES), db_int(l->now_ms), db_int(stores && op->receipt)),
                      e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        bool same = db_get_blob(&rows, 0, body, sizeof body) == sizeof body && memcmp(body, op->body_hash, sizeof body) == 0;
        bool open = strcmp(db_get_text(&rows, 2), "reserved") == 0;
        op->known = db_get_int(&rows, 1);
        if (!same)
            op->rc = err_set(&op->err, ERR_MISMATCH, "This Idempotency-Key was used for another request.");
        else if (open)
            op->rc = err_set(&op->err, ERR_IN_FLIGHT, "A request with this Idempotency-Key is under way.");
        else {
            op->rc = err_set(&op->err, ERR_DONE, "A request with this Idempotency-Key has been answered.");
            if (op->receipt) rc = read_receipt(op->receipt, &rows, e);
        }
    }
    db_done(&rows);
    return rc < 0 ? rc : 0;
}

int answer_note_key(struct ledger *l, const struct ledger_op *op, struct err *e)
{
    return db_send(l->db,
                   "INSERT INTO idempotency (account, key_hash, body_hash, request, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)"
                   " ON CONFLICT (account, key_hash) DO UPDATE SET body_hash = excluded.body_hash, request = excluded.request,"
                   " expires_ms = excluded.expires_ms, answer = NULL",
                   DB_ARGS(db_int(op->account), db_blob(op->idempotency_key, LEDGER_HASH_BYTES), db_blob(op->body_hash, LEDGER_HASH_BYTES),
                           db_int(op->request), db_int(l->now_ms + LEDGER_ANSWER_MS)),
                   1, e);
}

/* Asked of the project again: what it no longer lets be kept is not written after it has said so. */
int answer_keep(struct ledger *l, const struct ledger_op *op, struct err *e)
{
    CHECK(op->n_answer <= LEDGER_ANSWER_BYTES);
    if (op->answer_nusd != op->charged_nusd) return 0;
    return db_send(l->db,
                   "UPDATE idempotency SET answer = ?2 WHERE request = ?1 AND EXISTS (SELECT 1 FROM requests r JOIN accounts p"
                   " ON p.id = r.project WHERE r.id = ?1 AND p.stores_answers = 1)",
                   DB_ARGS(db_int(op->request), db_blob(op->answer, op->n_answer)), -1, e);
}

/* One that is used again meanwhile has another time, and stays. */
int ledger_forget_keys(struct ledger *l, size_t *n, struct err *e)
{
    int64_t n_old = 0, n_gone = 0;
    *n = 0;
    int rc = db_number(l->db, "SELECT count(*) FROM (SELECT 1 FROM idempotency WHERE expires_ms <= ?1 LIMIT 1) x", DB_ARGS(db_int(ledger_now_ms(l))),
                       0, &n_old, e);
    if (rc || n_old == 0) return rc;
    rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = ledger_refresh(l, e);
    if (!rc)
        rc = db_run(l->db,
                    "DELETE FROM idempotency WHERE expires_ms <= ?1 AND (account, key_hash) IN"
                    " (SELECT account, key_hash FROM idempotency WHERE expires_ms <= ?1 LIMIT ?2)",
                    DB_ARGS(db_int(l->now_ms), db_int(LEDGER_MAX_BATCH)), &n_gone, e);
    rc = db_end(l->db, rc, e);
    if (!rc) *n = (size_t)n_gone;
    return rc;
}
