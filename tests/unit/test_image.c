/* Picture arithmetic and prompt text: every case of the golden tables, prompt expansion with provenance, settings
 * files. */
#include "tests/unit/golden.h"

#include <math.h>
#include <stdlib.h>

#include "engine/media/image.h"

static struct image_settings settings_of(int longest_edge, int tile_px, bool split)
{
    return (struct image_settings){.longest_edge = longest_edge,
                                   .tile_px = tile_px,
                                   .tokens_per_tile = 4,
                                   .split = split,
                                   .resample = 1,
                                   .mean = {0.5f, 0.5f, 0.5f},
                                   .std = {0.5f, 0.5f, 0.5f},
                                   .rescale = 1.0 / 255};
}

/* --- tile grid --- */

/* want: step1 w, h, step2 w, h, rows, cols. */
static bool grid_agrees(const struct image_grid *g, const int want[6])
{
    int tiles = want[4] ? want[4] * want[5] + 1 : 1;
    return g->w1 == want[0] && g->h1 == want[1] && g->w2 == want[2] && g->h2 == want[3] && g->rows == want[4] && g->cols == want[5] &&
           g->n_tiles == tiles;
}

static void test_grid_agrees_with_every_table_case(void **state)
{
    (void)state;
    json_t *table = golden_json("tables/image_sizes.json");
    const json_t *geoms = json_object_get(table, "geoms"), *rows = json_object_get(table, "rows");
    size_t n_cases = 0, n_faults_found = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        int w = json_int(json_array_get(row, 0)), h = json_int(json_array_get(row, 1));
        for (size_t k = 0; k < json_array_size(geoms); k++) {
            const json_t *geom = json_array_get(geoms, k), *want = json_array_get(row, 2 + k);
            struct image_settings s = settings_of(json_int(json_array_get(geom, 0)), json_int(json_array_get(geom, 1)), true);
            struct image_grid g;
            struct err e = {0};
            assert_int_equal(image_grid_for(&s, w, h, false, &g, &e), 0);
            int v[6];
            for (size_t j = 0; j < 6; j++) v[j] = json_int(json_array_get(want, j));
            if (!grid_agrees(&g, v)) fail_msg("%d x %d, size %d, tile %d", w, h, s.longest_edge, s.tile_px);
            v[n_cases % 6]++; /* a planted fault in each place in turn */
            n_faults_found += !grid_agrees(&g, v);
            n_cases++;
        }
    }
    assert_true(n_cases >= 1000);
    assert_int_equal(n_faults_found, n_cases);
    json_decref(table);
}

static void test_grid_refuses_sizes_out_of_range(void **state)
{
    (void)state;
    struct image_settings s = settings_of(2048, 512, true);
    static const int bad[][2] = {{0, 5}, {5, 0}, {-1, 5}, {65536, 5}, {5, 65536}, {INT32_MAX, INT32_MAX}};
    struct image_grid g;
    struct err e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(image_grid_for(&s, bad[i][0], bad[i][1], false, &g, &e), -ERR_INPUT);
    assert_int_equal(image_grid_for(&s, 65535, 65535, false, &g, &e), 0);
    assert_int_equal(g.n_tiles, 17);
    s = settings_of(2048, 64, true);
    assert_int_equal(image_grid_for(&s, 640, 480, false, &g, &e), -ERR_LIMIT);
}

static void test_low_detail_is_one_tile(void **state)
{
    (void)state;
    struct image_settings s = settings_of(2048, 512, true);
    struct image_grid g;
    assert_int_equal(image_grid_for(&s, 640, 480, true, &g, NULL), 0);
    int want[6] = {2048, 1536, 512, 512, 0, 0};
    assert_true(grid_agrees(&g, want));
}

static void test_settings_check_refuses_each_bad_field(void **state)
{
    (void)state;
    const struct image_settings good = settings_of(2048, 512, true);
    struct image_settings bad[9];
    for (size_t i = 0; i < 9; i++) bad[i] = good;
    bad[0].longest_edge = 0;
    bad[1].tile_px = 1 << 20;
    bad[2].tokens_per_tile = -1;
    bad[3].resample = 0;
    bad[4].resample = 4;
    bad[5].rescale = (double)NAN;
    bad[6].mean[1] = INFINITY;
    bad[7].std[2] = 0;
    bad[8].std[0] = NAN;
    struct err e;
    assert_int_equal(image_settings_check(&good, &e), 0);
    for (size_t i = 0; i < 9; i++) assert_int_not_equal(image_settings_check(&bad[i], &e), 0);
}

/* --- prompt expansion --- */

static void check_expansion(const struct image_settings *s, const json_t *c, const char *model, size_t i_case)
{
    const json_t *rows = json_object_get(c, "rows"), *cols = json_object_get(c, "cols");
    struct image_grid grids[8] = {0};
    size_t n = json_array_size(rows);
    assert_true(n <= 8);
    for (size_t i = 0; i < n; i++) {
        grids[i].rows = json_int(json_array_get(rows, i));
        grids[i].cols = json_int(json_array_get(cols, i));
    }
    const json_t *prompt = json_object_get(c, "prompt"), *want = json_object_get(c, "prompt_expanded");
    struct marked_text in = {.text = json_string_value(prompt), .n = json_string_length(prompt)}, out;
    struct arena arena;
    arena_init(&arena, 16 << 20);
    struct err e = {0};
    if (image_expand_prompt(s, in, grids, n, 1 << 20, &arena, &out, &e)) fail_msg("%s case %zu: %s", model, i_case, e.msg);
    if (out.n != json_string_length(want) || memcmp(out.text, json_string_value(want), out.n))
        fail_msg("%s case %zu differs", model, i_case);
    arena_free(&arena);
}

static void test_expansion_agrees_with_every_golden_prompt(void **state)
{
    (void)state;
    static const char *const models[] = {"idefics3-f32", "idefics3-bf16", "smolvlm2-f32", "smolvlm2-bf16", "idefics3_v1-bf16"};
    size_t n_cases = 0;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        char name[256], dir[4096];
        snprintf(name, sizeof name, "golden/%s/cases.json", models[m]);
        if (!golden_exists(name)) continue; /* a cut set of goldens */
        json_t *file = golden_json(name);
        snprintf(name, sizeof name, "models/%s", models[m]);
        golden_path(dir, name);
        struct image_settings s;
        struct err e = {0};
        if (image_settings_read(&s, dir, &e)) fail_msg("%s", e.msg);
        assert_int_equal(s.tokens_per_tile, json_int(json_object_get(file, "image_seq_len")));
        const json_t *geometry = json_object_get(file, "geometry"), *cases = json_object_get(file, "cases");
        if (json_is_object(geometry)) {
            assert_int_equal(s.longest_edge, json_int(json_object_get(geometry, "size")));
            assert_int_equal(s.tile_px, json_int(json_object_get(geometry, "tile")));
        }
        const char *key;
        json_t *c;
        if (json_is_object(cases))
            json_object_foreach((json_t *)(uintptr_t)cases, key, c) check_expansion(&s, c, models[m], n_cases++);
        else
            for (size_t i = 0; i < json_array_size(cases); i++) check_expansion(&s, json_array_get(cases, i), models[m], n_cases++);
        json_decref(file);
    }
    assert_true(n_cases >= 10);
}

static void test_request_text_is_never_a_place_for_a_picture(void **state)
{
    (void)state;
    struct image_settings s = settings_of(64, 64, true);
    s.tokens_per_tile = 2;
    struct image_grid grid = {.n_tiles = 1};
    struct arena arena;
    arena_init(&arena, 1 << 20);
    static const char text[] = "a<image>b<image>c<image>";
    for (size_t i = 0; i < 24; i++) { /* request bytes: the first mark, and one byte anywhere in the second */
        uint8_t marks[sizeof text] = {0};
        memset(marks + 1, MARK_REQUEST, 7);
        marks[i] = MARK_REQUEST;
        bool second = i >= 9 && i < 16, third = i >= 17;
        struct marked_text in = {.text = text, .marks = marks, .n = 24}, out;
        struct err e = {0};
        size_t n = second || third ? 1 : 2;
        struct image_grid grids[3] = {grid, grid, grid};
        assert_int_equal(image_expand_prompt(&s, in, grids, n - 1, 4096, &arena, &out, &e), -ERR_INPUT);
        assert_int_equal(image_expand_prompt(&s, in, grids, n + 1, 4096, &arena, &out, &e), -ERR_INPUT);
        assert_int_equal(image_expand_prompt(&s, in, grids, n, 4096, &arena, &out, &e), 0);
        assert_int_equal(out.n, 24 + n * (25 + 12 + 14 + 25 - 7));
        assert_memory_equal(out.text, "a<image>b", 9);
        assert_memory_equal(out.marks, marks, 9);
    }
    arena_free(&arena);
}

static void test_expansion_is_template_text_and_keeps_marks_around_it(void **state)
{
    (void)state;
    struct image_settings s = settings_of(64, 64, true);
    s.tokens_per_tile = 1;
    struct image_grid grid = {.rows = 1, .cols = 2, .n_tiles = 3};
    uint8_t marks[11] = {1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0};
    struct marked_text in = {.text = "xx<image>yz", .marks = marks, .n = 11}, out;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    assert_int_equal(image_expand_prompt(&s, in, &grid, 1, 4096, &arena, &out, NULL), 0);
    assert_string_equal(out.text, "xx<fake_token_around_image><row_1_col_1><image><fake_token_around_image><row_1_col_2><image>\n\n"
                                  "<fake_token_around_image><global-img><image><fake_token_around_image>yz");
    assert_int_equal(out.n, strlen(out.text));
    for (size_t i = 0; i < out.n; i++) assert_int_equal(out.marks[i], i < 2 || i == out.n - 2 ? MARK_REQUEST : MARK_TEMPLATE);
    assert_int_equal(image_expand_prompt(&s, in, &grid, 1, out.n, &arena, &out, NULL), 0);
    assert_int_equal(image_expand_prompt(&s, in, &grid, 1, out.n - 1, &arena, &out, NULL), -ERR_LIMIT);
    arena_free(&arena);
}

/* --- settings files --- */

static char *write_dir(const char *processor, const char *config)
{
    static char dir[64];
    strcpy(dir, "/tmp/spillway-image-XXXXXX");
    assert_non_null(mkdtemp(dir));
    const char *const names[] = {"preprocessor_config.json", "config.json"}, *const texts[] = {processor, config};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(texts[i], f);
        fclose(f);
    }
    return dir;
}

static int read_settings(const char *processor, const char *config, struct image_settings *s, struct err *e)
{
    char *dir = write_dir(processor, config), path[128];
    int rc = image_settings_read(s, dir, e);
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
    return rc;
}

#define TOWER "{\"scale_factor\": 3, \"vision_config\": {\"image_size\": 384, \"patch_size\": 14}}"

static void test_settings_of_the_large_model(void **state)
{
    (void)state;
    struct image_settings s;
    struct err e = {0};
    assert_int_equal(
        read_settings("{\"size\": {\"longest_edge\": 1536}, \"max_image_size\": {\"longest_edge\": 384}, \"resample\": 3}", TOWER, &s, &e),
        0);
    assert_int_equal(s.tokens_per_tile, 81);
    assert_int_equal(s.longest_edge, 1536);
    assert_int_equal(s.tile_px, 384);
    assert_int_equal(s.resample, 3);
    assert_true(s.split && s.mean[0] == 0.5f && s.rescale == 1.0 / 255);
}

static void test_settings_errors_name_the_field(void **state)
{
    (void)state;
    static const struct {
        const char *processor, *config, *word;
    } bad[] = {
        {"[]", TOWER, "preprocessor_config.json"},
        {"{\"size\": 5}", TOWER, "size"},
        {"{\"size\": {\"longest_edge\": -4}}", TOWER, "longest_edge"},
        {"{\"resample\": \"x\"}", TOWER, "resample"},
        {"{\"resample\": 9}", TOWER, "resample"},
        {"{\"image_mean\": [1, 2]}", TOWER, "image_mean"},
        {"{\"image_std\": [1, 2, 0]}", TOWER, "image_std[2]"},
        {"{\"do_normalize\": false}", TOWER, "do_normalize"},
        {"{\"max_image_size\": {\"longest_edge\": 512}}", TOWER, "image_size"},
        {"{}", "{}", "vision_config"},
        {"{}", "{\"scale_factor\": 0, \"vision_config\": {}}", "scale_factor"},
        {"{}", "{\"vision_config\": {\"patch_size\": 0}}", "patch_size"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image_settings s;
        struct err e = {0};
        assert_int_not_equal(read_settings(bad[i].processor, bad[i].config, &s, &e), 0);
        if (!strstr(e.msg, bad[i].word)) fail_msg("\"%s\" does not name %s", e.msg, bad[i].word);
    }
    struct image_settings s;
    struct err e = {0};
    assert_int_equal(image_settings_read(&s, "/nonexistent", &e), -ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid_agrees_with_every_table_case),
        cmocka_unit_test(test_grid_refuses_sizes_out_of_range),
        cmocka_unit_test(test_low_detail_is_one_tile),
        cmocka_unit_test(test_settings_check_refuses_each_bad_field),
        cmocka_unit_test(test_expansion_agrees_with_every_golden_prompt),
        cmocka_unit_test(test_request_text_is_never_a_place_for_a_picture),
        cmocka_unit_test(test_expansion_is_template_text_and_keeps_marks_around_it),
        cmocka_unit_test(test_settings_of_the_large_model),
        cmocka_unit_test(test_settings_errors_name_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
