/* The HTTP layer over real sockets: replies, streams, departure while suspended, whole deadlines, refused bodies, curl
 * on the same loop. With a number as argument: that many idle streams, and what they cost (docs/gateway.md quotes
 * 10,000). */
#include "server/curl_loop.h"
#include "tests/unit/http_harness.h"

static void test_http_replies_and_keeps_the_connection(void **state)
{
    (void)state;
    char out[4096];
    bool closed;
    int fd = client_send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nx-request-id: abc-1\r\n\r\nhello");
    run_for(50);
    client_read(fd, out, sizeof out, &closed);
    assert_non_null(strstr(out, "HTTP/1.1 200"));
    assert_non_null(strstr(out, "x-request-id: abc-1"));
    assert_string_equal(strstr(out, "\r\n\r\n"), "\r\n\r\nhello");
    assert_false(closed);
    const char *again = "GET /nothing HTTP/1.1\r\nHost: x\r\nx-request-id: bad id\r\n\r\n";
    assert_true(send(fd, again, strlen(again), 0) > 0);
    run_for(50);
    client_read(fd, out, sizeof out, &closed);
    assert_non_null(strstr(out, "HTTP/1.1 404"));
    assert_non_null(strstr(out, "x-request-id: req_"));
    close(fd);
}

static void test_http_streams_in_chunks(void **state)
{
    (void)state;
    char out[8192];
    bool closed;
    int fd = client_send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(300);
    client_read(fd, out, sizeof out, &closed);
    int n = 0;
    for (const char *p = out; (p = strstr(p, "data: x\n\n")); p++) n++;
    assert_int_equal(n, 20);
    assert_non_null(strstr(out, "\r\n0\r\n\r\n"));
    close(fd);
}

static void test_http_cut_stream_has_no_last_chunk(void **state)
{
    (void)state;
    char out[4096];
    bool closed;
    int fd = client_send("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(50);
    client_read(fd, out, sizeof out, &closed);
    assert_non_null(strstr(out, "half"));
    assert_null(strstr(out, "\r\n0\r\n"));
    assert_true(closed);
    close(fd);
}

static void departure(const char *path, bool reset)
{
    char request[128];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    int fd = client_send(request);
    run_for(50);
    assert_int_equal(t.n_gone, 0);
    struct linger l = {.l_onoff = 1};
    if (reset) setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    int64_t left_ms = clock_boot_ms();
    if (reset)
        close(fd);
    else
        shutdown(fd, SHUT_WR);
    run_for(300);
    if (!reset) close(fd);
    assert_int_equal(t.n_gone, 1);
    assert_true(t.gone_ms - left_ms <= 250);
    assert_int_equal(http_open_requests(t.http), 0);
}

static void test_http_notices_fin_while_waiting(void **state)
{
    (void)state;
    departure("/hang", false);
}

static void test_http_notices_reset_while_waiting(void **state)
{
    (void)state;
    departure("/hang", true);
}

static void test_http_notices_fin_in_an_idle_stream(void **state)
{
    (void)state;
    departure("/idle", false);
}

static void test_http_notices_reset_in_an_idle_stream(void **state)
{
    (void)state;
    departure("/idle", true);
}

/* A byte every 50 ms never is inactivity, so only a whole deadline ends it. */
static void dribble(const char *first, int64_t at_least_ms, int64_t at_most_ms)
{
    char out[256];
    bool closed = false;
    int64_t start_ms = clock_boot_ms();
    int fd = client_send(first);
    while (!closed && clock_boot_ms() - start_ms < 3000) {
        run_for(50);
        client_read(fd, out, sizeof out, &closed);
        if (!closed) send(fd, "a", 1, MSG_NOSIGNAL);
    }
    int64_t took_ms = clock_boot_ms() - start_ms;
    assert_in_range(took_ms, at_least_ms, at_most_ms);
    close(fd);
}

static void test_http_header_deadline_is_whole(void **state)
{
    (void)state;
    dribble("GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: ", 290, 700);
}

static void test_http_body_deadline_is_whole(void **state)
{
    (void)state;
    dribble("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", 390, 800);
}

static void test_http_idle_connection_is_closed(void **state)
{
    (void)state;
    char out[1024];
    bool closed;
    int fd = client_send("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(400);
    client_read(fd, out, sizeof out, &closed);
    assert_false(closed);
    run_for(300);
    client_read(fd, out, sizeof out, &closed);
    assert_true(closed);
    close(fd);
}

static void test_http_refuses_early(void **state)
{
    (void)state;
    char out[1024];
    bool closed;
    int fd = client_send("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    run_for(50);
    client_read(fd, out, sizeof out, &closed);
    assert_non_null(strstr(out, "HTTP/1.1 401"));
    assert_false(closed);
    close(fd);
    fd = client_send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc");
    run_for(50);
    client_read(fd, out, sizeof out, &closed);
    assert_non_null(strstr(out, "HTTP/1.1 413"));
    close(fd);
}

static void test_http_refuses_endless_chunked_body(void **state)
{
    (void)state;
    int fd = client_send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    char *chunk = malloc((1 << 20) + 16), out[1024];
    int head = sprintf(chunk, "100000\r\n");
    memset(chunk + head, 'a', 1 << 20);
    memcpy(chunk + head + (1 << 20), "\r\n", 2);
    size_t n_chunk = (size_t)head + (1 << 20) + 2, at = 0, total = 0;
    bool closed = false;
    size_t n = 0;
    while (!closed && n == 0 && total < 40u << 20) {
        ssize_t sent = send(fd, chunk + at, n_chunk - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            total += (size_t)sent;
            at = (at + (size_t)sent) % n_chunk;
        }
        run_for(1);
        n = client_read(fd, out, sizeof out, &closed);
    }
    assert_in_range(total, 20 << 20, (20 << 20) + (8 << 20));
    assert_non_null(strstr(out, "HTTP/1.1 413"));
    free(chunk);
    close(fd);
}

static size_t curl_got;
static size_t curl_write(char *p, size_t size, size_t n, void *ctx)
{
    (void)p;
    (void)ctx;
    curl_got += size * n;
    return size * n;
}

static void curl_done(void *ctx, CURL *easy, CURLcode code)
{
    assert_int_equal(code, CURLE_OK);
    long status;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    assert_int_equal(status, 200);
    ++*(int *)ctx;
}

/* Client and server share one loop: neither may block. */
static void test_curl_multi_shares_the_loop(void **state)
{
    (void)state;
    int n_done = 0;
    struct curl_loop *c;
    assert_int_equal(curl_loop_new(&c, t.loop, curl_done, &n_done, NULL), 0);
    CURL *easy[8];
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/stream", http_port(t.http));
    curl_got = 0;
    for (int i = 0; i < 8; i++) {
        easy[i] = curl_easy_init();
        curl_easy_setopt(easy[i], CURLOPT_URL, url);
        curl_easy_setopt(easy[i], CURLOPT_NOPROXY, "*");
        curl_easy_setopt(easy[i], CURLOPT_WRITEFUNCTION, curl_write);
        assert_int_equal(curl_loop_add(c, easy[i], NULL), 0);
    }
    run_for(600);
    assert_int_equal(n_done, 8);
    assert_int_equal(curl_got, 8 * 20 * 9);
    for (int i = 0; i < 8; i++) curl_easy_cleanup(easy[i]);
    curl_loop_free(c);
}

static void test_http_free_ends_open_requests(void **state)
{
    (void)state;
    int a = client_send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"), b = client_send("GET /idle HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(50);
    http_free(t.http);
    t.http = NULL;
    assert_int_equal(t.n_gone, 2);
    close(a);
    close(b);
}

static long resident_kb(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &pages, &resident) != 2) return -1;
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static double chunk_cpu_us(void)
{
    enum { STREAMS = 10 };
    int fd[STREAMS];
    long before_us = cpu_us_now();
    for (int i = 0; i < STREAMS; i++) fd[i] = client_send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    run_for(500);
    long us = cpu_us_now() - before_us;
    for (int i = 0; i < STREAMS; i++) close(fd[i]);
    return (double)us / (STREAMS * 20);
}

/* The clients live in a child, so that this process's memory is the server's alone. */
static int idle_streams(int n)
{
    setup(NULL);
    long before_kb = resident_kb();
    uint16_t port = http_port(t.http);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < n; i++) {
            int fd = client_connect(port);
            const char *request = "GET /idle HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                                  "sk-0123456789012345678901234567890123456789\r\n\r\n";
            if (send(fd, request, strlen(request), 0) < 0) _exit(1);
        }
        pause();
        _exit(0);
    }
    int64_t start_ms = clock_boot_ms();
    while (t.n_streams < n && clock_boot_ms() - start_ms < 60000) run_for(50);
    run_for(1000);
    long cpu_us = cpu_us_now();
    run_for(2000);
    cpu_us = cpu_us_now() - cpu_us;
    printf("%d idle streams: RSS %ld KiB over base (%ld KiB), %.1f KiB each; open in %lld ms; idle CPU %.2f %%\n", t.n_streams,
           resident_kb() - before_kb, before_kb, (double)(resident_kb() - before_kb) / n, (long long)(clock_boot_ms() - start_ms - 3000),
           (double)cpu_us / 20000.0);
    printf("a chunk of another stream costs %.1f us of CPU beside them\n", chunk_cpu_us());
    t.n_gone = 0; /* those of the streams above */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    int64_t killed_ms = clock_boot_ms();
    while (t.n_gone < n && clock_boot_ms() - killed_ms < 10000) run_for(10);
    printf("all %d departures noticed within %lld ms\n", t.n_gone, (long long)(t.gone_ms - killed_ms));
    teardown(NULL);
    return t.n_gone == n ? 0 : 1;
}

#define HTTP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1) return idle_streams(atoi(argv[1]));
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_http_replies_and_keeps_the_connection),
        HTTP_TEST(test_http_streams_in_chunks),
        HTTP_TEST(test_http_cut_stream_has_no_last_chunk),
        HTTP_TEST(test_http_notices_fin_while_waiting),
        HTTP_TEST(test_http_notices_reset_while_waiting),
        HTTP_TEST(test_http_notices_fin_in_an_idle_stream),
        HTTP_TEST(test_http_notices_reset_in_an_idle_stream),
        HTTP_TEST(test_http_header_deadline_is_whole),
        HTTP_TEST(test_http_body_deadline_is_whole),
        HTTP_TEST(test_http_idle_connection_is_closed),
        HTTP_TEST(test_http_refuses_early),
        HTTP_TEST(test_http_refuses_endless_chunked_body),
        HTTP_TEST(test_curl_multi_shares_the_loop),
        HTTP_TEST(test_http_free_ends_open_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
