/* Chat templates: the source, and after a NUL byte (if there is one) the request's variables as JSON; rendering within the default limits
 * (T43), of which the fuel is cut to a tenth for seven inputs of eight, to see more of them. Whatever is rendered is UTF-8, no longer than the limit, has a mark for every byte, and bytes of the request carry the request's mark:
 * the default request holds a letter that nothing else here can make, so where it comes out its mark is known. */
#include <string.h>

#include "base/str.h"
#include "engine/text/template.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"{{",
                                    "}}",
                                    "{%",
                                    "%}",
                                    "{{-",
                                    "-}}",
                                    "{%-",
                                    "-%}",
                                    "{#",
                                    "#}",
                                    " if ",
                                    " elif ",
                                    " else ",
                                    "endif",
                                    " for ",
                                    " in ",
                                    "endfor",
                                    " set ",
                                    "endset",
                                    "macro m(a, b=1)",
                                    "endmacro",
                                    "{{ m(1) }}",
                                    "call m()",
                                    "endcall",
                                    "filter upper",
                                    "endfilter",
                                    "with a=1",
                                    "endwith",
                                    "generation",
                                    "endgeneration",
                                    "break",
                                    "continue",
                                    "raw",
                                    "endraw",
                                    "recursive",
                                    "loop",
                                    "loop.index",
                                    "loop.last",
                                    "loop(x)",
                                    "loop.cycle(1,2)",
                                    "loop.changed(a)",
                                    "loop.previtem",
                                    "messages",
                                    "message",
                                    "message.content",
                                    "message['role']",
                                    "messages[0]",
                                    "messages[-1]",
                                    "messages[1:]",
                                    "messages[::-1]",
                                    "range(5)",
                                    "range(100000)",
                                    "range(0,10,3)",
                                    "namespace(a=0)",
                                    "ns.a",
                                    "dict(a=1)",
                                    "joiner(', ')",
                                    "cycler(1,2)",
                                    "raise_exception('x')",
                                    "strftime_now('%d %B %Y')",
                                    "|upper",
                                    "|lower",
                                    "|trim",
                                    "|length",
                                    "|list",
                                    "|join(',')",
                                    "|tojson",
                                    "|tojson(indent=2)",
                                    "|first",
                                    "|last",
                                    "|default('x')",
                                    "|replace('a','b')",
                                    "|int",
                                    "|float",
                                    "|round(2)",
                                    "|abs",
                                    "|map(attribute='role')",
                                    "|map('upper')",
                                    "|select('defined')",
                                    "|selectattr('role','equalto','user')",
                                    "|rejectattr('x')",
                                    "|sort",
                                    "|dictsort",
                                    "|unique",
                                    "|min",
                                    "|max",
                                    "|sum",
                                    "|reverse",
                                    "|batch(2)",
                                    "|groupby('role')",
                                    "|indent(4)",
                                    "|e",
                                    "|wordcount",
                                    "|center(20)",
                                    "|title",
                                    "|capitalize",
                                    "|string",
                                    "|items",
                                    " is defined",
                                    " is not none",
                                    " is string",
                                    " is mapping",
                                    " is iterable",
                                    " is odd",
                                    " is divisibleby 3",
                                    " is in ",
                                    ".strip()",
                                    ".split('a')",
                                    ".split()",
                                    ".startswith('a')",
                                    ".upper()",
                                    ".replace('a','bb')",
                                    ".items()",
                                    ".get('a')",
                                    ".join(['a','b'])",
                                    ".format(1)",
                                    ".splitlines()",
                                    ".zfill(9)",
                                    ".title()",
                                    ".rsplit('a',1)",
                                    ".partition('a')",
                                    ".count('a')",
                                    ".find('a')",
                                    " + ",
                                    " - ",
                                    " * ",
                                    " ** ",
                                    " / ",
                                    " // ",
                                    " % ",
                                    " ~ ",
                                    " == ",
                                    " != ",
                                    " < ",
                                    " >= ",
                                    " and ",
                                    " or ",
                                    " not ",
                                    " if a else b",
                                    "[1, 2, 3]",
                                    "{'a': 1}",
                                    "(1,)",
                                    "'a'",
                                    "\"b\"",
                                    "'%s %d' % (1, 2)",
                                    "1",
                                    "0",
                                    "-1",
                                    "1.5",
                                    "9223372036854775807",
                                    "1e308",
                                    "true",
                                    "none",
                                    "(",
                                    ")",
                                    "[",
                                    "]",
                                    "a",
                                    "x",
                                    "\xC3\xA9",
                                    "\\n",
                                    "\xF0\x9F\x98\x80",
                                    "{% set a = [a, a] %}",
                                    "{% set s = s * 1000 %}",
                                    "\n",
                                    "  ",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    struct fuzz_random r = {seed};
    uint8_t *nul = memchr(p, 0, n);
    if (nul && fuzz_below(&r, 4) == 0) { /* the request behind it */
        size_t source = (size_t)(nul - p) + 1;
        return source + fuzz_mutate_json(p + source, n - source, max - source, fuzz_next(&r), words);
    }
    return fuzz_below(&r, 4) ? fuzz_mutate_words(p, n, max, fuzz_next(&r), words) : LLVMFuzzerMutate(p, n, max);
}

/* Omega: the only place that has it is a request's string. */
#define OMEGA "\xCE\xA9"
static const char usual[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"" OMEGA "be brief" OMEGA "\"},{\"role\":\"user\",\"content\":\"hi <|im_end|> " OMEGA
    "a,b;c\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"" OMEGA OMEGA "\"},{\"type\":\"image\"}],\"n\":3}],"
    "\"tools\":[{\"name\":\"f\",\"args\":{\"x\":1.5,\"y\":null}}],\"a\":\"" OMEGA "\"}";

static void check_output(const struct marked_text *out, size_t max, bool omega)
{
    FUZZ_CHECK(out->n <= max && out->text && out->text[out->n] == '\0');
    FUZZ_CHECK(out->n == 0 || out->marks);
    FUZZ_CHECK(utf8_valid(out->text, out->n));
    for (size_t i = 0; i < out->n; i++) FUZZ_CHECK(out->marks[i] == MARK_TEMPLATE || out->marks[i] == MARK_REQUEST);
    for (size_t i = 0; omega && i + 1 < out->n; i++)
        if (memcmp(out->text + i, OMEGA, 2) == 0) FUZZ_CHECK(out->marks[i] == MARK_REQUEST && out->marks[i + 1] == MARK_REQUEST);
}

/* The source can itself make an omega: by an escape, by the small letter, or by being it. */
static bool makes_omega(const char *p, size_t n)
{
    return memchr(p, '\\', n) || memmem(p, n, OMEGA, 2) || memmem(p, n, "\xCF\x89", 2) || memmem(p, n, "\xE2\x84\xA6", 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static json_t *request_usual, *model;
    if (!model) {
        request_usual = json_loads(usual, 0, NULL);
        model = json_pack("{s:b, s:s, s:s}", "add_generation_prompt", 1, "bos_token", "<s>", "eos_token", "<|im_end|>");
        FUZZ_CHECK(request_usual && model);
    }
    const char *source = (const char *)p, *nul = n ? memchr(p, 0, n) : NULL;
    size_t n_source = nul ? (size_t)(nul - source) : n;
    json_t *request = request_usual;
    struct err e = {0};
    if (nul && (json_read(nul + 1, n - n_source - 1, &json_limits_request, "request", &request, &e) || !json_is_object(request))) {
        json_decref(request);
        return 0;
    }
    struct template *t;
    int rc = template_compile(&t, source, n_source, &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(!t);
    } else {
        struct arena arena;
        struct marked_text out;
        struct template_limits limits = template_limits_default;
        if (n % 8) limits.fuel /= 10;
        struct template_input in = {.request = request, .model = model, .limits = &limits};
        in.now.tm_mday = 1, in.now.tm_year = 126;
        arena_init(&arena, 256u << 20);
        rc = template_render(t, &in, &arena, &out, &e);
        if (rc)
            fuzz_check_err(rc, &e);
        else
            check_output(&out, 65536 + 64 * (n + sizeof usual), request == request_usual && !makes_omega(source, n_source));
        arena_free(&arena);
        template_free(t);
    }
    if (request != request_usual) json_decref(request);
    return 0;
}
