/* Usage: see usage.h. */
#include "server/accounts/usage.h"

#include "base/err.h"

static const char *const names[USAGE_METERS] = {
    [USAGE_IN_UNCACHED] = "in_uncached",          [USAGE_IN_CACHE_READ] = "in_cache_read",
    [USAGE_IN_CACHE_WRITE] = "in_cache_write_5m", [USAGE_IN_CACHE_LONG] = "in_cache_write_1h",
    [USAGE_IN_AUDIO] = "in_audio",                [USAGE_IN_IMAGE] = "in_image",
    [USAGE_OUT_TEXT] = "out_text",                [USAGE_OUT_REASONING] = "out_reasoning",
    [USAGE_OUT_AUDIO] = "out_audio",              [USAGE_SEARCHES] = "searches",
};

void usage_set(struct usage *u, enum usage_meter meter, int64_t count)
{
    CHECK((unsigned)meter < USAGE_METERS);
    u->count[meter] = count;
    u->present |= USAGE_BIT(meter);
}

int64_t usage_sum(const struct usage *u, uint32_t meters)
{
    int64_t sum = 0;
    for (int m = 0; m < USAGE_METERS; m++) {
        if (!(u->present & meters & USAGE_BIT(m))) continue;
        if (u->count[m] < 0 || __builtin_add_overflow(sum, u->count[m], &sum)) return -1;
    }
    return sum;
}

const char *usage_meter_name(enum usage_meter meter)
{
    CHECK((unsigned)meter < USAGE_METERS);
    return names[meter];
}
