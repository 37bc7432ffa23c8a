/* cuBLASLt as far as it is used, opened at run time (libcublasLt.so.13), so that neither building nor running needs it. Host code, no CUDA
 * headers.
 *
 * Types and values are declared here as cublasLt.h has them, 13.0 and later; products_test.cpp holds this file against that header and the
 * library itself (make cuda PRODUCTS=ON). All functions return a cublasStatus_t where they return int.
 *
 * The library counts columns first. Our matrices have k adjacent, so what we call out (rows, n) = in (rows, k) W (n, k)^T is to it
 *     D (n x rows) = A^T B,  A = W (k x n),  B = in (k x rows):  a product "TN", each leading dimension that of our rows. */
#ifndef SPILLWAY_KERNELS_CUDA_CUBLASLT_H
#define SPILLWAY_KERNELS_CUDA_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

#define LT_LIBRARY "libcublasLt.so.13"

enum { LT_VERSION_LEAST = 130000 };                                          /* cublasLtGetVersion: major * 10000 + minor * 100 + patch */
enum { LT_SUCCESS = 0, LT_NOT_SUPPORTED = 15 };                              /* cublasStatus_t */
enum { LT_F32 = 0, LT_BF16 = 14 };                                           /* cudaDataType_t */
enum { LT_COMPUTE_F32 = 68 };                                                /* cublasComputeType_t */
enum { LT_OP_N = 0, LT_OP_T = 1 };                                           /* cublasOperation_t */
enum { LT_DESC_TRANSA = 3, LT_DESC_EPILOGUE = 7, LT_DESC_BIAS_POINTER = 8 }; /* cublasLtMatmulDescAttributes_t */
enum {
    LT_EPILOGUE_NONE = 1,
    LT_EPILOGUE_BIAS = 4,
    LT_EPILOGUE_GELU = 32,
    LT_EPILOGUE_GELU_BIAS = 36
};                                      /* cublasLtEpilogue_t; GELU is the tanh form */
enum { LT_REDUCTION_COMPUTE_TYPE = 2 }; /* cublasLtReductionScheme_t */
enum {                                  /* cublasLtMatmulPreferenceAttributes_t */
       LT_PREFERENCE_WORKSPACE = 1,
       LT_PREFERENCE_REDUCTIONS = 3,
       LT_PREFERENCE_ALIGNMENT_A = 5,
       LT_PREFERENCE_ALIGNMENT_D = 8
};

struct lt_algo {
    uint64_t data[8];
};
struct lt_found { /* cublasLtMatmulHeuristicResult_t */
    struct lt_algo algo;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

struct lt_calls {
    size_t (*version)(void);
    const char *(*error)(int status);
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*desc_create)(void **desc, int compute, int scale);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*preference_create)(void **preference);
    int (*preference_destroy)(void *preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted, struct lt_found *out,
                     int *n_found);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *layout_a, const void *b, void *layout_b,
                  const void *beta, const void *c, void *layout_c, void *d, void *layout_d, const struct lt_algo *algo, void *workspace,
                  size_t workspace_bytes, void *stream);
};

/* A product as the library has to know it: what decides on its algorithm, no addresses. */
struct lt_product {
    size_t rows, n, k;
    size_t ldi, ldw, ldo; /* numbers from row to row of in and W (bf16), and of out */
    int out;              /* LT_F32 or LT_BF16; a bias is of the same type */
    int epilogue;         /* LT_EPILOGUE_x */
};

/* All of it that the library needs. */
struct lt_plan {
    void *desc, *w, *in, *out;
    struct lt_algo algo;
    size_t workspace_bytes;
};

enum { LT_ALIGN = 16 }; /* of all addresses and rows that the library gets */

/* The library, which stays open for good: its handle for dlsym, or NULL and why there is none that can be used, in one line. */
void *lt_open(struct lt_calls *out, char *why, size_t n);
/* Each returns a status; the plan may be closed in any case. */
int lt_plan_describe(const struct lt_calls *lt, const struct lt_product *p, struct lt_plan *plan);
int lt_plan_choose(const struct lt_calls *lt, void *handle, size_t most_workspace_bytes, struct lt_plan *plan);
void lt_plan_close(const struct lt_calls *lt, struct lt_plan *plan);

#endif
