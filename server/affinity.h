/* Affinity: which of a model's workers has lately read the beginning of a prompt, so that its cache may hold it still. A guess that costs little: a
 * hash of all that comes before is remembered at every AFFINITY_STEP tokens (later at every eighth of these), and the longest beginning that is known wins.
 * So a talk that grows finds its worker, and so does a system prompt that many talks share.
 *
 * Who may find whose beginnings is in the hash (the account, unless the model's cache is everyone's). A table of fixed size: what is new takes the place of
 * what was there. Keyed, so that nobody can aim at another's place. Loop's thread. */
#ifndef SPILLWAY_SERVER_AFFINITY_H
#define SPILLWAY_SERVER_AFFINITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    AFFINITY_STEP = 64,  /* a block of the cache on a GPU */
    AFFINITY_FINE = 512, /* up to there each step is a mark, then each AFFINITY_FINE tokens */
    AFFINITY_MAX_MARKS = 40
};

struct affinity;

/* A prompt's beginnings, made by affinity_begin and then affinity_add for each token. */
struct affinity_marks {
    uint64_t hash, marks[AFFINITY_MAX_MARKS];
    uint32_t ends[AFFINITY_MAX_MARKS]; /* in tokens */
    uint32_t n_tokens, n;
};

MUST_USE int affinity_new(struct affinity **out, struct err *e);
void affinity_free(struct affinity *a); /* accepts NULL */

void affinity_begin(const struct affinity *a, struct affinity_marks *m, uint64_t scope);
/* word: the token's id, or for a place of a picture something of that picture. false: there is no mark beyond, so the rest need not be added. */
bool affinity_add(struct affinity_marks *m, uint64_t word);

/* The worker (a number below 32) among those in the bits of `among` that has read most of it, and how many tokens; -1: none is known. */
int affinity_find(const struct affinity *a, const struct affinity_marks *m, uint32_t among, uint32_t *n_tokens);
/* It goes to that worker. */
void affinity_note(struct affinity *a, const struct affinity_marks *m, int worker);
/* That worker has lost its cache. Accepts NULL. */
void affinity_forget(struct affinity *a, int worker);

#endif
