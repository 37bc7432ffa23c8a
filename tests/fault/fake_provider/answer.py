"""What is asked, in common terms, and what is said to it. The same request always gets the same answer:

    a tool's result came last          The tool said: RESULT
    tools, and "call NAME {json}"      those calls (several, if it says so several times); with a forced choice, a smallest instance
    a JSON schema                      a smallest instance of it
    pictures in the last message       image 40x30 png, image 8x8 jpeg
    otherwise                          You said: TEXT

Reasoning, where it was asked for, is "Thinking about: TEXT". A script may set texts and lengths instead."""
import json
import re
from dataclasses import dataclass, field

from . import tokens


@dataclass
class Ask:
    model: str
    stream: bool = False
    n: int = 1
    max_tokens: int = None
    stops: list = field(default_factory=list)
    units: list = field(default_factory=list)  # of tokens.Unit: the prompt
    image_tokens: int = 0                      # of them
    last_text: str = ""
    images: list = field(default_factory=list)  # of the last message
    tools: dict = field(default_factory=dict)   # name -> schema of its arguments
    tool_choice: str = "auto"                   # none | auto | any | the name of a tool
    tool_results: list = field(default_factory=list)
    schema: object = None                       # {}: any object
    reasoning: bool = False
    include_usage: bool = True

    def add(self, text, mark=None):
        self.units.append(tokens.Unit(text, tokens.count(text), mark))

    def add_image(self, image, formula):
        n = formula(image)
        self.units.append(tokens.Unit(str(image), n))
        self.image_tokens += n

    @property
    def prompt_tokens(self):
        return sum(u.tokens for u in self.units)


@dataclass
class Call:
    name: str
    arguments: dict

    @property
    def json(self):
        return json.dumps(self.arguments, separators=(",", ":"), ensure_ascii=False)


@dataclass
class Answer:
    reasoning: str = ""
    text: str = ""
    calls: list = field(default_factory=list)
    finish: str = "stop"  # stop | stop_sequence | length | tool_calls; a wire has its own words for them
    stop_sequence: str = None

    def pieces(self):
        """(channel, index of the call, text) in the order in which they are made. A call's first piece is its name."""
        for channel in ("reasoning", "text"):
            for m in re.finditer(r"\S+\s*|\s+", getattr(self, channel)):
                yield channel, 0, m[0]
        for i, call in enumerate(self.calls):
            yield "call", i, call.name
            for at in range(0, len(call.json), 8):
                yield "call", i, call.json[at:at + 8]

    @property
    def reasoning_tokens(self):
        return tokens.count(self.reasoning)

    @property
    def completion_tokens(self):
        return self.reasoning_tokens + tokens.count(self.text) + sum(tokens.count(c.name + c.json) for c in self.calls)


def instance(schema, root=None, depth=0):
    """A smallest instance: required members only, first of an enum, least of a number, empty texts and lists unless a minimum says more."""
    root = root or schema
    if depth > 32 or not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target.get(part, {})
        return instance(target, root, depth + 1)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return instance(schema[key][0], root, depth + 1)
    kind = schema.get("type", "object")
    kind = (kind[0] if isinstance(kind, list) else kind).lower()  # Gemini writes STRING
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: instance(properties.get(name, {}), root, depth + 1) for name in schema.get("required", properties)}
    if kind == "array":
        return [instance(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        return "x" * schema.get("minLength", 0)
    return {"integer": schema.get("minimum", 0), "number": schema.get("minimum", 0), "boolean": False}.get(kind)


def calls_in(text, tools):
    """Every "call NAME {json}" whose NAME is one of the tools."""
    out = []
    for m in re.finditer(r"call ([\w.-]+) (?=\{)", text):
        if m[1] in tools:
            try:
                out.append(Call(m[1], json.JSONDecoder().raw_decode(text, m.end())[0]))
            except ValueError:
                pass
    return out


def compose(ask, do):
    """do: the actions of the script's rule, perhaps none."""
    a = Answer()
    if ask.reasoning:
        a.reasoning = f"Thinking about: {ask.last_text}"
    if "reasoning" in do:
        a.reasoning = "hmm " * do["reasoning"] if isinstance(do["reasoning"], int) else do["reasoning"]
    forced = ask.tool_choice in ask.tools or (ask.tool_choice == "any" and ask.tools)
    if do.get("empty"):
        a.reasoning = ""
    elif "tokens" in do:
        a.text = "tok " * do["tokens"]
    elif "text" in do:
        a.text = do["text"]
    elif ask.tool_results:
        a.text = "The tool said: " + ", ".join(ask.tool_results)
    elif ask.tool_choice != "none" and (calls := calls_in(ask.last_text, ask.tools)):
        a.calls = calls
    elif forced:
        name = ask.tool_choice if ask.tool_choice in ask.tools else next(iter(ask.tools))
        a.calls = [Call(name, instance(ask.tools[name] or {}))]
    elif ask.schema is not None:
        a.text = json.dumps(instance(ask.schema), ensure_ascii=False)
    elif ask.images:
        a.text = ", ".join(map(str, ask.images))
    else:
        a.text = f"You said: {ask.last_text}"
    if a.calls:
        a.finish = "tool_calls"
    stop_at(a, ask.stops)
    shorten(a, ask.max_tokens)
    return a


def stop_at(a, stops):
    found = [(a.text.index(s), s) for s in stops if s and s in a.text]
    if found:
        at, a.stop_sequence = min(found)
        a.text, a.finish = a.text[:at], "stop_sequence"


def cut_text(text, n_tokens):
    """The longest beginning of whole characters within n_tokens."""
    return text.encode("utf-8", "surrogatepass")[:4 * n_tokens].decode("utf-8", "ignore")


def shorten(a, max_tokens):
    """Reasoning counts too. A call that does not fit is not made at all: half an object is none."""
    if max_tokens is None or a.completion_tokens <= max_tokens:
        return
    a.finish, a.stop_sequence = "length", None
    a.reasoning = cut_text(a.reasoning, max_tokens)
    a.text = cut_text(a.text, max_tokens - a.reasoning_tokens)
    while a.calls and a.completion_tokens > max_tokens:
        a.calls.pop()
