/* Hub: what is a name and what is not, which files are taken, etags, hashes; refs and links of the cache. The protocol is tested in tests/hub. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "weights/hub_parts.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

static const struct hub_name name = {.repo = "owner/name", .revision = "main"};

static void test_hub_name_takes_owner_name_and_revision(void **state)
{
    (void)state;
    static const char *const good[][3] = {
        {"owner/name", "owner/name", "main"},       {"HuggingFaceTB/SmolVLM-500M-Instruct", "HuggingFaceTB/SmolVLM-500M-Instruct", "main"},
        {"a/b@v1.0", "a/b", "v1.0"},                {"a.b/c_d@feature/x-1", "a.b/c_d", "feature/x-1"},
        {"a/b@" COMMIT, "a/b", COMMIT},             {"a/b@refs/pr/7", "a/b", "refs/pr/7"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct hub_name n;
        struct err e;
        assert_int_equal(hub_name_parse(good[i][0], &n, &e), 0);
        assert_string_equal(n.repo, good[i][1]);
        assert_string_equal(n.revision, good[i][2]);
        assert_true(hub_name_fits(good[i][0]));
    }
}

static void test_hub_name_refuses_what_could_be_a_path(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "/", "a", "a/", "/a", "./a", "../a", "a/..", "a/.", "a/b/c", "a//b", "a/b/", "a--x/b", "a/b--x", "a-/b", "-a/b",
                                      "a/-b", "a/b-", "a./b", "a/b.", "a/b.git", "a/b..c", "a/b c", "a/b\n", "a\\b/c", "a/b%2f", "a/\xC3\xA9", "~/a",
                                      "C:/a", "a/b@", "a/b@.", "a/b@..", "a/b@a..b", "a/b@/x", "a/b@x/", "a/b@x//y", "a/b@x/.y", "a/b@-x", "a/b@x y",
                                      "a/b@x\x7f", "a/b@x@y", "a/b@x:y", "a/b@x\\y", "a/b@x."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct hub_name n;
        struct err e = {0};
        if (hub_name_parse(bad[i], &n, &e) != -ERR_INPUT) fail_msg("%s was taken", bad[i]);
        assert_true(e.msg[0] && !hub_name_fits(bad[i]));
    }
    char longest[HUB_REPO_BYTES + 8] = "o/";
    memset(longest + 2, 'n', 94);
    assert_true(hub_name_fits(longest));
    strcat(longest, "n");
    assert_false(hub_name_fits(longest));
}

static json_t *info_of(const char *files)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"sha\":\"" COMMIT "\",\"siblings\":[%s]}", files);
    json_t *v = json_loads(text, 0, NULL);
    assert_non_null(v);
    return v;
}

#define F(x) "{\"rfilename\":\"" x "\"}"

static int choose(struct hub_files *f, const char *files, bool *sharded, struct err *e)
{
    char commit[HUB_COMMIT_BYTES];
    json_t *info = info_of(files);
    int rc = hub_files_choose(f, &name, info, commit, sharded, e);
    json_decref(info);
    return rc;
}

static bool has(const struct hub_files *f, const char *file)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->files[i].name, file) == 0) return true;
    return false;
}

static void test_hub_files_are_those_of_a_model(void **state)
{
    (void)state;
    static struct hub_files f;
    struct err e;
    bool sharded;
    assert_int_equal(choose(&f, F("config.json") "," F("tokenizer.json") "," F("model.safetensors") "," F("README.md") "," F("a/config.json"), &sharded, &e), 0);
    assert_true(f.n == 3 && !sharded && has(&f, "config.json") && has(&f, "tokenizer.json") && has(&f, "model.safetensors"));
    assert_int_equal(choose(&f, F("config.json") "," F("tokenizer.json") "," F("model.safetensors") "," F("model.safetensors.index.json"), &sharded, &e), 0);
    assert_true(f.n == 3 && sharded && has(&f, "model.safetensors.index.json") && !has(&f, "model.safetensors"));
}

static void test_hub_files_refuse_pickles_by_name(void **state)
{
    (void)state;
    static struct hub_files f;
    struct err e = {0};
    bool sharded;
    assert_int_equal(choose(&f, F("config.json") "," F("tokenizer.json") "," F("pytorch_model.bin"), &sharded, &e), -ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "pytorch_model.bin"));
    assert_non_null(strstr(e.msg, "pickle"));
}

static void test_hub_files_with_a_nul_are_no_files(void **state)
{
    (void)state;
    static struct hub_files f;
    char commit[HUB_COMMIT_BYTES];
    struct err e = {0};
    bool sharded;
    json_t *info = json_pack("{s:s, s:[{s:s%}, {s:s}, {s:s}]}", "sha", COMMIT, "siblings", "rfilename", "config.json\0x", (size_t)13, "rfilename",
                             "tokenizer.json", "rfilename", "model.safetensors");
    assert_non_null(info);
    assert_int_equal(hub_files_choose(&f, &name, info, commit, &sharded, &e), -ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "no config.json"));
    json_decref(info);
}

static int add_shards(struct hub_files *f, json_t *map, struct err *e)
{
    json_t *index = json_pack("{s:o}", "weight_map", map);
    assert_non_null(index);
    int rc = hub_files_add_shards(f, &name, index, NULL, e);
    json_decref(index);
    return rc;
}

static void test_hub_shards_are_plain_names_each_once(void **state)
{
    (void)state;
    static struct hub_files f;
    struct err e;
    f.n = 0;
    assert_int_equal(add_shards(&f, json_pack("{s:s, s:s, s:s}", "a", "m-1.safetensors", "b", "m-2.safetensors", "c", "m-1.safetensors"), &e), 0);
    assert_int_equal(f.n, 2);
    static const char *const bad[] = {"../m.safetensors", "/m.safetensors", "a/m.safetensors", ".m.safetensors", "-m.safetensors", "m.bin", ".safetensors",
                                      "m\\.safetensors", "m\n.safetensors", "", "m.safetensors/", "\xE2\x80\xAEm.safetensors"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        f.n = 0;
        if (add_shards(&f, json_pack("{s:s}", "a", bad[i]), &e) != -ERR_INPUT) fail_msg("%s was taken", bad[i]);
        assert_int_equal(f.n, 0);
    }
    assert_int_equal(add_shards(&f, json_pack("{s:s%}", "a", "m.safetensors\0.safetensors", (size_t)26), &e), -ERR_INPUT);
}

static void test_hub_shards_are_bounded(void **state)
{
    (void)state;
    static struct hub_files f;
    struct err e;
    char file[64];
    json_t *map = json_object();
    f.n = 0;
    for (int i = 0; i <= HUB_MAX_FILES; i++) {
        snprintf(file, sizeof file, "m-%d.safetensors", i);
        json_object_set_new(map, file, json_string(file));
    }
    assert_int_equal(add_shards(&f, map, &e), -ERR_LIMIT);
    assert_int_equal(f.n, HUB_MAX_FILES);
}

static void test_hub_etag_is_a_hash_and_nothing_else(void **state)
{
    (void)state;
    char etag[HUB_ETAG_BYTES];
    assert_int_equal(hub_etag_read(etag, "\"" COMMIT "\""), 0);
    assert_string_equal(etag, COMMIT);
    assert_int_equal(hub_etag_read(etag, COMMIT), 0);
    assert_int_equal(hub_etag_read(etag, "W/\"" COMMIT "\""), 0);
    static const char *const bad[] = {"", "\"", "\"\"", "0123", "\"" COMMIT, COMMIT "0", "0123456789ABCDEF0123456789abcdef01234567",
                                      "../456789abcdef0123456789abcdef01234567", "0123456789abcdef0123456789abcdef0123456\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(hub_etag_read(etag, bad[i]), -ERR_INPUT);
}

static bool digest_fits(const char *etag, const char *text)
{
    struct hub_file f = {.name = "f", .bytes = strlen(text)};
    struct hub_digest d;
    struct err e;
    snprintf(f.etag, sizeof f.etag, "%s", etag);
    assert_int_equal(hub_digest_begin(&d, &f, &e), 0);
    for (const char *p = text; *p; p++) assert_int_equal(hub_digest_add(&d, p, 1, &e), 0);
    return hub_digest_end(&d, &f);
}

/* The first of FIPS 180-2's examples, the other of the Git book. */
static void test_hub_digest_is_sha256_or_gits_sha1(void **state)
{
    (void)state;
    assert_true(digest_fits("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc"));
    assert_false(digest_fits("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abd"));
    assert_true(digest_fits("bd9dbf5aae1a3862dd1526723246b20206e5fc37", "what is up, doc?"));
    assert_false(digest_fits("bd9dbf5aae1a3862dd1526723246b20206e5fc37", "what is up, dog?"));
}

static void test_hub_cache_keeps_refs_and_links(void **state)
{
    (void)state;
    char dir[] = "/tmp/spillway-hub-XXXXXX", path[HUB_PATH_BYTES], commit[HUB_COMMIT_BYTES], command[128];
    struct hub_cache k;
    struct err e;
    struct hub_file f = {.name = "config.json", .etag = COMMIT, .bytes = 2};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(hub_cache_init(&k, dir, &name, &e), 0);
    assert_int_equal(hub_cache_make(&k, &e), 0);
    assert_int_equal(hub_ref_read(&k, "a/b", commit, &e), -ERR_NOT_FOUND);
    assert_int_equal(hub_ref_write(&k, "a/b", COMMIT, &e), 0);
    assert_int_equal(hub_ref_read(&k, "a/b", commit, &e), 0);
    assert_string_equal(commit, COMMIT);
    assert_false(hub_link_is_there(&k, COMMIT, &f));
    assert_int_equal(hub_link_make(&k, COMMIT, &f, &e), 0);
    assert_false(hub_link_is_there(&k, COMMIT, &f)); /* it leads nowhere yet */
    assert_int_equal(hub_path(path, &e, "%s/models--owner--name/blobs/" COMMIT, dir), 0);
    FILE *blob = fopen(path, "w");
    assert_true(blob && fputs("{}", blob) >= 0 && fclose(blob) == 0);
    assert_true(hub_link_is_there(&k, COMMIT, &f) && hub_blob_is_there(&k, &f));
    f.bytes = 3;
    assert_false(hub_link_is_there(&k, COMMIT, &f) || hub_blob_is_there(&k, &f));
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

static void test_hub_ref_that_is_no_commit_is_refused(void **state)
{
    (void)state;
    char dir[] = "/tmp/spillway-hub-XXXXXX", path[HUB_PATH_BYTES], commit[HUB_COMMIT_BYTES], command[128];
    char found[HUB_PATH_BYTES];
    static const char *const bad[] = {"", "../../../etc", COMMIT "0", "0123456789ABCDEF0123456789abcdef01234567", COMMIT " "};
    struct hub_cache k;
    struct err e;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(hub_cache_init(&k, dir, &name, &e), 0);
    assert_int_equal(hub_cache_make(&k, &e), 0);
    assert_int_equal(hub_path(path, &e, "%s/refs/main", k.root), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *f = fopen(path, "w");
        assert_true(f && fputs(bad[i], f) >= 0 && fclose(f) == 0);
        assert_int_equal(hub_ref_read(&k, "main", commit, &e), -ERR_INPUT);
        assert_int_equal(hub_cached(dir, &name, found, &e), -ERR_NOT_FOUND);
    }
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hub_name_takes_owner_name_and_revision), cmocka_unit_test(test_hub_name_refuses_what_could_be_a_path),
        cmocka_unit_test(test_hub_files_are_those_of_a_model),         cmocka_unit_test(test_hub_files_refuse_pickles_by_name),
        cmocka_unit_test(test_hub_files_with_a_nul_are_no_files),      cmocka_unit_test(test_hub_shards_are_plain_names_each_once),
        cmocka_unit_test(test_hub_shards_are_bounded),                 cmocka_unit_test(test_hub_etag_is_a_hash_and_nothing_else),
        cmocka_unit_test(test_hub_digest_is_sha256_or_gits_sha1),      cmocka_unit_test(test_hub_cache_keeps_refs_and_links),
        cmocka_unit_test(test_hub_ref_that_is_no_commit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
