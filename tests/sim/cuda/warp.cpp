/* What the lanes of a warp do together: shuffles, votes, match, reduce, ldmatrix, mma.
 *
 * A lane writes its operands into its column of the warp's table and waits; the last of the lanes named in the mask to arrive computes the
 * results of all. Lanes that wait for different things under overlapping masks are a fault. mma's sums run in the order of k, each product
 * and each sum rounded, with and without AVX2 alike, so that results do not depend on the machine; the hardware's own order is not
 * specified. */
#include "internal.h"

#include "cuda_fp8.h"

namespace sim {

namespace {

/* PTX shfl: the lane that is read, or the lane itself where that lies outside its segment. */
int shfl_source(shfl_kind kind, int arg, int width, int lane)
{
    const int base = lane & ~(width - 1), end = base + width;
    switch (kind) {
    case shfl_kind::idx: return base | (arg & (width - 1));
    case shfl_kind::up: return lane - arg < base ? lane : lane - arg;
    case shfl_kind::down: return lane + arg >= end ? lane : lane + arg;
    case shfl_kind::xor_: return (lane ^ arg) >= end ? lane : (lane ^ arg);
    }
    return lane;
}

/* in: value, argument, width. A lane outside the mask gives an undefined value, here NaN. */
void finish_shfl(warp &w, uint32_t lanes, shfl_kind kind)
{
    for (uint32_t m = lanes; m; m &= m - 1) {
        const int l = __builtin_ctz(m), from = shfl_source(kind, int(w.in[1][l]), int(w.in[2][l]), l) & 31;
        w.out[0][l] = lanes >> from & 1 ? w.in[0][from] : ~0u;
    }
}

void spread(warp &w, uint32_t lanes, uint32_t v)
{
    for (uint32_t m = lanes; m; m &= m - 1) w.out[0][__builtin_ctz(m)] = v;
}

void finish_ballot(warp &w, uint32_t lanes)
{
    uint32_t bits = 0;
    for (uint32_t m = lanes; m; m &= m - 1)
        if (w.in[0][__builtin_ctz(m)]) bits |= m & -m;
    spread(w, lanes, bits);
}

void finish_match(warp &w, uint32_t lanes, bool all)
{
    bool same = true;
    const int first = __builtin_ctz(lanes);
    for (uint32_t m = lanes; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        uint32_t bits = 0;
        for (uint32_t n = lanes; n; n &= n - 1) {
            const int o = __builtin_ctz(n);
            if (w.in[0][o] == w.in[0][l] && w.in[1][o] == w.in[1][l]) bits |= n & -n;
        }
        w.out[0][l] = bits;
        same = same && w.in[0][l] == w.in[0][first] && w.in[1][l] == w.in[1][first];
    }
    if (all) spread(w, lanes, same ? lanes : 0);
}

uint32_t reduce_two(reduce_kind kind, uint32_t a, uint32_t b)
{
    switch (kind) {
    case reduce_kind::add: return a + b;
    case reduce_kind::min_s: return int32_t(a) < int32_t(b) ? a : b;
    case reduce_kind::max_s: return int32_t(a) > int32_t(b) ? a : b;
    case reduce_kind::min_u: return a < b ? a : b;
    case reduce_kind::max_u: return a > b ? a : b;
    case reduce_kind::and_: return a & b;
    case reduce_kind::or_: return a | b;
    case reduce_kind::xor_: return a ^ b;
    }
    return a;
}

void finish_reduce(warp &w, uint32_t lanes, reduce_kind kind)
{
    uint32_t v = w.in[0][__builtin_ctz(lanes)];
    for (uint32_t m = lanes & (lanes - 1); m; m &= m - 1) v = reduce_two(kind, v, w.in[0][__builtin_ctz(m)]);
    spread(w, lanes, v);
}

/* Row i of tile m is at the address that lane 8m+i passed; lane l receives elements (g, 2t) and (g, 2t+1), with trans (2t, g) and (2t+1,
 * g). */
void finish_ldmatrix(warp &w, int n, bool trans)
{
    for (int m = 0; m < n; ++m) {
        uint32_t e[8][4];
        for (int i = 0; i < 8; ++i) std::memcpy(e[i], w.row[8 * m + i], 16);
        if (!trans) {
            std::memcpy(w.out[m], e, sizeof e);
            continue;
        }
        const auto *h = reinterpret_cast<const uint16_t *>(e);
        for (int l = 0; l < 32; ++l) w.out[m][l] = h[2 * (l % 4) * 8 + l / 4] | uint32_t(h[(2 * (l % 4) + 1) * 8 + l / 4]) << 16;
    }
}

void finish_stmatrix(warp &w, int n, bool trans)
{
    for (int m = 0; m < n; ++m) {
        uint16_t e[8][8];
        for (int l = 0; l < 32; ++l) {
            const int g = l / 4, t = l % 4;
            (trans ? e[2 * t][g] : e[g][2 * t]) = uint16_t(w.in[m][l]);
            (trans ? e[2 * t + 1][g] : e[g][2 * t + 1]) = uint16_t(w.in[m][l] >> 16);
        }
        for (int i = 0; i < 8; ++i) std::memcpy(const_cast<void *>(w.row[8 * m + i]), e[i], 16);
    }
}

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* One operand element as a number. */
struct from_bf16 { ALWAYS_INLINE float operator()(uint16_t h) const { return bf16_to_f32(h); } };
struct from_f16 { ALWAYS_INLINE float operator()(uint16_t h) const { return f16_to_f32(h); } };
struct from_s8 { ALWAYS_INLINE int32_t operator()(uint8_t b) const { return int8_t(b); } };
struct from_u8 { ALWAYS_INLINE int32_t operator()(uint8_t b) const { return b; } };
struct from_e4m3 { ALWAYS_INLINE float operator()(uint8_t b) const { return fp8_values[0][b]; } };
struct from_e5m2 { ALWAYS_INLINE float operator()(uint8_t b) const { return fp8_values[1][b]; } };

/* D[16][8] += A[16][K] B[K][8]. E: element type, P: elements of a row in one operand register's 32 lanes (the four lanes of a group). In
 * the table a register of A is 8 rows of P elements one after another, a register of B 8 columns. */
template <class E, class T, class FA, class FB> ALWAYS_INLINE void multiply(warp &w, FA from_a, FB from_b)
{
    constexpr int P = 16 / sizeof(E), K = 2 * P;
    typedef T row __attribute__((vector_size(8 * sizeof(T))));
    alignas(32) T a[16][K], b[K][8], d[16][8];
    for (int r = 0; r < 4; ++r) {
        const E *e = reinterpret_cast<const E *>(w.in[r]);
        for (int g = 0; g < 8; ++g)
            for (int j = 0; j < P; ++j) a[g + 8 * (r % 2)][P * (r / 2) + j] = from_a(e[g * P + j]);
    }
    for (int r = 0; r < 2; ++r) {
        const E *e = reinterpret_cast<const E *>(w.in[4 + r]);
        for (int g = 0; g < 8; ++g)
            for (int j = 0; j < P; ++j) b[P * r + j][g] = from_b(e[g * P + j]);
    }
    for (int i = 0; i < 4; ++i)
        for (int l = 0; l < 32; ++l) std::memcpy(&d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2], &w.in[6 + i][l], 4);
    for (int i = 0; i < 16; i += 4) {
        row s[4], bk;
        std::memcpy(s, d[i], sizeof s);
        for (int k = 0; k < K; ++k) {
            std::memcpy(&bk, b[k], sizeof bk);
            for (int r = 0; r < 4; ++r) s[r] += a[i + r][k] * bk;
        }
        std::memcpy(d[i], s, sizeof s);
    }
    for (int i = 0; i < 4; ++i)
        for (int l = 0; l < 32; ++l) std::memcpy(&w.out[i][l], &d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2], 4);
}

ALWAYS_INLINE void multiply_type(warp &w, mma_type type)
{
    switch (type) {
    case mma_type::bf16: return multiply<uint16_t, float>(w, from_bf16(), from_bf16());
    case mma_type::f16: return multiply<uint16_t, float>(w, from_f16(), from_f16());
    case mma_type::s8: return multiply<uint8_t, uint32_t>(w, from_s8(), from_s8());
    case mma_type::u8s8: return multiply<uint8_t, uint32_t>(w, from_u8(), from_s8());
    case mma_type::e4m3: return multiply<uint8_t, float>(w, from_e4m3(), from_e4m3());
    case mma_type::e5m2: return multiply<uint8_t, float>(w, from_e5m2(), from_e5m2());
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void finish_mma_avx2(warp &w, mma_type type) { multiply_type(w, type); }
#endif
void finish_mma_any(warp &w, mma_type type) { multiply_type(w, type); }

void (*choose_mma())(warp &, mma_type)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) return finish_mma_avx2;
#endif
    return finish_mma_any;
}
void (*const finish_mma)(warp &, mma_type) = choose_mma();

void finish(block &b, int warp_index, uint32_t lanes, uint32_t key)
{
    warp &w = b.warps[warp_index];
    const int variant = int(key & 0xff);
    switch (op(key >> 8)) {
    case op::none: break;
    case op::shfl: return finish_shfl(w, lanes, shfl_kind(variant));
    case op::ballot: return finish_ballot(w, lanes);
    case op::match_any: return finish_match(w, lanes, false);
    case op::match_all: return finish_match(w, lanes, true);
    case op::reduce: return finish_reduce(w, lanes, reduce_kind(variant));
    case op::ldmatrix: return finish_ldmatrix(w, variant & 7, variant & 8);
    case op::stmatrix: return finish_stmatrix(w, variant & 7, variant & 8);
    case op::mma: return finish_mma(w, mma_type(variant));
    case op::sync:
        if (race) {
            fiber *who[32];
            int n = 0;
            for (uint32_t m = lanes; m; m &= m - 1) who[n++] = &b.fibers[size_t(warp_index * 32 + __builtin_ctz(m))];
            race->join(who, n);
        }
    }
}

[[noreturn]] void mismatch(block &b, int warp_index, int l, int o)
{
    const fiber *lanes = &b.fibers[size_t(warp_index * 32)];
    fault("warp collective mismatch: lane %d at %s, lane %d at %s", l, describe_thread(lanes[l]).c_str(), o,
          describe_thread(lanes[o]).c_str());
}

/* Finishes the collective that `lane` waits for, if all live lanes of its mask are there. */
bool try_finish(block &b, int warp_index, int lane)
{
    warp &w = b.warps[warp_index];
    const uint32_t mask = w.mask[lane], key = w.key[lane], need = mask & w.live;
    if ((w.waiting & need) != need) return false;
    uint32_t other = 0;
    if (need == ~0u)
        for (int l = 0; l < 32; ++l) other |= (w.key[l] ^ key) | (w.mask[l] ^ mask);
    if (need != ~0u || other)
        for (uint32_t m = need; m; m &= m - 1) {
            const int l = __builtin_ctz(m);
            if (w.key[l] != key || w.mask[l] != mask) mismatch(b, warp_index, lane, l);
        }
    if (op(key >> 8) >= op::ldmatrix && need != ~0u)
        fault("%s.sync.aligned needs 32 live lanes, has %08x", op(key >> 8) == op::mma ? "mma" : "ldmatrix", need);
    ++stats.collectives;
    w.waiting &= ~need;
    finish(b, warp_index, need, key);
    wake(b, warp_index, need);
    return true;
}

/* The usual next thread while this one waits: one of its own warp, without a look at the rest. Which, and when not: fiber.cpp, pick(). */
ALWAYS_INLINE void yield_in_warp(fiber &f, block &b, const warp &w)
{
    if (!w.ready || seed_now % 2 || (seed_now && !draw(b.rng, 64))) return reschedule();
    const int from = seed_now ? int(draw(b.rng, 32)) : f.lane + 1;
    if (!seed_now && (f.lane == 31 || !(w.ready >> f.lane))) return reschedule(); /* round: the other warps' turn */
    switch_to(&b.fibers[size_t(f.warp * 32 + bit_from(w.ready, from))]);
}

/* Meets the other lanes of the mask; the caller has written its operands. */
ALWAYS_INLINE void meet(op o, int variant, uint32_t mask, site at)
{
    fiber &f = *current;
    block &b = *f.owner;
    warp &w = b.warps[f.warp];
    f.at = at;
    w.mask[f.lane] = mask;
    w.key[f.lane] = uint32_t(o) << 8 | uint32_t(variant);
    if (!(mask >> f.lane & 1)) fault("warp collective at %s:%d: lane %d is not in its own mask %08x", at.file, at.line, f.lane, mask);
    w.waiting |= 1u << f.lane;
    put_to_sleep(f);
    if (try_finish(b, f.warp, f.lane)) return seed_now ? reschedule() : static_cast<void>(0);
    yield_in_warp(f, b, w);
}

} // namespace

void meet_after_exit(block &b, int warp_index)
{
    warp &w = b.warps[warp_index];
    for (uint32_t m = w.waiting; m; m = w.waiting & (m & (m - 1))) try_finish(b, warp_index, __builtin_ctz(m));
}

uint32_t active_lanes() { return current->owner->warps[current->warp].live; }

uint32_t shfl_bits(shfl_kind kind, uint32_t mask, uint32_t v, int arg, int width, site at)
{
    if (width < 1 || width > 32 || (width & (width - 1))) fault("shuffle of width %d at %s:%d", width, at.file, at.line);
    warp &w = current->owner->warps[current->warp];
    const int l = current->lane;
    w.in[0][l] = v, w.in[1][l] = uint32_t(arg), w.in[2][l] = uint32_t(width);
    meet(op::shfl, int(kind), mask, at);
    return w.out[0][l];
}

uint32_t ballot(uint32_t mask, bool pred, site at)
{
    warp &w = current->owner->warps[current->warp];
    w.in[0][current->lane] = pred;
    meet(op::ballot, 0, mask, at);
    return w.out[0][current->lane];
}

void sync_warp(uint32_t mask, site at) { meet(op::sync, 0, mask, at); }

uint32_t match_any(uint32_t mask, uint64_t v, site at)
{
    warp &w = current->owner->warps[current->warp];
    w.in[0][current->lane] = uint32_t(v), w.in[1][current->lane] = uint32_t(v >> 32);
    meet(op::match_any, 0, mask, at);
    return w.out[0][current->lane];
}

uint32_t match_all(uint32_t mask, uint64_t v, int *pred, site at)
{
    warp &w = current->owner->warps[current->warp];
    w.in[0][current->lane] = uint32_t(v), w.in[1][current->lane] = uint32_t(v >> 32);
    meet(op::match_all, 0, mask, at);
    *pred = w.out[0][current->lane] != 0;
    return w.out[0][current->lane];
}

uint32_t reduce_bits(reduce_kind kind, uint32_t mask, uint32_t v, site at)
{
    warp &w = current->owner->warps[current->warp];
    w.in[0][current->lane] = v;
    meet(op::reduce, int(kind), mask, at);
    return w.out[0][current->lane];
}

namespace {
void check_row(const void *row, const char *what, bool write, site at)
{
    size_t offset;
    if (!shared_range(*current->owner, row, 16, &offset))
        fault_as(cudaErrorIllegalAddress, "%s outside shared memory at %s:%d", what, at.file, at.line);
    deny_misaligned(row, 16, at);
    if (race) race->access(row, 16, write, at);
}
} // namespace

void ldmatrix(uint32_t *r, int n, const void *row, bool trans, site at)
{
    fiber &f = *current;
    warp &w = f.owner->warps[f.warp];
    if (f.lane < 8 * n) check_row(row, "ldmatrix", false, at);
    w.row[f.lane] = row;
    meet(op::ldmatrix, n | (trans ? 8 : 0), ~0u, at);
    for (int i = 0; i < n; ++i) r[i] = w.out[i][f.lane];
}

void stmatrix(const uint32_t *r, int n, void *row, bool trans, site at)
{
    fiber &f = *current;
    warp &w = f.owner->warps[f.warp];
    if (f.lane < 8 * n) check_row(row, "stmatrix", true, at);
    w.row[f.lane] = row;
    for (int i = 0; i < n; ++i) w.in[i][f.lane] = r[i];
    meet(op::stmatrix, n | (trans ? 8 : 0), ~0u, at);
}

void mma(mma_type type, void *d, const uint32_t *a, const uint32_t *b, site at)
{
    fiber &f = *current;
    warp &w = f.owner->warps[f.warp];
    const int l = f.lane;
    if (type == mma_type::e4m3 && l == 0 && compute_capability() < 89)
        fault("mma of e4m3 at %s:%d: this device has none, see has_mma_e4m3", at.file, at.line);
    for (int i = 0; i < 4; ++i) w.in[i][l] = a[i];
    for (int i = 0; i < 2; ++i) w.in[4 + i][l] = b[i];
    for (int i = 0; i < 4; ++i) std::memcpy(&w.in[6 + i][l], static_cast<char *>(d) + 4 * i, 4);
    meet(op::mma, int(type), ~0u, at);
    for (int i = 0; i < 4; ++i) std::memcpy(static_cast<char *>(d) + 4 * i, &w.out[i][l], 4);
}

} // namespace sim
