/* The Gemini wire, answers: GenerateContentResponse objects as events; there is no word for the end, the body ends after a candidate with a
 * finishReason. Requests: wire_gemini.c.
 *
 * A thoughtSignature must come back with its part: a tool call's goes out with the call (extra_content.google.thought_signature), that of
 * a text with the message. Parts that have no place of their own (executed code, pictures) go on in extra_content.google.parts. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *word;
    enum finish_reason reason;
    bool tell; /* our word says less */
} reasons[] = {{"STOP", FINISH_STOP, false},
               {"MAX_TOKENS", FINISH_LENGTH, false},
               {"SAFETY", FINISH_CONTENT_FILTER, true},
               {"RECITATION", FINISH_CONTENT_FILTER, true},
               {"BLOCKLIST", FINISH_CONTENT_FILTER, true},
               {"PROHIBITED_CONTENT", FINISH_CONTENT_FILTER, true},
               {"SPII", FINISH_CONTENT_FILTER, true},
               {"IMAGE_SAFETY", FINISH_CONTENT_FILTER, true},
               {"IMAGE_PROHIBITED_CONTENT", FINISH_CONTENT_FILTER, true},
               {"IMAGE_RECITATION", FINISH_CONTENT_FILTER, true},
               {"MODEL_ARMOR", FINISH_CONTENT_FILTER, true},
               {"MALFORMED_FUNCTION_CALL", FINISH_ERROR, true},
               {"UNEXPECTED_TOOL_CALL", FINISH_ERROR, true},
               {"TOO_MANY_TOOL_CALLS", FINISH_ERROR, true}};

static int take_reason(struct decoder *d, uint32_t choice, const char *word)
{
    enum finish_reason reason = FINISH_STOP;
    bool tell = true;
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (strcmp(reasons[i].word, word) != 0) continue;
        reason = reasons[i].reason;
        tell = reasons[i].tell;
    }
    if (reason == FINISH_ERROR) {
        char text[96];
        snprintf(text, sizeof text, "the host ended the answer with %.40s", word);
        return decoder_malformed(d, text);
    }
    decoder_finish(d, choice, reason, tell ? word : NULL);
    return 0;
}

/* {"extra_content": {"google": {name: value}}}; value is taken over. */
static json_t *google(const char *name, json_t *value)
{
    return json_pack("{s:{s:{s:o}}}", "extra_content", "google", name, value);
}

static int tool_part(struct decoder *d, uint32_t choice, const json_t *call, const json_t *signature)
{
    const json_t *args = json_object_get(call, "args");
    char id[64];
    json_t *extra = signature ? google("thought_signature", tree_ref(signature)) : NULL;
    struct event_tool_call t = {
        .index = d->choices[choice].n_tools, .id = member_text(call, "id"), .name = member_text(call, "name"), .extra = extra};
    if (!t.id || !*t.id) { /* calls are told apart by their names there; a client needs an id */
        snprintf(id, sizeof id, "gemini_%u_%u_%.24s", choice, t.index, d->id);
        t.id = id;
    }
    t.arguments = "{}";
    t.n_arguments = 2;
    int rc;
    if (!t.name)
        rc = decoder_malformed(d, "a function call without a name");
    else
        rc = json_is_object(args) ? decoder_tool_object(d, choice, &t, args) : decoder_tool(d, choice, &t);
    json_decref(extra);
    return rc;
}

static int extra_part(struct decoder *d, uint32_t choice, const char *name, json_t *value)
{
    json_t *extra = google(name, value);
    if (!extra) return err_set(d->e, ERR_MEMORY, "out of memory");
    int rc = decoder_text(d, EVENT_DELTA, choice, "", 0, &(struct event_extra){.delta = extra});
    json_decref(extra);
    return rc;
}

static int take_part(struct decoder *d, uint32_t choice, const json_t *part)
{
    const json_t *text = json_object_get(part, "text"), *call = json_object_get(part, "functionCall");
    const json_t *signature = json_object_get(part, "thoughtSignature");
    if (!json_is_string(signature)) signature = NULL;
    if (json_is_object(call)) return tool_part(d, choice, call, signature);
    if (!json_is_string(text)) {
        d->has_content = true;
        return extra_part(d, choice, "parts", json_pack("[O]", part));
    }
    enum event_type type = json_is_true(json_object_get(part, "thought")) ? EVENT_REASONING : EVENT_DELTA;
    int rc = json_string_length(text) ? decoder_text(d, type, choice, json_string_value(text), json_string_length(text), NULL) : 0;
    return rc || !signature ? rc : extra_part(d, choice, "thought_signature", tree_ref(signature));
}

static int candidate_extra(struct decoder *d, uint32_t choice, const json_t *candidate)
{
    static const char *const known[] = {"index", "content", "finishReason", "tokenCount", "avgLogprobs", NULL};
    json_t *extra = NULL;
    const char *key;
    const json_t *v;
    FOR_MEMBERS(candidate, key, v) {
        bool is_known = json_is_null(v);
        for (const char *const *k = known; *k && !is_known; k++) is_known = strcmp(*k, key) == 0;
        if (is_known || (!extra && !(extra = json_object()))) continue;
        json_object_set(extra, key, (json_t *)v);
    }
    int rc = extra ? decoder_text(d, EVENT_DELTA, choice, "", 0, &(struct event_extra){.choice = extra}) : 0;
    json_decref(extra);
    return rc;
}

static int take_candidate(struct decoder *d, const json_t *candidate)
{
    const json_t *parts = json_object_get(json_object_get(candidate, "content"), "parts");
    const char *reason = member_text(candidate, "finishReason");
    uint32_t choice;
    if (!json_is_object(candidate)) return decoder_malformed(d, "a candidate that is no object");
    int rc = decoder_choice(d, json_object_get(candidate, "index"), &choice);
    for (size_t i = 0; i < json_array_size(parts) && !rc; i++) rc = take_part(d, choice, json_array_get(parts, i));
    if (!rc) rc = candidate_extra(d, choice, candidate);
    return rc || !reason ? rc : take_reason(d, choice, reason);
}

/* Refused before anything was made: an empty answer that says why. */
static int take_block(struct decoder *d, const json_t *feedback)
{
    const char *why = member_text(feedback, "blockReason");
    if (!why) return 0;
    decoder_finish(d, 0, FINISH_CONTENT_FILTER, why);
    return 0;
}

static int gemini_object(struct decoder *d, const json_t *v)
{
    const json_t *candidates = json_object_get(v, "candidates"), *usage = json_object_get(v, "usageMetadata");
    const json_t *feedback = json_object_get(v, "promptFeedback");
    if (json_is_object(json_object_get(v, "error"))) return decoder_told_error(d, v);
    if (!json_is_array(candidates) && !json_is_object(usage) && !json_is_object(feedback))
        return d->n_events ? 0 : decoder_malformed(d, "a first event that is none of its kind");
    decoder_note_id(d, json_object_get(v, "responseId"), json_object_get(v, "modelVersion"));
    for (size_t i = 0; i < json_array_size(candidates); i++) {
        int rc = take_candidate(d, json_array_get(candidates, i));
        if (rc) return rc;
    }
    int rc = take_block(d, feedback);
    if (rc || !json_is_object(usage)) return rc;
    struct usage u;
    usage_read_gemini(&u, usage);
    return decoder_take_usage(d, &u, usage);
}

const struct wire wire_gemini = {.name = "gemini",
                                 .kind = WIRE_GEMINI,
                                 .encode = wire_gemini_encode,
                                 .event = gemini_object,
                                 .whole = gemini_object,
                                 .ends_with_body = true};
