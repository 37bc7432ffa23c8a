/* eval MODEL [--against MODEL]: how well a model predicts a text, and how far another one's predictions are from it.
 *
 * The text is cut into windows of --window tokens that begin --stride tokens apart. A window is computed as one sequence from position 0; of
 * its positions those count that no earlier window had, so every token but the first is predicted once, and beyond the first window from at
 * least window - stride + 1 tokens. Both models see the same windows at the same time: only two rows of logits are ever kept.
 *
 *     perplexity      exp of the mean of -ln p(token that comes)
 *     KL divergence   sum over the vocabulary of p ln(p / q), in nats, p of MODEL and q of --against: its mean, and of all positions
 *                     sorted the one at rank ceil(0.99 n)
 *     same top token  share of positions at which both hold the same token most likely (of equal ones the lowest id)
 *
 * With --after TEXT a position counts only if the token that comes belongs to what follows TEXT: up to the next control token and with it. A model
 * that was trained on answers only says nothing sensible about questions.
 *
 * All of it is float64 from the models' float32 logits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "server/cli/command.h"
#include "server/cli/model_path.h"
#include "server/cli/model_run.h"
#include "server/cli/progress.h"

enum { TEXT_MAX_BYTES = 64 << 20, TOKENS_MAX = 1 << 24, CHUNK_ROWS = 128 /* enough for the path of many rows */, PATH_BYTES = 4096 };

/* One model with its options; how many sides there are is eval.n_sides. */
struct side {
    const char *arg; /* as it was typed */
    struct options o;
    char path[PATH_BYTES];
    struct model *model;
    uint32_t *blocks; /* the whole cache in order */
    float *row;       /* (vocab): logits of the position in hand */
    double nll;       /* sum of -ln p(next token) */
};

struct eval {
    const struct options *o;
    struct side sides[2];
    int n_sides;
    char text_path[PATH_BYTES + 16];
    struct tokens tokens;
    size_t n_positions; /* tokens.n - 1: what comes after the last one is not known */
    bool *counts;       /* (tokens.n): predicting this token counts; NULL: every one does */
    size_t window, stride;
    double *kl; /* (n_counted) */
    size_t n_counted, n_same;
};

struct figures {
    double kl_mean, kl_p99, kl_max, same;
};

/* ---- what is compared with what ---- */

/* An option of the second model is the first one's where it is not given: a new one is a line here and a row in options.c. */
static void take_against(struct options *o)
{
    if (o->against_compute) o->compute = o->against_compute;
    if (o->against_quant) o->quant = o->against_quant;
    if (o->against_quant_head) o->quant_head = o->against_quant_head;
    if (o->against_quant_vision) o->quant_vision = o->against_quant_vision;
    if (o->against_kv_dtype) o->kv_dtype = o->against_kv_dtype;
}

static bool has_against(const struct options *o)
{
    return o->against || o->against_compute || o->against_quant || o->against_quant_head || o->against_quant_vision || o->against_kv_dtype;
}

static const char *compute_name(const struct options *o)
{
    return o->compute && strcmp(o->compute, "auto") ? o->compute : "bf16";
}

static int find_text(struct eval *v, struct err *e)
{
    char demo[PATH_BYTES];
    if (v->o->text) {
        if (snprintf(v->text_path, sizeof v->text_path, "%s", v->o->text) >= (int)sizeof v->text_path)
            return err_set(e, ERR_LIMIT, "%.200s...: path is too long", v->o->text);
        return 0;
    }
    int rc = model_path_find("demo", demo, sizeof demo, e);
    if (!rc) snprintf(v->text_path, sizeof v->text_path, "%s/eval.txt", demo);
    return rc;
}

static int side_tokens(const struct eval *v, int side, const struct buf *text, struct tokens *out, struct err *e)
{
    struct tokenizer *t;
    tokens_init(out, TOKENS_MAX);
    int rc = tokenizer_open(&t, v->sides[side].path, e);
    if (rc) return rc;
    rc = tokenizer_encode(t, (struct marked_text){.text = text->data, .n = text->len}, TOKENIZER_ADD_SPECIAL, out, e);
    tokenizer_close(t);
    return rc ? err_prefix(e, "%s", v->text_path) : 0;
}

/* --after: its tokens are looked for in the text's. */
static int mark_counted(struct eval *v, struct err *e)
{
    const char *after = v->o->after;
    struct tokenizer *t;
    struct tokens mark;
    tokens_init(&mark, TOKENS_MAX);
    int rc = tokenizer_open(&t, v->sides[0].path, e);
    if (rc) return rc;
    rc = tokenizer_encode(t, (struct marked_text){.text = after, .n = strlen(after)}, 0, &mark, e);
    v->counts = rc ? NULL : calloc(v->tokens.n, sizeof *v->counts);
    if (!rc && !v->counts) rc = err_set(e, ERR_MEMORY, "out of memory");
    bool on = false, any = false;
    for (size_t i = 0; !rc && i < v->tokens.n; i++) {
        v->counts[i] = on && i > 0;
        any |= v->counts[i];
        if (tokenizer_is_special(t, v->tokens.ids[i])) on = false;
        if (mark.n && i + 1 >= mark.n && !memcmp(v->tokens.ids + i + 1 - mark.n, mark.ids, mark.n * sizeof *mark.ids)) on = true;
    }
    if (!rc && !any) rc = err_set(e, ERR_INPUT, "%s: nothing follows '%.100s'", v->text_path, after);
    tokens_free(&mark);
    tokenizer_close(t);
    return rc;
}

/* The text is trusted, as that of `tokenize`: control tokens in it are control tokens. */
static int read_tokens(struct eval *v, struct err *e)
{
    struct buf text;
    struct tokens second = {0};
    buf_init(&text, TEXT_MAX_BYTES);
    int rc = find_text(v, e);
    if (!rc) rc = buf_read_file(&text, v->text_path, e);
    if (!rc && !text.len) rc = err_set(e, ERR_INPUT, "%s: is empty", v->text_path);
    if (!rc) rc = side_tokens(v, 0, &text, &v->tokens, e);
    if (!rc && v->n_sides == 2) rc = side_tokens(v, 1, &text, &second, e);
    if (!rc && v->tokens.n < 2) rc = err_set(e, ERR_INPUT, "%s: one token is not enough", v->text_path);
    if (!rc && v->n_sides == 2 && (second.n != v->tokens.n || memcmp(second.ids, v->tokens.ids, second.n * sizeof *second.ids)))
        rc = err_set(e, ERR_INPUT, "%s and %s: their tokenizers cut the text differently, so nothing can be compared", v->sides[0].arg,
                     v->sides[1].arg);
    tokens_free(&second);
    buf_free(&text);
    v->n_positions = rc ? 0 : v->tokens.n - 1;
    return rc;
}

/* ---- models ---- */

static int side_open(struct side *s, const struct eval *v, struct err *e)
{
    char what[96];
    snprintf(what, sizeof what, "Loading %.60s", model_path_id(s->arg, s->path));
    struct progress *loading = progress_begin(what);
    int rc = model_run_open(&s->model, s->path, &s->o, COMPUTE_BF16, v->window, NULL, e);
    progress_end(loading);
    if (rc) return rc;
    const struct model_limits *l = model_limits(s->model);
    if (v->window > l->max_context)
        return err_set(e, ERR_CONTEXT, "%s: its context is %u tokens, the window %zu: give a smaller --window", s->arg, l->max_context,
                       v->window);
    s->blocks = calloc(l->n_blocks, sizeof *s->blocks);
    s->row = calloc(l->vocab, sizeof *s->row);
    if (!s->blocks || !s->row) return err_set(e, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < l->n_blocks; i++) s->blocks[i] = i;
    for (size_t i = 0; i < v->tokens.n; i++)
        if ((uint32_t)v->tokens.ids[i] >= l->vocab)
            return err_set(e, ERR_INPUT, "%s: token %d (item %zu) is outside the vocabulary of %u", s->arg, (int)v->tokens.ids[i], i,
                           l->vocab);
    return 0;
}

static int open_sides(struct eval *v, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < v->n_sides && !rc; i++) rc = side_open(&v->sides[i], v, e);
    if (rc || v->n_sides == 1) return rc;
    uint32_t a = model_limits(v->sides[0].model)->vocab, b = model_limits(v->sides[1].model)->vocab;
    return a == b ? 0 : err_set(e, ERR_INPUT, "vocabularies of %u and %u tokens cannot be compared", a, b);
}

/* ---- one position ---- */

/* ln of the sum of exp; NaN or infinite if a logit is. */
static double log_sum_exp(const float *x, size_t n)
{
    float max = x[0];
    for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)max);
    return (double)max + log(sum);
}

static size_t top_token(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static double kl_divergence(const float *a, double a_sum, const float *b, double b_sum, size_t n)
{
    double kl = 0;
    for (size_t i = 0; i < n; i++) {
        double ln_p = (double)a[i] - a_sum, ln_q = (double)b[i] - b_sum;
        kl += exp(ln_p) * (ln_p - ln_q);
    }
    return kl > 0 ? kl : 0; /* below 0 by rounding only */
}

/* All sides hold the row of this position. */
static int score(struct eval *v, size_t position, struct err *e)
{
    size_t vocab = model_limits(v->sides[0].model)->vocab;
    double sums[2];
    v->n_counted++;
    for (int i = 0; i < v->n_sides; i++) {
        struct side *s = &v->sides[i];
        sums[i] = log_sum_exp(s->row, vocab);
        if (!isfinite(sums[i])) return err_set(e, ERR_NUMERIC, "%s: a logit after token %zu is not finite", s->arg, position);
        s->nll += sums[i] - (double)s->row[v->tokens.ids[position + 1]];
    }
    if (v->n_sides == 1) return 0;
    const float *a = v->sides[0].row, *b = v->sides[1].row;
    v->kl[v->n_counted - 1] = kl_divergence(a, sums[0], b, sums[1], vocab);
    v->n_same += top_token(a, vocab) == top_token(b, vocab);
    return 0;
}

/* ---- windows ---- */

static int step(const struct eval *v, const struct side *s, size_t begin, size_t at, size_t n, bool scored, struct err *e)
{
    struct model_group g = {.tokens = v->tokens.ids + at,
                            .first_position = (uint32_t)(at - begin),
                            .n_rows = (uint32_t)n,
                            .prefill = true,
                            .blocks = s->blocks,
                            .all_logits = scored};
    return model_step(s->model, &g, 1, e);
}

/* Positions begin .. end - 1; those from `scored` on count. */
static int run_window(struct eval *v, size_t begin, size_t scored, size_t end, struct err *e)
{
    int rc = 0;
    for (size_t at = begin, n; at < end && !rc; at += n) {
        size_t stop = at < scored ? scored : end;
        n = stop - at < CHUNK_ROWS ? stop - at : CHUNK_ROWS;
        for (int i = 0; i < v->n_sides && !rc; i++) rc = step(v, &v->sides[i], begin, at, n, at >= scored, e);
        for (size_t row = 0; at >= scored && row < n && !rc; row++) {
            if (v->counts && !v->counts[at + row + 1]) continue;
            for (int i = 0; i < v->n_sides && !rc; i++) rc = model_read_logits(v->sides[i].model, row, v->sides[i].row, e);
            if (!rc) rc = score(v, at + row, e);
        }
    }
    return rc;
}

static int run_windows(struct eval *v, struct err *e)
{
    struct progress *p = progress_begin("Reading the text");
    int rc = 0;
    for (size_t begin = 0, done = 0; done < v->n_positions && !rc; begin += v->stride) {
        size_t end = v->n_positions - begin < v->window ? v->n_positions : begin + v->window;
        rc = run_window(v, begin, done, end, e);
        done = end;
        progress_set(p, done, v->n_positions);
    }
    progress_end(p);
    return rc;
}

/* ---- results ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct figures summarise(struct eval *v)
{
    size_t n = v->n_counted;
    struct figures f = {.same = (double)v->n_same / (double)n};
    qsort(v->kl, n, sizeof *v->kl, compare_doubles);
    for (size_t i = 0; i < n; i++) f.kl_mean += v->kl[i] / (double)n;
    f.kl_p99 = v->kl[(n * 99 + 99) / 100 - 1];
    f.kl_max = v->kl[n - 1];
    return f;
}

static double perplexity(const struct eval *v, int side)
{
    return exp(v->sides[side].nll / (double)v->n_counted);
}

static void print_text(const struct eval *v, const struct figures *f)
{
    printf("%s: %zu tokens, %zu counted, windows of %zu tokens, stride %zu\n", v->text_path, v->tokens.n, v->n_counted, v->window,
           v->stride);
    for (int i = 0; i < v->n_sides; i++) {
        const struct side *s = &v->sides[i];
        printf("%s, %s%s: perplexity %.6g\n", s->arg, compute_name(&s->o), v->n_sides == 2 ? i ? " (second)" : " (first)" : "",
               perplexity(v, i));
    }
    if (v->n_sides == 1) return;
    printf("KL divergence of the second from the first, nats: mean %.4g, p99 %.4g, most %.4g\n", f->kl_mean, f->kl_p99, f->kl_max);
    printf("same top token: %.3f %%\n", 100 * f->same);
}

static int print_json(const struct eval *v, const struct figures *f, struct err *e)
{
    static const char *const names[] = {"model", "against"};
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"text\": ");
    json_write_string(&b, v->text_path, strlen(v->text_path));
    buf_printf(&b, ", \"tokens\": %zu, \"positions\": %zu, \"window\": %zu, \"stride\": %zu", v->tokens.n, v->n_counted, v->window,
               v->stride);
    for (int i = 0; i < v->n_sides; i++) {
        const struct side *s = &v->sides[i];
        buf_printf(&b, ", \"%s\": {\"path\": ", names[i]);
        json_write_string(&b, s->path, strlen(s->path));
        buf_printf(&b, ", \"compute\": \"%s\", \"perplexity\": %.17g, \"weight_bytes\": %llu}", compute_name(&s->o), perplexity(v, i),
                   (unsigned long long)model_limits(s->model)->weight_bytes);
    }
    if (v->n_sides == 2)
        buf_printf(&b, ", \"kl_mean\": %.17g, \"kl_p99\": %.17g, \"kl_max\": %.17g, \"same_top\": %.17g", f->kl_mean, f->kl_p99, f->kl_max,
                   f->same);
    buf_puts(&b, "}\n");
    int rc = b.failed ? err_set(e, (enum err_code) - b.failed, "the result is too long") : 0;
    if (!rc) fwrite(b.data, 1, b.len, stdout);
    buf_free(&b);
    return rc;
}

/* ---- the command ---- */

static int run(struct eval *v, struct err *e)
{
    int rc = read_tokens(v, e);
    if (!rc && v->o->after) rc = mark_counted(v, e);
    if (!rc) rc = open_sides(v, e);
    if (rc) return rc;
    v->kl = calloc(v->n_positions, sizeof *v->kl);
    if (!v->kl) return err_set(e, ERR_MEMORY, "out of memory");
    rc = run_windows(v, e);
    if (rc) return rc;
    struct figures f = summarise(v);
    if (v->o->json) return print_json(v, &f, e);
    print_text(v, &f);
    return 0;
}

static int check_usage(struct eval *v, struct err *e)
{
    const struct options *o = v->o;
    if (o->n_args != 1) return err_set(e, ERR_INPUT, "eval takes one MODEL, and a second one as --against MODEL");
    v->window = (size_t)o->window;
    v->stride = o->stride ? (size_t)o->stride : (v->window + 1) / 2;
    if (v->stride > v->window) return err_set(e, ERR_INPUT, "--stride: tokens between windows of %zu would not be read", v->window);
    v->n_sides = has_against(o) ? 2 : 1;
    v->sides[0] = (struct side){.arg = o->args[0], .o = *o};
    v->sides[1] = (struct side){.arg = o->against ? o->against : o->args[0], .o = *o};
    take_against(&v->sides[1].o);
    return 0;
}

static void side_close(struct side *s)
{
    model_close(s->model);
    free(s->blocks);
    free(s->row);
}

int command_eval(const struct options *o)
{
    struct err e = {0};
    struct eval v = {.o = o};
    if (check_usage(&v, &e)) return command_usage_error(&e);
    int rc = 0;
    for (int i = 0; i < v.n_sides && !rc; i++) rc = model_path_find(v.sides[i].arg, v.sides[i].path, sizeof v.sides[i].path, &e);
    if (!rc) rc = run(&v, &e);
    for (int i = 0; i < v.n_sides; i++) side_close(&v.sides[i]);
    tokens_free(&v.tokens);
    free(v.counts);
    free(v.kl);
    return rc ? command_error(&e) : COMMAND_OK;
}
