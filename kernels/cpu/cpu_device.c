/* CPU: the device, its scratch, the plan of a step, and the table of operations. */
#include <math.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

struct kernel_set {
    const char *isa;
    const struct cpu_kernels *k;
    const struct quant_kernels *q;
};

#if defined(__x86_64__)
/* AMX-INT8 is there, and the system saves tiles (XCR0 bits 17 and 18) and lets this process have them (Linux, Documentation/arch/x86/xstate.rst). */
static bool amx_usable(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, TILE_BITS = 3 << 17 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 24) || !(d & 1u << 25)) return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & TILE_BITS) == TILE_BITS && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

/* The set of this name, or the best, of those this processor has. */
static bool choose(const char *isa, struct kernel_set *out)
{
    struct kernel_set best[7];
    size_t n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    bool vnni = avx512 && __builtin_cpu_supports("avx512vnni"), avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool bf16_too = avx512 && __builtin_cpu_supports("avx512bf16");
    if (vnni && amx_usable()) best[n++] = (struct kernel_set){"amx", bf16_too ? &cpu_kernels_avx512bf16 : &cpu_kernels_avx512, &quant_kernels_amx};
    if (bf16_too)
        best[n++] = (struct kernel_set){"avx512bf16", &cpu_kernels_avx512bf16, vnni ? &quant_kernels_avx512vnni : &quant_kernels_avx512};
    if (vnni) best[n++] = (struct kernel_set){"avx512vnni", &cpu_kernels_avx512, &quant_kernels_avx512vnni};
    if (avx512) best[n++] = (struct kernel_set){"avx512", &cpu_kernels_avx512, &quant_kernels_avx512};
    if (avx2 && __builtin_cpu_supports("avxvnni")) best[n++] = (struct kernel_set){"avxvnni", &cpu_kernels_avx2, &quant_kernels_avxvnni};
    if (avx2) best[n++] = (struct kernel_set){"avx2", &cpu_kernels_avx2, &quant_kernels_avx2};
#endif
    best[n++] = (struct kernel_set){"ref", &cpu_kernels_ref, &quant_kernels_ref};
    for (size_t i = 0; i < n; i++)
        if (!isa || strcmp(isa, best[i].isa) == 0) {
            *out = best[i];
            return true;
        }
    return false;
}

const struct cpu_kernels *cpu_kernels_choose(const char *isa)
{
    struct kernel_set set;
    return choose(isa, &set) ? set.k : NULL;
}

const struct quant_kernels *cpu_quant_choose(const char *isa)
{
    struct kernel_set set;
    return choose(isa, &set) ? set.q : NULL;
}

static int usable_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? n : 1;
}

static void device_close(struct device *d)
{
    if (!d) return;
    threads_free(d->threads);
    void *const scratch[] = {d->act,      d->qkv,     d->thread_scratch, d->sample_scratch, d->cos,   d->sin, d->position,
                             d->sequence, d->adapter, d->blocks,         d->tasks,          d->parts};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++) cpu_zeroed_free(scratch[i]);
    cpu_region_free(&d->weights);
    free(d);
}

static int device_open(struct device **out, const struct device_options *o, struct err *e)
{
    *out = NULL;
    struct device *d = calloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_MEMORY, "cpu: out of memory");
    d->compute = o->compute;
    d->progress = o->progress;
    d->k = cpu_kernels_choose(o->isa);
    d->q = cpu_quant_choose(o->isa);
    int rc = d->k ? 0 : err_set(e, ERR_UNSUPPORTED, "cpu: this processor has no kernels named '%s'", o->isa);
    if (!rc) rc = threads_new(&d->threads, o->threads > 0 ? o->threads : usable_cpus(), o->pin_threads, e);
    if (rc)
        device_close(d);
    else
        *out = d;
    return rc;
}

static void device_describe(const struct device *d, char *out, size_t n)
{
    snprintf(out, n, "cpu (%d threads, %s)", threads_count(d->threads), d->k->isa);
}

static size_t kv_block_tokens(const struct device *d)
{
    (void)d;
    return KV_BLOCK;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int scratch(void *out, size_t n, size_t size, struct err *e)
{
    size_t bytes;
    void *p = __builtin_mul_overflow(n, size, &bytes) ? NULL : cpu_zeroed(bytes);
    if (!p) return err_set(e, ERR_MEMORY, "cpu: scratch memory of %zu x %zu bytes could not be had", n, size);
    memcpy(out, &p, sizeof p);
    return 0;
}

/* Floats by which a row of operands may be longer than its values: a quantised one of k values takes at most 3.25 (k + 127) + 126 bytes. */
enum { ROW_SLACK = 144 };

static int device_reserve(struct device *d, const struct device_limits *l, struct err *e)
{
    d->limits = *l;
    CHECK(l->head_dim % KV_BLOCK == 0 && l->head_dim <= MAX_HEAD_DIM && l->vision_head_dim <= MAX_HEAD_DIM - KV_BLOCK);
    size_t text_k = max_size(l->heads * l->head_dim, max_size(l->hidden, l->inter)) + ROW_SLACK;
    size_t vision_k = max_size(max_size(l->vision_dim, l->vision_inter), l->patch_in) + ROW_SLACK;
    size_t act = max_size(l->max_rows * text_k, max_size(l->vision_rows * vision_k, l->vision_rows * (l->vision_dim + 2)));
    d->act_bytes = act * sizeof(float);
    d->thread_scratch_floats = max_size(cpu_attention_scratch_floats(l), max_size(text_k, max_size(vision_k, l->connector_in + 2)));
    d->thread_scratch_floats =
        (d->thread_scratch_floats + 15) & ~(size_t)15; /* each thread's piece begins a cache line: pointers lie in it too */
    size_t threads = (size_t)threads_count(d->threads);
    d->max_tasks = cpu_attention_max_tasks(l, (int)threads);
    d->parts_floats = cpu_attention_parts_floats(l, (int)threads);
    int rc = scratch(&d->act, d->act_bytes, 1, e);
    if (!rc)
        rc = scratch(&d->qkv, max_size(l->max_rows * (l->heads + 2 * l->kv_heads) * l->head_dim, l->vision_rows * 3 * l->vision_dim),
                     sizeof(float), e);
    if (!rc) rc = scratch(&d->thread_scratch, threads * d->thread_scratch_floats, sizeof(float), e);
    if (!rc) rc = scratch(&d->sample_scratch, threads, cpu_sample_scratch_bytes(l->vocab), e);
    if (!rc) rc = scratch(&d->cos, l->max_rows * l->head_dim / 2, sizeof(float), e);
    if (!rc) rc = scratch(&d->sin, l->max_rows * l->head_dim / 2, sizeof(float), e);
    if (!rc) rc = scratch(&d->position, l->max_rows, sizeof *d->position, e);
    if (!rc) rc = scratch(&d->adapter, l->max_rows, sizeof *d->adapter, e);
    if (!rc) rc = scratch(&d->sequence, l->max_rows, sizeof *d->sequence, e);
    if (!rc) rc = scratch(&d->blocks, l->max_sequences, sizeof *d->blocks, e);
    if (!rc) rc = scratch(&d->tasks, d->max_tasks, sizeof *d->tasks, e);
    if (!rc) rc = scratch(&d->parts, d->parts_floats + 1, sizeof *d->parts, e);
    return rc;
}

float *cpu_thread_scratch(const struct device *d, int thread)
{
    return d->thread_scratch + (size_t)thread * d->thread_scratch_floats;
}

void cpu_bump(struct device *d)
{
    if (d->progress) ++*d->progress;
}

struct rows_run {
    cpu_rows_fn fn;
    void *arg;
    size_t rows;
};

static void rows_item(void *arg, int thread, size_t item)
{
    const struct rows_run *run = arg;
    size_t first = item * ROWS_AT_ONCE;
    run->fn(run->arg, thread, first, run->rows - first < ROWS_AT_ONCE ? run->rows : first + ROWS_AT_ONCE);
}

void cpu_rows(struct device *d, size_t rows, cpu_rows_fn fn, void *arg)
{
    struct rows_run run = {fn, arg, rows};
    threads_items(d->threads, rows_item, &run, (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
}

static int device_alloc(struct device *d, size_t bytes, void **out, struct err *e)
{
    (void)d;
    return scratch(out, bytes ? bytes : 1, 1, e);
}

static void device_free(struct device *d, void *p)
{
    (void)d;
    cpu_zeroed_free(p);
}

static int device_copy(struct device *d, void *dst, const void *src, size_t bytes, struct err *e)
{
    (void)d;
    (void)e;
    memcpy(dst, src, bytes);
    return 0;
}

static uint64_t available(const struct device *d)
{
    (void)d;
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    if (f) fclose(f);
    return kib ? kib * 1024 : UINT64_MAX;
}

static int device_sync(struct device *d, struct err *e)
{
    (void)d;
    (void)e;
    return 0;
}

int cpu_plan(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e)
{
    (void)e;
    CHECK(p->n_rows <= d->limits.max_rows && p->n_sequences <= d->limits.max_sequences);
    d->n_rows = p->n_rows;
    memcpy(d->position, p->position, p->n_rows * sizeof *d->position);
    memcpy(d->sequence, p->sequence, p->n_rows * sizeof *d->sequence);
    for (size_t r = 0; r < p->n_rows; r++) d->adapter[r] = p->adapter ? p->adapter[r] : -1;
    memcpy(d->blocks, p->blocks, p->n_sequences * sizeof *d->blocks);
    size_t half = head_dim / 2;
    for (size_t r = 0; rope->inv_freq && r < p->n_rows; r++)
        for (size_t j = 0; j < half; j++) { /* as the reference: the angle is rounded to float32 before cos and sin */
            float angle = (float)p->position[r] * rope->inv_freq[j];
            d->cos[r * half + j] = cosf(angle) * rope->scale;
            d->sin[r * half + j] = sinf(angle) * rope->scale;
        }
    return 0;
}

const struct ops ops_cpu = {
    .name = "cpu",
    .fill_rows = 256,
    .open = device_open,
    .close = device_close,
    .describe = device_describe,
    .kv_block_tokens = kv_block_tokens,
    .available = available,
    .reserve = device_reserve,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_copy,
    .read_back = device_copy,
    .copy = device_copy,
    .sync = device_sync,
    .weight_pack = cpu_weight_pack,
    .weight_free = cpu_weight_free,
    .weight_bytes = cpu_weight_bytes,
    .kv_block_bytes = cpu_kv_block_bytes,
    .plan = cpu_plan,
    .embed = cpu_embed,
    .qkv = cpu_qkv,
    .attention = cpu_attention,
    .project = cpu_project,
    .gate_up = cpu_gate_up,
    .head = cpu_head,
    .sample = cpu_sample,
    .patch_embed = cpu_patch_embed,
    .vision_qkv = cpu_vision_qkv,
    .vision_attention = cpu_vision_attention,
    .vision_up = cpu_vision_up,
    .connect = cpu_connect,
};
