/* Gateway: what the endpoints share. Owned by `serve`, used on the loop's thread.
 *
 * Models come and go while it serves (gateway_models.c). A model is looked up by requests on pool threads, so the list is read and written under
 * models_lock, but for reads on the loop's thread, which alone writes it. Who holds a model (gateway_model_hold) may use it until
 * gateway_model_release; one that is unloaded is freed with its last holder. */
#ifndef SPILLWAY_SERVER_GATEWAY_H
#define SPILLWAY_SERVER_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <pthread.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "engine/prompt.h"
#include "server/accounts/accounts.h"
#include "server/accounts/ledger_writer.h"
#include "server/accounts/tariff.h"
#include "server/counts.h"
#include "server/edge.h"
#include "server/hosted.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/media_proc.h"
#include "server/pool.h"
#include "server/quarantine.h"
#include "server/routing/decide.h"
#include "server/routing/sticky.h"
#include "server/worker_proc.h"

enum { GATEWAY_MAX_MODELS = 64, GATEWAY_MAX_REPLICAS = 8, GATEWAY_MAX_STAND_INS = 8 };

struct gateway;

enum gateway_model_state {
    MODEL_LOADING,  /* its files are read, its worker is starting */
    MODEL_READY,    /* serves; a worker that dies from now on is started again */
    MODEL_DRAINING, /* takes no more requests; gone when those that it has have ended */
    MODEL_FAILED    /* could not be loaded: why says it. Stays in the list until it is unloaded or loaded anew */
};

/* GPUs by number, a worker on each. n 0: one worker, and where it runs is the backend's to say. */
struct gateway_gpus {
    int number[GATEWAY_MAX_REPLICAS];
    size_t n;
};

/* One worker of a model. All of them hold the same model, so any of them can answer a request (server/route.h chooses). */
struct gateway_replica {
    struct gateway_model *model;
    struct worker_proc *worker; /* NULL: the model has failed */
    int gpu;                    /* its number; -1: none was named */
    char gpu_text[12];          /* the same for the worker's command line */
    char name[280];             /* for people: the model's id, and the GPU if one was named */
    uint64_t n_routed, turn;    /* route.c's: requests that it was chosen for; the model's n_routed when it was last */
    struct {
        size_t prompts;                             /* of completions without a first token */
        int64_t tokens, came;                       /* of these; of all that ever waited */
        int64_t sequences;                          /* under way, those that wait too */
        double mean_tokens, token_ms, answer_ms;    /* smoothed; how long a waiting token takes, an answer once begun. 0: not known */
        double share_ms;                            /* of a request's whole time for each sequence that was under way when it ended, smoothed */
        int64_t counted_ms, busy_ms, served_tokens; /* of the window that is measured now */
    } queue;                                        /* admission.c's */
};

/* The ready half (prompt, max_context, replicas) is written before state becomes MODEL_READY, and only read afterwards. */
struct gateway_model {
    struct gateway *gateway;
    char id[256];
    char path[4096];
    enum gateway_model_state state;
    struct err why;
    unsigned holders; /* under models_lock */
    struct prompt_model *prompt;
    struct gateway_replica replicas[GATEWAY_MAX_REPLICAS];
    size_t n_replicas;         /* at least 1 */
    uint64_t n_routed;         /* of all of them */
    struct affinity *affinity; /* route.c's; NULL: there is one worker only */
    bool shared_cache;         /* accounts find each other's prompts in it (--cache-scope) */
    struct quarantine *quarantine;
    struct local *waiting; /* source_local.c: requests that came while no worker was ready */
    unsigned number;       /* among the models that are there; below GATEWAY_MAX_MODELS */
    int option;              /* its place in the configuration's list; -1: it came later */
    const char *public_name; /* of the configuration; NULL: its id, if that looks like one */
    struct name_stand_in stand_ins[GATEWAY_MAX_STAND_INS]; /* hosted models that may answer for it */
    size_t n_stand_ins;
    int64_t supplier;      /* its account in the ledger; 0: there is none */
    int64_t free_price;    /* its row of `prices` while no price is set for it */
    uint32_t max_context;  /* the smallest of the model's and the workers' */
    int64_t created_s;
    /* gateway_models.c's */
    struct {
        struct pool_job job;
        struct prompt_model *prompt;
        int64_t supplier, free_price;
        int rc;
        struct err e;
        bool running, down;
        const char *down_name; /* of the first worker that could not start */
        struct err down_why;
    } opening;
    struct loop_timer drain;
    struct loop_call freeing;
    bool freeing_posted;
    struct http_request *asker; /* who waits to hear how loading ended; NULL: nobody */
    char *args_text;            /* of args */
    const char *args[WORKER_MAX_ARGS];
    size_t n_args;
};

/* What is asked for by POST /admin/models. */
struct model_order {
    const char *model, *name; /* name NULL: the folder's */
    const json_t *options;    /* an object of options such as kv_tokens; NULL: none */
};

struct gateway {
    struct loop *loop;
    struct pool *pool;
    struct pool *desk; /* for what operators ask of the store: it may take seconds, and holds up no request. NULL: at the end */
    struct http_server *http;
    struct edge edge;
    struct limits limits; /* for requests from now on; changes when the configuration is read again */
    struct media_pool *media;
    struct accounts *accounts; /* NULL: --no-auth */
    struct ledger_writer *ledger; /* NULL: nothing is charged */
    struct route_state route;
    struct sticky *sticky;        /* with hosted */
    struct hosted *hosted;        /* NULL: neither providers nor aliases are configured. Written under models_lock */
    struct upstream *upstream;    /* with hosted; NULL before there was one */
    struct remote_images *remote; /* NULL: pictures are not fetched from URLs */
    double answer_tokens;         /* what answers lately had, smoothed; 0: there was none */
    const char *store;            /* where the accounts are, for a connection of one's own (db_open) */
    unsigned n_exports;           /* admin_export.c's: under way */
    struct tariff_table *tariffs; /* in force (price_now.h); NULL: none was set */
    pthread_mutex_t models_lock;
    struct gateway_model *models[GATEWAY_MAX_MODELS];
    size_t n_models;
    struct name_local locals[GATEWAY_MAX_MODELS]; /* of models, by their numbers; written like them */
    /* `serve`: whether a model may be loaded from there and how its worker is started, then gateway_model_add. */
    int (*order)(struct gateway *g, const struct model_order *o, struct gateway_model **out, struct err *e);
    /* A model is loading no longer, or is about to be freed. */
    void (*model_changed)(struct gateway_model *m);
    int64_t default_max_tokens;
    int64_t started_ms;        /* by the boot clock */
    int64_t accounts_fresh_ms; /* when the store was last seen to be readable */
    bool draining;
    struct completion *completions; /* alive, also those whose client is gone */
    size_t n_completions;
    size_t n_reading;        /* of these: whose prompt is not known yet */
    struct counts *per_key;  /* completions by the key's id */
    int64_t n_prompt_tokens; /* of all completions */
    uint64_t n_ended, n_failed; /* completions; failed: on our side, 5xx or an error event of that kind */
};

/* Begins to load, a worker on each of the GPUs. path, id and args (n_args words of the workers' command line) are copied. What cannot be said at
 * once becomes the model's state. -ERR_INPUT: no usable name; -ERR_BUSY: there is one of that name (that has not failed); -ERR_LIMIT: too many models. */
MUST_USE int gateway_model_add(struct gateway *g, const char *path, const char *id, const char *const *args, size_t n_args,
                               const struct gateway_gpus *gpus, struct gateway_model **out, struct err *e);
/* In any state; NULL if there is no such model. Loop's thread. */
struct gateway_model *gateway_model_find(const struct gateway *g, const char *id, size_t n);
/* One that is ready, for a request. Any thread. -ERR_NOT_FOUND, -ERR_GONE (it is still loading, or is being unloaded). */
MUST_USE int gateway_model_hold(struct gateway *g, const char *id, size_t n, struct gateway_model **out, struct err *e);
void gateway_model_release(struct gateway_model *m); /* loop's thread; accepts NULL */
/* Whom these names lead to, in order (routing/name.h). A name of a model that could not be loaded leads nowhere. policy: of names that say none; NULL: the
 * configured one. *hosted: what they were looked up in, held for the caller (even on failure). Any thread. */
MUST_USE int gateway_names(struct gateway *g, const char *const *names, size_t n, const enum route_policy *policy, struct name_wanted *out,
                           struct hosted **hosted, struct err *e);

/* What the configuration says of a local model's names. */
struct gateway_naming {
    struct gateway_model *model; /* NULL: it is not here now, and only its name counts: what leads to it is no mistake */
    const char *name;            /* of one that is not here */
    const char *public_name; /* borrowed until the next naming */
    struct name_stand_in stand_ins[GATEWAY_MAX_STAND_INS];
    size_t n_stand_ins;
};
/* hosted (NULL: none), which is taken over, and these names are in force from now on, all at once. -ERR_INPUT: one cannot be reached, or means two things;
 * nothing is changed. back: they have been in force, and are put back as they are, though models may have gone meanwhile. Loop's thread. */
MUST_USE int gateway_name_all(struct gateway *g, struct hosted *hosted, const struct gateway_naming *namings, size_t n, bool back, struct err *e);
/* The model of that number and name, NULL: it has gone. Loop's thread. */
struct gateway_model *gateway_model_at(const struct gateway *g, unsigned number, const char *id);

/* Takes no more requests, and is freed when the last one has ended, at the latest after --drain-timeout, when they are cut. true: it had none, so
 * it is gone already. */
bool gateway_model_unload(struct gateway_model *m);
const char *gateway_model_state_name(const struct gateway_model *m);
/* One of its workers at least takes requests. */
bool gateway_model_serves(const struct gateway_model *m);
/* None of its workers ever will again: their devices are lost. What the last one said; NULL: one at least may come back. */
const char *gateway_model_lost(const struct gateway_model *m);
/* At the end, when nothing holds them any more. */
void gateway_models_free(struct gateway *g);
struct endpoint;
/* Ends the program if one of them says too little, above all not who may call it. Before serving. */
void gateway_check_endpoints(const struct endpoint *const *endpoints, size_t n);
/* The callbacks of struct http_config: routing by the table of endpoints, keys, errors of both. */
void gateway_begin(void *gateway, struct http_request *r);
void gateway_handle(void *gateway, struct http_request *r);
void gateway_refuse(void *gateway, struct http_request *r, enum http_refusal why, const char *text);

#endif
