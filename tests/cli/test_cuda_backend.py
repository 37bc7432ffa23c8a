"""How the CUDA backend is opened: what is wrong with its library or its device is an error of its own, and the CPU is never taken instead."""
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HAS_GPU = any(os.path.exists(p) for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
without_gpu = pytest.mark.skipif(HAS_GPU, reason="there is an NVIDIA device")


def library(folder, text):
    """A library of C source; the backend's place is its path."""
    source, out = folder / "backend.c", folder / "libspillway_cuda.so"
    source.write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", out, source], check=True)
    return out


def absent(folder):
    return folder / "none.so"


def text_file(folder):
    (folder / "text.so").write_text("no library\n" * 100)
    return folder / "text.so"


def empty_file(folder):
    (folder / "empty.so").touch()
    return folder / "empty.so"


def a_folder(folder):
    return folder


def foreign(folder):
    return library(folder, "int something_else(void) { return 1; }\n")


def lacks_a_symbol(folder):
    return library(folder, "int cuda_gone(void); const void *spillway_cuda_ops(unsigned v) { return cuda_gone() ? 0 : &v; }\n")


def of_another_version(folder):
    return library(folder, "const void *spillway_cuda_ops(unsigned v) { static int t; return v == 999 ? &t : 0; }\n")


@pytest.fixture(scope="session")
def real_library(program, tmp_path_factory):
    """Where it is built, the library itself; else the run-time and the file that opens devices, and stubs where without one nothing gets to."""
    built = pathlib.Path(program).parent / "libspillway_cuda.so"
    if built.exists():
        return built
    if not NVCC:
        pytest.skip("no nvcc")
    at = tmp_path_factory.mktemp("cuda")
    device = ROOT / "kernels/cuda/cuda_device.cu"
    subprocess.run([NVCC, "-std=c++17", "-arch=sm_80", f"-I{ROOT}", "-Xcompiler=-fPIC", "-c", device, "-o", at / "device.o"], check=True)
    subprocess.run(["cc", "-std=gnu17", "-fPIC", f"-I{ROOT}", "-c", ROOT / "base/err.c", ROOT / "base/str.c"], check=True, cwd=at)
    symbols = subprocess.run(["nm", "-u", at / "device.o"], capture_output=True, text=True, check=True).stdout.split()
    stubs = [s for s in symbols if s.startswith(("cuda_", "_Z")) and "cuda_" in s]
    (at / "stubs.c").write_text("".join(f"int {s}(void) {{ return 0; }}\n" for s in stubs))
    subprocess.run(["cc", "-fPIC", "-c", "stubs.c"], check=True, cwd=at)
    objects = [at / f"{name}.o" for name in ("device", "err", "str", "stubs")]
    subprocess.run([NVCC, "-shared", "-cudart", "static", "-o", at / "libspillway_cuda.so", *objects], check=True)
    return at / "libspillway_cuda.so"


FAULTS = [
    (absent, "cuda: the backend {}: No such file or directory"),
    (text_file, "cuda: the backend cannot be opened: {}: invalid ELF header"),
    (empty_file, "cuda: the backend cannot be opened: {}: file too short"),
    (a_folder, "cuda: the backend cannot be opened: {}: cannot read file data: Is a directory"),
    (foreign, "cuda: {} is no backend of Spillway"),
    (lacks_a_symbol, "cuda: the backend cannot be opened: {}: undefined symbol: cuda_gone"),
    (of_another_version, "cuda: {} is of another version than this program: build and install both together"),
]


def runs(spillway, command, *args):
    extra = {"generate": ("demo", "--prompt", "Hi", "--max-tokens", "1"), "serve": ("demo", "--no-auth", "--listen", "127.0.0.1:0")}[command]
    return spillway(command, *extra, *args)


@pytest.mark.parametrize("command", ["generate", "serve"])
@pytest.mark.parametrize("make, says", FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_library_that_cannot_be_used_is_told(spillway, tmp_path, command, make, says):
    path = make(tmp_path)
    r = runs(spillway, command, "--device", "cuda", "--cuda-library", path)
    assert r.returncode == 1 and r.stdout == ""
    assert says.format(path) in r.stderr


@pytest.mark.parametrize("command", ["generate", "serve"])
def test_a_program_without_the_library_says_how_to_get_it(spillway, program, command):
    if (pathlib.Path(program).parent / "libspillway_cuda.so").exists():
        pytest.skip("it is built")
    r = runs(spillway, command, "--device", "cuda")
    assert r.returncode == 1
    assert f"cuda: libspillway_cuda.so is not beside the program ({pathlib.Path(program).parent}): this build has the CPU backend only" in r.stderr


@without_gpu
@pytest.mark.parametrize("command", ["generate", "serve"])
def test_a_machine_without_a_device_is_told(spillway, real_library, command):
    r = runs(spillway, command, "--device", "cuda", "--cuda-library", real_library)
    assert r.returncode == 1 and "cuda: no device: " in r.stderr


@without_gpu
def test_auto_runs_on_the_cpu_where_no_device_is(spillway, tmp_path):
    r = runs(spillway, "generate", "--cuda-library", text_file(tmp_path))
    assert r.returncode == 0 and "cuda" not in r.stderr


def test_a_bare_name_is_a_file_here_and_no_library_of_the_system(program, tmp_path):
    words = ["generate", "demo", "--prompt", "Hi", "--device", "cuda", "--cuda-library", "libm.so.6"]
    r = subprocess.run([program, *words], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 1 and "cuda: the backend libm.so.6: No such file or directory" in r.stderr
