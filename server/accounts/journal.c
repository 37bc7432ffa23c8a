/* Journal: see journal.h. */
#include "server/accounts/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

enum {
    HEADER_BYTES = 512,
    DATA_AT = 4096,
    HASH_BYTES = 16,
    HEAD_BYTES = 4 + HASH_BYTES,
    TEXT_BYTES = JOURNAL_RECORD_BYTES - HEAD_BYTES,
    MAGIC_BYTES = 8,
    SLICE_BYTES = 64 << 10
};
static const char magic[] = "SPWJRNL1";

struct journal {
    int fd;
    uint64_t generation;
    size_t cap_bytes, synced_bytes; /* of the records */
    size_t n, n_synced;
    struct buf records; /* as they are in the file */
    bool failed;        /* the disk did not keep what it was told: nothing more is entrusted to it */
};

static int fail(const char *what, struct err *e)
{
    return err_set(e, ERR_IO, "accounts journal: %s: %s", what, strerror(errno));
}

/* What the file holds now nobody knows; asked again the system would say that all is well (FAULTS B13). */
static int fail_sync(struct err *e)
{
    return err_set(e, ERR_BROKEN, "accounts journal: fdatasync: %s", strerror(errno));
}

static void put_number(unsigned char *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) p[i] = (unsigned char)(v >> 8 * i);
}

static uint64_t get_number(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static void hash_text(uint64_t generation, const void *text, size_t n, unsigned char out[HASH_BYTES])
{
    unsigned char key[crypto_generichash_KEYBYTES_MIN] = {0};
    put_number(key, generation, 8);
    crypto_generichash(out, HASH_BYTES, text, n, key, sizeof key);
}

static int write_all(int fd, const void *p, size_t n, off_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(fd, (const char *)p + done, n - done, at + (off_t)done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return -1;
        done += (size_t)k;
    }
    return 0;
}

static int read_all(int fd, void *p, size_t n, off_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(fd, (char *)p + done, n - done, at + (off_t)done);
        if (k < 0 && errno == EINTR) continue;
        if (k == 0) errno = EIO;
        if (k <= 0) return -1;
        done += (size_t)k;
    }
    return 0;
}

/* --- the header --- */

static int write_header(struct journal *j, uint64_t generation, struct err *e)
{
    unsigned char h[HEADER_BYTES] = {0};
    memcpy(h, magic, MAGIC_BYTES);
    put_number(h + MAGIC_BYTES, generation, 8);
    hash_text(generation, h, MAGIC_BYTES + 8, h + MAGIC_BYTES + 8);
    if (write_all(j->fd, h, sizeof h, (off_t)(generation % 2) * HEADER_BYTES)) return fail("write", e);
    if (fdatasync(j->fd)) {
        j->failed = true;
        return fail_sync(e);
    }
    j->generation = generation;
    return 0;
}

static uint64_t read_header(const unsigned char *h)
{
    unsigned char hash[HASH_BYTES];
    uint64_t generation = get_number(h + MAGIC_BYTES, 8);
    hash_text(generation, h, MAGIC_BYTES + 8, hash);
    return memcmp(h, magic, MAGIC_BYTES) == 0 && memcmp(hash, h + MAGIC_BYTES + 8, HASH_BYTES) == 0 ? generation : 0;
}

/* --- the file --- */

/* The text of the record at `at`; NULL: there is no whole one. */
static const char *record_at(const struct journal *j, const unsigned char *p, size_t n, size_t *text_bytes)
{
    unsigned char hash[HASH_BYTES];
    size_t len = n < HEAD_BYTES ? 0 : (size_t)get_number(p, 4);
    if (len == 0 || len > TEXT_BYTES || len > n - HEAD_BYTES) return NULL;
    hash_text(j->generation, p + HEAD_BYTES, len, hash);
    *text_bytes = len;
    return memcmp(hash, p + 4, HASH_BYTES) == 0 ? (const char *)p + HEAD_BYTES : NULL;
}

static int read_records(struct journal *j, struct err *e)
{
    size_t at = 0, text;
    unsigned char record[JOURNAL_RECORD_BYTES];
    for (;;) {
        size_t n = j->cap_bytes - at < sizeof record ? j->cap_bytes - at : sizeof record;
        if (n == 0) break;
        if (read_all(j->fd, record, n, (off_t)(DATA_AT + at))) return fail("read", e);
        if (!record_at(j, record, n, &text)) break;
        if (buf_append(&j->records, record, HEAD_BYTES + text)) return err_set(e, ERR_MEMORY, "out of memory");
        at += HEAD_BYTES + text;
        j->n++;
    }
    j->synced_bytes = at;
    j->n_synced = j->n;
    return 0;
}

/* Blocks that were written once are overwritten in place: neither room nor a change of the file's shape is needed then. */
static int make_room(struct journal *j, off_t from, struct err *e)
{
    static const unsigned char zeros[SLICE_BYTES];
    off_t whole = DATA_AT + (off_t)j->cap_bytes;
    if (from >= whole) return 0;
    int code = posix_fallocate(j->fd, 0, whole);
    if (code && code != EOPNOTSUPP && code != EINVAL) return errno = code, fail("there is no room for it", e);
    for (off_t at = from; at < whole; at += SLICE_BYTES)
        if (write_all(j->fd, zeros, (size_t)(whole - at < SLICE_BYTES ? whole - at : SLICE_BYTES), at)) return fail("write", e);
    return fsync(j->fd) ? fail("fsync", e) : 0;
}

/* That it is there is to outlive a power cut, too. */
static int sync_folder(const char *path, struct err *e)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = fd < 0 || fsync(fd) ? fail(folder, e) : 0;
    if (fd >= 0) close(fd);
    return rc;
}

static int journal_load(struct journal *j, struct err *e)
{
    unsigned char h[2 * HEADER_BYTES] = {0};
    struct stat st;
    if (flock(j->fd, LOCK_EX | LOCK_NB)) return err_set(e, ERR_BUSY, "accounts journal: another process has it");
    if (fstat(j->fd, &st)) return fail("fstat", e);
    if ((size_t)st.st_size > DATA_AT && (size_t)st.st_size - DATA_AT > j->cap_bytes) j->cap_bytes = (size_t)st.st_size - DATA_AT;
    buf_init(&j->records, j->cap_bytes);
    int rc = make_room(j, st.st_size, e);
    if (rc) return rc;
    if (read_all(j->fd, h, sizeof h, 0)) return fail("read", e);
    uint64_t a = read_header(h), b = read_header(h + HEADER_BYTES);
    j->generation = a > b ? a : b;
    return j->generation ? read_records(j, e) : write_header(j, 1, e);
}

int journal_open(struct journal **out, const char *path, size_t n_requests, struct err *e)
{
    *out = NULL;
    if (sodium_init() < 0) return err_set(e, ERR_INTERNAL, "libsodium cannot be used");
    struct journal *j = calloc(1, sizeof *j);
    if (!j) return err_set(e, ERR_MEMORY, "out of memory");
    j->cap_bytes = (n_requests < JOURNAL_MOST_REQUESTS ? n_requests : JOURNAL_MOST_REQUESTS) * JOURNAL_RECORD_BYTES;
    j->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = j->fd < 0 ? fail(path, e) : journal_load(j, e);
    if (!rc) rc = sync_folder(path, e);
    if (rc)
        journal_close(j);
    else
        *out = j;
    return rc;
}

void journal_close(struct journal *j)
{
    if (!j) return;
    if (j->fd >= 0) close(j->fd);
    buf_free(&j->records);
    free(j);
}

/* --- records --- */

static json_t *used_to_json(const struct ledger_used *u, bool raw)
{
    json_t *counts = json_array();
    for (int i = 0; i < USAGE_METERS; i++) json_array_append_new(counts, json_integer(u->usage.count[i]));
    return json_pack("{s:i, s:I, s:i, s:o, s:I, s:i, s:b, s:I, s:s*, s:s*, s:s*}", "n", u->n, "supplier", (json_int_t)u->supplier, "end",
                     (int)u->end, "counts", counts, "present", (json_int_t)u->usage.present, "source", (int)u->usage.source, "inconsistent",
                     (int)u->usage.inconsistent, "cost", (json_int_t)u->cost_nusd, "tier", u->tier, "raw", raw ? u->raw : NULL, "reconcile",
                     u->reconcile);
}

/* Its length, which may be more than there is room for; 0: out of memory. */
static size_t op_to_text(const struct ledger_op *op, bool raw, char text[TEXT_BYTES])
{
    json_t *used = json_array();
    for (int i = 0; i < op->n_used; i++) json_array_append_new(used, used_to_json(&op->used[i], raw));
    bool whole = json_array_size(used) == (size_t)op->n_used;
    json_t *o = json_pack("{s:I, s:b, s:I, s:I, s:I, s:i, s:i, s:o, s:s*, s:s*}", "request", (json_int_t)op->request, "post",
                          op->type == LEDGER_POST, "sale", (json_int_t)op->sale_nusd, "price", (json_int_t)op->price, "markup",
                          (json_int_t)op->markup, "served", op->served, "scope",
                          op->served_scope ? (int)op->scope : -1, "used", used, "outcome", op->outcome, "reason", op->reason);
    size_t n = whole && o ? json_dumpb(o, text, TEXT_BYTES, JSON_COMPACT) : 0;
    json_decref(o);
    return n;
}

int journal_add(struct journal *j, const struct ledger_op *op, struct err *e)
{
    CHECK(op->type == LEDGER_POST || op->type == LEDGER_VOID);
    unsigned char record[JOURNAL_RECORD_BYTES];
    char *text = (char *)record + HEAD_BYTES;
    if (j->failed) return err_set(e, ERR_BROKEN, "accounts journal: the disk has failed");
    size_t n = op_to_text(op, true, text);
    if (n == 0 || n > TEXT_BYTES) n = op_to_text(op, false, text);
    if (n == 0) return err_set(e, ERR_MEMORY, "out of memory");
    if (n > TEXT_BYTES || j->records.len + HEAD_BYTES + n > j->cap_bytes) return err_set(e, ERR_LIMIT, "accounts journal: it is full");
    put_number(record, n, 4);
    hash_text(j->generation, text, n, record + 4);
    if (buf_append(&j->records, record, HEAD_BYTES + n)) return err_set(e, ERR_MEMORY, "out of memory");
    j->n++;
    return 0;
}

int journal_sync(struct journal *j, struct err *e)
{
    size_t more = j->records.len - j->synced_bytes;
    if (more == 0) return 0;
    int rc = j->failed ? err_set(e, ERR_BROKEN, "accounts journal: the disk has failed") : 0;
    if (!rc && write_all(j->fd, j->records.data + j->synced_bytes, more, (off_t)(DATA_AT + j->synced_bytes))) rc = fail("write", e);
    if (!rc && fdatasync(j->fd)) {
        j->failed = true;
        rc = fail_sync(e);
    }
    if (rc) {
        j->records.len = j->synced_bytes;
        j->n = j->n_synced;
    }
    j->synced_bytes = j->records.len;
    j->n_synced = j->n;
    return rc;
}

size_t journal_count(const struct journal *j)
{
    return j->n;
}

/* --- reading --- */

static int used_from_json(json_t *o, struct ledger_used *u)
{
    json_int_t supplier, present, cost;
    int end, source, inconsistent;
    json_t *counts;
    if (json_unpack(o, "{s:i, s:I, s:i, s:o, s:I, s:i, s:b, s:I, s?s, s?s, s?s}", "n", &u->n, "supplier", &supplier, "end", &end, "counts",
                    &counts, "present", &present, "source", &source, "inconsistent", &inconsistent, "cost", &cost, "tier", &u->tier, "raw",
                    &u->raw, "reconcile", &u->reconcile))
        return -1;
    if (end < LEDGER_SERVED || end > LEDGER_NOT_KNOWN || source < USAGE_REPORTED || source > USAGE_MIXED || cost < 0) return -1;
    u->supplier = supplier;
    u->end = (enum ledger_end)end;
    u->usage.present = (uint32_t)present & USAGE_ALL;
    u->usage.source = (enum usage_source)source;
    u->usage.inconsistent = inconsistent;
    u->cost_nusd = cost;
    for (size_t i = 0; i < USAGE_METERS; i++)
        u->usage.count[i] = json_integer_value(json_array_get(counts, i)); /* a shorter list: of an older program */
    return 0;
}

static int op_from_json(json_t *o, struct ledger_op *op)
{
    json_int_t request, sale, price, markup;
    int post, scope = -1;
    json_t *used, *each;
    size_t i;
    if (json_unpack(o, "{s:I, s:b, s:I, s:I, s:I, s:i, s?i, s:o, s?s, s?s}", "request", &request, "post", &post, "sale", &sale, "price", &price,
                    "markup", &markup, "served", &op->served, "scope", &scope, "used", &used, "outcome", &op->outcome, "reason", &op->reason))
        return -1;
    if (json_array_size(used) > LEDGER_MAX_ATTEMPTS || sale < 0) return -1;
    op->type = post ? LEDGER_POST : LEDGER_VOID;
    op->request = request;
    op->sale_nusd = sale;
    op->price = price;
    op->markup = markup;
    op->served_scope = scope >= LEDGER_LOCAL && scope <= LEDGER_OVERFLOW;
    if (op->served_scope) op->scope = (enum ledger_scope)scope;
    json_array_foreach(used, i, each)
        if (used_from_json(each, &op->used[op->n_used++])) return -1;
    return 0;
}

int journal_next(const struct journal *j, size_t *at, struct journal_entry *out, struct err *e)
{
    size_t n;
    *out = (struct journal_entry){.text = NULL};
    if (*at >= j->records.len) return 0;
    const char *text = record_at(j, (const unsigned char *)j->records.data + *at, j->records.len - *at, &n);
    CHECK(text);
    *at += HEAD_BYTES + n;
    json_t *o = out->text = json_loadb(text, n, 0, NULL);
    if (o && op_from_json(o, &out->op) == 0) return 1;
    journal_entry_free(out);
    return err_set(e, ERR_INPUT, "accounts journal: a record is of another program: %.*s", (int)(n < 300 ? n : 300), text);
}

void journal_entry_free(struct journal_entry *x)
{
    json_decref(x->text);
    x->text = NULL;
}

int journal_clear(struct journal *j, struct err *e)
{
    if (j->n == 0) return 0;
    if (j->failed) return err_set(e, ERR_BROKEN, "accounts journal: the disk has failed");
    int rc = write_header(j, j->generation + 1, e);
    if (rc) return rc;
    buf_free(&j->records);
    buf_init(&j->records, j->cap_bytes);
    j->n = j->n_synced = 0;
    j->synced_bytes = 0;
    return 0;
}
