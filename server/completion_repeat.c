/* Completion, repeated: see completion_repeat.h.
 *
 * A kept answer is lines "name: value" of the headers that tell route and cost, an empty line, the body; all of it sealed (answer_box.h). */
#include "server/completion_repeat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "server/accounts/answer_box.h"
#include "server/accounts/id_text.h"
#include "server/api/chat_write.h"
#include "server/api/errors.h"
#include "server/charge.h"
#include "server/providers/wire.h"

#define HEADER "Idempotency-Key"
#define OUR_HEADERS "x-spillway-"

enum { MAX_HEADERS_BYTES = 8192 };
_Static_assert(MAX_HEADERS_BYTES + REPEAT_ANSWER_BYTES + ANSWER_EXTRA_BYTES <= LEDGER_ANSWER_BYTES, "the store takes what is kept");

struct completion_repeat {
    char key[REPEAT_KEY_BYTES + 1];
    unsigned char key_hash[ANSWER_HASH_BYTES], body_hash[ANSWER_HASH_BYTES];
    bool asked;
    bool stores; /* the project lets its answer be kept */
    struct charge *asking;
    void (*then)(struct completion *c);
};

static const unsigned char *secret_of(const struct completion *c)
{
    return accounts_answer_key(c->gateway->accounts);
}

static struct answer_box box_of(const struct completion *c, int64_t request)
{
    return (struct answer_box){.secret = secret_of(c), .key = c->repeat->key, .account = c->account, .request = request, .body_hash = c->repeat->body_hash};
}

int completion_repeat_begin(struct completion *c, struct err *e)
{
    const char *key = http_header(c->http, "idempotency-key");
    if (!key || c->dry) return 0;
    size_t n = strlen(key), i = 0;
    while (i < n && key[i] > ' ' && key[i] <= '~') i++;
    if (n == 0 || n > REPEAT_KEY_BYTES || i < n)
        return err_set_param(e, ERR_INPUT, HEADER, HEADER " must have 1 to %d visible ASCII characters.", REPEAT_KEY_BYTES);
    if (!c->gateway->ledger) return 0;
    c->repeat = arena_alloc(&c->arena, sizeof *c->repeat);
    if (!c->repeat) return err_set(e, ERR_MEMORY, "out of memory");
    memcpy(c->repeat->key, key, n + 1);
    return 0;
}

void completion_repeat_read(struct completion *c)
{
    struct completion_repeat *r = c->repeat;
    if (!r || r->asked) return;
    answer_key_hash(secret_of(c), r->key, r->key_hash);
    answer_body_hash(secret_of(c), c->body.data, c->body.len, r->body_hash);
}

/* --- what was before --- */

static void asked(void *ctx, const struct ledger_op *op)
{
    struct completion *c = ctx;
    c->repeat->asking = NULL;
    if (op->rc == 0)
        c->repeat->then(c);
    else if (!completion_repeat_known(c, op))
        completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &op->err});
}

void completion_repeat_ask(struct completion *c, void (*then)(struct completion *c))
{
    struct completion_repeat *r = c->repeat;
    struct err e;
    if (!r || r->asked) {
        then(c);
        return;
    }
    r->asked = true;
    struct ledger_op o = {.type = LEDGER_KNOWN, .account = c->account};
    completion_repeat_name(c, &o);
    r->then = then;
    if (charge_reserve(&r->asking, c->gateway->loop, c->gateway->ledger, &o, asked, c, &e))
        completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
}

void completion_repeat_forget(struct completion *c)
{
    if (!c->repeat || !c->repeat->asking) return;
    charge_forget(c->repeat->asking);
    c->repeat->asking = NULL;
}

void completion_repeat_name(struct completion *c, struct ledger_op *reserve)
{
    if (!c->repeat) return;
    reserve->idempotency_key = c->repeat->key_hash;
    reserve->body_hash = c->repeat->body_hash;
}

void completion_repeat_reserved(struct completion *c, const struct ledger_op *op)
{
    if (c->repeat) c->repeat->stores = op->stores;
}

/* --- the answer again --- */

/* What opens was written by this function's twin below: another form would need another use of the secret (answer_box.c), and would not open here. */
static void replay(struct completion *c, char *text, size_t n)
{
    char *at = text, *line_end;
    while ((line_end = memchr(at, '\n', n - (size_t)(at - text))) && line_end > at) {
        char *colon = memchr(at, ':', (size_t)(line_end - at));
        *line_end = '\0';
        CHECK(colon && colon[1] == ' ');
        *colon = '\0';
        http_add_header(c->http, at, colon + 2);
        at = line_end + 1;
    }
    CHECK(line_end == at);
    http_add_header(c->http, "idempotent-replayed", "true");
    http_reply(c->http, 200, "application/json", at + 1, n - (size_t)(at + 1 - text));
}

/* -ERR_NOT_FOUND: none is kept. */
static int replay_kept(struct completion *c, const struct ledger_op *op, struct err *e)
{
    const struct ledger_receipt *r = op->receipt;
    if (!r->answer) return -ERR_NOT_FOUND;
    const struct answer_box box = box_of(c, op->known);
    char *text = malloc(r->n_answer);
    int rc = text ? answer_open(&box, r->answer, r->n_answer, text, e) : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) replay(c, text, r->n_answer - ANSWER_EXTRA_BYTES);
    free(text);
    if (rc != -ERR_INPUT) return rc;
    log_request(LOG_WARN, http_request_id(c->http), "the answer of request %lld cannot be given again: %s", (long long)op->known, e->msg);
    return -ERR_NOT_FOUND;
}

/* 409, with what the request came to beside what every error has. */
static int tell_receipt(struct completion *c, const struct ledger_op *op, struct err *e)
{
    const struct ledger_receipt *r = op->receipt;
    struct usage_told told;
    char id[ID_TEXT_BYTES];
    struct buf b;
    buf_init(&b, 8192);
    usage_tell(&told, &r->usage);
    told.has_cost = true;
    told.cost_nusd = r->charged_nusd;
    id_text_write(accounts_id_key(c->gateway->accounts), op->known, id);
    api_error_write(&b, API_ALREADY_DONE, &op->err, http_request_id(c->http));
    if (!b.failed) b.len -= 2; /* the braces that close the error and the whole */
    buf_printf(&b, ",\"request\":{\"id\":\"chatcmpl-%s\",\"outcome\":", id);
    json_write_string(&b, r->outcome, strlen(r->outcome));
    buf_printf(&b, ",\"estimated\":%s,\"usage\":", r->estimated ? "true" : "false");
    chat_write_usage(&b, &told);
    buf_puts(&b, "}}}");
    int rc = b.failed ? err_set(e, ERR_MEMORY, "out of memory") : 0;
    if (!rc) {
        http_add_header(c->http, "x-should-retry", "false");
        http_reply(c->http, api_errors[API_ALREADY_DONE].status, "application/json", b.data, b.len);
    }
    buf_free(&b);
    return rc;
}

bool completion_repeat_known(struct completion *c, const struct ledger_op *op)
{
    struct err e;
    if (op->rc != -ERR_DONE) return false;
    int rc = replay_kept(c, op, &e);
    if (rc == -ERR_NOT_FOUND) rc = tell_receipt(c, op, &e);
    if (rc) api_error_reply(c->http, api_error_of(&e), &e); /* it may ask again */
    completion_answered(c);
    return true;
}

/* --- keeping one --- */

static void write_headers(struct buf *b, const struct completion *c)
{
    size_t n;
    const char *p = http_added_headers(c->http, &n), *end = p + n;
    for (const char *line_end; p < end && (line_end = memchr(p, '\r', (size_t)(end - p))); p = line_end + 2) {
        if (!str_starts_with(p, OUR_HEADERS)) continue;
        buf_append(b, p, (size_t)(line_end - p));
        buf_putc(b, '\n');
    }
    buf_printf(b, "%scost-nusd: %lld\n\n", OUR_HEADERS, (long long)c->usage.cost_nusd);
}

bool completion_repeat_keeps(const struct completion *c)
{
    return c->repeat && c->repeat->stores && c->sink->whole;
}

/* What it will be charged is known before: the ledger charges the sale, at most what is held. Unless it came to more, and another attempt that would
 * hold more is under way; then nothing is kept. */
void completion_repeat_keep(struct completion *c, struct ledger_op *post)
{
    struct buf b;
    int64_t most = c->held_nusd;
    if (!completion_repeat_keeps(c) || post->type != LEDGER_POST) return;
    if (post->sale_nusd > most && charge_is_busy(c->charge)) return;
    c->usage.has_cost = true;
    c->usage.cost_nusd = post->sale_nusd < most ? post->sale_nusd : most;
    const struct buf *body = c->sink->whole(c);
    if (!body || body->len > REPEAT_ANSWER_BYTES) return;
    completion_tell_route(c);
    buf_init(&b, MAX_HEADERS_BYTES + REPEAT_ANSWER_BYTES);
    write_headers(&b, c);
    buf_append(&b, body->data, body->len);
    unsigned char *sealed = b.failed ? NULL : malloc(b.len + ANSWER_EXTRA_BYTES);
    if (sealed) {
        const struct answer_box box = box_of(c, charge_request(c->charge));
        answer_seal(&box, b.data, b.len, sealed);
        post->answer = sealed;
        post->n_answer = b.len + ANSWER_EXTRA_BYTES;
        post->answer_nusd = c->usage.cost_nusd;
    }
    buf_free(&b);
}
