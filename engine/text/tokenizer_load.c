/* Loading: tokenizer.json (and added_tokens_decoder of tokenizer_config.json), every field checked, errors naming it. What the file asks for and
 * this tokenizer does not do is refused by its name, never passed over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer_parts.h"

/* GPT-2's alphabet: code point of each byte, and back. */
struct alphabet {
    int16_t byte_of[512]; /* -1: not in the alphabet */
};

struct load {
    struct tokenizer *t;
    struct alphabet alphabet;
    size_t n_tokens; /* ids used so far, gaps included, as size grows */
    size_t cap_tokens, cap_added;
    struct err *e;
};

static int bad(struct load *l, const char *field, const char *what)
{
    return err_set(l->e, ERR_INPUT, "tokenizer.json: %s %s", field, what);
}

static int unsupported(struct load *l, const char *field, const char *type)
{
    return err_set(l->e, ERR_UNSUPPORTED, "tokenizer.json: %s '%.64s' is not supported", field, type);
}

static int no_memory(struct load *l)
{
    return err_set(l->e, ERR_MEMORY, "tokenizer.json: out of memory");
}

static void alphabet_init(struct alphabet *a)
{
    for (size_t i = 0; i < 512; i++) a->byte_of[i] = -1;
    int extra = 0;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        a->byte_of[printable ? b : 256 + extra++] = (int16_t)b;
    }
}

/* The bytes that a byte-level spelling stands for; false if a character is not in the alphabet. out has room for n. */
static bool spelled_bytes(const struct alphabet *a, const char *p, size_t n, char *out, size_t *n_out)
{
    *n_out = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_decode(p + i, n - i, &cp);
        if (len <= 0 || cp >= 512 || a->byte_of[cp] < 0) return false;
        out[(*n_out)++] = (char)a->byte_of[cp];
        i += (size_t)len;
    }
    return true;
}

/* --- maps --- */
static size_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001B3u;
    return (size_t)(h ^ h >> 29);
}

static size_t table_size(size_t n)
{
    size_t size = 64;
    while (size < n * 2) size *= 2;
    return size;
}

int32_t token_map_find(const struct tokenizer *t, const struct token_map *m, const char *p, size_t n)
{
    for (size_t i = hash_bytes(p, n) & m->mask; m->slots && m->slots[i]; i = (i + 1) & m->mask) {
        const struct token_info *k = &t->tokens[m->slots[i] - 1];
        if (k->n == n && memcmp(k->bytes, p, n) == 0) return m->slots[i] - 1;
    }
    return -1;
}

static int map_new(struct load *l, struct token_map *m, size_t n)
{
    size_t size = table_size(n);
    m->slots = calloc(size, sizeof *m->slots);
    m->mask = size - 1;
    return m->slots ? 0 : no_memory(l);
}

static void map_put(struct tokenizer *t, struct token_map *m, int32_t id)
{
    size_t i = hash_bytes(t->tokens[id].bytes, t->tokens[id].n) & m->mask;
    while (m->slots[i]) i = (i + 1) & m->mask;
    m->slots[i] = id + 1;
}

/* --- tokens --- */
static int tokens_reach(struct load *l, size_t size)
{
    struct tokenizer *t = l->t;
    if (size > l->cap_tokens) {
        size_t cap = l->cap_tokens ? l->cap_tokens : 1024;
        while (cap < size) cap *= 2;
        struct token_info *p = realloc(t->tokens, cap * sizeof *p);
        if (!p) return no_memory(l);
        memset(p + l->cap_tokens, 0, (cap - l->cap_tokens) * sizeof *p);
        t->tokens = p;
        l->cap_tokens = cap;
    }
    if ((size_t)t->size < size) t->size = (int32_t)size;
    return 0;
}

static bool is_id(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < TOKENIZER_MAX_ID;
}

static int not_an_id(struct load *l, const char *field)
{
    char what[64];
    snprintf(what, sizeof what, "must be an id from 0 to %d", TOKENIZER_MAX_ID - 1);
    return bad(l, field, what);
}

static int read_id(struct load *l, const json_t *v, const char *field, int32_t *out)
{
    if (!is_id(v)) return not_an_id(l, field);
    *out = (int32_t)json_integer_value(v);
    return tokens_reach(l, (size_t)*out + 1);
}

/* Names are put together only where they are told: there are as many fields as tokens. */
static int bad_token(struct load *l, const char *key, const char *what)
{
    char field[96];
    snprintf(field, sizeof field, "model.vocab[\"%.48s\"]", key);
    return what ? bad(l, field, what) : not_an_id(l, field);
}

static int bad_merge(struct load *l, size_t i, const char *what)
{
    char field[64];
    snprintf(field, sizeof field, "model.merges[%zu]", i);
    return bad(l, field, what);
}

static int load_vocab(struct load *l, const json_t *vocab)
{
    struct tokenizer *t = l->t;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0) return bad(l, "model.vocab", "must be an object of tokens and ids");
    if (json_object_size(vocab) > TOKENIZER_MAX_ID) return bad(l, "model.vocab", "has too many tokens");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)vocab, key, v) {
        size_t n = strlen(key), n_bytes;
        if (!is_id(v)) return bad_token(l, key, NULL);
        const int32_t id = (int32_t)json_integer_value(v);
        int rc = tokens_reach(l, (size_t)id + 1);
        if (rc) return rc;
        if (t->tokens[id].bytes) return bad_token(l, key, "has the id of another token");
        char *bytes = arena_alloc(&t->texts, n + 1);
        if (!bytes) return no_memory(l);
        if (!spelled_bytes(&l->alphabet, key, n, bytes, &n_bytes)) memcpy(bytes, key, n), n_bytes = n;
        bytes[n_bytes] = '\0';
        t->tokens[id].bytes = bytes;
        t->tokens[id].n = (uint32_t)n_bytes;
    }
    int rc = map_new(l, &t->vocab, json_object_size(vocab));
    for (int32_t i = 0; i < t->size && !rc; i++)
        if (t->tokens[i].bytes) map_put(t, &t->vocab, i);
    for (int b = 0; b < 256 && !rc; b++) t->byte_id[b] = token_map_find(t, &t->vocab, (const char[]){(char)b}, 1);
    return rc;
}

/* --- merges --- */
static int merge_side(struct load *l, const char *p, size_t n, size_t i, int32_t *id)
{
    char small[256], *bytes = n < sizeof small ? small : malloc(n);
    size_t n_bytes;
    if (!bytes) return no_memory(l);
    *id = spelled_bytes(&l->alphabet, p, n, bytes, &n_bytes) ? token_map_find(l->t, &l->t->vocab, bytes, n_bytes)
                                                             : token_map_find(l->t, &l->t->vocab, p, n);
    if (bytes != small) free(bytes);
    return *id >= 0 ? 0 : bad_merge(l, i, "names a token that is not in the vocabulary");
}

/* "a b", or ["a", "b"]. */
static int read_merge(struct load *l, const json_t *v, size_t i, struct merge *m)
{
    const char *a = json_string_value(json_array_get(v, 0)), *b = json_string_value(json_array_get(v, 1)), *text = json_string_value(v);
    size_t na, nb;
    if (text) {
        const char *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' ')) return bad_merge(l, i, "must be two tokens with a space between");
        a = text, na = (size_t)(space - text), b = space + 1, nb = strlen(b);
    } else {
        if (!a || !b || json_array_size(v) != 2) return bad_merge(l, i, "must be two tokens");
        na = json_string_length(json_array_get(v, 0)), nb = json_string_length(json_array_get(v, 1));
    }
    int rc = merge_side(l, a, na, i, &m->left);
    if (!rc) rc = merge_side(l, b, nb, i, &m->right);
    if (rc) return rc;
    const struct token_info *x = &l->t->tokens[m->left], *y = &l->t->tokens[m->right];
    if (x->n + y->n > TOKENIZER_MAX_CONTENT) return bad_merge(l, i, "makes a token that is too long");
    char joined[TOKENIZER_MAX_CONTENT];
    memcpy(joined, x->bytes, x->n);
    memcpy(joined + x->n, y->bytes, y->n);
    m->result = token_map_find(l->t, &l->t->vocab, joined, x->n + y->n);
    if (m->result < 0) return bad_merge(l, i, "makes a token that is not in the vocabulary");
    m->rank = (uint32_t)i;
    return 0;
}

static int load_merges(struct load *l, const json_t *merges)
{
    if (!json_is_array(merges) || json_array_size(merges) > TOKENIZER_MAX_ID) return bad(l, "model.merges", "must be an array of pairs");
    size_t n = json_array_size(merges), size = table_size(n);
    struct merge_map *map = &l->t->merges;
    map->slots = malloc(size * sizeof *map->slots);
    map->mask = size - 1;
    if (!map->slots) return no_memory(l);
    for (size_t i = 0; i < size; i++) map->slots[i].left = -1;
    for (size_t i = 0; i < n; i++) {
        struct merge m;
        int rc = read_merge(l, json_array_get(merges, i), i, &m);
        if (rc) return rc;
        uint64_t h = ((uint64_t)(uint32_t)m.left << 32 | (uint32_t)m.right) * 0x9E3779B97F4A7C15u;
        size_t at = (size_t)(h >> 32) & map->mask;
        while (map->slots[at].left >= 0 && !(map->slots[at].left == m.left && map->slots[at].right == m.right)) at = (at + 1) & map->mask;
        map->slots[at] = m; /* given twice, the later rank holds, as in the reference */
    }
    return 0;
}

static int load_model(struct load *l, const json_t *model)
{
    if (!json_is_object(model)) return bad(l, "model", "is missing");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "BPE")) return unsupported(l, "model type", type);
    static const char *const refused[] = {"byte_fallback", "fuse_unk"};
    for (size_t i = 0; i < 2; i++)
        if (json_is_true(json_object_get(model, refused[i]))) return unsupported(l, "model", refused[i]);
    static const char *const absent[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 4; i++) {
        const json_t *v = json_object_get(model, absent[i]);
        if (v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0)) return unsupported(l, "model", absent[i]);
    }
    l->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    int rc = load_vocab(l, json_object_get(model, "vocab"));
    return rc ? rc : load_merges(l, json_object_get(model, "merges"));
}

/* --- added tokens --- */
static int flag(struct load *l, const json_t *v, const char *where, const char *key, bool *out)
{
    const json_t *f = json_object_get(v, key);
    char field[96];
    *out = json_is_true(f);
    snprintf(field, sizeof field, "%s.%s", where, key);
    return f && !json_is_boolean(f) ? bad(l, field, "must be true or false") : 0;
}

/* The token's entry gets the literal content; where the reference's byte-level decoder would read it otherwise, that is kept beside it. */
static int set_added_info(struct load *l, const struct added_token *a)
{
    struct token_info *k = &l->t->tokens[a->id];
    char *reference = arena_alloc(&l->t->texts, a->n + 1u);
    size_t n = 0;
    if (!reference) return no_memory(l);
    if (!spelled_bytes(&l->alphabet, a->content, a->n, reference, &n) || (n == a->n && memcmp(reference, a->content, n) == 0)) reference = NULL;
    *k = (struct token_info){
        .bytes = a->content, .n = a->n, .reference = reference, .n_reference = (uint32_t)n, .special = a->special, .added = true};
    return 0;
}

static int add_token(struct load *l, const json_t *v, const char *where, int32_t id)
{
    struct tokenizer *t = l->t;
    const json_t *content = json_object_get(v, "content");
    size_t n = json_string_length(content);
    if (!json_is_string(content) || n == 0 || n > TOKENIZER_MAX_CONTENT || strlen(json_string_value(content)) != n) {
        char field[96];
        snprintf(field, sizeof field, "%s.content", where);
        return bad(l, field, "must be a text of 1 to 4096 bytes without NUL");
    }
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id || (t->added[i].n == n && memcmp(t->added[i].content, json_string_value(content), n) == 0)) {
            bool same = t->added[i].id == id && t->added[i].n == n && memcmp(t->added[i].content, json_string_value(content), n) == 0;
            return same ? 0 : bad(l, where, "repeats the id or the content of another added token");
        }
    if (t->n_added == l->cap_added) {
        size_t cap = l->cap_added ? l->cap_added * 2 : 64;
        struct added_token *p = realloc(t->added, cap * sizeof *p);
        if (!p) return no_memory(l);
        t->added = p;
        l->cap_added = cap;
    }
    struct added_token *a = &t->added[t->n_added];
    *a = (struct added_token){.content = arena_copy(&t->texts, json_string_value(content), n), .n = (uint32_t)n, .id = id};
    if (!a->content) return no_memory(l);
    t->n_added++;
    int rc = flag(l, v, where, "special", &a->special);
    if (!rc) rc = flag(l, v, where, "lstrip", &a->lstrip);
    if (!rc) rc = flag(l, v, where, "rstrip", &a->rstrip);
    if (!rc) rc = flag(l, v, where, "single_word", &a->single_word);
    if (!rc) rc = flag(l, v, where, "normalized", &a->normalized);
    if (!rc) rc = set_added_info(l, a);
    return rc ? rc : trie_insert(a->normalized ? &t->normalized : &t->raw, a->content, a->n, (int32_t)t->n_added - 1, l->e);
}

static int load_added(struct load *l, const json_t *list)
{
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list) || json_array_size(list) > 65536) return bad(l, "added_tokens", "must be an array of at most 65536 tokens");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        char where[64], field[80];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        snprintf(field, sizeof field, "%s.id", where);
        int32_t id = -1;
        int rc = read_id(l, json_object_get(v, "id"), field, &id);
        if (!rc) rc = add_token(l, v, where, id);
        if (rc) return rc;
    }
    return 0;
}

/* tokenizer_config.json may name more: {"49152": {"content": ...}} */
static int load_added_decoder(struct load *l, const json_t *config)
{
    const json_t *map = json_object_get(config, "added_tokens_decoder"), *v;
    if (!map || json_is_null(map)) return 0;
    if (!json_is_object(map) || json_object_size(map) > 65536)
        return err_set(l->e, ERR_INPUT, "tokenizer_config.json: added_tokens_decoder must be an object of at most 65536 tokens");
    const char *key;
    json_object_foreach((json_t *)map, key, v) {
        int64_t id;
        char where[96];
        snprintf(where, sizeof where, "(tokenizer_config.json) added_tokens_decoder[\"%.32s\"]", key);
        if (!str_parse_int64(key, 0, TOKENIZER_MAX_ID - 1, &id)) return bad(l, where, "is not an id");
        int rc = tokens_reach(l, (size_t)id + 1);
        if (!rc) rc = add_token(l, v, where, (int32_t)id);
        if (rc) return rc;
    }
    return 0;
}

/* --- the pipeline around the model --- */
static const char *type_of(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type ? type : "?";
}

static int load_normalizer(struct load *l, const json_t *v, int depth)
{
    if (!v || json_is_null(v)) return 0;
    if (strcmp(type_of(v), "NFC") == 0) {
        l->t->nfc = true;
        return 0;
    }
    if (strcmp(type_of(v), "Sequence") || depth > 4) return unsupported(l, "normalizer type", type_of(v));
    const json_t *list = json_object_get(v, "normalizers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = load_normalizer(l, json_array_get(list, i), depth + 1);
        if (rc) return rc;
    }
    return 0;
}

static int add_step(struct load *l, enum split_kind kind, const char *pattern, size_t n)
{
    struct tokenizer *t = l->t;
    if (t->n_steps == TOKENIZER_MAX_STEPS) return bad(l, "pre_tokenizer", "has too many steps");
    t->steps[t->n_steps].kind = kind;
    int rc = pattern ? pattern_compile(&t->steps[t->n_steps].pattern, pattern, n, "tokenizer.json: pre_tokenizer", l->e) : 0;
    if (!rc) t->n_steps++;
    return rc;
}

static int load_split(struct load *l, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "pattern"), *regex = json_object_get(pattern, "Regex");
    const char *behavior = json_string_value(json_object_get(v, "behavior"));
    if (!json_is_string(regex)) return unsupported(l, "pre_tokenizer Split", "pattern other than Regex");
    if (json_is_true(json_object_get(v, "invert"))) return unsupported(l, "pre_tokenizer Split", "invert");
    if (behavior && strcmp(behavior, "Isolated") == 0)
        return add_step(l, SPLIT_ISOLATE, json_string_value(regex), json_string_length(regex));
    if (behavior && strcmp(behavior, "Removed") == 0) return add_step(l, SPLIT_REMOVE, json_string_value(regex), json_string_length(regex));
    return unsupported(l, "pre_tokenizer Split behavior", behavior ? behavior : "?");
}

/* The pattern that ByteLevel uses by itself: GPT-2's. */
static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int load_pre_tokenizer(struct load *l, const json_t *v, int depth, bool *byte_level)
{
    if (!v || json_is_null(v)) return 0;
    const char *type = type_of(v);
    if (*byte_level) return unsupported(l, "pre_tokenizer after ByteLevel", type);
    if (strcmp(type, "Digits") == 0)
        return add_step(l, json_is_true(json_object_get(v, "individual_digits")) ? SPLIT_DIGITS : SPLIT_DIGIT_RUNS, NULL, 0);
    if (strcmp(type, "Split") == 0) return load_split(l, v);
    if (strcmp(type, "ByteLevel") == 0) {
        if (json_is_true(json_object_get(v, "add_prefix_space"))) return unsupported(l, "pre_tokenizer ByteLevel", "add_prefix_space");
        *byte_level = true;
        const json_t *use = json_object_get(v, "use_regex");
        return use && json_is_false(use) ? 0 : add_step(l, SPLIT_ISOLATE, gpt2, sizeof gpt2 - 1);
    }
    if (strcmp(type, "Sequence") || depth > 4) return unsupported(l, "pre_tokenizer type", type);
    const json_t *list = json_object_get(v, "pretokenizers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = load_pre_tokenizer(l, json_array_get(list, i), depth + 1, byte_level);
        if (rc) return rc;
    }
    return 0;
}

static int append_ids(struct load *l, const json_t *ids, int32_t **list, size_t *n)
{
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = -1, *p = realloc(*list, (*n + 1) * sizeof *p);
        if (!p) return no_memory(l);
        *list = p;
        int rc = read_id(l, json_array_get(ids, i), "post_processor special_tokens ids", &id);
        if (rc) return rc;
        p[(*n)++] = id;
    }
    return 0;
}

static int load_template(struct load *l, const json_t *v)
{
    const json_t *single = json_object_get(v, "single"), *specials = json_object_get(v, "special_tokens");
    if (!json_is_array(single) || json_array_size(single) > 64)
        return bad(l, "post_processor.single", "must be an array of at most 64 pieces");
    bool after = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
        if (json_object_get(piece, "Sequence")) {
            if (after) return bad(l, "post_processor.single", "names the text twice");
            after = true;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
        if (!json_is_array(ids) || json_array_size(ids) > 64) return bad(l, "post_processor.single", "names a special token without ids");
        int rc = append_ids(l, ids, after ? &l->t->suffix : &l->t->prefix, after ? &l->t->n_suffix : &l->t->n_prefix);
        if (rc) return rc;
    }
    return after ? 0 : bad(l, "post_processor.single", "leaves the text out");
}

static int load_post_processor(struct load *l, const json_t *v, int depth)
{
    if (!v || json_is_null(v)) return 0;
    const char *type = type_of(v);
    if (strcmp(type, "ByteLevel") == 0) return 0; /* offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return l->t->n_prefix || l->t->n_suffix ? unsupported(l, "post_processor", "a second TemplateProcessing") : load_template(l, v);
    if (strcmp(type, "Sequence") || depth > 4) return unsupported(l, "post_processor type", type);
    const json_t *list = json_object_get(v, "processors");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = load_post_processor(l, json_array_get(list, i), depth + 1);
        if (rc) return rc;
    }
    return 0;
}

static int load_decoder(struct load *l, const json_t *v)
{
    const json_t *list = json_object_get(v, "decoders");
    if (strcmp(type_of(v), "ByteLevel") == 0) return 0;
    if (strcmp(type_of(v), "Sequence") == 0 && json_array_size(list) == 1) return load_decoder(l, json_array_get(list, 0));
    return unsupported(l, "decoder type", type_of(v));
}

static int load_all(struct load *l, const json_t *file, const json_t *config)
{
    bool byte_level = false;
    int rc = load_model(l, json_object_get(file, "model"));
    if (!rc) rc = load_added(l, json_object_get(file, "added_tokens"));
    if (!rc && config) rc = load_added_decoder(l, config);
    if (!rc) rc = load_normalizer(l, json_object_get(file, "normalizer"), 0);
    if (!rc) rc = load_pre_tokenizer(l, json_object_get(file, "pre_tokenizer"), 0, &byte_level);
    if (!rc && !byte_level) rc = unsupported(l, "pre_tokenizer", "without ByteLevel");
    if (!rc) rc = load_post_processor(l, json_object_get(file, "post_processor"), 0);
    if (!rc) rc = load_decoder(l, json_object_get(file, "decoder"));
    if (!rc) rc = map_new(l, &l->t->contents, (size_t)l->t->size);
    for (int32_t i = 0; i < l->t->size && !rc; i++)
        if (l->t->tokens[i].bytes) map_put(l->t, &l->t->contents, i);
    return rc;
}

int tokenizer_load(struct tokenizer **out, const json_t *tokenizer, const json_t *config, struct err *e)
{
    *out = NULL;
    struct load l = {.t = calloc(1, sizeof *l.t), .e = e};
    if (!l.t) return err_set(e, ERR_MEMORY, "tokenizer.json: out of memory");
    alphabet_init(&l.alphabet);
    arena_init(&l.t->texts, TOKENIZER_MAX_TEXT_BYTES);
    int rc = load_all(&l, tokenizer, config);
    if (rc)
        tokenizer_close(l.t);
    else
        *out = l.t;
    return rc;
}

int tokenizer_open(struct tokenizer **out, const char *dir, struct err *e)
{
    *out = NULL;
    char path[4096];
    json_t *file = NULL, *config = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer_config.json", dir) >= sizeof path)
        return err_set(e, ERR_INPUT, "%s: path too long", dir);
    int rc = json_read_file(path, &json_limits_file, &config, e);
    if (rc == -ERR_NOT_FOUND) rc = 0;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (!rc) rc = json_read_file(path, &json_limits_file, &file, e);
    if (!rc) rc = tokenizer_load(out, file, config, e);
    json_decref(file);
    json_decref(config);
    return rc;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    arena_free(&t->texts);
    for (size_t i = 0; i < t->n_steps; i++) pcre2_code_free(t->steps[i].pattern);
    free(t->tokens);
    free(t->vocab.slots);
    free(t->contents.slots);
    free(t->merges.slots);
    free(t->added);
    free(t->raw.nodes);
    free(t->normalized.nodes);
    free(t->prefix);
    free(t->suffix);
    free(t);
}

int32_t tokenizer_id(const struct tokenizer *t, const char *content, size_t n)
{
    return token_map_find(t, &t->contents, content, n);
}

void tokenizer_forbid_in_request(struct tokenizer *t, const char *content)
{
    size_t n = strlen(content);
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].n == n && memcmp(t->added[i].content, content, n) == 0) t->added[i].forbidden = true;
}
