/* What targets share: random numbers, mutators that know words and JSON, files in memory. See fuzz.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/str.h"
#include "tests/fuzz/fuzz.h"

_Noreturn void fuzz_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

void fuzz_check_err(int rc, const struct err *e)
{
    FUZZ_CHECK(rc < 0 && rc > -ERR_CODES);
    FUZZ_CHECK(e->code == (enum err_code) - rc);
    FUZZ_CHECK(e->code != ERR_INTERNAL);
    FUZZ_CHECK(memchr(e->msg, 0, sizeof e->msg) && e->msg[0] && memchr(e->param, 0, sizeof e->param));
    FUZZ_CHECK(utf8_valid(e->msg, strlen(e->msg)) && utf8_valid(e->param, strlen(e->param)));
}

/* --- random numbers: splitmix64 --- */
uint32_t fuzz_next(struct fuzz_random *r)
{
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)(z >> 32);
}

uint32_t fuzz_below(struct fuzz_random *r, uint32_t n)
{
    return (uint32_t)((uint64_t)fuzz_next(r) * n >> 32);
}

/* --- words --- */
static size_t count_words(const char *const *words)
{
    size_t n = 0;
    while (words && words[n]) n++;
    return n;
}

/* Replaces p[at .. at+gone) by the n_new bytes at s; the input stays as it is when that would not fit. */
static size_t put_in_place(uint8_t *p, size_t n, size_t max, size_t at, size_t gone, const void *s, size_t n_new)
{
    if (n - gone + n_new > max) return n;
    memmove(p + at + n_new, p + at + gone, n - at - gone);
    memcpy(p + at, s, n_new);
    return n - gone + n_new;
}

size_t fuzz_mutate_words(uint8_t *p, size_t n, size_t max, unsigned seed, const char *const *words)
{
    struct fuzz_random r = {seed};
    size_t n_words = count_words(words), at = fuzz_below(&r, (uint32_t)n + 1);
    if (n_words && fuzz_below(&r, 3)) {
        const char *word = words[fuzz_below(&r, (uint32_t)n_words)];
        size_t gone = fuzz_below(&r, 2) ? fuzz_below(&r, 12) : 0;
        return put_in_place(p, n, max, at, gone < n - at ? gone : n - at, word, strlen(word));
    }
    uint8_t piece[512];
    size_t from = fuzz_below(&r, (uint32_t)n + 1), len = fuzz_below(&r, 1u << fuzz_below(&r, 10));
    if (len > n - from) len = n - from;
    if (len > sizeof piece) len = sizeof piece;
    memcpy(piece, p + from, len);
    return put_in_place(p, n, max, at, 0, piece, len);
}

/* --- JSON --- */
static json_t *small_value(struct fuzz_random *r, const char *const *words)
{
    static const json_int_t integers[] = {0,
                                          1,
                                          -1,
                                          2,
                                          7,
                                          8,
                                          16,
                                          63,
                                          64,
                                          65,
                                          255,
                                          256,
                                          1024,
                                          65535,
                                          65536,
                                          1 << 20,
                                          INT32_MAX,
                                          INT32_MIN,
                                          (json_int_t)UINT32_MAX,
                                          (json_int_t)1 << 53,
                                          INT64_MAX,
                                          INT64_MIN};
    static const double reals[] = {0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, 1e38, 3.5e38, 1e-45, 0.1, 100.0, 2.0000001};
    size_t n_words = count_words(words);
    switch (fuzz_below(r, 9)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(fuzz_below(r, 2));
    case 2:
    case 3:
        return json_integer(integers[fuzz_below(r, sizeof integers / sizeof *integers)]);
    case 4:
        return json_real(reals[fuzz_below(r, sizeof reals / sizeof *reals)]);
    case 5:
        return json_array();
    case 6:
        return json_object();
    default:
        return json_string(n_words && fuzz_below(r, 8) ? words[fuzz_below(r, (uint32_t)n_words)] : "");
    }
}

/* Values in the order of a walk; the root is number 0. */
struct place {
    json_t *holder; /* NULL: the root */
    const char *key;
    size_t i;
    json_t *value;
};
struct walk {
    size_t left;
    struct place found;
};

static bool walk_to(struct walk *w, struct place at)
{
    if (w->left-- == 0) {
        w->found = at;
        return true;
    }
    const char *key;
    json_t *v;
    size_t i;
    json_object_foreach(at.value, key, v)
        if (walk_to(w, (struct place){at.value, key, 0, v})) return true;
    json_array_foreach(at.value, i, v)
        if (walk_to(w, (struct place){at.value, NULL, i, v})) return true;
    return false;
}

static size_t count_values(json_t *v)
{
    struct walk w = {.left = SIZE_MAX};
    walk_to(&w, (struct place){.value = v});
    return SIZE_MAX - w.left;
}

static struct place place_at(json_t *root, size_t i)
{
    struct walk w = {.left = i};
    walk_to(&w, (struct place){.value = root});
    return w.found;
}

static void put(struct place at, json_t *v)
{
    if (!at.holder)
        json_decref(v);
    else if (at.key)
        json_object_set_new(at.holder, at.key, v);
    else
        json_array_set_new(at.holder, at.i, v);
}

static json_t *nudged(struct fuzz_random *r, const json_t *v)
{
    static const int steps[] = {-1, 1, 2, -2, 8, -8, 100, 4096};
    if (!json_is_integer(v)) return json_real(json_number_value(v) * (fuzz_below(r, 2) ? 0.5 : -3));
    return json_integer((json_int_t)((uint64_t)json_integer_value(v) + (uint64_t)(int64_t)steps[fuzz_below(r, 8)]));
}

static json_t *changed_text(struct fuzz_random *r, const json_t *v, const char *const *words)
{
    uint8_t text[2048];
    size_t n = json_string_length(v);
    if (n > sizeof text / 2) return json_deep_copy(v);
    memcpy(text, json_string_value(v), n);
    n = fuzz_mutate_words(text, n, sizeof text, fuzz_next(r), words);
    json_t *out = json_stringn((const char *)text, n);
    return out ? out : json_deep_copy(v); /* cut inside a character */
}

void fuzz_change_json(json_t *root, struct fuzz_random *r, const char *const *words)
{
    size_t n = count_values(root), n_words = count_words(words);
    struct place a = place_at(root, fuzz_below(r, (uint32_t)n)), b = place_at(root, fuzz_below(r, (uint32_t)n));
    const char *word = n_words ? words[fuzz_below(r, (uint32_t)n_words)] : "x";
    switch (fuzz_below(r, 8)) {
    case 0:
        put(a, small_value(r, words));
        return;
    case 1:
        put(a, json_deep_copy(b.value));
        return;
    case 2: /* taken away */
        if (a.holder && a.key)
            json_object_del(a.holder, a.key);
        else if (a.holder)
            json_array_remove(a.holder, a.i);
        return;
    case 3: /* renamed */
        if (a.holder && a.key) {
            json_t *v = json_incref(a.value);
            json_object_del(a.holder, a.key);
            json_object_set_new(a.holder, word, v);
        }
        return;
    case 4: /* one more member or item */
        if (json_is_object(a.value))
            json_object_set_new(a.value, word, fuzz_below(r, 2) ? small_value(r, words) : json_deep_copy(b.value));
        else if (json_is_array(a.value))
            json_array_insert_new(a.value, fuzz_below(r, (uint32_t)json_array_size(a.value) + 1),
                                  fuzz_below(r, 2) ? small_value(r, words) : json_deep_copy(b.value));
        return;
    case 5: { /* one deeper */
        json_t *list = json_array();
        json_array_append(list, a.value);
        put(a, list);
        return;
    }
    default:
        if (json_is_number(a.value))
            put(a, nudged(r, a.value));
        else if (json_is_string(a.value))
            put(a, changed_text(r, a.value, words));
        else
            put(a, small_value(r, words));
    }
}

size_t fuzz_mutate_json(uint8_t *p, size_t n, size_t max, unsigned seed, const char *const *words)
{
    struct fuzz_random r = {seed};
    uint32_t how = fuzz_below(&r, 8);
    if (how == 0) return LLVMFuzzerMutate(p, n, max);
    if (how == 1) return fuzz_mutate_words(p, n, max, fuzz_next(&r), words);
    json_t *v = json_loadb((const char *)p, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    if (!v) return LLVMFuzzerMutate(p, n, max);
    for (uint32_t k = 1 + fuzz_below(&r, 3); k > 0; k--) fuzz_change_json(v, &r, words);
    size_t len = json_dumpb(v, (char *)p, max, JSON_COMPACT | JSON_ENCODE_ANY);
    if (len == 0 || len > max) { /* does not fit: p holds a part of it, or nothing */
        len = max < 2 ? 0 : 2;
        memcpy(p, "{}", len);
    }
    json_decref(v);
    return len;
}

/* --- files --- */
enum { MAX_FILES = 16 };
static struct {
    char dir[64];
    struct {
        char name[64];
        int fd;
        bool linked;
    } files[MAX_FILES];
    size_t n_files;
} disk;

static _Noreturn void refused(const char *what)
{
    fprintf(stderr, "fuzz: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void path_of(const char *name, char out[160])
{
    snprintf(out, 160, "%s/%s", fuzz_dir(), name);
}

static void clean_up(void)
{
    for (size_t i = 0; i < disk.n_files; i++) {
        char path[160];
        path_of(disk.files[i].name, path);
        if (disk.files[i].linked) unlink(path);
    }
    rmdir(disk.dir);
}

const char *fuzz_dir(void)
{
    if (disk.dir[0]) return disk.dir;
    strcpy(disk.dir, "/tmp/spillway-fuzz-XXXXXX");
    if (!mkdtemp(disk.dir)) refused("mkdtemp");
    atexit(clean_up);
    return disk.dir;
}

static size_t file_index(const char *name)
{
    for (size_t i = 0; i < disk.n_files; i++)
        if (strcmp(disk.files[i].name, name) == 0) return i;
    if (disk.n_files == MAX_FILES || strlen(name) >= sizeof disk.files[0].name) refused("too many files");
    size_t i = disk.n_files++;
    strcpy(disk.files[i].name, name);
    disk.files[i].fd = memfd_create(name, MFD_CLOEXEC);
    if (disk.files[i].fd < 0) refused("memfd_create");
    return i;
}

void fuzz_file_none(const char *name)
{
    size_t i = file_index(name);
    char path[160];
    path_of(name, path);
    if (disk.files[i].linked) unlink(path);
    disk.files[i].linked = false;
}

void fuzz_file(const char *name, const void *p, size_t n)
{
    size_t i = file_index(name);
    int fd = disk.files[i].fd;
    if (ftruncate(fd, 0) || ftruncate(fd, (off_t)n)) refused("ftruncate");
    if (n && pwrite(fd, p, n, 0) != (ssize_t)n) refused("pwrite");
    if (disk.files[i].linked) return;
    char path[160], target[40];
    path_of(name, path);
    snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
    if (symlink(target, path)) refused("symlink");
    disk.files[i].linked = true;
}

const char *fuzz_source_path(char out[4096], const char *name)
{
    if (snprintf(out, 4096, "%s/%s", SPILLWAY_SOURCE_DIR, name) >= 4096) refused("path");
    return out;
}
