/* Errors: see err.h. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static const char *const code_names[ERR_CODES] = {
    [ERR_NONE] = "none",       [ERR_INPUT] = "input",       [ERR_UNSUPPORTED] = "unsupported",
    [ERR_LIMIT] = "limit",     [ERR_CONTEXT] = "context",   [ERR_NOT_FOUND] = "not_found",
    [ERR_DENIED] = "denied",   [ERR_MEMORY] = "memory",     [ERR_IO] = "io",
    [ERR_BUSY] = "busy",       [ERR_RATE] = "rate",         [ERR_GONE] = "gone",
    [ERR_TIMEOUT] = "timeout", [ERR_CLOSING] = "closing",   [ERR_QUARANTINED] = "quarantined",
    [ERR_NUMERIC] = "numeric", [ERR_INTERNAL] = "internal", [ERR_DEADLINE] = "deadline",
    [ERR_EXISTS] = "exists",   [ERR_UNKNOWN] = "unknown",   [ERR_BUDGET] = "budget",
    [ERR_HELD] = "held",       [ERR_PRICE] = "price",       [ERR_IN_FLIGHT] = "in_flight",
    [ERR_DONE] = "done",       [ERR_MISMATCH] = "mismatch", [ERR_STORE] = "store",
    [ERR_PROVIDER] = "provider", [ERR_BROKEN] = "broken",
};

const char *err_code_name(enum err_code code)
{
    return (unsigned)code < ERR_CODES ? code_names[code] : "unknown";
}

/* A message cut by vsnprintf may end inside a character: cut back to its start. Names in it may have been cut, too, or come from a file: what is
 * not UTF-8 becomes U+FFFD, as far as there is room. */
static void make_utf8(char *s, size_t cap)
{
    size_t n = strlen(s), o = 0;
    if (utf8_valid(s, n)) return;
    char out[sizeof((struct err *)0)->msg];
    CHECK(cap <= sizeof out);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len == 0 && n + 1 == cap) break;
        size_t used = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - i, more = len > 0 ? used : 3;
        if (o + more >= cap) break;
        memcpy(out + o, len > 0 ? s + i : "\xEF\xBF\xBD", more);
        o += more;
        i += used;
    }
    memcpy(s, out, o);
    s[o] = '\0';
}

static void set_message(struct err *e, enum err_code code, const char *param, const char *fmt, va_list ap)
{
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    make_utf8(e->param, sizeof e->param);
    make_utf8(e->msg, sizeof e->msg);
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (!e) return -(int)code;
    va_list ap;
    va_start(ap, fmt);
    set_message(e, code, "", fmt, ap);
    va_end(ap);
    return -(int)code;
}

int err_set_param(struct err *e, enum err_code code, const char *param, const char *fmt, ...)
{
    if (!e) return -(int)code;
    va_list ap;
    va_start(ap, fmt);
    set_message(e, code, param, fmt, ap);
    va_end(ap);
    return -(int)code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e) return -(int)ERR_INTERNAL;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    const char *tail[] = {": ", old};
    for (size_t i = 0; i < 2 && n >= 0 && (size_t)n < sizeof e->msg; i++) {
        size_t left = sizeof e->msg - (size_t)n - 1, len = strlen(tail[i]);
        memcpy(e->msg + n, tail[i], len < left ? len : left);
        n += (int)(len < left ? len : left);
        e->msg[n] = '\0';
    }
    make_utf8(e->msg, sizeof e->msg);
    return -(int)e->code;
}

_Noreturn void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "spillway: internal check failed at %s:%d: %s\n", file, line, what);
    abort();
}
