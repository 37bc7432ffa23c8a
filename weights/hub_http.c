/* Requests to the hub: libcurl, one at a time. Redirects are followed here, not by libcurl, so that one place decides where the token
 * goes: to the endpoint's own scheme, host and port, nowhere else. Headers, bodies, hops, waits and tries are bounded; a transfer that
 * stands still for 30 s is over. Addresses may be signed, so messages name hosts only. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "weights/hub_parts.h"

enum {
    CONNECT_MS = 10000,
    STILL_S = 30,
    HEAD_MS = 60000,
    MAX_HOPS = 5,
    MAX_HEADER_BYTES = 64 << 10,
    MAX_ERROR_BYTES = 1 << 20, /* the body of an answer that is not 2xx; read and dropped, so that the connection stays */
    READ_BYTES = 256 << 10, /* libcurl's own 16 KiB make a write, a hash and a look at the clock of each */
    FIRST_WAIT_MS = 200,
    MAX_WAIT_MS = 60000,
    LOOK_MS = 100
};

/* One hop. */
struct exchange {
    struct hub_http *http;
    struct hub_answer *a;
    const struct hub_sink *sink;
    struct err err; /* found in a callback; libcurl then only knows that it was stopped */
    uint64_t dropped;
    bool begun;
};

static bool is_stopped(const struct hub_config *c)
{
    return c->stop && c->stop(c->ctx);
}

static int check_endpoint(const char *endpoint, struct err *e)
{
    bool web = str_starts_with(endpoint, "https://") || str_starts_with(endpoint, "http://");
    if (!web || endpoint[strcspn(endpoint, " ?#\t\r\n@\\")] || strlen(endpoint) >= sizeof((struct hub_http *)0)->base)
        return err_set(e, ERR_INPUT,
                       "the hub's endpoint must be an address such as https://huggingface.co, without user, query and blanks");
    return 0;
}

static int check_token(const char *token, struct err *e)
{
    for (const char *p = token; *p; p++)
        if (*p <= ' ' || *p >= 0x7f) return err_set(e, ERR_INPUT, "the hub's token has a blank or a control character in it");
    return strlen(token) < 512 ? 0 : err_set(e, ERR_INPUT, "the hub's token is too long");
}

int hub_http_open(struct hub_http *h, const struct hub_config *c, struct err *e)
{
    *h = (struct hub_http){.c = c};
    int rc = check_endpoint(c->endpoint, e);
    if (!rc && c->token) rc = check_token(c->token, e);
    if (rc) return rc;
    size_t n = strlen(c->endpoint);
    while (n > 0 && c->endpoint[n - 1] == '/') n--;
    memcpy(h->base, c->endpoint, n);
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) return err_set(e, ERR_IO, "libcurl cannot start");
    h->easy = curl_easy_init();
    return h->easy ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

void hub_http_close(struct hub_http *h)
{
    if (h->easy) {
        curl_easy_cleanup(h->easy);
        curl_global_cleanup(); /* so that who comes after begins anew, with memory of its own (server/curl_memory.h) */
    }
    *h = (struct hub_http){0};
}

/* --- addresses --- */

/* "https://host:443" of an address, or as people write it: without a port that goes without saying. "" if it is none. */
static void origin_of(const char *url, bool for_people, char out[HUB_ORIGIN_BYTES])
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    out[0] = '\0';
    if (u && !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
        !curl_url_get(u, CURLUPART_HOST, &host, 0)) {
        bool told = curl_url_get(u, CURLUPART_PORT, &port, for_people ? CURLU_NO_DEFAULT_PORT : CURLU_DEFAULT_PORT) == CURLUE_OK;
        int n = snprintf(out, HUB_ORIGIN_BYTES, "%s://%s%s%s", scheme, host, told ? ":" : "", told ? port : "");
        if (n < 0 || n >= HUB_ORIGIN_BYTES) out[0] = '\0';
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
}

static bool is_endpoint(const struct hub_http *h, const char *url)
{
    char ours[HUB_ORIGIN_BYTES], theirs[HUB_ORIGIN_BYTES];
    origin_of(h->base, false, ours);
    origin_of(url, false, theirs);
    return ours[0] && strcasecmp(ours, theirs) == 0;
}

/* --- callbacks --- */

static bool header_is(const char *line, size_t n, const char *name, char *out, size_t size)
{
    size_t k = strlen(name);
    if (n <= k || line[k] != ':' || strncasecmp(line, name, k) != 0) return false;
    const char *p = line + k + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t')) end--;
    bool fits = (size_t)(end - p) < size && !memchr(p, '\0', (size_t)(end - p));
    if (fits) memcpy(out, p, (size_t)(end - p));
    out[fits ? end - p : 0] = '\0'; /* too long to be one of ours: as if it were not there */
    return true;
}

/* "bytes 5-9/10" */
static void read_range(struct hub_answer *a, char *text)
{
    char *dash = strchr(text, '-'), *slash = strchr(text, '/');
    a->range_first = a->range_total = -1;
    if (strncmp(text, "bytes ", 6) != 0 || !dash || !slash || dash > slash) return;
    *dash = '\0';
    int64_t first, total;
    if (!str_parse_int64(text + 6, 0, INT64_MAX, &first) || !str_parse_int64(slash + 1, 0, INT64_MAX, &total)) return;
    a->range_first = first;
    a->range_total = total;
}

static int64_t number_of(const char *text)
{
    int64_t v;
    return str_parse_int64(text, 0, INT64_MAX, &v) ? v : -2;
}

static void answer_clear(struct hub_answer *a)
{
    *a = (struct hub_answer){.linked_bytes = -1, .content_bytes = -1, .range_first = -1, .range_total = -1, .retry_after_s = -1};
}

static size_t take_header(char *p, size_t size, size_t n, void *ctx)
{
    struct exchange *x = ctx;
    struct hub_answer *a = x->a;
    char text[96];
    n *= size;
    a->header_bytes += n;
    if (a->header_bytes > MAX_HEADER_BYTES) {
        err_set(&x->err, ERR_LIMIT, "%s: its answer has more than %d bytes of headers", x->http->sent_to, MAX_HEADER_BYTES);
        return 0;
    }
    if (n > 5 && strncmp(p, "HTTP/", 5) == 0) { /* of an interim answer nothing stays but its size */
        size_t bytes = a->header_bytes;
        answer_clear(a);
        a->header_bytes = bytes;
    } else if (header_is(p, n, "X-Repo-Commit", a->commit, sizeof a->commit)) {
        if (!hub_is_hex(a->commit, HUB_COMMIT_BYTES - 1)) a->commit[0] = '\0';
    } else if (header_is(p, n, "X-Linked-Size", text, sizeof text))
        a->linked_bytes = number_of(text);
    else if (header_is(p, n, "Content-Length", text, sizeof text))
        a->content_bytes = number_of(text);
    else if (header_is(p, n, "Content-Range", text, sizeof text))
        read_range(a, text);
    else if (header_is(p, n, "Retry-After", text, sizeof text))
        a->retry_after_s = number_of(text);
    else if (!header_is(p, n, "X-Linked-Etag", a->linked_etag, sizeof a->linked_etag) &&
             !header_is(p, n, "ETag", a->etag, sizeof a->etag) && !header_is(p, n, "X-Error-Code", a->error_code, sizeof a->error_code))
        header_is(p, n, "X-Error-Message", a->error_message, sizeof a->error_message);
    return n;
}

static bool is_good(const struct hub_answer *a)
{
    return a->status >= 200 && a->status <= 299;
}

static int begin_body(struct exchange *x)
{
    curl_easy_getinfo(x->http->easy, CURLINFO_RESPONSE_CODE, &x->a->status);
    if (x->begun || !is_good(x->a) || !x->sink) return 0;
    x->begun = true;
    return x->sink->begin ? x->sink->begin(x->sink->ctx, x->a, &x->err) : 0;
}

static size_t take_body(char *p, size_t size, size_t n, void *ctx)
{
    struct exchange *x = ctx;
    n *= size;
    if (begin_body(x)) return 0;
    if (x->begun) return x->sink->take(x->sink->ctx, p, n, &x->err) ? 0 : n;
    x->dropped += n;
    if (x->dropped <= MAX_ERROR_BYTES) return n;
    err_set(&x->err, ERR_LIMIT, "%s: its answer %ld is too long", x->http->sent_to, x->a->status);
    return 0;
}

static int look_stop(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    return is_stopped(((struct exchange *)ctx)->http->c);
}

/* --- one hop --- */

static struct curl_slist *add_line(struct curl_slist *list, bool *failed, const char *line)
{
    struct curl_slist *more = *failed ? NULL : curl_slist_append(list, line);
    if (!more) *failed = true;
    return more ? more : list;
}

static struct curl_slist *request_headers(const struct hub_http *h, const char *url, const char *validator, bool *failed)
{
    char line[600];
    struct curl_slist *list = add_line(NULL, failed, "Accept-Encoding: identity"); /* sizes and ranges are of the file itself */
    if (h->c->token && is_endpoint(h, url)) {
        snprintf(line, sizeof line, "Authorization: Bearer %s", h->c->token);
        list = add_line(list, failed, line);
        explicit_bzero(line, sizeof line);
    }
    if (validator) {
        snprintf(line, sizeof line, "If-Range: %s", validator);
        list = add_line(list, failed, line);
    }
    return list;
}

static void set_options(struct exchange *x, const char *url, bool head, uint64_t from, struct curl_slist *headers)
{
    struct hub_http *h = x->http;
    char range[32];
    snprintf(range, sizeof range, "%llu-", (unsigned long long)from);
    curl_easy_reset(h->easy); /* keeps its connections */
    curl_easy_setopt(h->easy, CURLOPT_URL, url);
    curl_easy_setopt(h->easy, CURLOPT_PROTOCOLS_STR, str_starts_with(h->base, "https://") ? "https" : "http,https");
    curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(h->easy, CURLOPT_USERAGENT, h->c->user_agent);
    curl_easy_setopt(h->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h->easy, CURLOPT_BUFFERSIZE, (long)READ_BYTES);
    if (h->c->ca_file) curl_easy_setopt(h->easy, CURLOPT_CAINFO, h->c->ca_file);
    curl_easy_setopt(h->easy, CURLOPT_NOBODY, head ? 1L : 0L);
    curl_easy_setopt(h->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(h->easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(h->easy, CURLOPT_LOW_SPEED_TIME, (long)STILL_S);
    if (head) curl_easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, (long)HEAD_MS);
    if (from) curl_easy_setopt(h->easy, CURLOPT_RANGE, range); /* not CURLOPT_RESUME_FROM, which takes a whole file for an error */
    curl_easy_setopt(h->easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(h->easy, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(h->easy, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(h->easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h->easy, CURLOPT_XFERINFOFUNCTION, look_stop);
    curl_easy_setopt(h->easy, CURLOPT_XFERINFODATA, x);
}

static int transport_error(const struct exchange *x, CURLcode code, const char *why, struct err *e)
{
    if (x->err.code) {
        *e = x->err;
        return -(int)e->code;
    }
    if (code == CURLE_ABORTED_BY_CALLBACK) return err_set(e, ERR_CLOSING, "stopped");
    if (code == CURLE_OUT_OF_MEMORY) return err_set(e, ERR_MEMORY, "out of memory");
    bool final = code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT || code == CURLE_PEER_FAILED_VERIFICATION;
    return err_set(e, final ? ERR_INPUT : ERR_GONE, "%s: %s", x->http->sent_to, why[0] ? why : curl_easy_strerror(code));
}

/* next: where a redirect leads, "" if nowhere. */
static int one_hop(struct hub_http *h, const char *url, bool head, uint64_t from, const char *validator, const struct hub_sink *sink,
                   struct hub_answer *a, char next[HUB_URL_BYTES], struct err *e)
{
    struct exchange x = {.http = h, .a = a, .sink = sink};
    char why[CURL_ERROR_SIZE] = "";
    bool failed = false;
    origin_of(url, true, h->sent_to);
    struct curl_slist *headers = request_headers(h, url, from ? validator : NULL, &failed);
    answer_clear(a);
    next[0] = '\0';
    set_options(&x, url, head, from, headers);
    curl_easy_setopt(h->easy, CURLOPT_ERRORBUFFER, why);
    CURLcode code = failed ? CURLE_OUT_OF_MEMORY : curl_easy_perform(h->easy);
    curl_easy_setopt(h->easy, CURLOPT_ERRORBUFFER, NULL);
    if (code == CURLE_OK && begin_body(&x)) code = CURLE_WRITE_ERROR; /* a body of no bytes */
    char *redirect = NULL;
    curl_easy_getinfo(h->easy, CURLINFO_REDIRECT_URL, &redirect);
    int rc = code == CURLE_OK ? 0 : transport_error(&x, code, why, e);
    if (!rc && redirect && snprintf(next, HUB_URL_BYTES, "%s", redirect) >= HUB_URL_BYTES)
        rc = err_set(e, ERR_LIMIT, "%s: redirects to an address of more than %d bytes", h->sent_to, HUB_URL_BYTES);
    curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers); /* clears nothing, but the token is in the configuration anyway */
    return rc;
}

static int follow(struct hub_http *h, const char *url, bool head, uint64_t from, const char *validator, const struct hub_sink *sink,
                  struct hub_answer *a, struct err *e)
{
    char at[HUB_URL_BYTES], next[HUB_URL_BYTES];
    if ((size_t)snprintf(at, sizeof at, "%s", url) >= sizeof at) return err_set(e, ERR_LIMIT, "the address is too long");
    for (int hop = 0; hop <= MAX_HOPS; hop++) {
        int rc = one_hop(h, at, head, from, validator, sink, a, next, e);
        if (rc) return rc;
        bool told = a->linked_etag[0] && a->linked_bytes != -1;
        if (!next[0] || (head && told)) return 0;
        strcpy(at, next);
    }
    return err_set(e, ERR_INPUT, "%s: more than %d redirects", h->sent_to, MAX_HOPS);
}

int hub_http_head(struct hub_http *h, const char *url, struct hub_answer *a, struct err *e)
{
    return follow(h, url, true, 0, NULL, NULL, a, e);
}

int hub_http_get(struct hub_http *h, const char *url, uint64_t from, const char *validator, const struct hub_sink *sink,
                 struct hub_answer *a, struct err *e)
{
    return follow(h, url, false, from, validator, sink, a, e);
}

/* --- again, or why not --- */

bool hub_http_again(struct hub_http *h, unsigned *n_tries, int rc, const struct hub_answer *a, const struct err *why)
{
    static const long passing[] = {408, 429, 500, 502, 503, 504};
    bool worth = rc == -ERR_GONE;
    for (size_t i = 0; !rc && i < sizeof passing / sizeof *passing; i++) worth |= a->status == passing[i];
    if (!worth || *n_tries >= h->c->retries) return false;
    int64_t wait_ms = FIRST_WAIT_MS;
    for (unsigned i = 0; i < *n_tries && wait_ms < MAX_WAIT_MS; i++) wait_ms *= 4;
    if (!rc && a->retry_after_s > 0) wait_ms = a->retry_after_s < MAX_WAIT_MS / 1000 ? a->retry_after_s * 1000 : MAX_WAIT_MS;
    if (wait_ms > MAX_WAIT_MS) wait_ms = MAX_WAIT_MS;
    char line[700];
    if (rc)
        snprintf(line, sizeof line, "%s; trying again", why->msg);
    else
        snprintf(line, sizeof line, "%s answers %ld; trying again in %.1f s", h->sent_to, a->status, (double)wait_ms / 1000);
    if (h->c->note) h->c->note(h->c->ctx, line);
    ++*n_tries;
    for (int64_t until_ms = clock_boot_ms() + wait_ms, now_ms; !is_stopped(h->c) && (now_ms = clock_boot_ms()) < until_ms;)
        poll(NULL, 0, (int)(until_ms - now_ms < LOOK_MS ? until_ms - now_ms : LOOK_MS));
    return !is_stopped(h->c);
}

int hub_http_error(const struct hub_http *h, const struct hub_name *name, const char *file, const struct hub_answer *a, struct err *e)
{
    bool bad_token = strcmp(a->error_message, "Invalid credentials in Authorization header") == 0;
    if (strcmp(a->error_code, "GatedRepo") == 0)
        return err_set(e, ERR_DENIED, "%s is gated: ask for access at %s/%s, then set HF_TOKEN to a token of that account%s", name->repo,
                       h->base, name->repo, h->c->token ? " (the one that was sent has no access)" : "");
    if (bad_token || (a->status == 401 && h->c->token))
        return err_set(e, ERR_DENIED, "%s: %s does not take the token (HF_TOKEN, or the token file): it is wrong or has expired, or %s",
                       name->repo, h->sent_to, "it may not read this repository");
    if (strcmp(a->error_code, "RevisionNotFound") == 0)
        return err_set(e, ERR_NOT_FOUND, "%s: has no revision '%s'", name->repo, name->revision);
    if (strcmp(a->error_code, "EntryNotFound") == 0)
        return err_set(e, ERR_NOT_FOUND, "%s@%s: has no %s", name->repo, name->revision, file ? file : "such file");
    if (strcmp(a->error_code, "RepoNotFound") == 0 || a->status == 401 || (!file && a->status == 404))
        return err_set(e, a->status == 404 ? ERR_NOT_FOUND : ERR_DENIED,
                       "%s: there is no such repository at %s, or it is private%s", name->repo, h->sent_to,
                       h->c->token ? " and the token may not read it" : " and needs a token (HF_TOKEN)");
    return err_set(e, a->status == 403 ? ERR_DENIED : a->status == 404 ? ERR_NOT_FOUND : ERR_GONE, "%s%s%s: %s answers %ld", name->repo,
                   file ? ": " : "", file ? file : "", h->sent_to, a->status);
}
