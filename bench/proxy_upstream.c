/* proxy_upstream: a provider of the OpenAI API that costs next to nothing, behind whatever bench/proxy.py measures. One thread, one epoll, answers made
 * before the first request.
 *
 *     proxy_upstream [--events N] [--pace-ms N]        prints "port N", then serves on 127.0.0.1 until it is killed
 *
 * What a POST gets is said by its path's first part, whatever its body asks for:
 *     /one/...     one chat.completion
 *     /burst/...   a stream of N events, each a send of its own as providers do it, as fast as they go
 *     /paced/...   a stream with an event each --pace-ms for as long as the client stays; the text is when it was sent, "~<boot clock, ns>;"
 * Each piece of text in a stream has one '~' and nothing else has one, so that clients can count pieces however events were cut or merged. GET /counts: the whole
 * answers so far, and the tokens that their usage told: the truth that bills are held against. Any other GET: an empty list of models.
 *
 * Answers fit into the socket's buffer. One that does not ends the program: there would be nothing to measure. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

enum { REQUEST_MAX_BYTES = 1 << 16, ANSWER_MAX_BYTES = 1 << 20, EVENTS = 256, MAX_PACE_MS = 1000, PROMPT_TOKENS = 12 };

#define HEAD "HTTP/1.1 200 OK\r\ncontent-type: "
#define CHUNK "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1764460800,\"model\":\"fixed\",\"choices\":["

struct conn {
    int fd;
    struct buf in;
    struct conn *prev, *next; /* of its slot of the wheel; prev NULL: first of it */
    int slot;                 /* -1: no paced stream */
};

static struct {
    int epoll, listening, timer, events, pace_ms;
    struct buf one, *pieces; /* pieces: the head with the role, the events, the end: n_pieces sends */
    int n_pieces;
    struct conn *wheel[MAX_PACE_MS]; /* paced streams, by the millisecond of their pace */
    int64_t ticked_ms;
    unsigned long long answers, prompt_tokens, completion_tokens;
} up;

static _Noreturn void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "proxy_upstream: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* --- answers --- */

static void put_chunk(struct buf *b, const char *event)
{
    buf_printf(b, "%zx\r\n%s\r\n", strlen(event), event);
}

static void make_answers(void)
{
    char event[1024], usage[256];
    struct buf body;
    snprintf(usage, sizeof usage, "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}", PROMPT_TOKENS, up.events, PROMPT_TOKENS + up.events);
    buf_init(&body, ANSWER_MAX_BYTES);
    buf_puts(&body, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1764460800,\"model\":\"fixed\",\"choices\":[{\"index\":0,"
                    "\"message\":{\"role\":\"assistant\",\"content\":\"");
    for (int i = 0; i < up.events; i++) buf_puts(&body, "text ");
    buf_printf(&body, "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],%s}", usage);
    buf_init(&up.one, ANSWER_MAX_BYTES);
    buf_printf(&up.one, HEAD "application/json\r\ncontent-length: %zu\r\n\r\n%s", body.len, body.data);
    up.n_pieces = up.events + 2;
    up.pieces = calloc((size_t)up.n_pieces, sizeof *up.pieces);
    if (!up.pieces) fail("out of memory");
    for (int i = 0; i < up.n_pieces; i++) buf_init(&up.pieces[i], ANSWER_MAX_BYTES);
    buf_puts(&up.pieces[0], HEAD "text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    put_chunk(&up.pieces[0], "data: " CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    for (int i = 1; i <= up.events; i++)
        put_chunk(&up.pieces[i], "data: " CHUNK "{\"index\":0,\"delta\":{\"content\":\"~text\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    struct buf *last = &up.pieces[up.n_pieces - 1];
    put_chunk(last, "data: " CHUNK "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n");
    snprintf(event, sizeof event, "data: " CHUNK "],%s}\n\ndata: [DONE]\n\n", usage);
    put_chunk(last, event);
    buf_puts(last, "0\r\n\r\n");
    buf_free(&body);
}

/* --- connections --- */

static void conn_close(struct conn *c)
{
    if (c->slot >= 0) {
        *(c->prev ? &c->prev->next : &up.wheel[c->slot]) = c->next;
        if (c->next) c->next->prev = c->prev;
    }
    close(c->fd); /* and out of the epoll */
    buf_free(&c->in);
    free(c);
}

/* false: the client has gone. */
static bool conn_send(const struct conn *c, const char *p, size_t n)
{
    ssize_t sent;
    do sent = send(c->fd, p, n, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return false;
    if (sent != (ssize_t)n) fail("a socket takes no more: who asks does not read");
    return true;
}

static bool send_paced(const struct conn *c)
{
    char event[512], chunk[600];
    snprintf(event, sizeof event, "data: " CHUNK "{\"index\":0,\"delta\":{\"content\":\"~%lld;\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", (long long)clock_boot_ns());
    int n = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(event), event);
    return conn_send(c, chunk, (size_t)n);
}

static bool pace(struct conn *c)
{
    c->slot = (int)(clock_boot_ms() % up.pace_ms);
    c->prev = NULL;
    c->next = up.wheel[c->slot];
    if (c->next) c->next->prev = c;
    up.wheel[c->slot] = c;
    return conn_send(c, up.pieces[0].data, up.pieces[0].len);
}

static bool burst(const struct conn *c)
{
    for (int i = 0; i < up.n_pieces; i++)
        if (!conn_send(c, up.pieces[i].data, up.pieces[i].len)) return false;
    return true;
}

static bool tell_counts(const struct conn *c)
{
    char body[200], answer[400];
    int n = snprintf(body, sizeof body, "{\"answers\":%llu,\"prompt_tokens\":%llu,\"completion_tokens\":%llu}\n", up.answers, up.prompt_tokens, up.completion_tokens);
    n = snprintf(answer, sizeof answer, HEAD "application/json\r\ncontent-length: %d\r\n\r\n%s", n, body);
    return conn_send(c, answer, (size_t)n);
}

static bool starts(const struct conn *c, const char *with)
{
    return c->in.len >= strlen(with) && memcmp(c->in.data, with, strlen(with)) == 0;
}

static bool answer(struct conn *c)
{
    static const char no_models[] = HEAD "application/json\r\ncontent-length: 27\r\n\r\n{\"object\":\"list\",\"data\":[]}"; /* LiteLLM asks */
    if (starts(c, "GET /counts")) return tell_counts(c);
    if (starts(c, "GET ")) return conn_send(c, no_models, sizeof no_models - 1);
    if (starts(c, "POST /paced/")) return pace(c);
    bool one = starts(c, "POST /one/");
    if (!one && !starts(c, "POST /burst/")) fail("a request for something else: %.40s", c->in.data);
    up.answers++;
    up.prompt_tokens += PROMPT_TOKENS;
    up.completion_tokens += (unsigned)up.events;
    return one ? conn_send(c, up.one.data, up.one.len) : burst(c);
}

/* Bytes of the request that c->in begins with; 0: it is not whole. */
static size_t request_bytes(const struct conn *c)
{
    const char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4), *length = strcasestr(c->in.data, "\r\ncontent-length:");
    if (!end) return 0;
    size_t n = (size_t)(end - c->in.data) + 4;
    if (length && length < end) n += strtoul(length + 17, NULL, 10);
    return n <= c->in.len ? n : 0;
}

static void conn_readable(struct conn *c)
{
    static char bytes[REQUEST_MAX_BYTES];
    ssize_t got = recv(c->fd, bytes, sizeof bytes, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        conn_close(c);
        return;
    }
    if (c->slot >= 0 || buf_append(&c->in, bytes, (size_t)got)) fail("a request that is too long, or behind another");
    for (size_t n; c->in.len && (n = request_bytes(c));) {
        if (!answer(c)) {
            conn_close(c);
            return;
        }
        buf_consume(&c->in, n);
    }
}

static void conn_accept(void)
{
    int yes = 1, fd = accept4(up.listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct conn *c = fd < 0 ? NULL : calloc(1, sizeof *c);
    if (fd < 0) return;
    if (!c) fail("out of memory");
    c->fd = fd;
    c->slot = -1;
    buf_init(&c->in, REQUEST_MAX_BYTES);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) || epoll_ctl(up.epoll, EPOLL_CTL_ADD, fd, &ev)) fail("socket: %s", strerror(errno));
}

/* --- the wheel --- */

/* Every millisecond once, also those that were slept through: an event is told when it was sent. */
static void tick(void)
{
    uint64_t n;
    int64_t now_ms = clock_boot_ms();
    if (read(up.timer, &n, sizeof n) < 0) return;
    if (now_ms - up.ticked_ms > up.pace_ms) up.ticked_ms = now_ms - up.pace_ms;
    while (up.ticked_ms < now_ms) {
        up.ticked_ms++;
        for (struct conn *c = up.wheel[up.ticked_ms % up.pace_ms], *next; c; c = next) {
            next = c->next;
            if (!send_paced(c)) conn_close(c);
        }
    }
}

static void watch(int fd, void *what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};
    if (fd < 0 || epoll_ctl(up.epoll, EPOLL_CTL_ADD, fd, &ev)) fail("epoll: %s", strerror(errno));
}

static void start(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    struct itimerspec each_ms = {.it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000};
    up.epoll = epoll_create1(EPOLL_CLOEXEC);
    up.listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (up.listening < 0 || bind(up.listening, (struct sockaddr *)&a, n) || listen(up.listening, 1024) || getsockname(up.listening, (struct sockaddr *)&a, &n))
        fail("socket: %s", strerror(errno));
    up.timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    up.ticked_ms = clock_boot_ms();
    if (up.timer < 0 || timerfd_settime(up.timer, 0, &each_ms, NULL)) fail("timer: %s", strerror(errno));
    watch(up.listening, &up.listening);
    watch(up.timer, &up.timer);
    printf("port %u\n", ntohs(a.sin_port));
    fflush(stdout);
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(up.epoll, events, EVENTS, -1);
        if (n < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        bool due = false; /* last, as it may close who has an event, too */
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &up.listening)
                conn_accept();
            else if (events[i].data.ptr == &up.timer)
                due = true;
            else
                conn_readable(events[i].data.ptr);
        }
        if (due) tick();
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"events", 1, NULL, 'n'}, {"pace-ms", 1, NULL, 'p'}, {NULL, 0, NULL, 0}};
    up.events = 64;
    up.pace_ms = 20;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'n') up.events = atoi(optarg);
        if (c == 'p') up.pace_ms = atoi(optarg);
        if (c == '?') return 2;
    }
    if (up.events < 1 || up.events > 1000 || up.pace_ms < 1 || up.pace_ms > MAX_PACE_MS || optind < argc) {
        fprintf(stderr, "usage: proxy_upstream [--events 1..1000] [--pace-ms 1..%d]\n", MAX_PACE_MS);
        return 2;
    }
    make_answers();
    start();
    run();
}
