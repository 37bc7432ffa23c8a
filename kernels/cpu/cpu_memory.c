/* CPU memory: zeroed allocations whose pages appear when they are touched, and the region that packed weights are laid in. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

enum { ALIGN = 64, HUGE_PAGE = 2 << 20, CHUNK = 32 << 20 };
/* Before each allocation, so that freeing needs no size. */
struct head {
    _Alignas(ALIGN) size_t bytes;
};

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *cpu_zeroed(size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
#ifdef __SANITIZE_ADDRESS__ /* with red zones */
    struct head *h = aligned_alloc(ALIGN, (sizeof *h + bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1));
    if (h) memset(h, 0, sizeof *h + bytes);
#else
    struct head *h = map(sizeof *h + bytes);
#endif
    if (!h) return NULL;
    h->bytes = sizeof *h + bytes;
    return h + 1;
}

void cpu_zeroed_free(void *p)
{
    if (!p) return;
    struct head *h = (struct head *)p - 1;
#ifdef __SANITIZE_ADDRESS__
    free(h);
#else
    munmap(h, h->bytes);
#endif
}

/* Large pages: a decode step reads every weight once, and walking page tables for 4 KiB each costs a tenth of the bandwidth. */
void *cpu_region_take(struct cpu_region *r, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    struct cpu_chunk *c = r->newest;
    if (!c || c->end - c->next < (ptrdiff_t)bytes) {
        c = malloc(sizeof *c);
        if (!c) return NULL;
        c->bytes = ((bytes > CHUNK ? bytes : CHUNK) + 2 * HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
        c->base = map(c->bytes);
        if (!c->base) {
            free(c);
            return NULL;
        }
        c->end = c->base + c->bytes;
        c->next = (unsigned char *)(((uintptr_t)c->base + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
        madvise(c->next, (size_t)(c->end - c->next), MADV_HUGEPAGE); /* a wish: kernels without them go on with small pages */
        c->older = r->newest;
        r->newest = c;
    }
    void *p = c->next;
    c->next += bytes;
    return p;
}

void cpu_region_free(struct cpu_region *r)
{
    for (struct cpu_chunk *c = r->newest, *older; c; c = older) {
        older = c->older;
        munmap(c->base, c->bytes);
        free(c);
    }
    r->newest = NULL;
}
