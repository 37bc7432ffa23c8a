/* Schema: see schema.h. Words in braces are the dialect's (db.c). */
#include "server/accounts/schema.h"

#include "server/accounts/accounts.h"

/* Version 1. accounts is the one table that everything that has or owes money is in: customers above
 * (organisation, project, key: each the child of the one before), the house and its suppliers. Only keys have a
 * digest. Ids 1 and 2 are the organisation and project that new keys belong to. */
static const char sqlite_1[] = "CREATE TABLE accounts ("
                               " id INTEGER PRIMARY KEY AUTOINCREMENT,"
                               " kind TEXT NOT NULL CHECK (kind IN ('organisation', 'project', 'key', 'house', 'supplier')),"
                               " parent INTEGER REFERENCES accounts(id),"
                               " name TEXT NOT NULL,"
                               " created_s INTEGER NOT NULL,"
                               " closed_s INTEGER,"
                               " key_digest BLOB UNIQUE CHECK (key_digest IS NULL OR length(key_digest) = 32),"
                               " key_hint TEXT,"
                               " CHECK ((kind = 'key') = (key_digest IS NOT NULL)),"
                               " CHECK ((kind IN ('project', 'key')) = (parent IS NOT NULL)));"
                               "CREATE INDEX accounts_parent ON accounts(parent);"
                               "INSERT INTO accounts (id, kind, parent, name, created_s) VALUES"
                               " (1, 'organisation', NULL, 'default', unixepoch()), (2, 'project', 1, 'default', unixepoch());";

/* Version 2. A key has secrets of its own table, several while it is rotated. Keys may expire; admin keys are for the server's own routes;
 * at most one open key is the one that the configuration names. (SQLite cannot drop the CHECK on key_digest: the table is made anew.) */
static const char sqlite_2[] =
    "CREATE TABLE accounts_2 ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " kind TEXT NOT NULL CHECK (kind IN ('organisation', 'project', 'key', 'house', 'supplier')),"
    " parent INTEGER REFERENCES accounts(id),"
    " name TEXT NOT NULL,"
    " created_s INTEGER NOT NULL,"
    " closed_s INTEGER,"
    " expires_s INTEGER,"
    " admin INTEGER NOT NULL DEFAULT 0 CHECK (admin IN (0, 1)),"
    " configured INTEGER NOT NULL DEFAULT 0 CHECK (configured IN (0, 1)),"
    " CHECK (kind = 'key' OR (expires_s IS NULL AND admin = 0 AND configured = 0)),"
    " CHECK ((kind IN ('project', 'key')) = (parent IS NOT NULL)));"
    "CREATE TABLE key_secrets ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " account INTEGER NOT NULL REFERENCES accounts(id),"
    " digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),"
    " hint TEXT NOT NULL,"
    " created_s INTEGER NOT NULL,"
    " expires_s INTEGER);"
    "INSERT INTO accounts_2 (id, kind, parent, name, created_s, closed_s)"
    " SELECT id, kind, parent, name, created_s, closed_s FROM accounts;"
    "INSERT INTO key_secrets (account, digest, hint, created_s)"
    " SELECT id, key_digest, coalesce(key_hint, ''), created_s FROM accounts WHERE kind = 'key';"
    "DROP TABLE accounts;"
    "ALTER TABLE accounts_2 RENAME TO accounts;"
    "CREATE INDEX accounts_parent ON accounts(parent);"
    "CREATE INDEX key_secrets_account ON key_secrets(account);"
    "CREATE UNIQUE INDEX accounts_configured ON accounts(configured) WHERE configured = 1 AND closed_s IS NULL;";

/* Version 3. What a key gets of a busy engine. */
static const char sqlite_3[] =
    "ALTER TABLE accounts ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);"
    "ALTER TABLE accounts ADD COLUMN priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100);";

/* PostgreSQL came with version 4: what is above, at once. */
static const char postgres_3[] = "CREATE TABLE accounts ("
                                 " id {id},"
                                 " kind TEXT NOT NULL CHECK (kind IN ('organisation', 'project', 'key', 'house', 'supplier')),"
                                 " parent {int} REFERENCES accounts(id),"
                                 " name TEXT NOT NULL,"
                                 " created_s {int} NOT NULL,"
                                 " closed_s {int},"
                                 " expires_s {int},"
                                 " admin {int} NOT NULL DEFAULT 0 CHECK (admin IN (0, 1)),"
                                 " configured {int} NOT NULL DEFAULT 0 CHECK (configured IN (0, 1)),"
                                 " weight {int} NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),"
                                 " priority {int} NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),"
                                 " CHECK (kind = 'key' OR (expires_s IS NULL AND admin = 0 AND configured = 0)),"
                                 " CHECK ((kind IN ('project', 'key')) = (parent IS NOT NULL)));"
                                 "CREATE TABLE key_secrets ("
                                 " id {id},"
                                 " account {int} NOT NULL REFERENCES accounts(id),"
                                 " digest {blob} NOT NULL UNIQUE CHECK (length(digest) = 32),"
                                 " hint TEXT NOT NULL,"
                                 " created_s {int} NOT NULL,"
                                 " expires_s {int});"
                                 "CREATE INDEX accounts_parent ON accounts(parent);"
                                 "CREATE INDEX key_secrets_account ON key_secrets(account);"
                                 "CREATE UNIQUE INDEX accounts_configured ON accounts(configured) WHERE configured = 1 AND closed_s IS NULL;"
                                 "INSERT INTO accounts (id, kind, parent, name, created_s) VALUES"
                                 " (1, 'organisation', NULL, 'default', {now_s}), (2, 'project', 1, 'default', {now_s});"
                                 "ALTER TABLE accounts ALTER COLUMN id RESTART WITH 3;";

/* Version 4. The ledger (ledger.h). Rows of accounts are never deleted, and only the ledger writes these tables: they name accounts,
 * requests and prices without REFERENCES, whose checks would be paid for with every request.
 *
 * ledger_state.config_version: raised with every change of keys, budgets and prices, so that whoever holds them in memory notices.
 * secret_check: a digest made with the secret that keys' digests are made with: a gateway with another secret would know none of them.
 * balances: money that is posted to an account (credits - debits), and what open holds may take of it. floor: posted - pending stays above
 * it; NULL: any (pays later, or is not a customer). budgets: how much an account and all below it may use in a window; unit nusd: money,
 * requests, tokens. period 'now': at once. requests.id is run * 2^32 + number in that run. held: what its hold is now, 0 when it is
 * resolved. usage_days, usage_tags: sums of what is posted, by day and who, written with the transfers. */
static const char ledger_4[] =
    "CREATE TABLE ledger_state (id {int} PRIMARY KEY CHECK (id = 1), config_version {int} NOT NULL, clock_ms {int} NOT NULL,"
    " secret_check {blob});"
    "INSERT INTO ledger_state (id, config_version, clock_ms) VALUES (1, 1, 0);"
    "ALTER TABLE accounts ADD COLUMN frozen_s {int};"
    "CREATE TABLE runs (id {id}, gateway TEXT NOT NULL, started_ms {int} NOT NULL, seen_ms {int} NOT NULL, ended_ms {int});"
    "CREATE TABLE balances (account {int} PRIMARY KEY, posted {int} NOT NULL DEFAULT 0, pending {int} NOT NULL DEFAULT 0 CHECK (pending >= "
    "0),"
    " floor {int});"
    "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('house', NULL, 'house', {now_s});"
    "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('house', NULL, 'overrun', {now_s});"
    "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('house', NULL, 'outside', {now_s});"
    "INSERT INTO balances (account) SELECT id FROM accounts WHERE kind IN ('house', 'project', 'supplier');"
    "CREATE UNIQUE INDEX accounts_houses ON accounts(name) WHERE kind IN ('house', 'supplier');"
    "CREATE TABLE budgets (id {id}, account {int} NOT NULL,"
    " scope TEXT NOT NULL CHECK (scope IN ('all', 'hosted', 'overflow')),"
    " unit TEXT NOT NULL CHECK (unit IN ('nusd', 'requests', 'tokens')),"
    " period TEXT NOT NULL CHECK (period IN ('now', 'minute', 'hour', 'day', 'month', 'total')),"
    " amount {int} NOT NULL CHECK (amount >= 0),"
    " hard {int} NOT NULL CHECK (hard IN (0, 1)), created_s {int} NOT NULL, ended_s {int});"
    "CREATE INDEX budgets_account ON budgets(account);"
    "CREATE TABLE budget_windows (budget {int} NOT NULL, starts_s {int} NOT NULL, posted {int} NOT NULL DEFAULT 0,"
    " pending {int} NOT NULL DEFAULT 0 CHECK (pending >= 0), PRIMARY KEY (budget, starts_s));"
    "CREATE TABLE prices (id {id}, provider TEXT NOT NULL, model TEXT NOT NULL, rows TEXT NOT NULL, source TEXT NOT NULL,"
    " created_s {int} NOT NULL, ended_s {int});"
    "CREATE UNIQUE INDEX prices_now ON prices(provider, model) WHERE ended_s IS NULL;"
    "CREATE TABLE requests (id {int} PRIMARY KEY, account {int} NOT NULL, project {int} NOT NULL,"
    " state TEXT NOT NULL CHECK (state IN ('reserved', 'posted', 'void')),"
    " scope {int} NOT NULL CHECK (scope IN (0, 1, 2)),"
    " model TEXT NOT NULL, price {int}, created_ms {int} NOT NULL, deadline_ms {int} NOT NULL, resolved_ms {int},"
    " reserved {int} NOT NULL CHECK (reserved >= 0), held {int} NOT NULL CHECK (held >= 0), charged {int} NOT NULL DEFAULT 0 CHECK "
    "(charged >= 0),"
    " served {int}, reason TEXT, outcome TEXT, estimated {int} NOT NULL DEFAULT 0 CHECK (estimated IN (0, 1)), tags TEXT,"
    " CHECK ((state = 'reserved') = (resolved_ms IS NULL)), CHECK (charged <= reserved), CHECK (state = 'reserved' OR held = 0));"
    "CREATE INDEX requests_open ON requests(deadline_ms) WHERE state = 'reserved';"
    "CREATE TABLE request_windows (request {int} NOT NULL, budget {int} NOT NULL, starts_s {int} NOT NULL, held {int} NOT NULL,"
    " PRIMARY KEY (request, budget));"
    "CREATE TABLE attempts (request {int} NOT NULL, n {int} NOT NULL, supplier {int} NOT NULL, model TEXT NOT NULL, price {int},"
    " state TEXT NOT NULL CHECK (state IN ('open', 'served', 'cut', 'failed', 'unknown')),"
    " started_ms {int} NOT NULL, ended_ms {int}, sale_estimate {int} NOT NULL DEFAULT 0, cost_estimate {int} NOT NULL DEFAULT 0,"
    " in_uncached {int}, in_cache_read {int}, in_cache_write_5m {int}, in_cache_write_1h {int}, in_audio {int}, in_image {int},"
    " out_text {int}, out_reasoning {int}, out_audio {int}, searches {int},"
    " source TEXT CHECK (source IN ('reported', 'estimated', 'mixed')), cost {int} NOT NULL DEFAULT 0, raw TEXT,"
    " PRIMARY KEY (request, n));"
    "CREATE TABLE transfers (id {id}, request {int}, attempt {int},"
    " kind TEXT NOT NULL CHECK (kind IN ('sale', 'cost', 'overrun', 'deposit', 'refund', 'adjustment', 'chargeback')),"
    " debit {int} NOT NULL, credit {int} NOT NULL CHECK (credit <> debit), amount {int} NOT NULL CHECK (amount > 0), created_ms {int} NOT "
    "NULL,"
    " linked {int}, note TEXT);"
    "CREATE UNIQUE INDEX transfers_sale ON transfers(request) WHERE kind = 'sale';"
    "CREATE UNIQUE INDEX transfers_cost ON transfers(request, attempt) WHERE kind = 'cost';"
    "CREATE TABLE idempotency (account {int} NOT NULL, key_hash {blob} NOT NULL CHECK (length(key_hash) = 32),"
    " body_hash {blob} NOT NULL CHECK (length(body_hash) = 32), request {int} NOT NULL, expires_ms {int} NOT NULL, answer {blob},"
    " PRIMARY KEY (account, key_hash));"
    "CREATE INDEX idempotency_request ON idempotency(request);"
    "CREATE INDEX idempotency_expires ON idempotency(expires_ms);"
    "CREATE TABLE usage_days (day {int} NOT NULL, project {int} NOT NULL, account {int} NOT NULL, model TEXT NOT NULL, supplier {int} NOT "
    "NULL,"
    " requests {int} NOT NULL, tokens_in {int} NOT NULL, tokens_cached {int} NOT NULL, tokens_out {int} NOT NULL, sale {int} NOT NULL,"
    " cost {int} NOT NULL, estimated {int} NOT NULL, PRIMARY KEY (day, project, account, model, supplier));"
    "CREATE TABLE usage_tags (day {int} NOT NULL, project {int} NOT NULL, tag TEXT NOT NULL, value TEXT NOT NULL,"
    " requests {int} NOT NULL, tokens_in {int} NOT NULL, tokens_cached {int} NOT NULL, tokens_out {int} NOT NULL, sale {int} NOT NULL,"
    " cost {int} NOT NULL, PRIMARY KEY (day, project, tag, value));"
    "CREATE TABLE reconciliation (id {id}, request {int} NOT NULL, attempt {int} NOT NULL, reason TEXT NOT NULL, created_ms {int} NOT NULL,"
    " closed_ms {int});";

/* Version 5. Rows of requests are taken away when they are old (prune.h). runs: how many of each, and the highest number among them, so that a
 * gap is still one. ledger_state.pruned_ms: of what ended before, requests and attempts may be gone. */
static const char prune_5[] = "ALTER TABLE runs ADD COLUMN pruned {int} NOT NULL DEFAULT 0;"
                              "ALTER TABLE runs ADD COLUMN pruned_to {int} NOT NULL DEFAULT 0;"
                              "ALTER TABLE ledger_state ADD COLUMN pruned_ms {int} NOT NULL DEFAULT 0;"
                              "CREATE INDEX reconciliation_request ON reconciliation(request);";

/* Version 6. What accounts may use beside money (rules.h), a row a rule. alerts (alert_store.h): what operators are told, once for each kind,
 * subject and occasion (a window's start, or the number of what has changed). next_ms: when it is to be sent; NULL: it was, or was given up. */
static const char rules_6[] = "CREATE TABLE account_rules (account {int} NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,"
                              " PRIMARY KEY (account, name));"
                              "CREATE TABLE alerts (id {id}, kind TEXT NOT NULL, subject TEXT NOT NULL, occasion {int} NOT NULL,"
                              " created_ms {int} NOT NULL, message TEXT NOT NULL, body TEXT NOT NULL, tries {int} NOT NULL DEFAULT 0,"
                              " next_ms {int}, sent_ms {int});"
                              "CREATE UNIQUE INDEX alerts_once ON alerts(kind, subject, occasion);"
                              "CREATE INDEX alerts_due ON alerts(next_ms) WHERE next_ms IS NOT NULL;";

/* Version 7. Whether a project lets finished answers be kept for idempotency keys. */
static const char stores_7[] = "ALTER TABLE accounts ADD COLUMN stores_answers {int} NOT NULL DEFAULT 0 CHECK (stores_answers IN (0, 1));";

/* Version 8. What a line was priced by, where that is more than one row of `prices`. requests.markup: the row of the mark-up on top of requests.price.
 * attempts.tier: of service, as the provider told it; NULL: standard. attempts.extended: how many times its hold was extended. */
static const char prices_8[] = "ALTER TABLE requests ADD COLUMN markup {int};"
                               "ALTER TABLE attempts ADD COLUMN tier TEXT;"
                               "ALTER TABLE attempts ADD COLUMN extended {int} NOT NULL DEFAULT 0;";

/* Version 9. What went over in an hour is asked for at every start. */
static const char overflow_9[] = "CREATE INDEX requests_overflow ON requests(created_ms) WHERE scope = 2;";

/* Version 10. SQLite looks a value up in a list of three or more by making a table of the list, for every row that is written: a fifth of a request's work.
 * Said with OR the same check is a few comparisons. What is on the disk stays as it is, so the tables' texts alone are changed, in the way that
 * SQLite's page on ALTER TABLE gives for constraints; the table that comes and goes has other connections read them anew. */
static const char checks_10[] =
    "PRAGMA writable_schema = ON;"
    "UPDATE sqlite_master SET sql = replace(sql, '(state IN (''reserved'', ''posted'', ''void''))', '(state = ''reserved'' "
    "OR state = ''posted'' OR state = ''void'')') WHERE type = 'table' AND name = 'requests';"
    "UPDATE sqlite_master SET sql = replace(sql, '(scope IN (0, 1, 2))', '(scope = 0 OR scope = 1 OR scope = 2)') WHERE "
    "type = 'table' AND name = 'requests';"
    "UPDATE sqlite_master SET sql = replace(sql, '(state IN (''open'', ''served'', ''cut'', ''failed'', ''unknown''))', "
    "'(state = ''open'' OR state = ''served'' OR state = ''cut'' OR state = ''failed'' OR state = ''unknown'')') WHERE "
    "type = 'table' AND name = 'attempts';"
    "UPDATE sqlite_master SET sql = replace(sql, '(source IN (''reported'', ''estimated'', ''mixed''))', '(source = "
    "''reported'' OR source = ''estimated'' OR source = ''mixed'')') WHERE type = 'table' AND name = 'attempts';"
    "UPDATE sqlite_master SET sql = replace(sql, '(kind IN (''sale'', ''cost'', ''overrun'', ''deposit'', ''refund'', "
    "''adjustment'', ''chargeback''))', '(kind = ''sale'' OR kind = ''cost'' OR kind = ''overrun'' OR kind = ''deposit'' "
    "OR kind = ''refund'' OR kind = ''adjustment'' OR kind = ''chargeback'')') WHERE type = 'table' AND name = 'transfers';"
    "CREATE TABLE checks_10 (id INTEGER); DROP TABLE checks_10;"
    "PRAGMA writable_schema = RESET;";

/* Version 11. Suppliers are paid (kind 'payment'), and a transfer may carry the key that it was asked for with: whoever asks twice gets the one
 * that there is. ledger_state.prune_ms: when old requests are next to be taken away, by whichever gateway notes it first (retention.h).
 * (SQLite cannot change the CHECK on kind: the table is made anew, and its indexes with it.) */
#define TRANSFER_KINDS                                                                                                                     \
    "kind = 'sale' OR kind = 'cost' OR kind = 'overrun' OR kind = 'deposit' OR kind = 'refund' OR kind = 'adjustment'"                     \
    " OR kind = 'chargeback' OR kind = 'payment'"
#define TRANSFERS_ONCE_11                                                                                                                   \
    "CREATE UNIQUE INDEX transfers_key ON transfers(idempotency_key) WHERE idempotency_key IS NOT NULL;"                                   \
    "ALTER TABLE ledger_state ADD COLUMN prune_ms {int} NOT NULL DEFAULT 0;"
static const char sqlite_11[] =
    "CREATE TABLE transfers_11 (id {id}, request {int}, attempt {int},"
    " kind TEXT NOT NULL CHECK (" TRANSFER_KINDS "),"
    " debit {int} NOT NULL, credit {int} NOT NULL CHECK (credit <> debit), amount {int} NOT NULL CHECK (amount > 0), created_ms {int} NOT "
    "NULL,"
    " linked {int}, note TEXT, idempotency_key TEXT);"
    "INSERT INTO transfers_11 (id, request, attempt, kind, debit, credit, amount, created_ms, linked, note)"
    " SELECT id, request, attempt, kind, debit, credit, amount, created_ms, linked, note FROM transfers ORDER BY id;"
    "DROP TABLE transfers;"
    "ALTER TABLE transfers_11 RENAME TO transfers;"
    "CREATE UNIQUE INDEX transfers_sale ON transfers(request) WHERE kind = 'sale';"
    "CREATE UNIQUE INDEX transfers_cost ON transfers(request, attempt) WHERE kind = 'cost';" TRANSFERS_ONCE_11;
static const char postgres_11[] = "ALTER TABLE transfers DROP CONSTRAINT transfers_kind_check;"
                                 "ALTER TABLE transfers ADD CONSTRAINT transfers_kind_check CHECK (" TRANSFER_KINDS ");"
                                 "ALTER TABLE transfers ADD COLUMN idempotency_key TEXT;" TRANSFERS_ONCE_11;

static const char *const migrations[ACCOUNTS_SCHEMA_VERSION][2] = {
    {sqlite_1, ""}, {sqlite_2, ""}, {sqlite_3, postgres_3}, {ledger_4, ledger_4}, {prune_5, prune_5}, {rules_6, rules_6}, {stores_7, stores_7}, {prices_8, prices_8},
    {overflow_9, overflow_9}, {checks_10, ""}, {sqlite_11, postgres_11}};

static const char table_sql[] = "CREATE TABLE IF NOT EXISTS schema_migrations (version {int} PRIMARY KEY, applied_s {int} NOT NULL)";
static const char version_sql[] = "SELECT coalesce(max(version), 0) FROM schema_migrations";
static const char record_sql[] = "INSERT INTO schema_migrations (version, applied_s) VALUES (?1, {now_s})";

/* References are not enforced while tables are made anew: they are looked through at the end. */
static int check_references(struct db *db, struct err *e)
{
    struct db_rows rows;
    if (db_kind(db) != DB_SQLITE) return 0;
    int rc = db_query(db, &rows, "PRAGMA foreign_key_check", DB_NO_ARGS, e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1)
        rc = err_set(e, ERR_INPUT, "accounts database: a row of table %s names a row that is not there", db_get_text(&rows, 0));
    db_done(&rows);
    return rc;
}

/* The version is read again inside: another process may have been faster. On PostgreSQL they wait for one another here. */
static int migrate_once(struct db *db, int64_t to, int64_t *version, struct err *e)
{
    int rc = db_begin(db, e);
    if (!rc && db_kind(db) == DB_POSTGRES) rc = db_script(db, "LOCK TABLE schema_migrations IN EXCLUSIVE MODE", e);
    if (!rc) rc = db_number(db, version_sql, DB_NO_ARGS, 0, version, e);
    if (!rc && *version < to) {
        rc = db_script(db, migrations[*version][db_kind(db)], e);
        if (!rc) rc = db_run(db, record_sql, DB_ARGS(db_int(*version + 1)), NULL, e);
        if (!rc) rc = check_references(db, e);
        if (!rc) ++*version;
    }
    return db_end(db, rc, e);
}

int schema_migrate_to(struct db *db, int to, struct err *e)
{
    CHECK(to >= 1 && to <= ACCOUNTS_SCHEMA_VERSION);
    bool sqlite = db_kind(db) == DB_SQLITE;
    int64_t version = 0;
    int rc = sqlite ? db_script(db, "PRAGMA foreign_keys = OFF", e) : 0; /* for migrations that make a table anew */
    if (!rc) rc = db_script(db, table_sql, e);
    if (!rc) rc = db_number(db, version_sql, DB_NO_ARGS, 0, &version, e);
    while (!rc && version < to) rc = migrate_once(db, to, &version, e);
    if (!rc && version > ACCOUNTS_SCHEMA_VERSION)
        rc = err_set(e, ERR_UNSUPPORTED, "the accounts database has schema version %lld, this program knows %d: use a newer program",
                     (long long)version, ACCOUNTS_SCHEMA_VERSION);
    return rc || !sqlite ? rc : db_script(db, "PRAGMA foreign_keys = ON", e);
}

int schema_migrate(struct db *db, struct err *e)
{
    return schema_migrate_to(db, ACCOUNTS_SCHEMA_VERSION, e);
}

int schema_config_changed(struct db *db, struct err *e)
{
    return db_run(db, "UPDATE ledger_state SET config_version = config_version + 1 WHERE id = 1", DB_NO_ARGS, NULL, e);
}

int schema_end_change(struct db *db, int64_t rc, struct err *e)
{
    if (rc >= 0) rc = schema_config_changed(db, e);
    return db_end(db, (int)rc, e);
}
