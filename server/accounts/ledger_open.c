/* Ledger: a run of a gateway, its clock, and what it keeps in memory of keys and budgets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/accounts/ledger_parts.h"

enum { CLOCK_STEP_MS = 1000, CLOCK_JUMP_MS = 10000 };

static int read_budgets(struct ledger *l, struct err *e)
{
    struct db_rows rows;
    size_t n = 0, cap = 0;
    struct budget *list = NULL;
    int rc = db_query(l->db, &rows,
                      "SELECT id, account, amount, CASE scope WHEN 'all' THEN 0 WHEN 'hosted' THEN 1 ELSE 2 END,"
                      " CASE unit WHEN 'nusd' THEN 0 WHEN 'requests' THEN 1 ELSE 2 END,"
                      " CASE period WHEN 'now' THEN 0 WHEN 'minute' THEN 1 WHEN 'hour' THEN 2 WHEN 'day' THEN 3 WHEN 'month' THEN 4 ELSE 5 END,"
                      " hard, CASE WHEN ended_s IS NULL THEN 0 ELSE 1 END FROM budgets ORDER BY account, id",
                      DB_NO_ARGS, e);
    while (!rc && (rc = db_next(&rows, e)) == 1) {
        if (n == cap) {
            void *more = realloc(list, (cap = cap ? 2 * cap : 16) * sizeof *list);
            if (!more) {
                rc = err_set(e, ERR_MEMORY, "out of memory");
                break;
            }
            list = more;
        }
        list[n++] = (struct budget){.id = db_get_int(&rows, 0),
                                    .account = db_get_int(&rows, 1),
                                    .amount = db_get_int(&rows, 2),
                                    .scope = (enum ledger_scope)db_get_int(&rows, 3),
                                    .unit = (enum ledger_unit)db_get_int(&rows, 4),
                                    .period = (enum ledger_period)db_get_int(&rows, 5),
                                    .hard = db_get_int(&rows, 6) != 0,
                                    .ended = db_get_int(&rows, 7) != 0};
        rc = 0;
    }
    db_done(&rows);
    if (rc) {
        free(list);
        return rc;
    }
    free(l->budgets);
    l->budgets = list;
    l->n_budgets = n;
    return 0;
}

const struct budget *ledger_budgets_of(const struct ledger *l, int64_t account, size_t *n)
{
    size_t low = 0, high = l->n_budgets;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (l->budgets[middle].account < account)
            low = middle + 1;
        else
            high = middle;
    }
    *n = 0;
    while (low + *n < l->n_budgets && l->budgets[low + *n].account == account) ++*n;
    return *n ? &l->budgets[low] : NULL;
}

const struct budget *ledger_budget_by_id(const struct ledger *l, int64_t id)
{
    for (size_t i = 0; i < l->n_budgets; i++)
        if (l->budgets[i].id == id) return &l->budgets[i];
    return NULL;
}

/* --- chains --- */

static struct chain *chain_place(struct chain *table, size_t cap, int64_t key)
{
    size_t at = (uint64_t)key * 0x9e3779b97f4a7c15u >> 20 & (cap - 1);
    while (table[at].key && table[at].key != key) at = (at + 1) & (cap - 1);
    return &table[at];
}

static int chain_keep(struct ledger *l, const struct chain *c, struct err *e)
{
    if (2 * (l->n_chains + 1) > l->cap_chains) {
        size_t cap = l->cap_chains ? 2 * l->cap_chains : 256;
        struct chain *table = calloc(cap, sizeof *table);
        if (!table) return err_set(e, ERR_MEMORY, "out of memory");
        for (size_t i = 0; i < l->cap_chains; i++)
            if (l->chains[i].key) *chain_place(table, cap, l->chains[i].key) = l->chains[i];
        free(l->chains);
        l->chains = table;
        l->cap_chains = cap;
    }
    *chain_place(l->chains, l->cap_chains, c->key) = *c;
    l->n_chains++;
    return 0;
}

int ledger_chain(struct ledger *l, int64_t key, struct chain *out, struct err *e)
{
    struct db_rows rows;
    const struct chain *known = l->cap_chains && key ? chain_place(l->chains, l->cap_chains, key) : NULL;
    if (known && known->key) {
        *out = *known;
        return 0;
    }
    int rc = db_query(
        l->db, &rows,
        "SELECT p.id, o.id, CASE WHEN k.closed_s IS NULL THEN 0 ELSE 1 END,"
        " CASE WHEN k.frozen_s IS NULL AND p.frozen_s IS NULL AND o.frozen_s IS NULL THEN 0 ELSE 1 END, p.stores_answers"
        " FROM accounts k JOIN accounts p ON p.id = k.parent JOIN accounts o ON o.id = p.parent WHERE k.id = ?1 AND k.kind = 'key'",
        DB_ARGS(db_int(key)), e);
    if (!rc) rc = db_next(&rows, e);
    *out = (struct chain){0};
    if (rc == 1)
        *out = (struct chain){.key = key,
                              .project = db_get_int(&rows, 0),
                              .organisation = db_get_int(&rows, 1),
                              .closed = db_get_int(&rows, 2) != 0,
                              .frozen = db_get_int(&rows, 3) != 0,
                              .stores = db_get_int(&rows, 4) != 0};
    db_done(&rows);
    if (rc == 0) return err_set(e, ERR_DENIED, "There is no key %lld of a project.", (long long)key);
    return rc < 0 ? rc : chain_keep(l, out, e);
}

/* --- prices --- */

static struct known_price *price_place(struct known_price *table, size_t cap, const char *rows)
{
    size_t at = ((uintptr_t)rows >> 4) * 0x9e3779b97f4a7c15u >> 20 & (cap - 1);
    while (table[at].rows && table[at].rows != rows) at = (at + 1) & (cap - 1);
    return &table[at];
}

static int price_keep(struct ledger *l, const char *rows, int64_t id, struct err *e)
{
    if (2 * (l->n_prices + 1) > l->cap_prices) {
        size_t cap = l->cap_prices ? 2 * l->cap_prices : 64;
        struct known_price *table = calloc(cap, sizeof *table);
        if (!table) return err_set(e, ERR_MEMORY, "out of memory");
        for (size_t i = 0; i < l->cap_prices; i++)
            if (l->prices[i].rows) *price_place(table, cap, l->prices[i].rows) = l->prices[i];
        free(l->prices);
        l->prices = table;
        l->cap_prices = cap;
    }
    *price_place(l->prices, l->cap_prices, rows) = (struct known_price){.rows = rows, .id = id};
    l->n_prices++;
    return 0;
}

int ledger_price_id(struct ledger *l, const struct ledger_price *p, int64_t *id, struct err *e)
{
    *id = 0;
    if (!p->rows) return 0;
    if (l->cap_prices && (*id = price_place(l->prices, l->cap_prices, p->rows)->id)) return 0;
    int rc = db_number(l->db, "SELECT id FROM prices WHERE provider = ?1 AND model = ?2 AND rows = ?3 ORDER BY id DESC LIMIT 1",
                       DB_ARGS(db_text(p->provider), db_text(p->model), db_text(p->rows)), 0, id, e);
    if (!rc && *id == 0) {
        rc = db_run(l->db, "UPDATE prices SET ended_s = {now_s} WHERE provider = ?1 AND model = ?2 AND ended_s IS NULL AND source = 'book'",
                    DB_ARGS(db_text(p->provider), db_text(p->model)), NULL, e);
        if (!rc)
            rc = db_number(l->db, /* where an operator has set one, that stays the one in force */
                           "INSERT INTO prices (provider, model, rows, source, created_s, ended_s) SELECT ?1, ?2, ?3, 'book', {now_s},"
                           " CASE WHEN EXISTS (SELECT 1 FROM prices WHERE provider = ?1 AND model = ?2 AND ended_s IS NULL) THEN {now_s} END"
                           " RETURNING id",
                           DB_ARGS(db_text(p->provider), db_text(p->model), db_text(p->rows)), 0, id, e);
    }
    return rc ? rc : price_keep(l, p->rows, *id, e);
}

void ledger_forget_prices(struct ledger *l)
{
    if (l->prices) memset(l->prices, 0, l->cap_prices * sizeof *l->prices);
    l->n_prices = 0;
}

/* --- the clock --- */

int64_t ledger_boot_ms(const struct ledger *l)
{
    return l->o.boot_ms ? l->o.boot_ms(l->o.ctx) : l->o.now_ms ? l->o.now_ms(l->o.ctx) : clock_boot_ms();
}

/* Whether the database's clock goes as ours does. */
static void watch_clock(struct ledger *l)
{
    int64_t ahead_ms = l->now_ms - l->now_boot_ms, moved_ms = ahead_ms - l->ahead_ms;
    if (l->run == 0 || moved_ms > CLOCK_JUMP_MS || moved_ms < -CLOCK_JUMP_MS) { /* a run that begins knows nothing of before */
        l->jumped_boot_ms = l->now_boot_ms;
        l->ahead_ms = ahead_ms;
    }
}

/* The database's, never going back: what it was is kept in the store once a second. */
int ledger_refresh(struct ledger *l, struct err *e)
{
    struct db_rows rows;
    int64_t version = 0, now_ms = 0;
    int rc = db_query(l->db, &rows, "SELECT config_version, clock_ms, {now_ms} FROM ledger_state WHERE id = 1", DB_NO_ARGS, e);
    if (!rc) rc = db_next(&rows, e);
    if (rc == 1) {
        version = db_get_int(&rows, 0);
        l->clock_ms = db_get_int(&rows, 1);
        now_ms = l->o.now_ms ? l->o.now_ms(l->o.ctx) : db_get_int(&rows, 2);
    }
    db_done(&rows);
    if (rc != 1) return rc ? rc : err_set(e, ERR_INPUT, "accounts database: it has no row of its state");
    rc = 0;
    l->now_ms = now_ms > l->clock_ms ? now_ms : l->clock_ms;
    l->now_boot_ms = ledger_boot_ms(l);
    watch_clock(l);
    if (l->now_ms >= l->clock_ms + CLOCK_STEP_MS)
        rc = db_run(l->db, "UPDATE ledger_state SET clock_ms = ?1 WHERE id = 1 AND clock_ms < ?1", DB_ARGS(db_int(l->now_ms)), NULL, e);
    if (rc || version == l->config_version) return rc;
    l->n_chains = 0;
    if (l->chains) memset(l->chains, 0, l->cap_chains * sizeof *l->chains);
    rc = read_budgets(l, e);
    if (!rc) l->config_version = version;
    return rc;
}

int64_t ledger_now_ms(struct ledger *l)
{
    return l->o.now_ms ? l->o.now_ms(l->o.ctx) : l->now_ms + (clock_boot_ms() - l->now_boot_ms);
}

int64_t ledger_run(const struct ledger *l)
{
    return l->run;
}

/* --- accounts that are not customers' --- */

static int find_account(struct db *db, const char *kind, const char *name, int64_t *id, struct err *e)
{
    return db_number(db, "SELECT id FROM accounts WHERE kind = ?1 AND name = ?2 AND closed_s IS NULL",
                     DB_ARGS(db_text(kind), db_text(name)), 0, id, e);
}

static int64_t make_supplier(struct db *db, const char *name, struct err *e)
{
    int64_t id;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('supplier', NULL, ?1, {now_s}) RETURNING id",
                   DB_ARGS(db_text(name)), 0, &id, e);
    if (!rc) rc = db_run(db, "INSERT INTO balances (account) VALUES (?1)", DB_ARGS(db_int(id)), NULL, e);
    rc = db_end(db, rc, e);
    return rc ? rc : id;
}

int64_t ledger_supplier(struct db *db, const char *name, struct err *e)
{
    int64_t id;
    int rc = find_account(db, "supplier", name, &id, e);
    if (rc || id) return rc ? rc : id;
    int64_t made = make_supplier(db, name, e);
    if (made != -ERR_EXISTS && made != -ERR_BUSY) return made;
    rc = find_account(db, "supplier", name, &id, e); /* another gateway was faster */
    return rc ? rc : id ? id : made;
}

/* --- a run --- */

int ledger_note_run(struct ledger *l, struct err *e)
{
    l->seen_ms = l->now_ms > l->seen_ms ? l->now_ms : l->seen_ms + 1;
    return db_send(l->db, "UPDATE runs SET seen_ms = ?2 WHERE id = ?1", DB_ARGS(db_int(l->run), db_int(l->seen_ms)), 1, e);
}

int ledger_beat(struct ledger *l, struct err *e)
{
    int64_t seen_ms = l->seen_ms;
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = ledger_refresh(l, e);
    if (!rc) rc = ledger_note_run(l, e);
    rc = db_end(l->db, rc, e);
    if (rc && rc != -ERR_UNKNOWN) l->seen_ms = seen_ms;
    return rc;
}

static int begin_run(struct ledger *l, struct err *e)
{
    int rc = db_begin(l->db, e);
    if (rc) return rc;
    rc = ledger_refresh(l, e);
    if (!rc && !l->o.desk)
        rc = db_number(l->db, "INSERT INTO runs (gateway, started_ms, seen_ms) VALUES (?1, ?2, ?2) RETURNING id",
                       DB_ARGS(db_text(l->gateway), db_int(l->now_ms)), 0, &l->run, e);
    l->seen_ms = l->now_ms;
    if (!rc && (l->o.alone || l->o.only)) /* those that died; ledger_recover ends their requests */
        rc = db_run(l->db, "UPDATE runs SET ended_ms = ?2 WHERE ended_ms IS NULL AND id < ?1 AND gateway = ?3",
                    DB_ARGS(db_int(l->run), db_int(l->now_ms), db_text(l->gateway)), NULL, e);
    return db_end(l->db, rc, e);
}

int ledger_open(struct ledger **out, struct db *db, const struct ledger_options *o, struct err *e)
{
    *out = NULL;
    struct ledger *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_MEMORY, "out of memory");
    l->db = db;
    l->o = *o;
    snprintf(l->gateway, sizeof l->gateway, "%s", o->gateway);
    int rc = find_account(l->db, "house", "house", &l->house, e);
    if (!rc) rc = find_account(l->db, "house", "overrun", &l->overrun, e);
    if (!rc) rc = find_account(l->db, "house", "outside", &l->outside, e);
    if (!rc && (!l->house || !l->overrun || !l->outside)) rc = err_set(e, ERR_INPUT, "accounts database: the house's accounts are not there");
    if (!rc) rc = begin_run(l, e);
    if (rc) {
        l->run = 0;
        ledger_close(l);
    } else
        *out = l;
    return rc;
}

void ledger_close(struct ledger *l)
{
    if (!l) return;
    struct err e;
    if (l->run && db_run(l->db, "UPDATE runs SET ended_ms = ?2, seen_ms = ?2 WHERE id = ?1",
                         DB_ARGS(db_int(l->run), db_int(ledger_now_ms(l))), NULL, &e))
        l->run = 0; /* the next run recovers what is open all the same */
    rows_free(&l->rows);
    free(l->budgets);
    free(l->chains);
    free(l->prices);
    free(l->deadlines);
    free(l);
}
