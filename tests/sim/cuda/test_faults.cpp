/* Faults in kernels must be found, with the right error and a report that names them; orders that hold must not be reported. */
#include "tests/sim/cuda/samples/probes.h"
#include "tests/sim/cuda/test_child.h"
#include "tests/sim/cuda/test_harness.h"

namespace {

struct fault_row {
    probe_fault fault;
    cudaError_t error;
    const char *words; /* one of them in the report */
};
const fault_row fault_rows[] = {
    {FAULT_DIVERGENT_BARRIER, cudaErrorLaunchFailure, "divergent barrier"},
    {FAULT_MISSING_THREAD, cudaErrorLaunchTimeout, "deadlock"},
    {FAULT_COLLECTIVE_MISMATCH, cudaErrorLaunchFailure, "collective mismatch"},
    {FAULT_STUCK_WARP, cudaErrorLaunchTimeout, "deadlock"},
    {FAULT_NOT_IN_MASK, cudaErrorLaunchFailure, "not in its own mask"},
    {FAULT_MISALIGNED, cudaErrorMisalignedAddress, "misaligned 16-byte access"},
    {FAULT_JUST_PAST_END, cudaErrorIllegalAddress,
     "out-of-bounds write next to a device allocation|0 bytes past the end of a device allocation"},
    {FAULT_FAR_PAST_END, cudaErrorIllegalAddress, "bytes past the end of a device allocation of 256 bytes"},
    {FAULT_BEFORE_START, cudaErrorIllegalAddress, "bytes before a device allocation of 256 bytes"},
    {FAULT_NULL, cudaErrorIllegalAddress, "no device allocation"},
    {FAULT_SHARED_PAST_END, cudaErrorIllegalAddress, "outside shared-memory arrays|shared-memory access out of bounds"},
    {FAULT_COPY_PAST_END, cudaErrorIllegalAddress, "cp.async reads outside device memory"},
    {FAULT_COPY_TO_GLOBAL, cudaErrorIllegalAddress, "cp.async outside shared memory"},
    {FAULT_PARTIAL_MMA, cudaErrorLaunchFailure, "needs 32 live lanes"},
    {FAULT_BARRIER_COUNT, cudaErrorLaunchFailure, "barrier 1: 64 threads and 32|barrier 1: 32 threads and 64"},
    {FAULT_TRAP, cudaErrorLaunchFailure, "__trap"},
    {FAULT_SPIN, cudaErrorLaunchTimeout, "livelock"},
};

std::string test_faults_are_found()
{
    for (const fault_row &row : fault_rows) {
        const std::string out = output_of_child([&row] {
            device_array<float> x(64);
            sim::set_patience(200000);
            cudaMemset(x.p, 0, 256);
            probe_fault_kernel(row.fault, x.p, 64);
            const cudaError_t e = cudaDeviceSynchronize(), again = cudaMemset(x.p, 0, 4);
            return std::string(cudaGetErrorName(e)) + " " + cudaGetErrorName(again) + "\n" + sim::last_report() + "end\n";
        });
        const std::string code = cudaGetErrorName(row.error);
        if (address_checked && has_one_of(out, "AddressSanitizer|runtime error")) continue;
        if (out.rfind(code + " " + code, 0) == 0 && has_one_of(out, row.words)) continue; /* the error stays */
        return "fault " + std::to_string(row.fault) + ": want " + code + ", " + row.words + "; got " + out;
    }
    return "";
}

/* An instruction that the device of SIM_CUDA_CC has not. */
std::string test_mma_of_a_later_device()
{
    const std::string out = output_of_child([] {
        device_array<uint32_t> a(std::vector<uint32_t>(128)), b(std::vector<uint32_t>(64)), d(std::vector<uint32_t>(128));
        std::string said;
        for (const char *cc : {"89", "86"}) {
            setenv("SIM_CUDA_CC", cc, 1);
            probe_mma(PROBE_E4M3, a.p, b.p, d.p);
            said += std::string(cudaGetErrorName(cudaDeviceSynchronize())) + (has_mma_e4m3() ? " has it\n" : " has not\n");
        }
        return said + sim::last_report();
    });
    const std::string want = "cudaSuccess has it\ncudaErrorLaunchFailure has not\n";
    return out.rfind(want, 0) == 0 && has_one_of(out, "mma of e4m3") ? "" : "got " + out;
}

/* A race-checked build must report the order that is missing; every build accepts the one that is there. */
template <class F> std::string test_order(F run, const std::vector<double> &want)
{
    device_array<int> data(256), out(256);
    cudaMemset(data.p, 0, 1024);
    run(data.p, out.p, true);
    cudaDeviceSynchronize();
    const std::string why = compare(cudaGetLastError(), out.host(), want, 0);
    if (!why.empty()) return why;
    if (!sim::race_checked()) return "";
    cudaMemset(data.p, 0, 1024);
    run(data.p, out.p, false);
    const cudaError_t e = cudaDeviceSynchronize();
    if (e == cudaErrorLaunchFailure && has_one_of(sim::last_report(), "memory race|before griddepcontrol_wait")) return "";
    return "a missing order went unnoticed: " + sim::last_report();
}

std::vector<double> sequence(int n, double start, double step)
{
    std::vector<double> v;
    for (int i = 0; i < n; ++i) v.push_back(start + step * i);
    return v;
}

std::string test_flag_between_blocks()
{
    return test_order([](int *d, int *o, bool right) { order_flag_between_blocks(d, reinterpret_cast<uint32_t *>(d) + 128, o, right); },
                      sequence(64, 64, -1));
}
std::string test_last_block()
{
    return test_order(
        [](int *d, int *o, bool right) {
            order_last_block(reinterpret_cast<float *>(d), reinterpret_cast<unsigned *>(d) + 100, reinterpret_cast<float *>(d) + 120, 5,
                             right);
            (void)cudaMemcpyAsync(o, d + 120, 4, cudaMemcpyDeviceToDevice, nullptr);
        },
        {double(__float_as_int(15.0f))});
}
std::string test_syncwarp()
{
    return test_order([](int *, int *o, bool right) { order_syncwarp(o, right); }, sequence(32, 62, -2));
}
std::string test_pairs_of_warps()
{
    std::vector<double> want = sequence(64, 63, -1);
    for (int i = 0; i < 64; ++i) want.push_back(127 - i);
    return test_order([](int *, int *o, bool right) { order_named_barriers(o, right); }, want);
}
std::string test_broadcast()
{
    return test_order([](int *, int *o, bool right) { order_broadcast(o, right); }, sequence(64, 2, 0));
}
std::string test_dependent_launch()
{
    std::vector<double> want;
    for (int i = 0; i < 64; ++i) want.push_back(i ^ 1);
    return test_order([](int *d, int *o, bool right) { order_dependent(d, o, right); }, want);
}
std::string test_two_blocks()
{
    return test_order(
        [](int *d, int *o, bool right) {
            order_two_blocks(d, right);
            (void)cudaMemcpyAsync(o, d, 256, cudaMemcpyDeviceToDevice, nullptr);
        },
        sequence(64, 1, 0));
}
std::string test_half_warps()
{
    std::vector<double> want;
    for (int l = 0; l < 32; ++l) want.push_back((l & 16) + 15 - (l & 15) + 2);
    device_array<int> out(32);
    order_half_warps(out.p);
    return compare(cudaSuccess, out.host(), want, 0);
}

const test_case cases[] = {
    {"faults_are_found", test_faults_are_found},
    {"mma_of_a_later_device", test_mma_of_a_later_device},
    {"flag_between_blocks", test_flag_between_blocks},
    {"last_block", test_last_block},
    {"syncwarp", test_syncwarp},
    {"half_warps", test_half_warps},
    {"pairs_of_warps", test_pairs_of_warps},
    {"broadcast", test_broadcast},
    {"dependent_launch", test_dependent_launch},
    {"two_blocks", test_two_blocks},
};

} // namespace

int main(int argc, char **argv) { return run_cases(cases, argc, argv); }
