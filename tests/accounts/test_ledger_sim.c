/* T81, T77: the ledger's seeded simulation. Two gateways on one store, in virtual time: reserves, extensions, further attempts, ends, deposits, prices and budgets
 * that change, accounts that are frozen, keys that are closed; and faults: gateways that die, disks that are full, an fsync that fails, commits whose outcome is not
 * known, clocks that jump a day on or an hour back, or stand. After each step the store is what the model (sim_model.h) says; every so often and at the end
 * the invariants hold, in SQL. No request is ended by another than its own gateway while that lives, none before its deadline, none stays open.
 *
 *     test_ledger_sim [FIRST [N]]     N seeds from FIRST on, then the planted faults
 *
 * A violation prints the seed and what was violated; `test_ledger_sim SEED 1` runs it again. The store is SQLite's, on a disk of tests (disk.h); that it
 * plays unknown outcomes, too, which only PostgreSQL has, is done in between (the wrapped calls, see CMakeLists.txt). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "server/accounts/journal.h"
#include "server/accounts/schema.h"
#include "tests/accounts/disk.h"
#include "tests/accounts/sim_model.h"

enum {
    SHORT_SEEDS = 500,
    LONG_SEEDS = 20000,
    STEPS = 60,
    CHECK_EVERY = 20,
    MOST_OPS = 5,
    CENT = 10000000,
    DAY_MS = 86400000,
    TIDY_MS = 10000,
    MOST_LASTS_MS = 300000
};

enum planted {
    NOT_PLANTED,
    POST_SKIPS_PENDING,
    SALE_TOO_HIGH,
    WINDOW_NOT_WRITTEN,
    HELD_NOT_DELETED,
    REQUEST_NOT_ENDED,
    USAGE_NOT_SUMMED,
    ATTEMPT_NOT_ENDED,
    COST_TWICE,
    FLOOR_FORGOTTEN,
    FROZEN_IGNORED,
    DEADLINE_FORGOTTEN,
    LOOK_SAYS_NO,
    LOOK_SAYS_YES,
    JOURNAL_FORGETS,
    RUNS_NOT_SEEN,
    N_PLANTED
};

/* --- failing --- */

static jmp_buf on_failure;
static char why[512];
static enum planted planted;

#define SIM_CHECK(x, ...)                                                                                                                  \
    do {                                                                                                                                   \
        if (!(x)) sim_fail(__VA_ARGS__);                                                                                                   \
    } while (0)

__attribute__((noreturn)) PRINTF_LIKE(1, 2) static void sim_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    longjmp(on_failure, 1);
}

/* --- the place --- */

struct gateway {
    struct db *db;
    struct ledger *l; /* NULL: it is dead */
    struct journal *journal;
    int64_t tidied_boot_ms;
    bool broken;
};

static struct {
    struct model m;
    struct gateway g[2];
    struct db *look; /* an observer's */
    uint64_t rng;
    int64_t boot_ms, wall_ms;
    bool stands; /* the database's clock */
    int unknown; /* of the next commit: 1 it is done, 2 it is not; 0: no fault */
    bool counts; /* the wrapped calls are the simulation's */
    int64_t price;
} s;

static char dir[64], store[128];
static struct err e;
static struct {
    unsigned char bytes[1 << 20];
    size_t n;
} base;

static struct {
    int64_t ops, unknown, crashes, full, broken, kept, recovered, jumps;
} totals;

#define OK(x)                                                                                                                              \
    do {                                                                                                                                   \
        if ((x) < 0) sim_fail("%s: %s", #x, e.msg);                                                                                        \
    } while (0)

static uint64_t pick(uint64_t n)
{
    uint64_t z = (s.rng += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

static int64_t boot_now(void *ctx)
{
    (void)ctx;
    return s.boot_ms;
}

static int64_t wall_now(void *ctx)
{
    (void)ctx;
    return s.wall_ms;
}

/* --- calls that are wrapped: unknown outcomes, and planted faults --- */

enum db_kind __real_db_kind(const struct db *db);
enum db_kind __wrap_db_kind(const struct db *db);
enum db_kind __wrap_db_kind(const struct db *db)
{
    return s.counts ? DB_POSTGRES : __real_db_kind(db); /* so that each transaction writes its run's row, by which ledger_look knows it */
}

int __real_db_end(struct db *db, int rc, struct err *err);
int __wrap_db_end(struct db *db, int rc, struct err *err);
int __wrap_db_end(struct db *db, int rc, struct err *err)
{
    int unknown = rc < 0 ? 0 : s.unknown;
    if (unknown) s.unknown = 0;
    if (unknown == 2) {
        db_rollback(db);
        return err_set(err, ERR_UNKNOWN, "the link is cut");
    }
    int done = __real_db_end(db, rc, err);
    return unknown && done >= 0 ? err_set(err, ERR_UNKNOWN, "the link is cut") : done;
}

static bool begins(const char *sql, const char *with)
{
    return strncmp(sql, with, strlen(with)) == 0;
}

/* What is not done, by its fault. */
static const char *const skipped[N_PLANTED] = {
    [WINDOW_NOT_WRITTEN] = "UPDATE budget_windows",    [HELD_NOT_DELETED] = "DELETE FROM request_windows",
    [REQUEST_NOT_ENDED] = "UPDATE requests SET state", [USAGE_NOT_SUMMED] = "INSERT INTO usage_days",
    [ATTEMPT_NOT_ENDED] = "UPDATE attempts SET state", [RUNS_NOT_SEEN] = "UPDATE runs SET seen_ms"};

int __real_db_send(struct db *db, const char *sql, const struct db_arg *args, int n, int64_t expected, struct err *err);
int __wrap_db_send(struct db *db, const char *sql, const struct db_arg *args, int n, int64_t expected, struct err *err);
int __wrap_db_send(struct db *db, const char *sql, const struct db_arg *args, int n, int64_t expected, struct err *err)
{
    struct db_arg changed[DB_MAX_ARGS];
    if (n) memcpy(changed, args, (size_t)n * sizeof *args);
    if (s.counts && skipped[planted] && begins(sql, skipped[planted])) return 0;
    if (planted == POST_SKIPS_PENDING && begins(sql, "UPDATE balances") && changed[2].i < 0) changed[2].i = 0;
    bool sale = begins(sql, "INSERT INTO transfers") && strcmp(args[2].p, "sale") == 0,
         cost = begins(sql, "INSERT INTO transfers") && strcmp(args[2].p, "cost") == 0;
    if (planted == SALE_TOO_HIGH && sale) changed[5].i++;
    int rc = __real_db_send(db, sql, changed, n, expected, err);
    if (planted == COST_TWICE && cost && !rc) {
        changed[1] = db_int(changed[1].i + 100);
        rc = __real_db_send(db, sql, changed, n, expected, err);
    }
    return rc;
}

int __real_rows_read(struct ledger_rows *r, struct db *db, struct err *err);
int __wrap_rows_read(struct ledger_rows *r, struct db *db, struct err *err);
int __wrap_rows_read(struct ledger_rows *r, struct db *db, struct err *err)
{
    int rc = __real_rows_read(r, db, err);
    for (size_t i = 0; planted == FLOOR_FORGOTTEN && i < r->n_balances; i++) r->balances[i].has_floor = false;
    return rc;
}

int __real_ledger_chain(struct ledger *l, int64_t key, struct chain *out, struct err *err);
int __wrap_ledger_chain(struct ledger *l, int64_t key, struct chain *out, struct err *err);
int __wrap_ledger_chain(struct ledger *l, int64_t key, struct chain *out, struct err *err)
{
    int rc = __real_ledger_chain(l, key, out, err);
    if (planted == FROZEN_IGNORED) out->frozen = false;
    return rc;
}

void __real_deadlines_note(struct ledger *l, struct ledger_op *const *ops, size_t n);
void __wrap_deadlines_note(struct ledger *l, struct ledger_op *const *ops, size_t n);
void __wrap_deadlines_note(struct ledger *l, struct ledger_op *const *ops, size_t n)
{
    if (planted != DEADLINE_FORGOTTEN) __real_deadlines_note(l, ops, n);
}

/* --- gateways --- */

static void journal_path(char path[160], int i)
{
    snprintf(path, 160, "%s/%d.journal", dir, i);
}

static void replay(struct gateway *g)
{
    struct journal_entry x;
    size_t at = 0;
    int rc;
    while ((rc = journal_next(g->journal, &at, &x, &e)) == 1) {
        struct ledger_op *op = &x.op;
        rc = planted == JOURNAL_FORGETS ? 0 : ledger_replay(g->l, &op, 1, &e);
        SIM_CHECK(rc == 0, "a replay: %s", e.msg);
        struct model_request *r = model_request(&s.m, op->request);
        bool open = r && r->open;
        SIM_CHECK(planted == JOURNAL_FORGETS || (op->rc == 0) == open, "replay of request %lld: %d", (long long)op->request, op->rc);
        if (open) model_end(&s.m, r, op);
        journal_entry_free(&x);
    }
    SIM_CHECK(rc == 0, "the journal: %s", e.msg);
    OK(journal_clear(g->journal, &e));
}

/* Those that recovery has ended: whether it may have. */
static void see_recovered(int by)
{
    if (s.g[by].l->now_ms > s.m.now_ms) s.m.now_ms = s.g[by].l->now_ms; /* what it has once been it does not go back from */
    for (int i = 0; i < s.m.n_requests; i++) {
        struct model_request *r = &s.m.requests[i];
        int64_t open;
        if (!r->open) continue;
        OK(db_number(s.look, "SELECT count(*) FROM requests WHERE id = ?1 AND state = 'reserved'", DB_ARGS(db_int(r->id)), 0, &open, &e));
        const struct gateway *own = &s.g[r->gateway];
        bool lives = own->l && ledger_run(own->l) == r->run;
        if (open) {
            SIM_CHECK(!(lives && r->gateway == by && s.boot_ms > r->deadline_boot_ms + LEDGER_GRACE_MS), "request %lld is ended late",
                      (long long)r->id);
            continue;
        }
        SIM_CHECK(!lives || r->gateway == by, "request %lld is ended by another gateway while its own lives", (long long)r->id);
        SIM_CHECK(!lives || s.boot_ms > r->deadline_boot_ms + LEDGER_GRACE_MS, "request %lld is ended early", (long long)r->id);
        SIM_CHECK(lives || s.m.now_ms > r->deadline_ms + LEDGER_GRACE_MS || s.wall_ms > r->deadline_ms + LEDGER_GRACE_MS,
                  "request %lld of a dead run is ended early", (long long)r->id);
        model_recover(&s.m, r);
        totals.recovered++;
    }
}

static void tidy(int i)
{
    size_t n;
    struct gateway *g = &s.g[i];
    if (!g->l) return;
    g->tidied_boot_ms = s.boot_ms;
    OK(ledger_recover(g->l, &n, &e));
    see_recovered(i);
}

static void gateway_begin(int i)
{
    struct gateway *g = &s.g[i];
    char path[160];
    journal_path(path, i);
    const struct ledger_options o = {.gateway = "sim", .now_ms = wall_now, .boot_ms = boot_now};
    OK(db_open(&g->db, store, &e));
    OK(db_settle(g->db, &e));
    OK(ledger_open(&g->l, g->db, &o, &e));
    OK(journal_open(&g->journal, path, 64, &e));
    replay(g);
    tidy(i);
}

/* As if it were killed. */
static void gateway_die(int i)
{
    struct gateway *g = &s.g[i];
    if (g->l) g->l->run = 0; /* nothing is told to the store */
    ledger_close(g->l);
    db_close(g->db);
    journal_close(g->journal);
    *g = (struct gateway){.l = NULL};
}

/* --- batches --- */

static void keep(struct gateway *g, const struct ledger_op *op)
{
    struct model_request *r = model_request(&s.m, op->request);
    OK(journal_add(g->journal, op, &e));
    OK(journal_sync(g->journal, &e));
    if (r) r->kept = true;
    totals.kept++;
}

/* The disk has failed: what the batch did is known when the store is opened anew. Its ends are kept, its reserves void. */
static void give_up(int i, struct ledger_op **ops, size_t n)
{
    struct gateway *g = &s.g[i];
    totals.broken++;
    for (size_t k = 0; k < n; k++) {
        bool end = ops[k]->type == LEDGER_POST || ops[k]->type == LEDGER_VOID;
        if (end) keep(g, ops[k]);
        if (ops[k]->type == LEDGER_RESERVE && !ops[k]->rc && ops[k]->request)
            keep(g, &(const struct ledger_op){.type = LEDGER_VOID, .request = ops[k]->request, .outcome = "never begun"});
    }
    gateway_die(i);
    disk_fail(DISK_WELL, 0, 0);
    struct db *db; /* whether the commit is in the log only a fresh reader sees */
    db_close(s.look);
    s.look = NULL;
    for (int k = 0; k < 2; k++)
        if (s.g[k].l) gateway_die(k);
    OK(db_open(&db, store, &e));
    int64_t there = 0;
    for (size_t k = 0; k < n && !there; k++) {
        const struct ledger_op *op = ops[k];
        if (op->rc) continue;
        if (op->type == LEDGER_RESERVE)
            OK(db_number(db, "SELECT count(*) FROM requests WHERE id = ?1", DB_ARGS(db_int(op->request)), 0, &there, &e));
        else if (op->type == LEDGER_ATTEMPT)
            OK(db_number(db, "SELECT count(*) FROM attempts WHERE request = ?1 AND n = ?2", DB_ARGS(db_int(op->request), db_int(op->n)), 0,
                         &there, &e));
        else if (op->type != LEDGER_EXTEND)
            OK(db_number(db, "SELECT count(*) FROM requests WHERE id = ?1 AND state <> 'reserved'", DB_ARGS(db_int(op->request)), 0, &there,
                         &e));
        else
            OK(db_number(db, "SELECT count(*) FROM requests WHERE id = ?1 AND held = ?2",
                         DB_ARGS(db_int(op->request), db_int(model_request(&s.m, op->request)->held + op->amount_nusd)), 0, &there, &e));
    }
    for (size_t k = 0; k < n && there; k++) (void)model_do(&s.m, ops[k]);
    s.look = db;
}

static void note_reserve(int i, const struct ledger_op *op)
{
    struct model_request *r = model_request(&s.m, op->request);
    r->gateway = i;
    r->deadline_boot_ms = s.boot_ms + op->lasts_ms;
}

static void compare(int i, struct ledger_op **ops, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        SIM_CHECK(ops[k]->now_ms >= s.m.now_ms - 1000, "the ledger's clock goes back by %lld ms", (long long)(s.m.now_ms - ops[k]->now_ms));
        int want = model_do(&s.m, ops[k]);
        SIM_CHECK(want == ops[k]->rc, "operation %d on request %lld: %d, not %d", (int)ops[k]->type, (long long)ops[k]->request, ops[k]->rc,
                  want);
        if (ops[k]->type == LEDGER_RESERVE && !want) note_reserve(i, ops[k]);
        totals.ops++;
    }
}

static void apply(int i, struct ledger_op **ops, size_t n)
{
    struct gateway *g = &s.g[i];
    for (;;) {
        int rc = ledger_apply(g->l, ops, n, &e);
        if (rc == -ERR_UNKNOWN) {
            totals.unknown++;
            int there = ledger_look(g->l, ops, n, &e);
            OK(there);
            if (planted == LOOK_SAYS_NO) there = 0;
            if (planted == LOOK_SAYS_YES) there = 1;
            if (!there) continue;
            rc = 0;
        }
        if (rc == -ERR_BROKEN) {
            give_up(i, ops, n);
            return;
        }
        if (rc) {
            SIM_CHECK(rc == -ERR_IO, "a batch: %d: %s", rc, e.msg);
            totals.full++;
            for (size_t k = 0; k < n; k++)
                if (ops[k]->type == LEDGER_POST || ops[k]->type == LEDGER_VOID) keep(g, ops[k]);
            return;
        }
        compare(i, ops, n);
        return;
    }
}

static struct ledger_op reserve_of(void)
{
    static const char *const rows[] = {"[1]", "[2]", "[3]"};
    struct ledger_op op = {.type = LEDGER_RESERVE,
                           .account = s.m.keys[pick(4)],
                           .model = "llama",
                           .amount_nusd = (int64_t)pick(4 * CENT),
                           .tokens = (int64_t)pick(300),
                           .lasts_ms = 1000 + (int64_t)pick(MOST_LASTS_MS),
                           .scope = (enum ledger_scope)pick(3),
                           .price_of = {.provider = "groq", .model = "llama", .rows = rows[s.price]}};
    if (pick(8))
        op.attempt = (struct ledger_attempt){.supplier = s.m.supplier,
                                             .model = "llama",
                                             .sale_estimate_nusd = (int64_t)pick(4 * CENT),
                                             .cost_estimate_nusd = (int64_t)pick(CENT)};
    return op;
}

static struct ledger_op end_of(const struct model_request *r)
{
    bool post = pick(3) && r->n_attempts;
    struct ledger_op op = {.type = post ? LEDGER_POST : LEDGER_VOID, .request = r->id, .outcome = "stop", .served = r->n_attempts};
    op.sale_nusd = post ? (int64_t)pick(5 * CENT) : 0;
    for (int i = 0; i < r->n_attempts; i++)
        op.used[op.n_used++] =
            (struct ledger_used){.n = i + 1,
                                 .supplier = s.m.supplier,
                                 .end = post && i + 1 == r->n_attempts ? LEDGER_SERVED : LEDGER_FAILED,
                                 .usage = {.count = {(int64_t)pick(200), 0, 0, 0, 0, 0, (int64_t)pick(100)}, .present = 1 | 64},
                                 .cost_nusd = (int64_t)pick(CENT)};
    return op;
}

static struct ledger_op op_of(int i)
{
    struct model_request *open[MODEL_REQUESTS], *r;
    uint64_t n = 0, what = pick(10);
    for (int k = 0; k < s.m.n_requests; k++) {
        r = &s.m.requests[k];
        if (r->open && !r->kept && r->gateway == i && s.g[i].l && r->run == ledger_run(s.g[i].l)) open[n++] = r;
    }
    if (n == 0 || what < 4) return reserve_of();
    r = open[pick(n)];
    if (what == 4 && r->n_attempts)
        return (struct ledger_op){.type = LEDGER_EXTEND,
                                  .request = r->id,
                                  .n = r->n_attempts,
                                  .amount_nusd = 1 + (int64_t)pick(CENT),
                                  .tokens = (int64_t)pick(50),
                                  .attempt = {.sale_estimate_nusd = CENT}};
    if (what == 5 && r->n_attempts < LEDGER_MAX_ATTEMPTS)
        return (struct ledger_op){
            .type = LEDGER_ATTEMPT,
            .request = r->id,
            .n = r->n_attempts + 1,
            .scope = (enum ledger_scope)pick(3),
            .amount_nusd = (int64_t)pick(CENT),
            .attempt = {.supplier = s.m.supplier, .model = "llama", .sale_estimate_nusd = CENT / 2, .cost_estimate_nusd = CENT / 4}};
    return what < 9 ? end_of(r) : (struct ledger_op){.type = LEDGER_POST, .request = 4711, .outcome = "stop"};
}

static void step_batch(void)
{
    int i = (int)pick(2);
    struct ledger_op ops[MOST_OPS], *list[MOST_OPS];
    size_t n = 0, want = 1 + pick(MOST_OPS);
    if (!s.g[i].l) return;
    for (size_t k = 0; k < want; k++) {
        ops[n] = op_of(i);
        bool twice = false; /* one request, one operation at a time */
        for (size_t j = 0; j < n; j++) twice |= ops[n].type != LEDGER_RESERVE && ops[j].request == ops[n].request;
        if (!twice) list[n] = &ops[n], n++;
    }
    uint64_t fault = pick(12);
    if (fault < 2) s.unknown = 1 + (int)fault;
    if (fault == 2) disk_fail(DISK_FULL, 1 + (int64_t)pick(12), 1000);
    if (fault == 3 && pick(4) == 0) disk_fail(DISK_SYNC, 1, 1);
    apply(i, list, n);
    s.unknown = 0;
    disk_fail(DISK_WELL, 0, 0);
    if (s.g[i].l && journal_count(s.g[i].journal)) replay(&s.g[i]); /* before anything else of that gateway */
}

/* --- operators --- */

static struct ledger *somebody(void)
{
    return s.g[0].l ? s.g[0].l : s.g[1].l;
}

static void change(const char *sql, int64_t id)
{
    OK(db_begin(s.look, &e));
    int rc = db_run(s.look, sql, DB_ARGS(db_int(id)), NULL, &e);
    OK(schema_end_change(s.look, rc, &e));
}

static void change_budget(void)
{
    static const char *const scopes[] = {"all", "hosted", "overflow"};
    int open[MODEL_BUDGETS], n = 0;
    for (int i = 0; i < s.m.n_budgets; i++)
        if (!s.m.budgets[i].ended) open[n++] = i;
    if (n && (n > 6 || pick(3) == 0)) {
        struct budget *b = &s.m.budgets[open[pick((uint64_t)n)]];
        OK(ledger_budget_end(somebody(), b->id, &e));
        b->ended = true;
        return;
    }
    if (s.m.n_budgets == MODEL_BUDGETS) return;
    struct budget b = {.scope = (enum ledger_scope)pick(3),
                       .unit = (enum ledger_unit)pick(3),
                       .period = (enum ledger_period)pick(PERIODS),
                       .hard = pick(5) != 0};
    const int64_t accounts[] = {s.m.keys[pick(4)], s.m.projects[pick(2)], 1, s.m.house};
    b.account = accounts[pick(4)];
    b.amount = b.unit == UNIT_NUSD ? (int64_t)pick(20 * CENT) : b.unit == UNIT_TOKENS ? (int64_t)pick(3000) : (int64_t)pick(12);
    struct ledger_budget spec = {.account = b.account,
                                 .scope = scopes[b.scope],
                                 .unit = ledger_units[b.unit],
                                 .period = ledger_periods[b.period],
                                 .amount = b.amount,
                                 .hard = b.hard};
    b.id = ledger_budget_add(somebody(), &spec, &e);
    OK(b.id);
    s.m.budgets[s.m.n_budgets++] = b;
}

static void step_operator(void)
{
    int p = (int)pick(2), k = (int)pick(4);
    uint64_t what = pick(6);
    if (!somebody()) return;
    if (what == 0) {
        int64_t amount = 1 + (int64_t)pick(10 * CENT);
        OK(ledger_transfer(somebody(), LEDGER_DEPOSIT, s.m.projects[p], amount, 0, NULL, &e));
        model_transfer(&s.m, s.m.outside, s.m.projects[p], amount);
    } else if (what == 1) {
        OK(ledger_transfer(somebody(), LEDGER_REFUND, s.m.projects[p], 5, 0, NULL, &e));
        model_transfer(&s.m, s.m.house, s.m.projects[p], 5);
    } else if (what == 2) {
        s.m.frozen[p] = !s.m.frozen[p];
        change(s.m.frozen[p] ? "UPDATE accounts SET frozen_s = 1 WHERE id = ?1" : "UPDATE accounts SET frozen_s = NULL WHERE id = ?1",
               s.m.projects[p]);
    } else if (what == 3 && k) {
        s.m.closed[k] = !s.m.closed[k];
        change(s.m.closed[k] ? "UPDATE accounts SET closed_s = 1 WHERE id = ?1" : "UPDATE accounts SET closed_s = NULL WHERE id = ?1",
               s.m.keys[k]);
    } else if (what == 4)
        s.price = (int64_t)pick(3);
    else
        change_budget();
}

/* --- time --- */

/* Gateways that live say so every ten seconds. */
static void advance(int64_t ms)
{
    while (ms > 0) {
        int64_t step = ms < 1000 ? ms : 1000;
        s.boot_ms += step;
        if (!s.stands) s.wall_ms += step;
        ms -= step;
        for (int i = 0; i < 2; i++)
            if (s.g[i].l && s.boot_ms - s.g[i].tidied_boot_ms >= TIDY_MS) tidy(i);
    }
}

static void step_clock(void)
{
    uint64_t what = pick(4);
    totals.jumps++;
    if (what == 0) s.wall_ms += DAY_MS;
    if (what == 1) s.wall_ms -= DAY_MS;
    if (what == 2) s.wall_ms -= 3600000;
    if (what == 3) s.stands = !s.stands;
}

/* --- checks --- */

static void check_balances(void)
{
    struct db_rows rows;
    int rc, n = 0;
    OK(db_query(s.look, &rows, "SELECT account, posted, pending FROM balances WHERE posted <> 0 OR pending <> 0", DB_NO_ARGS, &e));
    while ((rc = db_next(&rows, &e)) == 1) {
        const struct model_account *a = model_account(&s.m, db_get_int(&rows, 0));
        int64_t posted = db_get_int(&rows, 1), pending = db_get_int(&rows, 2);
        if (a->posted != posted || a->pending != pending) {
            db_done(&rows);
            sim_fail("account %lld has %lld and %lld pending, not %lld and %lld", (long long)a->id, (long long)posted, (long long)pending,
                     (long long)a->posted, (long long)a->pending);
        }
        n++;
    }
    db_done(&rows);
    OK(rc);
    for (int i = 0; i < s.m.n_accounts; i++) n -= s.m.accounts[i].posted != 0 || s.m.accounts[i].pending != 0;
    SIM_CHECK(n == 0, "an account that should have something has nothing");
}

static void check_windows(void)
{
    struct db_rows rows;
    int rc;
    OK(db_query(s.look, &rows, "SELECT budget, starts_s, posted, pending FROM budget_windows", DB_NO_ARGS, &e));
    while ((rc = db_next(&rows, &e)) == 1) {
        const struct model_window *w = model_window(&s.m, db_get_int(&rows, 0), db_get_int(&rows, 1));
        int64_t posted = db_get_int(&rows, 2), pending = db_get_int(&rows, 3);
        if (w->posted != posted || w->pending != pending) {
            db_done(&rows);
            sim_fail("budget %lld has %lld and %lld pending, not %lld and %lld", (long long)w->budget, (long long)posted,
                     (long long)pending, (long long)w->posted, (long long)w->pending);
        }
    }
    db_done(&rows);
    OK(rc);
}

/* The statements of invariants.sql; they live as long as the program. */
static void check_invariants(void)
{
    static struct buf b;
    static char *list[64];
    static int n;
    if (!n) {
        buf_init(&b, 1 << 20);
        OK(buf_read_file(&b, SPILLWAY_TEST_DIR "/invariants.sql", &e));
        for (char *p = b.data, *end; n < 64 && (end = strstr(p, ";\n")); p = end + 2) {
            *end = '\0';
            list[n++] = p;
        }
    }
    for (int i = 0; i < n; i++) {
        struct db_rows rows;
        char what[64];
        OK(db_query(s.look, &rows, list[i], DB_NO_ARGS, &e));
        int rc = db_next(&rows, &e);
        snprintf(what, sizeof what, "%s: %s", rc == 1 ? db_get_text(&rows, 0) : "", rc == 1 ? db_get_text(&rows, 1) : "");
        db_done(&rows);
        SIM_CHECK(rc == 0, "invariant %s", what);
    }
}

static void check_requests(void)
{
    for (int i = 0; i < s.m.n_requests; i++) {
        const struct model_request *r = &s.m.requests[i];
        int64_t n;
        SIM_CHECK(!r->open, "request %lld is open at the end", (long long)r->id);
        OK(db_number(s.look, "SELECT count(*) FROM requests WHERE id = ?1 AND state = ?2 AND charged = ?3",
                     DB_ARGS(db_int(r->id), db_text(r->state), db_int(r->charged)), 0, &n, &e));
        SIM_CHECK(n == 1, "request %lld is not %s with %lld charged", (long long)r->id, r->state, (long long)r->charged);
    }
}

/* --- a seed --- */

static void file_put(const char *end, const void *p, size_t n)
{
    char path[160];
    snprintf(path, sizeof path, "%s%s", store, end);
    unlink(path);
    FILE *f = p ? fopen(path, "wb") : NULL;
    if (!f) return;
    CHECK(fwrite(p, 1, n, f) == n);
    fclose(f);
}

static int64_t make(struct db *db, const char *kind, int64_t parent)
{
    int64_t id;
    OK(db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES (?1, ?2, 'x', 1) RETURNING id",
                 DB_ARGS(db_text(kind), db_int(parent)), 0, &id, &e));
    if (*kind == 'p') OK(db_run(db, "INSERT INTO balances (account, floor) VALUES (?1, 0)", DB_ARGS(db_int(id)), NULL, &e));
    return id;
}

static int64_t house(struct db *db, const char *name)
{
    int64_t id;
    OK(db_number(db, "SELECT id FROM accounts WHERE kind = 'house' AND name = ?1", DB_ARGS(db_text(name)), 0, &id, &e));
    return id;
}

static struct model at_first;

/* The store that each seed begins with: two projects, one that pays in advance, with two keys each. */
static void make_base(void)
{
    struct db *db;
    struct model *m = &at_first;
    strcpy(dir,
           access("/dev/shm", W_OK) == 0 ? "/dev/shm/spillway-ledger-XXXXXX" : "/tmp/spillway-ledger-XXXXXX"); /* it has its own disk */
    CHECK(mkdtemp(dir));
    snprintf(store, sizeof store, "%s/accounts.db", dir);
    disk_install();
    disk_new();
    OK(db_open(&db, store, &e));
    OK(schema_migrate(db, &e));
    m->house = house(db, "house");
    m->overrun = house(db, "overrun");
    m->outside = house(db, "outside");
    m->projects[0] = 2;
    m->projects[1] = make(db, "project", 1);
    for (int i = 0; i < 4; i++) m->keys[i] = make(db, "key", m->projects[i / 2]);
    OK(m->supplier = ledger_supplier(db, "groq", &e));
    model_account(m, m->projects[1])->has_floor = true;
    db_close(db);
    FILE *f = fopen(store, "rb");
    CHECK(f);
    base.n = fread(base.bytes, 1, sizeof base.bytes, f);
    fclose(f);
}

static void place_close(void)
{
    s.counts = false;
    s.unknown = 0;
    disk_fail(DISK_WELL, 0, 0);
    for (int i = 0; i < 2; i++) {
        char path[160];
        gateway_die(i);
        journal_path(path, i);
        unlink(path);
    }
    db_close(s.look);
    s.look = NULL;
}

static void place_open(uint64_t seed)
{
    memset(&s, 0, sizeof s);
    file_put("", base.bytes, base.n);
    file_put("-wal", NULL, 0);
    file_put("-shm", NULL, 0);
    disk_new();
    s.m = at_first;
    s.rng = seed * 104729;
    s.boot_ms = 1000000;
    s.wall_ms = 1790000000000;
    s.counts = true;
    OK(db_open(&s.look, store, &e));
    gateway_begin(0);
    gateway_begin(1);
    OK(ledger_transfer(s.g[0].l, LEDGER_DEPOSIT, s.m.projects[1], 50 * CENT, 0, NULL, &e));
    model_transfer(&s.m, s.m.outside, s.m.projects[1], 50 * CENT);
}

static void step(void)
{
    uint64_t what = pick(100);
    int i = (int)pick(2);
    if (what < 72)
        step_batch();
    else if (what < 84)
        step_operator();
    else if (what < 88)
        step_clock();
    else if (what < 92 && s.g[i].l) {
        totals.crashes++;
        gateway_die(i);
    } else
        advance((int64_t)pick(90000));
    for (i = 0; i < 2; i++)
        if (!s.g[i].l && pick(4) == 0) gateway_begin(i);
    advance((int64_t)pick(3000));
}

/* All gateways are there, and time passes: nothing stays open. */
static void settle(void)
{
    for (int i = 0; i < 2; i++)
        if (!s.g[i].l) gateway_begin(i);
    s.stands = false;
    int64_t clock_ms;
    OK(db_number(s.look, "SELECT clock_ms FROM ledger_state", DB_NO_ARGS, 0, &clock_ms, &e));
    if (s.wall_ms < clock_ms) s.wall_ms = clock_ms; /* a clock that went back has come round */
    advance(MOST_LASTS_MS + 4 * LEDGER_GRACE_MS);
}

static bool run_seed(uint64_t seed)
{
    bool ok = setjmp(on_failure) == 0;
    if (ok) {
        place_open(seed);
        for (int i = 0; i < STEPS; i++) {
            step();
            check_balances();
            check_windows();
            if (i % CHECK_EVERY == CHECK_EVERY - 1) check_invariants();
        }
        settle();
        check_balances();
        check_windows();
        check_invariants();
        check_requests();
    }
    place_close();
    return ok;
}

/* The program's own mistakes are findings, too. */
void __wrap_check_failed(const char *file, int line, const char *what);
void __wrap_check_failed(const char *file, int line, const char *what)
{
    sim_fail("%s:%d: CHECK(%s)", file, line, what);
}

static int planted_faults(void)
{
    static const char *const names[N_PLANTED] = {[POST_SKIPS_PENDING] = "a post that leaves the hold",
                                                 [SALE_TOO_HIGH] = "a sale of one too many",
                                                 [WINDOW_NOT_WRITTEN] = "a budget not written",
                                                 [HELD_NOT_DELETED] = "a budget's hold not deleted",
                                                 [REQUEST_NOT_ENDED] = "a request not ended",
                                                 [USAGE_NOT_SUMMED] = "usage not summed",
                                                 [ATTEMPT_NOT_ENDED] = "an attempt not ended",
                                                 [COST_TWICE] = "a cost twice",
                                                 [FLOOR_FORGOTTEN] = "a balance's floor forgotten",
                                                 [FROZEN_IGNORED] = "a freeze ignored",
                                                 [DEADLINE_FORGOTTEN] = "deadlines forgotten",
                                                 [LOOK_SAYS_NO] = "an unknown commit taken for none",
                                                 [LOOK_SAYS_YES] = "an unknown commit taken for done",
                                                 [JOURNAL_FORGETS] = "a journal not replayed",
                                                 [RUNS_NOT_SEEN] = "a run that does not say that it lives"};
    enum { TRIES = 60 };
    int missed = 0;
    for (planted = NOT_PLANTED + 1; planted < N_PLANTED; planted++) {
        uint64_t seed = 1;
        while (seed <= TRIES && run_seed(seed)) seed++;
        if (seed <= TRIES)
            printf("planted: %s: found by seed %llu: %s\n", names[planted], (unsigned long long)seed, why);
        else
            printf("planted: %s: NOT FOUND\n", names[planted]), missed = 1;
    }
    planted = NOT_PLANTED;
    return missed;
}

int main(int argc, char **argv)
{
    const char *fault = getenv("SPILLWAY_FAULT");
    bool whole = fault && strcmp(fault, "long") == 0;
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, n = argc > 2 ? strtoull(argv[2], NULL, 10)
                                                                     : whole  ? LONG_SEEDS
                                                                              : SHORT_SEEDS;
    int bad = setjmp(on_failure);
    if (bad) {
        printf("the simulation cannot begin: %s\n", why);
        return 1;
    }
    make_base();
    for (uint64_t seed = first; seed < first + n && !bad; seed++)
        if (!run_seed(seed)) {
            printf("seed %llu: %s\n", (unsigned long long)seed, why);
            bad = 1;
        }
    printf("T81 %llu seeds from %llu on: %lld operations, %lld unknown commits, %lld full disks, %lld failed fsyncs, %lld crashes, %lld "
           "jumps of the clock, %lld ends from journals, %lld recovered\n",
           (unsigned long long)n, (unsigned long long)first, (long long)totals.ops, (long long)totals.unknown, (long long)totals.full,
           (long long)totals.broken, (long long)totals.crashes, (long long)totals.jumps, (long long)totals.kept,
           (long long)totals.recovered);
    if (!bad && argc <= 2) bad = planted_faults();
    file_put("", NULL, 0);
    file_put("-wal", NULL, 0);
    file_put("-shm", NULL, 0);
    rmdir(dir);
    return bad;
}
