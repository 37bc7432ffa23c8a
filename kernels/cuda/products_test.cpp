/* Run where SPILLWAY_CUDA_PRODUCTS is on: what the backend declares of cuBLASLt (cublaslt.h) and of NCCL (group.cu) is what their headers
 * say, every function is there, and cuBLASLt takes the products as the backend describes them. Needs no device; where one is, algorithms
 * are asked for as well. */
#include <cublasLt.h>
#include <nccl.h>

#include <dlfcn.h>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/cublaslt.h"

namespace {

/* --- declarations --- */

static_assert(int(LT_SUCCESS) == CUBLAS_STATUS_SUCCESS && int(LT_NOT_SUPPORTED) == CUBLAS_STATUS_NOT_SUPPORTED, "cublasStatus_t");
static_assert(int(LT_F32) == CUDA_R_32F && int(LT_BF16) == CUDA_R_16BF && int(LT_COMPUTE_F32) == CUBLAS_COMPUTE_32F, "types");
static_assert(int(LT_OP_N) == CUBLAS_OP_N && int(LT_OP_T) == CUBLAS_OP_T, "cublasOperation_t");
static_assert(int(LT_DESC_TRANSA) == CUBLASLT_MATMUL_DESC_TRANSA && int(LT_DESC_EPILOGUE) == CUBLASLT_MATMUL_DESC_EPILOGUE &&
                  int(LT_DESC_BIAS_POINTER) == CUBLASLT_MATMUL_DESC_BIAS_POINTER,
              "cublasLtMatmulDescAttributes_t");
static_assert(int(LT_EPILOGUE_NONE) == CUBLASLT_EPILOGUE_DEFAULT && int(LT_EPILOGUE_BIAS) == CUBLASLT_EPILOGUE_BIAS &&
                  int(LT_EPILOGUE_GELU) == CUBLASLT_EPILOGUE_GELU && int(LT_EPILOGUE_GELU_BIAS) == CUBLASLT_EPILOGUE_GELU_BIAS,
              "cublasLtEpilogue_t");
static_assert(int(LT_REDUCTION_COMPUTE_TYPE) == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, "cublasLtReductionScheme_t");
static_assert(int(LT_PREFERENCE_WORKSPACE) == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES &&
                  int(LT_PREFERENCE_REDUCTIONS) == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK &&
                  int(LT_PREFERENCE_ALIGNMENT_A) == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
                  int(LT_PREFERENCE_ALIGNMENT_A) + 1 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES &&
                  int(LT_PREFERENCE_ALIGNMENT_A) + 2 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES &&
                  int(LT_PREFERENCE_ALIGNMENT_D) == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
              "cublasLtMatmulPreferenceAttributes_t");
static_assert(sizeof(lt_algo) == sizeof(cublasLtMatmulAlgo_t) && sizeof(lt_found) == sizeof(cublasLtMatmulHeuristicResult_t) &&
                  offsetof(lt_found, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) &&
                  offsetof(lt_found, status) == offsetof(cublasLtMatmulHeuristicResult_t, state),
              "cublasLtMatmulHeuristicResult_t");
static_assert(LT_VERSION_LEAST == CUBLAS_VER_MAJOR * 10000, "cublasLtGetVersion");

/* As group.cu has them. */
static_assert(ncclSuccess == 0 && ncclInProgress == 7 && ncclSum == 0 && ncclFloat32 == 7 && ncclBfloat16 == 9 &&
                  sizeof(ncclUniqueId) == 128,
              "NCCL");

/* Parameters one by one: pointers for pointers, and numbers of one size. */
template <class A, class B> constexpr bool alike = std::is_pointer_v<A> == std::is_pointer_v<B> && sizeof(A) == sizeof(B);
template <class Ours, class Theirs> struct same : std::false_type {};
template <class R, class... A, class S, class... B> struct same<R (*)(A...), S (*)(B...)> {
    static constexpr bool all()
    {
        if constexpr (sizeof...(A) == sizeof...(B))
            return alike<R, S> && (alike<A, B> && ...);
        else
            return false;
    }
    static constexpr bool value = all();
};
#define SAME(field, function) static_assert(same<decltype(lt_calls::field), decltype(&function)>::value, #function)
SAME(version, cublasLtGetVersion);
SAME(error, cublasLtGetStatusString);
SAME(create, cublasLtCreate);
SAME(destroy, cublasLtDestroy);
SAME(desc_create, cublasLtMatmulDescCreate);
SAME(desc_destroy, cublasLtMatmulDescDestroy);
SAME(desc_set, cublasLtMatmulDescSetAttribute);
SAME(layout_create, cublasLtMatrixLayoutCreate);
SAME(layout_destroy, cublasLtMatrixLayoutDestroy);
SAME(preference_create, cublasLtMatmulPreferenceCreate);
SAME(preference_destroy, cublasLtMatmulPreferenceDestroy);
SAME(preference_set, cublasLtMatmulPreferenceSetAttribute);
SAME(heuristic, cublasLtMatmulAlgoGetHeuristic);
SAME(matmul, cublasLtMatmul);
static_assert(!same<int (*)(void *, int), int (*)(void *, void *)>::value && !same<int (*)(void *), int (*)(void *, int)>::value,
              "a difference is seen");

/* --- the libraries --- */

int failed(const char *what, const char *why)
{
    std::fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

/* What the library has been told, by its own account. */
template <class T> bool desc_is(void *library, const lt_plan &plan, cublasLtMatmulDescAttributes_t attribute, T want)
{
    const auto get = reinterpret_cast<decltype(&cublasLtMatmulDescGetAttribute)>(dlsym(library, "cublasLtMatmulDescGetAttribute"));
    T is = {};
    size_t bytes = 0;
    return get && get(static_cast<cublasLtMatmulDesc_t>(plan.desc), attribute, &is, sizeof is, &bytes) == CUBLAS_STATUS_SUCCESS &&
           bytes == sizeof is && is == want;
}

bool layout_is(void *library, void *layout, uint32_t type, uint64_t rows, uint64_t cols, int64_t ld)
{
    const auto get = reinterpret_cast<decltype(&cublasLtMatrixLayoutGetAttribute)>(dlsym(library, "cublasLtMatrixLayoutGetAttribute"));
    const auto l = static_cast<cublasLtMatrixLayout_t>(layout);
    uint32_t t = 0;
    int32_t order = -1;
    uint64_t r = 0, c = 0;
    int64_t d = 0;
    return get && get(l, CUBLASLT_MATRIX_LAYOUT_TYPE, &t, sizeof t, nullptr) == 0 &&
           get(l, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order, nullptr) == 0 &&
           get(l, CUBLASLT_MATRIX_LAYOUT_ROWS, &r, sizeof r, nullptr) == 0 &&
           get(l, CUBLASLT_MATRIX_LAYOUT_COLS, &c, sizeof c, nullptr) == 0 &&
           get(l, CUBLASLT_MATRIX_LAYOUT_LD, &d, sizeof d, nullptr) == 0 && t == type && order == CUBLASLT_ORDER_COL && r == rows &&
           c == cols && d == ld;
}

/* Products as the backend has them: text and tiles, whole and with tails. */
const lt_product products[] = {
    {2048, 2048, 2048, 2048, 2048, 2048, LT_F32, LT_EPILOGUE_NONE},      {1024, 2304, 768, 768, 768, 2304, LT_BF16, LT_EPILOGUE_BIAS},
    {729, 4304, 1152, 1152, 1152, 4352, LT_BF16, LT_EPILOGUE_GELU_BIAS}, {729, 1152, 4352, 4352, 4352, 1152, LT_F32, LT_EPILOGUE_BIAS},
    {65, 16384, 2048, 2048, 2048, 16384, LT_F32, LT_EPILOGUE_NONE},      {128, 296, 192, 192, 192, 320, LT_BF16, LT_EPILOGUE_GELU}};

int check_product(void *library, const lt_calls &lt, void *handle, const lt_product &p)
{
    lt_plan plan;
    const int rc = lt_plan_describe(&lt, &p, &plan);
    bool ok = rc == LT_SUCCESS && desc_is(library, plan, CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_T)) &&
              desc_is(library, plan, CUBLASLT_MATMUL_DESC_TRANSB, int32_t(CUBLAS_OP_N)) &&
              desc_is(library, plan, CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(p.epilogue)) &&
              desc_is(library, plan, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, int32_t(CUBLAS_COMPUTE_32F)) &&
              desc_is(library, plan, CUBLASLT_MATMUL_DESC_SCALE_TYPE, int32_t(CUDA_R_32F)) &&
              desc_is(library, plan, CUBLASLT_MATMUL_DESC_POINTER_MODE, int32_t(CUBLASLT_POINTER_MODE_HOST)) &&
              layout_is(library, plan.w, CUDA_R_16BF, p.k, p.n, int64_t(p.ldw)) &&
              layout_is(library, plan.in, CUDA_R_16BF, p.k, p.rows, int64_t(p.ldi)) &&
              layout_is(library, plan.out, p.out == LT_F32 ? CUDA_R_32F : CUDA_R_16BF, p.n, p.rows, int64_t(p.ldo));
    if (ok && handle) {
        const int chosen = lt_plan_choose(&lt, handle, size_t(32) << 20, &plan);
        ok = chosen == LT_SUCCESS;
        std::printf("%zu x %zu x %zu: %s, %zu bytes of workspace\n", p.rows, p.n, p.k, lt.error(chosen), plan.workspace_bytes);
    }
    lt_plan_close(&lt, &plan);
    return ok ? 0 : failed("cuBLASLt", "a product as the backend describes it is not what the library has understood");
}

int check_cublaslt()
{
    lt_calls lt;
    char why[160];
    void *library = lt_open(&lt, why, sizeof why), *handle = nullptr;
    if (!library) return failed("cuBLASLt", why);
    const size_t version = lt.version();
    if (version / 100 != CUBLAS_VERSION / 100) return failed("cuBLASLt", "the library is of another version than its header");
    const int rc = lt.create(&handle);
    std::printf("cuBLASLt %zu.%zu.%zu, %zu products described; a handle: %s\n", version / 10000, version / 100 % 100, version % 100,
                sizeof products / sizeof *products, lt.error(rc));
    int bad = 0;
    for (const lt_product &p : products) bad += check_product(library, lt, rc ? nullptr : handle, p);
    const lt_product overlapping = {128, 64, 64, 64, 64, 64, 99, LT_EPILOGUE_NONE}; /* no such type */
    lt_plan plan;
    if (!rc && lt_plan_describe(&lt, &overlapping, &plan) == 0 && lt_plan_choose(&lt, handle, 0, &plan) == 0)
        bad += failed("cuBLASLt", "takes what cannot be");
    if (!rc) lt_plan_close(&lt, &plan), lt.destroy(handle);
    return bad;
}

int check_nccl()
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) return failed("NCCL", dlerror());
    const char *const names[] = {"ncclGetUniqueId", "ncclCommInitRank", "ncclAllReduce",     "ncclCommGetAsyncError",
                                 "ncclCommAbort",   "ncclCommDestroy",  "ncclGetErrorString"};
    for (const char *name : names)
        if (!dlsym(library, name)) return failed("NCCL has no", name);
    const auto get = reinterpret_cast<decltype(&ncclGetVersion)>(dlsym(library, "ncclGetVersion"));
    int version = 0;
    if (!get || get(&version) != ncclSuccess || version != NCCL_VERSION_CODE)
        return failed("NCCL", "the library is of another version than its header");
    std::printf("NCCL %d\n", version);
    return 0;
}

} // namespace

int main()
{
    return check_cublaslt() + check_nccl() ? 1 : 0;
}
