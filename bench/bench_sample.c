/* Sampling: microseconds a row of SmolLM's vocabulary, for one row (as one sequence decodes) and for 64.
 *   build/bench/bench_sample [ISA]
 * Logits are of two kinds: peaked, as a trained model's (a few ids hold most of the share), and flat. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "kernels/ops.h"

enum { VOCAB = 49152, ROWS = 64, SECONDS_NS = 300000000 };

static const struct {
    const char *name;
    struct sample_params p;
} settings[] = {
    {"greedy", {.temperature = 0, .top_p = 1}},
    {"temperature 0.8", {.temperature = 0.8f, .top_p = 1}},
    {"top_k 40", {.temperature = 0.8f, .top_p = 1, .top_k = 40}},
    {"top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f}},
    {"min_p 0.05", {.temperature = 0.8f, .top_p = 1, .min_p = 0.05f}},
    {"frequency_penalty 0.5", {.temperature = 0.8f, .top_p = 1, .frequency_penalty = 0.5f}},
};

static double us_per_row(struct device *d, struct sample_row *rows, size_t n)
{
    static struct sample_result out[ROWS];
    struct err e = {0};
    int64_t from = clock_boot_ns(), took;
    size_t runs = 0;
    do {
        for (size_t i = 0; i < n; i++) rows[i].position++;
        if (ops_cpu.sample(d, rows, n, VOCAB, out, &e)) exit(1);
        runs++;
        took = clock_boot_ns() - from;
    } while (took < SECONDS_NS);
    return (double)took / 1e3 / (double)(runs * n);
}

int main(int argc, char **argv)
{
    struct device *d;
    struct err e = {0};
    if (ops_cpu.open(&d, &(struct device_options){.isa = argc > 1 ? argv[1] : NULL}, &e) ||
        ops_cpu.reserve(d, &(struct device_limits){.vocab = VOCAB, .head_dim = 16}, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    float *logits = malloc((size_t)VOCAB * sizeof *logits);
    static struct sample_row rows[ROWS];
    int32_t made[256];
    uint32_t noise = 1;
    if (!logits) return 1;
    for (int32_t i = 0; i < 256; i++) made[i] = i * 7;
    printf("%-8s %-24s %10s %10s   us a row\n", "logits", "parameters", "1 row", "64 rows");
    for (int peaked = 1; peaked >= 0; peaked--) {
        for (size_t i = 0; i < VOCAB; i++) {
            noise = noise * 1664525u + 1013904223u;
            float u = ((float)(noise >> 8) + 0.5f) * 0x1p-24f;
            logits[i] = peaked ? -2 * logf(u) : u; /* an exponential tail, or nearly all alike */
        }
        for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
            for (size_t i = 0; i < ROWS; i++) {
                rows[i] = (struct sample_row){.logits = logits, .params = settings[s].p, .made = made, .n_made = 256};
                rows[i].params.repetition_penalty = 1, rows[i].params.top_logprobs = -1, rows[i].params.seed = i;
            }
            double one = us_per_row(d, rows, 1), many = us_per_row(d, rows, ROWS);
            printf("%-8s %-24s %10.1f %10.1f\n", peaked ? "peaked" : "flat", settings[s].name, one, many);
        }
    }
    free(logits);
    ops_cpu.close(d);
    return 0;
}
