"""The truth: one row a request, begun when it is read and closed when its answer has ended. What was made is booked piece by piece as it
goes out, so a row is right whenever it ends. Costs are int64 nano-dollars, rounded half up once per line."""
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from . import tokens

METERS = ("in_uncached", "in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "in_image", "out_text", "out_reasoning")
PRICED_AS = {"in_cache_read": "in_uncached", "in_cache_write_5m": "in_uncached", "in_cache_write_1h": "in_cache_write_5m",
             "in_image": "in_uncached",
             "out_reasoning": "out_text"}  # a meter without a price of its own


@dataclass(frozen=True)
class Usage:
    """All of a prompt, and of it what pictures and caches hold; all of a completion, and of it the reasoning."""
    prompt: int = 0
    image: int = 0
    cache_read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    completion: int = 0
    reasoning: int = 0

    def scaled(self, factor):
        return Usage(*(round(v * factor) for v in vars(self).values()))

    def with_made(self, made):
        return replace(self, completion=made.completion, reasoning=made.reasoning)

    @property
    def meters(self):
        # A cached picture is no longer counted as one: caches know prompts only as a run of tokens.
        uncached = self.prompt - self.cache_read - self.write_5m - self.write_1h
        image = min(self.image, uncached)
        return dict(zip(METERS, (uncached - image, self.cache_read, self.write_5m, self.write_1h, image, self.completion - self.reasoning,
                                 self.reasoning)))


class Made:
    """Tokens by the bytes of each choice and channel: a word cut in two costs what it costs whole."""

    def __init__(self):
        self.n_bytes = Counter()

    def add(self, pieces):
        for choice, channel, i, text in pieces:
            self.n_bytes[choice, channel, i] += len(text.encode("utf-8", "surrogatepass"))

    @property
    def completion(self):
        return sum(map(tokens.of_bytes, self.n_bytes.values()))

    @property
    def reasoning(self):
        return sum(tokens.of_bytes(n) for (_, channel, _), n in self.n_bytes.items() if channel == "reasoning")


@dataclass
class Row:
    n: int
    id: str
    profile: str
    key: str
    path: str
    model: str = None
    stream: bool = False
    max_tokens: int = None   # as it was asked for
    status: int = None
    end: str = None          # whole | cut | left | refused
    left: bool = False       # the client went before the end
    usage: Usage = Usage()   # of the prompt; its completion is filled in by `made`
    made: Made = field(default_factory=Made)
    told: list = field(default_factory=list)  # usage objects as they were sent
    events: int = 0
    response_bytes: int = 0
    received_at: float = field(default_factory=time.time)
    first_byte_s: float = None
    left_s: float = None
    ended_s: float = None
    start: float = field(default_factory=time.monotonic, repr=False)

    def since(self):
        return round(time.monotonic() - self.start, 6)

    @property
    def truth(self):
        return self.usage.with_made(self.made) if self.status == 200 else Usage()


class Window:
    """What rate-limit headers speak of. It never refuses; a script does."""
    limit_requests, limit_tokens = 1000, 200_000

    def __init__(self):
        self.n_requests = self.n_tokens = self.last_tokens = 0

    def book(self, n_tokens):
        self.n_requests += 1
        self.n_tokens += n_tokens
        self.last_tokens = n_tokens

    @property
    def requests_left(self):
        return max(0, self.limit_requests - self.n_requests)

    @property
    def tokens_left(self):
        return max(0, self.limit_tokens - self.n_tokens)


class Ledger:
    def __init__(self):
        self.n_rows, self.rows, self.windows, self.prices = 0, {}, {}, {}

    def open(self, **facts):
        self.n_rows += 1
        row = Row(n=self.n_rows, id=f"req_{self.n_rows:06d}", **facts)
        self.rows[row.id] = row
        return row

    def forget(self, row):
        if self.rows.get(row.id) is row:  # it may be of a time before a reset
            del self.rows[row.id]

    def window(self, profile, key):
        return self.windows.setdefault((profile, key), Window())

    def set_prices(self, prices):
        """{"openai" or "openai/gpt-4o": {meter: {"nusd": 150000000, "units": 1000000}}}"""
        for name, table in prices.items():
            for meter, price in table.items():
                if meter not in METERS or set(price) != {"nusd", "units"} or price["units"] < 1:
                    raise ValueError(f"{name}: no price {meter!r} {price!r}")
        self.prices = prices

    def cost_nusd(self, profile, model, usage):
        table = self.prices.get(f"{profile}/{model}") or self.prices.get(profile) or {}
        total = 0
        for meter, n in usage.meters.items():
            while meter not in table and meter in PRICED_AS:
                meter = PRICED_AS[meter]
            if meter in table:
                units = table[meter]["units"]
                total += (n * table[meter]["nusd"] * 2 + units) // (2 * units)
        return total

    def line(self, row):
        u = row.truth
        return json.dumps({
            "n": row.n, "id": row.id, "profile": row.profile, "key": row.key, "path": row.path, "model": row.model, "stream": row.stream,
            "max_tokens": row.max_tokens,
            "status": row.status, "end": row.end, "left": row.left, "received_at": row.received_at, "first_byte_s": row.first_byte_s,
            "left_s": row.left_s, "ended_s": row.ended_s, "events": row.events, "response_bytes": row.response_bytes,
            "prompt_tokens": u.prompt, "image_tokens": u.image, "cache_read_tokens": u.cache_read, "cache_write_5m_tokens": u.write_5m,
            "cache_write_1h_tokens": u.write_1h, "completion_tokens": u.completion, "reasoning_tokens": u.reasoning, "meters": u.meters,
            "cost_nusd": self.cost_nusd(row.profile, row.model, u), "told": row.told}, ensure_ascii=False)
