"""Rules that say what goes wrong. The first rule that fits a request and has uses left is the one that acts; no rule, no fault.

    {"match": {"profile": "groq", "model": "...", "key": "key-2", "text": "part of the last message", "stream": true, "nth": 3},
     "count": 1, "do": {...}}

Every member of match may be left out. nth counts the requests that fit the rest, from 1; a list names several, and "2+" is the second
and all later. count is how often the rule acts (without it: always). A name that is not in ACTIONS is refused, so that no misspelt fault
is a silent pass.

Events are counted as a client sees them: each SSE event of the stream in order, the first has index 0; "after_event": 2 means that two
went out whole. A [DONE] is an event. after_bytes counts all bytes of the response, head and chunk sizes too; after_body_bytes those of
the body without sizes."""
from dataclasses import dataclass, field

ACTIONS = {
    # instead of an answer
    "error": str,           # a kind of errors.py in the host's own words
    "status": int,          # with body (text or object) and headers as given
    "body": (str, dict, list),
    "headers": dict,        # added to any response
    "retry_after": dict,    # {"form": "seconds|date|ms|retryinfo", "s": 3} instead of the host's own hint
    "error_in_200": str,    # status 200 and nothing but the error object
    # what is said
    "text": str,
    "tokens": int,          # a text of exactly so many tokens, an event each
    "reasoning": (int, str),
    "empty": bool,          # a completion without content
    "finish": str,          # the finish reason as it is told
    "model": str,           # the model that the response names
    "tier": str,            # the service_tier that it names (not on Gemini's wire)
    # when
    "delay_head_ms": (int, float),  # the prompt is being read: who leaves now owes it
    "delay_event_ms": (int, float),
    "stall": dict,          # {"after_event": 2, "ms": 500}; without ms: until the client leaves
    # the bytes of a stream
    "cut": dict,            # {"how": "reset|fin|end", "after_event": 2 | "after_bytes": 100 | "after_body_bytes": 50}
    "malformed": dict,      # {"at_event": 2, "kind": "json|utf8|huge|html|empty", "bytes": 2000000}
    "error_event": dict,    # {"after_event": 2, "kind": "overloaded"}: the host's error event, then the end
    "split": int,           # so many bytes at a time
    "crlf": bool,
    "comments": bool,       # an SSE comment before each event
    "no_done": bool,
    "framing": str,         # close: no chunks, the end of the connection is the end of the body
    # what is told of usage
    "usage": (str, dict),   # omit | zero | twice | each | after_finish | with_finish | {"factor": 0.5}
    "on_disconnect": str,   # stop | continue, instead of the host's own
}
CHOICES = {"usage": ("omit", "zero", "twice", "each", "after_finish", "with_finish"), "framing": ("chunked", "close"),
           "on_disconnect": ("stop", "continue")}
MEMBERS = {"cut": {"how", "after_event", "after_bytes", "after_body_bytes"}, "stall": {"after_event", "ms"}, "retry_after": {"form", "s"},
           "malformed": {"at_event", "kind", "bytes"}, "error_event": {"after_event", "kind"}, "usage": {"factor"}}
MATCHES = ("profile", "model", "key", "text", "stream", "nth")


@dataclass
class Rule:
    match: dict = field(default_factory=dict)
    do: dict = field(default_factory=dict)
    count: int = None
    n_fitting: int = 0
    n_used: int = 0

    def check(self):
        for name in self.match:
            if name not in MATCHES:
                raise ValueError(f"no match {name!r}")
        for name, value in self.do.items():
            if name not in ACTIONS or not isinstance(value, ACTIONS[name]):
                raise ValueError(f"no action {name!r} with {value!r}")
            if isinstance(value, str) and name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is one of {CHOICES[name]}, not {value!r}")
            if isinstance(value, dict) and name in MEMBERS and set(value) - MEMBERS[name]:
                raise ValueError(f"{name} has no {sorted(set(value) - MEMBERS[name])}")
        return self

    def fits(self, profile, model, key, text, stream):
        facts = {"profile": profile, "model": model, "key": key, "stream": stream}
        if any(self.match[k] != v for k, v in facts.items() if k in self.match) or self.match.get("text", "") not in text:
            return False
        self.n_fitting += 1
        nth = self.match.get("nth")
        if isinstance(nth, str):
            return self.n_fitting >= int(nth.rstrip("+"))
        return nth is None or self.n_fitting in (nth if isinstance(nth, list) else [nth])


class Script:
    def __init__(self):
        self.rules = []

    def load(self, body):
        """All rules or none; ValueError says which is wrong."""
        rules = [Rule(**{k: r[k] for k in r}).check() for r in body["rules"]]
        self.rules = self.rules + rules if body.get("append") else rules

    def pick(self, **facts):
        """The actions for a request. Every rule sees it, so that each counts for itself."""
        chosen = None
        for rule in self.rules:
            if rule.fits(**facts) and chosen is None and (rule.count is None or rule.n_used < rule.count):
                rule.n_used += 1
                chosen = rule
        return chosen.do if chosen else {}
