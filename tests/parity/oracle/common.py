"""Shared by all sections: random streams by (seed, tag), JSON and safetensors writing, checksums of float tensors.

Every random number of a section comes from rng_for(seed, tag), so that sections and cases do not disturb each other.
"""

import hashlib
import json
import os
import sys
import time
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np

FIXED_NOW = datetime(2025, 7, 10, 12, 34, 56)
GREEDY_STEPS = 32


T0 = time.time()


def log(*a):
    print(f"[{time.time() - T0:7.1f}s]", *a, file=sys.stderr, flush=True)


def rng_for(seed, tag):
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(tag.encode())])


def jdump(path, obj):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(obj, ensure_ascii=False, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def sha(b):
    return hashlib.sha256(b).hexdigest()


def st_save(path, tensors, meta=None):
    from safetensors.numpy import save_file

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, str(path), metadata=meta)
    os.chmod(path, 0o644)


def stats(x):
    """Order-independent checksums of a float tensor, computed in float64."""
    a = np.asarray(x, dtype=np.float64).ravel()
    n = a.size
    idx = sorted({0, 1, n // 3, n // 2, (2 * n) // 3, n - 2, n - 1} & set(range(n)))
    return {
        "shape": list(np.asarray(x).shape),
        "mean": a.mean(),
        "std": a.std(),
        "l2": float(np.sqrt((a * a).sum())),
        "min": a.min(),
        "max": a.max(),
        "at": {str(i): a[i] for i in idx},
    }
