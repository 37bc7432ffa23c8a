/* stream_clients: load on a server of the OpenAI API, and when its tokens arrive. One thread, one epoll: so little work a token that one core feeds
 * hundreds of streams, and the same for every server that is measured.
 *
 *     stream_clients --port N [--host ADDRESS] [--key KEY] --model NAME --clients N --requests N [--prompt-digits N] [--prefix-digits N]
 *                    [--prefix-seed N] [--max-tokens N] [--temperature 0|1] [--seed N]
 *
 * A closed loop: each client sends POST /v1/chat/completions with stream, greedy sampling unless --temperature says 1, over one kept connection, reads it to its end, and
 * sends the next until all requests are spent. A prompt is --prefix-digits digits that depend on --prefix-seed, then --prompt-digits that
 * depend on --seed and the request's number: a token a digit with the tokenizers of SmolLM, and no two requests alike. `ignore_eos` (llama.cpp
 * and Spillway know it) keeps answers at --max-tokens.
 *
 * Prints one JSON object. A token's time is that of the event it came in; first_ms is from before the request is sent to the first text, gap_ms
 * from one text to the next of the same answer. output_tokens are those of the answers' `usage`; where a server sends none, events are counted. Exit
 * status 1 if a request failed: figures of a run with errors are none. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "server/sse_read.h"

enum { HEAD_MAX_BYTES = 1 << 16, REQUEST_MAX_BYTES = 1 << 20, READ_BYTES = 1 << 16, MAX_CLIENTS = 4096, EVENTS = 256 };

struct settings {
    const char *host, *key, *model;
    int port, clients, requests, prompt_digits, prefix_digits, max_tokens, temperature;
    uint64_t seed, prefix_seed;
};

enum body { BODY_SIZE, BODY_DATA, BODY_DATA_END, BODY_TRAILER, BODY_PLAIN, BODY_DONE };

struct client {
    int fd, number; /* of the request */
    struct buf out, head;
    size_t sent;
    bool in_body, done, fresh; /* done: [DONE] has come; fresh: nothing was asked over this connection yet */
    enum body body;
    size_t chunk_left;
    char line[64]; /* of a chunk's size, or of the trailer */
    size_t n_line;
    struct sse_read sse;
    int64_t sent_ns, last_ns;
    size_t n_texts, usage_tokens;
};

struct samples {
    double *ms;
    size_t n, cap;
};

struct load {
    struct settings s;
    int epoll;
    struct client *clients;
    int n_started, n_ended;
    struct samples first, gap;
    size_t output_tokens, prompt_tokens, cached_tokens;
    int64_t now_ns; /* when the bytes in hand were read */
};

static _Noreturn void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "stream_clients: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static void sample(struct samples *s, int64_t ns)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4096;
        s->ms = realloc(s->ms, s->cap * sizeof *s->ms);
        if (!s->ms) fail("out of memory");
    }
    s->ms[s->n++] = (double)ns / 1e6;
}

/* ---- a request ---- */

static uint64_t splitmix(uint64_t *s)
{
    uint64_t z = *s += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void put_digits(struct buf *b, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) buf_putc(b, (char)('0' + splitmix(&seed) % 10));
}

static void write_request(struct client *c, const struct settings *s, int number)
{
    struct buf body;
    buf_init(&body, REQUEST_MAX_BYTES);
    buf_printf(
        &body,
        "{\"model\": \"%s\", \"stream\": true, \"stream_options\": {\"include_usage\": true}, \"temperature\": %d, \"ignore_eos\": true, "
        "\"max_tokens\": %d, \"messages\": [{\"role\": \"user\", \"content\": \"",
        s->model, s->temperature, s->max_tokens);
    put_digits(&body, s->prefix_digits, s->prefix_seed);
    put_digits(&body, s->prompt_digits, s->seed * 1000003u + (uint64_t)number);
    buf_puts(&body, "\"}]}");
    buf_clear(&c->out);
    buf_printf(&c->out, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n",
               s->host, s->port, body.len);
    if (s->key) buf_printf(&c->out, "Authorization: Bearer %s\r\n", s->key);
    buf_puts(&c->out, "\r\n");
    buf_append(&c->out, body.data, body.len);
    if (body.failed || c->out.failed) fail("the request is too long");
    buf_free(&body);
}

/* ---- events ---- */

static void on_text(struct load *l, struct client *c)
{
    if (c->n_texts++ == 0)
        sample(&l->first, l->now_ns - c->sent_ns);
    else
        sample(&l->gap, l->now_ns - c->last_ns);
    c->last_ns = l->now_ns;
}

static void on_usage(struct load *l, struct client *c, const json_t *usage)
{
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    c->usage_tokens = (size_t)json_integer_value(json_object_get(usage, "completion_tokens"));
    l->prompt_tokens += (size_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
    l->cached_tokens += (size_t)json_integer_value(json_object_get(details, "cached_tokens"));
}

struct reader {
    struct load *l;
    struct client *c;
};

static int on_event(void *ctx, const char *name, const char *data, size_t n)
{
    struct reader *r = ctx;
    struct err e = {0};
    json_t *j;
    (void)name;
    if (strcmp(data, "[DONE]") == 0) {
        r->c->done = true;
        return 0;
    }
    if (json_read(data, n, &json_limits_request, "event", &j, &e)) fail("%s", e.msg);
    if (json_object_get(j, "error")) fail("error event: %.400s", data);
    const json_t *delta = json_object_get(json_array_get(json_object_get(j, "choices"), 0), "delta");
    if (json_string_length(json_object_get(delta, "content"))) on_text(r->l, r->c);
    if (json_is_object(json_object_get(j, "usage"))) on_usage(r->l, r->c, json_object_get(j, "usage"));
    json_decref(j);
    return 0;
}

static void push_events(struct load *l, struct client *c, const char *p, size_t n)
{
    struct err e = {0};
    struct reader r = {l, c};
    c->sse.ctx = &r;
    if (sse_read_push(&c->sse, p, n, &e)) fail("stream: %s", e.msg);
}

/* ---- HTTP ---- */

/* One byte of a line; true when it is whole, without its end. */
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

static void on_body(struct load *l, struct client *c, const char *p, size_t n)
{
    while (n && c->body != BODY_DONE) {
        if (c->body == BODY_DATA || c->body == BODY_PLAIN) {
            size_t take = c->body == BODY_PLAIN || n < c->chunk_left ? n : c->chunk_left;
            push_events(l, c, p, take);
            p += take;
            n -= take;
            if (c->body == BODY_DATA && !(c->chunk_left -= take)) c->body = BODY_DATA_END;
            continue;
        }
        bool whole = take_line(c, *p++);
        n--;
        if (!whole) continue;
        if (c->body == BODY_DATA_END) {
            c->body = BODY_SIZE;
        } else if (c->body == BODY_SIZE) {
            c->chunk_left = strtoul(c->line, NULL, 16);
            c->body = c->chunk_left ? BODY_DATA : BODY_TRAILER;
        } else if (!c->line[0]) {
            c->body = BODY_DONE; /* the trailer's empty line */
        }
    }
    if (n) fail("%zu bytes after an answer's end", n);
}

/* Bytes up to the end of the header, then the body's. */
static void on_bytes(struct load *l, struct client *c, const char *p, size_t n)
{
    if (c->in_body) {
        on_body(l, c, p, n);
        return;
    }
    if (buf_append(&c->head, p, n)) fail("an answer's header is too long");
    char *end = memmem(c->head.data, c->head.len, "\r\n\r\n", 4);
    if (!end) return;
    size_t n_head = (size_t)(end - c->head.data) + 4;
    end[2] = '\0';
    if (strncmp(c->head.data, "HTTP/1.1 200", 12) != 0) fail("answer: %.*s", (int)(c->head.len < 700 ? c->head.len : 700), c->head.data);
    c->body = strcasestr(c->head.data, "transfer-encoding: chunked") ? BODY_SIZE : BODY_PLAIN;
    c->in_body = true;
    on_body(l, c, c->head.data + n_head, c->head.len - n_head);
}

/* ---- clients ---- */

static void client_connect(struct load *l, struct client *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)l->s.port)};
    int yes = 1;
    if (inet_pton(AF_INET, l->s.host, &a.sin_addr) != 1) fail("--host: %s is not an address", l->s.host);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a)) fail("%s:%d: %s", l->s.host, l->s.port, strerror(errno));
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) || fcntl(c->fd, F_SETFL, O_NONBLOCK))
        fail("socket: %s", strerror(errno));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev)) fail("epoll: %s", strerror(errno));
    c->fresh = true;
}

static void client_send(struct load *l, struct client *c)
{
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n > 0) {
            c->sent += (size_t)n;
            continue;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) fail("send: %s", strerror(errno));
        break;
    }
    struct epoll_event ev = {.events = EPOLLIN | (c->sent < c->out.len ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &ev)) fail("epoll: %s", strerror(errno));
}

static void client_ask(struct load *l, struct client *c)
{
    if (c->fd < 0) client_connect(l, c);
    write_request(c, &l->s, c->number);
    buf_clear(&c->head);
    sse_read_free(&c->sse);
    sse_read_init(&c->sse, on_event, NULL);
    c->in_body = c->done = false;
    c->sent = c->n_texts = c->usage_tokens = c->n_line = 0;
    c->sent_ns = clock_boot_ns();
    client_send(l, c);
}

static void client_ask_next(struct load *l, struct client *c)
{
    if (l->n_started == l->s.requests) return;
    c->number = l->n_started++;
    client_ask(l, c);
}

static void client_hang_up(struct client *c)
{
    close(c->fd); /* and out of the epoll */
    c->fd = -1;
}

static void client_answered(struct load *l, struct client *c)
{
    if (!c->done) fail("an answer ended without [DONE] after %zu texts", c->n_texts);
    l->output_tokens += c->usage_tokens ? c->usage_tokens : c->n_texts;
    l->n_ended++;
    c->fresh = false;
    c->body = BODY_SIZE;
    c->in_body = false;
    client_ask_next(l, c);
}

static void client_closed(struct load *l, struct client *c)
{
    bool asked = c->sent > 0 && !c->done;
    bool plain_end = c->in_body && c->body == BODY_PLAIN;
    client_hang_up(c);
    if (plain_end)
        client_answered(l, c);
    else if (asked && !c->in_body && !c->fresh) { /* a kept connection that the server gave up as the request came: asked again */
        client_ask(l, c);
    } else if (asked)
        fail("the server closed a connection in the middle of an answer");
}

static void client_readable(struct load *l, struct client *c)
{
    static char bytes[READ_BYTES];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    l->now_ns = clock_boot_ns();
    if (n <= 0) {
        client_closed(l, c);
        return;
    }
    on_bytes(l, c, bytes, (size_t)n);
    if (c->in_body && c->body == BODY_DONE) client_answered(l, c);
}

static void run(struct load *l)
{
    struct epoll_event events[EVENTS];
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->clients = calloc((size_t)l->s.clients, sizeof *l->clients);
    if (l->epoll < 0 || !l->clients) fail("out of memory");
    for (int i = 0; i < l->s.clients; i++) {
        struct client *c = &l->clients[i];
        c->fd = -1;
        buf_init(&c->out, REQUEST_MAX_BYTES);
        buf_init(&c->head, HEAD_MAX_BYTES);
        client_connect(l, c);
    }
    for (int i = 0; i < l->s.clients; i++) client_ask_next(l, &l->clients[i]);
    while (l->n_ended < l->s.requests) {
        int n = epoll_wait(l->epoll, events, EVENTS, 600000);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("nothing came for ten minutes");
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (c->fd < 0) continue;
            if (events[i].events & EPOLLOUT) client_send(l, c);
            if (events[i].events & ~(unsigned)EPOLLOUT) client_readable(l, c);
        }
    }
    for (int i = 0; i < l->s.clients; i++) {
        struct client *c = &l->clients[i];
        if (c->fd >= 0) client_hang_up(c);
        buf_free(&c->out);
        buf_free(&c->head);
        sse_read_free(&c->sse);
    }
    free(l->clients);
    close(l->epoll);
}

/* ---- figures ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of n sorted samples the one at rank ceil(p n). */
static double rank(const struct samples *s, double p)
{
    if (s->n == 0) return 0;
    size_t at = (size_t)(p * (double)s->n + 0.999999);
    return s->ms[at ? at - 1 : 0];
}

static void print_samples(const char *name, struct samples *s)
{
    qsort(s->ms, s->n, sizeof *s->ms, compare_doubles);
    printf(", \"%s\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"n\": %zu}", name, rank(s, 0.5), rank(s, 0.9),
           rank(s, 0.99), rank(s, 1), s->n);
    free(s->ms);
}

static void read_settings(struct settings *s, int argc, char **argv)
{
    enum { HOST = 1, PORT, KEY, MODEL, CLIENTS, REQUESTS, PROMPT, PREFIX, PREFIX_SEED, TOKENS, TEMPERATURE, SEED };
    static const struct option options[] = {{"host", 1, NULL, HOST},
                                            {"port", 1, NULL, PORT},
                                            {"key", 1, NULL, KEY},
                                            {"model", 1, NULL, MODEL},
                                            {"clients", 1, NULL, CLIENTS},
                                            {"requests", 1, NULL, REQUESTS},
                                            {"prompt-digits", 1, NULL, PROMPT},
                                            {"prefix-digits", 1, NULL, PREFIX},
                                            {"prefix-seed", 1, NULL, PREFIX_SEED},
                                            {"max-tokens", 1, NULL, TOKENS},
                                            {"temperature", 1, NULL, TEMPERATURE},
                                            {"seed", 1, NULL, SEED},
                                            {NULL, 0, NULL, 0}};
    int *numbers[] = {[PORT] = &s->port,
                      [CLIENTS] = &s->clients,
                      [REQUESTS] = &s->requests,
                      [PROMPT] = &s->prompt_digits,
                      [PREFIX] = &s->prefix_digits,
                      [TOKENS] = &s->max_tokens,
                      [TEMPERATURE] = &s->temperature};
    const char **texts[] = {[HOST] = &s->host, [KEY] = &s->key, [MODEL] = &s->model};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == HOST || c == KEY || c == MODEL)
            *texts[c] = optarg;
        else if (c == PREFIX_SEED || c == SEED)
            *(c == SEED ? &s->seed : &s->prefix_seed) = strtoull(optarg, NULL, 10);
        else if (c >= HOST && c <= TEMPERATURE)
            *numbers[c] = atoi(optarg);
        else
            exit(2);
    }
    if (!s->model || s->port <= 0 || s->clients < 1 || s->clients > MAX_CLIENTS || s->requests < 1 || s->max_tokens < 1 ||
        s->prompt_digits < 0 || s->prefix_digits < 0 || s->prompt_digits + s->prefix_digits < 1 ||
        s->prompt_digits + s->prefix_digits > REQUEST_MAX_BYTES / 2) {
        fprintf(stderr,
                "usage: stream_clients --port N --model NAME --clients 1..%d --requests N (see the head of bench/stream_clients.c)\n",
                MAX_CLIENTS);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct load l = {
        .s = {.host = "127.0.0.1", .clients = 1, .requests = 1, .prompt_digits = 110, .max_tokens = 64, .seed = 1, .prefix_seed = 1}};
    read_settings(&l.s, argc, argv);
    int64_t begin_ns = clock_boot_ns();
    run(&l);
    double seconds = (double)(clock_boot_ns() - begin_ns) / 1e9;
    printf(
        "{\"clients\": %d, \"requests\": %d, \"seconds\": %.6f, \"output_tokens\": %zu, \"tokens_per_s\": %.3f, \"prompt_tokens\": %.2f, "
        "\"cached_tokens\": %.2f",
        l.s.clients, l.s.requests, seconds, l.output_tokens, (double)l.output_tokens / seconds, (double)l.prompt_tokens / l.s.requests,
        (double)l.cached_tokens / l.s.requests);
    print_samples("first_ms", &l.first);
    print_samples("gap_ms", &l.gap);
    printf("}\n");
    return 0;
}
