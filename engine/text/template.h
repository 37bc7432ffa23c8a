/* Chat templates: an interpreter for the Jinja that model templates use, rendering as jinja2 3.1 does in transformers' sandbox
 * (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loopcontrols, {% generation %}).
 *
 * A template is compiled once from a model's file (never from a request) and rendered per request; a compiled template is
 * immutable and may be used by many threads. Every output byte carries its provenance (marked_text.h). Rendering is bounded by fuel, depth
 * and output size. Errors name the template's line; a language feature that is not there is named ("template line 12: filter
 * 'xmlattr' is not supported"). raise_exception gives -ERR_INPUT with the template's own message. */
#ifndef SPILLWAY_ENGINE_TEXT_TEMPLATE_H
#define SPILLWAY_ENGINE_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/text/marked_text.h"

struct template;

MUST_USE int template_compile(struct template **out, const char *source, size_t n, struct err *e);
void template_free(struct template *t); /* accepts NULL */

struct template_limits {
    size_t fuel;              /* interpreter steps; default 1,000,000 */
    unsigned depth;           /* nesting of calls, loops and values; default 64 */
    size_t max_output_bytes;  /* 0: 4 x the bytes of the inputs + more_output_bytes */
    size_t more_output_bytes; /* 0: 64 KiB */
};
extern const struct template_limits template_limits_default;

struct template_input {
    /* JSON object: the request's variables by name (messages, tools, documents, kwargs ...): its strings are request bytes.
     * `tools` and `documents` are always defined, None when absent. */
    const json_t *request;
    /* JSON object: variables of the server and the model (add_generation_prompt, bos_token, ...): template bytes. May be NULL.
     * A name in both is taken from `model`. */
    const json_t *model;
    struct tm now; /* local time, for strftime_now */
    const struct template_limits *limits;
};
/* *out lives in the arena. Errors: -ERR_INPUT (the template raised, or a value does not fit), -ERR_LIMIT, -ERR_UNSUPPORTED, -ERR_MEMORY. */
MUST_USE int template_render(const struct template *t, const struct template_input *in, struct arena *arena, struct marked_text *out,
                             struct err *e);

#endif
