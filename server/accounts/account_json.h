/* Accounts as JSON, as `spillway accounts --json` and /admin/accounts tell them. Amounts are dollars as text, exact: "12.50". */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ACCOUNT_JSON_H
#define SPILLWAY_SERVER_ACCOUNTS_ACCOUNT_JSON_H

#include "base/buf.h"
#include "server/accounts/directory.h"
#include "server/accounts/rules.h"

/* Members of an object that was begun: `"name":...`, with a comma before it where one is due. */
void account_json_text(struct buf *b, const char *name, const char *value);
void account_json_int(struct buf *b, const char *name, int64_t value);
void account_json_id(struct buf *b, const char *name, int64_t value); /* also times; 0: null */
void account_json_money(struct buf *b, const char *name, int64_t nusd);

/* Whole objects. */
void account_json_account(struct buf *b, const struct directory_account *a);
void account_json_budget(struct buf *b, const struct ledger_budget *budget);
void account_json_rule(struct buf *b, const struct rules_row *r);

#endif
