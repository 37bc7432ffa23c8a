/* A request gives the same bytes, tokens and log probabilities, whatever else runs, however its prompt is cut, whatever the cache holds, whether it
 * is preempted, whatever is guessed, and with any number of threads: DESIGN's "exact", for every form of weights and cache. */
#include "tests/unit/engine_harness.h"

#ifdef SPILLWAY_TEST_CUDA /* the library; it is the simulated one, and slow */
enum { TIMES = 1, COMPANY = 8, MADE = 12, KV_TOKENS = 1024, OTHER_PROMPT = 60 };
#define DEVICE "cuda"
#else
enum { TIMES = 20, COMPANY = 64, MADE = 40, KV_TOKENS = 8192, OTHER_PROMPT = 40 };
#define DEVICE "cpu"
#define SPILLWAY_TEST_CUDA NULL
#define CPU_HAS_F32 1
#endif
enum { MAX_PROMPT = 128, TILES = 5 };

struct form {
    const char *model;
    enum compute compute;
    enum dtype kv_dtype;
    enum model_quant quant, head;
    bool pictures;
};
static const struct form forms[] = {
#ifdef CPU_HAS_F32
    {"smollm2-f32", COMPUTE_F32, DTYPE_F32, MODEL_QUANT_NONE, MODEL_QUANT_NONE, false},
    {"idefics3-f32", COMPUTE_F32, DTYPE_F32, MODEL_QUANT_INT8, MODEL_QUANT_INT8, true},
#endif
    {"smollm3-bf16", COMPUTE_BF16, DTYPE_BF16, MODEL_QUANT_NONE, MODEL_QUANT_NONE, false},
    {"smollm2-bf16", COMPUTE_BF16, DTYPE_I8, MODEL_QUANT_INT8, MODEL_QUANT_INT8, false},
    {"smollm2-bf16", COMPUTE_BF16, DTYPE_E4M3, MODEL_QUANT_INT4, MODEL_QUANT_FP8, false},
    {"idefics3-bf16", COMPUTE_BF16, DTYPE_BF16, MODEL_QUANT_NONE, MODEL_QUANT_NONE, true},
};
enum { FORMS = sizeof forms / sizeof *forms };

/* One form's models, of which engines are made; the small one's cache makes two sequences preempt each other. */
struct bench {
    const struct form *form;
    struct model *threads[2], *small;
    int fds[2]; /* pictures */
    uint32_t rng;
    uint64_t guessed, right, preempted;
};

static uint32_t pick(struct bench *b, uint32_t n)
{
    b->rng = b->rng * 1664525u + 1013904223u;
    return (b->rng >> 8) % n;
}

static struct model *open_form(const struct form *f, int threads, uint64_t kv_tokens)
{
    return open_golden(f->model, &(struct model_options){.device = DEVICE,
                                                         .cuda_library = SPILLWAY_TEST_CUDA,
                                                         .compute = f->compute,
                                                         .kv_dtype = f->kv_dtype,
                                                         .quant = f->quant,
                                                         .quant_head = f->head,
                                                         .threads = threads,
                                                         .kv_tokens = kv_tokens});
}

struct text {
    int32_t ids[MAX_PROMPT];
    struct frame_tile tiles[TILES];
};

/* With pictures the first ids are of TILES tiles. What it repeats can be guessed. */
static struct frame_submit random_request(struct bench *b, struct text *t, uint64_t sequence, uint32_t n, bool picture)
{
    const struct model_limits *l = model_limits(b->threads[0]);
    uint32_t at = 0;
    if (picture) {
        struct picture_prompt p = picture_prompt(l, TILES, (uint8_t)pick(b, 2));
        memcpy(t->ids, p.ids, p.n * sizeof *p.ids);
        memcpy(t->tiles, p.tiles, sizeof t->tiles);
        at = p.n;
        assert_true(at < n);
    }
    const uint32_t begin = at, period = 3 + pick(b, 20);
    for (; at < n; at++) t->ids[at] = at - begin < period ? (int32_t)(3 + pick(b, 600)) : t->ids[at - period];
    struct frame_submit f = greedy(sequence, t->ids, n, MADE);
    f.account = pick(b, 3);
    if (pick(b, 2)) {
        f.sampling.temperature = 0.8f;
        f.sampling.seed = pick(b, 1u << 20);
        f.sampling.top_p = pick(b, 2) ? 0.9f : 1;
        f.sampling.repetition_penalty = pick(b, 2) ? 1.1f : 1;
    }
    f.sampling.top_logprobs = MAX_TOP;
    if (!picture) return f;
    f.tiles = t->tiles;
    f.n_tiles = TILES;
    f.fds = &b->fds[t->tiles[0].hash[0]];
    f.n_fds = 1;
    return f;
}

static struct engine *new_engine(struct model *m, struct engine_options o)
{
    struct engine *en;
    struct err e;
    o.picture_cache_bytes = ENGINE_PICTURE_CACHE_BYTES;
    if (engine_new_with(&en, m, &o, &e)) fail_msg("%s", e.msg);
    return en;
}

static void end_engine(struct bench *b, struct engine *en)
{
    struct engine_figures f;
    engine_figures(en, &f);
    assert_int_equal(f.blocks_used, 0);
    b->guessed += f.tokens_guessed;
    b->right += f.guesses_right;
    b->preempted += f.preempted;
    engine_free(en);
}

static void same(const char *how, const struct bench *b, int i, const struct answer *want, const struct answer *got)
{
    bool equal = want->finish == got->finish && want->n == got->n && !memcmp(want->tokens, got->tokens, sizeof want->tokens) &&
                 want->n_logprobs == got->n_logprobs && !memcmp(want->logprobs, got->logprobs, sizeof want->logprobs);
    if (!equal) fail_msg("%s, time %d: %s gives other bytes", b->form->model, i, how);
}

static struct answer alone(struct bench *b, struct model *m, const struct frame_submit *f, struct engine_options o)
{
    struct answer a[1] = {0};
    struct engine *en = new_engine(m, o);
    submit(en, f);
    run_all(en, a);
    end_engine(b, en);
    assert_int_equal(a->finish, FINISH_LENGTH);
    assert_int_equal(a->n_logprobs, MADE * (1 + MAX_TOP));
    return *a;
}

/* Others come before and after it, some between steps. */
static struct answer in_company(struct bench *b, const struct frame_submit *f, struct engine_options o)
{
    static struct answer a[COMPANY];
    struct engine *en = new_engine(b->threads[pick(b, 2)], o);
    const uint32_t mine = 1 + pick(b, COMPANY - 2);
    memset(a, 0, sizeof a);
    for (uint32_t i = 1; i < COMPANY; i++) {
        struct text t;
        struct frame_submit other = random_request(b, &t, i, 60 + pick(b, 60), b->form->pictures && pick(b, 4) == 0);
        if (pick(b, 3)) { /* short, and cut short */
            other.n_ids = other.n_tiles ? other.n_ids : 1 + pick(b, 30);
            other.sampling.max_tokens = 1 + pick(b, MADE);
        }
        submit(en, &other);
        if (i == mine) submit(en, f);
        if (pick(b, 8) == 0) run_step(en, a);
    }
    run_all(en, a);
    end_engine(b, en);
    return a[0];
}

static struct answer after_a_hit(struct bench *b, const struct frame_submit *f, struct engine_options o)
{
    struct answer a[2] = {0};
    struct engine *en = new_engine(b->threads[pick(b, 2)], o);
    struct frame_submit before = *f;
    before.sequence = 1;
    before.sampling.temperature = 1;
    before.sampling.seed++;
    submit(en, &before);
    run_all(en, a);
    submit(en, f);
    run_all(en, a);
    end_engine(b, en);
    assert_true(a[0].cached >= 64 && a[1].cached == 0);
    return a[0];
}

/* Of two the younger one gives way, and comes back. */
static struct answer preempted(struct bench *b, const struct frame_submit *f, struct engine_options o)
{
    struct answer a[2] = {0};
    struct text t;
    struct frame_submit other = random_request(b, &t, 1, OTHER_PROMPT, b->form->pictures); /* soon at the end of its block */
    const uint64_t before = b->preempted;
    other.sampling.max_tokens = MAX_MADE - 1;
    other.sampling.temperature = 1; /* not guessed, so that it stays as long as the other needs room */
    other.account = f->account + 10;
    o.promised_tokens = 2;
    struct engine *en = new_engine(b->small, o);
    submit(en, &other);
    submit(en, f);
    run_all(en, a);
    end_engine(b, en);
    assert_true(b->preempted > before);
    return a[0];
}

static void run_form(const struct form *form, uint32_t seed)
{
    struct bench b = {.form = form, .rng = seed};
    for (int i = 0; i < 2; i++) b.threads[i] = open_form(form, 1 + i, KV_TOKENS);
    b.small = open_form(form, 2, 144);
    const struct model_limits *l = model_limits(b.threads[0]);
    for (uint8_t i = 0; form->pictures && i < 2; i++) b.fds[i] = tiles_fd(l, TILES, i, true);
    const struct engine_options plain = {.no_guesses = true, .no_prefix_cache = true};
    unsigned n_other = 0;
    for (int i = 0; i < TIMES; i++) {
        static const uint32_t chunks[] = {1, 7, 64};
        struct text t;
        struct frame_submit f = random_request(&b, &t, 0, 66 + pick(&b, 14), form->pictures);
        const struct answer want = alone(&b, b.threads[0], &f, plain);
        const struct engine_options o = {.no_guesses = i % 2, .always_guess = i % 2 == 0};
        struct answer got = alone(&b, b.threads[1], &f, o);
        same("two threads", &b, i, &want, &got);
        got = in_company(&b, &f, o);
        same("company", &b, i, &want, &got);
        for (int k = 0; k < 3; k++) {
            struct engine_options cut = o;
            cut.prompt_rows = chunks[k];
            got = alone(&b, b.threads[k % 2], &f, cut);
            same("a cut prompt", &b, i, &want, &got);
        }
        got = after_a_hit(&b, &f, o);
        same("a prefix found", &b, i, &want, &got);
        got = preempted(&b, &f, o);
        same("preemption", &b, i, &want, &got);
        t.ids[f.n_ids - 1]++;
        got = alone(&b, b.threads[0], &f, plain);
        n_other += memcmp(want.logprobs, got.logprobs, sizeof want.logprobs) != 0; /* one other token is seen: the comparison can fail */
    }
    assert_true(n_other > 0 && n_other + 1 >= TIMES);
    assert_true(TIMES == 1 || (b.right > 0 && b.guessed > b.right)); /* so few may have nothing that repeats itself */
    for (int i = 0; form->pictures && i < 2; i++) close(b.fds[i]);
    for (int i = 0; i < 2; i++) model_close(b.threads[i]);
    model_close(b.small);
}

static void run_forms(bool pictures, bool quantised)
{
    for (uint32_t i = 0; i < FORMS; i++)
        if (forms[i].pictures == pictures && (pictures || (forms[i].quant != MODEL_QUANT_NONE) == quantised)) run_form(&forms[i], 1 + i);
}

static void test_text(void **state)
{
    (void)state;
    run_forms(false, false);
}

static void test_quantised(void **state)
{
    (void)state;
    run_forms(false, true);
}

static void test_pictures(void **state)
{
    (void)state;
    run_forms(true, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_quantised), cmocka_unit_test(test_pictures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
