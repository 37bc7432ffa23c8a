/* T74, B9, B15: the link to PostgreSQL is cut at a COMMIT in four ways, and is away for a while. Every charge that was acknowledged is there once, with its
 * amount, and nothing else is charged; run numbers have no gaps. Two gateways, one over the link. Short: 20 cuts and 2 seconds; 500 and 30 with
 * SPILLWAY_FAULT=long. */
#include "tests/accounts/writer.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "tests/accounts/link.h"

enum { CENT = 10000000, THREADS = 6, MAX_POSTS = 1 << 21 };

static int ask(struct ledger_writer *w, struct ledger_op *op)
{
    return ask_within(w, op, 900);
}

/* What has been acknowledged. */
static struct {
    struct db *db; /* direct */
    struct ledger_writer *w[2];
    int64_t key, supplier;
    atomic_bool stop;
    atomic_int turn, n_refused;
    atomic_int n_posts;
    struct posted {
        int64_t request, charged;
    } posts[MAX_POSTS];
} t;

static bool is_long(void)
{
    const char *fault = getenv("SPILLWAY_FAULT");
    return fault && strcmp(fault, "long") == 0;
}

static struct ledger_writer *writer_start(const char *where, const char *name, bool fresh)
{
    char journal[160];
    struct ledger_writer *w;
    snprintf(journal, sizeof journal, "%s/%s.journal", store_dir, name);
    if (fresh) unlink(journal);
    struct ledger_writer_options o = {
        .where = where, .journal = journal, .most_requests = 64, .ledger = {.gateway = name}, .deliver = deliver};
    OK(ledger_writer_start(&w, &o, &store_e));
    return w;
}

static int setup(void **state)
{
    (void)state;
    store_new();
    link_open(store_where());
    OK(db_open(&t.db, store_where(), &store_e));
    t.key = store_key(t.db, 2);
    OK(t.supplier = ledger_supplier(t.db, "groq", &store_e));
    t.w[0] = writer_start(link_url(), "a", true);
    t.w[1] = writer_start(store_where(), "b", true);
    t.stop = false;
    t.n_posts = t.n_refused = t.turn = 0;
    return 0;
}

static void writer_end(struct ledger_writer *w)
{
    ledger_writer_stop(w, 1000);
    ledger_writer_free(w);
}

static int teardown(void **state)
{
    char path[160];
    (void)state;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%c.journal", store_dir, 'a' + i);
        unlink(path);
    }
    link_close();
    db_close(t.db);
    store_remove();
    return 0;
}

static void wait_open(struct ledger_writer *w)
{
    for (int i = 0; i < 3000 && !ledger_writer_state(w).open; i++) usleep(10000);
    assert_true(ledger_writer_state(w).open);
}

static struct ledger_op reserve_of(void)
{
    return (struct ledger_op){.type = LEDGER_RESERVE,
                              .account = t.key,
                              .model = "llama",
                              .amount_nusd = 3 * CENT,
                              .lasts_ms = 600000,
                              .attempt = {.supplier = t.supplier, .model = "llama", .sale_estimate_nusd = CENT}};
}

static struct ledger_op post_of(int64_t request, int64_t sale)
{
    return (struct ledger_op){
        .type = LEDGER_POST,
        .request = request,
        .sale_nusd = sale,
        .held_nusd = 3 * CENT,
        .served = 1,
        .n_used = 1,
        .outcome = "stop",
        .used = {{.n = 1, .supplier = t.supplier, .usage = {.count = {1, 0, 0, 0, 0, 0, 1}, .present = 1 | 64}, .cost_nusd = sale / 2}}};
}

/* Requests one after the other: an end has to be taken whatever the link does. */
static void *spend(void *arg)
{
    int me = atomic_fetch_add(&t.turn, 1);
    struct ledger_writer *w = t.w[me % 3 == 2]; /* a third of them by the other gateway */
    unsigned random = (unsigned)me;
    (void)arg;
    while (!t.stop && t.n_posts < MAX_POSTS - THREADS) {
        struct ledger_op op = reserve_of();
        int rc = ask(w, &op);
        if (rc == -ERR_STORE) {
            atomic_fetch_add(&t.n_refused, 1);
            usleep(2000);
            continue;
        }
        assert_int_equal(rc, 0);
        struct ledger_op end = post_of(op.request, rand_r(&random) % (4 * CENT));
        assert_int_equal(ask(w, &end), 0);
        int i = atomic_fetch_add(&t.n_posts, 1);
        t.posts[i].request = op.request;
        t.posts[i].charged = end.charged_nusd;
        usleep(2000);
    }
    return NULL;
}

static void begin(pthread_t threads[THREADS])
{
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, spend, NULL), 0);
}

static int by_request(const void *a, const void *b)
{
    int64_t x = ((const struct posted *)a)->request, y = ((const struct posted *)b)->request;
    return (x > y) - (x < y);
}

/* What is posted is what was acknowledged, no more and no less. */
static void compare_posts(void)
{
    struct db_rows rows;
    int rc, n = 0;
    qsort(t.posts, (size_t)t.n_posts, sizeof t.posts[0], by_request);
    OK(db_query(t.db, &rows, "SELECT id, charged, estimated FROM requests WHERE state = 'posted' ORDER BY id", DB_NO_ARGS, &store_e));
    for (; (rc = db_next(&rows, &store_e)) == 1; n++) {
        assert_true(n < t.n_posts);
        assert_int_equal(db_get_int(&rows, 0), t.posts[n].request);
        assert_int_equal(db_get_int(&rows, 1), t.posts[n].charged);
        assert_int_equal(db_get_int(&rows, 2), 0);
    }
    OK(rc);
    db_done(&rows);
    assert_int_equal(n, t.n_posts);
}

/* Ends all, and compares. */
static void end_and_check(pthread_t threads[THREADS])
{
    int64_t sum = 0;
    t.stop = true;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    wait_open(t.w[0]);
    for (int i = 0; i < 2; i++) writer_end(t.w[i]);
    compare_posts();
    for (int i = 0; i < t.n_posts; i++) sum += t.posts[i].charged;
    assert_int_equal(store_number(t.db, "SELECT count(*) FROM requests WHERE state = 'reserved'"), 0);
    assert_int_equal(store_number(t.db, "SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'sale'"), sum);
    store_check(t.db);
}

static void test_t74_a_link_cut_at_commit_charges_nobody_twice(void **state)
{
    pthread_t threads[THREADS];
    int n_cuts = is_long() ? 500 : 20, n_of[LINK_CUTS] = {0};
    unsigned random = 74;
    (void)state;
    begin(threads);
    for (int i = 0; i < n_cuts; i++) {
        enum link_cut how = (enum link_cut)(i % LINK_CUTS);
        int before = link_n_cut();
        wait_open(t.w[0]);
        link_cut_after(how, rand_r(&random) % 5);
        for (int k = 0; k < 10000 && link_n_cut() == before; k++) usleep(1000);
        assert_int_equal(link_n_cut(), before + 1);
        n_of[how]++;
    }
    end_and_check(threads);
    print_message("    T74 %d + %d + %d + %d cuts, %d requests charged\n", n_of[0], n_of[1], n_of[2], n_of[3], t.n_posts);
}

/* Nothing new is begun by the gateway whose store is away, its ends are taken at once, and the other one goes on. */
static void test_t74_an_outage_is_bridged_by_the_journal(void **state)
{
    pthread_t threads[THREADS];
    int seconds = is_long() ? 30 : 2;
    struct ledger_op open[8];
    (void)state;
    for (int i = 0; i < 8; i++) {
        open[i] = reserve_of();
        assert_int_equal(ask(t.w[0], &open[i]), 0);
    }
    begin(threads);
    usleep(200000);
    link_set_away(true);
    int64_t until_ms = clock_boot_ms() + seconds * 1000;
    for (int i = 0; i < 8; i++) {
        struct ledger_op end = post_of(open[i].request, CENT + i);
        assert_int_equal(ask(t.w[0], &end), 0);
        int at = atomic_fetch_add(&t.n_posts, 1);
        t.posts[at].request = open[i].request;
        t.posts[at].charged = end.charged_nusd;
    }
    assert_false(ledger_writer_state(t.w[0]).open);
    assert_true(ledger_writer_state(t.w[0]).n_kept >= 8);
    int before = t.n_posts;
    while (clock_boot_ms() < until_ms) usleep(10000);
    assert_true(t.n_posts > before); /* the other one */
    assert_true(t.n_refused > 0);
    link_set_away(false);
    wait_open(t.w[0]);
    end_and_check(threads);
    print_message("    T74 %d s away, %d requests charged, %d refused\n", seconds, t.n_posts, t.n_refused);
}

/* The gateway ends while the store is away: its next run posts what the journal has, not estimates. */
static void test_b15_what_ends_while_the_store_is_away_is_posted_by_the_next_run(void **state)
{
    struct ledger_op op = reserve_of();
    (void)state;
    assert_int_equal(ask(t.w[0], &op), 0);
    link_set_away(true);
    struct ledger_op end = post_of(op.request, 2 * CENT + 1);
    assert_int_equal(ask(t.w[0], &end), 0);
    int64_t from_ms = clock_boot_ms();
    writer_end(t.w[0]);
    assert_true(clock_boot_ms() - from_ms < 10000);
    assert_int_equal(store_number(t.db, "SELECT count(*) FROM requests WHERE state = 'reserved'"), 1);
    link_set_away(false);
    t.w[0] = writer_start(link_url(), "a", false);
    assert_int_equal(store_number(t.db, "SELECT charged FROM requests WHERE state = 'posted' AND estimated = 0"), 2 * CENT + 1);
    assert_int_equal(store_number(t.db, "SELECT count(*) FROM reconciliation"), 0);
    for (int i = 0; i < 2; i++) writer_end(t.w[i]);
    store_check(t.db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_t74_a_link_cut_at_commit_charges_nobody_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_t74_an_outage_is_bridged_by_the_journal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_b15_what_ends_while_the_store_is_away_is_posted_by_the_next_run, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
