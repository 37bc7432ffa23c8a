/* Reconciliation: what a provider says it served and takes for it, held against the attempts that went to it.
 *
 * The provider's export is read into sums by UTC day and model (its own name of it); so are our attempts, by the day on which they began.
 * Where they differ by more than the thresholds that is reported. Nothing of the history is changed: what comes of a difference is an
 * operator's to enter (ledger_transfer). FAULTS.md B19. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_RECONCILE_H
#define SPILLWAY_SERVER_ACCOUNTS_RECONCILE_H

#include "server/accounts/db.h"

enum { RECONCILE_MODEL_BYTES = 256 };

struct reconcile_row {
    int64_t day; /* since 1970 */
    char model[RECONCILE_MODEL_BYTES];
    int64_t requests, tokens_in, tokens_out, amount_nusd;
};

/* A provider's export, CSV with a header or JSON (a list of objects; or OpenAI's pages, {"data": [{"start_time", "results": [...]}]}).
 * Columns are known by the names that providers use (reconcile_read.c); others are left alone. Day, model and amount must be there. */
struct reconcile_file {
    struct reconcile_row *rows; /* by day and model, one each */
    size_t n, cap;
    bool has_requests, has_tokens_in, has_tokens_out; /* else it does not tell them, and they are not compared */
};
/* -ERR_INPUT tells the line or the record. The file is empty then. */
MUST_USE int reconcile_read(struct reconcile_file *out, const char *path, struct err *e);
/* The same of text with a NUL after it, which is changed. what names it in errors. */
MUST_USE int reconcile_read_text(struct reconcile_file *out, char *text, size_t n, const char *what, struct err *e);
void reconcile_free(struct reconcile_file *f); /* accepts a zeroed struct */

enum reconcile_bit {
    RECONCILE_ONLY_THEIRS = 1 << 0, /* we know nothing of it */
    RECONCILE_ONLY_OURS = 1 << 1,   /* they do not ask for it */
    RECONCILE_AMOUNT = 1 << 2,
    RECONCILE_REQUESTS = 1 << 3,
    RECONCILE_TOKENS_IN = 1 << 4,
    RECONCILE_TOKENS_OUT = 1 << 5
};
struct reconcile_options {
    const char *supplier;   /* as accounts name it: "groq" */
    int64_t threshold_nusd; /* differences up to that are none */
    int64_t threshold_tokens;
    bool close; /* days and models that agree: their entries in `reconciliation` are closed */
};
struct reconcile_sums {
    size_t n_compared, n_different;
    int64_t theirs_nusd, ours_nusd, n_closed;
};
/* theirs, ours: zeros where one is not there. */
typedef void reconcile_fn(void *ctx, unsigned bits, const struct reconcile_row *theirs, const struct reconcile_row *ours);

/* From the file's first day to its last. Differences are also an alert (alert_store.h). -ERR_NOT_FOUND: there is no such supplier; -ERR_UNSUPPORTED: attempts of these days have been
 * pruned. */
MUST_USE int reconcile(struct db *db, const struct reconcile_file *f, const struct reconcile_options *o, reconcile_fn *fn, void *ctx,
                       struct reconcile_sums *out, struct err *e);

/* For reconcile_read. */
MUST_USE int reconcile_add(struct reconcile_file *f, const struct reconcile_row *row, struct err *e);
/* Sorts, and makes one row of those of the same day and model. */
MUST_USE int reconcile_sort(struct reconcile_file *f, struct err *e);

#endif
