/* doctor: a model folder. Every file is read with the code that serves it, but no weight is loaded: config, tensors' headers, tokenizer, template,
 * picture settings; then whether the plan of memory would fit. */
#include <stdio.h>
#include <string.h>

#include "engine/families/families.h"
#include "engine/prompt.h"
#include "server/cli/doctor_parts.h"
#include "server/cli/model_path.h"
#include "weights/config.h"
#include "weights/safetensors.h"

/* engine/model_load.c: the cache holds 4 x the longest context, bf16, and at most 1 GiB; activations of a step, roughly */
enum { CACHE_CONTEXTS = 4, KV_VALUE_BYTES = 2 };
static const uint64_t cache_most = (uint64_t)1 << 30;
static const uint64_t scratch_bytes = (uint64_t)64 << 20;

struct folder {
    char path[4096];
    struct model_config config;
    struct safetensors weights;
    uint64_t parameters, file_bytes;
    const char *dtype; /* of most of the values */
    bool template, images;
    uint32_t context;
};

static int read_config(struct folder *f, struct err *e)
{
    char path[sizeof f->path + 32];
    json_t *json;
    snprintf(path, sizeof path, "%s/config.json", f->path);
    int rc = json_read_file(path, &json_limits_file, &json, e);
    if (rc) return rc;
    rc = config_read(&f->config, json, families, e);
    json_decref(json);
    return rc;
}

static int read_weights(struct folder *f, struct err *e)
{
    int rc = safetensors_open(&f->weights, f->path, e);
    if (rc) return rc;
    uint64_t values[TENSOR_DTYPES] = {0};
    size_t most = 0;
    for (size_t i = 0; i < f->weights.n_tensors; i++) {
        const struct tensor *t = &f->weights.tensors[i];
        uint64_t n = 1;
        for (int k = 0; k < t->n_dims; k++) n *= t->shape[k]; /* checked against overflow when the header was read */
        values[t->dtype] += n;
        f->parameters += n;
        f->file_bytes += t->bytes;
        const bool fp8 = t->dtype == TENSOR_F8_E4M3 && f->config.fp8;
        if (t->dtype != TENSOR_F32 && t->dtype != TENSOR_F16 && t->dtype != TENSOR_BF16 && !fp8)
            return err_set(e, ERR_UNSUPPORTED, "%s is %s; F32, F16 and BF16 are computed with", t->name, tensor_dtype_name(t->dtype));
        if (values[t->dtype] > values[most]) most = (size_t)t->dtype;
    }
    f->dtype = tensor_dtype_name((enum tensor_dtype)most);
    return 0;
}

/* The matrices of every text layer are there; shapes are the loader's to check. */
static int check_whole(const struct folder *f, struct err *e)
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",    "input_layernorm"};
    const char *prefix = f->config.family->text_prefix;
    char name[160];
    snprintf(name, sizeof name, "%sembed_tokens.weight", prefix);
    if (!safetensors_find(&f->weights, name)) return err_set(e, ERR_INPUT, "the tensor %s is missing", name);
    for (uint32_t i = 0; i < f->config.text.layers; i++) {
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            snprintf(name, sizeof name, "%slayers.%u.%s.weight", prefix, i, names[k]);
            if (!safetensors_find(&f->weights, name)) return err_set(e, ERR_INPUT, "the tensor %s is missing", name);
        }
    }
    return 0;
}

static int read_prompt(struct folder *f, struct err *e)
{
    struct prompt_model *m;
    int rc = prompt_model_open(&m, f->path, e);
    if (rc) return rc;
    const struct prompt_info *info = prompt_model_info(m);
    f->template = info->has_template;
    f->images = info->has_images;
    f->context = info->max_context;
    prompt_model_close(m);
    return 0;
}

/* As serve plans it: weights in bf16, the cache, scratch. */
static uint64_t memory_needed(const struct folder *f)
{
    const struct text_config *t = &f->config.text;
    uint64_t token = 2ull * t->layers * t->kv_heads * t->head_dim * KV_VALUE_BYTES,
             cache = CACHE_CONTEXTS * (uint64_t)t->max_positions * token;
    return 2 * f->parameters + (cache < cache_most ? cache : cache_most) + scratch_bytes;
}

static void say_model(struct doctor *d, const char *id, const struct folder *f)
{
    uint64_t need = memory_needed(f), have = doctor_memory_free();
    bool fits = have == 0 || need <= have;
    enum doctor_level level = !fits ? DOCTOR_PROBLEM : f->template ? DOCTOR_OK : DOCTOR_WARNING;
    const char *advice = !fits ? "free memory, or take a smaller model"
                         : level == DOCTOR_WARNING
                             ? "it completes text (generate), but chat requests are refused; take the Instruct version"
                             : NULL;
    doctor_say(d, "model", level, advice,
               "%.200s: %s, %.1f M parameters in %s, %.1f MB of files, context %u%s%s; needs about %.2f GiB, %.2f GiB are free", id,
               f->config.family->architecture, (double)f->parameters / 1e6, f->dtype, (double)f->file_bytes / 1e6, f->context,
               f->images ? ", pictures" : "", f->template ? "" : ", no chat template", (double)need / (double)(1 << 30),
               (double)have / (double)(1 << 30));
}

void doctor_model(struct doctor *d, const char *arg)
{
    static struct folder f; /* model_config is large */
    struct err e = {0};
    memset(&f, 0, sizeof f);
    int rc = model_path_find(arg, f.path, sizeof f.path, &e);
    const char *id = rc ? arg : model_path_id(arg, f.path);
    if (!rc) rc = read_config(&f, &e);
    if (!rc) rc = read_weights(&f, &e);
    if (!rc) rc = check_whole(&f, &e);
    if (!rc) rc = read_prompt(&f, &e);
    if (rc)
        doctor_say(d, "model", DOCTOR_PROBLEM, "the folder must be a whole copy of one from the Hugging Face hub", "%.200s: %s", id, e.msg);
    else
        say_model(d, id, &f);
    safetensors_close(&f.weights);
}
