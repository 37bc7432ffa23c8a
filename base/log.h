/* Log: one line an event on stderr, "time level [part] text". Never a prompt, never a secret. Thread-safe (one write a line). */
#ifndef SPILLWAY_BASE_LOG_H
#define SPILLWAY_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* What is above the level is dropped; the default is LOG_INFO. part names the process: "gateway", "worker demo", ...; borrowed for good. */
void log_setup(enum log_level level, const char *part);
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

#endif
