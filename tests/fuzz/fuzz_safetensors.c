/* Safetensors: one weight file, or (when the input begins with '{') the index of a sharded model beside two sound shards (T40). Whatever is
 * accepted has its tensors inside the data, without overlap, and every byte of them can be read.
 *
 * The file is "mapped" into memory of exactly its size (the linker sends safetensors.c's mmap here), so that a byte read past its
 * end is seen; a real mapping ends with its page. */
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "weights/safetensors.h"

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *p, size_t n);

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    (void)at, (void)prot, (void)flags;
    void *p = malloc(n);
    if (!p || pread(fd, p, n, offset) != (ssize_t)n) abort();
    return p;
}

int __wrap_munmap(void *p, size_t n)
{
    (void)n;
    free(p);
    return 0;
}

static const char *const words[] = {"F32",
                                    "BF16",
                                    "F16",
                                    "I64",
                                    "U8",
                                    "BOOL",
                                    "F8_E4M3",
                                    "F64",
                                    "X9",
                                    "dtype",
                                    "shape",
                                    "data_offsets",
                                    "__metadata__",
                                    "a",
                                    "b",
                                    "weight",
                                    "model.norm.weight",
                                    "a.safetensors",
                                    "b.safetensors",
                                    "../a.safetensors",
                                    ".hidden",
                                    "weight_map",
                                    "metadata",
                                    "format",
                                    "pt",
                                    NULL};

/* --- the mutator: a header of JSON between its length and the data --- */
static json_t *header_of(const uint8_t *p, size_t n, size_t *header_bytes)
{
    uint64_t length = 0;
    if (n < 8) return NULL;
    for (int i = 7; i >= 0; i--) length = length << 8 | p[i];
    if (length > n - 8) return NULL;
    *header_bytes = (size_t)length;
    return json_loadb((const char *)p + 8, (size_t)length, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
}

/* Makes the offsets of all tensors follow one another again, in a random order, as far as shapes and dtypes are sound; the data gets that
 * size. */
static size_t mend_offsets(json_t *header, struct fuzz_random *r)
{
    static const struct {
        const char *name;
        size_t bytes;
    } sizes[] = {{"F32", 4}, {"BF16", 2}, {"F16", 2}, {"I64", 8}, {"U8", 1}, {"BOOL", 1}, {"F8_E4M3", 1}, {"F64", 8}};
    const char *key;
    json_t *v;
    size_t end = 0;
    json_object_foreach(header, key, v) {
        const char *dtype = json_string_value(json_object_get(v, "dtype"));
        size_t n = 0, i;
        for (size_t k = 0; dtype && k < sizeof sizes / sizeof *sizes; k++)
            if (!strcmp(sizes[k].name, dtype)) n = sizes[k].bytes;
        json_t *d;
        json_array_foreach(json_object_get(v, "shape"), i, d) {
            size_t x = (size_t)json_integer_value(d);
            n = x < 2048 ? n * x % 4096 : 0;
        }
        if (!json_is_object(v) || !strcmp(key, "__metadata__") || fuzz_below(r, 40) == 0) continue;
        json_object_set_new(v, "data_offsets", json_pack("[I, I]", (json_int_t)end, (json_int_t)(end + n)));
        end += n;
    }
    return end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    struct fuzz_random r = {seed};
    if (n && p[0] == '{') return fuzz_mutate_json(p, n, max, seed, words);
    size_t old = 0;
    json_t *header = fuzz_below(&r, 8) ? header_of(p, n, &old) : NULL;
    if (!header) return LLVMFuzzerMutate(p, n, max);
    for (uint32_t k = fuzz_below(&r, 3); k > 0; k--) fuzz_change_json(header, &r, words);
    size_t data = fuzz_below(&r, 3) ? mend_offsets(header, &r) : n - 8 - old;
    char text[6144];
    size_t len = json_dumpb(header, text, sizeof text, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(header);
    if (len == 0 || len > sizeof text || 8 + len + data > max) return LLVMFuzzerMutate(p, n, max);
    if (fuzz_below(&r, 8) == 0) text[fuzz_below(&r, (uint32_t)len)] = (char)fuzz_next(&r);
    memcpy(p + 8, text, len);
    for (size_t i = 0; i < data; i++) p[8 + len + i] = (uint8_t)i;
    uint64_t said = len + (fuzz_below(&r, 30) == 0 ? (uint64_t)(int64_t)-1 + fuzz_below(&r, 3) : 0);
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(said >> (8 * i));
    return 8 + len + data;
}

/* --- the target --- */
static void check(const struct safetensors *s)
{
    size_t sum = 0;
    FUZZ_CHECK(s->n_tensors > 0 && s->n_tensors <= SAFETENSORS_MAX_TENSORS && s->n_files > 0);
    size_t total = 0, data = 0;
    for (size_t i = 0; i < s->n_files; i++) data += s->files[i].bytes - s->files[i].header_bytes;
    for (size_t i = 0; i < s->n_tensors; i++) {
        const struct tensor *t = &s->tensors[i];
        const struct safetensors_file *f = &s->files[t->file];
        const unsigned char *at = t->data;
        FUZZ_CHECK(at >= f->map + f->header_bytes && t->bytes <= (size_t)(f->map + f->bytes - at));
        FUZZ_CHECK(t->n_dims >= 0 && t->n_dims <= TENSOR_MAX_DIMS && (unsigned)t->dtype < TENSOR_DTYPES);
        FUZZ_CHECK(safetensors_find(s, t->name) == t);
        FUZZ_CHECK(i == 0 || strcmp(s->tensors[i - 1].name, t->name) < 0);
        for (size_t k = 0; k < t->bytes; k++) sum += at[k];
        total += t->bytes;
    }
    FUZZ_CHECK(total == data && sum <= 255 * data);
}

static void shard(const char *name, const char *tensor)
{
    char header[128], file[160];
    int n = snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", tensor);
    memset(file, 0, sizeof file);
    file[0] = (char)n;
    memcpy(file + 8, header, (size_t)n);
    fuzz_file(name, file, 8 + (size_t)n + 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static bool made;
    if (!made) {
        shard("a.safetensors", "a");
        shard("b.safetensors", "b");
        made = true;
    }
    bool index = n && p[0] == '{';
    fuzz_file(index ? "model.safetensors.index.json" : "model.safetensors", p, n);
    fuzz_file_none(index ? "model.safetensors" : "model.safetensors.index.json");
    struct safetensors s;
    struct err e = {0};
    int rc = safetensors_open(&s, fuzz_dir(), &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(!s.tensors && !s.files);
    } else {
        check(&s);
    }
    safetensors_close(&s);
    return 0;
}
