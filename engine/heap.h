/* Binary heap of pointers, the best one first. The caller's array; `moved` (or NULL) is told where an item has come to lie, so that an
 * item whose standing changed can be put right with heap_fix. Items that stand equal come out in no particular order: let `before`
 * decide all ties. */
#ifndef SPILLWAY_ENGINE_HEAP_H
#define SPILLWAY_ENGINE_HEAP_H

#include <stdbool.h>
#include <stdint.h>

struct heap {
    void **items;
    uint32_t n;
    bool (*before)(const void *a, const void *b);
    void (*moved)(void *item, uint32_t at);
};

static inline void heap_put(struct heap *h, uint32_t at, void *item)
{
    h->items[at] = item;
    if (h->moved) h->moved(item, at);
}

static inline void heap_down(struct heap *h, uint32_t at)
{
    void *item = h->items[at];
    for (uint32_t down; (down = 2 * at + 1) < h->n; at = down) {
        if (down + 1 < h->n && h->before(h->items[down + 1], h->items[down])) down++;
        if (!h->before(h->items[down], item)) break;
        heap_put(h, at, h->items[down]);
    }
    heap_put(h, at, item);
}

/* The item at this place has a new standing, or the place was filled just now. */
static inline void heap_fix(struct heap *h, uint32_t at)
{
    void *item = h->items[at];
    for (uint32_t up; at > 0 && h->before(item, h->items[up = (at - 1) / 2]); at = up) heap_put(h, at, h->items[up]);
    h->items[at] = item;
    heap_down(h, at);
}

static inline void heap_push(struct heap *h, void *item)
{
    h->items[h->n] = item;
    heap_fix(h, h->n++);
}

static inline void heap_remove(struct heap *h, uint32_t at)
{
    void *last = h->items[--h->n];
    if (at == h->n) return;
    h->items[at] = last;
    heap_fix(h, at);
}

/* Of n items in any order. */
static inline void heap_make(struct heap *h)
{
    for (uint32_t i = h->n / 2; i > 0; i--) heap_down(h, i - 1);
}

static inline void *heap_pop(struct heap *h)
{
    void *first = h->items[0];
    heap_remove(h, 0);
    return first;
}

#endif
