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
    char raw[1 << 16];
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
    c->http = r;
    c->model = &t.model;
    arena_init(&c->arena, 1 << 20);
    strcpy(c->id, "chatcmpl-1");
    c->params = (struct chat_params){.n = t.n, .stream = t.stream, .include_usage = t.include_usage, .logprobs = t.logprobs};
    c->usage = (struct usage){.prompt_tokens = 7, .completion_tokens = 5};
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
    for (ssize_t got; (got = recv(fd, t.raw + n, sizeof t.raw - 1 - n, MSG_DONTWAIT)) > 0;) n += (size_t)got;
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

#define SINK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        SINK_TEST(test_sse_events_are_whole),
        SINK_TEST(test_json_holds_all_choices),
        SINK_TEST(test_sse_error_in_a_stream_has_no_done),
        SINK_TEST(test_sse_error_before_the_stream_is_plain),
        SINK_TEST(test_json_error_late_is_plain),
        SINK_TEST(test_json_logprobs_are_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
