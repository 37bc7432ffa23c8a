/* Chat JSON sink: one chat.completion object when the last choice has finished. Nothing is sent before, so an error is
 * a plain HTTP error.
 *
 * Text is escaped as it comes, into the very buffer that becomes the answer (choice 0's) or is appended to it; all of them together have a ceiling,
 * and an answer that meets it ends there and then. */
#include "server/api/chat_write.h"

#include "base/json.h"

enum { ANSWER_MAX_BYTES = 128 << 20 };

struct chat_json_choice {
    struct buf text; /* the choice's object up to its content, whose string is still open; choice 0: and all before it */
    struct buf logprobs;
    enum finish_reason finish;
};

struct chat_json {
    struct chat_json_choice choices[CHAT_MAX_CHOICES];
};

static int json_sink_open(struct completion *c, struct err *e)
{
    struct chat_json *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < CHAT_MAX_CHOICES; i++) {
        struct buf *b = &s->choices[i].text;
        buf_init(b, ANSWER_MAX_BYTES);
        buf_init(&s->choices[i].logprobs, ANSWER_MAX_BYTES);
        if (i >= (uint32_t)c->params.n) continue;
        if (i == 0) {
            chat_write_head(b, c, "chat.completion");
            buf_puts(b, ",\"system_fingerprint\":null,\"choices\":[");
        }
        buf_printf(b, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":\"", i ? "," : "", i);
    }
    return 0;
}

/* Ends the completion with an error if the answer is too long or could not be kept. */
static bool answer_fits(struct completion *c)
{
    const struct chat_json *s = c->sink_state;
    size_t n = 0;
    bool memory = true, fits = true;
    for (int64_t i = 0; i < c->params.n; i++) {
        const struct buf *text = &s->choices[i].text, *logprobs = &s->choices[i].logprobs;
        n += text->len + logprobs->len;
        memory &= text->failed != -ERR_MEMORY && logprobs->failed != -ERR_MEMORY;
        fits &= !text->failed && !logprobs->failed;
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

/* Closes choice i and appends it to b, which for choice 0 is its own buffer. */
static void close_choice(struct buf *b, const struct completion *c, struct chat_json_choice *ch, uint32_t i)
{
    if (i) buf_append(b, ch->text.data, ch->text.len);
    buf_puts(b, "\",\"refusal\":null},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(b, "{\"content\":[");
        buf_append(b, ch->logprobs.data, ch->logprobs.len);
        buf_puts(b, "],\"refusal\":null}");
    } else
        buf_puts(b, "null");
    buf_printf(b, ",\"finish_reason\":\"%s\"}", chat_finish_name(ch->finish));
    if (i) buf_free(&ch->text);
    buf_free(&ch->logprobs);
}

static void reply(struct completion *c, const struct usage_told *u)
{
    struct chat_json *s = c->sink_state;
    struct buf *b = &s->choices[0].text;
    b->max = 2 * (size_t)ANSWER_MAX_BYTES; /* what was counted, and a little around it */
    for (uint32_t i = 0; i < (uint32_t)c->params.n; i++) close_choice(b, c, &s->choices[i], i);
    buf_puts(b, "],\"usage\":");
    chat_write_usage(b, u);
    buf_putc(b, '}');
    if (answer_fits(c)) http_reply(c->http, 200, "application/json", b->data, b->len);
}

static void json_sink_event(struct completion *c, const struct event *ev)
{
    struct chat_json *s = c->sink_state;
    struct chat_json_choice *ch = &s->choices[ev->choice];
    if (ev->type == EVENT_DELTA) {
        json_write_escaped(&ch->text, ev->text ? ev->text : "", ev->n_text);
        if (ev->n_logprobs && ch->logprobs.len) buf_putc(&ch->logprobs, ',');
        if (c->params.logprobs) chat_write_logprobs(&ch->logprobs, ev->logprobs, ev->n_logprobs);
        (void)answer_fits(c);
    } else if (ev->type == EVENT_FINISH)
        ch->finish = ev->finish;
    else if (ev->type == EVENT_USAGE)
        reply(c, &ev->usage);
}

static void json_sink_close(struct completion *c)
{
    struct chat_json *s = c->sink_state;
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_free(&s->choices[i].text);
        buf_free(&s->choices[i].logprobs);
    }
}

const struct sink_ops sink_chat_json = {.name = "chat_json", .open = json_sink_open, .event = json_sink_event, .close = json_sink_close};
