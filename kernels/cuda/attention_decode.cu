/* Attention of decode rows, split over the keys: out[r, head] = softmax(q K^T) V over positions 0 .. position[r]; q comes scaled by
 * 1 / sqrt(head_dim).
 *
 * A block sums 256 positions of one KV head for all query heads that share it (grouped queries read a key once); a second kernel joins the
 * splits of a head in rising order and rounds to bf16, the operand of the product that follows. Inside a block 16 (head_dim 64; 8 of 128)
 * lanes' groups of head_dim / 8 lanes take every 16th position, and are joined in order: all of it is fixed by the positions alone.
 *   Bytes: positions x kv_heads x head_dim x 2 x (2, or 1 + 4 / head_dim of int8 and e4m3) a row. Bound by memory. */
#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 128;

/* Blocks an SM by GROUP, for which 56, 72, 96 and 128 registers a thread are left. Not told, ptxas aims at 64 for a GROUP of 2, and spills. */
constexpr int split_blocks(int group)
{
    return group == 1 ? 9 : group == 2 ? 7 : group == 3 ? 5 : 4;
}

struct decode_args {
    const float *q; /* (rows, ldq) */
    size_t ldq;
    const int32_t *position;
    const uint32_t *sequence, *blocks; /* (sequences, max_blocks) */
    size_t max_blocks;
    cuda_kv kv;
    float *parts; /* (tasks, heads, head_dim + 2): sum of p v, largest score, sum of p */
    bf16 *out;    /* (rows, ldo) */
    size_t ldo;
    int heads;
    const uint32_t *first_task; /* (all rows + 1): a task is a split of a row; those of a row come one after another */
    int row0, rows;             /* of this launch */
    bool early;                 /* host */
    uint32_t task0;             /* first_task[row0] */
};

/* The row that a task belongs to. */
__device__ __forceinline__ int row_of(const decode_args &a, uint32_t task)
{
    int row = a.row0;
    for (int end = a.row0 + a.rows; end - row > 1;) {
        const int middle = (row + end) / 2;
        if (a.first_task[middle] <= task)
            row = middle;
        else
            end = middle;
    }
    return row;
}

/* Eight numbers of a key or value. */
__device__ __forceinline__ void load8(const cuda_kv &kv, const unsigned char *head, const float *scales, int at, int dim, float (&f)[8])
{
    if (kv_has_scales(kv)) {
        const uint2 v = *reinterpret_cast<const uint2 *>(head + size_t(at) * kv.head_dim + dim);
        float scale = scales[at];
        if (kv.is_e4m3) {
            e4m3x4_to_f32(v.x, f), e4m3x4_to_f32(v.y, f + 4);
            scale /= E4M3_UNIT;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) f[i] = float(int8_t((i < 4 ? v.x : v.y) >> i % 4 * 8 & 255));
        }
#pragma unroll
        for (int i = 0; i < 8; i++) f[i] *= scale;
    } else {
        unpack8(load16(head + (size_t(at) * kv.head_dim + dim) * 2), f);
    }
}

/* Softmax so far of one query head over the positions that a group of lanes has seen; each lane holds 8 numbers of the sum. */
struct running {
    float sum[8], most, weight;
};

__device__ __forceinline__ void add(running &s, float score, const float (&v)[8])
{
    const float most = fmaxf(s.most, score), keep = __expf(s.most - most), p = __expf(score - most);
    s.weight = s.weight * keep + p;
#pragma unroll
    for (int i = 0; i < 8; i++) s.sum[i] = s.sum[i] * keep + p * v[i];
    s.most = most;
}

/* Grid (tasks, kv_heads). GROUP query heads from blockIdx.y * heads / kv_heads + first_head on. */
template <int HEAD_DIM, int GROUP>
__global__ void __launch_bounds__(THREADS, split_blocks(GROUP)) attention_split_kernel(const __grid_constant__ decode_args a, int first_head)
{
    constexpr int LANES = HEAD_DIM / 8, GROUPS = THREADS / LANES;
    const uint32_t task = a.task0 + blockIdx.x;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (task >= a.first_task[a.row0 + a.rows]) return;
    const int row = row_of(a, task), begin = int(task - a.first_task[row]) * CUDA_KV_SPLIT, end = min(a.position[row] + 1, begin + CUDA_KV_SPLIT);
    const uint32_t kv_head = blockIdx.y, *table = a.blocks + a.sequence[row] * a.max_blocks;
    const int head0 = kv_head * (a.heads / a.kv.kv_heads) + first_head, mine = threadIdx.x / LANES, dim = threadIdx.x % LANES * 8;
    float q[GROUP][8];
    running s[GROUP];
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
        s[h].most = -INFINITY, s[h].weight = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) q[h][i] = a.q[row * a.ldq + size_t(head0 + h) * HEAD_DIM + dim + i], s[h].sum[i] = 0;
    }
    for (int base = begin; base < end; base += GROUPS) { /* the same number of rounds for all lanes: they exchange scores */
        const bool valid = base + mine < end;
        const int at = valid ? base + mine : begin;
        const uint32_t block = table[at / CUDA_KV_BLOCK];
        float k[8], v[8];
        load8(a.kv, kv_at(a.kv, block, false, kv_head), kv_scales(a.kv, block, false, kv_head), at % CUDA_KV_BLOCK, dim, k);
        load8(a.kv, kv_at(a.kv, block, true, kv_head), kv_scales(a.kv, block, true, kv_head), at % CUDA_KV_BLOCK, dim, v);
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
            float score = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) score = fmaf(q[h][i], k[i], score);
#pragma unroll
            for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step, LANES);
            if (valid) add(s[h], score, v);
        }
    }
    DYN_SHARED(float, groups); /* (GROUPS, GROUP, HEAD_DIM + 2) */
    constexpr int EACH = HEAD_DIM + 2;
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
        float *p = groups + (mine * GROUP + h) * EACH;
#pragma unroll
        for (int i = 0; i < 8; i++) p[dim + i] = s[h].sum[i];
        if (dim == 0) p[HEAD_DIM] = s[h].most, p[HEAD_DIM + 1] = s[h].weight;
    }
    __syncthreads(); /* all groups' sums are there */
    for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += THREADS) {
        const int h = i / HEAD_DIM, c = i % HEAD_DIM;
        float most = -INFINITY, sum = 0, weight = 0;
        for (int g = 0; g < GROUPS; g++) most = fmaxf(most, groups[(g * GROUP + h) * EACH + HEAD_DIM]);
        for (int g = 0; g < GROUPS; g++) {
            const float *p = groups + (g * GROUP + h) * EACH, keep = p[HEAD_DIM + 1] > 0 ? __expf(p[HEAD_DIM] - most) : 0;
            sum += keep * p[c], weight += keep * p[HEAD_DIM + 1];
        }
        float *out = a.parts + (size_t(blockIdx.x) * a.heads + head0 + h) * EACH;
        out[c] = sum;
        if (c == 0) out[HEAD_DIM] = most, out[HEAD_DIM + 1] = weight;
    }
}

/* Grid (heads, rows), a thread a number of the head. */
template <int HEAD_DIM> __global__ void __launch_bounds__(HEAD_DIM) attention_join_kernel(const __grid_constant__ decode_args a)
{
    const int head = blockIdx.x, row = a.row0 + blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const uint32_t first = a.first_task[row], n = a.first_task[row + 1] - first;
    if (n == 0) return;
    const size_t pitch = size_t(a.heads) * (HEAD_DIM + 2);
    const float *p = a.parts + (first - a.task0) * pitch + head * (HEAD_DIM + 2);
    float most = -INFINITY, sum = 0, weight = 0;
    for (uint32_t s = 0; s < n; s++) most = fmaxf(most, p[s * pitch + HEAD_DIM]);
    for (uint32_t s = 0; s < n; s++, p += pitch) {
        const float keep = __expf(p[HEAD_DIM] - most);
        sum += keep * p[threadIdx.x], weight += keep * p[HEAD_DIM + 1];
    }
    a.out[row * a.ldo + size_t(head) * HEAD_DIM + threadIdx.x] = __float2bfloat16_rn(sum / weight);
}

template <int HEAD_DIM, int GROUP> cudaError_t launch_group(const decode_args &a, int first_head, size_t tasks, cudaStream_t stream)
{
    auto *const kernel = attention_split_kernel<HEAD_DIM, GROUP>;
    const size_t bytes = THREADS / (HEAD_DIM / 8) * GROUP * (HEAD_DIM + 2) * sizeof(float);
    LAUNCH_EARLY(a.early, kernel, dim3(unsigned(tasks), a.kv.kv_heads), dim3(THREADS), bytes, stream, a, first_head);
    return cudaGetLastError();
}

/* Groups of up to four query heads: more would not fit the registers, and read the keys again from the cache. */
template <int HEAD_DIM> cudaError_t launch(const decode_args &a, size_t tasks, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    for (int first = 0, group = a.heads / int(a.kv.kv_heads), n; first < group && rc == cudaSuccess; first += n) {
        n = min(group - first, 4);
        if (n == 1) rc = launch_group<HEAD_DIM, 1>(a, first, tasks, stream);
        if (n == 2) rc = launch_group<HEAD_DIM, 2>(a, first, tasks, stream);
        if (n == 3) rc = launch_group<HEAD_DIM, 3>(a, first, tasks, stream);
        if (n == 4) rc = launch_group<HEAD_DIM, 4>(a, first, tasks, stream);
    }
    if (rc != cudaSuccess) return rc;
    LAUNCH_EARLY(a.early, attention_join_kernel<HEAD_DIM>, dim3(unsigned(a.heads), unsigned(a.rows)), dim3(HEAD_DIM), 0, stream, a);
    return cudaGetLastError();
}

} // namespace

/* Rows whose tasks find room in d->parts at a time: as a rule all. */
int cuda_attention_decode(struct device *d, const struct attention_args *a, struct err *e)
{
    const struct cuda_step *s = &d->step;
    const size_t hd = a->layout->head_dim;
    decode_args args = {d->qkv, (a->heads + 2 * a->layout->kv_heads) * hd, s->position, s->sequence, s->blocks, d->limits.max_blocks_per_sequence,
                        cuda_kv_of(a->kv, a->layout, a->layer), d->parts, static_cast<bf16 *>(a->out), cuda_round_up(a->heads * hd, CUDA_K_PAD),
                        int(a->heads), s->first_task, 0, 0, d->early, 0};
    cudaError_t rc = cudaSuccess;
    for (size_t row = 0, end; row < s->n_decode && rc == cudaSuccess; row = end) {
        const size_t tasks = cuda_plan_tasks(d, row, &end);
        args.row0 = int(row), args.rows = int(end - row), args.task0 = s->task[row];
        rc = hd == 64 ? launch<64>(args, tasks, d->stream) : hd == 128 ? launch<128>(args, tasks, d->stream)
           : hd == 32 ? launch<32>(args, tasks, d->stream) : hd == 16 ? launch<16>(args, tasks, d->stream) : cudaErrorInvalidValue;
    }
    if (rc != cudaSuccess) return cuda_check(d, "attention of decode rows", rc, e);
    return cuda_launched(d, "attention of decode rows", e);
}
