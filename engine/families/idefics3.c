/* SmolVLM: Idefics3ForConditionalGeneration, a SigLIP encoder and pixel shuffle before a Llama text model. */
#include "engine/families/families.h"

const struct family family_idefics3 = {.architecture = "Idefics3ForConditionalGeneration",
                                       .text_prefix = "model.text_model.",
                                       .vision = true,
                                       .rms_norm_eps = 1e-6f,
                                       .rope_theta = 10000};
