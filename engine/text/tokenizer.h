/* Tokenizer: Hugging Face tokenizer.json (BPE) read and run exactly as the tokenizers library does (docs/tokenizer.md).
 *
 * A tokenizer is immutable after loading and may be used by many threads at once. Source: the Rust library `tokenizers` 0.23 for the
 * semantics, the file format being its serialisation. Supported: BPE with byte-level alphabet or byte fallback off, ignore_merges,
 * pre-tokenizers Digits, ByteLevel, Split (PCRE2 with match limits), Sequence; normalizers none, NFC; post-processors ByteLevel,
 * TemplateProcessing, Sequence; decoders ByteLevel, Sequence of it. Anything else fails at load, naming the missing feature.
 * Encoding is linear in the text but for the merges inside one pre-token, which is n log n. */
#ifndef SPILLWAY_ENGINE_TEXT_TOKENIZER_H
#define SPILLWAY_ENGINE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/text/marked_text.h"

struct tokenizer;

/* A growing list of token ids with a maximum (ids above it: -ERR_LIMIT, and encoding stops there). */
struct tokens {
    int32_t *ids;
    size_t n, cap, max;
};
void tokens_init(struct tokens *t, size_t max);
void tokens_free(struct tokens *t); /* accepts a zeroed struct */
MUST_USE int tokens_push(struct tokens *t, int32_t id);

/* dir/tokenizer.json and, if it is there, dir/tokenizer_config.json (added_tokens_decoder may add tokens). */
MUST_USE int tokenizer_open(struct tokenizer **out, const char *dir, struct err *e);
/* The same from parsed JSON; config may be NULL. Both are only borrowed for the call. */
MUST_USE int tokenizer_load(struct tokenizer **out, const json_t *tokenizer, const json_t *config, struct err *e);
void tokenizer_close(struct tokenizer *t); /* accepts NULL */

enum tokenizer_flags {
    TOKENIZER_ADD_SPECIAL = 1, /* run the post-processor (BOS by TemplateProcessing) */
};
/* Appends the ids of text to out. Text must be valid UTF-8 (-ERR_INPUT otherwise). Added tokens are matched as marks allow.
 * text.text bytes equal to placeholder (tokenizer_forbid_in_request) are matched only in template bytes even if special is false. */
MUST_USE int tokenizer_encode(const struct tokenizer *t, struct marked_text text, unsigned flags, struct tokens *out, struct err *e);
/* Before the tokenizer is shared: the added token `content` (a media placeholder such as "<image>") is never matched where the match
 * touches request bytes, whatever its special flag says. Unknown content is ignored. */
void tokenizer_forbid_in_request(struct tokenizer *t, const char *content);

/* Ids are 0 .. tokenizer_size()-1; there may be gaps. */
int32_t tokenizer_size(const struct tokenizer *t);
/* -1 if there is no such token. */
int32_t tokenizer_id(const struct tokenizer *t, const char *content, size_t n);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* Bytes the token stands for in decoded text (added tokens: their content). n = 0 for gaps and out-of-range ids. Borrowed from t. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n);

/* Whole decode: bytes of all tokens, then lossy UTF-8 (one U+FFFD per maximal invalid subpart). */
MUST_USE int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out);

/* Streaming decode: complete code points are emitted, an incomplete but valid prefix of at most 3 bytes is held, definite errors become
 * U+FFFD at once. So a reader never sees half a character. Zero-initialise it. */
struct detok {
    char held[4];
    unsigned n_held;
};
MUST_USE int detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool skip_special, struct buf *out);
/* At the end: a held prefix becomes one U+FFFD. */
MUST_USE int detok_flush(struct detok *d, struct buf *out);

#endif
