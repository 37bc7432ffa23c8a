/* Frame protocol: round trips, arrival in pieces, descriptors, limits, hostile bytes. Everything runs over a real
 * socket pair, but for the mutation loop, which calls the decoder directly on seeded damage. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/frame.h"
#include "engine/frame_wire.h"

static uint64_t rng_next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static const int32_t ids[] = {0, 1, 2, 49190, 49190, 2147483647};
static const int32_t eos[] = {2, 49279};
static const int32_t banned[] = {49190};
static const struct frame_bias bias[] = {{7, -100.0f}, {8, 2.5f}};
static const struct frame_tile tiles[] = {{.hash = {1, 2, 3}, .fd_index = 0, .tile_index = 0},
                                          {.hash = {4}, .fd_index = 1, .tile_index = 3},
                                          {.hash = {0xFF}, .fd_index = 1, .tile_index = 4}};

static struct frame_submit sample_submit(const int *fds)
{
    return (struct frame_submit){.sequence = 0xFEDCBA9876543210u,
                                 .account = 42,
                                 .weight = 3,
                                 .priority = -7,
                                 .deadline_ms = 123456789012,
                                 .sampling = {.temperature = 0.7f,
                                              .top_p = 0.95f,
                                              .min_p = 0.05f,
                                              .top_k = 40,
                                              .frequency_penalty = -2,
                                              .presence_penalty = 2,
                                              .repetition_penalty = 1.1f,
                                              .seed = UINT64_MAX,
                                              .choice = 7,
                                              .top_logprobs = 20,
                                              .max_tokens = 256,
                                              .min_tokens = 3,
                                              .ignore_eos = true},
                                 .ids = ids,
                                 .n_ids = 6,
                                 .tiles = tiles,
                                 .n_tiles = fds ? 3 : 0,
                                 .eos = eos,
                                 .n_eos = 2,
                                 .banned = banned,
                                 .n_banned = 1,
                                 .bias = bias,
                                 .n_bias = 2,
                                 .fds = fds,
                                 .n_fds = fds ? 2 : 0};
}

static const int32_t step_tokens[] = {11, 12};
static const struct frame_logprob step_logprobs[] = {{11, -0.5f}, {11, -0.5f}, {13, -INFINITY}, {12, 0.0f}, {12, 0.0f}, {5, -9.0f}};
static const struct frame_step_row step_rows[] = {
    {.sequence = 1, .n_tokens = 2, .tokens = step_tokens, .n_top = 2, .logprobs = step_logprobs, .cached_tokens = 32},
    {.sequence = 2, .finish = FINISH_LENGTH, .n_tokens = 1, .tokens = step_tokens},
    {.sequence = 3, .finish = FINISH_ERROR, .err = {.code = ERR_NUMERIC, .param = "p", .msg = "logits are not finite: é"}},
};

static const struct frame_hello sample_hello = {.version = FRAME_VERSION,
                                                .model_hash = {9, 8, 7},
                                                .max_context = 8192,
                                                .vocab = 49280,
                                                .block_tokens = 16,
                                                .n_blocks = 512,
                                                .max_sequences = 64,
                                                .tile_px = 512,
                                                .tokens_per_tile = 64,
                                                .image_token = 49190,
                                                .weight_bytes = 1ull << 40,
                                                .kv_bytes = (1ull << 33) + 1,
                                                .device = "cpu (AVX2)"};

static const struct frame_prediction sample_prediction = {.running = 1,
                                                          .waiting = 2,
                                                          .free_blocks = 3,
                                                          .n_blocks = 4,
                                                          .side_by_side = 5,
                                                          .first_token_ms = 4.5f,
                                                          .prompt_token_ms = 0.25f,
                                                          .tokens_per_s = 6.5f,
                                                          .error_p90 = -1};

static const struct frame_failed sample_failed = {.err = {.code = ERR_MEMORY, .msg = "needs 12 MiB, 3 MiB are free: é"}};

static void assert_prediction_equal(const struct frame_prediction *p)
{
    const struct frame_prediction *q = &sample_prediction;
    assert_true(p->running == q->running && p->waiting == q->waiting && p->free_blocks == q->free_blocks && p->n_blocks == q->n_blocks);
    assert_int_equal(p->side_by_side, q->side_by_side);
    assert_true(p->first_token_ms == q->first_token_ms && p->prompt_token_ms == q->prompt_token_ms);
    assert_true(p->tokens_per_s == q->tokens_per_s && p->error_p90 == q->error_p90);
}

static void assert_submit_equal(const struct frame_submit *a, const struct frame_submit *b)
{
    assert_int_equal(a->sequence, b->sequence);
    assert_int_equal(a->account, b->account);
    assert_int_equal(a->weight, b->weight);
    assert_int_equal(a->priority, b->priority);
    assert_int_equal(a->deadline_ms, b->deadline_ms);
    const struct frame_sampling *s = &a->sampling, *t = &b->sampling;
    assert_true(s->temperature == t->temperature && s->top_p == t->top_p && s->min_p == t->min_p && s->top_k == t->top_k);
    assert_true(s->frequency_penalty == t->frequency_penalty && s->presence_penalty == t->presence_penalty);
    assert_true(s->repetition_penalty == t->repetition_penalty && s->seed == t->seed && s->choice == t->choice);
    assert_true(s->top_logprobs == t->top_logprobs && s->max_tokens == t->max_tokens && s->min_tokens == t->min_tokens &&
                s->ignore_eos == t->ignore_eos);
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, a->n_ids * sizeof *a->ids);
    assert_int_equal(a->n_tiles, b->n_tiles);
    for (uint32_t i = 0; i < a->n_tiles; i++) assert_memory_equal(&a->tiles[i], &b->tiles[i], sizeof a->tiles[i]);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_memory_equal(a->eos, b->eos, a->n_eos * sizeof *a->eos);
    assert_int_equal(a->n_banned, b->n_banned);
    assert_memory_equal(a->banned, b->banned, a->n_banned * sizeof *a->banned);
    assert_int_equal(a->n_bias, b->n_bias);
    for (uint32_t i = 0; i < a->n_bias; i++) assert_true(a->bias[i].token == b->bias[i].token && a->bias[i].bias == b->bias[i].bias);
    assert_int_equal(a->n_fds, b->n_fds);
}

static void assert_step_equal(const struct frame_step *s)
{
    assert_int_equal(s->n_rows, 3);
    for (uint32_t i = 0; i < 3; i++) {
        const struct frame_step_row *a = &step_rows[i], *b = &s->rows[i];
        assert_int_equal(a->sequence, b->sequence);
        assert_int_equal(a->finish, b->finish);
        assert_int_equal(a->cached_tokens, b->cached_tokens);
        assert_int_equal(a->n_tokens, b->n_tokens);
        if (a->n_tokens) assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens);
        assert_int_equal(a->n_top, b->n_top);
        assert_int_equal(!!a->logprobs, !!b->logprobs);
        for (uint32_t k = 0; a->logprobs && k < a->n_tokens * (1 + a->n_top); k++)
            assert_true(a->logprobs[k].token == b->logprobs[k].token && a->logprobs[k].logprob == b->logprobs[k].logprob);
        assert_int_equal(a->err.code, b->err.code);
        assert_string_equal(a->err.msg, b->err.msg);
        assert_string_equal(a->err.param, b->err.param);
    }
}

struct pair {
    struct frame_conn *a, *b;
};

static struct pair pair_new(size_t max_queue)
{
    int s[2];
    struct pair p;
    struct err e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    assert_int_equal(frame_conn_new(&p.a, s[0], max_queue, &e), 0);
    assert_int_equal(frame_conn_new(&p.b, s[1], max_queue, &e), 0);
    return p;
}

static void pair_free(struct pair *p)
{
    frame_conn_free(p->a);
    frame_conn_free(p->b);
}

static void put_one_of_each(struct buf *out)
{
    struct frame_submit s = sample_submit(NULL);
    assert_int_equal(frame_put_hello(out, &sample_hello), 0);
    assert_int_equal(frame_put_submit(out, &s), 0);
    assert_int_equal(frame_put_cancel(out, &(struct frame_cancel){.sequence = 77}), 0);
    assert_int_equal(frame_put_step(out, &(struct frame_step){.rows = step_rows, .n_rows = 3}), 0);
    assert_int_equal(frame_put_prediction(out, &sample_prediction), 0);
    assert_int_equal(frame_put_drain(out), 0);
    assert_int_equal(frame_put_failed(out, &sample_failed), 0);
}

static void assert_sample_frame(const struct frame *f, int i)
{
    struct frame_submit s = sample_submit(NULL);
    assert_int_equal(f->type, FRAME_HELLO + i);
    if (f->type == FRAME_HELLO) {
        assert_string_equal(f->u.hello.device, sample_hello.device);
        assert_memory_equal(f->u.hello.model_hash, sample_hello.model_hash, FRAME_HASH_BYTES);
        assert_int_equal(f->u.hello.max_context, 8192);
        assert_int_equal(f->u.hello.image_token, 49190);
        assert_int_equal(f->u.hello.weight_bytes, sample_hello.weight_bytes);
        assert_int_equal(f->u.hello.kv_bytes, sample_hello.kv_bytes);
        assert_int_equal(f->u.hello.tokens_per_tile, 64);
    }
    if (f->type == FRAME_SUBMIT) assert_submit_equal(&s, &f->u.submit);
    if (f->type == FRAME_CANCEL) assert_int_equal(f->u.cancel.sequence, 77);
    if (f->type == FRAME_STEP) assert_step_equal(&f->u.step);
    if (f->type == FRAME_FAILED) {
        assert_int_equal(f->u.failed.err.code, ERR_MEMORY);
        assert_string_equal(f->u.failed.err.msg, sample_failed.err.msg);
    }
    if (f->type == FRAME_PREDICTION) assert_prediction_equal(&f->u.prediction);
}

static void test_frames_of_every_type_come_back_equal(void **state)
{
    (void)state;
    struct pair p = pair_new(1 << 20);
    struct err e;
    struct frame f;
    put_one_of_each(frame_conn_out(p.a));
    assert_int_equal(frame_conn_flush(p.a, &e), 0);
    assert_int_equal(frame_conn_read(p.b, &e), 0);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(frame_conn_next(p.b, &f, &e), 1);
        assert_sample_frame(&f, i);
    }
    assert_int_equal(frame_conn_next(p.b, &f, &e), 0);
    pair_free(&p);
}

static void test_frames_arrive_cut_at_every_byte(void **state)
{
    (void)state;
    struct buf all;
    buf_init(&all, 1 << 20);
    put_one_of_each(&all);
    for (size_t cut = 1; cut < all.len; cut++) {
        struct pair p = pair_new(1 << 20);
        struct err e;
        struct frame f;
        int got = 0, rc = 0;
        for (int half = 0; half < 2; half++) {
            const char *from = all.data + (half ? cut : 0);
            size_t n = half ? all.len - cut : cut;
            assert_int_equal(send(frame_conn_fd(p.a), from, n, 0), n);
            assert_int_equal(frame_conn_read(p.b, &e), 0);
            while ((rc = frame_conn_next(p.b, &f, &e)) == 1) assert_sample_frame(&f, got++);
            assert_int_equal(rc, 0);
        }
        assert_int_equal(got, 7);
        pair_free(&p);
    }
    buf_free(&all);
}

static int memfd_with(const char *text)
{
    int fd = memfd_create("t", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

static void assert_memfd_holds(int fd, const char *text)
{
    char got[64] = {0};
    assert_int_equal(pread(fd, got, sizeof got - 1, 0), strlen(text));
    assert_string_equal(got, text);
}

static void submit_with_fds(struct frame_conn *c, uint64_t sequence, const int *fds)
{
    struct err e;
    struct frame_submit s = sample_submit(fds);
    s.sequence = sequence;
    assert_int_equal(frame_put_submit(frame_conn_out(c), &s), 0);
    assert_int_equal(frame_conn_attach(c, fds, 2, &e), 0);
}

static void test_descriptors_arrive_with_their_own_frame(void **state)
{
    (void)state;
    struct pair p = pair_new(4 << 20);
    struct err e;
    struct frame f;
    int a[2] = {memfd_with("a0"), memfd_with("a1")}, b[2] = {memfd_with("b0"), memfd_with("b1")};
    for (uint64_t i = 0; i < 200; i++) { /* far more than one read may hold */
        submit_with_fds(p.a, i, i % 2 ? b : a);
        if (i % 3 == 0) assert_int_equal(frame_put_cancel(frame_conn_out(p.a), &(struct frame_cancel){.sequence = i}), 0);
        if (i % 5 == 0) assert_true(frame_conn_flush(p.a, &e) >= 0);
    }
    for (int i = 0; i < 2; i++) close(a[i]), close(b[i]);
    uint64_t got = 0;
    while (got < 200) {
        int left = frame_conn_flush(p.a, &e), rc;
        assert_true(left >= 0);
        assert_int_equal(frame_conn_read(p.b, &e), 0);
        while ((rc = frame_conn_next(p.b, &f, &e)) == 1) {
            if (f.type != FRAME_SUBMIT) continue;
            assert_int_equal(f.u.submit.sequence, got);
            assert_int_equal(f.u.submit.n_fds, 2);
            assert_memfd_holds(f.u.submit.fds[0], got % 2 ? "b0" : "a0");
            assert_memfd_holds(f.u.submit.fds[1], got % 2 ? "b1" : "a1");
            assert_true(fcntl(f.u.submit.fds[0], F_GETFD) & FD_CLOEXEC);
            close(f.u.submit.fds[0]), close(f.u.submit.fds[1]);
            got++;
        }
        assert_int_equal(rc, 0);
    }
    pair_free(&p);
}

/* Sends raw bytes with n descriptors of /dev/null and expects next() to refuse them; every descriptor must be closed
 * afterwards. */
static void expect_refused(const void *bytes, size_t n, int n_fds, const char *why)
{
    int fds[64], before = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(before);
    struct pair p = pair_new(1 << 20);
    struct err e;
    struct frame f;
    for (int i = 0; i < n_fds; i++) fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = n_fds ? &control : NULL,
                       .msg_controllen = n_fds ? CMSG_SPACE(sizeof(int) * (size_t)n_fds) : 0};
    if (n_fds) {
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
        memcpy(CMSG_DATA(h), fds, sizeof(int) * (size_t)n_fds);
    }
    assert_int_equal(sendmsg(frame_conn_fd(p.a), &m, 0), n);
    for (int i = 0; i < n_fds; i++) close(fds[i]);
    int rc = frame_conn_read(p.b, &e);
    for (int i = 0; rc >= 0 && i < 10; i++) rc = frame_conn_next(p.b, &f, &e);
    assert_int_equal(rc, -ERR_INPUT);
    if (!strstr(e.msg, why)) fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
    pair_free(&p);
    int after = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the lowest free number: nothing was left open */
    assert_int_equal(after, before);
    close(after);
}

static void test_descriptor_counts_must_match(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    struct frame_submit s = sample_submit((int[]){0, 0});
    assert_int_equal(frame_put_submit(&b, &s), 0);
    expect_refused(b.data, b.len, 0, "says 2 descriptors, 0 came");
    expect_refused(b.data, b.len, 1, "says 2 descriptors, 1 came");
    expect_refused(b.data, b.len, 3, "belong to no frame");
    expect_refused(b.data, b.len, 64, "more descriptors");
    b.data[6] = 1; /* tiles name descriptor 1, the header has one */
    expect_refused(b.data, b.len, 1, "a descriptor that did not come");
    b.data[6] = 33;
    expect_refused(b.data, b.len, 0, "the limit is 32");
    buf_clear(&b);
    assert_int_equal(frame_put_drain(&b), 0);
    b.data[6] = 1;
    expect_refused(b.data, b.len, 1, "carries no descriptors");
    buf_free(&b);
}

static void test_headers_that_lie_are_refused(void **state)
{
    (void)state;
    expect_refused("\1\0\x10\0\2\0\0\0", 8, 0, "the limit is 1048576"); /* 1 MiB + 1 */
    expect_refused("\xff\xff\xff\xff\2\0\0\0", 8, 0, "the limit is");
    expect_refused("\0\0\0\0\x63\0\0\0", 8, 0, "unknown type");
    expect_refused("\0\0\0\0\0\0\0\0", 8, 0, "unknown type");
    expect_refused("\1\0\0\0\6\0\0\0x", 9, 0, "bytes are left over");
    expect_refused("\4\0\0\0\3\0\0\0abcd", 12, 0, "ends inside a field");
    expect_refused("\4\0\0\0\4\0\0\0\xff\xff\xff\x7f", 12, 0, "too many rows");
    expect_refused("\4\0\0\0\4\0\0\0\xff\x0f\0\0", 12, 0, "a count exceeds the bytes that are there");
}

static int decode_bytes(enum frame_type type, const char *body, size_t n, uint32_t n_fds, struct err *e)
{
    static const int no_fds[FRAME_MAX_FDS];
    struct arena a;
    struct frame f;
    arena_init(&a, 16 << 20);
    void *exact = malloc(n ? n : 1); /* exactly n bytes, so that the sanitizer sees any over-read */
    assert_non_null(exact);
    memcpy(exact, body, n);
    int rc = frame_decode(type, exact, n, no_fds, n_fds, &a, &f, e);
    free(exact);
    arena_free(&a);
    return rc;
}

static void test_values_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct frame_sampling s;
        const char *why;
    } cases[] = {
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1, .max_tokens = 1}, "temperature"},
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1, .max_tokens = 1}, "temperature"},
        {{.temperature = INFINITY, .top_p = 1, .repetition_penalty = 1, .max_tokens = 1}, "temperature"},
        {{.top_p = 1.5f, .repetition_penalty = 1, .max_tokens = 1}, "top_p"},
        {{.top_p = 1, .min_p = -0.1f, .repetition_penalty = 1, .max_tokens = 1}, "min_p"},
        {{.top_p = 1, .top_k = -1, .repetition_penalty = 1, .max_tokens = 1}, "top_k"},
        {{.top_p = 1, .frequency_penalty = NAN, .repetition_penalty = 1, .max_tokens = 1}, "frequency_penalty"},
        {{.top_p = 1, .presence_penalty = -INFINITY, .repetition_penalty = 1, .max_tokens = 1}, "presence_penalty"},
        {{.top_p = 1, .repetition_penalty = 0, .max_tokens = 1}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .top_logprobs = 21, .max_tokens = 1}, "top_logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .top_logprobs = -2, .max_tokens = 1}, "top_logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .max_tokens = 0}, "max_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b;
        struct err e;
        buf_init(&b, 1 << 20);
        struct frame_submit s = sample_submit(NULL);
        s.sampling = cases[i].s;
        assert_int_equal(frame_put_submit(&b, &s), 0);
        assert_int_equal(decode_bytes(FRAME_SUBMIT, b.data + 8, b.len - 8, 0, &e), -ERR_INPUT);
        if (!strstr(e.msg, cases[i].why)) fail_msg("case %zu: %s", i, e.msg);
        buf_free(&b);
    }
}

static void expect_body_refused(const struct buf *b, const char *why)
{
    struct err e;
    const uint8_t *h = (const uint8_t *)b->data;
    assert_int_equal(decode_bytes((enum frame_type)h[4], b->data + 8, b->len - 8, h[6], &e), -ERR_INPUT);
    if (!strstr(e.msg, why)) fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void test_submits_out_of_range_are_refused(void **state)
{
    (void)state;
    static const int32_t negative[] = {1, -1};
    static const struct frame_bias not_a_number[] = {{1, NAN}}, infinite[] = {{1, -INFINITY}}, no_token[] = {{-1, 0}};
    for (int i = 0; i < 9; i++) {
        static const char *const why[] = {"weight is 0",          "deadline is negative", "prompt is empty",
                                          "id is negative",       "id is negative",       "id is negative",
                                          "bias is out of range", "bias is out of range", "id is negative"};
        struct frame_submit s = sample_submit(NULL);
        if (i == 0) s.weight = 0;
        if (i == 1) s.deadline_ms = -1;
        if (i == 2) s.n_ids = 0;
        if (i == 3) s.ids = negative, s.n_ids = 2;
        if (i == 4) s.eos = negative, s.n_eos = 2;
        if (i == 5) s.banned = negative, s.n_banned = 2;
        if (i == 6) s.bias = not_a_number, s.n_bias = 1;
        if (i == 7) s.bias = infinite, s.n_bias = 1;
        if (i == 8) s.bias = no_token, s.n_bias = 1;
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(frame_put_submit(&b, &s), 0);
        expect_body_refused(&b, why[i]);
        buf_free(&b);
    }
}

static void test_hellos_out_of_range_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 9; i++) {
        static const char *const why[] = {"another version", "out of range", "out of range", "out of range",        "out of range",
                                          "out of range",    "not one line", "not text",     "tiles without tokens"};
        struct frame_hello h = sample_hello;
        if (i == 0) h.version++;
        if (i == 1) h.image_token = -2;
        if (i == 2) h.image_token = (int32_t)h.vocab;
        if (i == 3) h.vocab = (uint32_t)INT32_MAX + 1;
        if (i == 4) h.tile_px = (1 << 14) + 1;
        if (i == 5) h.tokens_per_tile = (1 << 20) + 1;
        if (i == 6) strcpy(h.device, "cpu\nfatal: the logs lie");
        if (i == 7) strcpy(h.device, "cpu\xff");
        if (i == 8) h.tokens_per_tile = 0;
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(frame_put_hello(&b, &h), 0);
        expect_body_refused(&b, why[i]);
        buf_free(&b);
    }
}

static void test_steps_out_of_range_are_refused(void **state)
{
    (void)state;
    static const int32_t negative = -1, token = 1;
    static const struct frame_logprob lp[22] = {{1, 0}}, not_a_number[] = {{1, NAN}}, above[] = {{1, 1}}, infinite[] = {{1, INFINITY}},
                                      no_token[] = {{-1, -1}};
    const struct {
        struct frame_step_row row;
        const char *why;
    } cases[] = {
        {{.n_tokens = 1, .tokens = &negative}, "id is negative"},
        {{.n_tokens = 1, .tokens = &token, .n_top = 21, .logprobs = lp}, "too many alternatives"},
        {{.n_tokens = 1, .tokens = &token, .logprobs = not_a_number}, "logprob is out of range"},
        {{.n_tokens = 1, .tokens = &token, .logprobs = above}, "logprob is out of range"},
        {{.n_tokens = 1, .tokens = &token, .logprobs = infinite}, "logprob is out of range"},
        {{.n_tokens = 1, .tokens = &token, .logprobs = no_token}, "id is negative"},
        {{.finish = FINISH_ERROR + 1}, "unknown finish"},
        {{.finish = FINISH_ERROR, .err = {.code = ERR_NONE}}, "unknown error code"},
        {{.finish = FINISH_ERROR, .err = {.code = ERR_CODES}}, "unknown error code"},
        {{.finish = FINISH_ERROR, .err = {.code = ERR_INPUT, .msg = "\xc3"}}, "not text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(frame_put_step(&b, &(struct frame_step){.rows = &cases[i].row, .n_rows = 1}), 0);
        expect_body_refused(&b, cases[i].why);
        buf_free(&b);
    }
}

static void test_predictions_out_of_range_are_refused(void **state)
{
    (void)state;
    enum { BAD = 5, FIELDS = 4 };
    static const float bad[BAD] = {NAN, INFINITY, -0.5f, -2, 2e12f};
    for (size_t i = 0; i < BAD * FIELDS; i++) {
        struct frame_prediction p = sample_prediction;
        float *fields[FIELDS] = {&p.first_token_ms, &p.prompt_token_ms, &p.tokens_per_s, &p.error_p90};
        *fields[i / BAD] = bad[i % BAD];
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(frame_put_prediction(&b, &p), 0);
        expect_body_refused(&b, "out of range");
        buf_free(&b);
    }
}

static void test_reasons_of_a_failed_worker_are_one_line(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct frame_failed f = sample_failed;
        if (i == 0) strcpy(f.err.msg, "no\nfatal: the logs lie");
        if (i == 1) f.err.code = ERR_NONE;
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(frame_put_failed(&b, &f), 0);
        expect_body_refused(&b, i ? "unknown error code" : "not one line");
        buf_free(&b);
    }
}

static void test_prediction_of_more_free_blocks_than_there_are_is_refused(void **state)
{
    (void)state;
    struct frame_prediction p = sample_prediction;
    p.free_blocks = p.n_blocks + 1;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(frame_put_prediction(&b, &p), 0);
    expect_body_refused(&b, "more blocks are free");
    buf_free(&b);
}

/* Every truncation fails; every mutation either fails or decodes, never more (the sanitizers watch). */
static void test_damaged_bodies_never_crash_the_decoder(void **state)
{
    (void)state;
    struct buf all;
    buf_init(&all, 1 << 20);
    put_one_of_each(&all);
    struct frame_submit with_tiles = sample_submit((int[]){0, 0});
    assert_int_equal(frame_put_submit(&all, &with_tiles), 0);
    uint64_t seed = 20260101;
    size_t accepted = 0, refused = 0;
    for (size_t at = 0; at < all.len;) {
        const uint8_t *h = (const uint8_t *)all.data + at;
        size_t n = h[0] | (size_t)h[1] << 8;
        enum frame_type type = (enum frame_type)h[4];
        const char *body = all.data + at + 8;
        struct err e;
        for (size_t cut = 0; cut < n; cut++) assert_int_equal(decode_bytes(type, body, cut, h[6], &e), -ERR_INPUT);
        assert_int_equal(decode_bytes(type, body, n, h[6], &e), 0);
        for (int round = 0; n && round < 20000; round++) {
            char m[4096];
            memcpy(m, body, n);
            for (uint64_t k = 1 + rng_next(&seed) % 4; k > 0; k--) {
                static const char spice[] = {0, 1, -1, 127, -128};
                uint64_t r = rng_next(&seed);
                m[r % n] = r >> 63 ? spice[(r >> 40) % 5] : (char)(r >> 32);
            }
            size_t len = rng_next(&seed) % 8 ? n : rng_next(&seed) % (n + 1);
            int rc = decode_bytes((enum frame_type)(rng_next(&seed) % 32 ? (int)type : (int)(rng_next(&seed) % 9)), m, len, h[6], &e);
            assert_true(rc == 0 || rc == -ERR_INPUT);
            if (rc)
                refused++;
            else
                accepted++;
        }
        at += 8 + n;
    }
    assert_true(refused > 1000 && accepted > 1000); /* the loop tried both sides */
    buf_free(&all);
}

static void test_queue_has_a_limit_and_survives_it(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 600);
    struct frame_submit s = sample_submit(NULL);
    int rc;
    size_t before = 0, n = 0;
    for (n = 0; (rc = frame_put_submit(&b, &s)) == 0; n++) before = b.len;
    assert_int_equal(rc, -ERR_LIMIT);
    assert_true(n >= 1);
    assert_int_equal(b.len, before);
    assert_int_equal(frame_put_drain(&b), 0); /* a smaller one still fits */
    buf_free(&b);
}

static void test_frame_above_a_mebibyte_is_not_made(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 8 << 20);
    int32_t *many = calloc(1 << 18, sizeof *many);
    assert_non_null(many);
    struct frame_submit s = sample_submit(NULL);
    s.ids = many;
    s.n_ids = 1 << 18;
    assert_int_equal(frame_put_submit(&b, &s), -ERR_LIMIT);
    assert_int_equal(b.len, 0);
    s.n_ids = (1 << 18) - 100;
    assert_int_equal(frame_put_submit(&b, &s), 0);
    free(many);
    buf_free(&b);
}

static void test_flush_tells_that_some_is_left_and_goes_on(void **state)
{
    (void)state;
    struct pair p = pair_new(64 << 20);
    struct err e;
    struct frame f;
    uint64_t put = 0, got = 0;
    int left = 0;
    while (left == 0) { /* until the socket is full */
        for (int i = 0; i < 100; i++) {
            struct frame_submit s = sample_submit(NULL);
            s.sequence = put++;
            assert_int_equal(frame_put_submit(frame_conn_out(p.a), &s), 0);
        }
        left = frame_conn_flush(p.a, &e);
    }
    assert_int_equal(left, 1);
    int fds[2] = {memfd_with("a0"), memfd_with("a1")};
    submit_with_fds(p.a, put++, fds); /* behind a frame that went out in part */
    close(fds[0]), close(fds[1]);
    while (got < put) {
        int rc;
        assert_int_equal(frame_conn_read(p.b, &e), 0);
        while ((rc = frame_conn_next(p.b, &f, &e)) == 1) {
            assert_int_equal(f.u.submit.sequence, got);
            got++;
            if (f.u.submit.n_fds) assert_memfd_holds(f.u.submit.fds[1], "a1");
            for (uint32_t i = 0; i < f.u.submit.n_fds; i++) close(f.u.submit.fds[i]);
        }
        assert_int_equal(rc, 0);
        assert_true(frame_conn_flush(p.a, &e) >= 0);
    }
    pair_free(&p);
}

static void test_attach_without_room_for_descriptors_takes_the_frame_back(void **state)
{
    (void)state;
    struct pair p = pair_new(1 << 20);
    struct err e;
    int bad[2] = {-1, -1};
    struct frame_submit s = sample_submit(bad);
    assert_int_equal(frame_put_drain(frame_conn_out(p.a)), 0);
    size_t before = frame_conn_out(p.a)->len;
    assert_int_equal(frame_put_submit(frame_conn_out(p.a), &s), 0);
    assert_int_equal(frame_conn_attach(p.a, bad, 2, &e), -ERR_IO);
    assert_int_equal(frame_conn_out(p.a)->len, before);
    pair_free(&p);
}

static void test_closed_peer_is_gone(void **state)
{
    (void)state;
    struct pair p = pair_new(1 << 20);
    struct err e;
    struct frame f;
    assert_int_equal(frame_put_drain(frame_conn_out(p.a)), 0);
    assert_int_equal(frame_conn_flush(p.a, &e), 0);
    frame_conn_free(p.a);
    assert_int_equal(frame_conn_read(p.b, &e), 0); /* what was sent before is still read */
    assert_int_equal(frame_conn_next(p.b, &f, &e), 1);
    assert_int_equal(frame_conn_read(p.b, &e), -ERR_GONE);
    assert_int_equal(frame_put_drain(frame_conn_out(p.b)), 0);
    assert_int_equal(frame_conn_flush(p.b, &e), -ERR_GONE);
    frame_conn_free(p.b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_of_every_type_come_back_equal),
        cmocka_unit_test(test_frames_arrive_cut_at_every_byte),
        cmocka_unit_test(test_descriptors_arrive_with_their_own_frame),
        cmocka_unit_test(test_descriptor_counts_must_match),
        cmocka_unit_test(test_headers_that_lie_are_refused),
        cmocka_unit_test(test_values_out_of_range_are_refused),
        cmocka_unit_test(test_submits_out_of_range_are_refused),
        cmocka_unit_test(test_hellos_out_of_range_are_refused),
        cmocka_unit_test(test_steps_out_of_range_are_refused),
        cmocka_unit_test(test_predictions_out_of_range_are_refused),
        cmocka_unit_test(test_reasons_of_a_failed_worker_are_one_line),
        cmocka_unit_test(test_prediction_of_more_free_blocks_than_there_are_is_refused),
        cmocka_unit_test(test_damaged_bodies_never_crash_the_decoder),
        cmocka_unit_test(test_queue_has_a_limit_and_survives_it),
        cmocka_unit_test(test_frame_above_a_mebibyte_is_not_made),
        cmocka_unit_test(test_flush_tells_that_some_is_left_and_goes_on),
        cmocka_unit_test(test_attach_without_room_for_descriptors_takes_the_frame_back),
        cmocka_unit_test(test_closed_peer_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
