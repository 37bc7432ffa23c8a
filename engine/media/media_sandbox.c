/* The media process's cage: see media_sandbox.h. The list has what decoding, sealed memfds, the socket, timers and
 * malloc need. No file can be opened, no process made, no program run, no socket made, no memory made executable. */
#include "engine/media/media_sandbox.h"

#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static const int allowed_calls[] = {
    SCMP_SYS(read),          SCMP_SYS(write),
    SCMP_SYS(recvmsg),       SCMP_SYS(sendmsg),
    SCMP_SYS(close),         SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),    SCMP_SYS(fcntl),
    SCMP_SYS(memfd_create),  SCMP_SYS(ftruncate),
    SCMP_SYS(munmap),        SCMP_SYS(mremap),
    SCMP_SYS(madvise),       SCMP_SYS(brk),
    SCMP_SYS(futex),         SCMP_SYS(getrandom),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday),
    SCMP_SYS(setitimer),     SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigaction),  SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(getpid),        SCMP_SYS(gettid),
    SCMP_SYS(tgkill),        SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),          SCMP_SYS(exit_group),
};

static int seccomp_enter(struct err *e)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter) return err_set(e, ERR_MEMORY, "seccomp: no memory");
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof allowed_calls / sizeof *allowed_calls; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0); /* the C library tries, and can do without */
    if (!rc) rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc ? err_set(e, ERR_IO, "seccomp: %s", strerror(-rc)) : 0;
}

static int limit(int what, const char *name, rlim_t value, struct err *e)
{
    struct rlimit l = {.rlim_cur = value, .rlim_max = value};
    return setrlimit(what, &l) < 0 ? err_set(e, ERR_IO, "%s: %s", name, strerror(errno)) : 0;
}

int media_sandbox_enter(struct err *e)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_set(e, ERR_IO, "prctl: %s", strerror(errno));
    int rc = limit(RLIMIT_NOFILE, "RLIMIT_NOFILE", 16, e);
    if (!rc) rc = limit(RLIMIT_CORE, "RLIMIT_CORE", 0, e);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)seccomp_enter;
    return rc;
#else
    if (!rc) rc = limit(RLIMIT_AS, "RLIMIT_AS", (rlim_t)1 << 30, e);
    return rc ? rc : seccomp_enter(e);
#endif
}
