/* Safetensors: the tensors of a model folder, mapped read-only: model.safetensors, or the shards of model.safetensors.index.json.
 *
 * The header of every file is checked before anything is used: its length, every dtype, shape, product and offset, overlaps and gaps, duplicate names,
 * shard names without paths, __metadata__ of strings only. Errors name the file, the tensor and the offset. Tensor data is borrowed from the mapping until
 * safetensors_close and need not be aligned. Format: https://huggingface.co/docs/safetensors (an 8-byte little-endian header length, a
 * JSON header that may be padded with spaces, data offsets relative to its end). A file that shrinks while it is mapped ends the process. */
#ifndef SPILLWAY_WEIGHTS_SAFETENSORS_H
#define SPILLWAY_WEIGHTS_SAFETENSORS_H

#include <stdint.h>

#include "base/err.h"

enum { TENSOR_MAX_DIMS = 8, SAFETENSORS_MAX_TENSORS = 65536, SAFETENSORS_MAX_FILES = 1024, SAFETENSORS_MAX_HEADER = 100 << 20 };

enum tensor_dtype {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_F64,
    TENSOR_F8_E4M3,
    TENSOR_F8_E5M2,
    TENSOR_I8,
    TENSOR_U8,
    TENSOR_I16,
    TENSOR_U16,
    TENSOR_I32,
    TENSOR_U32,
    TENSOR_I64,
    TENSOR_U64,
    TENSOR_BOOL,
    TENSOR_DTYPES
};

struct tensor {
    char *name;
    enum tensor_dtype dtype;
    int n_dims;
    uint64_t shape[TENSOR_MAX_DIMS];
    const void *data;
    size_t bytes;
    int file; /* index into files */
};

struct safetensors_file {
    char *name;
    unsigned char *map;
    size_t bytes, header_bytes; /* header_bytes includes the 8 of its length */
};

struct safetensors {
    struct tensor *tensors; /* by name */
    size_t n_tensors, cap;
    struct safetensors_file *files;
    size_t n_files;
};

MUST_USE int safetensors_open(struct safetensors *s, const char *dir, struct err *e);
/* One file of any name in dir. */
MUST_USE int safetensors_open_file(struct safetensors *s, const char *dir, const char *name, struct err *e);
void safetensors_close(struct safetensors *s); /* accepts a zeroed or half-open struct */
/* NULL if there is none. */
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);
/* "F32", "BF16", ... */
const char *tensor_dtype_name(enum tensor_dtype t);
/* "[3, 192]" into out. */
void tensor_shape_text(const uint64_t *shape, int n_dims, char *out, size_t n);

#endif
