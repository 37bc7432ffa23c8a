/* Directory: see directory.h. */
#include "server/accounts/directory.h"

#include <string.h>

#include "server/accounts/accounts.h"
#include "server/accounts/schema.h"

int directory_check(struct db *db, int64_t id, const char *kinds, struct err *e)
{
    struct db_rows rows;
    int rc = db_query(db, &rows, "SELECT kind, closed_s FROM accounts WHERE id = ?1", DB_ARGS(db_int(id)), e);
    if (!rc) rc = db_next(&rows, e);
    bool fits = rc == 1 && strstr(kinds, db_get_text(&rows, 0)), closed = rc == 1 && !db_null(&rows, 1);
    db_done(&rows);
    if (rc < 0) return rc;
    if (!fits) return err_set(e, ERR_NOT_FOUND, "there is no account %lld that is one of: %s", (long long)id, kinds);
    return closed ? err_set(e, ERR_DENIED, "account %lld is closed", (long long)id) : 0;
}

/* parent 0: of organisations. own: not counted. */
static int check_free(struct db *db, int64_t parent, int64_t own, const char *name, struct err *e)
{
    int64_t n;
    int rc = db_number(db,
                       "SELECT count(*) FROM accounts WHERE kind IN ('organisation', 'project') AND coalesce(parent, 0) = ?1 AND name = ?2"
                       " AND id <> ?3 AND closed_s IS NULL",
                       DB_ARGS(db_int(parent), db_text(name), db_int(own)), 0, &n, e);
    if (rc || n == 0) return rc;
    return err_set(e, ERR_EXISTS, "there is %s called '%s' already", parent ? "a project" : "an organisation", name);
}

static int64_t insert(struct db *db, int64_t parent, const char *name, struct err *e)
{
    int64_t id = 0;
    int rc = check_free(db, parent, 0, name, e);
    if (!rc)
        rc =
            db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES (?1, ?2, ?3, {now_s}) RETURNING id",
                      DB_ARGS(db_text(parent ? "project" : "organisation"), db_int_or_null(parent != 0, parent), db_text(name)), 0, &id, e);
    if (!rc && parent) rc = db_run(db, "INSERT INTO balances (account) VALUES (?1)", DB_ARGS(db_int(id)), NULL, e);
    return rc ? rc : id;
}

int64_t directory_organisation_add(struct db *db, const char *name, struct err *e)
{
    int rc = accounts_name_check("an organisation", name, e);
    if (!rc) rc = db_begin(db, e);
    if (rc) return rc;
    int64_t id = insert(db, 0, name, e);
    rc = schema_end_change(db, id, e);
    return rc ? rc : id;
}

int64_t directory_project_add(struct db *db, int64_t organisation, const char *name, struct err *e)
{
    int rc = accounts_name_check("a project", name, e);
    if (!rc) rc = db_begin(db, e);
    if (rc) return rc;
    int64_t id = rc = directory_check(db, organisation, "organisation", e);
    if (!rc) id = insert(db, organisation, name, e);
    rc = schema_end_change(db, id, e);
    return rc ? rc : id;
}

int directory_rename(struct db *db, int64_t id, const char *name, struct err *e)
{
    int64_t parent = 0;
    int rc = accounts_name_check("an account", name, e);
    if (!rc) rc = db_begin(db, e);
    if (rc) return rc;
    rc = directory_check(db, id, "organisation project", e);
    if (!rc) rc = db_number(db, "SELECT coalesce(parent, 0) FROM accounts WHERE id = ?1", DB_ARGS(db_int(id)), 0, &parent, e);
    if (!rc) rc = check_free(db, parent, id, name, e);
    if (!rc) rc = db_run(db, "UPDATE accounts SET name = ?2 WHERE id = ?1", DB_ARGS(db_int(id), db_text(name)), NULL, e);
    return schema_end_change(db, rc, e);
}

int directory_close(struct db *db, int64_t id, struct err *e)
{
    if (id == DIRECTORY_ORGANISATION || id == DIRECTORY_PROJECT)
        return err_set(e, ERR_DENIED, "account %lld is where keys are made unless another is named: it stays open (freeze it?)",
                       (long long)id);
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = directory_check(db, id, "organisation project", e);
    if (!rc)
        rc = db_run(db,
                    "UPDATE accounts SET closed_s = {now_s} WHERE closed_s IS NULL AND kind IN ('organisation', 'project', 'key') AND"
                    " (id = ?1 OR parent = ?1 OR parent IN (SELECT p.id FROM accounts p WHERE p.parent = ?1))",
                    DB_ARGS(db_int(id)), NULL, e);
    return schema_end_change(db, rc, e);
}

int directory_freeze(struct db *db, int64_t id, bool frozen, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = directory_check(db, id, "organisation project key", e);
    if (!rc && frozen)
        rc = db_run(db, "UPDATE accounts SET frozen_s = {now_s} WHERE id = ?1 AND frozen_s IS NULL", DB_ARGS(db_int(id)), &n_changed, e);
    else if (!rc)
        rc = db_run(db, "UPDATE accounts SET frozen_s = NULL WHERE id = ?1 AND frozen_s IS NOT NULL", DB_ARGS(db_int(id)), &n_changed, e);
    if (!rc && n_changed == 0) rc = err_set(e, ERR_INPUT, "account %lld is %s", (long long)id, frozen ? "frozen already" : "not frozen");
    return schema_end_change(db, rc, e);
}

/* One that another gateway posts in this very moment may stay, read by nobody, until its time is over. */
int directory_store_answers(struct db *db, int64_t project, bool on, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = directory_check(db, project, "project", e);
    if (!rc)
        rc = db_run(db, "UPDATE accounts SET stores_answers = ?2 WHERE id = ?1 AND stores_answers <> ?2", DB_ARGS(db_int(project), db_int(on)),
                    &n_changed, e);
    if (!rc && n_changed == 0) rc = err_set(e, ERR_INPUT, "project %lld %s", (long long)project, on ? "keeps answers already" : "keeps no answers");
    if (!rc && !on)
        rc = db_run(db, "UPDATE idempotency SET answer = NULL WHERE answer IS NOT NULL AND account IN (SELECT id FROM accounts WHERE parent = ?1)",
                    DB_ARGS(db_int(project)), NULL, e);
    return schema_end_change(db, rc, e);
}

/* --- listing --- */

static const char list_sql[] =
    "SELECT a.id, coalesce(a.parent, 0), a.kind, a.name, a.created_s, coalesce(a.closed_s, 0), coalesce(a.frozen_s, 0),"
    " (SELECT count(*) FROM accounts k WHERE k.parent = a.id AND k.kind = 'key' AND k.closed_s IS NULL),"
    " b.posted, b.pending, b.floor, a.stores_answers"
    " FROM accounts a LEFT JOIN balances b ON b.account = a.id LEFT JOIN accounts p ON p.id = a.parent"
    " WHERE (?1 = 0 OR a.id = ?1 OR a.parent = ?1) AND (?2 = 1 OR a.kind <> 'key' OR a.id = ?1)"
    " ORDER BY CASE a.kind WHEN 'house' THEN 1 WHEN 'supplier' THEN 2 ELSE 0 END,"
    " CASE a.kind WHEN 'project' THEN a.parent WHEN 'key' THEN coalesce(p.parent, p.id) ELSE a.id END,"
    " CASE a.kind WHEN 'project' THEN a.id WHEN 'key' THEN CASE p.kind WHEN 'project' THEN p.id ELSE 0 END ELSE 0 END,"
    " CASE a.kind WHEN 'key' THEN 1 ELSE 0 END, a.id";

int directory_list(struct db *db, int64_t id, bool keys, directory_fn *fn, void *ctx, struct err *e)
{
    struct db_rows r;
    size_t n = 0;
    int rc = db_query(db, &r, list_sql, DB_ARGS(db_int(id), db_int(keys)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        struct directory_account a = {.id = db_get_int(&r, 0),
                                      .parent = db_get_int(&r, 1),
                                      .kind = db_get_text(&r, 2),
                                      .name = db_get_text(&r, 3),
                                      .created_s = db_get_int(&r, 4),
                                      .closed_s = db_get_int(&r, 5),
                                      .frozen_s = db_get_int(&r, 6),
                                      .n_keys = db_get_int(&r, 7),
                                      .has_balance = !db_null(&r, 8),
                                      .stores_answers = db_get_int(&r, 11) != 0,
                                      .balance = {.posted_nusd = db_get_int(&r, 8),
                                                  .pending_nusd = db_get_int(&r, 9),
                                                  .prepaid = !db_null(&r, 10),
                                                  .floor_nusd = db_get_int(&r, 10)}};
        fn(ctx, &a);
        n++;
        rc = 0;
    }
    db_done(&r);
    return rc || n ? rc : err_set(e, ERR_NOT_FOUND, "there is no account %lld", (long long)id);
}
