/* Chat parameters: every member of a chat completion request but `model` and `messages`, read and checked by one table.
 *
 * What a request may say is a row each: sampling and shape of the answer (read), harmless (ignored), and what would
 * change the answer but is not there (refused by name, unless its value asks for nothing). A name that is in no row is
 * refused too: a typing mistake must not pass silently. Errors name the member in e->param: -ERR_INPUT for a wrong type
 * or range, -ERR_UNSUPPORTED for what is not there. */
#ifndef SPILLWAY_SERVER_API_CHAT_PARAMS_H
#define SPILLWAY_SERVER_API_CHAT_PARAMS_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/frame.h"
#include "engine/prompt.h"
#include "server/limits.h"
#include "server/stop_match.h"

enum { CHAT_MAX_CHOICES = 8, CHAT_MAX_BIAS = 1024 };
enum { CHAT_MAX_TAGS = 16, CHAT_MAX_TAG_CHARS = 64, CHAT_MAX_VALUE_CHARS = 512 /* of metadata */ };

struct chat_params {
    double temperature, top_p, min_p, frequency_penalty, presence_penalty, repetition_penalty;
    int64_t top_k, seed, n, max_tokens, max_completion_tokens, min_tokens, top_logprobs; /* max_*: 0: not given; seed: see has_seed */
    bool has_seed, stream, include_usage, logprobs, ignore_eos;
    struct stop_string stops[STOP_MAX_STRINGS]; /* borrowed from the request */
    size_t n_stops;
    const struct frame_bias *bias; /* in the arena */
    uint32_t n_bias;
    const json_t *kwargs; /* chat_template_kwargs; borrowed from the request */
    const json_t *metadata; /* an object of strings: the tags that its usage is summed by; borrowed from the request; NULL: none */
};

/* What holds where the request is silent comes from the model; vocab bounds logit_bias. */
MUST_USE int chat_params_read(struct chat_params *p, const json_t *request, const struct prompt_info *model, struct arena *arena,
                              struct err *e);

/* For a hosted model: only what we need to know ourselves (how the answer is written, how long it may be, how many). The rest is for the wire to
 * pass, translate or refuse. */
MUST_USE int chat_params_read_hosted(struct chat_params *p, const json_t *request, struct err *e);

/* What the operator allows less of than the table: stop strings, n, top_logprobs. -ERR_LIMIT names the member. */
MUST_USE int chat_params_check(const struct chat_params *p, const struct limits *limits, struct err *e);

/* The table's numeric rows, for tests that generate bad values for each. */
struct chat_number {
    const char *name;
    bool whole;
    double min, max; /* seed: all of int64, which a double rounds */
};
size_t chat_params_numbers(struct chat_number *out, size_t cap);

#endif
