/* Rate headers: see rate_headers.h. */
#include "server/rate_headers.h"

#include <stdio.h>
#include <string.h>

char *rate_time_write(int64_t ms, char out[RATE_TIME_BYTES])
{
    int n = ms < 60000 ? 0 : snprintf(out, RATE_TIME_BYTES, "%lldm", (long long)(ms / 60000));
    const int s = (int)(ms % 60000 / 1000), rest = (int)(ms % 1000);
    if (ms > 0 && ms < 1000) {
        snprintf(out, RATE_TIME_BYTES, "%dms", rest);
        return out;
    }
    n += snprintf(out + n, RATE_TIME_BYTES - (size_t)n, "%d", s);
    if (rest) {
        n += snprintf(out + n, RATE_TIME_BYTES - (size_t)n, ".%03d", rest);
        while (out[n - 1] == '0') n--;
    }
    snprintf(out + n, RATE_TIME_BYTES - (size_t)n, "s");
    return out;
}

void rate_headers_add(struct http_request *r, const struct ledger_rate rates[LEDGER_RATES])
{
    static const char *const names[LEDGER_RATES] = {[LEDGER_RATE_REQUESTS] = "requests", [LEDGER_RATE_TOKENS] = "tokens"};
    for (int i = 0; i < LEDGER_RATES; i++) {
        char name[40], value[RATE_TIME_BYTES];
        if (!rates[i].is) continue;
        snprintf(name, sizeof name, "x-ratelimit-limit-%s", names[i]);
        snprintf(value, sizeof value, "%lld", (long long)rates[i].limit);
        http_add_header(r, name, value);
        snprintf(name, sizeof name, "x-ratelimit-remaining-%s", names[i]);
        snprintf(value, sizeof value, "%lld", (long long)rates[i].remaining);
        http_add_header(r, name, value);
        snprintf(name, sizeof name, "x-ratelimit-reset-%s", names[i]);
        http_add_header(r, name, rate_time_write(rates[i].reset_ms, value));
    }
}
