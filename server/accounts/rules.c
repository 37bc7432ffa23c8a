/* Rules: see rules.h. The table of rules first: what each is, and where it goes in memory. */
#include "server/accounts/rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "server/accounts/directory.h"
#include "server/accounts/money.h"
#include "server/accounts/schema.h"

enum { PERMILLE = 1000, NUMBER_BYTES = 24 };

struct rules_entry {
    int64_t account;
    enum rule rule;
    int64_t number; /* nano-dollars, permille, 1 */
    char *text;     /* lists and words; else NULL */
};

const char *const rule_names[RULES] = {
    [RULE_PROVIDERS] = "providers",
    [RULE_MODELS] = "models",
    [RULE_REGIONS] = "regions",
    [RULE_LOCAL_ONLY] = "local_only",
    [RULE_ZERO_RETENTION] = "zero_retention",
    [RULE_MAX_PRICE_IN] = "max_price_in",
    [RULE_MAX_PRICE_OUT] = "max_price_out",
    [RULE_MAX_PRICE_REQUEST] = "max_price_request",
    [RULE_POLICY] = "policy",
    [RULE_OVERFLOW_USD_PER_HOUR] = "overflow_usd_per_hour",
    [RULE_OVERFLOW_SHARE] = "overflow_share",
    [RULE_OVERFLOW_PROVIDERS] = "overflow_providers",
    [RULE_OVERFLOW_REGIONS] = "overflow_regions",
    [RULE_OVERFLOW_USD_IN] = "overflow_usd_in",
    [RULE_OVERFLOW_USD_OUT] = "overflow_usd_out",
    [RULE_OVERFLOW_USD_REQUEST] = "overflow_usd_request",
};

static int rule_of(const char *name)
{
    for (int i = 0; i < RULES; i++)
        if (strcmp(rule_names[i], name) == 0) return i;
    return -1;
}

/* --- values: as people write them, to what is stored; *number beside it for memory --- */

struct value {
    char text[RULES_MAX_TEXT]; /* "": no rule */
    int64_t number;
};
typedef int parse_fn(const char *name, const char *given, struct value *v, struct err *e);

static bool word_fits(const char *p, size_t n, bool patterns)
{
    if (n == 0 || n >= RULES_MAX_WORD || !utf8_valid(p, n)) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c <= ' ' || c == 0x7F || (c == '*' && !(patterns && i == n - 1))) return false;
    }
    return true;
}

static int parse_words(const char *name, const char *given, bool patterns, struct value *v, struct err *e)
{
    size_t n_out = 0;
    int n_words = 0;
    for (const char *p = given, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p);
        for (; n && *p == ' '; n--) p++;
        for (; n && p[n - 1] == ' '; n--) continue;
        if (!word_fits(p, n, patterns))
            return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a list of names with commas between%s", name, given,
                           patterns ? "; a * may end a name" : "");
        if (++n_words > RULES_MAX_WORDS || n_out + n + 2 > sizeof v->text)
            return err_set_param(e, ERR_INPUT, name, "%s: at most %d names and %d bytes", name, RULES_MAX_WORDS, RULES_MAX_TEXT - 1);
        if (n_out) v->text[n_out++] = ',';
        memcpy(v->text + n_out, p, n);
        v->text[n_out += n] = '\0';
    }
    return 0;
}

static int parse_list(const char *name, const char *given, struct value *v, struct err *e)
{
    return parse_words(name, given, false, v, e);
}

static int parse_patterns(const char *name, const char *given, struct value *v, struct err *e)
{
    return parse_words(name, given, true, v, e);
}

static int parse_flag(const char *name, const char *given, struct value *v, struct err *e)
{
    v->number = strcmp(given, "on") == 0;
    if (v->number) strcpy(v->text, "on");
    return v->number || strcmp(given, "off") == 0 ? 0 : err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is neither on nor off", name, given);
}

static int parse_money(const char *name, const char *given, struct value *v, struct err *e)
{
    if (!money_parse(given, &v->number) || v->number < 0)
        return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not an amount in dollars like 12.50 (at most 9 decimals), nor any", name, given);
    money_write(v->number, v->text);
    return 0;
}

/* A cap of 0 would be none to who reads it (rules_price). */
static int parse_price(const char *name, const char *given, struct value *v, struct err *e)
{
    int rc = parse_money(name, given, v, e);
    if (rc || v->number > 0) return rc;
    return err_set_param(e, ERR_INPUT, name, "%s: must be more than 0 (local_only keeps requests in the house)", name);
}

/* "25", "25%", "12.5%" */
static int parse_share(const char *name, const char *given, struct value *v, struct err *e)
{
    char number[NUMBER_BYTES] = "";
    size_t n = strlen(given);
    int64_t nano; /* 1 % as a "dollar" */
    bool ok = n >= 1 && n < sizeof number;
    if (ok) memcpy(number, given, given[n - 1] == '%' ? n - 1 : n);
    ok = ok && money_parse(number, &nano) && nano >= 0 && nano <= 100 * INT64_C(1000000000) && nano % 100000000 == 0;
    if (!ok) return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a share like 25%% or 12.5%%", name, given);
    v->number = nano / 100000000;
    snprintf(v->text, sizeof v->text, v->number % 10 ? "%lld.%lld%%" : "%lld%%", (long long)v->number / 10, (long long)v->number % 10);
    return 0;
}

/* Those of routing/name.h, which is none of ours: a test compares them. */
static int parse_policy(const char *name, const char *given, struct value *v, struct err *e)
{
    static const char *const policies[] = {"local-first", "cheapest", "fastest", "priority", "weighted"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (strcmp(policies[i], given) != 0) continue;
        strcpy(v->text, given);
        return 0;
    }
    return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not one of local-first, cheapest, fastest, priority, weighted", name, given);
}

static parse_fn *const parsers[RULES] = {
    [RULE_PROVIDERS] = parse_list,
    [RULE_MODELS] = parse_patterns,
    [RULE_REGIONS] = parse_list,
    [RULE_LOCAL_ONLY] = parse_flag,
    [RULE_ZERO_RETENTION] = parse_flag,
    [RULE_MAX_PRICE_IN] = parse_price,
    [RULE_MAX_PRICE_OUT] = parse_price,
    [RULE_MAX_PRICE_REQUEST] = parse_price,
    [RULE_POLICY] = parse_policy,
    [RULE_OVERFLOW_USD_PER_HOUR] = parse_money,
    [RULE_OVERFLOW_SHARE] = parse_share,
    [RULE_OVERFLOW_PROVIDERS] = parse_list,
    [RULE_OVERFLOW_REGIONS] = parse_list,
    [RULE_OVERFLOW_USD_IN] = parse_price,
    [RULE_OVERFLOW_USD_OUT] = parse_price,
    [RULE_OVERFLOW_USD_REQUEST] = parse_price,
};

static int parse(enum rule rule, const char *given, struct value *v, struct err *e)
{
    *v = (struct value){.number = 0};
    return strcmp(given, "any") == 0 ? 0 : parsers[rule](rule_names[rule], given, v, e);
}

/* --- lists --- */

bool rules_list_has(const char *list, const char *word)
{
    size_t n_word = strlen(word);
    if (!list) return true;
    for (const char *p = list, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p);
        bool prefix = n && p[n - 1] == '*';
        if (prefix ? n_word >= n - 1 && memcmp(p, word, n - 1) == 0 : n_word == n && memcmp(p, word, n) == 0) return true;
    }
    return false;
}

bool rules_allow(const char *const lists[RULES_LEVELS], const char *word)
{
    for (int i = 0; i < RULES_LEVELS; i++)
        if (word ? !rules_list_has(lists[i], word) : lists[i] != NULL) return false;
    return true;
}

/* --- in the store --- */

static int change_one(struct db *db, int64_t account, enum rule rule, const char *given, struct err *e)
{
    struct value v;
    int rc = parse(rule, given, &v, e);
    if (rc) return rc;
    if (!v.text[0])
        return db_run(db, "DELETE FROM account_rules WHERE account = ?1 AND name = ?2", DB_ARGS(db_int(account), db_text(rule_names[rule])),
                      NULL, e);
    return db_run(db,
                  "INSERT INTO account_rules (account, name, value) VALUES (?1, ?2, ?3)"
                  " ON CONFLICT (account, name) DO UPDATE SET value = excluded.value",
                  DB_ARGS(db_int(account), db_text(rule_names[rule]), db_text(v.text)), NULL, e);
}

int rules_change(struct db *db, int64_t account, const char *const values[RULES], struct err *e)
{
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = directory_check(db, account, "organisation project key", e);
    for (int i = 0; i < RULES && !rc; i++) {
        if (!values[i]) continue;
        if (i >= RULE_OVERFLOW_USD_PER_HOUR) rc = directory_check(db, account, "project key", e);
        if (rc)
            err_prefix(e, "%s", rule_names[i]);
        else
            rc = change_one(db, account, (enum rule)i, values[i], e);
    }
    return schema_end_change(db, rc, e);
}

int rules_list(struct db *db, int64_t account, void (*fn)(void *ctx, const struct rules_row *r), void *ctx, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r,
                      "SELECT r.account, a.kind, r.name, r.value FROM account_rules r JOIN accounts a ON a.id = r.account"
                      " WHERE ?1 = 0 OR r.account = ?1 OR r.account IN (SELECT c.parent FROM accounts c WHERE c.id = ?1)"
                      " OR r.account IN (SELECT p.parent FROM accounts c JOIN accounts p ON p.id = c.parent WHERE c.id = ?1)"
                      " ORDER BY CASE a.kind WHEN 'organisation' THEN 0 WHEN 'project' THEN 1 ELSE 2 END, r.account, r.name",
                      DB_ARGS(db_int(account)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct rules_row){.account = db_get_int(&r, 0),
                                    .kind = db_get_text(&r, 1),
                                    .name = db_get_text(&r, 2),
                                    .value = db_get_text(&r, 3)});
        rc = 0;
    }
    db_done(&r);
    return rc;
}

/* --- in memory --- */

const char rules_load_sql[] = "SELECT account, name, value FROM account_rules ORDER BY account, name";

static int reserve(struct rules_table *t)
{
    if (t->n < t->cap) return 0;
    size_t cap = t->cap ? 2 * t->cap : 16;
    struct rules_entry *more = reallocarray(t->entries, cap, sizeof *more);
    if (!more) return -ERR_MEMORY;
    t->entries = more;
    t->cap = cap;
    return 0;
}

int rules_table_put(struct rules_table *t, int64_t account, const char *name, const char *value)
{
    struct value v;
    struct err why;
    int rule = rule_of(name);
    int rc = rule < 0 ? err_set(&why, ERR_INPUT, "there is no rule '%.80s'", name) : parse((enum rule)rule, value, &v, &why);
    if (rc) {
        log_error("account %lld: %s: until that is put right its requests stay in the house", (long long)account, why.msg);
        rule = RULE_LOCAL_ONLY;
        v = (struct value){.number = 1};
    }
    if (!rc && !v.text[0]) return 0; /* "any" */
    if (reserve(t)) return -ERR_MEMORY;
    struct rules_entry entry = {.account = account, .rule = (enum rule)rule, .number = v.number};
    bool words = parsers[rule] == parse_list || parsers[rule] == parse_patterns || rule == RULE_POLICY;
    if (words && !(entry.text = strdup(v.text))) return -ERR_MEMORY;
    t->entries[t->n++] = entry;
    return 0;
}

void rules_table_free(struct rules_table *t)
{
    for (size_t i = 0; i < t->n; i++) free(t->entries[i].text);
    free(t->entries);
    *t = (struct rules_table){0};
}

static void lower(int64_t *cap, int64_t to)
{
    if (!*cap || to < *cap) *cap = to;
}

static void apply(const struct rules_entry *r, enum rules_level level, struct account_rules *out)
{
    struct rules_overflow *over = &out->overflow[level];
    switch (r->rule) {
    case RULE_PROVIDERS:
        out->providers[level] = r->text;
        break;
    case RULE_MODELS:
        out->models[level] = r->text;
        break;
    case RULE_REGIONS:
        out->regions[level] = r->text;
        break;
    case RULE_LOCAL_ONLY:
        out->local_only |= r->number != 0;
        break;
    case RULE_ZERO_RETENTION:
        out->zero_retention |= r->number != 0;
        break;
    case RULE_MAX_PRICE_IN:
        lower(&out->price.in_nusd, r->number);
        break;
    case RULE_MAX_PRICE_OUT:
        lower(&out->price.out_nusd, r->number);
        break;
    case RULE_MAX_PRICE_REQUEST:
        lower(&out->price.request_nusd, r->number);
        break;
    case RULE_POLICY:
        out->policy = r->text; /* levels come from above */
        break;
    case RULE_OVERFLOW_USD_PER_HOUR:
        over->hour_nusd = r->number;
        break;
    case RULE_OVERFLOW_SHARE:
        over->share_permille = (int)r->number;
        break;
    case RULE_OVERFLOW_PROVIDERS:
        over->providers = r->text;
        break;
    case RULE_OVERFLOW_REGIONS:
        over->regions = r->text;
        break;
    case RULE_OVERFLOW_USD_IN:
        over->price.in_nusd = r->number;
        break;
    case RULE_OVERFLOW_USD_OUT:
        over->price.out_nusd = r->number;
        break;
    case RULE_OVERFLOW_USD_REQUEST:
        over->price.request_nusd = r->number;
        break;
    case RULES:
        CHECK(false);
    }
}

/* The first of an account's entries, or of those after it. */
static size_t first_of(const struct rules_table *t, int64_t account)
{
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->entries[middle].account < account)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void rules_table_find(const struct rules_table *t, struct account_rules *out)
{
    struct account_rules found = {.local_only = false};
    for (int level = 0; level < RULES_LEVELS; level++) {
        int64_t account = found.account[level] = out->account[level];
        found.overflow[level] = (struct rules_overflow){.hour_nusd = INT64_MAX, .share_permille = PERMILLE};
        for (size_t i = first_of(t, account); i < t->n && t->entries[i].account == account; i++)
            apply(&t->entries[i], (enum rules_level)level, &found);
    }
    *out = found;
}
