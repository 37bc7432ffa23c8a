"""T32: hostile pictures cost the media process little: judged by their header, before memory is taken for them."""
import io
import pathlib
import struct
import zlib

import pytest
from PIL import Image

from conftest import long_run
from media_socket import DECODE, MAX_PIXELS, PROBE, Media
from serving import GOLDEN

PEAK_KIB = 64 << 10
LIMIT_S = 0.05 if long_run() else 0.5
WIDE, HIGH = 65535, 1024  # as many pixels as are allowed: 67,107,840
assert WIDE * HIGH <= MAX_PIXELS


@pytest.fixture
def media():
    m = Media()
    assert m.code == "none"
    assert m.ask(png(1, 1, zlib.compress(b"\0" * 4)))[0] == "none"  # libraries are in memory now
    yield m
    assert m.close() == 0


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(w, h, idat, depth=8, kind=2, interlace=0, end=True):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, interlace)) + chunk(b"IDAT", idat) + (chunk(b"IEND", b"") if end else b"")


def gif(w, h, frame=(1, 1), frames=1, data=b"\x02\x02\x44\x01\x00", extensions=0):
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + data
    return b"GIF89a" + struct.pack("<HHBBB", w, h, 0x80, 0, 0) + bytes(6) + b"!\xfe\x01x\0" * extensions + image * frames + b";"


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(w, h, sof=0xC0, colours=3, tail=b"\0" * 64, scan_colours=None, sampling=0x11):
    table = segment(0xDB, b"\0" + b"\1" * 64)
    frame = segment(sof, struct.pack(">BHHB", 8, h, w, colours) + b"".join(bytes([i + 1, sampling if i == 0 else 0x11, 0]) for i in range(colours)))
    # one code of one bit for DC (category 0) and one for AC (end of block)
    tables = segment(0xC4, b"\x00" + b"\1" + b"\0" * 15 + b"\0") + segment(0xC4, b"\x10" + b"\1" + b"\0" * 15 + b"\0")
    of = scan_colours or colours
    spectral = (0, 0, 0) if sof in (0xC2, 0xCA) else (0, 63, 0)
    scan = segment(0xDA, bytes([of]) + b"".join(bytes([i + 1, 0]) for i in range(of)) + bytes(spectral))
    return b"\xff\xd8" + table + frame + tables + scan + tail


def riff(*chunks):
    body = b"WEBP" + b"".join(n + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for n, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8(w, h, tail=b"\0" * 40):
    return b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", w, h) + tail


def vp8l(w, h, tail=b"\0" * 40):
    return b"\x2f" + struct.pack("<I", (w - 1) | (h - 1) << 14) + tail


def vp8x(w, h, flags=0):
    return bytes([flags, 0, 0, 0]) + struct.pack("<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3]


LIMIT, BROKEN, FINE = "limit", "input", "none"
CASES = {
    "png 65535^2": (png(65535, 65535, b"x"), LIMIT),
    "png 2^31-1": (png(2**31 - 1, 2**31 - 1, b"x"), LIMIT),
    "png 2^32-1": (png(2**32 - 1, 1, b"x"), BROKEN),
    "png of 1,500,000 chunks": (png(1, 1, b"x", end=False) + chunk(b"tEXt", b"") * 1500000, LIMIT),
    "png of 49,000 chunks": (png(1, 1, zlib.compress(b"\0" * 4), end=False) + chunk(b"tEXt", b"") * 49000 + chunk(b"IEND", b""), FINE),
    "png 0 wide": (png(0, 5, b"x"), BROKEN),
    "png of the largest size, cut": (png(WIDE, HIGH, zlib.compress(b"\0" * 999)), BROKEN),
    "png, 16 bits and alpha, cut": (png(WIDE, HIGH, zlib.compress(b"\0" * 999), depth=16, kind=6), BROKEN),
    "png, interlaced, cut": (png(WIDE, HIGH, zlib.compress(b"\0" * 999), interlace=1), BROKEN),
    "png of 1 bit, cut": (png(WIDE, HIGH, zlib.compress(b"\0" * 99), depth=1, kind=0), BROKEN),
    "gif 65535^2": (gif(65535, 65535), LIMIT),
    "gif with a frame out of the screen": (gif(1, 1, (65535, 65535)), LIMIT),
    "gif of the largest screen, cut": (gif(WIDE, HIGH, (WIDE, HIGH)), BROKEN),
    "gif of the largest screen, no frame": (gif(WIDE, HIGH, data=b""), BROKEN),
    "gif of 100,000 frames": (gif(1, 1, frames=100000), FINE),
    "gif of 9,000 comments": (gif(1, 1, extensions=9000), FINE),
    "gif of 3,000,000 comments": (gif(1, 1, extensions=3000000), LIMIT),
    "jpeg 65535^2": (jpeg(65535, 65535), LIMIT),
    "jpeg 65500^2": (jpeg(65500, 65500), LIMIT),
    "jpeg 65535 wide": (jpeg(65535, 1), BROKEN),  # the library's own limit is 65,500
    "jpeg of the largest size, cut": (jpeg(65500, HIGH), BROKEN),
    "jpeg, progressive, cut": (jpeg(65500, HIGH, sof=0xC2), BROKEN),
    "jpeg, progressive, subsampled, cut": (jpeg(65500, HIGH, sof=0xC2, sampling=0x22), BROKEN),
    "jpeg, scan by scan, cut": (jpeg(65500, HIGH, scan_colours=1), BROKEN),
    "jpeg, four colours, progressive, cut": (jpeg(65500, HIGH, sof=0xC2, colours=4), BROKEN),
    "jpeg, arithmetic, cut": (jpeg(65500, HIGH, sof=0xC9), "unsupported"),
    "jpeg of 3,000,000 comments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 3000000 + jpeg(1, 1)[2:], LIMIT),
    "jpeg of 0 lines": (jpeg(100, 0), BROKEN),
    "webp 16383^2": (riff((b"VP8 ", vp8(16383, 16383))), LIMIT),
    "webp 16384^2, lossless": (riff((b"VP8L", vp8l(16384, 16384))), LIMIT),
    "webp canvas of 2^24": (riff((b"VP8X", vp8x(1 << 24, 1 << 24)), (b"VP8L", vp8l(1, 1))), BROKEN),
    "webp of 2,000,000 chunks": (riff((b"VP8X", vp8x(1, 1)), *[(b"junk", b"")] * 2000000), LIMIT),
    "webp of the largest size, cut": (riff((b"VP8 ", vp8(16383, 4096))), BROKEN),
    "webp, lossless, of the largest size, cut": (riff((b"VP8L", vp8l(16384, 4096))), BROKEN),
    "webp canvas of the largest size, cut": (riff((b"VP8X", vp8x(WIDE, HIGH)), (b"VP8L", vp8l(1, 1, b""))), BROKEN),
}


@pytest.mark.parametrize("name", CASES)
def test_t32_hostile_header(media, name):
    data, want = CASES[name]
    before = media.peak_kib()
    for call in (PROBE, DECODE):
        code, message, _ = media.ask_timed(data, call)
        assert code == want or (call == PROBE and want == BROKEN and code == FINE), (code, message)
        assert media.cpu_s <= LIMIT_S, media.cpu_s
    assert media.peak_kib() - before < PEAK_KIB


def test_t32_figures(media, figure):
    before, slowest = media.peak_kib(), 0.0
    for data, _ in CASES.values():
        for call in (PROBE, DECODE):
            media.ask_timed(data, call)
            slowest = max(slowest, media.cpu_s)
    figure("T32 hostile headers: peak over base", (media.peak_kib() - before) / 1024, "MiB")
    figure("T32 hostile headers: slowest", slowest * 1000, "ms of processor time")


def test_t32_four_colours_and_16_bits_decode(media):
    for name in ("jpg_cmyk_80x60.jpg", "rgb16_45x31.png", "gray16_40x30.png"):
        assert media.ask((GOLDEN / "images" / name).read_bytes())[0] == FINE


def pictures():
    return sorted(p for p in (GOLDEN / "images").iterdir() if p.suffix in (".png", ".jpg", ".gif", ".webp") and not p.name.startswith("bad_"))


def extra_pictures():
    """Kinds that the goldens lack."""
    out = {}
    for name, kind, options in (("lossy.webp", "WEBP", {}), ("progressive cmyk.jpg", "JPEG", {"progressive": True}), ("interlaced.gif", "GIF", {"interlace": 1})):
        b = io.BytesIO()
        Image.radial_gradient("L").convert("CMYK" if "cmyk" in name else "RGB").resize((67, 45)).save(b, kind, **options)
        out[name] = b.getvalue()
    return out


def test_t32_cut_at_every_byte(media, size, figure):
    """An error, or the very picture where what is missing does not matter; within the time and the memory, whatever the place."""
    files = {p.name: p.read_bytes() for p in pictures()} | extra_pictures()
    base, slowest, n = media.peak_kib(), 0.0, 0
    for name, data in files.items():
        code, message, whole = media.ask(data)
        assert code == FINE, (name, message)
        step = size(max(1, len(data) // 40), 1 if len(data) < 60000 else 53)
        for end in range(1, len(data), step):
            code, message, hashes = media.ask_timed(data[:end])
            assert code in (BROKEN, "unsupported") or (code == FINE and hashes == whole), (name, end, code, message)
            slowest, n = max(slowest, media.cpu_s), n + 1
    assert slowest <= LIMIT_S
    assert media.peak_kib() - base < PEAK_KIB
    figure("T32 cut files", n)
    figure("T32 cut files: slowest", slowest * 1000, "ms of processor time")
    figure("T32 cut files: peak over base", (media.peak_kib() - base) / 1024, "MiB")
