/* Access log: see access_log.h. */
#include "server/access_log.h"

#include "base/log.h"

enum { CLIENT_LEFT = 499 };

void access_log_done(void *ctx, const struct http_request *r)
{
    (void)ctx;
    unsigned status = http_status(r);
    const struct log_field fields[] = {
        {.name = "request", .text = http_request_id(r)}, {.name = "method", .text = http_method(r)},
        {.name = "path", .text = http_path(r)},          {.name = "status", .number = status ? status : CLIENT_LEFT},
        {.name = "bytes", .number = http_sent_bytes(r)}, {.name = "ms", .number = http_age_ms(r)},
        {.name = "key", .number = http_owner(r)},
    };
    log_write_fields(LOG_INFO, fields, sizeof fields / sizeof *fields, "request");
}
