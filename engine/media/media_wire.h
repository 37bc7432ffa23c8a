/* The media process and its wire: `spillway media` decodes and resizes pictures from hostile bytes, so that neither the
 * gateway nor a worker ever touches them. It speaks over one SOCK_SEQPACKET Unix socket (its descriptor 3): the caller's
 * setup, the process's hello once it is caged (or why it is not), then one request packet, one reply packet, in order,
 * one at a time. Picture bytes come as a sealed memfd, tiles go back as a sealed memfd. Both ends treat the other's
 * packets as hostile: every field is checked before use. Native byte order (both ends are the same binary on the same
 * machine). */
#ifndef SPILLWAY_ENGINE_MEDIA_MEDIA_WIRE_H
#define SPILLWAY_ENGINE_MEDIA_MEDIA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/media/image.h"

enum media_call { MEDIA_PROBE = 1, MEDIA_DECODE = 2 };
enum { MEDIA_MAX_TILES = IMAGE_MAX_TILES, MEDIA_HASH_BYTES = 32, MEDIA_MAX_IMAGE_BYTES = 20 << 20, MEDIA_MAX_MS = 3600000 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MEDIA_SLOWNESS = 20 }; /* of a sanitizer build: what times are multiplied with */
#else
enum { MEDIA_SLOWNESS = 1 };
#endif

struct media_request {
    enum media_call call;
    uint64_t id;  /* comes back in the reply */
    int image_fd; /* sealed memfd of the file's bytes; media_request_make makes one. Owned by the caller */
    struct image_settings settings;
    bool detail_low;
    int64_t max_pixels;       /* refuse larger pictures by their header, before any allocation */
    uint32_t cpu_ms, wall_ms; /* processor time and time for this picture, 1..MEDIA_MAX_MS; beyond, its error is -ERR_LIMIT */
};

struct media_hello {
    struct err err;  /* code ERR_NONE: caged; otherwise why not, and the process ends */
    char notes[512]; /* what the kernel refused and the cage does without; "" if nothing */
};

struct media_reply {
    uint64_t id;
    bool worn;      /* has used so much processor time that it is to be replaced: close the socket */
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

/* Caller's side. The socket may be non-blocking; -ERR_BUSY if it would block, -ERR_GONE if the process is gone. The setup is sent first;
 * max_pixels: the most that any request will allow, by which the process's memory is bounded. */
MUST_USE int media_send_setup(int sock, int64_t max_pixels, struct err *e);
MUST_USE int media_recv_hello(int sock, struct media_hello *h, struct err *e);
MUST_USE int media_send_request(int sock, const struct media_request *r, struct err *e);
MUST_USE int media_recv_reply(int sock, struct media_reply *r, struct err *e);

/* The process's side. Reads the setup, enters the cage, says hello, serves requests by answer until the socket is closed; returns the exit
 * code. media_main is `spillway media` (socket is descriptor 3). */
typedef int media_answer_fn(const struct media_request *q, struct media_reply *r, struct err *e);
int media_process(media_answer_fn *answer);
MUST_USE int media_answer(const struct media_request *q, struct media_reply *r, struct err *e);
int media_main(void);

#endif
