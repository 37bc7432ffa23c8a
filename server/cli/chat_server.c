/* chat's private server: our own `serve` on a free loopback port, with a key that only this process knows and a data directory that is removed
 * at the end. It is in a process group of its own, so that Ctrl-C stops an answer and not the server; when this process ends in whatever way
 * the kernel ends the server, too (PR_SET_PDEATHSIG). Its standard error is read here: the address, and its last words if it fails. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/cli/chat_parts.h"
#include "server/cli/env.h"
#include "server/cli/progress.h"

enum { STOP_MS = 3000, MAX_WORDS = 32, MAX_ENV = 4096, PATH_BYTES = 4096 };
#define DATA_NAME "spillway-chat-"

extern char **environ;

/* The child's side of the fork: only async-signal-safe calls. */
static _Noreturn void exec_serve(char *const argv[], char *const env[], pid_t parent, int stderr_fd)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  /* it may be loading, and hear no other; its own children end with it in the same way */
    if (getppid() != parent) _exit(0); /* it ended before we asked */
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(stderr_fd, STDERR_FILENO) < 0) _exit(127);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    close_range(3, ~0u, 0);
    execve("/proc/self/exe", argv, env);
    _exit(127);
}

static int spawn(struct chat_server *s, const char *model, const struct options *o, int stderr_fd, struct err *e)
{
    char threads[24], key[CHAT_KEY_BYTES + 32], *env[MAX_ENV];
    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    snprintf(key, sizeof key, "SPILLWAY_API_KEY=%s", s->key);
    const char *const argv[MAX_WORDS] = {"spillway",    "serve",    "--listen",       "127.0.0.1:0",    "--data",           s->data,
                                         "--log-level", "warn",     "--device",       o->device,        "--threads",        threads,
                                         "--compute",   o->compute, "--quant",        o->quant,         "--quant-head",     o->quant_head,
                                         "--quant-vision", o->quant_vision, "--max-body-bytes", "100MiB", "--", model};
    size_t n = 0;
    for (; environ[n] && n < MAX_ENV - 2; n++) env[n] = environ[n]; /* SPILLWAY_API_KEY is not among them any more */
    env[n++] = key;
    env[n] = NULL;
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) return err_set(e, ERR_IO, "fork: %s", strerror(errno));
    if (pid == 0) exec_serve((char *const *)(uintptr_t)argv, env, parent, stderr_fd);
    explicit_bzero(key, sizeof key);
    s->pid = pid;
    return 0;
}

/* "Ready in 15 ms: http://127.0.0.1:40123/v1 serves demo" */
static bool take_ready(struct chat_server *s, const char *line)
{
    const char *url = str_starts_with(line, "Ready in ") ? strstr(line, "http://") : NULL;
    size_t n = url ? strcspn(url, " \n") : 0;
    if (!url || n >= sizeof s->url) return false;
    memcpy(s->url, url, n);
    s->url[n] = '\0';
    return true;
}

/* Its own words at its end ("spillway: ...") behind an error in its log: before it is ready the first, which is the cause, then the last. */
static void take_last(struct chat_server *s, const char *line)
{
    const char *in_log = strstr(line, " error ["), *text = in_log ? strstr(in_log, "] ") : NULL;
    bool own = str_starts_with(line, "spillway: ");
    if (own) text = line + 8;
    if (!text) return;
    text += 2;
    size_t n = strcspn(text, "\n");
    pthread_mutex_lock(&s->lock);
    size_t at = own ? strlen(s->last) : 0;
    if (own || s->url[0] || !s->last[0]) snprintf(s->last + at, sizeof s->last - at, "%s%.*s", at ? "; " : "", (int)n, text);
    pthread_mutex_unlock(&s->lock);
}

/* One line without waiting beyond the signal; 1, 0 at the end, negative after a signal. */
static int read_line(int fd, char *line, size_t cap, bool stoppable)
{
    size_t n = 0;
    for (;;) {
        struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = chat_stop_fd(), .events = POLLIN}};
        if (poll(p, stoppable ? 2 : 1, -1) < 0 && errno != EINTR) return 0;
        if (stoppable && p[1].revents) return -1;
        if (!p[0].revents) continue;
        char c;
        if (read(fd, &c, 1) != 1) return 0;
        if (n + 1 < cap) line[n++] = c;
        line[n] = '\0';
        if (c == '\n') return 1;
    }
}

static void *read_rest(void *ctx)
{
    struct chat_server *s = ctx;
    char line[1024];
    while (read_line(s->stderr_fd, line, sizeof line, false) > 0) take_last(s, line);
    return NULL;
}

static int wait_ready(struct chat_server *s, struct err *e)
{
    char line[1024];
    int rc;
    while ((rc = read_line(s->stderr_fd, line, sizeof line, true)) > 0) {
        if (take_ready(s, line)) return 0;
        take_last(s, line);
    }
    if (rc < 0) return err_set(e, ERR_GONE, "stopped");
    return err_set(e, ERR_GONE, "%s", s->last[0] ? s->last : "the server ended before it was ready");
}

static int start_reader(struct chat_server *s, struct err *e)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the dialogue's */
    s->reading = pthread_create(&s->reader, NULL, read_rest, s) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return s->reading ? 0 : err_set(e, ERR_IO, "a thread could not be started");
}

static void remove_data(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        char path[PATH_BYTES];
        int n = snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        if (f->d_name[0] != '.' && n > 0 && (size_t)n < sizeof path) unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

/* Of chats that were killed: their process is no more. */
static void remove_left_over(const char *parent)
{
    DIR *d = opendir(parent);
    for (struct dirent *f; d && (f = readdir(d));) {
        char path[PATH_BYTES];
        struct stat st;
        int pid = 0, n = snprintf(path, sizeof path, "%s/%s", parent, f->d_name);
        if (sscanf(f->d_name, DATA_NAME "%d-", &pid) != 1 || pid < 1 || n < 0 || (size_t)n >= sizeof path) continue;
        if (lstat(path, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) continue;
        if (kill(pid, 0) < 0 && errno == ESRCH) remove_data(path);
    }
    if (d) closedir(d);
}

int chat_server_start(struct chat_server *s, const char *model, const struct options *o, struct err *e)
{
    *s = (struct chat_server){.stderr_fd = -1};
    pthread_mutex_init(&s->lock, NULL);
    remove_left_over(env_runtime_dir());
    int n = snprintf(s->data, sizeof s->data, "%s/" DATA_NAME "%d-XXXXXX", env_runtime_dir(), (int)getpid());
    if (n < 0 || (size_t)n >= sizeof s->data || !mkdtemp(s->data)) {
        int rc = err_set(e, ERR_IO, "%s: %s", s->data, strerror(errno));
        s->data[0] = '\0';
        return rc;
    }
    unsigned char bytes[24];
    if (sodium_init() < 0) return err_set(e, ERR_IO, "libsodium cannot start");
    randombytes_buf(bytes, sizeof bytes);
    memcpy(s->key, "sk-chat-", 8);
    sodium_bin2hex(s->key + 8, sizeof s->key - 8, bytes, sizeof bytes);
    int fds[2];
    if (pipe2(fds, O_CLOEXEC)) return err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    s->stderr_fd = fds[0];
    char what[96];
    const char *slash = strrchr(model, '/');
    snprintf(what, sizeof what, "Loading %.50s", slash && slash[1] ? slash + 1 : model);
    struct progress *p = progress_begin(what);
    int rc = spawn(s, model, o, fds[1], e);
    close(fds[1]);
    if (!rc) rc = wait_ready(s, e);
    progress_end(p);
    if (!rc) rc = start_reader(s, e);
    return rc;
}

void chat_server_last(struct chat_server *s, char *out, size_t n)
{
    out[0] = '\0';
    if (!s->pid) return;
    pthread_mutex_lock(&s->lock);
    snprintf(out, n, "%s", s->last);
    pthread_mutex_unlock(&s->lock);
}

void chat_server_stop(struct chat_server *s)
{
    if (s->pid) {
        kill(s->pid, SIGTERM);
        int64_t until_ms = clock_boot_ms() + STOP_MS;
        while (waitpid(s->pid, NULL, WNOHANG) == 0) {
            if (clock_boot_ms() > until_ms) kill(s->pid, SIGKILL);
            poll(NULL, 0, 5);
        }
    }
    if (s->reading) pthread_join(s->reader, NULL);
    if (s->stderr_fd > 0) close(s->stderr_fd);
    if (s->data[0]) remove_data(s->data);
    explicit_bzero(s->key, sizeof s->key);
    s->pid = 0;
    s->reading = false;
    s->stderr_fd = -1;
    s->data[0] = '\0';
}
