/* Rules of accounts, on the store that SPILLWAY_STORE names: what of an organisation, a project and a key holds for a request, how gateways take
 * changes over, and what is refused. */
#include "tests/accounts/store.h"

#include "server/accounts/accounts.h"
#include "server/accounts/directory.h"
#include "server/accounts/rules.h"
#include "server/routing/name.h"

enum { MANY = 1100 /* more than two readings of keys and of rules */ };

static struct accounts *a;
static struct db *db;
static int64_t acme, web, key; /* organisation, project, key */

static int64_t key_of(int64_t project, bool admin)
{
    char token[ACCOUNTS_TOKEN_BYTES];
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "k", .project = project, .admin = admin}, token, &store_e);
    OK(id);
    return id;
}

static struct accounts *open_accounts(void)
{
    struct accounts *made;
    const char *where = store_where();
    OK(accounts_open(&made, store_dir, db_is_url(where) ? where : NULL, &store_e));
    return made;
}

static int setup(void **state)
{
    (void)state;
    store_new();
    a = open_accounts();
    db = accounts_db(a);
    acme = directory_organisation_add(db, "Acme", &store_e);
    OK(acme);
    web = directory_project_add(db, acme, "web", &store_e);
    OK(web);
    key = key_of(web, false);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char path[128];
    store_check(db);
    accounts_close(a);
    snprintf(path, sizeof path, "%s/secret", store_dir);
    unlink(path);
    store_remove();
    return 0;
}

static void take_over(struct accounts *of)
{
    int rc = 1;
    for (int i = 0; i < 100 && rc == 1; i++) rc = accounts_refresh(of, &store_e);
    OK(rc);
    assert_int_equal(rc, 0);
}

static int set(int64_t account, enum rule rule, const char *value)
{
    const char *values[RULES] = {NULL};
    values[rule] = value;
    return rules_change(db, account, values, &store_e);
}

/* As of now, for the key. */
static struct account_rules now(void)
{
    struct account_rules r;
    take_over(a);
    accounts_key_rules(a, key, &r);
    return r;
}

static void test_without_rules_all_is_allowed(void **state)
{
    (void)state;
    struct account_rules r = now();
    assert_true(rules_allow(r.providers, "groq") && rules_allow(r.models, "groq/llama") && rules_allow(r.regions, "eu"));
    assert_true(!r.local_only && !r.zero_retention && !r.policy && !r.price.in_nusd && !r.price.out_nusd && !r.price.request_nusd);
    for (int i = 0; i < RULES_LEVELS; i++)
        assert_true(r.overflow[i].hour_nusd == INT64_MAX && r.overflow[i].share_permille == 1000 && !r.overflow[i].providers);
}

static void test_a_key_knows_to_whom_it_belongs(void **state)
{
    (void)state;
    struct account_rules r = now();
    assert_int_equal(r.account[RULES_ORGANISATION], acme);
    assert_int_equal(r.account[RULES_PROJECT], web);
    assert_int_equal(r.account[RULES_KEY], key);
}

static void test_lists_of_all_levels_hold_together(void **state)
{
    (void)state;
    static const enum rule lists[] = {RULE_PROVIDERS, RULE_MODELS, RULE_REGIONS};
    for (size_t i = 0; i < 3; i++) {
        OK(set(acme, lists[i], "one,two,three"));
        OK(set(web, lists[i], "two,three,four"));
        OK(set(key, lists[i], "three,four,one"));
    }
    struct account_rules r = now();
    const char *const *of[] = {r.providers, r.models, r.regions};
    for (size_t i = 0; i < 3; i++)
        assert_true(rules_allow(of[i], "three") && !rules_allow(of[i], "one") && !rules_allow(of[i], "two") && !rules_allow(of[i], "four"));
}

static void test_a_flag_of_any_level_is_enough(void **state)
{
    (void)state;
    const int64_t levels[] = {acme, web, key};
    for (size_t i = 0; i < 3; i++) {
        OK(set(levels[i], RULE_LOCAL_ONLY, "on"));
        assert_true(now().local_only);
        OK(set(levels[i], RULE_LOCAL_ONLY, "off"));
        assert_false(now().local_only);
        OK(set(levels[i], RULE_ZERO_RETENTION, "on"));
        assert_true(now().zero_retention);
        OK(set(levels[i], RULE_ZERO_RETENTION, "any"));
        assert_false(now().zero_retention);
    }
}

static void test_off_below_does_not_lift_what_is_on_above(void **state)
{
    (void)state;
    OK(set(web, RULE_LOCAL_ONLY, "on"));
    OK(set(key, RULE_LOCAL_ONLY, "off"));
    assert_true(now().local_only);
}

static void test_the_lowest_price_cap_counts(void **state)
{
    (void)state;
    OK(set(acme, RULE_MAX_PRICE_IN, "0.50"));
    OK(set(web, RULE_MAX_PRICE_IN, "0.000000001"));
    OK(set(key, RULE_MAX_PRICE_IN, "3"));
    OK(set(key, RULE_MAX_PRICE_OUT, "2.50"));
    OK(set(acme, RULE_MAX_PRICE_REQUEST, "1"));
    struct account_rules r = now();
    assert_int_equal(r.price.in_nusd, 1);
    assert_int_equal(r.price.out_nusd, INT64_C(2500000000));
    assert_int_equal(r.price.request_nusd, INT64_C(1000000000));
}

static void test_the_nearest_policy_counts(void **state)
{
    (void)state;
    OK(set(acme, RULE_POLICY, "cheapest"));
    assert_string_equal(now().policy, "cheapest");
    OK(set(key, RULE_POLICY, "fastest"));
    OK(set(web, RULE_POLICY, "priority"));
    assert_string_equal(now().policy, "fastest");
}

static void test_every_policy_of_routing_can_be_a_rule(void **state)
{
    (void)state;
    for (int i = 0; i < ROUTE_POLICIES; i++) OK(set(key, RULE_POLICY, route_policy_names[i]));
    assert_string_equal(now().policy, route_policy_names[ROUTE_POLICIES - 1]);
}

static void test_overflow_has_caps_for_project_and_key(void **state)
{
    (void)state;
    OK(set(web, RULE_OVERFLOW_USD_PER_HOUR, "2.50"));
    OK(set(key, RULE_OVERFLOW_USD_PER_HOUR, "0"));
    OK(set(key, RULE_OVERFLOW_SHARE, "12.5%"));
    OK(set(key, RULE_OVERFLOW_PROVIDERS, "groq"));
    OK(set(web, RULE_OVERFLOW_REGIONS, "eu,us"));
    OK(set(web, RULE_OVERFLOW_USD_IN, "1"));
    OK(set(web, RULE_OVERFLOW_USD_OUT, "2"));
    OK(set(web, RULE_OVERFLOW_USD_REQUEST, "3"));
    struct account_rules r = now();
    const struct rules_overflow *p = &r.overflow[RULES_PROJECT], *k = &r.overflow[RULES_KEY];
    assert_int_equal(p->hour_nusd, INT64_C(2500000000));
    assert_int_equal(k->hour_nusd, 0);
    assert_int_equal(k->share_permille, 125);
    assert_int_equal(p->share_permille, 1000);
    assert_string_equal(k->providers, "groq");
    assert_string_equal(p->regions, "eu,us");
    assert_int_equal(p->price.in_nusd + p->price.out_nusd + p->price.request_nusd, INT64_C(6000000000));
    assert_int_equal(k->price.in_nusd + k->price.out_nusd + k->price.request_nusd, 0);
}

static void test_an_organisation_has_no_overflow_caps(void **state)
{
    (void)state;
    assert_int_equal(set(acme, RULE_OVERFLOW_SHARE, "5%"), -ERR_NOT_FOUND);
    assert_non_null(strstr(store_e.msg, "overflow_share"));
}

static void test_patterns_end_with_a_star(void **state)
{
    (void)state;
    static const struct {
        const char *list, *word;
        bool has;
    } rows[] = {{NULL, "x", true},           {"groq/*", "groq/llama", true}, {"groq/*", "groq/", true},   {"groq/*", "groq", false},
                {"demo", "demo", true},      {"demo", "demo2", false},       {"demo", "dem", false},      {"a,demo,b", "demo", true},
                {"a,b*", "bc", true},        {"*", "all", true},             {"x*,demo", "demo", true},   {"a,b", "a,b", false},
                {"openai/gpt-4o*", "openai/gpt-4o-mini", true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rules_list_has(rows[i].list, rows[i].word) != rows[i].has) fail_msg("%s in %s", rows[i].word, rows[i].list);
}

static void test_what_is_malformed_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum rule rule;
        const char *value;
    } rows[] = {{RULE_PROVIDERS, ""},
                {RULE_PROVIDERS, "groq,"},
                {RULE_PROVIDERS, "groq,,openai"},
                {RULE_PROVIDERS, "gr oq"},
                {RULE_PROVIDERS, "gro*"},
                {RULE_MODELS, "*/x"},
                {RULE_MODELS, "a\xFF"},
                {RULE_REGIONS, "e\tu"},
                {RULE_LOCAL_ONLY, "yes"},
                {RULE_MAX_PRICE_IN, "0"},
                {RULE_MAX_PRICE_OUT, "-1"},
                {RULE_MAX_PRICE_REQUEST, "1e3"},
                {RULE_MAX_PRICE_IN, "99999999999"},
                {RULE_POLICY, "best"},
                {RULE_OVERFLOW_USD_PER_HOUR, "-0.01"},
                {RULE_OVERFLOW_SHARE, "25 %"},
                {RULE_OVERFLOW_SHARE, "100.1%"},
                {RULE_OVERFLOW_SHARE, "0.01%"},
                {RULE_OVERFLOW_SHARE, "-1%"},
                {RULE_OVERFLOW_SHARE, "%"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (set(key, rows[i].rule, rows[i].value) != -ERR_INPUT) fail_msg("%s '%s' is taken", rule_names[rows[i].rule], rows[i].value);
        assert_non_null(strstr(store_e.msg, rule_names[rows[i].rule]));
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM account_rules"), 0);
}

static void test_too_long_a_list_is_refused(void **state)
{
    (void)state;
    char list[4 * RULES_MAX_TEXT] = "";
    for (int i = 0; i <= RULES_MAX_WORDS; i++) strcat(list, i ? ",m" : "m");
    assert_int_equal(set(key, RULE_MODELS, list), -ERR_INPUT);
    list[0] = '\0';
    while (strlen(list) < RULES_MAX_TEXT) strcat(list, *list ? ",a-model-with-a-name-of-some-length" : "a");
    assert_int_equal(set(key, RULE_MODELS, list), -ERR_INPUT);
    memset(list, 'a', RULES_MAX_WORD);
    list[RULES_MAX_WORD] = '\0';
    assert_int_equal(set(key, RULE_MODELS, list), -ERR_INPUT);
    list[RULES_MAX_WORD - 1] = '\0';
    OK(set(key, RULE_MODELS, list));
}

static void test_changes_are_all_or_none(void **state)
{
    (void)state;
    const char *values[RULES] = {[RULE_PROVIDERS] = "groq", [RULE_OVERFLOW_SHARE] = "lots"};
    assert_int_equal(rules_change(db, key, values, &store_e), -ERR_INPUT);
    assert_null(now().providers[RULES_KEY]);
}

static void test_who_has_no_rules(void **state)
{
    (void)state;
    assert_int_equal(set(3, RULE_LOCAL_ONLY, "on"), -ERR_NOT_FOUND); /* the house */
    assert_int_equal(set(4711, RULE_LOCAL_ONLY, "on"), -ERR_NOT_FOUND);
    OK(directory_close(db, web, &store_e));
    assert_int_equal(set(web, RULE_LOCAL_ONLY, "on"), -ERR_DENIED);
}

static void test_a_rule_replaces_the_one_before(void **state)
{
    (void)state;
    OK(set(key, RULE_PROVIDERS, "groq, openai"));
    OK(set(key, RULE_PROVIDERS, " together ,lab"));
    assert_string_equal(now().providers[RULES_KEY], "together,lab");
    OK(set(key, RULE_PROVIDERS, "any"));
    assert_null(now().providers[RULES_KEY]);
    assert_int_equal(store_number(db, "SELECT count(*) FROM account_rules"), 0);
}

static void test_another_gateway_takes_changes_over(void **state)
{
    (void)state;
    struct account_rules r;
    struct accounts *other = open_accounts();
    OK(set(web, RULE_LOCAL_ONLY, "on"));
    accounts_key_rules(other, key, &r);
    assert_false(r.local_only);
    take_over(other);
    accounts_key_rules(other, key, &r);
    accounts_close(other);
    assert_true(r.local_only);
}

static void test_a_new_key_has_its_projects_rules_at_once(void **state)
{
    (void)state;
    struct account_rules r;
    OK(set(web, RULE_LOCAL_ONLY, "on"));
    take_over(a);
    int64_t another = key_of(web, false);
    accounts_key_rules(a, another, &r);
    assert_true(r.local_only && r.account[RULES_PROJECT] == web && r.account[RULES_ORGANISATION] == acme);
}

static void test_an_admin_key_has_its_organisations_rules(void **state)
{
    (void)state;
    struct account_rules r, again;
    OK(set(1, RULE_ZERO_RETENTION, "on"));
    take_over(a);
    int64_t admin = key_of(0, true);
    accounts_key_rules(a, admin, &r);
    struct accounts *other = open_accounts();
    accounts_key_rules(other, admin, &again);
    accounts_close(other);
    assert_true(r.zero_retention && r.account[RULES_ORGANISATION] == 1 && r.account[RULES_PROJECT] == 0);
    assert_true(again.zero_retention && again.account[RULES_ORGANISATION] == 1 && again.account[RULES_PROJECT] == 0);
}

static void test_a_revoked_key_stays_in_the_house(void **state)
{
    (void)state;
    OK(accounts_key_revoke(a, key, &store_e));
    assert_true(now().local_only);
}

/* Somebody else's hand, or damage. */
static void test_a_row_that_cannot_be_read_keeps_its_account_in_the_house(void **state)
{
    (void)state;
    int64_t other = key_of(web, false);
    struct account_rules r;
    OK(set(other, RULE_PROVIDERS, "groq"));
    OK(db_run(db, "INSERT INTO account_rules (account, name, value) VALUES (?1, 'providers', 'a b')", DB_ARGS(db_int(key)), NULL, &store_e));
    OK(schema_config_changed(db, &store_e));
    assert_true(now().local_only);
    accounts_key_rules(a, other, &r);
    assert_true(!r.local_only && rules_allow(r.providers, "groq") && !rules_allow(r.providers, "openai"));
    OK(set(key, RULE_PROVIDERS, "any"));
    assert_false(now().local_only);
    OK(db_run(db, "INSERT INTO account_rules (account, name, value) VALUES (?1, 'colour', 'red')", DB_ARGS(db_int(key)), NULL, &store_e));
    OK(schema_config_changed(db, &store_e));
    assert_true(now().local_only);
}

/* Keys and rules are read some hundred rows at a time, and are in use all at once. */
static void test_rules_of_many_keys_are_taken_over_together(void **state)
{
    (void)state;
    struct account_rules r;
    int64_t first = 0, last = 0;
    int calls = 0, rc;
    OK(db_begin(db, &store_e));
    for (int i = 0; i < MANY; i++) {
        last = store_key(db, web);
        if (!first) first = last;
        OK(db_run(db, "INSERT INTO key_secrets (account, digest, hint, created_s) VALUES (?1, ?2, '', 1)",
                  DB_ARGS(db_int(last), db_blob(&(const char[32]){(char)i, (char)(i >> 8), 1}, 32)), NULL, &store_e));
        OK(db_run(db, "INSERT INTO account_rules (account, name, value) VALUES (?1, 'providers', 'groq')", DB_ARGS(db_int(last)), NULL, &store_e));
    }
    OK(schema_end_change(db, 0, &store_e));
    while ((rc = accounts_refresh(a, &store_e)) == 1) {
        accounts_key_rules(a, key, &r);
        assert_false(r.local_only); /* the former ones hold */
        accounts_key_rules(a, last, &r);
        assert_true(r.local_only); /* not known yet */
        calls++;
    }
    OK(rc);
    assert_in_range(calls, 4, 8);
    for (int64_t id = first; id <= last; id += last - first) {
        accounts_key_rules(a, id, &r);
        assert_true(!r.local_only && rules_allow(r.providers, "groq") && !rules_allow(r.providers, "openai"));
    }
}

struct seen {
    char text[1000];
};

static void note(void *ctx, const struct rules_row *r)
{
    struct seen *s = ctx;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof s->text - n, "%s %s=%s;", r->kind, r->name, r->value);
}

static void test_a_list_has_what_holds_from_above_first(void **state)
{
    (void)state;
    struct seen s = {""}, all = {""};
    int64_t other = directory_project_add(db, acme, "other", &store_e);
    OK(other);
    OK(set(key, RULE_OVERFLOW_SHARE, "25"));
    OK(set(web, RULE_MAX_PRICE_OUT, "1.5"));
    OK(set(acme, RULE_LOCAL_ONLY, "on"));
    OK(set(other, RULE_REGIONS, "eu"));
    OK(rules_list(db, key, note, &s, &store_e));
    assert_string_equal(s.text, "organisation local_only=on;project max_price_out=1.50;key overflow_share=25%;");
    OK(rules_list(db, 0, note, &all, &store_e));
    assert_string_equal(all.text, "organisation local_only=on;project max_price_out=1.50;project regions=eu;key overflow_share=25%;");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_without_rules_all_is_allowed),
        TEST(test_a_key_knows_to_whom_it_belongs),
        TEST(test_lists_of_all_levels_hold_together),
        TEST(test_a_flag_of_any_level_is_enough),
        TEST(test_off_below_does_not_lift_what_is_on_above),
        TEST(test_the_lowest_price_cap_counts),
        TEST(test_the_nearest_policy_counts),
        TEST(test_every_policy_of_routing_can_be_a_rule),
        TEST(test_overflow_has_caps_for_project_and_key),
        TEST(test_an_organisation_has_no_overflow_caps),
        TEST(test_patterns_end_with_a_star),
        TEST(test_what_is_malformed_is_refused),
        TEST(test_too_long_a_list_is_refused),
        TEST(test_changes_are_all_or_none),
        TEST(test_who_has_no_rules),
        TEST(test_a_rule_replaces_the_one_before),
        TEST(test_another_gateway_takes_changes_over),
        TEST(test_a_new_key_has_its_projects_rules_at_once),
        TEST(test_an_admin_key_has_its_organisations_rules),
        TEST(test_a_revoked_key_stays_in_the_house),
        TEST(test_a_row_that_cannot_be_read_keeps_its_account_in_the_house),
        TEST(test_rules_of_many_keys_are_taken_over_together),
        TEST(test_a_list_has_what_holds_from_above_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
