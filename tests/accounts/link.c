/* Link: see link.h. A thread that accepts, and one a connection. */
#include "tests/accounts/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"

enum { MAX_MESSAGE = 1 << 20, POLL_MS = 20, REPLY_MS = 2000, LATE_US = 250000, NO_CUT = -1 };

static struct {
    int fd;
    uint16_t server_port;
    char url[256];
    pthread_t thread;
    atomic_bool stopping, away;
    atomic_int left; /* COMMITs until the cut; NO_CUT: none is wanted */
    atomic_int how, n_cut, n_connections;
} hub = {.left = NO_CUT};

struct connection {
    int client, server;
    bool begun; /* the first message has no type */
    size_t n;
    unsigned char bytes[MAX_MESSAGE]; /* of the client, not yet a whole message */
};

static int connect_to(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static bool send_all(int fd, const unsigned char *p, size_t n)
{
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static void wait_for_reply(int server)
{
    struct pollfd p = {.fd = server, .events = POLLIN};
    (void)poll(&p, 1, REPLY_MS);
}

static void cut(struct connection *c, const unsigned char *message, size_t n)
{
    int how = hub.how;
    if (how == LINK_LATE) {
        close(c->client);
        c->client = -1;
        usleep(LATE_US);
    }
    if (how != LINK_BEFORE) send_all(c->server, message, n);
    if (how == LINK_AFTER || how == LINK_LATE) wait_for_reply(c->server);
    atomic_fetch_add(&hub.n_cut, 1);
}

static bool is_commit(const unsigned char *p, size_t n)
{
    return n == 1 + 4 + 7 && p[0] == 'Q' && memcmp(p + 5, "COMMIT", 7) == 0;
}

/* A fetch_sub that does not go below NO_CUT. true: it is this one's turn. */
static bool is_due(void)
{
    int left = hub.left;
    while (left != NO_CUT && !atomic_compare_exchange_weak(&hub.left, &left, left - 1)) {
    }
    return left == 0;
}

/* The whole messages go on. false: the link is to be closed. */
static bool forward(struct connection *c)
{
    for (;;) {
        size_t head = c->begun ? 1 : 0, n;
        if (c->n < head + 4) return true;
        n = head + ((size_t)c->bytes[head] << 24 | (size_t)c->bytes[head + 1] << 16 | (size_t)c->bytes[head + 2] << 8 | c->bytes[head + 3]);
        CHECK(n <= MAX_MESSAGE);
        if (c->n < n) return true;
        if (c->begun && is_commit(c->bytes, n) && is_due()) {
            cut(c, c->bytes, n);
            return false;
        }
        if (!send_all(c->server, c->bytes, n)) return false;
        c->begun = true;
        memmove(c->bytes, c->bytes + n, c->n -= n);
    }
}

static bool pass_on(struct connection *c, const struct pollfd p[2])
{
    unsigned char back[16384];
    if (p[0].revents) {
        ssize_t k = recv(c->client, c->bytes + c->n, MAX_MESSAGE - c->n, 0);
        if (k <= 0) return false;
        c->n += (size_t)k;
        if (!forward(c)) return false;
    }
    if (p[1].revents) {
        ssize_t k = recv(c->server, back, sizeof back, 0);
        if (k <= 0 || !send_all(c->client, back, (size_t)k)) return false;
    }
    return true;
}

static void *serve(void *arg)
{
    struct connection *c = arg;
    c->server = connect_to(hub.server_port);
    while (c->server >= 0 && !hub.stopping && !hub.away) {
        struct pollfd p[2] = {{.fd = c->client, .events = POLLIN}, {.fd = c->server, .events = POLLIN}};
        if (poll(p, 2, POLL_MS) > 0 && !pass_on(c, p)) break;
    }
    if (c->server >= 0) close(c->server);
    if (c->client >= 0) close(c->client);
    free(c);
    atomic_fetch_sub(&hub.n_connections, 1);
    return NULL;
}

static void *accept_all(void *arg)
{
    (void)arg;
    while (!hub.stopping) {
        struct pollfd p = {.fd = hub.fd, .events = POLLIN};
        if (poll(&p, 1, POLL_MS) <= 0) continue;
        int fd = accept(hub.fd, NULL, NULL);
        if (fd < 0) continue;
        struct connection *c = hub.away ? NULL : calloc(1, sizeof *c);
        pthread_t t;
        if (!c) {
            close(fd);
            continue;
        }
        c->client = fd;
        atomic_fetch_add(&hub.n_connections, 1);
        CHECK(pthread_create(&t, NULL, serve, c) == 0);
        pthread_detach(t);
    }
    return NULL;
}

void link_open(const char *url)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    const char *at = strstr(url, "127.0.0.1:");
    CHECK(at);
    hub.server_port = (uint16_t)atoi(at + 10);
    hub.stopping = hub.away = false;
    hub.left = NO_CUT;
    hub.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(hub.fd >= 0 && bind(hub.fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(hub.fd, 64) == 0);
    CHECK(getsockname(hub.fd, (struct sockaddr *)&a, &n) == 0);
    const char *rest = at + 10 + strspn(at + 10, "0123456789");
    snprintf(hub.url, sizeof hub.url, "%.*s127.0.0.1:%u%s?sslmode=disable&gssencmode=disable", (int)(at - url), url, ntohs(a.sin_port),
             rest);
    CHECK(pthread_create(&hub.thread, NULL, accept_all, NULL) == 0);
}

void link_close(void)
{
    hub.stopping = true;
    pthread_join(hub.thread, NULL);
    close(hub.fd);
    while (hub.n_connections) usleep(1000);
}

const char *link_url(void)
{
    return hub.url;
}

void link_cut_after(enum link_cut how, int n)
{
    hub.how = how;
    hub.left = n;
}

int link_n_cut(void)
{
    return hub.n_cut;
}

void link_set_away(bool away)
{
    hub.away = away;
}
