/* Ids for clients: see id_text.h. */
#include "server/accounts/id_text.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { ROUNDS = 4 };

static uint32_t mix(const unsigned char key[ID_KEY_BYTES], int round, uint32_t half)
{
    unsigned char in[5] = {(unsigned char)round, (unsigned char)half, (unsigned char)(half >> 8), (unsigned char)(half >> 16),
                           (unsigned char)(half >> 24)};
    unsigned char out[crypto_shorthash_BYTES];
    _Static_assert(crypto_shorthash_KEYBYTES == ID_KEY_BYTES, "SipHash takes 16 bytes");
    crypto_shorthash(out, in, sizeof in, key);
    return (uint32_t)out[0] | (uint32_t)out[1] << 8 | (uint32_t)out[2] << 16 | (uint32_t)out[3] << 24;
}

void id_text_write(const unsigned char key[ID_KEY_BYTES], int64_t id, char out[ID_TEXT_BYTES])
{
    uint32_t left = (uint32_t)((uint64_t)id >> 32), right = (uint32_t)id;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t next = left ^ mix(key, round, right);
        left = right;
        right = next;
    }
    snprintf(out, ID_TEXT_BYTES, "%08x%08x", left, right);
}

bool id_text_read(const unsigned char key[ID_KEY_BYTES], const char *text, int64_t *id)
{
    unsigned left, right;
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16 || sscanf(text, "%8x%8x", &left, &right) != 2) return false;
    for (int round = ROUNDS; round-- > 0;) {
        uint32_t before = right ^ mix(key, round, left);
        right = left;
        left = before;
    }
    *id = (int64_t)((uint64_t)left << 32 | right);
    return true;
}
