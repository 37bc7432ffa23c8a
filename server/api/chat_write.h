/* Pieces of chat answers that both chat sinks write. */
#ifndef SPILLWAY_SERVER_API_CHAT_WRITE_H
#define SPILLWAY_SERVER_API_CHAT_WRITE_H

#include "base/buf.h"
#include "server/completion.h"

/* Each appends one JSON value (chat_write_logprobs: the entries without their brackets); errors stick in b. */
void chat_write_head(struct buf *b, const struct completion *c, const char *object); /* {"id":...,"model":...   still open */
void chat_write_logprobs(struct buf *b, const struct event_logprob *list, size_t n);
void chat_write_usage(struct buf *b, const struct usage_told *u);
const char *chat_finish_name(enum finish_reason reason);

#endif
