/* Engine: see engine.h. Start at engine_step. Sequence state here and in the scheduler is tied by
 * scheduler_request.user. */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "engine/model.h"

enum {
    STEP_ROWS_MAX = 256, /* a prompt chunk holds up the tokens of the others and a cancel: not longer than this */
    TOP = FRAME_MAX_TOP
};

/* A memfd of tiles, mapped read-only. Its seals make sure that the bytes stay what and where they are. */
struct mapping {
    const uint8_t *base;
    size_t n_bytes;
};

struct engine_sequence {
    uint64_t id;
    struct frame_sampling sampling;
    int32_t *tokens; /* prompt, then what was made; room for both */
    uint32_t n_prompt, n_made;
    int32_t *eos, *banned;
    uint32_t n_eos, n_banned, n_bias, n_tiles, n_mappings;
    struct token_bias *bias;
    struct mapping *mappings;
    const uint8_t **tiles;   /* (n_tiles), each (3, tile_px, tile_px), into the mappings */
    struct picture *picture; /* made with the first tile encoded, freed when the prompt is computed */
    uint32_t picture_rows;   /* image tokens of the prompt computed so far */
};

struct engine {
    struct model *model;
    struct model_limits limits;
    struct scheduler *scheduler;
    struct schedule plan; /* of the step that is running */
    struct model_group groups[ENGINE_MAX_RUNNING];
    struct sample_row sample_rows[ENGINE_MAX_RUNNING];
    struct sample_result results[ENGINE_MAX_RUNNING];
    /* What the step tells: one row a sequence at most, and its token with the alternatives. */
    struct frame_step_row rows[ENGINE_MAX_RUNNING + ENGINE_MAX_WAITING];
    uint32_t n_rows;
    int32_t row_tokens[ENGINE_MAX_RUNNING];
    struct frame_logprob row_logprobs[ENGINE_MAX_RUNNING][1 + TOP];
    double row_ms, decode_step_ms; /* smoothed over steps; 0: not known yet */
};

int engine_new(struct engine **out, struct model *model, struct err *e)
{
    *out = NULL;
    struct engine *en = calloc(1, sizeof *en);
    if (!en) return err_set(e, ERR_MEMORY, "out of memory");
    en->model = model;
    en->limits = *model_limits(model);
    uint32_t step_rows = en->limits.step_rows < STEP_ROWS_MAX ? en->limits.step_rows : STEP_ROWS_MAX;
    struct scheduler_limits l = {.max_running = step_rows < ENGINE_MAX_RUNNING ? step_rows : ENGINE_MAX_RUNNING,
                                 .max_waiting = ENGINE_MAX_WAITING,
                                 .n_blocks = en->limits.n_blocks,
                                 .block_tokens = en->limits.block_tokens,
                                 .max_context = en->limits.max_context,
                                 .step_rows = step_rows,
                                 .step_decode_rows = step_rows - (step_rows + 3) / 4};
    int rc = scheduler_new(&en->scheduler, &l, e);
    if (rc) {
        free(en);
        return rc;
    }
    *out = en;
    return 0;
}

static void unmap_tiles(struct engine_sequence *q)
{
    for (uint32_t i = 0; i < q->n_mappings; i++)
        if (q->mappings[i].base) munmap((void *)(uintptr_t)q->mappings[i].base, q->mappings[i].n_bytes);
    free(q->mappings);
    free(q->tiles);
    q->mappings = NULL;
    q->tiles = NULL;
    q->n_mappings = 0;
}

static void sequence_free(struct engine *en, struct engine_sequence *q)
{
    if (!q) return;
    unmap_tiles(q);
    picture_free(en->model, q->picture);
    free(q->tokens);
    free(q->eos);
    free(q->banned);
    free(q->bias);
    free(q);
}

static void drop_user(void *engine, void *user)
{
    sequence_free(engine, user);
}

void engine_free(struct engine *en)
{
    if (!en) return;
    scheduler_drop_all(en->scheduler, drop_user, en);
    scheduler_free(en->scheduler);
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
    memcpy(out->device, l->device, sizeof out->device);
    out->device[sizeof out->device - 1] = '\0';
}

/* ---- submit ---- */

static int check_ids(const struct engine *en, const int32_t *ids, uint32_t n, const char *what, struct err *e)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= en->limits.vocab)
            return err_set(e, ERR_INPUT, "%s: id %d is outside the vocabulary of %u", what, (int)ids[i], en->limits.vocab);
    return 0;
}

static int check_submit(const struct engine *en, const struct frame_submit *f, struct err *e)
{
    const struct model_limits *l = &en->limits;
    int rc = check_ids(en, f->ids, f->n_ids, "prompt", e);
    if (!rc) rc = check_ids(en, f->eos, f->n_eos, "end-of-sequence ids", e);
    if (!rc) rc = check_ids(en, f->banned, f->n_banned, "banned ids", e);
    for (uint32_t i = 0; !rc && i < f->n_bias; i++) rc = check_ids(en, &f->bias[i].token, 1, "logit bias", e);
    if (rc) return rc;
    uint64_t positions = 0;
    for (uint32_t i = 0; i < f->n_ids; i++) positions += l->image_token >= 0 && f->ids[i] == l->image_token;
    if (positions != (uint64_t)f->n_tiles * l->tokens_per_tile || (f->n_tiles && l->tokens_per_tile == 0))
        return err_set(e, ERR_INPUT, "the prompt has %llu picture positions, %u tiles of %u came", (unsigned long long)positions,
                       f->n_tiles, l->tokens_per_tile);
    return 0;
}

static int map_descriptor(int fd, struct mapping *m, struct err *e)
{
    enum { SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW };
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS) return err_set(e, ERR_INPUT, "tiles: the descriptor is not a sealed memfd");
    if (fstat(fd, &st)) return err_set(e, ERR_IO, "tiles: %s", strerror(errno));
    if (st.st_size <= 0) return err_set(e, ERR_INPUT, "tiles: the memfd is empty");
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_MEMORY, "tiles: %s", strerror(errno));
    *m = (struct mapping){.base = p, .n_bytes = (size_t)st.st_size};
    return 0;
}

static int map_tiles(const struct engine *en, struct engine_sequence *q, const struct frame_submit *f, struct err *e)
{
    size_t tile_bytes = (size_t)3 * en->limits.tile_px * en->limits.tile_px;
    if (f->n_tiles == 0) return 0;
    q->mappings = calloc(f->n_fds ? f->n_fds : 1, sizeof *q->mappings);
    q->tiles = calloc(f->n_tiles, sizeof *q->tiles);
    if (!q->mappings || !q->tiles) return err_set(e, ERR_MEMORY, "out of memory");
    for (; q->n_mappings < f->n_fds; q->n_mappings++) {
        int rc = map_descriptor(f->fds[q->n_mappings], &q->mappings[q->n_mappings], e);
        if (rc) return rc;
    }
    for (; q->n_tiles < f->n_tiles; q->n_tiles++) {
        const struct frame_tile *t = &f->tiles[q->n_tiles];
        if (t->fd_index >= f->n_fds || t->tile_index >= q->mappings[t->fd_index].n_bytes / tile_bytes)
            return err_set(e, ERR_INPUT, "tile %u: number %u of descriptor %u is not there", q->n_tiles, t->tile_index, t->fd_index);
        q->tiles[q->n_tiles] = q->mappings[t->fd_index].base + t->tile_index * tile_bytes;
    }
    return 0;
}

/* Room for so many items of which the first n are copied; NULL without memory. */
static void *copy_array(const void *from, size_t n, size_t size, size_t room)
{
    void *p = calloc(room ? room : 1, size);
    if (p && n) memcpy(p, from, n * size);
    return p;
}

static int sequence_fill(const struct engine *en, struct engine_sequence *q, const struct frame_submit *f, struct err *e)
{
    q->id = f->sequence;
    q->sampling = f->sampling;
    q->n_prompt = f->n_ids;
    /* What is made fits as well: the scheduler cuts max_tokens to the context. */
    size_t room = f->n_ids < en->limits.max_context ? en->limits.max_context - f->n_ids : 0;
    if (f->sampling.max_tokens < room) room = f->sampling.max_tokens;
    q->tokens = copy_array(f->ids, f->n_ids, sizeof *q->tokens, f->n_ids + room);
    q->eos = copy_array(f->eos, q->n_eos = f->n_eos, sizeof *q->eos, f->n_eos);
    q->banned = copy_array(f->banned, q->n_banned = f->n_banned, sizeof *q->banned, f->n_banned);
    q->bias = copy_array(NULL, 0, sizeof *q->bias, f->n_bias);
    if (!q->tokens || !q->eos || !q->banned || !q->bias) return err_set(e, ERR_MEMORY, "out of memory");
    for (; q->n_bias < f->n_bias; q->n_bias++)
        q->bias[q->n_bias] = (struct token_bias){.token = f->bias[q->n_bias].token, .bias = f->bias[q->n_bias].bias};
    return map_tiles(en, q, f, e);
}

int engine_submit(struct engine *en, const struct frame_submit *f, struct err *e)
{
    int rc = check_submit(en, f, e);
    if (rc) return rc;
    struct engine_sequence *q = calloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_MEMORY, "out of memory");
    rc = sequence_fill(en, q, f, e);
    struct scheduler_request r = {.id = f->sequence,
                                  .n_prompt = f->n_ids,
                                  .n_tiles = f->n_tiles,
                                  .max_tokens = f->sampling.max_tokens,
                                  .deadline_ms = f->deadline_ms,
                                  .user = q};
    if (!rc) rc = scheduler_submit(en->scheduler, &r, e);
    if (rc) sequence_free(en, q);
    return rc;
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
        sequence_free(en, en->plan.ended[i].user);
    }
}

static int encode_tile(struct engine *en, struct err *e)
{
    struct sequence *s = en->plan.encode;
    if (!s) return 0;
    struct engine_sequence *q = s->request.user;
    struct err why = {0};
    int rc = q->picture ? 0 : picture_new(en->model, q->n_tiles, &q->picture, &why);
    if (!rc) rc = model_encode_tile(en->model, q->picture, s->n_encoded, q->tiles[s->n_encoded], &why);
    if (!rc && s->n_encoded + 1 == q->n_tiles) unmap_tiles(q);
    scheduler_encoded(en->scheduler, s, rc != 0);
    if (!rc) return 0;
    tell_error(en, q->id, &why);
    sequence_free(en, q);
    return rc == -ERR_GONE ? err_set(e, ERR_GONE, "%s", why.msg) : 0;
}

static void fill_group(struct engine *en, size_t i)
{
    const struct schedule_rows *g = &en->plan.groups[i];
    const struct engine_sequence *q = g->sequence->request.user;
    bool prefill = g->first_position < q->n_prompt;
    en->groups[i] = (struct model_group){.tokens = q->tokens + g->first_position,
                                         .first_position = g->first_position,
                                         .n_rows = g->n_rows,
                                         .prefill = prefill,
                                         .blocks = g->sequence->blocks,
                                         .picture = prefill ? q->picture : NULL,
                                         .picture_row = q->picture_rows,
                                         .logits = g->sample};
}

/* Prompt rows are done: count the picture rows they took; with the last of them the picture is not needed any more. */
static void after_prompt_rows(struct engine *en, const struct schedule_rows *g)
{
    struct engine_sequence *q = g->sequence->request.user;
    if (g->first_position >= q->n_prompt || !q->picture) return;
    for (uint32_t i = 0; i < g->n_rows; i++) q->picture_rows += q->tokens[g->first_position + i] == en->limits.image_token;
    if (!g->sample) return;
    picture_free(en->model, q->picture);
    q->picture = NULL;
}

static void fill_sample(struct engine *en, size_t i_sample, const struct engine_sequence *q)
{
    const struct frame_sampling *s = &q->sampling;
    bool too_early = q->n_made < s->min_tokens;
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
                                                    .position = q->n_prompt + q->n_made,
                                                    .prompt = q->tokens,
                                                    .n_prompt = q->n_prompt,
                                                    .made = q->tokens + q->n_prompt,
                                                    .n_made = q->n_made,
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

static void put_logprobs(struct engine *en, struct frame_step_row *row, const struct sample_result *r, size_t i_sample)
{
    struct frame_logprob *lp = en->row_logprobs[i_sample];
    lp[0] = (struct frame_logprob){.token = r->token, .logprob = r->logprob};
    for (int32_t k = 0; k < r->n_top; k++) lp[1 + k] = (struct frame_logprob){.token = r->top_token[k], .logprob = r->top_logprob[k]};
    row->n_top = (uint32_t)r->n_top;
    row->logprobs = lp;
}

/* What a sampled row means for its sequence. Returns whether it ended. */
static bool take_result(struct engine *en, const struct sequence *s, size_t i_sample)
{
    struct engine_sequence *q = s->request.user;
    const struct sample_result *r = &en->results[i_sample];
    if (r->token < 0) {
        struct err why;
        err_set(&why, ERR_NUMERIC, "the model gave logits that are not finite at position %u", q->n_prompt + q->n_made);
        tell_error(en, q->id, &why);
        return true;
    }
    struct frame_step_row *row = tell(en, q->id);
    if (ends_sequence(q, r->token)) {
        row->finish = FINISH_STOP;
        return true;
    }
    q->tokens[q->n_prompt + q->n_made++] = r->token;
    en->row_tokens[i_sample] = r->token;
    row->tokens = &en->row_tokens[i_sample];
    row->n_tokens = 1;
    if (q->sampling.top_logprobs >= 0) put_logprobs(en, row, r, i_sample);
    if (q->n_made == s->max_tokens) row->finish = FINISH_LENGTH;
    return row->finish != FINISH_NONE;
}

static void end_group(struct engine *en, const struct schedule_rows *g, bool finished)
{
    struct engine_sequence *q = g->sequence->request.user;
    if (!finished) after_prompt_rows(en, g);
    scheduler_advanced(en->scheduler, g, finished);
    if (finished) sequence_free(en, q);
}

static int run_model(struct engine *en, struct err *e)
{
    size_t n_samples = 0;
    for (size_t i = 0; i < en->plan.n_groups; i++) fill_group(en, i);
    int rc = model_step(en->model, en->groups, en->plan.n_groups, e);
    if (rc) return rc;
    for (size_t i = 0; i < en->plan.n_groups; i++)
        if (en->plan.groups[i].sample) fill_sample(en, n_samples++, en->plan.groups[i].sequence->request.user);
    return n_samples ? model_sample(en->model, en->sample_rows, n_samples, en->results, e) : 0;
}

static void measure(struct engine *en, double ms)
{
    bool decodes_only = true;
    for (size_t i = 0; i < en->plan.n_groups; i++) decodes_only &= !en->groups[i].prefill;
    double *smooth = decodes_only ? &en->decode_step_ms : &en->row_ms;
    double now = decodes_only ? ms : ms / (double)en->plan.n_rows;
    *smooth = *smooth > 0 ? 0.9 * *smooth + 0.1 * now : now;
}

int engine_step(struct engine *en, int64_t now_ms, struct frame_step *out, struct err *e)
{
    en->n_rows = 0;
    scheduler_plan(en->scheduler, now_ms, &en->plan);
    tell_ended(en);
    int lost = encode_tile(en, e);
    if (!lost && en->plan.n_groups) {
        struct err why = {0};
        int64_t from_ns = clock_boot_ns();
        int rc = run_model(en, &why);
        size_t i_sample = 0;
        for (size_t i = 0; i < en->plan.n_groups; i++) {
            const struct schedule_rows *g = &en->plan.groups[i];
            bool finished = rc != 0;
            if (rc)
                tell_error(en, g->sequence->request.id, &why);
            else if (g->sample)
                finished = take_result(en, g->sequence, i_sample++);
            end_group(en, g, finished);
        }
        if (!rc) measure(en, (double)(clock_boot_ns() - from_ns) / 1e6);
        if (rc == -ERR_GONE) lost = err_set(e, ERR_GONE, "%s", why.msg);
    }
    *out = (struct frame_step){.rows = en->rows, .n_rows = en->n_rows};
    return lost;
}

void engine_prediction(const struct engine *en, struct frame_prediction *out)
{
    struct scheduler_load l = scheduler_load(en->scheduler);
    *out = (struct frame_prediction){.running = l.running,
                                     .waiting = l.waiting,
                                     .free_blocks = l.free_blocks,
                                     .n_blocks = en->limits.n_blocks,
                                     .first_token_ms = (float)((double)scheduler_prompt_rows_left(en->scheduler) * en->row_ms),
                                     .prompt_token_ms = (float)en->row_ms,
                                     .tokens_per_s = en->decode_step_ms > 0 ? (float)(1000 / en->decode_step_ms) : 0,
                                     .error_p90 = -1};
}
