/* Arena: see arena.h. Chunks grow from 4 KiB to 1 MiB; a larger request gets a chunk of its own. */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_ALIGN = 16, ARENA_CHUNK_MIN = 4096, ARENA_CHUNK_MAX = 1 << 20, ARENA_KEEP_MAX = 64 << 10 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(ARENA_ALIGN) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){.max_bytes = max_bytes};
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *c = a->head, *kept = NULL;
    while (c) {
        struct arena_chunk *next = c->next;
        if (!kept && c->cap <= ARENA_KEEP_MAX)
            kept = c; /* the newest is the largest */
        else
            free(c);
        c = next;
    }
    if (kept) {
        kept->next = NULL;
        kept->used = 0;
    }
    a->head = kept;
    a->used_bytes = 0;
    a->no_memory = false;
}

void arena_free(struct arena *a)
{
    arena_reset(a);
    free(a->head);
    *a = (struct arena){0};
}

enum err_code arena_failure(const struct arena *a)
{
    return a->no_memory ? ERR_MEMORY : ERR_LIMIT;
}

static struct arena_chunk *chunk_new(struct arena *a, size_t need)
{
    size_t cap = a->head ? a->head->cap * 2 : ARENA_CHUNK_MIN;
    if (cap > ARENA_CHUNK_MAX) cap = ARENA_CHUNK_MAX;
    if (cap < need) cap = need;
    size_t total;
    if (__builtin_add_overflow(cap, sizeof(struct arena_chunk), &total)) return NULL;
    struct arena_chunk *c = malloc(total);
    if (!c) {
        a->no_memory = true;
        return NULL;
    }
    *c = (struct arena_chunk){.cap = cap};
    return c;
}

void *arena_alloc(struct arena *a, size_t n_bytes)
{
    size_t need, total;
    if (n_bytes == 0) n_bytes = 1;
    if (__builtin_add_overflow(n_bytes, (size_t)ARENA_ALIGN - 1, &need)) return NULL;
    need &= ~(size_t)(ARENA_ALIGN - 1);
    if (__builtin_add_overflow(a->used_bytes, need, &total) || total > a->max_bytes) return NULL;
    if (!a->head || a->head->cap - a->head->used < need) {
        struct arena_chunk *c = chunk_new(a, need);
        if (!c) return NULL;
        c->next = a->head;
        a->head = c;
    }
    void *p = a->head->bytes + a->head->used;
    a->head->used += need;
    a->used_bytes = total;
    return memset(p, 0, n_bytes);
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) return NULL;
    return arena_alloc(a, bytes);
}

char *arena_copy(struct arena *a, const char *p, size_t n)
{
    size_t bytes;
    if (__builtin_add_overflow(n, (size_t)1, &bytes)) return NULL;
    char *q = arena_alloc(a, bytes);
    if (q && n) memcpy(q, p, n);
    return q;
}
