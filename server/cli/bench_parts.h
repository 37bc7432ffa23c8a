/* What the files of `bench` share: bench.c (the command: plan, consent, order of things), bench_targets.c (who is asked, with which key
 * and at what price), bench_work.c and bench_picture.c (what is asked: built-in workloads), bench_requests.c (the user's own, from a
 * file), bench_cost.c (bounds and costs by the price book), bench_run.c (the calls, on a loop), bench_stats.c (percentiles, totals),
 * bench_report.c (Markdown and JSON).
 *
 * Money is int64 nano-dollars, times are microseconds of the boot clock. */
#ifndef SPILLWAY_SERVER_CLI_BENCH_PARTS_H
#define SPILLWAY_SERVER_CLI_BENCH_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/json.h"
#include "server/accounts/usage.h"
#include "server/cli/options.h"
#include "server/providers/provider.h"

enum {
    BENCH_MAX_TARGETS = 7,
    BENCH_MAX_COUNT = 100000,       /* requests at a target; samples are kept, so percentiles are exact */
    BENCH_MAX_GAPS = 16 << 20,      /* gaps kept of a target; later ones are left out, and it is said */
    BENCH_MAX_CONCURRENCY = 1024,   /* calls at once */
    BENCH_MAX_ERRORS = 32,          /* kinds of errors told apart; more are "others" */
    BENCH_MODEL_BYTES = 256,
    BENCH_COUNT = 20,               /* when neither --count nor --duration is given */
    BENCH_PICTURE_SIDE = 224
};

/* --- what is asked --- */

struct bench_request {
    json_t *body; /* OpenAI's chat form; a reference of the holder */
    int64_t in_about, in_bound; /* tokens of the input: as English text usually has, and at most */
    int64_t out_bound;          /* the bound of the answer that is sent along */
    bool pictures;
};

struct bench_workload;
struct bench_work {
    const struct bench_workload *built_in; /* NULL: from a file */
    json_t **bodies;                       /* the file's */
    size_t *lines, n;
    uint64_t seed;
    int64_t max_tokens; /* 0: as the request says */
};

/* name: of a workload; file: of --requests, which wins. Errors of a file name the line. */
MUST_USE int bench_work_open(struct bench_work *w, const char *name, const char *file, uint64_t seed, int64_t max_tokens, struct err *e);
void bench_work_close(struct bench_work *w); /* accepts a zeroed struct */
const char *bench_work_name(const struct bench_work *w);
/* Request i, the same for every target; a file's begin again after the last. Release with bench_request_free. */
MUST_USE int bench_work_make(const struct bench_work *w, size_t i, struct bench_request *out, struct err *e);
void bench_request_free(struct bench_request *r); /* accepts a zeroed struct */

/* Counts tokens and finds the bound of the answer; max_tokens wins if it is not 0. -ERR_INPUT names the member. */
MUST_USE int bench_request_measure(struct bench_request *r, int64_t max_tokens, struct err *e);
/* Reads JSON lines into *w. */
MUST_USE int bench_requests_read(struct bench_work *w, const char *file, struct err *e);
/* Appends a picture of one shape on a ground as a data: URL; what it shows is up to the number. */
int bench_picture(struct buf *b, uint64_t number);
uint64_t bench_random(uint64_t *state);

/* --- what came --- */

struct bench_sample {
    uint32_t first_byte_us, first_token_us, total_us;
    uint32_t out_first_us;   /* from the first to the last token */
    int64_t in_tokens, out_tokens, cost_nusd;
    bool counted; /* the host told no usage: tokens are the events that came */
};

struct bench_error {
    char what[96]; /* "rate_limited 429" */
    char message[200];
    size_t n;
};

struct bench_gaps {
    uint32_t *us;
    size_t n, cap, n_left_out;
};

struct bench_result {
    struct bench_sample *samples; /* of whole answers, in the order of their ends */
    size_t n, cap;
    struct bench_gaps gaps; /* between their content events */
    struct bench_error errors[BENCH_MAX_ERRORS];
    size_t n_errors, n_failed; /* failed: but for those to warm up */
    size_t n_sent, n_warm, n_unpriced; /* unpriced: cost is not known, so the bound is counted */
    size_t n_connections;
    int64_t wall_us, cost_nusd;       /* cost: all that was sent, to warm up or in vain, too */
    int64_t measured_nusd;            /* of the samples */
    int64_t latest_us;                /* --rate: by how much the latest request was started late */
};

/* --- who is asked --- */

struct price;
struct price_book;

struct bench_target {
    char label[HOST_MAX_NAME_BYTES + BENCH_MODEL_BYTES + 8];
    char model[BENCH_MODEL_BYTES]; /* "": the first that the server lists */
    struct provider_host host;
    struct price_book *own_book; /* of --price */
    const struct price *price;   /* NULL: costs nothing */
    int64_t about_nusd, bound_nusd;
    struct bench_result result;
};

enum bench_stop { BENCH_DONE, BENCH_COST, BENCH_SIGNAL };

struct loop;
struct upstream;

struct bench {
    const struct options *o;
    struct bench_work work;
    struct bench_target targets[BENCH_MAX_TARGETS];
    size_t n_targets;
    struct price_book *book;
    char book_version[160];
    size_t count; /* 0: as many as the duration allows */
    int64_t max_cost_nusd, gpu_hour_nusd; /* -1: not given */
    int64_t about_nusd, bound_nusd;       /* of all targets; -1: no bound but max_cost_nusd */
    int64_t spent_nusd, held_nusd;        /* known costs, and bounds of what is under way */
    enum bench_stop stop;
    struct loop *loop;
    struct upstream *up;
};

/* Dollars to nano-dollars, exactly; not negative. */
bool bench_money_read(const char *text, int64_t *nusd);
enum { BENCH_MONEY_BYTES = 32 };
/* "$12.50", "$0.000123". Returns out. */
const char *bench_money(int64_t nusd, char out[BENCH_MONEY_BYTES]);

/* Reads --targets, keys and prices. -ERR_INPUT: wrong usage, as is a target that may cost something of which nothing is known. */
MUST_USE int bench_targets_open(struct bench *b, struct err *e);
void bench_targets_close(struct bench *b);
/* Sets model and label; a model shorter than BENCH_MODEL_BYTES. */
void bench_target_name(struct bench_target *t, const char *model);
bool bench_target_is_paid(const struct bench_target *t);

/* --- cost (bench_cost.c) --- */
MUST_USE int bench_price_open(struct bench *b, const char *file, struct err *e);
void bench_price_close(struct bench *b);
/* Of the book, or what text ("IN/OUT", dollars for a million tokens) says; "0/0": nothing. */
MUST_USE int bench_price_find(struct bench *b, struct bench_target *t, const char *text, struct err *e);
/* About, and at most, what a request costs at a target; 0 where nothing is paid. */
MUST_USE int bench_price_request(const struct bench_target *t, const struct bench_request *r, int64_t *about, int64_t *bound,
                                 struct err *e);
MUST_USE int bench_price_used(const struct bench_target *t, const struct usage *u, int64_t *nusd, struct err *e);
/* Fills about_nusd and bound_nusd of targets and of the whole. */
MUST_USE int bench_predict(struct bench *b, struct err *e);

/* --- calls (bench_run.c) --- */
MUST_USE int bench_run_open(struct bench *b, struct err *e);
void bench_run_close(struct bench *b);
/* Asks a server for its models and takes the first. */
MUST_USE int bench_run_model(struct bench *b, struct bench_target *t, struct err *e);
/* Can all that will be asked be said to this host? Sends nothing. */
MUST_USE int bench_run_check(const struct bench *b, const struct bench_target *t, struct err *e);
/* Warms up and measures one target; b->stop says whether it came to its end. */
MUST_USE int bench_run(struct bench *b, struct bench_target *t, struct err *e);

/* --- figures (bench_stats.c) --- */
struct bench_percentiles {
    size_t n;
    int64_t p50, p90, p99, max; /* -1 without samples */
};
struct bench_figures {
    struct bench_percentiles first_byte_us, first_token_us, gap_us, total_us;
    struct bench_percentiles rate_mtok; /* thousandths of a token a second, of one answer after its first token */
    int64_t in_tokens, out_tokens;
    size_t n_counted;
    int64_t all_mtok;                /* thousandths of a token a second, of all answers together */
    int64_t cost_nusd;               /* of the samples; -1: nothing is paid */
    int64_t request_nusd, million_nusd, million_out_nusd; /* -1: not known */
    int64_t gpu_request_nusd, gpu_million_nusd, gpu_million_out_nusd; /* --gpu-hour over what was made in the time; -1 */
};
/* Sorts values. By nearest rank: the smallest value that at least p percent of all do not exceed. */
struct bench_percentiles bench_percentiles_of(int64_t *values, size_t n);
MUST_USE int bench_figures_of(const struct bench *b, const struct bench_target *t, struct bench_figures *out, struct err *e);
int bench_sample_add(struct bench_result *r, const struct bench_sample *s);
int bench_gap_add(struct bench_gaps *g, int64_t us);
void bench_error_add(struct bench_result *r, const char *what, const char *message);
void bench_result_free(struct bench_result *r);
/* a * b / c, half up, in 128 bits; -1 if c is 0 or it does not fit. */
int64_t bench_ratio(int64_t a, int64_t b, int64_t c);

/* --- words (bench_report.c) --- */
void bench_print_plan(const struct bench *b, FILE *f);
void bench_print_report(const struct bench *b, const struct bench_figures *figures, FILE *f);
/* To a file that was opened before anything was sent; closes it. */
MUST_USE int bench_write_json(const struct bench *b, const struct bench_figures *figures, FILE *f, struct err *e);

#endif
