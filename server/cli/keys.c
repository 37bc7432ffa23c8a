/* keys add [NAME] | list | revoke ID: the store is opened directly; a running server takes changes over within a
 * second. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/str.h"
#include "server/accounts/accounts.h"
#include "server/cli/command.h"
#include "server/cli/env.h"

static void print_key(void *ctx, const struct accounts_key *k)
{
    (void)ctx;
    char made[32];
    struct tm tm;
    time_t t = (time_t)k->created_s;
    strftime(made, sizeof made, "%Y-%m-%d", gmtime_r(&t, &tm));
    printf("%-4lld %-24s ...%s  %s  %s\n", (long long)k->id, k->name, k->hint, made, k->revoked_s ? "revoked" : "valid");
}

static int keys_add(struct accounts *a, const char *name, struct err *e)
{
    char token[ACCOUNTS_TOKEN_BYTES];
    int64_t id = accounts_key_make(a, name, token, e);
    if (id < 0) return (int)id;
    fprintf(stderr, "key %lld '%s'; it is shown only now:\n", (long long)id, name);
    printf("%s\n", token);
    return 0;
}

static int keys_revoke(struct accounts *a, const char *word, struct err *e)
{
    int64_t id;
    if (!str_parse_int64(word, 1, INT64_MAX, &id)) return err_set(e, ERR_INPUT, "'%s' is not a key's id (see spillway keys list)", word);
    return accounts_key_revoke(a, id, e);
}

static int usage(struct err *e)
{
    err_set(e, ERR_INPUT, "usage: spillway keys add [NAME] | list | revoke ID");
    return command_usage_error(e);
}

int command_keys(const struct options *o)
{
    struct err e;
    const char *verb = o->n_args > 0 ? o->args[0] : "";
    bool add = !strcmp(verb, "add") && o->n_args <= 2, list = !strcmp(verb, "list") && o->n_args == 1;
    bool revoke = !strcmp(verb, "revoke") && o->n_args == 2;
    if (!add && !list && !revoke) return usage(&e);
    char dir[4096];
    if (o->data)
        snprintf(dir, sizeof dir, "%s", o->data);
    else if (env_data_dir(dir, sizeof dir, &e))
        return command_error(&e);
    struct accounts *a;
    int rc = accounts_open(&a, dir, &e);
    if (rc) return command_error(&e);
    if (add)
        rc = keys_add(a, o->n_args > 1 ? o->args[1] : "unnamed", &e);
    else if (list)
        rc = accounts_key_list(a, print_key, NULL, &e);
    else
        rc = keys_revoke(a, o->args[1], &e);
    accounts_close(a);
    return rc ? command_error(&e) : COMMAND_OK;
}
