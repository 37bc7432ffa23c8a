/* The forward pass: reads top to bottom as the transformer does, the same for every family and backend. See model.h.
 *
 *   text:    embed -> layers x { qkv (norm, product, rope, append) -> attention -> project o -> gate_up (norm, silu) -> project down } -> head
 *   vision:  patch_embed -> layers x { qkv (layernorm) -> attention -> project o -> up (layernorm, gelu) -> project fc2 } -> connect
 *
 * Nothing is allocated here but pictures. Everything checked here is our own caller's (the engine checks what comes from outside). */
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

#include "engine/model_parts.h"

/* --- text --- */
struct step {
    size_t n_rows, n_sequences;
};

/* Rows of the groups one after another; image tokens become "row n of a picture" (embed_args.token < 0). */
static int lay_out(struct model *m, const struct model_group *groups, size_t n_groups, struct step *s, struct err *e)
{
    *s = (struct step){0};
    m->n_logits = 0;
    if (n_groups > MODEL_MAX_SEQUENCES) return err_set(e, ERR_LIMIT, "step: %zu groups, the limit is %d", n_groups, MODEL_MAX_SEQUENCES);
    for (size_t i = 0; i < n_groups; i++) {
        const struct model_group *g = &groups[i];
        if (g->n_rows == 0 || s->n_rows + g->n_rows > m->limits.step_rows)
            return err_set(e, ERR_LIMIT, "step: more than %u rows", m->limits.step_rows);
        if ((uint64_t)g->first_position + g->n_rows > (uint64_t)m->max_blocks * m->limits.block_tokens)
            return err_set(e, ERR_CONTEXT, "step: position %u is past the longest sequence", g->first_position + g->n_rows);
        m->blocks[s->n_sequences] = g->blocks;
        uint32_t picture_row = g->picture_row;
        for (uint32_t r = 0; r < g->n_rows; r++) {
            size_t row = s->n_rows++;
            int32_t token = g->tokens[r];
            CHECK(token >= 0 && (uint32_t)token < m->limits.vocab);
            if (g->picture && token == m->limits.image_token) {
                CHECK(picture_row < g->picture->n_rows);
                token = -1 - (int32_t)picture_row++;
            }
            m->token[row] = token;
            m->pictures[row] = g->picture ? g->picture->rows : NULL;
            m->position[row] = (int32_t)(g->first_position + r);
            m->sequence[row] = (uint32_t)s->n_sequences;
            m->prefill[row] = g->prefill;
            if (!(g->all_logits || (g->logits && r + 1 == g->n_rows))) continue;
            if (m->n_logits == MODEL_LOGIT_ROWS) return err_set(e, ERR_LIMIT, "step: more than %d rows of logits", MODEL_LOGIT_ROWS);
            m->logit_row[m->n_logits++] = (uint32_t)row;
        }
        s->n_sequences++;
    }
    return 0;
}

static int text_layer(struct model *m, size_t i, size_t rows, struct err *e)
{
    const struct text_config *t = &m->config.text;
    const struct text_layer *l = &m->layers[i];
    struct device *d = m->device;
    const size_t attended = (size_t)t->heads * t->head_dim;
    const struct rope rope = {.inv_freq = t->rope[i] ? t->inv_freq : NULL, .scale = t->rope_scale};
    const struct qkv_args qkv = {.x = m->x,
                                 .norm = l->norm_in,
                                 .eps = t->norm_eps,
                                 .w = l->qkv,
                                 .hidden = t->hidden,
                                 .heads = t->heads,
                                 .rope = rope,
                                 .kv = m->kv,
                                 .layout = &m->kv_layout,
                                 .layer = i};
    const struct attention_args attention = {.out = m->attended, .heads = t->heads, .kv = m->kv, .layout = &m->kv_layout, .layer = i};
    const struct project_args o = {.x = m->x, .in = m->attended, .w = l->o, .rows = rows, .n = t->hidden, .k = attended};
    const struct gate_up_args gate_up = {
        .x = m->x, .norm = l->norm_post, .eps = t->norm_eps, .w = l->gate_up, .out = m->wide, .hidden = t->hidden, .inter = t->inter};
    const struct project_args down = {.x = m->x, .in = m->wide, .w = l->down, .rows = rows, .n = t->hidden, .k = t->inter};
    int rc = m->ops->qkv(d, &qkv, e);
    if (!rc) rc = m->ops->attention(d, &attention, e);
    if (!rc) rc = m->ops->project(d, &o, e);
    if (!rc) rc = m->ops->gate_up(d, &gate_up, e);
    if (!rc) rc = m->ops->project(d, &down, e);
    return rc;
}

int model_step(struct model *m, const struct model_group *groups, size_t n_groups, struct err *e)
{
    const struct text_config *t = &m->config.text;
    struct step s;
    int rc = lay_out(m, groups, n_groups, &s, e);
    if (rc) return rc;
    const struct step_plan plan = {.n_rows = s.n_rows,
                                   .position = m->position,
                                   .sequence = m->sequence,
                                   .prefill = m->prefill,
                                   .n_sequences = s.n_sequences,
                                   .blocks = m->blocks,
                                   .n_logits = m->n_logits};
    const struct rope rope = {t->inv_freq, t->rope_scale};
    const struct embed_args embed = {.table = m->embed, .token = m->token, .pictures = m->pictures, .x = m->x, .hidden = t->hidden};
    const struct head_args head = {.x = m->x,
                                   .row = m->logit_row,
                                   .n = m->n_logits,
                                   .norm = m->norm,
                                   .eps = t->norm_eps,
                                   .w = m->head,
                                   .logits = m->logits,
                                   .hidden = t->hidden,
                                   .vocab = t->vocab};
    rc = m->ops->plan(m->device, &plan, &rope, t->head_dim, e);
    if (!rc) rc = m->ops->embed(m->device, &embed, e);
    for (size_t i = 0; i < t->layers && !rc; i++) rc = text_layer(m, i, s.n_rows, e);
    return rc || m->n_logits == 0 ? rc : m->ops->head(m->device, &head, e);
}

const float *model_logits(const struct model *m, size_t i)
{
    CHECK(i < m->n_logits);
    return m->logits + i * m->config.text.vocab;
}

int model_read_logits(struct model *m, size_t i, float *out, struct err *e)
{
    return m->ops->read_back(m->device, out, model_logits(m, i), m->config.text.vocab * sizeof *out, e);
}

int model_sample_begin(struct model *m, const struct sample_row *rows, size_t n, struct sample_result *out, struct err *e)
{
    return m->ops->sample(m->device, rows, n, m->config.text.vocab, out, e);
}

int model_sampled(struct model *m, struct err *e)
{
    return m->ops->sampled ? m->ops->sampled(m->device, e) : 0;
}

int model_sample(struct model *m, const struct sample_row *rows, size_t n, struct sample_result *out, struct err *e)
{
    int rc = model_sample_begin(m, rows, n, out, e);
    return rc ? rc : model_sampled(m, e);
}

/* --- vision --- */
static int vision_layer(struct model *m, size_t i, size_t positions, struct err *e)
{
    const struct vision_config *c = &m->config.vision;
    const struct vision *v = &m->vision;
    const struct vision_layer *l = &v->layers[i];
    struct device *d = m->device;
    const struct vision_qkv_args qkv = {.x = v->x,
                                        .norm_weight = l->ln1,
                                        .norm_bias = l->ln1_bias,
                                        .eps = c->norm_eps,
                                        .w = l->qkv,
                                        .bias = l->qkv_bias,
                                        .rows = positions,
                                        .dim = c->dim};
    const struct vision_attention_args attention = {
        .out = v->attended, .n_tiles = 1, .positions = positions, .heads = c->heads, .head_dim = c->dim / c->heads};
    const struct project_args o = {.x = v->x, .in = v->attended, .w = l->o, .bias = l->o_bias, .rows = positions, .n = c->dim, .k = c->dim, .tiles = true};
    const struct vision_up_args up = {.x = v->x,
                                      .norm_weight = l->ln2,
                                      .norm_bias = l->ln2_bias,
                                      .eps = c->norm_eps,
                                      .w = l->fc1,
                                      .bias = l->fc1_bias,
                                      .out = v->wide,
                                      .rows = positions,
                                      .dim = c->dim,
                                      .inter = c->inter};
    const struct project_args fc2 = {
        .x = v->x, .in = v->wide, .w = l->fc2, .bias = l->fc2_bias, .rows = positions, .n = c->dim, .k = c->inter, .tiles = true};
    int rc = m->ops->vision_qkv(d, &qkv, e);
    if (!rc) rc = m->ops->vision_attention(d, &attention, e);
    if (!rc) rc = m->ops->project(d, &o, e);
    if (!rc) rc = m->ops->vision_up(d, &up, e);
    if (!rc) rc = m->ops->project(d, &fc2, e);
    return rc;
}

int model_encode_layers(struct model *m, struct picture *p, uint32_t tile, const uint8_t *pixels, uint32_t first, uint32_t n, struct err *e)
{
    const struct vision_config *c = &m->config.vision;
    const struct vision *v = &m->vision;
    CHECK(m->limits.tile_px && tile < p->n_tiles && n > 0 && first < c->layers && n <= c->layers - first);
    const size_t positions = (size_t)c->grid * c->grid;
    float *out = p->rows + (size_t)tile * m->limits.tokens_per_tile * m->config.text.hidden;
    struct patch_args patches = {.tiles = pixels,
                                 .n_tiles = 1,
                                 .tile_px = c->image_px,
                                 .patch = c->patch,
                                 .grid = c->grid,
                                 .dim = c->dim,
                                 .rescale = m->images.rescale,
                                 .w = v->patch,
                                 .bias = v->patch_bias,
                                 .position = v->position,
                                 .x = v->x};
    const struct connect_args connect = {.x = v->x,
                                         .norm_weight = v->post,
                                         .norm_bias = v->post_bias,
                                         .eps = c->norm_eps,
                                         .n_tiles = 1,
                                         .grid = c->grid,
                                         .scale = c->scale,
                                         .dim = c->dim,
                                         .w = v->connector,
                                         .out = out,
                                         .hidden = m->config.text.hidden};
    memcpy(patches.shift, m->images.mean, sizeof patches.shift);
    memcpy(patches.scale, m->images.std, sizeof patches.scale);
    int rc = first == 0 ? m->ops->patch_embed(m->device, &patches, e) : 0;
    for (size_t i = first; i < first + n && !rc; i++) rc = vision_layer(m, i, positions, e);
    return rc || first + n < c->layers ? rc : m->ops->connect(m->device, &connect, e);
}

int model_encode_tile(struct model *m, struct picture *p, uint32_t tile, const uint8_t *pixels, struct err *e)
{
    return model_encode_layers(m, p, tile, pixels, 0, m->config.vision.layers, e);
}

int picture_new(struct model *m, uint32_t n_tiles, struct picture **out, struct err *e)
{
    *out = NULL;
    if (m->limits.tile_px == 0) return err_set(e, ERR_UNSUPPORTED, "this model takes no pictures");
    struct picture *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "picture: out of memory");
    p->n_tiles = n_tiles;
    p->n_rows = n_tiles * m->limits.tokens_per_tile;
    int rc = m->ops->alloc(m->device, (size_t)p->n_rows * m->config.text.hidden * sizeof *p->rows, (void **)&p->rows, e);
    if (rc)
        free(p);
    else
        *out = p;
    return rc;
}

void picture_free(struct model *m, struct picture *p)
{
    if (!p) return;
    m->ops->free(m->device, p->rows);
    free(p);
}

uint64_t picture_tile_bytes(const struct model *m)
{
    return (uint64_t)m->limits.tokens_per_tile * m->config.text.hidden * sizeof(float);
}

int picture_copy_tile(struct model *m, struct picture *to, uint32_t to_tile, const struct picture *from, uint32_t from_tile, struct err *e)
{
    const size_t n = (size_t)m->limits.tokens_per_tile * m->config.text.hidden;
    CHECK(to_tile < to->n_tiles && from_tile < from->n_tiles);
    return m->ops->copy(m->device, to->rows + to_tile * n, from->rows + from_tile * n, n * sizeof(float), e);
}

int model_copy_block(struct model *m, uint32_t from, uint32_t to, struct err *e)
{
    const size_t bytes = m->ops->kv_block_bytes(&m->kv_layout);
    CHECK(from < m->limits.n_blocks && to < m->limits.n_blocks && from != to);
    return m->ops->copy(m->device, (char *)m->kv + to * bytes, (const char *)m->kv + from * bytes, bytes, e);
}

const struct model_limits *model_limits(const struct model *m)
{
    return &m->limits;
}
