/* Buf: a growing byte buffer with a maximum. A buffer without a maximum cannot be made.
 *
 * Append functions return 0, -ERR_LIMIT (the maximum) or -ERR_MEMORY and leave the buffer as it was; the failure also sticks
 * in `failed`, so that a row of appends can be checked once at its end. The bytes are always followed by a NUL that is
 * not counted. data is NULL until the first append. Not thread-safe. */
#ifndef SPILLWAY_BASE_BUF_H
#define SPILLWAY_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct buf {
    char *data;
    size_t len, cap, max;
    int failed; /* first failing code, 0 if none */
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_free(struct buf *b);  /* accepts a zeroed struct */
void buf_clear(struct buf *b); /* len = 0, failed = 0; keeps the memory */
int buf_reserve(struct buf *b, size_t more_bytes);
int buf_append(struct buf *b, const void *p, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_putc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
int buf_vprintf(struct buf *b, const char *fmt, va_list ap);
/* Drops the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
/* Reads a whole file or stream into b, at most b->max bytes. */
MUST_USE int buf_read_file(struct buf *b, const char *path, struct err *e);

#endif
