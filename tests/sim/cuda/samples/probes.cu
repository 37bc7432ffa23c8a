/* Probe kernels, see probes.h. Each is as short as what it shows allows. */
#include "tests/sim/cuda/samples/probes.h"

namespace {

constexpr unsigned ALL = 0xffffffffu;

template <int TYPE> __global__ void mma_kernel(const uint32_t *a, const uint32_t *b, uint32_t *d)
{
    const int l = threadIdx.x;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; ++i) fa[i] = a[l * 4 + i];
    for (int i = 0; i < 2; ++i) fb[i] = b[l * 2 + i];
    float f[4];
    int32_t s[4];
    for (int i = 0; i < 4; ++i) s[i] = int32_t(d[l * 4 + i]), f[i] = __uint_as_float(d[l * 4 + i]);
    if (TYPE == PROBE_BF16) mma_m16n8k16_bf16(f, fa, fb);
    if (TYPE == PROBE_F16) mma_m16n8k16_f16(f, fa, fb);
    if (TYPE == PROBE_E4M3) mma_m16n8k32_e4m3(f, fa, fb);
    if (TYPE == PROBE_S8) mma_m16n8k32_s8(s, fa, fb);
    if (TYPE == PROBE_U8S8) mma_m16n8k32_u8s8(s, fa, fb);
    const bool whole = TYPE == PROBE_S8 || TYPE == PROBE_U8S8;
    for (int i = 0; i < 4; ++i) d[l * 4 + i] = whole ? uint32_t(s[i]) : __float_as_uint(f[i]);
}

template <int N, bool TRANS> __global__ void ldmatrix_kernel(uint32_t *r)
{
    SHARED_ARRAY(uint16_t, tile, 256);
    const int l = threadIdx.x;
    for (int i = 0; i < 8; ++i) tile[l * 8 + i] = uint16_t(l * 8 + i);
    __syncwarp();
    uint32_t r1[1] = {}, r2[2] = {}, r4[4] = {};
    if (N == 1) ldmatrix_x1(r1, tile + l * 8);
    if (N == 2 && TRANS) ldmatrix_x2_trans(r2, tile + l * 8);
    if (N == 2 && !TRANS) ldmatrix_x2(r2, tile + l * 8);
    if (N == 4 && TRANS) ldmatrix_x4_trans(r4, tile + l * 8);
    if (N == 4 && !TRANS) ldmatrix_x4(r4, tile + l * 8);
    for (int i = 0; i < N; ++i) r[l * 4 + i] = N == 1 ? r1[0] : N == 2 ? r2[i % 2] : r4[i];
}

/* Bytes 0..15 whole, 16..31 five of 16, 32..47 none, 48..55 whole, 56..59 whole, 60..63 three of 4; then a second group, 64..79, waited for
 * after. */
__global__ void cp_async_kernel(const unsigned char *src, unsigned char *dst)
{
    SHARED_ARRAY(unsigned char, s, 96);
    cp_async16(s, src);
    cp_async16_zfill(s + 16, src + 16, 5);
    cp_async16_zfill(s + 32, src + 32, 0);
    cp_async8(s + 48, src + 48);
    cp_async4(s + 56, src + 56);
    cp_async4_zfill(s + 60, src + 60, 3);
    cp_async_commit();
    cp_async16(s + 64, src + 64);
    cp_async_commit();
    cp_async_wait<1>();
    for (int i = 0; i < 64; ++i) dst[i] = s[i];
    cp_async16(s + 80, src + 80);
    cp_async_wait_all();
    for (int i = 64; i < 96; ++i) dst[i] = s[i];
}

__global__ void shuffle_kernel(const uint32_t *v, uint32_t *out)
{
    const int l = threadIdx.x;
    const uint32_t x = v[l];
    out[l] = __shfl_sync(ALL, x, 5);
    out[32 + l] = __shfl_sync(ALL, x, 11, 8); /* lane 3 of each eight */
    out[64 + l] = __shfl_up_sync(ALL, x, 3, 16);
    out[96 + l] = __shfl_down_sync(ALL, x, 3, 16);
    out[128 + l] = __shfl_xor_sync(ALL, x, 17);
    out[160 + l] = uint32_t(__shfl_xor_sync(ALL, (unsigned long long)x << 32 | (x + 1), 1) >> 32);
    out[192 + l] = __bfloat16_as_ushort(__shfl_down_sync(ALL, __ushort_as_bfloat16((unsigned short)x), 1));
    if (l < 16) out[224 + l] = __shfl_sync(0x0000ffffu, x, 2); /* halves that have parted */
    else out[224 + l] = __shfl_sync(0xffff0000u, x, 18);
}

__global__ void vote_kernel(const int32_t *v, uint32_t *out)
{
    const int l = threadIdx.x, x = v[l];
    out[l] = __ballot_sync(ALL, x > 4);
    out[32 + l] = unsigned(__any_sync(ALL, x == 7)) * 2 + unsigned(__all_sync(ALL, x < 8));
    out[64 + l] = __match_any_sync(ALL, x);
    int same = 9;
    out[96 + l] = __match_all_sync(ALL, x, &same);
    out[128 + l] = unsigned(same);
    out[160 + l] = unsigned(__reduce_add_sync(ALL, x - 4));
    out[192 + l] = unsigned(__reduce_min_sync(ALL, x - 4));
    out[224 + l] = __reduce_max_sync(ALL, unsigned(x - 4));
    out[256 + l] = __reduce_xor_sync(ALL, 1u << (x & 31));
    out[288 + l] = l < 8 ? __reduce_add_sync(0xffu, 1u) : 0;
    out[320 + l] = __reduce_or_sync(ALL, 1u << (x & 31));
    out[352 + l] = __reduce_and_sync(ALL, unsigned(x) | 8);
}

__global__ void convert_kernel(const float *in, uint32_t *out)
{
    out[0] = cvt_bf16x2(in[0], in[1]);
    out[1] = cvt_f16x2(in[0], in[1]);
    out[2] = cvt_e4m3x2(in[0], in[1]);
}

__global__ void scalar_kernel(uint32_t *out)
{
    const uint32_t a = 0x76543210u, b = 0xfedcba98u, c = 0x0ff0a55au;
    out[0] = lop3<0x80>(a, b, c);
    out[1] = lop3<0xfe>(a, b, c);
    out[2] = lop3<0x40>(a, b, c);
    out[3] = lop3<0x1a>(a, b, c);
    out[4] = __byte_perm(a, b, 0x5140);
    out[5] = __byte_perm(a, b, 0x7fb3);
    out[6] = unsigned(__dp4a(int(0x80ff017fu), int(0x80020304u), 1000));
    out[7] = __funnelshift_l(a, b, 8);
    out[8] = __funnelshift_r(a, b, 8);
    out[9] = __brev(0x80000005u);
    out[10] = unsigned(__clz(0x00ff0000)) * 100 + unsigned(__ffs(0x00ff0000));
    out[11] = unsigned(__popc(b));
    out[12] = __umulhi(0xffffffffu, 0xffffffffu);
    out[13] = unsigned(__float2int_rn(2.5f)) * 10 + unsigned(__float2int_rn(3.5f));
    out[14] = unsigned(__float2int_rz(-2.9f));
    out[15] = __float_as_uint(__saturatef(-1.0f)) + __float_as_uint(__saturatef(2.0f));
}

__global__ void approx_kernel(const float *in, float *out)
{
    const int l = threadIdx.x;
    out[l] = ex2_approx(in[l]);
    out[32 + l] = tanh_approx(in[l]);
    out[64 + l] = rcp_approx(in[l]);
}

__global__ void vector_kernel(const uint4 *in, uint4 *out)
{
    prefetch_global_L2(in);
    store16(out, load16(in));
    out[1] = ld_global_nc_16(in + 1);
}

__global__ void atomic_kernel(uint32_t *c, uint32_t *old)
{
    old[0] = atomicAdd(c, 5u);
    old[1] = atomicSub(c + 1, 5u);
    old[2] = uint32_t(atomicMax(reinterpret_cast<int *>(c + 2), -7));
    old[3] = uint32_t(atomicMin(reinterpret_cast<int *>(c + 3), -7));
    old[4] = atomicExch(c + 4, 77u);
    old[5] = atomicCAS(c + 5, 10u, 88u);
    old[6] = atomicCAS(c + 6, 11u, 88u);
    old[7] = atomicAnd(c + 7, 6u);
    old[8] = atomicOr(c + 8, 5u);
    old[9] = atomicXor(c + 9, 3u);
    old[10] = atomicInc(c + 10, 10u);
    old[11] = atomicDec(c + 11, 9u);
}

__global__ void atomic_float_kernel(float *cell) { atomicAdd(cell, float(threadIdx.x + 1)); }

/* 128 threads, of which 48 leave first. */
__global__ void barrier_kernel(int *out)
{
    const int i = threadIdx.x;
    if (i >= 80) return;
    const int odd = __syncthreads_count(i % 2), any = __syncthreads_or(i == 70), none = __syncthreads_or(0);
    const int all = __syncthreads_and(i < 80), few = __syncthreads_and(i < 70);
    if (i == 79) out[0] = odd, out[1] = any, out[2] = none, out[3] = all, out[4] = few;
}

__global__ void named_barriers_kernel(int *out)
{
    SHARED_ARRAY(int, box, 64);
    const int i = threadIdx.x, lane = i % 32;
    if (i < 64) { /* two warps; the other two go past */
        for (int round = 0; round < 3; ++round) {
            if (i < 32) box[lane] = lane * 10 + round;
            bar_sync(1, 64);
            if (i >= 32) box[32 + lane] = box[31 - lane] + 1;
            bar_sync(2, 64);
            if (i < 32) out[lane] = box[63 - lane];
            bar_sync(1, 64);
        }
    }
    __syncthreads();
    if (i >= 64 && i < 96) out[32 + lane] = box[lane];
}

/* Warp 0 fills, warp 1 empties; each tells the other without waiting. */
__global__ void producer_kernel(int *out)
{
    SHARED_ARRAY(int, box, 32);
    const int lane = threadIdx.x % 32;
    int sum = 0;
    for (int round = 0; round < 4; ++round) {
        if (threadIdx.x < 32) {
            if (round) bar_sync(2, 64);
            box[lane] = round * 100 + lane;
            bar_arrive(1, 64);
        } else {
            bar_sync(1, 64);
            sum += box[31 - lane];
            if (round < 3) bar_arrive(2, 64);
        }
    }
    if (threadIdx.x >= 32) out[lane] = sum;
}

__global__ void types_kernel(const unsigned short *in, float *out)
{
    const __nv_bfloat162 b = __halves2bfloat162(__ushort_as_bfloat16(in[0]), __ushort_as_bfloat16(in[1]));
    const __half2 h = __halves2half2(__ushort_as_half(in[2]), __ushort_as_half(in[3]));
    out[0] = __low2float(__hadd2(b, b));
    out[1] = __high2float(__hmul2(b, b));
    out[2] = __low2float(__hfma2(h, h, h));
    out[3] = __high2float(__hsub2(h, h));
}

/* Block 0 writes and raises a flag; block 1, alive at the same time, waits for it. */
__global__ void flag_kernel(int *data, uint32_t *flag, int *out, bool release)
{
    if (blockIdx.x == 0) {
        data[threadIdx.x] = int(threadIdx.x) + 1;
        __syncthreads();
        if (threadIdx.x == 0) {
            if (release) st_release_gpu(flag, 1);
            else atomicExch(flag, 1u);
        }
    } else {
        if (threadIdx.x == 0)
            while (ld_acquire_gpu(flag) == 0) {}
        __syncthreads();
        out[threadIdx.x] = data[63 - threadIdx.x];
    }
}

/* Each block leaves a number; the last one to come adds them up. */
__global__ void last_block_kernel(float *partial, unsigned *count, float *out, bool fence)
{
    SHARED_ARRAY(unsigned, turn, 1);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = float(blockIdx.x + 1);
        if (fence) __threadfence();
        turn[0] = atomicAdd(count, 1u);
        if (fence) __threadfence();
    }
    __syncthreads();
    if (turn[0] != gridDim.x - 1) return;
    float sum = 0.0f;
    if (threadIdx.x == 0)
        for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[b];
    if (threadIdx.x == 0) *out = sum;
}

__global__ void syncwarp_kernel(int *out, bool sync)
{
    SHARED_ARRAY(int, box, 32);
    box[threadIdx.x] = int(threadIdx.x) * 2;
    if (sync) __syncwarp();
    out[threadIdx.x] = box[31 - threadIdx.x];
}

/* Two halves of a warp that meet in halves only. */
__global__ void half_warps_kernel(int *out)
{
    SHARED_ARRAY(int, box, 32);
    const int l = threadIdx.x, half = l & 16;
    for (int round = 0; round < 3; ++round) {
        box[l] = l + round;
        if (half) __syncwarp(0xffff0000u);
        else __syncwarp(0x0000ffffu);
        out[l] = box[half + 15 - (l & 15)];
        if (half) __syncwarp(0xffff0000u);
        else __syncwarp(0x0000ffffu);
    }
}

/* Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2. With whole == false warp 0 reads what warp 2 wrote. */
__global__ void pairs_kernel(int *out, bool whole)
{
    SHARED_ARRAY(int, box, 128);
    const int i = threadIdx.x, pair = i / 64;
    box[i] = i;
    bar_sync(1 + pair, 64);
    out[i] = whole ? box[pair * 64 + 63 - (i & 63)] : box[127 - i];
}

__global__ void broadcast_kernel(int *out, bool barrier)
{
    SHARED_ARRAY(int, box, 1);
    for (int round = 0; round < 3; ++round) {
        if (threadIdx.x == 5) box[0] = round;
        __syncthreads();
        out[threadIdx.x] = box[0];
        if (barrier) __syncthreads();
    }
}

__global__ void fill_kernel(int *data) { data[threadIdx.x] = int(threadIdx.x); }
__global__ void dependent_kernel(const int *data, int *out, bool wait)
{
    if (wait) griddepcontrol_wait();
    out[threadIdx.x] = data[threadIdx.x ^ 1];
}

__global__ void two_blocks_kernel(int *data, bool disjoint) { data[threadIdx.x + (disjoint ? blockIdx.x * 32 : 0)] = 1; }

__global__ void fault_kernel(int fault, float *x, int n)
{
    SHARED_ARRAY(float, box, 64);
    const int i = threadIdx.x;
    uint32_t r[4] = {}, r2[2] = {};
    float d[4] = {};
    switch (fault) {
    case FAULT_DIVERGENT_BARRIER:
        if (i < 40) __syncthreads();
        else
            __syncthreads();
        break;
    case FAULT_MISSING_THREAD:
        if (i != 9) __syncthreads_or(__shfl_sync(i < 32 ? ALL & ~(1u << 9) : ALL, 1, 0));
        else bar_sync(3, 64);
        break;
    case FAULT_COLLECTIVE_MISMATCH: x[i] = i % 32 < 7 ? __shfl_sync(ALL, 1.0f, 0) : float(__ballot_sync(ALL, 1)); break;
    case FAULT_STUCK_WARP:
        if (i != 3) x[i] = __shfl_sync(ALL, 1.0f, 0);
        else bar_sync(1, 64);
        break;
    case FAULT_NOT_IN_MASK: x[i] = __shfl_sync(0x0000ffffu, 1.0f, 0); break;
    case FAULT_MISALIGNED:
        if (i == 33) store16(x + 1, make_uint4(0, 0, 0, 0));
        break;
    case FAULT_JUST_PAST_END: x[n - 63 + i] = 1.0f; break;
    case FAULT_FAR_PAST_END: x[n + 4096 + i] = 1.0f; break;
    case FAULT_BEFORE_START: x[i - 8192] = 1.0f; break;
    case FAULT_NULL: *(x - reinterpret_cast<uintptr_t>(x) / 4 + i) = 1.0f; break;
    case FAULT_SHARED_PAST_END: (box + 1)[i] = 1.0f; break;
    case FAULT_COPY_PAST_END:
        if (i < 16) cp_async16(box + i * 4, x + n - 60 + i * 4); /* the last one begins at the end */
        break;
    case FAULT_COPY_TO_GLOBAL: cp_async16(x + i % 16 * 4, x + i % 16 * 4); break;
    case FAULT_PARTIAL_MMA:
        if (i % 32 < 16) return;
        mma_m16n8k16_bf16(d, r, r2);
        x[i] = d[0];
        break;
    case FAULT_BARRIER_COUNT: bar_sync(1, i < 32 ? 64 : 32); break;
    case FAULT_TRAP:
        if (i == 63) __trap();
        break;
    case FAULT_SPIN:
        while (ld_acquire_gpu(reinterpret_cast<uint32_t *>(x)) != 12345) {}
        break;
    }
}

__global__ void add_kernel(int *p, int v) { *p = *p * 3 + v; }

__global__ void shared_bytes_kernel(int *out, int n)
{
    DYN_SHARED(unsigned char, s);
    s[n - 1] = 7;
    *out = s[n - 1];
}

} // namespace

void probe_mma(probe_mma_type type, const uint32_t *a, const uint32_t *b, uint32_t *d)
{
    switch (type) {
    case PROBE_BF16: LAUNCH(mma_kernel<PROBE_BF16>, 1, 32, 0, nullptr, a, b, d); break;
    case PROBE_F16: LAUNCH(mma_kernel<PROBE_F16>, 1, 32, 0, nullptr, a, b, d); break;
    case PROBE_S8: LAUNCH(mma_kernel<PROBE_S8>, 1, 32, 0, nullptr, a, b, d); break;
    case PROBE_U8S8: LAUNCH(mma_kernel<PROBE_U8S8>, 1, 32, 0, nullptr, a, b, d); break;
    case PROBE_E4M3: LAUNCH(mma_kernel<PROBE_E4M3>, 1, 32, 0, nullptr, a, b, d); break;
    }
}
void probe_ldmatrix(int n, bool trans, uint32_t *r)
{
    if (n == 1) LAUNCH((ldmatrix_kernel<1, false>), 1, 32, 0, nullptr, r);
    if (n == 2 && !trans) LAUNCH((ldmatrix_kernel<2, false>), 1, 32, 0, nullptr, r);
    if (n == 2 && trans) LAUNCH((ldmatrix_kernel<2, true>), 1, 32, 0, nullptr, r);
    if (n == 4 && !trans) LAUNCH((ldmatrix_kernel<4, false>), 1, 32, 0, nullptr, r);
    if (n == 4 && trans) LAUNCH((ldmatrix_kernel<4, true>), 1, 32, 0, nullptr, r);
}
void probe_cp_async(const unsigned char *src, unsigned char *dst) { LAUNCH(cp_async_kernel, 1, 1, 0, nullptr, src, dst); }
void probe_shuffle(const uint32_t *v, uint32_t *out) { LAUNCH(shuffle_kernel, 1, 32, 0, nullptr, v, out); }
void probe_vote(const int32_t *v, uint32_t *out) { LAUNCH(vote_kernel, 1, 32, 0, nullptr, v, out); }
void probe_convert(const float *in, uint32_t *out) { LAUNCH(convert_kernel, 1, 1, 0, nullptr, in, out); }
void probe_scalar(uint32_t *out) { LAUNCH(scalar_kernel, 1, 1, 0, nullptr, out); }
void probe_approx(const float *in, float *out) { LAUNCH(approx_kernel, 1, 32, 0, nullptr, in, out); }
void probe_vector(const uint4 *in, uint4 *out) { LAUNCH(vector_kernel, 1, 1, 0, nullptr, in, out); }
void probe_atomic(uint32_t *cells, uint32_t *old) { LAUNCH(atomic_kernel, 1, 1, 0, nullptr, cells, old); }
void probe_atomic_float(float *cell) { LAUNCH(atomic_float_kernel, 1, 64, 0, nullptr, cell); }
void probe_barrier(int *out) { LAUNCH(barrier_kernel, 1, 128, 0, nullptr, out); }
void probe_named_barriers(int *out) { LAUNCH(named_barriers_kernel, 1, 128, 0, nullptr, out); }
void probe_producer(int *out) { LAUNCH(producer_kernel, 1, 64, 0, nullptr, out); }
void probe_types(const unsigned short *in, float *out) { LAUNCH(types_kernel, 1, 1, 0, nullptr, in, out); }

void order_flag_between_blocks(int *data, uint32_t *flag, int *out, bool release)
{
    cudaLaunchAttribute attr;
    attr.id = cudaLaunchAttributeCooperative;
    attr.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = 2;
    config.blockDim = 64;
    config.attrs = &attr;
    config.numAttrs = 1;
    (void)cudaLaunchKernelEx(&config, flag_kernel, data, flag, out, release);
}
void order_last_block(float *partial, unsigned *count, float *out, int blocks, bool fence)
{
    LAUNCH(last_block_kernel, blocks, 32, 0, nullptr, partial, count, out, fence);
}
void order_syncwarp(int *out, bool sync) { LAUNCH(syncwarp_kernel, 1, 32, 0, nullptr, out, sync); }
void order_half_warps(int *out) { LAUNCH(half_warps_kernel, 1, 32, 0, nullptr, out); }
void order_named_barriers(int *out, bool whole) { LAUNCH(pairs_kernel, 1, 128, 0, nullptr, out, whole); }
void order_broadcast(int *out, bool barrier) { LAUNCH(broadcast_kernel, 1, 64, 0, nullptr, out, barrier); }
void order_dependent(int *data, int *out, bool wait)
{
    LAUNCH(fill_kernel, 1, 64, 0, nullptr, data);
    LAUNCH_PDL(dependent_kernel, 1, 64, 0, nullptr, data, out, wait);
}
void order_two_blocks(int *data, bool disjoint) { LAUNCH(two_blocks_kernel, 2, 32, 0, nullptr, data, disjoint); }

void probe_fault_kernel(probe_fault f, float *x, int n) { LAUNCH(fault_kernel, 1, 64, 0, nullptr, int(f), x, n); }
void probe_add(int *p, int v, cudaStream_t s) { LAUNCH(add_kernel, 1, 1, 0, s, p, v); }
void probe_shared_bytes(int *out, size_t bytes, cudaStream_t s) { LAUNCH(shared_bytes_kernel, 1, 1, bytes, s, out, int(bytes)); }
cudaError_t probe_shared_limit(int bytes)
{
    return cudaFuncSetAttribute(shared_bytes_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
