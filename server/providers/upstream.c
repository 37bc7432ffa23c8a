/* Upstream: see upstream.h. A call's life: start -> bytes in curl's callbacks -> over (curl's end, the timer, or a callback that gave up)
 * -> ended. Curl must not be called from its own callbacks, so those only note what is to be done, and the timer does it at once after. */
#include "server/providers/upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "server/curl_loop.h"

#ifndef SPILLWAY_VERSION
#define SPILLWAY_VERSION "0"
#endif

enum {
    ERROR_BODY_BYTES = 64 << 10,
    HEADERS_MAX_BYTES = 64 << 10,
    HEADERS_MAX = 128,
    LINGER_MS = 50,
    URL_MAX_BYTES = HOST_MAX_URL_BYTES + WIRE_MAX_PATH_BYTES,
    SPARE_HANDLES = 64,
    AT_ONCE_BYTES = 32 << 10 /* a body of so much is sent before there is silence to be measured */
};

struct upstream {
    struct loop *loop;
    struct upstream_config config;
    struct curl_loop *curl;
    CURLSH *share; /* TLS sessions; connections and names are the multi handle's */
    struct upstream_call *calls;
    CURL *spare[SPARE_HANDLES]; /* of calls that have ended, to be used again */
    size_t n_spare;
    struct upstream_counts counts;
};

struct upstream_call {
    struct upstream *owner;
    struct upstream_call *prev, *next;
    const struct provider_host *host;
    struct upstream_callbacks cb;
    CURL *easy;
    struct curl_slist *headers;
    struct wire_request request;
    struct decoder *decoder; /* NULL: upstream_get */
    struct buf body;         /* of an error, or of upstream_get */
    struct loop_timer timer;
    int64_t deadline_ms, idle_at_ms, drain_at_ms, started_ns, first_byte_ns;
    size_t header_bytes, n_headers, drained_bytes;
    curl_off_t uploaded;
    int status;
    bool in_callback, draining, cancelled, asked_again, stopped; /* stopped: what ends it is in err */
    struct err err;
    struct provider_limits limits;
    char curl_text[CURL_ERROR_SIZE];
};

void upstream_config_init(struct upstream_config *c)
{
    *c = (struct upstream_config){.connect_ms = 10000,
                                  .idle_ms = 120000,
                                  .drain_ms = 60000,
                                  .drain_bytes = 64u << 20,
                                  .max_drains = 64,
                                  .max_calls = 4096,
                                  .max_idle_connections = 256,
                                  .decoder = decoder_limits_usual};
}

/* --- handles --- */

static void take_back(struct upstream *u, CURL *easy);

/* --- the list --- */

static void call_free(struct upstream_call *c)
{
    struct upstream *u = c->owner;
    *(c->prev ? &c->prev->next : &u->calls) = c->next;
    if (c->next) c->next->prev = c->prev;
    u->counts.running--;
    if (c->draining) u->counts.draining--;
    loop_timer_clear(u->loop, &c->timer);
    take_back(u, c->easy);
    for (struct curl_slist *h = c->headers; h; h = h->next) explicit_bzero(h->data, strlen(h->data)); /* the key is in one */
    curl_slist_free_all(c->headers);
    wire_request_free(&c->request);
    decoder_free(c->decoder);
    buf_free(&c->body);
    free(c);
}

/* --- the end of a call --- */

static int64_t micros(CURL *easy, CURLINFO what)
{
    curl_off_t v = 0;
    return curl_easy_getinfo(easy, what, &v) == CURLE_OK ? (int64_t)v : 0;
}

static void read_times(struct upstream_call *c, struct upstream_result *r)
{
    long connects = 0, version = 0;
    struct upstream_times *t = &r->times;
    curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &connects);
    curl_easy_getinfo(c->easy, CURLINFO_HTTP_VERSION, &version);
    *t = (struct upstream_times){.dns_us = micros(c->easy, CURLINFO_NAMELOOKUP_TIME_T),
                                 .connect_us = micros(c->easy, CURLINFO_CONNECT_TIME_T),
                                 .tls_us = micros(c->easy, CURLINFO_APPCONNECT_TIME_T),
                                 .first_byte_us =
                                     c->first_byte_ns ? (c->first_byte_ns - c->started_ns) / 1000 : -1, /* curl's is the sending's */
                                 .total_us = micros(c->easy, CURLINFO_TOTAL_TIME_T)};
    t->reused = connects == 0 && c->status != 0;
    t->http_version = version == CURL_HTTP_VERSION_2_0   ? 20
                      : version == CURL_HTTP_VERSION_1_1 ? 11
                      : version == CURL_HTTP_VERSION_1_0 ? 10
                                                         : 0;
    int64_t *const reached[] = {&t->dns_us, &t->connect_us, &t->tls_us};
    for (size_t i = 0; i < sizeof reached / sizeof reached[0]; i++)
        if (*reached[i] == 0 && !t->reused) *reached[i] = -1;
}

static void read_result(struct upstream_call *c, struct upstream_result *r)
{
    *r = (struct upstream_result){.limits = c->limits, .usage_raw = "", .id = "", .model = "", .error = {.retry_after_ms = -1}};
    read_times(c, r);
    curl_off_t up = 0, down = 0;
    curl_easy_getinfo(c->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(c->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    r->sent_bytes = (uint64_t)up;
    r->received_bytes = (uint64_t)down;
    r->sent = up > 0 || c->status != 0;
    if (!c->decoder) return;
    r->has_content = decoder_has_content(c->decoder);
    r->usage = decoder_usage(c->decoder);
    r->n_usage = decoder_n_usage(c->decoder);
    r->usage_raw = decoder_usage_raw(c->decoder);
    r->id = decoder_id(c->decoder);
    r->model = decoder_model(c->decoder);
}

static bool status_is_good(const struct upstream_call *c)
{
    return c->status >= 200 && c->status < 300;
}

/* What went wrong on the way, in a word that clients and alerts may see. */
static const char *curl_word(CURLcode code)
{
    static const struct {
        CURLcode code;
        const char *word;
    } rows[] = {{CURLE_COULDNT_RESOLVE_HOST, "dns_failed"},     {CURLE_COULDNT_RESOLVE_PROXY, "dns_failed"},
                {CURLE_COULDNT_CONNECT, "connect_failed"},      {CURLE_OPERATION_TIMEDOUT, "timeout"},
                {CURLE_SSL_CONNECT_ERROR, "tls_failed"},        {CURLE_PEER_FAILED_VERIFICATION, "tls_not_verified"},
                {CURLE_SSL_CACERT_BADFILE, "tls_not_verified"}, {CURLE_GOT_NOTHING, "no_answer"},
                {CURLE_RECV_ERROR, "connection_lost"},          {CURLE_SEND_ERROR, "connection_lost"},
                {CURLE_PARTIAL_FILE, "connection_lost"},        {CURLE_HTTP2, "connection_lost"},
                {CURLE_HTTP2_STREAM, "connection_lost"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code == code) return rows[i].word;
    return "transport_failed";
}

static const char *err_word(const struct err *e)
{
    switch (e->code) {
    case ERR_INPUT:
        return "malformed_answer";
    case ERR_LIMIT:
        return "answer_too_large";
    case ERR_TIMEOUT:
        return "timeout";
    case ERR_DEADLINE:
        return "deadline_exceeded";
    default:
        return "answer_cut";
    }
}

static void judge(struct upstream_call *c, struct upstream_result *r, CURLcode code)
{
    const struct provider_error *told = c->decoder ? decoder_error(c->decoder) : NULL;
    bool good = status_is_good(c);
    if (c->status && !good && (!c->stopped || c->err.code == ERR_LIMIT)) {
        r->outcome = UPSTREAM_ERROR;
        provider_error_read(&r->error, c->host, c->status, &c->limits, c->body.data, c->body.len);
        return;
    }
    if (!c->stopped && good) {
        int rc = c->decoder && (code == CURLE_OK || decoder_is_complete(c->decoder)) ? decoder_end(c->decoder, &c->err) : 0;
        if (c->decoder) told = decoder_error(c->decoder);
        if (!rc && (code == CURLE_OK || (c->decoder && decoder_is_complete(c->decoder)))) {
            r->outcome = UPSTREAM_WHOLE;
            return;
        }
        c->stopped = rc != 0;
    }
    r->outcome = good && c->decoder && decoder_has_content(c->decoder) ? UPSTREAM_CUT : UPSTREAM_ERROR;
    r->deadline = c->stopped && c->err.code == ERR_DEADLINE;
    if (told)
        r->error = *told;
    else if (c->stopped)
        provider_error_broken(&r->error, c->host, err_word(&c->err), c->err.msg);
    else
        provider_error_broken(&r->error, c->host, curl_word(code), c->curl_text[0] ? c->curl_text : curl_easy_strerror(code));
    if (r->error.status == 0 && good) r->error.status = c->status;
}

/* The handle is off the multi handle; this is not inside curl. */
static void call_end(struct upstream_call *c, CURLcode code)
{
    struct upstream *u = c->owner;
    struct upstream_result r, verdict = {.error = {.retry_after_ms = -1}};
    loop_timer_clear(u->loop, &c->timer);
    c->in_callback = true;
    if (!c->cancelled) judge(c, &verdict, code); /* its last events come here */
    c->in_callback = false;
    if (c->cancelled) { /* before, or by the last event */
        call_free(c);
        return;
    }
    read_result(c, &r);
    r.outcome = verdict.outcome;
    r.error = verdict.error;
    r.deadline = verdict.deadline;
    r.body = c->decoder ? NULL : c->body.data;
    r.n_body = c->decoder ? 0 : c->body.len;
    u->counts.reused += r.times.reused;
    u->counts.connections += !r.times.reused && c->status != 0;
    uint64_t *const counts[] = {&u->counts.whole, &u->counts.cut, &u->counts.errors};
    ++*counts[r.outcome];
    c->cb.ended(c->cb.ctx, &r);
    call_free(c);
}

/* The connection was used before, and its host closed it when the request was on its way: nobody has read it. Curl asks again by itself, but not
 * with a handle that has had an answer (7.88 counts its header bytes on). */
static bool ask_again(struct upstream_call *c, CURLcode code)
{
    struct err e;
    long connects = 1;
    bool lost = code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR || code == CURLE_GOT_NOTHING;
    if (!lost || c->asked_again || c->header_bytes || c->cancelled || c->stopped) return false;
    if (curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &connects) != CURLE_OK || connects != 0) return false;
    c->asked_again = true;
    return curl_easy_setopt(c->easy, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK && curl_loop_add(c->owner->curl, c->easy, &e) == 0;
}

static void curl_done(void *ctx, CURL *easy, CURLcode code)
{
    (void)ctx;
    struct upstream_call *c;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &c);
    if (!ask_again(c, code)) call_end(c, code);
}

/* --- time --- */

static void timer_at(struct upstream_call *c, int64_t at_ms)
{
    int rc = loop_timer_set(c->owner->loop, &c->timer, at_ms);
    CHECK(rc == 0);
}

static void set_timer(struct upstream_call *c)
{
    int64_t at = c->idle_at_ms;
    if (c->deadline_ms && c->deadline_ms < at) at = c->deadline_ms;
    if (c->drain_at_ms && c->drain_at_ms < at) at = c->drain_at_ms;
    timer_at(c, at);
}

static void stop_soon(struct upstream_call *c)
{
    c->idle_at_ms = 0;
    timer_at(c, loop_now_ms(c->owner->loop));
}

static void timer_fired(void *ctx)
{
    struct upstream_call *c = ctx;
    int64_t now = loop_now_ms(c->owner->loop);
    if (!c->stopped && !c->cancelled && !(c->decoder && decoder_is_complete(c->decoder))) {
        c->stopped = true;
        if (c->deadline_ms && now >= c->deadline_ms && !c->draining)
            err_set(&c->err, ERR_DEADLINE, "provider %s: the request's time is up", c->host->name);
        else if (c->draining && c->drain_at_ms && now >= c->drain_at_ms)
            err_set(&c->err, ERR_TIMEOUT, "provider %s: the client left, and the rest took too long", c->host->name);
        else
            err_set(&c->err, ERR_TIMEOUT, "provider %s: no byte for %lld ms", c->host->name, (long long)c->owner->config.idle_ms);
    }
    curl_loop_remove(c->owner->curl, c->easy);
    call_end(c, CURLE_ABORTED_BY_CALLBACK);
}

/* --- curl's callbacks --- */

static int64_t wall_ms(void)
{
    struct timeval tv;
    gettimeofday(&tv, NULL);
    return (int64_t)tv.tv_sec * 1000 + tv.tv_usec / 1000;
}

static size_t take_header(char *p, size_t size, size_t n, void *ctx)
{
    struct upstream_call *c = ctx;
    (void)size; /* 1 */
    c->header_bytes += n;
    if (!c->first_byte_ns) c->first_byte_ns = clock_boot_ns();
    if (n >= 5 && memcmp(p, "HTTP/", 5) == 0) { /* an interim answer's headers are not the answer's */
        const char *blank = memchr(p, ' ', n);
        c->status = blank && (size_t)(p + n - blank) > 3 ? atoi(blank + 1) : 0;
        provider_limits_init(&c->limits);
    } else
        provider_limits_header(&c->limits, c->host->row, p, n, wall_ms());
    if (c->header_bytes <= HEADERS_MAX_BYTES && ++c->n_headers <= HEADERS_MAX) return n;
    c->stopped = true;
    err_set(&c->err, ERR_LIMIT, "provider %s: too many response headers", c->host->name);
    return 0;
}

static int take_answer(struct upstream_call *c, const char *p, size_t n)
{
    if (!status_is_good(c) || !c->decoder) {
        size_t room = c->body.max - c->body.len;
        if (n > room && c->decoder) n = room; /* enough of an error */
        return n ? buf_append(&c->body, p, n) : 0;
    }
    if (c->draining && (c->drained_bytes += n) > c->owner->config.drain_bytes)
        return err_set(&c->err, ERR_LIMIT, "provider %s: the client left, and the rest is too long", c->host->name);
    return decoder_feed(c->decoder, p, n, &c->err);
}

static size_t take_body(char *p, size_t size, size_t n, void *ctx)
{
    struct upstream_call *c = ctx;
    (void)size; /* 1 */
    if (c->cancelled || c->stopped) return 0;
    c->idle_at_ms = loop_now_ms(c->owner->loop) + c->owner->config.idle_ms;
    c->in_callback = true;
    int rc = take_answer(c, p, n);
    c->in_callback = false;
    if (c->cancelled) return 0;
    if (rc) {
        c->stopped = true;
        if (!c->err.code)
            err_set(&c->err, rc == -ERR_LIMIT ? ERR_LIMIT : ERR_MEMORY, "provider %s: the answer could not be kept", c->host->name);
        return 0;
    }
    if (c->decoder && decoder_is_complete(c->decoder)) /* some hosts keep the connection open behind the end */
        c->idle_at_ms = loop_now_ms(c->owner->loop) + LINGER_MS;
    set_timer(c);
    return n;
}

/* A large request takes its time to be sent: that is not silence. */
static int take_progress(void *ctx, curl_off_t down_all, curl_off_t down, curl_off_t up_all, curl_off_t up)
{
    struct upstream_call *c = ctx;
    (void)down_all;
    (void)down;
    (void)up_all;
    if (up != c->uploaded && !c->cancelled && !c->stopped) {
        c->uploaded = up;
        c->idle_at_ms = loop_now_ms(c->owner->loop) + c->owner->config.idle_ms;
        set_timer(c);
    }
    return 0;
}

static int take_decoded(void *ctx, const struct event *ev)
{
    struct upstream_call *c = ctx;
    if (c->cancelled) return -ERR_GONE;
    return c->draining ? 0 : c->cb.event(c->cb.ctx, ev);
}

/* --- starting --- */

static void add_header(struct upstream_call *c, const char *line, bool *failed)
{
    struct curl_slist *more = curl_slist_append(c->headers, line);
    if (more)
        c->headers = more;
    else
        *failed = true;
}

static void add_key(struct upstream_call *c, size_t i_key, bool *failed)
{
    static const char *const forms[] = {[AUTH_BEARER] = "authorization: Bearer %s",
                                        [AUTH_X_API_KEY] = "x-api-key: %s",
                                        [AUTH_API_KEY] = "api-key: %s",
                                        [AUTH_X_GOOG_API_KEY] = "x-goog-api-key: %s"};
    char line[HOST_MAX_KEY_BYTES + 64];
    if (!c->host->n_keys) return;
    CHECK(i_key < c->host->n_keys);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(line, sizeof line, forms[c->host->auth], c->host->keys[i_key]);
#pragma GCC diagnostic pop
    add_header(c, line, failed);
    explicit_bzero(line, sizeof line);
}

static void add_headers(struct upstream_call *c, size_t i_key, bool *failed)
{
    add_header(c, c->decoder ? "accept: text/event-stream, application/json" : "accept: application/json", failed);
    add_header(c, "expect:", failed); /* else curl asks first and waits, with a large body */
    if (c->decoder) add_header(c, "content-type: application/json", failed);
    for (size_t i = 0; i < c->request.n_headers; i++) add_header(c, c->request.headers[i], failed);
    for (size_t i = 0; i < c->host->n_headers; i++) add_header(c, c->host->headers[i], failed);
    add_key(c, i_key, failed);
}

#define SET(option, value) ok &= curl_easy_setopt(h, option, value) == CURLE_OK

/* What is the same of all calls: making a handle and telling it this takes longer than all else that curl does in a short call. */
static CURL *handle_new(const struct upstream *u)
{
    CURL *h = curl_easy_init();
    bool ok = h && curl_loop_prepare(u->curl, h);
    if (!h) return NULL;
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* or giving up while a name is being resolved would wait for it */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)u->config.connect_ms);
    SET(CURLOPT_USERAGENT, "spillway/" SPILLWAY_VERSION);
    SET(CURLOPT_HEADERFUNCTION, take_header);
    SET(CURLOPT_WRITEFUNCTION, take_body);
    SET(CURLOPT_XFERINFOFUNCTION, take_progress);
    SET(CURLOPT_SHARE, u->share);
    if (u->config.ca_file) SET(CURLOPT_CAINFO, u->config.ca_file);
    if (ok) return h;
    curl_easy_cleanup(h);
    return NULL;
}

/* What is the call's. Whatever is set here is set of every call, and taken away by take_back if it points to the call's memory. */
static bool set_options(struct upstream_call *c, const char *path)
{
    char url[URL_MAX_BYTES];
    int n = snprintf(url, sizeof url, "%s%s", c->host->base_url, path);
    bool ok = n > 0 && (size_t)n < sizeof url;
    CURL *h = c->easy;
    SET(CURLOPT_URL, url);
    /* rather one connection more loaded than one more; without TLS there is no HTTP/2, and calls would wait for each other's ends */
    SET(CURLOPT_PIPEWAIT, c->host->tls ? 1L : 0L);
    SET(CURLOPT_HTTPHEADER, c->headers);
    SET(CURLOPT_HEADERDATA, c);
    SET(CURLOPT_WRITEDATA, c);
    SET(CURLOPT_XFERINFODATA, c);
    SET(CURLOPT_PRIVATE, c);
    SET(CURLOPT_ERRORBUFFER, c->curl_text);
    SET(CURLOPT_NOPROGRESS, c->request.body.len > AT_ONCE_BYTES ? 0L : 1L);
    SET(CURLOPT_NOPROXY, c->host->loopback ? "*" : NULL);
    SET(CURLOPT_FRESH_CONNECT, 0L);
    if (c->decoder) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->request.body.len);
        SET(CURLOPT_POSTFIELDS, c->request.body.data);
    } else
        SET(CURLOPT_HTTPGET, 1L);
    return ok;
}

static void take_back(struct upstream *u, CURL *h)
{
    bool ok = h && u->n_spare < SPARE_HANDLES;
    if (ok) {
        SET(CURLOPT_HTTPHEADER, NULL);
        SET(CURLOPT_HEADERDATA, NULL);
        SET(CURLOPT_WRITEDATA, NULL);
        SET(CURLOPT_XFERINFODATA, NULL);
        SET(CURLOPT_PRIVATE, NULL);
        SET(CURLOPT_ERRORBUFFER, NULL);
        SET(CURLOPT_POSTFIELDS, NULL);
    }
    if (ok)
        u->spare[u->n_spare++] = h;
    else
        curl_easy_cleanup(h);
}
#undef SET

static int call_begin(struct upstream *u, struct upstream_call *c, const char *path, size_t i_key, struct err *e)
{
    bool failed = false;
    c->easy = u->n_spare ? u->spare[--u->n_spare] : handle_new(u);
    add_headers(c, i_key, &failed);
    if (!c->easy || failed || !set_options(c, path)) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = curl_loop_add(u->curl, c->easy, e);
    if (rc) return rc;
    c->idle_at_ms = loop_now_ms(u->loop) + u->config.idle_ms;
    set_timer(c);
    u->counts.started++;
    c->started_ns = clock_boot_ns();
    return 0;
}

static struct upstream_call *call_new(struct upstream *u, const struct provider_host *h, int64_t deadline_ms,
                                      const struct upstream_callbacks *cb, size_t body_bytes)
{
    struct upstream_call *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (struct upstream_call){.owner = u, .host = h, .cb = *cb, .deadline_ms = deadline_ms, .next = u->calls};
    c->timer = (struct loop_timer){.fn = timer_fired, .ctx = c};
    buf_init(&c->body, body_bytes);
    provider_limits_init(&c->limits);
    if (c->next) c->next->prev = c;
    u->calls = c;
    u->counts.running++;
    return c;
}

static int too_many(const struct upstream *u, struct err *e)
{
    return u->counts.running < u->config.max_calls
               ? 0
               : err_set(e, ERR_BUSY, "The server has as many calls to hosted providers as it may: try again.");
}

int upstream_start(struct upstream *u, const struct provider_host *h, size_t i_key, struct wire_request *request, int64_t deadline_ms,
                   const struct upstream_callbacks *cb, struct upstream_call **out, struct err *e)
{
    *out = NULL;
    int rc = too_many(u, e);
    if (rc) return rc;
    struct upstream_call *c = call_new(u, h, deadline_ms, cb, ERROR_BODY_BYTES);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    c->request = *request;
    rc = decoder_new(&c->decoder, h, request->n_choices, &u->config.decoder, take_decoded, c, e);
    if (!rc) rc = call_begin(u, c, request->path, i_key, e);
    if (rc) {
        c->request = (struct wire_request){0}; /* stays the caller's */
        call_free(c);
        return rc;
    }
    *request = (struct wire_request){0};
    *out = c;
    return 0;
}

int upstream_get(struct upstream *u, const struct provider_host *h, size_t i_key, const char *path, size_t max_bytes, int64_t deadline_ms,
                 const struct upstream_callbacks *cb, struct upstream_call **out, struct err *e)
{
    *out = NULL;
    int rc = too_many(u, e);
    if (rc) return rc;
    struct upstream_call *c = call_new(u, h, deadline_ms, cb, max_bytes);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    rc = call_begin(u, c, path, i_key, e);
    if (rc)
        call_free(c);
    else
        *out = c;
    return rc;
}

void upstream_cancel(struct upstream_call *c, struct upstream_result *r, struct usage *usage)
{
    struct upstream *u = c->owner;
    if (r) {
        read_result(c, r);
        r->outcome = UPSTREAM_CUT;
        if (usage && r->usage) *usage = *r->usage;
        r->usage = r->usage && usage ? usage : NULL;
        r->usage_raw = r->id = r->model = "";
    }
    u->counts.cancelled++;
    c->cancelled = true;
    if (c->in_callback) { /* curl ends the transfer itself when the callback has returned */
        stop_soon(c);
        return;
    }
    curl_loop_remove(u->curl, c->easy);
    call_free(c);
}

int upstream_drain(struct upstream_call *c, struct err *e)
{
    struct upstream *u = c->owner;
    if (c->draining) return 0;
    if (u->counts.draining >= u->config.max_drains) return err_set(e, ERR_BUSY, "enough answers of clients who left are being read");
    c->draining = true;
    u->counts.draining++;
    u->counts.drained++;
    c->deadline_ms = 0;
    c->drain_at_ms = loop_now_ms(u->loop) + u->config.drain_ms;
    set_timer(c);
    return 0;
}

/* --- the whole --- */

int upstream_new(struct upstream **out, struct loop *l, const struct upstream_config *config, struct err *e)
{
    struct upstream *u = *out = calloc(1, sizeof *u);
    if (!u) return err_set(e, ERR_MEMORY, "out of memory");
    u->loop = l;
    u->config = *config;
    int rc = curl_loop_new(&u->curl, l, curl_done, u, e);
    if (!rc && !(u->share = curl_share_init())) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (rc) {
        upstream_free(u);
        *out = NULL;
        return rc;
    }
    curl_share_setopt(u->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION); /* one thread: no locks */
    curl_loop_keep(u->curl, config->max_idle_connections);
    return 0;
}

void upstream_free(struct upstream *u)
{
    if (!u) return;
    for (struct upstream_call *c = u->calls, *next; c; c = next) {
        next = c->next;
        curl_loop_remove(u->curl, c->easy);
        call_free(c);
    }
    while (u->n_spare) curl_easy_cleanup(u->spare[--u->n_spare]);
    curl_loop_free(u->curl);
    if (u->share) curl_share_cleanup(u->share);
    free(u);
}

void upstream_counts_read(const struct upstream *u, struct upstream_counts *out)
{
    *out = u->counts;
}
