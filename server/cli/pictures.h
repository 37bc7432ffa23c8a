/* Pictures of the command line: one `media` process decodes them, synchronously; this process never looks into a
 * picture's bytes. */
#ifndef SPILLWAY_SERVER_CLI_PICTURES_H
#define SPILLWAY_SERVER_CLI_PICTURES_H

#include <sys/types.h>

#include "base/err.h"
#include "engine/media/media_wire.h"

struct pictures {
    pid_t pid; /* the media process; 0: none yet */
    int sock;
    struct media_reply *replies; /* one a picture, in order */
    struct image_grid *grids;
    size_t n;
};

/* Decodes the files in order. On failure nothing is left open; *p can be closed in any case. Errors name the file. */
MUST_USE int pictures_decode(struct pictures *p, const char *const *files, size_t n, const struct image_settings *settings, bool detail_low,
                             struct err *e);
/* Starts a media process and ends it: whether it can be caged here. notes: what the cage does without, "" if nothing. */
MUST_USE int pictures_try_cage(char *notes, size_t n, struct err *e);
void pictures_close(struct pictures *p); /* accepts a zeroed struct */
size_t pictures_tiles(const struct pictures *p);

#endif
