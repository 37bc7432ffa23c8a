/* URLs of pictures: whatever is taken, others read the same host and port in it, without a user: curl in the text as it came and in the one that is made of
 * it, and the C library, which takes many a number for an IPv4 address, in the host. No address that is written out is one that may not be connected to. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "server/remote_url.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"http://",  "https://",      "HTTP://",   "http:",       "://",       "//",      "/",       "\\",       "@",        ":",        ":80",     ":443",
                                    ":8080",    ":0080",         ":65536",    "?",           "#",         "%2e",     "%00",     ".",        "..",       "-",        "_",       "[",
                                    "]",        "[::1]",         "[::",       "ffff:",       "127.0.0.1", "127.1",   "0x7f",    "0177",     "10.0.0.1", "8.8.8.8",  "2130706433",
                                    "256",      "example.org",   "xn--a",     "localhost",   "user:pw@",  " ",       "\t",      "\n",       "\xC3\xA9", "\xE3\x80\x82", "[2606:4700::1111]",
                                    "169.254.169.254", "[fe80::1%25lo]", "a",  "0",           "x",         ";",       ",",       "&",        NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

/* An IPv6 address is spelled in its shortest form by curl. */
static bool same_host(const char *a, const char *b)
{
    struct ip x, y;
    if (a[0] != '[' || b[0] != '[') return strcasecmp(a, b) == 0;
    return ip_parse(a + 1, strlen(a) - 2, &x) && ip_parse(b + 1, strlen(b) - 2, &y) && memcmp(&x, &y, sizeof x) == 0;
}

static void check_curl(const char *text, const struct remote_url *u)
{
    CURLU *c = curl_url();
    char *host = NULL, *port = NULL, *user = NULL;
    FUZZ_CHECK(c && curl_url_set(c, CURLUPART_URL, text, 0) == CURLUE_OK);
    FUZZ_CHECK(curl_url_get(c, CURLUPART_HOST, &host, 0) == CURLUE_OK && same_host(host, u->host));
    FUZZ_CHECK(curl_url_get(c, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK && atoi(port) == u->port);
    FUZZ_CHECK(curl_url_get(c, CURLUPART_USER, &user, 0) == CURLUE_NO_USER);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(c);
}

static void check_address(const struct remote_rules *r, const struct remote_url *u)
{
    struct in_addr loose;
    struct ip ip;
    char plain[IP_TEXT_BYTES];
    const size_t n = strlen(u->host);
    bool literal = u->host[0] == '[' ? ip_parse(u->host + 1, n - 2, &ip) : ip_parse(u->host, n, &ip);
    FUZZ_CHECK(!literal || remote_ip_allowed(r, &ip));
    if (!inet_aton(u->host, &loose)) return;
    FUZZ_CHECK(literal && strcmp(ip_print(&ip, plain), inet_ntoa(loose)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const struct remote_rules rules = {.http = true};
    struct remote_url u;
    struct err e = {0};
    char *text = malloc(n + 1), made[REMOTE_MAX_URL_BYTES + 512];
    FUZZ_CHECK(text != NULL);
    memcpy(text, p, n);
    text[n] = '\0';
    int rc = remote_url_read(&rules, text, n, &u, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else {
        FUZZ_CHECK(strlen(text) == n && remote_url_is(text, n));
        FUZZ_CHECK(u.port == 80 || u.port == 443);
        FUZZ_CHECK(u.rest >= text && u.rest + u.n_rest <= text + n && (u.n_rest == 0 || u.rest[0] == '/' || u.rest[0] == '?'));
        snprintf(made, sizeof made, "http%s://%s:%u%s%.*s", u.tls ? "s" : "", u.host, u.port, u.n_rest && u.rest[0] == '/' ? "" : "/", (int)u.n_rest, u.rest);
        check_curl(text, &u);
        check_curl(made, &u);
        check_address(&rules, &u);
    }
    free(text);
    return 0;
}
