/* Frame connection: a non-blocking stream socket with a bounded queue out, a buffer in, and descriptors that ride with
 * frames.
 *
 * Out: frames are encoded at the end of `out`; descriptors wait in `rides` with the offset of the first byte of their
 * frame, and go out with the sendmsg that carries this byte. In: the kernel hands descriptors over with the bytes they
 * were sent with and never later, so they are kept in one first-in-first-out list; a whole frame takes as many as its
 * header says. A peer that sends too few, or some that no frame claims, is malformed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/frame.h"
#include "engine/frame_wire.h"

enum {
    IN_MAX_BYTES = FRAME_HEADER_BYTES + FRAME_MAX_BYTES,
    IN_MAX_FDS = 2 * FRAME_MAX_FDS, /* one frame's, and those of the next whose first bytes came along */
    FIRST_BYTES = 1 << 16,          /* of either buffer, from the start: frames of the usual size never wait for memory */
    READ_CALL_BYTES = 1 << 18,      /* one frame_conn_read takes no more, so that one peer cannot keep us for good */
    DECODED_MAX_BYTES = 16 << 20    /* a frame of 1 MiB as structs; FRAME_MAX_ROWS keeps it below this */
};

struct ride {
    struct ride *next;
    size_t at; /* offset in `out` of the frame's first byte */
    uint32_t n;
    int fds[FRAME_MAX_FDS];
};

struct frame_conn {
    int sock;
    struct buf out;
    size_t out_scanned; /* offset of a frame's first byte in `out`, at or before its last frame */
    struct ride *rides, **rides_end;
    struct buf in;
    size_t in_at; /* first byte of `in` not yet taken */
    int in_fds[IN_MAX_FDS];
    uint32_t n_in_fds;
    int frame_fds[FRAME_MAX_FDS]; /* of the frame handed out last */
    struct arena arena;           /* of the frame handed out last */
};

int frame_conn_new(struct frame_conn **out, int sock, size_t max_queue_bytes, struct err *e)
{
    *out = NULL;
    int flags = fcntl(sock, F_GETFL);
    if (flags < 0 || fcntl(sock, F_SETFL, flags | O_NONBLOCK) < 0) return err_set(e, ERR_IO, "frame socket: %s", strerror(errno));
    struct frame_conn *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    c->sock = sock;
    c->rides_end = &c->rides;
    buf_init(&c->out, max_queue_bytes);
    buf_init(&c->in, IN_MAX_BYTES);
    arena_init(&c->arena, DECODED_MAX_BYTES);
    size_t n_out = max_queue_bytes < FIRST_BYTES ? max_queue_bytes : FIRST_BYTES;
    if (buf_reserve(&c->out, n_out) || buf_reserve(&c->in, FIRST_BYTES) || !arena_alloc(&c->arena, FIRST_BYTES / 2)) {
        c->sock = -1; /* the caller's */
        frame_conn_free(c);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    *out = c;
    return 0;
}

static void close_all(const int *fds, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) close(fds[i]);
}

static void ride_drop_first(struct frame_conn *c)
{
    struct ride *r = c->rides;
    c->rides = r->next;
    if (!c->rides) c->rides_end = &c->rides;
    close_all(r->fds, r->n);
    free(r);
}

void frame_conn_free(struct frame_conn *c)
{
    if (!c) return;
    while (c->rides) ride_drop_first(c);
    close_all(c->in_fds, c->n_in_fds);
    if (c->sock >= 0) close(c->sock);
    buf_free(&c->out);
    buf_free(&c->in);
    arena_free(&c->arena);
    free(c);
}

int frame_conn_fd(const struct frame_conn *c)
{
    return c->sock;
}

struct buf *frame_conn_out(struct frame_conn *c)
{
    return &c->out;
}

static uint32_t get_u32(const char *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint16_t get_u16(const char *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static int dup_all(struct ride *r, const int *fds, uint32_t n)
{
    for (r->n = 0; r->n < n; r->n++) {
        r->fds[r->n] = fcntl(fds[r->n], F_DUPFD_CLOEXEC, 3);
        if (r->fds[r->n] < 0) return -1;
    }
    return 0;
}

int frame_conn_attach(struct frame_conn *c, const int *fds, uint32_t n_fds, struct err *e)
{
    CHECK(c->out.len >= c->out_scanned + FRAME_HEADER_BYTES); /* a frame was put just before */
    size_t last = c->out_scanned;
    for (;;) {
        size_t next = last + FRAME_HEADER_BYTES + get_u32(c->out.data + last);
        if (next >= c->out.len) break;
        last = next;
    }
    c->out_scanned = last;
    CHECK(get_u16(c->out.data + last + 6) == n_fds && n_fds <= FRAME_MAX_FDS);
    if (n_fds == 0) return 0;
    struct ride *r = calloc(1, sizeof *r);
    if (!r || dup_all(r, fds, n_fds)) {
        int rc = r ? err_set(e, ERR_IO, "descriptors of a frame: %s", strerror(errno)) : err_set(e, ERR_MEMORY, "out of memory");
        if (r) close_all(r->fds, r->n);
        free(r);
        c->out.len = last; /* the frame cannot go without them: taken back */
        c->out.data[last] = '\0';
        return rc;
    }
    r->at = last;
    *c->rides_end = r;
    c->rides_end = &r->next;
    return 0;
}

/* One sendmsg: bytes up to the next frame with descriptors, or the first bytes of such a frame with them. Returns the
 * bytes sent, 0 if the socket is full, negative if it is gone. */
static ssize_t send_some(struct frame_conn *c, size_t from)
{
    struct ride *r = c->rides;
    struct iovec iov = {.iov_base = c->out.data + from, .iov_len = c->out.len - from};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FRAME_MAX_FDS)];
    if (r && r->at > from) iov.iov_len = r->at - from;
    if (r && r->at == from) {
        memset(control, 0, sizeof control);
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * r->n);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int) * r->n);
        memcpy(CMSG_DATA(h), r->fds, sizeof(int) * r->n);
        iov.iov_len = FRAME_HEADER_BYTES;
    }
    ssize_t n;
    do n = sendmsg(c->sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -1;
    if (r && r->at == from && n > 0) ride_drop_first(c);
    return n;
}

int frame_conn_flush(struct frame_conn *c, struct err *e)
{
    size_t sent = 0;
    int rc = 0;
    while (sent < c->out.len) {
        ssize_t n = send_some(c, sent);
        if (n < 0) rc = err_set(e, ERR_GONE, "frame socket: %s", strerror(errno));
        if (n <= 0) break;
        sent += (size_t)n;
    }
    /* out_scanned must stay the first byte of a frame: when its frame goes out in part, it moves on to the next one. */
    while (c->out_scanned < sent) c->out_scanned += FRAME_HEADER_BYTES + get_u32(c->out.data + c->out_scanned);
    c->out_scanned -= sent;
    for (struct ride *r = c->rides; r; r = r->next) r->at -= sent;
    if (sent) buf_consume(&c->out, sent);
    if (rc) return rc;
    return c->out.len > 0;
}

/* Takes the descriptors out of a received message; those beyond the bound are closed. Returns false if any was lost. */
static bool take_fds(struct frame_conn *c, struct msghdr *m)
{
    bool ok = !(m->msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
            if (c->n_in_fds < IN_MAX_FDS) {
                c->in_fds[c->n_in_fds++] = fd;
            } else {
                close(fd);
                ok = false;
            }
        }
    }
    return ok;
}

int frame_conn_read(struct frame_conn *c, struct err *e)
{
    buf_consume(&c->in, c->in_at); /* what was handed out before is over */
    c->in_at = 0;
    for (size_t total = 0; total < READ_CALL_BYTES && c->in.len < IN_MAX_BYTES;) {
        size_t want = IN_MAX_BYTES - c->in.len;
        if (want > FIRST_BYTES) want = FIRST_BYTES;
        if (buf_reserve(&c->in, want)) { /* what fits will do */
            c->in.failed = 0;
            want = c->in.cap - 1 - c->in.len;
            if (want == 0) return err_set(e, ERR_MEMORY, "out of memory");
        }
        struct iovec iov = {.iov_base = c->in.data + c->in.len, .iov_len = want};
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FRAME_MAX_FDS)];
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(c->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        if (n < 0) return err_set(e, ERR_GONE, "frame socket: %s", strerror(errno));
        uint32_t fds_before = c->n_in_fds;
        if (!take_fds(c, &m)) return err_set(e, ERR_INPUT, "frame socket: more descriptors than frames may carry");
        if (n == 0) return total ? 0 : err_set(e, ERR_GONE, "frame socket: closed by the other end");
        c->in.len += (size_t)n;
        c->in.data[c->in.len] = '\0';
        total += (size_t)n;
        if (c->n_in_fds > fds_before) return 0; /* the frame takes them first, so that IN_MAX_FDS is enough */
    }
    return 0;
}

int frame_conn_next(struct frame_conn *c, struct frame *f, struct err *e)
{
    arena_reset(&c->arena);
    size_t have = c->in.len - c->in_at;
    if (have == 0 && c->n_in_fds) return err_set(e, ERR_INPUT, "frame socket: %u descriptors belong to no frame", c->n_in_fds);
    if (have < FRAME_HEADER_BYTES) return 0;
    const char *header = c->in.data + c->in_at;
    size_t body = get_u32(header);
    uint32_t n_fds = get_u16(header + 6);
    if (body > FRAME_MAX_BYTES) return err_set(e, ERR_INPUT, "frame of %zu bytes, the limit is %d", body, FRAME_MAX_BYTES);
    if (n_fds > FRAME_MAX_FDS) return err_set(e, ERR_INPUT, "frame with %u descriptors, the limit is %d", n_fds, FRAME_MAX_FDS);
    if (have - FRAME_HEADER_BYTES < body) return 0;
    if (n_fds > c->n_in_fds) return err_set(e, ERR_INPUT, "frame says %u descriptors, %u came", n_fds, c->n_in_fds);
    int rc = frame_decode((enum frame_type)get_u16(header + 4), (const uint8_t *)header + FRAME_HEADER_BYTES, body, c->in_fds, n_fds,
                          &c->arena, f, e);
    if (rc) return rc; /* in_fds still owns all descriptors: frame_conn_free closes them */
    memcpy(c->frame_fds, c->in_fds, n_fds * sizeof(int));
    memmove(c->in_fds, c->in_fds + n_fds, (c->n_in_fds - n_fds) * sizeof(int));
    c->n_in_fds -= n_fds;
    if (f->type == FRAME_SUBMIT) f->u.submit.fds = c->frame_fds;
    c->in_at += FRAME_HEADER_BYTES + body;
    return 1;
}
