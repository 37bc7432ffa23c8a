"""kernels/cuda/CMakeLists.txt with the real nvcc: what an object holds is what SPILLWAY_CUDA_ARCHS asks for, and PTX for cards to come."""
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MAGIC = b"\x50\xed\x55\xba"
KINDS = {1: "ptx", 2: "elf"}


def find_nvcc():
    packages = ROOT.glob("build/venv-cuda/lib/python*/site-packages/nvidia/cu13/bin/nvcc")  # tools/setup --cuda
    return next((found for p in ("nvcc", "/usr/local/cuda/bin/nvcc", *packages) if (found := shutil.which(p))), None)


def contents(file):
    """Kind and architecture of each entry of each fatbin: a header of 16 bytes (magic, version, its size, bytes that follow), then entries
    (kind, version, size of this header, bytes that follow it; the architecture at 28), whose code may be compressed, but not their headers."""
    data, found, at = file.read_bytes(), set(), 0
    while (at := data.find(MAGIC, at)) >= 0:
        _, header, size = struct.unpack_from("<HHQ", data, at + 4)
        entry, end = at + header, at + header + size
        at += 1
        if header != 16 or end > len(data):
            continue
        while entry < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, entry)
            found.add((KINDS[kind], struct.unpack_from("<I", data, entry + 28)[0]))
            entry += header + size
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    nvcc = find_nvcc()
    if not nvcc:
        pytest.skip("there is no nvcc (tools/setup --cuda installs one)")
    build = tmp_path_factory.mktemp("build")

    def run(*options):
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Unix Makefiles", "-DSPILLWAY_CUDA=ON", f"-DSPILLWAY_NVCC={nvcc}", *options],
                       check=True, capture_output=True)
        make = ["make", "-C", build, "-f", "kernels/cuda/CMakeFiles/spillway_cuda.dir/build.make", "kernels/cuda/plan.o"]
        subprocess.run(make, check=True, capture_output=True)
        return contents(build / "kernels/cuda/plan.o")
    return run


def test_the_default_has_code_for_six_kinds_of_cards_and_ptx_of_the_last(built):
    assert built() == {("elf", 80), ("elf", 86), ("elf", 89), ("elf", 90), ("elf", 100), ("elf", 120), ("ptx", 120)}


def test_there_is_no_ptx_of_an_architecture_whose_ptx_runs_on_nothing_newer(built):
    assert built("-DSPILLWAY_CUDA_ARCHS=80;90a") == {("elf", 80), ("elf", 90)}
