/* Schema: the migrations, in order, each in a transaction of its own. A migration that was released is never changed:
 * changes are new ones. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_SCHEMA_H
#define SPILLWAY_SERVER_ACCOUNTS_SCHEMA_H

#include "server/accounts/db.h"

/* Brings db to ACCOUNTS_SCHEMA_VERSION. -ERR_UNSUPPORTED: it is newer. Safe when several processes do it at once. References are enforced
 * afterwards. */
MUST_USE int schema_migrate(struct db *db, struct err *e);
/* For tests: as a program of that version has left it. */
MUST_USE int schema_migrate_to(struct db *db, int to, struct err *e);
/* In the transaction of every change of keys, accounts, budgets or prices: who holds them in memory notices. */
MUST_USE int schema_config_changed(struct db *db, struct err *e);
/* Ends such a transaction: as db_end, but rc >= 0 notes the change and gives 0. */
MUST_USE int schema_end_change(struct db *db, int64_t rc, struct err *e);

#endif
