/* TLS: see tls.h. */
#include "server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { FILE_MAX_BYTES = 1 << 20, WARN_DAYS = 14 };

/* The library would prepare itself when it is loaded, which takes a megabyte and milliseconds of every server: most serve no TLS. */
GNUTLS_SKIP_GLOBAL_INIT

struct tls_context {
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    gnutls_datum_t ticket_key;
    unsigned refs; /* its owner's and one a session */
};

struct tls_session {
    gnutls_session_t session;
    struct tls_context *context;
    bool established;
};

/* --- files --- */

/* A whole small file; the descriptor's own mode is asked, so that it is that of what was read. */
static int file_read(const char *what, const char *path, gnutls_datum_t *out, mode_t *mode, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = err_set(e, ERR_INPUT, "TLS: %s %s: %s", what, path, strerror(errno));
        if (fd >= 0) close(fd);
        return rc;
    }
    int rc = 0;
    size_t n = (size_t)st.st_size, got = 0;
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX_BYTES)
        rc = err_set(e, ERR_INPUT, "TLS: %s %s: not a file of at most %d bytes", what, path, FILE_MAX_BYTES);
    out->data = rc ? NULL : gnutls_malloc(n + 1);
    if (!rc && !out->data) rc = err_set(e, ERR_MEMORY, "out of memory");
    while (!rc && got < n) {
        ssize_t k = read(fd, out->data + got, n - got);
        if (k < 0 && errno != EINTR) rc = err_set(e, ERR_INPUT, "TLS: %s %s: %s", what, path, strerror(errno));
        if (k == 0) break;
        if (k > 0) got += (size_t)k;
    }
    out->size = (unsigned)got;
    *mode = st.st_mode;
    close(fd);
    return rc;
}

static void file_free(gnutls_datum_t *d)
{
    if (d->data) gnutls_memset(d->data, 0, d->size); /* it may be the key */
    gnutls_free(d->data);
    d->data = NULL;
}

/* ISO date of a day, UTC. */
static const char *day(time_t t, char out[16])
{
    struct tm tm;
    return gmtime_r(&t, &tm) && strftime(out, 16, "%Y-%m-%d", &tm) ? out : "?";
}

/* The server's own certificate: the first. */
static int check_days(const char *path, gnutls_x509_crt_t own, struct err *e)
{
    char text[16];
    time_t from = gnutls_x509_crt_get_activation_time(own), until = gnutls_x509_crt_get_expiration_time(own), now = (time_t)clock_wall_s();
    if (now > until) return err_set(e, ERR_INPUT, "TLS: certificate %s: expired on %s", path, day(until, text));
    if (now < from) return err_set(e, ERR_INPUT, "TLS: certificate %s: not valid before %s", path, day(from, text));
    if (until - now < WARN_DAYS * 86400) log_warn("TLS: certificate %s expires on %s", path, day(until, text));
    return 0;
}

static int check_certificate(const char *path, const gnutls_datum_t *pem, struct err *e)
{
    gnutls_x509_crt_t *chain = NULL;
    unsigned n = 0;
    int rc = gnutls_x509_crt_list_import2(&chain, &n, pem, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0 || n == 0)
        return err_set(e, ERR_INPUT, "TLS: certificate %s: %s", path, rc < 0 ? gnutls_strerror(rc) : "there is none in it");
    rc = check_days(path, chain[0], e);
    for (unsigned i = 0; i < n; i++) gnutls_x509_crt_deinit(chain[i]);
    gnutls_free(chain);
    return rc;
}

static int check_key(const char *path, const gnutls_datum_t *pem, mode_t mode, struct err *e)
{
    gnutls_x509_privkey_t key;
    int rc = gnutls_x509_privkey_init(&key);
    if (rc < 0) return err_set(e, ERR_MEMORY, "out of memory");
    rc = gnutls_x509_privkey_import2(key, pem, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN);
    gnutls_x509_privkey_deinit(key);
    if (rc < 0) return err_set(e, ERR_INPUT, "TLS: key %s: %s", path, gnutls_strerror(rc));
    if (mode & S_IRWXO) log_warn("TLS: key %s is open to every user of this machine (mode %03o); chmod o= it", path, mode & 0777);
    return 0;
}

static int load_files(gnutls_certificate_credentials_t to, const char *cert_path, const char *key_path, struct err *e)
{
    gnutls_datum_t cert = {0}, key = {0};
    mode_t mode, ignored;
    int rc = file_read("certificate", cert_path, &cert, &ignored, e);
    if (!rc) rc = check_certificate(cert_path, &cert, e);
    if (!rc) rc = file_read("key", key_path, &key, &mode, e);
    if (!rc) rc = check_key(key_path, &key, mode, e);
    int tls_rc = rc ? 0 : gnutls_certificate_set_x509_key_mem(to, &cert, &key, GNUTLS_X509_FMT_PEM);
    if (tls_rc < 0) rc = err_set(e, ERR_INPUT, "TLS: certificate %s with key %s: %s", cert_path, key_path, gnutls_strerror(tls_rc));
    file_free(&cert);
    file_free(&key);
    return rc;
}

int tls_context_new(struct tls_context **out, const char *cert_path, const char *key_path, struct err *e)
{
    struct tls_context *c = *out = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    c->refs = 1;
    int tls_rc = gnutls_global_init(); /* counts; any thread */
    if (!tls_rc) tls_rc = gnutls_certificate_allocate_credentials(&c->credentials);
    if (!tls_rc) tls_rc = gnutls_priority_init(&c->priority, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE", NULL);
    if (!tls_rc) tls_rc = gnutls_session_ticket_key_generate(&c->ticket_key);
    int rc = tls_rc ? err_set(e, ERR_INTERNAL, "TLS: %s", gnutls_strerror(tls_rc)) : load_files(c->credentials, cert_path, key_path, e);
    if (rc) {
        tls_context_free(c);
        *out = NULL;
    }
    return rc;
}

void tls_context_free(struct tls_context *c)
{
    if (!c || --c->refs) return;
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
    s->context = c;
    c->refs++;
    return s;
}

void tls_session_free(struct tls_session *s)
{
    if (!s) return;
    if (s->established) gnutls_bye(s->session, GNUTLS_SHUT_WR);
    gnutls_deinit(s->session);
    tls_context_free(s->context);
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
