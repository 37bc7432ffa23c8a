/* Journal: a file beside the store that keeps ends of requests (LEDGER_POST, LEDGER_VOID) while the store cannot be written. What journal_sync
 * has kept is as durable as what the store has committed, so whoever waits for it may be answered.
 *
 * The file has its size from the start, written out whole, so that a full disk does not matter to it: JOURNAL_RECORD_BYTES for each request that
 * may be under way. Layout: two copies of the header, 512 bytes each, of which the whole one with the higher generation holds (8 bytes
 * "SPWJRNL1", generation); from byte 4096 on the records: 4 bytes length of the text, 16 bytes BLAKE2b of generation and text, the text, which is JSON.
 * Numbers are little-endian. The first record that is not whole ends them. journal_clear raises the generation: no record of before is
 * whole any more.
 *
 * Of an op the money is kept and what it is made of, not the answer (answer): who repeats the request is told that it was done.
 *
 * A record is applied once because the request's state says so: one that has ended is left alone (ledger_replay). One handle belongs to one thread; the
 * file is locked, so that it belongs to one process. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_JOURNAL_H
#define SPILLWAY_SERVER_ACCOUNTS_JOURNAL_H

#include "server/accounts/ledger.h"

struct journal;

enum { JOURNAL_RECORD_BYTES = 4096, JOURNAL_MOST_REQUESTS = 65536 };

/* Makes it (0600) if it is not there; reads what it holds. n_requests: at most that many ends have room whatever is in them. -ERR_BUSY: another process
 * has it. */
MUST_USE int journal_open(struct journal **out, const char *path, size_t n_requests, struct err *e);
void journal_close(struct journal *j); /* accepts NULL; the file stays */

/* Takes an end in; it is durable after journal_sync. Of what a provider told (used[].raw) only what there is room for is kept. -ERR_LIMIT: it is
 * full. */
MUST_USE int journal_add(struct journal *j, const struct ledger_op *op, struct err *e);
/* Not 0: what was added since the last one is not kept, and has been taken out again. -ERR_BROKEN: the disk failed, and the journal takes nothing more. */
MUST_USE int journal_sync(struct journal *j, struct err *e);
size_t journal_count(const struct journal *j);

/* What an entry's op points to lives until journal_entry_free. */
struct journal_entry {
    struct ledger_op op;
    void *text;
};
/* From *at = 0 on: 1 and the next one; 0: there are no more. */
MUST_USE int journal_next(const struct journal *j, size_t *at, struct journal_entry *out, struct err *e);
void journal_entry_free(struct journal_entry *x); /* accepts a zeroed struct */

/* All of it is in the store. */
MUST_USE int journal_clear(struct journal *j, struct err *e);

#endif
