/* Sinks: scripted events through the real HTTP layer; what arrives at a raw socket is parsed again. Every event is
 * whole JSON whatever the text is. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/completion.h"

static struct {
    struct gateway g;
    struct gateway_model model;
    struct loop_timer limit;
    bool stream, include_usage, logprobs;
    int64_t n;
    void (*script)(struct completion *c);
    char raw[1 << 26];
    size_t n_raw;
    int failed_at; /* the delta after which the completion was over */
} t;

static void begin(void *ctx, struct http_request *r)
{
    (void)ctx;
    (void)r;
}

static void handle(void *ctx, struct http_request *r)
{
    (void)ctx;
    struct completion *c = calloc(1, sizeof *c);
    t.g.n_completions++;
    c->gateway = &t.g;
    c->limits = t.g.limits;
    c->http = r;
    c->model = &t.model;
    c->model_name = t.model.id;
    t.model.gateway = &t.g;
    t.model.holders++;
    arena_init(&c->arena, 1 << 20);
    strcpy(c->id, "chatcmpl-1");
    c->params = (struct chat_params){.n = t.n, .stream = t.stream, .include_usage = t.include_usage, .logprobs = t.logprobs};
    c->usage = (struct usage_told){.prompt_tokens = 7, .completion_tokens = 5};
    c->sink = t.stream ? &sink_chat_sse : &sink_chat_json;
    struct err e;
    assert_int_equal(c->sink->open(c, &e), 0);
    c->opened = true;
    t.script(c);
}

static void stop_loop(void *ctx)
{
    loop_stop(ctx);
}

static void run_for(int64_t ms)
{
    t.limit = (struct loop_timer){.fn = stop_loop, .ctx = t.g.loop};
    assert_int_equal(loop_timer_set(t.g.loop, &t.limit, clock_boot_ms() + ms), 0);
    assert_int_equal(loop_run(t.g.loop, NULL), 0);
}

static void refuse(void *ctx, struct http_request *r, enum http_refusal why, const char *text)
{
    (void)ctx;
    (void)why;
    http_reply(r, 400, "text/plain", text, strlen(text));
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    t.n = 1;
    limits_init(&t.g.limits);
    strcpy(t.model.id, "m\"x"); /* an id that needs escaping */
    struct http_config c;
    http_config_init(&c);
    c.port = 0;
    c.begin = begin;
    c.handle = handle;
    c.refuse = refuse;
    return loop_new(&t.g.loop, NULL) || http_new(&t.g.http, t.g.loop, &c, NULL);
}

static int teardown(void **state)
{
    (void)state;
    http_free(t.g.http);
    loop_run_posted(t.g.loop);
    loop_free(t.g.loop);
    return t.g.n_completions != 0;
}

/* Sends one request over HTTP/1.0, so that the body comes without chunks, and gives it without the header. */
static const char *exchange(unsigned *status)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_port(t.g.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    const char *request = "GET / HTTP/1.0\r\n\r\n";
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    run_for(60);
    size_t n = 0;
    for (int round = 0; round < 100; round++) {
        for (ssize_t got; (got = recv(fd, t.raw + n, sizeof t.raw - 1 - n, MSG_DONTWAIT)) > 0;) n += (size_t)got;
        if (recv(fd, t.raw + n, 0, MSG_DONTWAIT) == 0 || n == t.n_raw) break;
        t.n_raw = n;
        run_for(20);
    }
    t.n_raw = n;
    t.raw[n] = '\0';
    close(fd);
    assert_int_equal(sscanf(t.raw, "HTTP/1.%*d %u", status), 1);
    const char *body = strstr(t.raw, "\r\n\r\n");
    assert_non_null(body);
    return body + 4;
}

static json_t *parse(const char *p, size_t n)
{
    json_t *v;
    struct err e;
    if (json_read(p, n, &json_limits_request, "event", &v, &e)) fail_msg("%s in %.*s", e.msg, (int)n, p);
    return v;
}

static void delta(struct completion *c, uint32_t choice, const char *text)
{
    completion_event(c, &(struct event){.type = EVENT_DELTA, .choice = choice, .text = text, .n_text = strlen(text)});
}

static void finish(struct completion *c, uint32_t choice, enum finish_reason reason)
{
    completion_event(c, &(struct event){.type = EVENT_FINISH, .choice = choice, .finish = reason});
}

static const char awkward[] = "quote \" back \\ line \n tab \t control \x01 \xF0\x9F\x98\x80 \xE2\x80\xA8 data: [DONE]\n\ndata: x";

static void script_two(struct completion *c)
{
    delta(c, 0, awkward);
    delta(c, 1, "b");
    finish(c, 1, FINISH_LENGTH);
    delta(c, 0, awkward);
    finish(c, 0, FINISH_STOP);
}

static void test_sse_events_are_whole(void **state)
{
    (void)state;
    t.stream = t.include_usage = true;
    t.n = 2;
    t.script = script_two;
    unsigned status;
    const char *p = exchange(&status), *end;
    char text[2][512] = {"", ""};
    int roles = 0, finishes = 0, usages = 0;
    assert_int_equal(status, 200);
    for (; (end = strstr(p, "\n\n")) && strncmp(p, "data: [DONE]\n\n", 14) != 0; p = end + 2) {
        assert_memory_equal(p, "data: ", 6);
        json_t *v = parse(p + 6, (size_t)(end - p - 6));
        assert_string_equal(json_string_value(json_object_get(v, "model")), "m\"x");
        usages += json_is_object(json_object_get(v, "usage"));
        json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
        if (choice) {
            json_t *d = json_object_get(choice, "delta"), *content = json_object_get(d, "content");
            int index = (int)json_integer_value(json_object_get(choice, "index"));
            roles += json_is_string(json_object_get(d, "role"));
            finishes += json_is_string(json_object_get(choice, "finish_reason"));
            if (content) strcat(text[index], json_string_value(content));
        }
        json_decref(v);
    }
    assert_string_equal(p, "data: [DONE]\n\n");
    assert_int_equal(roles, 2);
    assert_int_equal(finishes, 2);
    assert_int_equal(usages, 1);
    assert_int_equal(strlen(text[0]), 2 * strlen(awkward));
    assert_memory_equal(text[0], awkward, strlen(awkward));
    assert_string_equal(text[1], "b");
}

static void test_json_holds_all_choices(void **state)
{
    (void)state;
    t.n = 2;
    t.script = script_two;
    unsigned status;
    const char *p = exchange(&status);
    assert_int_equal(status, 200);
    json_t *v = parse(p, strlen(p)), *choices = json_object_get(v, "choices");
    assert_int_equal(json_array_size(choices), 2);
    json_t *first = json_array_get(choices, 0);
    assert_int_equal(json_string_length(json_object_get(json_object_get(first, "message"), "content")), 2 * strlen(awkward));
    assert_string_equal(json_string_value(json_object_get(first, "finish_reason")), "stop");
    assert_string_equal(json_string_value(json_object_get(json_array_get(choices, 1), "finish_reason")), "length");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "usage"), "total_tokens")), 12);
    json_decref(v);
}

static void tool(struct completion *c, uint32_t index, const char *id, const char *name, const char *arguments, const json_t *extra)
{
    struct event_tool_call call = {
        .index = index, .id = id, .name = name, .arguments = arguments, .n_arguments = strlen(arguments), .extra = extra};
    completion_event(c, &(struct event){.type = EVENT_TOOL_CALL, .tool_call = call});
}

static void reasoning(struct completion *c, const char *text, const json_t *extra)
{
    completion_event(c, &(struct event){.type = EVENT_REASONING, .text = text, .n_text = strlen(text), .extra.delta = extra});
}

/* All that a hosted provider's answer may have beside text. */
static void script_hosted(struct completion *c)
{
    json_t *chunk = json_pack("{s:s,s:s,s:s}", "system_fingerprint", "fp_\"1", "provider", "X", "id", "theirs");
    json_t *detail = json_pack("{s:[{s:i,s:s,s:s}]}", "reasoning_details", "index", 0, "type", "t", "text", "ab");
    json_t *choice = json_pack("{s:s,s:i}", "native_finish_reason", "tool_use", "index", 7);
    json_t *extra = json_pack("{s:{s:s}}", "extra_content", "sig", "S");
    completion_event(c, &(struct event){.type = EVENT_DELTA, .text = "", .extra.chunk = chunk});
    reasoning(c, "think\n", detail);
    reasoning(c, "more", detail);
    tool(c, 0, "call_a", "f", "", extra);
    tool(c, 0, NULL, NULL, "{\"x\":", NULL);
    tool(c, 0, NULL, NULL, "\"\\u00e9\"}", NULL);
    tool(c, 1, "call_b", "g", "{}", NULL);
    completion_event(c, &(struct event){.type = EVENT_FINISH, .finish = FINISH_TOOL_CALLS, .extra.choice = choice});
    json_decref(chunk);
    json_decref(detail);
    json_decref(choice);
    json_decref(extra);
}

static const char *text_at(const json_t *v, const char *a, const char *b)
{
    return json_string_value(json_object_get(b ? json_object_get(v, a) : v, b ? b : a));
}

static void test_json_has_reasoning_calls_and_extras(void **state)
{
    (void)state;
    t.script = script_hosted;
    unsigned status;
    const char *p = exchange(&status);
    json_t *v = parse(p, strlen(p)), *choice = json_array_get(json_object_get(v, "choices"), 0), *m = json_object_get(choice, "message");
    assert_string_equal(text_at(v, "id", NULL), "chatcmpl-1"); /* ours stays */
    assert_string_equal(text_at(v, "system_fingerprint", NULL), "fp_\"1");
    assert_string_equal(text_at(v, "provider", NULL), "X");
    assert_true(json_is_null(json_object_get(m, "content")));
    assert_string_equal(text_at(m, "reasoning_content", NULL), "think\nmore");
    assert_string_equal(text_at(json_array_get(json_object_get(m, "reasoning_details"), 0), "text", NULL), "abab");
    json_t *calls = json_object_get(m, "tool_calls"), *call = json_array_get(calls, 0);
    assert_int_equal(json_array_size(calls), 2);
    assert_string_equal(text_at(call, "id", NULL), "call_a");
    assert_string_equal(text_at(call, "function", "name"), "f");
    assert_string_equal(text_at(call, "function", "arguments"), "{\"x\":\"\\u00e9\"}");
    assert_string_equal(text_at(call, "extra_content", "sig"), "S");
    assert_string_equal(text_at(json_array_get(calls, 1), "function", "arguments"), "{}");
    assert_string_equal(text_at(choice, "finish_reason", NULL), "tool_calls");
    assert_string_equal(text_at(choice, "native_finish_reason", NULL), "tool_use");
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), 0);
    json_decref(v);
}

/* Fields of all chunks, joined: texts and arguments by name. */
static void join_chunks(const char *p, char reason[64], char arguments[2][64], char ids[64], char extras[256])
{
    const char *end;
    for (; (end = strstr(p, "\n\n")) && strncmp(p, "data: [DONE]\n\n", 14) != 0; p = end + 2) {
        json_t *v = parse(p + 6, (size_t)(end - p - 6)), *choice = json_array_get(json_object_get(v, "choices"), 0);
        json_t *d = json_object_get(choice, "delta"), *calls = json_object_get(d, "tool_calls");
        const char *word;
        if ((word = text_at(d, "reasoning_content", NULL))) strcat(reason, word);
        for (size_t i = 0; i < json_array_size(calls); i++) {
            json_t *call = json_array_get(calls, i);
            strcat(arguments[json_integer_value(json_object_get(call, "index"))], text_at(call, "function", "arguments"));
            if ((word = text_at(call, "id", NULL))) strcat(ids, word);
            if ((word = text_at(call, "extra_content", "sig"))) strcat(extras, word);
        }
        if ((word = text_at(json_array_get(json_object_get(d, "reasoning_details"), 0), "text", NULL))) strcat(extras, word);
        if ((word = text_at(v, "provider", NULL))) strcat(extras, word);
        if ((word = text_at(choice, "native_finish_reason", NULL))) strcat(extras, word);
        if ((word = text_at(choice, "finish_reason", NULL))) strcat(extras, word);
        json_decref(v);
    }
    assert_string_equal(p, "data: [DONE]\n\n");
}

static void test_sse_has_reasoning_calls_and_extras(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_hosted;
    unsigned status;
    char reason[64] = "", arguments[2][64] = {"", ""}, ids[64] = "", extras[256] = "";
    join_chunks(exchange(&status), reason, arguments, ids, extras);
    assert_string_equal(reason, "think\nmore");
    assert_string_equal(arguments[0], "{\"x\":\"\\u00e9\"}");
    assert_string_equal(arguments[1], "{}");
    assert_string_equal(ids, "call_acall_b");
    assert_string_equal(extras, "XababStool_usetool_calls");
}

static void script_error_late(struct completion *c)
{
    struct err e;
    err_set(&e, ERR_GONE, "gone");
    delta(c, 0, "a");
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
    delta(c, 0, "never"); /* after the end: nothing */
}

static void script_error_early(struct completion *c)
{
    struct err e;
    err_set(&e, ERR_NUMERIC, "non-finite");
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
}

static void test_sse_error_in_a_stream_has_no_done(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_error_late;
    unsigned status;
    const char *p = exchange(&status);
    assert_int_equal(status, 200);
    assert_non_null(strstr(p, "\"code\":\"worker_down\""));
    assert_null(strstr(p, "[DONE]"));
    assert_null(strstr(p, "never"));
}

static void test_sse_error_before_the_stream_is_plain(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_error_early;
    unsigned status;
    const char *p = exchange(&status);
    assert_int_equal(status, 500);
    json_t *v = parse(p, strlen(p));
    assert_string_equal(json_string_value(json_object_get(json_object_get(v, "error"), "code")), "numeric_error");
    json_decref(v);
}

static void test_json_error_late_is_plain(void **state)
{
    (void)state;
    t.script = script_error_late;
    unsigned status;
    const char *p = exchange(&status);
    assert_int_equal(status, 503);
    assert_non_null(strstr(t.raw, "retry-after: 1"));
    json_decref(parse(p, strlen(p)));
}

static void script_logprobs(struct completion *c)
{
    struct event_token top[2] = {{"\xF0\x9F", 2, -0.5f}, {"b", 1, -__builtin_inff()}};
    struct event_logprob p = {.token = top[0], .top = top, .n_top = 2};
    completion_event(c, &(struct event){.type = EVENT_DELTA, .text = "", .logprobs = &p, .n_logprobs = 1});
    completion_event(c, &(struct event){.type = EVENT_DELTA, .text = "x", .n_text = 1, .logprobs = &p, .n_logprobs = 1});
    finish(c, 0, FINISH_STOP);
}

/* Half a character and an infinity are things that JSON cannot say. */
static void test_json_logprobs_are_valid(void **state)
{
    (void)state;
    t.logprobs = true;
    t.script = script_logprobs;
    unsigned status;
    const char *p = exchange(&status);
    json_t *v = parse(p, strlen(p)), *choice = json_array_get(json_object_get(v, "choices"), 0);
    json_t *content = json_object_get(json_object_get(choice, "logprobs"), "content");
    assert_int_equal(json_array_size(content), 2);
    json_t *first = json_array_get(content, 0);
    assert_string_equal(json_string_value(json_object_get(first, "token")), "\xEF\xBF\xBD");
    assert_int_equal(json_array_size(json_object_get(first, "bytes")), 2);
    json_t *low = json_array_get(json_object_get(first, "top_logprobs"), 1);
    assert_true(json_number_value(json_object_get(low, "logprob")) == -9999.0);
    json_decref(v);
}

/* What a client gets of the sink's answer: all text and the number of logprobs; -1 in *n_logprobs: no [DONE]. */
static char *gather(const char *p, int *n_logprobs, size_t *longest)
{
    char *text = calloc(1, sizeof t.raw);
    const char *end;
    *n_logprobs = 0;
    *longest = 0;
    for (; (end = strstr(p, "\n\n")) && strncmp(p, "data: [DONE]\n\n", 14) != 0; p = end + 2) {
        if ((size_t)(end - p) > *longest) *longest = (size_t)(end - p);
        json_t *v = parse(p + 6, (size_t)(end - p - 6)), *choice = json_array_get(json_object_get(v, "choices"), 0);
        json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
        if (content) strcat(text, json_string_value(content));
        *n_logprobs += (int)json_array_size(json_object_get(json_object_get(choice, "logprobs"), "content"));
        json_decref(v);
    }
    if (strcmp(p, "data: [DONE]\n\n") != 0) *n_logprobs = -1;
    return text;
}

enum { MANY_LOGPROBS = 1000 };

/* A stop string of 1,024 bytes may hold back this many tokens, each with 20 alternatives. */
static void script_many_logprobs(struct completion *c)
{
    struct event_token top[20];
    struct event_logprob *list = calloc(MANY_LOGPROBS, sizeof *list);
    for (int i = 0; i < 20; i++) top[i] = (struct event_token){"some token", 10, -1.25f};
    for (int i = 0; i < MANY_LOGPROBS; i++) list[i] = (struct event_logprob){.token = top[0], .top = top, .n_top = 20};
    completion_event(c, &(struct event){.type = EVENT_DELTA, .text = "x", .n_text = 1, .logprobs = list, .n_logprobs = MANY_LOGPROBS});
    finish(c, 0, FINISH_STOP);
    free(list);
}

static void test_sse_many_held_logprobs_are_split(void **state)
{
    (void)state;
    t.stream = t.logprobs = true;
    t.script = script_many_logprobs;
    unsigned status;
    int n;
    size_t longest;
    char *text = gather(exchange(&status), &n, &longest);
    assert_int_equal(n, MANY_LOGPROBS);
    assert_string_equal(text, "x");
    assert_in_range(longest, 1, 64 << 10);
    free(text);
}

enum { MAX_DELTAS = 200000, RING_BYTES = 64 << 10 };

static void number_delta(struct completion *c, int i)
{
    char word[16];
    snprintf(word, sizeof word, "%d ", i);
    delta(c, 0, word);
}

static bool ring_is_full(struct completion *c)
{
    return c->headers_out && http_stream_waiting(c->http) > RING_BYTES / 2;
}

/* More than the connection takes, then some more. */
static void script_fast(struct completion *c)
{
    int i = 0;
    for (; i < MAX_DELTAS && !c->done && !ring_is_full(c); i++) number_delta(c, i);
    assert_in_range(i, 1, MAX_DELTAS - 1);
    t.failed_at = i + 2000;
    for (; i < t.failed_at; i++) number_delta(c, i);
    assert_false(c->done);
    finish(c, 0, FINISH_STOP);
}

/* While the ring is full deltas are merged, not lost, and the stream is not cut. */
static void test_t23_sse_full_ring_merges_deltas(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_fast;
    unsigned status;
    int n;
    size_t longest;
    char *text = gather(exchange(&status), &n, &longest), *want = calloc(1, sizeof t.raw);
    for (int i = 0, at = 0; i < t.failed_at; i++) at += sprintf(want + at, "%d ", i);
    assert_int_equal(n, 0);
    assert_string_equal(text, want);
    assert_in_range(longest, 8000, 20000); /* the last 2,000 in one event */
    free(text);
    free(want);
}

/* The same with all that is no text: while the ring is full it is put together, as an SDK would. */
static void script_fast_hosted(struct completion *c)
{
    int i = 0;
    for (; i < MAX_DELTAS && !c->done && !ring_is_full(c); i++) number_delta(c, i);
    json_t *detail = json_pack("{s:[{s:i,s:s}]}", "reasoning_details", "index", 0, "text", "d");
    for (int k = 0; k < 300; k++) {
        reasoning(c, "r", detail);
        tool(c, 0, k ? NULL : "call_a", k ? NULL : "f", "a", NULL);
        tool(c, 1, k ? NULL : "call_b", k ? NULL : "g", "b", NULL);
    }
    assert_false(c->done);
    finish(c, 0, FINISH_TOOL_CALLS);
    json_decref(detail);
}

static void test_t23_sse_full_ring_merges_reasoning_and_calls(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_fast_hosted;
    unsigned status;
    int events = 0, n[5] = {0};
    const char *p = exchange(&status), *end;
    for (; (end = strstr(p, "\n\n")) && strncmp(p, "data: [DONE]\n\n", 14) != 0; p = end + 2) {
        json_t *v = parse(p + 6, (size_t)(end - p - 6)), *d = json_object_get(json_array_get(json_object_get(v, "choices"), 0), "delta");
        json_t *calls = json_object_get(d, "tool_calls"), *detail = json_array_get(json_object_get(d, "reasoning_details"), 0);
        events += json_is_string(json_object_get(d, "reasoning_content")) || calls;
        n[0] += (int)json_string_length(json_object_get(d, "reasoning_content"));
        n[1] += (int)json_string_length(json_object_get(detail, "text"));
        for (size_t i = 0; i < json_array_size(calls); i++) {
            json_t *call = json_array_get(calls, i);
            n[2 + json_integer_value(json_object_get(call, "index"))] += (int)strlen(text_at(call, "function", "arguments"));
            n[4] += json_is_string(json_object_get(call, "id"));
        }
        json_decref(v);
    }
    assert_string_equal(p, "data: [DONE]\n\n");
    for (int i = 0; i < 4; i++) assert_int_equal(n[i], 300);
    assert_int_equal(n[4], 2);
    assert_in_range(events, 1, 3); /* not 900 */
}

static void script_flood(struct completion *c)
{
    int i = 0, full = 0;
    for (; i < MAX_DELTAS && !c->done; i++) {
        number_delta(c, i);
        if (!c->done && !full && ring_is_full(c)) full = i;
    }
    assert_in_range(full, 1, MAX_DELTAS - 1);
    t.failed_at = i - full;
    if (!c->done) completion_drop(c);
}

/* The ring, as much merged text, what the kernel takes: no more; then the stream is cut. */
static void test_t23_sse_what_waits_is_bounded(void **state)
{
    (void)state;
    t.stream = true;
    t.script = script_flood;
    unsigned status;
    int n;
    size_t longest;
    free(gather(exchange(&status), &n, &longest));
    assert_int_equal(n, -1);
    assert_in_range(t.failed_at * 6, RING_BYTES, 6 * RING_BYTES); /* numbers of 5 digits and a blank; ring, merged text, socket */
}

static void script_endless(struct completion *c)
{
    static char piece[1 << 20];
    memset(piece, 'a', sizeof piece - 1);
    for (t.failed_at = 0; t.failed_at < 300 && !c->done; t.failed_at++) delta(c, 0, piece);
    if (!c->done) completion_drop(c);
}

/* An answer that does not fit fails while it is made, not when everything has been made. */
static void test_json_too_long_an_answer_fails_early(void **state)
{
    (void)state;
    t.script = script_endless;
    unsigned status;
    const char *p = exchange(&status);
    assert_int_equal(status, 400);
    assert_in_range(t.failed_at, 1, 140);
    json_t *v = parse(p, strlen(p));
    assert_string_equal(json_string_value(json_object_get(json_object_get(v, "error"), "code")), "invalid_value");
    json_decref(v);
}

#define SINK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        SINK_TEST(test_sse_events_are_whole),
        SINK_TEST(test_json_holds_all_choices),
        SINK_TEST(test_json_has_reasoning_calls_and_extras),
        SINK_TEST(test_sse_has_reasoning_calls_and_extras),
        SINK_TEST(test_sse_error_in_a_stream_has_no_done),
        SINK_TEST(test_sse_error_before_the_stream_is_plain),
        SINK_TEST(test_json_error_late_is_plain),
        SINK_TEST(test_json_logprobs_are_valid),
        SINK_TEST(test_sse_many_held_logprobs_are_split),
        SINK_TEST(test_t23_sse_full_ring_merges_deltas),
        SINK_TEST(test_t23_sse_full_ring_merges_reasoning_and_calls),
        SINK_TEST(test_t23_sse_what_waits_is_bounded),
        SINK_TEST(test_json_too_long_an_answer_fails_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
