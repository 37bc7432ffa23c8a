/* server/providers, requests: each case file is a request of OpenAI's chat form and what a host is sent of it (path, headers, body), or the
 * error that names its member. */
#include "tests/unit/wire_harness.h"

static json_t *parse(const struct case_file *c, const char *text, const char *what)
{
    json_t *v;
    struct err e;
    if (json_read(text, strlen(text), &json_limits_request, what, &v, &e)) fail_msg("%s: %s", c->name, e.msg);
    return v;
}

static int encode(const struct case_file *c, struct wire_request *r, struct err *e)
{
    struct provider_host h;
    char model[256], max[256], adaptive[256], *text = case_section(c, "request", true);
    assert_non_null(text);
    json_t *request = parse(c, text, "request"), *before = json_deep_copy(request);
    case_host(&h, c);
    struct wire_options o = {.model = case_setting(c, "model", model, "m"),
                             .max_tokens = atoi(case_setting(c, "max_tokens", max, "100")),
                             .adaptive_thinking = case_setting(c, "adaptive", adaptive, NULL) != NULL};
    int rc = wire_encode(&h, request, &o, r, e);
    assert_true(json_equal(request, before)); /* another host may get it next */
    json_decref(request);
    json_decref(before);
    provider_host_free(&h);
    free(text);
    return rc;
}

static void check_refused(const struct case_file *c, const char *want)
{
    struct wire_request r;
    struct err e = {0};
    char got[256];
    int rc = encode(c, &r, &e);
    if (rc == 0) fail_msg("%s: not refused: %s", c->name, r.body.data);
    snprintf(got, sizeof got, "%s %s", err_code_name(e.code), e.param);
    if (strcmp(got, want) != 0) fail_msg("%s: %s (%s), not %s", c->name, got, e.msg, want);
    assert_null(r.body.data);
}

static void check_headers(const struct case_file *c, const struct wire_request *r)
{
    char *want = case_section(c, "headers", false), got[WIRE_MAX_HEADERS * WIRE_MAX_HEADER_BYTES] = "";
    for (size_t i = 0; i < r->n_headers; i++) {
        strcat(got, r->headers[i]);
        strcat(got, "\n");
    }
    if (want) assert_string_equal(got, want);
    free(want);
}

static void check_case(const struct case_file *c)
{
    char *error = case_section(c, "error", true), *body = case_section(c, "body", true), *path = case_section(c, "path", true);
    struct wire_request r;
    struct err e = {0};
    if (error)
        check_refused(c, error);
    else {
        if (encode(c, &r, &e)) fail_msg("%s: %s (%s)", c->name, e.msg, e.param);
        json_t *got = parse(c, r.body.data, "body"), *want = parse(c, body, "wanted body");
        if (!json_equal(got, want)) fail_msg("%s: %s\n--- wanted\n%s", c->name, r.body.data, body);
        if (path) assert_string_equal(r.path, path);
        check_headers(c, &r);
        json_decref(got);
        json_decref(want);
        wire_request_free(&r);
    }
    free(error);
    free(body);
    free(path);
}

static void test_requests_become_what_the_host_wants(void **state)
{
    (void)state;
    case_each("encode", check_case);
}

/* A request with one parameter more, for the given row: 0 or -ERR_x. */
static int try_one(const struct provider *row, const char *name, json_t *value, json_t **body)
{
    static const char *const keys[] = {"test-key-0123456789"};
    struct provider_host h;
    struct provider_host_config config = {
        .provider = row->name, .region = "r", .resource = "r", .base_url = row->base_url ? NULL : "http://h/v1", .keys = keys, .n_keys = 1};
    struct wire_request r;
    struct wire_options o = {.model = "m", .max_tokens = 100};
    struct err e = {0};
    assert_int_equal(provider_host_init(&h, &config, &e), 0);
    json_t *request = json_pack("{s:[{s:s,s:s}],s:o}", "messages", "role", "user", "content", "x", name, value);
    int rc = wire_encode(&h, request, &o, &r, &e);
    *body = rc ? NULL : json_loadb(r.body.data, r.body.len, 0, NULL);
    if (rc == -ERR_UNSUPPORTED) assert_string_equal(e.param, name);
    if (!rc) wire_request_free(&r);
    json_decref(request);
    provider_host_free(&h);
    return rc;
}

/* Each row, each parameter that changes the answer: it is in the body or refused by name, never neither. The body must differ from that
 * of a request without it. */
static void test_nothing_that_changes_the_answer_is_dropped(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } rows[] = {{"temperature", "0.5"},
                {"top_p", "0.5"},
                {"top_k", "5"},
                {"min_p", "0.5"},
                {"repetition_penalty", "1.5"},
                {"seed", "5"},
                {"stop", "[\"a\"]"},
                {"n", "2"},
                {"logprobs", "true"},
                {"top_logprobs", "2"},
                {"logit_bias", "{\"1\":5}"},
                {"presence_penalty", "0.5"},
                {"frequency_penalty", "0.5"},
                {"min_tokens", "5"},
                {"ignore_eos", "true"},
                {"tools", "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"},
                {"response_format", "{\"type\":\"json_object\"}"},
                {"functions", "[{\"name\":\"f\"}]"},
                {"verbosity", "\"low\""},
                {"prediction", "{\"type\":\"content\",\"content\":\"x\"}"},
                {"modalities", "[\"audio\"]"},
                {"audio", "{\"voice\":\"x\"}"},
                {"web_search_options", "{}"},
                {"service_tier", "\"flex\""},
                {"chat_template_kwargs", "{\"a\":1}"},
                {"use_beam_search", "true"},
                {"no_such_parameter", "1"}};
    for (size_t p = 0; provider_at(p); p++) {
        json_t *plain, *body;
        assert_int_equal(try_one(provider_at(p), "user", json_null(), &plain), 0);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            int rc = try_one(provider_at(p), rows[i].name, json_loads(rows[i].value, JSON_DECODE_ANY, NULL), &body);
            if (rc == 0 && json_equal(body, plain)) fail_msg("%s: '%s' is dropped without a word", provider_at(p)->name, rows[i].name);
            if (rc != 0 && rc != -ERR_UNSUPPORTED) fail_msg("%s: '%s' gives %d", provider_at(p)->name, rows[i].name, rc);
            json_decref(body);
        }
        json_decref(plain);
    }
}

/* T07: nothing that a request says chooses the host, the key, a header or another model. */
static void test_t07_a_request_cannot_choose_where_it_goes(void **state)
{
    (void)state;
    static const char *const names[] = {"api_base",  "base_url",    "api_key",     "headers", "extra_headers", "extra_body",
                                        "fallbacks", "api_version", "extra_query", "models",  "route",         "custom_llm_provider"};
    for (size_t p = 0; provider_at(p); p++)
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            json_t *body;
            int rc = try_one(provider_at(p), names[i], json_string("http://evil.example\r\nx: y"), &body);
            if (rc != -ERR_UNSUPPORTED) fail_msg("%s takes '%s'", provider_at(p)->name, names[i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_become_what_the_host_wants),
        cmocka_unit_test(test_nothing_that_changes_the_answer_is_dropped),
        cmocka_unit_test(test_t07_a_request_cannot_choose_where_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
