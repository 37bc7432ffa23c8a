/* Arena: memory that is freed all at once. Everything of one lifetime (process, request, step) goes into one arena.
 *
 * An arena has a ceiling in bytes, set when it is made; past it, and when the system has no memory, arena_alloc returns NULL.
 * Nothing is freed singly. Not thread-safe. Memory is zeroed. Alignment is 16 bytes. */
#ifndef SPILLWAY_BASE_ARENA_H
#define SPILLWAY_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head; /* newest chunk, where allocation goes on */
    size_t used_bytes;        /* handed out since the last reset, with padding */
    size_t max_bytes;
};

void arena_init(struct arena *a, size_t max_bytes);
/* Frees everything; the arena can be used again. */
void arena_reset(struct arena *a);
void *arena_alloc(struct arena *a, size_t n_bytes);
/* n * size with the product checked. */
void *arena_array(struct arena *a, size_t n, size_t size);
/* Copies n bytes and adds a NUL. */
char *arena_copy(struct arena *a, const char *p, size_t n);
/* Frees everything for good; accepts a zeroed struct. */
void arena_free(struct arena *a);

#endif
