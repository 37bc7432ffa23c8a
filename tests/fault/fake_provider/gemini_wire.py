"""Gemini's own wire: the model is in the path, a stream is SSE without names or [DONE], every chunk has usage and the last one counts."""
import json

from .answer import Ask
from .errors import Fault
from .exchange import Frame, need, need_known, picture, signature, sse
from .ledger import Made
from .profiles import GEMINI_CONFIG_PARAMS

ANSWERED_FAULTS = ("content_filter",)  # a refused prompt is an answer of status 200 without candidates
FINISH_REASONS = {"stop": "STOP", "stop_sequence": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
OPERATIONS = {"generateContent": "chat", "streamGenerateContent": "stream", "countTokens": "count"}


def route(profile, named, method, rest, query):
    name, _, operation = rest.removeprefix("/models/").partition(":")
    if method == "POST" and operation in OPERATIONS:
        if operation == "streamGenerateContent" and query.get("alt") != "sse":
            raise Fault("invalid", "alt", message="The fake provider streams only with alt=sse.")
        return OPERATIONS[operation], name
    if (method, rest) == ("GET", "/models"):
        return "models", None
    if method == "GET" and rest.startswith("/models/"):
        return "model", name
    raise Fault("bad_path")


def model_object(profile, name):
    return {"name": f"models/{name}", "version": "001", "displayName": name, "inputTokenLimit": 1048576, "outputTokenLimit": 65536,
            "supportedGenerationMethods": ["generateContent", "countTokens"]}


def models(profile):
    return {"models": [model_object(profile, name) for name in profile.models]}


def check_model(profile, name):
    if not profile.has_model(name):
        raise Fault("not_found", model=name)


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(w.title() for w in rest)


def member(body, name, default):
    """Both spellings are read, as protobuf's JSON has it."""
    return next((body[k] for k in body if camel(k) == name), default)


def read(profile, op, body, model, request):
    if op == "count" and "generateContentRequest" in body:
        body = body["generateContentRequest"]
    need_known(body, profile.params)
    check_model(profile, model)
    config = member(body, "generationConfig", {})
    need_known({camel(k): v for k, v in config.items()}, GEMINI_CONFIG_PARAMS)
    need(body.get("contents"), "missing", "contents")
    think = member(config, "thinkingConfig", None)
    ask = Ask(model, stream=op == "stream", n=member(config, "candidateCount", 1), max_tokens=member(config, "maxOutputTokens", None),
              stops=member(config, "stopSequences", []), reasoning=bool(think) and member(think, "thinkingBudget", -1) != 0)
    ask.schema = member(config, "responseJsonSchema", member(config, "responseSchema", None))
    if ask.schema is None and member(config, "responseMimeType", None) == "application/json":
        ask.schema = {}
    read_tools(ask, body)
    for part in member(body, "systemInstruction", {}).get("parts", []):
        ask.add(part["text"])
    for i, content in enumerate(body["contents"]):
        read_content(profile, ask, content, f"contents[{i}]")
    return ask


def read_tools(ask, body):
    for tool in body.get("tools") or []:
        for f in member(tool, "functionDeclarations", []):
            ask.tools[f["name"]] = member(f, "parametersJsonSchema", f.get("parameters")) or {}
            ask.add(json.dumps(f, separators=(",", ":"), ensure_ascii=False))
    calling = member(member(body, "toolConfig", {}), "functionCallingConfig", {})
    allowed = member(calling, "allowedFunctionNames", [])
    mode = calling.get("mode", "AUTO").lower()
    ask.tool_choice = allowed[0] if mode == "any" and allowed else mode


def read_content(profile, ask, content, where):
    need(content.get("role", "user") in ("user", "model"), "invalid", f"{where}.role", content.get("role"),
         "Please use a valid role: user, model.")
    ask.images, ask.tool_results, texts = [], [], []
    for part in content.get("parts") or []:
        call, result, data = (member(part, k, None) for k in ("functionCall", "functionResponse", "inlineData"))
        if "text" in part:
            ask.add(part["text"])
            if not part.get("thought"):
                texts.append(part["text"])
        elif call:
            arguments = json.dumps(call.get("args") or {}, separators=(",", ":"), ensure_ascii=False)
            ask.add(call["name"] + arguments)
            need(not ask.reasoning or member(part, "thoughtSignature", None) == signature(call["name"] + arguments), "invalid", where,
                 message=f"Function call `{call['name']}` is missing its thought_signature in functionCall parts.")
        elif result:
            response = result.get("response") or {}
            ask.tool_results.append(str(response.get("output", response.get("result", json.dumps(response, ensure_ascii=False)))))
            ask.add(ask.tool_results[-1])
        elif data or member(part, "fileData", None):
            image = picture(data["data"] if data else member(part, "fileData", {})["fileUri"], param=where)
            ask.images.append(image)
            ask.add_image(image, profile.image_tokens)
        else:
            raise Fault("invalid", where)
    if content.get("role", "user") == "user" and not ask.tool_results:
        ask.last_text = "".join(texts)


def count_object(ask):
    return {"totalTokens": ask.prompt_tokens}


# ---- what is told

def usage_object(x, u):
    """Thoughts beside the candidates, not in them."""
    out = {"promptTokenCount": u.prompt, "candidatesTokenCount": u.completion - u.reasoning, "totalTokenCount": u.prompt + u.completion,
           "promptTokensDetails": [{"modality": "TEXT", "tokenCount": u.prompt - min(u.image, u.prompt)}]}
    if u.image:
        out["promptTokensDetails"].append({"modality": "IMAGE", "tokenCount": u.image})
    if u.cache_read:
        out["cachedContentTokenCount"] = u.cache_read
    if x.ask.reasoning:
        out["thoughtsTokenCount"] = u.reasoning
    return out


def shows_thoughts(x):
    config = member(member(x.body, "generationConfig", {}), "thinkingConfig", None) or {}
    return bool(member(config, "includeThoughts", False))


def call_part(x, call):
    part = {"functionCall": {"name": call.name, "args": call.arguments}}
    return {**part, "thoughtSignature": signature(call.name + call.json)} if x.ask.reasoning else part


def response(x, candidates, told):
    out = {"candidates": candidates} if candidates else {}
    if told is not None:
        out["usageMetadata"] = told
    return {**out, "modelVersion": x.model, "responseId": x.call_id("resp", 0, 0)}


def blocked(x):
    """The prompt is refused before anything is made."""
    u = x.usage(Made())
    told = None if u is None else {"promptTokenCount": u.prompt, "totalTokenCount": u.prompt}
    return {**response(x, [], told), "promptFeedback": {"blockReason": "SAFETY"}}, told


def whole(x):
    if x.do.get("error") in ANSWERED_FAULTS:
        return blocked(x)
    a, parts = x.answer, []
    if a.reasoning and shows_thoughts(x):
        parts.append({"text": a.reasoning, "thought": True})
    if a.text:
        parts.append({"text": a.text})
    parts += [call_part(x, call) for call in a.calls]
    u = x.usage()
    told = None if u is None else usage_object(x, u)
    candidates = [{"content": {"role": "model", "parts": parts}, "finishReason": x.do.get("finish", FINISH_REASONS[a.finish]), "index": c}
                  for c in range(x.ask.n)]
    return response(x, candidates, told), told


def parts(x):
    """(part or None, what it took to make); a call comes whole."""
    calls = {}
    for channel, i, piece in x.answer.pieces():
        made = [(channel, i, piece)]
        if channel == "call":
            calls.setdefault(i, []).extend(made)
        elif channel == "reasoning":
            yield {"text": piece, "thought": True} if shows_thoughts(x) else None, made
        else:
            yield {"text": piece}, made
    for i, made in calls.items():
        yield call_part(x, x.answer.calls[i]), made


def frames(x):
    if x.do.get("error") in ANSWERED_FAULTS:
        value, told = blocked(x)
        yield Frame(sse(value), [], told)
        return
    made, how, hidden = Made(), x.do.get("usage"), []
    for c in range(x.ask.n):
        for part, pieces in parts(x):
            hidden += [(c, *p) for p in pieces]
            if part is not None:
                made.add(hidden)
                yield chunk(x, c, part, hidden, None if how == "after_finish" else x.usage(made))
                hidden = []
        if c < x.ask.n - 1:
            yield chunk(x, c, {"text": ""}, [], None, x.do.get("finish", FINISH_REASONS[x.answer.finish]))
    if x.do.get("no_done"):  # this wire's mark of the end is the finish reason
        return
    made.add(hidden)
    u = x.usage(made)
    yield chunk(x, x.ask.n - 1, {"text": ""}, hidden, None if how == "after_finish" else u,
                x.do.get("finish", FINISH_REASONS[x.answer.finish]))
    if u is not None and how in ("after_finish", "twice"):
        told = usage_object(x, u)
        yield Frame(sse(response(x, [], told)), [], told)


def chunk(x, choice, part, made, u, finish=None):
    told = None if u is None else usage_object(x, u)
    candidate = {"content": {"role": "model", "parts": [part]}, "index": choice, **({"finishReason": finish} if finish else {})}
    return Frame(sse(response(x, [candidate], told)), list(made), told)


def error_frame(x, fault):
    return Frame(sse(fault.object()))


def headers(x):
    return []
