/* Log: one line an event on standard error, as text or as a JSON object. Never a prompt, never an answer, never a secret.
 *
 *     2026-11-21T11:30:00.123Z info [gateway] request request=req_01 method=GET path=/v1/models status=200 bytes=312 ms=1 key=2
 *     {"time":"2026-11-21T11:30:00.123Z","level":"info","part":"gateway","msg":"request","request":"req_01",...}
 *
 * Whatever bytes come in, one call makes one line of valid UTF-8 of at most LOG_LINE_BYTES, without control characters (escaped, also those
 * that turn the direction of writing), so that a text cannot forge a line or steer a terminal; lines of several processes on one pipe do
 * not mix. A text that is too long is cut and ends with "...". Thread-safe.
 *
 * log_start gives the writing to a thread: from then on no caller ever waits for the reader of standard error. Lines wait in a ring
 * of LOG_RING_BYTES; what does not fit is dropped and counted, and a line tells how many as soon as there is room again. */
#ifndef SPILLWAY_BASE_LOG_H
#define SPILLWAY_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };
enum { LOG_LINE_BYTES = 4096, LOG_RING_BYTES = 256 << 10 };

/* What is above the level is dropped; the default is LOG_INFO. part names the process: "gateway", "worker demo", ...; borrowed for good. */
void log_setup(enum log_level level, const char *part);
void log_set_format(enum log_format f); /* text by default */
void log_set_level(enum log_level level);
enum log_format log_format(void);
enum log_level log_level(void);
/* "error", "warn", "info", "debug"; "text", "json": as options take them. The readers return false for any other word. */
const char *log_level_name(enum log_level level);
const char *log_format_name(enum log_format f);
bool log_level_read(const char *name, enum log_level *out);
bool log_format_read(const char *name, enum log_format *out);

/* Without it, or if the thread cannot be made, lines are written by the caller. */
void log_start(void);
/* Waits until all lines are written, wait_ms at most, and goes back to writing by the caller. */
void log_stop(int64_t wait_ms);

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line for people as it is, in order with the others: no time, no level, nothing escaped, so only our own words; cut at LOG_LINE_BYTES. */
void log_plain(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* A value beside the message. Names are ours: letters, digits and '_', and none of time, level, part, msg. */
struct log_field {
    const char *name;
    const char *text; /* NULL: number is the value */
    int64_t number;
};
void log_write_fields(enum log_level level, const struct log_field *fields, size_t n, const char *fmt, ...) PRINTF_LIKE(4, 5);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
/* A line that belongs to a request. */
#define log_request(level, id, ...) log_write_fields(level, &(const struct log_field){.name = "request", .text = (id)}, 1, __VA_ARGS__)

#endif
