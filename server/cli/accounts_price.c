/* accounts price set | markup | gpu-hour | list | history | end: the prices that are in the store. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "server/accounts/money.h"
#include "server/accounts/price_book.h"
#include "server/accounts/price_table.h"
#include "server/cli/accounts_parts.h"
#include "server/cli/table.h"

enum { COLUMNS = 7, FILE_BYTES = 1 << 20 };

/* Dollars for a million units as the price book has it: the smallest of 1, 1,000 and 1,000,000 units that leaves no fraction. */
static int put_rate(struct buf *b, const char *meter, const char *flag, const char *usd, struct err *e)
{
    int64_t nusd, units = 1000000;
    int rc = accounts_money(flag, usd, &nusd, e);
    if (rc) return rc;
    if (nusd <= 0) return err_set(e, ERR_INPUT, "%s: must be above 0 (for nothing: --free)", flag);
    while (units > 1 && nusd % 1000 == 0) {
        nusd /= 1000;
        units /= 1000;
    }
    buf_printf(b, "%s\"%s\":[%" PRId64 ",%" PRId64 "]", b->data[b->len - 1] == '{' ? "" : ",", meter, nusd, units);
    return 0;
}

static int write_price(const struct options *o, const char *provider, const char *model, struct buf *b, struct err *e)
{
    int rc = 0;
    buf_putc(b, '{');
    account_json_text(b, "provider", provider);
    account_json_text(b, "model", model);
    buf_printf(b, ",\"can\":[%s],\"prices\":[{", o->free ? "\"free\"" : "");
    if (o->free)
        buf_puts(b, "\"in_uncached\":[0,1],\"out_text\":[0,1]");
    else {
        rc = put_rate(b, "in_uncached", "--input", o->input_usd, e);
        if (!rc && o->cached_usd) rc = put_rate(b, "in_cache_read", "--cached", o->cached_usd, e);
        if (!rc) rc = put_rate(b, "out_text", "--output", o->output_usd, e);
    }
    buf_puts(b, "}]}");
    return rc || !b->failed ? rc : err_set(e, ERR_MEMORY, "out of memory");
}

/* The file says of whom it is itself; it must be the one that was named. */
static int check_names(const struct buf *b, const char *path, const char *provider, const char *model, struct err *e)
{
    json_t *v;
    int rc = json_read(b->data, b->len, &json_limits_file, path, &v, e);
    if (rc) return rc;
    const char *is[] = {json_string_value(json_object_get(v, "provider")), json_string_value(json_object_get(v, "model"))};
    if (!is[0] || !is[1] || strcmp(is[0], provider) != 0 || strcmp(is[1], model) != 0)
        rc = err_set(e, ERR_INPUT, "%s: is not a price of %.60s %.200s", path, provider, model);
    json_decref(v);
    return rc;
}

int accounts_price_set(struct accounts_run *r, struct err *e)
{
    const struct options *o = r->o;
    bool rates = o->input_usd && o->output_usd, any = o->input_usd || o->output_usd || o->cached_usd;
    struct buf b;
    if ((o->price_file != NULL) + o->free + any != 1 || (any && !rates))
        return err_set(e, ERR_INPUT, "accounts price set: give --input and --output, or --free, or --price-file");
    buf_init(&b, FILE_BYTES);
    int rc = o->price_file ? buf_read_file(&b, o->price_file, e) : write_price(o, r->args[0], r->args[1], &b, e);
    if (!rc && o->price_file && !b.len) rc = err_set(e, ERR_INPUT, "%s: is empty", o->price_file);
    if (!rc && o->price_file) rc = check_names(&b, o->price_file, r->args[0], r->args[1], e);
    int64_t id = rc ? rc : price_table_set(r->db, b.data, b.len, "operator", e);
    buf_free(&b);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Price %" PRId64 " of %s %s is in force for requests from now on.", id, r->args[0], r->args[1]);
    return 0;
}

int accounts_price_end(struct accounts_run *r, struct err *e)
{
    int rc = price_table_end(r->db, r->args[0], r->args[1], e);
    if (!rc) accounts_done(r, 0, "The price of %s %s is ended.", r->args[0], r->args[1]);
    return rc;
}

/* A percentage as a decimal, exact to hundredths. */
int accounts_price_markup(struct accounts_run *r, struct err *e)
{
    const char *word = r->args[1];
    int64_t hundredths;
    int rc = words_percent("markup", word, PRICE_MAX_MARKUP, &hundredths, e);
    int64_t id = rc ? rc : price_table_set_markup(r->db, r->args[0], hundredths, "operator", e);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Price %" PRId64 ": %s %% are added to prices of %s when they are sold, for requests from now on.", id, word, r->args[0]);
    return 0;
}

int accounts_price_gpu_hour(struct accounts_run *r, struct err *e)
{
    int64_t nusd;
    int rc = accounts_money("USD", r->args[1], &nusd, e);
    if (!rc && nusd <= 0) rc = err_set(e, ERR_INPUT, "an hour must cost more than 0");
    int64_t id = rc ? rc : price_table_set_gpu_hour(r->db, r->args[0], nusd, "operator", e);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Price %" PRId64 ": an hour of the GPU of %s costs %s dollars (see accounts break-even).", id, r->args[0], r->args[1]);
    return 0;
}

/* --- listing --- */

struct list {
    struct table table;
    struct buf json;
    int rc; /* a price that cannot be shown */
    struct err *e;
};

/* Of the first tier, in dollars for a million; all the rest is for --json. */
static void show_rate(const json_t *tier, const char *meter, char out[MONEY_BYTES])
{
    const json_t *rate = json_object_get(tier, meter);
    int64_t nano = json_integer_value(json_array_get(rate, 0)), units = json_integer_value(json_array_get(rate, 1)), nusd;
    out[0] = '\0';
    if (units > 0 && !__builtin_mul_overflow(nano, 1000000 / units, &nusd)) money_write(nusd, out);
}

static void list_row(void *ctx, const struct price_table_row *p)
{
    struct list *l = ctx;
    char id[32], since[ACCOUNTS_DAY_BYTES], until[ACCOUNTS_DAY_BYTES] = "", in[MONEY_BYTES], out[MONEY_BYTES];
    json_t *v = NULL;
    int64_t n;
    if (!l->rc) l->rc = json_read(p->rows, strlen(p->rows), &json_limits_file, "a stored price", &v, l->e);
    const json_t *tier = json_array_get(json_object_get(v, "prices"), 0);
    show_rate(tier, "in_uncached", in);
    show_rate(tier, "out_text", out);
    if (strcmp(p->provider, PRICE_MARKUP) == 0 && price_table_read_markup(p, &n, l->e) == 0)
        snprintf(in, sizeof in, "+%d.%02d%%", (int)(n / 100), (int)(n % 100));
    else if (strcmp(p->provider, PRICE_GPU_HOUR) == 0 && price_table_read_gpu_hour(p, &n, l->e) == 0)
        snprintf(in, sizeof in, "%.18s/h", money_write(n, out)), out[0] = '\0';
    json_decref(v);
    snprintf(id, sizeof id, "%" PRId64, p->id);
    accounts_show_day(p->created_s, since);
    if (p->ended_s) accounts_show_day(p->ended_s, until);
    table_add(&l->table, (const char *const[COLUMNS]){id, p->provider, p->model, in, out, since, until});
}

static void list_json(void *ctx, const struct price_table_row *p)
{
    account_json_price(&((struct list *)ctx)->json, p);
}

static int list(struct accounts_run *r, const char *provider, const char *model, bool all, struct err *e)
{
    static const char *const header[COLUMNS] = {"ID", "PROVIDER", "MODEL", "INPUT/M", "OUTPUT/M", "SINCE", "UNTIL"};
    struct list l = {.table = {.n_columns = COLUMNS}, .e = e};
    bool json = r->o->json;
    buf_init(&l.json, ACCOUNTS_OUT_BYTES);
    table_add(&l.table, header);
    int rc = price_table_list(r->db, provider, model, all, json ? list_json : list_row, &l, e);
    if (!rc) rc = l.rc;
    if (!rc && l.table.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc && json) rc = accounts_json_print(&l.json, "[", "]", e);
    if (!rc && !json) table_print(&l.table, stdout);
    table_free(&l.table);
    buf_free(&l.json);
    return rc;
}

int accounts_price_list(struct accounts_run *r, struct err *e)
{
    return list(r, NULL, NULL, false, e);
}

int accounts_price_history(struct accounts_run *r, struct err *e)
{
    return list(r, r->args[0], r->args[1], true, e);
}
