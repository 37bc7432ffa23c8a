/* Stands in for CMocka where it is not installed (tools/gpu_check): the few names that tests/cuda and tests/unit/kernel_oracle.h use, with CMocka's
 * meaning. Its folder is put before the system's by the build that wants it.
 *
 * A failed check leaves the test by longjmp, so its memory stays behind; the next test runs. MINI_CMOCKA_ONLY=a,b in the environment: only tests whose
 * name contains a or b. */
#ifndef SPILLWAY_TESTS_CUDA_MINI_CMOCKA_H
#define SPILLWAY_TESTS_CUDA_MINI_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*mini_test)(void **state);
typedef int (*mini_fixture)(void **state);
struct CMUnitTest {
    const char *name;
    mini_test run;
};
static jmp_buf mini_out;

__attribute__((format(printf, 3, 4), noreturn)) static void mini_fail(const char *file, int line, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    longjmp(mini_out, 1);
}

static inline void mini_equal(long long a, long long b, const char *what, const char *file, int line)
{
    if (a != b) mini_fail(file, line, "%s: %lld is not %lld", what, a, b);
}

#define fail_msg(...) mini_fail(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(x) ((x) ? (void)0 : mini_fail(__FILE__, __LINE__, "%s does not hold", #x))
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_int_equal(a, b) mini_equal((long long)(a), (long long)(b), #a, __FILE__, __LINE__)
#define print_message printf
#define cmocka_unit_test(f) {#f, f}
#define cmocka_run_group_tests(tests, setup, teardown) mini_run(tests, sizeof(tests) / sizeof *(tests), setup, teardown)

static inline int mini_run_one(const struct CMUnitTest *t, void **state)
{
    struct timespec a, b;
    timespec_get(&a, TIME_UTC);
    const int failed = setjmp(mini_out);
    if (!failed) t->run(state);
    timespec_get(&b, TIME_UTC);
    printf("%s %s (%.1f s)\n", failed ? "FAILED" : "ok    ", t->name, (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
    fflush(stdout);
    return failed;
}

/* only: words with commas between them, or NULL. */
static inline bool mini_wanted(const char *name, const char *only)
{
    char word[128];
    for (size_t n; only && *only; only += n + (only[n] == ',')) {
        n = strcspn(only, ",");
        snprintf(word, sizeof word, "%.*s", (int)n, only);
        if (strstr(name, word)) return true;
    }
    return !only;
}

static inline int mini_run_fixture(mini_fixture f, void **state)
{
    if (setjmp(mini_out)) return 1;
    return f ? f(state) : 0;
}

/* The number of failures, as CMocka. */
static inline int mini_run(const struct CMUnitTest *tests, size_t n, mini_fixture setup, mini_fixture teardown)
{
    const char *only = getenv("MINI_CMOCKA_ONLY");
    void *state = NULL;
    int failures = 0;
    if (mini_run_fixture(setup, &state)) return 1;
    for (size_t i = 0; i < n; i++)
        if (mini_wanted(tests[i].name, only)) failures += mini_run_one(&tests[i], &state);
    return failures + (mini_run_fixture(teardown, &state) != 0);
}

#endif
