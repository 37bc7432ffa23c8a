/* server/providers/provider_error, provider_limits: what hosts' refusals mean, what of them a client may read, and what headers say of
 * limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"
#include "server/providers/provider_error.h"

static const char secret[] = "my-Secret-Key-a1b2c3d4e5f6";

static void make_host(struct provider_host *h, const char *provider)
{
    static const char *const keys[] = {secret, "other-key-0987654321-zyx"};
    struct err e;
    struct provider_host_config c = {.provider = provider, .region = "r", .resource = "r", .keys = keys, .n_keys = 2};
    if (!provider_find(provider)->base_url) c.base_url = "http://127.0.0.1:1/v1";
    if (provider_host_init(h, &c, &e)) fail_msg("%s", e.msg);
}

static const struct {
    const char *provider;
    int status;
    const char *header, *body;
    enum provider_error_class class;
    const char *code, *message;
    int64_t retry_after_ms;
} refusals[] = {
    {"openai", 401, NULL,
     "{\"error\":{\"message\":\"Incorrect API key provided: "
     "sk-abc***xyz9.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_api_key\"}}",
     PROVIDER_KEY_DEAD, "invalid_api_key", "Incorrect API key provided: [hidden]", -1},
    {"openai", 429, "retry-after-ms: 1500",
     "{\"error\":{\"message\":\"Rate limit reached\",\"type\":\"requests\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}",
     PROVIDER_WAIT, "rate_limit_exceeded", "Rate limit reached", 1500},
    {"openai", 429, NULL,
     "{\"error\":{\"message\":\"You exceeded your current "
     "quota\",\"type\":\"insufficient_quota\",\"param\":null,\"code\":\"insufficient_quota\"}}",
     PROVIDER_KEY_DEAD, "insufficient_quota", "You exceeded your current quota", -1},
    {"openai", 400, NULL,
     "{\"error\":{\"message\":\"This model's maximum context length is 8192 "
     "tokens.\",\"type\":\"invalid_request_error\",\"param\":\"messages\",\"code\":\"context_length_exceeded\"}}",
     PROVIDER_CONTEXT, "context_length_exceeded", "This model's maximum context length is 8192 tokens.", -1},
    {"openai", 404, NULL,
     "{\"error\":{\"message\":\"The model `x` does not "
     "exist\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}",
     PROVIDER_UNSUPPORTED, "model_not_found", "The model `x` does not exist", -1},
    {"openai", 400, NULL,
     "{\"error\":{\"message\":\"Unsupported\",\"type\":\"invalid_request_error\",\"param\":\"logprobs\",\"code\":\"unsupported_parameter\"}"
     "}",
     PROVIDER_UNSUPPORTED, "unsupported_parameter", "Unsupported", -1},
    {"openai", 500, NULL, "<html>oops</html>", PROVIDER_BROKEN, "", "HTTP status 500 without a message", -1},
    {"openai", 503, "retry-after: 7", "{\"error\":{\"message\":\"slow\",\"type\":\"server_error\",\"param\":null,\"code\":\"slow_down\"}}",
     PROVIDER_WAIT, "slow_down", "slow", 7000},
    {"openai", 302, NULL, "", PROVIDER_BROKEN, "", "HTTP status 302 without a message", -1},
    {"openai", 408, NULL, "", PROVIDER_BROKEN, "", "HTTP status 408 without a message", -1},
    {"openai", 429, "x-should-retry: false", "{\"error\":{\"message\":\"budget\",\"code\":\"budget_exhausted\"}}", PROVIDER_CALLER,
     "budget_exhausted", "budget", -1},
    {"anthropic", 529, NULL,
     "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"},\"request_id\":\"req_1\"}", PROVIDER_WAIT,
     "overloaded_error", "Overloaded", -1},
    {"anthropic", 413, NULL, "<html><head><title>413 Request Entity Too Large</title></head></html>", PROVIDER_CALLER, "",
     "HTTP status 413 without a message", -1},
    {"anthropic", 400, NULL,
     "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt is too long: 210000 tokens > 200000 "
     "maximum\"}}",
     PROVIDER_CONTEXT, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", -1},
    {"anthropic", 400, NULL,
     "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"Your credit balance is too low to access the "
     "API.\"}}",
     PROVIDER_KEY_DEAD, "invalid_request_error", "Your credit balance is too low to access the API.", -1},
    {"anthropic", 404, NULL, "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model: x\"}}", PROVIDER_UNSUPPORTED,
     "not_found_error", "model: x", -1},
    {"gemini", 429, NULL,
     "{\"error\":{\"code\":429,\"message\":\"Quota exceeded, limit: "
     "20\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"@type\":\"type.googleapis.com/"
     "google.rpc.QuotaFailure\",\"violations\":[{\"quotaId\":\"PerMinute\"}]},{\"@type\":\"type.googleapis.com/"
     "google.rpc.RetryInfo\",\"retryDelay\":\"34.5s\"}]}}",
     PROVIDER_WAIT, "RESOURCE_EXHAUSTED", "Quota exceeded, limit: 20", 34500},
    {"gemini", 429, NULL,
     "{\"error\":{\"code\":429,\"message\":\"Quota exceeded for metric x, limit: 0\",\"status\":\"RESOURCE_EXHAUSTED\"}}",
     PROVIDER_KEY_DEAD, "RESOURCE_EXHAUSTED", "Quota exceeded for metric x, limit: 0", -1},
    {"gemini", 400, NULL,
     "[{\"error\":{\"code\":400,\"message\":\"API key not "
     "valid.\",\"status\":\"INVALID_ARGUMENT\",\"details\":[{\"@type\":\"type.googleapis.com/"
     "google.rpc.ErrorInfo\",\"reason\":\"API_KEY_INVALID\"}]}}]",
     PROVIDER_KEY_DEAD, "API_KEY_INVALID", "API key not valid.", -1},
    {"mistral", 429, NULL,
     "{\"object\":\"error\",\"message\":\"Rate limit "
     "exceeded\",\"type\":\"rate_limited\",\"param\":null,\"code\":\"1300\",\"raw_status_code\":429}",
     PROVIDER_WAIT, "rate_limited", "Rate limit exceeded", -1},
    {"mistral", 422, NULL,
     "{\"detail\":[{\"type\":\"extra_forbidden\",\"loc\":[\"body\",\"seed\"],\"msg\":\"Extra inputs are not permitted\",\"input\":7}]}",
     PROVIDER_CALLER, "", "Extra inputs are not permitted", -1},
    {"groq", 498, NULL, "{\"error\":{\"message\":\"Flex tier capacity exceeded.\",\"type\":\"server_error\",\"code\":\"flex\"}}",
     PROVIDER_WAIT, "flex", "Flex tier capacity exceeded.", -1},
    {"groq", 424, NULL, "{\"error\":{\"message\":\"Failed dependency\"}}", PROVIDER_BROKEN, "", "Failed dependency", -1},
    {"cerebras", 402, NULL,
     "{\"message\":\"Payment required.\",\"type\":\"payment_required_error\",\"param\":\"quota\",\"code\":\"payment_required\"}",
     PROVIDER_KEY_DEAD, "payment_required", "Payment required.", -1},
    {"fireworks", 412, NULL,
     "{\"error\":{\"object\":\"error\",\"type\":\"error\",\"code\":\"PRECONDITION_FAILED\",\"message\":\"Account is suspended\"}}",
     PROVIDER_KEY_DEAD, "PRECONDITION_FAILED", "Account is suspended", -1},
    {"together", 403, NULL,
     "{\"error\":{\"message\":\"`inputs` tokens + `max_new_tokens` must be <= 8193\",\"type\":\"invalid_request_error\"}}",
     PROVIDER_CONTEXT, "invalid_request_error", "`inputs` tokens + `max_new_tokens` must be <= 8193", -1},
    {"together", 403, NULL, "{\"error\":{\"message\":\"Forbidden\"}}", PROVIDER_KEY_DEAD, "", "Forbidden", -1},
    {"together", 503, "retry-after: 1", "{\"error\":{\"message\":\"short of capacity\",\"type\":\"service_unavailable\"}}", PROVIDER_BROKEN,
     "service_unavailable", "short of capacity", 1000},
    {"bedrock", 429, "x-amzn-errortype: ThrottlingException:http://internal.amazon.com/", "{\"message\":\"Too many requests\"}",
     PROVIDER_WAIT, "ThrottlingException", "Too many requests", -1},
    {"azure", 400, NULL, "{\"error\":{\"code\":\"content_filter\",\"message\":\"filtered\",\"param\":\"prompt\",\"innererror\":{}}}",
     PROVIDER_CALLER, "content_filter", "filtered", -1},
    {"huggingface", 400, NULL,
     "{\"error\":{\"message\":\"The requested model 'x' is not supported by any provider you have "
     "enabled.\",\"code\":\"model_not_supported\"}}",
     PROVIDER_UNSUPPORTED, "model_not_supported", "The requested model 'x' is not supported by any provider you have enabled.", -1},
    {"huggingface", 402, NULL, "{\"error\":\"You have exceeded your monthly included credits\"}", PROVIDER_KEY_DEAD, "",
     "You have exceeded your monthly included credits", -1},
    {"openrouter", 402, "retry-after: 5",
     "{\"error\":{\"code\":402,\"message\":\"later\",\"metadata\":{\"error_type\":\"payment_required\"}}}", PROVIDER_WAIT,
     "payment_required", "later", 5000},
    {"openrouter", 402, NULL, "{\"error\":{\"code\":402,\"message\":\"none\"}}", PROVIDER_KEY_DEAD, "402", "none", -1},
    {"openai-compatible", 400, NULL, "{\"detail\":\"This model's maximum context length is 10 tokens\"}", PROVIDER_CONTEXT, "",
     "This model's maximum context length is 10 tokens", -1},
};

static void test_t66_refusals_have_their_class(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct provider_host h;
        struct provider_limits l;
        struct provider_error e;
        make_host(&h, refusals[i].provider);
        provider_limits_init(&l);
        if (refusals[i].header) provider_limits_header(&l, h.row, refusals[i].header, strlen(refusals[i].header), 0);
        provider_error_read(&e, &h, refusals[i].status, &l, refusals[i].body, strlen(refusals[i].body));
        if (e.class != refusals[i].class || strcmp(e.code, refusals[i].code) != 0 || strcmp(e.message, refusals[i].message) != 0 ||
            e.retry_after_ms != refusals[i].retry_after_ms)
            fail_msg("%s %d: %s code '%s' after %lld: %s", refusals[i].provider, refusals[i].status, provider_error_class_name(e.class),
                     e.code, (long long)e.retry_after_ms, e.message);
        provider_host_free(&h);
    }
}

/* Any body at all: no crash, one line of valid UTF-8, never a key. */
static void test_any_bytes_make_an_error(void **state)
{
    (void)state;
    struct provider_host h;
    make_host(&h, "openai");
    srand(1);
    for (int round = 0; round < 20000; round++) {
        const size_t i = (size_t)round % (sizeof refusals / sizeof refusals[0]);
        char body[2048];
        size_t n = (size_t)snprintf(body, sizeof body, "%s", refusals[i].body);
        for (int k = rand() % 6; k > 0 && n > 0; k--) body[(size_t)rand() % n] = (char)rand();
        struct provider_limits l;
        struct provider_error e;
        provider_limits_init(&l);
        provider_error_read(&e, &h, 100 + rand() % 500, &l, body, n ? (size_t)rand() % n : 0);
        assert_true(utf8_valid(e.message, strlen(e.message)) && e.message[0] && !strchr(e.message, '\n'));
        assert_in_range(e.class, 0, PROVIDER_ERROR_CLASSES - 1);
    }
    provider_host_free(&h);
}

/* T06: the canary is never told, however a host quotes it. */
static void test_t06_messages_have_no_secrets(void **state)
{
    (void)state;
    static const char *const texts[] = {"bad key my-Secret-Key-a1b2c3d4e5f6",
                                        "key=my-Secret-Key-a1b2c3d4e5f6&x=1",
                                        "(my-Secret-Key-a1b2c3d4e5f6)",
                                        "\"my-Secret-Key-a1b2c3d4e5f6\"",
                                        "my-Secret-Key-a1b...",
                                        "ends with Key-a1b2c3d4e5f6",
                                        "Authorization: Bearer abc",
                                        "bearer my-Secret-Key-a1b2c3d4e5f6",
                                        "sk-proj-AAAAAAAAAAAA",
                                        "Incorrect: sk-a****************xyz",
                                        "key gsk_abcdefgh12345678",
                                        "hf_abcdefghijkl",
                                        "AIzaSyA-abcdefg_123",
                                        "token eyJhbGciOiJIUzI1NiJ9.x.y",
                                        "0123456789abcdef0123456789abcdef",
                                        "https://h/?key=AIzaSyA-abcdefg_123&alt=sse",
                                        "x-api-key:other-key-0987654321-zyx"};
    struct provider_host h;
    make_host(&h, "openai");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char out[256];
        provider_scrub(out, sizeof out, &h, texts[i], strlen(texts[i]));
        if (!strstr(out, "[hidden]") || strstr(out, "Secret-Key") || strstr(out, "a1b2c3d4") || strstr(out, "AAAAAA") ||
            strstr(out, "abcdefg") || strstr(out, "0987654321") || strstr(out, "89abcdef"))
            fail_msg("'%s' became '%s'", texts[i], out);
    }
    provider_host_free(&h);
}

static void test_scrubbing_leaves_plain_words(void **state)
{
    (void)state;
    static const char *const texts[] = {"The model `meta-llama/Llama-3.3-70B-Instruct-Turbo` does not exist",
                                        "Request req_011CSHoEeqs5C35K2UUqR7Fy failed after 30s",
                                        "accounts/fireworks/models/llama-v3p1-405b-instruct is not deployed",
                                        "This model's maximum context length is 128000 tokens. Größe: 5"};
    struct provider_host h;
    make_host(&h, "openai");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char out[256];
        provider_scrub(out, sizeof out, &h, texts[i], strlen(texts[i]));
        assert_string_equal(out, texts[i]);
    }
    char out[64];
    provider_scrub(out, sizeof out, &h, "a\r\nb\x1b[31mc \xff\xe2\x80\xae!", 16);
    assert_string_equal(out, "a b [31mc !");
    provider_scrub(out, 8, &h, "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4", 10);
    assert_string_equal(out, "\xc3\xa4\xc3\xa4\xc3\xa4");
    provider_host_free(&h);
}

/* --- times and limits --- */

static int64_t wait_of(const char *s)
{
    return provider_wait_parse(s, strlen(s), INT64_C(1767225600000)); /* 2026-01-01T00:00:00Z */
}

static void test_waits_in_all_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } rows[] = {{"3", 3000},
                {"0", 0},
                {"7.66", 7660},
                {" 5 ", 5000},
                {"12ms", 12},
                {"1s", 1000},
                {"6m0s", 360000},
                {"1h2m3.5s", 3723500},
                {"2m59.56s", 179560},
                {"34.5s", 34500},
                {"1d", 86400000},
                {"250us", 0},
                {"2026-01-01T00:01:00Z", 60000},
                {"2026-01-01T00:01:00.5Z", 60500},
                {"2026-01-01T01:01:00+01:00", 60000},
                {"2025-12-31T23:59:00Z", 0},
                {"Thu, 01 Jan 2026 00:00:30 GMT", 30000},
                {"1767225610", 10000},
                {"1767225610000", 10000},
                {"99999999", INT64_C(31) * 86400000}, /* no longer than a month */
                {"", -1},
                {"-1", -1},
                {"soon", -1},
                {"1x", -1},
                {"1s!", -1},
                {"2026-13-01T00:00:00Z", -1},
                {"2026-01-01", -1},
                {"nan", -1},
                {"inf", -1},
                {"0x10", -1},
                {"1e3", -1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (wait_of(rows[i].text) != rows[i].ms) fail_msg("'%s': %lld ms", rows[i].text, (long long)wait_of(rows[i].text));
}

static void read_headers(struct provider_limits *l, const char *provider, const char *const *lines)
{
    provider_limits_init(l);
    for (; *lines; lines++) provider_limits_header(l, provider_find(provider), *lines, strlen(*lines), INT64_C(1767225600000));
}

static void check_limit(const struct provider_limits *l, enum limit_meter m, int64_t limit, int64_t remaining, int64_t reset_ms,
                        enum limit_window w)
{
    assert_int_equal(l->meters[m].limit, limit);
    assert_int_equal(l->meters[m].remaining, remaining);
    assert_int_equal(l->meters[m].reset_ms, reset_ms);
    assert_int_equal(l->meters[m].window, w);
}

static void test_limits_by_each_hosts_names(void **state)
{
    (void)state;
    struct provider_limits l;
    read_headers(&l, "openai",
                 (const char *const[]){"X-RateLimit-Limit-Requests: 500\r\n", "x-ratelimit-remaining-requests:499",
                                       "x-ratelimit-reset-requests: 120ms", "x-ratelimit-limit-tokens: 30000",
                                       "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 6m0s", NULL});
    check_limit(&l, LIMIT_REQUESTS, 500, 499, 120, WINDOW_MINUTE);
    check_limit(&l, LIMIT_TOKENS, 30000, 0, 360000, WINDOW_MINUTE);
    read_headers(&l, "groq",
                 (const char *const[]){"x-ratelimit-limit-requests: 14400", "x-ratelimit-remaining-requests: 14370",
                                       "x-ratelimit-reset-requests: 2m59.56s", NULL});
    check_limit(&l, LIMIT_REQUESTS, 14400, 14370, 179560, WINDOW_DAY);
    read_headers(&l, "anthropic",
                 (const char *const[]){"anthropic-ratelimit-input-tokens-limit: 50000", "anthropic-ratelimit-input-tokens-remaining: 49000",
                                       "anthropic-ratelimit-input-tokens-reset: 2026-01-01T00:00:09Z", "request-id: req_1", NULL});
    check_limit(&l, LIMIT_TOKENS_IN, 50000, 49000, 9000, WINDOW_MINUTE);
    assert_string_equal(l.request_id, "req_1");
    read_headers(&l, "cerebras",
                 (const char *const[]){"x-ratelimit-limit-requests-day: 1000", "x-ratelimit-reset-requests-day: 33011.382", NULL});
    check_limit(&l, LIMIT_REQUESTS, 1000, -1, 33011382, WINDOW_DAY);
    read_headers(&l, "mistral",
                 (const char *const[]){"x-ratelimit-limit-tokens-minute: 500000", "x-ratelimit-remaining-tokens-minute: 499970",
                                       "x-ratelimit-limit-tokens-month: 1", NULL});
    check_limit(&l, LIMIT_TOKENS, 500000, 499970, -1, WINDOW_MINUTE);
    read_headers(&l, "fireworks",
                 (const char *const[]){"x-ratelimit-limit-tokens-prompt: 60000", "x-ratelimit-remaining-tokens-generated: 10", NULL});
    check_limit(&l, LIMIT_TOKENS_IN, 60000, -1, -1, WINDOW_MINUTE);
    check_limit(&l, LIMIT_TOKENS_OUT, -1, 10, -1, WINDOW_MINUTE);
    read_headers(&l, "together",
                 (const char *const[]){"x-ratelimit-limit: 10", "x-tokenlimit-remaining: 5.0", "x-ratelimit-reset: 1", NULL});
    check_limit(&l, LIMIT_REQUESTS, 10, -1, 1000, WINDOW_UNKNOWN);
    check_limit(&l, LIMIT_TOKENS, -1, 5, -1, WINDOW_UNKNOWN);
}

static void test_limits_that_say_nothing_are_not_told(void **state)
{
    (void)state;
    struct provider_limits l;
    read_headers(&l, "azure",
                 (const char *const[]){"x-ratelimit-limit-tokens: 0", "x-ratelimit-remaining-tokens: -1",
                                       "x-ratelimit-limit-requests: many", "x-ratelimit-remaining-requests: nan",
                                       "x-ratelimit-reset-requests: -5", "x-ratelimit-limit-requests:", "no colon", NULL});
    check_limit(&l, LIMIT_TOKENS, -1, -1, -1, WINDOW_MINUTE);
    check_limit(&l, LIMIT_REQUESTS, -1, -1, -1, WINDOW_MINUTE);
    assert_int_equal(l.retry_after_ms, -1);
    read_headers(&l, "openai", (const char *const[]){"retry-after: 2", "retry-after-ms: 1750", NULL});
    assert_int_equal(l.retry_after_ms, 1750);
    read_headers(&l, "openai", (const char *const[]){"retry-after-ms: 1750", "retry-after: 2", NULL});
    assert_int_equal(l.retry_after_ms, 1750);
    read_headers(&l, "openai", (const char *const[]){"retry-after: Thu, 01 Jan 2026 00:00:30 GMT", NULL});
    assert_int_equal(l.retry_after_ms, 30000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t66_refusals_have_their_class),
        cmocka_unit_test(test_any_bytes_make_an_error),
        cmocka_unit_test(test_t06_messages_have_no_secrets),
        cmocka_unit_test(test_scrubbing_leaves_plain_words),
        cmocka_unit_test(test_waits_in_all_forms),
        cmocka_unit_test(test_limits_by_each_hosts_names),
        cmocka_unit_test(test_limits_that_say_nothing_are_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
