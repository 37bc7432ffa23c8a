/* chat's requests: libcurl, one at a time, watched for signals beside the sockets. What a server sends is input from outside: bounded, strictly
 * parsed. No redirect is followed (it would carry the key elsewhere), only http and https are spoken. */
#include <curl/curl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/cli/chat_parts.h"
#include "server/cli/env.h"
#include "server/sse_read.h"

enum {
    CONNECT_MS = 10000,
    MAX_ERROR_BYTES = 64 << 10,
    MAX_LIST_BYTES = 4 << 20,
    MAX_ANSWER_BYTES = 16 << 20,
    MAX_REQUEST_BYTES = 256 << 20,
    POLL_MS = 1000
};

static bool is_local(const char *host)
{
    size_t n = strcspn(host, ":/");
    return str_starts_with(host, "127.") || str_starts_with(host, "[::1]") || (n == 9 && strncasecmp(host, "localhost", 9) == 0);
}

int chat_api_key(const char *file, char out[CHAT_KEY_BYTES], struct err *e)
{
    bool there = env_take_api_key(out, CHAT_KEY_BYTES); /* out of the environment in any case */
    if (!there) out[0] = '\0';
    if (!file) return 0;
    struct buf b;
    buf_init(&b, CHAT_KEY_BYTES - 1);
    int rc = buf_read_file(&b, file, e);
    while (!rc && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r')) b.data[--b.len] = '\0';
    if (!rc && (!b.len || strlen(b.data) != b.len)) rc = err_set(e, ERR_INPUT, "%s: there is no key in it", file);
    if (!rc) strcpy(out, b.data);
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}

int chat_api_open(struct chat_api *a, const char *url, const char *key, struct err *e)
{
    *a = (struct chat_api){0};
    bool tls = str_starts_with(url, "https://");
    if (!tls && !str_starts_with(url, "http://")) return err_set(e, ERR_INPUT, "%s: is no http:// or https:// address", url);
    const char *host = strstr(url, "://") + 3;
    size_t n = strlen(url);
    while (n > 0 && url[n - 1] == '/') n--;
    bool has_path = memchr(host, '/', (size_t)(url + n - host)) != NULL;
    if (n + 4 > sizeof a->base || strcspn(url, " ?#\t\r\n@") < n || n <= (size_t)(host - url))
        return err_set(e, ERR_INPUT, "%s: is not a server's address, such as http://127.0.0.1:8080", url);
    snprintf(a->base, sizeof a->base, "%.*s%s", (int)n, url, has_path ? "" : "/v1");
    if (strlen(key) >= sizeof a->key) return err_set(e, ERR_INPUT, "the API key is too long");
    for (const char *p = key; *p; p++)
        if (*p <= ' ' || *p == 0x7f) return err_set(e, ERR_INPUT, "the API key has a blank or a control character in it");
    strcpy(a->key, key);
    a->local = is_local(host);
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) return err_set(e, ERR_IO, "libcurl cannot start");
    a->multi = curl_multi_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    char line[CHAT_KEY_BYTES + 32];
    snprintf(line, sizeof line, "Authorization: Bearer %s", a->key);
    if (headers && a->key[0]) {
        struct curl_slist *more = curl_slist_append(headers, line);
        if (!more) curl_slist_free_all(headers);
        headers = more;
    }
    explicit_bzero(line, sizeof line);
    a->headers = headers;
    return a->multi && headers ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

void chat_api_close(struct chat_api *a)
{
    curl_slist_free_all(a->headers);
    if (a->multi) curl_multi_cleanup(a->multi);
    explicit_bzero(a->key, sizeof a->key);
    *a = (struct chat_api){0};
}

/* --- one transfer --- */

struct transfer {
    CURL *easy;
    struct chat_answer *answer; /* NULL: not a stream */
    void (*delta)(void *ctx, const char *p, size_t n);
    void *ctx;
    struct sse_read sse;
    struct buf body; /* of an error, or of what is no stream */
    struct err err;  /* found in a callback; libcurl then only knows that writing failed */
    bool done;       /* [DONE] has come */
};

static int take_event(void *ctx, const char *name, const char *data, size_t n);

static long status_of(const struct transfer *t)
{
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static bool is_stream(const struct transfer *t)
{
    char *type = NULL;
    curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &type);
    return t->answer && status_of(t) == 200 && type && strncasecmp(type, "text/event-stream", 17) == 0;
}

static size_t take_bytes(char *p, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    n *= size;
    if (is_stream(t)) return sse_read_push(&t->sse, p, n, &t->err) ? 0 : n;
    if (buf_append(&t->body, p, n) == 0) return n;
    err_set(&t->err, ERR_LIMIT, "the server's answer is too long");
    return 0;
}

/* n_base: how much of the server's address path follows. */
static int transfer_open(struct transfer *t, struct chat_api *a, size_t n_base, const char *path, struct err *e)
{
    char url[CHAT_URL_BYTES + CHAT_PATH_BYTES];
    if (strlen(path) >= CHAT_PATH_BYTES) return err_set(e, ERR_INPUT, "the name is too long");
    t->easy = curl_easy_init();
    snprintf(url, sizeof url, "%.*s%s", (int)n_base, a->base, path);
    buf_init(&t->body, t->answer ? MAX_ERROR_BYTES : MAX_LIST_BYTES);
    sse_read_init(&t->sse, take_event, t);
    if (!t->easy) return err_set(e, ERR_MEMORY, "out of memory");
    curl_easy_setopt(t->easy, CURLOPT_URL, url);
    curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, a->headers);
    curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_USERAGENT, "spillway/" SPILLWAY_VERSION);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    if (a->local) curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "*");
    return 0;
}

static void transfer_close(struct transfer *t)
{
    if (t->easy) curl_easy_cleanup(t->easy);
    sse_read_free(&t->sse);
    buf_free(&t->body);
}

/* Until the transfer has ended, or a signal has come: *stopped. */
static int transfer_run(struct transfer *t, struct chat_api *a, bool *stopped, struct err *e)
{
    char why[CURL_ERROR_SIZE] = "";
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, why);
    if (curl_multi_add_handle(a->multi, t->easy)) return err_set(e, ERR_IO, "libcurl does not take the request");
    int running = 1;
    *stopped = false;
    while (running && !*stopped) {
        struct curl_waitfd stop = {.fd = chat_stop_fd(), .events = CURL_WAIT_POLLIN};
        if (curl_multi_perform(a->multi, &running)) break;
        if (running) curl_multi_poll(a->multi, &stop, 1, POLL_MS, NULL);
        *stopped = stop.revents != 0;
    }
    int left;
    CURLMsg *m = curl_multi_info_read(a->multi, &left);
    CURLcode code = m ? m->data.result : *stopped ? CURLE_OK : CURLE_FAILED_INIT;
    curl_multi_remove_handle(a->multi, t->easy);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, NULL);
    if (t->err.code) {
        *e = t->err;
        return -(int)e->code;
    }
    if (code == CURLE_OK) return 0;
    return err_set(e, ERR_GONE, "%s: %s", a->base, why[0] ? why : curl_easy_strerror(code));
}

/* --- what the server says --- */

/* {"error":{"message":...}} as OpenAI has it, {"error":"..."} or {"message":...} as others do. */
static const char *error_text(const json_t *v)
{
    const json_t *error = json_object_get(v, "error");
    const char *text = json_string_value(error);
    if (!text) text = json_string_value(json_object_get(error, "message"));
    if (!text) text = json_string_value(json_object_get(v, "message"));
    return text;
}

static int status_error(const struct transfer *t, struct err *e)
{
    json_t *v = NULL;
    struct err ignored;
    int rc = t->body.len ? json_read(t->body.data, t->body.len, &json_limits_request, "answer", &v, &ignored) : -ERR_INPUT;
    const char *text = rc ? NULL : error_text(v);
    const char *hint = status_of(t) == 401 ? " (give the key with --api-key-file or SPILLWAY_API_KEY)" : "";
    rc = err_set(e, ERR_INPUT, "the server answers %ld%s%s%s", status_of(t), text ? ": " : "", text ? text : "", hint);
    json_decref(v);
    return rc;
}

static void take_usage(struct chat_answer *a, const json_t *v)
{
    const json_t *usage = json_object_get(v, "usage");
    const json_t *prompt = json_object_get(usage, "prompt_tokens"), *completion = json_object_get(usage, "completion_tokens");
    if (json_is_integer(prompt)) a->prompt_tokens = json_integer_value(prompt);
    if (json_is_integer(completion)) a->completion_tokens = json_integer_value(completion);
}

static int take_delta(struct transfer *t, const json_t *v)
{
    struct chat_answer *a = t->answer;
    const json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (finish && strcmp(finish, "length") == 0) a->cut = true;
    size_t n = json_string_length(content);
    if (!json_is_string(content) || n == 0) return 0;
    a->last_ns = clock_boot_ns();
    if (!a->first_ns) a->first_ns = a->last_ns;
    if (buf_append(&a->text, json_string_value(content), n)) return err_set(&t->err, ERR_LIMIT, "the answer is too long");
    t->delta(t->ctx, json_string_value(content), n);
    return 0;
}

static int take_event(void *ctx, const char *name, const char *data, size_t n)
{
    (void)name;
    struct transfer *t = ctx;
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        t->done = true;
        return 0;
    }
    json_t *v;
    int rc = json_read(data, n, &json_limits_request, "the server's event", &v, &t->err);
    if (rc) return rc;
    const char *error = json_object_get(v, "error") ? error_text(v) : NULL;
    if (error)
        rc = err_set(&t->err, ERR_GONE, "the server stopped: %s", error);
    else
        rc = take_delta(t, v);
    take_usage(t->answer, v);
    json_decref(v);
    return rc;
}

int chat_api_call(struct chat_api *a, const char *method, const char *path, const json_t *body, json_t **out, struct err *e)
{
    struct transfer t = {0};
    struct buf text;
    bool stopped = false;
    size_t n_base = strlen(a->base);
    buf_init(&text, MAX_REQUEST_BYTES);
    if (str_ends_with(a->base, "/v1")) n_base -= 3;
    *out = NULL;
    int rc = body && json_write(&text, body) ? err_set(e, ERR_LIMIT, "the request is too long to be sent") : 0;
    if (!rc) rc = transfer_open(&t, a, n_base, path, e);
    if (!rc && body) {
        curl_easy_setopt(t.easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)text.len);
        curl_easy_setopt(t.easy, CURLOPT_POSTFIELDS, text.data);
    }
    if (!rc) {
        curl_easy_setopt(t.easy, CURLOPT_CUSTOMREQUEST, method);
        rc = transfer_run(&t, a, &stopped, e);
    }
    if (!rc && stopped) rc = err_set(e, ERR_GONE, "stopped");
    if (!rc && (status_of(&t) < 200 || status_of(&t) > 299)) rc = status_error(&t, e);
    if (!rc) rc = json_read(t.body.data ? t.body.data : "", t.body.len, &json_limits_request, "the server's answer", out, e);
    transfer_close(&t);
    buf_free(&text);
    return rc;
}

int chat_api_first_model(struct chat_api *a, char model[CHAT_MODEL_BYTES], struct err *e)
{
    struct transfer t = {0};
    json_t *v = NULL;
    bool stopped = false;
    int rc = transfer_open(&t, a, strlen(a->base), "/models", e);
    if (!rc) rc = transfer_run(&t, a, &stopped, e);
    if (!rc && stopped) rc = err_set(e, ERR_GONE, "stopped");
    if (!rc && status_of(&t) != 200) rc = status_error(&t, e);
    if (!rc) rc = json_read(t.body.data ? t.body.data : "", t.body.len, &json_limits_request, "the list of models", &v, e);
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(v, "data"), 0), "id"));
    if (!rc && (!id || strlen(id) >= CHAT_MODEL_BYTES)) rc = err_set(e, ERR_NOT_FOUND, "%s/models lists no model; give --name", a->base);
    if (!rc) strcpy(model, id);
    json_decref(v);
    transfer_close(&t);
    return rc;
}

int chat_api_ask(struct chat_api *a, const json_t *request, void (*delta)(void *ctx, const char *p, size_t n), void *ctx,
                 struct chat_answer *out, struct err *e)
{
    *out = (struct chat_answer){.prompt_tokens = -1, .completion_tokens = -1};
    buf_init(&out->text, MAX_ANSWER_BYTES);
    struct transfer t = {.answer = out, .delta = delta, .ctx = ctx};
    struct buf body;
    buf_init(&body, MAX_REQUEST_BYTES);
    int rc =
        json_write(&body, request) ? err_set(e, ERR_LIMIT, "the talk with its pictures is too long to be sent; /clear begins anew") : 0;
    if (!rc) rc = transfer_open(&t, a, strlen(a->base), "/chat/completions", e);
    if (!rc) {
        curl_easy_setopt(t.easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
        curl_easy_setopt(t.easy, CURLOPT_POSTFIELDS, body.data);
        out->begun_ns = clock_boot_ns();
        rc = transfer_run(&t, a, &out->stopped, e);
    }
    if (!rc && !out->stopped && status_of(&t) != 200) rc = status_error(&t, e);
    if (!rc && !out->stopped && !is_stream(&t)) rc = err_set(e, ERR_INPUT, "the server does not stream its answer");
    if (!rc && !out->stopped && !t.done) rc = err_set(e, ERR_GONE, "the connection ended in the middle of the answer");
    transfer_close(&t);
    buf_free(&body);
    return rc;
}
