/* Decoding: bytes of tokens, then UTF-8 with one U+FFFD per maximal invalid subpart; whole or streamed. */
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer_parts.h"

static const char replacement[] = "\xEF\xBF\xBD";

int32_t tokenizer_size(const struct tokenizer *t)
{
    return t->size;
}

static const struct token_info *info(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->size && t->tokens[id].bytes ? &t->tokens[id] : NULL;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct token_info *i = info(t, id);
    return i && i->special;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
    const struct token_info *i = info(t, id);
    *n = i ? i->n : 0;
    return i ? i->bytes : "";
}

/* Appends what is decided of held + more; keeps a valid but incomplete end in held. */
static int emit(struct detok *d, const char *p, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        d->held[d->n_held++] = p[i];
        for (;;) { /* a byte can make the held ones invalid and then stand for itself */
            uint32_t cp;
            int len = d->n_held ? utf8_decode(d->held, d->n_held, &cp) : 0;
            if (len == 0) break;
            if (len > 0)
                buf_append(out, d->held, (size_t)len);
            else
                buf_append(out, replacement, 3);
            unsigned used = (unsigned)(len > 0 ? len : -len);
            memmove(d->held, d->held + used, d->n_held - used);
            d->n_held -= used;
        }
    }
    return out->failed;
}

int detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool skip_special, struct buf *out)
{
    const struct token_info *i = info(t, id);
    if (!i || (skip_special && i->special)) return 0;
    return emit(d, i->bytes, i->n, out);
}

int detok_flush(struct detok *d, struct buf *out)
{
    if (d->n_held) buf_append(out, replacement, 3);
    d->n_held = 0;
    return out->failed;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out)
{
    struct detok d = {0};
    for (size_t k = 0; k < n; k++) {
        const struct token_info *i = info(t, ids[k]);
        if (!i || (skip_special && i->special)) continue;
        int rc = i->reference ? emit(&d, i->reference, i->n_reference, out) : emit(&d, i->bytes, i->n, out);
        if (rc) return rc;
    }
    return detok_flush(&d, out);
}
