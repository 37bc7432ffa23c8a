/* Weights: from a checkpoint's rows to what products read (linear.cu, linear_quant.cu). Packed on the host, copied once. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

namespace {

/* Where row r of part `part` goes. */
size_t packed_row(enum pack_kind kind, size_t before, size_t part, size_t r)
{
    return kind == PACK_GATE_UP ? r / 8 * 16 + part * 8 + r % 8 : before + r;
}

/* Host memory that is packed into. */
struct packed {
    unsigned char *data, *scale;
    float *row;
    int8_t *q;
    float *row_scale;
};

void put_bf16(const struct weight *w, const struct weight_part *p, size_t r, size_t to, const packed *h)
{
    bf16 *row = reinterpret_cast<bf16 *>(h->data) + to * w->k_padded;
    if (p->dtype == DTYPE_BF16) {
        memcpy(row, static_cast<const unsigned char *>(p->data) + r * w->k * 2, w->k * 2);
        return;
    }
    quant_part_values(p, r, w->k, h->row);
    for (size_t c = 0; c < w->k; c++) row[c] = __float2bfloat16_rn(h->row[c]);
}

/* Output o's numbers into the fragments: see linear_quant.cu. */
void put_fragments(const struct weight *w, size_t o, const packed *h)
{
    const bool four = w->quant.bits == 4;
    for (size_t k = 0; k < w->k_padded; k++) {
        const size_t lane = o % 8 * 4 + k % 32 / 8, byte = k % 8 / 4 * 8 + o % 16 / 8 * 4 + k % 4, tiles = w->k_padded / 32;
        const size_t tile = o / 16 * tiles + k / 32;
        if (four)
            h->data[tile / 2 * 512 + lane * 16 + byte] |= static_cast<unsigned char>((h->q[k] & 15) << k / 32 % 2 * 4);
        else
            h->data[tile * 512 + lane * 16 + byte] = static_cast<unsigned char>(h->q[k]);
    }
}

void put_quant(const struct weight *w, const struct weight_part *p, size_t r, size_t to, const packed *h)
{
    const size_t n_padded = cuda_round_up(w->n, CUDA_N_PAD), n_scales = quant_scales(&w->quant, w->k);
    quant_part_weights(&w->quant, p, r, w->k, h->row, h->q, h->row_scale);
    put_fragments(w, to, h);
    for (size_t s = 0; s < n_scales; s++) {
        const size_t at = s * n_padded + to;
        const bf16 b = __float2bfloat16_rn(h->row_scale[s]);
        if (w->quant.scale == DTYPE_BF16)
            memcpy(h->scale + at * 2, &b, 2);
        else
            memcpy(h->scale + at * 4, &h->row_scale[s], 4);
    }
}

size_t scale_bytes(const struct weight *w)
{
    if (!w->quant.bits) return 0;
    const size_t steps = w->quant.group ? w->k_padded / w->quant.group : 1;
    return steps * cuda_round_up(w->n, CUDA_N_PAD) * (w->quant.scale == DTYPE_BF16 ? 2 : 4);
}

int pack(struct device *d, struct weight *w, const struct weight_part *parts, size_t n_parts, const packed *h, struct err *e)
{
    const size_t data_bytes = w->bytes - scale_bytes(w);
    for (size_t i = 0, before = 0; i < n_parts; before += parts[i++].rows)
        for (size_t r = 0; r < parts[i].rows; r++)
            (w->quant.bits ? put_quant : put_bf16)(w, &parts[i], r, packed_row(w->kind, before, i, r), h);
    int rc = cuda_region_take(d, data_bytes, &w->data, e);
    if (!rc && w->quant.bits) rc = cuda_region_take(d, scale_bytes(w), &w->scale, e);
    if (!rc) rc = cuda_upload(d, w->data, h->data, data_bytes, e);
    if (!rc && w->quant.bits) rc = cuda_upload(d, w->scale, h->scale, scale_bytes(w), e);
    return rc;
}

} // namespace

int cuda_weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols, const struct quant_format *quant,
                     struct weight **out, struct err *e)
{
    *out = nullptr;
    struct weight *w = static_cast<struct weight *>(calloc(1, sizeof *w));
    if (!w) return err_set(e, ERR_MEMORY, "cuda: out of memory");
    if (quant) w->quant = *quant;
    CHECK(!quant || quant_format_valid(quant));
    const size_t pad = quant && quant_step(quant) > CUDA_K_PAD ? quant_step(quant) : size_t(CUDA_K_PAD);
    w->kind = kind, w->k = cols, w->k_padded = cuda_round_up(cols, pad);
    for (size_t i = 0; i < n_parts; i++) w->n += parts[i].rows;
    if (kind == PACK_GATE_UP) w->n = 2 * cuda_round_up(parts[0].rows, 8);
    const size_t data_bytes = cuda_round_up(w->n, CUDA_N_PAD) * w->k_padded * (quant ? quant->bits : 16) / 8;
    w->bytes = data_bytes + scale_bytes(w);
    packed h = {static_cast<unsigned char *>(calloc(1, data_bytes)), static_cast<unsigned char *>(calloc(1, scale_bytes(w) + 1)),
                static_cast<float *>(calloc(w->k_padded, sizeof(float))), static_cast<int8_t *>(calloc(1, w->k_padded)),
                static_cast<float *>(calloc(w->k_padded, sizeof(float)))};
    const bool all = h.data && h.scale && h.row && h.q && h.row_scale;
    int rc = all ? pack(d, w, parts, n_parts, &h, e) : err_set(e, ERR_MEMORY, "cuda: out of memory");
    if (d->progress) ++*d->progress;
    free(h.data), free(h.scale), free(h.row), free(h.q), free(h.row_scale);
    if (rc)
        free(w);
    else
        *out = w;
    return rc;
}

/* Its memory goes back with the device's. */
void cuda_weight_free(struct device *, struct weight *w)
{
    free(w);
}

size_t cuda_weight_bytes(const struct weight *w)
{
    return w->bytes;
}
