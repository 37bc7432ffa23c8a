/* The system calls of a caged media process, argument by argument. What decoding needs is here: its socket, memory that is never
 * executable, one sealed memfd, timers, and a way to end. Any other call, and any of these with other arguments, kills the process (SIGSYS);
 * calls of another instruction set's numbering (32-bit, x32) do, too. Pointers cannot be judged here: no call that takes a path is allowed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine/media/media_packets.h"
#include "engine/media/media_sandbox.h"

/* An int argument is the register's lower half: what the upper half holds is the compiler's affair. */
#define IS(arg, value) SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, 0xFFFFFFFFu, (uint32_t)(value))
#define NOTHING_BUT(arg, bits) SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, 0xFFFFFFFFu & ~(uint32_t)(bits), 0)

struct rule {
    int call;
    unsigned n_args;
    struct scmp_arg_cmp args[3];
};

static int rules_add(scmp_filter_ctx filter)
{
    const struct rule rules[] = {
        /* the socket, by the two calls of media_wire.c */
        {SCMP_SYS(recvmsg), 2, {IS(0, MEDIA_SOCKET_FD), IS(2, MSG_CMSG_CLOEXEC)}},
        {SCMP_SYS(sendmsg), 2, {IS(0, MEDIA_SOCKET_FD), IS(2, MSG_NOSIGNAL)}},
        /* pictures and tiles: memfds; how many and how large, limits say */
        {SCMP_SYS(memfd_create), 1, {IS(1, MEDIA_MEMFD_FLAGS)}},
        {SCMP_SYS(memfd_create), 1, {IS(1, MEDIA_MEMFD_FLAGS | MEDIA_NOEXEC_SEAL)}},
        {SCMP_SYS(ftruncate), 0, {{0}}},
        {SCMP_SYS(lseek), 1, {IS(2, SEEK_END)}}, /* a memfd's size: fstat is a call with a path today */
        {SCMP_SYS(fcntl), 1, {IS(1, F_GET_SEALS)}},
        {SCMP_SYS(fcntl), 2, {IS(1, F_ADD_SEALS), IS(2, MEDIA_SEALS)}},
        {SCMP_SYS(close), 0, {{0}}},
        /* memory: anonymous, the picture to read, the tiles to write; no mprotect, so what is made stays as it is */
        {SCMP_SYS(mmap), 2, {NOTHING_BUT(2, PROT_READ | PROT_WRITE), IS(3, MAP_PRIVATE | MAP_ANONYMOUS)}},
        {SCMP_SYS(mmap), 2, {IS(2, PROT_READ), IS(3, MAP_PRIVATE)}},
        {SCMP_SYS(mmap), 2, {IS(2, PROT_READ | PROT_WRITE), IS(3, MAP_SHARED)}},
        {SCMP_SYS(munmap), 0, {{0}}},
        {SCMP_SYS(mremap), 1, {IS(3, MREMAP_MAYMOVE)}},
        {SCMP_SYS(madvise), 1, {IS(2, MADV_DONTNEED)}},
        {SCMP_SYS(brk), 0, {{0}}},
        /* the C library's: once-functions, random bytes, clocks where the kernel has no page for them */
        {SCMP_SYS(futex), 1, {IS(1, FUTEX_WAKE_PRIVATE)}},
        {SCMP_SYS(getrandom), 0, {{0}}},
        {SCMP_SYS(clock_gettime), 0, {{0}}},
        {SCMP_SYS(gettimeofday), 0, {{0}}},
        /* timers and their handler; handlers can no longer be changed */
        {SCMP_SYS(setitimer), 1, {IS(0, ITIMER_REAL)}},
        {SCMP_SYS(setitimer), 1, {IS(0, ITIMER_PROF)}},
        {SCMP_SYS(rt_sigreturn), 0, {{0}}},
        {SCMP_SYS(restart_syscall), 0, {{0}}},
        /* abort(), of itself only, and the ends */
        {SCMP_SYS(rt_sigprocmask), 0, {{0}}},
        {SCMP_SYS(getpid), 0, {{0}}},
        {SCMP_SYS(gettid), 0, {{0}}},
        {SCMP_SYS(tgkill), 2, {IS(0, getpid()), IS(2, SIGABRT)}},
        {SCMP_SYS(exit), 0, {{0}}},
        {SCMP_SYS(exit_group), 0, {{0}}},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof rules / sizeof *rules; i++)
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rules[i].call, rules[i].n_args, rules[i].args);
    /* Nothing more is written to the log, which hostile bytes could forge or flood; refused and not killed, so that a failed CHECK still
     * ends by abort(), which names itself to the gateway. */
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(write), 0);
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(writev), 0);
    return rc;
}

int media_seccomp_enter(struct err *e)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter) return err_set(e, ERR_IO, "seccomp, which pictures are not decoded without: the kernel lacks or refuses it");
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (!rc) rc = rules_add(filter);
    if (!rc) rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc ? err_set(e, ERR_IO, "seccomp, which pictures are not decoded without: %s", strerror(-rc)) : 0;
}
