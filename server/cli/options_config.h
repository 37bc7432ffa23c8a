/* Options and the configuration file: each option of `serve` is a key of it ("--max-body-bytes" is max_body_bytes), limits under `limits:`,
 * and `models:` is the list of models. The command line wins over the file, the file over the defaults. */
#ifndef SPILLWAY_SERVER_CLI_OPTIONS_CONFIG_H
#define SPILLWAY_SERVER_CLI_OPTIONS_CONFIG_H

#include "server/cli/options.h"
#include "server/config_file.h"

/* Reads the file into what the command line left open (options_parse came before). Strings are borrowed from *file, which the caller frees,
 * also on errors. Faults are those of the whole file, sorted. */
MUST_USE int options_read_config(struct options *o, const char *path, struct config_file **file, struct config_faults *faults);
/* The configuration in effect; read again it gives the same. Secrets are not in it: only the names of their files. -ERR_INPUT: a text that YAML
 * cannot say. */
MUST_USE int options_print_config(const struct options *o, FILE *f, struct err *e);
/* Calls fn with each key whose value differs: of those that a reload takes over from `now` (in effect), else (reloads false) from `start`. */
void options_differences(const struct options *now, const struct options *start, const struct options *wanted,
                         void (*fn)(void *ctx, const char *key, bool reloads), void *ctx);
/* The same models by the same names; what else is said of them may differ. */
bool options_same_models(const struct options *a, const struct options *b);
/* Prints the faults, one a line, as "spillway: FILE:LINE:COLUMN: ...". */
void options_print_faults(const struct config_faults *faults, const char *path, FILE *f);

#endif
