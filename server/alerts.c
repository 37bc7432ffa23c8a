/* Alerts: see alerts.h. A round is a job on a pool thread (what the last round's tries came to, looking, taking what is due), then the tries of
 * what was taken, all at once; the next round begins when they have ended. So no more than AT_ONCE are in memory; the others wait in the
 * store. */
#include "server/alerts.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/accounts/id_text.h"
#include "server/curl_loop.h"
#include "server/gateway.h"

enum { AT_ONCE = 16, ID_BYTES = 8 + ID_TEXT_BYTES, SEND_MS = 15000, CONNECT_MS = 10000, LINE_BYTES = 128, REST_MS = 200 };

struct sending {
    CURL *easy;
    struct curl_slist *headers;
    char id[ID_BYTES];
    bool sent;
    int64_t retry_ms; /* not sent: < 0: never again */
};

struct alerts {
    struct gateway *g;
    struct alerts_config config;
    struct curl_loop *curl;
    struct loop_timer timer;
    int64_t look_at_ms, fault_at_ms;
    bool in_job, closing;
    size_t n_sending; /* under way */
    struct sending sendings[AT_ONCE];
    /* the job's, while it runs */
    struct pool_job job;
    struct alerts_bounds bounds;
    struct alerts_seen seen;
    struct alert_count failed, overflowed;
    bool look, worked;
    struct alert_taken taken[AT_ONCE]; /* of this round */
    size_t n_taken;
    int64_t next_ms;
    int rc;
    struct err e;
};

/* --- on a pool thread --- */

/* What the tries of the last round came to. */
static int tell_store(struct alerts *a, struct db *db, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < a->n_taken && !rc && a->config.url; i++)
        rc = alert_end(db, a->taken[i].id, a->sendings[i].sent, a->sendings[i].retry_ms, e);
    alert_taken_free(a->taken, a->n_taken); /* if it failed the claim runs out, and they are sent once more */
    a->n_taken = 0;
    return rc;
}

static void work(struct pool_job *j)
{
    struct alerts *a = (struct alerts *)((char *)j - offsetof(struct alerts, job));
    struct db *db;
    struct err later;
    a->worked = true;
    a->rc = db_open(&db, a->g->store, &a->e);
    if (!a->rc) a->rc = tell_store(a, db, &a->e);
    if (a->rc) goto done;
    if (a->look) a->rc = alerts_find(db, &a->bounds, &a->seen, a->failed, a->overflowed, &a->e);
    int rc = alert_take(db, a->config.url != NULL, a->taken, AT_ONCE, &a->n_taken, &a->next_ms, &later); /* also what others have found */
    if (rc && !a->rc) {
        a->rc = rc;
        a->e = later;
    }
done:
    db_close(db);
}

/* --- sending --- */

static size_t drop_answer(char *p, size_t size, size_t n, void *ctx)
{
    (void)p;
    (void)ctx;
    return size * n;
}

static bool add_header(struct sending *s, const char *fmt, const char *value)
{
    char line[LINE_BYTES];
    snprintf(line, sizeof line, fmt, value);
    struct curl_slist *more = curl_slist_append(s->headers, line);
    if (more) s->headers = more;
    return more != NULL;
}

static bool prepare(struct alerts *a, struct sending *s, const struct alert_taken *t)
{
    char signature[WEBHOOK_SIGNATURE_BYTES], at[32], id_text[ID_TEXT_BYTES];
    const int64_t at_s = clock_wall_s();
    id_text_write(accounts_id_key(a->g->accounts), t->id, id_text);
    snprintf(s->id, sizeof s->id, "alert_%s", id_text);
    snprintf(at, sizeof at, "%lld", (long long)at_s);
    webhook_sign(&a->config.secret, s->id, at_s, t->body, signature);
    bool ok = add_header(s, "Content-Type: %s", "application/json") && add_header(s, "webhook-id: %s", s->id) &&
              add_header(s, "webhook-timestamp: %s", at) && add_header(s, "webhook-signature: %s", signature) && add_header(s, "Expect:%s", "");
    CURL *h = s->easy = curl_easy_init();
    if (!h || !ok) return false;
#define SET(option, value) ok &= curl_easy_setopt(h, option, value) == CURLE_OK
    SET(CURLOPT_URL, a->config.url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    SET(CURLOPT_TIMEOUT_MS, (long)SEND_MS);
    SET(CURLOPT_HTTPHEADER, s->headers);
    SET(CURLOPT_USERAGENT, "spillway");
    SET(CURLOPT_WRITEFUNCTION, drop_answer);
    SET(CURLOPT_POSTFIELDS, t->body); /* borrowed: there until the next round */
    SET(CURLOPT_PRIVATE, s);
    if (a->config.ca_file) SET(CURLOPT_CAINFO, a->config.ca_file);
#undef SET
    return ok;
}

static void release(struct sending *s)
{
    curl_easy_cleanup(s->easy);
    curl_slist_free_all(s->headers);
    s->easy = NULL;
    s->headers = NULL;
}

/* The URL may have a secret in it: it is in no message. */
static void note_failure(struct sending *s, const struct alert_taken *t, const char *why)
{
    s->retry_ms = t->last ? -1 : alert_retry_ms(t->tries);
    if (t->last)
        log_error("alert %s: the webhook did not take it (%s), and it was tried for a day: given up", s->id, why);
    else
        log_warn("alert %s: the webhook did not take it (%s); tried again in %lld s", s->id, why, (long long)s->retry_ms / 1000);
}

static void next_round(struct alerts *a, int64_t in_ms)
{
    if (!a->closing) CHECK(loop_timer_set(a->g->loop, &a->timer, loop_now_ms(a->g->loop) + in_ms) == 0);
}

static void sending_done(void *ctx, CURL *easy, CURLcode code)
{
    struct alerts *a = ctx;
    struct sending *s;
    char why[64];
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&s);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    s->sent = code == CURLE_OK && status >= 200 && status < 300;
    snprintf(why, sizeof why, "HTTP %ld", status);
    if (!s->sent) note_failure(s, &a->taken[s - a->sendings], code ? curl_easy_strerror(code) : why);
    release(s);
    if (--a->n_sending == 0) next_round(a, 0);
}

static void send_one(struct alerts *a, size_t i)
{
    struct sending *s = &a->sendings[i];
    struct err e;
    *s = (struct sending){.sent = false};
    bool ready = prepare(a, s, &a->taken[i]);
    if (ready && !curl_loop_add(a->curl, s->easy, &e)) {
        a->n_sending++;
        return;
    }
    note_failure(s, &a->taken[i], "out of memory");
    release(s);
}

/* --- rounds --- */

static void done(struct pool_job *j)
{
    struct alerts *a = (struct alerts *)((char *)j - offsetof(struct alerts, job));
    int64_t now_ms = loop_now_ms(a->g->loop);
    a->in_job = false;
    if (a->closing || !a->worked) return;
    if (a->rc && now_ms >= a->fault_at_ms) { /* while the store is away it is said once a look */
        log_warn("alerts: %s", a->e.msg);
        a->fault_at_ms = now_ms + a->bounds.every_ms;
    }
    for (size_t i = 0; i < a->n_taken; i++) {
        if (a->taken[i].tries == 1) log_warn("alert: %s", a->taken[i].message);
        if (a->config.url) send_one(a, i);
    }
    if (a->n_sending) return; /* the last of them begins the next round */
    int64_t wait_ms = a->look_at_ms > now_ms ? a->look_at_ms - now_ms : 0;
    if (!a->rc && a->next_ms >= 0 && a->next_ms < wait_ms) wait_ms = a->next_ms;
    next_round(a, a->n_taken && a->config.url ? 0 : wait_ms > REST_MS ? wait_ms : REST_MS);
}

static void begin(void *ctx)
{
    struct alerts *a = ctx;
    const struct overflow_counts *o = overflow_counts(a->g->route.overflow);
    int64_t now_ms = loop_now_ms(a->g->loop);
    CHECK(!a->in_job && a->n_sending == 0);
    a->look = now_ms >= a->look_at_ms;
    a->bounds = a->config.bounds;
    if (a->look) a->look_at_ms = now_ms + a->bounds.every_ms;
    a->failed = (struct alert_count){.n = a->g->n_ended, .hit = a->g->n_failed};
    a->overflowed = (struct alert_count){.n = o->n_requests, .hit = o->n_overflow};
    a->in_job = true;
    a->worked = false;
    pool_submit(a->g->pool, &a->job);
}

int alerts_new(struct alerts **out, struct gateway *g, const struct alerts_config *c, struct err *e)
{
    struct alerts *a = *out = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    *a = (struct alerts){.g = g, .config = *c, .timer = {.fn = begin, .ctx = a}, .job = {.work = work, .done = done}};
    int rc = c->url ? curl_loop_new(&a->curl, g->loop, sending_done, a, e) : 0;
    if (!rc) rc = loop_timer_set(g->loop, &a->timer, loop_now_ms(g->loop));
    return rc;
}

void alerts_set(struct alerts *a, const struct alerts_bounds *b)
{
    if (a) a->config.bounds = *b;
}

void alerts_stop(struct alerts *a)
{
    if (!a) return;
    a->closing = true;
    loop_timer_clear(a->g->loop, &a->timer);
    for (size_t i = 0; i < AT_ONCE; i++) {
        if (!a->sendings[i].easy) continue;
        curl_loop_remove(a->curl, a->sendings[i].easy); /* tried again by the next gateway, when the claim has run out */
        release(&a->sendings[i]);
    }
    curl_loop_free(a->curl);
    a->curl = NULL;
}

void alerts_free(struct alerts *a)
{
    if (!a) return;
    alert_taken_free(a->taken, a->n_taken);
    alert_hour_free(&a->seen.hour);
    explicit_bzero(&a->config.secret, sizeof a->config.secret);
    free(a);
}
