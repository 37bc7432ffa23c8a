/* What a hub says: the file list of a repository (an object with "siblings") or the index of its shards ("weight_map"), and with any
 * other first byte a name typed by a user and an ETag. Whatever is accepted can only become names in our own folders: plain, one
 * component, from the list. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "weights/hub_parts.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

static const char *const words[] = {"sha",
                                    "siblings",
                                    "rfilename",
                                    "weight_map",
                                    "config.json",
                                    "tokenizer.json",
                                    "chat_template.jinja",
                                    "model.safetensors",
                                    "model.safetensors.index.json",
                                    "model-00001-of-00002.safetensors",
                                    "pytorch_model.bin",
                                    "m.gguf",
                                    "../config.json",
                                    "/etc/passwd",
                                    "..",
                                    ".safetensors",
                                    "a/b.safetensors",
                                    "config.json\\u0000",
                                    COMMIT,
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return n && p[0] == '{' ? fuzz_mutate_json(p, n, max, seed, words) : fuzz_mutate_words(p, n, max, seed, words);
}

static void check_file(const char *name)
{
    size_t n = strlen(name);
    FUZZ_CHECK(n > 0 && n < HUB_FILE_BYTES && name[0] != '.' && name[0] != '-' && !strchr(name, '/') && !strchr(name, '\\'));
    for (size_t i = 0; i < n; i++) FUZZ_CHECK((unsigned char)name[i] > ' ' && (unsigned char)name[i] < 0x7f);
    for (const char *const *bad = (const char *const[]){".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", NULL}; *bad; bad++)
        FUZZ_CHECK(n < strlen(*bad) || strcmp(name + n - strlen(*bad), *bad) != 0);
}

static void check_list(const struct hub_name *name, const json_t *v)
{
    static struct hub_files f;
    char commit[HUB_COMMIT_BYTES];
    bool sharded;
    struct err e = {0};
    int rc = hub_files_choose(&f, name, v, commit, &sharded, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
    } else {
        FUZZ_CHECK(hub_is_hex(commit, 40) && f.n >= 3 && strcmp(f.files[0].name, sharded ? HUB_INDEX : HUB_SINGLE) == 0);
        for (size_t i = 0; i < f.n; i++) check_file(f.files[i].name);
    }
    f.n = 0;
    rc = hub_files_add_shards(&f, name, v, NULL, &e);
    if (rc) fuzz_check_err(rc, &e);
    for (size_t i = 0; i < f.n; i++) {
        check_file(f.files[i].name);
        for (size_t k = 0; k < i; k++) FUZZ_CHECK(strcmp(f.files[i].name, f.files[k].name) != 0);
    }
}

static void check_words(const uint8_t *p, size_t n)
{
    char text[1024], etag[HUB_ETAG_BYTES];
    struct hub_name name;
    struct err e = {0};
    if (n >= sizeof text) n = sizeof text - 1;
    memcpy(text, p, n);
    text[n] = '\0';
    if (hub_etag_read(etag, text) == 0) FUZZ_CHECK(hub_is_hex(etag, 40) || hub_is_hex(etag, 64));
    int rc = hub_name_parse(text, &name, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        return;
    }
    const char *slash = strchr(name.repo, '/');
    FUZZ_CHECK(slash && !strchr(slash + 1, '/') && !strstr(name.repo, "..") && !strstr(name.repo, "--"));
    FUZZ_CHECK(name.repo[0] != '/' && name.repo[0] != '.' && slash[1] != '.' && slash[1] != '\0');
    FUZZ_CHECK(name.revision[0] && name.revision[0] != '/' && name.revision[0] != '.' && !strstr(name.revision, ".."));
    FUZZ_CHECK(!strstr(name.revision, "//") && !strstr(name.revision, "/."));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const struct hub_name name = {.repo = "owner/name", .revision = "main"};
    json_t *v = NULL;
    struct err e = {0};
    if (!n || p[0] != '{') {
        check_words(p, n);
        return 0;
    }
    int rc = json_read((const char *)p, n, &json_limits_file, "the server's list of files", &v, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        check_list(&name, v);
    json_decref(v);
    return 0;
}
