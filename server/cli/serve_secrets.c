/* Providers' keys: from environment variables or files, several for one provider, one variable for several providers. Those of files are in memory until
 * the hosts have copied them, and overwritten then; those of variables stay, for when the configuration is read again. */
#include <stdlib.h>
#include <string.h>

#include "server/cli/env.h"
#include "server/cli/serve_parts.h"

static int add(struct serve_secrets *s, const char *variable, const char *key, struct err *e)
{
    if (s->n == sizeof s->rows / sizeof s->rows[0]) return err_set(e, ERR_LIMIT, "providers: more than %zu keys", s->n);
    struct serve_secret *row = &s->rows[s->n];
    row->variable = variable ? strdup(variable) : NULL;
    row->key = strdup(key);
    s->n++;
    return row->key && (row->variable || !variable) ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

/* What was taken out of the environment for one before is still here. NULL: it is not set. */
static const char *of_variable(struct serve_secrets *s, const char *name, struct err *e)
{
    char key[HOST_MAX_KEY_BYTES];
    for (size_t i = 0; i < s->n; i++)
        if (s->rows[i].variable && strcmp(s->rows[i].variable, name) == 0) return s->rows[i].key;
    e->code = ERR_NONE;
    if (s->closed || !env_take_provider_key(name, key, sizeof key)) return NULL;
    int rc = add(s, name, key, e);
    explicit_bzero(key, sizeof key);
    return rc ? NULL : s->rows[s->n - 1].key;
}

static const char *of_file(struct serve_secrets *s, const char *path, struct err *e)
{
    char key[HOST_MAX_KEY_BYTES];
    int rc = serve_read_key(path, key, e);
    if (!rc) rc = add(s, NULL, key, e);
    explicit_bzero(key, sizeof key);
    return rc ? NULL : s->rows[s->n - 1].key;
}

/* Of "A, B". */
static int read_list(struct serve_secrets *s, const struct options *o, const struct option_provider *p, const char *list, const char *keys[HOST_MAX_KEYS],
                     size_t *n, struct err *e)
{
    char word[PROVIDER_KEY_PATH_BYTES];
    for (const char *at = list; *at;) {
        at += strspn(at, ", ");
        size_t length = strcspn(at, ",");
        while (length && at[length - 1] == ' ') length--;
        if (!length) break;
        if (*n == HOST_MAX_KEYS) return err_set(e, ERR_INPUT, "%s:%u: provider %s: more than %d keys", o->config, p->line, p->provider, HOST_MAX_KEYS);
        if (length >= sizeof word) return err_set(e, ERR_INPUT, "%s:%u: provider %s: a name is too long", o->config, p->line, p->provider);
        memcpy(word, at, length);
        word[length] = '\0';
        at += strcspn(at, ",");
        keys[*n] = p->key_file ? of_file(s, word, e) : of_variable(s, word, e);
        if (!keys[*n] && e->code == ERR_NONE)
            err_set(e, ERR_INPUT, "%s:%u: provider %s: %s is not set: its key comes from there, or from key_file", o->config, p->line, p->provider, word);
        if (!keys[*n]) return -(int)e->code;
        for (size_t i = 0; i < *n; i++)
            if (strcmp(keys[i], keys[*n]) == 0) return err_set(e, ERR_INPUT, "%s:%u: provider %s: one key is there twice", o->config, p->line, p->provider);
        ++*n;
    }
    return 0;
}

int serve_secrets_read(struct serve_secrets *s, const struct options *o, const struct option_provider *p, const char *usual, const char *keys[HOST_MAX_KEYS],
                       size_t *n, struct err *e)
{
    const char *list = p->key_file ? p->key_file : p->key_env ? p->key_env : usual;
    *n = 0;
    return list ? read_list(s, o, p, list, keys, n, e) : 0;
}

static void forget(struct serve_secret *row)
{
    if (row->key) explicit_bzero(row->key, strlen(row->key));
    free(row->key);
    free(row->variable);
}

void serve_secrets_keep(struct serve_secrets *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->rows[i].variable)
            s->rows[n++] = s->rows[i];
        else
            forget(&s->rows[i]);
    }
    s->n = n;
    s->closed = true;
}

void serve_secrets_free(struct serve_secrets *s)
{
    for (size_t i = 0; i < s->n; i++) forget(&s->rows[i]);
    s->n = 0;
}
