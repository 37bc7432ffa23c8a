/* BPE: merges inside one piece, lowest rank first, leftmost first among equals, as the reference does; n log n by a heap of candidate pairs. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_parts.h"

const struct merge *merge_find(const struct merge_map *m, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    for (size_t i = (size_t)(h >> 32) & m->mask;; i = (i + 1) & m->mask) {
        const struct merge *s = &m->slots[i];
        if (s->left < 0) return NULL;
        if (s->left == left && s->right == right) return s;
    }
}

struct symbol {
    int32_t id;
    int32_t prev, next; /* -1: none */
};

/* A pair that could be merged: its rank above, the index of its left symbol below, so that numbers sort as merges do. */
typedef uint64_t candidate;

/* Four children a node: a text of a megabyte in one word has a heap far larger than caches, and each level is a miss. */
enum { HEAP_WAYS = 4 };
struct heap {
    candidate *items;
    size_t n;
};

static void heap_push(struct heap *h, candidate c)
{
    size_t i = h->n++;
    for (; i > 0 && c < h->items[(i - 1) / HEAP_WAYS]; i = (i - 1) / HEAP_WAYS) h->items[i] = h->items[(i - 1) / HEAP_WAYS];
    h->items[i] = c;
}

static candidate heap_pop(struct heap *h)
{
    candidate top = h->items[0], last = h->items[--h->n];
    size_t i = 0;
    for (size_t child; (child = HEAP_WAYS * i + 1) < h->n; i = child) {
        size_t end = child + HEAP_WAYS < h->n ? child + HEAP_WAYS : h->n;
        for (size_t k = child + 1; k < end; k++)
            if (h->items[k] < h->items[child]) child = k;
        if (h->items[child] >= last) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = last;
    return top;
}

static void consider(const struct tokenizer *t, struct heap *h, const struct symbol *s, int32_t at)
{
    if (at < 0 || s[at].next < 0) return;
    const struct merge *m = merge_find(&t->merges, s[at].id, s[s[at].next].id);
    if (m) heap_push(h, (candidate)m->rank << 32 | (uint32_t)at);
}

/* Each merge removes a symbol and considers two new pairs, and takes one out of the heap: it never holds more than 2n. */
static void merge_all(const struct tokenizer *t, struct symbol *s, struct heap *h)
{
    while (h->n) {
        candidate c = heap_pop(h);
        int32_t at = (int32_t)(uint32_t)c, right = s[at].id < 0 ? -1 : s[at].next;
        if (right < 0) continue;
        const struct merge *m = merge_find(&t->merges, s[at].id, s[right].id);
        if (!m || m->rank != c >> 32) continue; /* one side has been merged away since; a rank is one merge's */
        s[at].id = m->result;
        s[at].next = s[right].next;
        if (s[right].next >= 0) s[s[right].next].prev = at;
        s[right].id = -1;
        consider(t, h, s, s[at].prev);
        consider(t, h, s, at);
    }
}

int bpe_encode(const struct tokenizer *t, const char *p, size_t n, struct tokens *out, struct err *e)
{
    if (n == 0) return 0;
    int32_t whole = t->ignore_merges ? token_map_find(t, &t->vocab, p, n) : -1;
    if (whole >= 0) return tokens_push(out, whole) ? err_set(e, ERR_LIMIT, "more than %zu tokens", out->max) : 0;
    if (n > INT32_MAX / 4) return err_set(e, ERR_LIMIT, "tokenizer: a word of %zu bytes", n);
    struct symbol small[64], *s = small;
    candidate small_heap[128];
    struct heap h = {.items = small_heap};
    void *memory = NULL;
    if (n > 64) {
        memory = malloc(n * (2 * sizeof *h.items + sizeof *s));
        if (!memory) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
        h.items = memory;
        s = (struct symbol *)(void *)(h.items + 2 * n);
    }
    size_t n_symbols = 0;
    for (size_t i = 0; i < n; i++) { /* a byte the vocabulary lacks is left out, as by the reference without unk */
        int32_t id = t->byte_id[(unsigned char)p[i]];
        if (id >= 0) s[n_symbols] = (struct symbol){id, (int32_t)n_symbols - 1, (int32_t)n_symbols + 1}, n_symbols++;
    }
    if (n_symbols) s[n_symbols - 1].next = -1;
    for (size_t i = 0; i < n_symbols; i++) consider(t, &h, s, (int32_t)i);
    merge_all(t, s, &h);
    int rc = 0;
    for (int32_t i = n_symbols ? 0 : -1; i >= 0 && !rc; i = s[i].next) rc = tokens_push(out, s[i].id);
    free(memory);
    if (rc == -ERR_LIMIT) return err_set(e, ERR_LIMIT, "more than %zu tokens", out->max);
    return rc ? err_set(e, ERR_MEMORY, "tokenizer: out of memory") : 0;
}
