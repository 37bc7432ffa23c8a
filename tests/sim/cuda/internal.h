/* Shared between the runtime's own files; kernels and tests never see this. fiber.cpp: threads, blocks, barriers. warp.cpp: what the lanes
 * of a warp do together. memory.cpp: device, pinned and shared memory, cp.async. atomics.cpp. stream.cpp, device.cpp: the
 * runtime API. race.cpp (race-checked build only): vector clocks and shadow memory, reached through the table `race`. */
#pragma once
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define SIM_ASAN 0
#define ASAN_POISON_MEMORY_REGION(p, n) (static_cast<void>(p), static_cast<void>(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) (static_cast<void>(p), static_cast<void>(n))
#endif

namespace sim {

/* 0xff bytes are NaN in float64, float32, fp16, bf16, e4m3 and e5m2. */
constexpr unsigned char poison = 0xff;
constexpr int max_threads = 1024;
constexpr size_t arena_bytes = 256 << 10, arena_gap = 64;

enum class op : uint8_t { none, shfl, ballot, sync, match_any, match_all, reduce, ldmatrix, stmatrix, mma };

struct async_copy {
    void *dst;
    const void *src;
    unsigned char data[16];
    int bytes, src_bytes, group;
    bool late; /* src is read when the copy is waited for, not when it is issued: both are legal */
    site at;
};

struct block;
struct thread_clock; /* race.cpp */

/* One thread of a block. What a switch touches is in the first 64 bytes. */
struct alignas(64) fiber {
    void *sp = nullptr; /* saved stack pointer while another runs */
    block *owner = nullptr;
    uint3 tid{};
    int index = -1, warp = 0, lane = 0;
    site at{};
    char *stack = nullptr;
    size_t stack_bytes = 0;
    void *fake_stack = nullptr; /* ASan's */
    bool dependency_synced = true;
    int barrier_id = 0;
    int committed = 0; /* cp.async groups */
    std::vector<async_copy> async;
    thread_clock *clock = nullptr;
};

/* in[w][l] is word w of lane l's operands, out of its results. A lane's column is written by the lane itself before the others meet it and
 * by the meeting while the lane waits, so it needs no second buffer. */
struct warp {
    uint32_t ready, live, waiting;
    uint32_t mask[32], key[32]; /* of the waiting lanes: who is to meet, for what (op << 8 | variant) */
    uint32_t in[10][32], out[4][32];
    const void *row[32];
};

struct barrier {
    uint32_t arrived, expected, generation, waiters[32];
    int sum, result[2][3]; /* by the generation's last bit: count, all, any */
    site at;
};

struct piece { /* of shared memory */
    const void *key;
    size_t offset, bytes;
};

struct block {
    uint3 index{};
    uint32_t serial = 0; /* over all launches */
    int threads = 0, live = 0;
    uint32_t ready_warps = 0;
    uint64_t rng = 1, decisions = 0;
    std::vector<fiber> fibers;
    warp warps[32];
    barrier barriers[16];
    unsigned char *arena = nullptr;
    std::vector<piece> pieces;
    size_t arena_used = arena_bytes; /* what the latest block may have written */
    void *race_state = nullptr;      /* race.cpp's */
};

inline void wake(block &b, int warp_index, uint32_t lanes)
{
    b.warps[warp_index].ready |= lanes;
    b.ready_warps |= 1u << warp_index;
}
inline void put_to_sleep(fiber &f)
{
    warp &w = f.owner->warps[f.warp];
    w.ready &= ~(1u << f.lane);
    if (!w.ready) f.owner->ready_warps &= ~(1u << f.warp);
}

struct grid {
    launch_config config;
    const kernel_call *call;
    uint32_t first_serial;                 /* its blocks have serials from here on */
    uint32_t previous_first, previous_end; /* those of the launch it may overlap with, or 0 */
};

extern __thread fiber *current; /* the running thread, or the host's */
extern const grid *running;
extern counters stats;

inline bool on_device() { return current && current->index >= 0; }
extern uint64_t seed_now;
inline bool random_schedule() { return seed_now != 0; }
inline uint64_t draw(uint64_t &s, uint64_t n) /* xorshift64*; below n */
{
    s ^= s >> 12, s ^= s << 25, s ^= s >> 27;
    return (s * 0x2545f4914f6cdd1du >> 32) * n >> 32;
}
/* First set bit at or after position `from`, cyclically. */
inline int bit_from(uint32_t bits, int from)
{
    const uint32_t upper = bits & ~0u << (from & 31);
    return __builtin_ctz(upper ? upper : bits);
}
uint64_t random_below(uint64_t n);      /* of the running block, on the host the streams' */
std::string whereami();                 /* "kernel block (x,y,z) thread (x,y,z)" */
void report(cudaError_t e, const std::string &text);
[[noreturn]] void fault_as(cudaError_t e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void leave_kernel();
void reschedule(bool other_block = false);
/* Runs a launch; *previous: the serials of the launch before in its stream, and then its own. */
struct serials {
    uint32_t first, end;
};
void run_grid(const launch_config &c, const kernel_call &call, serials *previous);
void switch_to(fiber *to, bool dying = false);
std::string describe_thread(const fiber &f);

/* warp.cpp: collectives that only waited for a thread that has ended */
void meet_after_exit(block &b, int warp_index);

/* memory.cpp */
void shared_begin(block &b, size_t dynamic_bytes);
const char *shared_damage(block &b);
bool shared_range(const block &b, const void *p, size_t n, size_t *offset); /* inside one array */
bool device_range(const void *p, size_t n); /* inside one allocation */
bool device_near(const void *p); /* in an allocation, a freed one, or the guards about them */
bool pinned_range(const void *p, size_t n);
void *device_shadow(const void *p, size_t n, size_t bytes_a_byte); /* race.cpp's, zeroed at first; null: no device memory */
bool allow_smem(const void *function, int n);
cudaError_t allocate_device(void **p, size_t n);
cudaError_t free_device(void *p); /* invalid value: not an allocation; illegal address: something was written beside it */
cudaError_t allocate_pinned(void **p, size_t n);
cudaError_t free_pinned(void *p);
bool register_pinned(void *p, size_t n);
bool unregister_pinned(void *p);
void free_all_memory();
const char *device_damage();
void open_device_memory(bool open); /* to the host's own loads and stores */
size_t smem_limit(const void *function);
std::string describe_address(const void *p);

/* device.cpp */
void set_sticky(cudaError_t e);
cudaError_t sticky_error();
cudaError_t enter_call(const char *name); /* what a call finds before it does anything: an earlier kernel's fault, a failure to order */
int device_now();                         /* of this thread: cudaSetDevice */
cudaError_t leave_call(cudaError_t e); /* remembers e; returns it */
size_t cooperative_blocks(const launch_config &c);

/* stream.cpp */
struct recursive_lock { /* one for the whole API; callbacks may call it */
    recursive_lock();
    ~recursive_lock();
    recursive_lock(const recursive_lock &) = delete;

private:
    static std::recursive_mutex &api_mutex();
};
cudaError_t wait_allowed(); /* in the state of captures */
cudaError_t wait_all();
void drop_streams();
#define API_CALL() API_CALL_AS(__func__)
#define API_CALL_AS(name)                                                                                                                  \
    recursive_lock lock_;                                                                                                                  \
    const cudaError_t entered_ = enter_call(name);                                                                                         \
    if (entered_ != cudaSuccess) return entered_

/* In the race-checked build the linker may give the runtime a template of the standard library that was instrumented with a kernel. What
 * such code does on a kernel's thread, while one of these lives, is not the kernel's doing. None may live across a switch to another
 * thread. */
extern __thread bool in_runtime;
struct runtime_scope {
    bool before = in_runtime;
    runtime_scope() { in_runtime = true; }
    ~runtime_scope() { in_runtime = before; }
    runtime_scope(const runtime_scope &) = delete;
};

/* race.cpp fills this in. */
struct race_table {
    void (*access)(const void *p, size_t n, bool write, site at);
    void (*async_issue)(const void *p, size_t n, site at);
    void (*async_done)(const void *p, size_t n, site at);
    void (*begin_block)(block &b);
    void (*join)(fiber *const *who, int n); /* these threads have met at a barrier */
    void (*arrive)(block &b, int id, fiber &f, bool waits); /* at barrier id */
    void (*release)(block &b, int id);                      /* its threads go on */
    void (*atomic)(const void *p, size_t n, bool reads, bool writes, order o, scope s, site at);
    void (*fence)(scope s);
};
extern const race_table *race;

} // namespace sim
