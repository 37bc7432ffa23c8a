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

#include <string.h>

#include "base/json.h"
#include "server/api/chat_extra.h"

enum {
    OUT_MAX_BYTES = 64 << 20,
    LOGPROBS_PER_EVENT = 16, /* with 20 alternatives each these are 30 KB; many come at once when a stop string did not come true */
};

/* What a choice has not sent yet. */
struct sse_choice {
    bool role_sent, finished, finish_sent;
    enum finish_reason finish;
    struct buf text, logprobs, reasoning, calls; /* text and reasoning escaped, logprobs and calls as entries of a list */
    json_t *delta_extra, *choice_extra;
    size_t extra_bytes;
    bool no_memory; /* for what is no buffer */
};

struct chat_sse {
    struct buf out;
    struct buf head; /* what every chunk begins with */
    size_t held_bytes;           /* of all choices */
    json_t *extra, *fingerprint; /* of the next chunk; of every */
    struct sse_choice choices[CHAT_MAX_CHOICES];
};

static int sse_open(struct completion *c, struct err *e)
{
    struct chat_sse *s = c->sink_state = arena_alloc(&c->arena, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    buf_init(&s->out, OUT_MAX_BYTES);
    buf_init(&s->head, OUT_MAX_BYTES);
    buf_puts(&s->head, "data: ");
    chat_write_head(&s->head, c, "chat.completion.chunk");
    buf_puts(&s->head, ",\"system_fingerprint\":");
    if (s->head.failed) {
        buf_free(&s->head);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_init(&s->choices[i].text, OUT_MAX_BYTES);
        buf_init(&s->choices[i].logprobs, OUT_MAX_BYTES);
        buf_init(&s->choices[i].reasoning, OUT_MAX_BYTES);
        buf_init(&s->choices[i].calls, OUT_MAX_BYTES);
    }
    return 0;
}

static void forget(json_t **extra)
{
    json_decref(*extra);
    *extra = NULL;
}

static void chunk_begin(struct chat_sse *s)
{
    buf_append(&s->out, s->head.data, s->head.len);
    if (s->fingerprint)
        json_write(&s->out, s->fingerprint);
    else
        buf_puts(&s->out, "null");
    chat_extra_write(&s->out, s->extra, chat_chunk_names);
    forget(&s->extra);
    buf_puts(&s->out, ",\"choices\":[");
}

static void chunk_end(struct chat_sse *s, const struct completion *c)
{
    buf_puts(&s->out, c->params.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void write_role(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    if (s->choices[choice].role_sent) return;
    s->choices[choice].role_sent = true;
    chunk_begin(s);
    buf_printf(&s->out,
               "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
               "\"finish_reason\":null}",
               choice);
    chunk_end(s, c);
}

static size_t held_by(const struct sse_choice *ch)
{
    return ch->text.len + ch->logprobs.len + ch->reasoning.len + ch->calls.len + ch->extra_bytes;
}

/* "name":<before><b><after> with what stands before it; nothing if b is empty. */
static void write_part(struct buf *out, bool *any, const struct buf *b, const char *before, const char *after)
{
    if (b->len == 0) return;
    if (*any) buf_putc(out, ',');
    *any = true;
    buf_puts(out, before);
    buf_append(out, b->data, b->len);
    buf_puts(out, after);
}

static void write_delta(struct chat_sse *s, const struct sse_choice *ch)
{
    struct buf *out = &s->out;
    bool any = false;
    const json_t *refusal = json_object_get(ch->delta_extra, "refusal");
    write_part(out, &any, &ch->reasoning, "\"reasoning_content\":\"", "\"");
    write_part(out, &any, &ch->text, "\"content\":\"", "\"");
    write_part(out, &any, &ch->calls, "\"tool_calls\":[", "]");
    if (json_is_string(refusal)) {
        buf_puts(out, any ? ",\"refusal\":" : "\"refusal\":");
        json_write(out, refusal);
    } else if (!any)
        buf_puts(out, "\"content\":\"\"");
    chat_extra_write(out, ch->delta_extra, chat_message_names);
}

/* Takes what the choice holds out of it, as one event. */
static void write_held(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    struct sse_choice *ch = &s->choices[choice];
    struct buf *const parts[] = {&ch->text, &ch->logprobs, &ch->reasoning, &ch->calls};
    if (held_by(ch) == 0 && !ch->choice_extra) return; /* what is of the chunk rides with the next */
    write_role(s, c, choice);
    s->held_bytes -= held_by(ch);
    chunk_begin(s);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{", choice);
    write_delta(s, ch);
    buf_puts(&s->out, "},\"logprobs\":");
    if (c->params.logprobs) {
        buf_puts(&s->out, "{\"content\":[");
        buf_append(&s->out, ch->logprobs.data, ch->logprobs.len);
        buf_puts(&s->out, "],\"refusal\":null}");
    } else
        buf_puts(&s->out, "null");
    buf_puts(&s->out, ",\"finish_reason\":null");
    chat_extra_write(&s->out, ch->choice_extra, chat_choice_names);
    buf_putc(&s->out, '}');
    chunk_end(s, c);
    forget(&ch->delta_extra);
    forget(&ch->choice_extra);
    ch->extra_bytes = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i]->failed) s->out.failed = -ERR_MEMORY; /* a part is missing: clearing must not forget it */
        buf_clear(parts[i]);
    }
}

static void write_finish(struct chat_sse *s, const struct completion *c, uint32_t choice)
{
    struct sse_choice *ch = &s->choices[choice];
    if (!ch->finished || ch->finish_sent) return;
    ch->finish_sent = true;
    write_role(s, c, choice);
    chunk_begin(s);
    buf_printf(&s->out, "{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"", choice, chat_finish_name(ch->finish));
    chat_extra_write(&s->out, ch->choice_extra, chat_choice_names);
    buf_putc(&s->out, '}');
    chunk_end(s, c);
    forget(&ch->choice_extra);
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
        chunk_begin(s);
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
    completion_tell_route(c);
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
    for (int64_t i = 0; i < c->params.n; i++) {
        const struct sse_choice *ch = &s->choices[i];
        failed |= ch->text.failed || ch->logprobs.failed || ch->reasoning.failed || ch->calls.failed || ch->no_memory;
    }
    return failed;
}

static void hold(struct chat_sse *s, const struct completion *c, const struct event *ev, size_t from, size_t to)
{
    struct sse_choice *ch = &s->choices[ev->choice];
    size_t before = held_by(ch);
    if (from == 0 && ev->n_text) json_write_escaped(&ch->text, ev->text, ev->n_text);
    if (c->params.logprobs && to > from) {
        if (ch->logprobs.len) buf_putc(&ch->logprobs, ',');
        chat_write_logprobs(&ch->logprobs, ev->logprobs + from, to - from);
    }
    s->held_bytes += held_by(ch) - before;
}

static void hold_extra(struct chat_sse *s, const struct event *ev)
{
    struct sse_choice *ch = &s->choices[ev->choice];
    size_t before = ch->extra_bytes;
    json_t *fingerprint = json_object_get(ev->extra.chunk, "system_fingerprint");
    if (json_is_string(fingerprint)) {
        json_decref(s->fingerprint);
        s->fingerprint = json_incref(fingerprint);
    }
    if (json_object_size(ev->extra.chunk) > (size_t)(json_is_string(fingerprint) ? 1 : 0))
        ch->no_memory |= chat_extra_replace(&s->extra, ev->extra.chunk) != 0;
    ch->no_memory |= chat_extra_replace(&ch->choice_extra, ev->extra.choice) != 0;
    ch->no_memory |= chat_extra_merge(&ch->delta_extra, ev->extra.delta, &ch->extra_bytes) != 0;
    s->held_bytes += ch->extra_bytes - before;
}

static void hold_call(struct chat_sse *s, const struct event *ev)
{
    static const char *const taken[] = {"index", "id", "type", "function", NULL};
    const struct event_tool_call *call = &ev->tool_call;
    struct buf *b = &s->choices[ev->choice].calls;
    size_t before = b->len;
    buf_printf(b, "%s{\"index\":%u", b->len ? "," : "", call->index);
    if (call->id) {
        buf_puts(b, ",\"id\":");
        json_write_string(b, call->id, strlen(call->id));
        buf_puts(b, ",\"type\":\"function\"");
    }
    buf_puts(b, ",\"function\":{");
    if (call->name) {
        buf_puts(b, "\"name\":");
        json_write_string(b, call->name, strlen(call->name));
        buf_putc(b, ',');
    }
    buf_puts(b, "\"arguments\":");
    json_write_string(b, call->arguments, call->n_arguments);
    buf_putc(b, '}');
    chat_extra_write(b, call->extra, taken);
    buf_putc(b, '}');
    s->held_bytes += b->len - before;
}

static void hold_reasoning(struct chat_sse *s, const struct event *ev)
{
    struct buf *b = &s->choices[ev->choice].reasoning;
    size_t before = b->len;
    json_write_escaped(b, ev->text, ev->n_text);
    s->held_bytes += b->len - before;
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
    if (!last) hold_extra(s, ev);
    if (ev->type == EVENT_REASONING)
        hold_reasoning(s, ev);
    else if (ev->type == EVENT_TOOL_CALL)
        hold_call(s, ev);
    if (ev->type == EVENT_DELTA)
        take_delta(s, c, ev, full);
    else if (ev->type == EVENT_REASONING || ev->type == EVENT_TOOL_CALL) {
        if (!full) write_held(s, c, ev->choice);
    } else if (ev->type == EVENT_FINISH) {
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
    buf_free(&s->head);
    for (int i = 0; i < CHAT_MAX_CHOICES; i++) {
        buf_free(&s->choices[i].text);
        buf_free(&s->choices[i].logprobs);
        buf_free(&s->choices[i].reasoning);
        buf_free(&s->choices[i].calls);
        json_decref(s->choices[i].delta_extra);
        json_decref(s->choices[i].choice_extra);
    }
    json_decref(s->extra);
    json_decref(s->fingerprint);
}

const struct sink_ops sink_chat_sse = {
    .name = "chat_sse", .open = sse_open, .event = sse_event, .comment = sse_comment, .close = sse_close};
