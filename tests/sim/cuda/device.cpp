/* The runtime API but for streams and graphs: errors, the device's properties, memory. */
#include "internal.h"

#include <cstdio>
#include <cstdlib>

namespace sim {
namespace {
cudaError_t last_error = cudaSuccess, sticky = cudaSuccess;
int fail_in = 0, calls = 0;
cudaError_t fail_with = cudaSuccess;
long setting(const char *name, long otherwise)
{
    const char *v = std::getenv(name);
    return v && *v ? std::atol(v) : otherwise;
}
size_t total_bytes() { return size_t(setting("SIM_CUDA_MEMORY_MB", 4096)) << 20; }
} // namespace

void set_error(cudaError_t e)
{
    if (e != cudaSuccess) last_error = e;
}
void set_sticky(cudaError_t e)
{
    if (sticky == cudaSuccess) sticky = e;
    last_error = sticky;
}
void fail_call(int n, cudaError_t e) { fail_in = n, fail_with = e, calls = 0; }
int fallible_calls() { return calls; }

/* What a call finds before it does anything: an earlier kernel's fault, or a failure to order. */
cudaError_t enter_call()
{
    ++calls;
    if (sticky != cudaSuccess) return last_error = sticky;
    if (fail_in && calls == fail_in) return last_error = fail_with;
    return cudaSuccess;
}
cudaError_t leave_call(cudaError_t e)
{
    set_error(e);
    return e;
}

cudaError_t malloc_device(void **p, size_t n)
{
    cudaError_t e = enter_call();
    *p = nullptr;
    if (e != cudaSuccess || n == 0) return e;
    if (device_bytes() + n > total_bytes()) return leave_call(cudaErrorMemoryAllocation);
    return leave_call(allocate_device(p, n));
}
cudaError_t malloc_host(void **p, size_t n)
{
    cudaError_t e = enter_call();
    *p = nullptr;
    if (e != cudaSuccess || n == 0) return e;
    return leave_call(allocate_pinned(p, n));
}
cudaError_t set_function_attribute(const void *function, cudaFuncAttribute a, int v)
{
    cudaError_t e = enter_call();
    if (e != cudaSuccess) return e;
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return leave_call(allow_smem(function, v) ? cudaSuccess : cudaErrorInvalidValue);
}

bool valid(const launch_config &c)
{
    const uint64_t t = uint64_t(c.block.x) * c.block.y * c.block.z;
    return t >= 1 && t <= 1024 && c.block.z <= 64 && c.grid.x && c.grid.x <= 0x7fffffff && c.grid.y && c.grid.z && c.grid.y <= 65535 &&
           c.grid.z <= 65535 && c.smem <= smem_limit(c.function);
}
cudaError_t launch(const launch_config &c, cudaStream_t, std::shared_ptr<const kernel_call> call)
{
    cudaError_t e = enter_call();
    if (e != cudaSuccess) return e;
    if (!valid(c)) return leave_call(cudaErrorInvalidConfiguration);
    static serials previous;
    run_grid(c, *call, &previous);
    return cudaSuccess;
}
void reset()
{
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
const char *cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
const char *cudaGetErrorName(cudaError_t e) { return e == cudaSuccess ? "cudaSuccess" : "cudaError"; }
cudaError_t cudaFree(void *p) { return p ? leave_call(free_device(p)) : cudaSuccess; }
cudaError_t cudaFreeHost(void *p) { return p ? leave_call(free_pinned(p)) : cudaSuccess; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t)
{
    cudaError_t e = enter_call();
    if (e != cudaSuccess) return e;
    const bool to_device = k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice;
    const bool from_device = k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice;
    if (n == 0) return cudaSuccess;
    if (k != cudaMemcpyDefault && (to_device != device_range(to, n) || from_device != device_range(from, n))) return leave_call(cudaErrorInvalidValue);
    open_device_memory(true);
    std::memmove(to, from, n);
    open_device_memory(false);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind k) { return cudaMemcpyAsync(to, from, n, k, nullptr); }
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t)
{
    cudaError_t e = enter_call();
    if (e != cudaSuccess || n == 0) return e;
    if (!device_range(p, n)) return leave_call(cudaErrorInvalidValue);
    open_device_memory(true);
    std::memset(p, v, n);
    open_device_memory(false);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int v, size_t n) { return cudaMemsetAsync(p, v, n, nullptr); }
cudaError_t cudaDeviceSynchronize() { return enter_call(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return enter_call(); }
