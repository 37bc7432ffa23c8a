/* Ledger: what operators do. Each is one transaction. */
#include <stdio.h>
#include <string.h>

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

int64_t ledger_transfer(struct ledger *l, enum ledger_transfer_kind kind, int64_t project, int64_t amount_nusd, int64_t linked, const char *note,
                        struct err *e)
{
    static const char *const names[] = {
        [LEDGER_DEPOSIT] = "deposit", [LEDGER_REFUND] = "refund", [LEDGER_ADJUSTMENT] = "adjustment", [LEDGER_CHARGEBACK] = "chargeback"};
    int64_t house = kind == LEDGER_DEPOSIT || kind == LEDGER_CHARGEBACK ? l->outside : l->house, id = 0;
    bool takes = kind == LEDGER_CHARGEBACK || (kind == LEDGER_ADJUSTMENT && amount_nusd < 0);
    if (amount_nusd == 0 || amount_nusd == INT64_MIN || (amount_nusd < 0 && kind != LEDGER_ADJUSTMENT))
        return err_set(e, ERR_INPUT, "the amount of a %s must be above 0", names[kind]);
    int64_t amount = amount_nusd < 0 ? -amount_nusd : amount_nusd;
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rows_clear(&l->rows);
    rc = ledger_refresh(l, e);
    if (!rc) rc = check_customer(l, project, kind == LEDGER_ADJUSTMENT ? "project supplier" : "project", e);
    if (!rc && linked) {
        rc = db_number(l->db, "SELECT count(*) FROM transfers WHERE id = ?1 AND ?2 IN (debit, credit)",
                       DB_ARGS(db_int(linked), db_int(project)), 0, &id, e);
        if (!rc && id == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no transfer %lld of account %lld", (long long)linked, (long long)project);
    }
    if (!rc) rc = rows_want_balance(&l->rows, project, e);
    if (!rc) rc = rows_want_balance(&l->rows, house, e);
    if (!rc) rc = rows_read(&l->rows, l->db, e);
    if (!rc) {
        rows_balance(&l->rows, project)->more_posted = takes ? -amount : amount;
        rows_balance(&l->rows, house)->more_posted = takes ? amount : -amount;
        rc = rows_write(&l->rows, l->db, e);
    }
    if (!rc)
        rc = db_number(l->db,
                       "INSERT INTO transfers (kind, debit, credit, amount, created_ms, linked, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) "
                       "RETURNING id",
                       DB_ARGS(db_text(names[kind]), db_int(takes ? project : house), db_int(takes ? house : project), db_int(amount),
                               db_int(l->now_ms), db_int_or_null(linked != 0, linked), db_text(note)),
                       0, &id, e);
    rc = db_end(l->db, rc, e);
    return rc ? rc : id;
}

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
