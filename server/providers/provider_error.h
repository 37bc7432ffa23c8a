/* Provider errors and limits: what a failed answer means, and what the headers of any answer say about the host's limits.
 *
 * One table (provider_error.c) turns status and code into a class, the same for all hosts but for the rows that name one. Messages go to
 * clients: configured keys and whatever looks like a secret are taken out first, and markup is never quoted. */
#ifndef SPILLWAY_SERVER_PROVIDERS_PROVIDER_ERROR_H
#define SPILLWAY_SERVER_PROVIDERS_PROVIDER_ERROR_H

#include "base/json.h"
#include "server/providers/provider.h"

enum provider_error_class {
    PROVIDER_CALLER,      /* the request is at fault: told to the client, no other host */
    PROVIDER_KEY_DEAD,    /* this key is refused or has no money: the next key, and an alert */
    PROVIDER_WAIT,        /* come back later (retry_after_ms), or go elsewhere now */
    PROVIDER_BROKEN,      /* the host failed: elsewhere */
    PROVIDER_UNSUPPORTED, /* the host lacks what was asked: elsewhere */
    PROVIDER_CONTEXT,     /* the prompt is too long for it */
    PROVIDER_ERROR_CLASSES
};
const char *provider_error_class_name(enum provider_error_class c);

struct provider_error {
    enum provider_error_class class;
    int status;             /* of HTTP; 200: the error came in the answer; 0: there was no answer */
    char code[64];          /* the host's own word; "" */
    char message[480];      /* valid UTF-8, one line, no secrets */
    char param[96];         /* "" */
    int64_t retry_after_ms; /* -1: not told */
};

struct provider_limit {
    int64_t limit, remaining, reset_ms; /* reset: from when it was read; -1: not told */
    enum limit_window window;
};

struct provider_limits {
    struct provider_limit meters[LIMIT_METERS];
    int64_t retry_after_ms; /* -1: not told */
    int should_retry;       /* x-should-retry: 1, 0; -1: not told */
    char request_id[128];   /* "" */
    char error_type[64];    /* x-amzn-errortype; "" */
    char content_type[64];
};

void provider_limits_init(struct provider_limits *l);
/* One response header line without its end; now_ms: wall clock. Limits that are not positive, and what is not understood, are as if not
 * told. */
void provider_limits_header(struct provider_limits *l, const struct provider *p, const char *line, size_t n, int64_t now_ms);

/* A time to wait in ms, from any of the forms that hosts write; -1: none of them. */
int64_t provider_wait_parse(const char *text, size_t n, int64_t now_ms);

/* The body of an answer that is no 200 (any bytes, cut at will); l: its headers. */
void provider_error_read(struct provider_error *out, const struct provider_host *h, int status, const struct provider_limits *l,
                         const char *body, size_t n);
/* An error object inside a 200; root: the JSON object that has it. */
void provider_error_read_json(struct provider_error *out, const struct provider_host *h, int status, const struct provider_limits *l,
                              const json_t *root);
/* An error that is ours: the host did not answer, or not as its wire says. */
void provider_error_broken(struct provider_error *out, const struct provider_host *h, const char *code, const char *message);

/* Copies text into out (at most cap - 1 bytes, whole characters) without control characters, the host's keys and what looks like one. */
void provider_scrub(char *out, size_t cap, const struct provider_host *h, const char *text, size_t n);

#endif
