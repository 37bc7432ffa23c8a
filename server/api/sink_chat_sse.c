/* Chat SSE sink: chat.completion.chunk events as OpenAI sends them. Per choice: role, content deltas, finish; then
 * usage if asked for, then [DONE].
 *
 * The response's headers go out with the first event. After that an error is an event of its own and there is no
 * [DONE].
 *
 * A client that reads slowly: while half of its ring (limits.stream_bytes) is full, deltas are merged here, up to as many bytes again; when the ring is
 * full of these, too, the stream is cut. HTTP cuts it, too, when the ring stays full (limits.write_ms). */
#include "server/api/chat_write.h"
#include "server/api/errors.h"

#include "base/json.h"

enum {
    OUT_MAX_BYTES = 64 << 20,
    LOGPROBS_PER_EVENT = 16, /* with 20 alternatives each these are 30 KB; many come at once when a stop string did not come true */
};

/* What a choice has not sent yet. */
struct sse_choice {
    bool role_sent, finished, finish_sent;
    enum finish_reason finish;
    struct buf text, logprobs; /* text escaped, logprobs as entries of a list */
};

struct chat_sse {
    struct buf out;
    size_t held_bytes; /* of all choices */
    struct sse_choice choices[CHAT_MAX_CHOICES];
};

static int sse_open(struct completion *c, struct err *e)
{
    struct chat_sse *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    buf_init(&s->out, OUT_MAX_BYTES);
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_init(&s->choices[i].text, OUT_MAX_BYTES);
        buf_init(&s->choices[i].logprobs, OUT_MAX_BYTES);
    }
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
    if (s->choices[choice].role_sent) return;
    s->choices[choice].role_sent = true;
    chunk_begin(s, c);
    buf_printf(&s->out,
               "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
               "\"finish_reason\":null}",
               choice);
    chunk_end(s, c);
}

/* Takes what the choice holds out of it, as one event. */
static void write_held(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    struct sse_choice *ch = &s->choices[choice];
    if (ch->text.len == 0 && ch->logprobs.len == 0) return;
    write_role(s, c, choice);
    chunk_begin(s, c);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{\"content\":\"", choice);
    buf_append(&s->out, ch->text.data, ch->text.len);
    buf_puts(&s->out, "\"},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(&s->out, "{\"content\":[");
        buf_append(&s->out, ch->logprobs.data, ch->logprobs.len);
        buf_puts(&s->out, "],\"refusal\":null}");
    } else
        buf_puts(&s->out, "null");
    buf_puts(&s->out, ",\"finish_reason\":null}");
    chunk_end(s, c);
    s->held_bytes -= ch->text.len + ch->logprobs.len;
    if (ch->text.failed || ch->logprobs.failed) s->out.failed = -ERR_MEMORY; /* a part is missing: clearing must not forget it */
    buf_clear(&ch->text);
    buf_clear(&ch->logprobs);
}

static void write_finish(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    struct sse_choice *ch = &s->choices[choice];
    if (!ch->finished || ch->finish_sent) return;
    ch->finish_sent = true;
    write_role(s, c, choice);
    chunk_begin(s, c);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}", choice, chat_finish_name(ch->finish));
    chunk_end(s, c);
}

/* Everything that is held, in order. */
static void write_all(struct chat_sse *s, const struct completion *c)
{
    for (uint32_t i = 0; i < (uint32_t)c->params.n; i++) {
        write_held(s, c, i);
        write_finish(s, c, i);
    }
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

/* Half of it: merged text is a tenth of the events it came in. */
static bool ring_is_full(const struct completion *c)
{
    return c->headers_out && http_stream_waiting(c->http) > (size_t)c->limits.stream_bytes / 2;
}

static bool sse_failed(const struct chat_sse *s, const struct completion *c)
{
    bool failed = s->out.failed != 0;
    for (int64_t i = 0; i < c->params.n; i++) failed |= s->choices[i].text.failed || s->choices[i].logprobs.failed;
    return failed;
}

static void hold(struct chat_sse *s, const struct completion *c, const struct event *ev, size_t from, size_t to)
{
    struct sse_choice *ch = &s->choices[ev->choice];
    size_t before = ch->text.len + ch->logprobs.len;
    if (from == 0 && ev->n_text) json_write_escaped(&ch->text, ev->text, ev->n_text);
    if (c->params.logprobs && to > from) {
        if (ch->logprobs.len) buf_putc(&ch->logprobs, ',');
        chat_write_logprobs(&ch->logprobs, ev->logprobs + from, to - from);
    }
    s->held_bytes += ch->text.len + ch->logprobs.len - before;
}

/* While the ring is full all of it is kept for one later event; else it is written in events of a moderate size. */
static void take_delta(struct chat_sse *s, const struct completion *c, const struct event *ev, bool full)
{
    size_t from = 0;
    do {
        size_t to = ev->n_logprobs - from > LOGPROBS_PER_EVENT ? from + LOGPROBS_PER_EVENT : ev->n_logprobs;
        hold(s, c, ev, from, to);
        if (!full) write_held(s, c, ev->choice);
        from = to;
    } while (from < ev->n_logprobs);
}

/* Sends s->out. */
static void sse_send(struct completion *c, bool last)
{
    struct chat_sse *s = c->sink_state;
    if (s->out.len == 0 && !last && !sse_failed(s, c)) return;
    begin_stream(c);
    if (sse_failed(s, c))
        completion_drop(c);
    else if (last)
        http_stream_finish(c->http, s->out.data, s->out.len);
    else if (http_stream_write(c->http, s->out.data, s->out.len))
        completion_drop(c);
}

/* A line that every SSE reader skips; or what is held, if there is room now. */
static void sse_comment(struct completion *c)
{
    struct chat_sse *s = c->sink_state;
    if (ring_is_full(c)) return; /* who does not read needs no sign of life */
    buf_clear(&s->out);
    write_all(s, c);
    if (s->out.len == 0) buf_puts(&s->out, ": waiting\n\n");
    sse_send(c, false);
}

static void sse_event(struct completion *c, const struct event *ev)
{
    struct chat_sse *s = c->sink_state;
    bool last = ev->type == EVENT_USAGE || ev->type == EVENT_ERROR, full = !last && ring_is_full(c);
    if (full && s->held_bytes > (size_t)c->limits.stream_bytes) {
        if (http_stream_write(c->http, "", 0)) {
            completion_drop(c);
            return;
        }
        full = false; /* there is still the other half */
    }
    buf_clear(&s->out);
    if (!full) write_all(s, c);
    if (ev->type == EVENT_DELTA)
        take_delta(s, c, ev, full);
    else if (ev->type == EVENT_FINISH) {
        s->choices[ev->choice].finished = true;
        s->choices[ev->choice].finish = ev->finish;
        if (!full) write_finish(s, c, ev->choice);
    } else if (ev->type == EVENT_USAGE)
        write_last(s, c, ev);
    else {
        buf_puts(&s->out, "data: ");
        api_error_write(&s->out, api_error_of(ev->err), ev->err, http_request_id(c->http));
        buf_puts(&s->out, "\n\n");
    }
    sse_send(c, last);
}

static void sse_close(struct completion *c)
{
    struct chat_sse *s = c->sink_state;
    buf_free(&s->out);
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_free(&s->choices[i].text);
        buf_free(&s->choices[i].logprobs);
    }
}

const struct sink_ops sink_chat_sse = {
    .name = "chat_sse", .open = sse_open, .event = sse_event, .comment = sse_comment, .close = sse_close};
