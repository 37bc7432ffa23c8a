/* Alerts of `serve`: from options to alerts.h. The secret comes from the environment or from a file, never from the configuration itself. */
#include <string.h>

#include "base/str.h"
#include "server/accounts/money.h"
#include "server/cli/env.h"
#include "server/cli/serve_parts.h"

static int read_secret(const struct options *o, struct webhook_secret *secret, struct err *e)
{
    char text[KEY_TEXT_BYTES] = "";
    bool there = env_take_provider_key("SPILLWAY_ALERT_SECRET", text, sizeof text); /* out of the environment in any case */
    int rc = 0;
    if (!o->alert_url) return o->alert_secret_file ? err_set(e, ERR_INPUT, "--alert-secret-file: there is no --alert-url") : 0;
    if (o->alert_secret_file)
        rc = serve_read_key(o->alert_secret_file, text, e);
    else if (!there)
        rc = err_set(e, ERR_INPUT, "--alert-url: what is sent there is signed; the secret comes from $SPILLWAY_ALERT_SECRET or --alert-secret-file");
    if (!rc) rc = webhook_secret_read(text, secret, e);
    explicit_bzero(text, sizeof text);
    return rc;
}

int serve_alerts_bounds(const struct options *o, struct alerts_bounds *out, struct err *e)
{
    *out = (struct alerts_bounds){.every_ms = o->alert_every_s * 1000,
                                  .spend_factor = o->alert_spend_factor,
                                  .error_per_cent = (int)o->alert_error_per_cent,
                                  .overflow_per_cent = (int)o->alert_overflow_per_cent};
    if (money_parse(o->alert_spend_floor, &out->spend_floor_nusd) && out->spend_floor_nusd >= 0) return 0;
    return err_set(e, ERR_INPUT, "--alert-spend-floor: '%.40s' is not an amount of dollars such as 2.50", o->alert_spend_floor);
}

int serve_alerts_start(struct serve *s, struct err *e)
{
    const struct options *o = s->o;
    struct alerts_config c = {.url = o->alert_url, .ca_file = env_ca_file()};
    if (c.url && !str_starts_with(c.url, "https://") && !str_starts_with(c.url, "http://"))
        return err_set(e, ERR_INPUT, "--alert-url: must begin with https:// or http://");
    int rc = serve_alerts_bounds(o, &c.bounds, e);
    if (!rc) rc = read_secret(o, &c.secret, e);
    if (!rc && !s->g.accounts && c.url) rc = err_set(e, ERR_INPUT, "--alert-url: there are no accounts to watch with --no-auth");
    if (!rc && s->g.accounts) rc = alerts_new(&s->alerts, &s->g, &c, e);
    explicit_bzero(&c.secret, sizeof c.secret);
    return rc;
}
