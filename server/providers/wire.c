/* Requests: the part of encoding that all wires share; see wire.h. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

static int check_model(const char *model, struct err *e)
{
    size_t n = strlen(model);
    if (n == 0 || n >= WIRE_MAX_MODEL_BYTES) return err_set_param(e, ERR_INPUT, "model", "The model's name is empty or too long.");
    for (const char *p = model; *p; p++)
        if (*p <= ' ' || *p >= 0x7F) return err_set_param(e, ERR_INPUT, "model", "The model's name has a byte that is not visible ASCII.");
    return 0;
}

static int encode(struct encode *x)
{
    int rc = check_model(x->o->model, x->e);
    if (!rc) rc = param_options(x->host, x->request, &x->options, x->e);
    if (rc) return rc;
    if (x->o->max_tokens < 1) return err_set_param(x->e, ERR_INPUT, "max_tokens", "'max_tokens' must be positive.");
    x->body = tree_object(&x->t);
    rc = x->host->row->wire->encode(x);
    if (rc) return rc;
    if (x->t.failed) return err_set(x->e, ERR_MEMORY, "out of memory");
    rc = json_write(&x->out->body, x->body);
    if (rc == -ERR_LIMIT) return err_set(x->e, ERR_LIMIT, "The request has more than %d bytes for a hosted provider.", WIRE_MAX_BODY_BYTES);
    return rc ? err_set(x->e, ERR_MEMORY, "out of memory") : 0;
}

int wire_encode(const struct provider_host *h, const json_t *request, const struct wire_options *o, struct wire_request *out, struct err *e)
{
    *out = (struct wire_request){.n_choices = 1};
    buf_init(&out->body, WIRE_MAX_BODY_BYTES);
    struct encode x = {.host = h, .request = request, .o = o, .out = out, .e = e};
    int rc = encode(&x);
    json_decref(x.body);
    if (rc) wire_request_free(out);
    return rc;
}

const char *provider_wire_name(const struct provider *p)
{
    return p->wire->name;
}

void wire_request_free(struct wire_request *r)
{
    buf_free(&r->body);
    *r = (struct wire_request){0};
}
