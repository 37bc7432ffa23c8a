/* The Anthropic wire, answers: named events with content blocks, one open at a time. Requests: wire_anthropic.c.
 *
 * A thinking block must come back unchanged in the next turn. Its text goes out as reasoning; its signature follows in
 * extra_content.anthropic.thinking as {index, type, bytes, signature}, where bytes says how much of the reasoning text is this block's:
 * so the request can be put together again, and no text is held or sent twice. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

/* --- usage: message_start tells the input, each message_delta the output so far; later members replace --- */

static int take_usage(struct decoder *d, const json_t *usage)
{
    if (!json_is_object(usage)) return 0;
    json_t *all = d->usage_object ? json_copy(d->usage_object) : json_object();
    const char *key;
    const json_t *v;
    bool failed = !all;
    FOR_MEMBERS(usage, key, v)
        if (!json_is_null(v)) failed |= json_object_set(all, key, (json_t *)v) != 0;
    int rc = failed ? err_set(d->e, ERR_MEMORY, "out of memory") : 0;
    if (!rc) {
        struct usage u;
        usage_read_anthropic(&u, all);
        rc = decoder_take_usage(d, &u, all);
    }
    json_decref(all);
    return rc;
}

/* --- blocks --- */

/* {"extra_content": {"anthropic": {name: [entry]}}}; entry is taken over. */
static int tell_extra(struct decoder *d, const char *name, json_t *entry)
{
    json_t *extra = json_pack("{s:{s:{s:[o]}}}", "extra_content", "anthropic", name, entry);
    if (!extra) return err_set(d->e, ERR_MEMORY, "out of memory");
    int rc = decoder_text(d, EVENT_REASONING, 0, "", 0, &(struct event_extra){.delta = extra});
    json_decref(extra);
    return rc;
}

static int tool_begin(struct decoder *d, const json_t *block)
{
    const json_t *input = json_object_get(block, "input");
    struct event_tool_call call = {
        .index = d->choices[0].n_tools, .id = member_text(block, "id"), .name = member_text(block, "name"), .arguments = ""};
    if (!call.id || !call.name) return decoder_malformed(d, "a tool_use block without id or name");
    d->wire_state.anthropic.tool = call.index;
    if (json_object_size(input)) return decoder_tool_object(d, 0, &call, input); /* all at once in an answer that is no stream */
    return decoder_tool(d, 0, &call);
}

static int block_text(struct decoder *d, enum event_type type, const json_t *v)
{
    if (!json_string_length(v)) return 0;
    if (type == EVENT_REASONING) d->wire_state.anthropic.n_reasoning += json_string_length(v);
    return decoder_text(d, type, 0, json_string_value(v), json_string_length(v), NULL);
}

static int block_begin(struct decoder *d, int64_t index, const json_t *block)
{
    const char *type = member_text(block, "type");
    if (!type) return decoder_malformed(d, "a content block without a type");
    d->wire_state.anthropic.open = true;
    d->wire_state.anthropic.index = index;
    d->wire_state.anthropic.n_reasoning = 0;
    snprintf(d->wire_state.anthropic.type, sizeof d->wire_state.anthropic.type, "%s", type);
    if (strcmp(type, "text") == 0) return block_text(d, EVENT_DELTA, json_object_get(block, "text"));
    if (strcmp(type, "thinking") == 0) return block_text(d, EVENT_REASONING, json_object_get(block, "thinking"));
    if (strcmp(type, "tool_use") == 0) return tool_begin(d, block);
    if (strcmp(type, "redacted_thinking") == 0) {
        json_t *entry = json_pack("{s:I,s:s,s:O?}", "index", (json_int_t)d->wire_state.anthropic.n_blocks++, "type", type, "data",
                                  json_object_get(block, "data"));
        return tell_extra(d, "thinking", entry);
    }
    return tell_extra(d, "blocks", tree_ref(block)); /* a server's tool, or what is yet to come: kept */
}

static int signature(struct decoder *d, const json_t *v)
{
    if (!json_string_length(v)) return 0;
    json_t *entry = json_pack("{s:I,s:s,s:I,s:O}", "index", (json_int_t)d->wire_state.anthropic.n_blocks++, "type", "thinking", "bytes",
                              (json_int_t)d->wire_state.anthropic.n_reasoning, "signature", v);
    d->wire_state.anthropic.n_reasoning = 0;
    return tell_extra(d, "thinking", entry);
}

static int block_delta(struct decoder *d, const json_t *delta)
{
    const char *type = member_text(delta, "type");
    const json_t *part = json_object_get(delta, "partial_json");
    if (!type) return decoder_malformed(d, "a delta without a type");
    if (strcmp(type, "text_delta") == 0) return block_text(d, EVENT_DELTA, json_object_get(delta, "text"));
    if (strcmp(type, "thinking_delta") == 0) return block_text(d, EVENT_REASONING, json_object_get(delta, "thinking"));
    if (strcmp(type, "signature_delta") == 0) return signature(d, json_object_get(delta, "signature"));
    if (strcmp(type, "input_json_delta") != 0) return tell_extra(d, "deltas", tree_ref(delta)); /* citations, and what is yet to come */
    if (strcmp(d->wire_state.anthropic.type, "tool_use") != 0 || !json_string_length(part)) return 0; /* a server's own tool */
    struct event_tool_call call = {
        .index = d->wire_state.anthropic.tool, .arguments = json_string_value(part), .n_arguments = json_string_length(part)};
    return decoder_tool(d, 0, &call);
}

/* --- the end --- */

static const struct {
    const char *word;
    enum finish_reason reason;
    bool tell; /* our word says less */
} reasons[] = {{"end_turn", FINISH_STOP, false},       {"stop_sequence", FINISH_STOP, false},
               {"max_tokens", FINISH_LENGTH, false},   {"model_context_window_exceeded", FINISH_LENGTH, true},
               {"tool_use", FINISH_TOOL_CALLS, false}, {"refusal", FINISH_CONTENT_FILTER, true},
               {"pause_turn", FINISH_STOP, true}};

static void take_reason(struct decoder *d, const json_t *v)
{
    const char *word = json_string_value(v);
    if (!word) return;
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (strcmp(reasons[i].word, word) == 0) {
            decoder_finish(d, 0, reasons[i].reason, reasons[i].tell ? word : NULL);
            return;
        }
    decoder_finish(d, 0, FINISH_STOP, word);
}

/* --- events --- */

static int message_start(struct decoder *d, const json_t *v)
{
    const json_t *message = json_object_get(v, "message");
    if (!json_is_object(message)) return decoder_malformed(d, "a message_start without a message");
    d->choices[0].seen = true;
    decoder_note_id(d, json_object_get(message, "id"), json_object_get(message, "model"));
    return take_usage(d, json_object_get(message, "usage"));
}

static int block_start(struct decoder *d, const json_t *v)
{
    int64_t index;
    if (!member_int(v, "index", &index)) return decoder_malformed(d, "a content block without an index");
    return block_begin(d, index, json_object_get(v, "content_block"));
}

static int block_more(struct decoder *d, const json_t *v)
{
    int64_t index;
    if (!member_int(v, "index", &index) || !d->wire_state.anthropic.open || index != d->wire_state.anthropic.index)
        return decoder_malformed(d, "a delta of a block that is not open");
    return block_delta(d, json_object_get(v, "delta"));
}

static int block_stop(struct decoder *d, const json_t *v)
{
    (void)v;
    d->wire_state.anthropic.open = false;
    return 0;
}

static int message_delta(struct decoder *d, const json_t *v)
{
    take_reason(d, json_object_get(json_object_get(v, "delta"), "stop_reason"));
    return take_usage(d, json_object_get(v, "usage"));
}

static int message_stop(struct decoder *d, const json_t *v)
{
    (void)v;
    d->complete = true;
    return 0;
}

static int nothing(struct decoder *d, const json_t *v)
{
    (void)d;
    (void)v;
    return 0;
}

static const struct {
    const char *type;
    bool inside; /* only after message_start */
    int (*take)(struct decoder *d, const json_t *v);
} events[] = {{"message_start", false, message_start},
              {"content_block_start", true, block_start},
              {"content_block_delta", true, block_more},
              {"content_block_stop", true, block_stop},
              {"message_delta", true, message_delta},
              {"message_stop", true, message_stop},
              {"ping", false, nothing},
              {"error", false, decoder_told_error}};

static int anthropic_event(struct decoder *d, const json_t *v)
{
    const char *type = member_text(v, "type");
    if (!type) return json_object_get(v, "error") ? decoder_told_error(d, v) : decoder_malformed(d, "an event without a type");
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (strcmp(events[i].type, type) != 0) continue;
        if (events[i].inside && !d->choices[0].seen) return decoder_malformed(d, "a message that has not begun");
        return events[i].take(d, v);
    }
    return 0; /* "handle unknown event types gracefully" */
}

static int anthropic_whole(struct decoder *d, const json_t *v)
{
    const json_t *content = json_object_get(v, "content");
    if (text_is(json_object_get(v, "type"), "error") || json_object_get(v, "error")) return decoder_told_error(d, v);
    if (!json_is_array(content)) return decoder_malformed(d, "an answer without content");
    d->choices[0].seen = true;
    decoder_note_id(d, json_object_get(v, "id"), json_object_get(v, "model"));
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *block = json_array_get(content, i);
        int rc = block_begin(d, (int64_t)i, block);
        if (!rc) rc = signature(d, json_object_get(block, "signature"));
        if (rc) return rc;
    }
    take_reason(d, json_object_get(v, "stop_reason"));
    return take_usage(d, json_object_get(v, "usage"));
}

const struct wire wire_anthropic = {
    .name = "anthropic", .kind = WIRE_ANTHROPIC, .encode = wire_anthropic_encode, .event = anthropic_event, .whole = anthropic_whole};
