/* The race check. Kernels are compiled with -fsanitize=thread, which calls a __tsan_* hook before every load and store; the hooks are
 * these, libtsan is not linked. So kernels need no accessor types, and threads can be preempted at any access.
 *
 * Every byte of shared and device memory has a shadow: who wrote it last and, at most two, who read it since, as stamps (block, thread,
 * time). Two accesses by different threads, one of them a write, must be ordered: by a barrier that both threads take part in (any id, any
 * subset), by __syncwarp() within its mask, or by release and acquire. A thread knows a vector of times of its block's threads; those who
 * meet at a barrier share one vector from then on, so a meeting costs one copy. What it knows of other blocks came by acquires only.
 * Shuffles and votes order nothing, as in CUDA. Launches are ordered among each other. A third unordered reader replaces one of the two, at
 * random: a race can be missed under one seed, but nothing is reported that is none. */
#include "internal.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>

extern "C" char __executable_start, _end;

namespace sim {

using times = std::vector<uint32_t>; /* of a block's threads */
using shared_times = std::shared_ptr<const times>;
/* What is known of whole blocks, by serial. */
using knowledge = std::map<uint32_t, shared_times>;
using shared_knowledge = std::shared_ptr<const knowledge>;

struct thread_clock {
    uint32_t own = 1;
    shared_times base;        /* of its own block's threads; its own entry is not used */
    shared_knowledge foreign; /* of other blocks; null: nothing */
    shared_knowledge fenced[2]; /* everything before its latest fence; [0] device scope, [1] block scope */
    std::vector<shared_knowledge> unfenced; /* seen by relaxed atomics, counts from the next fence on */
};

namespace {

struct stamp { /* 0: none. Shifts, for bit fields would be put together in memory before each use. */
    uint64_t bits = 0;
    uint32_t serial() const { return uint32_t(bits >> 36); }
    unsigned thread() const { return unsigned(bits >> 26) & 1023; }
    uint32_t time() const { return uint32_t(bits >> 1) & 0x1ffffff; }
    bool atomic() const { return bits & 1; }
};
stamp stamp_of(uint32_t serial, int thread, uint32_t time, bool atomic)
{
    stamp s;
    s.bits = uint64_t(serial) << 36 | uint64_t(unsigned(thread) & 1023) << 26 | uint64_t(time & 0x1ffffff) << 1 | uint64_t(atomic);
    return s;
}
struct shadow {
    stamp write, read[2];
    uint32_t write_at, read_at[2]; /* program counter, or 1 << 31 | index into sites */
    uint32_t pending : 31;         /* serial of the block that has an unfinished cp.async into this byte */
    uint32_t split : 1;            /* in the first byte of an aligned word: else its shadow stands for all four */
};

std::vector<site> sites;
std::map<std::pair<const char *, int>, uint32_t> site_index;
struct arrival {
    fiber *who;
    uint32_t own;
    shared_times base;
    shared_knowledge foreign;
    bool waits;
};
struct block_state {
    shadow *arena = nullptr;
    std::vector<thread_clock> clocks;
    std::vector<arrival> arrivals[16];
};
block_state &state_of(const block &b) { return *static_cast<block_state *>(b.race_state); }
struct release_of {
    shared_knowledge device, block;
    uint32_t block_serial;
};
std::map<uintptr_t, release_of> releases; /* by the atomic's address */
uint32_t releases_launch = 0;             /* the launch they belong to, by its first serial */
uint32_t coin = 1;

uint32_t where(site s)
{
    static struct {
        site s;
        uint32_t index;
    } recent[256];
    auto &r = recent[(reinterpret_cast<uintptr_t>(s.file) >> 3 ^ unsigned(s.line)) & 255];
    if (r.s.file == s.file && r.s.line == s.line) return r.index;
    auto it = site_index.find({s.file, s.line});
    if (it == site_index.end()) {
        sites.push_back(s);
        it = site_index.insert({{s.file, s.line}, uint32_t(sites.size() - 1) | 1u << 31}).first;
    }
    r = {s, it->second};
    return it->second;
}

std::string text_of(uint32_t at)
{
    if (at >> 31) return std::string(sites[at & 0x7fffffff].file) + ":" + std::to_string(sites[at & 0x7fffffff].line);
    char exe[512] = {}, cmd[700], out[512] = {};
    if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0) return "?";
    std::snprintf(cmd, sizeof cmd, "addr2line -e %s 0x%x", exe, at - 1);
    FILE *f = popen(cmd, "r");
    if (f && std::fgets(out, sizeof out, f)) out[std::strcspn(out, "\n")] = 0;
    if (f) pclose(f);
    return out;
}

/* The thread that accesses something now, as far as one access is concerned. */
struct view {
    const fiber &f;
    stamp now;
    const uint32_t *base; /* what it knows of its own block's threads */
    bool shared_memory, atomic;
    uint32_t at;
    view(const fiber &f_, bool shared_memory_, bool atomic_, uint32_t at_)
        : f(f_), now(stamp_of(f_.owner->serial, f_.index, f_.clock->own, atomic_)), base(f_.clock->base->data()),
          shared_memory(shared_memory_), atomic(atomic_), at(at_)
    {
    }
};

bool known_elsewhere(const view &v, stamp s)
{
    if (!v.f.clock->foreign) return false;
    auto it = v.f.clock->foreign->find(s.serial());
    return it != v.f.clock->foreign->end() && s.time() <= (*it->second)[s.thread()];
}

/* Whether all that `s` stands for happened before what the thread does now. */
inline bool known(const view &v, stamp s)
{
    if (s.serial() == v.now.serial()) return s.thread() == v.now.thread() || s.time() <= v.base[s.thread()];
    return v.shared_memory || s.serial() < running->first_serial ||
           known_elsewhere(v, s); /* of an earlier block in this arena; an earlier launch */
}

[[noreturn]] void race_found(const void *p, bool shared_memory, const char *now, uint32_t at, const char *before, stamp s,
                             uint32_t before_at)
{
    size_t offset = 0;
    const bool same = s.serial() == current->owner->serial;
    std::string place = shared_memory ? "" : describe_address(p);
    if (shared_memory) {
        (void)shared_range(*current->owner, p, 1, &offset);
        place = "+" + std::to_string(offset);
    }
    fault("%s-memory race at %s: %s at %s, not ordered after the %s by thread %d of %s at %s", shared_memory ? "shared" : "device",
          place.c_str(), now, text_of(at).c_str(), before, int(s.thread()), same ? "this block" : "another block",
          text_of(before_at).c_str());
}

/* A kernel launched to overlap with the one before touches nothing of it before it has waited. */
void check_dependency(const shadow &s, bool write, uint32_t at)
{
    const auto of_previous = [](stamp t) { return t.bits && t.serial() >= running->previous_first && t.serial() < running->previous_end; };
    if (of_previous(s.write) || (write && (of_previous(s.read[0]) || of_previous(s.read[1]))))
        fault("%s at %s before griddepcontrol_wait of what the kernel before %s", write ? "write" : "read", text_of(at).c_str(),
              of_previous(s.write) ? "writes" : "reads");
}

inline void on_read(const view &v, shadow &s, const char *p)
{
    if (s.write.bits && !(v.atomic && s.write.atomic()) && !known(v, s.write))
        race_found(p, v.shared_memory, v.atomic ? "atomic read" : "read", v.at, s.write.atomic() ? "atomic write" : "write", s.write,
                   s.write_at);
    int slot = -1;
    for (int i = 0; i < 2 && slot < 0; ++i)
        if (!s.read[i].bits || (s.read[i].atomic() <= v.atomic && known(v, s.read[i]))) slot = i;
    if (slot < 0) slot = int((coin = coin * 1664525 + 1013904223) >> 31);
    s.read[slot] = v.now;
    s.read_at[slot] = v.at;
}

inline void on_write(const view &v, shadow &s, const char *p)
{
    const char *now = v.atomic ? "atomic write" : "write";
    if (s.write.bits && !(v.atomic && s.write.atomic()) && !known(v, s.write))
        race_found(p, v.shared_memory, now, v.at, s.write.atomic() ? "atomic write" : "write", s.write, s.write_at);
    for (int i = 0; i < 2; ++i)
        if (s.read[i].bits && !(v.atomic && s.read[i].atomic()) && !known(v, s.read[i]))
            race_found(p, v.shared_memory, now, v.at, s.read[i].atomic() ? "atomic read" : "read", s.read[i], s.read_at[i]);
    s.write = v.now;
    s.write_at = v.at;
    s.read[0].bits = s.read[1].bits = 0;
}

/* The shadow of n bytes at p, or null if they lie in neither memory. */
shadow *shadow_of(const fiber &f, const void *p, size_t n, bool *shared_memory)
{
    size_t offset = 0;
    *shared_memory = shared_range(*f.owner, p, n, &offset);
    if (*shared_memory) return state_of(*f.owner).arena + offset;
    return static_cast<shadow *>(device_shadow(p, n, sizeof(shadow)));
}

/* One access to what one shadow stands for. */
inline void touch_one(const view &v, shadow &s, const char *p, bool reads, bool writes)
{
    if (v.shared_memory && s.pending && s.pending == v.f.owner->serial)
        fault("%s of a cp.async destination before its wait, at %s", writes ? "write" : "read", text_of(v.at).c_str());
    if (!v.shared_memory && !v.f.dependency_synced) check_dependency(s, writes, v.at);
    if (writes) on_write(v, s, p);
    else if (reads) on_read(v, s, p);
}

/* Aligned words are handled as one until a part of one is accessed. */
void touch(const fiber &f, shadow *s, const void *p, size_t n, bool shared_memory, bool reads, bool writes, bool atomic, uint32_t at)
{
    const view v(f, shared_memory, atomic, at);
    const char *c = static_cast<const char *>(p);
    for (size_t i = 0; i < n;) {
        const size_t within = (reinterpret_cast<uintptr_t>(c) + i) & 3;
        if (within == 0 && n - i >= 4) {
            touch_one(v, s[i], c + i, reads, writes);
            if (s[i].split) {
                for (size_t k = 1; k < 4; ++k) touch_one(v, s[i + k], c + i + k, reads, writes);
                if (writes) s[i].split = 0;
            }
            i += 4;
            continue;
        }
        shadow *word = s + i - within;
        if (!word->split) {
            for (size_t k = 1; k < 4; ++k) word[k] = word[0];
            word->split = 1;
        }
        touch_one(v, s[i], c + i, reads, writes);
        ++i;
    }
}

void access(const void *p, size_t n, bool write, site at)
{
    const runtime_scope scope;
    bool shared_memory;
    shadow *s = shadow_of(*current, p, n, &shared_memory);
    if (s) touch(*current, s, p, n, shared_memory, !write, write, false, where(at));
}

void async_issue(const void *p, size_t n, site at)
{
    bool shared_memory;
    shadow *s = shadow_of(*current, p, n, &shared_memory);
    touch(*current, s, p, n, shared_memory, false, true, false, where(at));
    for (size_t i = 0; i < n; ++i) s[i].pending = current->owner->serial & 0x7fffffff;
}

void async_done(const void *p, size_t n, site at)
{
    bool shared_memory;
    shadow *s = shadow_of(*current, p, n, &shared_memory);
    for (size_t i = 0; i < n; ++i) s[i].pending = 0;
    touch(*current, s, p, n, shared_memory, false, true, false, where(at));
}

void begin_block(block &b)
{
    const runtime_scope scope;
    if (!b.race_state) b.race_state = new block_state; /* one a place for blocks, kept */
    block_state &s = state_of(b);
    if (!s.arena) {
        void *m = mmap(nullptr, arena_bytes * sizeof(shadow), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED) std::perror("mmap"), std::abort();
        s.arena = static_cast<shadow *>(m);
    }
    if (releases_launch != running->first_serial) releases.clear(), releases_launch = running->first_serial;
    s.clocks.assign(size_t(b.threads), thread_clock());
    const auto start = std::make_shared<const times>(size_t(b.threads), 0u);
    for (int i = 0; i < b.threads; ++i) {
        s.clocks[size_t(i)].base = start;
        b.fibers[size_t(i)].clock = &s.clocks[size_t(i)];
    }
    for (auto &a : s.arrivals) a.clear();
}

void raise(times &to, const times &from)
{
    for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

shared_knowledge joined(const shared_knowledge &a, const shared_knowledge &b)
{
    if (!a || a == b) return b;
    if (!b) return a;
    auto out = std::make_shared<knowledge>(*a);
    for (const auto &k : *b) {
        shared_times &mine = (*out)[k.first];
        if (mine && mine != k.second) {
            auto sum = std::make_shared<times>(*mine);
            raise(*sum, *k.second);
            mine = sum;
        } else {
            mine = k.second;
        }
    }
    return out;
}

arrival arrival_of(fiber &f, bool waits) { return {&f, f.clock->own++, f.clock->base, f.clock->foreign, waits}; }

/* All that the arrivals knew and did becomes known to those that wait. */
void meet(const std::vector<arrival> &all)
{
    auto base = std::make_shared<times>(*all.front().base);
    shared_knowledge foreign;
    bool synced = false;
    const times *before = all.front().base.get();
    for (const arrival &a : all) {
        if (a.base.get() != before) raise(*base, *(before = a.base.get()));
        foreign = joined(foreign, a.foreign);
        synced = synced || a.who->dependency_synced;
    }
    for (const arrival &a : all) (*base)[size_t(a.who->index)] = std::max((*base)[size_t(a.who->index)], a.own);
    for (const arrival &a : all) {
        if (!a.waits) continue;
        a.who->clock->base = base;
        a.who->clock->foreign = foreign;
        a.who->dependency_synced = synced;
    }
}

void join(fiber *const *who, int n)
{
    const runtime_scope scope;
    std::vector<arrival> all;
    for (int i = 0; i < n; ++i) all.push_back(arrival_of(*who[i], true));
    meet(all);
}

void arrive(block &b, int id, fiber &f, bool waits)
{
    const runtime_scope scope;
    state_of(b).arrivals[id].push_back(arrival_of(f, waits));
}

void release_barrier(block &b, int id)
{
    const runtime_scope scope;
    auto &all = state_of(b).arrivals[id];
    if (!all.empty()) meet(all);
    all.clear();
}

/* Everything thread f did or knew until now. */
shared_knowledge snapshot(fiber &f)
{
    auto base = std::make_shared<times>(*f.clock->base);
    (*base)[size_t(f.index)] = f.clock->own++;
    auto all = f.clock->foreign ? std::make_shared<knowledge>(*f.clock->foreign) : std::make_shared<knowledge>();
    (*all)[f.owner->serial] = base;
    return all;
}

void learn(fiber &f, const shared_knowledge &k)
{
    if (!k) return;
    auto others = std::make_shared<knowledge>(*k);
    auto own = others->find(f.owner->serial);
    if (own != others->end()) {
        auto base = std::make_shared<times>(*f.clock->base);
        raise(*base, *own->second);
        f.clock->base = base;
        others->erase(own);
    }
    if (!others->empty()) f.clock->foreign = joined(f.clock->foreign, others);
}

void fence_passed(scope s)
{
    const runtime_scope in;
    fiber &f = *current;
    for (const auto &k : f.clock->unfenced) learn(f, k);
    f.clock->unfenced.clear();
    const auto all = snapshot(f);
    f.clock->fenced[1] = all;
    if (s != scope::block) f.clock->fenced[0] = all;
}

/* A release publishes at the atomic's address, an acquire reads from there; a relaxed operation does either by the help of fences. A
 * read-modify-write adds to what was published, a store replaces it. */
void atomic_done(const void *p, size_t n, bool reads, bool writes, order o, scope sc, site at)
{
    fiber &f = *current;
    bool shared_memory;
    shadow *s = shadow_of(f, p, n, &shared_memory);
    if (s) touch(f, s, p, n, shared_memory, reads, writes, true, where(at));
    release_of &r = releases[reinterpret_cast<uintptr_t>(p)];
    if (reads) {
        const bool acquires = o == order::acquire || o == order::acq_rel;
        const shared_knowledge seen[2] = {r.device, r.block_serial == f.owner->serial ? r.block : nullptr};
        for (const auto &k : seen) {
            if (!k) continue;
            if (acquires) learn(f, k);
            else if (f.clock->unfenced.empty() || f.clock->unfenced.back() != k) f.clock->unfenced.push_back(k);
        }
    }
    if (!writes) return;
    shared_knowledge device = f.clock->fenced[0], own = f.clock->fenced[1];
    if (o == order::release || o == order::acq_rel) {
        own = snapshot(f);
        if (sc != scope::block) device = own;
    }
    r.device = reads ? joined(r.device, device) : device;
    r.block = reads && r.block_serial == f.owner->serial ? joined(r.block, own) : own;
    r.block_serial = f.owner->serial;
}

const race_table table = {access, async_issue, async_done, begin_block, join, arrive, release_barrier, atomic_done, fence_passed};
const bool installed = (race = &table, true);

bool in_range(const void *p, const void *start, size_t n)
{
    return size_t(static_cast<const char *>(p) - static_cast<const char *>(start)) < n;
}

/* Neither shared nor device memory: the program's own constants, thread-local variables, the kernel's arguments and pinned memory are in
 * order. */
void check_elsewhere(const fiber &f, const void *p, size_t n, uint32_t at)
{
    if (in_range(p, &__executable_start, size_t(&_end - &__executable_start))) return;
    if (in_range(p, static_cast<const char *>(__builtin_thread_pointer()) - 65536, 65536 + 4096)) return;
    if (in_range(p, running->call->arguments, running->call->argument_bytes) || pinned_range(p, n)) return;
    size_t offset;
    if (shared_range(*f.owner, p, 0, &offset) || in_range(p, f.owner->arena, arena_bytes))
        fault_as(cudaErrorIllegalAddress, "shared-memory access out of bounds, +%zd at %s",
                 static_cast<const char *>(p) - reinterpret_cast<const char *>(f.owner->arena), text_of(at).c_str());
    fault_as(cudaErrorIllegalAddress, "access to %p at %s: %s", p, text_of(at).c_str(), describe_address(p).c_str());
}

/* Every instrumented load and store of a kernel. */
void on_instruction(const void *p, size_t n, bool write, const void *pc)
{
    if (!on_device() || in_runtime) return;
    if (in_range(p, current->stack, current->stack_bytes)) return;
    if (random_schedule() && random_below(16) == 0) preempt_point();
    const runtime_scope scope;
    const auto at = uint32_t(reinterpret_cast<uintptr_t>(pc));
    bool shared_memory;
    shadow *s = shadow_of(*current, p, n, &shared_memory);
    if (s) touch(*current, s, p, n, shared_memory, !write, write, false, at);
    else check_elsewhere(*current, p, n, at);
}

} // namespace
} // namespace sim

#define PC __builtin_return_address(0)
#define HOOK(n)                                                                                                                            \
    void __tsan_read##n(void *p) { sim::on_instruction(p, n, false, PC); }                                                                 \
    void __tsan_write##n(void *p) { sim::on_instruction(p, n, true, PC); }                                                                 \
    void __tsan_unaligned_read##n(void *p) { sim::on_instruction(p, n, false, PC); }                                                       \
    void __tsan_unaligned_write##n(void *p) { sim::on_instruction(p, n, true, PC); }
extern "C" {
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
void __tsan_read_range(void *p, size_t n) { sim::on_instruction(p, n, false, PC); }
void __tsan_write_range(void *p, size_t n) { sim::on_instruction(p, n, true, PC); }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
/* clang calls these instead of the functions. */
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    sim::on_instruction(from, n, false, PC);
    sim::on_instruction(to, n, true, PC);
    return std::memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n)
{
    sim::on_instruction(from, n, false, PC);
    sim::on_instruction(to, n, true, PC);
    return std::memmove(to, from, n);
}
void *__tsan_memset(void *to, int v, size_t n)
{
    sim::on_instruction(to, n, true, PC);
    return std::memset(to, v, n);
}

/* std::atomic and its kin, in the host code of a .cu file: as they are. */
#define ATOMICS(bits, T)                                                                                                                   \
    T __tsan_atomic##bits##_load(const volatile T *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }                                \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }                                \
    T __tsan_atomic##bits##_exchange(volatile T *p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }                      \
    T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }                      \
    T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }                      \
    T __tsan_atomic##bits##_fetch_and(volatile T *p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }                      \
    T __tsan_atomic##bits##_fetch_or(volatile T *p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }                        \
    T __tsan_atomic##bits##_fetch_xor(volatile T *p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }                      \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *c, T v, int, int)                                                  \
    {                                                                                                                                      \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                            \
    }                                                                                                                                      \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *c, T v, int, int)                                                    \
    {                                                                                                                                      \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                            \
    }
ATOMICS(8, unsigned char)
ATOMICS(16, unsigned short)
ATOMICS(32, unsigned)
ATOMICS(64, unsigned long)
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
}
