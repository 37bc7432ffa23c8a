/* Gateway: what the endpoints share. Owned by `serve`, used on the loop's thread; models and prompt models are
 * immutable once serving. */
#ifndef SPILLWAY_SERVER_GATEWAY_H
#define SPILLWAY_SERVER_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/prompt.h"
#include "server/accounts/accounts.h"
#include "server/counts.h"
#include "server/edge.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/media_proc.h"
#include "server/pool.h"
#include "server/quarantine.h"
#include "server/worker_proc.h"

enum { GATEWAY_MAX_MODELS = 64 };

struct gateway;

struct gateway_model {
    struct gateway *gateway;
    char id[256];
    char path[4096];
    struct prompt_model *prompt;
    struct worker_proc *worker;
    struct quarantine *quarantine;
    struct local *waiting; /* source_local.c: requests that came while the worker is restarted */
    _Atomic uint32_t max_context; /* the smaller of the model's and the worker's; 0 until the worker was ready once */
    int64_t created_s;
};

struct gateway {
    struct loop *loop;
    struct pool *pool;
    struct http_server *http;
    struct edge edge;
    struct limits limits; /* for requests from now on; changes when the configuration is read again */
    struct media_pool *media;
    struct accounts *accounts; /* NULL: --no-auth */
    struct gateway_model *models[GATEWAY_MAX_MODELS];
    size_t n_models;
    int64_t default_max_tokens;
    int64_t started_ms;        /* by the boot clock */
    int64_t accounts_fresh_ms; /* when the store was last seen to be readable */
    bool draining;
    struct completion *completions; /* alive, also those whose client is gone */
    size_t n_completions;
    struct counts *per_key;  /* completions by the key's id */
    int64_t n_prompt_tokens; /* of all completions */
};

/* NULL if there is no such model. */
struct gateway_model *gateway_model_find(const struct gateway *g, const char *id, size_t n);
struct endpoint;
/* Ends the program if one of them says too little, above all not who may call it. Before serving. */
void gateway_check_endpoints(const struct endpoint *const *endpoints, size_t n);
/* The callbacks of struct http_config: routing by the table of endpoints, keys, errors of both. */
void gateway_begin(void *gateway, struct http_request *r);
void gateway_handle(void *gateway, struct http_request *r);
void gateway_refuse(void *gateway, struct http_request *r, enum http_refusal why, const char *text);

#endif
