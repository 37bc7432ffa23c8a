/* The runtime API as a backend sees it: order of streams, events and graphs under late work, pinned memory, errors that pass and errors
 * that stay, failures to order, limits. */
#include "tests/sim/cuda/samples/probes.h"
#include "tests/sim/cuda/test_child.h"
#include "tests/sim/cuda/test_harness.h"

namespace {

#define WANT(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (!(x)) return std::string(#x) + " does not hold, line " + std::to_string(__LINE__) + " " + sim::last_report();                  \
    } while (0)
#define OK(call) WANT((call) == cudaSuccess)

/* A number on the device, and what it is once everything has run. */
struct cell {
    int *p = nullptr;
    cell() { cudaMalloc(&p, 4), cudaMemset(p, 0, 4); }
    ~cell() { cudaFree(p); }
    cell(const cell &) = delete;
    int value()
    {
        int v = -1;
        cudaMemcpy(&v, p, 4, cudaMemcpyDeviceToHost);
        return v;
    }
};

/* x -> 3x + v, in stream order: ((0*3+1)*3+2)*3+3 = 18. */
std::string test_stream_order()
{
    cell c;
    cudaStream_t s;
    OK(cudaStreamCreate(&s));
    for (int v = 1; v <= 3; ++v) probe_add(c.p, v, s);
    OK(cudaGetLastError());
    OK(cudaStreamSynchronize(s));
    OK(cudaStreamQuery(s));
    WANT(c.value() == 18);
    OK(cudaStreamDestroy(s));
    return "";
}

/* Without an event two streams may run in either order, and over some seeds both happen; with one they may not. */
std::string test_events_order_streams()
{
    bool seen[2] = {};
    for (uint64_t seed = 1; seed < 40; ++seed) {
        for (int with_event = 0; with_event < 2; ++with_event) {
            sim::set_seed(seed);
            cell c;
            cudaStream_t a, b;
            cudaEvent_t e;
            OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
            OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
            OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
            OK(cudaDeviceSynchronize());
            probe_add(c.p, 1, a);
            OK(cudaEventRecord(e, a));
            if (with_event) OK(cudaStreamWaitEvent(b, e, 0));
            probe_add(c.p, 2, b);
            OK(cudaDeviceSynchronize());
            OK(cudaEventQuery(e));
            const int v = c.value(); /* 5: a before b; 7: b before a */
            WANT(v == 5 || (v == 7 && !with_event));
            if (!with_event) seen[v == 7] = true;
            OK(cudaEventDestroy(e));
            OK(cudaStreamDestroy(a));
            OK(cudaStreamDestroy(b));
        }
    }
    WANT(seen[0] && seen[1]);
    return "";
}

std::string test_legacy_stream_waits_for_blocking_ones()
{
    cell c;
    cudaStream_t a, b;
    OK(cudaStreamCreate(&a));
    OK(cudaStreamCreate(&b));
    probe_add(c.p, 1, a);
    probe_add(c.p, 2, nullptr);
    probe_add(c.p, 3, b);
    OK(cudaDeviceSynchronize());
    WANT(c.value() == 18);
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
    return "";
}

/* A pinned source is read late, a pageable one at once; a pinned destination is not to be read before the wait. */
std::string test_pinned_memory_is_asynchronous()
{
    bool late = false, early = false;
    for (uint64_t seed = 1; seed < 30; ++seed) {
        sim::set_seed(seed);
        cell c;
        int *pinned, pageable = 5;
        cudaStream_t s;
        OK(cudaMallocHost(&pinned, 8));
        OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        OK(cudaDeviceSynchronize());
        pinned[0] = 5;
        OK(cudaMemcpyAsync(c.p, pinned, 4, cudaMemcpyHostToDevice, s));
        pinned[0] = 6; /* too soon */
        OK(cudaStreamSynchronize(s));
        late = late || c.value() == 6;
        OK(cudaMemcpyAsync(c.p, &pageable, 4, cudaMemcpyHostToDevice, s));
        pageable = 6;
        OK(cudaStreamSynchronize(s));
        WANT(c.value() == 5);
        OK(cudaMemcpyAsync(pinned + 1, c.p, 4, cudaMemcpyDeviceToHost, s));
        early = early || pinned[1] != 5;
        OK(cudaStreamSynchronize(s));
        WANT(pinned[1] == 5);
        OK(cudaFreeHost(pinned));
        OK(cudaStreamDestroy(s));
    }
    WANT(late && early);
    return "";
}

/* Two branches of one graph: (0*3+1)*3+4 on one cell, a copy and a fill on others, joined. Launched twice. */
std::string test_graph()
{
    cell c, d;
    cudaStream_t s, t;
    cudaEvent_t fork, join;
    cudaGraph_t g;
    cudaGraphExec_t x;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&t, cudaStreamNonBlocking));
    OK(cudaEventCreate(&fork));
    OK(cudaEventCreate(&join));
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    probe_add(c.p, 1, s);
    OK(cudaEventRecord(fork, s));
    OK(cudaStreamWaitEvent(t, fork, 0));
    OK(cudaMemsetAsync(d.p, 0, 4, t));
    probe_add(d.p, 7, t);
    OK(cudaEventRecord(join, t));
    probe_add(c.p, 4, s);
    OK(cudaStreamWaitEvent(s, join, 0));
    OK(cudaMemcpyAsync(d.p, c.p, 4, cudaMemcpyDeviceToDevice, s));
    cudaStreamCaptureStatus status;
    OK(cudaStreamIsCapturing(s, &status));
    WANT(status == cudaStreamCaptureStatusActive);
    OK(cudaStreamEndCapture(s, &g));
    OK(cudaGraphInstantiate(&x, g, 0));
    OK(cudaGraphDestroy(g));
    WANT(c.value() == 0); /* nothing has run */
    OK(cudaGraphLaunch(x, s));
    OK(cudaStreamSynchronize(s));
    WANT(c.value() == 7 && d.value() == 7);
    OK(cudaGraphLaunch(x, s));
    OK(cudaStreamSynchronize(s));
    WANT(c.value() == (7 * 3 + 1) * 3 + 4 && d.value() == c.value());
    OK(cudaGraphExecDestroy(x));
    OK(cudaEventDestroy(fork));
    OK(cudaEventDestroy(join));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(t));
    return "";
}

std::string test_capture_errors()
{
    cell c;
    cudaStream_t s, t;
    cudaEvent_t fork;
    cudaGraph_t g;
    int *p;
    OK(cudaStreamCreate(&s));
    OK(cudaStreamCreate(&t));
    OK(cudaEventCreate(&fork));
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    WANT(cudaStreamSynchronize(s) == cudaErrorStreamCaptureUnsupported);
    WANT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated && !g);
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    WANT(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
    WANT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    WANT(cudaMemsetAsync(c.p, 0, 4, nullptr) == cudaErrorStreamCaptureImplicit);
    WANT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    probe_add(c.p, 1, s);
    OK(cudaEventRecord(fork, s));
    OK(cudaStreamWaitEvent(t, fork, 0));
    probe_add(c.p, 2, t); /* and never joined */
    WANT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureUnjoined);
    (void)cudaGetLastError();
    OK(cudaGetLastError());
    OK(cudaEventDestroy(fork));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(t));
    return "";
}

std::string test_errors_that_pass()
{
    cell c;
    probe_shared_bytes(c.p, 60 << 10, nullptr);
    WANT(cudaPeekAtLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
    OK(cudaGetLastError());
    WANT(probe_shared_limit(228 << 10) == cudaErrorInvalidValue);
    (void)cudaGetLastError();
    OK(probe_shared_limit(227 << 10));
    probe_shared_bytes(c.p, 227 << 10, nullptr);
    OK(cudaGetLastError());
    WANT(c.value() == 7);
    char host[16] = {};
    WANT(cudaMemcpy(c.p, host, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue); /* longer than the allocation */
    WANT(cudaMemcpy(host, host, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    WANT(cudaFree(c.p + 1) == cudaErrorInvalidValue);
    (void)cudaGetLastError();
    OK(cudaDeviceSynchronize());
    return "";
}

std::string test_errors_that_stay()
{
    device_array<float> x(64);
    probe_fault_kernel(FAULT_TRAP, x.p, 64);
    WANT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    WANT(cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure);
    int *p;
    WANT(cudaMalloc(&p, 4) == cudaErrorLaunchFailure && !p);
    OK(cudaDeviceReset());
    OK(cudaMalloc(&p, 4));
    OK(cudaFree(p));
    x.p = nullptr;
    return "";
}

/* Each call of a small program fails in turn: the error comes back, nothing is left allocated. */
cudaError_t small_program()
{
    int *d = nullptr, *h = nullptr;
    cudaStream_t s = nullptr;
    cudaError_t e = cudaMalloc(&d, 64);
    if (e == cudaSuccess) e = cudaMallocHost(&h, 64);
    if (e == cudaSuccess) e = cudaStreamCreate(&s);
    if (e == cudaSuccess) e = cudaMemsetAsync(d, 0, 64, s);
    if (e == cudaSuccess) probe_add(d, 1, s), e = cudaGetLastError();
    if (e == cudaSuccess) e = cudaMemcpyAsync(h, d, 64, cudaMemcpyDeviceToHost, s);
    if (e == cudaSuccess) e = cudaStreamSynchronize(s);
    if (e == cudaSuccess && h[0] != 1) e = cudaErrorUnknown;
    if (s) (void)cudaStreamDestroy(s);
    (void)cudaFreeHost(h);
    (void)cudaFree(d);
    (void)cudaGetLastError();
    return e;
}

std::string test_every_call_fails_in_turn()
{
    sim::fail_call(0, cudaSuccess);
    OK(small_program());
    const int calls = sim::fallible_calls();
    WANT(calls == 7);
    for (int n = 1; n <= calls; ++n) {
        sim::fail_call(n, cudaErrorMemoryAllocation);
        WANT(small_program() == cudaErrorMemoryAllocation);
        WANT(sim::device_allocations() == 0);
    }
    return "";
}

std::string test_device_of_the_environment()
{
    setenv("SIM_CUDA_SMS", "7", 1), setenv("SIM_CUDA_MEMORY_MB", "2", 1), setenv("SIM_CUDA_CC", "80", 1);
    cudaDeviceProp p;
    size_t free_bytes, total;
    int *a = nullptr, *b = nullptr, blocks, n;
    const bool right = cudaGetDeviceProperties(&p, 0) == cudaSuccess && p.multiProcessorCount == 7 && p.major == 8 && p.minor == 0 &&
                       cudaMalloc(&a, 1 << 20) == cudaSuccess && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess && total == 2 << 20 &&
                       free_bytes == 1 << 20 && cudaMalloc(&b, (1 << 20) + 1) == cudaErrorMemoryAllocation && !b;
    setenv("SIM_CUDA_DEVICES", "0", 1);
    const bool none = cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0;
    for (const char *v : {"SIM_CUDA_SMS", "SIM_CUDA_MEMORY_MB", "SIM_CUDA_CC", "SIM_CUDA_DEVICES"}) unsetenv(v);
    (void)cudaGetLastError();
    WANT(right);
    WANT(none);
    OK(cudaFree(a));
    OK(cudaDeviceGetAttribute(&n, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    WANT(n == 227 << 10);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, probe_add, 512, 40 << 10));
    WANT(blocks == 4);
    return "";
}

/* What the host may not do: touch device memory, or use it after it was freed. */
std::string test_device_memory_is_closed_to_the_host()
{
    const std::string read = output_of_child([] {
        int *p;
        cudaMalloc(&p, 64);
        return std::to_string(*static_cast<volatile int *>(p));
    });
    WANT(has_one_of(read, "host access|AddressSanitizer"));
    const std::string freed = output_of_child([] {
        cell c;
        int *p;
        cudaMalloc(&p, 64);
        cudaFree(p);
        probe_add(p, 1, nullptr);
        cudaDeviceSynchronize();
        return sim::last_report();
    });
    WANT(has_one_of(freed, "of a freed device allocation|AddressSanitizer"));
    return "";
}

std::string test_fresh_memory_is_poisoned()
{
    device_array<float> x(100);
    for (float v : x.host()) WANT(std::isnan(v));
    return "";
}

std::string numbers(std::initializer_list<int> list)
{
    std::string s;
    for (int n : list) s += (s.empty() ? "" : " ") + std::to_string(n);
    return s;
}

/* Failures that come from outside of the process: by the name of a call, and how they stay. */
std::string test_failures_of_the_environment()
{
    const std::string passes = output_of_child([] {
        setenv("SIM_CUDA_FAIL", "cudaMemset:2:cudaErrorInvalidValue", 1);
        cell c; /* the first */
        return numbers({cudaMemset(c.p, 0, 4), cudaMemset(c.p, 0, 4)});
    });
    WANT(passes == "1 0");
    const std::string stays = output_of_child([] {
        setenv("SIM_CUDA_FAIL", "cudaDeviceSynchronize:1:cudaErrorIllegalAddress", 1);
        cell c;
        return numbers({cudaDeviceSynchronize(), cudaMemset(c.p, 0, 4)});
    });
    WANT(stays == "700 700");
    const std::string file = "/tmp/sim_cuda_fail." + std::to_string(getpid());
    const std::string once = output_of_child([&file] {
        setenv("SIM_CUDA_FAIL", ("@" + file).c_str(), 1);
        cell c;
        std::string got = std::to_string(cudaMemset(c.p, 0, 4));
        std::FILE *f = std::fopen(file.c_str(), "w");
        std::fputs("cudaMemset:1:cudaErrorNotSupported\n", f);
        std::fclose(f);
        for (int i = 0; i < 2; ++i) got += " " + std::to_string(cudaMemset(c.p, 0, 4));
        return got + (access(file.c_str(), F_OK) ? " taken" : " there");
    });
    WANT(once == "0 801 0 taken");
    WANT(has_one_of(output_of_child([] {
                        setenv("SIM_CUDA_FAIL", "cudaMemset", 1);
                        return std::to_string(cudaDeviceSynchronize());
                    }),
                    "is not CALL:N:ERROR"));
    const std::string old = output_of_child([] {
        int n, has = 0, needs = 0;
        setenv("SIM_CUDA_DRIVER", "12040", 1);
        const cudaError_t e = cudaGetDeviceCount(&n);
        cudaDriverGetVersion(&has), cudaRuntimeGetVersion(&needs);
        return numbers({e, has, needs});
    });
    WANT(old == "35 12040 13000");
    return "";
}

std::string test_a_kernel_runs_on_the_device_of_its_stream()
{
    setenv("SIM_CUDA_DEVICES", "2", 1);
    cell c;
    cudaStream_t s;
    char id[32];
    int now = -1;
    OK(cudaSetDevice(1));
    OK(cudaGetDevice(&now));
    OK(cudaStreamCreate(&s));
    WANT(now == 1 && cudaSetDevice(2) == cudaErrorInvalidDevice);
    (void)cudaGetLastError();
    probe_add(c.p, 1, s);
    OK(cudaGetLastError());
    OK(cudaSetDevice(0));
    probe_add(c.p, 1, s);
    WANT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
    OK(cudaStreamSynchronize(s));
    WANT(c.value() == 1);
    OK(cudaStreamDestroy(s));
    OK(cudaDeviceGetPCIBusId(id, sizeof id, 1));
    WANT(std::string(id) == "0000:02:00.0");
    unsetenv("SIM_CUDA_DEVICES");
    return "";
}

std::string test_gated_work_waits_for_what_is_outside()
{
    cell c;
    cudaStream_t s;
    static bool open;
    open = false;
    OK(cudaStreamCreate(&s));
    OK(sim::gated_work(s, [] { return open; }, [&c] { *c.p = 5; }));
    probe_add(c.p, 1, s);
    for (int i = 0; i < 3; ++i) WANT(cudaStreamQuery(s) == cudaErrorNotReady);
    open = true;
    OK(cudaStreamSynchronize(s));
    WANT(c.value() == 16); /* 3 * 5 + 1 */
    OK(cudaStreamDestroy(s));
    return "";
}

const test_case cases[] = {
    {"failures_of_the_environment", test_failures_of_the_environment},
    {"device_of_a_stream", test_a_kernel_runs_on_the_device_of_its_stream},
    {"gated_work", test_gated_work_waits_for_what_is_outside},
    {"stream_order", test_stream_order},
    {"events_order_streams", test_events_order_streams},
    {"legacy_stream", test_legacy_stream_waits_for_blocking_ones},
    {"pinned_memory", test_pinned_memory_is_asynchronous},
    {"graph", test_graph},
    {"capture_errors", test_capture_errors},
    {"errors_that_pass", test_errors_that_pass},
    {"errors_that_stay", test_errors_that_stay},
    {"every_call_fails_in_turn", test_every_call_fails_in_turn},
    {"device_of_the_environment", test_device_of_the_environment},
    {"closed_memory", test_device_memory_is_closed_to_the_host},
    {"poison", test_fresh_memory_is_poisoned},
};

} // namespace

int main(int argc, char **argv) { return run_cases(cases, argc, argv); }
