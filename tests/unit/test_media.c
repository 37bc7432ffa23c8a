/* The media process over its socket, really forked and caged: tiles equal to those made here, errors for what is wrong,
 * hostile packets from either end, size at rest, and its death with the socket. */
#include "tests/unit/golden.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "engine/media/decode.h"
#include "engine/media/media_packets.h"
#include "engine/media/media_wire.h"
#include "engine/media/tiles.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { UNDER_ASAN = 1 };
#else
enum { UNDER_ASAN = 0 };
#endif

static const struct image_settings settings = {.longest_edge = 256,
                                               .tile_px = 64,
                                               .tokens_per_tile = 4,
                                               .split = true,
                                               .resample = 1,
                                               .mean = {0.5f, 0.5f, 0.5f},
                                               .std = {0.5f, 0.5f, 0.5f},
                                               .rescale = 1.0 / 255};

struct process {
    pid_t pid;
    int sock;
};

static struct process start(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int sock = dup(pair[1]); /* out of the way, if pair[0] is 3 */
        dup2(sock, 3);
        _exit(media_main());
    }
    close(pair[1]);
    struct media_hello hello;
    struct err e = {0};
    if (media_send_setup(pair[0], 1 << 26, &e) || media_recv_hello(pair[0], &hello, &e)) fail_msg("%s", e.msg);
    if (hello.err.code) fail_msg("%s", hello.err.msg);
    return (struct process){.pid = pid, .sock = pair[0]};
}

/* Closes the socket; the process's wait status. */
static int stop(struct process *p)
{
    int status;
    close(p->sock);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    return status;
}

static void assert_clean_end(struct process *p)
{
    int status = stop(p);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("the process ended with status %#x", (unsigned)status);
}

static struct media_reply call(const struct process *p, enum media_call what, int fd, const struct image_settings *s, int64_t max_pixels)
{
    static uint64_t id = 1000;
    struct media_request q = {
        .call = what, .id = ++id, .image_fd = fd, .settings = *s, .max_pixels = max_pixels, .cpu_ms = 2000, .wall_ms = 15000};
    struct media_reply r;
    struct err e = {0};
    if (media_send_request(p->sock, &q, &e) || media_recv_reply(p->sock, &r, &e)) fail_msg("%s", e.msg);
    assert_true(r.id == id);
    return r;
}

static int fd_of(const char *name)
{
    struct buf bytes;
    struct err e = {0};
    golden_file(&bytes, name);
    int fd = media_bytes_fd(bytes.data, bytes.len, &e);
    if (fd < 0) fail_msg("%s", e.msg);
    buf_free(&bytes);
    return fd;
}

static void check_tiles(const struct media_reply *r, const char *name)
{
    struct buf bytes;
    struct pixels pixels;
    struct image_grid g;
    golden_file(&bytes, name);
    assert_int_equal(image_decode((uint8_t *)bytes.data, bytes.len, 1 << 26, &pixels, NULL), 0);
    assert_int_equal(image_grid_for(&settings, pixels.width, pixels.height, false, &g, NULL), 0);
    assert_memory_equal(&g, &r->grid, sizeof g);
    assert_int_equal(r->n_tiles, g.n_tiles);
    size_t n = tiles_bytes(&settings, &g), tile = n / (size_t)g.n_tiles;
    uint8_t *want = malloc(n), *found = mmap(NULL, n, PROT_READ, MAP_PRIVATE, r->tiles_fd, 0);
    assert_true(found != MAP_FAILED);
    assert_int_equal(tiles_make(&settings, &g, &pixels, want, NULL), 0);
    assert_memory_equal(found, want, n);
    for (int i = 0; i < g.n_tiles; i++) {
        uint8_t hash[MEDIA_HASH_BYTES];
        crypto_generichash(hash, sizeof hash, want + (size_t)i * tile, tile, NULL, 0);
        assert_memory_equal(hash, r->hash[i], sizeof hash);
    }
    assert_int_equal(fcntl(r->tiles_fd, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
    munmap(found, n);
    free(want);
    buf_free(&bytes);
}

static void test_decode_gives_sealed_tiles_and_their_hashes(void **state)
{
    (void)state;
    static const char *const names[] = {"images/jpg_640x480.jpg", "images/rgba_120x90.png", "images/exif6_60x36.jpg",
                                        "images/gif_50x40.gif", "images/webp_lossless_50x40.webp"};
    struct process p = start();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int fd = fd_of(names[i]);
        struct media_reply probed = call(&p, MEDIA_PROBE, fd, &settings, 1 << 26);
        assert_int_equal(probed.err.code, ERR_NONE);
        assert_int_equal(probed.tiles_fd, -1);
        struct media_reply r = call(&p, MEDIA_DECODE, fd, &settings, 1 << 26);
        if (r.err.code) fail_msg("%s: %s", names[i], r.err.msg);
        assert_memory_equal(&probed.grid, &r.grid, sizeof r.grid);
        check_tiles(&r, names[i]);
        close(r.tiles_fd);
        close(fd);
    }
    assert_clean_end(&p);
}

static void test_wrong_pictures_get_errors_and_the_process_goes_on(void **state)
{
    (void)state;
    struct process p = start();
    int bad = fd_of("images/bad_trunc.jpg"), good = fd_of("images/rgb_64x64.png"), unsealed = memfd_create("x", 0);
    assert_int_equal(ftruncate(unsealed, 100), 0);
    struct image_settings strange = settings;
    for (int i = 0; i < 3; i++) {
        struct media_reply r = call(&p, MEDIA_DECODE, bad, &settings, 1 << 26);
        assert_int_equal(r.err.code, ERR_INPUT);
        assert_non_null(strstr(r.err.msg, "JPEG"));
        assert_int_equal(call(&p, MEDIA_PROBE, good, &settings, 4095).err.code, ERR_LIMIT);
        assert_int_equal(call(&p, MEDIA_DECODE, good, &settings, 4095).err.code, ERR_LIMIT);
        assert_int_equal(call(&p, MEDIA_PROBE, unsealed, &settings, 1 << 26).err.code, ERR_INPUT);
        assert_int_equal(call(&p, MEDIA_PROBE, good, &settings, 4096).err.code, ERR_NONE);
        strange.tile_px = 8; /* 1025 tiles */
        assert_int_equal(call(&p, MEDIA_DECODE, good, &strange, 4096).err.code, ERR_LIMIT);
    }
    close(bad);
    close(good);
    close(unsealed);
    assert_clean_end(&p);
}

static void test_no_picture_or_too_large_a_one_makes_no_descriptor(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(media_bytes_fd("", 0, &e), -ERR_INPUT);
    void *p = calloc(1, MEDIA_MAX_IMAGE_BYTES + 1);
    assert_int_equal(media_bytes_fd(p, MEDIA_MAX_IMAGE_BYTES + 1, &e), -ERR_LIMIT);
    int fd = media_bytes_fd(p, MEDIA_MAX_IMAGE_BYTES, &e);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), -1);
    assert_int_equal(ftruncate(fd, 1), -1);
    close(fd);
    free(p);
}

/* --- the process under hostile packets --- */

static void good_packet(struct media_request_packet *p)
{
    memset(p, 0, sizeof *p);
    p->magic = MEDIA_MAGIC;
    p->version = MEDIA_VERSION;
    p->call = MEDIA_PROBE;
    p->split = 1;
    p->cpu_ms = p->wall_ms = 1000;
    p->longest_edge = 256;
    p->tile_px = 64;
    p->tokens_per_tile = 4;
    p->resample = 1;
    for (int c = 0; c < 3; c++) p->mean[c] = p->std[c] = 0.5f;
    p->rescale = 1.0 / 255;
    p->max_pixels = 1 << 20;
}

static void test_packets_that_are_not_ours_end_the_process(void **state)
{
    (void)state;
    int fd = fd_of("images/rgb_64x64.png");
    for (int i = 0; i < 11; i++) {
        struct media_request_packet packet;
        good_packet(&packet);
        size_t n = sizeof packet;
        if (i == 0) packet.magic++;
        if (i == 1) packet.version++;
        if (i == 2) packet.call = 77;
        if (i == 3) packet.split = 2;
        if (i == 4) packet.tile_px = -64;
        if (i == 5) packet.std[1] = 0;
        if (i == 6) n--;
        if (i == 7) packet.resample = 1000000;
        if (i == 9) packet.cpu_ms = 0;
        if (i == 10) packet.wall_ms = MEDIA_MAX_MS + 1;
        struct process p = start();
        assert_int_equal(media_packet_send(p.sock, &packet, n, i == 8 ? -1 : fd, NULL), 0);
        struct media_reply r;
        struct err e = {0};
        int rc = media_recv_reply(p.sock, &r, &e);
        if (rc != -ERR_GONE) fail_msg("packet %d: %d %s", i, rc, e.msg);
        int status = stop(&p);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
    close(fd);
}

/* --- the caller under hostile replies --- */

static void good_reply(struct media_reply_packet *p)
{
    memset(p, 0, sizeof *p);
    p->magic = MEDIA_MAGIC;
    p->version = MEDIA_VERSION;
    p->width = p->w1 = p->w2 = 128;
    p->height = p->h1 = p->h2 = 64;
    p->rows = 1;
    p->cols = 2;
    p->n_tiles = 3;
    p->has_tiles = 1;
}

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int receive(const struct media_reply_packet *packet, size_t n, int fd)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(media_packet_send(pair[0], packet, n, fd, NULL), 0);
    struct media_reply r;
    int rc = media_recv_reply(pair[1], &r, NULL);
    if (!rc && r.tiles_fd >= 0) close(r.tiles_fd);
    close(pair[0]);
    close(pair[1]);
    return rc;
}

static void test_hostile_replies_are_refused_and_leave_nothing_open(void **state)
{
    (void)state;
    enum { BYTES = 3 * 3 * 64 * 64 };
    int fd = media_fd_make(BYTES, NULL), small = media_fd_make(BYTES - 1, NULL), unsealed = media_fd_make(BYTES, NULL);
    assert_int_equal(media_fd_seal(fd, NULL), 0);
    assert_int_equal(media_fd_seal(small, NULL), 0);
    struct media_reply_packet p;
    good_reply(&p);
    int before = open_fds();
    assert_int_equal(receive(&p, sizeof p, fd), 0);
    assert_int_equal(receive(&p, sizeof p, small), -ERR_INPUT);
    assert_int_equal(receive(&p, sizeof p, unsealed), -ERR_INPUT);
    assert_int_equal(receive(&p, sizeof p, -1), -ERR_INPUT);
    assert_int_equal(receive(&p, sizeof p - 1, fd), -ERR_INPUT);
    for (int i = 0; i < 13; i++) {
        good_reply(&p);
        if (i == 0) p.magic = 0;
        if (i == 1) p.n_tiles = 2;
        if (i == 2) p.rows = -1;
        if (i == 3) p.rows = INT32_MAX;
        if (i == 4) p.cols = 0;
        if (i == 5) p.w2 = 127;
        if (i == 6) p.h2 = 128;
        if (i == 7) p.width = 0;
        if (i == 8) p.has_tiles = 2;
        if (i == 9) p.has_tiles = 0;
        if (i == 10) p.code = ERR_INPUT; /* an error with tiles */
        if (i == 11) p.code = ERR_CODES;
        if (i == 12) memset(p.msg, 'x', sizeof p.msg);
        if (receive(&p, sizeof p, fd) != -ERR_INPUT) fail_msg("reply %d was taken", i);
    }
    assert_int_equal(open_fds(), before);
    close(fd);
    close(small);
    close(unsealed);
}

static void test_extra_descriptors_are_refused_and_closed(void **state)
{
    (void)state;
    int pair[2], before = open_fds();
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    for (size_t n_fds = 2; n_fds <= 8; n_fds += 3) {
        struct media_reply_packet p;
        good_reply(&p);
        struct iovec part = {.iov_base = &p, .iov_len = sizeof p};
        struct msghdr m = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(n_fds * sizeof(int))};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
        for (size_t i = 0; i < n_fds; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), &(int){1}, sizeof(int));
        assert_int_equal(sendmsg(pair[0], &m, 0), sizeof p);
        struct media_reply r;
        assert_int_equal(media_recv_reply(pair[1], &r, NULL), -ERR_INPUT);
    }
    assert_int_equal(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
    struct media_reply r;
    assert_int_equal(media_recv_reply(pair[1], &r, NULL), -ERR_BUSY);
    close(pair[0]);
    assert_int_equal(media_recv_reply(pair[1], &r, NULL), -ERR_GONE);
    close(pair[1]);
    assert_int_equal(open_fds(), before);
}

/* --- size and cage --- */

static long status_kib(pid_t pid, const char *key)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) kib = atol(line + strlen(key));
    fclose(f);
    return kib;
}

static void test_the_process_does_not_grow(void **state)
{
    (void)state;
    struct image_settings hub = settings;
    hub.longest_edge = 2048;
    hub.tile_px = 512;
    struct process p = start();
    int fds[] = {fd_of("images/jpg_2048x1536.jpg"), fd_of("images/rgb_301x203.png"), fd_of("images/gif_50x40.gif")};
    int rounds = UNDER_ASAN ? 2 : 8;
    long early = 0;
    for (int i = 0; i < 3 * rounds; i++) {
        struct media_reply r = call(&p, MEDIA_DECODE, fds[i % 3], &hub, 1 << 26);
        assert_int_equal(r.err.code, ERR_NONE);
        close(r.tiles_fd);
        if (i == 2) early = status_kib(p.pid, "VmRSS:");
    }
    struct media_reply r = call(&p, MEDIA_PROBE, fds[2], &hub, 1 << 26); /* answered only after the last one was tidied up */
    assert_int_equal(r.err.code, ERR_NONE);
    long late = status_kib(p.pid, "VmRSS:");
    print_message("    resident after 3 pictures %ld KiB, after %d %ld KiB, peak %ld KiB\n", early, 3 * rounds, late,
                  status_kib(p.pid, "VmHWM:"));
    if (!UNDER_ASAN) {
        assert_true(late < 15 * 1024);
        assert_true(late < early + 1024);
    }
    for (int i = 0; i < 3; i++) close(fds[i]);
    assert_clean_end(&p);
}

static void test_the_process_is_caged(void **state)
{
    (void)state;
    if (UNDER_ASAN) skip(); /* the sanitizer needs what the cage forbids */
    struct process p = start();
    int fd = fd_of("images/rgb_64x64.png");
    assert_int_equal(call(&p, MEDIA_PROBE, fd, &settings, 1 << 20).err.code, ERR_NONE);
    assert_int_equal(status_kib(p.pid, "Seccomp:"), 2);
    assert_int_equal(status_kib(p.pid, "NoNewPrivs:"), 1);
    close(fd);
    assert_clean_end(&p);
}

/* The timer's signal in the middle of a picture: its error comes before the process ends. The signal may fall before or
 * after the work, so it is tried until it does not. */
static void test_a_picture_that_takes_too_long_gets_an_error(void **state)
{
    (void)state;
    struct image_settings hub = settings;
    hub.longest_edge = 2048;
    hub.tile_px = 512;
    int fd = fd_of("images/jpg_2048x1536.jpg");
    bool seen = false;
    for (int i = 0; i < 50 && !seen; i++) {
        struct process p = start();
        assert_int_equal(call(&p, MEDIA_PROBE, fd, &hub, 1 << 26).err.code, ERR_NONE);
        struct media_request q = {
            .call = MEDIA_DECODE, .id = 5, .image_fd = fd, .settings = hub, .max_pixels = 1 << 26, .cpu_ms = 2000, .wall_ms = 15000};
        struct media_reply r;
        assert_int_equal(media_send_request(p.sock, &q, NULL), 0);
        usleep(2000 * (unsigned)(1 + i % 8));
        assert_int_equal(kill(p.pid, SIGPROF), 0);
        int rc = media_recv_reply(p.sock, &r, NULL);
        if (!rc && r.err.code == ERR_LIMIT) {
            assert_int_equal(r.id, 5);
            assert_non_null(strstr(r.err.msg, "processor time"));
            assert_int_equal(media_recv_reply(p.sock, &r, NULL), -ERR_GONE);
            seen = true;
        } else if (!rc) {
            close(r.tiles_fd);
        }
        int status = stop(&p);
        if (seen) assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    }
    close(fd);
    assert_true(seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_gives_sealed_tiles_and_their_hashes),
        cmocka_unit_test(test_wrong_pictures_get_errors_and_the_process_goes_on),
        cmocka_unit_test(test_no_picture_or_too_large_a_one_makes_no_descriptor),
        cmocka_unit_test(test_packets_that_are_not_ours_end_the_process),
        cmocka_unit_test(test_hostile_replies_are_refused_and_leave_nothing_open),
        cmocka_unit_test(test_extra_descriptors_are_refused_and_closed),
        cmocka_unit_test(test_the_process_does_not_grow),
        cmocka_unit_test(test_the_process_is_caged),
        cmocka_unit_test(test_a_picture_that_takes_too_long_gets_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
