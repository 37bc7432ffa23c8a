/* Decide: which candidate serves a request, and why each of the others does not. The heart of routing (docs/routing.md).
 *
 *     filters     what a candidate can never do, may not do, or cannot do now (decide_filter.c, one table)
 *     order       by the policy (decide_order.c, one table)
 *     escape      run now -> queue while the first token is predicted within the model's target -> overflow if allowed and affordable ->
 *                 queue while it is within the deadline -> 429 with Retry-After
 *
 * route_decide only reads; route_commit writes what follows from it. So POST /v1/route is a route_decide without a route_commit, and the
 * same arguments give the same decision: nothing here has a clock, chance or memory of its own. No allocation, no network, no database.
 * Loop's thread.
 *
 * How it is called: name_parse -> a candidate for each wanted route (route_candidate_init, then the figures of breaker.h, host_keys.h,
 * retry.h, speed.h, the price book, admission.h) -> route_decide -> route_commit -> the holds of the ledger -> breaker_begin,
 * host_keys_begin. docs/routing.md, "For developers", has each call with its moment. */
#ifndef SPILLWAY_SERVER_ROUTING_DECIDE_H
#define SPILLWAY_SERVER_ROUTING_DECIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "server/routing/breaker.h"
#include "server/routing/name.h"
#include "server/routing/overflow.h"
#include "server/routing/reason.h"
#include "server/routing/retry.h"
#include "server/routing/speed.h"

enum { ROUTE_BACK_PER_CENT = 70, ROUTE_MARGIN_PER_CENT = 20, ROUTE_MARGIN_MS = 250, ROUTE_RETRY_MAX_S = 60 };

/* What a model can do and a request needs. */
enum route_can {
    ROUTE_CAN_VISION = 1 << 0,
    ROUTE_CAN_TOOLS = 1 << 1,
    ROUTE_CAN_SCHEMA = 1 << 2,
    ROUTE_CAN_LOGPROBS = 1 << 3,
    ROUTE_CAN_N = 1 << 4,
    ROUTE_CAN_REASONING = 1 << 5,
    ROUTE_CAN_SEED = 1 << 6,
    ROUTE_CAN_CACHE = 1 << 7 /* prompt caching; never needed */
};
struct route_can_row {
    enum route_can bit;
    const char *name, *param, *words; /* the request's field; "take pictures" */
};
extern const struct route_can_row route_can_rows[];
extern const size_t n_route_can_rows;

enum route_local_state { ROUTE_LOCAL_READY, ROUTE_LOCAL_DOWN }; /* DOWN: no worker is ready, whatever the reason */

struct route_candidate {
    struct name_route want;
    const char *host; /* "local", or the host's name; borrowed, like model and region_name */
    const char *model;
    unsigned i_host, region; /* for masks; region 0: not known */
    const char *region_name; /* NULL: not known */
    uint32_t can;
    int64_t context, max_output; /* tokens; max_output 0: as long as the context */
    bool zero_retention;
    bool model_denied; /* the account's list of models leaves it out */
    bool tried;        /* by this request, without success */
    bool cannot;       /* was seen to have no word for something that is asked */
    /* money: 0 is a price, too */
    bool has_price;
    int64_t in_nusd, out_nusd; /* per 1,000,000 tokens */
    int64_t hold_nusd;         /* the most that this request can cost there */
    int64_t cost_nusd;         /* what it is expected to cost */
    int64_t cost_cached_nusd;  /* the same if the session's prompt is in the host's cache */
    /* hosted: as of now */
    enum breaker_verdict breaker;
    int64_t breaker_wait_ms;
    bool has_key;
    int64_t key_wait_ms;
    bool retry_allowed;
    struct speed_now speed; /* for a local model token_us only */
    /* local: as of now, of the worker that route.c would choose */
    enum route_local_state local;
    bool free_now;     /* nothing waits there and it has room: it is read at once */
    bool full;         /* admission_check_prompt would refuse it, but for the deadline */
    int64_t wait_ms;   /* until it begins to be read; of a request that waits there: from now */
    int64_t prompt_ms; /* then until its first token */
    int64_t load_ms;   /* until the first token of a usual prompt that came now: the model's hysteresis goes by it */
    int64_t target_ms; /* of the first token; 0: none, it is never above it */
};

struct route_wish {
    uint32_t needs; /* bits of enum route_can */
    int64_t prompt_tokens, min_tokens;
    int64_t expected_tokens; /* of the answer, to compare times; 0: only first tokens are compared */
    int64_t left_ms;         /* until the deadline */
    uint64_t draw;           /* random, once a request: weights, probes, spread of Retry-After */
    unsigned attempts;       /* that have begun and failed */
    bool counted;            /* it has had a route_commit: it is one request, however often it is decided */
    /* what the key, its project and the request's own headers allow, all of them together */
    bool local_only, zero_retention;
    uint64_t hosts, regions; /* bit i allowed; ~0: all */
    struct route_price_cap price;
    int64_t left_nusd, hosted_left_nusd;     /* of all budgets, of those for hosted models; INT64_MAX: none */
    int64_t unheld_nusd, hosted_unheld_nusd; /* the same if every hold came back unused */
    struct overflow_who key, project;        /* id and limits on overflow */
    int64_t hour;                            /* the ledger's: hours since 1970, UTC */
    int sticky;                              /* hosted model's number, or -1 */
};

/* Whether a local model is beyond its target. Zeroed is a good start. */
struct route_spill {
    bool on;
    uint64_t n_switches;
};

struct route_state {
    struct route_spill spill[NAME_MAX_LOCALS]; /* by the local model's number */
    struct overflow *overflow;
    uint64_t n_by_reason[ROUTE_REASONS]; /* of decisions that were committed */
};

enum route_action {
    ROUTE_RUN,   /* it begins at once: hosted, or a local model with room */
    ROUTE_ENTER, /* into the local model's queue */
    ROUTE_STAY,  /* route_again: where it is */
    ROUTE_REFUSE
};

struct route_decision {
    enum route_action action;
    int chosen;                                /* -1: refused */
    enum route_reason reason;                  /* why it is served there; why it is refused */
    bool overflow;                             /* a hosted model stands in: bounded by overflow.h */
    bool probe;                                /* of speed: speed_probed */
    bool again;                                /* made by route_again */
    int64_t local_ms;                          /* overflow: predicted first token of the local model; -1: none could */
    enum route_reason passed[NAME_MAX_ROUTES]; /* for each candidate; ROUTE_CHOSEN for the one */
    bool spills[NAME_MAX_ROUTES];              /* for each local candidate: its hysteresis now */
    int64_t bound_ms[NAME_MAX_ROUTES];         /* and what its first token must not exceed: its target, or once it spills less */
    /* ROUTE_REFUSE */
    int status;
    const char *code;
    int retry_after_s; /* 0: none */
    struct err err;
};

/* want, host, model, i_host; the rest is as restrictive as it can be (no key, no price, down). */
void route_candidate_init(struct route_candidate *c, const struct name_catalogue *cat, const struct name_route *r);
void route_wish_init(struct route_wish *w);                  /* nothing needed, nothing restricted, no overflow */
int64_t route_predicted_ms(const struct route_candidate *c); /* local: until the first token */

/* n candidates in the order of the wanted routes, NAME_MAX_ROUTES at most. 0, or -d->err.code when it is refused. */
MUST_USE int route_decide(const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_state *s,
                          struct route_decision *d);
/* A request that waits in the queue of local candidate `at`, before its first token: ROUTE_STAY, or ROUTE_RUN elsewhere if that is
 * predicted to be sooner by ROUTE_MARGIN_PER_CENT of what is left to wait and ROUTE_MARGIN_MS, or if it would be too late here. Never
 * refuses. Must not be called after the first token. */
void route_again(const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_state *s, size_t at,
                 struct route_decision *d);
/* What follows from it: hysteresis, counts, the hold of an overflow (t, open until overflow_settle; untouched otherwise). A refusal, too.
 * At once after the decision, before anything that takes time, as the next decision counts on it; if then the ledger refuses,
 * overflow_settle with 0 and decide again. */
void route_commit(struct route_state *s, const struct route_candidate *c, size_t n, const struct route_wish *w,
                  const struct route_decision *d, struct overflow_ticket *t);

#endif
