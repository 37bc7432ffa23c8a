/* API errors: one table of what a client may be told: HTTP status, OpenAI type and code. The layers below return err
 * codes; api_error_of maps them. */
#ifndef SPILLWAY_SERVER_API_ERRORS_H
#define SPILLWAY_SERVER_API_ERRORS_H

#include "base/buf.h"
#include "base/err.h"
#include "server/http.h"

enum api_error {
    API_INVALID_VALUE,
    API_UNSUPPORTED_PARAMETER,
    API_CONTEXT_LENGTH_EXCEEDED,
    API_INVALID_API_KEY,
    API_BUDGET_EXHAUSTED,
    API_BUDGET_HELD,
    API_PRICE_UNKNOWN,
    API_IDEMPOTENCY_IN_FLIGHT,
    API_IDEMPOTENCY_MISMATCH,
    API_ALREADY_DONE,
    API_PERMISSION_DENIED,
    API_MODEL_NOT_FOUND,
    API_NOT_FOUND,
    API_METHOD_NOT_ALLOWED,
    API_MODEL_EXISTS,
    API_EXISTS,
    API_MODEL_LOAD_FAILED,
    API_REQUEST_TOO_LARGE,
    API_REQUEST_QUARANTINED,
    API_URL_TOO_LONG,
    API_HEADER_TOO_LARGE,
    API_NOT_HTTP,
    API_HTTP_VERSION,
    API_MISDIRECTED,
    API_RATE_LIMIT,
    API_QUEUE_FULL,
    API_NUMERIC_ERROR,
    API_INTERNAL_ERROR,
    API_PROVIDER_ERROR,
    API_WORKER_DOWN,
    API_ACCOUNTS_DOWN,
    API_DRAINING,
    API_DEADLINE_EXCEEDED,
    API_ERRORS
};

struct api_error_row {
    unsigned status;
    const char *type, *code;
    const char *retry_after; /* seconds, NULL: no such header */
};
extern const struct api_error_row api_errors[API_ERRORS];

/* What a failure of a lower layer is to a client. */
enum api_error api_error_of(const struct err *e);
/* Appends {"error":{...}}. The message and param of e are made valid UTF-8. A message that the system or a library may have part in (ERR_IO,
 * ERR_MEMORY, ERR_INTERNAL), and every one of a 5xx, is not told: a fixed text of the kind is, and the message goes to the log. */
int api_error_write(struct buf *b, enum api_error kind, const struct err *e, const char *request_id);
void api_error_reply(struct http_request *r, enum api_error kind, const struct err *e);
/* The same with a Retry-After of its own in place of the table's, for the kinds that have one; 0: the table's. */
void api_error_reply_later(struct http_request *r, enum api_error kind, const struct err *e, int retry_after_s);

#endif
