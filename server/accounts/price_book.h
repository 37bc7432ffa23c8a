/* Price book: what providers take for a model, and what a request costs by it. Pure: no database, no clock, no floating point.
 *
 * Money is int64 nano-dollars. A price is so many nano-dollars for 1, 1,000 or 1,000,000 units of a meter (usage.h), so that every price
 * that providers publish is exact. A request's cost is one line: the exact sum over its meters, rounded once, half up, to a whole
 * nano-dollar. A price that is not known is an error and never 0; 0 is only what a table calls free.
 *
 * A book is read whole or not at all, and never changes. Who holds a book's prices over time (a request, from its reservation to its
 * settlement) holds the book: so the version that was reserved is the one that is settled, whatever is loaded in between. When a new table
 * is malformed, the caller keeps the book it has. docs/prices.md has the file's format. Start with price_book_read, price_cost. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_PRICE_BOOK_H
#define SPILLWAY_SERVER_ACCOUNTS_PRICE_BOOK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "server/accounts/usage.h"

enum { PRICE_MAX_NAME = 200, PRICE_MAX_MODELS = 20000, PRICE_MAX_TIERS = 64, PRICE_MAX_VERSION = 100 };
enum { PRICE_VERSION_BYTES = PRICE_MAX_VERSION + 18 };

/* Tiers of service. What a request was served in is what the provider's answer says. */
enum price_service { PRICE_STANDARD, PRICE_BATCH, PRICE_FLEX, PRICE_PRIORITY, PRICE_FAST, PRICE_ULTRAFAST, PRICE_SERVICES };
#define PRICE_SERVICE_BIT(service) (1u << (service))

/* Mark-ups are hundredths of a percent: 750 is 7.5 %. */
enum { PRICE_MARKUP_WHOLE = 10000, PRICE_MAX_MARKUP = 10 * PRICE_MARKUP_WHOLE };

/* What a model can do, bits of price.can; PRICE_FREE is part of them. */
enum price_can {
    PRICE_CAN_IMAGE = 1 << 0, /* takes pictures; audio, video, documents */
    PRICE_CAN_AUDIO = 1 << 1,
    PRICE_CAN_VIDEO = 1 << 2,
    PRICE_CAN_FILE = 1 << 3,
    PRICE_CAN_AUDIO_OUT = 1 << 4, /* answers with it */
    PRICE_CAN_IMAGE_OUT = 1 << 5,
    PRICE_CAN_TOOLS = 1 << 6,
    PRICE_CAN_SCHEMA = 1 << 7, /* structured output */
    PRICE_CAN_REASONING = 1 << 8,
    PRICE_CAN_CACHING = 1 << 9,
    PRICE_CAN_SEARCH = 1 << 10,
    PRICE_RESPONSES_ONLY = 1 << 11, /* is not served at /chat/completions */
    PRICE_FREE = 1 << 12            /* its prices are 0, and the source says so */
};

struct price_rate {
    int64_t nano;  /* > 0; 0 if the model is free */
    int32_t units; /* for so many: 1, 1000 or 1000000; 0: no price is known */
};

/* The prices of one tier. It holds for requests of its service whose input (USAGE_IN) has context_from tokens or more, up to the next
 * tier's. */
struct price_tier {
    enum price_service service;
    int64_t context_from;
    struct price_rate rate[USAGE_METERS]; /* with what the table leaves out filled in by price_read.c's rule */
};

struct price {
    const char *provider, *model; /* the model as it is named to the provider */
    const char *region;           /* "": wherever nothing else is said */
    const char *version;          /* of the book: the table's own, and a digest of its text */
    int64_t context, max_output;  /* tokens; 0: not known */
    uint32_t can;
    uint32_t n_tiers;
    const struct price_tier *tiers; /* by service, then by context_from; the first is PRICE_STANDARD from 0 */
};

struct price_book {
    struct arena arena;
    struct price *prices; /* by provider, model, region */
    size_t n_prices;
    char version[PRICE_VERSION_BYTES], date[11];
    atomic_uint holders;
};

/* Reads a table. what names the text in errors, which tell the model and the field. -ERR_INPUT, -ERR_LIMIT, -ERR_MEMORY: *out is NULL,
 * nothing of the table is kept. The book has one holder, the caller. */
MUST_USE int price_book_read(struct price_book **out, const char *text, size_t n, const char *what, struct err *e);
/* The same of a file; -ERR_NOT_FOUND if it is not there. */
MUST_USE int price_book_open(struct price_book **out, const char *path, struct err *e);
/* Reads what price_write has written, under the version it had: an amount can be computed again long after its table was replaced. A book
 * of one price. */
MUST_USE int price_book_read_stored(struct price_book **out, const char *text, size_t n, const char *version, struct err *e);
/* From any thread. Its prices are there until the last holder lets go. */
struct price_book *price_book_hold(struct price_book *b);
void price_book_release(struct price_book *b); /* accepts NULL */

/* The price in that region, else the one of no region. An OpenAI fine-tuned model (ft:BASE:owner:...) without a price of its own has that
 * of ft:BASE. region may be NULL. NULL: there is none, and the request must be refused. */
const struct price *price_find(const struct price_book *b, const char *provider, const char *model, const char *region);

/* Nano-dollars of what was used, in the tier that its input and service choose. -ERR_UNSUPPORTED (what clients know as price_unknown):
 * something was used that has no price, or the model is not sold in that service; -ERR_INPUT: a record without any count, or with a
 * negative one; -ERR_LIMIT: past int64. *nusd is set on success only. */
MUST_USE int price_cost(const struct price *p, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e);
/* The same with a mark-up (0 to PRICE_MAX_MARKUP) on the exact sum: the line is rounded once all the same. */
MUST_USE int price_cost_marked(const struct price *p, const struct usage *u, enum price_service service, int64_t markup, int64_t *nusd,
                               struct err *e);
/* Whether it has prices for that service. */
bool price_is_sold(const struct price *p, enum price_service service);

/* A request before it runs. */
struct price_ask {
    int64_t input_tokens, output_tokens, searches; /* at most; not negative */
    uint32_t meters;                               /* USAGE_BIT of each that it can cause */
    /* PRICE_SERVICE_BIT of each in which it may be served; those the model is not sold in count for nothing */
    uint32_t services;
};
/* The most that it can cost: no usage within the ask costs more, whatever tier it ends in. Errors as of price_cost; a meter of the ask
 * that may be counted and has no price is one of them. */
MUST_USE int price_bound(const struct price *p, const struct price_ask *ask, int64_t *nusd, struct err *e);
MUST_USE int price_bound_marked(const struct price *p, const struct price_ask *ask, int64_t markup, int64_t *nusd, struct err *e);

/* Appends the price as one JSON object in the table's form, every rate spelled out. For price_book_read_stored. */
int price_write(struct buf *b, const struct price *p);

/* "standard", "flex", ...; "image", "tools", ...: bit is 0 and up, NULL past the last. */
const char *price_service_name(enum price_service service);
const char *price_can_name(unsigned bit);

#endif
