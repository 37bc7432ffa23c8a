/* Frames, both directions: a stream of frames decoded from memory, and the same bytes sent through a socket in pieces, some with descriptors.
 * Both ways must see the same frames up to the same fault, and a frame that was accepted is written again to the very same bytes (so nothing
 * in it was passed over). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/frame_wire.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_FRAMES = 32 };

/* --- the mutator: whole frames are moved about and lengths are put right --- */
static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* Where frames begin, as far as lengths tell; at[count] is the end. */
static size_t find_frames(const uint8_t *p, size_t n, size_t at[MAX_FRAMES + 1])
{
    size_t k = 0, pos = 0;
    while (k < MAX_FRAMES && n - pos >= FRAME_HEADER_BYTES && le32(p + pos) <= n - pos - FRAME_HEADER_BYTES) {
        at[k++] = pos;
        pos += FRAME_HEADER_BYTES + le32(p + pos);
    }
    at[k] = pos;
    return k;
}

/* One field of 1, 2, 4 or 8 bytes gets a value that counts and sizes fear. */
static void odd_field(struct fuzz_random *r, uint8_t *p, size_t n)
{
    static const uint64_t odd[] = {0,          1,          2,          20,         21,         32,         33,
                                   255,        4096,       4097,       65535,      1 << 20,    INT32_MAX,  1u << 31,
                                   UINT32_MAX, UINT64_MAX, 0x7F800000, 0x7FC00000, 0xFF800000, 0x3F800000, 0xBF800000};
    size_t width = (size_t)1 << fuzz_below(r, 4), at;
    if (n < width) return;
    at = fuzz_below(r, (uint32_t)(n - width) + 1);
    uint64_t v = odd[fuzz_below(r, sizeof odd / sizeof *odd)];
    for (size_t i = 0; i < width; i++) p[at + i] = (uint8_t)(v >> (8 * i));
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    struct fuzz_random r = {seed};
    size_t at[MAX_FRAMES + 1], k = find_frames(p, n, at);
    if (k == 0 || fuzz_below(&r, 6) == 0) return LLVMFuzzerMutate(p, n, max);
    size_t i = fuzz_below(&r, (uint32_t)k), start = at[i], end = at[i + 1], body = end - start - FRAME_HEADER_BYTES, tail = n - end;
    uint8_t frame[4096], rest[8192];
    switch (fuzz_below(&r, 5)) {
    case 0: /* a frame once more, at the end */
        if (end - start > max - n) return n;
        memmove(p + n, p + start, end - start);
        return n + end - start;
    case 1: /* a frame less */
        memmove(p + start, p + end, tail);
        return n - (end - start);
    case 2:
        odd_field(&r, p + start + FRAME_HEADER_BYTES, body);
        return n;
    case 3: /* another type or number of descriptors */
        p[start + (fuzz_below(&r, 2) ? 4 : 6)] = (uint8_t)fuzz_below(&r, 9);
        return n;
    default: /* the body changed in length, and the length with it */
        if (body > sizeof frame / 2 || tail > sizeof rest) return n;
        memcpy(frame, p + start + FRAME_HEADER_BYTES, body);
        memcpy(rest, p + end, tail);
        body = LLVMFuzzerMutate(frame, body, sizeof frame);
        if (start + FRAME_HEADER_BYTES + body + tail > max) return n;
        put_le32(p + start, (uint32_t)body);
        memcpy(p + start + FRAME_HEADER_BYTES, frame, body);
        memcpy(p + start + FRAME_HEADER_BYTES + body, rest, tail);
        return start + FRAME_HEADER_BYTES + body + tail;
    }
}

/* --- the target --- */
static int put_again(struct buf *b, const struct frame *f)
{
    switch (f->type) {
    case FRAME_HELLO:
        return frame_put_hello(b, &f->u.hello);
    case FRAME_SUBMIT:
        return frame_put_submit(b, &f->u.submit);
    case FRAME_CANCEL:
        return frame_put_cancel(b, &f->u.cancel);
    case FRAME_STEP:
        return frame_put_step(b, &f->u.step);
    case FRAME_PREDICTION:
        return frame_put_prediction(b, &f->u.prediction);
    case FRAME_FAILED:
        return frame_put_failed(b, &f->u.failed);
    default:
        return frame_put_drain(b);
    }
}

static void check_frame(const struct frame *f, const uint8_t *p, size_t n)
{
    struct buf b;
    buf_init(&b, 4 << 20);
    FUZZ_CHECK(put_again(&b, f) == 0);
    FUZZ_CHECK(b.len == n && memcmp(b.data, p, n) == 0);
    buf_free(&b);
}

/* The frames of the bytes as memory has them: how many, and whether a fault ends them. Descriptors come as if there were enough. */
static size_t decode_memory(const uint8_t *p, size_t n, bool *fault)
{
    static const int fds[FRAME_MAX_FDS];
    size_t at = 0, k = 0;
    struct arena arena;
    arena_init(&arena, 16 << 20);
    *fault = false;
    while (n - at >= FRAME_HEADER_BYTES && !*fault) {
        size_t body = le32(p + at);
        uint32_t type = (uint32_t)p[at + 4] | (uint32_t)p[at + 5] << 8, n_fds = (uint32_t)p[at + 6] | (uint32_t)p[at + 7] << 8;
        struct frame f;
        struct err e = {0};
        *fault = body > FRAME_MAX_BYTES || n_fds > FRAME_MAX_FDS;
        if (*fault || body > n - at - FRAME_HEADER_BYTES) break;
        arena_reset(&arena);
        int rc = frame_decode((enum frame_type)type, p + at + FRAME_HEADER_BYTES, body, fds, n_fds, &arena, &f, &e);
        if (rc) {
            fuzz_check_err(rc, &e);
            *fault = true;
            break;
        }
        check_frame(&f, p + at, FRAME_HEADER_BYTES + body);
        at += FRAME_HEADER_BYTES + body;
        k++;
    }
    arena_free(&arena);
    return k;
}

/* Descriptors go with the first byte of a frame that names some, as frame_conn_flush sends them. */
static void send_piece(int sock, const uint8_t *p, size_t n, uint32_t n_fds, int fd)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FRAME_MAX_FDS)] = {0};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    if (n_fds) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        for (uint32_t i = 0; i < n_fds; i++) memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
    }
    FUZZ_CHECK(sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)n);
}

static void read_all(struct frame_conn *c, const uint8_t *p, size_t n, size_t *at, size_t *k, bool *fault)
{
    struct err e = {0};
    struct frame f;
    int rc = frame_conn_read(c, &e);
    while (!rc && (rc = frame_conn_next(c, &f, &e)) > 0) {
        size_t bytes = FRAME_HEADER_BYTES + le32(p + *at);
        FUZZ_CHECK(bytes <= n - *at);
        if (f.type == FRAME_SUBMIT)
            for (uint32_t i = 0; i < f.u.submit.n_fds; i++) FUZZ_CHECK(close(f.u.submit.fds[i]) == 0);
        check_frame(&f, p + *at, bytes);
        *at += bytes;
        (*k)++;
        rc = 0;
    }
    if (rc < 0) {
        fuzz_check_err(rc, &e);
        *fault = true;
    }
}

/* The same through a socket, cut at places that the bytes themselves choose. */
static size_t decode_socket(const uint8_t *p, size_t n, bool *fault)
{
    static int spare = -1;
    if (spare < 0) spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int sock[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
    struct frame_conn *c;
    FUZZ_CHECK(frame_conn_new(&c, sock[0], 1 << 20, NULL) == 0);
    struct fuzz_random r = {n};
    for (size_t i = 0; i < n && i < 64; i++) r.state = r.state * 31 + p[i];
    size_t sent = 0, next = 0, at = 0, k = 0; /* next: where the next frame begins */
    *fault = false;
    while (sent < n && !*fault) {
        uint32_t n_fds = 0;
        size_t room = n - sent;
        if (sent == next && n - sent >= FRAME_HEADER_BYTES) {
            n_fds = (uint32_t)p[sent + 6] | (uint32_t)p[sent + 7] << 8;
            if (n_fds > FRAME_MAX_FDS) n_fds = 0;
            next += FRAME_HEADER_BYTES + (size_t)le32(p + sent);
        }
        if (room > next - sent && next > sent) room = next - sent; /* descriptors must not come before their frame */
        size_t piece = fuzz_below(&r, 2) ? room : 1 + fuzz_below(&r, (uint32_t)room);
        send_piece(sock[1], p + sent, piece, n_fds, spare);
        sent += piece;
        read_all(c, p, n, &at, &k, fault);
    }
    close(sock[1]);
    frame_conn_free(c);
    return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    bool fault_memory, fault_socket;
    size_t k = decode_memory(p, n, &fault_memory);
    if (n % 4) return 0; /* the socket costs far more: a quarter of the inputs */
    FUZZ_CHECK(decode_socket(p, n, &fault_socket) == k);
    FUZZ_CHECK(fault_memory == fault_socket);
    return 0;
}
