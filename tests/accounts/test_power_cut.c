/* T72, B12: the power is cut at every write of 40 scripts, and what was not synced is damaged in five ways. The store that is found then is that after one
 * of the script's transactions, at least the last that was acknowledged; nothing is there by half, and the invariants hold, also after recovery.
 * Short: a few of the writes; all of them with SPILLWAY_FAULT=long. SQLite's; PostgreSQL keeps its own promises. */
#include "tests/accounts/store.h"

#include "tests/accounts/disk.h"

enum { SCRIPTS = 40, STEPS = 12, MAX_OPS = 6, SHORT_CUTS = 4, CENT = 10000000, USD = 1000000000, MAX_OPEN = 64 };

static struct {
    char db[1 << 20]; /* the store that each script begins with */
    size_t n;
    int64_t keys[3], supplier;
} base;

static int64_t now_ms;

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

static const struct ledger_options options = {.gateway = "test", .alone = true, .now_ms = clock_now};

static uint64_t rng;

static uint64_t pick(uint64_t n)
{
    rng += 0x9e3779b97f4a7c15u;
    uint64_t z = (rng ^ rng >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

/* --- the store --- */

static void store_again(void)
{
    store_file_put("", base.db, base.n);
    store_file_put("-wal", NULL, 0);
    store_file_put("-shm", NULL, 0);
    disk_new();
}

static int setup(void **state)
{
    struct db *db;
    struct ledger *l;
    int64_t zero = 0;
    (void)state;
    disk_install();
    disk_new();
    now_ms = 1790000000000;
    store_new();
    OK(db_open(&db, store_file, &store_e));
    OK(ledger_open(&l, db, &options, &store_e));
    for (int i = 0; i < 3; i++) base.keys[i] = store_key(db, 2);
    OK(base.supplier = ledger_supplier(db, "groq", &store_e));
    OK(ledger_floor_set(l, 2, &zero, &store_e));
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, USD, 0, NULL, &store_e));
    OK(ledger_budget_add(
        l,
        &(struct ledger_budget){.account = base.keys[0], .scope = "all", .unit = "nusd", .period = "hour", .amount = USD / 4, .hard = true},
        &store_e));
    ledger_close(l);
    db_close(db); /* its log is in the file now */
    FILE *f = fopen(store_file, "rb");
    base.n = fread(base.db, 1, sizeof base.db, f);
    fclose(f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_remove();
    return 0;
}

/* All that the ledger has written, in one number. */
static uint64_t fingerprint(struct db *db)
{
    static const char *const sql[] = {
        "SELECT id, state, held, charged, coalesce(served, 0) FROM requests ORDER BY id",
        "SELECT request, n, state, cost, sale_estimate FROM attempts ORDER BY request, n",
        "SELECT account, posted, pending, coalesce(floor, -1), 0 FROM balances ORDER BY account",
        "SELECT id, kind, debit, credit, amount FROM transfers ORDER BY id",
        "SELECT budget, starts_s, posted, pending, 0 FROM budget_windows ORDER BY budget, starts_s",
        "SELECT request, budget, starts_s, held, 0 FROM request_windows ORDER BY request, budget",
        "SELECT day, model, requests, sale, cost FROM usage_days ORDER BY day, model, project, account, supplier",
        "SELECT id, provider, model, rows, source FROM prices ORDER BY id"};
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++) {
        struct db_rows rows;
        OK(db_query(db, &rows, sql[i], DB_NO_ARGS, &store_e));
        int rc;
        while ((rc = db_next(&rows, &store_e)) == 1)
            for (int c = 0; c < 5; c++)
                for (const char *s = db_get_text(&rows, c); *s; s++) hash = (hash ^ (unsigned char)*s) * 1099511628211u;
        OK(rc);
        db_done(&rows);
        hash = (hash ^ i) * 1099511628211u;
    }
    return hash;
}

/* --- a script: what is asked of the ledger follows from the seed and from what it has answered --- */

struct script {
    struct db *db;
    struct ledger *l;
    int64_t open[MAX_OPEN], n_attempts[MAX_OPEN];
    size_t n_open;
};

static struct ledger_op end_of(const struct script *s, size_t at, bool post)
{
    struct ledger_op op = {.type = post ? LEDGER_POST : LEDGER_VOID, .request = s->open[at], .served = 1, .outcome = "stop"};
    op.sale_nusd = post ? (int64_t)pick(2 * CENT) : 0;
    for (int i = 0; i < s->n_attempts[at]; i++)
        op.used[op.n_used++] = (struct ledger_used){.n = i + 1,
                                                    .supplier = base.supplier,
                                                    .end = i == 0 && post ? LEDGER_SERVED : LEDGER_FAILED,
                                                    .usage = {.count = {10, 0, 0, 0, 0, 0, 5}, .present = 1 | 64},
                                                    .cost_nusd = post ? (int64_t)pick(CENT) : 0};
    return op;
}

static struct ledger_op op_of(struct script *s, size_t *at)
{
    static const struct ledger_price price = {.provider = "groq", .model = "llama", .rows = "[1]"};
    uint64_t what = s->n_open ? pick(10) : 0;
    *at = s->n_open ? (size_t)pick(s->n_open) : 0;
    if (what < 5)
        return (struct ledger_op){
            .type = LEDGER_RESERVE,
            .account = base.keys[pick(3)],
            .model = "llama",
            .amount_nusd = (int64_t)pick(3 * CENT),
            .tokens = 10,
            .lasts_ms = 60000,
            .price_of = price,
            .attempt = {.supplier = base.supplier, .model = "llama", .sale_estimate_nusd = CENT, .cost_estimate_nusd = CENT / 2}};
    if (what == 5 || (what == 6 && s->n_attempts[*at] == LEDGER_MAX_ATTEMPTS))
        return (struct ledger_op){.type = LEDGER_EXTEND, .request = s->open[*at], .n = 1, .amount_nusd = (int64_t)pick(CENT), .tokens = 5};
    if (what == 6)
        return (struct ledger_op){.type = LEDGER_ATTEMPT,
                                  .request = s->open[*at],
                                  .n = (int)s->n_attempts[*at] + 1,
                                  .attempt = {.supplier = base.supplier, .model = "llama"}};
    return end_of(s, *at, what < 9);
}

static void note(struct script *s, const struct ledger_op *op, size_t at)
{
    if (op->rc) return;
    if (op->type == LEDGER_RESERVE) {
        s->n_attempts[s->n_open] = 1;
        s->open[s->n_open++] = op->request;
    } else if (op->type == LEDGER_ATTEMPT)
        s->n_attempts[at]++;
    else if (op->type != LEDGER_EXTEND) {
        s->open[at] = s->open[--s->n_open];
        s->n_attempts[at] = s->n_attempts[s->n_open];
    }
}

static int script_batch(struct script *s)
{
    struct ledger_op ops[MAX_OPS], *list[MAX_OPS];
    size_t at[MAX_OPS], n = 0, want = 1 + (size_t)pick(MAX_OPS);
    while (n < want) {
        ops[n] = op_of(s, &at[n]);
        bool twice = false; /* one request, one operation at a time */
        for (size_t i = 0; i < n; i++) twice |= ops[n].type != LEDGER_RESERVE && ops[i].request == ops[n].request;
        if (twice) break;
        list[n] = &ops[n], n++;
    }
    if (n == 0) return 0;
    int rc = ledger_apply(s->l, list, n, &store_e);
    for (size_t i = 0; i < n && !rc; i++)
        for (size_t k = 0; k < s->n_open || ops[i].type == LEDGER_RESERVE; k++)
            if (ops[i].type == LEDGER_RESERVE || s->open[k] == ops[i].request) {
                note(s, &ops[i], k);
                break;
            }
    return rc;
}

/* One transaction, or what is none: the log of writes goes into the file. */
static int script_step(struct script *s)
{
    uint64_t what = pick(12);
    now_ms += (int64_t)pick(2000);
    if (what == 0) return db_settle(s->db, &store_e);
    if (what == 1) {
        int64_t id = ledger_transfer(s->l, LEDGER_DEPOSIT, 2, CENT, 0, "more", &store_e);
        return id < 0 ? (int)id : 0;
    }
    return script_batch(s);
}

/* Until its end or the first fault. How many steps were acknowledged. prints: of the store after each; NULL: none. */
static int script_run(uint64_t seed, uint64_t *prints)
{
    struct script s = {.db = NULL};
    int n = 0;
    rng = seed * 1000003;
    now_ms = 1790000000000;
    bool begun = db_open(&s.db, store_file, &store_e) == 0 && ledger_open(&s.l, s.db, &options, &store_e) == 0;
    if (begun && prints) prints[0] = fingerprint(s.db);
    while (begun && n < STEPS && script_step(&s) == 0) {
        n++;
        if (prints) prints[n] = fingerprint(s.db);
    }
    if (!prints) disk_cut(); /* also at the script's end: nothing is closed in an orderly way */
    ledger_close(s.l);
    db_close(s.db);
    return n;
}

/* --- the check --- */

static bool is_whole(const uint64_t *prints, int acked, uint64_t found)
{
    for (int i = acked; i <= acked + 1 && i <= STEPS; i++)
        if (prints[i] == found) return true;
    return false;
}

static void check_found(uint64_t seed, int64_t cut, enum disk_damage damage, const uint64_t *prints, int acked)
{
    struct db *db;
    struct ledger *l;
    size_t n;
    OK(db_open(&db, store_file, &store_e));
    if (!is_whole(prints, acked, fingerprint(db)))
        fail_msg("script %d, power cut at write %d, damage %d: %d transactions were acknowledged, and it is neither they nor one more",
                 (int)seed, (int)cut, damage, acked);
    store_check(db);
    now_ms += 3600000;
    OK(ledger_open(&l, db, &options, &store_e));
    OK(ledger_recover(l, &n, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE state = 'reserved'"), 0);
    store_check(db);
    ledger_close(l);
    db_close(db);
}

/* The script's writes, and what the store is after each step. */
static int64_t learn(uint64_t seed, uint64_t prints[STEPS + 1])
{
    store_again();
    disk_fail(DISK_WELL, 0, 0);
    assert_int_equal(script_run(seed, prints), STEPS);
    return disk_writes();
}

static void test_t72_what_was_acknowledged_outlives_a_power_cut(void **state)
{
    (void)state;
    const char *fault = getenv("SPILLWAY_FAULT");
    bool whole = fault && strcmp(fault, "long") == 0;
    int64_t n_cuts = 0;
    uint64_t seed_of_damage = 0;
    for (uint64_t seed = 1; seed <= SCRIPTS; seed++) {
        uint64_t prints[STEPS + 1];
        int64_t n = learn(seed, prints), step = whole ? 1 : n / SHORT_CUTS;
        assert_true(n > 40);
        for (int64_t cut = whole ? 1 : 1 + (int64_t)(seed * 7919) % step; cut <= n; cut += step, n_cuts++) {
            store_again();
            disk_fail(DISK_DEAD, cut, 1);
            int acked = script_run(seed, NULL);
            for (int d = 0; d < DAMAGES; d++) {
                disk_make((enum disk_damage)d, ++seed_of_damage);
                check_found(seed, cut, (enum disk_damage)d, prints, acked);
            }
        }
    }
    print_message("    T72 %d scripts, %d power cuts, %d kinds of damage each\n", SCRIPTS, (int)n_cuts, DAMAGES);
}

/* Whether the test would see a store that is damaged, or behind. */
static int count_losses(bool lies)
{
    int n_lost = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t prints[STEPS + 1];
        learn(seed, prints);
        store_again();
        if (lies) disk_fail(DISK_LIES, 0, 0);
        int acked = script_run(seed, NULL);
        disk_make(DAMAGE_NONE_KEPT, seed);
        struct db *db;
        OK(db_open(&db, store_file, &store_e));
        n_lost += !is_whole(prints, acked, fingerprint(db));
        db_close(db);
    }
    return n_lost;
}

static void test_t72_a_disk_that_says_it_has_synced_and_has_not_is_found(void **state)
{
    (void)state;
    assert_int_equal(count_losses(false), 0);
    assert_int_equal(count_losses(true), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_t72_what_was_acknowledged_outlives_a_power_cut),
                                       cmocka_unit_test(test_t72_a_disk_that_says_it_has_synced_and_has_not_is_found)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
