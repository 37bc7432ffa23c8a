/* bench --targets: who is asked, with which key, at what price.
 *
 *     local[:MODEL][@URL]      our own server, http://127.0.0.1:8080/v1
 *     URL[#MODEL]              any server of OpenAI's API
 *     PROVIDER:MODEL[@URL]     a row of the table of providers, by its own wire; URL in place of the row's
 *
 * A key goes only where it belongs: a provider's variable to that provider, --api-key-file and SPILLWAY_API_KEY to servers on this machine,
 * --target-key N=FILE to target N. Keys are in the hosts alone, and nothing prints a host. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/bench_parts.h"
#include "server/cli/chat_parts.h"
#include "server/cli/env.h"

enum { MAX_WORD_BYTES = 1024 };
static const char local_url[] = "http://127.0.0.1:8080/v1";

/* One target's word, taken apart in place. */
struct word {
    char text[MAX_WORD_BYTES];
    const char *provider, *model, *url; /* provider NULL: any OpenAI-compatible server; model "": not told */
    bool local;
};

/* The last "@http..." begins the URL: models may have an '@' of their own. */
static char *url_of(char *text)
{
    char *found = NULL;
    for (char *p = strchr(text, '@'); p; p = strchr(p + 1, '@'))
        if (str_starts_with(p + 1, "http://") || str_starts_with(p + 1, "https://")) found = p;
    if (found) *found++ = '\0';
    return found;
}

static int word_read(struct word *w, const char *p, size_t n, struct err *e)
{
    *w = (struct word){.model = ""};
    if (n == 0 || n >= sizeof w->text) return err_set(e, ERR_INPUT, "--targets: a target is empty or too long");
    memcpy(w->text, p, n);
    w->text[n] = '\0';
    if (str_starts_with(w->text, "http://") || str_starts_with(w->text, "https://")) {
        char *hash = strchr(w->text, '#');
        if (hash) *hash++ = '\0';
        w->url = w->text;
        w->model = hash ? hash : "";
        return 0;
    }
    w->url = url_of(w->text);
    char *colon = strchr(w->text, ':');
    if (colon) *colon++ = '\0';
    w->model = colon ? colon : "";
    w->local = strcmp(w->text, "local") == 0;
    if (w->local) {
        if (!w->url) w->url = local_url;
        return 0;
    }
    w->provider = w->text;
    if (!provider_find(w->provider))
        return err_set(e, ERR_INPUT, "--targets: '%.64s' is neither local, a URL nor a provider that is known", w->provider);
    if (!w->model[0]) return err_set(e, ERR_INPUT, "--targets: %s needs a model: %s:MODEL", w->provider, w->provider);
    return 0;
}

/* "2=VALUE" of the options that are given for one target each; NULL: none for this one. */
static const char *value_for(const struct option_list *list, size_t number)
{
    const char *found = NULL;
    for (size_t i = 0; i < list->n; i++)
        if ((size_t)strtoul(list->items[i], NULL, 10) == number) found = strchr(list->items[i], '=') + 1;
    return found;
}

static int check_numbered(const struct option_list *list, const char *flag, size_t n_targets, struct err *e)
{
    for (size_t i = 0; i < list->n; i++) {
        const char *s = list->items[i];
        size_t n = strspn(s, "0123456789");
        char digits[8] = "";
        int64_t number;
        if (n < sizeof digits) memcpy(digits, s, n);
        if (s[n] != '=' || !s[n + 1] || !str_parse_int64(digits, 1, (int64_t)n_targets, &number))
            return err_set(e, ERR_INPUT, "%s: '%.80s' does not begin with a target's number (1 to %zu) and '='", flag, s, n_targets);
    }
    return 0;
}

static int read_key_file(const char *file, char key[HOST_MAX_KEY_BYTES], struct err *e)
{
    struct buf b;
    buf_init(&b, HOST_MAX_KEY_BYTES - 1);
    int rc = buf_read_file(&b, file, e);
    while (!rc && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r')) b.data[--b.len] = '\0';
    if (!rc && (!b.len || strlen(b.data) != b.len)) rc = err_set(e, ERR_INPUT, "%s: there is no key in it", file);
    if (!rc) memcpy(key, b.data, b.len + 1);
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}

/* Of the variable of its provider, else of an earlier target of the same: the environment has a key once. */
static void provider_key(const struct bench *b, const struct provider *row, char key[HOST_MAX_KEY_BYTES])
{
    if (!row || !row->key_env || env_take_provider_key(row->key_env, key, HOST_MAX_KEY_BYTES)) return;
    for (size_t i = 0; i < b->n_targets; i++)
        if (b->targets[i].host.row == row && b->targets[i].host.n_keys) strcpy(key, b->targets[i].host.keys[0]);
}

/* Servers of OpenAI's API are told with or without /v1. */
static void make_url(char out[HOST_MAX_URL_BYTES], const struct word *w)
{
    const char *path = strchr(strstr(w->url, "://") + 3, '/');
    bool bare = !w->provider && (!path || !path[1]);
    snprintf(out, HOST_MAX_URL_BYTES, "%s%s", w->url, !bare ? "" : path ? "v1" : "/v1");
}

static bool is_loopback(const char *url)
{
    struct provider_host h;
    struct provider_host_config c = {.provider = "openai-compatible", .base_url = url};
    bool yes = !provider_host_init(&h, &c, NULL) && h.loopback;
    provider_host_free(&h);
    return yes;
}

static int make_host(struct bench *b, struct bench_target *t, const struct word *w, const char *own_key, struct err *e)
{
    char url[HOST_MAX_URL_BYTES], key[HOST_MAX_KEY_BYTES] = "";
    const char *keys[] = {key}, *key_file = value_for(&b->o->target_keys, b->n_targets + 1);
    struct provider_host_config c = {.provider = w->provider ? w->provider : "openai-compatible", .keys = keys};
    if (w->url && strlen(w->url) + 4 > sizeof url) return err_set(e, ERR_INPUT, "--targets: the URL is too long");
    if (w->url) make_url(url, w);
    if (w->url) c.base_url = url;
    if (!w->provider) c.name = w->local ? "local" : "server";
    int rc = 0;
    if (key_file)
        rc = read_key_file(key_file, key, e);
    else if (w->provider)
        provider_key(b, provider_find(w->provider), key);
    else if (is_loopback(url))
        snprintf(key, sizeof key, "%s", own_key);
    if (b->o->dry_run && !key[0]) strcpy(key, "none"); /* a plan needs none, and nothing is sent */
    c.n_keys = key[0] != '\0';
    if (!rc) rc = provider_host_init(&t->host, &c, e);
    explicit_bzero(key, sizeof key);
    if (!rc && t->host.n_keys && !t->host.tls && !t->host.loopback)
        fprintf(stderr, "spillway: the key and all that is asked of %s go over the network unencrypted: this is http, not https\n",
                t->host.base_url);
    return rc;
}

/* What may cost something has a price before anything is sent to it; a server of this machine is ours. */
static int find_price(struct bench *b, struct bench_target *t, const struct word *w, struct err *e)
{
    const char *price = value_for(&b->o->prices_given, b->n_targets + 1);
    if (price || w->provider) return bench_price_find(b, t, price, e);
    if (t->host.loopback) return 0;
    return err_set(e, ERR_INPUT, "%s: what it costs is not known: give --price %zu=IN/OUT (dollars for a million tokens; 0/0: nothing)",
                   t->host.base_url, b->n_targets + 1);
}

void bench_target_name(struct bench_target *t, const char *model)
{
    struct buf b;
    buf_init(&b, sizeof t->label - 1);
    buf_printf(&b, "%s%s%s", t->host.name, model[0] ? " " : "", model);
    snprintf(t->label, sizeof t->label, "%s", b.data ? b.data : "");
    snprintf(t->model, sizeof t->model, "%s", model);
    buf_free(&b);
}

static int add_target(struct bench *b, const char *p, size_t n, const char *own_key, struct err *e)
{
    struct word w;
    if (b->n_targets == BENCH_MAX_TARGETS) return err_set(e, ERR_INPUT, "--targets: at most %d", BENCH_MAX_TARGETS);
    struct bench_target *t = &b->targets[b->n_targets];
    int rc = word_read(&w, p, n, e);
    if (rc) return rc;
    if (strlen(w.model) >= sizeof t->model) return err_set(e, ERR_INPUT, "--targets: the model's name is too long");
    rc = make_host(b, t, &w, own_key, e);
    if (!rc) {
        bench_target_name(t, w.model);
        rc = find_price(b, t, &w, e);
    }
    if (!rc) b->n_targets++;
    if (rc) provider_host_free(&t->host);
    return rc;
}

int bench_targets_open(struct bench *b, struct err *e)
{
    char own_key[CHAT_KEY_BYTES];
    const char *list = b->o->targets ? b->o->targets : "local";
    size_t n_words = 1;
    for (const char *p = list; *p; p++) n_words += *p == ',';
    int rc = check_numbered(&b->o->prices_given, "--price", n_words, e);
    if (!rc) rc = check_numbered(&b->o->target_keys, "--target-key", n_words, e);
    if (!rc) rc = chat_api_key(b->o->api_key_file, own_key, e);
    if (rc) return rc;
    for (const char *p = list, *comma; !rc && p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        rc = add_target(b, p, comma ? (size_t)(comma - p) : strlen(p), own_key, e);
    }
    explicit_bzero(own_key, sizeof own_key);
    return rc;
}

void bench_targets_close(struct bench *b)
{
    for (size_t i = 0; i < b->n_targets; i++) {
        provider_host_free(&b->targets[i].host);
        bench_result_free(&b->targets[i].result);
    }
}
