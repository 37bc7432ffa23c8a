/* accounts break-even: the GPU's hour against hosted prices, by what the ledger has measured. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "server/accounts/break_even.h"
#include "server/accounts/money.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/data_path.h"
#include "server/cli/table.h"

enum { COLUMNS = 8, DAY_S = 86400, DAYS = 30, MOST_NAMES = 16, PATH_BYTES = 4096, NUMBER_BYTES = 24, HOSTED_BYTES = 250 };

struct list {
    struct table table;
    struct buf json;
    size_t n;
};

static void show(int64_t n, char out[NUMBER_BYTES])
{
    snprintf(out, NUMBER_BYTES, "%" PRId64, n);
}

/* Dollars for a million tokens of the mix. */
static int64_t a_million(const struct break_even *b)
{
    int64_t tokens = b->use->tokens_in + b->use->tokens_out;
    return tokens ? (int64_t)((__int128)b->hosted_nusd * 1000000 / tokens) : 0;
}

static const char *verdict(const struct break_even *b)
{
    if (!b->use->hours) return "not used";
    if (!b->known) return "hosted"; /* it costs nothing there */
    if (b->use->an_hour >= b->needed_an_hour) return "local";
    return b->use->busiest_hour >= b->needed_an_hour ? "local in busy hours" : "hosted";
}

static void even_row(void *ctx, const struct break_even *b)
{
    struct list *l = ctx;
    char hour[MONEY_BYTES], million[MONEY_BYTES], an_hour[NUMBER_BYTES], busiest[NUMBER_BYTES], needed[NUMBER_BYTES] = "", hosted[HOSTED_BYTES];
    show(b->use->an_hour, an_hour);
    show(b->use->busiest_hour, busiest);
    if (b->known) show(b->needed_an_hour, needed);
    snprintf(hosted, sizeof hosted, "%.32s/%.200s", b->provider, b->model);
    table_add(&l->table, (const char *const[COLUMNS]){b->use->model, money_write(b->use->hour_nusd, hour), an_hour, busiest, hosted,
                                                      b->use->hours ? money_write(a_million(b), million) : "", needed, verdict(b)});
}

static void even_json(void *ctx, const struct break_even *b)
{
    struct list *l = ctx;
    struct buf *out = &l->json;
    buf_puts(out, l->n++ ? ",\n {" : "{");
    account_json_text(out, "model", b->use->model);
    account_json_money(out, "gpu_hour_usd", b->use->hour_nusd);
    account_json_int(out, "tokens_in", b->use->tokens_in);
    account_json_int(out, "tokens_cached", b->use->tokens_cached);
    account_json_int(out, "tokens_out", b->use->tokens_out);
    account_json_int(out, "hours", b->use->hours);
    account_json_int(out, "tokens_an_hour", b->use->an_hour);
    account_json_int(out, "tokens_busiest_hour", b->use->busiest_hour);
    account_json_text(out, "provider", b->provider);
    account_json_text(out, "hosted_model", b->model);
    account_json_money(out, "hosted_usd", b->hosted_nusd);
    account_json_id(out, "break_even_tokens_an_hour", b->known ? b->needed_an_hour : 0);
    account_json_text(out, "cheaper", verdict(b));
    buf_putc(out, '}');
}

/* HOST/MODEL of the price book that comes with the program. */
static int find_named(struct accounts_run *r, struct price_book **book, const struct price *named[MOST_NAMES], struct err *e)
{
    char path[PATH_BYTES], provider[PRICE_MAX_NAME];
    int rc = data_path_find(&data_prices, path, sizeof path, e);
    if (!rc) rc = price_book_open(book, path, e);
    for (int i = 0; i < r->n_args && !rc; i++) {
        const char *slash = strchr(r->args[i], '/');
        size_t n = slash ? (size_t)(slash - r->args[i]) : 0;
        snprintf(provider, sizeof provider, "%.*s", (int)n, r->args[i]);
        named[i] = slash ? price_find(*book, provider, slash + 1, NULL) : NULL;
        if (!named[i]) rc = err_set(e, ERR_INPUT, "'%.200s' is not a HOST/MODEL of the price book", r->args[i]);
    }
    return rc;
}

int accounts_break_even(struct accounts_run *r, struct err *e)
{
    static const char *const header[COLUMNS] = {"MODEL", "GPU/H", "TOKENS/H", "BUSIEST", "HOSTED", "HOSTED/M", "BREAK-EVEN/H", "CHEAPER"};
    const int64_t now_s = clock_wall_s();
    const struct price *named[MOST_NAMES];
    struct list l = {.table = {.n_columns = COLUMNS}};
    struct price_book *book = NULL;
    int64_t to_day = now_s / DAY_S, from_day;
    bool json = r->o->json;
    int rc = r->o->to ? accounts_day("--to", r->o->to, &to_day, e) : 0;
    from_day = to_day - DAYS + 1;
    if (!rc && r->o->from) rc = accounts_day("--from", r->o->from, &from_day, e);
    if (!rc && from_day > to_day) rc = err_set(e, ERR_INPUT, "--from: is after --to");
    if (!rc && r->n_args) rc = find_named(r, &book, named, e);
    buf_init(&l.json, ACCOUNTS_OUT_BYTES);
    table_add(&l.table, header);
    if (!rc) rc = break_even(r->db, from_day, to_day, now_s, named, (size_t)r->n_args, json ? even_json : even_row, &l, e);
    if (!rc && l.table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l.json, "[", "]", e);
    if (!rc && !json) table_print(&l.table, stdout);
    table_free(&l.table);
    buf_free(&l.json);
    price_book_release(book);
    return rc;
}
