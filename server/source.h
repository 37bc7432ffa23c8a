/* Source, event, sink: the one interface of the gateway. A source (the local worker, later hosted providers) turns a
 * completion's normalised request into events; a sink turns events into bytes for the client. Any source works with any
 * sink; neither knows the other.
 *
 * A source calls completion_event (completion.h) on the loop's thread: per choice any number of deltas, then one
 * finish; or one error for the whole completion at any time, which ends it. A sink gets the same events plus one usage
 * event after the last finish. */
#ifndef SPILLWAY_SERVER_SOURCE_H
#define SPILLWAY_SERVER_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/frame.h"
#include "server/accounts/usage.h"
#include "server/routing/retry.h"

struct completion;

/* As a client is told: prompt_tokens with what was cached, completion_tokens with reasoning and audio. */
struct usage_told {
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int64_t cache_write_tokens, reasoning_tokens, audio_in_tokens, audio_out_tokens;
    bool has_cost; /* what the account was charged is known */
    int64_t cost_nusd;
    const char *served_by; /* where the header could not say it any more; else NULL */
};

struct event_token {
    const char *bytes; /* may be a part of a character */
    size_t n_bytes;
    float logprob;
};

struct event_logprob {
    struct event_token token;
    const struct event_token *top; /* by falling logprob */
    size_t n_top;
};

/* A piece of a tool call. The first of an index has its id and name; its arguments, JSON text, come in any pieces. */
struct event_tool_call {
    uint32_t index;
    const char *id, *name; /* NULL: told before */
    const char *arguments;
    size_t n_arguments;
    const json_t *extra; /* opaque members that must come back with the call (extra_content.google.thought_signature); NULL: none */
};

/* Members of the upstream's answer that have no place of their own in an event: objects, or NULL. */
struct event_extra {
    const json_t *chunk, *choice, *delta;
};

enum event_type { EVENT_DELTA, EVENT_FINISH, EVENT_USAGE, EVENT_ERROR, EVENT_REASONING, EVENT_TOOL_CALL };

/* Everything pointed to is borrowed for the call. */
struct event {
    enum event_type type;
    uint32_t choice;
    /* EVENT_DELTA, EVENT_REASONING: valid UTF-8, whole characters; may be empty when only logprobs or extra members are told */
    const char *text;
    size_t n_text;
    const struct event_logprob *logprobs;
    size_t n_logprobs;
    struct event_tool_call tool_call; /* EVENT_TOOL_CALL */
    struct event_extra extra;         /* any but EVENT_ERROR */
    enum finish_reason finish;        /* EVENT_FINISH: FINISH_STOP, _LENGTH, _TOOL_CALLS or _CONTENT_FILTER */
    struct usage_told usage;          /* EVENT_USAGE */
    const struct usage *metered;      /* EVENT_USAGE of a hosted provider: what it is billed by; else NULL */
    const struct err *err;            /* EVENT_ERROR */
    enum fault fault;                 /* EVENT_ERROR: whose it is; FAULT_NONE: of nobody whom another attempt could avoid */
    int64_t hint_ms;                  /* EVENT_ERROR: when to try again, as the host said; 0: it did not */
};

struct source_ops {
    const char *name;
    /* Events come later, never inside. On failure nothing was started. */
    int (*start)(struct completion *c, struct err *e);
    /* No event comes after it. Called once for each successful start, also when all choices have finished. */
    void (*stop)(struct completion *c);
};

struct sink_ops {
    const char *name;
    int (*open)(struct completion *c, struct err *e);
    void (*event)(struct completion *c, const struct event *ev);
    void (*comment)(struct completion *c); /* nothing has been sent for a while; NULL: nothing can be */
    /* The whole answer with c->usage in it, made before the usage event, which then sends this very one. NULL (the op, or what it gives): it is not of one
     * piece, or could not be made. */
    const struct buf *(*whole)(struct completion *c);
    void (*close)(struct completion *c);   /* frees its state; called once for each successful open */
};

struct gateway_model;
extern const struct source_ops source_local;  /* source_local.c: a worker of the model */
extern const struct source_ops source_hosted; /* source_hosted.c: a call to a provider */
/* A worker of it is ready (again): what came meanwhile goes in. */
void source_local_ready(struct gateway_model *m);
extern const struct sink_ops sink_chat_json; /* api/sink_chat_json.c: one JSON object */
extern const struct sink_ops sink_chat_sse;  /* api/sink_chat_sse.c: chat.completion.chunk events */

#endif
