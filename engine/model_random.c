/* Random weights in a real shape (model_open_random): models for benchmarks and comparisons where no checkpoint is at hand.
 *
 * Needs nothing but the C library, unlike model_source.c: tools/gpu_check builds it on machines that have a compiler and no more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/families/families.h"
#include "engine/model_parts.h"
#include "kernels/bf16.h"

struct random_source {
    uint64_t state;
    void *lent[4];
    size_t n_lent;
};

static uint64_t splitmix(uint64_t *s)
{
    uint64_t z = *s += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* bf16 values of variance 1/columns for matrices, near 1 for norms (one dimension): activations stay in range through all layers. */
static int tensor_from_seed(void *self, const char *name, const uint64_t *shape, int n_dims, struct weight_part *out, struct err *e)
{
    struct random_source *r = self;
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) n *= (size_t)shape[i];
    CHECK(r->n_lent < sizeof r->lent / sizeof *r->lent);
    bf16 *p = malloc(n * sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "tensor %s: out of memory", name);
    r->lent[r->n_lent++] = p;
    float cols = 1;
    for (int i = 1; i < n_dims; i++) cols *= (float)shape[i];
    bool norm = n_dims == 1 && str_ends_with(name, "weight");
    float amplitude = n_dims == 1 ? 0.02f : 1.7320508f / __builtin_sqrtf(cols);
    for (size_t i = 0; i < n; i += 4) {
        uint64_t x = splitmix(&r->state);
        for (size_t j = i; j < i + 4 && j < n; j++, x >>= 16)
            p[j] = bf16_from_f32(((float)(x & 0xFFFF) / 32768.0f - 1.0f) * amplitude + (norm ? 1.0f : 0.0f));
    }
    *out = (struct weight_part){.data = p, .dtype = DTYPE_BF16};
    return 0;
}

static bool seed_has(void *self, const char *name)
{
    (void)self;
    return strcmp(name, "lm_head.weight") == 0; /* asked for only where the shape is untied */
}

static void seed_done(void *self)
{
    struct random_source *r = self;
    while (r->n_lent) free(r->lent[--r->n_lent]);
}

struct shape {
    const char *name;
    const struct family *family;
    struct text_config text;
    struct vision_config vision;
    float theta;
    uint32_t no_rope_interval;
};

/* The published models' sizes (their config.json files); the tiny ones are for the CUDA simulator. */
static const struct shape shapes[] = {
    {"135m", &family_llama, {576, 30, 9, 3, 64, 1536, 49152, 8192, 1e-5f, true, {0}, {0}, 1}, {0}, 1e5f, 0},
    {"360m", &family_llama, {960, 32, 15, 5, 64, 2560, 49152, 8192, 1e-5f, true, {0}, {0}, 1}, {0}, 1e5f, 0},
    {"1.7b", &family_llama, {2048, 24, 32, 32, 64, 8192, 49152, 8192, 1e-5f, true, {0}, {0}, 1}, {0}, 1.3e5f, 0},
    {"3b", &family_smollm3, {2048, 36, 16, 4, 128, 11008, 128256, 65536, 1e-6f, true, {0}, {0}, 1}, {0}, 5e6f, 4},
    {"vlm-256m",
     &family_idefics3,
     {576, 30, 9, 3, 64, 1536, 49280, 8192, 1e-5f, false, {0}, {0}, 1},
     {768, 12, 12, 3072, 512, 16, 32, 4, 1e-6f},
     1e5f,
     0},
    {"vlm-500m",
     &family_idefics3,
     {960, 32, 15, 5, 64, 2560, 49280, 8192, 1e-5f, false, {0}, {0}, 1},
     {768, 12, 12, 3072, 512, 16, 32, 4, 1e-6f},
     1e5f,
     0},
    {"vlm-2.2b",
     &family_smolvlm,
     {2048, 24, 32, 32, 64, 8192, 49280, 8192, 1e-5f, false, {0}, {0}, 1},
     {1152, 27, 16, 4304, 384, 14, 27, 3, 1e-6f},
     1.3e5f,
     0},
    {"tiny", &family_llama, {192, 2, 3, 1, 64, 320, 512, 1024, 1e-5f, true, {0}, {0}, 1}, {0}, 1e5f, 0},
    {"vlm-tiny", &family_idefics3, {128, 2, 2, 2, 64, 256, 499, 1024, 1e-5f, false, {0}, {0}, 1}, {144, 2, 2, 296, 64, 16, 4, 2, 1e-6f}, 1e5f, 0},
};

static int parse_spec(const char *spec, const struct shape **shape, int64_t *seed, struct err *e)
{
    const char *colon = strchr(spec, ':');
    for (size_t i = 0; colon && i < sizeof shapes / sizeof *shapes; i++)
        if (strlen(shapes[i].name) == (size_t)(colon - spec) && strncmp(spec, shapes[i].name, (size_t)(colon - spec)) == 0 &&
            str_parse_int64(colon + 1, 0, INT64_MAX, seed)) {
            *shape = &shapes[i];
            return 0;
        }
    char known[256] = "";
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", shapes[i].name);
    return err_set(e, ERR_INPUT, "random weights '%.64s': expected SHAPE:SEED with SHAPE one of%s", spec, known);
}

int model_open_random(struct model **out, const char *spec, const struct model_options *o, struct err *e)
{
    *out = NULL;
    const struct shape *shape = NULL;
    int64_t seed = 0;
    int rc = parse_spec(spec, &shape, &seed, e);
    if (rc) return rc;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", spec);
    const int32_t image_token = shape->text.vocab > 49190 ? 49190 : (int32_t)shape->text.vocab - 1;
    m->config = (struct model_config){
        .family = shape->family, .text = shape->text, .vision = shape->vision, .image_token = shape->family->vision ? image_token : -1};
    m->images = (struct image_settings){.mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}, .rescale = 1.0f / 255.0f};
    struct text_config *t = &m->config.text;
    for (uint32_t i = 0; i < t->layers; i++) t->rope[i] = !shape->no_rope_interval || (i + 1) % shape->no_rope_interval != 0;
    for (uint32_t j = 0; j < t->head_dim / 2; j++)
        t->inv_freq[j] = 1.0f / __builtin_powf(shape->theta, (float)(2 * j) / (float)t->head_dim);
    struct random_source r = {.state = (uint64_t)seed};
    snprintf((char *)m->limits.hash, MODEL_HASH_BYTES, "%s:%lld", shape->name, (long long)seed); /* what tells such models apart fits as it is */
    struct tensor_source src = {.self = &r, .get = tensor_from_seed, .has = seed_has, .done = seed_done};
    rc = model_build(m, o, &src, e);
    seed_done(&r);
    if (rc)
        model_close(m);
    else
        *out = m;
    return rc;
}
