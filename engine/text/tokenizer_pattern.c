/* Patterns: tokenizer.json's regular expressions run by PCRE2, and the character classes that the tokenizer needs by itself. */
#include <utf8proc.h>

#include <string.h>

#include "engine/text/tokenizer_parts.h"

bool unicode_is_numeric(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool unicode_is_whitespace(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool unicode_is_word(uint32_t cp)
{
    if (cp == 0x200C || cp == 0x200D) return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* PCRE2's \s includes U+180E, Oniguruma's does not: spell the class out, inside brackets and outside. */
static int translate(struct buf *out, const char *p, size_t n)
{
    static const char space[] = "\\x{9}-\\x{D}\\x{20}\\x{85}\\p{Z}";
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\\' && i + 1 < n) {
            char c = p[++i];
            if (c == 's')
                buf_printf(out, in_class ? "%s" : "[%s]", space);
            else if (c == 'S' && !in_class)
                buf_printf(out, "[^%s]", space);
            else
                buf_append(out, p + i - 1, 2);
            continue;
        }
        if (p[i] == '[' && !in_class)
            in_class = true;
        else if (p[i] == ']')
            in_class = false;
        buf_putc(out, p[i]);
    }
    return out->failed;
}

int pattern_compile(pcre2_code **out, const char *source, size_t n, const char *what, struct err *e)
{
    *out = NULL;
    struct buf b;
    buf_init(&b, 65536);
    if (translate(&b, source, n)) {
        buf_free(&b);
        return err_set(e, ERR_LIMIT, "%s: pattern too long", what);
    }
    int code;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)b.data, b.len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    buf_free(&b);
    if (!*out) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return err_set(e, ERR_INPUT, "%s: pattern: %s at offset %zu", what, (const char *)text, (size_t)at);
    }
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is slower, not different */
    return 0;
}

int pattern_next(const pcre2_code *p, pcre2_match_data *data, const char *text, size_t n, size_t from, size_t *start, size_t *end,
                 struct err *e)
{
    int rc = pcre2_match(p, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) return err_set(e, ERR_LIMIT, "tokenizer: pattern match limit reached at byte %zu of the text (%d)", from, rc);
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(data);
    *start = v[0];
    *end = v[1];
    return 1;
}
