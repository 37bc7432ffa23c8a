/* bench: the same requests to our own server and to hosted providers, side by side: latency, speed, errors, cost.
 *
 * Nothing is sent to a provider that is paid before the plan and the most that it can cost have been shown and allowed: on a terminal by
 * an answer, else by --yes, or by a --max-cost that covers it. Whatever was allowed, --max-cost is never passed. The plan and what goes on
 * are on standard error, the table is on standard output, --json FILE has all figures. Exit code 1: something could not be measured, or
 * not to its end. Start reading at command_bench. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "server/cli/bench_parts.h"
#include "server/cli/chat_parts.h"
#include "server/cli/command.h"

/* --- options --- */

static int read_money(const char *flag, const char *text, int64_t *out, struct err *e)
{
    *out = -1;
    if (!text || bench_money_read(text, out)) return 0;
    return err_set(e, ERR_INPUT, "%s: '%.40s' is not an amount of dollars, such as 0.50", flag, text);
}

static int read_options(struct bench *b, struct err *e)
{
    const struct options *o = b->o;
    if (o->n_args) return err_set(e, ERR_INPUT, "bench takes no argument '%.80s': targets are given with --targets", o->args[0]);
    if (o->requests && o->workload) return err_set(e, ERR_INPUT, "--requests and --workload: one of them");
    b->count = o->count ? (size_t)o->count : o->duration_s ? 0 : BENCH_COUNT;
    int rc = read_money("--max-cost", o->max_cost, &b->max_cost_nusd, e);
    return rc ? rc : read_money("--gpu-hour", o->gpu_hour, &b->gpu_hour_nusd, e);
}

static int prepare(struct bench *b, struct err *e)
{
    const struct options *o = b->o;
    int rc = read_options(b, e);
    if (!rc) rc = bench_work_open(&b->work, o->workload ? o->workload : "chat-short", o->requests, (uint64_t)o->seed, o->max_tokens, e);
    if (!rc) rc = bench_price_open(b, o->prices, e);
    if (!rc) rc = bench_targets_open(b, e);
    if (!rc) rc = bench_predict(b, e);
    for (size_t i = 0; i < b->n_targets && !rc; i++) rc = bench_run_check(b, &b->targets[i], e);
    return rc;
}

/* --- consent --- */

static bool any_paid(const struct bench *b)
{
    for (size_t i = 0; i < b->n_targets; i++)
        if (bench_target_is_paid(&b->targets[i])) return true;
    return false;
}

static bool answer_is_yes(void)
{
    char line[16];
    fprintf(stderr, "Send it? [y/N] ");
    fflush(stderr);
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
    line[n > 0 ? n : 0] = '\0';
    line[strcspn(line, "\r\n")] = '\0';
    return strcasecmp(line, "y") == 0 || strcasecmp(line, "yes") == 0;
}

/* 0: go on; else the exit code. */
static int ask_consent(const struct bench *b)
{
    char money[BENCH_MONEY_BYTES];
    if (!any_paid(b)) return 0;
    if (b->bound_nusd < 0 && b->max_cost_nusd < 0) {
        fprintf(stderr, "spillway: --duration bounds no cost: give --max-cost USD, or --count N as well\n");
        return COMMAND_USAGE;
    }
    if (b->o->yes) return 0;
    if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO)) {
        if (answer_is_yes()) return 0;
        fprintf(stderr, "spillway: nothing was sent\n");
        return COMMAND_FAILED;
    }
    if (b->max_cost_nusd >= 0 && b->bound_nusd <= b->max_cost_nusd) return 0;
    fprintf(stderr, "spillway: this can cost %s, and nothing was sent: allow it with --yes, or with --max-cost of that much\n",
            bench_money(b->bound_nusd, money));
    return COMMAND_USAGE;
}

/* --- measuring --- */

static int measure(struct bench *b, struct bench_figures figures[BENCH_MAX_TARGETS], struct err *e)
{
    for (size_t i = 0; i < b->n_targets; i++) {
        struct bench_target *t = &b->targets[i];
        int rc = 0;
        if (b->stop == BENCH_DONE) {
            fprintf(stderr, "%s ...\n", t->label);
            rc = bench_run(b, t, e);
        }
        if (!rc) rc = bench_figures_of(b, t, &figures[i], e);
        if (rc) return rc;
    }
    return 0;
}

static int judge(const struct bench *b)
{
    if (b->stop == BENCH_COST) fprintf(stderr, "spillway: stopped, as one request more could have cost more than --max-cost\n");
    if (b->stop == BENCH_SIGNAL) fprintf(stderr, "spillway: stopped by a signal\n");
    int code = b->stop == BENCH_DONE ? COMMAND_OK : COMMAND_FAILED;
    for (size_t i = 0; i < b->n_targets; i++)
        if (b->targets[i].result.n == 0) code = COMMAND_FAILED;
    return code;
}

static int run(struct bench *b, struct err *e)
{
    struct bench_figures figures[BENCH_MAX_TARGETS];
    FILE *json = b->o->json_file ? fopen(b->o->json_file, "we") : NULL; /* before anything is paid for */
    int rc = b->o->json_file && !json ? err_set(e, ERR_IO, "%s: %s", b->o->json_file, strerror(errno)) : 0;
    if (!rc) rc = chat_stop_watch(e);
    if (!rc) rc = bench_run_open(b, e);
    for (size_t i = 0; i < b->n_targets && !rc; i++)
        if (!b->targets[i].model[0]) rc = bench_run_model(b, &b->targets[i], e);
    if (!rc) rc = measure(b, figures, e);
    if (rc) {
        if (json) fclose(json);
        return command_error(e);
    }
    bench_print_report(b, figures, stdout);
    if (json && bench_write_json(b, figures, json, e)) return command_error(e);
    return judge(b);
}

int command_bench(const struct options *o)
{
    struct err e = {0};
    static struct bench b; /* large: samples' heads of each target */
    b = (struct bench){.o = o};
    int rc = prepare(&b, &e), code;
    if (rc)
        code = rc == -ERR_INPUT || rc == -ERR_UNSUPPORTED ? command_usage_error(&e) : command_error(&e);
    else {
        bench_print_plan(&b, o->dry_run ? stdout : stderr);
        code = o->dry_run ? COMMAND_OK : ask_consent(&b);
        if (!code && !o->dry_run) code = run(&b, &e);
    }
    bench_run_close(&b);
    bench_targets_close(&b);
    bench_price_close(&b);
    bench_work_close(&b.work);
    return code;
}
