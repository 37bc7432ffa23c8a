/* Quarantine: see quarantine.h. */
#include "server/quarantine.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum { MAX_ENTRIES = 1024, MARKS_TO_REFUSE = 2, GATE_MS = 10000, EXPIRES_MS = 3600 * 1000 };

struct entry {
    uint8_t digest[QUARANTINE_DIGEST_BYTES];
    int marks; /* 0: free */
    int64_t at_ms;
    uint64_t death; /* which gave the last mark: several requests may be the same */
};

struct quarantine {
    struct loop *loop;
    uint8_t key[crypto_generichash_KEYBYTES];
    struct entry entries[MAX_ENTRIES];
    struct quarantine_ticket *observed; /* the suspect at the gate */
    struct quarantine_ticket *waiting, **last;
    struct loop_timer gate;
    uint64_t death; /* the last one, and whether a suspect was at the gate then */
    bool observed_at_death;
};

static void gate_open(void *ctx);

int quarantine_new(struct quarantine **out, struct loop *l, struct err *e)
{
    struct quarantine *q = *out = calloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_MEMORY, "out of memory");
    q->loop = l;
    q->last = &q->waiting;
    q->gate = (struct loop_timer){.fn = gate_open, .ctx = q};
    randombytes_buf(q->key, sizeof q->key);
    return 0;
}

void quarantine_free(struct quarantine *q)
{
    if (!q) return;
    loop_timer_clear(q->loop, &q->gate);
    free(q);
}

void quarantine_digest(const struct quarantine *q, const struct frame_submit *f, bool has_seed, uint8_t out[QUARANTINE_DIGEST_BYTES])
{
    crypto_generichash_state h;
    struct frame_sampling s;
    memset(&s, 0, sizeof s); /* padding, too */
    s.temperature = f->sampling.temperature;
    s.top_p = f->sampling.top_p;
    s.min_p = f->sampling.min_p;
    s.top_k = f->sampling.top_k;
    s.frequency_penalty = f->sampling.frequency_penalty;
    s.presence_penalty = f->sampling.presence_penalty;
    s.repetition_penalty = f->sampling.repetition_penalty;
    s.seed = has_seed ? f->sampling.seed : 0;
    s.top_logprobs = f->sampling.top_logprobs;
    s.max_tokens = f->sampling.max_tokens;
    s.min_tokens = f->sampling.min_tokens;
    crypto_generichash_init(&h, q->key, sizeof q->key, QUARANTINE_DIGEST_BYTES);
    crypto_generichash_update(&h, (const unsigned char *)&s, sizeof s);
    crypto_generichash_update(&h, (const unsigned char *)&f->n_ids, sizeof f->n_ids);
    crypto_generichash_update(&h, (const unsigned char *)f->ids, f->n_ids * sizeof *f->ids);
    for (uint32_t i = 0; i < f->n_tiles; i++) crypto_generichash_update(&h, f->tiles[i].hash, sizeof f->tiles[i].hash);
    for (uint32_t i = 0; i < f->n_bias; i++) crypto_generichash_update(&h, (const unsigned char *)&f->bias[i], sizeof f->bias[i]);
    crypto_generichash_final(&h, out, QUARANTINE_DIGEST_BYTES);
}

/* NULL if it has no marks. */
static struct entry *find(struct quarantine *q, const uint8_t digest[QUARANTINE_DIGEST_BYTES])
{
    int64_t now_ms = loop_now_ms(q->loop);
    for (int i = 0; i < MAX_ENTRIES; i++) {
        struct entry *x = &q->entries[i];
        if (x->marks && now_ms - x->at_ms > EXPIRES_MS) x->marks = 0;
        if (x->marks && memcmp(x->digest, digest, QUARANTINE_DIGEST_BYTES) == 0) return x;
    }
    return NULL;
}

static void mark(struct quarantine *q, const uint8_t digest[QUARANTINE_DIGEST_BYTES], uint64_t death)
{
    struct entry *x = find(q, digest);
    if (x && x->death == death) return;
    for (int i = 0; !x && i < MAX_ENTRIES; i++)
        if (!q->entries[i].marks) x = &q->entries[i];
    if (!x) {
        x = &q->entries[0];
        for (int i = 1; i < MAX_ENTRIES; i++)
            if (q->entries[i].at_ms < x->at_ms) x = &q->entries[i];
        x->marks = 0;
    }
    if (x->marks == 0) memcpy(x->digest, digest, QUARANTINE_DIGEST_BYTES);
    x->at_ms = loop_now_ms(q->loop);
    x->death = death;
    if (++x->marks == MARKS_TO_REFUSE) log_warn("a request has killed its worker twice: it is refused for an hour");
}

/* --- the gate --- */

static void observe(struct quarantine *q, struct quarantine_ticket *t)
{
    q->observed = t;
    if (t && loop_timer_set(q->loop, &q->gate, loop_now_ms(q->loop) + GATE_MS)) log_warn("out of memory: a suspect is observed to its end");
}

static void next_suspect(struct quarantine *q)
{
    loop_timer_clear(q->loop, &q->gate);
    struct quarantine_ticket *t = q->waiting;
    if (t) {
        q->waiting = t->next;
        if (!q->waiting) q->last = &q->waiting;
        t->waiting = false;
    }
    observe(q, t);
    if (t) t->go(t);
}

static void gate_open(void *ctx)
{
    next_suspect(ctx);
}

static void unqueue(struct quarantine *q, struct quarantine_ticket *t)
{
    for (struct quarantine_ticket **at = &q->waiting; *at; at = &(*at)->next) {
        if (*at != t) continue;
        *at = t->next;
        if (!*at) q->last = at;
        return;
    }
}

int quarantine_enter(struct quarantine *q, struct quarantine_ticket *t, struct err *e)
{
    const struct entry *x = find(q, t->digest);
    if (x && x->marks >= MARKS_TO_REFUSE)
        return err_set(e, ERR_QUARANTINED, "This request has ended the model's process twice; it is not tried again for an hour.");
    t->entered = true;
    t->suspect = x != NULL;
    t->dead = false;
    t->next = NULL;
    if (!t->suspect) return 0;
    t->waiting = q->observed != NULL;
    if (!t->waiting) {
        observe(q, t);
        return 0;
    }
    *q->last = t;
    q->last = &t->next;
    return 1;
}

void quarantine_died(struct quarantine *q, struct quarantine_ticket *t, uint64_t death)
{
    if (!t->entered || t->waiting || t->dead) return;
    t->dead = true;
    if (death != q->death) {
        q->death = death;
        q->observed_at_death = q->observed != NULL;
    }
    if (!t->suspect || q->observed == t || !q->observed_at_death) mark(q, t->digest, death);
}

void quarantine_leave(struct quarantine *q, struct quarantine_ticket *t, bool well)
{
    if (!t->entered) return;
    t->entered = false;
    struct entry *x = well ? find(q, t->digest) : NULL;
    if (x) x->marks = 0;
    if (t->waiting) unqueue(q, t);
    t->waiting = false;
    if (q->observed == t) next_suspect(q);
}
