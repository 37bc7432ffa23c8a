/* Reasons: see reason.h. */
#include "server/routing/reason.h"

#define BUSY 429, "queue_full", ERR_BUSY, true
#define DOWN 503, "worker_down", ERR_GONE, true
#define DENIED 403, "permission_denied", ERR_DENIED, false
#define BUDGET 402, "budget_exhausted", ERR_BUDGET, false
#define NEVER 0, 0, "", ERR_NONE, false

const struct route_reason_row route_reasons[ROUTE_REASONS] = {
    [ROUTE_LATER] = {"later", "was not needed", NEVER},
    [ROUTE_CHOSEN] = {"chosen", "serves it", NEVER},
    [ROUTE_LOCAL_OK] = {"local_ok", "is local and begins in time", NEVER},
    [ROUTE_BY_POLICY] = {"policy", "is first by name or policy", NEVER},
    [ROUTE_WAITS] = {"waits", "takes longer than its target, but nothing else may take it", NEVER},
    [ROUTE_ATTEMPTS] = {"attempts", "is not asked: all attempts are spent", 22, DOWN},
    [ROUTE_TRIED] = {"tried", "has failed this request", 65, DOWN},
    [ROUTE_LOCAL_ONLY] = {"local_only", "is hosted, and this request must stay on local models", 20, DENIED},
    [ROUTE_MODEL] = {"model", "is not among this account's models", 24, DENIED},
    [ROUTE_PROVIDER] = {"provider", "is at a provider that is not allowed", 26, DENIED},
    [ROUTE_REGION] = {"region", "is in a region that is not allowed", 28, DENIED},
    [ROUTE_RETENTION] = {"retention", "is not known to retain nothing", 30, DENIED},
    [ROUTE_CAPABILITY] = {"capability", "cannot do what is asked", 35, 400, "unsupported_parameter", ERR_UNSUPPORTED, false},
    [ROUTE_CONTEXT] = {"context", "has too short a context", 40, 400, "context_length_exceeded", ERR_CONTEXT, false},
    [ROUTE_PRICE_UNKNOWN] = {"price_unknown", "has no known price", 45, 400, "price_unknown", ERR_PRICE, false},
    [ROUTE_PRICE] = {"price", "costs more than allowed", 50, BUDGET},
    [ROUTE_OVERFLOW_OFF] = {"overflow_off", "may not stand in: overflow is not configured", 10, BUDGET},
    [ROUTE_BUDGET] = {"budget", "is beyond what the budget has left", 60, BUDGET},
    [ROUTE_HELD] = {"held", "is beyond what requests under way have left of the budget", 62, 429, "budget_held", ERR_HELD, true},
    [ROUTE_RESERVE] = {"reserve", "takes over only when the hosted budget has ended", NEVER},
    [ROUTE_DOWN] = {"down", "is not running", 80, DOWN},
    [ROUTE_KEY] = {"key", "has no usable key", 75, DOWN},
    [ROUTE_BREAKER] = {"breaker", "has failed too often and is left alone for a while", 70, DOWN},
    [ROUTE_RETRY] = {"retry", "has no retries left in its budget", 64, DOWN},
    [ROUTE_CAP] = {"cap", "has no room under the hour's cap on overflow", 58, 429, "rate_limit_exceeded", ERR_RATE, true},
    [ROUTE_SHARE] = {"share", "has had its share of requests as overflow", 57, 429, "rate_limit_exceeded", ERR_RATE, true},
    [ROUTE_DEADLINE] = {"deadline", "would not begin before the request's time is up", 90, BUSY},
    [ROUTE_FULL] = {"full", "has a full queue", 92, BUSY},
    [ROUTE_QUEUE] = {"queue", "takes longer than its target", 91, BUSY},
    [ROUTE_SLOWER] = {"slower", "would begin no sooner than the local model", 15, BUSY},
};
