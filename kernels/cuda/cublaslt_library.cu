/* cuBLASLt: the library opened, and products described to it. Host code, no kernels: see cublaslt.h. */
#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

void *lt_open(struct lt_calls *out, char *why, size_t n)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"cublasLtGetVersion", &out->version},
        {"cublasLtGetStatusString", &out->error},
        {"cublasLtCreate", &out->create},
        {"cublasLtDestroy", &out->destroy},
        {"cublasLtMatmulDescCreate", &out->desc_create},
        {"cublasLtMatmulDescDestroy", &out->desc_destroy},
        {"cublasLtMatmulDescSetAttribute", &out->desc_set},
        {"cublasLtMatrixLayoutCreate", &out->layout_create},
        {"cublasLtMatrixLayoutDestroy", &out->layout_destroy},
        {"cublasLtMatmulPreferenceCreate", &out->preference_create},
        {"cublasLtMatmulPreferenceDestroy", &out->preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", &out->preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", &out->heuristic},
        {"cublasLtMatmul", &out->matmul},
    };
    void *library = dlopen(LT_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) return snprintf(why, n, "%s", dlerror()), nullptr;
    for (const auto &s : symbols) {
        void *symbol = dlsym(library, s.name);
        if (!symbol) return snprintf(why, n, "%s has no %s", LT_LIBRARY, s.name), nullptr;
        memcpy(s.to, &symbol, sizeof symbol);
    }
    const size_t version = out->version();
    if (version >= LT_VERSION_LEAST) return library;
    snprintf(why, n, "%s is version %zu, %d is the least", LT_LIBRARY, version, int(LT_VERSION_LEAST));
    return nullptr;
}

int lt_plan_describe(const struct lt_calls *lt, const struct lt_product *p, struct lt_plan *plan)
{
    const int32_t transposed = LT_OP_T;
    const uint32_t epilogue = uint32_t(p->epilogue);
    /* Its value says what may be taken for granted of the addresses to come; nothing is read there. */
    const void *bias = reinterpret_cast<const void *>(uintptr_t(LT_ALIGN));
    *plan = {};
    int rc = lt->desc_create(&plan->desc, LT_COMPUTE_F32, LT_F32);
    if (!rc) rc = lt->desc_set(plan->desc, LT_DESC_TRANSA, &transposed, sizeof transposed);
    if (!rc) rc = lt->desc_set(plan->desc, LT_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!rc && p->epilogue & LT_EPILOGUE_BIAS) rc = lt->desc_set(plan->desc, LT_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (!rc) rc = lt->layout_create(&plan->w, LT_BF16, p->k, p->n, int64_t(p->ldw));
    if (!rc) rc = lt->layout_create(&plan->in, LT_BF16, p->k, p->rows, int64_t(p->ldi));
    if (!rc) rc = lt->layout_create(&plan->out, p->out, p->n, p->rows, int64_t(p->ldo));
    return rc;
}

/* The one the library expects to be fastest. Where it splits k, the parts are added in float32 and in one order. */
int lt_plan_choose(const struct lt_calls *lt, void *handle, size_t most_workspace_bytes, struct lt_plan *plan)
{
    const uint64_t workspace = most_workspace_bytes;
    const uint32_t reductions = LT_REDUCTION_COMPUTE_TYPE, align = LT_ALIGN;
    void *preference = nullptr;
    struct lt_found found = {};
    int n_found = 0;
    int rc = lt->preference_create(&preference);
    if (!rc) rc = lt->preference_set(preference, LT_PREFERENCE_WORKSPACE, &workspace, sizeof workspace);
    if (!rc) rc = lt->preference_set(preference, LT_PREFERENCE_REDUCTIONS, &reductions, sizeof reductions);
    for (int i = LT_PREFERENCE_ALIGNMENT_A; i <= LT_PREFERENCE_ALIGNMENT_D && !rc; i++)
        rc = lt->preference_set(preference, i, &align, sizeof align);
    if (!rc) rc = lt->heuristic(handle, plan->desc, plan->w, plan->in, plan->out, plan->out, preference, 1, &found, &n_found);
    if (preference) lt->preference_destroy(preference);
    if (!rc && n_found < 1) rc = LT_NOT_SUPPORTED;
    if (!rc) rc = found.status;
    plan->algo = found.algo, plan->workspace_bytes = found.workspace_bytes;
    return rc;
}

void lt_plan_close(const struct lt_calls *lt, struct lt_plan *plan)
{
    if (plan->desc) lt->desc_destroy(plan->desc);
    void *const layouts[] = {plan->w, plan->in, plan->out};
    for (void *layout : layouts)
        if (layout) lt->layout_destroy(layout);
    *plan = {};
}
