/* The runtime API but for streams and graphs: errors, the device's properties, memory. The device is that of the environment:
 * SIM_CUDA_DEVICES (1), SIM_CUDA_SMS (132), SIM_CUDA_CC (90), SIM_CUDA_MEMORY_MB (4096), SIM_CUDA_DRIVER (13000), read at each call so that a test can
 * change it. Several devices share one memory, but a kernel runs only on a stream of the device that its thread has set.
 *
 * Errors as in the real runtime: a call's own error is remembered until cudaGetLastError(); a kernel's fault stays, and every later call
 * returns it. A test orders failures with sim::fail_call(), or from outside of the process with SIM_CUDA_FAIL=CALL:N:ERROR: the N-th call of that
 * name returns that error, for good if it is one that stays (cudaErrorIllegalAddress and its like); "hang" in place of the error never returns.
 * SIM_CUDA_FAIL=@FILE: the same is read from that file whenever it is there; whichever process reads it removes it, and counts from then on. */
#include "internal.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace sim {
namespace {

cudaError_t last_error = cudaSuccess, sticky = cudaSuccess;
int fail_in = 0, calls = 0;
cudaError_t fail_with = cudaSuccess;
thread_local int device_of_thread = 0;

long setting(const char *name, long otherwise)
{
    const char *v = std::getenv(name);
    return v && *v ? std::atol(v) : otherwise;
}
size_t total_bytes() { return size_t(setting("SIM_CUDA_MEMORY_MB", 4096)) << 20; }
long devices() { return setting("SIM_CUDA_DEVICES", 1); }
long driver() { return setting("SIM_CUDA_DRIVER", 13000); }
int multiprocessors() { return int(setting("SIM_CUDA_SMS", 132)); }
constexpr size_t shared_a_multiprocessor = 228 << 10, shared_a_block = 227 << 10, shared_reserved = 1 << 10;
constexpr int threads_a_multiprocessor = 2048, blocks_a_multiprocessor = 32;

int blocks_at_once(int threads, size_t smem)
{
    const int by_threads = threads_a_multiprocessor / std::max((threads + 31) / 32 * 32, 32);
    return std::min({by_threads, int(shared_a_multiprocessor / (smem + shared_reserved)), blocks_a_multiprocessor});
}

cudaError_t error_named(const char *name);

struct outside_order { /* SIM_CUDA_FAIL */
    char call[64], error[64];
    int n;
};
outside_order order = {};
bool order_read = false;

void read_order(const char *text)
{
    order = {};
    if (std::sscanf(text, "%63[^:]:%d:%63s", order.call, &order.n, order.error) == 3 && order.n > 0) return;
    std::fprintf(stderr, "SIM_CUDA_FAIL: '%s' is not CALL:N:ERROR\n", text);
    std::abort();
}

/* The file is taken by renaming it, so that one process alone has it. */
void take_order(const char *path)
{
    char mine[4096], text[256] = "";
    std::snprintf(mine, sizeof mine, "%s.%d", path, int(getpid()));
    if (std::rename(path, mine)) return;
    std::FILE *f = std::fopen(mine, "r");
    if (f && std::fgets(text, sizeof text, f)) read_order(text);
    if (f) std::fclose(f);
    std::remove(mine);
}

cudaError_t ordered_by_environment(const char *name)
{
    const char *v = std::getenv("SIM_CUDA_FAIL");
    if (!v || !*v) return cudaSuccess;
    if (*v == '@') take_order(v + 1);
    else if (!order_read) read_order(v);
    order_read = true;
    if (order.n == 0 || std::strcmp(name, order.call) || --order.n > 0) return cudaSuccess;
    if (!std::strcmp(order.error, "hang"))
        for (;;) pause();
    const cudaError_t e = error_named(order.error);
    const bool stays = e == cudaErrorIllegalAddress || e == cudaErrorMisalignedAddress || e == cudaErrorLaunchFailure || e == cudaErrorLaunchTimeout ||
                       e == cudaErrorUnknown;
    if (stays) set_sticky(e);
    return e;
}

} // namespace

int compute_capability() { return int(setting("SIM_CUDA_CC", 90)); }

cudaError_t sticky_error() { return sticky; }
void set_sticky(cudaError_t e)
{
    if (sticky == cudaSuccess) sticky = e;
    last_error = sticky;
}
void fail_call(int n, cudaError_t e) { fail_in = n, fail_with = e, calls = 0; }
int fallible_calls() { return calls; }

int device_now() { return device_of_thread; }

cudaError_t enter_call(const char *name)
{
    ++calls;
    if (sticky != cudaSuccess) return last_error = sticky;
    if (driver() < 13000) return last_error = cudaErrorInsufficientDriver;
    const cudaError_t from_outside = ordered_by_environment(name);
    if (from_outside != cudaSuccess) return last_error = from_outside;
    if (devices() < 1) return last_error = cudaErrorNoDevice;
    if (fail_in && calls == fail_in) return last_error = fail_with;
    return cudaSuccess;
}
cudaError_t leave_call(cudaError_t e)
{
    if (e != cudaSuccess) last_error = e;
    return e;
}

size_t cooperative_blocks(const launch_config &c)
{
    return size_t(blocks_at_once(int(c.block.x * c.block.y * c.block.z), c.smem)) * size_t(multiprocessors());
}

cudaError_t malloc_device(void **p, size_t n)
{
    *p = nullptr;
    API_CALL_AS("cudaMalloc");
    const cudaError_t e = wait_allowed();
    if (e != cudaSuccess || n == 0) return leave_call(e);
    if (n > total_bytes() || device_bytes() > total_bytes() - n) return leave_call(cudaErrorMemoryAllocation);
    return leave_call(allocate_device(p, n));
}
cudaError_t malloc_host(void **p, size_t n)
{
    *p = nullptr;
    API_CALL_AS("cudaMallocHost");
    const cudaError_t e = wait_allowed();
    if (e != cudaSuccess || n == 0) return leave_call(e);
    return leave_call(allocate_pinned(p, n));
}
cudaError_t set_function_attribute(const void *function, cudaFuncAttribute a, int v)
{
    API_CALL();
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return leave_call(allow_smem(function, v) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t get_function_attributes(cudaFuncAttributes *out, const void *function)
{
    API_CALL();
    *out = {};
    out->maxThreadsPerBlock = max_threads;
    out->ptxVersion = out->binaryVersion = compute_capability();
    out->maxDynamicSharedSizeBytes = int(smem_limit(function));
    return cudaSuccess;
}
cudaError_t occupancy(int *blocks, const void *function, int threads, size_t smem)
{
    API_CALL();
    *blocks = smem > smem_limit(function) ? 0 : blocks_at_once(threads, smem);
    return cudaSuccess;
}

void reset()
{
    recursive_lock lock;
    drop_streams();
    free_all_memory();
    last_error = sticky = cudaSuccess;
    fail_call(0, cudaSuccess);
}

} // namespace sim

using namespace sim;

cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError()
{
    const cudaError_t e = last_error;
    last_error = sticky;
    return e;
}

namespace {
struct error_text {
    cudaError_t e;
    const char *name, *text;
};
#define E(name, text) {name, #name, text}
const error_text error_texts[] = {
    E(cudaSuccess, "no error"),
    E(cudaErrorInvalidValue, "invalid argument"),
    E(cudaErrorMemoryAllocation, "out of memory"),
    E(cudaErrorInitializationError, "initialization error"),
    E(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    E(cudaErrorInvalidSymbol, "invalid device symbol"),
    E(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    E(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    E(cudaErrorInvalidDeviceFunction, "invalid device function"),
    E(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    E(cudaErrorInvalidDevice, "invalid device ordinal"),
    E(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    E(cudaErrorNotReady, "device not ready"),
    E(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    E(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    E(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    E(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    E(cudaErrorMisalignedAddress, "misaligned address"),
    E(cudaErrorLaunchFailure, "unspecified launch failure"),
    E(cudaErrorNotSupported, "operation not supported"),
    E(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    E(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    E(cudaErrorStreamCaptureUnmatched, "stream capture was not initiated in this stream"),
    E(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    E(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    E(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"),
    E(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    E(cudaErrorUnknown, "unknown error"),
};
#undef E
const error_text &text_of(cudaError_t e)
{
    for (const error_text &t : error_texts)
        if (t.e == e) return t;
    return error_texts[sizeof error_texts / sizeof *error_texts - 1];
}
} // namespace
namespace sim {
namespace {
cudaError_t error_named(const char *name)
{
    for (const error_text &t : error_texts)
        if (!std::strcmp(t.name, name)) return t.e;
    std::fprintf(stderr, "SIM_CUDA_FAIL: there is no error '%s' here\n", name);
    std::abort();
}
} // namespace
} // namespace sim
const char *cudaGetErrorString(cudaError_t e) { return text_of(e).text; }
const char *cudaGetErrorName(cudaError_t e) { return text_of(e).name; }

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    API_CALL();
    *n = int(devices());
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    API_CALL();
    if (device < 0 || device >= devices()) return leave_call(cudaErrorInvalidDevice);
    device_of_thread = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device)
{
    API_CALL();
    *device = device_of_thread;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *out, int n, int device)
{
    API_CALL();
    if (n < 13 || device < 0 || device >= devices()) return leave_call(cudaErrorInvalidValue);
    std::snprintf(out, size_t(n), "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}
cudaError_t cudaDeviceReset()
{
    reset();
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize()
{
    API_CALL();
    return leave_call(wait_all());
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    API_CALL();
    if (device < 0 || device >= devices()) return leave_call(cudaErrorInvalidDevice);
    const int cc = compute_capability();
    *p = {};
    std::snprintf(p->name, sizeof p->name, "Simulated GPU");
    p->totalGlobalMem = total_bytes();
    p->sharedMemPerBlock = 48 << 10, p->sharedMemPerMultiprocessor = shared_a_multiprocessor, p->sharedMemPerBlockOptin = shared_a_block;
    p->regsPerBlock = 65536, p->warpSize = 32, p->maxThreadsPerBlock = max_threads,
    p->maxThreadsPerMultiProcessor = threads_a_multiprocessor;
    p->major = cc / 10, p->minor = cc % 10, p->multiProcessorCount = multiprocessors();
    p->memoryBusWidth = 5120, p->l2CacheSize = 50 << 20, p->concurrentKernels = 1, p->asyncEngineCount = 2, p->cooperativeLaunch = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int device)
{
    cudaDeviceProp p;
    const cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess) return e;
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: *v = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = int(p.sharedMemPerBlock); break;
    case cudaDevAttrWarpSize: *v = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *v = p.multiProcessorCount; break;
    case cudaDevAttrL2CacheSize: *v = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *v = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *v = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = int(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrCooperativeLaunch: *v = p.cooperativeLaunch; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = int(p.sharedMemPerBlockOptin); break;
    default: return leave_call(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v)
{
    *v = int(driver());
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = 13000;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    API_CALL();
    *total = total_bytes();
    *free_bytes = *total - std::min(*total, device_bytes());
    return cudaSuccess;
}

/* Frees wait for the device. They free even after a fault, so that a test can count what is left. */
cudaError_t cudaFree(void *p)
{
    recursive_lock lock;
    if (!p) return sticky;
    const cudaError_t e = wait_all();
    const cudaError_t freed = free_device(p);
    return leave_call(e != cudaSuccess ? e : freed);
}
cudaError_t cudaFreeHost(void *p)
{
    recursive_lock lock;
    if (!p) return sticky;
    const cudaError_t e = wait_all();
    const cudaError_t freed = free_pinned(p);
    return leave_call(e != cudaSuccess ? e : freed);
}
cudaError_t cudaHostRegister(void *p, size_t n, unsigned)
{
    API_CALL();
    return leave_call(n && register_pinned(p, n) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostUnregister(void *p)
{
    recursive_lock lock;
    (void)wait_all();
    return leave_call(unregister_pinned(p) ? cudaSuccess : cudaErrorInvalidValue);
}
