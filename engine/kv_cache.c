/* KV cache: see kv_cache.h. Start at kv_cache_take. Blocks, accounts and list links are indexes into arrays made at the start. */
#include "engine/kv_cache.h"

#include <stdlib.h>

#include "engine/hash.h"
#include "engine/heap.h"

enum { NONE = UINT32_MAX };

struct block {
    struct kv_key key;
    uint32_t references;
    uint32_t account;      /* charged for it; NONE: the block is free */
    uint32_t older, newer; /* idle ones of the account, in the order of their release */
    uint32_t next_by_key;
    uint64_t released_at; /* a count of releases */
    bool published;
};

struct account {
    const struct kv_cache *cache;
    uint64_t id;
    uint32_t weight;
    uint32_t n_charged;
    uint32_t oldest, newest; /* idle blocks */
    uint32_t heap_at;        /* NONE: no idle block */
    uint32_t next_by_id;     /* also of the unused ones */
};

struct kv_cache {
    uint32_t n_blocks, n_free, n_idle;
    struct block *blocks;
    uint32_t *free;   /* a stack of block numbers */
    uint32_t *by_key; /* heads of chains; a power of two */
    uint32_t key_mask;
    struct account *accounts; /* n_blocks + 1: who takes a block has a record before somebody's last one is gone */
    uint32_t *by_id;
    uint32_t id_mask, unused_account;
    struct heap evict; /* accounts with idle blocks, the one to take from first */
    uint64_t n_releases;
};

static bool evict_before(const void *x, const void *y)
{
    const struct account *a = x, *b = y;
    uint64_t more = (uint64_t)a->n_charged * b->weight, less = (uint64_t)b->n_charged * a->weight;
    if (more != less) return more > less;
    return a->cache->blocks[a->oldest].released_at < b->cache->blocks[b->oldest].released_at;
}

static void evict_moved(void *account, uint32_t at)
{
    ((struct account *)account)->heap_at = at;
}

static uint32_t *chains(uint32_t n)
{
    uint32_t *heads = calloc(n, sizeof *heads);
    for (uint32_t i = 0; heads && i < n; i++) heads[i] = NONE;
    return heads;
}

int kv_cache_new(struct kv_cache **out, uint32_t n_blocks, struct err *e)
{
    *out = NULL;
    CHECK(n_blocks > 0 && n_blocks < NONE / 4);
    struct kv_cache *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    uint32_t n_chains = hash_chains(n_blocks + n_blocks / 2);
    *c = (struct kv_cache){
        .n_blocks = n_blocks,
        .blocks = calloc(n_blocks, sizeof *c->blocks),
        .free = calloc(n_blocks, sizeof *c->free),
        .by_key = chains(n_chains),
        .key_mask = n_chains - 1,
        .accounts = calloc((size_t)n_blocks + 1, sizeof *c->accounts),
        .by_id = chains(n_chains),
        .id_mask = n_chains - 1,
        .evict = {.items = calloc((size_t)n_blocks + 1, sizeof *c->evict.items), .before = evict_before, .moved = evict_moved}};
    if (!c->blocks || !c->free || !c->by_key || !c->accounts || !c->by_id || !c->evict.items) {
        kv_cache_free(c);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        c->blocks[i] = (struct block){.account = NONE, .older = NONE, .newer = NONE, .next_by_key = NONE};
        c->free[c->n_free++] = n_blocks - 1 - i; /* the lowest number is taken first */
    }
    for (uint32_t i = 0; i <= n_blocks; i++) c->accounts[i] = (struct account){.next_by_id = i < n_blocks ? i + 1 : NONE, .heap_at = NONE};
    *out = c;
    return 0;
}

void kv_cache_free(struct kv_cache *c)
{
    if (!c) return;
    free(c->blocks);
    free(c->free);
    free(c->by_key);
    free(c->accounts);
    free(c->by_id);
    free(c->evict.items);
    free(c);
}

/* ---- accounts ---- */

static uint32_t *id_chain(const struct kv_cache *c, uint64_t id)
{
    return &c->by_id[hash_chain_of(id, c->id_mask)];
}

static uint32_t account_find(const struct kv_cache *c, uint64_t id)
{
    uint32_t i = *id_chain(c, id);
    while (i != NONE && c->accounts[i].id != id) i = c->accounts[i].next_by_id;
    return i;
}

static uint32_t account_get(struct kv_cache *c, uint64_t id)
{
    uint32_t i = account_find(c, id), *chain = id_chain(c, id);
    if (i != NONE) return i;
    i = c->unused_account;
    CHECK(i != NONE); /* one of n_blocks + 1 records has no block */
    c->unused_account = c->accounts[i].next_by_id;
    c->accounts[i] =
        (struct account){.cache = c, .id = id, .weight = 1, .oldest = NONE, .newest = NONE, .heap_at = NONE, .next_by_id = *chain};
    *chain = i;
    return i;
}

static void account_drop(struct kv_cache *c, uint32_t i)
{
    uint32_t *at = id_chain(c, c->accounts[i].id);
    while (*at != i) at = &c->accounts[*at].next_by_id;
    *at = c->accounts[i].next_by_id;
    c->accounts[i].next_by_id = c->unused_account;
    c->unused_account = i;
}

/* Something its place among those to evict from depends on has changed. */
static void account_changed(struct kv_cache *c, uint32_t i)
{
    struct account *a = &c->accounts[i];
    if (a->oldest == NONE && a->heap_at != NONE) {
        heap_remove(&c->evict, a->heap_at);
        a->heap_at = NONE;
    } else if (a->oldest != NONE && a->heap_at == NONE)
        heap_push(&c->evict, a);
    else if (a->heap_at != NONE)
        heap_fix(&c->evict, a->heap_at);
    if (a->n_charged == 0) account_drop(c, i);
}

/* ---- keys and idle blocks ---- */

static uint32_t *key_chain(const struct kv_cache *c, struct kv_key key)
{
    return &c->by_key[(uint32_t)key.half[0] & c->key_mask];
}

static uint32_t key_find(const struct kv_cache *c, struct kv_key key)
{
    uint32_t b = *key_chain(c, key);
    while (b != NONE && !kv_key_equal(c->blocks[b].key, key)) b = c->blocks[b].next_by_key;
    return b;
}

static void key_forget(struct kv_cache *c, uint32_t b)
{
    uint32_t *at = key_chain(c, c->blocks[b].key);
    while (*at != b) at = &c->blocks[*at].next_by_key;
    *at = c->blocks[b].next_by_key;
    c->blocks[b].published = false;
}

static void idle_add(struct kv_cache *c, uint32_t b)
{
    struct block *x = &c->blocks[b];
    struct account *a = &c->accounts[x->account];
    x->released_at = ++c->n_releases;
    x->older = a->newest;
    x->newer = NONE;
    *(a->newest == NONE ? &a->oldest : &c->blocks[a->newest].newer) = b;
    a->newest = b;
    c->n_idle++;
    account_changed(c, x->account);
}

static void idle_remove(struct kv_cache *c, uint32_t b)
{
    struct block *x = &c->blocks[b];
    struct account *a = &c->accounts[x->account];
    *(x->older == NONE ? &a->oldest : &c->blocks[x->older].newer) = x->newer;
    *(x->newer == NONE ? &a->newest : &c->blocks[x->newer].older) = x->older;
    c->n_idle--;
}

/* ---- the calls ---- */

uint32_t kv_cache_peek(const struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *n_idle)
{
    uint32_t found = 0;
    *n_idle = 0;
    for (uint32_t b; found < n && (b = key_find(c, keys[found])) != NONE; found++) *n_idle += c->blocks[b].references == 0;
    return found;
}

uint32_t kv_cache_match(struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *blocks)
{
    uint32_t found = 0;
    for (uint32_t b; found < n && (b = key_find(c, keys[found])) != NONE; found++) {
        if (c->blocks[b].references++ == 0) {
            idle_remove(c, b);
            account_changed(c, c->blocks[b].account);
        }
        blocks[found] = b;
    }
    return found;
}

/* The block of which the account with most for its weight has not been in need longest. */
static uint32_t evict(struct kv_cache *c)
{
    struct account *a = c->evict.items[0];
    uint32_t b = a->oldest;
    idle_remove(c, b);
    key_forget(c, b);
    a->n_charged--;
    account_changed(c, c->blocks[b].account);
    return b;
}

bool kv_cache_take(struct kv_cache *c, uint64_t account, uint32_t weight, uint32_t *block)
{
    if (c->n_free == 0 && c->n_idle == 0) return false;
    uint32_t i = account_get(c, account);
    c->accounts[i].weight = weight ? weight : 1;
    c->accounts[i].n_charged++;
    account_changed(c, i);
    uint32_t b = c->n_free > 0 ? c->free[--c->n_free] : evict(c);
    struct block *x = &c->blocks[b];
    CHECK(x->references == 0 && !x->published);
    x->references = 1;
    x->account = i;
    *block = b;
    return true;
}

void kv_cache_publish(struct kv_cache *c, uint32_t block, struct kv_key key)
{
    CHECK(block < c->n_blocks && c->blocks[block].references > 0 && !c->blocks[block].published);
    if (key_find(c, key) != NONE) return;
    struct block *x = &c->blocks[block];
    uint32_t *chain = key_chain(c, key);
    x->key = key;
    x->published = true;
    x->next_by_key = *chain;
    *chain = block;
}

void kv_cache_release(struct kv_cache *c, uint32_t block)
{
    CHECK(block < c->n_blocks && c->blocks[block].references > 0);
    struct block *x = &c->blocks[block];
    if (--x->references > 0) return;
    if (x->published) {
        idle_add(c, block);
        return;
    }
    uint32_t i = x->account;
    c->accounts[i].n_charged--;
    x->account = NONE;
    c->free[c->n_free++] = block;
    account_changed(c, i);
}

struct kv_cache_counts kv_cache_counts(const struct kv_cache *c)
{
    return (struct kv_cache_counts){.free = c->n_free, .cached = c->n_idle, .referenced = c->n_blocks - c->n_free - c->n_idle};
}

uint32_t kv_cache_available(const struct kv_cache *c)
{
    return c->n_free + c->n_idle;
}

uint32_t kv_cache_references(const struct kv_cache *c, uint32_t block)
{
    CHECK(block < c->n_blocks);
    return c->blocks[block].references;
}

uint32_t kv_cache_charged(const struct kv_cache *c, uint64_t account)
{
    uint32_t i = account_find(c, account);
    return i == NONE ? 0 : c->accounts[i].n_charged;
}
