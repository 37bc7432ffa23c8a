/* Group: devices that compute one model together, a process each; sums over all of them by NCCL, which is opened at run time (libnccl.so.2), so that
 * nobody needs it who has no group. No kernels.
 *
 * A collective never ends if one of the processes hangs or dies, and a wait for the stream would never end with it. So a device in a group does not wait
 * but looks: at the stream, at NCCL's own errors, at the clock. When the limit has passed the communicator is aborted, which ends NCCL's kernels, and from
 * then on every call says why. To begin anew takes new processes.
 *
 * The few functions of NCCL that are used are declared here as its public API has them (nccl.h, 2.4 and later). */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda.cuh"

namespace {

enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7, NCCL_SUM = 0, NCCL_FLOAT32 = 7, NCCL_BFLOAT16 = 9 };
enum { SPINS = 1000, NAP_US = 20 };

struct nccl_id {
    char bytes[DEVICE_GROUP_ID_BYTES];
};

struct nccl_calls {
    int (*get_id)(nccl_id *out);
    int (*init)(void **out, int size, nccl_id id, int rank); /* waits for all ranks */
    int (*all_reduce)(const void *in, void *out, size_t n, int type, int op, void *c, cudaStream_t s);
    int (*async_error)(void *c, int *out);
    int (*abort)(void *c);
    int (*destroy)(void *c);
    const char *(*error)(int rc);
};

int64_t now_ms(void)
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1000 + t.tv_nsec / 1000000;
}

/* Stays open for good. */
int nccl_open(struct nccl_calls *out, struct err *e)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"ncclGetUniqueId", &out->get_id},     {"ncclCommInitRank", &out->init},  {"ncclAllReduce", &out->all_reduce},
        {"ncclCommGetAsyncError", &out->async_error}, {"ncclCommAbort", &out->abort}, {"ncclCommDestroy", &out->destroy},
        {"ncclGetErrorString", &out->error},
    };
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) return err_set(e, ERR_UNSUPPORTED, "cuda: several GPUs for one model need NCCL, which cannot be opened: %s", dlerror());
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol) return err_set(e, ERR_UNSUPPORTED, "cuda: NCCL has no %s: it is older than 2.4", symbols[i].name);
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    return 0;
}

/* Of one thread that meets the other ranks; it cannot be ended, so what it uses is the last user's to free. */
struct meeting {
    struct nccl_calls nccl;
    void *comm;
    nccl_id id;
    int rank, size, gpu, rc;
    bool met, left;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

void meeting_free(struct meeting *m)
{
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void *meet(void *arg)
{
    struct meeting *m = static_cast<struct meeting *>(arg);
    void *comm = nullptr;
    int rc = cudaSetDevice(m->gpu) == cudaSuccess ? m->nccl.init(&comm, m->size, m->id, m->rank) : 1;
    pthread_mutex_lock(&m->lock);
    m->comm = comm, m->rc = rc, m->met = true;
    const bool left = m->left;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (left) {
        if (comm) m->nccl.abort(comm);
        meeting_free(m);
    }
    return nullptr;
}

struct meeting *meeting_new(const struct nccl_calls *nccl, const struct device_group *o, int gpu)
{
    struct meeting *m = static_cast<struct meeting *>(calloc(1, sizeof *m));
    pthread_condattr_t attr;
    if (!m) return nullptr;
    m->nccl = *nccl, m->rank = o->rank, m->size = o->size, m->gpu = gpu;
    memcpy(m->id.bytes, o->id, sizeof m->id.bytes);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, nullptr);
    pthread_cond_init(&m->changed, &attr);
    pthread_condattr_destroy(&attr);
    return m;
}

} // namespace

struct cuda_group {
    struct nccl_calls nccl;
    void *comm; /* null: given up, why says it */
    struct err why;
    int rank, size, limit_ms;
    bool under_way; /* a collective is queued that nobody has seen the end of */
};

namespace {

/* Waits until all ranks have come, or for the limit. */
int join(struct cuda_group *g, struct meeting *m, struct err *e)
{
    timespec until;
    pthread_t thread;
    if (pthread_create(&thread, nullptr, meet, m)) {
        meeting_free(m);
        return err_set(e, ERR_MEMORY, "cuda: out of memory");
    }
    pthread_detach(thread);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += g->limit_ms / 1000, until.tv_nsec += g->limit_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    pthread_mutex_lock(&m->lock);
    while (!m->met && pthread_cond_timedwait(&m->changed, &m->lock, &until) == 0) {
    }
    const bool met = m->met;
    const int rc = m->rc;
    g->comm = m->comm;
    m->left = true;
    pthread_mutex_unlock(&m->lock);
    if (!met) return err_set(e, ERR_GONE, "cuda: rank %d of %d: the others have not come within %.1f s", g->rank, g->size, g->limit_ms / 1e3);
    meeting_free(m);
    return rc == NCCL_SUCCESS ? 0 : err_set(e, ERR_GONE, "cuda: rank %d of %d: NCCL: %s", g->rank, g->size, g->nccl.error(rc));
}

/* Ends what of NCCL runs on the device; every later call says why. */
int give_up(struct cuda_group *g, struct err *e)
{
    if (g->comm) g->nccl.abort(g->comm);
    g->comm = nullptr;
    g->under_way = false;
    return err_set(e, ERR_GONE, "%s", g->why.msg);
}

int nccl_failed(struct cuda_group *g, int rc, struct err *e)
{
    err_set(&g->why, ERR_GONE, "cuda: rank %d of %d: NCCL: %s: the group is given up", g->rank, g->size, g->nccl.error(rc));
    return give_up(g, e);
}

int async_error(const struct cuda_group *g)
{
    int fault = NCCL_SUCCESS;
    const int rc = g->nccl.async_error(g->comm, &fault);
    if (rc != NCCL_SUCCESS) return rc;
    return fault == NCCL_IN_PROGRESS ? int(NCCL_SUCCESS) : fault;
}

void nap(unsigned turn)
{
    const timespec t = {0, NAP_US * 1000L};
    if (turn > SPINS) nanosleep(&t, nullptr);
}

} // namespace

int cuda_group_id(unsigned char id[DEVICE_GROUP_ID_BYTES], struct err *e)
{
    struct nccl_calls nccl;
    nccl_id made;
    int rc = nccl_open(&nccl, e);
    if (rc) return rc;
    rc = nccl.get_id(&made);
    if (rc != NCCL_SUCCESS) return err_set(e, ERR_INTERNAL, "cuda: NCCL: %s", nccl.error(rc));
    memcpy(id, made.bytes, sizeof made.bytes);
    return 0;
}

int cuda_group_open(struct device *d, const struct device_group *o, struct err *e)
{
    if (!o || o->size == 1) return 0;
    CHECK(o->size > 1 && o->rank >= 0 && o->rank < o->size);
    struct cuda_group *g = d->group = static_cast<struct cuda_group *>(calloc(1, sizeof *g));
    if (!g) return err_set(e, ERR_MEMORY, "cuda: out of memory");
    g->rank = o->rank, g->size = o->size, g->limit_ms = o->limit_ms > 0 ? o->limit_ms : int(DEVICE_GROUP_LIMIT_MS);
    int rc = nccl_open(&g->nccl, e);
    struct meeting *m = rc ? nullptr : meeting_new(&g->nccl, o, d->gpu);
    if (!rc && !m) rc = err_set(e, ERR_MEMORY, "cuda: out of memory");
    return rc ? rc : join(g, m, e);
}

void cuda_group_close(struct device *d)
{
    if (d->group && d->group->comm) d->group->nccl.destroy(d->group->comm);
    free(d->group);
    d->group = nullptr;
}

/* As cuda_wait, for a device in a group. */
int cuda_group_wait(struct device *d, struct err *e)
{
    struct cuda_group *g = d->group;
    const int64_t from_ms = now_ms();
    if (!g->comm) return err_set(e, ERR_GONE, "%s", g->why.msg);
    if (!g->under_way) return cuda_check(d, "step", cudaStreamSynchronize(d->stream), e);
    for (unsigned turn = 0;; turn++) {
        const cudaError_t rc = cudaStreamQuery(d->stream);
        const int fault = async_error(g);
        if (fault != NCCL_SUCCESS) return nccl_failed(g, fault, e);
        if (rc != cudaErrorNotReady) {
            g->under_way = false;
            return cuda_check(d, "step", rc, e);
        }
        if (now_ms() - from_ms >= g->limit_ms) {
            err_set(&g->why, ERR_GONE, "cuda: rank %d of %d: a collective has not ended within %.1f s: the group is given up", g->rank, g->size,
                    g->limit_ms / 1e3);
            return give_up(g, e);
        }
        nap(turn);
    }
}

int cuda_all_reduce(struct device *d, void *x, size_t rows, size_t n, enum dtype dtype, struct err *e)
{
    struct cuda_group *g = d->group;
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_BF16);
    if (!g) return 0;
    if (!g->comm) return err_set(e, ERR_GONE, "%s", g->why.msg);
    const int rc = g->nccl.all_reduce(x, x, rows * n, dtype == DTYPE_F32 ? NCCL_FLOAT32 : NCCL_BFLOAT16, NCCL_SUM, g->comm, d->stream);
    if (rc != NCCL_SUCCESS) return nccl_failed(g, rc, e);
    g->under_way = true;
    if (d->progress) ++*d->progress;
    return 0;
}
