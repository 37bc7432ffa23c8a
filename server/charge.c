/* Charge: see charge.h. */
#include "server/charge.h"

#include <stdlib.h>
#include <string.h>

struct charge {
    struct ledger_call call; /* what is under way */
    struct loop_call back;
    struct loop *loop;
    struct ledger_writer *writer;
    int64_t request, held_nusd;
    bool busy, ends; /* ends: `end` is asked for */
    struct ledger_op end;
    char *raw[LEDGER_MAX_ATTEMPTS];
    char *model, *tags, *source_model; /* of what is under way */
    unsigned char hashes[2][LEDGER_HASH_BYTES], *answer;
    struct ledger_receipt *receipt; /* NULL: without an idempotency key */
    charge_fn *done, *end_done;
    void *ctx, *end_ctx;
};

static void charge_free(struct charge *c)
{
    for (int i = 0; i < LEDGER_MAX_ATTEMPTS; i++) free(c->raw[i]);
    free(c->model);
    free(c->tags);
    free(c->source_model);
    free(c->answer);
    if (c->receipt) ledger_receipt_clear(c->receipt);
    free(c->receipt);
    free(c);
}

static bool keep(char **copy, const char **text)
{
    free(*copy);
    *copy = *text ? strdup(*text) : NULL;
    bool kept = !*text || *copy;
    *text = *copy;
    return kept;
}

static const unsigned char *keep_hash(unsigned char copy[LEDGER_HASH_BYTES], const unsigned char *hash)
{
    return hash ? memcpy(copy, hash, LEDGER_HASH_BYTES) : NULL;
}

/* What the operation points to may go before it has been done. */
static int keep_op(struct charge *c, const struct ledger_op *o, struct err *e)
{
    struct ledger_op *op = &c->call.op;
    *op = *o;
    op->idempotency_key = keep_hash(c->hashes[0], o->idempotency_key);
    op->body_hash = keep_hash(c->hashes[1], o->body_hash);
    if (o->idempotency_key && !c->receipt) c->receipt = calloc(1, sizeof *c->receipt);
    op->receipt = c->receipt;
    if (o->idempotency_key && !c->receipt) return err_set(e, ERR_MEMORY, "out of memory");
    bool kept = keep(&c->model, &op->model) && keep(&c->tags, &op->tags) && keep(&c->source_model, &op->attempt.model);
    return kept ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

static void submit(struct charge *c)
{
    c->busy = true;
    if (c->request) c->call.op.request = c->request;
    ledger_writer_submit(c->writer, &c->call);
}

static void submit_end(struct charge *c)
{
    c->done = c->end_done;
    c->ctx = c->end_ctx;
    c->call.op = c->end;
    c->call.op.held_nusd = c->held_nusd;
    submit(c);
}

/* An answer, on the loop. */
static void charge_back(struct loop_call *call)
{
    struct charge *c = (struct charge *)((char *)call - offsetof(struct charge, back));
    const struct ledger_op op = c->call.op;
    charge_fn *done = c->done;
    bool ended = op.type == LEDGER_POST || op.type == LEDGER_VOID || op.type == LEDGER_KNOWN || (op.type == LEDGER_RESERVE && op.rc);
    c->busy = false;
    c->done = NULL;
    if (op.type == LEDGER_RESERVE && !op.rc) c->request = op.request;
    if (!ended && !op.rc) c->held_nusd += op.amount_nusd;
    if (!ended && c->ends) {
        if (op.type == LEDGER_ATTEMPT && !op.rc) /* granted, and never made */
            c->end.used[c->end.n_used++] = (struct ledger_used){.n = op.n, .supplier = op.attempt.supplier, .end = LEDGER_FAILED};
        submit_end(c); /* who has asked for the end waits for no other answer */
        return;
    }
    if (done && !(c->ends && op.type == LEDGER_RESERVE)) done(c->ctx, &op); /* refused after its completion had gone */
    if (ended) charge_free(c);
}

void charge_deliver(void *ctx, struct ledger_call *call)
{
    struct charge *c = call->ctx;
    (void)ctx;
    loop_post(c->loop, &c->back);
}

int charge_reserve(struct charge **out, struct loop *l, struct ledger_writer *w, const struct ledger_op *o, charge_fn *done, void *ctx, struct err *e)
{
    struct charge *c = *out = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    c->loop = l;
    c->writer = w;
    c->call.ctx = c;
    c->back.fn = charge_back;
    c->done = done;
    c->ctx = ctx;
    int rc = keep_op(c, o, e);
    if (rc) {
        charge_free(c);
        *out = NULL;
        return rc;
    }
    submit(c);
    return 0;
}

int charge_more(struct charge *c, const struct ledger_op *o, charge_fn *done, void *ctx, struct err *e)
{
    CHECK(!c->busy && !c->ends);
    int rc = keep_op(c, o, e);
    if (rc) return rc;
    c->done = done;
    c->ctx = ctx;
    submit(c);
    return 0;
}

bool charge_is_busy(const struct charge *c)
{
    return c->busy;
}

void charge_end(struct charge *c, const struct ledger_op *o, charge_fn *done, void *ctx)
{
    CHECK(!c->ends);
    c->ends = true;
    c->end = *o;
    c->answer = (unsigned char *)o->answer;
    c->end_done = done;
    c->end_ctx = ctx;
    for (int i = 0; i < o->n_used; i++)
        if (o->used[i].raw) c->end.used[i].raw = c->raw[i] = strdup(o->used[i].raw); /* without memory: without it */
    if (!c->busy) submit_end(c);
}

void charge_forget(struct charge *c)
{
    c->end_done = NULL;
    if (c->ends || c->call.op.type == LEDGER_KNOWN) c->done = NULL;
}

int64_t charge_request(const struct charge *c)
{
    return c->request;
}
