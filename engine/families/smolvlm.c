/* SmolVLM2: SmolVLMForConditionalGeneration, the same names, shapes and formulas as Idefics3. */
#include "engine/families/families.h"

const struct family family_smolvlm = {.architecture = "SmolVLMForConditionalGeneration",
                                      .text_prefix = "model.text_model.",
                                      .vision = true,
                                      .rms_norm_eps = 1e-6f,
                                      .rope_theta = 10000};
