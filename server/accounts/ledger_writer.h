/* Ledger writer: one thread that takes all operations that wait, and makes them one transaction after the other (group commit).
 *
 * A call is embedded in what it is about; it belongs to the writer from ledger_writer_submit until it is handed back, on the writer's thread, by
 * `deliver` (the gateway passes it to its loop). op.rc is then the answer; what came of it is durable.
 *
 * When the store fails, what it was asked for anew is refused (-ERR_STORE), and ends of requests (post, void) wait until it
 * is there again, at most LEDGER_MAX_WAITING of them. After a commit whose outcome is not known the store is asked by the ids (B9). A batch
 * that a single operation spoils is done one by one. Every LEDGER_TIDY_MS requests that nobody will end are recovered. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_LEDGER_WRITER_H
#define SPILLWAY_SERVER_ACCOUNTS_LEDGER_WRITER_H

#include "server/accounts/ledger.h"

enum { LEDGER_MAX_WAITING = 65536, LEDGER_TIDY_MS = 10000 };

struct ledger_writer;

struct ledger_call {
    struct ledger_op op;
    void *ctx;                /* the caller's */
    struct ledger_call *next; /* the writer's */
};

struct ledger_writer_options {
    const char *where;            /* db_open; its schema is up to date */
    struct ledger_options ledger;
    void (*deliver)(void *ctx, struct ledger_call *call);
    void *ctx;
};

/* Opens the store on its own connection and recovers what a run before has left. */
MUST_USE int ledger_writer_start(struct ledger_writer **out, const struct ledger_writer_options *o, struct err *e);
/* Any thread. */
void ledger_writer_submit(struct ledger_writer *w, struct ledger_call *call);

struct ledger_writer_state {
    bool open;              /* the store takes what it is asked for */
    size_t n_waiting;       /* ends that wait for it */
    uint64_t n_batches, n_ops;
    char why[256];          /* not open: what it said */
};
struct ledger_writer_state ledger_writer_state(struct ledger_writer *w); /* any thread */

/* Writes what has been submitted; what cannot be written within wait_ms is handed back with -ERR_STORE. Accepts NULL. */
void ledger_writer_stop(struct ledger_writer *w, int wait_ms);

#endif
