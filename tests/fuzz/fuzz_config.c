/* A model folder's small files: config.json by the engine's reader, and config.json, generation_config.json, preprocessor_config.json,
 * tokenizer_config.json, special_tokens_map.json and chat_template.json by the gateway's. The input is one JSON object with a member a file,
 * which keeps the mutator's changes well-formed; malformed text is fuzz_body's. A string is a file's text as it is. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "engine/families/families.h"
#include "engine/prompt.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"config",
                                    "generation_config",
                                    "preprocessor_config",
                                    "tokenizer_config",
                                    "special_tokens_map",
                                    "chat_template",
                                    "architectures",
                                    "LlamaForCausalLM",
                                    "SmolLM3ForCausalLM",
                                    "Idefics3ForConditionalGeneration",
                                    "SmolVLMForConditionalGeneration",
                                    "text_config",
                                    "vision_config",
                                    "hidden_size",
                                    "num_hidden_layers",
                                    "num_attention_heads",
                                    "num_key_value_heads",
                                    "head_dim",
                                    "intermediate_size",
                                    "vocab_size",
                                    "max_position_embeddings",
                                    "rms_norm_eps",
                                    "rope_theta",
                                    "rope_scaling",
                                    "rope_parameters",
                                    "rope_type",
                                    "yarn",
                                    "factor",
                                    "original_max_position_embeddings",
                                    "beta_fast",
                                    "beta_slow",
                                    "attention_factor",
                                    "no_rope_layers",
                                    "no_rope_layer_interval",
                                    "layer_types",
                                    "full_attention",
                                    "tie_word_embeddings",
                                    "hidden_act",
                                    "silu",
                                    "gelu_pytorch_tanh",
                                    "image_size",
                                    "patch_size",
                                    "scale_factor",
                                    "image_token_id",
                                    "eos_token_id",
                                    "do_sample",
                                    "temperature",
                                    "top_p",
                                    "top_k",
                                    "min_p",
                                    "repetition_penalty",
                                    "size",
                                    "longest_edge",
                                    "max_image_size",
                                    "image_mean",
                                    "image_std",
                                    "rescale_factor",
                                    "resample",
                                    "do_image_splitting",
                                    "quantization_config",
                                    "compressed-tensors",
                                    "float-quantized",
                                    "config_groups",
                                    "weights",
                                    "input_activations",
                                    "strategy",
                                    "channel",
                                    "token",
                                    "dynamic",
                                    "bos_token",
                                    "content",
                                    "added_tokens_decoder",
                                    "{{ messages[0].content }}",
                                    "default",
                                    "name",
                                    "template",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return fuzz_mutate_json(p, n, max, seed, words);
}

/* The folder is in memory: the linker sends all reading of whole files here (base/buf.h), which saves most of an execution's time. */
static struct {
    const char *name;
    struct buf text;
    bool there;
} folder[] = {{"config.json", {0}, false},           {"generation_config.json", {0}, false},  {"preprocessor_config.json", {0}, false},
              {"tokenizer_config.json", {0}, false}, {"special_tokens_map.json", {0}, false}, {"chat_template.json", {0}, false},
              {"tokenizer.json", {0}, false}};
enum { N_FILES = sizeof folder / sizeof *folder };

int __wrap_buf_read_file(struct buf *b, const char *path, struct err *e);
int __wrap_buf_read_file(struct buf *b, const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    for (int i = 0; i < N_FILES; i++)
        if (slash && folder[i].there && strcmp(folder[i].name, slash + 1) == 0)
            return buf_append(b, folder[i].text.data, folder[i].text.len) ? err_set(e, ERR_LIMIT, "%s: too long", path) : 0;
    return err_set(e, ERR_NOT_FOUND, "%s: is not there", path);
}

static void put_text(const char *name, const char *p, size_t n)
{
    for (int i = 0; i < N_FILES; i++) {
        if (strcmp(folder[i].name, name)) continue;
        buf_init(&folder[i].text, 1 << 20);
        folder[i].there = true;
        FUZZ_CHECK(buf_append(&folder[i].text, p, n) == 0);
    }
}

/* NULL: as if it were not there. */
static void put_file(const json_t *v, const char *name)
{
    static char text[1 << 16];
    if (json_is_string(v)) {
        put_text(name, json_string_value(v), json_string_length(v));
    } else if (v) {
        size_t n = json_dumpb(v, text, sizeof text, JSON_COMPACT | JSON_ENCODE_ANY);
        put_text(name, text, n < sizeof text ? n : 0);
    }
}

static void empty_folder(void)
{
    for (int i = 0; i < N_FILES; i++) {
        buf_free(&folder[i].text);
        folder[i].there = false;
    }
}

/* What the engine computes with. */
static void check_config(const struct model_config *c)
{
    const struct text_config *t = &c->text;
    FUZZ_CHECK(c->family && t->heads && t->kv_heads && t->heads % t->kv_heads == 0 && t->layers && t->layers <= CONFIG_MAX_LAYERS);
    FUZZ_CHECK(t->head_dim && t->head_dim <= CONFIG_MAX_HEAD_DIM && t->head_dim % 16 == 0);
    FUZZ_CHECK(isfinite(t->norm_eps) && t->norm_eps > 0 && isfinite(t->rope_scale) && t->rope_scale > 0);
    for (uint32_t j = 0; j < t->head_dim / 2; j++) FUZZ_CHECK(isfinite(t->inv_freq[j]) && t->inv_freq[j] >= 0);
    FUZZ_CHECK(!c->family->vision || (c->vision.grid && c->vision.scale && c->vision.grid % c->vision.scale == 0 && c->vision.heads));
    FUZZ_CHECK(c->image_token >= -1 && c->image_token < (int64_t)t->vocab);
}

static void check_prompt_model(const struct prompt_model *m)
{
    const struct prompt_info *i = prompt_model_info(m);
    struct err e;
    FUZZ_CHECK(i->tokenizer && i->vocab > 0 && i->max_context > 1);
    FUZZ_CHECK(!i->has_images || (image_settings_check(&i->images, &e) == 0 && i->image_token >= 0));
    for (uint32_t k = 0; k < i->n_eos; k++) FUZZ_CHECK(i->eos[k] >= 0 && (uint32_t)i->eos[k] < i->vocab);
    const struct prompt_defaults *d = &i->defaults;
    FUZZ_CHECK(isfinite(d->temperature) && d->temperature >= 0 && d->top_p >= 0 && d->top_p <= 1 && d->min_p >= 0 && d->min_p <= 1 &&
               d->top_k >= 0 && d->repetition_penalty > 0);
    if (!i->has_images) return;
    static const int sizes[][2] = {{1, 1}, {640, 480}, {65535, 1}, {1, 65535}, {65535, 65535}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct image_grid g;
        if (image_grid_for(&i->images, sizes[k][0], sizes[k][1], false, &g, &e)) continue;
        FUZZ_CHECK(g.n_tiles >= 1 && g.n_tiles <= IMAGE_MAX_TILES && g.w2 > 0 && g.h2 > 0);
        FUZZ_CHECK(g.rows ? g.rows * g.cols + 1 == g.n_tiles && g.w2 == g.cols * i->images.tile_px : g.n_tiles == 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char tokenizer[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},\"pre_tokenizer\":"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}}";
    log_setup(LOG_ERROR, "fuzz"); /* a warning for every other input is too much */
    json_t *all = json_loadb((const char *)p, n, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(all)) {
        json_decref(all);
        return 0;
    }
    struct err e = {0};
    struct model_config c;
    int rc = config_read(&c, json_object_get(all, "config"), families, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        check_config(&c);
    put_text("tokenizer.json", tokenizer, sizeof tokenizer - 1);
    put_file(json_object_get(all, "config"), "config.json");
    put_file(json_object_get(all, "generation_config"), "generation_config.json");
    put_file(json_object_get(all, "preprocessor_config"), "preprocessor_config.json");
    put_file(json_object_get(all, "tokenizer_config"), "tokenizer_config.json");
    put_file(json_object_get(all, "special_tokens_map"), "special_tokens_map.json");
    put_file(json_object_get(all, "chat_template"), "chat_template.json");
    struct prompt_model *m;
    e = (struct err){0};
    rc = prompt_model_open(&m, "/model", &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        check_prompt_model(m);
    prompt_model_close(m);
    empty_folder();
    json_decref(all);
    return 0;
}
