/* The packets of the media socket as they lie in memory, shared by its two ends (media_wire.c, media_serve.c) only.
 * Every field has a fixed width and any value of it is legal to read (no bool, no enum), since the bytes are the other
 * end's. */
#ifndef SPILLWAY_ENGINE_MEDIA_MEDIA_PACKETS_H
#define SPILLWAY_ENGINE_MEDIA_MEDIA_PACKETS_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "base/err.h"
#include "engine/media/media_wire.h"

enum { MEDIA_MAGIC = 0x5350574D, MEDIA_VERSION = 2, MEDIA_MAX_TILE_BYTES = 256 << 20 };
/* Of every memfd; the cage allows these and no others. MEDIA_NOEXEC_SEAL (MFD_NOEXEC_SEAL): only kernels since 6.3 know it. */
enum {
    MEDIA_MEMFD_FLAGS = MFD_CLOEXEC | MFD_ALLOW_SEALING,
    MEDIA_NOEXEC_SEAL = 8,
    MEDIA_SEALS = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL
};

/* The caller's first packet, read before the cage is closed. */
struct media_setup_packet {
    uint32_t magic, version;
    int64_t max_pixels;
};

/* The process's first packet: it is caged (code ERR_NONE; msg: what the kernel refused) or why it is not. */
struct media_hello_packet {
    uint32_t magic, version, code;
    char msg[sizeof((struct err *)0)->msg];
};

struct media_request_packet {
    uint32_t magic, version;
    uint64_t id;
    uint32_t call, detail_low, split, cpu_ms, wall_ms;
    int32_t longest_edge, tile_px, tokens_per_tile, resample;
    float mean[3], std[3];
    double rescale;
    int64_t max_pixels;
};

struct media_reply_packet {
    uint32_t magic, version;
    uint64_t id;
    uint32_t code;
    char param[sizeof((struct err *)0)->param];
    char msg[sizeof((struct err *)0)->msg];
    int32_t width, height, w1, h1, w2, h2, rows, cols, n_tiles;
    uint32_t has_tiles, worn;
    uint8_t hash[MEDIA_MAX_TILES][MEDIA_HASH_BYTES];
};

/* One packet with at most one descriptor (-1: none). Return 0 or a negative code: -ERR_BUSY, -ERR_GONE, -ERR_IO. */
MUST_USE int media_packet_send(int sock, const void *packet, size_t n, int fd, struct err *e);
/* The packet must have exactly n bytes and *fd is the descriptor that came with it or -1; -ERR_INPUT otherwise, with
 * nothing left open. */
MUST_USE int media_packet_recv(int sock, void *packet, size_t n, int *fd, struct err *e);
/* fd is a memfd with all of MEDIA_SEALS, of min..max bytes; its size is *size. */
MUST_USE int media_fd_check(int fd, size_t min_bytes, size_t max_bytes, size_t *size, struct err *e);
/* Empty memfd of n bytes, not yet sealed; the descriptor or a negative code. */
MUST_USE int media_fd_make(size_t n_bytes, struct err *e);
MUST_USE int media_fd_seal(int fd, struct err *e);

#endif
