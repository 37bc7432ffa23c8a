/* data: URLs (RFC 2397) of pictures: "data:image/png;base64,....". Strict: the standard alphabet with its padding, no
 * blanks, no bits left over; one pass, and the size is judged before a byte is decoded. */
#ifndef SPILLWAY_ENGINE_MEDIA_DATA_URL_H
#define SPILLWAY_ENGINE_MEDIA_DATA_URL_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

/* Puts the decoded bytes of the n bytes at url into out (cleared first; its own maximum holds too). Errors:
 * -ERR_UNSUPPORTED: another kind of URL, a media type other than image/..., no ;base64; -ERR_INPUT: not base64, with
 * the offset; -ERR_LIMIT: more than max_bytes. */
MUST_USE int data_url_decode(const char *url, size_t n, size_t max_bytes, struct buf *out, struct err *e);

#endif
