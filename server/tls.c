/* TLS: see tls.h. */
#include "server/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>

struct tls_context {
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    gnutls_datum_t ticket_key;
};

struct tls_session {
    gnutls_session_t session;
    bool established;
};

int tls_context_new(struct tls_context **out, const char *cert_path, const char *key_path, struct err *e)
{
    struct tls_context *c = *out = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = gnutls_certificate_allocate_credentials(&c->credentials);
    if (!rc) rc = gnutls_priority_init(&c->priority, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE", NULL);
    if (!rc) rc = gnutls_session_ticket_key_generate(&c->ticket_key);
    if (!rc) rc = gnutls_certificate_set_x509_key_file(c->credentials, cert_path, key_path, GNUTLS_X509_FMT_PEM);
    if (rc >= 0) return 0;
    rc = err_set(e, ERR_INPUT, "TLS: certificate %s with key %s: %s", cert_path, key_path, gnutls_strerror(rc));
    tls_context_free(c);
    *out = NULL;
    return rc;
}

void tls_context_free(struct tls_context *c)
{
    if (!c) return;
    if (c->credentials) gnutls_certificate_free_credentials(c->credentials);
    if (c->priority) gnutls_priority_deinit(c->priority);
    gnutls_free(c->ticket_key.data);
    free(c);
}

struct tls_session *tls_session_new(struct tls_context *c, int fd)
{
    static const gnutls_datum_t http1 = {(unsigned char *)"http/1.1", 8};
    struct tls_session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (gnutls_init(&s->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) {
        free(s);
        return NULL;
    }
    if (gnutls_priority_set(s->session, c->priority) < 0 ||
        gnutls_credentials_set(s->session, GNUTLS_CRD_CERTIFICATE, c->credentials) < 0 ||
        gnutls_session_ticket_enable_server(s->session, &c->ticket_key) < 0 || gnutls_alpn_set_protocols(s->session, &http1, 1, 0) < 0) {
        gnutls_deinit(s->session);
        free(s);
        return NULL;
    }
    gnutls_transport_set_int(s->session, fd);
    return s;
}

void tls_session_free(struct tls_session *s)
{
    if (!s) return;
    if (s->established) gnutls_bye(s->session, GNUTLS_SHUT_WR);
    gnutls_deinit(s->session);
    free(s);
}

static ssize_t result(ssize_t rc)
{
    if (rc >= 0) return rc;
    return rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED ? -EAGAIN : rc == GNUTLS_E_PREMATURE_TERMINATION ? 0 : -EIO;
}

int tls_handshake(struct tls_session *s)
{
    int rc;
    do rc = gnutls_handshake(s->session);
    while (rc < 0 && rc != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(rc));
    s->established = rc == 0;
    if (rc < 0 && rc != GNUTLS_E_AGAIN) gnutls_alert_send_appropriate(s->session, rc); /* so that the client can say why */
    return (int)result(rc);
}

bool tls_wants_write(const struct tls_session *s)
{
    return gnutls_record_get_direction(s->session) == 1;
}

ssize_t tls_recv(struct tls_session *s, void *p, size_t n)
{
    ssize_t rc;
    do rc = gnutls_record_recv(s->session, p, n);
    while (rc == GNUTLS_E_INTERRUPTED);
    /* A client that asks for new keys in TLS 1.2 is refused: nobody needs it and it costs us more than him. */
    return result(rc);
}

ssize_t tls_send(struct tls_session *s, const void *p, size_t n)
{
    ssize_t rc;
    do rc = gnutls_record_send(s->session, p, n);
    while (rc == GNUTLS_E_INTERRUPTED);
    return result(rc);
}
