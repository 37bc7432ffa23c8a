/* Where the program's own files are found: this program is copied into a folder of its own and says what it finds from there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "server/cli/data_path.h"

static char dir[] = "/tmp/spillway-data-XXXXXX";

static void shell(const char *format)
{
    char command[8192];
    snprintf(command, sizeof command, "cd %s && exec 2>&1; %s", dir, format);
    if (system(command)) fail_msg("%s", command);
}

/* What the copy finds, without `dir`. */
static const char *found(const char *what)
{
    static char line[8192];
    char command[256];
    snprintf(command, sizeof command, "%s/bin/t %s", dir, what);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    if (!fgets(line, sizeof line, f)) fail_msg("%s: says nothing", command);
    assert_int_equal(pclose(f), 0);
    line[strcspn(line, "\n")] = '\0';
    return strncmp(line, dir, strlen(dir)) ? line : line + strlen(dir);
}

static void test_files_beside_the_program_go_first(void **state)
{
    (void)state;
    assert_string_equal(found("prices"), SPILLWAY_SOURCE_ROOT "/server/providers/prices.json");
    assert_string_equal(found("demo"), SPILLWAY_SOURCE_ROOT "/weights/demo/model");
    shell("mkdir -p server/providers weights/demo/model && echo >server/providers/prices.json");
    assert_string_equal(found("prices"), "/server/providers/prices.json");
    assert_string_equal(found("demo"), SPILLWAY_SOURCE_ROOT "/weights/demo/model"); /* an empty folder is no model */
    shell("mkdir -p share/spillway/demo && echo >share/spillway/prices.json && echo >share/spillway/demo/config.json");
    assert_string_equal(found("prices"), "/share/spillway/prices.json");
    assert_string_equal(found("demo"), "/share/spillway/demo");
    shell("rm share/spillway/prices.json && mkdir share/spillway/prices.json"); /* a folder is no price book */
    assert_string_equal(found("prices"), "/server/providers/prices.json");
}

static void test_what_does_not_fit_or_is_nowhere_is_an_error(void **state)
{
    (void)state;
    struct err e;
    char path[4096];
    assert_int_equal(data_path_find(&data_prices, path, 8, &e), -ERR_LIMIT);
    const struct data_place none = {"x: the thing", "/../no/such", "/../no/such", "/no/such", ""};
    assert_int_equal(data_path_find(&none, path, sizeof path, &e), -ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "x: the thing is neither beside "));
}

static int copy_self(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    char command[8192], exe[4096];
    if (!realpath("/proc/self/exe", exe)) return -1;
    snprintf(command, sizeof command, "mkdir %s/bin && cp '%s' %s/bin/t", dir, exe, dir);
    return system(command);
}

static int remove_copy(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        char path[4096];
        struct err e;
        int rc = data_path_find(strcmp(argv[1], "demo") ? &data_prices : &data_demo, path, sizeof path, &e);
        puts(rc ? e.msg : path);
        return rc != 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_beside_the_program_go_first),
        cmocka_unit_test(test_what_does_not_fit_or_is_nowhere_is_an_error),
    };
    return cmocka_run_group_tests(tests, copy_self, remove_copy);
}
