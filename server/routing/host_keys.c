/* Host keys: see host_keys.h. */
#include "server/routing/host_keys.h"

#include "base/err.h"

static int64_t doubled(int64_t first_ms, unsigned times, int64_t most_ms)
{
    int64_t ms = first_ms;
    for (unsigned i = 0; i < times && ms < most_ms; i++) ms *= 2;
    return ms < most_ms ? ms : most_ms;
}

/* 0: now. A dead one that is being tried waits for that request's end. */
static int64_t key_wait_ms(const struct host_key *x, int64_t now_ms)
{
    int64_t until_ms = x->dead_until_ms > x->rest_until_ms ? x->dead_until_ms : x->rest_until_ms;
    if (until_ms > now_ms) return until_ms - now_ms;
    return x->trying ? HOST_KEY_REST_MS : 0;
}

int host_keys_pick(const struct host_keys *k, uint64_t session, int64_t now_ms, int64_t *wait_ms)
{
    *wait_ms = 0;
    if (k->n == 0) return 0;
    size_t from = session ? (size_t)(session % k->n) : k->turn % k->n;
    int64_t least_ms = INT64_MAX;
    for (size_t j = 0; j < k->n; j++) {
        size_t i = (from + j) % k->n;
        int64_t ms = key_wait_ms(&k->key[i], now_ms);
        if (ms == 0) return (int)i;
        if (ms < least_ms) least_ms = ms;
    }
    *wait_ms = least_ms;
    return -1;
}

void host_keys_begin(struct host_keys *k, int i, int64_t now_ms)
{
    if (k->n == 0) return;
    CHECK(i >= 0 && (size_t)i < k->n);
    struct host_key *x = &k->key[i];
    k->turn = (size_t)i + 1;
    x->trying = x->dead_until_ms && x->dead_until_ms <= now_ms;
}

void host_keys_end(struct host_keys *k, int i, enum fault fault, int64_t hint_ms, int64_t now_ms)
{
    if (k->n == 0) return;
    CHECK(i >= 0 && (size_t)i < k->n);
    struct host_key *x = &k->key[i];
    bool tried = x->trying;
    x->trying = false;
    if (hint_ms > HOST_KEY_HINT_MS) hint_ms = HOST_KEY_HINT_MS;
    if (fault == FAULT_KEY) {
        if (x->dead_until_ms && !tried) return; /* sent before it was known */
        x->dead_until_ms = now_ms + doubled(HOST_KEY_DEAD_MS, x->n_dead++, HOST_KEY_DEAD_MOST_MS);
    } else if (fault == FAULT_LIMITED) {
        int64_t until_ms = now_ms + (hint_ms > 0 ? hint_ms : doubled(HOST_KEY_REST_MS, x->n_limited, HOST_KEY_REST_MOST_MS));
        if (x->rest_until_ms <= now_ms) x->n_limited++; /* those that were under way together count once */
        if (until_ms > x->rest_until_ms) x->rest_until_ms = until_ms;
    } else if (fault == FAULT_NONE || fault == FAULT_CALLER) { /* the host took the key */
        if (tried || fault == FAULT_NONE) x->n_limited = 0;
        if (tried) x->dead_until_ms = x->n_dead = 0;
    }
}

void host_keys_limits(struct host_keys *k, int i, int64_t remaining, int64_t reset_ms, int64_t now_ms)
{
    if (k->n == 0 || remaining > 0 || reset_ms <= 0) return;
    CHECK(i >= 0 && (size_t)i < k->n);
    struct host_key *x = &k->key[i];
    int64_t until_ms = now_ms + (reset_ms < HOST_KEY_HINT_MS ? reset_ms : HOST_KEY_HINT_MS);
    if (until_ms > x->rest_until_ms) x->rest_until_ms = until_ms;
}

void host_keys_revive(struct host_keys *k)
{
    for (size_t i = 0; i < k->n; i++) k->key[i] = (struct host_key){.rest_until_ms = k->key[i].rest_until_ms};
}

const char *host_key_state_name(const struct host_keys *k, int i, int64_t now_ms)
{
    const struct host_key *x = &k->key[i];
    if (x->dead_until_ms) return "dead";
    return x->rest_until_ms > now_ms ? "resting" : "usable";
}
