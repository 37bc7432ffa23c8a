/* logits MODEL: the raw logits of a prompt at every position, for comparison with other implementations.
 * Writes into --out: input_ids.npy (int32), tiles_u8.npy (tiles, 3, height, width) where there are pictures, logits.npy
 * float32 (positions, vocab), greedy.json: the ids of the next tokens, each the largest logit (the lowest id of equal
 * ones), not stopping at end-of-sequence. It drives the model directly, without scheduler and sampler. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "server/cli/command.h"
#include "server/cli/model_run.h"
#include "server/cli/npy.h"
#include "server/cli/question.h"

enum { CHUNK_ROWS = 128 /* enough for the path of many rows */, IDS_FILE_MAX = 1 << 20 };

struct run {
    const struct options *o;
    struct model *model;
    const struct model_limits *limits;
    struct question question;
    int32_t *ids; /* prompt, and room for the greedy tokens */
    size_t n_ids, n_greedy;
    uint32_t *blocks; /* the whole cache in order */
    struct picture *picture;
    float *row; /* (vocab) */
};

/* ---- the prompt's three forms ---- */

static int read_ids(struct run *r, struct err *e)
{
    json_t *j;
    int rc = json_read_file(r->o->tokens_file, &json_limits_file, &j, e);
    if (rc) return rc;
    size_t n = json_array_size(j);
    if (!json_is_array(j) || n == 0 || n > IDS_FILE_MAX)
        rc = err_set(e, ERR_INPUT, "%s: is not a JSON array of token ids", r->o->tokens_file);
    int32_t *ids = rc ? NULL : arena_array(&r->question.arena, n, sizeof *ids);
    if (!rc && !ids) rc = err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) {
        json_t *v = json_array_get(j, i);
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id > INT32_MAX)
            rc = err_set(e, ERR_INPUT, "%s: item %zu is not a token id", r->o->tokens_file, i);
        else
            ids[i] = (int32_t)id;
    }
    r->question.prompt = (struct prompt){.ids = ids, .n_ids = n};
    json_decref(j);
    return rc;
}

static int open_ids(struct run *r, const char *dir, struct err *e)
{
    arena_init(&r->question.arena, 64 << 20);
    int rc = read_ids(r, e);
    if (rc || !r->o->n_images) return rc;
    struct image_settings settings;
    rc = image_settings_read(&settings, dir, e);
    if (!rc)
        rc = pictures_decode(&r->question.pictures, r->o->images, (size_t)r->o->n_images, &settings, !strcmp(r->o->image_detail, "low"), e);
    return rc;
}

static int open_prompt_file(struct run *r, const char *dir, struct err *e)
{
    struct buf text;
    buf_init(&text, 64 << 20);
    int rc = buf_read_file(&text, r->o->prompt_file, e);
    if (!rc) rc = question_open(&r->question, dir, r->o, NULL, &text, NULL, e);
    buf_free(&text); /* what the prompt keeps is in the arena, but for unexpanded text, which is not used further */
    return rc;
}

static int open_messages(struct run *r, const char *dir, struct err *e)
{
    json_t *messages;
    int rc = json_read_file(r->o->messages_file, &json_limits_request, &messages, e);
    if (!rc) rc = question_open(&r->question, dir, r->o, messages, NULL, NULL, e);
    json_decref(messages);
    return rc;
}

static int open_question(struct run *r, const char *dir, struct err *e)
{
    if (r->o->tokens_file) return open_ids(r, dir, e);
    return r->o->prompt_file ? open_prompt_file(r, dir, e) : open_messages(r, dir, e);
}

/* ---- pictures ---- */

static int encode_picture(struct run *r, struct npy *out, const struct media_reply *reply, uint32_t first_tile, struct err *e)
{
    size_t tile_bytes = (size_t)3 * r->limits->tile_px * r->limits->tile_px, n = (size_t)reply->n_tiles * tile_bytes;
    struct stat st;
    if (fstat(reply->tiles_fd, &st) || (size_t)st.st_size != n) return err_set(e, ERR_INTERNAL, "tiles: the memfd has not %zu bytes", n);
    uint8_t *p = mmap(NULL, n, PROT_READ, MAP_SHARED, reply->tiles_fd, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_IO, "tiles: %s", strerror(errno));
    int rc = npy_write(out, p, n, e);
    for (uint32_t i = 0; !rc && i < (uint32_t)reply->n_tiles; i++)
        rc = model_encode_tile(r->model, r->picture, first_tile + i, p + i * tile_bytes, e);
    munmap(p, n);
    return rc;
}

static int encode_pictures(struct run *r, struct err *e)
{
    const struct pictures *p = &r->question.pictures;
    const struct model_limits *l = r->limits;
    size_t n_tiles = pictures_tiles(p), positions = 0;
    for (size_t i = 0; i < r->n_ids; i++) positions += l->image_token >= 0 && r->ids[i] == l->image_token;
    if (n_tiles && positions != n_tiles * l->tokens_per_tile)
        return err_set(e, ERR_INPUT, "the prompt has %zu picture positions, %zu tiles of %u came", positions, n_tiles, l->tokens_per_tile);
    if (n_tiles == 0) return 0;
    struct npy out = {0};
    size_t shape[4] = {n_tiles, 3, l->tile_px, l->tile_px};
    int rc = picture_new(r->model, (uint32_t)n_tiles, &r->picture, e);
    if (!rc) rc = npy_open(&out, r->o->out, "tiles_u8.npy", NPY_U8, shape, 4, e);
    for (size_t i = 0, at = 0; !rc && i < p->n; at += (size_t)p->replies[i++].n_tiles)
        rc = encode_picture(r, &out, &p->replies[i], (uint32_t)at, e);
    return rc ? (npy_abandon(&out), rc) : npy_close(&out, e);
}

/* ---- logits ---- */

static int write_ids(struct run *r, struct err *e)
{
    struct npy out;
    int rc = npy_open(&out, r->o->out, "input_ids.npy", NPY_I32, &r->n_ids, 1, e);
    if (!rc) rc = npy_write(&out, r->ids, r->n_ids * sizeof *r->ids, e);
    return rc ? (npy_abandon(&out), rc) : npy_close(&out, e);
}

static int write_logits(struct run *r, struct err *e)
{
    const struct model_limits *l = r->limits;
    struct npy out;
    size_t shape[2] = {r->n_ids, l->vocab}, chunk = l->step_rows < CHUNK_ROWS ? l->step_rows : CHUNK_ROWS;
    uint32_t picture_row = 0;
    int rc = npy_open(&out, r->o->out, "logits.npy", NPY_F32, shape, 2, e);
    for (size_t at = 0; !rc && at < r->n_ids; at += chunk) {
        size_t n = r->n_ids - at < chunk ? r->n_ids - at : chunk;
        struct model_group g = {.tokens = r->ids + at,
                                .first_position = (uint32_t)at,
                                .n_rows = (uint32_t)n,
                                .prefill = true,
                                .blocks = r->blocks,
                                .picture = r->picture,
                                .picture_row = picture_row,
                                .all_logits = true};
        rc = model_step(r->model, &g, 1, e);
        for (size_t i = 0; !rc && i < n; i++) {
            rc = model_read_logits(r->model, i, r->row, e);
            if (!rc) rc = npy_write(&out, r->row, l->vocab * sizeof *r->row, e);
            picture_row += r->ids[at + i] == l->image_token;
        }
        fprintf(stderr, "\r%zu of %zu positions", at + n, r->n_ids);
    }
    fprintf(stderr, "\n");
    return rc ? (npy_abandon(&out), rc) : npy_close(&out, e);
}

/* The largest logit's id; -1 if any is not finite. */
static int32_t argmax(const float *row, size_t n)
{
    int32_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(row[i])) return -1;
        if (row[i] > row[best]) best = (int32_t)i;
    }
    return best;
}

/* r->row holds the logits of the last position. */
static int make_greedy(struct run *r, struct err *e)
{
    for (size_t i = 0; i < r->n_greedy; i++) {
        size_t at = r->n_ids + i;
        r->ids[at] = argmax(r->row, r->limits->vocab);
        if (r->ids[at] < 0) return err_set(e, ERR_NUMERIC, "a logit before position %zu is not finite", at);
        if (i + 1 == r->n_greedy) break;
        struct model_group g = {.tokens = r->ids + at, .first_position = (uint32_t)at, .n_rows = 1, .blocks = r->blocks, .logits = true};
        int rc = model_step(r->model, &g, 1, e);
        if (!rc) rc = model_read_logits(r->model, 0, r->row, e);
        if (rc) return rc;
    }
    return 0;
}

static int write_greedy(const struct run *r, struct err *e)
{
    char path[NPY_MAX_PATH];
    if (snprintf(path, sizeof path, "%s/greedy.json", r->o->out) >= (int)sizeof path)
        return err_set(e, ERR_LIMIT, "%.200s: path is too long", r->o->out);
    FILE *f = fopen(path, "we");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t i = 0; i < r->n_greedy; i++) fprintf(f, "%s%d", i ? ", " : "[", (int)r->ids[r->n_ids + i]);
    fputs(r->n_greedy ? "]\n" : "[]\n", f);
    bool failed = ferror(f);
    if (fclose(f) || failed) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    return 0;
}

static int take_room(struct run *r, struct err *e)
{
    const struct model_limits *l = r->limits;
    const struct prompt *p = &r->question.prompt;
    r->n_ids = p->n_ids;
    /* Beyond the model's context the figures are still defined, and comparisons want them; only the cache limits. */
    size_t cache = (size_t)l->n_blocks * l->block_tokens;
    if (r->n_ids > cache) return err_set(e, ERR_LIMIT, "the prompt has %zu tokens, the KV cache takes %zu", r->n_ids, cache);
    if (r->n_ids > l->max_context)
        fprintf(stderr, "note: the prompt has %zu tokens, the model's context is %u\n", r->n_ids, l->max_context);
    size_t room = cache - r->n_ids + 1; /* the last one is not computed */
    r->n_greedy = (size_t)r->o->max_tokens < room ? (size_t)r->o->max_tokens : room;
    r->ids = calloc(r->n_ids + r->n_greedy, sizeof *r->ids);
    r->blocks = calloc(l->n_blocks, sizeof *r->blocks);
    r->row = calloc(l->vocab, sizeof *r->row);
    if (!r->ids || !r->blocks || !r->row) return err_set(e, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < l->n_blocks; i++) r->blocks[i] = i;
    for (size_t i = 0; i < r->n_ids; i++) {
        r->ids[i] = p->ids[i];
        if ((uint32_t)p->ids[i] >= l->vocab)
            return err_set(e, ERR_INPUT, "token %d (item %zu) is outside the vocabulary of %u", (int)p->ids[i], i, l->vocab);
    }
    return 0;
}

static int run(struct run *r, const char *dir, struct err *e)
{
    if (mkdir(r->o->out, 0777) && errno != EEXIST) return err_set(e, ERR_IO, "%s: %s", r->o->out, strerror(errno));
    int rc = open_question(r, dir, e);
    if (!rc) rc = model_run_open(&r->model, dir, r->o, COMPUTE_F32, r->question.prompt.n_ids + (uint64_t)r->o->max_tokens, NULL, e);
    if (rc) return rc;
    r->limits = model_limits(r->model);
    rc = take_room(r, e);
    if (!rc) rc = write_ids(r, e);
    if (!rc) rc = encode_pictures(r, e);
    if (!rc) rc = write_logits(r, e);
    if (!rc) rc = make_greedy(r, e);
    if (!rc) rc = write_greedy(r, e);
    return rc;
}

static int check_usage(const struct options *o, struct err *e)
{
    int n_inputs = (o->tokens_file != NULL) + (o->prompt_file != NULL) + (o->messages_file != NULL);
    if (n_inputs != 1) return err_set(e, ERR_INPUT, "logits takes one of --tokens, --prompt-file and --messages");
    if (!o->out) return err_set(e, ERR_INPUT, "logits needs --out DIR");
    if (o->random_weights && (!o->tokens_file || o->n_images))
        return err_set(e, ERR_INPUT, "random weights have no tokenizer and no pictures: give --tokens");
    return 0;
}

int command_logits(const struct options *o)
{
    struct err e = {0};
    char path[4096];
    const char *dir;
    int rc = check_usage(o, &e);
    if (!rc) rc = model_run_dir(o, path, sizeof path, &dir, &e);
    if (rc == -ERR_INPUT) return command_usage_error(&e);
    struct run r = {.o = o};
    if (!rc) rc = run(&r, dir, &e);
    if (r.model) picture_free(r.model, r.picture);
    model_close(r.model);
    question_close(&r.question);
    free(r.ids);
    free(r.blocks);
    free(r.row);
    return rc ? command_error(&e) : COMMAND_OK;
}
