/* Rate headers: OpenAI's x-ratelimit-*, from the limits by the minute as the ledger tells them with a reserve (ledger.h). */
#ifndef SPILLWAY_SERVER_RATE_HEADERS_H
#define SPILLWAY_SERVER_RATE_HEADERS_H

#include "server/accounts/ledger.h"
#include "server/http.h"

enum { RATE_TIME_BYTES = 40 };

/* Three headers for each limit that there is. */
void rate_headers_add(struct http_request *r, const struct ledger_rate rates[LEDGER_RATES]);
/* As OpenAI writes durations: "0s", "20ms", "1s", "59.5s", "6m0s". ms >= 0. Returns out. */
char *rate_time_write(int64_t ms, char out[RATE_TIME_BYTES]);

#endif
