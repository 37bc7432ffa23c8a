/* Errors: one struct filled where the fault is seen, one negative code returned through every layer above it.
 *
 * A function that can fail takes `struct err *e` last and returns 0 (or an index) or a negative code, which is what
 * err_set() returns: `return err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));`. Layers above pass the code on and do
 * not write the message again; they may put words before it with err_prefix(). server/api/errors.c maps codes to HTTP.
 * CHECK() is for our own mistakes only and stays in release builds; bytes from a socket or a file get an error instead. */
#ifndef SPILLWAY_BASE_ERR_H
#define SPILLWAY_BASE_ERR_H

#include <stddef.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

enum err_code {
    ERR_NONE = 0,
    ERR_INPUT,       /* bytes or values from outside are wrong: a file, a request field, an option */
    ERR_UNSUPPORTED, /* well-formed, but asks for something that is not there */
    ERR_LIMIT,       /* a documented limit was exceeded: size, depth, count, fuel */
    ERR_CONTEXT,     /* the prompt does not fit the model's context */
    ERR_NOT_FOUND,   /* the named thing does not exist */
    ERR_DENIED,      /* not allowed */
    ERR_MEMORY,      /* memory could not be had */
    ERR_IO,          /* the operating system refused a read, a write, a socket */
    ERR_BUSY,        /* try again later: queue full, already running */
    ERR_RATE,        /* try again later: this caller has too much at once */
    ERR_GONE,        /* the other end is gone: worker, media process, client */
    ERR_TIMEOUT,     /* somebody took too long */
    ERR_DEADLINE,    /* the request's own deadline passed */
    ERR_CLOSING,     /* we are shutting down */
    ERR_QUARANTINED, /* has ended its worker too often */
    ERR_NUMERIC,     /* a non-finite logit row */
    ERR_EXISTS,      /* there is one of that name or id already */
    ERR_UNKNOWN,     /* whether a commit happened is not known: look */
    ERR_BUDGET,      /* a balance or budget never covers it */
    ERR_HELD,        /* a balance or budget does not cover it while others' holds are open */
    ERR_PRICE,       /* there is no price for it */
    ERR_IN_FLIGHT,   /* its idempotency key belongs to a request that is under way */
    ERR_DONE,        /* ... to one that has ended, whose answer is not kept */
    ERR_MISMATCH,    /* ... to one with another body */
    ERR_PROVIDER,    /* a hosted provider failed */
    ERR_STORE,       /* the accounts cannot be written now */
    ERR_BROKEN,      /* a disk may not have kept what it was told: this process must not go on with it */
    ERR_INTERNAL,    /* our own mistake, survivable */
    ERR_CODES        /* number of codes, not a code */
};

struct err {
    enum err_code code;
    char param[96]; /* the request field at fault, "" if none */
    char msg[512];
};

/* Both return -code. The message is cut at the size of msg, at a UTF-8 boundary; bytes in it that are no UTF-8 become U+FFFD. e may be
 * NULL: only the code is returned. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int err_set_param(struct err *e, enum err_code code, const char *param, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Puts "prefix: " before the message already there; returns -e->code. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* "input", "limit", ...; for logs. */
const char *err_code_name(enum err_code code);

__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what);
#define CHECK(x) ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x))

#endif
