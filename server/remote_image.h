/* Remote images: fetches pictures from URLs, on the loop, without becoming a way into the network behind the gateway (FAULTS T30).
 *
 * What a URL may be is remote_url.h's. Here each address is judged again at the moment of connecting, so a name whose answer changes between being
 * looked at and being used gains nothing. A redirect is a new URL and judged like the first. No proxy, cookie, key, cache or connection is shared with
 * anything else; certificates are verified. Bytes, time and redirects are bounded, and so is how much runs at once, in all and per host; what is beyond
 * waits for its turn. What it fetched is not looked at.
 *
 * A fetch that is given up while its name is being resolved keeps its place until the resolver has answered: threads of curl's would else gather. */
#ifndef SPILLWAY_SERVER_REMOTE_IMAGE_H
#define SPILLWAY_SERVER_REMOTE_IMAGE_H

#include "base/buf.h"
#include "server/limits.h"
#include "server/loop.h"
#include "server/remote_url.h"

struct remote_images;
struct remote_fetch;

/* rules are copied, their texts borrowed until the end. ca_file: NULL for the system's. */
MUST_USE int remote_images_new(struct remote_images **out, struct loop *l, const struct remote_rules *rules, const char *ca_file, struct err *e);
void remote_images_free(struct remote_images *r); /* accepts NULL; fetches under way end without a word */
const struct remote_rules *remote_images_rules(const struct remote_images *r);

struct remote_info {
    int64_t running, waiting;            /* given up and still being resolved is running */
    uint64_t fetched, failed, unallowed; /* since the start; unallowed: of the failed, those whose name had an address that may not be connected to */
};
struct remote_info remote_images_info(const struct remote_images *r);

struct remote_order {
    const struct remote_url *url;
    const struct limits *limits; /* the request's; until the end of the fetch */
    /* n bytes more are to be kept; not 0: they may not. Within curl: nothing of this module may be called. */
    int (*keep)(void *ctx, size_t n, struct err *e);
    /* Once, the last, later than remote_image_fetch. Without an error (NULL) the bytes are there, and done may take them; else -ERR_INPUT or -ERR_LIMIT
     * (the URL or its host is at fault, in words for clients), -ERR_BUSY, or what keep said. */
    void (*done)(void *ctx, struct buf *bytes, const struct err *e);
    void *ctx;
};

MUST_USE int remote_image_fetch(struct remote_images *r, const struct remote_order *o, struct remote_fetch **out, struct err *e);
void remote_image_cancel(struct remote_fetch *f); /* done does not come any more */

#endif
