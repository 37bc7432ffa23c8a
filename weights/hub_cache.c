/* The hub's cache: folders, links, refs, locks and hashes, in the layout of huggingface_hub (hub.h). What others must never see half
 * done is made under another name and renamed. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/str.h"
#include "weights/hub_parts.h"

enum { LOCK_LOOK_MS = 100 };

int hub_path(char out[HUB_PATH_BYTES], struct err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, HUB_PATH_BYTES, fmt, ap);
    va_end(ap);
    return n >= 0 && n < HUB_PATH_BYTES ? 0 : err_set(e, ERR_LIMIT, "the hub cache's paths are too long: choose a shorter HF_HUB_CACHE");
}

int hub_cache_init(struct hub_cache *k, const char *cache_dir, const struct hub_name *name, struct err *e)
{
    const char *slash = strchr(name->repo, '/');
    int n_owner = (int)(slash - name->repo);
    int rc = hub_path(k->root, e, "%s/models--%.*s--%s", cache_dir, n_owner, name->repo, slash + 1);
    if (!rc) rc = hub_path(k->locks, e, "%s/.locks/models--%.*s--%s", cache_dir, n_owner, name->repo, slash + 1);
    return rc;
}

/* mkdir -p of what stands before the last slash. */
static int make_parents(const char *path, struct err *e)
{
    char part[HUB_PATH_BYTES];
    int rc = hub_path(part, e, "%s", path);
    for (char *slash = part; !rc && (slash = strchr(slash + 1, '/'));) {
        *slash = '\0';
        if (mkdir(part, 0777) && errno != EEXIST) rc = err_set(e, ERR_IO, "%s: %s", part, strerror(errno));
        *slash = '/';
    }
    return rc;
}

int hub_cache_make(const struct hub_cache *k, struct err *e)
{
    char path[HUB_PATH_BYTES];
    static const char *const below[] = {"blobs", "refs", "snapshots"};
    int rc = hub_path(path, e, "%s/", k->locks);
    if (!rc) rc = make_parents(path, e);
    for (size_t i = 0; !rc && i < sizeof below / sizeof *below; i++) {
        rc = hub_path(path, e, "%s/%s/", k->root, below[i]);
        if (!rc) rc = make_parents(path, e);
    }
    return rc;
}

int hub_snapshot_path(const struct hub_cache *k, const char *commit, char out[HUB_PATH_BYTES], struct err *e)
{
    return hub_path(out, e, "%s/snapshots/%s", k->root, commit);
}

/* --- blobs and links --- */

static bool is_file_of(const char *path, uint64_t bytes)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

bool hub_blob_is_there(const struct hub_cache *k, const struct hub_file *f)
{
    char path[HUB_PATH_BYTES];
    return hub_path(path, NULL, "%s/blobs/%s", k->root, f->etag) == 0 && is_file_of(path, f->bytes);
}

bool hub_link_is_there(const struct hub_cache *k, const char *commit, const struct hub_file *f)
{
    char path[HUB_PATH_BYTES];
    return hub_path(path, NULL, "%s/snapshots/%s/%s", k->root, commit, f->name) == 0 && is_file_of(path, f->bytes);
}

int hub_link_make(const struct hub_cache *k, const char *commit, const struct hub_file *f, struct err *e)
{
    char path[HUB_PATH_BYTES], made[HUB_PATH_BYTES], target[HUB_ETAG_BYTES + 16];
    int rc = hub_path(path, e, "%s/snapshots/%s/%s", k->root, commit, f->name);
    if (!rc) rc = hub_path(made, e, "%s/snapshots/%s/.%s.%ld", k->root, commit, f->name, (long)getpid());
    if (!rc) rc = make_parents(path, e);
    if (rc) return rc;
    snprintf(target, sizeof target, "../../blobs/%s", f->etag);
    unlink(made); /* of a process of our number that was killed */
    if (symlink(target, made)) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (rename(made, path) == 0) return 0;
    rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    unlink(made);
    return rc;
}

/* --- refs --- */

int hub_ref_read(const struct hub_cache *k, const char *revision, char commit[HUB_COMMIT_BYTES], struct err *e)
{
    char path[HUB_PATH_BYTES];
    struct buf b;
    buf_init(&b, 256);
    int rc = hub_path(path, e, "%s/refs/%s", k->root, revision);
    if (!rc) rc = buf_read_file(&b, path, e);
    while (!rc && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r')) b.data[--b.len] = '\0';
    if (!rc && (b.len != HUB_COMMIT_BYTES - 1 || !hub_is_hex(b.data, HUB_COMMIT_BYTES - 1)))
        rc = err_set(e, ERR_INPUT, "%s: is not a commit", path);
    if (!rc) memcpy(commit, b.data, HUB_COMMIT_BYTES);
    buf_free(&b);
    return rc;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -ERR_IO;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

int hub_ref_write(const struct hub_cache *k, const char *revision, const char *commit, struct err *e)
{
    char path[HUB_PATH_BYTES], made[HUB_PATH_BYTES], there[HUB_COMMIT_BYTES];
    if (strcmp(revision, commit) == 0) return 0;
    if (hub_ref_read(k, revision, there, NULL) == 0 && strcmp(there, commit) == 0) return 0;
    int rc = hub_path(path, e, "%s/refs/%s", k->root, revision);
    if (!rc) rc = hub_path(made, e, "%s/refs/.ref.%ld", k->root, (long)getpid());
    if (!rc) rc = make_parents(path, e);
    if (rc) return rc;
    int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    rc = fd < 0 ? -ERR_IO : write_all(fd, commit, HUB_COMMIT_BYTES - 1);
    if (fd >= 0 && close(fd)) rc = -ERR_IO;
    if (!rc && rename(made, path)) rc = -ERR_IO;
    if (!rc) return 0;
    rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    unlink(made);
    return rc;
}

/* --- locks and room --- */

/* huggingface_hub takes the lock's file away when it is done: what we hold may have no name any more, and then protects nothing. */
static bool is_named(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

int hub_lock(const struct hub_cache *k, const struct hub_config *c, const struct hub_file *f, int *fd, struct err *e)
{
    char path[HUB_PATH_BYTES], line[HUB_FILE_BYTES + 64];
    int rc = hub_path(path, e, "%s/%s.lock", k->locks, f->etag);
    *fd = -1;
    for (bool told = false; !rc;) {
        *fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (*fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        int refused = flock(*fd, LOCK_EX | LOCK_NB) ? errno : 0;
        if (!refused && is_named(*fd)) return 0;
        close(*fd);
        *fd = -1;
        if (refused && refused != EWOULDBLOCK && refused != EINTR) return err_set(e, ERR_IO, "%s: %s", path, strerror(refused));
        snprintf(line, sizeof line, "%s: another process downloads it; waiting", f->name);
        if (refused && !told && c->note) c->note(c->ctx, line);
        told |= refused != 0;
        if (c->stop && c->stop(c->ctx)) return err_set(e, ERR_CLOSING, "stopped");
        if (refused) poll(NULL, 0, LOCK_LOOK_MS);
    }
    return rc;
}

int hub_space_check(const struct hub_cache *k, uint64_t bytes, struct err *e)
{
    struct statvfs fs;
    if (bytes == 0 || statvfs(k->root, &fs)) return 0; /* what cannot be told is found out by writing */
    uint64_t free_bytes;
    if (__builtin_mul_overflow((uint64_t)fs.f_bavail, (uint64_t)fs.f_frsize, &free_bytes) || bytes <= free_bytes) return 0;
    return err_set(e, ERR_LIMIT, "%s: %.1f MB are needed and %.1f MB free on this disk", k->root, (double)bytes / 1e6,
                   (double)free_bytes / 1e6);
}

/* --- hashes --- */

int hub_digest_begin(struct hub_digest *d, const struct hub_file *f, struct err *e)
{
    bool git = strlen(f->etag) == 40;
    char head[32];
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)f->bytes);
    d->hash = NULL;
    if (gnutls_global_init() || gnutls_hash_init(&d->hash, git ? GNUTLS_DIG_SHA1 : GNUTLS_DIG_SHA256)) /* prepared once; a server without TLS has not (tls.c) */
        return err_set(e, ERR_UNSUPPORTED, "%s: GnuTLS computes no %s here", f->name, git ? "SHA-1" : "SHA-256");
    return git ? hub_digest_add(d, head, (size_t)n + 1, e) : 0; /* git hashes "blob SIZE\0" before the bytes */
}

int hub_digest_add(struct hub_digest *d, const void *p, size_t n, struct err *e)
{
    return gnutls_hash(d->hash, p, n) ? err_set(e, ERR_INTERNAL, "GnuTLS cannot hash") : 0;
}

bool hub_digest_end(struct hub_digest *d, const struct hub_file *f)
{
    unsigned char sum[64];
    char hex[HUB_ETAG_BYTES] = "";
    if (!d->hash) return false;
    gnutls_hash_deinit(d->hash, sum);
    d->hash = NULL;
    size_t n = strlen(f->etag) / 2;
    for (size_t i = 0; i < n; i++) snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    return strcmp(hex, f->etag) == 0;
}
