/* bench_host: what a step costs the host, with a device that computes nothing.
 *
 *     bench_host --library libspillway_no_device.so [--steps N]
 *
 * As many sequences as the row says decode at once: scheduler, the model's 30 layers of calls, sampling parameters, keys of full blocks, and the frames
 * that go to the gateway. The GPU waits for all of it between two steps, but for what it does meanwhile. Median and 99th percentile in us; goal of
 * one step: 50 us. The last line is JSON. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/model.h"

enum { PROMPT = 64, WARM_UP = 20 };

static void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "bench_host: %s\n", e->msg);
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void submit_all(struct engine *en, uint32_t n, uint32_t max_tokens)
{
    int32_t ids[PROMPT];
    struct err e;
    for (uint32_t s = 0; s < n; s++) {
        for (uint32_t i = 0; i < PROMPT; i++) ids[i] = (int32_t)(s * 31 + i * 17 + 3);
        const struct frame_submit f = {
            .sequence = s,
            .account = s % 16,
            .weight = 1,
            .ids = ids,
            .n_ids = PROMPT,
            .sampling = {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1, .top_logprobs = -1, .max_tokens = max_tokens, .ignore_eos = true}};
        must(engine_submit(en, &f, &e), &e);
    }
}

/* A step and its frames; ns. */
static int64_t step(struct engine *en, struct buf *out, uint32_t *n_tokens)
{
    struct frame_step s;
    struct frame_prediction p;
    struct err e;
    const int64_t from = clock_boot_ns();
    must(engine_step(en, from / 1000000, &s, &e), &e);
    engine_prediction(en, &p);
    buf_clear(out);
    if ((s.n_rows && frame_put_step(out, &s)) || frame_put_prediction(out, &p)) {
        fprintf(stderr, "bench_host: a frame cannot be written\n");
        exit(1);
    }
    *n_tokens = 0;
    for (uint32_t i = 0; i < s.n_rows; i++) *n_tokens += s.rows[i].n_tokens;
    return clock_boot_ns() - from;
}

static void measure(struct model *m, uint32_t n, uint32_t steps, double *median_us, double *p99_us)
{
    struct engine *en;
    struct err e;
    struct buf out;
    int64_t *ns = calloc(steps, sizeof *ns);
    buf_init(&out, 1 << 20);
    if (!ns) must(err_set(&e, ERR_MEMORY, "out of memory"), &e);
    must(engine_new_with(&en, m, &(struct engine_options){.no_guesses = true}, &e), &e);
    submit_all(en, n, steps + WARM_UP + 64);
    uint32_t n_tokens = 0;
    for (int i = 0; i < 1000 && n_tokens < n; i++) step(en, &out, &n_tokens); /* until all decode */
    for (int i = 0; i < WARM_UP; i++) step(en, &out, &n_tokens);
    for (uint32_t i = 0; i < steps; i++) {
        ns[i] = step(en, &out, &n_tokens);
        if (n_tokens != n) {
            fprintf(stderr, "bench_host: %u tokens of %u sequences\n", n_tokens, n);
            exit(1);
        }
    }
    qsort(ns, steps, sizeof *ns, by_size);
    *median_us = (double)ns[steps / 2] / 1000, *p99_us = (double)ns[steps * 99 / 100] / 1000;
    free(ns);
    buf_free(&out);
    engine_free(en);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"library", 1, NULL, 'l'}, {"steps", 1, NULL, 'n'}, {NULL, 0, NULL, 0}};
    static const uint32_t sequences[] = {1, 16, 64, 256};
    enum { N = sizeof sequences / sizeof *sequences };
    const char *library = NULL;
    uint32_t steps = 1000;
    struct model *m;
    struct err e;
    double median[N], p99[N];
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'l') library = optarg;
        if (c == 'n') steps = (uint32_t)strtoul(optarg, NULL, 10);
        if (c == '?') return 2;
    }
    if (!library || steps < 1 || steps > 4000) return fprintf(stderr, "bench_host --library FILE [--steps 1 to 4000]\n"), 2;
    const struct model_options o = {.device = "cuda", .cuda_library = library, .compute = COMPUTE_BF16, .kv_dtype = DTYPE_BF16, .kv_tokens = 256 * 8192};
    must(model_open_random(&m, "135m:1", &o, &e), &e);
    for (int i = 0; i < N; i++) {
        measure(m, sequences[i], steps, &median[i], &p99[i]);
        printf("%3u sequences: %6.1f us a step, p99 %6.1f\n", sequences[i], median[i], p99[i]);
    }
    printf("{\"host_us\": {");
    for (int i = 0; i < N; i++) printf("%s\"%u\": [%.1f, %.1f]", i ? ", " : "", sequences[i], median[i], p99[i]);
    printf("}}\n");
    model_close(m);
    return 0;
}
