/* Added tokens: found in the text before anything else, leftmost and longest, with their flags, as the reference's added vocabulary does, and
 * as provenance allows: a special token or a placeholder is not matched where the match touches a request byte. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer_parts.h"

static uint32_t child_of(const struct trie *t, uint32_t node, unsigned char byte)
{
    uint32_t c = t->nodes[node].child;
    while (c && t->nodes[c].byte != byte) c = t->nodes[c].sibling;
    return c;
}

static int trie_node_new(struct trie *t, unsigned char byte, uint32_t *out, struct err *e)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        struct trie_node *p = cap <= 1u << 24 ? realloc(t->nodes, cap * sizeof *p) : NULL;
        if (!p) return err_set(e, ERR_MEMORY, "tokenizer: added tokens: out of memory");
        t->nodes = p;
        t->cap = cap;
    }
    t->nodes[t->n] = (struct trie_node){.token = -1, .byte = byte};
    *out = (uint32_t)t->n++;
    return 0;
}

int trie_insert(struct trie *t, const char *p, size_t n, int32_t token, struct err *e)
{
    uint32_t node = 0, next;
    int rc = t->n == 0 ? trie_node_new(t, 0, &node, e) : 0;
    for (size_t i = 0; i < n && !rc; i++, node = next) {
        next = child_of(t, node, (unsigned char)p[i]);
        if (next) continue;
        rc = trie_node_new(t, (unsigned char)p[i], &next, e);
        if (rc) break;
        t->nodes[next].sibling = t->nodes[node].child;
        t->nodes[node].child = next;
    }
    if (rc) return rc;
    t->nodes[node].token = token;
    if (n) t->first[(unsigned char)p[0]] = true;
    return 0;
}

static bool touches_request(struct marked_text text, size_t start, size_t end)
{
    return text.marks && memchr(text.marks + start, MARK_REQUEST, end - start) != NULL;
}

/* The longest added token at `at` that provenance allows; NULL if none. */
static const struct added_token *longest_at(const struct tokenizer *t, const struct trie *trie, struct marked_text text, size_t at)
{
    const struct added_token *best = NULL;
    uint32_t node = 0;
    for (size_t i = at; i < text.n; i++) {
        node = child_of(trie, node, (unsigned char)text.text[i]);
        if (!node) break;
        if (trie->nodes[node].token < 0) continue;
        const struct added_token *a = &t->added[trie->nodes[node].token];
        if (!((a->special || a->forbidden) && touches_request(text, at, i + 1))) best = a;
    }
    return best;
}

/* The code point that ends before `at`, or that begins there; false at the text's edges. */
static bool code_point_before(struct marked_text text, size_t at, uint32_t *cp, size_t *start)
{
    if (at == 0) return false;
    size_t i = at - 1;
    while (i > 0 && at - i < 4 && ((unsigned char)text.text[i] & 0xC0) == 0x80) i--;
    *start = i;
    return utf8_decode(text.text + i, at - i, cp) > 0;
}

static bool code_point_at(struct marked_text text, size_t at, uint32_t *cp, size_t *end)
{
    if (at >= text.n) return false;
    int n = utf8_decode(text.text + at, text.n - at, cp);
    *end = at + (size_t)(n > 0 ? n : 1);
    return n > 0;
}

static bool stands_alone(struct marked_text text, size_t start, size_t end)
{
    uint32_t cp;
    size_t edge;
    if (code_point_before(text, start, &cp, &edge) && unicode_is_word(cp)) return false;
    return !(code_point_at(text, end, &cp, &edge) && unicode_is_word(cp));
}

static struct marked_text part(struct marked_text t, size_t start, size_t end)
{
    return (struct marked_text){t.text + start, t.marks ? t.marks + start : NULL, end - start};
}

int added_split(const struct tokenizer *t, const struct trie *trie, struct marked_text text, added_fn piece, void *self, struct err *e)
{
    size_t done = 0;
    for (size_t at = 0; trie->n && at < text.n;) {
        const struct added_token *a = trie->first[(unsigned char)text.text[at]] ? longest_at(t, trie, text, at) : NULL;
        if (!a) {
            at++;
            continue;
        }
        size_t start = at, end = at + a->n;
        at = end; /* the search goes on after the match, also when its flags refuse it */
        if (a->single_word && !stands_alone(text, start, end)) continue;
        uint32_t cp;
        size_t edge;
        while (a->lstrip && start > done && code_point_before(text, start, &cp, &edge) && unicode_is_whitespace(cp) && edge >= done)
            start = edge;
        while (a->rstrip && code_point_at(text, end, &cp, &edge) && unicode_is_whitespace(cp)) end = edge;
        if (start < done) start = done;
        int rc = start > done ? piece(self, part(text, done, start), NULL, e) : 0;
        if (!rc) rc = piece(self, part(text, start, end), a, e);
        if (rc) return rc;
        done = end;
        if (at < done) at = done;
    }
    return done < text.n ? piece(self, part(text, done, text.n), NULL, e) : 0;
}
