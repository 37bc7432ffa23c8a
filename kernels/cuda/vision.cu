/* The operations of the SigLIP encoder and of the connector; their attention is in attention_prefill.cu. All rows of tiles have the prefill
 * kernels' path. */
#include <string.h>

#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 128;

struct patches {
    const unsigned char *pixels; /* (tiles, 3, px, px) */
    bf16 *out;                   /* (tiles * grid * grid, ldo): [3][patch][patch] of normalised pixels, then zeros */
    size_t ldo;
    int px, patch, grid;
    float rescale, shift[3], scale[3];
};

/* A block a patch. */
__global__ void __launch_bounds__(THREADS) patch_kernel(const __grid_constant__ patches a)
{
    const int per_tile = a.grid * a.grid, tile = blockIdx.x / per_tile, p = blockIdx.x % per_tile, square = a.patch * a.patch;
    const int y0 = p / a.grid * a.patch, x0 = p % a.grid * a.patch;
    bf16 *out = a.out + size_t(blockIdx.x) * a.ldo;
    for (int i = threadIdx.x; i < int(a.ldo); i += THREADS) {
        const int c = i / square, y = y0 + i % square / a.patch, x = x0 + i % a.patch;
        float v = 0;
        if (c < 3) v = (float(a.pixels[(size_t(tile * 3 + c) * a.px + y) * a.px + x]) * a.rescale - a.shift[c]) / a.scale[c];
        out[i] = __float2bfloat16_rn(v);
    }
}

} // namespace

int cuda_patch_embed(struct device *d, const struct patch_args *a, struct err *e)
{
    const size_t bytes = a->n_tiles * 3 * a->tile_px * a->tile_px, positions = a->grid * a->grid, rows = a->n_tiles * positions;
    CHECK(bytes <= d->limits.tile_bytes && rows <= d->limits.vision_rows && a->w->n == a->dim && a->w->k == 3 * a->patch * a->patch);
    int rc = d->queued ? cuda_wait(d, e) : 0; /* the tile before may still be on its way */
    if (rc) return rc;
    memcpy(d->pixels_host, a->tiles, bytes);
    d->queued = true;
    rc = cuda_check(d, "a tile's pixels", cudaMemcpyAsync(d->pixels, d->pixels_host, bytes, cudaMemcpyHostToDevice, d->stream), e);
    if (rc) return rc;
    patches p = {d->pixels, d->operand, cuda_round_up(a->w->k, CUDA_K_PAD), int(a->tile_px), int(a->patch), int(a->grid), a->rescale, {}, {}};
    memcpy(p.shift, a->shift, sizeof p.shift);
    memcpy(p.scale, a->scale, sizeof p.scale);
    LAUNCH(patch_kernel, dim3(unsigned(rows)), dim3(THREADS), 0, d->stream, p);
    if ((rc = cuda_launched(d, "patches", e))) return rc;
    CHECK(a->n_tiles == 1); /* positions are added by row */
    struct cuda_rows in = {};
    rc = cuda_as_operand(d, d->operand, rows, a->w, &in, e);
    const struct cuda_linear l = {in, a->w, rows, a->dim, a->bias, a->x, CUDA_STORE, a->position, nullptr, nullptr, nullptr};
    return rc ? rc : cuda_linear_run(d, &l, 0, "patch embedding", e);
}

int cuda_vision_qkv(struct device *d, const struct vision_qkv_args *a, struct err *e)
{
    struct cuda_rows in = {};
    CHECK(a->w->n == 3 * a->dim && a->rows <= d->limits.vision_rows);
    int rc = cuda_layernorm(d, static_cast<const float *>(a->x), a->rows, a->norm_weight, a->norm_bias, a->eps, a->w, &in, e);
    const struct cuda_linear l = {in, a->w, a->rows, 3 * a->dim, a->bias, d->vision_qkv, CUDA_STORE_BF16, nullptr, nullptr, nullptr, nullptr};
    return rc ? rc : cuda_linear_run(d, &l, 0, "queries, keys, values of tiles", e);
}

int cuda_vision_up(struct device *d, const struct vision_up_args *a, struct err *e)
{
    struct cuda_rows in = {};
    CHECK(a->w->n == a->inter && a->rows <= d->limits.vision_rows);
    int rc = cuda_layernorm(d, static_cast<const float *>(a->x), a->rows, a->norm_weight, a->norm_bias, a->eps, a->w, &in, e);
    const struct cuda_linear l = {in, a->w, a->rows, cuda_round_up(a->inter, CUDA_K_PAD), a->bias, a->out, CUDA_GELU, nullptr, nullptr, nullptr, nullptr};
    return rc ? rc : cuda_linear_run(d, &l, 0, "mlp of tiles", e);
}

int cuda_connect(struct device *d, const struct connect_args *a, struct err *e)
{
    const size_t rows = a->n_tiles * (a->grid / a->scale) * (a->grid / a->scale);
    struct cuda_rows in = {};
    CHECK(a->grid % a->scale == 0 && a->w->k == a->dim * a->scale * a->scale && a->w->n == a->hidden);
    int rc = cuda_layernorm_shuffled(d, static_cast<const float *>(a->x), a->n_tiles, a->grid, a->scale, a->dim, a->norm_weight, a->norm_bias, a->eps,
                                     a->w, &in, e);
    const struct cuda_linear l = {in, a->w, rows, a->hidden, nullptr, a->out, CUDA_STORE, nullptr, nullptr, nullptr, nullptr};
    return rc ? rc : cuda_linear_run(d, &l, 0, "connector", e);
}
