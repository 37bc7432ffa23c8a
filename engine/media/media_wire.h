/* The media process and its wire: `spillway media` decodes and resizes pictures from hostile bytes, so that neither the
 * gateway nor a worker ever touches them. It speaks over one SOCK_SEQPACKET Unix socket (its descriptor 3): one request
 * packet, one reply packet, in order, one at a time. Picture bytes come as a sealed memfd, tiles go back as a sealed
 * memfd. Both ends treat the other's packets as hostile: every field is checked before use. Native byte order (both
 * ends are the same binary on the same machine). */
#ifndef SPILLWAY_ENGINE_MEDIA_MEDIA_WIRE_H
#define SPILLWAY_ENGINE_MEDIA_MEDIA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/media/image.h"

enum media_call { MEDIA_PROBE = 1, MEDIA_DECODE = 2 };
enum { MEDIA_MAX_TILES = IMAGE_MAX_TILES, MEDIA_HASH_BYTES = 32, MEDIA_MAX_IMAGE_BYTES = 20 << 20 };

struct media_request {
    enum media_call call;
    uint64_t id;  /* comes back in the reply */
    int image_fd; /* sealed memfd of the file's bytes; media_request_make makes one. Owned by the caller */
    struct image_settings settings;
    bool detail_low;
    int64_t max_pixels; /* refuse larger pictures by their header, before any allocation */
};

struct media_reply {
    uint64_t id;
    struct err err; /* err.code == ERR_NONE: the rest holds */
    struct image_grid grid;
    /* MEDIA_DECODE only: uint8 pixels (n_tiles, 3, tile_px, tile_px), row-major, RGB planes, in tile order (rows, then
     * the global view last) */
    int tiles_fd; /* sealed memfd, owned by the receiver; -1 otherwise */
    int n_tiles;
    uint8_t hash[MEDIA_MAX_TILES][MEDIA_HASH_BYTES]; /* BLAKE2b-256 of each tile's pixels */
};

/* Makes a sealed memfd with a copy of the bytes (seals: write, grow, shrink, seal). Returns the descriptor or a
 * negative code. */
MUST_USE int media_bytes_fd(const void *p, size_t n, struct err *e);

/* Caller's side. The socket may be non-blocking; -ERR_BUSY if it would block, -ERR_GONE if the process is gone. */
MUST_USE int media_send_request(int sock, const struct media_request *r, struct err *e);
MUST_USE int media_recv_reply(int sock, struct media_reply *r, struct err *e);

/* The process's side: serves requests on sock until it is closed; returns the exit code. */
int media_serve(int sock);
/* Entry point of `spillway media` (socket is descriptor 3): rlimits, PR_SET_PDEATHSIG, then media_serve. */
int media_main(int argc, char **argv);

#endif
