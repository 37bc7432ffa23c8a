/* Scheduler: see scheduler.h. Start at scheduler_plan. */
#include "engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

struct list {
    struct sequence *first, **end;
    uint32_t n;
};

struct scheduler {
    struct scheduler_limits limits;
    struct list waiting, running; /* both in order of arrival, hence of admission */
    uint32_t *free_blocks;        /* a stack of block numbers */
    uint32_t n_free_blocks;
    uint64_t decode_after_id;     /* round robin: the sequence served last when decode rows ran short */
    struct schedule_rows *groups; /* of the plan given out; room for max_running */
    struct schedule_end *ended;   /* room for max_running + max_waiting */
};

static void list_init(struct list *l)
{
    *l = (struct list){.end = &l->first};
}

static void list_push(struct list *l, struct sequence *q)
{
    q->next = NULL;
    *l->end = q;
    l->end = &q->next;
    l->n++;
}

static void list_remove(struct list *l, struct sequence **at)
{
    struct sequence *q = *at;
    *at = q->next;
    if (!q->next) l->end = at;
    l->n--;
}

int scheduler_new(struct scheduler **out, const struct scheduler_limits *limits, struct err *e)
{
    *out = NULL;
    CHECK(limits->max_running > 0 && limits->block_tokens > 0 && limits->n_blocks > 0 && limits->max_context > 1);
    CHECK(limits->step_rows >= 2 && limits->step_decode_rows > 0 && limits->step_decode_rows < limits->step_rows);
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    s->limits = *limits;
    list_init(&s->waiting);
    list_init(&s->running);
    s->free_blocks = calloc(limits->n_blocks, sizeof *s->free_blocks);
    s->groups = calloc(limits->max_running, sizeof *s->groups);
    s->ended = calloc((size_t)limits->max_running + limits->max_waiting, sizeof *s->ended);
    if (!s->free_blocks || !s->groups || !s->ended) {
        scheduler_free(s);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    while (s->n_free_blocks < limits->n_blocks) { /* the lowest number is taken first */
        s->free_blocks[s->n_free_blocks] = limits->n_blocks - 1 - s->n_free_blocks;
        s->n_free_blocks++;
    }
    *out = s;
    return 0;
}

static void sequence_free(struct sequence *q)
{
    free(q->table);
    free(q);
}

static void list_free(struct list *l)
{
    while (l->first) {
        struct sequence *q = l->first;
        l->first = q->next;
        sequence_free(q);
    }
}

void scheduler_free(struct scheduler *s)
{
    if (!s) return;
    list_free(&s->waiting);
    list_free(&s->running);
    free(s->free_blocks);
    free(s->groups);
    free(s->ended);
    free(s);
}

static void blocks_give_back(struct scheduler *s, struct sequence *q)
{
    for (uint32_t i = q->n_blocks; q->blocks && i > 0; i--) s->free_blocks[s->n_free_blocks++] = q->blocks[i - 1];
    CHECK(s->n_free_blocks <= s->limits.n_blocks);
}

static void list_drop(struct list *l, void (*drop)(void *arg, void *user), void *arg)
{
    for (struct sequence *q = l->first; q; q = q->next) drop(arg, q->request.user);
    list_free(l);
    list_init(l);
}

void scheduler_drop_all(struct scheduler *s, void (*drop)(void *arg, void *user), void *arg)
{
    for (struct sequence *q = s->running.first; q; q = q->next) blocks_give_back(s, q);
    list_drop(&s->running, drop, arg);
    list_drop(&s->waiting, drop, arg);
}

static struct sequence *find(const struct scheduler *s, uint64_t id)
{
    for (struct sequence *q = s->running.first; q; q = q->next)
        if (q->request.id == id) return q;
    for (struct sequence *q = s->waiting.first; q; q = q->next)
        if (q->request.id == id) return q;
    return NULL;
}

int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct err *e)
{
    const struct scheduler_limits *l = &s->limits;
    if (r->n_prompt == 0 || r->max_tokens == 0) return err_set(e, ERR_INPUT, "an empty prompt or max_tokens of 0");
    if (r->n_prompt >= l->max_context)
        return err_set(e, ERR_CONTEXT, "the prompt has %u tokens, the model's context is %u", r->n_prompt, l->max_context);
    if (find(s, r->id)) return err_set(e, ERR_INPUT, "sequence %llu is there already", (unsigned long long)r->id);
    uint32_t room = l->max_context - r->n_prompt;
    uint32_t max_tokens = r->max_tokens < room ? r->max_tokens : room;
    /* The token sampled last is never computed, hence - 1. No overflow: both are at most max_context. */
    uint64_t n_blocks = ((uint64_t)r->n_prompt + max_tokens - 1 + l->block_tokens - 1) / l->block_tokens;
    if (n_blocks > l->n_blocks)
        return err_set(e, ERR_LIMIT, "%u prompt tokens and %u to make need %llu KV blocks, there are %u", r->n_prompt, max_tokens,
                       (unsigned long long)n_blocks, l->n_blocks);
    if (s->waiting.n >= l->max_waiting) return err_set(e, ERR_BUSY, "%u sequences are waiting already", s->waiting.n);
    struct sequence *q = calloc(1, sizeof *q);
    uint32_t *table = q ? calloc(n_blocks, sizeof *table) : NULL;
    if (!table) {
        free(q);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    q->table = table;
    q->request = *r;
    q->max_tokens = max_tokens;
    q->n_blocks = (uint32_t)n_blocks;
    list_push(&s->waiting, q);
    return 0;
}

bool scheduler_cancel(struct scheduler *s, uint64_t id)
{
    struct sequence *q = find(s, id);
    if (q) q->cancelled = true;
    return q != NULL;
}

static void end_list(struct scheduler *s, struct list *l, int64_t now_ms, size_t *n_ended)
{
    for (struct sequence **at = &l->first; *at;) {
        struct sequence *q = *at;
        bool late = q->request.deadline_ms && now_ms >= q->request.deadline_ms;
        if (!q->cancelled && !late) {
            at = &q->next;
            continue;
        }
        s->ended[(*n_ended)++] =
            (struct schedule_end){.id = q->request.id, .user = q->request.user, .n_made = q->n_made, .late = late && !q->cancelled};
        list_remove(l, at);
        blocks_give_back(s, q);
        sequence_free(q);
    }
}

static void admit(struct scheduler *s)
{
    /* Strictly in order: a large request at the head is not passed for ever by small ones. */
    while (s->waiting.first && s->running.n < s->limits.max_running && s->waiting.first->n_blocks <= s->n_free_blocks) {
        struct sequence *q = s->waiting.first;
        q->blocks = q->table;
        for (uint32_t i = 0; i < q->n_blocks; i++) q->blocks[i] = s->free_blocks[--s->n_free_blocks];
        list_remove(&s->waiting, &s->waiting.first);
        list_push(&s->running, q);
    }
}

static bool is_decoding(const struct sequence *q)
{
    return q->n_computed >= q->request.n_prompt;
}

static void plan_decode_row(struct scheduler *s, struct schedule *out, struct sequence *q)
{
    s->groups[out->n_groups++] = (struct schedule_rows){.sequence = q, .first_position = q->n_computed, .n_rows = 1, .sample = true};
    out->n_rows++;
    s->decode_after_id = q->request.id;
}

static void plan_decodes(struct scheduler *s, struct schedule *out)
{
    uint32_t decoding = 0;
    struct sequence *start = NULL; /* the first one after the one served last */
    bool passed = false;
    for (struct sequence *q = s->running.first; q; q = q->next) {
        if (is_decoding(q)) decoding++;
        if (passed && !start && is_decoding(q)) start = q;
        if (q->request.id == s->decode_after_id) passed = true;
    }
    if (decoding <= s->limits.step_decode_rows || !start) start = s->running.first;
    for (struct sequence *q = start; q && out->n_rows < s->limits.step_decode_rows; q = q->next)
        if (is_decoding(q)) plan_decode_row(s, out, q);
    for (struct sequence *q = s->running.first; q != start && out->n_rows < s->limits.step_decode_rows; q = q->next)
        if (is_decoding(q)) plan_decode_row(s, out, q);
}

static void plan_prompts(struct scheduler *s, struct schedule *out)
{
    for (struct sequence *q = s->running.first; q && out->n_rows < s->limits.step_rows; q = q->next) {
        if (is_decoding(q)) continue;
        if (q->n_encoded < q->request.n_tiles) {
            if (!out->encode) out->encode = q;
            continue;
        }
        uint32_t left = q->request.n_prompt - q->n_computed;
        uint32_t room = s->limits.step_rows - (uint32_t)out->n_rows;
        uint32_t n = left < room ? left : room;
        s->groups[out->n_groups++] =
            (struct schedule_rows){.sequence = q, .first_position = q->n_computed, .n_rows = n, .sample = n == left};
        out->n_rows += n;
    }
}

void scheduler_plan(struct scheduler *s, int64_t now_ms, struct schedule *out)
{
    *out = (struct schedule){.groups = s->groups, .ended = s->ended};
    end_list(s, &s->running, now_ms, &out->n_ended);
    end_list(s, &s->waiting, now_ms, &out->n_ended);
    admit(s);
    plan_decodes(s, out);
    plan_prompts(s, out);
}

static void finish(struct scheduler *s, struct sequence *q)
{
    struct sequence **at = &s->running.first;
    while (*at && *at != q) at = &(*at)->next;
    CHECK(*at == q);
    list_remove(&s->running, at);
    blocks_give_back(s, q);
    sequence_free(q);
}

void scheduler_encoded(struct scheduler *s, struct sequence *q, bool finished)
{
    CHECK(q->n_encoded < q->request.n_tiles);
    q->n_encoded++;
    if (finished) finish(s, q);
}

void scheduler_advanced(struct scheduler *s, const struct schedule_rows *group, bool finished)
{
    struct sequence *q = group->sequence;
    CHECK(group->first_position == q->n_computed);
    q->n_computed += group->n_rows;
    CHECK((uint64_t)q->n_computed <= (uint64_t)q->n_blocks * s->limits.block_tokens);
    if (group->sample) q->n_made++;
    CHECK(finished || q->n_made < q->max_tokens);
    if (finished) finish(s, q);
}

struct scheduler_load scheduler_load(const struct scheduler *s)
{
    return (struct scheduler_load){.running = s->running.n, .waiting = s->waiting.n, .free_blocks = s->n_free_blocks};
}

static uint64_t rows_left(const struct list *l)
{
    uint64_t n = 0;
    for (const struct sequence *q = l->first; q; q = q->next)
        if (!is_decoding(q)) n += q->request.n_prompt - q->n_computed;
    return n;
}

uint64_t scheduler_prompt_rows_left(const struct scheduler *s)
{
    return rows_left(&s->running) + rows_left(&s->waiting);
}
