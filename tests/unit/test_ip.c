/* Addresses and networks. */
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

static void test_ipv6_is_counted_by_64_bits(void **state)
{
    (void)state;
    struct ip a = ip("2001:db8::1"), same = ip("2001:db8::2"), other = ip("2001:db8:0:1::1"), v4 = ip("192.0.2.1"), v4b = ip("192.0.2.2");
    a = ip_counted(&a), same = ip_counted(&same), other = ip_counted(&other), v4 = ip_counted(&v4), v4b = ip_counted(&v4b);
    assert_memory_equal(&a, &same, sizeof a);
    assert_memory_not_equal(&a, &other, sizeof a);
    assert_memory_not_equal(&v4, &v4b, sizeof v4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks_match_by_prefix),
        cmocka_unit_test(test_bad_networks_are_refused),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_ipv6_is_counted_by_64_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
