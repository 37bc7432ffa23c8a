/* server/providers/models_list: each host's form of the list; prices exact or none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/providers/models_list.h"

static struct arena arena;

static int read_list(struct models_list *l, const char *provider, const char *body)
{
    struct err e;
    arena_free(&arena);
    arena_init(&arena, 1 << 20);
    return models_list_read(l, provider_find(provider), body, strlen(body), &arena, &e);
}

static void test_a_list_of_ids(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(read_list(&l, "groq", "{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"object\":\"model\",\"context_window\":131072,\"active\":false},{\"object\":\"model\"},{\"id\":\"b\"}]}"), 0);
    assert_int_equal(l.n_models, 2);
    assert_string_equal(l.models[0].id, "a");
    assert_int_equal(l.models[0].offers[0].context_length, 131072);
    assert_false(l.models[0].offers[0].live);
    assert_true(l.models[1].offers[0].live);
    assert_int_equal(l.models[1].offers[0].in_nusd, -1); /* not told is not free */
}

static void test_geminis_names(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(read_list(&l, "gemini", "{\"models\":[{\"name\":\"models/gemini-x\",\"inputTokenLimit\":1048576}]}"), 0);
    assert_string_equal(l.models[0].id, "gemini-x");
    assert_int_equal(l.models[0].offers[0].context_length, 1048576);
}

static void test_a_bare_array(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(read_list(&l, "together", "[{\"id\":\"x/y\",\"context_length\":8192}]"), 0);
    assert_int_equal(l.n_models, 1);
}

static void test_the_routers_providers(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(
        read_list(&l, "huggingface",
                  "{\"data\":[{\"id\":\"HuggingFaceTB/SmolLM3-3B\",\"architecture\":{\"input_modalities\":[\"text\",\"image\"]},\"providers\":["
                  "{\"provider\":\"groq\",\"status\":\"live\",\"context_length\":32768,\"pricing\":{\"input\":0.1,\"output\":0.29},\"is_free\":false,"
                  "\"supports_tools\":true,\"supports_structured_output\":false,\"first_token_latency_ms\":120.4,\"throughput\":350.5},"
                  "{\"provider\":\"novita\",\"status\":\"error\"},{\"status\":\"live\"},{\"provider\":\"x\",\"pricing\":{\"input\":-1,\"output\":\"abc\"}},"
                  "{\"provider\":\"hf\",\"is_free\":true}]}]}"),
        0);
    const struct model_entry *m = &l.models[0];
    assert_true(m->takes_images);
    assert_int_equal(m->n_offers, 4);
    assert_string_equal(m->offers[0].provider, "groq");
    assert_int_equal(m->offers[0].in_nusd, 100000000);
    assert_int_equal(m->offers[0].out_nusd, 290000000);
    assert_int_equal(m->offers[0].first_token_ms, 120);
    assert_int_equal(m->offers[0].supports_tools, 1);
    assert_int_equal(m->offers[0].supports_schema, 0);
    assert_false(m->offers[1].live);
    assert_int_equal(m->offers[1].in_nusd, -1);
    assert_int_equal(m->offers[1].supports_tools, -1);
    assert_int_equal(m->offers[2].in_nusd, -1);
    assert_int_equal(m->offers[2].out_nusd, -1);
    assert_int_equal(m->offers[3].in_nusd, 0); /* it says so */
}

static void test_openrouters_prices_are_per_token(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(read_list(&l, "openrouter", "{\"data\":[{\"id\":\"a/b\",\"context_length\":200000,\"pricing\":{\"prompt\":\"0.00000015\",\"completion\":\"0.0000006\"},\"supported_parameters\":[\"tools\"]}]}"), 0);
    assert_int_equal(l.models[0].offers[0].in_nusd, 150000000);
    assert_int_equal(l.models[0].offers[0].out_nusd, 600000000);
    assert_int_equal(l.models[0].offers[0].supports_tools, 1);
    assert_int_equal(l.models[0].offers[0].supports_schema, 0);
}

static void test_prices_are_exact_or_none(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool per_million;
        int64_t nusd; /* -1: refused */
    } rows[] = {{"0.1", true, 100000000}, {"0", true, 0}, {"2", true, 2000000000}, {"0.000000001", true, 1}, {"0.0000000001", true, -1}, {"1e-7", false, 100000000},
                {"1.5E+2", true, 150000000000}, {"0.00000015", false, 150000000}, {"", true, -1}, {".", true, -1}, {"-1", true, -1}, {"1.2.3", true, -1}, {"1x", true, -1},
                {"nan", true, -1}, {"1e99", true, -1}, {"999999999999", true, -1}, {"0.10000000000000000", true, 100000000}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t nusd;
        bool is = models_price_parse(rows[i].text, rows[i].per_million, &nusd);
        if (is != (rows[i].nusd >= 0) || nusd != rows[i].nusd) fail_msg("'%s': %lld", rows[i].text, (long long)nusd);
    }
}

static void test_what_is_no_list(void **state)
{
    (void)state;
    struct models_list l;
    assert_int_equal(read_list(&l, "openai", "{\"error\":{}}"), -ERR_INPUT);
    assert_int_equal(read_list(&l, "openai", "<html>"), -ERR_INPUT);
    assert_int_equal(read_list(&l, "openai", "{\"data\":[1,null,{\"id\":5},{\"id\":\"\"}]}"), 0);
    assert_int_equal(l.n_models, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_of_ids),      cmocka_unit_test(test_geminis_names),
        cmocka_unit_test(test_a_bare_array),       cmocka_unit_test(test_the_routers_providers),
        cmocka_unit_test(test_openrouters_prices_are_per_token), cmocka_unit_test(test_prices_are_exact_or_none),
        cmocka_unit_test(test_what_is_no_list),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&arena);
    return failed;
}
