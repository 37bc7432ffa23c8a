/* Frame protocol between the gateway and a worker: one SOCK_STREAM Unix socket, frames of at most 1 MiB.
 *
 * A frame is a header of 8 bytes (uint32 length of the body, uint16 type, uint16 number of descriptors that ride with
 * it by SCM_RIGHTS), then the body, little-endian, fixed-width fields in the order of the structs below, lists behind a
 * count. Both ends treat the other's frames as hostile: every count is checked against the bytes that are there, every
 * id against what is known; a malformed frame closes the connection. Version and model hash are exchanged first
 * (hello). The worker never blocks on the socket: a bounded queue, then it drops the connection and exits. Decoders
 * fill structs whose pointers borrow the frame's body (until the next frame_conn_next) except descriptors, which the
 * receiver owns and must close. */
#ifndef SPILLWAY_ENGINE_FRAME_H
#define SPILLWAY_ENGINE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    FRAME_VERSION = 3,
    FRAME_MAX_BYTES = 1 << 20, /* of a body */
    FRAME_MAX_FDS = 32,        /* of a frame */
    FRAME_MAX_ROWS = 4096,     /* of a step; max_sequences stays below */
    FRAME_MAX_TOP = 20,        /* alternatives of a token */
    FRAME_HASH_BYTES = 32
};

enum frame_type {
    FRAME_HELLO = 1,  /* both ways, first; the worker's carries the model's limits */
    FRAME_SUBMIT,     /* gateway -> worker */
    FRAME_CANCEL,     /* gateway -> worker */
    FRAME_STEP,       /* worker -> gateway: everything one step produced, for all sequences */
    FRAME_PREDICTION, /* worker -> gateway: load and speed */
    FRAME_DRAIN,      /* gateway -> worker: finish what runs, take nothing new, exit 0 */
    FRAME_FAILED,     /* worker -> gateway, in place of its hello: why it cannot serve; then it exits */
    /* adapter load/unload and compiled grammars come with their features */
};

struct frame_hello {
    uint32_t version;
    uint8_t model_hash[FRAME_HASH_BYTES]; /* BLAKE2b-256 over config.json and the weight files' headers */
    uint32_t max_context;                 /* tokens a sequence may have in all */
    uint32_t vocab;                       /* rows of the LM head */
    uint32_t block_tokens;                /* KV block size */
    uint32_t n_blocks;                    /* KV blocks in all */
    uint32_t max_sequences;               /* running and queued */
    uint32_t tile_px, tokens_per_tile;    /* 0: no pictures */
    int32_t image_token;                  /* id that stands for one picture embedding; -1: none */
    uint64_t weight_bytes, kv_bytes;      /* memory taken at start */
    char device[64];                      /* "cpu (AVX-512 BF16)", NUL-terminated */
};

struct frame_sampling {
    float temperature;                                             /* 0: greedy */
    float top_p;                                                   /* 1: off */
    float min_p;                                                   /* 0: off */
    int32_t top_k;                                                 /* 0: off */
    float frequency_penalty, presence_penalty, repetition_penalty; /* 0, 0, 1: off */
    uint64_t seed;
    uint32_t choice;      /* index of the choice: Philox(seed, choice, position) */
    int32_t top_logprobs; /* -1: no logprobs; 0..20 alternatives besides the chosen token */
    uint32_t max_tokens;  /* >= 1 */
    uint32_t min_tokens;  /* end-of-sequence ids are not sampled before */
    bool ignore_eos;
};

struct frame_tile {
    uint8_t hash[FRAME_HASH_BYTES]; /* over the preprocessed pixels */
    uint32_t fd_index;              /* which of the frame's descriptors */
    uint32_t tile_index;            /* which tile in that memfd: uint8 (tiles, 3, tile_px, tile_px) */
};

struct frame_bias {
    int32_t token;
    float bias;
};

struct frame_submit {
    uint64_t sequence;   /* chosen by the gateway, never reused in a connection */
    uint64_t account;    /* opaque; who shares an account shares its turn and its cached prompts. 0: nobody is told apart */
    uint32_t weight;     /* fair share of that account, >= 1 */
    int32_t priority;    /* higher goes first; 0 is usual */
    int64_t deadline_ms; /* boot clock; 0: none */
    struct frame_sampling sampling;
    const int32_t *ids; /* the prompt, picture positions filled with the image token */
    uint32_t n_ids;
    const struct frame_tile *tiles; /* in the order of their positions in the prompt */
    uint32_t n_tiles;
    const int32_t *eos; /* ids that end the sequence (generation_config) */
    uint32_t n_eos;
    const int32_t *banned; /* ids never sampled (image token, placeholders) */
    uint32_t n_banned;
    const struct frame_bias *bias;
    uint32_t n_bias;
    const int *fds; /* sealed memfds; on receipt owned by the receiver */
    uint32_t n_fds;
};

struct frame_cancel {
    uint64_t sequence;
};

enum finish_reason {
    FINISH_NONE = 0,
    FINISH_STOP,      /* an end-of-sequence id (which is not among the tokens) */
    FINISH_LENGTH,    /* max_tokens or the context */
    FINISH_CANCELLED, /* by cancel or deadline */
    FINISH_ERROR,     /* err says why; ERR_NUMERIC for a non-finite row. The last that a frame may hold: the others are hosted providers' */
    FINISH_TOOL_CALLS,
    FINISH_CONTENT_FILTER
};

struct frame_logprob {
    int32_t token;
    float logprob; /* of the raw logits */
};

struct frame_step_row {
    uint64_t sequence;
    uint32_t n_tokens; /* 0 when only a finish is told */
    const int32_t *tokens;
    /* if the sequence asked for logprobs: per token, the chosen one first and then n_top alternatives by falling
     * logprob */
    uint32_t n_top;
    const struct frame_logprob *logprobs; /* n_tokens * (1 + n_top), or NULL */
    enum finish_reason finish;
    uint32_t cached_tokens; /* prompt tokens taken from the prefix cache; told with the first token */
    struct err err;         /* FINISH_ERROR only */
};

struct frame_step {
    const struct frame_step_row *rows;
    uint32_t n_rows;
};

/* What a request that comes now has to expect: a prompt of n tokens gets its first token after first_token_ms + n * prompt_token_ms. Routing,
 * the gateway's queue bounds and Retry-After are made of it. Nothing measured yet: the three speeds are 0. */
struct frame_prediction {
    uint32_t running, waiting;      /* sequences */
    uint32_t free_blocks, n_blocks; /* free: also what an eviction would free */
    uint32_t side_by_side;          /* sequences that make nine tenths of the most tokens a second: more only make each slower; 0: not known */
    float first_token_ms;           /* of an empty prompt: what is before it in the queue */
    float prompt_token_ms;          /* and for each of its own tokens */
    float tokens_per_s;             /* of one sequence, once it is running */
    float error_p90; /* of the predictions that have come true: 90 % were off by at most this share of what then happened; -1: none has */
};

struct frame_failed {
    struct err err; /* one line */
};

/* Encoders append one whole frame to out (a bounded queue: -ERR_LIMIT when it is full, or when the frame is too large, else
 * -ERR_MEMORY; out is then as before). */
MUST_USE int frame_put_hello(struct buf *out, const struct frame_hello *f);
MUST_USE int frame_put_submit(struct buf *out, const struct frame_submit *f);
MUST_USE int frame_put_cancel(struct buf *out, const struct frame_cancel *f);
MUST_USE int frame_put_step(struct buf *out, const struct frame_step *f);
MUST_USE int frame_put_prediction(struct buf *out, const struct frame_prediction *f);
MUST_USE int frame_put_drain(struct buf *out);
MUST_USE int frame_put_failed(struct buf *out, const struct frame_failed *f);

/* Connection: buffers both ways, passes descriptors. The socket is non-blocking. */
struct frame_conn;
MUST_USE int frame_conn_new(struct frame_conn **out, int sock, size_t max_queue_bytes, struct err *e); /* owns sock from success on */
void frame_conn_free(struct frame_conn *c);                                                            /* accepts NULL */
int frame_conn_fd(const struct frame_conn *c);
/* The queue to encode into; call frame_conn_flush afterwards. Descriptors that ride with the frame just put (and not
 * yet flushed) are dup-ed by frame_conn_attach; n_fds is that of the frame. When it fails, the frame is taken back from
 * the queue. */
struct buf *frame_conn_out(struct frame_conn *c);
MUST_USE int frame_conn_attach(struct frame_conn *c, const int *fds, uint32_t n_fds, struct err *e);
/* Writes what the socket takes. 0: all written, 1: some left (wait for EPOLLOUT), -ERR_GONE. */
MUST_USE int frame_conn_flush(struct frame_conn *c, struct err *e);
/* Reads what is there, some at a time; then call frame_conn_next until it gives 0. 0, -ERR_GONE (end of file),
 * -ERR_INPUT (malformed), or -ERR_MEMORY: nothing is lost, call again later. */
MUST_USE int frame_conn_read(struct frame_conn *c, struct err *e);

/* One received frame; type says which member holds. Pointers borrow until the next call. */
struct frame {
    enum frame_type type;
    union {
        struct frame_hello hello;
        struct frame_submit submit;
        struct frame_cancel cancel;
        struct frame_step step;
        struct frame_prediction prediction;
        struct frame_failed failed;
    } u;
};
/* 1: *f holds the next whole frame; 0: none yet; -ERR_MEMORY: nothing is lost, call again later (the socket may have no event
 * then); else negative: malformed (close the connection). Values have
 * been checked for their type's range; ids against the vocabulary, tiles against the memfd's size are the receiver's.
 */
MUST_USE int frame_conn_next(struct frame_conn *c, struct frame *f, struct err *e);

#endif
