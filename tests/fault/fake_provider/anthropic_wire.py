"""Anthropic's Messages: named events, content blocks, thinking that must come back signed, caches by mark, cumulative usage."""
import json

from .answer import Ask
from .errors import Fault
from .exchange import Frame, need, need_known, picture, signature, sse
from .ledger import Made
from .profiles import ANTHROPIC_VERSIONS

ANSWERED_FAULTS = ()
STOP_REASONS = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tool_calls": "tool_use"}
OPERATIONS = {("POST", "/messages"): "chat", ("POST", "/messages/count_tokens"): "count", ("GET", "/models"): "models"}


def route(profile, named, method, rest, query):
    if (method, rest) in OPERATIONS:
        return OPERATIONS[method, rest], None
    if method == "GET" and rest.startswith("/models/"):
        return "model", rest.removeprefix("/models/")
    raise Fault("bad_path")


def model_object(profile, name):
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z", "lifecycle": "active"}


def models(profile):
    data = [model_object(profile, name) for name in profile.models]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


def check_model(profile, name):
    if not profile.has_model(name):
        raise Fault("not_found", "model", model=name)


def read(profile, op, body, model, request):
    version = request.header("anthropic-version")
    need(version in ANTHROPIC_VERSIONS, "invalid", "anthropic-version", version,
         f"anthropic-version: {version!r} is not a valid version" if version else "anthropic-version: header is required")
    need_known(body, profile.params | ANTHROPIC_VERSIONS[version])
    for name in ("model", "messages") if op == "count" else ("model", "messages", "max_tokens"):
        need(name in body, "missing", name)
    check_model(profile, body["model"])
    limit = body.get("max_tokens")
    need(op == "count" or (isinstance(limit, int) and limit > 0), "invalid", "max_tokens", limit)
    ask = Ask(body["model"], stream=bool(body.get("stream")), max_tokens=limit, stops=body.get("stop_sequences") or [])
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        need(isinstance(budget, int) and budget >= 1024, "invalid", "thinking.enabled.budget_tokens", budget,
             "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        need(limit is None or budget < limit, "invalid", "max_tokens", limit, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    ask.reasoning = thinking.get("type") in ("enabled", "adaptive")
    read_tools(ask, body)
    system = body.get("system") or []
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system:
        ask.add(block["text"], mark_of(block))
    for i, message in enumerate(body["messages"]):
        read_message(profile, ask, message, f"messages.{i}")
    return ask


def mark_of(block):
    control = block.get("cache_control")
    return control.get("ttl", "5m") if control else None


def read_tools(ask, body):
    for tool in body.get("tools") or []:
        need(tool.get("name"), "missing", "tools.0.name")
        ask.tools[tool["name"]] = tool.get("input_schema") or {}
        ask.add(json.dumps({k: v for k, v in tool.items() if k != "cache_control"}, separators=(",", ":"), ensure_ascii=False),
                mark_of(tool))
    choice = body.get("tool_choice") or {"type": "auto"}
    ask.tool_choice = choice["name"] if choice.get("type") == "tool" else choice.get("type")
    fmt = (body.get("output_config") or {}).get("format") or {}
    if fmt.get("type") == "json_schema":
        ask.schema = fmt.get("schema")


def read_message(profile, ask, message, where):
    need(message.get("role") in ("user", "assistant"), "invalid", f"{where}.role", message.get("role"))
    ask.images, ask.tool_results, texts = [], [], []
    content = message.get("content")
    for j, block in enumerate([{"type": "text", "text": content}] if isinstance(content, str) else content or []):
        kind = block.get("type")
        if kind == "text":
            texts.append(block["text"])
            ask.add(block["text"], mark_of(block))
        elif kind == "image":
            source = block["source"]
            image = picture(source["url"] if source.get("type") == "url" else source["data"], param=f"{where}.content.{j}.image")
            ask.images.append(image)
            ask.add_image(image, profile.image_tokens)
            ask.units[-1].mark = mark_of(block)
        elif kind == "tool_use":
            ask.add(block["name"] + json.dumps(block["input"], separators=(",", ":"), ensure_ascii=False), mark_of(block))
        elif kind == "tool_result":
            need(block.get("tool_use_id"), "missing", f"{where}.content.{j}.tool_result.tool_use_id")
            inner = block.get("content") or ""
            text = inner if isinstance(inner, str) else "".join(b.get("text", "") for b in inner)
            ask.tool_results.append(text)
            ask.add(text, mark_of(block))
        elif kind == "thinking":
            need(block.get("signature") == signature(block["thinking"]), "invalid", f"{where}.content.{j}",
                 message=f"{where}.content.{j}: Invalid `signature` in `thinking` block")
            ask.add(block["thinking"])
        else:
            need(kind in ("redacted_thinking", "document"), "invalid", f"{where}.content.{j}.type", kind)
    if message["role"] == "user" and not ask.tool_results:
        ask.last_text = "".join(texts)


def count_object(ask):
    return {"input_tokens": ask.prompt_tokens}


# ---- what is told

def usage_object(x, u, output=None):
    """Input without what caches hold. output: what a stream's opening event says instead of the whole."""
    out = {"input_tokens": u.prompt - u.cache_read - u.write_5m - u.write_1h, "cache_creation_input_tokens": u.write_5m + u.write_1h,
           "cache_read_input_tokens": u.cache_read,
           "cache_creation": {"ephemeral_5m_input_tokens": u.write_5m, "ephemeral_1h_input_tokens": u.write_1h},
           "output_tokens": u.completion if output is None else output, "service_tier": x.do.get("tier", "standard")}
    if output is None and x.ask.reasoning:
        out["output_tokens_details"] = {"thinking_tokens": u.reasoning}
    return out


def stop_reason(x):
    return x.do.get("finish", STOP_REASONS[x.answer.finish])


def message_object(x, content, reason, usage):
    out = {"id": x.call_id("msg_", 0, 0), "type": "message", "role": "assistant", "model": x.model, "content": content,
           "stop_reason": reason,
           "stop_sequence": x.answer.stop_sequence if reason else None}
    return out if usage is None else {**out, "usage": usage}


def whole(x):
    a, content = x.answer, []
    if a.reasoning:
        content.append({"type": "thinking", "thinking": a.reasoning, "signature": signature(a.reasoning)})
    if a.text:
        content.append({"type": "text", "text": a.text})
    content += [{"type": "tool_use", "id": x.call_id("toolu_", 0, i), "name": c.name, "input": c.arguments} for i, c in enumerate(a.calls)]
    u = x.usage()
    told = None if u is None else usage_object(x, u)
    return message_object(x, content, stop_reason(x), told), told


def event(value, made=(), told=None):
    return Frame(sse(value, value["type"]), list(made), told)


def blocks(x):
    """(first form of the block, its deltas with what each took to make)"""
    grouped = {}
    for channel, i, piece in x.answer.pieces():
        grouped.setdefault((channel, i), []).append(piece)
    for (channel, i), pieces in grouped.items():
        made = [[(0, channel, i, piece)] for piece in pieces]
        if channel == "reasoning":
            deltas = [({"type": "thinking_delta", "thinking": p}, m) for p, m in zip(pieces, made)]
            yield {"type": "thinking", "thinking": "", "signature": ""}, [
                *deltas, ({"type": "signature_delta", "signature": signature(x.answer.reasoning)}, [])]
        elif channel == "text":
            yield {"type": "text", "text": ""}, [({"type": "text_delta", "text": p}, m) for p, m in zip(pieces, made)]
        else:
            made[1] = made[0] + made[1]  # the name goes out with the block, but costs only once it is part of a call
            yield {"type": "tool_use", "id": x.call_id("toolu_", 0, i), "name": pieces[0], "input": {}}, [
                ({"type": "input_json_delta", "partial_json": p}, m) for p, m in zip(pieces[1:], made[1:])]


def frames(x):
    u, how, made = x.usage(), x.do.get("usage"), Made()
    start = None if u is None else usage_object(x, u, output=min(1, u.completion))
    yield event({"type": "message_start", "message": message_object(x, [], None, start)}, told=start)
    yield event({"type": "ping"})
    for index, (block, deltas) in enumerate(blocks(x)):
        yield event({"type": "content_block_start", "index": index, "content_block": block})
        for delta, pieces in deltas:
            made.add(pieces)
            yield event({"type": "content_block_delta", "index": index, "delta": delta}, pieces)
            if how == "each":
                yield delta_event(x, None, usage_object(x, x.usage(made)))
        yield event({"type": "content_block_stop", "index": index})
    final = None if u is None else usage_object(x, u)
    yield delta_event(x, stop_reason(x), None if how == "after_finish" else final)
    if final is not None and how in ("twice", "after_finish"):
        yield delta_event(x, stop_reason(x), final)
    if not x.do.get("no_done"):
        yield event({"type": "message_stop"})


def delta_event(x, reason, usage):
    delta = {"stop_reason": reason, "stop_sequence": x.answer.stop_sequence if reason else None}
    return event({"type": "message_delta", "delta": delta, **({} if usage is None else {"usage": usage})}, told=usage)


def error_frame(x, fault):
    return Frame(sse(fault.object(), "error"))


def headers(x):
    return [("anthropic-organization-id", "org-fake")]
