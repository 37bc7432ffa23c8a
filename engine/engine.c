/* Engine: see engine.h. Start at engine_step. Sequence state here and in the scheduler is tied by
 * scheduler_request.user. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "engine/engine_parts.h"

enum {
    BESIDE_ROWS = 32,         /* of prompts in a step that decodes as well, or an eighth of a step: a stream's next token waits for them ... */
    SPREAD_STEPS = 20,        /* ... and this part of those that came together: see docs/performance.md, "Steps that mix" */
    LAYER_ROWS_AT_FIRST = 64, /* what a layer of a tile costs, until both have been measured */
    PROMISED_TOKENS = 256,
    MAX_WAITING_TOKENS = 1 << 20,
    MAX_WAITING_BYTES = 256 << 20
};

static uint32_t mixed_rows(uint32_t step_rows)
{
    return step_rows - (step_rows + 3) / 4;
}

static uint32_t beside_rows(uint32_t step_rows)
{
    return step_rows / 8 > BESIDE_ROWS ? step_rows / 8 : BESIDE_ROWS;
}

static int scheduler_make(struct engine *en, struct err *e)
{
    const struct model_limits *m = &en->limits;
    const uint32_t step_rows = m->fill_rows, layers = m->tile_layers ? m->tile_layers : 1, mixed = mixed_rows(step_rows);
    struct scheduler_limits l = {.max_running = step_rows < ENGINE_MAX_RUNNING ? step_rows : ENGINE_MAX_RUNNING,
                                 .max_waiting = ENGINE_MAX_WAITING,
                                 .max_waiting_tokens = MAX_WAITING_TOKENS,
                                 .max_waiting_bytes = MAX_WAITING_BYTES,
                                 .n_blocks = m->n_blocks,
                                 .block_tokens = m->block_tokens,
                                 .max_context = m->max_context,
                                 .promised_tokens = en->options.promised_tokens ? en->options.promised_tokens : PROMISED_TOKENS,
                                 .step_rows = step_rows,
                                 .step_decode_rows = mixed < ENGINE_MAX_RUNNING ? mixed : ENGINE_MAX_RUNNING,
                                 .mixed_rows = mixed,
                                 .prompt_rows = en->options.prompt_rows,
                                 .beside_rows = beside_rows(step_rows),
                                 .spread_steps = SPREAD_STEPS,
                                 .tile_units = layers,
                                 .unit_rows = LAYER_ROWS_AT_FIRST,
                                 .step_units = layers, /* not more than a tile between two looks at what else has come */
                                 .prompt_blocks_only = m->two_paths};
    return scheduler_new(&en->scheduler, &l, e);
}

int engine_new_with(struct engine **out, struct model *model, const struct engine_options *o, struct err *e)
{
    *out = NULL;
    struct engine *en = calloc(1, sizeof *en);
    if (!en) return err_set(e, ERR_MEMORY, "out of memory");
    en->model = model;
    en->limits = *model_limits(model);
    en->options = *o;
    int rc = block_secret_make(&en->secret, e);
    if (!rc) rc = scheduler_make(en, e);
    if (!rc) rc = picture_cache_new(&en->pictures, model, o->picture_cache_bytes, e);
    if (rc)
        engine_free(en);
    else
        *out = en;
    return rc;
}

int engine_new(struct engine **out, struct model *model, struct err *e)
{
    return engine_new_with(out, model, &(struct engine_options){.picture_cache_bytes = ENGINE_PICTURE_CACHE_BYTES}, e);
}

void engine_tiles_unmap(struct engine_sequence *q)
{
    for (uint32_t i = 0; i < q->n_mappings; i++)
        if (q->mappings[i].base) munmap((void *)(uintptr_t)q->mappings[i].base, q->mappings[i].n_bytes);
    free(q->mappings);
    free(q->tiles);
    q->mappings = NULL;
    q->tiles = NULL;
    q->n_mappings = 0;
}

void engine_sequence_free(struct engine *en, struct engine_sequence *q)
{
    if (!q) return;
    engine_tiles_unmap(q);
    free(q->tile_hashes);
    picture_free(en->model, q->picture);
    free(q->tokens);
    free(q->eos);
    free(q->banned);
    free(q->bias);
    free(q);
}

static void drop_user(void *engine, void *user)
{
    engine_sequence_free(engine, user);
}

void engine_free(struct engine *en)
{
    if (!en) return;
    if (en->scheduler) scheduler_drop_all(en->scheduler, drop_user, en);
    scheduler_free(en->scheduler);
    picture_cache_free(en->pictures);
    free(en);
}

void engine_hello(const struct engine *en, struct frame_hello *out)
{
    const struct model_limits *l = &en->limits;
    *out = (struct frame_hello){.version = FRAME_VERSION,
                                .max_context = l->max_context,
                                .vocab = l->vocab,
                                .block_tokens = l->block_tokens,
                                .n_blocks = l->n_blocks,
                                .max_sequences = ENGINE_MAX_RUNNING + ENGINE_MAX_WAITING,
                                .tile_px = l->tile_px,
                                .tokens_per_tile = l->tokens_per_tile,
                                .image_token = l->image_token,
                                .weight_bytes = l->weight_bytes,
                                .kv_bytes = l->kv_bytes};
    memcpy(out->model_hash, l->hash, sizeof out->model_hash);
    snprintf(out->device, sizeof out->device, "%.63s", l->device);
}

void engine_cancel(struct engine *en, uint64_t sequence)
{
    scheduler_cancel(en->scheduler, sequence);
}

bool engine_busy(const struct engine *en)
{
    struct scheduler_load l = scheduler_load(en->scheduler);
    return l.running || l.waiting;
}

/* ---- step ---- */

static struct frame_step_row *tell(struct engine *en, uint64_t id)
{
    CHECK(en->n_rows < ENGINE_MAX_RUNNING + ENGINE_MAX_WAITING);
    struct frame_step_row *row = &en->rows[en->n_rows++];
    *row = (struct frame_step_row){.sequence = id};
    return row;
}

static void tell_error(struct engine *en, uint64_t id, const struct err *why)
{
    struct frame_step_row *row = tell(en, id);
    row->finish = FINISH_ERROR;
    row->err = *why;
    if (row->err.code == ERR_NONE) row->err.code = ERR_INTERNAL;
}

static void tell_ended(struct engine *en)
{
    for (size_t i = 0; i < en->plan.n_ended; i++) {
        tell(en, en->plan.ended[i].id)->finish = FINISH_CANCELLED;
        engine_sequence_free(en, en->plan.ended[i].user);
    }
}

/* ---- pictures ---- */

static struct kv_key tile_key(const struct engine *en, const struct engine_sequence *q, uint32_t tile)
{
    return block_tile_key(&en->secret, q->chain.scope, q->tile_hashes[tile]);
}

/* Takes what tiles of a picture were encoded lately from the cache. */
static int find_tiles(struct engine *en, struct sequence *s, struct err *e)
{
    struct engine_sequence *q = s->request.user;
    int rc = q->picture ? 0 : picture_new(en->model, q->n_tiles, &q->picture, e);
    for (uint32_t t = 0; !rc && t < q->n_tiles; t++) {
        if (s->encoded[t]) continue;
        rc = picture_cache_get(en->pictures, tile_key(en, q, t), q->picture, t, e);
        if (rc == 1) scheduler_tile_ready(en->scheduler, s, t);
        if (rc == 1) rc = 0;
    }
    return rc;
}

static void smooth(double *average, double now)
{
    *average = *average > 0 ? 0.9 * *average + 0.1 * now : now;
}

static int encode_layers(struct engine *en, const struct schedule_encode *c, struct err *e)
{
    struct sequence *s = c->sequence;
    struct engine_sequence *q = s->request.user;
    int64_t from_ns = clock_boot_ns();
    int rc = model_encode_layers(en->model, q->picture, c->tile, q->tiles[c->tile], c->first_unit, c->n_units, e);
    if (rc) return rc;
    scheduler_encoded(en->scheduler, c);
    smooth(&en->layer_ms, (double)(clock_boot_ns() - from_ns) / 1e6 / c->n_units);
    if (!s->encoded[c->tile]) return 0;
    en->n_encoded++;
    return picture_cache_put(en->pictures, tile_key(en, q, c->tile), q->account, q->weight, q->picture, c->tile, e);
}

/* The pixels are not needed any more when every tile is encoded. */
static void let_pixels_go(struct sequence *s)
{
    struct engine_sequence *q = s->request.user;
    uint32_t n = 0;
    while (n < q->n_tiles && s->encoded[n]) n++;
    if (n == q->n_tiles) engine_tiles_unmap(q);
}

/* Encodes that fail mark their sequence. */
static void encode_tiles(struct engine *en)
{
    for (size_t i = 0; i < en->plan.n_encodes; i++) {
        const struct schedule_encode *c = &en->plan.encodes[i];
        struct engine_sequence *q = c->sequence->request.user;
        int rc = 0;
        if (q->failed) continue;
        if (c->first_unit == 0) rc = find_tiles(en, c->sequence, &q->err);
        if (!rc && !c->sequence->encoded[c->tile]) rc = encode_layers(en, c, &q->err);
        q->failed = rc != 0;
        if (!rc) let_pixels_go(c->sequence);
    }
    const double row_ms = predict_prompt_row_ms(&en->step_costs);
    if (en->layer_ms > 0 && en->layer_ms < 10000 * row_ms) scheduler_set_unit_rows(en->scheduler, 1 + (uint32_t)(en->layer_ms / row_ms));
}

/* ---- rows ---- */

/* The picture row that the first image token from this position on takes. */
static uint32_t picture_row(const struct engine *en, struct engine_sequence *q, uint32_t position)
{
    if (position < q->picture_position) q->picture_position = q->picture_rows = 0; /* it was preempted */
    for (; q->picture_position < position; q->picture_position++)
        q->picture_rows += q->tokens[q->picture_position] == en->limits.image_token;
    return q->picture_rows;
}

static void fill_group(struct engine *en, size_t i)
{
    const struct schedule_rows *g = &en->planned[i];
    struct engine_sequence *q = g->sequence->request.user;
    bool pictures = g->first_position < q->n_prompt && q->picture;
    en->groups[i] = (struct model_group){.tokens = q->tokens + g->first_position,
                                         .first_position = g->first_position,
                                         .n_rows = g->n_rows,
                                         .prefill = g->prefill && !(g->made && en->limits.two_paths),
                                         .blocks = g->sequence->blocks,
                                         .picture = pictures ? q->picture : NULL,
                                         .picture_row = pictures ? picture_row(en, q, g->first_position) : 0,
                                         .all_logits = !g->prefill,
                                         .logits = g->sample};
}

/* Rows of a group whose logits are sampled: a decode's all are. */
static size_t n_samples(const struct schedule_rows *g)
{
    return g->prefill ? g->sample : g->n_rows;
}

/* The token after those made and the first n_ahead guessed. */
static void fill_sample(struct engine *en, size_t i_sample, const struct engine_sequence *q, uint32_t n_ahead)
{
    const struct frame_sampling *s = &q->sampling;
    const uint32_t n_made = q->n_made + n_ahead;
    bool too_early = n_made < s->min_tokens;
    en->sample_rows[i_sample] = (struct sample_row){.logits = model_logits(en->model, i_sample),
                                                    .params = {.temperature = s->temperature,
                                                               .top_p = s->top_p,
                                                               .min_p = s->min_p,
                                                               .top_k = s->top_k,
                                                               .frequency_penalty = s->frequency_penalty,
                                                               .presence_penalty = s->presence_penalty,
                                                               .repetition_penalty = s->repetition_penalty,
                                                               .seed = s->seed,
                                                               .choice = s->choice,
                                                               .top_logprobs = s->top_logprobs},
                                                    .position = q->n_prompt + n_made,
                                                    .prompt = q->tokens,
                                                    .n_prompt = q->n_prompt,
                                                    .made = q->tokens + q->n_prompt,
                                                    .n_made = n_made,
                                                    .bias = q->bias,
                                                    .n_bias = q->n_bias,
                                                    .banned = q->banned,
                                                    .n_banned = q->n_banned,
                                                    .banned_now = q->eos,
                                                    .n_banned_now = too_early ? q->n_eos : 0};
}

static bool ends_sequence(const struct engine_sequence *q, int32_t token)
{
    if (q->sampling.ignore_eos) return false;
    for (uint32_t i = 0; i < q->n_eos; i++)
        if (q->eos[i] == token) return true;
    return false;
}

static struct frame_logprob *put_logprobs(struct frame_logprob *lp, const struct sample_result *r)
{
    *lp++ = (struct frame_logprob){.token = r->token, .logprob = r->logprob};
    for (int32_t k = 0; k < r->n_top; k++) *lp++ = (struct frame_logprob){.token = r->top_token[k], .logprob = r->top_logprob[k]};
    return lp;
}

/* What a group's sampled rows give, from the first on as long as the token was guessed that the next row was computed for. */
struct taken {
    uint32_t n_sampled; /* rows that count */
    bool finished;
    bool not_finite; /* the row after those that count */
};

static struct taken take_results(struct engine *en, const struct schedule_rows *g, size_t i_sample)
{
    struct engine_sequence *q = g->sequence->request.user;
    struct frame_logprob *lp = &en->row_logprobs[i_sample * (1 + ENGINE_TOP)];
    const uint32_t n_guessed = (uint32_t)n_samples(g) - 1, room = g->sequence->max_tokens;
    struct taken t = {0};
    struct frame_step_row *row = NULL;
    for (bool right = true; right && !t.finished && t.n_sampled <= n_guessed;) {
        const struct sample_result *r = &en->results[i_sample + t.n_sampled];
        if ((t.not_finite = r->token < 0)) break;
        if (!row) {
            row = tell(en, q->id);
            row->tokens = &en->row_tokens[i_sample];
            if (q->sampling.top_logprobs >= 0) row->logprobs = lp;
        }
        if ((t.n_sampled++, ends_sequence(q, r->token))) {
            row->finish = FINISH_STOP;
        } else {
            int32_t *made = &q->tokens[q->n_prompt + q->n_made++];
            right = *made == r->token; /* of the last row nothing was guessed, and the loop ends anyway */
            en->row_tokens[i_sample + row->n_tokens++] = *made = r->token;
            if (row->logprobs) row->n_top = (uint32_t)r->n_top, lp = put_logprobs(lp, r);
            if (q->n_made == room) row->finish = FINISH_LENGTH;
        }
        t.finished = row->finish != FINISH_NONE;
    }
    return t;
}

/* It leaves with an error, and nothing of what this step computed for it is used. */
static void fail_sequence(struct engine *en, struct sequence *s, const struct err *why)
{
    struct engine_sequence *q = s->request.user;
    tell_error(en, q->id, why);
    scheduler_failed(en->scheduler, s);
    engine_sequence_free(en, q);
}

/* Blocks that positions before `end` fill with tokens that were made get their keys. */
static void add_keys(struct engine *en, struct sequence *s, uint32_t end)
{
    struct engine_sequence *q = s->request.user;
    const uint32_t block = en->limits.block_tokens;
    struct block_text text = engine_text(en, q);
    while (s->request.keys && (s->n_keys + 1) * block <= end)
        scheduler_add_key(en->scheduler, s, block_chain_next(&q->chain, &text, block));
}

/* What will follow is written behind what was made; the next decode finds out. */
static void guess(struct engine *en, struct sequence *s)
{
    struct engine_sequence *q = s->request.user;
    size_t room = s->max_tokens - q->n_made - 1, n = 0; /* the last token that may be made needs no guess */
    if (en->options.always_guess)
        n = LOOKUP_MAX;
    else if (!en->options.no_guesses && en->step_costs.known)
        n = lookup_length(&q->guessing, en->n_decodes > 0 ? en->n_decodes : 1, en->row_cost, LOOKUP_ROWS);
    int32_t *tokens = q->tokens;
    const size_t n_tokens = q->n_prompt + q->n_made;
    n = n > 0 && room > 0 ? lookup_guess(tokens, n_tokens, n < room ? n : room, tokens + n_tokens) : 0;
    scheduler_guess(en->scheduler, s, (uint32_t)n);
}

static void first_token_came(struct engine *en, const struct sequence *s)
{
    const struct engine_sequence *q = s->request.user;
    en->rows[en->n_rows - 1].cached_tokens = s->n_cached;
    if (q->predicted_ms >= 0) predict_learn(&en->predictions, q->predicted_ms, (double)(clock_boot_ns() - q->submitted_ns) / 1e6);
}

static void learn_guesses(struct engine *en, struct engine_sequence *q, uint32_t n_guessed, uint32_t n_right)
{
    lookup_learn(&q->guessing, n_guessed, n_right);
    en->n_guessed += n_guessed;
    en->n_right += n_right;
}

/* Its rows have been computed and sampled. Returns how many tokens it made. */
static uint32_t end_group(struct engine *en, const struct schedule_rows *g, size_t i_sample)
{
    struct sequence *s = g->sequence;
    struct engine_sequence *q = s->request.user;
    const uint32_t n_before = q->n_made;
    struct taken t = {0};
    if (g->sample) t = take_results(en, g, i_sample);
    if (n_before == 0 && t.n_sampled > 0) first_token_came(en, s);
    const uint32_t n_made = q->n_made - n_before;
    if (g->sample && g->n_rows > 1 && !g->prefill) learn_guesses(en, q, g->n_rows - 1, t.n_sampled > 0 ? t.n_sampled - 1 : 0);
    if (t.not_finite) {
        struct err why;
        err_set(&why, ERR_NUMERIC, "the model gave logits that are not finite at position %u", q->n_prompt + q->n_made);
        fail_sequence(en, s, &why);
        return n_made;
    }
    add_keys(en, s, g->first_position + (g->prefill ? g->n_rows : t.n_sampled));
    scheduler_advanced(en->scheduler, g, t.n_sampled, t.finished);
    if (t.finished) {
        smooth(&en->answer_tokens, q->n_made);
        engine_sequence_free(en, q);
    } else if (g->sample)
        guess(en, s);
    return n_made;
}

static int run_model(struct engine *en, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < en->n_groups; i++) fill_group(en, i);
    int rc = model_step(en->model, en->groups, en->n_groups, e);
    if (rc) return rc;
    for (size_t i = 0; i < en->n_groups; i++)
        for (uint32_t r = 0; r < n_samples(&en->planned[i]); r++) fill_sample(en, n++, en->planned[i].sequence->request.user, r);
    return n ? model_sample_begin(en->model, en->sample_rows, n, en->results, e) : 0;
}

static int copy_blocks(struct engine *en, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < en->plan.n_copies && !rc; i++)
        rc = model_copy_block(en->model, en->plan.copies[i].from, en->plan.copies[i].to, e);
    return rc;
}

static void measure(struct engine *en, double ms, uint32_t n_made)
{
    size_t n_decodes = 0, n_decode_rows = 0, n_prompt_rows = 0, n_first = 0;
    for (size_t i = 0; i < en->n_groups; i++) {
        const struct schedule_rows *g = &en->planned[i];
        if (g->prefill)
            n_prompt_rows += g->n_rows, n_first += g->sample;
        else
            n_decodes++, n_decode_rows += g->n_rows;
    }
    en->n_decodes = n_decodes;
    predict_costs_learn(&en->step_costs, (double)n_prompt_rows, (double)n_decode_rows, ms);
    for (size_t i = 0; i < LOOKUP_ROWS; i++) en->row_cost[i] = (float)predict_step_ms(&en->step_costs, 0, (double)(i + 1));
    if (n_decodes == 0) return;
    smooth(&en->decode_step_ms, ms);
    if (n_made >= n_first) smooth(&en->step_tokens, (double)(n_made - n_first) / (double)n_decodes);
}

/* Those whose encode failed end here, and have no part in the rest of the step. */
static int part_with_failed(struct engine *en, struct err *e)
{
    int lost = 0;
    en->n_groups = 0;
    for (size_t i = 0; i < en->plan.n_groups; i++) {
        const struct engine_sequence *q = en->plan.groups[i].sequence->request.user;
        if (!q->failed) en->planned[en->n_groups++] = en->plan.groups[i];
    }
    for (size_t i = 0; i < en->plan.n_encodes;) {
        struct sequence *s = en->plan.encodes[i].sequence;
        while (i < en->plan.n_encodes && en->plan.encodes[i].sequence == s) i++; /* one's encodes stand together */
        struct engine_sequence *q = s->request.user;
        if (!q->failed) continue;
        struct err why = q->err;
        if (why.code == ERR_GONE) lost = err_set(e, ERR_GONE, "%s", why.msg);
        fail_sequence(en, s, &why);
    }
    return lost;
}

/* What the rows made. If one of the halves failed nothing is used, and all of them end. */
static int end_rows(struct engine *en, struct err *e)
{
    struct begun *b = &en->begun;
    if (!b->rc) b->rc = model_sampled(en->model, &b->why);
    size_t i_sample = 0;
    uint32_t n_made = 0;
    for (size_t i = 0; i < en->n_groups; i++) {
        const struct schedule_rows *g = &en->planned[i];
        if (b->rc)
            fail_sequence(en, g->sequence, &b->why);
        else
            n_made += end_group(en, g, i_sample);
        i_sample += n_samples(g);
    }
    if (!b->rc) measure(en, (double)(clock_boot_ns() - b->from_ns) / 1e6, n_made);
    return b->rc == -ERR_GONE ? err_set(e, ERR_GONE, "%s", b->why.msg) : 0;
}

void engine_begin(struct engine *en, int64_t now_ms)
{
    struct begun *b = &en->begun;
    *b = (struct begun){0};
    en->n_rows = 0;
    scheduler_plan(en->scheduler, now_ms, &en->plan);
    tell_ended(en);
    b->rc = copy_blocks(en, &b->why);
    encode_tiles(en);
    b->lost = part_with_failed(en, &b->lost_why);
    b->from_ns = clock_boot_ns();
    if (!b->rc && !b->lost && en->n_groups) b->rc = run_model(en, &b->why);
}

int engine_end(struct engine *en, struct frame_step *out, struct err *e)
{
    struct begun *b = &en->begun;
    int lost = b->lost ? err_set(e, b->lost_why.code, "%s", b->lost_why.msg) : 0;
    if (!lost && en->n_groups) lost = end_rows(en, e);
    *out = (struct frame_step){.rows = en->rows, .n_rows = en->n_rows};
    return lost;
}

int engine_step(struct engine *en, int64_t now_ms, struct frame_step *out, struct err *e)
{
    engine_begin(en, now_ms);
    return engine_end(en, out, e);
}

bool engine_queues(const struct engine *en)
{
    return en->limits.queues;
}

static struct predict_queue queue_now(const struct engine *en, struct scheduler_backlog b)
{
    struct scheduler_load l = scheduler_load(en->scheduler);
    const uint32_t there = l.running + l.waiting;
    const uint32_t step_rows = en->limits.fill_rows;
    return (struct predict_queue){.prompts = there > b.decoding ? there - b.decoding : 0,
                                  .rows = (double)b.prompt_rows,
                                  .decoding = b.decoding,
                                  .answer_steps = en->step_tokens > 0 ? en->answer_tokens / en->step_tokens : 0,
                                  .step_rows = step_rows,
                                  .mixed_rows = mixed_rows(step_rows),
                                  .beside_rows = beside_rows(step_rows),
                                  .spread_steps = SPREAD_STEPS};
}

/* Behind the prompts and encodes that are there. */
double engine_first_token_ms(const struct engine *en, uint32_t n_rows, uint32_t n_tiles)
{
    if (!en->step_costs.known) return -1;
    struct scheduler_backlog b = scheduler_backlog(en->scheduler);
    struct predict_queue q = queue_now(en, b);
    double tiles_ms = (double)(b.tiles + n_tiles) * en->limits.tile_layers * en->layer_ms;
    return predict_first_token_ms(&en->step_costs, &q, n_rows) + tiles_ms;
}

void engine_prediction(const struct engine *en, struct frame_prediction *out)
{
    struct scheduler_load l = scheduler_load(en->scheduler);
    struct predict_queue q = queue_now(en, scheduler_backlog(en->scheduler));
    double none_ms = engine_first_token_ms(en, 0, 0);
    *out = (struct frame_prediction){.running = l.running,
                                     .waiting = l.waiting,
                                     .free_blocks = l.free_blocks,
                                     .n_blocks = en->limits.n_blocks,
                                     .side_by_side = en->step_costs.known ? predict_side_by_side(&en->step_costs, ENGINE_MAX_RUNNING) : 0,
                                     .first_token_ms = none_ms > 0 ? (float)none_ms : 0,
                                     .prompt_token_ms = en->step_costs.known ? (float)predict_token_ms(&en->step_costs, &q) : 0,
                                     .tokens_per_s = en->decode_step_ms > 0 ? (float)(1000 * en->step_tokens / en->decode_step_ms) : 0,
                                     .error_p90 = predict_p90(&en->predictions)};
}

void engine_figures(const struct engine *en, struct engine_figures *out)
{
    struct scheduler_load l = scheduler_load(en->scheduler);
    struct kv_cache_counts n = kv_cache_counts(scheduler_cache(en->scheduler));
    *out = (struct engine_figures){.blocks_free = n.free,
                                   .blocks_cached = n.cached,
                                   .blocks_used = n.referenced,
                                   .preempted = l.n_preempted,
                                   .blocks_copied = l.n_copied,
                                   .positions_found = l.n_found,
                                   .tiles_encoded = en->n_encoded,
                                   .tokens_guessed = en->n_guessed,
                                   .guesses_right = en->n_right};
}
