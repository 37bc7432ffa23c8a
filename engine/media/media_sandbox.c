/* The media process's cage: see media_sandbox.h. A step that the kernel may refuse (a container without namespaces, a user that is not
 * root) is noted and left out; nothing here depends on an earlier one. What must work is an error: limits, no-new-privileges and the list of
 * system calls. */
#include "engine/media/media_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/media/media_packets.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
enum { NOBODY = 65534 }; /* the user and group that own nothing, by convention; it need not be in /etc/passwd */

struct notes {
    char *text;
    size_t size;
};

/* Notes what has just failed, with errno's reason. */
static void note(struct notes *n, const char *what)
{
    size_t used = strlen(n->text);
    snprintf(n->text + used, n->size - used, "%s%s: %s", used ? ", " : "", what, strerror(errno));
}

/* --- limits --- */

static int limits_set(int64_t memory_bytes, struct err *e)
{
    const struct {
        const char *name;
        int what;
        rlim_t value;
        bool sanitized; /* also under a sanitizer */
    } rows[] = {
        {"RLIMIT_CORE", RLIMIT_CORE, 0, true},
        {"RLIMIT_NOFILE", RLIMIT_NOFILE, SANITIZED ? 16 : MEDIA_MAX_FDS, true},
        {"RLIMIT_AS", RLIMIT_AS, (rlim_t)memory_bytes, false},
        {"RLIMIT_FSIZE", RLIMIT_FSIZE, MEDIA_MAX_TILE_BYTES, false}, /* of a memfd, too */
        {"RLIMIT_NPROC", RLIMIT_NPROC, 0, false},
        {"RLIMIT_STACK", RLIMIT_STACK, 1 << 20, false},
        {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK, 0, false},
        {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE, 0, false},
        {"RLIMIT_CPU", RLIMIT_CPU, MEDIA_CPU_MAX_S, false}, /* SIGXCPU, and SIGKILL where that is blocked */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (SANITIZED && !rows[i].sanitized) continue;
        struct rlimit l = {.rlim_cur = rows[i].value, .rlim_max = rows[i].value + (rows[i].what == RLIMIT_CPU ? 5 : 0)}, now;
        if (getrlimit(rows[i].what, &now) == 0 && now.rlim_max < l.rlim_max) { /* a stricter one stays */
            l.rlim_max = now.rlim_max;
            if (l.rlim_cur > l.rlim_max) l.rlim_cur = l.rlim_max;
        }
        if (setrlimit(rows[i].what, &l) < 0) return err_set(e, ERR_IO, "%s: %s", rows[i].name, strerror(errno));
    }
    return 0;
}

/* --- namespaces --- */

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

/* A user who is not root is root in a namespace of his own, with the right to make the others. */
static bool user_namespace(void)
{
    char uid[32], gid[32];
    snprintf(uid, sizeof uid, "0 %u 1\n", geteuid());
    snprintf(gid, sizeof gid, "0 %u 1\n", getegid());
    return unshare(CLONE_NEWUSER) == 0 && write_file("/proc/self/setgroups", "deny") && write_file("/proc/self/uid_map", uid) &&
           write_file("/proc/self/gid_map", gid);
}

/* Makes an empty, read-only file system the root and lets all others go. In a mount namespace of our own. */
static bool empty_root(void)
{
    static const char at[] = "/proc"; /* a directory that is surely there; its own contents do not matter */
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", at, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k,nr_inodes=1,mode=555") == 0 &&
           chdir(at) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
}

/* Without a mount namespace: a directory in which there is nothing but our own descriptors' descriptions, and soon not even these, since
 * a process that may not be dumped may not read it. */
static bool fdinfo_root(void)
{
    return chroot("/proc/self/fdinfo") == 0 && chdir("/") == 0;
}

static void namespaces_enter(bool root, struct notes *n)
{
    static const struct {
        const char *name;
        int flag;
    } rows[] = {{"network namespace", CLONE_NEWNET}, {"IPC namespace", CLONE_NEWIPC}, {"host name namespace", CLONE_NEWUTS}};
    if (!root && !user_namespace()) {
        note(n, "user namespace");
        return;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (unshare(rows[i].flag) < 0) note(n, rows[i].name);
    bool mounts = unshare(CLONE_NEWNS) == 0;
    if (!mounts) note(n, "mount namespace");
    if (mounts && empty_root()) return;
    if (mounts) note(n, "empty root");
    if (!fdinfo_root()) note(n, "chroot");
}

/* --- privileges --- */

/* root: the machine's or a container's, not that of a namespace of our own. The bounding set and the securebits need a capability of their
 * own, so they come before the user's change; without it there is nothing to drop that no-new-privileges does not already withhold. */
static void privileges_drop(bool root, struct notes *n)
{
    for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                                 SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (root && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
        note(n, "user nobody");
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capset, &header, none) < 0) note(n, "capabilities");
}

int media_sandbox_enter(int64_t memory_bytes, char *notes, size_t n_notes, struct err *e)
{
    struct notes n = {.text = notes, .size = n_notes};
    notes[0] = '\0';
    int rc = limits_set(memory_bytes, e);
    if (rc) return rc;
    if (!SANITIZED) {
        bool root = geteuid() == 0;
        namespaces_enter(root, &n);
        privileges_drop(root, &n);
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) note(&n, "not dumpable");
    }
    /* after the user's change, which clears the signal */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_set(e, ERR_IO, "prctl: %s", strerror(errno));
    return SANITIZED ? 0 : media_seccomp_enter(e);
}
