/* accounts: organisations, projects and their money. The table of sub-commands, and what they all need: the store, ids, amounts, days,
 * JSON. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/env.h"

enum { NO_STORE = 1 /* opens no store: it replaces one */, LEDGER = 2 };

/* noun: a second word, "". args: what follows, for people and for counting; [] around what may be left out. */
static const struct verb {
    const char *name, *noun, *args;
    int min_args, max_args;
    const char *options; /* beside --data and --store */
    unsigned needs;
    int (*run)(struct accounts_run *r, struct err *e);
} verbs[] = {
    {"list", "", "", 0, 0, "--keys --json", 0, accounts_list},
    {"show", "", "ID", 1, 1, "--json", LEDGER, accounts_show},
    {"create", "organisation", "NAME", 1, 1, "--json", 0, accounts_create_organisation},
    {"create", "project", "NAME", 1, 1, "--organisation --json", 0, accounts_create_project},
    {"rename", "", "ID NAME", 2, 2, "", 0, accounts_rename},
    {"close", "", "ID", 1, 1, "", 0, accounts_close_one},
    {"freeze", "", "ID", 1, 1, "", 0, accounts_freeze},
    {"unfreeze", "", "ID", 1, 1, "", 0, accounts_unfreeze},
    {"storage", "", "PROJECT on|off", 2, 2, "", 0, accounts_storage},
    {"deposit", "", "PROJECT USD", 2, 2, "--note --once --json", LEDGER, accounts_deposit},
    {"refund", "", "PROJECT USD", 2, 2, "--note --linked --once --json", LEDGER, accounts_refund},
    {"adjust", "", "ID USD", 2, 2, "--note --linked --once --json", LEDGER, accounts_adjust},
    {"chargeback", "", "PROJECT USD", 2, 2, "--note --linked --once --json", LEDGER, accounts_chargeback},
    {"pay", "", "SUPPLIER USD", 2, 2, "--note --linked --once --json", LEDGER, accounts_pay},
    {"prepaid", "", "PROJECT FLOOR|off", 2, 2, "", LEDGER, accounts_prepaid},
    {"budget", "add", "ID AMOUNT", 2, 2, "--unit --period --scope --alert --json", LEDGER, accounts_budget_add},
    {"budget", "list", "[ID]", 0, 1, "--json", LEDGER, accounts_budget_list},
    {"budget", "end", "BUDGET", 1, 1, "", LEDGER, accounts_budget_end},
    {"rules", "", "[ID]", 0, 1,
     "--providers --models --regions --local-only --zero-retention --max-price-in --max-price-out --max-price-request --policy"
     " --overflow-usd-per-hour --overflow-share --overflow-providers --overflow-regions --overflow-usd-in --overflow-usd-out"
     " --overflow-usd-request --json",
     0, accounts_rules},
    {"limit", "", "ID", 1, 1, "--rpm --tpm --concurrency", LEDGER, accounts_limit},
    {"alert", "list", "", 0, 0, "--json", 0, accounts_alert_list},
    {"alert", "test", "", 0, 0, "", 0, accounts_alert_test},
    {"price", "set", "PROVIDER MODEL", 2, 2, "--input --output --cached --free --price-file --json", 0, accounts_price_set},
    {"price", "markup", "PROVIDER|all PERCENT", 2, 2, "--json", 0, accounts_price_markup},
    {"price", "gpu-hour", "MODEL USD", 2, 2, "--json", 0, accounts_price_gpu_hour},
    {"price", "list", "", 0, 0, "--json", 0, accounts_price_list},
    {"price", "history", "PROVIDER MODEL", 2, 2, "--json", 0, accounts_price_history},
    {"price", "end", "PROVIDER MODEL", 2, 2, "", 0, accounts_price_end},
    {"break-even", "", "[HOST/MODEL ...]", 0, 16, "--from --to --json", 0, accounts_break_even},
    {"statement", "", "ID", 1, 1, "--month --json", 0, accounts_statement},
    {"usage", "", "", 0, 0, "--by --from --to --project --json", 0, accounts_usage},
    {"export", "", "transfers|requests", 1, 1, "--from --to --json", 0, accounts_export},
    {"reconcile", "", "FILE", 1, 1, "--supplier --threshold --token-threshold --close --json", 0, accounts_reconcile},
    {"backup", "", "FILE", 1, 1, "", 0, accounts_backup},
    {"restore", "", "FILE", 1, 1, "", NO_STORE, accounts_restore},
    {"move", "", "URL", 1, 1, "", NO_STORE, accounts_move},
    {"prune", "", "", 0, 0, "--older-than", 0, accounts_prune},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static int n_words(const struct verb *v)
{
    return *v->noun ? 2 : 1;
}

static bool is_called(const struct verb *v, const struct options *o)
{
    return o->n_args >= n_words(v) && strcmp(v->name, o->args[0]) == 0 && (!*v->noun || strcmp(v->noun, o->args[1]) == 0);
}

static void tell_usage(const struct options *o, struct err *e)
{
    char text[400] = "";
    size_t n = 0;
    for (int i = 0; i < N_VERBS; i++) {
        const struct verb *v = &verbs[i];
        if (o->n_args == 0 || strcmp(v->name, o->args[0]) != 0) continue;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s%s%s%s%s", n ? " | " : "", v->name, *v->noun ? " " : "", v->noun,
                              *v->args ? " " : "", v->args);
    }
    err_set(e, ERR_INPUT, "usage: spillway accounts %s (see spillway accounts --help)", n ? text : "COMMAND [ARGUMENT ...]");
}

static const struct verb *find_verb(const struct options *o, struct err *e)
{
    for (int i = 0; i < N_VERBS; i++) {
        const struct verb *v = &verbs[i];
        int n = o->n_args - n_words(v);
        char allowed[512];
        if (!is_called(v, o) || n < v->min_args || n > v->max_args) continue;
        snprintf(allowed, sizeof allowed, "--data --store %s", v->options);
        const char *wrong = options_stranger(o, allowed);
        if (!wrong) return v;
        err_set(e, ERR_INPUT, "%s is not for 'accounts %s%s%s'", wrong, v->name, *v->noun ? " " : "", v->noun);
        return NULL;
    }
    tell_usage(o, e);
    return NULL;
}

/* --- what is given --- */

int accounts_id(const char *word, int64_t *id, struct err *e)
{
    return str_parse_int64(word, 1, INT64_MAX, id) ? 0 : err_set(e, ERR_INPUT, "'%.80s' is not an id (see spillway accounts list)", word);
}

int accounts_money(const char *name, const char *word, int64_t *nusd, struct err *e)
{
    return words_money(name, word, nusd, e);
}

char *accounts_show_day(int64_t at_s, char out[ACCOUNTS_DAY_BYTES])
{
    return words_show_day(at_s, out);
}

/* --- what is told --- */

int accounts_json_print(struct buf *b, const char *open, const char *close, struct err *e)
{
    if (b->failed) return err_set(e, ERR_MEMORY, "out of memory");
    printf("%s%.*s%s\n", open, (int)b->len, b->len ? b->data : "", close);
    return 0;
}

void accounts_listing_begin(struct accounts_listing *l, size_t n_columns, const char *const *header)
{
    l->table.n_columns = n_columns;
    buf_init(&l->json, ACCOUNTS_OUT_BYTES);
    table_add(&l->table, header);
}

void accounts_listing_free(struct accounts_listing *l)
{
    table_free(&l->table);
    buf_free(&l->json);
}

int accounts_listing_end(struct accounts_listing *l, int rc, bool json, const char *open, const char *close, struct err *e)
{
    if (!rc && l->table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l->json, open, close, e);
    if (!rc && !json) table_print(&l->table, stdout);
    accounts_listing_free(l);
    return rc;
}

void accounts_done(const struct accounts_run *r, int64_t id, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (r->o->json)
        printf("{\"id\":%" PRId64 "}\n", id);
    else {
        vfprintf(stderr, fmt, ap);
        fputc('\n', stderr);
    }
    va_end(ap);
}

/* --- running --- */

static int run_with_ledger(const struct verb *v, struct accounts_run *r, struct err *e)
{
    int rc = v->needs & LEDGER ? ledger_open(&r->ledger, r->db, &(struct ledger_options){.gateway = "accounts", .desk = true}, e) : 0;
    if (!rc) rc = v->run(r, e);
    ledger_close(r->ledger);
    return rc;
}

static int run(const struct verb *v, struct accounts_run *r, struct err *e)
{
    int rc = 0;
    if (r->o->data)
        snprintf(r->dir, sizeof r->dir, "%s", r->o->data);
    else
        rc = env_data_dir(r->dir, sizeof r->dir, e);
    if (!rc && !(v->needs & NO_STORE)) {
        rc = accounts_open(&r->accounts, r->dir, r->o->store, e);
        if (!rc) r->db = accounts_db(r->accounts);
    }
    if (!rc) rc = run_with_ledger(v, r, e);
    accounts_close(r->accounts);
    return rc;
}

int command_accounts(const struct options *o)
{
    struct err e;
    const struct verb *v = find_verb(o, &e);
    if (!v) return command_usage_error(&e);
    struct accounts_run r = {.o = o, .args = o->args + n_words(v), .n_args = o->n_args - n_words(v)};
    if (run(v, &r, &e)) return command_error(&e);
    return r.differs ? COMMAND_FAILED : COMMAND_OK;
}
