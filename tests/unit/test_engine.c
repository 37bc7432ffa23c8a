/* Engine: real golden models under the scheduler. Greedy answers equal the reference's, a seeded answer does not depend
 * on what else runs, what the cache holds, how the prompt was cut or whether it was preempted; pictures reach their positions, and submits
 * that lie are refused one by one. */
#include "tests/unit/engine_harness.h"

#include "base/json.h"
#include "weights/safetensors.h"

static json_t *read_cases(const char *name)
{
    char path[512];
    json_t *j;
    struct err e;
    snprintf(path, sizeof path, "%s/golden/%s/cases.json", SPILLWAY_GOLDEN_DIR, name);
    if (json_read_file(path, &json_limits_file, &j, &e)) fail_msg("%s", e.msg);
    return j;
}

static uint32_t read_ids(const json_t *list, int32_t *out, size_t max)
{
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= max);
    for (size_t i = 0; i < n; i++) out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)n;
}

/* Compares until the reference's margin is within the tolerance of float32. */
static void assert_greedy_equal(const char *name, const json_t *c, const struct answer *a)
{
    const json_t *want = json_object_get(c, "greedy32"), *margin = json_object_get(c, "greedy_margin");
    size_t compared = 0;
    for (; compared < a->n && json_number_value(json_array_get(margin, compared)) > 4e-4; compared++)
        if (a->tokens[compared] != json_integer_value(json_array_get(want, compared)))
            fail_msg("%s: token %zu is %d, the reference has %d", name, compared, (int)a->tokens[compared],
                     (int)json_integer_value(json_array_get(want, compared)));
    assert_true(compared > 0);
}

enum { MAX_CASES = 16, MAX_IDS = 1024, MAX_TILES = 64 };

/* A golden case as a request: its prompt and, of picture models, its tiles in a sealed memfd. */
struct golden_case {
    int32_t ids[MAX_IDS];
    struct frame_tile tiles[MAX_TILES];
    int fd; /* -1: no pictures */
    struct frame_submit request;
};

static void read_tiles(struct golden_case *c, const char *model, const char *name, const struct model_limits *l, uint8_t number)
{
    char dir[512], file[128];
    struct safetensors golden;
    struct err e;
    snprintf(dir, sizeof dir, "%s/golden/%s", SPILLWAY_GOLDEN_DIR, model);
    snprintf(file, sizeof file, "%s.safetensors", name);
    if (safetensors_open_file(&golden, dir, file, &e)) fail_msg("%s", e.msg);
    const struct tensor *t = safetensors_find(&golden, "tiles_u8");
    c->fd = -1;
    if (t) {
        const uint32_t n = (uint32_t)t->shape[0];
        const size_t bytes = (size_t)n * 3 * l->tile_px * l->tile_px;
        assert_true(n <= MAX_TILES);
        c->fd = memfd_create("tiles", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(write(c->fd, t->data, bytes), bytes);
        assert_int_equal(fcntl(c->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
        for (uint32_t i = 0; i < n; i++) c->tiles[i] = (struct frame_tile){.tile_index = i, .hash = {number, (uint8_t)i, 1}};
        c->request.tiles = c->tiles;
        c->request.n_tiles = n;
        c->request.fds = &c->fd;
        c->request.n_fds = 1;
    }
    safetensors_close(&golden);
}

/* All cases together, and once more: then most of their prompts and pictures are found. */
static void check_golden_cases(const char *model, struct model *m, const json_t *cases, uint32_t prompt_rows)
{
    static struct golden_case golden[MAX_CASES];
    static struct answer answers[2 * MAX_CASES];
    struct engine *en;
    struct err e;
    struct engine_options o = {.prompt_rows = prompt_rows, .picture_cache_bytes = ENGINE_PICTURE_CACHE_BYTES};
    const char *name;
    json_t *c;
    uint64_t n = 0;
    assert_int_equal(engine_new_with(&en, m, &o, &e), 0);
    memset(answers, 0, sizeof answers);
    json_object_foreach((json_t *)cases, name, c) {
        struct golden_case *g = &golden[n];
        assert_true(n < MAX_CASES);
        g->request = greedy(n, g->ids, read_ids(json_object_get(c, "input_ids"), g->ids, MAX_IDS), 32);
        read_tiles(g, model, name, model_limits(m), (uint8_t)n++);
    }
    for (uint64_t i = 0; i < 2 * n; i++) {
        golden[i % n].request.sequence = i;
        submit(en, &golden[i % n].request);
        if (i % n == n - 1) run_all(en, answers);
    }
    for (uint64_t i = n = 0; i < 2; i++) {
        json_object_foreach((json_t *)cases, name, c) {
            assert_int_equal(answers[n].finish, FINISH_LENGTH);
            assert_int_equal(answers[n].n, 32);
            assert_greedy_equal(name, c, &answers[n]);
            if (i) assert_int_equal(answers[n].cached, (json_array_size(json_object_get(c, "input_ids")) - 1) / 16 * 16);
            n++;
        }
    }
    for (uint64_t i = 0; i < n / 2; i++)
        if (golden[i].fd >= 0) close(golden[i].fd);
    engine_free(en);
}

static void test_greedy_answers_equal_the_reference_batched_cut_and_found(void **state)
{
    (void)state;
    static const char *const models[] = {"smollm2-f32", "smollm3-f32", "idefics3-f32", "smolvlm2-f32"};
    static const uint32_t prompt_rows[] = {0, 1, 7, 64};
    for (size_t i = 0; i < 4; i++) {
        struct model *m = open_model(models[i], 8192);
        json_t *file = read_cases(models[i]);
        for (size_t k = 0; k < 4; k++) check_golden_cases(models[i], m, json_object_get(file, "cases"), prompt_rows[k]);
        json_decref(file);
        model_close(m);
    }
}

static struct frame_submit sampled(uint64_t sequence, uint64_t seed, uint32_t n_ids)
{
    struct frame_submit f = greedy(sequence, some_ids, n_ids, 24);
    f.sampling.temperature = 1;
    f.sampling.seed = seed;
    return f;
}

static void test_seeded_answer_is_the_same_alone_and_in_company(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 4096);
    struct answer alone[1] = {0}, company[12] = {0};
    struct frame_submit f = sampled(0, 7, 9);
    assert_int_equal(engine_new(&en, m, &e), 0);
    submit(en, &f);
    run_all(en, alone);
    for (uint64_t i = 1; i < 12; i++) { /* some before, some after, so that prompt chunks and decodes mix */
        struct frame_submit other = sampled(i, 100 + i, 1 + (uint32_t)i);
        submit(en, &other);
        if (i % 3 == 0) run_step(en, company);
        if (i == 6) submit(en, &f);
    }
    run_all(en, company);
    assert_int_equal(alone[0].n, 24);
    assert_memory_equal(alone[0].tokens, company[0].tokens, sizeof alone[0].tokens);
    unsigned same = 0;
    for (int i = 1; i < 12; i++) same += !memcmp(alone[0].tokens, company[i].tokens, sizeof alone[0].tokens);
    assert_int_equal(same, 0); /* other seeds say other things: the comparison can fail */
    engine_free(en);
    model_close(m);
}

static void test_end_of_sequence_stops_and_is_not_among_the_tokens(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 1024);
    struct answer a[3] = {0};
    struct frame_submit f = greedy(0, some_ids, 12, 16);
    assert_int_equal(engine_new(&en, m, &e), 0);
    submit(en, &f);
    run_all(en, a);
    int32_t eos = a[0].tokens[3];
    uint32_t first = 0;
    while (a[0].tokens[first] != eos) first++;
    f.sequence = 1;
    f.eos = &eos;
    f.n_eos = 1;
    f.sampling.ignore_eos = false;
    submit(en, &f);
    f.sequence = 2;
    f.sampling.min_tokens = 10;
    submit(en, &f);
    run_all(en, a);
    assert_int_equal(a[1].finish, FINISH_STOP);
    assert_int_equal(a[1].n, first);
    for (uint32_t i = 0; i < 10; i++) assert_int_not_equal(a[2].tokens[i], eos);
    assert_true(a[2].n >= 10);
    engine_free(en);
    model_close(m);
}

static void test_cancel_costs_at_most_two_more_steps(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 1024);
    struct answer a[1] = {0};
    struct frame_submit f = greedy(0, some_ids, 12, 60);
    assert_int_equal(engine_new(&en, m, &e), 0);
    submit(en, &f);
    for (int i = 0; i < 5; i++) run_step(en, a);
    engine_cancel(en, 0);
    engine_cancel(en, 999);
    run_step(en, a);
    assert_int_equal(a[0].finish, FINISH_CANCELLED);
    assert_int_equal(a[0].n, 5);
    assert_false(engine_busy(en));
    engine_free(en);
    model_close(m);
}

static void test_logprobs_come_with_their_token_first(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 1024);
    struct frame_submit f = greedy(0, some_ids, 12, 4);
    f.sampling.top_logprobs = 5;
    assert_int_equal(engine_new(&en, m, &e), 0);
    submit(en, &f);
    int seen = 0;
    while (engine_busy(en)) {
        struct frame_step step;
        assert_int_equal(engine_step(en, 0, &step, &e), 0);
        for (uint32_t i = 0; i < step.n_rows; i++) {
            const struct frame_step_row *r = &step.rows[i];
            if (!r->n_tokens) continue;
            seen++;
            assert_int_equal(r->n_top, 5);
            assert_int_equal(r->logprobs[0].token, r->tokens[0]);
            assert_int_equal(r->logprobs[1].token, r->tokens[0]); /* greedy: the chosen one is the best */
            for (int k = 2; k <= 5; k++) assert_true(r->logprobs[k].logprob <= r->logprobs[k - 1].logprob);
            assert_true(r->logprobs[0].logprob <= 0);
        }
    }
    assert_int_equal(seen, 4);
    engine_free(en);
    model_close(m);
}

/* ---- speculation ---- */

/* An answer of four different tokens repeats itself, so that guesses are right now and then. */
static const struct frame_bias four[] = {{60, 60}, {61, 60}, {62, 60}, {63, 60}};

static struct frame_submit of_four(uint32_t max_tokens)
{
    struct frame_submit f = greedy(0, some_ids, 12, max_tokens);
    f.bias = four;
    f.n_bias = 4;
    return f;
}

static void test_guesses_save_steps_and_change_nothing(void **state)
{
    (void)state;
    struct err e;
    struct model *m = open_model("smollm2-f32", 4096);
    struct answer a[2][1] = {0};
    struct engine_figures f[2];
    int steps[2] = {0};
    struct frame_submit request = of_four(60);
    request.sampling.top_logprobs = 2;
    for (int i = 0; i < 2; i++) {
        struct engine *en;
        assert_int_equal(engine_new_with(&en, m, &(struct engine_options){.no_guesses = !i, .always_guess = i}, &e), 0);
        submit(en, &request);
        for (; engine_busy(en); steps[i]++) run_step(en, a[i]);
        engine_figures(en, &f[i]);
        engine_free(en);
    }
    assert_int_equal(steps[0], 60);
    assert_int_equal(f[0].tokens_guessed, 0);
    assert_true(f[1].guesses_right > 5 && f[1].guesses_right <= f[1].tokens_guessed);
    assert_int_equal(steps[1], 60 - (int)f[1].guesses_right);
    assert_int_equal(a[1]->n, 60);
    assert_memory_equal(a[0]->tokens, a[1]->tokens, sizeof a[0]->tokens);
    assert_int_equal(a[1]->n_logprobs, 60 * 3);
    assert_memory_equal(a[0]->logprobs, a[1]->logprobs, sizeof a[0]->logprobs);
    model_close(m);
}

/* Every token of an answer once as the one that ends it, so that some ends are among the tokens of a right guess. */
static void test_an_end_within_a_guess_ends_there(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 4096);
    struct answer a[2] = {0};
    struct frame_submit f = of_four(40);
    assert_int_equal(engine_new_with(&en, m, &(struct engine_options){.always_guess = true}, &e), 0);
    submit(en, &f);
    run_all(en, a);
    struct engine_figures figures;
    engine_figures(en, &figures);
    assert_true(figures.guesses_right > 5);
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t first = 0;
        while (a[0].tokens[first] != a[0].tokens[i]) first++;
        for (uint32_t min_tokens = 0; min_tokens <= i; min_tokens += 13) {
            f.sequence = 1;
            f.eos = &a[0].tokens[i];
            f.n_eos = 1;
            f.sampling.ignore_eos = false;
            f.sampling.min_tokens = min_tokens;
            memset(&a[1], 0, sizeof a[1]);
            submit(en, &f);
            run_all(en, a);
            if (first >= min_tokens) {
                assert_int_equal(a[1].finish, FINISH_STOP);
                assert_int_equal(a[1].n, first);
            } else {
                assert_true(a[1].n >= min_tokens);
            }
            for (uint32_t k = 0; k < a[1].n && k < min_tokens; k++) assert_int_not_equal(a[1].tokens[k], a[0].tokens[i]);
        }
    }
    engine_free(en);
    model_close(m);
}

/* ---- pictures ---- */

static void test_pictures_decide_the_answer_also_in_company(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("idefics3-f32", 4096);
    const struct model_limits *l = model_limits(m);
    struct picture_prompt p = picture_prompt(l, 5, 3), other = picture_prompt(l, 5, 100);
    struct answer a[4] = {0};
    assert_int_equal(engine_new(&en, m, &e), 0);
    for (uint64_t i = 0; i < 4; i++) { /* 0 and 3 have the same picture; 1 has another; 2 has none */
        struct frame_submit f = greedy(i, p.ids, p.n, 12);
        int fd = tiles_fd(l, 5, i == 1 ? 100 : 3, true);
        if (i == 2) {
            f.ids = some_ids;
            f.n_ids = 12;
        } else {
            f.tiles = i == 1 ? other.tiles : p.tiles;
            f.n_tiles = 5;
            f.fds = &fd;
            f.n_fds = 1;
        }
        submit(en, &f);
        close(fd); /* the engine has its own hold of the bytes */
        if (i == 0) run_all(en, a);
    }
    run_all(en, a);
    for (int i = 0; i < 4; i++) assert_int_equal(a[i].finish, FINISH_LENGTH);
    assert_memory_equal(a[0].tokens, a[3].tokens, 12 * sizeof(int32_t));
    assert_memory_not_equal(a[0].tokens, a[1].tokens, 12 * sizeof(int32_t));
    engine_free(en);
    model_close(m);
}

/* ---- the cache: what is found, shared and computed again says the same ---- */

/* A set of requests, on an engine of one's own. */
struct trial {
    const char *model;
    uint64_t kv_tokens;
    uint32_t step_rows;
    int threads;
    struct engine_options options;
    bool together; /* else one after another */
};

static struct engine_figures run_trial(const struct trial *t, const struct frame_submit *requests, uint32_t n, struct answer *answers)
{
    struct engine *en;
    struct err e;
    struct engine_figures figures;
    struct model *m = open_model_with(t->model, t->kv_tokens, t->step_rows, t->threads ? t->threads : 2);
    assert_int_equal(engine_new_with(&en, m, &t->options, &e), 0);
    for (uint32_t i = 0; i < n; i++) {
        submit(en, &requests[i]);
        if (!t->together) run_all(en, answers);
    }
    run_all(en, answers);
    engine_figures(en, &figures);
    assert_int_equal(figures.blocks_used, 0);
    engine_free(en);
    model_close(m);
    return figures;
}

static void assert_same_answers(const struct answer *a, const struct answer *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].finish, b[i].finish);
        assert_int_equal(a[i].n, b[i].n);
        assert_memory_equal(a[i].tokens, b[i].tokens, sizeof a[i].tokens);
    }
}

enum { N_REQUESTS = 8, LONGEST = 120 };

static const struct engine_options uncached = {.no_prefix_cache = true}, cached = {.picture_cache_bytes = ENGINE_PICTURE_CACHE_BYTES};

/* Prompts with 64 tokens in common, of different lengths and seeds; the last is the first again. */
static void make_requests(int32_t (*ids)[LONGEST], struct frame_submit *requests, uint32_t max_tokens)
{
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        uint32_t n = i == N_REQUESTS - 1 ? 70 : 70 + 6 * i;
        for (uint32_t k = 0; k < n; k++) ids[i][k] = (int32_t)(k < 64 ? 3 + k * 37 % 600 : 3 + (k * 11 + i % (N_REQUESTS - 1) * 101) % 600);
        requests[i] = greedy(i, ids[i], n, max_tokens);
        requests[i].sampling.temperature = 1;
        requests[i].sampling.seed = 40 + i % (N_REQUESTS - 1);
    }
}

static void test_answers_are_the_same_found_chunked_and_in_company(void **state)
{
    (void)state;
    static int32_t ids[N_REQUESTS][LONGEST];
    struct frame_submit requests[N_REQUESTS];
    struct answer want[N_REQUESTS] = {0};
    make_requests(ids, requests, 24);
    struct trial t = {.model = "smollm2-f32", .kv_tokens = 4096, .options = uncached};
    struct engine_figures f = run_trial(&t, requests, N_REQUESTS, want);
    assert_int_equal(f.positions_found, 0);
    assert_memory_equal(want[0].tokens, want[N_REQUESTS - 1].tokens, sizeof want[0].tokens);
    assert_memory_not_equal(want[0].tokens, want[1].tokens, sizeof want[0].tokens);
    static const uint32_t step_rows[] = {0, 2, 9, 64};
    for (uint32_t i = 0; i < 16; i++) {
        struct answer got[N_REQUESTS] = {0};
        t = (struct trial){.model = "smollm2-f32",
                           .kv_tokens = 4096,
                           .step_rows = step_rows[i % 4],
                           .threads = 1 + (int)(i % 2),
                           .options = i < 8 ? cached : uncached,
                           .together = i / 4 % 2};
        f = run_trial(&t, requests, N_REQUESTS, got);
        assert_same_answers(want, got, N_REQUESTS);
        for (uint32_t k = 1; k < N_REQUESTS; k++) assert_int_equal(got[k].cached >= 64, i < 8);
        if (i < 4) assert_int_equal(got[N_REQUESTS - 1].cached, 64); /* of 70; all that was made is found by none of them */
    }
}

static void test_answers_are_the_same_after_preemption(void **state)
{
    (void)state;
    static int32_t ids[N_REQUESTS][LONGEST];
    struct frame_submit requests[N_REQUESTS];
    struct answer want[N_REQUESTS] = {0};
    make_requests(ids, requests, 60);
    struct trial t = {.model = "smollm2-f32", .kv_tokens = 4096, .options = uncached};
    assert_int_equal(run_trial(&t, requests, N_REQUESTS, want).preempted, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct answer got[N_REQUESTS] = {0};
        t = (struct trial){.model = "smollm2-f32", .kv_tokens = 320, .options = i ? cached : uncached, .together = true};
        t.options.promised_tokens = 4;
        assert_true(run_trial(&t, requests, N_REQUESTS, got).preempted > 0);
        assert_same_answers(want, got, N_REQUESTS);
    }
}

static void test_choices_of_one_request_compute_its_prompt_once(void **state)
{
    (void)state;
    static int32_t ids[N_REQUESTS][LONGEST];
    struct frame_submit requests[N_REQUESTS];
    struct answer want[N_REQUESTS] = {0}, got[N_REQUESTS] = {0};
    make_requests(ids, requests, 20);
    for (uint32_t i = 0; i < 4; i++) {
        requests[i] = requests[0];
        requests[i].sequence = requests[i].sampling.choice = i;
    }
    struct trial t = {.model = "smollm2-f32", .kv_tokens = 4096, .options = uncached, .together = true};
    run_trial(&t, requests, 4, want);
    t.options = cached;
    struct engine_figures f = run_trial(&t, requests, 4, got);
    assert_same_answers(want, got, 4);
    assert_memory_not_equal(want[0].tokens, want[1].tokens, sizeof want[0].tokens);
    assert_int_equal(f.blocks_copied, 3);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(got[i].cached, i ? 69 : 0); /* all but the last token of 70 */
}

static void test_t36_accounts_find_nothing_of_each_other(void **state)
{
    (void)state;
    static int32_t ids[N_REQUESTS][LONGEST];
    struct frame_submit requests[N_REQUESTS];
    make_requests(ids, requests, 4);
    for (uint32_t i = 0; i < 3; i++) {
        requests[i] = requests[0];
        requests[i].sequence = i;
        requests[i].account = i == 1 ? 8 : 7;
    }
    for (int shared = 0; shared < 2; shared++) {
        struct answer got[3] = {0};
        struct trial t = {.model = "smollm2-f32", .kv_tokens = 4096, .options = cached};
        t.options.shared_cache = shared;
        run_trial(&t, requests, 3, got);
        assert_int_equal(got[0].cached, 0);
        assert_int_equal(got[1].cached, shared ? 64 : 0);
        assert_int_equal(got[2].cached, 64);
    }
}

/* Four requests: 0 and 1 show the same picture behind different words, 2 another picture, 3 is another account's 0. */
struct picture_requests {
    struct picture_prompt prompts[4];
    struct frame_submit requests[4];
    int fds[4];
};

static void make_picture_requests(struct picture_requests *r, uint32_t max_tokens)
{
    struct model *m = open_model("idefics3-f32", 256);
    const struct model_limits *l = model_limits(m);
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t fill = i == 2 ? 100 : 3;
        r->prompts[i] = picture_prompt(l, 5, fill);
        if (i == 1) r->prompts[i].ids[0]++;
        r->fds[i] = tiles_fd(l, 5, fill, true);
        r->requests[i] = greedy(i, r->prompts[i].ids, r->prompts[i].n, max_tokens);
        r->requests[i].tiles = r->prompts[i].tiles;
        r->requests[i].n_tiles = 5;
        r->requests[i].fds = &r->fds[i];
        r->requests[i].n_fds = 1;
        r->requests[i].account = i == 3;
    }
    model_close(m);
}

static void test_repeated_picture_is_encoded_once_an_account(void **state)
{
    (void)state;
    struct picture_requests r;
    struct answer want[4] = {0}, got[4] = {0};
    make_picture_requests(&r, 12);
    struct trial t = {.model = "idefics3-f32", .kv_tokens = 4096, .options = uncached};
    assert_int_equal(run_trial(&t, r.requests, 4, want).tiles_encoded, 20);
    assert_memory_not_equal(want[0].tokens, want[2].tokens, 12 * sizeof(int32_t));
    t.options = cached;
    assert_int_equal(run_trial(&t, r.requests, 4, got).tiles_encoded, 15);
    assert_same_answers(want, got, 4);
    for (int i = 0; i < 4; i++) close(r.fds[i]);
}

static void test_pictures_survive_preemption(void **state)
{
    (void)state;
    struct picture_requests r;
    struct answer want[4] = {0};
    make_picture_requests(&r, 60);
    struct trial t = {.model = "idefics3-f32", .kv_tokens = 4096, .options = uncached};
    run_trial(&t, r.requests, 4, want);
    for (int i = 0; i < 2; i++) {
        struct answer got[4] = {0};
        t = (struct trial){.model = "idefics3-f32", .kv_tokens = 160, .step_rows = 16, .options = i ? cached : uncached, .together = true};
        t.options.promised_tokens = 2;
        assert_true(run_trial(&t, r.requests, 4, got).preempted > 0);
        assert_same_answers(want, got, 4);
    }
    for (int i = 0; i < 4; i++) close(r.fds[i]);
}

static void test_prediction_grows_with_what_waits(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("smollm2-f32", 4096);
    static int32_t ids[N_REQUESTS][LONGEST];
    struct frame_submit requests[N_REQUESTS];
    struct answer a[N_REQUESTS] = {0};
    struct frame_prediction idle, loaded;
    make_requests(ids, requests, 4);
    assert_int_equal(engine_new(&en, m, &e), 0);
    submit(en, &requests[0]);
    run_all(en, a);
    engine_prediction(en, &idle);
    for (uint32_t i = 1; i < N_REQUESTS; i++) submit(en, &requests[i]);
    engine_prediction(en, &loaded);
    assert_true(idle.first_token_ms == 0 && idle.prompt_token_ms > 0 && idle.error_p90 < 0); /* nothing waits; nothing was predicted before */
    float alone = 512 * idle.prompt_token_ms; /* 512 rows alone, behind 616 others */
    assert_true(loaded.first_token_ms + 512 * loaded.prompt_token_ms > alone * 1.9f);
    assert_int_equal(loaded.waiting, N_REQUESTS - 1);
    run_all(en, a);
    engine_prediction(en, &loaded);
    assert_true(loaded.error_p90 >= 0); /* what was predicted at submit was held against what came */
    engine_free(en);
    model_close(m);
}

static void expect_refused(struct engine *en, const struct frame_submit *f, int code, const char *why)
{
    struct err e = {0};
    assert_int_equal(engine_submit(en, f, &e), -code);
    if (!strstr(e.msg, why)) fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
    assert_false(engine_busy(en));
}

static void test_submits_that_lie_are_refused(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("idefics3-f32", 4096);
    const struct model_limits *l = model_limits(m);
    assert_int_equal(engine_new(&en, m, &e), 0);
    int32_t outside[] = {1, (int32_t)l->vocab};
    struct frame_submit f = greedy(1, outside, 2, 4);
    expect_refused(en, &f, ERR_INPUT, "outside the vocabulary");
    f = greedy(1, some_ids, 12, 4);
    f.banned = outside;
    f.n_banned = 2;
    expect_refused(en, &f, ERR_INPUT, "banned ids");
    f = greedy(1, some_ids, 12, 4);
    f.eos = outside;
    f.n_eos = 2;
    expect_refused(en, &f, ERR_INPUT, "end-of-sequence ids");
    f = greedy(1, some_ids, 12, 4);
    f.bias = &(struct frame_bias){.token = outside[1]};
    f.n_bias = 1;
    expect_refused(en, &f, ERR_INPUT, "logit bias");
    f = greedy(1, &l->image_token, 1, 4);
    expect_refused(en, &f, ERR_INPUT, "picture positions");

    struct picture_prompt p = picture_prompt(l, 2, 0);
    int sealed = tiles_fd(l, 2, 0, true), open_one = tiles_fd(l, 2, 0, false), small_one = tiles_fd(l, 1, 0, true);
    f = greedy(1, p.ids, p.n, 4);
    f.tiles = p.tiles;
    f.n_tiles = 2;
    f.n_fds = 1;
    f.fds = &open_one;
    expect_refused(en, &f, ERR_INPUT, "not a sealed memfd");
    f.fds = &small_one;
    expect_refused(en, &f, ERR_INPUT, "is not there");
    f.fds = &(int){STDERR_FILENO};
    expect_refused(en, &f, ERR_INPUT, "not a sealed memfd");
    f.fds = &sealed;
    p.tiles[1].tile_index = UINT32_MAX;
    expect_refused(en, &f, ERR_INPUT, "is not there");
    p.tiles[1] = (struct frame_tile){.fd_index = 1};
    expect_refused(en, &f, ERR_INPUT, "is not there");
    f.n_tiles = 1;
    expect_refused(en, &f, ERR_INPUT, "picture positions");
    close(sealed), close(open_one), close(small_one);
    engine_free(en);
    model_close(m);
}

static void test_sequences_still_running_are_freed_with_the_engine(void **state)
{
    (void)state;
    struct engine *en;
    struct err e;
    struct model *m = open_model("idefics3-f32", 256);
    const struct model_limits *l = model_limits(m);
    struct picture_prompt p = picture_prompt(l, 2, 0);
    int fd = tiles_fd(l, 2, 0, true);
    assert_int_equal(engine_new(&en, m, &e), 0);
    for (uint64_t i = 0; i < 40; i++) { /* more than the cache takes: some wait */
        struct frame_submit f = greedy(i, p.ids, p.n, 40);
        f.tiles = p.tiles;
        f.n_tiles = 2;
        f.n_fds = 1;
        f.fds = &fd;
        submit(en, &f);
    }
    struct answer a[40] = {0};
    for (int i = 0; i < 5; i++) run_step(en, a);
    assert_true(engine_busy(en));
    close(fd);
    engine_free(en); /* the leak checker looks */
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_answers_equal_the_reference_batched_cut_and_found),
        cmocka_unit_test(test_seeded_answer_is_the_same_alone_and_in_company),
        cmocka_unit_test(test_end_of_sequence_stops_and_is_not_among_the_tokens),
        cmocka_unit_test(test_cancel_costs_at_most_two_more_steps),
        cmocka_unit_test(test_logprobs_come_with_their_token_first),
        cmocka_unit_test(test_guesses_save_steps_and_change_nothing),
        cmocka_unit_test(test_an_end_within_a_guess_ends_there),
        cmocka_unit_test(test_pictures_decide_the_answer_also_in_company),
        cmocka_unit_test(test_answers_are_the_same_found_chunked_and_in_company),
        cmocka_unit_test(test_answers_are_the_same_after_preemption),
        cmocka_unit_test(test_choices_of_one_request_compute_its_prompt_once),
        cmocka_unit_test(test_t36_accounts_find_nothing_of_each_other),
        cmocka_unit_test(test_repeated_picture_is_encoded_once_an_account),
        cmocka_unit_test(test_pictures_survive_preemption),
        cmocka_unit_test(test_prediction_grows_with_what_waits),
        cmocka_unit_test(test_submits_that_lie_are_refused),
        cmocka_unit_test(test_sequences_still_running_are_freed_with_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
