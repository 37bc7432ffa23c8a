/* Answer box: what an idempotency key and a request's body become in the store, and how an answer is sealed there.
 *
 * Hashes are BLAKE2b-256, keyed, so that nobody who has the store alone can try out keys or bodies. An answer is sealed with
 * XChaCha20-Poly1305 (libsodium) under a key made of the data directory's secret and the client's idempotency key, of which the store has the hash
 * only: it is opened by who sends that key again. It is bound to its account, request and body. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ANSWER_BOX_H
#define SPILLWAY_SERVER_ACCOUNTS_ANSWER_BOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { ANSWER_SECRET_BYTES = 32, ANSWER_HASH_BYTES = 32, ANSWER_EXTRA_BYTES = 40 /* that sealing adds */ };

void answer_key_hash(const unsigned char secret[ANSWER_SECRET_BYTES], const char *key, unsigned char out[ANSWER_HASH_BYTES]);
void answer_body_hash(const unsigned char secret[ANSWER_SECRET_BYTES], const void *body, size_t n, unsigned char out[ANSWER_HASH_BYTES]);

struct answer_box {
    const unsigned char *secret, *body_hash; /* ANSWER_SECRET_BYTES, ANSWER_HASH_BYTES */
    const char *key;
    int64_t account, request;
};
/* out: n + ANSWER_EXTRA_BYTES. */
void answer_seal(const struct answer_box *b, const void *p, size_t n, unsigned char *out);
/* out: n - ANSWER_EXTRA_BYTES. -ERR_INPUT: too short, changed, or another's. */
MUST_USE int answer_open(const struct answer_box *b, const unsigned char *sealed, size_t n, void *out, struct err *e);

#endif
