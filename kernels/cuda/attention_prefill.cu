/* Attention of many rows at once (flash attention with mma.m16n8k16): prompt rows over the paged cache, causal, and the vision model's tiles,
 * every patch over all.
 *
 * A block takes 64 query rows of one head, a warp 16 of them; keys come 64 at a time (a KV block) through shared memory. Scores and sums are
 * float32; queries, keys, values and probabilities are rounded to bf16. Keys are taken in rising order from position 0 on, and what a row may
 * not see weighs exactly 0, so a row's bytes do not depend on the rows it is computed with, nor on where its prompt was cut.
 * int8 and e4m3 keys are multiplied as they are (bf16 holds both) and their scale follows in the score, that of values in the probability.
 *   FLOPs: 4 x rows x positions seen x head_dim a head. Bound by the tensor cores. */
#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 128, ROWS = 64, KEYS = CUDA_KV_BLOCK;

struct paged_args {
    const float *q; /* (rows, ldq), scaled */
    size_t ldq;
    const int32_t *position;
    const uint32_t *sequence, *blocks, *tile; /* tile: first row, rows */
    size_t max_blocks;
    cuda_kv kv;
    bf16 *out;
    size_t ldo;
    int group; /* query heads of a KV head */
};

struct dense_args {
    const bf16 *qkv; /* (tiles * positions, 3 dim) */
    bf16 *out;       /* (tiles * positions, ldo) */
    size_t ldo;
    int positions, dim, head_dim;
    float scale;
};

/* Shared memory of a block: 64 rows each of queries, keys and values, padded against bank conflicts, and the keys' and values' scales. */
template <int HEAD_DIM> struct tiles {
    static constexpr int PITCH = HEAD_DIM + 8;
    static constexpr size_t BYTES = 3 * size_t(ROWS) * PITCH * sizeof(bf16) + 2 * KEYS * sizeof(float);
    bf16 *q, *k, *v;
    float *k_scale, *v_scale;
    __device__ __forceinline__ explicit tiles(bf16 *at) : q(at), k(at + ROWS * PITCH), v(at + 2 * ROWS * PITCH)
    {
        k_scale = reinterpret_cast<float *>(at + 3 * ROWS * PITCH);
        v_scale = k_scale + KEYS;
    }
};

/* What a warp's 16 rows have so far. Lane (g, t) holds rows g and g + 8: [0, 1] are of the first, [2, 3] of the second. */
template <int HEAD_DIM> struct flash {
    float sum[HEAD_DIM / 8][4], most[2], weight[2];
};

template <int HEAD_DIM> __device__ __forceinline__ void flash_begin(flash<HEAD_DIM> &f)
{
#pragma unroll
    for (int i = 0; i < 2; i++) f.most[i] = -INFINITY, f.weight[i] = 0;
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) f.sum[j][i] = 0;
}

/* Scores of the warp's rows with the 64 keys in shared memory: key (j, i) of a lane is 8 j + 2 t + i % 2. */
template <int HEAD_DIM> __device__ __forceinline__ void flash_scores(const tiles<HEAD_DIM> &s, float (&score)[KEYS / 8][4])
{
    constexpr int PITCH = tiles<HEAD_DIM>::PITCH;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bf16 *q = s.q + (warp * 16 + lane % 16) * PITCH + lane / 16 * 8, *k = s.k + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) score[j][i] = 0;
#pragma unroll
    for (int c = 0; c < HEAD_DIM; c += 16) {
        uint32_t a[4];
        ldmatrix_x4(a, q + c);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, k + j * 8 * PITCH + c);
            mma_m16n8k16_bf16(score[j], a, {b[0], b[1]});
            mma_m16n8k16_bf16(score[j + 1], a, {b[2], b[3]});
        }
    }
}

/* Takes the scores (-inf: not seen) and the 64 values into what the rows have. v_scale: of the values, or NULL. */
template <int HEAD_DIM> __device__ __forceinline__ void flash_add(flash<HEAD_DIM> &f, const tiles<HEAD_DIM> &s, float (&score)[KEYS / 8][4], const float *v_scale)
{
    constexpr int PITCH = tiles<HEAD_DIM>::PITCH;
    const int lane = threadIdx.x % 32;
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = f.most[r];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) most = fmaxf(most, fmaxf(score[j][2 * r], score[j][2 * r + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        keep[r] = __expf(f.most[r] - most); /* of key 0 everybody sees, so most is a number */
        f.most[r] = most;
        float weight = 0;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                score[j][i] = __expf(score[j][i] - most);
                weight += score[j][i];
                if (v_scale) score[j][i] *= v_scale[j * 8 + lane % 4 * 2 + i % 2];
            }
        f.weight[r] = f.weight[r] * keep[r] + weight; /* of this lane's keys: the row's lanes are added at the end */
    }
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) f.sum[j][i] *= keep[i / 2];
    const bf16 *v = s.v + (lane % 8 + lane / 8 % 2 * 8) * PITCH + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const float(&p)[4] = score[2 * k], (&next)[4] = score[2 * k + 1];
        const uint32_t a[4] = {cvt_bf16x2(p[0], p[1]), cvt_bf16x2(p[2], p[3]), cvt_bf16x2(next[0], next[1]), cvt_bf16x2(next[2], next[3])};
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, v + k * 16 * PITCH + j * 8);
            mma_m16n8k16_bf16(f.sum[j], a, {b[0], b[1]});
            mma_m16n8k16_bf16(f.sum[j + 1], a, {b[2], b[3]});
        }
    }
}

/* Row `row` of the block's 64 to out (head_dim numbers), where `valid`. */
template <int HEAD_DIM> __device__ __forceinline__ void flash_end(const flash<HEAD_DIM> &f, int r, bf16 *out, int head_dim, bool valid)
{
    float weight = f.weight[r];
    weight += __shfl_xor_sync(0xffffffffu, weight, 1);
    weight += __shfl_xor_sync(0xffffffffu, weight, 2);
    const int at = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
        if (valid && j * 8 + at < head_dim)
            *reinterpret_cast<uint32_t *>(out + j * 8 + at) = cvt_bf16x2(f.sum[j][2 * r] / weight, f.sum[j][2 * r + 1] / weight);
}

/* --- prompt rows over the paged cache. Grid (tiles, heads) --- */

template <int HEAD_DIM> __device__ __forceinline__ void load_block(const tiles<HEAD_DIM> &s, const cuda_kv &kv, uint32_t block, uint32_t head)
{
    constexpr int PITCH = tiles<HEAD_DIM>::PITCH, CHUNKS = HEAD_DIM / 8;
    for (int value = 0; value < 2; value++) {
        const unsigned char *from = kv_at(kv, block, value, head);
        bf16 *to = value ? s.v : s.k;
        for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
            bf16 *at = to + i / CHUNKS * PITCH + i % CHUNKS * 8;
            if (!kv_has_scales(kv)) {
                cp_async16(at, from + size_t(i) * 16);
                continue;
            }
            const uint2 v = reinterpret_cast<const uint2 *>(from)[i];
            float f[8];
            if (kv.is_e4m3) {
                e4m3x4_to_f32(v.x, f), e4m3x4_to_f32(v.y, f + 4);
            } else {
#pragma unroll
                for (int b = 0; b < 8; b++) f[b] = float(int8_t((b < 4 ? v.x : v.y) >> b % 4 * 8 & 255));
            }
            store16(at, uint4{cvt_bf16x2(f[0], f[1]), cvt_bf16x2(f[2], f[3]), cvt_bf16x2(f[4], f[5]), cvt_bf16x2(f[6], f[7])});
        }
        if (kv_has_scales(kv) && threadIdx.x < KEYS)
            (value ? s.v_scale : s.k_scale)[threadIdx.x] = kv_scales(kv, block, value, head)[threadIdx.x] / (kv.is_e4m3 ? E4M3_UNIT : 1);
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* Not told, ptxas takes 99 registers on sm_80 for heads of 64, three too many for five blocks an SM. From sm_100 on it would spill. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define PROMPT_BOUNDS __launch_bounds__(THREADS, HEAD_DIM <= 64 ? 5 : 4)
#else
#define PROMPT_BOUNDS __launch_bounds__(THREADS)
#endif

template <int HEAD_DIM> __global__ void PROMPT_BOUNDS attention_prompt_kernel(const __grid_constant__ paged_args a)
{
    constexpr int PITCH = tiles<HEAD_DIM>::PITCH;
    DYN_SHARED(bf16, memory);
    const tiles<HEAD_DIM> s(memory);
    const int first = a.tile[2 * blockIdx.x], n_rows = a.tile[2 * blockIdx.x + 1], head = blockIdx.y, last = a.position[first + n_rows - 1];
    const uint32_t *table = a.blocks + a.sequence[first] * a.max_blocks;
    for (int i = threadIdx.x; i < ROWS * HEAD_DIM; i += THREADS) {
        const int row = i / HEAD_DIM, c = i % HEAD_DIM;
        s.q[row * PITCH + c] = __float2bfloat16_rn(row < n_rows ? a.q[(first + row) * a.ldq + size_t(head) * HEAD_DIM + c] : 0);
    }
    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 + lane / 4; /* and row0 + 8 */
    int limit[2];
    for (int r = 0; r < 2; r++) limit[r] = a.position[first + min(row0 + r * 8, n_rows - 1)];
    flash<HEAD_DIM> f;
    flash_begin(f);
    for (int block = 0; block <= last / KEYS; block++) {
        float score[KEYS / 8][4];
        __syncthreads(); /* all are done with the keys before; with the first, the queries are there */
        load_block(s, a.kv, table[block], head / a.group);
        __syncthreads(); /* keys and values are there */
        flash_scores(s, score);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = j * 8 + lane % 4 * 2 + i % 2;
                if (kv_has_scales(a.kv)) score[j][i] *= s.k_scale[key];
                if (block * KEYS + key > limit[i / 2]) score[j][i] = -INFINITY;
            }
        flash_add(f, s, score, kv_has_scales(a.kv) ? s.v_scale : nullptr);
    }
    for (int r = 0; r < 2; r++)
        flash_end(f, r, a.out + (first + row0 + r * 8) * a.ldo + size_t(head) * HEAD_DIM, HEAD_DIM, row0 + r * 8 < n_rows);
}

/* --- vision. Grid (position tiles, heads, tiles); HEAD_DIM is head_dim rounded up to 16, with zeros behind --- */

template <int HEAD_DIM> __device__ __forceinline__ void load_rows(bf16 *to, const dense_args &a, int part, int first)
{
    constexpr int PITCH = tiles<HEAD_DIM>::PITCH, CHUNKS = HEAD_DIM / 8;
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, c = i % CHUNKS * 8;
        const bool inside = first + row < a.positions && c < a.head_dim;
        const bf16 *from = a.qkv + (size_t(blockIdx.z) * a.positions + first + row) * (3 * a.dim) + part * a.dim + blockIdx.y * a.head_dim + c;
        cp_async16_zfill(to + row * PITCH + c, inside ? from : a.qkv, inside ? 16 : 0);
    }
}

template <int HEAD_DIM> __global__ void __launch_bounds__(THREADS) attention_vision_kernel(const __grid_constant__ dense_args a)
{
    DYN_SHARED(bf16, memory);
    const tiles<HEAD_DIM> s(memory);
    const int first = blockIdx.x * ROWS, lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 + lane / 4;
    load_rows<HEAD_DIM>(s.q, a, 0, first);
    flash<HEAD_DIM> f;
    flash_begin(f);
    for (int base = 0; base < a.positions; base += KEYS) {
        float score[KEYS / 8][4];
        __syncthreads(); /* all are done with the keys before */
        load_rows<HEAD_DIM>(s.k, a, 1, base);
        load_rows<HEAD_DIM>(s.v, a, 2, base);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads(); /* queries, keys and values are there */
        flash_scores(s, score);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) score[j][i] = base + j * 8 + lane % 4 * 2 + i % 2 < a.positions ? score[j][i] * a.scale : -INFINITY;
        flash_add(f, s, score, nullptr);
    }
    for (int r = 0; r < 2; r++) {
        const int row = first + row0 + r * 8;
        flash_end(f, r, a.out + (size_t(blockIdx.z) * a.positions + row) * a.ldo + size_t(blockIdx.y) * a.head_dim, a.head_dim, row < a.positions);
    }
}

template <int HEAD_DIM> cudaError_t launch_prompt(const paged_args &a, size_t n_tiles, size_t heads, cudaStream_t stream)
{
    constexpr int BYTES = int(tiles<HEAD_DIM>::BYTES);
    cudaError_t rc = cudaFuncSetAttribute(attention_prompt_kernel<HEAD_DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    if (rc != cudaSuccess) return rc;
    LAUNCH(attention_prompt_kernel<HEAD_DIM>, dim3(unsigned(n_tiles), unsigned(heads)), dim3(THREADS), BYTES, stream, a);
    return cudaGetLastError();
}

template <int HEAD_DIM> cudaError_t launch_vision(const dense_args &a, dim3 grid, cudaStream_t stream)
{
    LAUNCH(attention_vision_kernel<HEAD_DIM>, grid, dim3(THREADS), tiles<HEAD_DIM>::BYTES, stream, a);
    return cudaGetLastError();
}

} // namespace

int cuda_attention_prefill(struct device *d, const struct attention_args *a, struct err *e)
{
    const struct cuda_step *s = &d->step;
    const size_t hd = a->layout->head_dim;
    const paged_args args = {d->qkv, (a->heads + 2 * a->layout->kv_heads) * hd, s->position, s->sequence, s->blocks, s->tile,
                             d->limits.max_blocks_per_sequence, cuda_kv_of(a->kv, a->layout, a->layer), static_cast<bf16 *>(a->out),
                             cuda_round_up(a->heads * hd, CUDA_K_PAD), int(a->heads / a->layout->kv_heads)};
    cudaError_t rc = hd == 64    ? launch_prompt<64>(args, s->n_tiles, a->heads, d->stream)
                     : hd == 128 ? launch_prompt<128>(args, s->n_tiles, a->heads, d->stream)
                     : hd == 32  ? launch_prompt<32>(args, s->n_tiles, a->heads, d->stream)
                     : hd == 16  ? launch_prompt<16>(args, s->n_tiles, a->heads, d->stream)
                                 : cudaErrorInvalidValue;
    if (rc != cudaSuccess) return cuda_check(d, "attention of prompt rows", rc, e);
    return cuda_launched(d, "attention of prompt rows", e);
}

int cuda_vision_attention(struct device *d, const struct vision_attention_args *a, struct err *e)
{
    const size_t dim = a->heads * a->head_dim;
    const dense_args args = {d->vision_qkv, static_cast<bf16 *>(a->out), cuda_round_up(dim, CUDA_K_PAD), int(a->positions), int(dim), int(a->head_dim),
                             1 / sqrtf(float(a->head_dim))};
    const dim3 grid(unsigned((a->positions + ROWS - 1) / ROWS), unsigned(a->heads), unsigned(a->n_tiles));
    cudaError_t rc = cudaErrorInvalidValue;
    switch (a->head_dim % 8 ? 0 : cuda_round_up(a->head_dim, 16)) { /* rows of 16 bytes */
    case 16: rc = launch_vision<16>(args, grid, d->stream); break;
    case 32: rc = launch_vision<32>(args, grid, d->stream); break;
    case 64: rc = launch_vision<64>(args, grid, d->stream); break;
    case 80: rc = launch_vision<80>(args, grid, d->stream); break;
    }
    if (rc != cudaSuccess) return cuda_check(d, "attention of vision", rc, e);
    return cuda_launched(d, "attention of vision", e);
}
