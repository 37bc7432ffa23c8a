/* Price book: finding, holding, writing. See price_book.h; price_read.c reads tables, price_cost.c computes. */
#include "server/accounts/price_book.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "server/accounts/price_parts.h"

static const char *const service_names[PRICE_SERVICES] = {
    [PRICE_STANDARD] = "standard", [PRICE_BATCH] = "batch", [PRICE_FLEX] = "flex",
    [PRICE_PRIORITY] = "priority", [PRICE_FAST] = "fast",   [PRICE_ULTRAFAST] = "ultrafast",
};
static const char *const can_names[] = {"image", "audio", "video", "file", "audio_out", "image_out", "tools", "schema", "reasoning",
                                        "caching", "search", "responses_only", "free"};

const char *price_service_name(enum price_service service)
{
    CHECK((unsigned)service < PRICE_SERVICES);
    return service_names[service];
}

const char *price_can_name(unsigned bit)
{
    return bit < sizeof can_names / sizeof *can_names ? can_names[bit] : NULL;
}

struct price_book *price_book_hold(struct price_book *b)
{
    CHECK(atomic_fetch_add(&b->holders, 1) > 0);
    return b;
}

void price_book_release(struct price_book *b)
{
    if (!b) return;
    unsigned before = atomic_fetch_sub(&b->holders, 1);
    CHECK(before > 0);
    if (before > 1) return;
    arena_free(&b->arena);
    free(b);
}

int price_compare(const void *a, const void *b)
{
    const struct price *x = a, *y = b;
    int order = strcmp(x->provider, y->provider);
    if (!order) order = strcmp(x->model, y->model);
    return order ? order : strcmp(x->region, y->region);
}

static const struct price *find_exact(const struct price_book *b, const char *provider, const char *model, const char *region)
{
    struct price key = {.provider = provider, .model = model, .region = region};
    return b->n_prices ? bsearch(&key, b->prices, b->n_prices, sizeof *b->prices, price_compare) : NULL;
}

static const struct price *find_near(const struct price_book *b, const char *provider, const char *model, const char *region)
{
    const struct price *p = region && region[0] ? find_exact(b, provider, model, region) : NULL;
    return p ? p : find_exact(b, provider, model, "");
}

const struct price *price_find(const struct price_book *b, const char *provider, const char *model, const char *region)
{
    const struct price *p = find_near(b, provider, model, region);
    if (p || strncmp(model, "ft:", 3) != 0) return p;
    const char *end = strchr(model + 3, ':');
    char base[PRICE_MAX_NAME + 1];
    if (!end || (size_t)(end - model) >= sizeof base) return NULL;
    memcpy(base, model, (size_t)(end - model));
    base[end - model] = '\0';
    return find_near(b, provider, base, region);
}

static void write_member(struct buf *b, const char *name, const char *value)
{
    buf_printf(b, ",\"%s\":", name);
    json_write_string(b, value, strlen(value));
}

static void write_tier(struct buf *b, const struct price_tier *t)
{
    const char *comma = "";
    buf_putc(b, '{');
    if (t->service != PRICE_STANDARD) {
        buf_printf(b, "\"tier\":\"%s\"", service_names[t->service]);
        comma = ",";
    }
    if (t->context_from) {
        buf_printf(b, "%s\"from\":%lld", comma, (long long)t->context_from);
        comma = ",";
    }
    for (int m = 0; m < USAGE_METERS; m++) {
        if (!t->rate[m].units) continue;
        buf_printf(b, "%s\"%s\":[%lld,%d]", comma, usage_meter_name(m), (long long)t->rate[m].nano, (int)t->rate[m].units);
        comma = ",";
    }
    buf_putc(b, '}');
}

int price_write(struct buf *b, const struct price *p)
{
    buf_puts(b, "{\"provider\":");
    json_write_string(b, p->provider, strlen(p->provider));
    write_member(b, "model", p->model);
    if (p->region[0]) write_member(b, "region", p->region);
    if (p->context) buf_printf(b, ",\"context\":%lld", (long long)p->context);
    if (p->max_output) buf_printf(b, ",\"max_output\":%lld", (long long)p->max_output);
    buf_puts(b, ",\"can\":[");
    const char *comma = "";
    for (unsigned bit = 0; price_can_name(bit); bit++) {
        if (!(p->can & 1u << bit)) continue;
        buf_printf(b, "%s\"%s\"", comma, can_names[bit]);
        comma = ",";
    }
    buf_puts(b, "],\"prices\":[");
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        if (i) buf_putc(b, ',');
        write_tier(b, &p->tiers[i]);
    }
    buf_puts(b, "]}");
    return b->failed;
}
