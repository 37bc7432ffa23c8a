/* spillway: one binary, several commands. See options.c for what each takes and command.h for exit codes. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "server/cli/command.h"

static int (*const commands[COMMANDS])(const struct options *o) = {
    [COMMAND_SERVE] = command_serve,   [COMMAND_GENERATE] = command_generate, [COMMAND_TOKENIZE] = command_tokenize,
    [COMMAND_LOGITS] = command_logits, [COMMAND_KEYS] = command_keys,         [COMMAND_WORKER] = command_worker,
    [COMMAND_MEDIA] = command_media,   [COMMAND_CHAT] = command_chat,
};

int command_error(const struct err *e)
{
    fprintf(stderr, "spillway: %s\n", e->msg);
    return COMMAND_FAILED;
}

int command_usage_error(const struct err *e)
{
    fprintf(stderr, "spillway: %s\n", e->msg);
    return COMMAND_USAGE;
}

/* A result that did not reach its reader (a full disk, a closed pipe) is a failure, too. */
static int finish(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "spillway: standard output: write failed\n");
    return code ? code : COMMAND_FAILED;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        options_help_all(stderr);
        return COMMAND_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        options_help_all(stdout);
        return finish(COMMAND_OK);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("spillway %s\n", SPILLWAY_VERSION);
        return finish(COMMAND_OK);
    }
    enum command command;
    struct options o;
    struct err e = {0};
    if (options_command(argv[1], &command)) {
        err_set(&e, ERR_INPUT, "%s: unknown command (see spillway --help)", argv[1]);
        return command_usage_error(&e);
    }
    if (options_parse(command, argc - 2, argv + 2, &o, &e)) return command_usage_error(&e);
    if (o.help) {
        options_help(command, stdout);
        return finish(COMMAND_OK);
    }
    return finish(commands[command](&o));
}
