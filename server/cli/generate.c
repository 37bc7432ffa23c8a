/* generate MODEL --prompt TEXT: answers on standard output, token by token, with the engine in this process. */
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "server/cli/command.h"
#include "server/cli/model_path.h"
#include "server/cli/model_run.h"
#include "server/cli/progress.h"
#include "server/cli/question.h"

static struct frame_sampling sampling(const struct options *o, const struct prompt_defaults *d)
{
    struct frame_sampling s = {.temperature = o->temperature >= 0 ? (float)o->temperature : d->temperature,
                               .top_p = d->top_p,
                               .min_p = d->min_p,
                               .top_k = d->top_k,
                               .repetition_penalty = d->repetition_penalty,
                               .top_logprobs = -1,
                               .max_tokens = (uint32_t)o->max_tokens};
    if (getrandom(&s.seed, sizeof s.seed, 0) != sizeof s.seed) s.seed = (uint64_t)clock_boot_ns();
    return s;
}

static int submit(struct engine *en, struct question *q, const struct options *o, struct err *e)
{
    const struct prompt_info *info = prompt_model_info(q->model);
    struct frame_submit f = {.sequence = 1,
                             .weight = 1,
                             .sampling = sampling(o, &info->defaults),
                             .ids = q->prompt.ids,
                             .n_ids = (uint32_t)q->prompt.n_ids,
                             .eos = info->eos,
                             .n_eos = info->n_eos,
                             .banned = info->banned,
                             .n_banned = info->n_banned};
    int rc = question_tiles(q, &f.tiles, &f.n_tiles, &f.fds, &f.n_fds, e);
    return rc ? rc : engine_submit(en, &f, e);
}

static int print_row(const struct frame_step_row *row, const struct tokenizer *t, struct detok *d, struct err *e)
{
    struct buf text;
    buf_init(&text, 1 << 20);
    int rc = 0;
    for (uint32_t i = 0; i < row->n_tokens && !rc; i++) rc = detok_push(d, t, row->tokens[i], true, &text);
    if (!rc && row->finish != FINISH_NONE) rc = detok_flush(d, &text);
    if (rc) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (text.len) {
        fwrite(text.data, 1, text.len, stdout);
        fflush(stdout);
    }
    buf_free(&text);
    if (!rc && row->finish == FINISH_ERROR) {
        *e = row->err;
        rc = -(int)row->err.code;
    }
    return rc;
}

static int answer(struct engine *en, const struct question *q, struct err *e)
{
    struct detok d = {0};
    const struct tokenizer *t = prompt_model_info(q->model)->tokenizer;
    int rc = 0;
    size_t made = 0;
    int64_t from_ns = clock_boot_ns(), first_ns = 0;
    while (!rc && engine_busy(en)) {
        struct frame_step step;
        rc = engine_step(en, clock_boot_ms(), &step, e);
        for (uint32_t i = 0; !rc && i < step.n_rows; i++) {
            if (!first_ns && step.rows[i].n_tokens) first_ns = clock_boot_ns();
            made += step.rows[i].n_tokens;
            rc = print_row(&step.rows[i], t, &d, e);
        }
    }
    if (rc) return rc;
    putchar('\n');
    double rest_s = (double)(clock_boot_ns() - first_ns) / 1e9;
    if (made > 1)
        fprintf(stderr, "%zu prompt tokens, first after %.0f ms, then %.1f tokens/s\n", q->prompt.n_ids, (double)(first_ns - from_ns) / 1e6,
                (double)(made - 1) / rest_s);
    return 0;
}

static int generate(const struct options *o, const char *dir, struct err *e)
{
    struct question q;
    struct model *model = NULL;
    struct engine *en = NULL;
    int rc = question_open(&q, dir, o, NULL, NULL, o->prompt, e);
    uint64_t kv_tokens = 0;
    if (!rc) {
        kv_tokens = q.prompt.n_ids + (uint64_t)o->max_tokens;
        uint32_t context = prompt_model_info(q.model)->max_context;
        if (kv_tokens > context) kv_tokens = context;
        char what[96];
        snprintf(what, sizeof what, "Loading %.60s", model_path_id(o->args[0], dir));
        struct progress *loading = progress_begin(what);
        rc = model_run_open(&model, dir, o, COMPUTE_BF16, kv_tokens, NULL, e);
        progress_end(loading);
    }
    if (!rc) rc = engine_new(&en, model, e);
    if (!rc) rc = submit(en, &q, o, e);
    if (!rc) rc = answer(en, &q, e);
    engine_free(en);
    model_close(model);
    question_close(&q);
    return rc;
}

int command_generate(const struct options *o)
{
    struct err e = {0};
    char path[4096];
    const char *dir;
    int rc = 0;
    if (!o->prompt)
        rc = err_set(&e, ERR_INPUT, "generate needs --prompt TEXT");
    else if (o->random_weights)
        rc = err_set(&e, ERR_INPUT, "generate: random weights have no tokenizer; logits and serve take them");
    else
        rc = model_run_dir(o, path, sizeof path, &dir, &e);
    if (rc == -ERR_INPUT) return command_usage_error(&e);
    if (!rc) rc = generate(o, dir, &e);
    return rc ? command_error(&e) : COMMAND_OK;
}
