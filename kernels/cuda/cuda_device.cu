/* CUDA: the device, its memory, and the table. One stream; everything of a step is queued on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda.cuh"

/* Weights and scratch lie in regions, as a device allocation of its own would waste up to 2 MiB. */
struct cuda_region {
    struct cuda_region *next;
    unsigned char *base;
    size_t used, bytes;
};

namespace {

constexpr size_t REGION_LEAST = size_t(2) << 20, REGION_MOST = size_t(64) << 20, ALIGN = 256;

thread_local int gpu_of_thread = -1;

cudaError_t use_gpu(int gpu)
{
    const cudaError_t rc = gpu == gpu_of_thread ? cudaSuccess : cudaSetDevice(gpu);
    if (rc == cudaSuccess) gpu_of_thread = gpu;
    return rc;
}

/* What is no mistake of ours: the device is lost, and its process with it. */
bool is_lost(cudaError_t rc)
{
    return rc != cudaErrorMemoryAllocation && rc != cudaErrorInvalidValue && rc != cudaErrorInvalidConfiguration;
}

int take_bytes(struct device *d, const char *what, size_t bytes, void **out, struct err *e)
{
    size_t free_bytes = 0, all = 0;
    cudaError_t rc = cudaMalloc(out, bytes);
    if (rc == cudaSuccess) return 0;
    *out = nullptr;
    if (rc != cudaErrorMemoryAllocation) return cuda_check(d, what, rc, e);
    cudaGetLastError(); /* it is told here */
    if (cudaMemGetInfo(&free_bytes, &all) != cudaSuccess) free_bytes = all = 0;
    return err_set(e, ERR_MEMORY, "cuda: %s need %zu MiB of device memory, %zu of %zu MiB are free", what, (bytes >> 20) + 1, free_bytes >> 20, all >> 20);
}

void close_device(struct device *d)
{
    if (!d) return;
    if (d->stream) cuda_wait(d, nullptr);
    cuda_graph_close(d);
    cuda_lt_close(d);
    cuda_load_close(d);
    cuda_group_close(d);
    cuda_sample_close(d);
    while (d->regions) {
        struct cuda_region *r = d->regions;
        d->regions = r->next;
        cudaFree(r->base);
        free(r);
    }
    if (d->staging) cudaFreeHost(d->staging);
    if (d->pixels_host) cudaFreeHost(d->pixels_host);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d->slot);
    free(d);
}

int open_device(struct device *d, const struct device_options *o, struct err *e)
{
    int n = 0, has = 0, needs = 0;
    cudaDeviceProp p;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaErrorInsufficientDriver && cudaDriverGetVersion(&has) == cudaSuccess && cudaRuntimeGetVersion(&needs) == cudaSuccess) {
        if (!has) return err_set(e, ERR_UNSUPPORTED, "cuda: no device: NVIDIA's driver is not there (a container is given it by --gpus)");
        return err_set(e, ERR_UNSUPPORTED, "cuda: the driver is too old: it is for CUDA %d.%d, and %d.%d is needed", has / 1000, has % 1000 / 10, needs / 1000,
                       needs % 1000 / 10);
    }
    if (rc != cudaSuccess || n == 0) return err_set(e, ERR_UNSUPPORTED, "cuda: no device: %s", rc == cudaSuccess ? "none is there" : cudaGetErrorString(rc));
    if (o->compute != COMPUTE_BF16) return err_set(e, ERR_UNSUPPORTED, "cuda: computes in bf16 only; use --device cpu for float32");
    if (o->gpu < 0 || o->gpu >= n)
        return err_set(e, ERR_UNSUPPORTED, "cuda: --gpus: %d is not there, %d %s", o->gpu, n, n == 1 ? "device is" : "devices are");
    d->gpu = o->gpu;
    if ((rc = use_gpu(d->gpu)) == cudaSuccess) rc = cudaGetDeviceProperties(&p, d->gpu);
    if (rc != cudaSuccess) return cuda_check(d, "device", rc, e);
    if (p.major < 8) return err_set(e, ERR_UNSUPPORTED, "cuda: %s has compute capability %d.%d; 8.0 is the least", p.name, p.major, p.minor);
    d->n_sm = p.multiProcessorCount;
    d->early = p.major >= 9;
    snprintf(d->name, sizeof d->name, "%.60s, %d SMs, sm_%d%d", p.name, d->n_sm, p.major, p.minor);
    d->fast = o->fast;
    if (d->fast) cuda_lt_open(d);
    int done = cuda_check(d, "stream", cudaStreamCreate(&d->stream), e);
    return done ? done : cuda_group_open(d, o->group, e);
}

int open(struct device **out, const struct device_options *o, struct err *e)
{
    *out = nullptr;
    struct device *d = static_cast<struct device *>(calloc(1, sizeof *d));
    if (!d) return err_set(e, ERR_MEMORY, "cuda: out of memory");
    d->progress = o->progress;
    const long cores = o->threads > 0 ? o->threads : sysconf(_SC_NPROCESSORS_ONLN);
    d->pack_threads = cores < 1 ? 1 : cores > CUDA_PACK_THREADS ? size_t(CUDA_PACK_THREADS) : size_t(cores);
    int rc = open_device(d, o, e);
    if (rc)
        close_device(d);
    else
        *out = d;
    return rc;
}

void describe(const struct device *d, char *out, size_t n)
{
    if (d->fast)
        snprintf(out, n, "cuda:%d (%s; fast, %s%s)", d->gpu, d->name, d->lt ? "" : "own products alone: ", d->lt_state);
    else
        snprintf(out, n, "cuda:%d (%s)", d->gpu, d->name);
}

void bus_id(const struct device *d, char *out, size_t n)
{
    if (cudaDeviceGetPCIBusId(out, int(n), d->gpu) != cudaSuccess) *out = '\0';
}

size_t kv_block_tokens(const struct device *)
{
    return CUDA_KV_BLOCK;
}

uint64_t available(const struct device *d)
{
    size_t free_bytes, all;
    return use_gpu(d->gpu) == cudaSuccess && cudaMemGetInfo(&free_bytes, &all) == cudaSuccess ? free_bytes : UINT64_MAX;
}

size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

int reserve(struct device *d, const struct device_limits *l, struct err *e)
{
    d->limits = *l;
    d->max_tasks = larger(size_t(CUDA_TASKS), (l->max_blocks_per_sequence * CUDA_KV_BLOCK + CUDA_KV_SPLIT - 1) / CUDA_KV_SPLIT);
    const size_t text_k = cuda_round_up(l->hidden, CUDA_K_PAD), vision_k = cuda_round_up(larger(l->vision_dim, l->patch_in), CUDA_K_PAD);
    const size_t positions = l->vision_rows, connector = cuda_round_up(l->connector_in, CUDA_K_PAD);
    const size_t connector_rows = l->connector_in ? positions * l->vision_dim / l->connector_in : 0;
    const size_t operand = larger(larger(l->max_rows * text_k, positions * vision_k), connector_rows * connector);
    const size_t qkv = l->max_rows * (l->heads + 2 * l->kv_heads) * l->head_dim;
    const size_t parts = d->max_tasks * l->heads * (l->head_dim + 2);
    int rc = cuda_region_take(d, operand * sizeof(bf16), reinterpret_cast<void **>(&d->operand), e);
    const size_t wide_k = cuda_round_up(larger(larger(l->inter, l->vision_inter), larger(l->heads * l->head_dim, larger(l->hidden, l->connector_in))), QUANT_MAX_STEP);
    const size_t q_rows = larger(l->max_rows, positions), q_k = larger(wide_k, cuda_round_up(larger(l->vision_dim, l->patch_in), QUANT_MAX_STEP));
    d->q_pitch = cuda_round_up(q_rows + 8, 64); /* the last rows' scales are read in eights */
    if (!rc) rc = cuda_region_take(d, q_rows * q_k, reinterpret_cast<void **>(&d->q_operand), e);
    if (!rc) rc = cuda_region_take(d, q_k / 32 * d->q_pitch * sizeof(float), reinterpret_cast<void **>(&d->q_scale), e);
    if (!rc) rc = cuda_region_take(d, qkv * sizeof(float), reinterpret_cast<void **>(&d->qkv), e);
    if (!rc) rc = cuda_region_take(d, parts * sizeof(float), reinterpret_cast<void **>(&d->parts), e);
    if (!rc && positions) rc = cuda_region_take(d, positions * 3 * l->vision_dim * sizeof(bf16), reinterpret_cast<void **>(&d->vision_qkv), e);
    if (!rc && positions) rc = cuda_region_take(d, l->tile_bytes, reinterpret_cast<void **>(&d->pixels), e);
    if (!rc && positions) rc = cuda_check(d, "memory of tiles", cudaMallocHost(reinterpret_cast<void **>(&d->pixels_host), l->tile_bytes), e);
    if (!rc) rc = cuda_lt_reserve(d, e);
    if (!rc) rc = cuda_plan_reserve(d, e);
    return rc ? rc : cuda_sample_reserve(d, e);
}

int alloc(struct device *d, size_t bytes, void **out, struct err *e)
{
    int rc = take_bytes(d, "cache and rows", bytes ? bytes : 1, out, e);
    return rc ? rc : cuda_check(d, "memory", cudaMemsetAsync(*out, 0, bytes, d->stream), e);
}

void release(struct device *, void *p)
{
    cudaFree(p);
}

int read_back(struct device *d, void *dst, const void *src, size_t bytes, struct err *e)
{
    int rc = d->group ? cuda_wait(d, e) : 0; /* the copy itself would wait for a collective, without end */
    if (!rc) rc = cuda_check(d, "reading back", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, d->stream), e);
    return rc ? rc : cuda_wait(d, e);
}

int copy(struct device *d, void *dst, const void *src, size_t bytes, struct err *e)
{
    return cuda_check(d, "copy", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, d->stream), e);
}

int sync_device(struct device *d, struct err *e)
{
    return cuda_wait(d, e);
}

} // namespace

int cuda_check(struct device *d, const char *what, cudaError_t rc, struct err *e)
{
    if (rc == cudaSuccess) return 0;
    cuda_graph_abandon(d);
    cudaGetLastError(); /* it is told here, and not by the next launch as its own */
    return err_set(e, is_lost(rc) ? ERR_GONE : ERR_INTERNAL, "cuda: %s: %s", what, cudaGetErrorString(rc));
}

int cuda_wait(struct device *d, struct err *e)
{
    d->queued = false;
    if (d->group) return cuda_group_wait(d, e);
    return cuda_check(d, "step", cudaStreamSynchronize(d->stream), e);
}

/* The source may be written again when it returns. */
int cuda_upload(struct device *d, void *dst, const void *src, size_t bytes, struct err *e)
{
    int rc = cuda_check(d, "upload", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, d->stream), e);
    return rc ? rc : cuda_wait(d, e);
}

int cuda_region_take(struct device *d, size_t bytes, void **out, struct err *e)
{
    bytes = cuda_round_up(bytes ? bytes : 1, ALIGN);
    struct cuda_region *r = d->regions;
    if (!r || r->bytes - r->used < bytes) {
        void *base;
        size_t size = r ? 2 * r->bytes : REGION_LEAST; /* a small model takes little */
        if (size > REGION_MOST) size = REGION_MOST;
        if (size < bytes) size = bytes;
        int rc = take_bytes(d, "weights and scratch", size, &base, e);
        if (rc) return rc;
        r = static_cast<struct cuda_region *>(calloc(1, sizeof *r));
        if (!r) {
            cudaFree(base);
            return err_set(e, ERR_MEMORY, "cuda: out of memory");
        }
        *r = {d->regions, static_cast<unsigned char *>(base), 0, size};
        d->regions = r;
    }
    *out = r->base + r->used;
    r->used += bytes;
    return 0;
}

/* cudaSetDevice holds for the thread that calls it, and any thread may call an operation: so each row of the table sees to it. */
template <auto F> struct on_device;
template <class R, class... A, R (*F)(struct device *, A...)> struct on_device<F> {
    static R call(struct device *d, A... a)
    {
        if (d) (void)use_gpu(d->gpu); /* what is wrong with it the call itself finds */
        return F(d, a...);
    }
};
#define ON(f) on_device<f>::call

static const struct ops *table(void)
{
    static struct ops t;
    t.name = "cuda", t.fill_rows = 2048, t.two_paths = true;
    t.open = open, t.close = ON(close_device), t.describe = describe, t.kv_block_tokens = kv_block_tokens, t.available = available, t.bus_id = bus_id;
    t.reserve = ON(reserve);
    t.alloc = ON(alloc), t.free = ON(release), t.upload = ON(cuda_upload), t.read_back = ON(read_back), t.copy = ON(copy), t.sync = ON(sync_device);
    t.weight_pack = ON(cuda_weight_pack), t.weight_free = ON(cuda_weight_free);
    t.weight_bytes = cuda_weight_bytes, t.kv_block_bytes = cuda_kv_block_bytes;
    t.plan = ON(cuda_plan), t.embed = ON(cuda_embed), t.qkv = ON(cuda_qkv), t.attention = ON(cuda_attention), t.project = ON(cuda_project);
    t.gate_up = ON(cuda_gate_up), t.head = ON(cuda_head), t.sample = ON(cuda_sample), t.sampled = ON(cuda_sampled);
    t.patch_embed = ON(cuda_patch_embed), t.vision_qkv = ON(cuda_vision_qkv), t.vision_attention = ON(cuda_vision_attention);
    t.vision_up = ON(cuda_vision_up), t.connect = ON(cuda_connect);
    t.group_id = cuda_group_id, t.all_reduce = ON(cuda_all_reduce);
    return &t;
}

/* What the program looks up in the library. */
extern "C" const struct ops *spillway_cuda_ops(unsigned version);
const struct ops *spillway_cuda_ops(unsigned version)
{
    return version == OPS_VERSION ? table() : nullptr;
}
