/* SmolLM3: as Llama, but every fourth layer has no rope, and heads are tied by default. Defaults: transformers' SmolLM3Config. */
#include "engine/families/families.h"

const struct family family_smollm3 = {.architecture = "SmolLM3ForCausalLM",
                                      .text_prefix = "model.",
                                      .rms_norm_eps = 1e-6f,
                                      .rope_theta = 2000000,
                                      .tie_word_embeddings = true,
                                      .no_rope_interval = 4};
