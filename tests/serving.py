"""A running `spillway serve` for tests: started on a free loopback port with a data directory of its own, stopped at the end."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = pathlib.Path(os.environ.get("SPILLWAY_GOLDEN_DIR", ROOT / "build/golden"))
BIN = os.environ.get("SPILLWAY_BIN", str(ROOT / "build/spillway"))
FAKE_BIN = os.environ.get("SPILLWAY_FAKE_WORKER_BIN", str(ROOT / "build/tests/fault/spillway_fake_worker"))
DEMO = ROOT / "weights/demo/model"
VLM = GOLDEN / "models/idefics3-f32"   # tiny random weights: pictures, chat template
LLM = GOLDEN / "models/smollm2-f32"    # text only


class Server:
    def __init__(self, *args, env=None, wait=True, data=None, program=None):
        """data: a data directory that is there already, in place of a new one; no key is printed then (wait=False, log_has)."""
        self.data = tempfile.TemporaryDirectory(prefix="spillway-test-")
        command = [program or BIN, "serve", *map(str, args), "--listen", "127.0.0.1:0"]
        if "--no-auth" not in args:
            command += ["--data", str(data or self.data.name)]
        self.lines, self.key, self.url, self.killed = [], None, None, False
        self.ready = threading.Event()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            assert self.ready.wait(60) and self.url, "not ready:\n" + "".join(self.lines)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if m := re.search(r"^Ready in .* (https?://\S+)/v1", line):
                self.url = m[1]
                with_key = os.environ.get("SPILLWAY_API_KEY") or "--no-auth" in self.process.args or "--api-key-file" in self.process.args
                if with_key:
                    self.ready.set()
            if m := re.search(r"first API key.*: (\S+)$", line):
                self.key = m[1]
                self.ready.set()
        self.ready.set()

    @property
    def port(self):
        return int(self.url.rsplit(":", 1)[1])

    def children(self, command):
        """Process ids of our workers or media processes."""
        found = []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                words = (stat.parent / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, IndexError):
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z" and len(words) > 1 and words[1] == command.encode():
                found.append(int(stat.parent.name))
        return found

    def log_has(self, text, within_s=5):
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if any(text in line for line in self.lines):
                return True
            time.sleep(0.01)
        return False

    def stop(self, sig=signal.SIGTERM, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.reader.join(5)
        self.data.cleanup()
        return code


class FakeServer(Server):
    """The real gateway with a scripted engine (tests/fault/fake_worker/fake_worker.c): script(...) says what it does from the next submit on,
    seeds["hang"] is the seed of a request that alone is treated so."""

    WORDS = re.findall(r'"([^"]+)"', re.search(r"submit_words\[SUBMITS\] = \{([^}]*)\}",
                                              (ROOT / "tests/fault/fake_worker/fake_worker.c").read_text())[1])
    seeds = {word: 9000 + i for i, word in enumerate(WORDS)}

    def __init__(self, *args, env=None, **kw):
        self.folder = tempfile.TemporaryDirectory(prefix="spillway-fake-")
        self.file, self.record = pathlib.Path(self.folder.name, "script.json"), pathlib.Path(self.folder.name, "record")
        self.script(**kw.pop("script", {}))
        super().__init__(*(args or (DEMO, "--name", "demo")), program=FAKE_BIN, env={"SPILLWAY_FAKE_WORKER": str(self.file), **(env or {})}, **kw)

    def script(self, **members):
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"record": str(self.record), **members}))
        new.rename(self.file)

    def recorded(self, event=None):
        """What the engine saw: dicts with t_ms (boot clock), event (start, submit, cancel), pid, sequence, n_ids, seed."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [r for r in map(json.loads, lines) if event in (None, r["event"])]
