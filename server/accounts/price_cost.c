/* What a request costs, and the most that it can. See price_book.h.
 *
 * All sums are of nano-dollars for PRICE_MOST_UNITS, and with a mark-up for PRICE_MARKUP_WHOLE times as many, in 128 bits: count * nano * (PRICE_MOST_UNITS / units) is whole for every rate, so
 * nothing is rounded before the end. Products that do not fit are errors, not wrapped. */
#include <inttypes.h>

#include "server/accounts/price_parts.h"

typedef unsigned __int128 wide;

static int add_meter(wide *sum, int64_t count, struct price_rate r, const struct price *p, struct err *e)
{
    CHECK(count >= 0 && r.nano >= 0 && r.units > 0);
    wide part = (wide)count * (wide)r.nano; /* below 2^126 */
    if (__builtin_mul_overflow(part, (wide)(PRICE_MOST_UNITS / r.units), &part) || __builtin_add_overflow(*sum, part, sum))
        return err_set(e, ERR_LIMIT, "%s %s: the cost is past what can be counted", p->provider, p->model);
    return 0;
}

/* The one rounding of a line: half up. */
static int round_line(wide sum, int64_t markup, int64_t *nusd, const struct price *p, struct err *e)
{
    const wide units = (wide)PRICE_MOST_UNITS * PRICE_MARKUP_WHOLE;
    CHECK(markup >= 0 && markup <= PRICE_MAX_MARKUP);
    bool fits = !__builtin_mul_overflow(sum, (wide)(PRICE_MARKUP_WHOLE + markup), &sum);
    wide whole = sum / units + (sum % units >= units / 2);
    if (!fits || whole > INT64_MAX) return err_set(e, ERR_LIMIT, "%s %s: the cost is past what can be counted", p->provider, p->model);
    *nusd = (int64_t)whole;
    return 0;
}

static int no_price(const struct price *p, const char *of, const char *what, struct err *e)
{
    return err_set_param(e, ERR_UNSUPPORTED, "model", "%s %s has no price for %s %s", p->provider, p->model, of, what);
}

static const struct price_tier *tier_of(const struct price *p, enum price_service service, int64_t input_tokens)
{
    const struct price_tier *found = NULL;
    for (uint32_t i = 0; i < p->n_tiers; i++) /* in ascending order of context_from */
        if (p->tiers[i].service == service && p->tiers[i].context_from <= input_tokens) found = &p->tiers[i];
    return found;
}

bool price_is_sold(const struct price *p, enum price_service service)
{
    return tier_of(p, service, 0) != NULL;
}

int price_cost(const struct price *p, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e)
{
    return price_cost_marked(p, u, service, 0, nusd, e);
}

int price_cost_marked(const struct price *p, const struct usage *u, enum price_service service, int64_t markup, int64_t *nusd, struct err *e)
{
    if (!(u->present & USAGE_ALL)) return err_set(e, ERR_INPUT, "%s %s: no usage is known", p->provider, p->model);
    for (int m = 0; m < USAGE_METERS; m++)
        if (usage_has(u, m) && u->count[m] < 0)
            return err_set(e, ERR_INPUT, "%s %s: %s is negative: %" PRId64, p->provider, p->model, usage_meter_name(m), u->count[m]);
    int64_t input_tokens = usage_sum(u, USAGE_IN);
    if (input_tokens < 0) return err_set(e, ERR_LIMIT, "%s %s: the input is past what can be counted", p->provider, p->model);
    const struct price_tier *t = tier_of(p, service, input_tokens);
    if (!t) return no_price(p, "service tier", price_service_name(service), e);
    wide sum = 0;
    for (int m = 0; m < USAGE_METERS; m++) {
        if (!usage_has(u, m) || u->count[m] == 0) continue;
        if (!t->rate[m].units) return no_price(p, "meter", usage_meter_name(m), e);
        int rc = add_meter(&sum, u->count[m], t->rate[m], p, e);
        if (rc) return rc;
    }
    return round_line(sum, markup, nusd, p, e);
}

/* Adds count at the dearest rate among the meters. */
static int add_dearest(wide *sum, int64_t count, uint32_t meters, const struct price_tier *t, const struct price *p, struct err *e)
{
    wide most = 0;
    for (int m = 0; m < USAGE_METERS && count; m++) {
        if (!(meters & USAGE_BIT(m))) continue;
        if (!t->rate[m].units) return no_price(p, "meter", usage_meter_name(m), e);
        wide part = 0;
        int rc = add_meter(&part, count, t->rate[m], p, e);
        if (rc) return rc;
        if (part > most) most = part;
    }
    if (__builtin_add_overflow(*sum, most, sum))
        return err_set(e, ERR_LIMIT, "%s %s: the cost is past what can be counted", p->provider, p->model);
    return 0;
}

/* In each tier that the request can end in, all input at that tier's dearest input rate and all output at its dearest output rate; of
 * these the most. A request is priced by one tier alone, so it cannot cost more. */
int price_bound(const struct price *p, const struct price_ask *ask, int64_t *nusd, struct err *e)
{
    return price_bound_marked(p, ask, 0, nusd, e);
}

int price_bound_marked(const struct price *p, const struct price_ask *ask, int64_t markup, int64_t *nusd, struct err *e)
{
    const struct {
        int64_t count;
        uint32_t meters;
    } sides[] = {{ask->input_tokens, USAGE_IN}, {ask->output_tokens, USAGE_OUT}, {ask->searches, USAGE_BIT(USAGE_SEARCHES)}};
    wide most = 0;
    bool sold = false;
    for (size_t k = 0; k < sizeof sides / sizeof *sides; k++) CHECK(sides[k].count == 0 || (ask->meters & sides[k].meters));
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        const struct price_tier *t = &p->tiers[i];
        if (!(ask->services & PRICE_SERVICE_BIT(t->service)) || t->context_from > ask->input_tokens) continue;
        wide sum = 0;
        sold = true;
        for (size_t k = 0; k < sizeof sides / sizeof *sides; k++) {
            int rc = add_dearest(&sum, sides[k].count, ask->meters & sides[k].meters, t, p, e);
            if (rc) return rc;
        }
        if (sum > most) most = sum;
    }
    if (!sold) return no_price(p, "any service tier", "that it may be served in", e);
    return round_line(most, markup, nusd, p, e);
}
