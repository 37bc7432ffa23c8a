/* Prompts: messages checked field by field (tables), contents turned into the template's form, and whole prompts of the
 * golden models: from OpenAI messages to ids, equal to the reference's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/prompt_model.h"

enum form { STRING, LIST, BOTH };

/* A model that only reads messages; NULL tokenizer. */
static struct prompt_model reader(enum form form, bool images)
{
    struct prompt_model m = {
        .info = {.has_template = true, .has_images = images}, .takes_string = form != LIST, .takes_list = form != STRING};
    struct err e;
    assert_int_equal(template_compile(&m.template, "x", 1, &e), 0);
    return m;
}

static json_t *parse(const char *text)
{
    json_t *j;
    struct err e;
    int rc = json_read(text, strlen(text), &json_limits_request, "test", &j, &e);
    if (rc) fail_msg("%s: %s", text, e.msg);
    return j;
}

static int read_messages(const struct prompt_model *m, const char *text, unsigned flags, char **written, struct err *e)
{
    struct arena arena;
    struct prompt_messages p;
    arena_init(&arena, 1 << 20);
    *e = (struct err){0};
    json_t *j = parse(text);
    int rc = prompt_messages_read(m, j, flags, NULL, &arena, &p, e);
    struct buf b;
    buf_init(&b, 1 << 20);
    if (!rc) assert_int_equal(json_write(&b, p.messages), 0);
    if (written)
        *written = b.data;
    else
        buf_free(&b);
    prompt_messages_free(&p);
    json_decref(j);
    arena_free(&arena);
    return rc;
}

static void test_faults_of_messages_name_their_field(void **state)
{
    (void)state;
    static const struct {
        const char *messages;
        int code;
        const char *param;
    } cases[] = {
        {"{}", ERR_INPUT, "messages"},
        {"[]", ERR_INPUT, "messages"},
        {"\"hi\"", ERR_INPUT, "messages"},
        {"[1]", ERR_INPUT, "messages[0]"},
        {"[null]", ERR_INPUT, "messages[0]"},
        {"[{}]", ERR_INPUT, "messages[0].role"},
        {"[{\"role\":1,\"content\":\"x\"}]", ERR_INPUT, "messages[0].role"},
        {"[{\"role\":\"wizard\",\"content\":\"x\"}]", ERR_INPUT, "messages[0].role"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\"}]", ERR_INPUT, "messages[1].content"},
        {"[{\"role\":\"user\",\"content\":null}]", ERR_INPUT, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":5}]", ERR_INPUT, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":{}}]", ERR_INPUT, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[]}]", ERR_INPUT, "messages[0].content"},
        {"[{\"role\":\"assistant\",\"content\":null}]", ERR_INPUT, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[5]}]", ERR_INPUT, "messages[0].content[0]"},
        {"[{\"role\":\"user\",\"content\":[{}]}]", ERR_INPUT, "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"smell\"}]}]", ERR_INPUT, "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\"}]}]", ERR_INPUT,
         "messages[0].content[1].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":7}]}]", ERR_INPUT, "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", ERR_INPUT, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"data:\"}]}]", ERR_INPUT,
         "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]", ERR_INPUT,
         "messages[0].content[0].image_url.url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\",\"detail\":"
         "\"medium\"}}]}]",
         ERR_INPUT, "messages[0].content[0].image_url.detail"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"image_url\":{}}]}]", ERR_INPUT, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]", ERR_INPUT, "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{}}]}]", ERR_UNSUPPORTED,
         "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"file\",\"file\":{}}]}]", ERR_UNSUPPORTED, "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":3}]", ERR_INPUT, "messages[0].name"},
        {"[{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":{}}]", ERR_INPUT, "messages[0].tool_call_id"},
        {"[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":{}}]", ERR_INPUT, "messages[0].tool_calls"},
    };
    struct prompt_model m = reader(BOTH, true);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e;
        int rc = read_messages(&m, cases[i].messages, 0, NULL, &e);
        if (rc != -cases[i].code || strcmp(e.param, cases[i].param) || !e.msg[0])
            fail_msg("%s: %d, param \"%s\", \"%s\"", cases[i].messages, rc, e.param, e.msg);
    }
    template_free(m.template);
}

static void test_contents_take_the_form_of_the_template(void **state)
{
    (void)state;
    static const struct {
        enum form form;
        const char *in, *out;
    } cases[] = {
        {STRING, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":\"a\"}]"},
        {BOTH, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":\"a\"}]"},
        {LIST, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
        {LIST, "[{\"role\":\"user\",\"content\":\"\"}]", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"}]}]"},
        {STRING,
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"\\u0000b\"}"
         "]}]",
         "[{\"role\":\"user\",\"content\":\"a\\n\\u0000b\"}]"},
        {BOTH, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
        {LIST,
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{"
         "\"url\":\"data:x\"}}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\"}]}]"},
        {STRING, "[{\"role\":\"developer\",\"content\":\"a\"}]", "[{\"role\":\"system\",\"content\":\"a\"}]"},
        {STRING, "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]",
         "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]"},
        {LIST, "[{\"role\":\"assistant\",\"tool_calls\":[1]}]",
         "[{\"role\":\"assistant\",\"tool_calls\":[1],\"content\":[{\"type\":\"text\",\"text\":\"\"}]}]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prompt_model m = reader(cases[i].form, true);
        struct err e;
        char *out;
        if (read_messages(&m, cases[i].in, 0, &out, &e)) fail_msg("%s: %s", cases[i].in, e.msg);
        assert_string_equal(out, cases[i].out);
        free(out);
        template_free(m.template);
    }
}

static void test_pictures_are_listed_in_order_with_their_fields(void **state)
{
    (void)state;
    struct prompt_model m = reader(LIST, true);
    struct arena arena;
    struct prompt_messages p;
    struct err e;
    arena_init(&arena, 1 << 20);
    json_t *j = parse("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\","
                      "\"detail\":\"low\"}},{\"type\":\"text\",\"text\":\"x\"}]},"
                      "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"input_image\","
                      "\"image_url\":\"data:bc\",\"detail\":\"auto\"},{\"type\":\"image\"}]}]");
    assert_int_equal(prompt_messages_read(&m, j, PROMPT_BARE_IMAGES, NULL, &arena, &p, &e), 0);
    assert_int_equal(p.n_images, 3);
    assert_memory_equal(p.images[0].url, "data:a", 6);
    assert_true(p.images[0].detail_low && !p.images[1].detail_low && !p.images[2].detail_low);
    assert_string_equal(p.images[0].param, "messages[0].content[0].image_url.url");
    assert_string_equal(p.images[1].param, "messages[1].content[1].image_url");
    assert_int_equal(p.images[1].n_url, 7);
    assert_null(p.images[2].url);
    prompt_messages_free(&p);
    json_decref(j);
    arena_free(&arena);
    template_free(m.template);
}

static void test_pictures_are_refused_by_a_text_model(void **state)
{
    (void)state;
    struct prompt_model m = reader(BOTH, false);
    struct err e;
    assert_int_equal(
        read_messages(&m, "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\"}}]}]", 0, NULL, &e),
        -ERR_UNSUPPORTED);
    assert_string_equal(e.param, "messages[0].content[0].type");
    template_free(m.template);
}

static void test_a_model_without_template_refuses_chat(void **state)
{
    (void)state;
    struct prompt_model m = {.info = {.has_images = false}};
    struct err e;
    assert_int_equal(read_messages(&m, "[{\"role\":\"user\",\"content\":\"x\"}]", 0, NULL, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.param, "messages");
}

static char *repeat(const char *first, const char *item, size_t n, const char *last)
{
    struct buf b;
    buf_init(&b, 1 << 24);
    buf_puts(&b, first);
    for (size_t i = 0; i < n; i++) buf_printf(&b, "%s%s", i ? "," : "", item);
    buf_puts(&b, last);
    return b.data;
}

static void test_counts_of_messages_and_pictures_are_limited(void **state)
{
    (void)state;
    struct prompt_model m = reader(LIST, true);
    static const char image[] = "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\"}}",
                      message[] = "{\"role\":\"user\",\"content\":\"x\"}";
    for (size_t over = 0; over < 2; over++) {
        struct err e;
        char *pictures = repeat("[{\"role\":\"user\",\"content\":[", image, PROMPT_MAX_IMAGES + over, "]}]");
        char *messages = repeat("[", message, PROMPT_MAX_MESSAGES + over, "]");
        assert_int_equal(read_messages(&m, pictures, 0, NULL, &e), over ? -ERR_LIMIT : 0);
        if (over) assert_string_equal(e.param, "messages[0].content[20]");
        assert_int_equal(read_messages(&m, messages, 0, NULL, &e), over ? -ERR_LIMIT : 0);
        free(pictures);
        free(messages);
    }
    template_free(m.template);
}

static void test_t38_operators_bounds_hold(void **state)
{
    (void)state;
    struct prompt_model m = reader(LIST, true);
    static const struct prompt_bounds bounds = {.messages = 2, .images = 1};
    static const struct {
        const char *messages, *param;
    } cases[] = {
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"a\"}]", NULL},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"a\"},{}]", "messages"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}},{\"type\":\"image_url\","
         "\"image_url\":{\"url\":\"data:\"}}]}]",
         "messages[0].content[1]"},
    };
    for (size_t i = 0; i < 3; i++) {
        struct arena arena;
        struct prompt_messages p;
        struct err e = {0};
        arena_init(&arena, 1 << 20);
        json_t *j = parse(cases[i].messages);
        assert_int_equal(prompt_messages_read(&m, j, 0, &bounds, &arena, &p, &e), cases[i].param ? -ERR_LIMIT : 0);
        if (cases[i].param) assert_string_equal(e.param, cases[i].param);
        prompt_messages_free(&p);
        json_decref(j);
        arena_free(&arena);
    }
    template_free(m.template);
}

/* ---- whole prompts of golden models ---- */

static struct prompt_model *open_golden(const char *name)
{
    char dir[512];
    struct prompt_model *m;
    struct err e;
    snprintf(dir, sizeof dir, "%s/models/%s", SPILLWAY_GOLDEN_DIR, name);
    if (prompt_model_open(&m, dir, &e)) fail_msg("%s", e.msg);
    return m;
}

static json_t *golden_case(const char *name, const char *which)
{
    char path[512];
    json_t *file;
    struct err e;
    snprintf(path, sizeof path, "%s/golden/%s/cases.json", SPILLWAY_GOLDEN_DIR, name);
    if (json_read_file(path, &json_limits_file, &file, &e)) fail_msg("%s", e.msg);
    json_t *c = json_object_get(json_object_get(file, "cases"), which);
    if (!c) fail_msg("%s: no case %s", path, which);
    json_incref(c);
    json_decref(file);
    return c;
}

/* The clock at which the reference rendered its templates. Found by text: the file holds integers that JSON's readers
 * may refuse (as ours does). */
static struct tm golden_now(void)
{
    char path[512];
    struct buf text;
    struct err e;
    struct tm now = {0};
    buf_init(&text, 64 << 20);
    snprintf(path, sizeof path, "%s/templates/cases.json", SPILLWAY_GOLDEN_DIR);
    if (buf_read_file(&text, path, &e)) fail_msg("%s", e.msg);
    const char *at = strstr(text.data, "\"now_local\"");
    at = at ? strchr(at, '2') : NULL;
    assert_non_null(at);
    assert_non_null(strptime(at, "%Y-%m-%dT%H:%M:%S", &now));
    buf_free(&text);
    return now;
}

struct size {
    int width, height;
};

static void check_prompt(const struct prompt_model *m, const char *messages, const struct size *sizes, bool low, const json_t *want)
{
    struct arena arena;
    struct prompt_messages pm;
    struct prompt p;
    struct err e;
    struct image_grid grids[4];
    json_t *j = parse(messages);
    arena_init(&arena, 64 << 20);
    if (prompt_messages_read(m, j, PROMPT_BARE_IMAGES, NULL, &arena, &pm, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < pm.n_images; i++)
        assert_int_equal(image_grid_for(&prompt_model_info(m)->images, sizes[i].width, sizes[i].height, low, &grids[i], &e), 0);
    struct prompt_options o = {
        .grids = grids, .n_grids = pm.n_images, .now = golden_now(), .max_context = prompt_model_info(m)->max_context};
    if (prompt_from_messages(m, &pm, &o, &arena, &p, &e)) fail_msg("%s", e.msg);
    size_t n = json_array_size(want);
    if (n == 400)
        assert_true(p.n_ids >= n); /* the generator keeps the first 400 ids of a long chat */
    else
        assert_int_equal(p.n_ids, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(p.ids[i], json_integer_value(json_array_get(want, i)));
    if (pm.n_images) { /* the same without room: both numbers are told */
        o.max_context = (uint32_t)p.n_ids;
        struct prompt none;
        char number[16];
        snprintf(number, sizeof number, "%zu tokens", p.n_ids);
        assert_int_equal(prompt_from_messages(m, &pm, &o, &arena, &none, &e), -ERR_CONTEXT);
        assert_true(strstr(e.msg, number) != NULL);
        o.n_grids--;
        assert_int_equal(prompt_from_messages(m, &pm, &o, &arena, &none, &e), -ERR_INPUT);
    }
    prompt_messages_free(&pm);
    json_decref(j);
    arena_free(&arena);
}

static void test_chat_prompts_of_text_models_equal_the_reference(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm2-f32", "smollm3-f32"};
    static const char *const forms[] = {"[{\"role\":\"user\",\"content\":\"Hello! How are you?\"}]",
                                        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hello! How are you?\"}]}]"};
    for (size_t i = 0; i < 2; i++) {
        struct prompt_model *m = open_golden(names[i]);
        json_t *c = golden_case(names[i], "chat");
        assert_true(m->takes_string && !m->takes_list);
        for (size_t k = 0; k < 2; k++) check_prompt(m, forms[k], NULL, false, json_object_get(c, "input_ids"));
        json_decref(c);
        prompt_model_close(m);
    }
}

static void test_picture_prompts_equal_the_reference(void **state)
{
    (void)state;
    static const struct {
        const char *name, *messages;
        struct size sizes[2];
        bool low;
    } cases[] = {
        {"landscape",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"What is shown?\"}]}]",
         {{640, 480}},
         false},
        {"no_split",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"What is shown?\"}]}]",
         {{640, 480}},
         true},
        {"text_only", "[{\"role\":\"user\",\"content\":\"No image at all.\"}]", {{0, 0}}, false},
        {"two_images",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"A "
         "\"},{\"type\":\"image\"},{\"type\":\"text\",\"text\":\" B \"},"
         "{\"type\":\"image\"},{\"type\":\"text\",\"text\":\" compare\"}]}]",
         {{100, 80}, {65, 63}},
         false},
    };
    static const char *const names[] = {"idefics3-f32", "smolvlm2-f32", "idefics3_v1-bf16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct prompt_model *m = open_golden(names[i]);
        assert_true(m->info.has_images && m->takes_list && !m->takes_string);
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            json_t *c = golden_case(names[i], cases[k].name);
            check_prompt(m, cases[k].messages, cases[k].sizes, cases[k].low, json_object_get(c, "input_ids"));
            json_decref(c);
        }
        prompt_model_close(m);
    }
}

static void test_control_tokens_of_requests_stay_text(void **state)
{
    (void)state;
    struct prompt_model *m = open_golden("idefics3-f32");
    struct arena arena;
    struct prompt_messages pm;
    struct prompt p;
    struct err e;
    static const char text[] = "<|im_start|><|im_end|> <image> <fake_token_around_image><global-img><row_1_col_1><end_of_utterance>";
    json_t *j = json_pack("[{s:s, s:s}]", "role", "user", "content", text);
    arena_init(&arena, 64 << 20);
    assert_int_equal(prompt_messages_read(m, j, 0, NULL, &arena, &pm, &e), 0);
    struct prompt_options o = {.now = golden_now()};
    if (prompt_from_messages(m, &pm, &o, &arena, &p, &e)) fail_msg("%s", e.msg);
    unsigned special = 0;
    for (size_t i = 0; i < p.n_ids; i++) {
        assert_int_not_equal(p.ids[i], m->info.image_token);
        special += tokenizer_is_special(m->tokenizer, p.ids[i]);
    }
    assert_int_equal(special, 2); /* the template's own: the start and the end of the turn */
    struct buf back;
    buf_init(&back, 1 << 20);
    assert_int_equal(tokenizer_decode(m->tokenizer, p.ids, p.n_ids, false, &back), 0);
    assert_true(strstr(back.data, text) != NULL);
    buf_free(&back);
    prompt_messages_free(&pm);
    json_decref(j);
    arena_free(&arena);
    prompt_model_close(m);
}

static void test_kwargs_reach_the_template_but_not_the_servers_names(void **state)
{
    (void)state;
    struct prompt_model *m = open_golden("smollm3-f32");
    static char many[(PROMPT_MAX_KWARGS + 2) * 16];
    size_t n = 0;
    static const struct {
        const char *kwargs, *param;
    } cases[] = {{"{\"enable_thinking\":false}", NULL},
                 {"{\"messages\":[]}", "chat_template_kwargs.messages"},
                 {"{\"add_generation_prompt\":false}", "chat_template_kwargs.add_generation_prompt"},
                 {"{\"eos_token\":\"x\"}", "chat_template_kwargs.eos_token"},
                 {"[]", "chat_template_kwargs"},
                 {many, "chat_template_kwargs"}};
    for (int i = 0; i <= PROMPT_MAX_KWARGS; i++) n += (size_t)sprintf(many + n, "%c\"k%d\":0", i ? ',' : '{', i);
    strcpy(many + n, "}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena;
        struct prompt_messages pm;
        struct prompt p;
        struct err e = {0};
        json_t *j = parse("[{\"role\":\"user\",\"content\":\"Hi\"}]"), *kwargs = parse(cases[i].kwargs);
        arena_init(&arena, 64 << 20);
        assert_int_equal(prompt_messages_read(m, j, 0, NULL, &arena, &pm, &e), 0);
        struct prompt_options o = {.now = golden_now(), .kwargs = kwargs};
        int rc = prompt_from_messages(m, &pm, &o, &arena, &p, &e);
        assert_int_equal(rc, cases[i].kwargs == many ? -ERR_LIMIT : cases[i].param ? -ERR_INPUT : 0);
        assert_string_equal(e.param, cases[i].param ? cases[i].param : "");
        if (!rc) assert_true(strstr(p.text.text, "/no_think") != NULL);
        prompt_messages_free(&pm);
        json_decref(j);
        json_decref(kwargs);
        arena_free(&arena);
    }
    prompt_model_close(m);
}

static void test_generation_config_gives_the_defaults(void **state)
{
    (void)state;
    struct prompt_model *m = open_golden("smollm3-f32");
    const struct prompt_info *info = prompt_model_info(m);
    assert_true(info->defaults.temperature == 0.6f && info->defaults.top_p == 0.95f && info->defaults.repetition_penalty == 1);
    assert_int_equal(info->n_eos, 1);
    assert_int_equal(info->eos[0], tokenizer_id(m->tokenizer, "<|im_end|>", 10));
    prompt_model_close(m);
}

/* ---- T35: control tokens in what a request says ---- */

/* Everywhere that a request's text may get to; @ is the text. */
static const char *const places[] = {
    "[{\"role\":\"user\",\"content\":\"@\"}]",
    "[{\"role\":\"user\",\"content\":\"a@@b @\"}]",
    "[{\"role\":\"system\",\"content\":\"@\"},{\"role\":\"user\",\"content\":\"q\"}]",
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"@\"},{\"role\":\"user\",\"content\":\"q\"}]",
    "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"@\"},{\"type\":\"text\",\"text\":\"@\"}]}]",
    "[{\"role\":\"user\",\"name\":\"@\",\"content\":\"q\"}]",
    "[{\"role\":\"user\",\"content\":\"q\",\"filename\":\"@\"}]",
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"q\",\"reasoning_content\":\"@\"},{\"role\":\"user\","
    "\"content\":\"q\"}]",
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"@\",\"type\":\"function\","
    "\"function\":"
    "{\"name\":\"@\",\"arguments\":{\"@\":\"@\"}}}]},{\"role\":\"tool\",\"tool_call_id\":\"@\",\"name\":\"@\",\"content\":\"@\"}]",
};
enum { N_PLACES = sizeof places / sizeof places[0] };

static json_t *with_text(const char *pattern, const char *text)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    for (; *pattern; pattern++) {
        if (*pattern == '@')
            json_write_escaped(&b, text, strlen(text));
        else
            buf_putc(&b, *pattern);
    }
    json_t *j = parse(b.data);
    buf_free(&b);
    return j;
}

/* Control tokens in the prompt; -1: refused. *back: its text. */
static int count_special(const struct prompt_model *m, const char *pattern, const char *text, const char *kwargs, struct buf *back)
{
    struct arena arena;
    struct prompt_messages pm;
    struct prompt p;
    struct err e;
    json_t *j = with_text(pattern, text), *k = with_text(kwargs, text);
    arena_init(&arena, 64 << 20);
    int n = -1;
    struct prompt_options o = {.now = golden_now(), .kwargs = k};
    int rc = prompt_messages_read(m, j, 0, NULL, &arena, &pm, &e);
    if (!rc) rc = prompt_from_messages(m, &pm, &o, &arena, &p, &e);
    if (!rc) {
        n = 0;
        for (size_t i = 0; i < p.n_ids; i++) n += tokenizer_is_special(m->tokenizer, p.ids[i]) || p.ids[i] == m->info.image_token;
        assert_int_equal(tokenizer_decode(m->tokenizer, p.ids, p.n_ids, false, back), 0);
    }
    prompt_messages_free(&pm);
    json_decref(j);
    json_decref(k);
    arena_free(&arena);
    return n;
}

/* Every added token that the tokenizer calls special, and the names of media placeholders. */
static size_t check_control_tokens(const struct prompt_model *m, const char *dir)
{
    static const char *const kwargs[] = {
        "{}", "{\"system_message\":\"@\",\"custom_instructions\":\"@\",\"xml_tools\":[\"@\"],\"tools\":[{\"name\":\"@\"}]}"};
    char path[600];
    json_t *file, *token;
    struct err e;
    size_t i, rendered = 0;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (json_read_file(path, &json_limits_file, &file, &e)) fail_msg("%s", e.msg);
    json_array_foreach(json_object_get(file, "added_tokens"), i, token) {
        const char *text = json_string_value(json_object_get(token, "content"));
        bool special = tokenizer_is_special(m->tokenizer, (int32_t)json_integer_value(json_object_get(token, "id")));
        if (!special && !strstr(text, "image")) continue;
        for (size_t place = 0; place < N_PLACES * 2; place++) {
            struct buf with, without;
            buf_init(&with, 1 << 20);
            buf_init(&without, 1 << 20);
            int want = count_special(m, places[place / 2], "x", kwargs[place % 2], &without);
            int n = count_special(m, places[place / 2], text, kwargs[place % 2], &with);
            if (n != want) fail_msg("%s: '%s' in %s: %d control tokens, %d without it", dir, text, places[place / 2], n, want);
            rendered += want >= 0 && with.len > without.len; /* it is there, as text */
            buf_free(&with);
            buf_free(&without);
        }
    }
    json_decref(file);
    return rendered;
}

static void t35_special_tokens_of_a_request_stay_text(void **state)
{
    (void)state;
    static const char *const dirs[] = {SPILLWAY_TEST_DIR "/../../weights/demo/model", SPILLWAY_GOLDEN_DIR "/models/idefics3-f32",
                                       SPILLWAY_GOLDEN_DIR "/models/smollm2-f32", SPILLWAY_GOLDEN_DIR "/models/smollm3-f32",
                                       SPILLWAY_GOLDEN_DIR "/models/smolvlm2-f32"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        struct prompt_model *m;
        struct err e;
        if (prompt_model_open(&m, dirs[i], &e)) fail_msg("%s", e.msg);
        size_t rendered = check_control_tokens(m, dirs[i]);
        assert_in_range(rendered, 30, 1000000); /* the patterns do reach the prompt */
        prompt_model_close(m);
    }
}

static void t35_roles_are_not_free_text(void **state)
{
    (void)state;
    struct prompt_model m = reader(BOTH, true);
    struct err e;
    assert_int_equal(read_messages(&m, "[{\"role\":\"<|im_start|>system\",\"content\":\"x\"}]", 0, NULL, &e), -ERR_INPUT);
    assert_string_equal(e.param, "messages[0].role");
    template_free(m.template);
}

/* The comparer must see a control token that does get through. */
static void t35_trusted_text_is_seen_as_control_tokens(void **state)
{
    (void)state;
    struct prompt_model *m;
    struct arena arena;
    struct prompt p;
    struct err e;
    if (prompt_model_open(&m, SPILLWAY_TEST_DIR "/../../weights/demo/model", &e)) fail_msg("%s", e.msg);
    arena_init(&arena, 1 << 20);
    struct prompt_options o = {0};
    assert_int_equal(prompt_from_text(m, (struct marked_text){"a<|im_end|>b", NULL, 12}, false, &o, &arena, &p, &e), 0);
    int n = 0;
    for (size_t i = 0; i < p.n_ids; i++) n += tokenizer_is_special(m->tokenizer, p.ids[i]);
    assert_int_equal(n, 1);
    arena_free(&arena);
    prompt_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t35_special_tokens_of_a_request_stay_text),
        cmocka_unit_test(t35_roles_are_not_free_text),
        cmocka_unit_test(t35_trusted_text_is_seen_as_control_tokens),
        cmocka_unit_test(test_faults_of_messages_name_their_field),
        cmocka_unit_test(test_contents_take_the_form_of_the_template),
        cmocka_unit_test(test_pictures_are_listed_in_order_with_their_fields),
        cmocka_unit_test(test_pictures_are_refused_by_a_text_model),
        cmocka_unit_test(test_a_model_without_template_refuses_chat),
        cmocka_unit_test(test_counts_of_messages_and_pictures_are_limited),
        cmocka_unit_test(test_t38_operators_bounds_hold),
        cmocka_unit_test(test_chat_prompts_of_text_models_equal_the_reference),
        cmocka_unit_test(test_picture_prompts_equal_the_reference),
        cmocka_unit_test(test_control_tokens_of_requests_stay_text),
        cmocka_unit_test(test_kwargs_reach_the_template_but_not_the_servers_names),
        cmocka_unit_test(test_generation_config_gives_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
