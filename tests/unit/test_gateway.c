/* Gateway's table of endpoints against the checked-in one (tests/fault/routes.txt): each is in it with its access and its method; nothing
 * else is; none forgets to name who may call it. What a running server answers is tests/fault/test_keys_routes.py's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/str.h"
#include "server/api/endpoint.h"

static const char *const access_names[] = {
    [ACCESS_UNSTATED] = "unstated", [ACCESS_OPEN] = "open", [ACCESS_KEY] = "key", [ACCESS_ADMIN] = "admin"};

struct row {
    char path[64], access[16], method[16];
};
enum { MAX_ROWS = 256 };
static struct row rows[MAX_ROWS];
static size_t n_rows;

static int read_table(void **state)
{
    (void)state;
    FILE *f = fopen(SPILLWAY_TEST_DIR "/../fault/routes.txt", "r");
    if (!f) return -1;
    char line[256];
    while (fgets(line, sizeof line, f) && n_rows < MAX_ROWS) {
        struct row *r = &rows[n_rows];
        if (line[0] != '#' && sscanf(line, "%63s %15s %15s", r->path, r->access, r->method) == 3) n_rows++;
    }
    fclose(f);
    return n_rows > 0 && n_rows < MAX_ROWS ? 0 : -1;
}

static bool fits(const struct endpoint *ep, const struct row *r)
{
    bool path = str_ends_with(ep->path, "/") ? str_starts_with(r->path, ep->path) && strlen(r->path) > strlen(ep->path)
                                             : strcmp(r->path, ep->path) == 0;
    return path && strcmp(r->access, access_names[ep->access]) == 0;
}

static void test_t01_every_endpoint_is_in_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_gateway_endpoints; i++) {
        const struct endpoint *ep = gateway_endpoints[i];
        bool own = false, others = false;
        for (size_t j = 0; j < n_rows; j++) {
            if (!fits(ep, &rows[j])) continue;
            own |= strcmp(rows[j].method, ep->method) == 0;
            others |= strcmp(rows[j].method, "*") == 0;
        }
        if (!own || !others)
            fail_msg("%s %s (%s) lacks its rows in tests/fault/routes.txt", ep->method, ep->path, access_names[ep->access]);
    }
}

static void test_t01_the_table_has_no_other_route(void **state)
{
    (void)state;
    for (size_t j = 0; j < n_rows; j++) {
        bool known = false;
        for (size_t i = 0; i < n_gateway_endpoints; i++) known |= fits(gateway_endpoints[i], &rows[j]);
        bool none = strcmp(rows[j].access, "-") == 0;
        if (known == none) fail_msg("%s is %s route of access '%s'", rows[j].path, known ? "a" : "no", rows[j].access);
    }
}

static void test_every_endpoint_names_its_access(void **state)
{
    (void)state;
    assert_true(n_gateway_endpoints > 0);
    gateway_check_endpoints(gateway_endpoints, n_gateway_endpoints);
    for (size_t i = 0; i < n_gateway_endpoints; i++) assert_int_not_equal(gateway_endpoints[i]->access, ACCESS_UNSTATED);
}

static void no_handler(struct gateway *g, struct http_request *r)
{
    (void)g;
    (void)r;
}

static void test_an_endpoint_that_names_no_access_ends_the_program(void **state)
{
    (void)state;
    const struct endpoint forgotten = {.method = "GET", .path = "/v1/secrets", .handle = no_handler};
    const struct endpoint whole = {.method = "GET", .path = "/v1/secrets", .access = ACCESS_KEY, .handle = no_handler};
    const struct endpoint *list[] = {&whole, &forgotten};
    gateway_check_endpoints(list, 1);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        gateway_check_endpoints(list, 2);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* Two endpoints of one method and path would leave it to their order who may call. */
static void test_endpoints_are_distinct(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_gateway_endpoints; i++)
        for (size_t j = 0; j < i; j++)
            assert_false(strcmp(gateway_endpoints[i]->path, gateway_endpoints[j]->path) == 0 &&
                         strcmp(gateway_endpoints[i]->method, gateway_endpoints[j]->method) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t01_every_endpoint_is_in_the_table),
        cmocka_unit_test(test_t01_the_table_has_no_other_route),
        cmocka_unit_test(test_every_endpoint_names_its_access),
        cmocka_unit_test(test_an_endpoint_that_names_no_access_ends_the_program),
        cmocka_unit_test(test_endpoints_are_distinct),
    };
    return cmocka_run_group_tests(tests, read_table, NULL);
}
