/* cuBLASLt as far as kernels/cuda uses it, for the simulated device. It is told a product as the library is and does what it is told:
 * transposes, columns first, leading dimensions, types, epilogue, bias, C and beta; sums are float32. What the library's documentation
 * calls invalid or not supported it refuses, with a line that says why, and it takes every liberty that it is given: parts of k that need a
 * workspace, sums in the output's type, addresses and sizes that must be what the algorithm was chosen for. It declares the library's API
 * by itself: kernels/cuda/cublaslt.h is what it tests.
 *
 * FAKE_CUBLASLT in the environment, when a call is made: old (its version), handle (no handle can be made), refuse (it has no algorithm),
 * fail (products fail), and planted faults: transpose (W is read the other way round), ld (rows of `in` are taken to lie 8 numbers
 * closer). */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda_runtime.h"

enum status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, OP_N = 0, OP_T = 1 };
enum { DESC_TRANSA = 3, DESC_TRANSB = 4, DESC_EPILOGUE = 7, DESC_BIAS_POINTER = 8 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4, EPILOGUE_GELU = 32 };
enum { REDUCTION_COMPUTE_TYPE = 2, REDUCTION_OUTPUT_TYPE = 4, REDUCTION_ALL = 7 };
enum { PREF_MAX_WORKSPACE = 1, PREF_REDUCTION = 3, PREF_ALIGNMENT_A = 5 };
enum { HANDLE = 0x48414e44, DESC = 0x44455343, LAYOUT = 0x4c41594f, PREFERENCE = 0x50524546, ALGO = 0x414c474f };

struct handle {
    uint32_t magic;
};
struct desc {
    uint32_t magic;
    int compute, scale;
    int32_t trans[2];
    uint32_t epilogue;
    const void *bias;
};
struct layout {
    uint32_t magic;
    int type;
    uint64_t rows, cols;
    int64_t ld;
};
struct preference {
    uint32_t magic;
    uint64_t workspace;
    uint32_t reductions, align[4];
};
struct algo {
    uint64_t
        data[8]; /* ALGO, the product's hash, workspace, parts of k, whether they are added in the output's type, alignments, the bias's */
};
struct found {
    algo a;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

namespace {

size_t products;

bool ordered(const char *what)
{
    const char *v = std::getenv("FAKE_CUBLASLT");
    return v && !std::strcmp(v, what);
}

int refuse(int status, const char *why)
{
    std::fprintf(stderr, "fake cuBLASLt: %s\n", why);
    return status;
}

template <class T> bool is(const T *p, uint32_t magic)
{
    return p && p->magic == magic;
}

uint64_t alignment(const void *p)
{
    const uint64_t low = uint64_t(uintptr_t(p)) & -uint64_t(uintptr_t(p));
    return low > 256 || low == 0 ? 256 : low;
}

/* Of the four layouts and what is done: what an algorithm is for. */
uint64_t hash_of(const desc &d, const layout *const (&l)[4])
{
    uint64_t h = 1;
    const auto add = [&h](uint64_t v) { h = (h ^ v) * 0x9E3779B97F4A7C15u, h ^= h >> 29; };
    for (const layout *x : l) add(uint64_t(x->type)), add(x->rows), add(x->cols), add(uint64_t(x->ld));
    add(uint64_t(d.trans[0])), add(uint64_t(d.trans[1])), add(d.epilogue);
    return h;
}

/* What the documentation's tables of cublasLtMatmul allow, of what is used here. l: A, B, C, D. */
int check(const desc &d, const layout *const (&l)[4])
{
    if (d.compute != COMPUTE_32F || d.scale != R_32F) return refuse(NOT_SUPPORTED, "compute and scale are not float32");
    if (l[0]->type != R_16BF || l[1]->type != R_16BF) return refuse(NOT_SUPPORTED, "A and B are not both bf16");
    if (l[2]->type != l[3]->type || (l[3]->type != R_32F && l[3]->type != R_16BF))
        return refuse(NOT_SUPPORTED, "C and D are not both float32 or both bf16");
    const bool ta = d.trans[0] == OP_T, tb = d.trans[1] == OP_T;
    const uint64_t m = ta ? l[0]->cols : l[0]->rows, ka = ta ? l[0]->rows : l[0]->cols, kb = tb ? l[1]->cols : l[1]->rows,
                   n = tb ? l[1]->rows : l[1]->cols;
    if (ka != kb) return refuse(INVALID_VALUE, "A and B have not the same k");
    for (int i = 2; i < 4; i++)
        if (l[i]->rows != m || l[i]->cols != n) return refuse(INVALID_VALUE, "C or D has not the size of A B");
    for (const layout *x : l)
        if (x->ld < int64_t(x->rows)) return refuse(INVALID_VALUE, "columns overlap: a leading dimension is too small");
    if (m == 0 || n == 0 || ka == 0) return refuse(INVALID_VALUE, "a dimension is 0");
    const uint32_t e = d.epilogue & ~uint32_t(EPILOGUE_BIAS | EPILOGUE_GELU);
    if (d.epilogue != EPILOGUE_DEFAULT && (e || !d.epilogue)) return refuse(NOT_SUPPORTED, "no such epilogue");
    if (d.epilogue & EPILOGUE_BIAS && !d.bias) return refuse(INVALID_VALUE, "an epilogue with bias without its address");
    return SUCCESS;
}

float number(const void *p, int type, size_t i)
{
    float f;
    if (type == R_32F) return std::memcpy(&f, static_cast<const char *>(p) + 4 * i, 4), f;
    uint16_t h;
    std::memcpy(&h, static_cast<const char *>(p) + 2 * i, 2);
    const uint32_t bits = uint32_t(h) << 16;
    return std::memcpy(&f, &bits, 4), f;
}

float as_bf16(float f)
{
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (std::isnan(f)) return f;
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    return std::memcpy(&f, &bits, 4), f;
}

void store(void *p, int type, size_t i, float f)
{
    uint32_t bits;
    if (type == R_16BF) f = as_bf16(f);
    std::memcpy(&bits, &f, 4);
    const uint16_t high = uint16_t(bits >> 16);
    if (type == R_32F)
        std::memcpy(static_cast<char *>(p) + 4 * i, &bits, 4);
    else
        std::memcpy(static_cast<char *>(p) + 2 * i, &high, 2);
}

/* A matrix of bf16, its op()'s rows one after another: op(A) by rows, or op(B) by columns, both with k adjacent. */
std::vector<float> gathered(const void *p, const layout &l, bool k_is_rows, bool other_way)
{
    const size_t k = k_is_rows ? l.rows : l.cols, n = k_is_rows ? l.cols : l.rows;
    std::vector<float> out(n * k);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++) {
            const size_t row = k_is_rows ? j : i, col = k_is_rows ? i : j;
            out[i * k + j] = number(p, l.type, other_way ? row * size_t(l.ld) + col : col * size_t(l.ld) + row);
        }
    return out;
}

/* A product that is queued: everything by value, as the library has read it when the call returns. */
struct work {
    desc d;
    layout l[4];
    const void *a, *b, *c;
    void *out;
    float alpha, beta;
    size_t parts;
    bool rounds_parts; /* parts are added in the output's type */
    void operator()() const;
};

float gelu(float x)
{
    return 0.5f * x * (1 + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

void work::operator()() const
{
    const bool ta = d.trans[0] == OP_T, tb = d.trans[1] == OP_T;
    const std::vector<float> left = gathered(a, l[0], ta, ordered("transpose")), right = gathered(b, l[1], !tb, false);
    const size_t m = l[3].rows, n = l[3].cols, k = ta ? l[0].rows : l[0].cols;
    for (size_t col = 0; col < n; col++)
        for (size_t row = 0; row < m; row++) {
            float all = 0;
            for (size_t p = 0; p < parts; p++) {
                float sum = 0;
                for (size_t i = p * k / parts; i < (p + 1) * k / parts; i++) sum += left[row * k + i] * right[col * k + i];
                all += rounds_parts ? as_bf16(sum) : sum;
            }
            float v = alpha * all;
            if (beta != 0) v += beta * number(c, l[2].type, col * size_t(l[2].ld) + row);
            if (d.epilogue & EPILOGUE_BIAS) v += number(d.bias, l[3].type, row);
            if (d.epilogue & EPILOGUE_GELU) v = gelu(v);
            store(out, l[3].type, col * size_t(l[3].ld) + row, v);
        }
}

size_t bytes_of(const layout &l)
{
    return size_t(l.ld) * (l.cols - 1) * (l.type == R_32F ? 4 : 2) + l.rows * (l.type == R_32F ? 4 : 2);
}

bool overlaps(const void *p, const layout &lp, const void *q, const layout &lq)
{
    const char *a = static_cast<const char *>(p), *b = static_cast<const char *>(q);
    return a < b + bytes_of(lq) && b < a + bytes_of(lp);
}

template <class T> int set(T *to, const void *value, size_t bytes)
{
    if (!value || bytes != sizeof *to) return refuse(INVALID_VALUE, "an attribute of another size");
    std::memcpy(to, value, bytes);
    return SUCCESS;
}

} // namespace

extern "C" {

/* How many it has been given. The real library has no such function. */
size_t sim_cublaslt_products()
{
    return products;
}

size_t cublasLtGetVersion()
{
    return ordered("old") ? 120900 : 130100;
}

const char *cublasLtGetStatusString(int s)
{
    return s == NOT_INITIALIZED    ? "the library was not initialized"
           : s == EXECUTION_FAILED ? "the function failed to launch on the GPU"
           : s == NOT_SUPPORTED    ? "the functionality is not supported"
           : s                     ? "an unsupported value or parameter was passed to the function"
                                   : "success";
}

int cublasLtCreate(handle **out)
{
    if (ordered("handle")) return NOT_INITIALIZED;
    *out = new handle{HANDLE};
    return SUCCESS;
}

int cublasLtDestroy(handle *h)
{
    if (!is(h, HANDLE)) return refuse(NOT_INITIALIZED, "destroyed: no handle");
    h->magic = 0;
    delete h;
    return SUCCESS;
}

int cublasLtMatmulDescCreate(desc **out, int compute, int scale)
{
    *out = new desc{DESC, compute, scale, {OP_N, OP_N}, EPILOGUE_DEFAULT, nullptr};
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(desc *d)
{
    if (!is(d, DESC)) return refuse(INVALID_VALUE, "destroyed: no descriptor");
    d->magic = 0;
    delete d;
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(desc *d, int attribute, const void *value, size_t bytes)
{
    if (!is(d, DESC)) return refuse(INVALID_VALUE, "no descriptor");
    switch (attribute) {
    case DESC_TRANSA:
        return set(&d->trans[0], value, bytes);
    case DESC_TRANSB:
        return set(&d->trans[1], value, bytes);
    case DESC_EPILOGUE:
        return set(&d->epilogue, value, bytes);
    case DESC_BIAS_POINTER:
        return set(&d->bias, value, bytes);
    default:
        return refuse(INVALID_VALUE, "no such attribute of a product here");
    }
}

int cublasLtMatrixLayoutCreate(layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    *out = new layout{LAYOUT, type, rows, cols, ld};
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(layout *l)
{
    if (!is(l, LAYOUT)) return refuse(INVALID_VALUE, "destroyed: no layout");
    l->magic = 0;
    delete l;
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(preference **out)
{
    *out = new preference{PREFERENCE, 0, REDUCTION_ALL, {256, 256, 256, 256}};
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(preference *p)
{
    if (!is(p, PREFERENCE)) return refuse(INVALID_VALUE, "destroyed: no preference");
    p->magic = 0;
    delete p;
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(preference *p, int attribute, const void *value, size_t bytes)
{
    if (!is(p, PREFERENCE)) return refuse(INVALID_VALUE, "no preference");
    if (attribute == PREF_MAX_WORKSPACE) return set(&p->workspace, value, bytes);
    if (attribute == PREF_REDUCTION) return set(&p->reductions, value, bytes);
    if (attribute >= PREF_ALIGNMENT_A && attribute < PREF_ALIGNMENT_A + 4)
        return set(&p->align[attribute - PREF_ALIGNMENT_A], value, bytes);
    return refuse(INVALID_VALUE, "no such attribute of a preference here");
}

/* Long sums of many rows are split where there is room for the parts. */
int cublasLtMatmulAlgoGetHeuristic(handle *h, desc *d, layout *a, layout *b, layout *c, layout *out, preference *p, int wanted,
                                   found *results, int *n)
{
    *n = 0;
    if (!is(h, HANDLE)) return refuse(NOT_INITIALIZED, "no handle");
    if (!is(d, DESC) || !is(a, LAYOUT) || !is(b, LAYOUT) || !is(c, LAYOUT) || !is(out, LAYOUT) || !is(p, PREFERENCE) || wanted < 1 ||
        !results)
        return refuse(INVALID_VALUE, "an algorithm: an argument is none");
    const layout *const l[4] = {a, b, c, out};
    const int rc = check(*d, l);
    if (rc) return rc;
    if (ordered("refuse")) return NOT_SUPPORTED;
    for (int i = 0; i < 4; i++)
        if (size_t(l[i]->ld) * (l[i]->type == R_32F ? 4 : 2) % 16)
            return refuse(NOT_SUPPORTED, "rows that are not aligned to 16 bytes are not for here");
    const uint64_t k = d->trans[0] == OP_T ? a->rows : a->cols, bytes = out->rows * out->cols * 2 * 4;
    const bool in_float = p->reductions & REDUCTION_COMPUTE_TYPE, in_type = p->reductions & REDUCTION_OUTPUT_TYPE;
    const bool split = k >= 512 && out->cols >= 128 && bytes <= p->workspace && (in_float || in_type);
    uint64_t align = 0;
    for (int i = 0; i < 4; i++) align |= uint64_t(p->align[i]) << 16 * i;
    results[0] = {};
    results[0].a = {{ALGO, hash_of(*d, l), split ? bytes : 0, split ? 2u : 1u, in_type, align,
                     d->epilogue & EPILOGUE_BIAS ? alignment(d->bias) : 1, 0}};
    results[0].workspace = size_t(results[0].a.data[2]);
    results[0].state = SUCCESS, results[0].waves = 1;
    *n = 1;
    return SUCCESS;
}

int cublasLtMatmul(handle *h, desc *d, const float *alpha, const void *a, layout *la, const void *b, layout *lb, const float *beta,
                   const void *c, layout *lc, void *out, layout *lo, const algo *how, void *workspace, size_t workspace_bytes,
                   cudaStream_t stream)
{
    if (!is(h, HANDLE)) return refuse(NOT_INITIALIZED, "no handle");
    if (!is(d, DESC) || !is(la, LAYOUT) || !is(lb, LAYOUT) || !is(lc, LAYOUT) || !is(lo, LAYOUT) || !alpha || !beta || !a || !b || !c ||
        !out)
        return refuse(INVALID_VALUE, "a product: an argument is none");
    const layout *const l[4] = {la, lb, lc, lo};
    const void *const at[4] = {a, b, c, out};
    const int rc = check(*d, l);
    if (rc) return rc;
    if (!how || how->data[0] != ALGO || how->data[1] != hash_of(*d, l))
        return refuse(INVALID_VALUE, "the algorithm is for another product");
    if (how->data[2] > workspace_bytes || (how->data[2] && !workspace)) return refuse(INVALID_VALUE, "the workspace is too small");
    if (uintptr_t(workspace) % 16) return refuse(INVALID_VALUE, "the workspace is not aligned to 16 bytes");
    for (int i = 0; i < 4; i++)
        if (uintptr_t(at[i]) % (how->data[5] >> 16 * i & 0xffff))
            return refuse(INVALID_VALUE, "an address is aligned to less than was promised");
    if (uintptr_t(d->bias) % how->data[6]) return refuse(INVALID_VALUE, "the bias is aligned to less than was promised");
    if (c == out ? lc->ld != lo->ld : *beta != 0 && overlaps(c, *lc, out, *lo))
        return refuse(INVALID_VALUE, "C is in the place of D, but not the same");
    if (overlaps(a, *la, out, *lo) || overlaps(b, *lb, out, *lo)) return refuse(INVALID_VALUE, "D is in the place of A or B");
    products++;
    if (ordered("fail")) return EXECUTION_FAILED;
    work w = {*d, {*la, *lb, *lc, *lo}, a, b, c, out, *alpha, *beta, size_t(how->data[3]), how->data[4] && lo->type == R_16BF};
    if (ordered("ld")) w.l[1].ld -= 8;
    return sim::gated_work(stream, nullptr, w) == cudaSuccess ? SUCCESS : EXECUTION_FAILED;
}

} // extern "C"
