"""T31: whatever a picture makes its decoder do, the decoder is ended and replaced, the request gets 400, and the gateway goes on.

spillway_bad_media is the whole program with a decoder that does what a picture's bytes say, inside the real cage."""
import base64
import io
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time

import pytest
import requests
from PIL import Image

from conftest import long_run
from serving import ROOT, VLM, Server

BAD_BIN = os.environ.get("SPILLWAY_BAD_MEDIA_BIN", str(ROOT / "build/tests/fault/spillway_bad_media"))
SOURCE = pathlib.Path(__file__).parent / "bad_media/bad_answer.c"
ACTS = dict(re.findall(r'\{"(\w+)", \w+_act, "(\w+)"\}', SOURCE.read_text()))
CPU_S, WALL_S = 0.2, 0.6
QUICK = [name for name, end in ACTS.items() if end in ("sys", "fault") and name != "all_memory"]
PARAM = "messages[0].content[0].image_url.url"
assert len(QUICK) > 60 and "wait_deaf" in ACTS


@pytest.fixture(scope="module")
def server():
    s = Server(VLM, "--no-auth", "--media-processes", 2, f"--decode-cpu-timeout={int(CPU_S * 1000)}ms", f"--decode-timeout={int(WALL_S * 1000)}ms", program=BAD_BIN)
    yield s
    assert s.stop() == 0, "".join(s.lines[-30:])


def picture(mark=b""):
    out = io.BytesIO()
    Image.new("RGB", (70, 50), "red").save(out, "PNG")
    return out.getvalue() + mark


def bad(name, stage="probe"):
    return picture(f"BAD!{stage} {name}.".encode())


def part(data):
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


def ask(server, *pictures, timeout=60):
    body = {"model": VLM.name, "messages": [{"role": "user", "content": [part(p) for p in pictures] + [{"type": "text", "text": "Hi"}]}], "max_tokens": 2, "temperature": 0}
    r = requests.post(server.url + "/v1/chat/completions", json=body, timeout=timeout)
    if r.status_code == 200:
        return 200, "", ""
    e = r.json()["error"]
    return r.status_code, e["code"], e["param"]


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s*(\d+)", open(f"/proc/{pid}/status").read())[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def settle(server, n=2, within_s=5):
    end = time.monotonic() + within_s
    while len(server.children("media")) != n and time.monotonic() < end:
        time.sleep(0.02)
    assert len(server.children("media")) == n


@pytest.mark.parametrize("stage", ["probe", "decode"])
@pytest.mark.parametrize("name", QUICK + ["all_memory"])
def test_t31_ended_by_the_cage(server, name, stage):
    seen = len(server.lines)
    assert ask(server, bad(name, stage)) == (400, "invalid_value", PARAM)
    if ACTS[name] == "sys":
        end = time.monotonic() + 5
        while not any("signal 31 (Bad system call)" in line for line in server.lines[seen:]) and time.monotonic() < end:
            time.sleep(0.005)
        assert any("signal 31 (Bad system call)" in line for line in server.lines[seen:]), server.lines[seen:]
    assert not any("FORGED" in line for line in server.lines[seen:])


@pytest.mark.parametrize("name", [n for n, end in ACTS.items() if end == "slow"])
def test_t31_ended_by_time(server, name):
    start = time.monotonic()
    assert ask(server, bad(name)) == (400, "invalid_value", PARAM)
    took = time.monotonic() - start
    bound = (CPU_S if name == "spin" else WALL_S) + 0.5 + 0.5  # what the gateway adds, and the way there and back
    assert took < bound * (1 if long_run() else 10), took
    assert took >= (CPU_S if name == "spin" else WALL_S) - 0.05


@pytest.mark.parametrize("name", [n for n, end in ACTS.items() if end == "reply"])
def test_t31_ended_for_its_reply(server, name):
    assert ask(server, bad(name)) == (400, "invalid_value", PARAM)


def test_t31_names_the_part_at_fault(server):
    assert ask(server, picture(), picture(), bad("null")) == (400, "invalid_value", PARAM.replace("content[0]", "content[2]"))


def test_t31_killed_from_outside_is_503(server):
    """An operator's SIGKILL is not the picture's fault, and the cage lets no picture send it to itself (kill_self, tgkill_kill above)."""
    settle(server)
    result = []
    t = threading.Thread(target=lambda: result.append(ask(server, bad("wait"))))
    t.start()
    time.sleep(WALL_S / 3)
    assert not result
    for pid in server.children("media"):
        os.kill(pid, signal.SIGKILL)
    t.join(10)
    assert result == [(503, "worker_down", None)]
    settle(server)


def test_t31_a_good_picture_does_not_pay_for_a_bad_one_before_it(server):
    """A decoder that read others before and dies is suspected: its picture is tried once more. Here each decoder reads the good one's neighbours too."""
    good, wrong = [], []

    def work(data, out, n):
        for _ in range(n):
            out.append(ask(server, data))
    threads = [threading.Thread(target=work, args=(picture(), good, 30))] + [threading.Thread(target=work, args=(bad("abort", s), wrong, 15)) for s in ("probe", "decode")]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert good == [(200, "", "")] * 30
    assert wrong == [(400, "invalid_value", PARAM)] * 30


def test_t31_kills(server, size, figure):
    """Fork, exec, open, socket, crash and all other quick acts in turn; the gateway keeps its process, its memory and its descriptors."""
    n, todo, wrong, lock = size(100, 10000), queue.Queue(), [], threading.Lock()
    settle(server)
    for i in range(n):
        todo.put(QUICK[i % len(QUICK)])
    pid = server.process.pid

    def work():
        session = requests.Session()
        while True:
            try:
                name = todo.get_nowait()
            except queue.Empty:
                return
            body = {"model": VLM.name, "messages": [{"role": "user", "content": [part(bad(name))]}], "max_tokens": 1}
            r = session.post(server.url + "/v1/chat/completions", json=body, timeout=60)
            if (r.status_code, r.json()["error"]["param"]) != (400, PARAM):
                with lock:
                    wrong.append((name, r.status_code, r.text))
    for _ in range(4):
        ask(server, bad("null"))
    before, fds, start = resident_kib(pid), descriptors(pid), time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        assert requests.get(server.url + "/livez", timeout=2).status_code == 200
        time.sleep(0.2)
    took = time.monotonic() - start
    assert not wrong, wrong[:5]
    settle(server)
    assert ask(server, picture()) == (200, "", "")
    assert server.process.pid == pid and server.process.poll() is None
    figure("T31 kills", n)
    figure("T31 kills: each", took / n * 1000, "ms")
    figure("T31 kills: gateway grew", (resident_kib(pid) - before) / 1024, "MiB")
    time.sleep(0.5)  # the clients' connections close
    assert descriptors(pid) <= fds + 4, (fds, descriptors(pid))
    assert resident_kib(pid) - before < 8 << 10
    assert not any("escaped" in line for line in server.lines)


@pytest.mark.parametrize("name", ["fork", "null", "spin"])
def test_t31_the_command_line_says_which_picture(tmp_path, name):
    (tmp_path / "x.png").write_bytes(bad(name, "decode"))
    r = subprocess.run([BAD_BIN, "generate", VLM, "--prompt", "?", "--image", tmp_path / "x.png"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and r.stdout == ""
    assert f"spillway: {tmp_path}/x.png: " in r.stderr and ("processor time" if name == "spin" else "its decoder failed") in r.stderr
