/* Hosted models and aliases in /v1/models (docs/gateway.md, "Models"): see model_write.h. There may be thousands, and the loop writes them: what is there
 * many times a model is put together without printf. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/accounts/money.h"
#include "server/api/model_write.h"
#include "server/routing/explain.h"

static void put_text(struct buf *b, const char *name, const char *text)
{
    buf_printf(b, "\"%s\":", name);
    if (text)
        json_write_string(b, text, strlen(text));
    else
        buf_puts(b, "null");
}

static void put_number(struct buf *b, int64_t n)
{
    char text[24], *p = text + sizeof text;
    uint64_t left = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do *--p = (char)('0' + left % 10);
    while (left /= 10);
    if (n < 0) *--p = '-';
    buf_append(b, p, (size_t)(text + sizeof text - p));
}

/* One more word of a list. */
static void put_word(struct buf *b, const char *word)
{
    buf_puts(b, b->len && b->data[b->len - 1] == '[' ? "\"" : ",\"");
    buf_puts(b, word);
    buf_putc(b, '"');
}

static void put_count(struct buf *b, const char *name, int64_t n)
{
    if (n > 0)
        buf_printf(b, ",\"%s\":%" PRId64, name, n);
    else
        buf_printf(b, ",\"%s\":null", name); /* not known */
}

/* The price book's day, at 00:00 UTC. */
static int64_t created_s(const struct price_book *book)
{
    struct tm tm = {.tm_mday = 1};
    return strptime(book->date, "%Y-%m-%d", &tm) ? (int64_t)timegm(&tm) : 0;
}

/* --- state --- */

struct keys_told {
    unsigned usable, resting, dead;
};

static struct keys_told look_at_keys(const struct host_keys *k, int64_t now_ms)
{
    struct keys_told t = {.usable = k->n == 0};
    for (size_t i = 0; i < k->n; i++) {
        const char *state = host_key_state_name(k, (int)i, now_ms);
        (*state == 'u' ? &t.usable : *state == 'r' ? &t.resting : &t.dead)[0]++;
    }
    return t;
}

/* What stands in the way of a request that came now. */
static const char *state_name(const struct hosted_model *m, const struct keys_told *keys, int64_t now_ms)
{
    if (!keys->usable) return keys->resting ? "key_resting" : "key_dead";
    switch (breaker_verdict(&m->breaker, now_ms)) {
    case BREAKER_GO:
        return "ready";
    case BREAKER_PROBE:
        return "breaker_half_open";
    default:
        return "breaker_open";
    }
}

/* --- what it can, what it costs --- */

static bool takes_pictures(const struct hosted_model *m)
{
    return (m->price->can & PRICE_CAN_IMAGE) && (m->host->host.row->capabilities & (CAP_IMAGE_DATA | CAP_IMAGE_URL));
}

/* What is passed on to it; the rest is refused here. CAP_MODELS is about the host. */
static void put_supports(struct buf *b, const struct hosted_model *m)
{
    uint32_t caps = m->host->host.row->capabilities & ~(uint32_t)CAP_MODELS;
    if (!takes_pictures(m)) caps &= ~(uint32_t)(CAP_IMAGE_DATA | CAP_IMAGE_URL);
    buf_puts(b, ",\"supports\":[");
    for (unsigned i = 0; i < PROVIDER_CAPABILITIES; i++)
        if (caps >> i & 1) put_word(b, provider_capability_names[i]);
    buf_putc(b, ']');
}

/* What the price table says of the model itself. */
static void put_can(struct buf *b, uint32_t can)
{
    buf_puts(b, ",\"can\":[");
    for (unsigned i = 0; price_can_name(i); i++)
        if (can >> i & 1) put_word(b, price_can_name(i));
    buf_putc(b, ']');
}

/* For 1,000,000, with the mark-up; a fraction counts up, as tariff_rates has it. false: no price is known. */
static bool per_million(const struct price_rate *r, bool is_free, int64_t markup, int64_t *nusd)
{
    int64_t plain = 0;
    if (r->units ? __builtin_mul_overflow(r->nano, 1000000 / r->units, &plain) : !is_free) return false;
    const int64_t whole = plain / PRICE_MARKUP_WHOLE * markup, rest = plain % PRICE_MARKUP_WHOLE * markup;
    *nusd = plain + whole + (rest + PRICE_MARKUP_WHOLE - 1) / PRICE_MARKUP_WHOLE;
    return true;
}

/* What has no known price is left out. */
static void put_tier(struct buf *b, const struct price_tier *t, bool is_free, int64_t markup)
{
    char usd[MONEY_BYTES] = "0.00";
    int64_t written = 0; /* what usd says: several meters often cost the same */
    const char *comma = "\"";
    buf_printf(b, "{\"service\":\"%s\",\"context_from\":%" PRId64 ",\"per_million\":{", price_service_name(t->service), t->context_from);
    for (enum usage_meter i = 0; i < USAGE_METERS; i++) {
        int64_t nusd;
        if (!per_million(&t->rate[i], is_free, markup, &nusd)) continue;
        if (nusd != written) money_write(written = nusd, usd);
        buf_puts(b, comma);
        buf_puts(b, usage_meter_name(i));
        buf_puts(b, "\":{\"nusd\":");
        put_number(b, nusd);
        buf_puts(b, ",\"usd\":\"");
        buf_puts(b, usd);
        buf_puts(b, "\"}");
        comma = ",\"";
    }
    buf_puts(b, "}}");
}

void model_write_prices(struct buf *b, const struct tariff *t)
{
    const struct price *p = t->sale.price;
    buf_puts(b, ",\"prices\":{");
    put_text(b, "version", t->sale.id || !p->version[0] ? NULL : p->version);
    put_count(b, "row", t->sale.id);
    buf_puts(b, ",\"tiers\":[");
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        if (i) buf_putc(b, ',');
        put_tier(b, &p->tiers[i], p->can & PRICE_FREE, t->markup);
    }
    buf_puts(b, "]}");
}

/* As whoever asks for it by its whole name is charged. */
static void tariff_of_model(struct tariff *t, const struct tariff_table *set, const struct hosted_model *m, const char *name)
{
    const struct tariff_price own = {.price = m->price, .text = m->price_text};
    tariff_of(t, set, m->host->host.name, m->price->model, &own, name);
}

/* --- whose rules let it be asked for --- */

static bool price_allowed(const struct rules_price *cap, const struct tariff *t)
{
    int64_t in, out;
    tariff_rates(t, &in, &out);
    return (!cap->in_nusd || in <= cap->in_nusd) && (!cap->out_nusd || out <= cap->out_nusd);
}

bool model_hosted_allowed(const struct account_rules *r, const struct gateway *g, const struct hosted_model *m)
{
    char name[EXPLAIN_NAME_BYTES];
    struct tariff t;
    snprintf(name, sizeof name, "%s/%s", m->host->host.name, m->price->model);
    tariff_of_model(&t, g->tariffs, m, name);
    return !r->local_only && (!r->zero_retention || m->host->zero_retention) && rules_allow(r->providers, m->host->host.name) &&
           rules_allow(r->regions, g->hosted->regions[m->host->region]) && rules_allow(r->models, name) && price_allowed(&r->price, &t);
}

/* --- whole --- */

void model_write_hosted(struct buf *b, const struct gateway *g, const struct hosted_model *m)
{
    char name[EXPLAIN_NAME_BYTES];
    struct tariff t;
    const int64_t now_ms = loop_now_ms(g->loop);
    const struct hosted_host *host = m->host;
    const struct price *p = m->price;
    const struct keys_told keys = look_at_keys(&host->keys, now_ms);
    snprintf(name, sizeof name, "%s/%s", host->host.name, p->model);
    tariff_of_model(&t, g->tariffs, m, name);
    buf_putc(b, '{');
    put_text(b, "id", name);
    buf_printf(b, ",\"object\":\"model\",\"created\":%" PRId64 ",", created_s(host->book));
    put_text(b, "owned_by", host->host.name);
    put_count(b, "max_model_len", p->context);
    put_count(b, "context_length", p->context);
    buf_printf(b, ",\"modalities\":[\"text\"%s%s],\"state\":\"%s\",\"spillway\":{", takes_pictures(m) ? ",\"image\"" : "",
               (p->can & PRICE_CAN_AUDIO) && (host->host.row->capabilities & CAP_AUDIO_IN) ? ",\"audio\"" : "", state_name(m, &keys, now_ms));
    put_text(b, "provider", host->host.name);
    buf_printf(b, ",\"kind\":\"%s\",", host->host.row->name);
    put_text(b, "region", g->hosted->regions[host->region]);
    buf_printf(b, ",\"zero_retention\":%s", host->zero_retention ? "true" : "false");
    put_count(b, "max_output_tokens", p->max_output);
    put_supports(b, m);
    put_can(b, p->can);
    buf_printf(b, ",\"breaker\":\"%s\",\"keys\":{\"usable\":%u,\"resting\":%u,\"dead\":%u}", breaker_state_name(&m->breaker, now_ms),
               host->keys.n ? keys.usable : 0, keys.resting, keys.dead);
    model_write_prices(b, &t);
    buf_puts(b, "}}");
}

void model_write_alias(struct buf *b, const struct name_alias *a, int64_t created)
{
    buf_puts(b, "{");
    put_text(b, "id", a->name);
    buf_printf(b, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"spillway\",\"spillway\":{\"policy\":\"%s\",\"routes\":[", created,
               route_policy_names[a->policy]);
    for (size_t i = 0; i < a->n_routes; i++) {
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "model", a->routes[i].target);
        buf_printf(b, ",\"tier\":%u,\"weight\":%u}", a->routes[i].tier, a->routes[i].weight);
    }
    buf_puts(b, "]}}");
}

const struct hosted_model *model_find_hosted(const struct hosted *h, const char *id)
{
    for (size_t i = 0; i < h->n_models; i++) {
        const struct hosted_model *m = &h->models[i];
        const size_t n = strlen(m->host->host.name);
        if (strncmp(id, m->host->host.name, n) == 0 && id[n] == '/' && strcmp(id + n + 1, m->price->model) == 0) return m;
    }
    return NULL;
}
