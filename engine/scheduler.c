/* Scheduler: see scheduler.h. Start at scheduler_plan. */
#include "engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/heap.h"

struct step_key {
    struct kv_key key;
    uint64_t step; /* the plan it belongs to: older ones count as empty */
};

struct scheduler {
    struct scheduler_limits limits;
    struct kv_cache *cache;
    struct fair_queue *queue;
    struct sequence **live; /* the running ones, then those that wait; both in no order */
    uint32_t n_running, n_live;
    struct sequence **by_id, **by_prompt; /* heads of chains; by_prompt: running ones with their prompt computed */
    uint32_t id_mask;
    uint64_t n_arrived, step;
    uint64_t waiting_tokens, waiting_bytes;
    uint64_t promised; /* blocks that running sequences do not have yet and were promised */
    bool any_cancelled;
    int64_t next_deadline_ms;   /* not after the first one; 0: none */
    struct sequence *encoding;  /* whose tile is encoded in part */
    struct step_key *step_keys; /* blocks being computed in this step; open addressing */
    uint32_t step_key_mask;
    void **order;                 /* room for max_running */
    struct sequence **chosen;     /* likewise */
    struct schedule_rows *groups; /* of the plan given out; likewise */
    struct schedule_copy *copies; /* likewise */
    struct schedule_encode *encodes;
    struct schedule_end *ended; /* room for max_running + max_waiting */
    uint64_t n_preempted, n_copied, n_found;
};

struct budget {
    uint32_t rows, units;
    bool alone; /* nothing decodes: units do not count as rows */
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t blocks_of(const struct scheduler *s, uint32_t positions)
{
    return positions / s->limits.block_tokens + (positions % s->limits.block_tokens > 0);
}

/* ---- life of the scheduler ---- */

static bool arrays_new(struct scheduler *s)
{
    const struct scheduler_limits *l = &s->limits;
    const uint32_t n = l->max_running, n_all = n + l->max_waiting, n_ids = hash_chains(n_all);
    const uint32_t n_keys = hash_chains(2 * (l->step_rows / l->block_tokens + 4 * n)), units = l->step_units + l->step_rows;
    s->live = calloc(n_all, sizeof *s->live);
    s->by_id = calloc(n_ids, sizeof *s->by_id);
    s->by_prompt = calloc(n_ids, sizeof *s->by_prompt);
    s->id_mask = n_ids - 1;
    s->step_keys = calloc(n_keys, sizeof *s->step_keys);
    s->step_key_mask = n_keys - 1;
    s->order = calloc(n, sizeof *s->order);
    s->chosen = calloc(n, sizeof *s->chosen);
    s->groups = calloc(n, sizeof *s->groups);
    s->copies = calloc(n, sizeof *s->copies);
    s->encodes = calloc(units, sizeof *s->encodes);
    s->ended = calloc(n_all, sizeof *s->ended);
    return s->live && s->by_id && s->by_prompt && s->step_keys && s->order && s->chosen && s->groups && s->copies && s->encodes && s->ended;
}

int scheduler_new(struct scheduler **out, const struct scheduler_limits *limits, struct err *e)
{
    *out = NULL;
    const struct scheduler_limits *l = limits;
    CHECK(l->max_running > 0 && l->max_running < 1 << 20 && l->max_waiting < 1 << 20);
    CHECK(l->block_tokens > 0 && l->n_blocks > 0 && l->max_context > 1);
    CHECK(l->step_rows >= 2 && l->step_rows < 1 << 20 && l->step_decode_rows > 0 && l->step_decode_rows < l->step_rows);
    CHECK(l->beside_rows == 0 || l->spread_steps > 0);
    CHECK(l->tile_units > 0 && l->unit_rows > 0 && l->step_units > 0 && l->step_units < 1 << 20);
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    s->limits = *limits;
    int rc = kv_cache_new(&s->cache, l->n_blocks, e);
    if (!rc) rc = fair_queue_new(&s->queue, l->max_running + l->max_waiting, e);
    if (!rc && !arrays_new(s)) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (rc)
        scheduler_free(s);
    else
        *out = s;
    return rc;
}

static void sequence_free(struct sequence *q)
{
    free(q->blocks);
    free(q->keys);
    free(q->tiles);
    free(q->encoded);
    free(q);
}

void scheduler_free(struct scheduler *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->n_live; i++) sequence_free(s->live[i]);
    kv_cache_free(s->cache);
    fair_queue_free(s->queue);
    void *const arrays[] = {s->live, s->by_id, s->by_prompt, s->step_keys, s->order, s->chosen, s->groups, s->copies, s->encodes, s->ended};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(s);
}

void scheduler_set_unit_rows(struct scheduler *s, uint32_t unit_rows)
{
    s->limits.unit_rows = unit_rows ? unit_rows : 1;
}

/* ---- the list of what is there: running ones first ---- */

static struct sequence *of_item(struct fair_item *item)
{
    return (struct sequence *)(void *)((char *)item - offsetof(struct sequence, item));
}

static void swap_live(struct scheduler *s, uint32_t i, uint32_t k)
{
    struct sequence *q = s->live[i];
    s->live[i] = s->live[k];
    s->live[k] = q;
    s->live[i]->index = i;
    s->live[k]->index = k;
}

static struct sequence **id_chain(const struct scheduler *s, uint64_t id)
{
    return &s->by_id[hash_chain_of(id, s->id_mask)];
}

static struct sequence *find(const struct scheduler *s, uint64_t id)
{
    struct sequence *q = *id_chain(s, id);
    while (q && q->request.id != id) q = q->next_by_id;
    return q;
}

static struct sequence **prompt_chain(const struct scheduler *s, const struct sequence *q)
{
    return &s->by_prompt[(uint32_t)q->request.prompt_key.half[0] & s->id_mask];
}

static void source_add(struct scheduler *s, struct sequence *q)
{
    struct sequence **chain = prompt_chain(s, q);
    q->is_source = true;
    q->next_by_prompt = *chain;
    *chain = q;
}

static void source_remove(struct scheduler *s, struct sequence *q)
{
    struct sequence **at = prompt_chain(s, q);
    while (*at != q) at = &(*at)->next_by_prompt;
    *at = q->next_by_prompt;
    q->is_source = false;
}

static void wait_in_queue(struct scheduler *s, struct sequence *q)
{
    fair_queue_push(s->queue, &q->item);
    s->waiting_tokens += q->request.n_prompt;
    s->waiting_bytes += q->request.n_bytes;
}

static void wait_no_more(struct scheduler *s, const struct sequence *q)
{
    s->waiting_tokens -= q->request.n_prompt;
    s->waiting_bytes -= q->request.n_bytes;
}

/* Its blocks go back, the last first, so that the beginning of a prefix is evicted after what follows it. */
static void stop_running(struct scheduler *s, struct sequence *q)
{
    if (q->n_target > q->n_blocks) s->promised -= q->n_target - q->n_blocks;
    while (q->n_blocks > 0) kv_cache_release(s->cache, q->blocks[--q->n_blocks]);
    if (q->is_source) source_remove(s, q);
    if (s->encoding == q) s->encoding = NULL;
    fair_queue_forget(&q->item);
    q->running = false;
    q->n_computed = q->n_published = q->n_target = q->next_tile = q->n_units = q->n_guessed = 0;
    swap_live(s, q->index, --s->n_running);
}

static void drop(struct scheduler *s, struct sequence *q)
{
    if (q->running) {
        stop_running(s, q);
    } else {
        fair_queue_remove(s->queue, &q->item);
        wait_no_more(s, q);
    }
    fair_queue_leave(s->queue, &q->item);
    struct sequence **at = id_chain(s, q->request.id);
    while (*at != q) at = &(*at)->next_by_id;
    *at = q->next_by_id;
    swap_live(s, q->index, --s->n_live);
    sequence_free(q);
}

void scheduler_drop_all(struct scheduler *s, void (*give_back)(void *arg, void *user), void *arg)
{
    while (s->n_live > 0) {
        struct sequence *q = s->live[s->n_live - 1];
        give_back(arg, q->request.user);
        drop(s, q);
    }
}

/* ---- submit and cancel ---- */

static int check_request(const struct scheduler *s, const struct scheduler_request *r, struct err *e)
{
    const struct scheduler_limits *l = &s->limits;
    if (r->n_prompt == 0 || r->max_tokens == 0) return err_set(e, ERR_INPUT, "an empty prompt or max_tokens of 0");
    if (r->n_prompt >= l->max_context)
        return err_set(e, ERR_CONTEXT, "the prompt has %u tokens, the model's context is %u", r->n_prompt, l->max_context);
    if (find(s, r->id)) return err_set(e, ERR_INPUT, "sequence %llu is there already", (unsigned long long)r->id);
    for (uint32_t i = 0; i < r->n_tiles; i++) {
        const struct scheduler_tile *t = &r->tiles[i];
        if (t->first >= t->end || t->end > r->n_prompt || (i > 0 && t->end < r->tiles[i - 1].end))
            return err_set(e, ERR_INPUT, "tile %u: positions %u to %u are out of order or outside the prompt", i, t->first, t->end);
    }
    uint32_t n_waiting = s->n_live - s->n_running;
    if (n_waiting >= l->max_waiting) return err_set(e, ERR_BUSY, "%u sequences are waiting already", n_waiting);
    if (n_waiting == 0) return 0;
    if (l->max_waiting_tokens && s->waiting_tokens + r->n_prompt > l->max_waiting_tokens)
        return err_set(e, ERR_BUSY, "prompts of %llu tokens are waiting already, the limit is %llu", (unsigned long long)s->waiting_tokens,
                       (unsigned long long)l->max_waiting_tokens);
    if (l->max_waiting_bytes && (r->n_bytes > l->max_waiting_bytes || s->waiting_bytes > l->max_waiting_bytes - r->n_bytes))
        return err_set(e, ERR_BUSY, "prompts of %llu bytes are waiting already, the limit is %llu", (unsigned long long)s->waiting_bytes,
                       (unsigned long long)l->max_waiting_bytes);
    return 0;
}

static struct sequence *sequence_new(const struct scheduler *s, const struct scheduler_request *r, uint32_t max_tokens, uint32_t n_blocks)
{
    struct sequence *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    q->request = *r;
    q->max_tokens = max_tokens;
    q->max_blocks = n_blocks;
    q->blocks = calloc(n_blocks, sizeof *q->blocks);
    q->keys = r->keys ? calloc(n_blocks + 1u, sizeof *q->keys) : NULL; /* what fills the last block may be sampled and never computed */
    q->tiles = r->n_tiles ? calloc(r->n_tiles, sizeof *q->tiles) : NULL;
    q->encoded = r->n_tiles ? calloc(r->n_tiles, sizeof *q->encoded) : NULL;
    if (!q->blocks || (r->keys && !q->keys) || (r->n_tiles && (!q->tiles || !q->encoded))) {
        sequence_free(q);
        return NULL;
    }
    if (r->keys) q->n_keys = r->n_prompt / s->limits.block_tokens;
    if (q->n_keys) memcpy(q->keys, r->keys, q->n_keys * sizeof *q->keys);
    if (r->n_tiles) memcpy(q->tiles, r->tiles, r->n_tiles * sizeof *q->tiles);
    q->request.keys = q->keys;
    q->request.tiles = q->tiles;
    return q;
}

int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct err *e)
{
    const struct scheduler_limits *l = &s->limits;
    int rc = check_request(s, r, e);
    if (rc) return rc;
    uint32_t max_tokens = min_u32(r->max_tokens, l->max_context - r->n_prompt);
    uint32_t n_blocks = blocks_of(s, r->n_prompt + max_tokens - 1); /* the token sampled last is never computed */
    if (n_blocks > l->n_blocks)
        return err_set(e, ERR_LIMIT, "%u prompt tokens and %u to make need %u KV blocks, there are %u", r->n_prompt, max_tokens, n_blocks,
                       l->n_blocks);
    struct sequence *q = sequence_new(s, r, max_tokens, n_blocks);
    if (!q) return err_set(e, ERR_MEMORY, "out of memory");
    struct sequence **chain = id_chain(s, r->id);
    q->next_by_id = *chain;
    *chain = q;
    q->index = s->n_live;
    s->live[s->n_live++] = q;
    q->item = (struct fair_item){.priority = r->priority, .arrival = ++s->n_arrived};
    fair_queue_enter(s->queue, &q->item, r->account, r->weight);
    wait_in_queue(s, q);
    if (r->deadline_ms && (!s->next_deadline_ms || r->deadline_ms < s->next_deadline_ms)) s->next_deadline_ms = r->deadline_ms;
    return 0;
}

const struct sequence *scheduler_find(const struct scheduler *s, uint64_t id)
{
    return find(s, id);
}

bool scheduler_cancel(struct scheduler *s, uint64_t id)
{
    struct sequence *q = find(s, id);
    if (!q) return false;
    q->cancelled = s->any_cancelled = true;
    return true;
}

static void end_due(struct scheduler *s, int64_t now_ms, struct schedule *out)
{
    if (!s->any_cancelled && (!s->next_deadline_ms || now_ms < s->next_deadline_ms)) return;
    int64_t next = 0;
    for (uint32_t i = s->n_live; i > 0; i--) { /* from the end: what takes a dropped one's place was looked at */
        struct sequence *q = s->live[i - 1];
        int64_t deadline = q->request.deadline_ms;
        bool late = deadline && now_ms >= deadline;
        if (!q->cancelled && !late) {
            if (deadline && (!next || deadline < next)) next = deadline;
            continue;
        }
        s->ended[out->n_ended++] =
            (struct schedule_end){.id = q->request.id, .user = q->request.user, .n_made = q->n_made, .late = late && !q->cancelled};
        drop(s, q);
    }
    s->any_cancelled = false;
    s->next_deadline_ms = next;
}

/* ---- blocks and preemption ---- */

static bool older(const struct sequence *a, const struct sequence *b)
{
    if (a->item.priority != b->item.priority) return a->item.priority > b->item.priority;
    return a->item.arrival < b->item.arrival;
}

static bool worse(const struct sequence *a, const struct sequence *b)
{
    if (a->item.priority != b->item.priority) return a->item.priority < b->item.priority;
    if (a->item.account != b->item.account && a->item.account->counter != b->item.account->counter)
        return a->item.account->counter > b->item.account->counter;
    return a->item.arrival > b->item.arrival;
}

/* The running one to preempt; NULL: nothing but `kept` runs. */
static struct sequence *victim(const struct scheduler *s, const struct sequence *kept)
{
    struct sequence *worst = NULL;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->live[i] != kept && (!worst || worse(s->live[i], worst))) worst = s->live[i];
    return worst;
}

/* Never preempted for room: the oldest of the highest priority. */
static const struct sequence *first_of_all(const struct scheduler *s)
{
    const struct sequence *first = NULL;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (!first || older(s->live[i], first)) first = s->live[i];
    return first;
}

static void preempt(struct scheduler *s, struct sequence *q, struct schedule *out)
{
    stop_running(s, q);
    q->item.put_back = true;
    wait_in_queue(s, q);
    out->n_preempted++;
    s->n_preempted++;
}

static void block_added(struct scheduler *s, struct sequence *q)
{
    if (q->n_blocks++ < q->n_target) s->promised--;
}

/* Blocks for the first so many positions. False: it was preempted itself. */
static bool grow(struct scheduler *s, struct sequence *q, uint32_t n_positions, struct schedule *out)
{
    for (uint32_t n = blocks_of(s, n_positions); q->n_blocks < n;) {
        CHECK(q->n_blocks < q->max_blocks);
        if (kv_cache_take(s->cache, q->request.account, q->request.weight, &q->blocks[q->n_blocks])) {
            block_added(s, q);
            continue;
        }
        struct sequence *v = victim(s, first_of_all(s));
        CHECK(v); /* alone it fits */
        preempt(s, v, out);
        if (v == q) return false;
    }
    return true;
}

/* ---- what is in the cache already ---- */

static void found(struct scheduler *s, struct sequence *q, uint32_t n_computed)
{
    uint32_t from = q->n_computed > q->n_charged ? q->n_computed : q->n_charged;
    if (n_computed > from && n_computed <= q->request.n_prompt) q->n_cached += n_computed - from;
    s->n_found += n_computed - q->n_computed;
    q->n_computed = n_computed;
    if (q->n_charged < n_computed) q->n_charged = n_computed;
}

/* Blocks that may be found: never the one of the last row, which is computed for its logits. */
static uint32_t n_findable(const struct scheduler *s, const struct sequence *q)
{
    return min_u32(q->n_keys, (q->n_fill - 1) / s->limits.block_tokens);
}

static void find_blocks(struct scheduler *s, struct sequence *q)
{
    uint32_t most = n_findable(s, q), at = q->n_blocks;
    if (at >= most || q->n_computed != at * s->limits.block_tokens) return;
    uint32_t n = kv_cache_match(s->cache, q->keys + at, most - at, q->blocks + at);
    for (uint32_t i = 0; i < n; i++) block_added(s, q);
    if (n == 0) return;
    q->n_published = q->n_blocks;
    found(s, q, q->n_blocks * s->limits.block_tokens);
}

/* It stands before the last block of its prompt, which is not full or may not be found: a copy of another's that has computed the same
 * prompt. */
static void copy_tail(struct scheduler *s, struct sequence *q, struct schedule *out)
{
    const uint32_t last = q->request.n_prompt - 1, at = last / s->limits.block_tokens;
    if (!q->keys || q->n_blocks != at || q->n_computed != at * s->limits.block_tokens || q->n_computed == last) return;
    struct sequence *from = *prompt_chain(s, q);
    while (from && !(kv_key_equal(from->request.prompt_key, q->request.prompt_key) && from->request.n_prompt == q->request.n_prompt))
        from = from->next_by_prompt;
    if (!from || !grow(s, q, last, out) || !from->running) return;
    s->copies[out->n_copies++] = (struct schedule_copy){.from = from->blocks[at], .to = q->blocks[at]};
    s->n_copied++;
    found(s, q, last);
}

static struct step_key *step_key_at(const struct scheduler *s, struct kv_key key)
{
    uint32_t i = (uint32_t)key.half[1] & s->step_key_mask;
    while (s->step_keys[i].step == s->step && !kv_key_equal(s->step_keys[i].key, key)) i = (i + 1) & s->step_key_mask;
    return &s->step_keys[i];
}

static void step_key_add(struct scheduler *s, struct kv_key key)
{
    *step_key_at(s, key) = (struct step_key){.key = key, .step = s->step};
}

/* Tells the others of this step what this one computes now: the blocks of its rows, and the one that it goes on with. */
static void announce(struct scheduler *s, const struct sequence *q, uint32_t n_rows)
{
    if (!q->keys) return;
    uint32_t end = q->n_computed + n_rows, last = (end < q->n_fill ? end : end - 1) / s->limits.block_tokens;
    for (uint32_t b = q->n_computed / s->limits.block_tokens; b <= last && b < q->n_keys; b++) step_key_add(s, q->keys[b]);
    if (last >= (q->request.n_prompt - 1) / s->limits.block_tokens) step_key_add(s, q->request.prompt_key);
}

/* What this one would compute next another computes in this step. */
static bool follows(const struct scheduler *s, const struct sequence *q)
{
    uint32_t b = q->n_computed / s->limits.block_tokens, last = q->request.n_prompt - 1;
    if (!q->keys || q->n_computed % s->limits.block_tokens) return false;
    if (b < n_findable(s, q)) return step_key_at(s, q->keys[b])->step == s->step;
    bool tail = b == last / s->limits.block_tokens && q->n_computed < last;
    return tail && step_key_at(s, q->request.prompt_key)->step == s->step;
}

/* ---- admission ---- */

static bool fits(const struct scheduler *s, struct sequence *q)
{
    if (s->n_running >= s->limits.max_running) return false;
    q->n_fill = q->request.n_prompt + q->n_made;
    uint32_t made = min_u32(q->max_tokens - q->n_made - 1, s->limits.promised_tokens); /* the last token needs no place */
    uint32_t target = blocks_of(s, q->n_fill + made), most = n_findable(s, q), n_idle;
    uint64_t have = kv_cache_available(s->cache), n_least = target - most + s->promised;
    if (n_least > have) return false;
    uint32_t n_found = kv_cache_peek(s->cache, q->keys, most, &n_idle);
    q->n_target = target;
    return target - n_found + n_idle + s->promised <= have;
}

/* Where running ones of lower priority stand in the way, they are preempted, if that is likely to be enough. Returns whether any was; then
 * another may be the first that waits, for what its account is promised has changed. */
static bool make_room(struct scheduler *s, struct sequence *q, struct schedule *out)
{
    uint64_t room = kv_cache_available(s->cache), need = blocks_of(s, q->request.n_prompt + q->n_made) + s->promised;
    bool any = false;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct sequence *r = s->live[i];
        if (r->item.priority >= q->item.priority) continue;
        room += r->n_blocks + (r->n_target > r->n_blocks ? r->n_target - r->n_blocks : 0);
        any = true;
    }
    if (!any || room < need) return false;
    for (struct sequence *v; (v = victim(s, NULL)) && v->item.priority < q->item.priority && !fits(s, q);) preempt(s, v, out);
    fair_queue_sort(s->queue);
    return true;
}

static void start_running(struct scheduler *s, struct sequence *q)
{
    wait_no_more(s, q);
    uint64_t rows = q->n_fill > q->n_charged ? q->n_fill - q->n_charged : 0;
    fair_queue_pop(s->queue, rows + 2ull * min_u32(q->max_tokens - q->n_made, s->limits.promised_tokens));
    q->running = true;
    swap_live(s, q->index, s->n_running++);
    s->promised += q->n_target;
    find_blocks(s, q);
}

static void admit(struct scheduler *s, struct schedule *out)
{
    if (s->n_live == s->n_running) return;
    fair_queue_sort(s->queue);
    for (struct fair_item *item; (item = fair_queue_first(s->queue));) {
        struct sequence *q = of_item(item);
        if (fits(s, q))
            start_running(s, q);
        else if (!make_room(s, q, out))
            return;
    }
}

/* ---- the step ---- */

static bool is_decoding(const struct sequence *q)
{
    return q->n_computed >= q->n_fill;
}

static bool decode_before(const void *x, const void *y)
{
    const struct sequence *a = x, *b = y;
    if (a->item.priority != b->item.priority) return a->item.priority > b->item.priority;
    if (a->item.account->counter != b->item.account->counter) return a->item.account->counter < b->item.account->counter;
    if (a->decoded_at != b->decoded_at) return a->decoded_at < b->decoded_at;
    return a->item.arrival < b->item.arrival;
}

static bool prompt_before(const void *x, const void *y)
{
    const struct sequence *a = x, *b = y;
    if (a->item.priority != b->item.priority) return a->item.priority > b->item.priority;
    if (a->item.account->counter != b->item.account->counter) return a->item.account->counter < b->item.account->counter;
    return a->item.arrival < b->item.arrival;
}

static struct heap collect(struct scheduler *s, bool decoding, bool (*before)(const void *, const void *))
{
    struct heap h = {.items = s->order, .before = before};
    for (uint32_t i = 0; i < s->n_running; i++)
        if (is_decoding(s->live[i]) == decoding) h.items[h.n++] = s->live[i];
    return h;
}

static void plan_decodes(struct scheduler *s, struct schedule *out)
{
    struct heap h = collect(s, true, decode_before);
    uint32_t n = min_u32(h.n, s->limits.step_decode_rows);
    bool too_many = h.n > n;
    if (too_many) heap_make(&h);
    for (uint32_t i = 0; i < n; i++) s->chosen[i] = too_many ? heap_pop(&h) : h.items[i];
    for (uint32_t i = 0; i < n; i++) {
        struct sequence *q = s->chosen[i];
        if (!q->running || !grow(s, q, q->n_computed + 1, out)) continue;
        q->decoded_at = s->step;
        s->groups[out->n_groups++] = (struct schedule_rows){.sequence = q, .first_position = q->n_computed, .n_rows = 1, .sample = true};
        out->n_rows++;
    }
}

/* A block that is promised to no other. */
static bool grow_unpromised(struct scheduler *s, struct sequence *q)
{
    uint64_t promised = s->promised - (q->n_blocks < q->n_target);
    if (kv_cache_available(s->cache) <= promised) return false;
    if (!kv_cache_take(s->cache, q->request.account, q->request.weight, &q->blocks[q->n_blocks])) return false;
    block_added(s, q);
    return true;
}

/* With the rows that decodes left; rows of prompts are sure to be of use and go before. */
static void plan_guesses(struct scheduler *s, struct schedule *out)
{
    const bool any_prompt = out->n_groups < s->n_live;
    for (size_t i = 0; i < out->n_groups; i++) {
        struct schedule_rows *g = &s->groups[i];
        struct sequence *q = g->sequence;
        uint32_t n = any_prompt ? 0 : min_u32(q->n_guessed, s->limits.step_decode_rows - (uint32_t)out->n_rows);
        q->n_guessed = 0;
        if (!q->running || n == 0) continue;
        n = min_u32(n, q->max_tokens - q->n_made - 1); /* the token made last is not computed */
        while (q->n_blocks < blocks_of(s, q->n_computed + 1 + n) && grow_unpromised(s, q)) {}
        n = min_u32(n, q->n_blocks * s->limits.block_tokens - q->n_computed - 1);
        g->n_rows += n;
        out->n_rows += n;
    }
}

/* The first tile from this one on that has positions not computed yet and is not encoded. */
static uint32_t needed_tile(const struct sequence *q, uint32_t tile)
{
    while (tile < q->request.n_tiles && (q->encoded[tile] || q->tiles[tile].end <= q->n_computed)) tile++;
    return tile;
}

static void plan_encodes(struct scheduler *s, struct sequence *q, struct budget *b, struct schedule *out)
{
    if (s->encoding && s->encoding != q) return;
    uint32_t tile = q->next_tile, done = q->n_units, left = b->alone ? b->units : b->rows / s->limits.unit_rows;
    if (!b->alone && left == 0 && b->rows > 0) left = 1; /* a unit that is dearer than a step must be done, too */
    while (tile < q->request.n_tiles && left > 0) {
        uint32_t n = min_u32(left, s->limits.tile_units - done);
        s->encodes[out->n_encodes++] = (struct schedule_encode){.sequence = q, .tile = tile, .first_unit = done, .n_units = n};
        left -= n;
        if (b->alone)
            b->units -= n;
        else
            b->rows -= min_u32(b->rows, n * s->limits.unit_rows);
        if (done + n < s->limits.tile_units) s->encoding = q;
        done = 0;
        tile = needed_tile(q, tile + 1);
    }
}

/* Tiles that are encoded, or whose positions were all found, are done with. */
static void pass_tiles(struct scheduler *s, struct sequence *q)
{
    uint32_t tile = needed_tile(q, q->next_tile);
    if (tile == q->next_tile) return;
    q->next_tile = tile;
    q->n_units = 0;
    if (s->encoding == q) s->encoding = NULL;
}

static void plan_prompt(struct scheduler *s, struct sequence *q, struct budget *b, struct schedule *out)
{
    find_blocks(s, q);
    copy_tail(s, q, out);
    if (!q->running) return;
    pass_tiles(s, q);
    if (follows(s, q)) return;
    uint32_t end = q->next_tile < q->request.n_tiles ? q->tiles[q->next_tile].first : q->n_fill;
    if (q->n_computed < q->request.n_prompt)
        end = min_u32(end, q->request.n_prompt); /* tokens made are rows of their own, without pictures */
    uint32_t n = end > q->n_computed ? min_u32(end - q->n_computed, b->rows) : 0;
    if (n > 0 && !grow(s, q, q->n_computed + n, out)) return;
    if (n > 0) {
        s->groups[out->n_groups++] = (struct schedule_rows){
            .sequence = q, .first_position = q->n_computed, .n_rows = n, .prefill = true, .made = q->n_computed >= q->request.n_prompt,
            .sample = q->n_computed + n == q->n_fill};
        out->n_rows += n;
        b->rows -= n;
    }
    size_t n_encodes = out->n_encodes;
    plan_encodes(s, q, b, out);
    if (n > 0 || out->n_encodes > n_encodes) announce(s, q, n); /* who does nothing in this step is not waited for */
}

static uint32_t beside_rows(const struct scheduler *s, uint32_t n_decodes)
{
    const uint32_t all = s->limits.mixed_rows ? s->limits.mixed_rows : s->limits.step_decode_rows, most = all > n_decodes ? all - n_decodes : 0;
    uint64_t left = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (!is_decoding(s->live[i])) left += s->live[i]->n_fill - s->live[i]->n_computed;
    uint64_t part = (left + s->limits.spread_steps - 1) / s->limits.spread_steps;
    if (part > most) part = most;
    return part < s->limits.beside_rows ? s->limits.beside_rows : (uint32_t)part;
}

static void plan_prompts(struct scheduler *s, struct schedule *out)
{
    const uint32_t n_decodes = (uint32_t)out->n_groups;
    struct budget b = {.rows = s->limits.step_rows - (uint32_t)out->n_rows, .units = s->limits.step_units, .alone = n_decodes == 0};
    if (n_decodes > 0 && s->limits.beside_rows > 0) b.rows = min_u32(b.rows, beside_rows(s, n_decodes));
    if (s->limits.prompt_rows > 0) b.rows = min_u32(b.rows, s->limits.prompt_rows);
    struct heap h = collect(s, false, prompt_before);
    for (heap_make(&h); h.n > 0 && b.rows > 0;) {
        struct sequence *q = heap_pop(&h);
        if (q->running) plan_prompt(s, q, &b, out);
    }
}

/* What was planned first may have been preempted for what came later. */
static void leave_out_preempted(struct scheduler *s, struct schedule *out)
{
    size_t n_groups = out->n_groups, n_encodes = out->n_encodes;
    out->n_groups = out->n_encodes = out->n_rows = 0;
    for (size_t i = 0; i < n_groups; i++) {
        if (!s->groups[i].sequence->running) continue;
        out->n_rows += s->groups[i].n_rows;
        s->groups[out->n_groups++] = s->groups[i];
    }
    for (size_t i = 0; i < n_encodes; i++)
        if (s->encodes[i].sequence->running) s->encodes[out->n_encodes++] = s->encodes[i];
}

void scheduler_plan(struct scheduler *s, int64_t now_ms, struct schedule *out)
{
    *out = (struct schedule){.groups = s->groups, .ended = s->ended, .copies = s->copies, .encodes = s->encodes};
    s->step++;
    end_due(s, now_ms, out);
    admit(s, out);
    plan_decodes(s, out);
    plan_guesses(s, out);
    plan_prompts(s, out);
    if (out->n_preempted > 0) leave_out_preempted(s, out);
}

/* ---- what became of it ---- */

void scheduler_tile_ready(struct scheduler *s, struct sequence *q, uint32_t tile)
{
    CHECK(tile < q->request.n_tiles);
    q->encoded[tile] = true;
    if (tile != q->next_tile) return;
    q->n_units = 0;
    if (s->encoding == q) s->encoding = NULL;
}

void scheduler_encoded(struct scheduler *s, const struct schedule_encode *encode)
{
    struct sequence *q = encode->sequence;
    fair_queue_charge(&q->item, (uint64_t)encode->n_units * s->limits.unit_rows);
    if (encode->first_unit + encode->n_units == s->limits.tile_units) {
        scheduler_tile_ready(s, q, encode->tile);
        return;
    }
    q->next_tile = encode->tile;
    q->n_units = encode->first_unit + encode->n_units;
    s->encoding = q;
}

void scheduler_guess(struct scheduler *s, struct sequence *q, uint32_t n)
{
    (void)s;
    CHECK(n == 0 || (q->running && is_decoding(q)));
    q->n_guessed = n;
}

void scheduler_add_key(struct scheduler *s, struct sequence *q, struct kv_key key)
{
    CHECK(q->keys && q->n_keys < q->max_blocks && q->n_keys >= q->request.n_prompt / s->limits.block_tokens);
    q->keys[q->n_keys++] = key;
}

static void publish(struct scheduler *s, struct sequence *q)
{
    uint32_t n = min_u32(q->n_keys, q->n_computed / s->limits.block_tokens);
    if (s->limits.prompt_blocks_only) n = min_u32(n, q->request.n_prompt / s->limits.block_tokens);
    for (; q->n_published < n; q->n_published++) kv_cache_publish(s->cache, q->blocks[q->n_published], q->keys[q->n_published]);
}

static void charge(struct sequence *q, bool prefill, uint32_t end)
{
    if (end <= q->n_charged) return;
    fair_queue_charge(&q->item, (prefill ? 1ull : 2ull) * (end - q->n_charged));
    q->n_charged = end;
}

void scheduler_advanced(struct scheduler *s, const struct schedule_rows *group, uint32_t n_made, bool finished)
{
    struct sequence *q = group->sequence;
    CHECK(q->running && group->first_position == q->n_computed);
    CHECK(group->sample ? n_made > 0 && n_made <= (group->prefill ? 1 : group->n_rows) : n_made == 0);
    q->n_computed += group->prefill ? group->n_rows : n_made;
    CHECK(q->n_computed <= q->n_blocks * s->limits.block_tokens);
    charge(q, group->prefill, q->n_computed);
    publish(s, q);
    if (q->keys && !q->is_source && q->n_computed >= q->request.n_prompt) source_add(s, q);
    q->n_made += n_made;
    CHECK(finished || q->n_made < q->max_tokens);
    if (finished) drop(s, q);
}

void scheduler_failed(struct scheduler *s, struct sequence *q)
{
    drop(s, q);
}

/* ---- figures ---- */

struct scheduler_load scheduler_load(const struct scheduler *s)
{
    return (struct scheduler_load){.running = s->n_running,
                                   .waiting = s->n_live - s->n_running,
                                   .free_blocks = kv_cache_available(s->cache),
                                   .n_preempted = s->n_preempted,
                                   .n_copied = s->n_copied,
                                   .n_found = s->n_found};
}

struct scheduler_backlog scheduler_backlog(const struct scheduler *s)
{
    struct scheduler_backlog b = {0};
    for (uint32_t i = 0; i < s->n_live; i++) {
        const struct sequence *q = s->live[i];
        uint32_t n_fill = q->request.n_prompt + q->n_made;
        if (q->running && is_decoding(q))
            b.decoding++;
        else
            b.prompt_rows += n_fill > q->n_computed ? n_fill - q->n_computed : 0;
        for (uint32_t t = 0; t < q->request.n_tiles; t++) b.tiles += !q->encoded[t] && q->tiles[t].end > q->n_computed;
    }
    return b;
}

const struct kv_cache *scheduler_cache(const struct scheduler *s)
{
    return s->cache;
}
