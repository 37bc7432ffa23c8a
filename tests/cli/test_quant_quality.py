"""What quantising costs the demo model, held against plain round to nearest of its weights: the limits of --quant, --kv-dtype and --quant-head.

The reference is a checkpoint of the same numbers rounded in NumPy (float32 scales of the largest weight), so only weights are rounded there; ours
also rounds activations to 8 bits."""
import json
import pathlib
import shutil

import numpy as np
import pytest

MODEL = pathlib.Path(__file__).resolve().parents[2] / "weights/demo/model"


def nearest(w, bits, group):
    """Rows of w rounded to whole multiples of (largest of a group) / 127 or / 7."""
    top = {8: 127, 4: 7}[bits]
    x = np.pad(w, ((0, 0), (0, -w.shape[1] % group))).reshape(len(w), -1, group)
    scale = np.abs(x).max(-1, keepdims=True) / top
    q = np.round(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0))
    return (q * scale).reshape(len(w), -1)[:, :w.shape[1]]


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """rounded(bits): the demo model with its layers rounded so, head and embedding to 8 bits."""
    def make(bits):
        folder = tmp_path_factory.mktemp(f"rounded{bits}")
        for path in MODEL.iterdir():
            if path.suffix in (".json", ".jinja"):
                shutil.copy(path, folder)
        raw = (MODEL / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        header.pop("__metadata__", None)
        data, made = bytearray(), {}
        for name, t in header.items():
            begin, end = t["data_offsets"]
            w = (np.frombuffer(raw[start + begin:start + end], "<u2").astype("<u4") << 16).view("<f4").reshape(t["shape"])
            if "text_model.layers" in name and name.endswith("proj.weight"):
                w = nearest(w, bits, 32 if bits == 4 else w.shape[1])
            elif "embed_tokens" in name or name.startswith("lm_head"):
                w = nearest(w, 8, w.shape[1])
            made[name] = {"dtype": "F32", "shape": t["shape"], "data_offsets": [len(data), len(data) + 4 * w.size]}
            data += w.astype("<f4").tobytes()
        text = json.dumps(made).encode()
        text += b" " * (-len(text) % 8)
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        return folder
    return make


def loss(spillway, *args):
    r = spillway("eval", "demo", "--compute", "f32", *args, "--json")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def test_int4_loses_no_more_than_round_to_nearest(spillway, rounded):
    plain, ours = loss(spillway, "--against", rounded(4)), loss(spillway, "--against-quant", "int4")
    assert 1e-3 < ours["kl_mean"] <= plain["kl_mean"] and ours["same_top"] >= plain["same_top"] - 0.01


def test_int8_loses_no_more_than_round_to_nearest_of_weights_and_activations(spillway, rounded):
    plain, ours = loss(spillway, "--against", rounded(8)), loss(spillway, "--against-quant", "int8")
    assert 1e-5 < ours["kl_mean"] <= 2 * plain["kl_mean"]  # activations are rounded as finely as weights: as much again
    assert ours["same_top"] >= plain["same_top"] - 0.01


def test_int8_cache_loses_less_than_int8_weights(spillway):
    cache, weights = loss(spillway, "--against-kv-dtype", "int8"), loss(spillway, "--against-quant", "int8")
    assert 0 < cache["kl_mean"] < weights["kl_mean"] / 4
