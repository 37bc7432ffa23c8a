/* Hosted bill: what a hosted answer has come to, from what its provider told or, where it told nothing, from what was seen of it. */
#ifndef SPILLWAY_SERVER_HOSTED_BILL_H
#define SPILLWAY_SERVER_HOSTED_BILL_H

#include "base/json.h"
#include "server/accounts/ledger.h"
#include "server/hosted.h"

enum { HOSTED_IMAGE_TOKENS = 6000 /* no provider of the table counts more for one picture */ };

struct hosted_bill {
    const struct hosted_model *model;
    int64_t max_tokens, n;                /* sent upstream; choices */
    int64_t prompt_most, prompt_estimate; /* tokens: a bound, and a guess (bytes / 4) */
    int64_t hold_nusd;                    /* the most that it can cost */
    int64_t out_bytes, told_bytes;        /* of text, reasoning and arguments that came; of them, before usage was last told */
    bool told;                            /* usage is the provider's */
    bool left;                            /* it was cut by us, the client's leaving or its deadline, when the provider had the request */
    struct usage usage;
    enum price_service service;
    char raw[2048];
};

/* Bounds the prompt and the cost of a request (OpenAI's chat form). -ERR_PRICE: something that it may use has no price. */
MUST_USE int hosted_bill_init(struct hosted_bill *b, const struct hosted_model *m, const json_t *request, int64_t max_tokens, int64_t n, struct err *e);
/* The provider's usage, each one in place of the one before. */
void hosted_bill_usage(struct hosted_bill *b, const struct usage *u, const char *raw);
/* The post or void of an answer that ended so. Nothing came and nothing was told: it costs nothing,
 * unless it was we who left: then the provider has read the prompt. out->used points into b. */
void hosted_bill_end(const struct hosted_bill *b, enum ledger_end end, struct ledger_op *out);

#endif
