/* accounts: what changes them: projects, money, budgets. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/accounts/directory.h"
#include "server/accounts/money.h"
#include "server/cli/accounts_parts.h"

int accounts_create_organisation(struct accounts_run *r, struct err *e)
{
    int64_t id = directory_organisation_add(r->db, r->args[0], e);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Organisation %" PRId64 " '%s' is made.", id, r->args[0]);
    return 0;
}

int accounts_create_project(struct accounts_run *r, struct err *e)
{
    int64_t id = directory_project_add(r->db, r->o->organisation, r->args[0], e);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Project %" PRId64 " '%s' is made. A key for it: spillway keys add NAME --project %" PRId64, id, r->args[0], id);
    return 0;
}

int accounts_rename(struct accounts_run *r, struct err *e)
{
    int64_t id;
    int rc = accounts_id(r->args[0], &id, e);
    if (!rc) rc = directory_rename(r->db, id, r->args[1], e);
    if (!rc) accounts_done(r, id, "Account %" PRId64 " is called '%s'.", id, r->args[1]);
    return rc;
}

int accounts_close_one(struct accounts_run *r, struct err *e)
{
    int64_t id;
    int rc = accounts_id(r->args[0], &id, e);
    if (!rc) rc = directory_close(r->db, id, e);
    if (!rc) accounts_done(r, id, "Account %" PRId64 " is closed, and its keys are revoked for good. What it has or owes stays.", id);
    return rc;
}

static int freeze(struct accounts_run *r, bool frozen, struct err *e)
{
    int64_t id;
    int rc = accounts_id(r->args[0], &id, e);
    if (!rc) rc = directory_freeze(r->db, id, frozen, e);
    if (!rc) accounts_done(r, id, "Account %" PRId64 " is %s.", id, frozen ? "frozen: new requests are refused" : "no longer frozen");
    return rc;
}

int accounts_freeze(struct accounts_run *r, struct err *e)
{
    return freeze(r, true, e);
}

int accounts_unfreeze(struct accounts_run *r, struct err *e)
{
    return freeze(r, false, e);
}

int accounts_storage(struct accounts_run *r, struct err *e)
{
    int64_t id;
    bool on = strcmp(r->args[1], "on") == 0;
    int rc = accounts_id(r->args[0], &id, e);
    if (!rc && !on && strcmp(r->args[1], "off") != 0) rc = err_set(e, ERR_INPUT, "storage: 'on' or 'off', not '%.80s'", r->args[1]);
    if (!rc) rc = directory_store_answers(r->db, id, on, e);
    if (!rc)
        accounts_done(r, id, "Project %" PRId64 ": %s", id,
                      on ? "finished answers to requests with an Idempotency-Key are kept for 24 hours, sealed." : "no answers are kept.");
    return rc;
}

/* --- money --- */

static int transfer(struct accounts_run *r, enum ledger_transfer_kind kind, struct err *e)
{
    const char *what = ledger_transfer_names[kind];
    bool repeated;
    int64_t project, nusd;
    char moved[MONEY_BYTES], has[MONEY_BYTES];
    struct ledger_balance balance;
    int rc = accounts_id(r->args[0], &project, e);
    if (!rc) rc = accounts_money(what, r->args[1], &nusd, e);
    if (rc) return rc;
    const struct ledger_order order = {
        .kind = kind, .account = project, .amount_nusd = nusd, .linked = r->o->linked, .note = r->o->note, .key = r->o->once};
    int64_t id = ledger_transfer_order(r->ledger, &order, &repeated, e);
    if (id < 0) return (int)id;
    rc = ledger_balance(r->ledger, project, &balance, e);
    if (!rc)
        accounts_done(r, id, "Transfer %" PRId64 ": %s of %s%s; account %" PRId64 " now has %s.", id, what, money_write(nusd, moved),
                      repeated ? ", made before" : "", project, money_write(balance.posted_nusd, has));
    return rc;
}

int accounts_deposit(struct accounts_run *r, struct err *e)
{
    return transfer(r, LEDGER_DEPOSIT, e);
}

int accounts_refund(struct accounts_run *r, struct err *e)
{
    return transfer(r, LEDGER_REFUND, e);
}

int accounts_adjust(struct accounts_run *r, struct err *e)
{
    return transfer(r, LEDGER_ADJUSTMENT, e);
}

int accounts_chargeback(struct accounts_run *r, struct err *e)
{
    return transfer(r, LEDGER_CHARGEBACK, e);
}

int accounts_pay(struct accounts_run *r, struct err *e)
{
    return transfer(r, LEDGER_PAYMENT, e);
}

int accounts_prepaid(struct accounts_run *r, struct err *e)
{
    int64_t project, floor_nusd;
    char text[MONEY_BYTES];
    bool off = strcmp(r->args[1], "off") == 0;
    int rc = accounts_id(r->args[0], &project, e);
    if (!rc && !off) rc = accounts_money("prepaid", r->args[1], &floor_nusd, e);
    if (!rc) rc = ledger_floor_set(r->ledger, project, off ? NULL : &floor_nusd, e);
    if (rc) return rc;
    if (off)
        accounts_done(r, project, "Project %" PRId64 " pays later: its balance may be below 0.", project);
    else
        accounts_done(r, project, "Project %" PRId64 " pays in advance: its balance, less what is held, stays at %s or above.", project,
                      money_write(floor_nusd, text));
    return 0;
}

/* --- budgets --- */

int accounts_budget_add(struct accounts_run *r, struct err *e)
{
    const struct options *o = r->o;
    bool money = strcmp(o->unit, "usd") == 0;
    struct ledger_budget b = {.scope = o->scope, .unit = money ? "nusd" : o->unit, .period = o->period, .hard = !o->alert};
    int rc = accounts_id(r->args[0], &b.account, e);
    if (!rc) rc = words_amount("budget", o->unit, r->args[1], &b.amount, e);
    if (rc) return rc;
    int64_t id = ledger_budget_add(r->ledger, &b, e);
    if (id < 0) return (int)id;
    accounts_done(r, id, "Budget %" PRId64 ": account %" PRId64 " has %s %s a %s (%s requests%s).", id, b.account, r->args[1], o->unit,
                  o->period, o->scope, o->alert ? "; it only tells" : "");
    return 0;
}

int accounts_budget_end(struct accounts_run *r, struct err *e)
{
    int64_t id;
    int rc = accounts_id(r->args[0], &id, e);
    if (!rc) rc = ledger_budget_end(r->ledger, id, e);
    if (!rc) accounts_done(r, id, "Budget %" PRId64 " is ended.", id);
    return rc;
}

int accounts_limit(struct accounts_run *r, struct err *e)
{
    const struct options *o = r->o;
    const int64_t amounts[LEDGER_LIMITS] = {o->rpm, o->tpm, o->concurrency};
    int64_t id;
    int n = 0, rc = accounts_id(r->args[0], &id, e);
    for (int i = 0; i < LEDGER_LIMITS && !rc; i++) {
        char flag[32];
        snprintf(flag, sizeof flag, "--%s", ledger_limits[i].name);
        if (!options_given(o, flag)) continue;
        rc = ledger_limit_set(r->ledger, id, ledger_limits[i].unit, ledger_limits[i].period, amounts[i], e);
        n++;
    }
    if (!rc && n == 0) rc = err_set(e, ERR_INPUT, "accounts limit: give --rpm, --tpm or --concurrency");
    if (!rc) accounts_done(r, id, "The limits of account %" PRId64 " are set (see spillway accounts show %" PRId64 ").", id, id);
    return rc;
}
