"""Random weights as a pure function of (seed, model, tensor name), and the safetensors files they are stored in.

Integers up to one float32 product, no library's random generator, so every machine makes the same bytes. That is why the committed
goldens carry no weights: weights.json lists a folder's tensors, and restore() writes its files again and checks their sha256.
Needs numpy only.
"""

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np

f4 = np.float32
RECIPE = "weights.json"


def bits64(seed, tag, name, n):
    """n words: splitmix64 started from a hash of what the tensor is."""
    start = int.from_bytes(hashlib.sha256(f"{seed}/{tag}/{name}".encode()).digest()[:8], "little")
    z = np.uint64(start) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # arrays wrap silently
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def normal(words):
    """Mean 0, deviation 1: the sum of four 16-bit fields, near enough to a normal distribution for test weights."""
    total = sum(((words >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.int32) for s in (0, 16, 32, 48))
    return (total - 131070).astype(f4) * f4(1 / math.sqrt(4 * (65536**2 - 1) / 12))


def tensor(seed, tag, name, shape, tied):
    """The float32 master copy of one tensor. Scales keep logits at a deviation of about 4 and greedy answers varied."""
    words = bits64(seed, tag, name, math.prod(shape))
    if "norm" in name and name.endswith("weight"):
        x = f4(0.6) + f4(0.8) * ((words >> np.uint64(40)).astype(f4) * f4(2**-24))
        if name.endswith("text_model.norm.weight") or name == "model.norm.weight":
            x = np.where(words & np.uint64(1), x, -x)  # keeps a tied head from simply repeating the current token
        return x.reshape(shape)
    if name.endswith("embed_tokens.weight"):
        scale = 0.35 if tied else 1.0
    elif name.endswith("lm_head.weight"):
        scale = 0.35
    elif name.endswith("position_embedding.weight"):
        scale = 0.6
    elif name.endswith("bias"):
        scale = 0.1
    else:
        gain = 1.8 if "patch_embedding" in name else 1.15 if "q_proj" in name or "k_proj" in name else 0.8
        scale = gain / math.sqrt(math.prod(shape[1:]))
    return (normal(words) * f4(scale)).reshape(shape)


def to_bf16(x):
    """Round to nearest, ties to even; the upper halves as uint16. x is finite."""
    u = x.astype(f4).view(np.uint32)
    return ((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def safetensors_bytes(tensors, dtype):
    """tensors: (name, float32 array) pairs. The header is padded so that data starts at a multiple of 8."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, x in tensors:
        raw = (to_bf16(x) if dtype == "BF16" else x.astype("<f4")).tobytes()
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(blobs)


def file_bytes(recipe, entry):
    s, t, tied = recipe["seed"], recipe["tag"], recipe["tied"]
    return safetensors_bytes([(n, tensor(s, t, n, shape, tied)) for n, shape in entry["tensors"]], recipe["dtype"])


def save(folder, seed, tag, tied, dtype, files):
    """Writes a folder's weight files and their recipe. files: {file name: [(tensor name, shape)]}."""
    recipe = {"seed": seed, "tag": tag, "tied": tied, "dtype": dtype, "files": []}
    for name, tensors in files.items():
        entry = {"file": name, "tensors": [[n, list(shape)] for n, shape in tensors]}
        raw = file_bytes(recipe, entry)
        (folder / name).write_bytes(raw)
        recipe["files"].append({"file": name, "sha256": hashlib.sha256(raw).hexdigest(), "tensors": entry["tensors"]})
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")


def restore(folder):
    """Writes the weight files that a folder's recipe describes. Bytes that differ from the recipe's sha256 are an error."""
    folder = Path(folder)
    recipe = json.loads((folder / RECIPE).read_text())
    for entry in recipe["files"]:
        raw = file_bytes(recipe, entry)
        if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
            raise ValueError(f"{folder / entry['file']}: the weights made here are not those of the recipe")
        (folder / entry["file"]).write_bytes(raw)
