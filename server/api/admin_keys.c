/* Admin: keys. A key's text is in the answer of the request that makes it, and nowhere else. Admin keys are made and rotated by the command line
 * alone: one that leaks ends for good when it is revoked. */
#include <string.h>

#include "server/accounts/account_json.h"
#include "server/accounts/words.h"
#include "server/api/admin.h"

static void put_key(void *ctx, const struct accounts_key *k)
{
    account_json_key(ctx, k);
}

int admin_key_list(struct admin_call *c, struct err *e)
{
    buf_puts(&c->out, "{\"object\":\"list\",\"data\":[");
    int rc = accounts_key_list(c->accounts, put_key, &c->out, e);
    buf_puts(&c->out, "]}");
    return rc;
}

/* The members that are given; what they are not stays. */
static int read_share(const struct admin_call *c, struct accounts_share *s, struct err *e)
{
    int64_t weight = s->weight, priority = s->priority;
    int rc = admin_int(c, "weight", 1, ACCOUNTS_MAX_WEIGHT, &weight, e);
    if (!rc) rc = admin_int(c, "priority", -ACCOUNTS_MAX_PRIORITY, ACCOUNTS_MAX_PRIORITY, &priority, e);
    *s = (struct accounts_share){.weight = (uint32_t)weight, .priority = (int32_t)priority};
    return rc;
}

int admin_key_make(struct admin_call *c, struct err *e)
{
    char token[ACCOUNTS_TOKEN_BYTES];
    const char *expires = "never";
    struct accounts_key_spec spec = {.name = "unnamed", .share.weight = 1};
    int rc = admin_text(c, "name", &spec.name, e);
    if (!rc) rc = admin_int(c, "project", 1, INT64_MAX, &spec.project, e);
    if (!rc) rc = admin_text(c, "expires", &expires, e);
    if (!rc) rc = words_expires("expires", expires, &spec.expires_s, e);
    if (!rc) rc = read_share(c, &spec.share, e);
    if (rc) return rc;
    int64_t id = accounts_key_make(c->accounts, &spec, token, e);
    if (id > 0) account_json_token(&c->out, id, spec.name, token, spec.expires_s);
    explicit_bzero(token, sizeof token);
    c->status = 201;
    return id < 0 ? (int)id : 0;
}

struct found {
    int64_t id, expires_s;
    bool admin;
    struct accounts_share share;
    struct buf *out; /* NULL: it is not to be told */
};

static void look(void *ctx, const struct accounts_key *k)
{
    struct found *f = ctx;
    if (k->id != f->id) return;
    f->expires_s = k->expires_s;
    f->share = k->share;
    f->admin = k->admin;
    if (f->out) account_json_key(f->out, k);
}

/* As it is in the list of keys. */
static int put_one(struct admin_call *c, struct err *e)
{
    struct found f = {.id = c->id, .out = &c->out};
    return accounts_key_list(c->accounts, look, &f, e);
}

int admin_key_set(struct admin_call *c, struct err *e)
{
    struct found f = {.id = c->id, .share.weight = 1};
    if (!admin_given(c, "weight") && !admin_given(c, "priority"))
        return err_set_param(e, ERR_INPUT, "weight", "Give 'weight' or 'priority'.");
    int rc = accounts_key_list(c->accounts, look, &f, e);
    if (!rc) rc = read_share(c, &f.share, e);
    if (!rc) rc = accounts_key_set_share(c->accounts, c->id, &f.share, e);
    return rc ? rc : put_one(c, e);
}

int admin_key_rotate(struct admin_call *c, struct err *e)
{
    char token[ACCOUNTS_TOKEN_BYTES];
    const char *grace = "24h", *expires = NULL;
    struct found f = {.id = c->id};
    int64_t grace_s, expires_s = -1;
    int rc = admin_text(c, "grace", &grace, e);
    if (!rc) rc = words_span("grace", grace, 0, &grace_s, e);
    if (!rc) rc = admin_text(c, "expires", &expires, e);
    if (!rc && expires) rc = words_expires("expires", expires, &expires_s, e);
    if (!rc) rc = accounts_key_list(c->accounts, look, &f, e);
    if (!rc && f.admin) rc = err_set(e, ERR_DENIED, "Key %lld is an admin key: `spillway keys rotate` rotates these.", (long long)c->id);
    if (!rc) rc = accounts_key_rotate(c->accounts, c->id, grace_s, expires_s, token, e);
    if (rc) return rc;
    rc = accounts_key_list(c->accounts, look, &f, e);
    if (!rc) account_json_token(&c->out, c->id, NULL, token, f.expires_s);
    explicit_bzero(token, sizeof token);
    return rc;
}

int admin_key_revoke(struct admin_call *c, struct err *e)
{
    int rc = accounts_key_revoke(c->accounts, c->id, e);
    return rc ? rc : put_one(c, e);
}
