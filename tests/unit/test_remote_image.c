/* server/remote_image (T30): what is connected to when names change their answers, URLs lead on, or hosts do what they like. getaddrinfo is this program's
 * own, so curl's threads call it: names get addresses of 127.0.0.0/8, of which 127.0.0.2 alone is allowed. At both addresses a server counts who comes. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/remote_image.h"

enum { RESOLVE_MS = 400, GATHER_MS = 5000, MORE_MS = 50, MAX_FETCHES = 16 };
#define BYTES "as many bytes as a picture"

/* --- names --- */

static atomic_int n_rebind, n_resolved;

static void add_address(struct addrinfo ***end, const char *ip, const char *service)
{
    struct addrinfo *a = calloc(1, sizeof *a + sizeof(struct sockaddr_in)); /* one block, as freeaddrinfo takes it */
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)(a + 1);
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(service))};
    inet_pton(AF_INET, ip, &in->sin_addr);
    *a = (struct addrinfo){.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_addrlen = sizeof *in, .ai_addr = (struct sockaddr *)in};
    **end = a;
    *end = &a->ai_next;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)hints;
    struct addrinfo **end = out;
    *out = NULL;
    if (strcmp(node, "slow.test") == 0) usleep(RESOLVE_MS * 1000);
    atomic_fetch_add(&n_resolved, 1);
    if (strcmp(node, "good.test") == 0 || strcmp(node, "slow.test") == 0) add_address(&end, "127.0.0.2", service);
    if (strcmp(node, "bad.test") == 0) add_address(&end, "127.0.0.1", service);
    if (strcmp(node, "localhost") == 0) add_address(&end, "127.0.0.1", service);
    if (strcmp(node, "rebind.test") == 0) add_address(&end, atomic_fetch_add(&n_rebind, 1) == 0 ? "127.0.0.2" : "127.0.0.1", service);
    if (strcmp(node, "both.test") == 0) {
        add_address(&end, "127.0.0.1", service);
        add_address(&end, "127.0.0.2", service);
    }
    return *out ? 0 : EAI_NONAME;
}

/* --- hosts --- */

static atomic_int n_good, n_bad;         /* connections to 127.0.0.2 and 127.0.0.1 */
static atomic_int n_now, n_most, gather; /* of /slow that wait for their answer, at once; so many are waited for */
static char head[4096];                         /* of the last request */
static uint16_t port;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void say(int fd, const char *text)
{
    (void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void say_forever(int fd, const char *first, const char *text)
{
    say(fd, first);
    while (send(fd, text, strlen(text), MSG_NOSIGNAL) > 0) {
    }
}

/* Until as many are here as should be, and a little longer, so that one too many would be seen. */
static void wait_for_others(void)
{
    int now = atomic_fetch_add(&n_now, 1) + 1;
    for (int most = n_most; now > most && !atomic_compare_exchange_weak(&n_most, &most, now);) {
    }
    for (int ms = 0; n_most < gather && ms < GATHER_MS; ms++) usleep(1000);
    usleep(MORE_MS * 1000);
    atomic_fetch_sub(&n_now, 1);
}

static void answer(int fd, const char *path)
{
    char text[1024], piece[4097];
    const char *status = strncmp(path, "/status?", 8) == 0 ? path + 8 : "302 Found";
    memset(piece, 'x', 4096);
    piece[4096] = '\0';
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: %zu\r\n\r\n%s", strlen(BYTES), BYTES);
    if (strcmp(path, "/slow") == 0) wait_for_others();
    if (strcmp(path, "/hang") == 0) (void)!read(fd, piece, 1); /* until it is left */
    if (strcmp(path, "/big") == 0) say_forever(fd, "HTTP/1.1 200 OK\r\n\r\n", piece);
    if (strcmp(path, "/headers") == 0) say_forever(fd, "HTTP/1.1 200 OK\r\n", "x: 0123456789012345678901234567890123456789\r\n");
    if (strcmp(path, "/empty") == 0) snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    if (strcmp(path, "/cut") == 0) snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
    if (strcmp(path, "/nothing") == 0) text[0] = '\0';
    if (strncmp(path, "/status?", 8) == 0) snprintf(text, sizeof text, "HTTP/1.1 %.9s Other\r\nwww-authenticate: Basic\r\ncontent-length: 5\r\n\r\nwhat?", status);
    if (strncmp(path, "/to?", 4) == 0) snprintf(text, sizeof text, "HTTP/1.1 302 Found\r\nlocation: %.900s\r\ncontent-length: 4\r\n\r\nthis", path + 4);
    say(fd, text);
}

/* false: it has closed the connection. */
static bool read_head(int fd, char text[4096])
{
    size_t n = 0;
    for (ssize_t got; n < 4095 && (got = read(fd, text + n, 4095 - n)) > 0;) {
        n += (size_t)got;
        text[n] = '\0';
        if (strstr(text, "\r\n\r\n")) return true;
    }
    return false;
}

/* Who asks for /ok may ask again. */
static void *serve(void *ctx)
{
    const int fd = (int)(intptr_t)ctx;
    char text[4096], path[1024] = "/ok";
    while (strncmp(path, "/ok", 3) == 0 && read_head(fd, text) && sscanf(text, "GET %1023s ", path) == 1) {
        pthread_mutex_lock(&lock);
        memcpy(head, text, sizeof head);
        pthread_mutex_unlock(&lock);
        answer(fd, path);
    }
    close(fd);
    return NULL;
}

static int listen_at(const char *ip)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    inet_pton(AF_INET, ip, &a.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    port = ntohs(a.sin_port);
    return fd;
}

static void *accept_all(void *ctx)
{
    struct pollfd *fds = ctx;
    while (poll(fds, 2, -1) > 0)
        for (int i = 0; i < 2; i++) {
            pthread_t thread;
            if (!fds[i].revents) continue;
            int fd = accept(fds[i].fd, NULL, NULL);
            atomic_fetch_add(i ? &n_bad : &n_good, 1);
            if (fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0) pthread_detach(thread);
        }
    return NULL;
}

static int start_hosts(void **state)
{
    static struct pollfd fds[2];
    pthread_t thread;
    char proxy[64];
    (void)state;
    fds[0] = (struct pollfd){.fd = listen_at("127.0.0.2"), .events = POLLIN};
    fds[1] = (struct pollfd){.fd = listen_at("127.0.0.1"), .events = POLLIN};
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%u", port);
    setenv("http_proxy", proxy, 1); /* nobody is to go there */
    setenv("all_proxy", proxy, 1);
    return pthread_create(&thread, NULL, accept_all, fds);
}

/* --- fetches --- */

static struct {
    struct loop *loop;
    struct remote_images *images;
    struct limits limits;
    struct loop_timer timer, tick;
    struct remote_fetch *fetches[MAX_FETCHES];
    int n, n_ended, wanted, n_whole, left;
    struct err last;
    char bytes[64];
    size_t n_kept;
    int64_t last_ms, longest_ms;
} t;

static int begin(void **state)
{
    (void)state;
    struct err e;
    static char any[16];
    struct remote_rules rules = {.http = true};
    memset(&t, 0, sizeof t);
    n_good = n_bad = n_rebind = n_resolved = n_most = 0;
    limits_init(&t.limits);
    snprintf(any, sizeof any, "*:%u", port);
    assert_int_equal(remote_rules_add_host(&rules, any, &e), 0);
    assert_int_equal(ip_nets_add(&rules.nets, "127.0.0.2", &e), 0);
    assert_int_equal(loop_new(&t.loop, &e), 0);
    assert_int_equal(remote_images_new(&t.images, t.loop, &rules, NULL, &e), 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    remote_images_free(t.images);
    loop_timer_clear(t.loop, &t.timer);
    loop_timer_clear(t.loop, &t.tick);
    loop_free(t.loop);
    return 0;
}

static int keep(void *ctx, size_t n, struct err *e)
{
    (void)ctx;
    t.n_kept += n;
    return t.left && t.n_kept > (size_t)t.left ? err_set(e, ERR_BUSY, "no more") : 0;
}

static void done(void *ctx, struct buf *bytes, const struct err *e)
{
    struct remote_fetch **mine = ctx;
    *mine = NULL;
    if (e)
        t.last = *e;
    else {
        t.n_whole++;
        snprintf(t.bytes, sizeof t.bytes, "%.*s", (int)bytes->len, bytes->data);
    }
    if (++t.n_ended == t.wanted) loop_stop(t.loop);
}

static int fetch(const char *format, ...)
{
    char text[512];
    struct remote_url url;
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    int rc = remote_url_read(remote_images_rules(t.images), text, strlen(text), &url, &t.last);
    const struct remote_order o = {.url = &url, .limits = &t.limits, .keep = keep, .done = done, .ctx = &t.fetches[t.n]};
    if (!rc) rc = remote_image_fetch(t.images, &o, &t.fetches[t.n], &t.last);
    if (!rc) t.n++;
    return rc;
}

static void stop(void *ctx)
{
    (void)ctx;
    loop_stop(t.loop);
}

static void run(int64_t ms)
{
    t.timer = (struct loop_timer){.fn = stop};
    assert_int_equal(loop_timer_set(t.loop, &t.timer, clock_boot_ms() + ms), 0);
    assert_int_equal(loop_run(t.loop, NULL), 0);
}

static void run_all(void)
{
    t.wanted = t.n;
    if (t.n_ended < t.wanted) run(10000);
    assert_int_equal(t.n_ended, t.wanted);
}

static void expect_refused(enum err_code code)
{
    run_all();
    assert_int_equal(t.n_whole, 0);
    assert_int_equal(t.last.code, code);
}

static void test_an_allowed_host_gives_its_bytes(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://good.test:%u/ok", port), 0);
    run_all();
    assert_string_equal(t.bytes, BYTES);
    assert_int_equal(n_good, 1);
}

static void test_it_says_nothing_of_us_and_asks_no_proxy(void **state)
{
    (void)state;
    char host[64];
    snprintf(host, sizeof host, "\r\nHost: good.test:%u\r\n", port);
    assert_int_equal(fetch("http://good.test:%u/ok?a=1", port), 0);
    run_all();
    assert_int_equal(fetch("http://good.test:%u/ok?a=1", port), 0); /* a cookie was set meanwhile */
    run_all();
    pthread_mutex_lock(&lock);
    assert_memory_equal(head, "GET /ok?a=1 HTTP/1.1\r\n", 22);
    assert_non_null(strstr(head, host));
    assert_null(strcasestr(head, "\r\ncookie:"));
    assert_null(strcasestr(head, "\r\nauthorization:"));
    pthread_mutex_unlock(&lock);
    assert_int_equal(n_good, 2); /* and no connection of the first was used again */
    assert_int_equal(n_bad, 0);
}

static void test_a_name_of_another_address_is_not_connected_to(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://bad.test:%u/ok", port), 0);
    expect_refused(ERR_INPUT);
    assert_int_equal(n_bad, 0);
}

static void test_localhost_is_not_connected_to(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://localhost:%u/ok", port), 0);
    expect_refused(ERR_INPUT);
    assert_int_equal(n_bad, 0);
}

static void test_of_a_names_addresses_only_allowed_ones_are_connected_to(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://both.test:%u/ok", port), 0);
    run_all();
    assert_int_equal(t.n_whole, 1);
    assert_int_equal(n_bad, 0);
}

static void test_a_name_that_changes_its_answer_gains_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fetch("http://rebind.test:%u/ok", port), 0);
        run_all();
    }
    assert_int_equal(n_rebind, 2); /* asked anew, and judged anew */
    assert_int_equal(t.n_whole, 1);
    assert_int_equal(n_bad, 0);
}

static void test_a_name_that_changes_between_redirects_gains_nothing(void **state)
{
    (void)state;
    t.limits.remote_image_redirects = 5;
    assert_int_equal(fetch("http://rebind.test:%u/to?/ok", port), 0);
    expect_refused(ERR_INPUT);
    assert_int_equal(n_rebind, 2);
    assert_int_equal(n_bad, 0);
}

static void test_all_failures_to_connect_are_told_alike(void **state)
{
    (void)state;
    char first[sizeof t.last.msg];
    assert_int_equal(fetch("http://bad.test:%u/", port), 0);
    run_all();
    strcpy(first, t.last.msg);
    assert_int_equal(fetch("http://none.test:%u/", port), 0);
    run_all();
    assert_string_equal(t.last.msg, first);
}

static void test_redirects_are_not_followed(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://good.test:%u/to?/ok", port), 0);
    expect_refused(ERR_INPUT);
    assert_int_equal(n_good, 1);
}

static void test_redirects_are_followed_as_often_as_is_allowed(void **state)
{
    (void)state;
    t.limits.remote_image_redirects = 2;
    assert_int_equal(fetch("http://good.test:%u/to?/to?http://both.test:%u/ok", port, port), 0);
    run_all();
    assert_int_equal(t.n_whole, 1);
    assert_int_equal(fetch("http://good.test:%u/to?/to?/to?/ok", port), 0);
    run_all();
    assert_int_equal(t.n_whole, 1);
    assert_int_equal(n_good, 6);
}

static void test_a_redirect_is_judged_like_the_first_url(void **state)
{
    (void)state;
    static const char *const to[] = {"http://127.0.0.1:%u/ok",       "http://bad.test:%u/ok", "http://localhost:%u/ok",  "http://u:p@good.test:%u/ok",
                                     "http://[::ffff:127.0.0.1]:%u", "http://good.test/",     "ftp://good.test:%u/ok",   "file:///etc/passwd",
                                     "//127.0.0.1:%u/ok",            "http://0x7f.1:%u/ok",   "http://2130706433:%u/ok", "gopher://127.0.0.1:%u/"};
    t.limits.remote_image_redirects = 5;
    for (size_t i = 0; i < sizeof to / sizeof *to; i++) {
        char url[256], format[256];
        snprintf(format, sizeof format, "http://good.test:%%u/to?%s", to[i]);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(url, sizeof url, format, port, port);
#pragma GCC diagnostic pop
        assert_int_equal(fetch("%s", url), 0);
        run_all();
        if (t.n_whole || t.last.code != ERR_INPUT) fail_msg("%s", url);
    }
    assert_int_equal(n_good, sizeof to / sizeof *to);
    assert_int_equal(n_bad, 0);
}

static void test_only_whole_answers_of_200_count(void **state)
{
    (void)state;
    static const char *const paths[] = {"/status?404", "/status?401", "/status?500", "/status?206", "/status?204", "/empty", "/cut", "/nothing"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        assert_int_equal(fetch("http://good.test:%u%s", port, paths[i]), 0);
        run_all();
        if (t.n_whole || t.last.code != ERR_INPUT) fail_msg("%s", paths[i]);
    }
}

static void test_a_picture_that_is_too_long_is_left(void **state)
{
    (void)state;
    t.limits.remote_image_bytes = 100000;
    assert_int_equal(fetch("http://good.test:%u/big", port), 0);
    expect_refused(ERR_LIMIT);
    assert_in_range(t.n_kept, 1, 100000);
}

static void test_bytes_that_may_not_be_kept_end_it(void **state)
{
    (void)state;
    t.left = 20000;
    assert_int_equal(fetch("http://good.test:%u/big", port), 0);
    expect_refused(ERR_BUSY);
}

static void test_headers_without_an_end_are_left(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://good.test:%u/headers", port), 0);
    run_all();
    assert_int_equal(t.n_whole, 0);
}

static void test_a_host_that_hangs_is_left(void **state)
{
    (void)state;
    t.limits.remote_image_ms = 200;
    assert_int_equal(fetch("http://good.test:%u/hang", port), 0);
    expect_refused(ERR_INPUT);
}

static void test_so_many_at_once_from_one_host(void **state)
{
    (void)state;
    t.limits.remote_images_per_host = gather = 2;
    for (int i = 0; i < 6; i++) assert_int_equal(fetch("http://good.test:%u/slow", port), 0);
    run_all();
    assert_int_equal(t.n_whole, 6);
    assert_int_equal(n_most, 2);
}

static void test_so_many_at_once_in_all(void **state)
{
    (void)state;
    t.limits.remote_images = gather = 3;
    for (int i = 0; i < 6; i++) assert_int_equal(fetch("http://%s.test:%u/slow", i % 2 ? "good" : "both", port), 0);
    run_all();
    assert_int_equal(t.n_whole, 6);
    assert_int_equal(n_most, 3);
}

static void test_what_waits_too_long_for_its_turn_is_busy(void **state)
{
    (void)state;
    t.limits.remote_images = 1;
    assert_int_equal(fetch("http://good.test:%u/hang", port), 0);
    t.limits.remote_image_ms = 200;
    assert_int_equal(fetch("http://good.test:%u/ok", port), 0);
    t.wanted = 1;
    run(5000);
    assert_int_equal(t.last.code, ERR_BUSY);
    assert_null(t.fetches[1]);
}

static void test_the_rest_waits_only_up_to_a_number(void **state)
{
    (void)state;
    t.limits.remote_images = 1;
    t.limits.media_queue = 2;
    for (int i = 0; i < 3; i++) assert_int_equal(fetch("http://good.test:%u/ok", port), 0);
    assert_int_equal(fetch("http://good.test:%u/ok", port), -ERR_BUSY);
    run_all();
    assert_int_equal(t.n_whole, 3);
}

static void test_one_that_is_given_up_lets_the_next_go(void **state)
{
    (void)state;
    t.limits.remote_images = 1;
    assert_int_equal(fetch("http://good.test:%u/hang", port), 0);
    assert_int_equal(fetch("http://good.test:%u/ok", port), 0);
    run(200);
    assert_int_equal(t.n_ended, 0);
    remote_image_cancel(t.fetches[0]);
    t.wanted = 1;
    run(5000);
    assert_int_equal(t.n_whole, 1);
}

static void tick(void *ctx)
{
    (void)ctx;
    int64_t now = clock_boot_ms();
    if (t.last_ms && now - t.last_ms > t.longest_ms) t.longest_ms = now - t.last_ms;
    t.last_ms = now;
    assert_int_equal(loop_timer_set(t.loop, &t.tick, now + 5), 0);
}

/* Or clients that come and go would leave a thread each. */
static void test_one_whose_name_is_being_resolved_keeps_its_place(void **state)
{
    (void)state;
    t.limits.remote_images = 1;
    assert_int_equal(fetch("http://slow.test:%u/ok", port), 0);
    assert_int_equal(fetch("http://good.test:%u/ok", port), 0);
    t.tick = (struct loop_timer){.fn = tick};
    tick(NULL);
    run(50);
    remote_image_cancel(t.fetches[0]);
    run(RESOLVE_MS / 2);
    assert_int_equal(t.n_ended, 0);
    t.wanted = 1;
    run(5000);
    assert_int_equal(t.n_whole, 1);
    assert_int_equal(n_good, 1);                    /* the first has not connected any more */
    assert_in_range(t.longest_ms, 0, RESOLVE_MS / 2); /* and nobody waited for the resolver */
}

static void test_the_end_does_not_wait_for_a_name(void **state)
{
    (void)state;
    assert_int_equal(fetch("http://slow.test:%u/ok", port), 0);
    run(50);
    int64_t begin_ms = clock_boot_ms();
    remote_images_free(t.images);
    t.images = NULL;
    assert_in_range(clock_boot_ms() - begin_ms, 0, RESOLVE_MS / 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        T(test_an_allowed_host_gives_its_bytes),
        T(test_it_says_nothing_of_us_and_asks_no_proxy),
        T(test_a_name_of_another_address_is_not_connected_to),
        T(test_localhost_is_not_connected_to),
        T(test_of_a_names_addresses_only_allowed_ones_are_connected_to),
        T(test_a_name_that_changes_its_answer_gains_nothing),
        T(test_a_name_that_changes_between_redirects_gains_nothing),
        T(test_all_failures_to_connect_are_told_alike),
        T(test_redirects_are_not_followed),
        T(test_redirects_are_followed_as_often_as_is_allowed),
        T(test_a_redirect_is_judged_like_the_first_url),
        T(test_only_whole_answers_of_200_count),
        T(test_a_picture_that_is_too_long_is_left),
        T(test_bytes_that_may_not_be_kept_end_it),
        T(test_headers_without_an_end_are_left),
        T(test_a_host_that_hangs_is_left),
        T(test_so_many_at_once_from_one_host),
        T(test_so_many_at_once_in_all),
        T(test_what_waits_too_long_for_its_turn_is_busy),
        T(test_the_rest_waits_only_up_to_a_number),
        T(test_one_that_is_given_up_lets_the_next_go),
        T(test_one_whose_name_is_being_resolved_keeps_its_place),
        T(test_the_end_does_not_wait_for_a_name),
    };
    return cmocka_run_group_tests(tests, start_hosts, NULL);
}
