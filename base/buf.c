/* Buf: see buf.h. */
#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max = max_bytes};
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = 0;
    if (b->data) b->data[0] = '\0';
}

static int buf_fail(struct buf *b, enum err_code code)
{
    if (!b->failed) b->failed = -(int)code;
    return -(int)code;
}

int buf_reserve(struct buf *b, size_t more_bytes)
{
    size_t need;
    if (__builtin_add_overflow(b->len, more_bytes, &need) || need > b->max || need == SIZE_MAX) return buf_fail(b, ERR_LIMIT);
    if (b->data && need < b->cap) return 0;
    size_t cap = b->cap ? b->cap : 64;
    while (cap <= need) cap = cap > SIZE_MAX / 2 ? need + 1 : cap * 2;
    if (cap > b->max && b->max >= need && b->max < SIZE_MAX) cap = b->max + 1;
    char *p = realloc(b->data, cap);
    if (!p) return buf_fail(b, ERR_MEMORY);
    b->data = p;
    b->cap = cap;
    b->data[b->len] = '\0';
    return 0;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
    int rc = buf_reserve(b, n);
    if (rc) return rc;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = '\0';
    return 0;
}

int buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int buf_putc(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

int buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    size_t room = b->data ? b->cap - b->len : 0; /* most often it fits: then once is enough */
    int n = vsnprintf(b->data ? b->data + b->len : NULL, room, fmt, ap);
    int rc = n < 0 ? buf_fail(b, ERR_INTERNAL) : buf_reserve(b, (size_t)n);
    if (!rc && (size_t)n >= room) vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    if (!rc) b->len += (size_t)n;
    if (rc && room) b->data[b->len] = '\0';
    va_end(again);
    return rc;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = buf_vprintf(b, fmt, ap);
    va_end(ap);
    return rc;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len);
    if (n == 0) return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}

int buf_read_file(struct buf *b, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
    int rc = 0;
    for (;;) {
        size_t room = b->max - b->len;
        size_t want = room < 65536 ? room + 1 : 65536; /* one byte past the maximum shows that the file is too large */
        char chunk[65536];
        ssize_t n = read(fd, chunk, want > sizeof chunk ? sizeof chunk : want);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        if (n <= 0) break;
        rc = buf_append(b, chunk, (size_t)n);
        if (rc) {
            rc = err_set(e, (enum err_code) - rc, "%s: larger than the limit of %zu bytes", path, b->max);
            break;
        }
    }
    if (!rc && !b->data) rc = buf_reserve(b, 0);
    close(fd);
    return rc;
}
