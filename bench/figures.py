"""What the benchmark programs share: the machine in words, rounds, medians with their spread, ratios round by round.

Machines are shared: only figures of one run are compared, and a ratio is made within a round, of runs that followed each other.
"""
import datetime
import os
import pathlib
import platform
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


def machine(build):
    """What a figure needs beside it to mean anything."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo if line.startswith("flags")), [])
    simd = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if f in flags]
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) >> 20
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "simd": simd, "memory_gib": memory, "kernel": platform.release().split("-")[0],
            "load": round(os.getloadavg()[0], 1), "date": str(datetime.date.today()), "commit": commit or "unknown",
            "version": subprocess.check_output([build / "spillway", "--version"], text=True).strip()}


def machine_line(m):
    return (f"{m['cpu']}, {m['cpus']} CPUs ({' '.join(m['simd'])}), {m['memory_gib']} GiB, Linux {m['kernel']}, load {m['load']}, {m['date']}, "
            f"{m['version']}, commit {m['commit']}")


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def ratio(ours, theirs):
    """Of pairs measured in turn."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def show(name, s, unit, digits=2):
    print(f"{name:58s} {s['median']:10.{digits}f} {unit:8s} ({s['low']:.{digits}f} to {s['high']:.{digits}f} in {s['n']})", flush=True)


def in_turns(rounds, measures):
    """{name: [value a round]}: every round runs each measure once, so that what the machine does meanwhile meets all of them."""
    values = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return values
