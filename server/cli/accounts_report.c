/* accounts statement | usage | export | reconcile: what the ledger has to tell. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/export.h"
#include "server/accounts/money.h"
#include "server/accounts/reconcile.h"
#include "server/accounts/report.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/table.h"

enum { DAY_S = 86400, CELL_BYTES = 256, NUMBER_BYTES = 24 };

struct list {
    struct table table;
    struct buf json;
    size_t n;
    unsigned by; /* usage */
};

static char *show_number(int64_t n, char out[NUMBER_BYTES])
{
    snprintf(out, NUMBER_BYTES, "%" PRId64, n);
    return out;
}

static void list_begin(struct list *l, size_t n_columns, const char *const *header)
{
    l->table.n_columns = n_columns;
    buf_init(&l->json, ACCOUNTS_OUT_BYTES);
    table_add(&l->table, header);
}

static int list_end(struct list *l, int rc, bool json, const char *open, const char *close, struct err *e)
{
    if (!rc && l->table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l->json, open, close, e);
    if (!rc && !json) table_print(&l->table, stdout);
    table_free(&l->table);
    buf_free(&l->json);
    return rc;
}

/* --- statement --- */

enum { LINE_COLUMNS = 6 };

/* "2026-11": its first second and that of the next. NULL: this month. */
static int parse_month(const char *text, int64_t *from_s, int64_t *to_s, struct err *e)
{
    time_t now = (time_t)clock_wall_s();
    struct tm tm = {0};
    char this_month[16];
    if (!text) {
        strftime(this_month, sizeof this_month, "%Y-%m", gmtime_r(&now, &tm));
        text = this_month;
    }
    int64_t year, month;
    char digits[8];
    snprintf(digits, sizeof digits, "%.4s", text);
    if (strlen(text) != 7 || text[4] != '-' || !str_parse_int64(digits, 1970, 9999, &year) || !str_parse_int64(text + 5, 1, 12, &month))
        return err_set(e, ERR_INPUT, "--month: '%.80s' is not a month like 2026-11", text);
    tm = (struct tm){.tm_year = (int)year - 1900, .tm_mon = (int)month - 1, .tm_mday = 1};
    *from_s = (int64_t)timegm(&tm);
    tm = (struct tm){.tm_year = (int)year - 1900, .tm_mon = (int)month, .tm_mday = 1};
    *to_s = (int64_t)timegm(&tm);
    return 0;
}

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
    table_add(&l->table,
              (const char *const[LINE_COLUMNS]){accounts_show_day(s->at_ms / 1000, day),
                                                sale   ? "sales"
                                                : cost ? "costs"
                                                       : s->kind,
                                                id, money_write(s->amount_nusd, amount), money_write(s->balance_nusd, balance), note});
}

static void line_json(void *ctx, const struct report_line *s)
{
    struct list *l = ctx;
    struct buf *b = &l->json;
    char day[ACCOUNTS_DAY_BYTES];
    buf_puts(b, l->n++ ? ",\n {" : "{");
    account_json_text(b, "day", accounts_show_day(s->at_ms / 1000, day));
    account_json_text(b, "kind", s->kind);
    account_json_id(b, "id", s->id);
    account_json_int(b, "count", s->n);
    account_json_money(b, "amount_usd", s->amount_nusd);
    account_json_money(b, "balance_usd", s->balance_nusd);
    account_json_id(b, "linked", s->linked);
    account_json_text(b, "note", s->note);
    buf_putc(b, '}');
}

static void total_row(struct list *l, int64_t at_s, const char *what, int64_t nusd)
{
    char day[ACCOUNTS_DAY_BYTES], text[MONEY_BYTES];
    table_add(&l->table, (const char *const[LINE_COLUMNS]){accounts_show_day(at_s, day), what, "", "", money_write(nusd, text), ""});
}

static int print_json(struct list *l, int64_t account, int64_t from_s, const struct report_statement *s, struct err *e)
{
    char day[ACCOUNTS_DAY_BYTES];
    struct buf head;
    buf_init(&head, 4096);
    buf_putc(&head, '{');
    account_json_int(&head, "account", account);
    account_json_text(&head, "from", accounts_show_day(from_s, day));
    account_json_money(&head, "opening_usd", s->opening_nusd);
    account_json_money(&head, "paid_in_usd", s->paid_in_nusd);
    account_json_money(&head, "sales_usd", s->sales_nusd);
    account_json_money(&head, "other_usd", s->other_nusd);
    account_json_money(&head, "closing_usd", s->closing_nusd);
    buf_puts(&head, ",\"lines\":[");
    int rc = head.failed ? err_set(e, ERR_MEMORY, "out of memory") : accounts_json_print(&l->json, head.data, "]}", e);
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
    if (!rc) rc = parse_month(r->o->month, &from_s, &to_s, e);
    if (rc) return rc;
    list_begin(&lines, LINE_COLUMNS, header);
    list_begin(&all, LINE_COLUMNS, header);
    rc = report_statement(r->db, account, from_s * 1000, to_s * 1000, json ? line_json : line_row, &lines, &s, e);
    if (!rc && json)
        rc = print_json(&lines, account, from_s, &s, e);
    else if (!rc) {
        total_row(&all, from_s, "opening balance", s.opening_nusd);
        for (size_t i = 1; i < lines.table.n; i++) { /* after its header */
            const char *cells[LINE_COLUMNS];
            for (int j = 0; j < LINE_COLUMNS; j++) cells[j] = lines.table.cells[i][j];
            table_add(&all.table, cells);
        }
        total_row(&all, to_s - 1, "closing balance", s.closing_nusd);
        if (lines.table.failed || all.table.failed)
            rc = err_set(e, ERR_MEMORY, "out of memory");
        else
            table_print(&all.table, stdout);
    }
    (void)list_end(&lines, -1, json, "", "", e);
    (void)list_end(&all, -1, json, "", "", e);
    return rc;
}

/* --- usage --- */

static const struct {
    const char *word;
    enum report_by bit;
} groups[] = {{"day", REPORT_DAY},     {"project", REPORT_PROJECT},   {"key", REPORT_KEY},
              {"model", REPORT_MODEL}, {"supplier", REPORT_SUPPLIER}, {"tag", REPORT_TAG}};
enum { N_GROUPS = sizeof groups / sizeof groups[0], MOST_COLUMNS = TABLE_MAX_COLUMNS, SUMS = 6 };

static int parse_by(const char *text, unsigned *by, struct err *e)
{
    *by = 0;
    for (const char *p = text, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p), i = 0;
        while (i < N_GROUPS && !(strlen(groups[i].word) == n && memcmp(groups[i].word, p, n) == 0)) i++;
        if (i == N_GROUPS) return err_set(e, ERR_INPUT, "--by: '%.80s' is not a list of day, project, key, model, supplier, tag", text);
        *by |= groups[i].bit;
    }
    return 0;
}

/* --from and --to in days; what is not given: from `first` on, until today. */
static int parse_days(const struct options *o, int64_t first, int64_t *from_day, int64_t *to_day, struct err *e)
{
    *from_day = first;
    *to_day = clock_wall_s() / DAY_S;
    int rc = o->from ? accounts_day("--from", o->from, from_day, e) : 0;
    if (!rc && o->to) rc = accounts_day("--to", o->to, to_day, e);
    if (!rc && *from_day > *to_day) rc = err_set(e, ERR_INPUT, "--from: is after --to");
    return rc;
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
        if (l->by & groups[i].bit) cells[n++] = group[i];
    const int64_t counts[] = {u->requests, u->tokens_in, u->tokens_cached, u->tokens_out};
    for (int i = 0; i < 4; i++) cells[n++] = show_number(counts[i], sums[i]);
    cells[n++] = money_write(u->sale_nusd, sums[4]);
    cells[n++] = money_write(u->cost_nusd, sums[5]);
    table_add(&l->table, cells);
}

static void usage_json(void *ctx, const struct report_usage *u)
{
    struct list *l = ctx;
    struct buf *b = &l->json;
    char day[ACCOUNTS_DAY_BYTES];
    buf_puts(b, l->n++ ? ",\n {" : "{");
    if (l->by & REPORT_DAY) account_json_text(b, "day", accounts_show_day(u->day * DAY_S, day));
    if (l->by & REPORT_PROJECT) {
        account_json_int(b, "project", u->project);
        account_json_text(b, "project_name", u->project_name);
    }
    if (l->by & REPORT_KEY) {
        account_json_int(b, "key", u->key);
        account_json_text(b, "key_name", u->key_name);
    }
    if (l->by & REPORT_MODEL) account_json_text(b, "model", u->model);
    if (l->by & REPORT_SUPPLIER) account_json_text(b, "supplier", u->supplier_name);
    if (l->by & REPORT_TAG) {
        account_json_text(b, "tag", u->tag);
        account_json_text(b, "value", u->value);
    }
    account_json_int(b, "requests", u->requests);
    account_json_int(b, "tokens_in", u->tokens_in);
    account_json_int(b, "tokens_cached", u->tokens_cached);
    account_json_int(b, "tokens_out", u->tokens_out);
    account_json_money(b, "sales_usd", u->sale_nusd);
    account_json_money(b, "cost_usd", u->cost_nusd);
    if (!(l->by & REPORT_TAG)) account_json_int(b, "estimated", u->estimated);
    buf_putc(b, '}');
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
    int rc = parse_by(r->o->by, &q.by, e);
    if (!rc) rc = parse_month(NULL, &month_s, &unused, e);
    if (!rc) rc = parse_days(r->o, month_s / DAY_S, &q.from_day, &q.to_day, e);
    if (rc) return rc;
    for (int i = 0; i < N_GROUPS; i++)
        if (q.by & groups[i].bit) header[n++] = group_heads[i];
    for (int i = 0; i < SUMS; i++) header[n++] = sum_heads[i];
    l.by = q.by;
    list_begin(&l, n, header);
    rc = report_usage(r->db, &q, r->o->json ? usage_json : usage_row, &l, e);
    return list_end(&l, rc, r->o->json, "[", "]", e);
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

static const struct {
    enum reconcile_bit bit;
    const char *word;
} difference_words[] = {{RECONCILE_ONLY_THEIRS, "only_theirs"}, {RECONCILE_ONLY_OURS, "only_ours"}, {RECONCILE_AMOUNT, "amount"},
                        {RECONCILE_REQUESTS, "requests"},       {RECONCILE_TOKENS_IN, "tokens_in"}, {RECONCILE_TOKENS_OUT, "tokens_out"}};
enum { N_WORDS = sizeof difference_words / sizeof difference_words[0] };

static void put_words(struct buf *b, unsigned bits, const char *quote)
{
    for (int i = 0, n = 0; i < N_WORDS; i++)
        if (bits & difference_words[i].bit) buf_printf(b, "%s%s%s%s", n++ ? "," : "", quote, difference_words[i].word, quote);
}

static void difference_row(void *ctx, unsigned bits, const struct reconcile_row *t, const struct reconcile_row *u)
{
    struct list *l = ctx;
    char cells[DIFFERENCE_COLUMNS][CELL_BYTES];
    struct buf words;
    buf_init(&words, CELL_BYTES);
    put_words(&words, bits, "");
    accounts_show_day(t->day * DAY_S, cells[0]);
    snprintf(cells[1], CELL_BYTES, "%.250s", t->model);
    money_write(t->amount_nusd, cells[2]);
    money_write(u->amount_nusd, cells[3]);
    const int64_t counts[] = {t->requests, u->requests, t->tokens_in, u->tokens_in, t->tokens_out, u->tokens_out};
    for (int i = 0; i < 6; i++) show_number(counts[i], cells[4 + i]);
    snprintf(cells[10], CELL_BYTES, "%s", words.data ? words.data : "");
    const char *row[DIFFERENCE_COLUMNS];
    for (int i = 0; i < DIFFERENCE_COLUMNS; i++) row[i] = cells[i];
    table_add(&l->table, row);
    buf_free(&words);
}

static void json_side(struct buf *b, const char *name, const struct reconcile_row *r)
{
    buf_printf(b, ",\"%s\":{", name);
    account_json_money(b, "amount_usd", r->amount_nusd);
    account_json_int(b, "requests", r->requests);
    account_json_int(b, "tokens_in", r->tokens_in);
    account_json_int(b, "tokens_out", r->tokens_out);
    buf_putc(b, '}');
}

static void difference_json(void *ctx, unsigned bits, const struct reconcile_row *t, const struct reconcile_row *u)
{
    struct list *l = ctx;
    struct buf *b = &l->json;
    char day[ACCOUNTS_DAY_BYTES];
    buf_puts(b, l->n++ ? ",\n {" : "{");
    account_json_text(b, "day", accounts_show_day(t->day * DAY_S, day));
    account_json_text(b, "model", t->model);
    buf_puts(b, ",\"differs\":[");
    put_words(b, bits, "\"");
    buf_putc(b, ']');
    json_side(b, "theirs", t);
    json_side(b, "ours", u);
    buf_putc(b, '}');
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
    list_begin(&l, DIFFERENCE_COLUMNS, header);
    rc = reconcile(r->db, &file, &ro, o->json ? difference_json : difference_row, &l, &sums, e);
    reconcile_free(&file);
    bool print = !rc && (o->json || sums.n_different);
    rc = list_end(&l, print ? 0 : rc ? rc : -1, o->json, "[", "]", e);
    if (!print && rc == -1) rc = 0;
    if (!rc) tell_sums(&sums);
    r->differs = !rc && sums.n_different;
    return rc;
}
