/* A pull from beginning to end: what the revision is, which files, what of them is there, room for the rest, downloads, links, ref. See
 * hub.h. */
#include "weights/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "weights/hub_parts.h"

enum { READ_BYTES = 1 << 20, MAX_TRIES = 1000, PROGRESS_BYTES = 1 << 20 };

static const struct json_limits list_limits = {.max_bytes = 32 << 20, .max_values = 1000000, .max_depth = 64, .max_key_bytes = 1024};

struct pull {
    const struct hub_config *c;
    const struct hub_name *name;
    struct hub_http http;
    struct hub_cache cache;
    struct hub_files files;
    char commit[HUB_COMMIT_BYTES];
    uint64_t done_bytes, total_bytes;
};

static void tell_progress(const struct pull *p)
{
    if (p->c->progress) p->c->progress(p->c->ctx, p->done_bytes, p->total_bytes);
}

/* --- the list --- */

static int take_text(void *ctx, const char *p, size_t n, struct err *e)
{
    return buf_append(ctx, p, n) ? err_set(e, ERR_LIMIT, "the server's list of files is too long") : 0;
}

static void escape_revision(const char *revision, char out[3 * HUB_REVISION_BYTES])
{
    char *to = out;
    for (const char *s = revision; *s; s++) {
        if (hub_name_is_plain((char[2]){*s, '\0'}, 1) || *s == '.' || *s == '-')
            *to++ = *s;
        else
            to += sprintf(to, "%%%02X", (unsigned char)*s);
    }
    *to = '\0';
}

static int get_info(struct pull *p, json_t **info, struct err *e)
{
    char url[HUB_URL_BYTES], revision[3 * HUB_REVISION_BYTES];
    struct buf text;
    struct hub_answer a;
    unsigned n_tries = 0;
    int rc;
    escape_revision(p->name->revision, revision);
    snprintf(url, sizeof url, "%s/api/models/%s/revision/%s", p->http.base, p->name->repo, revision);
    buf_init(&text, list_limits.max_bytes);
    const struct hub_sink sink = {.take = take_text, .ctx = &text};
    do {
        buf_clear(&text);
        rc = hub_http_get(&p->http, url, 0, NULL, &sink, &a, e);
    } while (hub_http_again(&p->http, &n_tries, rc, &a, e));
    if (!rc && a.status != 200) rc = hub_http_error(&p->http, p->name, NULL, &a, e);
    if (!rc) rc = json_read(text.data ? text.data : "", text.len, &list_limits, "the server's list of files", info, e);
    buf_free(&text);
    return rc;
}

/* --- what a file is --- */

static int file_url(const struct pull *p, const struct hub_file *f, char url[HUB_URL_BYTES])
{
    return snprintf(url, HUB_URL_BYTES, "%s/%s/resolve/%s/%s", p->http.base, p->name->repo, p->commit, f->name);
}

static int take_metadata(const struct pull *p, struct hub_file *f, const struct hub_answer *a, struct err *e)
{
    const char *repo = p->name->repo;
    int64_t bytes = a->linked_bytes >= 0 ? a->linked_bytes : a->status == 200 ? a->content_bytes : -1;
    if (a->commit[0] && strcmp(a->commit, p->commit) != 0)
        return err_set(e, ERR_INPUT, "%s: %s: the server tells of commit %s, not %s", repo, f->name, a->commit, p->commit);
    if (hub_etag_read(f->etag, a->linked_etag[0] ? a->linked_etag : a->etag))
        return err_set(e, ERR_INPUT, "%s: %s: the server's ETag is neither a SHA-256 nor git's SHA-1: what comes could not be checked",
                       repo, f->name);
    if (bytes < 0) return err_set(e, ERR_INPUT, "%s: %s: the server does not tell its size", repo, f->name);
    f->bytes = (uint64_t)bytes;
    if (f->bytes > f->max_bytes)
        return err_set(e, ERR_LIMIT, "%s: %s: of %.1f MB, the limit is %.1f MB", repo, f->name, (double)f->bytes / 1e6,
                       (double)f->max_bytes / 1e6);
    f->there = hub_link_is_there(&p->cache, p->commit, f) || hub_blob_is_there(&p->cache, f);
    return 0;
}

static int get_metadata(struct pull *p, struct hub_file *f, struct err *e)
{
    char url[HUB_URL_BYTES];
    struct hub_answer a;
    unsigned n_tries = 0;
    int rc;
    file_url(p, f, url);
    do {
        rc = hub_http_head(&p->http, url, &a, e);
    } while (hub_http_again(&p->http, &n_tries, rc, &a, e));
    bool told = !rc && (a.status == 200 || (a.status >= 300 && a.status <= 399 && a.linked_etag[0]));
    if (!rc && !told) rc = hub_http_error(&p->http, p->name, f->name, &a, e);
    return rc ? rc : take_metadata(p, f, &a, e);
}

/* --- one download --- */

struct download {
    struct pull *p;
    struct hub_file *f;
    struct hub_digest digest;
    int fd;
    char path[HUB_PATH_BYTES];
    uint64_t have_bytes;
    bool resumed;        /* some of it is of another process */
    char validator[80];  /* a strong ETag of who serves the bytes; "": not known */
    uint64_t told_bytes; /* of have_bytes, in p->done_bytes */
};

static void tell_have(struct download *d)
{
    d->p->done_bytes += d->have_bytes - d->told_bytes; /* wraps where bytes were given up */
    d->told_bytes = d->have_bytes;
    tell_progress(d->p);
}

static int start_anew(struct download *d, struct err *e)
{
    hub_digest_end(&d->digest, d->f);
    d->have_bytes = 0;
    d->resumed = false;
    if (ftruncate(d->fd, 0) || lseek(d->fd, 0, SEEK_SET)) return err_set(e, ERR_IO, "%s: %s", d->path, strerror(errno));
    return hub_digest_begin(&d->digest, d->f, e);
}

/* What another process has left is hashed, so that at the end all of it has been. */
static int take_what_is_there(struct download *d, struct err *e)
{
    struct stat st;
    if (fstat(d->fd, &st) || !S_ISREG(st.st_mode)) return err_set(e, ERR_IO, "%s: is not a file", d->path);
    int rc = hub_digest_begin(&d->digest, d->f, e);
    if (rc || st.st_size == 0) return rc;
    if ((uint64_t)st.st_size > d->f->bytes) return start_anew(d, e);
    char *bytes = malloc(READ_BYTES);
    if (!bytes) return err_set(e, ERR_MEMORY, "out of memory");
    d->resumed = true;
    for (ssize_t n; !rc && (n = read(d->fd, bytes, READ_BYTES)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        rc = n < 0 ? err_set(e, ERR_IO, "%s: %s", d->path, strerror(errno)) : hub_digest_add(&d->digest, bytes, (size_t)n, e);
        if (n > 0) d->have_bytes += (uint64_t)n;
        if (!rc && d->p->c->stop && d->p->c->stop(d->p->c->ctx)) rc = err_set(e, ERR_CLOSING, "stopped");
    }
    free(bytes);
    tell_have(d);
    return rc;
}

static int begin_bytes(void *ctx, const struct hub_answer *a, struct err *e)
{
    struct download *d = ctx;
    uint64_t rest = d->f->bytes - d->have_bytes;
    snprintf(d->validator, sizeof d->validator, "%s", a->etag[0] == '"' ? a->etag : "");
    if (a->status == 206) {
        if (a->range_first < 0 || (uint64_t)a->range_first != d->have_bytes ||
            (a->range_total >= 0 && (uint64_t)a->range_total != d->f->bytes))
            return err_set(e, ERR_INPUT, "%s: %s: the server sends another range than was asked for", d->p->name->repo, d->f->name);
    } else if (a->status == 200) {
        if (d->have_bytes) {
            int rc = start_anew(d, e);
            if (rc) return rc;
        }
        rest = d->f->bytes;
    } else
        return err_set(e, ERR_INPUT, "%s: %s: the server answers %ld", d->p->name->repo, d->f->name, a->status);
    if (a->content_bytes >= 0 && (uint64_t)a->content_bytes != rest)
        return err_set(e, ERR_INPUT, "%s: %s: the server sends %lld bytes where %llu are left", d->p->name->repo, d->f->name,
                       (long long)a->content_bytes, (unsigned long long)rest);
    return 0;
}

static int take_bytes(void *ctx, const char *p, size_t n, struct err *e)
{
    struct download *d = ctx;
    if (n > d->f->bytes - d->have_bytes)
        return err_set(e, ERR_INPUT, "%s: %s: the server sends more than the %llu bytes that it told", d->p->name->repo, d->f->name,
                       (unsigned long long)d->f->bytes);
    int rc = hub_digest_add(&d->digest, p, n, e);
    for (size_t at = 0; !rc && at < n;) {
        ssize_t done = write(d->fd, p + at, n - at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return err_set(e, ERR_IO, "%s: %s", d->path, done < 0 ? strerror(errno) : "nothing is written");
        at += (size_t)done;
        d->have_bytes += (uint64_t)done;
    }
    if (!rc) tell_have(d);
    return rc;
}

/* Until all bytes are there. A connection that is cut costs a try only if it has brought nothing worth while, so a bad line gets there;
 * a server that cuts for ever does not hold us for ever. */
static int fetch_bytes(struct download *d, struct err *e)
{
    char url[HUB_URL_BYTES];
    struct hub_answer a;
    const struct hub_sink sink = {.begin = begin_bytes, .take = take_bytes, .ctx = d};
    struct hub_http *h = &d->p->http;
    unsigned n_tries = 0;
    file_url(d->p, d->f, url);
    for (int i = 0; d->have_bytes < d->f->bytes; i++) {
        uint64_t before = d->have_bytes;
        int rc = hub_http_get(h, url, d->have_bytes, d->validator[0] ? d->validator : NULL, &sink, &a, e);
        if (!rc && d->have_bytes == d->f->bytes) break;
        if (!rc && a.status == 416 && before) {
            rc = start_anew(d, e);
            if (rc) return rc;
            continue;
        }
        if (!rc && a.status >= 200 && a.status <= 299) rc = err_set(e, ERR_GONE, "%s: the connection ended early", h->sent_to);
        if (d->have_bytes >= before + PROGRESS_BYTES && i < MAX_TRIES) n_tries = 0;
        if (hub_http_again(h, &n_tries, rc, &a, e)) continue;
        return rc == -ERR_GONE ? err_prefix(e, "%s: %s", d->p->name->repo, d->f->name)
               : rc            ? rc
                               : hub_http_error(h, d->p->name, d->f->name, &a, e);
    }
    return 0;
}

/* The blob, if it is whole and right. What is not right is deleted. */
static int finish(struct download *d, struct err *e)
{
    char blob[HUB_PATH_BYTES];
    bool right = hub_digest_end(&d->digest, d->f);
    int rc = hub_path(blob, e, "%s/blobs/%s", d->p->cache.root, d->f->etag);
    if (!right) {
        unlink(d->path);
        return err_set(e, ERR_INPUT, "%s: %s: the bytes that came are not what they should be (%s %s does not fit); they are deleted",
                       d->p->name->repo, d->f->name, strlen(d->f->etag) == 40 ? "git's SHA-1" : "SHA-256", d->f->etag);
    }
    if (!rc && fdatasync(d->fd)) rc = err_set(e, ERR_IO, "%s: %s", d->path, strerror(errno));
    if (!rc && rename(d->path, blob)) rc = err_set(e, ERR_IO, "%s: %s", blob, strerror(errno));
    return rc;
}

static int download_locked(struct pull *p, struct hub_file *f, struct err *e)
{
    struct download d = {.p = p, .f = f};
    int rc = hub_path(d.path, e, "%s/blobs/%s.incomplete", p->cache.root, f->etag);
    if (rc) return rc;
    d.fd = open(d.path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (d.fd < 0) return err_set(e, ERR_IO, "%s: %s", d.path, strerror(errno));
    rc = take_what_is_there(&d, e);
    if (!rc) rc = fetch_bytes(&d, e);
    bool once_more = !rc && d.resumed; /* what was there may have been damaged: that alone is no fault of the server's */
    if (!rc) rc = finish(&d, e);
    if (rc == -ERR_INPUT && once_more) {
        close(d.fd);
        if (p->c->note) p->c->note(p->c->ctx, "what was left of an earlier download is damaged; beginning anew");
        d.fd = open(d.path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
        rc = d.fd < 0 ? err_set(e, ERR_IO, "%s: %s", d.path, strerror(errno)) : start_anew(&d, e);
        if (!rc) rc = fetch_bytes(&d, e);
        if (!rc) rc = finish(&d, e);
    }
    hub_digest_end(&d.digest, f);
    if (d.fd >= 0) close(d.fd);
    return rc;
}

/* Blob and link. */
static int take_file(struct pull *p, struct hub_file *f, struct err *e)
{
    if (hub_link_is_there(&p->cache, p->commit, f)) return 0;
    int fd, rc = hub_lock(&p->cache, p->c, f, &fd, e);
    if (rc) return rc;
    bool was_there = f->there;
    f->there = hub_blob_is_there(&p->cache, f); /* another process may have been faster */
    if (f->there && !was_there) p->done_bytes += f->bytes;
    if (!f->there) rc = download_locked(p, f, e);
    if (!rc) f->there = true;
    if (!rc) rc = hub_link_make(&p->cache, p->commit, f, e);
    close(fd);
    return rc;
}

/* --- all of it --- */

static int read_index(const struct pull *p, struct hub_files *f, const json_t *info, struct err *e)
{
    char path[HUB_PATH_BYTES];
    json_t *index = NULL;
    int rc = hub_path(path, e, "%s/snapshots/%s/" HUB_INDEX, p->cache.root, p->commit);
    if (!rc) rc = json_read_file(path, &json_limits_file, &index, e);
    if (!rc) rc = hub_files_add_shards(f, p->name, index, info, e);
    json_decref(index);
    return rc;
}

/* What is still to come must have room; what an earlier download has brought takes none. */
static int count_bytes(struct pull *p, struct err *e)
{
    uint64_t to_come = 0;
    for (size_t i = 0; i < p->files.n; i++) {
        const struct hub_file *f = &p->files.files[i];
        char path[HUB_PATH_BYTES];
        struct stat st;
        p->total_bytes += f->bytes; /* HUB_MAX_FILES * 64 TiB fits */
        if (f->there) p->done_bytes += f->bytes;
        if (f->there || hub_path(path, e, "%s/blobs/%s.incomplete", p->cache.root, f->etag)) continue;
        uint64_t have = stat(path, &st) == 0 && (uint64_t)st.st_size <= f->bytes ? (uint64_t)st.st_size : 0;
        to_come += f->bytes - have;
    }
    return hub_space_check(&p->cache, to_come, e);
}

static int pull_files(struct pull *p, struct err *e)
{
    json_t *info = NULL;
    bool sharded = false;
    size_t n_known = 0;
    int rc = get_info(p, &info, e);
    if (!rc) rc = hub_files_choose(&p->files, p->name, info, p->commit, &sharded, e);
    if (!rc && sharded) { /* it names the others, and comes first */
        rc = get_metadata(p, &p->files.files[0], e);
        if (!rc) rc = take_file(p, &p->files.files[0], e);
        if (!rc) rc = read_index(p, &p->files, info, e);
        n_known = 1;
        p->done_bytes = 0; /* counted below */
    }
    json_decref(info);
    for (size_t i = n_known; i < p->files.n && !rc; i++) rc = get_metadata(p, &p->files.files[i], e);
    if (!rc) rc = count_bytes(p, e);
    const struct hub_file *config = NULL;
    for (size_t i = 0; i < p->files.n && !rc; i++) {
        tell_progress(p);
        struct hub_file *f = &p->files.files[i];
        if (strcmp(f->name, HUB_CONFIG) == 0)
            config = f;
        else
            rc = take_file(p, f, e);
    }
    if (!rc) rc = take_file(p, (struct hub_file *)config, e); /* last: with it the snapshot is whole */
    if (!rc) tell_progress(p);
    return rc ? rc : hub_ref_write(&p->cache, p->name->revision, p->commit, e);
}

int hub_pull(const struct hub_config *c, const struct hub_name *name, char path[HUB_PATH_BYTES], struct err *e)
{
    struct pull *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "out of memory");
    p->c = c;
    p->name = name;
    int rc = hub_http_open(&p->http, c, e);
    if (!rc) rc = hub_cache_init(&p->cache, c->cache_dir, name, e);
    if (!rc) rc = hub_cache_make(&p->cache, e);
    if (!rc) rc = pull_files(p, e);
    if (!rc) rc = hub_snapshot_path(&p->cache, p->commit, path, e);
    hub_http_close(&p->http);
    free(p);
    return rc;
}

/* --- without the network --- */

static bool is_in(const char *dir, const char *file)
{
    char path[HUB_PATH_BYTES];
    struct stat st;
    return hub_path(path, NULL, "%s/%s", dir, file) == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int check_shards(const char *dir, const struct hub_name *name, struct err *e)
{
    char path[HUB_PATH_BYTES];
    json_t *index = NULL;
    struct hub_files *f = calloc(1, sizeof *f);
    int rc = f ? hub_path(path, e, "%s/" HUB_INDEX, dir) : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) rc = json_read_file(path, &json_limits_file, &index, e);
    if (!rc) rc = hub_files_add_shards(f, name, index, NULL, e);
    for (size_t i = 0; !rc && i < f->n; i++)
        if (!is_in(dir, f->files[i].name)) rc = err_set(e, ERR_NOT_FOUND, "%s: %s is not in %s", name->repo, f->files[i].name, dir);
    json_decref(index);
    free(f);
    return rc;
}

int hub_cached(const char *cache_dir, const struct hub_name *name, char path[HUB_PATH_BYTES], struct err *e)
{
    struct hub_cache k;
    char commit[HUB_COMMIT_BYTES];
    int rc = hub_cache_init(&k, cache_dir, name, e);
    if (rc) return rc;
    if (hub_is_hex(name->revision, HUB_COMMIT_BYTES - 1))
        strcpy(commit, name->revision);
    else if (hub_ref_read(&k, name->revision, commit, NULL))
        return err_set(e, ERR_NOT_FOUND, "%s@%s: is not in the cache %s", name->repo, name->revision, cache_dir);
    rc = hub_snapshot_path(&k, commit, path, e);
    for (const char *const *need = hub_required; *need && !rc; need++)
        if (!is_in(path, *need)) rc = err_set(e, ERR_NOT_FOUND, "%s@%s: %s is not in %s", name->repo, name->revision, *need, path);
    if (rc || is_in(path, HUB_SINGLE)) return rc;
    if (is_in(path, HUB_INDEX)) return check_shards(path, name, e);
    return err_set(e, ERR_NOT_FOUND, "%s@%s: " HUB_SINGLE " is not in %s", name->repo, name->revision, path);
}
