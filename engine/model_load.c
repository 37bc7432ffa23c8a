/* Loading: the device, the memory plan, and every tensor by name and shape into the backend's packed form. See model_parts.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/model_parts.h"
#include "kernels/backend.h"
#include "kernels/bf16.h"
#include "kernels/quant.h"

struct loader {
    struct model *m;
    const struct tensor_source *src;
    struct err *e;
    int rc; /* first failure; later calls do nothing, so that a load reads as a list */
    uint64_t weight_bytes;
    const struct quant_format *quant; /* of the matrices that are being loaded; NULL: none */
    enum model_quant *found;          /* which of o's that is; a checkpoint's own fp8 is written there */
    struct model_options o;
};

static const struct quant_format *quant_of(enum model_quant q)
{
    return q == MODEL_QUANT_INT8 ? &quant_int8 : q == MODEL_QUANT_INT4 ? &quant_int4 : q == MODEL_QUANT_FP8 ? &quant_fp8 : NULL;
}

/* What is loaded from here on. */
static void begin(struct loader *l, enum model_quant *which)
{
    l->quant = quant_of(*which);
    l->found = which;
}

/* --- tensors to the device --- */
static struct weight *pack(struct loader *l, enum pack_kind kind, const struct weight_part *parts, size_t n, size_t cols)
{
    struct weight *w = NULL;
    const struct quant_format *quant = l->quant;
    for (size_t i = 0; i < n && !l->rc; i++)
        if (parts[i].dtype == DTYPE_E4M3 && !l->quant) quant = &quant_fp8, *l->found = MODEL_QUANT_FP8;
    if (!l->rc) l->rc = l->m->ops->weight_pack(l->m->device, kind, parts, n, cols, quant, &w, l->e);
    if (w) l->weight_bytes += l->m->ops->weight_bytes(w);
    l->src->done(l->src->self);
    return w;
}

static void get(struct loader *l, const char *name, uint64_t rows, uint64_t cols, struct weight_part *out)
{
    if (!l->rc) l->rc = l->src->get(l->src->self, name, (uint64_t[]){rows, cols}, 2, out, l->e);
    if (!l->rc) out->rows = (size_t)rows;
}

PRINTF_LIKE(2, 3) static const char *name_of(char out[256], const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, 256, fmt, ap);
    va_end(ap);
    return out;
}

/* One matrix of the given rows and columns. */
static struct weight *matrix(struct loader *l, const char *name, uint64_t rows, uint64_t cols)
{
    struct weight_part p;
    get(l, name, rows, cols, &p);
    return l->rc ? NULL : pack(l, PACK_LINEAR, &p, 1, (size_t)cols);
}

static float value(const struct weight_part *p, size_t i)
{
    float f;
    uint16_t h;
    if (p->dtype == DTYPE_F32)
        memcpy(&f, (const unsigned char *)p->data + i * 4, 4);
    else
        memcpy(&h, (const unsigned char *)p->data + i * 2, 2), f = p->dtype == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    return f;
}

/* Tensors of one row each, or one table, side by side as float32 on the device. */
static float *vectors(struct loader *l, const char *const *names, size_t n_names, const uint64_t *shape, int n_dims)
{
    if (l->rc) return NULL;
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) n *= (size_t)shape[i];
    float *host = malloc(n * n_names * sizeof *host);
    void *to = NULL;
    if (!host) l->rc = err_set(l->e, ERR_MEMORY, "loading %s: out of memory", names[0]);
    for (size_t k = 0; k < n_names && !l->rc; k++) {
        struct weight_part p;
        l->rc = l->src->get(l->src->self, names[k], shape, n_dims, &p, l->e);
        if (!l->rc && p.dtype == DTYPE_E4M3)
            l->rc = err_set(l->e, ERR_UNSUPPORTED, "tensor %s has dtype F8_E4M3; only matrices may", names[k]);
        for (size_t i = 0; i < n && !l->rc; i++) host[k * n + i] = value(&p, i);
    }
    if (!l->rc) l->rc = l->m->ops->alloc(l->m->device, n * n_names * sizeof *host, &to, l->e);
    if (!l->rc) l->rc = l->m->ops->upload(l->m->device, to, host, n * n_names * sizeof *host, l->e);
    l->weight_bytes += n * n_names * sizeof *host;
    free(host);
    l->src->done(l->src->self);
    return to;
}

static float *vector(struct loader *l, const char *name, uint64_t n)
{
    return vectors(l, &name, 1, &n, 1);
}

/* --- the text model --- */
static void load_text_layer(struct loader *l, struct text_layer *t, uint32_t i)
{
    const struct text_config *c = &l->m->config.text;
    const char *p = l->m->config.family->text_prefix;
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    char n[256];
    struct weight_part parts[3];
    get(l, name_of(n, "%slayers.%u.self_attn.q_proj.weight", p, i), q, c->hidden, &parts[0]);
    get(l, name_of(n, "%slayers.%u.self_attn.k_proj.weight", p, i), kv, c->hidden, &parts[1]);
    get(l, name_of(n, "%slayers.%u.self_attn.v_proj.weight", p, i), kv, c->hidden, &parts[2]);
    for (size_t k = 0; k < 3; k++) parts[k].head_dim = c->head_dim;
    t->qkv = pack(l, PACK_QKV, parts, 3, c->hidden);
    t->o = matrix(l, name_of(n, "%slayers.%u.self_attn.o_proj.weight", p, i), c->hidden, q);
    get(l, name_of(n, "%slayers.%u.mlp.gate_proj.weight", p, i), c->inter, c->hidden, &parts[0]);
    get(l, name_of(n, "%slayers.%u.mlp.up_proj.weight", p, i), c->inter, c->hidden, &parts[1]);
    t->gate_up = pack(l, PACK_GATE_UP, parts, 2, c->hidden);
    t->down = matrix(l, name_of(n, "%slayers.%u.mlp.down_proj.weight", p, i), c->hidden, c->inter);
    t->norm_in = vector(l, name_of(n, "%slayers.%u.input_layernorm.weight", p, i), c->hidden);
    t->norm_post = vector(l, name_of(n, "%slayers.%u.post_attention_layernorm.weight", p, i), c->hidden);
}

static void load_text(struct loader *l)
{
    struct model *m = l->m;
    const struct text_config *c = &m->config.text;
    char n[256];
    m->layers = calloc(c->layers, sizeof *m->layers);
    if (!m->layers) l->rc = err_set(l->e, ERR_MEMORY, "loading: out of memory");
    begin(l, &l->o.quant_head);
    m->embed = matrix(l, name_of(n, "%sembed_tokens.weight", m->config.family->text_prefix), c->vocab, c->hidden);
    bool tied = c->tied || !l->src->has(l->src->self, "lm_head.weight"); /* a missing head means tied, whatever the config says */
    m->head = tied ? m->embed : matrix(l, "lm_head.weight", c->vocab, c->hidden);
    m->norm = vector(l, name_of(n, "%snorm.weight", m->config.family->text_prefix), c->hidden);
    begin(l, &l->o.quant);
    for (uint32_t i = 0; i < c->layers && !l->rc; i++) load_text_layer(l, &m->layers[i], i);
}

/* --- the vision model --- */
#define VISION "model.vision_model."

static float *vision_vector(struct loader *l, uint32_t i, const char *part, uint64_t size)
{
    char n[256];
    return vector(l, name_of(n, VISION "encoder.layers.%u.%s", i, part), size);
}

static void load_vision_layer(struct loader *l, struct vision_layer *v, uint32_t i)
{
    const struct vision_config *c = &l->m->config.vision;
    const uint64_t d = c->dim;
    static const char qkv[3] = {'q', 'k', 'v'};
    char n[256], bias[3][256];
    const char *biases[3];
    struct weight_part parts[3];
    for (int k = 0; k < 3; k++) {
        get(l, name_of(n, VISION "encoder.layers.%u.self_attn.%c_proj.weight", i, qkv[k]), d, d, &parts[k]);
        biases[k] = name_of(bias[k], VISION "encoder.layers.%u.self_attn.%c_proj.bias", i, qkv[k]);
    }
    v->qkv = pack(l, PACK_LINEAR, parts, 3, (size_t)d);
    v->qkv_bias = vectors(l, biases, 3, &d, 1);
    v->o = matrix(l, name_of(n, VISION "encoder.layers.%u.self_attn.out_proj.weight", i), d, d);
    v->o_bias = vision_vector(l, i, "self_attn.out_proj.bias", d);
    v->fc1 = matrix(l, name_of(n, VISION "encoder.layers.%u.mlp.fc1.weight", i), c->inter, d);
    v->fc1_bias = vision_vector(l, i, "mlp.fc1.bias", c->inter);
    v->fc2 = matrix(l, name_of(n, VISION "encoder.layers.%u.mlp.fc2.weight", i), d, c->inter);
    v->fc2_bias = vision_vector(l, i, "mlp.fc2.bias", d);
    v->ln1 = vision_vector(l, i, "layer_norm1.weight", d);
    v->ln1_bias = vision_vector(l, i, "layer_norm1.bias", d);
    v->ln2 = vision_vector(l, i, "layer_norm2.weight", d);
    v->ln2_bias = vision_vector(l, i, "layer_norm2.bias", d);
}

static void load_vision(struct loader *l)
{
    struct model *m = l->m;
    const struct vision_config *c = &m->config.vision;
    struct vision *v = &m->vision;
    begin(l, &l->o.quant_vision);
    v->layers = calloc(c->layers, sizeof *v->layers);
    if (!v->layers) l->rc = err_set(l->e, ERR_MEMORY, "loading: out of memory");
    struct weight_part p;
    const uint64_t k = 3ull * c->patch * c->patch, table[2] = {(uint64_t)c->grid * c->grid, c->dim},
                   squared = (uint64_t)c->dim * c->scale * c->scale;
    if (!l->rc)
        l->rc =
            l->src->get(l->src->self, VISION "embeddings.patch_embedding.weight", (uint64_t[]){c->dim, 3, c->patch, c->patch}, 4, &p, l->e);
    p.rows = c->dim; /* (dim, 3, p, p) is (dim, 3 p p) row-major */
    if (!l->rc) v->patch = pack(l, PACK_LINEAR, &p, 1, (size_t)k);
    v->patch_bias = vector(l, VISION "embeddings.patch_embedding.bias", c->dim);
    const char *position = VISION "embeddings.position_embedding.weight";
    v->position = vectors(l, &position, 1, table, 2);
    for (uint32_t i = 0; i < c->layers && !l->rc; i++) load_vision_layer(l, &v->layers[i], i);
    v->post = vector(l, VISION "post_layernorm.weight", c->dim);
    v->post_bias = vector(l, VISION "post_layernorm.bias", c->dim);
    v->connector = matrix(l, "model.connector.modality_projection.proj.weight", m->config.text.hidden, squared);
}

/* --- memory --- */
/* How many positions the cache holds, and what a sequence may have of them. */
static int plan_cache(struct model *m, const struct model_options *o, struct err *e)
{
    const struct text_config *t = &m->config.text;
    struct model_limits *l = &m->limits;
    m->kv_layout = (struct kv_layout){
        .layers = t->layers, .kv_heads = t->kv_heads, .head_dim = t->head_dim, .block_tokens = l->block_tokens, .dtype = o->kv_dtype};
    uint64_t block_bytes = m->ops->kv_block_bytes(&m->kv_layout), tokens = o->kv_tokens;
    if (tokens == 0) {
        tokens = 4ull * t->max_positions;
        uint64_t most = ((uint64_t)1 << 30) / block_bytes * l->block_tokens;
        if (tokens > most) tokens = most;
    }
    uint64_t blocks = (tokens + l->block_tokens - 1) / l->block_tokens;
    if (blocks == 0 || blocks > UINT32_MAX / l->block_tokens)
        return err_set(e, ERR_INPUT, "KV cache of %llu tokens: out of range", (unsigned long long)tokens);
    l->n_blocks = (uint32_t)blocks;
    l->kv_bytes = blocks * block_bytes;
    uint64_t capacity = blocks * l->block_tokens;
    l->max_context = capacity < t->max_positions ? (uint32_t)capacity : t->max_positions;
    /* The scheduler keeps to max_context; comparisons (`logits`) may go past it. The backend's tables are as long, so not the whole cache. */
    const uint32_t twice = (uint32_t)((2ull * l->max_context + l->block_tokens - 1) / l->block_tokens);
    m->max_blocks = twice < l->n_blocks ? twice : l->n_blocks;
    uint64_t have = m->ops->available(m->device);
    if (l->kv_bytes > have)
        return err_set(e, ERR_MEMORY,
                       "the KV cache of %u blocks of %u tokens needs %llu MiB, %llu MiB of memory are available; lower --kv-tokens",
                       l->n_blocks, l->block_tokens, (unsigned long long)(l->kv_bytes >> 20), (unsigned long long)(have >> 20));
    return m->ops->alloc(m->device, (size_t)l->kv_bytes, &m->kv, e);
}

static int device_rows(struct model *m, float **out, size_t rows, size_t width, struct err *e)
{
    return m->ops->alloc(m->device, rows * width * sizeof **out, (void **)out, e);
}

static int host_array(void *out, size_t n, size_t size, struct err *e)
{
    void *p = calloc(n, size);
    memcpy(out, &p, sizeof p);
    return p ? 0 : err_set(e, ERR_MEMORY, "loading: out of memory");
}

static int plan_step(struct model *m, struct err *e)
{
    const struct text_config *t = &m->config.text;
    const struct vision_config *v = &m->config.vision;
    const size_t rows = m->limits.step_rows, positions = m->limits.tile_px ? (size_t)v->grid * v->grid : 0, groups = MODEL_MAX_SEQUENCES;
    m->sizes = (struct device_limits){.max_rows = rows > MODEL_LOGIT_ROWS ? rows : MODEL_LOGIT_ROWS,
                                      .max_sequences = groups,
                                      .max_blocks_per_sequence = m->max_blocks,
                                      .hidden = t->hidden,
                                      .heads = t->heads,
                                      .kv_heads = t->kv_heads,
                                      .head_dim = t->head_dim,
                                      .inter = t->inter,
                                      .vocab = t->vocab};
    if (positions) {
        m->sizes.vision_rows = positions, m->sizes.vision_dim = v->dim, m->sizes.vision_inter = v->inter,
        m->sizes.vision_head_dim = v->dim / v->heads;
        m->sizes.connector_in = (size_t)v->dim * v->scale * v->scale, m->sizes.patch_in = 3ull * v->patch * v->patch,
        m->sizes.tile_bytes = 3ull * v->image_px * v->image_px;
    }
    int rc = m->ops->reserve(m->device, &m->sizes, e);
    if (!rc) rc = device_rows(m, &m->x, rows, t->hidden, e);
    if (!rc) rc = device_rows(m, &m->attended, rows, (size_t)t->heads * t->head_dim, e);
    if (!rc) rc = device_rows(m, &m->wide, rows, t->inter, e);
    if (!rc) rc = device_rows(m, &m->logits, MODEL_LOGIT_ROWS, t->vocab, e);
    if (!rc && positions) rc = device_rows(m, &m->vision.x, positions, v->dim, e);
    if (!rc && positions) rc = device_rows(m, &m->vision.attended, positions, v->dim, e);
    if (!rc && positions) rc = device_rows(m, &m->vision.wide, positions, v->inter, e);
    if (!rc) rc = host_array(&m->position, rows, sizeof *m->position, e);
    if (!rc) rc = host_array(&m->token, rows, sizeof *m->token, e);
    if (!rc) rc = host_array(&m->sequence, rows, sizeof *m->sequence, e);
    if (!rc) rc = host_array(&m->prefill, rows, sizeof *m->prefill, e);
    if (!rc) rc = host_array(&m->pictures, rows, sizeof *m->pictures, e);
    if (!rc) rc = host_array(&m->logit_row, MODEL_LOGIT_ROWS, sizeof *m->logit_row, e);
    if (!rc) rc = host_array(&m->blocks, groups, sizeof *m->blocks, e);
    return rc;
}

static void describe_weights(const struct model_options *o, char *out, size_t n)
{
    static const char *const names[] = {[MODEL_QUANT_NONE] = "not quantised", [MODEL_QUANT_INT8] = "int8", [MODEL_QUANT_INT4] = "int4",
                                        [MODEL_QUANT_FP8] = "fp8"};
    snprintf(out, n, "%s", names[o->quant]);
    if (o->quant_head != o->quant) snprintf(out + strlen(out), n - strlen(out), ", head %s", names[o->quant_head]);
    if (o->quant_vision) snprintf(out + strlen(out), n - strlen(out), ", vision %s", names[o->quant_vision]);
}

int model_build(struct model *m, const struct model_options *o, const struct tensor_source *src, struct err *e)
{
    const struct model_config *c = &m->config;
    m->ops = backend_find(o->device ? o->device : "auto", o->cuda_library, e);
    if (!m->ops) return -(int)(e ? e->code : ERR_UNSUPPORTED);
    int rc = m->ops->open(
        &m->device,
        &(struct device_options){
            .compute = o->compute, .fast = o->fast, .threads = o->threads, .pin_threads = o->pin_threads, .isa = o->isa,
            .progress = o->progress, .gpu = o->gpu},
        e);
    if (rc) return rc;
    struct model_limits *l = &m->limits;
    l->vocab = c->text.vocab, l->hidden = c->text.hidden, l->layers = c->text.layers, l->image_token = c->image_token;
    l->block_tokens = (uint32_t)m->ops->kv_block_tokens(m->device);
    l->step_rows = o->step_rows ? o->step_rows : m->ops->fill_rows > 512 ? m->ops->fill_rows : 512;
    l->fill_rows = m->ops->fill_rows < l->step_rows ? m->ops->fill_rows : l->step_rows;
    l->two_paths = m->ops->two_paths, l->queues = m->ops->sampled != NULL;
    if (c->family->vision) {
        uint32_t side = c->vision.grid / c->vision.scale;
        l->tile_px = c->vision.image_px, l->tile_layers = c->vision.layers, l->tokens_per_tile = side * side;
    }
    m->ops->describe(m->device, l->device, sizeof l->device);
    if (m->ops->bus_id) m->ops->bus_id(m->device, l->bus_id, sizeof l->bus_id);
    struct loader load = {.m = m, .src = src, .e = e, .o = *o};
    load_text(&load);
    if (c->family->vision) load_vision(&load);
    describe_weights(&load.o, l->weights, sizeof l->weights);
    l->weight_bytes = load.weight_bytes;
    rc = load.rc ? load.rc : plan_cache(m, o, e);
    return rc ? rc : plan_step(m, e);
}

/* --- closing --- */
static void free_text(struct model *m)
{
    for (uint32_t i = 0; m->layers && i < m->config.text.layers; i++) {
        struct text_layer *t = &m->layers[i];
        struct weight *weights[] = {t->qkv, t->o, t->gate_up, t->down};
        for (size_t k = 0; k < sizeof weights / sizeof *weights; k++) m->ops->weight_free(m->device, weights[k]);
        m->ops->free(m->device, t->norm_in);
        m->ops->free(m->device, t->norm_post);
    }
    if (m->head != m->embed) m->ops->weight_free(m->device, m->head);
    m->ops->weight_free(m->device, m->embed);
    free(m->layers);
}

static void free_vision(struct model *m)
{
    struct vision *v = &m->vision;
    for (uint32_t i = 0; v->layers && i < m->config.vision.layers; i++) {
        struct vision_layer *l = &v->layers[i];
        struct weight *weights[] = {l->qkv, l->o, l->fc1, l->fc2};
        float *rows[] = {l->qkv_bias, l->o_bias, l->fc1_bias, l->fc2_bias, l->ln1, l->ln1_bias, l->ln2, l->ln2_bias};
        for (size_t k = 0; k < sizeof weights / sizeof *weights; k++) m->ops->weight_free(m->device, weights[k]);
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) m->ops->free(m->device, rows[k]);
    }
    m->ops->weight_free(m->device, v->patch);
    m->ops->weight_free(m->device, v->connector);
    float *rows[] = {v->patch_bias, v->position, v->post, v->post_bias, v->x, v->attended, v->wide};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) m->ops->free(m->device, rows[k]);
    free(v->layers);
}

void model_close(struct model *m)
{
    if (!m) return;
    if (m->device) {
        free_text(m);
        free_vision(m);
        void *slabs[] = {m->kv, m->norm, m->x, m->attended, m->wide, m->logits};
        for (size_t k = 0; k < sizeof slabs / sizeof *slabs; k++) m->ops->free(m->device, slabs[k]);
        m->ops->close(m->device);
    }
    void *arrays[] = {m->position, m->token, m->sequence, m->prefill, m->pictures, m->logit_row, m->blocks};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) free(arrays[k]);
    free(m);
}
