#!/usr/bin/env python3
"""A gateway beside nginx and LiteLLM, in front of a provider that answers at once: `make bench-proxy`.

    bench/proxy.py [--only latency,calls,streams,paced,idle,ledger,usage] [--rounds N] [--seconds N] [--litellm] [--save NAME] [--doc]

Needs nginx (apt: nginx-light); `ledger` also PostgreSQL where it is installed. --litellm measures LiteLLM, too, from build/venv-litellm, which is made if
it is not there (pip, half a gigabyte). A run that failed prints no figure.

The provider (bench/proxy_upstream.c) and the clients (bench/proxy_clients.c) are fixed and check every answer. Who stands between them:
    direct   nobody
    nginx    a plain reverse proxy: one worker process, kept connections, no log; answers are buffered as by default, streams are not
    off      spillway --no-auth: no accounts, no ledger
    on       spillway with a key, a budget of its project, and each request reserved and posted durably (SQLite, synchronous=FULL)
    litellm  one worker process, a master key, no database: no spend is kept
Every round runs each of them once, one after the other; a ratio, and what a gateway adds, is of one round, and the table has the median of the rounds.

latency  whole answers at 500 a second (litellm: 10), sent when they are due, on both cores; the time of fdatasync in the same folder, before each round
calls    whole answers, 64 connections (litellm: 4) in a closed loop; the gateway on one core, provider and clients on the other
streams  streams of 64 events, each event a send of the provider's, the same way; then the requests and tokens of the account are held against the provider's
paced    1,000 streams at once with an event each 20 ms; delay from the provider's send to the client's read, and memory of the gateway
idle     resident memory of a gateway without a local model that nobody has asked yet
ledger   reserve and post pairs (bench_ledger): SQLite, PostgreSQL
usage    a month of ten million ledger lines (bench_usage)

The last thing that is printed is the table for docs/performance.md; --doc puts it there. --save writes bench/results/NAME.json.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import figures

ROOT = figures.ROOT
BUILD = ROOT / "build"
LITELLM = "1.106.2"
DOC_FROM, DOC_TO = "<!-- bench/proxy.py --doc writes from here -->", "<!-- to here -->"
KEY = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyzABCD"
CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE, OTHER_CORE = CORES[0], CORES[-1]
STREAMS, EVENTS, CLIENTS, RATE = 1000, 64, 64, 500
LITELLM_RATE, LITELLM_CLIENTS = 10, 4  # what it can take; 64 streams at once would not end within a round


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, seconds=60):
    for _ in range(seconds * 50):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if process.poll() is not None:
            sys.exit(f"a server did not start: {process.args}")
        time.sleep(0.02)
    sys.exit(f"a server does not listen: {process.args}")


@contextlib.contextmanager
def running(command, **kw):
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, **{"stdout": subprocess.DEVNULL, **kw})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def family(pid):
    """The process and all below it."""
    found, at = [pid], 0
    while at < len(found):
        with contextlib.suppress(OSError):
            for task in pathlib.Path(f"/proc/{found[at]}/task").iterdir():
                found += [int(p) for p in (task / "children").read_text().split()]
        at += 1
    return found


def pin(pid, cores):
    for p in family(pid):
        for task in os.listdir(f"/proc/{p}/task"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task), cores)


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


class Gateway:
    """Somebody to ask: `path(kind)` and `model(kind)` for the provider's kinds of answer."""

    def __init__(self, name, port, pid, key=None, own_names=False):
        self.name, self.port, self.pid, self.key, self.own_names = name, port, pid, key, own_names

    def ask(self, kind, mode, *more):
        path, model = ("/v1/chat/completions", f"{kind}/fixed") if self.own_names else (f"/{kind}/v1/chat/completions", "fixed")
        return [str(BUILD / "bench/proxy_clients"), "--port", str(self.port), "--path", path, "--model", model, "--mode", mode, *(["--key", self.key] if self.key else []),
                *map(str, more)]

    def load(self, kind, mode, *more, cores=None):
        done = subprocess.run(self.ask(kind, mode, *more), capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores or CORES))
        if done.returncode:
            sys.exit(f"{self.name}, {mode}: {done.stderr}")
        return json.loads(done.stdout)


@contextlib.contextmanager
def upstream():
    with running([BUILD / "bench/proxy_upstream", "--events", EVENTS], stdout=subprocess.PIPE, text=True) as process:
        yield Gateway("direct", int(process.stdout.readline().split()[1]), process.pid)


def truth(up):
    c = http.client.HTTPConnection("127.0.0.1", up.port, timeout=10)
    c.request("GET", "/counts")
    return json.loads(c.getresponse().read())


@contextlib.contextmanager
def nginx(folder, up):
    port = free_port()
    common = "proxy_http_version 1.1; proxy_set_header Connection ''"
    (folder / "nginx.conf").write_text(f"""
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    upstream provider {{ server 127.0.0.1:{up.port}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /one/ {{ proxy_pass http://provider; {common}; }}
        location / {{ proxy_pass http://provider; proxy_buffering off; {common}; }}
    }}
}}
""")
    folder.chmod(0o755)  # nginx's worker has another user
    with running(["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx-error.log"]) as process:
        wait_for(port, process)
        yield Gateway("nginx", port, process.pid)


def price_table(folder, kind):
    path = folder / f"{kind}.json"
    path.write_text(json.dumps({"format": 1, "version": "bench", "date": "2026-01-01", "sources": [], "models": [
        {"provider": kind, "model": "fixed", "context": 1000000, "max_output": 200000, "can": [], "prices": [{"in_uncached": [150, 1], "out_text": [600, 1]}]}]}))
    return path


def accounts(folder, *words):
    command = [BUILD / "spillway", "accounts", *words, "--data", folder / "data"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"accounts {' '.join(words)}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def spillway(folder, up, ledger, book=False):
    """book: OpenAI and Groq in place of the provider, who are not asked."""
    port, name = free_port(), "on" if ledger else "off"
    folder.mkdir()
    lines = [f'  - {{name: {kind}, provider: openai-compatible, base_url: "http://127.0.0.1:{up.port}/{kind}/v1", prices: {price_table(folder, kind)}}}'
             for kind in ("one", "burst", "paced")]
    if book:
        lines = ["  - provider: openai", "  - provider: groq"]
    (folder / "spillway.yaml").write_text("providers:\n" + "\n".join(lines) + "\nlimits:\n  max_queue_requests: 4096\n  max_streams_per_key: 4096\n")
    command = [BUILD / "spillway", "serve", "--config", folder / "spillway.yaml", "--listen", f"127.0.0.1:{port}", "--log-level", "warn", "--no-model",
               *(["--data", folder / "data"] if ledger else ["--no-auth"])]
    env = {**os.environ, "SPILLWAY_API_KEY": KEY, "OPENAI_API_KEY": "sk-none", "GROQ_API_KEY": "gsk-none"}
    log = folder / "log"
    with open(log, "w") as stderr, running(command, env=env, stderr=stderr) as process:
        for _ in range(1000):
            if "Ready" in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.01)
        if "Ready" not in log.read_text():
            sys.exit(f"spillway does not start: {log.read_text()}")
        if ledger:
            for project in (a["id"] for a in json.loads(accounts(folder, "list", "--json")) if a["kind"] == "project"):
                accounts(folder, "budget", "add", project, "1000000", "--period", "month")
        yield Gateway(name, port, process.pid, KEY if ledger else None, own_names=True)


@contextlib.contextmanager
def litellm(folder, up):
    venv, port = BUILD / "venv-litellm", free_port()
    if not (venv / "bin/litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", "--disable-pip-version-check", f"litellm[proxy]=={LITELLM}"], check=True)
    models = [{"model_name": f"{kind}/fixed", "litellm_params": {"model": "openai/fixed", "api_base": f"http://127.0.0.1:{up.port}/{kind}/v1", "api_key": "none"}}
              for kind in ("one", "burst", "paced")]
    (folder / "litellm.json").write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    with open(folder / "litellm.log", "w") as log, running([venv / "bin/litellm", "--config", folder / "litellm.json", "--host", "127.0.0.1", "--port", port, "--num_workers", "1"],
                                                           stdout=log, stderr=log, env=env) as process:
        wait_for(port, process, 120)
        g = Gateway("litellm", port, process.pid, KEY, own_names=True)
        for kind, mode in (("one", "calls"), ("burst", "streams")):  # its first answers take seconds
            g.load(kind, mode, "--clients", 2, "--warm", 4, "--seconds", 2)
        yield g


def fdatasync_us(folder):
    fd, times = os.open(folder / "sync", os.O_RDWR | os.O_CREAT), []
    for i in range(200):
        begin = time.perf_counter_ns()
        os.pwrite(fd, bytes(4096), 4096 * i)
        os.fdatasync(fd)
        times.append((time.perf_counter_ns() - begin) / 1000)
    os.close(fd)
    (folder / "sync").unlink()
    times.sort()
    return {"p50": times[99], "p99": times[197]}


class Run:
    def __init__(self, args, folder, up, gateways):
        self.args, self.folder, self.up, self.gateways = args, folder, up, gateways
        self.owed = {"answers": 0, "prompt_tokens": 0, "completion_tokens": 0}  # what the provider has told the gateway with the ledger

    def each(self, measure, names):
        """{name: [a round's result]}"""
        out = {g.name: [] for g in self.gateways if g.name in names}
        for _ in range(self.args.rounds):
            for g in self.gateways:
                if g.name not in names:
                    continue
                before = truth(self.up)
                out[g.name].append(measure(g))
                if g.name == "on":
                    after = truth(self.up)
                    for k in self.owed:
                        self.owed[k] += after[k] - before[k]
        return out

    def one_core_each(self, g):
        """The gateway on one core, all else on the other."""
        pin(self.up.pid, {OTHER_CORE})
        if g is not self.up:
            pin(g.pid, {GATEWAY_CORE})

    def no_pins(self):
        for g in self.gateways:
            pin(g.pid, set(CORES))


ALL = ("direct", "nginx", "off", "on", "litellm")


def bench_latency(run):
    syncs = []

    def measure(g):
        if g.name == "direct":
            syncs.append(fdatasync_us(run.folder))
        rate = LITELLM_RATE if g.name == "litellm" else RATE
        return g.load("one", "rate", "--clients", 256, "--rate", rate, "--seconds", run.args.seconds)["us"]

    run.no_pins()
    got = run.each(measure, ALL)
    out = {"fdatasync_us": {p: figures.spread([s[p] for s in syncs]) for p in ("p50", "p99")}, "us": {}, "added_us": {}}
    for name, rounds in got.items():
        out["us"][name] = {p: figures.spread([r[p] for r in rounds]) for p in ("p50", "p99")}
        if name != "direct":
            out["added_us"][name] = {p: figures.spread([a[p] - b[p] for a, b in zip(rounds, got["direct"], strict=True)]) for p in ("p50", "p99")}
    bound = [2 * s["p50"] + 150 for s in syncs]
    out["on_to_bound"] = figures.spread([(a["p50"] - b["p50"]) / c for a, b, c in zip(got["on"], got["direct"], bound, strict=True)])
    return out


def rates(run, kind, mode):
    def measure(g):
        run.one_core_each(g)
        clients = LITELLM_CLIENTS if g.name == "litellm" else CLIENTS
        return g.load(kind, mode, "--clients", clients, "--seconds", run.args.seconds, cores={OTHER_CORE})["per_s"]

    got = run.each(measure, ALL)
    return {"per_s": {name: figures.spread(v) for name, v in got.items()},
            "to_nginx": {name: figures.ratio(v, got["nginx"]) for name, v in got.items() if name not in ("direct", "nginx")}}


def bench_calls(run):
    return rates(run, "one", "calls")


def bench_streams(run):
    out = rates(run, "burst", "streams")
    # what is under way has been answered, but the last of it may not be booked yet
    for _ in range(50):
        rows = json.loads(accounts(run.folder / "on", "usage", "--by", "supplier", "--json"))
        billed = {ours: sum(r[theirs] for r in rows) for ours, theirs in BILLED.items()}
        if billed == run.owed:
            break
        time.sleep(0.1)
    if billed != run.owed:
        sys.exit(f"the account has {billed}, the provider has told {run.owed}")
    return {**out, "billed": billed}


BILLED = {"answers": "requests", "prompt_tokens": "tokens_in", "completion_tokens": "tokens_out"}


def bench_paced(run):
    def measure(g):
        run.no_pins()
        before = resident_kib(g.pid)
        command = g.ask("paced", "paced", "--clients", STREAMS, "--seconds", run.args.seconds)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as clients:
            if clients.stdout.readline() != "open\n":
                sys.exit(f"{g.name}, paced: {clients.stderr.read()}")
            time.sleep(run.args.seconds / 2)
            during = resident_kib(g.pid)
            result, errors = clients.communicate()
        if clients.returncode:
            sys.exit(f"{g.name}, paced: {errors}")
        figure = json.loads(result)
        expected = STREAMS * 50 * run.args.seconds
        if not 0.85 * expected < figure["us"]["n"] < 1.03 * expected:  # who lags behind has it in its delays; who loses events is none to be measured
            sys.exit(f"{g.name}, paced: {figure['us']['n']} events where {expected} were due")
        time.sleep(1)  # those that were cancelled are settled
        return {"p50_ms": figure["us"]["p50"] / 1000, "p99_ms": figure["us"]["p99"] / 1000, "max_ms": figure["us"]["max"] / 1000,
                "kib_a_stream": (during - before) / STREAMS}

    got = run.each(measure, ("direct", "nginx", "off", "on"))
    return {name: {k: figures.spread([r[k] for r in rounds]) for k in rounds[0]} for name, rounds in got.items()}


def bench_idle(run):
    """Fresh processes, a few seconds old."""
    out = {}
    for name, ledger in (("off", False), ("on", True), ("book", True)):
        with spillway(run.folder / f"idle-{name}", run.up, ledger, book=name == "book") as g:
            time.sleep(2)
            pids = family(g.pid)
            out[name] = {"gateway_mib": resident_kib(g.pid) / 1024, "all_processes_mib": sum(resident_kib(p) for p in pids) / 1024, "processes": len(pids)}
    return out


def bench_ledger(run):
    def pairs(*more):
        done = subprocess.run([str(BUILD / "bench/bench_ledger"), "--seconds", str(run.args.seconds), *more], check=True, capture_output=True, text=True, timeout=300)
        return json.loads(done.stdout)["pairs_a_second"]

    out = {"sqlite": figures.spread([pairs() for _ in range(run.args.rounds)])}
    sys.path.append(str(ROOT / "tests/accounts"))
    import postgres
    if postgres.PROGRAMS:
        values = []
        for _ in range(run.args.rounds):
            server = postgres.Postgres()  # a new one each time: what a round leaves is not the next one's
            with contextlib.closing(server):
                server.stop()
                server.start(fsync="on")
                values.append(pairs("--store", server.url))
        out["postgres"] = figures.spread(values)
    return out


def bench_usage(run):
    done = subprocess.run([str(BUILD / "bench/bench_usage")], check=True, capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


BENCHES = {"latency": bench_latency, "calls": bench_calls, "streams": bench_streams, "paced": bench_paced, "idle": bench_idle, "ledger": bench_ledger, "usage": bench_usage}


# --- the table ---

def met(ok):
    return "met" if ok else "missed"


def number(s, digits=0, unit=""):
    return f"{s['median']:,.{digits}f}{unit} ({s['low']:,.{digits}f} to {s['high']:,.{digits}f})"


def latency_rows(r):
    us, added, sync = r["us"], r["added_us"], r["fdatasync_us"]["p50"]
    beside = f"nginx {number(added['nginx']['p50'])}, p99 {number(added['nginx']['p99'])}"
    if "litellm" in added:
        beside += f"; LiteLLM, at {LITELLM_RATE} a second, {number(added['litellm']['p50'])}, p99 {number(added['litellm']['p99'])}"
    off, on = added["off"], added["on"]
    direct = f"direct: p50 {us['direct']['p50']['median']:.0f}, p99 {us['direct']['p99']['median']:.0f}"
    yield (f"added to a whole answer at {RATE} a second, ledger off, us ({direct})", f"p50 **{number(off['p50'])}**, p99 **{number(off['p99'])}**", beside,
           f"150, 1,000: {met(off['p50']['median'] <= 150)}, {met(off['p99']['median'] <= 1000)}")
    yield (f"the same with key, budget and durable ledger (fdatasync {number(sync)} us)", f"p50 **{number(on['p50'])}**, p99 {number(on['p99'])}", "",
           f"2 x fdatasync + 150, so {2 * sync['median'] + 150:,.0f}: {met(r['on_to_bound']['median'] <= 1)}, {number(r['on_to_bound'], 2)} of it")


def rate_rows(what, r, goals):
    rate, ratio = r["per_s"], r["to_nginx"]
    beside = f"nginx {number(rate['nginx'])}" + (f"; LiteLLM {number(rate['litellm'])}" if "litellm" in rate else "") + f"; direct {rate['direct']['median']:,.0f}"
    for name, goal in goals:
        yield (f"{what}, ledger {name}", f"{number(rate[name])}, **{number(ratio[name], 2)}** of nginx's", beside, f"{goal}: {met(ratio[name]['median'] >= goal)}")
        beside = ""


def paced_rows(r):
    for name in ("off", "on"):
        g = r[name]
        beside = f"nginx p99 {number(r['nginx']['p99_ms'], 1)} ms; direct {r['direct']['p99_ms']['median']:.1f}" if name == "off" else ""
        yield (f"{STREAMS:,} streams, 50 events a second each, ledger {name}: delay p50, p99; memory a stream",
               f"{number(g['p50_ms'], 1)}, **{number(g['p99_ms'], 1)} ms**; {number(g['kib_a_stream'], 1)} KiB", beside,
               f"20 ms, 64 KiB: {met(g['p99_ms']['median'] <= 20)}, {met(g['kib_a_stream']['median'] <= 64)}")


def idle_rows(r):
    for name, what in (("off", "ledger off"), ("on", "ledger on"), ("book", "ledger on, two hosts of the price book")):
        yield (f"idle, no local model, {what}: the gateway; with the picture decoder's process", f"**{r[name]['gateway_mib']:.1f} MiB**; {r[name]['all_processes_mib']:.1f}", "",
               f"15: {met(r[name]['gateway_mib'] <= 15)}")


def ledger_rows(r):
    for store, name, goal in (("sqlite", "SQLite, synchronous=FULL", 5000), ("postgres", "PostgreSQL", 2000)):
        if store in r:
            yield f"reserve and post pairs, 256 at once, {name}", f"**{number(r[store])}** a second", "", f"{goal:,}: {met(r[store]['median'] >= goal)}"


def usage_rows(r):
    yield f"a month by project and day of {r['lines']:,} ledger lines", f"**{r['ms']:.0f} ms**, worst {r['worst_ms']:.0f}", "", f"200: {met(r['worst_ms'] <= 200)}"


def table(result, command):
    rows = []
    for name, made in (("latency", latency_rows), ("paced", paced_rows), ("idle", idle_rows), ("ledger", ledger_rows), ("usage", usage_rows)):
        rows += made(result[name]) if name in result else []
        if name == "latency" and "calls" in result:
            rows += rate_rows(f"whole answers a second, {CLIENTS} connections, gateway on one core", result["calls"], (("off", 0.5), ("on", 0.25)))
        if name == "latency" and "streams" in result:
            rows += rate_rows(f"streams of {EVENTS} events a second, the same way", result["streams"], (("off", 0.7), ("on", 0.7)))
    lines = [f"    {command}", "", figures.machine_line(result["machine"]) + ".", "", "| | ours | beside it | goal |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    if "streams" in result:
        billed = result["streams"]["billed"]
        lines += ["", f"Billed in that run: {billed['answers']:,} answers, {billed['prompt_tokens']:,} tokens of input, {billed['completion_tokens']:,} of answer, exactly what the provider told."]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--only", default=",".join(BENCHES))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=4)
    p.add_argument("--litellm", action="store_true")
    p.add_argument("--save")
    p.add_argument("--doc", action="store_true")
    args = p.parse_args()
    names = [n for n in BENCHES if n in args.only.split(",")]
    result = {"machine": figures.machine(BUILD)}
    base = BUILD / "bench-proxy"  # on the disk that the project is on: /tmp may be memory
    base.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=base)))
        up = stack.enter_context(upstream())
        gateways = [up]
        if set(names) & {"latency", "calls", "streams", "paced"}:
            gateways += [stack.enter_context(nginx(folder, up)), stack.enter_context(spillway(folder / "off", up, False)), stack.enter_context(spillway(folder / "on", up, True))]
            if args.litellm:
                gateways.append(stack.enter_context(litellm(folder, up)))
        run = Run(args, folder, up, gateways)
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            result[name] = BENCHES[name](run)
    text = table(result, " ".join(["bench/proxy.py", *sys.argv[1:]]))
    print(text, end="")
    if args.save:
        folder = ROOT / "bench/results"
        folder.mkdir(exist_ok=True)
        (folder / (args.save + ".json")).write_text(json.dumps(result, indent=1) + "\n")
    if args.doc:
        page = ROOT / "docs/performance.md"
        before, rest = page.read_text().split(DOC_FROM)
        page.write_text(before + DOC_FROM + "\n" + text + DOC_TO + rest.split(DOC_TO)[1])


if __name__ == "__main__":
    main()
