/* Ledger: every rule, on the store that SPILLWAY_STORE names; the invariants after each test. */
#include "tests/accounts/store.h"

#include <time.h>

#include "server/accounts/ledger_parts.h"

enum { CENT = 10000000, USD = 1000000000 };

static struct db *db;
static struct ledger *l;
static int64_t key, groq, local, now_ms, ahead_ms; /* ahead_ms: the database's clock of the boot clock */

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

static int64_t clock_boot(void *ctx)
{
    (void)ctx;
    return now_ms - ahead_ms;
}

/* The database's clock alone. */
static void clock_jump(int64_t ms)
{
    now_ms += ms;
    ahead_ms += ms;
}

static void ledger_begin(bool alone)
{
    OK(db_open(&db, store_where(), &store_e));
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = alone, .now_ms = clock_now, .boot_ms = clock_boot}, &store_e));
}

static void ledger_end_all(void)
{
    ledger_close(l);
    db_close(db);
    l = NULL;
    db = NULL;
}

static int setup(void **state)
{
    (void)state;
    now_ms = 1790000000000; /* 2026-09-21 14:13:20 UTC */
    ahead_ms = now_ms - 1000000;
    store_new();
    ledger_begin(true);
    key = store_key(db, 2);
    groq = ledger_supplier(db, "groq", &store_e);
    local = ledger_supplier(db, "local/demo", &store_e);
    OK(groq);
    OK(local);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_check(db);
    ledger_end_all();
    store_remove();
    return 0;
}

/* --- short ways to say things --- */

static struct ledger_op reserve_of(int64_t account, int64_t amount)
{
    return (struct ledger_op){.type = LEDGER_RESERVE,
                              .account = account,
                              .model = "demo",
                              .amount_nusd = amount,
                              .tokens = 100,
                              .lasts_ms = 60000,
                              .attempt = {.supplier = local, .model = "demo"}};
}

static int apply(struct ledger_op *op)
{
    OK(ledger_apply(l, &op, 1, &store_e));
    return op->rc;
}

static int reserve(int64_t account, int64_t amount, int64_t *request)
{
    struct ledger_op op = reserve_of(account, amount);
    apply(&op);
    *request = op.request;
    return op.rc;
}

static struct ledger_used used_of_attempt(int n, int64_t cost)
{
    return (struct ledger_used){
        .n = n, .supplier = n == 1 ? local : groq, .end = LEDGER_SERVED, .usage = {.count = {10, 2, 0, 0, 0, 0, 30}, .present = 1 | 2 | 64}, .cost_nusd = cost};
}

static struct ledger_op post_of(int64_t request, int64_t sale, int64_t cost)
{
    return (struct ledger_op){
        .type = LEDGER_POST, .request = request, .sale_nusd = sale, .served = 1, .used = {used_of_attempt(1, cost)}, .n_used = 1, .outcome = "stop"};
}

static int post(int64_t request, int64_t sale, int64_t cost)
{
    struct ledger_op op = post_of(request, sale, cost);
    return apply(&op);
}

static int void_it(int64_t request)
{
    struct ledger_used failed = {.n = 1, .supplier = local, .end = LEDGER_FAILED};
    struct ledger_op op = {.type = LEDGER_VOID, .request = request, .used = {failed}, .n_used = 1, .outcome = "failed"};
    return apply(&op);
}

static struct ledger_balance balance(int64_t account)
{
    struct ledger_balance b;
    OK(ledger_balance(l, account, &b, &store_e));
    return b;
}

static int64_t house(const char *name)
{
    int64_t id;
    OK(db_number(db, "SELECT id FROM accounts WHERE kind = 'house' AND name = ?1", DB_ARGS(db_text(name)), 0, &id, &store_e));
    return id;
}

static void prepay(int64_t amount)
{
    int64_t zero = 0;
    OK(ledger_floor_set(l, 2, &zero, &store_e));
    if (amount) OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, amount, 0, "paid", &store_e));
}

static int64_t budget(int64_t account, const char *scope, const char *unit, const char *period, int64_t amount)
{
    int64_t id = ledger_budget_add(l, &(struct ledger_budget){.account = account, .scope = scope, .unit = unit, .period = period, .amount = amount, .hard = true},
                                   &store_e);
    OK(id);
    return id;
}

/* --- tests --- */

static void test_a_request_is_held_then_charged_once(void **state)
{
    (void)state;
    int64_t id;
    prepay(USD);
    assert_int_equal(reserve(key, 5 * CENT, &id), 0);
    assert_int_equal(balance(2).pending_nusd, 5 * CENT);
    assert_int_equal(balance(2).posted_nusd, USD);
    assert_int_equal(post(id, 3 * CENT, 2 * CENT), 0);
    assert_int_equal(balance(2).pending_nusd, 0);
    assert_int_equal(balance(2).posted_nusd, USD - 3 * CENT);
    assert_int_equal(balance(house("house")).posted_nusd, 1 * CENT); /* the margin */
    assert_int_equal(balance(local).posted_nusd, 2 * CENT);
    assert_int_equal(post(id, 3 * CENT, 2 * CENT), -ERR_NOT_FOUND); /* not twice */
    assert_int_equal(void_it(id), -ERR_NOT_FOUND);
    assert_int_equal(balance(2).posted_nusd, USD - 3 * CENT);
}

static void test_a_void_costs_nothing(void **state)
{
    (void)state;
    int64_t id;
    prepay(CENT);
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(void_it(id), 0);
    assert_int_equal(balance(2).posted_nusd, CENT);
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers WHERE kind <> 'deposit'"), 0);
    assert_int_equal(post(id, CENT, 0), -ERR_NOT_FOUND);
}

static void test_b1_the_last_cent_goes_to_one(void **state)
{
    (void)state;
    int64_t a, b;
    prepay(CENT);
    assert_int_equal(reserve(key, CENT, &a), 0);
    assert_int_equal(reserve(key, CENT, &b), -ERR_HELD); /* the first may be cheaper than it holds */
    assert_int_equal(post(a, CENT, 0), 0);
    assert_int_equal(reserve(key, CENT, &b), -ERR_BUDGET);
    assert_int_equal(reserve(key, 0, &b), 0); /* what costs nothing needs nothing */
    assert_int_equal(void_it(b), 0);
}

static void test_t70_a_batch_grants_as_many_as_fit(void **state)
{
    (void)state;
    struct ledger_op ops[256], *list[256];
    prepay(USD);
    for (int i = 0; i < 256; i++) ops[i] = reserve_of(key, CENT), list[i] = &ops[i];
    OK(ledger_apply(l, list, 256, &store_e));
    int granted = 0, held = 0;
    for (int i = 0; i < 256; i++) {
        granted += ops[i].rc == 0;
        held += ops[i].rc == -ERR_HELD;
    }
    assert_int_equal(granted, 100);
    assert_int_equal(held, 156);
    for (int i = 0; i < 256; i++)
        if (ops[i].rc == 0) assert_int_equal(post(ops[i].request, CENT, 0), 0);
    assert_int_equal(balance(2).posted_nusd, 0);
}

static void test_two_gateways_share_a_balance(void **state)
{
    (void)state;
    struct db *other_db;
    struct ledger *other;
    int granted = 0;
    prepay(10 * CENT);
    OK(db_open(&other_db, store_where(), &store_e));
    OK(ledger_open(&other, other_db, &(struct ledger_options){.gateway = "other", .now_ms = clock_now}, &store_e));
    assert_true(ledger_run(other) != ledger_run(l));
    for (int i = 0; i < 30; i++) {
        struct ledger_op op = reserve_of(key, CENT), *p = &op;
        OK(ledger_apply(i % 2 ? l : other, &p, 1, &store_e));
        granted += op.rc == 0;
        if (op.rc == 0 && i % 3 == 0) { /* posted by the other one */
            struct ledger_op end = post_of(op.request, CENT, 0), *q = &end;
            OK(ledger_apply(i % 2 ? other : l, &q, 1, &store_e));
            assert_int_equal(end.rc, 0);
        }
    }
    assert_int_equal(granted, 10);
    ledger_close(other);
    db_close(other_db);
}

static void test_i4_what_is_beyond_the_hold_the_house_bears(void **state)
{
    (void)state;
    int64_t id;
    prepay(10 * CENT);
    assert_int_equal(reserve(key, 2 * CENT, &id), 0);
    struct ledger_op op = post_of(id, 7 * CENT, 6 * CENT);
    assert_int_equal(apply(&op), 0);
    assert_int_equal(op.charged_nusd, 2 * CENT);
    assert_int_equal(op.overrun_nusd, 5 * CENT);
    assert_int_equal(balance(2).posted_nusd, 8 * CENT);
    assert_int_equal(balance(house("overrun")).posted_nusd, -5 * CENT);
    assert_int_equal(balance(house("house")).posted_nusd, 7 * CENT - 6 * CENT);
}

static void test_a_hold_is_extended_while_it_is_covered(void **state)
{
    (void)state;
    int64_t id;
    prepay(3 * CENT);
    assert_int_equal(reserve(key, CENT, &id), 0);
    struct ledger_op more = {.type = LEDGER_EXTEND, .request = id, .n = 1, .amount_nusd = CENT, .tokens = 256, .attempt = {.sale_estimate_nusd = CENT}};
    assert_int_equal(apply(&more), 0);
    assert_int_equal(apply(&more), 0);
    assert_int_equal(apply(&more), -ERR_BUDGET);
    assert_int_equal(balance(2).pending_nusd, 3 * CENT);
    assert_int_equal(post(id, 3 * CENT, 0), 0);
    assert_int_equal(apply(&more), -ERR_NOT_FOUND);
}

/* Of a free model nothing in its rows tells an extension from the one before (B9). */
static void test_b9_a_batch_is_known_by_its_runs_row(void **state)
{
    (void)state;
    int64_t id;
    assert_int_equal(reserve(key, 0, &id), 0);
    struct ledger_op more = {.type = LEDGER_EXTEND, .request = id, .n = 1, .tokens = 256, .attempt = {.extended = 1}}, *list = &more;
    assert_int_equal(apply(&more), 0);
    if (db_kind(db) == DB_SQLITE) OK(ledger_beat(l, &store_e)); /* there no outcome is unknown, so a batch does not write the row */
    assert_int_equal(ledger_look(l, &list, 1, &store_e), 1);
    l->seen_ms++; /* one that did not come to be */
    assert_int_equal(ledger_look(l, &list, 1, &store_e), 0);
    assert_int_equal(post(id, 0, 0), 0);
}

static void test_a_reserve_says_what_can_refuse_more(void **state)
{
    (void)state;
    struct ledger_op op = reserve_of(key, CENT);
    assert_int_equal(apply(&op), 0);
    assert_int_equal(op.limits, 0);
    assert_int_equal(void_it(op.request), 0);
    int64_t b = budget(key, "all", "tokens", "minute", 100000);
    budget(key, "all", "requests", "minute", 100);
    op = reserve_of(key, CENT);
    assert_int_equal(apply(&op), 0);
    assert_int_equal(op.limits, LEDGER_LIMITS_TOKENS);
    OK(ledger_budget_end(l, b, &store_e));
    struct ledger_op more = {.type = LEDGER_EXTEND, .request = op.request, .n = 1, .tokens = 1000000, .attempt = {.extended = 1}};
    assert_int_equal(apply(&more), 0); /* what has ended refuses nothing */
    assert_int_equal(void_it(op.request), 0);
    prepay(3 * CENT);
    op = reserve_of(key, CENT);
    assert_int_equal(apply(&op), 0);
    assert_int_equal(op.limits, LEDGER_LIMITS_MONEY);
    assert_int_equal(void_it(op.request), 0);
}

/* A second attempt at another source, with a price of its own: the sale is by the one that served. */
static void test_a_second_attempt_brings_its_price(void **state)
{
    (void)state;
    struct ledger_op op = reserve_of(key, CENT);
    op.price_of = (struct ledger_price){.provider = "groq", .model = "m", .rows = "{\"first\":1}"};
    op.markup = 7;
    assert_int_equal(apply(&op), 0);
    struct ledger_op second = {.type = LEDGER_ATTEMPT, .request = op.request, .n = 2, .attempt = {.supplier = groq, .model = "m2"},
                               .price_of = {.provider = "groq", .model = "m2", .rows = "{\"second\":1}"}};
    assert_int_equal(apply(&second), 0);
    assert_true(second.price_id > 0 && second.price_id != op.price_id);
    assert_int_equal(store_number(db, "SELECT price FROM attempts WHERE n = 2"), second.price_id);
    struct ledger_op end = post_of(op.request, CENT, 0);
    end.used[0].end = LEDGER_FAILED;
    end.used[1] = used_of_attempt(2, CENT);
    end.n_used = end.served = 2;
    end.price = second.price_id;
    assert_int_equal(apply(&end), 0);
    assert_int_equal(store_number(db, "SELECT price FROM requests"), second.price_id);
    assert_int_equal(store_number(db, "SELECT coalesce(markup, 0) FROM requests"), 0);
}

static void test_budgets_hold_in_their_windows(void **state)
{
    (void)state;
    int64_t id;
    int64_t b = budget(key, "all", "nusd", "hour", 2 * CENT);
    struct ledger_op op = reserve_of(key, CENT);
    assert_int_equal(apply(&op), 0);
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(post(id, CENT, 0), 0);
    struct ledger_op third = reserve_of(key, CENT);
    assert_int_equal(apply(&third), -ERR_HELD);
    assert_int_equal(third.budget, b);
    assert_int_equal(post(op.request, CENT, 0), 0);
    assert_int_equal(apply(&third), -ERR_BUDGET);
    assert_int_equal(third.free_at_ms, now_ms - now_ms % 3600000 + 3600000);
    now_ms = third.free_at_ms; /* the next hour */
    assert_int_equal(apply(&third), 0);
    assert_int_equal(void_it(third.request), 0);
}

/* A reservation counts in the window it was made in, also when it is posted in the next. */
static void test_a_reservation_stays_in_its_window(void **state)
{
    (void)state;
    int64_t id, other;
    budget(2, "all", "nusd", "day", 2 * CENT);
    now_ms = 1790035199000; /* 23:59:59 */
    assert_int_equal(reserve(key, 2 * CENT, &id), 0);
    now_ms += 2000;
    assert_int_equal(reserve(key, 2 * CENT, &other), 0);
    assert_int_equal(post(id, 2 * CENT, 0), 0);
    assert_int_equal(store_number(db, "SELECT count(*) FROM budget_windows WHERE posted = 20000000 AND pending = 0"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM budget_windows WHERE posted = 0 AND pending = 20000000"), 1);
    assert_int_equal(post(other, CENT, 0), 0);
}

static void test_every_budget_above_a_key_is_asked(void **state)
{
    (void)state;
    int64_t id;
    const int64_t accounts[] = {key, 2, 1, house("house")};
    for (int i = 0; i < 4; i++) {
        int64_t b = budget(accounts[i], "all", "nusd", "total", CENT - 1);
        struct ledger_op op = reserve_of(key, CENT);
        assert_int_equal(apply(&op), -ERR_BUDGET);
        assert_int_equal(op.budget, b);
        assert_int_equal(op.free_at_ms, 0); /* waiting is in vain */
        OK(ledger_budget_end(l, b, &store_e));
    }
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(post(id, CENT, 0), 0);
}

static void test_a_soft_budget_counts_and_refuses_nothing(void **state)
{
    (void)state;
    int64_t id;
    OK(ledger_budget_add(l, &(struct ledger_budget){.account = 2, .scope = "all", .unit = "nusd", .period = "month", .amount = 1}, &store_e));
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(post(id, CENT, 0), 0);
    assert_int_equal(store_number(db, "SELECT posted FROM budget_windows"), CENT);
}

static void test_budgets_of_hosted_work_and_of_overflow_leave_the_rest_alone(void **state)
{
    (void)state;
    budget(2, "hosted", "nusd", "hour", 3 * CENT);
    budget(house("house"), "overflow", "nusd", "hour", CENT);
    struct ledger_op op = reserve_of(key, 100 * CENT);
    assert_int_equal(apply(&op), 0); /* local */
    assert_int_equal(post(op.request, 100 * CENT, 0), 0);
    op = reserve_of(key, 2 * CENT);
    op.scope = LEDGER_OVERFLOW;
    assert_int_equal(apply(&op), -ERR_BUDGET);
    op.scope = LEDGER_HOSTED;
    assert_int_equal(apply(&op), 0);
    assert_int_equal(post(op.request, 2 * CENT, CENT), 0);
    op = reserve_of(key, CENT);
    op.scope = LEDGER_OVERFLOW;
    assert_int_equal(apply(&op), 0);
    assert_int_equal(post(op.request, CENT, CENT), 0);
    op = reserve_of(key, 1);
    op.scope = LEDGER_HOSTED;
    assert_int_equal(apply(&op), -ERR_BUDGET);
}

/* A request that waited for the local model goes to a provider: from then on it counts in the budgets of overflow, with all that it holds. */
static void test_an_attempt_of_a_wider_scope_asks_its_budgets(void **state)
{
    (void)state;
    int64_t b = budget(2, "overflow", "nusd", "hour", 3 * CENT), id, other;
    struct ledger_op spill = {.type = LEDGER_ATTEMPT, .n = 2, .scope = LEDGER_OVERFLOW, .amount_nusd = CENT, .attempt = {.supplier = groq, .model = "llama"}};
    assert_int_equal(reserve(key, 2 * CENT, &id), 0);
    spill.request = id;
    assert_int_equal(apply(&spill), 0);
    assert_int_equal(store_number(db, "SELECT pending FROM budget_windows"), 3 * CENT);
    assert_int_equal(reserve(key, CENT, &other), 0);
    spill.request = other;
    assert_int_equal(apply(&spill), -ERR_HELD);
    assert_int_equal(spill.budget, b);
    assert_int_equal(store_number(db, "SELECT count(*) FROM attempts"), 3);
    struct ledger_op end = post_of(id, 2 * CENT, 0);
    end.used[0].end = LEDGER_FAILED;
    end.used[1] = used_of_attempt(2, CENT);
    end.n_used = end.served = 2;
    assert_int_equal(apply(&end), 0);
    assert_int_equal(balance(groq).posted_nusd, CENT);
    assert_int_equal(store_number(db, "SELECT posted FROM budget_windows"), 2 * CENT);
    assert_int_equal(void_it(other), 0);
}

static void test_limits_of_requests_and_tokens(void **state)
{
    (void)state;
    int64_t id[3];
    int64_t b = budget(key, "all", "requests", "minute", 2);
    for (int i = 0; i < 2; i++) assert_int_equal(reserve(key, 0, &id[i]), 0);
    struct ledger_op op = reserve_of(key, 0);
    assert_int_equal(apply(&op), -ERR_RATE);
    assert_int_equal(op.free_at_ms % 60000, 0);
    assert_in_range(op.free_at_ms, now_ms + 1, now_ms + 60000);
    assert_int_equal(post(id[0], 0, 0), 0);
    assert_int_equal(apply(&op), -ERR_RATE); /* those that have ended count, too */
    OK(ledger_budget_end(l, b, &store_e));
    b = budget(key, "all", "requests", "now", 2);
    assert_int_equal(reserve(key, 0, &id[2]), 0);
    assert_int_equal(apply(&op), 0); /* id[1] is of before that limit */
    struct ledger_op third = reserve_of(key, 0);
    assert_int_equal(apply(&third), -ERR_RATE);
    assert_int_equal(post(op.request, 0, 0), 0);
    assert_int_equal(apply(&third), 0);
    OK(ledger_budget_end(l, b, &store_e));
    budget(key, "all", "tokens", "minute", 150); /* each asks for 100 and uses 42 */
    assert_int_equal(post(third.request, 0, 0), 0);
    struct ledger_op first = reserve_of(key, 0), second = reserve_of(key, 0);
    assert_int_equal(apply(&first), 0);
    assert_int_equal(apply(&second), -ERR_RATE);
    assert_int_equal(post(first.request, 0, 0), 0);
    assert_int_equal(apply(&second), 0); /* 42 + 100 */
    assert_int_equal(post(second.request, 0, 0), 0);
    assert_int_equal(apply(&second), -ERR_RATE);
    assert_int_equal(post(id[1], 0, 0) | post(id[2], 0, 0), 0);
}

static void test_b8_an_idempotency_key_is_good_for_one_request(void **state)
{
    (void)state;
    unsigned char k[LEDGER_HASH_BYTES] = {1}, body[LEDGER_HASH_BYTES] = {2}, other[LEDGER_HASH_BYTES] = {3};
    prepay(CENT);
    struct ledger_op op = reserve_of(key, CENT), again = reserve_of(key, CENT);
    op.idempotency_key = again.idempotency_key = k;
    op.body_hash = again.body_hash = body;
    assert_int_equal(apply(&op), 0);
    assert_int_equal(apply(&again), -ERR_IN_FLIGHT);
    assert_int_equal(again.known, op.request);
    again.body_hash = other;
    assert_int_equal(apply(&again), -ERR_MISMATCH);
    again.body_hash = body;
    assert_int_equal(void_it(op.request), 0); /* it failed: it may come again */
    assert_int_equal(apply(&op), 0);
    assert_int_equal(post(op.request, CENT, 0), 0);
    assert_int_equal(apply(&again), -ERR_DONE); /* and not "no money" */
    assert_int_equal(again.known, op.request);
    now_ms += LEDGER_ANSWER_MS - 1;
    assert_int_equal(apply(&again), -ERR_DONE);
    now_ms += 1;
    assert_int_equal(apply(&again), -ERR_BUDGET); /* forgotten: a new request, which the balance does not cover */
    prepay(CENT);
    assert_int_equal(apply(&again), 0);
    assert_int_equal(void_it(again.request), 0);
    int64_t elsewhere = store_key(db, 2); /* another key's are its own */
    op = reserve_of(elsewhere, CENT);
    op.idempotency_key = k;
    op.body_hash = other;
    assert_int_equal(apply(&op), 0);
    assert_int_equal(void_it(op.request), 0);
}

static void test_32_duplicates_in_one_batch_make_one_request(void **state)
{
    (void)state;
    unsigned char k[LEDGER_HASH_BYTES] = {1}, body[LEDGER_HASH_BYTES] = {2};
    struct ledger_op ops[32], *list[32];
    int granted = 0, in_flight = 0;
    for (int i = 0; i < 32; i++) {
        ops[i] = reserve_of(key, CENT);
        ops[i].idempotency_key = k;
        ops[i].body_hash = body;
        list[i] = &ops[i];
    }
    OK(ledger_apply(l, list, 32, &store_e));
    for (int i = 0; i < 32; i++) {
        granted += ops[i].rc == 0;
        in_flight += ops[i].rc == -ERR_IN_FLIGHT;
    }
    assert_int_equal(granted, 1);
    assert_int_equal(in_flight, 31);
    assert_int_equal(post(ops[0].request, CENT, 0), 0);
}

static void test_closed_keys_and_frozen_accounts_reserve_nothing(void **state)
{
    (void)state;
    int64_t id;
    assert_int_equal(reserve(key, 0, &id), 0);
    OK(db_script(db, "UPDATE accounts SET frozen_s = 1 WHERE id = 1; UPDATE ledger_state SET config_version = config_version + 1", &store_e));
    int64_t other;
    assert_int_equal(reserve(key, 0, &other), -ERR_DENIED);
    assert_int_equal(post(id, 0, 0), 0); /* what is under way ends as it would */
    OK(db_script(db, "UPDATE accounts SET frozen_s = NULL WHERE id = 1; UPDATE accounts SET closed_s = 1 WHERE kind = 'key';"
                     "UPDATE ledger_state SET config_version = config_version + 1", &store_e));
    assert_int_equal(reserve(key, 0, &other), -ERR_DENIED);
    assert_int_equal(reserve(424242, 0, &other), -ERR_DENIED);
    assert_int_equal(reserve(2, 0, &other), -ERR_DENIED); /* a project is no key */
}

static void test_b10_a_run_that_died_is_recovered(void **state)
{
    (void)state;
    int64_t no_attempt, begun, checkpointed;
    prepay(USD);
    struct ledger_op op = reserve_of(key, 10 * CENT);
    op.attempt.supplier = 0;
    assert_int_equal(apply(&op), 0);
    no_attempt = op.request;
    assert_int_equal(reserve(key, 10 * CENT, &begun), 0);
    op = reserve_of(key, 10 * CENT);
    op.attempt = (struct ledger_attempt){.supplier = groq, .model = "llama", .sale_estimate_nusd = 4 * CENT, .cost_estimate_nusd = 3 * CENT};
    assert_int_equal(apply(&op), 0);
    checkpointed = op.request;
    db_close(db); /* the process is gone: nothing was said to the store */
    ledger_begin(true);
    size_t n;
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 3);
    assert_int_equal(balance(2).pending_nusd, 0);
    assert_int_equal(balance(2).posted_nusd, USD - 4 * CENT);
    assert_int_equal(balance(groq).posted_nusd, 3 * CENT);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE state = 'void'"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE state = 'posted' AND estimated = 1"), 2);
    assert_int_equal(store_number(db, "SELECT count(*) FROM reconciliation"), 2);
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 0);
    (void)no_attempt;
    (void)begun;
    (void)checkpointed;
}

static void test_b20_a_gateway_knows_its_own_dead_runs_on_a_store_that_others_use(void **state)
{
    (void)state;
    int64_t dead, alive;
    size_t n;
    struct db *others = db;
    const struct ledger_options only = {.gateway = "ours", .only = true, .now_ms = clock_now};
    struct ledger *other = l;
    assert_int_equal(reserve(key, CENT, &alive), 0); /* of "test" */
    OK(db_open(&db, store_where(), &store_e));
    OK(ledger_open(&l, db, &only, &store_e));
    assert_int_equal(reserve(key, CENT, &dead), 0);
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 0); /* it is this run's */
    ledger_end_all();
    OK(db_open(&db, store_where(), &store_e));
    OK(ledger_open(&l, db, &only, &store_e));
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 1);
    assert_int_equal(post(dead, CENT, 0), -ERR_NOT_FOUND);
    ledger_end_all();
    l = other;
    db = others;
    assert_int_equal(post(alive, CENT, 0), 0);
}

static void test_i5_no_hold_outlives_its_deadline_by_more_than_a_minute(void **state)
{
    (void)state;
    int64_t id;
    size_t n;
    assert_int_equal(reserve(key, CENT, &id), 0); /* ends in 60 s */
    now_ms += 60000 + LEDGER_GRACE_MS;
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 0);
    now_ms += 1;
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 1);
    assert_int_equal(post(id, CENT, 0), -ERR_NOT_FOUND); /* it comes too late */
}

static void test_t77_the_clock_never_goes_back(void **state)
{
    (void)state;
    int64_t id;
    size_t n;
    budget(key, "all", "nusd", "day", CENT);
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(post(id, CENT, 0), 0);
    now_ms -= 24 * 3600 * 1000; /* a day back: no second budget for the same day, and none for the one before */
    assert_int_equal(reserve(key, CENT, &id), -ERR_BUDGET);
    ledger_end_all();
    ledger_begin(true); /* over a restart, too */
    assert_int_equal(reserve(key, CENT, &id), -ERR_BUDGET);
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(n, 0);
    now_ms += 2 * 24 * 3600 * 1000;
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(void_it(id), 0);
}

enum { MINUTE_MS = 60000, HOUR_MS = 3600000, DAY_MS = 24 * HOUR_MS };

static size_t recovered(struct ledger *by)
{
    size_t n;
    OK(ledger_recover(by, &n, &store_e));
    return n;
}

static void test_t77_a_clock_that_jumps_ends_no_request_early(void **state)
{
    const int64_t jumps[] = {DAY_MS, -DAY_MS, -HOUR_MS, DAY_MS};
    int64_t id;
    (void)state;
    assert_int_equal(reserve(key, CENT, &id), 0); /* has to end in 60 s, and has 60 s more */
    for (int i = 0; i < 4; i++) {
        clock_jump(jumps[i]);
        now_ms += 29000;
        assert_int_equal(recovered(l), 0);
    }
    now_ms += 4001;
    assert_int_equal(recovered(l), 1);
}

static void test_t77_a_clock_that_stands_or_went_back_ends_no_request_late(void **state)
{
    int64_t id;
    (void)state;
    assert_int_equal(reserve(key, CENT, &id), 0);
    now_ms += 2 * MINUTE_MS + 1;
    clock_jump(-2 * MINUTE_MS - 1); /* it has stood since */
    assert_int_equal(recovered(l), 1);
    assert_int_equal(reserve(key, CENT, &id), 0);
    clock_jump(-HOUR_MS);
    now_ms += 2 * MINUTE_MS;
    assert_int_equal(recovered(l), 0);
    now_ms += 1;
    assert_int_equal(recovered(l), 1);
}

/* Another gateway sees the same jump: it leaves the requests of one that lives alone, and takes those of one that has fallen silent. */
static void test_t77_another_gateway_judges_by_who_lives(void **state)
{
    struct db *other_db;
    struct ledger *other;
    int64_t id;
    (void)state;
    ledger_end_all();
    ledger_begin(false);
    OK(db_open(&other_db, store_where(), &store_e));
    OK(ledger_open(&other, other_db, &(struct ledger_options){.gateway = "other", .now_ms = clock_now, .boot_ms = clock_boot}, &store_e));
    struct ledger_op op = reserve_of(key, CENT);
    op.lasts_ms = 10 * MINUTE_MS;
    assert_int_equal(apply(&op), 0);
    id = op.request;
    now_ms += 2 * MINUTE_MS;
    OK(ledger_beat(l, &store_e));
    clock_jump(DAY_MS);
    assert_int_equal(recovered(other), 0); /* it has not been able to say anything since */
    now_ms += MINUTE_MS;
    OK(ledger_beat(l, &store_e));
    assert_int_equal(recovered(other), 0); /* it has */
    now_ms += 1;
    assert_int_equal(post(id, CENT, 0), 0);
    assert_int_equal(reserve(key, CENT, &id), 0); /* and then it dies: 60 s, and 60 s */
    now_ms += 2 * MINUTE_MS;
    assert_int_equal(recovered(other), 0);
    now_ms += 1;
    assert_int_equal(recovered(other), 1);
    ledger_close(other);
    db_close(other_db);
}

/* A budget's day is the database's, and does not come twice. */
static void test_t77_a_window_is_not_had_twice(void **state)
{
    int64_t id;
    (void)state;
    budget(key, "all", "nusd", "hour", CENT);
    assert_int_equal(reserve(key, CENT, &id), 0);
    clock_jump(HOUR_MS);
    int64_t next;
    assert_int_equal(reserve(key, CENT, &next), 0);
    assert_int_equal(post(id, CENT, 0), 0);
    clock_jump(-HOUR_MS);
    int64_t other;
    assert_int_equal(reserve(key, CENT, &other), -ERR_HELD); /* it is that next hour until the clock has come round */
    assert_int_equal(post(next, CENT, 0), 0);
    assert_int_equal(reserve(key, CENT, &other), -ERR_BUDGET);
}

/* An unknown outcome that was none: the numbers are used again (I10). */
static void test_b9_a_commit_that_was_none_leaves_no_gap(void **state)
{
    int64_t id, before;
    (void)state;
    assert_int_equal(reserve(key, CENT, &before), 0);
    l->seq_before = l->seq;
    l->seq += 3; /* as a batch that is cut leaves it */
    l->seen_before_ms = l->seen_ms++;
    OK(ledger_look(l, NULL, 0, &store_e));
    assert_int_equal(reserve(key, CENT, &id), 0);
    assert_int_equal(id, before + 1);
    assert_int_equal(void_it(id) | void_it(before), 0);
}

static void test_b18_corrections_are_new_transfers(void **state)
{
    (void)state;
    int64_t id, sale;
    prepay(10 * CENT);
    assert_int_equal(reserve(key, 4 * CENT, &id), 0);
    assert_int_equal(post(id, 4 * CENT, 0), 0);
    sale = store_number(db, "SELECT id FROM transfers WHERE kind = 'sale'");
    int64_t n = store_number(db, "SELECT count(*) FROM transfers");
    OK(ledger_transfer(l, LEDGER_REFUND, 2, 4 * CENT, sale, "it was wrong", &store_e));
    OK(ledger_transfer(l, LEDGER_ADJUSTMENT, 2, -12 * CENT, 0, "below the floor, by an operator", &store_e));
    OK(ledger_transfer(l, LEDGER_ADJUSTMENT, 2, 5 * CENT, 0, "and back", &store_e));
    OK(ledger_transfer(l, LEDGER_CHARGEBACK, 2, CENT, 0, NULL, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers"), n + 4);
    assert_int_equal(balance(2).posted_nusd, 2 * CENT);
    assert_int_equal(balance(house("outside")).posted_nusd, -9 * CENT);
    struct err e;
    assert_int_equal(ledger_transfer(l, LEDGER_DEPOSIT, 2, 0, 0, NULL, &e), -ERR_INPUT);
    assert_int_equal(ledger_transfer(l, LEDGER_REFUND, 2, -5, 0, NULL, &e), -ERR_INPUT);
    assert_int_equal(ledger_transfer(l, LEDGER_REFUND, 2, 5, 99999, NULL, &e), -ERR_NOT_FOUND);
    assert_int_equal(ledger_transfer(l, LEDGER_DEPOSIT, key, 5, 0, NULL, &e), -ERR_NOT_FOUND); /* a key holds no money */
}

static void test_usage_is_summed_by_day_and_tag(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct ledger_op op = reserve_of(key, CENT);
        op.tags = i < 2 ? "{\"team\":\"a\",\"run\":\"1\"}" : "{\"team\":\"b\"}";
        assert_int_equal(apply(&op), 0);
        assert_int_equal(post(op.request, CENT, CENT / 2), 0);
        if (i == 1) now_ms += 24 * 3600 * 1000;
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM usage_days"), 2);
    assert_int_equal(store_number(db, "SELECT max(requests) FROM usage_days"), 2);
    assert_int_equal(store_number(db, "SELECT sum(tokens_in) FROM usage_days"), 3 * 12);
    assert_int_equal(store_number(db, "SELECT sum(tokens_cached) FROM usage_days"), 3 * 2);
    assert_int_equal(store_number(db, "SELECT sum(tokens_out) FROM usage_days"), 3 * 30);
    assert_int_equal(store_number(db, "SELECT sale FROM usage_tags WHERE tag = 'team' AND value = 'a'"), 2 * CENT);
    assert_int_equal(store_number(db, "SELECT count(*) FROM usage_tags"), 3);
}

static void test_budgets_are_checked_when_they_are_made(void **state)
{
    (void)state;
    struct err e;
    const struct ledger_budget bad[] = {{.account = 2, .scope = "some", .unit = "nusd", .period = "day"},
                                        {.account = 2, .scope = "all", .unit = "eur", .period = "day"},
                                        {.account = 2, .scope = "all", .unit = "nusd", .period = "week"},
                                        {.account = 2, .scope = "all", .unit = "nusd", .period = "day", .amount = -1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(ledger_budget_add(l, &bad[i], &e), -ERR_INPUT);
    struct ledger_budget b = {.account = groq, .scope = "all", .unit = "nusd", .period = "day"};
    assert_int_equal(ledger_budget_add(l, &b, &e), -ERR_NOT_FOUND);
    b.account = 2;
    int n = 0;
    while (ledger_budget_add(l, &b, &e) > 0) n++;
    assert_int_equal(n, LEDGER_MAX_WINDOWS / 4);
    assert_int_equal(ledger_budget_end(l, 99999, &e), -ERR_NOT_FOUND);
}

/* Against the C library's calendar, over 400 years. */
static void test_windows_begin_where_the_calendar_says(void **state)
{
    (void)state;
    for (int64_t s = 0; s < (int64_t)400 * 366 * 86400; s += 86400 * 3 + 12345) {
        time_t t = (time_t)s;
        struct tm tm;
        gmtime_r(&t, &tm);
        struct tm first = {.tm_year = tm.tm_year, .tm_mon = tm.tm_mon, .tm_mday = 1}, next = {.tm_year = tm.tm_year, .tm_mon = tm.tm_mon + 1, .tm_mday = 1};
        assert_int_equal(ledger_window_start_s(PERIOD_MONTH, s), timegm(&first));
        assert_int_equal(ledger_window_end_s(PERIOD_MONTH, timegm(&first)), timegm(&next));
        assert_int_equal(ledger_window_start_s(PERIOD_DAY, s), s - s % 86400);
    }
    assert_int_equal(ledger_window_start_s(PERIOD_TOTAL, 5), 0);
    assert_int_equal(ledger_window_end_s(PERIOD_TOTAL, 0), 0);
}

/* Everything at once, by chance, on two gateways; the invariants after every hundred batches, and a model of the balance beside it. */
static void test_random_batches_keep_the_invariants(void **state)
{
    (void)state;
    enum { OPEN = 200 };
    int64_t open[OPEN], keys[4], n_open = 0, deposited = 0;
    unsigned seed = (unsigned)time(NULL);
    const char *given = getenv("SPILLWAY_TEST_SEED");
    if (given) seed = (unsigned)strtoul(given, NULL, 10);
    print_message("    seed %u\n", seed);
    srand(seed);
    prepay(USD);
    deposited = USD;
    int64_t other = store_project(db);
    for (int i = 0; i < 4; i++) keys[i] = store_key(db, i < 2 ? 2 : other);
    budget(keys[0], "all", "nusd", "hour", 40 * CENT);
    budget(1, "all", "requests", "now", 60);
    budget(2, "hosted", "nusd", "minute", 9 * CENT);
    for (int round = 0; round < 300; round++) {
        struct ledger_op ops[16], *list[16];
        size_t n = 1 + (size_t)rand() % 16;
        for (size_t i = 0; i < n; i++) {
            list[i] = &ops[i];
            int64_t amount = rand() % (3 * CENT);
            if (n_open == 0 || rand() % 2) {
                ops[i] = reserve_of(keys[rand() % 4], amount);
                ops[i].scope = (enum ledger_scope)(rand() % 3);
                continue;
            }
            int64_t at = rand() % n_open, id = open[at];
            int what = rand() % 4;
            if (what == 0) {
                ops[i] = (struct ledger_op){.type = LEDGER_EXTEND, .request = id, .n = 1, .amount_nusd = amount};
                continue;
            }
            open[at] = open[--n_open];
            ops[i] = post_of(id, amount, amount / 2);
            if (what == 1) ops[i].type = LEDGER_VOID, ops[i].used[0].end = LEDGER_FAILED;
        }
        OK(ledger_apply(l, list, n, &store_e));
        for (size_t i = 0; i < n; i++) {
            bool ends = ops[i].type == LEDGER_POST || ops[i].type == LEDGER_VOID;
            if (ends) assert_int_equal(ops[i].rc, 0);
            if (ops[i].type == LEDGER_RESERVE && ops[i].rc == 0 && n_open < OPEN) open[n_open++] = ops[i].request;
        }
        now_ms += rand() % 5000;
        if (round % 100 == 99) {
            OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, 5 * CENT, 0, NULL, &store_e));
            deposited += 5 * CENT;
            store_check(db);
        }
    }
    assert_true(balance(2).posted_nusd >= 0);
    assert_true(balance(2).posted_nusd < deposited);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(test_a_request_is_held_then_charged_once),
        T(test_a_void_costs_nothing),
        T(test_b1_the_last_cent_goes_to_one),
        T(test_t70_a_batch_grants_as_many_as_fit),
        T(test_two_gateways_share_a_balance),
        T(test_i4_what_is_beyond_the_hold_the_house_bears),
        T(test_a_hold_is_extended_while_it_is_covered),
        T(test_b9_a_batch_is_known_by_its_runs_row),
        T(test_a_reserve_says_what_can_refuse_more),
        T(test_a_second_attempt_brings_its_price),
        T(test_budgets_hold_in_their_windows),
        T(test_a_reservation_stays_in_its_window),
        T(test_every_budget_above_a_key_is_asked),
        T(test_a_soft_budget_counts_and_refuses_nothing),
        T(test_budgets_of_hosted_work_and_of_overflow_leave_the_rest_alone),
        T(test_an_attempt_of_a_wider_scope_asks_its_budgets),
        T(test_limits_of_requests_and_tokens),
        T(test_b8_an_idempotency_key_is_good_for_one_request),
        T(test_32_duplicates_in_one_batch_make_one_request),
        T(test_closed_keys_and_frozen_accounts_reserve_nothing),
        T(test_b10_a_run_that_died_is_recovered),
        T(test_b20_a_gateway_knows_its_own_dead_runs_on_a_store_that_others_use),
        T(test_i5_no_hold_outlives_its_deadline_by_more_than_a_minute),
        T(test_t77_the_clock_never_goes_back),
        T(test_t77_a_clock_that_jumps_ends_no_request_early),
        T(test_t77_a_clock_that_stands_or_went_back_ends_no_request_late),
        T(test_t77_another_gateway_judges_by_who_lives),
        T(test_t77_a_window_is_not_had_twice),
        T(test_b9_a_commit_that_was_none_leaves_no_gap),
        T(test_b18_corrections_are_new_transfers),
        T(test_usage_is_summed_by_day_and_tag),
        T(test_budgets_are_checked_when_they_are_made),
        cmocka_unit_test(test_windows_begin_where_the_calendar_says),
        T(test_random_batches_keep_the_invariants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
