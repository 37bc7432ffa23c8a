/* The media process: one request packet, one reply packet, one at a time, until the socket closes. See media_wire.h.
 * A request that the caller got wrong (no packet of ours) ends the process; a picture that is wrong gets an error. A
 * picture that takes longer than its processor time or its time gets its error from the timer's handler, which then ends
 * the process: nothing inside a decoder can be resumed. A caged process writes no log: how it ended tells. */
#include "engine/media/media_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "base/log.h"
#include "engine/media/decode.h"
#include "engine/media/media_packets.h"
#include "engine/media/media_sandbox.h"
#include "engine/media/tiles.h"

/* Exit codes, besides 0: the socket was closed. */
enum { EXIT_FAILED = 1, EXIT_SLOW = 3 };

/* --- the timers --- */

/* What the handlers send: made before the timers start, since a handler can hardly make anything. */
static struct media_reply_packet cpu_reply, wall_reply;
static volatile sig_atomic_t slow_socket = -1;

static void on_timer(int number)
{
    const struct media_reply_packet *p = number == SIGPROF ? &cpu_reply : &wall_reply;
    if (slow_socket >= 0 && media_packet_send(slow_socket, p, sizeof *p, -1, NULL)) _exit(EXIT_FAILED);
    _exit(EXIT_SLOW);
}

static void timer_set(uint32_t cpu_ms, uint32_t wall_ms)
{
    struct itimerval cpu = {.it_value = {.tv_sec = cpu_ms / 1000, .tv_usec = cpu_ms % 1000 * 1000}};
    struct itimerval wall = {.it_value = {.tv_sec = wall_ms / 1000, .tv_usec = wall_ms % 1000 * 1000}};
    CHECK(setitimer(ITIMER_PROF, &cpu, NULL) == 0 && setitimer(ITIMER_REAL, &wall, NULL) == 0);
}

static void slow_reply(struct media_reply_packet *p, uint64_t id, uint32_t ms, const char *of_what)
{
    memset(p, 0, sizeof *p);
    p->magic = MEDIA_MAGIC;
    p->version = MEDIA_VERSION;
    p->id = id;
    p->code = ERR_LIMIT;
    snprintf(p->msg, sizeof p->msg, "the picture takes more than %g s%s to decode", ms / 1000.0, of_what);
}

static void timer_start(int sock, const struct media_request *q)
{
    slow_reply(&cpu_reply, q->id, q->cpu_ms, " of processor time");
    slow_reply(&wall_reply, q->id, q->wall_ms, "");
    slow_socket = sock;
    timer_set(q->cpu_ms * MEDIA_SLOWNESS, q->wall_ms * MEDIA_SLOWNESS);
}

static void timer_stop(void)
{
    timer_set(0, 0);
    slow_socket = -1;
}

static int timer_prepare(struct err *e)
{
    struct sigaction action = {.sa_handler = on_timer};
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGPROF);
    sigaddset(&both, SIGALRM);
    action.sa_mask = both; /* one error a picture */
    if (sigaction(SIGPROF, &action, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0 && sigprocmask(SIG_UNBLOCK, &both, NULL) == 0)
        return 0;
    return err_set(e, ERR_IO, "timers: %s", strerror(errno));
}

/* --- one request --- */

static int read_request(const struct media_request_packet *p, struct media_request *r, struct err *e)
{
    if (p->magic != MEDIA_MAGIC || p->version != MEDIA_VERSION) return err_set(e, ERR_INPUT, "a packet of another protocol");
    if (p->call != MEDIA_PROBE && p->call != MEDIA_DECODE) return err_set(e, ERR_INPUT, "unknown call %u", p->call);
    if (p->detail_low > 1 || p->split > 1) return err_set(e, ERR_INPUT, "a flag that is neither 0 nor 1");
    if (p->cpu_ms - 1 >= MEDIA_MAX_MS || p->wall_ms - 1 >= MEDIA_MAX_MS) return err_set(e, ERR_INPUT, "a time out of range");
    *r = (struct media_request){.call = (enum media_call)p->call,
                                .id = p->id,
                                .image_fd = -1,
                                .detail_low = p->detail_low == 1,
                                .max_pixels = p->max_pixels,
                                .cpu_ms = p->cpu_ms,
                                .wall_ms = p->wall_ms};
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

int media_answer(const struct media_request *q, struct media_reply *r, struct err *e)
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

/* RLIMIT_CPU is of the process's whole life: who is half through it is replaced between two pictures. */
static bool is_worn(void)
{
    struct timespec used;
    return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0 && used.tv_sec >= MEDIA_CPU_MAX_S / 2;
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
    p.worn = is_worn();
    memcpy(p.hash, r->hash, sizeof p.hash);
    return media_packet_send(sock, &p, sizeof p, r->tiles_fd, e);
}

/* 0: goes on; negative: the socket is of no more use. */
static int serve_one(int sock, media_answer_fn *answer, struct err *e)
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
        timer_start(sock, &q);
        if (answer(&q, &r, &r.err)) r.grid = (struct image_grid){0};
        timer_stop();
        rc = send_reply(sock, &r, e);
    }
    if (r.tiles_fd >= 0) close(r.tiles_fd);
    if (fd >= 0) close(fd);
    malloc_trim(0); /* decoders' scratch goes back to the system: an idle process is a small one */
    return rc;
}

/* --- start --- */

/* What one picture may need: decode.h's 12 bytes a pixel, and for the rest (the program, the file, its tiles) as much as before. */
static int64_t memory_for(int64_t max_pixels)
{
    return 12 * max_pixels + ((int64_t)256 << 20);
}

/* All that a caged process can no longer do: the C library and libsodium open files at their first use. */
static int prepare(int64_t *memory_bytes, struct err *e)
{
    struct media_setup_packet setup;
    int fd, flags = fcntl(MEDIA_SOCKET_FD, F_GETFL);
    if (flags < 0 || fcntl(MEDIA_SOCKET_FD, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return err_set(e, ERR_IO, "descriptor %d is no socket (the gateway starts this process): %s", MEDIA_SOCKET_FD, strerror(errno));
    close_range(MEDIA_SOCKET_FD + 1, ~0u, 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        return err_set(e, ERR_IO, "/dev/null: %s", strerror(errno));
    close(null);
    int rc = media_packet_recv(MEDIA_SOCKET_FD, &setup, sizeof setup, &fd, e);
    if (rc) return rc;
    if (fd >= 0 || setup.magic != MEDIA_MAGIC || setup.version != MEDIA_VERSION || setup.max_pixels < 1 || setup.max_pixels > INT32_MAX)
        return err_set(e, ERR_INPUT, "a setup packet of another protocol");
    *memory_bytes = memory_for(setup.max_pixels);
    if (sodium_init() < 0) return err_set(e, ERR_IO, "libsodium cannot start");
    tzset();
    mallopt(M_MMAP_THRESHOLD, 128 << 10); /* fixed, so that large scratch is always given back */
    return timer_prepare(e);
}

static int say_hello(int rc, const char *notes, struct err *e)
{
    static struct media_hello_packet p; /* static: zeroed, padding included */
    p.magic = MEDIA_MAGIC;
    p.version = MEDIA_VERSION;
    p.code = rc ? (uint32_t)e->code : ERR_NONE;
    snprintf(p.msg, sizeof p.msg, "%s", rc ? e->msg : notes);
    return media_packet_send(MEDIA_SOCKET_FD, &p, sizeof p, -1, e);
}

int media_process(media_answer_fn *answer)
{
    log_setup(log_level(), "media");
    struct err e = {0};
    char notes[sizeof e.msg] = "";
    int64_t memory_bytes = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* at once; the cage asks again */
    int rc = prepare(&memory_bytes, &e);
    if (rc == -ERR_GONE) return 0;
    if (rc) {
        log_error("%s", e.msg);
        return EXIT_FAILED;
    }
    rc = media_sandbox_enter(memory_bytes, notes, sizeof notes, &e);
    if (say_hello(rc, notes, &e) || rc) return EXIT_FAILED;
    do rc = serve_one(MEDIA_SOCKET_FD, answer, &e);
    while (rc == 0);
    return rc == -ERR_GONE ? 0 : EXIT_FAILED;
}

int media_main(void)
{
    return media_process(media_answer);
}
