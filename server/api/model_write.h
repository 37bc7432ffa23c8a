/* Pieces of answers about models, shared by /v1/models, /admin/models and /healthz. */
#ifndef SPILLWAY_SERVER_API_MODEL_WRITE_H
#define SPILLWAY_SERVER_API_MODEL_WRITE_H

#include <sys/types.h>

#include "base/buf.h"
#include "base/json.h"
#include "server/accounts/rules.h"
#include "server/gateway.h"

/* {"id":..., "object":"model", ... without the closing brace: what OpenAI has, then context_length, modalities and state, and where GPUs were
 * named, how the worker on each is. */
void model_write_begin(struct buf *b, const struct gateway_model *m);
/* A hosted model, whole: what the local ones have, and in `spillway` whose it is, what it can, what it costs and how it is now. */
void model_write_hosted(struct buf *b, const struct gateway *g, const struct hosted_model *m);
/* ,"prices":{...}: what the tariff's sale costs. */
void model_write_prices(struct buf *b, const struct tariff *t);
void model_write_alias(struct buf *b, const struct name_alias *a, int64_t created_s);
/* Whether an account's rules let its requests go there, as routing holds them (completion_route.c). */
bool model_hosted_allowed(const struct account_rules *r, const struct gateway *g, const struct hosted_model *m);
/* "host/model"; NULL: there is none. */
const struct hosted_model *model_find_hosted(const struct hosted *h, const char *id);
/* Sends b and frees it; an error if it did not fit. */
void model_reply(struct http_request *r, unsigned status, struct buf *b);
void model_reply_unknown(struct http_request *r, const char *id); /* 404 */
/* What a worker says of itself, if that is text; "unknown" until then. */
const char *replica_device(const struct gateway_replica *r);
int64_t process_resident_bytes(pid_t pid); /* 0 if it cannot be told */

#endif
