/* Store copies: see store_copy.h. */
#include "server/accounts/store_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/accounts/schema.h"

enum { COPY_BYTES = 1 << 16 };

static int fail(const char *path, struct err *e)
{
    return err_set(e, ERR_IO, "%.300s: %s", path, strerror(errno));
}

static int sync_path(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? 0 : fail(path, e);
    if (fd >= 0) close(fd);
    return rc;
}

static int sync_folder_of(const char *path, struct err *e)
{
    char folder[STORE_PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash) return sync_path(".", e);
    slash[slash == folder] = '\0';
    return sync_path(folder, e);
}

/* What SQLite itself finds wrong in the file, and whether it is a store at all. */
static int look_through(struct db *db, const char *path, struct err *e)
{
    struct db_rows r;
    int64_t n;
    int rc = db_query(db, &r, "PRAGMA integrity_check(1)", DB_NO_ARGS, e);
    if (!rc) rc = db_next(&r, e);
    if (rc == 1 && strcmp(db_get_text(&r, 0), "ok") != 0) rc = err_set(e, ERR_INPUT, "%.200s: is damaged: %s", path, db_get_text(&r, 0));
    db_done(&r);
    if (rc < 0) return rc;
    rc = db_number(db, "SELECT count(*) FROM sqlite_master WHERE name IN ('accounts', 'schema_migrations')", DB_NO_ARGS, 0, &n, e);
    return rc || n == 2 ? rc : err_set(e, ERR_INPUT, "%.200s: is no backup of accounts", path);
}

static void remove_with_journals(const char *path)
{
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    char name[STORE_PATH_BYTES + 16];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
}

/* --- backup --- */

static int check_copy(const char *path, struct err *e)
{
    struct db *copy;
    int rc = db_open(&copy, path, e);
    if (rc) return rc;
    rc = look_through(copy, path, e);
    db_close(copy);
    return rc;
}

/* VACUUM INTO reads one snapshot and holds up no writer; it does not wait for the disk. */
int store_backup(struct db *db, const char *path, struct err *e)
{
    char part[STORE_PATH_BYTES];
    if (db_kind(db) != DB_SQLITE)
        return err_set(e, ERR_UNSUPPORTED,
                       "these accounts are in PostgreSQL: make a backup with pg_dump --format=custom, and restore with pg_restore");
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return err_set(e, ERR_INPUT, "%.100s...: the path is too long", path);
    if (access(path, F_OK) == 0) return err_set(e, ERR_EXISTS, "%.300s: is there already", path);
    remove_with_journals(part);
    mode_t old = umask(077);
    int rc = db_run(db, "VACUUM INTO ?1", DB_ARGS(db_text(part)), NULL, e);
    umask(old);
    if (!rc) rc = check_copy(part, e);
    if (!rc) rc = sync_path(part, e);
    if (!rc && link(part, path)) rc = errno == EEXIST ? err_set(e, ERR_EXISTS, "%.300s: is there already", path) : fail(path, e);
    if (!rc) rc = sync_folder_of(path, e);
    remove_with_journals(part);
    return rc;
}

/* --- restore --- */

static int copy_bytes(int in, int out, const char *from, const char *to, struct err *e)
{
    char *bytes = malloc(COPY_BYTES);
    ssize_t n = 0;
    int rc = bytes ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    while (!rc && (n = read(in, bytes, COPY_BYTES)) > 0)
        for (ssize_t done = 0, more; done < n && !rc; done += more)
            if ((more = write(out, bytes + done, (size_t)(n - done))) < 0) rc = fail(to, e);
    if (!rc && n < 0) rc = fail(from, e);
    if (!rc && fsync(out)) rc = fail(to, e);
    free(bytes);
    return rc;
}

static int copy_file(const char *from, const char *to, struct err *e)
{
    remove_with_journals(to);
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) return fail(from, e);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = out < 0 ? fail(to, e) : copy_bytes(in, out, from, to, e);
    close(in);
    if (out >= 0) close(out);
    return rc;
}

/* Everything of it in the one file: SQLite takes the journal away when the last connection closes. */
static int fold_journal(const char *path, struct err *e)
{
    struct db *db;
    char wal[STORE_PATH_BYTES + 16];
    int64_t busy = 0;
    int rc = db_open(&db, path, e);
    if (rc) return rc;
    rc = db_number(db, "PRAGMA wal_checkpoint(TRUNCATE)", DB_NO_ARGS, 0, &busy, e);
    db_close(db);
    snprintf(wal, sizeof wal, "%s-wal", path);
    if (!rc && (busy || access(wal, F_OK) == 0)) rc = err_set(e, ERR_BUSY, "%.300s: another program has it open", path);
    return rc;
}

/* The copy becomes a store as this program has it, or is refused. */
static int make_ready(const char *copy, struct err *e)
{
    struct db *db;
    int rc = db_open(&db, copy, e);
    if (rc) return rc;
    rc = look_through(db, copy, e);
    if (!rc) rc = schema_migrate(db, e);
    db_close(db);
    return rc ? rc : fold_journal(copy, e);
}

/* What it has for requests of the store of before says nothing of another store's, which may have the same numbers. */
static int put_journal_aside(const char *path, const char *ending, struct err *e)
{
    char journal[STORE_PATH_BYTES], aside[STORE_PATH_BYTES + 64];
    snprintf(journal, sizeof journal, "%.*sjournal", (int)strlen(path) - 2, path); /* accounts.db: accounts.journal */
    snprintf(aside, sizeof aside, "%s%s", journal, ending);
    return rename(journal, aside) && errno != ENOENT ? fail(journal, e) : 0;
}

static int put_in_place(const char *copy, const char *path, char kept[STORE_PATH_BYTES], struct err *e)
{
    char day[32];
    struct tm tm;
    time_t now = time(NULL);
    kept[0] = '\0';
    strftime(day, sizeof day, ".before-%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
    int rc = put_journal_aside(path, day, e);
    if (rc) return rc;
    if (access(path, F_OK) == 0) {
        rc = fold_journal(path, e);
        if (rc) return rc;
        snprintf(kept, STORE_PATH_BYTES, "%.4100s%s", path, day);
        if (link(path, kept)) { /* a name more: the store is never without one */
            kept[0] = '\0';
            return fail(path, e);
        }
    }
    if (rename(copy, path)) return fail(path, e);
    return sync_folder_of(path, e);
}

int store_restore(const char *dir, const char *backup, char kept[STORE_PATH_BYTES], struct err *e)
{
    char path[STORE_PATH_BYTES], copy[STORE_PATH_BYTES];
    kept[0] = '\0';
    snprintf(path, sizeof path, "%.4000s/accounts.db", dir);
    snprintf(copy, sizeof copy, "%.4000s/accounts.db.part", dir);
    int rc = copy_file(backup, copy, e);
    if (!rc) rc = make_ready(copy, e);
    if (!rc) rc = put_in_place(copy, path, kept, e);
    remove_with_journals(copy);
    return rc;
}
