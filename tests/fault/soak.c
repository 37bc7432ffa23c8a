/* Soak client: sends a mix of requests over keep-alive connections as fast as it can, checks each answer's status, and stops ten times on the way
 * so that somebody can measure the server at rest.
 *
 *   soak PORT TOTAL THREADS < kinds      a line a kind: WEIGHT STATUS LEAVE FILE
 * FILE holds the request's bytes; STATUS is what must come back; LEAVE -1, or the number of bytes of the answer after which the client resets the
 * connection. An event stream must end with [DONE]. At each tenth it prints "done N seconds", then waits for a line. At the end one line a kind;
 * exit code 1 if any answer was not as it must be. Which kind request i is follows from i alone. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_KINDS = 64, MAX_THREADS = 64, ANSWER_BYTES = 1 << 20, TENTHS = 10, READ_SECONDS = 20 };

struct kind {
    unsigned weight;
    int status;
    long leave;
    char name[256];
    char *wire;
    size_t n_wire;
    _Atomic uint64_t asked, wrong;
};

static struct kind kinds[MAX_KINDS];
static size_t n_kinds;
static unsigned all_weights;
static uint16_t port;
static _Atomic uint64_t next_request, until;

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(2);
}

static void kind_load(struct kind *k)
{
    FILE *f = fopen(k->name, "rb");
    if (!f || fseek(f, 0, SEEK_END)) die(k->name);
    k->n_wire = (size_t)ftell(f);
    k->wire = malloc(k->n_wire);
    rewind(f);
    if (!k->wire || fread(k->wire, 1, k->n_wire, f) != k->n_wire) die(k->name);
    fclose(f);
    all_weights += k->weight;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static struct kind *kind_of(uint64_t i)
{
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u; /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    unsigned at = (unsigned)((x ^ (x >> 31)) % all_weights);
    struct kind *k = kinds;
    while (at >= k->weight) at -= k++->weight;
    return k;
}

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) die("connect");
    struct timeval limit = {.tv_sec = READ_SECONDS};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void leave(int fd)
{
    struct linger l = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd);
}

static bool send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        p += sent;
        n -= (size_t)sent;
    }
    return true;
}

/* True when `at` bytes are a whole answer. */
static bool is_whole(const char *answer, size_t at, const char *body)
{
    if (!body) return false;
    const char *length = strcasestr(answer, "\ncontent-length: ");
    if (length && length < body) return at >= (size_t)(body - answer) + strtoul(length + 17, NULL, 10);
    return at >= 5 && memcmp(answer + at - 5, "0\r\n\r\n", 5) == 0 && (answer + at - 5 == body || answer[at - 6] == '\n');
}

/* One request; *fd is -1 afterwards if the connection is of no more use. */
static void ask(struct kind *k, int *fd, char *answer)
{
    if (*fd < 0) *fd = dial();
    atomic_fetch_add(&k->asked, 1);
    bool sent = send_all(*fd, k->wire, k->n_wire), closed = false;
    size_t at = 0;
    char *body = NULL;
    while (!is_whole(answer, at, body) && (k->leave < 0 || at < (size_t)k->leave) && at + 1 < ANSWER_BYTES) {
        ssize_t n = recv(*fd, answer + at, ANSWER_BYTES - 1 - at, 0);
        if (n <= 0) {
            closed = true;
            break;
        }
        at += (size_t)n;
        answer[at] = '\0';
        if (!body && (body = strstr(answer, "\r\n\r\n"))) body += 4;
    }
    if (k->leave >= 0) {
        leave(*fd);
        *fd = -1;
        return;
    }
    bool right = is_whole(answer, at, body) && atoi(answer + 9) == k->status;
    if (right && k->status == 200 && strstr(answer, "text/event-stream")) right = strstr(body, "data: [DONE]\n\n") != NULL;
    if (!right && atomic_fetch_add(&k->wrong, 1) == 0)
        fprintf(stderr, "%s: sent %d, closed %d: %.600s\n", base_name(k->name), sent, closed, at ? answer : "(nothing)");
    char *close_word = right ? strcasestr(answer, "\r\nconnection: close\r\n") : NULL;
    if (right && !(close_word && close_word < body)) return;
    close(*fd);
    *fd = -1;
}

static void *client(void *arg)
{
    (void)arg;
    char *answer = malloc(ANSWER_BYTES);
    if (!answer) die("malloc");
    int fd = -1;
    for (;;) {
        uint64_t i = atomic_fetch_add(&next_request, 1);
        if (i >= atomic_load(&until)) break;
        ask(kind_of(i), &fd, answer);
    }
    if (fd >= 0) close(fd);
    free(answer);
    return NULL;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double run_tenth(uint64_t from, uint64_t to, int n_threads)
{
    pthread_t threads[MAX_THREADS];
    double start = now_s();
    atomic_store(&next_request, from);
    atomic_store(&until, to);
    for (int i = 0; i < n_threads; i++)
        if (pthread_create(&threads[i], NULL, client, NULL)) die("pthread_create");
    for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
    return now_s() - start;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: soak PORT TOTAL THREADS < kinds\n");
        return 2;
    }
    port = (uint16_t)atoi(argv[1]);
    uint64_t total = strtoull(argv[2], NULL, 10);
    int n_threads = atoi(argv[3]);
    if (n_threads < 1 || n_threads > MAX_THREADS) return 2;
    char line[512];
    while (n_kinds < MAX_KINDS && fgets(line, sizeof line, stdin) && line[0] != '\n') {
        struct kind *k = &kinds[n_kinds++];
        if (sscanf(line, "%u %d %ld %255s", &k->weight, &k->status, &k->leave, k->name) != 4) return 2;
        kind_load(k);
    }
    double took_s = 0;
    for (uint64_t i = 0; i < TENTHS; i++) {
        took_s += run_tenth(total * i / TENTHS, total * (i + 1) / TENTHS, n_threads);
        printf("done %llu %.3f\n", (unsigned long long)(total * (i + 1) / TENTHS), took_s);
        fflush(stdout);
        if (!fgets(line, sizeof line, stdin)) return 2;
    }
    uint64_t wrong = 0;
    for (size_t i = 0; i < n_kinds; i++) {
        printf("%s asked %llu wrong %llu\n", base_name(kinds[i].name), (unsigned long long)kinds[i].asked,
               (unsigned long long)kinds[i].wrong);
        wrong += kinds[i].wrong;
        free(kinds[i].wire);
    }
    return wrong ? 1 : 0;
}
