/* What serve.c (start, signals, end), serve_config.c (options, file, environment), serve_models.c and serve_reload.c (SIGHUP) share; nobody else includes it. */
#ifndef SPILLWAY_SERVER_CLI_SERVE_PARTS_H
#define SPILLWAY_SERVER_CLI_SERVE_PARTS_H

#include "server/accounts/accounts.h"
#include "server/cli/options_config.h"
#include "server/alerts.h"
#include "server/gateway.h"
#include "server/http.h"
#include "server/price_now.h"
#include "server/remote_url.h"

enum { KEY_TEXT_BYTES = ACCOUNTS_MAX_TOKEN + 8, KEY_MARK_BYTES = 32 }; /* a longer key is seen to be too long */

/* Command line and file, read together. */
struct serve_config {
    struct options o;
    struct config_file *file; /* the options borrow from it; NULL: none was named */
    struct config_faults faults;
};

/* serve_secrets.c: keys of providers. Zero-initialise. */
enum { PROVIDER_KEY_PATH_BYTES = 4096 };
struct serve_secrets {
    struct serve_secret {
        char *variable, *key; /* variable: it was taken out of; NULL: a file */
    } rows[OPTIONS_MAX_PROVIDERS * HOST_MAX_KEYS];
    size_t n;
    bool closed; /* no variable is taken any more */
};

struct serve {
    struct gateway g;
    const struct options *o;     /* of the start: what no reload changes */
    struct serve_config *config; /* in effect: of the start, or of the last reload */
    char host[64], data[4096], store[4096 + 16], journal[4096 + 24];
    int lock_fd; /* of the data directory; -1: none */
    uint16_t port;
    char first_key[ACCOUNTS_TOKEN_BYTES];   /* "" if there was one already */
    unsigned char key_mark[KEY_MARK_BYTES]; /* a hash of the configured key: a reload sees whether it is another */
    struct loop_timer refresh, drain;
    struct accounts *reader; /* of keys and rules, on a pool thread; NULL: --no-auth */
    struct {
        struct pool_job job;
        int rc;
        struct err e;
        bool running, worked;
    } reading;
    struct alerts *alerts;
    struct price_now prices;
    struct serve_secrets secrets;
    struct hosted_texts texts;
    char *model_ids[OPTIONS_MAX_ARGS]; /* of the models that were named at the start */
    struct loop_watch *signals;
    int signal_fd;
    int64_t drain_until_ms;
    bool ready, cut;          /* cut: draining took too long */
    bool on_terminal;         /* standard error, at the start */
    bool closing;             /* the loop has ended */
    struct progress *loading; /* until ready, on a terminal */
    struct err failure;       /* why the loop was stopped; ERR_NONE: on request */
    struct err ledger_why;    /* of the ledger's writer, when the disk has failed */
    struct loop_call ledger_failed;
    struct retention *retention; /* NULL: requests are kept for good */
    struct reload *reload;    /* one that runs; NULL: none */
    bool reload_again;        /* SIGHUP came meanwhile */
};

/* serve_config.c. 0, or -ERR_INPUT with either faults of the file or *e (an option). *out is set in any case but -ERR_MEMORY. */
MUST_USE int serve_config_new(struct serve_config **out, int argc, char **argv, int n_inherited, struct err *e);
void serve_config_free(struct serve_config *c); /* accepts NULL */
/* Whom the server speaks to. `edge` borrows from o. */
void serve_config_edge(const struct options *o, struct edge *edge, struct ip_nets *trusted_proxies);
/* Where pictures are fetched from. Borrows from o. */
void serve_config_remote(const struct options *o, struct remote_rules *r);
/* A file with the key and perhaps a line's end. */
MUST_USE int serve_read_key(const char *path, char out[KEY_TEXT_BYTES], struct err *e);
void serve_mark_key(const char *key, unsigned char mark[KEY_MARK_BYTES]);

/* serve_models.c */
MUST_USE int serve_models_start(struct serve *s, struct err *e);
MUST_USE int serve_model_order(struct gateway *g, const struct model_order *order, struct gateway_model **out, struct err *e);

/* p's key_file or key_env, "A, B", else the variable that its row names (usual; NULL: needs none). keys are borrowed until serve_secrets_free. A key that is
 * named and not there is an error at the start, not at the first request. */
MUST_USE int serve_secrets_read(struct serve_secrets *s, const struct options *o, const struct option_provider *p, const char *usual,
                                const char *keys[HOST_MAX_KEYS], size_t *n, struct err *e);
void serve_secrets_free(struct serve_secrets *s); /* overwrites them */

/* Those of variables stay for the next reading of the configuration, the others are overwritten; from now on no variable is taken any more: there are other
 * threads. */
void serve_secrets_keep(struct serve_secrets *s);

/* serve_hosted.c: what of a configuration concerns providers. */
struct serve_hosted {
    struct hosted *hosted; /* NULL: neither providers nor aliases are configured */
    struct overflow_limits overflow;
};
/* Made, not yet in force. Any thread, one at a time. On failure hosted is NULL. */
MUST_USE int serve_hosted_make(struct serve *s, const struct options *o, struct serve_hosted *out, struct err *e);
/* g.hosted and g.route.overflow, before there are models. */
MUST_USE int serve_hosted_start(struct serve *s, struct err *e);
/* In force, with what o says of the local models that are there. Takes hosted over on success only. -ERR_INPUT: nothing is changed. back: see
 * gateway_name_all. */
MUST_USE int serve_hosted_take(struct serve *s, const struct options *o, struct hosted *hosted, bool back, struct err *e);
void serve_hosted_tell(const struct serve *s); /* the log */

/* serve_alerts.c: after the pool; alerts stay NULL without accounts. */
MUST_USE int serve_alerts_start(struct serve *s, struct err *e);
/* Any thread. -ERR_INPUT names the option. */
MUST_USE int serve_alerts_bounds(const struct options *o, struct alerts_bounds *out, struct err *e);

/* serve_reload.c: on the loop's thread. Reads the configuration again on a pool thread, then swaps it, or says why not. */
void serve_reload(struct serve *s);

#endif
