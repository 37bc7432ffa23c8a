/* Prompt: from OpenAI messages (or a trusted, rendered text) to the token ids a worker takes. Used by the gateway and
 * the command line.
 *
 * A prompt_model is what prompts need of a model folder: tokenizer, chat template, picture settings, end-of-sequence
 * ids, sampling defaults. It is immutable after opening and may be used by many threads. A request goes through three
 * calls, so that pictures can be probed in between without blocking:
 * - prompt_messages_read validates `messages` and lists the pictures in prompt order (their data: URLs are not read);
 * - the caller decodes the URLs and probes the pictures: one struct image_grid a picture;
 * - prompt_from_messages: template, picture expansion, ids.
 *
 * Text provenance holds throughout: what a request says never becomes a control token or a placeholder. No pixel, no
 * weight and no socket is touched here. */
#ifndef SPILLWAY_ENGINE_PROMPT_H
#define SPILLWAY_ENGINE_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/media/image.h"
#include "engine/text/marked_text.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"

enum { PROMPT_MAX_MESSAGES = 2048, PROMPT_MAX_IMAGES = 20, PROMPT_MAX_KWARGS = 64, PROMPT_BYTES_PER_TOKEN = 8 };

/* generation_config.json; what it does not say is "off". Holds where the request is silent. */
struct prompt_defaults {
    float temperature;        /* 1 */
    float top_p;              /* 1 */
    float min_p;              /* 0 */
    int32_t top_k;            /* 0 */
    float repetition_penalty; /* 1 */
};

/* Read-only view; everything is borrowed until prompt_model_close. */
struct prompt_info {
    const struct tokenizer *tokenizer;
    bool has_template;            /* false: chat is refused */
    bool has_images;              /* false: picture parts are refused */
    struct image_settings images; /* has_images only */
    int32_t image_token;          /* -1: none */
    uint32_t vocab;               /* rows of the LM head: ids of a request must lie below */
    uint32_t max_context;         /* the model's own; a worker's hello may say less */
    const int32_t *eos;           /* for frame_submit.eos */
    uint32_t n_eos;
    const int32_t *banned; /* for frame_submit.banned: the image token and other media placeholders */
    uint32_t n_banned;
    struct prompt_defaults defaults;
};

struct prompt_model;
/* dir: a model folder. Errors name the file and the field. A folder without a chat template opens; without
 * tokenizer.json it does not. */
MUST_USE int prompt_model_open(struct prompt_model **out, const char *dir, struct err *e);
void prompt_model_close(struct prompt_model *m); /* accepts NULL */
const struct prompt_info *prompt_model_info(const struct prompt_model *m);

/* One picture of the messages, in prompt order. */
struct prompt_image {
    const char *url; /* as the request spells it; NULL for a bare {"type":"image"}. Borrowed from the request's JSON */
    size_t n_url;
    bool detail_low; /* "low"; "high" and "auto" (and nothing) are false */
    char param[96];  /* "messages[0].content[1].image_url.url": for errors about it */
};

struct prompt_messages {
    json_t *messages; /* for the template; a new reference, released by prompt_messages_free */
    const struct prompt_image *images;
    size_t n_images;
};

enum prompt_messages_flags {
    PROMPT_BARE_IMAGES = 1, /* {"type":"image"} without a URL is allowed: the command line fills it from --image */
};
struct prompt_bounds {
    size_t messages, images; /* images: at most PROMPT_MAX_IMAGES */
};
/* Checks roles, contents and parts, naming the field at fault in e->param ("messages[2].content[0].type"), and turns
 * contents into the form the model's template takes (string or list of parts, found out by rendering a probe when the
 * model was opened). `developer` becomes `system`. messages == NULL: "messages" is missing. Errors: -ERR_INPUT;
 * -ERR_UNSUPPORTED (no chat template, pictures for a text model, audio, video, file parts: 400 all the same);
 * -ERR_LIMIT. bounds NULL: PROMPT_MAX_MESSAGES and PROMPT_MAX_IMAGES, counted before anything else is done. images live in the arena, their URLs in the request's JSON. */
MUST_USE int prompt_messages_read(const struct prompt_model *m, const json_t *messages, unsigned flags, const struct prompt_bounds *bounds,
                                  struct arena *arena, struct prompt_messages *out, struct err *e);
void prompt_messages_free(struct prompt_messages *p); /* accepts a zeroed struct */

struct prompt_options {
    const struct image_grid *grids; /* one a picture */
    size_t n_grids;
    const json_t *kwargs; /* chat_template_kwargs: an object, or NULL; names of ours in it (messages,
                             add_generation_prompt, bos_token ...) are refused */
    struct tm now;        /* local time, for strftime_now */
    uint32_t max_context; /* a prompt with no room for one more token: -ERR_CONTEXT with both numbers. More than PROMPT_BYTES_PER_TOKEN
                             bytes of the request's text a token of it are not tokenised, but refused. 0: no limit */
    const struct template_limits *template_limits; /* NULL: template_limits_default */
};

/* Everything lives in the arena. */
struct prompt {
    struct marked_text text; /* rendered and expanded */
    const int32_t *ids;
    size_t n_ids;
    size_t n_tiles; /* of all pictures: ids holds image_token n_tiles * tokens_per_tile times, in tile order */
};
MUST_USE int prompt_from_messages(const struct prompt_model *m, const struct prompt_messages *messages, const struct prompt_options *o,
                                  struct arena *arena, struct prompt *out, struct err *e);
/* A rendered prompt. `text.marks` NULL: trusted, every byte may be part of a control token, and each literal <image>
 * stands for a picture. add_special runs the tokenizer's post-processor (BOS), as for base completions; chat text has
 * its own and does without. */
MUST_USE int prompt_from_text(const struct prompt_model *m, struct marked_text text, bool add_special, const struct prompt_options *o,
                              struct arena *arena, struct prompt *out, struct err *e);

#endif
