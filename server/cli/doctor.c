/* doctor [MODEL ...]: looks at this machine, at what `serve` would need with the same options, and at model folders; one finding a line: ok,
 * warning or problem, in words, and what to do. It changes nothing. Exit code 1 if there is a problem. The table of checks is here. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/str.h"
#include "server/cli/command.h"
#include "server/cli/doctor_parts.h"
#include "server/cli/terminal.h"

struct doctor {
    const struct options *o;
    struct terminal terminal;
    json_t *checks; /* --json: an array; else NULL */
    unsigned count[DOCTOR_LEVELS];
};

static void (*const checks[])(struct doctor *d) = {
    doctor_processor, doctor_memory, doctor_gpu,  doctor_descriptors, doctor_kernel, doctor_cage,
    doctor_clock,     doctor_port,   doctor_data, doctor_key_file,    doctor_disk,
};

static const char *const level_names[DOCTOR_LEVELS] = {"ok", "warning", "problem"};

const struct options *doctor_options(const struct doctor *d)
{
    return d->o;
}

static void print_line(const struct doctor *d, const char *name, enum doctor_level level, const char *text, const char *advice)
{
    static const enum terminal_style styles[DOCTOR_LEVELS] = {STYLE_GOOD, STYLE_WARN, STYLE_ERROR};
    printf("%s%-8s%s %-12s ", terminal_style(&d->terminal, styles[level]), level_names[level], terminal_style(&d->terminal, STYLE_PLAIN),
           name);
    terminal_print(stdout, text, strlen(text));
    if (advice) printf(": ");
    if (advice) terminal_print(stdout, advice, strlen(advice));
    printf("\n");
}

void doctor_say(struct doctor *d, const char *name, enum doctor_level level, const char *advice, const char *fmt, ...)
{
    char raw[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    struct buf text;
    buf_init(&text, 4 * sizeof raw);
    terminal_clean(&text, raw, strlen(raw)); /* names of files and values of theirs: made valid UTF-8, too */
    for (char *p = text.data; p && *p; p++)
        if (*p == '\n' || *p == '\t') *p = ' ';
    const char *shown = text.data ? text.data : "";
    d->count[level]++;
    if (d->checks)
        json_array_append_new(
            d->checks, json_pack("{s:s, s:s, s:s, s:s?}", "name", name, "status", level_names[level], "message", shown, "advice", advice));
    else
        print_line(d, name, level, shown, advice);
    buf_free(&text);
}

static int print_json(const struct doctor *d)
{
    json_t *all = json_pack("{s:b, s:O}", "ok", d->count[DOCTOR_PROBLEM] == 0, "checks", d->checks);
    struct buf b;
    buf_init(&b, 1 << 20);
    int rc = all ? json_write(&b, all) : -ERR_MEMORY;
    if (!rc) printf("%s\n", b.data);
    buf_free(&b);
    json_decref(all);
    return rc;
}

int command_doctor(const struct options *o)
{
    struct doctor d = {.o = o, .checks = o->json ? json_array() : NULL};
    terminal_look(&d.terminal);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) checks[i](&d);
    if (o->n_args == 0) doctor_model(&d, "demo");
    for (int i = 0; i < o->n_args; i++) doctor_model(&d, o->args[i]);
    int rc = d.checks ? print_json(&d) : 0;
    json_decref(d.checks);
    if (!o->json)
        printf("\n%u ok, %u warning%s, %u problem%s\n", d.count[DOCTOR_OK], d.count[DOCTOR_WARNING],
               d.count[DOCTOR_WARNING] == 1 ? "" : "s", d.count[DOCTOR_PROBLEM], d.count[DOCTOR_PROBLEM] == 1 ? "" : "s");
    return rc || d.count[DOCTOR_PROBLEM] ? COMMAND_FAILED : COMMAND_OK;
}
