/* Log: see log.h. A line is made whole on the caller's stack (line_make), then goes to the ring, or straight to standard error. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"

enum { MSG_RAW_BYTES = 1024, MSG_BYTES = 1900, FIELD_BYTES = 600, TAIL_BYTES = 16 };

static _Atomic(enum log_level) log_max = LOG_INFO;
static _Atomic(enum log_format) log_form = LOG_TEXT;
static const char *log_part = "spillway";

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *const format_names[] = {"text", "json"};

/* --- the ring and its writer --- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled, emptied;
    pthread_t thread;
    bool running, stopping;
    char *bytes; /* LOG_RING_BYTES */
    size_t at, len;
    uint64_t dropped;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER, .emptied = PTHREAD_COND_INITIALIZER};

/* Where there is nobody to tell that standard error is closed, nothing is told. */
static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t written = write(STDERR_FILENO, p, n);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return;
        p += written;
        n -= (size_t)written;
    }
}

/* With the lock held; false: it does not fit. */
static bool ring_put(const char *line, size_t n)
{
    if (n > LOG_RING_BYTES - ring.len) return false;
    size_t end = (ring.at + ring.len) % LOG_RING_BYTES, first = LOG_RING_BYTES - end;
    if (first > n) first = n;
    memcpy(ring.bytes + end, line, first);
    memcpy(ring.bytes, line + first, n - first);
    ring.len += n;
    return true;
}

/* The longest run of whole lines that one write may carry without being mixed with another process's. */
static size_t ring_take(char out[LOG_LINE_BYTES])
{
    size_t n = ring.len < LOG_LINE_BYTES ? ring.len : LOG_LINE_BYTES, whole = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = ring.bytes[(ring.at + i) % LOG_RING_BYTES];
        if (out[i] == '\n') whole = i + 1;
    }
    return whole;
}

static size_t line_make(char line[LOG_LINE_BYTES], enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields);

static void *ring_write(void *unused)
{
    (void)unused;
    char out[LOG_LINE_BYTES];
    pthread_mutex_lock(&ring.lock);
    while (ring.len || !ring.stopping) {
        if (!ring.len) {
            pthread_cond_wait(&ring.filled, &ring.lock);
            continue;
        }
        size_t n = ring_take(out);
        pthread_mutex_unlock(&ring.lock);
        write_all(out, n);
        pthread_mutex_lock(&ring.lock);
        ring.at = (ring.at + n) % LOG_RING_BYTES;
        ring.len -= n;
        if (ring.dropped && ring.len < LOG_RING_BYTES / 2) {
            char msg[96], line[LOG_LINE_BYTES];
            snprintf(msg, sizeof msg, "%llu log lines were dropped: standard error was not read", (unsigned long long)ring.dropped);
            ring_put(line, line_make(line, LOG_WARN, msg, NULL, 0));
            ring.dropped = 0;
        }
    }
    pthread_cond_signal(&ring.emptied);
    ring.running = false;
    pthread_mutex_unlock(&ring.lock);
    return NULL;
}

void log_start(void)
{
    if (ring.running) return;
    ring.bytes = malloc(LOG_RING_BYTES);
    if (!ring.bytes) return;
    ring.at = ring.len = 0;
    ring.stopping = false;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the process's own threads */
    ring.running = pthread_create(&ring.thread, NULL, ring_write, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void log_stop(int64_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += wait_ms % 1000 * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&ring.lock);
    bool was = ring.running;
    ring.stopping = true;
    pthread_cond_signal(&ring.filled);
    while (ring.running && pthread_cond_timedwait(&ring.emptied, &ring.lock, &until) == 0) {
    }
    bool ended = was && !ring.running;
    pthread_mutex_unlock(&ring.lock);
    if (!ended) return; /* its reader stands still: the thread and its ring are left as they are */
    pthread_join(ring.thread, NULL);
    free(ring.bytes);
    ring.bytes = NULL;
}

static void line_send(const char *line, size_t n)
{
    pthread_mutex_lock(&ring.lock);
    bool threaded = ring.running;
    if (threaded) {
        if (ring.dropped || !ring_put(line, n)) ring.dropped++; /* once it is full, only after the line that tells so */
        pthread_cond_signal(&ring.filled);
    }
    pthread_mutex_unlock(&ring.lock);
    if (!threaded) write_all(line, n);
}

/* --- one line --- */

struct line {
    char *p;
    size_t n;
};

static void put(struct line *l, const char *s, size_t n)
{
    CHECK(l->n + n <= LOG_LINE_BYTES);
    memcpy(l->p + l->n, s, n);
    l->n += n;
}

static void puts_line(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

/* JSON's escapes in both formats, at most max bytes; quoted: also of the quote itself. */
static void put_escaped(struct line *l, const char *s, size_t max, bool quoted)
{
    size_t left = strlen(s), end = l->n + max - 3;
    while (left > 0) {
        uint32_t cp = 0xfffd;
        int len = utf8_decode(s, left, &cp);
        size_t used = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : left;
        char out[16];
        size_t n;
        if (len <= 0)
            n = utf8_encode(0xfffd, out);
        else if (cp == '\\' || (quoted && cp == '"'))
            n = (size_t)snprintf(out, sizeof out, "\\%c", (int)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            n = (size_t)snprintf(out, sizeof out, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        else if (utf8_is_control(cp))
            n = (size_t)snprintf(out, sizeof out, "\\u%04x", (unsigned)cp);
        else {
            memcpy(out, s, used);
            n = used;
        }
        if (l->n + n > end) {
            puts_line(l, "...");
            return;
        }
        put(l, out, n);
        s += used;
        left -= used;
    }
}

/* A value that text shows without quotes cannot be taken for two. */
static bool plain_word(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:+@%~,");
    return n > 0 && s[n] == '\0';
}

static void put_value(struct line *l, const struct log_field *f, bool json)
{
    char number[24];
    if (!f->text) {
        snprintf(number, sizeof number, "%lld", (long long)f->number);
        puts_line(l, number);
        return;
    }
    bool quotes = json || !plain_word(f->text);
    if (quotes) put(l, "\"", 1);
    put_escaped(l, f->text, FIELD_BYTES, quotes);
    if (quotes) put(l, "\"", 1);
}

static void put_time(struct line *l)
{
    struct timespec now;
    struct tm tm;
    char time[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(time + n, sizeof time - n, ".%03ldZ", now.tv_nsec / 1000000);
    puts_line(l, time);
}

static size_t line_make(char line[LOG_LINE_BYTES], enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields)
{
    struct line l = {.p = line};
    bool json = log_form == LOG_JSON;
    if (json) puts_line(&l, "{\"time\":\"");
    put_time(&l);
    puts_line(&l, json ? "\",\"level\":\"" : " ");
    puts_line(&l, level_names[level]);
    puts_line(&l, json ? "\",\"part\":\"" : " [");
    put_escaped(&l, log_part, 128, true);
    puts_line(&l, json ? "\",\"msg\":\"" : "] ");
    put_escaped(&l, msg, MSG_BYTES, json);
    if (json) put(&l, "\"", 1);
    for (size_t i = 0; i < n_fields; i++) {
        if (l.n + strlen(fields[i].name) + FIELD_BYTES + TAIL_BYTES > LOG_LINE_BYTES) break;
        puts_line(&l, json ? ",\"" : " ");
        puts_line(&l, fields[i].name);
        puts_line(&l, json ? "\":" : "=");
        put_value(&l, &fields[i], json);
    }
    puts_line(&l, json ? "}\n" : "\n");
    return l.n;
}

static void line_write(enum log_level level, const struct log_field *fields, size_t n, const char *fmt, va_list ap)
{
    char msg[MSG_RAW_BYTES], line[LOG_LINE_BYTES];
    int len = vsnprintf(msg, sizeof msg, fmt, ap);
    if (len < 0) strcpy(msg, fmt);
    if (len >= (int)sizeof msg) memcpy(msg + sizeof msg - 4, "...", 4);
    line_send(line, line_make(line, level, msg, fields, n));
}

/* --- what callers see --- */

void log_setup(enum log_level level, const char *part)
{
    log_max = level;
    log_part = part;
}

void log_set_format(enum log_format f)
{
    log_form = f;
}

void log_set_level(enum log_level level)
{
    log_max = level;
}

enum log_format log_format(void)
{
    return log_form;
}

enum log_level log_level(void)
{
    return log_max;
}

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

const char *log_format_name(enum log_format f)
{
    return format_names[f];
}

static bool name_find(const char *const *names, size_t n, const char *name, size_t *out)
{
    for (*out = 0; *out < n; (*out)++)
        if (strcmp(names[*out], name) == 0) return true;
    return false;
}

bool log_level_read(const char *name, enum log_level *out)
{
    size_t i;
    if (!name_find(level_names, sizeof level_names / sizeof *level_names, name, &i)) return false;
    *out = (enum log_level)i;
    return true;
}

bool log_format_read(const char *name, enum log_format *out)
{
    size_t i;
    if (!name_find(format_names, sizeof format_names / sizeof *format_names, name, &i)) return false;
    *out = (enum log_format)i;
    return true;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (level > log_max) return;
    va_list ap;
    va_start(ap, fmt);
    line_write(level, NULL, 0, fmt, ap);
    va_end(ap);
}

void log_write_fields(enum log_level level, const struct log_field *fields, size_t n, const char *fmt, ...)
{
    if (level > log_max) return;
    va_list ap;
    va_start(ap, fmt);
    line_write(level, fields, n, fmt, ap);
    va_end(ap);
}

void log_plain(const char *fmt, ...)
{
    char line[LOG_LINE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 1, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    size_t len = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
    line[len] = '\n';
    line_send(line, len + 1);
    explicit_bzero(line, sizeof line); /* it may be the first key */
}
