/* Schema: see schema.h. */
#include "server/accounts/schema.h"

#include "server/accounts/accounts.h"

/* Version 1. accounts is the one table that everything that has or owes money will be in: customers above
 * (organisation, project, key: each the child of the one before), later the house and its suppliers. Only keys have a
 * digest. Ids 1 and 2 are the organisation and project that new keys belong to. */
static const char migration_1[] = "CREATE TABLE accounts ("
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
static const char migration_2[] =
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
static const char migration_3[] =
    "ALTER TABLE accounts ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);"
    "ALTER TABLE accounts ADD COLUMN priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100);";

static const char *const migrations[ACCOUNTS_SCHEMA_VERSION] = {migration_1, migration_2, migration_3};

static int run(sqlite3 *db, const char *sql, struct err *e)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK) return 0;
    return err_set(e, ERR_IO, "accounts database: %s", sqlite3_errmsg(db));
}

static int read_version(sqlite3 *db, int *version, struct err *e)
{
    sqlite3_stmt *s = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(db, "SELECT coalesce(max(version), 0) FROM schema_migrations", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        rc = err_set(e, ERR_IO, "accounts database: %s", sqlite3_errmsg(db));
    else
        *version = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return rc;
}

/* References are not enforced while tables are made anew: they are looked through at the end. */
static int check_references(sqlite3 *db, struct err *e)
{
    sqlite3_stmt *s = NULL;
    int rc = 0, step = sqlite3_prepare_v2(db, "PRAGMA foreign_key_check", -1, &s, NULL);
    if (step == SQLITE_OK) step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        rc = err_set(e, ERR_INPUT, "accounts database: a row of table %s names a row that is not there", sqlite3_column_text(s, 0));
    else if (step != SQLITE_DONE)
        rc = err_set(e, ERR_IO, "accounts database: %s", sqlite3_errmsg(db));
    sqlite3_finalize(s);
    return rc;
}

/* The version is read again inside: another process may have been faster. */
static int migrate_once(sqlite3 *db, int *version, struct err *e)
{
    int rc = run(db, "BEGIN IMMEDIATE", e);
    if (rc) return rc;
    rc = read_version(db, version, e);
    if (!rc && *version < ACCOUNTS_SCHEMA_VERSION) {
        char record[128];
        sqlite3_snprintf(sizeof record, record, "INSERT INTO schema_migrations (version, applied_s) VALUES (%d, unixepoch())",
                         *version + 1);
        rc = run(db, migrations[*version], e);
        if (!rc) rc = run(db, record, e);
        if (!rc) rc = check_references(db, e);
        if (!rc) ++*version;
    }
    if (!rc) return run(db, "COMMIT", e);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

int schema_migrate(sqlite3 *db, struct err *e)
{
    int version = 0, rc = run(db, "PRAGMA foreign_keys = OFF", e); /* for migrations that make a table anew */
    if (!rc) rc = run(db, "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_s INTEGER NOT NULL)", e);
    if (!rc) rc = read_version(db, &version, e);
    while (!rc && version < ACCOUNTS_SCHEMA_VERSION) rc = migrate_once(db, &version, e);
    if (!rc && version > ACCOUNTS_SCHEMA_VERSION)
        rc = err_set(e, ERR_UNSUPPORTED, "the accounts database has schema version %d, this program knows %d: use a newer program", version,
                     ACCOUNTS_SCHEMA_VERSION);
    return rc ? rc : run(db, "PRAGMA foreign_keys = ON", e);
}
