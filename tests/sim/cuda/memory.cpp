/* Device, pinned and shared memory, and cp.async.
 *
 * A device allocation ends at most 255 bytes before 64 KiB that nobody may touch (cudaMalloc aligns to 256) and begins after one; the bytes
 * between hold a pattern that is checked after each launch. Freed ranges stay closed for a while. While no kernel or copy runs, the host
 * cannot reach device memory at all. Shared memory is an arena a block: the dynamic part first, then the static arrays, with patterned
 * gaps. */
#include "internal.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>

namespace sim {
namespace {

constexpr size_t page = 4096, guard = 64 << 10, align_to = 256, front_check = 256;
constexpr size_t max_freed = 64, max_static = 48 << 10, max_shared = 227 << 10;
constexpr size_t max_closed = 1 << 20; /* more stays open to the host: closing costs time with every page */

struct allocation {
    unsigned char *map;
    size_t map_bytes, bytes;
    void *shadow;
    size_t shadow_bytes;
};
std::map<uintptr_t, allocation> device, pinned; /* by the user's address */
struct freed_range {
    unsigned char *map;
    size_t map_bytes, bytes;
    uintptr_t user;
};
std::deque<freed_range> freed;
std::map<const void *, size_t> smem_allowed;
size_t bytes_in_use = 0;
bool is_open = false;
unsigned device_version = 0; /* +1 with every change of `device` */

const allocation *find(const std::map<uintptr_t, allocation> &in, uintptr_t u, uintptr_t *start)
{
    auto it = in.upper_bound(u);
    if (it == in.begin()) return nullptr;
    --it;
    if (u - it->first >= it->second.bytes && u != it->first) return nullptr;
    *start = it->first;
    return &it->second;
}

bool inside(const std::map<uintptr_t, allocation> &in, const void *p, size_t n)
{
    uintptr_t start;
    const auto u = reinterpret_cast<uintptr_t>(p);
    const allocation *a = find(in, u, &start);
    return a && u - start + n <= a->bytes;
}

bool all_poison(const unsigned char *p, size_t n) { return n == 0 || (p[0] == poison && !std::memcmp(p, p + 1, n - 1)); }

size_t slack_behind(uintptr_t user, const allocation &a)
{
    return size_t(a.map + a.map_bytes - guard - reinterpret_cast<unsigned char *>(user)) - a.bytes;
}

bool guards_whole(uintptr_t user, const allocation &a)
{
    const auto *p = reinterpret_cast<const unsigned char *>(user);
    const size_t front = std::min(front_check, size_t(p - (a.map + guard))), behind = slack_behind(user, a);
    ASAN_UNPOISON_MEMORY_REGION(p - front, front);
    ASAN_UNPOISON_MEMORY_REGION(p + a.bytes, behind);
    const bool whole = all_poison(p - front, front) && all_poison(p + a.bytes, behind);
    ASAN_POISON_MEMORY_REGION(p - front, front);
    ASAN_POISON_MEMORY_REGION(p + a.bytes, behind);
    return whole;
}

cudaError_t allocate(std::map<uintptr_t, allocation> &in, void **out, size_t n)
{
    const size_t room = (n + align_to - 1) / align_to * align_to, body = (room + page - 1) / page * page;
    void *m = mmap(nullptr, body + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) return cudaErrorMemoryAllocation;
    auto *map = static_cast<unsigned char *>(m), *user = map + guard + (body - room);
    mprotect(map + guard, body, PROT_READ | PROT_WRITE);
    std::memset(map + guard, poison, body);
    const auto key = reinterpret_cast<uintptr_t>(user);
    in[key] = {map, body + 2 * guard, n, nullptr, 0};
    guards_whole(key, in[key]); /* closes them for ASan */
    *out = user;
    return cudaSuccess;
}

void protect(const allocation &a, bool open)
{
    mprotect(a.map + guard, a.map_bytes - 2 * guard, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* A load or store that hit a closed page: on the device a fault of the kernel, on the host the end. */
void on_segv(int sig, siginfo_t *info, void *)
{
    if (on_device()) fault_as(cudaErrorIllegalAddress, "illegal access to %p: %s", info->si_addr, describe_address(info->si_addr).c_str());
    std::fprintf(stderr, "host access to %p: %s\n", info->si_addr, describe_address(info->si_addr).c_str());
    signal(sig, SIG_DFL);
}

/* The alternate stack is one a host thread. */
void catch_segv()
{
    static __thread bool done = false;
    if (done) return;
    done = true;
    stack_t ss = {};
    ss.ss_size = 256 << 10;
    ss.ss_sp = mmap(nullptr, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&ss, nullptr);
    struct sigaction sa = {};
    sa.sa_sigaction = on_segv;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &sa, nullptr);
}

void *place(block &b, const void *key, size_t bytes, size_t align)
{
    const size_t offset = (b.arena_used + align - 1) / align * align;
    if (offset + bytes + arena_gap > arena_bytes) fault("shared memory: %zu bytes do not fit", bytes);
    ASAN_UNPOISON_MEMORY_REGION(b.arena + offset, bytes);
    b.pieces.push_back({key, offset, bytes});
    b.arena_used = offset + bytes + arena_gap;
    return b.arena + offset;
}

} // namespace

bool device_range(const void *p, size_t n) { return inside(device, p, n); }
bool pinned_range(const void *p, size_t n) { return inside(pinned, p, n); }
size_t device_bytes() { return bytes_in_use; }
int device_allocations() { return int(device.size()); }

void *device_shadow(const void *p, size_t n, size_t bytes_a_byte)
{
    static uintptr_t start = 0; /* of the latest allocation found: most accesses stay in one */
    static allocation *latest = nullptr;
    static unsigned version = 0;
    const auto u = reinterpret_cast<uintptr_t>(p);
    if (!latest || version != device_version || u - start + n > latest->bytes || u < start) {
        const allocation *a = find(device, u, &start);
        if (!a || u - start + n > a->bytes) {
            latest = nullptr;
            return nullptr;
        }
        latest = const_cast<allocation *>(a);
        version = device_version;
    }
    if (!latest->shadow) {
        latest->shadow_bytes = (latest->bytes + 3) / 4 * 4 * bytes_a_byte; /* whole words */
        latest->shadow = mmap(nullptr, latest->shadow_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (latest->shadow == MAP_FAILED) std::perror("mmap"), std::abort();
    }
    return static_cast<char *>(latest->shadow) + (u - start) * bytes_a_byte;
}

bool device_near(const void *p)
{
    const auto u = reinterpret_cast<uintptr_t>(p);
    for (const auto &a : device)
        if (u - reinterpret_cast<uintptr_t>(a.second.map) < a.second.map_bytes) return true;
    for (const freed_range &f : freed)
        if (u - reinterpret_cast<uintptr_t>(f.map) < f.map_bytes) return true;
    return false;
}

std::string describe_address(const void *p)
{
    const auto u = reinterpret_cast<uintptr_t>(p);
    char t[200];
    for (const auto &a : device) {
        const auto lo = reinterpret_cast<uintptr_t>(a.second.map), hi = lo + a.second.map_bytes;
        if (u < lo || u >= hi) continue;
        if (u < a.first)
            std::snprintf(t, sizeof t, "%zu bytes before a device allocation of %zu bytes", size_t(a.first - u), a.second.bytes);
        else if (u - a.first >= a.second.bytes)
            std::snprintf(t, sizeof t, "%zu bytes past the end of a device allocation of %zu bytes", size_t(u - a.first - a.second.bytes),
                          a.second.bytes);
        else std::snprintf(t, sizeof t, "byte %zu of a device allocation of %zu bytes", size_t(u - a.first), a.second.bytes);
        return t;
    }
    for (const freed_range &f : freed) {
        const auto lo = reinterpret_cast<uintptr_t>(f.map);
        if (u < lo || u >= lo + f.map_bytes) continue;
        std::snprintf(t, sizeof t, "byte %zd of a freed device allocation of %zu bytes", ptrdiff_t(u - f.user), f.bytes);
        return t;
    }
    return "no device allocation";
}

void open_device_memory(bool open)
{
    if (open) catch_segv();
    if (open == is_open || (!open && bytes_in_use > max_closed)) return;
    is_open = open;
    for (const auto &a : device) protect(a.second, open);
}

const char *device_damage()
{
    for (const auto &a : device)
        if (!guards_whole(a.first, a.second)) return "next to a device allocation";
    return nullptr;
}

size_t smem_limit(const void *function)
{
    auto it = smem_allowed.find(function);
    return it == smem_allowed.end() ? 48 << 10 : it->second;
}

bool allow_smem(const void *function, int n)
{
    if (n < 0 || size_t(n) > max_shared) return false;
    smem_allowed[function] = size_t(n);
    return true;
}

cudaError_t allocate_device(void **p, size_t n)
{
    const cudaError_t e = allocate(device, p, n);
    if (e != cudaSuccess) return e;
    bytes_in_use += n;
    ++device_version;
    if (!is_open) protect(device[reinterpret_cast<uintptr_t>(*p)], false);
    return cudaSuccess;
}

/* What becomes of p: freed (success), no allocation's start (invalid), or found damaged (illegal address). */
cudaError_t free_device(void *p)
{
    auto it = device.find(reinterpret_cast<uintptr_t>(p));
    if (it == device.end()) return cudaErrorInvalidValue;
    const allocation a = it->second;
    protect(a, true);
    const bool whole = guards_whole(it->first, a);
    ASAN_UNPOISON_MEMORY_REGION(a.map + guard, a.map_bytes - 2 * guard);
    madvise(a.map, a.map_bytes, MADV_DONTNEED);
    protect(a, false);
    bytes_in_use -= a.bytes;
    ++device_version;
    if (a.shadow) munmap(a.shadow, a.shadow_bytes);
    freed.push_back({a.map, a.map_bytes, a.bytes, it->first});
    device.erase(it);
    if (freed.size() > max_freed) {
        munmap(freed.front().map, freed.front().map_bytes);
        freed.pop_front();
    }
    return whole ? cudaSuccess : cudaErrorIllegalAddress;
}

cudaError_t allocate_pinned(void **p, size_t n) { return allocate(pinned, p, n); }

cudaError_t free_pinned(void *p)
{
    auto it = pinned.find(reinterpret_cast<uintptr_t>(p));
    if (it == pinned.end() || !it->second.map) return cudaErrorInvalidValue;
    ASAN_UNPOISON_MEMORY_REGION(it->second.map + guard, it->second.map_bytes - 2 * guard);
    munmap(it->second.map, it->second.map_bytes);
    pinned.erase(it);
    return cudaSuccess;
}

bool register_pinned(void *p, size_t n)
{
    if (inside(pinned, p, n)) return false;
    pinned[reinterpret_cast<uintptr_t>(p)] = {nullptr, 0, n, nullptr, 0};
    return true;
}

bool unregister_pinned(void *p)
{
    auto it = pinned.find(reinterpret_cast<uintptr_t>(p));
    if (it == pinned.end() || it->second.map) return false;
    pinned.erase(it);
    return true;
}

void free_all_memory()
{
    while (!device.empty()) (void)free_device(reinterpret_cast<void *>(device.begin()->first));
    while (!pinned.empty())
        if (!unregister_pinned(reinterpret_cast<void *>(pinned.begin()->first)))
            (void)free_pinned(reinterpret_cast<void *>(pinned.begin()->first));
    smem_allowed.clear();
}

void shared_begin(block &b, size_t dynamic_bytes)
{
    if (!b.arena) {
        void *m = mmap(nullptr, arena_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED) std::perror("mmap"), std::abort();
        b.arena = static_cast<unsigned char *>(m) + page;
        mprotect(b.arena, arena_bytes, PROT_READ | PROT_WRITE);
    }
    ASAN_UNPOISON_MEMORY_REGION(b.arena, arena_bytes);
    std::memset(b.arena, poison, b.arena_used);
    ASAN_POISON_MEMORY_REGION(b.arena, arena_bytes);
    b.pieces.clear();
    b.arena_used = 0;
    place(b, nullptr, dynamic_bytes, 1024);
}

const char *shared_damage(block &b)
{
    ASAN_UNPOISON_MEMORY_REGION(b.arena, b.arena_used);
    size_t at = 0;
    bool whole = true;
    for (const piece &p : b.pieces) {
        whole = whole && (p.offset <= at || all_poison(b.arena + at, p.offset - at));
        at = p.offset + p.bytes;
    }
    return whole && all_poison(b.arena + at, b.arena_used - at) ? nullptr : "outside shared-memory arrays";
}

void *dyn_shared() { return current->owner->arena; }

void *static_shared(const void *key, size_t bytes, size_t align)
{
    const runtime_scope scope;
    block &b = *current->owner;
    size_t total = bytes;
    for (const piece &p : b.pieces) {
        if (p.key == key) return b.arena + p.offset;
        if (p.key) total += p.bytes;
    }
    if (total > max_static) fault("static shared memory: %zu bytes, limit %zu", total, max_static);
    if (total + b.pieces.front().bytes > max_shared)
        fault("shared memory: %zu bytes, limit %zu", total + b.pieces.front().bytes, max_shared);
    return place(b, key, bytes, align);
}

bool shared_range(const block &b, const void *p, size_t n, size_t *offset)
{
    const auto u = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(b.arena);
    if (u >= arena_bytes) return false;
    *offset = u;
    for (const piece &q : b.pieces)
        if (u >= q.offset && u + n <= q.offset + q.bytes) return true;
    return false;
}

void deny_misaligned(const void *p, size_t align, site at)
{
    if (reinterpret_cast<uintptr_t>(p) % align)
        fault_as(cudaErrorMisalignedAddress, "misaligned %zu-byte access at %s:%d", align, at.file, at.line);
}

/* The worst legal timing: the destination is destroyed at once, for the copy may land at any time from now on, and filled only when the
 * thread waits; the source is read now or then. */
void cp_async(void *dst, const void *src, int bytes, int src_bytes, site at)
{
    const runtime_scope scope;
    size_t offset;
    fiber &f = *current;
    if (!shared_range(*f.owner, dst, size_t(bytes), &offset))
        fault_as(cudaErrorIllegalAddress, "cp.async outside shared memory at %s:%d", at.file, at.line);
    deny_misaligned(dst, size_t(bytes), at);
    if (src_bytes < 0 || src_bytes > bytes) fault("cp.async of %d bytes of %d at %s:%d", src_bytes, bytes, at.file, at.line);
    async_copy c{dst, src, {}, bytes, src_bytes, f.committed, random_schedule() && random_below(2), at};
    if (src_bytes) {
        deny_misaligned(src, size_t(bytes), at);
        if (!device_range(src, size_t(src_bytes)))
            fault_as(cudaErrorIllegalAddress, "cp.async reads outside device memory at %s:%d: %s", at.file, at.line,
                     describe_address(src).c_str());
        std::memcpy(c.data, src, size_t(src_bytes));
        if (race) race->access(src, size_t(src_bytes), false, at);
    }
    if (race) race->async_issue(dst, size_t(bytes), at);
    std::memset(dst, poison, size_t(bytes));
    f.async.push_back(c);
}

void cp_async_commit() { ++current->committed; }

void cp_async_wait(int newest_left)
{
    const runtime_scope scope;
    auto &q = current->async;
    if (newest_left < 0) cp_async_commit(), newest_left = 0;
    size_t done = 0;
    for (; done < q.size() && q[done].group < current->committed - newest_left; ++done) {
        async_copy &c = q[done];
        if (c.late && c.src_bytes) std::memcpy(c.data, c.src, size_t(c.src_bytes));
        if (race) race->async_done(c.dst, size_t(c.bytes), c.at);
        std::memcpy(c.dst, c.data, size_t(c.bytes));
    }
    q.erase(q.begin(), q.begin() + std::ptrdiff_t(done));
}

} // namespace sim
