/* The list of families. */
#include "engine/families/families.h"

const struct family *const families[] = {&family_llama, &family_smollm3, &family_idefics3, &family_smolvlm, 0};
