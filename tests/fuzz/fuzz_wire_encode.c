/* Requests to hosted providers: any JSON object, for every row of the table. What is encoded is one JSON object that asks for a stream
 * of our model and our maximum, on a path that the model's name cannot leave; what is refused names a member. */
#include <string.h>

#include "base/str.h"
#include "server/providers/wire.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"messages",
                                    "role",
                                    "content",
                                    "user",
                                    "assistant",
                                    "tool",
                                    "system",
                                    "developer",
                                    "text",
                                    "type",
                                    "image_url",
                                    "url",
                                    "data:image/png;base64,AA",
                                    "https://h/a.png",
                                    "tool_calls",
                                    "function",
                                    "name",
                                    "arguments",
                                    "{}",
                                    "tool_call_id",
                                    "tools",
                                    "tool_choice",
                                    "required",
                                    "parameters",
                                    "response_format",
                                    "json_schema",
                                    "schema",
                                    "reasoning_effort",
                                    "high",
                                    "provider_options",
                                    "anthropic",
                                    "gemini",
                                    "openai",
                                    "thinking",
                                    "generationConfig",
                                    "betas",
                                    "extra_content",
                                    "google",
                                    "thought_signature",
                                    "reasoning_content",
                                    "bytes",
                                    "signature",
                                    "cache_control",
                                    "temperature",
                                    "stop",
                                    "n",
                                    "seed",
                                    "max_tokens",
                                    "model",
                                    "stream",
                                    "stream_options",
                                    "include_obfuscation",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return fuzz_mutate_json(p, n, max, seed, words);
}

static void check_row(const struct provider *row, const json_t *request)
{
    static const char *const keys[] = {"key"};
    struct provider_host h;
    struct wire_request r;
    struct err e = {0};
    struct provider_host_config c = {
        .provider = row->name, .region = "r", .resource = "r", .api_version = "2024-10-21", .keys = keys, .n_keys = 1};
    if (!row->base_url) c.base_url = "http://h";
    FUZZ_CHECK(provider_host_init(&h, &c, NULL) == 0);
    int rc = wire_encode(&h, request, &(struct wire_options){.model = "a/../b?c", .max_tokens = 4321}, &r, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(e.param[0] || rc == -ERR_LIMIT || json_object_get(request, "")); /* a member may be called so */
    } else {
        json_t *body = json_loadb(r.body.data, r.body.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        const bool gemini = strcmp(provider_wire_name(row), "gemini") == 0, anthropic = strcmp(provider_wire_name(row), "anthropic") == 0;
        const char *word = gemini            ? "maxOutputTokens"
                           : row->max_tokens ? row->max_tokens
                           : anthropic       ? "max_tokens"
                                             : "max_completion_tokens";
        const json_t *max = json_object_get(gemini ? json_object_get(body, "generationConfig") : body, word);
        FUZZ_CHECK(json_is_object(body) && json_integer_value(max) == 4321);
        FUZZ_CHECK(strstr(r.path, "alt=sse") || json_is_true(json_object_get(body, "stream")));
        FUZZ_CHECK(!strstr(r.path, "..") && r.path[0] == '/' && r.n_choices >= 1 && r.n_choices <= WIRE_MAX_CHOICES);
        for (size_t i = 0; i < r.n_headers; i++)
            FUZZ_CHECK(!strpbrk(r.headers[i], "\r\n") && utf8_valid(r.headers[i], strlen(r.headers[i])));
        json_decref(body);
        wire_request_free(&r);
    }
    provider_host_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    json_t *request;
    if (json_read((const char *)p, n, &json_limits_request, "request", &request, NULL)) return 0;
    if (json_is_object(request))
        for (size_t i = 0; provider_at(i); i++) check_row(provider_at(i), request);
    json_decref(request);
    return 0;
}
