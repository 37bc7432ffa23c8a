/* Hosted bill: what a hosted answer has come to, from what its provider told or, where it told nothing, from what was seen of it. */
#ifndef SPILLWAY_SERVER_HOSTED_BILL_H
#define SPILLWAY_SERVER_HOSTED_BILL_H

#include "base/json.h"
#include "server/accounts/ledger.h"
#include "server/accounts/tariff.h"
#include "server/hosted.h"

/* Why somebody should look at an attempt that was charged the most that it can cost. */
#define HOSTED_NO_PRICE "something was used that has no price"

enum { HOSTED_IMAGE_TOKENS = 6000 /* no provider of the table counts more for one picture */ };

struct hosted_bill {
    const struct hosted_model *model;
    struct tariff tariff;                 /* borrows from the table that the request holds */
    int64_t max_tokens, n;                /* sent upstream; choices */
    int64_t prompt_most, prompt_estimate; /* tokens: a bound, and a guess (bytes / 4) */
    int64_t hold_nusd, cost_most_nusd;    /* the most that it can be sold for, and cost us */
    int64_t out_bytes, told_bytes;        /* of text, reasoning and arguments that came; of them, before usage was last told */
    bool told;                            /* usage is the provider's */
    bool left;                            /* it was cut by us, the client's leaving or its deadline, when the provider had the request */
    bool unsure;                          /* it broke off, and has not said that it refuses */
    struct usage usage;
    enum price_service service;           /* as told */
    bool tier_unknown;                    /* one was told that prices know nothing of */
    char raw[2048];
};

/* Bounds the prompt and the cost of a request (OpenAI's chat form). -ERR_PRICE: something that it may use has no price, or the model has none for the
 * service_tier that it asks for. */
MUST_USE int hosted_bill_init(struct hosted_bill *b, const struct hosted_model *m, const struct tariff *t, const json_t *request, int64_t max_tokens,
                              int64_t n, struct err *e);
/* The same request once more, of which nothing has been seen yet. */
void hosted_bill_again(struct hosted_bill *b, const struct hosted_bill *former);
/* The tier of service that the answer says it was served in; NULL: it says nothing. */
void hosted_bill_tier(struct hosted_bill *b, const char *word);
/* The provider's usage, each one in place of the one before. */
void hosted_bill_usage(struct hosted_bill *b, const struct usage *u, const char *raw);
/* The post or void of an answer that ended so. Nothing came and nothing was told: it costs nothing,
 * unless it was we who left: then the provider has read the prompt. out->used points into b. */
void hosted_bill_end(const struct hosted_bill *b, enum ledger_end end, struct ledger_op *out);

#endif
