/* Stands in for libFuzzer where there is no clang, so that the targets run in `make test` and under the other sanitizers: replays the corpus,
 * then runs a bounded number of mutations of it, the same ones every time. Each input lies in memory of exactly its size. An input
 * that crashes or hangs is written to finding-NAME in the working folder; `fuzz_NAME FILE...` runs single files.
 *   fuzz_NAME CORPUS_FOLDER [RUNS [SECONDS]] */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

enum { MAX_INPUT_BYTES = 8192, MAX_CORPUS = 4096, HANG_S = 20 };

struct input {
    uint8_t *p;
    size_t n;
};
static struct {
    struct input corpus[MAX_CORPUS];
    size_t n_corpus;
    struct fuzz_random random;
    struct input now; /* for the signal handler */
    char finding[128];
} d;

size_t LLVMFuzzerMutate(uint8_t *p, size_t n, size_t max)
{
    static const uint8_t odd[] = {0, 1, 0x7F, 0x80, 0xFF, '"', '\\', '{', '[', '0', '-', ' ', '\n'};
    struct fuzz_random *r = &d.random;
    size_t at = n ? fuzz_below(r, (uint32_t)n) : 0;
    switch (n ? fuzz_below(r, 6) : 1) {
    case 0:
        p[at] ^= (uint8_t)(1u << fuzz_below(r, 8));
        return n;
    case 1:
        if (n == max) return n;
        memmove(p + at + 1, p + at, n - at);
        p[at] = odd[fuzz_below(r, sizeof odd)];
        return n + 1;
    case 2: {
        size_t gone = 1 + fuzz_below(r, (uint32_t)(n - at < 16 ? n - at : 16));
        memmove(p + at, p + at + gone, n - at - gone);
        return n - gone;
    }
    case 3:
        p[at] = (uint8_t)fuzz_next(r);
        return n;
    case 4:
        return fuzz_below(r, 4) ? fuzz_mutate_words(p, n, max, fuzz_next(r), NULL) : fuzz_below(r, (uint32_t)n + 1);
    default:
        p[at] = odd[fuzz_below(r, sizeof odd)];
        return n;
    }
}

/* Async-signal-safe: the input, then the default action. */
static void on_signal(int sig)
{
    int fd = open(d.finding, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    static const char text[] = "fuzz: the input is in ";
    if (fd >= 0 && write(fd, d.now.p, d.now.n) >= 0 && write(2, text, sizeof text - 1) >= 0 &&
        write(2, d.finding, strlen(d.finding)) >= 0 && write(2, "\n", 1) >= 0)
        close(fd);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void run(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) abort();
    if (n) memcpy(copy, p, n);
    d.now = (struct input){copy, n};
    alarm(HANG_S);
    LLVMFuzzerTestOneInput(copy, n);
    alarm(0);
    free(copy);
}

static struct input read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        fprintf(stderr, "fuzz: cannot read %s\n", path);
        exit(2);
    }
    struct input in = {malloc((size_t)st.st_size + 1), 0};
    if (in.p) in.n = fread(in.p, 1, (size_t)st.st_size, f);
    fclose(f);
    return in;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* In the order of their names, so that the mutations are the same on every machine. */
static void read_corpus(const char *dir)
{
    static char *names[MAX_CORPUS];
    DIR *folder = opendir(dir);
    size_t n = 0;
    for (struct dirent *entry; folder && n < MAX_CORPUS && (entry = readdir(folder));)
        if (entry->d_name[0] != '.') names[n++] = strdup(entry->d_name);
    if (folder) closedir(folder);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        d.corpus[d.n_corpus++] = read_file(path);
        free(names[i]);
    }
    if (!n) {
        fprintf(stderr, "fuzz: no corpus in %s\n", dir);
        exit(2);
    }
}

static void mutate_and_run(void)
{
    static uint8_t p[MAX_INPUT_BYTES];
    const struct input *from = &d.corpus[fuzz_below(&d.random, (uint32_t)d.n_corpus)];
    size_t n = from->n < sizeof p ? from->n : sizeof p;
    memcpy(p, from->p, n);
    for (uint32_t k = 1 + fuzz_below(&d.random, 4); k > 0; k--)
        n = LLVMFuzzerCustomMutator && fuzz_below(&d.random, 4) ? LLVMFuzzerCustomMutator(p, n, sizeof p, fuzz_next(&d.random))
                                                                : LLVMFuzzerMutate(p, n, sizeof p);
    run(p, n);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER [RUNS [SECONDS]] | FILE...\n", argv[0]);
        return 2;
    }
    const char *name = strrchr(argv[0], '/');
    snprintf(d.finding, sizeof d.finding, "finding-%s", name ? name + 1 : argv[0]);
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], on_signal);
    struct stat st;
    if (stat(argv[1], &st) == 0 && S_ISREG(st.st_mode)) {
        for (int i = 1; i < argc; i++) {
            struct input in = read_file(argv[i]);
            run(in.p, in.n);
            free(in.p);
        }
        return 0;
    }
    read_corpus(argv[1]);
    for (size_t i = 0; i < d.n_corpus; i++) run(d.corpus[i].p, d.corpus[i].n);
    long runs = argc > 2 ? atol(argv[2]) : 0, done = 0;
    time_t end = time(NULL) + (argc > 3 ? atol(argv[3]) : 3600);
    d.random.state = 1;
    while (done < runs && time(NULL) < end) mutate_and_run(), done++;
    printf("%s: %zu of the corpus, %ld mutations, no finding\n", name ? name + 1 : argv[0], d.n_corpus, done);
    for (size_t i = 0; i < d.n_corpus; i++) free(d.corpus[i].p);
    return 0;
}
