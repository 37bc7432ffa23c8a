/* What the files of `chat` share: chat.c (the dialogue), chat_talk.c (its commands and messages), chat_input.c (lines of a terminal or a pipe),
 * chat_api.c (requests to the server), chat_server.c (a private server for the time of the chat). Beside them models.c
 * includes it, for its requests. */
#ifndef SPILLWAY_SERVER_CLI_CHAT_PARTS_H
#define SPILLWAY_SERVER_CLI_CHAT_PARTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/json.h"
#include "server/cli/options.h"
#include "server/cli/terminal.h"

enum {
    CHAT_KEY_BYTES = 512,
    CHAT_URL_BYTES = 2048,
    CHAT_PATH_BYTES = 1024, /* of one request */
    CHAT_MODEL_BYTES = 256,
    CHAT_MAX_TEXT_BYTES = 1 << 20,
    CHAT_MAX_IMAGES = OPTIONS_MAX_IMAGES
};

/* --- signals (chat_input.c) ---
 * SIGINT stops what is going on; SIGTERM and SIGHUP also the program. The descriptor is readable from the signal until chat_stop_take. */
MUST_USE int chat_stop_watch(struct err *e);
int chat_stop_fd(void);
int chat_stop_take(void); /* the last signal, 0 if none has come since */

/* --- lines (chat_input.c) --- */
struct chat_input;
enum chat_line { CHAT_LINE, CHAT_END, CHAT_STOPPED };
/* editing: by libedit, with a history of this session that is never written to a file. */
MUST_USE int chat_input_open(struct chat_input **out, bool editing, const struct terminal *t, struct err *e);
void chat_input_close(struct chat_input *in); /* accepts NULL */
/* One message: a line; lines joined where one ends with a backslash; what stands between two """. *line_empty (with CHAT_STOPPED): nothing
 * had been typed. Negative: -ERR_LIMIT (longer than CHAT_MAX_TEXT_BYTES, or not UTF-8), -ERR_IO, -ERR_MEMORY. */
MUST_USE int chat_input_read(struct chat_input *in, struct buf *text, bool *line_empty, struct err *e);

/* --- requests (chat_api.c) --- */
struct chat_api {
    char base[CHAT_URL_BYTES]; /* http://127.0.0.1:8080/v1 */
    char key[CHAT_KEY_BYTES];  /* "": none */
    bool local;                /* a loopback address: no proxy */
    void *multi, *headers;     /* libcurl's */
};

struct chat_answer {
    struct buf text;
    bool stopped, cut;                        /* by a signal; by the bound of tokens */
    int64_t prompt_tokens, completion_tokens; /* -1: the server did not tell */
    int64_t begun_ns, first_ns, last_ns;      /* first_ns 0: nothing came */
};

/* url: of the server, with or without /v1. key is copied; "" for none. */
MUST_USE int chat_api_open(struct chat_api *a, const char *url, const char *key, struct err *e);
void chat_api_close(struct chat_api *a); /* accepts a zeroed struct */
/* From the file, else out of $SPILLWAY_API_KEY, else "". The environment has it no more afterwards. */
MUST_USE int chat_api_key(const char *file, char out[CHAT_KEY_BYTES], struct err *e);
/* One request that is no stream, to a path from the server's root; body may be NULL. *out: what a 2xx answer says, a new reference. */
MUST_USE int chat_api_call(struct chat_api *a, const char *method, const char *path, const json_t *body, json_t **out, struct err *e);
/* The first model of /v1/models. */
MUST_USE int chat_api_first_model(struct chat_api *a, char model[CHAT_MODEL_BYTES], struct err *e);
/* Streams one answer; delta gets its text as it comes. out->text holds all of it, also after an error; free it in any case. */
MUST_USE int chat_api_ask(struct chat_api *a, const json_t *request, void (*delta)(void *ctx, const char *p, size_t n), void *ctx,
                          struct chat_answer *out, struct err *e);

/* --- a private server (chat_server.c) --- */
struct chat_server {
    pid_t pid; /* 0: none */
    char data[512], url[CHAT_URL_BYTES], key[CHAT_KEY_BYTES];
    int stderr_fd;
    bool reading;
    pthread_t reader;
    pthread_mutex_t lock;
    char last[512]; /* its last words */
};
/* Waits until it is ready. It ends with this process, however that ends. Errors carry its own words. */
MUST_USE int chat_server_start(struct chat_server *s, const char *model, const struct options *o, struct err *e);
void chat_server_stop(struct chat_server *s); /* accepts a zeroed struct */
/* What it said last, "" if nothing: for an error's end. */
void chat_server_last(struct chat_server *s, char *out, size_t n);

/* --- the talk (chat_talk.c) --- */
struct chat {
    const struct options *o;
    struct terminal terminal;
    struct chat_api api;
    char model[CHAT_MODEL_BYTES];
    json_t *messages, *names; /* OpenAI's; names[i]: file names of the pictures of messages[i] */
    json_t *images;           /* content parts for the next message */
    json_t *image_names;
    char saved[4096]; /* the file that /save wrote in this session: may be written again */
    bool leaving;
};
MUST_USE int chat_init(struct chat *c, struct err *e);
void chat_free(struct chat *c);
/* Takes a picture for the next message: it must decode, and be small enough to be sent. */
MUST_USE int chat_attach(struct chat *c, const char *file, struct err *e);
MUST_USE int chat_set_system(struct chat *c, const char *text, struct err *e);
/* A line that begins with '/'. Errors are for the user; the talk goes on. */
MUST_USE int chat_command(struct chat *c, const char *line, struct err *e);
/* The request for the next answer after text, a new reference; *user and *user_names are what chat_keep adds if it comes. */
MUST_USE int chat_request(struct chat *c, const char *text, size_t n, json_t **request, struct err *e);
/* The question of chat_request and its answer become part of the talk. */
void chat_keep(struct chat *c, json_t *request, const char *answer, size_t n);

#endif
