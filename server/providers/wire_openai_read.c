/* The OpenAI wire, answers: chat.completion.chunk events, or one chat.completion. Requests: wire_openai.c.
 *
 * Hosts differ in small things that are all taken here, whichever host it is: reasoning under two names, content as a list, indexes that
 * are missing, the reason told twice, usage in any chunk, an error inside a 200. Members without a place of their own go on as extra. */
#include "server/providers/wire_parts.h"

#include <stdlib.h>
#include <string.h>

static const char *const chunk_known[] = {"id", "object", "created", "model", "choices", "usage", "error", "obfuscation", NULL};
static const char *const choice_known[] = {"index", "delta", "message", "finish_reason", "logprobs", "text", NULL};
static const char *const delta_known[] = {"role", "content", "reasoning", "reasoning_content", "tool_calls", "obfuscation", NULL};
static const char *const call_known[] = {"index", "id", "type", "function", NULL};

/* The object without the members of the list and without nulls: a new reference, NULL if nothing is left (or for want of memory: what is
 * extra may be missing then). */
static json_t *rest(const json_t *object, const char *const *known)
{
    json_t *out = NULL;
    const char *key;
    const json_t *v;
    FOR_MEMBERS(object, key, v) {
        bool is_known = json_is_null(v);
        for (const char *const *k = known; *k && !is_known; k++) is_known = strcmp(*k, key) == 0;
        if (is_known) continue;
        if (!out && !(out = json_object())) return NULL;
        if (json_object_set(out, key, (json_t *)v)) break;
    }
    return out;
}

/* --- logprobs --- */

enum { MAX_TOP = 20, MAX_LOGPROBS = 4096, MAX_TOKEN_BYTES = 512 };

struct token_store {
    char *bytes;
    size_t n, cap;
};

/* The exact bytes if the host tells them, else the text. */
static struct event_token read_token(struct token_store *s, const json_t *v)
{
    const json_t *list = json_object_get(v, "bytes"), *text = json_object_get(v, "token");
    struct event_token t = {.logprob = (float)json_number_value(json_object_get(v, "logprob"))};
    size_t n = json_array_size(list);
    if (n == 0 || n > MAX_TOKEN_BYTES || s->cap - s->n < n) {
        t.bytes = json_is_string(text) ? json_string_value(text) : "";
        t.n_bytes = json_string_length(text);
        return t;
    }
    t.bytes = s->bytes + s->n;
    t.n_bytes = n;
    for (size_t i = 0; i < n; i++) s->bytes[s->n++] = (char)json_integer_value(json_array_get(list, i));
    return t;
}

struct logprob_list {
    struct event_logprob *rows;
    struct event_token *top;
    struct token_store store;
    size_t n;
};

static void logprobs_free(struct logprob_list *l)
{
    free(l->rows);
    free(l->top);
    free(l->store.bytes);
}

static int logprobs_read(struct decoder *d, struct logprob_list *l, const json_t *content)
{
    *l = (struct logprob_list){0};
    size_t n = json_array_size(content), n_top = 0, n_bytes = 0;
    if (n == 0) return 0;
    if (n > MAX_LOGPROBS) return decoder_malformed(d, "too many logprobs in one event");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(content, i), *list = json_object_get(v, "top_logprobs");
        size_t top = json_array_size(list) > MAX_TOP ? MAX_TOP : json_array_size(list);
        n_top += top;
        n_bytes += json_array_size(json_object_get(v, "bytes"));
        for (size_t k = 0; k < top; k++) n_bytes += json_array_size(json_object_get(json_array_get(list, k), "bytes"));
    }
    l->rows = calloc(n, sizeof *l->rows);
    l->top = calloc(n_top + 1, sizeof *l->top);
    l->store = (struct token_store){.bytes = malloc(n_bytes + 1), .cap = n_bytes};
    if (!l->rows || !l->top || !l->store.bytes) return err_set(d->e, ERR_MEMORY, "out of memory");
    size_t at = 0;
    for (; l->n < n; l->n++) {
        const json_t *v = json_array_get(content, l->n), *top = json_object_get(v, "top_logprobs");
        struct event_logprob *row = &l->rows[l->n];
        *row = (struct event_logprob){.token = read_token(&l->store, v), .top = l->top + at};
        for (size_t i = 0; i < json_array_size(top) && i < MAX_TOP; i++, row->n_top++)
            l->top[at++] = read_token(&l->store, json_array_get(top, i));
    }
    return 0;
}

/* --- deltas --- */

static int text_part(struct decoder *d, enum event_type type, uint32_t choice, const json_t *v)
{
    return json_string_length(v) ? decoder_text(d, type, choice, json_string_value(v), json_string_length(v), NULL) : 0;
}

/* Mistral's content may be a list: text parts, and thinking parts that hold text parts. */
static int list_content(struct decoder *d, uint32_t choice, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *part = json_array_get(list, i), *thinking = json_object_get(part, "thinking");
        int rc = 0;
        if (json_is_string(thinking)) rc = text_part(d, EVENT_REASONING, choice, thinking);
        for (size_t k = 0; k < json_array_size(thinking) && !rc; k++)
            rc = text_part(d, EVENT_REASONING, choice, json_object_get(json_array_get(thinking, k), "text"));
        if (!rc) rc = text_part(d, EVENT_DELTA, choice, json_object_get(part, "text"));
        if (rc) return rc;
    }
    return 0;
}

static int content(struct decoder *d, uint32_t choice, const json_t *v, const json_t *logprobs)
{
    if (json_is_array(v)) return list_content(d, choice, v);
    struct logprob_list l;
    int rc = logprobs_read(d, &l, json_object_get(logprobs, "content"));
    if (!rc && (json_string_length(v) || l.n)) {
        d->has_content = true;
        struct event ev = {.type = EVENT_DELTA, .choice = choice, .text = "", .logprobs = l.rows, .n_logprobs = l.n};
        if (json_is_string(v)) ev.text = json_string_value(v), ev.n_text = json_string_length(v);
        rc = decoder_emit(d, &ev);
    }
    logprobs_free(&l);
    return rc;
}

static int tool_calls(struct decoder *d, uint32_t choice, const json_t *list)
{
    struct decoder_choice *ch = &d->choices[choice];
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i), *function = json_object_get(v, "function");
        const json_t *arguments = json_object_get(function, "arguments");
        int64_t index;
        const char *id = member_text(v, "id");
        if (!member_int(v, "index", &index)) /* a new id is a new call */
            index = id && *id ? ch->n_tools : ch->n_tools ? ch->n_tools - 1 : 0;
        if (index < 0 || index >= WIRE_MAX_TOOL_CALLS) return decoder_malformed(d, "a tool call's index is out of range");
        json_t *extra = rest(v, call_known);
        struct event_tool_call call = {
            .index = (uint32_t)index, .id = id && *id ? id : NULL, .name = member_text(function, "name"), .extra = extra};
        if (call.name && !*call.name) call.name = NULL;
        call.arguments = json_is_string(arguments) ? json_string_value(arguments) : "";
        call.n_arguments = json_string_length(arguments);
        /* some hosts send the object itself */
        int rc = json_is_object(arguments) ? decoder_tool_object(d, choice, &call, arguments) : decoder_tool(d, choice, &call);
        json_decref(extra);
        if (rc) return rc;
    }
    return 0;
}

enum { MAX_TOLD = 64 };

/* Most hosts say the same (system_fingerprint) in each chunk: only what is new goes on. */
static json_t *chunk_news(struct decoder *d, const json_t *chunk)
{
    json_t *out = rest(chunk, chunk_known);
    const char *key;
    json_t *v;
    void *next;
    json_object_foreach_safe(out, next, key, v)
    {
        if (json_equal(v, json_object_get(d->chunk_told, key)))
            json_object_del(out, key);
        else if ((d->chunk_told || (d->chunk_told = json_object())) && json_object_size(d->chunk_told) < MAX_TOLD)
            json_object_set(d->chunk_told, key, v);
    }
    if (json_object_size(out)) return out;
    json_decref(out);
    return NULL;
}

/* A refusal, say; not an empty list of annotations, nor a token's number. */
static bool says_something(const json_t *delta)
{
    const char *key;
    const json_t *v;
    FOR_MEMBERS(delta, key, v)
        if (key && (json_string_length(v) || json_array_size(v) || json_object_size(v))) return true;
    return false;
}

static int extras(struct decoder *d, uint32_t choice, const json_t *chunk, const json_t *v, const json_t *delta)
{
    json_t *of_chunk = chunk_news(d, chunk), *of_choice = rest(v, choice_known), *of_delta = rest(delta, delta_known);
    d->has_content |= says_something(of_delta);
    struct event_extra extra = {.chunk = of_chunk, .choice = of_choice, .delta = of_delta};
    int rc = of_chunk || of_choice || of_delta ? decoder_text(d, EVENT_DELTA, choice, "", 0, &extra) : 0;
    json_decref(of_chunk);
    json_decref(of_choice);
    json_decref(of_delta);
    return rc;
}

/* --- the end of a choice --- */

static const struct {
    const char *word;
    enum finish_reason reason;
} reasons[] = {{"stop", FINISH_STOP},
               {"length", FINISH_LENGTH},
               {"tool_calls", FINISH_TOOL_CALLS},
               {"function_call", FINISH_TOOL_CALLS},
               {"content_filter", FINISH_CONTENT_FILTER},
               {"eos", FINISH_STOP},
               {"end_turn", FINISH_STOP},
               {"model_length", FINISH_LENGTH},
               {"max_tokens", FINISH_LENGTH}};

static int finish(struct decoder *d, uint32_t choice, const json_t *v)
{
    if (!json_is_string(v) || json_string_length(v) == 0) return 0;
    const char *word = json_string_value(v);
    if (strcmp(word, "error") == 0) return decoder_malformed(d, "the host ended the answer with 'error'");
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (strcmp(reasons[i].word, word) == 0) {
            decoder_finish(d, choice, reasons[i].reason, i < 5 ? NULL : word);
            return 0;
        }
    decoder_finish(d, choice, FINISH_STOP, word);
    return 0;
}

static int take_choice(struct decoder *d, const json_t *chunk, const json_t *v, const char *where)
{
    const json_t *delta = json_object_get(v, where), *logprobs = json_object_get(v, "logprobs");
    uint32_t choice;
    if (!json_is_object(v)) return decoder_malformed(d, "a choice that is no object");
    int rc = decoder_choice(d, json_object_get(v, "index"), &choice);
    if (!rc) rc = extras(d, choice, chunk, v, delta);
    const json_t *reasoning = json_object_get(delta, "reasoning_content");
    if (!json_is_string(reasoning)) reasoning = json_object_get(delta, "reasoning");
    if (!rc) rc = text_part(d, EVENT_REASONING, choice, reasoning);
    if (!rc) rc = content(d, choice, json_object_get(delta, "content"), logprobs);
    if (!rc) rc = tool_calls(d, choice, json_object_get(delta, "tool_calls"));
    return rc ? rc : finish(d, choice, json_object_get(v, "finish_reason"));
}

static bool is_error(const json_t *v)
{
    return v && !json_is_null(v) && !json_is_false(v) && !(json_is_string(v) && json_string_length(v) == 0);
}

static int take_object(struct decoder *d, const json_t *v, const char *where)
{
    const json_t *choices = json_object_get(v, "choices"), *groq = json_object_get(v, "x_groq"), *usage = json_object_get(v, "usage");
    if (is_error(json_object_get(v, "error"))) return decoder_told_error(d, v);
    if (is_error(json_object_get(groq, "error"))) return decoder_told_error(d, groq);
    if (!choices && json_is_string(json_object_get(v, "message"))) return decoder_told_error(d, v); /* some have no "error" around it */
    if (!json_is_object(usage)) usage = json_object_get(groq, "usage");
    if (!json_is_array(choices) && !json_is_object(usage)) {
        if (choices && !json_is_null(choices)) return decoder_malformed(d, "choices that are no list");
        return d->n_events ? 0 : decoder_malformed(d, "a first event that is none of its kind");
    }
    decoder_note_id(d, json_object_get(v, "id"), json_object_get(v, "model"));
    for (size_t i = 0; i < json_array_size(choices); i++) {
        int rc = take_choice(d, i == 0 ? v : NULL, json_array_get(choices, i), where);
        if (rc) return rc;
    }
    if (json_array_size(choices) == 0) { /* Azure's first chunk has only its filter's results */
        int rc = extras(d, 0, v, NULL, NULL);
        if (rc) return rc;
    }
    if (!json_is_object(usage)) return 0;
    struct usage u;
    usage_read_openai(&u, d->host->row, usage);
    return decoder_take_usage(d, &u, usage);
}

static int openai_event(struct decoder *d, const json_t *v)
{
    return take_object(d, v, "delta");
}

static int openai_whole(struct decoder *d, const json_t *v)
{
    return take_object(d, v, "message");
}

const struct wire wire_openai = {.name = "openai",
                                 .kind = WIRE_OPENAI,
                                 .encode = wire_openai_encode,
                                 .event = openai_event,
                                 .whole = openai_whole,
                                 .done_word = "[DONE]"};
