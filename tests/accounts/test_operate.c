/* What operators do with the accounts, on the store that SPILLWAY_STORE names: projects, limits, prices, statements, usage, export,
 * reconciliation (T80), pruning, copies. The invariants after each test. */
#include "tests/accounts/store.h"

#include <fcntl.h>
#include <time.h>

#include "base/json.h"
#include "server/accounts/accounts.h"
#include "server/accounts/directory.h"
#include "server/accounts/export.h"
#include "server/accounts/ledger.h"
#include "server/accounts/price_book.h"
#include "server/accounts/price_table.h"
#include "server/accounts/prune.h"
#include "server/accounts/reconcile.h"
#include "server/accounts/report.h"
#include "server/accounts/rules.h"
#include "server/accounts/store_copy.h"

static const int64_t CENT = 10000000, USD = 1000000000, DAY_MS = 86400000;

static struct db *db;
static struct ledger *l;
static int64_t key, groq, now_ms, today;

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

static void ledger_begin(const char *where)
{
    OK(db_open(&db, where, &store_e));
    OK(schema_migrate(db, &store_e));
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = true, .now_ms = clock_now}, &store_e));
}

static void ledger_end_all(void)
{
    ledger_close(l);
    db_close(db);
    l = NULL;
    db = NULL;
}

static void begin_on(const char *where)
{
    ledger_begin(where);
    key = store_key(db, 2);
    groq = ledger_supplier(db, "groq", &store_e);
    OK(groq);
}

/* The store's clock is the machine's: tests begin 100 days ago, at noon, and come nearer. */
static int setup(void **state)
{
    (void)state;
    today = (int64_t)time(NULL) / 86400;
    now_ms = (today - 100) * DAY_MS + DAY_MS / 2;
    store_new();
    begin_on(store_where());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_check(db);
    ledger_end_all();
    store_remove();
    return 0;
}

/* How many of the invariants are broken. */
static size_t n_broken(void)
{
    size_t n, broken = 0;
    char **list = store_invariants(&n);
    for (size_t i = 0; i < n; i++) {
        struct db_rows rows;
        OK(db_query(db, &rows, list[i], DB_NO_ARGS, &store_e));
        broken += db_next(&rows, &store_e) == 1;
        db_done(&rows);
    }
    return broken;
}

static int reserve(int64_t account, const char *model, const char *tags, int64_t amount, int64_t *request)
{
    struct ledger_op op = {.type = LEDGER_RESERVE,
                           .account = account,
                           .model = model,
                           .tags = tags,
                           .amount_nusd = amount,
                           .tokens = 100,
                           .lasts_ms = 60000,
                           .attempt = {.supplier = groq, .model = model}};
    struct ledger_op *list = &op;
    OK(ledger_apply(l, &list, 1, &store_e));
    *request = op.request;
    return op.rc;
}

static void post(int64_t request, int64_t in, int64_t out, int64_t sale, int64_t cost, const char *reconcile)
{
    struct ledger_op op = {.type = LEDGER_POST,
                           .request = request,
                           .sale_nusd = sale,
                           .served = 1,
                           .n_used = 1,
                           .used = {{.n = 1, .supplier = groq, .end = LEDGER_SERVED, .cost_nusd = cost, .reconcile = reconcile}},
                           .outcome = "stop"};
    usage_set(&op.used[0].usage, USAGE_IN_UNCACHED, in);
    usage_set(&op.used[0].usage, USAGE_OUT_TEXT, out);
    struct ledger_op *list = &op;
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(op.rc, 0);
}

static void request_of(int64_t account, const char *model, const char *tags, int64_t in, int64_t out, int64_t sale, int64_t cost)
{
    int64_t id;
    assert_int_equal(reserve(account, model, tags, sale, &id), 0);
    post(id, in, out, sale, cost, NULL);
}

static int64_t posted(int64_t account)
{
    struct ledger_balance b;
    OK(ledger_balance(l, account, &b, &store_e));
    return b.posted_nusd;
}

/* --- projects --- */

static void test_projects_have_unique_names_and_a_balance(void **state)
{
    (void)state;
    int64_t acme = directory_organisation_add(db, "Acme", &store_e), web = directory_project_add(db, acme, "web", &store_e);
    OK(acme);
    OK(web);
    assert_int_equal(posted(web), 0);
    assert_int_equal(directory_organisation_add(db, "Acme", &store_e), -ERR_EXISTS);
    assert_int_equal(directory_project_add(db, acme, "web", &store_e), -ERR_EXISTS);
    OK(directory_project_add(db, 1, "web", &store_e)); /* in another organisation */
    assert_int_equal(directory_project_add(db, web, "in a project", &store_e), -ERR_NOT_FOUND);
    assert_int_equal(directory_project_add(db, acme, "a\nb", &store_e), -ERR_INPUT);
    int64_t api = directory_project_add(db, acme, "api", &store_e);
    OK(api);
    assert_int_equal(directory_rename(db, api, "web", &store_e), -ERR_EXISTS);
    OK(directory_rename(db, api, "backend", &store_e));
    OK(directory_rename(db, api, "backend", &store_e)); /* as it is */
    assert_int_equal(directory_rename(db, key, "x", &store_e), -ERR_NOT_FOUND);
}

static void count_accounts(void *ctx, const struct directory_account *a)
{
    int *n = ctx;
    n[0]++;
    n[1] += a->closed_s != 0;
    n[2] += a->has_balance;
}

static void test_closing_closes_all_below_and_nothing_else(void **state)
{
    (void)state;
    int64_t acme = directory_organisation_add(db, "Acme", &store_e), web = directory_project_add(db, acme, "web", &store_e), id;
    int64_t inside = store_key(db, web);
    request_of(inside, "m", NULL, 1, 1, 0, 0);
    OK(directory_close(db, acme, &store_e));
    assert_int_equal(reserve(inside, "m", NULL, 0, &id), -ERR_DENIED);
    assert_int_equal(reserve(key, "m", NULL, 0, &id), 0);
    post(id, 1, 1, 0, 0, NULL);
    int all[3] = {0}, of_acme[3] = {0};
    OK(directory_list(db, acme, false, count_accounts, of_acme, &store_e));
    assert_int_equal(of_acme[0], 2);
    assert_int_equal(of_acme[1], 2);
    OK(directory_list(db, 0, true, count_accounts, all, &store_e));
    assert_int_equal(all[1], 3);
    assert_int_equal(all[2], 3 + 2 + 1); /* houses, projects, groq */
    assert_int_equal(directory_close(db, acme, &store_e), -ERR_DENIED);
    assert_int_equal(directory_close(db, 1, &store_e), -ERR_DENIED);
    assert_int_equal(directory_close(db, 2, &store_e), -ERR_DENIED);
    assert_int_equal(directory_close(db, groq, &store_e), -ERR_NOT_FOUND);
    assert_int_equal(directory_list(db, 99999, true, count_accounts, all, &store_e), -ERR_NOT_FOUND);
    OK(directory_organisation_add(db, "Acme", &store_e)); /* the name is free again */
}

/* At each level; the ledger has the key's chain in memory and notices. */
static void test_frozen_accounts_get_no_new_requests(void **state)
{
    (void)state;
    int64_t levels[] = {1, 2, key}, id;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(reserve(key, "m", NULL, CENT, &id), 0);
        OK(directory_freeze(db, levels[i], true, &store_e));
        post(id, 1, 1, CENT, 0, NULL); /* what has begun is charged */
        assert_int_equal(reserve(key, "m", NULL, CENT, &id), -ERR_DENIED);
        assert_int_equal(directory_freeze(db, levels[i], true, &store_e), -ERR_INPUT);
        OK(directory_freeze(db, levels[i], false, &store_e));
        assert_int_equal(directory_freeze(db, levels[i], false, &store_e), -ERR_INPUT);
    }
    assert_int_equal(posted(2), -3 * CENT);
}

static void take_budget(void *ctx, const struct ledger_budget *b)
{
    struct ledger_budget *out = ctx;
    *out = *b;
    out->id = out->id ? out->id : 1;
}

static void test_limits_are_budgets_that_replace_one_another(void **state)
{
    (void)state;
    int64_t id;
    struct ledger_budget b = {0};
    OK(ledger_limit_set(l, 2, "requests", "minute", 1, &store_e));
    assert_int_equal(reserve(key, "m", NULL, 0, &id), 0);
    OK(ledger_budget_list(l, 2, take_budget, &b, &store_e));
    assert_int_equal(b.pending, 1);
    assert_int_equal(b.posted, 0);
    post(id, 1, 1, 0, 0, NULL);
    OK(ledger_budget_list(l, 2, take_budget, &b, &store_e));
    assert_int_equal(b.pending, 0);
    assert_int_equal(b.posted, 1);
    assert_int_equal(b.amount, 1);
    assert_int_equal(reserve(key, "m", NULL, 0, &id), -ERR_RATE);
    OK(ledger_limit_set(l, 2, "requests", "minute", 3, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM budgets WHERE ended_s IS NULL"), 1);
    assert_int_equal(reserve(key, "m", NULL, 0, &id), 0);
    post(id, 1, 1, 0, 0, NULL);
    OK(ledger_limit_set(l, 2, "requests", "minute", 0, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM budgets WHERE ended_s IS NULL"), 0);
    memset(&b, 0, sizeof b);
    OK(ledger_budget_list(l, 0, take_budget, &b, &store_e));
    assert_int_equal(b.id, 0);
    assert_int_equal(ledger_limit_set(l, 99999, "requests", "minute", 3, &store_e), -ERR_NOT_FOUND);
}

/* What is written to the log while fn runs. */
static void logged(void (*fn)(void), char *out, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/log", store_dir);
    int kept = dup(2), f = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && f >= 0);
    dup2(f, 2);
    fn();
    dup2(kept, 2);
    close(kept);
    ssize_t got = pread(f, out, n - 1, 0);
    out[got > 0 ? got : 0] = '\0';
    close(f);
    unlink(path);
}

static void use_four_cents(void)
{
    for (int i = 0; i < 4; i++) request_of(key, "m", NULL, 1, 1, CENT, 0);
}

static void test_a_budget_that_only_tells_does_so_once_a_window(void **state)
{
    (void)state;
    char text[4096];
    const struct ledger_budget b = {.account = 2, .scope = "all", .unit = "nusd", .period = "day", .amount = 2 * CENT};
    int64_t id = ledger_budget_add(l, &b, &store_e);
    OK(id);
    logged(use_four_cents, text, sizeof text);
    const char *said = strstr(text, "of account 2 is used up: 0.02 usd per day (all requests)");
    assert_non_null(said);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
    logged(use_four_cents, text, sizeof text);
    assert_string_equal(text, "");
    now_ms += DAY_MS;
    logged(use_four_cents, text, sizeof text);
    assert_non_null(strstr(text, "used up"));
}

/* --- prices --- */

struct prices {
    int n, n_ended;
    char rows[4096];
};

static void take_price(void *ctx, const struct price_table_row *r)
{
    struct prices *p = ctx;
    p->n++;
    p->n_ended += r->ended_s != 0;
    snprintf(p->rows, sizeof p->rows, "%s", r->rows);
}

static int64_t set_price(const char *text)
{
    return price_table_set(db, text, strlen(text), "test", &store_e);
}

static void test_a_new_price_ends_the_one_before(void **state)
{
    (void)state;
    struct prices all = {0}, now = {0};
    int64_t version = store_number(db, "SELECT config_version FROM ledger_state"), nusd;
    OK(set_price("{\"provider\":\"local\",\"model\":\"demo\",\"can\":[],\"prices\":[{\"in_uncached\":[100,1],\"out_text\":[400,1]}]}"));
    OK(set_price("{\"provider\":\"local\",\"model\":\"demo\",\"can\":[],\"prices\":[{\"in_uncached\":[150,1],\"out_text\":[400,1]}]}"));
    assert_int_equal(store_number(db, "SELECT config_version FROM ledger_state"), version + 2);
    OK(price_table_list(db, "local", "demo", true, take_price, &all, &store_e));
    assert_int_equal(all.n, 2);
    assert_int_equal(all.n_ended, 1);
    OK(price_table_list(db, NULL, NULL, false, take_price, &now, &store_e));
    assert_int_equal(now.n, 1);
    struct price_book *book;
    OK(price_book_read_stored(&book, now.rows, strlen(now.rows), "test", &store_e));
    struct usage u = {0};
    usage_set(&u, USAGE_IN_UNCACHED, 10);
    usage_set(&u, USAGE_OUT_TEXT, 2);
    OK(price_cost(&book->prices[0], &u, PRICE_STANDARD, &nusd, &store_e));
    assert_int_equal(nusd, 10 * 150 + 2 * 400);
    price_book_release(book);
    OK(price_table_end(db, "local", "demo", &store_e));
    assert_int_equal(price_table_end(db, "local", "demo", &store_e), -ERR_NOT_FOUND);
}

/* A request that was priced by the book of a model whose price an operator has set: both are kept, the operator's stays in force. */
static void test_a_price_of_the_book_does_not_meet_the_operators(void **state)
{
    (void)state;
    OK(set_price("{\"provider\":\"groq\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[100,1],\"out_text\":[400,1]}]}"));
    struct ledger_op op = {.type = LEDGER_RESERVE,
                           .account = key,
                           .model = "m",
                           .lasts_ms = 60000,
                           .price_of = {.provider = "groq", .model = "m", .rows = "{\"as in\":\"the book\"}"},
                           .attempt = {.supplier = groq, .model = "m"}};
    struct ledger_op *list = &op;
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(op.rc, 0);
    post(op.request, 1, 1, 0, 0, NULL);
    assert_int_equal(store_number(db, "SELECT count(*) FROM prices"), 2);
    assert_int_equal(store_number(db, "SELECT count(*) FROM prices WHERE ended_s IS NULL AND source = 'test'"), 1);
}

static void test_malformed_prices_leave_the_one_in_force(void **state)
{
    (void)state;
    static const char good[] =
        "{\"provider\":\"sale\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[100,1],\"out_text\":[400,1]}]}";
    static const char *const bad[] = {
        "{", "{\"provider\":\"sale\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[0,1],\"out_text\":[400,1]}]}",
        "{\"provider\":\"sale\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[1.5,1],\"out_text\":[400,1]}]}",
        "{\"provider\":\"sale\",\"model\":\"m\",\"region\":\"eu\",\"can\":[],\"prices\":[{\"in_uncached\":[100,1],\"out_text\":[400,1]}]}"};
    OK(set_price(good));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(set_price(bad[i]), -ERR_INPUT);
    assert_int_equal(store_number(db, "SELECT count(*) FROM prices WHERE ended_s IS NULL"), 1);
}

/* --- statements --- */

struct lines {
    int n;
    int64_t sum, last_balance;
    char kinds[256];
};

static void take_line(void *ctx, const struct report_line *s)
{
    struct lines *t = ctx;
    t->n++;
    t->sum += s->amount_nusd;
    t->last_balance = s->balance_nusd;
    size_t n = strlen(t->kinds);
    snprintf(t->kinds + n, sizeof t->kinds - n, "%s%s*%d", n ? " " : "", s->kind, (int)s->n);
}

static void test_a_statement_adds_up(void **state)
{
    (void)state;
    int64_t from_ms = (today - 90) * DAY_MS, to_ms = (today - 60) * DAY_MS, other = store_key(db, store_project(db));
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, 10 * USD, 0, "before", &store_e));
    request_of(key, "m", NULL, 1, 1, CENT, 0);
    now_ms = from_ms; /* the first moment counts, the last does not */
    request_of(key, "m", NULL, 1, 1, 2 * CENT, 0);
    request_of(key, "m", NULL, 1, 1, 3 * CENT, 0);
    request_of(other, "m", NULL, 1, 1, 5 * USD, 0);
    int64_t id = ledger_transfer(l, LEDGER_DEPOSIT, 2, USD, 0, "in it", &store_e);
    OK(id);
    now_ms = to_ms - 1;
    request_of(key, "m", NULL, 1, 1, 4 * CENT, 0);
    OK(ledger_transfer(l, LEDGER_REFUND, 2, 7 * CENT, id, NULL, &store_e));
    OK(ledger_transfer(l, LEDGER_ADJUSTMENT, 2, -11 * CENT, 0, NULL, &store_e));
    OK(ledger_transfer(l, LEDGER_CHARGEBACK, 2, 13 * CENT, id, NULL, &store_e));
    now_ms = to_ms;
    request_of(key, "m", NULL, 1, 1, 17 * CENT, 0);
    struct report_statement s;
    struct lines t = {0};
    OK(report_statement(db, 2, from_ms, to_ms, take_line, &t, &s, &store_e));
    assert_string_equal(t.kinds, "sale*2 deposit*1 sale*1 refund*1 adjustment*1 chargeback*1");
    assert_int_equal(s.opening_nusd, 10 * USD - CENT);
    assert_int_equal(s.sales_nusd, 9 * CENT);
    assert_int_equal(s.paid_in_nusd, USD - 13 * CENT);
    assert_int_equal(s.other_nusd, (7 - 11) * CENT);
    assert_int_equal(s.closing_nusd, 11 * USD + (-1 - 9 - 13 + 7 - 11) * CENT);
    assert_int_equal(s.opening_nusd + t.sum, s.closing_nusd);
    assert_int_equal(t.last_balance, s.closing_nusd);
    assert_int_equal(posted(2), s.closing_nusd - 17 * CENT);
    assert_int_equal(report_statement(db, key, from_ms, to_ms, take_line, &t, &s, &store_e), -ERR_NOT_FOUND);
}

/* Its closing balance is what the invoice says, once a difference was entered. */
static void test_a_supplier_has_a_statement_and_adjustments(void **state)
{
    (void)state;
    struct report_statement s;
    struct lines t = {0};
    for (int i = 0; i < 3; i++) request_of(key, "m", NULL, 1, 1, CENT, 5 * CENT);
    int64_t id = ledger_transfer(l, LEDGER_ADJUSTMENT, groq, -2 * CENT, 0, "their invoice", &store_e);
    OK(id);
    OK(ledger_transfer(l, LEDGER_ADJUSTMENT, groq, CENT, id, "after all", &store_e));
    OK(report_statement(db, groq, 0, today * DAY_MS, take_line, &t, &s, &store_e));
    assert_string_equal(t.kinds, "cost*3 adjustment*1 adjustment*1");
    assert_int_equal(s.closing_nusd, 14 * CENT);
    assert_int_equal(posted(groq), 14 * CENT);
    assert_int_equal(ledger_transfer(l, LEDGER_REFUND, groq, CENT, 0, NULL, &store_e), -ERR_NOT_FOUND);
    assert_int_equal(ledger_transfer(l, LEDGER_ADJUSTMENT, key, CENT, 0, NULL, &store_e), -ERR_NOT_FOUND);
}

/* What we pay a supplier leaves by `outside`: the margin is what it was. */
static void test_a_payment_reduces_what_we_owe(void **state)
{
    (void)state;
    struct report_statement s;
    struct lines t = {0};
    request_of(key, "m", NULL, 1, 1, 9 * CENT, 5 * CENT);
    int64_t margin = store_number(db, "SELECT posted FROM balances WHERE account = 3");
    OK(ledger_transfer(l, LEDGER_PAYMENT, groq, 7 * CENT, 0, "invoice 12", &store_e));
    OK(ledger_transfer(l, LEDGER_PAYMENT, groq, -1 * CENT, 0, "paid back", &store_e));
    OK(report_statement(db, groq, 0, today * DAY_MS, take_line, &t, &s, &store_e));
    assert_string_equal(t.kinds, "cost*1 payment*1 payment*1");
    assert_int_equal(s.paid_in_nusd, -6 * CENT);
    assert_int_equal(s.closing_nusd, -1 * CENT);
    assert_int_equal(store_number(db, "SELECT posted FROM balances WHERE account = 3"), margin);
    assert_int_equal(store_number(db, "SELECT b.posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.name = 'outside'"), 6 * CENT);
    assert_int_equal(ledger_transfer(l, LEDGER_PAYMENT, 2, CENT, 0, NULL, &store_e), -ERR_NOT_FOUND);
}

static struct ledger_order deposit_of(int64_t nusd, const char *order_key)
{
    return (struct ledger_order){.kind = LEDGER_DEPOSIT, .account = 2, .amount_nusd = nusd, .note = "n", .key = order_key};
}

static void test_b8_an_order_with_a_key_is_carried_out_once(void **state)
{
    (void)state;
    bool repeated;
    struct ledger_order o = deposit_of(CENT, "invoice-17");
    int64_t first = ledger_transfer_order(l, &o, &repeated, &store_e);
    OK(first);
    assert_false(repeated);
    assert_int_equal(ledger_transfer_order(l, &o, &repeated, &store_e), first);
    assert_true(repeated);
    assert_int_equal(posted(2), CENT);
}

static void test_b8_a_key_that_says_something_else_moves_nothing(void **state)
{
    (void)state;
    struct ledger_order o = deposit_of(CENT, "k");
    OK(ledger_transfer_order(l, &o, NULL, &store_e));
    struct ledger_order others[] = {o, o, o, o};
    others[0].amount_nusd++;
    others[1].note = "other";
    others[2].kind = LEDGER_REFUND; /* with another balance, too, so that only the index is in its way */
    others[3].linked = 1;
    for (size_t i = 0; i < 4; i++) assert_int_equal(ledger_transfer_order(l, &others[i], NULL, &store_e), -ERR_MISMATCH);
    assert_int_equal(posted(2), CENT);
}

static void test_orders_that_cannot_be_name_the_member(void **state)
{
    (void)state;
    static char long_key[LEDGER_MAX_KEY + 2], long_note[LEDGER_MAX_NOTE + 2];
    memset(long_key, 'k', LEDGER_MAX_KEY + 1);
    memset(long_note, 'n', LEDGER_MAX_NOTE + 1);
    const struct {
        struct ledger_order o;
        const char *param;
    } wrong[] = {{deposit_of(0, NULL), "amount_usd"},
                 {deposit_of(-1, NULL), "amount_usd"},
                 {deposit_of(INT64_MIN, NULL), "amount_usd"},
                 {deposit_of(INT64_MAX, NULL), "amount_usd"},
                 {deposit_of(1, ""), "Idempotency-Key"},
                 {deposit_of(1, "a b"), "Idempotency-Key"},
                 {deposit_of(1, "\xC3\xA4"), "Idempotency-Key"},
                 {deposit_of(1, long_key), "Idempotency-Key"},
                 {{.kind = LEDGER_DEPOSIT, .account = 2, .amount_nusd = 1, .note = long_note}, "note"},
                 {{.kind = LEDGER_DEPOSIT, .account = 2, .amount_nusd = 1, .note = "\xFF"}, "note"},
                 {{.kind = LEDGER_REFUND, .account = 2, .amount_nusd = 1, .linked = 77}, "linked"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_true(ledger_transfer_order(l, &wrong[i].o, NULL, &store_e) < 0);
        assert_string_equal(store_e.param, wrong[i].param);
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers"), 0);
}

/* Past int64 SQLite would count in floating point. */
static void test_a_balance_stays_countable(void **state)
{
    (void)state;
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, INT64_MAX / 2, 0, NULL, &store_e));
    assert_int_equal(ledger_transfer(l, LEDGER_DEPOSIT, 2, 1, 0, NULL, &store_e), -ERR_LIMIT);
    assert_int_equal(posted(2), INT64_MAX / 2);
}

/* --- usage --- */

struct sums {
    int n;
    int64_t requests, in, out, sale, cost;
    char names[512];
};

static void take_usage(void *ctx, const struct report_usage *u)
{
    struct sums *s = ctx;
    s->n++;
    s->requests += u->requests;
    s->in += u->tokens_in;
    s->out += u->tokens_out;
    s->sale += u->sale_nusd;
    s->cost += u->cost_nusd;
    size_t n = strlen(s->names);
    snprintf(s->names + n, sizeof s->names - n, "%s%s%s%s", u->model, u->supplier_name, u->tag, u->value);
}

static struct sums usage_by(unsigned by, int64_t from_day, int64_t to_day, int64_t project)
{
    struct sums s = {0};
    struct report_query q = {.by = by, .from_day = from_day, .to_day = to_day, .project = project};
    OK(report_usage(db, &q, take_usage, &s, &store_e));
    return s;
}

static void test_usage_is_summed_by_what_is_asked(void **state)
{
    (void)state;
    int64_t project = store_project(db), other = store_key(db, project), first = today - 100;
    request_of(key, "a", "{\"team\":\"x\"}", 10, 1, CENT, 3);
    request_of(key, "b", "{\"team\":\"y\"}", 20, 2, 2 * CENT, 5);
    request_of(other, "a", "{\"team\":\"x\"}", 40, 4, 4 * CENT, 7);
    now_ms += DAY_MS;
    request_of(key, "a", NULL, 80, 8, 8 * CENT, 11);
    struct sums all = usage_by(0, first, first + 1, 0), days = usage_by(REPORT_DAY, first, first + 1, 0);
    assert_int_equal(all.n, 1);
    assert_int_equal(all.requests, 4);
    assert_int_equal(all.in, 150);
    assert_int_equal(all.out, 15);
    assert_int_equal(all.sale, 15 * CENT);
    assert_int_equal(all.cost, 26);
    assert_int_equal(days.n, 2);
    assert_int_equal(days.sale, all.sale);
    assert_int_equal(usage_by(REPORT_DAY | REPORT_PROJECT, first, first + 1, 0).n, 3);
    assert_int_equal(usage_by(REPORT_KEY, first, first + 1, 0).n, 2);
    assert_string_equal(usage_by(REPORT_MODEL, first, first + 1, 0).names, "ab");
    assert_string_equal(usage_by(REPORT_SUPPLIER, first, first + 1, 0).names, "groq");
    assert_int_equal(usage_by(REPORT_PROJECT, first, first, 0).sale, 7 * CENT); /* the other day left out */
    assert_int_equal(usage_by(REPORT_PROJECT, first, first + 1, project).sale, 4 * CENT);
    struct sums tags = usage_by(REPORT_TAG, first, first + 1, 0);
    assert_string_equal(tags.names, "teamxteamy");
    assert_int_equal(tags.sale, 7 * CENT);
    assert_int_equal(usage_by(REPORT_TAG | REPORT_PROJECT, first, first + 1, 2).sale, 3 * CENT);
    struct report_query wrong = {.by = REPORT_TAG | REPORT_MODEL};
    assert_int_equal(report_usage(db, &wrong, take_usage, &all, &store_e), -ERR_INPUT);
}

/* --- export --- */

static char *export_text(enum export_what what, bool json, int64_t from_ms, int64_t to_ms, size_t *n_rows)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    OK(export_write(db, what, json, from_ms, to_ms, f, n_rows, &store_e));
    fclose(f);
    return text;
}

static void test_exports_have_every_row_and_are_safe_to_open(void **state)
{
    (void)state;
    size_t n;
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, 12500000001, 0, "=cmd(\"x\"), y", &store_e));
    request_of(key, "m", "{\"a\":\"b\"}", 10, 1, CENT, 3);
    char *csv = export_text(EXPORT_TRANSFERS, false, 0, INT64_MAX, &n);
    assert_int_equal(n, 3);
    assert_non_null(strstr(csv, ",12.500000001,,\"'=cmd(\"\"x\"\"), y\"\r\n"));
    assert_non_null(strstr(csv, ",sale,"));
    free(csv);
    char *text = export_text(EXPORT_TRANSFERS, true, 0, INT64_MAX, &n);
    json_t *v;
    OK(json_read(text, strlen(text), &json_limits_file, "export", &v, &store_e));
    assert_int_equal(json_array_size(v), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(v, 0), "note")), "=cmd(\"x\"), y");
    json_decref(v);
    free(text);
    text = export_text(EXPORT_REQUESTS, true, 0, INT64_MAX, &n);
    OK(json_read(text, strlen(text), &json_limits_file, "export", &v, &store_e));
    const json_t *row = json_array_get(v, 0);
    assert_string_equal(json_string_value(json_object_get(row, "charged_usd")), "0.01");
    assert_string_equal(json_string_value(json_object_get(row, "supplier")), "groq");
    assert_int_equal(json_integer_value(json_object_get(row, "in_uncached")), 10);
    json_decref(v);
    free(text);
    text = export_text(EXPORT_REQUESTS, true, 0, (today - 100) * DAY_MS, &n);
    assert_int_equal(n, 0);
    assert_string_equal(text, "[]\n");
    free(text);
}

/* --- reconciliation: T80 --- */

enum { DAYS = 5, MODELS = 4, GROUPS = DAYS * MODELS, PER_GROUP = 3 };
static const char *const models[MODELS] = {"llama-3.1-8b", "llama-3.3-70b", "qwen3-32b", "gpt-oss-20b"};

struct told { /* what the provider's file says of a day and model */
    int64_t requests, in, out, nusd;
    bool missing, twice;
};

/* Day by day, PER_GROUP requests of each model; what each should come to is kept apart from the ledger. */
static void make_history(struct told told[GROUPS])
{
    int64_t start_ms = now_ms;
    for (int g = 0; g < GROUPS; g++) {
        now_ms = start_ms + g / MODELS * DAY_MS + g;
        told[g] = (struct told){0};
        for (int i = 0; i < PER_GROUP; i++) {
            int64_t in = 100 + g * 7 + i, out = 10 + g + i, cost = in * 590 + out * 790;
            request_of(key, models[g % MODELS], NULL, in, out, 2 * cost, cost);
            told[g].requests++;
            told[g].in += in;
            told[g].out += out;
            told[g].nusd += cost;
        }
    }
}

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void day_text(int64_t day, char out[32])
{
    time_t t = (time_t)(day * 86400);
    struct tm tm;
    strftime(out, 32, "%Y-%m-%d", gmtime_r(&t, &tm));
}

static void write_invoice(const char *path, const struct told told[GROUPS], bool json, bool extra)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    char day[32];
    const char *form =
        json ? "%s{\"date\":\"%s\",\"model\":\"%s\",\"n_requests\":%d,\"input_tokens\":%d,\"output_tokens\":%d,\"cost\":%d.%09d}"
             : "%s%s,\"%s\",%d,%d,%d,%d.%09d\r\n";
    fputs(json ? "{\"data\":[" : "date,model,n_requests,input_tokens,output_tokens,cost\r\n", f);
    const char *comma = "";
    for (int g = 0; g < GROUPS; g++)
        for (int i = told[g].missing ? 2 : told[g].twice ? 0 : 1; i < 2; i++) {
            day_text(today - 100 + g / MODELS, day);
            fprintf(f, form, comma, day, models[g % MODELS], (int)told[g].requests, (int)told[g].in, (int)told[g].out,
                    (int)(told[g].nusd / USD), (int)(told[g].nusd % USD));
            comma = json ? ",\n" : "";
        }
    day_text(today - 98, day);
    if (extra) fprintf(f, form, comma, day, "whisper-large", 1, 5, 0, 0, 20000000);
    fputs(json ? "]}" : "", f);
    fclose(f);
}

struct found {
    int n;
    unsigned bits[GROUPS + 8];
    char places[GROUPS + 8][64];
};

static void take_difference(void *ctx, unsigned bits, const struct reconcile_row *theirs, const struct reconcile_row *ours)
{
    struct found *f = ctx;
    assert_int_equal(theirs->day, ours->day);
    snprintf(f->places[f->n], sizeof f->places[0], "%d %.40s", (int)(theirs->day - (today - 100)), theirs->model);
    f->bits[f->n++] = bits;
}

static struct found reconcile_file_at(const char *path, int64_t threshold_nusd, struct reconcile_sums *sums)
{
    struct found found = {0};
    struct reconcile_file file;
    struct reconcile_options o = {.supplier = "groq", .threshold_nusd = threshold_nusd};
    OK(reconcile_read(&file, path, &store_e));
    OK(reconcile(db, &file, &o, take_difference, &found, sums, &store_e));
    reconcile_free(&file);
    return found;
}

static unsigned bits_at(const struct found *f, const char *place)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->places[i], place) == 0) return f->bits[i];
    return 0;
}

static void test_t80_all_planted_errors_of_an_invoice_are_found_and_no_others(void **state)
{
    (void)state;
    char path[128];
    struct told told[GROUPS];
    struct reconcile_sums sums;
    make_history(told);
    snprintf(path, sizeof path, "%s/invoice", store_dir);
    int64_t transfers = store_number(db, "SELECT count(*) FROM transfers"), amount = store_number(db, "SELECT sum(amount) FROM transfers"),
            sum = 0;
    for (int g = 0; g < GROUPS; g++) sum += told[g].nusd;
    for (int json = 0; json < 2; json++) {
        write_invoice(path, told, json, false);
        struct found none = reconcile_file_at(path, 0, &sums);
        assert_int_equal(none.n, 0);
        assert_int_equal(sums.n_compared, GROUPS);
        assert_int_equal(sums.theirs_nusd, sum);
        assert_int_equal(sums.ours_nusd, sum);
        struct told wrong[GROUPS];
        memcpy(wrong, told, sizeof wrong);
        wrong[1].nusd += 2 * CENT;              /* 1 too much */
        wrong[4].nusd -= told[4].nusd / 2;      /* 2 too little */
        wrong[6].in += 1;                       /* 3 */
        wrong[9].out -= 1;                      /* 4 */
        wrong[10].requests += 1;                /* 5 */
        wrong[15].missing = true;               /* 6 they do not ask for it */
        wrong[16].twice = true;                 /* 7 billed twice */
        write_invoice(path, wrong, json, true); /* 8 of a model that we never asked for */
        struct found f = reconcile_file_at(path, 0, &sums);
        assert_int_equal(f.n, 8);
        assert_int_equal(sums.n_different, 8);
        assert_int_equal(bits_at(&f, "0 llama-3.3-70b"), RECONCILE_AMOUNT);
        assert_int_equal(bits_at(&f, "1 llama-3.1-8b"), RECONCILE_AMOUNT);
        assert_int_equal(bits_at(&f, "1 qwen3-32b"), RECONCILE_TOKENS_IN);
        assert_int_equal(bits_at(&f, "2 llama-3.3-70b"), RECONCILE_TOKENS_OUT);
        assert_int_equal(bits_at(&f, "2 qwen3-32b"), RECONCILE_REQUESTS);
        unsigned whole = RECONCILE_AMOUNT | RECONCILE_REQUESTS | RECONCILE_TOKENS_IN | RECONCILE_TOKENS_OUT;
        assert_int_equal(bits_at(&f, "3 gpt-oss-20b"), RECONCILE_ONLY_OURS | whole);
        assert_int_equal(bits_at(&f, "4 llama-3.1-8b"), whole);
        assert_int_equal(bits_at(&f, "2 whisper-large"),
                         RECONCILE_ONLY_THEIRS | RECONCILE_AMOUNT | RECONCILE_REQUESTS | RECONCILE_TOKENS_IN);
        assert_int_equal(reconcile_file_at(path, 2 * CENT, &sums).n, 6); /* both that are off by money alone are within it */
    }
    assert_int_equal(store_number(db, "SELECT count(*) FROM transfers"), transfers);
    assert_int_equal(store_number(db, "SELECT sum(amount) FROM transfers"), amount);
    unlink(path);
}

/* An attempt that nobody told the usage of waits for the provider's figures; when these agree it need not any more. */
static void test_what_agrees_need_not_be_looked_at(void **state)
{
    (void)state;
    char path[128], day[32], text[256];
    int64_t id;
    struct found none = {0};
    struct reconcile_sums sums;
    struct reconcile_file file;
    struct reconcile_options o = {.supplier = "groq", .close = true};
    static const char *const of[] = {"a", "b"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reserve(key, of[i], NULL, CENT, &id), 0);
        post(id, 10, 1, CENT, CENT, "look at it");
    }
    snprintf(path, sizeof path, "%s/invoice", store_dir);
    day_text(today - 100, day);
    snprintf(text, sizeof text, "date,model,cost\n%s,a,0.01\n%s,b,0.02\n", day, day);
    put_file(path, text);
    OK(reconcile_read(&file, path, &store_e));
    OK(reconcile(db, &file, &o, take_difference, &none, &sums, &store_e));
    assert_int_equal(none.n, 1);
    assert_int_equal(sums.n_closed, 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM reconciliation WHERE closed_ms IS NULL AND request IN"
                                      " (SELECT request FROM attempts WHERE model = 'b')"),
                     1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM reconciliation WHERE closed_ms IS NULL"), 1);
    reconcile_free(&file);
    unlink(path);
}

static void test_provider_formats_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n, in, nusd; /* the first row's; n -1: refused */
    } files[] = {
        {"{\"data\":[{\"start_time\":1790000000,\"end_time\":1790086400,\"results\":[{\"amount\":{\"value\":0.06,\"currency\":\"usd\"},"
         "\"model\":\"a\"},"
         "{\"amount\":{\"value\":1e-9},\"model\":\"a\"}]}]}",
         1, 0, 60000001},
        {"\xEF\xBB\xBF"
         "usage_date_utc,model_version,uncached_input_tokens,cache_read_input_tokens,output_tokens,cost_usd,workspace\n"
         "2026-11-29,claude,10,20,5,1.25,\"a \"\"b\"\", c\"\n\n2026-11-29,claude,1,,1,0.25,x",
         1, 31, 1500000000},
        {"[{\"date\":\"2026-11-29\",\"input_tokens\":9,\"model\":\"sum\",\"cost\":7,\"results\":[{\"model\":\"a\",\"input_tokens\":5,"
         "\"cost\":1}]}]",
         1, 5, 1000000000},
        {"[]", 0, 0, 0},
        {"", -1, 0, 0},
        {"date,model\n2026-11-29,a\n", -1, 0, 0},
        {"date,model,cost\n2026-02-30,a,1\n", -1, 0, 0},
        {"date,model,cost\n2026-11-29,a,1e\n", -1, 0, 0},
        {"date,model,cost\n2026-11-29,a\n", -1, 0, 0},
        {"date,model,cost\n2026-11-29,\"a,1\n", -1, 0, 0},
        {"date,model,cost,input_tokens\n2026-11-29,a,1,-5\n", -1, 0, 0},
        {"date,model,cost\n2026-11-29,a,9223372036\n2026-11-29,a,9223372036\n", -1, 0, 0},
        {"[{\"date\":\"2026-11-29\",\"model\":\"a\",\"cost\":true}]", -1, 0, 0},
        {"[{\"date\":\"2026-11-29\",\"model\":\"a\",\"cost\":1}", -1, 0, 0},
        {"[1]", -1, 0, 0},
        {"{\"rows\":[]}", -1, 0, 0},
    };
    char path[128];
    snprintf(path, sizeof path, "%s/file", store_dir);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct reconcile_file f;
        put_file(path, files[i].text);
        int rc = reconcile_read(&f, path, &store_e);
        if ((rc < 0) != (files[i].n < 0)) fail_msg("file %zu: %s", i, rc ? store_e.msg : "was read");
        if (rc == 0) assert_int_equal(f.n, files[i].n);
        if (files[i].n > 0) {
            assert_int_equal(f.rows[0].tokens_in, files[i].in);
            assert_int_equal(f.rows[0].amount_nusd, files[i].nusd);
        }
        reconcile_free(&f);
    }
    unlink(path);
}

/* --- pruning --- */

static void test_pruning_leaves_money_and_what_must_be_looked_at(void **state)
{
    (void)state;
    int64_t open, kept, n, id;
    for (int i = 0; i < 3; i++) request_of(key, "m", NULL, 10, 1, CENT, 3);
    assert_int_equal(reserve(key, "m", NULL, CENT, &kept), 0);
    post(kept, 1, 1, CENT, 3, "look at it");
    assert_int_equal(reserve(key, "m", NULL, CENT, &open), 0);
    for (int i = 0; i < 2; i++) request_of(key, "m", NULL, 10, 1, CENT, 3);
    now_ms += 90 * DAY_MS;
    request_of(key, "m", NULL, 10, 1, CENT, 3);
    int64_t balance = posted(2), owed = posted(groq);
    struct sums before = usage_by(0, 0, today, 0);
    OK(prune_requests(db, 30, &n, &store_e));
    assert_int_equal(n, 5);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), 3);
    assert_int_equal(store_number(db, "SELECT count(*) FROM attempts"), 3);
    assert_int_equal(n_broken(), 0);
    assert_int_equal(posted(2), balance);
    assert_int_equal(posted(groq), owed);
    assert_int_equal(usage_by(0, 0, today, 0).sale, before.sale);
    OK(db_run(db, "UPDATE reconciliation SET closed_ms = 1", DB_NO_ARGS, NULL, &store_e));
    post(open, 1, 1, CENT, 3, NULL);
    OK(prune_requests(db, 30, &n, &store_e));
    assert_int_equal(n, 1); /* the one that was open ended now */
    OK(prune_requests(db, 30, &n, &store_e));
    assert_int_equal(n, 0);
    assert_int_equal(n_broken(), 0);
    assert_int_equal(reserve(key, "m", NULL, CENT, &id), 0); /* numbers go on */
    post(id, 1, 1, CENT, 3, NULL);
    OK(db_begin(db, &store_e)); /* the planted fault: one that is gone and was not pruned */
    OK(db_run(db, "DELETE FROM requests WHERE id = ?1", DB_ARGS(db_int(open)), NULL, &store_e));
    assert_true(n_broken() > 0);
    db_rollback(db);
}

static void test_one_gateway_at_a_time_prunes(void **state)
{
    (void)state;
    bool mine;
    OK(prune_claim(db, DAY_MS, &mine, &store_e));
    assert_true(mine);
    OK(prune_claim(db, DAY_MS, &mine, &store_e));
    assert_false(mine);
    OK(db_run(db, "UPDATE ledger_state SET prune_ms = prune_ms - ?1", DB_ARGS(db_int(DAY_MS)), NULL, &store_e)); /* a day later */
    OK(prune_claim(db, DAY_MS, &mine, &store_e));
    assert_true(mine);
    OK(db_run(db, "UPDATE ledger_state SET prune_ms = prune_ms + ?1", DB_ARGS(db_int(9 * DAY_MS)), NULL, &store_e)); /* by a clock that was wrong */
    OK(prune_claim(db, DAY_MS, &mine, &store_e));
    assert_true(mine);
}

static void test_pruned_days_are_not_reconciled(void **state)
{
    (void)state;
    char path[128];
    struct told told[GROUPS];
    struct reconcile_file file;
    struct reconcile_sums sums;
    struct found none = {0};
    int64_t n;
    make_history(told);
    snprintf(path, sizeof path, "%s/invoice", store_dir);
    write_invoice(path, told, false, false);
    OK(prune_requests(db, 30, &n, &store_e));
    assert_int_equal(n, GROUPS * PER_GROUP);
    OK(reconcile_read(&file, path, &store_e));
    assert_int_equal(reconcile(db, &file, &(struct reconcile_options){.supplier = "groq"}, take_difference, &none, &sums, &store_e),
                     -ERR_UNSUPPORTED);
    assert_int_equal(reconcile(db, &file, &(struct reconcile_options){.supplier = "grok"}, take_difference, &none, &sums, &store_e),
                     -ERR_NOT_FOUND);
    reconcile_free(&file);
    unlink(path);
}

/* --- copies --- */

static void fill_some(void)
{
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, 10 * USD, 0, "paid \xC3\xA4", &store_e));
    for (int i = 0; i < 50; i++) request_of(key, i % 2 ? "a" : "b", "{\"team\":\"x\"}", 10, 1, CENT, 3);
    OK(db_run(db, "INSERT INTO key_secrets (account, digest, hint, created_s) VALUES (?1, ?2, 'abcd', 1)",
              DB_ARGS(db_int(key), db_blob("\0\1\2\3\4\5\6\7\0\1\2\3\4\5\6\7\0\1\2\3\4\5\6\7\0\1\2\3\4\5\6\xff", 32)), NULL, &store_e));
}

static void test_a_backup_is_restored_as_it_was(void **state)
{
    (void)state;
    char path[128], kept[STORE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/backup", store_dir);
    fill_some();
    if (db_kind(db) == DB_POSTGRES) {
        assert_int_equal(store_backup(db, path, &store_e), -ERR_UNSUPPORTED);
        assert_non_null(strstr(store_e.msg, "pg_dump"));
        return;
    }
    int64_t balance = posted(2), open;
    assert_int_equal(reserve(key, "m", NULL, CENT, &open), 0);
    OK(store_backup(db, path, &store_e)); /* while the ledger has it */
    assert_int_equal(store_backup(db, path, &store_e), -ERR_EXISTS);
    post(open, 1, 1, CENT, 3, NULL);
    assert_int_equal(store_restore(store_dir, path, kept, &store_e), -ERR_BUSY); /* it is in use */
    ledger_end_all();
    OK(store_restore(store_dir, path, kept, &store_e));
    ledger_begin(store_file);
    assert_int_equal(posted(2), balance);
    struct ledger_balance b;
    OK(ledger_balance(l, 2, &b, &store_e));
    assert_int_equal(b.pending_nusd, CENT);
    assert_int_equal(n_broken(), 0);
    size_t n;
    OK(ledger_recover(l, &n, &store_e)); /* what was under way then */
    assert_int_equal(n, 1);
    assert_int_equal(access(kept, F_OK), 0);
    unlink(kept);
    unlink(path);
}

static void test_what_is_no_backup_replaces_nothing(void **state)
{
    (void)state;
    if (db_kind(db) != DB_SQLITE) return;
    char path[128], kept[STORE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/backup", store_dir);
    fill_some();
    int64_t balance = posted(2);
    OK(store_backup(db, path, &store_e));
    ledger_end_all();
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, 30000, SEEK_SET); /* some pages of it are lost */
    for (int i = 0; i < 30000; i++) fputc(0, f);
    fclose(f);
    assert_true(store_restore(store_dir, path, kept, &store_e) < 0);
    put_file(path, "no database at all, but long enough that somebody may take it for one");
    assert_true(store_restore(store_dir, path, kept, &store_e) < 0);
    unlink(path);
    assert_true(store_restore(store_dir, path, kept, &store_e) < 0);
    struct db *newer;
    OK(db_open(&newer, path, &store_e));
    OK(schema_migrate(newer, &store_e));
    OK(db_run(newer, "INSERT INTO schema_migrations (version, applied_s) VALUES (99, 1)", DB_NO_ARGS, NULL, &store_e));
    db_close(newer);
    assert_int_equal(store_restore(store_dir, path, kept, &store_e), -ERR_UNSUPPORTED);
    ledger_begin(store_file);
    assert_int_equal(posted(2), balance);
    unlink(path);
}

/* From SQLite to the store that SPILLWAY_STORE names. */
static void test_a_move_takes_all_and_goes_on_counting(void **state)
{
    (void)state;
    struct store_moved moved;
    const char *to = store_where();
    if (!db_is_url(to)) {
        assert_int_equal(store_move(store_file, store_file, &moved, &store_e), -ERR_UNSUPPORTED);
        return;
    }
    ledger_end_all();
    OK(db_open(&db, to, &store_e));
    OK(db_script(db, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", &store_e));
    db_close(db);
    begin_on(store_file);
    fill_some();
    int64_t run = ledger_run(l), balance = posted(2), open, newest = store_number(db, "SELECT max(id) FROM accounts");
    assert_int_equal(reserve(key, "m", NULL, CENT, &open), 0);
    int64_t requests = store_number(db, "SELECT count(*) FROM requests");
    OK(rules_change(db, 2, (const char *const[RULES]){[RULE_REGIONS] = "eu"}, &store_e));
    ledger_end_all();
    OK(store_move(store_file, to, &moved, &store_e));
    assert_true(moved.n_rows > requests);
    assert_int_equal(store_move(store_file, to, &moved, &store_e), -ERR_EXISTS); /* not twice */
    ledger_begin(to);
    assert_int_equal(db_kind(db), DB_POSTGRES);
    assert_int_equal(n_broken(), 0);
    assert_int_equal(posted(2), balance);
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests"), requests);
    assert_int_equal(store_number(db, "SELECT count(*) FROM key_secrets WHERE length(digest) = 32"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM account_rules WHERE account = 2 AND name = 'regions' AND value = 'eu'"), 1);
    assert_int_equal(ledger_run(l), run + 1);
    OK(ledger_transfer(l, LEDGER_DEPOSIT, 2, USD, 0, NULL, &store_e));
    int64_t next = directory_organisation_add(db, "next", &store_e);
    assert_int_equal(next, newest + 1);
    post(open, 1, 1, CENT, 3, NULL); /* what was under way is ended there */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_projects_have_unique_names_and_a_balance),
        TEST(test_closing_closes_all_below_and_nothing_else),
        TEST(test_frozen_accounts_get_no_new_requests),
        TEST(test_limits_are_budgets_that_replace_one_another),
        TEST(test_a_budget_that_only_tells_does_so_once_a_window),
        TEST(test_a_new_price_ends_the_one_before),
        TEST(test_a_price_of_the_book_does_not_meet_the_operators),
        TEST(test_malformed_prices_leave_the_one_in_force),
        TEST(test_a_statement_adds_up),
        TEST(test_a_payment_reduces_what_we_owe),
        TEST(test_b8_an_order_with_a_key_is_carried_out_once),
        TEST(test_b8_a_key_that_says_something_else_moves_nothing),
        TEST(test_orders_that_cannot_be_name_the_member),
        TEST(test_a_balance_stays_countable),
        TEST(test_a_supplier_has_a_statement_and_adjustments),
        TEST(test_usage_is_summed_by_what_is_asked),
        TEST(test_exports_have_every_row_and_are_safe_to_open),
        TEST(test_t80_all_planted_errors_of_an_invoice_are_found_and_no_others),
        TEST(test_what_agrees_need_not_be_looked_at),
        TEST(test_provider_formats_are_read),
        TEST(test_pruning_leaves_money_and_what_must_be_looked_at),
        TEST(test_one_gateway_at_a_time_prunes),
        TEST(test_pruned_days_are_not_reconciled),
        TEST(test_a_backup_is_restored_as_it_was),
        TEST(test_what_is_no_backup_replaces_nothing),
        TEST(test_a_move_takes_all_and_goes_on_counting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
