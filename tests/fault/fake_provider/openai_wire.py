"""The OpenAI wire as a dozen hosts speak it: chat completions and model lists. What differs is a field of the host's row or one of its
quirks."""
import json
import re

from .answer import Ask
from .errors import Fault
from .exchange import Frame, need, need_known, picture, sse
from .ledger import Made
from .profiles import HF_PROVIDERS

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ANSWERED_FAULTS = ()


def route(profile, named, method, rest, query):
    """(operation, model named by the path)"""
    model = named.get("model")
    if model and "api_version" in profile.quirks and "api-version" not in query:
        raise Fault("bad_path")
    if (method, rest) == ("POST", "/chat/completions"):
        return "chat", model
    if (method, rest) == ("POST", "/responses") and "responses" in profile.quirks:
        return "responses", model
    if method == "GET" and rest == "/models":
        return "models", None
    if method == "GET" and rest.startswith("/models/"):
        return "model", rest.removeprefix("/models/")
    raise Fault("bad_path", method=method, path=rest)


def model_object(profile, name):
    out = {"id": name, "object": "model", "created": 1700000000, "owned_by": profile.name}
    if profile.name == "mistral":
        out |= {"type": "base", "max_context_length": 131072, "capabilities": {
            "completion_chat": True, "function_calling": True, "vision": "pixtral" in name, "reasoning": "magistral" in name}}
    if "suffixes" in profile.quirks:
        vision = ["image"] if "VL" in name else []
        out["architecture"] = {"input_modalities": ["text", *vision], "output_modalities": ["text"]}
        out["providers"] = [{"provider": p, "status": "live", "context_length": 32768, "pricing": {"input": 0.1 * i, "output": 0.4 / i},
                             "is_free": False, "supports_tools": True, "supports_structured_output": True,
                             "first_token_latency_ms": 100 * i, "throughput": 50.0 * i, "is_model_author": False}
                            for i, p in enumerate(HF_PROVIDERS, 1)]
        out["providers"].append({"provider": "novita", "status": "error"})  # every other member is optional
    return out


def models(profile):
    return {"object": "list", "data": [model_object(profile, name) for name in profile.models]}


def check_model(profile, name):
    if "suffixes" in profile.quirks and isinstance(name, str) and ":" in name:
        name, _, suffix = name.partition(":")
        if suffix not in ("fastest", "cheapest", "preferred", *HF_PROVIDERS):
            raise Fault("not_found", "model")
    if not profile.has_model(name):
        raise Fault("not_found", "model", model=name)


def wants_reasoning(body):
    r = body.get("reasoning") if isinstance(body.get("reasoning"), dict) else {}
    asked = body.get("reasoning_effort") not in (None, "none", "minimal")
    asked = asked or r.get("enabled") or r.get("max_tokens") or r.get("effort", "none") != "none"
    asked = asked or body.get("include_reasoning") or body.get("reasoning_format") or body.get("prompt_mode") == "reasoning"
    return bool(asked) and not body.get("disable_reasoning")


def read(profile, op, body, model, request):
    need_known(body, profile.params)
    name = model or body.get("model")
    need(name, "missing", "model")
    check_model(profile, name)
    need(isinstance(body.get("messages"), list) and body["messages"], "missing", "messages")
    if "reasoning_models" in profile.quirks and re.match(r"gpt-5|o\d", name):
        need("max_tokens" not in body, "unsupported", "max_tokens")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    need(limit is None or (isinstance(limit, int) and limit > 0), "invalid", "max_tokens", limit)
    stop = body.get("stop") or []
    ask = Ask(name, stream=bool(body.get("stream")), n=body.get("n") or 1, max_tokens=limit,
              stops=[stop] if isinstance(stop, str) else stop,
              reasoning=wants_reasoning(body), include_usage=bool((body.get("stream_options") or {}).get("include_usage")))
    read_tools(ask, body)
    for i, message in enumerate(body["messages"]):
        read_message(profile, ask, message, f"messages[{i}]")
    return ask


def read_tools(ask, body):
    for tool in body.get("tools") or []:
        f = tool.get("function", tool)  # the Responses form is flat
        need(tool.get("type") == "function" and f.get("name"), "invalid", "tools")
        ask.tools[f["name"]] = f.get("parameters") or {}
        ask.add(json.dumps(tool, separators=(",", ":"), ensure_ascii=False))
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name", "any")
    ask.tool_choice = "any" if choice == "required" else choice
    fmt = body.get("response_format") or {}
    if fmt.get("type") == "json_schema":
        need(isinstance((fmt.get("json_schema") or {}).get("schema"), dict), "missing", "response_format.json_schema.schema")
        ask.schema = fmt["json_schema"]["schema"]
    elif fmt.get("type") == "json_object":
        ask.schema = fmt.get("value", {})  # huggingface_hub writes the schema there, as its own server has it


def read_message(profile, ask, message, where):
    role = message.get("role")
    need(role in ROLES, "invalid", f"{where}.role", role)
    if "strict_messages" in profile.quirks:
        for name in ("reasoning_content", "reasoning"):
            need(name not in message, "unknown", f"{where}.{name}")
    ask.images = []
    texts = []
    content = message.get("content")
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        if part.get("type") == "text":
            texts.append(part["text"])
            ask.add(part["text"])
        elif part.get("type") == "image_url":
            url = part["image_url"] if isinstance(part["image_url"], dict) else {"url": part["image_url"]}
            image = picture(url["url"], url.get("detail", "auto"), f"{where}.content")
            ask.images.append(image)
            ask.add_image(image, profile.image_tokens)
        else:
            need(part.get("type") in ("refusal", "thinking", "reasoning"), "invalid", f"{where}.content", part.get("type"))
    for call in message.get("tool_calls") or []:
        ask.add(call["function"]["name"] + call["function"]["arguments"])
    if role == "tool":
        need(message.get("tool_call_id"), "missing", f"{where}.tool_call_id")
        ask.tool_results.append("".join(texts))
    else:
        ask.tool_results = []
    if role == "user":
        ask.last_text = "".join(texts)


# ---- what is told

def usage_object(x, u):
    """OpenAI's three numbers and what the host adds."""
    kind = x.profile.usage
    out = {"prompt_tokens": u.prompt, "completion_tokens": u.completion, "total_tokens": u.prompt + u.completion}
    if kind == "openai":
        written = {"cache_write_tokens": u.write_5m} if x.profile.cache == "prefix+write" else {}
        out["prompt_tokens_details"] = {"cached_tokens": u.cache_read, "audio_tokens": 0, **written}
        out["completion_tokens_details"] = {"reasoning_tokens": u.reasoning, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                            "rejected_prediction_tokens": 0}
    elif kind == "mistral":
        out |= {"prompt_tokens_details": {"cached_tokens": u.cache_read}, "num_cached_tokens": u.cache_read, "prompt_audio_seconds": None}
    elif kind == "gemini_compat":  # thoughts are in the total alone
        out["completion_tokens"] -= u.reasoning
    elif kind in ("details", "groq"):
        out["prompt_tokens_details"] = {"cached_tokens": u.cache_read}
        out["completion_tokens_details"] = {"reasoning_tokens": u.reasoning}
        if kind == "groq":
            out |= {"queue_time": 0.001, "prompt_time": 0.002, "completion_time": 0.003, "total_time": 0.005}
    elif kind == "openrouter":
        cost = x.cost_usd or 0
        out["prompt_tokens_details"] = {"cached_tokens": u.cache_read, "cache_write_tokens": u.write_5m, "audio_tokens": 0,
                                        "video_tokens": 0}
        out["completion_tokens_details"] = {"reasoning_tokens": u.reasoning}
        out |= {"cost": cost, "is_byok": False, "cost_details": {
            "upstream_inference_cost": None, "upstream_inference_prompt_cost": 0, "upstream_inference_completions_cost": cost}}
    return out


def finish_word(x):
    word = {"stop_sequence": "stop"}.get(x.answer.finish, x.answer.finish)
    if word == "stop" and "eos" in x.profile.quirks and x.answer.stop_sequence is None:
        word = "eos"
    return x.do.get("finish", word)


def call_object(x, choice, i, arguments):
    return {"id": x.call_id("call_", choice, i), "type": "function", "function": {"name": x.answer.calls[i].name, "arguments": arguments}}


def begin(x):
    """Groq's reasoning_format says where reasoning goes: raw puts it into the text."""
    fmt = x.body.get("reasoning_format")
    if fmt == "raw" and x.answer.reasoning:
        x.answer.text, x.answer.reasoning = f"<think>{x.answer.reasoning}</think>{x.answer.text}", ""
    if fmt == "hidden" or x.body.get("include_reasoning") is False:
        x.show_reasoning = None


def message_object(x, choice):
    a = x.answer
    out = {"role": "assistant", "content": a.text if a.text or not a.calls else None}
    if x.profile.usage == "openai":
        out |= {"refusal": None, "annotations": []}
    if a.calls:
        out["tool_calls"] = [call_object(x, choice, i, call.json) for i, call in enumerate(a.calls)]
    if x.show_reasoning and a.reasoning:
        out |= reasoning_member(x, a.reasoning, a.text)
    return out


def reasoning_member(x, piece, text=None):
    if x.show_reasoning == "chunks":
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": piece}]}
        return {"content": [thinking] if text is None else [thinking, {"type": "text", "text": text}]}
    out = {x.show_reasoning: piece}
    if x.profile.name == "openrouter":
        out["reasoning_details"] = [{"type": "reasoning.text", "text": piece, "format": None, "index": 0}]
    return out


def filter_results(x):
    return {"content_filter_results": {k: {"filtered": False, "severity": "safe"} for k in ("hate", "self_harm", "sexual", "violence")}} \
        if "prompt_filter" in x.profile.quirks else {}


def time_info(x):
    return {"time_info": {"queue_time": 0.001, "prompt_time": 0.002, "completion_time": 0.003, "total_time": 0.005, "created": x.created}} \
        if "time_info" in x.profile.quirks else {}


def envelope(x, kind):
    out = {"id": x.call_id("gen-" if x.profile.name == "openrouter" else "chatcmpl-", 0, 0), "object": kind, "created": x.created,
           "model": x.model}
    if x.profile.name not in ("mistral", "together", "gemini_compat", "huggingface"):
        out["system_fingerprint"] = "fp_fake"
    if "tier" in x.do:
        out["service_tier"] = x.do["tier"]
    return out


def whole(x):
    begin(x)
    out = envelope(x, "chat.completion")
    out["choices"] = [{"index": c, "message": message_object(x, c), "logprobs": None, "finish_reason": finish_word(x), **filter_results(x)}
                      for c in range(x.ask.n)]
    told = None
    if (u := x.usage()) is not None:
        out["usage"] = told = usage_object(x, u)
    out |= time_info(x)
    if "x_groq" in x.profile.quirks:
        out["x_groq"] = {"id": x.row.id}
    if x.profile.name == "together":
        out["prompt"] = []
    return out, told


class Stream:
    """Writes chunks: knows where usage goes and what was made so far."""

    def __init__(self, x):
        self.x, self.made = x, Made()
        how = x.do.get("usage")
        self.place = "finish" if how == "with_finish" else "asked" if how == "after_finish" else x.profile.stream_usage
        self.asked = x.ask.include_usage or how == "after_finish"
        self.first = True

    def chunk(self, choices, made=(), u=None, **extra):
        x = self.x
        self.made.add(made)
        out = envelope(x, "chat.completion.chunk")
        out["choices"] = choices
        told = None
        if u is None and x.do.get("usage") == "each":
            u = x.usage(self.made)
        if u is not None:
            out["usage"] = told = usage_object(x, u)
        elif self.place == "asked" and self.asked:
            out["usage"] = None
        if "obfuscation" in x.profile.quirks and choices and (x.body.get("stream_options") or {}).get("include_obfuscation", True):
            out["obfuscation"] = "x" * (len(str(choices)) % 16)
        if "x_groq" in x.profile.quirks and self.first:
            extra["x_groq"] = {"id": x.row.id, **extra.get("x_groq", {})}
        self.first = False
        return Frame(sse(out | extra), list(made), told)

    def delta(self, choice, delta, made=(), finish=None, **more):
        results = filter_results(self.x) if delta else {}
        return self.chunk([{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish, **results}], made, **more)


def deltas(x, choice):
    """(delta, what it took to make) for each piece; a call is one delta where the host does not cut it."""
    whole_calls = {}
    for channel, i, piece in x.answer.pieces():
        made = [(choice, channel, i, piece)]
        if channel == "text":
            yield {"content": piece}, made
        elif channel == "reasoning":
            yield reasoning_member(x, piece) if x.show_reasoning else None, made
        elif "whole_calls" in x.profile.quirks:
            whole_calls.setdefault(i, []).extend(made)
        elif piece == x.answer.calls[i].name and i not in whole_calls:
            whole_calls[i] = True
            yield {"tool_calls": [{"index": i, **call_object(x, choice, i, "")}]}, made
        else:
            yield {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}, made
    if "whole_calls" in x.profile.quirks:
        for i, made in whole_calls.items():
            yield {"tool_calls": [{"index": i, **call_object(x, choice, i, x.answer.calls[i].json)}]}, made


def frames(x):
    begin(x)
    s = Stream(x)
    if "comments" in x.profile.quirks:
        yield Frame(b": OPENROUTER PROCESSING\n\n")
    if "prompt_filter" in x.profile.quirks:
        yield s.chunk([], prompt_filter_results=[{"prompt_index": 0, **filter_results(x)}])
    hidden = []  # made, but with nothing to show: it goes with the next frame
    for c in range(x.ask.n):
        yield s.delta(c, {"role": "assistant", "content": ""})
        for delta, made in deltas(x, c):
            hidden += made
            if delta is not None:
                yield s.delta(c, delta, hidden)
                hidden = []
    u = x.usage()
    for c in range(x.ask.n):
        last, extra = c == x.ask.n - 1, {}
        if last and "x_groq" in x.profile.quirks:
            extra["x_groq"] = {"id": x.row.id, **({"usage": usage_object(x, u)} if u is not None else {})}
        extra |= time_info(x) if last else {}
        yield s.delta(c, {}, hidden, finish_word(x), u=u if last and s.place == "finish" else None, **extra)
        hidden = []
    yield from usage_frames(x, s, u)
    if not x.do.get("no_done"):
        yield Frame(sse("[DONE]"))


def usage_frames(x, s, u):
    """Those after the finish reason."""
    if u is None or x.do.get("usage") == "each":
        return
    n = (s.place == "repeat") or (s.place == "asked" and s.asked)
    n += x.do.get("usage") == "twice"
    for _ in range(n):
        if s.place == "repeat":
            yield s.delta(0, {"role": "assistant", "content": ""}, finish=finish_word(x), u=u)
        else:
            yield s.chunk([], u=u)


def error_frame(x, fault):
    """How the host says in a stream of status 200 that it is over."""
    s = Stream(x)
    if "x_groq" in x.profile.quirks:
        s.first = False
        return s.delta(0, {}, x_groq={"id": x.row.id, "error": fault.message})
    if x.profile.name == "mistral":
        return s.delta(0, {}, finish="error")
    if x.profile.name == "openrouter":
        return s.delta(0, {"content": ""}, finish="error", **fault.object())
    if "status_in_error" in x.profile.quirks:
        return Frame(sse({"error": {**fault.object(), "id": x.row.id}, "status_code": fault.status}))
    return Frame(sse(fault.object()))


def headers(x):
    """Of a good answer, beside the request id and the limits."""
    if x.profile.name == "openai":
        return [("openai-processing-ms", 1), ("openai-version", "2020-10-01"), ("openai-organization", "org-fake")]
    if "perf_headers" in x.profile.quirks and not x.ask.stream:
        return [("fireworks-prompt-tokens", x.row.usage.prompt), ("fireworks-server-time-to-first-token", "0.001")]
    return []
