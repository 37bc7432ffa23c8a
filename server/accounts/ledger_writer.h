/* Ledger writer: one thread that takes all operations that wait, and makes them one transaction after the other (group commit).
 *
 * A call is embedded in what it is about; it belongs to the writer from ledger_writer_submit until it is handed back, on the writer's thread, by
 * `deliver` (the gateway passes it to its loop). op.rc is then the answer; what came of it is durable.
 *
 * When the store fails, what it was asked for anew is refused (-ERR_STORE). Ends of requests (post, void) go into the journal (journal.h) and are
 * answered: charged_nusd is then what follows from the op's held_nusd. When the store is there again the journal is replayed before anything new is
 * begun; so it is by the next start. What the journal does not take, up to LEDGER_MAX_WAITING ends, waits in memory.
 *
 * After a commit whose outcome is not known the store is asked whether the batch is in it (B9); meanwhile nothing new is begun. After a fault of the
 * disk that leaves it unknown (-ERR_BROKEN, B13) the store is not touched again: `failed` is called, ends go into the journal, and the process is to
 * end. A batch that a single operation spoils is done one by one. Every LEDGER_TIDY_MS requests that nobody will end are recovered. */
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
    const char *journal;          /* its file; NULL: none */
    int64_t most_requests;        /* under way at once: the journal's size */
    struct ledger_options ledger;
    void (*deliver)(void *ctx, struct ledger_call *call);
    void (*failed)(void *ctx, const struct err *why); /* once, on the writer's thread; may be NULL */
    void *ctx;
};

/* Opens the store on its own connection, replays the journal and recovers what a run before has left. */
MUST_USE int ledger_writer_start(struct ledger_writer **out, const struct ledger_writer_options *o, struct err *e);
/* Any thread. After ledger_writer_stop it is done in the call. */
void ledger_writer_submit(struct ledger_writer *w, struct ledger_call *call);

struct ledger_writer_state {
    bool open;              /* the store takes what it is asked for */
    bool failed;            /* and never will again, in this process */
    size_t n_waiting;       /* ends that wait for it in memory */
    size_t n_kept;          /* and in the journal */
    uint64_t n_batches, n_ops;
    const char *trouble;    /* not open: why, in words for everybody (db_trouble) */
    char why[256];          /* not open: what it said */
};
struct ledger_writer_state ledger_writer_state(struct ledger_writer *w); /* any thread */

/* Writes what has been submitted; the thread is gone after it. What neither the store nor the journal takes within wait_ms is handed back with
 * -ERR_STORE. Accepts NULL. */
void ledger_writer_stop(struct ledger_writer *w, int wait_ms);
void ledger_writer_free(struct ledger_writer *w); /* after ledger_writer_stop; accepts NULL */

#endif
