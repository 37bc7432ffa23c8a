/* What was used in a month, by project and day, of a ledger of ten million lines (`build/bench/bench_usage [--lines N] [--file FILE]`).
 *
 * The ledger is made by SQL: a year of requests, two transfers each (sale and cost), of 200 keys in 50 projects, 5 models and 4 suppliers,
 * mixed so that hardly two requests of a day fall into one row of usage_days: the worst case for its sums. The query is the one of
 * `spillway accounts usage` (report_usage), each time on a connection of its own, and what it comes to is held against the transfers
 * themselves. Bound: 200 ms. Exit code 1: it does not hold. The last line is JSON. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/report.h"
#include "server/accounts/schema.h"

enum { RUNS = 21, DAYS = 365, FIRST_DAY = 20454 /* 2026-01-01 */, MONTH = FIRST_DAY + 31 /* February */, MONTH_DAYS = 28, MAX_MS = 200 };

static void must(int64_t rc, const struct err *e)
{
    if (rc >= 0) return;
    fprintf(stderr, "bench_usage: %s\n", e->msg);
    exit(1);
}

static int64_t number(struct db *db, const char *sql, struct err *e)
{
    int64_t n;
    must(db_number(db, sql, DB_NO_ARGS, 0, &n, e), e);
    return n;
}

/* Request i: mixed by a multiplier that is odd, so that keys, models and suppliers are spread and a day's are the same every time. */
static void make(struct db *db, int64_t n_requests, struct err *e)
{
    static char sql[4096];
    snprintf(sql, sizeof sql,
             "PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;"
             "BEGIN;"
             "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 49)"
             " INSERT INTO accounts (id, kind, parent, name, created_s) SELECT 1000 + i, 'project', 1, 'project ' || i, 1 FROM n;"
             "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 199)"
             " INSERT INTO accounts (id, kind, parent, name, created_s) SELECT 2000 + i, 'key', 1000 + i / 4, 'key ' || i, 1 FROM n;"
             "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 3)"
             " INSERT INTO accounts (id, kind, parent, name, created_s) SELECT 3000 + i, 'supplier', NULL, 'supplier ' || i, 1 FROM n;"
             "CREATE TEMP TABLE made AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %lld - 1)"
             " SELECT i + 1 AS id, %d + i * %d / %lld AS day, (i * 2654435761 >> 9) %% 200 AS k, (i * 2246822519 >> 7) %% 5 AS m,"
             " (i * 3266489917 >> 5) %% 4 AS s, 1000000 + i %% 977 AS sale, 700000 + i %% 499 AS cost FROM n;"
             "INSERT INTO transfers (request, kind, debit, credit, amount, created_ms)"
             " SELECT id, 'sale', 1000 + k / 4, 3, sale, day * 86400000 + id %% 86400000 FROM made;"
             "INSERT INTO transfers (request, attempt, kind, debit, credit, amount, created_ms)"
             " SELECT id, 1, 'cost', 3, 3000 + s, cost, day * 86400000 + id %% 86400000 FROM made;"
             "INSERT INTO usage_days SELECT day, 1000 + k / 4, 2000 + k, 'model-' || m, 3000 + s, count(*), 100 * count(*), 20 * count(*),"
             " 50 * count(*), sum(sale), sum(cost), 0 FROM made GROUP BY 1, 2, 3, 4, 5;"
             "COMMIT; DROP TABLE made",
             (long long)n_requests, FIRST_DAY, DAYS, (long long)n_requests);
    must(db_script(db, sql, e), e);
}

struct sums {
    int64_t rows, requests, sale;
};

static void add(void *ctx, const struct report_usage *u)
{
    struct sums *s = ctx;
    s->rows++;
    s->requests += u->requests;
    s->sale += u->sale_nusd;
}

/* Milliseconds of one, from opening the store to the last row. */
static double ask(const char *path, struct sums *out, struct err *e)
{
    struct report_query q = {.by = REPORT_PROJECT | REPORT_DAY, .from_day = MONTH, .to_day = MONTH + MONTH_DAYS - 1};
    struct db *db;
    *out = (struct sums){0};
    int64_t from_ns = clock_boot_ns();
    must(db_open(&db, path, e), e);
    must(report_usage(db, &q, add, out, e), e);
    db_close(db);
    return (double)(clock_boot_ns() - from_ns) / 1e6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(struct db *db, const struct sums *s, struct err *e)
{
    char sql[256];
    snprintf(sql, sizeof sql, "SELECT sum(amount) FROM transfers WHERE kind = 'sale' AND created_ms >= %lld AND created_ms < %lld",
             MONTH * 86400000LL, (MONTH + MONTH_DAYS) * 86400000LL);
    int64_t sale = number(db, sql, e);
    if (sale == s->sale && s->requests > 0) return;
    fprintf(stderr, "bench_usage: usage says %lld nano-dollars of sales, the transfers say %lld\n", (long long)s->sale, (long long)sale);
    exit(1);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"lines", required_argument, NULL, 'l'}, {"file", required_argument, NULL, 'f'}, {0}};
    int64_t lines = 10000000;
    char path[4096] = "/tmp/bench_usage.db";
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'f')
            snprintf(path, sizeof path, "%s", optarg);
        else if (c != 'l' || !str_parse_int64(optarg, 1000, 1000000000, &lines)) {
            fprintf(stderr, "usage: bench_usage [--lines N] [--file FILE]\n");
            return 2;
        }
    }
    struct err e;
    struct db *db;
    struct sums sums;
    double ms[RUNS];
    unlink(path);
    must(db_open(&db, path, &e), &e);
    must(schema_migrate(db, &e), &e);
    make(db, lines / 2, &e);
    int64_t n = number(db, "SELECT count(*) FROM transfers", &e), n_days = number(db, "SELECT count(*) FROM usage_days", &e);
    double first = ask(path, &sums, &e);
    for (int i = 0; i < RUNS; i++) ms[i] = ask(path, &sums, &e);
    check(db, &sums, &e);
    db_close(db);
    for (int i = 0; i < 3; i++) {
        char name[4200];
        snprintf(name, sizeof name, "%s%s", path, (const char *const[]){"", "-wal", "-shm"}[i]);
        unlink(name);
    }
    qsort(ms, RUNS, sizeof ms[0], compare);
    bool ok = ms[RUNS - 1] <= MAX_MS;
    printf("ledger                         %9lld lines, %lld rows of usage_days\n", (long long)n, (long long)n_days);
    printf("a month by project and day     %9.1f ms     (middle of %d; worst %.1f, first %.1f; bound %d ms)\n", ms[RUNS / 2], RUNS,
           ms[RUNS - 1], first, MAX_MS);
    printf("{\"bench\": \"usage\", \"lines\": %lld, \"rows\": %lld, \"answer_rows\": %lld, \"ms\": %.1f, \"worst_ms\": %.1f, \"ok\": %s}\n",
           (long long)n, (long long)n_days, (long long)sums.rows, ms[RUNS / 2], ms[RUNS - 1], ok ? "true" : "false");
    return ok ? 0 : 1;
}
