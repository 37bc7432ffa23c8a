/* Providers: one row for each host that answers for us, and one host for each that the operator has configured.
 *
 * A row is data only: where, which wire, how it wants its key, what it can do, what it calls things. A new host that speaks a known wire
 * is one row in table.c; a new wire is one file and a `struct wire` (wire.h). A host is a row with the operator's keys and settings. Keys
 * are never printed: what quotes a host in a message or a log quotes its name. */
#ifndef SPILLWAY_SERVER_PROVIDERS_PROVIDER_H
#define SPILLWAY_SERVER_PROVIDERS_PROVIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct wire;
extern const struct wire wire_openai, wire_anthropic, wire_gemini; /* one file, or two, each */

enum provider_auth { AUTH_BEARER, AUTH_X_API_KEY, AUTH_API_KEY, AUTH_X_GOOG_API_KEY };

/* PATH_AZURE: the deployment is in the path when an api_version is set (the older form), else in the body. */
enum provider_path { PATH_FIXED, PATH_AZURE };

/* What the client's leaving does to an upstream: closing stops the bill, or it does not and we read on for the exact usage. */
enum provider_disconnect { DISCONNECT_CANCEL, DISCONNECT_DRAIN };

enum provider_capability {
    CAP_CHAT = 1 << 0,
    CAP_STREAM = 1 << 1,
    CAP_TOOLS = 1 << 2,
    CAP_IMAGE_DATA = 1 << 3, /* images as data: URLs */
    CAP_IMAGE_URL = 1 << 4,  /* images that the host fetches */
    CAP_JSON_OBJECT = 1 << 5,
    CAP_JSON_SCHEMA = 1 << 6,
    CAP_REASONING = 1 << 7, /* reasoning_effort, and reasoning text or tokens in the answer */
    CAP_LOGPROBS = 1 << 8,
    CAP_CHOICES = 1 << 9, /* n > 1 */
    CAP_SEED = 1 << 10,
    CAP_LOGIT_BIAS = 1 << 11,
    CAP_PENALTIES = 1 << 12,    /* frequency_penalty, presence_penalty */
    CAP_PROMPT_CACHE = 1 << 13, /* marks or keys for it */
    CAP_TIERS = 1 << 14,        /* service_tier */
    CAP_AUDIO_IN = 1 << 15,
    CAP_FILE_IN = 1 << 16,
    CAP_TOP_K = 1 << 17,
    CAP_SAMPLING = 1 << 18, /* min_p, repetition_penalty, min_tokens, ignore_eos, chat_template_kwargs: vLLM's words */
    CAP_MODELS = 1 << 19,   /* GET /models */
};
enum { PROVIDER_CAPABILITIES = 20 };
extern const char *const provider_capability_names[PROVIDER_CAPABILITIES];

enum provider_flag {
    USAGE_CACHE_APART = 1 << 0,     /* the prompt's count is without what was read from or written to the cache */
    USAGE_REASONING_APART = 1 << 1, /* the output's count is without reasoning, unless the total says otherwise */
    USAGE_UNASKED = 1 << 2,         /* usage comes without stream_options, which the host does not know */
    ROLE_NO_DEVELOPER = 1 << 3,     /* a developer message is sent as system */
    PRICES_IN_USAGE = 1 << 4,       /* usage.cost */
    ANY_PARAMETER = 1 << 5,         /* what our table does not know is passed on: the host refuses what it does not know, or is ours */
    SUFFIX_IN_MODEL = 1 << 6,       /* model:suffix chooses the upstream of the host */
    MAX_TOKENS_RESERVED = 1 << 7,   /* the host's limiter holds max tokens before it starts: send a tight one, always */
    MARKS_KEPT =
        1 << 9, /* cache_control and extra_content in messages are understood; others refuse them, and they do not change the answer */
};

/* A parameter of ours that this host calls otherwise; to NULL: that it does not know. */
struct provider_rename {
    const char *from, *to;
};

enum limit_meter { LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_TOKENS_IN, LIMIT_TOKENS_OUT, LIMIT_METERS };
enum limit_field { LIMIT_LIMIT, LIMIT_REMAINING, LIMIT_RESET };
enum limit_window { WINDOW_UNKNOWN, WINDOW_MINUTE, WINDOW_DAY };

/* A response header of a rate limit. A reset may be seconds, a Go duration, an RFC 3339 time or Unix seconds or milliseconds: it says so
 * itself. */
struct limit_header {
    const char *name;
    enum limit_meter meter;
    enum limit_field field;
    enum limit_window window;
};

struct provider {
    const char *name, *title;
    const char *base_url; /* "{region}", "{resource}": from the host; NULL: the operator gives it */
    const char *key_env;  /* NULL: needs no key */
    const struct wire *wire;
    enum provider_auth auth;
    enum provider_path path;
    uint32_t capabilities;
    uint32_t flags;
    const char *max_tokens;                /* how it calls the maximum; NULL: the wire's own word */
    const char *reasoning_member;          /* in the messages of a request: where past reasoning goes; NULL: it is left out */
    const struct provider_rename *renames; /* up to a NULL from */
    const struct limit_header *limits;     /* up to a NULL name */
    const char *request_id;                /* response header */
    const char *models_path;               /* after base_url */
    enum provider_disconnect on_disconnect;
};

/* By name; NULL: there is none. */
const struct provider *provider_find(const char *name);
/* In the order of the table; NULL past its end. */
const struct provider *provider_at(size_t i);

/* What a parameter is called there; NULL: the host does not know it. */
const char *provider_word(const struct provider *p, const char *name);

enum { HOST_MAX_KEYS = 16, HOST_MAX_HEADERS = 8, HOST_MAX_NAME_BYTES = 64, HOST_MAX_URL_BYTES = 512, HOST_MAX_KEY_BYTES = 4096 };

/* As the configuration has it; NULL: not given. */
struct provider_host_config {
    const char *provider; /* a row's name */
    const char *name;     /* NULL: the row's */
    const char *base_url, *region, *resource, *api_version;
    const char *auth;        /* "bearer", "x-api-key", "api-key", "x-goog-api-key"; NULL: the row's */
    const char *const *keys; /* secrets; more than one: the next is tried when one is dead */
    size_t n_keys;
    const char *const *headers; /* "X-HF-Bill-To: org", sent with every request */
    size_t n_headers;
    bool unverified; /* nobody has tried this host with this row */
};

struct provider_host {
    const struct provider *row;
    char name[HOST_MAX_NAME_BYTES];
    char base_url[HOST_MAX_URL_BYTES]; /* without a '/' at its end */
    char api_version[32];
    char *keys[HOST_MAX_KEYS];
    size_t n_keys;
    char *headers[HOST_MAX_HEADERS];
    size_t n_headers;
    enum provider_auth auth;
    bool tls, loopback, unverified;
};

/* Copies everything. -ERR_INPUT or -ERR_NOT_FOUND names the setting in e->param and never quotes a key. */
MUST_USE int provider_host_init(struct provider_host *h, const struct provider_host_config *c, struct err *e);
void provider_host_free(struct provider_host *h); /* accepts a zeroed struct; keys are overwritten */

#endif
