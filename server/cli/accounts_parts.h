/* `spillway accounts`, inside: what its files share. accounts.c has the table of sub-commands and opens the store; each function below is
 * one of them. They work beside a running server, which takes changes over with its next request (ledger_state.config_version). */
#ifndef SPILLWAY_SERVER_CLI_ACCOUNTS_PARTS_H
#define SPILLWAY_SERVER_CLI_ACCOUNTS_PARTS_H

#include "base/buf.h"
#include "server/accounts/account_json.h"
#include "server/accounts/accounts.h"
#include "server/accounts/ledger.h"
#include "server/accounts/words.h"
#include "server/cli/command.h"
#include "server/cli/table.h"

enum { ACCOUNTS_DAY_BYTES = WORDS_DAY_BYTES, ACCOUNTS_DIR_BYTES = 4096, ACCOUNTS_OUT_BYTES = 256 << 20 };

struct accounts_run {
    const struct options *o;
    const char *const *args; /* after the sub-command's words */
    int n_args;
    char dir[ACCOUNTS_DIR_BYTES];
    struct accounts *accounts; /* NULL to those that replace a store */
    struct db *db;             /* theirs */
    struct ledger *ledger;
    bool differs; /* done, but the exit code is 1: figures do not agree */
};

int accounts_list(struct accounts_run *r, struct err *e); /* accounts_show.c */
int accounts_show(struct accounts_run *r, struct err *e);
int accounts_budget_list(struct accounts_run *r, struct err *e);
int accounts_create_organisation(struct accounts_run *r, struct err *e); /* accounts_change.c */
int accounts_create_project(struct accounts_run *r, struct err *e);
int accounts_rename(struct accounts_run *r, struct err *e);
int accounts_close_one(struct accounts_run *r, struct err *e);
int accounts_freeze(struct accounts_run *r, struct err *e);
int accounts_unfreeze(struct accounts_run *r, struct err *e);
int accounts_storage(struct accounts_run *r, struct err *e);
int accounts_deposit(struct accounts_run *r, struct err *e);
int accounts_refund(struct accounts_run *r, struct err *e);
int accounts_adjust(struct accounts_run *r, struct err *e);
int accounts_chargeback(struct accounts_run *r, struct err *e);
int accounts_pay(struct accounts_run *r, struct err *e);
int accounts_prepaid(struct accounts_run *r, struct err *e);
int accounts_budget_add(struct accounts_run *r, struct err *e);
int accounts_budget_end(struct accounts_run *r, struct err *e);
int accounts_limit(struct accounts_run *r, struct err *e);
int accounts_rules(struct accounts_run *r, struct err *e); /* accounts_rules.c */
int accounts_alert_list(struct accounts_run *r, struct err *e); /* accounts_alert.c */
int accounts_alert_test(struct accounts_run *r, struct err *e);
int accounts_price_set(struct accounts_run *r, struct err *e); /* accounts_price.c */
int accounts_price_list(struct accounts_run *r, struct err *e);
int accounts_price_history(struct accounts_run *r, struct err *e);
int accounts_price_end(struct accounts_run *r, struct err *e);
int accounts_price_markup(struct accounts_run *r, struct err *e);
int accounts_price_gpu_hour(struct accounts_run *r, struct err *e);
int accounts_break_even(struct accounts_run *r, struct err *e); /* accounts_even.c */
int accounts_statement(struct accounts_run *r, struct err *e); /* accounts_report.c */
int accounts_usage(struct accounts_run *r, struct err *e);
int accounts_export(struct accounts_run *r, struct err *e);
int accounts_reconcile(struct accounts_run *r, struct err *e);
int accounts_backup(struct accounts_run *r, struct err *e); /* accounts_store.c */
int accounts_restore(struct accounts_run *r, struct err *e);
int accounts_move(struct accounts_run *r, struct err *e);
int accounts_prune(struct accounts_run *r, struct err *e);

/* An id of the command line; what: "a project". */
MUST_USE int accounts_id(const char *word, int64_t *id, struct err *e);
MUST_USE int accounts_money(const char *name, const char *word, int64_t *nusd, struct err *e);
char *accounts_show_day(int64_t at_s, char out[ACCOUNTS_DAY_BYTES]);

/* What is listed: rows of a table for people, or with --json objects. */
struct accounts_listing {
    struct table table;
    struct buf json;
};
void accounts_listing_begin(struct accounts_listing *l, size_t n_columns, const char *const *header);
void accounts_listing_free(struct accounts_listing *l);
/* Prints it unless rc says that it failed, with the objects between open and close, and frees it. Returns rc, or why it was not printed. */
MUST_USE int accounts_listing_end(struct accounts_listing *l, int rc, bool json, const char *open, const char *close, struct err *e);

/* Those of an account and of whom it belongs to (0: everybody's), between brackets; as a table, if there are any. */
MUST_USE int accounts_rules_print(struct accounts_run *r, int64_t id, const char *open, const char *close, struct err *e);

/* Prints what is in b between brackets, if all of it is there. */
MUST_USE int accounts_json_print(struct buf *b, const char *open, const char *close, struct err *e);
/* With --json {"id": id}, else the words on standard error. */
void accounts_done(const struct accounts_run *r, int64_t id, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
