/* Families: one row a model architecture, data only. Adding one is a file here and a line in families.c. */
#ifndef SPILLWAY_ENGINE_FAMILIES_FAMILIES_H
#define SPILLWAY_ENGINE_FAMILIES_FAMILIES_H

#include "weights/config.h"

extern const struct family family_llama, family_smollm3, family_idefics3, family_smolvlm;
/* All of them, ended by NULL. */
extern const struct family *const families[];

#endif
