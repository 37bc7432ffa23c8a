/* Pieces of chat answers: see chat_write.h. */
#include "server/api/chat_write.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/str.h"

void chat_write_head(struct buf *b, const struct completion *c, const char *object)
{
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", c->id, object, (long long)c->created_s);
    json_write_string(b, c->model_name, strlen(c->model_name));
}

/* A token's bytes as text: what is not UTF-8 by itself becomes U+FFFD; `bytes` tells exactly. */
static void write_token_text(struct buf *b, const struct event_token *t)
{
    char text[1024];
    size_t n = 0;
    for (size_t i = 0; i < t->n_bytes && n + 4 < sizeof text;) {
        uint32_t cp;
        int len = utf8_decode(t->bytes + i, t->n_bytes - i, &cp);
        n += utf8_encode(len > 0 ? cp : 0xFFFD, text + n);
        i += len > 0 ? (size_t)len : len < 0 ? (size_t)-len : t->n_bytes - i;
    }
    json_write_string(b, text, n);
}

static void write_token(struct buf *b, const struct event_token *t)
{
    buf_puts(b, "{\"token\":");
    write_token_text(b, t);
    /* JSON has no infinity; -9999 is what OpenAI writes for a token that cannot be */
    buf_printf(b, ",\"logprob\":%.9g,\"bytes\":[", isfinite(t->logprob) ? (double)t->logprob : -9999.0);
    for (size_t i = 0; i < t->n_bytes; i++) buf_printf(b, "%s%u", i ? "," : "", (unsigned char)t->bytes[i]);
    buf_putc(b, ']');
}

void chat_write_logprobs(struct buf *b, const struct event_logprob *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct event_logprob *p = &list[i];
        if (i) buf_putc(b, ',');
        write_token(b, &p->token);
        buf_puts(b, ",\"top_logprobs\":[");
        for (size_t j = 0; j < p->n_top; j++) {
            if (j) buf_putc(b, ',');
            write_token(b, &p->top[j]);
            buf_putc(b, '}');
        }
        buf_puts(b, "]}");
    }
}

/* What only some models have is there only when there is some of it. */
static void write_count(struct buf *b, const char *name, int64_t n)
{
    if (n) buf_printf(b, ",\"%s\":%lld", name, (long long)n);
}

void chat_write_usage(struct buf *b, const struct usage_told *u)
{
    buf_printf(b,
               "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,\"prompt_tokens_details\":{"
               "\"cached_tokens\":%lld",
               (long long)u->prompt_tokens, (long long)u->completion_tokens, (long long)(u->prompt_tokens + u->completion_tokens),
               (long long)u->cached_tokens);
    write_count(b, "cache_write_tokens", u->cache_write_tokens);
    write_count(b, "audio_tokens", u->audio_in_tokens);
    buf_printf(b, "},\"completion_tokens_details\":{\"reasoning_tokens\":%lld", (long long)u->reasoning_tokens);
    write_count(b, "audio_tokens", u->audio_out_tokens);
    buf_putc(b, '}');
    if (u->has_cost) buf_printf(b, ",\"cost_nusd\":%lld", (long long)u->cost_nusd);
    if (u->served_by) {
        buf_puts(b, ",\"served_by\":");
        json_write_string(b, u->served_by, strlen(u->served_by));
    }
    buf_putc(b, '}');
}

const char *chat_finish_name(enum finish_reason reason)
{
    switch (reason) {
    case FINISH_LENGTH:
        return "length";
    case FINISH_TOOL_CALLS:
        return "tool_calls";
    case FINISH_CONTENT_FILTER:
        return "content_filter";
    default:
        return "stop";
    }
}
