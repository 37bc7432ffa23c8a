/* Threads as fibers, blocks, barriers, and which thread runs next.
 *
 * Every thread of a block has a stack of its own and runs until it waits (barrier, warp collective), ends, or is preempted. One block runs
 * after another with seed 0; with other seeds a few are alive at once and take turns, in random order. A fault leaves the kernel for the
 * host's stack at once: the threads are dropped where they stand, so kernel locals must not own memory. */
#include "internal.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

/* void sim_switch(void **save_sp, void *load_sp): the callee-saved registers onto the old stack and from the new one. */
asm(R"(
  .text
  .globl sim_switch
  .type sim_switch, @function
sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size sim_switch, .-sim_switch
)");
extern "C" void sim_switch(void **save_sp, void *load_sp);

namespace sim {

__thread fiber *current = nullptr;
__thread bool in_runtime = false;
const grid *running = nullptr;
counters stats{};
const race_table *race = nullptr;
uint64_t seed_now = 0;

namespace {

constexpr size_t stack_bytes = SIM_ASAN ? 256 << 10 : 64 << 10;
uint64_t max_decisions = 20'000'000; /* of one block: more is a livelock */
constexpr int max_resident = 4;

__thread fiber *host_of_thread = nullptr;
#define host (*host_of_thread) /* the caller's own stack */
std::string last_fault;
bool faulted = false;
uint64_t host_rng = 1;
/* Blocks alive at once, and those kept for later launches; never destroyed, so that at exit they are no leaks. */
std::vector<block *> &resident = *new std::vector<block *>, &spare = *new std::vector<block *>;
uint32_t next_serial = 1, launches = 0; /* since the start; since set_seed() */

} // namespace

void switch_to(fiber *to, bool dying)
{
    fiber *from = current;
    if (to == from) return;
    ++stats.switches;
    current = to;
    threadIdx = to->tid;
    if (to->owner != from->owner && to->owner) blockIdx = to->owner->index;
#if SIM_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &from->fake_stack, to->stack, to->stack_bytes);
#else
    (void)dying;
#endif
    sim_switch(&from->sp, to->sp);
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

namespace {

/* The block whose thread is next: the same one while it can run, now and then another. */
block *pick_block(block *b, bool other)
{
    if (resident.size() < 2) return b;
    const bool stay = b && b->ready_warps && !other && (seed_now == 0 || draw(host_rng, 256));
    if (stay) return b;
    size_t at = 0;
    while (at < resident.size() && resident[at] != b) ++at;
    if (seed_now) at += draw(host_rng, resident.size());
    for (size_t i = 0; i < resident.size(); ++i) {
        block *c = resident[(at + 1 + i) % resident.size()];
        if (c->ready_warps) return c;
    }
    return b;
}

/* Seed 0: the next ready thread in index order. Odd seeds: any. Even seeds: stay in one warp for long, so that warps run far apart. */
fiber *pick(bool other_block)
{
    block *b = pick_block(current->owner ? current->owner : resident.front(), other_block);
    if (!b || !b->ready_warps) return nullptr;
    int warp_index = b == current->owner ? current->warp : 0, lane = b == current->owner ? current->lane + 1 : 0;
    if (seed_now == 0) {
        const bool more = lane < 32 && b->warps[warp_index].ready >> lane;
        if (!more) warp_index = bit_from(b->ready_warps, warp_index + 1), lane = 0;
    } else {
        const bool stay = seed_now % 2 == 0 && b->warps[warp_index].ready && draw(b->rng, 64);
        if (!stay) warp_index = bit_from(b->ready_warps, int(draw(b->rng, 32)));
        lane = int(draw(b->rng, 32));
    }
    return &b->fibers[size_t(warp_index * 32 + bit_from(b->warps[warp_index].ready, lane))];
}

const char *op_name(uint32_t key)
{
    static const char *const names[] = {"nothing",          "__shfl_sync",   "vote",     "__syncwarp", "__match_any_sync",
                                        "__match_all_sync", "__reduce_sync", "ldmatrix", "stmatrix",   "mma"};
    return names[key >> 8];
}

std::string describe(const fiber &f)
{
    const warp &w = f.owner->warps[f.warp];
    char text[400];
    if (!(w.live >> f.lane & 1)) return "exited";
    if (w.ready >> f.lane & 1) return "ready";
    if (!(w.waiting >> f.lane & 1))
        std::snprintf(text, sizeof text, "barrier %d at %s:%d", f.barrier_id, f.at.file, f.at.line);
    else
        std::snprintf(text, sizeof text, "%s of lanes %08x at %s:%d", op_name(w.key[f.lane]), w.mask[f.lane], f.at.file, f.at.line);
    return text;
}

/* One line for each run of threads that wait for the same thing. */
std::string deadlock_text()
{
    char text[200];
    std::snprintf(text, sizeof text, "deadlock in %s\n", running->config.name);
    std::string out = text, before;
    for (const block *b : resident) {
        if (!b->live) continue;
        std::snprintf(text, sizeof text, " block (%u,%u,%u)\n", b->index.x, b->index.y, b->index.z);
        out += text;
        int first = 0;
        for (int i = 0; i <= b->threads; ++i) {
            const std::string now = i == b->threads ? std::string() : describe(b->fibers[size_t(i)]);
            if (i && now != before) {
                out += "  threads " + std::to_string(first) + ".." + std::to_string(i - 1) + ": " + before + "\n";
                first = i;
            }
            before = now;
        }
    }
    return out;
}

void release(block &b, int id)
{
    barrier &bar = b.barriers[id];
    int *r = bar.result[bar.generation & 1];
    r[0] = bar.sum, r[1] = bar.sum == int(bar.arrived), r[2] = bar.sum != 0;
    if (race) race->release(b, id);
    for (int w = 0; w * 32 < b.threads; ++w) {
        if (bar.waiters[w]) wake(b, w, bar.waiters[w]);
        bar.waiters[w] = 0;
    }
    ++bar.generation;
    bar.arrived = bar.expected = 0, bar.sum = 0;
}

bool full(const block &b, const barrier &bar) { return bar.arrived && bar.arrived == (bar.expected ? bar.expected : uint32_t(b.live)); }

/* An exited thread counts no more at barriers and in the masks of collectives. */
void thread_exit()
{
    fiber &f = *current;
    block &b = *f.owner;
    put_to_sleep(f);
    --b.live;
    b.warps[f.warp].live &= ~(1u << f.lane);
    meet_after_exit(b, f.warp);
    barrier &bar = b.barriers[0];
    if (bar.expected == 0 && full(b, bar)) release(b, 0);
    if (b.live == 0) switch_to(&host, true);
    fiber *next = pick(false);
    switch_to(next ? next : &host, true);
}

extern "C" void sim_fiber_entry()
{
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    in_runtime = false;
    running->call->run();
    thread_exit();
    __builtin_unreachable();
}

void init_host()
{
    pthread_attr_t attr;
    void *base;
    host_of_thread = new fiber; /* one a host thread, kept */
    pthread_getattr_np(pthread_self(), &attr);
    pthread_attr_getstack(&attr, &base, &host.stack_bytes);
    pthread_attr_destroy(&attr);
    host.stack = static_cast<char *>(base);
    current = &host;
}

/* Mapped once, with a guard page below, and used again. */
void make_stack(fiber &f)
{
    void *p = mmap(nullptr, stack_bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) std::perror("mmap"), std::abort();
    mprotect(p, 4096, PROT_NONE);
    f.stack = static_cast<char *>(p) + 4096;
    f.stack_bytes = stack_bytes;
}

void start_thread(block &b, int i)
{
    fiber &f = b.fibers[size_t(i)];
    if (!f.stack) make_stack(f);
    ASAN_UNPOISON_MEMORY_REGION(f.stack, f.stack_bytes); /* left by a launch that was dropped */
    const unsigned n = unsigned(i);
    f.tid = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    f.owner = &b, f.index = i, f.warp = i / 32, f.lane = i % 32;
    f.committed = 0, f.dependency_synced = !running->previous_end;
    f.async.clear();
    /* Staggered, so that the tops of the stacks do not share cache sets. */
    void **sp = reinterpret_cast<void **>(f.stack + f.stack_bytes - size_t(i % 61) * 128);
    *--sp = nullptr; /* the entry sees rsp = 16n + 8, as after a call */
    *--sp = reinterpret_cast<void *>(&sim_fiber_entry);
    for (int r = 0; r < 6; ++r) *--sp = nullptr;
    f.sp = sp;
    b.warps[f.warp].live |= 1u << f.lane;
    wake(b, f.warp, 1u << f.lane);
}

void start_block(block &b, unsigned i, int threads)
{
    const dim3 &g = running->config.grid;
    b.index = {i % g.x, i / g.x % g.y, i / g.x / g.y};
    b.threads = b.live = threads;
    b.serial = running->first_serial + i;
    b.rng = ((seed_now * 0x9e3779b97f4a7c15u ^ launches) + i) * 0xbf58476d1ce4e5b9u | 1;
    b.decisions = 0, b.ready_warps = 0;
    for (warp &w : b.warps) w.ready = w.live = w.waiting = 0;
    std::memset(b.barriers, 0, sizeof b.barriers);
    shared_begin(b, running->config.smem);
    if (b.fibers.size() < size_t(max_threads)) b.fibers.resize(max_threads);
    for (int t = 0; t < threads; ++t) start_thread(b, t);
    if (race) race->begin_block(b);
    stats.threads += uint64_t(threads), ++stats.blocks;
}

/* Runs until a block has ended; its place in `resident`, or -1 after a fault. */
int run_until_end()
{
    for (;;) {
        host.owner = nullptr;
        fiber *f = pick(false);
        if (!f) {
            report(cudaErrorLaunchTimeout, deadlock_text());
            return -1;
        }
        switch_to(f);
        if (faulted) return -1;
        for (size_t i = 0; i < resident.size(); ++i) {
            block &b = *resident[i];
            if (b.live) continue;
            const char *damage = shared_damage(b);
            if (!damage) return int(i);
            report(cudaErrorIllegalAddress, std::string("out-of-bounds write ") + damage + "\n  in " + running->config.name + "\n");
            return -1;
        }
    }
}

void run_blocks(const std::vector<unsigned> &order, int threads, size_t at_once)
{
    size_t next = 0;
    for (; next < order.size() && next < at_once; ++next) {
        if (spare.empty()) spare.push_back(new block);
        resident.push_back(spare.back());
        spare.pop_back();
        start_block(*resident.back(), order[next], threads);
    }
    while (!resident.empty()) {
        const int ended = run_until_end();
        if (ended < 0) break;
        if (next < order.size()) {
            start_block(*resident[size_t(ended)], order[next++], threads);
        } else {
            spare.push_back(resident[size_t(ended)]);
            resident.erase(resident.begin() + ended);
        }
    }
    spare.insert(spare.end(), resident.begin(), resident.end());
    resident.clear();
}

} // namespace

void set_seed(uint64_t s)
{
    seed_now = s;
    host_rng = s * 0x9e3779b97f4a7c15u | 1;
    launches = 0;
    last_fault.clear();
}

/* The first seed, for programs that set none. */
static bool seed_from_environment()
{
    if (const char *s = getenv("SIM_CUDA_SEED")) set_seed(strtoull(s, nullptr, 10));
    return true;
}
static const bool seeded [[maybe_unused]] = seed_from_environment();

uint64_t random_below(uint64_t n) { return draw(on_device() ? current->owner->rng : host_rng, n); }
void set_patience(uint64_t decisions) { max_decisions = decisions; }
const std::string &last_report() { return last_fault; }
bool race_checked() { return race != nullptr; }
counters take_counters() { return std::exchange(stats, counters{}); }

/* The first report of a launch is the one that counts. */
void report(cudaError_t e, const std::string &text)
{
    if (faulted) return;
    last_fault = text;
    faulted = true;
    set_sticky(e);
}

std::string whereami()
{
    char t[300];
    std::snprintf(t, sizeof t, "%s block (%u,%u,%u) thread (%u,%u,%u)", running ? running->config.name : "host", blockIdx.x, blockIdx.y,
                  blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    return t;
}

void leave_kernel()
{
    if (!on_device()) std::fprintf(stderr, "%s", last_fault.c_str()), std::abort();
    switch_to(&host, true);
    __builtin_unreachable();
}

void fault_as(cudaError_t e, const char *fmt, ...)
{
    in_runtime = true; /* until the next thread starts */
    char text[1500];
    va_list ap;
    va_start(ap, fmt);
    std::vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    report(e, std::string(text) + "\n  in " + whereami() + "\n");
    leave_kernel();
}

void fault(const char *fmt, ...)
{
    in_runtime = true;
    char text[1500];
    va_list ap;
    va_start(ap, fmt);
    std::vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fault_as(cudaErrorLaunchFailure, "%s", text);
}

/* Gives the processor away; returns when this thread is picked again. */
void reschedule(bool other_block)
{
    block &b = *current->owner;
    if (++b.decisions > max_decisions) fault_as(cudaErrorLaunchTimeout, "livelock: too many scheduling decisions");
    fiber *next = pick(other_block);
    switch_to(next ? next : &host);
}

void preempt_point()
{
    if (!on_device() || seed_now == 0 || random_below(4)) return;
    reschedule();
}

/* Threads meet __syncthreads() at one source line: elsewhere is undefined. Named barriers may pair different lines. */
int block_barrier(int id, int threads, vote v, int pred, bool wait, site at)
{
    fiber &f = *current;
    block &b = *f.owner;
    if (id < 0 || id > 15 || (id == 0) != (threads == 0)) fault("barrier %d of %d threads at %s:%d", id, threads, at.file, at.line);
    if (threads % 32 || threads > 1024) fault("barrier %d: %d threads are no whole warps, at %s:%d", id, threads, at.file, at.line);
    barrier &bar = b.barriers[id];
    if (bar.arrived && bar.expected != uint32_t(threads))
        fault("barrier %d: %u threads and %d at %s:%d", id, bar.expected, threads, at.file, at.line);
    if (id == 0 && bar.arrived && (bar.at.line != at.line || (bar.at.file != at.file && std::strcmp(bar.at.file, at.file))))
        fault("divergent barrier: others wait at %s:%d, this thread arrived at %s:%d", bar.at.file, bar.at.line, at.file, at.line);
    bar.expected = uint32_t(threads), bar.at = at;
    ++bar.arrived;
    bar.sum += pred != 0;
    f.barrier_id = id, f.at = at;
    if (race) race->arrive(b, id, f, wait);
    const uint32_t generation = bar.generation;
    if (wait) {
        bar.waiters[f.warp] |= 1u << f.lane;
        put_to_sleep(f);
    }
    if (full(b, bar)) release(b, id);
    if (!wait) return 0;
    reschedule();
    const int *r = bar.result[generation & 1];
    return v == vote::count ? r[0] : v == vote::all ? r[1] : r[2];
}

std::string describe_thread(const fiber &f) { return describe(f); }

void run_grid(const launch_config &c, const kernel_call &call, serials *previous)
{
    if (!current) init_host();
    const uint32_t n = c.grid.x * c.grid.y * c.grid.z;
    const bool overlaps = c.programmatic && previous->end;
    const grid g{c, &call, next_serial, overlaps ? previous->first : 0, overlaps ? previous->end : 0};
    *previous = {next_serial, next_serial + n};
    next_serial += n;
    ++launches;
    running = &g;
    gridDim = c.grid, blockDim = c.block;
    faulted = false;
    std::vector<unsigned> order(n);
    std::iota(order.begin(), order.end(), 0u);
    if (seed_now)
        for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[draw(host_rng, i)]);
    const size_t at_once = c.cooperative ? n : seed_now ? 1 + seed_now % max_resident : 1;
    open_device_memory(true);
    run_blocks(order, int(c.block.x * c.block.y * c.block.z), at_once);
    const char *damage = faulted ? nullptr : device_damage();
    if (damage) report(cudaErrorIllegalAddress, std::string("out-of-bounds write ") + damage + "\n  in " + c.name + "\n");
    open_device_memory(false);
    running = nullptr;
}

} // namespace sim
