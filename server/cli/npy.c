/* Npy: see npy.h. */
#include "server/cli/npy.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"

static const struct {
    const char *descr;
    size_t size;
} types[] = {[NPY_F32] = {"<f4", 4}, [NPY_I32] = {"<i4", 4}, [NPY_U8] = {"|u1", 1}};

static int npy_fail(struct npy *w, struct err *e)
{
    int rc = err_set(e, ERR_IO, "%s: %s", w->path, strerror(errno));
    if (w->file) fclose(w->file);
    w->file = NULL;
    return rc;
}

int npy_open(struct npy *w, const char *dir, const char *name, enum npy_type type, const size_t *shape, size_t n_dims, struct err *e)
{
    *w = (struct npy){.left_bytes = types[type].size};
    CHECK(n_dims > 0 && n_dims <= NPY_MAX_DIMS);
    if (snprintf(w->path, sizeof w->path, "%s/%s", dir, name) >= (int)sizeof w->path)
        return err_set(e, ERR_LIMIT, "%.200s: path is too long", dir);
    struct buf h;
    buf_init(&h, 512);
    buf_printf(&h, "{'descr': '%s', 'fortran_order': False, 'shape': (", types[type].descr);
    for (size_t i = 0; i < n_dims; i++) {
        buf_printf(&h, "%zu,%s", shape[i], i + 1 < n_dims ? " " : "");
        if (__builtin_mul_overflow(w->left_bytes, shape[i], &w->left_bytes)) h.failed = -ERR_LIMIT;
    }
    buf_puts(&h, "), }");
    while ((10 + h.len + 1) % 64 && !h.failed) buf_putc(&h, ' '); /* data starts at a multiple of 64 */
    buf_putc(&h, '\n');
    int rc = h.failed ? err_set(e, ERR_LIMIT, "%s: the array is too large", w->path) : 0;
    if (!rc) {
        const unsigned char magic[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(h.len & 255), (unsigned char)(h.len >> 8)};
        w->file = fopen(w->path, "wbe");
        if (!w->file || fwrite(magic, 1, sizeof magic, w->file) != sizeof magic || fwrite(h.data, 1, h.len, w->file) != h.len)
            rc = npy_fail(w, e);
    }
    buf_free(&h);
    return rc;
}

int npy_write(struct npy *w, const void *data, size_t n_bytes, struct err *e)
{
    CHECK(n_bytes <= w->left_bytes);
    if (fwrite(data, 1, n_bytes, w->file) != n_bytes) return npy_fail(w, e);
    w->left_bytes -= n_bytes;
    return 0;
}

int npy_close(struct npy *w, struct err *e)
{
    FILE *f = w->file;
    w->file = NULL;
    if (fclose(f)) return err_set(e, ERR_IO, "%s: %s", w->path, strerror(errno));
    if (w->left_bytes) return err_set(e, ERR_INTERNAL, "%s: %zu bytes are missing", w->path, w->left_bytes);
    return 0;
}

void npy_abandon(struct npy *w)
{
    if (w->file) fclose(w->file);
    w->file = NULL;
}
