/* Docs: what is made of the tables of options and limits for readers outside the program. Used by the build (build/spillway.1,
 * build/completions) and by docs/configuration.md; a test compares the committed page with what is printed. */
#ifndef SPILLWAY_SERVER_CLI_OPTIONS_DOCS_H
#define SPILLWAY_SERVER_CLI_OPTIONS_DOCS_H

#include <stdio.h>

#include "base/err.h"

void options_docs_man(FILE *f);       /* spillway(1), in the macros of man(7) */
void options_docs_reference(FILE *f); /* docs/configuration.md */
/* shell: "bash", "zsh" or "fish"; else -ERR_NOT_FOUND and nothing is printed. */
MUST_USE int options_docs_completion(const char *shell, FILE *f);

#endif
