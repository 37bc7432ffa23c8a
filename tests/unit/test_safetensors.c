/* Safetensors: what a file says is read back; what it may not say is refused with its name, tensor and offset; damaged headers never crash. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "weights/safetensors.h"

static char dir[] = "/tmp/spillway-safetensors-XXXXXX";

static void path_of(const char *name, char out[256])
{
    assert_true((size_t)snprintf(out, 256, "%s/%s", dir, name) < 256);
}

static void write_file(const char *name, const void *bytes, size_t n)
{
    char path[256];
    path_of(name, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void remove_file(const char *name)
{
    char path[256];
    path_of(name, path);
    unlink(path);
}

/* A file of `header` and n_data bytes 0, 1, 2, ...; length: what the first 8 bytes say. */
static void write_tensors(const char *name, const char *header, size_t header_bytes, uint64_t length, size_t n_data)
{
    unsigned char *p = malloc(8 + header_bytes + n_data);
    assert_non_null(p);
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(length >> (8 * i));
    memcpy(p + 8, header, header_bytes);
    for (size_t i = 0; i < n_data; i++) p[8 + header_bytes + i] = (unsigned char)i;
    write_file(name, p, 8 + header_bytes + n_data);
    free(p);
}

static void write_plain(const char *name, const char *header, size_t n_data)
{
    write_tensors(name, header, strlen(header), strlen(header), n_data);
}

static void clear(void)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors"};
    for (size_t i = 0; i < 4; i++) remove_file(names[i]);
}

static void refused(const char *what, const char *const words[3])
{
    struct safetensors s;
    struct err e = {0};
    int rc = safetensors_open(&s, dir, &e);
    if (rc >= 0) fail_msg("%s: was accepted", what);
    assert_int_equal(rc, -(int)e.code);
    for (int i = 0; i < 3 && words[i]; i++)
        if (!strstr(e.msg, words[i])) fail_msg("%s: '%s' is not in the message: %s", what, words[i], e.msg);
    assert_null(s.tensors); /* nothing half open is left behind */
    assert_null(s.files);
}

static void test_reads(void **unused)
{
    (void)unused;
    clear();
    write_plain("model.safetensors",
                "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},\"a\":{\"dtype\":"
                "\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                "\"none\":{\"dtype\":\"I64\",\"shape\":[5,0],\"data_offsets\":[16,16]},\"c\":{\"dtype\":\"U8\",\"shape\":[3],\"data_"
                "offsets\":[16,19]}}   ",
                19);
    struct safetensors s;
    struct err e = {0};
    if (safetensors_open(&s, dir, &e)) fail_msg("%s", e.msg);
    assert_int_equal(s.n_tensors, 4);
    const struct tensor *a = safetensors_find(&s, "a"), *b = safetensors_find(&s, "b"), *c = safetensors_find(&s, "c"),
                        *none = safetensors_find(&s, "none");
    assert_true(a && b && c && none && !safetensors_find(&s, "d") && !safetensors_find(&s, "__metadata__"));
    assert_true(a->n_dims == 0 && a->bytes == 4 && a->dtype == TENSOR_F32);
    assert_true(b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->dtype == TENSOR_BF16 && b->bytes == 12 &&
                *(const unsigned char *)b->data == 4);
    assert_true(c->bytes == 3 && ((const unsigned char *)c->data)[2] == 18);
    assert_int_equal(none->bytes, 0);
    char text[64];
    tensor_shape_text(b->shape, b->n_dims, text, sizeof text);
    assert_string_equal(text, "[2, 3]");
    safetensors_close(&s);
}

static void test_dtypes(void **unused)
{
    (void)unused;
    static const size_t bytes[TENSOR_DTYPES] = {4, 2, 2, 8, 1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 1};
    for (int t = 0; t < TENSOR_DTYPES; t++) {
        char header[128];
        clear();
        snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}",
                 tensor_dtype_name((enum tensor_dtype)t), 3 * bytes[t]);
        write_plain("model.safetensors", header, 3 * bytes[t]);
        struct safetensors s;
        struct err e = {0};
        if (safetensors_open(&s, dir, &e)) fail_msg("%s: %s", header, e.msg);
        assert_int_equal(s.tensors[0].dtype, t);
        safetensors_close(&s);
    }
}

/* Nothing in the format aligns data: a float32 at an odd address is found, and its bytes are the file's. */
static void test_odd_places(void **unused)
{
    (void)unused;
    static const char one_byte_first[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"F32\","
                                         "\"shape\":[2],\"data_offsets\":[1,9]}}        ";
    size_t n_text = strlen(one_byte_first), n_odd = 0;
    for (size_t pad = 0; pad < 8; pad++) { /* header lengths of every remainder */
        write_tensors("model.safetensors", one_byte_first, n_text - pad, n_text - pad, 9);
        struct safetensors s;
        struct err e = {0};
        if (safetensors_open(&s, dir, &e)) fail_msg("%zu spaces off: %s", pad, e.msg);
        const struct tensor *b = safetensors_find(&s, "b");
        n_odd += (uintptr_t)b->data % 4 != 0;
        assert_int_equal(b->bytes, 8);
        assert_memory_equal(b->data, "\1\2\3\4\5\6\7\10", 8);
        safetensors_close(&s);
    }
    assert_int_equal(n_odd, 6);
    clear();
}

/* A file that shrinks while it is mapped: the process that reads past its new end dies of SIGBUS, rather than compute with zeros as if they
 * were weights. The worker that maps models may die: its gateway goes on. */
static void test_shrinking_file(void **unused)
{
    (void)unused;
    enum { N_DATA = 1 << 16 };
    clear();
    char header[128], path[256];
    snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}", N_DATA, N_DATA);
    write_plain("model.safetensors", header, N_DATA);
    path_of("model.safetensors", path);
    struct safetensors s;
    struct err e = {0};
    if (safetensors_open(&s, dir, &e)) fail_msg("%s", e.msg);
    assert_int_equal(truncate(path, 100), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGBUS, SIG_DFL); /* a sanitizer's handler would exit instead */
        _exit(((const volatile unsigned char *)s.tensors[0].data)[N_DATA - 1] == 0 ? 1 : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    safetensors_close(&s); /* unmapping it harms nobody */
    refused("the shrunk file", (const char *const[3]){"model.safetensors", "lie outside", "[0, 65536]"});
    clear();
}

/* Millions of values in a header that names few bytes: refused before a tree of them is built. */
static void test_crowded_headers(void **unused)
{
    (void)unused;
    enum { N = 3 << 20 };
    static const char *const units[] = {"{},", "\"\",", "[],"};
    char *header = malloc(3 * (size_t)N + 16);
    assert_non_null(header);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t n = (size_t)sprintf(header, "{\"x\":[");
        for (size_t i = 0; i < N; i++, n += 3) memcpy(header + n, units[u], 3);
        memcpy(header + n - 1, "]}", 2);
        write_tensors("model.safetensors", header, n + 1, n + 1, 0);
        refused(units[u], (const char *const[3]){"model.safetensors", "JSON values", "at byte"});
        write_file("model.safetensors.index.json", header, n + 1);
        refused(units[u], (const char *const[3]){"model.safetensors.index.json", "JSON values", "at byte"});
        clear();
    }
    free(header);
}

#define X(fields) "{\"w.x\":{" fields "}}"
static const struct {
    const char *what, *header;
    size_t n_data;
    const char *words[3];
} bad_headers[] = {
    {"not JSON", "{\"w.x\":", 0, {"model.safetensors"}},
    {"an array", "[1,2,3]", 0, {"model.safetensors", "object"}},
    {"no tensors", "{}", 0, {"model.safetensors", "no tensors"}},
    {"only metadata", "{\"__metadata__\":{\"format\":\"pt\"}}", 0, {"model.safetensors", "no tensors"}},
    {"metadata that are a list", "{\"__metadata__\":[]}", 0, {"model.safetensors", "__metadata__"}},
    {"metadata that are a text", "{\"__metadata__\":\"pt\"}", 0, {"model.safetensors", "__metadata__"}},
    {"a number in the metadata", "{\"__metadata__\":{\"format\":\"pt\",\"step\":4}}", 0, {"model.safetensors", "__metadata__", "step"}},
    {"metadata made to look like a tensor",
     "{\"__metadata__\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4,
     {"model.safetensors", "__metadata__", "shape"}},
    {"not UTF-8", "{\"\xff\xfe\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"model.safetensors"}},
    {"a NUL in a name", "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"model.safetensors"}},
    {"a name twice",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8,
     {"model.safetensors"}},
    {"a tensor that is a number", "{\"w.x\":4}", 0, {"w.x", "object"}},
    {"no dtype", X("\"shape\":[1],\"data_offsets\":[0,4]"), 4, {"w.x", "dtype"}},
    {"an unknown dtype", X("\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, {"w.x", "dtype", "Q4"}},
    {"a dtype that is a number", X("\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]"), 4, {"w.x", "dtype"}},
    {"no shape", X("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, {"w.x", "shape"}},
    {"a shape that is a number", X("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4, {"w.x", "shape"}},
    {"a negative size", X("\"dtype\":\"F32\",\"shape\":[2,-1],\"data_offsets\":[0,4]"), 4, {"w.x", "shape[1]"}},
    {"a fractional size", X("\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]"), 4, {"w.x", "shape[0]"}},
    {"a size over 2^63", X("\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]"), 4, {"model.safetensors"}},
    {"a product over 2^64", X("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,16],\"data_offsets\":[0,4]"), 4, {"w.x", "overflow"}},
    {"a byte count over 2^64", X("\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]"), 4, {"w.x", "offset 0"}},
    {"nine dimensions", X("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4, {"w.x", "8"}},
    {"no offsets", X("\"dtype\":\"F32\",\"shape\":[1]"), 4, {"w.x", "data_offsets"}},
    {"three offsets", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 8, {"w.x", "data_offsets"}},
    {"fractional offsets", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]"), 4, {"w.x", "data_offsets"}},
    {"reversed offsets", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]"), 8, {"w.x", "[8, 4]"}},
    {"a negative offset", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 4, {"w.x", "[-4, 0]"}},
    {"offsets past the end", X("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 7, {"w.x", "[0, 8]", "7 bytes"}},
    {"offsets near 2^63",
     X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,9223372036854775807]"),
     4,
     {"w.x", "9223372036854775807"}},
    {"too few bytes for the shape", X("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, {"w.x", "4 bytes", "8"}},
    {"too many bytes for the shape", X("\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, {"w.x", "4 bytes", "2"}},
    {"bytes for a tensor of none", X("\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,4]"), 4, {"w.x", "4 bytes", "ask for 0"}},
    {"a tensor of none past the end", X("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[5,5]"), 4, {"w.x", "[5, 5]"}},
    {"overlapping tensors",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8,
     {"a and b overlap", "offset 4"}},
    {"the same bytes twice",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4,
     {"overlap", "offset 0"}},
    {"a gap",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
     12,
     {"offset 4 to 8", "before b"}},
    {"bytes before the first", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8, {"offset 0 to 4", "w.x"}},
    {"bytes after the last", X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 9, {"5 bytes after", "offset 4"}},
};

static void test_bad_headers(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        clear();
        write_plain("model.safetensors", bad_headers[i].header, bad_headers[i].n_data);
        refused(bad_headers[i].what, bad_headers[i].words);
    }
}

static void test_bad_files(void **unused)
{
    (void)unused;
    static const char good[] = X("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]");
    clear();
    refused("no file", (const char *const[3]){"model.safetensors", "No such file"});
    for (size_t n = 0; n < 10; n++) {
        write_file("model.safetensors", "\x02\0\0\0\0\0\0\0{}", n);
        refused("a file of a few bytes", (const char *const[3]){"too short"});
    }
    static const uint64_t lengths[] = {sizeof good + 4, 1000,      SAFETENSORS_MAX_HEADER, SAFETENSORS_MAX_HEADER + 1ull, 1ull << 32,
                                       1ull << 63,      UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char says[32];
        snprintf(says, sizeof says, "%llu bytes", (unsigned long long)lengths[i]);
        write_tensors("model.safetensors", good, sizeof good - 1, lengths[i], 4);
        refused("a header longer than the file",
                (const char *const[3]){says, "at offset 0", lengths[i] > SAFETENSORS_MAX_HEADER ? "the limit is" : "but the file has"});
    }
    write_tensors("model.safetensors", good, sizeof good - 1, 0, 4);
    refused("a header of no bytes", (const char *const[3]){"model.safetensors"});
    for (size_t cut = 0; cut < sizeof good - 1; cut += 5) { /* cut anywhere: in the header, never accepted */
        write_tensors("model.safetensors", good, cut, sizeof good - 1, 0);
        refused("a file cut in its header", (const char *const[3]){0});
    }
    write_tensors("model.safetensors", good, sizeof good - 1, sizeof good - 1, 3);
    refused("a file cut in its data", (const char *const[3]){"w.x", "3 bytes"});
    struct safetensors s;
    struct err e = {0};
    assert_int_equal(safetensors_open_file(&s, dir, "model.safetensors", &e), -ERR_INPUT); /* the one-file entry closes after itself too */
    assert_true(!s.tensors && !s.files);
    clear();
    char path[256];
    path_of("model.safetensors", path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused("a folder", (const char *const[3]){"model.safetensors", "regular"});
    rmdir(path);
    assert_int_equal(symlink("model.safetensors", path), 0);
    refused("a link to itself", (const char *const[3]){"model.safetensors"});
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    refused("a pipe", (const char *const[3]){"model.safetensors", "regular"});
    clear();
}

/* --- shards --- */
#define A "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
#define B "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
static const struct {
    const char *what, *index, *b_header;
    const char *words[3];
} bad_shards[] = {
    {"an index that is not JSON", "{", B, {"model.safetensors.index.json"}},
    {"an index without a map", "{\"metadata\":{}}", B, {"weight_map"}},
    {"a map that is a list", "{\"weight_map\":[]}", B, {"weight_map"}},
    {"an index that is a list", "[]", B, {"model.safetensors.index.json", "weight_map"}},
    {"a name twice in the map",
     "{\"weight_map\":{\"a\":\"a.safetensors\",\"a\":\"b.safetensors\"}}",
     B,
     {"model.safetensors.index.json", "byte"}},
    {"a shard that is a link to itself", "{\"weight_map\":{\"a\":\"loop.safetensors\"}}", B, {"loop.safetensors"}},
    {"a shard that is a folder", "{\"weight_map\":{\"a\":\"folder.safetensors\"}}", B, {"folder.safetensors", "regular"}},
    {"the folder itself", "{\"weight_map\":{\"a\":\".\"}}", B, {"weight_map[\"a\"]", "not the name"}},
    {"the folder above", "{\"weight_map\":{\"a\":\"..\"}}", B, {"weight_map[\"a\"]", "not the name"}},
    {"the index as a shard", "{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", B, {"model.safetensors.index.json", "offset 0"}},
    {"an empty map", "{\"weight_map\":{}}", B, {"weight_map"}},
    {"a shard that is not there",
     "{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"c.safetensors\"}}",
     B,
     {"c.safetensors", "No such file"}},
    {"a shard in another folder", "{\"weight_map\":{\"a\":\"../a.safetensors\"}}", B, {"weight_map[\"a\"]", "not the name"}},
    {"an absolute path", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", B, {"weight_map[\"a\"]"}},
    {"a folder within", "{\"weight_map\":{\"a\":\"x/a.safetensors\"}}", B, {"weight_map[\"a\"]"}},
    {"a name with NUL", "{\"weight_map\":{\"a\":\"a.safetensors\\u0000x\"}}", B, {"model.safetensors.index.json"}},
    {"an empty name", "{\"weight_map\":{\"a\":\"\"}}", B, {"weight_map[\"a\"]"}},
    {"a number for a name", "{\"weight_map\":{\"a\":1}}", B, {"weight_map[\"a\"]"}},
    {"a tensor that is in no shard",
     "{\"weight_map\":{\"a\":\"a.safetensors\",\"z\":\"b.safetensors\"}}",
     B,
     {"tensor z", "b.safetensors"}},
    {"a tensor in the other shard", "{\"weight_map\":{\"a\":\"b.safetensors\",\"b\":\"a.safetensors\"}}", B, {"is not in"}},
    {"a tensor in both", "{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}", A, {"tensor a", "both"}},
    {"a damaged second shard",
     "{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}",
     "{\"b\":1}",
     {"b.safetensors", "tensor b"}},
};

static void test_shards(void **unused)
{
    (void)unused;
    clear();
    write_plain("a.safetensors", A, 4);
    static const char index[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}";
    write_plain("b.safetensors", B, 4);
    write_file("model.safetensors.index.json", index, sizeof index - 1);
    struct safetensors s;
    struct err e = {0};
    if (safetensors_open(&s, dir, &e)) fail_msg("%s", e.msg);
    assert_true(s.n_tensors == 2 && s.n_files == 2 && safetensors_find(&s, "a")->file != safetensors_find(&s, "b")->file);
    safetensors_close(&s);
    char loop[256], folder[256];
    path_of("loop.safetensors", loop);
    path_of("folder.safetensors", folder);
    assert_true(symlink("loop.safetensors", loop) == 0 && mkdir(folder, 0700) == 0);
    for (size_t i = 0; i < sizeof bad_shards / sizeof *bad_shards; i++) {
        write_plain("b.safetensors", bad_shards[i].b_header, 4);
        write_file("model.safetensors.index.json", bad_shards[i].index, strlen(bad_shards[i].index));
        refused(bad_shards[i].what, bad_shards[i].words);
    }
    assert_true(unlink(loop) == 0 && rmdir(folder) == 0);
}

/* Bytes of a good header changed, cut out or doubled: read or refused, and every accepted tensor lies inside the file. */
static void test_damage(void **unused)
{
    (void)unused;
    static const char good[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"BF16\",\"shape\":[4],"
                               "\"data_offsets\":[8,16]}}";
    static const char with[] = "0123456789-[]{},:\"e.\\ \x80\xff";
    uint32_t seed = 11;
    int accepted = 0;
    clear();
    for (int i = 0; i < 3000; i++) {
        char h[sizeof good + 8];
        size_t n = sizeof good - 1;
        memcpy(h, good, n);
        for (int k = 0; k <= i % 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            size_t at = (seed >> 8) % n;
            unsigned how = seed >> 28;
            if (how < 10)
                h[at] = with[(seed >> 20) % (sizeof with - 1)];
            else if (how < 13)
                memmove(h + at, h + at + 1, --n - at);
            else
                memmove(h + at + 1, h + at, n++ - at);
        }
        write_tensors("model.safetensors", h, n, n, 16);
        struct safetensors s;
        struct err e = {0};
        if (safetensors_open(&s, dir, &e)) {
            assert_true(e.msg[0] != '\0');
            continue;
        }
        accepted++;
        for (size_t t = 0; t < s.n_tensors; t++) {
            const unsigned char *p = s.tensors[t].data;
            assert_true(p >= s.files[0].map && p + s.tensors[t].bytes <= s.files[0].map + s.files[0].bytes);
        }
        safetensors_close(&s);
    }
    assert_true(accepted > 20 && accepted < 2500); /* names may change; most else may not */
}

static int set_up(void **unused)
{
    (void)unused;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    clear();
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),           cmocka_unit_test(test_dtypes),     cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_files),       cmocka_unit_test(test_odd_places), cmocka_unit_test(test_shrinking_file),
        cmocka_unit_test(test_crowded_headers), cmocka_unit_test(test_shards),     cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
