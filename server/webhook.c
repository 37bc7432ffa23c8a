/* Webhook: see webhook.h. */
#include "server/webhook.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

static const char prefix[] = "whsec_";

int webhook_secret_read(const char *text, struct webhook_secret *out, struct err *e)
{
    const char *coded = text + sizeof prefix - 1, *end = NULL;
    *out = (struct webhook_secret){.n = 0};
    bool fine = str_starts_with(text, prefix) && sodium_base642bin(out->bytes, sizeof out->bytes, coded, strlen(coded), NULL, &out->n, &end,
                                                                   sodium_base64_VARIANT_ORIGINAL) == 0;
    if (fine && !*end && out->n >= WEBHOOK_MIN_SECRET) return 0;
    sodium_memzero(out, sizeof *out);
    return err_set(e, ERR_INPUT, "a webhook's secret is %s and %d to %d bytes in base64: echo %s$(openssl rand -base64 32)", prefix,
                   WEBHOOK_MIN_SECRET, WEBHOOK_MAX_SECRET, prefix);
}

void webhook_sign(const struct webhook_secret *s, const char *id, int64_t at_s, const char *body, char out[WEBHOOK_SIGNATURE_BYTES])
{
    crypto_auth_hmacsha256_state state;
    unsigned char mac[crypto_auth_hmacsha256_BYTES];
    char at[32];
    int n = snprintf(at, sizeof at, ".%lld.", (long long)at_s);
    crypto_auth_hmacsha256_init(&state, s->bytes, s->n);
    crypto_auth_hmacsha256_update(&state, (const unsigned char *)id, strlen(id));
    crypto_auth_hmacsha256_update(&state, (const unsigned char *)at, (size_t)n);
    crypto_auth_hmacsha256_update(&state, (const unsigned char *)body, strlen(body));
    crypto_auth_hmacsha256_final(&state, mac);
    memcpy(out, "v1,", 3);
    sodium_bin2base64(out + 3, WEBHOOK_SIGNATURE_BYTES - 3, mac, sizeof mac, sodium_base64_VARIANT_ORIGINAL);
}
