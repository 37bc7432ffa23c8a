/* Bad answers: see bad_answer.h. Every act is one line of the table: what it does, and how the gateway should see its end. The tests read
 * the table's names from this file. */
#include "tests/fault/bad_media/bad_answer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine/media/media_packets.h"
#include "engine/media/media_sandbox.h"

/* The system calls as they are, without the C library's wrappers, of which some would do something else first. */
#define CALL(name, ...)                                                                                                                    \
    static bool name##_act(int fd)                                                                                                         \
    {                                                                                                                                      \
        (void)fd;                                                                                                                          \
        syscall(__VA_ARGS__);                                                                                                              \
        return true; /* that it came back at all is the escape: the cage kills */                                                          \
    }

static char path[] = "/etc/passwd", *const argv[] = {path, NULL};
static char scratch[4096];

CALL(fork, SYS_fork)
CALL(vfork, SYS_vfork)
CALL(clone, SYS_clone, SIGCHLD, 0, 0, 0, 0)
CALL(clone3, SYS_clone3, scratch, 88)
CALL(exec, SYS_execve, path, argv, argv)
CALL(execveat, SYS_execveat, AT_FDCWD, path, argv, argv, 0)
CALL(open, SYS_open, path, O_RDONLY)
CALL(openat, SYS_openat, AT_FDCWD, path, O_RDONLY)
CALL(openat2, SYS_openat2, AT_FDCWD, path, scratch, 24)
CALL(creat, SYS_creat, "/x", 0600)
CALL(stat, SYS_stat, path, scratch)
CALL(newfstatat, SYS_newfstatat, AT_FDCWD, path, scratch, 0)
CALL(readlink, SYS_readlink, "/proc/self/exe", scratch, sizeof scratch)
CALL(getcwd, SYS_getcwd, scratch, sizeof scratch)
CALL(unlink, SYS_unlink, "/x")
CALL(socket, SYS_socket, AF_INET, SOCK_STREAM, 0)
CALL(unix_socket, SYS_socket, AF_UNIX, SOCK_STREAM, 0)
CALL(socketpair, SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, scratch)
CALL(connect, SYS_connect, MEDIA_SOCKET_FD, scratch, 16)
CALL(sendto, SYS_sendto, MEDIA_SOCKET_FD, scratch, 1, 0, NULL, 0)
CALL(sendmmsg, SYS_sendmmsg, MEDIA_SOCKET_FD, scratch, 1, 0)
CALL(ptrace, SYS_ptrace, PTRACE_ATTACH, 1, 0, 0)
CALL(traceme, SYS_ptrace, PTRACE_TRACEME, 0, 0, 0)
CALL(vm_readv, SYS_process_vm_readv, 1, scratch, 1, scratch, 1, 0)
CALL(kill, SYS_kill, 1, SIGTERM)
CALL(kill_self, SYS_kill, getpid(), SIGKILL) /* to look as if an operator had done it */
CALL(tgkill_other, SYS_tgkill, 1, 1, SIGABRT)
CALL(tgkill_kill, SYS_tgkill, getpid(), getpid(), SIGKILL)
CALL(pidfd_open, SYS_pidfd_open, 1, 0)
CALL(mmap_exec, SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
CALL(mmap_fixed, SYS_mmap, scratch, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
CALL(mmap_shared_anonymous, SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
CALL(mprotect_exec, SYS_mprotect, (uintptr_t)scratch & ~(uintptr_t)4095, 4096, PROT_READ | PROT_EXEC)
CALL(mremap_fixed, SYS_mremap, scratch, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, scratch)
CALL(madvise_merge, SYS_madvise, scratch, 4096, MADV_MERGEABLE)
CALL(memfd_plain, SYS_memfd_create, "x", 0)
CALL(memfd_secret, SYS_memfd_secret, 0)
CALL(shmget, SYS_shmget, 1, 4096, 0)
CALL(mlock, SYS_mlock, scratch, 4096)
CALL(dup, SYS_dup, MEDIA_SOCKET_FD)
CALL(fcntl_dup, SYS_fcntl, MEDIA_SOCKET_FD, F_DUPFD, 0)
CALL(fcntl_owner, SYS_fcntl, MEDIA_SOCKET_FD, F_SETOWN, 1)
CALL(pipe, SYS_pipe2, scratch, 0)
CALL(eventfd, SYS_eventfd2, 0, 0)
CALL(epoll, SYS_epoll_create1, 0)
CALL(inotify, SYS_inotify_init1, 0)
CALL(ioctl, SYS_ioctl, 2, TIOCSTI, scratch)
CALL(read, SYS_read, 0, scratch, 1)
CALL(pread, SYS_pread64, 2, scratch, 1, 0)
CALL(sendfile, SYS_sendfile, 2, 2, NULL, 1)
CALL(splice, SYS_splice, 2, NULL, 2, NULL, 1, 0)
CALL(prctl, SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)
CALL(setrlimit, SYS_setrlimit, RLIMIT_CORE, scratch)
CALL(prlimit, SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, scratch)
CALL(sigaction, SYS_rt_sigaction, SIGPROF, NULL, scratch, 8)
CALL(itimer_virtual, SYS_setitimer, ITIMER_VIRTUAL, scratch, NULL)
CALL(unshare, SYS_unshare, CLONE_NEWUSER)
CALL(setns, SYS_setns, 2, 0)
CALL(mount, SYS_mount, "none", "/", "tmpfs", 0, NULL)
CALL(chroot, SYS_chroot, "/")
CALL(setuid, SYS_setuid, 0)
CALL(capset, SYS_capset, scratch, scratch)
CALL(io_uring, SYS_io_uring_setup, 1, scratch)
CALL(bpf, SYS_bpf, 0, scratch, 64)
CALL(userfaultfd, SYS_userfaultfd, 0)
CALL(perf, SYS_perf_event_open, scratch, 0, -1, -1, 0)
CALL(keyctl, SYS_keyctl, 0, 0, 0, 0, 0)
CALL(seccomp, SYS_seccomp, 0, 0, NULL)
CALL(module, SYS_init_module, scratch, 1, scratch)
CALL(reboot, SYS_reboot, 0, 0, 0, NULL)
CALL(futex_wait, SYS_futex, scratch, FUTEX_WAIT_PRIVATE, 0, NULL)
CALL(no_such_call, 100000)
CALL(x32, 0x40000000 | SYS_getpid)

static bool thread_act(int fd)
{
    (void)fd;
    return syscall(SYS_clone, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, 0, 0, 0, 0) != 0;
}

/* 32-bit calls have numbers of their own: 20 is getpid there, writev here. */
static bool int80_act(int fd)
{
    (void)fd;
#ifdef __x86_64__
    long n = 20;
    __asm__ volatile("int $0x80" : "+a"(n) : : "memory", "r8", "r9", "r10", "r11");
#else
    raise(SIGSYS);
#endif
    return true;
}

/* --- what is refused without killing: true is an escape --- */

static bool write_picture_act(int fd)
{
    return mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED;
}

static bool shrink_picture_act(int fd)
{
    return ftruncate(fd, 0) == 0;
}

static bool grow_picture_act(int fd)
{
    return ftruncate(fd, 1 << 20) == 0;
}

/* Private and read-only is how a picture is mapped; that must not become a way in either. */
static bool seal_again_act(int fd)
{
    return fcntl(fd, F_ADD_SEALS, MEDIA_SEALS) == 0;
}

static bool write_log_act(int fd)
{
    (void)fd;
    return write(2, "FORGED\n", 7) >= 0;
}

static bool many_files_act(int fd)
{
    (void)fd;
    for (int i = 0; i < MEDIA_MAX_FDS; i++)
        if (media_fd_make(1, NULL) < 0) return false;
    return true;
}

static bool huge_memory_act(int fd)
{
    (void)fd;
    return malloc((size_t)3 << 30) != NULL;
}

/* Piece by piece and touched: to the limit, but not beyond it. */
static bool all_memory_act(int fd)
{
    (void)fd;
    enum { PIECE = 64 << 20 };
    for (int i = 0; i < 64; i++) {
        char *p = malloc(PIECE);
        if (!p) return i > 16; /* 1 GiB */
        p[0] = p[PIECE - 1] = 1;
    }
    return true;
}

static bool huge_brk_act(int fd)
{
    (void)fd;
    return sbrk((intptr_t)2 << 30) != (void *)-1;
}

/* --- ends that need no cage --- */

static bool huge_file_act(int fd) /* SIGXFSZ */
{
    (void)fd;
    return media_fd_make((size_t)1 << 30, NULL) >= 0;
}

static bool null_act(int fd)
{
    (void)fd;
    *(volatile int *)NULL = 1;
    return true;
}

static bool abort_act(int fd)
{
    (void)fd;
    abort();
}

static bool double_free_act(int fd)
{
    (void)fd;
    char *volatile p = malloc(2000), *volatile keep = malloc(16); /* not at the top */
    free(p);
    free(p);
    return keep != NULL;
}

static bool divide_act(int fd)
{
    volatile int zero = fd - fd;
    return 1 / zero > 1;
}

static bool trap_act(int fd)
{
    (void)fd;
    __builtin_trap();
}

static bool stack_act(int fd)
{
    volatile char frame[4096];
    frame[0] = (char)fd;
    return fd > INT32_MAX / 2 || (stack_act(fd + 1) && frame[0]);
}

static bool past_the_file_act(int fd) /* SIGBUS */
{
    volatile char *p = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE, fd, 0);
    return p[(1 << 20) - 1] == 0;
}

static bool exit_0_act(int fd)
{
    (void)fd;
    _exit(0);
}

static bool exit_3_act(int fd) /* what a slow picture's handler ends with, without its reply */
{
    (void)fd;
    _exit(3);
}

/* --- time --- */

static void block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
}

static bool spin_act(int fd)
{
    (void)fd;
    for (volatile unsigned i = 0;; i++) {
    }
    return true;
}

static bool spin_deaf_act(int fd)
{
    block_signals();
    return spin_act(fd);
}

static bool wait_act(int fd) /* for a packet that does not come */
{
    (void)fd;
    struct msghdr m = {0};
    for (;;) recvmsg(MEDIA_SOCKET_FD, &m, MSG_CMSG_CLOEXEC);
    return true;
}

static bool wait_deaf_act(int fd)
{
    block_signals();
    return wait_act(fd);
}

static bool leave_and_spin_act(int fd)
{
    block_signals();
    close(MEDIA_SOCKET_FD);
    return spin_act(fd);
}

/* --- replies that are none --- */

static uint64_t current_id;

static void say(struct media_reply_packet *p, size_t n, int fd)
{
    p->magic = MEDIA_MAGIC;
    p->version = MEDIA_VERSION;
    p->id = current_id;
    if (media_packet_send(MEDIA_SOCKET_FD, p, n, fd, NULL)) _exit(9);
}

static bool wait_after(struct media_reply_packet *p, size_t n, int fd)
{
    say(p, n, fd);
    return wait_act(fd);
}

static struct media_reply_packet grid_of_one(void)
{
    return (struct media_reply_packet){.width = 64, .height = 64, .w1 = 64, .h1 = 64, .w2 = 64, .h2 = 64, .n_tiles = 1};
}

static bool short_reply_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    return wait_after(&p, 40, -1);
}

static bool tiles_of_a_probe_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    int tiles = media_fd_make(3 * 64 * 64, NULL);
    if (tiles < 0 || media_fd_seal(tiles, NULL)) _exit(9);
    p.has_tiles = 1;
    return wait_after(&p, sizeof p, tiles);
}

static bool unsealed_tiles_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    p.has_tiles = 1;
    return wait_after(&p, sizeof p, media_fd_make(3 * 64 * 64, NULL));
}

static bool log_as_tiles_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    p.has_tiles = 1;
    return wait_after(&p, sizeof p, 2);
}

static bool impossible_grid_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    p.rows = p.cols = 1 << 20;
    return wait_after(&p, sizeof p, -1);
}

static bool binary_error_act(int fd)
{
    struct media_reply_packet p = {.code = ERR_INPUT, .msg = "\xff\xfe"};
    (void)fd;
    return wait_after(&p, sizeof p, -1);
}

static bool another_id_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    (void)fd;
    current_id++;
    return wait_after(&p, sizeof p, -1);
}

/* What a process says that has used half of its life's processor time; it ends when its socket is closed. */
static bool worn_act(int fd)
{
    struct media_reply_packet p = grid_of_one();
    struct msghdr m = {0};
    (void)fd;
    p.worn = 1;
    say(&p, sizeof p, -1);
    _exit(recvmsg(MEDIA_SOCKET_FD, &m, MSG_CMSG_CLOEXEC) == 0 ? 0 : 9);
}

/* --- the table --- */

static const struct act {
    const char *name;
    bool (*fn)(int fd); /* true, or an answer of its own: escaped */
    const char *end;    /* "sys": killed by the cage; "fault": another signal or exit; "slow"; "reply": ended by the gateway; "fine" */
} acts[] = {
    /* clang-format off */
    {"fork", fork_act, "sys"}, {"vfork", vfork_act, "sys"}, {"clone", clone_act, "sys"}, {"clone3", clone3_act, "sys"},
    {"thread", thread_act, "sys"}, {"exec", exec_act, "sys"}, {"execveat", execveat_act, "sys"}, {"open", open_act, "sys"},
    {"openat", openat_act, "sys"}, {"openat2", openat2_act, "sys"}, {"creat", creat_act, "sys"}, {"stat", stat_act, "sys"},
    {"newfstatat", newfstatat_act, "sys"}, {"readlink", readlink_act, "sys"}, {"getcwd", getcwd_act, "sys"}, {"unlink", unlink_act, "sys"},
    {"socket", socket_act, "sys"}, {"unix_socket", unix_socket_act, "sys"}, {"socketpair", socketpair_act, "sys"},
    {"connect", connect_act, "sys"}, {"sendto", sendto_act, "sys"}, {"sendmmsg", sendmmsg_act, "sys"}, {"ptrace", ptrace_act, "sys"},
    {"traceme", traceme_act, "sys"}, {"vm_readv", vm_readv_act, "sys"}, {"kill", kill_act, "sys"}, {"kill_self", kill_self_act, "sys"},
    {"tgkill_other", tgkill_other_act, "sys"}, {"tgkill_kill", tgkill_kill_act, "sys"}, {"pidfd_open", pidfd_open_act, "sys"},
    {"mmap_exec", mmap_exec_act, "sys"}, {"mmap_fixed", mmap_fixed_act, "sys"}, {"mmap_shared_anonymous", mmap_shared_anonymous_act, "sys"},
    {"mprotect_exec", mprotect_exec_act, "sys"}, {"mremap_fixed", mremap_fixed_act, "sys"}, {"madvise_merge", madvise_merge_act, "sys"},
    {"memfd_plain", memfd_plain_act, "sys"}, {"memfd_secret", memfd_secret_act, "sys"}, {"shmget", shmget_act, "sys"},
    {"mlock", mlock_act, "sys"}, {"dup", dup_act, "sys"}, {"fcntl_dup", fcntl_dup_act, "sys"}, {"fcntl_owner", fcntl_owner_act, "sys"},
    {"pipe", pipe_act, "sys"}, {"eventfd", eventfd_act, "sys"}, {"epoll", epoll_act, "sys"}, {"inotify", inotify_act, "sys"},
    {"ioctl", ioctl_act, "sys"}, {"read", read_act, "sys"}, {"pread", pread_act, "sys"}, {"sendfile", sendfile_act, "sys"},
    {"splice", splice_act, "sys"}, {"prctl", prctl_act, "sys"}, {"setrlimit", setrlimit_act, "sys"}, {"prlimit", prlimit_act, "sys"},
    {"sigaction", sigaction_act, "sys"}, {"itimer_virtual", itimer_virtual_act, "sys"}, {"unshare", unshare_act, "sys"},
    {"setns", setns_act, "sys"}, {"mount", mount_act, "sys"}, {"chroot", chroot_act, "sys"}, {"setuid", setuid_act, "sys"},
    {"capset", capset_act, "sys"}, {"io_uring", io_uring_act, "sys"}, {"bpf", bpf_act, "sys"}, {"userfaultfd", userfaultfd_act, "sys"},
    {"perf", perf_act, "sys"}, {"keyctl", keyctl_act, "sys"}, {"seccomp", seccomp_act, "sys"}, {"module", module_act, "sys"},
    {"reboot", reboot_act, "sys"}, {"futex_wait", futex_wait_act, "sys"}, {"no_such_call", no_such_call_act, "sys"},
    {"x32", x32_act, "sys"}, {"int80", int80_act, "sys"},
    {"write_picture", write_picture_act, "fault"}, {"shrink_picture", shrink_picture_act, "fault"},
    {"grow_picture", grow_picture_act, "fault"}, {"seal_again", seal_again_act, "fault"}, {"write_log", write_log_act, "fault"},
    {"many_files", many_files_act, "fault"}, {"huge_memory", huge_memory_act, "fault"}, {"all_memory", all_memory_act, "fault"},
    {"huge_brk", huge_brk_act, "fault"}, {"huge_file", huge_file_act, "fault"}, {"null", null_act, "fault"}, {"abort", abort_act, "fault"},
    {"double_free", double_free_act, "fault"}, {"divide", divide_act, "fault"}, {"trap", trap_act, "fault"}, {"stack", stack_act, "fault"},
    {"past_the_file", past_the_file_act, "fault"}, {"exit_0", exit_0_act, "fault"}, {"exit_3", exit_3_act, "fault"},
    {"spin", spin_act, "slow"}, {"spin_deaf", spin_deaf_act, "slow"}, {"wait", wait_act, "slow"}, {"wait_deaf", wait_deaf_act, "slow"},
    {"worn", worn_act, "fine"}, {"leave_and_spin", leave_and_spin_act, "reply"},
    {"short_reply", short_reply_act, "reply"}, {"tiles_of_a_probe", tiles_of_a_probe_act, "reply"},
    {"unsealed_tiles", unsealed_tiles_act, "reply"}, {"log_as_tiles", log_as_tiles_act, "reply"},
    {"impossible_grid", impossible_grid_act, "reply"}, {"binary_error", binary_error_act, "reply"}, {"another_id", another_id_act, "reply"},
    /* clang-format on */
};

static const struct act *act_find(const struct media_request *q, const char *p, size_t n)
{
    const char *mark = q->call == MEDIA_PROBE ? "BAD!probe " : "BAD!decode ", *at = memmem(p, n, mark, strlen(mark));
    if (!at) return NULL;
    at += strlen(mark);
    const char *dot = memchr(at, '.', n - (size_t)(at - p));
    for (size_t i = 0; dot && i < sizeof acts / sizeof *acts; i++)
        if (strlen(acts[i].name) == (size_t)(dot - at) && !memcmp(acts[i].name, at, (size_t)(dot - at))) return &acts[i];
    return NULL;
}

int bad_answer(const struct media_request *q, struct media_reply *r, struct err *e)
{
    size_t n;
    if (media_fd_check(q->image_fd, 1, MEDIA_MAX_IMAGE_BYTES, &n, NULL)) return media_answer(q, r, e);
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, q->image_fd, 0);
    const struct act *act = p == MAP_FAILED ? NULL : act_find(q, p, n);
    if (p != MAP_FAILED) munmap(p, n);
    if (!act) return media_answer(q, r, e);
    current_id = q->id;
    if (act->fn(q->image_fd)) return err_set(e, ERR_INTERNAL, "escaped: %s", act->name);
    null_act(0);
    return 0;
}
