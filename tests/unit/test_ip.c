/* Addresses, networks, and connections counted per address. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/ip.h"

static struct ip ip(const char *text)
{
    struct ip out;
    assert_true(ip_parse(text, strlen(text), &out));
    return out;
}

static void test_networks_match_by_prefix(void **state)
{
    (void)state;
    static const struct {
        const char *net, *ip;
        bool in;
    } cases[] = {
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.128/25", "192.0.2.127", false},
        {"192.0.2.128/25", "192.0.2.200", true},
        {"0.0.0.0/0", "1.2.3.4", true},
        {"0.0.0.0/0", "::1", false},
        {"fd00::/8", "fd12::1", true},
        {"fd00::/8", "fe12::1", false},
        {"::/0", "1.2.3.4", true},
        {"10.0.0.0/8", "::ffff:10.0.0.1", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ip_nets nets = {0};
        struct ip a = ip(cases[i].ip);
        assert_int_equal(ip_nets_add(&nets, cases[i].net, NULL), 0);
        if (ip_nets_have(&nets, &a) != cases[i].in) fail_msg("%s in %s", cases[i].ip, cases[i].net);
    }
}

static void test_bad_networks_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",          "10.0.0",      "10.0.0.0/33", "10.0.0.1/8", "fd00::/129", "fd00::1/8",
                                      "10.0.0.0/", "10.0.0.0/-1", "x/8",         "0x0a.0.0.1", "010.0.0.1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ip_nets nets = {0};
        struct err e;
        assert_int_equal(ip_nets_add(&nets, bad[i], &e), -ERR_INPUT);
        assert_int_equal(nets.n, 0);
    }
}

static void test_loopback(void **state)
{
    (void)state;
    struct ip yes[] = {ip("127.0.0.1"), ip("127.9.9.9"), ip("::1"), ip("::ffff:127.0.0.1")},
              no[] = {ip("128.0.0.1"), ip("::2"), ip("::7f00:1")};
    for (int i = 0; i < 4; i++) assert_true(ip_is_loopback(&yes[i]));
    for (int i = 0; i < 3; i++) assert_false(ip_is_loopback(&no[i]));
}

static void test_counts_are_per_address_and_per_64_bits_of_ipv6(void **state)
{
    (void)state;
    struct ip_counts *c;
    assert_int_equal(ip_counts_new(&c, NULL), 0);
    struct ip a = ip("192.0.2.1"), b = ip("192.0.2.2"), v6 = ip("2001:db8::1"), same = ip("2001:db8::2"), other = ip("2001:db8:0:1::1");
    assert_true(ip_counts_enter(c, &a, 2) && ip_counts_enter(c, &a, 2));
    assert_false(ip_counts_enter(c, &a, 2));
    assert_true(ip_counts_enter(c, &b, 2));
    ip_counts_leave(c, &a);
    assert_true(ip_counts_enter(c, &a, 2));
    assert_true(ip_counts_enter(c, &v6, 1));
    assert_false(ip_counts_enter(c, &same, 1));
    assert_true(ip_counts_enter(c, &other, 1));
    assert_true(ip_counts_enter(c, &a, 0));
    ip_counts_free(c);
}

/* Against plain counters, with much coming and going, so that the table grows and slots move. */
static void test_counts_agree_with_plain_counters(void **state)
{
    (void)state;
    enum { N = 500 };
    static int64_t plain[N];
    uint32_t seed = 1;
    struct ip_counts *c;
    assert_int_equal(ip_counts_new(&c, NULL), 0);
    for (int step = 0; step < 200000; step++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t i = (seed >> 8) % N;
        struct ip a = {.bytes = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, (uint8_t)(i >> 8), (uint8_t)i}};
        if (seed >> 31) {
            bool entered = ip_counts_enter(c, &a, 3);
            assert_int_equal(entered, plain[i] < 3);
            plain[i] += entered;
        } else if (plain[i]) {
            ip_counts_leave(c, &a);
            plain[i]--;
        }
    }
    ip_counts_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks_match_by_prefix),
        cmocka_unit_test(test_bad_networks_are_refused),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_counts_are_per_address_and_per_64_bits_of_ipv6),
        cmocka_unit_test(test_counts_agree_with_plain_counters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
