/* Reserve and post pairs a second through the ledger's writer, 256 at once (`build/bench/bench_ledger [--store URL|FILE] [--seconds N] [--clients N]`).
 * Prints the time of an fdatasync in the same folder beside it: two of these are the floor of a pair that goes alone. */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/accounts/ledger_writer.h"
#include "server/accounts/schema.h"

enum { MAX_CLIENTS = 1024, SAMPLES = 1 << 20 };

struct wait {
    struct ledger_call call;
    sem_t done;
};

static struct ledger_writer *writer;
static int64_t key, supplier;
static atomic_bool stop;
static atomic_uint n_pairs;
static uint32_t pair_us[SAMPLES];

static void must(int64_t rc, const struct err *e)
{
    if (rc >= 0) return;
    fprintf(stderr, "bench_ledger: %s\n", e->msg);
    exit(1);
}

static void deliver(void *ctx, struct ledger_call *c)
{
    (void)ctx;
    sem_post(&((struct wait *)c->ctx)->done);
}

static void ask(struct wait *w)
{
    ledger_writer_submit(writer, &w->call);
    while (sem_wait(&w->done)) {
    }
    must(w->call.op.rc, &w->call.op.err);
}

static void *client(void *arg)
{
    struct wait w = {.call = {.ctx = &w}};
    (void)arg;
    sem_init(&w.done, 0, 0);
    while (!stop) {
        int64_t from_ns = clock_boot_ns();
        w.call.op = (struct ledger_op){.type = LEDGER_RESERVE,
                                       .account = key,
                                       .model = "smollm2-135m",
                                       .amount_nusd = 1000000,
                                       .tokens = 300,
                                       .lasts_ms = 3600000,
                                       .attempt = {.supplier = supplier, .model = "smollm2-135m"}};
        ask(&w);
        int64_t request = w.call.op.request;
        w.call.op = (struct ledger_op){.type = LEDGER_POST,
                                       .request = request,
                                       .sale_nusd = 600000,
                                       .served = 1,
                                       .n_used = 1,
                                       .outcome = "stop",
                                       .used = {{.n = 1, .supplier = supplier, .usage = {.count = {100, 20, 0, 0, 0, 0, 64}, .present = 1 | 2 | 64}, .cost_nusd = 500000}}};
        ask(&w);
        unsigned i = atomic_fetch_add(&n_pairs, 1);
        if (i < SAMPLES) pair_us[i] = (uint32_t)((clock_boot_ns() - from_ns) / 1000);
    }
    sem_destroy(&w.done);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double fdatasync_us(const char *dir)
{
    enum { ROUNDS = 200 };
    char path[4096], page[4096] = {1};
    double took[ROUNDS];
    snprintf(path, sizeof path, "%.4000s/sync", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) return -1;
    for (int i = 0; i < ROUNDS; i++) {
        int64_t from_ns = clock_boot_ns();
        if (pwrite(fd, page, sizeof page, (off_t)i * 4096) < 0 || fdatasync(fd)) return -1;
        took[i] = (double)(clock_boot_ns() - from_ns) / 1000;
    }
    close(fd);
    unlink(path);
    for (int i = 1; i < ROUNDS; i++) /* insertion sort */
        for (int j = i; j > 0 && took[j - 1] > took[j]; j--) {
            double t = took[j];
            took[j] = took[j - 1];
            took[j - 1] = t;
        }
    return took[ROUNDS / 2];
}

static void prepare(const char *where)
{
    struct err e;
    struct db *db;
    must(db_open(&db, where, &e), &e);
    must(schema_migrate(db, &e), &e);
    must(db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('key', 2, 'bench', 1) RETURNING id", DB_NO_ARGS, 0, &key, &e), &e);
    supplier = ledger_supplier(db, "local/bench", &e);
    must(supplier, &e);
    db_close(db);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"store", 1, NULL, 's'}, {"seconds", 1, NULL, 't'}, {"clients", 1, NULL, 'c'}, {0}};
    char dir[] = "/tmp/spillway-bench-XXXXXX", file[64];
    const char *store = NULL;
    int seconds = 5, clients = 256;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (c == 's') store = optarg;
        if (c == 't') seconds = atoi(optarg);
        if (c == 'c') clients = atoi(optarg);
        if (c == '?') return 2;
    }
    if (clients < 1 || clients > MAX_CLIENTS || !mkdtemp(dir)) return 2;
    snprintf(file, sizeof file, "%s/accounts.db", dir);
    if (!store) store = file;
    prepare(store);
    struct err e;
    must(ledger_writer_start(&writer, &(struct ledger_writer_options){.where = store, .ledger = {.gateway = "bench", .alone = true}, .deliver = deliver}, &e), &e);
    pthread_t threads[MAX_CLIENTS];
    int64_t from_ns = clock_boot_ns();
    for (int i = 0; i < clients; i++)
        if (pthread_create(&threads[i], NULL, client, NULL)) return 1;
    sleep((unsigned)seconds);
    stop = true;
    for (int i = 0; i < clients; i++) pthread_join(threads[i], NULL);
    double took_s = (double)(clock_boot_ns() - from_ns) / 1e9;
    struct ledger_writer_state st = ledger_writer_state(writer);
    ledger_writer_stop(writer, 10000);
    ledger_writer_free(writer);
    size_t n = n_pairs < SAMPLES ? n_pairs : SAMPLES;
    qsort(pair_us, n, sizeof *pair_us, by_size);
    printf("{\"store\": \"%s\", \"clients\": %d, \"pairs_a_second\": %.0f, \"pair_p50_us\": %u, \"pair_p99_us\": %u, \"operations_a_transaction\": %.1f, "
           "\"fdatasync_p50_us\": %.0f}\n",
           store == file ? "sqlite" : "postgres", clients, n_pairs / took_s, pair_us[n / 2], pair_us[n * 99 / 100], (double)st.n_ops / (double)st.n_batches,
           fdatasync_us(dir));
    return 0;
}
