/* tokenizer.json: whatever loads encodes a few awkward texts to ids that are there, decodes them to UTF-8, and the streamed decode, cut
 * token by token, is UTF-8 at every step (T41). The input is the file's JSON, or {"tokenizer": ..., "config": ...} with tokenizer_config.json beside it. */
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer_parts.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"tokenizer",
                                    "config",
                                    "model",
                                    "type",
                                    "BPE",
                                    "vocab",
                                    "merges",
                                    "a",
                                    "b",
                                    "ab",
                                    "a b",
                                    "\xC4\xA0",
                                    "\xC4\xA0t",
                                    "\xC3\x85",
                                    "\xC4\x8A",
                                    "added_tokens",
                                    "id",
                                    "content",
                                    "special",
                                    "lstrip",
                                    "rstrip",
                                    "single_word",
                                    "normalized",
                                    "normalizer",
                                    "NFC",
                                    "Sequence",
                                    "normalizers",
                                    "pre_tokenizer",
                                    "pretokenizers",
                                    "ByteLevel",
                                    "Digits",
                                    "individual_digits",
                                    "Split",
                                    "pattern",
                                    "Regex",
                                    "behavior",
                                    "Isolated",
                                    "Removed",
                                    "invert",
                                    "use_regex",
                                    "add_prefix_space",
                                    "post_processor",
                                    "processors",
                                    "TemplateProcessing",
                                    "single",
                                    "special_tokens",
                                    "SpecialToken",
                                    "ids",
                                    "decoder",
                                    "decoders",
                                    "ignore_merges",
                                    "byte_fallback",
                                    "added_tokens_decoder",
                                    "<|im_start|>",
                                    "<image>",
                                    "\\s+",
                                    "(a+)+$",
                                    "\\p{L}+| ?\\p{N}",
                                    "(?i:'s|'t)",
                                    "[^\\s]+",
                                    "(?=a)",
                                    "(?<=a)b",
                                    "a*",
                                    "\\K",
                                    "(?R)",
                                    "\\d{1,3}",
                                    "0",
                                    "1",
                                    "49152",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return fuzz_mutate_json(p, n, max, seed, words);
}

static const char *const texts[] = {"",
                                    "ab",
                                    "abab ba aab I'll\n\n\t  <image>a<|im_start|>b <image> ",
                                    "Hello, world! It's 2026. \xE4\xB8\xAD\xE6\x96\x87 1234567 \xD9\xA1\xD9\xA2",
                                    "e\xCC\x81\xCC\x81\xCC\x81 caf\xC3\xA9 \xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80",
                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"};

static void check_decode(const struct tokenizer *t, const struct tokens *ids)
{
    struct buf whole, streamed;
    struct detok d = {{0}, 0};
    buf_init(&whole, 1 << 20);
    buf_init(&streamed, 1 << 20);
    FUZZ_CHECK(tokenizer_decode(t, ids->ids, ids->n, false, &whole) == 0);
    FUZZ_CHECK(whole.len == 0 || utf8_valid(whole.data, whole.len));
    for (size_t i = 0; i < ids->n; i++) {
        FUZZ_CHECK(detok_push(&d, t, ids->ids[i], i % 2, &streamed) == 0);
        FUZZ_CHECK(streamed.len == 0 || utf8_valid(streamed.data, streamed.len));
    }
    FUZZ_CHECK(detok_flush(&d, &streamed) == 0);
    FUZZ_CHECK(streamed.len == 0 || utf8_valid(streamed.data, streamed.len));
    buf_free(&whole);
    buf_free(&streamed);
}

/* All of it as a request's bytes. */
static void check_provenance(const struct tokenizer *t, const char *text)
{
    static const uint8_t marks[256] = {[0 ... 255] = MARK_REQUEST};
    struct tokens ids;
    struct err e = {0};
    tokens_init(&ids, 10000);
    int rc = tokenizer_encode(t, (struct marked_text){text, marks, strlen(text)}, 0, &ids, &e);
    if (rc) fuzz_check_err(rc, &e);
    tokens_free(&ids);
}

static void run_texts(const struct tokenizer *t)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct tokens ids;
        struct err e = {0};
        tokens_init(&ids, 10000);
        int rc = tokenizer_encode(t, (struct marked_text){texts[i], NULL, strlen(texts[i])}, TOKENIZER_ADD_SPECIAL, &ids, &e);
        for (size_t k = 0; k < ids.n; k++) FUZZ_CHECK(ids.ids[k] >= 0 && ids.ids[k] < tokenizer_size(t));
        if (rc)
            fuzz_check_err(rc, &e);
        else
            check_decode(t, &ids);
        tokens_free(&ids);
    }
    check_provenance(t, texts[2]);
}

/* A table of a million ids takes milliseconds to make, one of thousands takes most of an execution. */
static bool has_large_id(const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_integer(v)) return json_integer_value(v) > 300;
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
        if (has_large_id(item)) return true;
    json_array_foreach((json_t *)(uintptr_t)v, i, item)
        if (has_large_id(item)) return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static pcre2_code *kept; /* keeps PCRE2's page of machine code mapped between executions */
    if (!kept) FUZZ_CHECK(pattern_compile(&kept, "a", 1, "", NULL) == 0);
    json_t *v;
    struct err e = {0};
    int rc = json_read((const char *)p, n, &json_limits_file, "tokenizer.json", &v, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        return 0;
    }
    if (n % 16 && has_large_id(v)) { /* one in sixteen of those is enough */
        json_decref(v);
        return 0;
    }
    const json_t *file = json_object_get(v, "tokenizer");
    struct tokenizer *t;
    rc = tokenizer_load(&t, file ? file : v, file ? json_object_get(v, "config") : NULL, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(!t);
    } else {
        tokenizer_forbid_in_request(t, "<image>");
        run_texts(t);
        for (int32_t id = -1; id <= tokenizer_size(t) && id < 2000; id++) {
            size_t len;
            FUZZ_CHECK(tokenizer_bytes(t, id, &len) != NULL);
        }
    }
    tokenizer_close(t);
    json_decref(v);
    return 0;
}
