/* Counts: how many of something each key (an address, an API key's id) has at once, with a maximum. Only keys that have some take room. */
#ifndef SPILLWAY_SERVER_COUNTS_H
#define SPILLWAY_SERVER_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct counts;

struct counts_key {
    uint8_t bytes[16];
};

MUST_USE int counts_new(struct counts **out, struct err *e);
void counts_free(struct counts *c); /* accepts NULL */
/* False: it has max already, or no memory; nothing is counted then. max 0: any number. */
bool counts_enter(struct counts *c, const struct counts_key *key, int64_t max);
void counts_leave(struct counts *c, const struct counts_key *key); /* once for each enter */

#endif
