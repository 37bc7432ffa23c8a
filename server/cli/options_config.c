/* Options and the configuration file: see options_config.h. The keys are made from the tables of options and limits. */
#include "server/cli/options_config.h"

#include <inttypes.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "server/accounts/db.h"
#include "server/cli/options_table.h"

enum { STORE_SHOWN_BYTES = 1024, MAX_LIMITS = 64, MAX_KEYS = OPTIONS_MAX_ROWS + 4, YAML_BYTES = 1 << 20 };

static const struct config_key model_keys[] = {{.name = "path", .kind = CONFIG_TEXT},
                                               {.name = "name", .kind = CONFIG_TEXT},
                                               {.name = "public_name", .kind = CONFIG_TEXT},
                                               {.name = "stand_ins", .kind = CONFIG_TEXT},
                                               {.name = "takes_over", .kind = CONFIG_TEXT}};
static const size_t model_at_list[] = {offsetof(struct options, args), offsetof(struct options, arg_names), offsetof(struct options, arg_public_names),
                                       offsetof(struct options, arg_stand_ins), offsetof(struct options, arg_takes_over)};
enum { N_MODEL_KEYS = sizeof model_keys / sizeof model_keys[0] };

/* What key k says of model i. */
static const char **model_field(struct options *o, size_t k, size_t i)
{
    return (const char **)((char *)o + model_at_list[k]) + i;
}

static const struct config_key alias_keys[] = {
    {.name = "name", .kind = CONFIG_TEXT}, {.name = "routes", .kind = CONFIG_TEXT}, {.name = "policy", .kind = CONFIG_TEXT}};
enum { N_ALIAS_KEYS = sizeof alias_keys / sizeof alias_keys[0] };

static const char **alias_field(struct option_alias *a, size_t k)
{
    const char **const fields[N_ALIAS_KEYS] = {&a->name, &a->routes, &a->policy};
    return fields[k];
}

/* The keys of `providers`, and where each goes. */
static const struct config_key provider_keys[] = {{.name = "provider", .kind = CONFIG_TEXT},    {.name = "name", .kind = CONFIG_TEXT},
                                                  {.name = "base_url", .kind = CONFIG_TEXT},    {.name = "region", .kind = CONFIG_TEXT},
                                                  {.name = "resource", .kind = CONFIG_TEXT},    {.name = "api_version", .kind = CONFIG_TEXT},
                                                  {.name = "key_env", .kind = CONFIG_TEXT},     {.name = "key_file", .kind = CONFIG_TEXT},
                                                  {.name = "header", .kind = CONFIG_TEXT},      {.name = "prices", .kind = CONFIG_TEXT},
                                                  {.name = "zero_retention", .kind = CONFIG_TEXT}, {.name = "auth", .kind = CONFIG_TEXT},
                                                  {.name = "unverified", .kind = CONFIG_TEXT}};
#define PROVIDER_AT(x) offsetof(struct option_provider, x)
static const size_t provider_at_field[] = {PROVIDER_AT(provider), PROVIDER_AT(name),    PROVIDER_AT(base_url), PROVIDER_AT(region), PROVIDER_AT(resource),
                                           PROVIDER_AT(api_version), PROVIDER_AT(key_env), PROVIDER_AT(key_file), PROVIDER_AT(header), PROVIDER_AT(prices),
                                           PROVIDER_AT(zero_retention), PROVIDER_AT(auth), PROVIDER_AT(unverified)};
enum { N_PROVIDER_KEYS = sizeof provider_keys / sizeof provider_keys[0] };

static const char **provider_field(struct option_provider *p, size_t i)
{
    return (const char **)((char *)p + provider_at_field[i]);
}

/* Made once, before any thread asks. rows[i], limits[i]: what a key stands for. */
static struct {
    char names[OPTIONS_MAX_ROWS + MAX_LIMITS][OPTIONS_KEY_BYTES];
    struct config_key keys[MAX_KEYS], limits[MAX_LIMITS];
    const struct option_row *rows[MAX_KEYS];
    size_t n_keys;
    const struct config_key *models_key, *providers_key, *aliases_key, *limits_key;
} table;

static void table_make(void)
{
    if (table.n_keys) return;
    CHECK(n_limit_rows <= MAX_LIMITS && n_option_rows <= OPTIONS_MAX_ROWS);
    size_t n = 0, n_names = 0;
    table.models_key = &table.keys[n];
    table.keys[n++] = (struct config_key){.name = "models", .kind = CONFIG_GROUPS, .keys = model_keys, .n_keys = N_MODEL_KEYS};
    table.providers_key = &table.keys[n];
    table.keys[n++] = (struct config_key){.name = "providers", .kind = CONFIG_GROUPS, .keys = provider_keys, .n_keys = N_PROVIDER_KEYS};
    table.aliases_key = &table.keys[n];
    table.keys[n++] = (struct config_key){.name = "aliases", .kind = CONFIG_GROUPS, .keys = alias_keys, .n_keys = N_ALIAS_KEYS};
    for (size_t i = 0; i < n_option_rows; i++) {
        if (!option_is_key(&option_rows[i])) continue;
        table.rows[n] = &option_rows[i];
        table.keys[n++] = (struct config_key){.name = option_key(option_rows[i].flag, table.names[n_names++]),
                                              .kind = option_is_list(&option_rows[i]) ? CONFIG_TEXTS : CONFIG_TEXT};
    }
    for (size_t i = 0; i < n_limit_rows; i++)
        table.limits[i] = (struct config_key){.name = option_key(limit_rows[i].flag, table.names[n_names++]), .kind = CONFIG_TEXT};
    table.limits_key = &table.keys[n];
    table.keys[n++] = (struct config_key){.name = "limits", .kind = CONFIG_GROUP, .keys = table.limits, .n_keys = n_limit_rows};
    table.n_keys = n;
}

/* --- reading --- */

struct reading {
    struct options *o, *scratch; /* scratch: values that the command line has set are checked all the same */
    uint64_t limits_given;       /* by the command line */
    bool models_given;
    struct config_faults *faults;
};

/* Messages of options begin with the flag; here the key is told. */
static void tell(struct reading *r, const struct config_value *v, const char *flag, const struct err *e)
{
    const char *text = str_starts_with(e->msg, flag) ? e->msg + strlen(flag) : e->msg;
    if (str_starts_with(text, ": ")) text += 2;
    config_fault_add(r->faults, v->line, v->column, "%s: %s", v->key->name, text);
}

static int flag_set(const struct option_row *row, struct options *o, const char *text, struct err *e)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(text, yes[i]) == 0) return option_set(row, o, NULL, e);
        if (strcmp(text, no[i]) == 0) return 0;
    }
    return err_set(e, ERR_INPUT, "%s: '%s' is neither true nor false", row->flag, text);
}

static void read_option(struct reading *r, const struct config_value *v)
{
    const struct option_row *row = table.rows[v->key - table.keys];
    struct options *to = r->o->given[row - option_rows] ? r->scratch : r->o;
    struct err e = {0};
    int rc = row->kind == OPTION_FLAG ? flag_set(row, to, v->text, &e) : option_set(row, to, v->text, &e);
    if (rc) tell(r, v, row->flag, &e);
}

static void read_limit(struct reading *r, const struct config_value *v)
{
    size_t i = (size_t)(v->key - table.limits);
    struct options *to = r->limits_given >> i & 1 ? r->scratch : r->o;
    struct err e = {0};
    if (limit_set(&to->limits, &limit_rows[i], v->text, &e)) tell(r, v, limit_rows[i].flag, &e);
}

static void read_model(struct reading *r, const struct config_value *v)
{
    if (v->i_group >= OPTIONS_MAX_ARGS) return; /* told by read_models */
    struct options *to = r->models_given ? r->scratch : r->o;
    *model_field(to, (size_t)(v->key - model_keys), v->i_group) = v->text;
}

static void read_provider(struct reading *r, const struct config_value *v)
{
    if (v->i_group >= OPTIONS_MAX_PROVIDERS) return; /* told by read_providers */
    *provider_field(&r->o->providers[v->i_group], (size_t)(v->key - provider_keys)) = v->text;
}

static void read_alias(struct reading *r, const struct config_value *v)
{
    if (v->i_group >= OPTIONS_MAX_ALIASES) return; /* told by read_aliases */
    *alias_field(&r->o->aliases[v->i_group], (size_t)(v->key - alias_keys)) = v->text;
}

static void read_value(void *ctx, const struct config_value *v)
{
    if (v->group == table.models_key)
        read_model(ctx, v);
    else if (v->group == table.providers_key)
        read_provider(ctx, v);
    else if (v->group == table.aliases_key)
        read_alias(ctx, v);
    else if (v->group == table.limits_key)
        read_limit(ctx, v);
    else
        read_option(ctx, v);
}

static void read_models(struct reading *r, const struct config_file *file)
{
    struct options *to = r->models_given ? r->scratch : r->o;
    size_t n = config_file_count(file, table.models_key);
    unsigned line, column;
    for (size_t i = 0; i < n && i <= OPTIONS_MAX_ARGS; i++) {
        config_file_place(file, table.models_key, i, &line, &column);
        if (i == OPTIONS_MAX_ARGS)
            config_fault_add(r->faults, line, column, "models: more than %d", OPTIONS_MAX_ARGS);
        else if (!to->args[i])
            config_fault_add(r->faults, line, column, "models: this one has no path");
    }
    to->n_args = (int)(n < OPTIONS_MAX_ARGS ? n : OPTIONS_MAX_ARGS);
}

static void read_providers(struct reading *r, const struct config_file *file)
{
    size_t n = config_file_count(file, table.providers_key);
    unsigned line, column;
    for (size_t i = 0; i < n && i <= OPTIONS_MAX_PROVIDERS; i++) {
        config_file_place(file, table.providers_key, i, &line, &column);
        if (i == OPTIONS_MAX_PROVIDERS)
            config_fault_add(r->faults, line, column, "providers: more than %d", OPTIONS_MAX_PROVIDERS);
        else if (!r->o->providers[i].provider)
            config_fault_add(r->faults, line, column, "providers: this one has no provider");
        else if (r->o->providers[i].key_env && r->o->providers[i].key_file)
            config_fault_add(r->faults, line, column, "providers: this one has both key_env and key_file");
        else
            r->o->providers[i].line = line;
    }
    r->o->n_providers = (int)(n < OPTIONS_MAX_PROVIDERS ? n : OPTIONS_MAX_PROVIDERS);
}

static void read_aliases(struct reading *r, const struct config_file *file)
{
    size_t n = config_file_count(file, table.aliases_key);
    unsigned line, column;
    for (size_t i = 0; i < n && i <= OPTIONS_MAX_ALIASES; i++) {
        config_file_place(file, table.aliases_key, i, &line, &column);
        if (i == OPTIONS_MAX_ALIASES)
            config_fault_add(r->faults, line, column, "aliases: more than %d", OPTIONS_MAX_ALIASES);
        else if (!r->o->aliases[i].name || !r->o->aliases[i].routes)
            config_fault_add(r->faults, line, column, "aliases: this one has no %s", r->o->aliases[i].name ? "routes" : "name");
        else
            r->o->aliases[i].line = line;
    }
    r->o->n_aliases = (int)(n < OPTIONS_MAX_ALIASES ? n : OPTIONS_MAX_ALIASES);
}

int options_read_config(struct options *o, const char *path, struct config_file **file, struct config_faults *faults)
{
    table_make();
    struct options scratch;
    struct reading r = {.o = o, .scratch = &scratch, .limits_given = o->limits.given, .models_given = o->n_args > 0, .faults = faults};
    options_init(COMMAND_SERVE, &scratch);
    int rc = config_file_open(file, path, table.keys, table.n_keys, faults);
    if (rc == -ERR_MEMORY) {
        config_fault_add(faults, 0, 0, "out of memory");
        return rc;
    }
    if (*file) {
        config_file_each(*file, read_value, &r);
        read_models(&r, *file);
        read_providers(&r, *file);
        read_aliases(&r, *file);
    }
    struct err e = {0};
    if (faults->n == 0 && options_check_serve(o, &e)) config_fault_add(faults, 0, 0, "%s", e.msg);
    config_faults_sort(faults);
    return faults->n ? -ERR_INPUT : 0;
}

void options_print_faults(const struct config_faults *faults, const char *path, FILE *f)
{
    char line[CONFIG_FAULT_BYTES + 4200];
    for (size_t i = 0; i < faults->n; i++) fprintf(f, "spillway: %s\n", config_fault_print(faults, i, path, line, sizeof line));
    if (faults->more) fprintf(f, "spillway: %s: and %zu more\n", path, faults->more);
}

/* --- printing --- */

/* Without quotes where YAML cannot take it for anything else. */
static bool is_plain(const char *s)
{
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "~"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(s, words[i]) == 0) return false;
    const char *first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._";
    const char *rest = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+@%";
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (!strchr(i ? rest : first, s[i]) && !(s[i] == ':' && i && i + 1 < n)) return false;
    return n > 0 && strcmp(s, "...") != 0;
}

/* A double-quoted scalar. Only what a reader must not see raw is escaped. */
static int put_text(struct buf *b, const char *s, const char *key, struct err *e)
{
    size_t n = strlen(s);
    if (is_plain(s)) return buf_puts(b, s);
    buf_putc(b, '"');
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len <= 0) return err_set(e, ERR_INPUT, "%s: is not UTF-8, so no YAML file can say it", key);
        if (cp == '"' || cp == '\\')
            buf_printf(b, "\\%c", (char)cp);
        else if (cp < ' ')
            return err_set(e, ERR_INPUT, "%s: has control characters in it, which the configuration file does not take", key);
        else if ((cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029 || cp == 0xfeff || (cp & 0xfffe) == 0xfffe)
            buf_printf(b, "\\U%08" PRIX32, cp);
        else
            buf_append(b, s + i, (size_t)len);
        i += (size_t)len;
    }
    return buf_putc(b, '"');
}

static int put_list(struct buf *b, const struct option_list *list, const char *key, struct err *e)
{
    int rc = list->n ? 0 : buf_puts(b, " []");
    for (size_t i = 0; i < list->n && !rc; i++) {
        buf_puts(b, "\n  - ");
        rc = put_text(b, list->items[i], key, e);
    }
    return rc ? rc : buf_putc(b, '\n');
}

static int put_option(struct buf *b, const struct option_row *row, const struct options *o, struct err *e)
{
    char key[OPTIONS_KEY_BYTES];
    const void *field = (const char *)o + row->field;
    option_key(row->flag, key);
    if (option_is_list(row)) {
        buf_printf(b, "%s:", key);
        return put_list(b, field, key, e);
    }
    const char *text = NULL;
    char shown[STORE_SHOWN_BYTES];
    if (row->kind == OPTION_STORE && *(const char *const *)field) text = db_show_where(*(const char *const *)field, shown, sizeof shown);
    if (row->kind == OPTION_TEXT || row->kind == OPTION_CHOICE || row->kind == OPTION_ADDRESS || row->kind == OPTION_GPUS) text = *(const char *const *)field;
    if (text) {
        buf_printf(b, "%s: ", key);
        int rc = put_text(b, text, key, e);
        return rc ? rc : buf_putc(b, '\n');
    }
    if (row->kind == OPTION_FLAG) return buf_printf(b, "%s: %s\n", key, *(const bool *)field ? "true" : "false");
    if (row->kind == OPTION_INT) return buf_printf(b, "%s: %" PRId64 "\n", key, *(const int64_t *)field);
    return buf_printf(b, "# %s: (not set)\n", key);
}

static int put_models(struct buf *b, const struct options *o, struct err *e)
{
    if (o->no_model) return 0;
    int rc = buf_puts(b, o->n_args ? "models:\n" : "models:\n  - path: demo\n");
    const char *own = o->n_args <= 1 ? o->name : NULL;
    if (!o->n_args && own) {
        buf_puts(b, "    name: ");
        rc = put_text(b, own, "name", e);
        buf_putc(b, '\n');
    }
    for (int i = 0; i < o->n_args && !rc; i++) {
        const char *name = own ? own : o->arg_names[i];
        buf_puts(b, "  - path: ");
        rc = put_text(b, o->args[i], "path", e);
        if (!rc && name) {
            buf_puts(b, "\n    name: ");
            rc = put_text(b, name, "name", e);
        }
        for (size_t k = 2; k < N_MODEL_KEYS && !rc; k++) {
            const char *text = *model_field((struct options *)(uintptr_t)o, k, (size_t)i);
            if (!text) continue;
            buf_printf(b, "\n    %s: ", model_keys[k].name);
            rc = put_text(b, text, model_keys[k].name, e);
        }
        buf_putc(b, '\n');
    }
    return rc;
}

static int put_providers(struct buf *b, const struct options *o, struct err *e)
{
    int rc = o->n_providers ? buf_puts(b, "providers:\n") : 0;
    for (int i = 0; i < o->n_providers && !rc; i++) {
        struct option_provider p = o->providers[i];
        for (size_t k = 0; k < N_PROVIDER_KEYS && !rc; k++) {
            const char *text = *provider_field(&p, k);
            if (!text) continue;
            buf_printf(b, "%s%s: ", k ? "    " : "  - ", provider_keys[k].name);
            rc = put_text(b, text, provider_keys[k].name, e);
            buf_putc(b, '\n');
        }
    }
    return rc;
}

static int put_aliases(struct buf *b, const struct options *o, struct err *e)
{
    int rc = o->n_aliases ? buf_puts(b, "aliases:\n") : 0;
    for (int i = 0; i < o->n_aliases && !rc; i++) {
        struct option_alias a = o->aliases[i];
        for (size_t k = 0; k < N_ALIAS_KEYS && !rc; k++) {
            const char *text = *alias_field(&a, k);
            if (!text) continue;
            buf_printf(b, "%s%s: ", k ? "    " : "  - ", alias_keys[k].name);
            rc = put_text(b, text, alias_keys[k].name, e);
            buf_putc(b, '\n');
        }
    }
    return rc;
}

/* What is a limit only when it is given stays open when it was not. */
static void put_limits(struct buf *b, const struct options *o)
{
    char key[OPTIONS_KEY_BYTES], value[32];
    buf_puts(b, "limits:\n");
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *row = &limit_rows[i];
        bool open = row->field == offsetof(struct limits, connections_per_ip) && !limit_given(&o->limits, &o->limits.connections_per_ip);
        buf_printf(b, "  %s%s: %s%s\n", open ? "# " : "", option_key(row->flag, key),
                   limit_print(row->unit, limit_get(&o->limits, row), value),
                   open ? "  (not for loopback and trusted proxies unless it is given)" : "");
    }
}

int options_print_config(const struct options *o, FILE *f, struct err *e)
{
    struct buf b;
    buf_init(&b, YAML_BYTES);
    int rc = put_models(&b, o, e);
    if (!rc) rc = put_providers(&b, o, e);
    if (!rc) rc = put_aliases(&b, o, e);
    for (size_t i = 0; i < n_option_rows && !rc; i++)
        if (option_is_key(&option_rows[i])) rc = put_option(&b, &option_rows[i], o, e);
    if (!rc) put_limits(&b, o);
    if (!rc && b.failed) rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) fputs(b.data, f);
    buf_free(&b);
    return rc;
}

/* --- comparing --- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_list(const struct option_list *a, const struct option_list *b)
{
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->items[i], b->items[i]) != 0) return false;
    return true;
}

static bool same_value(const struct option_row *row, const struct options *a, const struct options *b)
{
    const void *x = (const char *)a + row->field, *y = (const char *)b + row->field;
    if (option_is_list(row)) return same_list(x, y);
    if (row->kind == OPTION_FLAG) return *(const bool *)x == *(const bool *)y;
    if (row->kind == OPTION_INT) return *(const int64_t *)x == *(const int64_t *)y;
    return same_text(*(const char *const *)x, *(const char *const *)y);
}

/* from, to: keys of a model. */
static bool same_keys(const struct options *a, const struct options *b, size_t from, size_t to)
{
    if (a->n_args != b->n_args) return false;
    for (int i = 0; i < a->n_args; i++)
        for (size_t k = from; k < to; k++)
            if (!same_text(*model_field((struct options *)(uintptr_t)a, k, (size_t)i), *model_field((struct options *)(uintptr_t)b, k, (size_t)i))) return false;
    return true;
}

enum { N_MODEL_NAMES = 2 /* path and name: the rest is read again */ };

bool options_same_models(const struct options *a, const struct options *b)
{
    return same_keys(a, b, 0, N_MODEL_NAMES);
}

static bool same_providers(const struct options *a, const struct options *b)
{
    if (a->n_providers != b->n_providers) return false;
    for (int i = 0; i < a->n_providers; i++) {
        struct option_provider x = a->providers[i], y = b->providers[i];
        for (size_t k = 0; k < N_PROVIDER_KEYS; k++)
            if (!same_text(*provider_field(&x, k), *provider_field(&y, k))) return false;
    }
    return true;
}

static bool same_aliases(const struct options *a, const struct options *b)
{
    if (a->n_aliases != b->n_aliases) return false;
    for (int i = 0; i < a->n_aliases; i++) {
        struct option_alias x = a->aliases[i], y = b->aliases[i];
        for (size_t k = 0; k < N_ALIAS_KEYS; k++)
            if (!same_text(*alias_field(&x, k), *alias_field(&y, k))) return false;
    }
    return true;
}

/* Given or not matters for max_connections_per_ip. */
static bool same_limit(size_t i, const struct options *a, const struct options *b)
{
    bool per_ip = limit_rows[i].field == offsetof(struct limits, connections_per_ip);
    if (per_ip && ((a->limits.given ^ b->limits.given) >> i & 1)) return false;
    return limit_get(&a->limits, &limit_rows[i]) == limit_get(&b->limits, &limit_rows[i]);
}

void options_differences(const struct options *now, const struct options *start, const struct options *wanted,
                         void (*fn)(void *ctx, const char *key, bool reloads), void *ctx)
{
    char key[OPTIONS_KEY_BYTES];
    if (!options_same_models(start, wanted)) fn(ctx, "models", false);
    else if (!same_keys(now, wanted, N_MODEL_NAMES, N_MODEL_KEYS)) fn(ctx, "models", true);
    if (!same_providers(now, wanted)) fn(ctx, "providers", true);
    if (!same_aliases(now, wanted)) fn(ctx, "aliases", true);
    for (size_t i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        bool reloads = (row->commands & MARK_RELOADS) != 0;
        if (option_is_key(row) && !same_value(row, reloads ? now : start, wanted)) fn(ctx, option_key(row->flag, key), reloads);
    }
    for (size_t i = 0; i < n_limit_rows; i++)
        if (!same_limit(i, now, wanted)) fn(ctx, option_key(limit_rows[i].flag, key), true);
}
