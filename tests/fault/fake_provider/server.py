"""Puts it together: finds the host, reads the request in its wire, asks the script, answers and books the truth."""
import asyncio
import email.utils
import json
import math
import time
from collections import deque

from . import anthropic_wire, gemini_wire, openai_responses, openai_wire
from .answer import compose
from .connection import Connection, Cut, Gone, Response
from .errors import WAIT, Fault, kinds
from .exchange import Exchange
from .ledger import Ledger, Usage
from .profiles import PROFILES, split_path
from .script import Script
from .tokens import PromptCache

WIRES = {"openai": openai_wire, "anthropic": anthropic_wire, "gemini": gemini_wire}
MAX_REQUESTS, MAX_KEPT_BYTES = 10_000, 1 << 20
CDN_LIMIT = 32 << 20  # of Anthropic; what stands before it answers, and not in JSON
DEFAULT_WAIT_S = 1


def key_of(profile, request):
    for name in profile.auth:
        value = request.header("authorization" if name == "bearer" else name)
        if value:
            return value.removeprefix("Bearer ") if name == "bearer" else value
    return ""


def hint_headers(profile, fault, do):
    """When to come again, in the host's own form or the script's. A RetryInfo is in the body: bind has seen to it."""
    if "retry_after" in do:
        forms, s = [do["retry_after"]["form"]], do["retry_after"]["s"]
    elif fault.kind in WAIT:
        forms, s = profile.hints, DEFAULT_WAIT_S
    else:
        return []
    named = {"retry-after": ("retry-after", math.ceil(s)), "retry-after-ms": ("retry-after-ms", round(s * 1000)),
             "seconds": ("retry-after", f"{s:g}"), "ms": ("retry-after-ms", round(s * 1000)),
             "date": ("retry-after", email.utils.formatdate(s + time.time(), usegmt=True))}
    return [named[f] for f in forms if f in named]


def scripted_fault(profile, do):
    """The refusal that the script asks for, or None. A status alone becomes the host's words for it, as far as it has any."""
    kind = do.get("error")
    if kind is None and do.get("status", 200) != 200:
        known = kinds(profile.errors)
        kind = next((k for k, row in known.items() if row[0] == do["status"]), "server")
    return Fault(kind) if kind else None


def with_given(head, do):
    """The script's headers, in place of those of the same name."""
    given = {k.lower(): v for k, v in do.get("headers", {}).items()}
    return [*(h for h in head if h[0] not in given), *given.items()]


def given_body(do):
    return (do["body"] if isinstance(do["body"], str) else json.dumps(do["body"])).encode("utf-8", "surrogatepass")


def malformed(data, do):
    kind = do["kind"]
    if kind == "json":
        return data.rstrip(b"\n")[:-max(1, len(data) // 3)] + b"\n\n"
    if kind == "huge":
        return b'data: {"x": "' + b"a" * do.get("bytes", 2 << 20) + b'"}\n\n'
    return {"utf8": b'data: {"x": "\xc3\x28\xff"}\n\n', "html": b"<html><body>502 Bad Gateway</body></html>\n\n",
            "empty": b"data: \n\n"}[kind]


class Server:
    def __init__(self):
        self.bugs = []  # of its own, as text: a fake that fails must not look like a provider that does
        self.forget()

    def forget(self):
        self.script, self.ledger, self.caches = Script(), Ledger(), PromptCache()
        self.requests = deque(maxlen=MAX_REQUESTS)

    async def start(self, port=0):
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(lambda: Connection(self.serve, self.bugs), "127.0.0.1", port, backlog=1024)
        return self.listener.sockets[0].getsockname()[1]

    # ---- one request

    async def serve(self, connection, request):
        """True: the connection may carry another."""
        if request.path.startswith("/_"):
            await self.control(Response(connection, {}), request)
        else:
            name, _, path = request.path.lstrip("/").partition("/")
            profile = PROFILES.get(name)
            if profile is None:
                await Response(connection, {}).json(404, {"error": f"no profile {name!r}"})
            else:
                self.keep(profile, request)
                await self.provide(connection, profile, request, "/" + path)
        return (request.header("connection") or "").lower() != "close"

    def keep(self, profile, request):
        try:
            body = json.loads(request.body[:MAX_KEPT_BYTES]) if request.body else None
        except ValueError:
            body = request.body[:MAX_KEPT_BYTES].decode("latin-1")
        self.requests.append({"profile": profile.name, "method": request.method, "path": request.path, "query": request.query,
                              "headers": request.headers, "body": body})

    async def provide(self, connection, profile, request, path):
        key = key_of(profile, request)
        row = self.ledger.open(profile=profile.name, key=key, path=path)
        out, do = Response(connection, {}, row), {}
        try:
            wire, op, body, ask = self.read(profile, request, path, key)
            if ask is None:
                self.ledger.forget(row)  # it is no completion
                await out.json(200, body)
                return
            row.model, row.stream, row.max_tokens = ask.model, ask.stream, ask.max_tokens
            do = self.script.pick(profile=profile.name, model=ask.model, key=key, text=ask.last_text, stream=ask.stream)
            out = Response(connection, do, row)
            fault = scripted_fault(profile, do)
            if fault and do.get("error") not in wire.ANSWERED_FAULTS:
                await self.wait(out, do.get("delay_head_ms", 0))
                raise fault
            await self.answer(profile, wire, op, body, ask, do, out)
        except Fault as fault:
            if request.method != "POST":
                self.ledger.forget(row)
            await self.refuse(profile, fault, do, out)
        except Gone:
            if row.end is None:  # else it had all that there was
                row.left, row.left_s, row.end = True, row.since(), "left"
            raise
        except Cut:
            row.end = "cut"
            raise
        finally:
            row.ended_s = row.since()

    def read(self, profile, request, path, key):
        """(wire, operation, body, ask). Without an ask, the body is the answer."""
        if not key.startswith("key-"):
            raise Fault("bad_key", key=key[:4] + "***")
        named, rest = split_path(profile, path) or ({}, None)
        if rest is None:
            raise Fault("bad_path", method=request.method, path=path)
        wire = WIRES[profile.wire]
        op, model = wire.route(profile, named, request.method, rest, request.query)
        if op == "models":
            return wire, op, wire.models(profile), None
        if op == "model":
            wire.check_model(profile, model)
            return wire, op, wire.model_object(profile, model), None
        if profile.wire == "anthropic" and len(request.body) > CDN_LIMIT:
            raise Fault("too_large")
        try:
            body = json.loads(request.body)
        except ValueError:
            raise Fault("bad_json") from None
        if not isinstance(body, dict):
            raise Fault("bad_json")
        wire = openai_responses if op == "responses" else wire
        ask = wire.read(profile, op, body, model, request)
        return (wire, op, wire.count_object(ask), None) if op == "count" else (wire, op, body, ask)

    def prompt_usage(self, profile, ask, key):
        owner, read, write_5m, write_1h = (profile.name, key, ask.model), 0, 0, 0
        if profile.cache == "mark":
            read, write_5m, write_1h = self.caches.by_mark(owner, ask.units)
        elif profile.cache != "none":
            read, write_5m = self.caches.by_prefix(owner, ask.units)
            write_5m = write_5m if profile.cache == "prefix+write" else 0
        return Usage(prompt=ask.prompt_tokens, image=ask.image_tokens, cache_read=read, write_5m=write_5m, write_1h=write_1h)

    def headers(self, profile, row, status=200):
        window = self.ledger.window(profile.name, row.key)
        limits = profile.limits(window) if status == 429 or (status == 200 and "limits_on_429" not in profile.quirks) else []
        return [(profile.request_id, row.id), *limits]

    async def wait(self, out, ms):
        if ms:
            await out.connection.pause(ms / 1000)

    async def answer(self, profile, wire, op, body, ask, do, out):
        row = out.row
        row.status, row.usage = 200, self.prompt_usage(profile, ask, row.key)
        x = Exchange(profile, body, ask, compose(ask, do), do, row)
        full = x.truth()
        x.cost_usd = self.ledger.cost_nusd(profile.name, ask.model, full) / 1e9
        self.ledger.window(profile.name, row.key).book(full.prompt + full.completion)
        head = with_given([*self.headers(profile, row), *wire.headers(x)], do)
        if "error_in_200" in do:
            row.end, row.usage = "refused", Usage()
            await out.whole(200, [("content-type", "application/json"), *head], x.fault(do["error_in_200"]).body())
        elif "body" in do:
            row.end, row.usage = "refused", Usage()
            await out.whole(200, with_given([("content-type", "application/json"), *head], do), given_body(do))
        elif ask.stream:
            await self.stream(x, wire, head, out)
        else:
            await self.whole(x, wire, head, out)

    async def whole(self, x, wire, head, out):
        """Nobody's leaving stops it: it is made before its first byte."""
        x.row.made.add(x.whole_made())
        value, told = wire.whole(x)
        data = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
        if "malformed" in x.do:
            data = malformed(data, x.do["malformed"])
        await self.wait(out, x.do.get("delay_head_ms", 0))
        await out.head(200, [("content-type", "application/json"), *head, ("content-length", len(data))])
        if "stall" in x.do:
            await self.stall(x, out)
        await out.body(data)
        x.row.end = "whole"
        if told is not None:
            x.row.told.append(told)

    async def stream(self, x, wire, head, out):
        out.chunked = x.do.get("framing") != "close"
        framing = ("transfer-encoding", "chunked") if out.chunked else ("connection", "close")
        frames = wire.frames(x)
        try:
            await self.wait(out, x.do.get("delay_head_ms", 0))
            await out.head(200, [("content-type", "text/event-stream"), ("cache-control", "no-cache"), framing, *head])
            x.row.end = "whole" if await self.events(x, wire, frames, out) else "error"
            if out.chunked:
                await out.raw(b"0\r\n\r\n")
            else:
                await out.connection.end("fin")
        except Gone:
            goes_on = x.do.get("on_disconnect", x.profile.on_disconnect) == "continue" and not x.stalled
            for frame in frames if goes_on else ():
                x.row.made.add(frame.made)
            raise

    async def events(self, x, wire, frames, out):
        """False: it ended with an error event."""
        for frame in frames:
            if frame.data.startswith(b":"):  # a comment is no event
                await out.body(frame.data)
                continue
            if not await self.between(x, wire, out):
                return False
            x.row.made.add(frame.made)
            await self.wait(out, x.do.get("delay_event_ms", 0))
            bad = x.do.get("malformed", {})
            data = malformed(frame.data, bad) if bad.get("at_event") == x.row.events else frame.data
            if x.do.get("comments"):
                data = b": keep-alive\n\n" + data
            await out.body(data.replace(b"\n", b"\r\n") if x.do.get("crlf") else data)
            x.row.events += 1
            if frame.told is not None:
                x.row.told.append(frame.told)
        return await self.between(x, wire, out)

    async def between(self, x, wire, out):
        """What the script has after the events so far. False: it was the host's error event."""
        n = x.row.events
        if x.do.get("stall", {}).get("after_event") == n:
            await self.stall(x, out)
        if x.do.get("cut", {}).get("after_event") == n:
            await out.end_here()
        error = x.do.get("error_event", {})
        if error.get("after_event") != n:
            return True
        await out.body(wire.error_frame(x, x.fault(error.get("kind", "server"))).data)
        return False

    async def stall(self, x, out):
        ms = x.do["stall"].get("ms")
        x.stalled = True  # a model that hangs makes nothing more, whoever waits
        await out.connection.pause(None if ms is None else ms / 1000)
        x.stalled = False

    async def refuse(self, profile, fault, do, out):
        row = out.row
        hint = do.get("retry_after", {})
        wait_s = hint.get("s") if hint.get("form") == "retryinfo" else DEFAULT_WAIT_S if not hint and fault.kind in WAIT else None
        fault.bind(profile.errors, row.id, wait_s, model=row.model, key=row.key[:4] + "***")
        row.status, row.end = do.get("status", fault.status), "refused"
        head = [("content-type", "application/json"), *self.headers(profile, row, row.status), *hint_headers(profile, fault, do)]
        if "amzn_errortype" in profile.quirks:
            head.append(("x-amzn-errortype", fault.code or fault.type))
        data = fault.body()
        if "list_of_errors" in profile.quirks:
            data = b"[" + data + b"]"
        if fault.kind == "too_large" and profile.wire == "anthropic":
            head[0], data = ("content-type", "text/html"), b"<html><head><title>413 Request Entity Too Large</title></head></html>"
        await out.whole(row.status, with_given(head, do), given_body(do) if "body" in do else data)

    # ---- the control plane

    def tell_ledger(self):
        return "".join(self.ledger.line(row) + "\n" for row in self.ledger.rows.values())

    def tell_profiles(self):
        return json.dumps({p.name: {"base": p.base, "wire": p.wire, "models": p.models, "on_disconnect": p.on_disconnect,
                                    "stream_usage": p.stream_usage, "errors": sorted(kinds(p.errors))} for p in PROFILES.values()})

    CONTROL = {
        ("POST", "/_script"): lambda self, body: self.script.load(body),
        ("POST", "/_prices"): lambda self, body: self.ledger.set_prices(body),
        ("POST", "/_reset"): lambda self, body: self.forget(),
        ("GET", "/_ledger"): lambda self, body: self.tell_ledger(),
        ("GET", "/_requests"): lambda self, body: json.dumps(list(self.requests)),
        ("GET", "/_profiles"): lambda self, body: self.tell_profiles(),
    }

    async def control(self, out, request):
        act = self.CONTROL.get((request.method, request.path))
        if act is None:
            await out.json(404, {"error": f"no {request.method} {request.path}"})
            return
        try:
            text = act(self, json.loads(request.body or b"{}"))
        except (ValueError, KeyError, TypeError) as e:
            await out.json(400, {"error": str(e)})
            return
        kind = "application/jsonl" if request.path == "/_ledger" else "application/json"
        await out.whole(200, [("content-type", kind)], ("{}" if text is None else text).encode("utf-8", "surrogatepass"))
