/* Configuration of `serve`: command line and file together, and what is made of them for start and reload alike. Nothing here changes a running
 * server. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/log.h"
#include "server/cli/serve_parts.h"

int serve_config_new(struct serve_config **out, int argc, char **argv, int n_inherited, struct err *e)
{
    struct serve_config *c = *out = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = options_parse(COMMAND_SERVE, argc, argv, &c->o, e);
    c->o.n_inherited = n_inherited;
    if (rc) return rc;
    if (!c->o.config) return options_check_serve(&c->o, e);
    rc = options_read_config(&c->o, c->o.config, &c->file, &c->faults);
    return rc ? err_set(e, (enum err_code) - rc, "%s cannot be used", c->o.config) : 0;
}

void serve_config_free(struct serve_config *c)
{
    if (!c) return;
    config_file_free(c->file);
    free(c);
}

void serve_config_edge(const struct options *o, struct edge *edge, struct ip_nets *trusted_proxies)
{
    _Static_assert((int)OPTIONS_MAX_LIST <= (int)EDGE_MAX_NAMES && (int)OPTIONS_MAX_LIST <= (int)IP_MAX_NETS, "lists of options fit");
    edge->n_hosts = edge->n_origins = 0;
    for (size_t i = 0; i < o->allow_hosts.n; i++) edge->hosts[edge->n_hosts++] = o->allow_hosts.items[i];
    for (size_t i = 0; i < o->allow_origins.n; i++) edge->origins[edge->n_origins++] = o->allow_origins.items[i];
    trusted_proxies->n = 0;
    for (size_t i = 0; i < o->trusted_proxies.n; i++) CHECK(ip_nets_add(trusted_proxies, o->trusted_proxies.items[i], NULL) == 0);
}

void serve_config_remote(const struct options *o, struct remote_rules *r)
{
    _Static_assert((int)OPTIONS_MAX_LIST <= (int)REMOTE_MAX_HOSTS, "lists of options fit");
    *r = (struct remote_rules){.http = strcmp(o->remote_images, "http") == 0};
    for (size_t i = 0; i < o->remote_image_hosts.n; i++) CHECK(remote_rules_add_host(r, o->remote_image_hosts.items[i], NULL) == 0);
    for (size_t i = 0; i < o->remote_image_nets.n; i++) CHECK(ip_nets_add(&r->nets, o->remote_image_nets.items[i], NULL) == 0);
}

int serve_read_key(const char *path, char out[KEY_TEXT_BYTES], struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077))
        log_warn("%s: other users may read or write the API key in it (mode %04o; chmod 600)", path, (unsigned)st.st_mode & 07777);
    struct buf b;
    buf_init(&b, 4096);
    int rc = buf_read_file(&b, path, e);
    while (!rc && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r')) b.data[--b.len] = '\0';
    if (!rc && (!b.len || strlen(b.data) != b.len)) rc = err_set(e, ERR_INPUT, "%s: there is no key in it", path);
    if (!rc) snprintf(out, KEY_TEXT_BYTES, "%s", b.data);
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}

void serve_mark_key(const char *key, unsigned char mark[KEY_MARK_BYTES])
{
    crypto_generichash(mark, KEY_MARK_BYTES, (const unsigned char *)key, strlen(key), NULL, 0);
}
