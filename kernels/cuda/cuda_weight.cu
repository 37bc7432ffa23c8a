/* Weights: from a checkpoint's rows to what products read (linear.cu, linear_quant.cu). Packed on the host by several threads into one of two pinned
 * buffers, while the other is on its way to the device. A thread takes 16 outputs at a time: they lie side by side in every form. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

namespace {

/* The row of a checkpoint that packed output o is; part NULL: none, it is padding. */
struct source {
    const struct weight_part *part;
    size_t row;
};

source source_of(enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t o)
{
    if (kind == PACK_GATE_UP) {
        const size_t row = o / 16 * 8 + o % 8;
        return {row < parts[0].rows ? &parts[o / 8 % 2] : nullptr, row};
    }
    for (size_t i = 0; i < n_parts; o -= parts[i++].rows) {
        const size_t hd = parts[i].head_dim;
        if (o >= parts[i].rows) continue;
        if (kind != PACK_QKV) return {&parts[i], o};
        return {&parts[i], o / hd * hd + o % 16 / 8 * (hd / 2) + o % hd / 16 * 8 + o % 8};
    }
    return {nullptr, 0};
}

/* Where outputs are packed into, and what a thread needs besides. */
struct packed {
    unsigned char *data; /* of the outputs from `first` on */
    size_t first;
    unsigned char *scale; /* of the whole weight */
    float *row, *row_scale;
    int8_t *q;
};

void put_bf16(const struct weight *w, const struct weight_part *p, size_t r, size_t to, const packed *h)
{
    bf16 *row = reinterpret_cast<bf16 *>(h->data) + (to - h->first) * w->k_padded;
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
        const size_t tile = (o - h->first) / 16 * tiles + k / 32;
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

/* Outputs first .. end of a weight, packed by all threads. */
struct job {
    const struct weight *w;
    const struct weight_part *parts;
    size_t n_parts, end, next; /* next: of those that nobody has taken, for atomics */
    packed to;
    bool out_of_memory;
};

size_t output_bytes(const struct weight *w)
{
    return w->k_padded * (w->quant.bits ? w->quant.bits : 16) / 8;
}

void *pack_some(void *arg)
{
    job *j = static_cast<job *>(arg);
    const struct weight *w = j->w;
    packed h = j->to;
    h.row = static_cast<float *>(calloc(w->k_padded, sizeof(float))), h.row_scale = static_cast<float *>(calloc(w->k_padded, sizeof(float)));
    h.q = static_cast<int8_t *>(calloc(1, w->k_padded));
    if (!h.row || !h.row_scale || !h.q) __atomic_store_n(&j->out_of_memory, true, __ATOMIC_RELAXED);
    for (size_t o; h.row && h.row_scale && h.q && (o = __atomic_fetch_add(&j->next, CUDA_N_PAD, __ATOMIC_RELAXED)) < j->end;) {
        memset(h.data + (o - h.first) * output_bytes(w), 0, CUDA_N_PAD * output_bytes(w));
        for (size_t i = o; i < o + CUDA_N_PAD; i++) {
            const source s = source_of(w->kind, j->parts, j->n_parts, i);
            if (s.part) (w->quant.bits ? put_quant : put_bf16)(w, s.part, s.row, i, &h);
        }
    }
    free(h.row), free(h.row_scale), free(h.q);
    return nullptr;
}

/* Little work is done by the calling thread alone. */
void pack_all(job *j, size_t threads)
{
    pthread_t other[CUDA_PACK_THREADS];
    size_t n = 0;
    const size_t pieces = (j->end - j->to.first) * output_bytes(j->w) / (size_t(256) << 10);
    while (n + 1 < threads && n < pieces && pthread_create(&other[n], nullptr, pack_some, j) == 0) n++;
    pack_some(j);
    while (n > 0) pthread_join(other[--n], nullptr);
}

/* A pinned buffer that nothing is copied from any more. */
int buffer_take(struct device *d, unsigned char **out, struct err *e)
{
    struct cuda_load *l = &d->load;
    int rc = 0;
    l->now = !l->now;
    if (!l->buffer[l->now]) {
        rc = cuda_check(d, "memory of loading", cudaMallocHost(reinterpret_cast<void **>(&l->buffer[l->now]), CUDA_LOAD_BYTES), e);
        if (!rc) rc = cuda_check(d, "loading", cudaEventCreateWithFlags(&l->copied[l->now], cudaEventDisableTiming), e);
    } else {
        rc = cuda_check(d, "loading", cudaEventSynchronize(l->copied[l->now]), e);
    }
    *out = l->buffer[l->now];
    return rc;
}

int buffer_send(struct device *d, void *to, size_t bytes, struct err *e)
{
    struct cuda_load *l = &d->load;
    int rc = cuda_check(d, "loading", cudaMemcpyAsync(to, l->buffer[l->now], bytes, cudaMemcpyHostToDevice, d->stream), e);
    return rc ? rc : cuda_check(d, "loading", cudaEventRecord(l->copied[l->now], d->stream), e);
}

int send_outputs(struct device *d, job *j, struct err *e)
{
    const struct weight *w = j->w;
    const size_t n = cuda_round_up(w->n, CUDA_N_PAD), each = output_bytes(w), most = CUDA_LOAD_BYTES / each / CUDA_N_PAD * CUDA_N_PAD;
    int rc = 0;
    CHECK(most > 0);
    for (size_t o = 0; o < n && !rc; o = j->end) {
        rc = buffer_take(d, &j->to.data, e);
        if (rc) break;
        j->to.first = j->next = o, j->end = n - o < most ? n : o + most;
        pack_all(j, d->pack_threads);
        if (j->out_of_memory) return err_set(e, ERR_MEMORY, "cuda: out of memory");
        rc = buffer_send(d, static_cast<unsigned char *>(w->data) + o * each, (j->end - o) * each, e);
    }
    return rc;
}

int send_bytes(struct device *d, void *to, const unsigned char *from, size_t bytes, struct err *e)
{
    int rc = 0;
    for (size_t at = 0, n; at < bytes && !rc; at += n) {
        unsigned char *buffer;
        n = bytes - at < CUDA_LOAD_BYTES ? bytes - at : size_t(CUDA_LOAD_BYTES);
        rc = buffer_take(d, &buffer, e);
        if (rc) break;
        memcpy(buffer, from + at, n);
        rc = buffer_send(d, static_cast<unsigned char *>(to) + at, n, e);
    }
    return rc;
}

int pack(struct device *d, struct weight *w, const struct weight_part *parts, size_t n_parts, unsigned char *scale, struct err *e)
{
    job j = {w, parts, n_parts, 0, 0, {}, false};
    j.to.scale = scale;
    int rc = cuda_region_take(d, w->bytes - scale_bytes(w), &w->data, e);
    if (!rc && w->quant.bits) rc = cuda_region_take(d, scale_bytes(w), &w->scale, e);
    if (!rc) rc = send_outputs(d, &j, e);
    return rc ? rc : send_bytes(d, w->scale, scale, scale_bytes(w), e);
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
    for (size_t i = 0; i < n_parts && kind == PACK_QKV; i++) CHECK(parts[i].head_dim % 16 == 0 && parts[i].rows % parts[i].head_dim == 0);
    w->bytes = cuda_round_up(w->n, CUDA_N_PAD) * output_bytes(w) + scale_bytes(w);
    unsigned char *scale = static_cast<unsigned char *>(calloc(1, scale_bytes(w) + 1));
    int rc = scale ? pack(d, w, parts, n_parts, scale, e) : err_set(e, ERR_MEMORY, "cuda: out of memory");
    if (!rc) rc = cuda_lt_pack(d, w, e);
    if (d->progress) ++*d->progress;
    free(scale);
    if (rc)
        free(w);
    else
        *out = w;
    return rc;
}

void cuda_load_close(struct device *d)
{
    for (int i = 0; i < 2; i++) {
        if (d->load.buffer[i]) cudaFreeHost(d->load.buffer[i]);
        if (d->load.copied[i]) cudaEventDestroy(d->load.copied[i]);
    }
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
