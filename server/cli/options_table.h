/* Options table: what options.c (parsing), options_help.c, options_docs.c, options_complete.c (what people read) and options_config.c (the file) share;
 * nobody else includes it. The rows themselves are in options.c. */
#ifndef SPILLWAY_SERVER_CLI_OPTIONS_TABLE_H
#define SPILLWAY_SERVER_CLI_OPTIONS_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "server/cli/options.h"

#define ON(c) (1u << COMMAND_##c)

struct command_row {
    const char *name, *args, *help;
    bool internal; /* not listed in the program's help */
};
extern const struct command_row option_commands[COMMANDS];

/* STORE is a database's URL, whose password is never printed; ADDRESS is a HOST:PORT; GPUS are numbers with commas between; NETWORKS, NAMES, ORIGINS and HOSTS are lists, given several times. */
enum option_kind {
    OPTION_FLAG,
    OPTION_INT,
    OPTION_REAL,
    OPTION_TEXT,
    OPTION_STORE,
    OPTION_ADDRESS,
    OPTION_CHOICE,
    OPTION_GPUS,
    OPTION_IMAGES,
    OPTION_NAMES,
    OPTION_NETWORKS,
    OPTION_ORIGINS,
    OPTION_HOSTS
};

/* Beside its commands a row says what else holds of it, in the upper half of the same number. */
enum option_mark {
    MARK_RELOADS = 1 << 24, /* SIGHUP takes a new value over */
    MARK_NO_KEY = 1 << 25,  /* of the command line only: no key in the configuration file */
    MARK_ACCESS = 1 << 26,  /* where help and reference put it; without any of these: among the common ones */
    MARK_ENGINE = 1 << 27,
    MARK_LOG = 1 << 28,
    MARK_ALERTS = 1 << 29,
    MARK_GROUPS = MARK_ACCESS | MARK_ENGINE | MARK_LOG | MARK_ALERTS
};

struct option_row {
    unsigned commands;      /* ON(...) and MARK_... */
    const char *flag, *arg; /* OPTION_CHOICE: arg is "a|b|c" */
    enum option_kind kind;
    size_t field;
    double min, max;
    const char *initial; /* default, as it would be typed; NULL: none */
    const char *help;
};
extern const struct option_row option_rows[];
extern const size_t n_option_rows;

bool option_is_on(const struct option_row *r, enum command c);
bool option_is_key(const struct option_row *r); /* of `serve`, and has a key in the file */
bool option_is_of_model(const struct option_row *r); /* of the engine: each model of a server can have its own */
const char *option_initial(const struct option_row *r, enum command c); /* for people: the default of this command; NULL: none */
bool option_is_list(const struct option_row *r);
/* "--max-headers" -> "max_headers". Returns out. */
char *option_key(const char *flag, char out[OPTIONS_KEY_BYTES]);
/* Checks the value and puts it into its field (value is borrowed). -ERR_INPUT: the message begins with the flag. */
MUST_USE int option_set(const struct option_row *r, struct options *o, const char *value, struct err *e);
const struct option_list *option_list_of(const struct option_row *r, const struct options *o);

/* The groups of `serve`'s options in the order in which people read them. */
struct option_group {
    unsigned mark; /* 0: rows without any */
    const char *title;
};
extern const struct option_group option_groups[];
extern const size_t n_option_groups;

/* Lines that show a command in use: "# what for" and "spillway ..." in turn; NULL ends. NULL if there are none. */
const char *const *option_examples(enum command c);

#endif
