/* Webhook: messages signed as Standard Webhooks has it (https://www.standardwebhooks.com, symmetric signatures):
 *
 *     webhook-id: ID
 *     webhook-timestamp: seconds since 1970, of this try
 *     webhook-signature: v1,BASE64(HMAC-SHA256(secret, ID.TIMESTAMP.BODY))
 *
 * so that receivers verify them with any of its libraries. Pure. */
#ifndef SPILLWAY_SERVER_WEBHOOK_H
#define SPILLWAY_SERVER_WEBHOOK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WEBHOOK_MIN_SECRET = 24, WEBHOOK_MAX_SECRET = 64, WEBHOOK_SIGNATURE_BYTES = 64 };

struct webhook_secret {
    unsigned char bytes[WEBHOOK_MAX_SECRET];
    size_t n;
};
/* "whsec_" and 24 to 64 bytes in base64. -ERR_INPUT; the text is in no message. */
MUST_USE int webhook_secret_read(const char *text, struct webhook_secret *out, struct err *e);
/* "v1,...". body: NUL-terminated. */
void webhook_sign(const struct webhook_secret *s, const char *id, int64_t at_s, const char *body, char out[WEBHOOK_SIGNATURE_BYTES]);

#endif
