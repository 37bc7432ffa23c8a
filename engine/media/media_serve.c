/* The media process: one request packet, one reply packet, one at a time, until the socket closes. See media_wire.h.
 * A request that the caller got wrong (no packet of ours) ends the process; a picture that is wrong gets an error. A
 * picture that takes longer than MAX_CPU_S gets its error from the timer's handler, which then ends the process:
 * nothing inside a decoder can be resumed. */
#include "engine/media/media_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "base/log.h"
#include "engine/media/decode.h"
#include "engine/media/media_packets.h"
#include "engine/media/media_sandbox.h"
#include "engine/media/tiles.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWNESS = 20 }; /* of a sanitizer build */
#else
enum { SLOWNESS = 1 };
#endif
enum { SOCKET_FD = 3, MAX_CPU_S = 2 * SLOWNESS, MAX_WALL_S = 15 * SLOWNESS, EXIT_SLOW = 3 };

/* --- the timer --- */

/* What the handler sends: made before the timer starts, since a handler can hardly make anything. */
static struct media_reply_packet slow_reply;
static volatile sig_atomic_t slow_socket = -1;

static void on_timer(int number)
{
    (void)number;
    if (slow_socket >= 0 && media_packet_send(slow_socket, &slow_reply, sizeof slow_reply, -1, NULL)) _exit(EXIT_SLOW + 1);
    _exit(EXIT_SLOW);
}

static void timer_set(int cpu_s, int wall_s)
{
    struct itimerval cpu = {.it_value.tv_sec = cpu_s}, wall = {.it_value.tv_sec = wall_s};
    CHECK(setitimer(ITIMER_PROF, &cpu, NULL) == 0 && setitimer(ITIMER_REAL, &wall, NULL) == 0);
}

static void timer_start(int sock, uint64_t id)
{
    slow_reply.id = id;
    slow_socket = sock;
    timer_set(MAX_CPU_S, MAX_WALL_S);
}

static void timer_stop(void)
{
    timer_set(0, 0);
    slow_socket = -1;
}

static void timer_prepare(void)
{
    memset(&slow_reply, 0, sizeof slow_reply);
    slow_reply.magic = MEDIA_MAGIC;
    slow_reply.version = MEDIA_VERSION;
    slow_reply.code = ERR_LIMIT;
    snprintf(slow_reply.msg, sizeof slow_reply.msg, "the picture takes more than %d s of processor time to decode", MAX_CPU_S);
    struct sigaction action = {.sa_handler = on_timer};
    CHECK(sigaction(SIGPROF, &action, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
}

/* --- one request --- */

static int read_request(const struct media_request_packet *p, struct media_request *r, struct err *e)
{
    if (p->magic != MEDIA_MAGIC || p->version != MEDIA_VERSION) return err_set(e, ERR_INPUT, "a packet of another protocol");
    if (p->call != MEDIA_PROBE && p->call != MEDIA_DECODE) return err_set(e, ERR_INPUT, "unknown call %u", p->call);
    if (p->detail_low > 1 || p->split > 1) return err_set(e, ERR_INPUT, "a flag that is neither 0 nor 1");
    *r = (struct media_request){
        .call = (enum media_call)p->call, .id = p->id, .image_fd = -1, .detail_low = p->detail_low == 1, .max_pixels = p->max_pixels};
    struct image_settings *s = &r->settings;
    s->longest_edge = p->longest_edge;
    s->tile_px = p->tile_px;
    s->tokens_per_tile = p->tokens_per_tile;
    s->split = p->split == 1;
    s->resample = p->resample;
    memcpy(s->mean, p->mean, sizeof s->mean);
    memcpy(s->std, p->std, sizeof s->std);
    s->rescale = p->rescale;
    return image_settings_check(s, e);
}

static void hash_tiles(const uint8_t *tiles, size_t n_tiles, size_t tile_bytes, uint8_t hash[][MEDIA_HASH_BYTES])
{
    for (size_t i = 0; i < n_tiles; i++)
        CHECK(crypto_generichash(hash[i], MEDIA_HASH_BYTES, tiles + i * tile_bytes, tile_bytes, NULL, 0) == 0);
}

/* Decodes straight into the memfd that will be sent. On success r->tiles_fd is open. */
static int decode_tiles(const struct media_request *q, const uint8_t *p, size_t n, struct media_reply *r, struct err *e)
{
    size_t bytes = tiles_bytes(&q->settings, &r->grid);
    if (bytes > MEDIA_MAX_TILE_BYTES) return err_set(e, ERR_LIMIT, "tiles of %zu bytes; the limit is %d", bytes, MEDIA_MAX_TILE_BYTES);
    struct pixels pixels;
    int rc = image_decode(p, n, q->max_pixels, &pixels, e);
    if (rc) return rc;
    int fd = media_fd_make(bytes, e);
    void *tiles = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (tiles == MAP_FAILED) {
        pixels_free(&pixels);
        if (fd < 0) return fd;
        close(fd);
        return err_set(e, ERR_MEMORY, "no memory for %zu bytes of tiles", bytes);
    }
    rc = tiles_make(&q->settings, &r->grid, &pixels, tiles, e);
    if (!rc) hash_tiles(tiles, (size_t)r->grid.n_tiles, bytes / (size_t)r->grid.n_tiles, r->hash);
    munmap(tiles, bytes); /* a seal against writing asks for no writable mapping */
    if (!rc) rc = media_fd_seal(fd, e);
    if (rc) {
        close(fd);
        return rc;
    }
    r->tiles_fd = fd;
    r->n_tiles = r->grid.n_tiles;
    return 0;
}

static int answer(const struct media_request *q, struct media_reply *r, struct err *e)
{
    size_t n;
    int rc = media_fd_check(q->image_fd, 1, MEDIA_MAX_IMAGE_BYTES, &n, e);
    if (rc) return err_prefix(e, "picture");
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, q->image_fd, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_MEMORY, "no memory for a picture of %zu bytes", n);
    struct image_info info;
    rc = image_probe(p, n, q->max_pixels, &info, e);
    if (!rc) rc = image_grid_for(&q->settings, info.width, info.height, q->detail_low, &r->grid, e);
    if (!rc && q->call == MEDIA_DECODE) rc = decode_tiles(q, p, n, r, e);
    munmap(p, n);
    return rc;
}

static int send_reply(int sock, const struct media_reply *r, struct err *e)
{
    static struct media_reply_packet p; /* static: 3 KB, zeroed once, padding included */
    const struct image_grid *g = &r->grid;
    memset(&p, 0, sizeof p);
    p.magic = MEDIA_MAGIC;
    p.version = MEDIA_VERSION;
    p.id = r->id;
    p.code = r->err.code;
    memcpy(p.param, r->err.param, sizeof p.param);
    memcpy(p.msg, r->err.msg, sizeof p.msg);
    p.width = g->width;
    p.height = g->height;
    p.w1 = g->w1;
    p.h1 = g->h1;
    p.w2 = g->w2;
    p.h2 = g->h2;
    p.rows = g->rows;
    p.cols = g->cols;
    p.n_tiles = g->n_tiles;
    p.has_tiles = r->tiles_fd >= 0;
    memcpy(p.hash, r->hash, sizeof p.hash);
    return media_packet_send(sock, &p, sizeof p, r->tiles_fd, e);
}

/* 0: goes on; negative: the socket is of no more use. */
static int serve_one(int sock, struct err *e)
{
    struct media_request_packet packet;
    struct media_request q;
    int fd;
    int rc = media_packet_recv(sock, &packet, sizeof packet, &fd, e);
    if (rc) return rc;
    rc = read_request(&packet, &q, e);
    if (!rc && fd < 0) rc = err_set(e, ERR_INPUT, "a request without a descriptor");
    struct media_reply r = {.id = packet.id, .tiles_fd = -1};
    if (!rc) {
        q.image_fd = fd;
        timer_start(sock, q.id);
        if (answer(&q, &r, &r.err)) r.grid = (struct image_grid){0};
        timer_stop();
        rc = send_reply(sock, &r, e);
    }
    if (r.tiles_fd >= 0) close(r.tiles_fd);
    if (fd >= 0) close(fd);
    malloc_trim(0); /* decoders' scratch goes back to the system: an idle process is a small one */
    return rc;
}

int media_serve(int sock)
{
    int flags = fcntl(sock, F_GETFL);
    if (flags < 0 || fcntl(sock, F_SETFL, flags & ~O_NONBLOCK) < 0 || sodium_init() < 0) {
        log_error("media: socket %d: %s", sock, strerror(errno));
        return 1;
    }
    timer_prepare();
    struct err e = {0};
    int rc;
    do rc = serve_one(sock, &e);
    while (rc == 0);
    if (rc == -ERR_GONE) return 0;
    log_error("media: %s", e.msg);
    return 1;
}

int media_main(int argc, char **argv)
{
    if (argc > 1) {
        fprintf(stderr,
                "spillway media: unexpected argument \"%s\"; the gateway starts this process, with its socket as "
                "descriptor %d\n",
                argv[1], SOCKET_FD);
        return 2;
    }
    log_setup(LOG_INFO, "media");
    struct err e = {0};
    CHECK(sodium_init() >= 0);            /* opens the system's random source, which the cage forbids */
    tzset();                              /* reads a file too, at the first line logged */
    mallopt(M_MMAP_THRESHOLD, 128 << 10); /* fixed, so that large scratch is always given back */
    close_range(SOCKET_FD + 1, ~0u, 0);
    if (media_sandbox_enter(&e)) {
        log_error("%s", e.msg);
        return 1;
    }
    return media_serve(SOCKET_FD);
}
