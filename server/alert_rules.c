/* Alert rules: see alert_rules.h. */
#include "server/alert_rules.h"

#include "base/err.h"

enum { RING = ALERT_RECENT_LOOKS + ALERT_PAST_LOOKS + 1 };

bool alert_spend_is_high(int64_t hour_nusd, int64_t past_nusd, int64_t past_hours, int64_t factor, int64_t floor_nusd)
{
    if (past_hours < ALERT_PAST_HOURS || hour_nusd < floor_nusd || hour_nusd <= 0) return false;
    return (__int128)hour_nusd * past_hours > (__int128)past_nusd * factor;
}

void alert_rate_note(struct alert_rate *r, struct alert_count total)
{
    r->looks[r->n_looks++ % RING] = total;
}

/* As it was `back` looks ago; before the first it is the first's. */
static struct alert_count look(const struct alert_rate *r, size_t back)
{
    size_t kept = r->n_looks < RING ? r->n_looks : RING;
    if (back >= kept) back = kept - 1;
    return r->looks[(r->n_looks - 1 - back) % RING];
}

static struct alert_count between(struct alert_count from, struct alert_count to)
{
    return (struct alert_count){.n = to.n - from.n, .hit = to.hit - from.hit};
}

void alert_rate_windows(const struct alert_rate *r, struct alert_count *recent, struct alert_count *past)
{
    CHECK(r->n_looks > 0);
    struct alert_count middle = look(r, ALERT_RECENT_LOOKS);
    *recent = between(middle, look(r, 0));
    *past = between(look(r, ALERT_RECENT_LOOKS + ALERT_PAST_LOOKS), middle);
}

bool alert_rate_is_high(const struct alert_count *recent, const struct alert_count *past, int per_cent)
{
    if (recent->n < ALERT_MIN_REQUESTS || recent->hit * 100 < recent->n * (uint64_t)per_cent) return false;
    return past->n == 0 || (unsigned __int128)recent->hit * past->n > (unsigned __int128)ALERT_SUDDEN * past->hit * recent->n;
}

int64_t alert_retry_ms(int tries)
{
    CHECK(tries >= 1);
    int64_t ms = ALERT_RETRY_FIRST_MS;
    for (int i = 1; i < tries && ms < ALERT_RETRY_MOST_MS; i++) ms *= 2;
    return ms < ALERT_RETRY_MOST_MS ? ms : ALERT_RETRY_MOST_MS;
}
