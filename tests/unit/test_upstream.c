/* server/providers/upstream: what a driver of whole calls cannot show: the loop goes on while a name is being resolved, also when the
 * call is given up meanwhile; calls are counted and bounded; nothing is left when it ends. getaddrinfo is this program's own, so curl's
 * threads call it. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <curl/curl.h>

#include "base/clock.h"
#include "server/providers/upstream.h"

enum { RESOLVE_MS = 600 };

static atomic_int resolving, resolved;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)service;
    (void)hints;
    (void)node;
    atomic_fetch_add(&resolving, 1);
    usleep(RESOLVE_MS * 1000);
    atomic_fetch_add(&resolved, 1);
    *out = NULL;
    return EAI_AGAIN;
}

static struct {
    struct loop *loop;
    struct upstream *up;
    struct provider_host host;
    struct loop_timer tick, act;
    int64_t last_ms, longest_ms;
    struct upstream_call *calls[8];
    int n_calls, n_ended, wanted;
    struct upstream_result last;
    char code[64];
} t;

static void tick(void *ctx)
{
    (void)ctx;
    int64_t now = clock_boot_ms();
    if (t.last_ms && now - t.last_ms > t.longest_ms) t.longest_ms = now - t.last_ms;
    t.last_ms = now;
    assert_int_equal(loop_timer_set(t.loop, &t.tick, now + 5), 0);
}

static int event(void *ctx, const struct event *ev)
{
    (void)ctx;
    (void)ev;
    return 0;
}

static void ended(void *ctx, const struct upstream_result *r)
{
    (void)ctx;
    t.last = *r;
    strcpy(t.code, r->error.code);
    if (++t.n_ended == t.wanted) loop_stop(t.loop);
}

static void begin(const char *url, struct upstream_config *c)
{
    static const char *const keys[] = {"key"};
    struct err e;
    memset(&t, 0, sizeof t);
    struct provider_host_config h = {.provider = "openai", .base_url = url, .keys = keys, .n_keys = 1};
    assert_int_equal(provider_host_init(&t.host, &h, &e), 0);
    assert_int_equal(loop_new(&t.loop, &e), 0);
    assert_int_equal(upstream_new(&t.up, t.loop, c, &e), 0);
    t.tick = (struct loop_timer){.fn = tick};
    assert_int_equal(loop_timer_set(t.loop, &t.tick, clock_boot_ms()), 0);
}

static void end(void)
{
    upstream_free(t.up);
    loop_timer_clear(t.loop, &t.tick);
    loop_free(t.loop);
    provider_host_free(&t.host);
}

static int start(int64_t deadline_ms, struct err *e)
{
    json_t *request = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", "x");
    struct wire_request r;
    struct upstream_callbacks cb = {.event = event, .ended = ended};
    assert_int_equal(wire_encode(&t.host, request, &(struct wire_options){.model = "m", .max_tokens = 1}, &r, e), 0);
    json_decref(request);
    int rc = upstream_start(t.up, &t.host, 0, &r, deadline_ms, &cb, &t.calls[t.n_calls], e);
    if (rc)
        wire_request_free(&r);
    else
        t.n_calls++;
    return rc;
}

static void stop(void *ctx)
{
    loop_stop(ctx);
}

static void run_for(int64_t ms)
{
    t.act = (struct loop_timer){.fn = stop, .ctx = t.loop};
    assert_int_equal(loop_timer_set(t.loop, &t.act, clock_boot_ms() + ms), 0);
    assert_int_equal(loop_run(t.loop, NULL), 0);
    loop_timer_clear(t.loop, &t.act);
}

static void test_a_slow_resolver_does_not_stop_the_loop(void **state)
{
    (void)state;
    struct upstream_config c;
    struct err e;
    upstream_config_init(&c);
    begin("http://slow.example/v1", &c);
    int before = resolving;
    assert_int_equal(start(0, &e), 0);
    t.wanted = 1;
    run_for(5000);
    assert_int_equal(t.n_ended, 1);
    assert_true(resolving > before); /* ours was asked */
    assert_string_equal(t.code, "dns_failed");
    assert_false(t.last.sent);
    assert_in_range(t.longest_ms, 0, 100);
    end();
}

/* T62: the deadline, and a cancel, do not wait for the resolver's thread. */
static void test_t62_giving_up_while_a_name_is_resolved_does_not_block(void **state)
{
    (void)state;
    struct upstream_config c;
    struct err e;
    upstream_config_init(&c);
    begin("http://slow.example/v1", &c);
    assert_int_equal(start(clock_boot_ms() + 60, &e), 0);
    assert_int_equal(start(0, &e), 0);
    t.wanted = 1;
    int64_t began = clock_boot_ms();
    run_for(5000); /* to the first one's deadline */
    assert_in_range(clock_boot_ms() - began, 55, 160);
    assert_true(t.last.deadline);
    assert_string_equal(t.code, "deadline_exceeded");
    began = clock_boot_ms();
    upstream_cancel(t.calls[1], NULL, NULL);
    assert_in_range(clock_boot_ms() - began, 0, 50);
    assert_in_range(t.longest_ms, 0, 100);
    began = clock_boot_ms();
    end();
    assert_in_range(clock_boot_ms() - began, 0, 50);
    while (resolved < resolving) usleep(10000); /* the threads outlive the calls, not the program */
}

static void test_connecting_is_bounded(void **state)
{
    (void)state;
    struct upstream_config c;
    struct err e;
    upstream_config_init(&c);
    c.connect_ms = 100;
    begin("http://slow.example/v1", &c);
    int64_t began = clock_boot_ms();
    assert_int_equal(start(0, &e), 0);
    t.wanted = 1;
    run_for(5000);
    assert_string_equal(t.code, "timeout");
    assert_in_range(clock_boot_ms() - began, 100, RESOLVE_MS - 100);
    end();
}

static void test_calls_are_bounded_and_counted(void **state)
{
    (void)state;
    struct upstream_config c;
    struct upstream_counts n;
    struct err e;
    upstream_config_init(&c);
    c.max_calls = 2;
    begin("http://slow.example/v1", &c);
    assert_int_equal(start(0, &e), 0);
    assert_int_equal(start(0, &e), 0);
    assert_int_equal(start(0, &e), -ERR_BUSY);
    upstream_cancel(t.calls[0], NULL, NULL);
    assert_int_equal(start(0, &e), 0);
    upstream_counts_read(t.up, &n);
    assert_int_equal(n.running, 2);
    assert_int_equal(n.started, 3);
    assert_int_equal(n.cancelled, 1);
    end(); /* with two under way: no callback, nothing left (the sanitizers look) */
    assert_int_equal(t.n_ended, 0);
    while (resolved < resolving) usleep(10000);
}

/* A host that answers each call over a connection of its own, which it keeps a little and then closes. */
static void *closing_host(void *listening)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 74\r\n\r\n"
                                 "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}";
    char request[4096];
    for (int i = 0; i < 2; i++) {
        int fd = accept(*(int *)listening, NULL, NULL);
        if (fd < 0 || recv(fd, request, sizeof request, 0) <= 0 || send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0) return NULL;
        usleep(50000);
        close(fd);
    }
    return NULL;
}

static int count_round(void *n)
{
    ++*(int *)n;
    return -1;
}

static void test_a_kept_connection_that_the_host_closes_keeps_nobody_busy(void **state)
{
    (void)state;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n_addr = sizeof a;
    int listening = socket(AF_INET, SOCK_STREAM, 0), n_rounds = 0;
    assert_int_equal(bind(listening, (struct sockaddr *)&a, n_addr), 0);
    assert_int_equal(listen(listening, 4), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&a, &n_addr), 0);
    pthread_t host;
    assert_int_equal(pthread_create(&host, NULL, closing_host, &listening), 0);
    char url[64];
    struct upstream_config c;
    struct upstream_counts n;
    struct err e;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1", ntohs(a.sin_port));
    upstream_config_init(&c);
    begin(url, &c);
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(start(0, &e), 0);
        t.wanted = i;
        run_for(10000);
        assert_int_equal(t.last.outcome, UPSTREAM_WHOLE);
        loop_before_wait(t.loop, count_round, &n_rounds);
        run_for(300); /* the host closes */
        loop_before_wait(t.loop, NULL, NULL);
    }
    assert_in_range(n_rounds, 2, 1000); /* each tick is one; a loop that is told again and again makes 100,000 */
    upstream_counts_read(t.up, &n);
    assert_int_equal(n.connections, 2);
    end();
    pthread_join(host, NULL);
    close(listening);
}

int main(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slow_resolver_does_not_stop_the_loop),
        cmocka_unit_test(test_t62_giving_up_while_a_name_is_resolved_does_not_block),
        cmocka_unit_test(test_connecting_is_bounded),
        cmocka_unit_test(test_a_kept_connection_that_the_host_closes_keeps_nobody_busy),
        cmocka_unit_test(test_calls_are_bounded_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
