"""Bytes. A connection reads HTTP/1.1 requests and writes one response at a time. It knows at once when its client leaves (FIN or reset),
and it can end anywhere: after any byte, with a FIN, or with a reset once everything before it has arrived."""
import asyncio
import fcntl
import json
import socket
import struct
import termios
import traceback
import urllib.parse
from dataclasses import dataclass

MAX_HEAD, MAX_BODY, MAX_WAITING = 64 << 10, 64 << 20, 1 << 20
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
           413: "Payload Too Large",
           422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}


class Gone(Exception):
    """The client has left."""


class Cut(Exception):
    """The script ends the response here."""


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: list  # of (name in small letters, value)
    body: bytes = b""

    def header(self, name):
        return next((v for k, v in self.headers if k == name), None)


class Connection(asyncio.Protocol):
    def __init__(self, serve, bugs):
        self.serve, self.bugs = serve, bugs

    def connection_made(self, transport):
        self.transport = transport
        self.socket = transport.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(0)  # drained means: in the kernel
        self.buffer, self.more, self.left, self.room = bytearray(), asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.room.set()
        self.task = asyncio.get_running_loop().create_task(self.run())

    def data_received(self, data):
        self.buffer += data
        self.more.set()
        if len(self.buffer) > MAX_WAITING:
            self.transport.pause_reading()

    def eof_received(self):
        self.gone()
        return True  # we may still write: it is the server that says what becomes of the answer

    def connection_lost(self, exc):
        self.gone()
        self.room.set()

    def gone(self):
        self.left.set()
        self.more.set()

    def pause_writing(self):
        self.room.clear()

    def resume_writing(self):
        self.room.set()

    async def run(self):
        try:
            while (request := await self.read_request()) and await self.serve(self, request):
                pass
        except (Gone, Cut):
            pass
        except Exception:
            self.bugs.append(traceback.format_exc())
            traceback.print_exc()
        finally:
            self.transport.close()

    async def fill(self):
        if self.left.is_set():
            raise Gone
        self.more.clear()
        self.transport.resume_reading()
        await self.more.wait()

    async def read_request(self):
        head = await self.take_to(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, target = first.rpartition(" ")[0].partition(" ")
        headers = [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
        path, _, query = target.partition("?")
        r = Request(method, urllib.parse.unquote(path), dict(urllib.parse.parse_qsl(query, keep_blank_values=True)), headers)
        if (r.header("expect") or "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        r.body = await self.read_body(r)
        return r

    async def read_body(self, r):
        if (r.header("transfer-encoding") or "").lower() != "chunked":
            return await self.take(min(int(r.header("content-length") or 0), MAX_BODY))
        body = bytearray()
        while True:
            size = int((await self.take_to(b"\r\n")).split(b";")[0], 16)
            piece = await self.take(size + 2)
            if size == 0 or len(body) > MAX_BODY:
                return bytes(body)
            body += piece[:-2]

    async def take(self, n):
        while len(self.buffer) < n:
            await self.fill()
        out = bytes(self.buffer[:n])
        del self.buffer[:n]
        return out

    async def take_to(self, mark):
        """What comes before the mark, which is taken too."""
        while (at := self.buffer.find(mark)) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Gone
            await self.fill()
        return (await self.take(at + len(mark)))[:-len(mark)]

    async def pause(self, seconds):
        """Sleeps; Gone if the client leaves meanwhile. None: until it leaves."""
        if self.left.is_set():
            raise Gone
        try:
            await asyncio.wait_for(self.left.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise Gone

    async def write(self, data):
        if self.left.is_set():
            raise Gone
        self.transport.write(data)
        if not self.room.is_set():
            waits = [asyncio.ensure_future(e.wait()) for e in (self.room, self.left)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for w in waits:
                w.cancel()
        else:
            await asyncio.sleep(0)  # others get their turn, and news of the client comes in
        if self.left.is_set():
            raise Gone

    async def arrived(self):
        """All that was written has been acknowledged, so that a reset takes nothing of it away."""
        for _ in range(10_000):
            if self.left.is_set():
                return
            waiting = struct.unpack("i", fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if waiting == 0 and self.transport.get_write_buffer_size() == 0:
                return
            await asyncio.sleep(0.001)

    async def end(self, how):
        """fin: no more bytes, in order. reset: RST."""
        await self.arrived()
        if self.transport.is_closing():
            raise Gone  # the client was faster
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


class Response:
    """One response: counts its bytes and ends where the script's cut says."""

    def __init__(self, connection, do, row=None):
        self.connection, self.do, self.row = connection, do, row
        self.cut = do.get("cut", {})
        self.n_bytes = self.n_body_bytes = 0
        self.chunked = False

    async def raw(self, data):
        limit = self.cut.get("after_bytes")
        last = limit is not None and self.n_bytes + len(data) >= limit
        if last:
            data = data[:limit - self.n_bytes]
        step = self.do.get("split") or len(data) or 1
        for at in range(0, len(data), step):
            await self.connection.write(data[at:at + step])
            self.count(min(step, len(data) - at))
        if last:
            await self.end_here()

    def count(self, n):
        self.n_bytes += n
        if self.row:
            self.row.response_bytes = self.n_bytes
            if self.row.first_byte_s is None:
                self.row.first_byte_s = self.row.since()

    async def end_here(self):
        how = self.cut.get("how", "reset")
        if how == "end" and self.chunked:  # a body that ends as if it were whole
            self.cut = {}
            await self.raw(b"0\r\n\r\n")
            how = "fin"
        await self.connection.end("fin" if how == "end" else how)
        raise Cut

    async def head(self, status, headers):
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", *(f"{k}: {v}" for k, v in headers)]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def body(self, data):
        limit = self.cut.get("after_body_bytes")
        last = limit is not None and self.n_body_bytes + len(data) >= limit
        if last:
            data = data[:limit - self.n_body_bytes]
        self.n_body_bytes += len(data)
        if data:
            await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)
        if last:
            await self.end_here()

    async def whole(self, status, headers, data):
        """A response of known length."""
        await self.head(status, [*headers, ("content-length", len(data))])
        await self.body(data)

    async def json(self, status, value):
        await self.whole(status, [("content-type", "application/json")], json.dumps(value).encode())
