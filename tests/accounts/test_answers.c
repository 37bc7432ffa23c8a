/* Ledger: idempotency keys, the answers that are kept under them, the limits that a reserve tells (FAULTS B8, T75); on the store that SPILLWAY_STORE
 * names, with the invariants after each test. SPILLWAY_FAULT=long: T75's 10,000 keys. */
#include "tests/accounts/store.h"

#include <sodium.h>

#include "server/accounts/answer_box.h"
#include "server/accounts/directory.h"

enum { CENT = 10000000, MINUTE_MS = 60000 };

static struct db *db;
static struct ledger *l;
static int64_t key, local, now_ms;

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

static int setup(void **state)
{
    (void)state;
    now_ms = 1790000040000; /* a minute begins */
    store_new();
    OK(db_open(&db, store_where(), &store_e));
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = true, .now_ms = clock_now}, &store_e));
    key = store_key(db, 2);
    local = ledger_supplier(db, "local/demo", &store_e);
    OK(local);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_check(db);
    ledger_close(l);
    db_close(db);
    store_remove();
    return 0;
}

/* --- short ways to say things --- */

struct named {
    unsigned char key[LEDGER_HASH_BYTES], body[LEDGER_HASH_BYTES];
};

static struct named named(int n)
{
    struct named r = {{0}, {9}};
    memcpy(r.key, &n, sizeof n);
    return r;
}

static struct ledger_op op_of(enum ledger_op_type type, const struct named *n)
{
    return (struct ledger_op){.type = type,
                              .account = key,
                              .model = "demo",
                              .amount_nusd = CENT,
                              .tokens = 100,
                              .lasts_ms = 60000,
                              .idempotency_key = n ? n->key : NULL,
                              .body_hash = n ? n->body : NULL,
                              .attempt = {.supplier = local, .model = "demo"}};
}

static int apply(struct ledger_op *op)
{
    OK(ledger_apply(l, &op, 1, &store_e));
    return op->rc;
}

static struct ledger_op post_of(int64_t request, int64_t sale, const char *answer)
{
    return (struct ledger_op){.type = LEDGER_POST,
                              .request = request,
                              .sale_nusd = sale,
                              .served = 1,
                              .used = {{.n = 1, .supplier = local, .end = LEDGER_SERVED, .usage = {.count = {10, 2, 0, 0, 0, 0, 30, 4}, .present = 1 | 2 | 64 | 128}}},
                              .n_used = 1,
                              .outcome = "whole",
                              .answer = (const unsigned char *)answer,
                              .n_answer = answer ? strlen(answer) : 0,
                              .answer_nusd = sale};
}

/* Reserved and posted. Returns its number. */
static int64_t done(const struct named *n, const char *answer)
{
    struct ledger_op op = op_of(LEDGER_RESERVE, n), post;
    assert_int_equal(apply(&op), 0);
    post = post_of(op.request, CENT, answer);
    assert_int_equal(apply(&post), 0);
    return op.request;
}

static void allow(bool on)
{
    OK(directory_store_answers(db, 2, on, &store_e));
}

/* What a key is answered now; the receipt is the caller's to clear. */
static int known(const struct named *n, struct ledger_receipt *r)
{
    struct ledger_op op = op_of(LEDGER_KNOWN, n);
    op.receipt = r;
    return apply(&op);
}

static void expect_answer(const struct named *n, const char *want)
{
    struct ledger_receipt r = {0};
    assert_int_equal(known(n, &r), -ERR_DONE);
    if (want) {
        assert_int_equal(r.n_answer, strlen(want));
        assert_memory_equal(r.answer, want, r.n_answer);
    } else
        assert_null(r.answer);
    ledger_receipt_clear(&r);
}

/* --- keys --- */

static void test_b8_a_question_costs_and_holds_nothing(void **state)
{
    (void)state;
    const struct named n = named(1), other = {.key = {1}, .body = {8}};
    assert_int_equal(known(&n, NULL), 0);
    assert_int_equal(store_number(db, "SELECT count(*) FROM idempotency"), 0);
    struct ledger_op op = op_of(LEDGER_RESERVE, &n), post;
    assert_int_equal(apply(&op), 0);
    assert_int_equal(known(&n, NULL), -ERR_IN_FLIGHT);
    assert_int_equal(known(&other, NULL), -ERR_MISMATCH);
    post = post_of(op.request, CENT, NULL);
    assert_int_equal(apply(&post), 0);
    assert_int_equal(known(&n, NULL), -ERR_DONE);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), 1);
}

static void test_b8_questions_of_one_batch_do_not_meet(void **state)
{
    (void)state;
    const struct named a = named(1), b = named(2);
    done(&a, NULL);
    struct ledger_op ops[] = {op_of(LEDGER_KNOWN, &a), op_of(LEDGER_KNOWN, &b), op_of(LEDGER_RESERVE, &b), op_of(LEDGER_KNOWN, &b)}, *list[4];
    for (int i = 0; i < 4; i++) list[i] = &ops[i];
    OK(ledger_apply(l, list, 4, &store_e));
    const int want[] = {-ERR_DONE, 0, 0, -ERR_IN_FLIGHT};
    for (int i = 0; i < 4; i++) assert_int_equal(ops[i].rc, want[i]);
    assert_int_equal(ops[3].known, ops[2].request);
    struct ledger_op post = post_of(ops[2].request, 0, NULL);
    assert_int_equal(apply(&post), 0);
}

static void test_b9_a_batch_is_not_found_again_by_a_question(void **state)
{
    (void)state;
    const struct named n = named(1);
    struct ledger_op ops[] = {op_of(LEDGER_KNOWN, &n), op_of(LEDGER_RESERVE, &n)}, *list[] = {&ops[0], &ops[1]}, post;
    OK(ledger_apply(l, list, 2, &store_e));
    assert_int_equal(ledger_look(l, list, 2, &store_e), 1); /* the reserve tells */
    post = post_of(ops[1].request, 0, NULL);
    assert_int_equal(apply(&post), 0);
}

static void test_b8_frozen_accounts_are_told_nothing(void **state)
{
    (void)state;
    const struct named n = named(1);
    done(&n, NULL);
    OK(directory_freeze(db, 2, true, &store_e));
    assert_int_equal(known(&n, NULL), -ERR_DENIED);
}

static void test_t75_the_edge_of_a_keys_time(void **state)
{
    (void)state;
    const struct named n = named(1);
    allow(true);
    int64_t first = done(&n, "kept");
    now_ms += LEDGER_ANSWER_MS - 1;
    expect_answer(&n, "kept");
    now_ms += 1;
    assert_int_equal(known(&n, NULL), 0);
    int64_t second = done(&n, "new");
    assert_true(second != first);
    expect_answer(&n, "new");
    assert_int_equal(store_number(db, "SELECT count(*) FROM idempotency"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers WHERE kind = 'sale'"), 2);
}

static void test_keys_that_are_too_old_are_taken_away(void **state)
{
    (void)state;
    const struct named n[] = {named(1), named(2)};
    size_t n_gone;
    done(&n[0], NULL);
    now_ms += LEDGER_ANSWER_MS - 1;
    done(&n[1], NULL);
    OK(ledger_forget_keys(l, &n_gone, &store_e));
    assert_int_equal(n_gone, 0);
    now_ms += 1;
    OK(ledger_forget_keys(l, &n_gone, &store_e));
    assert_int_equal(n_gone, 1);
    assert_int_equal(known(&n[1], NULL), -ERR_DONE);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), 2); /* they stay */
}

/* --- receipts and answers --- */

static void test_b8_a_receipt_is_what_was_booked(void **state)
{
    (void)state;
    const struct named n = named(1);
    struct ledger_receipt r = {0};
    struct ledger_op op = op_of(LEDGER_RESERVE, &n), post;
    assert_int_equal(apply(&op), 0);
    post = post_of(op.request, 3 * CENT, NULL); /* more than is held */
    assert_int_equal(apply(&post), 0);
    assert_int_equal(known(&n, &r), -ERR_DONE);
    assert_int_equal(r.charged_nusd, CENT);
    assert_string_equal(r.outcome, "whole");
    assert_false(r.estimated);
    assert_int_equal(r.usage.present, 1 | 2 | 64 | 128);
    assert_int_equal(usage_sum(&r.usage, USAGE_IN), 12);
    assert_int_equal(usage_sum(&r.usage, USAGE_OUT), 34);
    ledger_receipt_clear(&r);
}

static void test_b8_answers_are_kept_where_the_project_lets_them_be(void **state)
{
    (void)state;
    const struct named n[] = {named(1), named(2), named(3)};
    done(&n[0], "before");
    expect_answer(&n[0], NULL);
    allow(true);
    done(&n[1], "kept");
    expect_answer(&n[1], "kept");
    allow(false);
    expect_answer(&n[1], NULL);
    done(&n[2], "after");
    assert_int_equal(store_number(db, "SELECT count(*) FROM idempotency WHERE answer IS NOT NULL"), 0);
}

static void test_b8_a_reserve_tells_whether_answers_may_be_kept(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct ledger_op op = op_of(LEDGER_RESERVE, NULL), post;
        if (i) allow(true);
        assert_int_equal(apply(&op), 0);
        assert_int_equal(op.stores, i);
        post = post_of(op.request, 0, NULL);
        assert_int_equal(apply(&post), 0);
    }
}

static void test_b8_an_answer_that_tells_another_cost_is_not_kept(void **state)
{
    (void)state;
    const struct named n = named(1);
    allow(true);
    struct ledger_op op = op_of(LEDGER_RESERVE, &n), post;
    assert_int_equal(apply(&op), 0);
    post = post_of(op.request, CENT, "it cost 1 nano-dollar");
    post.answer_nusd = 1;
    assert_int_equal(apply(&post), 0);
    expect_answer(&n, NULL);
}

static void test_b8_the_longest_answer_is_kept_whole(void **state)
{
    (void)state;
    const struct named n = named(1);
    char *answer = malloc(LEDGER_ANSWER_BYTES + 1);
    assert_non_null(answer);
    for (int i = 0; i < LEDGER_ANSWER_BYTES; i++) answer[i] = (char)(1 + i * 31 % 255);
    answer[LEDGER_ANSWER_BYTES] = '\0';
    allow(true);
    done(&n, answer);
    expect_answer(&n, answer);
    free(answer);
}

static void test_storage_is_a_projects(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(directory_store_answers(db, 1, true, &e), -ERR_NOT_FOUND);
    assert_int_equal(directory_store_answers(db, key, true, &e), -ERR_NOT_FOUND);
    assert_int_equal(directory_store_answers(db, 2, false, &e), -ERR_INPUT); /* it is off */
}

/* Each key 32 times in one batch, its end among them. */
static void test_t75_many_keys_each_is_charged_once(void **state)
{
    (void)state;
    const char *fault = getenv("SPILLWAY_FAULT");
    const int n_keys = fault && strcmp(fault, "long") == 0 ? 10000 : 100;
    for (int i = 0; i < n_keys; i++) {
        const struct named n = named(i);
        struct ledger_op first = op_of(LEDGER_RESERVE, &n), ops[33], *list[33];
        assert_int_equal(apply(&first), 0);
        for (int j = 0; j < 33; j++) {
            ops[j] = j == i % 33 ? post_of(first.request, CENT, NULL) : op_of(j % 2 ? LEDGER_KNOWN : LEDGER_RESERVE, &n);
            list[j] = &ops[j];
        }
        OK(ledger_apply(l, list, 33, &store_e));
        for (int j = 0; j < 33; j++) assert_int_equal(ops[j].rc, j == i % 33 ? 0 : j < i % 33 ? -ERR_IN_FLIGHT : -ERR_DONE);
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), n_keys);
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers WHERE kind = 'sale'"), n_keys);
}

/* --- tags --- */

static void test_tags_may_be_as_long_as_openais(void **state)
{
    (void)state;
    char *tags = malloc(1 << 20), *at = tags;
    assert_non_null(tags);
    for (int i = 0; i < 16; i++) {
        at += sprintf(at, "%s\"%c%063d\":\"", i ? "," : "{", 'a' + i, 0);
        for (int j = 0; j < 512; j++) at += sprintf(at, "\\ud83d\\ude%02x", (unsigned)(i + j) % 64); /* four bytes each, twelve as they come */
        at += sprintf(at, "\"");
    }
    strcpy(at, "}");
    struct ledger_op op = op_of(LEDGER_RESERVE, NULL), post;
    op.tags = tags;
    assert_int_equal(apply(&op), 0);
    post = post_of(op.request, CENT, NULL);
    assert_int_equal(apply(&post), 0);
    assert_int_equal(store_number(db, "SELECT count(*) FROM usage_tags WHERE length(value) = 512 AND length(tag) = 64 AND sale = 10000000"), 16);
    free(tags);
}

/* --- limits by the minute --- */

static int64_t limit(int64_t account, const char *scope, const char *unit, const char *period, int64_t amount, bool hard)
{
    int64_t id = ledger_budget_add(
        l, &(struct ledger_budget){.account = account, .scope = scope, .unit = unit, .period = period, .amount = amount, .hard = hard}, &store_e);
    OK(id);
    return id;
}

static void expect_rate(const struct ledger_rate *r, int64_t amount, int64_t left, int64_t reset_ms)
{
    assert_true(r->is);
    assert_int_equal(r->limit, amount);
    assert_int_equal(r->remaining, left);
    assert_int_equal(r->reset_ms, reset_ms);
}

static void test_a_reserve_tells_what_is_left_of_the_minute(void **state)
{
    (void)state;
    limit(2, "all", "requests", "minute", 2, true);
    limit(2, "all", "tokens", "minute", 1000, true);
    struct ledger_op op = op_of(LEDGER_RESERVE, NULL), second = op, third = op, post;
    now_ms += 1500;
    assert_int_equal(apply(&op), 0);
    expect_rate(&op.rates[LEDGER_RATE_REQUESTS], 2, 1, MINUTE_MS - 1500);
    expect_rate(&op.rates[LEDGER_RATE_TOKENS], 1000, 900, MINUTE_MS - 1500);
    post = post_of(op.request, 0, NULL); /* 12 + 34 tokens in place of 100 */
    assert_int_equal(apply(&post), 0);
    assert_int_equal(apply(&second), 0);
    expect_rate(&second.rates[LEDGER_RATE_REQUESTS], 2, 0, MINUTE_MS - 1500);
    expect_rate(&second.rates[LEDGER_RATE_TOKENS], 1000, 1000 - 46 - 100, MINUTE_MS - 1500);
    assert_int_equal(apply(&third), -ERR_RATE); /* refused: it holds nothing of the tokens */
    expect_rate(&third.rates[LEDGER_RATE_REQUESTS], 2, 0, MINUTE_MS - 1500);
    expect_rate(&third.rates[LEDGER_RATE_TOKENS], 1000, 1000 - 46 - 100, MINUTE_MS - 1500);
    post = post_of(second.request, 0, NULL);
    assert_int_equal(apply(&post), 0);
}

static void test_the_rate_with_the_least_left_is_told(void **state)
{
    (void)state;
    int64_t closest = limit(2, "all", "requests", "minute", 7, true);
    limit(1, "all", "requests", "minute", 100, true);
    limit(key, "all", "requests", "minute", 50, true);
    struct ledger_op op = op_of(LEDGER_RESERVE, NULL), post;
    assert_int_equal(apply(&op), 0);
    expect_rate(&op.rates[LEDGER_RATE_REQUESTS], 7, 6, MINUTE_MS);
    post = post_of(op.request, 0, NULL);
    assert_int_equal(apply(&post), 0);
    OK(ledger_budget_end(l, closest, &store_e));
    assert_int_equal(apply(&op), 0);
    expect_rate(&op.rates[LEDGER_RATE_REQUESTS], 50, 48, MINUTE_MS);
    post = post_of(op.request, 0, NULL);
    assert_int_equal(apply(&post), 0);
}

static void test_what_is_no_limit_of_ones_own_by_the_minute_is_not_told(void **state)
{
    (void)state;
    const int64_t everybody = store_number(db, "SELECT id FROM accounts WHERE kind = 'house' AND name = 'house'");
    limit(2, "all", "requests", "hour", 5, true);
    limit(2, "all", "requests", "now", 5, true);
    limit(2, "all", "nusd", "minute", 5 * CENT, true);
    limit(2, "all", "tokens", "minute", 50, false); /* it refuses nothing */
    limit(2, "hosted", "requests", "minute", 5, true); /* of other requests */
    limit(everybody, "all", "requests", "minute", 5, true);
    struct ledger_op op = op_of(LEDGER_RESERVE, NULL), post;
    assert_int_equal(apply(&op), 0);
    assert_false(op.rates[LEDGER_RATE_REQUESTS].is || op.rates[LEDGER_RATE_TOKENS].is);
    op = op_of(LEDGER_RESERVE, NULL);
    op.scope = LEDGER_HOSTED;
    int64_t first = store_number(db, "SELECT max(id) FROM requests");
    assert_int_equal(apply(&op), 0);
    expect_rate(&op.rates[LEDGER_RATE_REQUESTS], 5, 4, MINUTE_MS);
    for (int i = 0; i < 2; i++) {
        post = post_of(i ? first : op.request, 0, NULL);
        assert_int_equal(apply(&post), 0);
    }
}

/* --- the box --- */

static const unsigned char secret[ANSWER_SECRET_BYTES] = {1, 2, 3};

static void test_a_sealed_answer_opens_for_its_own_key_only(void **state)
{
    (void)state;
    unsigned char body[ANSWER_HASH_BYTES], sealed[5 + ANSWER_EXTRA_BYTES], other_secret[ANSWER_SECRET_BYTES] = {9};
    char out[5];
    struct err e;
    answer_body_hash(secret, "{}", 2, body);
    const struct answer_box box = {.secret = secret, .key = "k1", .account = 5, .request = 77, .body_hash = body};
    answer_seal(&box, "hello", 5, sealed);
    assert_int_equal(answer_open(&box, sealed, sizeof sealed, out, &e), 0);
    assert_memory_equal(out, "hello", 5);
    struct answer_box wrong[] = {box, box, box, box, box};
    unsigned char other_body[ANSWER_HASH_BYTES];
    answer_body_hash(secret, "{ }", 3, other_body);
    wrong[0].key = "k2";
    wrong[1].account++;
    wrong[2].request++;
    wrong[3].body_hash = other_body;
    wrong[4].secret = other_secret;
    for (int i = 0; i < 5; i++) assert_int_equal(answer_open(&wrong[i], sealed, sizeof sealed, out, &e), -ERR_INPUT);
}

static void test_a_sealed_answer_that_was_changed_does_not_open(void **state)
{
    (void)state;
    unsigned char body[ANSWER_HASH_BYTES] = {0}, sealed[5 + ANSWER_EXTRA_BYTES];
    char out[5];
    struct err e;
    const struct answer_box box = {.secret = secret, .key = "k1", .account = 5, .request = 77, .body_hash = body};
    answer_seal(&box, "hello", 5, sealed);
    for (size_t i = 0; i < 8 * sizeof sealed; i++) {
        sealed[i / 8] ^= (unsigned char)(1 << i % 8);
        assert_int_equal(answer_open(&box, sealed, sizeof sealed, out, &e), -ERR_INPUT);
        sealed[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    for (size_t n = 0; n < sizeof sealed; n++) assert_int_equal(answer_open(&box, sealed, n, out, &e), -ERR_INPUT);
    assert_int_equal(answer_open(&box, sealed, sizeof sealed, out, &e), 0);
}

static void test_hashes_of_keys_and_bodies_differ(void **state)
{
    (void)state;
    unsigned char a[ANSWER_HASH_BYTES], b[ANSWER_HASH_BYTES], other_secret[ANSWER_SECRET_BYTES] = {9};
    answer_key_hash(secret, "x", a);
    answer_body_hash(secret, "x", 1, b);
    assert_memory_not_equal(a, b, sizeof a);
    answer_key_hash(other_secret, "x", b);
    assert_memory_not_equal(a, b, sizeof a);
    answer_body_hash(secret, NULL, 0, b); /* an empty body has one, too */
    answer_body_hash(secret, "", 0, a);
    assert_memory_equal(a, b, sizeof a);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    if (sodium_init() < 0) return 1;
    const struct CMUnitTest tests[] = {
        T(test_b8_a_question_costs_and_holds_nothing),
        T(test_b8_questions_of_one_batch_do_not_meet),
        T(test_b9_a_batch_is_not_found_again_by_a_question),
        T(test_b8_frozen_accounts_are_told_nothing),
        T(test_t75_the_edge_of_a_keys_time),
        T(test_keys_that_are_too_old_are_taken_away),
        T(test_b8_a_receipt_is_what_was_booked),
        T(test_b8_answers_are_kept_where_the_project_lets_them_be),
        T(test_b8_a_reserve_tells_whether_answers_may_be_kept),
        T(test_b8_an_answer_that_tells_another_cost_is_not_kept),
        T(test_b8_the_longest_answer_is_kept_whole),
        T(test_storage_is_a_projects),
        T(test_t75_many_keys_each_is_charged_once),
        T(test_tags_may_be_as_long_as_openais),
        T(test_a_reserve_tells_what_is_left_of_the_minute),
        T(test_the_rate_with_the_least_left_is_told),
        T(test_what_is_no_limit_of_ones_own_by_the_minute_is_not_told),
        cmocka_unit_test(test_a_sealed_answer_opens_for_its_own_key_only),
        cmocka_unit_test(test_a_sealed_answer_that_was_changed_does_not_open),
        cmocka_unit_test(test_hashes_of_keys_and_bodies_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
