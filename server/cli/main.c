/* spillway: one binary, several commands. See options.c for what each takes and command.h for exit codes. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "server/cli/command.h"
#include "server/cli/options_docs.h"

static int (*const commands[COMMANDS])(const struct options *o) = {
    [COMMAND_SERVE] = command_serve,   [COMMAND_GENERATE] = command_generate, [COMMAND_TOKENIZE] = command_tokenize,
    [COMMAND_LOGITS] = command_logits, [COMMAND_KEYS] = command_keys,         [COMMAND_WORKER] = command_worker,
    [COMMAND_MEDIA] = command_media,   [COMMAND_CHAT] = command_chat,         [COMMAND_DOCTOR] = command_doctor,
    [COMMAND_CONFIG] = command_config, [COMMAND_EVAL] = command_eval,         [COMMAND_MODELS] = command_models,
    [COMMAND_PULL] = command_pull,     [COMMAND_ACCOUNTS] = command_accounts,
    [COMMAND_BENCH] = command_bench,
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

static void print_version(FILE *f)
{
    fprintf(f, "spillway %s\n", SPILLWAY_VERSION);
}

/* Instead of a command. The last two are for the build: the manual page and docs/configuration.md. */
static const struct {
    const char *word;
    void (*print)(FILE *f);
} pages[] = {
    {"--help", options_help_program}, {"-h", options_help_program}, {"help", options_help_program},
    {"--version", print_version},     {"--man", options_docs_man},  {"--reference", options_docs_reference},
};

static int complete(const char *shell)
{
    struct err e = {0};
    if (!options_docs_completion(shell, stdout)) return finish(COMMAND_OK);
    err_set(&e, ERR_INPUT, "--completion: bash, zsh or fish");
    return command_usage_error(&e);
}

/* `help COMMAND` is what people type, too. */
static int help_of(const char *name)
{
    enum command command;
    struct err e = {0};
    if (options_command(name, &command)) {
        err_set(&e, ERR_INPUT, "%s: unknown command (see spillway --help)", name);
        return command_usage_error(&e);
    }
    options_help(command, true, stdout);
    return finish(COMMAND_OK);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        options_help_program(stderr);
        return COMMAND_USAGE;
    }
    if (argc > 2 && strcmp(argv[1], "help") == 0) return help_of(argv[2]);
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (strcmp(argv[1], pages[i].word) != 0) continue;
        pages[i].print(stdout);
        return finish(COMMAND_OK);
    }
    if (strcmp(argv[1], "--completion") == 0) return complete(argc > 2 ? argv[2] : "");
    enum command command;
    struct options o;
    struct err e = {0};
    if (options_command(argv[1], &command)) {
        err_set(&e, ERR_INPUT, "%s: unknown command (see spillway --help)", argv[1]);
        return command_usage_error(&e);
    }
    if (options_parse(command, argc - 2, argv + 2, &o, &e)) return command_usage_error(&e);
    if (o.help || o.help_all) {
        options_help(command, o.help_all, stdout);
        return finish(COMMAND_OK);
    }
    return finish(commands[command](&o));
}
