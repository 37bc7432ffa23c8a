/* Quarantine: requests that killed their worker are kept from doing it again and again.
 *
 * When a worker dies, each request that was in it gets a mark. Who has one is a suspect: suspects go into the worker one at a time, beside
 * requests without marks, so that the next death tells who it was. Who has two is refused for EXPIRES_MS (422). A suspect that
 * ends well loses its mark. One that has run for GATE_MS lets the next one in; if the worker dies later it is marked again only when no other
 * suspect was under observation.
 *
 * A request is known by a keyed digest of what the worker gets of it: prompt ids, tiles' hashes, sampling. Entries are bounded in number; the
 * oldest goes first. One a model, on the loop's thread. */
#ifndef SPILLWAY_SERVER_QUARANTINE_H
#define SPILLWAY_SERVER_QUARANTINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/frame.h"
#include "server/loop.h"

enum { QUARANTINE_DIGEST_BYTES = 16 };

struct quarantine;

/* Embedded in a running request; zero-initialise. */
struct quarantine_ticket {
    uint8_t digest[QUARANTINE_DIGEST_BYTES];
    bool entered, suspect, waiting, dead;
    void (*go)(struct quarantine_ticket *t); /* its turn has come, after quarantine_enter gave 1 */
    struct quarantine_ticket *next;
};

MUST_USE int quarantine_new(struct quarantine **out, struct loop *l, struct err *e);
void quarantine_free(struct quarantine *q); /* accepts NULL */

/* has_seed: the seed was the client's, so it is a part of the request. */
void quarantine_digest(const struct quarantine *q, const struct frame_submit *f, bool has_seed, uint8_t out[QUARANTINE_DIGEST_BYTES]);
/* 0: go; 1: wait until go is called; -ERR_QUARANTINED. From success on quarantine_leave must be called. */
MUST_USE int quarantine_enter(struct quarantine *q, struct quarantine_ticket *t, struct err *e);
/* It was in the worker when the worker died; death: a number of that death. Call quarantine_leave afterwards. */
void quarantine_died(struct quarantine *q, struct quarantine_ticket *t, uint64_t death);
/* well: answered as it should be. Accepts one that has not entered. */
void quarantine_leave(struct quarantine *q, struct quarantine_ticket *t, bool well);

#endif
