/* Event streams that we read (another server's): the same events however the bytes are cut, none with a NUL's worth of data lost, no name that is not
 * whole. */
#include <string.h>

#include "server/sse_read.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"data: ",
                                    "data:",
                                    "data",
                                    "event: ",
                                    "event:message\n",
                                    "id: 1\n",
                                    "retry: 5\n",
                                    ": c\n",
                                    "\n",
                                    "\r",
                                    "\r\n",
                                    "\n\n",
                                    "\r\r",
                                    "\r\n\r\n",
                                    "\xEF\xBB\xBF",
                                    "[DONE]",
                                    "{\"a\":1}",
                                    "data: x\n\n",
                                    "event: 0123456789012345678901234567890123456789012345678901234567890123456789\n",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

static int take(void *ctx, const char *name, const char *data, size_t n)
{
    struct buf *all = ctx;
    FUZZ_CHECK(strlen(name) < SSE_MAX_NAME_BYTES && name[0] && data[n] == '\0');
    buf_append(all, name, strlen(name) + 1);
    buf_append(all, data, n);
    buf_append(all, "\x1E", 1);
    return 0;
}

static int read_stream(const uint8_t *p, size_t n, bool cut, struct buf *all)
{
    struct sse_read s;
    struct err e = {0};
    struct fuzz_random r = {n};
    for (size_t i = 0; i < n && i < 64; i++) r.state = r.state * 31 + p[i];
    buf_init(all, 1 << 20);
    sse_read_init(&s, take, all);
    int rc = 0;
    for (size_t at = 0, piece; at < n && !rc; at += piece) {
        piece = cut ? 1 + fuzz_below(&r, 1u << fuzz_below(&r, 8)) : n;
        if (piece > n - at) piece = n - at;
        char *own = malloc(piece);
        FUZZ_CHECK(own);
        memcpy(own, p + at, piece);
        rc = sse_read_push(&s, own, piece, &e);
        free(own);
    }
    sse_read_free(&s);
    if (rc) fuzz_check_err(rc, &e);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct buf whole, pieces;
    int rc = read_stream(p, n, false, &whole);
    FUZZ_CHECK(read_stream(p, n, true, &pieces) == rc);
    FUZZ_CHECK(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
    buf_free(&whole);
    buf_free(&pieces);
    return 0;
}
