"""Fixtures of the hub's tests: a hub, a machine (an environment with a home of its own) that pulls from it, and models to pull."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))      # hub_server.py
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # serving.py
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))  # screen.py
from hub_server import Hub  # noqa: E402
from serving import BIN, DEMO  # noqa: E402

FILES = {f.name: f.read_bytes() for f in DEMO.iterdir() if f.suffix in (".json", ".jinja", ".safetensors")}


class Machine:
    def __init__(self, hub, home):
        self.home = home
        self.hub_folder = home / "hf" / "hub"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "SPILLWAY_API")) and not k.lower().endswith("_proxy")}
        self.env = {**inherited, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url, "XDG_DATA_HOME": str(home / "data")}

    def run(self, *args, timeout=60, **env):
        return subprocess.run([BIN, *map(str, args)], capture_output=True, text=True, timeout=timeout, cwd=self.home, env=self.with_(**env))

    def with_(self, **env):
        return {k: v for k, v in {**self.env, **env}.items() if v is not None}

    def start(self, *args, **env):
        return subprocess.Popen([BIN, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.home, env=self.with_(**env))

    def pull(self, name="owner/model", *args, **env):
        return self.run("pull", name, "--retries", 1, *args, **env)

    def folder(self, name="owner/model"):
        return self.hub_folder / ("models--" + name.replace("/", "--"))

    def snapshot(self, repo):
        return self.folder(repo.name) / "snapshots" / repo.commit

    def blob(self, repo, file):
        return self.folder(repo.name) / "blobs" / repo.etag(file)

    def names(self):
        """Every path below the cache but locks."""
        return sorted(str(p.relative_to(self.hub_folder)) for p in self.hub_folder.rglob("*") if ".locks" not in p.parts) if self.hub_folder.exists() else []


@pytest.fixture
def hub():
    with Hub() as h:
        yield h


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(hub, tmp_path)


@pytest.fixture
def repo(hub):
    """The demo model, and what lies beside models and is not needed."""
    return hub.add("owner/model", {**FILES, "README.md": b"# read me", "pytorch_model.bin": b"\x80\x02pickle", "onnx.onnx": b"o", ".gitattributes": b"x"})


def split(weights):
    """A safetensors file as two shards and their index."""
    n = int.from_bytes(weights[:8], "little")
    header, data = json.loads(weights[8:8 + n]), weights[8 + n:]
    names = sorted((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    files, where = {}, {}
    for i, part in enumerate((names[:len(names) // 2], names[len(names) // 2:]), 1):
        file, body, head = f"model-0000{i}-of-00002.safetensors", b"", {}
        for k in part:
            a, b = header[k]["data_offsets"]
            head[k] = {**header[k], "data_offsets": [len(body), len(body) + b - a]}
            body += data[a:b]
            where[k] = file
        text = json.dumps(head).encode()
        files[file] = len(text).to_bytes(8, "little") + text + body
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return files


@pytest.fixture
def sharded(hub):
    files = {f: d for f, d in FILES.items() if f != "model.safetensors"}
    return hub.add("owner/sharded", {**files, **split(FILES["model.safetensors"]), "pytorch_model-00001-of-00002.bin": b"\x80"})
