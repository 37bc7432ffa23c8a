/* Ledger: what operators do. Each is one transaction. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "server/accounts/ledger_parts.h"
#include "server/accounts/schema.h"

static int check_customer(struct ledger *l, int64_t account, const char *kinds, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows, "SELECT kind FROM accounts WHERE id = ?1", DB_ARGS(db_int(account)), e);
    if (!rc) rc = db_next(&rows, e);
    bool fits = rc == 1 && strstr(kinds, db_get_text(&rows, 0));
    db_done(&rows);
    if (rc < 0 || fits) return rc < 0 ? rc : 0;
    return err_set(e, ERR_NOT_FOUND, "there is no account %lld that is one of: %s", (long long)account, kinds);
}

/* --- transfers --- */

const char *const ledger_transfer_names[] = {[LEDGER_DEPOSIT] = "deposit",
                                             [LEDGER_REFUND] = "refund",
                                             [LEDGER_ADJUSTMENT] = "adjustment",
                                             [LEDGER_CHARGEBACK] = "chargeback",
                                             [LEDGER_PAYMENT] = "payment"};

/* Each kind: whose it can be, whether it takes from the account, whether an amount below 0 turns it round, who is on the other side. */
static const struct {
    const char *kinds;
    bool takes, both_ways, outside;
} transfer_rules[] = {[LEDGER_DEPOSIT] = {"project", false, false, true},
                      [LEDGER_REFUND] = {"project", false, false, false},
                      [LEDGER_ADJUSTMENT] = {"project supplier", false, true, false},
                      [LEDGER_CHARGEBACK] = {"project", true, false, true},
                      [LEDGER_PAYMENT] = {"supplier", true, true, true}};

static int check_order(const struct ledger_order *o, struct err *e)
{
    const char *name = ledger_transfer_names[o->kind];
    if (o->amount_nusd == 0 || o->amount_nusd == INT64_MIN)
        return err_set_param(e, ERR_INPUT, "amount_usd", "the amount of a %s must not be 0, or past what can be counted", name);
    if (o->amount_nusd < 0 && !transfer_rules[o->kind].both_ways)
        return err_set_param(e, ERR_INPUT, "amount_usd", "the amount of a %s must be above 0", name);
    if (o->note && (strlen(o->note) > LEDGER_MAX_NOTE || !utf8_valid(o->note, strlen(o->note))))
        return err_set_param(e, ERR_INPUT, "note", "a note must be UTF-8 of at most %d bytes", LEDGER_MAX_NOTE);
    size_t n = o->key ? strlen(o->key) : 1;
    for (const char *p = o->key ? o->key : ""; *p; p++)
        if (*p < '!' || *p > '~') n = 0;
    if (n == 0 || n > LEDGER_MAX_KEY)
        return err_set_param(e, ERR_INPUT, "Idempotency-Key", "an Idempotency-Key must be 1 to %d printable characters of ASCII without blanks",
                             LEDGER_MAX_KEY);
    return 0;
}

/* The row that is to be. */
struct move {
    const struct ledger_order *o;
    int64_t debit, credit, amount;
};

static int check_linked(struct ledger *l, const struct ledger_order *o, struct err *e)
{
    int64_t n;
    if (!o->linked) return 0;
    int rc = db_number(l->db, "SELECT count(*) FROM transfers WHERE id = ?1 AND ?2 IN (debit, credit)",
                       DB_ARGS(db_int(o->linked), db_int(o->account)), 0, &n, e);
    if (rc || n) return rc;
    return err_set_param(e, ERR_NOT_FOUND, "linked", "there is no transfer %lld of account %lld", (long long)o->linked, (long long)o->account);
}

/* *id: the transfer that has the key; 0: none. After the balances' rows are locked, so that of two who ask at once one sees the other's. */
static int find_key(struct ledger *l, const struct move *m, int64_t *id, struct err *e)
{
    struct db_rows r;
    *id = 0;
    if (!m->o->key) return 0;
    int rc = db_query(l->db, &r, "SELECT id, kind, debit, credit, amount, coalesce(linked, 0), coalesce(note, '') FROM transfers"
                                 " WHERE idempotency_key = ?1", DB_ARGS(db_text(m->o->key)), e);
    if (!rc) rc = db_next(&r, e);
    bool same = rc == 1 && strcmp(db_get_text(&r, 1), ledger_transfer_names[m->o->kind]) == 0 && db_get_int(&r, 2) == m->debit &&
                db_get_int(&r, 3) == m->credit && db_get_int(&r, 4) == m->amount && db_get_int(&r, 5) == m->o->linked &&
                strcmp(db_get_text(&r, 6), m->o->note ? m->o->note : "") == 0;
    if (rc == 1) *id = db_get_int(&r, 0);
    db_done(&r);
    if (rc < 0 || *id == 0 || same) return rc < 0 ? rc : 0;
    return err_set_param(e, ERR_MISMATCH, "Idempotency-Key", "this key belongs to transfer %lld, which says something else", (long long)*id);
}

/* Notes the change of a balance, which must stay far from the end of int64: requests are still to be counted. SQLite would go on with
 * floating point. */
static int change_balance(struct ledger *l, int64_t account, int64_t nusd, struct err *e)
{
    struct balance_row *b = rows_balance(&l->rows, account);
    int64_t sum;
    b->more_posted = nusd;
    if (!__builtin_add_overflow(b->posted, nusd, &sum) && sum <= INT64_MAX / 2 && sum >= -(INT64_MAX / 2)) return 0;
    return err_set_param(e, ERR_LIMIT, "amount_usd", "the balance of account %lld would be past what can be counted", (long long)account);
}

static int insert_transfer(struct ledger *l, const struct move *m, int64_t *id, struct err *e)
{
    int rc = change_balance(l, m->debit, -m->amount, e);
    if (!rc) rc = change_balance(l, m->credit, m->amount, e);
    if (!rc) rc = rows_write(&l->rows, l->db, e);
    if (rc) return rc;
    return db_number(l->db,
                     "INSERT INTO transfers (kind, debit, credit, amount, created_ms, linked, note, idempotency_key)"
                     " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id",
                     DB_ARGS(db_text(ledger_transfer_names[m->o->kind]), db_int(m->debit), db_int(m->credit), db_int(m->amount),
                             db_int(l->now_ms), db_int_or_null(m->o->linked != 0, m->o->linked), db_text(m->o->note), db_text(m->o->key)),
                     0, id, e);
}

static int transfer_in(struct ledger *l, const struct move *m, int64_t *id, bool *repeated, struct err *e)
{
    rows_clear(&l->rows);
    int rc = ledger_refresh(l, e);
    if (!rc) rc = check_customer(l, m->o->account, transfer_rules[m->o->kind].kinds, e);
    if (!rc) rc = check_linked(l, m->o, e);
    if (!rc) rc = rows_want_balance(&l->rows, m->debit, e);
    if (!rc) rc = rows_want_balance(&l->rows, m->credit, e);
    if (!rc) rc = rows_read(&l->rows, l->db, e);
    if (!rc) rc = find_key(l, m, id, e);
    *repeated = !rc && *id;
    return rc || *id ? rc : insert_transfer(l, m, id, e);
}

int64_t ledger_transfer_order(struct ledger *l, const struct ledger_order *o, bool *repeated, struct err *e)
{
    int64_t id = 0, house = transfer_rules[o->kind].outside ? l->outside : l->house;
    bool unused, takes = transfer_rules[o->kind].takes != (o->amount_nusd < 0);
    int rc = check_order(o, e);
    if (rc) return rc;
    const struct move m = {.o = o,
                           .debit = takes ? o->account : house,
                           .credit = takes ? house : o->account,
                           .amount = o->amount_nusd < 0 ? -o->amount_nusd : o->amount_nusd};
    for (int tries = 0; tries < 2; tries++) { /* -ERR_EXISTS: another who shares no balance with this one has the key; now it is seen */
        rc = db_begin(l->db, e);
        if (!rc) rc = db_end(l->db, transfer_in(l, &m, &id, repeated ? repeated : &unused, e), e);
        if (rc != -ERR_EXISTS) break;
    }
    return rc ? rc : id;
}

int64_t ledger_transfer(struct ledger *l, enum ledger_transfer_kind kind, int64_t project, int64_t amount_nusd, int64_t linked, const char *note,
                        struct err *e)
{
    const struct ledger_order o = {.kind = kind, .account = project, .amount_nusd = amount_nusd, .linked = linked, .note = note};
    return ledger_transfer_order(l, &o, NULL, e);
}

/* --- budgets --- */

static bool is_one_of(const char *s, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(s, names[i]) == 0) return true;
    return false;
}

static int64_t budget_insert(struct ledger *l, const struct ledger_budget *b, struct err *e)
{
    int64_t id = 0, n = 0;
    int rc = check_customer(l, b->account, "key project organisation house", e);
    if (!rc)
        rc = db_number(l->db, "SELECT count(*) FROM budgets WHERE account = ?1 AND ended_s IS NULL", DB_ARGS(db_int(b->account)), 0, &n, e);
    if (!rc && n >= LEDGER_MAX_WINDOWS / 4)
        rc = err_set(e, ERR_LIMIT, "account %lld has %d budgets already", (long long)b->account, LEDGER_MAX_WINDOWS / 4);
    if (!rc)
        rc = db_number(l->db,
                       "INSERT INTO budgets (account, scope, unit, period, amount, hard, created_s)"
                       " VALUES (?1, ?2, ?3, ?4, ?5, ?6, {now_s}) RETURNING id",
                       DB_ARGS(db_int(b->account), db_text(b->scope), db_text(b->unit), db_text(b->period), db_int(b->amount),
                               db_int(b->hard)),
                       0, &id, e);
    if (!rc) rc = schema_config_changed(l->db, e);
    return rc ? rc : id;
}

int64_t ledger_budget_add(struct ledger *l, const struct ledger_budget *b, struct err *e)
{
    if (!is_one_of(b->scope, ledger_scopes, 3))
        return err_set(e, ERR_INPUT, "a budget's scope is all, hosted or overflow, not '%s'", b->scope);
    if (!is_one_of(b->unit, ledger_units, UNITS))
        return err_set(e, ERR_INPUT, "a budget's unit is nusd, requests or tokens, not '%s'", b->unit);
    if (!is_one_of(b->period, ledger_periods, PERIODS))
        return err_set(e, ERR_INPUT, "a budget's period is now, minute, hour, day, month or total, not '%s'", b->period);
    if (b->amount < 0) return err_set(e, ERR_INPUT, "a budget's amount must not be below 0");
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    int64_t id = budget_insert(l, b, e);
    rc = db_end(l->db, id < 0 ? (int)id : 0, e);
    return rc ? rc : id;
}

const struct ledger_limit ledger_limits[LEDGER_LIMITS] = {
    {"rpm", "requests", "minute"}, {"tpm", "tokens", "minute"}, {"concurrency", "requests", "now"}};

int ledger_limit_set(struct ledger *l, int64_t account, const char *unit, const char *period, int64_t amount, struct err *e)
{
    CHECK(amount >= 0 && is_one_of(unit, ledger_units, UNITS) && is_one_of(period, ledger_periods, PERIODS));
    const struct ledger_budget b = {.account = account, .scope = "all", .unit = unit, .period = period, .amount = amount, .hard = true};
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = db_run(l->db,
                "UPDATE budgets SET ended_s = {now_s} WHERE account = ?1 AND scope = 'all' AND unit = ?2 AND period = ?3 AND hard = 1"
                " AND ended_s IS NULL",
                DB_ARGS(db_int(account), db_text(unit), db_text(period)), NULL, e);
    int64_t id = rc;
    if (!rc) id = amount ? budget_insert(l, &b, e) : schema_config_changed(l->db, e);
    return db_end(l->db, id < 0 ? (int)id : 0, e);
}

/* The window that a request would count in now; one that nothing has counted in yet has no row. */
static int read_use(struct ledger *l, struct ledger_budget *b, enum ledger_period period, struct err *e)
{
    struct db_rows rows;
    b->starts_s = ledger_window_start_s(period, l->now_ms / 1000);
    int rc = db_query(l->db, &rows, "SELECT posted, pending FROM budget_windows WHERE budget = ?1 AND starts_s = ?2",
                      DB_ARGS(db_int(b->id), db_int(b->starts_s)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        b->posted = db_get_int(&rows, 0);
        b->pending = db_get_int(&rows, 1);
    }
    db_done(&rows);
    return rc < 0 ? rc : 0;
}

int ledger_budget_list(struct ledger *l, int64_t account, void (*fn)(void *ctx, const struct ledger_budget *b), void *ctx, struct err *e)
{
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = ledger_refresh(l, e);
    for (size_t i = 0; i < l->n_budgets && !rc; i++) {
        const struct budget *b = &l->budgets[i];
        if (b->ended || (account && b->account != account)) continue;
        struct ledger_budget out = {.id = b->id,
                                    .account = b->account,
                                    .scope = ledger_scopes[b->scope],
                                    .unit = ledger_units[b->unit],
                                    .period = ledger_periods[b->period],
                                    .amount = b->amount,
                                    .hard = b->hard};
        rc = read_use(l, &out, b->period, e);
        if (!rc) fn(ctx, &out);
    }
    return db_end(l->db, rc, e);
}

int ledger_budget_end(struct ledger *l, int64_t id, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = db_run(l->db, "UPDATE budgets SET ended_s = {now_s} WHERE id = ?1 AND ended_s IS NULL", DB_ARGS(db_int(id)), &n_changed, e);
    if (!rc && n_changed == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no budget %lld in force", (long long)id);
    if (!rc) rc = schema_config_changed(l->db, e);
    return db_end(l->db, rc, e);
}

int ledger_floor_set(struct ledger *l, int64_t project, const int64_t *floor_nusd, struct err *e)
{
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = check_customer(l, project, "project", e);
    if (!rc)
        rc = db_run(l->db, "UPDATE balances SET floor = ?2 WHERE account = ?1",
                    DB_ARGS(db_int(project), db_int_or_null(floor_nusd, floor_nusd ? *floor_nusd : 0)), NULL, e);
    return db_end(l->db, rc, e);
}

int ledger_balance(struct ledger *l, int64_t account, struct ledger_balance *out, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(l->db, &rows, "SELECT posted, pending, floor FROM balances WHERE account = ?1", DB_ARGS(db_int(account)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1)
        *out = (struct ledger_balance){.posted_nusd = db_get_int(&rows, 0),
                                       .pending_nusd = db_get_int(&rows, 1),
                                       .prepaid = !db_null(&rows, 2),
                                       .floor_nusd = db_get_int(&rows, 2)};
    db_done(&rows);
    return rc == 1 ? 0 : rc ? rc : err_set(e, ERR_NOT_FOUND, "account %lld has no balance", (long long)account);
}
