"""T82 in small: 1,000,000 mixed requests (short: 10,000) on keep-alive connections against the real gateway and media processes with a scripted
engine. After the first tenth memory grows by less than 1 %, and descriptors and threads stay as they are."""
import os
import pathlib
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "failer"))
from conftest import long_run  # noqa: E402
from http_raw import n_fds, rss_bytes  # noqa: E402
from scripts import LEAVE_AFTER, SCRIPTS  # noqa: E402
from serving import DEMO, FAKE_BIN, FakeServer  # noqa: E402

SOAK = pathlib.Path(os.environ.get("SPILLWAY_SOAK_BIN", pathlib.Path(FAKE_BIN).parent / "soak"))
THREADS = 8
# name: (weight, status). What the scripted engine cannot do (logprobs) is left out; the rest of failer/scripts.py is here.
MIX = {"text": (250, 200), "text_stream": (200, 200), "text_stream_usage": (60, 200), "two_choices": (30, 200), "two_choices_stream": (30, 200),
       "stop_string": (30, 200), "seed": (30, 200), "all_sampling": (20, 200), "logit_bias": (10, 200), "system": (30, 200), "long_talk": (20, 200),
       "long_text": (10, 200), "special_tokens": (10, 200), "not_ascii": (10, 200), "chunked_body": (20, 200), "many_headers": (10, 200), "png": (6, 200),
       "jpeg": (4, 200), "gif": (2, 200), "webp": (2, 200), "low_detail": (2, 200), "broken_picture": (4, 400), "no_picture": (4, 400),
       "bad_json": (30, 400), "bad_field": (30, 400), "no_such_model": (20, 404), "wrong_key": (40, 401), "no_key": (20, 401), "too_large": (5, 413),
       "models": (60, 200), "one_model": (20, 200), "ready": (20, 200), "no_such_path": (20, 404), "wrong_method": (10, 405), "smuggled": (10, 400),
       "leaves_in_stream": (30, 200), "leaves_at_once": (4, 200)}


@pytest.fixture
def server():
    s = FakeServer(DEMO, "--name", "demo", "--log-level", "error")
    s.script(tokens_per_s=50000)
    yield s
    assert s.stop() == 0, "".join(s.lines[-20:])


def measure(server):
    """{process: (RSS, descriptors, threads)} at rest."""
    time.sleep(0.5)
    pids = {"gateway": [server.process.pid], "worker": server.children("worker"), "media": server.children("media")}
    return {n: (sum(map(rss_bytes, p)), sum(map(n_fds, p)), sum(len(os.listdir(f"/proc/{q}/task")) for q in p)) for n, p in pids.items()}


def test_t82_a_million_mixed_requests(server, tmp_path, figure):
    total = 1000000 if long_run() else 10000
    lines = []
    for name, (weight, status) in MIX.items():
        data = SCRIPTS[name].replace(b"Connection: close\r\n", b"").replace(b"KEY", server.key.encode())
        (tmp_path / name).write_bytes(data)
        lines.append(f"{weight} {status} {LEAVE_AFTER.get(name, -1)} {tmp_path / name}\n")
    client = subprocess.Popen([SOAK, str(server.port), str(total), str(THREADS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    client.stdin.write("".join(lines) + "\n")
    client.stdin.flush()
    rows, rest = [], []
    try:
        for line in client.stdout:
            if not line.startswith("done "):
                rest.append(line.strip())
                continue
            _, n, took = line.split()
            rows.append(measure(server))
            figure(f"T82 {n} requests, {float(took):.1f} s", ", ".join(f"{p} {r[0] / 1024:.0f} KiB {r[1]} fds {r[2]} threads" for p, r in rows[-1].items()))
            client.stdin.write("\n")
            client.stdin.flush()
        assert client.wait(30) == 0, rest
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()
    assert len(rows) == 10 and sum(int(r.split()[2]) for r in rest) == total
    allowed = 0.01 if long_run() else 0.1
    for process in ("gateway", "worker", "media"):
        first, last = rows[0][process], rows[-1][process]
        figure(f"T82 growth of {process}", 100 * (last[0] - first[0]) / first[0], "% after the first tenth")
        assert last[0] - first[0] <= allowed * first[0], (process, rows)
        assert last[1:] == first[1:], (process, "descriptors, threads", rows)
