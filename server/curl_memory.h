/* Curl's memory: malloc's; and where that has none, small pieces come from a reserve.
 *
 * The library's list of sockets is left broken when a piece of it cannot be had (7.88: multi.c, singlesocket), and the next transfer that gets the same
 * descriptor divides by zero. A larger piece that cannot be had is an error of the one transfer. So the small ones are always there, for some
 * transfers at once. */
#ifndef SPILLWAY_SERVER_CURL_MEMORY_H
#define SPILLWAY_SERVER_CURL_MEMORY_H

#include "base/err.h"

/* Before any other use of the library; later, and again, it changes nothing. */
MUST_USE int curl_memory_init(struct err *e);

#endif
