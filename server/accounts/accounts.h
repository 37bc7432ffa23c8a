/* Accounts: the one table of organisations, projects and keys (and, later, the house and its suppliers), in SQLite.
 * Only this folder touches a database.
 *
 * Keys are stored as a BLAKE2b-256 digest keyed with a secret of this data directory; the token itself is shown once
 * and kept nowhere. The digests of valid keys are held in memory, so a check reads no file; accounts_refresh takes over
 * what another process (`spillway keys`) has changed. One handle belongs to one thread. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ACCOUNTS_H
#define SPILLWAY_SERVER_ACCOUNTS_ACCOUNTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct accounts;

enum { ACCOUNTS_SCHEMA_VERSION = 1, ACCOUNTS_TOKEN_BYTES = 64, ACCOUNTS_MIN_TOKEN = 8, ACCOUNTS_MAX_TOKEN = 512 };

/* Makes the directory (0700) and what is missing in it, and brings an older schema up to date; a newer one is refused.
 */
MUST_USE int accounts_open(struct accounts **out, const char *dir, struct err *e);
void accounts_close(struct accounts *a); /* accepts NULL */

/* The key's id (> 0), or 0: unknown or revoked. */
int64_t accounts_key_check(const struct accounts *a, const char *token);
size_t accounts_key_count(const struct accounts *a);

/* Makes a key of the default project; token gets its text. Returns its id. */
MUST_USE int64_t accounts_key_make(struct accounts *a, const char *name, char token[ACCOUNTS_TOKEN_BYTES], struct err *e);
/* Adds a key whose text is given, or finds it if it is there and valid. Returns its id. -ERR_INPUT: too short, too
 * long, blanks in it, or revoked. */
MUST_USE int64_t accounts_key_add(struct accounts *a, const char *name, const char *token, struct err *e);
/* -ERR_NOT_FOUND if there is no such key that is valid. */
MUST_USE int accounts_key_revoke(struct accounts *a, int64_t id, struct err *e);

struct accounts_key {
    int64_t id, created_s, revoked_s; /* revoked_s: 0 if it is valid */
    const char *name, *hint;          /* the token's last characters */
};
MUST_USE int accounts_key_list(struct accounts *a, void (*fn)(void *ctx, const struct accounts_key *k), void *ctx, struct err *e);

/* Takes over other processes' changes; cheap when there are none. */
MUST_USE int accounts_refresh(struct accounts *a, struct err *e);

#endif
