/* Sticky: which hosted model a session last went to, as its prompt may be in that host's cache.
 *
 * A session is known by `prompt_cache_key`, else `user`, else the header x-spillway-session, within its account: sticky_key makes a number
 * of them. A table of fixed size, four places a number; the oldest of the four gives way, and an entry older than STICKY_MS is none (hosts
 * keep prompts for minutes). route_decide uses it only for a host that caches prompts and where that makes the request cheaper. Loop's
 * thread. */
#ifndef SPILLWAY_SERVER_ROUTING_STICKY_H
#define SPILLWAY_SERVER_ROUTING_STICKY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { STICKY_MS = 600 * 1000, STICKY_PLACES = 1 << 12 };

struct sticky;
/* seed: random, so that nobody can aim at another's place. */
MUST_USE int sticky_new(struct sticky **out, uint64_t seed, struct err *e);
void sticky_free(struct sticky *s);  /* accepts NULL */
void sticky_clear(struct sticky *s); /* hosted models have other numbers now */

/* Never 0. Also for host_keys_pick. */
uint64_t sticky_key(const struct sticky *s, int64_t account, const char *session, size_t n);
/* The hosted model's number (name.h), or -1. */
int sticky_find(const struct sticky *s, uint64_t key, int64_t now_ms);
/* It answered well. */
void sticky_note(struct sticky *s, uint64_t key, int hosted, int64_t now_ms);

#endif
