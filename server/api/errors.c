/* API errors: see errors.h. */
#include "server/api/errors.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/str.h"

#define INVALID "invalid_request_error"

const struct api_error_row api_errors[API_ERRORS] = {
    [API_INVALID_VALUE] = {400, INVALID, "invalid_value", NULL},
    [API_UNSUPPORTED_PARAMETER] = {400, INVALID, "unsupported_parameter", NULL},
    [API_CONTEXT_LENGTH_EXCEEDED] = {400, INVALID, "context_length_exceeded", NULL},
    [API_INVALID_API_KEY] = {401, "authentication_error", "invalid_api_key", NULL},
    [API_BUDGET_EXHAUSTED] = {402, "billing_error", "budget_exhausted", NULL},
    [API_BUDGET_HELD] = {429, "rate_limit_error", "budget_held", "1"},
    [API_PRICE_UNKNOWN] = {400, INVALID, "price_unknown", NULL},
    [API_IDEMPOTENCY_IN_FLIGHT] = {409, INVALID, "idempotency_in_flight", "1"},
    [API_IDEMPOTENCY_MISMATCH] = {422, INVALID, "idempotency_mismatch", NULL},
    [API_ALREADY_DONE] = {409, INVALID, "already_done", NULL},
    [API_PERMISSION_DENIED] = {403, "permission_error", "permission_denied", NULL},
    [API_MODEL_NOT_FOUND] = {404, INVALID, "model_not_found", NULL},
    [API_NOT_FOUND] = {404, INVALID, "not_found", NULL},
    [API_METHOD_NOT_ALLOWED] = {405, INVALID, "method_not_allowed", NULL},
    [API_MODEL_EXISTS] = {409, INVALID, "model_exists", NULL},
    [API_EXISTS] = {409, INVALID, "already_exists", NULL},
    [API_MODEL_LOAD_FAILED] = {400, INVALID, "model_load_failed", NULL},
    [API_REQUEST_TOO_LARGE] = {413, INVALID, "request_too_large", NULL},
    [API_REQUEST_QUARANTINED] = {422, INVALID, "request_quarantined", NULL},
    [API_URL_TOO_LONG] = {414, INVALID, "request_too_large", NULL},
    [API_HEADER_TOO_LARGE] = {431, INVALID, "request_too_large", NULL},
    [API_NOT_HTTP] = {400, INVALID, "bad_request", NULL},
    [API_HTTP_VERSION] = {505, INVALID, "bad_request", NULL},
    [API_MISDIRECTED] = {421, INVALID, "host_not_allowed", NULL},
    [API_RATE_LIMIT] = {429, "rate_limit_error", "rate_limit_exceeded", "1"},
    [API_QUEUE_FULL] = {429, "rate_limit_error", "queue_full", "1"},
    [API_NUMERIC_ERROR] = {500, "server_error", "numeric_error", NULL},
    [API_INTERNAL_ERROR] = {500, "server_error", "internal_error", NULL},
    [API_PROVIDER_ERROR] = {502, "server_error", "provider_error", NULL},
    [API_WORKER_DOWN] = {503, "server_error", "worker_down", "1"},
    [API_ACCOUNTS_DOWN] = {503, "server_error", "accounts_unavailable", "1"},
    [API_DRAINING] = {503, "server_error", "draining", "5"},
    [API_DEADLINE_EXCEEDED] = {504, "timeout_error", "deadline_exceeded", NULL},
};

static const enum api_error by_err[ERR_CODES] = {
    [ERR_NONE] = API_INTERNAL_ERROR,
    [ERR_INPUT] = API_INVALID_VALUE,
    [ERR_UNSUPPORTED] = API_UNSUPPORTED_PARAMETER,
    [ERR_LIMIT] = API_INVALID_VALUE,
    [ERR_CONTEXT] = API_CONTEXT_LENGTH_EXCEEDED,
    [ERR_NOT_FOUND] = API_MODEL_NOT_FOUND,
    [ERR_DENIED] = API_PERMISSION_DENIED,
    [ERR_MEMORY] = API_QUEUE_FULL,
    [ERR_IO] = API_INTERNAL_ERROR,
    [ERR_BUSY] = API_QUEUE_FULL,
    [ERR_GONE] = API_WORKER_DOWN,
    [ERR_TIMEOUT] = API_WORKER_DOWN,
    [ERR_DEADLINE] = API_DEADLINE_EXCEEDED,
    [ERR_CLOSING] = API_DRAINING,
    [ERR_RATE] = API_RATE_LIMIT,
    [ERR_QUARANTINED] = API_REQUEST_QUARANTINED,
    [ERR_NUMERIC] = API_NUMERIC_ERROR,
    [ERR_EXISTS] = API_MODEL_EXISTS,
    [ERR_UNKNOWN] = API_INTERNAL_ERROR,
    [ERR_BUDGET] = API_BUDGET_EXHAUSTED,
    [ERR_HELD] = API_BUDGET_HELD,
    [ERR_PRICE] = API_PRICE_UNKNOWN,
    [ERR_IN_FLIGHT] = API_IDEMPOTENCY_IN_FLIGHT,
    [ERR_DONE] = API_ALREADY_DONE,
    [ERR_MISMATCH] = API_IDEMPOTENCY_MISMATCH,
    [ERR_PROVIDER] = API_PROVIDER_ERROR,
    [ERR_STORE] = API_ACCOUNTS_DOWN,
    [ERR_BROKEN] = API_ACCOUNTS_DOWN,
    [ERR_INTERNAL] = API_INTERNAL_ERROR,
};

enum api_error api_error_of(const struct err *e)
{
    return (unsigned)e->code < ERR_CODES ? by_err[e->code] : API_INTERNAL_ERROR;
}

/* What a client is told in place of a message that the system or a library may have written, or that is about our inside. Those messages go to
 * the log. always: whatever the code; else for the codes of `inside` only. */
static const struct {
    const char *text;
    bool always;
} fixed_texts[API_ERRORS] = {
    [API_QUEUE_FULL] = {"The server has no room for this request now: try again.", false},
    [API_NUMERIC_ERROR] = {"The model computed a number that is not finite; the answer was stopped.", true},
    [API_INTERNAL_ERROR] = {"The server made a mistake; it is in its log.", true},
    [API_PROVIDER_ERROR] = {"The provider that was asked has failed.", true},
    [API_WORKER_DOWN] = {"What works on this request ended, was too slow or is being started: try again.", true},
    [API_ACCOUNTS_DOWN] = {"The accounts cannot be written now: try again.", true},
    [API_DRAINING] = {"The server is shutting down.", true},
    [API_DEADLINE_EXCEEDED] = {"The request's time is up (X-Request-Timeout-Ms, or the server's own limit).", true},
};

static const bool inside[ERR_CODES] = {[ERR_NONE] = true, [ERR_MEMORY] = true, [ERR_IO] = true, [ERR_UNKNOWN] = true, [ERR_INTERNAL] = true};

static const char *told_text(enum api_error kind, const struct err *e, const char *request_id)
{
    bool hide = fixed_texts[kind].always || (unsigned)e->code >= ERR_CODES || inside[e->code];
    if (!hide) return e->msg;
    if (kind == API_INTERNAL_ERROR || kind == API_NUMERIC_ERROR || kind == API_PROVIDER_ERROR || !fixed_texts[kind].always)
        log_request(LOG_ERROR, request_id, "a client is told '%s': %s", api_errors[kind].code, e->msg);
    return fixed_texts[kind].text ? fixed_texts[kind].text : fixed_texts[API_INTERNAL_ERROR].text;
}

/* A message may quote what a client sent, cut anywhere: what is not UTF-8 becomes U+FFFD, the rest stays. */
static void write_text(struct buf *b, const char *s)
{
    struct buf clean;
    buf_init(&clean, 4096);
    for (size_t i = 0, n = strlen(s); i < n;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len > 0)
            buf_append(&clean, s + i, (size_t)len);
        else
            buf_puts(&clean, "\xef\xbf\xbd");
        i += len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - i;
    }
    if (clean.failed && !b->failed) b->failed = clean.failed;
    json_write_string(b, clean.data ? clean.data : "", clean.len);
    buf_free(&clean);
}

int api_error_write(struct buf *b, enum api_error kind, const struct err *e, const char *request_id)
{
    buf_puts(b, "{\"error\":{\"message\":");
    write_text(b, told_text(kind, e, request_id));
    buf_printf(b, ",\"type\":\"%s\",\"param\":", api_errors[kind].type);
    if (e->param[0])
        write_text(b, e->param);
    else
        buf_puts(b, "null");
    buf_printf(b, ",\"code\":\"%s\"}}", api_errors[kind].code);
    return b->failed;
}

void api_error_reply_later(struct http_request *r, enum api_error kind, const struct err *e, int retry_after_s)
{
    struct buf b;
    buf_init(&b, 8192);
    api_error_write(&b, kind, e, http_request_id(r));
    char fallback[256]; /* the message is too long, or there is no memory for it */
    int n = snprintf(fallback, sizeof fallback,
                     "{\"error\":{\"message\":\"This error has a message that the server could not write.\",\"type\":\"%s\",\"param\":null,"
                     "\"code\":\"%s\"}}",
                     api_errors[kind].type, api_errors[kind].code);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", retry_after_s);
    if (api_errors[kind].retry_after) http_add_header(r, "retry-after", retry_after_s > 0 ? seconds : api_errors[kind].retry_after);
    bool in_vain = kind == API_DEADLINE_EXCEEDED || kind == API_BUDGET_EXHAUSTED || kind == API_ALREADY_DONE;
    if (in_vain) http_add_header(r, "x-should-retry", "false"); /* OpenAI's SDKs would, with the same deadline; and after every 409 */
    http_reply(r, api_errors[kind].status, "application/json", b.failed ? fallback : b.data, b.failed ? (size_t)n : b.len);
    buf_free(&b);
}

void api_error_reply(struct http_request *r, enum api_error kind, const struct err *e)
{
    api_error_reply_later(r, kind, e, 0);
}
