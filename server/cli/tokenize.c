/* tokenize MODEL: prints the ids of a text (standard input, or --text) as a JSON array; with --decode the text is ids
 * (a JSON array, or numbers with blanks between them) and what they stand for is printed. The text is trusted: control
 * tokens in it are control tokens. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer.h"
#include "server/cli/command.h"
#include "server/cli/model_path.h"

enum { TEXT_MAX_BYTES = 64 << 20, TOKENS_MAX = 64 << 20 };

static int print_ids(const struct tokenizer *t, const struct buf *text, struct err *e)
{
    struct tokens ids;
    tokens_init(&ids, TOKENS_MAX);
    int rc = tokenizer_encode(t, (struct marked_text){.text = text->data, .n = text->len}, 0, &ids, e);
    if (!rc) {
        putchar('[');
        for (size_t i = 0; i < ids.n; i++) printf("%s%d", i ? ", " : "", (int)ids.ids[i]);
        printf("]\n");
    }
    tokens_free(&ids);
    return rc;
}

/* "[1, 2]" and "1 2": brackets and commas count as blanks. */
static int print_text(const struct tokenizer *t, char *text, struct err *e)
{
    struct tokens ids;
    struct buf out;
    tokens_init(&ids, TOKENS_MAX);
    buf_init(&out, 1u << 30);
    int rc = 0;
    char *rest;
    for (char *word = strtok_r(text, "[], \t\r\n", &rest); word && !rc; word = strtok_r(NULL, "[], \t\r\n", &rest)) {
        int64_t id;
        if (!str_parse_int64(word, 0, tokenizer_size(t) - 1, &id))
            rc = err_set(e, ERR_INPUT, "'%.40s' is not a token id from 0 to %d", word, (int)tokenizer_size(t) - 1);
        else if (tokens_push(&ids, (int32_t)id))
            rc = err_set(e, ERR_LIMIT, "too many ids");
    }
    if (!rc && tokenizer_decode(t, ids.ids, ids.n, false, &out)) rc = err_set(e, ERR_MEMORY, "the text is too large");
    if (!rc) {
        fwrite(out.data ? out.data : "", 1, out.len, stdout);
        putchar('\n');
    }
    tokens_free(&ids);
    buf_free(&out);
    return rc;
}

int command_tokenize(const struct options *o)
{
    struct err e = {0};
    char path[4096];
    if (o->n_args != 1) {
        err_set(&e, ERR_INPUT, "tokenize takes one MODEL (see spillway tokenize --help)");
        return command_usage_error(&e);
    }
    struct buf text;
    struct tokenizer *t = NULL;
    buf_init(&text, TEXT_MAX_BYTES);
    int rc = model_path_find(o->args[0], path, sizeof path, &e);
    if (!rc) rc = tokenizer_open(&t, path, &e);
    if (!rc && o->text)
        rc = buf_puts(&text, o->text) ? err_set(&e, ERR_LIMIT, "--text is too long") : 0;
    else if (!rc)
        rc = buf_read_file(&text, "/dev/stdin", &e);
    if (!rc) rc = o->decode ? print_text(t, text.data, &e) : print_ids(t, &text, &e);
    buf_free(&text);
    tokenizer_close(t);
    return rc ? command_error(&e) : COMMAND_OK;
}
