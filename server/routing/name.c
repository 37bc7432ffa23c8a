/* Names: see name.h. */
#include "server/routing/name.h"

#include <stdio.h>
#include <string.h>

enum { NEAREST = 3, NEAREST_BYTES = 96, NEAREST_EDITS = 4, NEAREST_WORK = 200 * 1000 };

const char *const route_policy_names[ROUTE_POLICIES] = {[ROUTE_LOCAL_FIRST] = "local-first",
                                                        [ROUTE_CHEAPEST] = "cheapest",
                                                        [ROUTE_FASTEST] = "fastest",
                                                        [ROUTE_PRIORITY] = "priority",
                                                        [ROUTE_WEIGHTED] = "weighted"};

/* A part of a name. */
struct span {
    const char *p;
    size_t n;
};

/* One entry on its way into a request's list. */
struct parse {
    const struct name_catalogue *cat;
    struct name_wanted w; /* its own routes only */
    size_t first;         /* of the routes that a suffix is about */
    enum route_policy policy;
    bool in_alias; /* a target of one: no alias again, and stand-ins are the alias's business */
    bool full;
};

static bool is(const char *name, struct span s)
{
    return name && strncmp(name, s.p, s.n) == 0 && name[s.n] == '\0';
}

static int policy_of(struct span s)
{
    for (int i = 0; i < ROUTE_POLICIES; i++)
        if (is(route_policy_names[i], s)) return i;
    return -1;
}

static int host_of(const struct name_catalogue *cat, struct span s)
{
    for (size_t i = 0; i < cat->n_hosts; i++)
        if (is(cat->hosts[i], s)) return (int)i;
    return -1;
}

static const struct name_alias *alias_of(const struct name_catalogue *cat, struct span s)
{
    for (size_t i = 0; i < cat->n_aliases; i++)
        if (is(cat->aliases[i].name, s)) return &cat->aliases[i];
    return NULL;
}

/* --- what a name leads to --- */

static void add(struct parse *x, enum name_kind kind, size_t index, unsigned tier, unsigned weight, bool reserve)
{
    struct name_wanted *w = &x->w;
    for (size_t i = 0; i < w->n; i++) {
        struct name_route *r = &w->routes[i];
        if (r->kind != kind || r->index != index) continue;
        r->reserve &= reserve;
        return;
    }
    if (w->n == NAME_MAX_ROUTES) {
        x->full = true;
        return;
    }
    w->routes[w->n++] =
        (struct name_route){.kind = kind, .index = (uint16_t)index, .tier = (uint8_t)tier, .weight = (uint16_t)weight, .reserve = reserve};
}

static void add_hosted(struct parse *x, size_t index, unsigned tier, unsigned weight)
{
    add(x, NAME_HOSTED, index, tier, weight, false);
    int local = x->cat->hosted[index].local;
    if (local >= 0 && x->cat->locals[local].name) add(x, NAME_LOCAL, (size_t)local, tier, weight, true);
}

static void add_local(struct parse *x, size_t index, unsigned tier, unsigned weight)
{
    const struct name_local *l = &x->cat->locals[index];
    add(x, NAME_LOCAL, index, tier, weight, false);
    for (size_t k = 0; k < l->n_stand_ins && !x->in_alias; k++)
        add(x, NAME_HOSTED, l->stand_ins[k].hosted, tier + 1 + l->stand_ins[k].tier, l->stand_ins[k].weight, false);
}

/* Whatever is named so; a local model's public name brings in the hosts that carry it, too, if the whole offer is asked for. */
static bool add_named(struct parse *x, struct span s, bool whole_offer, unsigned tier, unsigned weight)
{
    const struct name_catalogue *cat = x->cat;
    bool found = false;
    for (size_t i = 0; i < cat->n_locals && !found; i++) {
        if (!is(cat->locals[i].name, s)) continue;
        found = true;
        add_local(x, i, tier, weight);
    }
    if (found && !whole_offer) return true;
    const char *slash = memchr(s.p, '/', s.n);
    int host = slash ? host_of(cat, (struct span){s.p, (size_t)(slash - s.p)}) : -1;
    for (size_t i = 0; i < cat->n_hosted && host >= 0 && !found; i++) {
        if (cat->hosted[i].host != host || !is(cat->hosted[i].model, (struct span){slash + 1, s.n - (size_t)(slash + 1 - s.p)})) continue;
        add_hosted(x, i, tier, weight);
        return true;
    }
    for (size_t i = 0; i < cat->n_locals; i++) {
        if (!cat->locals[i].name || !is(cat->locals[i].canonical, s)) continue;
        found = true;
        add_local(x, i, tier, weight);
    }
    for (size_t i = 0; i < cat->n_hosted; i++) {
        if (!is(cat->hosted[i].canonical, s)) continue;
        found = true;
        add_hosted(x, i, x->in_alias ? tier : UINT8_MAX, weight);
    }
    return found;
}

/* Back to `first`: the routes of this entry that do not fit are taken out. */
static void keep(struct parse *x, bool local, int host)
{
    struct name_wanted *w = &x->w;
    size_t n = x->first;
    for (size_t i = x->first; i < w->n; i++) {
        const struct name_route *r = &w->routes[i];
        bool fits = r->kind == NAME_LOCAL ? local && !r->reserve : host >= 0 && x->cat->hosted[r->index].host == host;
        if (fits) w->routes[n++] = *r;
    }
    w->n = n;
}

static bool add_alias(struct parse *x, const struct name_alias *a);

/* The name as a whole, or without its suffix. *base_found: there is such a model, but not where the suffix wants it. */
static bool add_text(struct parse *x, struct span s, unsigned tier, unsigned weight, bool *base_found)
{
    const struct name_alias *a = x->in_alias ? NULL : alias_of(x->cat, s);
    *base_found = true;
    if (a) return add_alias(x, a);
    if (add_named(x, s, false, tier, weight)) return true;
    const char *colon = memrchr(s.p, ':', s.n);
    *base_found = false;
    if (!colon || colon == s.p) return false;
    struct span base = {s.p, (size_t)(colon - s.p)}, suffix = {colon + 1, s.n - base.n - 1};
    int policy = policy_of(suffix), host = host_of(x->cat, suffix);
    bool local = is("local", suffix);
    size_t before = x->first;
    x->first = x->w.n;
    a = x->in_alias ? NULL : alias_of(x->cat, base);
    *base_found = a ? add_alias(x, a) : add_named(x, base, !local, tier, weight);
    if (policy >= 0)
        x->policy = (enum route_policy)policy;
    else
        keep(x, local, host);
    bool found = x->w.n > x->first;
    x->first = before;
    return *base_found && found;
}

static bool add_alias(struct parse *x, const struct name_alias *a)
{
    bool ignored;
    x->policy = a->policy;
    x->in_alias = true;
    for (size_t i = 0; i < a->n_routes; i++) {
        const struct name_alias_route *r = &a->routes[i];
        add_text(x, (struct span){r->target, strlen(r->target)}, r->tier, r->weight, &ignored);
        x->policy = a->policy; /* a target's suffix says which of its hosts, not in which order the alias goes */
    }
    x->in_alias = false;
    return x->w.n > x->first;
}

/* Whether a local model goes before it. Only an alias with an order of its own can put a hosted one first. */
static bool stands_in(const struct parse *x, const struct name_route *r, bool is_alias)
{
    bool by_tier = is_alias && (x->policy == ROUTE_PRIORITY || x->policy == ROUTE_WEIGHTED);
    for (size_t i = 0; i < x->w.n && r->kind == NAME_HOSTED; i++) {
        const struct name_route *l = &x->w.routes[i];
        if (l->kind == NAME_LOCAL && !l->reserve && (!by_tier || l->tier < r->tier)) return true;
    }
    return false;
}

/* r adds nothing to the earlier route: the same model, and no less bound. */
static bool is_covered(const struct name_route *earlier, const struct name_route *r)
{
    if (earlier->kind != r->kind || earlier->index != r->index) return false;
    return (!earlier->stands_in || r->stands_in) && (!earlier->reserve || r->reserve);
}

/* An entry's routes go to the end of the list, but for those that are there. */
static int add_entry(struct parse *x, bool is_alias, struct name_wanted *out)
{
    size_t n_before = out->n;
    for (size_t i = 0; i < x->w.n; i++) {
        struct name_route r = x->w.routes[i];
        size_t at = 0;
        r.entry = (uint8_t)out->n_entries;
        r.policy = x->policy;
        r.stands_in = stands_in(x, &r, is_alias);
        while (at < n_before && !is_covered(&out->routes[at], &r)) at++;
        if (at < n_before) continue;
        if (out->n == NAME_MAX_ROUTES) return -ERR_LIMIT;
        out->routes[out->n++] = r;
    }
    out->n_entries++;
    return 0;
}

/* --- nearest names --- */

struct nearest {
    struct span asked;
    unsigned most; /* edits */
    struct {
        char name[NEAREST_BYTES + 1];
        unsigned edits;
    } best[NEAREST];
    size_t n, work; /* work: steps so far; a wrong name must not cost more than a right one brings in */
};

static bool same_letter(char a, char b)
{
    return (a | 0x20) == (b | 0x20);
}

/* Levenshtein's distance, given up above nr->most. */
static unsigned edits_to(struct nearest *nr, struct span b)
{
    struct span a = nr->asked;
    unsigned row[NEAREST_BYTES + 1];
    if ((a.n > b.n ? a.n - b.n : b.n - a.n) > nr->most || b.n > NEAREST_BYTES) return nr->most + 1;
    for (; a.n && b.n && same_letter(a.p[0], b.p[0]); a.p++, a.n--, b.p++, b.n--) {
    }
    for (; a.n && b.n && same_letter(a.p[a.n - 1], b.p[b.n - 1]); a.n--, b.n--) {
    }
    for (size_t j = 0; j <= b.n; j++) row[j] = (unsigned)j;
    nr->work += (a.n + 1) * (b.n + 1);
    for (size_t i = 1; i <= a.n; i++) {
        unsigned corner = row[0], least = row[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned change = corner + !same_letter(a.p[i - 1], b.p[j - 1]);
            corner = row[j];
            unsigned gap = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < gap ? change : gap;
            if (row[j] < least) least = row[j];
        }
        if (least > nr->most) return nr->most + 1;
    }
    return row[b.n];
}

/* `host/model` is as near as `model` is, for who forgot the host. */
static void consider(struct nearest *nr, const char *host, const char *model)
{
    char name[NEAREST_BYTES + 1];
    size_t n_model = strlen(model), n = n_model + (host ? strlen(host) + 1 : 0);
    if (n > NEAREST_BYTES || nr->work > NEAREST_WORK || n_model > nr->asked.n + nr->most || n + nr->most < nr->asked.n) return;
    snprintf(name, sizeof name, "%s%s%s", host ? host : "", host ? "/" : "", model);
    unsigned edits = edits_to(nr, (struct span){name, n});
    if (edits > nr->most && host) edits = edits_to(nr, (struct span){model, n_model});
    if (edits > nr->most) return;
    size_t at = nr->n;
    for (size_t i = 0; i < nr->n; i++)
        if (strcmp(nr->best[i].name, name) == 0) return;
    while (at > 0 && nr->best[at - 1].edits > edits) at--;
    if (at == NEAREST) return;
    if (nr->n < NEAREST) nr->n++;
    memmove(&nr->best[at + 1], &nr->best[at], (nr->n - at - 1) * sizeof *nr->best);
    memcpy(nr->best[at].name, name, n + 1);
    nr->best[at].edits = edits;
}

static void find_nearest(const struct name_catalogue *cat, struct span asked, struct nearest *nr)
{
    if (asked.n > NEAREST_BYTES) return;
    nr->asked = asked;
    nr->most = asked.n / 3 < NEAREST_EDITS ? (unsigned)(asked.n / 3) : NEAREST_EDITS;
    for (size_t i = 0; i < cat->n_aliases; i++) consider(nr, NULL, cat->aliases[i].name);
    for (size_t i = 0; i < cat->n_locals; i++)
        if (cat->locals[i].name) consider(nr, NULL, cat->locals[i].name);
    for (size_t i = 0; i < cat->n_hosted; i++) {
        consider(nr, cat->hosts[cat->hosted[i].host], cat->hosted[i].model);
        if (cat->hosted[i].canonical) consider(nr, NULL, cat->hosted[i].canonical);
    }
}

static int not_found(const struct name_catalogue *cat, struct span s, const char *param, bool base_found, struct err *e)
{
    const char *colon = memrchr(s.p, ':', s.n);
    if (alias_of(cat, s)) return err_set_param(e, ERR_NOT_FOUND, param, "None of the models that '%s' leads to is here now.", s.p);
    if (base_found && colon) {
        int n = (int)(colon - s.p);
        struct span suffix = {colon + 1, s.n - (size_t)n - 1};
        if (is("local", suffix)) return err_set_param(e, ERR_NOT_FOUND, param, "The model '%.*s' is not served here locally.", n, s.p);
        if (host_of(cat, suffix) >= 0)
            return err_set_param(e, ERR_NOT_FOUND, param, "The model '%.*s' is not offered here by '%s'.", n, s.p, suffix.p);
        return err_set_param(
            e, ERR_NOT_FOUND, param,
            "There is a model '%.*s', but ':%s' is neither one of the providers configured here nor local, cheapest, fastest, priority, "
            "weighted or local-first.",
            n, s.p, suffix.p);
    }
    struct nearest nr = {.n = 0};
    find_nearest(cat, s, &nr);
    if (!nr.n && colon) find_nearest(cat, (struct span){s.p, (size_t)(colon - s.p)}, &nr);
    if (!nr.n) return err_set_param(e, ERR_NOT_FOUND, param, "There is no model '%s' here; GET /v1/models lists them.", s.p);
    char names[NEAREST * (NEAREST_BYTES + 8)] = "";
    size_t at = 0;
    for (size_t i = 0; i < nr.n; i++) at += (size_t)snprintf(names + at, sizeof names - at, "%s'%s'", i ? ", " : "", nr.best[i].name);
    return err_set_param(e, ERR_NOT_FOUND, param, "There is no model '%.100s' here. The nearest: %s.", s.p, names);
}

/* --- public --- */

static bool is_of_alias(const struct name_catalogue *cat, struct span s)
{
    const char *colon = memrchr(s.p, ':', s.n);
    return alias_of(cat, s) || (colon && alias_of(cat, (struct span){s.p, (size_t)(colon - s.p)}));
}

static int parse_entry(const struct name_catalogue *cat, const char *text, const char *param, struct name_wanted *out, struct err *e)
{
    struct span s = {text, strnlen(text, NAME_MAX_BYTES + 1)};
    if (s.n == 0) return err_set_param(e, ERR_INPUT, param, "A model's name must not be empty.");
    if (s.n > NAME_MAX_BYTES) return err_set_param(e, ERR_INPUT, param, "A model's name has at most %d bytes.", NAME_MAX_BYTES);
    struct parse x = {.cat = cat, .policy = cat->policy};
    bool base_found;
    if (!add_text(&x, s, 0, 1, &base_found)) return not_found(cat, s, param, base_found, e);
    if (x.full || add_entry(&x, is_of_alias(cat, s), out))
        return err_set_param(e, ERR_LIMIT, param, "The request's model names lead to more than %d routes.", NAME_MAX_ROUTES);
    return 0;
}

int name_parse(const struct name_catalogue *cat, const char *text, struct name_wanted *out, struct err *e)
{
    *out = (struct name_wanted){.n = 0};
    return parse_entry(cat, text, "model", out, e);
}

int name_parse_list(const struct name_catalogue *cat, const char *const *texts, size_t n, struct name_wanted *out, struct err *e)
{
    *out = (struct name_wanted){.n = 0};
    if (n == 0) return err_set_param(e, ERR_INPUT, "models", "A list of models must not be empty.");
    if (n > NAME_MAX_LIST) return err_set_param(e, ERR_LIMIT, "models", "A list of models has at most %d names.", NAME_MAX_LIST);
    for (size_t i = 0; i < n; i++) {
        int rc = parse_entry(cat, texts[i], "models", out, e);
        if (rc) return rc;
    }
    return 0;
}

/* --- the check of a configuration --- */

static int check_hosts(const struct name_catalogue *cat, struct err *e)
{
    if (cat->n_hosts > NAME_MAX_HOSTS) return err_set(e, ERR_INPUT, "there are %zu providers; at most %d", cat->n_hosts, NAME_MAX_HOSTS);
    for (size_t i = 0; i < cat->n_hosts; i++) {
        struct span s = {cat->hosts[i], strlen(cat->hosts[i])};
        if (s.n == 0 || strpbrk(s.p, "/:,; =") || s.n > NAME_MAX_BYTES) return err_set(e, ERR_INPUT, "'%s' is no name for a provider", s.p);
        if (is("local", s) || policy_of(s) >= 0)
            return err_set(e, ERR_INPUT, "a provider must not be named '%s': that is a model's suffix", s.p);
        if (host_of(cat, s) != (int)i) return err_set(e, ERR_INPUT, "two providers are named '%s'", s.p);
    }
    return 0;
}

static int check_locals(const struct name_catalogue *cat, struct err *e)
{
    if (cat->n_locals > NAME_MAX_LOCALS)
        return err_set(e, ERR_INPUT, "there are %zu local models; at most %d", cat->n_locals, NAME_MAX_LOCALS);
    for (size_t i = 0; i < cat->n_locals; i++) {
        const struct name_local *l = &cat->locals[i];
        if (!l->name) continue;
        if (!*l->name || strlen(l->name) > NAME_MAX_BYTES) return err_set(e, ERR_INPUT, "'%s' is no name for a local model", l->name);
        for (size_t k = 0; k < i; k++)
            if (cat->locals[k].name && strcmp(cat->locals[k].name, l->name) == 0)
                return err_set(e, ERR_INPUT, "two local models are named '%s'", l->name);
        for (size_t k = 0; k < l->n_stand_ins; k++)
            if (l->stand_ins[k].hosted >= cat->n_hosted || l->stand_ins[k].tier > NAME_MAX_TIER)
                return err_set(e, ERR_INPUT, "what stands in for '%s', number %zu: no such hosted model, or a tier above %d", l->name,
                               k + 1, NAME_MAX_TIER);
    }
    return 0;
}

static int check_hosted(const struct name_catalogue *cat, struct err *e)
{
    if (cat->n_hosted > NAME_MAX_HOSTED)
        return err_set(e, ERR_INPUT, "there are %zu hosted models; at most %d", cat->n_hosted, NAME_MAX_HOSTED);
    for (size_t i = 0; i < cat->n_hosted; i++) {
        const struct name_hosted *h = &cat->hosted[i];
        if (h->host >= cat->n_hosts || !*h->model)
            return err_set(e, ERR_INPUT, "hosted model %zu ('%s') has no provider or no name", i + 1, h->model);
        if (h->local >= (int)cat->n_locals || (h->local >= 0 && !cat->locals[h->local].name))
            return err_set(e, ERR_INPUT, "no local model takes over from '%s/%s'", cat->hosts[h->host], h->model);
    }
    return 0;
}

static int check_alias(const struct name_catalogue *cat, const struct name_alias *a, struct err *e)
{
    struct span s = {a->name, strlen(a->name)};
    if (s.n == 0 || s.n > NAME_MAX_BYTES) return err_set(e, ERR_INPUT, "'%s' is no name for an alias", a->name);
    if (alias_of(cat, s) != a) return err_set(e, ERR_INPUT, "two aliases are named '%s'", a->name);
    if ((unsigned)a->policy >= ROUTE_POLICIES) return err_set(e, ERR_INPUT, "the alias '%s' has no such policy", a->name);
    for (size_t i = 0; i < cat->n_locals; i++)
        if (is(cat->locals[i].name, s)) return err_set(e, ERR_INPUT, "the alias '%s' hides the local model of that name", a->name);
    if (a->n_routes == 0) return err_set(e, ERR_INPUT, "the alias '%s' leads nowhere", a->name);
    struct parse x = {.cat = cat, .in_alias = true};
    for (size_t i = 0; i < a->n_routes; i++) {
        const struct name_alias_route *r = &a->routes[i];
        bool base_found;
        if (r->tier > NAME_MAX_TIER || strlen(r->target) > NAME_MAX_BYTES ||
            !add_text(&x, (struct span){r->target, strlen(r->target)}, 0, 1, &base_found))
            return err_set(e, ERR_INPUT, "the alias '%s' leads to '%s', which names no model here (or its tier is above %d)", a->name,
                           r->target, NAME_MAX_TIER);
    }
    return x.full ? err_set(e, ERR_INPUT, "the alias '%s' has more than %d routes", a->name, NAME_MAX_ROUTES) : 0;
}

int name_catalogue_check(const struct name_catalogue *cat, struct err *e)
{
    int rc = check_hosts(cat, e);
    if (!rc) rc = check_locals(cat, e);
    if (!rc) rc = check_hosted(cat, e);
    for (size_t i = 0; i < cat->n_aliases && !rc; i++) rc = check_alias(cat, &cat->aliases[i], e);
    return rc;
}
