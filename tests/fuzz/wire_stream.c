/* Answers of hosted providers: see wire_stream.h. The same events however the bytes are cut; a finish only when the answer is whole,
 * then one for each choice and nothing after; texts are UTF-8, indexes and counts in their ranges. */
#include "tests/fuzz/wire_stream.h"

#include <string.h>

#include "base/str.h"
#include "server/providers/wire.h"
#include "tests/fuzz/fuzz.h"

struct seen {
    struct buf all;
    uint32_t n_choices, n_finished;
};

static void check_usage(const struct event *ev)
{
    FUZZ_CHECK(ev->metered && ev->metered->present);
    for (int i = 0; i < USAGE_METERS; i++) {
        FUZZ_CHECK(ev->metered->count[i] >= 0 && ev->metered->count[i] <= INT64_C(1) << 53);
        FUZZ_CHECK(ev->metered->count[i] == 0 || ev->metered->present & 1u << i);
    }
    FUZZ_CHECK(ev->usage.prompt_tokens >= 0 && ev->usage.completion_tokens >= 0);
}

static void put_extra(struct buf *b, const json_t *v)
{
    FUZZ_CHECK(!v || json_is_object(v));
    if (v) json_write(b, v);
}

static int take(void *ctx, const struct event *ev)
{
    struct seen *s = ctx;
    FUZZ_CHECK(ev->choice < s->n_choices);
    FUZZ_CHECK(s->n_finished == 0 || ev->type == EVENT_FINISH);
    buf_printf(&s->all, "%d %u ", (int)ev->type, ev->choice);
    if (ev->type == EVENT_DELTA || ev->type == EVENT_REASONING) {
        FUZZ_CHECK(ev->text && utf8_valid(ev->text, ev->n_text));
        buf_append(&s->all, ev->text, ev->n_text);
    }
    for (size_t i = 0; i < ev->n_logprobs; i++) buf_append(&s->all, ev->logprobs[i].token.bytes, ev->logprobs[i].token.n_bytes);
    if (ev->type == EVENT_TOOL_CALL) {
        FUZZ_CHECK(ev->tool_call.index < WIRE_MAX_TOOL_CALLS && utf8_valid(ev->tool_call.arguments, ev->tool_call.n_arguments));
        buf_printf(&s->all, "%u %s %s ", ev->tool_call.index, ev->tool_call.id ? ev->tool_call.id : "-",
                   ev->tool_call.name ? ev->tool_call.name : "-");
        buf_append(&s->all, ev->tool_call.arguments, ev->tool_call.n_arguments);
        put_extra(&s->all, ev->tool_call.extra);
    }
    if (ev->type == EVENT_FINISH) {
        FUZZ_CHECK(ev->finish == FINISH_STOP || ev->finish == FINISH_LENGTH || ev->finish == FINISH_TOOL_CALLS ||
                   ev->finish == FINISH_CONTENT_FILTER);
        s->n_finished++;
    }
    if (ev->type == EVENT_USAGE) check_usage(ev);
    put_extra(&s->all, ev->extra.chunk);
    put_extra(&s->all, ev->extra.choice);
    put_extra(&s->all, ev->extra.delta);
    buf_putc(&s->all, '\n');
    return 0;
}

static int read_answer(const struct provider_host *h, const uint8_t *p, size_t n, bool cut, uint32_t n_choices, struct seen *s)
{
    static const struct decoder_limits limits = {.max_bytes = 1 << 20, .max_json_bytes = 1 << 16};
    struct decoder *d;
    struct err e = {0};
    struct fuzz_random r = {n};
    for (size_t i = 0; i < n && i < 64; i++) r.state = r.state * 31 + p[i];
    *s = (struct seen){.n_choices = n_choices};
    buf_init(&s->all, 16 << 20);
    FUZZ_CHECK(decoder_new(&d, h, n_choices, &limits, take, s, &e) == 0);
    int rc = 0;
    for (size_t at = 0, piece; at < n && !rc; at += piece) {
        piece = cut ? 1 + fuzz_below(&r, 1u << fuzz_below(&r, 8)) : n;
        if (piece > n - at) piece = n - at;
        char *own = malloc(piece);
        FUZZ_CHECK(own);
        memcpy(own, p + at, piece);
        rc = decoder_feed(d, own, piece, &e);
        free(own);
    }
    FUZZ_CHECK(s->n_finished == 0);
    if (!rc) rc = decoder_end(d, &e);
    FUZZ_CHECK(s->n_finished == (rc ? 0 : n_choices));
    if (rc) fuzz_check_err(rc, &e);
    const struct provider_error *told = decoder_error(d);
    FUZZ_CHECK(!told || (rc == -ERR_GONE && told->message[0] && utf8_valid(told->message, strlen(told->message))));
    FUZZ_CHECK(strlen(decoder_id(d)) < WIRE_MAX_ID_BYTES && utf8_valid(decoder_id(d), strlen(decoder_id(d))));
    decoder_free(d);
    return rc;
}

void wire_stream_check(const char *provider, uint32_t n_choices, const uint8_t *p, size_t n)
{
    static const char *const keys[] = {"key"};
    struct provider_host h;
    struct seen whole, pieces;
    struct provider_host_config c = {.provider = provider, .region = "r", .resource = "r", .keys = keys, .n_keys = 1};
    if (!provider_find(provider)->base_url) c.base_url = "http://h";
    FUZZ_CHECK(provider_host_init(&h, &c, NULL) == 0);
    int rc = read_answer(&h, p, n, false, n_choices, &whole);
    FUZZ_CHECK(read_answer(&h, p, n, true, n_choices, &pieces) == rc);
    FUZZ_CHECK(whole.all.len == pieces.all.len && (whole.all.len == 0 || memcmp(whole.all.data, pieces.all.data, whole.all.len) == 0));
    buf_free(&whole.all);
    buf_free(&pieces.all);
    provider_host_free(&h);
}
