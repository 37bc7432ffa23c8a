/* Chat JSON sink: one chat.completion object when the last choice has finished. Nothing is sent before, so an error is
 * a plain HTTP error. */
#include "server/api/chat_write.h"
#include "server/api/errors.h"

#include "base/json.h"

enum { TEXT_MAX_BYTES = 16 << 20, LOGPROBS_MAX_BYTES = 64 << 20, REPLY_MAX_BYTES = 256 << 20 };

struct chat_json_choice {
    struct buf text, logprobs;
    enum finish_reason finish;
};

struct chat_json {
    struct chat_json_choice choices[CHAT_MAX_CHOICES];
};

static int json_sink_open(struct completion *c, struct err *e)
{
    struct chat_json *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_init(&s->choices[i].text, TEXT_MAX_BYTES);
        buf_init(&s->choices[i].logprobs, LOGPROBS_MAX_BYTES);
    }
    return 0;
}

static void write_choice(struct buf *b, const struct completion *c, const struct chat_json_choice *ch, uint32_t index)
{
    buf_printf(b, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", index ? "," : "", index);
    json_write_string(b, ch->text.data ? ch->text.data : "", ch->text.len);
    buf_puts(b, ",\"refusal\":null},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(b, "{\"content\":[");
        buf_append(b, ch->logprobs.data, ch->logprobs.len);
        buf_puts(b, "],\"refusal\":null}");
    } else
        buf_puts(b, "null");
    buf_printf(b, ",\"finish_reason\":\"%s\"}", chat_finish_name(ch->finish));
}

static void reply(struct completion *c, const struct usage *u)
{
    struct chat_json *s = c->sink_state;
    struct buf b;
    struct err e;
    buf_init(&b, REPLY_MAX_BYTES);
    chat_write_head(&b, c, "chat.completion");
    buf_puts(&b, ",\"system_fingerprint\":null,\"choices\":[");
    bool failed = false;
    for (uint32_t i = 0; i < (uint32_t)c->params.n; i++) {
        failed |= s->choices[i].text.failed || s->choices[i].logprobs.failed;
        write_choice(&b, c, &s->choices[i], i);
    }
    buf_puts(&b, "],\"usage\":");
    chat_write_usage(&b, u);
    buf_putc(&b, '}');
    if (b.failed || failed) {
        err_set(&e, ERR_INTERNAL, "an answer does not fit its buffer");
        api_error_reply(c->http, API_INTERNAL_ERROR, &e);
    } else
        http_reply(c->http, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

static void json_sink_event(struct completion *c, const struct event *ev)
{
    struct chat_json *s = c->sink_state;
    struct chat_json_choice *ch = &s->choices[ev->choice];
    if (ev->type == EVENT_DELTA) {
        buf_append(&ch->text, ev->text, ev->n_text);
        if (ev->n_logprobs && ch->logprobs.len) buf_putc(&ch->logprobs, ',');
        if (c->params.logprobs) chat_write_logprobs(&ch->logprobs, ev);
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
