/* Prompt model: opens what prompts need of a model folder. Start at prompt_model_open.
 *
 * How a template wants `content` is found out by rendering one message both ways and looking for its text: SmolVLM's
 * templates walk over a list of parts (a plain string renders as nothing, without an error), SmolLM's concatenate a
 * string (a list raises, or prints as a Python list). What the request sent is kept if the template takes it. */
#include "engine/prompt_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int field_error(struct err *e, const char *dir, const char *file, const char *field, const char *msg)
{
    return err_set(e, ERR_INPUT, "%.200s/%s: %s %s", dir, file, field, msg);
}

static int path_join(struct buf *b, const char *dir, const char *name, struct err *e)
{
    buf_clear(b);
    return buf_printf(b, "%s/%s", dir, name) ? err_set(e, ERR_LIMIT, "%.200s: path is too long", dir) : 0;
}

/* *out stays NULL when there is no such file. */
static int read_optional(const char *dir, const char *name, json_t **out, struct err *e)
{
    struct buf path;
    buf_init(&path, 4096);
    *out = NULL;
    int rc = path_join(&path, dir, name, e);
    if (!rc) rc = json_read_file(path.data, &json_limits_file, out, e);
    if (rc == -ERR_NOT_FOUND) rc = 0;
    if (!rc && *out && !json_is_object(*out)) rc = err_set(e, ERR_INPUT, "%s: is not a JSON object", path.data);
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    buf_free(&path);
    return rc;
}

/* Special tokens by name ("bos_token": a string, or an added token with its content), as transformers hands them to
 * templates. */
static int add_special_tokens(json_t *variables, const json_t *file)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *v = json_object_get(file, names[i]);
        if (json_is_object(v)) v = json_object_get(v, "content");
        if (json_is_string(v) && !json_object_get(variables, names[i]) && json_object_set(variables, names[i], v)) return -ERR_MEMORY;
    }
    return 0;
}

static int open_variables(struct prompt_model *m, const char *dir, struct err *e)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    m->variables = json_pack("{s:b}", "add_generation_prompt", 1);
    int rc = m->variables ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; !rc && i < 2; i++) {
        json_t *file;
        rc = read_optional(dir, files[i], &file, e);
        if (!rc && add_special_tokens(m->variables, file)) rc = err_set(e, ERR_MEMORY, "out of memory");
        json_decref(file);
    }
    return rc;
}

static const char probe_text[] = "Probe7Text";

/* Whether the template prints the probe's text and nothing of the form it came in. Takes ownership of content. */
static bool renders(const struct prompt_model *m, json_t *content)
{
    struct arena arena;
    struct marked_text text;
    struct err ignored;
    arena_init(&arena, 64 << 20);
    json_t *request = json_pack("{s:[{s:s, s:o}]}", "messages", "role", "user", "content", content);
    struct template_input in = {.request = request, .model = m->variables};
    in.now.tm_mday = 1;
    bool ok = request && template_render(m->template, &in, &arena, &text, &ignored) == 0;
    if (ok)
        ok = memmem(text.text, text.n, probe_text, strlen(probe_text)) && !memmem(text.text, text.n, "'type'", 6) &&
             !memmem(text.text, text.n, "\"type\"", 6);
    json_decref(request);
    arena_free(&arena);
    return ok;
}

/* A template of tokenizer_config.json is a string, or a list of {name, template}, of which "default" is taken. */
static const json_t *template_of(const json_t *file)
{
    const json_t *t = json_object_get(file, "chat_template");
    for (size_t i = 0; json_is_array(t) && i < json_array_size(t); i++) {
        const json_t *one = json_array_get(t, i), *name = json_object_get(one, "name");
        if (json_is_string(name) && !strcmp(json_string_value(name), "default")) return json_object_get(one, "template");
    }
    return t;
}

/* The three places of a chat template, the first that is there: chat_template.jinja, chat_template.json,
 * tokenizer_config.json. *found tells which; NULL: none, a base model. */
static int read_template(const char *dir, struct buf *source, const char **found, struct err *e)
{
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json"};
    struct buf path;
    buf_init(&path, 4096);
    *found = "chat_template.jinja";
    int rc = path_join(&path, dir, *found, e);
    if (!rc) rc = buf_read_file(source, path.data, e);
    buf_free(&path);
    if (rc != -ERR_NOT_FOUND) return rc;
    rc = 0;
    *found = NULL;
    for (size_t i = 0; !rc && !*found && i < 2; i++) {
        json_t *file;
        rc = read_optional(dir, files[i], &file, e);
        const json_t *t = template_of(file);
        if (!rc && json_is_string(t)) {
            *found = files[i];
            if (buf_append(source, json_string_value(t), json_string_length(t)))
                rc = err_set(e, ERR_LIMIT, "%.200s/%s: the template is too large", dir, files[i]);
        } else if (!rc && t && !json_is_null(t)) {
            rc = field_error(e, dir, files[i], "chat_template", "is neither a string nor a list with a template named \"default\"");
        }
        json_decref(file);
    }
    return rc;
}

static int open_template(struct prompt_model *m, const char *dir, struct err *e)
{
    struct buf source;
    const char *file = NULL;
    buf_init(&source, 4 << 20);
    int rc = read_template(dir, &source, &file, e);
    if (!rc && file) {
        rc = template_compile(&m->template, source.data, source.len, e);
        if (rc) rc = err_prefix(e, "%.200s/%s", dir, file);
    }
    buf_free(&source);
    if (rc || !m->template) return rc;
    m->info.has_template = true;
    m->takes_list = renders(m, json_pack("[{s:s, s:s}]", "type", "text", "text", probe_text));
    m->takes_string = renders(m, json_string(probe_text));
    if (!m->takes_list && !m->takes_string)
        m->takes_string = true; /* it wants more than one user message says; strings are the common form */
    return 0;
}

/* ---- config.json and generation_config.json: only what prompts and sampling need; the weights' own reader checks the
 * rest ---- */

/* An integer of the text model: in text_config for composite models, where it may be missing, else at the top. */
static int config_int(const json_t *config, const char *dir, const char *field, int64_t min, int64_t max, int64_t *out, struct err *e)
{
    const json_t *v = json_object_get(json_object_get(config, "text_config"), field);
    if (!v || json_is_null(v)) v = json_object_get(config, field);
    if (!v || json_is_null(v)) return field_error(e, dir, "config.json", field, "is missing");
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return field_error(e, dir, "config.json", field, "is not an integer in range");
    *out = json_integer_value(v);
    return 0;
}

/* eos_token_id: an integer, a list of them, or null. Ids the model cannot make are left out (some files name ids of
 * other models). */
static int add_eos(struct prompt_model *m, const char *dir, const char *file, const json_t *v, struct err *e)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    m->eos = calloc(n ? n : 1, sizeof *m->eos);
    if (!m->eos) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id)) return field_error(e, dir, file, "eos_token_id", "is neither an integer nor a list of integers");
        if (json_integer_value(id) >= 0 && json_integer_value(id) < (json_int_t)m->info.vocab)
            m->eos[m->info.n_eos++] = (int32_t)json_integer_value(id);
    }
    m->info.eos = m->eos;
    return 0;
}

static int read_default(const json_t *file, const char *dir, const char *field, double min, double max, float *out, struct err *e)
{
    const json_t *v = json_object_get(file, field);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_number(v) || !(json_number_value(v) >= min && json_number_value(v) <= max))
        return field_error(e, dir, "generation_config.json", field, "is not a number in range");
    *out = (float)json_number_value(v);
    return 0;
}

/* do_sample: false means greedy, whatever else the file says. */
static int read_defaults(struct prompt_model *m, const json_t *file, const char *dir, struct err *e)
{
    struct prompt_defaults *d = &m->info.defaults;
    float top_k = 0;
    int rc = read_default(file, dir, "temperature", 0, 100, &d->temperature, e);
    if (!rc) rc = read_default(file, dir, "top_p", 0, 1, &d->top_p, e);
    if (!rc) rc = read_default(file, dir, "min_p", 0, 1, &d->min_p, e);
    if (!rc) rc = read_default(file, dir, "repetition_penalty", 1e-3, 1e3, &d->repetition_penalty, e);
    if (!rc) rc = read_default(file, dir, "top_k", 0, 1 << 20, &top_k, e);
    d->top_k = (int32_t)top_k;
    if (json_is_false(json_object_get(file, "do_sample"))) d->temperature = 0;
    return rc;
}

static int read_config(struct prompt_model *m, const json_t *config, const char *dir, struct err *e)
{
    int64_t vocab = 0, context = 0;
    int rc = config_int(config, dir, "vocab_size", 1, INT32_MAX, &vocab, e);
    if (!rc) rc = config_int(config, dir, "max_position_embeddings", 2, 1 << 28, &context, e);
    if (rc) return rc;
    m->info.vocab = (uint32_t)vocab;
    m->info.max_context = (uint32_t)context;
    m->info.has_images = json_is_object(json_object_get(config, "vision_config"));
    if (!m->info.has_images) return 0;
    const json_t *id = json_object_get(config, "image_token_id");
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
        return field_error(e, dir, "config.json", "image_token_id", "is not a token of the vocabulary");
    m->info.image_token = (int32_t)json_integer_value(id);
    m->banned = calloc(1, sizeof *m->banned);
    if (!m->banned) return err_set(e, ERR_MEMORY, "out of memory");
    m->banned[0] = m->info.image_token; /* in an answer it would be a picture that nobody sent */
    m->info.banned = m->banned;
    m->info.n_banned = 1;
    return 0;
}

static int open_config(struct prompt_model *m, const char *dir, struct err *e)
{
    json_t *config = NULL, *generation = NULL;
    m->info.image_token = -1;
    m->info.defaults = (struct prompt_defaults){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    int rc = read_optional(dir, "config.json", &config, e);
    if (!rc && !config) rc = err_set(e, ERR_NOT_FOUND, "%.200s/config.json: is not there", dir);
    if (!rc) rc = read_config(m, config, dir, e);
    if (!rc) rc = read_optional(dir, "generation_config.json", &generation, e);
    if (!rc) rc = read_defaults(m, generation, dir, e);
    const json_t *eos = json_object_get(generation, "eos_token_id"); /* generation_config.json wins */
    const char *file = "generation_config.json";
    if (!eos || json_is_null(eos)) {
        file = "config.json";
        eos = json_object_get(config, "eos_token_id");
        if (!eos) eos = json_object_get(json_object_get(config, "text_config"), "eos_token_id");
    }
    if (!rc && eos && !json_is_null(eos)) rc = add_eos(m, dir, file, eos, e);
    json_decref(config);
    json_decref(generation);
    return rc;
}

/* Text of a request never becomes one of these, even where a file forgets to call them special. */
static void forbid_placeholders(struct tokenizer *t)
{
    static const char *const names[] = {"<image>", "<fake_token_around_image>", "<global-img>", "<video>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) tokenizer_forbid_in_request(t, names[i]);
    for (int r = 1; r <= 6; r++) {
        for (int c = 1; c <= 6; c++) {
            char tag[32];
            snprintf(tag, sizeof tag, "<row_%d_col_%d>", r, c);
            tokenizer_forbid_in_request(t, tag);
        }
    }
}

int prompt_model_open(struct prompt_model **out, const char *dir, struct err *e)
{
    *out = NULL;
    struct prompt_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = open_config(m, dir, e);
    if (!rc) rc = tokenizer_open(&m->tokenizer, dir, e);
    if (!rc) forbid_placeholders(m->tokenizer);
    if (!rc) rc = open_variables(m, dir, e);
    if (!rc) rc = open_template(m, dir, e);
    if (!rc && m->info.has_images) rc = image_settings_read(&m->info.images, dir, e);
    if (rc) {
        prompt_model_close(m);
        return rc;
    }
    m->info.tokenizer = m->tokenizer;
    *out = m;
    return 0;
}

void prompt_model_close(struct prompt_model *m)
{
    if (!m) return;
    template_free(m->template);
    tokenizer_close(m->tokenizer);
    json_decref(m->variables);
    free(m->eos);
    free(m->banned);
    free(m);
}

const struct prompt_info *prompt_model_info(const struct prompt_model *m)
{
    return &m->info;
}
