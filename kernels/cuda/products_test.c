/* Run by CMake where SPILLWAY_CUDA_PRODUCTS is on: headers and libraries are there, of one version, and open without a device. */
#include <cublasLt.h>
#include <nccl.h>
#include <stdio.h>

int main(void)
{
    int nccl = 0;
    const ncclResult_t rc = ncclGetVersion(&nccl);
    printf("cuBLASLt %zu, NCCL %d", cublasLtGetVersion(), nccl);
    return rc != ncclSuccess || nccl != NCCL_VERSION_CODE || cublasLtGetVersion() / 100 != CUBLAS_VERSION / 100;
}
