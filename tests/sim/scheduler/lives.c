/* Random lives of many sequences in a small cache. Start at sim_lives. */
#include <string.h>

#include "engine/scheduler.h"
#include "tests/sim/scheduler/sim.h"

enum { LIVES = 120, MAX_TOKENS = 96, MAX_TILES = 3, MAX_BLOCKS = 64, BLOCK = 4, ACCOUNTS = 4, DOCUMENTS = 4 };

struct life {
    uint32_t n_prompt, max_tokens, stop_after, document, own_from, choice, own_seed;
    uint64_t account;
    int32_t priority;
    uint32_t weight;
    struct scheduler_tile tiles[MAX_TILES];
    bool encoded[MAX_TILES];
    uint32_t n_tiles;
    int64_t deadline_ms;
    uint64_t history[MAX_TOKENS + 1]; /* after each position */
    struct kv_key keys[MAX_TOKENS / BLOCK], prompt_key;
    uint32_t next_position, n_made;
    uint32_t n_guesses; /* tokens guessed for the next decode, and how many of them are right */
    uint32_t n_right;
    bool submitted, cancelled, ended, was_running;
    int steps_after_cancel;
};

struct world {
    struct life lives[LIVES];
    uint64_t slots[MAX_BLOCKS][BLOCK]; /* the model's cache */
    uint32_t n_in_tables[MAX_BLOCKS];
    struct scheduler_limits limits;
    struct scheduler *s;
    bool shared_scope;
    uint64_t rng, next;
    struct sim_totals *totals;
    uint64_t encoder_id; /* whose tile the encoder has in part; its tile and units */
    uint32_t encoder_tile, encoder_units;
};

static uint32_t pick(struct world *w, uint32_t n)
{
    return (uint32_t)(sim_random(&w->rng) % n);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t s = a * 0x9E3779B97F4A7C15u ^ b;
    return sim_random(&s);
}

/* ---- what a sequence says: its tokens follow from the life alone ---- */

static uint64_t token(const struct life *f, uint32_t position)
{
    if (position >= f->n_prompt) return mix(f->history[position - 1], f->choice); /* "sampled" from what was computed */
    if (position < f->own_from) return mix(f->document, position);
    return mix(1000 + f->own_seed, position);
}

static void say(struct world *w, struct life *f, uint32_t until)
{
    uint64_t scope = w->shared_scope ? 7 : 100 + f->account;
    for (uint32_t p = 0; p < until; p++) f->history[p] = mix(p ? f->history[p - 1] : scope, token(f, p));
}

static struct kv_key key_of(const struct world *w, const struct life *f, uint32_t position)
{
    uint64_t h = f->history[position];
    if (sim_planted() == SIM_WRONG_KEY) h &= 0x0F0;
    if (sim_planted() == SIM_NO_SCOPE && !w->shared_scope) { /* as if the scope were no part of it */
        h = 7;
        for (uint32_t p = 0; p <= position; p++) h = mix(h, token(f, p));
    }
    return (struct kv_key){{h, mix(h, 1)}};
}

/* Tiles belong to documents: pictures 5 and 6 positions long, at fixed places. */
static void add_tiles(struct life *f)
{
    static const struct scheduler_tile places[MAX_TILES] = {{2, 7}, {8, 14}, {21, 26}};
    for (uint32_t i = 0; f->document % 2 && i < MAX_TILES; i++)
        if (places[i].end <= f->own_from && places[i].end <= f->n_prompt) f->tiles[f->n_tiles++] = places[i];
}

static void be_born(struct world *w, struct life *f, int64_t now)
{
    *f = (struct life){.n_prompt = 1 + pick(w, 50),
                       .max_tokens = 1 + pick(w, 40),
                       .stop_after = 1 + pick(w, 40),
                       .document = pick(w, DOCUMENTS),
                       .choice = pick(w, 3),
                       .own_seed = (uint32_t)w->next,
                       .account = pick(w, ACCOUNTS),
                       .priority = pick(w, 4) ? 0 : (int32_t)pick(w, 3) - 1,
                       .weight = 1 + pick(w, 3)};
    f->own_from = pick(w, 3) ? f->n_prompt : pick(w, f->n_prompt + 1);
    if (w->next && pick(w, 3) == 0) { /* a second choice of an earlier request, or the same again */
        const struct life *g = &w->lives[w->next - 1 - pick(w, w->next < 4 ? (uint32_t)w->next : 4)];
        f->n_prompt = g->n_prompt, f->document = g->document, f->own_from = g->own_from, f->own_seed = g->own_seed, f->account = g->account;
    }
    if (pick(w, 4) == 0) f->deadline_ms = now + 1 + pick(w, 300);
    add_tiles(f);
    uint32_t most = f->n_prompt + f->max_tokens;
    say(w, f, most < MAX_TOKENS ? most : MAX_TOKENS);
    for (uint32_t b = 0; b < f->n_prompt / BLOCK; b++) f->keys[b] = key_of(w, f, (b + 1) * BLOCK - 1);
    f->prompt_key = key_of(w, f, f->n_prompt - 1);
    f->prompt_key.half[1] ^= f->n_prompt;
}

static void submit(struct world *w, int64_t now)
{
    struct life *f = &w->lives[w->next];
    be_born(w, f, now);
    bool shares = pick(w, 8) != 0;
    struct scheduler_request r = {.id = w->next,
                                  .account = f->account,
                                  .weight = f->weight,
                                  .priority = f->priority,
                                  .n_prompt = f->n_prompt,
                                  .keys = shares ? f->keys : NULL,
                                  .prompt_key = f->prompt_key,
                                  .tiles = f->tiles,
                                  .n_tiles = f->n_tiles,
                                  .max_tokens = f->max_tokens,
                                  .n_bytes = 10 * f->n_prompt,
                                  .deadline_ms = f->deadline_ms,
                                  .user = f};
    struct err e;
    int rc = scheduler_submit(w->s, &r, &e);
    SIM_CHECK(rc == 0 || rc == -ERR_BUSY || rc == -ERR_LIMIT, "submit gave %d", rc);
    if (rc == -ERR_LIMIT) SIM_CHECK(f->n_prompt + f->max_tokens - 1 > w->limits.n_blocks * BLOCK, "refused though it fits");
    f->submitted = true;
    f->ended = rc != 0;
    w->next++;
    w->totals->n_sequences++;
}

static void cancel(struct world *w, uint64_t id)
{
    if (!w->lives[id].ended) SIM_CHECK(scheduler_find(w->s, id), "sequence %d is gone and was not told", (int)id);
    w->lives[id].cancelled = true;
    if (sim_planted() != SIM_LOST_CANCEL) SIM_CHECK(scheduler_cancel(w->s, id) == !w->lives[id].ended, "cancel found what it should not");
}

/* ---- a step of the model ---- */

static void take_ended(const struct world *w, const struct schedule *p, int64_t now)
{
    (void)w;
    for (size_t i = 0; i < p->n_ended; i++) {
        struct life *f = p->ended[i].user;
        SIM_CHECK(!f->ended, "a sequence ended twice");
        SIM_CHECK(f->cancelled || (f->deadline_ms && now >= f->deadline_ms), "a sequence was ended for no reason");
        SIM_CHECK(p->ended[i].late == (!f->cancelled), "the reason of an end is wrong");
        SIM_CHECK(p->ended[i].n_made == f->n_made, "tokens were lost");
        f->ended = true;
    }
}

static void copy_blocks(struct world *w, const struct schedule *p)
{
    for (size_t i = 0; i < p->n_copies; i++) {
        SIM_CHECK(p->copies[i].from < w->limits.n_blocks && p->copies[i].to < w->limits.n_blocks, "a copy of no block");
        if (sim_planted() == SIM_SKIP_COPY) continue;
        memcpy(w->slots[p->copies[i].to], w->slots[p->copies[i].from], sizeof w->slots[0]);
        w->totals->n_copied++;
    }
}

static void encode(struct world *w, const struct schedule *p)
{
    for (size_t i = 0; i < p->n_encodes; i++) {
        const struct schedule_encode *c = &p->encodes[i];
        struct life *f = c->sequence->request.user;
        uint64_t id = c->sequence->request.id;
        SIM_CHECK(!f->ended && c->tile < f->n_tiles && !f->encoded[c->tile], "an encode of what needs none");
        SIM_CHECK(c->n_units > 0 && c->first_unit + c->n_units <= w->limits.tile_units, "an encode of no units");
        SIM_CHECK(f->tiles[c->tile].end > c->sequence->n_computed, "a tile is encoded that comes from the cache");
        if (c->first_unit == 0) w->encoder_id = id, w->encoder_tile = c->tile, w->encoder_units = 0;
        SIM_CHECK(w->encoder_id == id && w->encoder_tile == c->tile && w->encoder_units == c->first_unit, "the encoder has another tile");
        w->encoder_units += c->n_units;
        w->totals->n_encodes++;
        if (pick(w, 10) == 0) { /* found in the encoder's cache, with all others */
            for (uint32_t t = 0; t < f->n_tiles; t++) {
                f->encoded[t] = true;
                scheduler_tile_ready(w->s, c->sequence, t);
            }
            while (i + 1 < p->n_encodes && p->encodes[i + 1].sequence == c->sequence) i++;
            continue;
        }
        if (w->encoder_units == w->limits.tile_units) f->encoded[c->tile] = true;
        scheduler_encoded(w->s, c);
    }
}

/* How many of a group's rows are of tokens that are right. */
static uint32_t n_right_rows(const struct schedule_rows *g)
{
    const struct life *f = g->sequence->request.user;
    if (g->prefill || g->n_rows - 1 <= f->n_right) return g->n_rows;
    return 1 + f->n_right;
}

/* Before anything of the step is written. */
static void check_group(struct world *w, const struct schedule_rows *g)
{
    const struct sequence *q = g->sequence;
    struct life *f = q->request.user;
    uint32_t end = g->first_position + g->n_rows;
    SIM_CHECK(!f->ended && q->running, "a sequence runs that has ended");
    if (f->cancelled) SIM_CHECK(++f->steps_after_cancel <= 2, "a cancelled sequence goes on");
    SIM_CHECK(g->n_rows > 0 && end <= q->n_blocks * BLOCK, "rows outside the block table");
    uint32_t n_known = f->n_prompt + f->n_made, n_guesses = g->prefill ? 0 : g->n_rows - 1;
    SIM_CHECK(end - n_guesses <= n_known && n_guesses <= f->n_guesses, "a row of a token that is not known");
    SIM_CHECK(g->sample == (end - n_guesses == n_known), "sampled at the wrong place");
    SIM_CHECK(end < f->n_prompt + q->max_tokens, "a row behind the last token that may be made");
    for (uint32_t p = 0; p < g->first_position; p++)
        SIM_CHECK(w->slots[q->blocks[p / BLOCK]][p % BLOCK] == f->history[p], "position %u of sequence %d is not in its block", p,
                  (int)q->request.id);
    for (uint32_t t = 0; t < f->n_tiles; t++)
        SIM_CHECK(f->encoded[t] || f->tiles[t].end <= g->first_position || f->tiles[t].first >= end, "rows of a tile not encoded");
    for (uint32_t b = g->first_position / BLOCK; b <= (end - 1) / BLOCK; b++)
        SIM_CHECK(kv_cache_references(scheduler_cache(w->s), q->blocks[b]) == 1, "a shared block is written");
}

static void write_rows(struct world *w, const struct schedule_rows *g)
{
    const struct life *f = g->sequence->request.user;
    const uint32_t n_right = n_right_rows(g);
    for (uint32_t i = 0; i < g->n_rows; i++) {
        uint32_t p = g->first_position + i;
        w->slots[g->sequence->blocks[p / BLOCK]][p % BLOCK] = i < n_right ? f->history[p] : mix(f->history[p], 99);
    }
    w->totals->n_rows += g->n_rows;
    if (g->prefill) return;
    w->totals->n_guessed += g->n_rows - 1;
    w->totals->n_right += n_right - 1;
}

static void tell_keys(struct world *w, struct sequence *q, uint32_t end)
{
    const struct life *f = q->request.user;
    while (q->keys && (q->n_keys + 1) * BLOCK <= end)
        scheduler_add_key(w->s, q, key_of(w, f, sim_planted() == SIM_MADE_LEFT_OUT ? f->n_prompt - 1 : (q->n_keys + 1) * BLOCK - 1));
}

static void advance(struct world *w, const struct schedule_rows *g)
{
    struct sequence *q = g->sequence;
    struct life *f = q->request.user;
    if (pick(w, 200) == 0) { /* its logits are not finite, say */
        f->ended = true;
        scheduler_failed(w->s, q);
        return;
    }
    uint32_t n_made = g->sample ? g->prefill ? 1 : n_right_rows(g) : 0;
    if (sim_planted() == SIM_WRONG_GUESS && !g->prefill && n_made < g->n_rows) n_made++;
    bool finished = false;
    for (uint32_t i = 1; i <= n_made && !finished; i++) {
        finished = f->n_made + i == q->max_tokens || f->n_made + i == f->stop_after;
        if (finished) n_made = i;
    }
    tell_keys(w, q, g->first_position + (g->prefill ? g->n_rows : n_made));
    f->n_made += n_made;
    f->ended = finished;
    if (!finished && pick(w, 24) == 0) cancel(w, q->request.id); /* comes while the step runs */
    scheduler_advanced(w->s, g, n_made, finished);
    f->n_guesses = f->n_right = 0;
    if (finished || !g->sample || pick(w, 3)) return;
    f->n_guesses = pick(w, 9);
    f->n_right = pick(w, f->n_guesses + 1);
    scheduler_guess(w->s, q, f->n_guesses);
}

static void run_step(struct world *w, const struct schedule *p)
{
    copy_blocks(w, p);
    uint32_t n_decode_rows = 0;
    for (size_t i = 0; i < p->n_groups; i++) n_decode_rows += p->groups[i].prefill ? 0 : p->groups[i].n_rows;
    SIM_CHECK(p->n_rows <= w->limits.step_rows && n_decode_rows <= w->limits.step_decode_rows, "more rows than a step has");
    SIM_CHECK(!w->limits.prompt_rows || p->n_rows - n_decode_rows <= w->limits.prompt_rows, "more prompt rows than are wanted");
    for (size_t i = 0; i < p->n_groups; i++) check_group(w, &p->groups[i]);
    for (size_t i = 0; i < p->n_groups; i++) write_rows(w, &p->groups[i]);
    encode(w, p);
    for (size_t i = 0; i < p->n_groups; i++) advance(w, &p->groups[i]);
}

/* ---- what must hold after every step ---- */

static void check_table(struct world *w, const struct sequence *q)
{
    for (uint32_t b = 0; b < q->n_blocks; b++) {
        SIM_CHECK(q->blocks[b] < w->limits.n_blocks, "a block that is not there");
        for (uint32_t k = 0; k < b; k++) SIM_CHECK(q->blocks[k] != q->blocks[b], "a block twice in a table");
        w->n_in_tables[q->blocks[b]]++;
    }
}

static void check_cache(struct world *w)
{
    const struct kv_cache *c = scheduler_cache(w->s);
    struct kv_cache_counts n = kv_cache_counts(c);
    uint32_t referenced = 0, charged = 0;
    memset(w->n_in_tables, 0, sizeof w->n_in_tables);
    for (uint64_t i = 0; i < w->next; i++) {
        const struct sequence *q = w->lives[i].ended ? NULL : scheduler_find(w->s, i);
        SIM_CHECK(w->lives[i].ended || q, "sequence %d was lost", (int)i);
        if (q && q->running) check_table(w, q);
        if (q && !q->running) SIM_CHECK(q->n_blocks == 0, "a waiting sequence has blocks");
    }
    for (uint32_t b = 0; b < w->limits.n_blocks; b++) {
        SIM_CHECK(w->n_in_tables[b] == kv_cache_references(c, b), "block %u: %u references, %u tables", b, kv_cache_references(c, b),
                  w->n_in_tables[b]);
        referenced += w->n_in_tables[b] > 0;
    }
    SIM_CHECK(n.free + n.cached + n.referenced == w->limits.n_blocks && n.referenced == referenced, "%u free, %u cached, %u referenced",
              n.free, n.cached, n.referenced);
    for (uint64_t a = 0; a < ACCOUNTS; a++) charged += kv_cache_charged(c, a);
    SIM_CHECK(charged == n.cached + n.referenced, "%u blocks are charged to accounts, %u are used", charged, n.cached + n.referenced);
}

/* A block in two tables is full in both. */
static void check_sharing(struct world *w)
{
    for (uint64_t i = 0; i < w->next; i++) {
        const struct sequence *q = w->lives[i].ended ? NULL : scheduler_find(w->s, i);
        for (uint32_t b = 0; q && b < q->n_blocks; b++)
            if (w->n_in_tables[q->blocks[b]] > 1) SIM_CHECK((b + 1) * BLOCK <= q->n_computed, "a block that is not full is shared");
    }
}

/* The oldest running one of the highest priority gives way to nothing but a higher priority, or an older one that came back. */
static const struct sequence *first_running(const struct world *w)
{
    const struct sequence *first = NULL;
    for (uint64_t i = 0; i < w->next; i++) {
        const struct sequence *q = w->lives[i].ended ? NULL : scheduler_find(w->s, i);
        if (q && q->running && (!first || q->request.priority > first->request.priority)) first = q;
    }
    return first;
}

static struct scheduler_limits random_limits(struct world *w)
{
    struct scheduler_limits l = {.max_running = 1 + pick(w, 8),
                                 .max_waiting = 1 + pick(w, 10),
                                 .max_waiting_tokens = pick(w, 4) ? 0 : 60 + pick(w, 100),
                                 .max_waiting_bytes = pick(w, 4) ? 0 : 600 + pick(w, 1000),
                                 .n_blocks = 8 + pick(w, MAX_BLOCKS - 8),
                                 .block_tokens = BLOCK,
                                 .max_context = 60,
                                 .promised_tokens = pick(w, 40),
                                 .step_rows = 2 + pick(w, 30),
                                 .tile_units = 1 + pick(w, 4),
                                 .unit_rows = 1 + pick(w, 12),
                                 .step_units = 1 + pick(w, 8),
                                 .prompt_blocks_only = pick(w, 4) == 0};
    l.step_decode_rows = 1 + pick(w, l.step_rows - 1);
    l.mixed_rows = pick(w, 2) ? 0 : 1 + pick(w, l.step_rows);
    l.beside_rows = pick(w, 2) ? 0 : 1 + pick(w, l.step_rows);
    l.spread_steps = 1 + pick(w, 16);
    l.prompt_rows = pick(w, 3) ? 0 : 1 + pick(w, l.step_rows);
    return l;
}

static void plan_and_run(struct world *w, int64_t now)
{
    struct schedule p;
    const struct sequence *first = first_running(w);
    uint64_t first_id = first ? first->request.id : 0;
    int32_t first_priority = first ? first->request.priority : 0;
    scheduler_plan(w->s, now, &p);
    take_ended(w, &p, now);
    if (first && !w->lives[first_id].ended && !scheduler_find(w->s, first_id)->running) {
        const struct sequence *now_first = first_running(w);
        bool earlier = now_first && now_first->request.priority == first_priority && now_first->request.id < first_id;
        SIM_CHECK(earlier || (now_first && now_first->request.priority > first_priority), "the first of all was preempted");
    }
    struct scheduler_load load = scheduler_load(w->s);
    bool idle = p.n_groups == 0 && p.n_encodes == 0 && p.n_ended == 0 && p.n_preempted == 0;
    SIM_CHECK(!idle || (load.running == 0 && load.waiting == 0), "nothing is done, and %u run, %u wait", load.running, load.waiting);
    SIM_CHECK(load.running <= w->limits.max_running, "too many run");
    w->totals->n_preempted += p.n_preempted;
    run_step(w, &p);
    check_cache(w);
    check_sharing(w);
}

static void check_end(struct world *w)
{
    struct scheduler_load load = scheduler_load(w->s);
    struct kv_cache_counts n = kv_cache_counts(scheduler_cache(w->s));
    SIM_CHECK(load.free_blocks == w->limits.n_blocks && n.referenced == 0, "%u blocks are free at the end", load.free_blocks);
    for (int i = 0; i < LIVES; i++) SIM_CHECK(w->lives[i].submitted && w->lives[i].ended, "sequence %d never ended", i);
    w->totals->n_found += load.n_found;
}

void sim_lives(uint64_t seed, struct sim_totals *t)
{
    static struct world world;
    struct world *w = &world;
    struct err e;
    memset(w, 0, sizeof *w);
    w->rng = seed * 7919;
    w->totals = t;
    w->shared_scope = pick(w, 3) == 0;
    w->limits = random_limits(w);
    SIM_CHECK(scheduler_new(&w->s, &w->limits, &e) == 0, "no scheduler");
    sim_own(w->s);
    uint32_t busy = 1 + pick(w, 6);
    uint64_t open = 1;
    for (int64_t now = 1, step = 0; open; now += pick(w, 20), step++) {
        SIM_CHECK(step < 40000, "sequences never end");
        for (uint32_t k = pick(w, busy) ? 0 : pick(w, 4); k > 0 && w->next < LIVES; k--) submit(w, now);
        if (w->next && pick(w, 30) == 0) cancel(w, pick(w, (uint32_t)w->next));
        plan_and_run(w, now);
        struct scheduler_load load = scheduler_load(w->s);
        open = w->next < LIVES || load.running || load.waiting;
        t->n_steps++;
    }
    check_end(w);
}
