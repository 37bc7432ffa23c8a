/* Config: config.json of a model folder, checked and made uniform over the families and over old and new spellings.
 *
 * A family (engine/families/) gives what its files leave out: data only. Every number is range-checked; errors name the field
 * ("config.json: text_config.num_hidden_layers"). Reading rules: docs/model.md, "Model files". */
#ifndef SPILLWAY_WEIGHTS_CONFIG_H
#define SPILLWAY_WEIGHTS_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_HEAD_DIM = 256 };

/* What a family's class assumes where config.json is silent, and where its tensors are. */
struct family {
    const char *architecture; /* architectures[0] */
    const char *text_prefix;  /* "model." or "model.text_model." */
    bool vision;              /* text values in text_config, vision in vision_config */
    float rms_norm_eps;
    double rope_theta; /* used with a warning: never silently */
    bool tie_word_embeddings;
    uint32_t no_rope_interval; /* every n-th layer goes without rope; 0: all have it */
};

struct text_config {
    uint32_t hidden, layers, heads, kv_heads, head_dim, inter, vocab, max_positions;
    float norm_eps;
    bool tied;
    bool rope[CONFIG_MAX_LAYERS];
    float inv_freq[CONFIG_MAX_HEAD_DIM / 2]; /* YaRN applied */
    float rope_scale;                        /* multiplies cos and sin */
};

struct vision_config {
    uint32_t dim, layers, heads, inter, image_px, patch, grid, scale; /* layers, inter 0: the file is silent, the tensors tell */
    float norm_eps;
};

struct model_config {
    const struct family *family;
    struct text_config text;
    struct vision_config vision; /* family->vision only */
    int32_t image_token;         /* -1: none */
    bool fp8;                    /* F8_E4M3 tensors are matrices with a scale an output, NAME_scale; activations take theirs as they come */
};

struct json_t; /* Jansson's; named here only, so that who reads no files needs no Jansson */
/* families ends with a NULL. */
MUST_USE int config_read(struct model_config *c, const struct json_t *config, const struct family *const *families, struct err *e);

#endif
