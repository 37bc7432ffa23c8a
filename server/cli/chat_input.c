/* chat's input: lines of a terminal, edited by libedit, or of a pipe or file as they are; and the signals that stop things. */
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <wchar.h>

#include "base/str.h"
#include "server/cli/chat_parts.h"

enum { HISTORY_LINES = 500, READ_BYTES = 4096 };

/* --- signals --- */

static int stop_fd = -1;
static volatile sig_atomic_t stop_signal;

static void note_signal(int sig)
{
    int saved = errno;
    if (stop_signal != SIGTERM && stop_signal != SIGHUP) stop_signal = sig;
    uint64_t one = 1;
    ssize_t written = write(stop_fd, &one, sizeof one);
    (void)written;
    errno = saved;
}

int chat_stop_watch(struct err *e)
{
    stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop_fd < 0) return err_set(e, ERR_IO, "eventfd: %s", strerror(errno));
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = note_signal};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
    return 0;
}

int chat_stop_fd(void)
{
    return stop_fd;
}

int chat_stop_take(void)
{
    uint64_t count;
    ssize_t n = read(stop_fd, &count, sizeof count);
    (void)n;
    int sig = stop_signal;
    if (sig != SIGTERM && sig != SIGHUP) stop_signal = 0; /* those hold for good */
    return sig;
}

/* --- lines --- */

struct chat_input {
    EditLine *el; /* NULL: not a terminal */
    History *history;
    const char *prompt;
    char first[64], more[64];
    struct buf pending; /* read, not yet handed out */
    bool ended;
};

/* 1: a byte is there or the input has ended; 0: a signal came. */
static bool wait_input(void)
{
    for (;;) {
        struct pollfd p[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR) return true;
        if (p[1].revents) return false;
        if (p[0].revents) return true;
    }
}

/* libedit's reader of one character: 1, 0 at the end, -1 after a signal. */
static int get_char(EditLine *el, wchar_t *out)
{
    (void)el;
    char bytes[4];
    uint32_t cp;
    for (size_t n = 0; n < sizeof bytes;) {
        if (!wait_input()) return -1;
        ssize_t got = read(STDIN_FILENO, bytes + n, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        int len = utf8_decode(bytes, ++n, &cp);
        if (len == 0) continue;
        *out = len > 0 ? (wchar_t)cp : L'?';
        return 1;
    }
    return -1;
}

static char *get_prompt(EditLine *el)
{
    struct chat_input *in;
    el_get(el, EL_CLIENTDATA, &in);
    return (char *)(uintptr_t)in->prompt;
}

static int open_editing(struct chat_input *in, const struct terminal *t, struct err *e)
{
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    const char *mark = t->colours ? "\1" : "", *on = terminal_style(t, STYLE_PROMPT), *off = terminal_style(t, STYLE_PLAIN);
    /* libedit forgets an escape sequence with no character behind it: the blank comes last */
    snprintf(in->first, sizeof in->first, "%s%s%s>%s%s%s ", mark, on, mark, mark, off, mark);
    snprintf(in->more, sizeof in->more, "%s%s%s.%s%s%s ", mark, on, mark, mark, off, mark);
    HistEvent event;
    in->el = el_init("spillway", stdin, stdout, stderr);
    in->history = history_init();
    if (!in->el || !in->history) return err_set(e, ERR_IO, "line editing cannot start on this terminal");
    history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    history(in->history, &event, H_SETUNIQUE, 1);
    el_set(in->el, EL_CLIENTDATA, in);
    el_set(in->el, EL_EDITOR, "emacs");
    el_set(in->el, EL_HIST, history, in->history);
    el_set(in->el, EL_PROMPT_ESC, get_prompt, '\1');
    el_set(in->el, EL_GETCFN, get_char);
    el_set(in->el, EL_ADDFN, "complete-file", "Complete a file's name", _el_fn_complete);
    el_set(in->el, EL_BIND, "^I", "complete-file", NULL);
    el_set(in->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(in->el, NULL); /* the user's ~/.editrc */
    return 0;
}

int chat_input_open(struct chat_input **out, bool editing, const struct terminal *t, struct err *e)
{
    struct chat_input *in = *out = calloc(1, sizeof *in);
    if (!in) return err_set(e, ERR_MEMORY, "out of memory");
    buf_init(&in->pending, CHAT_MAX_TEXT_BYTES + READ_BYTES);
    return editing ? open_editing(in, t, e) : 0;
}

void chat_input_close(struct chat_input *in)
{
    if (!in) return;
    if (in->el) el_end(in->el);
    if (in->history) history_end(in->history);
    buf_free(&in->pending);
    free(in);
}

static int line_too_long(struct err *e)
{
    return err_set(e, ERR_LIMIT, "a message has at most %d bytes", CHAT_MAX_TEXT_BYTES);
}

static int read_edited(struct chat_input *in, struct buf *line, bool *line_empty, struct err *e)
{
    int n = 0;
    const char *text = el_gets(in->el, &n);
    if (!text || n <= 0) {
        const LineInfo *typed = el_line(in->el);
        *line_empty = !typed || typed->lastchar == typed->buffer;
        if (!chat_stop_take()) return CHAT_END;
        el_reset(in->el);
        return CHAT_STOPPED;
    }
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r')) n--;
    HistEvent event;
    char *copy = strndup(text, (size_t)n);
    if (copy && n > 0) history(in->history, &event, H_ENTER, copy);
    free(copy);
    return buf_append(line, text, (size_t)n) ? line_too_long(e) : CHAT_LINE;
}

static int read_plain(struct chat_input *in, struct buf *line, struct err *e)
{
    char *end;
    while (!(end = in->pending.len ? memchr(in->pending.data, '\n', in->pending.len) : NULL) && !in->ended) {
        if (!wait_input()) return CHAT_STOPPED;
        char bytes[READ_BYTES];
        ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(e, ERR_IO, "standard input: %s", strerror(errno));
        in->ended = n == 0;
        if (buf_append(&in->pending, bytes, (size_t)n)) return line_too_long(e);
    }
    size_t n = end ? (size_t)(end - in->pending.data) : in->pending.len;
    if (!end && n == 0) return CHAT_END;
    if (buf_append(line, in->pending.data, n)) return line_too_long(e);
    buf_consume(&in->pending, n + (end != NULL));
    if (line->len && line->data[line->len - 1] == '\r') line->data[--line->len] = '\0';
    return CHAT_LINE;
}

static bool ends_with(const struct buf *b, const char *s)
{
    size_t n = strlen(s);
    return b->len >= n && memcmp(b->data + b->len - n, s, n) == 0;
}

/* What the line adds to the message; *open: more must come. */
static void join_line(struct buf *text, struct buf *line, bool *quoted, bool *open)
{
    bool first = !*open;
    *open = false;
    const char *p = line->data ? line->data : "";
    if (first && str_starts_with(p, "\"\"\"")) {
        *quoted = true;
        buf_consume(line, 3);
        first = line->len == 0; /* what stands behind it is the first line */
        *open = true;
        if (first) return;
    }
    if (*quoted) {
        *open = !ends_with(line, "\"\"\"");
        if (!*open) line->len -= 3;
    } else if (ends_with(line, "\\")) {
        *open = true;
        line->len--;
    }
    buf_append(text, line->data ? line->data : "", line->len);
    if (*open) buf_putc(text, '\n');
}

int chat_input_read(struct chat_input *in, struct buf *text, bool *line_empty, struct err *e)
{
    struct buf line;
    buf_init(&line, CHAT_MAX_TEXT_BYTES);
    buf_clear(text);
    bool quoted = false, open = false;
    in->prompt = in->first;
    int rc;
    do {
        buf_clear(&line);
        *line_empty = true;
        rc = in->el ? read_edited(in, &line, line_empty, e) : read_plain(in, &line, e);
        if (rc == CHAT_LINE) join_line(text, &line, &quoted, &open);
        if (rc == CHAT_STOPPED && open) *line_empty = false;
        in->prompt = in->more;
    } while (rc == CHAT_LINE && open && !text->failed);
    buf_free(&line);
    if (rc == CHAT_END && text->len) rc = CHAT_LINE; /* the end of the input closes what is open */
    if (quoted && ends_with(text, "\n")) text->data[--text->len] = '\0';
    if (rc < 0 || rc != CHAT_LINE) return rc;
    if (text->failed) return line_too_long(e);
    if (!utf8_valid(text->data ? text->data : "", text->len)) return err_set(e, ERR_INPUT, "this is not valid UTF-8");
    return CHAT_LINE;
}
