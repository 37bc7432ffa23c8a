/* A step's plan: which row sits in which slot, and what of it the kernels read, copied to the device. Decode rows come first, then
 * prefill rows, which are cut into tiles of up to 64 rows of one sequence for their attention. The table of rotations is made with the
 * first plan and lasts. */
#include <math.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

namespace {

enum { TILE_ROWS = 64 };

/* The staged arrays, one after another. Runs twice with a base (host, device), once without to measure. */
struct staged {
    int32_t *position, *adapter, *token;
    const float **picture;
    uint32_t *sequence, *tile, *first_task, *head_row, *logits_row, *blocks;
};

template <class T> void carve(unsigned char *base, size_t *at, T **out, size_t n)
{
    *out = base ? reinterpret_cast<T *>(base + *at) : nullptr;
    *at += cuda_round_up(n * sizeof(T), 256);
}

size_t lay_out(const struct device_limits *l, unsigned char *base, staged *s)
{
    size_t at = 0;
    carve(base, &at, &s->picture, l->max_rows);
    carve(base, &at, &s->token, l->max_rows);
    carve(base, &at, &s->head_row, l->max_rows);
    carve(base, &at, &s->logits_row, l->max_rows);
    carve(base, &at, &s->position, l->max_rows);
    carve(base, &at, &s->sequence, l->max_rows);
    carve(base, &at, &s->adapter, l->max_rows);
    carve(base, &at, &s->tile, 2 * l->max_rows);
    carve(base, &at, &s->first_task, l->max_rows + 1);
    carve(base, &at, &s->blocks, l->max_sequences * l->max_blocks_per_sequence);
    return at;
}

int copy_over(struct device *d, const void *first, size_t bytes, struct err *e)
{
    const size_t at = static_cast<const unsigned char *>(first) - d->staging;
    if (d->step.graph) return 0; /* all of it goes over when the graph is launched */
    d->queued = true;
    return cuda_check(d, "the step's plan", cudaMemcpyAsync(d->staged + at, first, bytes, cudaMemcpyHostToDevice, d->stream), e);
}

/* As the reference: the angle is rounded to float32 before cos and sin. */
int make_rotations(struct device *d, const struct rope *rope, size_t half, struct err *e)
{
    const size_t n = d->limits.max_blocks_per_sequence * CUDA_KV_BLOCK;
    float2 *host = static_cast<float2 *>(malloc(n * half * sizeof *host));
    if (!host) return err_set(e, ERR_MEMORY, "cuda: out of memory");
    for (size_t p = 0; p < n; p++)
        for (size_t j = 0; j < half; j++) {
            const float angle = float(p) * rope->inv_freq[j];
            host[p * half + j] = make_float2(cosf(angle) * rope->scale, sinf(angle) * rope->scale);
        }
    int rc = cuda_check(d, "rotations", cudaMemcpyAsync(d->rope, host, n * half * sizeof *host, cudaMemcpyHostToDevice, d->stream), e);
    if (!rc) rc = cuda_wait(d, e);
    if (!rc) d->rope_made = rope->inv_freq;
    free(host);
    return rc;
}

/* Decode rows in splits. */
void cut_tasks(struct cuda_step *s, const staged &host)
{
    host.first_task[0] = 0;
    for (size_t r = 0; r < s->n_decode; r++) host.first_task[r + 1] = host.first_task[r] + uint32_t(host.position[r]) / CUDA_KV_SPLIT + 1;
    s->task = host.first_task, s->n_tasks = host.first_task[s->n_decode];
}

/* Prefill rows in tiles: rows of a sequence that follow one another. */
void cut_tiles(struct cuda_step *s, const staged &host)
{
    s->n_tiles = 0;
    for (size_t r = s->n_decode, n; r < s->n_rows; r += n) {
        for (n = 1; n < TILE_ROWS && r + n < s->n_rows && host.sequence[r + n] == host.sequence[r]; n++) {
        }
        host.tile[2 * s->n_tiles] = uint32_t(r);
        host.tile[2 * s->n_tiles++ + 1] = uint32_t(n);
    }
}

} // namespace

int cuda_plan_reserve(struct device *d, struct err *e)
{
    staged s;
    const struct device_limits *l = &d->limits;
    d->staging_bytes = lay_out(l, nullptr, &s);
    int rc = cuda_check(d, "memory of plans", cudaMallocHost(reinterpret_cast<void **>(&d->staging), d->staging_bytes), e);
    if (!rc) rc = cuda_region_take(d, d->staging_bytes, reinterpret_cast<void **>(&d->staged), e);
    if (!rc) rc = cuda_region_take(d, l->max_blocks_per_sequence * CUDA_KV_BLOCK * (l->head_dim / 2) * sizeof *d->rope, reinterpret_cast<void **>(&d->rope), e);
    d->slot = static_cast<uint32_t *>(calloc(l->max_rows, sizeof *d->slot));
    if (!rc && !d->slot) rc = err_set(e, ERR_MEMORY, "cuda: out of memory");
    if (rc) return rc;
    lay_out(l, d->staged, &s);
    d->step.position = s.position, d->step.sequence = s.sequence, d->step.adapter = s.adapter;
    d->step.blocks = s.blocks, d->step.token = s.token, d->step.picture = s.picture;
    d->step.tile = s.tile, d->step.first_task = s.first_task, d->step.head_row = s.head_row, d->step.logits_row = s.logits_row;
    return 0;
}

/* A step whose tokens were not waited for may still be read from the host's arrays. */
int cuda_plan(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e)
{
    struct cuda_step *s = &d->step;
    staged host;
    cuda_graph_abandon(d); /* a step that was not ended */
    int rc = d->queued ? cuda_wait(d, e) : 0;
    if (rc) return rc;
    lay_out(&d->limits, d->staging, &host);
    CHECK(p->n_rows > 0 && p->n_rows <= d->limits.max_rows && p->n_sequences <= d->limits.max_sequences);
    s->n_rows = s->n_given = p->n_rows, s->n_sequences = p->n_sequences, s->n_heads = s->n_decode = 0;
    for (size_t r = 0; r < p->n_rows; r++) s->n_decode += !p->prefill[r];
    for (size_t r = 0, decode = 0, prefill = s->n_decode; r < p->n_rows; r++) {
        const size_t slot = p->prefill[r] ? prefill++ : decode++;
        d->slot[r] = uint32_t(slot);
        host.position[slot] = p->position[r];
        host.sequence[slot] = p->sequence[r];
        host.adapter[slot] = p->adapter ? p->adapter[r] : -1;
    }
    cut_tasks(s, host);
    cut_tiles(s, host);
    const size_t max_blocks = d->limits.max_blocks_per_sequence;
    for (size_t r = 0; r < p->n_rows; r++) /* rows rise, so a sequence's last row needs most */
        if (r + 1 == p->n_rows || p->sequence[r + 1] != p->sequence[r])
            memcpy(host.blocks + p->sequence[r] * max_blocks, p->blocks[p->sequence[r]], (size_t(p->position[r]) / CUDA_KV_BLOCK + 1) * sizeof(uint32_t));
    rc = rope->inv_freq && rope->inv_freq != d->rope_made ? make_rotations(d, rope, head_dim / 2, e) : 0;
    if (!rc && p->n_logits && s->n_decode == s->n_rows && s->n_tasks <= d->max_tasks) {
        s->n_heads = p->n_logits;
        rc = cuda_graph_choose(d, e);
    }
    for (size_t r = p->n_rows; r < s->n_rows; r++)
        host.position[r] = host.adapter[r] = -1, host.sequence[r] = 0, host.first_task[r + 1] = host.first_task[r];
    const unsigned char *end = reinterpret_cast<unsigned char *>(host.blocks + p->n_sequences * max_blocks);
    return rc ? rc : copy_over(d, host.position, size_t(end - reinterpret_cast<unsigned char *>(host.position)), e);
}

size_t cuda_plan_tasks(const struct device *d, size_t row, size_t *end)
{
    const struct cuda_step *s = &d->step;
    if (row == 0 && s->n_tasks <= d->max_tasks) {
        *end = s->n_decode;
        return s->n_tasks;
    }
    for (*end = row + 1; *end < s->n_decode && s->task[*end + 1] - s->task[row] <= d->max_tasks; ++*end) {
    }
    return s->task[*end] - s->task[row];
}

int cuda_stage_tokens(struct device *d, const int32_t *token, const void *const *picture, struct err *e)
{
    staged host;
    lay_out(&d->limits, d->staging, &host);
    for (size_t r = 0; r < d->step.n_given; r++) {
        host.token[d->slot[r]] = token[r];
        host.picture[d->slot[r]] = static_cast<const float *>(picture[r]);
    }
    for (size_t r = d->step.n_given; r < d->step.n_rows; r++) host.token[r] = 0;
    const unsigned char *end = reinterpret_cast<unsigned char *>(host.token + d->step.n_rows);
    return copy_over(d, host.picture, size_t(end - reinterpret_cast<unsigned char *>(host.picture)), e);
}

int cuda_stage_head(struct device *d, const uint32_t *row, size_t n, size_t *all, size_t *n_decode, struct err *e)
{
    staged host;
    lay_out(&d->limits, d->staging, &host);
    size_t at = 0;
    for (int prefill = 0; prefill < 2; prefill++) {
        for (size_t i = 0; i < n; i++)
            if ((d->slot[row[i]] >= d->step.n_decode) == prefill) host.head_row[at] = d->slot[row[i]], host.logits_row[at++] = uint32_t(i);
        if (!prefill) *n_decode = at;
    }
    *all = n;
    if (d->step.n_heads) { /* all decode */
        CHECK(*n_decode == n && n <= d->step.n_heads);
        *all = *n_decode = d->step.n_heads;
        for (; at < *all; at++) host.head_row[at] = 0, host.logits_row[at] = UINT32_MAX;
    }
    const unsigned char *end = reinterpret_cast<unsigned char *>(host.logits_row + *all);
    return copy_over(d, host.head_row, size_t(end - reinterpret_cast<unsigned char *>(host.head_row)), e);
}

int cuda_stage_all(struct device *d, struct err *e)
{
    staged host;
    lay_out(&d->limits, d->staging, &host);
    const unsigned char *end = reinterpret_cast<unsigned char *>(host.blocks + d->step.n_sequences * d->limits.max_blocks_per_sequence);
    return copy_over(d, host.picture, size_t(end - reinterpret_cast<unsigned char *>(host.picture)), e);
}
