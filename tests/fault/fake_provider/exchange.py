"""One request being answered, and the frames of its stream: what every wire works on."""
import base64
import hashlib
import json
import time
from dataclasses import dataclass, field, replace

from . import tokens
from .errors import Fault
from .ledger import Usage


def sse(value, event=None):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


@dataclass
class Frame:
    """One event. made: what the model had to make before it could go out; told: the usage object in it."""
    data: bytes
    made: list = field(default_factory=list)  # of (choice, channel, index, text)
    told: object = None


class Exchange:
    def __init__(self, profile, body, ask, answer, do, row):
        self.profile, self.body, self.ask, self.answer, self.do, self.row = profile, body, ask, answer, do, row
        self.created = int(time.time())
        self.show_reasoning = profile.reasoning
        self.cost_usd = None  # set by the server: some hosts tell it
        self.stalled = False

    @property
    def model(self):
        return self.do.get("model", self.ask.model)

    def whole_made(self):
        return [(c, *piece) for c in range(self.ask.n) for piece in self.answer.pieces()]

    def truth(self):
        """What the answer costs if it is made to its end."""
        n, a = self.ask.n, self.answer
        return replace(self.row.usage, completion=n * a.completion_tokens, reasoning=n * a.reasoning_tokens)

    def usage(self, made=None):
        """What is told: the truth (of all, or of what was made so far) unless the script has it otherwise. None: nothing."""
        how = self.do.get("usage")
        if how == "omit":
            return None
        if how == "zero":
            return Usage()
        truth = self.truth() if made is None else self.row.usage.with_made(made)
        return truth.scaled(how["factor"]) if isinstance(how, dict) else truth

    def call_id(self, prefix, choice, i):
        """The same call of the same request has the same id."""
        return f"{prefix}{self.row.n:04d}{choice}{i:03d}"

    def fault(self, kind, **words):
        return Fault(kind, **words).bind(self.profile.errors, self.row.id, model=self.ask.model, key=self.row.key)


def signature(text):
    """What a provider puts on reasoning so that it comes back unchanged."""
    return base64.b64encode(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=b"fake provider", digest_size=24).digest()).decode()


def picture(url_or_data, detail="auto", param="image_url"):
    """A picture from a data: URL, or from base64. Another URL is never fetched: it counts as 512 pixels square."""
    if url_or_data.startswith(("http://", "https://")):
        return tokens.Image(512, 512, "url", detail)
    data = url_or_data.partition(",")[2] if url_or_data.startswith("data:") else url_or_data
    try:  # in either alphabet: google-genai writes the one for URLs
        return tokens.image_of(base64.b64decode(data.translate(str.maketrans("-_", "+/")), validate=True), detail)
    except ValueError:
        raise Fault("invalid", param, message="The image data you provided does not represent a valid image.") from None


def need(condition, kind, param, value=None, message=None):
    if not condition:
        raise Fault(kind, param, value, message=message)


def need_known(body, params):
    """Refuses the first member that the host does not know."""
    if params is not None:
        for name in body:
            need(name in params, "unknown", name, body[name])
