/* Endpoint: a method and a path, who may call it, what it does. One file and one row in gateway.c each. */
#ifndef SPILLWAY_SERVER_API_ENDPOINT_H
#define SPILLWAY_SERVER_API_ENDPOINT_H

#include "server/gateway.h"

enum access { ACCESS_OPEN, ACCESS_KEY };

struct endpoint {
    const char *method, *path; /* a path that ends in '/' stands for all that begin with it */
    enum access access;
    void (*handle)(struct gateway *g, struct http_request *r);
};

extern const struct endpoint endpoint_chat_completions;       /* chat_completions.c */
extern const struct endpoint endpoint_models, endpoint_model; /* models.c */
extern const struct endpoint endpoint_livez, endpoint_readyz; /* health.c */

#endif
