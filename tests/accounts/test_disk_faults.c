/* T73, B13, B14: the disk is full, read-only or fails at each write, or an fsync fails, while the ledger's writer works. Whatever it has acknowledged is in
 * the store in the end, to the nano-dollar: after the disk is well again, after a kill, and after a power cut; what was not acknowledged is ended by
 * recovery. Short: some of the writes; all of them with SPILLWAY_FAULT=long. SQLite's. */
#include "tests/accounts/writer.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "server/accounts/journal.h"
#include "tests/accounts/disk.h"

enum { REQUESTS = 12, CENT = 10000000, SHORT_STEP = 9 };

static struct {
    char db[1 << 20];
    size_t n;
    int64_t key, supplier;
} base;
static char journal_file[160];
static atomic_int n_failed;

static void failed(void *ctx, const struct err *why)
{
    (void)ctx;
    (void)why;
    atomic_fetch_add(&n_failed, 1);
}

static struct ledger_writer *writer_start(void)
{
    struct ledger_writer *w;
    struct ledger_writer_options o = {.where = store_file,
                                      .journal = journal_file,
                                      .most_requests = 16,
                                      .ledger = {.gateway = "test", .alone = true},
                                      .deliver = deliver,
                                      .failed = failed};
    OK(ledger_writer_start(&w, &o, &store_e));
    return w;
}

static void writer_end(struct ledger_writer *w)
{
    ledger_writer_stop(w, 0);
    ledger_writer_free(w);
}

static int ask(struct ledger_writer *w, struct ledger_op *op)
{
    return ask_within(w, op, 60);
}

static int setup(void **state)
{
    struct db *db;
    (void)state;
    disk_install();
    disk_new();
    store_new();
    snprintf(journal_file, sizeof journal_file, "%s/accounts.journal", store_dir);
    OK(db_open(&db, store_file, &store_e));
    base.key = store_key(db, 2);
    OK(base.supplier = ledger_supplier(db, "groq", &store_e));
    db_close(db);
    FILE *f = fopen(store_file, "rb");
    base.n = fread(base.db, 1, sizeof base.db, f);
    fclose(f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(journal_file);
    store_remove();
    return 0;
}

/* --- a life: requests that are open when the fault comes, and what was said of their ends --- */

struct life {
    int64_t requests[REQUESTS];
    struct ledger_op acked[REQUESTS];
    bool is_acked[REQUESTS];
    bool closed; /* admission was */
};

static struct ledger_op reserve_of(void)
{
    return (struct ledger_op){
        .type = LEDGER_RESERVE,
        .account = base.key,
        .model = "llama",
        .amount_nusd = 3 * CENT,
        .lasts_ms = 600000,
        .attempt = {.supplier = base.supplier, .model = "llama", .sale_estimate_nusd = CENT, .cost_estimate_nusd = CENT}};
}

/* Every third is void; the sale of some is beyond the hold. */
static struct ledger_op end_of(int64_t request, int i)
{
    bool post = i % 3 != 2;
    return (struct ledger_op){.type = post ? LEDGER_POST : LEDGER_VOID,
                              .request = request,
                              .sale_nusd = post ? (i + 1) * CENT / 2 + i : 0,
                              .held_nusd = 3 * CENT,
                              .served = 1,
                              .n_used = 1,
                              .outcome = "stop",
                              .used = {{.n = 1,
                                        .supplier = base.supplier,
                                        .end = post ? LEDGER_SERVED : LEDGER_FAILED,
                                        .usage = {.count = {7, 0, 0, 0, 0, 0, 9}, .present = 1 | 64},
                                        .cost_nusd = post ? (i + 1) * CENT / 4 : 0,
                                        .raw = "{\"n\":1}"}}};
}

static void begin(struct life *f, struct ledger_writer **w)
{
    *f = (struct life){.closed = false};
    store_file_put("", base.db, base.n);
    store_file_put("-wal", NULL, 0);
    store_file_put("-shm", NULL, 0);
    unlink(journal_file);
    disk_new();
    *w = writer_start();
    for (int i = 0; i < REQUESTS; i++) {
        struct ledger_op op = reserve_of();
        assert_int_equal(ask(*w, &op), 0);
        f->requests[i] = op.request;
    }
}

/* Ends and new requests by turns; the new ones that are granted are left open. */
static void run(struct life *f, struct ledger_writer *w)
{
    for (int i = 0; i < REQUESTS; i++) {
        struct ledger_op op = end_of(f->requests[i], i), more = reserve_of();
        f->is_acked[i] = ask(w, &op) == 0;
        f->acked[i] = op;
        int rc = ask(w, &more);
        if (rc) assert_int_equal(rc, -ERR_STORE);
        f->closed |= rc == -ERR_STORE;
    }
}

/* Of what was acknowledged the store says the same; the rest has ended, too. */
static void check(const struct life *f)
{
    struct db *db;
    OK(db_open(&db, store_file, &store_e));
    for (int i = 0; i < REQUESTS; i++) {
        struct db_rows rows;
        OK(db_query(db, &rows, "SELECT state, charged, estimated FROM requests WHERE id = ?1", DB_ARGS(db_int(f->requests[i])), &store_e));
        assert_int_equal(db_next(&rows, &store_e), 1);
        if (f->is_acked[i]) {
            assert_string_equal(db_get_text(&rows, 0), f->acked[i].type == LEDGER_POST ? "posted" : "void");
            assert_int_equal(db_get_int(&rows, 1), f->acked[i].charged_nusd);
            assert_int_equal(db_get_int(&rows, 2), 0);
        } else
            assert_string_not_equal(db_get_text(&rows, 0), "reserved");
        db_done(&rows);
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE state = 'reserved'"), 0);
    store_check(db);
    db_close(db);
}

static void wait_open(struct ledger_writer *w)
{
    for (int i = 0; i < 3000 && !ledger_writer_state(w).open; i++) usleep(10000);
    assert_true(ledger_writer_state(w).open);
}

enum after { AFTER_WELL, AFTER_KILL, AFTER_POWER_CUT, AFTERS };

/* What comes after the fault; then the next process. */
static void end_life(struct life *f, struct ledger_writer *w, enum after after)
{
    if (after == AFTER_WELL && !ledger_writer_state(w).failed) {
        disk_fail(DISK_WELL, 0, 0);
        wait_open(w);
        assert_int_equal(ledger_writer_state(w).n_kept, 0);
        struct ledger_op op = reserve_of();
        assert_int_equal(ask(w, &op), 0);
    } else if (after != AFTER_WELL)
        disk_cut();
    writer_end(w);
    if (after == AFTER_POWER_CUT) {
        disk_make(DAMAGE_NONE_KEPT, 1);
        disk_new();
    } else
        disk_fail(DISK_WELL, 0, 0); /* what the system has in memory is there */
    w = writer_start();
    disk_cut(); /* what the next process has found is durable from now on */
    writer_end(w);
    disk_make(DAMAGE_NONE_KEPT, 1);
    check(f);
}

static int64_t sweep(enum disk_fault fault, bool by_syncs)
{
    const char *size = getenv("SPILLWAY_FAULT");
    bool whole = size && strcmp(size, "long") == 0;
    struct life f;
    struct ledger_writer *w;
    begin(&f, &w);
    disk_fail(DISK_SYNC, INT64_MAX, 0);
    run(&f, w);
    int64_t n = by_syncs ? disk_syncs() : disk_writes(), n_closed = 0, step = whole ? 1 : by_syncs ? 4 : SHORT_STEP;
    disk_fail(DISK_WELL, 0, 0);
    end_life(&f, w, AFTER_WELL);
    assert_false(f.closed);
    for (int64_t at = 1; at <= n; at += step) {
        enum after after = (enum after)(at / step % AFTERS);
        for (int a = 0; a < (whole ? AFTERS : 1); a++, after = (enum after)((after + 1) % AFTERS)) {
            n_failed = 0;
            begin(&f, &w);
            disk_fail(fault, at, INT64_MAX);
            run(&f, w);
            assert_true(f.closed);
            for (int i = 0; i < REQUESTS; i++) assert_true(f.is_acked[i]); /* there is a journal */
            n_closed += f.closed;
            struct ledger_writer_state s = ledger_writer_state(w);
            assert_int_equal(n_failed, s.failed);
            if (fault == DISK_SYNC) assert_true(s.failed);
            if (fault == DISK_FULL || fault == DISK_READ_ONLY) assert_false(s.failed);
            if (fault == DISK_FULL) assert_string_equal(s.trouble, "the disk is full");
            end_life(&f, w, after);
        }
    }
    return n_closed;
}

static void test_t73_a_full_disk_closes_admission_and_loses_nothing(void **state)
{
    (void)state;
    print_message("    T73 disk full: %d lives\n", (int)sweep(DISK_FULL, false));
}

static void test_t73_so_does_one_that_became_read_only(void **state)
{
    (void)state;
    print_message("    T73 read-only: %d lives\n", (int)sweep(DISK_READ_ONLY, false));
}

static void test_t73_so_does_one_whose_writes_fail(void **state)
{
    (void)state;
    print_message("    T73 EIO: %d lives\n", (int)sweep(DISK_EIO, false));
}

static void test_t73_an_fsync_that_fails_ends_the_process_and_loses_nothing(void **state)
{
    (void)state;
    print_message("    T73 fsync: %d lives\n", (int)sweep(DISK_SYNC, true));
}

/* A fault that has passed when the store is asked again: nobody is to notice but the log. */
static void test_t73_a_short_fault_is_made_up_for(void **state)
{
    (void)state;
    struct life f;
    struct ledger_writer *w;
    begin(&f, &w);
    disk_fail(DISK_FULL, 1, 1);
    struct ledger_op op = end_of(f.requests[0], 0);
    assert_int_equal(ask(w, &op), 0);
    f.acked[0] = op;
    f.is_acked[0] = true;
    wait_open(w);
    end_life(&f, w, AFTER_KILL);
}

/* Once an fsync has failed the handle does nothing more, whatever the disk would say now. */
static void test_b13_a_handle_is_not_used_again_after_an_fsync_that_failed(void **state)
{
    (void)state;
    struct life f;
    struct ledger_writer *w;
    begin(&f, &w);
    disk_fail(DISK_SYNC, 1, 1);
    struct ledger_op op = reserve_of();
    assert_int_equal(ask(w, &op), -ERR_STORE);
    int64_t n = disk_writes();
    usleep(200000); /* it would try again after 20 ms */
    assert_true(ledger_writer_state(w).failed);
    assert_int_equal(ask(w, &op), -ERR_STORE);
    assert_int_equal(disk_writes(), n);
    end_life(&f, w, AFTER_KILL);
}

/* The reserve's commit may be in the store although its caller was refused: nobody is charged for it. */
static void test_b13_a_refused_reserve_that_is_there_all_the_same_is_void(void **state)
{
    (void)state;
    struct life f;
    struct ledger_writer *w;
    struct db *db;
    begin(&f, &w);
    disk_fail(DISK_SYNC, 1, 1);
    struct ledger_op op = reserve_of();
    assert_int_equal(ask(w, &op), -ERR_STORE);
    end_life(&f, w, AFTER_KILL);
    OK(db_open(&db, store_file, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), REQUESTS + 1);
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM requests WHERE state = 'void' AND id > %lld", (long long)f.requests[REQUESTS - 1]);
    assert_int_equal(store_number(db, sql), 1);
    db_close(db);
}

enum { MANY = 2000, RAW_BYTES = 3000 };

static void ask_all(struct ledger_writer *w, struct wait *all)
{
    for (int i = 0; i < MANY; i++) {
        sem_init(&all[i].done, 0, 0);
        all[i].call.ctx = &all[i];
        ledger_writer_submit(w, &all[i].call);
    }
}

/* Of more ends than the journal has room for those that it took are answered; the rest wait, and are refused when the process ends first. */
static void test_b14_a_full_journal_keeps_what_it_has_taken(void **state)
{
    (void)state;
    struct life f;
    struct ledger_writer *w;
    struct db *db;
    struct wait *all = calloc(MANY, sizeof *all);
    int n_acked = 0;
    assert_non_null(all);
    begin(&f, &w);
    for (int i = 0; i < MANY; i++) all[i].call.op = reserve_of();
    ask_all(w, all);
    for (int i = 0; i < MANY; i++) {
        while (sem_wait(&all[i].done)) {
        }
        assert_int_equal(all[i].call.op.rc, 0);
    }
    disk_fail(DISK_FULL, 1, INT64_MAX);
    static char raw[RAW_BYTES]; /* a provider that tells much */
    memset(raw, 'x', RAW_BYTES - 1);
    for (int i = 0; i < MANY; i++) {
        all[i].call.op = end_of(all[i].call.op.request, i % 12);
        all[i].call.op.used[0].raw = raw;
    }
    ask_all(w, all);
    for (int i = 0; i < 3000 && ledger_writer_state(w).n_kept + ledger_writer_state(w).n_waiting < MANY; i++) usleep(10000);
    struct ledger_writer_state s = ledger_writer_state(w);
    assert_true(s.n_kept > 512 && s.n_waiting > 0);
    assert_int_equal(s.n_kept + s.n_waiting, MANY);
    struct ledger_op op = reserve_of();
    assert_int_equal(ask(w, &op), -ERR_STORE);
    disk_cut();
    writer_end(w);
    disk_fail(DISK_WELL, 0, 0);
    writer_end(writer_start());
    OK(db_open(&db, store_file, &store_e));
    for (int i = 0; i < MANY; i++) {
        const struct ledger_op *end = &all[i].call.op;
        int64_t charged;
        assert_int_equal(sem_trywait(&all[i].done), 0); /* everybody has an answer */
        n_acked += end->rc == 0;
        if (end->rc) continue;
        OK(db_number(db, "SELECT charged FROM requests WHERE id = ?1 AND estimated = 0 AND state <> 'reserved'",
                     DB_ARGS(db_int(end->request)), -1, &charged, &store_e));
        assert_int_equal(charged, end->charged_nusd);
    }
    assert_int_equal(n_acked, s.n_kept);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE state = 'reserved'"), 0);
    store_check(db);
    db_close(db);
    free(all);
}

/* --- the journal's own file --- */

static void add(struct journal *j, int64_t request, int i)
{
    struct ledger_op op = end_of(request, i);
    OK(journal_add(j, &op, &store_e));
}

static void test_the_journal_gives_back_what_it_was_given(void **state)
{
    (void)state;
    struct journal *j;
    struct journal_entry x;
    size_t at = 0;
    unlink(journal_file);
    OK(journal_open(&j, journal_file, 8, &store_e));
    for (int i = 0; i < 3; i++) {
        struct ledger_op op = end_of(100 + i, i);
        op.price = i;
        op.markup = 4711 + i;
        op.used[0].tier = "flex";
        OK(journal_add(j, &op, &store_e));
    }
    OK(journal_sync(j, &store_e));
    journal_close(j);
    OK(journal_open(&j, journal_file, 8, &store_e));
    assert_int_equal(journal_count(j), 3);
    for (int i = 0; i < 3; i++) {
        struct ledger_op want = end_of(100 + i, i);
        want.markup = 4711 + i;
        assert_int_equal(journal_next(j, &at, &x, &store_e), 1);
        assert_int_equal(x.op.type, want.type);
        assert_int_equal(x.op.request, want.request);
        assert_int_equal(x.op.sale_nusd, want.sale_nusd);
        assert_int_equal(x.op.served, 1);
        assert_int_equal(x.op.price, i);
        assert_int_equal(x.op.markup, want.markup);
        assert_string_equal(x.op.used[0].tier, "flex");
        assert_int_equal(x.op.n_used, 1);
        assert_string_equal(x.op.outcome, "stop");
        assert_null(x.op.reason);
        assert_int_equal(x.op.used[0].cost_nusd, want.used[0].cost_nusd);
        assert_int_equal(x.op.used[0].end, want.used[0].end);
        assert_memory_equal(&x.op.used[0].usage, &want.used[0].usage, sizeof want.used[0].usage.count);
        assert_int_equal(x.op.used[0].usage.present, 1 | 64);
        assert_string_equal(x.op.used[0].raw, "{\"n\":1}");
        assert_null(x.op.used[0].reconcile);
        journal_entry_free(&x);
    }
    assert_int_equal(journal_next(j, &at, &x, &store_e), 0);
    journal_close(j);
}

static void test_the_journal_is_empty_after_it_was_cleared(void **state)
{
    (void)state;
    struct journal *j;
    unlink(journal_file);
    OK(journal_open(&j, journal_file, 8, &store_e));
    for (int i = 0; i < 5; i++) add(j, 100 + i, i);
    OK(journal_sync(j, &store_e));
    OK(journal_clear(j, &store_e));
    add(j, 7, 0); /* shorter than what lies behind it */
    OK(journal_sync(j, &store_e));
    journal_close(j);
    OK(journal_open(&j, journal_file, 8, &store_e));
    assert_int_equal(journal_count(j), 1);
    journal_close(j);
}

static void test_the_journal_has_room_for_as_many_as_it_was_made_for(void **state)
{
    (void)state;
    struct journal *j;
    int n = 0;
    struct ledger_op op = end_of(1, 0);
    static char raw[3500];
    memset(raw, 'x', sizeof raw - 1);
    for (op.n_used = 0; op.n_used < LEDGER_MAX_ATTEMPTS; op.n_used++) {
        op.used[op.n_used] = end_of(1, 0).used[0];
        op.used[op.n_used].raw = raw; /* too much: left out */
    }
    unlink(journal_file);
    OK(journal_open(&j, journal_file, 8, &store_e));
    while (journal_add(j, &op, &store_e) == 0) n++;
    assert_int_equal(store_e.code, ERR_LIMIT);
    assert_true(n >= 8);
    journal_close(j);
}

static void test_one_process_has_the_journal(void **state)
{
    (void)state;
    struct journal *j, *other;
    unlink(journal_file);
    OK(journal_open(&j, journal_file, 8, &store_e));
    assert_int_equal(journal_open(&other, journal_file, 8, &store_e), -ERR_BUSY);
    journal_close(j);
}

/* Whatever byte is wrong, or missing: the records before it are there, none is there by half. */
static void test_t72_a_torn_journal_ends_before_the_tear(void **state)
{
    (void)state;
    struct journal *j;
    char bytes[16384];
    unlink(journal_file);
    OK(journal_open(&j, journal_file, 2, &store_e));
    size_t ends[4] = {4096};
    for (int i = 0; i < 3; i++) {
        add(j, 100 + i, i);
        OK(journal_sync(j, &store_e));
        FILE *f = fopen(journal_file, "rb");
        size_t n = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        uint32_t text;
        memcpy(&text, bytes + ends[i], 4);
        ends[i + 1] = ends[i] + 20 + text;
        assert_true(ends[i + 1] <= n);
    }
    journal_close(j);
    for (size_t at = 4096; at < ends[3]; at++) {
        char kept = bytes[at];
        bytes[at] = (char)(kept ^ 0x40);
        FILE *f = fopen(journal_file, "r+b");
        assert_int_equal(fwrite(bytes, 1, 4096 * 3, f), 4096 * 3);
        fclose(f);
        bytes[at] = kept;
        OK(journal_open(&j, journal_file, 2, &store_e));
        assert_int_equal(journal_count(j), at < ends[1] ? 0 : at < ends[2] ? 1 : 2);
        journal_close(j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t73_a_full_disk_closes_admission_and_loses_nothing),
        cmocka_unit_test(test_t73_so_does_one_that_became_read_only),
        cmocka_unit_test(test_t73_so_does_one_whose_writes_fail),
        cmocka_unit_test(test_t73_an_fsync_that_fails_ends_the_process_and_loses_nothing),
        cmocka_unit_test(test_t73_a_short_fault_is_made_up_for),
        cmocka_unit_test(test_b13_a_handle_is_not_used_again_after_an_fsync_that_failed),
        cmocka_unit_test(test_b13_a_refused_reserve_that_is_there_all_the_same_is_void),
        cmocka_unit_test(test_b14_a_full_journal_keeps_what_it_has_taken),
        cmocka_unit_test(test_the_journal_gives_back_what_it_was_given),
        cmocka_unit_test(test_the_journal_is_empty_after_it_was_cleared),
        cmocka_unit_test(test_the_journal_has_room_for_as_many_as_it_was_made_for),
        cmocka_unit_test(test_one_process_has_the_journal),
        cmocka_unit_test(test_t72_a_torn_journal_ends_before_the_tear),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
