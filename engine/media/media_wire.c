/* The media socket: packets, sealed memfds, and the caller's side. See media_wire.h. Nothing of the other end is
 * believed: sizes, codes, texts and grids are checked, descriptors must be sealed and of the size that the packet
 * implies. */
#include "engine/media/media_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"
#include "engine/media/media_packets.h"

enum { MAX_FDS = 4 }; /* room for more than one, so that extra ones are seen and closed */

/* --- descriptors --- */

int media_fd_make(size_t n_bytes, struct err *e)
{
    int fd = memfd_create("spillway-media", MEDIA_MEMFD_FLAGS | MEDIA_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("spillway-media", MEDIA_MEMFD_FLAGS);
    if (fd < 0) return err_set(e, ERR_IO, "memfd_create: %s", strerror(errno));
    if (ftruncate(fd, (off_t)n_bytes) == 0) return fd;
    err_set(e, ERR_MEMORY, "memory for %zu bytes: %s", n_bytes, strerror(errno));
    close(fd);
    return -ERR_MEMORY;
}

int media_fd_seal(int fd, struct err *e)
{
    if (fcntl(fd, F_ADD_SEALS, MEDIA_SEALS) == 0) return 0;
    return err_set(e, ERR_IO, "sealing a memfd: %s", strerror(errno));
}

int media_fd_check(int fd, size_t min_bytes, size_t max_bytes, size_t *size, struct err *e)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & MEDIA_SEALS) != MEDIA_SEALS) return err_set(e, ERR_INPUT, "the descriptor is not a sealed memfd");
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0) return err_set(e, ERR_IO, "size of a memfd: %s", strerror(errno));
    *size = (size_t)end;
    if (*size > max_bytes) return err_set(e, ERR_LIMIT, "%zu bytes; the limit is %zu", *size, max_bytes);
    if (*size < min_bytes) return err_set(e, ERR_INPUT, "%zu bytes, at least %zu expected", *size, min_bytes);
    return 0;
}

int media_bytes_fd(const void *p, size_t n, struct err *e)
{
    if (n == 0) return err_set(e, ERR_INPUT, "the picture is empty");
    if (n > MEDIA_MAX_IMAGE_BYTES) return err_set(e, ERR_LIMIT, "a picture of %zu bytes; the limit is %d", n, MEDIA_MAX_IMAGE_BYTES);
    int fd = media_fd_make(0, e);
    if (fd < 0) return fd;
    int rc = 0;
    for (size_t done = 0; !rc && done < n;) {
        ssize_t w = write(fd, (const char *)p + done, n - done);
        if (w > 0)
            done += (size_t)w;
        else if (w == 0 || errno != EINTR)
            rc = err_set(e, ERR_IO, "writing a memfd: %s", strerror(errno));
    }
    if (!rc) rc = media_fd_seal(fd, e);
    if (!rc) return fd;
    close(fd);
    return rc;
}

/* --- packets --- */

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

int media_packet_send(int sock, const void *packet, size_t n, int fd, struct err *e)
{
    union control control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = n};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof fd);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    ssize_t sent;
    do sent = sendmsg(sock, &m, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent == (ssize_t)n) return 0;
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) return err_set(e, ERR_BUSY, "the media socket is full");
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return err_set(e, ERR_GONE, "the other end of the media socket is gone");
    return err_set(e, ERR_IO, "media socket: %s", sent < 0 ? strerror(errno) : "short write");
}

/* Takes the descriptors out of m: the first into *fd, -1 if none. False, with all closed, if there is more than one or
 * some were cut. */
static bool take_fds(struct msghdr *m, int *fd)
{
    int fds[MAX_FDS];
    size_t n_fds = 0;
    *fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n && n_fds < MAX_FDS; i++) memcpy(&fds[n_fds++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
    if (n_fds > 1 || (m->msg_flags & MSG_CTRUNC)) {
        for (size_t i = 0; i < n_fds; i++) close(fds[i]);
        return false;
    }
    if (n_fds) *fd = fds[0];
    return true;
}

int media_packet_recv(int sock, void *packet, size_t n, int *fd, struct err *e)
{
    union control control = {0};
    struct iovec part = {.iov_base = packet, .iov_len = n};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *fd = -1;
    ssize_t got;
    do got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) return err_set(e, ERR_BUSY, "no packet on the media socket");
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return err_set(e, ERR_GONE, "the other end of the media socket is gone");
    if (got < 0) return err_set(e, ERR_IO, "media socket: %s", strerror(errno));
    bool one = take_fds(&m, fd);
    if (one && (size_t)got == n && !(m.msg_flags & MSG_TRUNC)) return 0;
    if (*fd >= 0) close(*fd);
    *fd = -1;
    return err_set(e, ERR_INPUT, "media socket: a malformed packet");
}

/* --- the caller's side --- */

int media_send_setup(int sock, int64_t max_pixels, struct err *e)
{
    struct media_setup_packet packet = {.magic = MEDIA_MAGIC, .version = MEDIA_VERSION, .max_pixels = max_pixels};
    return media_packet_send(sock, &packet, sizeof packet, -1, e);
}

int media_recv_hello(int sock, struct media_hello *h, struct err *e)
{
    *h = (struct media_hello){0};
    struct media_hello_packet p;
    int fd;
    int rc = media_packet_recv(sock, &p, sizeof p, &fd, e);
    if (rc) return rc;
    if (fd >= 0) close(fd);
    size_t n = strnlen(p.msg, sizeof p.msg);
    if (fd >= 0 || p.magic != MEDIA_MAGIC || p.version != MEDIA_VERSION || p.code >= ERR_CODES || n == sizeof p.msg ||
        !utf8_valid(p.msg, n))
        return err_set(e, ERR_INPUT, "media socket: a malformed hello");
    h->err.code = (enum err_code)p.code;
    memcpy(p.code != ERR_NONE ? h->err.msg : h->notes, p.msg, n);
    return 0;
}

int media_send_request(int sock, const struct media_request *r, struct err *e)
{
    const struct image_settings *s = &r->settings;
    struct media_request_packet packet;
    memset(&packet, 0, sizeof packet); /* padding too: it goes to another process */
    packet.magic = MEDIA_MAGIC;
    packet.version = MEDIA_VERSION;
    packet.id = r->id;
    packet.call = r->call;
    packet.detail_low = r->detail_low;
    packet.split = s->split;
    packet.cpu_ms = r->cpu_ms;
    packet.wall_ms = r->wall_ms;
    packet.longest_edge = s->longest_edge;
    packet.tile_px = s->tile_px;
    packet.tokens_per_tile = s->tokens_per_tile;
    packet.resample = s->resample;
    memcpy(packet.mean, s->mean, sizeof packet.mean);
    memcpy(packet.std, s->std, sizeof packet.std);
    packet.rescale = s->rescale;
    packet.max_pixels = r->max_pixels;
    return media_packet_send(sock, &packet, sizeof packet, r->image_fd, e);
}

static bool in_range(int32_t v, int32_t min, int32_t max)
{
    return v >= min && v <= max;
}

/* The grid is one that image_grid_for can make. */
static bool grid_is_sound(const struct media_reply_packet *p)
{
    bool sizes = in_range(p->width, 1, IMAGE_MAX_SIDE) && in_range(p->height, 1, IMAGE_MAX_SIDE) && in_range(p->w1, 1, IMAGE_MAX_SIDE) &&
                 in_range(p->h1, 1, IMAGE_MAX_SIDE) && in_range(p->w2, 1, IMAGE_MAX_SIDE) && in_range(p->h2, 1, IMAGE_MAX_SIDE);
    if (!sizes || !in_range(p->rows, 0, MEDIA_MAX_TILES) || !in_range(p->cols, 0, MEDIA_MAX_TILES)) return false;
    if (p->rows == 0 || p->cols == 0) return p->rows == p->cols && p->n_tiles == 1 && p->w2 == p->h2 && p->w2 <= IMAGE_MAX_TILE_PX;
    int32_t tile = p->w2 / p->cols;
    return p->n_tiles == p->rows * p->cols + 1 && p->n_tiles <= MEDIA_MAX_TILES && in_range(tile, 1, IMAGE_MAX_TILE_PX) &&
           tile * p->cols == p->w2 && tile * p->rows == p->h2;
}

static int read_error(const struct media_reply_packet *p, struct media_reply *r, struct err *e)
{
    size_t n = strnlen(p->msg, sizeof p->msg), n_param = strnlen(p->param, sizeof p->param);
    if (p->code >= ERR_CODES || n == sizeof p->msg || n_param == sizeof p->param || !utf8_valid(p->msg, n) ||
        !utf8_valid(p->param, n_param))
        return err_set(e, ERR_INPUT, "media socket: a malformed error");
    r->err.code = (enum err_code)p->code;
    memcpy(r->err.msg, p->msg, sizeof p->msg);
    memcpy(r->err.param, p->param, sizeof p->param);
    return 0;
}

static int read_reply(const struct media_reply_packet *p, int fd, struct media_reply *r, struct err *e)
{
    if (p->magic != MEDIA_MAGIC || p->version != MEDIA_VERSION || p->has_tiles > 1 || p->worn > 1 || (fd >= 0) != (p->has_tiles == 1))
        return err_set(e, ERR_INPUT, "media socket: a malformed reply");
    r->id = p->id;
    r->worn = p->worn == 1;
    int rc = read_error(p, r, e);
    if (rc) return rc;
    if (p->code != ERR_NONE) return fd < 0 ? 0 : err_set(e, ERR_INPUT, "media socket: an error with tiles");
    if (!grid_is_sound(p)) return err_set(e, ERR_INPUT, "media socket: an impossible tile grid");
    r->grid = (struct image_grid){p->width, p->height, p->w1, p->h1, p->w2, p->h2, p->rows, p->cols, p->n_tiles};
    if (fd < 0) return 0;
    size_t tile = (size_t)(p->cols ? p->w2 / p->cols : p->w2), bytes = (size_t)p->n_tiles * 3 * tile * tile;
    rc = media_fd_check(fd, bytes, bytes, &bytes, e);
    if (rc) {
        err_prefix(e, "tiles of the media process");
        return rc;
    }
    r->n_tiles = p->n_tiles;
    r->tiles_fd = fd;
    memcpy(r->hash, p->hash, sizeof r->hash);
    return 0;
}

int media_recv_reply(int sock, struct media_reply *r, struct err *e)
{
    *r = (struct media_reply){.tiles_fd = -1};
    struct media_reply_packet p;
    int fd;
    int rc = media_packet_recv(sock, &p, sizeof p, &fd, e);
    if (rc) return rc;
    rc = read_reply(&p, fd, r, e);
    if (rc && fd >= 0) close(fd);
    return rc;
}
