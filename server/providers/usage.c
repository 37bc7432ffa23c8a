/* Usage: the hosts' dialects into one record, each token in one meter. A count that is not there is not 0; a difference that comes out
 * negative means that the host counts otherwise than we think: it is 0, and marked. */
#include "server/providers/wire_parts.h"

static void put(struct usage *u, enum usage_meter m, int64_t n)
{
    u->inconsistent |= n < 0;
    u->count[m] = n < 0 ? 0 : n;
    u->present |= 1u << m;
}

/* Counts are bounded so that sums of them cannot overflow. */
static bool count(const json_t *object, const char *key, int64_t *out)
{
    int64_t n;
    if (!member_int(object, key, &n) || n < 0 || n > INT64_C(1) << 48) return false;
    *out = n;
    return true;
}

static bool cached_openai(const json_t *usage, int64_t *out)
{
    return count(json_object_get(usage, "prompt_tokens_details"), "cached_tokens", out) ||
           count(json_object_get(usage, "prompt_token_details"), "cached_tokens", out) || count(usage, "num_cached_tokens", out) ||
           count(usage, "prompt_cache_hit_tokens", out);
}

static void read_prompt(struct usage *u, const struct provider *p, const json_t *usage)
{
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    int64_t prompt, n, apart = 0;
    struct {
        const char *key;
        enum usage_meter meter;
    } const parts[] = {{"cache_write_tokens", USAGE_IN_CACHE_WRITE}, {"audio_tokens", USAGE_IN_AUDIO}, {"image_tokens", USAGE_IN_IMAGE}};
    if (!count(usage, "prompt_tokens", &prompt)) return;
    if (cached_openai(usage, &n)) {
        put(u, USAGE_IN_CACHE_READ, n);
        if (!(p->flags & USAGE_CACHE_APART)) apart += n;
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!count(details, parts[i].key, &n)) continue;
        put(u, parts[i].meter, n);
        apart += n;
    }
    put(u, USAGE_IN_UNCACHED, prompt - apart);
}

/* Google's compatible endpoint shows its thoughts in the total alone. */
static int64_t only_in_total(const json_t *usage, int64_t out)
{
    int64_t prompt, total;
    if (!count(usage, "prompt_tokens", &prompt) || !count(usage, "total_tokens", &total) || total < prompt + out) return 0;
    return total - prompt - out;
}

/* Is the reasoning in the output's count? The row says, unless the total can only mean one. */
static bool reasoning_is_apart(const struct provider *p, const json_t *usage, int64_t out, int64_t reasoning)
{
    int64_t prompt, total;
    if (reasoning > 0 && count(usage, "prompt_tokens", &prompt) && count(usage, "total_tokens", &total)) {
        if (total == prompt + out) return false;
        if (total == prompt + out + reasoning) return true;
    }
    return p->flags & USAGE_REASONING_APART;
}

void usage_read_openai(struct usage *u, const struct provider *p, const json_t *usage)
{
    *u = (struct usage){0};
    const json_t *details = json_object_get(usage, "completion_tokens_details");
    int64_t out, reasoning = 0, audio = 0;
    read_prompt(u, p, usage);
    if (!count(usage, "completion_tokens", &out)) return;
    if (count(details, "reasoning_tokens", &reasoning) || count(usage, "reasoning_tokens", &reasoning))
        put(u, USAGE_OUT_REASONING, reasoning);
    else if (only_in_total(usage, out) > 0) {
        put(u, USAGE_OUT_REASONING, only_in_total(usage, out));
        put(u, USAGE_OUT_TEXT, out);
        return;
    }
    if (count(details, "audio_tokens", &audio)) put(u, USAGE_OUT_AUDIO, audio);
    put(u, USAGE_OUT_TEXT, out - audio - (reasoning_is_apart(p, usage, out, reasoning) ? 0 : reasoning));
}

void usage_read_anthropic(struct usage *u, const json_t *usage)
{
    *u = (struct usage){0};
    const json_t *writes = json_object_get(usage, "cache_creation");
    int64_t n, hour, thinking = 0;
    if (count(usage, "input_tokens", &n)) put(u, USAGE_IN_UNCACHED, n);
    if (count(usage, "cache_read_input_tokens", &n)) put(u, USAGE_IN_CACHE_READ, n);
    if (count(usage, "cache_creation_input_tokens", &n)) {
        bool split = count(writes, "ephemeral_1h_input_tokens", &hour);
        if (split) put(u, USAGE_IN_CACHE_LONG, hour);
        put(u, USAGE_IN_CACHE_WRITE, n - (split ? hour : 0));
    }
    if (count(usage, "output_tokens", &n)) {
        if (count(json_object_get(usage, "output_tokens_details"), "thinking_tokens", &thinking)) put(u, USAGE_OUT_REASONING, thinking);
        put(u, USAGE_OUT_TEXT, n - thinking);
    }
    if (count(json_object_get(usage, "server_tool_use"), "web_search_requests", &n)) put(u, USAGE_SEARCHES, n);
    const char *tier = json_string_value(json_object_get(usage, "service_tier"));
    if (tier) snprintf(u->tier, sizeof u->tier, "%s", tier);
}

/* promptTokensDetails: [{"modality": "AUDIO", "tokenCount": n}] */
static int64_t of_modality(const json_t *list, const char *modality)
{
    int64_t sum = 0, n;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (text_is(json_object_get(row, "modality"), modality) && count(row, "tokenCount", &n)) sum += n;
    }
    return sum;
}

void usage_read_gemini(struct usage *u, const json_t *usage)
{
    *u = (struct usage){0};
    int64_t prompt, tool = 0, cached = 0, n, out = 0, thoughts = 0, total;
    const bool has_prompt = count(usage, "promptTokenCount", &prompt);
    if (has_prompt) {
        count(usage, "toolUsePromptTokenCount", &tool);
        if (count(usage, "cachedContentTokenCount", &cached)) put(u, USAGE_IN_CACHE_READ, cached);
        const int64_t audio = of_modality(json_object_get(usage, "promptTokensDetails"), "AUDIO");
        const int64_t audio_cached = of_modality(json_object_get(usage, "cacheTokensDetails"), "AUDIO");
        if (audio > audio_cached) put(u, USAGE_IN_AUDIO, audio - audio_cached);
        put(u, USAGE_IN_UNCACHED, prompt + tool - cached - (audio > audio_cached ? audio - audio_cached : 0));
    }
    if (count(usage, "thoughtsTokenCount", &thoughts)) put(u, USAGE_OUT_REASONING, thoughts);
    if (count(usage, "candidatesTokenCount", &out)) put(u, USAGE_OUT_TEXT, out);
    n = has_prompt ? prompt + tool + out + thoughts : 0;
    if (has_prompt && count(usage, "totalTokenCount", &total) && total != n) u->inconsistent = true;
}

bool usage_is_zero(const struct usage *u)
{
    for (int i = 0; i < USAGE_METERS; i++)
        if (u->count[i]) return false;
    return true;
}

void usage_tell(struct usage_told *out, const struct usage *u)
{
    const int64_t *n = u->count, writes = n[USAGE_IN_CACHE_WRITE] + n[USAGE_IN_CACHE_LONG];
    *out = (struct usage_told){.cached_tokens = n[USAGE_IN_CACHE_READ],
                               .cache_write_tokens = writes,
                               .reasoning_tokens = n[USAGE_OUT_REASONING],
                               .audio_in_tokens = n[USAGE_IN_AUDIO],
                               .audio_out_tokens = n[USAGE_OUT_AUDIO]};
    out->prompt_tokens = n[USAGE_IN_UNCACHED] + n[USAGE_IN_CACHE_READ] + writes + n[USAGE_IN_AUDIO] + n[USAGE_IN_IMAGE];
    out->completion_tokens = n[USAGE_OUT_TEXT] + n[USAGE_OUT_REASONING] + n[USAGE_OUT_AUDIO];
}
