/* Usage: what one request used, in the one form that every source's report is brought into and that prices are applied to.
 *
 * The meters do not overlap: the input of a request is the sum of its in_ meters, its output that of its out_ meters. A count that was
 * not told is absent, which is not 0: `present` says which ones are there, and a record without any is no usage at all. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_USAGE_H
#define SPILLWAY_SERVER_ACCOUNTS_USAGE_H

#include <stdbool.h>
#include <stdint.h>

enum usage_meter {
    USAGE_IN_UNCACHED,    /* tokens, as all but the last */
    USAGE_IN_CACHE_READ,  /* found in a provider's prompt cache */
    USAGE_IN_CACHE_WRITE, /* put into it for its usual time (Anthropic: 5 minutes) */
    USAGE_IN_CACHE_LONG,  /* put into it for a longer time that was asked for (Anthropic: 1 hour; OpenAI: 24 hours) */
    USAGE_IN_AUDIO,
    USAGE_IN_IMAGE,
    USAGE_OUT_TEXT,
    USAGE_OUT_REASONING,
    USAGE_OUT_AUDIO,
    USAGE_SEARCHES, /* searches of the web that the provider made */
    USAGE_METERS    /* number of meters, not a meter */
};

#define USAGE_BIT(meter) (1u << (meter))
enum {
    USAGE_IN = USAGE_BIT(USAGE_OUT_TEXT) - 1, /* the meters of the input */
    USAGE_OUT = USAGE_BIT(USAGE_OUT_TEXT) | USAGE_BIT(USAGE_OUT_REASONING) | USAGE_BIT(USAGE_OUT_AUDIO),
    USAGE_ALL = USAGE_BIT(USAGE_METERS) - 1
};

enum usage_source { USAGE_REPORTED, USAGE_ESTIMATED, USAGE_MIXED };

struct usage {
    int64_t count[USAGE_METERS]; /* 0 where absent */
    uint32_t present;            /* USAGE_BIT of each meter that was told */
    enum usage_source source;
    char tier[16];     /* of service, in the provider's word, where its usage says it; "": it does not */
    bool inconsistent; /* a difference of what was told was negative, and is 0 here: look at what was told */
};

void usage_set(struct usage *u, enum usage_meter meter, int64_t count);
static inline bool usage_has(const struct usage *u, enum usage_meter meter)
{
    return u->present & USAGE_BIT(meter);
}
/* The sum of the meters named by bits that are present; -1: one is negative, or the sum is past int64. */
int64_t usage_sum(const struct usage *u, uint32_t meters);
/* "in_uncached", "in_cache_write_5m", ...: what price tables and the ledger call them. */
const char *usage_meter_name(enum usage_meter meter);

#endif
