/* Limits: the one table of what the server takes, how much of it, and for how long. A row is an option of `serve` (and a key under `limits:` in
 * the configuration file), a line of its --help and of docs/configuration.md, and names the fault row that tests it (tests/fault).
 *
 * Every limit has a default, a minimum and a maximum, so none can be switched off by accident; where 0 means "none" the row
 * says so. Counts are plain, sizes bytes, times ms. Whoever needs limits gets a `const struct limits *`, never an option. Adding one: a row
 * in limits.c, a field here, its consumer, its test. */
#ifndef SPILLWAY_SERVER_LIMITS_H
#define SPILLWAY_SERVER_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct limits {
    /* HTTP */
    int64_t header_bytes, headers, url_bytes;
    int64_t header_ms, body_ms, idle_ms, write_ms; /* whole times, not of inactivity; write_ms: a client that takes no byte */
    int64_t body_bytes, text_body_bytes;           /* text_body_bytes: where no picture can be asked for */
    int64_t connections, connections_per_ip;       /* per_ip: of other machines, unless it was given */
    int64_t streams_per_key;
    int64_t stream_bytes, comment_ms; /* of one stream waiting for its client; comments while it waits for its first event */
    int64_t drain_ms;
    /* requests */
    int64_t json_depth, json_values, json_key_bytes;
    int64_t messages, stops, choices, top_logprobs; /* these four: of one request */
    int64_t images, image_pixels, images_pixels;
    int64_t template_steps, template_depth, template_output_bytes; /* output: beyond 4x the input */
    int64_t queue_requests, queue_tokens, queue_bytes, first_token_ms;
    int64_t request_ms;
    /* pictures */
    int64_t decode_cpu_ms, decode_wall_ms, media_queue, media_queue_bytes;
    int64_t remote_image_bytes, remote_image_ms, remote_image_redirects; /* of one */
    int64_t remote_images, remote_images_per_host;                       /* fetched at once */
    /* workers */
    int64_t hang_ms, load_hang_ms, worker_wait_ms;
    int64_t settle_ms;
    uint64_t given; /* bit i: row i was set with limit_set since limits_init */
};

enum limit_unit { LIMIT_COUNT, LIMIT_BYTES, LIMIT_MS };

struct limit_row {
    const char *flag; /* "--max-headers"; the key in a file is the same with '_' and without "--" */
    size_t field;
    enum limit_unit unit;
    const char *initial; /* as it would be typed */
    int64_t min, max;
    const char *test; /* fault row, "" if it has none of its own */
    const char *help;
};
extern const struct limit_row limit_rows[];
extern const size_t n_limit_rows;

void limits_init(struct limits *l); /* all defaults */
/* Parses and checks one value: counts as they are; sizes with k, M, G (1024), KB, MB, GB (1000) or KiB, MiB, GiB; times in seconds or
 * with ms, s, m, h. -ERR_INPUT names the flag and the range. */
MUST_USE int limit_set(struct limits *l, const struct limit_row *row, const char *text, struct err *e);
int64_t limit_get(const struct limits *l, const struct limit_row *row);
bool limit_given(const struct limits *l, const int64_t *field); /* field: of *l */
/* As it would be typed, shortest: "16KiB", "10s", "500ms". Returns out. */
char *limit_print(enum limit_unit unit, int64_t value, char out[32]);

#endif
