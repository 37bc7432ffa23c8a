/* Commands of the program: each is one file here, takes its parsed options and returns the exit code: 0 done, 1 failed
 * (the reason is on standard error), 2 wrong usage. Results go to standard output, progress to standard error. The
 * internal commands `worker` and `media` have exit codes of their own (engine/worker.h, engine/media/media_wire.h). */
#ifndef SPILLWAY_SERVER_CLI_COMMAND_H
#define SPILLWAY_SERVER_CLI_COMMAND_H

#include "server/cli/options.h"

enum { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2 };

int command_serve(const struct options *o);
int command_generate(const struct options *o);
int command_tokenize(const struct options *o);
int command_logits(const struct options *o);
int command_eval(const struct options *o);
int command_keys(const struct options *o);
int command_accounts(const struct options *o);
int command_models(const struct options *o);
int command_chat(const struct options *o);
int command_doctor(const struct options *o);
int command_worker(const struct options *o);
int command_media(const struct options *o);
int command_pull(const struct options *o);
int command_config(const struct options *o);
int command_bench(const struct options *o);

/* Log of a process that serves: --log-level and --log-format; part is borrowed for good. */
void command_log(const struct options *o, const char *part);

/* Prints "spillway: " and the message; returns COMMAND_FAILED, or COMMAND_USAGE for command_usage_error. */
int command_error(const struct err *e);
int command_usage_error(const struct err *e);

#endif
