/* Options: the one table of commands and flags. It parses command lines and the configuration file (options_config.h), and prints every
 * --help, the manual page, completions and docs/configuration.md (options_docs.h).
 *
 * Limits are a table of their own (server/limits.c) whose rows are options of `serve`.
 * A row is an option: which commands take it, flag, argument, range or choices, default, help. Adding an option is one
 * row here and one field of struct options. Values are checked against their range when they are parsed; whether a file
 * exists is the command's to find out. Strings are borrowed from argv. */
#ifndef SPILLWAY_SERVER_CLI_OPTIONS_H
#define SPILLWAY_SERVER_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "server/accounts/rules.h"
#include "server/limits.h"

enum command {
    COMMAND_SERVE,
    COMMAND_GENERATE,
    COMMAND_TOKENIZE,
    COMMAND_LOGITS,
    COMMAND_EVAL,
    COMMAND_KEYS,
    COMMAND_ACCOUNTS,
    COMMAND_MODELS,
    COMMAND_PULL,
    COMMAND_CHAT,
    COMMAND_DOCTOR,
    COMMAND_CONFIG,
    COMMAND_BENCH,
    COMMAND_WORKER, /* started by serve; its socket is descriptor 3 */
    COMMAND_MEDIA,  /* started by serve; its socket is descriptor 3 */
    COMMANDS
};

enum {
    OPTIONS_MAX_ARGS = 64,
    OPTIONS_MAX_IMAGES = 20,
    OPTIONS_MAX_LIST = 64,
    OPTIONS_MAX_GPUS = 8,
    OPTIONS_MAX_PROVIDERS = 32,
    OPTIONS_MAX_ALIASES = 64,
    OPTIONS_MAX_ROWS = 192,
    OPTIONS_KEY_BYTES = 64,
    OPTIONS_HOST_BYTES = 64,
    OPTIONS_NO_PRIORITY = -1000
};

/* A hosted provider, as the configuration file has it; NULL: not said. */
struct option_provider {
    const char *provider, *name, *base_url, *region, *resource, *api_version, *key_env, *key_file, *auth, *header, *prices,
        *zero_retention, *unverified;
    unsigned line; /* of the file */
};

/* A name of one's own for an ordered list of models; policy NULL: priority. */
struct option_alias {
    const char *name, *routes, *policy;
    unsigned line;
};

/* An option that may be given several times. */
struct option_list {
    const char *items[OPTIONS_MAX_LIST];
    size_t n;
};

struct options {
    const char *args[OPTIONS_MAX_ARGS]; /* what is not an option, in order */
    int n_args;
    const char *images[OPTIONS_MAX_IMAGES];
    int n_images;
    struct option_provider providers[OPTIONS_MAX_PROVIDERS];
    int n_providers;
    struct option_alias aliases[OPTIONS_MAX_ALIASES];
    int n_aliases;
    /* What the configuration file says of args[i]; NULL: nothing. Lists have commas between. */
    const char *arg_names[OPTIONS_MAX_ARGS];
    const char *arg_stand_ins[OPTIONS_MAX_ARGS];    /* hosted models that may answer for it */
    const char *arg_takes_over[OPTIONS_MAX_ARGS];   /* hosted models whose requests it answers when the budget for them has ended */
    const char *arg_public_names[OPTIONS_MAX_ARGS]; /* owner/model, by which providers have it, too */
    bool help, help_all;

    int argc; /* what was parsed; borrowed */
    char **argv;
    bool given[OPTIONS_MAX_ROWS]; /* rows that the command line has set */
    const char *config;
    bool print_config;
    int n_inherited; /* listening sockets that systemd handed down: descriptors from 3 on */

    const char *name, *url, *listen, *data, *api_key_file, *tls_cert, *tls_key;
    struct option_list trusted_proxies, allow_hosts, allow_origins, model_roots;
    const char *remote_images;
    struct option_list remote_image_hosts, remote_image_nets;
    bool no_auth, no_model;
    const char *store; /* NULL: the data directory's own */
    int64_t retain_requests; /* days; 0: for good */
    const char *expires, *grace;
    bool admin, json;
    /* accounts; keys: project */
    int64_t project, organisation, linked, rpm, tpm, concurrency, token_threshold, older_than; /* ids: 0 if not given */
    const char *note, *once, *unit, *period, *scope, *month, *by, *from, *to, *supplier, *threshold, *price_file, *input_usd, *output_usd, *cached_usd;
    bool keys, alert, free, close;
    const char *rules[RULES]; /* NULL: as it was */
    int64_t weight, priority; /* of a key; 0 and OPTIONS_NO_PRIORITY: not given */
    int64_t default_max_tokens, media_processes;
    const char *overflow_usd_per_hour; /* NULL: nothing */
    const char *overflow_share, *overflow_usd_in, *overflow_usd_out; /* per cent; dollars per million tokens. NULL: no bound */
    const char *route_policy;
    const char *alert_url, *alert_secret_file, *alert_spend_floor; /* url NULL: the log only */
    int64_t alert_every_s, alert_spend_factor, alert_error_per_cent, alert_overflow_per_cent;
    struct limits limits;

    const char *log_level, *log_format;
    const char *decode_path; /* --decode of those that compute: "exact" or "fast" */
    const char *device, *gpus, *cuda_library, *random_weights, *compute, *kv_dtype, *quant, *quant_head, *quant_vision, *cache_scope, *speculation;
    int64_t threads, kv_tokens;
    bool pin_threads;

    const char *prompt, *text, *system;
    int64_t max_tokens;
    double temperature; /* -1: the model's own */
    bool decode;

    const char *tokens_file, *prompt_file, *messages_file, *image_detail, *out;

    int64_t retries; /* of a download */

    const char *after;   /* a text: only what follows it counts */
    const char *against; /* the second model; NULL: the first once more. What is its own (NULL: as the first's): */
    const char *against_compute, *against_quant, *against_quant_head, *against_quant_vision, *against_kv_dtype;
    int64_t window, stride;

    const char *targets, *requests, *workload, *prices, *max_cost, *gpu_hour, *json_file; /* of bench; amounts are dollars */
    struct option_list prices_given, target_keys;                                         /* "2=0.15/0.60", "2=FILE" */
    int64_t count, duration_s, warmup, timeout_s, seed;
    double rate; /* 0: closed loop */
    bool yes, dry_run;
};

void options_init(enum command c, struct options *o); /* all defaults */
/* argv[0] is the first word after the command. Fills defaults first. -ERR_INPUT names the flag (exit code 2). */
MUST_USE int options_parse(enum command c, int argc, char **argv, struct options *o, struct err *e);
/* What must hold between options of `serve`. */
MUST_USE int options_check_serve(const struct options *o, struct err *e);
/* "127.0.0.1:8080", "[::1]:8080", "localhost:0" -> numeric host and port. -ERR_INPUT without a message. */
MUST_USE int options_listen(const char *text, char host[OPTIONS_HOST_BYTES], uint16_t *port);
/* "0,1" -> the GPUs' numbers, in this order; NULL: none, *n is 0. -ERR_INPUT names what is wrong, "--gpus: ..." */
MUST_USE int options_gpus(const char *text, int out[OPTIONS_MAX_GPUS], size_t *n, struct err *e);
/* What must hold between the options that say where a model runs. */
MUST_USE int options_check_device(const struct options *o, struct err *e);
bool options_loopback(const char *host);
/* Whether the command line has it; the first of those that it has which is no word of `allowed` ("--json --note"), NULL: none. */
bool options_given(const struct options *o, const char *flag);
const char *options_stranger(const struct options *o, const char *allowed);
/* -ERR_NOT_FOUND if there is no such command. */
MUST_USE int options_command(const char *name, enum command *out);
/* Synopsis, examples and options of one command; limits only with `all` where there are any. Or of the whole program. */
void options_help(enum command c, bool all, FILE *f);
void options_help_program(FILE *f);

#endif
