#!/usr/bin/env python3
"""Speed and memory of this machine's build, as docs/performance.md reports them: `make bench`.

    bench/run.py [--build DIR] [--only start,image,model] [--rounds N] [--threads N]
                 [--llama-bench PROGRAM --llama-model FILE.gguf]     llama.cpp's bench on a BF16 model of the 135M shape, run in turns with ours
                 [--save FILE.json]

Start-up and memory are of `spillway serve demo`; a picture's way from JPEG to tiles is bench_image's; prefill and decode are bench_model's on
random weights. Machines are shared: compare only figures of one run. A ratio is the median over rounds of ours / theirs of the same round.
"""
import argparse
import base64
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request

from figures import ROOT, in_turns, machine, machine_line, ratio, show, spread


def resident_mb(pid):
    """(RSS, PSS) of a process: PSS shares out the pages that several processes map."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return tuple(int(re.search(rf"^{k}:\s+(\d+) kB", rollup, re.M)[1]) / 1000 for k in ("Rss", "Pss"))


def ask_about_a_picture(server):
    data = base64.b64encode((ROOT / "weights/demo/samples/shapes.png").read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}, {"type": "text", "text": "Describe the picture."}]
    body = {"model": "demo", "messages": [{"role": "user", "content": parts}]}
    headers = {"content-type": "application/json", "authorization": "Bearer " + server.key}
    with urllib.request.urlopen(urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(body).encode(), headers), timeout=60) as f:
        f.read()


def bench_start(args):
    from serving import Server
    started, rss, pss = [], [], []
    for _ in range(args.rounds):
        t0 = time.monotonic()
        s = Server("demo")
        started.append(1000 * (time.monotonic() - t0))
        ask_about_a_picture(s)
        sizes = [resident_mb(p) for p in [s.process.pid, *s.children("worker"), *s.children("media")]]
        rss.append(sum(x[0] for x in sizes))
        pss.append(sum(x[1] for x in sizes))
        s.stop()
    out = {"start_ms": spread(started), "rss_mb": spread(rss), "pss_mb": spread(pss), "processes": len(sizes)}
    show("serve demo, exec to ready", out["start_ms"], "ms")
    show(f"resident after an answer, {out['processes']} processes, RSS", out["rss_mb"], "MB")
    show("the same, shared pages counted once (PSS)", out["pss_mb"], "MB")
    return out


def bench_image(args):
    """Best and median of bench_image's steps, in ms, as it prints them."""
    text = subprocess.check_output(["taskset", "-c", str(min(os.sched_getaffinity(0))), BUILD / "bench/bench_image"], text=True)
    print(text.rstrip())
    return {"text": text}


def ours(args, prompt, decode):
    command = [BUILD / "bench/bench_model", "--random-weights", args.shape, "--prompt", str(prompt), "--decode", str(decode), "--repeat", "2", "--threads", str(args.threads)]
    lines = [json.loads(x) for x in subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()]
    return statistics.mean(x["prefill_tokens_per_s" if prompt > 1 else "decode_tokens_per_s"] for x in lines)


def theirs(args, prompt, decode):
    command = [args.llama_bench, "-m", args.llama_model, "-p", str(prompt), "-n", str(decode), "-t", str(args.threads), "-r", "2", "-o", "json"]
    return json.loads(subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL))[0]["avg_ts"]


def bench_model(args):
    out = {}
    for name, ask in (("prefill of 512", (512, 1)), ("decode of 128, from an empty context", (1, 128))):
        measures = {"ours": lambda ask=ask: ours(args, *ask)}
        if args.llama_bench:
            measures["theirs"] = lambda ask=ask: theirs(args, ask[0] if ask[0] > 1 else 0, ask[1] if ask[1] > 1 else 0)
        values = in_turns(args.rounds, measures)
        out[name] = {"ours": spread(values["ours"])}
        show(f"{args.shape} bf16, {name}", out[name]["ours"], "tok/s")
        if args.llama_bench:
            out[name].update(llama_cpp=spread(values["theirs"]), ratio=ratio(values["ours"], values["theirs"]))
            show("    llama.cpp", out[name]["llama_cpp"], "tok/s")
            show("    ratio, round by round", out[name]["ratio"], "")
    return out


BENCHES = {"start": bench_start, "image": bench_image, "model": bench_model}


def main():
    global BUILD
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--only", default=",".join(BENCHES))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--shape", default="135m:1", help="as --random-weights takes it")
    p.add_argument("--llama-bench")
    p.add_argument("--llama-model")
    p.add_argument("--save")
    args = p.parse_args()
    if bool(args.llama_bench) != bool(args.llama_model):
        p.error("--llama-bench and --llama-model go together")
    wanted = args.only.split(",")
    if set(wanted) - set(BENCHES):
        p.error(f"--only takes {', '.join(BENCHES)}")
    BUILD = pathlib.Path(args.build).resolve()
    os.environ["SPILLWAY_BIN"] = str(BUILD / "spillway")
    sys.path.insert(0, str(ROOT / "tests"))
    this = machine(BUILD)
    print(machine_line(this))
    results = {"machine": this, **{name: BENCHES[name](args) for name in wanted}}
    if args.save:
        pathlib.Path(args.save).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
