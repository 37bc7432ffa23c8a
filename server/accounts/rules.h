/* Rules: what an account's requests may use, beside money: providers, models, regions, prices, and how much may overflow.
 *
 * A rule is a row of `account_rules`; an account has each at most once. Those of a key, its project and its organisation hold all together:
 * a provider must be allowed by each of them, the lowest cap counts, and `local_only` of one of them is enough. So nobody below can lift
 * what was set above. Only the policy is a wish: the nearest one counts. Which hosts and models there are is not known here: lists are
 * words, and routing compares them (a word that names nobody allows nobody).
 *
 * Gateways hold all rules in memory, read together with the keys (accounts_key_rules). A row that cannot be read (somebody else's hand)
 * makes its account `local_only`: nothing leaves the house by mistake. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_RULES_H
#define SPILLWAY_SERVER_ACCOUNTS_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct db;

enum rule {
    RULE_PROVIDERS,
    RULE_MODELS,
    RULE_REGIONS,
    RULE_LOCAL_ONLY,
    RULE_ZERO_RETENTION,
    RULE_MAX_PRICE_IN,
    RULE_MAX_PRICE_OUT,
    RULE_MAX_PRICE_REQUEST,
    RULE_POLICY,
    RULE_OVERFLOW_USD_PER_HOUR, /* of projects and keys, as all that follow */
    RULE_OVERFLOW_SHARE,
    RULE_OVERFLOW_PROVIDERS,
    RULE_OVERFLOW_REGIONS,
    RULE_OVERFLOW_USD_IN,
    RULE_OVERFLOW_USD_OUT,
    RULE_OVERFLOW_USD_REQUEST,
    RULES
};
extern const char *const rule_names[RULES]; /* "providers", ...: as in the store, and with - for _ the flag of `accounts rules` */

enum { RULES_MAX_TEXT = 1024, RULES_MAX_WORD = 256, RULES_MAX_WORDS = 64 };

enum rules_level { RULES_ORGANISATION, RULES_PROJECT, RULES_KEY, RULES_LEVELS };

/* Nano-dollars for 1,000,000 tokens, and for a whole request; 0: no cap. */
struct rules_price {
    int64_t in_nusd, out_nusd, request_nusd;
};

/* Of what stands in for a local model, for one account. An organisation has no caps of its own. */
struct rules_overflow {
    int64_t hour_nusd;               /* INT64_MAX: no cap of its own */
    int share_permille;              /* 1000: the same */
    struct rules_price price;
    const char *providers, *regions; /* lists, as below */
};

/* What holds for a key. Lists are words with commas between them, "groq,openai"; NULL: any. */
struct account_rules {
    int64_t account[RULES_LEVELS]; /* whose the rules are; 0: there is none (an admin key has no project) */
    const char *providers[RULES_LEVELS], *models[RULES_LEVELS], *regions[RULES_LEVELS];
    bool local_only, zero_retention;
    struct rules_price price;
    const char *policy; /* a name of route_policy_names; NULL: not said */
    struct rules_overflow overflow[RULES_LEVELS];
};

/* Whether the word is in the list; one that ends in * stands for all that begin so. */
bool rules_list_has(const char *list, const char *word);
/* Whether it is in each of them. NULL, what is not known: only where there is none. */
bool rules_allow(const char *const lists[RULES_LEVELS], const char *word);

/* --- in the store --- */

/* Of an organisation, project or key. values[i]: NULL: as it was; "any" (of a flag also "off"): no rule; else the rule, as people write it. All or
 * none. -ERR_INPUT names the rule; -ERR_NOT_FOUND, -ERR_DENIED: no such account, or closed. */
MUST_USE int rules_change(struct db *db, int64_t account, const char *const values[RULES], struct err *e);

struct rules_row {
    int64_t account;
    const char *kind, *name, *value; /* kind: of the account. Borrowed until fn returns */
};
/* An account's, and before them those of whom it belongs to; 0: everybody's. */
MUST_USE int rules_list(struct db *db, int64_t account, void (*fn)(void *ctx, const struct rules_row *r), void *ctx, struct err *e);

/* --- in memory: accounts.c's --- */

struct rules_entry;
/* Zero-initialised: empty. */
struct rules_table {
    struct rules_entry *entries; /* in order of accounts */
    size_t n, cap;
};
extern const char rules_load_sql[]; /* account, name, value: for rules_table_put, in this order */
/* -ERR_MEMORY. A row that cannot be read is logged, and its account is local_only. */
MUST_USE int rules_table_put(struct rules_table *t, int64_t account, const char *name, const char *value);
void rules_table_free(struct rules_table *t);
/* Of the accounts in out->account. Its texts are borrowed from the table. */
void rules_table_find(const struct rules_table *t, struct account_rules *out);

#endif
