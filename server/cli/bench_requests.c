/* bench --requests: JSON lines, one chat request of OpenAI's form each. And how many tokens a request can have: the bound of its cost.
 *
 * A token is at least one byte of text for every tokenizer in use, so bytes bound tokens; to these come what a chat template puts around
 * a message, and pictures by the dearest known rule. What could cost something that cannot be bounded so is refused. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/bench_parts.h"

enum {
    MAX_FILE_BYTES = 256 << 20,
    MAX_REQUESTS = 10000,
    DEFAULT_MAX_TOKENS = 256,
    MAX_MAX_TOKENS = 1 << 20,
    MESSAGE_TOKENS = 64,    /* around a message or a tool */
    TEMPLATE_TOKENS = 1024, /* around all: what hosts say about tools is some hundred */
    PICTURE_TOKENS = 50000, /* OpenAI's gpt-4o-mini at its largest: 2,833 + 8 tiles of 5,667 */
    PICTURE_TOKENS_ABOUT = 800,
    BYTES_A_TOKEN = 4
};

/* Members that only some hosts know, or whose cost no count of tokens bounds. */
static const struct {
    const char *name, *why;
} refused[] = {
    {"provider_options", "is for one provider only, and a comparison asks all the same"},
    {"service_tier", "is not measured: prices of the standard tier are"},
    {"web_search_options", "costs searches, whose number nothing bounds"},
    {"audio", "costs sound, which is not measured"},
};

struct counting {
    size_t bytes;
    size_t n_objects, n_pictures;
    const char *unbounded;
};

static void count(struct counting *c, const json_t *v)
{
    static const struct {
        const char *type, *what;
    } parts[] = {{"input_audio", "sound"}, {"file", "a file"}, {"video_url", "a video"}};
    if (json_is_string(v)) c->bytes += json_string_length(v);
    if (json_is_array(v))
        for (size_t i = 0; i < json_array_size(v); i++) count(c, json_array_get(v, i));
    if (!json_is_object(v)) {
        c->bytes += 24; /* numbers, commas */
        return;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    c->n_objects++;
    for (size_t i = 0; type && i < sizeof parts / sizeof *parts; i++)
        if (strcmp(type, parts[i].type) == 0) c->unbounded = parts[i].what;
    if (json_object_get(v, "image_url")) {
        c->n_pictures++;
        return;
    }
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        c->bytes += strlen(json_object_iter_key(it)) + 4;
        count(c, json_object_iter_value(it));
    }
}

/* The answer's bound: whatever the request calls it. */
static int answer_bound(const json_t *body, int64_t max_tokens, int64_t *out, struct err *e)
{
    static const char *const names[] = {"max_completion_tokens", "max_tokens"};
    *out = max_tokens ? max_tokens : DEFAULT_MAX_TOKENS;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = json_object_get(body, names[i]);
        if (!v || json_is_null(v)) continue;
        if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > MAX_MAX_TOKENS)
            return err_set_param(e, ERR_INPUT, names[i], "%s: must be a whole number from 1 to %d", names[i], MAX_MAX_TOKENS);
        if (!max_tokens) *out = json_integer_value(v);
        return 0;
    }
    return 0;
}

int bench_request_measure(struct bench_request *r, int64_t max_tokens, struct err *e)
{
    static const char *const read[] = {"messages", "tools", "functions", "response_format"};
    struct counting c = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *v = json_object_get(r->body, refused[i].name);
        if (v && !json_is_null(v)) return err_set_param(e, ERR_INPUT, refused[i].name, "%s %s", refused[i].name, refused[i].why);
    }
    const json_t *n = json_object_get(r->body, "n"), *messages = json_object_get(r->body, "messages");
    if (n && !json_is_null(n) && (!json_is_integer(n) || json_integer_value(n) != 1))
        return err_set_param(e, ERR_INPUT, "n", "n: one answer a request is measured");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set_param(e, ERR_INPUT, "messages", "messages: must be a list of messages");
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) {
        const json_t *v = json_object_get(r->body, read[i]);
        if (v) count(&c, v);
    }
    if (c.unbounded) return err_set_param(e, ERR_INPUT, "messages", "messages: %s costs what nothing bounds", c.unbounded);
    r->pictures = c.n_pictures > 0;
    r->in_about = (int64_t)(c.bytes / BYTES_A_TOKEN + c.n_pictures * PICTURE_TOKENS_ABOUT);
    r->in_bound = (int64_t)(c.bytes + c.n_objects * MESSAGE_TOKENS + TEMPLATE_TOKENS + c.n_pictures * PICTURE_TOKENS);
    return answer_bound(r->body, max_tokens, &r->out_bound, e);
}

static int add_line(struct bench_work *w, const char *p, size_t n, size_t line, struct err *e)
{
    if (w->n == MAX_REQUESTS) return err_set(e, ERR_LIMIT, "there are more than %d requests", MAX_REQUESTS);
    struct bench_request r = {0};
    int rc = json_read(p, n, &json_limits_request, "request", &r.body, e);
    if (!rc && !json_is_object(r.body)) rc = err_set(e, ERR_INPUT, "a request is a JSON object");
    if (!rc) rc = bench_request_measure(&r, w->max_tokens, e);
    if (!rc) {
        w->bodies[w->n] = json_incref(r.body);
        w->lines[w->n++] = line;
    }
    bench_request_free(&r);
    return rc;
}

int bench_requests_read(struct bench_work *w, const char *file, struct err *e)
{
    struct buf b;
    buf_init(&b, MAX_FILE_BYTES);
    int rc = buf_read_file(&b, file, e);
    w->bodies = calloc(MAX_REQUESTS, sizeof *w->bodies);
    w->lines = calloc(MAX_REQUESTS, sizeof *w->lines);
    if (!rc && (!w->bodies || !w->lines)) rc = err_set(e, ERR_MEMORY, "out of memory");
    const char *p = b.data, *end = b.data ? b.data + b.len : NULL;
    for (size_t line = 1; !rc && p < end; line++) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        size_t n = lf ? (size_t)(lf - p) : (size_t)(end - p), blanks = 0;
        while (blanks < n && (p[blanks] == ' ' || p[blanks] == '\t' || p[blanks] == '\r')) blanks++;
        if (blanks < n) {
            rc = add_line(w, p, n, line, e);
            if (rc) rc = err_prefix(e, "%s:%zu", file, line);
        }
        p += n + (lf != NULL);
    }
    if (!rc && w->n == 0) rc = err_set(e, ERR_INPUT, "%s: there is no request in it", file);
    buf_free(&b);
    return rc;
}
