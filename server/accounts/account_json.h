/* Accounts as JSON, as `spillway accounts --json` and /admin tell them: one shape for both. Amounts are dollars as text, exact: "12.50". */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ACCOUNT_JSON_H
#define SPILLWAY_SERVER_ACCOUNTS_ACCOUNT_JSON_H

#include "base/buf.h"
#include "server/accounts/accounts.h"
#include "server/accounts/alert_store.h"
#include "server/accounts/break_even.h"
#include "server/accounts/directory.h"
#include "server/accounts/price_table.h"
#include "server/accounts/reconcile.h"
#include "server/accounts/report.h"
#include "server/accounts/rules.h"

/* Begins an object; with a comma before it if another one stands there. */
void account_json_open(struct buf *b);
/* Members of an object that was begun: `"name":...`, with a comma before it where one is due. */
void account_json_text(struct buf *b, const char *name, const char *value);
void account_json_int(struct buf *b, const char *name, int64_t value);
void account_json_id(struct buf *b, const char *name, int64_t value); /* also times; 0: null */
void account_json_money(struct buf *b, const char *name, int64_t nusd);
void account_json_bool(struct buf *b, const char *name, bool value);

/* Whole objects, each with a comma before it if another one stands there. */
void account_json_account(struct buf *b, const struct directory_account *a);
void account_json_budget(struct buf *b, const struct ledger_budget *budget);
void account_json_key(struct buf *b, const struct accounts_key *k);
/* A new secret, which is told only now. name: NULL if it is not told. */
void account_json_token(struct buf *b, int64_t id, const char *name, const char *token, int64_t expires_s);
void account_json_line(struct buf *b, const struct report_line *l);
void account_json_usage(struct buf *b, unsigned by, const struct report_usage *u); /* by: REPORT_... */
void account_json_price(struct buf *b, const struct price_table_row *p);
void account_json_break_even(struct buf *b, const struct break_even *even);
void account_json_difference(struct buf *b, unsigned bits, const struct reconcile_row *theirs, const struct reconcile_row *ours);
void account_json_alert(struct buf *b, const struct alert_row *r);
void account_json_rule(struct buf *b, const struct rules_row *r);

/* Members of a statement, without its lines. */
void account_json_statement(struct buf *b, int64_t account, int64_t from_s, const struct report_statement *s);
/* What the bits of a difference are called, with commas between and each between quotes; quote: "" or "\"". */
void account_json_differs(struct buf *b, unsigned bits, const char *quote);

#endif
