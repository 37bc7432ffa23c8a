/* Remote images: see remote_image.h. A fetch's life: waiting -> running, once for each redirect -> ended; or given up, which ends it for its owner at
 * once, and for curl when that cannot block. */
#include "server/remote_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/curl_loop.h"

#ifndef SPILLWAY_VERSION
#define SPILLWAY_VERSION "0"
#endif

enum { HEADERS_MAX_BYTES = 64 << 10, TEXT_BYTES = REMOTE_MAX_URL_BYTES + 16, STATUS_OK = 200 };

struct list {
    struct remote_fetch *first, *last;
    int64_t n;
};

struct remote_images {
    struct loop *loop;
    struct curl_loop *curl;
    struct remote_rules rules;
    const char *ca_file;
    struct list waiting, running;
    uint64_t n_fetched, n_failed, n_unallowed;
};

struct remote_fetch {
    struct remote_images *owner;
    struct list *in;
    struct remote_fetch *prev, *next;
    struct remote_order order; /* done NULL: given up */
    struct remote_url url;     /* rest is in text */
    char *text;
    CURL *easy; /* of those that run */
    struct buf bytes;
    struct loop_timer timer;
    size_t header_bytes;
    int64_t n_redirects;
    bool resolved, refused; /* its name is an address now; one of its addresses may not be connected to */
    struct err err;         /* why it was stopped */
};

/* --- the lists --- */

static void append(struct list *l, struct remote_fetch *f)
{
    f->in = l;
    f->next = NULL;
    f->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = f;
    l->last = f;
    l->n++;
}

static void take_out(struct remote_fetch *f)
{
    *(f->prev ? &f->prev->next : &f->in->first) = f->next;
    *(f->next ? &f->next->prev : &f->in->last) = f->prev;
    f->in->n--;
}

static void fetch_free(struct remote_fetch *f)
{
    take_out(f);
    loop_timer_clear(f->owner->loop, &f->timer);
    curl_easy_cleanup(f->easy);
    buf_free(&f->bytes);
    free(f->text);
    free(f);
}

static bool may_run(const struct remote_images *r, const struct remote_fetch *f)
{
    int64_t of_host = 0;
    if (r->running.n >= f->order.limits->remote_images) return false;
    for (const struct remote_fetch *o = r->running.first; o; o = o->next) of_host += strcmp(o->url.host, f->url.host) == 0;
    return of_host < f->order.limits->remote_images_per_host;
}

/* --- curl's callbacks --- */

/* The one place where a connection begins: by an address, whatever name led to it. */
static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct remote_fetch *f = ctx;
    struct sockaddr_storage address = {0};
    f->resolved = true;
    if (!f->order.done || purpose != CURLSOCKTYPE_IPCXN || a->addrlen > sizeof address) return CURL_SOCKET_BAD;
    memcpy(&address, &a->addr, a->addrlen);
    const struct ip ip = ip_of(&address);
    if ((a->family != AF_INET && a->family != AF_INET6) || !remote_ip_allowed(&f->owner->rules, &ip)) {
        f->refused = true;
        return CURL_SOCKET_BAD;
    }
    const int fd = socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
    if (fd < 0) err_set(&f->err, ERR_IO, "socket: %s", strerror(errno));
    return fd;
}

static size_t take_header(char *p, size_t size, size_t n, void *ctx)
{
    struct remote_fetch *f = ctx;
    (void)p;
    (void)size; /* 1 */
    f->header_bytes += n;
    if (f->header_bytes <= HEADERS_MAX_BYTES) return n;
    err_set(&f->err, ERR_LIMIT, "the picture's host answers with too many headers");
    return 0;
}

static size_t take_bytes(char *p, size_t size, size_t n, void *ctx)
{
    struct remote_fetch *f = ctx;
    long status = 0;
    (void)size; /* 1 */
    curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != STATUS_OK || n == 0) return n; /* an error's text is nobody's */
    int rc = n > f->bytes.max - f->bytes.len ? err_set(&f->err, ERR_LIMIT, "the picture has more than %zu bytes", f->bytes.max)
                                             : f->order.keep(f->order.ctx, n, &f->err);
    if (!rc && buf_append(&f->bytes, p, n)) rc = err_set(&f->err, ERR_MEMORY, "out of memory");
    return rc ? 0 : n;
}

/* --- running --- */

static bool set_options(struct remote_fetch *f)
{
    const struct remote_images *r = f->owner;
    char url[TEXT_BYTES + REMOTE_MAX_NAME_BYTES];
    int n = snprintf(url, sizeof url, "http%s://%s:%u%s%.*s", f->url.tls ? "s" : "", f->url.host, f->url.port,
                     f->url.n_rest && f->url.rest[0] == '/' ? "" : "/", (int)f->url.n_rest, f->url.rest);
    bool ok = n > 0 && (size_t)n < sizeof url;
    CURL *h = f->easy;
#define SET(option, value) ok &= curl_easy_setopt(h, option, value) == CURLE_OK
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PROXY, ""); /* not the environment's either: it would connect for us */
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_FRESH_CONNECT, 1L); /* one that is used again was judged for somebody else */
    SET(CURLOPT_FORBID_REUSE, 1L);
    SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
    SET(CURLOPT_USERAGENT, "spillway/" SPILLWAY_VERSION);
    SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(CURLOPT_OPENSOCKETDATA, f);
    SET(CURLOPT_HEADERFUNCTION, take_header);
    SET(CURLOPT_HEADERDATA, f);
    SET(CURLOPT_WRITEFUNCTION, take_bytes);
    SET(CURLOPT_WRITEDATA, f);
    SET(CURLOPT_PRIVATE, f);
    if (r->ca_file) SET(CURLOPT_CAINFO, r->ca_file);
#undef SET
    return ok;
}

static int run(struct remote_fetch *f, struct err *e)
{
    struct remote_images *r = f->owner;
    take_out(f);
    append(&r->running, f);
    f->easy = curl_easy_init();
    if (!f->easy) return err_set(e, ERR_MEMORY, "out of memory");
    f->resolved = f->refused = false;
    f->header_bytes = 0;
    if (!set_options(f)) return err_set(e, ERR_MEMORY, "out of memory");
    return curl_loop_add(r->curl, f->easy, e);
}

static void tell(struct remote_fetch *f, const struct err *e)
{
    void (*done)(void *, struct buf *, const struct err *) = f->order.done;
    if (e) log_debug("remote image: host %s: %s", f->url.host, e->msg);
    f->order.done = NULL;
    if (done) ++*(e ? &f->owner->n_failed : &f->owner->n_fetched);
    if (done) done(f->order.ctx, &f->bytes, e);
}

static void run_waiting(struct remote_images *r)
{
    for (struct remote_fetch *f = r->waiting.first, *next; f; f = next) {
        struct err e;
        next = f->next;
        if (!may_run(r, f) || !run(f, &e)) continue;
        tell(f, &e);
        fetch_free(f);
        next = r->waiting.first; /* who was told may have given up others */
    }
}

static void end(struct remote_fetch *f, const struct err *e)
{
    struct remote_images *r = f->owner;
    tell(f, e);
    fetch_free(f);
    run_waiting(r);
}

/* --- its end --- */

/* One text for a name without an address, an address that is not public and a host that does not answer: what is behind the gateway cannot be told
 * apart by it. */
static int curl_failed(struct remote_fetch *f, CURLcode code)
{
    if (f->err.code) return -(int)f->err.code;
    if (f->refused) {
        f->owner->n_unallowed++;
        log_info("remote image: host %s has an address that is not public: not connected", f->url.host);
    }
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
    case CURLE_ABORTED_BY_CALLBACK: /* only for want of memory: curl_loop.c */
    case CURLE_FAILED_INIT:
        return err_set(&f->err, ERR_MEMORY, "out of memory");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
        return err_set(&f->err, ERR_INPUT, "the certificate of the picture's host is not valid");
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
        return err_set(&f->err, ERR_INPUT, "the picture's host cannot be reached at a public address");
    default:
        return err_set(&f->err, ERR_INPUT, "the picture's host did not answer, or not to the end");
    }
}

/* A new URL, in its former place. */
static int redirect(struct remote_fetch *f)
{
    const char *to = NULL;
    struct remote_url url;
    if (f->n_redirects == f->order.limits->remote_image_redirects)
        return f->n_redirects ? err_set(&f->err, ERR_INPUT, "the picture's URL leads on more than %lld times", (long long)f->n_redirects)
                              : err_set(&f->err, ERR_INPUT, "the picture's URL leads on to another, which is not followed");
    curl_easy_getinfo(f->easy, CURLINFO_REDIRECT_URL, &to);
    if (!to) return err_set(&f->err, ERR_INPUT, "the picture's URL leads on to none");
    char *text = strdup(to);
    if (!text) return err_set(&f->err, ERR_MEMORY, "out of memory");
    int rc = remote_url_read(&f->owner->rules, text, strlen(text), &url, &f->err);
    if (rc) {
        free(text);
        return err_prefix(&f->err, "redirect");
    }
    free(f->text);
    f->text = text;
    f->url = url;
    f->n_redirects++;
    curl_easy_cleanup(f->easy);
    f->easy = NULL;
    return run(f, &f->err);
}

static void curl_done(void *ctx, CURL *easy, CURLcode code)
{
    (void)ctx;
    struct remote_fetch *f;
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &f);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    int rc = 0;
    if (code != CURLE_OK || !f->order.done)
        rc = curl_failed(f, code);
    else if (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) {
        rc = redirect(f);
        if (!rc) return;
    } else if (status != STATUS_OK)
        rc = err_set(&f->err, ERR_INPUT, "the picture's host answered with status %ld", status);
    else if (f->bytes.len == 0)
        rc = err_set(&f->err, ERR_INPUT, "the picture's host answered with nothing");
    end(f, rc ? &f->err : NULL);
}

/* Off curl, if that cannot block. */
static void give_up(struct remote_fetch *f)
{
    struct remote_images *r = f->owner;
    loop_timer_clear(r->loop, &f->timer);
    f->order.done = NULL;
    buf_free(&f->bytes);
    if (f->in == &r->running) {
        if (!f->resolved) return; /* the next that is heard of it ends it */
        curl_loop_remove(r->curl, f->easy);
    }
    fetch_free(f);
}

static void too_late(void *ctx)
{
    struct remote_fetch *f = ctx;
    struct remote_images *r = f->owner;
    struct err e;
    if (f->in == &r->running)
        err_set(&e, ERR_INPUT, "the picture's host takes too long to answer");
    else
        err_set(&e, ERR_BUSY, "Too many pictures are being fetched: try again.");
    tell(f, &e);
    give_up(f);
    run_waiting(r);
}

void remote_image_cancel(struct remote_fetch *f)
{
    struct remote_images *r = f->owner;
    give_up(f);
    run_waiting(r);
}

int remote_image_fetch(struct remote_images *r, const struct remote_order *o, struct remote_fetch **out, struct err *e)
{
    *out = NULL;
    if (r->waiting.n >= o->limits->media_queue) return err_set(e, ERR_BUSY, "Too many pictures are being fetched: try again.");
    struct remote_fetch *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_MEMORY, "out of memory");
    *f = (struct remote_fetch){.owner = r, .order = *o, .url = *o->url, .timer = {.fn = too_late, .ctx = f}};
    append(&r->waiting, f);
    buf_init(&f->bytes, (size_t)o->limits->remote_image_bytes);
    f->text = strndup(o->url->rest, o->url->n_rest);
    f->url.rest = f->text;
    int rc = f->text ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) rc = loop_timer_set(r->loop, &f->timer, loop_now_ms(r->loop) + o->limits->remote_image_ms);
    if (!rc && may_run(r, f)) rc = run(f, e);
    if (rc)
        fetch_free(f);
    else
        *out = f;
    return rc;
}

/* --- the whole --- */

int remote_images_new(struct remote_images **out, struct loop *l, const struct remote_rules *rules, const char *ca_file, struct err *e)
{
    struct remote_images *r = *out = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "out of memory");
    *r = (struct remote_images){.loop = l, .rules = *rules, .ca_file = ca_file};
    int rc = curl_loop_new(&r->curl, l, curl_done, r, e);
    if (!rc) return 0;
    free(r);
    *out = NULL;
    return rc;
}

void remote_images_free(struct remote_images *r)
{
    if (!r) return;
    while (r->waiting.first) fetch_free(r->waiting.first);
    while (r->running.first) {
        curl_loop_remove(r->curl, r->running.first->easy);
        fetch_free(r->running.first);
    }
    curl_loop_free(r->curl);
    free(r);
}

struct remote_info remote_images_info(const struct remote_images *r)
{
    return (struct remote_info){
        .running = r->running.n, .waiting = r->waiting.n, .fetched = r->n_fetched, .failed = r->n_failed, .unallowed = r->n_unallowed};
}

const struct remote_rules *remote_images_rules(const struct remote_images *r)
{
    return &r->rules;
}
