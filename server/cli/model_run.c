/* Model run: see model_run.h. */
#include "server/cli/model_run.h"

#include <string.h>

#include "server/cli/model_path.h"

int model_run_dir(const struct options *o, char *path, size_t n, const char **dir, struct err *e)
{
    *dir = NULL;
    if (o->random_weights) return o->n_args ? err_set(e, ERR_INPUT, "--random-weights takes the place of MODEL: give one of the two") : 0;
    if (o->n_args != 1) return err_set(e, ERR_INPUT, "one MODEL is needed: a folder, or demo");
    int rc = model_path_find(o->args[0], path, n, e);
    *dir = path;
    return rc;
}

static enum model_quant quant_of(const char *choice)
{
    static const char *const names[] = {[MODEL_QUANT_INT8] = "int8", [MODEL_QUANT_INT4] = "int4", [MODEL_QUANT_FP8] = "fp8"};
    for (size_t q = MODEL_QUANT_INT8; choice && q <= MODEL_QUANT_FP8; q++)
        if (!strcmp(choice, names[q])) return (enum model_quant)q;
    return MODEL_QUANT_NONE;
}

int model_run_open(struct model **out, const char *dir, const struct options *o, enum compute auto_compute, uint64_t kv_tokens,
                   volatile uint64_t *progress, struct err *e)
{
    enum compute compute = auto_compute;
    if (o->compute && !strcmp(o->compute, "f32")) compute = COMPUTE_F32;
    if (o->compute && !strcmp(o->compute, "bf16")) compute = COMPUTE_BF16;
    enum dtype kv_dtype = compute == COMPUTE_F32 ? DTYPE_F32 : DTYPE_BF16;
    if (o->kv_dtype && !strcmp(o->kv_dtype, "f32")) kv_dtype = DTYPE_F32;
    if (o->kv_dtype && !strcmp(o->kv_dtype, "bf16")) kv_dtype = DTYPE_BF16;
    if (o->kv_dtype && !strcmp(o->kv_dtype, "int8")) kv_dtype = DTYPE_I8;
    if (o->kv_dtype && !strcmp(o->kv_dtype, "fp8")) kv_dtype = DTYPE_E4M3;
    int gpus[OPTIONS_MAX_GPUS] = {0};
    size_t n_gpus;
    int rc = options_check_device(o, e);
    if (!rc) rc = options_gpus(o->gpus, gpus, &n_gpus, e);
    if (!rc && n_gpus > 1) rc = err_set(e, ERR_INPUT, "--gpus: one process computes on one GPU; serve starts a process on each");
    if (rc) return rc;
    struct model_options mo = {.device = n_gpus ? "cuda" : o->device, /* who names one does not mean the CPU */
                               .gpu = gpus[0],
                               .cuda_library = o->cuda_library,
                               .compute = compute,
                               .fast = o->decode_path && !strcmp(o->decode_path, "fast"),
                               .kv_dtype = kv_dtype,
                               .threads = (int)o->threads,
                               .pin_threads = o->pin_threads,
                               .quant = quant_of(o->quant),
                               .quant_head = quant_of(o->quant_head),
                               .quant_vision = quant_of(o->quant_vision),
                               .kv_tokens = kv_tokens,
                               .progress = progress};
    if ((!o->quant_head || !strcmp(o->quant_head, "auto")) && mo.quant)
        mo.quant_head = mo.quant == MODEL_QUANT_FP8 ? MODEL_QUANT_FP8 : MODEL_QUANT_INT8;
    return dir ? model_open(out, dir, &mo, e) : model_open_random(out, o->random_weights, &mo, e);
}
