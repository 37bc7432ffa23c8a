/* Affinity: see affinity.h. */
#include "server/affinity.h"

#include <sodium.h>
#include <stdlib.h>

enum { ENTRIES = 1 << 14 }; /* 256 KiB: the marks of a thousand talks of 1,000 tokens */

struct entry {
    uint64_t hash;
    int32_t worker; /* + 1; 0: free */
};

struct affinity {
    uint64_t key;
    struct entry entries[ENTRIES];
};

int affinity_new(struct affinity **out, struct err *e)
{
    struct affinity *a = *out = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    randombytes_buf(&a->key, sizeof a->key);
    return 0;
}

void affinity_free(struct affinity *a)
{
    free(a);
}

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

void affinity_begin(const struct affinity *a, struct affinity_marks *m, uint64_t scope)
{
    m->hash = mix(mix(a->key, scope), a->key);
    m->n_tokens = m->n = 0;
}

bool affinity_add(struct affinity_marks *m, uint64_t word)
{
    m->hash = mix(m->hash, word);
    m->n_tokens++;
    if (m->n_tokens % (m->n_tokens <= AFFINITY_FINE ? AFFINITY_STEP : AFFINITY_FINE)) return true;
    m->marks[m->n] = m->hash;
    m->ends[m->n++] = m->n_tokens;
    return m->n < AFFINITY_MAX_MARKS;
}

int affinity_find(const struct affinity *a, const struct affinity_marks *m, uint32_t among, uint32_t *n_tokens)
{
    for (size_t i = m->n; i-- > 0;) {
        const struct entry *x = &a->entries[m->marks[i] % ENTRIES];
        if (!x->worker || x->hash != m->marks[i] || !(among >> (x->worker - 1) & 1)) continue;
        *n_tokens = m->ends[i];
        return x->worker - 1;
    }
    return -1;
}

void affinity_note(struct affinity *a, const struct affinity_marks *m, int worker)
{
    for (size_t i = 0; i < m->n; i++) a->entries[m->marks[i] % ENTRIES] = (struct entry){.hash = m->marks[i], .worker = worker + 1};
}

void affinity_forget(struct affinity *a, int worker)
{
    for (size_t i = 0; a && i < ENTRIES; i++)
        if (a->entries[i].worker == worker + 1) a->entries[i].worker = 0;
}
