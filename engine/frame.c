/* Frames on the wire: see frame.h. Start at frame_put_submit and read_submit, which mirror each other field by field.
 * Encoders write into a buffer and know nothing of sockets; frame_conn.c carries the bytes. */
#include "engine/frame.h"

#include <math.h>
#include <string.h>

#include "base/str.h"
#include "engine/frame_wire.h"

/* ---- writing ---- */

static void put_bytes(struct buf *b, const void *p, size_t n)
{
    buf_append(b, p, n);
}
static void put_u8(struct buf *b, uint8_t v)
{
    buf_append(b, &v, 1);
}

static void put_le(struct buf *b, uint64_t v, size_t n_bytes)
{
    uint8_t le[8];
    for (size_t i = 0; i < n_bytes; i++) le[i] = (uint8_t)(v >> (8 * i));
    buf_append(b, le, n_bytes);
}
static void put_u16(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}
static void put_u32(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}
static void put_u64(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}
static void put_i32(struct buf *b, int32_t v)
{
    put_le(b, (uint32_t)v, 4);
}

static void put_f32(struct buf *b, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u32(b, bits);
}

static void put_i32s(struct buf *b, const int32_t *v, uint32_t n)
{
    put_u32(b, n);
    for (uint32_t i = 0; i < n; i++) put_i32(b, v[i]);
}

/* A string of at most max - 1 bytes; what struct err holds always fits. */
static void put_string(struct buf *b, const char *s, size_t max)
{
    size_t n = strnlen(s, max - 1);
    put_u16(b, (uint16_t)n);
    put_bytes(b, s, n);
}

/* Opens a frame and returns where it starts; frame_end writes its length, or takes the frame back if it did not fit. */
static size_t frame_begin(struct buf *out, enum frame_type type, uint32_t n_fds)
{
    size_t start = out->len;
    put_u32(out, 0);
    put_u16(out, (uint16_t)type);
    put_u16(out, (uint16_t)n_fds);
    return start;
}

static int frame_end(struct buf *out, size_t start)
{
    int rc = out->failed;
    size_t body = rc ? 0 : out->len - start - FRAME_HEADER_BYTES;
    if (!rc && body > FRAME_MAX_BYTES) rc = -ERR_LIMIT;
    if (rc) {
        /* A full queue is the caller's news, not a damage: frames put earlier stay and later ones may fit again. */
        out->len = start;
        if (out->data) out->data[start] = '\0';
        out->failed = 0;
        return rc;
    }
    for (size_t i = 0; i < 4; i++) out->data[start + i] = (char)(body >> (8 * i));
    return 0;
}

int frame_put_hello(struct buf *out, const struct frame_hello *f)
{
    if (out->failed) return out->failed;
    size_t start = frame_begin(out, FRAME_HELLO, 0);
    put_u32(out, f->version);
    put_bytes(out, f->model_hash, sizeof f->model_hash);
    put_u32(out, f->max_context);
    put_u32(out, f->vocab);
    put_u32(out, f->block_tokens);
    put_u32(out, f->n_blocks);
    put_u32(out, f->max_sequences);
    put_u32(out, f->tile_px);
    put_u32(out, f->tokens_per_tile);
    put_i32(out, f->image_token);
    put_u64(out, f->weight_bytes);
    put_u64(out, f->kv_bytes);
    put_string(out, f->device, sizeof f->device);
    return frame_end(out, start);
}

static void put_sampling(struct buf *out, const struct frame_sampling *s)
{
    put_f32(out, s->temperature);
    put_f32(out, s->top_p);
    put_f32(out, s->min_p);
    put_i32(out, s->top_k);
    put_f32(out, s->frequency_penalty);
    put_f32(out, s->presence_penalty);
    put_f32(out, s->repetition_penalty);
    put_u64(out, s->seed);
    put_u32(out, s->choice);
    put_i32(out, s->top_logprobs);
    put_u32(out, s->max_tokens);
    put_u32(out, s->min_tokens);
    put_u8(out, s->ignore_eos);
}

int frame_put_submit(struct buf *out, const struct frame_submit *f)
{
    if (out->failed) return out->failed;
    if (f->n_fds > FRAME_MAX_FDS) return -ERR_LIMIT;
    size_t start = frame_begin(out, FRAME_SUBMIT, f->n_fds);
    put_u64(out, f->sequence);
    put_u64(out, f->account);
    put_u32(out, f->weight);
    put_i32(out, f->priority);
    put_u64(out, (uint64_t)f->deadline_ms);
    put_sampling(out, &f->sampling);
    put_i32s(out, f->ids, f->n_ids);
    put_u32(out, f->n_tiles);
    for (uint32_t i = 0; i < f->n_tiles; i++) {
        put_bytes(out, f->tiles[i].hash, FRAME_HASH_BYTES);
        put_u32(out, f->tiles[i].fd_index);
        put_u32(out, f->tiles[i].tile_index);
    }
    put_i32s(out, f->eos, f->n_eos);
    put_i32s(out, f->banned, f->n_banned);
    put_u32(out, f->n_bias);
    for (uint32_t i = 0; i < f->n_bias; i++) {
        put_i32(out, f->bias[i].token);
        put_f32(out, f->bias[i].bias);
    }
    return frame_end(out, start);
}

int frame_put_cancel(struct buf *out, const struct frame_cancel *f)
{
    if (out->failed) return out->failed;
    size_t start = frame_begin(out, FRAME_CANCEL, 0);
    put_u64(out, f->sequence);
    return frame_end(out, start);
}

static void put_err(struct buf *out, const struct err *e)
{
    put_u16(out, (uint16_t)e->code);
    put_string(out, e->param, sizeof e->param);
    put_string(out, e->msg, sizeof e->msg);
}

static void put_step_row(struct buf *out, const struct frame_step_row *r)
{
    put_u64(out, r->sequence);
    put_u8(out, (uint8_t)r->finish);
    put_u32(out, r->cached_tokens);
    put_i32s(out, r->tokens, r->n_tokens);
    put_u8(out, r->logprobs != NULL);
    if (r->logprobs) {
        put_u32(out, r->n_top);
        size_t n = (size_t)r->n_tokens * (1 + (size_t)r->n_top);
        for (size_t i = 0; i < n; i++) {
            put_i32(out, r->logprobs[i].token);
            put_f32(out, r->logprobs[i].logprob);
        }
    }
    if (r->finish == FINISH_ERROR) put_err(out, &r->err);
}

int frame_put_step(struct buf *out, const struct frame_step *f)
{
    if (out->failed) return out->failed;
    if (f->n_rows > FRAME_MAX_ROWS) return -ERR_LIMIT;
    size_t start = frame_begin(out, FRAME_STEP, 0);
    put_u32(out, f->n_rows);
    for (uint32_t i = 0; i < f->n_rows; i++) put_step_row(out, &f->rows[i]);
    return frame_end(out, start);
}

int frame_put_prediction(struct buf *out, const struct frame_prediction *f)
{
    if (out->failed) return out->failed;
    size_t start = frame_begin(out, FRAME_PREDICTION, 0);
    put_u32(out, f->running);
    put_u32(out, f->waiting);
    put_u32(out, f->free_blocks);
    put_u32(out, f->n_blocks);
    put_u32(out, f->side_by_side);
    put_f32(out, f->first_token_ms);
    put_f32(out, f->prompt_token_ms);
    put_f32(out, f->tokens_per_s);
    put_f32(out, f->error_p90);
    return frame_end(out, start);
}

int frame_put_drain(struct buf *out)
{
    if (out->failed) return out->failed;
    return frame_end(out, frame_begin(out, FRAME_DRAIN, 0));
}

int frame_put_failed(struct buf *out, const struct frame_failed *f)
{
    if (out->failed) return out->failed;
    size_t start = frame_begin(out, FRAME_FAILED, 0);
    put_err(out, &f->err);
    return frame_end(out, start);
}

/* ---- reading: a cursor that turns bad at the first fault and then gives zeroes; the fault's name and offset are kept
 * ---- */

struct reader {
    const uint8_t *p;
    size_t n, at;
    struct arena *arena;
    const char *fault; /* NULL: all well so far */
    size_t fault_at;
};

static void reader_fail(struct reader *r, const char *fault)
{
    if (r->fault) return;
    r->fault = fault;
    r->fault_at = r->at;
}

static const uint8_t *get_bytes(struct reader *r, size_t n)
{
    if (r->fault) return NULL;
    if (n > r->n - r->at) {
        reader_fail(r, "ends inside a field");
        return NULL;
    }
    const uint8_t *p = r->p + r->at;
    r->at += n;
    return p;
}

static uint64_t get_le(struct reader *r, size_t n_bytes)
{
    const uint8_t *p = get_bytes(r, n_bytes);
    uint64_t v = 0;
    for (size_t i = 0; p && i < n_bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}
static uint8_t get_u8(struct reader *r)
{
    return (uint8_t)get_le(r, 1);
}
static uint16_t get_u16(struct reader *r)
{
    return (uint16_t)get_le(r, 2);
}
static uint32_t get_u32(struct reader *r)
{
    return (uint32_t)get_le(r, 4);
}
static uint64_t get_u64(struct reader *r)
{
    return get_le(r, 8);
}
static int32_t get_i32(struct reader *r)
{
    return (int32_t)get_u32(r);
}

static bool get_bool(struct reader *r)
{
    uint8_t v = get_u8(r);
    if (v > 1) reader_fail(r, "a truth value is neither 0 nor 1");
    return v == 1;
}

static float get_f32(struct reader *r, float min, float max, const char *fault)
{
    uint32_t bits = get_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    if (!(v >= min && v <= max)) { /* false for NaN as well */
        reader_fail(r, fault);
        return min;
    }
    return v;
}

/* A count of items of at least item_bytes each, and memory for them. The bytes must be there before memory is taken. */
static void *get_list(struct reader *r, uint32_t *count, size_t item_bytes, size_t item_size)
{
    *count = 0;
    uint32_t n = get_u32(r);
    if (r->fault || n == 0) return NULL;
    if (n > (r->n - r->at) / item_bytes) {
        reader_fail(r, "a count exceeds the bytes that are there");
        return NULL;
    }
    void *items = arena_array(r->arena, n, item_size);
    if (!items) {
        reader_fail(r, "needs more memory than a frame may");
        return NULL;
    }
    *count = n;
    return items;
}

static const int32_t *get_i32s(struct reader *r, uint32_t *count)
{
    int32_t *v = get_list(r, count, 4, sizeof *v);
    for (uint32_t i = 0; i < *count; i++) {
        v[i] = get_i32(r);
        if (v[i] < 0) reader_fail(r, "a token id is negative");
    }
    return v;
}

static void get_string(struct reader *r, char *out, size_t cap)
{
    size_t n = get_u16(r);
    if (!r->fault && n >= cap) reader_fail(r, "a string is too long");
    const uint8_t *p = get_bytes(r, n);
    out[0] = '\0';
    if (!p) return;
    if (memchr(p, 0, n) || !utf8_valid((const char *)p, n)) {
        reader_fail(r, "a string is not text");
        return;
    }
    memcpy(out, p, n);
    out[n] = '\0';
}

static void get_hash(struct reader *r, uint8_t out[FRAME_HASH_BYTES])
{
    const uint8_t *p = get_bytes(r, FRAME_HASH_BYTES);
    if (p) memcpy(out, p, FRAME_HASH_BYTES);
}

/* One line of text: it is shown to people and written to logs. */
static bool is_line(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f) return false;
    return true;
}

static void read_hello(struct reader *r, struct frame_hello *f)
{
    f->version = get_u32(r);
    if (!r->fault && f->version != FRAME_VERSION) reader_fail(r, "another version of the frame protocol");
    get_hash(r, f->model_hash);
    f->max_context = get_u32(r);
    f->vocab = get_u32(r);
    f->block_tokens = get_u32(r);
    f->n_blocks = get_u32(r);
    f->max_sequences = get_u32(r);
    f->tile_px = get_u32(r);
    f->tokens_per_tile = get_u32(r);
    f->image_token = get_i32(r);
    f->weight_bytes = get_u64(r);
    f->kv_bytes = get_u64(r);
    get_string(r, f->device, sizeof f->device);
    if (!is_line(f->device)) reader_fail(r, "a string is not one line");
    if (f->image_token < -1 || f->image_token >= (int64_t)f->vocab || f->vocab > INT32_MAX || f->tile_px > 1u << 14 ||
        f->tokens_per_tile > 1u << 20)
        reader_fail(r, "a limit is out of range");
    /* Pictures need all three, or nothing of them is used. */
    if ((f->tile_px == 0) != (f->tokens_per_tile == 0)) reader_fail(r, "tiles without tokens");
}

static void read_sampling(struct reader *r, struct frame_sampling *s)
{
    s->temperature = get_f32(r, 0, 1e6f, "temperature is out of range");
    s->top_p = get_f32(r, 0, 1, "top_p is out of range");
    s->min_p = get_f32(r, 0, 1, "min_p is out of range");
    s->top_k = get_i32(r);
    if (s->top_k < 0) reader_fail(r, "top_k is negative");
    s->frequency_penalty = get_f32(r, -1e6f, 1e6f, "frequency_penalty is out of range");
    s->presence_penalty = get_f32(r, -1e6f, 1e6f, "presence_penalty is out of range");
    s->repetition_penalty = get_f32(r, 1e-6f, 1e6f, "repetition_penalty is out of range");
    s->seed = get_u64(r);
    s->choice = get_u32(r);
    s->top_logprobs = get_i32(r);
    if (s->top_logprobs < -1 || s->top_logprobs > FRAME_MAX_TOP) reader_fail(r, "top_logprobs is out of range");
    s->max_tokens = get_u32(r);
    if (!r->fault && s->max_tokens == 0) reader_fail(r, "max_tokens is 0");
    s->min_tokens = get_u32(r);
    s->ignore_eos = get_bool(r);
}

static void read_submit(struct reader *r, struct frame_submit *f, const int *fds, uint32_t n_fds)
{
    f->sequence = get_u64(r);
    f->account = get_u64(r);
    f->weight = get_u32(r);
    if (!r->fault && f->weight == 0) reader_fail(r, "weight is 0");
    f->priority = get_i32(r);
    f->deadline_ms = (int64_t)get_u64(r);
    if (f->deadline_ms < 0) reader_fail(r, "the deadline is negative");
    read_sampling(r, &f->sampling);
    f->ids = get_i32s(r, &f->n_ids);
    if (!r->fault && f->n_ids == 0) reader_fail(r, "the prompt is empty");
    struct frame_tile *tiles = get_list(r, &f->n_tiles, FRAME_HASH_BYTES + 8, sizeof *tiles);
    for (uint32_t i = 0; i < f->n_tiles; i++) {
        get_hash(r, tiles[i].hash);
        tiles[i].fd_index = get_u32(r);
        tiles[i].tile_index = get_u32(r);
        if (!r->fault && tiles[i].fd_index >= n_fds) reader_fail(r, "a tile names a descriptor that did not come");
    }
    f->tiles = tiles;
    f->eos = get_i32s(r, &f->n_eos);
    f->banned = get_i32s(r, &f->n_banned);
    struct frame_bias *bias = get_list(r, &f->n_bias, 8, sizeof *bias);
    for (uint32_t i = 0; i < f->n_bias; i++) {
        bias[i].token = get_i32(r);
        if (bias[i].token < 0) reader_fail(r, "a token id is negative");
        bias[i].bias = get_f32(r, -1e6f, 1e6f, "a bias is out of range");
    }
    f->bias = bias;
    f->fds = fds;
    f->n_fds = n_fds;
}

static void read_err(struct reader *r, struct err *e)
{
    uint16_t code = get_u16(r);
    if (!r->fault && (code == ERR_NONE || code >= ERR_CODES)) reader_fail(r, "an unknown error code");
    e->code = r->fault ? ERR_INTERNAL : (enum err_code)code;
    get_string(r, e->param, sizeof e->param);
    get_string(r, e->msg, sizeof e->msg);
}

static void read_step_row(struct reader *r, struct frame_step_row *row)
{
    row->sequence = get_u64(r);
    uint8_t finish = get_u8(r);
    if (finish > FINISH_ERROR) reader_fail(r, "an unknown finish reason");
    row->finish = r->fault ? FINISH_NONE : (enum finish_reason)finish;
    row->cached_tokens = get_u32(r);
    row->tokens = get_i32s(r, &row->n_tokens);
    if (get_bool(r)) {
        row->n_top = get_u32(r);
        if (row->n_top > FRAME_MAX_TOP) reader_fail(r, "too many alternatives of a token");
        size_t n = r->fault ? 0 : (size_t)row->n_tokens * (1 + (size_t)row->n_top);
        if (n > (r->n - r->at) / 8) reader_fail(r, "a count exceeds the bytes that are there");
        struct frame_logprob *lp = r->fault ? NULL : arena_array(r->arena, n, sizeof *lp);
        if (!r->fault && !lp) reader_fail(r, "needs more memory than a frame may");
        for (size_t i = 0; !r->fault && i < n; i++) {
            lp[i].token = get_i32(r);
            if (lp[i].token < 0) reader_fail(r, "a token id is negative");
            lp[i].logprob = get_f32(r, -INFINITY, 1e-3f, "a logprob is out of range"); /* rounding may pass 0 by a hair */
        }
        row->logprobs = lp;
    }
    if (row->finish == FINISH_ERROR) read_err(r, &row->err);
}

enum { STEP_ROW_MIN_BYTES = 8 + 1 + 4 + 4 + 1 };

static void read_step(struct reader *r, struct frame_step *f)
{
    /* A row in memory is far larger than on the wire (it holds a struct err): the count is bounded by itself, too. */
    if (r->n >= 4 && (uint32_t)(r->p[0] | r->p[1] << 8 | r->p[2] << 16 | (uint32_t)r->p[3] << 24) > FRAME_MAX_ROWS) {
        reader_fail(r, "too many rows in a step");
        return;
    }
    struct frame_step_row *rows = get_list(r, &f->n_rows, STEP_ROW_MIN_BYTES, sizeof *rows);
    for (uint32_t i = 0; !r->fault && i < f->n_rows; i++) read_step_row(r, &rows[i]);
    f->rows = rows;
}

static void read_prediction(struct reader *r, struct frame_prediction *f)
{
    f->running = get_u32(r);
    f->waiting = get_u32(r);
    f->free_blocks = get_u32(r);
    f->n_blocks = get_u32(r);
    f->side_by_side = get_u32(r);
    if (f->free_blocks > f->n_blocks) reader_fail(r, "more blocks are free than there are");
    f->first_token_ms = get_f32(r, 0, 1e12f, "first_token_ms is out of range");
    f->prompt_token_ms = get_f32(r, 0, 1e12f, "prompt_token_ms is out of range");
    f->tokens_per_s = get_f32(r, 0, 1e12f, "tokens_per_s is out of range");
    f->error_p90 = get_f32(r, -1, 1e12f, "error_p90 is out of range");
    if (f->error_p90 < 0 && f->error_p90 > -1) reader_fail(r, "error_p90 is out of range");
}

int frame_decode(enum frame_type type, const uint8_t *body, size_t n, const int *fds, uint32_t n_fds, struct arena *arena, struct frame *f,
                 struct err *e)
{
    *f = (struct frame){.type = type};
    struct reader r = {.p = body, .n = n, .arena = arena};
    if (n_fds && type != FRAME_SUBMIT) reader_fail(&r, "this type carries no descriptors");
    switch (type) {
    case FRAME_HELLO:
        read_hello(&r, &f->u.hello);
        break;
    case FRAME_SUBMIT:
        read_submit(&r, &f->u.submit, fds, n_fds);
        break;
    case FRAME_CANCEL:
        f->u.cancel.sequence = get_u64(&r);
        break;
    case FRAME_STEP:
        read_step(&r, &f->u.step);
        break;
    case FRAME_PREDICTION:
        read_prediction(&r, &f->u.prediction);
        break;
    case FRAME_DRAIN:
        break;
    case FRAME_FAILED:
        read_err(&r, &f->u.failed.err);
        if (!is_line(f->u.failed.err.msg)) reader_fail(&r, "a string is not one line");
        break;
    default:
        reader_fail(&r, "unknown type");
        break;
    }
    if (!r.fault && r.at != n) reader_fail(&r, "bytes are left over");
    if (!r.fault) return 0;
    if (arena->no_memory) return err_set(e, ERR_MEMORY, "out of memory for a frame of %zu bytes", n);
    return err_set(e, ERR_INPUT, "frame of type %d, %zu bytes: %s at byte %zu", (int)type, n, r.fault, r.fault_at);
}
