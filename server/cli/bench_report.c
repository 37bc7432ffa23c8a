/* bench's words: the plan, the table (Markdown, readable as it is, too), and JSON with every figure. What comes from hosts is cleaned for
 * terminals. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/cli/bench_parts.h"
#include "server/cli/terminal.h"

enum { CELL_BYTES = 160, MACHINE_BYTES = 256, DATE_BYTES = 32, JSON_BYTES = 64 << 20, MIN_LABEL = 30, LATE_US = 20000 };

/* --- words --- */

static const char *date_of(char out[DATE_BYTES])
{
    struct tm tm;
    time_t t = (time_t)clock_wall_s();
    strftime(out, DATE_BYTES, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    return out;
}

/* "Linux 6.1.0 x86_64, 16 x Intel Xeon ...". */
static const char *machine_of(char out[MACHINE_BYTES])
{
    struct utsname u;
    char line[MACHINE_BYTES], cpu[128] = "processors";
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (!str_starts_with(line, "model name")) continue;
        const char *colon = strchr(line, ':');
        if (colon) snprintf(cpu, sizeof cpu, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
    if (uname(&u)) memset(&u, 0, sizeof u);
    snprintf(out, MACHINE_BYTES, "%.40s %.60s %.20s, %ld x %.100s", u.sysname, u.release, u.machine, sysconf(_SC_NPROCESSORS_ONLN), cpu);
    return out;
}

static void put_clean(FILE *f, const char *text)
{
    terminal_print(f, text, strlen(text));
}

static void put_how(const struct bench *b, FILE *f)
{
    const struct options *o = b->o;
    fprintf(f, "%s, seed %" PRId64 ": ", bench_work_name(&b->work), o->seed);
    if (b->count) fprintf(f, "%zu requests", b->count);
    if (o->duration_s) fprintf(f, "%s%" PRId64 " s", b->count ? " or " : "requests for ", o->duration_s);
    fprintf(f, " at each target after %" PRId64 " to warm up, ", o->warmup);
    if (o->rate > 0)
        fprintf(f, "%g a second at random times (open loop)", o->rate);
    else
        fprintf(f, "%" PRId64 " at once (closed loop)", o->concurrency);
    if (o->max_tokens) fprintf(f, ", answers of at most %" PRId64 " tokens", o->max_tokens);
}

void bench_print_plan(const struct bench *b, FILE *f)
{
    char about[BENCH_MONEY_BYTES], bound[BENCH_MONEY_BYTES];
    put_how(b, f);
    fprintf(f, "\n");
    for (size_t i = 0; i < b->n_targets; i++) {
        const struct bench_target *t = &b->targets[i];
        fprintf(f, "  %zu. ", i + 1);
        put_clean(f, t->label);
        fprintf(f, "%s at ", t->model[0] ? "" : " (the first model that it lists)");
        put_clean(f, t->host.base_url);
        if (!bench_target_is_paid(t))
            fprintf(f, ": costs nothing\n");
        else if (b->count == 0)
            fprintf(f, ": as much as --max-cost allows\n");
        else
            fprintf(f, ": about %s, at most %s\n", bench_money(t->about_nusd, about), bench_money(t->bound_nusd, bound));
    }
    if (b->bound_nusd > 0)
        fprintf(f, "Together about %s, at most %s.", bench_money(b->about_nusd, about), bench_money(b->bound_nusd, bound));
    if (b->max_cost_nusd >= 0)
        fprintf(f, "%sStops before it passes %s.", b->bound_nusd > 0 ? " " : "", bench_money(b->max_cost_nusd, bound));
    if (b->bound_nusd > 0 || b->max_cost_nusd >= 0) fprintf(f, "\n");
    fflush(f);
}

/* --- the table --- */

typedef char cell[CELL_BYTES];
struct column {
    const struct bench_target *t;
    const struct bench_figures *f;
};

static void put_ms3(cell out, const struct bench_percentiles *p)
{
    if (p->n == 0)
        strcpy(out, "-");
    else
        snprintf(out, CELL_BYTES, "%.1f / %.1f / %.1f", (double)p->p50 / 1e3, (double)p->p90 / 1e3, (double)p->p99 / 1e3);
}

static void put_money(cell out, int64_t nusd)
{
    char money[BENCH_MONEY_BYTES];
    snprintf(out, CELL_BYTES, "%s", nusd < 0 ? "-" : bench_money(nusd, money));
}

static void cell_answers(cell out, const struct column *c)
{
    snprintf(out, CELL_BYTES, "%zu / %zu", c->t->result.n, c->t->result.n_failed);
}
static void cell_first_byte(cell out, const struct column *c)
{
    put_ms3(out, &c->f->first_byte_us);
}
static void cell_first_token(cell out, const struct column *c)
{
    put_ms3(out, &c->f->first_token_us);
}
static void cell_gap(cell out, const struct column *c)
{
    put_ms3(out, &c->f->gap_us);
}
static void cell_total(cell out, const struct column *c)
{
    put_ms3(out, &c->f->total_us);
}
static void cell_rate(cell out, const struct column *c)
{
    if (c->f->rate_mtok.n == 0)
        strcpy(out, "-");
    else
        snprintf(out, CELL_BYTES, "%.1f", (double)c->f->rate_mtok.p50 / 1e3);
}
static void cell_all(cell out, const struct column *c)
{
    if (c->f->all_mtok < 0)
        strcpy(out, "-");
    else
        snprintf(out, CELL_BYTES, "%.1f", (double)c->f->all_mtok / 1e3);
}
static void cell_tokens(cell out, const struct column *c)
{
    snprintf(out, CELL_BYTES, "%" PRId64 " / %" PRId64 "%s", c->f->in_tokens, c->f->out_tokens, c->f->n_counted ? " (counted)" : "");
}
static void cell_request(cell out, const struct column *c)
{
    put_money(out, c->f->request_nusd >= 0 ? c->f->request_nusd : c->f->gpu_request_nusd);
}
static void cell_million(cell out, const struct column *c)
{
    put_money(out, c->f->million_nusd >= 0 ? c->f->million_nusd : c->f->gpu_million_nusd);
}
static void cell_million_out(cell out, const struct column *c)
{
    put_money(out, c->f->million_out_nusd >= 0 ? c->f->million_out_nusd : c->f->gpu_million_out_nusd);
}
static void cell_cost(cell out, const struct column *c)
{
    put_money(out, bench_target_is_paid(c->t) ? c->t->result.cost_nusd : -1);
}

static const struct {
    const char *label;
    void (*put)(cell out, const struct column *c);
} rows[] = {
    {"whole answers / failed", cell_answers},
    {"first byte, ms", cell_first_byte},
    {"first token, ms", cell_first_token},
    {"between tokens, ms", cell_gap},
    {"whole answer, ms", cell_total},
    {"tokens/s of one answer", cell_rate},
    {"tokens/s of all together", cell_all},
    {"tokens in / out", cell_tokens},
    {"cost of a request", cell_request},
    {"cost of a million tokens", cell_million},
    {"cost of a million tokens out", cell_million_out},
    {"spent, with what failed", cell_cost},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static void put_line(FILE *f, const char *label, cell cells[], const size_t widths[], size_t n)
{
    fprintf(f, "| %-*s |", MIN_LABEL, label);
    for (size_t i = 0; i < n; i++) fprintf(f, " %*s |", (int)widths[i], cells[i]);
    fprintf(f, "\n");
}

/* A cell's text may not end it, and control characters are made harmless. */
static void put_label(cell out, const char *label)
{
    struct buf b;
    size_t n = 0;
    buf_init(&b, 4096);
    terminal_clean(&b, label, strlen(label));
    for (const char *p = b.data ? b.data : ""; *p && n + 1 < CELL_BYTES; p++) out[n++] = strchr("|\n\t", *p) ? '_' : *p;
    out[n] = '\0';
    out[utf8_cut(out, CELL_BYTES - 1)] = '\0';
    buf_free(&b);
}

static void put_table(const struct bench *b, const struct bench_figures *figures, FILE *f)
{
    static cell cells[N_ROWS + 1][BENCH_MAX_TARGETS];
    size_t widths[BENCH_MAX_TARGETS] = {0}, n = b->n_targets;
    for (size_t i = 0; i < n; i++) {
        struct column c = {.t = &b->targets[i], .f = &figures[i]};
        put_label(cells[0][i], c.t->label);
        for (size_t k = 0; k < N_ROWS; k++) rows[k].put(cells[k + 1][i], &c);
        widths[i] = 3;
        for (size_t k = 0; k <= N_ROWS; k++)
            if (strlen(cells[k][i]) > widths[i]) widths[i] = strlen(cells[k][i]);
    }
    put_line(f, "", cells[0], widths, n);
    fprintf(f, "|-%.*s-|", MIN_LABEL, "--------------------------------");
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "-");
        for (size_t k = 0; k < widths[i]; k++) fprintf(f, "-");
        fprintf(f, ":|");
    }
    fprintf(f, "\n");
    for (size_t k = 0; k < N_ROWS; k++) put_line(f, rows[k].label, cells[k + 1], widths, n);
}

/* --- what follows it --- */

static void put_errors(const struct bench_target *t, FILE *f)
{
    for (size_t i = 0; i < t->result.n_errors; i++) {
        const struct bench_error *x = &t->result.errors[i];
        fprintf(f, "- ");
        put_clean(f, t->label);
        fprintf(f, ": %zu x %s%s", x->n, x->what, x->message[0] ? ": " : "");
        put_clean(f, x->message);
        fprintf(f, "\n");
    }
}

static void put_notes(const struct bench_target *t, const struct bench_figures *x, FILE *f)
{
    const struct bench_result *r = &t->result;
    if (x->n_counted) fprintf(f, "- %s told no usage in %zu answers: events are counted as tokens.\n", t->label, x->n_counted);
    if (r->n_unpriced)
        fprintf(f, "- %s: the cost of %zu requests is not known; their bounds are counted as spent.\n", t->label, r->n_unpriced);
    if (r->gaps.n_left_out) fprintf(f, "- %s: the last %zu gaps are in no percentile.\n", t->label, r->gaps.n_left_out);
    if (r->latest_us > LATE_US)
        fprintf(f, "- %s: requests began up to %.0f ms late: this machine is too busy for the rate.\n", t->label,
                (double)r->latest_us / 1e3);
}

/* A machine costs the same whatever it does; a provider costs by what is asked. They cost the same at so many requests an hour: requests,
 * as everybody counts tokens by a tokenizer of his own. */
static void put_break_even(const struct bench *b, const struct bench_figures *figures, const struct bench_target *own,
                           const struct bench_figures *mine, FILE *f)
{
    char a[BENCH_MONEY_BYTES], c[BENCH_MONEY_BYTES], h[BENCH_MONEY_BYTES];
    if (mine->gpu_request_nusd < 0) return;
    const int64_t done = bench_ratio((int64_t)own->result.n, INT64_C(3600000000), own->result.wall_us);
    fprintf(f, "\n%s at %s an hour: %" PRId64 " requests an hour as measured, %s each, %s a million tokens.\n", own->label,
            bench_money(b->gpu_hour_nusd, h), done, bench_money(mine->gpu_request_nusd, a), bench_money(mine->gpu_million_nusd, c));
    for (size_t i = 0; i < b->n_targets; i++) {
        if (figures[i].request_nusd <= 0) continue;
        int64_t even = bench_ratio(b->gpu_hour_nusd, 1, figures[i].request_nusd);
        int64_t share = bench_ratio(even, 1000, done);
        fprintf(f, "- %s takes %s a request: the same cost at %" PRId64 " requests an hour, %" PRId64 ".%" PRId64 " %% of that%s.\n",
                b->targets[i].label, bench_money(figures[i].request_nusd, c), even, share / 10, share % 10,
                even > done ? ": more than was done" : "");
    }
}

void bench_print_report(const struct bench *b, const struct bench_figures *figures, FILE *f)
{
    char machine[MACHINE_BYTES], date[DATE_BYTES];
    fprintf(f, "spillway %s bench, %s\n", SPILLWAY_VERSION, date_of(date));
    fprintf(f, "%s\n", machine_of(machine));
    put_how(b, f);
    fprintf(f, ".\nLatencies are p50 / p90 / p99 of whole answers, from the request's start. Prices: %s.\n\n", b->book_version);
    put_table(b, figures, f);
    bool first = true;
    for (size_t i = 0; i < b->n_targets; i++) {
        if (first && b->targets[i].result.n_errors) fprintf(f, "\n");
        first &= !b->targets[i].result.n_errors;
        put_errors(&b->targets[i], f);
        put_notes(&b->targets[i], &figures[i], f);
    }
    for (size_t i = 0; i < b->n_targets; i++) put_break_even(b, figures, &b->targets[i], &figures[i], f);
}

/* --- JSON --- */

/* What is not known is null, never 0 or -1. */
static json_t *known(int64_t v)
{
    return v < 0 ? json_null() : json_integer(v);
}

static json_t *percentiles(const struct bench_percentiles *p)
{
    return json_pack("{s:I,s:o,s:o,s:o,s:o}", "n", (json_int_t)p->n, "p50", known(p->p50), "p90", known(p->p90), "p99", known(p->p99),
                     "max", known(p->max));
}

static json_t *errors_json(const struct bench_result *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_errors; i++)
        json_array_append_new(list, json_pack("{s:s,s:I,s:s}", "what", r->errors[i].what, "n", (json_int_t)r->errors[i].n, "message",
                                              r->errors[i].message));
    return list;
}

/* about and bound are of a count of requests. */
static json_t *target_json(const struct bench_target *t, const struct bench_figures *x, bool counted)
{
    const struct bench_result *r = &t->result;
    bool paid = bench_target_is_paid(t);
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:b}", "name", t->host.name, "provider", t->host.row->name, "model", t->model, "url",
                          t->host.base_url, "paid", (int)paid);
    json_t *more = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "sent", (json_int_t)r->n_sent, "warm_up", (json_int_t)r->n_warm, "whole",
                             (json_int_t)r->n, "failed", (json_int_t)r->n_failed, "connections", (json_int_t)r->n_connections, "wall_us",
                             (json_int_t)r->wall_us, "errors", errors_json(r));
    json_object_update(o, more);
    json_decref(more);
    json_object_set_new(o, "first_byte_us", percentiles(&x->first_byte_us));
    json_object_set_new(o, "first_token_us", percentiles(&x->first_token_us));
    json_object_set_new(o, "between_tokens_us", percentiles(&x->gap_us));
    json_object_set_new(o, "whole_answer_us", percentiles(&x->total_us));
    json_object_set_new(o, "answer_millitokens_per_s", percentiles(&x->rate_mtok));
    json_object_set_new(o, "all_millitokens_per_s", known(x->all_mtok));
    json_object_set_new(o, "tokens", json_pack("{s:I,s:I,s:I}", "in", (json_int_t)x->in_tokens, "out", (json_int_t)x->out_tokens,
                                               "answers_counted", (json_int_t)x->n_counted));
    json_object_set_new(o, "cost_nusd",
                        json_pack("{s:o,s:o,s:o,s:o,s:o,s:I,s:o,s:o}", "about", known(paid && counted ? t->about_nusd : -1), "bound",
                                  known(paid && counted ? t->bound_nusd : -1), "measured", known(x->cost_nusd), "spent",
                                  known(paid ? r->cost_nusd : -1), "request", known(x->request_nusd), "requests_at_their_bound",
                                  (json_int_t)r->n_unpriced, "million_tokens", known(x->million_nusd), "million_tokens_out",
                                  known(x->million_out_nusd)));
    json_object_set_new(o, "machine_nusd", json_pack("{s:o,s:o,s:o}", "request", known(x->gpu_request_nusd), "million_tokens",
                                                     known(x->gpu_million_nusd), "million_tokens_out", known(x->gpu_million_out_nusd)));
    return o;
}

static json_t *report_json(const struct bench *b, const struct bench_figures *figures)
{
    static const char *const stops[] = {[BENCH_DONE] = "done", [BENCH_COST] = "max_cost", [BENCH_SIGNAL] = "signal"};
    const struct options *o = b->o;
    char machine[MACHINE_BYTES], date[DATE_BYTES];
    json_t *targets = json_array();
    for (size_t i = 0; i < b->n_targets; i++) json_array_append_new(targets, target_json(&b->targets[i], &figures[i], b->count > 0));
    json_t *v = json_pack("{s:i,s:s,s:s,s:s,s:s,s:s?,s:I,s:I,s:s,s:s}", "format", 1, "spillway", SPILLWAY_VERSION, "date", date_of(date),
                          "machine", machine_of(machine), "workload", bench_work_name(&b->work), "requests", o->requests, "seed",
                          (json_int_t)o->seed, "warm_up", (json_int_t)o->warmup, "prices", b->book_version, "ended", stops[b->stop]);
    json_object_set_new(v, "count", b->count ? json_integer((json_int_t)b->count) : json_null());
    json_object_set_new(v, "duration_s", o->duration_s ? json_integer(o->duration_s) : json_null());
    json_object_set_new(v, "concurrency", o->rate > 0 ? json_null() : json_integer(o->concurrency));
    json_object_set_new(v, "rate", o->rate > 0 ? json_real(o->rate) : json_null());
    json_object_set_new(v, "max_tokens", o->max_tokens ? json_integer(o->max_tokens) : json_null());
    json_object_set_new(v, "max_cost_nusd", known(b->max_cost_nusd));
    json_object_set_new(v, "gpu_hour_nusd", known(b->gpu_hour_nusd));
    json_object_set_new(v, "targets", targets);
    return v;
}

int bench_write_json(const struct bench *b, const struct bench_figures *figures, FILE *f, struct err *e)
{
    struct buf text;
    buf_init(&text, JSON_BYTES);
    json_t *v = report_json(b, figures);
    int rc = !v || json_write(&text, v) || buf_putc(&text, '\n') ? err_set(e, ERR_MEMORY, "out of memory") : 0;
    bool bad = !rc && fwrite(text.data, 1, text.len, f) != text.len;
    bad |= fclose(f) != 0;
    if (!rc && bad) rc = err_set(e, ERR_IO, "%s: %s", b->o->json_file, strerror(errno));
    json_decref(v);
    buf_free(&text);
    return rc;
}
