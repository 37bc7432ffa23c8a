/* Names: what each leads to, which of two readings counts, what is said of those that lead nowhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/routing/name.h"

/* Names that invite confusion: '/' and ':' in local ones, a host's name in a model's, a model that is called like a suffix. */
static const char *const hosts[] = {"groq", "together", "openrouter"};
static const struct name_hosted hosted[] = {
    {0, "llama-3.1-8b-instant", "meta-llama/Llama-3.1-8B", -1},
    {1, "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", -1},
    {2, "meta-llama/llama-3.1-8b:free", NULL, -1},
    {1, "SmolLM3", "HuggingFaceTB/SmolLM3-3B", 1},
    {0, "smollm3", "HuggingFaceTB/SmolLM3-3B", -1},
};
static const struct name_stand_in stand_ins[] = {{0, 0, 1}, {1, 1, 2}};
static const struct name_local locals[] = {
    {"smol", "HuggingFaceTB/SmolLM2", stand_ins, 2},
    {"HuggingFaceTB/SmolLM3-3B", "HuggingFaceTB/SmolLM3-3B", NULL, 0},
    {"qwen2.5:7b", NULL, NULL, 0},
    {"groq/special", NULL, NULL, 0},
    {NULL, "owner/gone", NULL, 0},
    {"tiny:local", NULL, NULL, 0},
    {"tiny", NULL, NULL, 0},
};
static const struct name_alias_route small_routes[] = {
    {"smol", 0, 1}, {"groq/llama-3.1-8b-instant", 1, 3}, {"meta-llama/Llama-3.1-8B:together", 1, 1}};
static const struct name_alias_route back_routes[] = {{"groq/llama-3.1-8b-instant", 0, 1}, {"smol:local", 1, 1}};
static const struct name_alias_route cheap_routes[] = {{"groq/llama-3.1-8b-instant", 0, 1}, {"smol", 1, 1}};
static const struct name_alias aliases[] = {{"chat-small", small_routes, 3, ROUTE_PRIORITY},
                                            {"back", back_routes, 2, ROUTE_PRIORITY},
                                            {"cheap", cheap_routes, 2, ROUTE_CHEAPEST},
                                            {"groq/llama-3.1-70b", small_routes, 1, ROUTE_PRIORITY}};
static const struct name_catalogue cat = {
    .locals = locals, .n_locals = 7, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 5, .aliases = aliases, .n_aliases = 4};

/* "0 smol; 0 groq/llama* ...": the entry, the model; '*' stands in, '!' in reserve, xN its weight. */
static char *print(const struct name_wanted *w, char out[1024])
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < w->n; i++) {
        const struct name_route *r = &w->routes[i];
        at += (size_t)snprintf(out + at, 1024 - at, "%s%d ", i ? ", " : "", r->entry);
        if (r->kind == NAME_LOCAL)
            at += (size_t)snprintf(out + at, 1024 - at, "%s", locals[r->index].name);
        else
            at += (size_t)snprintf(out + at, 1024 - at, "%s>%s", hosts[hosted[r->index].host], hosted[r->index].model);
        at += (size_t)snprintf(out + at, 1024 - at, "%s%s", r->stands_in ? "*" : "", r->reserve ? "!" : "");
        if (r->weight != 1) at += (size_t)snprintf(out + at, 1024 - at, " x%d", r->weight);
    }
    return out;
}

static const struct {
    const char *name, *routes;
    enum route_policy policy;
} readings[] = {
    {"smol", "0 smol, 0 groq>llama-3.1-8b-instant*, 0 together>meta-llama/Llama-3.1-8B* x2", ROUTE_LOCAL_FIRST},
    {"HuggingFaceTB/SmolLM2", "0 smol, 0 groq>llama-3.1-8b-instant*, 0 together>meta-llama/Llama-3.1-8B* x2", ROUTE_LOCAL_FIRST},
    {"HuggingFaceTB/SmolLM2:local", "0 smol", ROUTE_LOCAL_FIRST},
    {"smol:local", "0 smol", ROUTE_LOCAL_FIRST},
    {"smol:groq", "0 groq>llama-3.1-8b-instant", ROUTE_LOCAL_FIRST}, /* asked for by name: no overflow */
    {"smol:cheapest", "0 smol, 0 groq>llama-3.1-8b-instant*, 0 together>meta-llama/Llama-3.1-8B* x2", ROUTE_CHEAPEST},
    {"smol:fastest", "0 smol, 0 groq>llama-3.1-8b-instant*, 0 together>meta-llama/Llama-3.1-8B* x2", ROUTE_FASTEST},
    {"groq/llama-3.1-8b-instant", "0 groq>llama-3.1-8b-instant", ROUTE_LOCAL_FIRST},
    {"together/meta-llama/Llama-3.1-8B", "0 together>meta-llama/Llama-3.1-8B", ROUTE_LOCAL_FIRST},
    {"openrouter/meta-llama/llama-3.1-8b:free", "0 openrouter>meta-llama/llama-3.1-8b:free",
     ROUTE_LOCAL_FIRST}, /* ':' of the host's own id */
    {"together/SmolLM3", "0 together>SmolLM3, 0 HuggingFaceTB/SmolLM3-3B!", ROUTE_LOCAL_FIRST},
    {"meta-llama/Llama-3.1-8B", "0 groq>llama-3.1-8b-instant, 0 together>meta-llama/Llama-3.1-8B", ROUTE_LOCAL_FIRST},
    {"meta-llama/Llama-3.1-8B:together", "0 together>meta-llama/Llama-3.1-8B", ROUTE_LOCAL_FIRST},
    {"meta-llama/Llama-3.1-8B:cheapest", "0 groq>llama-3.1-8b-instant, 0 together>meta-llama/Llama-3.1-8B", ROUTE_CHEAPEST},
    {"HuggingFaceTB/SmolLM3-3B", "0 HuggingFaceTB/SmolLM3-3B", ROUTE_LOCAL_FIRST}, /* local, and nobody was declared to stand in */
    {"HuggingFaceTB/SmolLM3-3B:cheapest", "0 HuggingFaceTB/SmolLM3-3B, 0 together>SmolLM3*, 0 groq>smollm3*", ROUTE_CHEAPEST},
    {"HuggingFaceTB/SmolLM3-3B:together", "0 together>SmolLM3", ROUTE_LOCAL_FIRST},
    {"HuggingFaceTB/SmolLM3-3B:local", "0 HuggingFaceTB/SmolLM3-3B", ROUTE_LOCAL_FIRST},
    {"qwen2.5:7b", "0 qwen2.5:7b", ROUTE_LOCAL_FIRST},
    {"qwen2.5:7b:local", "0 qwen2.5:7b", ROUTE_LOCAL_FIRST},
    {"groq/special", "0 groq/special", ROUTE_LOCAL_FIRST}, /* a local name wins over a host's */
    {"tiny:local", "0 tiny:local", ROUTE_LOCAL_FIRST},     /* a whole name wins over a suffix */
    {"tiny:local:local", "0 tiny:local", ROUTE_LOCAL_FIRST},
    {"chat-small", "0 smol, 0 groq>llama-3.1-8b-instant* x3, 0 together>meta-llama/Llama-3.1-8B*", ROUTE_PRIORITY},
    {"chat-small:cheapest", "0 smol, 0 groq>llama-3.1-8b-instant* x3, 0 together>meta-llama/Llama-3.1-8B*", ROUTE_CHEAPEST},
    {"chat-small:local", "0 smol", ROUTE_PRIORITY},
    {"chat-small:together", "0 together>meta-llama/Llama-3.1-8B", ROUTE_PRIORITY},
    {"back", "0 groq>llama-3.1-8b-instant, 0 smol", ROUTE_PRIORITY},                 /* hosted first: its own choice */
    {"back:local-first", "0 groq>llama-3.1-8b-instant*, 0 smol", ROUTE_LOCAL_FIRST}, /* local first after all */
    {"cheap", "0 groq>llama-3.1-8b-instant*, 0 smol", ROUTE_CHEAPEST},               /* an alias with a policy of its own */
    {"groq/llama-3.1-70b", "0 smol", ROUTE_PRIORITY},                                /* an alias may be called like anything */
};

static void test_what_names_lead_to(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(name_catalogue_check(&cat, &e), 0);
    for (size_t i = 0; i < sizeof readings / sizeof *readings; i++) {
        struct name_wanted w;
        char out[1024];
        if (name_parse(&cat, readings[i].name, &w, &e)) fail_msg("%s: %s", readings[i].name, e.msg);
        if (strcmp(print(&w, out), readings[i].routes)) fail_msg("%s: %s", readings[i].name, out);
        for (size_t r = 0; r < w.n; r++) assert_int_equal(w.routes[r].policy, readings[i].policy);
    }
}

static const struct {
    const char *name, *message;
    enum err_code code;
} errors[] = {
    {"smoll", "There is no model 'smoll' here. The nearest: 'smol'.", ERR_NOT_FOUND},
    {"llama-3.1-8b-instant", "There is no model 'llama-3.1-8b-instant' here. The nearest: 'groq/llama-3.1-8b-instant'.", ERR_NOT_FOUND},
    {"grok/llama-3.1-8b-instant", "There is no model 'grok/llama-3.1-8b-instant' here. The nearest: 'groq/llama-3.1-8b-instant'.",
     ERR_NOT_FOUND},
    {"qroq/llama-3.1-8c-instan", "There is no model 'qroq/llama-3.1-8c-instan' here. The nearest: 'groq/llama-3.1-8b-instant'.",
     ERR_NOT_FOUND}, /* three edits */
    {"qroq/llama-3.1-8c-instance", "There is no model 'qroq/llama-3.1-8c-instance' here. The nearest: 'groq/llama-3.1-8b-instant'.",
     ERR_NOT_FOUND}, /* four, and not in the model's name alone */
    {"qroq/llamb-3.1-8c-instance", "There is no model 'qroq/llamb-3.1-8c-instance' here; GET /v1/models lists them.",
     ERR_NOT_FOUND}, /* one more */
    {"meta-llama/llama-3.1-8b",
     "There is no model 'meta-llama/llama-3.1-8b' here. The nearest: 'meta-llama/Llama-3.1-8B', 'together/meta-llama/Llama-3.1-8B'.",
     ERR_NOT_FOUND},
    {"chat-smal:cheapest", "There is no model 'chat-smal:cheapest' here. The nearest: 'chat-small'.", ERR_NOT_FOUND},
    {"gpt-4o", "There is no model 'gpt-4o' here; GET /v1/models lists them.", ERR_NOT_FOUND},
    {"groq/llama-3.1-8b-instant:local", "The model 'groq/llama-3.1-8b-instant' is not served here locally.", ERR_NOT_FOUND},
    {"together/SmolLM3:local", "The model 'together/SmolLM3' is not served here locally.",
     ERR_NOT_FOUND}, /* what is in reserve is not asked for */
    {"meta-llama/Llama-3.1-8B:openrouter", "The model 'meta-llama/Llama-3.1-8B' is not offered here by 'openrouter'.", ERR_NOT_FOUND},
    {"smol:quickest",
     "There is a model 'smol', but ':quickest' is neither one of the providers configured here nor local, cheapest, fastest, priority, "
     "weighted or "
     "local-first.",
     ERR_NOT_FOUND},
    {"smol:",
     "There is a model 'smol', but ':' is neither one of the providers configured here nor local, cheapest, fastest, priority, weighted or "
     "local-first.",
     ERR_NOT_FOUND},
    {"smol:Local",
     "There is a model 'smol', but ':Local' is neither one of the providers configured here nor local, cheapest, fastest, priority, "
     "weighted or "
     "local-first.",
     ERR_NOT_FOUND},
    {":cheapest", "There is no model ':cheapest' here; GET /v1/models lists them.", ERR_NOT_FOUND},
    {"/", "There is no model '/' here; GET /v1/models lists them.", ERR_NOT_FOUND},
    {"owner/gone", "There is no model 'owner/gone' here; GET /v1/models lists them.", ERR_NOT_FOUND},
    {"groq/", "There is no model 'groq/' here; GET /v1/models lists them.", ERR_NOT_FOUND},
    {"", "A model's name must not be empty.", ERR_INPUT},
};

static void test_what_is_said_of_names_that_lead_nowhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct name_wanted w;
        struct err e = {0};
        assert_int_equal(name_parse(&cat, errors[i].name, &w, &e), -(int)errors[i].code);
        assert_string_equal(e.msg, errors[i].message);
        assert_string_equal(e.param, "model");
    }
}

static void test_a_name_is_bounded(void **state)
{
    (void)state;
    struct name_wanted w;
    struct err e;
    char name[NAME_MAX_BYTES + 2];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(name_parse(&cat, name, &w, &e), -ERR_INPUT);
    name[NAME_MAX_BYTES] = '\0';
    assert_int_equal(name_parse(&cat, name, &w, &e), -ERR_NOT_FOUND);
}

static void test_lists(void **state)
{
    (void)state;
    static const char *const one[] = {"smol", "groq/llama-3.1-8b-instant", "smol:cheapest"}, *const wrong[] = {"smol",
                                                                                                               "nothing-here-at-all"};
    static const char *const twice[] = {"tiny", "tiny", "tiny:local"};
    struct name_wanted w;
    struct err e;
    char out[1024];
    assert_int_equal(name_parse_list(&cat, one, 3, &w, &e), 0);
    assert_int_equal(w.n_entries, 3);
    /* the second names a stand-in of the first: there again, as it is bound by no cap; the third adds nothing */
    assert_string_equal(print(&w, out),
                        "0 smol, 0 groq>llama-3.1-8b-instant*, 0 together>meta-llama/Llama-3.1-8B* x2, 1 groq>llama-3.1-8b-instant");
    assert_int_equal(name_parse_list(&cat, twice, 3, &w, &e), 0);
    assert_string_equal(print(&w, out), "0 tiny, 2 tiny:local");
    assert_int_equal(name_parse_list(&cat, wrong, 2, &w, &e), -ERR_NOT_FOUND);
    assert_string_equal(e.param, "models");
    assert_int_equal(name_parse_list(&cat, wrong, 0, &w, &e), -ERR_INPUT);
    const char *many[NAME_MAX_LIST + 1];
    for (size_t i = 0; i < NAME_MAX_LIST + 1; i++) many[i] = "smol";
    assert_int_equal(name_parse_list(&cat, many, NAME_MAX_LIST + 1, &w, &e), -ERR_LIMIT);
    assert_int_equal(name_parse_list(&cat, many, NAME_MAX_LIST, &w, &e), 0);
}

/* A model that was unloaded leaves its place free: what led to it leads elsewhere, or nowhere. */
static void test_a_free_place_leads_nowhere(void **state)
{
    (void)state;
    static const struct name_local none[] = {{NULL, NULL, stand_ins, 2}, {NULL, NULL, NULL, 0}};
    static const struct name_alias_route lost[] = {{"smol", 0, 1}};
    static const struct name_alias only[] = {{"chat-small", small_routes, 3, ROUTE_PRIORITY}, {"lost", lost, 1, ROUTE_PRIORITY}};
    struct name_catalogue c = {
        .locals = none, .n_locals = 2, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 5, .aliases = only, .n_aliases = 2};
    struct name_wanted w;
    struct err e;
    char out[1024];
    assert_int_equal(name_parse(&c, "together/SmolLM3", &w, &e), 0);
    assert_string_equal(print(&w, out), "0 together>SmolLM3");
    assert_int_equal(name_parse(&c, "chat-small", &w, &e), 0);
    assert_string_equal(print(&w, out), "0 groq>llama-3.1-8b-instant x3, 0 together>meta-llama/Llama-3.1-8B");
    assert_int_equal(name_parse(&c, "smol", &w, &e), -ERR_NOT_FOUND);
    assert_int_equal(name_parse(&c, "lost", &w, &e), -ERR_NOT_FOUND);
    assert_string_equal(e.msg, "None of the models that 'lost' leads to is here now.");
}

/* Among thousands of names that are as long only the first are compared. */
static void test_what_a_wrong_name_costs_is_bounded(void **state)
{
    (void)state;
    static struct name_hosted many[NAME_MAX_HOSTED];
    struct name_wanted w;
    struct err e;
    for (size_t i = 0; i < NAME_MAX_HOSTED; i++) many[i] = (struct name_hosted){0, "abcdefghijklmnopqrstuvwxyz", NULL, -1};
    struct name_catalogue c = {.hosts = hosts, .n_hosts = 1, .hosted = many, .n_hosted = NAME_MAX_HOSTED};
    many[0].model = "zyxwvutsrqponmlkjihgfedcba";
    assert_int_equal(name_parse(&c, "groq/zyxwvutsrqponmlkjihgfedcb", &w, &e), -ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "The nearest: 'groq/zyxwvutsrqponmlkjihgfedcba'."));
    many[0].model = many[1].model;
    many[NAME_MAX_HOSTED - 1].model = "zyxwvutsrqponmlkjihgfedcba";
    assert_int_equal(name_parse(&c, "groq/zyxwvutsrqponmlkjihgfedcb", &w, &e), -ERR_NOT_FOUND);
    assert_null(strstr(e.msg, "nearest"));
    assert_int_equal(name_parse(&c, "groq/zyxwvutsrqponmlkjihgfedcba", &w, &e), 0);
}

static void test_more_routes_than_there_is_room_for(void **state)
{
    (void)state;
    struct name_hosted many[NAME_MAX_ROUTES + 1];
    struct name_wanted w;
    struct err e;
    for (size_t i = 0; i < NAME_MAX_ROUTES + 1; i++) many[i] = (struct name_hosted){0, "m", "owner/m", -1};
    struct name_catalogue c = {.hosts = hosts, .n_hosts = 1, .hosted = many, .n_hosted = NAME_MAX_ROUTES};
    assert_int_equal(name_parse(&c, "owner/m", &w, &e), 0);
    assert_int_equal(w.n, NAME_MAX_ROUTES);
    c.n_hosted++;
    assert_int_equal(name_parse(&c, "owner/m", &w, &e), -ERR_LIMIT);
}

static void test_a_configuration_is_checked(void **state)
{
    (void)state;
    static const char *const reserved[] = {"cheapest"}, *const slash[] = {"a/b"}, *const twice[] = {"a", "a"};
    static const struct name_local same[] = {{"a", NULL, NULL, 0}, {"a", NULL, NULL, 0}};
    static const struct name_stand_in nobody[] = {{0, 0, 1}};
    static const struct name_local lost[] = {{"a", NULL, nobody, 1}};
    static const struct name_alias_route to_itself[] = {{"loop", 0, 1}}, to_smol[] = {{"smol", 0, 1}},
                                         high[] = {{"smol", NAME_MAX_TIER + 1, 1}};
    static const struct name_alias loop[] = {{"loop", to_itself, 1, ROUTE_PRIORITY}}, hides[] = {{"smol", to_smol, 1, ROUTE_PRIORITY}},
                                   empty[] = {{"x", to_smol, 0, ROUTE_PRIORITY}}, tier[] = {{"x", high, 1, ROUTE_PRIORITY}},
                                   odd[] = {{"x", to_smol, 1, (enum route_policy)ROUTE_POLICIES}},
                                   two[] = {{"x", to_smol, 1, ROUTE_PRIORITY}, {"x", to_smol, 1, ROUTE_PRIORITY}};
    static const struct name_local unnamed[] = {{"", NULL, NULL, 0}};
    static const struct name_alias nameless[] = {{"", to_smol, 1, ROUTE_PRIORITY}};
    static const struct name_hosted no_host[] = {{3, "m", NULL, -1}}, no_local[] = {{0, "m", NULL, 0}};
    static const struct {
        struct name_catalogue c;
        const char *message;
    } cases[] = {
        {{.hosts = hosts, .n_hosts = NAME_MAX_HOSTS + 1}, "there are 65 providers; at most 64"},
        {{.locals = locals, .n_locals = NAME_MAX_LOCALS + 1}, "there are 65 local models; at most 64"},
        {{.hosted = hosted, .n_hosted = NAME_MAX_HOSTED + 1}, "there are 16385 hosted models; at most 16384"},
        {{.hosts = reserved, .n_hosts = 1}, "a provider must not be named 'cheapest': that is a model's suffix"},
        {{.hosts = slash, .n_hosts = 1}, "'a/b' is no name for a provider"},
        {{.hosts = twice, .n_hosts = 2}, "two providers are named 'a'"},
        {{.locals = same, .n_locals = 2}, "two local models are named 'a'"},
        {{.locals = unnamed, .n_locals = 1}, "'' is no name for a local model"},
        {{.aliases = nameless, .n_aliases = 1}, "'' is no name for an alias"},
        {{.locals = lost, .n_locals = 1}, "what stands in for 'a', number 1: no such hosted model, or a tier above 100"},
        {{.hosts = hosts, .n_hosts = 3, .hosted = no_host, .n_hosted = 1}, "hosted model 1 ('m') has no provider or no name"},
        {{.hosts = hosts, .n_hosts = 3, .hosted = no_local, .n_hosted = 1}, "no local model takes over from 'groq/m'"},
        {{.locals = locals + 6, .n_locals = 1, .aliases = loop, .n_aliases = 1},
         "the alias 'loop' leads to 'loop', which names no model here (or its tier is above 100)"},
        {{.locals = locals + 5, .n_locals = 2, .aliases = hides, .n_aliases = 1},
         "the alias 'smol' leads to 'smol', which names no model here (or its tier is above 100)"},
        {{.locals = locals, .n_locals = 1, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 3, .aliases = hides, .n_aliases = 1},
         "the alias 'smol' hides the local model of that name"},
        {{.aliases = empty, .n_aliases = 1}, "the alias 'x' leads nowhere"},
        {{.aliases = odd, .n_aliases = 1}, "the alias 'x' has no such policy"},
        {{.locals = locals, .n_locals = 1, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 3, .aliases = tier, .n_aliases = 1},
         "the alias 'x' leads to 'smol', which names no model here (or its tier is above 100)"},
        {{.locals = locals, .n_locals = 1, .hosts = hosts, .n_hosts = 3, .hosted = hosted, .n_hosted = 3, .aliases = two, .n_aliases = 2},
         "two aliases are named 'x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        assert_int_equal(name_catalogue_check(&cases[i].c, &e), -ERR_INPUT);
        assert_string_equal(e.msg, cases[i].message);
    }
}

/* Bytes of any kind, and names with some bytes changed: an error or routes, never more than there is room for. */
static void test_random_names(void **state)
{
    (void)state;
    uint64_t x = 42;
    size_t n_found = 0;
    for (int round = 0; round < 20000; round++) {
        char name[80];
        const char *from = readings[round % (sizeof readings / sizeof *readings)].name;
        size_t n = (size_t)snprintf(name, sizeof name, "%s", from);
        for (int k = 0; k < round % 3; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            name[(x >> 33) % n] = (char)(x >> 56 ? x >> 56 : 1);
        }
        struct name_wanted w;
        struct err e = {0};
        int rc = name_parse(&cat, name, &w, &e);
        assert_true(rc == 0 ? w.n > 0 && w.n <= NAME_MAX_ROUTES && w.n_entries == 1 : rc == -ERR_NOT_FOUND && *e.msg);
        n_found += rc == 0;
    }
    assert_in_range(n_found, 20000 / 3, 19999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_names_lead_to),
        cmocka_unit_test(test_what_is_said_of_names_that_lead_nowhere),
        cmocka_unit_test(test_a_name_is_bounded),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_a_free_place_leads_nowhere),
        cmocka_unit_test(test_what_a_wrong_name_costs_is_bounded),
        cmocka_unit_test(test_more_routes_than_there_is_room_for),
        cmocka_unit_test(test_a_configuration_is_checked),
        cmocka_unit_test(test_random_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
