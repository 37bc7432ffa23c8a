/* The rate of a large bf16 product by cuBLASLt, where the toolkit has it: the nearest there is to what the tensor cores can do in practice.
 * A file of its own, which tools/gpu_check builds only where it compiles and links. */
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

double cublas_tflop_per_s(size_t m, size_t n, size_t k, cudaStream_t stream);

namespace {

struct product {
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t what = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    void *memory[4] = {}; /* a, b, c, workspace */
    ~product()
    {
        for (void *p : memory) cudaFree(p);
        if (preference) cublasLtMatmulPreferenceDestroy(preference);
        for (cublasLtMatrixLayout_t l : {a, b, c})
            if (l) cublasLtMatrixLayoutDestroy(l);
        if (what) cublasLtMatmulDescDestroy(what);
        if (handle) cublasLtDestroy(handle);
    }
};

constexpr size_t WORKSPACE = size_t(64) << 20;

/* c (m, n) = a^T b, columns first: both operands have k adjacent, as our weights and rows have. */
bool make(product &p, size_t m, size_t n, size_t k)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t bytes[4] = {m * k * 2, n * k * 2, m * n * 2, WORKSPACE}, workspace = WORKSPACE;
    for (int i = 0; i < 4; i++)
        if (cudaMalloc(&p.memory[i], bytes[i]) != cudaSuccess || cudaMemset(p.memory[i], 0, bytes[i]) != cudaSuccess) return false;
    return cublasLtCreate(&p.handle) == CUBLAS_STATUS_SUCCESS && cublasLtMatmulDescCreate(&p.what, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulDescSetAttribute(p.what, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, k, m, int64_t(k)) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, k, n, int64_t(k)) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p.c, CUDA_R_16BF, m, n, int64_t(m)) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceCreate(&p.preference) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceSetAttribute(p.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) == CUBLAS_STATUS_SUCCESS;
}

} // namespace

/* Of the median of seven; 0: it cannot. */
double cublas_tflop_per_s(size_t m, size_t n, size_t k, cudaStream_t stream)
{
    product p;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    const float one = 1, zero = 0;
    if (!make(p, m, n, k)) return 0;
    if (cublasLtMatmulAlgoGetHeuristic(p.handle, p.what, p.a, p.b, p.c, p.c, p.preference, 1, &best, &found) != CUBLAS_STATUS_SUCCESS || !found) return 0;
    std::vector<float> ms(8);
    cudaEvent_t from, to;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    for (float &t : ms) {
        cudaEventRecord(from, stream);
        if (cublasLtMatmul(p.handle, p.what, &one, p.memory[0], p.a, p.memory[1], p.b, &zero, p.memory[2], p.c, p.memory[2], p.c, &best.algo,
                           p.memory[3], WORKSPACE, stream) != CUBLAS_STATUS_SUCCESS)
            return 0;
        cudaEventRecord(to, stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&t, from, to);
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::nth_element(ms.begin() + 1, ms.begin() + 4, ms.end()); /* the first is not counted */
    return 2.0 * double(m) * double(n) * double(k) / double(ms[4]) / 1e9;
}

#ifdef TRY_MAIN
int main()
{
    return cublas_tflop_per_s(16, 16, 16, nullptr) < 0;
}
#endif
