/* The operations of a text layer but attention: embedding, queries, keys and values, projections, head. */
#include "kernels/cuda/norm.cuh"

namespace {

constexpr int THREADS = 128;

/* --- embedding: a row of the table, or of a picture, as float32. A block a row --- */

struct gather_args {
    const unsigned char *table, *scale;
    size_t pitch;
    int n_padded, bits, group, scale_bf16, e4m3;
    const int32_t *token;
    const float *const *picture;
    float *x;
    int hidden;
};

/* Number k of row o of a table as it is packed: see linear_quant.cu. */
__device__ __forceinline__ float table_number(const gather_args &a, int o, int k)
{
    if (!a.bits) return __bfloat162float(reinterpret_cast<const bf16 *>(a.table)[size_t(o) * a.pitch + k]);
    const size_t tile = size_t(o) / 16 * (a.pitch / 32) + k / 32, lane = o % 8 * 4 + k % 32 / 8, byte = k % 8 / 4 * 8 + o % 16 / 8 * 4 + k % 4;
    const size_t at = a.group ? size_t(k / a.group) * a.n_padded + o : size_t(o);
    const float scale = a.scale_bf16 ? __bfloat162float(reinterpret_cast<const bf16 *>(a.scale)[at]) : reinterpret_cast<const float *>(a.scale)[at];
    if (a.e4m3) {
        float four[4];
        e4m3x4_to_f32(a.table[tile * 512 + lane * 16 + byte], four);
        return scale * (four[0] / E4M3_UNIT);
    }
    if (a.bits == 8) return scale * float(int8_t(a.table[tile * 512 + lane * 16 + byte]));
    const int two = a.table[tile / 2 * 512 + lane * 16 + byte];
    return scale * float(int8_t(k / 32 % 2 ? two & 0xF0 : two << 4) >> 4);
}

__global__ void __launch_bounds__(THREADS) embed_kernel(const __grid_constant__ gather_args a)
{
    griddepcontrol_launch_dependents();
    const int token = a.token[blockIdx.x];
    float *x = a.x + size_t(blockIdx.x) * a.hidden;
    const float *picture = token < 0 ? a.picture[blockIdx.x] + size_t(-1 - token) * a.hidden : nullptr;
    for (int i = threadIdx.x; i < a.hidden; i += THREADS) x[i] = picture ? picture[i] : table_number(a, token, i);
}

/* --- a cache with scales: keys and values, as the product left them, to the row's block. A warp a head --- */

struct append_args {
    const float *qkv;
    cuda_kv_place place;
};

/* Numbers i, i + 32, ... of a head to the nearest of 255 steps; the scale is the largest size over 127, and none where a number is none. */
template <int HEAD_DIM> __device__ __forceinline__ void put_int8(int8_t *to, float *scale, const float *from, int lane)
{
    float v[HEAD_DIM / 32], most = 0;
    bool finite = true;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 32; i++) v[i] = from[i * 32 + lane], most = fmaxf(most, fabsf(v[i])), finite = finite && fabsf(v[i]) < INFINITY;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    finite = __all_sync(0xffffffffu, finite);
    const float inverse = most > 127 * 1.17549435e-38f ? 127 / most : 0; /* below, the scale would be subnormal: all zero */
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 32; i++) to[i * 32 + lane] = finite ? int8_t(rintf(v[i] * inverse)) : 0;
    if (lane == 0) *scale = finite ? most / 127 : NAN;
}

/* The scale is the largest size over 448 (quant_e4m3). */
template <int HEAD_DIM> __device__ __forceinline__ void put_e4m3(unsigned char *to, float *scale, const float *from, int lane)
{
    float v[HEAD_DIM / 32];
    uint32_t bits = 0; /* of the largest size: what is not finite has the largest */
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 32; i++) v[i] = from[i * 32 + lane], bits = max(bits, __float_as_uint(v[i]) & 0x7fffffffu);
    const float most = __uint_as_float(__reduce_max_sync(0xffffffffu, bits));
    const bool finite = most < INFINITY, zero = most < QUANT_TINY;
    const float inverse = !finite || zero ? 0 : 448 / most;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 32; i++) to[i * 32 + lane] = finite ? static_cast<unsigned char>(cvt_e4m3x2(v[i] * inverse, 0)) : 0;
    if (lane == 0) *scale = !finite ? NAN : zero ? 0 : most / 448;
}

/* Grid (rows, 2 kv_heads over 4). */
template <int HEAD_DIM> __global__ void __launch_bounds__(THREADS) append_kernel(const __grid_constant__ append_args a)
{
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const cuda_kv_place &p = a.place;
    const int row = blockIdx.x, head = blockIdx.y * (THREADS / 32) + threadIdx.x / 32, kv_heads = p.kv.kv_heads, position = p.position[row];
    if (head >= 2 * kv_heads || position < 0) return;
    const uint32_t block = p.blocks[p.sequence[row] * p.max_blocks + position / CUDA_KV_BLOCK], kv_head = head % kv_heads;
    const bool value = head >= kv_heads;
    const int at = position % CUDA_KV_BLOCK, lane = threadIdx.x % 32;
    const float *from = a.qkv + (size_t(row) * (p.heads + 2 * kv_heads) + p.heads + head) * HEAD_DIM;
    unsigned char *to = kv_at(p.kv, block, value, kv_head) + at * HEAD_DIM;
    float *scale = kv_scales(p.kv, block, value, kv_head) + at;
    if (p.kv.is_int8)
        put_int8<HEAD_DIM>(reinterpret_cast<int8_t *>(to), scale, from, lane);
    else
        put_e4m3<HEAD_DIM>(to, scale, from, lane);
}

int append(struct device *d, const struct cuda_kv_place *place, struct err *e)
{
    const append_args args = {d->qkv, *place};
    const dim3 grid(unsigned(d->step.n_rows), (2 * place->kv.kv_heads + THREADS / 32 - 1) / (THREADS / 32));
    switch (place->kv.head_dim) {
    case 32: LAUNCH_EARLY(d->early, append_kernel<32>, grid, dim3(THREADS), 0, d->stream, args); break;
    case 64: LAUNCH_EARLY(d->early, append_kernel<64>, grid, dim3(THREADS), 0, d->stream, args); break;
    case 128: LAUNCH_EARLY(d->early, append_kernel<128>, grid, dim3(THREADS), 0, d->stream, args); break;
    default: return cuda_check(d, "head_dim", cudaErrorInvalidValue, e);
    }
    return cuda_launched(d, "keys and values", e);
}

/* A product with rows of x normalised: where few rows decode, it does so itself. */
int normed_product(struct device *d, const float *x, const uint32_t *pick, const float *norm, float eps, struct cuda_linear *l, size_t n_decode, const char *what,
                   struct err *e)
{
    const operand_args own = cuda_rmsnorm_args(x, pick, norm, eps, l->w);
    const bool itself = cuda_linear_makes(l->w, l->rows, n_decode);
    if (itself) l->own = &own;
    int rc = itself ? 0 : cuda_rmsnorm(d, x, pick, l->rows, norm, eps, l->w, &l->in, e);
    return rc ? rc : cuda_linear_run(d, l, n_decode, what, e);
}

} // namespace

size_t cuda_kv_block_bytes(const struct kv_layout *l)
{
    const bool scales = l->dtype == DTYPE_I8 || l->dtype == DTYPE_E4M3;
    const size_t each = CUDA_KV_BLOCK * (scales ? l->head_dim + sizeof(float) : l->head_dim * sizeof(bf16));
    return l->layers * 2 * l->kv_heads * each;
}

struct cuda_kv cuda_kv_of(const void *slab, const struct kv_layout *l, size_t layer)
{
    const size_t bytes = cuda_kv_block_bytes(l);
    return {static_cast<unsigned char *>(const_cast<void *>(slab)), bytes, bytes / l->layers, uint32_t(l->kv_heads), uint32_t(l->head_dim), uint32_t(layer),
            l->dtype == DTYPE_I8, l->dtype == DTYPE_E4M3};
}

int cuda_embed(struct device *d, const struct embed_args *a, struct err *e)
{
    const struct cuda_step *s = &d->step;
    CHECK(a->table->k == a->hidden);
    int rc = cuda_stage_tokens(d, a->token, a->pictures, e);
    if (rc || cuda_replays(d)) return rc;
    const struct weight *w = a->table;
    const gather_args args = {static_cast<const unsigned char *>(w->data), static_cast<const unsigned char *>(w->scale), w->k_padded,
                              int(cuda_round_up(w->n, CUDA_N_PAD)), int(w->quant.bits), int(w->quant.group), w->quant.scale == DTYPE_BF16,
                              w->quant.e4m3, s->token, s->picture, static_cast<float *>(a->x), int(a->hidden)};
    LAUNCH(embed_kernel, dim3(unsigned(s->n_rows)), dim3(THREADS), 0, d->stream, args);
    return cuda_launched(d, "embedding", e);
}

int cuda_qkv(struct device *d, const struct qkv_args *a, struct err *e)
{
    const struct cuda_step *s = &d->step;
    CHECK(a->w->n == (a->heads + 2 * a->layout->kv_heads) * a->layout->head_dim && a->w->k == a->hidden);
    CHECK(!a->rope.inv_freq || a->rope.inv_freq == d->rope_made);
    if (cuda_replays(d)) return 0;
    const struct cuda_kv_place place = {s->position, s->sequence, s->blocks, d->limits.max_blocks_per_sequence, a->rope.inv_freq ? d->rope : nullptr,
                                        cuda_kv_of(a->kv, a->layout, a->layer), uint32_t(a->heads)};
    struct cuda_linear l = {{}, a->w, s->n_rows, a->w->n, nullptr, d->qkv, CUDA_QKV, nullptr, nullptr, &place, nullptr};
    int rc = normed_product(d, static_cast<const float *>(a->x), nullptr, a->norm, a->eps, &l, s->n_decode, "queries, keys, values", e);
    return rc || !kv_has_scales(place.kv) ? rc : append(d, &place, e);
}

int cuda_attention(struct device *d, const struct attention_args *a, struct err *e)
{
    if (cuda_replays(d)) return 0;
    int rc = d->step.n_decode ? cuda_attention_decode(d, a, e) : 0;
    return rc || d->step.n_tiles == 0 ? rc : cuda_attention_prefill(d, a, e);
}

int cuda_project(struct device *d, const struct project_args *a, struct err *e)
{
    CHECK(a->w->n == a->n && a->w->k == a->k && (a->tiles || a->rows == d->step.n_given));
    if (cuda_replays(d)) return 0;
    const bf16 *in = static_cast<const bf16 *>(a->in);
    const size_t rows = a->tiles ? a->rows : d->step.n_rows, n_decode = a->tiles ? 0 : d->step.n_decode;
    const operand_args own = cuda_rows_args(in, a->w);
    struct cuda_linear l = {{}, a->w, rows, a->n, a->bias, a->x, CUDA_ADD, nullptr, nullptr, nullptr, nullptr};
    if (a->w->quant.bits && cuda_linear_makes(a->w, rows, n_decode)) l.own = &own;
    int rc = l.own ? 0 : cuda_as_operand(d, in, rows, a->w, &l.in, e);
    if (!rc) rc = cuda_linear_run(d, &l, n_decode, "projection", e);
    return rc || !a->adapters ? rc : cuda_adapters(d, a, rows, e);
}

int cuda_gate_up(struct device *d, const struct gate_up_args *a, struct err *e)
{
    CHECK(a->w->n == cuda_round_up(a->inter, 8) * 2 && a->w->k == a->hidden);
    if (cuda_replays(d)) return 0;
    struct cuda_linear l = {{}, a->w, d->step.n_rows, cuda_round_up(a->inter, CUDA_K_PAD), nullptr, a->out, CUDA_SILU, nullptr, nullptr, nullptr, nullptr};
    return normed_product(d, static_cast<const float *>(a->x), nullptr, a->norm, a->eps, &l, d->step.n_decode, "gate and up", e);
}

/* The rows whose logits are wanted have the decode kernel's path if they decode. Those of prompts come after them: slots rise with them. */
int cuda_head(struct device *d, const struct head_args *a, struct err *e)
{
    size_t n, n_decode;
    CHECK(a->n <= d->limits.max_rows && a->w->n == a->vocab && a->w->k == a->hidden);
    int rc = cuda_stage_head(d, a->row, a->n, &n, &n_decode, e);
    if (!rc && !cuda_replays(d)) {
        struct cuda_linear l = {{}, a->w, n, a->vocab, nullptr, a->logits, CUDA_STORE, nullptr, d->step.logits_row, nullptr, nullptr};
        rc = normed_product(d, static_cast<const float *>(a->x), d->step.head_row, a->norm, a->eps, &l, n_decode, "head", e);
    }
    return rc || !d->step.graph ? rc : cuda_graph_step(d, e);
}
