"""Runs the Node SDK's tests (sdk.test.mjs) against the same server."""
import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent


def test_node_sdk(server, picture, vlm):
    node = shutil.which("node")
    assert node and (HERE / "node_modules/openai").exists(), "run tools/setup --tests"
    env = {**os.environ, "SPILLWAY_URL": server.url, "SPILLWAY_KEY": server.key, "SPILLWAY_MODEL": vlm, "SPILLWAY_PICTURE": picture()}
    r = subprocess.run([node, "--test", "sdk.test.mjs"], cwd=HERE, env=env, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "# pass 5" in r.stdout, r.stdout
