#!/usr/bin/env python3
"""Figures of the fault rows that are about speed and memory: `make bench-faults`.

    bench/faults.py [--only models,slowloris,streams,keys] [--rounds N] [--seconds N] [--save NAME]

Needs nginx and wrk (apt: nginx-light, wrk) for `models`.

models     requests/s of GET /v1/models with a key (wrk, 1 thread, 32 connections), in turns with nginx (1 worker process) serving a static file of the
           same size; the ratio is of one round. First neither writes an access log, and nginx keeps its file open (open_file_cache); then both
           write a line a request to a file, and nginx opens its file each time, as by default.
slowloris  T14: latency of GET /v1/models while 500 connections send a byte each 5 s (half of them headers, half bodies; those that are cut come
           again), against the same of a second, quiet server on the same machine: requests go to the one and the other in turns, 200 a second to
           each, so both see the same machine; servers and client are scheduled before other work where that is allowed.
streams    T20: memory of 10,000 idle streams, held with comments, then closed (tests/fault's own test, at its stated size).
keys       T04: time of a key check (bench_keys).

Machines are shared: compare only figures of one run. --save writes bench/results/NAME.json and NAME.txt.
"""
import argparse
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
LINES = []


def say(line):
    print(line, flush=True)
    LINES.append(line)


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) >> 20
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "memory_gib": memory, "kernel": platform.release().split("-")[0],
            "load": round(os.getloadavg()[0], 1), "date": str(datetime.date.today()),
            "version": subprocess.check_output([BUILD / "spillway", "--version"], text=True).strip()}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(500):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.01)
    sys.exit("a server did not start")


@contextlib.contextmanager
def running(command, **kw):
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **kw)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def spillway(folder, *options):
    """(port, key) of a server with its log in a file."""
    port, key = free_port(), "sk-bench-0123456789abcdefghijklmnopqrstuvwxyzABCD"
    with open(folder / "spillway.log", "w") as log:
        command = [BUILD / "spillway", "serve", "demo", "--listen", f"127.0.0.1:{port}", "--data", folder / "data", *options]
        with running(command, stderr=log, env={**os.environ, "SPILLWAY_API_KEY": key}) as process:
            wait_for(port)
            for _ in range(500):
                if get(port, key)[0] == 200 and b"demo" in get(port, key)[1]:
                    break
                time.sleep(0.01)
            yield port, key, process.pid


def get(port, key):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/v1/models", headers={"authorization": "Bearer " + key})
    r = c.getresponse()
    return r.status, r.read()


@contextlib.contextmanager
def nginx(folder, body, log):
    port = free_port()
    (folder / "www/v1").mkdir(parents=True, exist_ok=True)
    (folder / "www/v1/models").write_bytes(body)
    (folder / "nginx.conf").write_text(f"""
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    {f"access_log {folder}/nginx-access.log" if log else "access_log off; open_file_cache max=16"};
    default_type application/json;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
""")
    folder.chmod(0o755)  # nginx's worker has another user
    with running(["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx-error.log"], stderr=subprocess.DEVNULL):
        wait_for(port)
        yield port


def wrk(port, key, seconds):
    out = subprocess.check_output(["wrk", "-t1", "-c32", f"-d{seconds}s", "-H", f"Authorization: Bearer {key}", f"http://127.0.0.1:{port}/v1/models"], text=True)
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit("wrk met errors:\n" + out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def show(name, s, unit, digits=1):
    say(f"{name:58s} {s['median']:12.{digits}f} {unit:6s} ({s['low']:.{digits}f} to {s['high']:.{digits}f} in {s['n']})")


def bench_models(args):
    out = {}
    for log in (False, True):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = pathlib.Path(name)
            with spillway(folder, "--log-level", "info" if log else "warn") as (port, key, _):
                body = get(port, key)[1]
                with nginx(folder, body, log) as other:
                    if get(other, key)[1] != body:
                        sys.exit("nginx serves something else")
                    ours, theirs = [], []
                    for _ in range(args.rounds):
                        ours.append(wrk(port, key, args.seconds))
                        theirs.append(wrk(other, key, args.seconds))
        what = "a log line a request" if log else "no access log"
        ratio = spread([a / b for a, b in zip(ours, theirs)])
        out[what] = {"ours_per_s": spread(ours), "nginx_per_s": spread(theirs), "ratio": ratio, "body_bytes": len(body)}
        show(f"GET /v1/models, {what}", out[what]["ours_per_s"], "1/s", 0)
        show(f"    nginx, static file of {len(body)} bytes{'' if log else ', kept open'}", out[what]["nginx_per_s"], "1/s", 0)
        show("    ratio, round by round", ratio, "", 2)
    return out


def attack(port, n):
    """A slowloris for ever: half of n connections send headers, half bodies, a byte each 5 s; those that are closed are opened again."""
    begins = (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
    ready, sockets, due = select.epoll(), {}, []

    def open_one(i):
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(begins[i % 2])
        s.setblocking(False)
        sockets[s.fileno()] = (s, i)
        ready.register(s, select.EPOLLIN)
        due.append((time.monotonic() + 5, s.fileno(), s))
    for i in range(n):
        open_one(i)
        time.sleep(5 / n)  # their bytes come evenly
    while True:
        for fd, _ in ready.poll(0.005):
            s, i = sockets[fd]
            with contextlib.suppress(OSError):
                if s.recv(4096):
                    continue
            ready.unregister(fd)
            del sockets[fd]
            s.close()
            open_one(i)
        while due and due[0][0] <= time.monotonic():
            _, fd, s = due.pop(0)
            if fd in sockets and sockets[fd][0] is s:
                with contextlib.suppress(OSError):
                    s.send(b"a")
                due.append((time.monotonic() + 5, fd, s))


class GoodClient:
    """GET /v1/models over one kept connection."""

    def __init__(self, port, key):
        self.data = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask_ms(self):
        start = time.perf_counter()
        self.socket.sendall(self.data)
        got = b""
        while not got.endswith(b"]}"):
            some = self.socket.recv(65536)
            if not some:
                sys.exit("a good client was cut off")
            got += some
        return (time.perf_counter() - start) * 1000


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


@contextlib.contextmanager
def before_others():
    """Servers and good client run before the machine's other work, where that is allowed: what is measured is one process, not the neighbours."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        yield "real time"
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        yield "as all else"


def bench_slowloris(args):
    with before_others() as scheduling:
        out = slowloris(args)
    out["scheduling"] = scheduling
    return out


def slowloris(args):
    per_s, n = 400, args.rounds * 4000
    samples = {"quiet": [], "attacked": []}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in samples:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            servers[name] = stack.enter_context(spillway(folder))
        attacker = stack.enter_context(running([sys.executable, __file__, "--attack", servers["attacked"][0]]))
        clients = {name: GoodClient(port, key) for name, (port, key, _) in servers.items()}
        pid = servers["attacked"][2]
        time.sleep(8)  # until all are open
        begin = time.perf_counter()
        for i in range(n):
            while (left := begin + i / per_s - time.perf_counter()) > 0:
                time.sleep(left)
            name = ("quiet", "attacked")[i % 2]
            samples[name].append(clients[name].ask_ms())
        if attacker.poll() is not None:
            sys.exit("the attack ended early")
        open_fds = len(os.listdir(f"/proc/{pid}/fd"))
        if open_fds < 400:
            sys.exit(f"the attacked server has {open_fds} descriptors only: no attack")
    a, b = samples["quiet"], samples["attacked"]
    out = {"n": len(a), "connections": 500}
    for p in (0.5, 0.9, 0.99):
        out[f"p{p * 100:.0f}_ms"] = {"quiet": percentile(a, p), "attacked": percentile(b, p), "ratio": percentile(b, p) / percentile(a, p)}
        row = out[f"p{p * 100:.0f}_ms"]
        say(f"{f'T14: p{p * 100:.0f} of good clients, quiet / 500 slow connections':58s} {row['quiet']:.3f} / {row['attacked']:.3f} ms, ratio {row['ratio']:.3f} ({len(a)} requests each)")
    return out


def bench_streams(args):
    """The row's own test at its stated size prints and asserts these figures."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests/fault/test_http_streams.py", "-k", "t20"]
    done = subprocess.run([str(c) for c in command], env={**os.environ, "SPILLWAY_FAULT": "long"}, text=True, capture_output=True, timeout=300)
    figures = {m[1]: float(m[2]) for m in re.finditer(r"(T20 [^:]+): ([\d.]+)", done.stdout)}
    for line in re.findall(r"T20 .*", done.stdout):
        say(re.sub(r"\.*\s*(\[100%\])?$", "", line))  # without pytest's progress
    if done.returncode:
        sys.exit("T20 failed:\n" + done.stdout[-2000:])
    return figures


def bench_keys(args):
    text = subprocess.check_output([BUILD / "bench/bench_keys"], text=True, timeout=300)
    for line in text.splitlines():
        say(line)
    return text.splitlines()


BENCHES = {"keys": bench_keys, "models": bench_models, "slowloris": bench_slowloris, "streams": bench_streams}


def main():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--only", default=",".join(BENCHES))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=3)
    p.add_argument("--save")
    p.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.attack:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        attack(args.attack, 500)
    result = {"machine": machine()}
    say("machine: {cpu}, {cpus} CPUs, {memory_gib} GiB, Linux {kernel}, load {load}, {date}, {version}".format(**result["machine"]))
    for name in args.only.split(","):
        result[name] = BENCHES[name](args)
    if args.save:
        folder = ROOT / "bench/results"
        folder.mkdir(exist_ok=True)
        (folder / (args.save + ".json")).write_text(json.dumps(result, indent=1) + "\n")
        (folder / (args.save + ".txt")).write_text("\n".join(LINES) + "\n")


if __name__ == "__main__":
    main()
