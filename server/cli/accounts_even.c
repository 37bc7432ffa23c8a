/* accounts break-even: the GPU's hour against hosted prices, by what the ledger has measured. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "server/accounts/break_even.h"
#include "server/accounts/money.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/data_path.h"

enum { COLUMNS = 8, MOST_NAMES = 16, PATH_BYTES = 4096, NUMBER_BYTES = 24, HOSTED_BYTES = 250 };

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

static void even_row(void *ctx, const struct break_even *b)
{
    struct accounts_listing *l = ctx;
    char hour[MONEY_BYTES], million[MONEY_BYTES], an_hour[NUMBER_BYTES], busiest[NUMBER_BYTES], needed[NUMBER_BYTES] = "", hosted[HOSTED_BYTES];
    show(b->use->an_hour, an_hour);
    show(b->use->busiest_hour, busiest);
    if (b->known) show(b->needed_an_hour, needed);
    snprintf(hosted, sizeof hosted, "%.32s/%.200s", b->provider, b->model);
    table_add(&l->table, (const char *const[COLUMNS]){b->use->model, money_write(b->use->hour_nusd, hour), an_hour, busiest, hosted,
                                                      b->use->hours ? money_write(a_million(b), million) : "", needed, break_even_verdict(b)});
}

static void even_json(void *ctx, const struct break_even *b)
{
    account_json_break_even(&((struct accounts_listing *)ctx)->json, b);
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
    const struct price *named[MOST_NAMES];
    struct accounts_listing l = {0};
    struct price_book *book = NULL;
    int64_t to_day, from_day;
    int rc = words_days("--from", r->o->from, "--to", r->o->to, 1 - BREAK_EVEN_DAYS, &from_day, &to_day, e);
    if (!rc && r->n_args) rc = find_named(r, &book, named, e);
    accounts_listing_begin(&l, COLUMNS, header);
    if (!rc) rc = break_even(r->db, from_day, to_day, clock_wall_s(), named, (size_t)r->n_args, r->o->json ? even_json : even_row, &l, e);
    rc = accounts_listing_end(&l, rc, r->o->json, "[", "]", e);
    price_book_release(book);
    return rc;
}
