/* Terminal: see terminal.h. */
#include "server/cli/terminal.h"

#include <unistd.h>

#include "base/str.h"
#include "server/cli/env.h"

void terminal_look(struct terminal *t)
{
    bool out = isatty(STDOUT_FILENO) && env_terminal_moves();
    t->dialogue = out && isatty(STDIN_FILENO);
    t->colours = out && !env_no_color();
}

const char *terminal_style(const struct terminal *t, enum terminal_style s)
{
    static const char *const begins[TERMINAL_STYLES] = {
        [STYLE_PLAIN] = "\x1b[0m",  [STYLE_PROMPT] = "\x1b[1;36m", [STYLE_NOTE] = "\x1b[2m",
        [STYLE_ERROR] = "\x1b[31m", [STYLE_GOOD] = "\x1b[32m",     [STYLE_WARN] = "\x1b[33m",
    };
    return t->colours ? begins[s] : "";
}

bool terminal_can_redraw(void)
{
    return isatty(STDERR_FILENO) && env_terminal_moves();
}

void terminal_clean(struct buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0xfffd;
        char replaced[4];
        int len = utf8_decode(p + i, n - i, &cp);
        size_t used = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - i;
        if (len > 0 && (cp == '\n' || cp == '\t' || !utf8_is_control(cp)))
            buf_append(out, p + i, used);
        else if (cp != '\r' || len <= 0)
            buf_append(out, replaced, utf8_encode(len <= 0 || cp > 0x7f ? 0xfffd : cp == 0x7f ? 0x2421 : 0x2400 + cp, replaced));
        i += used;
    }
}

void terminal_print(FILE *f, const char *p, size_t n)
{
    struct buf clean;
    buf_init(&clean, 4 * n + 16);
    terminal_clean(&clean, p, n);
    if (clean.len) fwrite(clean.data, 1, clean.len, f);
    fflush(f);
    buf_free(&clean);
}
