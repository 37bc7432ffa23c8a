/* The only file with inline PTX: one instruction a wrapper, named after its mnemonic. Each says the lowest sm that has it and why it is
 * used instead of what CUDA C++ offers. Fragment layouts of mma and ldmatrix are those of the PTX manual ("Warp-level matrix
 * instructions"), g = lane / 4, t = lane % 4; they are written at each wrapper.
 *
 * Compiled for the CPU simulator, each wrapper calls a function that behaves as the manual says and checks what the hardware does not
 * (tests/sim/cuda). A new wrapper needs both halves and a row in tests/sim/cuda/test_ptx.cpp with an example worked out by hand. */
#ifndef SPILLWAY_KERNELS_CUDA_PTX_CUH
#define SPILLWAY_KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/cuda_port.h"

#ifdef __CUDACC__
#define PTX_FN __device__ __forceinline__


PTX_FN uint32_t smem_addr(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/* cp.async (sm_80): global to shared memory without registers in between. dst is visible to this thread after cp_async_wait, to others
 * after a barrier that follows it. 16 bytes go round L1 (.cg), 4 and 8 through it (.ca, the only form). Addresses are aligned to the
 * size. */
PTX_FN void cp_async16(void *dst, const void *src)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_addr(dst)), "l"(src) : "memory");
}
PTX_FN void cp_async8(void *dst, const void *src)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(smem_addr(dst)), "l"(src) : "memory");
}
PTX_FN void cp_async4(void *dst, const void *src)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(smem_addr(dst)), "l"(src) : "memory");
}
/* Copies src_bytes (0 to 16) and fills the rest with zeros: tails without branches. With 0, src is not read but must be a valid address. */
PTX_FN void cp_async16_zfill(void *dst, const void *src, int src_bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_addr(dst)), "l"(src), "r"(src_bytes) : "memory");
}
PTX_FN void cp_async4_zfill(void *dst, const void *src, int src_bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem_addr(dst)), "l"(src), "r"(src_bytes) : "memory");
}
PTX_FN void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until at most N of this thread's latest groups are unfinished. */
template <int N> PTX_FN void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
PTX_FN void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/* ldmatrix (sm_75): N 8x8 tiles of 16-bit values from shared memory in mma's register layout. Lane 8i+j passes the 16-byte aligned address
 * of row j of tile i (lanes past 8N pass anything valid); register i of lane l holds elements (g, 2t) and (g, 2t+1) of tile i, with trans
 * (2t, g) and (2t+1, g). */
PTX_FN void ldmatrix_x1(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(smem_addr(row)) : "memory");
}
PTX_FN void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_addr(row)) : "memory");
}
PTX_FN void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}
PTX_FN void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_addr(row)) : "memory");
}
PTX_FN void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}

/* mma m16n8k16 (sm_80): D += A B in float32 on the tensor cores. A (16x16, rows): registers 0 (row g, k 2t..2t+1), 1 (g+8, same k),
 * 2 (g, k 2t+8..), 3 (g+8, k 2t+8..). B (16x8, by columns): 0 (k 2t..2t+1, column g), 1 (k 2t+8.., column g). D (16x8): 0, 1 (row g,
 * columns 2t, 2t+1), 2, 3 (row g+8). Order and rounding of the sums are not specified. */
PTX_FN void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
PTX_FN void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* mma m16n8k32 (s8: sm_80, e4m3: sm_89): as above with four 8-bit values a register: A 0 (row g, k 4t..4t+3), 1 (g+8), 2 (g, k 4t+16..),
 * 3 (g+8, k 4t+16..); B 0 (k 4t..4t+3, column g), 1 (k 4t+16..). s8 sums are exact modulo 2^32. Of e4m3, sm_89 and sm_90 align what they
 * add to the largest of it and keep 13 bits below that one's first (DeepSeek-V3, arXiv 2412.19437, section 3.3.2; SageAttention2, arXiv
 * 2411.10958): whoever adds many k takes the sums out between. */
PTX_FN void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* A unsigned, B signed: activations with an offset. */
PTX_FN void mma_m16n8k32_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
PTX_FN void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    __trap(); /* has_mma_e4m3 says so */
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
/* Whether the machine code that runs has it: known when it is compiled, so that the other way costs nothing. */
PTX_FN bool has_mma_e4m3()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    return false;
#else
    return true;
#endif
}

/* cvt.rn.*x2.f32 (sm_80; e4m3: sm_89): two floats to one register in one instruction; lo in the low bits. */
PTX_FN uint32_t cvt_bf16x2(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
PTX_FN uint32_t cvt_f16x2(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
/* Saturates to +-448. Below sm_89 the toolkit's conversion does the same in a dozen instructions. */
PTX_FN uint16_t cvt_e4m3x2(float lo, float hi)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
#else
    uint16_t r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(hi), "f"(lo));
    return r;
#endif
}

/* lop3 (sm_50): any function of three bits, LUT = its value at a = 0xf0, b = 0xcc, c = 0xaa. The compiler misses fusions in
 * dequantization. */
template <int LUT> PTX_FN uint32_t lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(LUT));
    return r;
}
/* ex2.approx (2 ulp), tanh.approx (sm_75, error 2^-11) and rcp.approx (1 ulp): the fast forms without --use_fast_math for a whole file. */
PTX_FN float ex2_approx(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
PTX_FN float tanh_approx(float x)
{
    float r;
    asm("tanh.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
PTX_FN float rcp_approx(float x)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

/* bar.sync, bar.arrive (sm_70): a barrier of some of a block's warps, ids 1 to 15 (0 is __syncthreads); threads: a multiple of 32, counting
 * those that arrive without waiting. */
PTX_FN void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
PTX_FN void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

/* 16 bytes that are read once (weights): past L1, through the read-only path (sm_70). Never of what the same kernel writes. */
PTX_FN uint4 ld_global_nc_16(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
/* The cache line of p into L2 (sm_50): weights before a wait. p must be valid. */
PTX_FN void prefetch_global_L2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* Flags between blocks (sm_70). What was written before a release, also by other threads ahead of a barrier, is seen after the acquire that
 * reads it. All traffic between blocks of one launch goes through these. */
PTX_FN uint32_t ld_acquire_gpu(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
PTX_FN void st_release_gpu(uint32_t *p, uint32_t v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
PTX_FN void red_add_release_gpu(uint32_t *p, uint32_t v)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
PTX_FN uint32_t atom_add_acq_rel_gpu(uint32_t *p, uint32_t v)
{
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
    return old;
}

/* griddepcontrol (sm_90): the two halves of LAUNCH_PDL. wait: until the kernel before has ended and its writes are seen. launch_dependents:
 * the next kernel may start once every block has said so or ended. */
PTX_FN void griddepcontrol_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
PTX_FN void griddepcontrol_launch_dependents()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* A 16-byte access of the compiler's own (ld.v4, st.v4); the simulator checks the alignment that the cast promises. */
PTX_FN uint4 load16(const void *p) { return *static_cast<const uint4 *>(p); }
PTX_FN void store16(void *p, uint4 v) { *static_cast<uint4 *>(p) = v; }

#else
inline void cp_async16(void *dst, const void *src, SIM_AT) { sim::cp_async(dst, src, 16, 16, at); }
inline void cp_async8(void *dst, const void *src, SIM_AT) { sim::cp_async(dst, src, 8, 8, at); }
inline void cp_async4(void *dst, const void *src, SIM_AT) { sim::cp_async(dst, src, 4, 4, at); }
inline void cp_async16_zfill(void *dst, const void *src, int src_bytes, SIM_AT) { sim::cp_async(dst, src, 16, src_bytes, at); }
inline void cp_async4_zfill(void *dst, const void *src, int src_bytes, SIM_AT) { sim::cp_async(dst, src, 4, src_bytes, at); }
inline void cp_async_commit() { sim::cp_async_commit(); }
template <int N> inline void cp_async_wait() { sim::cp_async_wait(N); }
inline void cp_async_wait_all() { sim::cp_async_wait(-1); }

inline void ldmatrix_x1(uint32_t (&r)[1], const void *row, SIM_AT) { sim::ldmatrix(r, 1, row, false, at); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void *row, SIM_AT) { sim::ldmatrix(r, 2, row, false, at); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, SIM_AT) { sim::ldmatrix(r, 4, row, false, at); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, SIM_AT) { sim::ldmatrix(r, 2, row, true, at); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, SIM_AT) { sim::ldmatrix(r, 4, row, true, at); }

#define PTX_MMA(name, type, acc)                                                                                                           \
    inline void name(acc(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2], SIM_AT) { sim::mma(sim::mma_type::type, d, a, b, at); }
PTX_MMA(mma_m16n8k16_bf16, bf16, float)
PTX_MMA(mma_m16n8k16_f16, f16, float)
PTX_MMA(mma_m16n8k32_s8, s8, int32_t)
PTX_MMA(mma_m16n8k32_u8s8, u8s8, int32_t)
PTX_MMA(mma_m16n8k32_e4m3, e4m3, float)
#undef PTX_MMA
inline bool has_mma_e4m3() { return sim::compute_capability() >= 89; }

inline uint32_t cvt_bf16x2(float lo, float hi) { return sim::bf16_from_f32(lo) | uint32_t(sim::bf16_from_f32(hi)) << 16; }
inline uint32_t cvt_f16x2(float lo, float hi) { return sim::f16_from_f64(lo) | uint32_t(sim::f16_from_f64(hi)) << 16; }
inline uint16_t cvt_e4m3x2(float lo, float hi) { return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3); }
template <int LUT> inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r = 0;
    for (int i = 0; i < 8; ++i)
        if (LUT >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}
inline float ex2_approx(float x) { return ::exp2f(x); }
inline float tanh_approx(float x) { return ::tanhf(x); }
inline float rcp_approx(float x) { return 1.0f / x; }

inline void bar_sync(int id, int threads, SIM_AT) { sim::block_barrier(id, threads, sim::vote::none, 0, true, at); }
inline void bar_arrive(int id, int threads, SIM_AT) { sim::block_barrier(id, threads, sim::vote::none, 0, false, at); }

inline uint4 load16(const void *p, SIM_AT)
{
    sim::deny_misaligned(p, 16, at);
    return *static_cast<const uint4 *>(p);
}
inline void store16(void *p, uint4 v, SIM_AT)
{
    sim::deny_misaligned(p, 16, at);
    *static_cast<uint4 *>(p) = v;
}
inline uint4 ld_global_nc_16(const void *p, SIM_AT) { return load16(p, at); }
inline void prefetch_global_L2(const void *p) { (void)*static_cast<const volatile char *>(p); }

inline uint32_t ld_acquire_gpu(const uint32_t *p, SIM_AT)
{
    return sim::atomic_value(const_cast<uint32_t *>(p), sim::rmw::load, 0u, 0u, at, sim::order::acquire);
}
inline void st_release_gpu(uint32_t *p, uint32_t v, SIM_AT) { sim::atomic_value(p, sim::rmw::store, v, 0u, at, sim::order::release); }
inline void red_add_release_gpu(uint32_t *p, uint32_t v, SIM_AT) { sim::atomic_value(p, sim::rmw::add, v, 0u, at, sim::order::release); }
inline uint32_t atom_add_acq_rel_gpu(uint32_t *p, uint32_t v, SIM_AT)
{
    return sim::atomic_value(p, sim::rmw::add, v, 0u, at, sim::order::acq_rel);
}
inline void griddepcontrol_wait(SIM_AT) { sim::grid_dependency_sync(at); }
inline void griddepcontrol_launch_dependents() { sim::preempt_point(); }
#endif

/* The two floats of a register of bf16. */
__device__ __forceinline__ float bf16x2_lo(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float bf16x2_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

/* Four e4m3 numbers as fp16, each E4M3_UNIT of its value, which is exact: [0] the first and the third, [1] the second and the fourth. The
 * formats differ in where exponent and fraction lie and in the bias, subnormals included, so a shift is all; it would make 480 of a NaN. */
constexpr float E4M3_UNIT = 0x1p-8f;
__device__ __forceinline__ void e4m3_to_f16x2(uint32_t four, uint32_t (&two)[2])
{
    const uint32_t up = four << 8;
    two[0] = (up & 0x80008000u) | (up & 0x7f007f00u) >> 1;
    two[1] = (four & 0x80008000u) | (four & 0x7f007f00u) >> 1;
}
__device__ __forceinline__ void e4m3x4_to_f32(uint32_t four, float *f) /* likewise */
{
    uint32_t two[2];
    e4m3_to_f16x2(four, two);
#pragma unroll
    for (int i = 0; i < 4; i++) f[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(two[i % 2] >> i / 2 * 16)));
}

#endif
