"""A server with libfailer.so in all its processes: see failer.c, whose layout this has too."""
import errno
import json
import mmap
import os
import pathlib
import re
import socket
import ssl
import struct
import tempfile
import time

from serving import BIN, Server

LIBRARY = pathlib.Path(os.environ.get("SPILLWAY_FAILER_LIBRARY", pathlib.Path(BIN).parent / "tests/fault/libfailer.so")).resolve()
ROLES = ["gateway", "worker", "media"]
FIELDS = ["pid", "starts", "blocks", "bytes", "allocs", "alloc_from", "alloc_last", "alloc_failed", "call", "call_errno", "call_from", "call_last",
          "call_failed", "trace", "max_bytes"]
N_FIELDS, MAX_CALLS = 16, 32
CALLS = ["read", "write", "recv", "send", "recvmsg", "sendmsg", "accept4", "epoll_wait", "epoll_ctl", "memfd_create", "mmap", "ftruncate", "fsync",
         "fdatasync", "open", "socketpair", "fork", "eventfd", "fcntl_dup", "fstat", "poll", "pread", "pwrite", "pidfd_open", "waitpid"]
FOREVER = (1 << 62)


class Role:
    """One process's counters and orders. Attributes are FIELDS."""

    def __init__(self, memory, index):
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "base", index * 8 * (N_FIELDS + MAX_CALLS))

    def __getattr__(self, name):
        return struct.unpack_from("<q", self.memory, self.base + 8 * FIELDS.index(name))[0]

    def __setattr__(self, name, value):
        struct.pack_into("<q", self.memory, self.base + 8 * FIELDS.index(name), value)

    def called(self, call):
        return struct.unpack_from("<q", self.memory, self.base + 8 * (N_FIELDS + CALLS.index(call)))[0]

    def fail_alloc(self, k, forever=False):
        """The k-th allocation from now on fails, and with forever all after it."""
        self.alloc_failed = 0
        at = self.allocs + k
        self.alloc_last = FOREVER if forever else at
        self.alloc_from = at

    def fail_call(self, call, error, k, times=1):
        """The k-th from now on; error None: it does a part of its work."""
        self.call_failed = 0
        self.call_from = 0
        self.call = CALLS.index(call)
        self.call_errno = getattr(errno, error) if error else 0
        at = self.called(call) + k
        self.call_last = at + times - 1
        self.call_from = at

    def calm(self):
        self.alloc_from = self.call_from = self.max_bytes = 0

    def fds(self):
        """Raises FileNotFoundError where the process is being replaced."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class FailingServer(Server):
    def __init__(self, *args, env=None, wait=True, arm=None):
        """arm(roles) before the start: what is to fail in it."""
        self.file = tempfile.NamedTemporaryFile(prefix="spillway-failer-")
        self.file.truncate(len(ROLES) * 8 * (N_FIELDS + MAX_CALLS))
        self.memory = mmap.mmap(self.file.fileno(), 0)
        self.roles = {name: Role(self.memory, i) for i, name in enumerate(ROLES)}
        if arm:
            arm(self.roles)
        super().__init__(*args, env={"LD_PRELOAD": str(LIBRARY), "SPILLWAY_FAILER": self.file.name, **(env or {})}, wait=wait)

    def calm(self):
        for r in self.roles.values():
            r.calm()

    def trace(self, on=True):
        for r in self.roles.values():
            r.trace = int(on)


class Reply:
    """What came back, with what differs from run to run taken out. kind: ok, error, closed (no answer at all), timeout, or broken: what no client
    should ever see."""

    def __init__(self, raw, closed):
        self.raw, self.status, self.code, self.what = raw, None, None, None
        head, _, body = raw.partition(b"\r\n\r\n")
        m = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if not raw or not m:
            self.kind = "broken" if raw else "closed" if closed else "timeout"
            return
        self.status = int(m[1])
        chunked = b"transfer-encoding: chunked" in head.lower()
        whole = True
        if chunked:
            body, whole = dechunk(body)
        else:
            length = re.search(rb"content-length: (\d+)", head.lower())
            whole = closed if length is None else len(body) == int(length[1])
        if b"text/plain" in head:
            self.kind, self.what = "ok" if whole and self.status == 200 else "broken", body
        else:
            self.kind, self.what = judge(self.status, b"text/event-stream" in head, body, whole)
        if self.kind == "error":
            self.code = self.what["code"]
        if not closed and self.kind != "broken":
            self.kind = "timeout"

    def __repr__(self):
        return f"<{self.kind} {self.status} {self.code} {self.raw[-300:]!r}>"


def dechunk(data):
    out = b""
    while True:
        size, mark, rest = data.partition(b"\r\n")
        if not mark or not re.fullmatch(rb"[0-9a-f]+", size):
            return out, False
        n = int(size, 16)
        if n == 0:
            return out, rest == b"\r\n"
        if len(rest) < n + 2:
            return out + rest[:n], False
        out, data = out + rest[:n], rest[n + 2:]


def plain(answer):
    return {k: v for k, v in answer.items() if k not in ("id", "created")}


def is_error(o):
    """already_done has what the first request came to, too."""
    members = {"message", "type", "param", "code"}
    return isinstance(o, dict) and set(o) == {"error"} and o["error"].get("code") and o["error"].get("message") and \
        set(o["error"]) == members | ({"request"} if o["error"]["code"] == "already_done" else set())


def judge(status, stream, body, whole):
    try:
        if not stream:
            if not whole:
                return ("broken", None) if body else ("closed", None)
            o = json.loads(body)
            if status == 200:
                return "ok", plain(o)
            return ("error", o["error"]) if is_error(o) else ("broken", o)
        events = [e for e in body.decode().split("\n\n") if e and not e.startswith(":")]
        done = bool(events) and events[-1] == "data: [DONE]"
        objects = [json.loads(e.removeprefix("data: ")) for e in events[:-1 if done else None] if whole or body.endswith(b"\n\n")]
        errors = [o for o in objects if "error" in o]
        if done:
            return ("ok", merged(objects)) if whole and not errors else ("broken", objects)
        if errors:
            return ("error", errors[-1]["error"]) if is_error(errors[-1]) and len(errors) == 1 and errors[0] is objects[-1] else ("broken", objects)
        return ("closed", objects) if not whole else ("broken", objects)  # cut, and the client can tell
    except (ValueError, KeyError):
        return ("broken", body) if whole else ("closed", body)


def merged(objects):
    """A stream's choices, however the worker's steps cut them."""
    out, usage = {}, None
    for o in objects:
        usage = o.get("usage") or usage
        for c in o["choices"]:
            mine = out.setdefault(c["index"], {"text": "", "logprobs": [], "finish": None})
            mine["text"] += c["delta"].get("content") or ""
            mine["logprobs"] += (c["logprobs"] or {}).get("content", [])
            mine["finish"] = c["finish_reason"] or mine["finish"]
    return {"choices": out, "usage": usage}


def connect(port, within_s, tls):
    s = socket.create_connection(("127.0.0.1", port), timeout=within_s)
    try:
        return tls.wrap_socket(s, server_hostname="localhost") if tls else s
    except OSError:
        s.close()
        raise


def ask(port, wire, leave_after=None, within_s=10.0, tls=None):
    """Sends, reads until the server closes. leave_after: bytes after which the client goes without a word. tls: an ssl.SSLContext."""
    raw, closed, end = b"", False, time.monotonic() + within_s
    try:
        with connect(port, within_s, tls) as s:
            try:
                s.sendall(wire)
            except (BrokenPipeError, ConnectionResetError):
                pass  # answered before the end
            while leave_after is None or len(raw) < leave_after:
                s.settimeout(max(0.01, end - time.monotonic()))
                some = s.recv(1 << 16)
                if not some:
                    closed = True
                    break
                raw += some
            if leave_after is not None:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except TimeoutError:
        pass
    except (ConnectionError, ssl.SSLError):
        closed = True
    return Reply(raw, closed)
