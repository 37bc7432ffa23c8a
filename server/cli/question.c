/* Question: see question.h. */
#include "server/cli/question.h"

#include <string.h>

#include "base/clock.h"

enum { ARENA_MAX_BYTES = 256 << 20 };

static struct prompt_options prompt_options(const struct question *q)
{
    struct prompt_options po = {.grids = q->pictures.grids, .n_grids = q->pictures.n, .max_context = q->max_context};
    time_t now = (time_t)clock_wall_s();
    localtime_r(&now, &po.now);
    return po;
}

static int from_messages(struct question *q, const json_t *messages, struct err *e)
{
    struct prompt_messages pm;
    struct prompt_options po = prompt_options(q);
    int rc = prompt_messages_read(q->model, messages, PROMPT_BARE_IMAGES, NULL, &q->arena, &pm, e);
    if (!rc) rc = prompt_from_messages(q->model, &pm, &po, &q->arena, &q->prompt, e);
    prompt_messages_free(&pm);
    return rc;
}

static int from_user(struct question *q, const char *user, struct err *e)
{
    if (!prompt_model_info(q->model)->has_template) {
        size_t n = strlen(user);
        uint8_t *marks = arena_alloc(&q->arena, n);
        if (!marks) return err_set(e, ERR_MEMORY, "the prompt is too large");
        memset(marks, MARK_REQUEST, n);
        struct prompt_options po = prompt_options(q);
        return prompt_from_text(q->model, (struct marked_text){.text = user, .marks = marks, .n = n}, true, &po, &q->arena, &q->prompt, e);
    }
    json_t *parts = json_array(), *messages = json_pack("[{s:s, s:O}]", "role", "user", "content", parts);
    int failed = !messages;
    for (size_t i = 0; i < q->pictures.n; i++) failed |= json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
    failed |= json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", user)); /* fails for text that is not UTF-8 */
    int rc = failed ? err_set(e, ERR_INPUT, "--prompt: is not valid UTF-8") : from_messages(q, messages, e);
    json_decref(parts);
    json_decref(messages);
    return rc;
}

int question_open(struct question *q, const char *dir, const struct options *o, const json_t *messages, const struct buf *prompt,
                  const char *user, struct err *e)
{
    *q = (struct question){0};
    arena_init(&q->arena, ARENA_MAX_BYTES);
    int rc = prompt_model_open(&q->model, dir, e);
    if (rc) return rc;
    const struct prompt_info *info = prompt_model_info(q->model);
    if (user) q->max_context = info->max_context;
    if (o->n_images && !info->has_images) return err_set(e, ERR_UNSUPPORTED, "--image: this model does not take pictures");
    if (o->n_images) {
        bool low = o->image_detail && !strcmp(o->image_detail, "low");
        rc = pictures_decode(&q->pictures, o->images, (size_t)o->n_images, &info->images, low, e);
        if (rc) return rc;
    }
    if (messages) return from_messages(q, messages, e);
    if (user) return from_user(q, user, e);
    struct prompt_options po = prompt_options(q);
    struct marked_text text = {.text = prompt->data, .n = prompt->len};
    return prompt_from_text(q->model, text, false, &po, &q->arena, &q->prompt, e);
}

void question_close(struct question *q)
{
    pictures_close(&q->pictures);
    prompt_model_close(q->model);
    arena_free(&q->arena);
    q->model = NULL;
}

int question_tiles(struct question *q, const struct frame_tile **tiles, uint32_t *n_tiles, const int **fds, uint32_t *n_fds, struct err *e)
{
    const struct pictures *p = &q->pictures;
    struct frame_tile *t = arena_array(&q->arena, pictures_tiles(p) + 1, sizeof *t);
    int *f = arena_array(&q->arena, p->n + 1, sizeof *f);
    if (!t || !f) return err_set(e, ERR_MEMORY, "out of memory");
    *n_tiles = 0;
    for (size_t i = 0; i < p->n; i++) {
        f[i] = p->replies[i].tiles_fd;
        for (int k = 0; k < p->replies[i].n_tiles; k++) {
            struct frame_tile *one = &t[(*n_tiles)++];
            *one = (struct frame_tile){.fd_index = (uint32_t)i, .tile_index = (uint32_t)k};
            memcpy(one->hash, p->replies[i].hash[k], FRAME_HASH_BYTES);
        }
    }
    *tiles = t;
    *fds = f;
    *n_fds = (uint32_t)p->n;
    return 0;
}
