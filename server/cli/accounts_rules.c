/* accounts rules: what an account's requests may use (server/accounts/rules.h); without options they are shown. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/cli/accounts_parts.h"
#include "server/cli/table.h"

enum { COLUMNS = 4, ID_BYTES = 24, LINE_BYTES = 80 };

struct list {
    struct table table;
    struct buf json;
    size_t n;
};

/* As much of a list as a line has room for, but one name at least. */
static size_t line_of(const char *value)
{
    size_t n = 0;
    while (value[n] && (n == 0 || n + strcspn(value + n, ",") < LINE_BYTES)) n += strcspn(value + n, ",") + (strchr(value + n, ',') != NULL);
    return n;
}

/* A long list has further lines: cells are cut. */
static void put_row(void *ctx, const struct rules_row *r)
{
    struct list *l = ctx;
    char id[ID_BYTES], line[TABLE_CELL_BYTES];
    snprintf(id, sizeof id, "%" PRId64, r->account);
    if (!l->n++) table_add(&l->table, (const char *const[COLUMNS]){"OF", "KIND", "RULE", "VALUE"});
    for (const char *p = r->value; *p; p += line_of(p)) {
        bool first = p == r->value;
        snprintf(line, sizeof line, "%.*s", (int)line_of(p), p);
        table_add(&l->table, (const char *const[COLUMNS]){first ? id : "", first ? r->kind : "", first ? r->name : "", line});
    }
}

static void put_json(void *ctx, const struct rules_row *r)
{
    account_json_rule(&((struct list *)ctx)->json, r);
}

int accounts_rules_print(struct accounts_run *r, int64_t id, const char *open, const char *close, struct err *e)
{
    struct list l = {.table = {.n_columns = COLUMNS}};
    bool json = r->o->json;
    buf_init(&l.json, ACCOUNTS_OUT_BYTES);
    int rc = rules_list(r->db, id, json ? put_json : put_row, &l, e);
    if (!rc && l.table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l.json, open, close, e);
    if (!rc && !json && l.n) {
        if (*open == ' ') putchar('\n'); /* after other tables */
        table_print(&l.table, stdout);
    }
    table_free(&l.table);
    buf_free(&l.json);
    return rc;
}

int accounts_rules(struct accounts_run *r, struct err *e)
{
    int64_t id = 0;
    bool changes = false;
    int rc = r->n_args ? accounts_id(r->args[0], &id, e) : 0;
    for (int i = 0; i < RULES; i++) changes |= r->o->rules[i] != NULL;
    if (rc) return rc;
    if (!changes) return accounts_rules_print(r, id, "[", "]", e);
    if (!id) return err_set(e, ERR_INPUT, "accounts rules: give the id of an organisation, project or key");
    rc = rules_change(r->db, id, r->o->rules, e);
    if (!rc) accounts_done(r, id, "The rules of account %" PRId64 " are set (see spillway accounts rules %" PRId64 ").", id, id);
    return rc;
}
