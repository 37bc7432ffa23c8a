/* Accounts: the one table of organisations, projects and keys the house and its suppliers, in SQLite or
 * PostgreSQL (db.h). Here: keys. Their money is ledger.h's.
 * Only this folder touches a database.
 *
 * A key is an account and has one secret, or several while it is being rotated. Secrets are stored as a BLAKE2b-256 digest keyed with a
 * secret of this data directory; the token itself is shown once and kept nowhere. The digests of valid keys are held in memory
 * (key_table.h), so a check reads no file; accounts_refresh takes over what another process (`spillway keys`) has changed. A key that is
 * revoked stays revoked. Expiry is by the wall clock; one that is set back during a run lengthens nothing (the boot clock is asked, too).
 * One handle belongs to one thread. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ACCOUNTS_H
#define SPILLWAY_SERVER_ACCOUNTS_ACCOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "server/accounts/rules.h"

struct accounts;
struct db;

enum { ACCOUNTS_SCHEMA_VERSION = 11, ACCOUNTS_TOKEN_BYTES = 64, ACCOUNTS_MIN_TOKEN = 8, ACCOUNTS_MAX_TOKEN = 512, ACCOUNTS_MAX_NAME = 100 };
enum { ACCOUNTS_MAX_WEIGHT = 1000, ACCOUNTS_MAX_PRIORITY = 100 /* and as far below 0 */ };

/* Makes the directory (0700) and what is missing in it, and brings an older schema up to date; a newer one is refused.
 */
/* store: where they are (db_open); NULL: accounts.db in the directory. The secret is in the directory always: gateways that share a store have
 * copies of it. */
MUST_USE int accounts_open(struct accounts **out, const char *dir, const char *store, struct err *e);
/* The same accounts on a connection of its own, for another thread's changes of keys; it checks none. store: where they are, as a path or URL. of
 * is only read, and may be in use. */
MUST_USE int accounts_open_beside(struct accounts **out, const struct accounts *of, const char *store, struct err *e);
void accounts_close(struct accounts *a); /* accepts NULL */

/* Borrowed, for what is neither keys nor requests: directory.h, report.h and the like. Not while accounts_refresh says 1. */
struct db *accounts_db(struct accounts *a);

/* Whether it can be a name: 1 to ACCOUNTS_MAX_NAME bytes of UTF-8 without control characters. whose: "a key", for the message. */
MUST_USE int accounts_name_check(const char *whose, const char *name, struct err *e);

/* Of ids that clients see (id_text.h). */
const unsigned char *accounts_id_key(const struct accounts *a);
/* Of idempotency keys and the answers kept under them (answer_box.h). */
const unsigned char *accounts_answer_key(const struct accounts *a);

/* The key's id (> 0), or 0: unknown, revoked or expired. Takes the same time for tokens of the same length. *admin (may be NULL):
 * the key is one for the server's own routes. */
int64_t accounts_key_check(const struct accounts *a, const char *token, bool *admin);
/* Valid ones, without admin keys. */
size_t accounts_key_count(const struct accounts *a);

/* What a key gets of an engine that is busy: weight is its share beside the others', priority is who goes first at all. */
struct accounts_share {
    uint32_t weight; /* 1 to ACCOUNTS_MAX_WEIGHT; a spec's 0 means 1 */
    int32_t priority;
};
/* {1, 0} for an id that no valid key has. */
struct accounts_share accounts_key_share(const struct accounts *a, int64_t id);
/* What a key's requests may use, of all that it belongs to (rules.h). No database is asked: they are read with the keys. An id that no valid key has
 * may use what is in the house only (local_only): it may have been revoked while its request waited. out's texts are borrowed until the next
 * accounts_refresh. */
void accounts_key_rules(const struct accounts *a, int64_t id, struct account_rules *out);

struct accounts_key_spec {
    const char *name;  /* 1 to 100 bytes of UTF-8 without control characters */
    int64_t expires_s; /* 0: never */
    bool admin;        /* of the organisation; else of a project: */
    int64_t project;   /* 0: the default one. -ERR_NOT_FOUND: it is not there, or closed */
    struct accounts_share share;
};
/* token gets the key's text. Returns its id. */
MUST_USE int64_t accounts_key_make(struct accounts *a, const struct accounts_key_spec *s, char token[ACCOUNTS_TOKEN_BYTES], struct err *e);
/* Adds a key whose text is given. Returns its id. -ERR_INPUT: too short, too long, blanks in it, or known already. */
MUST_USE int64_t accounts_key_add(struct accounts *a, const struct accounts_key_spec *s, const char *token, struct err *e);
/* The key that the configuration names: it is added, or found. When another one was named before, that account's secret
 * becomes this one and the former ends. Returns its id. -ERR_INPUT as above; -ERR_DENIED: it was revoked or has expired. */
MUST_USE int64_t accounts_key_configure(struct accounts *a, const char *token, struct err *e);
/* A new secret for the same account; the ones it had end after grace_s (>= 0) at the latest. expires_s: the key's from now on, < 0: as it
 * was. -ERR_NOT_FOUND if there is no such key that is valid. */
MUST_USE int accounts_key_rotate(struct accounts *a, int64_t id, int64_t grace_s, int64_t expires_s, char token[ACCOUNTS_TOKEN_BYTES],
                                 struct err *e);
/* For requests from now on. -ERR_NOT_FOUND if there is no such key that is not revoked, -ERR_INPUT out of range. */
MUST_USE int accounts_key_set_share(struct accounts *a, int64_t id, const struct accounts_share *share, struct err *e);
/* -ERR_NOT_FOUND if there is no such key that is not revoked. */
MUST_USE int accounts_key_revoke(struct accounts *a, int64_t id, struct err *e);

enum accounts_key_state { ACCOUNTS_KEY_VALID, ACCOUNTS_KEY_EXPIRED, ACCOUNTS_KEY_REVOKED };
struct accounts_key {
    int64_t id, created_s;
    int64_t expires_s, revoked_s; /* 0: never */
    int64_t former_ends_s;        /* while it is being rotated: when the secrets it had end; else 0 */
    enum accounts_key_state state;
    bool admin, configured;
    int64_t project; /* an admin's: its organisation */
    struct accounts_share share;
    const char *name, *hint; /* hint: the newest token's last characters. Borrowed until fn returns */
};
MUST_USE int accounts_key_list(struct accounts *a, void (*fn)(void *ctx, const struct accounts_key *k), void *ctx, struct err *e);

/* Takes over other processes' changes, 500 secrets a call. 1: there are more, call again; 0: all are taken over. Cheap when there are none. Does
 * not wait for locks; what failed is done by the next call. */
MUST_USE int accounts_refresh(struct accounts *a, struct err *e);
/* a has what `reader`, another handle of the same store, has read last; the reader is then of use for reading only. So a slow store holds up nobody but
 * the reader's thread. */
void accounts_adopt(struct accounts *a, struct accounts *reader);
/* The store's config_version as of what was taken over last: it rises with every change of keys, budgets and prices. */
int64_t accounts_version(const struct accounts *a);

#endif
