/* SmolLM, SmolLM2: LlamaForCausalLM. Defaults: transformers' LlamaConfig. */
#include "engine/families/families.h"

const struct family family_llama = {
    .architecture = "LlamaForCausalLM", .text_prefix = "model.", .rms_norm_eps = 1e-6f, .rope_theta = 10000};
