/* A backend that computes nothing: every token is there at once. bench_host opens it to see what a step costs the host. */
#include <stdlib.h>

#include "kernels/ops.h"

struct device {
    int unused;
};
struct weight {
    size_t bytes;
};

static int open_device(struct device **out, const struct device_options *o, struct err *e)
{
    (void)o;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}
static void close_device(struct device *d)
{
    free(d);
}
static void describe(const struct device *d, char *out, size_t n)
{
    (void)d;
    if (n > 4) out[0] = 'n', out[1] = 'o', out[2] = 'n', out[3] = 'e', out[4] = '\0';
}
static size_t kv_block_tokens(const struct device *d)
{
    (void)d;
    return 64;
}
static uint64_t available(const struct device *d)
{
    (void)d;
    return UINT64_MAX;
}
static int reserve(struct device *d, const struct device_limits *l, struct err *e)
{
    return (void)d, (void)l, (void)e, 0;
}
static int alloc(struct device *d, size_t bytes, void **out, struct err *e)
{
    (void)d;
    *out = calloc(1, bytes ? bytes : 1);
    return *out ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}
static void release(struct device *d, void *p)
{
    (void)d;
    free(p);
}
static int move(struct device *d, void *dst, const void *src, size_t bytes, struct err *e)
{
    return (void)d, (void)dst, (void)src, (void)bytes, (void)e, 0;
}
static int sync_device(struct device *d, struct err *e)
{
    return (void)d, (void)e, 0;
}
static int weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols, const struct quant_format *quant,
                       struct weight **out, struct err *e)
{
    (void)d, (void)kind, (void)parts, (void)n_parts, (void)cols, (void)quant;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}
static void weight_free(struct device *d, struct weight *w)
{
    (void)d;
    free(w);
}
static size_t weight_bytes(const struct weight *w)
{
    return w->bytes;
}
static size_t kv_block_bytes(const struct kv_layout *l)
{
    return l->layers;
}
static int plan(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e)
{
    return (void)d, (void)p, (void)rope, (void)head_dim, (void)e, 0;
}
#define NOTHING(name, args)                                                                                                                \
    static int name(struct device *d, const struct args *a, struct err *e)                                                                 \
    {                                                                                                                                      \
        return (void)d, (void)a, (void)e, 0;                                                                                               \
    }
NOTHING(embed, embed_args)
NOTHING(qkv, qkv_args)
NOTHING(attention, attention_args)
NOTHING(project, project_args)
NOTHING(gate_up, gate_up_args)
NOTHING(head, head_args)
NOTHING(patch_embed, patch_args)
NOTHING(vision_qkv, vision_qkv_args)
NOTHING(vision_attention, vision_attention_args)
NOTHING(vision_up, vision_up_args)
NOTHING(connect_tile, connect_args)

static int sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e)
{
    (void)d, (void)e;
    for (size_t i = 0; i < n; i++) out[i].token = (int32_t)(rows[i].position * 7919u % vocab), out[i].logprob = 0, out[i].n_top = 0;
    return 0;
}

const struct ops *spillway_cuda_ops(unsigned version);
const struct ops *spillway_cuda_ops(unsigned version)
{
    static const struct ops table = {.name = "none",
                                     .fill_rows = 2048,
                                     .two_paths = true,
                                     .open = open_device,
                                     .close = close_device,
                                     .describe = describe,
                                     .kv_block_tokens = kv_block_tokens,
                                     .available = available,
                                     .reserve = reserve,
                                     .alloc = alloc,
                                     .free = release,
                                     .upload = move,
                                     .read_back = move,
                                     .copy = move,
                                     .sync = sync_device,
                                     .weight_pack = weight_pack,
                                     .weight_free = weight_free,
                                     .weight_bytes = weight_bytes,
                                     .kv_block_bytes = kv_block_bytes,
                                     .plan = plan,
                                     .embed = embed,
                                     .qkv = qkv,
                                     .attention = attention,
                                     .project = project,
                                     .gate_up = gate_up,
                                     .head = head,
                                     .sample = sample,
                                     .patch_embed = patch_embed,
                                     .vision_qkv = vision_qkv,
                                     .vision_attention = vision_attention,
                                     .vision_up = vision_up,
                                     .connect = connect_tile};
    return version == OPS_VERSION ? &table : NULL;
}
