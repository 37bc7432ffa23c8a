/* libfailer.so: preloaded into spillway, it counts memory blocks and system calls and fails the k-th on command.
 *
 * It is steered through a file (SPILLWAY_FAILER names it) that every process of the server maps: one block a role, gateway, worker or media, told
 * apart by the first word of the command line. A test writes there which allocation or call is to fail, and reads there how many blocks and bytes
 * are held: blocks are exact, so one lost block shows. failer.py is the other end, and has the same layout.
 *
 * What it never does: open, allocate or log after its start (the media process is caged by then), change a call that it is not told to fail, or
 * fail a call in a way that the kernel would not. So a socket that was told EAGAIN, or given only a part, is armed again in its epoll: the kernel,
 * too, would tell when there is more to come.
 *
 * free and the aligned allocations are here because blocks are counted; the C library's own entry points do the work. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fault/failer/failer.h"

enum { ROLES = 3, MAX_CALLS = 32, MAX_FDS = 4096 };

/* The order is failer.py's CALLS. */
enum call {
    CALL_READ,
    CALL_WRITE,
    CALL_RECV,
    CALL_SEND,
    CALL_RECVMSG,
    CALL_SENDMSG,
    CALL_ACCEPT,
    CALL_EPOLL_WAIT,
    CALL_EPOLL_CTL,
    CALL_MEMFD,
    CALL_MMAP,
    CALL_FTRUNCATE,
    CALL_FSYNC,
    CALL_FDATASYNC,
    CALL_OPEN,
    CALL_SOCKETPAIR,
    CALL_FORK,
    CALL_EVENTFD,
    CALL_FCNTL_DUP,
    CALL_FSTAT,
    CALL_POLL,
    CALL_PREAD,
    CALL_PWRITE,
    CALL_PIDFD,
    CALL_WAITPID,
};

/* All members 64 bits wide: Python reads them by index. */
struct role {
    _Atomic int64_t pid, starts;
    _Atomic int64_t blocks, bytes;          /* held now */
    _Atomic int64_t allocs;                 /* ever asked for */
    _Atomic int64_t alloc_from, alloc_last; /* those that fail, counted by allocs; from 0: none */
    _Atomic int64_t alloc_failed;
    _Atomic int64_t call;                 /* enum call */
    _Atomic int64_t call_errno;           /* 0: a part only */
    _Atomic int64_t call_from, call_last; /* by calls[call]; from 0: none */
    _Atomic int64_t call_failed;
    _Atomic int64_t trace;     /* say where */
    _Atomic int64_t max_bytes; /* of all that is held; 0: no limit */
    _Atomic int64_t spare;
    _Atomic int64_t calls[MAX_CALLS];
};

static struct role none, *me = &none;
static bool caged; /* a media process: it may ask the kernel for little */
static struct epoll_event armed_event[MAX_FDS];
static _Atomic int armed_in[MAX_FDS]; /* the epoll descriptor + 1 */

/* glibc's own; they are exported for exactly this. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

__attribute__((constructor)) static void attach(void)
{
    static const char *const names[ROLES] = {"serve", "worker", "media"};
    const char *path = getenv("SPILLWAY_FAILER");
    if (!path) return;
    char words[256] = "";
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, words, sizeof words - 1);
    if (fd >= 0) close(fd);
    const char *word = n > 0 ? words + strlen(words) + 1 : "";
    for (int i = 0; i < ROLES; i++) {
        if (strcmp(word, names[i]) != 0) continue;
        fd = open(path, O_RDWR | O_CLOEXEC);
        struct role *all = fd < 0 ? MAP_FAILED : mmap(NULL, ROLES * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0) close(fd);
        if (all == MAP_FAILED) _exit(126);
        void *warm[4];
        (void)backtrace(warm, 4); /* loads what it needs */
        atomic_store(&all[i].blocks, 0);
        atomic_store(&all[i].bytes, 0);
        atomic_store(&all[i].pid, getpid());
        atomic_fetch_add(&all[i].starts, 1);
        caged = i == ROLES - 1;
        me = &all[i];
    }
}

static void say_where(const char *what)
{
    if (!atomic_load(&me->trace)) return;
    void *stack[24];
    int n = backtrace(stack, 24);
    (void)!write(STDERR_FILENO, what, strlen(what));
    backtrace_symbols_fd(stack, n, STDERR_FILENO);
}

static bool within(int64_t n, int64_t from, int64_t last)
{
    return from > 0 && n >= from && n <= last;
}

/* --- memory --- */

static bool alloc_fails(size_t n_bytes)
{
    static _Thread_local bool inside; /* of our own trace */
    int64_t n = atomic_fetch_add_explicit(&me->allocs, 1, memory_order_relaxed) + 1;
    int64_t max = atomic_load_explicit(&me->max_bytes, memory_order_relaxed);
    bool over = max && (n_bytes > INT64_MAX / 2 || atomic_load(&me->bytes) + (int64_t)n_bytes > max);
    if (inside || (!over && !within(n, atomic_load_explicit(&me->alloc_from, memory_order_relaxed), atomic_load(&me->alloc_last))))
        return false;
    atomic_fetch_add(&me->alloc_failed, 1);
    inside = true;
    say_where("failer: allocation fails\n");
    inside = false;
    errno = ENOMEM;
    return true;
}

static void *counted(void *p)
{
    if (!p) return NULL;
    atomic_fetch_add_explicit(&me->blocks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&me->bytes, (int64_t)malloc_usable_size(p), memory_order_relaxed);
    return p;
}

static void uncounted(void *p)
{
    if (!p) return;
    atomic_fetch_sub_explicit(&me->blocks, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&me->bytes, (int64_t)malloc_usable_size(p), memory_order_relaxed);
}

void *malloc(size_t n)
{
    return alloc_fails(n) ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return alloc_fails(n * size) ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (p && n == 0) { /* a free: never fails */
        free(p);
        return NULL;
    }
    if (alloc_fails(n)) return NULL;
    int64_t before = p ? (int64_t)malloc_usable_size(p) : 0;
    void *q = __libc_realloc(p, n);
    if (!q) return NULL;
    if (!p) return counted(q);
    atomic_fetch_add_explicit(&me->bytes, (int64_t)malloc_usable_size(q) - before, memory_order_relaxed);
    return q;
}

void free(void *p)
{
    uncounted(p);
    __libc_free(p);
}

void *memalign(size_t align, size_t n)
{
    return alloc_fails(n) ? NULL : counted(__libc_memalign(align, n));
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = memalign(align, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

/* --- for unit tests --- */

void failer_fail_alloc(int64_t k, bool forever)
{
    atomic_store(&me->alloc_failed, 0);
    int64_t at = atomic_load(&me->allocs) + k;
    atomic_store(&me->alloc_last, forever ? INT64_MAX : at);
    atomic_store(&me->alloc_from, k ? at : 0);
}

int64_t failer_failed(void)
{
    return atomic_load(&me->alloc_failed);
}

int64_t failer_allocs(void)
{
    return atomic_load(&me->allocs);
}

int64_t failer_blocks(void)
{
    return atomic_load(&me->blocks);
}

/* --- system calls --- */

/* What this call is to do: -1 its work, 0 a part of it, else the errno. */
static int verdict(enum call c)
{
    int64_t n = atomic_fetch_add_explicit(&me->calls[c], 1, memory_order_relaxed) + 1;
    if (atomic_load_explicit(&me->call, memory_order_relaxed) != (int64_t)c) return -1;
    if (!within(n, atomic_load(&me->call_from), atomic_load(&me->call_last))) return -1;
    atomic_fetch_add(&me->call_failed, 1);
    say_where("failer: a call fails\n");
    return (int)atomic_load(&me->call_errno);
}

#define REAL(type, name, ...)                                                                                                              \
    static type (*real)(__VA_ARGS__);                                                                                                      \
    if (!real) real = (type(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, name)

#define FAIL_WITH(c)                                                                                                                       \
    int v = verdict(c);                                                                                                                    \
    if (v > 0) {                                                                                                                           \
        errno = v;                                                                                                                         \
        return -1;                                                                                                                         \
    }

static size_t part(int v, size_t n)
{
    return v == 0 && n > 1 ? n / 2 : n;
}

/* The kernel would say when there is more: so it is asked to. */
static void arm_again(int fd)
{
    if (fd < 0 || fd >= MAX_FDS || !atomic_load(&armed_in[fd])) return;
    struct epoll_event e = armed_event[fd];
    int kept = errno;
    static int (*real)(int, int, int, struct epoll_event *);
    if (!real) real = (int (*)(int, int, int, struct epoll_event *))(uintptr_t)dlsym(RTLD_NEXT, "epoll_ctl");
    real(atomic_load(&armed_in[fd]) - 1, EPOLL_CTL_MOD, fd, &e);
    errno = kept;
}

#define FAIL_STREAM(c, fd)                                                                                                                 \
    int v = verdict(c);                                                                                                                    \
    if (v == EAGAIN || v == 0) arm_again(fd);                                                                                              \
    if (v > 0) {                                                                                                                           \
        errno = v;                                                                                                                         \
        return -1;                                                                                                                         \
    }

ssize_t read(int fd, void *p, size_t n)
{
    REAL(ssize_t, "read", int, void *, size_t);
    FAIL_STREAM(CALL_READ, fd);
    return real(fd, p, n == sizeof(uint64_t) ? n : part(v, n)); /* an eventfd is never read in part */
}

ssize_t write(int fd, const void *p, size_t n)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (fd == STDERR_FILENO) return real(fd, p, n);
    bool wakes = n == sizeof(uint64_t); /* an eventfd: nothing but a signal can stop it, for its counter is never full */
    if (wakes && atomic_load(&me->call_errno) != EINTR) return real(fd, p, n);
    FAIL_STREAM(CALL_WRITE, fd);
    return real(fd, p, wakes ? n : part(v, n));
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
    REAL(ssize_t, "recv", int, void *, size_t, int);
    FAIL_STREAM(CALL_RECV, fd);
    return real(fd, p, v == 0 ? 1 : n, flags);
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
    REAL(ssize_t, "send", int, const void *, size_t, int);
    FAIL_STREAM(CALL_SEND, fd);
    return real(fd, p, part(v, n), flags);
}

/* In part only where the kernel may cut: not packets. */
static bool is_stream(int fd)
{
    int type = 0;
    socklen_t n = sizeof type;
    return !caged && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM;
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    REAL(ssize_t, "recvmsg", int, struct msghdr *, int);
    FAIL_STREAM(CALL_RECVMSG, fd);
    if (v == 0 && m->msg_iovlen == 1 && is_stream(fd)) {
        struct iovec one = {.iov_base = m->msg_iov->iov_base, .iov_len = 1}, *all = m->msg_iov;
        m->msg_iov = &one;
        ssize_t got = real(fd, m, flags);
        m->msg_iov = all;
        return got;
    }
    return real(fd, m, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    if (atomic_load(&me->call_errno) == EAGAIN && !is_stream(fd)) return real(fd, m, flags); /* one packet at a time: never full */
    FAIL_STREAM(CALL_SENDMSG, fd);
    if (v == 0 && m->msg_iovlen == 1 && is_stream(fd)) {
        struct iovec some = {.iov_base = m->msg_iov->iov_base, .iov_len = part(0, m->msg_iov->iov_len)};
        struct msghdr less = *m;
        less.msg_iov = &some;
        return real(fd, &less, flags);
    }
    return real(fd, m, flags);
}

int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
    REAL(int, "accept4", int, struct sockaddr *, socklen_t *, int);
    FAIL_WITH(CALL_ACCEPT);
    return real(fd, a, n, flags);
}

int epoll_wait(int ep, struct epoll_event *events, int n, int ms)
{
    REAL(int, "epoll_wait", int, struct epoll_event *, int, int);
    FAIL_WITH(CALL_EPOLL_WAIT);
    return real(ep, events, v == 0 ? 1 : n, ms);
}

int epoll_ctl(int ep, int op, int fd, struct epoll_event *e)
{
    REAL(int, "epoll_ctl", int, int, int, struct epoll_event *);
    if (op != EPOLL_CTL_DEL) {
        FAIL_WITH(CALL_EPOLL_CTL);
    }
    int rc = real(ep, op, fd, e);
    if (rc == 0 && fd >= 0 && fd < MAX_FDS) {
        if (op != EPOLL_CTL_DEL) armed_event[fd] = *e;
        atomic_store(&armed_in[fd], op == EPOLL_CTL_DEL ? 0 : ep + 1);
    }
    return rc;
}

int memfd_create(const char *name, unsigned flags)
{
    REAL(int, "memfd_create", const char *, unsigned);
    FAIL_WITH(CALL_MEMFD);
    return real(name, flags);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
    int v = me == &none ? -1 : verdict(CALL_MMAP);
    if (v > 0) {
        errno = v;
        return MAP_FAILED;
    }
    return real(at, n, prot, flags, fd, offset);
}

int ftruncate(int fd, off_t n)
{
    REAL(int, "ftruncate", int, off_t);
    FAIL_WITH(CALL_FTRUNCATE);
    return real(fd, n);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    FAIL_WITH(CALL_FSYNC);
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    FAIL_WITH(CALL_FDATASYNC);
    return real(fd);
}

static int open_named(const char *name, const char *path, int flags, mode_t mode)
{
    REAL(int, name, const char *, int, mode_t);
    FAIL_WITH(CALL_OPEN);
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_named("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_named("open", path, flags, mode);
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    REAL(int, "socketpair", int, int, int, int *);
    FAIL_WITH(CALL_SOCKETPAIR);
    return real(domain, type, protocol, fds);
}

pid_t fork(void)
{
    REAL(pid_t, "fork", void);
    FAIL_WITH(CALL_FORK);
    return real();
}

int eventfd(unsigned first, int flags)
{
    REAL(int, "eventfd", unsigned, int);
    FAIL_WITH(CALL_EVENTFD);
    return real(first, flags);
}

static int fcntl_named(int fd, int what, void *arg)
{
    REAL(int, "fcntl64", int, int, void *);
    if (what == F_DUPFD || what == F_DUPFD_CLOEXEC) {
        FAIL_WITH(CALL_FCNTL_DUP);
    }
    return real(fd, what, arg);
}

int fcntl(int fd, int what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fcntl_named(fd, what, arg);
}

int fcntl64(int fd, int what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fcntl_named(fd, what, arg);
}

int fstat(int fd, struct stat *st)
{
    REAL(int, "fstat", int, struct stat *);
    FAIL_WITH(CALL_FSTAT);
    return real(fd, st);
}

int poll(struct pollfd *fds, nfds_t n, int ms)
{
    REAL(int, "poll", struct pollfd *, nfds_t, int);
    FAIL_WITH(CALL_POLL);
    return real(fds, n, ms);
}

ssize_t pread64(int fd, void *p, size_t n, off64_t at)
{
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAIL_WITH(CALL_PREAD);
    return real(fd, p, part(v, n), at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    FAIL_WITH(CALL_PWRITE);
    return real(fd, p, part(v, n), at);
}

int pidfd_open(pid_t pid, unsigned flags)
{
    REAL(int, "pidfd_open", pid_t, unsigned);
    FAIL_WITH(CALL_PIDFD);
    return real(pid, flags);
}

pid_t waitpid(pid_t pid, int *status, int flags)
{
    REAL(pid_t, "waitpid", pid_t, int *, int);
    FAIL_WITH(CALL_WAITPID);
    return real(pid, status, flags);
}
