/* keys add | list | set | rotate | revoke: the store is opened directly; a running server takes changes over within a second. A key's text is
 * printed once, alone on standard output (with --json as a member), by the command that makes it; all else that is said about it goes to
 * standard error. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/account_json.h"
#include "server/accounts/words.h"
#include "server/cli/command.h"
#include "server/cli/env.h"
#include "server/cli/table.h"

enum { WORD_BYTES = 64, HOUR_S = 3600, DAY_S = WORDS_DAY_S, YEAR_S = WORDS_YEAR_S };

static const struct {
    const char *unit, *word;
    int64_t seconds;
} spans[] = {{"y", "year", YEAR_S}, {"w", "week", 7 * DAY_S}, {"d", "day", DAY_S},
             {"h", "hour", HOUR_S}, {"m", "minute", 60},      {"s", "second", 1}};
enum { N_SPANS = sizeof spans / sizeof spans[0] };

/* "3 days": rounded down to the largest unit of which there are two, so that it is never off by much. */
static const char *show_span(int64_t seconds, char out[WORD_BYTES])
{
    int i = 0;
    while (i < N_SPANS - 1 && (seconds < 2 * spans[i].seconds || strcmp(spans[i].unit, "w") == 0)) i++;
    int64_t n = seconds / spans[i].seconds;
    snprintf(out, WORD_BYTES, "%" PRId64 " %s%s", n, spans[i].word, n == 1 ? "" : "s");
    return out;
}

/* "2026-12-31, in 40 days", "2026-01-31, 9 months ago", "never". */
static const char *show_expiry(int64_t expires_s, char out[WORD_BYTES])
{
    char day[WORD_BYTES], span[WORD_BYTES];
    int64_t left_s = expires_s - clock_wall_s();
    if (!expires_s) return strcpy(out, "never");
    show_span(left_s < 0 ? -left_s : left_s, span);
    snprintf(out, WORD_BYTES, "%.20s, %s%.20s%s", words_show_day(expires_s, day), left_s <= 0 ? "" : "in ", span, left_s <= 0 ? " ago" : "");
    return out;
}

enum { COLUMNS = 8, CELL_BYTES = 256 };
struct list {
    struct table table;
    struct buf json;
};

static const char *const state_words[] = {
    [ACCOUNTS_KEY_VALID] = "valid", [ACCOUNTS_KEY_EXPIRED] = "expired", [ACCOUNTS_KEY_REVOKED] = "revoked"};

static void list_key(void *ctx, const struct accounts_key *k)
{
    struct list *l = ctx;
    char id[WORD_BYTES], ends[WORD_BYTES], made[WORD_BYTES], expires[WORD_BYTES], span[WORD_BYTES], state[CELL_BYTES];
    char weight[WORD_BYTES], priority[WORD_BYTES];
    snprintf(id, sizeof id, "%" PRId64, k->id);
    snprintf(ends, sizeof ends, "...%.20s", k->hint);
    snprintf(state, sizeof state, "%s%s", state_words[k->state], k->admin ? ", admin" : k->configured ? ", configured" : "");
    if (k->former_ends_s) {
        size_t n = strlen(state);
        snprintf(state + n, sizeof state - n, "; former secret for %s more", show_span(k->former_ends_s - clock_wall_s(), span));
    }
    snprintf(weight, sizeof weight, "%" PRIu32, k->share.weight);
    snprintf(priority, sizeof priority, "%" PRId32, k->share.priority);
    table_add(&l->table, (const char *const[COLUMNS]){id, k->name, ends, words_show_day(k->created_s, made), show_expiry(k->expires_s, expires),
                                                      weight, priority, state});
}

static void json_key(void *ctx, const struct accounts_key *k)
{
    account_json_key(&((struct list *)ctx)->json, k);
}

static int keys_list(struct accounts *a, const struct options *o, struct err *e)
{
    struct list l = {.table = {.n_columns = COLUMNS}};
    buf_init(&l.json, 256 << 20);
    table_add(&l.table, (const char *const[COLUMNS]){"ID", "NAME", "KEY", "MADE", "EXPIRES", "WEIGHT", "PRIORITY", "STATE"});
    int rc = accounts_key_list(a, o->json ? json_key : list_key, &l, e);
    if (!rc && (l.table.failed || l.json.failed)) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && o->json)
        printf("[%.*s]\n", (int)l.json.len, l.json.data ? l.json.data : "");
    else if (!rc)
        table_print(&l.table, stdout);
    table_free(&l.table);
    buf_free(&l.json);
    return rc;
}

/* What is shown once. */
static int show_token(const struct options *o, int64_t id, const char *name, int64_t expires_s, const char *token, struct err *e)
{
    char expires[WORD_BYTES];
    if (!o->json) {
        fprintf(stderr, "%sey %" PRId64 "%s%s%s, expires: %s. It is shown only now:\n", o->admin ? "Admin k" : "K", id, name ? " '" : "",
                name ? name : "", name ? "'" : "", show_expiry(expires_s, expires));
        printf("%s\n", token);
        return 0;
    }
    struct buf b;
    buf_init(&b, 4096);
    account_json_token(&b, id, name, token, expires_s);
    int rc = b.failed ? err_set(e, ERR_MEMORY, "out of memory") : 0;
    if (!rc) printf("%s\n", b.data);
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}

/* What was given of it. */
static void share_take(struct accounts_share *s, const struct options *o)
{
    if (o->weight) s->weight = (uint32_t)o->weight;
    if (o->priority != OPTIONS_NO_PRIORITY) s->priority = (int32_t)o->priority;
}

static int keys_add(struct accounts *a, const struct options *o, struct err *e)
{
    char token[ACCOUNTS_TOKEN_BYTES];
    struct accounts_key_spec spec = {.name = o->n_args > 1 ? o->args[1] : "unnamed", .admin = o->admin, .project = o->project};
    share_take(&spec.share, o);
    int rc = o->expires ? words_expires("--expires", o->expires, &spec.expires_s, e) : 0;
    if (rc) return rc;
    int64_t id = accounts_key_make(a, &spec, token, e);
    rc = id < 0 ? (int)id : show_token(o, id, spec.name, spec.expires_s, token, e);
    explicit_bzero(token, sizeof token);
    return rc;
}

static int parse_id(const char *word, int64_t *id, struct err *e)
{
    return str_parse_int64(word, 1, INT64_MAX, id) ? 0 : err_set(e, ERR_INPUT, "'%s' is not a key's id (see spillway keys list)", word);
}

struct found_key {
    int64_t id, expires_s;
    struct accounts_share share;
};

static void find_key(void *ctx, const struct accounts_key *k)
{
    struct found_key *f = ctx;
    if (k->id != f->id) return;
    f->expires_s = k->expires_s;
    f->share = k->share;
}

static int keys_set(struct accounts *a, const struct options *o, struct err *e)
{
    struct found_key found = {.share.weight = 1};
    int rc = parse_id(o->args[1], &found.id, e);
    if (!rc && !o->weight && o->priority == OPTIONS_NO_PRIORITY) rc = err_set(e, ERR_INPUT, "keys set: give --weight or --priority");
    if (!rc) rc = accounts_key_list(a, find_key, &found, e);
    share_take(&found.share, o);
    if (!rc) rc = accounts_key_set_share(a, found.id, &found.share, e);
    if (!rc)
        fprintf(stderr, "Key %" PRId64 " has weight %" PRIu32 " and priority %" PRId32 ".\n", found.id, found.share.weight,
                found.share.priority);
    return rc;
}

static int keys_rotate(struct accounts *a, const struct options *o, struct err *e)
{
    char token[ACCOUNTS_TOKEN_BYTES], span[WORD_BYTES];
    int64_t grace_s, expires_s = -1;
    struct found_key found = {0};
    int rc = parse_id(o->args[1], &found.id, e);
    if (!rc) rc = words_span("--grace", o->grace, 0, &grace_s, e);
    if (!rc && o->expires) rc = words_expires("--expires", o->expires, &expires_s, e);
    if (!rc) rc = accounts_key_rotate(a, found.id, grace_s, expires_s, token, e);
    if (rc) return rc;
    rc = accounts_key_list(a, find_key, &found, e);
    if (!rc) rc = show_token(o, found.id, NULL, found.expires_s, token, e);
    explicit_bzero(token, sizeof token);
    if (grace_s)
        fprintf(stderr, "The former one is valid for %s more.\n", show_span(grace_s, span));
    else
        fprintf(stderr, "The former one is no longer valid.\n");
    return rc;
}

static int keys_revoke(struct accounts *a, const struct options *o, struct err *e)
{
    int64_t id;
    int rc = parse_id(o->args[1], &id, e);
    if (!rc) rc = accounts_key_revoke(a, id, e);
    if (!rc) fprintf(stderr, "Key %" PRId64 " is revoked for good.\n", id);
    return rc;
}

static const struct verb {
    const char *name;
    int min_args, max_args;
    bool admin, expires, json,
        share; /* options it takes, beside --data (share: --weight and --priority); --grace has a default and is taken by rotate */
    int (*run)(struct accounts *a, const struct options *o, struct err *e);
} verbs[] = {
    {"add", 1, 2, true, true, true, true, keys_add},           {"list", 1, 1, false, false, true, false, keys_list},
    {"set", 2, 2, false, false, false, true, keys_set},        {"rotate", 2, 2, false, true, true, false, keys_rotate},
    {"revoke", 2, 2, false, false, false, false, keys_revoke},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static const struct verb *find_verb(const struct options *o, struct err *e)
{
    for (int i = 0; i < N_VERBS; i++) {
        const struct verb *v = &verbs[i];
        if (o->n_args == 0 || strcmp(v->name, o->args[0]) != 0 || o->n_args < v->min_args || o->n_args > v->max_args) continue;
        const char *wrong = o->admin && !v->admin                             ? "--admin"
                            : o->expires && !v->expires                       ? "--expires"
                            : o->project && v->run != keys_add                ? "--project"
                            : o->json && !v->json                             ? "--json"
                            : o->weight && !v->share                          ? "--weight"
                            : o->priority != OPTIONS_NO_PRIORITY && !v->share ? "--priority"
                                                                              : NULL;
        if (!wrong) return v;
        err_set(e, ERR_INPUT, "%s is not for 'keys %s'", wrong, v->name);
        return NULL;
    }
    err_set(e, ERR_INPUT, "usage: spillway keys add [NAME] | list | set ID | rotate ID | revoke ID (see spillway keys --help)");
    return NULL;
}

int command_keys(const struct options *o)
{
    struct err e;
    const struct verb *v = find_verb(o, &e);
    if (!v) return command_usage_error(&e);
    char dir[4096];
    if (o->data)
        snprintf(dir, sizeof dir, "%s", o->data);
    else if (env_data_dir(dir, sizeof dir, &e))
        return command_error(&e);
    struct accounts *a;
    int rc = accounts_open(&a, dir, o->store, &e);
    if (rc) return command_error(&e);
    rc = v->run(a, o, &e);
    accounts_close(a);
    return rc ? command_error(&e) : COMMAND_OK;
}
