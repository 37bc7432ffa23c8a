/* What cpu_device.c's table takes from the other files of the CPU backend, besides the operations in cpu.h. */
#ifndef SPILLWAY_KERNELS_CPU_CPU_PARTS_H
#define SPILLWAY_KERNELS_CPU_CPU_PARTS_H

#include "kernels/cpu/cpu.h"

int cpu_weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols,
                    const struct quant_format *quant, struct weight **out, struct err *e);
void cpu_weight_free(struct device *d, struct weight *w);
size_t cpu_weight_bytes(const struct weight *w);

/* Quantised matrices (cpu_quant.c). */
void cpu_quant_shape(const struct device *d, struct weight *w, const struct quant_format *f); /* from n, k and panels */
int cpu_quant_pack(struct device *d, struct weight *w, const struct weight_part *parts, size_t n_parts, struct err *e);
void cpu_quant_embed_row(const struct device *d, const struct weight *w, size_t token, float *x);
struct activation cpu_quant_operand(const struct device *d, const struct weight *w, size_t rows);
void cpu_quant_put_row(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n);
/* Rows from `row`, panels from `panel` of the product, to `sums` (rows, panels * PANEL). */
void cpu_quant_multiply(const struct device *d, const struct linear_job *j, size_t row, size_t rows, size_t panel, size_t panels, float *sums);

/* Rows of one sequence and query heads of one KV head that are attended together; with parts, only splits first_split .. end_split-1. */
struct attention_task {
    uint32_t first_row, n_rows, kv_head, first_head, n_heads, first_split, end_split;
    float *parts; /* [split][head] attention_part_floats; NULL: the whole at once */
};
/* Floats a thread needs for attention: scores and sums, block pointers, and for vision one head's keys and values. */
size_t cpu_attention_scratch_floats(const struct device_limits *l);
/* Bytes a thread needs to sample a row, a multiple of 64. */
size_t cpu_sample_scratch_bytes(size_t vocab);
size_t cpu_attention_max_tasks(const struct device_limits *l, int threads);
size_t cpu_attention_parts_floats(const struct device_limits *l, int threads);
size_t cpu_kv_block_bytes(const struct kv_layout *l);

#endif
