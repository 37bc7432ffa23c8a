/* proxy_clients: load on a gateway in front of proxy_upstream, for bench/proxy.py. One thread, one epoll; answers are counted and checked, not parsed, so that
 * one core can feed a gateway on another.
 *
 *     proxy_clients --port N --path PATH --model NAME [--key KEY] --mode MODE --clients N --seconds S [--rate N] [--warm S]
 *
 * MODE calls    a closed loop of whole answers, one connection a client
 *      rate     an open loop of whole answers: --rate a second, sent when they are due whatever has not been answered; times count from when they were due
 *      streams  a closed loop of streams: all pieces of text ('~', see proxy_upstream.c) and [DONE] must have come
 *      paced    streams that last; begun evenly over a second. A piece tells when it was sent: its delay is from then until it was read here
 *
 * What happens in the first --warm seconds is not counted. Prints "open" once all clients have an answer's beginning (paced: so that the gateway's
 * memory can be looked at) and at the end one JSON object. Exit status 1 if anything was not as it must be: figures of a run with errors are none. */
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

enum { HEAD_MAX_BYTES = 1 << 14, READ_BYTES = 1 << 16, MAX_CLIENTS = 8192, EVENTS = 256, TAIL_BYTES = 14, STUCK_S = 60 };
enum mode { CALLS, RATE, STREAMS, PACED };
enum body { BODY_SIZE, BODY_DATA, BODY_DATA_END, BODY_TRAILER, BODY_PLAIN, BODY_DONE };

struct client {
    int fd;
    bool busy, fresh, in_body; /* fresh: nothing was asked over this connection yet */
    struct buf head;
    enum body body;
    size_t left; /* of the chunk, or of the plain body */
    char line[64];
    size_t n_line;
    size_t n_texts, n_body;
    char tail[TAIL_BYTES]; /* the body's last bytes */
    bool in_time;          /* a piece's time is being read */
    int64_t time_ns, from_ns;
    struct client *next_free;
};

static struct {
    const char *path, *model, *key;
    int port, clients, rate, pieces;
    double seconds, warm;
    enum mode mode;
    int epoll;
    struct client *all, *free;
    int n_open;
    struct buf request;
    int64_t now_ns, counts_from_ns, ends_ns, told_ns;
    double *samples_us;
    size_t n_samples, cap_samples, n_answers, n_texts;
} load = {.clients = 1, .seconds = 3, .warm = 0.5, .rate = 500, .pieces = 64};

static _Noreturn void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "proxy_clients: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static void sample(int64_t ns)
{
    if (load.n_samples == load.cap_samples) {
        load.cap_samples = load.cap_samples ? 2 * load.cap_samples : 1 << 16;
        load.samples_us = realloc(load.samples_us, load.cap_samples * sizeof *load.samples_us);
        if (!load.samples_us) fail("out of memory");
    }
    load.samples_us[load.n_samples++] = (double)ns / 1e3;
}

static void write_request(void)
{
    char body[400];
    bool stream = load.mode == STREAMS || load.mode == PACED;
    int n = snprintf(body, sizeof body,
                     "{\"model\":\"%.80s\",\"messages\":[{\"role\":\"user\",\"content\":\"What is a spillway, in a sentence or two?\"}],\"max_tokens\":%d%s}", load.model,
                     load.mode == PACED ? 100000 : 64, stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    buf_init(&load.request, HEAD_MAX_BYTES);
    buf_printf(&load.request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", load.path, load.port, n);
    if (load.key) buf_printf(&load.request, "Authorization: Bearer %s\r\n", load.key);
    buf_printf(&load.request, "\r\n%s", body);
    if (load.request.failed) fail("the request is too long");
}

/* --- answers --- */

static void take_time(struct client *c)
{
    int64_t delay_ns = load.now_ns - c->time_ns;
    if (delay_ns < 0 || delay_ns > (int64_t)STUCK_S * 1000000000) fail("a piece that was sent at %lld and read at %lld", (long long)c->time_ns, (long long)load.now_ns);
    if (load.now_ns >= load.counts_from_ns) sample(delay_ns);
}

static void take_paced(struct client *c, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!c->in_time) {
            const char *mark = memchr(p + i, '~', n - i);
            if (!mark) return;
            i = (size_t)(mark - p);
            c->in_time = true;
            c->time_ns = 0;
            c->n_texts++;
        } else if (p[i] == ';') {
            c->in_time = false;
            take_time(c);
        } else if (p[i] >= '0' && p[i] <= '9')
            c->time_ns = c->time_ns * 10 + (p[i] - '0');
        else
            fail("a piece's time was torn: %.*s", (int)(n < 200 ? n : 200), p);
    }
}

static void take_body(struct client *c, const char *p, size_t n)
{
    if (load.mode == PACED)
        take_paced(c, p, n);
    else if (load.mode == STREAMS)
        for (const char *at = p, *end = p + n; (at = memchr(at, '~', (size_t)(end - at))); at++) c->n_texts++;
    size_t keep = n < TAIL_BYTES ? n : TAIL_BYTES;
    memmove(c->tail, c->tail + keep, TAIL_BYTES - keep);
    memcpy(c->tail + TAIL_BYTES - keep, p + n - keep, keep);
    c->n_body += n;
}

static bool take_line(struct client *c, char byte)
{
    if (byte == '\n') {
        if (c->n_line && c->line[c->n_line - 1] == '\r') c->n_line--;
        c->line[c->n_line] = '\0';
        c->n_line = 0;
        return true;
    }
    if (c->n_line + 1 >= sizeof c->line) fail("a chunk's head is too long");
    c->line[c->n_line++] = byte;
    return false;
}

static void on_body(struct client *c, const char *p, size_t n)
{
    while (n && c->body != BODY_DONE) {
        if (c->body == BODY_DATA || c->body == BODY_PLAIN) {
            size_t take = n < c->left ? n : c->left;
            take_body(c, p, take);
            p += take;
            n -= take;
            if (!(c->left -= take)) c->body = c->body == BODY_DATA ? BODY_DATA_END : BODY_DONE;
            continue;
        }
        n--;
        if (!take_line(c, *p++)) continue;
        if (c->body == BODY_DATA_END) {
            c->body = BODY_SIZE;
        } else if (c->body == BODY_SIZE) {
            c->left = strtoul(c->line, NULL, 16);
            c->body = c->left ? BODY_DATA : BODY_TRAILER;
        } else if (!c->line[0])
            c->body = BODY_DONE; /* the trailer's empty line */
    }
    if (n) fail("%zu bytes after an answer's end", n);
}

static void on_head(struct client *c)
{
    const char *length = strcasestr(c->head.data, "\r\ncontent-length:");
    if (strncmp(c->head.data, "HTTP/1.1 200", 12) != 0) fail("answer: %.*s", (int)(c->head.len < 900 ? c->head.len : 900), c->head.data);
    if (strcasestr(c->head.data, "transfer-encoding: chunked"))
        c->body = BODY_SIZE;
    else if (length && (c->left = strtoul(length + 17, NULL, 10)))
        c->body = BODY_PLAIN;
    else
        fail("an answer without a length");
    c->in_body = true;
    if (load.mode == PACED && ++load.n_open == load.clients) {
        printf("open\n");
        fflush(stdout);
    }
}

static void on_bytes(struct client *c, const char *p, size_t n)
{
    if (!c->in_body) {
        size_t before = c->head.len;
        if (buf_append(&c->head, p, n < HEAD_MAX_BYTES - before ? n : HEAD_MAX_BYTES - before)) fail("out of memory");
        char *end = memmem(c->head.data, c->head.len, "\r\n\r\n", 4);
        if (!end && c->head.len == HEAD_MAX_BYTES) fail("an answer's header is too long");
        if (!end) return;
        size_t used = (size_t)(end - c->head.data) + 4 - before;
        end[2] = '\0';
        on_head(c);
        p += used;
        n -= used;
    }
    if (n) on_body(c, p, n);
}

/* --- clients --- */

static void client_connect(struct client *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a)) fail("port %d: %s", load.port, strerror(errno));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) || epoll_ctl(load.epoll, EPOLL_CTL_ADD, c->fd, &ev)) fail("socket: %s", strerror(errno));
    c->fresh = true;
}

static void client_ask(struct client *c, int64_t from_ns)
{
    if (c->fd < 0) client_connect(c);
    buf_clear(&c->head);
    c->busy = true;
    c->in_body = c->in_time = false;
    c->n_texts = c->n_body = c->n_line = 0;
    c->from_ns = from_ns;
    if (send(c->fd, load.request.data, load.request.len, MSG_NOSIGNAL) != (ssize_t)load.request.len && errno != EPIPE && errno != ECONNRESET)
        fail("send: %s", strerror(errno));
}

static void client_answered(struct client *c)
{
    if (load.mode == PACED) fail("a stream ended");
    if (load.mode == STREAMS && (int)c->n_texts != load.pieces) fail("a stream of %zu pieces", c->n_texts);
    if (load.mode == STREAMS && memcmp(c->tail, "data: [DONE]\n\n", TAIL_BYTES) != 0) fail("a stream without [DONE]");
    if (load.mode != STREAMS && c->n_body < 5 * (size_t)load.pieces) fail("an answer of %zu bytes", c->n_body);
    load.told_ns = load.now_ns;
    if (load.now_ns >= load.counts_from_ns && load.now_ns <= load.ends_ns) {
        load.n_answers++;
        load.n_texts += c->n_texts;
        if (c->from_ns >= load.counts_from_ns) sample(load.now_ns - c->from_ns);
    }
    c->busy = c->fresh = false;
    if (load.mode == RATE) {
        c->next_free = load.free;
        load.free = c;
    } else if (load.now_ns < load.ends_ns)
        client_ask(c, load.now_ns);
}

/* A kept connection that the server gave up as the request came is asked again. */
static void client_closed(struct client *c)
{
    bool again = c->busy && !c->fresh && !c->in_body && c->head.len == 0;
    close(c->fd);
    c->fd = -1;
    if (again)
        client_ask(c, c->from_ns);
    else if (c->busy)
        fail("the server closed a connection in the middle of an answer");
}

static void client_readable(struct client *c)
{
    static char bytes[READ_BYTES];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    load.now_ns = clock_boot_ns();
    if (n <= 0) {
        client_closed(c);
        return;
    }
    if (!c->busy) fail("bytes that nobody asked for");
    on_bytes(c, bytes, (size_t)n);
    if (c->in_body && c->body == BODY_DONE) client_answered(c);
}

/* --- the run --- */

static void take_events(int64_t until_ns)
{
    struct epoll_event events[EVENTS];
    int64_t left_ns = until_ns - clock_boot_ns();
    if (left_ns < 0) left_ns = 0;
    struct timespec wait = {.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
    int n = epoll_pwait2(load.epoll, events, EVENTS, &wait, NULL);
    if (n < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
    load.now_ns = clock_boot_ns();
    for (int i = 0; i < n; i++) client_readable(events[i].data.ptr);
}

/* Begins n requests evenly from begin_ns on, a gap apart, and takes what comes meanwhile. */
static void run_schedule(int64_t begin_ns, int64_t gap_ns, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        int64_t due_ns = begin_ns + i * gap_ns;
        if (clock_boot_ns() < due_ns) {
            take_events(due_ns);
            continue;
        }
        struct client *c = load.mode == RATE ? load.free : &load.all[i];
        if (!c) fail("%d requests are under way and more are due: it does not keep up", load.clients);
        load.free = load.mode == RATE ? c->next_free : NULL;
        client_ask(c, due_ns);
        i++;
    }
}

static bool any_busy(void)
{
    for (int i = 0; i < load.clients; i++)
        if (load.all[i].busy) return true;
    return false;
}

static void run(void)
{
    int64_t begin_ns = clock_boot_ns(), seconds_ns = (int64_t)(load.seconds * 1e9), spread_ns = load.mode == PACED ? 1000000000 : 0;
    load.counts_from_ns = begin_ns + spread_ns + (int64_t)(load.warm * 1e9);
    load.ends_ns = load.counts_from_ns + seconds_ns;
    if (load.mode == RATE)
        run_schedule(begin_ns, 1000000000 / load.rate, (int64_t)((load.warm + load.seconds) * load.rate));
    else
        run_schedule(begin_ns, spread_ns / load.clients, load.clients);
    while (load.now_ns < load.ends_ns) take_events(load.ends_ns);
    if (load.mode == PACED && load.n_open < load.clients) fail("%d of %d streams had begun", load.n_open, load.clients);
    while (load.mode != PACED && any_busy()) { /* what is under way is answered, though it counts no more */
        if (load.now_ns > load.ends_ns + (int64_t)STUCK_S * 1000000000) fail("no answer for %d s", STUCK_S);
        take_events(load.now_ns + 100000000);
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The sample at rank ceil(p n). */
static double rank(double p)
{
    size_t at = (size_t)(p * (double)load.n_samples + 0.999999);
    return load.samples_us[at ? at - 1 : 0];
}

static void tell(void)
{
    if (load.n_samples == 0) fail("nothing was answered in time");
    qsort(load.samples_us, load.n_samples, sizeof *load.samples_us, compare_doubles);
    printf("{\"answers\": %zu, \"per_s\": %.3f, \"pieces\": %zu, \"us\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"n\": %zu}}\n", load.n_answers,
           (double)load.n_answers / load.seconds, load.n_texts, rank(0.5), rank(0.9), rank(0.99), rank(1), load.n_samples);
}

static void read_settings(int argc, char **argv)
{
    static const struct option options[] = {{"port", 1, NULL, 'p'},    {"path", 1, NULL, 'a'},    {"model", 1, NULL, 'm'}, {"key", 1, NULL, 'k'}, {"mode", 1, NULL, 'o'},
                                            {"clients", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'}, {"warm", 1, NULL, 'w'},  {"rate", 1, NULL, 'r'}, {NULL, 0, NULL, 0}};
    static const char *const modes[] = {"calls", "rate", "streams", "paced"};
    int mode = -1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'p') load.port = atoi(optarg);
        if (c == 'a') load.path = optarg;
        if (c == 'm') load.model = optarg;
        if (c == 'k') load.key = optarg;
        if (c == 'c') load.clients = atoi(optarg);
        if (c == 's') load.seconds = atof(optarg);
        if (c == 'w') load.warm = atof(optarg);
        if (c == 'r') load.rate = atoi(optarg);
        for (int i = 0; c == 'o' && i < 4; i++)
            if (strcmp(optarg, modes[i]) == 0) mode = i;
        if (c == '?') exit(2);
    }
    load.mode = (enum mode)mode;
    if (mode >= 0 && load.port > 0 && load.path && load.model && load.clients > 0 && load.clients <= MAX_CLIENTS && load.seconds > 0 && load.rate > 0) return;
    fprintf(stderr, "usage: proxy_clients --port N --path PATH --model NAME --mode calls|rate|streams|paced --clients 1..%d (see its file's head)\n", MAX_CLIENTS);
    exit(2);
}

int main(int argc, char **argv)
{
    read_settings(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1UL); /* else what is due is sent 50 us late */
    write_request();
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.all = calloc((size_t)load.clients, sizeof *load.all);
    if (load.epoll < 0 || !load.all) fail("out of memory");
    for (int i = 0; i < load.clients; i++) {
        struct client *c = &load.all[i];
        c->fd = -1;
        buf_init(&c->head, HEAD_MAX_BYTES);
        if (load.mode == RATE) client_connect(c);
        c->next_free = load.free;
        load.free = c;
    }
    run();
    tell();
    return 0;
}
