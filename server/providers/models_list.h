/* The list of models that a host tells (GET /models), in any of the hosts' forms: OpenAI's data[] of ids, Gemini's models[] of names,
 * the Hugging Face router's with prices and speeds of each of its providers, OpenRouter's with prices. For the price book and for
 * routing.
 *
 * Prices are nano-dollars per million tokens, converted exactly from the decimal text; what is missing, negative or no number is -1,
 * never 0. */
#ifndef SPILLWAY_SERVER_PROVIDERS_MODELS_LIST_H
#define SPILLWAY_SERVER_PROVIDERS_MODELS_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/json.h"
#include "server/providers/provider.h"

enum { MODELS_MAX_BYTES = 32 << 20 };

/* One place where a model can be had: of the router, each of its providers; else one without a name. */
struct model_offer {
    const char *provider; /* "" */
    bool live;
    int64_t context_length; /* -1: not told */
    int64_t in_nusd, out_nusd, cache_read_nusd;
    int supports_tools, supports_schema;  /* 1, 0; -1: not told */
    int64_t first_token_ms, tokens_per_s; /* -1: not told */
};

struct model_entry {
    const char *id;
    bool takes_images;
    struct model_offer *offers;
    size_t n_offers;
};

struct models_list {
    struct model_entry *models;
    size_t n_models;
};

/* Everything is in the arena. A model that is malformed is left out; -ERR_INPUT: this is no list of models. */
MUST_USE int models_list_read(struct models_list *out, const struct provider *p, const char *body, size_t n, struct arena *arena,
                              struct err *e);
/* Decimal text (dollars per so many tokens) to nano-dollars per million of them; false: not a price. per_million: the text is per
 * million tokens, else per token. Exact, or refused. */
bool models_price_parse(const char *text, bool per_million, int64_t *nusd);
/* What upstream_get wants. */
const char *models_list_path(const struct provider *p);

#endif
