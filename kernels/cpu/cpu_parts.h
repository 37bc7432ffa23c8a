/* What cpu_device.c's table takes from the other files of the CPU backend, besides the operations in cpu.h. */
#ifndef SPILLWAY_KERNELS_CPU_CPU_PARTS_H
#define SPILLWAY_KERNELS_CPU_CPU_PARTS_H

#include "kernels/cpu/cpu.h"

int cpu_weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols,
                    const struct quant_format *quant, struct weight **out, struct err *e);
void cpu_weight_free(struct device *d, struct weight *w);
size_t cpu_weight_bytes(const struct weight *w);
/* Rows of a product, ld floats apart and `columns` wide (G's, and U's PANEL floats on, for EPILOGUE_SILU), to where the job wants them. */
void cpu_finish_tile(const struct device *d, const struct linear_job *j, const float *tile, size_t ld, size_t row, size_t rows,
                     size_t column, size_t columns);

/* Quantised matrices (cpu_quant.c). */
void cpu_quant_shape(const struct device *d, struct weight *w, const struct quant_format *f); /* from n, k and panels */
int cpu_quant_pack(struct device *d, struct weight *w, const struct weight_part *parts, size_t n_parts, struct err *e);
void cpu_quant_embed_row(const struct device *d, const struct weight *w, size_t token, float *x);
struct activation cpu_quant_operand(const struct device *d, const struct weight *w);
void cpu_quant_put_row(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n);
void cpu_quant_linear(const struct device *d, const struct linear_job *j, int thread, int n_threads);

/* Rows of one sequence and query heads of one KV head that are attended together. */
struct attention_task {
    uint32_t first_row, n_rows, kv_head, first_head, n_heads;
};
/* Floats a thread needs for attention: scores and sums, block pointers, and for vision one head's keys and values. */
size_t cpu_attention_scratch_floats(const struct device_limits *l);

#endif
