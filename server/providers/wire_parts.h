/* What the wires share: for files of this folder only. */
#ifndef SPILLWAY_SERVER_PROVIDERS_WIRE_PARTS_H
#define SPILLWAY_SERVER_PROVIDERS_WIRE_PARTS_H

#include "server/providers/wire.h"
#include "server/sse_read.h"

/* --- JSON trees: what fails sticks, and is looked at once at the end --- */

struct tree {
    bool failed; /* no memory */
};

json_t *tree_object(struct tree *t);
json_t *tree_array(struct tree *t);
json_t *tree_text(struct tree *t, const char *s);
json_t *tree_text_n(struct tree *t, const char *p, size_t n);
json_t *tree_integer(struct tree *t, int64_t v);
json_t *tree_ref(const json_t *v);                  /* the very value, once more */
json_t *tree_copy(struct tree *t, const json_t *v); /* shallow */
/* Both take v over; NULL counts as failed. */
void tree_set(struct tree *t, json_t *object, const char *key, json_t *v);
void tree_push(struct tree *t, json_t *array, json_t *v);

/* A string member, or NULL. */
const char *member_text(const json_t *object, const char *key);
/* An integer member; false: not there, not an integer. */
bool member_int(const json_t *object, const char *key, int64_t *out);
bool text_is(const json_t *v, const char *s);

#define FOR_MEMBERS(object, key, value)                                                                                                    \
    for (void *it_ = json_object_iter((json_t *)(object));                                                                                 \
         it_ && ((key) = json_object_iter_key(it_), (value) = json_object_iter_value(it_), true);                                          \
         it_ = json_object_iter_next((json_t *)(object), it_))

/* --- requests --- */

enum wire_kind { WIRE_OPENAI, WIRE_ANTHROPIC, WIRE_GEMINI };

/* What becomes of a parameter on a wire. */
enum param_action { PARAM_PASS, PARAM_OWN, PARAM_LEFT_OUT };

/* Looks the name up in the table of parameters; an action or -ERR_UNSUPPORTED. */
int param_action(const struct provider_host *h, enum wire_kind kind, const char *name, const json_t *v, struct err *e);
/* The members of provider_options that are for this host, NULL: none; fails when they are no object or say what is ours to say. */
int param_options(const struct provider_host *h, const json_t *request, const json_t **out, struct err *e);
/* Puts the options into the body: a member that is an object there and here and is named in `into` (NULL-terminated) is merged, any other
 * replaces. */
void param_merge(struct tree *t, json_t *body, const json_t *options, const char *const *into, const char *const *skip);

struct encode {
    const struct provider_host *host;
    const json_t *request;
    const json_t *options; /* provider_options of this host, or NULL */
    const struct wire_options *o;
    struct wire_request *out;
    struct tree t;
    json_t *body;
    struct err *e;
};

int wire_openai_encode(struct encode *x);
int wire_anthropic_encode(struct encode *x);
int wire_gemini_encode(struct encode *x);

/* "messages[3]", "messages[3].content[1]"; part < 0: none. */
void message_param(char out[96], size_t message, long part);
/* Roles, and the kinds of part that the host's row declares. */
int message_check_part(const struct provider_host *h, const json_t *part, const char *param, struct err *e);

/* For wires that translate messages: a member that has no place there is refused, not lost. An assistant's message may come from any
 * host, so of it only what would change the answer is. */
int message_check_members(const struct provider_host *h, const json_t *message, const char *param, struct err *e);

struct data_url {
    const char *media_type, *data;
    size_t n_media_type, n_data;
};
/* false: not a base64 data: URL. */
bool data_url_split(const char *url, struct data_url *out);
/* The URL of an image_url part (object or bare string), or NULL. */
const char *part_image_url(const json_t *part);
/* Appends s with every byte escaped that a path segment may not have. */
int path_append(char *path, size_t cap, const char *s, struct err *e);
/* A tool call's arguments: an object, from JSON text; "" is {}. A new reference. */
int arguments_read(const json_t *call, const char *param, json_t **out, struct err *e);
int wrong_member(struct err *e, const char *param, const char *wanted);

/* --- answers --- */

struct decoder_choice {
    bool seen, finished;
    enum finish_reason finish;
    char native[48]; /* the host's word, where ours says less; "" */
    uint32_t n_tools;
};

/* decode_repeat.c */
struct decoder_repeat {
    struct buf event;          /* the last that was learnt: n_before bytes, a text, n_behind bytes */
    size_t n_before, n_behind; /* n_before 0: none is */
    uint32_t choice;           /* whose text it is */
    /* of the event that is being read */
    uint32_t n_told;
    bool is_text; /* the last thing it told; borrowed from its tree */
    const char *text;
    size_t n_text;
};

struct decoder {
    const struct provider_host *host;
    const struct wire *wire;
    struct decoder_limits limits;
    decoder_event_fn *event;
    void *ctx;
    enum { BODY_UNKNOWN, BODY_STREAM, BODY_JSON } body;
    struct sse_read sse;
    struct buf json;
    size_t n_bytes;
    uint32_t n_choices, n_events; /* n_events: data events so far */
    struct decoder_choice choices[WIRE_MAX_CHOICES];
    bool complete, ended, has_content, has_error, asked_to_stop;
    struct provider_error error;
    struct usage usage;
    uint32_t n_usage;
    json_t *usage_object; /* the last one; Anthropic's is put together */
    json_t *chunk_told;   /* members of chunks that have gone on as extra */
    struct buf usage_raw;
    struct decoder_repeat repeat;
    char id[WIRE_MAX_ID_BYTES], model[WIRE_MAX_ID_BYTES];
    struct err *e; /* while feeding */
    union {
        struct {
            bool open;
            int64_t index;
            char type[32];
            uint32_t tool;
            size_t n_reasoning; /* bytes of this block's text */
            uint32_t n_blocks;  /* of reasoning, for the extra member */
        } anthropic;
        struct {
            bool blocked;
        } gemini;
    } wire_state;
};

struct wire {
    const char *name;
    enum wire_kind kind;
    int (*encode)(struct encode *x);
    /* One event of a stream; v: its data as JSON. May set d->complete. */
    int (*event)(struct decoder *d, const json_t *v);
    /* An answer that is no stream. */
    int (*whole)(struct decoder *d, const json_t *v);
    /* The data of an event that is no JSON and ends the stream; NULL: none. */
    const char *done_word;
    bool ends_with_body; /* there is no word for the end: the body's end, once every choice has finished */
};

/* Around an event that is read as a tree; note is decoder_emit's. */
void repeat_begin(struct decoder *d);
void repeat_note(struct decoder *d, const struct event *ev);
void repeat_learn(struct decoder *d, const char *data, size_t n);
/* true: it was one that repeats, and has been told; *rc is what that came to. */
bool repeat_take(struct decoder *d, const char *data, size_t n, int *rc);

int decoder_malformed(struct decoder *d, const char *what);
/* The host told an error: reads it and returns -ERR_GONE. */
int decoder_told_error(struct decoder *d, const json_t *root);
int decoder_emit(struct decoder *d, const struct event *ev);
int decoder_text(struct decoder *d, enum event_type type, uint32_t choice, const char *p, size_t n, const struct event_extra *extra);
int decoder_tool(struct decoder *d, uint32_t choice, const struct event_tool_call *call);
/* A tool call whose arguments are an object in place of text. */
int decoder_tool_object(struct decoder *d, uint32_t choice, struct event_tool_call *call, const json_t *arguments);
void decoder_finish(struct decoder *d, uint32_t choice, enum finish_reason reason, const char *native);
/* Keeps the object as the last usage and tells it, if u says anything. */
int decoder_take_usage(struct decoder *d, const struct usage *u, const json_t *object);
void decoder_note_id(struct decoder *d, const json_t *id, const json_t *model);
/* A choice's index from the host, checked. */
int decoder_choice(struct decoder *d, const json_t *index, uint32_t *out);

#endif
