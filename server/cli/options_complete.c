/* Completions for bash, zsh and fish, from the tables. Commands first, then a command's options, then the words of an option with choices or files and
 * folders. */
#include <string.h>

#include "server/cli/options_docs.h"
#include "server/cli/options_table.h"

/* What an argument is, by how the table calls it. */
static bool is_folder(const char *arg)
{
    return strcmp(arg, "DIR") == 0;
}

static bool is_file(const char *arg)
{
    return strcmp(arg, "FILE") == 0;
}

/* One option, whether of the table of options or of limits. */
struct flag {
    const char *flag, *arg, *help; /* arg: NULL for a switch */
    bool choice;
};

static size_t n_flags(enum command c)
{
    return n_option_rows + (c == COMMAND_SERVE ? n_limit_rows : 0);
}

/* false: not of this command. */
static bool flag_at(enum command c, size_t i, struct flag *out)
{
    if (i >= n_option_rows) {
        const struct limit_row *l = &limit_rows[i - n_option_rows];
        *out = (struct flag){l->flag, "VALUE", l->help, false};
        return true;
    }
    const struct option_row *r = &option_rows[i];
    *out = (struct flag){r->flag, r->arg, r->help, r->kind == OPTION_CHOICE};
    return option_is_on(r, c);
}

/* "a|b" as "a b". */
static void put_words(FILE *f, const char *choices)
{
    for (const char *p = choices; *p; p++) fputc(*p == '|' ? ' ' : *p, f);
}

static void put_commands(FILE *f)
{
    for (int c = 0; c < COMMANDS; c++)
        if (!option_commands[c].internal) fprintf(f, " %s", option_commands[c].name);
}

/* The words that a command takes in place of a model or a file: keys add, config check. */
static const char *verbs(enum command c)
{
    static const char *const rows[COMMANDS] = {[COMMAND_KEYS] = "add list set rotate revoke",
                                               [COMMAND_ACCOUNTS] = "list show create rename close freeze unfreeze storage deposit refund adjust"
                                                                    " chargeback pay prepaid budget limit price statement usage export"
                                                                    " reconcile backup restore move prune",
                                               [COMMAND_MODELS] = "list load unload",
                                               [COMMAND_CONFIG] = "check",
                                               [COMMAND_LOGITS] = "",
                                               [COMMAND_PULL] = "",
                                               [COMMAND_BENCH] = ""};
    return rows[c] ? rows[c] : "demo";
}

/* --- bash --- */

static void bash_values(FILE *f)
{
    for (int c = 0; c < COMMANDS; c++) {
        if (option_commands[c].internal) continue;
        for (size_t i = 0; i < n_flags((enum command)c); i++) {
            struct flag a;
            if (!flag_at((enum command)c, i, &a) || !a.arg) continue;
            fprintf(f, "        %s:%s) ", option_commands[c].name, a.flag);
            if (a.choice) {
                fprintf(f, "COMPREPLY=($(compgen -W \"");
                put_words(f, a.arg);
                fprintf(f, "\" -- \"$cur\"));");
            } else if (is_folder(a.arg))
                fprintf(f, "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"));");
            else if (is_file(a.arg))
                fprintf(f, "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"));");
            else
                fprintf(f, "COMPREPLY=();");
            fprintf(f, " return ;;\n");
        }
    }
}

static void bash(FILE *f)
{
    fprintf(f, "# Completions of spillway for bash, made by `spillway --completion bash`.\n"
               "_spillway() {\n"
               "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} flags= words=\n"
               "    COMPREPLY=()\n"
               "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
               "        COMPREPLY=($(compgen -W \"");
    put_commands(f);
    fprintf(f, " --help --version --completion\" -- \"$cur\"))\n"
               "        return\n"
               "    fi\n"
               "    case $command:$prev in\n"
               "        --completion:*) COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$cur\")); return ;;\n");
    bash_values(f);
    fprintf(f, "    esac\n    case $command in\n");
    for (int c = 0; c < COMMANDS; c++) {
        if (option_commands[c].internal) continue;
        fprintf(f, "        %s) words=\"%s\" flags=\"", option_commands[c].name, verbs((enum command)c));
        struct flag a;
        for (size_t i = 0; i < n_flags((enum command)c); i++)
            if (flag_at((enum command)c, i, &a)) fprintf(f, " %s", a.flag);
        fprintf(f, "\" ;;\n");
    }
    fprintf(f,
            "    esac\n"
            "    case $cur in\n"
            "        -*) COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\")) ;;\n"
            "        *) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") $(compgen -f -- \"$cur\")) ;;\n"
            "    esac\n"
            "}\n"
            "complete -F _spillway spillway\n");
}

/* --- zsh --- */

/* Inside '...[help]...': quotes, brackets and colons have meanings. */
static void zsh_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '\'')
            fprintf(f, "'\\''");
        else {
            if (strchr("[]:\\", *s)) fputc('\\', f);
            fputc(*s, f);
        }
    }
}

static void zsh_flag(FILE *f, const struct flag *a, bool repeats)
{
    fprintf(f, "                '%s%s%s[", repeats ? "*" : "", a->flag, a->arg ? "=" : "");
    zsh_text(f, a->help);
    fprintf(f, "]");
    if (a->arg && a->choice) {
        fprintf(f, ":value:(");
        put_words(f, a->arg);
        fprintf(f, ")");
    } else if (a->arg) {
        fprintf(f, ":");
        zsh_text(f, a->arg);
        fprintf(f, ":%s", is_folder(a->arg) ? "_files -/" : is_file(a->arg) ? "_files" : " ");
    }
    fprintf(f, "' \\\n");
}

static void zsh(FILE *f)
{
    fprintf(f, "#compdef spillway\n"
               "# Completions of spillway for zsh, made by `spillway --completion zsh`.\n"
               "_spillway() {\n"
               "    local -a commands\n"
               "    commands=(\n");
    for (int c = 0; c < COMMANDS; c++) {
        if (option_commands[c].internal) continue;
        fprintf(f, "        '%s:", option_commands[c].name);
        zsh_text(f, option_commands[c].help);
        fprintf(f, "'\n");
    }
    fprintf(f, "    )\n"
               "    if (( CURRENT == 2 )); then\n"
               "        _describe command commands\n"
               "        return\n"
               "    fi\n"
               "    local command=$words[2]\n"
               "    shift words\n"
               "    (( CURRENT-- ))\n"
               "    case $command in\n");
    for (int c = 0; c < COMMANDS; c++) {
        if (option_commands[c].internal) continue;
        fprintf(f, "        %s)\n            _arguments -s \\\n", option_commands[c].name);
        struct flag a;
        for (size_t i = 0; i < n_flags((enum command)c); i++) {
            bool repeats = i < n_option_rows && (option_is_list(&option_rows[i]) || option_rows[i].kind == OPTION_IMAGES);
            if (flag_at((enum command)c, i, &a)) zsh_flag(f, &a, repeats);
        }
        fprintf(f, "                '*:argument:{ _alternative \"words:word:(%s)\" \"files:file:_files\" }' ;;\n", verbs((enum command)c));
    }
    fprintf(f, "    esac\n}\n"
               "if [ \"$funcstack[1]\" = _spillway ]; then _spillway \"$@\"; else compdef _spillway spillway; fi\n");
}

/* --- fish --- */

static void fish_text(FILE *f, const char *s)
{
    fputc('\'', f);
    for (; *s; s++) {
        if (*s == '\'' || *s == '\\') fputc('\\', f);
        fputc(*s, f);
    }
    fputc('\'', f);
}

static void fish(FILE *f)
{
    fprintf(f, "# Completions of spillway for fish, made by `spillway --completion fish`.\n"
               "complete -c spillway -n __fish_use_subcommand -l help -d 'commands and examples'\n"
               "complete -c spillway -n __fish_use_subcommand -l version -d 'the version'\n"
               "complete -c spillway -n __fish_use_subcommand -l completion -x -a 'bash zsh fish' -d 'completions for a shell'\n");
    for (int c = 0; c < COMMANDS; c++) {
        const char *name = option_commands[c].name;
        if (option_commands[c].internal) continue;
        fprintf(f, "complete -c spillway -n __fish_use_subcommand -f -a %s -d ", name);
        fish_text(f, option_commands[c].help);
        fprintf(f, "\ncomplete -c spillway -n '__fish_seen_subcommand_from %s' -a '%s'\n", name, verbs((enum command)c));
        struct flag a;
        for (size_t i = 0; i < n_flags((enum command)c); i++) {
            if (!flag_at((enum command)c, i, &a)) continue;
            fprintf(f, "complete -c spillway -n '__fish_seen_subcommand_from %s' -l %s", name, a.flag + 2);
            if (a.arg && a.choice) {
                fprintf(f, " -x -a '");
                put_words(f, a.arg);
                fprintf(f, "'");
            } else if (a.arg)
                fprintf(f, is_folder(a.arg) ? " -x -a '(__fish_complete_directories)'" : is_file(a.arg) ? " -r -F" : " -x");
            fprintf(f, " -d ");
            fish_text(f, a.help);
            fprintf(f, "\n");
        }
    }
}

int options_docs_completion(const char *shell, FILE *f)
{
    static const struct {
        const char *shell;
        void (*print)(FILE *f);
    } rows[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].shell, shell) != 0) continue;
        rows[i].print(f);
        return 0;
    }
    return -ERR_NOT_FOUND;
}
