/* server/providers, answers: each case file is a host's documented answer and the events it must become, however the bytes are cut,
 * whatever the line ends, with comments in between. What is cut is never taken for whole, and no finish comes of it. SPILLWAY_SHOW=1
 * prints what came instead of comparing. */
#include "tests/unit/wire_harness.h"

struct answer {
    struct buf seen;
    int rc;
};

/* piece 0: all at once; else so many bytes at a time, after a first one of `first` bytes. */
static void decode(struct answer *a, const struct case_file *c, const char *p, size_t n, size_t first, size_t piece)
{
    struct provider_host h;
    struct decoder *d;
    struct err e = {0};
    char choices[256];
    case_host(&h, c);
    buf_init(&a->seen, 16u << 20);
    assert_int_equal(
        decoder_new(&d, &h, (uint32_t)atoi(case_setting(c, "choices", choices, "1")), &decoder_limits_usual, write_event, &a->seen, &e), 0);
    int rc = 0;
    for (size_t at = 0; at < n && !rc;) {
        size_t k = at == 0 && first ? first : piece ? piece : n;
        if (k > n - at) k = n - at;
        char *own = malloc(k); /* nothing may be read behind its end */
        memcpy(own, p + at, k);
        rc = decoder_feed(d, own, k, &e);
        free(own);
        at += k;
    }
    if (!rc) rc = decoder_end(d, &e);
    a->rc = rc;
    const struct provider_error *told = decoder_error(d);
    if (rc == 0)
        buf_printf(&a->seen, "whole id=%s model=%s\n", decoder_id(d), decoder_model(d));
    else if (told)
        buf_printf(&a->seen, "told %s code=%s: %s\n", provider_error_class_name(told->class), told->code, told->message);
    else
        buf_printf(&a->seen, "%s%s: %s\n", decoder_has_content(d) ? "" : "nothing, ", err_code_name(e.code), e.msg);
    if (decoder_n_usage(d) > 0) assert_non_null(strchr(decoder_usage_raw(d), '{'));
    decoder_free(d);
    provider_host_free(&h);
}

static const char *seen(const struct answer *a)
{
    return a->seen.data ? a->seen.data : "";
}

static void check_same(const struct case_file *c, const char *p, size_t n, size_t first, size_t piece, const char *want)
{
    struct answer a;
    decode(&a, c, p, n, first, piece);
    if (strcmp(seen(&a), want) != 0) fail_msg("%s, cut at %zu then %zu:\n%s--- wanted\n%s", c->name, first, piece, seen(&a), want);
    buf_free(&a.seen);
}

static void check_case(const struct case_file *c)
{
    char *stream = case_section(c, "stream", false), *want = case_section(c, "events", false);
    assert_non_null(stream);
    size_t n = strlen(stream);
    if (getenv("SPILLWAY_SHOW")) {
        struct answer a;
        decode(&a, c, stream, n, 0, 0);
        printf("@@ %s\n%s", c->name, seen(&a));
        buf_free(&a.seen);
    } else {
        assert_non_null(want);
        check_same(c, stream, n, 0, 0, want);
        check_same(c, stream, n, 0, 1, want);
        check_same(c, stream, n, 3, 7, want);
        for (size_t at = 1; at < n; at++) check_same(c, stream, n, at, 0, want);
    }
    free(stream);
    free(want);
}

static void test_answers_become_events_however_cut(void **state)
{
    (void)state;
    case_each("decode", check_case);
}

/* The same stream with every LF as `end`, and a comment before each line that begins an event. */
static void rewrite(struct buf *out, const char *p, const char *end, bool comments)
{
    buf_init(out, 16u << 20);
    bool fresh = true;
    for (; *p; p++) {
        if (fresh && comments && *p != '\n' && *p != ':') buf_printf(out, ": keep-alive%s", end);
        fresh = p[0] == '\n' && p[1] != '\0' && p > out->data && p[-1] == '\n';
        if (*p == '\n')
            buf_puts(out, end);
        else
            buf_putc(out, *p);
    }
}

static void check_line_ends(const struct case_file *c)
{
    char *stream = case_section(c, "stream", false), *want = case_section(c, "events", false);
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    for (int i = 0; i < 6 && *stream != '{' && *stream != '<'; i++) {
        struct buf b;
        rewrite(&b, stream, ends[i / 2], i % 2);
        check_same(c, b.data, b.len, 0, 0, want);
        check_same(c, b.data, b.len, 0, 1, want);
        buf_free(&b);
    }
    free(stream);
    free(want);
}

static void test_line_ends_and_comments_change_nothing(void **state)
{
    (void)state;
    case_each("decode", check_line_ends);
}

/* Every beginning of a whole answer. An end that lacks only white space is the end. */
static void check_cut(const struct case_file *c)
{
    char *stream = case_section(c, "stream", false), *want = case_section(c, "events", false);
    size_t n = strlen(stream);
    bool whole = strstr(want, "\nwhole ") != NULL;
    while (n && strchr(" \n", stream[n - 1])) n--;
    for (size_t at = 0; whole && at < n; at++) {
        struct answer a;
        decode(&a, c, stream, at, 0, 0);
        if (a.rc == 0 || strstr(seen(&a), "\nfinish ") || strncmp(seen(&a), "finish ", 7) == 0)
            fail_msg("%s, %zu of %zu bytes: taken for whole:\n%s", c->name, at, n, seen(&a));
        if (a.rc != -ERR_GONE) fail_msg("%s, %zu of %zu bytes: %s", c->name, at, n, seen(&a));
        buf_free(&a.seen);
    }
    free(stream);
    free(want);
}

static void test_t76_a_cut_answer_is_never_whole(void **state)
{
    (void)state;
    case_each("decode", check_cut);
}

/* --- events that repeat (decode_repeat.c) --- */

static const char *any_of(const char *const *list, size_t n)
{
    return list[(size_t)rand() % n];
}
#define ANY(...) any_of((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* One event of a random stream. never_same: with a member that says nothing and is another in each, so that all are read as trees. */
static void put_event(struct buf *b, bool never_same)
{
    const char *text = ANY("a", "b", "~", "stop", "fixed", "fp_1", "0", "caf\xc3\xa9", "\xe6\xb0\xb4", "x\\n", "\\\"", "\\u0041", "\\u0061", "", "a longer piece of text", "a\", \"b", "content");
    if (rand() % 3 == 0) text = ANY("a", "\\u0061", "fixed"); /* what stands elsewhere, too */
    if (rand() % 200 == 0) text = ANY("\xff", "\xc3", "a\tb", "\"", "\\", "\\x");
    buf_printf(b, "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"%s\"", rand() % 4 ? "fixed" : ANY("a", "b"));
    if (rand() % 3 == 0) buf_printf(b, ",\"system_fingerprint\":\"%s\"", ANY("fp_1", "fp_2"));
    if (rand() % 12 == 0) buf_printf(b, ",\"x\":%d", rand() % 3);
    if (never_same) buf_printf(b, ",\"obfuscation\":\"%zu\"", b->len);
    buf_printf(b, ",\"choices\":[{\"index\":%d,\"delta\":{", rand() % 8 == 0);
    if (rand() % 20 == 0) buf_printf(b, "\"role\":\"assistant\",");
    if (rand() % 20 == 0) buf_printf(b, "\"reasoning_content\":\"%s\",", ANY("a", "hm"));
    if (rand() % 20 == 0) buf_printf(b, "\"annotations\":[\"%s\"],", ANY("a", "b"));
    buf_printf(b, "\"content\":\"%s\"},\"logprobs\":%s,\"finish_reason\":%s}]", text,
               rand() % 20 ? "null" : "{\"content\":[{\"token\":\"a\",\"logprob\":-1,\"bytes\":[97],\"top_logprobs\":[]}]}", rand() % 25 ? "null" : ANY("\"stop\"", "\"length\""));
    if (rand() % 15 == 0) buf_printf(b, ",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":%d,\"total_tokens\":9}", rand() % 4);
    buf_puts(b, "}\n\n");
}

/* What is known by its bytes says what its tree would have said. */
static void test_events_that_repeat_say_what_their_trees_say(void **state)
{
    (void)state;
    struct case_file c = {.name = "random"};
    int n_text = 0;
    buf_init(&c.text, 1 << 12);
    buf_puts(&c.text, "Random.\nprovider openai\nchoices 2\n\n--- stream\n");
    for (unsigned seed = 1; seed <= 3000; seed++) {
        struct buf streams[2];
        struct answer answers[2];
        for (int i = 0; i < 2; i++) {
            buf_init(&streams[i], 1 << 20);
            srand(seed);
            for (int n = 3 + rand() % 20; n > 0; n--) put_event(&streams[i], i == 1);
            buf_puts(&streams[i], "data: [DONE]\n\n");
            decode(&answers[i], &c, streams[i].data, streams[i].len, 0, seed % 3 ? 0 : 11);
        }
        if (strcmp(seen(&answers[0]), seen(&answers[1])) != 0)
            fail_msg("seed %u:\n%s\n%s--- its trees\n%s", seed, streams[0].data, seen(&answers[0]), seen(&answers[1]));
        for (const char *at = seen(&answers[0]); (at = strstr(at, "delta")); at++) n_text++;
        for (int i = 0; i < 2; i++) {
            buf_free(&streams[i]);
            buf_free(&answers[i].seen);
        }
    }
    assert_true(n_text > 10000);
    buf_free(&c.text);
}

/* --- what is too much --- */

static int feed(const char *provider, const struct decoder_limits *l, const char *begin, const char *more, size_t times, struct err *e)
{
    struct provider_host h;
    struct decoder *d;
    static const char *const keys[] = {"k"};
    struct provider_host_config config = {.provider = provider, .keys = keys, .n_keys = 1};
    struct buf events;
    buf_init(&events, 64u << 20);
    assert_int_equal(provider_host_init(&h, &config, e), 0);
    assert_int_equal(decoder_new(&d, &h, 1, l, write_event, &events, e), 0);
    int rc = decoder_feed(d, begin, strlen(begin), e);
    for (size_t i = 0; i < times && !rc; i++) rc = decoder_feed(d, more, strlen(more), e);
    decoder_free(d);
    provider_host_free(&h);
    buf_free(&events);
    return rc;
}

static void test_t25_a_line_of_10_mb_is_refused_at_1_mb(void **state)
{
    (void)state;
    static const char *const providers[] = {"openai", "anthropic", "gemini"};
    struct err e;
    for (int i = 0; i < 3; i++)
        assert_int_equal(feed(providers[i], &decoder_limits_usual, "data: {\"x\":\"", "aaaaaaaaaaaaaaaa", 640000, &e), -ERR_LIMIT);
    assert_non_null(strstr(e.msg, "gemini"));
}

static void test_t25_the_whole_answer_is_bounded(void **state)
{
    (void)state;
    struct decoder_limits l = {.max_bytes = 10000, .max_json_bytes = 1000};
    const char *chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    struct err e;
    assert_int_equal(feed("openai", &l, chunk, chunk, 100, &e), 0);
    assert_int_equal(feed("openai", &l, chunk, chunk, 1000, &e), -ERR_LIMIT);
    assert_int_equal(feed("openai", &l, "{\"x\":\"", "aaaaaaaaaaaaaaaa", 100, &e), -ERR_LIMIT);
}

static void test_t25_bytes_that_are_no_text_or_too_deep(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(feed("openai", &decoder_limits_usual, "data: {\"x\":\"\xc3\x28\"}\n\n", "", 0, &e), -ERR_INPUT);
    assert_int_equal(feed("openai", &decoder_limits_usual, "data: [1]\n\n", "", 0, &e), -ERR_INPUT);
    assert_int_equal(feed("openai", &decoder_limits_usual, "data: nonsense\n\n", "", 0, &e), -ERR_INPUT);
    struct buf deep;
    buf_init(&deep, 4096);
    buf_puts(&deep, "data: ");
    for (int i = 0; i < 100; i++) buf_puts(&deep, "{\"a\":");
    buf_puts(&deep, "\n\n");
    assert_int_equal(feed("openai", &decoder_limits_usual, deep.data, "", 0, &e), -ERR_INPUT);
    buf_free(&deep);
}

static int stop_at_second(void *ctx, const struct event *ev)
{
    (void)ev;
    int *n = ctx;
    return ++*n == 2 ? -ERR_CLOSING : 0;
}

static void test_an_event_function_can_stop_the_reading(void **state)
{
    (void)state;
    struct provider_host h;
    struct decoder *d;
    static const char *const keys[] = {"k"};
    struct provider_host_config config = {.provider = "openai", .keys = keys, .n_keys = 1};
    const char *chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    struct err e = {0};
    int n = 0;
    assert_int_equal(provider_host_init(&h, &config, &e), 0);
    assert_int_equal(decoder_new(&d, &h, 1, &decoder_limits_usual, stop_at_second, &n, &e), 0);
    assert_int_equal(decoder_feed(d, chunk, strlen(chunk), &e), 0);
    assert_int_equal(decoder_feed(d, chunk, strlen(chunk), &e), -ERR_CLOSING);
    assert_int_equal(n, 2);
    decoder_free(d);
    provider_host_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_become_events_however_cut),      cmocka_unit_test(test_line_ends_and_comments_change_nothing),
        cmocka_unit_test(test_events_that_repeat_say_what_their_trees_say),
        cmocka_unit_test(test_t76_a_cut_answer_is_never_whole),        cmocka_unit_test(test_t25_a_line_of_10_mb_is_refused_at_1_mb),
        cmocka_unit_test(test_t25_the_whole_answer_is_bounded),        cmocka_unit_test(test_t25_bytes_that_are_no_text_or_too_deep),
        cmocka_unit_test(test_an_event_function_can_stop_the_reading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
