/* Decoders: the part that all wires share; see wire.h. What an answer is shows in its first byte: '{' is one JSON object (some hosts do not
 * stream), '<' is a page of some machine in between, anything else is read as an event stream. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

const struct decoder_limits decoder_limits_usual = {.max_bytes = 256u << 20, .max_json_bytes = 16u << 20};

static const struct json_limits event_limits = {.max_bytes = SSE_MAX_LINE_BYTES, .max_values = 100000, .max_depth = 64};
static const struct json_limits whole_limits = {.max_bytes = 64u << 20, .max_values = 400000, .max_depth = 64};

static int take_event(void *ctx, const char *name, const char *data, size_t n);

int decoder_new(struct decoder **out, const struct provider_host *h, uint32_t n_choices, const struct decoder_limits *limits,
                decoder_event_fn *event, void *ctx, struct err *e)
{
    CHECK(n_choices >= 1 && n_choices <= WIRE_MAX_CHOICES);
    struct decoder *d = *out = calloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_MEMORY, "out of memory");
    *d = (struct decoder){.host = h, .wire = h->row->wire, .limits = *limits, .event = event, .ctx = ctx, .n_choices = n_choices};
    sse_read_init(&d->sse, take_event, d);
    buf_init(&d->json, limits->max_json_bytes);
    buf_init(&d->usage_raw, WIRE_MAX_USAGE_BYTES);
    buf_init(&d->repeat.event, SSE_MAX_LINE_BYTES);
    return 0;
}

void decoder_free(struct decoder *d)
{
    if (!d) return;
    sse_read_free(&d->sse);
    buf_free(&d->json);
    buf_free(&d->usage_raw);
    buf_free(&d->repeat.event);
    json_decref(d->usage_object);
    json_decref(d->chunk_told);
    free(d);
}

int decoder_malformed(struct decoder *d, const char *what)
{
    return err_set(d->e, ERR_INPUT, "provider %s: %s", d->host->name, what);
}

int decoder_told_error(struct decoder *d, const json_t *root)
{
    struct provider_limits none;
    provider_limits_init(&none);
    provider_error_read_json(&d->error, d->host, 200, &none, root);
    d->has_error = true;
    return err_set(d->e, ERR_GONE, "provider %s: %.400s", d->host->name, d->error.message);
}

int decoder_emit(struct decoder *d, const struct event *ev)
{
    repeat_note(d, ev);
    int rc = d->event(d->ctx, ev);
    if (rc) d->asked_to_stop = true;
    return rc;
}

int decoder_text(struct decoder *d, enum event_type type, uint32_t choice, const char *p, size_t n, const struct event_extra *extra)
{
    struct event ev = {.type = type, .choice = choice, .text = p, .n_text = n};
    if (extra) ev.extra = *extra;
    d->has_content |= n > 0;
    return decoder_emit(d, &ev);
}

int decoder_tool(struct decoder *d, uint32_t choice, const struct event_tool_call *call)
{
    struct decoder_choice *ch = &d->choices[choice];
    if (call->index >= WIRE_MAX_TOOL_CALLS) return decoder_malformed(d, "a tool call's index is too large");
    if (call->index >= ch->n_tools) ch->n_tools = call->index + 1;
    d->has_content = true;
    return decoder_emit(d, &(struct event){.type = EVENT_TOOL_CALL, .choice = choice, .tool_call = *call});
}

int decoder_tool_object(struct decoder *d, uint32_t choice, struct event_tool_call *call, const json_t *arguments)
{
    struct buf text;
    buf_init(&text, 2 * (size_t)d->limits.max_json_bytes);
    int rc = json_write(&text, arguments);
    call->arguments = text.data;
    call->n_arguments = text.len;
    rc = rc ? err_set(d->e, ERR_MEMORY, "out of memory") : decoder_tool(d, choice, call);
    buf_free(&text);
    return rc;
}

void decoder_finish(struct decoder *d, uint32_t choice, enum finish_reason reason, const char *native)
{
    struct decoder_choice *ch = &d->choices[choice];
    ch->seen = ch->finished = true;
    ch->finish = reason;
    ch->native[0] = '\0';
    if (native && strlen(native) < sizeof ch->native) memcpy(ch->native, native, strlen(native) + 1);
}

int decoder_take_usage(struct decoder *d, const struct usage *u, const json_t *object)
{
    /* three zeros behind real numbers are a host that has forgotten */
    if (!u->present || (usage_is_zero(u) && d->n_usage > 0 && !usage_is_zero(&d->usage))) return 0;
    json_t *kept = tree_ref(object);
    json_decref(d->usage_object);
    d->usage_object = kept;
    d->usage = *u;
    d->n_usage++;
    buf_clear(&d->usage_raw);
    if (json_write(&d->usage_raw, object)) buf_clear(&d->usage_raw);
    struct event ev = {.type = EVENT_USAGE, .metered = u};
    usage_tell(&ev.usage, u);
    return decoder_emit(d, &ev);
}

static void note(char out[WIRE_MAX_ID_BYTES], const json_t *v)
{
    if (out[0] || !json_is_string(v)) return;
    const char *s = json_string_value(v);
    snprintf(out, WIRE_MAX_ID_BYTES, "%.*s", (int)utf8_cut(s, WIRE_MAX_ID_BYTES - 1), s);
}

void decoder_note_id(struct decoder *d, const json_t *id, const json_t *model)
{
    note(d->id, id);
    note(d->model, model);
}

int decoder_choice(struct decoder *d, const json_t *index, uint32_t *out)
{
    int64_t i = index && !json_is_null(index) ? json_integer_value(index) : 0;
    if ((index && !json_is_null(index) && !json_is_integer(index)) || i < 0 || i >= d->n_choices)
        return decoder_malformed(d, "a choice that was not asked for");
    *out = (uint32_t)i;
    d->choices[i].seen = true;
    return 0;
}

/* One SSE event's data. */
static int take_event(void *ctx, const char *name, const char *data, size_t n)
{
    struct decoder *d = ctx;
    (void)name; /* each wire says in the data what it is */
    const char *word = d->wire->done_word;
    if (d->complete) return 0; /* in the same piece */
    if (word && n >= strlen(word) && memcmp(data, word, strlen(word)) == 0) {
        d->complete = true;
        return 0;
    }
    while (n > 0 && (data[n - 1] == ' ' || data[n - 1] == '\t')) n--;
    if (n == 0) return 0;
    json_t *v;
    int rc;
    if (repeat_take(d, data, n, &rc)) return rc;
    rc = json_read(data, n, &event_limits, "event", &v, d->e);
    if (rc == -ERR_MEMORY) return rc;
    if (rc && d->ended) return err_set(d->e, ERR_GONE, "provider %s: the answer was cut", d->host->name);
    if (rc) return decoder_malformed(d, "an event that is no JSON");
    if (!json_is_object(v))
        rc = decoder_malformed(d, "an event that is no object");
    else {
        repeat_begin(d);
        rc = d->wire->event(d, v);
        if (!rc) repeat_learn(d, data, n);
    }
    d->n_events++;
    json_decref(v);
    return rc;
}

/* Says what the answer is, by its first byte that is no blank. */
static int look_at_first(struct decoder *d, char first)
{
    if (first == '<') return decoder_malformed(d, "a page of markup in place of an answer");
    d->body = first == '{' || first == '[' ? BODY_JSON : BODY_STREAM;
    return 0;
}

int decoder_feed(struct decoder *d, const char *p, size_t n, struct err *e)
{
    d->e = e;
    if (d->complete) return 0; /* nothing counts behind the end */
    d->n_bytes += n;
    if (d->n_bytes > d->limits.max_bytes)
        return err_set(e, ERR_LIMIT, "provider %s: an answer of more than %zu bytes", d->host->name, d->limits.max_bytes);
    for (; d->body == BODY_UNKNOWN && n && strchr(" \t\r\n", *p) && *p; p++) n--;
    if (n == 0) return 0;
    int rc = d->body == BODY_UNKNOWN ? look_at_first(d, *p) : 0;
    if (rc) return rc;
    if (d->body == BODY_STREAM) {
        rc = sse_read_push(&d->sse, p, n, e);
        if (rc == -ERR_LIMIT && !d->asked_to_stop) err_prefix(e, "provider %s", d->host->name);
        return rc;
    }
    rc = buf_append(&d->json, p, n);
    if (rc == -ERR_LIMIT) return err_set(e, ERR_LIMIT, "provider %s: an answer of more than %zu bytes", d->host->name, d->json.max);
    return rc ? err_set(e, ERR_MEMORY, "out of memory") : 0;
}

static int take_whole(struct decoder *d)
{
    json_t *v;
    int rc = json_read(d->json.data, d->json.len, &whole_limits, "answer", &v, d->e);
    if (rc == -ERR_MEMORY) return rc;
    if (rc) return err_set(d->e, ERR_GONE, "provider %s: the answer was cut, or is no JSON", d->host->name);
    rc = json_is_object(v) ? d->wire->whole(d, v) : decoder_malformed(d, "an answer that is no object");
    json_decref(v);
    if (!rc) d->complete = true;
    return rc;
}

static bool all_finished(const struct decoder *d)
{
    bool any = false;
    for (uint32_t i = 0; i < d->n_choices; i++) {
        if (d->choices[i].seen && !d->choices[i].finished) return false;
        any |= d->choices[i].finished;
    }
    return any;
}

static int give_finishes(struct decoder *d)
{
    for (uint32_t i = 0; i < d->n_choices; i++) {
        struct decoder_choice *ch = &d->choices[i];
        if (ch->finish == FINISH_STOP && ch->n_tools) ch->finish = FINISH_TOOL_CALLS; /* some hosts say stop for both */
        json_t *extra = ch->native[0] ? json_pack("{s:s}", "native_finish_reason", ch->native) : NULL;
        struct event ev = {.type = EVENT_FINISH, .choice = i, .finish = ch->finish, .extra = {.choice = extra}};
        int rc = decoder_emit(d, &ev);
        json_decref(extra);
        if (rc) return rc;
    }
    return 0;
}

int decoder_end(struct decoder *d, struct err *e)
{
    d->e = e;
    d->ended = true;
    int rc = d->body == BODY_JSON ? take_whole(d) : 0;
    if (d->body == BODY_STREAM && !d->complete) rc = sse_read_push(&d->sse, "\n\n", 2, e); /* the last event may lack its empty line */
    if (rc) return rc;
    if (d->wire->ends_with_body && all_finished(d)) d->complete = true;
    if (!d->complete) return err_set(e, ERR_GONE, "provider %s: the answer was cut", d->host->name);
    for (uint32_t i = 0; i < d->n_choices; i++)
        if (!d->choices[i].finished) return decoder_malformed(d, "an answer that ends without a reason");
    return give_finishes(d);
}

bool decoder_is_complete(const struct decoder *d)
{
    return d->complete;
}

bool decoder_has_content(const struct decoder *d)
{
    return d->has_content;
}

const struct provider_error *decoder_error(const struct decoder *d)
{
    return d->has_error ? &d->error : NULL;
}

const struct usage *decoder_usage(const struct decoder *d)
{
    return d->n_usage ? &d->usage : NULL;
}

const char *decoder_usage_raw(const struct decoder *d)
{
    return d->usage_raw.data ? d->usage_raw.data : "";
}

uint32_t decoder_n_usage(const struct decoder *d)
{
    return d->n_usage;
}

const char *decoder_id(const struct decoder *d)
{
    return d->id;
}

const char *decoder_model(const struct decoder *d)
{
    return d->model;
}
