/* Tokenizer, inner part: what tokenizer_load.c builds and the other files run.
 *
 * Tokens are kept as the bytes they stand for. A byte-level vocabulary spells bytes as printable characters (GPT-2's alphabet); they are
 * turned back into bytes at load, so that encoding never makes the detour. */
#ifndef SPILLWAY_ENGINE_TEXT_TOKENIZER_PARTS_H
#define SPILLWAY_ENGINE_TEXT_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/arena.h"
#include "engine/text/tokenizer.h"

enum { TOKENIZER_MAX_ID = 1 << 20, TOKENIZER_MAX_CONTENT = 4096, TOKENIZER_MAX_STEPS = 16, TOKENIZER_MAX_TEXT_BYTES = 256 << 20 };

/* One id. */
struct token_info {
    char *bytes; /* what it stands for in streamed text: NULL for a gap */
    uint32_t n;
    char *reference; /* added tokens only, where the reference's whole decode differs: their characters read as byte-level letters */
    uint32_t n_reference;
    bool special, added;
};

/* Byte strings to ids; open addressing, filled once. */
struct token_map {
    int32_t *slots; /* id + 1, 0 = empty */
    size_t mask;
};

struct merge {
    int32_t left, right, result; /* left < 0: empty slot */
    uint32_t rank;
};

struct merge_map {
    struct merge *slots;
    size_t mask;
};

struct added_token {
    char *content;
    uint32_t n;
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized, forbidden;
};

/* A trie over added tokens' contents. Node 0 is the root; children are a linked list. */
struct trie_node {
    uint32_t child, sibling;
    int32_t token; /* index into added, -1: none */
    unsigned char byte;
};
struct trie {
    struct trie_node *nodes;
    size_t n, cap;
    bool first[256]; /* bytes that a content begins with */
};

enum split_kind { SPLIT_DIGITS, SPLIT_DIGIT_RUNS, SPLIT_ISOLATE, SPLIT_REMOVE };
struct split_step {
    enum split_kind kind;
    pcre2_code *pattern; /* ISOLATE, REMOVE */
};

struct tokenizer {
    struct arena texts; /* what tokens stand for */
    struct token_info *tokens;
    int32_t size;
    struct token_map vocab;    /* BPE vocabulary, by bytes */
    struct token_map contents; /* all tokens by content, for tokenizer_id */
    int32_t byte_id[256];      /* -1: the vocabulary lacks that byte */
    struct merge_map merges;
    bool ignore_merges, nfc;
    struct added_token *added;
    size_t n_added;
    struct trie raw, normalized; /* added tokens matched before and after normalisation */
    struct split_step steps[TOKENIZER_MAX_STEPS];
    size_t n_steps;
    int32_t *prefix, *suffix; /* ids the post-processor puts around the text */
    size_t n_prefix, n_suffix;
};

/* --- pieces --- */
/* A pattern of a tokenizer.json (Oniguruma syntax as used there) for PCRE2. what names the field in errors. */
MUST_USE int pattern_compile(pcre2_code **out, const char *source, size_t n, const char *what, struct err *e);
/* The next match in text[from..n): 1 and its bounds, 0 none, or an error. */
MUST_USE int pattern_next(const pcre2_code *p, pcre2_match_data *data, const char *text, size_t n, size_t from, size_t *start, size_t *end,
                          struct err *e);

int32_t token_map_find(const struct tokenizer *t, const struct token_map *m, const char *p, size_t n);
const struct merge *merge_find(const struct merge_map *m, int32_t left, int32_t right);

/* Appends the ids of one piece. */
MUST_USE int bpe_encode(const struct tokenizer *t, const char *p, size_t n, struct tokens *out, struct err *e);

MUST_USE int trie_insert(struct trie *t, const char *p, size_t n, int32_t token, struct err *e);
/* Calls piece(self, text, added token or NULL) for the text between and for the added tokens, in order. */
typedef int (*added_fn)(void *self, struct marked_text text, const struct added_token *token, struct err *e);
MUST_USE int added_split(const struct tokenizer *t, const struct trie *trie, struct marked_text text, added_fn piece, void *self,
                         struct err *e);

/* General categories by Unicode. */
bool unicode_is_numeric(uint32_t cp);    /* Nd, Nl, No */
bool unicode_is_whitespace(uint32_t cp); /* White_Space */
bool unicode_is_word(uint32_t cp);       /* \w of Unicode TR 18 */

#endif
