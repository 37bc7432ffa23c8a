/* Ledger writer: many threads, one store; a store that goes away. Long form: SPILLWAY_FAULT=long. */
#include "tests/accounts/writer.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"

enum { CENT = 10000000, USD = 1000000000, THREADS = 64 };

/* A call that its thread waits for. */
static struct ledger_writer *writer_start(bool alone)
{
    struct ledger_writer *w;
    struct ledger_writer_options o = {.where = store_where(), .ledger = {.gateway = "test", .alone = alone}, .deliver = deliver};
    OK(ledger_writer_start(&w, &o, &store_e));
    return w;
}

static void writer_end(struct ledger_writer *w)
{
    ledger_writer_stop(w, 1000);
    ledger_writer_free(w);
}

static int ask(struct ledger_writer *w, struct ledger_op *op)
{
    return ask_within(w, op, 900);
}

static struct ledger_op reserve_of(int64_t key, int64_t supplier, int64_t amount)
{
    return (struct ledger_op){.type = LEDGER_RESERVE,
                              .account = key,
                              .model = "demo",
                              .amount_nusd = amount,
                              .lasts_ms = 600000,
                              .attempt = {.supplier = supplier, .model = "demo"}};
}

static struct ledger_op post_of(int64_t request, int64_t supplier, int64_t sale)
{
    return (struct ledger_op){.type = LEDGER_POST,
                              .request = request,
                              .sale_nusd = sale,
                              .served = 1,
                              .n_used = 1,
                              .used = {{.n = 1, .supplier = supplier, .usage = {.count = {1, 0, 0, 0, 0, 0, 1}, .present = 1 | 64}, .cost_nusd = sale / 2}}};
}

struct shared {
    struct ledger_writer *w[2];
    int64_t key, supplier;
    atomic_int turn, granted, refused, posted;
};

/* Asks until it is told that there is no more. */
static void *spend(void *arg)
{
    struct shared *s = arg;
    struct ledger_writer *w = s->w[atomic_fetch_add(&s->turn, 1) % 2];
    for (;;) {
        struct ledger_op op = reserve_of(s->key, s->supplier, CENT);
        int rc = ask(w, &op);
        if (rc == -ERR_HELD) { /* others may give some back: they do not here, but who is told so asks again */
            atomic_fetch_add(&s->refused, 1);
            usleep(200);
            continue;
        }
        if (rc) return NULL;
        atomic_fetch_add(&s->granted, 1);
        struct ledger_op end = post_of(op.request, s->supplier, CENT);
        if (ask(w, &end) == 0) atomic_fetch_add(&s->posted, 1);
    }
}

/* T70. Rounds of: an account of $1.00, 64 threads, requests of $0.01: exactly 100 succeed. On PostgreSQL two gateways. */
static void test_t70_exactly_a_hundred_succeed(void **state)
{
    (void)state;
    struct db *db;
    const char *fault = getenv("SPILLWAY_FAULT");
    bool postgres = db_is_url(store_where()), whole = fault && strcmp(fault, "long") == 0;
    int rounds = !whole ? 5 : postgres ? 200 : 1000;
    store_new();
    OK(db_open(&db, store_where(), &store_e));
    struct shared s = {.supplier = ledger_supplier(db, "local/demo", &store_e)};
    s.w[0] = writer_start(!postgres);
    s.w[1] = postgres ? writer_start(false) : s.w[0];
    struct ledger *l;
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "operator"}, &store_e));
    for (int round = 0; round < rounds; round++) {
        pthread_t threads[THREADS];
        int64_t project = store_project(db), zero = 0;
        s.key = store_key(db, project);
        s.granted = s.refused = s.posted = 0;
        OK(ledger_floor_set(l, project, &zero, &store_e));
        OK(ledger_transfer(l, LEDGER_DEPOSIT, project, USD, 0, NULL, &store_e));
        for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, spend, &s), 0);
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        assert_int_equal(s.granted, 100);
        assert_int_equal(s.posted, 100);
        struct ledger_balance b;
        OK(ledger_balance(l, project, &b, &store_e));
        assert_int_equal(b.posted_nusd, 0);
        assert_int_equal(b.pending_nusd, 0);
        if (round % 50 == 0 || round + 1 == rounds) store_check(db);
    }
    struct ledger_writer_state st = ledger_writer_state(s.w[0]);
    print_message("    T70 %d rounds: %.1f operations a transaction\n", rounds, (double)st.n_ops / (double)st.n_batches);
    writer_end(s.w[0]);
    if (postgres) writer_end(s.w[1]);
    ledger_close(l);
    db_close(db);
    store_remove();
}

/* An operation that breaks a rule of the tables does not take its neighbours with it. */
static void test_one_bad_operation_spoils_nobody_elses(void **state)
{
    (void)state;
    struct db *db;
    store_new();
    OK(db_open(&db, store_where(), &store_e));
    int64_t key = store_key(db, 2), supplier = ledger_supplier(db, "local/demo", &store_e);
    struct ledger_writer *w = writer_start(true);
    struct ledger_op a = reserve_of(key, supplier, CENT), b = reserve_of(key, supplier, CENT);
    assert_int_equal(ask(w, &a), 0);
    assert_int_equal(ask(w, &b), 0);
    struct wait waits[3] = {{.call = {.op = post_of(a.request, supplier, CENT)}}, {.call = {.op = post_of(b.request, supplier, CENT)}}, {.call = {.op = reserve_of(key, supplier, 1)}}};
    waits[0].call.op.used[0].n = 7; /* there is no such attempt */
    for (int i = 0; i < 3; i++) {
        sem_init(&waits[i].done, 0, 0);
        waits[i].call.ctx = &waits[i];
        ledger_writer_submit(w, &waits[i].call);
    }
    for (int i = 0; i < 3; i++) sem_wait(&waits[i].done);
    assert_int_equal(waits[0].call.op.rc, -ERR_INTERNAL);
    assert_int_equal(waits[1].call.op.rc, 0);
    assert_int_equal(waits[2].call.op.rc, 0);
    struct ledger_op end = post_of(a.request, supplier, CENT), last = post_of(waits[2].call.op.request, supplier, 1);
    assert_int_equal(ask(w, &end), 0);
    assert_int_equal(ask(w, &last), 0);
    store_check(db);
    writer_end(w);
    db_close(db);
    store_remove();
}

/* Another process holds the store's lock for longer than anybody waits: nothing new is begun, an end waits and is written when the store is back. */
static void test_b15_ends_wait_for_a_store_that_is_away(void **state)
{
    (void)state;
    struct db *db;
    if (db_is_url(store_where())) {
        print_message("    (SQLite's; PostgreSQL's own is in test_stores.py)\n");
        return;
    }
    store_new();
    OK(db_open(&db, store_where(), &store_e));
    int64_t key = store_key(db, 2), supplier = ledger_supplier(db, "local/demo", &store_e);
    struct ledger_writer *w = writer_start(true);
    struct ledger_op op = reserve_of(key, supplier, CENT);
    assert_int_equal(ask(w, &op), 0);
    OK(db_script(db, "ALTER TABLE requests RENAME TO gone", &store_e)); /* every statement fails, as on a disk that does */
    struct wait end = {.call = {.op = post_of(op.request, supplier, CENT)}};
    sem_init(&end.done, 0, 0);
    end.call.ctx = &end;
    ledger_writer_submit(w, &end.call);
    struct ledger_op refused = reserve_of(key, supplier, CENT);
    while (ledger_writer_state(w).open) usleep(1000);
    int64_t from_ms = clock_boot_ms();
    assert_int_equal(ask(w, &refused), -ERR_STORE);
    assert_true(clock_boot_ms() - from_ms < 5000);
    assert_int_equal(ledger_writer_state(w).n_waiting, 1);
    OK(db_script(db, "ALTER TABLE gone RENAME TO requests", &store_e));
    while (sem_wait(&end.done)) {
    }
    assert_int_equal(end.call.op.rc, 0);
    for (int i = 0; i < 500 && !ledger_writer_state(w).open; i++) usleep(10000);
    assert_int_equal(ask(w, &refused), 0);
    end.call.op = post_of(refused.request, supplier, 0);
    assert_int_equal(ask(w, &end.call.op), 0);
    store_check(db);
    writer_end(w);
    db_close(db);
    store_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_t70_exactly_a_hundred_succeed), cmocka_unit_test(test_one_bad_operation_spoils_nobody_elses),
                                       cmocka_unit_test(test_b15_ends_wait_for_a_store_that_is_away)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
