/* Limits: see limits.h. */
#include "server/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define F(x) offsetof(struct limits, x)
#define KIB ((int64_t)1 << 10)
#define MIB ((int64_t)1 << 20)
#define SECOND ((int64_t)1000)
#define HOUR (3600 * SECOND)

const struct limit_row limit_rows[] = {
    {"--max-header-bytes", F(header_bytes), LIMIT_BYTES, "16KiB", KIB, MIB, "T10", "request line and header fields of a request"},
    {"--max-headers", F(headers), LIMIT_COUNT, "64", 8, 1024, "T10", "header fields of a request"},
    {"--max-url-bytes", F(url_bytes), LIMIT_BYTES, "8KiB", 256, 64 * KIB, "T10", "a request's URL"},
    {"--header-timeout", F(header_ms), LIMIT_MS, "10s", SECOND / 10, HOUR, "T14", "until a request's header is whole"},
    {"--body-timeout", F(body_ms), LIMIT_MS, "30s", SECOND / 10, HOUR, "T14", "until a request's body is whole"},
    {"--idle-timeout", F(idle_ms), LIMIT_MS, "60s", SECOND / 10, 24 * HOUR, "T14", "between two requests of a connection"},
    {"--write-timeout", F(write_ms), LIMIT_MS, "10s", SECOND / 10, HOUR, "T23", "for a client that takes nothing of its answer"},
    {"--max-body-bytes", F(body_bytes), LIMIT_BYTES, "20MiB", KIB, 1024 * MIB, "T16", "a request's body"},
    {"--max-text-body-bytes", F(text_body_bytes), LIMIT_BYTES, "1MiB", KIB, 1024 * MIB, "T16",
     "a request's body where no model takes pictures"},
    {"--max-connections", F(connections), LIMIT_COUNT, "12000", 16, 1000000, "T20", "connections at once"},
    {"--max-connections-per-ip", F(connections_per_ip), LIMIT_COUNT, "64", 0, 1000000, "T15",
     "connections of one address (IPv6: one /64), 0: any; not for loopback and trusted proxies unless this option is given"},
    {"--max-streams-per-key", F(streams_per_key), LIMIT_COUNT, "100", 1, 1000000, "T20", "requests of one API key at once"},
    {"--max-stream-bytes", F(stream_bytes), LIMIT_BYTES, "64KiB", 4 * KIB, 16 * MIB, "T23", "of a stream that wait for a slow client"},
    {"--comment-interval", F(comment_ms), LIMIT_MS, "5s", SECOND / 10, HOUR, "T20", "between comments of a stream that waits"},
    {"--drain-timeout", F(drain_ms), LIMIT_MS, "30s", 0, 24 * HOUR, "T63", "for running requests after SIGTERM"},
    {"--max-json-depth", F(json_depth), LIMIT_COUNT, "64", 8, 1024, "T46", "nesting of a request's JSON"},
    {"--max-json-values", F(json_values), LIMIT_COUNT, "100000", 64, 10000000, "T46", "values in a request's JSON"},
    {"--max-json-key-bytes", F(json_key_bytes), LIMIT_BYTES, "256", 64, 64 * KIB, "T46", "a member's name in a request's JSON"},
    {"--max-messages", F(messages), LIMIT_COUNT, "2048", 1, 100000, "T38", "messages of a request"},
    {"--max-stop-strings", F(stops), LIMIT_COUNT, "4", 0, 4, "T12", "stop strings of a request"},
    {"--max-choices", F(choices), LIMIT_COUNT, "8", 1, 8, "T12", "answers to one request (n)"},
    {"--max-top-logprobs", F(top_logprobs), LIMIT_COUNT, "20", 0, 20, "T12", "alternatives told for each token (top_logprobs)"},
    {"--max-images", F(images), LIMIT_COUNT, "20", 0, 20, "T38", "pictures of a request"},
    {"--max-image-pixels", F(image_pixels), LIMIT_COUNT, "67108864", 1, 1 << 28, "T32", "pixels of one picture"},
    {"--max-images-pixels", F(images_pixels), LIMIT_COUNT, "134217728", 1, (int64_t)1 << 32, "T32",
     "pixels of a request's pictures together"},
    {"--max-template-steps", F(template_steps), LIMIT_COUNT, "1000000", 1000, 100000000, "T43", "steps of a chat template"},
    {"--max-template-depth", F(template_depth), LIMIT_COUNT, "64", 8, 256, "T43", "nesting in a chat template"},
    {"--max-template-output", F(template_output_bytes), LIMIT_BYTES, "64KiB", KIB, 64 * MIB, "T43",
     "a rendered prompt, beyond 4x the request's text"},
    {"--max-queue-requests", F(queue_requests), LIMIT_COUNT, "512", 1, 1000000, "T60", "requests at once, running and waiting"},
    {"--max-queue-tokens", F(queue_tokens), LIMIT_COUNT, "1000000", 1, (int64_t)1 << 40, "T60", "prompt tokens of these"},
    {"--max-queue-bytes", F(queue_bytes), LIMIT_BYTES, "256MiB", MIB, 65536 * MIB, "T60", "bodies of these"},
    {"--first-token-target", F(first_token_ms), LIMIT_MS, "2s", SECOND / 100, HOUR, "T60",
     "until a first token: of a model's prompts that wait, as many tokens are taken as it reads in the time that its answers take once begun, but "
     "at least in this and at most in twice this; and four prompts at least"},
    {"--request-timeout", F(request_ms), LIMIT_MS, "10m", SECOND / 10, 24 * HOUR, "T62",
     "for a whole answer; a request can lower it (X-Request-Timeout-Ms)"},
    {"--settle-timeout", F(settle_ms), LIMIT_MS, "5s", SECOND / 10, HOUR, "T47",
     "until an answer that is whole is booked and so its usage told; the answer then ends with an error, and is booked when it can be"},
    {"--decode-cpu-timeout", F(decode_cpu_ms), LIMIT_MS, "2s", SECOND / 10, 60 * SECOND, "T32", "processor time for one picture"},
    {"--decode-timeout", F(decode_wall_ms), LIMIT_MS, "15s", SECOND / 2, 600 * SECOND, "T31", "time for one picture"},
    {"--max-media-queue", F(media_queue), LIMIT_COUNT, "1000", 20, 1000000, "T31", "pictures that wait for a decoder"},
    {"--max-media-queue-bytes", F(media_queue_bytes), LIMIT_BYTES, "256MiB", 20 * MIB, 65536 * MIB, "T31", "files of these"},
    {"--max-remote-image-bytes", F(remote_image_bytes), LIMIT_BYTES, "20MiB", KIB, 20 * MIB, "T30",
     "of one picture that is fetched from a URL; a request's pictures together count as if they were in its body"},
    {"--remote-image-timeout", F(remote_image_ms), LIMIT_MS, "10s", SECOND / 10, 600 * SECOND, "T30", "for one picture to be fetched"},
    {"--max-remote-image-redirects", F(remote_image_redirects), LIMIT_COUNT, "0", 0, 10, "T30", "redirects of a picture's URL, each judged like the first"},
    {"--max-remote-images", F(remote_images), LIMIT_COUNT, "32", 1, 1000, "T30", "pictures fetched at once; others wait"},
    {"--max-remote-images-per-host", F(remote_images_per_host), LIMIT_COUNT, "8", 1, 1000, "T30", "of these from one host"},
    {"--hang-timeout", F(hang_ms), LIMIT_MS, "2s", SECOND / 10, HOUR, "T52",
     "without progress, or 20x the usual time of a step if that is longer: the worker is restarted"},
    {"--load-hang-timeout", F(load_hang_ms), LIMIT_MS, "60s", SECOND, 24 * HOUR, "T52", "without progress while a model is loaded"},
    {"--worker-wait", F(worker_wait_ms), LIMIT_MS, "2s", 0, 600 * SECOND, "T51",
     "for a worker that is being restarted, before a request fails"},
};
const size_t n_limit_rows = sizeof limit_rows / sizeof limit_rows[0];

static const struct {
    const char *name;
    int64_t factor;
    enum limit_unit unit;
} units[] = {
    /* the first that fits prints; "" is what a number without a unit means */
    {"GiB", KIB *MIB, LIMIT_BYTES}, {"MiB", MIB, LIMIT_BYTES}, {"KiB", KIB, LIMIT_BYTES}, {"", 1, LIMIT_BYTES},
    {"G", KIB *MIB, LIMIT_BYTES},   {"M", MIB, LIMIT_BYTES},   {"k", KIB, LIMIT_BYTES},   {"GB", 1000000000, LIMIT_BYTES},
    {"MB", 1000000, LIMIT_BYTES},   {"KB", 1000, LIMIT_BYTES}, {"kB", 1000, LIMIT_BYTES}, {"h", HOUR, LIMIT_MS},
    {"m", 60 * SECOND, LIMIT_MS},   {"s", SECOND, LIMIT_MS},   {"ms", 1, LIMIT_MS},       {"", SECOND, LIMIT_MS},
    {"", 1, LIMIT_COUNT},
};
enum { N_UNITS = sizeof units / sizeof units[0] };

char *limit_print(enum limit_unit unit, int64_t value, char out[32])
{
    for (size_t i = 0; i < N_UNITS; i++) {
        if (units[i].unit != unit || (value % units[i].factor != 0) || (value == 0 && units[i].factor != 1 && unit != LIMIT_MS)) continue;
        snprintf(out, 32, "%" PRId64 "%s", value / units[i].factor, value == 0 && unit == LIMIT_MS ? "s" : units[i].name);
        return out;
    }
    snprintf(out, 32, "%" PRId64, value);
    return out;
}

/* Digits, then a unit of the row's kind. */
static bool limit_parse(const struct limit_row *row, const char *text, int64_t *out)
{
    int64_t n = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n)) return false;
    if (p == text) return false;
    for (size_t i = 0; i < N_UNITS; i++) {
        if (units[i].unit != row->unit || strcmp(units[i].name, p) != 0) continue;
        return !__builtin_mul_overflow(n, units[i].factor, out) && *out >= row->min && *out <= row->max;
    }
    return false;
}

int limit_set(struct limits *l, const struct limit_row *row, const char *text, struct err *e)
{
    static const char *const what[] = {[LIMIT_COUNT] = "a whole number", [LIMIT_BYTES] = "a size", [LIMIT_MS] = "a time"};
    int64_t value;
    char min[32], max[32];
    if (!limit_parse(row, text, &value))
        return err_set(e, ERR_INPUT, "%s: '%s' is not %s from %s to %s", row->flag, text, what[row->unit],
                       limit_print(row->unit, row->min, min), limit_print(row->unit, row->max, max));
    *(int64_t *)(void *)((char *)l + row->field) = value;
    l->given |= (uint64_t)1 << (row - limit_rows);
    return 0;
}

int64_t limit_get(const struct limits *l, const struct limit_row *row)
{
    return *(const int64_t *)(const void *)((const char *)l + row->field);
}

bool limit_given(const struct limits *l, const int64_t *field)
{
    for (size_t i = 0; i < n_limit_rows; i++)
        if (limit_rows[i].field == (size_t)((const char *)field - (const char *)l)) return l->given >> i & 1;
    CHECK(!"a limit");
    return false;
}

void limits_init(struct limits *l)
{
    CHECK(n_limit_rows <= 64); /* bits of given */
    *l = (struct limits){0};
    for (size_t i = 0; i < n_limit_rows; i++) {
        int rc = limit_set(l, &limit_rows[i], limit_rows[i].initial, NULL);
        CHECK(rc == 0);
    }
    l->given = 0;
}
