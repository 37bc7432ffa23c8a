"""The official SDKs behind one small face, for tests that ask the same of each: send turns, get what was said. Nothing here knows the
fake provider but for its addresses; what an SDK makes of the bytes is what these classes hand on.

Turns are tuples: ("user", text), ("picture", text, mime type, bytes), ("said", Said), ("result", call, text)."""
import base64
import json
from dataclasses import dataclass, field

import anthropic
import cerebras.cloud.sdk as cerebras
import groq
import huggingface_hub.errors
import mistralai.client
import openai
import together
from google import genai

OPTIONS = {"max_retries": 0, "timeout": 20}


@dataclass
class Said:
    text: str = ""
    finish: str = None
    calls: list = field(default_factory=list)  # of (id, name, arguments)
    reasoning: str = ""
    usage: tuple = None                        # all that is billed: (prompt, completion, of the one cached, of the other reasoning)
    pieces: int = 0
    raw: object = None                         # what has to come back in the next turn


def data_url(mime, data):
    return f"data:{mime};base64," + base64.b64encode(data).decode()


def get(thing, *names):
    """The first member that is there and not None, of models and dictionaries alike."""
    for name in names:
        value = thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
        if value is not None:
            return value
    return None


class Chat:
    """Whatever has client.chat.completions.create: OpenAI's own SDK and those made after it."""

    def __init__(self, name, make, sdk=openai, profile=None, model=None, think=None, thinker=None, shows=True, stop="stop",
                 stream_options=True, limit="max_tokens", usage_details=True, reads_errors=True):
        self.name, self.make, self.sdk, self.profile = name, make, sdk, profile or name
        self.model, self.thinker, self.think, self.shows, self.stop = model, thinker or model, think, shows, stop
        self.stream_options = {"stream_options": {"include_usage": True}} if stream_options else {}
        self.limit, self.usage_details, self.reads_errors = limit, usage_details, reads_errors

    def __repr__(self):
        return self.name

    def messages(self, turns):
        for kind, *rest in turns:
            if kind == "user":
                yield {"role": "user", "content": rest[0]}
            elif kind == "picture":
                yield {"role": "user", "content": [{"type": "text", "text": rest[0]},
                                                   {"type": "image_url", "image_url": {"url": data_url(*rest[1:])}}]}
            elif kind == "said":
                calls = [{"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for i, n, a in rest[0].calls]
                yield {"role": "assistant", "content": rest[0].text or None, **({"tool_calls": calls} if calls else {})}
            else:
                yield {"role": "tool", "tool_call_id": rest[0][0], "content": rest[1]}

    def body(self, turns, tools=None, schema=None, think=False, limit=None, model=None):
        out = {"model": model or (self.thinker if think else self.model), "messages": list(self.messages(turns))}
        if tools:
            out["tools"] = [{"type": "function", "function": {"name": n, "description": n, "parameters": s}} for n, s in tools.items()]
        if schema:
            out["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        if limit:
            out[self.limit] = limit
        return {**out, **(self.think if think else {})}

    def open(self, client, turns, **how):
        return client.chat.completions.create(**self.body(turns, **how), stream=True, **self.stream_options)

    def send(self, client, turns, stream=False, **how):
        if stream:
            return self.join(self.open(client, turns, **how))
        r = client.chat.completions.create(**self.body(turns, **how))
        m = r.choices[0].message
        calls = [self.call_of(c) for c in get(m, "tool_calls") or []]
        return Said(m.content or "", r.choices[0].finish_reason, calls, get(m, "reasoning", "reasoning_content") or "",
                    self.usage_of(r.usage))

    def call_of(self, c):
        f = get(c, "function")
        return get(c, "id"), get(f, "name"), json.loads(get(f, "arguments"))

    def join(self, chunks):
        out, calls = Said(), {}
        for chunk in chunks:
            usage = get(chunk, "usage") or get(get(chunk, "x_groq"), "usage")
            out.usage = self.usage_of(usage) if usage else out.usage
            for choice in chunk.choices:
                out.finish = choice.finish_reason or out.finish
                out.pieces += bool(choice.delta.content)
                out.text += choice.delta.content or ""
                out.reasoning += get(choice.delta, "reasoning", "reasoning_content") or ""
                for c in get(choice.delta, "tool_calls") or []:
                    f, call = get(c, "function"), calls.setdefault(get(c, "index"), [None, "", ""])
                    call[0] = get(c, "id") or call[0]
                    call[1] += get(f, "name") or ""
                    call[2] += get(f, "arguments") or ""
        out.calls = [(i, n, json.loads(a)) for i, n, a in calls.values()]
        return out

    def usage_of(self, u):
        n_prompt, n_completion, total = (get(u, f"{name}_tokens") for name in ("prompt", "completion", "total"))
        prompt, completion = get(u, "prompt_tokens_details") or {}, get(u, "completion_tokens_details") or {}
        assert total >= n_prompt + n_completion
        return n_prompt, total - n_prompt, get(prompt, "cached_tokens") or 0, get(completion, "reasoning_tokens") or 0

    def error_class(self, status):
        names = {400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
                 409: "ConflictError",
                 422: "UnprocessableEntityError", 429: "RateLimitError"}
        return getattr(self.sdk, names.get(status) or ("InternalServerError" if status >= 500 else "APIStatusError"))

    def status_of(self, e):
        return e.status_code

    def headers_of(self, e):
        return e.response.headers

    def words_of(self, e):
        """What it says of an error; the bare body where it cannot read the host's shape."""
        return str(e) if self.reads_errors else e.response.text

    @property
    def stream_errors(self):
        """What an SDK may raise on a stream that breaks off: its own or its HTTP library's."""
        return (self.sdk.APIError, ConnectionError, OSError, *transport_errors())


def transport_errors():
    import httpx
    import httpx2
    return httpx.TransportError, httpx2.TransportError


class HuggingFace(Chat):
    def error_class(self, status):
        return huggingface_hub.errors.BadRequestError if status == 400 else huggingface_hub.errors.HfHubHTTPError

    def status_of(self, e):
        return e.response.status_code

    stream_errors = (huggingface_hub.errors.HfHubHTTPError, OSError, *transport_errors())


class Mistral(Chat):
    """Thinking comes in a list of content, arguments perhaps as an object."""

    def open(self, client, turns, **how):
        return client.chat.stream(**self.body(turns, **how))

    def send(self, client, turns, stream=False, **how):
        if stream:
            with self.open(client, turns, **how) as events:
                return self.join([self.plain(e.data) for e in events])
        r = client.chat.complete(**self.body(turns, **how))
        m = r.choices[0].message
        text, thinking = self.split(m.content)
        calls = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in get(m, "tool_calls") or []]
        return Said(text, r.choices[0].finish_reason, calls, thinking, self.usage_of(r.usage))

    def split(self, content):
        if isinstance(content, list):
            return ("".join(c.text for c in content if c.type == "text"),
                    "".join(t.text for c in content if c.type == "thinking" for t in c.thinking))
        return content or "", ""

    def plain(self, chunk):
        """A chunk with its lists of content flattened, in the form that join reads."""
        for choice in chunk.choices:
            text, thinking = self.split(choice.delta.content)
            choice.delta = type("Delta", (), {"content": text, "reasoning": thinking, "tool_calls": choice.delta.tool_calls or []})
        return chunk

    def usage_of(self, u):
        extra = u.additional_properties
        assert extra["num_cached_tokens"] == extra["prompt_tokens_details"]["cached_tokens"]
        return u.prompt_tokens, u.completion_tokens, extra["num_cached_tokens"], None

    def error_class(self, status):
        return mistralai.client.errors.HTTPValidationError if status == 422 else mistralai.client.errors.SDKError

    def headers_of(self, e):
        return e.headers

    stream_errors = (mistralai.client.errors.MistralError, *transport_errors())


class Anthropic(Chat):
    """Blocks of content, results in the user's turn, thinking that comes back signed."""

    def messages(self, turns):
        for kind, *rest in turns:
            if kind == "picture":
                text, mime, data = rest
                yield {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "source": {
                    "type": "base64", "media_type": mime, "data": base64.b64encode(data).decode()}}]}
            elif kind == "said":
                yield {"role": "assistant", "content": rest[0].raw}
            elif kind == "result":
                yield {"role": "user", "content": [{"type": "tool_result", "tool_use_id": rest[0][0], "content": rest[1]}]}
            else:
                yield {"role": "user", "content": rest[0]}

    def body(self, turns, tools=None, schema=None, think=False, limit=None, model=None):
        out = {"model": model or self.model, "messages": list(self.messages(turns)), "max_tokens": limit or 4000}
        if tools:
            out["tools"] = [{"name": n, "description": n, "input_schema": s} for n, s in tools.items()]
        if schema:
            out["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return {**out, **({"thinking": {"type": "enabled", "budget_tokens": 1024}} if think else {})}

    def open(self, client, turns, **how):
        return client.messages.create(**self.body(turns, **how), stream=True)

    def send(self, client, turns, stream=False, **how):
        pieces = 0
        if stream:
            with client.messages.stream(**self.body(turns, **how)) as s:
                pieces = sum(1 for _ in s.text_stream)
                m = s.get_final_message()
        else:
            m = client.messages.create(**self.body(turns, **how))
        u = m.usage
        prompt = u.input_tokens + (u.cache_read_input_tokens or 0) + (u.cache_creation_input_tokens or 0)
        return Said("".join(b.text for b in m.content if b.type == "text"), m.stop_reason,
                    [(b.id, b.name, b.input) for b in m.content if b.type == "tool_use"],
                    "".join(b.thinking for b in m.content if b.type == "thinking"),
                    (prompt, u.output_tokens, u.cache_read_input_tokens or 0, get(u.output_tokens_details or {}, "thinking_tokens") or 0),
                    pieces,
                    m.content)

    def error_class(self, status):
        names = {402: "PaymentRequiredError", 413: "ContentTooLargeError", 529: "OverloadedError", 504: "GatewayTimeoutError"}
        exceptions = anthropic._exceptions
        return getattr(exceptions, names[status]) if status in names and hasattr(exceptions, names[status]) else super().error_class(status)


class Gemini(Chat):
    """The model's turns come back as they were, with their signatures."""

    def contents(self, turns):
        types = genai.types
        for kind, *rest in turns:
            if kind == "said":
                yield rest[0].raw
            elif kind == "result":
                yield types.Content(role="user", parts=[types.Part.from_function_response(name=rest[0][1], response={"output": rest[1]})])
            else:
                picture = [types.Part.from_bytes(data=rest[2], mime_type=rest[1])] if kind == "picture" else []
                yield types.Content(role="user", parts=[types.Part.from_text(text=rest[0]), *picture])

    def body(self, turns, tools=None, schema=None, think=False, limit=None, model=None):
        types = genai.types
        config = types.GenerateContentConfig(max_output_tokens=limit)
        if tools:
            config.tools = [types.Tool(function_declarations=[
                types.FunctionDeclaration(name=n, description=n, parameters_json_schema=s) for n, s in tools.items()])]
        if schema:
            config.response_mime_type, config.response_json_schema = "application/json", schema
        if think:
            config.thinking_config = types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)
        return {"model": model or self.model, "contents": list(self.contents(turns)), "config": config}

    def open(self, client, turns, **how):
        return client.models.generate_content_stream(**self.body(turns, **how))

    def send(self, client, turns, stream=False, **how):
        answers = list(self.open(client, turns, **how)) if stream else [client.models.generate_content(**self.body(turns, **how))]
        out, parts = Said(), []
        for r in answers:
            out.usage = self.usage_of(r.usage_metadata) if r.usage_metadata else out.usage
            for candidate in r.candidates or []:
                out.finish = candidate.finish_reason.value if candidate.finish_reason else out.finish
                parts += candidate.content.parts or []
        for p in parts:
            out.reasoning += (p.text or "") if p.thought else ""
            out.text += (p.text or "") if not p.thought else ""
            out.pieces += bool(p.text) and not p.thought
            if p.function_call:
                out.calls.append((p.function_call.id, p.function_call.name, p.function_call.args))
        out.raw = genai.types.Content(role="model", parts=[p for p in parts if p.text or p.function_call])
        return out

    def usage_of(self, u):
        thoughts = u.thoughts_token_count or 0
        assert u.total_token_count == u.prompt_token_count + u.candidates_token_count + thoughts
        return u.prompt_token_count, u.candidates_token_count + thoughts, u.cached_content_token_count or 0, thoughts

    def error_class(self, status):
        return genai.errors.ServerError if status >= 500 else genai.errors.ClientError

    def status_of(self, e):
        return e.code

    stream_errors = (genai.errors.APIError, ValueError, *transport_errors())


def by_openai(profile):
    return lambda fake, key: openai.OpenAI(base_url=fake.base(profile), api_key=key, **OPTIONS)


EFFORT = {"reasoning_effort": "high"}
SDKS = [
    Chat("openai", by_openai("openai"), model="gpt-4o-mini", thinker="gpt-5-mini", think=EFFORT, shows=False,
         limit="max_completion_tokens"),
    Chat("azure-v1", by_openai("azure"), profile="azure", model="my-gpt-4o", thinker="my-gpt-5", think=EFFORT, shows=False),
    Chat("azure-legacy",
         lambda fake, key: openai.AzureOpenAI(azure_endpoint=fake.url + "/azure", api_version="2024-10-21", api_key=key, **OPTIONS),
         profile="azure", model="my-gpt-4o", thinker="my-gpt-5", think=EFFORT, shows=False),
    Chat("groq-by-openai", by_openai("groq"), profile="groq", model="llama-3.1-8b-instant", thinker="openai/gpt-oss-20b", think=EFFORT),
    Chat("fireworks", by_openai("fireworks"), model="accounts/fireworks/models/llama-v3p1-8b-instruct",
         thinker="accounts/fireworks/models/deepseek-v3p1", think=EFFORT),
    Chat("bedrock", by_openai("bedrock"), model="openai.gpt-oss-20b-1:0", think=EFFORT, shows=False, usage_details=False),
    Chat("openrouter", by_openai("openrouter"), model="openai/gpt-4o-mini", thinker="qwen/qwen3-32b",
         think={"extra_body": {"reasoning": {"effort": "high"}}}),
    Chat("huggingface-by-openai", by_openai("huggingface"), profile="huggingface", model="HuggingFaceTB/SmolLM3-3B:cheapest", think=EFFORT,
         usage_details=False, reads_errors=False),
    Chat("generic", by_openai("generic"), model="llama3.2", think=EFFORT, usage_details=False),
    Chat("gemini-compat", by_openai("gemini_compat"), profile="gemini_compat", model="gemini-2.5-flash", think=EFFORT, shows=False,
         usage_details=False,
         reads_errors=False),
    HuggingFace("huggingface_hub",
                lambda fake, key: huggingface_hub.InferenceClient(base_url=fake.base("huggingface"), api_key=key, timeout=20),
                profile="huggingface", model="HuggingFaceTB/SmolLM3-3B", think={"extra_body": EFFORT}, usage_details=False),
    Chat("groq", lambda fake, key: groq.Groq(base_url=fake.url + "/groq", api_key=key, **OPTIONS), groq, model="llama-3.1-8b-instant",
         thinker="openai/gpt-oss-20b", think={"reasoning_format": "parsed", **EFFORT}, stream_options=False),
    Chat("cerebras",
         lambda fake, key: cerebras.Cerebras(base_url=fake.url + "/cerebras", api_key=key, warm_tcp_connection=False, **OPTIONS),
         cerebras, model="llama3.1-8b", thinker="gpt-oss-120b", think=EFFORT, limit="max_completion_tokens"),
    Chat("together", lambda fake, key: together.Together(base_url=fake.url + "/together", api_key=key, **OPTIONS), together,
         model="meta-llama/Llama-3.3-70B-Instruct-Turbo", thinker="Qwen/Qwen3-235B-A22B-fp8-tput", think=EFFORT, stop="eos",
         stream_options=False,
         usage_details=False),
    Mistral("mistral", lambda fake, key: mistralai.client.Mistral(server_url=fake.url + "/mistral", api_key=key, timeout_ms=20_000),
            model="mistral-small-latest", thinker="magistral-medium-latest", think={"prompt_mode": "reasoning"}),
    Anthropic("anthropic", lambda fake, key: anthropic.Anthropic(base_url=fake.base("anthropic"), api_key=key, **OPTIONS), anthropic,
              model="claude-haiku-4-5", stop="end_turn", think={}),
    Anthropic("azure-anthropic", lambda fake, key: anthropic.Anthropic(base_url=fake.base("azure_anthropic"), api_key=key, **OPTIONS),
              anthropic,
              profile="azure_anthropic", model="claude-haiku-4-5", stop="end_turn", think={}),
    Gemini("gemini", lambda fake, key: genai.Client(api_key=key, http_options={"base_url": fake.url + "/gemini", "timeout": 20_000,
                                                                              "retry_options": {"attempts": 1}}),
           model="gemini-2.5-flash", stop="STOP", think={}),
]
