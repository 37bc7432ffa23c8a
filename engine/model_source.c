/* Where models come from: a Hugging Face folder (model_open), or random weights in a real shape (model_open_random). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "base/buf.h"
#include "base/str.h"
#include "engine/families/families.h"
#include "engine/model_parts.h"
#include "kernels/bf16.h"
#include "weights/safetensors.h"

/* --- a folder --- */
static int tensor_from_file(void *self, const char *name, const uint64_t *shape, int n_dims, struct weight_part *out, struct err *e)
{
    const struct tensor *t = safetensors_find(self, name);
    char want[128], found[128];
    tensor_shape_text(shape, n_dims, want, sizeof want);
    if (!t) return err_set(e, ERR_INPUT, "tensor %s is missing; expected shape %s", name, want);
    tensor_shape_text(t->shape, t->n_dims, found, sizeof found);
    if (t->n_dims != n_dims || memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape))
        return err_set(e, ERR_INPUT, "tensor %s has shape %s; expected %s", name, found, want);
    switch (t->dtype) {
    case TENSOR_F32:
        out->dtype = DTYPE_F32;
        break;
    case TENSOR_F16:
        out->dtype = DTYPE_F16;
        break;
    case TENSOR_BF16:
        out->dtype = DTYPE_BF16;
        break;
    default:
        return err_set(e, ERR_UNSUPPORTED, "tensor %s has dtype %s; supported: F32, F16, BF16", name, tensor_dtype_name(t->dtype));
    }
    out->data = t->data;
    return 0;
}

static bool file_has(void *self, const char *name)
{
    return safetensors_find(self, name) != NULL;
}

static void file_done(void *self)
{
    (void)self; /* the mapping lends its bytes until it is closed */
}

/* SmolVLM2's vision_config leaves out what equals a default of its class, and the class has more than one: shapes decide. */
static void vision_from_tensors(struct vision_config *v, const struct safetensors *s)
{
    char name[128];
    const struct tensor *fc1 = safetensors_find(s, "model.vision_model.encoder.layers.0.mlp.fc1.weight");
    if (v->inter == 0) v->inter = fc1 && fc1->n_dims == 2 && fc1->shape[0] <= 1 << 20 ? (uint32_t)fc1->shape[0] : 3072;
    if (v->layers) return;
    for (v->layers = 0; v->layers < 256; v->layers++) {
        snprintf(name, sizeof name, "model.vision_model.encoder.layers.%u.mlp.fc1.weight", v->layers);
        if (!safetensors_find(s, name)) break;
    }
    if (v->layers == 0) v->layers = 12; /* the class default: the missing tensor is named when it is asked for */
}

static void hash_model(uint8_t out[MODEL_HASH_BYTES], const struct buf *config, const struct safetensors *s)
{
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, MODEL_HASH_BYTES);
    crypto_generichash_update(&h, (const unsigned char *)config->data, config->len);
    for (size_t i = 0; s && i < s->n_files; i++) crypto_generichash_update(&h, s->files[i].map, s->files[i].header_bytes);
    crypto_generichash_final(&h, out, MODEL_HASH_BYTES);
}

static int open_folder(struct model *m, const char *dir, const struct model_options *o, struct safetensors *s, struct buf *config,
                       struct err *e)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", dir) >= sizeof path) return err_set(e, ERR_INPUT, "%s: path too long", dir);
    json_t *json = NULL;
    int rc = buf_read_file(config, path, e);
    if (!rc) rc = json_read(config->data, config->len, &json_limits_file, path, &json, e);
    if (!rc) rc = config_read(&m->config, json, families, e);
    json_decref(json);
    if (!rc) rc = safetensors_open(s, dir, e);
    if (rc) return rc;
    if (m->config.family->vision) {
        vision_from_tensors(&m->config.vision, s);
        rc = image_settings_read(&m->images, dir, e);
        if (!rc && (uint32_t)m->images.tile_px != m->config.vision.image_px)
            rc = err_set(e, ERR_UNSUPPORTED, "preprocessor_config.json: tiles of %d px, but the vision model takes %u px",
                         m->images.tile_px, m->config.vision.image_px);
        if (rc) return rc;
    }
    hash_model(m->limits.hash, config, s);
    struct tensor_source src = {.self = s, .get = tensor_from_file, .has = file_has, .done = file_done};
    return model_build(m, o, &src, e);
}

int model_open(struct model **out, const char *dir, const struct model_options *o, struct err *e)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", dir);
    struct safetensors s = {0};
    struct buf config;
    buf_init(&config, 16u << 20);
    int rc = open_folder(m, dir, o, &s, &config, e);
    buf_free(&config);
    safetensors_close(&s); /* everything is packed; the file's pages may go */
    if (rc) {
        model_close(m);
        return err_prefix(e, "%s", dir);
    }
    *out = m;
    return 0;
}

/* --- random weights --- */
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

/* The published models' sizes (their config.json files). */
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
    m->config = (struct model_config){
        .family = shape->family, .text = shape->text, .vision = shape->vision, .image_token = shape->family->vision ? 49190 : -1};
    m->images = (struct image_settings){.mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}, .rescale = 1.0f / 255.0f};
    struct text_config *t = &m->config.text;
    for (uint32_t i = 0; i < t->layers; i++) t->rope[i] = !shape->no_rope_interval || (i + 1) % shape->no_rope_interval != 0;
    for (uint32_t j = 0; j < t->head_dim / 2; j++)
        t->inv_freq[j] = 1.0f / __builtin_powf(shape->theta, (float)(2 * j) / (float)t->head_dim);
    struct random_source r = {.state = (uint64_t)seed};
    crypto_generichash(m->limits.hash, MODEL_HASH_BYTES, (const unsigned char *)spec, strlen(spec), NULL, 0);
    struct tensor_source src = {.self = &r, .get = tensor_from_seed, .has = seed_has, .done = seed_done};
    rc = model_build(m, o, &src, e);
    seed_done(&r);
    if (rc)
        model_close(m);
    else
        *out = m;
    return rc;
}
