"""What quantising costs the demo model, held against plain round to nearest of its weights: the limits of --quant, --kv-dtype and --quant-head.

The reference is a checkpoint of the same numbers rounded in NumPy (float32 scales of the largest weight), so only weights are rounded there; ours
also rounds activations to 8 bits. And a checkpoint that is fp8 already is what --quant fp8 makes of the one it was made from."""
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


E4M3 = np.array([(m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0**(e - 7)) for e in range(16) for m in range(8)], np.float32)[:127]


def nearest_e4m3(w):
    """Bytes of e4m3 and the float32 scale of each row, the largest size over 448."""
    most = np.abs(w).max(-1, keepdims=True).astype(np.float32)
    x = np.abs(w * (np.float32(448) / most)).astype(np.float32)
    step = 2.0**(np.maximum(np.floor(np.log2(np.maximum(x, 2.0**-20))), -6) - 3)
    size = np.minimum(np.round(x / step) * step, 448).astype(np.float32)  # to even
    q = np.searchsorted(E4M3, size)
    assert (E4M3[q] == size).all()
    return (q + 128 * (w < 0)).astype(np.uint8), most / np.float32(448)


def demo_tensors():
    raw = (MODEL / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    for name, t in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            yield name, (np.frombuffer(raw[start + begin:start + end], "<u2").astype("<u4") << 16).view("<f4").reshape(t["shape"])


def write_model(folder, tensors, more=None):
    """The demo's folder with these tensors, float32 or bytes of e4m3, and `more` in its config.json."""
    for path in MODEL.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | (more or {})))
    data, made = bytearray(), {}
    for name, w in tensors:
        bytes_ = w.tobytes() if w.dtype == np.uint8 else w.astype("<f4").tobytes()
        made[name] = {"dtype": "F8_E4M3" if w.dtype == np.uint8 else "F32", "shape": list(w.shape), "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(made).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def is_layer(name):
    return "text_model.layers" in name and name.endswith("proj.weight")


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """rounded(bits): the demo model with its layers rounded so, head and embedding to 8 bits; rounded("fp8"): all of them to e4m3."""
    def one(name, w, bits):
        if not is_layer(name) and "embed_tokens" not in name and not name.startswith("lm_head"):
            return w
        if bits == "fp8":
            q, scale = nearest_e4m3(w)
            return np.where(q < 128, 1, -1) * E4M3[q % 128] * scale
        return nearest(w, bits if is_layer(name) else 8, 32 if bits == 4 and is_layer(name) else w.shape[1])

    def make(bits):
        return write_model(tmp_path_factory.mktemp(f"rounded{bits}"), ((name, one(name, w, bits)) for name, w in demo_tensors()))
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


def test_fp8_loses_no_more_than_round_to_nearest_of_weights_and_activations(spillway, rounded):
    plain, ours = loss(spillway, "--against", rounded("fp8")), loss(spillway, "--against-quant", "fp8")
    assert 1e-5 < ours["kl_mean"] <= 2 * plain["kl_mean"]  # activations are off by the same share of each number as weights: as much again
    assert ours["same_top"] >= plain["same_top"] - 0.02


def test_fp8_cache_loses_less_than_fp8_weights(spillway):
    cache, weights = loss(spillway, "--against-kv-dtype", "fp8"), loss(spillway, "--against-quant", "fp8")
    assert 0 < cache["kl_mean"] < weights["kl_mean"] / 2


# --- checkpoints of compressed-tensors, scheme FP8_DYNAMIC ---

def scheme(strategy, **more):
    return {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "group_size": None, "block_structure": None, **more}


def quantization(weights=None, activations=None, **more):
    group = {"weights": weights or scheme("channel", dynamic=False), "input_activations": activations or scheme("token", dynamic=True),
             "output_activations": None, "targets": ["Linear"]}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", "kv_cache_scheme": None, "ignore": ["lm_head"],
                                    "quantization_status": "compressed", "config_groups": {"group_0": group}, **more}}


def fp8_tensors(change=None):
    for name, w in demo_tensors():
        if is_layer(name):
            q, scale = nearest_e4m3(w)
            yield name, q
            if change != "no scale":
                yield name + "_scale", scale[:1] if change == "one scale" else scale
        else:
            yield name, w


def test_an_fp8_checkpoint_is_what_quant_fp8_makes(spillway, tmp_path):
    """Not a bit between them: the same bytes, the same scales."""
    folder = write_model(tmp_path, fp8_tensors(), quantization())
    r = spillway("eval", "demo", "--quant", "fp8", "--quant-head", "none", "--against", folder, "--against-quant", "none", "--json")
    assert r.returncode == 0, r.stderr
    d = json.loads(r.stdout)
    assert d["kl_mean"] == 0 and d["kl_max"] == 0 and d["same_top"] == 1
    r = spillway("eval", "demo", "--quant", "fp8", "--quant-head", "none", "--against", folder, "--against-quant", "int8", "--json")
    assert r.returncode == 0 and json.loads(r.stdout)["kl_mean"] > 0  # another form can be made of it


@pytest.mark.parametrize("config, change, word", [
    (quantization(activations=scheme("tensor", dynamic=False)), None, "input_activations.strategy 'tensor'"),
    (quantization(activations=scheme("token", dynamic=False)), None, "input_activations.dynamic: only true"),
    (quantization(weights=scheme("block", dynamic=False)), None, "weights.strategy 'block'"),
    (quantization(weights=scheme("channel", dynamic=False) | {"num_bits": 4}), None, "weights.num_bits"),
    (quantization(weights=scheme("channel", dynamic=False) | {"type": "int"}), None, "weights.type 'int'"),
    (quantization(format="pack-quantized"), None, "format 'pack-quantized'"),
    (quantization(kv_cache_scheme={}), None, "kv_cache_scheme"),
    (quantization(config_groups={}), None, "config_groups"),
    (quantization(quant_method="fp8"), None, "quant_method 'fp8'"),
    (quantization(), "no scale", "q_proj.weight_scale"),
    (quantization(), "one scale", "[1, 1]"),
    ({}, None, "F8_E4M3"),
], ids=lambda x: "" if isinstance(x, dict) or x is None else x)
def test_other_fp8_checkpoints_are_refused_by_name(config, change, word, spillway, tmp_path):
    folder = write_model(tmp_path, fp8_tensors(change), config)
    r = spillway("eval", folder, "--json")
    assert r.returncode != 0 and word in r.stderr, r.stderr
