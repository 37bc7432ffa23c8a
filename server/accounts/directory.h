/* Directory: organisations and their projects, and how they stand. Keys are accounts.h's, money is ledger.h's.
 *
 * Nothing is ever deleted: what is closed stays, with its name, its balance and its history. Every change raises
 * ledger_state.config_version in its transaction, so that running gateways take it over with their next request. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_DIRECTORY_H
#define SPILLWAY_SERVER_ACCOUNTS_DIRECTORY_H

#include "server/accounts/ledger.h"

enum { DIRECTORY_ORGANISATION = 1, DIRECTORY_PROJECT = 2 /* ids of those that are there from the start: never closed */ };

/* Return the id. Names: as those of keys (accounts.h); -ERR_EXISTS: an open one beside it is called so. */
MUST_USE int64_t directory_organisation_add(struct db *db, const char *name, struct err *e);
MUST_USE int64_t directory_project_add(struct db *db, int64_t organisation, const char *name, struct err *e);
/* Of an organisation or project. */
MUST_USE int directory_rename(struct db *db, int64_t id, const char *name, struct err *e);
/* Also all that is below it: projects, and keys for good. Requests that are under way are ended and charged. */
MUST_USE int directory_close(struct db *db, int64_t id, struct err *e);
/* Also of a key. What is frozen gets no new requests; its balance stays. */
MUST_USE int directory_freeze(struct db *db, int64_t id, bool frozen, struct err *e);

/* Whether finished answers of a project may be kept for idempotency keys. Off: those that are kept are gone at once. -ERR_INPUT: it is so already. */
MUST_USE int directory_store_answers(struct db *db, int64_t project, bool on, struct err *e);

struct directory_account {
    int64_t id, parent;                    /* parent 0: none */
    const char *kind, *name;               /* "organisation", "project", "key", "house", "supplier"; borrowed until fn returns */
    int64_t created_s, closed_s, frozen_s; /* 0: not */
    int64_t n_keys;                        /* open ones right below it */
    bool has_balance, stores_answers;
    struct ledger_balance balance;
};
typedef void directory_fn(void *ctx, const struct directory_account *a);

/* In the order of a tree: each organisation, its projects, their keys after each; then the house and its suppliers. id: only this one, and
 * what is right below it; 0: all. keys: also keys. -ERR_NOT_FOUND: id is nobody's. */
MUST_USE int directory_list(struct db *db, int64_t id, bool keys, directory_fn *fn, void *ctx, struct err *e);
/* Why an account of another kind is wrong here; kinds: "project", "organisation project". */
MUST_USE int directory_check(struct db *db, int64_t id, const char *kinds, struct err *e);

#endif
