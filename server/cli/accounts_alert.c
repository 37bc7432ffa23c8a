/* accounts alert list | test: what operators were told (server/accounts/alert_store.h). A running gateway sends it. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "server/accounts/alert_store.h"
#include "server/cli/accounts_parts.h"

enum { COLUMNS = 5, ID_BYTES = 24, TIME_BYTES = 32 };

static const char *state_of(const struct alert_row *r, char out[ID_BYTES + 16])
{
    if (r->sent_ms) return "told";
    if (!r->next_ms) return "given up";
    snprintf(out, ID_BYTES + 16, "%d tries", r->tries);
    return r->tries ? out : "new";
}

static void put_row(void *ctx, const struct alert_row *r)
{
    struct accounts_listing *l = ctx;
    struct tm tm;
    time_t at = (time_t)(r->created_ms / 1000);
    char id[ID_BYTES], when[TIME_BYTES], state[ID_BYTES + 16];
    snprintf(id, sizeof id, "%" PRId64, r->id);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M", gmtime_r(&at, &tm));
    table_add(&l->table, (const char *const[COLUMNS]){id, when, r->kind, state_of(r, state), r->message});
}

static void put_json(void *ctx, const struct alert_row *r)
{
    account_json_alert(&((struct accounts_listing *)ctx)->json, r);
}

int accounts_alert_list(struct accounts_run *r, struct err *e)
{
    struct accounts_listing l = {0};
    accounts_listing_begin(&l, COLUMNS, (const char *const[COLUMNS]){"ALERT", "SINCE", "KIND", "STATE", "MESSAGE"});
    int rc = alert_list(r->db, ALERT_LIST_MOST, r->o->json ? put_json : put_row, &l, e);
    return accounts_listing_end(&l, rc, r->o->json, "[", "]", e);
}

int accounts_alert_test(struct accounts_run *r, struct err *e)
{
    int rc = alert_add_test(r->db, e);
    if (!rc) fprintf(stderr, "A running gateway tells it with its next look (see spillway accounts alert list).\n");
    return rc;
}
