"""What things cost in tokens, by one rule that anybody can compute again: a text of n bytes of UTF-8 is ceil(n / 4) tokens. A prompt is
the sum over its texts and pictures, an answer the sum over its reasoning, its text and each of its tool calls (name and arguments
together)."""
import hashlib
import math
import struct
from dataclasses import dataclass

CACHE_MIN_TOKENS = 1024  # no cache of any provider begins below it
CACHE_STEP_TOKENS = 128  # OpenAI's grain


def count(text):
    return of_bytes(len(text.encode("utf-8", "surrogatepass")))


def of_bytes(n):
    return -(-n // 4)


@dataclass
class Image:
    width: int
    height: int
    format: str
    detail: str = "auto"

    def __str__(self):
        return f"image {self.width}x{self.height} {self.format}"


def image_of(data, detail="auto"):
    """Size and format by the first bytes; ValueError for what is none of the four."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return Image(*struct.unpack(">II", data[16:24]), "png", detail)
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return Image(*struct.unpack("<HH", data[6:10]), "gif", detail)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " and len(data) >= 30:
        return Image(*(n & 0x3fff for n in struct.unpack("<HH", data[26:30])), "webp", detail)
    if data[:2] == b"\xff\xd8":
        return Image(*jpeg_size(data), "jpeg", detail)
    raise ValueError("not a picture")


def jpeg_size(data):
    at = 2
    while at + 9 <= len(data) and data[at] == 0xff:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
            height, width = struct.unpack(">HH", data[at + 5:at + 9])
            return width, height
        at += 2 + length
    raise ValueError("a JPEG without a frame")


def openai_tiles(i):
    """85 and 170 per tile of 512 after fitting into 2048x2048 and then the short side into 768."""
    if i.detail == "low":
        return 85
    scale = min(1, 2048 / max(i.width, i.height))
    scale *= min(1, 768 / (min(i.width, i.height) * scale))
    return 85 + 170 * math.ceil(i.width * scale / 512) * math.ceil(i.height * scale / 512)


def anthropic_area(i):
    return math.ceil(i.width * i.height / 750)


def gemini_tiles(i):
    return 258 if max(i.width, i.height) <= 384 else 258 * math.ceil(i.width / 768) * math.ceil(i.height / 768)


def patches(i):
    """28 pixels a side: what hosts of open vision models (Pixtral, Qwen) charge."""
    return math.ceil(i.width / 28) * math.ceil(i.height / 28)


@dataclass
class Unit:
    """One piece of a prompt, in the order in which a cache sees it. mark: a cache mark's time to live after this piece ("5m", "1h")."""
    text: str
    tokens: int
    mark: str = None


class PromptCache:
    """Which prompts a key has sent to a model. Two policies: by prefix (nobody asks for it) and by mark (Anthropic)."""

    def __init__(self):
        self.seen = {}

    def prefixes(self, units):
        """Per piece: the hash of all up to it, and their tokens."""
        h, tokens = hashlib.blake2b(digest_size=16), 0
        for u in units:
            h.update(b"%d:" % len(u.text) + u.text.encode("utf-8", "surrogatepass"))
            tokens += u.tokens
            yield h.digest(), tokens, u.mark

    def by_prefix(self, owner, units):
        """(read, write): the longest run of leading pieces seen before, in steps; written is what is whole and new."""
        known = self.seen.setdefault(owner, set())
        read = total = 0
        for digest, total, _ in self.prefixes(units):
            if digest in known:
                read = total
            known.add(digest)
        whole = [n - n % CACHE_STEP_TOKENS if n >= CACHE_MIN_TOKENS else 0 for n in (read, total)]
        return whole[0], whole[1] - whole[0]

    def by_mark(self, owner, units):
        """(read, write_5m, write_1h): read up to the last mark that is known, written from there on, each stretch by its own mark."""
        known = self.seen.setdefault(owner, set())
        marks = [(d, n, m) for d, n, m in self.prefixes(units) if m and n >= CACHE_MIN_TOKENS]
        read = max((n for d, n, m in marks if d in known), default=0)
        write, at = {"5m": 0, "1h": 0}, read
        for digest, tokens, mark in marks:
            known.add(digest)
            if tokens > at:
                write[mark] += tokens - at
                at = tokens
        return read, write["5m"], write["1h"]
