/* Prompt, inner part: the struct behind prompt.h, shared by prompt_model.c, prompt_messages.c and prompt.c. */
#ifndef SPILLWAY_ENGINE_PROMPT_MODEL_H
#define SPILLWAY_ENGINE_PROMPT_MODEL_H

#include "engine/prompt.h"
#include "engine/text/template.h"

struct prompt_model {
    struct prompt_info info;
    struct tokenizer *tokenizer;
    struct template *template;     /* NULL: none */
    json_t *variables;             /* the model's part of the template's context: bos_token ..., add_generation_prompt */
    bool takes_string, takes_list; /* forms of `content` that the template renders; both false without a template */
    int32_t *eos, *banned;
};

#endif
