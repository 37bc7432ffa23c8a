/* Ledger: who owes what to whom, decided by the store.
 *
 * A request is *reserved* before work begins (its row, its hold on the payer's balance and on every budget above it, its first attempt: one
 * transaction), and later *posted* (charged what it came to, at most what was held) or *voided*. The payer is the key's project. The sale
 * goes project -> house, once a request; the cost goes house -> supplier, once an attempt, whether the supplier is a hosted provider or the
 * local GPU. What a request came to beyond its hold the house bears (overrun -> house), the customer never.
 *
 * ledger_apply takes many operations at once: one transaction, each row of balances and budgets read and written once in it (locked in
 * order of their ids where several gateways share the store), as many reserves granted as fit, in their order. It returns when all of it is
 * durable. So nothing in memory decides about money; and it holds with several gateways. A budget is a limit on an account and all below it
 * in windows of UTC time by the database's clock; a reservation counts in the window it was made in. Requests and tokens a minute are
 * budgets, too.
 *
 * Money is int64 nano-dollars, > 0 in every transfer. Nothing is ever changed or deleted in `transfers`: corrections are new ones.
 * One handle belongs to one thread. The tables: schema.c. The invariants I1 to I10 as SQL: tests/accounts/invariants.sql. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_LEDGER_H
#define SPILLWAY_SERVER_ACCOUNTS_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "server/accounts/db.h"
#include "server/accounts/usage.h"

struct ledger;

enum { LEDGER_MAX_BATCH = 512, LEDGER_MAX_ATTEMPTS = 4, LEDGER_HASH_BYTES = 32 };
enum {
    LEDGER_GRACE_MS = 60000 /* no hold outlives its deadline by more */,
    LEDGER_ANSWER_MS = 24 * 3600 * 1000 /* an idempotency key is remembered */,
    LEDGER_ANSWER_BYTES = 1 << 20       /* of an answer that is kept, sealed (answer_box.h) */
};

struct ledger_options {
    const char *gateway;           /* its name, in `runs` */
    bool alone;                    /* no other gateway uses the store: runs that have not ended are dead */
    bool only;                     /* no other of this name is alive: its runs that have not ended are dead */
    bool desk;                     /* for operators: it begins no run, and no request can be reserved */
    int64_t (*now_ms)(void *ctx);  /* for tests, in place of the database's clock; NULL: that */
    int64_t (*boot_ms)(void *ctx); /* for tests, in place of the boot clock; NULL: that, or now_ms if it is there */
    void *ctx;
};

struct ledger_attempt {
    int64_t supplier; /* ledger_supplier */
    const char *model; /* as the supplier knows it */
    int64_t price;     /* id in `prices`; 0: none */
    int64_t sale_estimate_nusd, cost_estimate_nusd; /* what is posted if nothing more is ever learned */
    int64_t extended; /* EXTEND: the how many-th of this attempt it is, by which it is known again */
};

/* A price in force: its row in `prices`, made when it is met for the first time, in place of the one before. */
struct ledger_price {
    const char *provider, *model, *rows; /* NULL: none. They must live as long as the ledger: a price is known again by the address of rows */
};

/* How an attempt ended. */
enum ledger_end { LEDGER_SERVED, LEDGER_CUT /* after some of it */, LEDGER_FAILED, LEDGER_NOT_KNOWN };
struct ledger_used {
    int n;                /* the attempt's number, from 1 */
    int64_t supplier;     /* its */
    enum ledger_end end;
    struct usage usage;   /* its source is told only if there is a count */
    const char *tier;     /* of service, constant; NULL: standard */
    int64_t cost_nusd;
    const char *raw;           /* the provider's own usage, JSON; may be NULL */
    const char *reconcile;     /* why somebody should look at it again; NULL: nobody */
};

/* KNOWN asks whether an idempotency key is, before any work, and changes nothing; rc as of RESERVE, which asks again. */
enum ledger_op_type { LEDGER_RESERVE, LEDGER_EXTEND, LEDGER_ATTEMPT, LEDGER_POST, LEDGER_VOID, LEDGER_KNOWN };

/* What can refuse a request more than it holds. */
enum { LEDGER_LIMITS_MONEY = 1 << 0, LEDGER_LIMITS_TOKENS = 1 << 1 };

enum ledger_scope { LEDGER_LOCAL, LEDGER_HOSTED, LEDGER_OVERFLOW /* hosted in place of a local model */ };

/* What became of the request that an idempotency key belongs to. */
struct ledger_receipt {
    int64_t charged_nusd;
    struct usage usage; /* of the attempt that served */
    bool estimated;
    char outcome[32];
    unsigned char *answer; /* malloc'd; NULL: none is kept, or its project does not let it be */
    size_t n_answer;
};
void ledger_receipt_clear(struct ledger_receipt *r);

/* A limit by the minute as it stands after a reserve: the one with the least left of those of the key, its project and organisation. */
enum { LEDGER_RATE_REQUESTS, LEDGER_RATE_TOKENS, LEDGER_RATES };
struct ledger_rate {
    bool is; /* there is such a limit */
    int64_t limit, remaining, reset_ms; /* reset: until all of it is there again */
};

struct ledger_op {
    enum ledger_op_type type;
    int64_t request; /* RESERVE: out; else in */
    /* RESERVE */
    int64_t account; /* the key */
    const char *model, *reason, *tags; /* reason, tags (a JSON object of strings): may be NULL. POST's reason, if not NULL, takes its place */
    int64_t price, markup;             /* rows of `prices`, of the sale: its price, and the mark-up on top of it; 0: none. POST's, if price is not 0, take their place */
    int64_t lasts_ms;                  /* until its deadline */
    enum ledger_scope scope;           /* which budgets it counts in; ATTEMPT: if it is wider than before, those are asked, too */
    bool served_scope; /* POST: scope is that of the one who served: budgets of a wider one, which an attempt before was held in, do not count it */
    const unsigned char *idempotency_key, *body_hash; /* LEDGER_HASH_BYTES each; NULL: none. KNOWN, too */
    struct ledger_receipt *receipt; /* zeroed, or of this op before: filled with -ERR_DONE, the caller's to clear; NULL: not wanted */
    struct ledger_price price_of;      /* of the sale and of the attempt, where price and attempt.price are 0; ATTEMPT: of the attempt */
    /* RESERVE, EXTEND, ATTEMPT */
    int64_t all_tokens; /* ATTEMPT: what it holds in all with this, for budgets that it has not been in */
    int64_t amount_nusd, tokens; /* EXTEND, ATTEMPT: more than before, by so much; 0: as it was */
    struct ledger_attempt attempt; /* EXTEND: only the estimates, of attempt n */
    int n;                         /* ATTEMPT, EXTEND: its number */
    /* POST, VOID */
    struct ledger_used used[LEDGER_MAX_ATTEMPTS]; /* of those attempts that have not been told before */
    int n_used, served;                           /* the number of the attempt that served */
    int64_t sale_nusd;
    int64_t held_nusd;   /* as far as the caller knows; asked where the store is not (ledger_writer.h) */
    const char *outcome; /* "stop", "cancelled", "cut": for people */
    const unsigned char *answer; /* POST: to be kept under the request's idempotency key, LEDGER_ANSWER_BYTES at most; NULL: none */
    size_t n_answer;
    int64_t answer_nusd; /* what it tells the client that it cost: if that is not what is charged, it is not kept */
    /* out */
    /* 0; -ERR_BUDGET, -ERR_HELD, -ERR_RATE, -ERR_IN_FLIGHT, -ERR_DONE, -ERR_MISMATCH, -ERR_DENIED (the key is closed, the account
     * frozen), -ERR_NOT_FOUND (no such open request: it was resolved before) */
    int rc;
    struct err err;
    int64_t budget;      /* the one that refused; 0: the balance */
    int64_t now_ms;      /* by the ledger's clock */
    int64_t free_at_ms;  /* a window's end, where waiting for it helps; 0: it does not */
    int64_t charged_nusd, overrun_nusd;
    int64_t price_id;    /* RESERVE, ATTEMPT: the row of price_of */
    unsigned limits;     /* RESERVE, EXTEND, ATTEMPT: LEDGER_LIMITS_... */
    int64_t known;       /* -ERR_IN_FLIGHT, -ERR_DONE: the request that the idempotency key belongs to */
    bool stores;         /* RESERVE: its project lets finished answers be kept */
    struct ledger_rate rates[LEDGER_RATES]; /* RESERVE, granted or refused by a balance or budget */
};

/* Begins a run. accounts_open has made the schema. */
MUST_USE int ledger_open(struct ledger **out, struct db *db, const struct ledger_options *o, struct err *e);
/* Ends the run. The db stays the caller's. Accepts NULL. */
void ledger_close(struct ledger *l);

/* All in one transaction; each op's rc tells of itself. Not 0: nothing of it has happened (-ERR_BUSY: try again; -ERR_IO), or it is not
 * known whether it has (-ERR_UNKNOWN: ledger_look tells). */
MUST_USE int ledger_apply(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e);
/* After -ERR_UNKNOWN: whether the batch is there: 1, 0 or an error. It waits until the store has done with the old link's transaction. ops: the
 * batch's, or those of them that are still of interest. */
MUST_USE int ledger_look(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e);
/* Ends of requests of another run or of another time (journal.h): as ledger_apply. One that has ended before is left alone (-ERR_NOT_FOUND); attempts that
 * an op does not tell of have failed. */
MUST_USE int ledger_replay(struct ledger *l, struct ledger_op *const *ops, size_t n, struct err *e);

/* Requests whose deadline is LEDGER_GRACE_MS ago, and those of runs that are dead (alone, only): voided if no attempt is open, else posted as estimated,
 * and put into `reconciliation`. At most LEDGER_MAX_BATCH; *n: how many. A run judges its own requests by the boot clock, and tells the others that it
 * lives; they leave its requests to it until it has been silent for LEDGER_GRACE_MS. */
MUST_USE int ledger_recover(struct ledger *l, size_t *n, struct err *e);
/* Writes that the run lives: that the store can be written. */
MUST_USE int ledger_beat(struct ledger *l, struct err *e);
/* Takes away idempotency keys that are no longer remembered, and the answers with them; at most LEDGER_MAX_BATCH. *n: how many. */
MUST_USE int ledger_forget_keys(struct ledger *l, size_t *n, struct err *e);

/* Of "local/<model>" or a provider; made if it is not there. */
MUST_USE int64_t ledger_supplier(struct db *db, const char *name, struct err *e);
int64_t ledger_now_ms(struct ledger *l); /* as of the last transaction, and time that has passed since by the boot clock */
int64_t ledger_run(const struct ledger *l);

/* --- for operators (ledger_admin.c) --- */

enum ledger_transfer_kind { LEDGER_DEPOSIT, LEDGER_REFUND, LEDGER_ADJUSTMENT, LEDGER_CHARGEBACK, LEDGER_PAYMENT };
extern const char *const ledger_transfer_names[]; /* "deposit", ...: as in the schema */
enum { LEDGER_MAX_NOTE = 1000, LEDGER_MAX_KEY = 200 };

/* What an operator moves. deposit: outside -> project; refund: house -> project; chargeback: project -> outside; adjustment: house -> project,
 * amount_nusd < 0: the other way; also of a supplier, whose invoice says something else; payment: supplier -> outside, what we pay it,
 * amount_nusd < 0: what it pays back. */
struct ledger_order {
    enum ledger_transfer_kind kind;
    int64_t account, amount_nusd;
    int64_t linked;   /* the transfer that it is about; 0: none */
    const char *note; /* UTF-8 of at most LEDGER_MAX_NOTE bytes; NULL: none */
    const char *key;  /* printable ASCII of at most LEDGER_MAX_KEY bytes, remembered for good; NULL: none */
};
/* Returns the transfer's id. One that was made before with the same key and says the same is not made again: *repeated (may be NULL);
 * -ERR_MISMATCH: it says something else. -ERR_INPUT, -ERR_NOT_FOUND: e->param names the member at fault. */
MUST_USE int64_t ledger_transfer_order(struct ledger *l, const struct ledger_order *o, bool *repeated, struct err *e);
/* The same without a key. */
MUST_USE int64_t ledger_transfer(struct ledger *l, enum ledger_transfer_kind kind, int64_t project, int64_t amount_nusd, int64_t linked,
                                 const char *note, struct err *e);

struct ledger_budget {
    int64_t id, account;
    const char *scope, *unit, *period; /* as in the schema */
    int64_t amount;
    bool hard;
    int64_t posted, pending, starts_s; /* of the present window; ledger_budget_list */
};
MUST_USE int64_t ledger_budget_add(struct ledger *l, const struct ledger_budget *b, struct err *e); /* returns its id */
/* Those of an account that are in force (0: of all), with what their present window has. */
MUST_USE int ledger_budget_list(struct ledger *l, int64_t account, void (*fn)(void *ctx, const struct ledger_budget *b), void *ctx,
                                struct err *e);
/* The one hard budget of scope all, this unit and period: replaces what there is of it; amount 0: none. */
MUST_USE int ledger_limit_set(struct ledger *l, int64_t account, const char *unit, const char *period, int64_t amount, struct err *e);
/* Limits are budgets of requests or tokens, by the minute or at once: what they are called. */
struct ledger_limit {
    const char *name, *unit, *period;
};
enum { LEDGER_LIMITS = 3 };
extern const struct ledger_limit ledger_limits[LEDGER_LIMITS];
MUST_USE int ledger_budget_end(struct ledger *l, int64_t id, struct err *e);
/* floor_nusd: a prepaid account's, NULL: pays later. */
MUST_USE int ledger_floor_set(struct ledger *l, int64_t project, const int64_t *floor_nusd, struct err *e);

struct ledger_balance {
    int64_t posted_nusd, pending_nusd, floor_nusd;
    bool prepaid;
};
MUST_USE int ledger_balance(struct ledger *l, int64_t account, struct ledger_balance *out, struct err *e);

#endif
