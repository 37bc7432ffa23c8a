/* The rows of balances and budgets that a batch touches: each read once, under a lock, and written once. */
#include "server/accounts/ledger_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/accounts/money.h"

/* --- windows of time, UTC --- */

/* Days since 1970-01-01 of the first of a month (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */
static int64_t days_of_month(int64_t year, int month)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719468;
}

static void month_of_day(int64_t days, int64_t *year, int *month)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097, of_era = days - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t day_of_year = of_era - (365 * y + y / 4 - y / 100);
    int m = (int)((5 * day_of_year + 2) / 153);
    *month = m + (m < 10 ? 3 : -9);
    *year = y + era * 400 + (*month <= 2);
}

static const int64_t seconds[PERIODS] = {[PERIOD_MINUTE] = 60, [PERIOD_HOUR] = 3600, [PERIOD_DAY] = 86400};

int64_t ledger_window_start_s(enum ledger_period p, int64_t now_s)
{
    int64_t year;
    int month;
    if (seconds[p]) return now_s - now_s % seconds[p];
    if (p != PERIOD_MONTH) return 0;
    month_of_day(now_s / 86400, &year, &month);
    return days_of_month(year, month) * 86400;
}

int64_t ledger_window_end_s(enum ledger_period p, int64_t starts_s)
{
    int64_t year;
    int month;
    if (seconds[p]) return starts_s + seconds[p];
    if (p != PERIOD_MONTH) return 0;
    month_of_day(starts_s / 86400, &year, &month);
    return days_of_month(month == 12 ? year + 1 : year, month == 12 ? 1 : month + 1) * 86400;
}

/* --- rows --- */

void rows_clear(struct ledger_rows *r)
{
    r->n_balances = r->n_windows = 0;
}

void rows_free(struct ledger_rows *r)
{
    free(r->balances);
    free(r->windows);
    *r = (struct ledger_rows){0};
}

/* Makes room for one more of n; the array may move. */
static int grow(void **p, size_t n, size_t *cap, size_t each, struct err *e)
{
    if (n < *cap) return 0;
    size_t more = *cap ? 2 * *cap : 64;
    void *q = realloc(*p, more * each);
    if (!q) return err_set(e, ERR_MEMORY, "out of memory");
    *p = q;
    *cap = more;
    return 0;
}

static size_t balance_place(const struct ledger_rows *r, int64_t account)
{
    size_t low = 0, high = r->n_balances;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (r->balances[middle].account < account)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t window_place(const struct ledger_rows *r, int64_t budget, int64_t starts_s)
{
    size_t low = 0, high = r->n_windows;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct window_row *w = &r->windows[middle];
        if (w->budget->id < budget || (w->budget->id == budget && w->starts_s < starts_s))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int rows_want_balance(struct ledger_rows *r, int64_t account, struct err *e)
{
    size_t at = balance_place(r, account);
    if (at < r->n_balances && r->balances[at].account == account) return 0;
    int rc = grow((void **)&r->balances, r->n_balances, &r->cap_balances, sizeof *r->balances, e);
    if (rc) return rc;
    memmove(r->balances + at + 1, r->balances + at, (r->n_balances - at) * sizeof *r->balances);
    r->balances[at] = (struct balance_row){.account = account};
    r->n_balances++;
    return 0;
}

int rows_want_window(struct ledger_rows *r, const struct budget *b, int64_t starts_s, struct err *e)
{
    size_t at = window_place(r, b->id, starts_s);
    if (at < r->n_windows && r->windows[at].budget->id == b->id && r->windows[at].starts_s == starts_s) return 0;
    int rc = grow((void **)&r->windows, r->n_windows, &r->cap_windows, sizeof *r->windows, e);
    if (rc) return rc;
    memmove(r->windows + at + 1, r->windows + at, (r->n_windows - at) * sizeof *r->windows);
    r->windows[at] = (struct window_row){.budget = b, .starts_s = starts_s};
    r->n_windows++;
    return 0;
}

struct balance_row *rows_balance(struct ledger_rows *r, int64_t account)
{
    size_t at = balance_place(r, account);
    CHECK(at < r->n_balances && r->balances[at].account == account);
    return &r->balances[at];
}

struct window_row *rows_window(struct ledger_rows *r, int64_t budget, int64_t starts_s)
{
    size_t at = window_place(r, budget, starts_s);
    CHECK(at < r->n_windows && r->windows[at].budget->id == budget && r->windows[at].starts_s == starts_s);
    return &r->windows[at];
}

static int read_balance(struct balance_row *b, struct db *db, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(db, &rows, "SELECT posted, pending, floor FROM balances WHERE account = ?1 {for update}", DB_ARGS(db_int(b->account)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        b->posted = db_get_int(&rows, 0);
        b->pending = db_get_int(&rows, 1);
        b->has_floor = !db_null(&rows, 2);
        b->floor = db_get_int(&rows, 2);
    } else if (!rc)
        rc = err_set(e, ERR_INTERNAL, "account %lld has no row of balances", (long long)b->account);
    db_done(&rows);
    return rc == 1 ? 0 : rc;
}

static int read_window(struct window_row *w, struct db *db, struct err *e)
{
    struct db_rows rows;
    int rc = db_run(db, "INSERT INTO budget_windows (budget, starts_s) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    DB_ARGS(db_int(w->budget->id), db_int(w->starts_s)), NULL, e);
    if (rc) return rc;
    rc = db_query(db, &rows, "SELECT posted, pending FROM budget_windows WHERE budget = ?1 AND starts_s = ?2 {for update}",
                  DB_ARGS(db_int(w->budget->id), db_int(w->starts_s)), e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        w->posted = db_get_int(&rows, 0);
        w->pending = db_get_int(&rows, 1);
    } else if (!rc)
        rc = err_set(e, ERR_BUSY, "a budget's window went away");
    db_done(&rows);
    return rc == 1 ? 0 : rc;
}

int rows_read(struct ledger_rows *r, struct db *db, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < r->n_balances && !rc; i++) rc = read_balance(&r->balances[i], db, e);
    for (size_t i = 0; i < r->n_windows && !rc; i++) rc = read_window(&r->windows[i], db, e);
    return rc;
}

/* The rows are locked, so the conditions hold: that they are asked again is for the day on which something above is wrong. */
static int write_balance(const struct balance_row *b, struct db *db, struct err *e)
{
    if (!b->more_posted && !b->more_pending) return 0;
    return db_send(db,
                    "UPDATE balances SET posted = posted + ?2, pending = pending + ?3 WHERE account = ?1"
                    " AND (?4 = 0 OR floor IS NULL OR posted + ?2 - (pending + ?3) >= floor)",
                    DB_ARGS(db_int(b->account), db_int(b->more_posted), db_int(b->more_pending), db_int(b->granted)), 1, e);
}

static int write_window(const struct window_row *w, struct db *db, struct err *e)
{
    if (!w->more_posted && !w->more_pending) return 0;
    return db_send(db, "UPDATE budget_windows SET posted = posted + ?3, pending = pending + ?4 WHERE budget = ?1 AND starts_s = ?2",
                  DB_ARGS(db_int(w->budget->id), db_int(w->starts_s), db_int(w->more_posted), db_int(w->more_pending)), 1, e);
}

int rows_write(struct ledger_rows *r, struct db *db, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < r->n_balances && !rc; i++) rc = write_balance(&r->balances[i], db, e);
    for (size_t i = 0; i < r->n_windows && !rc; i++) rc = write_window(&r->windows[i], db, e);
    return rc;
}

/* With several gateways it is told by the one whose batch it was: the row was locked. */
void rows_tell(const struct ledger_rows *r)
{
    for (size_t i = 0; i < r->n_windows; i++) {
        const struct window_row *w = &r->windows[i];
        const struct budget *b = w->budget;
        char amount[MONEY_BYTES];
        if (b->hard || b->ended || w->posted >= b->amount || w->posted + w->more_posted < b->amount) continue;
        if (b->unit == UNIT_NUSD)
            money_write(b->amount, amount);
        else
            snprintf(amount, sizeof amount, "%lld", (long long)b->amount);
        log_warn("accounts: budget %lld of account %lld is used up: %s %s per %s (%s requests)", (long long)b->id, (long long)b->account,
                 amount, b->unit == UNIT_NUSD ? "usd" : ledger_units[b->unit], ledger_periods[b->period], ledger_scopes[b->scope]);
    }
}
