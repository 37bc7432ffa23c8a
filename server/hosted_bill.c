/* Hosted bill: see hosted_bill.h. */
#include "server/hosted_bill.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

enum { BYTES_A_TOKEN = 4, MOST_BYTES_A_TOKEN = 8 /* of text that people write; runs of one character may have more */ };

struct size {
    int64_t bytes, pictures;
};

/* A byte-level tokenizer makes at most a token of each byte; pictures are counted apart. */
static void measure(const json_t *v, struct size *s)
{
    const char *key;
    json_t *item;
    size_t i;
    s->bytes++; /* what stands between values */
    if (json_is_string(v) && strncmp(json_string_value(v), "data:", 5) == 0)
        s->pictures++;
    else if (json_is_string(v))
        s->bytes += (int64_t)json_string_length(v);
    else if (json_is_number(v))
        s->bytes += 24;
    json_array_foreach(v, i, item) measure(item, s);
    json_object_foreach((json_t *)v, key, item)
    {
        s->bytes += (int64_t)strlen(key);
        const bool url = strcmp(key, "image_url") == 0 && !json_is_string(item);
        const json_t *text = url ? json_object_get(item, "url") : NULL;
        if (json_is_string(text) && strncmp(json_string_value(text), "http", 4) == 0) s->pictures++;
        measure(item, s);
    }
}

/* Words for tiers of service, as requests ask for them and answers tell them. `may`: in which it may be served. `auto` is the account's own setting at
 * the provider, and a tier above the standard one may fall back to it. */
static const struct {
    const char *word;
    enum price_service service;
    uint32_t may;
} tiers[] = {{"default", PRICE_STANDARD, 0},
             {"standard", PRICE_STANDARD, 0},
             {"standard_only", PRICE_STANDARD, 0},
             {"on_demand", PRICE_STANDARD, 0},
             {"auto", PRICE_STANDARD, PRICE_SERVICE_BIT(PRICE_FLEX) | PRICE_SERVICE_BIT(PRICE_PRIORITY)},
             {"batch", PRICE_BATCH, 0},
             {"flex", PRICE_FLEX, 0},
             {"priority", PRICE_PRIORITY, 0},
             {"fast", PRICE_FAST, 0},
             {"ultrafast", PRICE_ULTRAFAST, 0}};

static int find_tier(const char *word)
{
    int n = sizeof tiers / sizeof *tiers;
    for (int i = 0; i < n; i++)
        if (strcmp(tiers[i].word, word) == 0) return i;
    return -1;
}

/* In which it may be served, as bits; -ERR_PRICE: one of them has no price. */
static int asked_services(const struct tariff *t, const json_t *request, uint32_t *bits, struct err *e)
{
    const json_t *v = json_object_get(request, "service_tier");
    *bits = PRICE_SERVICE_BIT(PRICE_STANDARD);
    if (!v || json_is_null(v)) return 0;
    int i = json_is_string(v) ? find_tier(json_string_value(v)) : -1;
    if (i < 0 || !price_is_sold(t->cost.price, tiers[i].service))
        return err_set_param(e, ERR_PRICE, "service_tier", "The price of '%.40s' in that service_tier is not known.", t->cost.price->model);
    *bits |= PRICE_SERVICE_BIT(tiers[i].service) | tiers[i].may;
    return 0;
}

void hosted_bill_tier(struct hosted_bill *b, const char *word)
{
    if (!word) return;
    int i = find_tier(word);
    b->tier_unknown = i < 0;
    b->service = i < 0 ? PRICE_STANDARD : tiers[i].service;
}

int hosted_bill_init(struct hosted_bill *b, const struct hosted_model *m, const struct tariff *t, const json_t *request, int64_t max_tokens, int64_t n,
                     struct err *e)
{
    struct size s = {0};
    const char *const parts[] = {"messages", "tools", "functions", "response_format"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const json_t *v = json_object_get(request, parts[i]);
        if (v) measure(v, &s);
    }
    *b = (struct hosted_bill){.model = m, .tariff = *t, .max_tokens = max_tokens, .n = n};
    b->prompt_most = s.bytes + s.pictures * HOSTED_IMAGE_TOKENS;
    b->prompt_estimate = s.bytes / BYTES_A_TOKEN + 1;
    struct price_ask ask = {.input_tokens = b->prompt_most,
                            .output_tokens = max_tokens * n,
                            .meters = USAGE_BIT(USAGE_IN_UNCACHED) | USAGE_BIT(USAGE_IN_CACHE_READ) | USAGE_BIT(USAGE_IN_CACHE_WRITE) |
                                      USAGE_BIT(USAGE_IN_CACHE_LONG) | USAGE_BIT(USAGE_OUT_TEXT) | USAGE_BIT(USAGE_OUT_REASONING)};
    int rc = asked_services(t, request, &ask.services, e);
    if (rc) return rc;
    rc = tariff_bound(t, &ask, &b->hold_nusd, &b->cost_most_nusd, e);
    return rc ? err_set_param(e, ERR_PRICE, "model", "The price of this request at %s is not known.", m->host->host.name) : 0;
}

void hosted_bill_again(struct hosted_bill *b, const struct hosted_bill *former)
{
    *b = (struct hosted_bill){.model = former->model,
                              .tariff = former->tariff,
                              .max_tokens = former->max_tokens,
                              .n = former->n,
                              .prompt_most = former->prompt_most,
                              .prompt_estimate = former->prompt_estimate,
                              .hold_nusd = former->hold_nusd,
                              .cost_most_nusd = former->cost_most_nusd};
}

void hosted_bill_usage(struct hosted_bill *b, const struct usage *u, const char *raw)
{
    if (!b->told || memcmp(b->usage.count, u->count, sizeof u->count) != 0) b->told_bytes = b->out_bytes;
    b->told = true;
    b->usage = *u;
    if (u->tier[0]) hosted_bill_tier(b, u->tier);
    snprintf(b->raw, sizeof b->raw, "%s", raw && strlen(raw) < sizeof b->raw ? raw : "");
}

static int64_t seen_tokens(const struct hosted_bill *b)
{
    return (b->out_bytes + BYTES_A_TOKEN - 1) / BYTES_A_TOKEN;
}

/* What was seen, where nothing was told, or nothing that can be. */
static struct usage seen(const struct hosted_bill *b)
{
    struct usage u = {.source = USAGE_ESTIMATED};
    usage_set(&u, USAGE_IN_UNCACHED, b->prompt_estimate);
    usage_set(&u, USAGE_OUT_TEXT, seen_tokens(b));
    return u;
}

/* What was told last is behind what came: the rest is counted here. */
static struct usage told_and_seen(const struct hosted_bill *b)
{
    struct usage u = b->usage;
    const int64_t more = seen_tokens(b) - usage_sum(&u, USAGE_OUT);
    u.source = USAGE_MIXED;
    if (more > 0) usage_set(&u, USAGE_OUT_TEXT, u.count[USAGE_OUT_TEXT] + more);
    return u;
}

/* Why somebody should look at what is posted, or NULL. */
static const char *doubt(const struct hosted_bill *b, bool guessed, bool behind)
{
    const int64_t told = usage_sum(&b->usage, USAGE_OUT);
    if (b->tier_unknown) return "a service tier was told that has no price";
    if (guessed) return b->told ? "usage of 0 was told" : "no usage was told";
    if (b->usage.inconsistent) return "the usage that was told contradicts itself";
    if (behind) return "the answer was cut, and more may have been made";
    if (told * MOST_BYTES_A_TOKEN < b->out_bytes) return "fewer tokens were told than came";
    return told > b->max_tokens * b->n ? "more tokens were told than were asked for" : NULL;
}

void hosted_bill_end(const struct hosted_bill *b, enum ledger_end end, struct ledger_op *out)
{
    struct err e;
    static const char *const outcomes[] = {[LEDGER_SERVED] = "whole", [LEDGER_CUT] = "cut", [LEDGER_FAILED] = "failed", [LEDGER_NOT_KNOWN] = "unknown"};
    const bool guessed = !b->told || usage_is_zero(&b->usage);
    /* Cut: more has come since, or it was told before anything came, or the host goes on when nobody listens. */
    const bool goes_on = b->model->host->host.row->on_disconnect == DISCONNECT_DRAIN;
    const bool behind = end != LEDGER_SERVED && (b->out_bytes > b->told_bytes || b->out_bytes == 0 || goes_on);
    /* It failed before its first word: the customer pays nothing, and we what it told by then. An answer without a word is one; and one whose first word
     * we did not wait for has had its prompt read. */
    const bool failed = b->out_bytes == 0 && end != LEDGER_SERVED && !b->left;
    *out = (struct ledger_op){.type = failed ? LEDGER_VOID : LEDGER_POST, .outcome = outcomes[end], .served = 1, .n_used = 1};
    struct ledger_used *u = &out->used[0];
    *u = (struct ledger_used){.n = 1, .supplier = b->model->host->supplier, .end = failed ? LEDGER_FAILED : end, .raw = b->raw[0] ? b->raw : NULL};
    if (failed && guessed && b->unsure) u->reconcile = "it broke off before its first word, and may ask for the prompt";
    if (failed && guessed) return;
    u->usage = guessed ? seen(b) : behind ? told_and_seen(b) : b->usage;
    u->reconcile = doubt(b, guessed, behind);
    if (b->service != PRICE_STANDARD) u->tier = price_service_name(b->service);
    int cost = tariff_cost(&b->tariff, &u->usage, b->service, &u->cost_nusd, &e), sale = tariff_sale(&b->tariff, &u->usage, b->service, &out->sale_nusd, &e);
    if (cost) u->cost_nusd = b->cost_most_nusd;
    if (sale) out->sale_nusd = b->hold_nusd;
    if (cost || sale) {
        log_error("provider %s: %s; the most that it can cost is charged", b->model->host->host.name, e.msg);
        u->reconcile = HOSTED_NO_PRICE;
    }
    if (failed) out->sale_nusd = 0;
}
