/* Terminal: what standard input and output are, and text from elsewhere made harmless for them. */
#ifndef SPILLWAY_SERVER_CLI_TERMINAL_H
#define SPILLWAY_SERVER_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

#include "base/buf.h"

enum terminal_style { STYLE_PLAIN, STYLE_PROMPT, STYLE_NOTE, STYLE_ERROR, STYLE_GOOD, STYLE_WARN, TERMINAL_STYLES };

struct terminal {
    bool dialogue; /* standard input and output are terminals that can move their cursor: editing, prompts, notes */
    bool colours;  /* standard output is a terminal and NO_COLOR is not set */
};

void terminal_look(struct terminal *t);
/* The escape sequence that begins a style; "" without colours. */
const char *terminal_style(const struct terminal *t, enum terminal_style s);
/* Standard error is a terminal that can move its cursor. */
bool terminal_can_redraw(void);

/* Appends n bytes of somebody else's text. Line ends and tabs stay, carriage returns are left out; other control characters become their
 * pictures (U+2400...), C1 controls, direction overrides and what is not UTF-8 become U+FFFD. So no escape sequence gets through. Pieces must
 * end with whole characters. */
void terminal_clean(struct buf *out, const char *p, size_t n);
/* The same, to a stream, flushed. */
void terminal_print(FILE *f, const char *p, size_t n);

#endif
