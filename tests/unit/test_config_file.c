/* The configuration file's reader, with a table of its own: values and places, every prefix of a file, and damage that must be told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/config_file.h"

static const struct config_key inner[] = {{.name = "a", .kind = CONFIG_TEXT}, {.name = "b", .kind = CONFIG_TEXT}};
static const struct config_key keys[] = {{.name = "text", .kind = CONFIG_TEXT},
                                         {.name = "texts", .kind = CONFIG_TEXTS},
                                         {.name = "group", .kind = CONFIG_GROUP, .keys = inner, .n_keys = 2},
                                         {.name = "groups", .kind = CONFIG_GROUPS, .keys = inner, .n_keys = 2}};
enum { N_KEYS = sizeof keys / sizeof *keys };

static const char whole[] = "text: 'one'\n"
                            "texts: [two, \"three\"]\n"
                            "group:\n"
                            "  b: four\n"
                            "groups:\n"
                            "  - {a: five}\n"
                            "  - b: six\n"
                            "    a: seven\n";

struct seen {
    char text[2048];
};

static void see(void *ctx, const struct config_value *v)
{
    struct seen *s = ctx;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof s->text - n, "%s%s%s %zu %s %u:%u\n", v->group ? v->group->name : "", v->group ? "." : "", v->key->name,
             v->i_group, v->text, v->line, v->column);
}

static int read_all(const char *text, size_t n, struct seen *seen, struct config_faults *faults)
{
    struct config_file *c;
    char *copy = malloc(n ? n : 1); /* an address sanitizer sees a read beyond it */
    memcpy(copy, text, n);
    *faults = (struct config_faults){.n = 0};
    int rc = config_file_read(&c, copy, n, keys, N_KEYS, faults);
    free(copy);
    seen->text[0] = '\0';
    if (c) config_file_each(c, see, seen);
    config_file_free(c);
    return rc;
}

static void test_values_come_with_their_places(void **state)
{
    (void)state;
    struct seen seen;
    struct config_faults faults;
    assert_int_equal(read_all(whole, strlen(whole), &seen, &faults), 0);
    assert_string_equal(seen.text, "text 0 one 1:7\n"
                                   "texts 0 two 2:9\n"
                                   "texts 0 three 2:14\n"
                                   "group.b 0 four 4:6\n"
                                   "groups.a 0 five 6:9\n"
                                   "groups.a 1 seven 8:8\n"
                                   "groups.b 1 six 7:8\n");
}

static void test_every_prefix_is_read_or_refused_with_a_fault(void **state)
{
    (void)state;
    struct seen seen;
    struct config_faults faults;
    int refused = 0;
    for (size_t n = 0; n < strlen(whole); n++) {
        int rc = read_all(whole, n, &seen, &faults);
        assert_true(rc == 0 || rc == -ERR_INPUT);
        assert_int_equal(rc == 0, faults.n == 0);
        refused += rc != 0;
    }
    assert_true(refused > 10);
}

/* Any byte of the file replaced by any other: an answer, and a fault for each refusal. */
static void test_every_changed_byte_is_read_or_refused_with_a_fault(void **state)
{
    (void)state;
    struct seen seen;
    struct config_faults faults;
    char text[sizeof whole];
    for (size_t i = 0; i < strlen(whole); i++)
        for (int b = 0; b < 256; b += i % 3 + 1) {
            memcpy(text, whole, sizeof whole);
            text[i] = (char)b;
            int rc = read_all(text, strlen(whole), &seen, &faults);
            assert_int_equal(rc == 0, faults.n == 0);
        }
}

static void test_other_values_are_loaded_beside_an_unknown_key(void **state)
{
    (void)state;
    struct seen seen;
    struct config_faults faults;
    const char *text = "nope: {x: [1, {y: 2}]}\ntext: one\n";
    assert_int_equal(read_all(text, strlen(text), &seen, &faults), -ERR_INPUT);
    assert_string_equal(seen.text, "text 0 one 2:7\n");
    assert_string_equal(faults.rows[0].text, "nope: unknown key");
}

static void test_faults_are_sorted_and_counted(void **state)
{
    (void)state;
    struct config_faults f = {.n = 0};
    char line[400];
    config_fault_add(&f, 9, 1, "last");
    config_fault_add(&f, 2, 7, "b");
    config_fault_add(&f, 2, 3, "a");
    config_fault_add(&f, 0, 0, "whole");
    config_faults_sort(&f);
    assert_string_equal(config_fault_print(&f, 0, "f", line, sizeof line), "f: whole");
    assert_string_equal(config_fault_print(&f, 1, "f", line, sizeof line), "f:2:3: a");
    assert_string_equal(config_fault_print(&f, 3, "f", line, sizeof line), "f:9:1: last");
    for (int i = 0; i < 30; i++) config_fault_add(&f, 1, 1, "x");
    assert_int_equal(f.n, CONFIG_MAX_FAULTS);
    assert_int_equal(f.more, 34 - CONFIG_MAX_FAULTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_come_with_their_places),
        cmocka_unit_test(test_every_prefix_is_read_or_refused_with_a_fault),
        cmocka_unit_test(test_every_changed_byte_is_read_or_refused_with_a_fault),
        cmocka_unit_test(test_other_values_are_loaded_beside_an_unknown_key),
        cmocka_unit_test(test_faults_are_sorted_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
