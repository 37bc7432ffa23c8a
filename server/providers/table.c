/* The table of providers: see provider.h. What is said of each here was read in its documentation or its SDK (docs/providers.md). */
#include "server/providers/provider.h"

#include <string.h>

const char *const provider_capability_names[PROVIDER_CAPABILITIES] = {
    "chat", "stream",     "tools",     "image_data",   "image_url",    "json_object", "json_schema", "reasoning", "logprobs", "n",
    "seed", "logit_bias", "penalties", "prompt_cache", "service_tier", "audio_in",    "file_in",     "top_k",     "sampling", "models"};

/* --- rate-limit headers --- */

#define OF(prefix, suffix, meter, window)                                                                                                  \
    {prefix "limit-" suffix, meter, LIMIT_LIMIT, window}, {prefix "remaining-" suffix, meter, LIMIT_REMAINING, window},                    \
    {                                                                                                                                      \
        prefix "reset-" suffix, meter, LIMIT_RESET, window                                                                                 \
    }

static const struct limit_header limits_openai[] = {OF("x-ratelimit-", "requests", LIMIT_REQUESTS, WINDOW_MINUTE),
                                                    OF("x-ratelimit-", "tokens", LIMIT_TOKENS, WINDOW_MINUTE),
                                                    {NULL, 0, 0, 0}};

static const struct limit_header limits_groq[] = {
    OF("x-ratelimit-", "requests", LIMIT_REQUESTS, WINDOW_DAY), OF("x-ratelimit-", "tokens", LIMIT_TOKENS, WINDOW_MINUTE), {NULL, 0, 0, 0}};

static const struct limit_header limits_cerebras[] = {OF("x-ratelimit-", "requests-day", LIMIT_REQUESTS, WINDOW_DAY),
                                                      OF("x-ratelimit-", "tokens-minute", LIMIT_TOKENS, WINDOW_MINUTE),
                                                      {NULL, 0, 0, 0}};

static const struct limit_header limits_mistral[] = {{"x-ratelimit-limit-req-minute", LIMIT_REQUESTS, LIMIT_LIMIT, WINDOW_MINUTE},
                                                     {"x-ratelimit-remaining-req-minute", LIMIT_REQUESTS, LIMIT_REMAINING, WINDOW_MINUTE},
                                                     {"x-ratelimit-limit-tokens-minute", LIMIT_TOKENS, LIMIT_LIMIT, WINDOW_MINUTE},
                                                     {"x-ratelimit-remaining-tokens-minute", LIMIT_TOKENS, LIMIT_REMAINING, WINDOW_MINUTE},
                                                     {NULL, 0, 0, 0}};

static const struct limit_header limits_fireworks[] = {OF("x-ratelimit-", "requests", LIMIT_REQUESTS, WINDOW_MINUTE),
                                                       OF("x-ratelimit-", "tokens-prompt", LIMIT_TOKENS_IN, WINDOW_MINUTE),
                                                       OF("x-ratelimit-", "tokens-generated", LIMIT_TOKENS_OUT, WINDOW_MINUTE),
                                                       {NULL, 0, 0, 0}};

static const struct limit_header limits_together[] = {{"x-ratelimit-limit", LIMIT_REQUESTS, LIMIT_LIMIT, WINDOW_UNKNOWN},
                                                      {"x-ratelimit-remaining", LIMIT_REQUESTS, LIMIT_REMAINING, WINDOW_UNKNOWN},
                                                      {"x-ratelimit-reset", LIMIT_REQUESTS, LIMIT_RESET, WINDOW_UNKNOWN},
                                                      {"x-tokenlimit-limit", LIMIT_TOKENS, LIMIT_LIMIT, WINDOW_UNKNOWN},
                                                      {"x-tokenlimit-remaining", LIMIT_TOKENS, LIMIT_REMAINING, WINDOW_UNKNOWN},
                                                      {"x-tokenlimit-reset", LIMIT_TOKENS, LIMIT_RESET, WINDOW_UNKNOWN},
                                                      {NULL, 0, 0, 0}};

static const struct limit_header limits_anthropic[] = {
    {"anthropic-ratelimit-requests-limit", LIMIT_REQUESTS, LIMIT_LIMIT, WINDOW_MINUTE},
    {"anthropic-ratelimit-requests-remaining", LIMIT_REQUESTS, LIMIT_REMAINING, WINDOW_MINUTE},
    {"anthropic-ratelimit-requests-reset", LIMIT_REQUESTS, LIMIT_RESET, WINDOW_MINUTE},
    {"anthropic-ratelimit-tokens-limit", LIMIT_TOKENS, LIMIT_LIMIT, WINDOW_MINUTE},
    {"anthropic-ratelimit-tokens-remaining", LIMIT_TOKENS, LIMIT_REMAINING, WINDOW_MINUTE},
    {"anthropic-ratelimit-tokens-reset", LIMIT_TOKENS, LIMIT_RESET, WINDOW_MINUTE},
    {"anthropic-ratelimit-input-tokens-limit", LIMIT_TOKENS_IN, LIMIT_LIMIT, WINDOW_MINUTE},
    {"anthropic-ratelimit-input-tokens-remaining", LIMIT_TOKENS_IN, LIMIT_REMAINING, WINDOW_MINUTE},
    {"anthropic-ratelimit-input-tokens-reset", LIMIT_TOKENS_IN, LIMIT_RESET, WINDOW_MINUTE},
    {"anthropic-ratelimit-output-tokens-limit", LIMIT_TOKENS_OUT, LIMIT_LIMIT, WINDOW_MINUTE},
    {"anthropic-ratelimit-output-tokens-remaining", LIMIT_TOKENS_OUT, LIMIT_REMAINING, WINDOW_MINUTE},
    {"anthropic-ratelimit-output-tokens-reset", LIMIT_TOKENS_OUT, LIMIT_RESET, WINDOW_MINUTE},
    {NULL, 0, 0, 0}};

/* --- what hosts call otherwise, or do not know --- */

static const struct provider_rename words_mistral[] = {{"seed", "random_seed"}, {"logprobs", NULL}, {"top_logprobs", NULL}, {NULL, NULL}};
static const struct provider_rename words_together[] = {
    {"min_tokens", NULL}, {"ignore_eos", NULL}, {"parallel_tool_calls", NULL}, {NULL, NULL}};
static const struct provider_rename words_fireworks[] = {
    {"min_tokens", NULL}, {"ignore_eos", NULL}, {"chat_template_kwargs", NULL}, {NULL, NULL}};

#define TEXT (CAP_CHAT | CAP_STREAM | CAP_TOOLS | CAP_JSON_OBJECT | CAP_JSON_SCHEMA | CAP_MODELS)
#define IMAGES (CAP_IMAGE_DATA | CAP_IMAGE_URL)
#define OPENAI_ALL                                                                                                                         \
    (TEXT | IMAGES | CAP_REASONING | CAP_LOGPROBS | CAP_CHOICES | CAP_SEED | CAP_LOGIT_BIAS | CAP_PENALTIES | CAP_PROMPT_CACHE |           \
     CAP_TIERS | CAP_AUDIO_IN | CAP_FILE_IN)

static const struct provider table[] = {
    {.name = "openai",
     .title = "OpenAI",
     .base_url = "https://api.openai.com/v1",
     .key_env = "OPENAI_API_KEY",
     .wire = &wire_openai,
     .capabilities = OPENAI_ALL,
     .flags = ANY_PARAMETER,
     .limits = limits_openai,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_CANCEL},
    {.name = "anthropic",
     .title = "Anthropic",
     .base_url = "https://api.anthropic.com/v1",
     .key_env = "ANTHROPIC_API_KEY",
     .wire = &wire_anthropic,
     .auth = AUTH_X_API_KEY,
     .capabilities = CAP_CHAT | CAP_STREAM | CAP_TOOLS | IMAGES | CAP_JSON_SCHEMA | CAP_REASONING | CAP_PROMPT_CACHE | CAP_TIERS |
                     CAP_FILE_IN | CAP_TOP_K | CAP_MODELS,
     .flags = USAGE_CACHE_APART,
     .limits = limits_anthropic,
     .models_path = "/models?limit=1000",
     .request_id = "request-id",
     .on_disconnect = DISCONNECT_CANCEL},
    {.name = "gemini",
     .title = "Google Gemini",
     .base_url = "https://generativelanguage.googleapis.com/v1beta",
     .key_env = "GEMINI_API_KEY",
     .wire = &wire_gemini,
     .auth = AUTH_X_GOOG_API_KEY,
     .capabilities = TEXT | CAP_IMAGE_DATA | CAP_REASONING | CAP_SEED | CAP_PENALTIES | CAP_AUDIO_IN | CAP_FILE_IN | CAP_TOP_K,
     .flags = USAGE_REASONING_APART,
     .models_path = "/models?pageSize=1000",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "mistral",
     .title = "Mistral",
     .base_url = "https://api.mistral.ai/v1",
     .key_env = "MISTRAL_API_KEY",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_CHOICES | CAP_SEED | CAP_PENALTIES | CAP_PROMPT_CACHE,
     .flags = USAGE_UNASKED | ROLE_NO_DEVELOPER,
     .max_tokens = "max_tokens",
     .renames = words_mistral,
     .limits = limits_mistral,
     .request_id = "mistral-correlation-id",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "groq",
     .title = "Groq",
     .base_url = "https://api.groq.com/openai/v1",
     .key_env = "GROQ_API_KEY",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_SEED | CAP_PENALTIES | CAP_TIERS,
     .flags = ROLE_NO_DEVELOPER,
     .reasoning_member = "reasoning",
     .limits = limits_groq,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "cerebras",
     .title = "Cerebras",
     .base_url = "https://api.cerebras.ai/v1",
     .key_env = "CEREBRAS_API_KEY",
     .wire = &wire_openai,
     .capabilities = TEXT | CAP_REASONING | CAP_LOGPROBS | CAP_SEED,
     .flags = ROLE_NO_DEVELOPER | MAX_TOKENS_RESERVED,
     .reasoning_member = "reasoning",
     .limits = limits_cerebras,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "together",
     .title = "Together AI",
     .base_url = "https://api.together.xyz/v1",
     .key_env = "TOGETHER_API_KEY",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_CHOICES | CAP_SEED | CAP_LOGIT_BIAS | CAP_PENALTIES | CAP_TOP_K | CAP_SAMPLING,
     .flags = ROLE_NO_DEVELOPER,
     .max_tokens = "max_tokens",
     .reasoning_member = "reasoning",
     .renames = words_together,
     .limits = limits_together,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_CANCEL},
    {.name = "fireworks",
     .title = "Fireworks AI",
     .base_url = "https://api.fireworks.ai/inference/v1",
     .key_env = "FIREWORKS_API_KEY",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_LOGPROBS | CAP_CHOICES | CAP_SEED | CAP_LOGIT_BIAS | CAP_PENALTIES |
                     CAP_PROMPT_CACHE | CAP_TIERS | CAP_TOP_K | CAP_SAMPLING,
     .flags = ROLE_NO_DEVELOPER,
     .max_tokens = "max_tokens",
     .reasoning_member = "reasoning_content",
     .renames = words_fireworks,
     .limits = limits_fireworks,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_CANCEL},
    {.name = "bedrock",
     .title = "AWS Bedrock",
     .base_url = "https://bedrock-runtime.{region}.amazonaws.com/openai/v1",
     .key_env = "AWS_BEARER_TOKEN_BEDROCK",
     .wire = &wire_openai,
     .capabilities = TEXT | CAP_IMAGE_DATA | CAP_REASONING | CAP_SEED | CAP_TIERS,
     .flags = ROLE_NO_DEVELOPER,
     .request_id = "x-amzn-requestid",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "azure",
     .title = "Azure OpenAI / AI Foundry",
     .base_url = "https://{resource}.openai.azure.com",
     .key_env = "AZURE_OPENAI_API_KEY",
     .wire = &wire_openai,
     .auth = AUTH_API_KEY,
     .path = PATH_AZURE,
     .capabilities = OPENAI_ALL & ~(uint32_t)CAP_TIERS,
     .flags = ANY_PARAMETER,
     .limits = limits_openai,
     .request_id = "apim-request-id",
     .on_disconnect = DISCONNECT_CANCEL},
    {.name = "huggingface",
     .title = "Hugging Face router",
     .base_url = "https://router.huggingface.co/v1",
     .key_env = "HF_TOKEN",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_LOGPROBS | CAP_SEED | CAP_PENALTIES,
     .flags = ROLE_NO_DEVELOPER | SUFFIX_IN_MODEL,
     .max_tokens = "max_tokens",
     .limits = limits_openai,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "openrouter",
     .title = "OpenRouter",
     .base_url = "https://openrouter.ai/api/v1",
     .key_env = "OPENROUTER_API_KEY",
     .wire = &wire_openai,
     .capabilities = OPENAI_ALL | CAP_TOP_K | CAP_SAMPLING,
     .flags = ANY_PARAMETER | MARKS_KEPT | PRICES_IN_USAGE | SUFFIX_IN_MODEL,
     .max_tokens = "max_tokens",
     .reasoning_member = "reasoning",
     .limits = limits_together,
     .request_id = "x-generation-id",
     .on_disconnect = DISCONNECT_DRAIN},
    {.name = "openai-compatible",
     .title = "any OpenAI-compatible URL",
     .wire = &wire_openai,
     .capabilities = TEXT | IMAGES | CAP_REASONING | CAP_LOGPROBS | CAP_CHOICES | CAP_SEED | CAP_LOGIT_BIAS | CAP_PENALTIES |
                     CAP_PROMPT_CACHE | CAP_TOP_K | CAP_SAMPLING,
     .flags = ANY_PARAMETER | MARKS_KEPT | ROLE_NO_DEVELOPER,
     .max_tokens = "max_tokens",
     .reasoning_member = "reasoning_content",
     .limits = limits_openai,
     .request_id = "x-request-id",
     .on_disconnect = DISCONNECT_CANCEL},
};
enum { N_PROVIDERS = sizeof table / sizeof table[0] };

const struct provider *provider_at(size_t i)
{
    return i < N_PROVIDERS ? &table[i] : NULL;
}

const struct provider *provider_find(const char *name)
{
    for (size_t i = 0; i < N_PROVIDERS; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

const char *provider_word(const struct provider *p, const char *name)
{
    for (const struct provider_rename *r = p->renames; r && r->from; r++)
        if (strcmp(r->from, name) == 0) return r->to;
    return name;
}
