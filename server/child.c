/* Child: see child.h. Between fork and exec only async-signal-safe calls: other threads may have held any lock. */
#include "server/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

enum { FIRST_FD = 3, PARK_FD = 64, MAX_WORDS = 80 };

static _Noreturn void child_exec(char *const argv[], const int *fds, int n_fds)
{
    int parked[CHILD_MAX_FDS];
    for (int i = 0; i < n_fds; i++) { /* out of the way of each other's places first */
        parked[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, PARK_FD);
        if (parked[i] < 0) _exit(127);
    }
    for (int i = 0; i < n_fds; i++)
        if (dup2(parked[i], FIRST_FD + i) < 0) _exit(127);
    syscall(SYS_close_range, (unsigned)(FIRST_FD + n_fds), ~0u, 0u);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGHUP, SIG_IGN); /* `pkill -HUP spillway` means the gateway; exec keeps this */
    execv("/proc/self/exe", argv);
    _exit(127);
}

static void child_ended(void *ctx, uint32_t events)
{
    (void)events;
    struct child *c = ctx;
    int status = 0;
    if (waitpid(c->pid, &status, WNOHANG) != c->pid) return;
    loop_watch_remove(c->loop, c->watch);
    close(c->pidfd);
    c->watch = NULL;
    c->pid = 0;
    c->exited(c->ctx, status);
}

/* The child logs as we do; its words are borrowed. */
static void add_log_options(char *words[MAX_WORDS], char *const argv[])
{
    const char *const mine[] = {"--log-level", log_level_name(log_level()), "--log-format", log_format_name(log_format())};
    size_t n = 0;
    for (; n < 2; n++) words[n] = argv[n];
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) words[n++] = (char *)(uintptr_t)mine[i];
    for (size_t i = 2; argv[i]; i++) {
        CHECK(n + 1 < MAX_WORDS);
        words[n++] = argv[i];
    }
    words[n] = NULL;
}

int child_start(struct child *c, struct loop *l, char *const argv[], const int *fds, int n_fds, void (*exited)(void *ctx, int status),
                void *ctx, struct err *e)
{
    CHECK(n_fds <= CHILD_MAX_FDS);
    *c = (struct child){.loop = l, .pidfd = -1, .exited = exited, .ctx = ctx};
    char *words[MAX_WORDS];
    add_log_options(words, argv);
    pid_t pid = fork();
    if (pid < 0) return err_set(e, ERR_IO, "starting '%s': %s", argv[1], strerror(errno));
    if (pid == 0) child_exec(words, fds, n_fds);
    c->pid = pid;
    c->pidfd = pidfd_open(pid, 0);
    int rc = c->pidfd < 0 ? err_set(e, ERR_IO, "watching '%s': %s", argv[1], strerror(errno)) : 0;
    if (!rc) rc = loop_watch_add(l, c->pidfd, EPOLLIN, child_ended, c, &c->watch, e);
    if (rc) child_close(c);
    return rc;
}

void child_kill(struct child *c)
{
    if (c->pid) kill(c->pid, SIGKILL);
}

void child_close(struct child *c)
{
    if (!c->pid) return;
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) {
    }
    if (c->watch) loop_watch_remove(c->loop, c->watch);
    if (c->pidfd >= 0) close(c->pidfd);
    *c = (struct child){.pidfd = -1};
}
