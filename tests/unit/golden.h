/* Golden files for the picture tests: JSON, whole files, SHA-256, and tensors of a safetensors file. Everything fails
 * the test on an error; buffers and JSON are the caller's to free. */
#ifndef SPILLWAY_TESTS_UNIT_GOLDEN_H
#define SPILLWAY_TESTS_UNIT_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "base/buf.h"
#include "base/json.h"

static inline void golden_path(char out[4096], const char *name)
{
    int n = snprintf(out, 4096, "%s/%s", SPILLWAY_GOLDEN_DIR, name);
    assert_true(n > 0 && n < 4096);
}

static inline int golden_exists(const char *name)
{
    char path[4096];
    golden_path(path, name);
    return access(path, R_OK) == 0;
}

static inline json_t *golden_json(const char *name)
{
    char path[4096];
    golden_path(path, name);
    json_t *v = NULL;
    struct err e = {0};
    if (json_read_file(path, &json_limits_file, &v, &e)) fail_msg("%s", e.msg);
    return v;
}

static inline void golden_file(struct buf *b, const char *name)
{
    char path[4096];
    golden_path(path, name);
    struct err e = {0};
    buf_init(b, 64 << 20);
    if (buf_read_file(b, path, &e)) fail_msg("%s", e.msg);
    buf_reserve(b, 1); /* data is there even when the file is empty */
}

static inline void sha256_hex(const void *p, size_t n, char out[65])
{
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(hash, p, n);
    sodium_bin2hex(out, 65, hash, sizeof hash);
}

static inline int json_int(const json_t *v)
{
    assert_true(json_is_integer(v));
    return (int)json_integer_value(v);
}

/* Pointer to a tensor's bytes in the safetensors file f with its parsed header; *n is their number. */
static inline const uint8_t *golden_tensor(const struct buf *f, const json_t *header, const char *name, size_t *n)
{
    uint64_t header_bytes;
    memcpy(&header_bytes, f->data, 8);
    const json_t *range = json_object_get(json_object_get(header, name), "data_offsets");
    size_t from = (size_t)json_int(json_array_get(range, 0)), to = (size_t)json_int(json_array_get(range, 1));
    assert_true(from <= to && 8 + header_bytes + to <= f->len);
    *n = to - from;
    return (const uint8_t *)f->data + 8 + header_bytes + from;
}

static inline json_t *golden_tensor_header(const struct buf *f)
{
    uint64_t n;
    assert_true(f->len > 8);
    memcpy(&n, f->data, 8);
    assert_true(n <= f->len - 8);
    json_t *v = NULL;
    struct err e = {0};
    if (json_read(f->data + 8, n, &json_limits_file, "header", &v, &e)) fail_msg("%s", e.msg);
    return v;
}

#endif
