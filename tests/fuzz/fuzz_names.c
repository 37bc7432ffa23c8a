/* Model names, one a line, as a `models` list has them: routes that exist, each once, in order; a suffix that only takes away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/routing/name.h"
#include "tests/fuzz/fuzz.h"

static const char *const hosts[] = {"groq", "together", "openrouter"};
static const struct name_hosted hosted[] = {{0, "llama-3.1-8b", "meta/llama", -1},
                                            {1, "meta/llama", "meta/llama", 0},
                                            {2, "meta/llama:free", NULL, -1},
                                            {1, "SmolLM3", "Hugging/SmolLM3", 1}};
static const struct name_stand_in stand_ins[] = {{0, 0, 1}, {1, 1, 2}};
static const struct name_local locals[] = {{"smol", "Hugging/smol", stand_ins, 2},
                                           {"Hugging/SmolLM3", "Hugging/SmolLM3", NULL, 0},
                                           {NULL, "meta/llama", stand_ins, 2},
                                           {"tiny:local", NULL, NULL, 0},
                                           {"groq/special", NULL, NULL, 0}};
static const struct name_alias_route chat[] = {{"smol", 0, 1}, {"groq/llama-3.1-8b", 1, 3}, {"meta/llama:together", 1, 1}};
static const struct name_alias aliases[] = {{"chat", chat, 3, ROUTE_PRIORITY}};
static const struct name_catalogue cat = {
    .locals = locals, .n_locals = 5, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 4, .aliases = aliases, .n_aliases = 1};

static const char *const words[] = {"smol",      "Hugging/",  "SmolLM3", "meta/llama", "groq/", "together/", "openrouter/", "llama-3.1-8b",
                                    "tiny",      "special",   "chat",    ":local",     ":free", ":together", ":cheapest",   ":fastest",
                                    ":weighted", ":priority", ":",       "/",          "\n",    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

static void check_routes(const struct name_wanted *w, size_t n_names)
{
    FUZZ_CHECK(w->n > 0 && w->n <= NAME_MAX_ROUTES && w->n_entries == n_names);
    for (size_t i = 0; i < w->n; i++) {
        const struct name_route *r = &w->routes[i];
        FUZZ_CHECK(r->kind == NAME_LOCAL ? r->index < cat.n_locals && locals[r->index].name : r->index < cat.n_hosted);
        FUZZ_CHECK(r->entry < n_names && (i == 0 || r->entry >= w->routes[i - 1].entry) && (unsigned)r->policy < ROUTE_POLICIES);
        FUZZ_CHECK(!(r->kind == NAME_LOCAL && r->stands_in) && !(r->kind == NAME_HOSTED && r->reserve));
        for (size_t k = 0; k < i; k++) {
            const struct name_route *q = &w->routes[k];
            FUZZ_CHECK(q->kind != r->kind || q->index != r->index || (q->entry != r->entry && (q->stands_in || q->reserve)));
        }
    }
}

/* Of what a name leads to, NAME:local keeps the local ones; the other suffixes add to it what carries its public name. */
static void check_suffix(const char *name, const struct name_wanted *w)
{
    char longer[NAME_MAX_BYTES + 16];
    struct name_wanted only;
    struct err e = {0};
    if (strlen(name) + 6 > NAME_MAX_BYTES) return;
    snprintf(longer, sizeof longer, "%s:local", name);
    if (name_parse(&cat, longer, &only, &e)) return;
    for (size_t i = 0; i < only.n; i++) FUZZ_CHECK(only.routes[i].kind == NAME_LOCAL && !only.routes[i].reserve);
    FUZZ_CHECK(only.n <= w->n || strcmp(name, "tiny") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *text = malloc(n + 1);
    const char *names[NAME_MAX_LIST + 1];
    size_t n_names = 0;
    FUZZ_CHECK(text);
    memcpy(text, p, n);
    text[n] = '\0';
    for (char *at = text; at && n_names <= NAME_MAX_LIST; n_names++) {
        names[n_names] = at;
        at = strchr(at, '\n');
        if (at) *at++ = '\0';
    }
    struct name_wanted w, again;
    struct err e = {0};
    int rc = name_parse_list(&cat, names, n_names, &w, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        check_routes(&w, n_names);
    if (name_parse(&cat, names[0], &again, &e) == 0) check_suffix(names[0], &again);
    free(text);
    return 0;
}
