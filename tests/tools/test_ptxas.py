"""tools/ptxas with a compiler that only says what nvcc says: a tree that agrees with its record, and one fault each."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
KERNEL = "_ZN39_GLOBAL__N__55b85ed9_7_norm_cu_76d2d96311norm_kernelILi4ELNS_6sourceE2EEEvNS_9norm_argsE"
NVCC = """#!/bin/sh
if [ "$1" = --version ]; then echo 'Cuda compilation tools, release 13.0, V{version}'; exit; fi
while [ $# -gt 0 ]; do [ "$1" = --keep-dir ] && keep=$2; shift; done
for sm in 80 90a; do
    echo "ptxas info    : Compiling entry function '{kernel}' for 'sm_$sm'
ptxas info    : Function properties for {kernel}
    {spill} bytes stack frame, {spill} bytes spill stores, {spill} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem, 448 bytes cmem[0]" >&2
    echo '.visible .entry {kernel}(
    .param .align 8 .b8 a[48]
)
{bounds}
{{' > "$keep/norm.compute_$sm.ptx"
done
"""
SOUND = {"version": "13.0.88", "kernel": KERNEL, "spill": 0, "registers": 40, "shared": 32, "bounds": ".maxntid 256, 1, 1"}


@pytest.fixture
def tree(tmp_path):
    """Runs the tool on a tree with one kernel, and a compiler that says SOUND but for what is named."""
    for folder in ("kernels/cuda", "bench"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kernels/cuda/norm.cu").write_text("__global__ void norm_kernel();\n")
    (tmp_path / "kernels/cuda/plan.cu").write_text("int no_kernel_here;\n")

    def run(*args, **said):
        nvcc = tmp_path / "nvcc"
        nvcc.write_text(NVCC.format(**{**SOUND, **said}))
        nvcc.chmod(0o755)
        done = subprocess.run([sys.executable, "-B", ROOT / "tools/ptxas", "--root", tmp_path, "--nvcc", nvcc, *args], capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, done.stdout
    assert run("--write") == (0, "1 kernels for sm_80 and sm_90a: no spills\n")
    run.root = tmp_path
    return run


def test_the_record_names_kernel_and_template_arguments_and_what_an_sm_holds(tree):
    record = json.loads((tree.root / "bench/ptxas.json").read_text())
    row = {"registers": 40, "spill_bytes": 0, "shared_bytes": 32, "stack_bytes": 0, "threads": 256, "blocks_per_sm": 6, "warps_per_sm": 48}
    assert record == {"nvcc": "13.0.88", "kernels": {"norm.cu norm_kernel<4, (source)2>": {"sm_80": row, "sm_90a": row}}}


def test_what_agrees_passes(tree):
    assert tree() == (0, "1 kernels for sm_80 and sm_90a: no spills\n")


@pytest.mark.parametrize("said, fault", [
    ({"spill": 4}, "norm.cu norm_kernel<4, (source)2> on sm_80 spills 4 bytes"),
    ({"registers": 41}, "norm.cu norm_kernel<4, (source)2> on sm_90a: registers 40 -> 41"),
    ({"shared": 80 << 10}, "norm.cu norm_kernel<4, (source)2> on sm_80: blocks_per_sm 6 -> 2"),
    ({"shared": 80 << 10}, "norm.cu norm_kernel<4, (source)2> on sm_90a: blocks_per_sm 6 -> 2"),
    ({"bounds": ""}, "norm.cu norm_kernel<4, (source)2> has no __launch_bounds__"),
    ({"kernel": KERNEL.replace("11norm_kernel", "11soft_kernel")}, "norm.cu norm_kernel<4, (source)2> is gone"),
    ({"kernel": KERNEL.replace("11norm_kernel", "11soft_kernel")}, "norm.cu soft_kernel<4, (source)2> is new"),
])
def test_a_difference_is_a_fault(tree, said, fault):
    code, out = tree(**said)
    assert code == 1 and fault in out.splitlines()


def test_registers_of_another_compiler_are_not_compared(tree):
    code, out = tree(version="13.1.12", registers=48)
    assert code == 0 and "registers not compared: the record is of nvcc 13.0.88, this is 13.1.12" in out


def test_spills_of_another_compiler_are_a_fault(tree):
    assert tree(version="13.1.12", spill=8)[0] == 1


def test_a_spill_is_told_when_it_is_recorded(tree):
    code, out = tree("--write", spill=8)
    assert code == 1 and "spills 8 bytes" in out


def test_without_a_compiler_it_says_so_and_is_skipped(tmp_path):
    done = subprocess.run([sys.executable, "-B", ROOT / "tools/ptxas", "--root", tmp_path, "--nvcc", tmp_path / "none"],
                          capture_output=True, text=True, env={**os.environ, "PATH": "/usr/bin"})
    assert done.returncode == 77 and "no nvcc" in done.stdout
