/* accounts backup | restore | move | prune: the store as a whole. What replaces it does so only while no server has it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "server/accounts/prune.h"
#include "server/accounts/store_copy.h"
#include "server/cli/accounts_parts.h"

int accounts_backup(struct accounts_run *r, struct err *e)
{
    int rc = store_backup(r->db, r->args[0], e);
    if (!rc)
        fprintf(stderr, "%s has all accounts as of now. Keys are of use only with the file %s/secret: keep it, too, elsewhere.\n",
                r->args[0], r->dir);
    return rc;
}

/* The lock that `serve` holds. The descriptor, to be closed at the end. */
static int take_lock(const char *dir, struct err *e)
{
    char path[ACCOUNTS_DIR_BYTES + 32];
    snprintf(path, sizeof path, "%.4000s/gateway.lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    close(fd);
    return err_set(e, ERR_BUSY, "a server has %s: stop it first", dir);
}

static int check_secret_there(const char *dir, struct err *e)
{
    char path[ACCOUNTS_DIR_BYTES + 32];
    snprintf(path, sizeof path, "%.4000s/secret", dir);
    if (access(path, R_OK) == 0) return 0;
    return err_set(e, ERR_NOT_FOUND, "%s: %s: first put there the secret of the data directory that the backup was made of", path,
                   strerror(errno));
}

/* Opened once more as a server would: with another secret than theirs the keys would be of no use. */
static int check_opens(const struct accounts_run *r, const char *store, struct err *e)
{
    struct accounts *a;
    int rc = accounts_open(&a, r->dir, store, e);
    if (!rc) accounts_close(a);
    return rc;
}

int accounts_restore(struct accounts_run *r, struct err *e)
{
    char kept[STORE_PATH_BYTES] = "", path[ACCOUNTS_DIR_BYTES + 32];
    if (r->o->store) return err_set(e, ERR_UNSUPPORTED, "a backup of PostgreSQL is restored with pg_restore");
    int rc = check_secret_there(r->dir, e);
    int lock = rc ? rc : take_lock(r->dir, e);
    if (lock < 0) return lock;
    rc = store_restore(r->dir, r->args[0], kept, e);
    if (!rc && (rc = check_opens(r, NULL, e))) {
        snprintf(path, sizeof path, "%.4000s/accounts.db", r->dir);
        if (kept[0] ? rename(kept, path) : unlink(path)) fprintf(stderr, "spillway: %s: %s\n", path, strerror(errno));
    } else if (!rc)
        fprintf(stderr, "The accounts are as in %s.%s%s\n", r->args[0], kept[0] ? " What was there before: " : "", kept);
    close(lock);
    return rc;
}

int accounts_move(struct accounts_run *r, struct err *e)
{
    char from[ACCOUNTS_DIR_BYTES + 32], after[ACCOUNTS_DIR_BYTES + 64];
    struct store_moved moved;
    if (r->o->store) return err_set(e, ERR_INPUT, "accounts move: from SQLite in --data to the URL; leave out --store");
    int rc = check_secret_there(r->dir, e);
    int lock = rc ? rc : take_lock(r->dir, e);
    if (lock < 0) return lock;
    snprintf(from, sizeof from, "%.4000s/accounts.db", r->dir);
    snprintf(after, sizeof after, "%s.moved", from);
    rc = access(from, R_OK) == 0 ? check_opens(r, NULL, e) : err_set(e, ERR_NOT_FOUND, "%s: %s", from, strerror(errno));
    if (!rc) rc = store_move(from, r->args[0], &moved, e);
    if (!rc) rc = check_opens(r, r->args[0], e);
    if (!rc && rename(from, after)) rc = err_set(e, ERR_IO, "%s: %s", from, strerror(errno)); /* nothing is booked there any more */
    if (!rc)
        fprintf(stderr,
                "%" PRId64 " rows of %" PRId64 " tables are moved and compared. From now on give --store; the former store is %s.\n",
                moved.n_rows, moved.n_tables, after);
    close(lock);
    return rc;
}

int accounts_prune(struct accounts_run *r, struct err *e)
{
    int64_t n;
    if (!r->o->older_than) return err_set(e, ERR_INPUT, "accounts prune: give --older-than DAYS");
    int rc = prune_requests(r->db, r->o->older_than, &n, e);
    fprintf(stderr, "%" PRId64 " requests are taken away; balances, transfers and sums by day stay.\n", n);
    return rc;
}
