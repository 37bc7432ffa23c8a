/* Wires: how a request of OpenAI's chat form becomes bytes for a host, and how the bytes of its answer become events.
 *
 * A wire has no socket and no clock: encode is a function of the request, a decoder of the bytes, however they are cut. What a request
 * says is passed, renamed, translated or refused by one table (params.c): nothing that would change the answer is dropped. What an answer
 * says and we have no place for is kept in the events' extra members.
 *
 * A decoder knows a whole answer from a cut one. It gives DELTA, REASONING and TOOL_CALL events as they come, a USAGE event for each usage
 * object (each replaces the one before), and the FINISH events only when the answer has proved whole: an answer that was cut never looks
 * like one that ended. Lines are bounded by SSE_MAX_LINE_BYTES, what is held by decoder_limits. */
#ifndef SPILLWAY_SERVER_PROVIDERS_WIRE_H
#define SPILLWAY_SERVER_PROVIDERS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "server/providers/provider.h"
#include "server/providers/provider_error.h"
#include "server/accounts/usage.h"
#include "server/source.h"

enum {
    WIRE_MAX_PATH_BYTES = 1024,
    WIRE_MAX_MODEL_BYTES = 256,
    WIRE_MAX_HEADERS = 4,
    WIRE_MAX_HEADER_BYTES = 256,
    WIRE_MAX_BODY_BYTES = 96 << 20,
    WIRE_MAX_CHOICES = 8,
    WIRE_MAX_TOOL_CALLS = 128,
    WIRE_MAX_USAGE_BYTES = 8 << 10,
    WIRE_MAX_ID_BYTES = 128,
};

/* --- requests --- */

struct wire_options {
    const char *model;      /* the host's own id */
    int64_t max_tokens;     /* sent upstream in place of the request's; > 0 */
    bool adaptive_thinking; /* Anthropic: the model takes an effort, not a budget; its configuration says so */
};

struct wire_request {
    char path[WIRE_MAX_PATH_BYTES];                        /* after the host's base_url */
    char headers[WIRE_MAX_HEADERS][WIRE_MAX_HEADER_BYTES]; /* the wire's own, "name: value"; no key, no host's headers */
    size_t n_headers;
    struct buf body;
    uint32_t n_choices;
};

/* request: the client's body, already strict JSON with `model` and `messages`. -ERR_INPUT, -ERR_UNSUPPORTED: e->param names the member;
 * -ERR_LIMIT, -ERR_MEMORY. Always asks for a stream with usage. On failure *out holds nothing. */
MUST_USE int wire_encode(const struct provider_host *h, const json_t *request, const struct wire_options *o, struct wire_request *out,
                         struct err *e);
void wire_request_free(struct wire_request *r); /* accepts a zeroed struct */

const char *provider_wire_name(const struct provider *p);

/* --- usage --- */

/* Reads one usage object of OpenAI's form by the row's flags; of Anthropic's; Gemini's usageMetadata. */
void usage_read_openai(struct usage *u, const struct provider *p, const json_t *usage);
void usage_read_anthropic(struct usage *u, const json_t *usage);
void usage_read_gemini(struct usage *u, const json_t *usage);
/* What a client is told of it. */
void usage_tell(struct usage_told *out, const struct usage *u);
bool usage_is_zero(const struct usage *u);

/* --- answers --- */

struct decoder_limits {
    size_t max_bytes;      /* of a whole answer */
    size_t max_json_bytes; /* of an answer that is no stream */
};
extern const struct decoder_limits decoder_limits_usual; /* 256 MB, 16 MB */

/* Not 0: reading stops with that code. */
typedef int decoder_event_fn(void *ctx, const struct event *ev);

struct decoder;
MUST_USE int decoder_new(struct decoder **out, const struct provider_host *h, uint32_t n_choices, const struct decoder_limits *limits,
                         decoder_event_fn *event, void *ctx, struct err *e);
void decoder_free(struct decoder *d); /* accepts NULL */
/* Bytes of a 200's body in any pieces. 0; -ERR_INPUT: malformed, or no answer at all (HTML); -ERR_LIMIT; -ERR_MEMORY; -ERR_GONE: the
 * host told an error, see decoder_error; or what event returned. After a failure only decoder_* readers and decoder_free. */
MUST_USE int decoder_feed(struct decoder *d, const char *p, size_t n, struct err *e);
/* The body ended. 0: the answer is whole and its FINISH events have been given; -ERR_GONE: it was cut; else as decoder_feed. */
MUST_USE int decoder_end(struct decoder *d, struct err *e);
/* The answer's own end has been seen ([DONE], message_stop): nothing more is to come. Gemini's is the end of the body. */
bool decoder_is_complete(const struct decoder *d);
/* A text, reasoning or tool call was among the events: another host may no longer be asked. */
bool decoder_has_content(const struct decoder *d);
/* The error that the host told within its 200; NULL: none. */
const struct provider_error *decoder_error(const struct decoder *d);
/* The last usage that counts; NULL: none was told. */
const struct usage *decoder_usage(const struct decoder *d);
const char *decoder_usage_raw(const struct decoder *d); /* its JSON, "" if none or longer than WIRE_MAX_USAGE_BYTES */
uint32_t decoder_n_usage(const struct decoder *d);
const char *decoder_id(const struct decoder *d);    /* of the answer, as the host calls it; "" */
const char *decoder_model(const struct decoder *d); /* the model that the host says has answered; "" */

#endif
