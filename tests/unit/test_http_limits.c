/* HTTP at its limits: what is bounded, what is refused, and that the connection is in the right state afterwards. */
#include <sys/stat.h>

#include "tests/unit/http_harness.h"

static char out[1 << 16];

/* Sends, runs the loop, reads. Returns the status of the n-th answer (from 0), 0 if there is none. */
static unsigned status_of(const char *answers, int n)
{
    const char *p = answers;
    for (int i = 0; (p = strstr(p, "HTTP/1.1 ")); i++, p++)
        if (i == n) return (unsigned)atoi(p + 9);
    return 0;
}

static unsigned exchange(const char *request, bool *closed)
{
    int fd = client_send(request);
    run_for(60);
    client_read(fd, out, sizeof out, closed);
    close(fd);
    return status_of(out, 0);
}

static void test_pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    bool closed;
    exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /refused "
             "HTTP/1.1\r\nHost: x\r\n\r\n",
             &closed);
    assert_int_equal(status_of(out, 0), 404);
    assert_int_equal(status_of(out, 1), 200);
    assert_int_equal(status_of(out, 2), 401);
    assert_false(closed);
}

static void test_a_request_behind_a_waiting_one_waits(void **state)
{
    (void)state;
    bool closed;
    int fd = client_send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(60);
    assert_int_equal(client_read(fd, out, sizeof out, &closed), 0);
    assert_int_equal(t.n_begun, 1);
    close(fd);
    run_for(60);
    assert_int_equal(t.n_gone, 1);
    assert_int_equal(t.n_begun, 1);
}

static void test_expect_is_answered_before_the_body(void **state)
{
    (void)state;
    bool closed;
    int fd = client_send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    run_for(60);
    client_read(fd, out, sizeof out, &closed);
    assert_string_equal(out, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_int_equal(send(fd, "ok", 2, 0), 2);
    run_for(60);
    client_read(fd, out, sizeof out, &closed);
    assert_int_equal(status_of(out, 0), 200);
    assert_false(closed);
    close(fd);
}

static void test_expect_of_a_refused_request_is_not_continued(void **state)
{
    (void)state;
    bool closed;
    assert_int_equal(exchange("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", &closed), 401);
    assert_non_null(strstr(out, "connection: close"));
}

static void test_http10_closes_unless_it_asks(void **state)
{
    (void)state;
    bool closed;
    assert_int_equal(exchange("GET /a HTTP/1.0\r\n\r\n", &closed), 404);
    assert_true(closed);
    assert_int_equal(exchange("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &closed), 404);
    assert_false(closed);
    assert_int_equal(exchange("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &closed), 404);
    assert_true(closed);
}

static void test_head_has_a_length_and_no_body(void **state)
{
    (void)state;
    bool closed;
    assert_int_equal(exchange("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", &closed), 404);
    assert_non_null(strstr(out, "content-length: 4\r\n"));
    assert_string_equal(strstr(out, "\r\n\r\n"), "\r\n\r\n");
}

static void test_refused_small_body_keeps_the_connection_a_large_one_ends_it(void **state)
{
    (void)state;
    bool closed;
    exchange("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /a HTTP/1.1\r\nHost: x\r\n\r\n", &closed);
    assert_int_equal(status_of(out, 0), 401);
    assert_int_equal(status_of(out, 1), 404);
    assert_false(closed);
    exchange("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\nabcGET /a HTTP/1.1\r\nHost: x\r\n\r\n", &closed);
    assert_int_equal(status_of(out, 0), 401);
    assert_int_equal(status_of(out, 1), 0);
    assert_true(closed);
}

static void small_bodies(struct http_config *c)
{
    c->limits.body_bytes = 1000;
    c->limits.queue_bytes = 1500;
}

static void test_body_limit(void **state)
{
    (void)state;
    bool closed;
    assert_int_equal(exchange("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", &closed), 413);
    assert_int_equal(exchange("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3e8\r\n"
                              "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
                              &closed),
                     0);
    char request[4096];
    int n = snprintf(request, sizeof request,
                     "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3e8\r\n%01000d", 7);
    assert_in_range(n, 1000, sizeof request - 1);
    assert_int_equal(exchange(request, &closed), 413);
    assert_true(closed);
}

static void test_bodies_of_all_requests_are_bounded_together(void **state)
{
    (void)state;
    bool closed;
    char request[2048];
    int n = snprintf(request, sizeof request, "POST /hang HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%01000d", 7);
    assert_in_range(n, 1000, sizeof request - 1);
    int first = client_send(request);
    run_for(30);
    assert_int_equal(exchange("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n", &closed), 429);
    close(first);
    run_for(30);
    n = snprintf(request, sizeof request, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n%0600d", 7);
    assert_in_range(n, 600, sizeof request - 1);
    assert_int_equal(exchange(request, &closed), 200);
}

static void small_streams(struct http_config *c)
{
    c->limits.write_ms = 200;
    c->limits.stream_bytes = 64 << 10;
}

static void small_receive_buffer(int fd)
{
    int bytes = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

/* The kernel takes some megabytes; what is left waits here, and not more than the limit and one event of it. */
static void test_a_stream_that_is_not_read_is_bounded_and_ended(void **state)
{
    (void)state;
    int fd = client_connect(http_port(t.http));
    small_receive_buffer(fd);
    const char *request = "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_true(send(fd, request, strlen(request), 0) > 0);
    run_for(100);
    assert_true(t.n_written > 64);
    assert_in_range(t.n_waiting, 64 << 10, (64 << 10) + 1100);
    assert_int_equal(t.n_gone, 0);
    run_for(300);
    assert_int_equal(t.n_gone, 1);
    assert_int_equal(http_connections(t.http), 0);
    close(fd);
}

static void test_an_answer_that_is_not_read_is_ended(void **state)
{
    (void)state;
    int fd = client_connect(http_port(t.http));
    small_receive_buffer(fd);
    const char *request = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_true(send(fd, request, strlen(request), 0) > 0);
    run_for(100);
    assert_int_equal(http_connections(t.http), 1);
    run_for(600);
    assert_int_equal(http_connections(t.http), 0);
    assert_int_equal(t.n_done, 1);
    close(fd);
}

static void test_an_answer_that_is_read_slowly_arrives(void **state)
{
    (void)state;
    int fd = client_send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    size_t total = 0;
    bool closed = false;
    while (total < 16 << 20 && !closed) {
        run_for(5);
        total += client_read(fd, out, sizeof out, &closed);
    }
    assert_true(total > 16 << 20);
    assert_false(closed);
    close(fd);
}

static void few_connections(struct http_config *c)
{
    c->limits.connections = 3;
    c->limits.header_ms = 100000;
    c->limits.idle_ms = 100000;
}

static void test_connections_beyond_the_limit_wait_for_their_turn(void **state)
{
    (void)state;
    bool closed;
    int held[3];
    for (int i = 0; i < 3; i++) held[i] = client_connect(http_port(t.http));
    run_for(50);
    int fd = client_send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    long before_us = cpu_us_now();
    run_for(300);
    assert_true(cpu_us_now() - before_us < 100000); /* nothing spins */
    assert_int_equal(client_read(fd, out, sizeof out, &closed), 0);
    assert_int_equal(http_connections(t.http), 3);
    close(held[0]);
    run_for(200);
    client_read(fd, out, sizeof out, &closed);
    assert_int_equal(status_of(out, 0), 404);
    close(fd);
    close(held[1]);
    close(held[2]);
}

static void two_per_address(struct http_config *c)
{
    c->limits.connections_per_ip = 2;
    for (size_t i = 0; i < n_limit_rows; i++)
        if (strcmp(limit_rows[i].flag, "--max-connections-per-ip") == 0)
            assert_int_equal(limit_set(&c->limits, &limit_rows[i], "2", NULL), 0);
}

static void test_connections_of_an_address_are_bounded(void **state)
{
    (void)state;
    bool closed;
    int a = client_connect(http_port(t.http)), b = client_connect(http_port(t.http)), c = client_connect(http_port(t.http));
    run_for(50);
    client_read(c, out, sizeof out, &closed);
    assert_true(closed);
    assert_int_equal(http_connections(t.http), 2);
    close(a);
    run_for(50);
    assert_int_equal(exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\n", &closed), 404);
    close(b);
    close(c);
}

static void trusts_loopback(struct http_config *c)
{
    assert_int_equal(ip_nets_add(&c->trusted_proxies, "127.0.0.0/8", NULL), 0);
    assert_int_equal(ip_nets_add(&c->trusted_proxies, "10.0.0.0/8", NULL), 0);
}

static void whoami(const char *field, const char *expected)
{
    bool closed;
    char request[512];
    snprintf(request, sizeof request, "GET /whoami HTTP/1.1\r\nHost: x\r\n%s\r\n", field);
    assert_int_equal(exchange(request, &closed), 200);
    assert_string_equal(strstr(out, "\r\n\r\n") + 4, expected);
}

static void test_forwarded_for_is_believed_as_far_as_proxies_are_trusted(void **state)
{
    (void)state;
    whoami("", "127.0.0.1");
    whoami("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7");
    whoami("X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.2.3\r\n", "192.0.2.7");
    whoami("X-Forwarded-For: 6.6.6.6, 2001:db8::1 , 10.1.2.3\r\n", "2001:db8::1");
    whoami("X-Forwarded-For: 10.9.9.9\r\n", "10.9.9.9");
    whoami("X-Forwarded-For: nonsense\r\n", "127.0.0.1");
}

static void test_forwarded_for_of_a_stranger_is_not_believed(void **state)
{
    (void)state;
    whoami("X-Forwarded-For: 192.0.2.7\r\n", "127.0.0.1");
}

static void test_quiesce_closes_idle_connections_and_finishes_others(void **state)
{
    (void)state;
    bool closed;
    int idle = client_send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"), busy = client_send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(30);
    http_quiesce(t.http);
    run_for(300);
    client_read(idle, out, sizeof out, &closed);
    assert_true(closed);
    client_read(busy, out, sizeof out, &closed);
    assert_non_null(strstr(out, "\r\n0\r\n\r\n"));
    assert_true(closed);
    close(idle);
    close(busy);
}

static void test_every_request_is_told_done_once(void **state)
{
    (void)state;
    bool closed;
    exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\nGET nonsense\r\n\r\n", &closed);
    run_for(30);
    assert_int_equal(t.n_done, 3);
    assert_int_equal(http_open_requests(t.http), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SETUP(name)                                                                                                                        \
    static int setup_##name(void **state)                                                                                                  \
    {                                                                                                                                      \
        (void)state;                                                                                                                       \
        return harness_start(name);                                                                                                        \
    }
SETUP(small_bodies)
SETUP(small_streams)
SETUP(few_connections)
SETUP(two_per_address)
SETUP(trusts_loopback)
#define TEST_WITH(f, name) cmocka_unit_test_setup_teardown(f, setup_##name, teardown)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(test_pipelined_requests_are_answered_in_order),
        TEST(test_a_request_behind_a_waiting_one_waits),
        TEST(test_expect_is_answered_before_the_body),
        TEST(test_expect_of_a_refused_request_is_not_continued),
        TEST(test_http10_closes_unless_it_asks),
        TEST(test_head_has_a_length_and_no_body),
        TEST(test_refused_small_body_keeps_the_connection_a_large_one_ends_it),
        TEST_WITH(test_body_limit, small_bodies),
        TEST_WITH(test_bodies_of_all_requests_are_bounded_together, small_bodies),
        TEST_WITH(test_a_stream_that_is_not_read_is_bounded_and_ended, small_streams),
        TEST_WITH(test_an_answer_that_is_not_read_is_ended, small_streams),
        TEST_WITH(test_an_answer_that_is_read_slowly_arrives, small_streams),
        TEST_WITH(test_connections_beyond_the_limit_wait_for_their_turn, few_connections),
        TEST_WITH(test_connections_of_an_address_are_bounded, two_per_address),
        TEST_WITH(test_forwarded_for_is_believed_as_far_as_proxies_are_trusted, trusts_loopback),
        TEST(test_forwarded_for_of_a_stranger_is_not_believed),
        TEST(test_quiesce_closes_idle_connections_and_finishes_others),
        TEST(test_every_request_is_told_done_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
