"""T32 and the pool's queue at the API: what a request's pictures may be in pixels, each and together, and how many may wait."""
import signal
import struct
import threading
import time
import zlib

import pytest
import requests

from serving import VLM, Server
from test_media_cage import BAD_BIN, PARAM, ask, bad, part
from test_media_pictures import chunk


def png(w, h):
    rows = zlib.compress((b"\0" + b"\x80" * (3 * w)) * h)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def server():
    s = Server(VLM, "--no-auth", "--max-image-pixels=5000", "--max-images-pixels=9000", "--max-media-queue=20", "--decode-timeout=3s", program=BAD_BIN)
    yield s
    assert s.stop() == 0, "".join(s.lines[-30:])


def test_t32_pixels_of_one_picture(server):
    assert ask(server, png(50, 100)) == (200, "", "")
    assert ask(server, png(50, 60), png(5001, 1)) == (400, "invalid_value", PARAM.replace("content[0]", "content[1]"))


def test_t32_pixels_of_a_request(server):
    assert ask(server, png(50, 90), png(50, 90)) == (200, "", "")
    assert ask(server, png(50, 90), png(50, 90), png(1, 1)) == (400, "invalid_value", "messages")


def test_t32_default_limits_by_the_header():
    s = Server(VLM, "--no-auth")
    try:
        head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"x")
        assert ask(s, head) == (400, "invalid_value", PARAM)
    finally:
        assert s.stop() == 0


def test_t31_too_many_pictures_wait(server):
    """One picture holds the only decoder; of 30 more 20 wait, and the rest is told at once to come again."""
    results, lock = [], threading.Lock()

    def work(data):
        body = {"model": VLM.name, "messages": [{"role": "user", "content": [part(data)]}], "max_tokens": 1}
        start = time.monotonic()
        r = requests.post(server.url + "/v1/chat/completions", json=body, timeout=60)
        with lock:
            results.append((r.status_code, r.json()["error"]["code"] if r.status_code != 200 else "", "retry-after" in r.headers, time.monotonic() - start))
    threads = [threading.Thread(target=work, args=(d,)) for d in [bad("wait")] + [png(40, 30)] * 30]
    threads[0].start()
    time.sleep(0.5)
    for t in threads[1:]:
        t.start()
    for t in threads:
        t.join(60)
    refused = [r for r in results if r[0] == 429]
    assert len(refused) == 10 and all(r[1] == "queue_full" and r[2] for r in refused), results
    assert all(r[3] < 2 for r in refused), refused
    assert sorted(r[0] for r in results if r[0] != 429) == [200] * 20 + [400]


def test_t32_changed_limits_hold_after_a_reload(tmp_path):
    """Larger pictures, and the decoder's memory with them; then smaller ones again."""
    config = tmp_path / "config.yaml"

    def limit(pixels):
        config.write_text(f"limits:\n  max_image_pixels: {pixels}\n")
    limit(4000)
    s = Server(VLM, "--no-auth", "--config", config)
    try:
        assert ask(s, png(50, 100))[0] == 400
        first = s.children("media")
        for pixels, status in ((5000, 200), (4999, 400)):
            limit(pixels)
            s.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 5
            while ask(s, png(50, 100))[0] != status and time.monotonic() < end:
                time.sleep(0.05)
            assert ask(s, png(50, 100))[0] == status
        assert s.children("media") != first
    finally:
        assert s.stop() == 0
