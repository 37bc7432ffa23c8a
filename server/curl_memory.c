/* Curl's memory: see curl_memory.h. Any thread: its resolver's are among them. */
#include "server/curl_memory.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 1024, PIECES = 64 };

static struct {
    _Alignas(max_align_t) char pieces[PIECES][PIECE_BYTES]; /* not resident until one is needed */
    atomic_uint_fast64_t taken;                             /* bit i: piece i is */
} reserve;

static bool is_reserve(const void *p)
{
    const uintptr_t at = (uintptr_t)p, first = (uintptr_t)reserve.pieces;
    return at >= first && at < first + sizeof reserve.pieces;
}

static void *from_reserve(size_t n)
{
    uint_fast64_t taken = reserve.taken;
    if (n > PIECE_BYTES) return NULL;
    while (~taken) {
        const int i = __builtin_ctzll(~taken);
        if (atomic_compare_exchange_weak(&reserve.taken, &taken, taken | (uint_fast64_t)1 << i)) return reserve.pieces[i];
    }
    return NULL;
}

static void *take(size_t n)
{
    void *p = malloc(n);
    return p ? p : from_reserve(n);
}

static void give(void *p)
{
    if (is_reserve(p))
        atomic_fetch_and(&reserve.taken, ~((uint_fast64_t)1 << ((uintptr_t)p - (uintptr_t)reserve.pieces) / PIECE_BYTES));
    else
        free(p);
}

static void *take_zeroed(size_t n, size_t size)
{
    size_t bytes;
    void *p = calloc(n, size);
    if (p || __builtin_mul_overflow(n, size, &bytes)) return p;
    p = from_reserve(bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

static void *take_more(void *p, size_t n)
{
    if (!is_reserve(p)) return p ? realloc(p, n) : take(n);
    if (n <= PIECE_BYTES) return p;
    void *more = malloc(n);
    if (!more) return NULL;
    memcpy(more, p, PIECE_BYTES);
    give(p);
    return more;
}

static char *take_text(const char *s)
{
    const size_t n = strlen(s) + 1;
    char *p = take(n);
    return p ? memcpy(p, s, n) : NULL;
}

int curl_memory_init(struct err *e)
{
    CURLcode code = curl_global_init_mem(CURL_GLOBAL_DEFAULT, take, give, take_more, take_text, take_zeroed);
    return code ? err_set(e, ERR_IO, "libcurl cannot start: %s", curl_easy_strerror(code)) : 0;
}
