"""Logs of a running server: access lines, formats, injection, a reader that stands still, and no secret in any line (T06 in small)."""
import base64
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest
import requests

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Logged:
    """A server whose standard error we read ourselves, or do not read."""

    def __init__(self, program, *args, env=None, read=True):
        self.data = tempfile.TemporaryDirectory(prefix="spillway-test-")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [program, "serve", "demo", "--listen", f"127.0.0.1:{self.port}", *args]
        if "--no-auth" not in args:
            command += ["--data", self.data.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        if read:
            self.reader.start()
        for _ in range(600):
            try:
                if requests.get(self.url + "/readyz", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                pass
            assert self.process.poll() is None, self.lines
            time.sleep(0.05)
        raise AssertionError("not ready")

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        if self.reader.ident:
            self.reader.join(5)
        self.data.cleanup()
        return code


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def serve(program):
    started = []

    def start(*args, **more):
        started.append(Logged(program, *args, **more))
        return started[-1]
    yield start
    for s in started:
        if s.process.poll() is None:
            s.stop()


def chat(server, key=None, **more):
    body = {"model": "demo", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], **more}
    return requests.post(server.url + "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=60)


def test_access_line_tells_id_method_path_status_bytes_ms_and_key(serve, spillway):
    s = serve(env={"SPILLWAY_API_KEY": "sk-test-0123456789abcdef"})
    [key_id] = [line.split()[0] for line in spillway("keys", "list", "--data", s.data.name).stdout.splitlines() if "configured" in line]
    r = requests.get(s.url + "/v1/models?secret=query", headers={"Authorization": "Bearer sk-test-0123456789abcdef"}, timeout=10)
    s.stop()
    lines = [line for line in s.lines if r.headers["x-request-id"] in line]
    assert len(lines) == 1
    got = re.fullmatch(TIME + r" info \[gateway\] request request=(\S+) method=GET path=/v1/models status=200 bytes=(\d+) ms=(\d+) key=(\d+)\n", lines[0])
    assert got and got[4] == key_id, lines
    assert len(r.content) < int(got[2]) < len(r.content) + 1000


def test_json_lines_of_all_processes_are_json(serve):
    s = serve("--no-auth", "--log-format", "json", "--log-level", "debug")
    assert chat(s).status_code == 200
    [media] = children(s.process.pid, "media")
    os.kill(media, signal.SIGKILL)
    time.sleep(0.5)
    s.stop()
    lines = [json.loads(line) for line in s.lines]
    parts = {line["part"] for line in lines}
    assert parts >= {"gateway", "worker demo"}
    assert all(re.fullmatch(TIME, line["time"]) and line["level"] in ("error", "warn", "info", "debug") and line["msg"] for line in lines)
    access = [line for line in lines if line.get("path") == "/v1/chat/completions"]
    assert len(access) == 1 and access[0]["status"] == 200 and access[0]["method"] == "POST"
    [ready] = [line for line in lines if line["msg"] == "ready"]
    assert ready["url"] == s.url + "/v1" and ready["models"] == "demo"


def children(pid, command):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as f:
                    parent = int(f.read().rsplit(")", 1)[1].split()[1])
                with open(f"/proc/{name}/cmdline") as f:
                    words = f.read().split("\0")
            except OSError:
                continue
            if parent == pid and words[1:2] == [command]:
                found.append(int(name))
    return found


def test_first_key_among_json_lines_goes_to_standard_output(serve):
    s = serve("--log-format", "json")
    key = s.process.stdout.readline().decode().split()[-1]
    assert requests.get(s.url + "/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10).status_code == 200
    s.stop()
    assert s.lines and not any(key in line for line in s.lines)
    for line in s.lines:
        json.loads(line)


def test_level_error_is_quiet(serve):
    s = serve("--no-auth", "--log-level", "error")
    assert requests.get(s.url + "/v1/models", timeout=10).status_code == 200
    s.stop()
    assert [line for line in s.lines if not line.startswith("Ready in")] == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_path_cannot_forge_a_line(serve, form):
    s = serve("--no-auth", "--log-format", form)
    evil = "/x%0A2026-01-01T00:00:00.000Z%20error%20%5Bgateway%5D%20forged%1B%5B31m%0D%22%20status=200%E2%80%AE"
    assert requests.get(s.url + evil, timeout=10).status_code == 404
    s.stop()
    [line] = [line for line in s.lines if "forged" in line]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", line)
    assert ("method=GET path=\"/x\\n2026" in line and line.rstrip().endswith("key=0")) if form == "text" else json.loads(line)["path"].startswith("/x\n2026")


def test_a_reader_that_stands_still_stops_nobody(serve):
    s = serve("--no-auth", read=False)
    path = "/" + "x" * 500
    with requests.Session() as session:
        worst = 0
        for _ in range(1200):  # 64 KiB of pipe and 256 KiB of ring are less than these lines
            before = time.monotonic()
            assert session.get(s.url + path, timeout=5).status_code == 404
            worst = max(worst, time.monotonic() - before)
    assert worst < 2
    assert chat(s).status_code == 200
    s.reader.start()
    end = time.monotonic() + 10
    while time.monotonic() < end and not any("dropped" in line for line in s.lines):
        time.sleep(0.05)
    [told] = [int(m[1]) for line in s.lines if (m := re.search(r"(\d+) log lines were dropped", line))]
    s.stop()
    seen = sum(path[:400] in line for line in s.lines)
    assert told > 100 and 1200 - 5 <= seen + told <= 1200 + 20


def test_t06_canaries_in_no_log_line_and_no_error(serve, golden):
    key, prompt, query = "sk-canary-7f3a9b1c5d", "canaryprompt zebra quartz", "canaryquery"
    picture = base64.b64encode((golden / "images/rgb_256x256.png").read_bytes()).decode()
    s = serve("--log-level", "debug", env={"SPILLWAY_API_KEY": key})
    content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": "data:image/png;base64," + picture}}]
    answers = [
        chat(s, key, messages=[{"role": "user", "content": prompt}]),
        chat(s, key, messages=[{"role": "user", "content": content}], stream=True),
        chat(s, key, messages=[{"role": "user", "content": prompt}], stop=[prompt], temperature=99),
        chat(s, key, messages=[{"role": prompt, "content": prompt}]),
        chat(s, key + "x", messages=[{"role": "user", "content": prompt}]),
        requests.post(s.url + f"/v1/chat/completions?{query}", data='{"messages": "' + prompt, headers={"Authorization": f"Bearer {key}"}, timeout=10),
        requests.get(s.url + f"/nothing?api_key={query}", headers={"Authorization": f"Basic {key}", "Cookie": query}, timeout=10),
    ]
    assert [r.status_code for r in answers] == [200, 200, 400, 400, 401, 400, 404]
    said = answers[0].json()["choices"][0]["message"]["content"].strip()
    [worker] = children(s.process.pid, "worker")
    os.kill(worker, signal.SIGKILL)  # its end and its restart are told, too
    time.sleep(1)
    s.stop()
    log = "".join(s.lines)
    assert sum("status=" in line for line in s.lines) >= len(answers) and "prompt tokens" in log and "worker demo" in log
    for canary in (key, "canaryprompt", "zebra", query, picture[:40], base64.b64encode(key.encode()).decode()[:12]):
        assert canary not in log
        assert all(canary not in r.text for r in answers if r.status_code in (401, 404) or canary == key)
    assert len(said) < 4 or said not in log
