/* Curl on the loop: a multi handle whose sockets and timer are our loop's. Transfers are plain easy handles; done() is
 * called on the loop's thread when one has ended, already taken off the multi handle. Nothing here waits. */
#ifndef SPILLWAY_SERVER_CURL_LOOP_H
#define SPILLWAY_SERVER_CURL_LOOP_H

#include <curl/curl.h>
#include <stdbool.h>

#include "base/err.h"
#include "server/loop.h"

struct curl_loop;
MUST_USE int curl_loop_new(struct curl_loop **out, struct loop *l, void (*done)(void *ctx, CURL *easy, CURLcode code), void *ctx,
                           struct err *e);
/* Transfers must have been removed. Accepts NULL. */
void curl_loop_free(struct curl_loop *c);
/* Before a handle is added for the first time. */
MUST_USE bool curl_loop_prepare(struct curl_loop *c, CURL *easy);
MUST_USE int curl_loop_add(struct curl_loop *c, CURL *easy, struct err *e);
void curl_loop_remove(struct curl_loop *c, CURL *easy);
/* Keeps up to n connections that nobody uses; without this call, four for each transfer under way. */
void curl_loop_keep(struct curl_loop *c, long n);

#endif
