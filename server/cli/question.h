/* Question: a command's prompt made ready: model folder's texts opened, pictures decoded, ids made. Shared by generate
 * and logits. */
#ifndef SPILLWAY_SERVER_CLI_QUESTION_H
#define SPILLWAY_SERVER_CLI_QUESTION_H

#include "base/arena.h"
#include "engine/frame.h"
#include "engine/prompt.h"
#include "server/cli/options.h"
#include "server/cli/pictures.h"

struct question {
    struct prompt_model *model;
    struct pictures pictures;
    struct arena arena;
    struct prompt prompt;
    uint32_t max_context; /* 0: prompts of any length */
};

/* dir: the model folder. Decodes o->images and makes the prompt; the first of these that is not NULL says from what:
 * - messages: OpenAI messages; pictures as {"type":"image"}, or image_url whose URL is not looked at: the files come
 *   from --image, in order;
 * - prompt: a rendered, trusted prompt whose literal <image> marks are filled by --image in order;
 * - user: what one user says, after the pictures; without a chat template it is completed as plain text. Only this one
 *   must leave room in the context for an answer.
 *
 * Close in any case. */
MUST_USE int question_open(struct question *q, const char *dir, const struct options *o, const json_t *messages, const struct buf *prompt,
                           const char *user, struct err *e);
void question_close(struct question *q); /* accepts a zeroed struct */

/* The tiles of all pictures in prompt order, for a submit or for the model; fds has room for OPTIONS_MAX_IMAGES. Arrays
 * live in the arena. */
MUST_USE int question_tiles(struct question *q, const struct frame_tile **tiles, uint32_t *n_tiles, const int **fds, uint32_t *n_fds,
                            struct err *e);

#endif
