/* Failed allocations in the libraries that the processes are made of: each case runs with the k-th one failing, once and for good, for every k (or
 * every so many, of a case with thousands). It must do its work or give an error with a message, and hold no block more than before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine/frame.h"
#include "engine/prompt.h"
#include "server/accounts/accounts.h"
#include "server/accounts/price_book.h"
#include "tests/fault/failer/failer.h"

enum { MAX_RUNS = 400 };

static struct prompt_model *model;

/* Runs until no failure is reached any more. `work` returns 0, or an error that says something. */
static void fail_every(int (*work)(struct err *e))
{
    struct err e = {0};
    assert_int_equal(work(&e), 0); /* what libraries keep for ever */
    int64_t before = failer_allocs();
    assert_int_equal(work(&e), 0);
    int64_t n = failer_allocs() - before, step = n > MAX_RUNS ? n / MAX_RUNS : 1, reached = 0;
    assert_true(n > 0);
    for (int forever = 0; forever < 2; forever++) {
        for (int64_t k = 1; k <= n; k += step) {
            int64_t blocks = failer_blocks();
            e = (struct err){0};
            failer_fail_alloc(k, forever);
            int rc = work(&e);
            reached += failer_failed() > 0;
            failer_fail_alloc(0, false);
            if (rc > 0 || (rc < 0 && !e.msg[0]) || failer_blocks() > blocks)
                fail_msg("k %lld, forever %d: rc %d, '%s', %lld blocks were %lld", (long long)k, forever, rc, e.msg,
                         (long long)failer_blocks(), (long long)blocks);
        }
    }
    assert_true(reached >= n / step); /* it did fail */
    assert_int_equal(work(&e), 0);
}

/* Strings with escapes and longer than the parser's first buffer; the value is what it must be, or there is none. */
static int read_json(struct err *e)
{
    static const char text[] =
        "{\"messages\": [\"\\u0000 a longer string, \\ud83c\\udf89, that makes the buffer grow \\n\", 1, 2.5, true, null], "
        "\"a member with a longer name than most\": {\"b\": \"c\"}}";
    json_t *v;
    int rc = json_read(text, sizeof text - 1, &json_limits_request, "test", &v, e);
    if (rc) {
        assert_null(v);
        assert_int_equal(rc, -ERR_MEMORY);
        return rc;
    }
    const json_t *s = json_array_get(json_object_get(v, "messages"), 0);
    assert_int_equal(json_string_length(s), 2 + strlen("a longer string, \xf0\x9f\x8e\x89, that makes the buffer grow \n"));
    assert_string_equal(json_string_value(json_object_get(json_object_get(v, "a member with a longer name than most"), "b")), "c");
    json_decref(v);
    return 0;
}

/* So large that its tree lies in slabs; one part is kept longer than the rest. */
static int read_large_json(struct err *e)
{
    enum { N = 20000, LONG = 100000 };
    static char text[N * 24 + LONG + 64];
    size_t n = 0;
    json_t *v;
    text[n++] = '[';
    for (int i = 0; i < N; i++) n += (size_t)sprintf(text + n, "[\"%08x\", %d],", i, i % 100);
    text[n++] = '"';
    memset(text + n, 'x', LONG);
    n += LONG;
    n += (size_t)sprintf(text + n, "\"]");
    int rc = json_read(text, n, &json_limits_request, "test", &v, e);
    if (rc) {
        assert_null(v);
        assert_int_equal(rc, -ERR_MEMORY);
        return rc;
    }
    assert_int_equal(json_array_size(v), N + 1);
    assert_int_equal(json_string_length(json_array_get(v, N)), LONG);
    json_t *kept = json_incref(json_array_get(v, N / 2));
    json_decref(v);
    assert_string_equal(json_string_value(json_array_get(kept, 0)), "00002710");
    json_decref(kept);
    return 0;
}

static int make_prompt(struct err *e)
{
    static const char text[] =
        "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"Say something, please: 1, 2, 3.\"}]";
    struct arena arena;
    struct prompt_messages messages = {0};
    struct prompt_options o = {.max_context = 1024};
    struct prompt out;
    json_t *v;
    arena_init(&arena, 16 << 20);
    int rc = json_read(text, sizeof text - 1, &json_limits_request, "test", &v, e);
    if (!rc) rc = prompt_messages_read(model, v, 0, NULL, &arena, &messages, e);
    if (!rc) rc = prompt_from_messages(model, &messages, &o, &arena, &out, e);
    static size_t n_ids;
    if (!rc && n_ids) assert_int_equal(out.n_ids, n_ids); /* nothing is left out */
    if (!rc) n_ids = out.n_ids;
    if (rc) assert_int_equal(rc, -ERR_MEMORY);
    prompt_messages_free(&messages);
    json_decref(v);
    arena_free(&arena);
    return rc;
}

static int open_model(struct err *e)
{
    struct prompt_model *m;
    int rc = prompt_model_open(&m, SPILLWAY_DEMO_DIR, e);
    if (!rc) prompt_model_close(m);
    return rc;
}

static char dir[64];

static int use_accounts(struct err *e)
{
    struct accounts *a;
    char token[ACCOUNTS_TOKEN_BYTES];
    struct accounts_key_spec spec = {.name = "test"};
    int rc = accounts_open(&a, dir, NULL, e);
    if (rc) return rc;
    int64_t id = accounts_key_make(a, &spec, token, e);
    if (id > 0) {
        assert_int_equal(accounts_key_check(a, token, NULL), id);
        rc = accounts_key_revoke(a, id, e);
    } else
        rc = (int)id;
    if (!rc) rc = accounts_refresh(a, e);
    accounts_close(a);
    return rc;
}

/* A frame too large for the buffers that are there from the start. */
static int pass_frame(struct err *e)
{
    enum { N_IDS = 100000 };
    static int32_t ids[N_IDS];
    int socks[2];
    struct frame_conn *from = NULL, *to = NULL;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    int rc = frame_conn_new(&from, socks[0], 8 << 20, e);
    if (!rc) rc = frame_conn_new(&to, socks[1], 8 << 20, e);
    if (!from) close(socks[0]);
    if (!to) close(socks[1]);
    struct frame_submit f = {
        .sequence = 7, .weight = 1, .ids = ids, .n_ids = N_IDS, .sampling = {.max_tokens = 1, .top_p = 1, .repetition_penalty = 1}};
    if (!rc && (rc = frame_put_submit(frame_conn_out(from), &f))) {
        assert_int_equal(rc, -ERR_MEMORY);
        assert_int_equal(frame_conn_out(from)->len, 0); /* taken back whole */
        err_set(e, ERR_MEMORY, "out of memory");
    }
    struct frame got = {0};
    int next = 0;
    for (int tries = 0; !rc && next != 1 && tries < 100; tries++) {
        rc = frame_conn_flush(from, e);
        if (rc > 0) rc = 0;
        if (!rc) rc = frame_conn_read(to, e);
        if (!rc) next = frame_conn_next(to, &got, e);
        if (next < 0) rc = next;
        if (rc == -ERR_MEMORY) { /* nothing is lost: again, with memory */
            failer_fail_alloc(0, false);
            rc = 0;
        }
    }
    if (!rc) assert_true(next == 1 && got.u.submit.n_ids == N_IDS && got.u.submit.sequence == 7);
    frame_conn_free(from);
    frame_conn_free(to);
    return rc;
}

static int read_prices(struct err *e)
{
    static const char text[] =
        "{\"format\":1,\"version\":\"1\",\"date\":\"2026-01-31\",\"sources\":[],\"models\":[{\"provider\":\"p\",\"model\":\"m\",\"can\":[],"
        "\"prices\":[{\"in_uncached\":[1,1],\"out_text\":[2,1]},{\"tier\":\"flex\",\"in_uncached\":[1,1],\"out_text\":[1,1]}]}]}";
    struct price_book *b;
    int rc = price_book_read(&b, text, sizeof text - 1, "prices", e);
    if (rc) {
        assert_null(b);
        assert_int_equal(rc, -ERR_MEMORY);
        return rc;
    }
    assert_int_equal(price_find(b, "p", "m", NULL)->n_tiers, 2);
    price_book_release(b);
    return 0;
}

static void test_t47_json_is_whole_or_out_of_memory(void **state)
{
    (void)state;
    fail_every(read_json);
    fail_every(read_large_json);
}

static void test_t47_prompt_is_whole_or_out_of_memory(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(prompt_model_open(&model, SPILLWAY_DEMO_DIR, &e), 0);
    fail_every(make_prompt);
    prompt_model_close(model);
}

static void test_t47_model_folder_opens_or_says_why_not(void **state)
{
    (void)state;
    fail_every(open_model);
}

static void test_t47_accounts_work_or_say_why_not(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/spillway-oom-XXXXXX");
    assert_non_null(mkdtemp(dir));
    fail_every(use_accounts);
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static void test_t47_prices_are_whole_or_out_of_memory(void **state)
{
    (void)state;
    fail_every(read_prices);
}

static void test_t47_large_frames_wait_for_memory(void **state)
{
    (void)state;
    fail_every(pass_frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t47_json_is_whole_or_out_of_memory),     cmocka_unit_test(test_t47_prompt_is_whole_or_out_of_memory),
        cmocka_unit_test(test_t47_model_folder_opens_or_says_why_not), cmocka_unit_test(test_t47_accounts_work_or_say_why_not),
        cmocka_unit_test(test_t47_large_frames_wait_for_memory),       cmocka_unit_test(test_t47_prices_are_whole_or_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
