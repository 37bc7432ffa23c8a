/* chat [MODEL|URL]: a talk with a model on a terminal, or questions from a pipe, one a line. With a MODEL it starts a private server for the time
 * of the chat (chat_server.c); with a URL it talks to any server of OpenAI's API. Text from a model is printed with its control characters made
 * harmless. What is said is kept in memory only; /save writes it. Start reading at command_chat. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "server/cli/chat_parts.h"
#include "server/cli/command.h"

static const char *style(const struct chat *c, enum terminal_style s)
{
    return terminal_style(&c->terminal, s);
}

/* An error's text may come from a server. Colours: if standard error is what standard output is. */
static void print_error(const struct chat *c, const char *text)
{
    bool colours = c->terminal.dialogue && isatty(STDERR_FILENO);
    fflush(stdout);
    fprintf(stderr, "%s%s", colours ? style(c, STYLE_ERROR) : "", c->terminal.dialogue ? "" : "spillway: ");
    terminal_print(stderr, text, strlen(text));
    fprintf(stderr, "%s\n", colours ? style(c, STYLE_PLAIN) : "");
}

/* --- one answer --- */

struct printing {
    bool begun; /* blanks before the answer's first word are not shown */
    char last;
};

static void print_delta(void *ctx, const char *p, size_t n)
{
    struct printing *s = ctx;
    while (!s->begun && n > 0 && (*p == ' ' || *p == '\n')) {
        p++;
        n--;
    }
    if (n == 0) return;
    s->begun = true;
    s->last = p[n - 1];
    terminal_print(stdout, p, n);
}

static void print_figures(const struct chat *c, const struct chat_answer *a)
{
    printf("%s", style(c, STYLE_NOTE));
    if (a->stopped) printf("stopped; ");
    if (a->cut) printf("cut at the limit of tokens; ");
    if (a->first_ns) {
        if (a->completion_tokens >= 0) printf("%lld tokens, ", (long long)a->completion_tokens);
        double rest_s = (double)(a->last_ns - a->first_ns) / 1e9;
        if (a->completion_tokens > 1 && rest_s > 0) printf("%.1f tokens/s, ", (double)(a->completion_tokens - 1) / rest_s);
        printf("first after %.0f ms", (double)(a->first_ns - a->begun_ns) / 1e6);
    } else
        printf("no answer");
    printf("%s\n\n", style(c, STYLE_PLAIN));
    fflush(stdout);
}

/* What has come of an answer that was stopped or broken stays in the talk; if nothing has, the question is forgotten, too. */
static int ask(struct chat *c, const char *text, size_t n, struct err *e)
{
    json_t *request;
    int rc = chat_request(c, text, n, &request, e);
    if (rc) return rc;
    struct chat_answer a;
    struct printing s = {0};
    rc = chat_api_ask(&c->api, request, print_delta, &s, &a, e);
    if (s.begun && s.last != '\n') printf("\n");
    if (!s.begun && !rc && !c->terminal.dialogue) printf("\n"); /* one answer a question */
    fflush(stdout);
    if (a.text.len || (!rc && !a.stopped)) chat_keep(c, request, a.text.data, a.text.len);
    if (c->terminal.dialogue && !rc) print_figures(c, &a);
    if (a.stopped && (chat_stop_take() != SIGINT || !c->terminal.dialogue)) c->leaving = true;
    buf_free(&a.text);
    json_decref(request);
    return rc;
}

/* --- the dialogue --- */

/* The server may have ended: its last words tell why. */
static void print_failure(const struct chat *c, struct chat_server *server, struct err *e)
{
    char last[512];
    chat_server_last(server, last, sizeof last);
    print_error(c, e->msg);
    if (e->code == ERR_GONE && last[0]) print_error(c, last);
}

/* Ctrl-C with nothing typed leaves at the second time; anything else at the prompt does not count. */
static bool leave_at_stop(struct chat *c, bool line_empty, bool *warned)
{
    bool again = *warned && line_empty;
    printf("\n");
    if (!again && line_empty) printf("%sCtrl-C again or Ctrl-D leaves%s\n", style(c, STYLE_NOTE), style(c, STYLE_PLAIN));
    *warned = line_empty;
    return again;
}

static int take_message(struct chat *c, struct buf *text, struct err *e)
{
    const char *p = text->data;
    if (p[0] == '/' && p[1] != '/') return chat_command(c, p, e);
    size_t skip = p[0] == '/';
    return ask(c, p + skip, text->len - skip, e);
}

static int talk(struct chat *c, struct chat_input *in, struct chat_server *server)
{
    struct buf text;
    struct err e;
    buf_init(&text, CHAT_MAX_TEXT_BYTES + 16);
    bool warned = false, line_empty;
    int code = COMMAND_OK, rc = CHAT_LINE;
    while (!c->leaving && rc != CHAT_END) {
        rc = chat_input_read(in, &text, &line_empty, &e);
        if (rc == CHAT_STOPPED) {
            int sig = c->terminal.dialogue ? chat_stop_take() : SIGTERM;
            if (sig == SIGTERM || sig == SIGHUP || leave_at_stop(c, line_empty, &warned)) c->leaving = true;
            continue;
        }
        if (rc == CHAT_END) break;
        warned = false;
        if (rc == CHAT_LINE && text.len == 0) continue;
        if (rc == CHAT_LINE) rc = take_message(c, &text, &e);
        if (rc >= 0) continue;
        print_failure(c, server, &e);
        if (!c->terminal.dialogue) code = COMMAND_FAILED;
        if (rc == -ERR_IO) c->leaving = true;
        rc = CHAT_LINE;
    }
    if (c->terminal.dialogue && rc == CHAT_END) printf("\n");
    if (!c->terminal.dialogue && c->leaving && rc == CHAT_STOPPED) code = COMMAND_FAILED;
    buf_free(&text);
    return code;
}

/* --- begin --- */

static int connect_server(struct chat *c, struct chat_server *server, const char *target, struct err *e)
{
    char key[CHAT_KEY_BYTES];
    int rc = chat_api_key(c->o->api_key_file, key, e);
    bool url = strstr(target, "://") != NULL;
    if (!rc && !url) rc = chat_server_start(server, target, c->o, e);
    if (!rc) rc = chat_api_open(&c->api, url ? target : server->url, url ? key : server->key, e);
    explicit_bzero(key, sizeof key);
    if (rc) return rc;
    if (c->api.key[0] && !c->api.local && str_starts_with(c->api.base, "http://"))
        print_error(c, "the key and all that is said go over the network unencrypted: this is http, not https");
    if (!c->o->name) return chat_api_first_model(&c->api, c->model, e);
    if (strlen(c->o->name) >= sizeof c->model) return err_set(e, ERR_INPUT, "--name: too long");
    strcpy(c->model, c->o->name);
    return 0;
}

static int begin(struct chat *c, const struct options *o, struct err *e)
{
    int rc = o->system ? chat_set_system(c, o->system, e) : 0;
    for (int i = 0; i < o->n_images && !rc; i++) rc = chat_attach(c, o->images[i], e);
    return rc;
}

static void greet(const struct chat *c)
{
    printf("Talking to ");
    terminal_print(stdout, c->model, strlen(c->model));
    printf(". %s/help tells the commands, Ctrl-D leaves.%s\n\n", style(c, STYLE_NOTE), style(c, STYLE_PLAIN));
    fflush(stdout);
}

int command_chat(const struct options *o)
{
    struct err e = {0};
    const char *target = o->n_args ? o->args[0] : "demo";
    if (o->n_args > 1 || (o->name && !strstr(target, "://"))) {
        err_set(&e, ERR_INPUT, o->n_args > 1 ? "chat takes one MODEL or URL" : "chat: --name is for a URL; a MODEL has one name only");
        return command_usage_error(&e);
    }
    struct chat c = {.o = o};
    struct chat_server server = {0};
    struct chat_input *in = NULL;
    terminal_look(&c.terminal);
    int code = COMMAND_OK, rc = chat_stop_watch(&e);
    if (!rc) rc = chat_init(&c, &e);
    if (!rc) rc = connect_server(&c, &server, target, &e);
    if (!rc) rc = begin(&c, o, &e);
    if (!rc) rc = chat_input_open(&in, c.terminal.dialogue, &c.terminal, &e);
    if (!rc && c.terminal.dialogue) greet(&c);
    if (!rc) code = talk(&c, in, &server);
    if (rc) print_error(&c, e.msg);
    chat_input_close(in);
    chat_free(&c);
    chat_server_stop(&server);
    return rc ? COMMAND_FAILED : code;
}
