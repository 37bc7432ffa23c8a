"""Fixtures of the command-line tests: the program, the golden models, and broken copies of them."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("SPILLWAY_GOLDEN_DIR", ROOT / "build/golden"))
BIN = os.environ.get("SPILLWAY_BIN", str(ROOT / "build/spillway"))


@pytest.fixture(scope="session")
def spillway():
    """Runs the program; returns the finished process with text output."""
    def run(*args, stdin="", timeout=120):
        return subprocess.run([BIN, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=timeout)
    return run


@pytest.fixture(scope="session")
def program():
    return BIN


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture
def broken(tmp_path):
    """A copy of a golden model's folder to be damaged."""
    def make(name="smollm2-f32"):
        return pathlib.Path(shutil.copytree(GOLDEN / "models" / name, tmp_path / name))
    return make


class Safetensors:
    """Just enough of the format to damage it on purpose."""

    def __init__(self, path):
        self.path = path
        raw = path.read_bytes()
        n = int.from_bytes(raw[:8], "little")
        self.header, self.data = json.loads(raw[8:8 + n]), raw[8 + n:]

    def write(self):
        head = json.dumps(self.header).encode()
        self.path.write_bytes(len(head).to_bytes(8, "little") + head + self.data)


@pytest.fixture
def safetensors():
    return lambda folder: Safetensors(folder / "model.safetensors")
