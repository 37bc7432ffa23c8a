/* Help: what `--help` prints, from the tables. Wrapped for a terminal of 80 columns; common options first, limits only when asked for. */
#include <string.h>

#include "server/cli/options_table.h"

enum { LEFT = 28, WIDTH = 80 };

const struct option_group option_groups[] = {
    {0, "Options"},
    {MARK_ACCESS, "Who may call"},
    {MARK_ENGINE, "Models and engine"},
    {MARK_ALERTS, "Alerts"},
    {MARK_LOG, "Log"},
};
const size_t n_option_groups = sizeof option_groups / sizeof option_groups[0];

const char *const *option_examples(enum command c)
{
    static const char *const serve[] = {"# the built-in model on 127.0.0.1:8080",
                                        "spillway serve",
                                        "# two models, for other machines, over TLS",
                                        "spillway serve ./SmolVLM-500M-Instruct ./SmolLM2-360M-Instruct \\\n"
                                        "    --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem",
                                        "# what a file and the command line come to",
                                        "spillway serve --config spillway.yaml --print-config",
                                        NULL};
    static const char *const generate[] = {"# ask the built-in model about a picture",
                                           "spillway generate demo --prompt \"What is shown?\" --image cat.jpg", NULL};
    static const char *const tokenize[] = {"# count the tokens of a file", "spillway tokenize demo < text.txt", NULL};
    static const char *const keys[] = {"# a key for a month, and for scripts", "spillway keys add alice --expires 30d --json",
                                       "# a new secret for key 2; the old one holds for a day", "spillway keys rotate 2", NULL};
    static const char *const accounts[] = {"# who there is, and what they have; more of one of them",
                                           "spillway accounts list",
                                           "spillway accounts show 2",
                                           "# a project with a key of its own, paid in advance, 20 dollars a day at most",
                                           "spillway accounts create organisation Acme",
                                           "spillway accounts create project web --organisation 6",
                                           "spillway keys add web --project 7",
                                           "spillway accounts prepaid 7 0",
                                           "spillway accounts deposit 7 500.00 --note 'invoice 17'",
                                           "spillway accounts budget add 7 20 --period day",
                                           "spillway accounts limit 7 --rpm 600 --concurrency 32",
                                           "# other ways money moves: new transfers, never changed ones",
                                           "spillway accounts refund|adjust|chargeback 7 12.50 --linked 4711",
                                           "spillway accounts pay 12 40.00 --note 'their invoice 3' --once groq-2026-11",
                                           "# all of a project's requests are refused from now on, and no longer",
                                           "spillway accounts freeze|unfreeze|close 7",
                                           "spillway accounts storage 7 on",
                                           "spillway accounts rename 7 website",
                                           "spillway accounts budget list 7; spillway accounts budget end 1",
                                           "# what requests may use; what holds already; none of it any more",
                                           "spillway accounts rules 7 --providers groq,openai --regions eu --max-price-out 2.50",
                                           "spillway accounts rules 7",
                                           "spillway accounts rules 7 --providers any --regions any --max-price-out any",
                                           "# what operators were told, and whether the webhook hears; docs/accounts.md",
                                           "spillway accounts alert list; spillway accounts alert test",
                                           "# a local model's price, or (sale) what a name is sold for",
                                           "spillway accounts price set local demo --input 0.10 --output 0.40",
                                           "spillway accounts price list|history|end [PROVIDER MODEL]",
                                           "# 7.5 % more than the provider takes; an hour of the GPU, and whether that is cheaper",
                                           "spillway accounts price markup groq|all 7.5",
                                           "spillway accounts price gpu-hour demo 2.10; spillway accounts break-even",
                                           "# a month of a project or supplier; what was used; all of it for other programs",
                                           "spillway accounts statement 7 --month 2026-11",
                                           "spillway accounts usage --by model,supplier --from 2026-11-01",
                                           "spillway accounts export transfers|requests > all.csv",
                                           "# a provider's own figures held against ours",
                                           "spillway accounts reconcile usage.csv --supplier groq --threshold 0.05",
                                           "# the store: copies, and the way to PostgreSQL",
                                           "spillway accounts backup FILE; spillway accounts restore FILE",
                                           "spillway accounts move postgresql://spillway@db/spillway",
                                           "spillway accounts prune --older-than 400",
                                           NULL};
    static const char *const models[] = {"# what is there, and how much memory it takes; the key is an admin's",
                                         "SPILLWAY_API_KEY=$(cat admin.key) spillway models list",
                                         "# one more model, quantised, from below a --model-root of the server",
                                         "spillway models load SmolVLM-500M-Instruct --name small --quant int8 \\\n"
                                         "    --api-key-file admin.key",
                                         "# what it runs is finished, then its memory is free",
                                         "spillway models unload small --api-key-file admin.key",
                                         NULL};
    static const char *const pull[] = {"# into ~/.cache/huggingface/hub, where other programs find it, too; then serve it",
                                       "spillway pull HuggingFaceTB/SmolVLM-500M-Instruct",
                                       "spillway serve HuggingFaceTB/SmolVLM-500M-Instruct",
                                       "# a gated or private one, of a certain revision",
                                       "HF_TOKEN=hf_... spillway pull owner/name@v1.0",
                                       NULL};
    static const char *const chat[] = {"# talk with the built-in model; /help lists what can be said", "spillway chat",
                                       "# with a model of a server that runs",
                                       "spillway chat http://127.0.0.1:8080/v1 --api-key-file key.txt", NULL};
    static const char *const doctor[] = {"# before a first start, with the options that serve will have",
                                         "spillway doctor /srv/models/SmolLM2-360M-Instruct --listen 0.0.0.0:8080", NULL};
    static const char *const eval[] = {"# perplexity of the built-in model", "spillway eval demo", "# what computing in bf16 costs",
                                       "spillway eval demo --compute f32 --against demo --against-compute bf16", NULL};
    static const char *const config[] = {"# before a reload",
                                         "spillway config check /etc/spillway/spillway.yaml && systemctl reload spillway", NULL};
    static const char *const bench[] = {"# what it would cost to compare them; nothing is sent",
                                        "spillway bench --targets local,openai:gpt-4o-mini --dry-run",
                                        "# do it: 100 requests each, 8 at once, for half a dollar at most",
                                        "OPENAI_API_KEY=sk-... spillway bench --targets local,openai:gpt-4o-mini \\\n"
                                        "    --count 100 --concurrency 8 --max-cost 0.50 --gpu-hour 2.50 --json bench.json",
                                        NULL};
    static const char *const *const rows[COMMANDS] = {
        [COMMAND_SERVE] = serve, [COMMAND_GENERATE] = generate, [COMMAND_TOKENIZE] = tokenize, [COMMAND_KEYS] = keys,
        [COMMAND_ACCOUNTS] = accounts,
        [COMMAND_MODELS] = models, [COMMAND_PULL] = pull,         [COMMAND_CHAT] = chat,         [COMMAND_DOCTOR] = doctor,
        [COMMAND_CONFIG] = config, [COMMAND_EVAL] = eval,         [COMMAND_BENCH] = bench};
    return rows[c];
}

/* Words of `text` from column `at` on; lines after the first begin at column LEFT. Ends the line. */
static void put_wrapped(FILE *f, size_t at, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > LEFT && at + n + 1 > WIDTH) {
            fprintf(f, "\n%*s", LEFT, "");
            at = LEFT;
        }
        fprintf(f, "%s%.*s", at > LEFT ? " " : "", (int)n, text);
        at += n + (at > LEFT);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}

static void put_row(FILE *f, const char *left, const char *help, const char *initial)
{
    char text[512];
    snprintf(text, sizeof text, "%s%s%s%s", help, initial ? " (default " : "", initial ? initial : "", initial ? ")" : "");
    size_t n = strlen(left) + 2;
    fprintf(f, "  %s", left);
    if (n + 2 > LEFT) {
        fprintf(f, "\n%*s", LEFT, "");
    } else
        fprintf(f, "%*s", (int)(LEFT - n), "");
    put_wrapped(f, LEFT, text);
}

static void put_option(FILE *f, enum command c, const struct option_row *r)
{
    char left[128];
    snprintf(left, sizeof left, "%s%s%s", r->flag, r->arg ? " " : "", r->arg ? r->arg : "");
    put_row(f, left, r->help, option_initial(r, c));
}

static void put_examples(FILE *f, enum command c)
{
    const char *const *lines = option_examples(c);
    if (!lines) return;
    fprintf(f, "\nExamples:\n");
    for (; *lines; lines++)
        for (const char *p = *lines; *p;) {
            size_t n = strcspn(p, "\n");
            fprintf(f, "  %.*s\n", (int)n, p);
            p += n + (p[n] == '\n');
        }
}

static void put_group(FILE *f, enum command c, unsigned mark, const char *title)
{
    bool begun = false;
    for (size_t i = 0; i < n_option_rows; i++) {
        const struct option_row *r = &option_rows[i];
        bool here = c != COMMAND_SERVE || (r->commands & MARK_GROUPS) == mark;
        if (!option_is_on(r, c) || !here) continue;
        if (!begun) fprintf(f, "\n%s:\n", title);
        begun = true;
        put_option(f, c, r);
    }
}

void options_help(enum command c, bool all, FILE *f)
{
    const struct command_row *row = &option_commands[c];
    fprintf(f, "usage: spillway %s%s%s [options]\n%s\n", row->name, *row->args ? " " : "", row->args, row->help);
    put_examples(f, c);
    for (size_t i = 0; i < (c == COMMAND_SERVE ? n_option_groups : 1); i++) put_group(f, c, option_groups[i].mark, option_groups[i].title);
    if (c != COMMAND_SERVE) return;
    if (!all) {
        fprintf(
            f, "\nLimits: %zu more options bound what requests, connections and workers may take;\nspillway serve --help-all lists them.\n",
            n_limit_rows);
        return;
    }
    fprintf(f, "\nLimits (sizes: 64KiB, 20MB; times: 10s, 500ms, 2m):\n");
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *r = &limit_rows[i];
        static const char *const units[] = {[LIMIT_COUNT] = "N", [LIMIT_BYTES] = "SIZE", [LIMIT_MS] = "TIME"};
        char left[128];
        snprintf(left, sizeof left, "%s %s", r->flag, units[r->unit]);
        put_row(f, left, r->help, r->initial);
    }
}

void options_help_program(FILE *f)
{
    fprintf(f, "usage: spillway COMMAND [options]\n"
               "\n"
               "Serves small language and vision-language models behind the OpenAI API.\n"
               "\n"
               "Commands:\n");
    for (int i = 0; i < COMMANDS; i++)
        if (!option_commands[i].internal) put_row(f, option_commands[i].name, option_commands[i].help, NULL);
    fprintf(f, "\n"
               "Examples:\n"
               "  # serve the built-in model; the first start prints an API key\n"
               "  spillway serve\n"
               "  # ask it\n"
               "  curl http://127.0.0.1:8080/v1/chat/completions -H \"Authorization: Bearer $KEY\" \\\n"
               "      -H 'Content-Type: application/json' \\\n"
               "      -d '{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n"
               "  # or talk with it in the terminal\n"
               "  spillway chat\n"
               "\n"
               "spillway COMMAND --help tells a command's options; spillway --version the version;\n"
               "spillway --completion bash|zsh|fish prints completions for a shell.\n");
}
