/* An HTTP server with small handlers on a loop of its own, and raw clients, for the tests of server/http.h:
 *   /echo    answers with the body        /hang    never answers          /nothing  404
 *   /idle    a stream with one event      /stream  20 events, 5 ms apart  /cut      a stream that breaks off
 *   /refused answered before its body     /large   16 MiB                 /flood    a stream that is written until it is refused
 *   /whoami  the client's address */
#ifndef SPILLWAY_TESTS_HTTP_HARNESS_H
#define SPILLWAY_TESTS_HTTP_HARNESS_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/http.h"

struct stream {
    struct loop_timer timer;
    struct http_request *request;
    int left;
};

static struct {
    struct loop *loop;
    struct http_server *http;
    struct loop_timer limit;
    int n_begun, n_gone, n_streams, n_written, n_done;
    size_t n_waiting;
    int64_t gone_ms;
} t;

static void hang_gone(void *ctx)
{
    (void)ctx;
    t.n_gone++;
    t.gone_ms = clock_boot_ms();
}

static void stream_gone(void *ctx)
{
    struct stream *s = ctx;
    loop_timer_clear(t.loop, &s->timer);
    free(s);
    hang_gone(NULL);
}

static void stream_tick(void *ctx)
{
    struct stream *s = ctx;
    if (s->left-- == 0) {
        http_stream_end(s->request);
        free(s);
        return;
    }
    assert_int_equal(http_stream_write(s->request, "data: x\n\n", 9), 0);
    assert_int_equal(loop_timer_set(t.loop, &s->timer, loop_now_ms(t.loop) + 5), 0);
}

static void begin(void *ctx, struct http_request *r)
{
    (void)ctx;
    t.n_begun++;
    if (strcmp(http_path(r), "/refused") == 0) http_reply(r, 401, "text/plain", "no", 2);
}

static void refuse(void *ctx, struct http_request *r, enum http_refusal why, const char *text)
{
    static const unsigned statuses[] = {400, 414, 431, 505, 413, 429};
    (void)ctx;
    http_reply(r, statuses[why], "text/plain", text, strlen(text));
}

static void done(void *ctx, const struct http_request *r)
{
    (void)ctx;
    (void)r;
    t.n_done++;
}

static void handle(void *ctx, struct http_request *r)
{
    (void)ctx;
    struct buf body = {0};
    http_take_body(r, &body);
    const char *path = http_path(r);
    if (strcmp(path, "/echo") == 0)
        http_reply(r, 200, "text/plain", body.data, body.len);
    else if (strcmp(path, "/hang") == 0)
        http_on_gone(r, hang_gone, NULL);
    else if (strcmp(path, "/idle") == 0) {
        http_on_gone(r, hang_gone, NULL);
        http_stream_begin(r, 200, "text/event-stream");
        assert_int_equal(http_stream_write(r, ": hello\n\n", 9), 0);
        t.n_streams++;
    } else if (strcmp(path, "/stream") == 0) {
        struct stream *s = calloc(1, sizeof *s);
        *s = (struct stream){.timer = {.fn = stream_tick, .ctx = s}, .request = r, .left = 20};
        http_on_gone(r, stream_gone, s);
        http_stream_begin(r, 200, "text/event-stream");
        stream_tick(s);
    } else if (strcmp(path, "/cut") == 0) {
        http_stream_begin(r, 200, "text/event-stream");
        assert_int_equal(http_stream_write(r, "half", 4), 0);
        http_stream_cut(r);
    } else if (strcmp(path, "/large") == 0) {
        static char large[16 << 20];
        http_on_gone(r, hang_gone, NULL);
        http_reply(r, 200, "text/plain", large, sizeof large);
    } else if (strcmp(path, "/flood") == 0) {
        static char event[1000];
        memset(event, 'x', sizeof event);
        http_on_gone(r, hang_gone, NULL);
        http_stream_begin(r, 200, "text/event-stream");
        while (http_stream_write(r, event, sizeof event) == 0) t.n_written++;
        t.n_waiting = http_stream_waiting(r);
    } else if (strcmp(path, "/whoami") == 0) {
        char text[IP_TEXT_BYTES];
        struct ip ip = http_client_ip(r);
        ip_print(&ip, text);
        http_reply(r, 200, "text/plain", text, strlen(text));
    } else
        http_reply(r, 404, "text/plain", "none", 4);
    buf_free(&body);
}

static void stop_loop(void *ctx)
{
    loop_stop(ctx);
}

/* change: what a test wants otherwise; may be NULL. */
static int harness_start(void (*change)(struct http_config *c))
{
    memset(&t, 0, sizeof t);
    struct err e;
    struct http_config c;
    http_config_init(&c);
    c.port = 0;
    c.begin = begin;
    c.handle = handle;
    c.refuse = refuse;
    c.done = done;
    c.limits.header_ms = 300;
    c.limits.body_ms = 400;
    c.limits.idle_ms = 500;
    if (change) change(&c);
    assert_int_equal(loop_new(&t.loop, &e), 0);
    assert_int_equal(http_new(&t.http, t.loop, &c, &e), 0);
    t.limit = (struct loop_timer){.fn = stop_loop, .ctx = t.loop};
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return harness_start(NULL);
}

static int teardown(void **state)
{
    (void)state;
    http_free(t.http);
    loop_free(t.loop);
    return 0;
}

static void run_for(int64_t ms)
{
    assert_int_equal(loop_timer_set(t.loop, &t.limit, clock_boot_ms() + ms), 0);
    assert_int_equal(loop_run(t.loop, NULL), 0);
}

static int client_connect(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) fail_msg("connect: %s", strerror(errno));
    return fd;
}

static int client_send(const char *text)
{
    int fd = client_connect(http_port(t.http));
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
    return fd;
}

/* What has arrived; 0 bytes and *closed for the end. */
static size_t client_read(int fd, char *out, size_t cap, bool *closed)
{
    size_t n = 0;
    *closed = false;
    while (n < cap - 1) {
        ssize_t got = recv(fd, out + n, cap - 1 - n, MSG_DONTWAIT);
        if (got > 0)
            n += (size_t)got;
        else {
            *closed = got == 0 || (got < 0 && errno != EAGAIN);
            break;
        }
    }
    out[n] = '\0';
    return n;
}

static inline long cpu_us_now(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000L + r.ru_utime.tv_usec + r.ru_stime.tv_usec;
}

#endif
