#!/usr/bin/env python3
"""Speed and memory of the serving engine on this machine's CPU: `make bench-cpu`.

    bench/cpu.py [--only NAME,...] [--rounds N] [--threads N] [--clients 1,4,16,64] [--shapes 135m,1.7b] [--forms bf16,int8,int4] [--save]
                 [--llama-bench PROGRAM] [--llama-server PROGRAM] [--llama-models FOLDER] [--onnx-python PROGRAM]

read       read bandwidth of the cores, the ceiling of every decode step (bench_read)
model      prefill of 512 tokens and decode of 128, alone, random weights in real shapes; bytes read as a share of the ceiling (bench_model)
streams    streaming clients in a closed loop, prompts of about 123 tokens all different, 64 tokens of answer (stream_clients)
guess      speculation against none: one client, answers that repeat themselves and answers that cannot be foreseen
busy       decode beside one process that never waits: the share of the quiet speed that is left
start      from exec to ready, and to the first token of a first request, files cached
prefix     time to the first token of a prompt of 1,000 tokens, and of one that begins with the same 1,000
tile       one 512 px tile through the encoder of a 256M picture model, and 17 in one go (bench_tile); beside ONNX Runtime where a Python that has it
           is named (bench/onnx_tile.py)
memory     anonymous memory after load beside weights and cache, and its growth over 10,000 requests
scheduler  work of the scheduler a step (bench_scheduler)
host       all that a step costs the host, with a device that computes nothing (bench_host)
exact      what --decode exact costs against fast

llama.cpp is run where its programs are named, in turns with ours: every round runs each side once, and a ratio is of one round. FOLDER holds
SHAPE-FORM.gguf (135m-bf16.gguf, 135m-q8_0.gguf, 135m-q4_0.gguf, 1.7b-...) of the same shapes; int8 stands beside Q8_0, int4 beside Q4_0. What this
build's own --help does not list is reported as not there. --save writes bench/results/cpu-DATE-COMMIT.json. Nothing of llama.cpp is built here.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from figures import ROOT, in_turns, machine, machine_line, ratio, show, spread

BUILD = ROOT / "build"
MODELS = BUILD / "bench-models"
GGUF = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
RATIO_GOALS = {("decode", "int8"): 1.5, ("decode", "int4"): 1.6, ("prefill", "int8"): 4, ("prefill", "int4"): 3}
SHARE_GOALS = {("1.7b", "int8"): 0.80, ("1.7b", "int4"): 0.75}
STREAM_GOALS = {16: 4, 64: 5}
REQUESTS_A_CLIENT = {1: 8, 4: 4, 16: 3, 64: 2}
PROMPT_DIGITS, ANSWER_TOKENS = 113, 64  # with the template's tokens 123 to 125 of prompt
READY_PATHS = {"spillway": "/readyz", "llama.cpp": "/health"}


def say(line):
    print(line, flush=True)


def not_there(what):
    say(f"{what}: not there")
    return {"not_there": what}


def goal_line(value, goal, better="at least"):
    met = value >= goal if better == "at least" else value <= goal
    say(f"    goal: {better} {goal:g}: {'met' if met else 'missed, ' + format(value / goal, '.2f') + ' of it'}")


# ---- what this build can do ----

def choices(flag, command="serve"):
    """The values that an option takes by the program's own help, None if it is not there."""
    text = subprocess.run([BUILD / "spillway", command, "--help-all" if command == "serve" else "--help"], capture_output=True, text=True).stdout
    found = re.search(rf"^  {re.escape(flag)} (\S+)", text, re.M)
    return found[1].split("|") if found else None


def form_options(form):
    """Options that give a form of weights; None: this build has it not."""
    if form == "bf16":
        return []
    return ["--quant", form] if form in (choices("--quant") or []) else None


def best_form():
    """What serving is measured with: int8 where it is there."""
    return "int8" if form_options("int8") is not None else "bf16"


def checkpoint(shape):
    folder = MODELS / shape
    if not (folder / "config.json").exists():
        say(f"making {folder.relative_to(ROOT)} ...")
        subprocess.run([sys.executable, ROOT / "bench/make_checkpoint.py", shape, folder], check=True)
    return folder


def gguf(args, shape, form):
    """The file that stands beside ours, None if there is none."""
    if not args.llama_models:
        return None
    path = pathlib.Path(args.llama_models) / f"{shape}-{GGUF[form]}.gguf"
    if path.exists():
        return path
    say(f"    {path}: not there, so nothing beside this one")
    return None


# ---- programs that measure themselves ----

def json_lines(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_ceiling(args):
    return json_lines([BUILD / "bench/bench_read", "--threads", args.threads])[-1]["ceiling_gb_per_s"]


def ours_model(args, shape, form, prompt, decode):
    out = json_lines([BUILD / "bench/bench_model", "--random-weights", f"{shape}:1", *form_options(form), "--prompt", prompt, "--decode", decode,
                      "--repeat", 1, "--threads", args.threads])[-1]
    return out["prefill_tokens_per_s"] if prompt > 1 else (out["decode_tokens_per_s"], out["decode_gb_per_s"])


def llama_model(args, path, prompt, decode):
    """(tokens a second, bytes of the model)."""
    done = subprocess.run([args.llama_bench, "-m", path, "-p", str(prompt), "-n", str(decode), "-t", str(args.threads), "-r", "1", "-o", "json"],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"llama-bench: {done.stderr[-2000:]}")
    out = json.loads(done.stdout)[0]
    return out["avg_ts"], out["model_size"]


def bench_read(args):
    out = {"ceiling_gb_per_s": spread([read_ceiling(args) for _ in range(args.rounds)])}
    show(f"read ceiling, {args.threads} threads", out["ceiling_gb_per_s"], "GB/s", 1)
    return out


def decode_row(args, shape, form, path):
    measures = {"read": lambda: read_ceiling(args), "ours": lambda: ours_model(args, shape, form, 1, 128)}
    if path:
        measures["llama"] = lambda: llama_model(args, path, 0, 128)
    values = in_turns(args.rounds, measures)
    speeds = [v[0] for v in values["ours"]]
    out = {"ours": spread(speeds), "share_of_ceiling": ratio([v[1] for v in values["ours"]], values["read"])}
    show(f"{shape} {form}, decode of 128", out["ours"], "tok/s")
    show("    share of the read ceiling", out["share_of_ceiling"], "")
    if (shape, form) in SHARE_GOALS:
        goal_line(out["share_of_ceiling"]["median"], SHARE_GOALS[shape, form])
    if path:
        theirs = [v[0] for v in values["llama"]]
        shares = [speed * size / 1e9 / read for (speed, size), read in zip(values["llama"], values["read"])]
        out |= {"llama_cpp": spread(theirs), "llama_cpp_share": spread(shares), "ratio": ratio(speeds, theirs)}
    return out


def prefill_row(args, shape, form, path):
    measures = {"ours": lambda: ours_model(args, shape, form, 512, 1)}
    if path:
        measures["llama"] = lambda: llama_model(args, path, 512, 0)[0]
    values = in_turns(args.rounds, measures)
    out = {"ours": spread(values["ours"])}
    show(f"{shape} {form}, prefill of 512", out["ours"], "tok/s")
    if path:
        out |= {"llama_cpp": spread(values["llama"]), "ratio": ratio(values["ours"], values["llama"])}
    return out


def bench_model(args):
    out = {}
    for shape in args.shapes:
        for form in args.forms:
            if form_options(form) is None:
                out[f"{shape} {form}"] = not_there(f"{shape} {form} (--quant {form})")
                continue
            path = gguf(args, shape, form) if args.llama_bench else None
            for work, row in (("prefill", prefill_row), ("decode", decode_row)):
                r = out[f"{shape} {form} {work}"] = row(args, shape, form, path)
                if path:
                    show(f"    llama.cpp, {GGUF[form]}", r["llama_cpp"], "tok/s")
                    show("    ratio, round by round", r["ratio"], "")
                    if (work, form) in RATIO_GOALS:
                        goal_line(r["ratio"]["median"], RATIO_GOALS[work, form])
    return out


# ---- servers ----

class Process:
    """A server of ours or theirs that is ready. started_ms: from exec to the first good answer of its ready path."""

    def __init__(self, kind, command, port, log):
        self.kind, self.port, self.log = kind, port, log
        self.begun = time.perf_counter()
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        while not self._ready():
            if self.process.poll() is not None or time.perf_counter() - self.begun > 120:
                self.stop()
                sys.exit(f"{kind} did not start:\n{self.text()[-2000:]}")
            time.sleep(0.001)
        self.started_ms = 1000 * (time.perf_counter() - self.begun)

    def _ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            c.request("GET", READY_PATHS[self.kind])
            good = c.getresponse().status == 200
            c.close()
            return good
        return False

    def text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def pids(self):
        """The server and its children."""
        found = [self.process.pid]
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
        return found

    def memory_mib(self, field):
        """Rss, Pss or Anonymous of all its processes together."""
        total = 0
        for pid in self.pids():
            total += int(re.search(rf"^{field}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
        return total / 1024

    def load(self, **options):
        words = [w for name, value in options.items() for w in ("--" + name.replace("_", "-"), value)]
        return json_lines([BUILD / "bench/stream_clients", "--port", self.port, "--model", "bench", *words])[-1]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(kind, args, model, *options):
    port = free_port()
    if kind == "spillway":
        command = [BUILD / "spillway", "serve", model, "--name", "bench", "--no-auth", "--listen", f"127.0.0.1:{port}", "--threads", args.threads]
    else:
        command = [args.llama_server, "-m", model, "--alias", "bench", "--port", port, "-t", args.threads]
    with tempfile.NamedTemporaryFile("w", prefix="bench-") as log:
        server = Process(kind, [*command, *options], port, log)
        try:
            yield server
        finally:
            server.stop()


def sides(args, shape="135m", slots=1, context=512):
    """{kind: (model, options)} of what a serving row compares, and the form of weights in words. Without speculation: answers of random weights
    go round in circles, which is guessed too well."""
    form = best_form()
    patient = ["--first-token-target", "300s"]  # all clients come at once and are to be served, as theirs are; by default some would be sent away
    both = {"spillway": (checkpoint(shape), [*form_options(form), "--speculation", "off", *patient])}
    path = gguf(args, shape, form) if args.llama_server else None
    if path:
        both["llama.cpp"] = (path, ["-np", slots, "-c", slots * context])
    return both, form


def each_side(args, both, measure, rounds=None):
    """measure(server) on a fresh server of each kind in turn, {kind: [results]}."""
    def once(kind):
        model, options = both[kind]
        with serving(kind, args, model, *options) as server:
            return measure(server)
    return in_turns(rounds or args.rounds, {kind: lambda kind=kind: once(kind) for kind in both})


def streams_of(server, clients):
    server.load(clients=1, requests=1, prompt_digits=PROMPT_DIGITS, max_tokens=8, seed=99)  # pages touched, kernels chosen
    requests = clients * REQUESTS_A_CLIENT.get(clients, 2)
    out = server.load(clients=clients, requests=requests, prompt_digits=PROMPT_DIGITS, max_tokens=ANSWER_TOKENS)
    return {**out, "rss_mib": server.memory_mib("Rss"), "pss_mib": server.memory_mib("Pss")}


STREAM_FIGURES = [("output", "tok/s", lambda r: r["tokens_per_s"]), ("first token p50", "ms", lambda r: r["first_ms"]["p50"]),
                  ("first token p99", "ms", lambda r: r["first_ms"]["p99"]), ("inter-token p50", "ms", lambda r: r["gap_ms"]["p50"]),
                  ("inter-token p99", "ms", lambda r: r["gap_ms"]["p99"]), ("longest stall", "ms", lambda r: r["gap_ms"]["max"]),
                  ("RSS", "MiB", lambda r: r["rss_mib"])]


def show_streams(runs, clients, out):
    for kind, results in runs.items():
        out[kind] = {name: spread([figure(r) for r in results]) for name, _, figure in STREAM_FIGURES}
        out[kind]["prompt_tokens"] = results[0]["prompt_tokens"]
        for name, unit, _ in STREAM_FIGURES:
            show(f"    {kind}, {name}", out[kind][name], unit, 1)
    if len(runs) < 2:
        return
    ours, theirs = runs.values()
    out["ratio"] = ratio([r["tokens_per_s"] for r in ours], [r["tokens_per_s"] for r in theirs])
    out["first_p99_ratio"] = ratio([r["first_ms"]["p99"] for r in ours], [r["first_ms"]["p99"] for r in theirs])
    show("    ratio of output, round by round", out["ratio"], "")
    show("    ratio of first token p99", out["first_p99_ratio"], "")
    if clients in STREAM_GOALS:
        goal_line(out["ratio"]["median"], STREAM_GOALS[clients])
        goal_line(out["first_p99_ratio"]["median"], 0.2, "at most")


def bench_streams(args):
    out = {}
    for clients in args.clients:
        both, form = sides(args, slots=clients)
        runs = each_side(args, both, lambda s, n=clients: streams_of(s, n))
        prompt = runs["spillway"][0]["prompt_tokens"]
        say(f"135m {form}, {clients} clients, prompt {prompt:.0f} tokens, answer {ANSWER_TOKENS}, {runs['spillway'][0]['requests']} requests a round")
        row = out[str(clients)] = {"form": form}
        show_streams(runs, clients, row)
        smooth = [r["gap_ms"]["p99"] / r["gap_ms"]["p50"] for r in runs["spillway"]]
        row["gap_p99_to_p50"] = spread(smooth)
        show("    inter-token p99 to p50", row["gap_p99_to_p50"], "")
        goal_line(row["gap_p99_to_p50"]["median"], 2, "at most")
    return out


@contextlib.contextmanager
def neighbour():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def bench_busy(args):
    form = best_form()
    path = gguf(args, "135m", form) if args.llama_bench else None

    def beside(measure):
        with neighbour():
            return measure()
    sides_here = {"spillway": lambda: ours_model(args, "135m", form, 1, 128)[0]}
    if path:
        sides_here["llama.cpp"] = lambda: llama_model(args, path, 0, 128)[0]
    out = {"form": form}
    measures = {}
    for kind, measure in sides_here.items():
        measures[kind, "quiet"] = measure
        measures[kind, "busy"] = lambda measure=measure: beside(measure)
    values = in_turns(args.rounds, measures)
    for kind in sides_here:
        row = out[kind] = {name: spread(values[kind, name]) for name in ("quiet", "busy")}
        row["left"] = ratio(values[kind, "busy"], values[kind, "quiet"])
        show(f"{kind}, 135m {form}, decode alone", row["quiet"], "tok/s")
        show("    beside a busy process", row["busy"], "tok/s")
        show("    share that is left", row["left"], "")
    goal_line(out["spillway"]["left"]["median"], 0.5)
    return out


def first_token(server):
    """ms from exec to the first text of an answer that is asked for at once."""
    body = json.dumps({"model": "bench", "stream": True, "temperature": 0, "max_tokens": 2, "messages": [{"role": "user", "content": "1"}]})
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    c.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    for line in r:
        if line.startswith(b"data: {"):
            choice = (json.loads(line[6:]).get("choices") or [{}])[0]
            if choice.get("delta", {}).get("content"):
                return 1000 * (time.perf_counter() - server.begun)
    sys.exit(f"{server.kind}: no first token (status {r.status})")


def bench_guess(args):
    """Both ends of what speculation may give: greedy answers of random weights, which repeat themselves, and sampled ones, of which no guess is right."""
    out, model, form = {}, checkpoint("135m"), best_form()
    for name, temperature in (("repeating", 0), ("unforeseeable", 1)):
        def run(how, temperature=temperature):
            with serving("spillway", args, model, *form_options(form), "--speculation", how) as s:
                s.load(clients=1, requests=1, prompt_digits=PROMPT_DIGITS, max_tokens=8, seed=99)
                return s.load(clients=1, requests=4, prompt_digits=PROMPT_DIGITS, max_tokens=256, temperature=temperature)["tokens_per_s"]
        values = in_turns(args.rounds, {how: lambda how=how, run=run: run(how) for how in ("lookup", "off")})
        row = out[name] = {"lookup": spread(values["lookup"]), "off": spread(values["off"]), "ratio": ratio(values["lookup"], values["off"])}
        show(f"135m {form}, 1 client, {name} answers, guessed", row["lookup"], "tok/s", 1)
        show("    without guesses", row["off"], "tok/s", 1)
        show("    ratio, round by round", row["ratio"], "")
    return out


def bench_start(args):
    both, form = sides(args, slots=4)
    runs = each_side(args, both, lambda s: {"ready": s.started_ms, "first": first_token(s), "rss_mib": s.memory_mib("Rss")}, args.rounds + 1)
    out = {"form": form}
    for kind, results in runs.items():
        results = results[1:]  # the first run reads the files
        out[kind] = {name: spread([r[name] for r in results]) for name in ("ready", "first", "rss_mib")}
        show(f"{kind}, 135m {form}, exec to ready", out[kind]["ready"], "ms", 0)
        show("    to the first token", out[kind]["first"], "ms", 0)
        show("    RSS then", out[kind]["rss_mib"], "MiB", 0)
    goal_line(out["spillway"]["ready"]["median"], 200, "at most")
    goal_line(out["spillway"]["first"]["median"], 250, "at most")
    return out


def prefix_of(server, rounds):
    server.load(prompt_digits=1010, max_tokens=2, seed=99)
    runs = []
    for i in range(rounds):
        cold, warm = (server.load(prefix_digits=1000, prompt_digits=10, max_tokens=2, prefix_seed=1000 + i, seed=2 * i + j) for j in (0, 1))
        runs.append({"cold": cold["first_ms"]["p50"], "warm": warm["first_ms"]["p50"], "cached": warm["cached_tokens"]})
    return runs


def bench_prefix(args):
    both, form = sides(args, slots=1, context=4096)
    runs = each_side(args, both, lambda s: prefix_of(s, args.rounds), 1)
    out = {"form": form}
    for kind, [results] in runs.items():
        cold, warm = ([r[name] for r in results] for name in ("cold", "warm"))
        row = out[kind] = {"cold": spread(cold), "warm": spread(warm), "ratio": ratio(cold, warm), "cached_tokens": spread([r["cached"] for r in results])}
        show(f"{kind}, 135m {form}, 1,000 new tokens, first token", row["cold"], "ms", 1)
        show("    the same 1,000 again", row["warm"], "ms", 1)
        show("    cold to warm", row["ratio"], "", 1)
        show("    cached tokens as told", row["cached_tokens"], "", 0)
    goal_line(out["spillway"]["ratio"]["median"], 10)
    return out


def ours_tile(args, form, tiles):
    how = ["--compute", form] if form != "int8" else ["--compute", "bf16", "--quant", "int8"]
    return json_lines([BUILD / "bench/bench_tile", *how, "--tiles", tiles, "--repeat", 1, "--threads", args.threads])[-1]["ms_per_tile"]


def onnx_tile(args, form):
    how = ["--int8"] if form == "int8" else []
    return json_lines([args.onnx_python, ROOT / "bench/onnx_tile.py", *how, "--repeat", 1, "--threads", args.threads])[-1]["ms_per_tile"]


def bench_tile(args):
    cases = [(form, tiles) for form in ("f32", "bf16", "int8") for tiles in (1, 17)]
    measures = {case: lambda case=case: ours_tile(args, *case) for case in cases}
    for form in ("f32", "int8") if args.onnx_python else ():
        measures["onnx", form] = lambda form=form: onnx_tile(args, form)
    values = in_turns(args.rounds, measures)
    out = {" ".join(map(str, case)): spread(v) for case, v in values.items()}
    for form, tiles in cases:
        show(f"256M picture model {form}, {tiles} tile{'s' if tiles > 1 else ''}, a tile", out[f"{form} {tiles}"], "ms", 0)
    for form in ("f32", "bf16", "int8"):
        out[f"{form} batch"] = ratio(values[form, 17], values[form, 1])
        show(f"    {form}: 17 against 1, a tile", out[f"{form} batch"], "")
    for ours, theirs in (("f32", "f32"), ("bf16", "f32"), ("int8", "int8")) if args.onnx_python else ():
        r = out[f"{ours} ratio"] = ratio(values["onnx", theirs], values[ours, 1])
        show(f"    ONNX Runtime {theirs}, a tile", out[f"onnx {theirs}"], "ms", 0)
        show(f"    ours {ours} against it, speed", r, "")
        goal_line(r["median"], 1)
    return out


def bench_memory(args):
    form = best_form()
    with serving("spillway", args, checkpoint("135m"), *form_options(form)) as s:
        anonymous = s.memory_mib("Anonymous")
        plan = re.search(r"weights ([\d.]+) MB(?: \([^)]*\))?, KV cache ([\d.]+) MB", s.text())
    weights, cache = (float(x) * 1e6 / (1 << 20) for x in plan.groups())
    out = {"form": form, "anonymous_mib": anonymous, "weights_mib": weights, "cache_mib": cache, "over_weights_mib": anonymous - weights}
    say(f"135m {form}, anonymous memory after load {anonymous:.0f} MiB: weights {weights:.0f}, {anonymous - weights:.0f} beside them "
        f"(the cache of {cache:.0f} MiB is touched as it fills)")
    goal_line(anonymous, weights + cache + 100e6 / (1 << 20), "at most")
    with serving("spillway", args, "demo", "--log-level", "warn") as s:
        s.load(clients=8, requests=1000, prompt_digits=40, max_tokens=4, seed=7)
        before = s.memory_mib("Anonymous")
        s.load(clients=8, requests=10000, prompt_digits=40, max_tokens=4)
        after = s.memory_mib("Anonymous")
    out |= {"before_mib": before, "after_mib": after, "growth_mib": after - before}
    say(f"demo, anonymous memory after 1,000 requests {before:.1f} MiB, after 10,000 more {after:.1f}: growth {after - before:+.2f} MiB")
    return out


def bench_scheduler(args):
    program = BUILD / "bench/bench_scheduler"
    if not program.exists():
        return not_there("bench_scheduler")
    text = subprocess.check_output([program], text=True)
    say(text.rstrip())
    return {"text": text}


def bench_host(args):
    program, library = BUILD / "bench/bench_host", BUILD / "bench/libspillway_no_device.so"
    if not program.exists() or not library.exists():
        return not_there("bench_host")
    text = subprocess.check_output([program, "--library", library], text=True)
    say(text.rstrip())
    return {"text": text}


def bench_exact(args):
    return not_there("a path that is not exact: with a CPU --decode fast is what --decode exact is, so that costs nothing")


BENCHES = {"read": bench_read, "model": bench_model, "streams": bench_streams, "guess": bench_guess, "busy": bench_busy, "start": bench_start, "prefix": bench_prefix,
           "tile": bench_tile, "memory": bench_memory, "scheduler": bench_scheduler, "host": bench_host, "exact": bench_exact}


def parse():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--only", default=",".join(BENCHES))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--clients", default="1,4,16,64")
    p.add_argument("--shapes", default="135m,1.7b")
    p.add_argument("--forms", default="bf16,int8,int4")
    p.add_argument("--llama-bench")
    p.add_argument("--llama-server")
    p.add_argument("--llama-models")
    p.add_argument("--onnx-python", help="a Python that has onnx and onnxruntime (bench/onnx_tile.py)")
    p.add_argument("--save", action="store_true")
    args = p.parse_args()
    args.only, args.shapes, args.forms = args.only.split(","), args.shapes.split(","), args.forms.split(",")
    args.clients = [int(n) for n in args.clients.split(",")]
    if set(args.only) - set(BENCHES):
        p.error(f"--only takes {', '.join(BENCHES)}")
    if set(args.forms) - set(GGUF):
        p.error(f"--forms takes {', '.join(GGUF)}")
    if (args.llama_bench or args.llama_server) and not args.llama_models:
        p.error("--llama-bench and --llama-server need --llama-models FOLDER")
    return args


def main():
    args = parse()
    results = {"machine": machine(BUILD), "threads": args.threads, "rounds": args.rounds}
    say(machine_line(results["machine"]))
    m = results["machine"]
    path = ROOT / f"bench/results/cpu-{m['date']}-{m['commit']}.json"
    for name in args.only:
        results[name] = BENCHES[name](args)
        if args.save:  # after each row: what was measured is kept if a later one fails
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    if args.save:
        say(f"saved {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
