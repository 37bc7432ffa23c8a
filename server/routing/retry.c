/* Retry: see retry.h. */
#include "server/routing/retry.h"

#include <stddef.h>
#include <string.h>

enum { TENTHS = 10 };

const struct fault_row fault_rows[FAULTS] = {
    [FAULT_NONE] = {.name = "none"},
    [FAULT_CALLER] = {.name = "caller"},
    [FAULT_UNSUPPORTED] = {.name = "unsupported", .other_host = true},
    [FAULT_KEY] = {.name = "key", .other_key = true, .other_host = true},
    [FAULT_LIMITED] = {.name = "limited", .other_key = true, .other_host = true, .wait = true},
    [FAULT_OVERLOADED] = {.name = "overloaded", .is_hosts = true, .other_host = true, .wait = true},
    [FAULT_BROKEN] = {.name = "broken", .is_hosts = true, .other_host = true},
    [FAULT_CUT] = {.name = "cut", .is_hosts = true},
    [FAULT_LEFT] = {.name = "left"},
};

/* The first row that fits counts. */
static const struct {
    int from, to;
    const char *code; /* NULL: any */
    enum fault fault;
} by_status[] = {
    {0, 0, NULL, FAULT_BROKEN},
    {200, 299, NULL, FAULT_NONE},
    {400, 429, "insufficient_quota", FAULT_KEY},
    {400, 429, "credit_balance_exhausted", FAULT_KEY},
    {400, 429, "billing_hard_limit_reached", FAULT_KEY},
    {400, 499, "invalid_api_key", FAULT_KEY},
    {400, 404, "model_not_found", FAULT_UNSUPPORTED},
    {400, 422, "unsupported_parameter", FAULT_UNSUPPORTED},
    {401, 403, NULL, FAULT_KEY}, /* 402, too */
    {404, 404, NULL, FAULT_UNSUPPORTED},
    {408, 409, NULL, FAULT_BROKEN},
    {412, 412, NULL, FAULT_KEY}, /* Fireworks: the account is suspended */
    {424, 424, NULL, FAULT_BROKEN},
    {425, 425, NULL, FAULT_BROKEN},
    {429, 429, NULL, FAULT_LIMITED},
    {498, 498, NULL, FAULT_OVERLOADED}, /* Groq: no flex capacity */
    {499, 499, NULL, FAULT_LEFT},
    {400, 499, NULL, FAULT_CALLER},
    {503, 503, NULL, FAULT_OVERLOADED},
    {529, 529, NULL, FAULT_OVERLOADED}, /* Anthropic */
    {500, 599, NULL, FAULT_BROKEN},
};

enum fault fault_of(int status, const char *code)
{
    for (size_t i = 0; i < sizeof by_status / sizeof *by_status; i++) {
        if (status < by_status[i].from || status > by_status[i].to) continue;
        if (!by_status[i].code || strcmp(by_status[i].code, code) == 0) return by_status[i].fault;
    }
    return FAULT_BROKEN; /* 1xx, 3xx, or no HTTP at all */
}

/* --- the budget --- */

static bool has_floor(const struct retry_budget *b, int64_t now_ms)
{
    return b->floor_ms == 0 || now_ms - b->floor_ms >= RETRY_FLOOR_MS;
}

bool retry_allowed(const struct retry_budget *b, int64_t now_ms)
{
    return b->tenths >= TENTHS || has_floor(b, now_ms);
}

void retry_take(struct retry_budget *b, int64_t now_ms)
{
    if (b->tenths >= TENTHS)
        b->tenths -= TENTHS;
    else
        b->floor_ms = now_ms ? now_ms : 1;
}

void retry_earn(struct retry_budget *b)
{
    b->tenths += TENTHS * RETRY_SHARE / 100;
    if (b->tenths > RETRY_MOST * TENTHS) b->tenths = RETRY_MOST * TENTHS;
}

/* --- the next step --- */

enum retry_action retry_next(const struct retry_case *r)
{
    const struct fault_row *row = &fault_rows[r->fault];
    if (r->content || r->attempts >= RETRY_ATTEMPTS || r->left_ms <= 0) return RETRY_NO;
    if (row->other_key && r->has_other_key && r->budget) return RETRY_OTHER_KEY;
    if (row->other_host && r->has_other_host) return RETRY_OTHER_HOST;
    if (row->wait && r->hint_ms > 0 && r->hint_ms + r->first_ms < r->left_ms && r->budget) return RETRY_WAIT;
    return RETRY_NO;
}
