/* Chat parameters: for every numeric member of the table, values just outside its range, of wrong types and at its
 * edges (T12); the rest by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/api/chat_params.h"

static const struct prompt_info model = {.vocab = 1000, .defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
static struct chat_params params;
static struct err err;
static struct arena arena;

static int read_text(const char *text)
{
    json_t *v;
    memset(&err, 0, sizeof err);
    arena_free(&arena);
    arena_init(&arena, 1 << 20);
    if (json_read(text, strlen(text), &json_limits_request, "request body", &v, &err)) fail_msg("%s: %s", text, err.msg);
    int rc = chat_params_read(&params, v, &model, &arena, &err);
    json_decref(v);
    return rc;
}

static int read_member(const char *name, const char *value)
{
    char text[1200];
    const char *extra = strcmp(name, "top_logprobs") == 0 ? ",\"logprobs\":true" : "";
    snprintf(text, sizeof text, "{\"%s\":%s%s}", name, value, extra);
    return read_text(text);
}

static void refused(const char *name, const char *value, enum err_code code)
{
    int rc = read_member(name, value);
    if (rc != -(int)code) fail_msg("%s = %s gave %d (%s)", name, value, rc, err.msg);
    assert_string_equal(err.param, name);
    assert_non_null(strstr(err.msg, name));
}

static void taken(const char *name, const char *value)
{
    if (read_member(name, value)) fail_msg("%s = %s: %s", name, value, err.msg);
}

static void test_chat_params_check_every_number(void **state)
{
    (void)state;
    struct chat_number numbers[64];
    size_t n = chat_params_numbers(numbers, 64);
    assert_in_range(n, 10, 64);
    for (size_t i = 0; i < n; i++) {
        const struct chat_number *f = &numbers[i];
        char value[64];
        const char *bad_types[] = {"\"1\"", "null", "[]", "{}", "true", "[1]"};
        for (size_t j = 0; j < sizeof bad_types / sizeof *bad_types; j++) refused(f->name, bad_types[j], ERR_INPUT);
        if (f->max > 9e18) continue; /* seed: every integer that JSON may hold here */
        double step = f->whole ? 1 : 0.001;
        snprintf(value, sizeof value, f->whole ? "%.0f" : "%.6f", f->max + step);
        refused(f->name, value, ERR_INPUT);
        snprintf(value, sizeof value, f->whole ? "%.0f" : "%.6f", f->min - step);
        refused(f->name, value, ERR_INPUT);
        refused(f->name, "2147483648", ERR_INPUT);
        refused(f->name, "9223372036854775807", ERR_INPUT);
        refused(f->name, "-9223372036854775808", ERR_INPUT);
        refused(f->name, "1e300", ERR_INPUT);
        if (f->whole) refused(f->name, "1.5", ERR_INPUT);
        snprintf(value, sizeof value, f->whole ? "%.0f" : "%.6f", f->max);
        if (strcmp(f->name, "min_tokens") != 0) taken(f->name, value);
        snprintf(value, sizeof value, f->whole ? "%.0f" : "%.6f", f->min);
        taken(f->name, value);
    }
}

static void test_chat_params_values_arrive(void **state)
{
    (void)state;
    assert_int_equal(read_text("{\"temperature\":0.5,\"top_p\":0.25,\"top_k\":7,\"min_p\":0.125,\"n\":3,\"seed\":-5,\"max_tokens\":"
                               "9,\"stop\":[\"a\",\"bc\"],"
                               "\"logit_bias\":{\"3\":-100,\"999\":1.5},\"logprobs\":true,\"top_logprobs\":4,\"stream\":true,"
                               "\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true,\"min_tokens\":2,\"repetition_"
                               "penalty\":1.5,"
                               "\"frequency_penalty\":-2,\"presence_penalty\":2,\"chat_template_kwargs\":{\"x\":1},\"user\":\"u\"}"),
                     0);
    assert_true(params.temperature == 0.5 && params.top_p == 0.25 && params.min_p == 0.125 && params.repetition_penalty == 1.5);
    assert_true(params.frequency_penalty == -2 && params.presence_penalty == 2);
    assert_true(params.top_k == 7 && params.n == 3 && params.has_seed && params.seed == -5 && params.max_tokens == 9 &&
                params.min_tokens == 2);
    assert_true(params.logprobs && params.top_logprobs == 4 && params.stream && params.include_usage && params.ignore_eos);
    assert_int_equal(params.n_stops, 2);
    assert_int_equal(params.stops[1].n, 2);
    assert_int_equal(params.n_bias, 2);
    assert_int_equal(params.bias[1].token, 999);
    assert_true(params.bias[1].bias == 1.5f);
    assert_non_null(params.kwargs);
}

static void test_chat_params_defaults_are_the_models(void **state)
{
    (void)state;
    struct prompt_info own = model;
    own.defaults = (struct prompt_defaults){.temperature = 0.25f, .top_p = 0.5f, .top_k = 20, .repetition_penalty = 1.25f};
    json_t *v = json_object();
    assert_int_equal(chat_params_read(&params, v, &own, &arena, &err), 0);
    json_decref(v);
    assert_true(params.temperature == 0.25 && params.top_p == 0.5 && params.top_k == 20 && params.repetition_penalty == 1.25 &&
                params.n == 1);
    assert_false(params.has_seed);
}

static void test_chat_params_refuse_by_name(void **state)
{
    (void)state;
    refused("tools", "[{\"type\":\"function\"}]", ERR_UNSUPPORTED);
    refused("tool_choice", "\"required\"", ERR_UNSUPPORTED);
    refused("response_format", "{\"type\":\"json_object\"}", ERR_UNSUPPORTED);
    refused("modalities", "[\"text\",\"audio\"]", ERR_UNSUPPORTED);
    refused("audio", "{}", ERR_UNSUPPORTED);
    refused("prediction", "{}", ERR_UNSUPPORTED);
    refused("reasoning_effort", "\"low\"", ERR_UNSUPPORTED);
    refused("web_search_options", "{}", ERR_UNSUPPORTED);
    refused("functions", "[{}]", ERR_UNSUPPORTED);
    refused("temprature", "1", ERR_UNSUPPORTED);
}

static void test_chat_params_pass_what_asks_for_nothing(void **state)
{
    (void)state;
    taken("tools", "[]");
    taken("tools", "null");
    taken("tool_choice", "\"auto\"");
    taken("response_format", "{\"type\":\"text\"}");
    taken("modalities", "[\"text\"]");
    taken("store", "false");
    taken("metadata", "{\"a\":\"b\"}");
    taken("stop", "null");
    taken("stream", "false");
    taken("prompt_cache_key", "\"k\"");
}

/* {"kkk": "vvv"} of so many characters. */
static int read_tag(const char *c, int n_key, int n_value)
{
    char text[4096] = "{\"metadata\":{\"";
    for (int i = 0; i < n_key; i++) strcat(text, c);
    strcat(text, "\":\"");
    for (int i = 0; i < n_value; i++) strcat(text, c);
    strcat(text, "\"}}");
    return read_text(text);
}

static void test_chat_params_take_metadata_of_16_strings(void **state)
{
    (void)state;
    char text[1024] = "{";
    for (int i = 0; i < 16; i++) sprintf(text + strlen(text), "%s\"k%d\":\"v\"", i ? "," : "", i);
    strcat(text, "}");
    taken("metadata", text);
    assert_non_null(params.metadata);
    sprintf(text + strlen(text) - 1, ",\"more\":\"v\"}");
    refused("metadata", text, ERR_INPUT);
    refused("metadata", "[]", ERR_INPUT);
    refused("metadata", "\"team\"", ERR_INPUT);
    refused("metadata", "{\"a\":1}", ERR_INPUT);
    refused("metadata", "{\"a\":null}", ERR_INPUT);
    refused("metadata", "{\"a\":{\"b\":\"c\"}}", ERR_INPUT);
    refused("metadata", "{\"a\":\"x\\u0000y\"}", ERR_INPUT);
}

static void test_chat_params_count_metadata_in_characters(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *c = i ? "\xc3\xa9" : "x";
        assert_int_equal(read_tag(c, 64, 512), 0);
        assert_int_equal(read_tag(c, 65, 1), -ERR_INPUT);
        assert_int_equal(read_tag(c, 1, 513), -ERR_INPUT);
        assert_string_equal(err.param, "metadata");
    }
}

static void test_chat_params_check_the_operators_limits(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *text, *param;
    } cases[] = {{"--max-stop-strings", "{\"stop\":[\"a\",\"b\"]}", "stop"},
                 {"--max-choices", "{\"n\":2}", "n"},
                 {"--max-top-logprobs", "{\"logprobs\":true,\"top_logprobs\":2}", "top_logprobs"}};
    for (size_t i = 0; i < 3; i++) {
        struct limits l;
        limits_init(&l);
        assert_int_equal(read_text(cases[i].text), 0);
        assert_int_equal(chat_params_check(&params, &l, &err), 0);
        for (size_t j = 0; j < n_limit_rows; j++)
            if (strcmp(limit_rows[j].flag, cases[i].flag) == 0) assert_int_equal(limit_set(&l, &limit_rows[j], "1", &err), 0);
        assert_int_equal(chat_params_check(&params, &l, &err), -ERR_LIMIT);
        assert_string_equal(err.param, cases[i].param);
    }
}

static void test_chat_params_refuse_wrong_shapes(void **state)
{
    (void)state;
    refused("stop", "1", ERR_INPUT);
    refused("stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]", ERR_INPUT);
    assert_int_equal(read_member("stop", "[\"a\",2]"), -ERR_INPUT);
    assert_string_equal(err.param, "stop[1]");
    refused("logit_bias", "[]", ERR_INPUT);
    refused("logit_bias", "{\"1000\":1}", ERR_INPUT);
    refused("logit_bias", "{\"x\":1}", ERR_INPUT);
    refused("logit_bias", "{\"1\":101}", ERR_INPUT);
    refused("logit_bias", "{\"1\":\"1\"}", ERR_INPUT);
    refused("stream", "1", ERR_INPUT);
    refused("logprobs", "\"true\"", ERR_INPUT);
    refused("seed", "1.5", ERR_INPUT);
    refused("seed", "null", ERR_INPUT);
    refused("chat_template_kwargs", "[]", ERR_INPUT);
    refused("stream_options", "{}", ERR_INPUT); /* without stream */
    assert_int_equal(read_text("{\"stream\":true,\"stream_options\":{\"include_usage\":1}}"), -ERR_INPUT);
    assert_string_equal(err.param, "stream_options.include_usage");
    assert_int_equal(read_text("{\"top_logprobs\":1}"), -ERR_INPUT);
    assert_string_equal(err.param, "top_logprobs");
    assert_int_equal(read_text("{\"max_tokens\":5,\"max_completion_tokens\":6}"), -ERR_INPUT);
    assert_int_equal(read_text("{\"max_tokens\":5,\"min_tokens\":6}"), -ERR_INPUT);
    assert_string_equal(err.param, "min_tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_params_check_every_number),         cmocka_unit_test(test_chat_params_values_arrive),
        cmocka_unit_test(test_chat_params_defaults_are_the_models),    cmocka_unit_test(test_chat_params_refuse_by_name),
        cmocka_unit_test(test_chat_params_pass_what_asks_for_nothing), cmocka_unit_test(test_chat_params_refuse_wrong_shapes),
        cmocka_unit_test(test_chat_params_take_metadata_of_16_strings),
        cmocka_unit_test(test_chat_params_count_metadata_in_characters),
        cmocka_unit_test(test_chat_params_check_the_operators_limits),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&arena);
    return failed;
}
