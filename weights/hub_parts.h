/* What hub.c (a pull from beginning to end), hub_names.c (names, and which files), hub_http.c (requests) and hub_cache.c (folders,
 * locks, hashes) share; besides them only tests include it. */
#ifndef SPILLWAY_WEIGHTS_HUB_PARTS_H
#define SPILLWAY_WEIGHTS_HUB_PARTS_H

#include <curl/curl.h>
#include <gnutls/crypto.h>

#include "base/json.h"
#include "weights/hub.h"

enum {
    HUB_FILE_BYTES = 128,
    HUB_ETAG_BYTES = 65, /* SHA-256 in hex */
    HUB_COMMIT_BYTES = 41,
    HUB_MAX_FILES = 1040, /* SAFETENSORS_MAX_FILES shards and the rest */
    HUB_URL_BYTES = 8192, /* signed addresses are long */
    HUB_ORIGIN_BYTES = 512
};

/* --- hub_names.c --- */

struct hub_file {
    char name[HUB_FILE_BYTES];
    char etag[HUB_ETAG_BYTES]; /* "" until the server has told */
    uint64_t bytes, max_bytes;
    bool there; /* its blob is whole */
};

struct hub_files {
    struct hub_file files[HUB_MAX_FILES];
    size_t n;
};

/* One component of a path, letters, digits, '.', '_' and '-' only, not beginning with '.' or '-'. What may become a name in our folders
 * and part of an address. */
bool hub_name_is_plain(const char *name, size_t n);
bool hub_is_hex(const char *s, size_t n_digits); /* of exactly that length, lower case */
/* The answer to .../revision/REV: commit and the files to take, shards not yet (*sharded: the index is among them). */
MUST_USE int hub_files_choose(struct hub_files *f, const struct hub_name *name, const json_t *info, char commit[HUB_COMMIT_BYTES],
                              bool *sharded, struct err *e);
/* Adds the files that model.safetensors.index.json names; info as above, NULL: it is not asked whether they are listed. */
MUST_USE int hub_files_add_shards(struct hub_files *f, const struct hub_name *name, const json_t *index, const json_t *info,
                                  struct err *e);
/* A header's value, perhaps in quotes and perhaps weak. */
MUST_USE int hub_etag_read(char out[HUB_ETAG_BYTES], const char *header);

#define HUB_INDEX "model.safetensors.index.json"
#define HUB_SINGLE "model.safetensors"
#define HUB_CONFIG "config.json"
extern const char *const hub_required[]; /* a model is not loaded without; NULL ends */

/* --- hub_http.c --- */

struct hub_http {
    const struct hub_config *c;
    CURL *easy;
    char base[HUB_ORIGIN_BYTES];    /* the endpoint without a slash at its end */
    char sent_to[HUB_ORIGIN_BYTES]; /* origin of the last request, for messages */
};

struct hub_answer {
    long status;
    char commit[HUB_COMMIT_BYTES], linked_etag[80], etag[80], error_code[32], error_message[80];
    int64_t linked_bytes, content_bytes, retry_after_s; /* -1: not told; -2: not a number */
    int64_t range_first, range_total;                   /* of Content-Range; -1: none */
    size_t header_bytes;
};

/* What becomes of a body. begin: its headers are there (status 2xx). */
struct hub_sink {
    int (*begin)(void *ctx, const struct hub_answer *a, struct err *e);
    int (*take)(void *ctx, const char *p, size_t n, struct err *e);
    void *ctx;
};

MUST_USE int hub_http_open(struct hub_http *h, const struct hub_config *c, struct err *e);
void hub_http_close(struct hub_http *h); /* accepts a zeroed struct */
/* 0: there was an answer, of whatever status. Redirects are followed, to another origin without the token; a HEAD stops at one that
 * already tells the file's hash. -ERR_GONE: the connection; -ERR_CLOSING: c->stop. */
MUST_USE int hub_http_head(struct hub_http *h, const char *url, struct hub_answer *a, struct err *e);
/* From byte `from` on, if the file still is `validator` (NULL: not asked). */
MUST_USE int hub_http_get(struct hub_http *h, const char *url, uint64_t from, const char *validator, const struct hub_sink *sink,
                          struct hub_answer *a, struct err *e);
/* Whether a request that ended so is worth another try, having waited for it. *n_tries counts. */
bool hub_http_again(struct hub_http *h, unsigned *n_tries, int rc, const struct hub_answer *a, const struct err *why);
/* An answer that is not 2xx, in words. file NULL: the repository was asked for. */
int hub_http_error(const struct hub_http *h, const struct hub_name *name, const char *file, const struct hub_answer *a, struct err *e);

/* --- hub_cache.c --- */

struct hub_cache {
    char root[HUB_PATH_BYTES];   /* CACHE/models--OWNER--NAME */
    char locks[HUB_PATH_BYTES];  /* CACHE/.locks/models--OWNER--NAME */
};

MUST_USE int hub_cache_init(struct hub_cache *k, const char *cache_dir, const struct hub_name *name, struct err *e);
/* Makes the folders. */
MUST_USE int hub_cache_make(const struct hub_cache *k, struct err *e);
MUST_USE int hub_path(char out[HUB_PATH_BYTES], struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
MUST_USE int hub_snapshot_path(const struct hub_cache *k, const char *commit, char out[HUB_PATH_BYTES], struct err *e);
/* Whether blob, or what the snapshot has under this name, is there in that size. */
bool hub_blob_is_there(const struct hub_cache *k, const struct hub_file *f);
bool hub_link_is_there(const struct hub_cache *k, const char *commit, const struct hub_file *f);
/* Replaces what is there. */
MUST_USE int hub_link_make(const struct hub_cache *k, const char *commit, const struct hub_file *f, struct err *e);
MUST_USE int hub_ref_read(const struct hub_cache *k, const char *revision, char commit[HUB_COMMIT_BYTES], struct err *e);
MUST_USE int hub_ref_write(const struct hub_cache *k, const char *revision, const char *commit, struct err *e);
/* Waits for another process, telling c->note once. *fd is closed to unlock. */
MUST_USE int hub_lock(const struct hub_cache *k, const struct hub_config *c, const struct hub_file *f, int *fd, struct err *e);
/* -ERR_LIMIT with both numbers if there is no room. */
MUST_USE int hub_space_check(const struct hub_cache *k, uint64_t bytes, struct err *e);

/* The hash that a file's etag is. */
struct hub_digest {
    gnutls_hash_hd_t hash;
};
MUST_USE int hub_digest_begin(struct hub_digest *d, const struct hub_file *f, struct err *e);
MUST_USE int hub_digest_add(struct hub_digest *d, const void *p, size_t n, struct err *e);
bool hub_digest_end(struct hub_digest *d, const struct hub_file *f); /* whether it is the etag; frees */

#endif
