/* What every .cu file includes first: the CUDA headers and the few macros in which nvcc and the CPU simulator (tests/sim/cuda) differ.
 *
 * The same sources are compiled by nvcc for a device and by g++ or clang++ for the simulator, whose folder of headers then stands in for
 * the toolkit's. So a kernel takes shared memory with SHARED_ARRAY or DYN_SHARED, is launched with LAUNCH or LAUNCH_PDL and reaches
 * instructions through ptx.cuh only. How to write for both: docs/kernels.md. */
#ifndef SPILLWAY_KERNELS_CUDA_PORT_H
#define SPILLWAY_KERNELS_CUDA_PORT_H

#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

/* LAUNCH(kernel, grid, block, dynamic shared bytes, stream, arguments...); a template with several arguments goes in parentheses:
 * LAUNCH((gemm<128, 64>), ...). Errors: cudaGetLastError(), as after <<<>>>. */
#ifdef __CUDACC__
#define LAUNCH(kernel, grid, block, smem, stream, ...) kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)

/* The block's dynamic shared memory, 128-byte aligned, as T *name. */
#define DYN_SHARED(T, name)                                                                                                                \
    extern __shared__ __align__(128) unsigned char dyn_shared_[];                                                                          \
    T *const name = reinterpret_cast<T *>(dyn_shared_)
/* A static shared array T name[n], 16-byte aligned. */
#define SHARED_ARRAY(T, name, n) __shared__ __align__(16) T name[n]
#else
#define LAUNCH(kernel, grid, block, smem, stream, ...)                                                                                     \
    static_cast<void>(sim::launch_kernel(#kernel, kernel, (grid), (block), (smem), (stream), __VA_ARGS__))

#define DYN_SHARED(T, name) T *const name = static_cast<T *>(sim::dyn_shared())
/* The static char is only an address that names the array. */
#define SHARED_ARRAY(T, name, n)                                                                                                           \
    static const char name##_key_ = 0;                                                                                                     \
    T(&name)[n] = *static_cast<T(*)[n]>(sim::static_shared(&name##_key_, sizeof(T[n]), 16))
#endif

/* As LAUNCH, by programmatic dependent launch (devices from sm_90 on only): the kernel may start while the one before it in the stream
 * still runs, and must call griddepcontrol_wait() (ptx.cuh) before it touches what that one reads or writes. */
template <class... P, class... A>
static inline void launch_pdl(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A &&...a)
{
    cudaLaunchAttribute attr;
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = &attr;
    config.numAttrs = 1;
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<A &&>(a)...); /* kept for cudaGetLastError() */
}
#define LAUNCH_PDL(kernel, grid, block, smem, stream, ...) launch_pdl(kernel, (grid), (block), (smem), (stream), __VA_ARGS__)
/* Either, by whether the device can. */
#define LAUNCH_EARLY(early, kernel, grid, block, smem, stream, ...)                                                                         \
    do {                                                                                                                                    \
        if (early)                                                                                                                          \
            LAUNCH_PDL(kernel, grid, block, smem, stream, __VA_ARGS__);                                                                     \
        else                                                                                                                                \
            LAUNCH(kernel, grid, block, smem, stream, __VA_ARGS__);                                                                         \
    } while (0)

#endif
