/* Ledger, inside: what its files share. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_LEDGER_PARTS_H
#define SPILLWAY_SERVER_ACCOUNTS_LEDGER_PARTS_H

#include "server/accounts/ledger.h"

enum { LEDGER_MAX_WINDOWS = 32 /* budgets of one chain */, LEDGER_MODEL_BYTES = 256 };

enum ledger_unit { UNIT_NUSD, UNIT_REQUESTS, UNIT_TOKENS, UNITS };
enum ledger_period { PERIOD_NOW, PERIOD_MINUTE, PERIOD_HOUR, PERIOD_DAY, PERIOD_MONTH, PERIOD_TOTAL, PERIODS };
extern const char *const ledger_units[UNITS], *const ledger_periods[PERIODS], *const ledger_scopes[3];

/* A budget in force. */
struct budget {
    int64_t id, account, amount;
    enum ledger_scope scope;
    enum ledger_unit unit;
    enum ledger_period period;
    bool hard, ended;
};

/* A key and what is above it. */
struct chain {
    int64_t key, project, organisation; /* key 0: an empty place */
    bool closed, frozen;                /* the key is closed; one of the three is frozen */
    bool stores;                        /* the project lets answers be kept */
};

struct balance_row {
    int64_t account, posted, pending, floor;
    int64_t more_posted, more_pending;
    bool has_floor, granted; /* a reserve was: its update asks for the floor once more */
};

struct window_row {
    const struct budget *budget;
    int64_t starts_s, posted, pending;
    int64_t more_posted, more_pending;
};

/* The rows that a batch touches, in order of their ids. */
struct ledger_rows {
    struct balance_row *balances;
    size_t n_balances, cap_balances;
    struct window_row *windows;
    size_t n_windows, cap_windows;
};

/* A price that was met. */
struct known_price {
    const char *rows; /* NULL: an empty place */
    int64_t id;
};

/* When a request of this run has to have ended, by the boot clock: no jump of the database's clock ends it early or late. */
struct deadline {
    int64_t request, boot_ms; /* request 0: an empty place */
};

struct ledger {
    struct db *db;
    struct ledger_options o;
    char gateway[128];
    int64_t run, seq;
    int64_t seq_before, seen_before_ms; /* the batch: as they were, and are again if it comes to nothing */
    int64_t seen_ms;    /* the run's, as written last: another one with every batch, so that a batch is known by it */
    int64_t house, overrun, outside; /* accounts */
    int64_t now_ms, now_boot_ms;     /* as of the last transaction */
    int64_t jumped_boot_ms;          /* since when the database's clock goes as ours */
    int64_t ahead_ms;                /* the database's clock of the boot clock, then */
    int64_t clock_ms;                /* as it stands in the store */
    int64_t config_version;
    struct budget *budgets; /* in order of accounts */
    size_t n_budgets;
    struct chain *chains; /* a table by key */
    size_t n_chains, cap_chains;
    struct known_price *prices; /* a table by the address of rows */
    size_t n_prices, cap_prices;
    struct ledger_rows rows;
    struct deadline *deadlines; /* a table by request */
    size_t n_deadlines, cap_deadlines;
};

/* The clock, and what has changed of keys and budgets. At the beginning of a transaction. */
MUST_USE int ledger_refresh(struct ledger *l, struct err *e);
int64_t ledger_boot_ms(const struct ledger *l);
/* In a transaction, after ledger_refresh: the run's seen_ms. */
MUST_USE int ledger_note_run(struct ledger *l, struct err *e);
/* -ERR_NOT_FOUND: there is no such key. */
MUST_USE int ledger_chain(struct ledger *l, int64_t key, struct chain *out, struct err *e);
/* 0 if there is none. */
MUST_USE int ledger_price_id(struct ledger *l, const struct ledger_price *p, int64_t *id, struct err *e);
void ledger_forget_prices(struct ledger *l); /* what was met in a transaction that came to nothing is not there */
/* Budgets of the account: the first, *n of them. */
const struct budget *ledger_budgets_of(const struct ledger *l, int64_t account, size_t *n);
const struct budget *ledger_budget_by_id(const struct ledger *l, int64_t id);

/* --- deadlines (ledger_recover.c) --- */

/* Room for n more, so that none is wanting after the commit. */
MUST_USE int deadlines_reserve(struct ledger *l, size_t n, struct err *e);
/* What the batch has begun and ended. */
void deadlines_note(struct ledger *l, struct ledger_op *const *ops, size_t n);

/* --- idempotency keys and the answers that are kept under them (ledger_answer.c) --- */

/* If the key was seen before the op is refused. */
MUST_USE int answer_find(struct ledger *l, struct ledger_op *op, bool stores, struct err *e);
MUST_USE int answer_note_key(struct ledger *l, const struct ledger_op *op, struct err *e);
/* Of a POST that has one. */
MUST_USE int answer_keep(struct ledger *l, const struct ledger_op *op, struct err *e);

/* --- rows (ledger_rows.c) --- */

void rows_clear(struct ledger_rows *r);
void rows_free(struct ledger_rows *r);
/* Notes that the batch touches it. Before rows_read. */
MUST_USE int rows_want_balance(struct ledger_rows *r, int64_t account, struct err *e);
MUST_USE int rows_want_window(struct ledger_rows *r, const struct budget *b, int64_t starts_s, struct err *e);
/* Locks and reads them all. */
MUST_USE int rows_read(struct ledger_rows *r, struct db *db, struct err *e);
struct balance_row *rows_balance(struct ledger_rows *r, int64_t account);
struct window_row *rows_window(struct ledger_rows *r, int64_t budget, int64_t starts_s);
/* Writes what has changed. */
MUST_USE int rows_write(struct ledger_rows *r, struct db *db, struct err *e);

/* After the commit: a line of the log for each budget that refuses nothing and was used up by this batch, one a window. */
void rows_tell(const struct ledger_rows *r);

int64_t ledger_window_start_s(enum ledger_period p, int64_t now_s);
int64_t ledger_window_end_s(enum ledger_period p, int64_t starts_s); /* 0: it has none */

#endif
