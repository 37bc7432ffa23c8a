/* Sticky: see sticky.h. */
#include "server/routing/sticky.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { WAYS = 4 };

struct place {
    uint64_t key; /* 0: free */
    int64_t at_ms;
    int hosted;
};

struct sticky {
    uint64_t seed;
    struct place places[STICKY_PLACES / WAYS][WAYS];
};

int sticky_new(struct sticky **out, uint64_t seed, struct err *e)
{
    struct sticky *s = *out = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    s->seed = seed;
    return 0;
}

void sticky_free(struct sticky *s)
{
    free(s);
}

void sticky_clear(struct sticky *s)
{
    memset(s->places, 0, sizeof s->places);
}

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

uint64_t sticky_key(const struct sticky *s, int64_t account, const char *session, size_t n)
{
    uint64_t h = mix(mix(s->seed, (uint64_t)account), n);
    for (size_t i = 0; i < n; i++) h = mix(h, (unsigned char)session[i]);
    h = mix(h, s->seed);
    return h ? h : 1;
}

static bool is_live(const struct place *p, uint64_t key, int64_t now_ms)
{
    return p->key == key && now_ms - p->at_ms < STICKY_MS;
}

int sticky_find(const struct sticky *s, uint64_t key, int64_t now_ms)
{
    const struct place *row = s->places[key % (STICKY_PLACES / WAYS)];
    for (size_t i = 0; i < WAYS; i++)
        if (is_live(&row[i], key, now_ms)) return row[i].hosted;
    return -1;
}

void sticky_note(struct sticky *s, uint64_t key, int hosted, int64_t now_ms)
{
    struct place *row = s->places[key % (STICKY_PLACES / WAYS)], *to = row;
    for (size_t i = 0; i < WAYS; i++) {
        if (row[i].key == key) {
            to = &row[i];
            break;
        }
        if (row[i].key == 0 || (to->key && row[i].at_ms < to->at_ms)) to = &row[i];
    }
    *to = (struct place){.key = key, .at_ms = now_ms, .hosted = hosted};
}
