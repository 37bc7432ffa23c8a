/* Provider errors: see provider_error.h. First what the body says, whoever wrote it; then the table of classes; then the text that a
 * client may see. */
#include "server/providers/provider_error.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/str.h"

enum { BODY_MAX_BYTES = 64 << 10, DAY_QUOTA_MS = 10 * 60 * 1000 };

static const char *const class_names[PROVIDER_ERROR_CLASSES] = {"caller", "key_dead", "wait", "broken", "unsupported", "context"};

const char *provider_error_class_name(enum provider_error_class c)
{
    return (unsigned)c < PROVIDER_ERROR_CLASSES ? class_names[c] : "unknown";
}

/* --- text without secrets --- */

static bool is_token_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-_.*+/=", c));
}

/* How the keys of hosts begin, and what they are called by. */
static const char *const prefixes[] = {
    "sk-", "sk_", "gsk_", "csk-", "hf_", "AIza", "xai-", "nvapi-", "fw_", "tgp_", "ABSK", "AKIA", "eyJ", "r8_", "bedrock-api-key-", "sw-"};

enum { MIN_AFTER_PREFIX = 6, MIN_BARE = 32, MIN_KEY_PART = 12 };

static bool has_prefix(const char *p, size_t n)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t len = strlen(prefixes[i]);
        if (n >= len + MIN_AFTER_PREFIX && memcmp(p, prefixes[i], len) == 0) return true;
    }
    return false;
}

/* A long run of letters and digits mixed, as keys without a prefix are. Words and paths are not: they have a '/' or no digit. */
static bool looks_random(const char *p, size_t n)
{
    size_t n_digits = 0, n_letters = 0;
    if (n < MIN_BARE) return false;
    for (size_t i = 0; i < n; i++) {
        n_digits += p[i] >= '0' && p[i] <= '9';
        n_letters += (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z');
    }
    return n_digits >= 4 && n_letters >= 4;
}

static bool contains(const char *p, size_t n, const char *part, size_t n_part)
{
    return n_part && n >= n_part && memmem(p, n, part, n_part) != NULL;
}

/* A configured key, or enough of its beginning or end. */
static bool is_key_part(const struct provider_host *h, const char *p, size_t n)
{
    for (size_t i = 0; h && i < h->n_keys; i++) {
        size_t len = strlen(h->keys[i]), part = len < MIN_KEY_PART ? len : MIN_KEY_PART;
        if (contains(p, n, h->keys[i], part) || contains(p, n, h->keys[i] + len - part, part)) return true;
    }
    return false;
}

/* The word before, as in "Authorization: Bearer x". */
static bool follows_bearer(const char *text, size_t at)
{
    return at >= 7 && strncasecmp(text + at - 7, "bearer ", 7) == 0;
}

/* Prefixes are looked for inside a run, too: "key=sk-..." is one. */
static bool is_secret(const struct provider_host *h, const char *text, size_t at, size_t n)
{
    if (is_key_part(h, text + at, n) || follows_bearer(text, at)) return true;
    bool boundary = true;
    for (size_t i = 0; i < n; i++) {
        if (boundary && has_prefix(text + at + i, n - i)) return true;
        boundary = strchr("=/+.*", text[at + i]) != NULL;
    }
    for (size_t i = 0, from = 0; i <= n; i++)
        if (i == n || strchr("=/.", text[at + i])) {
            if (looks_random(text + at + from, i - from)) return true;
            from = i + 1;
        }
    return false;
}

static size_t put(char *out, size_t cap, size_t at, const char *p, size_t n)
{
    if (at + n + 1 > cap) return at;
    memcpy(out + at, p, n);
    out[at + n] = '\0';
    return at + n;
}

void provider_scrub(char *out, size_t cap, const struct provider_host *h, const char *text, size_t n)
{
    static const char hidden[] = "[hidden]";
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n && at + 1 < cap;) {
        size_t run = 0;
        while (i + run < n && is_token_byte(text[i + run])) run++;
        if (run) {
            bool secret = is_secret(h, text, i, run);
            size_t room = cap - 1 - at;
            at = secret ? put(out, cap, at, hidden, sizeof hidden - 1) : put(out, cap, at, text + i, run < room ? run : room);
            i += run;
            continue;
        }
        uint32_t cp;
        int len = utf8_decode(text + i, n - i, &cp);
        if (len > 0 && !utf8_is_control(cp))
            at = put(out, cap, at, text + i, (size_t)len);
        else if (at && out[at - 1] != ' ')
            at = put(out, cap, at, " ", 1);
        i += len > 0 ? (size_t)len : 1;
    }
    while (at && out[at - 1] == ' ') out[--at] = '\0';
}

/* --- what the body says --- */

static void take_code(struct provider_error *out, const json_t *v)
{
    if (out->code[0]) return;
    if (json_is_integer(v))
        snprintf(out->code, sizeof out->code, "%lld", (long long)json_integer_value(v));
    else if (json_is_string(v))
        provider_scrub(out->code, sizeof out->code, NULL, json_string_value(v), json_string_length(v));
}

/* FastAPI's {"detail": [{"loc": ["body", "seed"], "msg": "..."}]} */
static const json_t *first_detail(struct provider_error *out, const json_t *detail)
{
    const json_t *first = json_array_get(detail, 0), *loc = json_object_get(first, "loc");
    const json_t *last = json_array_get(loc, json_array_size(loc) - 1);
    if (json_is_string(last)) provider_scrub(out->param, sizeof out->param, NULL, json_string_value(last), json_string_length(last));
    return json_object_get(first, "msg");
}

/* google.rpc.RetryInfo, QuotaFailure (of a day: no use to come again in a minute) and the reasons of google.rpc.ErrorInfo. */
static void take_details(struct provider_error *out, const json_t *details)
{
    bool is_day = false;
    for (size_t i = 0; i < json_array_size(details); i++) {
        const json_t *v = json_array_get(details, i), *delay = json_object_get(v, "retryDelay"), *reason = json_object_get(v, "reason");
        if (json_is_string(delay) && out->retry_after_ms < 0)
            out->retry_after_ms = provider_wait_parse(json_string_value(delay), json_string_length(delay), 0);
        const char *quota = json_string_value(json_object_get(json_array_get(json_object_get(v, "violations"), 0), "quotaId"));
        if (quota && strstr(quota, "PerDay")) is_day = true;
        if (json_is_string(reason)) {
            out->code[0] = '\0';
            take_code(out, reason);
        }
    }
    if (is_day && out->retry_after_ms < DAY_QUOTA_MS) out->retry_after_ms = DAY_QUOTA_MS; /* its delay is that of the minute's */
}

static void take_message(struct provider_error *out, const struct provider_host *h, const json_t *v)
{
    if (!out->message[0] && json_is_string(v))
        provider_scrub(out->message, sizeof out->message, h, json_string_value(v), json_string_length(v));
}

static bool code_is_a_word(const char *code)
{
    return code[0] && strspn(code, "0123456789") != strlen(code);
}

/* The code is the host's own word: a word goes before a number, the narrower before the wider. */
static void take_object(struct provider_error *out, const struct provider_host *h, const json_t *v)
{
    static const char *const words[] = {"code", "status", "type"};
    const json_t *param = json_object_get(v, "param"), *metadata = json_object_get(v, "metadata");
    if (json_is_array(v)) v = json_array_get(v, 0); /* Gemini's streams wrap it */
    take_message(out, h, v);
    take_message(out, h, json_object_get(v, "message"));
    take_message(out, h, json_object_get(v, "detail"));
    if (json_is_array(json_object_get(v, "detail"))) take_message(out, h, first_detail(out, json_object_get(v, "detail")));
    if (json_is_string(param)) provider_scrub(out->param, sizeof out->param, h, json_string_value(param), json_string_length(param));
    take_code(out, json_object_get(metadata, "error_type"));
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (code_is_a_word(out->code)) break;
        const json_t *word = json_object_get(v, words[i]);
        if (!json_is_string(word) && (!json_is_integer(word) || out->code[0])) continue;
        out->code[0] = '\0';
        take_code(out, word);
    }
    take_details(out, json_object_get(v, "details"));
}

static void take_root(struct provider_error *out, const struct provider_host *h, const json_t *root)
{
    if (json_is_array(root)) root = json_array_get(root, 0);
    const json_t *error = json_object_get(root, "error");
    if (json_is_object(error) || json_is_array(error)) {
        take_object(out, h, error);
        return;
    }
    take_message(out, h, error);
    take_object(out, h, root);
}

/* --- classes --- */

struct error_rule {
    const char *provider; /* row; NULL: any */
    int from, to;         /* of status; 0: any */
    const char *code;     /* in the code or error type; NULL: any */
    const char *message;  /* in the message, whatever its case; NULL: any */
    enum provider_error_class class;
};

/* The first that fits. */
static const struct error_rule rules[] = {
    /* said by all in these words */
    {NULL, 0, 0, "context_length_exceeded", NULL, PROVIDER_CONTEXT},
    {NULL, 400, 422, NULL, "maximum context length", PROVIDER_CONTEXT},
    {NULL, 400, 422, NULL, "context window", PROVIDER_CONTEXT},
    {NULL, 400, 422, NULL, "prompt is too long", PROVIDER_CONTEXT},
    {NULL, 400, 422, NULL, "input token count", PROVIDER_CONTEXT},
    {NULL, 400, 422, NULL, "too many input tokens", PROVIDER_CONTEXT},
    {NULL, 0, 0, "insufficient_quota", NULL, PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "billing_not_active", NULL, PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "billing_hard_limit", NULL, PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "credit_balance", NULL, PROVIDER_KEY_DEAD},
    {NULL, 400, 403, NULL, "credit balance is too low", PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "invalid_api_key", NULL, PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "API_KEY_INVALID", NULL, PROVIDER_KEY_DEAD},
    {NULL, 0, 0, "account_deactivated", NULL, PROVIDER_KEY_DEAD},
    {NULL, 400, 404, "model_not_found", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 400, 404, "invalid_model", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 404, 404, "not_found", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 404, 404, "NOT_FOUND", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 404, 404, "NotFoundError", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 404, 404, NULL, "model", PROVIDER_UNSUPPORTED},
    {NULL, 404, 404, "DeploymentNotFound", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 400, 422, "unsupported_parameter", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 400, 422, "unsupported_value", NULL, PROVIDER_UNSUPPORTED},
    {NULL, 0, 0, "content_filter", NULL, PROVIDER_CALLER},
    /* one host's own */
    {"together", 403, 403, NULL, "token", PROVIDER_CONTEXT},
    {"together", 403, 403, NULL, "context", PROVIDER_CONTEXT},
    {"together", 503, 503, NULL, NULL, PROVIDER_BROKEN}, /* short of capacity though we are within our rate: elsewhere, no slower */
    {"huggingface", 400, 400, NULL, "not supported by any provider", PROVIDER_UNSUPPORTED},
    {"openrouter", 400, 400, NULL, "not a valid model", PROVIDER_UNSUPPORTED},
    {"openrouter", 403, 403, NULL, "moderation", PROVIDER_CALLER},
    {"openrouter", 403, 403, NULL, "flagged", PROVIDER_CALLER},
    {"fireworks", 412, 412, NULL, NULL, PROVIDER_KEY_DEAD},                /* account suspended */
    {NULL, 429, 429, "RESOURCE_EXHAUSTED", "limit: 0", PROVIDER_KEY_DEAD}, /* Google: no quota at all */
    {"groq", 498, 498, NULL, NULL, PROVIDER_WAIT},                         /* flex capacity */
    {"cerebras", 503, 503, NULL, NULL, PROVIDER_WAIT},
    /* inside a 200 there is only the word */
    {NULL, 200, 200, "overloaded", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "rate_limit", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "RESOURCE_EXHAUSTED", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "UNAVAILABLE", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "Throttling", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "invalid_request", NULL, PROVIDER_CALLER},
    {NULL, 200, 200, "INVALID_ARGUMENT", NULL, PROVIDER_CALLER},
    {NULL, 200, 200, "ValidationException", NULL, PROVIDER_CALLER},
    {NULL, 200, 200, "authentication_error", NULL, PROVIDER_KEY_DEAD},
    {NULL, 200, 200, "permission", NULL, PROVIDER_KEY_DEAD},
    {NULL, 200, 200, "billing", NULL, PROVIDER_KEY_DEAD},
    {NULL, 200, 200, "429", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "529", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "503", NULL, PROVIDER_WAIT},
    {NULL, 200, 200, "400", NULL, PROVIDER_CALLER},
    {NULL, 200, 200, "401", NULL, PROVIDER_KEY_DEAD},
    {NULL, 200, 200, "402", NULL, PROVIDER_KEY_DEAD},
    {NULL, 200, 200, NULL, NULL, PROVIDER_BROKEN},
    /* by status */
    {NULL, 401, 403, NULL, NULL, PROVIDER_KEY_DEAD},
    {NULL, 408, 409, NULL, NULL, PROVIDER_BROKEN},
    {NULL, 424, 424, NULL, NULL, PROVIDER_BROKEN},
    {NULL, 429, 429, NULL, NULL, PROVIDER_WAIT},
    {NULL, 498, 498, NULL, NULL, PROVIDER_WAIT},
    {NULL, 499, 499, NULL, NULL, PROVIDER_BROKEN},
    {NULL, 400, 499, NULL, NULL, PROVIDER_CALLER},
    {NULL, 503, 503, NULL, NULL, PROVIDER_WAIT},
    {NULL, 529, 529, NULL, NULL, PROVIDER_WAIT},
    {NULL, 0, 0, NULL, NULL, PROVIDER_BROKEN},
};

static bool fits(const struct error_rule *r, const struct provider *p, const struct provider_error *e, const char *type)
{
    if (r->provider && strcmp(r->provider, p->name) != 0) return false;
    if (r->from && (e->status < r->from || e->status > r->to)) return false;
    if (r->code && !strstr(e->code, r->code) && !strstr(type, r->code)) return false;
    return !r->message || strcasestr(e->message, r->message);
}

static void classify(struct provider_error *e, const struct provider_host *h, const json_t *root, const struct provider_limits *l)
{
    const json_t *error = json_object_get(root, "error");
    const char *type = json_string_value(json_object_get(json_is_object(error) ? error : root, "type"));
    e->class = PROVIDER_BROKEN;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (fits(&rules[i], h->row, e, type ? type : "")) {
            e->class = rules[i].class;
            break;
        }
    /* OpenRouter: no money now, but it says when */
    if (e->status == 402 && e->retry_after_ms >= 0 && h->row->flags & PRICES_IN_USAGE) e->class = PROVIDER_WAIT;
    if (e->class == PROVIDER_WAIT && l->should_retry == 0) e->class = PROVIDER_CALLER; /* it knows that waiting is of no use */
}

void provider_error_read_json(struct provider_error *out, const struct provider_host *h, int status, const struct provider_limits *l,
                              const json_t *root)
{
    *out = (struct provider_error){.status = status, .retry_after_ms = l->retry_after_ms};
    take_root(out, h, root);
    if (l->error_type[0]) snprintf(out->code, sizeof out->code, "%.*s", (int)strcspn(l->error_type, ":"), l->error_type);
    if (!out->message[0]) snprintf(out->message, sizeof out->message, "HTTP status %d without a message", status);
    classify(out, h, root, l);
}

void provider_error_read(struct provider_error *out, const struct provider_host *h, int status, const struct provider_limits *l,
                         const char *body, size_t n)
{
    static const struct json_limits limits = {.max_bytes = BODY_MAX_BYTES, .max_values = 10000, .max_depth = 32};
    json_t *root = NULL;
    if (n && json_read(body, n, &limits, "error", &root, NULL)) root = NULL; /* a page, or nothing: the status speaks */
    provider_error_read_json(out, h, status, l, root);
    json_decref(root);
}

void provider_error_broken(struct provider_error *out, const struct provider_host *h, const char *code, const char *message)
{
    *out = (struct provider_error){.class = PROVIDER_BROKEN, .retry_after_ms = -1};
    snprintf(out->code, sizeof out->code, "%s", code);
    provider_scrub(out->message, sizeof out->message, h, message, strlen(message));
}
