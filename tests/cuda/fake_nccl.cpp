/* NCCL as far as kernels/cuda/group.cu uses it, for processes of one machine on the simulated device: a communicator is a piece of shared memory, a sum is
 * made in rank order in float32 and rounded once. As in the real one a collective is work in the stream, which stays there until every rank has come.
 * FAKE_NCCL=hang:RANK: that rank never comes to a collective. FAKE_NCCL=error: each communicator reports an asynchronous error once it has a collective. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda_runtime.h"

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6, FLOAT32 = 7, BFLOAT16 = 9, SUM = 0, MOST_RANKS = 8, MOST_BYTES = 64 << 10 };

/* Two places for each rank: who writes the next one has seen all others finish with the last but one. */
struct slot {
    std::atomic<uint64_t> posted;
    unsigned char data[2][MOST_BYTES];
};
struct shared {
    std::atomic<int> arrived;
    slot ranks[MOST_RANKS];
};

struct comm {
    shared *memory;
    int rank, size;
    uint64_t n; /* collectives begun */
    std::atomic<bool> aborted;
};

struct unique_id {
    char bytes[128];
};

namespace {

float element(const unsigned char *p, size_t i, int type)
{
    uint32_t bits = 0;
    if (type == FLOAT32) std::memcpy(&bits, p + 4 * i, 4);
    else std::memcpy(reinterpret_cast<char *>(&bits) + 2, p + 2 * i, 2);
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

void store(unsigned char *p, size_t i, int type, float f)
{
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (type == FLOAT32) {
        std::memcpy(p + 4 * i, &bits, 4);
        return;
    }
    bits += 0x7fff + (bits >> 16 & 1); /* to nearest, ties to even */
    std::memcpy(p + 2 * i, reinterpret_cast<char *>(&bits) + 2, 2);
}

bool hangs(int rank)
{
    const char *v = std::getenv("FAKE_NCCL");
    return v && !std::strncmp(v, "hang:", 5) && std::atoi(v + 5) == rank;
}

bool all_posted(const comm *c, uint64_t turn)
{
    for (int r = 0; r < c->size; r++)
        if (c->memory->ranks[r].posted < turn) return false;
    return true;
}

void add_up(const comm *c, uint64_t turn, unsigned char *out, size_t n, int type)
{
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (int r = 0; r < c->size; r++) sum += element(c->memory->ranks[r].data[turn % 2], i, type);
        store(out, i, type, sum);
    }
}

} // namespace

extern "C" {

int ncclGetUniqueId(unique_id *out)
{
    static int n = 0;
    *out = {};
    std::snprintf(out->bytes, sizeof out->bytes, "/spillway-fake-nccl-%d-%d", int(getpid()), n++);
    return SUCCESS;
}

int ncclCommInitRank(comm **out, int size, unique_id id, int rank)
{
    *out = nullptr;
    if (size < 1 || size > MOST_RANKS || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    const int fd = shm_open(id.bytes, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(shared))) return SYSTEM_ERROR;
    void *p = mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED) return SYSTEM_ERROR;
    comm *c = new comm{static_cast<shared *>(p), rank, size, 0, {false}};
    c->memory->arrived++;
    while (c->memory->arrived < size) usleep(200);
    shm_unlink(id.bytes);
    *out = c;
    return SUCCESS;
}

int ncclAllReduce(const void *in, void *out, size_t n, int type, int op, comm *c, cudaStream_t s)
{
    const size_t bytes = n * (type == FLOAT32 ? 4 : 2);
    if (op != SUM || (type != FLOAT32 && type != BFLOAT16) || bytes > MOST_BYTES) return INVALID_ARGUMENT;
    const uint64_t turn = ++c->n;
    if (!hangs(c->rank))
        (void)sim::gated_work(s, nullptr, [c, in, turn, bytes] {
            std::memcpy(c->memory->ranks[c->rank].data[turn % 2], in, bytes);
            c->memory->ranks[c->rank].posted = turn;
        });
    (void)sim::gated_work(
        s, [c, turn] { return c->aborted || all_posted(c, turn); },
        [c, turn, out, n, type] {
            if (!c->aborted) add_up(c, turn, static_cast<unsigned char *>(out), n, type);
        });
    return SUCCESS;
}

int ncclCommGetAsyncError(comm *c, int *out)
{
    const char *v = std::getenv("FAKE_NCCL");
    *out = v && !std::strcmp(v, "error") && c->n ? REMOTE_ERROR : SUCCESS;
    return SUCCESS;
}

/* Its work in the stream may still look at it, so it is not freed. */
int ncclCommAbort(comm *c)
{
    c->aborted = true;
    return SUCCESS;
}

int ncclCommDestroy(comm *c)
{
    munmap(c->memory, sizeof *c->memory);
    delete c;
    return SUCCESS;
}

const char *ncclGetErrorString(int rc) { return rc == REMOTE_ERROR ? "remote process exited or there was a network error" : rc ? "error" : "no error"; }

} // extern "C"
