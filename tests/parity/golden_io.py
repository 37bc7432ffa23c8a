"""Reading goldens: safetensors files, the unquantised models' cases, and which rows of their logits are stored. Needs numpy only."""
import json
import struct
from pathlib import Path

import numpy as np

NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I32": "<i4", "I64": "<i8"}


def safetensors_load(path):
    """{name: array}; BF16 becomes float32."""
    raw = Path(path).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    header.pop("__metadata__", None)
    out = {}
    for name, h in header.items():
        start, end = (8 + n + x for x in h["data_offsets"])
        if h["dtype"] == "BF16":
            x = (np.frombuffer(raw[start:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw[start:end], NUMPY_TYPES[h["dtype"]])
        out[name] = x.reshape(h["shape"])
    return out


def unquantised(root):
    """(model, {case name: case}) of every model that a server without quantisation can compute."""
    for folder in sorted((root / "golden").iterdir()):
        config = json.loads((root / "models" / folder.name / "config.json").read_text())
        if "quantization_config" not in config:
            yield folder.name, json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"]


def reference_logits(tensors, n_positions):
    """(positions, rows): all rows, the last 16, or, in a cut set, some by number."""
    if "logits" in tensors:
        return np.arange(n_positions), tensors["logits"]
    if "logits_rows" in tensors:
        return tensors["logits_positions"], tensors["logits_rows"]
    rows = tensors["logits_last16"]
    return np.arange(n_positions - len(rows), n_positions), rows
