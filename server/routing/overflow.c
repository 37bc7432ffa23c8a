/* Overflow: see overflow.h. */
#include "server/routing/overflow.h"

#include <stdlib.h>

enum { ENTRIES = 1 << 13, WINDOW = 32, ALL = -1 };

/* One account's hour. */
struct hour {
    int64_t id, hour; /* hour 0: free */
    int64_t spent_nusd, held_nusd;
    int64_t n_requests, n_overflow;
};

struct overflow {
    struct overflow_limits limits;
    struct overflow_counts counts;
    int64_t hour; /* the newest that was seen: a figure of an earlier one is written no more */
    struct hour all, accounts[ENTRIES];
};

int overflow_new(struct overflow **out, const struct overflow_limits *all, struct err *e)
{
    struct overflow *o = *out = calloc(1, sizeof *o);
    if (!o) return err_set(e, ERR_MEMORY, "out of memory");
    o->limits = *all;
    return 0;
}

void overflow_free(struct overflow *o)
{
    free(o);
}

void overflow_set(struct overflow *o, const struct overflow_limits *all)
{
    o->limits = *all;
}

const struct overflow_counts *overflow_counts(const struct overflow *o)
{
    return &o->counts;
}

/* By the store's time, which never goes back; if it does, the newer hour goes on. */
static int64_t hour_now(const struct overflow *o, int64_t hour)
{
    return hour > o->hour ? hour : o->hour;
}

/* Its entry, or one that it may take (another's of a past hour); NULL: no room. */
static const struct hour *find(const struct overflow *o, int64_t id, int64_t hour)
{
    const struct hour *room = NULL;
    uint64_t at = (uint64_t)id * 0x9E3779B97F4A7C15u >> 40;
    if (id == ALL) return &o->all;
    for (size_t i = 0; i < WINDOW; i++) {
        const struct hour *x = &o->accounts[(at + i) % ENTRIES];
        if (x->hour && x->id == id) return x;
        if (!room && x->hour < hour) room = x;
    }
    return room;
}

/* Its figures of that hour; zeros if it has none. */
static struct hour hour_of(const struct overflow *o, int64_t id, int64_t hour)
{
    const struct hour *x = find(o, id, hour);
    return x && x->id == id && x->hour == hour ? *x : (struct hour){.id = id, .hour = hour};
}

/* The same to write. */
static struct hour *open_hour(struct overflow *o, int64_t id, int64_t hour)
{
    struct hour *x = (struct hour *)find(o, id, hour);
    if (x && (x->id != id || x->hour != hour)) *x = (struct hour){.id = id, .hour = hour};
    return x;
}

int64_t overflow_hour_nusd(const struct overflow *o, int64_t id, int64_t hour)
{
    struct hour h = hour_of(o, id < 0 ? ALL : id, hour);
    return h.spent_nusd + h.held_nusd;
}

void overflow_restore(struct overflow *o, int64_t id, int64_t hour, int64_t spent_nusd)
{
    o->hour = hour_now(o, hour);
    struct hour *x = hour == o->hour ? open_hour(o, id < 0 ? ALL : id, hour) : NULL;
    if (x) x->spent_nusd += spent_nusd;
}

/* Whose figures a request is in: all, the project, the key. Where keys are not asked for the last two may be one. */
static size_t who(int64_t project, int64_t key, int64_t ids[3])
{
    ids[0] = ALL;
    ids[1] = project;
    ids[2] = key;
    return project == key ? 2 : 3;
}

/* --- the check --- */

static bool is_dearer(const struct route_price_cap *cap, const struct overflow_ask *a)
{
    return (cap->in_nusd && a->in_nusd > cap->in_nusd) || (cap->out_nusd && a->out_nusd > cap->out_nusd) ||
           (cap->request_nusd && a->hold_nusd > cap->request_nusd);
}

static bool fits(const struct hour *h, const struct overflow_limits *l, int64_t hold_nusd)
{
    int64_t sum;
    return hold_nusd >= 0 && !__builtin_add_overflow(h->spent_nusd, h->held_nusd, &sum) && !__builtin_add_overflow(sum, hold_nusd, &sum) &&
           sum <= l->hour_nusd;
}

/* This request counts, too. */
static bool is_in_share(const struct hour *h, const struct overflow_limits *l, const struct overflow_ask *a)
{
    if (l->share_permille >= OVERFLOW_ALL_PERMILLE) return true; /* also of one that was counted in the hour before */
    return (h->n_overflow + 1) * OVERFLOW_ALL_PERMILLE <= l->share_permille * (h->n_requests + !a->counted);
}

static enum overflow_verdict check_one(const struct hour *h, const struct overflow_limits *l, const struct overflow_ask *a)
{
    if (l->hour_nusd <= 0 || l->share_permille <= 0) return OVERFLOW_OFF;
    if (!(l->hosts >> a->host & 1)) return OVERFLOW_HOST;
    if (!(l->regions >> a->region & 1)) return OVERFLOW_REGION;
    if (is_dearer(&l->price, a)) return OVERFLOW_PRICE;
    if (!is_in_share(h, l, a)) return OVERFLOW_SHARE;
    return fits(h, l, a->hold_nusd) ? OVERFLOW_YES : OVERFLOW_CAP;
}

/* Both find a place, and not the same. */
static bool has_places(const struct overflow *o, const struct overflow_ask *a, int64_t hour)
{
    const struct hour *project = find(o, a->project.id, hour), *key = find(o, a->key.id, hour);
    return project && key && (project != key || a->project.id == a->key.id);
}

enum overflow_verdict overflow_check(const struct overflow *o, const struct overflow_ask *a)
{
    int64_t hour = hour_now(o, a->hour);
    struct hour all = hour_of(o, ALL, hour), project = hour_of(o, a->project.id, hour), key = hour_of(o, a->key.id, hour);
    enum overflow_verdict v = check_one(&all, &o->limits, a);
    if (v == OVERFLOW_YES) v = check_one(&project, &a->project.limits, a);
    if (v == OVERFLOW_YES) v = check_one(&key, &a->key.limits, a);
    return v == OVERFLOW_YES && !has_places(o, a, hour) ? OVERFLOW_CAP : v;
}

/* --- what happened --- */

void overflow_count(struct overflow *o, const struct overflow_ask *a)
{
    int64_t ids[3];
    size_t n = who(a->project.id, a->key.id, ids);
    o->hour = hour_now(o, a->hour);
    o->counts.n_requests++;
    for (size_t i = 0; i < n; i++) {
        struct hour *h = open_hour(o, ids[i], o->hour);
        if (h) h->n_requests++;
    }
}

void overflow_hold(struct overflow *o, const struct overflow_ask *a, int64_t local_ms, struct overflow_ticket *t)
{
    int64_t ids[3];
    size_t n = who(a->project.id, a->key.id, ids);
    CHECK(overflow_check(o, a) == OVERFLOW_YES);
    o->hour = hour_now(o, a->hour);
    o->counts.n_overflow++;
    *t = (struct overflow_ticket){
        .key = a->key.id, .project = a->project.id, .hour = o->hour, .hold_nusd = a->hold_nusd, .local_ms = local_ms, .open = true};
    for (size_t i = 0; i < n; i++) {
        struct hour *h = open_hour(o, ids[i], o->hour);
        h->held_nusd += a->hold_nusd;
        h->n_overflow++;
    }
}

void overflow_settle(struct overflow *o, struct overflow_ticket *t, int64_t cost_nusd, bool rescued, int64_t first_ms)
{
    int64_t ids[3];
    size_t n = who(t->project, t->key, ids);
    if (!t->open) return;
    t->open = false;
    o->counts.cost_nusd += cost_nusd;
    o->counts.n_rescued += rescued;
    o->counts.n_over_hold += cost_nusd > t->hold_nusd;
    if (rescued && t->local_ms > first_ms) o->counts.saved_ms += t->local_ms - first_ms;
    for (size_t i = 0; i < n; i++) {
        struct hour *x = (struct hour *)find(o, ids[i], t->hour);
        if (!x || x->id != ids[i] || x->hour != t->hour) continue; /* its hour is over */
        x->held_nusd -= t->hold_nusd;
        x->spent_nusd += cost_nusd;
    }
}
