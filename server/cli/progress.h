/* Progress: one line on standard error while something takes long, drawn anew ten times a second by a thread of its own and wiped at the end.
 * Only where standard error is a terminal that can move its cursor; elsewhere, and in logs, there is none. The cursor rests at the line's
 * beginning, so that a log line of this or another process writes over it. Colours are not used. */
#ifndef SPILLWAY_SERVER_CLI_PROGRESS_H
#define SPILLWAY_SERVER_CLI_PROGRESS_H

#include <stdint.h>

struct progress;

/* "Loading demo  1.2 s"; what is copied. Drawn after 0.2 s only. NULL where there is no terminal or no memory: the calls below accept it. */
struct progress *progress_begin(const char *what);
/* The same for a download: with the rate, and the time that is left. */
struct progress *progress_begin_download(const char *what);
/* From any thread: a bar and "45 %" beside it; total_bytes 0: unknown. */
void progress_set(struct progress *p, uint64_t done_bytes, uint64_t total_bytes);
/* Wipes the line. Returns within 0.3 s even if the terminal takes nothing (Ctrl-S). */
void progress_end(struct progress *p);

#endif
