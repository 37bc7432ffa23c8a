/* Chat requests: a body read as server/completion.c does it (JSON, parameters, messages, data: URLs, prompt) for a model that takes pictures
 * and one that does not. What is accepted is in range, and no byte of the request has become a control token: ids that the template did
 * not write itself are not special. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine/media/data_url.h"
#include "engine/media/decode.h"
#include "server/api/chat_params.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"model",
                                    "messages",
                                    "role",
                                    "content",
                                    "user",
                                    "assistant",
                                    "system",
                                    "developer",
                                    "tool",
                                    "function",
                                    "type",
                                    "text",
                                    "image_url",
                                    "url",
                                    "detail",
                                    "low",
                                    "high",
                                    "auto",
                                    "input_text",
                                    "input_image",
                                    "image",
                                    "refusal",
                                    "name",
                                    "tool_calls",
                                    "tool_call_id",
                                    "function_call",
                                    "reasoning_content",
                                    "temperature",
                                    "top_p",
                                    "top_k",
                                    "min_p",
                                    "n",
                                    "max_tokens",
                                    "max_completion_tokens",
                                    "min_tokens",
                                    "stop",
                                    "seed",
                                    "stream",
                                    "stream_options",
                                    "include_usage",
                                    "logprobs",
                                    "top_logprobs",
                                    "logit_bias",
                                    "frequency_penalty",
                                    "presence_penalty",
                                    "repetition_penalty",
                                    "ignore_eos",
                                    "chat_template_kwargs",
                                    "enable_thinking",
                                    "add_generation_prompt",
                                    "bos_token",
                                    "response_format",
                                    "tools",
                                    "tool_choice",
                                    "metadata",
                                    "store",
                                    "<|im_start|>",
                                    "<|im_end|>",
                                    "<image>",
                                    "<fake_token_around_image>",
                                    "<end_of_utterance>",
                                    "<row_1_col_1>",
                                    "100",
                                    "a b",
                                    "\xF0\x9F\x98\x80",
                                    "\xC3\xA9",
                                    "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return fuzz_mutate_json(p, n, max, seed, words);
}

static struct prompt_model *open_model(const char *name)
{
    char path[4096];
    struct prompt_model *m;
    struct err e;
    fuzz_source_path(path, name);
    if (prompt_model_open(&m, path, &e)) fuzz_failed(__FILE__, __LINE__, e.msg);
    return m;
}

static void check_params(const struct chat_params *p, const struct prompt_info *info)
{
    FUZZ_CHECK(p->temperature >= 0 && p->temperature <= 100 && p->top_p >= 0 && p->top_p <= 1 && p->min_p >= 0 && p->min_p <= 1);
    FUZZ_CHECK(p->n >= 1 && p->n <= CHAT_MAX_CHOICES && p->n_stops <= STOP_MAX_STRINGS && p->n_bias <= CHAT_MAX_BIAS);
    FUZZ_CHECK(p->max_tokens >= 0 && p->max_completion_tokens >= 0 && p->min_tokens >= 0 && p->top_logprobs >= 0 &&
               p->top_logprobs <= FRAME_MAX_TOP);
    for (uint32_t i = 0; i < p->n_bias; i++)
        FUZZ_CHECK(p->bias[i].token >= 0 && (uint32_t)p->bias[i].token < info->vocab && fabsf(p->bias[i].bias) <= 100);
    for (size_t i = 0; i < p->n_stops; i++) FUZZ_CHECK(p->stops[i].n >= 1 && p->stops[i].n <= STOP_MAX_BYTES);
}

/* One grid a picture, as the media process would tell; false when a picture is refused. */
static bool probe_pictures(const struct prompt_info *info, const struct prompt_messages *messages, struct image_grid *grids)
{
    struct buf bytes;
    struct err e = {0};
    int rc = 0;
    buf_init(&bytes, 1 << 20);
    for (size_t i = 0; i < messages->n_images && !rc; i++) {
        const struct prompt_image *im = &messages->images[i];
        struct image_info probed;
        FUZZ_CHECK(im->url && strncmp(im->param, "messages[", 9) == 0);
        rc = data_url_decode(im->url, im->n_url, 1 << 16, &bytes, &e);
        if (!rc) rc = image_probe((const uint8_t *)bytes.data, bytes.len, 1 << 20, &probed, &e);
        if (!rc) rc = image_grid_for(&info->images, probed.width, probed.height, im->detail_low, &grids[i], &e);
    }
    if (rc) fuzz_check_err(rc, &e);
    buf_free(&bytes);
    return rc == 0;
}

static size_t count_special(const struct tokenizer *t, const int32_t *ids, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += tokenizer_is_special(t, ids[i]);
    return k;
}

/* Special tokens in the ids are those that the template bytes alone make. */
static void check_prompt(const struct prompt_info *info, const struct prompt *p)
{
    for (size_t i = 0; i < p->n_ids; i++) FUZZ_CHECK(p->ids[i] >= 0 && p->ids[i] < tokenizer_size(info->tokenizer));
    FUZZ_CHECK(p->text.marks);
    char *own = malloc(p->text.n + 1);
    FUZZ_CHECK(own);
    for (size_t i = 0; i < p->text.n; i++) own[i] = p->text.marks[i] == MARK_TEMPLATE ? p->text.text[i] : '\n';
    own[p->text.n] = '\0';
    struct tokens t;
    struct err e;
    tokens_init(&t, 4 << 20);
    if (tokenizer_encode(info->tokenizer, (struct marked_text){own, NULL, p->text.n}, 0, &t, &e) == 0)
        FUZZ_CHECK(count_special(info->tokenizer, p->ids, p->n_ids) <= count_special(info->tokenizer, t.ids, t.n));
    tokens_free(&t);
    free(own);
}

static void make_prompt(const struct prompt_model *m, const struct prompt_info *info, const struct prompt_messages *messages,
                        const json_t *kwargs, struct arena *arena)
{
    struct image_grid grids[PROMPT_MAX_IMAGES];
    FUZZ_CHECK(messages->n_images <= PROMPT_MAX_IMAGES);
    if (!probe_pictures(info, messages, grids)) return;
    struct prompt_options o = {.grids = grids, .n_grids = messages->n_images, .kwargs = kwargs, .max_context = info->max_context};
    struct prompt p;
    struct err e = {0};
    o.now.tm_mday = 1, o.now.tm_year = 126;
    int rc = prompt_from_messages(m, messages, &o, arena, &p, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        check_prompt(info, &p);
}

static void read_request(const struct prompt_model *m, const uint8_t *p, size_t n)
{
    const struct prompt_info *info = prompt_model_info(m);
    struct chat_params params;
    struct prompt_messages messages = {0};
    struct arena arena;
    const struct prompt_bounds bounds = {.messages = 100, .images = 4};
    struct limits limits;
    struct err e = {0};
    json_t *v;
    limits_init(&limits);
    arena_init(&arena, 256u << 20);
    int rc = json_read((const char *)p, n, &json_limits_request, "request body", &v, &e);
    if (!rc && !json_is_object(v)) rc = err_set(&e, ERR_INPUT, "not an object");
    if (!rc) rc = chat_params_read(&params, v, info, &arena, &e);
    if (!rc) check_params(&params, info);
    if (!rc) rc = chat_params_check(&params, &limits, &e);
    if (!rc) rc = prompt_messages_read(m, json_object_get(v, "messages"), 0, &bounds, &arena, &messages, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        make_prompt(m, info, &messages, params.kwargs, &arena);
    prompt_messages_free(&messages);
    arena_free(&arena);
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct prompt_model *models[2];
    if (!models[0]) models[0] = open_model("tests/parity/golden/models/smolvlm2-bf16");
    if (!models[1]) models[1] = open_model("tests/parity/golden/models/smollm3-bf16");
    for (size_t i = 0; i < 2; i++) read_request(models[i], p, n);
    return 0;
}
