/* Accounts: see accounts.h. The store first, then keys. */
#include "server/accounts/accounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/accounts/schema.h"

enum { SECRET_BYTES = 32, DIGEST_BYTES = 32, PATH_BYTES = 4096, BUSY_MS = 5000, RANDOM_BYTES = 32, HINT_CHARS = 4 };

struct key_digest {
    int64_t id;
    unsigned char digest[DIGEST_BYTES];
};

struct accounts {
    sqlite3 *db;
    sqlite3_stmt *data_version;
    int64_t seen_version;
    unsigned char secret[SECRET_BYTES];
    struct key_digest *keys; /* the valid ones */
    size_t n_keys;
};

static int db_error(const struct accounts *a, struct err *e)
{
    return err_set(e, ERR_IO, "accounts database: %s", a->db ? sqlite3_errmsg(a->db) : "out of memory");
}

static int make_dirs(const char *dir, struct err *e)
{
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path) return err_set(e, ERR_INPUT, "%.100s...: the path is too long", dir);
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/') continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(path, 0700) && errno != EEXIST) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        *p = kept;
        if (!kept) return 0;
    }
}

/* The secret is written to a file of its own first, so that a crash leaves none or a whole one. */
static int secret_make(const char *path, struct err *e)
{
    char temporary[PATH_BYTES + 32];
    unsigned char secret[SECRET_BYTES];
    randombytes_buf(secret, sizeof secret);
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", temporary, strerror(errno));
    bool ok = write(fd, secret, sizeof secret) == (ssize_t)sizeof secret && fsync(fd) == 0;
    int rc = ok ? 0 : err_set(e, ERR_IO, "%s: %s", temporary, strerror(errno));
    close(fd);
    sodium_memzero(secret, sizeof secret);
    if (!rc && link(temporary, path) && errno != EEXIST)
        rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno)); /* first come, first kept */
    unlink(temporary);
    return rc;
}

static int secret_read(struct accounts *a, const char *dir, struct err *e)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.4000s/secret", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        int rc = secret_make(path, e);
        if (rc) return rc;
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    ssize_t n = read(fd, a->secret, sizeof a->secret);
    close(fd);
    return n == (ssize_t)sizeof a->secret ? 0 : err_set(e, ERR_INPUT, "%s: %d bytes expected", path, SECRET_BYTES);
}

static int load_keys(struct accounts *a, struct err *e)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(a->db, "SELECT id, key_digest FROM accounts WHERE kind = 'key' AND closed_s IS NULL", -1, &s, NULL) != SQLITE_OK)
        return db_error(a, e);
    struct key_digest *keys = NULL;
    size_t n = 0, cap = 0;
    int step, rc = 0;
    while (!rc && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if (sqlite3_column_bytes(s, 1) != DIGEST_BYTES) continue; /* the schema forbids it */
        if (n == cap) {
            cap = cap ? 2 * cap : 16;
            struct key_digest *more = realloc(keys, cap * sizeof *keys);
            if (!more) {
                rc = err_set(e, ERR_MEMORY, "out of memory");
                break;
            }
            keys = more;
        }
        keys[n].id = sqlite3_column_int64(s, 0);
        memcpy(keys[n++].digest, sqlite3_column_blob(s, 1), DIGEST_BYTES);
    }
    if (!rc && step != SQLITE_DONE) rc = db_error(a, e);
    sqlite3_finalize(s);
    if (rc) {
        free(keys);
        return rc;
    }
    free(a->keys);
    a->keys = keys;
    a->n_keys = n;
    return 0;
}

static int open_db(struct accounts *a, const char *dir, struct err *e)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.4000s/accounts.db", dir);
    mode_t old = umask(077);
    int code = sqlite3_open_v2(path, &a->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    umask(old);
    if (code != SQLITE_OK) return err_set(e, ERR_IO, "%s: %s", path, a->db ? sqlite3_errmsg(a->db) : "out of memory");
    sqlite3_busy_timeout(a->db, BUSY_MS);
    if (sqlite3_exec(a->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON", NULL, NULL, NULL) !=
        SQLITE_OK)
        return err_set(e, ERR_IO, "%s: %s", path, sqlite3_errmsg(a->db));
    int rc = schema_migrate(a->db, e);
    if (rc) return err_prefix(e, "%s", path);
    if (sqlite3_prepare_v2(a->db, "PRAGMA data_version", -1, &a->data_version, NULL) != SQLITE_OK) return db_error(a, e);
    return 0;
}

int accounts_open(struct accounts **out, const char *dir, struct err *e)
{
    *out = NULL;
    if (sodium_init() < 0) return err_set(e, ERR_INTERNAL, "libsodium cannot be started");
    struct accounts *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = make_dirs(dir, e);
    if (!rc) rc = secret_read(a, dir, e);
    if (!rc) rc = open_db(a, dir, e);
    if (!rc) rc = accounts_refresh(a, e);
    if (!rc) rc = load_keys(a, e);
    if (rc)
        accounts_close(a);
    else
        *out = a;
    return rc;
}

void accounts_close(struct accounts *a)
{
    if (!a) return;
    sqlite3_finalize(a->data_version);
    sqlite3_close(a->db);
    sodium_memzero(a->secret, sizeof a->secret);
    free(a->keys);
    free(a);
}

int accounts_refresh(struct accounts *a, struct err *e)
{
    if (sqlite3_step(a->data_version) != SQLITE_ROW) {
        sqlite3_reset(a->data_version);
        return db_error(a, e);
    }
    int64_t version = sqlite3_column_int64(a->data_version, 0);
    sqlite3_reset(a->data_version);
    if (version == a->seen_version) return 0;
    a->seen_version = version;
    return load_keys(a, e);
}

static void digest(const struct accounts *a, const char *token, unsigned char out[DIGEST_BYTES])
{
    crypto_generichash(out, DIGEST_BYTES, (const unsigned char *)token, strlen(token), a->secret, sizeof a->secret);
}

int64_t accounts_key_check(const struct accounts *a, const char *token)
{
    if (strlen(token) > ACCOUNTS_MAX_TOKEN) return 0;
    unsigned char d[DIGEST_BYTES];
    digest(a, token, d);
    int64_t id = 0;
    for (size_t i = 0; i < a->n_keys; i++) /* no early end: the time tells nothing */
        if (sodium_memcmp(a->keys[i].digest, d, DIGEST_BYTES) == 0) id = a->keys[i].id;
    return id;
}

size_t accounts_key_count(const struct accounts *a)
{
    return a->n_keys;
}

static int64_t key_insert(struct accounts *a, const char *name, const char *token, const unsigned char d[DIGEST_BYTES], struct err *e)
{
    sqlite3_stmt *s = NULL;
    const char *sql = "INSERT INTO accounts (kind, parent, name, created_s, key_digest, key_hint) VALUES ('key', 2, ?, "
                      "unixepoch(), ?, ?)";
    if (sqlite3_prepare_v2(a->db, sql, -1, &s, NULL) != SQLITE_OK) return db_error(a, e);
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_blob(s, 2, d, DIGEST_BYTES, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, token + strlen(token) - HINT_CHARS, -1, SQLITE_STATIC);
    int step = sqlite3_step(s);
    int64_t id = sqlite3_last_insert_rowid(a->db);
    int rc = step == SQLITE_DONE         ? 0
             : step == SQLITE_CONSTRAINT ? err_set(e, ERR_INPUT, "this key is known already and was revoked")
                                         : db_error(a, e);
    sqlite3_finalize(s);
    if (!rc) rc = load_keys(a, e);
    return rc ? rc : id;
}

int64_t accounts_key_add(struct accounts *a, const char *name, const char *token, struct err *e)
{
    size_t n = strlen(token);
    if (n < ACCOUNTS_MIN_TOKEN || n > ACCOUNTS_MAX_TOKEN)
        return err_set(e, ERR_INPUT, "an API key must have %d to %d characters", ACCOUNTS_MIN_TOKEN, ACCOUNTS_MAX_TOKEN);
    for (size_t i = 0; i < n; i++)
        if (token[i] <= ' ' || token[i] > '~') return err_set(e, ERR_INPUT, "an API key must be printable ASCII without blanks");
    int64_t known = accounts_key_check(a, token);
    if (known) return known;
    unsigned char d[DIGEST_BYTES];
    digest(a, token, d);
    return key_insert(a, name, token, d, e);
}

int64_t accounts_key_make(struct accounts *a, const char *name, char token[ACCOUNTS_TOKEN_BYTES], struct err *e)
{
    unsigned char bytes[RANDOM_BYTES];
    randombytes_buf(bytes, sizeof bytes);
    memcpy(token, "sk-spillway-", 12);
    sodium_bin2base64(token + 12, ACCOUNTS_TOKEN_BYTES - 12, bytes, sizeof bytes, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    return accounts_key_add(a, name, token, e);
}

int accounts_key_revoke(struct accounts *a, int64_t id, struct err *e)
{
    sqlite3_stmt *s = NULL;
    const char *sql = "UPDATE accounts SET closed_s = unixepoch() WHERE id = ? AND kind = 'key' AND closed_s IS NULL";
    if (sqlite3_prepare_v2(a->db, sql, -1, &s, NULL) != SQLITE_OK) return db_error(a, e);
    sqlite3_bind_int64(s, 1, id);
    int rc = sqlite3_step(s) == SQLITE_DONE ? 0 : db_error(a, e);
    sqlite3_finalize(s);
    if (!rc && sqlite3_changes(a->db) == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no valid key with id %lld", (long long)id);
    return rc ? rc : load_keys(a, e);
}

int accounts_key_list(struct accounts *a, void (*fn)(void *ctx, const struct accounts_key *k), void *ctx, struct err *e)
{
    sqlite3_stmt *s = NULL;
    const char *sql = "SELECT id, name, key_hint, created_s, coalesce(closed_s, 0) FROM accounts WHERE kind = 'key' ORDER BY id";
    if (sqlite3_prepare_v2(a->db, sql, -1, &s, NULL) != SQLITE_OK) return db_error(a, e);
    int step;
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        struct accounts_key k = {.id = sqlite3_column_int64(s, 0),
                                 .name = (const char *)sqlite3_column_text(s, 1),
                                 .hint = (const char *)sqlite3_column_text(s, 2),
                                 .created_s = sqlite3_column_int64(s, 3),
                                 .revoked_s = sqlite3_column_int64(s, 4)};
        fn(ctx, &k);
    }
    int rc = step == SQLITE_DONE ? 0 : db_error(a, e);
    sqlite3_finalize(s);
    return rc;
}
