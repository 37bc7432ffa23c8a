/* Which pictures' URLs may be fetched (T30): without a network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/remote_url.h"

static struct ip ip(const char *text)
{
    struct ip out;
    assert_true(ip_parse(text, strlen(text), &out));
    return out;
}

static int read_url(const struct remote_rules *r, const char *text, struct remote_url *u, struct err *e)
{
    return remote_url_read(r, text, strlen(text), u, e);
}

static void test_special_addresses_are_not_public(void **state)
{
    (void)state;
    static const char *const special[] = {
        "0.0.0.0",        "0.1.2.3",        "10.0.0.1",        "10.255.255.255",   "100.64.0.1",         "100.100.100.200",     "100.127.255.255",
        "127.0.0.1",      "127.255.255.254", "169.254.0.1",    "169.254.169.254",  "172.16.0.1",         "172.31.255.255",      "192.0.0.1",
        "192.0.0.192",    "192.0.2.1",      "192.88.99.1",     "192.168.0.1",      "192.168.255.255",    "198.18.0.1",          "198.19.255.255",
        "198.51.100.1",   "203.0.113.1",    "224.0.0.1",       "239.255.255.255",  "240.0.0.1",          "255.255.255.255",     "168.63.129.16",
        "::",             "::1",            "::127.0.0.1",     "::ffff:127.0.0.1", "::ffff:10.0.0.1",    "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "64:ff9b:1::1",   "100::1",         "2001::1",         "2001:2::1",        "2001:10::1",         "2001:db8::1",         "2002:7f00:1::",
        "3fff::1",        "4000::1",        "5f00::1",         "fc00::1",          "fd00:ec2::254",      "fe80::1",             "fec0::1",
        "ff02::1",        "ff0e::1"};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        struct ip a = ip(special[i]);
        if (ip_is_public(&a)) fail_msg("%s", special[i]);
    }
}

static void test_addresses_beside_the_special_ones_are_public(void **state)
{
    (void)state;
    static const char *const public[] = {"1.0.0.0",       "9.255.255.255", "11.0.0.0",      "100.63.255.255",  "100.128.0.0",  "126.255.255.255", "128.0.0.0",
                                         "169.253.0.1",   "169.255.0.1",   "172.15.255.255", "172.32.0.0",     "192.0.1.0",    "192.167.255.255", "192.169.0.0",
                                         "198.17.255.255", "198.20.0.0",   "203.0.114.0",   "223.255.255.255", "168.63.129.17", "8.8.8.8",         "::ffff:8.8.8.8",
                                         "2001:200::1",   "2001:4860:4860::8888", "2003::1", "2606:4700::1111", "2a00:1450::1", "3ffe:ffff::1",    "3fff:1000::1"};
    for (size_t i = 0; i < sizeof public / sizeof *public; i++) {
        struct ip a = ip(public[i]);
        if (!ip_is_public(&a)) fail_msg("%s", public[i]);
    }
}

static void test_what_is_read_is_what_is_fetched(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host, *rest;
        uint16_t port;
        bool tls;
    } cases[] = {{"https://Example.ORG/a/b.png?x=1&y=%20#part", "example.org", "/a/b.png?x=1&y=%20", 443, true},
                 {"HTTP://example.org", "example.org", "", 80, false},
                 {"http://example.org:80?q", "example.org", "?q", 80, false},
                 {"https://example.org:443/", "example.org", "/", 443, true},
                 {"https://example.org:0443/", "example.org", "/", 443, true},
                 {"https://8.8.8.8/a", "8.8.8.8", "/a", 443, true},
                 {"https://[2606:4700::1111]/a", "[2606:4700::1111]", "/a", 443, true},
                 {"https://xn--bcher-kva.example/@b:c", "xn--bcher-kva.example", "/@b:c", 443, true},
                 {"https://a_b.example.org/#@127.0.0.1/", "a_b.example.org", "/", 443, true},
                 {"https://1a.2b/x", "1a.2b", "/x", 443, true}};
    const struct remote_rules rules = {.http = true};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct remote_url u;
        struct err e;
        if (read_url(&rules, cases[i].url, &u, &e)) fail_msg("%s: %s", cases[i].url, e.msg);
        assert_string_equal(u.host, cases[i].host);
        assert_int_equal(u.port, cases[i].port);
        assert_int_equal(u.tls, cases[i].tls);
        assert_int_equal(u.n_rest, strlen(cases[i].rest));
        assert_memory_equal(u.rest, cases[i].rest, u.n_rest);
    }
}

static void test_urls_that_somebody_reads_otherwise_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",                        "http:",                    "http:/example.org",        "http//example.org",       "https:example.org",
        "http://",                 "http:///a",                "http://?a",                "http://#a",               "http://:80/",
        "file:///etc/passwd",      "ftp://example.org/a",      "gopher://example.org/",    "javascript:1",            "//example.org/a",
        " http://example.org/",    "http://example.org/ a",    "http://example.org/\t",    "http://example.org\n/",   "http://example.org/\x7f",
        "http://user@example.org", "http://u:p@example.org/",  "http://@example.org/",     "http://example.org@8.8.8.8/", "http://8.8.8.8:80@example.org/",
        "http://example.org\\@127.0.0.1/", "http:\\\\example.org/", "http://example.org\\a", "http://example.org:80\\@a/", "http://exa\"mple.org/",
        "http://127.1/",           "http://127.0.1/",          "http://2130706433/",       "http://0x7f000001/",      "http://0x7f.1/",
        "http://0X7F.0.0.1/",      "http://017700000001/",     "http://0177.0.0.1/",       "http://127.0.0.01/",      "http://127.0.0.0x1/",
        "http://1.2.3/",           "http://1.2.3.4.5/",        "http://1.2.3.256/",        "http://1.2.3.4./",        "http://example.0x10/",
        "http://example.123/",     "http://example.org./",     "http://.example.org/",     "http://example..org/",    "http://-a.org/",
        "http://a-.org/",          "http://a%2eb/",            "http://%31%32%37.0.0.1/",  "http://a,b/",             "http://a;b/",
        "http://a&b/",             "http://[::1/",             "http://::1/",              "http://[127.0.0.1]/",     "http://[fe80::1%25eth0]/",
        "http://[8.8.8.8]/",       "http://[]/",               "http://[2606:4700::1111]a/", "http://[2606:4700::1111]:/", "http://example.org:/",
        "http://example.org:0/",   "http://example.org:65536/", "http://example.org:+80/", "http://example.org:8O/",  "http://example.org:80:80/",
        "http://b\xc3\xbc" "cher.example/", "http://\xe2\x93\x9bocalhost/", "http://example\xe3\x80\x82org/", "http://example.org/\xc3\xa9", "http://example.org/<a>"};
    const struct remote_rules rules = {.http = true};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct remote_url u;
        struct err e;
        if (read_url(&rules, bad[i], &u, &e) != -ERR_INPUT) fail_msg("'%s' is taken as host %s", bad[i], u.host);
    }
}

static void test_names_have_lengths(void **state)
{
    (void)state;
    const struct remote_rules rules = {.http = false};
    struct remote_url u;
    struct err e;
    char label[65], text[REMOTE_MAX_URL_BYTES + 2];
    memset(label, 'a', 64);
    label[64] = '\0';
    snprintf(text, sizeof text, "https://%.63s.org/", label);
    assert_int_equal(read_url(&rules, text, &u, &e), 0);
    snprintf(text, sizeof text, "https://%s.org/", label);
    assert_int_equal(read_url(&rules, text, &u, &e), -ERR_INPUT);
    snprintf(text, sizeof text, "https://%.63s.%.63s.%.63s.%.61s/", label, label, label, label); /* 253 */
    assert_int_equal(read_url(&rules, text, &u, &e), 0);
    snprintf(text, sizeof text, "https://%.63s.%.63s.%.63s.%.62s/", label, label, label, label);
    assert_int_equal(read_url(&rules, text, &u, &e), -ERR_INPUT);
    memset(text, 'a', sizeof text);
    memcpy(text, "https://a.org/", 14);
    assert_int_equal(remote_url_read(&rules, text, REMOTE_MAX_URL_BYTES, &u, &e), 0);
    assert_int_equal(remote_url_read(&rules, text, REMOTE_MAX_URL_BYTES + 1, &u, &e), -ERR_LIMIT);
}

static void test_without_tls_only_where_that_is_allowed(void **state)
{
    (void)state;
    struct remote_rules rules = {.http = false};
    struct remote_url u;
    struct err e;
    assert_int_equal(read_url(&rules, "http://example.org/", &u, &e), -ERR_INPUT);
    rules.http = true;
    assert_int_equal(read_url(&rules, "http://example.org/", &u, &e), 0);
}

static void test_addresses_that_are_written_out_are_judged(void **state)
{
    (void)state;
    struct remote_rules rules = {.http = true};
    struct remote_url u;
    struct err e;
    assert_int_equal(read_url(&rules, "http://169.254.169.254/latest", &u, &e), -ERR_INPUT);
    assert_int_equal(read_url(&rules, "http://[::ffff:10.1.2.3]/", &u, &e), -ERR_INPUT);
    assert_int_equal(ip_nets_add(&rules.nets, "10.0.0.0/8", &e), 0);
    assert_int_equal(read_url(&rules, "http://[::ffff:10.1.2.3]/", &u, &e), 0);
    assert_int_equal(read_url(&rules, "http://10.1.2.3/", &u, &e), 0);
    assert_int_equal(read_url(&rules, "http://11.1.2.3/", &u, &e), 0);
    assert_int_equal(read_url(&rules, "http://127.0.0.1/", &u, &e), -ERR_INPUT);
}

static void test_hosts_and_ports_that_are_named_are_the_only_ones(void **state)
{
    (void)state;
    static const struct {
        const char *hosts[3], *url;
        bool fits;
    } cases[] = {{{NULL}, "https://example.org:80/", true},
                 {{NULL}, "https://example.org:8443/", false},
                 {{"example.org"}, "https://example.org/", true},
                 {{"Example.Org"}, "https://eXample.oRg/", true},
                 {{"example.org"}, "https://www.example.org/", false},
                 {{"example.org"}, "https://badexample.org/", false},
                 {{"example.org"}, "https://example.org:8443/", false},
                 {{"example.org:8443"}, "https://example.org:8443/", true},
                 {{"example.org:8443"}, "https://example.org/", false},
                 {{"*.example.org"}, "https://www.example.org/", true},
                 {{"*.example.org"}, "https://a.b.example.org/", true},
                 {{"*.example.org"}, "https://example.org/", false},
                 {{"*.example.org"}, "https://badexample.org/", false},
                 {{"*.example.org"}, "https://www.example.org.evil.com/", false},
                 {{"*"}, "https://example.org/", true},
                 {{"*"}, "https://example.org:8443/", false},
                 {{"*:8443"}, "https://example.org:8443/", true},
                 {{"*:8443"}, "https://example.org/", false},
                 {{"8.8.8.8:8080"}, "https://8.8.8.8:8080/", true},
                 {{"[2606:4700::1111]:8080"}, "https://[2606:4700::1111]:8080/", true},
                 {{"a.org", "b.org"}, "https://b.org/", true},
                 {{"a.org", "b.org"}, "https://c.org/", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct remote_rules rules = {.n_hosts = 0};
        struct remote_url u;
        struct err e;
        for (size_t k = 0; k < 3 && cases[i].hosts[k]; k++) assert_int_equal(remote_rules_add_host(&rules, cases[i].hosts[k], &e), 0);
        if ((read_url(&rules, cases[i].url, &u, &e) == 0) != cases[i].fits) fail_msg("%s with %s", cases[i].url, cases[i].hosts[0]);
    }
}

static void test_hosts_that_are_none_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "*.", "*.*.org", "a*b", "**", "https://example.org", "example.org/", "a b", "127.1", "0x7f.1", "a:0", "a:65536", "a:", "::1", "[::1", "*.1.2.3.4:x", "u@a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct remote_rules rules = {.n_hosts = 0};
        struct err e;
        if (remote_rules_add_host(&rules, bad[i], &e) != -ERR_INPUT) fail_msg("%s", bad[i]);
        assert_int_equal(rules.n_hosts, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special_addresses_are_not_public),
        cmocka_unit_test(test_addresses_beside_the_special_ones_are_public),
        cmocka_unit_test(test_what_is_read_is_what_is_fetched),
        cmocka_unit_test(test_urls_that_somebody_reads_otherwise_are_refused),
        cmocka_unit_test(test_names_have_lengths),
        cmocka_unit_test(test_without_tls_only_where_that_is_allowed),
        cmocka_unit_test(test_addresses_that_are_written_out_are_judged),
        cmocka_unit_test(test_hosts_and_ports_that_are_named_are_the_only_ones),
        cmocka_unit_test(test_hosts_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
