/* bench_keys: the check of an API key with 10,000 keys: how long it takes, and whether its time tells how much of a key is right (T04).
 *
 *     bench_keys [MEASUREMENTS] [KEYS]     default 1000000 10000
 *
 * The method is dudect's (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017): two classes of tokens in random order, each check
 * timed alone, Welch's t over all times and over those below fixed quantiles (interrupts make the upper ones noise). |t| < 4.5: no difference was
 * found. Classes: tokens that are a valid key but for the last character, and random ones of the same length; both are made the same way and lie
 * in the same buffer. The same meter must see the difference in a check that compares byte by byte and stops early, else it proves
 * nothing. Exit code 1: a bound does not hold. The last line is JSON. */
#include <dirent.h>
#include <math.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/accounts.h"

enum { BATCH = 10000, CROPS = 4, MAX_MEAN_NS = 5000 };
static const double crop_quantiles[CROPS] = {1, 0.99, 0.95, 0.8}; /* the first: all */
static const double max_t = 4.5, min_planted_t = 10;

struct sums { /* Welford's */
    double n, mean, m2;
};

struct meter {
    struct sums sums[CROPS][2];
    int64_t limits[CROPS]; /* of the first batch */
};

struct bench {
    struct accounts *accounts;
    char (*tokens)[ACCOUNTS_TOKEN_BYTES];
    size_t n_tokens, length;
};

typedef bool check_fn(const struct bench *b, const char *token);

static bool check_product(const struct bench *b, const char *token)
{
    return accounts_key_check(b->accounts, token, NULL) > 0;
}

/* The planted fault. */
static bool check_early_end(const struct bench *b, const char *token)
{
    const volatile char *valid = b->tokens[0];
    for (size_t i = 0; i < b->length; i++)
        if (valid[i] != token[i]) return false;
    return true;
}

static void sums_add(struct sums *s, double x)
{
    s->n++;
    double d = x - s->mean;
    s->mean += d / s->n;
    s->m2 += d * (x - s->mean);
}

static double welch_t(const struct sums s[2])
{
    if (s[0].n < 2 || s[1].n < 2) return 0;
    double v = s[0].m2 / (s[0].n - 1) / s[0].n + s[1].m2 / (s[1].n - 1) / s[1].n;
    return v > 0 ? (s[0].mean - s[1].mean) / sqrt(v) : 0;
}

static double meter_worst(const struct meter *m)
{
    double worst = 0;
    for (int i = 0; i < CROPS; i++)
        if (fabs(welch_t(m->sums[i])) > worst) worst = fabs(welch_t(m->sums[i]));
    return worst;
}

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void meter_add(struct meter *m, const int64_t *ns, const unsigned char *classes, bool first)
{
    if (first) {
        static int64_t sorted[BATCH];
        memcpy(sorted, ns, sizeof sorted);
        qsort(sorted, BATCH, sizeof sorted[0], compare_ns);
        m->limits[0] = INT64_MAX;
        for (int i = 1; i < CROPS; i++) m->limits[i] = sorted[(size_t)(crop_quantiles[i] * (BATCH - 1))];
    }
    for (int i = 0; i < BATCH; i++)
        for (int j = 0; j < CROPS; j++)
            if (ns[i] <= m->limits[j]) sums_add(&m->sums[j][classes[i]], (double)ns[i]);
}

static void fill_random(char *out, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    randombytes_buf(out, n);
    for (size_t i = 0; i < n; i++) out[i] = letters[(unsigned char)out[i] & 63];
    out[n] = '\0';
}

/* Class 1 takes over all characters but the last of a valid key; class 0 none. Both do the same work. */
static void make_token(const struct bench *b, check_fn *check, unsigned char class, char *out)
{
    const char *valid = b->tokens[check == check_early_end ? 0 : randombytes_uniform((uint32_t)b->n_tokens)];
    char kept[ACCOUNTS_TOKEN_BYTES], *target = class ? out : kept;
    fill_random(out, b->length);
    memcpy(target, valid, b->length - 1);
    if (out[b->length - 1] == valid[b->length - 1]) out[b->length - 1] = '!';
}

static double measure(const struct bench *b, check_fn *check, int64_t n)
{
    static char inputs[BATCH][ACCOUNTS_TOKEN_BYTES];
    static unsigned char classes[BATCH];
    static int64_t ns[BATCH];
    struct meter m = {0};
    for (int64_t done = 0; done < n; done += BATCH) {
        randombytes_buf(classes, sizeof classes);
        for (int i = 0; i < BATCH; i++) make_token(b, check, classes[i] &= 1, inputs[i]);
        for (int i = 0; i < BATCH; i++) {
            int64_t start = clock_boot_ns();
            bool valid = check(b, inputs[i]);
            ns[i] = clock_boot_ns() - start;
            CHECK(!valid);
        }
        meter_add(&m, ns, classes, done == 0);
    }
    return meter_worst(&m);
}

/* Mean of one check, of all valid keys in random order. */
static double mean_ns(const struct bench *b, int64_t n)
{
    static uint32_t order[BATCH];
    int64_t total = 0;
    for (int64_t done = 0; done < n; done += BATCH) {
        for (int i = 0; i < BATCH; i++) order[i] = randombytes_uniform((uint32_t)b->n_tokens);
        int64_t start = clock_boot_ns();
        for (int i = 0; i < BATCH; i++) CHECK(check_product(b, b->tokens[order[i]]));
        total += clock_boot_ns() - start;
    }
    return (double)total / (double)((n + BATCH - 1) / BATCH * BATCH);
}

static int make_keys(struct bench *b, const char *dir, struct err *e)
{
    int rc = accounts_open(&b->accounts, dir, NULL, e);
    b->tokens = calloc(b->n_tokens, sizeof *b->tokens);
    CHECK(b->tokens != NULL);
    const struct accounts_key_spec spec = {.name = "bench"};
    for (size_t i = 0; i < b->n_tokens && !rc; i++) {
        int64_t id = accounts_key_make(b->accounts, &spec, b->tokens[i], e);
        if (id < 0) rc = (int)id;
    }
    b->length = strlen(b->tokens[0]);
    return rc;
}

static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) (void)unlinkat(dirfd(d), f->d_name, 0);
    if (d) closedir(d);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    int64_t n = 1000000, n_keys = 10000;
    if ((argc > 1 && !str_parse_int64(argv[1], BATCH, 1000000000, &n)) || (argc > 2 && !str_parse_int64(argv[2], 1, 1000000, &n_keys))) {
        fprintf(stderr, "usage: bench_keys [MEASUREMENTS >= %d] [KEYS]\n", BATCH);
        return 2;
    }
    char dir[] = "/dev/shm/spillway-bench-XXXXXX",
         other[] = "/tmp/spillway-bench-XXXXXX"; /* in memory where that is there: 10,000 commits */
    const char *made = mkdtemp(dir);
    if (!made) made = mkdtemp(other);
    struct bench b = {.n_tokens = (size_t)n_keys};
    struct err e = {0};
    if (!made || make_keys(&b, made, &e)) {
        fprintf(stderr, "bench_keys: %s\n", made ? e.msg : "no folder for the keys");
        if (made) remove_dir(made);
        return 1;
    }
    double mean = mean_ns(&b, n), t = measure(&b, check_product, n), planted = measure(&b, check_early_end, n);
    accounts_close(b.accounts);
    remove_dir(made);
    free(b.tokens);
    bool ok = mean < MAX_MEAN_NS && t < max_t && planted > min_planted_t;
    printf("key check, %lld keys            %9.0f ns      (bound %d ns)\n", (long long)n_keys, mean, MAX_MEAN_NS);
    printf("T04: t, nearly valid or random   %9.2f         (bound %.1f; %lld measurements)\n", t, max_t, (long long)n);
    printf("     t of a check that ends early %8.2f         (must be seen: > %.0f)\n", planted, min_planted_t);
    printf(
        "{\"bench\": \"keys\", \"keys\": %lld, \"measurements\": %lld, \"check_ns\": %.0f, \"t\": %.2f, \"planted_t\": %.2f, \"ok\": %s}\n",
        (long long)n_keys, (long long)n, mean, t, planted, ok ? "true" : "false");
    return ok ? 0 : 1;
}
