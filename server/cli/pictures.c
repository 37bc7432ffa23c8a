/* Pictures: see pictures.h. */
#include "server/cli/pictures.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"

enum { MAX_PIXELS = 64000000, MEDIA_FD = 3, MAX_CPU_MS = 2000, MAX_WALL_MS = 15000 };

/* Child's side of the fork: only async-signal-safe calls. */
_Noreturn static void exec_media(int sock)
{
    char *const argv[] = {(char[]){"spillway"}, (char[]){"media"}, NULL};
    if (sock != MEDIA_FD && dup2(sock, MEDIA_FD) < 0) _exit(127); /* dup2 clears close-on-exec */
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* notes: of the process's hello; may be NULL. */
static int media_start(struct pictures *p, char *notes, size_t n, struct err *e)
{
    int s[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s)) return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    if (s[1] == MEDIA_FD) { /* dup2 onto itself would keep close-on-exec */
        int other = dup(s[1]);
        close(s[1]);
        s[1] = other;
    }
    pid_t pid = s[1] < 0 ? -1 : fork();
    if (pid == 0) exec_media(s[1]);
    if (s[1] >= 0) close(s[1]);
    if (pid < 0) {
        close(s[0]);
        return err_set(e, ERR_IO, "fork: %s", strerror(errno));
    }
    p->pid = pid;
    p->sock = s[0];
    struct timeval most = {.tv_sec =
                               (MAX_WALL_MS * MEDIA_SLOWNESS) / 1000 + 1}; /* a decoder keeps its time itself; one that does not is left */
    setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    struct media_hello hello;
    int rc = media_send_setup(p->sock, MAX_PIXELS, e);
    if (!rc) rc = media_recv_hello(p->sock, &hello, e);
    if (!rc && notes) snprintf(notes, n, "%s", hello.notes);
    if (rc || !hello.err.code) return rc;
    *e = hello.err;
    return err_prefix(e, "picture decoder");
}

static int decode_file(struct pictures *p, const char *file, const struct image_settings *settings, bool detail_low, struct err *e)
{
    struct buf bytes;
    buf_init(&bytes, MEDIA_MAX_IMAGE_BYTES);
    int rc = buf_read_file(&bytes, file, e);
    int fd = rc ? -1 : media_bytes_fd(bytes.data, bytes.len, e);
    buf_free(&bytes);
    if (rc) return rc;
    if (fd < 0) return fd;
    struct media_request r = {.call = MEDIA_DECODE,
                              .id = p->n + 1,
                              .image_fd = fd,
                              .settings = *settings,
                              .detail_low = detail_low,
                              .max_pixels = MAX_PIXELS,
                              .cpu_ms = MAX_CPU_MS,
                              .wall_ms = MAX_WALL_MS};
    rc = media_send_request(p->sock, &r, e);
    close(fd);
    struct media_reply *reply = &p->replies[p->n];
    if (!rc) rc = media_recv_reply(p->sock, reply, e);
    if (rc == -ERR_GONE) return err_set(e, ERR_INPUT, "%s: the picture cannot be decoded: its decoder failed", file);
    if (rc == -ERR_BUSY) return err_set(e, ERR_LIMIT, "%s: the picture takes too long to decode", file);
    if (rc) return rc;
    if (reply->err.code) {
        *e = reply->err;
        return err_prefix(e, "%s", file);
    }
    p->grids[p->n++] = reply->grid;
    return 0;
}

int pictures_decode(struct pictures *p, const char *const *files, size_t n, const struct image_settings *settings, bool detail_low,
                    struct err *e)
{
    *p = (struct pictures){.sock = -1};
    if (n == 0) return 0;
    p->replies = calloc(n, sizeof *p->replies);
    p->grids = calloc(n, sizeof *p->grids);
    int rc = p->replies && p->grids ? media_start(p, NULL, 0, e) : err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) rc = decode_file(p, files[i], settings, detail_low, e);
    if (rc) pictures_close(p);
    return rc;
}

int pictures_try_cage(char *notes, size_t n, struct err *e)
{
    struct pictures p = {.sock = -1};
    int rc = media_start(&p, notes, n, e);
    pictures_close(&p);
    return rc;
}

void pictures_close(struct pictures *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->replies[i].tiles_fd >= 0) close(p->replies[i].tiles_fd);
    free(p->replies);
    free(p->grids);
    if (p->pid) {
        close(p->sock);
        kill(p->pid, SIGKILL); /* it may be one that does not end by itself */
        waitpid(p->pid, NULL, 0);
    }
    *p = (struct pictures){.sock = -1};
}

size_t pictures_tiles(const struct pictures *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) n += (size_t)p->replies[i].n_tiles;
    return n;
}
