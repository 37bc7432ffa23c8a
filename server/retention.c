/* Retention: see retention.h. */
#include "server/retention.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "server/accounts/db.h"
#include "server/accounts/prune.h"

enum { FIRST_MS = 1000, LOOK_MS = 60000, EVERY_MS = 3600000, PAUSE_MS = 100 };

struct retention {
    struct gateway *g;
    int64_t days;
    struct loop_timer timer;
    struct pool_job job;
    bool ran;
    /* on the pool's thread while the job is */
    struct db *db; /* while it is this gateway's turn */
    struct prune prune;
    int more; /* 1: another step; 0: done, or another gateway's turn; an error */
    struct err e;
};

static struct retention *retention_of(struct pool_job *j)
{
    return (struct retention *)((char *)j - offsetof(struct retention, job));
}

static int take_turn(struct retention *r, bool *mine)
{
    *mine = false;
    int rc = db_open(&r->db, r->g->store, &r->e);
    if (!rc) rc = prune_claim(r->db, EVERY_MS, mine, &r->e);
    return rc || !*mine ? rc : prune_begin(&r->prune, r->db, r->days, &r->e);
}

static void work(struct pool_job *j)
{
    struct retention *r = retention_of(j);
    bool mine = true;
    r->ran = true;
    int rc = r->db ? 0 : take_turn(r, &mine);
    r->more = rc ? rc : mine ? prune_step(&r->prune, &r->e) : 0;
    if (r->more == 1) return;
    db_close(r->db);
    r->db = NULL;
}

static void set_timer(struct retention *r, int64_t in_ms)
{
    (void)!loop_timer_set(r->g->loop, &r->timer, loop_now_ms(r->g->loop) + in_ms);
}

static void done(struct pool_job *j)
{
    struct retention *r = retention_of(j);
    if (!r->ran || !r->g->desk) return; /* the server is shutting down */
    if (r->more < 0) log_warn("accounts: old requests could not be taken away: %s", r->e.msg);
    if (r->more != 1 && r->prune.n)
        log_info("accounts: %" PRId64 " requests that ended more than %" PRId64 " days ago are taken away", r->prune.n, r->days);
    if (r->more != 1) r->prune = (struct prune){0};
    set_timer(r, r->more == 1 ? PAUSE_MS : LOOK_MS);
}

static void fired(void *ctx)
{
    struct retention *r = ctx;
    r->ran = false;
    pool_submit(r->g->desk, &r->job);
}

int retention_start(struct retention **out, struct gateway *g, int64_t days, struct err *e)
{
    *out = NULL;
    if (!days || !g->accounts) return 0;
    struct retention *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "out of memory");
    *r = (struct retention){.g = g, .days = days, .timer = {.fn = fired, .ctx = r}, .job = {.work = work, .done = done}};
    set_timer(r, FIRST_MS);
    *out = r;
    return 0;
}

void retention_stop(struct retention *r)
{
    if (!r) return;
    loop_timer_clear(r->g->loop, &r->timer);
    db_close(r->db);
    free(r);
}
