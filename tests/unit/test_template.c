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

/* As jinja2 3.1: a macro made in one pass of a loop sees the variables of the pass in which it is called; each pass begins without any. */
static void test_loop_variables_are_those_of_the_pass(void **state)
{
    (void)state;
    static const struct {
        const char *source, *text;
    } loops[] = {{"{% set ns = namespace(m=none) %}{% for i in [1,2,3] %}{% set k = i*2 %}{% macro m() %}{{ k }}{% endmacro %}"
                  "{% if i == 1 %}{% set ns.m = m %}{% endif %}{{ ns.m() }}{% endfor %}",
                  "246"},
                 {"{% for i in [1,2,3] %}{% if i == 1 %}{% set k = 5 %}{% endif %}{{ k }},{% endfor %}", "5,,,"}};
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        json_t *want = json_pack("{s:s}", "text", loops[i].text);
        assert_int_equal(check("loop", want, loops[i].source, strlen(loops[i].source), NULL, NULL, (struct tm){0}), 0);
        json_decref(want);
    }
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

/* --- T43: whatever a template does is stopped by fuel, depth, output or memory, in bounded time --- */
static const struct {
    const char *what, *source;
} bombs[] = {
    {"nested ranges",
     "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"},
    {"a macro that calls itself", "{% macro m(a) %}{{ m(a) }}{{ m(a) }}{% endmacro %}{{ m(1) }}"},
    {"macros that call each other", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}"},
    {"a recursive loop", "{% for x in [messages] recursive %}{{ loop([x]) }}{% endfor %}"},
    {"a string times a number", "{{ 'x' * 1000000000 }}"},
    {"a string doubled", "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s * 2 %}{% endfor %}{{ n.s }}"},
    {"strings made and dropped", "{% set s = 'x' * 60000 %}{% for i in range(99999) %}{% set t = s + 'y' %}{% endfor %}"},
    {"a list times a number", "{{ [1] * 1000000000 }}"},
    {"a list that holds itself twice, compared", "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% "
                                                 "set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"},
    {"the same, printed", "{% set n = namespace(a=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}"},
    {"the same, as JSON", "{% set n = namespace(a=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a|tojson }}"},
    {"a deep list, ordered",
     "{% set n = namespace(a=[], b=[]) %}{% for i in range(90000) %}{% set n.a = [n.a] %}{% set n.b = [n.b] %}{% endfor %}{{ n.a < n.b }}"},
    {"long text searched in a loop", "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% if 'ab' in s %}{% endif %}{% endfor %}"},
    {"long text searched from its end",
     "{% set s = 'a' * 60000 %}{% set w = 'b' + 'a' * 30000 %}{% for i in range(999) %}{% set x = s.rfind(w) %}{% endfor %}"},
    {"long text measured in a loop", "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% if s|length == 7 %}{% endif %}{% endfor %}"},
    {"long text indexed in a loop", "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% if s[59999] == 'b' %}{% endif %}{% endfor %}"},
    {"long text in another case", "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% set t = s|upper %}{% endfor %}"},
    {"long text formatted", "{% set s = '%%' * 30000 %}{% for i in range(99999) %}{% set t = s % () %}{% endfor %}"},
    {"long text split", "{% set s = ' a' * 30000 %}{% for i in range(9999) %}{% set t = s.split() %}{% endfor %}"},
    {"long text replaced", "{% set s = 'a' * 30000 %}{% for i in range(9999) %}{% set t = s|replace('a', 'b') %}{% endfor %}"},
    {"blanks stripped", "{% set s = ' ' * 60000 %}{% for i in range(99999) %}{% set t = s|trim %}{% endfor %}"},
    {"a test of every character",
     "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% if s.isdigit() or s.isalpha() %}{% endif %}{% endfor %}"},
    {"JSON of long text", "{% set s = 'a' * 50000 %}{% for i in range(9999) %}{% set t = s|tojson %}{% endfor %}"},
    {"a list sorted", "{% for i in range(99) %}{% set t = range(99999)|reverse|sort %}{% endfor %}"},
    {"a list made unique", "{% set t = range(99999)|list|unique %}"},
    {"a list searched", "{% set l = range(99999)|list %}{% for i in l %}{% if 'x' in l %}{% endif %}{% endfor %}"},
    {"lists summed", "{% set t = [[1]] * 50000 %}{{ t|sum(start=[])|length }}"},
    {"walks over attributes", "{% for i in range(99999) %}{{ messages.a.__class__ }}{{ ''.__class__.__mro__ }}{% endfor %}"},
    {"indented far", "{{ 'a\nb'|indent(1000000000) }}"},
    {"centred far", "{{ 'a'|center(1000000000) }}"},
    {"zeroes", "{{ 'a'.zfill(1000000000) }}"},
    {"a power", "{{ 2 ** 1000000000 }}{{ 1 ** 9223372036854775807 }}"},
};

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 20 };
#else
enum { SLOWER = 1 };
#endif

/* Stated: 50 ms each; ten times that where machines are busy, the stated figure in the long form. */
static void t43_bombs_are_stopped_in_time(void **state)
{
    (void)state;
    const char *fault = getenv("SPILLWAY_FAULT");
    double limit_ms = fault && strcmp(fault, "long") == 0 ? 50 : 500, worst = 0;
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        struct arena a;
        struct marked_text got;
        struct err e;
        arena_init(&a, 256u << 20);
        json_t *request = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "hi");
        double start = cpu_ms();
        int rc = render(bombs[i].source, strlen(bombs[i].source), request, NULL, (struct tm){0}, NULL, &a, &got, &e);
        double took = cpu_ms() - start;
        if (took > worst) worst = took;
        if (took > limit_ms * SLOWER) fail_msg("%s: %.1f ms", bombs[i].what, took);
        if (rc != -ERR_LIMIT && rc != -ERR_INPUT && rc != -ERR_UNSUPPORTED) fail_msg("%s: not stopped, %d", bombs[i].what, rc);
        json_decref(request);
        arena_free(&a);
    }
    print_message("slowest: %.1f ms of CPU time\n", worst);
}

/* The source's own nesting: refused when it is compiled, or when it runs; never by the stack. */
static void t43_deep_sources_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *what, *begin, *open, *middle, *close, *end;
    } shapes[] = {{"if", "", "{% if 1 %}", "x", "{% endif %}", ""},
                  {"elif", "{% if none %}", "{% elif none %}", "", "", "{% endif %}"},
                  {"for", "", "{% for i in [1] %}", "x", "{% endfor %}", ""},
                  {"parentheses", "{{ ", "(", "1", ")", " }}"},
                  {"lists", "{{ ", "[", "1", "]", " }}"},
                  {"not", "{{ ", "not ", "1", "", " }}"},
                  {"minus", "{{ ", "-", "1", "", " }}"},
                  {"if else", "{{ ", "1 if 0 else ", "1", "", " }}"},
                  {"attributes", "{{ messages", ".a", "", "", " }}"},
                  {"items", "{{ messages", "[0]", "", "", " }}"},
                  {"calls", "{{ messages", "()", "", "", " }}"},
                  {"filters", "{{ 'a'", "|upper", "", "", " }}"},
                  {"filters of a block", "{% filter upper", "|upper", "", "", " %}a{% endfilter %}"},
                  {"filters of a set block", "{% set a ", "|upper", "", "", " %}a{% endset %}{{ a }}"},
                  {"map of map", "{{ [1]|map(", "'map', ", "'list'", "", ") }}"},
                  {"sums", "{{ 1", " + 1", "", "", " }}"},
                  {"and", "{{ 1", " and 1", "", "", " }}"},
                  {"macros", "", "{% macro m() %}", "x", "{% endmacro %}", ""}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        buf_puts(&b, shapes[i].begin);
        for (size_t k = 0; b.len < 500000; k++) buf_puts(&b, shapes[i].open);
        size_t n = b.len / strlen(shapes[i].open);
        buf_puts(&b, shapes[i].middle);
        for (size_t k = 0; k < n && b.len < 1000000; k++) buf_puts(&b, shapes[i].close);
        buf_puts(&b, shapes[i].end);
        struct arena a;
        struct marked_text got;
        struct err e;
        arena_init(&a, 256u << 20);
        json_t *request = json_pack("{s:[]}", "messages");
        int rc = render(b.data, b.len, request, NULL, (struct tm){0}, NULL, &a, &got, &e);
        if (rc >= 0) fail_msg("%s: accepted", shapes[i].what);
        json_decref(request);
        arena_free(&a);
        buf_free(&b);
    }
}

static void t43_a_template_that_is_no_utf8_is_refused(void **state)
{
    (void)state;
    expect_code("{{ '\xff\xfe' }}\xc3", -ERR_INPUT, "UTF-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_renderings),
        cmocka_unit_test(test_golden_probes),
        cmocka_unit_test(test_loop_variables_are_those_of_the_pass),
        cmocka_unit_test(test_every_byte_keeps_its_provenance),
        cmocka_unit_test(test_printed_containers_are_the_requests),
        cmocka_unit_test(test_hostile_templates_are_stopped),
        cmocka_unit_test(test_faults_name_line_and_feature),
        cmocka_unit_test(test_damaged_templates_do_no_harm),
        cmocka_unit_test(t43_bombs_are_stopped_in_time),
        cmocka_unit_test(t43_deep_sources_are_refused),
        cmocka_unit_test(t43_a_template_that_is_no_utf8_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
