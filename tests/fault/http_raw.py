"""HTTP by hand, for requests that no client library would send, and the meters of a process: memory, processor time, descriptors."""
import os
import pathlib
import re
import socket
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


class Answer:
    def __init__(self, raw, closed, reset):
        self.raw, self.closed, self.reset = raw, closed, reset
        self.statuses = [int(s) for s in re.findall(rb"(?:^|\n|\}|\])HTTP/1\.[01] (\d{3}) ", raw)]
        self.statuses = [s for s in self.statuses if s != 100]

    @property
    def status(self):
        return self.statuses[0] if self.statuses else None

    @property
    def head(self):
        return self.raw.split(b"\r\n\r\n", 1)[0].decode("latin-1").lower()

    @property
    def headers(self):
        return dict(line.split(": ", 1) for line in self.head.split("\r\n")[1:] if ": " in line)

    @property
    def body(self):
        return self.raw.split(b"\r\n\r\n", 1)[-1]

    def __repr__(self):
        return f"<{self.statuses} closed={self.closed} reset={self.reset} {self.raw[:300]!r}>"


def connect(port, source=None, timeout=5.0, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=timeout, source_address=(source, 0) if source else None)


def receive(s, within_s=5.0, quiet_s=None, until=None):
    """All bytes until the peer closes; or until nothing came for quiet_s; or until the bytes hold `until`."""
    out, end, reset, closed = [], time.monotonic() + within_s, False, False
    while (left := end - time.monotonic()) > 0:
        s.settimeout(min(left, quiet_s) if quiet_s and out else left)
        try:
            some = s.recv(1 << 16)
        except socket.timeout:
            break
        except (ConnectionResetError, BrokenPipeError):
            closed = reset = True
            break
        if not some:
            closed = True
            break
        out.append(some)
        if until and until in b"".join(out):
            break
    return Answer(b"".join(out), closed, reset)


def send_all(s, data, piece=1 << 16):
    """Sends until the peer refuses; returns the number of bytes the kernel took."""
    sent = 0
    try:
        while sent < len(data):
            sent += s.send(data[sent:sent + piece])
    except (BrokenPipeError, ConnectionResetError, socket.timeout):
        pass
    return sent


def exchange(port, data, within_s=5.0, quiet_s=None, source=None):
    with connect(port, source) as s:
        send_all(s, data)
        return receive(s, within_s, quiet_s)


def head(method="GET", path="/v1/models", fields=(), version="HTTP/1.1", host="localhost", key=None):
    lines = [f"{method} {path} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return ("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode("latin-1")


def chunk(data, extension=b""):
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def rss_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def cpu_s(pid):
    """Processor time of all live threads, by the scheduler's nanoseconds."""
    total = 0
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(stat.read_text().split()[0])
    return total / 1e9


def n_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(what, within_s=5.0, every_s=0.005):
    """Seconds until what() was true; None if it never was."""
    start = time.monotonic()
    while time.monotonic() - start < within_s:
        if what():
            return time.monotonic() - start
        time.sleep(every_s)
    return None
