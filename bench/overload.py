#!/usr/bin/env python3
"""T60: what becomes of a server that is asked for more than it can do.

    bench/overload.py [--model demo] [--seconds 30] [--loads 1,2,10] [--clients 16] [--prompt-words 40] [--max-tokens 32] [--seed 1] [--json FILE] [-- SERVE OPTIONS]

Capacity is what --clients in a closed loop get (answers a second). Then requests come at random (Poisson, seeded) at 1x, 2x and 10x of it, whatever becomes
of those before: nobody waits for a free server, nobody tries again. Each answer is streamed; latency is from sending the request to the last byte of a whole
answer. The bounds of T60: goodput (tokens of whole answers a second) at the highest load is at least 90 % of that at 1x; the 99th percentile of the latency
of admitted requests is at most twice that at 1x; the rest is 429 or 503 with Retry-After. The client runs on the same machine: its share of the processor is
printed, and is taken from the server: with the built-in model, which answers a hundred requests a second on two processors, ten times the load is a thousand
connections a second, and what they cost is what is measured. A slower model, such as that of bench/make_checkpoint.py, shows what the server does:

    bench/overload.py --model build/bench-models/135m -- --quant int8
"""
import argparse
import asyncio
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORDS = "red blue green circle square star small large left right above below one two three picture draw heart moon".split()
GOODPUT_SHARE, LATENCY_FACTOR = 0.9, 2.0

Answer = collections.namedtuple("Answer", "at_s took_s first_s status retry_after tokens whole")


def request_bytes(args, rng):
    """Prompts differ, so that a prefix cache does not make the work less than it seems."""
    text = " ".join(rng.choice(WORDS) for _ in range(args.prompt_words))
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": args.max_tokens, "ignore_eos": True, "stream": True,
                       "temperature": 0}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def ask(port, data, begun):
    """One request over a connection of its own. status 0: the connection failed."""
    sent = time.monotonic()
    got, first_s = bytearray(), None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        while some := await reader.read(65536):
            got += some
            if first_s is None and b'"content":"' in got and got.count(b"data: ") > 1:
                first_s = time.monotonic() - sent
        writer.close()
    except OSError:
        pass
    took_s = time.monotonic() - sent
    head = bytes(got[:got.find(b"\r\n\r\n")]).decode("latin-1").lower()
    status = int(head[9:12]) if head.startswith("http/1.1 ") else 0
    retry = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("retry-after:")), None)
    whole = status == 200 and b"data: [DONE]" in got
    return Answer(sent - begun, took_s, first_s, status, retry, got.count(b'"delta":{"content"'), whole)


async def closed_loop(port, args, seconds):
    rng, begun, answers = random.Random(args.seed), time.monotonic(), []

    async def client():
        while time.monotonic() - begun < seconds:
            answers.append(await ask(port, request_bytes(args, rng), begun))
    await asyncio.gather(*(client() for _ in range(args.clients)))
    return answers, time.monotonic() - begun


async def open_loop(port, args, rate, seconds):
    rng, begun, tasks, due = random.Random(args.seed), time.monotonic(), [], 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        wait = begun + due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(ask(port, request_bytes(args, rng), begun)))
    answers = await asyncio.gather(*tasks)
    return answers, time.monotonic() - begun


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def summary(answers, wall_s, max_tokens):
    whole = [a for a in answers if a.whole]
    refused = [a for a in answers if a.status in (429, 503)]
    return {"requests": len(answers), "whole": len(whole), "refused": len(refused), "without_retry_after": sum(a.retry_after is None for a in refused),
            "other": len(answers) - len(whole) - len(refused), "wall_s": wall_s, "goodput_tokens_per_s": len(whole) * max_tokens / wall_s,
            "latency_p50_s": percentile([a.took_s for a in whole], 0.5), "latency_p99_s": percentile([a.took_s for a in whole], 0.99),
            "first_token_p99_s": percentile([a.first_s for a in whole if a.first_s], 0.99), "refused_p99_s": percentile([a.took_s for a in refused], 0.99),
            "retry_after_max_s": max((a.retry_after or 0 for a in refused), default=0)}


@contextlib.contextmanager
def serving(args):
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open(folder + "/log", "w+") as log:
        process = subprocess.Popen([ROOT / "build/spillway", "serve", args.model, "--name", "demo", "--no-auth", "--listen", "127.0.0.1:0", "--log-level", "info", *args.options],
                                   stderr=log, stdin=subprocess.DEVNULL)
        try:
            for _ in range(600):
                time.sleep(0.1)
                text = pathlib.Path(folder, "log").read_text()
                if "Ready in" in text:
                    break
                if process.poll() is not None:
                    sys.exit(text)
            yield int(text.split("Ready in", 1)[1].split("/v1")[0].rsplit(":", 1)[1])
        finally:
            process.terminate()
            process.wait(60)


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "date": str(datetime.date.today()), "load": round(os.getloadavg()[0], 1),
            "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()}


def client_share(before, wall_s):
    now = resource.getrusage(resource.RUSAGE_SELF)
    return (now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime) / wall_s


def show(name, s, client):
    print(f"{name:>8s} {s['requests']:7d} {s['whole']:7d} {s['refused']:8d} {s['other']:6d} {s['goodput_tokens_per_s']:10.0f} {s['latency_p50_s']:8.2f} {s['latency_p99_s']:8.2f} "
          f"{s['first_token_p99_s']:8.2f} {s['refused_p99_s']:9.3f} {s['retry_after_max_s']:6d} {client:7.0%}", flush=True)


def verdict(results, loads):
    one, most = results[f"{loads[0]:g}x"], results[f"{loads[-1]:g}x"]
    share = most["goodput_tokens_per_s"] / one["goodput_tokens_per_s"]
    factor = most["latency_p99_s"] / one["latency_p99_s"]
    clean = all(r["without_retry_after"] == 0 and r["other"] == 0 for r in results.values())
    held = {"goodput": share >= GOODPUT_SHARE, "p99": factor <= LATENCY_FACTOR, "refusals": clean}
    print(f"goodput at {loads[-1]:g}x: {share:.0%} of that at {loads[0]:g}x (at least 90 %: {'holds' if held['goodput'] else 'MISSED'})")
    print(f"p99 of admitted at {loads[-1]:g}x: {factor:.2f} times that at {loads[0]:g}x (at most 2: {'holds' if held['p99'] else 'MISSED'})")
    print(f"the rest is 429 or 503 with Retry-After: {'holds' if clean else 'MISSED'}")
    return {"goodput_share": share, "p99_factor": factor, "held": held}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="demo")
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--loads", default="1,2,10")
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--prompt-words", type=int, default=40)
    p.add_argument("--max-tokens", type=int, default=32)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json")
    p.add_argument("options", nargs="*", help="options of `spillway serve`, after --")
    args = p.parse_args()
    loads = [float(x) for x in args.loads.split(",")]
    results, about = {}, machine()
    print(json.dumps(about))
    with serving(args) as port:
        asyncio.run(closed_loop(port, args, 2))  # warm
        answers, wall_s = asyncio.run(closed_loop(port, args, max(5, args.seconds / 3)))
        rate = sum(a.whole for a in answers) / wall_s
        print(f"capacity: {rate:.1f} answers/s of {args.max_tokens} tokens, {args.clients} clients in a closed loop")
        print("    load  asked    whole  refused  other   tokens/s  p50 s    p99 s    first99  refuse99  retry  client")
        for load in loads:
            before = resource.getrusage(resource.RUSAGE_SELF)
            answers, wall_s = asyncio.run(open_loop(port, args, load * rate, args.seconds))
            results[f"{load:g}x"] = summary(answers, wall_s, args.max_tokens)
            show(f"{load:g}x", results[f"{load:g}x"], client_share(before, wall_s))
    end = verdict(results, loads)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"machine": about, "options": vars(args), "capacity_per_s": rate, "results": results, **end}, indent=1) + "\n")
    sys.exit(0 if all(end["held"].values()) else 1)


if __name__ == "__main__":
    main()
