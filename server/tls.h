/* TLS: GnuTLS behind calls that look like those of a socket. TLS 1.2 and 1.3, server side, certificates from PEM files. Non-blocking: -EAGAIN
 * means "wait for the socket"; every other negative value is the end of the connection. */
#ifndef SPILLWAY_SERVER_TLS_H
#define SPILLWAY_SERVER_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

struct tls_context;
struct tls_session;

/* cert: the certificate and its chain; key: its private key, without a passphrase. -ERR_INPUT names the file: it cannot be read or understood, the
 * two do not belong together, the certificate has expired or is not valid yet. Warns of a key that others may read, and of the last days. */
MUST_USE int tls_context_new(struct tls_context **out, const char *cert_path, const char *key_path, struct err *e);
/* Accepts NULL. Sessions that are still there keep what they need of it until they are gone. */
void tls_context_free(struct tls_context *c);

struct tls_session *tls_session_new(struct tls_context *c, int fd); /* NULL: no memory */
void tls_session_free(struct tls_session *s);                       /* says goodbye if that does not block; accepts NULL */
/* 0: done. */
int tls_handshake(struct tls_session *s);
bool tls_wants_write(const struct tls_session *s);                /* which side the last -EAGAIN waits for */
ssize_t tls_recv(struct tls_session *s, void *p, size_t n);       /* 0: the end */
ssize_t tls_send(struct tls_session *s, const void *p, size_t n); /* after -EAGAIN again with the same bytes, or more of them */

#endif
