/* Alert store: what operators have to be told, kept until they are, and the figures of the ledger that it comes from.
 *
 * An alert is a row of `alerts`, there once for each kind, subject and occasion, whoever finds it: several gateways, one that was started again,
 * the command line. It is sent by a gateway that takes it: taking puts off its next try, so that another one has its turn only if that gateway
 * dies. So it is sent at least once, always under its id and with the bytes that were written when it was found. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ALERT_STORE_H
#define SPILLWAY_SERVER_ACCOUNTS_ALERT_STORE_H

#include <stdbool.h>

#include "base/buf.h"
#include "server/accounts/db.h"

enum {
    ALERT_MAX_BYTES = 16 << 10,    /* of a body */
    ALERT_CLAIM_MS = 60000,        /* who has taken it has so long to send it */
    ALERT_GIVE_UP_MS = 24 * 3600000 /* after that it is not tried again */
};

struct alert {
    const char *kind, *subject;
    int64_t occasion;
    const char *message;    /* a sentence for people */
    const struct buf *data; /* members of a JSON object (account_json.h); NULL: none */
};
/* {"type": kind, "timestamp": ..., "data": {"message": ..., data}}, as Standard Webhooks has it. *added: it was not there yet. */
MUST_USE int alert_add(struct db *db, const struct alert *a, bool *added, struct err *e);

/* One for a trial: whether they arrive. */
MUST_USE int alert_add_test(struct db *db, struct err *e);

struct alert_taken {
    int64_t id;
    int tries; /* this one counted */
    bool last; /* if this try fails it is given up */
    char *message, *body; /* the caller's, to be freed */
};
/* At most max that are due, in their order. keep: they are to be sent, alert_end follows; else they count as told. *next_ms: in how long the next one is
 * due, -1: there is none. After an error *n of them are taken all the same. */
MUST_USE int alert_take(struct db *db, bool keep, struct alert_taken *out, size_t max, size_t *n, int64_t *next_ms, struct err *e);
/* sent, or again in so long; retry_ms < 0: never. */
MUST_USE int alert_end(struct db *db, int64_t id, bool sent, int64_t retry_ms, struct err *e);
enum { ALERT_LIST_MOST = 100 /* of what people are shown */ };
struct alert_row {
    int64_t id, created_ms, sent_ms, next_ms; /* sent_ms 0: not; next_ms 0: it is not tried again */
    int tries;
    const char *kind, *subject, *message; /* borrowed until fn returns */
};
/* The newest first, max of them. */
MUST_USE int alert_list(struct db *db, size_t max, void (*fn)(void *ctx, const struct alert_row *r), void *ctx, struct err *e);
void alert_taken_free(struct alert_taken *a, size_t n);

/* --- figures --- */

/* What was spent in this hour, read on from where it was read last. Zero-initialised: nothing is read yet. One thread at a time. */
enum { ALERT_SUPPLIERS = 0 /* what we owe all of them */, ALERT_OVERRUN = -1 /* what requests came to beyond their holds */ };
struct alert_spend {
    int64_t project, spent_nusd; /* project: or one of these */
};
struct alert_hour {
    int64_t starts_s, last_transfer;
    struct alert_spend *spends;
    size_t n, cap;
};
MUST_USE int alert_hour_read(struct alert_hour *h, struct db *db, struct err *e);
void alert_hour_free(struct alert_hour *h);

struct alert_past {
    char name[128];                /* of the project */
    int64_t past_nusd, past_hours; /* of the week before this day, of the hours in which it was there */
};
/* Of a project or ALERT_SUPPLIERS, whose hours are the first project's. -ERR_NOT_FOUND: there is no such project. */
MUST_USE int alert_past_read(struct db *db, int64_t project, struct alert_past *out, struct err *e);

struct alert_budget {
    int64_t id, account, amount, used, starts_s;
    const char *name, *unit, *period, *scope; /* name: the account's. Borrowed until fn returns */
};
/* Those that refuse nothing and are used up in their newest window. */
MUST_USE int alert_budgets(struct db *db, void (*fn)(void *ctx, const struct alert_budget *b), void *ctx, struct err *e);

struct alert_price {
    int64_t id;
    const char *provider, *model, *before, *now, *source; /* before, now: price_write's. Borrowed until fn returns */
};
/* Those that another one has followed since *last_price, in order of providers; *last_price 0: in the last day. It is moved on. */
MUST_USE int alert_prices(struct db *db, int64_t *last_price, void (*fn)(void *ctx, const struct alert_price *p), void *ctx, struct err *e);

#endif
