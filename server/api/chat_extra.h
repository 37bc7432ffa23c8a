/* Members of an upstream's answer that we have no word for: kept, put together when they come in pieces, and written where they came from
 * (the chunk, its choice, its delta). */
#ifndef SPILLWAY_SERVER_API_CHAT_EXTRA_H
#define SPILLWAY_SERVER_API_CHAT_EXTRA_H

#include "base/json.h"

enum { CHAT_MAX_EXTRA = 64 };

/* Puts the object's members into *into as OpenAI's SDKs put deltas together: strings grow, objects are merged, entries of lists that
 * have an `index` find their own; what is neither is replaced. Adds the bytes of `more` to *bytes. more NULL: nothing. -ERR_MEMORY. */
MUST_USE int chat_extra_merge(json_t **into, const json_t *more, size_t *bytes);
/* The members replace those of the same name: for what is said anew (a chunk's, a choice's), not in pieces. CHAT_MAX_EXTRA names at most;
 * what comes after them is not kept. */
MUST_USE int chat_extra_replace(json_t **into, const json_t *more);
/* Appends ,"name":value for each member whose name is not in the list (NULL-terminated). */
void chat_extra_write(struct buf *b, const json_t *extra, const char *const *taken);

/* Names that the sinks write themselves. */
extern const char *const chat_chunk_names[], *const chat_choice_names[], *const chat_message_names[];

#endif
