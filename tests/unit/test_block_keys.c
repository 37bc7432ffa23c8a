/* Block keys: equal for equal positions, and different for whatever differs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/block_keys.h"

enum { IMAGE = 9, BLOCK = 4 };

static const int32_t tokens[12] = {1, 2, IMAGE, IMAGE, 3, IMAGE, IMAGE, 4, 5, IMAGE, 6, 7}; /* the last image token was made */
static const uint8_t hashes[2][FRAME_HASH_BYTES] = {{1}, {2}};
static const struct block_text text = {
    .tokens = tokens, .n_prompt = 9, .image_token = IMAGE, .tokens_per_tile = 2, .n_tiles = 2, .tiles = hashes};
static struct block_secret secret;

static int make_secret(void **state)
{
    struct err e;
    (void)state;
    return block_secret_make(&secret, &e);
}

/* The key of block i, after those before it. */
static struct kv_key key_of(const struct block_text *t, uint64_t scope, uint64_t adapter, uint32_t i)
{
    struct block_chain c = {.secret = &secret, .scope = scope, .adapter = adapter};
    struct kv_key key = {{0, 0}};
    for (uint32_t k = 0; k <= i; k++) key = block_chain_next(&c, t, BLOCK);
    return key;
}

static bool same(struct kv_key a, struct kv_key b)
{
    return kv_key_equal(a, b);
}

static void test_equal_positions_have_equal_keys(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++) assert_true(same(key_of(&text, 1, 0, i), key_of(&text, 1, 0, i)));
    assert_false(same(key_of(&text, 1, 0, 0), key_of(&text, 1, 0, 1)));
}

static void test_scope_adapter_and_secret_are_part_of_a_key(void **state)
{
    (void)state;
    struct kv_key key = key_of(&text, 1, 0, 0);
    struct err e;
    assert_false(same(key, key_of(&text, 2, 0, 0)));
    assert_false(same(key, key_of(&text, 1, 1, 0)));
    assert_int_equal(block_secret_make(&secret, &e), 0);
    assert_false(same(key, key_of(&text, 1, 0, 0)));
}

static void test_what_came_before_is_part_of_a_key(void **state)
{
    (void)state;
    int32_t other[12];
    struct block_text t = text;
    memcpy(other, tokens, sizeof other);
    other[0]++;
    t.tokens = other;
    for (uint32_t i = 0; i < 3; i++) assert_false(same(key_of(&text, 1, 0, i), key_of(&t, 1, 0, i)));
}

static void test_picture_positions_are_known_by_their_tile(void **state)
{
    (void)state;
    uint8_t other[2][FRAME_HASH_BYTES];
    struct block_text t = text;
    memcpy(other, hashes, sizeof other);
    other[1][31]++;
    t.tiles = (const uint8_t(*)[FRAME_HASH_BYTES])other;
    assert_true(same(key_of(&text, 1, 0, 0), key_of(&t, 1, 0, 0))); /* the first tile is as it was */
    assert_false(same(key_of(&text, 1, 0, 1), key_of(&t, 1, 0, 1)));
}

static void test_image_token_that_was_made_is_a_token(void **state)
{
    (void)state;
    struct block_text plain = {.tokens = tokens + 8, .n_prompt = 0, .image_token = -1};
    struct block_chain c = {.secret = &secret, .scope = 1}, d = c;
    for (uint32_t i = 0; i < 2; i++) block_chain_next(&c, &text, BLOCK);
    d.parent = c.parent;
    assert_true(same(block_chain_next(&c, &text, BLOCK), block_chain_next(&d, &plain, BLOCK)));
}

static void test_key_of_a_whole_prompt_is_no_blocks(void **state)
{
    (void)state;
    struct block_chain c = {.secret = &secret, .scope = 1};
    struct kv_key whole = block_chain_whole(&c, &text, BLOCK), shorter = block_chain_whole(&c, &text, BLOCK - 1);
    assert_false(same(whole, shorter));
    assert_int_equal(c.n_positions, 0); /* the chain stayed where it was */
    assert_false(same(whole, block_chain_next(&c, &text, BLOCK)));
}

static void test_tile_keys_differ_by_tile_and_scope(void **state)
{
    (void)state;
    struct kv_key key = block_tile_key(&secret, 1, hashes[0]);
    assert_true(same(key, block_tile_key(&secret, 1, hashes[0])));
    assert_false(same(key, block_tile_key(&secret, 1, hashes[1])));
    assert_false(same(key, block_tile_key(&secret, 2, hashes[0])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_positions_have_equal_keys),      cmocka_unit_test(test_scope_adapter_and_secret_are_part_of_a_key),
        cmocka_unit_test(test_what_came_before_is_part_of_a_key),    cmocka_unit_test(test_picture_positions_are_known_by_their_tile),
        cmocka_unit_test(test_image_token_that_was_made_is_a_token), cmocka_unit_test(test_key_of_a_whole_prompt_is_no_blocks),
        cmocka_unit_test(test_tile_keys_differ_by_tile_and_scope),
    };
    return cmocka_run_group_tests(tests, make_secret, NULL);
}
