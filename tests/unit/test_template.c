/* Chat templates against jinja2: every golden rendering and probe byte for byte, provenance, limits, and damage. */
#include <stdlib.h>
#include <time.h>

#include "tests/unit/golden.h"

#include "base/str.h"
#include "engine/text/template.h"

/* One golden holds an integer beyond int64, which requests cannot: one digit is taken from it in the input and in what is expected. */
static json_t *load_json(const char *name)
{
    struct buf b;
    json_error_t e;
    golden_file(&b, name);
    static const char big[] = "12345678901234567890";
    for (char *p; (p = strstr(b.data, big)) != NULL;) {
        size_t at = (size_t)(p - b.data) + sizeof big - 2;
        memmove(b.data + at, b.data + at + 1, b.len - at);
        b.len--;
    }
    json_t *v = json_loadb(b.data, b.len, JSON_ALLOW_NUL, &e);
    if (!v) fail_msg("%s: %s", name, e.text);
    buf_free(&b);
    return v;
}

static struct tm clock_of(const json_t *all)
{
    struct tm t = {0};
    assert_non_null(strptime(json_string_value(json_object_get(all, "now_local")), "%Y-%m-%dT%H:%M:%S", &t));
    return t;
}

/* Renders; 0 and *out in the arena, or a negative code. */
static int render(const char *source, size_t n, const json_t *request, const json_t *model, struct tm now, const struct template_limits *l,
                  struct arena *a, struct marked_text *out, struct err *e)
{
    struct template *t;
    *e = (struct err){0};
    int rc = template_compile(&t, source, n, e);
    if (rc) return rc;
    struct template_input in = {.request = request, .model = model, .now = now, .limits = l};
    rc = template_render(t, &in, a, out, e);
    template_free(t);
    return rc;
}

/* Compares with {"text": ...} or {"error": ...}; returns 1 for a difference, told. */
static int check(const char *what, const json_t *want, const char *source, size_t n, const json_t *request, const json_t *model,
                 struct tm now)
{
    struct arena a;
    struct marked_text got = {0};
    struct err e;
    arena_init(&a, 64 << 20);
    int rc = render(source, n, request, model, now, NULL, &a, &got, &e), differs = 0;
    const json_t *text = json_object_get(want, "text");
    if (!text) {
        differs = rc == 0;
        if (differs) print_message("%s: rendered '%s', expected %s\n", what, got.text, json_string_value(json_object_get(want, "error")));
    } else if (rc || got.n != json_string_length(text) || memcmp(got.text, json_string_value(text), got.n)) {
        print_message("%s: %s\n  expected '%s'\n", what, rc ? e.msg : got.text, json_string_value(text));
        differs = 1;
    }
    arena_free(&a);
    return differs;
}

static void test_golden_renderings(void **state)
{
    (void)state;
    json_t *all = load_json("templates/cases.json"), *cases = json_object_get(all, "cases");
    int differ = 0;
    size_t n = json_array_size(cases);
    assert_true(n > 100);
    for (size_t i = 0; i < n; i++) {
        const json_t *c = json_array_get(cases, i);
        char file[256], what[256];
        snprintf(file, sizeof file, "templates/%s.jinja", json_string_value(json_object_get(c, "template")));
        snprintf(what, sizeof what, "%s/%s", json_string_value(json_object_get(c, "template")),
                 json_string_value(json_object_get(c, "conv")));
        struct buf source;
        golden_file(&source, file);
        json_t *request = json_pack("{s:O,s:O}", "messages", json_object_get(c, "messages"), "tools", json_object_get(c, "tools")),
               *model = json_pack("{s:O}", "add_generation_prompt", json_object_get(c, "add_generation_prompt"));
        json_object_update(request, json_object_get(c, "kwargs"));
        differ += check(what, json_object_get(c, "expect"), source.data, source.len, request, model, clock_of(all));
        json_decref(request);
        json_decref(model);
        buf_free(&source);
    }
    print_message("%zu renderings, %d differ\n", n, differ);
    assert_int_equal(differ, 0);
    json_decref(all);
}

static void test_golden_probes(void **state)
{
    (void)state;
    json_t *all = load_json("templates/probes.json"), *probes = json_object_get(all, "probes");
    int differ = 0;
    assert_true(json_array_size(probes) > 100);
    for (size_t i = 0; i < json_array_size(probes); i++) {
        const json_t *c = json_array_get(probes, i), *source = json_object_get(c, "template");
        differ += check(json_string_value(json_object_get(c, "name")), c, json_string_value(source), json_string_length(source),
                        json_object_get(c, "context"), NULL, clock_of(all));
    }
    print_message("%zu probes, %d differ\n", json_array_size(probes), differ);
    assert_int_equal(differ, 0);
    json_decref(all);
}

/* --- provenance --- */
/* The request holds strings of capital X only; templates hold none: so a byte is the request's exactly if it is an X (or printed around one). */
static void test_every_byte_keeps_its_provenance(void **state)
{
    (void)state;
    static const char *const sources[] = {"{{ s }}-{{ s|upper }}{{ s[1:] }}{{ s ~ '.' }}{{ 'a' + s + 'b' }}",
                                          "{{ s|replace('XX', 'yXy'|replace('X', '')) }}|{{ 'a,b'|replace(',', s) }}",
                                          "{{ [s, 'q']|join('-') }}{{ s.split('X')|length }}",
                                          "{{ s.strip() }}{{ s|trim }}{{ s[::-1] }}{{ s|first }}{{ s|last }}",
                                          "{{ '{}:{}'.format(s, 'a') }}{{ '%s!' % s }}",
                                          "{% set x %}<{{ s }}>{% endset %}{{ x }}{{ x|length }}",
                                          "{% for c in s %}{{ c }},{% endfor %}",
                                          "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(s) }}{{ m('q') }}",
                                          "{{ m[0].content }}{{ m[0]['content']|indent }}",
                                          "{{ s.title() }}{{ s|capitalize }}{{ s * 2 }}",
                                          "{{ s if s else 'q' }}{{ s == 'q' }}{{ s is string }}"};
    json_error_t je;
    json_t *request = json_loads("{\"s\":\"XXXX\",\"m\":[{\"content\":\"XX\"}]}", 0, &je);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct arena a;
        struct marked_text got;
        struct err e;
        arena_init(&a, 1 << 20);
        if (render(sources[i], strlen(sources[i]), request, NULL, (struct tm){0}, NULL, &a, &got, &e))
            fail_msg("%s: %s", sources[i], e.msg);
        size_t from_request = 0;
        for (size_t k = 0; k < got.n; k++) {
            bool x = got.text[k] == 'X' || (got.text[k] == 'x' && strstr(sources[i], "title")); /* lower-cased ones keep their mark */
            if ((got.marks[k] == MARK_REQUEST) != x) fail_msg("%s: byte %zu of '%s' is marked %d", sources[i], k, got.text, got.marks[k]);
            from_request += x;
        }
        assert_true(from_request > 0);
        arena_free(&a);
    }
    json_decref(request);
}

/* What is printed of a container of the request is the request's as a whole, punctuation included. */
static void test_printed_containers_are_the_requests(void **state)
{
    (void)state;
    json_error_t je;
    json_t *request = json_loads("{\"d\":{\"a\":[1,\"<|im_end|>\",null,true,1.5]}}", 0, &je);
    static const char *const sources[] = {"{{ d }}",      "{{ d|tojson }}", "{{ d|string }}", "{{ d|tojson(indent=2) }}",
                                          "{{ d.a[0] }}", "{{ d.a[4] }}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct arena a;
        struct marked_text got;
        struct err e;
        arena_init(&a, 1 << 20);
        if (render(sources[i], strlen(sources[i]), request, NULL, (struct tm){0}, NULL, &a, &got, &e)) fail_msg("%s", e.msg);
        assert_true(got.n > 0);
        for (size_t k = 0; k < got.n; k++) assert_int_equal(got.marks[k], MARK_REQUEST);
        arena_free(&a);
    }
    json_decref(request);
}

/* --- limits --- */
static void expect_code(const char *source, int code, const char *says)
{
    struct arena a;
    struct marked_text got;
    struct err e;
    arena_init(&a, 64 << 20);
    json_t *request = json_object();
    int rc = render(source, strlen(source), request, NULL, (struct tm){0}, NULL, &a, &got, &e);
    if (rc != code || !strstr(e.msg, says)) fail_msg("'%.60s': %d '%s', expected %d '%s'", source, rc, rc ? e.msg : got.text, code, says);
    json_decref(request);
    arena_free(&a);
}

static void test_hostile_templates_are_stopped(void **state)
{
    (void)state;
    expect_code("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", -ERR_LIMIT, "takes too");
    expect_code("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", -ERR_LIMIT, "nested");
    expect_code("{{ 'x' * 1000000000 }}", -ERR_LIMIT, "large");
    expect_code("{{ ['x'] * 1000000000 }}", -ERR_LIMIT, "large");
    expect_code("{{ range(1000000000) }}", -ERR_LIMIT, "range");
    expect_code("{% for a in range(9000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}", -ERR_LIMIT, "output");
    expect_code("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", -ERR_LIMIT, "");
    char deep[4000];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{{ ", 3);
    memset(deep + 2000, ']', 1997);
    memcpy(deep + 3997, "}}", 3);
    expect_code(deep, -ERR_LIMIT, "nested");
    size_t n = 0;
    for (int i = 0; i < 200; i++) n += (size_t)sprintf(deep + n, "{%% if 1 %%}");
    expect_code(deep, -ERR_LIMIT, "nested");
}

static void test_faults_name_line_and_feature(void **state)
{
    (void)state;
    expect_code("a\nb\n{{ x|nope }}", -ERR_UNSUPPORTED, "line 3: filter is not supported: 'nope'");
    expect_code("{% include 'x' %}", -ERR_UNSUPPORTED, "'include'");
    expect_code("\n{% if x is nope %}{% endif %}", -ERR_UNSUPPORTED, "line 2: test is not supported: 'nope'");
    expect_code("{{ raise_exception('no such role') }}", -ERR_INPUT, "no such role");
    expect_code("{% if 1 %}", -ERR_INPUT, "endif");
    expect_code("{{ 'abc }}", -ERR_INPUT, "string is not closed");
    expect_code("\n\n{{ x.y }}", -ERR_INPUT, "line 3: 'x' is undefined");
}

static uint32_t next_random(uint32_t *s)
{
    return (*s = *s * 1664525 + 1013904223) >> 8;
}

/* Templates with bytes changed, dropped and doubled: an error or a text, never a crash. */
static void test_damaged_templates_do_no_harm(void **state)
{
    (void)state;
    json_t *all = load_json("templates/probes.json"), *probes = json_object_get(all, "probes");
    uint32_t seed = 3;
    static const char bits[] = "{}%#|.,:()[]'\"-+~*/ \nifor0x=<>_";
    for (int round = 0; round < 6000; round++) {
        const json_t *c = json_array_get(probes, next_random(&seed) % json_array_size(probes)), *source = json_object_get(c, "template");
        char text[4096];
        size_t n = json_string_length(source) < 4000 ? json_string_length(source) : 4000;
        memcpy(text, json_string_value(source), n);
        for (uint32_t k = 1 + next_random(&seed) % 3; k > 0 && n > 0; k--) {
            size_t at = next_random(&seed) % n;
            if (next_random(&seed) % 3)
                text[at] = bits[next_random(&seed) % (sizeof bits - 1)];
            else
                memmove(text + at, text + at + 1, --n - at);
        }
        if (!utf8_valid(text, n)) continue;
        struct arena a;
        struct marked_text got;
        struct err e;
        arena_init(&a, 16 << 20);
        static const struct template_limits limits = {.fuel = 20000, .depth = 64};
        if (render(text, n, json_object_get(c, "context"), NULL, clock_of(all), &limits, &a, &got, &e) == 0)
            assert_true(utf8_valid(got.text, got.n));
        arena_free(&a);
    }
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_renderings),
        cmocka_unit_test(test_golden_probes),
        cmocka_unit_test(test_every_byte_keeps_its_provenance),
        cmocka_unit_test(test_printed_containers_are_the_requests),
        cmocka_unit_test(test_hostile_templates_are_stopped),
        cmocka_unit_test(test_faults_name_line_and_feature),
        cmocka_unit_test(test_damaged_templates_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
