/* Completion: one request for text on its way through the gateway, from its body to the last byte of its answer.
 *
 *     reading    a pool thread parses, checks, decodes data: URLs (and makes the prompt if there are no pictures)
 *     fetching   pictures that are named by URLs are fetched, where that is on (completion_fetch.h); then reading goes on
 *     probing    pictures' sizes are asked of a media process, hence tiles and tokens
 *     prompting  a pool thread renders and tokenises
 *     decoding   pictures become tiles
 *     routing    one of those who may answer is chosen (completion_route.h); again when it fails before its first token, or while it waits
 *     reserving  the ledger holds what it may cost (charge.h); without accounts there is none
 *     running    the source makes events, the sink writes them
 *     settling   all events are there; the ledger posts what it came to, then the usage goes out
 *     done       answered, failed or left by the client; freed when nothing of it is under way any more
 *
 * Everything but the pool jobs is on the loop's thread. Memory: one arena a request. */
#ifndef SPILLWAY_SERVER_COMPLETION_H
#define SPILLWAY_SERVER_COMPLETION_H

#include "base/arena.h"
#include "engine/prompt.h"
#include "server/api/chat_params.h"
#include "server/completion_hold.h"
#include "server/completion_repeat.h"
#include "server/gateway.h"
#include "server/hosted_bill.h"
#include "server/source.h"

struct picture {
    struct media_call_state call;
    int bytes_fd;    /* the file's bytes, sealed; -1: none */
    int tiles_fd;    /* -1: not decoded */
    int64_t n_bytes; /* of the file */
    int n_tiles;
    uint8_t (*hash)[MEDIA_HASH_BYTES];
};

struct completion_routing; /* completion_route.c's */

/* Somebody who was chosen. */
struct completion_choice {
    struct hosted_model *hosted; /* NULL: */
    struct gateway_model *local;
    struct hosted_bill *bill; /* of the hosted one */
    int64_t supplier;         /* its account in the ledger; 0: there is none */
    int64_t sale_price, markup; /* once it is granted: rows of the ledger's prices */
    enum ledger_scope scope;    /* and which budgets it counts in */
};

struct completion {
    struct gateway *gateway;
    struct completion *prev, *next; /* of the gateway's list */
    struct http_request *http;      /* NULL: answered or gone */
    struct pool_job job;
    struct loop_call freeing;
    struct arena arena;
    struct limits limits;     /* as they were when it began */
    uint32_t longest_context; /* of all models here */
    struct buf body;
    json_t *request;
    const char *model_name;      /* as the client is told */
    struct completion_routing *routing;
    struct hosted *hosts;        /* that its names were looked up in; held */
    struct hosted_model *hosted; /* who answers; NULL: a local model */
    struct hosted_bill *bill;    /* of it */
    struct hosted_model *wired;  /* whom `wire` is for; NULL: nobody yet */
    struct wire_request wire;
    struct overflow_ticket overflow; /* it stands in for the local model */
    const char *route_text, *route_reason; /* of the last decision, for the client and the ledger; NULL: there was none to make */
    bool route_told;
    const char *told;            /* who the response's header said answers; in the arena */
    int64_t decided_ms;
    enum route_policy policy;    /* of its account, if has_policy */
    bool has_policy;
    uint64_t session;            /* whose requests should stay together (routing/sticky.h); 0: none */
    struct completion_choice chosen, attempts[LEDGER_MAX_ATTEMPTS]; /* who is to be asked; who was, in the order of the ledger's attempts */
    int n_attempts, attempt;     /* attempt: the one that is under way, or was the last */
    int64_t held_nusd, held_tokens;
    struct err local_cannot;     /* code 0: the local model can take it, as far as is known */
    struct err attempt_err;      /* of the attempt that has failed */
    bool dry;                    /* POST /v1/route: only told whom it would go to */
    bool switched;               /* read once more, for the local model that was chosen */
    bool moving;                 /* about to leave a local queue for c->chosen */
    struct loop_timer look;      /* at the queue again; or, to c->chosen, when a host said so */
    int64_t queued_at;           /* the replica's queue.came before this one */
    struct gateway_model *model; /* a local one that was asked for, which has read the prompt; NULL: there is none */
    struct gateway_replica *replica; /* of it: who answers, if it does. NULL: the prompt is not known yet */
    uint32_t max_context; /* the model's, read once */
    int64_t default_max_tokens; /* as it was when it began */
    struct chat_params params;
    struct prompt_messages messages;
    struct picture *pictures;
    struct image_grid *grids;
    size_t n_pictures, n_waiting; /* pictures whose call is under way */
    struct completion_picture *fetches; /* completion_fetch.c's: pictures by URL; n_fetching of them are not there yet */
    size_t n_fetches, n_fetching;
    void (*fetches_done)(struct completion *c, const struct err *why);
    struct prompt prompt;
    struct err err;          /* of the pool job, or the first picture's */
    int retry_after_s;       /* told with an error; 0: the usual */
    struct counts_key owner; /* in the gateway's per_key if is_counted */
    bool is_counted;
    int64_t counted_tokens;    /* in the gateway's n_prompt_tokens */
    int64_t waiting_tokens;    /* in the model's queue, until the first token is there */
    int64_t first_token_ms;    /* when it came; 0: it has not */
    int64_t admitted_ms;       /* when it was counted among the model's sequences; 0: it is not */
    struct loop_timer comment; /* while a stream runs */
    struct loop_timer deadline;
    int64_t deadline_ms;          /* boot clock */
    int64_t account;              /* the key's id; 0: --no-auth */
    int64_t started_ms, event_ms; /* of the source; the last event's time */
    bool reading;                 /* counted in the gateway's n_reading */
    bool in_job, done, freeing_posted, started, opened;
    bool headers_out; /* the sink has begun the response */
    uint64_t seed;
    uint32_t max_tokens;
    char id[40];
    int64_t created_s;
    size_t n_finished;
    struct usage_told usage; /* kept by the source */
    struct ledger_rate rates[LEDGER_RATES]; /* of its reservation, or its refusal */
    struct completion_repeat *repeat; /* its idempotency key; NULL: it has none */
    struct tariff_table *tariffs; /* in force when it came */
    struct completion_hold hold;  /* of a local answer */
    struct charge *charge; /* NULL: no accounts, or it has been ended */
    void (*charged)(struct completion *c, int rc, const struct err *e); /* goes on when the ledger has answered */
    bool settling, settle_waits, failed; /* settle_waits: for an extension of its hold; failed: by a fault of ours */
    const struct source_ops *source;
    const struct sink_ops *sink;
    void *source_state, *sink_state;
};

/* Takes the request over. dry: it is only told whom it would go to. */
void completion_begin(struct gateway *g, struct http_request *r, bool dry);
/* For sinks, before the response's head: who answers, and why. */
void completion_tell_route(struct completion *c);
/* For sources. The completion may be done after an error or the last finish, but is not freed before the loop's next
 * round. */
void completion_event(struct completion *c, const struct event *ev);
/* For sources: a first token is there, so its prompt waits no longer. */
void completion_first_token(struct completion *c);
/* Every completion that is not done, of this model or (NULL) of all, ends with this error. */
void completion_fail_all(struct gateway *g, const struct gateway_model *m, const struct err *e);
/* For sources: another worker of its model than was thought answers it. */
void completion_move(struct completion *c, struct gateway_replica *to);
/* For sources: the pictures' tiles are no longer needed here. */
void completion_close_tiles(struct completion *c);
/* For who has replied in place of the sink. */
void completion_answered(struct completion *c);
/* For sinks: the client does not take its bytes. */
void completion_drop(struct completion *c);

#endif
