/* Where models come from: a Hugging Face folder. Random weights in a real shape are model_random.c's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/families/families.h"
#include "engine/model_parts.h"
#include "kernels/quant.h"
#include "weights/safetensors.h"

struct file_source {
    struct safetensors *files;
    bool fp8; /* see model_config */
    float *lent[4];
    size_t n_lent;
};

static bool number_type(enum tensor_dtype t, enum dtype *out)
{
    *out = t == TENSOR_F32 ? DTYPE_F32 : t == TENSOR_F16 ? DTYPE_F16 : DTYPE_BF16;
    return t == TENSOR_F32 || t == TENSOR_F16 || t == TENSOR_BF16;
}

/* The scales of an F8_E4M3 matrix, NAME_scale: one an output. */
static int lend_scales(struct file_source *s, const char *name, uint64_t rows, struct weight_part *out, struct err *e)
{
    char scale_name[256], found[128];
    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    const struct tensor *t = safetensors_find(s->files, scale_name);
    struct weight_part scales = {.rows = 1};
    if (!t) return err_set(e, ERR_INPUT, "tensor %s is missing, the scales of %s", scale_name, name);
    tensor_shape_text(t->shape, t->n_dims, found, sizeof found);
    if (t->n_dims < 1 || t->n_dims > 2 || t->shape[0] != rows || (t->n_dims == 2 && t->shape[1] != 1))
        return err_set(e, ERR_UNSUPPORTED, "tensor %s has shape %s; expected one scale for each of %llu outputs", scale_name, found,
                       (unsigned long long)rows);
    if (!number_type(t->dtype, &scales.dtype))
        return err_set(e, ERR_UNSUPPORTED, "tensor %s has dtype %s; supported: F32, F16, BF16", scale_name, tensor_dtype_name(t->dtype));
    CHECK(s->n_lent < sizeof s->lent / sizeof *s->lent);
    float *values = malloc((size_t)rows * sizeof *values);
    if (!values) return err_set(e, ERR_MEMORY, "tensor %s: out of memory", scale_name);
    scales.data = t->data;
    quant_part_values(&scales, 0, (size_t)rows, values);
    out->scale = s->lent[s->n_lent++] = values;
    out->dtype = DTYPE_E4M3;
    return 0;
}

static int tensor_from_file(void *self, const char *name, const uint64_t *shape, int n_dims, struct weight_part *out, struct err *e)
{
    struct file_source *s = self;
    const struct tensor *t = safetensors_find(s->files, name);
    char want[128], found[128];
    tensor_shape_text(shape, n_dims, want, sizeof want);
    if (!t) return err_set(e, ERR_INPUT, "tensor %s is missing; expected shape %s", name, want);
    tensor_shape_text(t->shape, t->n_dims, found, sizeof found);
    if (t->n_dims != n_dims || memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape))
        return err_set(e, ERR_INPUT, "tensor %s has shape %s; expected %s", name, found, want);
    *out = (struct weight_part){.data = t->data};
    if (number_type(t->dtype, &out->dtype)) return 0;
    if (t->dtype == TENSOR_F8_E4M3 && s->fp8 && n_dims == 2) return lend_scales(s, name, shape[0], out, e);
    return err_set(e, ERR_UNSUPPORTED, "tensor %s has dtype %s; supported: F32, F16, BF16; F8_E4M3 of matrices with a quantization_config",
                   name, tensor_dtype_name(t->dtype));
}

static bool file_has(void *self, const char *name)
{
    return safetensors_find(((struct file_source *)self)->files, name) != NULL;
}

/* The mapping lends its bytes until it is closed; scales are made. */
static void file_done(void *self)
{
    struct file_source *s = self;
    while (s->n_lent) free(s->lent[--s->n_lent]);
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
    struct file_source from = {.files = s, .fp8 = m->config.fp8};
    struct tensor_source src = {.self = &from, .get = tensor_from_file, .has = file_has, .done = file_done};
    rc = model_build(m, o, &src, e);
    file_done(&from); /* what a failed load left */
    return rc;
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
