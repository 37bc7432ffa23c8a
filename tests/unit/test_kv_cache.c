/* KV cache: who has which block, what is found, what goes first when room is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kv_cache.h"

static struct kv_cache *make(uint32_t n_blocks)
{
    struct kv_cache *c;
    struct err e;
    assert_int_equal(kv_cache_new(&c, n_blocks, &e), 0);
    return c;
}

static struct kv_key key(uint64_t i)
{
    return (struct kv_key){{i * 0x9E3779B97F4A7C15u, i}};
}

static uint32_t take(struct kv_cache *c, uint64_t account)
{
    uint32_t block;
    assert_true(kv_cache_take(c, account, 1, &block));
    return block;
}

/* One block that is cached under this key. */
static uint32_t cache(struct kv_cache *c, uint64_t account, uint64_t i)
{
    uint32_t block = take(c, account);
    kv_cache_publish(c, block, key(i));
    kv_cache_release(c, block);
    return block;
}

static bool is_found(const struct kv_cache *c, uint64_t i)
{
    uint32_t n_idle;
    struct kv_key k = key(i);
    return kv_cache_peek(c, &k, 1, &n_idle) == 1;
}

static void assert_counts(const struct kv_cache *c, uint32_t n_free, uint32_t n_cached, uint32_t n_referenced)
{
    struct kv_cache_counts n = kv_cache_counts(c);
    assert_int_equal(n.free, n_free);
    assert_int_equal(n.cached, n_cached);
    assert_int_equal(n.referenced, n_referenced);
}

static void test_block_is_free_again_only_if_it_was_not_published(void **state)
{
    (void)state;
    struct kv_cache *c = make(4);
    uint32_t a = take(c, 1), b = take(c, 1);
    assert_int_not_equal(a, b);
    assert_counts(c, 2, 0, 2);
    kv_cache_publish(c, b, key(7));
    kv_cache_release(c, a);
    kv_cache_release(c, b);
    assert_counts(c, 3, 1, 0);
    assert_int_equal(kv_cache_charged(c, 1), 1);
    kv_cache_free(c);
}

static void test_only_the_leading_blocks_of_a_chain_are_found(void **state)
{
    (void)state;
    struct kv_cache *c = make(8);
    struct kv_key chain[4] = {key(1), key(2), key(3), key(4)};
    uint32_t blocks[4], n_idle, first = cache(c, 1, 1), second = cache(c, 1, 2);
    cache(c, 1, 4); /* behind one that is not there */
    assert_int_equal(kv_cache_peek(c, chain, 4, &n_idle), 2);
    assert_int_equal(n_idle, 2);
    assert_int_equal(kv_cache_match(c, chain, 4, blocks), 2);
    assert_int_equal(blocks[0], first);
    assert_int_equal(blocks[1], second);
    assert_counts(c, 5, 1, 2);
    assert_int_equal(kv_cache_match(c, chain, 1, blocks), 1);
    assert_int_equal(kv_cache_references(c, first), 2);
    assert_int_equal(kv_cache_peek(c, chain, 4, &n_idle), 2);
    assert_int_equal(n_idle, 0);
    kv_cache_free(c);
}

static void test_second_block_of_a_key_stays_private(void **state)
{
    (void)state;
    struct kv_cache *c = make(4);
    uint32_t a = take(c, 1), b = take(c, 2), found;
    struct kv_key k = key(5);
    kv_cache_publish(c, a, k);
    kv_cache_publish(c, b, k);
    assert_int_equal(kv_cache_match(c, &k, 1, &found), 1);
    assert_int_equal(found, a);
    kv_cache_release(c, b);
    assert_counts(c, 3, 0, 1);
    kv_cache_free(c);
}

static void test_referenced_blocks_are_never_taken(void **state)
{
    (void)state;
    struct kv_cache *c = make(3);
    uint32_t blocks[3], none;
    for (uint32_t i = 0; i < 3; i++) {
        blocks[i] = take(c, 1);
        kv_cache_publish(c, blocks[i], key(i + 1));
    }
    assert_false(kv_cache_take(c, 2, 1, &none));
    assert_int_equal(kv_cache_charged(c, 2), 0);
    kv_cache_release(c, blocks[1]);
    assert_int_equal(take(c, 2), blocks[1]);
    assert_false(is_found(c, 2)); /* evicted: its key is forgotten */
    assert_true(is_found(c, 1) && is_found(c, 3));
    kv_cache_free(c);
}

static void test_block_released_longest_ago_goes_first(void **state)
{
    (void)state;
    struct kv_cache *c = make(3);
    for (uint64_t i = 1; i <= 3; i++) cache(c, 1, i);
    struct kv_key k = key(1);
    uint32_t block;
    assert_int_equal(kv_cache_match(c, &k, 1, &block), 1); /* used again: now the newest */
    kv_cache_release(c, block);
    take(c, 1);
    assert_true(is_found(c, 1) && !is_found(c, 2) && is_found(c, 3));
    take(c, 1);
    assert_true(is_found(c, 1) && !is_found(c, 3));
    kv_cache_free(c);
}

static void test_t36_flood_takes_an_account_down_to_its_share_and_no_further(void **state)
{
    (void)state;
    struct kv_cache *c = make(40);
    for (uint64_t i = 0; i < 40; i++) cache(c, 1, 1000 + i);
    for (uint64_t i = 0; i < 500; i++) {
        cache(c, 2, 2000 + i);
        assert_true(kv_cache_charged(c, 1) >= 20);
    }
    assert_int_equal(kv_cache_charged(c, 1), 20);
    for (uint64_t i = 0; i < 40; i++) assert_int_equal(is_found(c, 1000 + i), i >= 20);
    kv_cache_free(c);
}

static void test_share_of_an_account_follows_its_weight(void **state)
{
    (void)state;
    struct kv_cache *c = make(40);
    uint32_t block;
    for (uint64_t i = 0; i < 400; i++) {
        assert_true(kv_cache_take(c, i % 2, i % 2 ? 3 : 1, &block));
        kv_cache_publish(c, block, key(i + 1));
        kv_cache_release(c, block);
    }
    assert_in_range(kv_cache_charged(c, 1), 29, 31);
    assert_in_range(kv_cache_charged(c, 0), 9, 11);
    kv_cache_free(c);
}

/* ---- random calls against a plain model ---- */

static uint64_t rng_next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

enum { BLOCKS = 24, ACCOUNTS = 5, KEYS = 60 };

struct plain {
    struct {
        uint32_t references, account, key; /* key 0: none */
        uint64_t released_at;
    } blocks[BLOCKS];
    bool used[BLOCKS];
    uint32_t weight[ACCOUNTS];
    uint64_t n_releases;
};

static uint32_t plain_charged(const struct plain *p, uint32_t account)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) n += p->used[b] && p->blocks[b].account == account;
    return n;
}

/* What has to be evicted for this account: BLOCKS if nothing has to, or nothing can. */
static uint32_t plain_victim(const struct plain *p, uint32_t taker)
{
    uint32_t victim = BLOCKS;
    double most = 0;
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (!p->used[b]) return BLOCKS;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        uint32_t a = p->blocks[b].account;
        if (p->blocks[b].references) continue;
        double has = (double)(plain_charged(p, a) + (a == taker)) / p->weight[a];
        if (victim == BLOCKS || has > most || (has == most && p->blocks[b].released_at < p->blocks[victim].released_at))
            victim = b, most = has;
    }
    return victim;
}

static void plain_take(struct plain *p, struct kv_cache *c, uint32_t account)
{
    uint32_t victim = plain_victim(p, account), block, n_used = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) n_used += p->used[b];
    bool want = n_used < BLOCKS || victim < BLOCKS;
    assert_int_equal(kv_cache_take(c, account, p->weight[account], &block), want);
    if (!want) return;
    if (victim < BLOCKS) assert_int_equal(block, victim);
    if (victim == BLOCKS) assert_false(p->used[block]);
    p->used[block] = true;
    p->blocks[block].references = 1;
    p->blocks[block].account = account;
    p->blocks[block].key = 0;
}

static uint32_t plain_find(const struct plain *p, uint32_t k)
{
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (p->used[b] && p->blocks[b].key == k) return b;
    return BLOCKS;
}

static void plain_check(const struct plain *p, const struct kv_cache *c)
{
    uint32_t n_free = 0, n_cached = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        n_free += !p->used[b];
        n_cached += p->used[b] && p->blocks[b].references == 0;
        assert_int_equal(kv_cache_references(c, b), p->used[b] ? p->blocks[b].references : 0);
    }
    assert_counts(c, n_free, n_cached, BLOCKS - n_free - n_cached);
    for (uint32_t a = 0; a < ACCOUNTS; a++) assert_int_equal(kv_cache_charged(c, a), plain_charged(p, a));
    for (uint32_t k = 1; k <= KEYS; k++) assert_int_equal(is_found(c, k), plain_find(p, k) < BLOCKS);
}

static void plain_call(struct plain *p, struct kv_cache *c, uint64_t *rng)
{
    uint32_t what = (uint32_t)(rng_next(rng) % 4), b = (uint32_t)(rng_next(rng) % BLOCKS), k = 1 + (uint32_t)(rng_next(rng) % KEYS), found;
    struct kv_key wanted = key(k);
    bool referenced = p->used[b] && p->blocks[b].references > 0;
    if (what == 0) {
        plain_take(p, c, (uint32_t)(rng_next(rng) % ACCOUNTS));
    } else if (what == 1) {
        uint32_t at = plain_find(p, k);
        assert_int_equal(kv_cache_match(c, &wanted, 1, &found), at < BLOCKS);
        if (at < BLOCKS) assert_int_equal(found, at);
        if (at < BLOCKS) p->blocks[at].references++;
    } else if (what == 2 && referenced && !p->blocks[b].key) {
        kv_cache_publish(c, b, wanted);
        if (plain_find(p, k) == BLOCKS) p->blocks[b].key = k;
    } else if (referenced) {
        kv_cache_release(c, b);
        if (--p->blocks[b].references > 0) return;
        p->blocks[b].released_at = ++p->n_releases;
        p->used[b] = p->blocks[b].key != 0;
    }
}

static void test_random_calls_agree_with_a_plain_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct plain p = {0};
        struct kv_cache *c = make(BLOCKS);
        uint64_t rng = seed;
        for (uint32_t a = 0; a < ACCOUNTS; a++) p.weight[a] = 1 + (uint32_t)(rng_next(&rng) % 4);
        for (int i = 0; i < 500; i++) {
            plain_call(&p, c, &rng);
            plain_check(&p, c);
        }
        kv_cache_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_block_is_free_again_only_if_it_was_not_published),
        cmocka_unit_test(test_only_the_leading_blocks_of_a_chain_are_found),
        cmocka_unit_test(test_second_block_of_a_key_stays_private),
        cmocka_unit_test(test_referenced_blocks_are_never_taken),
        cmocka_unit_test(test_block_released_longest_ago_goes_first),
        cmocka_unit_test(test_t36_flood_takes_an_account_down_to_its_share_and_no_further),
        cmocka_unit_test(test_share_of_an_account_follows_its_weight),
        cmocka_unit_test(test_random_calls_agree_with_a_plain_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
