/* Streams, events, copies and graphs.
 *
 * Every call that queues work makes an item that runs after others: the one before in its stream, the legacy stream's rule, the events
 * waited for. Items run when a caller waits for them or, by chance, earlier: in any order that respects "after" (seed 0: at once). Copies
 * from or to pinned memory happen when the item runs, so memory changed or read too soon shows; pageable memory is copied as the driver
 * does, staged on the way in and waited for on the way out. During capture the same items become the nodes of a graph. After a kernel's
 * fault what was queued is dropped. */
#include "internal.h"

#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <set>

namespace sim {
namespace {

/* Runs an item; *previous as for run_grid(). */
using action = std::function<void(serials *previous)>;
struct item {
    action run;
    std::vector<uint64_t> after;
    std::shared_ptr<serials> previous;
    std::function<bool()> gate = nullptr; /* outside of this device: whether it may run; none: it may */
};
struct node {
    action run;
    std::vector<int> after;
};
using nodes = std::vector<node>;

uint64_t last_id = 0;
std::map<uint64_t, item> waiting; /* an id that is not here is done */
std::set<sim_stream *> streams;
std::vector<uint64_t> left_behind; /* the last work of destroyed streams, for the legacy stream to come after */
bool in_item = false;

} // namespace

recursive_lock::recursive_lock() { api_mutex().lock(); }
recursive_lock::~recursive_lock() { api_mutex().unlock(); }
std::recursive_mutex &recursive_lock::api_mutex()
{
    static std::recursive_mutex &m = *new std::recursive_mutex;
    return m;
}

} // namespace sim

struct sim_capture {
    sim_graph *graph;
    sim_stream *origin;
    cudaStreamCaptureMode mode;
    bool valid = true;
};
struct sim_stream {
    bool blocking = true;
    int device = sim::device_now();
    uint64_t last = 0;
    std::shared_ptr<sim::serials> previous = std::make_shared<sim::serials>();
    sim_capture *capture = nullptr;
    std::vector<int> tail; /* nodes that the next one comes after */
};
struct sim_event {
    bool timing = true, recorded = false;
    uint64_t id = 0;
    sim_capture *capture = nullptr;
    std::vector<int> tail;
};
struct sim_graph {
    sim::nodes n;
};
struct sim_graph_exec {
    std::shared_ptr<const sim::nodes> n;
};

namespace sim {
namespace {

sim_stream legacy;
std::vector<sim_capture *> captures;

bool is_done(uint64_t id) { return !waiting.count(id); }

bool has_turn(const item &i)
{
    for (uint64_t a : i.after)
        if (!is_done(a)) return false;
    return true;
}

bool can_run(const item &i) { return has_turn(i) && (!i.gate || i.gate()); }

/* Runs one item whose turn it may be; false if there is none. */
bool run_one()
{
    std::vector<uint64_t> ready;
    for (const auto &w : waiting) {
        if (!can_run(w.second)) continue;
        ready.push_back(w.first);
        if (!random_schedule()) break;
    }
    if (ready.empty()) return false;
    const uint64_t id = ready[random_below(ready.size())];
    const item now = std::move(waiting[id]);
    in_item = true;
    now.run(now.previous.get());
    in_item = false;
    waiting.erase(id);
    if (sticky_error() != cudaSuccess) waiting.clear();
    return true;
}

/* true: a moment was waited for what comes from outside. */
bool waited_outside()
{
    for (const auto &w : waiting) {
        if (!w.second.gate || !has_turn(w.second)) continue;
        usleep(100);
        return true;
    }
    return false;
}

void run_until(uint64_t id)
{
    while (!is_done(id) && (run_one() || waited_outside())) {}
}
void run_some()
{
    if (in_item) return;
    if (!random_schedule())
        while (run_one()) {}
    else
        while (random_below(3) == 0 && run_one()) {}
}

void invalidate_captures()
{
    for (sim_capture *c : captures) c->valid = false;
}

sim_stream *stream_of(cudaStream_t s)
{
    if (!s || s == cudaStreamLegacy) return &legacy;
    return streams.count(s) ? s : nullptr;
}

/* Puts work into a stream, or a node into the graph it is captured to. */
cudaError_t put(cudaStream_t handle, action run, uint64_t also_after = 0, std::function<bool()> gate = nullptr)
{
    sim_stream *s = stream_of(handle);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (s->capture) {
        if (!s->capture->valid) return cudaErrorStreamCaptureInvalidated;
        nodes &n = s->capture->graph->n;
        n.push_back({std::move(run), s->tail});
        s->tail = {int(n.size()) - 1};
        return cudaSuccess;
    }
    for (const sim_capture *c : captures)
        if (s == &legacy && c->mode != cudaStreamCaptureModeRelaxed) {
            invalidate_captures();
            return cudaErrorStreamCaptureImplicit;
        }
    item i{std::move(run), {s->last, also_after}, s->previous, std::move(gate)};
    if (s == &legacy) {
        for (const sim_stream *o : streams)
            if (o->blocking) i.after.push_back(o->last);
        i.after.insert(i.after.end(), left_behind.begin(), left_behind.end());
        left_behind.clear();
    } else if (s->blocking) {
        i.after.push_back(legacy.last);
    }
    s->last = ++last_id;
    waiting[s->last] = std::move(i);
    run_some();
    return sticky_error();
}

/* Waiting is no work that a graph could hold. */
cudaError_t may_wait(const sim_stream *s)
{
    bool forbidden = s && s->capture;
    for (const sim_capture *c : captures) forbidden = forbidden || (!s && c->mode == cudaStreamCaptureModeGlobal);
    if (!forbidden) return cudaSuccess;
    invalidate_captures();
    return cudaErrorStreamCaptureUnsupported;
}

/* Nodes in an order that "after" allows, drawn at random. */
void run_nodes(const nodes &all)
{
    std::vector<char> done(all.size());
    std::vector<serials> ran(all.size());
    for (size_t left = all.size(); left && sticky_error() == cudaSuccess; --left) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < all.size(); ++i) {
            bool can = !done[i];
            for (int a : all[i].after) can = can && done[size_t(a)];
            if (can) ready.push_back(i);
        }
        const size_t i = ready[random_schedule() ? random_below(ready.size()) : 0];
        if (all[i].after.size() == 1) ran[i] = ran[size_t(all[i].after[0])];
        all[i].run(&ran[i]);
        done[i] = 1;
    }
}

/* All that a captured stream's tail comes after. */
std::set<int> ancestors(const nodes &n, const std::vector<int> &tail)
{
    std::set<int> seen;
    std::vector<int> todo = tail;
    while (!todo.empty()) {
        const int i = todo.back();
        todo.pop_back();
        if (!seen.insert(i).second) continue;
        todo.insert(todo.end(), n[size_t(i)].after.begin(), n[size_t(i)].after.end());
    }
    return seen;
}

struct copy_plan {
    void *to;
    const void *from;
    size_t to_pitch, from_pitch, width, height;
    std::shared_ptr<std::vector<unsigned char>> staged; /* the source, from pageable memory */
};

void run_copy(const copy_plan &c, serials *previous)
{
    *previous = serials();
    open_device_memory(true);
    for (size_t r = 0; r < c.height; ++r) {
        const auto *from = c.staged ? c.staged->data() + r * c.width : static_cast<const unsigned char *>(c.from) + r * c.from_pitch;
        std::memmove(static_cast<unsigned char *>(c.to) + r * c.to_pitch, from, c.width);
    }
    open_device_memory(false);
}

/* Whether [p, p+n) lies where the direction says. */
bool right_side(const void *p, size_t n, bool device, bool any) { return device_range(p, n) ? device || any : !device && !device_near(p); }

cudaError_t copy(copy_plan c, cudaMemcpyKind k, cudaStream_t s, bool wait)
{
    if (c.width == 0 || c.height == 0) return cudaSuccess;
    const size_t to_bytes = c.to_pitch * (c.height - 1) + c.width, from_bytes = c.from_pitch * (c.height - 1) + c.width;
    const bool any = k == cudaMemcpyDefault,
               to_device = any ? device_range(c.to, to_bytes) : k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice;
    const bool from_device = any ? device_range(c.from, from_bytes) : k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice;
    if (!right_side(c.to, to_bytes, to_device, any) || !right_side(c.from, from_bytes, from_device, any)) return cudaErrorInvalidValue;
    const sim_stream *st = stream_of(s);
    const bool captured = st && st->capture;
    if (wait) {
        const cudaError_t e = may_wait(nullptr);
        if (e != cudaSuccess) return e;
    }
    if (!from_device && !captured && !pinned_range(c.from, from_bytes)) {
        c.staged = std::make_shared<std::vector<unsigned char>>();
        for (size_t r = 0; r < c.height; ++r) {
            const auto *row = static_cast<const unsigned char *>(c.from) + r * c.from_pitch;
            c.staged->insert(c.staged->end(), row, row + c.width);
        }
    }
    if (!to_device && !captured && random_schedule())
        for (size_t r = 0; r < c.height; ++r) std::memset(static_cast<unsigned char *>(c.to) + r * c.to_pitch, poison, c.width);
    const cudaError_t e = put(s, [c](serials *previous) { run_copy(c, previous); });
    if (e != cudaSuccess || captured) return e;
    if (wait || (!to_device && !pinned_range(c.to, to_bytes))) run_until(stream_of(s)->last);
    return sticky_error();
}

cudaError_t set_bytes(void *p, int v, size_t n, cudaStream_t s)
{
    if (n == 0) return cudaSuccess;
    if (!device_range(p, n)) return cudaErrorInvalidValue;
    return put(s, [p, v, n](serials *previous) {
        *previous = serials();
        open_device_memory(true);
        std::memset(p, v, n);
        open_device_memory(false);
    });
}

bool valid(const launch_config &c)
{
    const uint64_t t = uint64_t(c.block.x) * c.block.y * c.block.z;
    return t >= 1 && t <= 1024 && c.block.z <= 64 && c.grid.x && c.grid.x <= 0x7fffffff && c.grid.y && c.grid.z && c.grid.y <= 65535 &&
           c.grid.z <= 65535;
}

} // namespace

cudaError_t launch(const launch_config &c, cudaStream_t s, std::shared_ptr<const kernel_call> call)
{
    API_CALL_AS("cudaLaunchKernel");
    const sim_stream *of = stream_of(s);
    if (of && of != &legacy && of->device != device_now()) return leave_call(cudaErrorInvalidResourceHandle);
    if (!valid(c)) return leave_call(cudaErrorInvalidConfiguration);
    if (c.smem > smem_limit(c.function)) return leave_call(cudaErrorInvalidValue);
    if (c.cooperative && size_t(c.grid.x) * c.grid.y * c.grid.z > cooperative_blocks(c))
        return leave_call(cudaErrorCooperativeLaunchTooLarge);
    return leave_call(put(s, [c, call](serials *previous) { run_grid(c, *call, previous); }));
}

cudaError_t gated_work(cudaStream_t s, std::function<bool()> gate, std::function<void()> run)
{
    API_CALL();
    return leave_call(put(
        s,
        [run](serials *previous) {
            *previous = serials();
            open_device_memory(true);
            run();
            open_device_memory(false);
        },
        0, std::move(gate)));
}

cudaError_t wait_allowed() { return may_wait(nullptr); }

cudaError_t wait_all()
{
    const cudaError_t e = may_wait(nullptr);
    while (e == cudaSuccess && (run_one() || waited_outside())) {}
    return e != cudaSuccess ? e : sticky_error();
}

void drop_streams()
{
    waiting.clear();
    left_behind.clear();
    for (sim_capture *c : captures) {
        delete c->graph;
        delete c;
    }
    captures.clear();
    for (sim_stream *s : streams) s->capture = nullptr;
    legacy = sim_stream();
}

} // namespace sim

using namespace sim;

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t s)
{
    API_CALL();
    return leave_call(copy({to, from, n, n, n, 1, nullptr}, k, s, false));
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind k,
                              cudaStream_t s)
{
    API_CALL();
    if (width > to_pitch || width > from_pitch) return leave_call(cudaErrorInvalidValue);
    return leave_call(copy({to, from, to_pitch, from_pitch, width, height, nullptr}, k, s, false));
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind k)
{
    API_CALL();
    return leave_call(copy({to, from, n, n, n, 1, nullptr}, k, nullptr, true));
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s)
{
    API_CALL();
    return leave_call(set_bytes(p, v, n, s));
}
cudaError_t cudaMemset(void *p, int v, size_t n)
{
    API_CALL();
    return leave_call(set_bytes(p, v, n, nullptr));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    API_CALL();
    *s = new sim_stream;
    (*s)->blocking = !(flags & cudaStreamNonBlocking);
    streams.insert(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int) { return cudaStreamCreateWithFlags(s, flags); }
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    recursive_lock lock;
    if (!streams.count(s)) return leave_call(cudaErrorInvalidResourceHandle);
    if (s->capture) s->capture->valid = false;
    if (s->blocking && !is_done(s->last)) left_behind.push_back(s->last);
    streams.erase(s);
    delete s;
    return sticky_error();
}
cudaError_t cudaStreamSynchronize(cudaStream_t h)
{
    API_CALL();
    const sim_stream *s = stream_of(h);
    if (!s) return leave_call(cudaErrorInvalidResourceHandle);
    const cudaError_t e = may_wait(s);
    if (e != cudaSuccess) return leave_call(e);
    run_until(s->last);
    return leave_call(sticky_error());
}
cudaError_t cudaStreamQuery(cudaStream_t h)
{
    API_CALL();
    const sim_stream *s = stream_of(h);
    if (!s) return leave_call(cudaErrorInvalidResourceHandle);
    const cudaError_t e = may_wait(s);
    if (e != cudaSuccess) return leave_call(e);
    if (!is_done(s->last)) (void)run_one();
    if (sticky_error() != cudaSuccess) return sticky_error();
    return is_done(s->last) ? cudaSuccess : cudaErrorNotReady; /* which is no error to remember */
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *arg)
{
    API_CALL();
    return leave_call(put(s, [fn, arg](serials *previous) {
        *previous = serials();
        fn(arg);
    }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    API_CALL();
    *e = new sim_event;
    (*e)->timing = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    if (!e) return leave_call(cudaErrorInvalidResourceHandle);
    delete e;
    return sticky_error();
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t h)
{
    API_CALL();
    sim_stream *s = stream_of(h);
    if (!s || !e) return leave_call(cudaErrorInvalidResourceHandle);
    e->recorded = true;
    e->capture = s->capture;
    if (s->capture) {
        e->tail = s->tail;
        return cudaSuccess;
    }
    const cudaError_t r = put(h, [](serials *) {});
    e->id = s->last;
    return leave_call(r);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t h, cudaEvent_t e, unsigned)
{
    API_CALL();
    sim_stream *s = stream_of(h);
    if (!s || !e) return leave_call(cudaErrorInvalidResourceHandle);
    if (!e->recorded) return cudaSuccess;
    if (s->capture != e->capture && s->capture) {
        invalidate_captures();
        return leave_call(cudaErrorStreamCaptureIsolation);
    }
    if (!e->capture) return leave_call(put(h, [](serials *) {}, e->id));
    if (!s->capture) s->tail.clear();
    s->capture = e->capture;
    for (int n : e->tail)
        if (std::find(s->tail.begin(), s->tail.end(), n) == s->tail.end()) s->tail.push_back(n);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    API_CALL();
    if (!e) return leave_call(cudaErrorInvalidResourceHandle);
    if (e->capture) return leave_call(cudaErrorCapturedEvent);
    run_until(e->id);
    return leave_call(sticky_error());
}
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    API_CALL();
    if (!e) return leave_call(cudaErrorInvalidResourceHandle);
    if (e->capture) return leave_call(cudaErrorCapturedEvent);
    if (!is_done(e->id)) (void)run_one();
    if (sticky_error() != cudaSuccess) return sticky_error();
    return is_done(e->id) ? cudaSuccess : cudaErrorNotReady;
}
/* There is no time here: the number of items between the two, in microseconds. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    API_CALL();
    if (!from || !to || !from->timing || !to->timing || !from->recorded || !to->recorded) return leave_call(cudaErrorInvalidResourceHandle);
    if (!is_done(from->id) || !is_done(to->id)) return cudaErrorNotReady;
    *ms = float(to->id - from->id) * 1e-3f;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t h, cudaStreamCaptureMode mode)
{
    API_CALL();
    sim_stream *s = stream_of(h);
    if (!s) return leave_call(cudaErrorInvalidResourceHandle);
    if (s == &legacy || s->capture) return leave_call(cudaErrorStreamCaptureUnsupported);
    s->capture = new sim_capture{new sim_graph, s, mode};
    s->tail.clear();
    captures.push_back(s->capture);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t h, cudaGraph_t *g)
{
    recursive_lock lock;
    *g = nullptr;
    const cudaError_t ordered = enter_call(__func__);
    sim_stream *s = stream_of(h);
    if (!s || !s->capture || s->capture->origin != s)
        return leave_call(s && s->capture ? cudaErrorStreamCaptureUnmatched : cudaErrorInvalidValue);
    sim_capture *c = s->capture;
    const std::set<int> joined = ancestors(c->graph->n, s->tail);
    bool all_joined = true;
    for (sim_stream *o : streams) {
        if (o->capture != c) continue;
        for (int n : o->tail) all_joined = all_joined && joined.count(n);
        o->capture = nullptr;
    }
    captures.erase(std::find(captures.begin(), captures.end(), c));
    const cudaError_t e = ordered != cudaSuccess ? ordered
                          : !c->valid            ? cudaErrorStreamCaptureInvalidated
                          : !all_joined          ? cudaErrorStreamCaptureUnjoined
                                                 : cudaSuccess;
    if (e == cudaSuccess) *g = c->graph;
    else delete c->graph;
    delete c;
    return leave_call(e);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t h, cudaStreamCaptureStatus *status)
{
    API_CALL();
    const sim_stream *s = stream_of(h);
    if (!s) return leave_call(cudaErrorInvalidResourceHandle);
    *status = !s->capture         ? cudaStreamCaptureStatusNone
              : s->capture->valid ? cudaStreamCaptureStatusActive
                                  : cudaStreamCaptureStatusInvalidated;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    API_CALL();
    if (!g) return leave_call(cudaErrorInvalidValue);
    *x = new sim_graph_exec{std::make_shared<const nodes>(g->n)};
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t)
{
    API_CALL();
    return leave_call(x ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    API_CALL();
    if (!x) return leave_call(cudaErrorInvalidValue);
    const auto n = x->n;
    return leave_call(put(s, [n](serials *previous) {
        *previous = serials();
        run_nodes(*n);
    }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    delete x;
    return cudaSuccess;
}
