/* Who is marked when a worker dies, who waits, who is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/quarantine.h"

static struct loop *loop;
static struct quarantine *q;
static uint64_t death;

struct request {
    struct quarantine_ticket ticket;
    int went;
};

static void went(struct quarantine_ticket *t)
{
    ((struct request *)t)->went++;
}

static int setup(void **state)
{
    (void)state;
    death = 0;
    return loop_new(&loop, NULL) || quarantine_new(&q, loop, NULL);
}

static int teardown(void **state)
{
    (void)state;
    quarantine_free(q);
    loop_free(loop);
    return 0;
}

static struct request request(uint8_t who)
{
    return (struct request){.ticket = {.digest = {who}, .go = went}};
}

static int enter(struct request *r)
{
    struct err e;
    return quarantine_enter(q, &r->ticket, &e);
}

/* The worker dies with these in it. */
static void die(struct request **in, int n)
{
    death++;
    for (int i = 0; i < n; i++) {
        quarantine_died(q, &in[i]->ticket, death);
        quarantine_leave(q, &in[i]->ticket, false);
    }
}

static void kill_with(uint8_t who)
{
    struct request r = request(who), *in[] = {&r};
    assert_int_equal(enter(&r), 0);
    die(in, 1);
}

static void test_two_deaths_quarantine(void **state)
{
    (void)state;
    struct request r = request(1);
    kill_with(1);
    kill_with(1);
    assert_int_equal(enter(&r), -ERR_QUARANTINED);
    r = request(2);
    assert_int_equal(enter(&r), 0);
    quarantine_leave(q, &r.ticket, true);
}

static void test_a_good_end_takes_the_mark_away(void **state)
{
    (void)state;
    kill_with(1);
    struct request r = request(1);
    assert_int_equal(enter(&r), 0);
    quarantine_leave(q, &r.ticket, true);
    kill_with(1);
    r = request(1);
    assert_int_equal(enter(&r), 0);
    quarantine_leave(q, &r.ticket, true);
}

static void test_suspects_go_one_at_a_time_beside_others(void **state)
{
    (void)state;
    struct request a = request(1), b = request(2), c = request(3), *in[] = {&a, &b, &c};
    for (int i = 0; i < 3; i++) assert_int_equal(enter(in[i]), 0);
    die(in, 3);
    assert_int_equal(enter(&a), 0);
    assert_int_equal(enter(&b), 1);
    assert_int_equal(enter(&c), 1);
    struct request other = request(9);
    assert_int_equal(enter(&other), 0);
    quarantine_leave(q, &b.ticket, false); /* left while waiting */
    quarantine_leave(q, &a.ticket, true);
    assert_int_equal(b.went, 0);
    assert_int_equal(c.went, 1);
    quarantine_leave(q, &c.ticket, true);
    quarantine_leave(q, &other.ticket, true);
}

static void test_the_second_death_tells_who_it_was(void **state)
{
    (void)state;
    struct request guilty = request(1), innocent = request(2), *both[] = {&guilty, &innocent};
    for (int i = 0; i < 2; i++) assert_int_equal(enter(both[i]), 0);
    die(both, 2);
    assert_int_equal(enter(&guilty), 0);
    assert_int_equal(enter(&innocent), 1);
    death++;
    quarantine_died(q, &guilty.ticket, death);
    quarantine_died(q, &innocent.ticket, death); /* was not in the worker */
    quarantine_leave(q, &guilty.ticket, false);
    assert_int_equal(innocent.went, 1);
    quarantine_leave(q, &innocent.ticket, true);
    assert_int_equal(enter(&guilty), -ERR_QUARANTINED);
    assert_int_equal(enter(&innocent), 0);
    quarantine_leave(q, &innocent.ticket, true);
}

static void test_one_death_marks_a_request_once(void **state)
{
    (void)state;
    struct request r = request(1);
    assert_int_equal(enter(&r), 0);
    death++;
    for (int i = 0; i < 8; i++) quarantine_died(q, &r.ticket, death); /* its choices */
    quarantine_leave(q, &r.ticket, false);
    assert_int_equal(enter(&r), 0);
    quarantine_leave(q, &r.ticket, true);
}

static void test_the_same_request_many_times_is_marked_once_a_death(void **state)
{
    (void)state;
    struct request a = request(1), b = request(1), *in[] = {&a, &b};
    for (int i = 0; i < 2; i++) assert_int_equal(enter(in[i]), 0);
    die(in, 2);
    assert_int_equal(enter(&a), 0);
    quarantine_leave(q, &a.ticket, true);
}

static void test_more_marks_than_room_forget_the_oldest(void **state)
{
    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct request r = request(0), *in[] = {&r};
        memcpy(r.ticket.digest, &i, sizeof i);
        assert_int_equal(enter(&r), 0);
        die(in, 1);
    }
}

static void test_digest_is_of_what_the_worker_gets(void **state)
{
    (void)state;
    int32_t ids[] = {1, 2, 3}, other_ids[] = {1, 2, 4};
    struct frame_submit f = {.ids = ids, .n_ids = 3, .sampling = {.temperature = 1, .seed = 5, .max_tokens = 9}}, g = f;
    uint8_t a[QUARANTINE_DIGEST_BYTES], b[QUARANTINE_DIGEST_BYTES];
    quarantine_digest(q, &f, false, a);
    g.sampling.seed = 6;
    g.sequence = 77;
    quarantine_digest(q, &g, false, b);
    assert_memory_equal(a, b, sizeof a);
    quarantine_digest(q, &g, true, b);
    assert_memory_not_equal(a, b, sizeof a);
    g = f;
    g.ids = other_ids;
    quarantine_digest(q, &g, false, b);
    assert_memory_not_equal(a, b, sizeof a);
    g = f;
    g.sampling.max_tokens = 10;
    quarantine_digest(q, &g, false, b);
    assert_memory_not_equal(a, b, sizeof a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_two_deaths_quarantine),
        TEST(test_a_good_end_takes_the_mark_away),
        TEST(test_suspects_go_one_at_a_time_beside_others),
        TEST(test_the_second_death_tells_who_it_was),
        TEST(test_one_death_marks_a_request_once),
        TEST(test_the_same_request_many_times_is_marked_once_a_death),
        TEST(test_more_marks_than_room_forget_the_oldest),
        TEST(test_digest_is_of_what_the_worker_gets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
