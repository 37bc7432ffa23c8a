/* Hub: models from the Hugging Face Hub (or whatever speaks its protocol), kept in the cache that huggingface_hub and its friends keep,
 * so that what either has downloaded is not downloaded again:
 *
 *     CACHE/models--OWNER--NAME/refs/REVISION             the commit that a branch or tag stood at, as 40 hex digits
 *     CACHE/models--OWNER--NAME/blobs/ETAG                the bytes; ETAG is their SHA-256 (LFS) or git's SHA-1 of them
 *     CACHE/models--OWNER--NAME/blobs/ETAG.incomplete     as far as a download has come
 *     CACHE/models--OWNER--NAME/snapshots/COMMIT/FILE     -> ../../blobs/ETAG
 *     CACHE/.locks/models--OWNER--NAME/ETAG.lock          flock while ETAG is made
 *
 * Only what a model is loaded from is fetched (hub_names.c has the list); of weights only safetensors: pickle files run code when they
 * are opened. Nothing is linked, and no ref is written, before its bytes have the hash that names them; config.json is linked last, so a
 * snapshot that has it is whole. What the server says is hostile: names are taken from our own list, everything is bounded, the token
 * goes to the endpoint's origin only, and over anything but https only if the endpoint is http itself. A download that was cut goes on
 * where it was, also in a later process. Nothing here reads the environment. */
#ifndef SPILLWAY_WEIGHTS_HUB_H
#define SPILLWAY_WEIGHTS_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { HUB_REPO_BYTES = 97, HUB_REVISION_BYTES = 256, HUB_PATH_BYTES = 4096 };

struct hub_name {
    char repo[HUB_REPO_BYTES]; /* "owner/name" */
    char revision[HUB_REVISION_BYTES];
};

/* "owner/name[@revision]"; no revision: main. -ERR_INPUT says what is wrong with it. */
MUST_USE int hub_name_parse(const char *text, struct hub_name *out, struct err *e);
bool hub_name_fits(const char *text);

struct hub_config {
    const char *cache_dir;  /* made if it is not there */
    const char *endpoint;   /* "https://huggingface.co" */
    const char *token;      /* NULL: none */
    const char *ca_file;    /* authorities to trust in place of the system's; NULL: those */
    const char *user_agent; /* "spillway/0.1.0" */
    unsigned retries;       /* in a row that bring nothing, of one request */
    void *ctx;              /* of the functions, each of which may be NULL */
    /* Of all files together, those that were there before included; often. */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    /* A line for people: what is waited for or tried again. */
    void (*note)(void *ctx, const char *text);
    /* true: give up now, -ERR_CLOSING; what has come is kept. Asked at least once a second. */
    bool (*stop)(void *ctx);
};

/* The snapshot of what the revision stands for now, downloaded as far as it is not there: its folder in path. Errors name repository and
 * file; -ERR_NOT_FOUND, -ERR_DENIED (401, 403, gated), -ERR_UNSUPPORTED (no safetensors), -ERR_LIMIT (too large, disk), -ERR_GONE (the
 * network), -ERR_INPUT (what the server says or sends is wrong), -ERR_IO, -ERR_CLOSING. */
MUST_USE int hub_pull(const struct hub_config *c, const struct hub_name *name, char path[HUB_PATH_BYTES], struct err *e);
/* The snapshot in the cache, without the network. -ERR_NOT_FOUND says what is missing. */
MUST_USE int hub_cached(const char *cache_dir, const struct hub_name *name, char path[HUB_PATH_BYTES], struct err *e);

#endif
