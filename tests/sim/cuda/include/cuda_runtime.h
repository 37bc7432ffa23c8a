/* Stands in for the toolkit's header of this name where tests run .cu files on the CPU: the language and device functions (sim_language.h,
 * sim_device.h) and the part of the runtime API that Spillway uses, with the real names, values and error behaviour.
 *
 * Work on streams is queued and may run late, in any order that stream order and events allow (seed 0: at once). Memory is filled with NaN
 * patterns, fenced by guard pages and out of the host's reach between calls. A faulting kernel leaves a sticky error.
 * See docs/kernels.md. */
#pragma once
#include <functional>
#include <memory>

#include "sim_device.h"

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidSymbol = 13,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchTimeout = 702,
    cudaErrorCooperativeLaunchTooLarge = 720,
    cudaErrorMisalignedAddress = 716,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorStreamCaptureImplicit = 906,
    cudaErrorCapturedEvent = 907,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrCooperativeLaunch = 95,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerMultiprocessor, sharedMemPerBlockOptin;
    int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsPerMultiProcessor, major, minor, multiProcessorCount;
    int memoryBusWidth, l2CacheSize, integrated, concurrentKernels, asyncEngineCount, cooperativeLaunch, pciBusID, pciDeviceID, pciDomainID;
};
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA, maxDynamicSharedSizeBytes;
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated };

struct sim_stream;
struct sim_event;
struct sim_graph;
struct sim_graph_exec;
using cudaStream_t = sim_stream *;
using cudaEvent_t = sim_event *;
using cudaGraph_t = sim_graph *;
using cudaGraphExec_t = sim_graph_exec *;
using cudaHostFn_t = void (*)(void *);
#define cudaStreamLegacy (reinterpret_cast<cudaStream_t>(1))
constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;
constexpr unsigned cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2, cudaHostAllocWriteCombined = 4;
constexpr unsigned cudaHostRegisterDefault = 0, cudaHostRegisterReadOnly = 8;

enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
    int cooperative, programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *out, int n, int device);
cudaError_t cudaDeviceReset();
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int device);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

cudaError_t cudaFree(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t n, unsigned flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind k);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t s = nullptr);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind k,
                              cudaStream_t s = nullptr);
cudaError_t cudaMemset(void *p, int v, size_t n);
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *arg);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags = 0);
cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);

namespace sim {

/* A kernel with its arguments, copied at the launch as the driver does; run() is called once a thread. */
struct kernel_call {
    virtual ~kernel_call() = default;
    virtual void run() const = 0;
    const void *arguments = nullptr;
    size_t argument_bytes = 0;
};

template <class... P> struct kernel_call_of final : kernel_call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
    template <class... A> kernel_call_of(void (*k)(P...), A &&...a) : kernel(k), args(std::forward<A>(a)...)
    {
        arguments = this;
        argument_bytes = sizeof *this;
    }
    void run() const override { std::apply(kernel, args); }
};

struct launch_config {
    const char *name = "";
    const void *function = nullptr;
    dim3 grid, block;
    size_t smem = 0;
    bool cooperative = false, programmatic = false;
};
cudaError_t launch(const launch_config &c, cudaStream_t s, std::shared_ptr<const kernel_call> call);

template <class... P, class... A>
cudaError_t launch_kernel(const char *name, void (*k)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A &&...a)
{
    launch_config c{name, reinterpret_cast<const void *>(k), grid, block, smem, false, false};
    return launch(c, s, std::make_shared<kernel_call_of<P...>>(k, std::forward<A>(a)...));
}

cudaError_t malloc_device(void **p, size_t n);
cudaError_t malloc_host(void **p, size_t n);
cudaError_t set_function_attribute(const void *function, cudaFuncAttribute a, int v);
cudaError_t get_function_attributes(cudaFuncAttributes *out, const void *function);
cudaError_t occupancy(int *blocks, const void *function, int threads, size_t smem);

/* Work that waits for what is not of this device (another rank of a collective): run() comes in its turn, once gate() is true. */
cudaError_t gated_work(cudaStream_t s, std::function<bool()> gate, std::function<void()> run);

/* Failures to order. The n-th call from now on that can fail does so with e, once (n = 0: none); fallible calls are counted since then. */
void fail_call(int n, cudaError_t e);
int fallible_calls();
/* Everything as after the start of the process: errors cleared, streams empty, memory freed. */
void reset();
/* Bytes of device memory that are allocated now; allocations. */
size_t device_bytes();
int device_allocations();

} // namespace sim

template <class T> cudaError_t cudaMalloc(T **p, size_t n) { return sim::malloc_device(reinterpret_cast<void **>(p), n); }
template <class T> cudaError_t cudaMallocHost(T **p, size_t n) { return sim::malloc_host(reinterpret_cast<void **>(p), n); }
template <class T> cudaError_t cudaHostAlloc(T **p, size_t n, unsigned) { return sim::malloc_host(reinterpret_cast<void **>(p), n); }
template <class F> cudaError_t cudaFuncSetAttribute(F *f, cudaFuncAttribute a, int v)
{
    return sim::set_function_attribute(reinterpret_cast<const void *>(f), a, v);
}
template <class F> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, F *f)
{
    return sim::get_function_attributes(out, reinterpret_cast<const void *>(f));
}
template <class F> cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, F *f, int threads, size_t smem)
{
    return sim::occupancy(blocks, reinterpret_cast<const void *>(f), threads, smem);
}
template <class T> cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t n)
{
    if (n > sizeof symbol) return cudaErrorInvalidValue;
    std::memcpy(static_cast<void *>(&symbol), from, n);
    return cudaSuccess;
}

template <class... P, class... A> cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*k)(P...), A &&...a)
{
    sim::launch_config c{"kernel", reinterpret_cast<const void *>(k), config->gridDim, config->blockDim, config->dynamicSmemBytes, false,
                         false};
    for (unsigned i = 0; i < config->numAttrs; ++i) {
        const cudaLaunchAttribute &at = config->attrs[i];
        if (at.id == cudaLaunchAttributeCooperative) c.cooperative = at.val.cooperative;
        if (at.id == cudaLaunchAttributeProgrammaticStreamSerialization) c.programmatic = at.val.programmaticStreamSerializationAllowed;
    }
    return sim::launch(c, config->stream, std::make_shared<sim::kernel_call_of<P...>>(k, std::forward<A>(a)...));
}
