/* What tests of the ledger's writer share: one operation at a time, waited for. */
#ifndef SPILLWAY_TESTS_ACCOUNTS_WRITER_H
#define SPILLWAY_TESTS_ACCOUNTS_WRITER_H

#include <errno.h>
#include <semaphore.h>
#include <time.h>

#include "server/accounts/ledger_writer.h"
#include "tests/accounts/store.h"

struct wait {
    struct ledger_call call;
    sem_t done;
};

static inline void deliver(void *ctx, struct ledger_call *c)
{
    (void)ctx;
    sem_post(&((struct wait *)c->ctx)->done);
}

/* op is the answer; it fails when there is none. */
static inline int ask_within(struct ledger_writer *w, struct ledger_op *op, int seconds)
{
    struct wait wait = {.call = {.op = *op}};
    struct timespec until;
    sem_init(&wait.done, 0, 0);
    wait.call.ctx = &wait;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    ledger_writer_submit(w, &wait.call);
    while (sem_timedwait(&wait.done, &until))
        if (errno == ETIMEDOUT) fail_msg("no answer");
    sem_destroy(&wait.done);
    *op = wait.call.op;
    return op->rc;
}

#endif
