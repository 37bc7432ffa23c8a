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

static const char *const migrations[ACCOUNTS_SCHEMA_VERSION] = {migration_1};

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
        if (!rc) ++*version;
    }
    if (!rc) return run(db, "COMMIT", e);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

int schema_migrate(sqlite3 *db, struct err *e)
{
    int rc = run(db, "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_s INTEGER NOT NULL)", e);
    int version = 0;
    if (!rc) rc = read_version(db, &version, e);
    while (!rc && version < ACCOUNTS_SCHEMA_VERSION) rc = migrate_once(db, &version, e);
    if (!rc && version > ACCOUNTS_SCHEMA_VERSION)
        rc = err_set(e, ERR_UNSUPPORTED, "the accounts database has schema version %d, this program knows %d: use a newer program", version,
                     ACCOUNTS_SCHEMA_VERSION);
    return rc;
}
