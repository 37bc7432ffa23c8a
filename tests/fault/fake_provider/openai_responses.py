"""OpenAI's Responses: the same answers as typed events, numbered, without [DONE]. Text, function calls and usage."""
import json

from .answer import Ask
from .exchange import Frame, need, need_known, picture, sse
from .openai_wire import ANSWERED_FAULTS, check_model, headers, read_tools  # noqa: F401 (of the same interface)

PARAMS = frozenset("""access_programs background context_management conversation image include input instructions max_output_tokens
    max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options temperature text tool_choice tools
    top_logprobs top_p truncation user""".split())


def read(profile, op, body, model, request):
    need_known(body, PARAMS)
    name = model or body.get("model")
    need(name, "missing", "model")
    check_model(profile, name)
    need(body.get("input"), "missing", "input")
    effort = (body.get("reasoning") or {}).get("effort")
    ask = Ask(name, stream=bool(body.get("stream")), max_tokens=body.get("max_output_tokens"),
              reasoning=effort not in (None, "none", "minimal"))
    fmt = (body.get("text") or {}).get("format") or {}
    read_tools(ask, {"tools": body.get("tools"), "tool_choice": body.get("tool_choice")})
    if fmt.get("type") == "json_schema":
        ask.schema = fmt.get("schema")
    if body.get("instructions"):
        ask.add(body["instructions"])
    items = body["input"]
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        read_item(profile, ask, item)
    return ask


def read_item(profile, ask, item):
    kind = item.get("type", "message")
    if kind == "function_call":
        ask.add(item["name"] + item["arguments"])
    elif kind == "function_call_output":
        ask.tool_results.append(item["output"] if isinstance(item["output"], str) else json.dumps(item["output"]))
        ask.add(ask.tool_results[-1])
    elif kind == "message":
        ask.images, ask.tool_results, texts = [], [], []
        content = item.get("content")
        for part in [{"type": "input_text", "text": content}] if isinstance(content, str) else content:
            if part["type"] in ("input_text", "output_text"):
                texts.append(part["text"])
                ask.add(part["text"])
            elif part["type"] == "input_image":
                image = picture(part["image_url"], part.get("detail", "auto"), "input")
                ask.images.append(image)
                ask.add_image(image, profile.image_tokens)
            else:
                need(False, "invalid", "input", part["type"])
        if item.get("role") == "user":
            ask.last_text = "".join(texts)
    else:
        need(kind == "reasoning", "invalid", "input", kind)


def usage_object(x, u):
    return {"input_tokens": u.prompt, "input_tokens_details": {"cached_tokens": u.cache_read, "cache_write_tokens": u.write_5m},
            "output_tokens": u.completion, "output_tokens_details": {"reasoning_tokens": u.reasoning},
            "total_tokens": u.prompt + u.completion}


def message_item(x, text, status):
    content = [] if text is None else [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": x.call_id("msg_", 0, 0), "status": status, "role": "assistant", "content": content}


def call_item(x, i, arguments, status):
    return {"type": "function_call", "id": x.call_id("fc_", 0, i), "call_id": x.call_id("call_", 0, i), "name": x.answer.calls[i].name,
            "arguments": arguments, "status": status}


def response(x, status, output, usage=None):
    incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
    out = {"id": x.call_id("resp_", 0, 0), "object": "response", "created_at": x.created, "status": status, "model": x.model,
           "output": output, "error": None, "incomplete_details": incomplete, "instructions": x.body.get("instructions"), "metadata": {},
           "parallel_tool_calls": True,
           "temperature": 1.0, "top_p": 1.0, "tool_choice": x.body.get("tool_choice", "auto"), "tools": x.body.get("tools") or [],
           "max_output_tokens": x.ask.max_tokens, "store": False}
    return out if usage is None else {**out, "usage": usage}


def final(x):
    a = x.answer
    status = "incomplete" if a.finish == "length" else "completed"
    output = [message_item(x, a.text, status)] if a.text or not a.calls else []
    output += [call_item(x, i, call.json, "completed") for i, call in enumerate(a.calls)]
    u = x.usage()
    told = None if u is None else usage_object(x, u)
    return response(x, status, output, told), told


def whole(x):
    return final(x)


class Events:
    def __init__(self):
        self.n = 0

    def __call__(self, kind, made=(), told=None, **members):
        frame = Frame(sse({"type": kind, "sequence_number": self.n, **members}, kind), list(made), told)
        self.n += 1
        return frame


def frames(x):
    event, a, hidden = Events(), x.answer, []
    yield event("response.created", response=response(x, "in_progress", []))
    yield event("response.in_progress", response=response(x, "in_progress", []))
    pieces = [(channel, i, piece) for channel, i, piece in a.pieces()]
    hidden = [(0, *p) for p in pieces if p[0] == "reasoning"]  # counted, not shown
    index = 0
    if a.text or not a.calls:
        yield from text_frames(x, event, index, [p for c, _, p in pieces if c == "text"], hidden)
        hidden, index = [], 1
    for i in range(len(a.calls)):
        yield from call_frames(x, event, index + i, i, [p for c, k, p in pieces if c == "call" and k == i], hidden)
        hidden = []
    value, told = final(x)
    if x.do.get("no_done"):
        return
    yield event(f"response.{value['status']}", told=told, response=value)


def text_frames(x, event, index, pieces, hidden):
    where = {"item_id": x.call_id("msg_", 0, 0), "output_index": index, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield event("response.output_item.added", hidden, output_index=index, item=message_item(x, None, "in_progress"))
    yield event("response.content_part.added", part=part, **where)
    for piece in pieces:
        yield event("response.output_text.delta", [(0, "text", 0, piece)], delta=piece, logprobs=[], **where)
    yield event("response.output_text.done", text=x.answer.text, logprobs=[], **where)
    yield event("response.content_part.done", part={**part, "text": x.answer.text}, **where)
    yield event("response.output_item.done", output_index=index, item=message_item(x, x.answer.text, "completed"))


def call_frames(x, event, index, i, pieces, hidden):
    where = {"item_id": x.call_id("fc_", 0, i), "output_index": index}
    yield event("response.output_item.added", [*hidden, (0, "call", i, pieces[0])], output_index=index,
                item=call_item(x, i, "", "in_progress"))
    for piece in pieces[1:]:
        yield event("response.function_call_arguments.delta", [(0, "call", i, piece)], delta=piece, **where)
    yield event("response.function_call_arguments.done", arguments=x.answer.calls[i].json, name=x.answer.calls[i].name, **where)
    yield event("response.output_item.done", output_index=index, item=call_item(x, i, x.answer.calls[i].json, "completed"))


def error_frame(x, fault):
    return Frame(sse({"type": "error", "code": fault.code, "message": fault.message, "param": None, "sequence_number": 0}, "error"))
