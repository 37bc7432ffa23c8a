/* Frame protocol, inner part: what frame.c (bytes <-> structs) and frame_conn.c (socket, queue, descriptors) share, and
 * what the tests of hostile bytes call directly. Users of the protocol need frame.h only. */
#ifndef SPILLWAY_ENGINE_FRAME_WIRE_H
#define SPILLWAY_ENGINE_FRAME_WIRE_H

#include "base/arena.h"
#include "engine/frame.h"

enum { FRAME_HEADER_BYTES = 8 };

/* Decodes one body. Lists are copied into the arena (the bytes may lie unaligned); fds is only borrowed. -ERR_INPUT
 * names the fault and its offset. Nothing is closed here. */
MUST_USE int frame_decode(enum frame_type type, const uint8_t *body, size_t n, const int *fds, uint32_t n_fds, struct arena *arena,
                          struct frame *f, struct err *e);

#endif
