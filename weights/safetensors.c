/* Safetensors: see safetensors.h. */
#include "weights/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[TENSOR_DTYPES] = {
    [TENSOR_F32] = {"F32", 4},         [TENSOR_F16] = {"F16", 2},         [TENSOR_BF16] = {"BF16", 2}, [TENSOR_F64] = {"F64", 8},
    [TENSOR_F8_E4M3] = {"F8_E4M3", 1}, [TENSOR_F8_E5M2] = {"F8_E5M2", 1}, [TENSOR_I8] = {"I8", 1},     [TENSOR_U8] = {"U8", 1},
    [TENSOR_I16] = {"I16", 2},         [TENSOR_U16] = {"U16", 2},         [TENSOR_I32] = {"I32", 4},   [TENSOR_U32] = {"U32", 4},
    [TENSOR_I64] = {"I64", 8},         [TENSOR_U64] = {"U64", 8},         [TENSOR_BOOL] = {"BOOL", 1},
};

/* Of a header or an index: room for SAFETENSORS_MAX_TENSORS of the most dimensions, each about 16 values, and no tree of gigabytes. */
static const struct json_limits header_limits = {
    .max_bytes = SAFETENSORS_MAX_HEADER, .max_values = 32 * SAFETENSORS_MAX_TENSORS, .max_depth = 64};

const char *tensor_dtype_name(enum tensor_dtype t)
{
    return (unsigned)t < TENSOR_DTYPES ? dtypes[t].name : "?";
}

void tensor_shape_text(const uint64_t *shape, int n_dims, char *out, size_t n)
{
    size_t at = (size_t)snprintf(out, n, "[");
    for (int i = 0; i < n_dims && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
    if (at < n) snprintf(out + at, n - at, "]");
}

void safetensors_close(struct safetensors *s)
{
    for (size_t i = 0; i < s->n_tensors; i++) free(s->tensors[i].name);
    free(s->tensors);
    for (size_t i = 0; i < s->n_files; i++) {
        if (s->files[i].map) munmap(s->files[i].map, s->files[i].bytes);
        free(s->files[i].name);
    }
    free(s->files);
    *s = (struct safetensors){0};
}

/* --- one file --- */
static int file_map(struct safetensors_file *f, const char *dir, struct err *e)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, f->name) >= sizeof path) return err_set(e, ERR_INPUT, "%s: path too long", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused below, not waited for */
    if (fd < 0) return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st))
        rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set(e, ERR_INPUT, "%s: not a regular file", path);
    else if (st.st_size < 10)
        rc = err_set(e, ERR_INPUT, "%s: %lld bytes: too short for a safetensors file", path, (long long)st.st_size);
    if (!rc) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = err_set(e, ERR_MEMORY, "%s: mmap of %lld bytes: %s", path, (long long)st.st_size, strerror(errno));
        else
            f->map = p, f->bytes = (size_t)st.st_size;
    }
    close(fd); /* the mapping outlives the descriptor */
    return rc;
}

static int header_length(struct safetensors_file *f, struct err *e)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | f->map[i];
    if (n > SAFETENSORS_MAX_HEADER)
        return err_set(e, ERR_LIMIT, "%s: header of %llu bytes at offset 0, the limit is %d", f->name, (unsigned long long)n,
                       SAFETENSORS_MAX_HEADER);
    if (n > f->bytes - 8)
        return err_set(e, ERR_INPUT, "%s: header of %llu bytes at offset 0, but the file has %zu", f->name, (unsigned long long)n,
                       f->bytes);
    f->header_bytes = (size_t)n + 8;
    return 0;
}

static int read_shape(struct tensor *t, const char *file, const json_t *shape, size_t *elements, struct err *e)
{
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_MAX_DIMS)
        return err_set(e, ERR_INPUT, "%s: tensor %s: shape must be an array of at most %d sizes", file, t->name, TENSOR_MAX_DIMS);
    *elements = 1;
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, (size_t)i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return err_set(e, ERR_INPUT, "%s: tensor %s: shape[%d] is not a size", file, t->name, i);
        t->shape[i] = (uint64_t)json_integer_value(v);
        if (__builtin_mul_overflow(*elements, t->shape[i], elements))
            return err_set(e, ERR_INPUT, "%s: tensor %s: the product of its shape overflows", file, t->name);
    }
    return 0;
}

static int read_dtype(struct tensor *t, const char *file, const json_t *dtype, struct err *e)
{
    const char *name = json_string_value(dtype);
    if (!name) return err_set(e, ERR_INPUT, "%s: tensor %s: dtype is missing", file, t->name);
    for (int i = 0; i < TENSOR_DTYPES; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            t->dtype = (enum tensor_dtype)i;
            return 0;
        }
    return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s: dtype '%.32s' is not supported", file, t->name, name);
}

static int read_tensor(struct tensor *t, const struct safetensors_file *f, const json_t *v, struct err *e)
{
    if (!json_is_object(v)) return err_set(e, ERR_INPUT, "%s: tensor %s: not an object", f->name, t->name);
    size_t elements = 0, bytes;
    int rc = read_dtype(t, f->name, json_object_get(v, "dtype"), e);
    if (!rc) rc = read_shape(t, f->name, json_object_get(v, "shape"), &elements, e);
    if (rc) return rc;
    const json_t *at = json_object_get(v, "data_offsets"), *a = json_array_get(at, 0), *b = json_array_get(at, 1);
    if (json_array_size(at) != 2 || !json_is_integer(a) || !json_is_integer(b))
        return err_set(e, ERR_INPUT, "%s: tensor %s: data_offsets must be two integers", f->name, t->name);
    long long from = json_integer_value(a), to = json_integer_value(b);
    size_t room = f->bytes - f->header_bytes;
    if (from < 0 || to < from || (unsigned long long)to > room)
        return err_set(e, ERR_INPUT, "%s: tensor %s: data_offsets [%lld, %lld] lie outside the %zu bytes of data", f->name, t->name, from,
                       to, room);
    if (__builtin_mul_overflow(elements, dtypes[t->dtype].bytes, &bytes) || bytes != (size_t)(to - from))
        return err_set(e, ERR_INPUT, "%s: tensor %s: %lld bytes at offset %lld, but its shape and dtype %s ask for %zu", f->name, t->name,
                       to - from, from, dtypes[t->dtype].name, bytes);
    t->data = f->map + f->header_bytes + from;
    t->bytes = bytes;
    return 0;
}

static int tensors_grow(struct safetensors *s, struct err *e)
{
    if (s->n_tensors >= SAFETENSORS_MAX_TENSORS) return err_set(e, ERR_LIMIT, "safetensors: more than %d tensors", SAFETENSORS_MAX_TENSORS);
    if (s->n_tensors < s->cap) return 0;
    size_t cap = s->cap ? s->cap * 2 : 256;
    struct tensor *p = realloc(s->tensors, cap * sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "safetensors: out of memory");
    s->tensors = p;
    s->cap = cap;
    return 0;
}

static int by_place(const void *pa, const void *pb)
{
    const struct tensor *a = pa, *b = pb;
    return a->data != b->data ? (a->data < b->data ? -1 : 1) : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static int by_name(const void *pa, const void *pb)
{
    return strcmp(((const struct tensor *)pa)->name, ((const struct tensor *)pb)->name);
}

/* The tensors of one file, the newest in the list, must fill its data in turn, without sharing bytes and without a gap, as the format asks. */
static int check_places(struct safetensors *s, size_t first, const struct safetensors_file *f, struct err *e)
{
    if (s->n_tensors > first) qsort(s->tensors + first, s->n_tensors - first, sizeof *s->tensors, by_place);
    const unsigned char *data = f->map + f->header_bytes, *end = data;
    for (size_t i = first; i < s->n_tensors; i++) {
        const struct tensor *t = &s->tensors[i];
        const unsigned char *at = t->data;
        if (at < end)
            return err_set(e, ERR_INPUT, "%s: tensors %s and %s overlap at offset %zu of the data", f->name, s->tensors[i - 1].name,
                           t->name, (size_t)(at - data));
        if (at > end)
            return err_set(e, ERR_INPUT, "%s: the data from offset %zu to %zu, before %s, belong to no tensor", f->name,
                           (size_t)(end - data), (size_t)(at - data), t->name);
        end = at + t->bytes;
    }
    if (end != f->map + f->bytes)
        return err_set(e, ERR_INPUT, "%s: %zu bytes after the last tensor, at offset %zu of the data", f->name,
                       (size_t)(f->map + f->bytes - end), (size_t)(end - data));
    return 0;
}

/* Notes for people, which say nothing about tensors; the format has them map strings to strings. */
static int check_metadata(const char *file, const json_t *metadata, struct err *e)
{
    if (!json_is_object(metadata)) return err_set(e, ERR_INPUT, "%s: __metadata__ must be an object of strings", file);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)metadata, key, v)
        if (!json_is_string(v)) return err_set(e, ERR_INPUT, "%s: __metadata__: '%.100s' is not a string", file, key);
    return 0;
}

static int read_header(struct safetensors *s, size_t file, struct err *e)
{
    const struct safetensors_file *f = &s->files[file];
    json_t *header;
    int rc = json_read((const char *)f->map + 8, f->header_bytes - 8, &header_limits, f->name, &header, e);
    if (rc) return rc;
    if (!json_is_object(header)) rc = err_set(e, ERR_INPUT, "%s: the header is not a JSON object", f->name);
    size_t first = s->n_tensors;
    const char *name;
    json_t *v;
    json_object_foreach(header, name, v) {
        if (rc) break;
        if (strcmp(name, "__metadata__") == 0) {
            rc = check_metadata(f->name, v, e);
            continue;
        }
        rc = tensors_grow(s, e);
        if (rc) break;
        struct tensor *t = &s->tensors[s->n_tensors];
        *t = (struct tensor){.name = strdup(name), .file = (int)file};
        if (!t->name)
            rc = err_set(e, ERR_MEMORY, "safetensors: out of memory");
        else
            s->n_tensors++, rc = read_tensor(t, f, v, e);
    }
    json_decref(header);
    return rc ? rc : check_places(s, first, f, e);
}

static int add_file(struct safetensors *s, const char *dir, const char *name, struct err *e)
{
    if (s->n_files >= SAFETENSORS_MAX_FILES) return err_set(e, ERR_LIMIT, "%s: more than %d weight files", dir, SAFETENSORS_MAX_FILES);
    struct safetensors_file *p = realloc(s->files, (s->n_files + 1) * sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "safetensors: out of memory");
    s->files = p;
    struct safetensors_file *f = &s->files[s->n_files++];
    *f = (struct safetensors_file){.name = strdup(name)};
    if (!f->name) return err_set(e, ERR_MEMORY, "safetensors: out of memory");
    int rc = file_map(f, dir, e);
    if (!rc) rc = header_length(f, e);
    return rc ? rc : read_header(s, s->n_files - 1, e);
}

/* --- shards --- */
static bool shard_name_ok(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static int add_shards(struct safetensors *s, const char *dir, const json_t *map, struct err *e)
{
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)map, tensor, v) {
        const char *name = json_string_value(v);
        if (!name || json_string_length(v) != strlen(name) || !shard_name_ok(name))
            return err_set(e, ERR_INPUT, "model.safetensors.index.json: weight_map[\"%.100s\"] is not the name of a file in the folder",
                           tensor);
        bool known = false;
        for (size_t i = 0; i < s->n_files && !known; i++) known = strcmp(s->files[i].name, name) == 0;
        int rc = known ? 0 : add_file(s, dir, name, e);
        if (rc) return rc;
    }
    return 0;
}

/* Every tensor of the map must be in the shard it names. */
static int check_map(const struct safetensors *s, const json_t *map, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)map, name, v) {
        const struct tensor *t = safetensors_find(s, name);
        if (!t || strcmp(s->files[t->file].name, json_string_value(v)))
            return err_set(e, ERR_INPUT, "model.safetensors.index.json: tensor %.200s is not in %.100s", name, json_string_value(v));
    }
    return 0;
}

static int sort_by_name(struct safetensors *s, struct err *e)
{
    if (s->n_tensors == 0) return err_set(e, ERR_INPUT, "%s: no tensors", s->files[0].name);
    qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return err_set(e, ERR_INPUT, "tensor %s is in both %s and %s", s->tensors[i].name, s->files[s->tensors[i - 1].file].name,
                           s->files[s->tensors[i].file].name);
    return 0;
}

int safetensors_open_file(struct safetensors *s, const char *dir, const char *name, struct err *e)
{
    *s = (struct safetensors){0};
    int rc = add_file(s, dir, name, e);
    if (!rc) rc = sort_by_name(s, e);
    if (rc) safetensors_close(s);
    return rc;
}

int safetensors_open(struct safetensors *s, const char *dir, struct err *e)
{
    *s = (struct safetensors){0};
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir) >= sizeof path)
        return err_set(e, ERR_INPUT, "%s: path too long", dir);
    json_t *index = NULL;
    int rc = json_read_file(path, &header_limits, &index, e);
    if (rc == -ERR_NOT_FOUND) {
        rc = safetensors_open_file(s, dir, "model.safetensors", e);
    } else if (!rc) {
        const json_t *map = json_object_get(index, "weight_map");
        if (!json_is_object(map) || json_object_size(map) == 0)
            rc = err_set(e, ERR_INPUT, "%s: weight_map must be an object that names files", path);
        if (!rc) rc = add_shards(s, dir, map, e);
        if (!rc) rc = sort_by_name(s, e);
        if (!rc) rc = check_map(s, map, e);
    }
    json_decref(index);
    if (rc) safetensors_close(s);
    return rc;
}

const struct tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    struct tensor key = {.name = (char *)name};
    return s->n_tensors ? bsearch(&key, s->tensors, s->n_tensors, sizeof key, by_name) : NULL;
}
