/* Chat SSE sink: chat.completion.chunk events as OpenAI sends them. Per choice: role, content deltas, finish; then
 * usage if asked for, then [DONE].
 *
 * The response's headers go out with the first event. After that an error is an event of its own and there is no
 * [DONE]. */
#include "server/api/chat_write.h"
#include "server/api/errors.h"

#include "base/json.h"

enum { CHUNK_MAX_BYTES = 1 << 20 };

struct chat_sse {
    struct buf out;
    bool role_sent[CHAT_MAX_CHOICES];
};

static int sse_open(struct completion *c, struct err *e)
{
    struct chat_sse *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    buf_init(&s->out, CHUNK_MAX_BYTES);
    return 0;
}

static void chunk_begin(struct chat_sse *s, const struct completion *c)
{
    buf_puts(&s->out, "data: ");
    chat_write_head(&s->out, c, "chat.completion.chunk");
    buf_puts(&s->out, ",\"system_fingerprint\":null,\"choices\":[");
}

static void chunk_end(struct chat_sse *s, const struct completion *c)
{
    buf_puts(&s->out, c->params.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void write_role(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    if (s->role_sent[choice]) return;
    s->role_sent[choice] = true;
    chunk_begin(s, c);
    buf_printf(&s->out,
               "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
               "\"finish_reason\":null}",
               choice);
    chunk_end(s, c);
}

static void write_delta(struct chat_sse *s, const struct completion *c, const struct event *ev)
{
    chunk_begin(s, c);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{\"content\":", ev->choice);
    json_write_string(&s->out, ev->text ? ev->text : "", ev->n_text);
    buf_puts(&s->out, "},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(&s->out, "{\"content\":[");
        chat_write_logprobs(&s->out, ev);
        buf_puts(&s->out, "],\"refusal\":null}");
    } else
        buf_puts(&s->out, "null");
    buf_puts(&s->out, ",\"finish_reason\":null}");
    chunk_end(s, c);
}

static void write_finish(struct chat_sse *s, const struct completion *c, const struct event *ev)
{
    chunk_begin(s, c);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}", ev->choice, chat_finish_name(ev->finish));
    chunk_end(s, c);
}

static void write_last(struct chat_sse *s, const struct completion *c, const struct event *ev)
{
    if (c->params.include_usage) {
        chunk_begin(s, c);
        buf_puts(&s->out, "],\"usage\":");
        chat_write_usage(&s->out, &ev->usage);
        buf_puts(&s->out, "}\n\n");
    }
    buf_puts(&s->out, "data: [DONE]\n\n");
}

static void begin_stream(struct completion *c)
{
    if (c->headers_out) return;
    c->headers_out = true;
    http_add_header(c->http, "cache-control", "no-cache");
    http_stream_begin(c->http, 200, "text/event-stream; charset=utf-8");
}

/* A line that every SSE reader skips. */
static void sse_comment(struct completion *c)
{
    begin_stream(c);
    if (http_stream_write(c->http, ": waiting\n\n", 11)) completion_drop(c);
}

static void sse_event(struct completion *c, const struct event *ev)
{
    struct chat_sse *s = c->sink_state;
    buf_clear(&s->out);
    if (ev->type == EVENT_DELTA || ev->type == EVENT_FINISH) write_role(s, c, ev->choice);
    if (ev->type == EVENT_DELTA)
        write_delta(s, c, ev);
    else if (ev->type == EVENT_FINISH)
        write_finish(s, c, ev);
    else if (ev->type == EVENT_USAGE)
        write_last(s, c, ev);
    else {
        buf_puts(&s->out, "data: ");
        api_error_write(&s->out, api_error_of(ev->err), ev->err);
        buf_puts(&s->out, "\n\n");
    }
    begin_stream(c);
    if (s->out.failed || http_stream_write(c->http, s->out.data, s->out.len))
        completion_drop(c);
    else if (ev->type == EVENT_USAGE || ev->type == EVENT_ERROR)
        http_stream_end(c->http);
}

static void sse_close(struct completion *c)
{
    buf_free(&((struct chat_sse *)c->sink_state)->out);
}

const struct sink_ops sink_chat_sse = {
    .name = "chat_sse", .open = sse_open, .event = sse_event, .comment = sse_comment, .close = sse_close};
