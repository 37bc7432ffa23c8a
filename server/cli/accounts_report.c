/* accounts statement | usage | export | reconcile: what the ledger has to tell. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/accounts/export.h"
#include "server/accounts/money.h"
#include "server/accounts/reconcile.h"
#include "server/accounts/report.h"
#include "server/cli/accounts_parts.h"

enum { DAY_S = WORDS_DAY_S, CELL_BYTES = 256, NUMBER_BYTES = 24 };

struct list {
    struct accounts_listing out;
    unsigned by; /* usage */
};

static char *show_number(int64_t n, char out[NUMBER_BYTES])
{
    snprintf(out, NUMBER_BYTES, "%" PRId64, n);
    return out;
}

/* --- statement --- */

enum { LINE_COLUMNS = 6 };

static void line_row(void *ctx, const struct report_line *s)
{
    struct list *l = ctx;
    char day[ACCOUNTS_DAY_BYTES], id[NUMBER_BYTES] = "", amount[MONEY_BYTES], balance[MONEY_BYTES], note[CELL_BYTES];
    bool sale = strcmp(s->kind, "sale") == 0, cost = strcmp(s->kind, "cost") == 0, many = s->id == 0;
    if (s->id) show_number(s->id, id);
    if (many)
        snprintf(note, sizeof note, "%" PRId64 " %s%s", s->n, cost ? "attempt" : "request", s->n == 1 ? "" : "s");
    else if (s->linked)
        snprintf(note, sizeof note, "about %" PRId64 "%s%.200s", s->linked, *s->note ? ": " : "", s->note);
    else
        snprintf(note, sizeof note, "%.250s", s->note);
    table_add(&l->out.table,
              (const char *const[LINE_COLUMNS]){accounts_show_day(s->at_ms / 1000, day),
                                                sale   ? "sales"
                                                : cost ? "costs"
                                                       : s->kind,
                                                id, money_write(s->amount_nusd, amount), money_write(s->balance_nusd, balance), note});
}

static void line_json(void *ctx, const struct report_line *s)
{
    account_json_line(&((struct list *)ctx)->out.json, s);
}

static void total_row(struct list *l, int64_t at_s, const char *what, int64_t nusd)
{
    char day[ACCOUNTS_DAY_BYTES], text[MONEY_BYTES];
    table_add(&l->out.table, (const char *const[LINE_COLUMNS]){accounts_show_day(at_s, day), what, "", "", money_write(nusd, text), ""});
}

static int print_json(struct list *l, int64_t account, int64_t from_s, const struct report_statement *s, struct err *e)
{
    struct buf head;
    buf_init(&head, 4096);
    account_json_open(&head);
    account_json_statement(&head, account, from_s, s);
    buf_puts(&head, ",\"lines\":[");
    int rc = head.failed ? err_set(e, ERR_MEMORY, "out of memory") : accounts_json_print(&l->out.json, head.data, "]}", e);
    buf_free(&head);
    return rc;
}

/* The opening balance comes first, and is known last: lines are kept until then. */
int accounts_statement(struct accounts_run *r, struct err *e)
{
    static const char *const header[LINE_COLUMNS] = {"DAY", "WHAT", "TRANSFER", "AMOUNT", "BALANCE", "NOTE"};
    struct list lines = {0}, all = {0};
    struct report_statement s;
    int64_t account, from_s, to_s;
    bool json = r->o->json;
    int rc = accounts_id(r->args[0], &account, e);
    if (!rc) rc = words_month("--month", r->o->month, &from_s, &to_s, e);
    if (rc) return rc;
    accounts_listing_begin(&lines.out, LINE_COLUMNS, header);
    accounts_listing_begin(&all.out, LINE_COLUMNS, header);
    rc = report_statement(r->db, account, from_s * 1000, to_s * 1000, json ? line_json : line_row, &lines, &s, e);
    if (!rc && json)
        rc = print_json(&lines, account, from_s, &s, e);
    else if (!rc) {
        total_row(&all, from_s, "opening balance", s.opening_nusd);
        for (size_t i = 1; i < lines.out.table.n; i++) { /* after its header */
            const char *cells[LINE_COLUMNS];
            for (int j = 0; j < LINE_COLUMNS; j++) cells[j] = lines.out.table.cells[i][j];
            table_add(&all.out.table, cells);
        }
        total_row(&all, to_s - 1, "closing balance", s.closing_nusd);
        if (lines.out.table.failed || all.out.table.failed)
            rc = err_set(e, ERR_MEMORY, "out of memory");
        else
            table_print(&all.out.table, stdout);
    }
    accounts_listing_free(&lines.out);
    accounts_listing_free(&all.out);
    return rc;
}

/* --- usage --- */

enum { N_GROUPS = WORDS_GROUPS, MOST_COLUMNS = TABLE_MAX_COLUMNS, SUMS = 6 };

static int parse_days(const struct options *o, int64_t first, int64_t *from_day, int64_t *to_day, struct err *e)
{
    return words_days("--from", o->from, "--to", o->to, first, from_day, to_day, e);
}

/* "7 web": an id and, if it has one, a name. */
static void show_named(int64_t id, const char *name, char out[CELL_BYTES])
{
    snprintf(out, CELL_BYTES, "%" PRId64 " %.200s", id, name);
}

static void usage_row(void *ctx, const struct report_usage *u)
{
    struct list *l = ctx;
    char group[N_GROUPS][CELL_BYTES], sums[SUMS][MONEY_BYTES];
    const char *cells[MOST_COLUMNS];
    int n = 0;
    accounts_show_day(u->day * DAY_S, group[0]);
    show_named(u->project, u->project_name, group[1]);
    show_named(u->key, u->key_name, group[2]);
    snprintf(group[3], CELL_BYTES, "%.250s", u->model);
    snprintf(group[4], CELL_BYTES, "%.250s", u->supplier_name);
    snprintf(group[5], CELL_BYTES, "%.100s=%.140s", u->tag, u->value);
    for (int i = 0; i < N_GROUPS; i++)
        if (l->by & words_groups_list[i].bit) cells[n++] = group[i];
    const int64_t counts[] = {u->requests, u->tokens_in, u->tokens_cached, u->tokens_out};
    for (int i = 0; i < 4; i++) cells[n++] = show_number(counts[i], sums[i]);
    cells[n++] = money_write(u->sale_nusd, sums[4]);
    cells[n++] = money_write(u->cost_nusd, sums[5]);
    table_add(&l->out.table, cells);
}

static void usage_json(void *ctx, const struct report_usage *u)
{
    struct list *l = ctx;
    account_json_usage(&l->out.json, l->by, u);
}

int accounts_usage(struct accounts_run *r, struct err *e)
{
    static const char *const group_heads[N_GROUPS] = {"DAY", "PROJECT", "KEY", "MODEL", "SUPPLIER", "TAG"};
    static const char *const sum_heads[SUMS] = {"REQUESTS", "IN", "CACHED", "OUT", "SALES", "COST"};
    struct report_query q = {.project = r->o->project};
    struct list l = {0};
    const char *header[MOST_COLUMNS];
    int64_t month_s, unused;
    size_t n = 0;
    int rc = words_groups("--by", r->o->by, &q.by, e);
    if (!rc) rc = words_month("--month", NULL, &month_s, &unused, e);
    if (!rc) rc = parse_days(r->o, month_s / DAY_S, &q.from_day, &q.to_day, e);
    if (rc) return rc;
    for (int i = 0; i < N_GROUPS; i++)
        if (q.by & words_groups_list[i].bit) header[n++] = group_heads[i];
    for (int i = 0; i < SUMS; i++) header[n++] = sum_heads[i];
    l.by = q.by;
    accounts_listing_begin(&l.out, n, header);
    rc = report_usage(r->db, &q, r->o->json ? usage_json : usage_row, &l, e);
    return accounts_listing_end(&l.out, rc, r->o->json, "[", "]", e);
}

/* --- export --- */

int accounts_export(struct accounts_run *r, struct err *e)
{
    int64_t from_day, to_day;
    size_t n;
    bool requests = strcmp(r->args[0], "requests") == 0;
    if (!requests && strcmp(r->args[0], "transfers") != 0) return err_set(e, ERR_INPUT, "accounts export: transfers or requests");
    int rc = parse_days(r->o, 0, &from_day, &to_day, e);
    if (!rc)
        rc = export_write(r->db, requests ? EXPORT_REQUESTS : EXPORT_TRANSFERS, r->o->json, from_day * REPORT_DAY_MS,
                          (to_day + 1) * REPORT_DAY_MS, stdout, &n, e);
    if (!rc) fprintf(stderr, "%zu %s.\n", n, r->args[0]);
    return rc;
}

/* --- reconcile --- */

enum { DIFFERENCE_COLUMNS = 11 };

static void difference_row(void *ctx, unsigned bits, const struct reconcile_row *t, const struct reconcile_row *u)
{
    struct list *l = ctx;
    char cells[DIFFERENCE_COLUMNS][CELL_BYTES];
    struct buf words;
    buf_init(&words, CELL_BYTES);
    account_json_differs(&words, bits, "");
    accounts_show_day(t->day * DAY_S, cells[0]);
    snprintf(cells[1], CELL_BYTES, "%.250s", t->model);
    money_write(t->amount_nusd, cells[2]);
    money_write(u->amount_nusd, cells[3]);
    const int64_t counts[] = {t->requests, u->requests, t->tokens_in, u->tokens_in, t->tokens_out, u->tokens_out};
    for (int i = 0; i < 6; i++) show_number(counts[i], cells[4 + i]);
    snprintf(cells[10], CELL_BYTES, "%s", words.data ? words.data : "");
    const char *row[DIFFERENCE_COLUMNS];
    for (int i = 0; i < DIFFERENCE_COLUMNS; i++) row[i] = cells[i];
    table_add(&l->out.table, row);
    buf_free(&words);
}

static void difference_json(void *ctx, unsigned bits, const struct reconcile_row *t, const struct reconcile_row *u)
{
    account_json_difference(&((struct list *)ctx)->out.json, bits, t, u);
}

static void tell_sums(const struct reconcile_sums *s)
{
    char theirs[MONEY_BYTES], ours[MONEY_BYTES];
    fprintf(stderr, "%zu days and models compared, %zu differ; they say %s, we say %s.", s->n_compared, s->n_different,
            money_write(s->theirs_nusd, theirs), money_write(s->ours_nusd, ours));
    if (s->n_closed) fprintf(stderr, " %" PRId64 " entries that were to be looked at are closed.", s->n_closed);
    fputc('\n', stderr);
}

int accounts_reconcile(struct accounts_run *r, struct err *e)
{
    static const char *const header[DIFFERENCE_COLUMNS] = {"DAY",      "MODEL",  "THEIRS",    "OURS",    "THEIR REQ", "OUR REQ",
                                                           "THEIR IN", "OUR IN", "THEIR OUT", "OUR OUT", "DIFFERS"};
    const struct options *o = r->o;
    struct reconcile_options ro = {.supplier = o->supplier, .threshold_tokens = o->token_threshold, .close = o->close};
    struct reconcile_file file;
    struct reconcile_sums sums;
    struct list l = {0};
    if (!o->supplier) return err_set(e, ERR_INPUT, "accounts reconcile: give --supplier");
    int rc = accounts_money("--threshold", o->threshold, &ro.threshold_nusd, e);
    if (!rc && ro.threshold_nusd < 0) rc = err_set(e, ERR_INPUT, "--threshold: must not be below 0");
    if (!rc) rc = reconcile_read(&file, r->args[0], e);
    if (rc) return rc;
    accounts_listing_begin(&l.out, DIFFERENCE_COLUMNS, header);
    rc = reconcile(r->db, &file, &ro, o->json ? difference_json : difference_row, &l, &sums, e);
    reconcile_free(&file);
    if (!rc && !o->json && !sums.n_different) /* nothing to print */
        accounts_listing_free(&l.out);
    else
        rc = accounts_listing_end(&l.out, rc, o->json, "[", "]", e);
    if (!rc) tell_sums(&sums);
    r->differs = !rc && sums.n_different;
    return rc;
}
