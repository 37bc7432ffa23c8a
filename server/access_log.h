/* Access log: one line a request at level info, when its answer is out, was cut, or its client has left:
 * request (id), method, path (without query), status, bytes (of the answer, taken by the network), ms (since the header was whole), key
 * (the key's id, 0: none). Never the key itself, never a header or a body. Status 499, as nginx has it: the client left
 * before anything was answered. */
#ifndef SPILLWAY_SERVER_ACCESS_LOG_H
#define SPILLWAY_SERVER_ACCESS_LOG_H

#include "server/http.h"

/* For struct http_config's done; ctx is not used. */
void access_log_done(void *ctx, const struct http_request *r);

#endif
