/* Store copies: backup and restore of SQLite, and the move from SQLite to PostgreSQL.
 *
 * A backup is one file, of one moment, made beside a running server. Restore and move replace a store: they are for the time in which no
 * server has it (the caller sees to that, with the data directory's gateway.lock). The `secret` of the data directory is in none of
 * them. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_STORE_COPY_H
#define SPILLWAY_SERVER_ACCOUNTS_STORE_COPY_H

#include "server/accounts/db.h"

/* Writes the store to path (0600), which must not be there. It is whole and on the disk, and was opened and looked through, before it has
 * its name. -ERR_UNSUPPORTED: PostgreSQL, whose own pg_dump does that. */
MUST_USE int store_backup(struct db *db, const char *path, struct err *e);

/* Puts a copy of the backup in the place of DIR/accounts.db; that one is kept as `kept` (out), "" if there was none. The backup's schema
 * may be older (it is brought up to date), not newer. After an error the store is as it was. */
enum { STORE_PATH_BYTES = 4200 };
MUST_USE int store_restore(const char *dir, const char *backup, char kept[STORE_PATH_BYTES], struct err *e);

struct store_moved {
    int64_t n_tables, n_rows;
};
/* All rows of all tables of `from` (SQLite, a path) to `to` (PostgreSQL, a URL), which has no account of its own yet: in one transaction
 * there, from one snapshot here. Numbering goes on where it was. Before it is committed every table is compared: the number of rows, and
 * the sums of all columns. */
MUST_USE int store_move(const char *from, const char *to, struct store_moved *out, struct err *e);

#endif
