/* Sampling: rows of float32 logits to tokens; the logits stay on the device. Steps and their order are those of kernels/cpu/cpu_sample.c.
 *
 * A block a row. Ids are ordered by rank, a 64-bit integer (smaller is better): the logit's order, then the id, so there are no ties. Each cut
 * is one rank up to which ids are kept:
 *   top-k: counted, digit by digit of the rank, until so few are left that they are compared with each other;
 *   top-p: likewise, with masses for counts: the fewest best of those left whose mass reaches p;
 *   min-p: a mass below which an id is not drawn.
 * Then one random number falls on a place in the mass of what is kept, in rising order of ids (the CPU takes the order of rank after top-k
 * and top-p: the distribution is the same, the token of a seed is not). A mass is exp((x - best) / temperature) in fixed point, 2^40 for the
 * best: sums are exact, and no result depends on an order, on other rows or on scheduling. What weighs less than 2^-40 is never drawn.
 *
 * The first digit counts in steps of (best - x), which spreads a row over the bins; bits of a float would put most of it in a few.
 * Bans and the grammar mask are applied at every read. Bias and penalties need the row copied to a slot of scratch; of these there are few,
 * and a call with more such rows takes several launches.
 *
 * Passes over a row (4 bytes a logit, from L2 after the first): greedy 1; temperature or min-p 2; top-k or top-p 4; both 5; a slot 1 more;
 * logprobs 1, with alternatives 4. A cut through more than 1,024 ids in one bin takes another pass a digit, four at most. Bound by what one SM
 * reads (64 bytes a clock: 49,152 logits are 3,072 clocks) and by two to six barriers a pass. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/philox.h"

namespace {

using u64 = unsigned long long;

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr int PER_LANE = 8, CHUNK = 32 * PER_LANE; /* ids that a warp reads at a time; 32 that follow one another for each i of PER_LANE */
constexpr int BINS = 2 * THREADS;                  /* of a digit; chunks of a row are no more */
constexpr int FEW = THREADS;                       /* ids that are compared with each other */
constexpr int MAX_BANS = 64;                       /* more are put in the mask */
constexpr int MASS_BITS = 40;
constexpr uint32_t SEEN = 1u << 31, ALL_LANES = 0xffffffffu;
constexpr u64 NONE = ~0ull;
constexpr float LOG2_E = 1.44269504f;
constexpr float REACH = 32; /* of the first digit, in logits */

/* A row as the kernel reads it; lists are [device]. */
struct job {
    const float *logits;
    const uint32_t *mask;
    const int32_t *ban, *prompt, *made;
    const struct token_bias *bias;
    u64 random; /* in 2^-64 */
    u64 share;  /* top-p in 2^-64; NONE: off */
    u64 least;  /* min-p: masses below are not drawn */
    uint32_t n_ban, n_prompt, n_made, n_bias;
    float repetition, frequency, presence;
    float scale, bins; /* log2(e) / temperature; bins of the first digit a logit */
    uint32_t top_k;    /* 0: off */
    int32_t greedy, n_top, slot; /* n_top -1: no logprobs; slot -1: nothing changes a logit */
};

struct sampled {
    u64 sum; /* of exp(logit - best), in masses */
    float logit, best;
    int32_t token, n_top;
    int32_t top_token[SAMPLE_MAX_TOP];
    float top_logit[SAMPLE_MAX_TOP];
};

struct sample_args {
    const job *jobs;
    sampled *results;
    float *adjusted;  /* (slots, pitch) */
    uint32_t *counts; /* (slots, pitch) zero between launches */
    size_t pitch;
    int vocab;
};

struct block_memory {
    u64 sums[BINS];
    u64 rank[FEW], mass[FEW]; /* of the ids gathered */
    u64 warp[WARPS];
    u64 before, found;
    uint32_t counts[BINS];
    uint32_t banned[BINS / 32]; /* chunks that hold a banned id */
    uint32_t n_gathered;
    int bin;
};

/* Logits as a pass sees them. */
struct view {
    const float *x;
    const uint32_t *mask;
    const int32_t *ban;
    int n_ban, vocab;
    bool adjusted; /* x is in a slot */
    float best, scale, bins;
};

/* --- numbers --- */

/* Smaller is better. -0 counts as 0. */
__device__ __forceinline__ u64 rank_of(float x, int id)
{
    const uint32_t b = __float_as_uint(x + 0.0f);
    return u64(b >> 31 ? b : ~b & 0x7fffffffu) << 32 | uint32_t(id);
}

__device__ __forceinline__ float logit_of(u64 rank)
{
    const uint32_t b = uint32_t(rank >> 32);
    return __uint_as_float(b >> 31 ? b : ~b & 0x7fffffffu);
}

/* Shifted out of the float's bits: conversions to 64 bits are slow. -inf, and the NaN of inf * 0, weigh nothing. */
__device__ __forceinline__ u64 mass_of(const view &v, float x)
{
    const uint32_t b = __float_as_uint(exp2f(fmaxf((x - v.best) * v.scale, -62.0f)));
    return u64((b & 0x7fffffu) | 0x800000u) << (MASS_BITS - 23) >> (127 - (b >> 23));
}

/* Rises with rank: the difference, the product and the cut are each monotonic. */
__device__ __forceinline__ int bin_of(const view &v, float x)
{
    return int(fminf((v.best - x) * v.bins, float(BINS - 1)));
}

/* --- sums of a warp and of the block --- */

__device__ __forceinline__ u64 warp_sum(u64 v)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}

/* Of the lanes up to this one. */
__device__ __forceinline__ u64 warp_prefix(u64 v)
{
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const u64 other = __shfl_up_sync(ALL_LANES, v, step);
        if (int(threadIdx.x % 32) >= step) v += other;
    }
    return v;
}

/* Of the threads before this one, and of all. */
__device__ __forceinline__ u64 block_prefix(block_memory &m, u64 v, u64 *total)
{
    const u64 up_to = warp_prefix(v);
    u64 before = 0, all = 0;
    __syncthreads(); /* m.warp is free */
    if (threadIdx.x % 32 == 31) m.warp[threadIdx.x / 32] = up_to;
    __syncthreads(); /* the warps' sums are there */
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) {
        if (i == int(threadIdx.x / 32)) before = all;
        all += m.warp[i];
    }
    *total = all;
    return before + up_to - v;
}

__device__ __forceinline__ u64 block_least(block_memory &m, u64 v)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = min(v, __shfl_xor_sync(ALL_LANES, v, step));
    __syncthreads(); /* m.warp is free */
    if (threadIdx.x % 32 == 0) m.warp[threadIdx.x / 32] = v;
    __syncthreads(); /* the warps' are there */
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) v = min(v, m.warp[i]);
    return v;
}

/* This thread's two bins hold a and b, `before` is what comes before them: the bin in which target falls goes to m.bin, and what comes
 * before that bin to m.before. It is in one thread's, as target is less than all there is. */
__device__ __forceinline__ void find_bin(block_memory &m, u64 a, u64 b, u64 before, u64 target)
{
    if (target >= before && target - before < a + b) {
        const bool second = target - before >= a;
        m.bin = 2 * int(threadIdx.x) + second;
        m.before = before + (second ? a : 0);
    }
    __syncthreads(); /* found */
}

/* --- reading --- */

/* -inf past the end. */
__device__ __forceinline__ void read_chunk(const view &v, int first, float (&x)[PER_LANE])
{
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) x[i] = first + 32 * i < v.vocab ? v.x[first + 32 * i] : -INFINITY;
}

/* What may not come becomes -inf. */
__device__ __forceinline__ void hide(const block_memory &m, const view &v, int chunk, float (&x)[PER_LANE])
{
    const int lane = threadIdx.x % 32, first = chunk * CHUNK + lane;
    if (v.mask) {
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (first + 32 * i < v.vocab && !(v.mask[chunk * PER_LANE + i] >> lane & 1)) x[i] = -INFINITY;
    }
    if (v.n_ban && (m.banned[chunk / 32] >> chunk % 32 & 1)) {
#pragma unroll 1
        for (int b = 0; b < v.n_ban; b++) {
            const int id = v.ban[b];
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                if (first + 32 * i == id) x[i] = -INFINITY;
        }
    }
}

/* f(chunk, id of x[0], x) for each of the warp's chunks; all lanes call it together. */
template <class F> __device__ __forceinline__ void walk(const block_memory &m, const view &v, F f)
{
    for (int chunk = threadIdx.x / 32; chunk * CHUNK < v.vocab; chunk += WARPS) {
        const int first = chunk * CHUNK + int(threadIdx.x % 32);
        float x[PER_LANE];
        read_chunk(v, first, x);
        hide(m, v, chunk, x);
        f(chunk, first, x);
    }
}

/* --- the best, and whether all are numbers --- */

/* The best rank, NONE if none may come; that of all logits, those hidden too; true if one is NaN or +inf. COPY: of a plain row, to a slot */
template <bool COPY> __device__ __forceinline__ bool scan(block_memory &m, const view &v, float *copy, u64 *best, u64 *raw_best)
{
    float most = -INFINITY, raw_most = -INFINITY;
    int at = 0;
    bool bad = false;
    for (int chunk = threadIdx.x / 32; chunk * CHUNK < v.vocab; chunk += WARPS) {
        const int first = chunk * CHUNK + int(threadIdx.x % 32);
        float x[PER_LANE];
        read_chunk(v, first, x);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            bad = bad || (!v.adjusted && !(x[i] < INFINITY));
            raw_most = fmaxf(raw_most, x[i]);
            if (COPY && first + 32 * i < v.vocab) copy[first + 32 * i] = x[i];
        }
        if (!COPY) hide(m, v, chunk, x);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            bad = bad || (v.adjusted && !(x[i] < INFINITY)); /* what a bias made infinite may be banned */
            if (x[i] > most) most = x[i], at = first + 32 * i;
        }
    }
    *best = block_least(m, most == -INFINITY ? NONE : rank_of(most, at));
    *raw_best = v.mask || v.n_ban ? block_least(m, raw_most == -INFINITY ? NONE : rank_of(raw_most, 0)) : *best;
    return __syncthreads_or(bad);
}

/* --- bias and penalties, in a slot --- */

/* A token named twice gets both, in the order of the list. */
__device__ __forceinline__ void add_bias(const job &j, float *x, uint32_t *count, int vocab)
{
    bool twice = false;
    for (uint32_t i = threadIdx.x; i < j.n_bias; i += THREADS)
        if (uint32_t(j.bias[i].token) < uint32_t(vocab)) atomicAdd(&count[j.bias[i].token], 1u);
    __syncthreads(); /* counted */
    for (uint32_t i = threadIdx.x; i < j.n_bias; i += THREADS) {
        const struct token_bias b = j.bias[i];
        if (uint32_t(b.token) >= uint32_t(vocab)) continue;
        if (count[b.token] == 1)
            x[b.token] += b.bias;
        else
            twice = true;
    }
    if (__syncthreads_or(twice) && threadIdx.x == 0)
        for (uint32_t i = 0; i < j.n_bias; i++)
            if (uint32_t(j.bias[i].token) < uint32_t(vocab) && count[j.bias[i].token] > 1) x[j.bias[i].token] += j.bias[i].bias;
    __syncthreads(); /* counts are read */
    for (uint32_t i = threadIdx.x; i < j.n_bias; i += THREADS)
        if (uint32_t(j.bias[i].token) < uint32_t(vocab)) atomicExch(&count[j.bias[i].token], 0u); /* two may name it */
    __syncthreads(); /* and zero again */
}

/* Tokens are counted, then whoever takes a token's count away changes its logit: work by the length of the lists. */
__device__ __forceinline__ void penalise(const job &j, float *x, uint32_t *count, int vocab)
{
    const uint32_t n = j.n_prompt + j.n_made;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        const int32_t token = i < j.n_prompt ? j.prompt[i] : j.made[i - j.n_prompt];
        if (uint32_t(token) >= uint32_t(vocab)) continue;
        if (i < j.n_prompt)
            atomicOr(&count[token], SEEN);
        else
            atomicAdd(&count[token], 1u);
    }
    __syncthreads(); /* counted */
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        const int32_t token = i < j.n_prompt ? j.prompt[i] : j.made[i - j.n_prompt];
        const uint32_t said = uint32_t(token) < uint32_t(vocab) ? atomicExch(&count[token], 0u) : 0, made = said & ~SEEN;
        if (!said) continue;
        float v = x[token];
        if (j.repetition != 1) v = v > 0 ? v / j.repetition : v * j.repetition;
        if (made) v -= j.frequency * float(made) + j.presence;
        x[token] = v;
    }
    __syncthreads(); /* the row is as it is drawn from */
}

/* --- cuts --- */

/* Ids within [low, high], of one bin of the first digit (-1: of all). */
struct span {
    u64 low, high;
    int bin;
};

/* The digits of a rank after the first: 10 bits, then 11 and 11 of the logit, then the id without its last 10. */
__device__ __forceinline__ int shift_of(int digit)
{
    return digit == 1 ? 54 : digit == 2 ? 43 : digit == 3 ? 32 : 10;
}

template <bool MASS> __device__ __forceinline__ void add(block_memory &m, int bin, u64 mass, bool counts)
{
    if (!MASS) {
        if (counts) atomicAdd(&m.counts[bin], 1u);
        return;
    }
    /* sums of 64 bits in shared memory are slow where lanes meet in a bin: a warp that does adds once */
    const uint32_t who = __ballot_sync(ALL_LANES, counts);
    const int first = __shfl_sync(ALL_LANES, bin, who ? __ffs(int(who)) - 1 : 0);
    if (__all_sync(ALL_LANES, !counts || bin == first)) {
        mass = warp_sum(counts ? mass : 0);
        counts = who && threadIdx.x % 32 == 0;
        bin = first;
    }
    if (!counts) return;
    atomicAdd(&m.sums[bin], mass);
    atomicAdd(&m.counts[bin], bin == first ? uint32_t(__popc(who)) : 1u);
}

/* Counts, and with MASS masses, by one digit. With MASS what weighs nothing does not count. */
template <bool MASS> __device__ __forceinline__ void count_digit(block_memory &m, const view &v, const span &s, int digit)
{
    for (int i = threadIdx.x; i < BINS; i += THREADS) {
        m.counts[i] = 0;
        if (MASS) m.sums[i] = 0;
    }
    __syncthreads(); /* zero */
    const int shift = shift_of(digit);
    walk(m, v, [&](int, int first, const float(&x)[PER_LANE]) {
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const u64 rank = rank_of(x[i], first + 32 * i);
            const int bin = bin_of(v, x[i]);
            const bool counts = first + 32 * i < v.vocab && rank >= s.low && rank <= s.high && (s.bin < 0 || bin == s.bin);
            const u64 mass = MASS && counts ? mass_of(v, x[i]) : 0;
            add<MASS>(m, digit == 0 ? bin : int(rank >> shift) & (BINS - 1), mass, MASS ? mass > 0 : counts);
        }
    });
    __syncthreads(); /* counted */
}

/* Which are in the span, in no order. */
template <bool MASS> __device__ __forceinline__ int gather(block_memory &m, const view &v, const span &s)
{
    if (threadIdx.x == 0) m.n_gathered = 0;
    __syncthreads(); /* zero */
    walk(m, v, [&](int, int first, const float(&x)[PER_LANE]) {
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const u64 rank = rank_of(x[i], first + 32 * i);
            if (first + 32 * i >= v.vocab || rank < s.low || rank > s.high || (s.bin >= 0 && bin_of(v, x[i]) != s.bin)) continue;
            const u64 mass = MASS ? mass_of(v, x[i]) : 1;
            if (mass == 0) continue;
            const uint32_t at = atomicAdd(&m.n_gathered, 1u);
            m.rank[at] = rank;
            m.mass[at] = mass;
        }
    });
    __syncthreads(); /* gathered */
    return int(m.n_gathered);
}

/* The place in the total that a share is reached with. */
__device__ __forceinline__ u64 place_of(u64 total, u64 share)
{
    const u64 wanted = __umul64hi(total, share);
    return wanted ? wanted - 1 : 0;
}

/* The last rank that is kept, of the n or fewer up to `within`: the best `wanted`, or with MASS the fewest best that have this share of their
 * mass. */
template <bool MASS> __device__ __forceinline__ u64 select(block_memory &m, const view &v, u64 within, uint32_t n, u64 wanted)
{
    span s = {0, within, -1};
    u64 target = wanted - 1, before = 0, total;
    bool known = !MASS;
#pragma unroll 1
    for (int digit = 0; n > FEW; digit++) {
        count_digit<MASS>(m, v, s, digit);
        const u64 a = MASS ? m.sums[2 * threadIdx.x] : m.counts[2 * threadIdx.x];
        const u64 b = MASS ? m.sums[2 * threadIdx.x + 1] : m.counts[2 * threadIdx.x + 1];
        const u64 at = before + block_prefix(m, a + b, &total);
        if (!known) target = place_of(total, wanted), known = true;
        find_bin(m, a, b, at, target);
        before = m.before;
        n = m.counts[m.bin];
        if (digit == 0)
            s.bin = m.bin;
        else
            s.low |= u64(m.bin) << shift_of(digit), s.high = min(s.high, s.low | ((u64(1) << shift_of(digit)) - 1));
        __syncthreads(); /* the bin is read */
    }
    const int n_gathered = gather<MASS>(m, v, s);
    const bool mine = int(threadIdx.x) < n_gathered;
    const u64 rank = mine ? m.rank[threadIdx.x] : 0, mass = mine ? m.mass[threadIdx.x] : 0;
    if (!known) {
        block_prefix(m, mass, &total);
        target = place_of(total, wanted);
    }
    for (int i = 0; mine && i < n_gathered; i++) before += m.rank[i] < rank ? m.mass[i] : 0;
    if (mine && target >= before && target - before < mass) m.found = rank;
    __syncthreads(); /* found */
    return m.found;
}

/* --- the draw --- */

/* Warp 0: the id of a chunk on which `place` falls. */
template <class F> __device__ __forceinline__ int find_id(const block_memory &m, const view &v, int chunk, u64 place, F mass)
{
    const int first = chunk * CHUNK + int(threadIdx.x % 32);
    int id = -1;
    float x[PER_LANE];
    read_chunk(v, first, x);
    hide(m, v, chunk, x);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const u64 up_to = warp_prefix(mass(x[i], first + 32 * i)), all = __shfl_sync(ALL_LANES, up_to, 31);
        const uint32_t past = __ballot_sync(ALL_LANES, up_to > place);
        if (id < 0 && past) id = chunk * CHUNK + 32 * i + __ffs(int(past)) - 1;
        place -= min(place, all);
    }
    return id;
}

/* One of the ids up to rank `cut`, in proportion to their masses. */
__device__ __forceinline__ int draw(block_memory &m, const view &v, const job &j, u64 cut)
{
    const u64 least = j.least;
    auto kept = [&](float x, int id) {
        const u64 mass = mass_of(v, x);
        return mass >= least && rank_of(x, id) <= cut ? mass : 0;
    };
    walk(m, v, [&](int chunk, int first, const float(&x)[PER_LANE]) {
        u64 sum = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) sum += kept(x[i], first + 32 * i);
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) m.sums[chunk] = sum;
    });
    __syncthreads(); /* summed */
    const int chunk = 2 * threadIdx.x;
    const u64 a = chunk * CHUNK < v.vocab ? m.sums[chunk] : 0, b = (chunk + 1) * CHUNK < v.vocab ? m.sums[chunk + 1] : 0;
    u64 total;
    const u64 before = block_prefix(m, a + b, &total), place = __umul64hi(total, j.random);
    find_bin(m, a, b, before, place);
    if (threadIdx.x < 32) {
        const int id = find_id(m, v, m.bin, place - m.before, kept);
        if (threadIdx.x == 0) m.found = u64(id);
    }
    __syncthreads(); /* drawn */
    return int(m.found);
}

__device__ __forceinline__ int choose(block_memory &m, const view &v, const job &j)
{
    u64 cut = NONE;
    uint32_t n = uint32_t(v.vocab);
    if (j.top_k) {
        cut = select<false>(m, v, cut, n, j.top_k);
        n = j.top_k;
    }
    if (j.share != NONE) cut = select<true>(m, v, cut, n, j.share);
    return draw(m, v, j, cut);
}

/* --- logprobs: of the raw logits --- */

__device__ __forceinline__ void report(block_memory &m, const view &raw, int token, int n_top, sampled *out)
{
    u64 sum = 0, total;
    walk(m, raw, [&](int, int, const float(&x)[PER_LANE]) {
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) sum += mass_of(raw, x[i]);
    });
    block_prefix(m, sum, &total);
    if (threadIdx.x == 0) out->sum = total, out->logit = raw.x[token], out->best = raw.best, out->n_top = n_top;
    if (n_top <= 0) return;
    span s = {0, NONE, -1};
    if (n_top < raw.vocab) s.high = select<false>(m, raw, NONE, uint32_t(raw.vocab), u64(n_top));
    const int n = gather<false>(m, raw, s);
    if (int(threadIdx.x) >= n) return;
    const u64 rank = m.rank[threadIdx.x];
    int better = 0;
    for (int i = 0; i < n; i++) better += m.rank[i] < rank;
    out->top_token[better] = int32_t(uint32_t(rank));
    out->top_logit[better] = logit_of(rank);
}

__device__ __forceinline__ void mark_bans(block_memory &m, const view &v)
{
    for (int i = threadIdx.x; i < BINS / 32; i += THREADS) m.banned[i] = 0;
    __syncthreads(); /* zero */
    if (int(threadIdx.x) < v.n_ban) atomicOr(&m.banned[v.ban[threadIdx.x] / CHUNK / 32], 1u << v.ban[threadIdx.x] / CHUNK % 32);
    __syncthreads(); /* marked */
}

/* Grid (rows). */
__global__ void __launch_bounds__(THREADS) sample_kernel(const __grid_constant__ sample_args a)
{
    SHARED_ARRAY(block_memory, memory, 1);
    block_memory &m = memory[0];
    const job &j = a.jobs[blockIdx.x];
    sampled *out = &a.results[blockIdx.x];
    view raw = {j.logits, nullptr, nullptr, 0, a.vocab, false, 0, LOG2_E, BINS / REACH}, v = raw;
    v.mask = j.mask, v.ban = j.ban, v.n_ban = int(j.n_ban), v.scale = j.scale, v.bins = j.bins;
    u64 best, raw_best, unused;
    bool bad;
    if (v.n_ban) mark_bans(m, v);
    if (j.slot < 0) {
        bad = scan<false>(m, v, nullptr, &best, &raw_best);
    } else {
        float *x = a.adjusted + size_t(j.slot) * a.pitch;
        uint32_t *count = a.counts + size_t(j.slot) * a.pitch;
        bad = scan<true>(m, raw, x, &raw_best, &unused);
        if (j.n_bias) add_bias(j, x, count, a.vocab);
        penalise(j, x, count, a.vocab);
        v.x = x, v.adjusted = true;
        const bool worse = scan<false>(m, v, nullptr, &best, &unused);
        bad = bad || worse;
    }
    if (bad || best == NONE) {
        if (threadIdx.x == 0) out->token = -1;
        return;
    }
    v.best = logit_of(best), raw.best = logit_of(raw_best);
    const int token = j.greedy ? int(uint32_t(best)) : choose(m, v, j);
    if (threadIdx.x == 0) out->token = token;
    if (j.n_top >= 0) report(m, raw, token, j.n_top, out);
}

} // namespace

/* --- host --- */

struct cuda_sampler {
    size_t rows, slots; /* of a launch; of those in slots */
    size_t bytes;       /* of staging: jobs, then their lists */
    unsigned char *host, *device;
    sampled *results_host, *results; /* (rows) */
    float *adjusted;                 /* (slots, vocab) */
    uint32_t *counts;
    size_t queued; /* rows whose results nobody has collected */
    const struct sample_row *given;
    struct sample_result *out;
};

namespace {

constexpr size_t MAX_SLOTS = 64, LIST_BYTES = size_t(4) << 20;

/* The staging buffer, filled from `at` on. */
struct packing {
    struct cuda_sampler *s;
    size_t at;
};

/* Room for n; returns where they are on the device, and where they are written. */
template <class T> const T *take(packing *p, size_t n, T **host)
{
    *host = reinterpret_cast<T *>(p->s->host + p->at);
    const T *device = reinterpret_cast<const T *>(p->s->device + p->at);
    p->at += n * sizeof(T);
    return n ? device : nullptr;
}

template <class T> const T *put(packing *p, const T *from, size_t n)
{
    T *host;
    const T *device = take(p, n, &host);
    if (n) memcpy(host, from, n * sizeof(T));
    return device;
}

bool repeats(const struct sample_row *r)
{
    return r->params.repetition_penalty != 1;
}

bool counts_made(const struct sample_row *r)
{
    return repeats(r) || r->params.frequency_penalty != 0 || r->params.presence_penalty != 0;
}

bool needs_mask(const struct sample_row *r)
{
    return r->mask || r->n_banned + r->n_banned_now > MAX_BANS;
}

size_t mask_words(size_t vocab)
{
    return (vocab + 31) / 32;
}

size_t list_bytes(const struct sample_row *r, size_t vocab)
{
    const size_t tokens = (repeats(r) ? r->n_prompt : 0) + (counts_made(r) ? r->n_made : 0);
    const size_t hidden = needs_mask(r) ? mask_words(vocab) : r->n_banned + r->n_banned_now;
    return (tokens + hidden) * sizeof(int32_t) + r->n_bias * sizeof(struct token_bias);
}

/* Bans go into the mask where there is one, or where they are many. */
void put_hidden(packing *p, const struct sample_row *r, size_t vocab, job *j)
{
    uint32_t *mask = nullptr;
    int32_t *ban = nullptr;
    if (needs_mask(r)) {
        j->mask = take(p, mask_words(vocab), &mask);
        if (r->mask)
            memcpy(mask, r->mask, mask_words(vocab) * sizeof *mask);
        else
            memset(mask, 0xff, mask_words(vocab) * sizeof *mask);
    } else {
        j->ban = take(p, r->n_banned + r->n_banned_now, &ban);
    }
    for (size_t i = 0; i < r->n_banned + r->n_banned_now; i++) {
        const int32_t id = i < r->n_banned ? r->banned[i] : r->banned_now[i - r->n_banned];
        if (id < 0 || size_t(id) >= vocab) continue;
        if (mask)
            mask[id / 32] &= ~(1u << id % 32);
        else
            ban[j->n_ban++] = id;
    }
}

/* p in 2^-64; below 0 as 0, from 1 on NONE. */
u64 fraction(float p)
{
    return p >= 1 ? NONE : p > 0 ? u64(ldexp(double(p), 64)) : 0;
}

void put_params(const struct sample_row *r, size_t vocab, job *j)
{
    const struct sample_params *p = &r->params;
    const int n_top = p->top_logprobs < SAMPLE_MAX_TOP ? p->top_logprobs : SAMPLE_MAX_TOP;
    j->logits = r->logits;
    j->random = u64(ldexp(philox_uniform(p->seed, p->choice, r->position), 64));
    j->share = fraction(p->top_p);
    j->least = p->min_p > 0 ? u64(ldexp(p->min_p < 1 ? double(p->min_p) : 1, MASS_BITS)) : 0;
    j->repetition = p->repetition_penalty, j->frequency = p->frequency_penalty, j->presence = p->presence_penalty;
    j->top_k = p->top_k > 0 && size_t(p->top_k) < vocab ? uint32_t(p->top_k) : 0;
    j->greedy = !(p->temperature > 0) || j->top_k == 1;
    j->scale = j->greedy ? 0 : fminf(LOG2_E / p->temperature, FLT_MAX);
    /* past 2^-40 nothing weighs anything; not so fine that best - best would be in doubt */
    j->bins = BINS / fminf(fmaxf(MASS_BITS / LOG2_E * p->temperature, 1e-6f), REACH);
    j->n_top = n_top < 0 ? -1 : size_t(n_top) < vocab ? n_top : int(vocab);
}

/* The row's job and lists, if there is room. */
bool put_row(packing *p, const struct sample_row *r, size_t vocab, job *j)
{
    if (list_bytes(r, vocab) > p->s->bytes - p->at) return false;
    memset(j, 0, sizeof *j);
    put_params(r, vocab, j);
    j->bias = put(p, r->bias, j->n_bias = uint32_t(r->n_bias));
    if (repeats(r)) j->prompt = put(p, r->prompt, j->n_prompt = uint32_t(r->n_prompt));
    if (counts_made(r)) j->made = put(p, r->made, j->n_made = uint32_t(r->n_made));
    put_hidden(p, r, vocab, j);
    j->slot = j->n_bias + j->n_prompt + j->n_made ? 0 : -1;
    return true;
}

/* As many of n rows as have room, at least one; the bytes to be copied. */
size_t stage(struct cuda_sampler *s, const struct sample_row *rows, size_t n, size_t vocab, size_t *bytes)
{
    job *jobs = reinterpret_cast<job *>(s->host);
    n = n < s->rows ? n : s->rows;
    packing p = {s, n * sizeof(job)};
    size_t taken = 0, in_slots = 0;
    for (; taken < n && put_row(&p, &rows[taken], vocab, &jobs[taken]); taken++)
        if (jobs[taken].slot >= 0) jobs[taken].slot = int32_t(in_slots++ % s->slots);
    CHECK(taken > 0); /* a row's lists always have room: cuda_sample_reserve */
    *bytes = p.at;
    return taken;
}

/* A launch ends where the slots are used up. */
int launch(struct device *d, size_t n, size_t vocab, struct err *e)
{
    struct cuda_sampler *s = d->sampler;
    const job *jobs = reinterpret_cast<const job *>(s->host), *on_device = reinterpret_cast<const job *>(s->device);
    int rc = 0;
    for (size_t first = 0, end; first < n && !rc; first = end) {
        size_t in_slots = 0;
        for (end = first; end < n && (jobs[end].slot < 0 || in_slots < s->slots); end++) in_slots += jobs[end].slot >= 0;
        const sample_args a = {on_device + first, s->results + first, s->adjusted, s->counts, d->limits.vocab, int(vocab)};
        LAUNCH(sample_kernel, dim3(unsigned(end - first)), dim3(THREADS), 0, d->stream, a);
        rc = cuda_launched(d, "sampling", e);
    }
    return rc;
}

void put_result(const sampled *r, bool logprobs, struct sample_result *out)
{
    memset(out, 0, sizeof *out);
    out->token = r->token;
    if (r->token < 0 || !logprobs) return;
    const double lse = log(ldexp(double(r->sum), -MASS_BITS)); /* the best stays apart: beside a large one it would be lost */
    out->logprob = float(double(r->logit) - double(r->best) - lse);
    out->n_top = r->n_top;
    for (int i = 0; i < r->n_top; i++) {
        out->top_token[i] = r->top_token[i];
        out->top_logprob[i] = float(double(r->top_logit[i]) - double(r->best) - lse);
    }
}

} // namespace

int cuda_sample_reserve(struct device *d, struct err *e)
{
    const struct device_limits *l = &d->limits;
    CHECK(l->vocab <= size_t(BINS) * CHUNK);
    struct cuda_sampler *s = d->sampler = static_cast<struct cuda_sampler *>(calloc(1, sizeof *s));
    if (!s) return err_set(e, ERR_MEMORY, "cuda: out of memory");
    s->rows = l->max_rows ? l->max_rows : 1;
    s->slots = s->rows < MAX_SLOTS ? s->rows : MAX_SLOTS;
    /* the longest lists of a row: its tokens, a bias for each id, a mask */
    const size_t tokens = l->max_blocks_per_sequence * CUDA_KV_BLOCK;
    const size_t longest = (tokens + mask_words(l->vocab)) * sizeof(int32_t) + l->vocab * sizeof(struct token_bias);
    s->bytes = cuda_round_up(s->rows * sizeof(job) + (longest > LIST_BYTES ? longest : LIST_BYTES), 256);
    const size_t results = s->rows * sizeof(sampled), slots = s->slots * l->vocab;
    int rc = cuda_check(d, "memory of samples", cudaMallocHost(reinterpret_cast<void **>(&s->host), s->bytes), e);
    if (!rc) rc = cuda_check(d, "memory of samples", cudaMallocHost(reinterpret_cast<void **>(&s->results_host), results), e);
    if (!rc) rc = cuda_region_take(d, s->bytes, reinterpret_cast<void **>(&s->device), e);
    if (!rc) rc = cuda_region_take(d, results, reinterpret_cast<void **>(&s->results), e);
    if (!rc) rc = cuda_region_take(d, slots * sizeof *s->adjusted, reinterpret_cast<void **>(&s->adjusted), e);
    return rc ? rc : cuda_region_take(d, slots * sizeof *s->counts, reinterpret_cast<void **>(&s->counts), e);
}

/* Its device memory goes back with the device's. */
void cuda_sample_close(struct device *d)
{
    struct cuda_sampler *s = d->sampler;
    if (!s) return;
    if (s->host) cudaFreeHost(s->host);
    if (s->results_host) cudaFreeHost(s->results_host);
    free(s);
    d->sampler = nullptr;
}

static int collect(struct device *d, struct err *e)
{
    struct cuda_sampler *s = d->sampler;
    const size_t n = s->queued;
    s->queued = 0;
    int rc = n ? cuda_wait(d, e) : 0;
    for (size_t i = 0; i < n && !rc; i++) put_result(&s->results_host[i], s->given[i].params.top_logprobs >= 0, &s->out[i]);
    return rc;
}

/* One copy over and one back, unless lists or rows are more than the staging buffer holds; only then is anything waited for here. */
int cuda_sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e)
{
    struct cuda_sampler *s = d->sampler;
    CHECK(vocab > 0 && vocab <= d->limits.vocab);
    int rc = 0;
    s->queued = 0;
    for (size_t done = 0, taken, bytes; done < n && !rc; done += taken) {
        if ((rc = collect(d, e))) break;
        taken = stage(s, rows + done, n - done, vocab, &bytes);
        rc = cuda_check(d, "sampling", cudaMemcpyAsync(s->device, s->host, bytes, cudaMemcpyHostToDevice, d->stream), e);
        if (!rc) rc = launch(d, taken, vocab, e);
        const size_t back = taken * sizeof *s->results;
        if (!rc) rc = cuda_check(d, "sampling", cudaMemcpyAsync(s->results_host, s->results, back, cudaMemcpyDeviceToHost, d->stream), e);
        if (!rc) s->queued = taken, s->given = rows + done, s->out = out + done;
    }
    return rc;
}

int cuda_sampled(struct device *d, struct err *e)
{
    return collect(d, e);
}
