/* Where models come from: a Hugging Face folder. Random weights in a real shape are model_random.c's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/families/families.h"
#include "engine/model_parts.h"
#include "weights/safetensors.h"

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
