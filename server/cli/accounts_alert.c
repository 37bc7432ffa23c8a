/* accounts alert list | test: what operators were told (server/accounts/alert_store.h). A running gateway sends it. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "server/accounts/alert_store.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/table.h"

enum { COLUMNS = 5, ID_BYTES = 24, TIME_BYTES = 32, MOST = 100 };

struct list {
    struct table table;
    struct buf json;
};

static const char *state_of(const struct alert_row *r, char out[ID_BYTES + 16])
{
    if (r->sent_ms) return "told";
    if (!r->next_ms) return "given up";
    snprintf(out, ID_BYTES + 16, "%d tries", r->tries);
    return r->tries ? out : "new";
}

static void put_row(void *ctx, const struct alert_row *r)
{
    struct list *l = ctx;
    struct tm tm;
    time_t at = (time_t)(r->created_ms / 1000);
    char id[ID_BYTES], when[TIME_BYTES], state[ID_BYTES + 16];
    snprintf(id, sizeof id, "%" PRId64, r->id);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M", gmtime_r(&at, &tm));
    table_add(&l->table, (const char *const[COLUMNS]){id, when, r->kind, state_of(r, state), r->message});
}

static void put_json(void *ctx, const struct alert_row *r)
{
    struct buf *b = &((struct list *)ctx)->json;
    buf_puts(b, b->len ? ",\n {" : "{");
    account_json_int(b, "id", r->id);
    account_json_id(b, "created_at", r->created_ms / 1000);
    account_json_text(b, "kind", r->kind);
    account_json_text(b, "subject", r->subject);
    account_json_text(b, "message", r->message);
    account_json_int(b, "tries", r->tries);
    account_json_id(b, "sent_at", r->sent_ms / 1000);
    account_json_id(b, "next_try_at", r->next_ms / 1000);
    buf_putc(b, '}');
}

int accounts_alert_list(struct accounts_run *r, struct err *e)
{
    struct list l = {.table = {.n_columns = COLUMNS}};
    bool json = r->o->json;
    buf_init(&l.json, ACCOUNTS_OUT_BYTES);
    table_add(&l.table, (const char *const[COLUMNS]){"ALERT", "SINCE", "KIND", "STATE", "MESSAGE"});
    int rc = alert_list(r->db, MOST, json ? put_json : put_row, &l, e);
    if (!rc && l.table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l.json, "[", "]", e);
    if (!rc && !json) table_print(&l.table, stdout);
    table_free(&l.table);
    buf_free(&l.json);
    return rc;
}

int accounts_alert_test(struct accounts_run *r, struct err *e)
{
    int64_t now_ms;
    bool added;
    int rc = db_number(r->db, "SELECT {now_ms}", DB_NO_ARGS, 0, &now_ms, e);
    if (!rc)
        rc = alert_add(r->db, &(struct alert){.kind = "test", .subject = "test", .occasion = now_ms, .message = "somebody asked whether alerts arrive"},
                       &added, e);
    if (!rc) fprintf(stderr, "A running gateway tells it with its next look (see spillway accounts alert list).\n");
    return rc;
}
