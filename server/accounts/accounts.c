/* Accounts: see accounts.h. The store first, then keys. */
#include "server/accounts/accounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/accounts/answer_box.h"
#include "server/accounts/id_text.h"
#include "server/accounts/key_table.h"
#include "server/accounts/schema.h"

enum { SECRET_BYTES = 32, PATH_BYTES = 4096, ROWS_AT_ONCE = 500, RANDOM_BYTES = 32, REVIVE_MS = 10000, HINT_CHARS = 4 };

/* A table that is being read, some rows at a time. */
struct load {
    bool running, at_rules; /* keys first, then rules */
    struct db_rows rows;
    struct key_table keys;
    struct rules_table rules;
    int64_t version;
};

struct accounts {
    struct db *db;
    int64_t seen_version;
    int64_t opened_s, opened_ms; /* the same moment by the wall and by the boot clock */
    unsigned char secret[SECRET_BYTES], id_key[ID_KEY_BYTES], answer_key[ANSWER_SECRET_BYTES];
    int64_t revive_ms;     /* a broken link to the store is not made anew before that */
    struct key_table keys; /* of keys that are not revoked */
    struct rules_table rules;
    struct load loading;
};

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

static void load_end(struct accounts *a)
{
    db_done(&a->loading.rows);
    key_table_free(&a->loading.keys);
    rules_table_free(&a->loading.rules);
    a->loading = (struct load){0};
}

static int load_begin(struct accounts *a, int64_t version, struct err *e)
{
    load_end(a);
    a->loading.version = version;
    a->loading.running = true;
    return db_query(a->db, &a->loading.rows,
                    "SELECT k.id, s.digest, CASE WHEN k.expires_s IS NULL OR s.expires_s < k.expires_s THEN s.expires_s ELSE k.expires_s END,"
                    " k.admin, k.weight, k.priority, CASE k.admin WHEN 0 THEN k.parent END, CASE k.admin WHEN 0 THEN p.parent ELSE k.parent END"
                    " FROM key_secrets s JOIN accounts k ON k.id = s.account JOIN accounts p ON p.id = k.parent WHERE k.kind = 'key' AND k.closed_s IS NULL ORDER BY k.id",
                    DB_NO_ARGS, e);
}

static int load_key(struct key_table *t, struct db_rows *r)
{
    struct key_entry k = {.account = db_get_int(r, 0),
                          .expires_s = db_get_int(r, 2), /* null: 0 */
                          .admin = db_get_int(r, 3) != 0,
                          .weight = (uint32_t)db_get_int(r, 4),
                          .priority = (int32_t)db_get_int(r, 5),
                          .project = db_get_int(r, 6),
                          .organisation = db_get_int(r, 7)};
    if (db_get_blob(r, 1, k.digest, sizeof k.digest) != KEY_DIGEST_BYTES) return 0; /* the schema forbids it */
    return key_table_put(t, &k);
}

/* Rows of keys or of rules. 1: there are more; 0: it was the last. */
static int load_some(struct load *l, size_t max_rows, struct err *e)
{
    struct db_rows *r = &l->rows;
    int rc = 1;
    for (size_t i = 0; i < max_rows && (rc = db_next(r, e)) == 1; i++) {
        int put = l->at_rules ? rules_table_put(&l->rules, db_get_int(r, 0), db_get_text(r, 1), db_get_text(r, 2)) : load_key(&l->keys, r);
        if (put) return err_set(e, ERR_MEMORY, "out of memory");
    }
    return rc;
}

/* 1: there are more rows; 0: the new tables are in use. */
static int load_rows(struct accounts *a, size_t max_rows, struct err *e)
{
    struct load *l = &a->loading;
    int rc = load_some(l, max_rows, e);
    if (!rc && !l->at_rules) {
        db_done(&l->rows);
        l->rows = (struct db_rows){0};
        l->at_rules = true;
        rc = db_query(a->db, &l->rows, rules_load_sql, DB_NO_ARGS, e);
        if (!rc) rc = load_some(l, max_rows, e);
    }
    if (rc == 1) return 1;
    if (!rc) {
        struct key_table keys = a->keys;
        struct rules_table rules = a->rules;
        a->keys = l->keys;
        a->rules = l->rules;
        l->keys = keys;
        l->rules = rules;
        a->seen_version = l->version; /* not before: what failed is tried again */
    }
    load_end(a);
    return rc;
}

static int config_version(struct accounts *a, int64_t *version, struct err *e)
{
    return db_number(a->db, "SELECT config_version FROM ledger_state WHERE id = 1", DB_NO_ARGS, 0, version, e);
}

/* Begins to take changes over, or goes on; at most max_rows rows. 1: there are more. */
static int refresh(struct accounts *a, size_t max_rows, struct err *e)
{
    if (!a->loading.running) {
        int64_t version = 0;
        int rc = config_version(a, &version, e);
        if (rc || version == a->seen_version) return rc;
        rc = load_begin(a, version, e);
        if (rc) {
            load_end(a);
            return rc;
        }
    }
    return load_rows(a, max_rows, e);
}


/* All that others have changed, from the start. */
static int refresh_whole(struct accounts *a, struct err *e)
{
    load_end(a);
    return refresh(a, SIZE_MAX, e);
}

static void digest(const struct accounts *a, const char *token, unsigned char out[KEY_DIGEST_BYTES])
{
    crypto_generichash(out, KEY_DIGEST_BYTES, (const unsigned char *)token, strlen(token), a->secret, sizeof a->secret);
}

/* Keys are found by digests made with the secret: with another one than theirs no key would be valid. */
static int check_secret(struct accounts *a, struct err *e)
{
    static const char text[] = "spillway accounts";
    unsigned char is[KEY_DIGEST_BYTES], was[KEY_DIGEST_BYTES];
    struct db_rows rows;
    digest(a, text, is);
    int rc = db_run(a->db, "UPDATE ledger_state SET secret_check = ?1 WHERE id = 1 AND secret_check IS NULL",
                    DB_ARGS(db_blob(is, sizeof is)), NULL, e);
    if (rc) return rc;
    rc = db_query(a->db, &rows, "SELECT secret_check FROM ledger_state WHERE id = 1", DB_NO_ARGS, e);
    if (!rc) rc = db_next(&rows, e);
    bool same = rc == 1 && db_get_blob(&rows, 0, was, sizeof was) == sizeof was && sodium_memcmp(is, was, sizeof is) == 0;
    db_done(&rows);
    if (rc < 0 || same) return rc < 0 ? rc : 0;
    return err_set(e, ERR_INPUT,
                   "the accounts were made with another secret than that of this data directory: copy the file `secret` of the one they "
                   "were made with");
}

static int open_db(struct accounts *a, const char *dir, const char *store, struct err *e)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.4000s/accounts.db", dir);
    int rc = db_open(&a->db, store ? store : path, e);
    if (!rc) rc = schema_migrate(a->db, e);
    if (!rc) rc = check_secret(a, e);
    return rc && !store ? err_prefix(e, "%s", path) : rc;
}

/* Whoever can write here can make keys; whoever can read the secret can check guesses. They are made private; somebody may have changed that. */
static void warn_if_open_to_others(const char *dir)
{
    static const struct {
        const char *name;
        mode_t mode;
    } files[] = {{"", 022}, {"/secret", 077}, {"/accounts.db", 077}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[PATH_BYTES];
        struct stat st;
        snprintf(path, sizeof path, "%.4000s%s", dir, files[i].name);
        if (stat(path, &st) == 0 && (st.st_mode & files[i].mode))
            log_warn("%s: open to other users (mode %04o); the keys are only as safe as it is", path, (unsigned)st.st_mode & 07777);
    }
}

int accounts_open(struct accounts **out, const char *dir, const char *store, struct err *e)
{
    *out = NULL;
    if (sodium_init() < 0) return err_set(e, ERR_INTERNAL, "libsodium cannot be started");
    struct accounts *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    a->seen_version = -1;
    a->opened_s = clock_wall_s();
    a->opened_ms = clock_boot_ms();
    int rc = make_dirs(dir, e);
    if (!rc) rc = secret_read(a, dir, e);
    if (!rc) crypto_generichash(a->id_key, sizeof a->id_key, (const unsigned char *)"ids", 3, a->secret, sizeof a->secret);
    if (!rc) crypto_kdf_derive_from_key(a->answer_key, sizeof a->answer_key, 1, "answers_", a->secret);
    if (!rc) rc = open_db(a, dir, store, e);
    if (!rc) warn_if_open_to_others(dir);
    if (!rc) rc = refresh_whole(a, e);
    if (rc)
        accounts_close(a);
    else
        *out = a;
    return rc;
}

int accounts_open_beside(struct accounts **out, const struct accounts *of, const char *store, struct err *e)
{
    *out = NULL;
    struct accounts *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    a->seen_version = -1;
    a->opened_s = of->opened_s;
    a->opened_ms = of->opened_ms;
    memcpy(a->secret, of->secret, sizeof a->secret);
    memcpy(a->id_key, of->id_key, sizeof a->id_key);
    memcpy(a->answer_key, of->answer_key, sizeof a->answer_key);
    int rc = db_open(&a->db, store, e);
    if (rc)
        accounts_close(a);
    else
        *out = a;
    return rc;
}

int64_t accounts_version(const struct accounts *a)
{
    return a->seen_version;
}

struct db *accounts_db(struct accounts *a)
{
    return a->db;
}

const unsigned char *accounts_id_key(const struct accounts *a)
{
    return a->id_key;
}

const unsigned char *accounts_answer_key(const struct accounts *a)
{
    return a->answer_key;
}

void accounts_close(struct accounts *a)
{
    if (!a) return;
    load_end(a);
    db_close(a->db);
    sodium_memzero(a->secret, sizeof a->secret);
    sodium_memzero(a->answer_key, sizeof a->answer_key);
    key_table_free(&a->keys);
    rules_table_free(&a->rules);
    free(a);
}

int accounts_refresh(struct accounts *a, struct err *e)
{
    db_wait_for_locks(a->db, 0); /* called on the loop: never waits for another process's lock */
    int rc = refresh(a, ROWS_AT_ONCE, e);
    db_wait_for_locks(a->db, DB_BUSY_MS);
    if (rc == -ERR_IO && clock_boot_ms() >= a->revive_ms) { /* rarely: to connect may take a moment, and whoever calls waits */
        struct err again;
        load_end(a);
        if (db_revive(a->db, &again)) log_warn("%s: tried again in %d s", again.msg, REVIVE_MS / 1000);
        a->revive_ms = clock_boot_ms() + REVIVE_MS;
    }
    return rc;
}

void accounts_adopt(struct accounts *a, struct accounts *reader)
{
    struct key_table keys = a->keys;
    struct rules_table rules = a->rules;
    if (a->seen_version >= reader->seen_version) return;
    load_end(a);
    a->keys = reader->keys;
    a->rules = reader->rules;
    a->seen_version = reader->seen_version;
    reader->keys = keys;
    reader->rules = rules;
}

/* Now, for expiries: the wall clock may be put right forwards, but going back it is not followed. */
static int64_t now_s(const struct accounts *a)
{
    int64_t wall_s = clock_wall_s(), run_s = a->opened_s + (clock_boot_ms() - a->opened_ms) / 1000;
    return wall_s > run_s ? wall_s : run_s;
}

static bool entry_valid(const struct key_entry *k, int64_t at_s)
{
    return !k->expires_s || at_s < k->expires_s;
}

int64_t accounts_key_check(const struct accounts *a, const char *token, bool *admin)
{
    if (admin) *admin = false;
    if (strnlen(token, ACCOUNTS_MAX_TOKEN + 1) > ACCOUNTS_MAX_TOKEN) return 0;
    unsigned char d[KEY_DIGEST_BYTES];
    digest(a, token, d);
    const struct key_entry *k = key_table_find(&a->keys, d);
    if (!k || !entry_valid(k, now_s(a))) return 0;
    if (admin) *admin = k->admin;
    return k->account;
}

/* Entries are in order of accounts; those of one account say the same. NULL: there is none. */
static const struct key_entry *entry_of(const struct accounts *a, int64_t id)
{
    uint32_t low = 1, high = a->keys.n + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct key_entry *k = &a->keys.entries[middle];
        if (k->account == id) return k;
        if (k->account < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

struct accounts_share accounts_key_share(const struct accounts *a, int64_t id)
{
    const struct key_entry *k = entry_of(a, id);
    return k ? (struct accounts_share){.weight = k->weight, .priority = k->priority} : (struct accounts_share){.weight = 1};
}

void accounts_key_rules(const struct accounts *a, int64_t id, struct account_rules *out)
{
    const struct key_entry *k = entry_of(a, id);
    *out = (struct account_rules){.account = {[RULES_KEY] = id}};
    if (k) {
        out->account[RULES_PROJECT] = k->project;
        out->account[RULES_ORGANISATION] = k->organisation;
    }
    rules_table_find(&a->rules, out);
    if (!k) out->local_only = true;
}

size_t accounts_key_count(const struct accounts *a)
{
    int64_t at_s = now_s(a), last = 0;
    size_t n = 0;
    for (uint32_t i = 1; i <= a->keys.n; i++) { /* in order of accounts */
        const struct key_entry *k = &a->keys.entries[i];
        if (k->admin || k->account == last || !entry_valid(k, at_s)) continue;
        last = k->account;
        n++;
    }
    return n;
}

static int check_token(const char *token, struct err *e)
{
    size_t n = strnlen(token, ACCOUNTS_MAX_TOKEN + 1);
    if (n < ACCOUNTS_MIN_TOKEN || n > ACCOUNTS_MAX_TOKEN)
        return err_set(e, ERR_INPUT, "an API key must have %d to %d characters", ACCOUNTS_MIN_TOKEN, ACCOUNTS_MAX_TOKEN);
    for (size_t i = 0; i < n; i++)
        if (token[i] <= ' ' || token[i] > '~') return err_set(e, ERR_INPUT, "an API key must be printable ASCII without blanks");
    return 0;
}

/* It is printed on terminals: no control characters, also not U+0080 to U+009F. */
int accounts_name_check(const char *whose, const char *name, struct err *e)
{
    size_t n = strlen(name);
    bool ok = n >= 1 && n <= ACCOUNTS_MAX_NAME && utf8_valid(name, n);
    for (size_t i = 0; i < n && ok; i++) {
        unsigned char c = (unsigned char)name[i], next = (unsigned char)name[i + 1];
        ok = c >= ' ' && c != 0x7F && !(c == 0xC2 && next < 0xA0);
    }
    return ok ? 0 : err_set(e, ERR_INPUT, "%s's name must be 1 to %d bytes of UTF-8 without control characters", whose, ACCOUNTS_MAX_NAME);
}

static int check_share(const struct accounts_share *s, struct err *e)
{
    if (s->weight < 1 || s->weight > ACCOUNTS_MAX_WEIGHT)
        return err_set(e, ERR_INPUT, "a key's weight must be from 1 to %d", ACCOUNTS_MAX_WEIGHT);
    if (s->priority < -ACCOUNTS_MAX_PRIORITY || s->priority > ACCOUNTS_MAX_PRIORITY)
        return err_set(e, ERR_INPUT, "a key's priority must be from -%d to %d", ACCOUNTS_MAX_PRIORITY, ACCOUNTS_MAX_PRIORITY);
    return 0;
}

static struct accounts_share share_of(const struct accounts_key_spec *s)
{
    struct accounts_share share = s->share;
    if (share.weight == 0) share.weight = 1;
    return share;
}

/* The account that has this secret, 0 if there is none. */
static int64_t secret_owner(struct accounts *a, const unsigned char d[KEY_DIGEST_BYTES], struct err *e)
{
    int64_t id;
    int rc = db_number(a->db, "SELECT account FROM key_secrets WHERE digest = ?1", DB_ARGS(db_blob(d, KEY_DIGEST_BYTES)), 0, &id, e);
    return rc ? rc : id;
}

static int secret_insert(struct accounts *a, int64_t account, const char *token, const unsigned char d[KEY_DIGEST_BYTES], struct err *e)
{
    return db_run(a->db, "INSERT INTO key_secrets (account, created_s, digest, hint) VALUES (?1, ?2, ?3, ?4)",
                  DB_ARGS(db_int(account), db_int(now_s(a)), db_blob(d, KEY_DIGEST_BYTES), db_text(token + strlen(token) - HINT_CHARS)),
                  NULL, e);
}

/* Inside a transaction. Ids 1 and 2 are the organisation and its project (schema.c). Returns the id. */
static int64_t account_insert(struct accounts *a, const struct accounts_key_spec *spec, bool configured, struct err *e)
{
    struct accounts_share share = share_of(spec);
    int64_t id;
    int rc = db_number(a->db,
                       "INSERT INTO accounts (kind, parent, created_s, expires_s, admin, configured, weight, priority, name)"
                       " VALUES ('key', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id",
                       DB_ARGS(db_int(spec->admin     ? 1
                                      : spec->project ? spec->project
                                                      : 2),
                               db_int(now_s(a)), db_int_or_null(spec->expires_s != 0, spec->expires_s), db_int(spec->admin),
                               db_int(configured), db_int(share.weight), db_int(share.priority), db_text(spec->name)),
                       0, &id, e);
    return rc ? rc : id;
}

static int64_t key_insert(struct accounts *a, const struct accounts_key_spec *spec, bool configured, const char *token,
                          const unsigned char d[KEY_DIGEST_BYTES], struct err *e)
{
    int64_t id = account_insert(a, spec, configured, e);
    int rc = id < 0 ? (int)id : secret_insert(a, id, token, d, e);
    return rc ? rc : id;
}

/* Whose key it is. */
static int read_parents(struct accounts *a, struct key_entry *k, struct err *e)
{
    struct db_rows r;
    int rc = db_query(a->db, &r, "SELECT CASE k.admin WHEN 0 THEN k.parent END, CASE k.admin WHEN 0 THEN p.parent ELSE k.parent END"
                      " FROM accounts k JOIN accounts p ON p.id = k.parent WHERE k.id = ?1",
                      DB_ARGS(db_int(k->account)), e);
    if (!rc) rc = db_next(&r, e);
    if (rc == 1) {
        k->project = db_get_int(&r, 0);
        k->organisation = db_get_int(&r, 1);
    }
    db_done(&r);
    return rc < 0 ? rc : 0;
}

/* A key that was added needs no reading of all of them, unless others have changed some, too. */
static int64_t take_added(struct accounts *a, struct key_entry *k, int64_t id, struct err *e)
{
    int64_t version = 0;
    k->account = id;
    int rc = read_parents(a, k, e);
    if (!rc) rc = config_version(a, &version, e);
    if (rc || a->loading.running || version != a->seen_version + 1) {
        rc = rc ? rc : refresh_whole(a, e);
        return rc ? rc : id;
    }
    a->seen_version = version;
    return key_table_put(&a->keys, k) ? err_set(e, ERR_MEMORY, "out of memory") : id;
}

static int check_project(struct accounts *a, const struct accounts_key_spec *spec, struct err *e)
{
    int64_t n;
    if (!spec->project) return 0;
    if (spec->admin) return err_set(e, ERR_INPUT, "an admin key belongs to no project");
    int rc = db_number(a->db, "SELECT count(*) FROM accounts WHERE id = ?1 AND kind = 'project' AND closed_s IS NULL",
                       DB_ARGS(db_int(spec->project)), 0, &n, e);
    return rc || n ? rc : err_set(e, ERR_NOT_FOUND, "there is no project %lld that is open", (long long)spec->project);
}

int64_t accounts_key_add(struct accounts *a, const struct accounts_key_spec *spec, const char *token, struct err *e)
{
    struct accounts_share share = share_of(spec);
    int rc = check_token(token, e);
    if (!rc) rc = accounts_name_check("a key", spec->name, e);
    if (!rc) rc = check_share(&share, e);
    if (!rc) rc = db_begin(a->db, e);
    if (rc) return rc;
    struct key_entry k = {.expires_s = spec->expires_s, .admin = spec->admin, .weight = share.weight, .priority = share.priority};
    digest(a, token, k.digest);
    int64_t id = secret_owner(a, k.digest, e);
    if (id > 0) id = err_set(e, ERR_INPUT, "this key is known already (id %lld)", (long long)id);
    if (id == 0) id = check_project(a, spec, e);
    if (id == 0) id = key_insert(a, spec, false, token, k.digest, e);
    rc = schema_end_change(a->db, id, e);
    return rc ? rc : take_added(a, &k, id, e);
}

static void token_make(char token[ACCOUNTS_TOKEN_BYTES])
{
    unsigned char bytes[RANDOM_BYTES];
    randombytes_buf(bytes, sizeof bytes);
    memcpy(token, "sk-spillway-", 12);
    sodium_bin2base64(token + 12, ACCOUNTS_TOKEN_BYTES - 12, bytes, sizeof bytes, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(bytes, sizeof bytes);
}

int64_t accounts_key_make(struct accounts *a, const struct accounts_key_spec *spec, char token[ACCOUNTS_TOKEN_BYTES], struct err *e)
{
    token_make(token);
    return accounts_key_add(a, spec, token, e);
}

/* All secrets of the account end at at_s, those that end earlier excepted. */
static int secrets_end(struct accounts *a, int64_t account, int64_t at_s, struct err *e)
{
    return db_run(a->db, "UPDATE key_secrets SET expires_s = ?2 WHERE account = ?1 AND (expires_s IS NULL OR expires_s > ?2)",
                  DB_ARGS(db_int(account), db_int(at_s)), NULL, e);
}

#define LIVE "(expires_s IS NULL OR expires_s > ?2)"

/* The secret is there already: of the configured account it becomes the one that is valid, of another one it must be valid. */
static int configure_known(struct accounts *a, int64_t owner, int64_t configured, const unsigned char d[KEY_DIGEST_BYTES], struct err *e)
{
    int64_t open;
    int rc = db_number(a->db, "SELECT count(*) FROM accounts WHERE id = ?1 AND closed_s IS NULL AND " LIVE,
                       DB_ARGS(db_int(owner), db_int(now_s(a))), 0, &open, e);
    if (rc) return rc;
    if (open && owner == configured)
        return db_run(a->db, "UPDATE key_secrets SET expires_s = NULL WHERE digest = ?1", DB_ARGS(db_blob(d, KEY_DIGEST_BYTES)), NULL, e);
    const struct key_entry *k = key_table_find(&a->keys, d);
    if (open && k && entry_valid(k, now_s(a))) return 0;
    return err_set(e, ERR_DENIED, "the configured API key (key %lld) was revoked or has ended", (long long)owner);
}

int64_t accounts_key_configure(struct accounts *a, const char *token, struct err *e)
{
    int rc = check_token(token, e);
    if (!rc) rc = refresh_whole(a, e);
    if (!rc) rc = db_begin(a->db, e);
    if (rc) return rc;
    unsigned char d[KEY_DIGEST_BYTES];
    digest(a, token, d);
    const struct accounts_key_spec spec = {.name = "configured"};
    int64_t configured;
    rc = db_number(a->db, "SELECT id FROM accounts WHERE configured = 1 AND closed_s IS NULL", DB_NO_ARGS, 0, &configured, e);
    int64_t owner = rc ? rc : secret_owner(a, d, e);
    int64_t id = owner;
    if (owner >= 0 && configured > 0) rc = secrets_end(a, configured, now_s(a), e); /* what was named before; then: */
    if (rc < 0)
        id = rc;
    else if (owner > 0)
        id = (rc = configure_known(a, owner, configured, d, e)) ? rc : owner;
    else if (owner == 0 && configured > 0)
        id = (rc = secret_insert(a, configured, token, d, e)) ? rc : configured;
    else if (owner == 0)
        id = key_insert(a, &spec, true, token, d, e);
    rc = schema_end_change(a->db, id, e);
    if (!rc) rc = refresh_whole(a, e);
    return rc ? rc : id;
}

int accounts_key_rotate(struct accounts *a, int64_t id, int64_t grace_s, int64_t expires_s, char token[ACCOUNTS_TOKEN_BYTES], struct err *e)
{
    CHECK(grace_s >= 0 && grace_s < INT64_MAX / 2);
    int rc = db_begin(a->db, e);
    if (rc) return rc;
    int64_t at_s = now_s(a);
    int64_t known;
    rc = db_number(a->db, "SELECT 1 + configured FROM accounts WHERE id = ?1 AND kind = 'key' AND closed_s IS NULL AND " LIVE,
                   DB_ARGS(db_int(id), db_int(at_s)), 0, &known, e);
    if (!rc && known == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no valid key with id %lld", (long long)id);
    if (known == 2)
        rc = err_set(e, ERR_INPUT, "key %lld is the configured one: give the server another SPILLWAY_API_KEY or --api-key-file",
                     (long long)id);
    if (!rc) rc = secrets_end(a, id, at_s + grace_s, e);
    if (!rc && expires_s >= 0)
        rc = db_run(a->db, "UPDATE accounts SET expires_s = ?1 WHERE id = ?2",
                    DB_ARGS(db_int_or_null(expires_s != 0, expires_s), db_int(id)), NULL, e);
    token_make(token);
    unsigned char d[KEY_DIGEST_BYTES];
    digest(a, token, d);
    if (!rc) rc = secret_insert(a, id, token, d, e);
    rc = schema_end_change(a->db, rc, e);
    return rc ? rc : refresh_whole(a, e);
}

/* One statement that changes one key, whose id is its first argument. */
static int change_key(struct accounts *a, const char *sql, const struct db_arg *args, int n, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(a->db, e);
    if (rc) return rc;
    rc = db_run(a->db, sql, args, n, &n_changed, e);
    if (!rc && n_changed == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no key with id %lld that is not revoked", (long long)args[0].i);
    rc = schema_end_change(a->db, rc, e);
    return rc ? rc : refresh_whole(a, e);
}

int accounts_key_set_share(struct accounts *a, int64_t id, const struct accounts_share *share, struct err *e)
{
    int rc = check_share(share, e);
    return rc ? rc
              : change_key(a, "UPDATE accounts SET weight = ?2, priority = ?3 WHERE id = ?1 AND kind = 'key' AND closed_s IS NULL",
                           DB_ARGS(db_int(id), db_int(share->weight), db_int(share->priority)), e);
}

int accounts_key_revoke(struct accounts *a, int64_t id, struct err *e)
{
    return change_key(a, "UPDATE accounts SET closed_s = ?2 WHERE id = ?1 AND kind = 'key' AND closed_s IS NULL",
                      DB_ARGS(db_int(id), db_int(now_s(a))), e);
}

/* The newest secret is the one that ends last; former: the live ones that end before their key does. */
static const char list_sql[] =
    "SELECT id, name, created_s, coalesce(expires_s, 0), coalesce(closed_s, 0), admin, configured,"
    " (SELECT hint FROM key_secrets s WHERE s.account = k.id ORDER BY s.expires_s IS NULL DESC, s.expires_s DESC, s.id DESC LIMIT 1),"
    " (SELECT max(expires_s) FROM key_secrets s WHERE s.account = k.id AND s.expires_s > ?2),"
    " " LIVE
    " AND EXISTS (SELECT 1 FROM key_secrets s WHERE s.account = k.id AND (s.expires_s IS NULL OR s.expires_s > ?2)), weight, priority,"
    " parent"
    " FROM accounts k WHERE kind = 'key' ORDER BY id";

int accounts_key_list(struct accounts *a, void (*fn)(void *ctx, const struct accounts_key *k), void *ctx, struct err *e)
{
    struct db_rows r;
    int rc = db_query(a->db, &r, list_sql, DB_ARGS(db_int(0), db_int(now_s(a))), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        struct accounts_key k = {.id = db_get_int(&r, 0),
                                 .name = db_get_text(&r, 1),
                                 .created_s = db_get_int(&r, 2),
                                 .expires_s = db_get_int(&r, 3),
                                 .revoked_s = db_get_int(&r, 4),
                                 .admin = db_get_int(&r, 5) != 0,
                                 .configured = db_get_int(&r, 6) != 0,
                                 .hint = db_get_text(&r, 7),
                                 .project = db_get_int(&r, 12),
                                 .share = {.weight = (uint32_t)db_get_int(&r, 10), .priority = (int32_t)db_get_int(&r, 11)}};
        bool live = db_get_int(&r, 9) != 0;
        k.state = k.revoked_s ? ACCOUNTS_KEY_REVOKED : live ? ACCOUNTS_KEY_VALID : ACCOUNTS_KEY_EXPIRED;
        if (k.state == ACCOUNTS_KEY_VALID) k.former_ends_s = db_get_int(&r, 8);
        fn(ctx, &k);
        rc = 0;
    }
    db_done(&r);
    return rc;
}
