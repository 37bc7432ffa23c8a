/* Prompts: messages checked field by field (tables), contents turned into the template's form, and whole prompts of the golden models:
 * from OpenAI messages to ids, equal to the reference's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/prompt_model.h"

enum form { STRING, LIST, BOTH };

/* A model that only reads messages; NULL tokenizer. */
static struct prompt_model reader(enum form form, bool images)
{
    struct prompt_model m = {.info = {.has_template = true, .has_images = images}, .takes_string = form != LIST, .takes_list = form != STRING};
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
    int rc = prompt_messages_read(m, j, flags, &arena, &p, e);
    if (written) *written = rc ? NULL : json_dumps(p.messages, JSON_COMPACT);
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
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\"}]}]", ERR_INPUT, "messages[0].content[1].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":7}]}]", ERR_INPUT, "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", ERR_INPUT, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"data:\"}]}]", ERR_INPUT, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]", ERR_INPUT, "messages[0].content[0].image_url.url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\",\"detail\":\"medium\"}}]}]", ERR_INPUT,
         "messages[0].content[0].image_url.detail"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"image_url\":{}}]}]", ERR_INPUT, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]", ERR_INPUT, "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{}}]}]", ERR_UNSUPPORTED, "messages[0].content[0].type"},
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
        {STRING, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"\\u0000b\"}]}]",
         "[{\"role\":\"user\",\"content\":\"a\\n\\u0000b\"}]"},
        {BOTH, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
        {LIST, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:x\"}}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\"}]}]"},
        {STRING, "[{\"role\":\"developer\",\"content\":\"a\"}]", "[{\"role\":\"system\",\"content\":\"a\"}]"},
        {STRING, "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]", "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]"},
        {LIST, "[{\"role\":\"assistant\",\"tool_calls\":[1]}]", "[{\"role\":\"assistant\",\"tool_calls\":[1],\"content\":[{\"type\":\"text\",\"text\":\"\"}]}]"},
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
    json_t *j = parse("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\",\"detail\":\"low\"}},{\"type\":\"text\",\"text\":\"x\"}]},"
                      "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"input_image\",\"image_url\":\"data:bc\",\"detail\":\"auto\"},{\"type\":\"image\"}]}]");
    assert_int_equal(prompt_messages_read(&m, j, PROMPT_BARE_IMAGES, &arena, &p, &e), 0);
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
    assert_int_equal(read_messages(&m, "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\"}}]}]", 0, NULL, &e), -ERR_UNSUPPORTED);
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
    static const char image[] = "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:a\"}}", message[] = "{\"role\":\"user\",\"content\":\"x\"}";
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_of_messages_name_their_field),
        cmocka_unit_test(test_contents_take_the_form_of_the_template),
        cmocka_unit_test(test_pictures_are_listed_in_order_with_their_fields),
        cmocka_unit_test(test_pictures_are_refused_by_a_text_model),
        cmocka_unit_test(test_a_model_without_template_refuses_chat),
        cmocka_unit_test(test_counts_of_messages_and_pictures_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
