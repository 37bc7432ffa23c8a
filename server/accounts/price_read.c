/* Price book: the strict reader of its tables. See price_book.h; docs/prices.md has the format.
 *
 * Nothing is guessed: a field that is not known, twice there, of another type or out of range refuses the table. What a tier may leave out
 * is in `parents`: such a meter costs what its parent costs in the same tier. Audio and pictures do so only for a model that takes them,
 * and audio that it makes never (it is always dearer than text). Searches cost the same in every tier. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/str.h"
#include "server/accounts/price_parts.h"

enum { FORMAT = 1, MAX_BYTES = 16 << 20, MAX_ARENA = 64 << 20, MAX_PLACE = 320 };
enum { TOKENS_MAX = INT32_MAX };
/* Dollars: 10,000 for a million tokens, 10 for a search. What is above is a mistake. */
static const int64_t max_token_nano = 10000000, max_search_nano = 10000000000;

static const struct json_limits limits = {.max_bytes = MAX_BYTES, .max_values = 2000000, .max_depth = 8, .max_key_bytes = 64};

static const struct {
    enum usage_meter meter, parent;
    uint32_t if_can; /* 0: always */
} parents[] = { /* a parent stands before its children */
    {USAGE_IN_CACHE_READ, USAGE_IN_UNCACHED, 0},
    {USAGE_IN_CACHE_WRITE, USAGE_IN_UNCACHED, 0},
    {USAGE_IN_CACHE_LONG, USAGE_IN_CACHE_WRITE, 0},
    {USAGE_IN_AUDIO, USAGE_IN_UNCACHED, PRICE_CAN_AUDIO},
    {USAGE_IN_IMAGE, USAGE_IN_UNCACHED, PRICE_CAN_IMAGE},
    {USAGE_OUT_REASONING, USAGE_OUT_TEXT, 0},
};

struct reading {
    struct price_book *b;
    const char *what;
    char place[MAX_PLACE]; /* "models[3] (groq llama-3.1-8b)", "" at the top */
    struct err *e;
};

PRINTF_LIKE(3, 4) static int refuse(struct reading *r, enum err_code code, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(r->e, code, "%s: %s%s%s", r->what, r->place, r->place[0] ? ": " : "", text);
}

static int no_room(struct reading *r)
{
    return refuse(r, arena_failure(&r->b->arena), "no room for the prices");
}

static const char *kind_of(const json_t *v)
{
    static const char *const kinds[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",    [JSON_STRING] = "text",
                                        [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
                                        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    return v ? kinds[json_typeof(v)] : "nothing";
}

/* Text that can be printed and compared: not empty, no control characters, no NUL. */
static int take_text(struct reading *r, const json_t *v, const char *field, size_t max, const char **out)
{
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    if (!s) return refuse(r, ERR_INPUT, "%s: must be text, not %s", field, kind_of(v));
    if (n == 0 || n > max) return refuse(r, ERR_INPUT, "%s: must have 1 to %zu bytes, not %zu", field, max, n);
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len <= 0 || utf8_is_control(cp)) return refuse(r, ERR_INPUT, "%s: has a control character", field);
        i += (size_t)len;
    }
    *out = arena_copy(&r->b->arena, s, n);
    return *out ? 0 : no_room(r);
}

static int take_whole(struct reading *r, const json_t *v, const char *field, int64_t min, int64_t max, int64_t *out)
{
    if (!json_is_integer(v)) return refuse(r, ERR_INPUT, "%s: must be a whole number, not %s", field, kind_of(v));
    *out = json_integer_value(v);
    if (*out < min || *out > max)
        return refuse(r, ERR_INPUT, "%s: must be from %" PRId64 " to %" PRId64 ", not %" PRId64, field, min, max, *out);
    return 0;
}

/* [nano-dollars, units]. */
static int take_rate(struct reading *r, const json_t *v, const char *field, enum usage_meter meter, bool is_free, struct price_rate *out)
{
    int64_t nano, units;
    char name[80];
    if (!json_is_array(v)) return refuse(r, ERR_INPUT, "%s: must be [nano-dollars, units], not %s", field, kind_of(v));
    if (json_array_size(v) != 2) return refuse(r, ERR_INPUT, "%s: must be [nano-dollars, units]", field);
    snprintf(name, sizeof name, "%s[1]", field);
    int rc = take_whole(r, json_array_get(v, 1), name, 1, PRICE_MOST_UNITS, &units);
    if (!rc && units != 1 && units != 1000 && units != PRICE_MOST_UNITS)
        rc = refuse(r, ERR_INPUT, "%s: must be 1, 1000 or 1000000, not %" PRId64, name, units);
    if (rc) return rc;
    snprintf(name, sizeof name, "%s[0]", field);
    int64_t most = (meter == USAGE_SEARCHES ? max_search_nano : max_token_nano) * units;
    rc = take_whole(r, json_array_get(v, 0), name, is_free ? 0 : 1, is_free ? 0 : most, &nano);
    if (!rc) *out = (struct price_rate){.nano = nano, .units = (int32_t)units};
    return rc;
}

static int take_service(struct reading *r, const json_t *v, const char *field, enum price_service *out)
{
    const char *s = json_string_value(v);
    for (int i = 0; s && i < PRICE_SERVICES; i++) {
        if (strcmp(s, price_service_name(i))) continue;
        *out = i;
        return 0;
    }
    return refuse(r, ERR_INPUT, "%s: is no tier of service", field);
}

static int meter_of(const char *name)
{
    for (int m = 0; m < USAGE_METERS; m++)
        if (!strcmp(name, usage_meter_name(m))) return m;
    return -1;
}

static int take_tier(struct reading *r, const json_t *v, size_t i, bool is_free, struct price_tier *t)
{
    char field[64];
    snprintf(field, sizeof field, "prices[%zu]", i);
    if (!json_is_object(v)) return refuse(r, ERR_INPUT, "%s: must be an object, not %s", field, kind_of(v));
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)v, name, value)
    {
        int rc, meter = meter_of(name);
        snprintf(field, sizeof field, "prices[%zu].%.40s", i, name);
        if (meter >= 0)
            rc = take_rate(r, value, field, meter, is_free, &t->rate[meter]);
        else if (!strcmp(name, "tier"))
            rc = take_service(r, value, field, &t->service);
        else if (!strcmp(name, "from"))
            rc = take_whole(r, value, field, 1, TOKENS_MAX, &t->context_from);
        else
            rc = refuse(r, ERR_INPUT, "%s: there is no such field", field);
        if (rc) return rc;
    }
    static const enum usage_meter needed[] = {USAGE_IN_UNCACHED, USAGE_OUT_TEXT};
    for (size_t k = 0; k < sizeof needed / sizeof *needed; k++)
        if (!t->rate[needed[k]].units) return refuse(r, ERR_INPUT, "prices[%zu].%s: is missing", i, usage_meter_name(needed[k]));
    return 0;
}

static int compare_tiers(const void *a, const void *b)
{
    const struct price_tier *x = a, *y = b;
    if (x->service != y->service) return x->service < y->service ? -1 : 1;
    return (x->context_from > y->context_from) - (x->context_from < y->context_from);
}

/* Every service begins at 0 and names no context twice; the standard one is there. */
static int check_tiers(struct reading *r, const struct price_tier *t, size_t n)
{
    if (t[0].service != PRICE_STANDARD) return refuse(r, ERR_INPUT, "prices: has no standard tier");
    for (size_t i = 0; i < n; i++) {
        bool first = i == 0 || t[i].service != t[i - 1].service;
        if (first && t[i].context_from)
            return refuse(r, ERR_INPUT, "prices: the %s tier has no prices from 0 tokens on", price_service_name(t[i].service));
        if (!first && t[i].context_from == t[i - 1].context_from)
            return refuse(r, ERR_INPUT, "prices: the %s tier from %" PRId64 " tokens on is there twice", price_service_name(t[i].service),
                          t[i].context_from);
    }
    return 0;
}

static void fill_tiers(struct price_tier *t, size_t n, uint32_t can)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof parents / sizeof *parents; k++) {
            struct price_rate *rate = &t[i].rate[parents[k].meter];
            bool may = !parents[k].if_can || (can & parents[k].if_can);
            if (!rate->units && may) *rate = t[i].rate[parents[k].parent];
        }
        if (!t[i].rate[USAGE_SEARCHES].units) t[i].rate[USAGE_SEARCHES] = t[0].rate[USAGE_SEARCHES];
    }
}

static int take_tiers(struct reading *r, const json_t *v, struct price *p)
{
    size_t n = json_array_size(v);
    if (!json_is_array(v)) return refuse(r, ERR_INPUT, "prices: must be a list, not %s", kind_of(v));
    if (n == 0 || n > PRICE_MAX_TIERS) return refuse(r, ERR_INPUT, "prices: must have 1 to %d tiers, not %zu", PRICE_MAX_TIERS, n);
    struct price_tier *t = arena_array(&r->b->arena, n, sizeof *t);
    if (!t) return no_room(r);
    for (size_t i = 0; i < n; i++) {
        int rc = take_tier(r, json_array_get(v, i), i, p->can & PRICE_FREE, &t[i]);
        if (rc) return rc;
    }
    qsort(t, n, sizeof *t, compare_tiers);
    int rc = check_tiers(r, t, n);
    if (rc) return rc;
    fill_tiers(t, n, p->can);
    p->tiers = t;
    p->n_tiers = (uint32_t)n;
    return 0;
}

static int take_can(struct reading *r, const json_t *v, uint32_t *can)
{
    if (!json_is_array(v)) return refuse(r, ERR_INPUT, "can: must be a list, not %s", kind_of(v));
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        unsigned bit = 0;
        while (s && price_can_name(bit) && strcmp(s, price_can_name(bit))) bit++;
        if (!s || !price_can_name(bit)) return refuse(r, ERR_INPUT, "can[%zu]: is nothing that a model can do", i);
        if (*can & 1u << bit) return refuse(r, ERR_INPUT, "can[%zu]: %s is there twice", i, s);
        *can |= 1u << bit;
    }
    return 0;
}

static int check_names(struct reading *r, const json_t *v, const char *const *names)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)v, name, value)
    {
        size_t i = 0;
        while (names[i] && strcmp(names[i], name)) i++;
        if (!names[i]) return refuse(r, ERR_INPUT, "%.40s: there is no such field", name);
    }
    return 0;
}

static int take_model(struct reading *r, const json_t *v, struct price *p)
{
    static const char *const names[] = {"provider", "model", "region", "context", "max_output", "can", "prices", NULL};
    if (!json_is_object(v)) return refuse(r, ERR_INPUT, "must be an object, not %s", kind_of(v));
    *p = (struct price){.region = "", .version = r->b->version};
    int rc = take_text(r, json_object_get(v, "provider"), "provider", 32, &p->provider);
    if (!rc) rc = take_text(r, json_object_get(v, "model"), "model", PRICE_MAX_NAME, &p->model);
    if (rc) return rc;
    size_t n = strlen(r->place);
    snprintf(r->place + n, sizeof r->place - n, "%s(%s %s)", n ? " " : "", p->provider, p->model);
    const json_t *region = json_object_get(v, "region"), *context = json_object_get(v, "context"), *most = json_object_get(v, "max_output");
    rc = check_names(r, v, names);
    if (!rc && region) rc = take_text(r, region, "region", 32, &p->region);
    if (!rc && context) rc = take_whole(r, context, "context", 1, TOKENS_MAX, &p->context);
    if (!rc && most) rc = take_whole(r, most, "max_output", 1, TOKENS_MAX, &p->max_output);
    if (!rc) rc = take_can(r, json_object_get(v, "can"), &p->can);
    return rc ? rc : take_tiers(r, json_object_get(v, "prices"), p);
}

static int take_models(struct reading *r, const json_t *v)
{
    struct price_book *b = r->b;
    size_t n = json_array_size(v);
    if (!json_is_array(v)) return refuse(r, ERR_INPUT, "models: must be a list, not %s", kind_of(v));
    if (n == 0 || n > PRICE_MAX_MODELS) return refuse(r, ERR_INPUT, "models: must be 1 to %d, not %zu", PRICE_MAX_MODELS, n);
    b->prices = arena_array(&b->arena, n, sizeof *b->prices);
    if (!b->prices) return no_room(r);
    for (; b->n_prices < n; b->n_prices++) {
        snprintf(r->place, sizeof r->place, "models[%zu]", b->n_prices);
        int rc = take_model(r, json_array_get(v, b->n_prices), &b->prices[b->n_prices]);
        if (rc) return rc;
    }
    r->place[0] = '\0';
    qsort(b->prices, n, sizeof *b->prices, price_compare);
    for (size_t i = 1; i < n; i++) {
        const struct price *p = &b->prices[i];
        if (price_compare(p - 1, p) == 0)
            return refuse(r, ERR_INPUT, "%s %s%s%s: is there twice", p->provider, p->model, p->region[0] ? " in " : "", p->region);
    }
    return 0;
}

/* A digit for each 0, every other byte as it stands. */
static bool has_form(const char *s, const char *form)
{
    for (; *form; s++, form++)
        if (*form == '0' ? *s < '0' || *s > '9' : *s != *form) return false;
    return *s == '\0';
}

static int take_table(struct reading *r, const json_t *v, const unsigned char digest[8])
{
    static const char *const names[] = {"format", "version", "date", "sources", "models", NULL};
    int64_t format;
    const char *version, *date;
    if (!json_is_object(v)) return refuse(r, ERR_INPUT, "must be an object, not %s", kind_of(v));
    int rc = take_whole(r, json_object_get(v, "format"), "format", FORMAT, FORMAT, &format);
    if (!rc) rc = check_names(r, v, names);
    if (!rc) rc = take_text(r, json_object_get(v, "version"), "version", PRICE_MAX_VERSION, &version);
    if (!rc) rc = take_text(r, json_object_get(v, "date"), "date", sizeof r->b->date - 1, &date);
    if (!rc && !has_form(date, "0000-00-00")) rc = refuse(r, ERR_INPUT, "date: must be YYYY-MM-DD");
    if (!rc && !json_is_array(json_object_get(v, "sources"))) rc = refuse(r, ERR_INPUT, "sources: must be a list");
    if (rc) return rc;
    char hex[17];
    sodium_bin2hex(hex, sizeof hex, digest, 8);
    snprintf(r->b->version, sizeof r->b->version, "%s~%s", version, hex);
    snprintf(r->b->date, sizeof r->b->date, "%s", date);
    return take_models(r, json_object_get(v, "models"));
}

static int book_new(struct price_book **out, const char *what, struct err *e)
{
    *out = malloc(sizeof **out);
    if (!*out) return err_set(e, ERR_MEMORY, "%s: no memory for the prices", what);
    memset(*out, 0, sizeof **out);
    arena_init(&(*out)->arena, MAX_ARENA);
    atomic_init(&(*out)->holders, 1);
    return 0;
}

/* version NULL: a table; else one model of that version. */
static int read_text(struct price_book **out, const char *text, size_t n, const char *what, const char *version, struct err *e)
{
    json_t *v;
    *out = NULL;
    int rc = json_read(text, n, &limits, what, &v, e);
    if (rc) return rc;
    struct reading r = {.what = what, .e = e};
    rc = book_new(&r.b, what, e);
    if (!rc && version) {
        snprintf(r.b->version, sizeof r.b->version, "%s", version);
        r.b->prices = arena_array(&r.b->arena, 1, sizeof *r.b->prices);
        rc = r.b->prices ? take_model(&r, v, r.b->prices) : no_room(&r);
        r.b->n_prices = 1;
    } else if (!rc) {
        unsigned char digest[crypto_generichash_BYTES];
        crypto_generichash(digest, sizeof digest, (const unsigned char *)text, n, NULL, 0);
        rc = take_table(&r, v, digest);
    }
    json_decref(v);
    if (rc)
        price_book_release(r.b);
    else
        *out = r.b;
    return rc;
}

int price_book_read(struct price_book **out, const char *text, size_t n, const char *what, struct err *e)
{
    return read_text(out, text, n, what, NULL, e);
}

int price_book_read_stored(struct price_book **out, const char *text, size_t n, const char *version, struct err *e)
{
    *out = NULL;
    if (strlen(version) >= PRICE_VERSION_BYTES) return err_set(e, ERR_INPUT, "a stored price: its version is too long");
    return read_text(out, text, n, "a stored price", version, e);
}

int price_book_open(struct price_book **out, const char *path, struct err *e)
{
    struct buf b;
    *out = NULL;
    buf_init(&b, MAX_BYTES);
    int rc = buf_read_file(&b, path, e);
    if (!rc) rc = price_book_read(out, b.data ? b.data : "", b.len, path, e);
    buf_free(&b);
    return rc;
}
