/* Docs: the manual page and the reference of the configuration, from the tables of options and limits. See options_docs.h. */
#include "server/cli/options_docs.h"

#include <string.h>

#include "server/cli/options_table.h"

/* --- manual page --- */

static void man_text(FILE *f, const char *s)
{
    if (*s == '.' || *s == '\'') fprintf(f, "\\&");
    for (; *s; s++) {
        if (*s == '\\')
            fprintf(f, "\\e");
        else if (*s == '-')
            fprintf(f, "\\-");
        else
            fputc(*s, f);
    }
}

static void man_row(FILE *f, const char *flag, const char *arg, const char *help, const char *initial)
{
    fprintf(f, ".TP\n.B ");
    man_text(f, flag);
    if (arg) {
        fprintf(f, " \\fI");
        man_text(f, arg);
        fprintf(f, "\\fR");
    }
    fprintf(f, "\n");
    man_text(f, help);
    if (initial) {
        fprintf(f, " (default ");
        man_text(f, initial);
        fprintf(f, ")");
    }
    fprintf(f, ".\n");
}

/* *any: there is text above. */
static void man_examples(FILE *f, enum command c, bool *any)
{
    const char *const *lines = option_examples(c);
    for (; lines && *lines; lines++) {
        if (**lines == '#') {
            fputs(*any ? ".PP\n" : "", f);
            *any = true;
            man_text(f, *lines + 2);
            fprintf(f, ":\n");
            continue;
        }
        fprintf(f, ".PP\n.nf\n.RS\n");
        man_text(f, *lines);
        fprintf(f, "\n.RE\n.fi\n");
    }
}

static void man_command(FILE *f, enum command c)
{
    const struct command_row *row = &option_commands[c];
    fprintf(f, ".SS \"spillway %s ", row->name);
    man_text(f, row->args);
    fprintf(f, "\"\n");
    man_text(f, row->help);
    fprintf(f, ".\n");
    for (size_t i = 0; i < n_option_rows; i++)
        if (option_is_on(&option_rows[i], c))
            man_row(f, option_rows[i].flag, option_rows[i].arg, option_rows[i].help, option_initial(&option_rows[i], c));
}

static void man_head(FILE *f)
{
    fprintf(f,
            ".\\\" Made by `spillway --man` from the tables of options and limits.\n"
            ".TH SPILLWAY 1 %s \"spillway %s\" \"User Commands\"\n"
            ".SH NAME\n"
            "spillway \\- serve small language and vision\\-language models behind the OpenAI API\n"
            ".SH SYNOPSIS\n",
            SPILLWAY_DATE, SPILLWAY_VERSION);
    bool first = true;
    for (int c = 0; c < COMMANDS; c++) {
        if (option_commands[c].internal) continue;
        if (!first) fprintf(f, ".br\n");
        first = false;
        fprintf(f, ".B spillway %s\n", option_commands[c].name);
        if (*option_commands[c].args) {
            man_text(f, option_commands[c].args);
            fprintf(f, "\n");
        }
        fprintf(f, ".RI [ options ]\n");
    }
    fprintf(f, ".SH DESCRIPTION\n"
               "One program: a gateway that speaks HTTP, a worker process for each model, and caged processes that decode pictures.\n"
               "A model is a folder in the form of Hugging Face, or\n"
               ".BR demo ,\n"
               "the one that is built in.\n"
               "Results go to standard output, all else to standard error.\n"
               ".SH COMMANDS\n");
}

static void man_tail(FILE *f)
{
    fprintf(f, ".SH \"CONFIGURATION FILE\"\n"
               "Each option of\n"
               ".B spillway serve\n"
               "is a key of a YAML file: the same word with\n"
               ".B _\n"
               "in place of\n"
               ".BR \\- ,\n"
               "limits below\n"
               ".BR limits: ,\n"
               "the models as a list\n"
               ".BR models: .\n"
               "The command line wins over the file, the file over the defaults.\n"
               ".PP\n"
               ".nf\n"
               ".RS\n"
               "models:\n"
               "  \\- path: /srv/models/SmolVLM\\-500M\\-Instruct\n"
               "    name: smolvlm\n"
               "listen: 127.0.0.1:8080\n"
               "limits:\n"
               "  max_body_bytes: 20MiB\n"
               ".RE\n"
               ".fi\n"
               ".SH SIGNALS\n"
               ".TP\n"
               ".B SIGTERM, SIGINT\n"
               "Takes nothing new, finishes what runs, at most for\n"
               ".BR \\-\\-drain\\-timeout ,\n"
               "and leaves; a second one leaves at once.\n"
               ".TP\n"
               ".B SIGHUP\n"
               "Reads the configuration file again. If it is not valid, nothing changes and the log says why.\n"
               ".SH ENVIRONMENT\n"
               ".TP\n"
               ".B SPILLWAY_API_KEY\n"
               "The first API key.\n"
               ".TP\n"
               ".B XDG_DATA_HOME\n"
               "Accounts and keys are in its folder\n"
               ".I spillway\n"
               "(default:\n"
               ".IR ~/.local/share ).\n"
               ".TP\n"
               ".B HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE\n"
               "Models of the Hugging Face Hub are found and downloaded by these, as its own programs do: the access token or the file it is in,\n"
               "the address (default: https://huggingface.co), the folder of token and cache (default:\n"
               ".IR ~/.cache/huggingface ),\n"
               "the cache alone, and 1 for no network. The token is never printed, and no other process of the server has it.\n"
               ".TP\n"
               ".B LISTEN_FDS, LISTEN_PID\n"
               "A listening socket that systemd hands down.\n"
               ".SH \"EXIT STATUS\"\n"
               "0: done; 1: failed, the reason is on standard error; 2: wrong usage.\n"
               ".SH EXAMPLES\n");
    bool any = false;
    for (int c = 0; c < COMMANDS; c++)
        if (!option_commands[c].internal) man_examples(f, (enum command)c, &any);
}

void options_docs_man(FILE *f)
{
    static const char *const units[] = {[LIMIT_COUNT] = "N", [LIMIT_BYTES] = "SIZE", [LIMIT_MS] = "TIME"};
    char min[32], max[32], help[512];
    man_head(f);
    for (int c = 0; c < COMMANDS; c++)
        if (!option_commands[c].internal) man_command(f, (enum command)c);
    fprintf(f, ".SH LIMITS\n"
               "Options of\n"
               ".BR \"spillway serve\" .\n"
               "Sizes are bytes or have a unit (64KiB, 20MB), times are seconds or have one (500ms, 2m, 1h).\n");
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *r = &limit_rows[i];
        snprintf(help, sizeof help, "%s; from %s to %s", r->help, limit_print(r->unit, r->min, min), limit_print(r->unit, r->max, max));
        man_row(f, r->flag, units[r->unit], help, r->initial);
    }
    man_tail(f);
}

/* --- docs/configuration.md --- */

/* A table's cell: '|' would end it, '<' and '*' mean something. */
static void cell(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (strchr("|<*", *s)) fputc('\\', f);
        fputc(*s, f);
    }
}

static void code(FILE *f, const char *s)
{
    if (!s) return;
    fputc('`', f);
    for (; *s; s++) {
        if (*s == '|') fputc('\\', f);
        fputc(*s, f);
    }
    fputc('`', f);
}

static void reference_option(FILE *f, const struct option_row *r)
{
    static const char *const kinds[] = {
        [OPTION_FLAG] = "true or false",
        [OPTION_INT] = "number",
        [OPTION_REAL] = "number",
        [OPTION_TEXT] = "text",
        [OPTION_STORE] = "URL",
        [OPTION_ADDRESS] = "address",
        [OPTION_CHOICE] = NULL,
        [OPTION_GPUS] = "numbers",
        [OPTION_IMAGES] = "list",
        [OPTION_NAMES] = "list of names",
        [OPTION_NETWORKS] = "list of networks",
        [OPTION_ORIGINS] = "list of origins",
        [OPTION_HOSTS] = "list of hosts",
    };
    char key[OPTIONS_KEY_BYTES];
    fprintf(f, "| `%s` | ", option_key(r->flag, key));
    if (r->kind == OPTION_CHOICE)
        code(f, r->arg);
    else if (r->kind == OPTION_INT)
        fprintf(f, "%.0f to %.0f", r->min, r->max);
    else
        fputs(kinds[r->kind], f);
    fprintf(f, " | ");
    code(f, r->initial);
    fprintf(f, " | %s | ", r->commands & MARK_RELOADS ? "yes" : "");
    cell(f, r->help);
    fprintf(f, " |\n");
}

static void reference_limits(FILE *f)
{
    char key[OPTIONS_KEY_BYTES], min[32], max[32];
    fprintf(f, "\n## Limits\n"
               "\n"
               "Below `limits:`; on the command line with dashes (`--max-headers 32`). Each has a least and a greatest value, so none can "
               "be switched off\n"
               "by accident; where 0 means \"any\" the text says so. All are taken over by a reload. The last column names the fault test\n"
               "(`make test T=fault`) that holds it.\n"
               "\n"
               "| key | default | from | to | what it bounds | test |\n"
               "|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *r = &limit_rows[i];
        fprintf(f, "| `%s` | `%s` | %s | %s | ", option_key(r->flag, key), r->initial, limit_print(r->unit, r->min, min),
                limit_print(r->unit, r->max, max));
        cell(f, r->help);
        fprintf(f, " | %s |\n", r->test);
    }
}

void options_docs_reference(FILE *f)
{
    fprintf(
        f,
        "# Configuration\n"
        "\n"
        "<!-- Made by `build/spillway --reference > docs/configuration.md` from the tables of options and limits. Do not edit. -->\n"
        "\n"
        "`spillway serve` is configured by its command line, by one YAML file (`--config FILE`), or both: the command line wins over the "
        "file, the\n"
        "file over the defaults. Each option is a key of the file, with `_` in place of `-` and without the leading dashes.\n"
        "\n"
        "```yaml\n"
        "models:                       # on the command line: spillway serve FOLDER FOLDER\n"
        "  - path: /srv/models/SmolVLM-500M-Instruct\n"
        "    name: smolvlm             # default: the folder's name\n"
        "    public_name: HuggingFaceTB/SmolVLM-500M-Instruct  # by which providers may have it, too; default: the name, if it looks so\n"
        "    stand_ins: groq/openai/gpt-oss-20b   # hosted models that may answer for it, in this order\n"
        "    takes_over: openai/gpt-5-mini        # hosted models whose requests it answers when the budget for them has ended\n"
        "  - path: demo\n"
        "providers:\n"
        "  - provider: groq            # the key is in $GROQ_API_KEY\n"
        "aliases:                      # names of your own\n"
        "  - name: chat-small\n"
        "    routes: demo, groq/openai/gpt-oss-20b*3 | openai/gpt-5-mini   # first demo; then the two others, 3 to 1\n"
        "    policy: priority          # or local-first, cheapest, fastest, weighted\n"
        "overflow_usd_per_hour: \"2.00\"\n"
        "listen: 127.0.0.1:8080\n"
        "trusted_proxy: [10.0.0.0/8]\n"
        "limits:\n"
        "  max_body_bytes: 20MiB\n"
        "  drain_timeout: 1m\n"
        "```\n"
        "\n"
        "- `spillway config check FILE` tells everything that is wrong, with line and column, and exits with 1 if there is anything.\n"
        "- `spillway serve --config FILE --print-config` prints what file and command line come to, as such a file. Keys are never in it.\n"
        "- `kill -HUP` reads the file again. If it is not valid, nothing changes and the log says why. What the tables call reloadable is "
        "taken over\n"
        "  at once; running requests keep the limits that they began with. Other changes are named in the log and wait for a restart. "
        "Certificates\n"
        "  and the key file are read again, too.\n"
        "- Sizes are bytes or have a unit: `64KiB`, `20MB`. Times are seconds or have a unit: `500ms`, `10s`, `2m`, `1h`.\n"
        "- Paths are relative to the folder in which the server is started.\n"
        "- The file is UTF-8, at most 1 MiB, one document, without anchors, aliases and tags. Unknown keys and keys that are there twice "
        "are errors.\n"
        "- A model's `path` is a folder, `demo`, or `owner/name` (`@revision`) of the Hugging Face Hub: [hub.md](hub.md).\n"
        "- `providers` has an entry for each hosted provider: [providers.md](providers.md), \"Settings of a host\". Read again by `kill -HUP`, with the\n"
        "  price tables and with `aliases`, `stand_ins` and the like; keys from files, too, while those of variables are as they were at the start.\n"
        "- Of the environment only `SPILLWAY_API_KEY`, providers' keys, `XDG_DATA_HOME`, `HOME`, the hub's variables ([hub.md](hub.md)), and systemd's "
        "`LISTEN_FDS` and\n"
        "  `LISTEN_PID` are read.\n"        "\n"
        "Sizes print as KiB = 1024, MiB = 1024 KiB; `k`, `M` and `G` mean the same, `KB`, `MB` and `GB` are powers of 1000.\n");
    for (size_t g = 0; g < n_option_groups; g++) {
        fprintf(f, "\n## %s\n\n| key | value | default | reloadable | |\n|---|---|---|---|---|\n", option_groups[g].title);
        for (size_t i = 0; i < n_option_rows; i++)
            if (option_is_key(&option_rows[i]) && (option_rows[i].commands & MARK_GROUPS) == option_groups[g].mark)
                reference_option(f, &option_rows[i]);
    }
    reference_limits(f);
}
