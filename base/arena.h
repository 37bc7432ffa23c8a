/* Arena: memory that is freed all at once. Everything of one lifetime (process, request, step) goes into one arena.
 *
 * An arena has a ceiling in bytes, set when it is made; past it, and when the system has no memory, arena_alloc returns NULL.
 * Nothing is freed singly. Not thread-safe. Memory is zeroed. Alignment is 16 bytes. */
#ifndef SPILLWAY_BASE_ARENA_H
#define SPILLWAY_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *head; /* newest chunk, where allocation goes on */
    size_t used_bytes;        /* handed out since the last reset, with padding */
    size_t max_bytes;
    bool no_memory; /* the system refused, and not our ceiling */
};

void arena_init(struct arena *a, size_t max_bytes);
/* Frees everything but one chunk of a moderate size, so that what is filled and reset again and again takes no memory anew. */
void arena_reset(struct arena *a);
void *arena_alloc(struct arena *a, size_t n_bytes);
/* Why it was NULL: ERR_LIMIT, the ceiling; ERR_MEMORY, the system's. */
enum err_code arena_failure(const struct arena *a);
/* n * size with the product checked. */
void *arena_array(struct arena *a, size_t n, size_t size);
/* Copies n bytes and adds a NUL. */
char *arena_copy(struct arena *a, const char *p, size_t n);
/* Frees everything for good; accepts a zeroed struct. */
void arena_free(struct arena *a);

#endif
