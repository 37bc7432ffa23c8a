/* Answer box: see answer_box.h. Sealed: a random nonce, then what the cipher gives. */
#include "server/accounts/answer_box.h"

#include <sodium.h>
#include <string.h>

enum { NONCE_BYTES = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, TAG_BYTES = crypto_aead_xchacha20poly1305_ietf_ABYTES };
_Static_assert(ANSWER_EXTRA_BYTES == NONCE_BYTES + TAG_BYTES, "a nonce and a tag");
_Static_assert(crypto_aead_xchacha20poly1305_ietf_KEYBYTES == ANSWER_HASH_BYTES, "a hash is a key");

/* what: which of the uses of the secret, one character. */
static void hash(const unsigned char secret[ANSWER_SECRET_BYTES], char what, const void *p, size_t n, unsigned char out[ANSWER_HASH_BYTES])
{
    crypto_generichash_state s;
    crypto_generichash_init(&s, secret, ANSWER_SECRET_BYTES, ANSWER_HASH_BYTES);
    crypto_generichash_update(&s, (const unsigned char *)&what, 1);
    crypto_generichash_update(&s, p, n);
    crypto_generichash_final(&s, out, ANSWER_HASH_BYTES);
}

void answer_key_hash(const unsigned char secret[ANSWER_SECRET_BYTES], const char *key, unsigned char out[ANSWER_HASH_BYTES])
{
    hash(secret, 'k', key, strlen(key), out);
}

void answer_body_hash(const unsigned char secret[ANSWER_SECRET_BYTES], const void *body, size_t n, unsigned char out[ANSWER_HASH_BYTES])
{
    hash(secret, 'b', n ? body : "", n, out);
}

/* What the answer is bound to. */
struct bond {
    unsigned char bytes[16 + ANSWER_HASH_BYTES];
};

static struct bond bond_of(const struct answer_box *b)
{
    struct bond r;
    for (int i = 0; i < 8; i++) {
        r.bytes[i] = (unsigned char)((uint64_t)b->account >> 8 * i);
        r.bytes[8 + i] = (unsigned char)((uint64_t)b->request >> 8 * i);
    }
    memcpy(r.bytes + 16, b->body_hash, ANSWER_HASH_BYTES);
    return r;
}

void answer_seal(const struct answer_box *b, const void *p, size_t n, unsigned char *out)
{
    unsigned char key[ANSWER_HASH_BYTES];
    const struct bond bond = bond_of(b);
    hash(b->secret, 's', b->key, strlen(b->key), key);
    randombytes_buf(out, NONCE_BYTES);
    crypto_aead_xchacha20poly1305_ietf_encrypt(out + NONCE_BYTES, NULL, p, n, bond.bytes, sizeof bond.bytes, NULL, out, key);
    sodium_memzero(key, sizeof key);
}

int answer_open(const struct answer_box *b, const unsigned char *sealed, size_t n, void *out, struct err *e)
{
    unsigned char key[ANSWER_HASH_BYTES];
    const struct bond bond = bond_of(b);
    if (n < ANSWER_EXTRA_BYTES) return err_set(e, ERR_INPUT, "a kept answer is too short");
    hash(b->secret, 's', b->key, strlen(b->key), key);
    int bad = crypto_aead_xchacha20poly1305_ietf_decrypt(out, NULL, NULL, sealed + NONCE_BYTES, n - NONCE_BYTES, bond.bytes, sizeof bond.bytes,
                                                         sealed, key);
    sodium_memzero(key, sizeof key);
    return bad ? err_set(e, ERR_INPUT, "a kept answer was changed, or is another request's") : 0;
}
