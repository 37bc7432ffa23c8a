/* Chat JSON sink: one chat.completion object when the last choice has finished. Nothing is sent before, so an error is
 * a plain HTTP error.
 *
 * Text is escaped as it comes, into the very buffer that becomes the answer (choice 0's) or is appended to it; all of them together have a ceiling,
 * and an answer that meets it ends there and then. */
#include "server/api/chat_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "server/api/chat_extra.h"

enum { ANSWER_MAX_BYTES = 128 << 20, MAX_TOOL_CALLS = 128 };

struct chat_json_call {
    char *id, *name;
    struct buf arguments; /* escaped */
    json_t *extra;
};

struct chat_json_choice {
    struct buf text; /* the choice's object up to its content, whose string is open once has_text; choice 0: and all before it */
    bool has_text;
    struct buf logprobs, reasoning; /* reasoning escaped */
    struct chat_json_call *calls;
    uint32_t n_calls;
    json_t *message_extra, *choice_extra;
    size_t extra_bytes;
    bool no_memory; /* for what is no buffer */
    enum finish_reason finish;
};

struct chat_json {
    struct chat_json_choice choices[CHAT_MAX_CHOICES];
    json_t *extra; /* of the whole answer */
    bool is_whole; /* choice 0's text is the whole answer */
};

static int json_sink_open(struct completion *c, struct err *e)
{
    struct chat_json *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < CHAT_MAX_CHOICES; i++) {
        struct buf *b = &s->choices[i].text;
        buf_init(b, ANSWER_MAX_BYTES);
        buf_init(&s->choices[i].logprobs, ANSWER_MAX_BYTES);
        buf_init(&s->choices[i].reasoning, ANSWER_MAX_BYTES);
        if (i >= (uint32_t)c->params.n) continue;
        if (i == 0) {
            chat_write_head(b, c, "chat.completion");
            buf_puts(b, ",\"choices\":[");
        }
        buf_printf(b, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\"", i ? "," : "", i);
    }
    return 0;
}

static void count_buf(const struct buf *b, size_t *n, bool *memory, bool *fits)
{
    *n += b->len;
    *memory &= b->failed != -ERR_MEMORY;
    *fits &= !b->failed;
}

/* Ends the completion with an error if the answer is too long or could not be kept. */
static bool answer_fits(struct completion *c)
{
    const struct chat_json *s = c->sink_state;
    size_t n = 0;
    bool memory = true, fits = true;
    for (int64_t i = 0; i < c->params.n; i++) {
        const struct chat_json_choice *ch = &s->choices[i];
        count_buf(&ch->text, &n, &memory, &fits);
        count_buf(&ch->logprobs, &n, &memory, &fits);
        count_buf(&ch->reasoning, &n, &memory, &fits);
        for (uint32_t k = 0; k < ch->n_calls; k++) count_buf(&ch->calls[k].arguments, &n, &memory, &fits);
        n += ch->extra_bytes;
        memory &= !ch->no_memory;
        fits &= !ch->no_memory;
    }
    if (fits && n <= ANSWER_MAX_BYTES) return true;
    struct err e;
    if (memory)
        err_set(&e, ERR_LIMIT, "The answer has more than %d bytes: ask for a stream, for fewer tokens or for fewer logprobs.",
                ANSWER_MAX_BYTES);
    else
        err_set(&e, ERR_MEMORY, "The server is out of memory: try again.");
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
    return false;
}

static void write_call(struct buf *b, const struct chat_json_call *call)
{
    static const char *const taken[] = {"id", "type", "function", "index", NULL};
    buf_puts(b, "{\"id\":");
    json_write_string(b, call->id ? call->id : "", call->id ? strlen(call->id) : 0);
    buf_puts(b, ",\"type\":\"function\",\"function\":{\"name\":");
    json_write_string(b, call->name ? call->name : "", call->name ? strlen(call->name) : 0);
    buf_puts(b, ",\"arguments\":\"");
    buf_append(b, call->arguments.data, call->arguments.len);
    buf_puts(b, "\"}");
    chat_extra_write(b, call->extra, taken);
    buf_putc(b, '}');
}

/* What follows the content. */
static void write_rest_of_message(struct buf *b, const struct chat_json_choice *ch)
{
    const json_t *refusal = json_object_get(ch->message_extra, "refusal");
    buf_puts(b, ",\"refusal\":");
    if (json_is_string(refusal))
        json_write(b, refusal);
    else
        buf_puts(b, "null");
    if (ch->reasoning.len) {
        buf_puts(b, ",\"reasoning_content\":\"");
        buf_append(b, ch->reasoning.data, ch->reasoning.len);
        buf_putc(b, '"');
    }
    for (uint32_t k = 0; k < ch->n_calls; k++) {
        buf_puts(b, k ? "," : ",\"tool_calls\":[");
        write_call(b, &ch->calls[k]);
    }
    if (ch->n_calls) buf_putc(b, ']');
    chat_extra_write(b, ch->message_extra, chat_message_names);
}

/* Closes choice i and appends it to b, which for choice 0 is its own buffer. */
static void close_choice(struct buf *b, const struct completion *c, struct chat_json_choice *ch, uint32_t i)
{
    if (i) buf_append(b, ch->text.data, ch->text.len);
    buf_puts(b, ch->has_text ? "\"" : ch->n_calls ? ",\"content\":null" : ",\"content\":\"\"");
    write_rest_of_message(b, ch);
    buf_puts(b, "},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(b, "{\"content\":[");
        buf_append(b, ch->logprobs.data, ch->logprobs.len);
        buf_puts(b, "],\"refusal\":null}");
    } else
        buf_puts(b, "null");
    buf_printf(b, ",\"finish_reason\":\"%s\"", chat_finish_name(ch->finish));
    chat_extra_write(b, ch->choice_extra, chat_choice_names);
    buf_putc(b, '}');
    if (i) buf_free(&ch->text);
    buf_free(&ch->logprobs);
    buf_free(&ch->reasoning);
}

static const struct buf *make_whole(struct completion *c, const struct usage_told *u)
{
    struct chat_json *s = c->sink_state;
    struct buf *b = &s->choices[0].text;
    if (s->is_whole) return b;
    s->is_whole = true;
    b->max = 2 * (size_t)ANSWER_MAX_BYTES; /* what was counted, and a little around it */
    for (uint32_t i = 0; i < (uint32_t)c->params.n; i++) close_choice(b, c, &s->choices[i], i);
    buf_puts(b, "],\"usage\":");
    chat_write_usage(b, u);
    const json_t *fingerprint = json_object_get(s->extra, "system_fingerprint");
    buf_puts(b, ",\"system_fingerprint\":");
    if (json_is_string(fingerprint))
        json_write(b, fingerprint);
    else
        buf_puts(b, "null");
    chat_extra_write(b, s->extra, chat_chunk_names);
    buf_putc(b, '}');
    return b;
}

static const struct buf *json_sink_whole(struct completion *c)
{
    const struct buf *b = make_whole(c, &c->usage);
    return b->failed ? NULL : b;
}

static void reply(struct completion *c, const struct usage_told *u)
{
    const struct buf *b = make_whole(c, u);
    if (!answer_fits(c)) return;
    completion_tell_route(c);
    http_reply(c->http, 200, "application/json", b->data, b->len);
}

static void take_text(struct completion *c, struct chat_json_choice *ch, const struct event *ev)
{
    if (!ch->has_text && (ev->n_text || ev->n_logprobs)) {
        ch->has_text = true;
        buf_puts(&ch->text, ",\"content\":\"");
    }
    json_write_escaped(&ch->text, ev->text ? ev->text : "", ev->n_text);
    if (ev->n_logprobs && ch->logprobs.len) buf_putc(&ch->logprobs, ',');
    if (c->params.logprobs) chat_write_logprobs(&ch->logprobs, ev->logprobs, ev->n_logprobs);
}

static void keep_text(struct chat_json_choice *ch, char **out, const char *s)
{
    if (!s || *out) return;
    *out = strdup(s);
    ch->no_memory |= !*out;
    ch->extra_bytes += strlen(s);
}

static void take_call(struct chat_json_choice *ch, const struct event_tool_call *call)
{
    if (call->index >= MAX_TOOL_CALLS) return; /* sources see to that */
    if (call->index >= ch->n_calls) {
        struct chat_json_call *more = realloc(ch->calls, (call->index + 1) * sizeof *more);
        ch->no_memory |= !more;
        if (!more) return;
        ch->calls = more;
        for (; ch->n_calls <= call->index; ch->n_calls++) {
            ch->calls[ch->n_calls] = (struct chat_json_call){0};
            buf_init(&ch->calls[ch->n_calls].arguments, ANSWER_MAX_BYTES);
        }
    }
    struct chat_json_call *at = &ch->calls[call->index];
    keep_text(ch, &at->id, call->id);
    keep_text(ch, &at->name, call->name);
    json_write_escaped(&at->arguments, call->arguments, call->n_arguments);
    ch->no_memory |= chat_extra_merge(&at->extra, call->extra, &ch->extra_bytes) != 0;
}

static void take_extra(struct chat_json *s, struct chat_json_choice *ch, const struct event_extra *extra)
{
    ch->no_memory |= chat_extra_replace(&s->extra, extra->chunk) != 0;
    ch->no_memory |= chat_extra_replace(&ch->choice_extra, extra->choice) != 0;
    ch->no_memory |= chat_extra_merge(&ch->message_extra, extra->delta, &ch->extra_bytes) != 0;
}

static void json_sink_event(struct completion *c, const struct event *ev)
{
    struct chat_json *s = c->sink_state;
    struct chat_json_choice *ch = &s->choices[ev->choice];
    take_extra(s, ch, &ev->extra);
    if (ev->type == EVENT_DELTA)
        take_text(c, ch, ev);
    else if (ev->type == EVENT_REASONING)
        json_write_escaped(&ch->reasoning, ev->text, ev->n_text);
    else if (ev->type == EVENT_TOOL_CALL)
        take_call(ch, &ev->tool_call);
    else if (ev->type == EVENT_FINISH)
        ch->finish = ev->finish;
    if (ev->type == EVENT_USAGE)
        reply(c, &ev->usage);
    else
        (void)answer_fits(c);
}

static void json_sink_close(struct completion *c)
{
    struct chat_json *s = c->sink_state;
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        struct chat_json_choice *ch = &s->choices[i];
        buf_free(&ch->text);
        buf_free(&ch->logprobs);
        buf_free(&ch->reasoning);
        for (uint32_t k = 0; k < ch->n_calls; k++) {
            free(ch->calls[k].id);
            free(ch->calls[k].name);
            buf_free(&ch->calls[k].arguments);
            json_decref(ch->calls[k].extra);
        }
        free(ch->calls);
        json_decref(ch->message_extra);
        json_decref(ch->choice_extra);
    }
    json_decref(s->extra);
}

const struct sink_ops sink_chat_json = {.name = "chat_json", .open = json_sink_open, .event = json_sink_event, .whole = json_sink_whole, .close = json_sink_close};
