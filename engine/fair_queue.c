/* Fair queue: see fair_queue.h. */
#include "engine/fair_queue.h"

#include <stdlib.h>

#include "engine/hash.h"
#include "engine/heap.h"

struct fair_queue {
    struct fair_account *accounts;
    struct fair_account **by_id; /* heads of chains; a power of two */
    uint32_t n_accounts, n_used, id_mask;
    struct heap heads; /* accounts with something waiting, by their first item */
    uint64_t n_leavings;
    uint64_t last_counter; /* of the account that left last, as nothing else was there */
};

static bool item_before(const struct fair_item *a, const struct fair_item *b)
{
    if (a->priority != b->priority) return a->priority > b->priority;
    if (a->put_back != b->put_back) return a->put_back;
    uint64_t had_a = a->account->counter + a->account->pending, had_b = b->account->counter + b->account->pending;
    if (!a->put_back && had_a != had_b) return had_a < had_b;
    return a->arrival < b->arrival;
}

static bool head_before(const void *a, const void *b)
{
    return item_before(((const struct fair_account *)a)->first, ((const struct fair_account *)b)->first);
}

int fair_queue_new(struct fair_queue **out, uint32_t max_live, struct err *e)
{
    *out = NULL;
    CHECK(max_live > 0 && max_live < (uint32_t)1 << 28);
    struct fair_queue *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_MEMORY, "out of memory");
    f->n_accounts = 2 * max_live; /* as many again that are idle keep their counters */
    const uint32_t n_chains = hash_chains(f->n_accounts);
    f->id_mask = n_chains - 1;
    f->accounts = calloc(f->n_accounts, sizeof *f->accounts);
    f->by_id = calloc(n_chains, sizeof *f->by_id);
    f->heads = (struct heap){.items = calloc(f->n_accounts, sizeof *f->heads.items), .before = head_before};
    if (!f->accounts || !f->by_id || !f->heads.items) {
        fair_queue_free(f);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    *out = f;
    return 0;
}

void fair_queue_free(struct fair_queue *f)
{
    if (!f) return;
    free(f->accounts);
    free(f->by_id);
    free(f->heads.items);
    free(f);
}

/* ---- accounts ---- */

static struct fair_account **id_chain(struct fair_queue *f, uint64_t id)
{
    return &f->by_id[hash_chain_of(id, f->id_mask)];
}

/* A record nobody uses: a new one, else the one idle for longest. */
static struct fair_account *unused(struct fair_queue *f)
{
    if (f->n_used < f->n_accounts) return &f->accounts[f->n_used++];
    struct fair_account *oldest = NULL;
    for (uint32_t i = 0; i < f->n_accounts; i++) {
        struct fair_account *a = &f->accounts[i];
        if (a->n_live == 0 && (!oldest || a->left_at < oldest->left_at)) oldest = a;
    }
    CHECK(oldest);
    struct fair_account **at = id_chain(f, oldest->id);
    while (*at != oldest) at = &(*at)->next_by_id;
    *at = oldest->next_by_id;
    return oldest;
}

static struct fair_account *account_get(struct fair_queue *f, uint64_t id)
{
    struct fair_account **chain = id_chain(f, id);
    for (struct fair_account *a = *chain; a; a = a->next_by_id)
        if (a->id == id) return a;
    struct fair_account *a = unused(f);
    *a = (struct fair_account){.id = id, .next_by_id = *chain};
    *chain = a;
    return a;
}

static void lift(struct fair_queue *f, struct fair_account *a)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < f->n_used; i++)
        if (f->accounts[i].n_live > 0 && f->accounts[i].counter < least) least = f->accounts[i].counter;
    if (least == UINT64_MAX) least = f->last_counter;
    if (a->counter < least) a->counter = least;
}

void fair_queue_enter(struct fair_queue *f, struct fair_item *item, uint64_t account, uint32_t weight)
{
    struct fair_account *a = account_get(f, account);
    if (a->n_live == 0) lift(f, a);
    a->weight = weight == 0 ? 1 : weight < FAIR_COST ? weight : FAIR_COST;
    a->n_live++;
    item->account = a;
}

void fair_queue_leave(struct fair_queue *f, struct fair_item *item)
{
    struct fair_account *a = item->account;
    fair_queue_forget(item);
    CHECK(a->n_live > 0);
    if (--a->n_live > 0) return;
    a->left_at = ++f->n_leavings;
    f->last_counter = a->counter;
}

/* ---- items ---- */

void fair_queue_push(struct fair_queue *f, struct fair_item *item)
{
    struct fair_account *a = item->account;
    struct fair_item *before = a->last; /* most come last */
    (void)f;
    while (before && item_before(item, before)) before = before->before;
    item->before = before;
    item->after = before ? before->after : a->first;
    *(item->before ? &item->before->after : &a->first) = item;
    *(item->after ? &item->after->before : &a->last) = item;
}

void fair_queue_remove(struct fair_queue *f, struct fair_item *item)
{
    struct fair_account *a = item->account;
    (void)f;
    *(item->before ? &item->before->after : &a->first) = item->after;
    *(item->after ? &item->after->before : &a->last) = item->before;
    item->before = item->after = NULL;
}

void fair_queue_sort(struct fair_queue *f)
{
    f->heads.n = 0;
    for (uint32_t i = 0; i < f->n_used; i++)
        if (f->accounts[i].first) f->heads.items[f->heads.n++] = &f->accounts[i];
    heap_make(&f->heads);
}

struct fair_item *fair_queue_first(const struct fair_queue *f)
{
    return f->heads.n > 0 ? ((struct fair_account *)f->heads.items[0])->first : NULL;
}

static uint64_t scaled(const struct fair_account *a, uint64_t cost_rows)
{
    return cost_rows * FAIR_COST / a->weight;
}

void fair_queue_pop(struct fair_queue *f, uint64_t cost_rows)
{
    struct fair_account *a = f->heads.items[0];
    struct fair_item *item = a->first;
    fair_queue_remove(f, item);
    item->pending = scaled(a, cost_rows);
    a->pending += item->pending;
    if (a->first)
        heap_fix(&f->heads, 0);
    else
        heap_remove(&f->heads, 0);
}

void fair_queue_charge(struct fair_item *item, uint64_t cost_rows)
{
    struct fair_account *a = item->account;
    uint64_t cost = scaled(a, cost_rows), promised = cost < item->pending ? cost : item->pending;
    a->counter += cost;
    a->pending -= promised;
    item->pending -= promised;
}

void fair_queue_forget(struct fair_item *item)
{
    item->account->pending -= item->pending;
    item->pending = 0;
}
