/* Progress: see progress.h. */
#include "server/cli/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/cli/terminal.h"

enum { FIRST_MS = 200, EVERY_MS = 100, LAST_MS = 300, WHAT_BYTES = 64, BAR_CELLS = 24 };

struct progress {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending, ended;
    int64_t begun_ms;
    uint64_t done_bytes, total_bytes;
    bool download;
    struct {
        double bytes_per_s; /* smoothed; 0: not known yet */
        uint64_t bytes;
        int64_t ms;
    } rate; /* as of the last drawing */
    char what[WHAT_BYTES];
};

/* Once a drawing: what came since the last one counts for a thirtieth, so the figure can be read and follows in a few seconds. */
static void measure(struct progress *p, int64_t ms)
{
    int64_t since_ms = ms - p->rate.ms;
    if (p->total_bytes == 0) return;
    if (p->done_bytes >= p->rate.bytes && since_ms > 0) {
        double now = (double)(p->done_bytes - p->rate.bytes) * 1000 / (double)since_ms;
        p->rate.bytes_per_s = p->rate.bytes_per_s > 0 ? p->rate.bytes_per_s + (now - p->rate.bytes_per_s) / 30 : now;
    }
    p->rate.bytes = p->done_bytes;
    p->rate.ms = ms;
}

/* "12.5 MB/s, 1:05 left", or how long it has taken. */
static void format_time(const struct progress *p, double seconds, char *out, size_t n)
{
    if (!p->download || p->rate.bytes_per_s < 1) {
        snprintf(out, n, "%.0f s", seconds);
        return;
    }
    uint64_t rest = p->total_bytes > p->done_bytes ? p->total_bytes - p->done_bytes : 0;
    double left = (double)rest / p->rate.bytes_per_s;
    long s = left < 359999 ? (long)left : 359999;
    if (s >= 3600)
        snprintf(out, n, "%.1f MB/s, %ld:%02ld:%02ld left", p->rate.bytes_per_s / 1e6, s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, n, "%.1f MB/s, %ld:%02ld left", p->rate.bytes_per_s / 1e6, s / 60, s % 60);
}

static int format_line(const struct progress *p, int64_t ms, unsigned turn, char *out, size_t n)
{
    double seconds = (double)ms / 1000;
    if (!p->total_bytes) return snprintf(out, n, "\r%c %s  %.1f s\x1b[K\r", "|/-\\"[turn % 4], p -> what, seconds);
    uint64_t done = p->done_bytes < p->total_bytes ? p->done_bytes : p->total_bytes;
    double part = (double)done / (double)p->total_bytes;
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < (int)(part * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    char time[64];
    format_time(p, seconds, time, sizeof time);
    return snprintf(out, n, "\r%s [%s] %3.0f %%  %.1f of %.1f MB  %s\x1b[K\r", p->what, bar, part * 100, (double)done / 1e6,
                    (double)p->total_bytes / 1e6, time);
}

static void wait_for(struct progress *p, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t ns = until.tv_nsec + ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&p->changed, &p->lock, &until);
}

static void write_line(const char *line, int n)
{
    ssize_t written = n > 0 ? write(STDERR_FILENO, line, (size_t)n) : 0;
    (void)written; /* a terminal that is gone shows nothing */
}

static void *draw(void *arg)
{
    struct progress *p = arg;
    bool drawn = false;
    pthread_mutex_lock(&p->lock);
    for (unsigned turn = 0; !p->ending;) {
        int64_t ms = clock_boot_ms() - p->begun_ms;
        if (ms < FIRST_MS) {
            wait_for(p, FIRST_MS - ms);
            continue;
        }
        char line[256];
        if (p->download) measure(p, ms);
        int n = format_line(p, ms, turn++, line, sizeof line);
        drawn = true;
        pthread_mutex_unlock(&p->lock);
        write_line(line, n);
        pthread_mutex_lock(&p->lock);
        if (!p->ending) wait_for(p, EVERY_MS);
    }
    pthread_mutex_unlock(&p->lock);
    if (drawn) write_line("\r\x1b[K", 4);
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static struct progress *begin(const char *what, bool download)
{
    struct progress *p = terminal_can_redraw() ? calloc(1, sizeof *p) : NULL;
    if (!p) return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->begun_ms = clock_boot_ms();
    p->download = download;
    struct buf clean;
    buf_init(&clean, 4096);
    terminal_clean(&clean, what, strlen(what));
    snprintf(p->what, sizeof p->what, "%s", clean.data ? clean.data : "");
    buf_free(&clean);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    bool made = pthread_create(&thread, NULL, draw, p) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (made) pthread_detach(thread);
    if (!made) free(p);
    return made ? p : NULL;
}

struct progress *progress_begin(const char *what)
{
    return begin(what, false);
}

struct progress *progress_begin_download(const char *what)
{
    return begin(what, true);
}

void progress_set(struct progress *p, uint64_t done_bytes, uint64_t total_bytes)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    if (p->total_bytes == 0) { /* what is there at the beginning was not fetched now */
        p->rate.bytes = done_bytes;
        p->rate.ms = clock_boot_ms() - p->begun_ms;
    }
    p->done_bytes = done_bytes;
    p->total_bytes = total_bytes;
    pthread_mutex_unlock(&p->lock);
}

void progress_end(struct progress *p)
{
    if (!p) return;
    int64_t until_ms = clock_boot_ms() + LAST_MS;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_signal(&p->changed);
    for (int64_t now_ms; !p->ended && (now_ms = clock_boot_ms()) < until_ms;) wait_for(p, until_ms - now_ms);
    bool ended = p->ended;
    pthread_mutex_unlock(&p->lock);
    if (ended) free(p); /* else its thread still waits for the terminal */
}
